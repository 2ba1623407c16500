//! Bans on disk: one small JSON file, replaced as a whole, so that it is always the old list or the new one.

use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use vsekai_net::porter::Porter;
use vsekai_schema::id::PlayerKey;

/// The list of a running shard: what the porter says is what the file holds.
#[derive(Debug)]
pub struct Bans {
    porter: Arc<Porter>,
    file: PathBuf,
    writing: Mutex<()>,
}

impl Bans {
    /// Reads the file, if there is one, and tells the porter.
    pub fn load(porter: Arc<Porter>, file: PathBuf) -> Result<Bans> {
        let named = || format!("the list of bans {}", file.display());
        match std::fs::read(&file) {
            Ok(bytes) => {
                let listed: BTreeMap<String, String> = serde_json::from_slice(&bytes).with_context(named)?;
                for (player, reason) in listed {
                    let player = player.parse().with_context(named)?;
                    porter.ban(player, &reason).with_context(named)?;
                }
            }
            // No folder yet, or none that could be: storage says so in its own words.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {}
            Err(error) => return Err(error).with_context(named),
        }
        Ok(Bans { porter, file, writing: Mutex::new(()) })
    }

    /// Bans a player. Blocks for the disk.
    pub fn ban(&self, player: PlayerKey, reason: &str) -> Result<()> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.porter.bans().get(&player).cloned();
        self.porter.ban(player, reason)?;
        self.save().inspect_err(|_| {
            // What is not kept is not in force: the operator tries again.
            self.porter.unban(player);
            if let Some(reason) = before {
                self.put_back(player, &reason);
            }
        })
    }

    /// Lets a player come again; false when there was no ban. Blocks for the disk.
    pub fn unban(&self, player: PlayerKey) -> Result<bool> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(reason) = self.porter.bans().remove(&player) else { return Ok(false) };
        self.porter.unban(player);
        self.save().inspect_err(|_| self.put_back(player, &reason))?;
        Ok(true)
    }

    /// Everybody who is banned, and why.
    pub fn all(&self) -> BTreeMap<String, String> {
        self.porter.bans().into_iter().map(|(player, reason)| (player.to_string(), reason)).collect()
    }

    fn put_back(&self, player: PlayerKey, reason: &str) {
        // There is room: it was in the list a moment ago.
        let _ = self.porter.ban(player, reason);
    }

    fn save(&self) -> Result<()> {
        let folder = self.file.parent().unwrap_or(Path::new("."));
        let fresh = self.file.with_extension("json.new");
        let bytes = serde_json::to_vec_pretty(&self.all())?;
        let save = || -> std::io::Result<()> {
            std::fs::create_dir_all(folder)?;
            let mut file = File::create(&fresh)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            std::fs::rename(&fresh, &self.file)?;
            File::open(folder)?.sync_all()
        };
        save().with_context(|| format!("cannot keep the list of bans {}", self.file.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use vsekai_net::token::TokenKey;

    #[test]
    fn bans_outlive_the_process() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("data").join("bans.json");
        let load = || Bans::load(Arc::new(Porter::new(TokenKey::new(&[1; 32]), Duration::ZERO)), file.clone());
        let bans = load().unwrap();
        bans.ban(PlayerKey([7; 16]), "griefing").unwrap();
        bans.ban(PlayerKey([8; 16]), "a \"quoted\" reason").unwrap();
        assert!(bans.unban(PlayerKey([7; 16])).unwrap() && !bans.unban(PlayerKey([7; 16])).unwrap());
        let listed = load().unwrap().all();
        assert_eq!(listed, [("08".repeat(16), "a \"quoted\" reason".to_string())].into());
        std::fs::write(&file, "{\"nobody\": \"x\"}").unwrap();
        assert!(format!("{:#}", load().unwrap_err()).contains("32 hexadecimal digits"));
    }

    #[test]
    fn a_ban_that_cannot_be_kept_is_not_in_force() {
        let folder = tempfile::tempdir().unwrap();
        let porter = Arc::new(Porter::new(TokenKey::new(&[1; 32]), Duration::ZERO));
        // A file where the folder should be.
        std::fs::write(folder.path().join("data"), "").unwrap();
        let bans = Bans { porter, file: folder.path().join("data").join("bans.json"), writing: Mutex::new(()) };
        assert!(bans.ban(PlayerKey([7; 16]), "griefing").is_err());
        assert!(bans.all().is_empty());
    }
}
