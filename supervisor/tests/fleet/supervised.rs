//! A supervisor with a configuration, in a directory of its own, asked over its command line.

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const DEADLINE: Duration = Duration::from_secs(30);

/// A supervisor with a configuration, in a directory of its own.
pub struct Supervised {
    pub directory: TempDir,
    pub supervisor: Option<Child>,
}

/// A child that runs a shell script in the test's directory, with more keys if wanted.
pub fn child(name: &str, script: &str, keys: &str) -> String {
    format!("[[child]]\nname = {name:?}\ncommand = [\"sh\", \"-c\", {script:?}]\n{keys}\n")
}

#[track_caller]
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < DEADLINE, "waited in vain for {what}");
        std::thread::yield_now();
    }
}

impl Supervised {
    /// `configuration` may begin with groups; TCP is off unless it has an `[http]` of its own.
    pub fn start(configuration: &str) -> Supervised {
        let directory = tempfile::tempdir().unwrap();
        let http = if configuration.contains("[http]") { "" } else { "[http]\naddress = \"\"\n" };
        fs::write(directory.path().join("supervisor.toml"), format!("{http}{configuration}")).unwrap();
        let mut supervised = Supervised { directory, supervisor: None };
        supervised.again();
        supervised
    }

    /// Starts the supervisor once more.
    pub fn again(&mut self) {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.path("log")).unwrap();
        let supervisor = self.command(&["run", "--seed", "1"]).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        self.supervisor = Some(supervisor);
        wait_until("the supervisor", || self.ask(&["status", "--json"]).status.success());
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vsekai-supervisor"));
        command.args(arguments).current_dir(&self.directory).stdin(Stdio::null());
        command
    }

    pub fn ask(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    #[track_caller]
    pub fn done(&self, arguments: &[&str]) -> String {
        let output = self.ask(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// What the API answers to a GET: head and body.
    pub fn http(&self, path: &str) -> String {
        let mut stream = UnixStream::connect(self.path("state/api.sock")).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    pub fn child(&self, name: &str) -> Value {
        let board: Value = serde_json::from_str(&self.done(&["status", "--json"])).unwrap();
        board["children"].as_array().unwrap().iter().find(|child| child["name"] == name).unwrap().clone()
    }

    #[track_caller]
    pub fn wait_for(&self, name: &str, state: &str) -> Value {
        let mut child = Value::Null;
        wait_until(&format!("{name} to be {state}"), || {
            child = self.child(name);
            child["state"] == state
        });
        child
    }

    #[track_caller]
    pub fn wait_for_lines(&self, name: &str, count: usize) -> Vec<String> {
        wait_until(&format!("{count} lines in {name}"), || self.text(name).lines().count() >= count);
        self.text(name).lines().map(str::to_owned).collect()
    }

    pub fn pid(&self) -> i32 {
        self.supervisor.as_ref().unwrap().id().cast_signed()
    }

    pub fn kill_supervisor(&mut self) {
        let mut supervisor = self.supervisor.take().unwrap();
        supervisor.kill().unwrap();
        supervisor.wait().unwrap();
    }

    /// Asks the supervisor to stop and returns its exit code.
    pub fn stop(&mut self) -> Option<i32> {
        signal(self.pid(), Signal::TERM);
        let mut supervisor = self.supervisor.take().unwrap();
        let mut status = None;
        wait_until("the supervisor's end", || {
            status = supervisor.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap().code()
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        if let Some(mut supervisor) = self.supervisor.take() {
            signal(supervisor.id().cast_signed(), Signal::TERM);
            let begun = Instant::now();
            while begun.elapsed() < DEADLINE && matches!(supervisor.try_wait(), Ok(None)) {
                std::thread::yield_now();
            }
            let _ = supervisor.kill();
            let _ = supervisor.wait();
        }
        // Only what a failed test leaves.
        for pid in marked(self.directory.path()) {
            signal(pid, Signal::KILL);
        }
        if std::thread::panicking() {
            eprintln!("{}", self.text("log"));
        }
    }
}

pub fn signal(pid: i32, signal: Signal) {
    // Whoever is gone has no need of it.
    let _ = kill_process(Pid::from_raw(pid).unwrap(), signal);
}

pub fn id(value: &Value) -> i32 {
    i32::try_from(value.as_i64().unwrap()).unwrap()
}

/// Whether the process runs; one that has ended but was not collected does not.
pub fn is_running(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap().trim_start().starts_with('Z'))
}

/// Processes that were started for a child of a supervisor in this directory.
pub fn marked(directory: &Path) -> Vec<i32> {
    let mark = format!("VSEKAI_RUN={}/", directory.display());
    let ids = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    ids.filter(|pid: &i32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|&byte| byte == 0).any(|variable| variable.starts_with(mark.as_bytes()))
    })
    .collect()
}

/// Runs until it is told to end, and says so.
pub fn patient(name: &str) -> String {
    format!("trap 'echo {name} >> stopped; exit 0' TERM; echo {name} >> started; while :; do sleep 0.02; done")
}
