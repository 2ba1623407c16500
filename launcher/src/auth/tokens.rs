//! The tokens of this user: in the desktop's keyring where there is one, else in a file that only its owner can read, which is what
//! SSH relies on, too. The file says which of the two it is.

use super::keyring;
use super::provider::{self, Answer};
use crate::error::{Exit, TaskError, shown};
use crate::settings::{Purpose, Settings, folder};
use crate::trust::now;
use crate::whole;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::{Path, PathBuf};

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

/// Where tokens are to be kept: the setting `token_store`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Keep {
    /// In the keyring if there is one and it takes them, else in the file.
    #[default]
    Auto,
    /// In the keyring, or not at all.
    Keyring,
    /// In the file.
    File,
}

impl Keep {
    /// As settings write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Keyring => "keyring",
            Self::File => "file",
        }
    }

    /// The one of this name.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Auto, Self::Keyring, Self::File].into_iter().find(|keep| keep.name() == name)
    }
}

/// Where tokens lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// In the desktop's keyring.
    Keyring,
    /// In this file, and why not in the keyring, if that was wished for.
    File(PathBuf, Option<String>),
    /// In the environment's `VSEKAI_TOKEN`.
    Environment,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Keyring => f.write_str("the system's keyring"),
            Self::File(file, None) => f.write_str(&shown(file)),
            Self::File(file, Some(why)) => write!(f, "{} (the keyring: {why})", shown(file)),
            Self::Environment => f.write_str("VSEKAI_TOKEN"),
        }
    }
}

/// What the file holds.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Kept {
    Here(Box<Tokens>),
    InKeyring { keyring: bool },
}

fn file() -> Result<PathBuf, TaskError> {
    Ok(folder(Purpose::State)?.join("tokens.json"))
}

/// The name of the secret in the keyring: another for each state folder.
fn account(file: &Path) -> String {
    blake3::hash(file.as_os_str().as_encoded_bytes()).to_hex()[..16].to_owned()
}

fn not_logged_in() -> TaskError {
    TaskError::new(Exit::Denied, "not logged in: `vsekai auth login` does it")
}

/// The tokens of this user, and where they lie. [`Exit::Denied`] when there are none, or the keyring does not give them.
pub fn saved() -> Result<(Tokens, Place), TaskError> {
    let file = file()?;
    let bytes = whole::read(&file, FILE_BYTES_MAX)?.ok_or_else(not_logged_in)?;
    // The parser's message could quote a token.
    let damaged = |what: String| {
        TaskError::new(Exit::Damaged, format!("{what}: not the launcher's tokens; `vsekai auth logout` removes it"))
    };
    match serde_json::from_slice(&bytes).map_err(|_| damaged(shown(&file)))? {
        Kept::Here(tokens) => Ok((*tokens, Place::File(file, None))),
        Kept::InKeyring { .. } => {
            let no_use = |why: &str| {
                let what = format!(
                    "the login lies in the system's keyring, which does not give it: {why}; unlock the keyring, or set token_store to `file` and log in again"
                );
                TaskError::new(Exit::Denied, what)
            };
            if let Some(why) = keyring::missing() {
                return Err(no_use(&why));
            }
            let found = keyring::lookup(&account(&file)).map_err(|why| no_use(&why))?;
            let text = found.ok_or_else(|| no_use("it has none"))?;
            let tokens = serde_json::from_str(&text).map_err(|_| damaged("the keyring's entry".into()))?;
            Ok((tokens, Place::Keyring))
        }
    }
}

/// Whether tokens will find their place; to be asked before anybody is troubled with a login.
pub fn ask_for_place() -> Result<(), TaskError> {
    match (Settings::load()?.token_store, keyring::missing()) {
        (Keep::Keyring, Some(why)) => Err(no_keyring(&why)),
        _ => Ok(()),
    }
}

fn no_keyring(why: &str) -> TaskError {
    let what = format!("the keyring does not take the login: {why}; unlock it, or set token_store to `auto` or `file`");
    TaskError::new(Exit::Unwritable, what)
}

/// Keeps the tokens, and says where.
pub(super) fn save(tokens: &Tokens) -> Result<Place, TaskError> {
    let file = file()?;
    let wish = Settings::load()?.token_store;
    let text = serde_json::to_string(tokens).map_err(|error| TaskError::unwritable(&file, error.into()))?;
    let in_keyring = match wish {
        Keep::File => Err(None),
        Keep::Auto | Keep::Keyring => {
            keyring::missing().map_or_else(|| keyring::store(&account(&file), &text), Err).map_err(Some)
        }
    };
    let place = match in_keyring {
        Ok(()) => Place::Keyring,
        Err(Some(why)) if wish == Keep::Keyring => return Err(no_keyring(&why)),
        Err(why) => Place::File(file.clone(), why),
    };
    let bytes = if place == Place::Keyring { br#"{"keyring":true}"#.to_vec() } else { text.into_bytes() };
    let before = whole::read(&file, FILE_BYTES_MAX).ok().flatten();
    whole::write(&file, &bytes, whole::PRIVATE)?;
    if place != Place::Keyring && before.is_some_and(|before| is_in_keyring(&before)) {
        // Nothing points to it any more; it is best gone, too.
        let _ = keyring::clear(&account(&file));
    }
    Ok(place)
}

fn is_in_keyring(bytes: &[u8]) -> bool {
    matches!(serde_json::from_slice(bytes), Ok(Kept::InKeyring { .. }))
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
/// With it, where it lies.
pub fn access_token(renew: bool) -> Result<(String, Place), TaskError> {
    if let Some(given) = std::env::var("VSEKAI_TOKEN").ok().filter(|token| !token.is_empty()) {
        return Ok((given, Place::Environment));
    }
    let file = file()?;
    // Providers that rotate refresh tokens take a second use for a theft: one process at a time.
    let _held = whole::lock(&file.with_extension("lock"))?;
    let (mut tokens, place) = saved()?;
    let valid = tokens.expires.is_none_or(|expires| expires > now() + MARGIN_SECONDS);
    if !renew && valid {
        return Ok((tokens.access_token, place));
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
    let place = save(&tokens)?;
    tracing::info!("token refreshed");
    Ok((tokens.access_token, place))
}

/// Makes the tokens worthless at the provider, if it has an endpoint for that, and forgets them. True if the provider was told; and
/// where they were.
pub fn logout() -> Result<(bool, Place), TaskError> {
    let file = file()?;
    let bytes = whole::read(&file, FILE_BYTES_MAX);
    let tokens = saved();
    let mut place = Place::File(file.clone(), None);
    if bytes.is_ok_and(|bytes| bytes.is_some_and(|bytes| is_in_keyring(&bytes))) {
        place = Place::Keyring;
        // As long as the keyring has it, nobody is logged out: the pointer to it stays.
        let cleared = keyring::missing().map_or_else(|| keyring::clear(&account(&file)), Err);
        cleared.map_err(|why| {
            let what =
                format!("the login lies in the system's keyring, which does not forget it: {why}; unlock the keyring");
            TaskError::new(Exit::Denied, what)
        })?;
    }
    let removed = std::fs::remove_file(&file);
    let tokens = match (tokens, removed) {
        (Err(error), Err(_)) if error.exit == Exit::Denied => return Err(error),
        (_, Err(error)) => return Err(TaskError::unwritable(&file, error)),
        // Unreadable tokens are gone now; nobody can be told of them.
        (Err(_), Ok(())) => return Ok((false, place)),
        (Ok((tokens, _)), Ok(())) => tokens,
    };
    let Some(revocation) = &tokens.revocation_endpoint else { return Ok((false, place)) };
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
    Ok((refresh.unwrap_or(access), place))
}
