//! `vsekai-supervisor run --config` with real processes, asked over its command line. Every wait is for a condition, with a deadline that
//! only a defect reaches.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic where it stands")]

mod journal;
mod operations;
mod supervised;

use rustix::process::Signal;
use serde_json::Value;
use std::fs;
use supervised::{Supervised, child, id, is_running, marked, patient, signal, wait_until};

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
    let told = || supervised.done(&["logs", "a"]).lines().filter(|line| line.contains("line ")).count();
    wait_until("lines of all its supervisors", || told() > 10);
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
    // Who is started first need not be the first to say so.
    let mut started = supervised.wait_for_lines("started", 4);
    started.chunks_mut(2).for_each(<[String]>::sort);
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
