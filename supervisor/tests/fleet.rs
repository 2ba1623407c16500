//! `vsekai-supervisor run --config` with real processes, asked over its command line. Every wait is for a condition, with a deadline that
//! only a defect reaches.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic where it stands")]

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const DEADLINE: Duration = Duration::from_secs(30);

/// A supervisor with a configuration, in a directory of its own.
struct Supervised {
    directory: TempDir,
    supervisor: Option<Child>,
}

/// A child that runs a shell script in the test's directory, with more keys if wanted.
fn child(name: &str, script: &str, keys: &str) -> String {
    format!("[[child]]\nname = {name:?}\ncommand = [\"sh\", \"-c\", {script:?}]\n{keys}\n")
}

#[track_caller]
fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < DEADLINE, "waited in vain for {what}");
        std::thread::yield_now();
    }
}

impl Supervised {
    /// `configuration` may begin with groups; TCP is off unless it has an `[http]` of its own.
    fn start(configuration: &str) -> Supervised {
        let directory = tempfile::tempdir().unwrap();
        let http = if configuration.contains("[http]") { "" } else { "[http]\naddress = \"\"\n" };
        fs::write(directory.path().join("supervisor.toml"), format!("{http}{configuration}")).unwrap();
        let mut supervised = Supervised { directory, supervisor: None };
        supervised.again();
        supervised
    }

    /// Starts the supervisor once more.
    fn again(&mut self) {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.path("log")).unwrap();
        let supervisor = self.command(&["run", "--seed", "1"]).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        self.supervisor = Some(supervisor);
        wait_until("the supervisor", || self.ask(&["status", "--json"]).status.success());
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vsekai-supervisor"));
        command.args(arguments).current_dir(&self.directory).stdin(Stdio::null());
        command
    }

    fn ask(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    #[track_caller]
    fn done(&self, arguments: &[&str]) -> String {
        let output = self.ask(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    fn child(&self, name: &str) -> Value {
        let board: Value = serde_json::from_str(&self.done(&["status", "--json"])).unwrap();
        board["children"].as_array().unwrap().iter().find(|child| child["name"] == name).unwrap().clone()
    }

    #[track_caller]
    fn wait_for(&self, name: &str, state: &str) -> Value {
        let mut child = Value::Null;
        wait_until(&format!("{name} to be {state}"), || {
            child = self.child(name);
            child["state"] == state
        });
        child
    }

    #[track_caller]
    fn wait_for_lines(&self, name: &str, count: usize) -> Vec<String> {
        wait_until(&format!("{count} lines in {name}"), || self.text(name).lines().count() >= count);
        self.text(name).lines().map(str::to_owned).collect()
    }

    fn pid(&self) -> i32 {
        self.supervisor.as_ref().unwrap().id().cast_signed()
    }

    fn kill_supervisor(&mut self) {
        let mut supervisor = self.supervisor.take().unwrap();
        supervisor.kill().unwrap();
        supervisor.wait().unwrap();
    }

    /// Asks the supervisor to stop and returns its exit code.
    fn stop(&mut self) -> Option<i32> {
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

fn signal(pid: i32, signal: Signal) {
    // Whoever is gone has no need of it.
    let _ = kill_process(Pid::from_raw(pid).unwrap(), signal);
}

fn id(value: &Value) -> i32 {
    i32::try_from(value.as_i64().unwrap()).unwrap()
}

/// Whether the process runs; one that has ended but was not collected does not.
fn is_running(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap().trim_start().starts_with('Z'))
}

/// Processes that were started for a child of a supervisor in this directory.
fn marked(directory: &Path) -> Vec<i32> {
    let mark = format!("VSEKAI_RUN={}/", directory.display());
    let ids = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    ids.filter(|pid: &i32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|&byte| byte == 0).any(|variable| variable.starts_with(mark.as_bytes()))
    })
    .collect()
}

/// Runs until it is told to end, and says so.
fn patient(name: &str) -> String {
    format!("trap 'echo {name} >> stopped; exit 0' TERM; echo {name} >> started; while :; do sleep 0.02; done")
}

#[test]
fn children_are_started_in_order_and_stopped_in_reverse() {
    let names = ["a", "b", "c"];
    let mut supervised = Supervised::start(&names.map(|name| child(name, &patient(name), "")).concat());
    assert_eq!(supervised.wait_for_lines("started", 3).len(), 3);
    assert_eq!(supervised.stop(), Some(0));
    assert_eq!(supervised.text("stopped"), "c\nb\na\n");
    assert!(marked(supervised.directory.path()).is_empty());
}

#[test]
fn a_probed_child_is_ready_when_it_answers_and_restarted_when_it_does_not_and_the_next_waits_for_it() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let health = format!(
        "health = {{ kind = \"tcp\", address = \"{address}\", interval_s = 0.05, timeout_s = 1, failures = 2 }}"
    );
    let supervised =
        Supervised::start(&[child("a", "exec sleep 1000", &health), child("b", &patient("b"), "")].concat());
    supervised.wait_for("a", "starting");
    assert_eq!(supervised.child("b")["state"], "queued");
    let listener = std::net::TcpListener::bind(address).unwrap();
    supervised.wait_for("b", "running");
    let before = supervised.wait_for("a", "running");
    drop(listener);
    wait_until("a restart", || supervised.child("a")["run"].as_u64() > before["run"].as_u64());
    wait_until("its report", || supervised.done(&["crashes", "a"]).contains("failed its probe 2 times"));
    assert_eq!(supervised.child("b")["restarts"], 0);
}

#[test]
fn whoever_forks_away_is_killed_before_the_restart() {
    let script = "if [ -e left ]; then exec sleep 1000; fi
        setsid sh -c 'echo $$ > left; sleep 1000 & exec sleep 1000' & while ! [ -s left ]; do :; done; exit 4";
    let supervised = Supervised::start(&child("a", script, ""));
    let left: i32 = supervised.wait_for_lines("left", 1)[0].parse().unwrap();
    wait_until("the second run", || supervised.child("a")["run"] == 2);
    assert!(!is_running(left), "started again while somebody was left");
    wait_until("one process only", || marked(supervised.directory.path()).len() == 1);
    let report = supervised.done(&["crashes", "a-1"]);
    assert!(report.contains("exited with code 4"), "{report}");
}

#[test]
fn a_killed_supervisor_finds_its_children_again_and_loses_no_line() {
    let script = "n=0; while :; do n=$((n+1)); echo line $n; sleep 0.01; done";
    let mut supervised = Supervised::start(&[child("a", script, ""), child("b", &patient("b"), "")].concat());
    let (before, stopped) = (supervised.wait_for("a", "running"), supervised.wait_for("b", "running"));
    assert!(stopped["pid"].is_number());
    supervised.done(&["stop", "b"]);
    supervised.wait_for("b", "stopped");
    for _ in 0..3 {
        supervised.kill_supervisor();
        assert!(is_running(id(&before["pid"])));
        supervised.again();
        let after = supervised.wait_for("a", "running");
        assert_eq!((&after["pid"], &after["run"]), (&before["pid"], &before["run"]));
        assert_eq!(supervised.child("b")["state"], "stopped", "what was stopped by hand stays so");
    }
    // It is no stranger: it can be stopped.
    assert_eq!(supervised.stop(), Some(0));
    assert!(!is_running(id(&before["pid"])));
    let mut next = 1;
    for line in fs::read_dir(supervised.path("state/children/a/logs"))
        .unwrap()
        .flatten()
        .flat_map(|file| fs::read_to_string(file.path()).unwrap().lines().map(str::to_owned).collect::<Vec<_>>())
    {
        if let Some((_, number)) = line.split_once(" o line ") {
            assert_eq!(number.parse(), Ok(next), "{line}");
            next += 1;
        }
    }
    assert!(next > 10, "only {next} lines");
    // A new supervisor starts all of them.
    supervised.again();
    supervised.wait_for("b", "running");
}

#[test]
fn an_end_that_nobody_saw_is_accounted_for() {
    let mut supervised =
        Supervised::start(&child("a", "while ! [ -e go ]; do sleep 0.01; done; exit 9", "restart = \"temporary\""));
    let before = supervised.wait_for("a", "running");
    supervised.kill_supervisor();
    fs::write(supervised.path("go"), "").unwrap();
    wait_until("its end", || !is_running(id(&before["pid"])) && marked(supervised.directory.path()).is_empty());
    supervised.again();
    let after = supervised.wait_for("a", "finished");
    assert_eq!((&after["reason"], &after["run"]), (&"exited with code 9".into(), &1.into()));
}

#[test]
fn a_killed_keeper_takes_its_child_along_and_leaves_nobody() {
    let script = "echo $$ >> pids; setsid sh -c 'echo $$ >> pids; exec sleep 1000' & exec sleep 1000";
    let mut supervised = Supervised::start(&child("a", script, ""));
    for round in 1..=2usize {
        let pids: Vec<i32> =
            supervised.wait_for_lines("pids", round * 2).iter().map(|pid| pid.parse().unwrap()).collect();
        let before = supervised.wait_for("a", "running");
        if round == 2 {
            // This time the keeper's parent is not the one who notices.
            supervised.kill_supervisor();
            supervised.again();
            supervised.wait_for("a", "running");
        }
        signal(id(&before["keeper_pid"]), Signal::KILL);
        wait_until("a restart", || supervised.child("a")["run"].as_u64() > before["run"].as_u64());
        assert!(pids.iter().all(|pid| !is_running(*pid)), "somebody is left");
    }
}

#[test]
fn who_outlived_supervisor_and_keeper_is_cleared_up_after() {
    let mut supervised =
        Supervised::start(&child("a", "setsid sh -c 'echo $$ >> pids; exec sleep 1000' & exec sleep 1000", ""));
    let left: i32 = supervised.wait_for_lines("pids", 1)[0].parse().unwrap();
    let before = supervised.wait_for("a", "running");
    supervised.kill_supervisor();
    signal(id(&before["keeper_pid"]), Signal::KILL);
    wait_until("the end of the child", || !is_running(id(&before["pid"])));
    assert!(is_running(left), "there is nothing to clear up");
    supervised.again();
    wait_until("the end of who was left", || !is_running(left));
    wait_until("the next run", || supervised.child("a")["run"].as_u64() > before["run"].as_u64());
}

#[test]
fn one_for_all_restarts_all() {
    let group = "[[group]]\nname = \"main\"\nstrategy = \"one-for-all\"\n";
    let mut supervised =
        Supervised::start(&[group, &child("a", &patient("a"), ""), &child("b", &patient("b"), "")].concat());
    supervised.wait_for("b", "running");
    let before = supervised.wait_for("a", "running");
    signal(id(&before["pid"]), Signal::KILL);
    let started = supervised.wait_for_lines("started", 4);
    assert_eq!(started, ["a", "b", "a", "b"]);
    assert_eq!(supervised.text("stopped"), "b\n");
    assert_eq!(supervised.stop(), Some(0));
}

#[test]
fn failing_too_often_is_quarantined_with_the_reason_until_somebody_starts_it() {
    let group = "[[group]]\nname = \"main\"\nrestarts_max = 1\n";
    let mut supervised =
        Supervised::start(&[group, &child("a", "echo run >> runs; echo 'stack backtrace:' >&2; exit 7", "")].concat());
    let down = supervised.wait_for("a", "quarantined");
    assert_eq!(down["reason"], "exited with code 7, with 1 restarts in the last 10 s already");
    wait_until("the report", || supervised.ask(&["crashes", "a-2"]).status.success());
    // Nor does a new supervisor try again.
    supervised.kill_supervisor();
    supervised.again();
    assert_eq!(supervised.child("a")["reason"], down["reason"]);
    supervised.done(&["start", "a"]);
    supervised.wait_for_lines("runs", 4);
    supervised.wait_for("a", "quarantined");
    assert_eq!(supervised.text("runs").lines().count(), 4);
    let report = supervised.done(&["crashes", "a-2"]);
    assert!(report.contains("Backtrace\n  stack backtrace:"), "{report}");
}

#[test]
fn who_cannot_be_started_says_why() {
    let directory = "[[child]]\nname = \"a\"\ncommand = [\"./not-there\"]\n[[child]]\nname = \"b\"\ncommand = [\"true\"]\ndirectory = \"nowhere\"\n";
    let supervised = Supervised::start(&format!("[[group]]\nname = \"main\"\nrestarts_max = 0\n{directory}"));
    let reason = |name: &str| supervised.wait_for(name, "quarantined")["reason"].as_str().unwrap().to_owned();
    assert!(reason("a").starts_with("could not be started: ./not-there: No such file or directory"), "{}", reason("a"));
    assert!(reason("b").contains("could not be started: cannot change to /"), "{}", reason("b"));
}

#[test]
fn limits_hold() {
    let eats = "x=$(head -c 60000000 /dev/zero | tr '\\0' x); sleep 1000; echo $x";
    let supervised = Supervised::start(
        &[
            child("a", eats, "limits = { memory_mib = 30 }\ngrace_s = 0"),
            child("b", "ulimit -n > files; exec sleep 1000", "limits = { open_files = 77 }"),
        ]
        .concat(),
    );
    assert_eq!(supervised.wait_for_lines("files", 1), ["77"]);
    wait_until("the restart", || supervised.done(&["crashes", "a"]).contains("of memory, more than 30 MiB"));
}

#[test]
fn drain_gives_a_child_its_time_and_upgrade_starts_another_program() {
    let saves =
        "trap 'echo saving; sleep 0.3; echo saved > saved; exit 0' TERM; echo up >> ups; while :; do sleep 0.02; done";
    let supervised = Supervised::start(&child("a", saves, "grace_s = 0\ndrain_timeout_s = 30"));
    supervised.wait_for_lines("ups", 1);
    supervised.done(&["drain", "a"]);
    supervised.wait_for("a", "stopped");
    assert_eq!(supervised.text("saved"), "saved\n");
    supervised.done(&["start", "a"]);
    supervised.wait_for_lines("ups", 2);
    let program = supervised.path("new-shell");
    std::os::unix::fs::symlink("/bin/sh", &program).unwrap();
    supervised.done(&["upgrade", "a", "new-shell"]);
    supervised.wait_for_lines("ups", 3);
    assert_eq!(supervised.wait_for("a", "running")["command"][0], program.to_str().unwrap());
    supervised.done(&["maintain", "main"]);
    supervised.wait_for("a", "held");
    supervised.done(&["release", "main"]);
    supervised.wait_for("a", "running");
}

#[test]
fn lines_are_kept_and_shown() {
    let supervised = Supervised::start(&child(
        "a",
        "echo out; echo err >&2; echo '{\"level\":\"WARN\",\"x\":1}'; exec sleep 1000",
        "",
    ));
    wait_until("three lines", || supervised.done(&["logs", "a"]).lines().count() >= 3);
    let lines: Vec<Value> =
        supervised.done(&["logs", "a", "--json"]).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let mut texts: Vec<(&str, &str)> =
        lines.iter().map(|line| (line["stream"].as_str().unwrap(), line["text"].as_str().unwrap())).collect();
    texts.sort_unstable();
    assert_eq!(texts[0], ("e", "err"));
    assert_eq!(texts[1].0, "o");
    assert!(lines.iter().any(|line| line["level"] == "warn" && line["fields"]["x"] == 1));
    assert_eq!(supervised.done(&["logs", "a", "-n", "1"]).lines().count(), 1);
}

#[test]
fn the_command_line_says_what_is_wrong_with_its_own_codes() {
    let mut supervised = Supervised::start(&child("a", "exec sleep 1000", ""));
    let code = |arguments: &[&str]| supervised.ask(arguments).status.code();
    assert_eq!(code(&["status"]), Some(0));
    assert_eq!(code(&["stop", "b"]), Some(1));
    assert_eq!(code(&["check"]), Some(0));
    assert_eq!(code(&["stop"]), Some(2));
    assert_eq!(code(&["status", "--config", "none.toml"]), Some(1));
    let error = |arguments: &[&str]| String::from_utf8(supervised.ask(arguments).stderr).unwrap();
    assert_eq!(error(&["stop", "b"]), "there is no child b\n");
    assert!(error(&["run"]).contains("another supervisor has the state directory"), "{}", error(&["run"]));
    fs::write(supervised.path("bad.toml"), "[[child]]\nname = \"a\"\ncommand = [\"x\"]\ngrace_s = -2\n").unwrap();
    assert!(error(&["check", "--config", "bad.toml"]).contains("bad.toml:4: `child.grace_s` is -2"));
    assert_eq!(supervised.stop(), Some(0));
    assert_eq!(supervised.ask(&["status"]).status.code(), Some(5), "nobody answers");
}

#[test]
fn detached_children_go_on() {
    let mut supervised = Supervised::start(&child("a", "exec sleep 1000", ""));
    let before = supervised.wait_for("a", "running");
    supervised.done(&["detach"]);
    let mut supervisor = supervised.supervisor.take().unwrap();
    wait_until("the supervisor's end", || supervisor.try_wait().unwrap().is_some());
    assert!(is_running(id(&before["pid"])));
    supervised.again();
    assert_eq!(supervised.wait_for("a", "running")["pid"], before["pid"]);
}
