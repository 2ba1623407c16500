//! The provider's endpoints, discovered (OpenID Connect Discovery 1.0, RFC 8414) or given, and requests to them.

use crate::error::{Exit, TaskError};
use crate::settings;
use crate::tls;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::io::Read;
use std::time::Duration;
use ureq::Agent;

/// Answers are small; longer ones are cut off as failures.
const ANSWER_BYTES_MAX: u64 = 256 << 10;
const TIMEOUT: Duration = Duration::from_secs(30);
/// What `application/x-www-form-urlencoded` and URLs leave as it is.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Where a provider takes which request.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provider {
    /// Its name, as tokens have it.
    #[serde(default)]
    pub issuer: Option<String>,
    /// For people, in a browser.
    #[serde(default)]
    pub authorization_endpoint: Option<String>,
    /// For tokens.
    #[serde(default)]
    pub token_endpoint: Option<String>,
    /// For devices without a browser.
    #[serde(default)]
    pub device_authorization_endpoint: Option<String>,
    /// Where tokens are made worthless.
    #[serde(default)]
    pub revocation_endpoint: Option<String>,
    /// Where a service asks what a token allows.
    #[serde(default)]
    pub introspection_endpoint: Option<String>,
    /// The keys that tokens are signed with.
    #[serde(default)]
    pub jwks_uri: Option<String>,
}

/// What an endpoint answered: status and JSON.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub json: Value,
}

impl Answer {
    /// What it says is wrong, for people: `error` and `error_description` of RFC 6749, else the status.
    pub fn refusal(&self) -> String {
        let of = |name: &str| self.json.get(name).and_then(Value::as_str);
        match (of("error"), of("error_description")) {
            (Some(error), Some(more)) => format!("{error}: {more}"),
            (Some(error), None) => error.to_owned(),
            _ => format!("status {}", self.status),
        }
    }
}

/// An HTTP client for this address that follows no redirects: none of these endpoints may send a secret elsewhere.
pub fn agent(address: &str, timeout: Option<Duration>) -> Result<Agent, TaskError> {
    let config = Agent::config_builder()
        .timeout_global(timeout)
        .timeout_connect(Some(TIMEOUT))
        .max_redirects(0)
        .http_status_as_error(false)
        .tls_config(tls::config(address)?);
    Ok(config.build().new_agent())
}

/// Name and value pairs as a form or query.
pub fn form(pairs: &[(&str, &str)]) -> String {
    let escape = |text: &str| utf8_percent_encode(text, ESCAPED).to_string();
    pairs.iter().map(|(name, value)| format!("{}={}", escape(name), escape(value))).collect::<Vec<_>>().join("&")
}

/// Refuses addresses that would carry secrets in clear: anything but https, unless it stays on this machine.
pub fn check_address(url: &str) -> Result<(), TaskError> {
    let on_loopback = |rest: &str| {
        let authority = rest.split(['/', '?', '#']).next().unwrap_or("");
        let port = ["127.0.0.1", "[::1]", "localhost"].iter().find_map(|host| authority.strip_prefix(host));
        // `http://localhost:1@evil.example` goes to evil.example.
        port.is_some_and(|port| {
            port.is_empty() || port.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok())
        })
    };
    let safe = url.starts_with("https://") || url.strip_prefix("http://").is_some_and(on_loopback);
    safe.then_some(()).ok_or_else(|| {
        TaskError::new(
            Exit::Usage,
            format!("{url}: tokens are sent by https only (http on 127.0.0.1, [::1] and localhost)"),
        )
    })
}

/// POSTs a form, with the client's secret (RFC 6749, 2.3.1) if it has one.
pub fn post(url: &str, client: Option<(&str, &str)>, pairs: &[(&str, &str)]) -> Result<Answer, TaskError> {
    check_address(url)?;
    let mut request = agent(url, Some(TIMEOUT))?.post(url).header("accept", "application/json");
    if let Some((id, secret)) = client {
        use base64::Engine as _;
        let escape = |text: &str| utf8_percent_encode(text, ESCAPED).to_string();
        let joined = format!("{}:{}", escape(id), escape(secret));
        let encoded = base64::engine::general_purpose::STANDARD.encode(joined);
        request = request.header("authorization", format!("Basic {encoded}"));
    }
    let answered = request.content_type("application/x-www-form-urlencoded").send(form(pairs));
    answer(url, answered)
}

/// GETs JSON.
pub fn get(url: &str) -> Result<Answer, TaskError> {
    check_address(url)?;
    answer(url, agent(url, Some(TIMEOUT))?.get(url).header("accept", "application/json").call())
}

fn answer(url: &str, answered: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Result<Answer, TaskError> {
    let failed = |error: ureq::Error| TaskError::because(Exit::Network, format!("{url}: no answer"), error);
    let mut response = answered.map_err(failed)?;
    let status = response.status().as_u16();
    let mut bytes = Vec::new();
    let read = response.body_mut().as_reader().take(ANSWER_BYTES_MAX + 1).read_to_end(&mut bytes);
    read.map_err(|error| TaskError::because(Exit::Network, format!("{url}: the answer broke off"), error))?;
    if bytes.len() as u64 > ANSWER_BYTES_MAX {
        return Err(TaskError::new(
            Exit::Damaged,
            format!("{url}: the answer is longer than {ANSWER_BYTES_MAX} bytes"),
        ));
    }
    // An error page is no JSON: its status says enough.
    let json = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
    Ok(Answer { status, json })
}

impl Provider {
    /// The endpoints that `issuer` publishes. Its answer must be about itself.
    pub fn discover(issuer: &str) -> Result<Self, TaskError> {
        let url = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
        let answer = get(&url)?;
        if answer.status != 200 {
            return Err(TaskError::new(
                Exit::Network,
                format!("{url}: {}; give the endpoints instead", answer.refusal()),
            ));
        }
        let provider: Self = serde_json::from_value(answer.json).map_err(|error| {
            TaskError::because(Exit::Damaged, format!("{url}: not a provider's description"), error)
        })?;
        if provider.issuer.as_deref().map(|of| of.trim_end_matches('/')) != Some(issuer.trim_end_matches('/')) {
            let says = provider.issuer.unwrap_or_default();
            return Err(TaskError::new(Exit::Untrusted, format!("{url}: it says that it is {says:?}")));
        }
        Ok(provider)
    }

    /// What `login` says, discovered as far as it says an issuer; endpoints that are given win.
    pub fn of(login: &settings::Login) -> Result<Self, TaskError> {
        let mut provider = match &login.issuer {
            Some(issuer) => Self::discover(issuer)?,
            None => Self::default(),
        };
        let over = [
            (&mut provider.authorization_endpoint, &login.authorization_endpoint),
            (&mut provider.token_endpoint, &login.token_endpoint),
            (&mut provider.device_authorization_endpoint, &login.device_endpoint),
        ];
        for (endpoint, given) in over {
            if given.is_some() {
                endpoint.clone_from(given);
            }
        }
        Ok(provider)
    }
}

/// An endpoint, or the error that it is not known.
pub fn endpoint<'a>(endpoint: &'a Option<String>, name: &str) -> Result<&'a str, TaskError> {
    endpoint.as_deref().ok_or_else(|| {
        TaskError::new(
            Exit::Usage,
            format!("the provider's {name} endpoint is not known: give --issuer or --{name}_endpoint"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_go_by_https_or_stay_on_the_machine() {
        for safe in ["https://x.example/a", "http://127.0.0.1:80/a", "http://[::1]:9/", "http://localhost"] {
            assert!(check_address(safe).is_ok(), "{safe}");
        }
        for unsafe_one in [
            "http://x.example",
            "http://localhost.x.example/",
            "http://localhost@x.example/",
            "http://127.0.0.1:1@x.example/",
            "ftp://localhost",
            "http:///localhost",
        ] {
            assert_eq!(check_address(unsafe_one).unwrap_err().exit, Exit::Usage, "{unsafe_one}");
        }
    }

    #[test]
    fn forms_are_escaped() {
        assert_eq!(form(&[("a b", "c&d=é"), ("e", "-._~")]), "a%20b=c%26d%3D%C3%A9&e=-._~");
    }
}
