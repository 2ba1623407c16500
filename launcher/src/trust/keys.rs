//! A studio's signing keys: one file a key, readable by its owner alone, sealed under a passphrase if one is given.

use super::canonical;
use super::metadata::{Envelope, Role, Signature, key_id, key_value};
use crate::error::{Exit, TaskError, shown};
use crate::hex::{hex, unhex};
use crate::whole;
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::pbkdf2;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fmt;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

const FILE_BYTES_MAX: u64 = 16 << 10;
/// OWASP's figure for PBKDF2 with HMAC-SHA-256 (2023).
const ROUNDS: u32 = 600_000;
/// What a file may ask for: more would be a way to hang the signer.
const ROUNDS_MAX: u32 = 10_000_000;
const ENDING: &str = ".key.json";

/// What seals key files; none leaves them to their permission bits.
#[derive(Clone, Default)]
pub struct Passphrase(pub Option<String>);

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Passphrase(…)" } else { "Passphrase(none)" })
    }
}

/// A key's file, without its secret.
#[derive(Debug, Clone, Serialize)]
pub struct KeyFile {
    /// Whom it signs for.
    pub role: &'static str,
    /// 64 hexadecimal digits; what `--root_key` takes.
    pub key_id: String,
    /// True if a passphrase is needed.
    pub sealed: bool,
    /// Its place.
    pub file: PathBuf,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    role: String,
    public: String,
    secret: Secret,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Secret {
    /// 64 hexadecimal digits.
    Plain(String),
    /// AES-256-GCM under PBKDF2-HMAC-SHA-256 of the passphrase; all in hexadecimal.
    Sealed { salt: String, rounds: u32, nonce: String, box_: String },
}

/// A key that can sign.
struct SigningKey {
    file: KeyFile,
    role: Role,
    pair: Ed25519KeyPair,
    value: Value,
}

/// The keys of one folder.
pub struct KeyRing {
    folder: PathBuf,
    passphrase: Passphrase,
    keys: Vec<SigningKey>,
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.keys.iter().map(|key| &key.file)).finish()
    }
}

impl KeyRing {
    /// Reads and opens all keys of `folder`, which may be missing. [`Exit::Denied`]: the passphrase is wrong or missing.
    pub fn open(folder: &Path, passphrase: Passphrase) -> Result<Self, TaskError> {
        let mut ring = Self { folder: folder.to_owned(), passphrase, keys: Vec::new() };
        for file in key_files(folder)? {
            let (described, stored) = read(&file)?;
            let seed = open_secret(&file, &stored.secret, &ring.passphrase)?;
            ring.adopt(described, &stored, &seed)?;
        }
        Ok(ring)
    }

    /// What keys are in `folder`: needs no passphrase.
    pub fn list(folder: &Path) -> Result<Vec<KeyFile>, TaskError> {
        key_files(folder)?.iter().map(|file| read(file).map(|(described, _)| described)).collect()
    }

    fn adopt(&mut self, file: KeyFile, stored: &Stored, seed: &[u8]) -> Result<(), TaskError> {
        let broken = |why: &str| TaskError::new(Exit::Damaged, format!("{}: {why}", shown(&file.file)));
        let public = unhex::<32>(&stored.public).ok_or_else(|| broken("`public` is no Ed25519 key"))?;
        let pair = Ed25519KeyPair::from_seed_and_public_key(seed, &public)
            .map_err(|_| broken("the secret is not this key's"))?;
        let role = Role::parse(&stored.role).ok_or_else(|| broken("it is for no known role"))?;
        let value = key_value(&public);
        self.keys.push(SigningKey { file, role, pair, value });
        Ok(())
    }

    /// Makes a new key for `role` and its file. Gives the key's id.
    pub fn generate(&mut self, role: Role) -> Result<String, TaskError> {
        let mut seed = [0; 32];
        let pair = aws_lc_rs::rand::fill(&mut seed).ok().and_then(|()| Ed25519KeyPair::from_seed_unchecked(&seed).ok());
        let pair = pair.ok_or_else(|| TaskError::new(Exit::Failed, "the random number generator fails"))?;
        let public = pair.public_key().as_ref().to_vec();
        let id =
            key_id(&key_value(&public)).ok_or_else(|| TaskError::new(Exit::Failed, "the key has no canonical form"))?;
        let secret = match &self.passphrase.0 {
            None => Secret::Plain(hex(&seed)),
            Some(passphrase) => seal(&seed, passphrase)?,
        };
        let sealed = matches!(secret, Secret::Sealed { .. });
        let stored = Stored { role: role.name().to_owned(), public: hex(&public), secret };
        let file = self.folder.join(format!("{}-{}{ENDING}", role.name(), &id[..16]));
        let text = serde_json::to_vec_pretty(&stored).map_err(|error| TaskError::unwritable(&file, error.into()))?;
        whole::write(&file, &text, whole::PRIVATE)?;
        self.adopt(KeyFile { role: role.name(), key_id: id.clone(), sealed, file }, &stored, &seed)?;
        Ok(id)
    }

    /// Takes a key out of use: its file goes to the folder `retired` beside it.
    pub fn retire(&mut self, id: &str) -> Result<(), TaskError> {
        let Some(index) = self.keys.iter().position(|key| key.file.key_id == id) else { return Ok(()) };
        let key = self.keys.remove(index);
        let retired = self.folder.join("retired");
        whole::make_folder(&retired, 0o700).map_err(|error| TaskError::unwritable(&retired, error))?;
        let name = key.file.file.file_name().unwrap_or_default();
        std::fs::rename(&key.file.file, retired.join(name))
            .map_err(|error| TaskError::unwritable(&key.file.file, error))
    }

    /// Ids and metadata forms of the keys for `role`.
    pub(super) fn of(&self, role: Role) -> Vec<(String, Value)> {
        let of_role = self.keys.iter().filter(|key| key.role == role);
        of_role.map(|key| (key.file.key_id.clone(), key.value.clone())).collect()
    }

    /// Signs with every key of which `ids` has the id.
    pub(super) fn sign(&self, signed: Value, ids: &[&str]) -> Result<Envelope, TaskError> {
        let message =
            canonical::bytes(&signed).ok_or_else(|| TaskError::new(Exit::Failed, "metadata has no canonical form"))?;
        let with = self.keys.iter().filter(|key| ids.contains(&key.file.key_id.as_str()));
        let signature =
            |key: &SigningKey| Signature { keyid: key.file.key_id.clone(), sig: hex(key.pair.sign(&message).as_ref()) };
        Ok(Envelope { signatures: with.map(signature).collect(), signed })
    }
}

/// In order of their names.
fn key_files(folder: &Path) -> Result<Vec<PathBuf>, TaskError> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(|error| TaskError::unreadable(folder, error))?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| TaskError::unreadable(folder, error))?;
        if entry.file_name().to_string_lossy().ends_with(ENDING) {
            files.push(entry.path());
        }
    }
    files.sort();
    Ok(files)
}

fn read(file: &Path) -> Result<(KeyFile, Stored), TaskError> {
    let broken = |why: String| TaskError::new(Exit::Damaged, format!("{}: {why}", shown(file)));
    let bytes = whole::read(file, FILE_BYTES_MAX)?.ok_or_else(|| broken("it has gone".into()))?;
    // The parser's message could quote the secret.
    let stored: Stored = serde_json::from_slice(&bytes).map_err(|_| broken("it is no key file".into()))?;
    let role = Role::parse(&stored.role).ok_or_else(|| broken(format!("role {:?}", stored.role)))?;
    let public = unhex::<32>(&stored.public).ok_or_else(|| broken("`public` is no Ed25519 key".into()))?;
    let key_id = key_id(&key_value(&public)).ok_or_else(|| broken("no id".into()))?;
    let sealed = matches!(stored.secret, Secret::Sealed { .. });
    Ok((KeyFile { role: role.name(), key_id, sealed, file: file.to_owned() }, stored))
}

fn sealing_key(passphrase: &str, salt: &[u8], rounds: u32) -> Result<LessSafeKey, TaskError> {
    let failed = || TaskError::new(Exit::Damaged, "a key file asks for a number of rounds that is not allowed");
    let rounds = NonZeroU32::new(rounds).filter(|rounds| rounds.get() <= ROUNDS_MAX).ok_or_else(failed)?;
    let mut key = [0; 32];
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, rounds, salt, passphrase.as_bytes(), &mut key);
    UnboundKey::new(&AES_256_GCM, &key).map(LessSafeKey::new).map_err(|_| failed())
}

fn seal(seed: &[u8], passphrase: &str) -> Result<Secret, TaskError> {
    let (salt, nonce): ([u8; 16], [u8; 12]) = (rand::random(), rand::random());
    let mut sealed = seed.to_vec();
    sealing_key(passphrase, &salt, ROUNDS)?
        .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut sealed)
        .map_err(|_| TaskError::new(Exit::Failed, "the key cannot be sealed"))?;
    Ok(Secret::Sealed { salt: hex(&salt), rounds: ROUNDS, nonce: hex(&nonce), box_: hex(&sealed) })
}

fn open_secret(file: &Path, secret: &Secret, passphrase: &Passphrase) -> Result<Vec<u8>, TaskError> {
    let broken = || TaskError::new(Exit::Damaged, format!("{}: its secret is damaged", shown(file)));
    match secret {
        Secret::Plain(seed) => unhex::<32>(seed).map(Vec::from).ok_or_else(broken),
        Secret::Sealed { salt, rounds, nonce, box_ } => {
            let denied = |why: &str| TaskError::new(Exit::Denied, format!("{}: {why}", shown(file)));
            let passphrase = passphrase
                .0
                .as_deref()
                .ok_or_else(|| denied("sealed: set VSEKAI_KEY_PASSPHRASE, or give --passphrase_file"))?;
            let salt = unhex::<16>(salt).ok_or_else(broken)?;
            let nonce: [u8; 12] = unhex(nonce).ok_or_else(broken)?;
            let mut sealed = unhex::<48>(box_).ok_or_else(broken)?;
            let key = sealing_key(passphrase, &salt, *rounds)?;
            let opened = key.open_in_place(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut sealed);
            opened.map(|seed| seed.to_vec()).map_err(|_| denied("the passphrase is wrong"))
        }
    }
}
