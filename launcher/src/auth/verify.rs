//! What a request's token allows. Blocking: callers on an async runtime give it a thread of its own.

use super::provider::{self, Provider};
use crate::error::{Exit, TaskError, shown};
use crate::trust::now;
use crate::whole;
use aws_lc_rs::constant_time;
use aws_lc_rs::digest;
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde_json::Value;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

/// Longer tokens are not looked at.
const TOKEN_BYTES_MAX: usize = 16 << 10;
/// Answers of the provider that are remembered.
const REMEMBERED_MAX: usize = 4_096;
/// How long an answer counts: a revoked token works so much longer.
const REMEMBERED_SECONDS: u64 = 60;
/// A key that is not known is looked for no sooner again: strangers could make us ask the provider all the time.
const KEYS_SECONDS: u64 = 30;
/// Difference of clocks that is tolerated.
const LEEWAY_SECONDS: u64 = 30;
const LIST_BYTES_MAX: u64 = 1 << 20;
/// Signatures by the provider's own key only: `none` and shared secrets are never taken.
const ALGORITHMS: [Algorithm; 9] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
];

/// Whom the service believes.
#[derive(Debug, Clone, Default)]
pub struct VerifierConfig {
    /// The login provider.
    pub issuer: Option<String>,
    /// For whom signed tokens must be made: the service's name at the provider.
    pub audience: Option<String>,
    /// The service's own name and secret at the provider, to ask it about tokens that it does not sign.
    pub introspection: Option<(String, String)>,
    /// A file with a line `TOKEN USER SCOPE…` for each token that is taken without a provider.
    pub tokens: Option<PathBuf>,
}

/// Who asks, and what for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allowed {
    /// As the provider names the user.
    pub user: String,
    /// `release:write`, `release:delete`, each for all builds, or for one as `release:write:BUILD`.
    pub scopes: Vec<String>,
}

impl Allowed {
    /// True if `scope` is allowed for this build.
    pub fn may(&self, scope: &str, client_id: &str) -> bool {
        self.scopes
            .iter()
            .any(|of| of == scope || of.strip_prefix(scope).and_then(|rest| rest.strip_prefix(':')) == Some(client_id))
    }

    /// True if `scope` is allowed for any build.
    pub fn may_somewhere(&self, scope: &str) -> bool {
        self.scopes.iter().any(|of| of == scope || of.strip_prefix(scope).is_some_and(|rest| rest.starts_with(':')))
    }
}

/// Why a token is not taken.
#[derive(Debug)]
pub enum Denial {
    /// It is none of ours, or has run out.
    Refused(String),
    /// The provider cannot be asked now.
    Unavailable(TaskError),
}

/// Verifies tokens.
#[derive(Debug)]
pub struct Verifier {
    config: VerifierConfig,
    provider: Provider,
    /// Digest of a token, and what it allows.
    list: Vec<(Vec<u8>, Allowed)>,
    keys: Mutex<(u64, JwkSet)>,
    remembered: Mutex<HashMap<Vec<u8>, (u64, Option<Allowed>)>>,
}

fn digest_of(token: &str) -> Vec<u8> {
    digest::digest(&digest::SHA256, token.as_bytes()).as_ref().to_vec()
}

impl Verifier {
    /// Reads the list, and discovers the provider.
    pub fn new(config: VerifierConfig) -> Result<Self, TaskError> {
        let provider = config.issuer.as_deref().map(Provider::discover).transpose()?.unwrap_or_default();
        if config.issuer.is_some() && config.audience.is_none() && config.introspection.is_none() {
            let why = "a token of the provider may be meant for anyone: give --audience, or --introspection_client";
            return Err(TaskError::new(Exit::Usage, why));
        }
        let mut list = Vec::new();
        if let Some(file) = &config.tokens {
            let missing = || TaskError::new(Exit::NotFound, format!("{}: not there", shown(file)));
            let bytes = whole::read(file, LIST_BYTES_MAX)?.ok_or_else(missing)?;
            let text = String::from_utf8_lossy(&bytes);
            for (number, line) in
                text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'))
            {
                let mut words = line.split_whitespace().map(str::to_owned);
                let (Some(token), Some(user)) = (words.next().filter(|token| token.len() >= 32), words.next()) else {
                    let why = format!(
                        "{}: line {}: must be TOKEN USER SCOPE…, the token of 32 letters at least",
                        shown(file),
                        number + 1
                    );
                    return Err(TaskError::new(Exit::Damaged, why));
                };
                list.push((digest_of(&token), Allowed { user, scopes: words.collect() }));
            }
        }
        let keys = Mutex::new((0, JwkSet { keys: Vec::new() }));
        Ok(Self { config, provider, list, keys, remembered: Mutex::default() })
    }

    /// What this token allows.
    pub fn verify(&self, token: &str) -> Result<Allowed, Denial> {
        let refused = |why: &str| Err(Denial::Refused(why.to_owned()));
        if token.is_empty() || token.len() > TOKEN_BYTES_MAX {
            return refused("no token of a length that is taken");
        }
        let digest = digest_of(token);
        // Digests, compared in constant time: nothing is learnt of a token by trying.
        if let Some((_, allowed)) =
            self.list.iter().find(|(of, _)| constant_time::verify_slices_are_equal(of, &digest).is_ok())
        {
            return Ok(allowed.clone());
        }
        if self.config.issuer.is_none() {
            return refused("an unknown token");
        }
        let signed =
            token.split('.').count() == 3 && self.config.audience.is_some() && self.provider.jwks_uri.is_some();
        if signed { self.by_keys(token) } else { self.by_asking(token, digest) }
    }

    /// RFC 9068: a token that the provider signed.
    fn by_keys(&self, token: &str) -> Result<Allowed, Denial> {
        let refused = |error: jsonwebtoken::errors::Error| Denial::Refused(error.to_string());
        let header = jsonwebtoken::decode_header(token).map_err(refused)?;
        if !ALGORITHMS.contains(&header.alg) {
            return Err(Denial::Refused(format!("a token signed by {:?}", header.alg)));
        }
        // An identity token is about a user, not from one (RFC 9068, 2.1).
        if header
            .typ
            .as_deref()
            .is_some_and(|typ| !["at+jwt", "application/at+jwt"].iter().any(|of| typ.eq_ignore_ascii_case(of)))
        {
            return Err(Denial::Refused("no access token".into()));
        }
        let key = self.key(header.kid.as_deref())?;
        let mut validation = Validation::new(header.alg);
        validation.leeway = LEEWAY_SECONDS;
        validation.validate_nbf = true;
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        validation.set_issuer(self.provider.issuer.as_slice());
        validation.set_audience(self.config.audience.as_slice());
        let claims = jsonwebtoken::decode::<Value>(token, &key, &validation).map_err(refused)?.claims;
        allowed(&claims).ok_or_else(|| Denial::Refused("a token without a user".into()))
    }

    fn key(&self, id: Option<&str>) -> Result<DecodingKey, Denial> {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        let find = |keys: &JwkSet| match id {
            Some(id) => keys.find(id).cloned(),
            None => keys.keys.first().filter(|_| keys.keys.len() == 1).cloned(),
        };
        let found = match find(&keys.1) {
            Some(found) => Some(found),
            // Perhaps the provider has new ones.
            None if now() >= keys.0 + KEYS_SECONDS => {
                let url = self.provider.jwks_uri.as_deref().unwrap_or_default();
                let answer = provider::get(url).map_err(Denial::Unavailable)?;
                let set = serde_json::from_value(answer.json).map_err(|error| {
                    Denial::Unavailable(TaskError::because(Exit::Damaged, format!("{url}: no keys"), error))
                })?;
                *keys = (now(), set);
                find(&keys.1)
            }
            None => None,
        };
        let found = found.ok_or_else(|| Denial::Refused("signed by a key that the provider does not have".into()))?;
        DecodingKey::from_jwk(&found).map_err(|error| Denial::Refused(error.to_string()))
    }

    /// RFC 7662: the provider says what it thinks of it.
    fn by_asking(&self, token: &str, digest: Vec<u8>) -> Result<Allowed, Denial> {
        let unknown = || Denial::Refused("a token that the provider does not know".into());
        let (Some((id, secret)), Some(url)) = (&self.config.introspection, &self.provider.introspection_endpoint)
        else {
            return Err(unknown());
        };
        let lock = || self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((until, allowed)) = lock().get(&digest)
            && *until > now()
        {
            return allowed.clone().ok_or_else(unknown);
        }
        let answer = provider::post(url, Some((id, secret)), &[("token", token), ("token_type_hint", "access_token")])
            .map_err(Denial::Unavailable)?;
        if answer.status != 200 {
            let why = format!("{url}: {}", answer.refusal());
            return Err(Denial::Unavailable(TaskError::new(Exit::Failed, why)));
        }
        let claims = &answer.json;
        let number = |name: &str| claims.get(name).and_then(Value::as_u64);
        let active = claims.get("active").and_then(Value::as_bool) == Some(true)
            && number("exp").is_none_or(|exp| exp + LEEWAY_SECONDS > now())
            && claims.get("iss").is_none_or(|iss| iss.as_str() == self.provider.issuer.as_deref())
            && self.config.audience.as_ref().is_none_or(|audience| has_audience(claims, audience));
        let allowed = active.then(|| allowed(claims)).flatten();
        let mut remembered = lock();
        if remembered.len() >= REMEMBERED_MAX {
            let now = now();
            remembered.retain(|_, (until, _)| *until > now);
            if remembered.len() >= REMEMBERED_MAX {
                remembered.clear();
            }
        }
        remembered.insert(digest, (now() + REMEMBERED_SECONDS, allowed.clone()));
        allowed.ok_or_else(unknown)
    }
}

fn has_audience(claims: &Value, audience: &str) -> bool {
    match claims.get("aud") {
        Some(Value::Array(all)) => all.iter().any(|of| of == audience),
        Some(one) => one == audience,
        None => false,
    }
}

/// User and scopes of a token's claims.
fn allowed(claims: &Value) -> Option<Allowed> {
    let of = |name: &str| claims.get(name).and_then(Value::as_str);
    let user = of("sub").or(of("username")).or(of("client_id"))?.to_owned();
    Some(Allowed { user, scopes: of("scope").unwrap_or("").split_whitespace().map(str::to_owned).collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_is_for_all_builds_or_for_the_one_it_names() {
        let of = |scopes: &[&str]| Allowed { user: "u".into(), scopes: scopes.iter().map(|of| (*of).into()).collect() };
        let cases = [
            (of(&["release:write"]), true, true),
            (of(&["release:write:game"]), true, false),
            (of(&["release:writeall", "x"]), false, false),
        ];
        for (allowed, game, other) in cases {
            assert_eq!(
                (allowed.may("release:write", "game"), allowed.may("release:write", "other")),
                (game, other),
                "{allowed:?}"
            );
            assert_eq!(allowed.may_somewhere("release:write"), game || other);
        }
        assert!(!of(&["release:write"]).may("release:delete", "game"));
    }

    #[test]
    fn listed_tokens_are_taken_and_no_others() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tokens");
        let token = "t".repeat(32);
        std::fs::write(&file, format!("# comment\n{token} anna release:write:game\n")).unwrap();
        let config = VerifierConfig { tokens: Some(file.clone()), ..VerifierConfig::default() };
        let verifier = Verifier::new(config.clone()).unwrap();
        assert_eq!(
            verifier.verify(&token).unwrap(),
            Allowed { user: "anna".into(), scopes: vec!["release:write:game".into()] }
        );
        for wrong in ["", &"t".repeat(31), &"u".repeat(32), &"t".repeat(20_000), "a.b.c"] {
            assert!(matches!(verifier.verify(wrong), Err(Denial::Refused(_))), "{wrong}");
        }
        std::fs::write(&file, "short anna release:write\n").unwrap();
        assert_eq!(Verifier::new(config).unwrap_err().exit, Exit::Damaged);
    }
}
