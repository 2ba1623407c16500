//! A power cut at every operation of the disk, and every byte and sector of it rotten in turn: what was acknowledged is there,
//! or the damage is named. The disk is simulated (`vsekai_storage::disk::SimulatedDisk`), everything above it is the real thing.

use super::seed;
use anyhow::{Context, Result, anyhow};
use vsekai_storage::proof::crash::{CrashPlan, check_every_crash};
use vsekai_storage::proof::disk_faults::{store_crashes, store_damage};
use vsekai_storage::proof::journal_trial::{check_journal_crashes, check_journal_rot, check_journal_takeovers};

/// Every operation with 20 random disks each, every byte; short: every third operation of the whole storage, 3 random disks,
/// every 7th byte of the store.
pub fn run(short: bool) -> Result<String> {
    let seed = seed(1);
    trial(short, seed).with_context(|| format!("seed {seed} (VSEKAI_SEED replays it)"))
}

fn trial(short: bool, seed: u64) -> Result<String> {
    let random = if short { 3 } else { 20 };
    let journal = check_journal_crashes(seed, random).map_err(|e| anyhow!("the journal: {e}"))?;
    let killed = check_journal_rot(true).map_err(|e| anyhow!("a rotten journal of a killed process: {e}"))?;
    let unpowered = check_journal_rot(false).map_err(|e| anyhow!("a rotten journal after a power cut: {e}"))?;
    let takeovers = check_journal_takeovers().map_err(|e| anyhow!("a takeover: {e}"))?;
    let store = store_crashes(random, seed, |_| {}).map_err(|e| anyhow!("the store: {e}"))?;
    // Some damage makes redb panic; that is caught and told as damage, thousands of times.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let rotten = store_damage(if short { 7 } else { 1 });
    std::panic::set_hook(hook);
    let rotten = rotten.map_err(|e| anyhow!("a rotten store: {e}"))?;
    let mut whole = String::new();
    for number in 0..if short { 1 } else { 4 } {
        let every = if short { 3 } else { 1 };
        let plan = CrashPlan { seed: seed + number, frames: 22, random_choices: random, every };
        let report = check_every_crash(plan).map_err(|e| anyhow!("the whole storage: {e}"))?;
        whole += &format!("whole storage, seed {}: {report}; ", seed + number);
    }
    Ok(format!(
        "{whole}journal: {journal}; journal takeovers: {takeovers}; store: {store}; rotten journal of a killed process: {killed}; \
         after a power cut: {unpowered}; rotten store: {rotten}"
    ))
}
