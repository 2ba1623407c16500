//! Logging in at a real provider (npm `oidc-provider`), by redirect and by device, and what the update service makes of its tokens.

#![expect(clippy::unwrap_used, reason = "a test ends at its first surprise")]

use crate::support::{Home, Served, served};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Once;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/login")
}

/// The provider's process; it ends with this.
struct Provider {
    process: Child,
    address: String,
    _output: BufReader<ChildStdout>,
}

impl Provider {
    fn start(format: &str) -> Self {
        static INSTALLED: Once = Once::new();
        INSTALLED.call_once(|| {
            if !folder().join("node_modules/oidc-provider").exists() {
                let npm = Command::new("npm")
                    .args(["ci", "--no-audit", "--no-fund", "--ignore-scripts"])
                    .current_dir(folder())
                    .output();
                let npm = npm.expect("this test needs npm: install Node.js");
                assert!(npm.status.success(), "npm ci: {}", String::from_utf8_lossy(&npm.stderr));
            }
        });
        let mut command = Command::new("node");
        command.args(["provider.mjs", format]).current_dir(folder()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("this test needs node: install Node.js");
        let mut line = String::new();
        // Kept: the provider ends when it has something to say and nobody listens.
        let mut output = BufReader::new(child.stdout.take().unwrap());
        output.read_line(&mut line).unwrap();
        assert!(line.starts_with("http://127.0.0.1:"), "the provider does not start: {line:?}");
        Self { process: child, address: line.trim().to_owned(), _output: output }
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Logs in by redirect, `user.mjs` being the browser.
fn log_in(home: &Home, provider: &Provider, scope: &str) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vsekai"));
    command.args(["auth", "login", "--client_id", "your_client_id", "--client_secret", "your_client_secret"]);
    command.args(["--redirect_uri", "http://127.0.0.1/callback", "--scope", scope, "--issuer", &provider.address]);
    let output = home.environment(&mut command).env("BROWSER", folder().join("user.mjs")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    home.succeeds(&["auth", "token"]).trim().to_owned()
}

fn code(home: &Home, arguments: &[&str]) -> Option<i32> {
    home.run(arguments).status.code()
}

#[test]
fn redirect_refresh_and_logout() {
    let (home, provider) = (Home::new(), Provider::start("jwt"));
    assert_eq!(code(&home, &["auth", "token"]), Some(8));
    let token = log_in(&home, &provider, "openid offline_access release:write");
    assert_eq!(token.split('.').count(), 3, "{token}");
    let file = home.folder().join("home/state/tokens.json");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(home.succeeds(&["auth", "token"]).trim(), token, "a valid token is used again");
    let renewed = home.succeeds(&["auth", "token", "--renew"]);
    assert_ne!(renewed.trim(), token);
    // The refresh token was rotated, and the new one kept.
    assert_ne!(home.succeeds(&["auth", "token", "--renew"]), renewed);
    let out: serde_json::Value = serde_json::from_str(&home.succeeds(&["auth", "logout", "--json"])).unwrap();
    let from = file.to_str().unwrap();
    assert_eq!(out, serde_json::json!({ "logged_in": false, "revoked": true, "removed_from": from }));
    assert!(!file.exists());
    assert_eq!((code(&home, &["auth", "token"]), code(&home, &["auth", "logout"])), (Some(8), Some(8)));
    // No secret in the log.
    let log = home.succeeds(&["log", "view", "--json"]);
    assert!(log.contains("auth login") && !log.contains("your_client_secret") && !log.contains(&token), "{log}");
}

#[test]
fn a_device_is_allowed_elsewhere() {
    let (home, provider) = (Home::new(), Provider::start("jwt"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_vsekai"));
    command.args(["--json", "auth", "login", "--client-id", "launcher", "--device", "--issuer", &provider.address]);
    let mut login = home.environment(&mut command).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(login.stdout.take().unwrap()).lines();
    let told: serde_json::Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(told["code"].as_str().unwrap().len(), 9, "{told}");
    let user = Command::new(folder().join("user.mjs")).arg(told["open"].as_str().unwrap()).output().unwrap();
    assert!(user.status.success(), "{}", String::from_utf8_lossy(&user.stdout));
    let done: serde_json::Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!((&done["logged_in"], login.wait().unwrap().success()), (&serde_json::Value::Bool(true), true));
    assert!(done["scope"].as_str().unwrap().contains("release:write"), "{done}");
}

/// The status that the service answers to a wish to upload.
fn begin(service: &Served, token: &str) -> u16 {
    let body = format!("{{\"path\":\"packs/{}\",\"size\":5}}", "0".repeat(64));
    let head =
        format!("POST /api/uploads HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {token}\r\n");
    let request = format!("{head}content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let answer = String::from_utf8(service.raw(request.as_bytes())).unwrap();
    answer.split(' ').nth(1).unwrap().parse().unwrap()
}

#[test]
fn the_service_takes_tokens_of_the_right_provider_audience_and_scope_only() {
    let (home, provider) = (Home::new(), Provider::start("jwt"));
    home.succeeds(&["keys", "generate", "--keys", "keys", "--repository", "srv"]);
    let serve = |home: &Home, audience: &str| {
        served(home, &["--repository", "srv", "--store", "mem:", "--issuer", &provider.address, "--audience", audience])
    };
    let service = serve(&home, "urn:vsekai:updates");
    let token = log_in(&home, &provider, "openid offline_access release:write");
    assert_eq!(begin(&service, &token), 201);
    let (rest, signature) = token.rsplit_once('.').unwrap();
    let forged: String = signature.chars().map(|c| if c == 'A' { 'B' } else { 'A' }).collect();
    for wrong in [&format!("{rest}.{forged}"), &format!("{rest}."), "x", &token[1..]] {
        assert_eq!(begin(&service, wrong), 401, "{wrong}");
    }
    assert_eq!(begin(&serve(&home, "urn:another"), &token), 401);
    let unscoped = log_in(&home, &provider, "openid offline_access");
    assert_eq!(begin(&service, &unscoped), 403);
}

#[test]
fn tokens_that_only_the_provider_can_read_are_asked_for() {
    let (home, provider) = (Home::new(), Provider::start("opaque"));
    home.succeeds(&["keys", "generate", "--keys", "keys", "--repository", "srv"]);
    let mut command = Command::new(env!("CARGO_BIN_EXE_vsekai"));
    command.args(["--json", "serve", "--listen", "127.0.0.1:0", "--repository", "srv", "--store", "mem:"]);
    command
        .args(["--issuer", &provider.address, "--introspection_client", "service"])
        .env("VSEKAI_INTROSPECTION_SECRET", "service_secret");
    let service = crate::support::serving(&home, command);
    let token = log_in(&home, &provider, "openid offline_access release:write");
    assert_eq!(token.split('.').count(), 1, "{token}");
    assert_eq!((begin(&service, &token), begin(&service, &token[1..])), (201, 401));
    // A revoked token that the service has not seen before is none.
    let second = log_in(&home, &provider, "openid offline_access release:write");
    home.succeeds(&["auth", "logout"]);
    assert_eq!(begin(&service, &second), 401);
}

/// A keyring as `secret-tool` shows it: secrets are files, `locked` makes it refuse.
const SECRET_TOOL: &str = r#"#!/bin/sh
cd "$(dirname "$0")/.." || exit 9
if [ -e locked ]; then echo "secret-tool: Cannot get secret of a locked object" >&2; exit 1; fi
task=$1
while [ "$1" != account ]; do shift; done
case $task in
    store) cat > "secret-$2" ;;
    lookup) cat "secret-$2" 2> nothing ;;
    clear) rm "secret-$2" ;;
esac
"#;

/// A home whose commands find a keyring.
struct Keyring {
    home: Home,
}

impl Keyring {
    fn new() -> Self {
        let home = Home::new();
        let tool = home.folder().join("keyring/bin/secret-tool");
        std::fs::create_dir_all(tool.parent().unwrap()).unwrap();
        std::fs::write(&tool, SECRET_TOOL).unwrap();
        std::fs::set_permissions(&tool, std::fs::Permissions::from_mode(0o755)).unwrap();
        Self { home }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vsekai"));
        self.home.environment(command.args(arguments));
        let path = std::env::var("PATH").unwrap();
        let tools = self.home.folder().join("keyring/bin");
        command
            .env("PATH", format!("{}:{path}", tools.display()))
            .env("DBUS_SESSION_BUS_ADDRESS", "unix:path=/nowhere");
        command
    }

    /// Exit code, what it prints, and what it says is wrong.
    fn run(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        let output = self.command(arguments).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().trim().to_owned();
        (output.status.code(), text(output.stdout), text(output.stderr))
    }

    fn log_in(&self, provider: &Provider) -> (Option<i32>, String, String) {
        let mut command = self.command(&["auth", "login", "--client_id", "your_client_id", "--client_secret"]);
        command.args([
            "your_client_secret",
            "--redirect_uri",
            "http://127.0.0.1/callback",
            "--issuer",
            &provider.address,
        ]);
        command.args(["--scope", "openid offline_access release:write"]);
        let output = command.env("BROWSER", folder().join("user.mjs")).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().trim().to_owned();
        (output.status.code(), text(output.stdout), text(output.stderr))
    }

    fn secrets(&self) -> Vec<String> {
        let files = std::fs::read_dir(self.home.folder().join("keyring")).unwrap().map(|file| file.unwrap().path());
        let secrets = files.filter(|file| file.file_name().unwrap().to_string_lossy().starts_with("secret-"));
        secrets.map(|file| std::fs::read_to_string(file).unwrap()).collect()
    }

    fn file(&self) -> String {
        std::fs::read_to_string(self.home.folder().join("home/state/tokens.json")).unwrap()
    }

    fn lock(&self, locked: bool) {
        let file = self.home.folder().join("keyring/locked");
        if locked { std::fs::write(file, "").unwrap() } else { std::fs::remove_file(file).unwrap() }
    }
}

#[test]
fn the_login_lies_in_the_keyring_if_there_is_one() {
    let (keyring, provider) = (Keyring::new(), Provider::start("jwt"));
    let (code, told, errors) = keyring.log_in(&provider);
    assert_eq!(code, Some(0), "{errors}");
    assert!(told.ends_with("kept in the system's keyring"), "{told}");
    let token = keyring.run(&["auth", "token"]).1;
    assert!(keyring.secrets().len() == 1 && keyring.secrets()[0].contains(&token), "{:?}", keyring.secrets());
    assert!(!keyring.file().contains(&token), "the token is in the file, too");
    assert!(keyring.run(&["auth", "token", "--json"]).1.contains("\"kept_in\":\"the system's keyring\""));
    // A renewed token takes the place of the one before.
    let renewed = keyring.run(&["auth", "token", "--renew"]).1;
    assert!(renewed != token && keyring.secrets()[0].contains(&renewed));

    keyring.lock(true);
    for task in ["token", "logout"] {
        let (code, _, errors) = keyring.run(&["auth", task]);
        assert_eq!(code, Some(8), "{errors}");
        assert!(errors.contains("a locked object; unlock the keyring") && errors.lines().count() == 1, "{errors}");
    }
    keyring.lock(false);
    assert_eq!(keyring.run(&["auth", "token"]).1, renewed, "a locked keyring loses nothing");

    // Another wish moves it with the next token, and the keyring forgets it.
    keyring.run(&["config", "set", "--key", "token_store", "--value", "file"]);
    let moved = keyring.run(&["auth", "token", "--renew"]).1;
    assert!(keyring.file().contains(&moved) && keyring.secrets().is_empty(), "{:?}", keyring.secrets());
    keyring.run(&["config", "set", "--key", "token_store", "--value", "keyring"]);
    keyring.run(&["auth", "token", "--renew"]);
    assert_eq!((keyring.secrets().len(), &*keyring.file()), (1, "{\"keyring\":true}"));
    let (code, told, errors) = keyring.run(&["auth", "logout"]);
    assert_eq!((code, &*told), (Some(0), "logged out: removed from the system's keyring"), "{errors}");
    assert!(keyring.secrets().is_empty());
    assert_eq!(keyring.run(&["auth", "token"]).0, Some(8));
}

#[test]
fn a_keyring_that_takes_nothing_is_said_so_or_done_without() {
    let (keyring, provider) = (Keyring::new(), Provider::start("jwt"));
    keyring.lock(true);
    let (code, told, errors) = keyring.log_in(&provider);
    assert_eq!(code, Some(0), "{errors}");
    assert!(told.contains("tokens.json (the keyring: secret-tool: Cannot get secret of a locked object)"), "{told}");
    let token = keyring.run(&["auth", "token"]).1;
    assert!(keyring.file().contains(&token) && keyring.secrets().is_empty());
    keyring.run(&["config", "set", "--key", "token_store", "--value", "keyring"]);
    let (code, _, errors) = keyring.log_in(&provider);
    assert_eq!(code, Some(5), "{errors}");
    assert!(errors.contains("the keyring does not take the login: secret-tool: Cannot"), "{errors}");
    // Without a session bus nobody is sent to the provider first.
    let mut command = keyring.command(&["auth", "login", "--client_id", "x", "--issuer", &provider.address]);
    let output = command.env_remove("DBUS_SESSION_BUS_ADDRESS").output().unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(5) && errors.contains("there is no session bus"), "{errors}");
}
