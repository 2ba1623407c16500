//! Installation and jobs through the program itself: full and read-only disks, a repository that is not there, the daemon.

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use serde_json::Value;
use std::ffi::CString;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

/// A repository with versions of 2 MB, and a place for the launcher's own files.
struct Scene {
    folder: tempfile::TempDir,
}

fn noise(name: &str, size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    blake3::Hasher::new().update(name.as_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

impl Scene {
    fn new() -> Self {
        let scene = Self { folder: tempfile::tempdir().expect("a folder") };
        scene.publish("1");
        scene
    }

    fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    fn publish(&self, version: &str) {
        let build = self.path("build");
        std::fs::create_dir_all(build.join("data")).expect("makes");
        std::fs::write(build.join("version.txt"), version).expect("writes");
        std::fs::write(build.join("data/same.bin"), noise("same", 1 << 20)).expect("writes");
        std::fs::write(build.join("data/other.bin"), noise(version, 1 << 20)).expect("writes");
        let (build, repository) = (text(&build), text(&self.path("repository")));
        let arguments = ["version", "pack", "--client_id", "game", "--channel", "stable", "--version", version];
        ok(&self.vsekai(&[&arguments[..], &["--source", &build, "--repository", &repository]].concat()));
    }

    fn vsekai(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vsekai"));
        command.args(arguments).env("VSEKAI_HOME", self.path("home")).output().expect("starts")
    }

    fn system(&self, task: &str, root: &Path, more: &[&str]) -> Output {
        let (repository, root) = (text(&self.path("repository")), text(root));
        let arguments =
            ["system", task, "--unsigned", "--client_id", "game", "--repository", &repository, "--root", &root];
        self.vsekai(&[&arguments[..], more].concat())
    }

    fn jobs(&self, arguments: &[&str]) -> Vec<Value> {
        let output = self.vsekai(&[&["--json", "sync"], arguments].concat());
        serde_json::from_str(&ok(&output)).expect("a list of jobs")
    }

    /// How the daemon is reached.
    fn reach(&self) -> Value {
        let text = std::fs::read_to_string(self.path("home/state/daemon/daemon.json")).expect("reads");
        serde_json::from_str(&text).expect("JSON")
    }

    /// kill -9, as a power cut would do to it.
    fn kill_daemon(&self) {
        let pid = self.reach()["pid"].as_i64().expect("a number") as i32;
        let pid = rustix::process::Pid::from_raw(pid).expect("a process");
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("kills");
    }

    /// Waits until the newest job has a status.
    fn await_status(&self, status: &str) -> Value {
        let begun = Instant::now();
        loop {
            let jobs = self.jobs(&["check-status"]);
            let job = jobs.last().expect("a job").clone();
            if job["status"] == status {
                return job;
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "the job never was {status}: {job}");
        }
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        // The daemon that this test started, if it did.
        let _ = self.vsekai(&["sync", "stop"]);
    }
}

fn text(path: &Path) -> String {
    path.to_str().expect("Unicode").to_owned()
}

#[track_caller]
fn ok(output: &Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {errors}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[track_caller]
fn fails(output: &Output, code: i32, why: &str) {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{errors}");
    assert!(errors.contains(why) && errors.lines().count() == 1, "{errors} does not say {why:?} on one line");
}

/// A small disk in memory.
struct Disk(tempfile::TempDir);

impl Disk {
    fn mount(size_mib: u32) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let options = CString::new(format!("size={size_mib}m,mode=700")).expect("no zero byte");
        mount("tmpfs", folder.path(), "tmpfs", MountFlags::empty(), options.as_c_str())
            .expect("this test mounts a small tmpfs: run it as root, in a container with CAP_SYS_ADMIN");
        Self(folder)
    }

    fn read_only(&self) {
        rustix::mount::mount_remount(self.0.path(), MountFlags::RDONLY, c"").expect("remounts");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = unmount(self.0.path(), UnmountFlags::DETACH);
    }
}

#[test]
fn a_disk_that_would_be_full_is_said_so_before_anything_is_written() {
    let scene = Scene::new();
    let disk = Disk::mount(24);
    let root = disk.0.path().join("root");
    ok(&scene.system("update", &root, &[]));
    scene.publish("2");
    std::fs::write(disk.0.path().join("filler"), vec![1; 8 << 20]).expect("writes");
    fails(&scene.system("update", &root, &[]), 9, "are needed");
    assert!(!root.join("incoming").exists(), "something was written");
    assert_eq!(std::fs::read_to_string(root.join("current/version.txt")).expect("reads"), "1");
    ok(&scene.system("verify", &root, &[]));
    std::fs::remove_file(disk.0.path().join("filler")).expect("removes");
    ok(&scene.system("update", &root, &[]));
    assert_eq!(std::fs::read_to_string(root.join("current/version.txt")).expect("reads"), "2");
}

#[test]
fn a_read_only_disk_is_said_so_and_can_be_looked_at() {
    let scene = Scene::new();
    let disk = Disk::mount(24);
    let root = disk.0.path().join("root");
    ok(&scene.system("update", &root, &[]));
    scene.publish("2");
    disk.read_only();
    fails(&scene.system("update", &root, &[]), 5, "cannot be written");
    fails(&scene.vsekai(&["system", "rollback", "--root", &text(&root)]), 5, "cannot be written");
    let answer: Value = serde_json::from_str(&ok(&scene.system("check", &root, &["--json"]))).expect("JSON");
    assert_eq!((&answer["update"], &answer["offered"]), (&Value::Bool(true), &Value::String("2".into())));
    ok(&scene.system("verify", &root, &[]));
}

#[test]
fn check_says_by_its_exit_code_whether_there_is_an_update() {
    let scene = Scene::new();
    let root = scene.path("root");
    assert!(ok(&scene.system("check", &root, &["--exit-code"])).starts_with("nothing is installed, 1 is offered"));
    assert!(!root.exists(), "a check makes nothing");
    ok(&scene.system("update", &root, &[]));
    fails(&scene.system("check", &root, &["--exit_code"]), 10, "no update");
    std::fs::remove_dir_all(scene.path("repository")).expect("removes");
    fails(&scene.system("update", &root, &[]), 3, "no such folder");
    assert_eq!(std::fs::read_to_string(root.join("current/version.txt")).expect("reads"), "1");
    // An unsigned catalogue is taken from a folder only.
    let web = ["system", "update", "--unsigned", "--client_id", "game", "--repository", "http://127.0.0.1:9", "--root"];
    fails(&scene.vsekai(&[&web[..], &[&text(&root)]].concat()), 7, "must be signed");
}

#[test]
fn jobs_are_paused_resumed_and_outlive_the_daemon() {
    let scene = Scene::new();
    let (source, destination) = (text(&scene.path("repository")), text(&scene.path("root")));
    // Slow enough to be paused in its middle.
    let start = ["start", "--unsigned", "--limit_rate", "200000", "--source", &source, "--destination", &destination];
    let output = ok(&scene.vsekai(&[&["--json", "sync"], &start[..]].concat()));
    let job: Value = serde_json::from_str::<Vec<Value>>(&output).expect("a list")[0].clone();
    assert_eq!((&job["id"], &job["order"]["channel"]), (&Value::from(1), &Value::from("stable")));
    scene.await_status("running");
    scene.jobs(&["pause"]);
    assert_eq!(scene.await_status("paused")["id"], 1);
    assert!(!scene.path("root/current").exists());

    scene.kill_daemon();
    assert_eq!(scene.await_status("paused")["id"], 1);
    scene.jobs(&["resume", "--job", "1"]);
    let done = scene.await_status("done");
    assert_eq!(done["version"], "1");
    ok(&scene.system("verify", &scene.path("root"), &[]));

    // Who has no token gets nothing.
    let reach = scene.reach();
    let url = format!("http://127.0.0.1:{}/v1/jobs", reach["port"]);
    let agent = ureq::Agent::config_builder().http_status_as_error(false).build().new_agent();
    assert_eq!(agent.get(&url).call().expect("answers").status().as_u16(), 401);
    let token = format!("Bearer {}", reach["token"].as_str().expect("a text"));
    assert_eq!(agent.get(&url).header("authorization", &token).call().expect("answers").status().as_u16(), 200);
    let mode = std::fs::metadata(scene.path("home/state/daemon/daemon.json")).expect("is there");
    assert_eq!(std::os::unix::fs::MetadataExt::mode(&mode) & 0o777, 0o600);
    let url = format!("http://127.0.0.1:{}/v1/events", reach["port"]);
    let events = agent.get(&url).header("authorization", &token).call().expect("answers");
    let mut line = String::new();
    let mut reader = std::io::BufReader::new(events.into_body().into_reader());
    while !line.starts_with("data:") {
        line.clear();
        assert!(std::io::BufRead::read_line(&mut reader, &mut line).expect("reads") > 0, "no event came");
    }
    assert!(line.contains("\"status\":\"done\""), "{line}");
    fails(&scene.vsekai(&["sync", "pause", "--job", "7"]), 10, "no job 7");
}

#[test]
fn a_plain_folder_is_copied_and_a_failure_has_its_exit_code() {
    let scene = Scene::new();
    let (source, destination) = (text(&scene.path("build")), text(&scene.path("copy")));
    let start = |source: &str| {
        scene.vsekai(&["sync", "start", "--wait", "--unsigned", "--source", source, "--destination", &destination])
    };
    ok(&start(&source));
    let read = |path: &str| std::fs::read(scene.path(path)).expect("reads");
    assert!(read("copy/data/other.bin") == read("build/data/other.bin"));
    std::fs::write(scene.path("build/version.txt"), "changed").expect("writes");
    ok(&start(&source));
    assert_eq!(read("copy/version.txt"), b"changed");
    fails(&start(&text(&scene.path("missing"))), 3, "neither a folder nor a repository");
    ok(&scene.vsekai(&["sync", "stop"]));
    fails(&scene.vsekai(&["sync", "stop"]), 10, "no daemon runs");
}

#[test]
fn after_a_restart_the_unit_for_systemd_goes_on_with_what_ran() {
    let unit = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/vsekai-sync.service"));
    let unit = unit.expect("reads");
    let command = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).expect("a command");
    let (program, arguments) = command.split_once(' ').expect("arguments");
    assert!(program.ends_with("/vsekai"), "{program}");

    let scene = Scene::new();
    let (source, destination) = (text(&scene.path("repository")), text(&scene.path("root")));
    scene.jobs(&["start", "--unsigned", "--limit_rate", "400000", "--source", &source, "--destination", &destination]);
    scene.await_status("running");
    scene.kill_daemon();
    assert!(!scene.path("root/current").exists(), "the job was done too soon to show anything");
    let mut daemon = Command::new(env!("CARGO_BIN_EXE_vsekai"));
    daemon.args(arguments.split(' ')).env("VSEKAI_HOME", scene.path("home"));
    let mut daemon = daemon.spawn().expect("starts");
    let begun = Instant::now();
    while scene.reach()["pid"] != daemon.id() {
        assert!(begun.elapsed() < Duration::from_secs(60), "the unit's daemon does not say how it is reached");
        std::thread::park_timeout(Duration::from_millis(10));
    }
    assert_eq!(scene.await_status("done")["version"], "1");
    ok(&scene.system("verify", &scene.path("root"), &[]));
    // As systemd ends it.
    let pid = rustix::process::Pid::from_child(&daemon);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("ends");
    assert!(daemon.wait().expect("ends").success());
}
