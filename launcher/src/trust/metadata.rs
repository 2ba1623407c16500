//! Signed metadata as The Update Framework's specification (1.0) writes it, without delegations: four roles, Ed25519, SHA-256,
//! canonical JSON. Other clients of the specification read it.

use super::canonical;
use super::refusal::{Attack, Refusal};
use super::time;
use crate::hex::{hex, unhex};
use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// More is refused as an attack: no repository reaches it, and who could write it could lock out every later version.
pub const VERSION_MAX: u64 = 1 << 31;
/// Signatures and keys that are looked at.
const KEYS_MAX: usize = 64;
pub const SPEC_VERSION: &str = "1.0.31";

/// Who signs what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Which keys all roles have. Offline.
    Root,
    /// Which catalogues there are. Offline.
    Targets,
    /// Which metadata belongs together. Online.
    Snapshot,
    /// Which of that is the newest. Online, expires soonest.
    Timestamp,
}

/// All of them.
pub const ROLES: [Role; 4] = [Role::Root, Role::Targets, Role::Snapshot, Role::Timestamp];

impl Role {
    /// As metadata and file names have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Targets => "targets",
            Self::Snapshot => "snapshot",
            Self::Timestamp => "timestamp",
        }
    }

    /// The role of this name.
    pub fn parse(name: &str) -> Option<Self> {
        ROLES.into_iter().find(|role| role.name() == name)
    }
}

/// A metadata file: what is signed, as it came, and by whom.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Envelope {
    pub signatures: Vec<Signature>,
    pub signed: Value,
}

/// One signature over the canonical form.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Signature {
    pub keyid: String,
    /// 128 hexadecimal digits.
    pub sig: String,
}

/// What every role's metadata begins with.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Head {
    #[serde(rename = "_type")]
    pub kind: String,
    pub spec_version: String,
    /// 1 to [`VERSION_MAX`].
    pub version: u64,
    /// As [`time::parse`] takes it.
    pub expires: String,
}

impl Head {
    pub fn new(role: Role, version: u64, expires: u64) -> Self {
        let (kind, spec_version) = (role.name().to_owned(), SPEC_VERSION.to_owned());
        Self { kind, spec_version, version, expires: time::format(expires) }
    }
}

/// The role that says which keys all roles have.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Root {
    #[serde(flatten)]
    pub head: Head,
    pub consistent_snapshot: bool,
    /// By key id.
    pub keys: BTreeMap<String, Value>,
    /// By the role's name.
    pub roles: BTreeMap<String, RoleKeys>,
}

/// Who may sign for a role, and how many of them must.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleKeys {
    pub keyids: Vec<String>,
    pub threshold: u64,
}

/// Timestamp and snapshot: which version of other metadata is meant.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Listing {
    #[serde(flatten)]
    pub head: Head,
    /// By file name, `snapshot.json` or `targets.json`.
    pub meta: BTreeMap<String, Listed>,
}

/// One file of metadata.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    pub version: u64,
    /// Bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub length: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hashes: Option<Hashes>,
}

/// The role that says which catalogues there are.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Targets {
    #[serde(flatten)]
    pub head: Head,
    /// By path in the repository.
    pub targets: BTreeMap<String, Target>,
}

/// One catalogue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// Bytes.
    pub length: u64,
    pub hashes: Hashes,
}

/// Of a file. Other algorithms may stand beside it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hashes {
    /// 64 lower-case hexadecimal digits.
    pub sha256: String,
}

impl Hashes {
    pub fn of(bytes: &[u8]) -> Self {
        Self { sha256: canonical::sha256(bytes) }
    }
}

/// An Ed25519 key as metadata writes it.
pub fn key_value(public: &[u8]) -> Value {
    serde_json::json!({ "keytype": "ed25519", "scheme": "ed25519", "keyval": { "public": hex(public) } })
}

/// A key's id: SHA-256 of its canonical form.
pub fn key_id(key: &Value) -> Option<String> {
    canonical::bytes(key).map(|bytes| canonical::sha256(&bytes))
}

/// The public key's 32 bytes, if it is of the one kind that is used here.
fn public_key(key: &Value) -> Option<[u8; 32]> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let kind = (text(key.get("keytype")?)?, text(key.get("scheme")?)?);
    if kind != ("ed25519".to_owned(), "ed25519".to_owned()) {
        return None;
    }
    unhex(key.get("keyval")?.get("public")?.as_str()?)
}

impl Envelope {
    /// Parses a file of this role, and what every role's metadata has: kind, specification, version. Not yet who signed it.
    pub fn parse<T: DeserializeOwned>(file: &str, role: Role, bytes: &[u8]) -> Result<(Self, Head, T), Refusal> {
        let broken = |why: String| Refusal::new(file, Attack::Malformed, why);
        let envelope: Self = serde_json::from_slice(bytes).map_err(|error| broken(error.to_string()))?;
        let head: Head = serde_json::from_value(envelope.signed.clone()).map_err(|error| broken(error.to_string()))?;
        if head.kind != role.name() {
            return Err(broken(format!("it is of the role `{}`, not `{}`", head.kind, role.name())));
        }
        if !head.spec_version.starts_with("1.") {
            return Err(broken(format!("specification {:?}; 1.x is understood", head.spec_version)));
        }
        if head.version == 0 {
            return Err(broken("version 0: the first is 1".into()));
        }
        if head.version > VERSION_MAX {
            let why = format!("version {}; no repository reaches more than {VERSION_MAX}", head.version);
            return Err(Refusal::new(file, Attack::FastForward, why));
        }
        if time::parse(&head.expires).is_none() {
            return Err(broken(format!("it expires at {:?}, which is no time", head.expires)));
        }
        let typed = serde_json::from_value(envelope.signed.clone()).map_err(|error| broken(error.to_string()))?;
        Ok((envelope, head, typed))
    }
}

impl Root {
    /// Refuses `envelope` unless as many of this role's keys as it asks for have signed it, each counted once.
    pub fn verify(&self, file: &str, role: Role, envelope: &Envelope) -> Result<(), Refusal> {
        let refuse = |why: String| Refusal::new(file, Attack::Signature, why);
        let wanted =
            self.roles.get(role.name()).ok_or_else(|| refuse(format!("the root has no role `{}`", role.name())))?;
        if wanted.threshold == 0 {
            return Err(refuse(format!("the root asks for no signature of `{}`", role.name())));
        }
        let message = canonical::bytes(&envelope.signed).ok_or_else(|| refuse("it has no canonical form".into()))?;
        let mut signed_by = BTreeSet::new();
        for signature in envelope.signatures.iter().take(KEYS_MAX) {
            if wanted.keyids.contains(&signature.keyid)
                && let Some(key) = self.keys.get(&signature.keyid)
                // An id that is not its key's own could give one key two votes.
                && key_id(key).as_ref() == Some(&signature.keyid)
                && let Some(public) = public_key(key)
                && let Some(sig) = unhex::<64>(&signature.sig)
                && UnparsedPublicKey::new(&ED25519, &public).verify(&message, &sig).is_ok()
            {
                signed_by.insert(public);
            }
        }
        if (signed_by.len() as u64) < wanted.threshold {
            let (there, wanted) = (signed_by.len(), wanted.threshold);
            return Err(refuse(format!("{there} of the {wanted} signatures that `{}` needs are valid", role.name())));
        }
        Ok(())
    }

    /// The keys of a role, to be compared after a rotation.
    pub fn keys_of(&self, role: Role) -> BTreeSet<&str> {
        self.roles.get(role.name()).map(|of| of.keyids.iter().map(String::as_str).collect()).unwrap_or_default()
    }
}

/// Refuses what has expired.
pub fn check_expiry(file: &str, head: &Head, now: u64) -> Result<(), Refusal> {
    // Anything unreadable was refused when it was parsed.
    if time::parse(&head.expires).is_some_and(|expires| expires > now) {
        return Ok(());
    }
    let why = format!(
        "expired at {}, and it is {}: an old state is held out, or nobody has signed anew",
        head.expires,
        time::format(now)
    );
    Err(Refusal::new(file, Attack::Freeze, why))
}
