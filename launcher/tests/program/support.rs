//! What tests of the program share: a home of their own, and services on loopback that end with them.

#![expect(clippy::unwrap_used, reason = "a test ends at its first surprise")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use tempfile::TempDir;

/// A folder with the launcher's own tree in it.
pub struct Home(TempDir);

impl Home {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn folder(&self) -> &Path {
        self.0.path()
    }

    /// The environment that commands see: nothing of the machine's but PATH.
    pub fn environment<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        for name in [
            "VSEKAI_KEY_PASSPHRASE",
            "VSEKAI_CLIENT_SECRET",
            "DISPLAY",
            "WAYLAND_DISPLAY",
            "BROWSER",
            "DBUS_SESSION_BUS_ADDRESS",
            "XDG_RUNTIME_DIR",
        ] {
            command.env_remove(name);
        }
        command.env("VSEKAI_HOME", self.folder().join("home")).env("NO_PROXY", "*").current_dir(self.folder())
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vsekai"));
        self.environment(command.args(arguments)).output().unwrap()
    }

    /// What it prints; it must succeed.
    pub fn succeeds(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
}

/// A running `vsekai serve`.
pub struct Served {
    child: Child,
    /// `http://127.0.0.1:PORT`.
    pub address: String,
}

/// Starts one on a free port, and waits until it listens.
pub fn served(home: &Home, arguments: &[&str]) -> Served {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vsekai"));
    command.args(["--json", "serve", "--listen", "127.0.0.1:0"]).args(arguments);
    serving(home, command)
}

/// The same with a command that is complete.
pub fn serving(home: &Home, mut command: Command) -> Served {
    let mut child = home.environment(command.stdout(Stdio::piped())).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let told: serde_json::Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line:?}: {error}"));
    Served { child, address: told["listening"].as_str().unwrap().to_owned() }
}

impl Served {
    /// Sends a request as it stands and gives the whole answer.
    pub fn raw(&self, request: &[u8]) -> Vec<u8> {
        let mut stream = TcpStream::connect(self.address.strip_prefix("http://").unwrap()).unwrap();
        stream.write_all(request).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        answer
    }

    /// GETs a path: head and body.
    pub fn get(&self, path: &str) -> String {
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        String::from_utf8_lossy(&self.raw(request.as_bytes())).into_owned()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
