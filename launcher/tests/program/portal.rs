//! `vsekai portal` from outside: a game that is a shell script is launched, kept, restarted and closed.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic where it stands")]

use serde_json::Value;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(30);

/// A home of the launcher's with one installed version, whose game is `script`.
struct Scene {
    folder: TempDir,
}

impl Scene {
    fn new(script: &str) -> Self {
        let scene = Self { folder: tempfile::tempdir().unwrap() };
        scene.install("1.0", script);
        let root = scene.root();
        let added = scene.vsekai(&[
            "profile",
            "add",
            "--profile_name",
            "test",
            "--repository",
            "/nowhere",
            "--client_id",
            "game",
            "--root",
            root.to_str().unwrap(),
        ]);
        assert!(added.status.success(), "{added:?}");
        scene
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("installation")
    }

    fn install(&self, version: &str, script: &str) {
        let folder = self.root().join("versions").join(version);
        fs::create_dir_all(folder.join("bin")).unwrap();
        let game = folder.join("bin/game");
        fs::write(&game, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&game, fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(folder.join("vsekai-launch.toml"), "program = \"bin/game\"\narguments = [\"built-in\"]\n").unwrap();
        let pointer = self.root().join("current");
        let _ = fs::remove_file(&pointer);
        symlink(format!("versions/{version}"), pointer).unwrap();
    }

    fn vsekai(&self, arguments: &[&str]) -> Output {
        let home = self.folder.path().join("home");
        Command::new(env!("CARGO_BIN_EXE_vsekai")).args(arguments).env("VSEKAI_HOME", home).output().unwrap()
    }

    #[track_caller]
    fn done(&self, arguments: &[&str]) -> Value {
        let output = self.vsekai(&[&["--json"], arguments].concat());
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    #[track_caller]
    fn refused(&self, arguments: &[&str], code: i32) -> String {
        let output = self.vsekai(arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {output:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    /// Waits until a file of the game's has these lines.
    #[track_caller]
    fn says(&self, file: &str, wanted: &str) {
        let file = self.folder.path().join(file);
        eventually(&format!("{wanted:?} in {}", file.display()), || {
            fs::read_to_string(&file).is_ok_and(|text| text == wanted)
        });
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        // Of a test that failed.
        self.vsekai(&["portal", "close", "--grace_s", "0"]);
    }
}

#[track_caller]
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "{what}");
        std::thread::yield_now();
    }
}

fn lives(pid: &Value) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(" Z"))
}

fn process(pid: &Value) -> rustix::process::Pid {
    rustix::process::Pid::from_raw(i32::try_from(pid.as_i64().unwrap()).unwrap()).unwrap()
}

/// Says what it was told, in a file two folders up, and waits for its end.
const GAME: &str = r#"trap 'echo closed >> ../../../said; exit 0' TERM
echo "$1 $2 $VSEKAI_ADDRESS $VSEKAI_SESSION" >> ../../../said
echo on standard output
while :; do sleep 0.05; done"#;

#[test]
fn a_game_is_launched_with_address_and_session_and_closed_gracefully() {
    let scene = Scene::new(GAME);
    assert!(scene.refused(&["portal", "check-status"], 10).contains("does not run"));
    let session = scene.folder.path().join("session");
    fs::write(&session, "s3cret\n").unwrap();
    let session = session.to_str().unwrap();
    let arguments =
        ["portal", "launch", "--address", "ws://127.0.0.1:1/", "--session_file", session, "--argument", "-x"];
    let running = scene.done(&arguments);
    assert_eq!((&running["state"], &running["version"]), (&"running".into(), &"1.0".into()));
    scene.says("said", "built-in -x ws://127.0.0.1:1/ s3cret\n");
    let status = scene.done(&["portal", "check-status"]);
    assert!(lives(&status["pid"]), "{status}");
    assert_eq!(status["restarts"], 0);
    assert!(scene.refused(&["portal", "launch"], 11).contains("runs already"));

    // Twice by the same words, now of a newer version.
    scene.install("1.1", GAME);
    let again = scene.done(&["portal", "restart"]);
    assert_eq!(again["version"], "1.1");
    assert_ne!(again["keeper"], status["keeper"]);
    assert!(!lives(&status["pid"]));
    let line = "built-in -x ws://127.0.0.1:1/ s3cret\n";
    scene.says("said", &format!("{line}closed\n{line}"));

    let closed = scene.done(&["portal", "close"]);
    assert_eq!(closed["state"], "stopped");
    assert!(!lives(&again["pid"]));
    assert!(scene.refused(&["portal", "close"], 10).contains("does not run"));
    let log = fs::read_dir(again["logs"].as_str().unwrap()).unwrap().flatten().next().unwrap();
    let log = fs::read_to_string(log.path()).unwrap();
    assert_eq!(log.matches(" o on standard output").count(), 2, "{log}");
}

#[test]
fn a_crash_is_the_end_unless_restarts_were_asked_for() {
    // Crashes twice, then stays.
    let script = r#"echo x >> ../../../starts
[ "$(wc -l < ../../../starts)" -le 2 ] && exit 3
while :; do sleep 0.05; done"#;
    let scene = Scene::new(script);
    scene.done(&["portal", "launch", "--restart_on_crash"]);
    scene.says("starts", "x\nx\nx\n");
    let mut status = Value::Null;
    eventually("the third to be counted", || {
        status = scene.done(&["portal", "check-status"]);
        status["restarts"] == 2
    });
    scene.done(&["portal", "close"]);

    fs::remove_file(scene.folder.path().join("starts")).unwrap();
    // It may have crashed before the launch could say that it runs.
    let launched = scene.vsekai(&["portal", "launch"]);
    assert!(matches!(launched.status.code(), Some(0 | 1)), "{launched:?}");
    eventually("its end", || {
        let output = scene.vsekai(&["--json", "portal", "check-status"]);
        let status: Value = serde_json::from_slice(&output.stdout).unwrap();
        status["state"] == "stopped" && status["outcome"].as_str().is_some_and(|outcome| outcome.contains("code 3"))
    });
    scene.says("starts", "x\n");
}

#[test]
fn who_does_not_close_in_time_is_killed_with_all_it_started() {
    let script = r#"trap '' TERM
sh -c 'trap "" TERM; echo $$ > ../../../inner; while :; do sleep 0.05; done' &
while :; do sleep 0.05; done"#;
    let scene = Scene::new(script);
    let running = scene.done(&["portal", "launch", "--grace_s", "60"]);
    let inner = scene.folder.path().join("inner");
    eventually("the inner process", || fs::read_to_string(&inner).is_ok_and(|text| text.ends_with('\n')));
    let inner: Value = fs::read_to_string(&inner).unwrap().trim().parse::<i64>().unwrap().into();
    let stat = |pid: &Value| fs::read_to_string(format!("/proc/{pid}/stat"));
    assert!(lives(&inner) && lives(&running["pid"]), "{running}: {:?}, {:?}", stat(&inner), stat(&running["pid"]));
    let closed = scene.done(&["portal", "close", "--grace_s", "0"]);
    assert!(closed["outcome"].as_str().unwrap().contains("kill"), "{closed}");
    assert!(!lives(&inner) && !lives(&running["pid"]));
}

#[test]
fn a_game_whose_keeper_was_killed_is_found_and_closed() {
    let scene = Scene::new(GAME);
    let running = scene.done(&["portal", "launch"]);
    scene.says("said", "built-in   \n");
    rustix::process::kill_process(process(&running["keeper"]), rustix::process::Signal::KILL).unwrap();
    eventually("the keeper's end", || !lives(&running["keeper"]));
    let output = scene.vsekai(&["--json", "portal", "check-status"]);
    let status: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), &status["state"]), (Some(1), &"adrift".into()));
    assert!(status["pids"].as_array().unwrap().contains(&running["pid"]), "{running} {status}");
    assert!(scene.refused(&["portal", "launch"], 11).contains("close"));
    scene.done(&["portal", "close"]);
    assert!(!lives(&running["pid"]));
    scene.done(&["portal", "launch"]);
    scene.done(&["portal", "close"]);
}

#[test]
fn what_a_build_says_stays_inside_of_it() {
    let scene = Scene::new("exit 0");
    let stated = scene.root().join("versions/1.0/vsekai-launch.toml");
    for (program, why) in
        [("/bin/sh", "beneath the build"), ("../../../x", "beneath the build"), ("bin/out", "leads out")]
    {
        let _ = symlink("/bin/sh", scene.root().join("versions/1.0/bin/out"));
        fs::write(&stated, format!("program = \"{program}\"\n")).unwrap();
        let said = scene.refused(&["portal", "launch"], 4);
        assert!(said.contains(why), "{said}");
    }
    fs::write(&stated, "programme = \"bin/game\"\n").unwrap();
    assert!(scene.refused(&["portal", "launch"], 4).contains("programme"));
    fs::remove_file(&stated).unwrap();
    assert!(scene.refused(&["portal", "launch"], 10).contains("does not say what to start"));
    assert!(scene.refused(&["portal", "launch", "--", "bin/none"], 3).contains("bin/none"));
    let empty: &Path = &scene.folder.path().join("empty");
    assert!(
        scene.refused(&["portal", "launch", "--root", empty.to_str().unwrap()], 10).contains("nothing is installed")
    );
    // What the user says may be anywhere. It ends by itself, and well.
    scene.done(&["portal", "launch", "--", "/bin/true"]);
    eventually("its end", || {
        let output = scene.vsekai(&["--json", "portal", "check-status"]);
        let status: Value = serde_json::from_slice(&output.stdout).unwrap();
        status["state"] == "stopped" && status["outcome"].as_str().is_some_and(|outcome| outcome.contains("code 0"))
    });
}
