//! The desktop's keyring (the Secret Service of freedesktop.org), by way of `secret-tool` of libsecret, as git's credential helpers
//! have it: a client of its own would bring D-Bus and some sixty crates into a program that mostly runs without a desktop.
//!
//! The secret goes through a pipe: arguments are seen by all users of a machine.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const PROGRAM: &str = "secret-tool";

/// Why there is no keyring to be used here, if there is none.
pub fn missing() -> Option<String> {
    program().err()
}

/// The program's whole name: never one that lies in the current folder by chance.
fn program() -> Result<PathBuf, String> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let bus = set("DBUS_SESSION_BUS_ADDRESS").is_some()
        || set("XDG_RUNTIME_DIR").is_some_and(|folder| Path::new(&folder).join("bus").exists());
    if !bus {
        return Err("there is no session bus".into());
    }
    let path = set("PATH").unwrap_or_default();
    let mut places =
        std::env::split_paths(&path).filter(|folder| folder.is_absolute()).map(|folder| folder.join(PROGRAM));
    places
        .find(|file| file.is_file())
        .ok_or_else(|| format!("the program `{PROGRAM}` (package libsecret-tools) is not installed"))
}

/// Keeps a secret under a name, in place of what was there. `Err` says why not.
pub fn store(account: &str, secret: &str) -> Result<(), String> {
    ran(&["store", "--label=V-Sekai login", "service", "vsekai", "account", account], Some(secret)).map(|_| ())
}

/// The secret of this name, if there is one.
pub fn lookup(account: &str) -> Result<Option<String>, String> {
    ran(&["lookup", "service", "vsekai", "account", account], None)
}

/// Forgets the secret of this name.
pub fn clear(account: &str) -> Result<(), String> {
    ran(&["clear", "service", "vsekai", "account", account], None).map(|_| ())
}

/// What it prints. It ends with 1 and says nothing when there is no such secret; with 1 and a reason when it failed.
fn ran(arguments: &[&str], secret: Option<&str>) -> Result<Option<String>, String> {
    let not_run = |error: io::Error| format!("`{PROGRAM}` cannot be run: {error}");
    let mut child = Command::new(program()?)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(not_run)?;
    if let Some(mut input) = child.stdin.take() {
        // One that ends before it has read all says itself why.
        let _ = input.write_all(secret.unwrap_or_default().as_bytes());
    }
    let output = child.wait_with_output().map_err(not_run)?;
    let said = String::from_utf8_lossy(&output.stderr);
    // One line, and nothing in it that could steer a terminal.
    let said: String = said.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if output.status.success() {
        let text = String::from_utf8(output.stdout).map_err(|_| format!("`{PROGRAM}` gives what is not UTF-8"))?;
        return Ok(Some(text).filter(|text| !text.is_empty()));
    }
    if !said.is_empty() {
        return Err(said);
    }
    if output.status.code() == Some(1) && secret.is_none() {
        return Ok(None);
    }
    Err(format!("`{PROGRAM}` fails: {}", output.status))
}
