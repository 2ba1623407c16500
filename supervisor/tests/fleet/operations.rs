//! What operators ask for that takes a server or a changed file.

use super::supervised::{Supervised, child, signal, wait_until};
use rustix::process::Signal;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;

/// Answers each request with `status`, after it has written down its first line.
fn answer_with(status: &'static str, heard: PathBuf) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // It ends with the test's process.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = Vec::new();
            let mut byte = [0];
            while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|count| count > 0) {
                request.push(byte[0]);
            }
            let first = String::from_utf8_lossy(&request).lines().next().unwrap_or_default().to_owned();
            // Whole, or not there.
            let unfinished = heard.with_extension("new");
            fs::write(&unfinished, format!("{first}\n")).unwrap();
            fs::rename(&unfinished, &heard).unwrap();
            let _ = write!(stream, "HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        }
    });
    address
}

#[test]
fn drain_asks_over_http_and_signals_only_who_does_not_agree() {
    let folder = tempfile::tempdir().unwrap();
    let (agreed, refused) = (folder.path().join("agreed"), folder.path().join("refused"));
    let agrees = answer_with("202 Accepted", agreed.clone());
    let refuses = answer_with("503 Service Unavailable", refused.clone());
    let script = |name: &str, heard: &PathBuf| {
        format!(
            "trap 'echo signalled > {name}; exit 0' TERM; while ! [ -e {0} ]; do sleep 0.02; done; \
             [ {name} = b ] && while :; do sleep 0.02; done; echo asked > {name}",
            heard.display()
        )
    };
    let supervised = Supervised::start(
        &[
            child("a", &script("a", &agreed), &format!("drain_url = \"http://{agrees}/quit?now=1\"")),
            child("b", &script("b", &refused), &format!("drain_url = \"http://{refuses}/\"")),
        ]
        .concat(),
    );
    for name in ["a", "b"] {
        supervised.wait_for(name, "running");
        supervised.done(&["drain", name]);
        supervised.wait_for(name, "stopped");
    }
    assert_eq!(fs::read_to_string(&agreed).unwrap(), "POST /quit?now=1 HTTP/1.1\n");
    assert_eq!(supervised.text("a"), "asked\n");
    assert_eq!(fs::read_to_string(&refused).unwrap(), "POST / HTTP/1.1\n");
    assert_eq!(supervised.text("b"), "signalled\n");
    assert_eq!(supervised.child("a")["restarts"], 0);
}

#[test]
fn a_reload_counts_from_the_next_start_and_takes_no_other_children() {
    let script = "echo $SAYS >> said; exec sleep 1000";
    let supervised = Supervised::start(&child("a", script, "environment = { SAYS = \"one\" }"));
    supervised.wait_for_lines("said", 1);
    let before = supervised.wait_for("a", "running");
    let change = |from: &str, to: &str| {
        let file = supervised.path("supervisor.toml");
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.contains(from), "{text}");
        fs::write(file, text.replace(from, to)).unwrap();
    };
    change("\"one\"", "\"two\"");
    assert!(supervised.done(&["reload"]).contains("1 children have changed"));
    let after = supervised.child("a");
    assert_eq!((&after["pid"], &after["run"]), (&before["pid"], &before["run"]));
    supervised.done(&["restart", "a"]);
    assert_eq!(supervised.wait_for_lines("said", 2), ["one", "two"]);
    // By signal, too: nobody answers, but it happens.
    change("\"two\"", "\"three\"");
    signal(supervised.pid(), Signal::HUP);
    let told = || supervised.text("log").matches("1 children have changed").count();
    wait_until("the second reload", || told() == 2);
    supervised.done(&["restart", "a"]);
    assert_eq!(supervised.wait_for_lines("said", 3)[2], "three");

    change("name = \"a\"", "name = \"b\"");
    let refused = supervised.ask(&["reload"]);
    assert_eq!(refused.status.code(), Some(1));
    let text = String::from_utf8(refused.stderr).unwrap();
    assert!(text.contains("added, removed or moved"), "{text}");
    change("name = \"b\"", "nonsense = \"b\"");
    let text = String::from_utf8(supervised.ask(&["reload"]).stderr).unwrap();
    assert!(text.contains("nonsense"), "{text}");
    change("nonsense = \"b\"", "name = \"a\"");
    supervised.wait_for("a", "running");
}
