//! Bugs that are planted into the storage on purpose, one at a time, each of which a named test must find; without them the same
//! tests must pass. The list stands in `storage/src/planted.rs`, and exists in test builds only.

use anyhow::{Context, Result, ensure};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The goal for each bug.
const TIME_MAX: Duration = Duration::from_secs(300);

/// All bugs; short: every third.
pub fn run(short: bool) -> Result<String> {
    let tests = storage_tests()?;
    let list = Command::new(&tests).args(["--exact", "planted::tests::list", "--nocapture"]).output()?;
    let list = String::from_utf8(list.stdout)?;
    // The harness's own text may stand before a line.
    let bugs: Vec<(&str, &str)> = list
        .lines()
        .filter_map(|line| line.split_once("bug ")?.1.split_once(' '))
        .step_by(if short { 3 } else { 1 })
        .collect();
    ensure!(bugs.len() >= if short { 4 } else { 10 }, "only {} bugs are listed", bugs.len());
    let names: BTreeSet<&str> = bugs.iter().map(|(_, test)| *test).collect();
    for test in &names {
        let (passed, text) = run_test(&tests, test, None)?;
        ensure!(passed, "{test} fails without a planted bug: {text}");
    }
    let mut slowest = (Duration::ZERO, "");
    for (bug, test) in &bugs {
        let began = Instant::now();
        let (passed, text) = run_test(&tests, test, Some(bug))?;
        ensure!(!passed, "{bug} is not found by {test}");
        let took = began.elapsed();
        ensure!(took < TIME_MAX, "{bug} was found only after {:.0} s", took.as_secs_f64());
        slowest = slowest.max((took, bug));
        println!("{bug}: found by {test} in {:.1} s: {text}", took.as_secs_f64());
    }
    Ok(format!(
        "{} planted bugs, each found by one of {} named tests, which pass without them; slowest {} in {:.1} s",
        bugs.len(),
        names.len(),
        slowest.1,
        slowest.0.as_secs_f64()
    ))
}

/// Runs one test; true when it passed, and the line that says why not.
fn run_test(tests: &Path, test: &str, bug: Option<&str>) -> Result<(bool, String)> {
    let mut command = Command::new(tests);
    command
        .args(["--exact", test, "--nocapture"])
        .env_remove("VSEKAI_PLANT")
        .env("RUST_BACKTRACE", "0")
        .stdin(Stdio::null());
    if let Some(bug) = bug {
        command.env("VSEKAI_PLANT", bug);
    }
    let output = command.output().with_context(|| format!("cannot run {}", tests.display()))?;
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    ensure!(said.contains("running 1 test"), "there is no test {test}");
    let mut lines = said.lines().skip_while(|line| !line.contains("panicked at")).skip(1);
    Ok((output.status.success(), lines.next().unwrap_or_default().chars().take(160).collect()))
}

/// Builds the storage's own tests, and says where they are.
fn storage_tests() -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["test", "--quiet", "--locked", "-p", "vsekai-storage", "--lib", "--no-run", "--message-format=json"]);
    let output = command.stderr(Stdio::inherit()).output().context("cannot run cargo")?;
    ensure!(output.status.success(), "the storage's tests cannot be built");
    let messages = String::from_utf8(output.stdout)?;
    let mut executables = messages.lines().filter_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        Some(PathBuf::from(message["executable"].as_str()?))
    });
    executables.next_back().context("cargo built no test program")
}
