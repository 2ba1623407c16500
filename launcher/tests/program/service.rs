//! The update service, attacked and interrupted: what it takes, what it refuses, and what is left of it after a kill.

#![expect(clippy::unwrap_used, reason = "a test ends at its first surprise")]

use crate::support::{Home, Served, served};
use std::fs;

const TOKEN: &str = "0123456789abcdef0123456789abcdef";
const OTHER: &str = "fedcba9876543210fedcba9876543210";

fn started(home: &Home) -> Served {
    let text = format!("{TOKEN} anna release:write release:delete\n{OTHER} bert release:write:other\n");
    fs::write(home.folder().join("tokens"), text).unwrap();
    served(
        home,
        &[
            "--repository",
            "srv",
            "--root_file",
            "studio/metadata/1.root.json",
            "--tokens",
            "tokens",
            "--store",
            "local:store",
            "--chunks",
            "castr",
        ],
    )
}

/// Status, head and body of an answer.
fn ask(service: &Served, method: &str, path: &str, token: &str, more: &str, body: &[u8]) -> (u16, String, Vec<u8>) {
    let head =
        format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {token}\r\n{more}");
    let request = [format!("{head}content-length: {}\r\n\r\n", body.len()).as_bytes(), body].concat();
    let answer = service.raw(&request);
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
    let head = String::from_utf8(answer[..end].to_vec()).unwrap().to_lowercase();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), head, answer[end + 4..].to_vec())
}

fn json(body: &[u8]) -> serde_json::Value {
    serde_json::from_slice(body).unwrap_or_else(|error| panic!("{:?}: {error}", String::from_utf8_lossy(body)))
}

fn begin(service: &Served, token: &str, path: &str, size: usize) -> (u16, serde_json::Value) {
    let wish = serde_json::json!({ "path": path, "size": size }).to_string();
    let (status, _, body) = ask(service, "POST", "/api/uploads", token, "", wish.as_bytes());
    (status, json(&body))
}

/// Packs the build as a version.
fn pack(home: &Home, version: &str, more: &[&str]) {
    let pack = ["version", "pack", "--source", "build", "--repository", "studio", "--client_id", "game", "--version"];
    home.succeeds(&[&pack[..], &[version], more].concat());
}

/// A studio with version 1.0 packed and signed.
fn studio(home: &Home) {
    let build = home.folder().join("build");
    fs::create_dir_all(&build).unwrap();
    fs::write(build.join("game"), "one").unwrap();
    home.succeeds(&["keys", "generate", "--keys", "keys", "--repository", "studio"]);
    pack(home, "1.0", &["--channel", "stable"]);
    home.succeeds(&["version", "sign", "--repository", "studio", "--keys", "keys"]);
}

fn upload(home: &Home, service: &Served, token: &str) -> (Option<i32>, String) {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_vsekai"));
    command.args(["version", "upload", "--file", "studio", "--service", &service.address]).env("VSEKAI_TOKEN", token);
    let output = home.environment(&mut command).output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn an_upload_goes_on_where_it_was_after_the_service_was_killed() {
    let home = Home::new();
    studio(&home);
    let bytes: Vec<u8> = (0..300_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let path = format!("packs/{}", blake3::hash(&bytes).to_hex());
    let service = started(&home);
    let (status, standing) = begin(&service, TOKEN, &path, bytes.len());
    assert_eq!((status, &standing["offset"]), (201, &0.into()));
    let at = format!("/api/uploads/{}", standing["id"].as_str().unwrap());
    let (status, _, body) = ask(&service, "PATCH", &at, TOKEN, "upload-offset: 0\r\n", &bytes[..100_000]);
    assert_eq!((status, json(&body)["offset"].as_u64()), (200, Some(100_000)));
    drop(service);

    let service = started(&home);
    // Another user neither sees nor continues it.
    assert_eq!(ask(&service, "GET", &at, OTHER, "", b"").0, 404);
    let (status, _, body) = ask(&service, "PATCH", &at, TOKEN, "upload-offset: 0\r\n", &bytes);
    assert_eq!((status, json(&body)["offset"].as_u64()), (409, Some(100_000)));
    assert_eq!(begin(&service, TOKEN, &path, bytes.len()).1["offset"], 100_000);
    let (status, _, body) = ask(&service, "PATCH", &at, TOKEN, "upload-offset: 100000\r\n", &bytes[100_000..]);
    assert_eq!((status, &json(&body)["complete"]), (200, &true.into()));
    assert_eq!(begin(&service, TOKEN, &path, bytes.len()).0, 200, "it is there");

    let (status, head, body) = ask(&service, "GET", &format!("/{path}"), "", "range: bytes=10-19\r\n", b"");
    assert_eq!((status, &*body), (206, &bytes[10..20]));
    assert!(
        head.contains("cache-control: public, max-age=31536000, immutable")
            && head.contains("content-range: bytes 10-19/300000"),
        "{head}"
    );
    let etag = head.lines().find(|line| line.starts_with("etag: ")).unwrap().trim_start_matches("etag: ");
    assert_eq!(ask(&service, "GET", &format!("/{path}"), "", &format!("if-none-match: {etag}\r\n"), b"").0, 304);
}

#[test]
fn what_is_not_what_it_says_is_refused_by_name() {
    let home = Home::new();
    studio(&home);
    let service = started(&home);
    let name = "0".repeat(64);
    let (_, standing) = begin(&service, TOKEN, &format!("packs/{name}"), 5);
    let at = format!("/api/uploads/{}", standing["id"].as_str().unwrap());
    let (status, _, body) = ask(&service, "PATCH", &at, TOKEN, "upload-offset: 0\r\n", b"wrong");
    assert_eq!((status, &json(&body)["error"]), (422, &"wrong_hash".into()));
    assert_eq!(ask(&service, "GET", &at, TOKEN, "", b"").0, 404, "it is forgotten");
    let (_, standing) = begin(&service, TOKEN, &format!("packs/{name}"), 5);
    let at = format!("/api/uploads/{}", standing["id"].as_str().unwrap());
    let (status, _, body) = ask(&service, "PATCH", &at, TOKEN, "upload-offset: 0\r\n", b"longer");
    assert_eq!((status, &json(&body)["error"]), (413, &"too_long".into()));
    for (path, size) in [
        ("packs/../../x", 5),
        ("metadata/timestamp.json", 5),
        (&*format!("packs/{name}"), 0),
        (&*format!("packs/{name}"), 65 << 20),
    ] {
        assert_eq!(begin(&service, TOKEN, path, size).0, 400, "{path} {size}");
    }
    for (token, status) in [("", 401), ("x", 401), (OTHER, 201)] {
        assert_eq!(begin(&service, token, &format!("packs/{name}"), 5).0, status, "{token}");
    }
    // A casync store stands beside the tree, read only.
    let chunk = format!("/chunks/0000/{name}.cacnk");
    assert_eq!(
        (ask(&service, "GET", &chunk, "", "", b"").0, ask(&service, "PUT", &chunk, TOKEN, "", b"x").0),
        (404, 400)
    );
    // Escaped, doubled, hidden: only a repository's own files are served.
    for path in
        ["/../tokens", "/metadata/..%2f..%2ftokens", "/.uploads/", "/%2e%2e/tokens", "//etc/passwd", "/metadata/"]
    {
        assert_eq!(ask(&service, "GET", path, "", "", b"").0, 404, "{path}");
    }
    let huge = format!("{{\"files\":{{\"a\":\"{}\"}}}}", "A".repeat(25 << 20));
    let refused = std::panic::catch_unwind(|| ask(&service, "POST", "/api/publish", TOKEN, "", huge.as_bytes()).0);
    // The service may hang up before all of it is sent.
    assert!(refused.is_err() || refused.is_ok_and(|status| status == 413));
    assert!(service.get("/healthz").ends_with("ok\n"));
}

#[test]
fn only_what_the_pinned_keys_signed_and_the_user_may_change_is_published() {
    let home = Home::new();
    studio(&home);
    let service = started(&home);
    // Files first: metadata that names what is not there is refused.
    let (code, said) = upload(&home, &service, OTHER);
    assert_eq!(code, Some(8), "{said}");
    assert!(said.contains("release:write is not allowed to bert for game"), "{said}");
    assert!(!home.folder().join("srv/metadata/timestamp.json").exists());
    assert_eq!(upload(&home, &service, TOKEN).0, Some(0));
    let timestamp = fs::read(home.folder().join("srv/metadata/timestamp.json")).unwrap();

    // Another studio's signatures, over the same build.
    fs::rename(home.folder().join("studio/metadata"), home.folder().join("kept")).unwrap();
    home.succeeds(&["keys", "generate", "--keys", "strange", "--repository", "studio"]);
    let (code, said) = upload(&home, &service, TOKEN);
    assert!(matches!(code, Some(7 | 11)), "{code:?}: {said}");
    assert_eq!(fs::read(home.folder().join("srv/metadata/timestamp.json")).unwrap(), timestamp);
    fs::remove_dir_all(home.folder().join("studio/metadata")).unwrap();
    fs::rename(home.folder().join("kept"), home.folder().join("studio/metadata")).unwrap();

    // A version that exists never becomes another.
    let catalogue = home.folder().join("studio/catalogue/game.json");
    let text = fs::read_to_string(&catalogue).unwrap();
    let manifest = json(text.as_bytes())["releases"][0]["manifest"]["blake3"].as_str().unwrap().to_owned();
    fs::write(home.folder().join("build/game"), "two").unwrap();
    pack(&home, "2.0", &[]);
    let second = json(&fs::read(&catalogue).unwrap())["releases"][1]["manifest"].clone();
    let mut changed = json(text.as_bytes());
    changed["releases"][0]["manifest"] = second;
    fs::write(&catalogue, changed.to_string()).unwrap();
    home.succeeds(&["version", "sign", "--repository", "studio", "--keys", "keys"]);
    let (code, said) = upload(&home, &service, TOKEN);
    assert_eq!(code, Some(11), "{said}");
    assert!(said.contains("versions never change"), "{said}");
    let listed = service.get("/api/builds");
    assert!(listed.contains(&manifest) && listed.contains("\"uploaded_by\":\"anna\""), "{listed}");
}

#[test]
fn a_flood_is_held_back_and_told_when_to_come_again() {
    let home = Home::new();
    studio(&home);
    let service = served(
        &home,
        &[
            "--repository",
            "srv",
            "--root_file",
            "studio/metadata/1.root.json",
            "--store",
            "mem:",
            "--requests_per_second",
            "0.5",
        ],
    );
    let answers: Vec<_> = (0..8).map(|_| ask(&service, "GET", "/api/builds", "", "", b"")).collect();
    let refused: Vec<_> = answers.iter().filter(|(status, ..)| *status == 429).collect();
    // Five at once are allowed.
    assert_eq!((answers[4].0, refused.is_empty()), (200, false));
    assert!(refused[0].1.contains("retry-after: "), "{}", refused[0].1);
}

#[test]
fn the_openapi_document_names_every_route() {
    let home = Home::new();
    studio(&home);
    let service = started(&home);
    let (status, head, body) = ask(&service, "GET", "/openapi.json", "", "", b"");
    assert_eq!((status, head.contains("content-type: application/json")), (200, true));
    for (path, calls) in json(&body)["paths"].as_object().unwrap() {
        for method in calls.as_object().unwrap().keys().filter(|method| *method != "parameters") {
            let path = path.replace("{id}", &"0".repeat(32)).replace("{client_id}", "game").replace("{name}", "x");
            let (status, _, body) = ask(&service, &method.to_uppercase(), &path, TOKEN, "upload-offset: 0\r\n", b"{}");
            let unknown = String::from_utf8_lossy(&body).contains("no such call");
            assert!(
                status != 405 && status < 500 && !unknown,
                "{method} {path}: {status} {}",
                String::from_utf8_lossy(&body)
            );
        }
    }
}

#[test]
fn an_archive_is_a_build_and_replaced_metadata_goes_after_its_grace() {
    let home = Home::new();
    studio(&home);
    let service = started(&home);
    assert_eq!(upload(&home, &service, TOKEN).0, Some(0));
    fs::write(home.folder().join("build/game"), "two").unwrap();
    home.succeeds(&["sync", "tar", "--source", "build", "--catar", "game-2.catar"]);
    let publish = |file: &str, version: &str| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_vsekai"));
        let build = ["--client_id", "game", "--channel", "stable", "--version", version, "--repository", "studio"];
        command
            .args(["version", "upload", "--file", file, "--service", &service.address, "--keys", "keys"])
            .args(build);
        let output = home.environment(command.env("VSEKAI_TOKEN", TOKEN)).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    assert_eq!(publish("game-2.catar", "2.0"), (Some(0), String::new()));
    fs::write(home.folder().join("bad.catar"), &fs::read(home.folder().join("game-2.catar")).unwrap()[..200]).unwrap();
    let (code, said) = publish("bad.catar", "3.0");
    assert!(code == Some(4) && said.contains("bad.catar"), "{code:?}: {said}");
    let leftovers = fs::read_dir(home.folder().join("studio")).unwrap();
    let leftovers = leftovers.filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with(".tmp"));
    assert_eq!(leftovers.count(), 0, "the archive was left unpacked");

    let listed = |folder: &str| {
        let entries = fs::read_dir(home.folder().join("srv").join(folder)).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    let all =
        ["1.root.json", "2.snapshot.json", "2.targets.json", "3.snapshot.json", "3.targets.json", "timestamp.json"];
    assert_eq!(listed("metadata"), all);
    assert_eq!(listed("catalogue").len(), 3);
    // The service's own grace time is a day; one without any has nothing to wait for.
    assert_eq!(ask(&service, "POST", "/api/prune", TOKEN, "", b"{}").0, 200);
    assert_eq!(listed("metadata"), all);
    let address = service.address.clone();
    drop(service);
    let listen = address.strip_prefix("http://").unwrap();
    let arguments = ["--repository", "srv", "--tokens", "tokens", "--store", "local:store", "--grace_hours", "0"];
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_vsekai"));
    command.args(["--json", "serve", "--listen", listen]).args(arguments);
    let service = crate::support::serving(&home, command);
    assert_eq!(ask(&service, "POST", "/api/prune", TOKEN, "", b"{}").0, 200);
    assert_eq!(listed("metadata"), ["1.root.json", "3.snapshot.json", "3.targets.json", "timestamp.json"]);
    assert_eq!(listed("catalogue").len(), 2);
    let follow = ["--repository", &address, "--client_id", "game", "--root"];
    let root = home.folder().join("installed");
    let add = ["profile", "add", "--profile_name", "game", "--root_file", "studio/metadata/1.root.json"];
    home.succeeds(&[&add[..], &follow[..], &[root.to_str().unwrap()]].concat());
    home.succeeds(&["system", "update"]);
    assert_eq!(fs::read_to_string(root.join("current/game")).unwrap(), "two");
}

#[test]
fn behind_a_trusted_proxy_each_client_has_its_own_limit() {
    let home = Home::new();
    studio(&home);
    let few = ["--root_file", "studio/metadata/1.root.json", "--store", "mem:", "--requests_per_second", "0.1"];
    let start = |more: &[&str]| served(&home, &[&["--repository", "srv"], &few[..], more].concat());
    let from = |service: &Served, client: &str| {
        ask(service, "GET", "/api/builds", "", &format!("x-forwarded-for: {client}\r\n"), b"").0
    };
    let trusting = start(&["--trusted_proxy", "127.0.0.0/8"]);
    // One request each: ten times a tenth.
    assert_eq!((from(&trusting, "198.51.100.1"), from(&trusting, "198.51.100.1")), (200, 429));
    assert_eq!(from(&trusting, "198.51.100.2"), 200);
    assert_eq!(from(&trusting, "198.51.100.3, 198.51.100.2"), 429, "the client itself wrote the first of them");
    drop(trusting);
    let careful = start(&[]);
    assert_eq!((from(&careful, "198.51.100.1"), from(&careful, "198.51.100.2")), (200, 429));
    let wrong = home.run(&["serve", "--repository", "srv", "--trusted_proxy", "10.0.0.0/99"]);
    assert_eq!(wrong.status.code(), Some(2));
}
