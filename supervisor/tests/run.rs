//! `vsekai-supervisor run` with real processes. Every wait is for a condition, with a deadline that only a defect reaches.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic where it stands")]

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const DEADLINE: Duration = Duration::from_secs(20);

/// A supervisor running a shell script in a directory of its own.
struct Supervised {
    directory: TempDir,
    supervisor: Option<Child>,
}

impl Supervised {
    /// `options` go before the `--`; the script runs with its working directory in [`Self::path`].
    fn script(options: &[&str], script: &str) -> Self {
        Self::command(options, &["sh", "-c", script])
    }

    fn command(options: &[&str], command: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let supervisor = Command::new(env!("CARGO_BIN_EXE_vsekai-supervisor"))
            .args(["run", "--seed", "1"])
            .args(options)
            .arg("--")
            .args(command)
            .current_dir(&directory)
            .stdout(fs::File::create(directory.path().join("stdout")).unwrap())
            .stderr(fs::File::create(directory.path().join("stderr")).unwrap())
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        Self { directory, supervisor: Some(supervisor) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// Waits for a file to hold at least this many lines.
    fn wait_for_lines(&self, name: &str, count: usize) -> Vec<String> {
        let lines = || self.text(name).lines().map(str::to_owned).collect::<Vec<_>>();
        wait_until(&format!("{count} lines in {name}"), || lines().len() >= count);
        lines()
    }

    fn pid(&self) -> Pid {
        Pid::from_child(self.supervisor.as_ref().unwrap())
    }

    fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// Waits for the supervisor's end and returns its exit code.
    fn exit_code(&mut self) -> Option<i32> {
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
        // Only after a failed test: the supervisor stops its command, but must not be waited for in vain.
        if let Some(mut supervisor) = self.supervisor.take() {
            let children = children(Pid::from_child(&supervisor));
            let _ = supervisor.kill();
            let _ = supervisor.wait();
            for child in children {
                let _ = kill_process_group(Pid::from_raw(child).unwrap(), Signal::KILL);
            }
        }
    }
}

#[track_caller]
fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < DEADLINE, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn children(process: Pid) -> Vec<i32> {
    let id = process.as_raw_nonzero();
    let listed = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
    listed.split_ascii_whitespace().map(|child| child.parse().unwrap()).collect()
}

/// Whether the process runs; one that has ended but was not collected does not.
fn is_running(process: &str) -> bool {
    fs::read_to_string(Path::new("/proc").join(process).join("stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap().trim_start().starts_with('Z'))
}

#[test]
fn success_ends_it_and_output_is_forwarded_unchanged() {
    let mut supervised = Supervised::script(&[], "printf 'a\\0b\\n'; printf 'to stderr\\n' >&2; cat");
    assert_eq!(supervised.exit_code(), Some(0));
    assert_eq!(supervised.text("stdout"), "a\0b\n");
    assert!(supervised.text("stderr").lines().any(|line| line == "to stderr"), "{}", supervised.text("stderr"));
}

#[test]
fn failures_by_code_and_by_signal_are_restarted_until_success() {
    let script = "echo run >> runs; case $(wc -l < runs) in 1) exit 9;; 2) kill -SEGV $$;; *) exit 0;; esac";
    let mut supervised = Supervised::script(&[], script);
    assert_eq!(supervised.exit_code(), Some(0));
    assert_eq!(supervised.text("runs").lines().count(), 3);
    let log = supervised.text("stderr");
    assert!(log.contains("exited with code 9; starting it again"), "{log}");
    assert!(log.contains("was ended by signal 11 (SIGSEGV); starting it again"), "{log}");
}

#[test]
fn failing_too_often_is_quarantined_with_the_reason() {
    let mut supervised = Supervised::script(&["--max-restarts", "2"], "echo run >> runs; exit 7");
    assert_eq!(supervised.exit_code(), Some(3));
    assert_eq!(supervised.text("runs").lines().count(), 3);
    let log = supervised.text("stderr");
    let reason = "quarantined: the command exited with code 7, with 2 restarts in the last 10 s already";
    assert_eq!(log.matches(reason).count(), 1, "{log}");
}

#[test]
fn a_command_that_cannot_be_started_is_quarantined_with_the_reason() {
    let mut supervised = Supervised::command(&["--max-restarts", "1"], &["./not-there"]);
    assert_eq!(supervised.exit_code(), Some(3));
    let log = supervised.text("stderr");
    assert!(log.contains("quarantined: the command could not be started: No such file or directory"), "{log}");
}

#[test]
fn sigterm_reaches_the_whole_group() {
    let script = "
        sh -c 'trap \"echo child >> stopped; exit 0\" TERM; echo child >> ready; while :; do sleep 0.02; done' &
        trap 'wait; echo leader >> stopped; exit 3' TERM
        echo leader >> ready
        while :; do sleep 0.02; done";
    let mut supervised = Supervised::script(&[], script);
    supervised.wait_for_lines("ready", 2);
    supervised.signal(Signal::TERM);
    assert_eq!(supervised.exit_code(), Some(0), "its code on the way out does not matter");
    let mut stopped = supervised.wait_for_lines("stopped", 2);
    stopped.sort();
    assert_eq!(stopped, ["child", "leader"]);
}

#[test]
fn sigint_is_passed_on_as_sigint() {
    let script = "
        trap 'echo INT > got; exit 0' INT
        trap 'echo TERM > got; exit 0' TERM
        echo > ready
        while :; do sleep 0.02; done";
    let mut supervised = Supervised::script(&[], script);
    supervised.wait_for_lines("ready", 1);
    supervised.signal(Signal::INT);
    assert_eq!(supervised.exit_code(), Some(0));
    assert_eq!(supervised.text("got"), "INT\n");
}

#[test]
fn who_outlives_the_leader_has_the_grace_time() {
    // The leader dies of the signal at once; the server behind it needs a moment to save.
    let script = "
        sh -c 'trap \"sleep 0.3; echo saved > saved; exit 0\" TERM; echo > ready; while :; do sleep 0.02; done' &
        while :; do sleep 0.02; done";
    let mut supervised = Supervised::script(&["--grace-s", "15"], script);
    supervised.wait_for_lines("ready", 1);
    let begun = Instant::now();
    supervised.signal(Signal::TERM);
    assert_eq!(supervised.exit_code(), Some(0));
    assert_eq!(supervised.text("saved"), "saved\n");
    assert!(begun.elapsed() < Duration::from_secs(10), "the grace time was waited for although nobody was left");
}

#[test]
fn who_ignores_the_signal_is_killed_with_the_whole_group() {
    let script = "
        trap '' TERM
        sh -c 'echo $$ >> pids; while :; do sleep 0.02; done' &
        echo $$ >> pids
        while :; do sleep 0.02; done";
    let mut supervised = Supervised::script(&["--grace-s", "1"], script);
    let pids = supervised.wait_for_lines("pids", 2);
    assert!(pids.iter().all(|pid| is_running(pid)));
    let begun = Instant::now();
    supervised.signal(Signal::TERM);
    assert_eq!(supervised.exit_code(), Some(4));
    assert!(begun.elapsed() >= Duration::from_secs(1), "killed before the grace time was over");
    wait_until("the end of the group", || !pids.iter().any(|pid| is_running(pid)));
}

#[test]
fn what_a_crash_leaves_behind_is_killed_before_the_restart() {
    let script = "
        if [ -e left ]; then exit 0; fi
        sleep 1000 & echo $! > left
        kill -KILL $$";
    let mut supervised = Supervised::script(&[], script);
    assert_eq!(supervised.exit_code(), Some(0));
    let left = supervised.wait_for_lines("left", 1);
    wait_until("the end of what was left", || !is_running(&left[0]));
}

#[test]
fn stop_while_waiting_ends_at_once_and_restarts_leak_nothing() {
    let mut supervised = Supervised::script(&["--max-restarts", "1000", "--within-s", "1"], "echo run >> runs; exit 1");
    let descriptors = |supervised: &Supervised| {
        fs::read_dir(format!("/proc/{}/fd", supervised.pid().as_raw_nonzero())).unwrap().count()
    };
    let announced = |supervised: &Supervised| supervised.text("stderr").matches("starting it again").count();
    wait_until("the first wait", || announced(&supervised) >= 1);
    let before = descriptors(&supervised);
    // The sixth wait is 2.5 s long at least: time to look.
    wait_until("the sixth wait", || announced(&supervised) >= 6);
    assert_eq!(descriptors(&supervised), before);
    assert_eq!(children(supervised.pid()), [], "a zombie is left");
    let begun = Instant::now();
    supervised.signal(Signal::TERM);
    assert_eq!(supervised.exit_code(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(2), "the wait was not cut short");
    assert_eq!(supervised.text("runs").lines().count(), 6);
}

#[test]
fn wrong_command_lines_are_refused_with_their_own_code() {
    let run = |arguments: &[&str]| -> Output {
        Command::new(env!("CARGO_BIN_EXE_vsekai-supervisor")).args(arguments).output().unwrap()
    };
    for arguments in [
        &["run", "true"][..],
        &["run", "--max-restarts", "1001", "--", "true"],
        &["run", "--within-s", "0", "--", "true"],
        &["run", "--grace-s", "x", "--", "true"],
        &["walk"],
        &[],
    ] {
        assert_eq!(run(arguments).status.code(), Some(2), "{arguments:?}");
    }
    let help = run(&["run", "--help"]);
    assert_eq!(help.status.code(), Some(0));
    assert!(String::from_utf8(help.stdout).unwrap().contains("3  quarantined"));
}
