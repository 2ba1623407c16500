//! A real headless Godot 4.6 that aborts itself, again and again, under a supervisor.

use std::path::PathBuf;
use std::time::Duration;
use vsekai_tests::debian::unpacked;
use vsekai_tests::harness::wait_for;
use vsekai_tests::proofs::supervise::Supervisor;

const PATIENCE: Duration = Duration::from_secs(60);

/// Lives for some frames and then aborts, as an engine with a bug does.
const SCRIPT: &str = "extends SceneTree\nvar frames := 0\n\
    func _initialize():\n\tprint(\"up with \", Engine.get_version_info().string)\n\
    func _process(_delta):\n\tframes += 1\n\tif frames == 20:\n\t\tprint(\"frame \", frames)\n\t\tOS.crash(\"a bug in the game\")\n\treturn false\n";

/// The program that `GODOT` names, or Debian's, unpacked beside the system.
fn godot() -> PathBuf {
    if let Some(named) = std::env::var_os("GODOT") {
        return named.into();
    }
    let packages = ["godot", "libgl1", "libegl1", "libgl1-mesa-dri"];
    unpacked("forky", &packages).and_then(|debian| debian.program("godot")).unwrap()
}

#[test]
fn a_godot_that_aborts_is_started_again_and_its_words_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("abort.gd"), SCRIPT).unwrap();
    let config = format!(
        "[http]\naddress = \"127.0.0.1:0\"\n[[group]]\nname = \"main\"\nrestarts_max = 1000\nwindow_s = 0.1\n\
         [[child]]\nname = \"godot\"\ncommand = [{:?}, \"--headless\", \"-s\", \"abort.gd\"]\ndirectory = {:?}\n\
         environment = {{ HOME = {:?} }}\n",
        godot(),
        folder.path(),
        folder.path()
    );
    let mut supervisor = Supervisor::start(folder.path(), &config).unwrap();
    let restarts = || supervisor.child("godot").unwrap()["restarts"].as_u64().unwrap();
    wait_for("three restarts", PATIENCE, || (restarts() >= 3).then_some(()));
    // A report is kept when everybody of the run is gone, a moment later.
    let reports = wait_for("three crash reports", PATIENCE, || {
        let reports = supervisor.get("/api/children/godot/crashes").unwrap();
        (reports.as_array().unwrap().len() >= 3).then_some(reports)
    });
    for report in reports.as_array().unwrap() {
        assert!(report["cause"].as_str().unwrap().contains("was ended by signal"), "{}", report["cause"]);
        let text = report["lines"].to_string();
        for wanted in ["up with 4.6", "frame 20", "a bug in the game"] {
            assert!(text.contains(wanted), "{wanted:?} is missing: {text}");
        }
        assert_ne!(report["backtrace"], serde_json::json!([]), "its backtrace is not found: {text}");
    }
    let lines = supervisor.get("/api/children/godot/logs?tail=1000").unwrap().to_string();
    assert!(lines.matches("up with 4.6").count() >= 3, "{lines}");
    assert_eq!(supervisor.stop().unwrap(), Some(0));
}
