//! The sample, the defaults, and what is refused.

use super::*;

fn parsed(text: &str) -> Result<Config, String> {
    parse(Path::new("/etc/vsekai/supervisor.toml"), text).map_err(|error| error.to_string())
}

#[test]
fn a_store_is_the_first_child_and_the_store_behind_the_journals() {
    let config = parsed(
        r#"
        [store]
        url = "local:db"
        [[child]]
        name = "a"
        command = ["x"]
        journal = { data = "world" }
        [[child]]
        name = "b"
        command = ["x"]
        journal = { data = "/far", store = "fdb:fdb.cluster", wait_s = 0.5 }
        "#,
    );
    let config = config.unwrap();
    let names: Vec<&str> = config.children.iter().map(|child| &child.name[..]).collect();
    assert_eq!(names, ["store", "a", "b"]);
    let [store, a, b] = &config.children[..] else { panic!("three children") };
    assert_eq!(
        store.command[1..],
        ["store", "--store", "local:/etc/vsekai/db", "--socket", "/etc/vsekai/state/store.sock"]
    );
    assert_eq!(config.groups[store.rules.group].0, "store");
    assert_ne!(store.rules.group, a.rules.group);
    let journal = |child: &ChildConfig| {
        let journal = child.journal.clone().unwrap();
        (journal.directory.display().to_string(), journal.store, journal.wait)
    };
    let said = |directory: &str, store: &str, wait_ms| {
        (directory.to_owned(), store.to_owned(), Duration::from_millis(wait_ms))
    };
    assert_eq!(journal(a), said("/etc/vsekai/world/journal", "unix:/etc/vsekai/state/store.sock", 30_000));
    assert_eq!(journal(b), said("/far/journal", "fdb:/etc/vsekai/fdb.cluster", 500));
    let alone = parsed("[[child]]\nname = \"a\"\ncommand = [\"x\"]\njournal = { data = \"w\" }\n").unwrap();
    assert_eq!(journal(&alone.children[0]), said("/etc/vsekai/w/journal", "local:/etc/vsekai/w/store", 30_000));
    assert_eq!((alone.store, alone.children[0].name == "a"), (None, true));

    let refused = |text: &str, why: &str| {
        let error = parsed(text).unwrap_err();
        assert!(error.contains(why), "{error}");
    };
    refused("[store]\nurl = \"unix:x\"\n", ":2: `store.url` is \"unix:x\", it must be local:DIR");
    refused("[store]\nurl = \"mem:\"\n[[child]]\nname = \"store\"\ncommand = [\"x\"]\n", "\"store\" a second time");
    refused("[store]\nurl = \"mem:\"\n[[group]]\nname = \"store\"\n", "needs a group of its own");
    refused(
        "[[child]]\nname = \"a\"\ncommand = [\"x\"]\njournal = { data = \"w\", store = \"mem:\" }\n",
        "`child.journal.store` is \"mem:\"",
    );
}

#[test]
fn the_sample_says_the_defaults() {
    let sample = include_str!("../../supervisor.toml");
    let config = parsed(sample).unwrap();
    let short = r#"
        [[child]]
        name = "shard-1"
        command = ["vsekai-shard", "run", "--data", "world"]
        environment = { RUST_BACKTRACE = "1" }
        directory = "."
    "#;
    assert_eq!(config, parsed(short).unwrap());
    assert_eq!(config.state_dir, Path::new("/etc/vsekai/state"));
    assert_eq!(config.children[0].rules.grace, Duration::from_secs(10));
    assert_eq!(config.groups[0].1.restarts_max, 5);
    assert_eq!(config.children[0].log, LogLimits::default());
    // Every key of the file's forms is in it, if only in a comment.
    for key in [
        "state_dir",
        "address",
        "socket",
        "token_file",
        "strategy",
        "restarts_max",
        "window_s",
        "grace_s",
        "drain_url",
        "drain_timeout_s",
        "kind",
        "url",
        "interval_s",
        "timeout_s",
        "failures",
        "start_timeout_s",
        "abort_timeout_s",
        "memory_mib",
        "open_files",
        "file_mib",
        "file_age_h",
        "files",
        "line_bytes",
        "lines_per_s",
        "crashes",
        "group",
        "restart",
        "data",
        "store",
        "wait_s",
    ] {
        let said = |line: &str| line.trim_start_matches("# ").starts_with(&format!("{key} = "));
        assert!(sample.lines().any(said), "{key} is not in the sample");
    }
}

#[test]
fn what_is_refused_is_named_with_line_key_and_what_is_allowed() {
    let child = "[[child]]\nname = \"a\"\ncommand = [\"x\"]\n";
    for (text, message) in [
        ("stat_dir = \"x\"".to_owned(), "unknown field `stat_dir`"),
        (format!("{child}grace = 1"), "unknown field `grace`"),
        (format!("{child}grace_s = -1"), ":4: `child.grace_s` is -1, it must be from 0 to 86400"),
        (format!("{child}grace_s = nan"), ":4: `child.grace_s` is NaN, it must be from 0 to 86400"),
        (format!("{child}group = \"b\""), ":4: `child.group` is none of the groups: main"),
        (
            format!("{child}restart = \"often\""),
            "unknown variant `often`, expected one of `permanent`, `transient`, `temporary`",
        ),
        (format!("{child}{child}"), ":5: `child.name` is \"a\" a second time"),
        (
            "[[child]]\nname = \"../a\"\ncommand = [\"x\"]".to_owned(),
            ":2: `child.name` is \"../a\", it must be 1 to 40 letters",
        ),
        ("[[child]]\nname = \"a\"\ncommand = []".to_owned(), ":3: `child.command` must name a program"),
        ("[[child]]\nname = \"a\"".to_owned(), "missing field `command`"),
        ("[[group]]\nname = \"a\"\nstrategy = \"all\"".to_owned(), "unknown variant `all`"),
        (
            "[[group]]\nname = \"a\"\nrestarts_max = 1001".to_owned(),
            ":3: `group.restarts_max` is 1001, it must be from 0 to 1000",
        ),
        (format!("{child}health = {{ kind = \"http\" }}"), "goes with `url`"),
        (format!("{child}health = {{ kind = \"http\", url = \"ftp://x\" }}"), "it must be http://HOST:PORT/PATH"),
        (format!("{child}health = {{ kind = \"tcp\", address = \"8080\" }}"), "it must be HOST:PORT"),
        (format!("{child}health = {{ kind = \"tcp\", address = \"a:1\", timeout_s = 0 }}"), "an answer must come"),
        (format!("{child}limits = {{ open_files = 3 }}"), "must be 0 (none) or at least 16"),
        (format!("{child}log = {{ files = 0 }}"), "`child.log.files` is 0, it must be from 1 to 1000"),
        ("[http]\naddress = \"0.0.0.0:80\"".to_owned(), ":2: `http.address` is \"0.0.0.0:80\", beyond this machine"),
        ("[http]\naddress = \"here\"".to_owned(), ":2: `http.address` is \"here\", it must be an address and port"),
        (format!("state_dir = \"{}\"\n{child}", "x".repeat(90)), ":1: `state_dir` is too long"),
    ] {
        let error = parsed(&text).expect_err(&text);
        assert!(
            error.contains(message) && error.starts_with("/etc/vsekai/supervisor.toml:"),
            "{error}\n  lacks\n{message}"
        );
    }
    assert!(parsed("[http]\naddress = \"0.0.0.0:80\"\ntoken_file = \"t\"").is_ok());
}
