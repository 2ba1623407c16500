//! The studio's guide, run: every command in `docs/updates-guide.md` with the real program, and the effect of each step looked at.

#![expect(clippy::unwrap_used, reason = "a test ends at its first surprise")]

use crate::support::{Home, served};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

/// The guide's `sh` blocks, each with the heading that it stands under.
fn blocks(guide: &str) -> Vec<(String, String)> {
    let (mut heading, mut inside, mut found) = (String::new(), None, Vec::new());
    for line in guide.lines() {
        match (&mut inside, line) {
            (None, "```sh") => inside = Some(String::new()),
            (None, line) => {
                if let Some(text) = line.strip_prefix("## ") {
                    heading = text.to_owned();
                }
            }
            (Some(_), "```") => found.push((heading.clone(), inside.take().unwrap())),
            (Some(block), line) => *block += &format!("{line}\n"),
        }
    }
    assert!(inside.is_none(), "a block is not closed");
    found
}

fn read(file: &Path) -> String {
    fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

#[test]
fn the_guide_works_as_it_stands() {
    let guide = include_str!("../../docs/updates-guide.md");
    let home = Home::new();
    let at = |name: &str| home.folder().join(name);
    for (version, text) in [("1", "one"), ("2", "two")] {
        let build = at(&format!("game-{version}"));
        fs::create_dir_all(build.join("data")).unwrap();
        fs::write(build.join("game"), format!("#!/bin/sh\necho {text}\n")).unwrap();
        fs::set_permissions(build.join("game"), fs::Permissions::from_mode(0o755)).unwrap();
        // 512 KiB that both versions have, from a fixed seed.
        let mut hash = blake3::Hasher::new().update(b"guide").finalize_xof();
        let mut common = vec![0; 512 << 10];
        hash.fill(&mut common);
        fs::write(build.join("data/common.bin"), common).unwrap();
        fs::write(build.join("data/version.txt"), version).unwrap();
    }
    let token = "0123456789abcdef0123456789abcdef";
    fs::write(at("token"), token).unwrap();
    fs::write(at("tokens"), format!("{token} studio release:write release:delete\n")).unwrap();

    let mut service = None;
    let mut steps = Vec::new();
    for (heading, block) in blocks(guide) {
        if block.contains("updates.example") && service.is_none() {
            fs::copy(at("repository/metadata/1.root.json"), at("1.root.json")).unwrap();
            let served = served(
                &home,
                &["--repository", "srv", "--root_file", "1.root.json", "--tokens", "tokens", "--store", "mem:"],
            );
            service = Some(served);
        }
        let address = service.as_ref().map_or("", |service| &*service.address);
        let script = block.replace("https://updates.example", address);
        let program = Path::new(env!("CARGO_BIN_EXE_vsekai")).parent().unwrap();
        let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap());
        let mut run = Command::new("bash");
        run.args(["-euc", &script]).env("PATH", path).env("VSEKAI_TOKEN", token);
        let output = home.environment(&mut run).output().unwrap();
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{heading}:\n{script}\n{said}");
        let game = || read(&at("installed/current/game"));
        match heading.split('.').next().unwrap() {
            "1" => {
                for role in ["root", "targets", "snapshot", "timestamp"] {
                    assert!(said.contains(role), "{said}");
                }
                let keys: Vec<_> = fs::read_dir(at("keys")).unwrap().map(|of| of.unwrap()).collect();
                assert_eq!(keys.len(), 4);
                assert!(keys.iter().all(|key| key.metadata().unwrap().permissions().mode() & 0o777 == 0o600));
            }
            "2" => assert!(at("repository/metadata/2.targets.json").exists()),
            "3" if block.contains("www") => {
                let root = at("www-installed");
                let add = [
                    "profile",
                    "add",
                    "--profile_name",
                    "static",
                    "--repository",
                    "www",
                    "--client_id",
                    "game",
                    "--root_file",
                ];
                home.succeeds(&[&add[..], &["www/metadata/1.root.json", "--root", "www-installed"]].concat());
                let www = at("www").display().to_string();
                home.succeeds(&[
                    "system",
                    "update",
                    "--repository",
                    &www,
                    "--client_id",
                    "game",
                    "--root",
                    "www-installed",
                ]);
                assert!(read(&root.join("current/game")).contains("one"));
            }
            "3" => assert!(said.contains("new: game/1.0"), "{said}"),
            "4" => {
                assert!(said.contains("1.0") && said.contains("stable"), "{said}");
                assert!(game().contains("one"));
            }
            "5" => assert!(game().contains("two")),
            "6" => assert!(game().contains("one"), "{said}"),
            "7" => {
                let listed = home.succeeds(&["version", "list", "--profile", "game", "--json"]);
                let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
                let versions: Vec<_> =
                    listed["releases"].as_array().unwrap().iter().map(|of| of["version"].clone()).collect();
                assert_eq!(versions, ["1.0"]);
                let builds = service.as_ref().unwrap().get("/api/builds/game");
                assert!(builds.contains("\"removed_by\":\"studio\""), "{builds}");
                // The grace time has only begun.
                assert!(fs::read_dir(at("srv/deltas")).unwrap().count() > 0);
            }
            "8" if block.contains("rotate") => {
                assert!(at("srv/metadata/2.root.json").exists());
                assert_eq!(fs::read_dir(at("keys/retired")).unwrap().count(), 3);
            }
            "8" => {}
            other => panic!("no step {other} is looked at"),
        }
        steps.push(heading);
    }
    assert_eq!(steps.len(), 11, "{steps:?}");
    let page = service.as_ref().unwrap().get("/");
    assert!(page.contains("versions.js"), "{page}");
    let metrics = service.as_ref().unwrap().get("/metrics");
    assert!(metrics.contains("vsekai_service_publishes_total 7\n"), "{metrics}");
}
