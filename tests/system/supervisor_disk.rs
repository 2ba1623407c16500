//! A supervisor whose state lies on a full disk: its child goes on, the lines that are not kept are counted, and it is said that they
//! are missing as soon as there is room.

use std::path::Path;
use std::time::Duration;
use vsekai_tests::harness::{MemoryDisk, wait_for};
use vsekai_tests::proofs::supervise::Supervisor;

const PATIENCE: Duration = Duration::from_secs(30);

/// How far the child has counted.
fn count(folder: &Path) -> u64 {
    std::fs::read_to_string(folder.join("count")).ok().and_then(|text| text.trim().parse().ok()).unwrap_or_default()
}

#[test]
fn a_full_disk_costs_lines_and_nothing_else() {
    let disk = MemoryDisk::mount(16, false);
    let folder = tempfile::tempdir().unwrap();
    let script =
        "n=0; while :; do n=$((n+1)); echo line $n; echo $n > count.new; mv count.new count; sleep 0.005; done";
    let config = format!(
        "state_dir = {:?}\n[http]\naddress = \"127.0.0.1:0\"\n\
         [[child]]\nname = \"a\"\ncommand = [\"sh\", \"-c\", {script:?}]\ndirectory = {:?}\n",
        disk.path().join("state"),
        folder.path()
    );
    let mut supervisor = Supervisor::start(folder.path(), &config).unwrap();
    wait_for("lines", PATIENCE, || (supervisor.child("a").unwrap()["log_lines"].as_u64() > Some(20)).then_some(()));
    let before = supervisor.child("a").unwrap();

    let filler = disk.fill();
    wait_for("lost lines", PATIENCE, || (supervisor.child("a").unwrap()["log_lost"].as_u64() > Some(20)).then_some(()));
    let counted = count(folder.path());
    wait_for("the child to go on", PATIENCE, || (count(folder.path()) > counted + 20).then_some(()));
    let during = supervisor.child("a").unwrap();
    assert_eq!((&during["pid"], &during["state"]), (&before["pid"], &"running".into()));

    std::fs::remove_file(filler).unwrap();
    let kept = during["log_lines"].as_u64();
    wait_for("lines again", PATIENCE, || {
        (supervisor.child("a").unwrap()["log_lines"].as_u64() > kept.map(|kept| kept + 20)).then_some(())
    });
    let after = supervisor.child("a").unwrap();
    assert_eq!((&after["pid"], &after["restarts"]), (&before["pid"], &0.into()));
    let lines = supervisor.get("/api/children/a/logs?tail=10000").unwrap();
    let lines = lines.as_array().unwrap();
    let told: Vec<&str> =
        lines.iter().filter(|line| line["stream"] == "s").filter_map(|line| line["text"].as_str()).collect();
    assert!(told.iter().any(|text| text.contains("lines were lost") && text.contains("No space left")), "{told:?}");
    // Each number that is missing was counted, and no line is half.
    let numbers: Vec<u64> = lines
        .iter()
        .filter(|line| line["stream"] == "o")
        .map(|line| line["text"].as_str().unwrap().strip_prefix("line ").unwrap().parse().unwrap())
        .collect();
    let missing: u64 = numbers.windows(2).map(|pair| pair[1] - pair[0] - 1).sum();
    assert_eq!(Some(missing), after["log_lost"].as_u64(), "{numbers:?}");
    assert_eq!(supervisor.stop().unwrap(), Some(0));
}
