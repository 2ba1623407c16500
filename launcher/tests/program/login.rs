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
    assert_eq!(out, serde_json::json!({ "logged_in": false, "revoked": true }));
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
