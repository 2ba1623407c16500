//! The key of join tokens, and `vsekai-shard token`, which issues one.

use crate::config::TokenConfig;
use anyhow::{Context, Result, bail};
use clap::Args;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use uuid::Uuid;
use vsekai_net::porter::Porter;
use vsekai_net::token::{LIFETIME_S_MAX, TokenKey, to_hex};
use vsekai_schema::id::PlayerKey;
use vsekai_schema::wire::{PLAYER_SECRET_BYTES_MAX, PLAYER_SECRET_BYTES_MIN};

/// `vsekai-shard token`
#[derive(Debug, Args)]
pub struct TokenCommand {
    /// File with the key that the shard has as net.token_key_file
    #[arg(long, value_name = "FILE", required_unless_present = "new_key")]
    key: Option<PathBuf>,
    /// The player: a secret of 8-128 bytes, or the 32 digits that an earlier token was issued for
    #[arg(long, value_name = "PLAYER", required_unless_present = "new_key")]
    player: Option<String>,
    /// How long it is good for, seconds, 1-3600
    #[arg(long, value_name = "N", default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..=LIFETIME_S_MAX))]
    lifetime_s: u64,
    /// Write a new key into FILE, which must not be there yet, and stop
    #[arg(long, value_name = "FILE", conflicts_with_all = ["key", "player"])]
    new_key: Option<PathBuf>,
}

/// Prints a token, or makes a key.
pub fn run(command: TokenCommand) -> Result<()> {
    if let Some(file) = command.new_key {
        return make_key(&file);
    }
    let (Some(file), Some(player)) = (command.key, command.player) else { bail!("--key and --player are needed") };
    let porter = Porter::new(read_key(&file)?, unix_now()?);
    let player = match player.parse() {
        Ok(key) => key,
        Err(_) => player_of(&player).context("--player")?,
    };
    let lifetime = Duration::from_secs(command.lifetime_s);
    println!("{}", porter.issue(Duration::ZERO, player, new_id(), lifetime));
    Ok(())
}

/// The player who knows `secret`.
pub fn player_of(secret: &str) -> Result<PlayerKey> {
    if !(PLAYER_SECRET_BYTES_MIN..=PLAYER_SECRET_BYTES_MAX).contains(&secret.len()) {
        bail!(
            "a player's secret has {PLAYER_SECRET_BYTES_MIN} to {PLAYER_SECRET_BYTES_MAX} bytes, this one {}",
            secret.len()
        );
    }
    Ok(PlayerKey::from_secret(secret))
}

/// A name for a new token.
pub fn new_id() -> [u8; 16] {
    Uuid::new_v4().into_bytes()
}

/// The porter of a shard that starts now: its clock is at zero.
pub fn porter(config: &TokenConfig) -> Result<Porter> {
    let key = match &config.key_file {
        Some(file) => read_key(file)?,
        None => TokenKey::new(&fresh_secret()),
    };
    Ok(Porter::new(key, unix_now()?))
}

fn unix_now() -> Result<Duration> {
    SystemTime::now().duration_since(UNIX_EPOCH).context("the machine's clock is before 1970")
}

fn read_key(file: &Path) -> Result<TokenKey> {
    let text =
        std::fs::read_to_string(file).with_context(|| format!("cannot read the token key {}", file.display()))?;
    TokenKey::from_hex(&text).with_context(|| format!("{} does not hold 64 hexadecimal digits", file.display()))
}

fn make_key(file: &Path) -> Result<()> {
    let mut options = std::fs::OpenOptions::new();
    let made = options.write(true).create_new(true).mode(0o600).open(file);
    let mut key = made.with_context(|| format!("cannot make {}", file.display()))?;
    writeln!(key, "{}", to_hex(&fresh_secret())).with_context(|| format!("cannot write {}", file.display()))
}

/// 244 random bits of the system, spread over 256.
fn fresh_secret() -> [u8; 32] {
    let mut random = [0; 32];
    random[..16].copy_from_slice(&new_id());
    random[16..].copy_from_slice(&new_id());
    random
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_key_can_be_read_and_is_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token.key");
        make_key(&file).unwrap();
        let key = read_key(&file).unwrap();
        assert!(make_key(&file).is_err());
        assert_eq!(read_key(&file).unwrap(), key);
        std::fs::write(&file, "short").unwrap();
        assert!(read_key(&file).unwrap_err().to_string().contains("64 hexadecimal digits"));
        assert!(player_of("short").is_err() && player_of("long enough").is_ok());
    }
}
