//! A hostile update server against an installation: the launcher's own test of it, with more random attacks and its figures told.

use anyhow::{Context, Result, ensure};
use std::process::{Command, Stdio};

/// The test's full name.
const TEST: &str = "hostile::every_attack_is_refused_by_name";

/// Manifests with random bits changed: 300; short: 15. The named attacks are always all made.
pub fn run(short: bool) -> Result<String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["test", "--quiet", "--locked", "--workspace", "--test", "program", "--", "--exact", TEST, "--nocapture"])
        .env("VSEKAI_HOSTILE_MUTATIONS", if short { "15" } else { "300" })
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run cargo")?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "{TEST} fails: {text}");
    for line in text.lines().filter(|line| line.starts_with("refused: ")) {
        println!("{line}");
    }
    let figures = text.lines().find_map(|line| line.split_once("figures: ")).map(|(_, figures)| figures.to_owned());
    figures.with_context(|| format!("{TEST} was not run"))
}
