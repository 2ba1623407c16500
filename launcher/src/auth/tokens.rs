//! The tokens of this user, in a file that only its owner can read.
//!
//! A keyring of the desktop would bring D-Bus and its cryptography into a headless program (and there is none where it runs
//! most); the file's permission bits are what SSH relies on, too.

use super::provider::{self, Answer};
use crate::error::{Exit, TaskError, shown};
use crate::settings::{Purpose, folder};
use crate::trust::now;
use crate::whole;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::PathBuf;

const FILE_BYTES_MAX: u64 = 256 << 10;
/// A token that runs out sooner is refreshed first: what is begun with it must come to its end.
const MARGIN_SECONDS: u64 = 60;

/// What a login left, and what is needed to renew it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tokens {
    /// For the update service.
    pub access_token: String,
    /// For a new access token.
    pub refresh_token: Option<String>,
    /// Seconds since 1970; `None` if the provider has not said.
    pub expires: Option<u64>,
    /// What was granted, a blank between two.
    pub scope: String,
    /// The provider's name for this launcher.
    pub client_id: String,
    /// Of the launcher at the provider, if it has one.
    pub client_secret: Option<String>,
    /// Where it is refreshed.
    pub token_endpoint: String,
    /// Where it is made worthless.
    pub revocation_endpoint: Option<String>,
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens").field("scope", &self.scope).field("expires", &self.expires).finish_non_exhaustive()
    }
}

fn file() -> Result<PathBuf, TaskError> {
    Ok(folder(Purpose::State)?.join("tokens.json"))
}

fn not_logged_in() -> TaskError {
    TaskError::new(Exit::Denied, "not logged in: `vsekai auth login` does it")
}

/// The tokens of this user. [`Exit::Denied`] when there are none.
pub fn saved() -> Result<Tokens, TaskError> {
    let file = file()?;
    let bytes = whole::read(&file, FILE_BYTES_MAX)?.ok_or_else(not_logged_in)?;
    // The parser's message could quote a token.
    serde_json::from_slice(&bytes).map_err(|_| {
        TaskError::new(
            Exit::Damaged,
            format!("{}: not the launcher's tokens; `vsekai auth logout` removes it", shown(&file)),
        )
    })
}

pub(super) fn save(tokens: &Tokens) -> Result<(), TaskError> {
    let file = file()?;
    let bytes = serde_json::to_vec(tokens).map_err(|error| TaskError::unwritable(&file, error.into()))?;
    whole::write(&file, &bytes, whole::PRIVATE)
}

/// The fields of a provider's answer (RFC 6749, 5.1) that change with every token.
pub(super) fn take(answer: &Answer, into: &mut Tokens) -> Result<(), TaskError> {
    let of = |name: &str| answer.json.get(name).and_then(serde_json::Value::as_str).map(str::to_owned);
    let access = of("access_token").filter(|_| answer.status == 200);
    let Some(access) = access else {
        return Err(TaskError::new(Exit::Denied, format!("{}: {}", into.token_endpoint, answer.refusal())));
    };
    if of("token_type").is_none_or(|kind| !kind.eq_ignore_ascii_case("bearer")) {
        return Err(TaskError::new(Exit::Denied, format!("{}: no bearer token came", into.token_endpoint)));
    }
    into.access_token = access;
    into.expires =
        answer.json.get("expires_in").and_then(serde_json::Value::as_u64).map(|seconds| now().saturating_add(seconds));
    if let Some(refresh) = of("refresh_token") {
        into.refresh_token = Some(refresh);
    }
    if let Some(scope) = of("scope") {
        into.scope = scope;
    }
    Ok(())
}

/// An access token that is valid for a minute at least, refreshed if need be, or if `renew`. `VSEKAI_TOKEN` is taken before all others, as it is.
pub fn access_token(renew: bool) -> Result<String, TaskError> {
    if let Some(given) = std::env::var("VSEKAI_TOKEN").ok().filter(|token| !token.is_empty()) {
        return Ok(given);
    }
    let file = file()?;
    // Providers that rotate refresh tokens take a second use for a theft: one process at a time.
    let _held = whole::lock(&file.with_extension("lock"))?;
    let mut tokens = saved()?;
    let valid = tokens.expires.is_none_or(|expires| expires > now() + MARGIN_SECONDS);
    if !renew && valid {
        return Ok(tokens.access_token);
    }
    let Some(refresh) = tokens.refresh_token.clone() else {
        return Err(TaskError::new(
            Exit::Denied,
            "the login has run out, and the provider gave nothing to renew it with: `vsekai auth login`",
        ));
    };
    let client = tokens.client_secret.as_deref().map(|secret| (tokens.client_id.as_str(), secret));
    let mut form = vec![("grant_type", "refresh_token"), ("refresh_token", refresh.as_str())];
    if client.is_none() {
        form.push(("client_id", tokens.client_id.as_str()));
    }
    let answer = provider::post(&tokens.token_endpoint, client, &form)?;
    take(&answer, &mut tokens)?;
    save(&tokens)?;
    tracing::info!("token refreshed");
    Ok(tokens.access_token)
}

/// Makes the tokens worthless at the provider, if it has an endpoint for that, and forgets them. True if the provider was told.
pub fn logout() -> Result<bool, TaskError> {
    let file = file()?;
    let tokens = saved();
    let removed = std::fs::remove_file(&file);
    let tokens = match (tokens, removed) {
        (Err(error), Err(_)) if error.exit == Exit::Denied => return Err(error),
        (_, Err(error)) => return Err(TaskError::unwritable(&file, error)),
        // Unreadable tokens are gone now; nobody can be told of them.
        (Err(_), Ok(())) => return Ok(false),
        (Ok(tokens), Ok(())) => tokens,
    };
    let Some(revocation) = &tokens.revocation_endpoint else { return Ok(false) };
    let client = tokens.client_secret.as_deref().map(|secret| (tokens.client_id.as_str(), secret));
    let revoke = |token: &str, kind: &str| {
        let mut form = vec![("token", token), ("token_type_hint", kind)];
        if client.is_none() {
            form.push(("client_id", tokens.client_id.as_str()));
        }
        provider::post(revocation, client, &form).is_ok_and(|answer| answer.status == 200)
    };
    // Signed access tokens cannot be revoked (RFC 7009, 2.2.1): the refresh token is what counts, if there is one.
    let refresh = tokens.refresh_token.as_deref().map(|token| revoke(token, "refresh_token"));
    let access = revoke(&tokens.access_token, "access_token");
    Ok(refresh.unwrap_or(access))
}
