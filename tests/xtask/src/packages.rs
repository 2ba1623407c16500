//! What the tests need beyond Rust: Debian's packages, installed when missing.

use anyhow::{Context, Result, bail};
use std::path::Path;
use std::process::{Command, Stdio};

/// A program that tests start, and the Debian package that has it.
const NEEDED: &[(&str, &str)] = &[
    ("/usr/bin/chromium", "chromium"),
    ("/usr/bin/chromedriver", "chromium-driver"),
    // For the login provider that the launcher's tests log in at.
    ("/usr/bin/node", "nodejs"),
    ("/usr/bin/npm", "npm"),
];

/// Installs what is missing, as root; anybody else is told what to install.
///
/// # Errors
/// When something is missing and cannot be installed: the tests would not show what they are for.
pub fn ensure() -> Result<()> {
    let missing: Vec<&str> =
        NEEDED.iter().filter(|(path, _)| !Path::new(path).exists()).map(|(_, package)| *package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let by_hand = format!("apt-get install {}", missing.join(" "));
    // The owner of /proc/self is who runs this.
    let is_root = std::fs::metadata("/proc/self").map(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0);
    if !is_root.unwrap_or(false) {
        bail!("the tests need {}; install them with: sudo {by_hand}", missing.join(" and "));
    }
    println!("xtask: installing {}", missing.join(" and "));
    apt(&["update", "-qq"])?;
    let install = ["install", "-y", "-qq", "--no-install-recommends"];
    apt(&[&install[..], &missing[..]].concat()).with_context(|| format!("install them by hand: {by_hand}"))
}

fn apt(arguments: &[&str]) -> Result<()> {
    let status = Command::new("apt-get")
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .context("cannot start apt-get")?;
    if !status.success() {
        bail!("`apt-get {}` failed ({status})", arguments.join(" "));
    }
    Ok(())
}
