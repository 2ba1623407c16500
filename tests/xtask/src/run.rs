//! Running other programs from the workspace's root.

use anyhow::{Context, Result, bail};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The workspace's root.
pub fn root() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.ancestors().nth(2).unwrap_or(own).to_path_buf()
}

fn cargo_program() -> OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// Runs cargo with `arguments`, its output going where ours goes.
///
/// # Errors
/// When it cannot be started or does not end well.
pub fn cargo(arguments: &[&str]) -> Result<()> {
    println!("xtask: cargo {}", arguments.join(" "));
    let status = Command::new(cargo_program())
        .args(arguments)
        .current_dir(root())
        .stdin(Stdio::null())
        .status()
        .context("cannot start cargo")?;
    if !status.success() {
        bail!("`cargo {}` failed ({status})", arguments.join(" "));
    }
    Ok(())
}

/// Runs program `name` of the workspace, which cargo has built in the release profile or in the usual one.
///
/// # Errors
/// When it cannot be started or does not end well.
pub fn built(name: &str, release: bool, arguments: &[&str]) -> Result<()> {
    // This program lies in the folder of the usual profile.
    let own = std::env::current_exe().context("cannot tell where this program is")?;
    let profiles = own.ancestors().nth(2).context("this program lies in no folder of cargo's")?;
    let program = profiles.join(if release { "release" } else { "debug" }).join(name);
    println!("xtask: {name} {}", arguments.join(" "));
    let status = Command::new(&program)
        .args(arguments)
        .current_dir(root())
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("cannot start {}", program.display()))?;
    if !status.success() {
        bail!("`{name} {}` failed ({status})", arguments.join(" "));
    }
    Ok(())
}

/// Runs cargo and gives back what it printed on standard output.
///
/// # Errors
/// As [`cargo`].
pub fn cargo_output(arguments: &[&str]) -> Result<String> {
    let output = Command::new(cargo_program())
        .args(arguments)
        .current_dir(root())
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start cargo")?;
    if !output.status.success() {
        let printed = String::from_utf8_lossy(&output.stdout);
        bail!("`cargo {}` failed ({}): {printed}", arguments.join(" "), output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
