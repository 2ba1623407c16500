//! The two ways to log in.

use super::provider::{self, Provider, endpoint, form};
use super::tokens::{Place, Tokens, ask_for_place, save, take};
use crate::error::{Exit, TaskError};
use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// How long a user has in the browser.
const PATIENCE: Duration = Duration::from_secs(600);
const REQUEST_BYTES_MAX: usize = 16 << 10;
/// Between two questions whether a device is allowed, if the provider does not say (RFC 8628, 3.5).
const DEVICE_INTERVAL_SECONDS: u64 = 5;
/// Questions in a row that may stay without an answer.
const DEVICE_FAILURES_MAX: u32 = 3;

/// What a login needs.
#[derive(Clone)]
pub struct Login {
    /// Where to.
    pub provider: Provider,
    /// The provider's name for this launcher.
    pub client_id: String,
    /// If the provider gave one.
    pub client_secret: Option<String>,
    /// On loopback; port 0 or none stands for any free port.
    pub redirect_uri: String,
    /// A blank between two.
    pub scope: String,
    /// With a code that is typed in elsewhere.
    pub device: bool,
    /// Open a browser here; else its address is only shown.
    pub browser: bool,
}

/// Logs in and keeps the tokens; says where. `tell` is given what the user must do: `{"open": address}`, with `"code"` for devices.
pub fn login(login: &Login, tell: &mut dyn FnMut(&Value)) -> Result<(Tokens, Place), TaskError> {
    ask_for_place()?;
    let token_endpoint = endpoint(&login.provider.token_endpoint, "token")?;
    let mut tokens = Tokens {
        access_token: String::new(),
        refresh_token: None,
        expires: None,
        scope: login.scope.clone(),
        client_id: login.client_id.clone(),
        client_secret: login.client_secret.clone(),
        token_endpoint: token_endpoint.to_owned(),
        revocation_endpoint: login.provider.revocation_endpoint.clone(),
    };
    if login.device {
        by_device(login, &mut tokens, tell)?
    } else {
        by_redirect(login, &mut tokens, tell)?
    }
    let place = save(&tokens)?;
    tracing::info!(scope = tokens.scope, "logged in");
    Ok((tokens, place))
}

/// The token endpoint's answer to a form, with who asks.
fn ask(login: &Login, pairs: &[(&str, &str)], url: &str) -> Result<provider::Answer, TaskError> {
    let client = login.client_secret.as_deref().map(|secret| (login.client_id.as_str(), secret));
    let mut pairs = pairs.to_vec();
    if client.is_none() {
        pairs.push(("client_id", &login.client_id));
    }
    provider::post(url, client, &pairs)
}

/// Random and unguessable: 43 letters.
fn secret() -> String {
    URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>())
}

fn by_redirect(login: &Login, tokens: &mut Tokens, tell: &mut dyn FnMut(&Value)) -> Result<(), TaskError> {
    let authorization = endpoint(&login.provider.authorization_endpoint, "authorization")?;
    provider::check_address(authorization)?;
    let (listener, redirect_uri, path) = listen(&login.redirect_uri)?;
    let (state, verifier) = (secret(), secret());
    let challenge = URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, verifier.as_bytes()));
    let query = form(&[
        ("response_type", "code"),
        ("client_id", &login.client_id),
        ("redirect_uri", &redirect_uri),
        ("scope", &login.scope),
        ("state", &state),
        ("code_challenge", &challenge),
        ("code_challenge_method", "S256"),
        // Without it, providers of OpenID Connect give no refresh token.
        ("prompt", "consent"),
    ]);
    let address = format!("{authorization}{}{query}", if authorization.contains('?') { '&' } else { '?' });
    tell(&json!({ "open": address }));
    if login.browser {
        open_browser(&address);
    }
    let code = wait_for_code(&listener, &path, &state, login.provider.issuer.as_deref())?;
    let pairs = [
        ("grant_type", "authorization_code"),
        ("code", &*code),
        ("redirect_uri", &redirect_uri),
        ("code_verifier", &verifier),
    ];
    take(&ask(login, &pairs, &tokens.token_endpoint)?, tokens)
}

/// Listens where the redirect will come: its address with the port that was free, and its path.
fn listen(redirect_uri: &str) -> Result<(TcpListener, String, String), TaskError> {
    let wrong = || {
        let why = format!(
            "redirect_uri {redirect_uri:?}: it must be http://127.0.0.1, http://[::1] or http://localhost, with a port or none"
        );
        TaskError::new(Exit::Usage, why)
    };
    let rest = redirect_uri.strip_prefix("http://").ok_or_else(wrong)?;
    let (authority, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse::<u16>().map_err(|_| wrong())?),
        _ => (authority, 0),
    };
    let on = match host {
        "127.0.0.1" | "localhost" => "127.0.0.1",
        "[::1]" => "::1",
        _ => return Err(wrong()),
    };
    let taken =
        |error| TaskError::because(Exit::Busy, format!("{host}:{port}: the redirect cannot be received there"), error);
    let listener = TcpListener::bind((on, port)).map_err(taken)?;
    let port = listener.local_addr().map_err(taken)?.port();
    Ok((listener, format!("http://{host}:{port}{path}"), path.to_owned()))
}

/// Shows the address in the user's browser, if there is one to be had.
fn open_browser(address: &str) {
    let program = std::env::var("BROWSER").ok().filter(|name| !name.is_empty()).unwrap_or_else(|| "xdg-open".into());
    let quiet = std::process::Stdio::null;
    // It is shown as text anyway.
    let spawned =
        std::process::Command::new(program).arg(address).stdin(quiet()).stdout(quiet()).stderr(quiet()).spawn();
    if let Ok(mut child) = spawned {
        std::thread::spawn(move || child.wait());
    }
}

fn wait_for_code(listener: &TcpListener, path: &str, state: &str, issuer: Option<&str>) -> Result<String, TaskError> {
    let failed = |error| TaskError::because(Exit::Failed, "the redirect cannot be received", error);
    let end = Instant::now() + PATIENCE;
    listener.set_nonblocking(true).map_err(failed)?;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(TaskError::new(
                Exit::Denied,
                format!("nobody logged in within {} minutes", PATIENCE.as_secs() / 60),
            ));
        }
        match listener.accept() {
            Ok((stream, _)) => {
                // Anybody on this machine may connect: only who knows `state` is listened to.
                if let Some(query) = request(&stream, path) {
                    let of = |name: &str| query.iter().find(|(of, _)| of == name).map(|(_, value)| value.as_str());
                    if of("state") != Some(state) {
                        answer(&stream, "400 Bad Request", "This is not the answer to a login that was begun here.");
                        continue;
                    }
                    return finish(&stream, of("iss"), of("code"), of("error"), of("error_description"), issuer);
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                let mut wanted = [rustix::event::PollFd::new(listener, rustix::event::PollFlags::IN)];
                let timeout = rustix::event::Timespec { tv_sec: left.as_secs().min(60) as i64 + 1, tv_nsec: 0 };
                match rustix::event::poll(&mut wanted, Some(&timeout)) {
                    Ok(_) | Err(rustix::io::Errno::INTR) => {}
                    Err(error) => return Err(failed(error.into())),
                }
            }
            Err(error) => return Err(failed(error)),
        }
    }
}

fn finish(
    stream: &TcpStream,
    iss: Option<&str>,
    code: Option<&str>,
    error: Option<&str>,
    more: Option<&str>,
    issuer: Option<&str>,
) -> Result<String, TaskError> {
    // RFC 9207: another provider's answer must not be taken for this one's.
    if let (Some(says), Some(expected)) = (iss, issuer)
        && says.trim_end_matches('/') != expected.trim_end_matches('/')
    {
        answer(stream, "400 Bad Request", "The answer comes from another provider.");
        return Err(TaskError::new(Exit::Denied, format!("the answer comes from {says:?}, not from {expected:?}")));
    }
    match (code, error) {
        (Some(code), None) => {
            answer(stream, "200 OK", "You are logged in. This window can be closed.");
            Ok(code.to_owned())
        }
        _ => {
            answer(stream, "200 OK", "The login was refused. This window can be closed.");
            let why = [error, more].into_iter().flatten().collect::<Vec<_>>().join(": ");
            Err(TaskError::new(Exit::Denied, format!("the provider refuses the login: {why}")))
        }
    }
}

/// The query of a GET of this path; `None` after having answered anything else.
fn request(mut stream: &TcpStream, path: &str) -> Option<Vec<(String, String)>> {
    let timeout = Some(Duration::from_secs(5));
    stream
        .set_nonblocking(false)
        .and_then(|()| stream.set_read_timeout(timeout))
        .and_then(|()| stream.set_write_timeout(timeout))
        .ok()?;
    let mut bytes = Vec::new();
    let mut piece = [0; 2_048];
    while !bytes.windows(4).any(|window| window == b"\r\n\r\n") {
        let count = stream.read(&mut piece).ok().filter(|&count| count > 0)?;
        bytes.extend_from_slice(&piece[..count]);
        if bytes.len() > REQUEST_BYTES_MAX {
            return None;
        }
    }
    let text = String::from_utf8_lossy(&bytes);
    let target = text.strip_prefix("GET ")?.split(' ').next()?;
    let (at, query) = target.split_once('?').unwrap_or((target, ""));
    if at != path {
        answer(stream, "404 Not Found", "Nothing here.");
        return None;
    }
    let decode = |text: &str| percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned();
    Some(
        query
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(name, value)| (decode(name), decode(value)))
            .collect(),
    )
}

fn answer(mut stream: &TcpStream, status: &str, text: &str) {
    let page = format!(
        "<!doctype html><meta charset=utf-8><title>V-Sekai</title><body style=\"font:1.2em sans-serif;margin:4em\"><p>{text}</p>"
    );
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: text/html; charset=utf-8\r\ncontent-length: {}\r\ncache-control: no-store\r\nconnection: close\r\n\r\n",
        page.len()
    );
    // The browser may have gone; the login counts all the same.
    let _ = stream.write_all((head + &page).as_bytes());
}

fn by_device(login: &Login, tokens: &mut Tokens, tell: &mut dyn FnMut(&Value)) -> Result<(), TaskError> {
    let url = endpoint(&login.provider.device_authorization_endpoint, "device")?;
    let begun = ask(login, &[("scope", &login.scope)], url)?;
    let of = |name: &str| begun.json.get(name).and_then(Value::as_str).filter(|_| begun.status == 200);
    let (Some(device_code), Some(user_code), Some(open)) = (of("device_code"), of("user_code"), of("verification_uri"))
    else {
        return Err(TaskError::new(Exit::Denied, format!("{url}: {}", begun.refusal())));
    };
    tell(&json!({ "open": of("verification_uri_complete").unwrap_or(open), "code": user_code }));
    let seconds = |name: &str| begun.json.get(name).and_then(Value::as_u64);
    let end = Instant::now() + Duration::from_secs(seconds("expires_in").unwrap_or(600).min(PATIENCE.as_secs() * 3));
    let mut failures = 0;
    let mut interval = seconds("interval").unwrap_or(DEVICE_INTERVAL_SECONDS).clamp(1, 60);
    let grant = [("grant_type", "urn:ietf:params:oauth:grant-type:device_code"), ("device_code", device_code)];
    loop {
        std::thread::sleep(Duration::from_secs(interval));
        if Instant::now() > end {
            return Err(TaskError::new(Exit::Denied, "nobody allowed this device in time"));
        }
        let answer = match ask(login, &grant, &tokens.token_endpoint) {
            // The user is elsewhere and does not see that the network was away for a moment.
            Err(error) if error.exit == Exit::Network && failures < DEVICE_FAILURES_MAX => {
                failures += 1;
                interval = (interval * 2).min(60);
                continue;
            }
            other => other?,
        };
        failures = 0;
        match answer.json.get("error").and_then(Value::as_str) {
            Some("authorization_pending") => {}
            Some("slow_down") => interval = (interval + 5).min(60),
            _ => return take(&answer, tokens),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_are_received_on_loopback_only() {
        let (listener, address, path) = listen("http://127.0.0.1/back").unwrap();
        assert_eq!(address, format!("http://127.0.0.1:{}/back", listener.local_addr().unwrap().port()));
        assert_eq!(path, "/back");
        for wrong in ["https://127.0.0.1/", "http://0.0.0.0:1/", "http://x.example/", "http://127.0.0.1:x/", "nothing"]
        {
            assert_eq!(listen(wrong).unwrap_err().exit, Exit::Usage, "{wrong}");
        }
    }

    /// What the login makes of one request; another state than `s` is answered and waited past.
    fn received(requests: &[&str]) -> (Result<String, TaskError>, Vec<String>) {
        let (listener, address, path) = listen("http://127.0.0.1/back").unwrap();
        let at = address.strip_prefix("http://").and_then(|rest| rest.strip_suffix("/back")).unwrap().to_owned();
        let requests: Vec<String> = requests.iter().map(|of| format!("GET {of} HTTP/1.1\r\nhost: x\r\n\r\n")).collect();
        let sender = std::thread::spawn(move || {
            let send = |text: &String| {
                let mut stream = TcpStream::connect(&at).unwrap();
                stream.write_all(text.as_bytes()).unwrap();
                let mut answer = String::new();
                stream.read_to_string(&mut answer).unwrap();
                answer.lines().next().unwrap().to_owned()
            };
            requests.iter().map(send).collect::<Vec<_>>()
        });
        let code = wait_for_code(&listener, &path, "s", Some("https://i.example"));
        drop(listener);
        (code, sender.join().unwrap())
    }

    #[test]
    fn only_the_answer_to_this_login_is_taken() {
        let (code, answers) = received(&[
            "/favicon.ico",
            "/back?code=evil&state=other",
            "/back?code=a%2Fb&state=s&iss=https%3A%2F%2Fi.example",
        ]);
        assert_eq!(code.unwrap(), "a/b");
        assert_eq!(answers, ["HTTP/1.1 404 Not Found", "HTTP/1.1 400 Bad Request", "HTTP/1.1 200 OK"]);
        let refused = received(&["/back?state=s&code=a&iss=https%3A%2F%2Fevil.example"]).0.unwrap_err();
        assert_eq!((refused.exit, refused.what.contains("evil.example")), (Exit::Denied, true));
        let refused = received(&["/back?state=s&error=access_denied&error_description=not+today"]).0.unwrap_err();
        assert_eq!(
            (refused.exit, &*refused.what),
            (Exit::Denied, "the provider refuses the login: access_denied: not today")
        );
    }
}
