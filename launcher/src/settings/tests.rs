use super::*;

fn sample() -> Settings {
    let mut settings = Settings::default();
    let profile = Profile {
        repository: "https://updates.example/game".into(),
        client_id: "game".into(),
        channel: "stable".into(),
        root: "/srv/game".into(),
    };
    settings.profiles.insert("default".into(), profile);
    settings
}

fn loaded(text: &str) -> Result<Settings, String> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.toml");
    std::fs::write(&file, text).unwrap();
    Settings::load_from(&file).map_err(|error| error.what.replace(&*file.to_string_lossy(), "FILE"))
}

#[test]
fn every_key_comes_back_as_it_was_set() {
    let values = [
        ("profile", "beta_1"),
        ("bandwidth_limit", "512"),
        ("connections", "3"),
        ("token_store", "keyring"),
        ("log_level", "debug"),
        ("log_size", "2"),
        ("service", "https://s.example"),
        ("ca_file", "/etc/ca.pem"),
        ("client_certificate", "/etc/me.pem"),
        ("auth.issuer", "https://i.example"),
        ("auth.client_id", "launcher"),
        ("auth.scope", "openid release:write"),
        ("auth.redirect_uri", "http://127.0.0.1:0/back"),
        ("auth.authorization_endpoint", "https://i.example/a"),
        ("auth.token_endpoint", "https://i.example/t"),
        ("auth.device_endpoint", "https://i.example/d"),
    ];
    assert_eq!(values.map(|(key, _)| key).as_slice(), KEYS.iter().map(|key| key.name).collect::<Vec<_>>());
    let mut settings = sample();
    for (key, value) in values {
        settings.set(key, Some(value)).unwrap();
    }
    for (key, value) in [("repository", "/srv/r"), ("client_id", "g-2"), ("channel", "beta"), ("root", "/srv/g2")] {
        settings.set(&format!("profiles.default.{key}"), Some(value)).unwrap();
    }
    let read = loaded(&toml::to_string_pretty(&settings).unwrap()).unwrap();
    assert_eq!(read, settings);
    for (key, value) in values {
        assert_eq!(read.value(key).unwrap().as_deref(), Some(value), "{key}");
    }
    assert_eq!(read.profiles["default"].root, PathBuf::from("/srv/g2"));
    assert_eq!(read.value("profiles.default.channel").unwrap().as_deref(), Some("beta"));
    settings.set("connections", None).unwrap();
    assert_eq!(settings.connections, Settings::default().connections);
}

#[test]
fn what_is_not_allowed_is_refused_with_what_is() {
    let mut settings = sample();
    for (key, value, says) in [
        ("bandwith_limit", "1", "unknown key `bandwith_limit`: allowed are profile, bandwidth_limit, "),
        ("connections", "0", "must be 1 to 64"),
        ("connections", "many", "must be 1 to 64"),
        ("token_store", "attic", "auto, keyring or file"),
        ("log_level", "loud", "error, warn, info, debug or trace"),
        ("repository", "ftp://x", "https://…, http://… or the absolute path of a folder"),
        ("repository", "there", "the absolute path of a folder"),
        ("client_id", "../x", "1 to 64 of a-z, 0-9 and -"),
        ("channel", "Stable", "1 to 32 of a-z, 0-9 and -"),
        ("root", "here", "an absolute path"),
        ("profile", "a/b", "1 to 64 of A-Z"),
        ("ca_file", "ca.pem", "an absolute path"),
        ("auth.issuer", "https:///x", "an address"),
    ] {
        let refused = settings.set(key, Some(value)).unwrap_err();
        assert_eq!(refused.exit, Exit::Usage);
        assert!(refused.what.contains(says), "{key} = {value}: {}", refused.what);
        assert_eq!(settings, sample(), "{key} = {value} is refused, but changes something");
    }
    assert_eq!(settings.set("profiles.none.root", Some("/x")).unwrap_err().exit, Exit::NotFound);
    assert_eq!(settings.set("root", None).unwrap_err().exit, Exit::Usage);
}

#[test]
fn a_file_that_was_edited_wrongly_is_refused_by_its_line() {
    let unknown = loaded("connections = 2\nbandwith_limit = 3\n").unwrap_err();
    assert!(unknown.starts_with("FILE: line 2: unknown field `bandwith_limit`, expected one of"), "{unknown}");
    let out_of_range = loaded("connections = 200\n").unwrap_err();
    assert_eq!(out_of_range, "FILE: `connections` is `200`, but must be 1 to 64");
    let incomplete = loaded("[profiles.a]\nrepository = '/r'\nclient_id = 'g'\nroot = '/x'\n").unwrap_err();
    assert!(incomplete.contains("missing field `channel`"), "{incomplete}");
    assert_eq!(loaded("").unwrap(), Settings::default());
}
