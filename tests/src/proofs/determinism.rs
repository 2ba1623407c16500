//! The same seed and the same inputs give the same state hash after every tick; one changed input gives others.

use super::seed;
use anyhow::{Result, bail, ensure};
use vsekai_bench::bot::Style;
use vsekai_bench::loopback::LoopbackShard;
use vsekai_bench::world;
use vsekai_net::loopback::Faults;
use vsekai_schema::wire::{Input, MoveInput};
use vsekai_sim::{SimConfig, Simulation};

/// 10,000 ticks with 200 bots; short: 600 with 40.
pub fn run(short: bool) -> Result<String> {
    let (ticks, players) = if short { (600, 40) } else { (10_000, 200) };
    let seed = seed(7);
    let first = play(ticks, players, seed, None);
    let second = play(ticks, players, seed, None);
    if let Some(tick) = first.hashes.iter().zip(&second.hashes).position(|(a, b)| a != b) {
        bail!("seed {seed}: the hashes differ from tick {} on", tick + 1);
    }
    ensure!(first.hashes.len() == ticks && second.hashes.len() == ticks, "a run stopped early");
    let changed_at = ticks / 2;
    let changed = play(ticks, players, seed, Some(changed_at));
    let same = first.hashes.iter().zip(&changed.hashes).take_while(|(a, b)| a == b).count();
    ensure!(
        same == changed_at,
        "seed {seed}: one input changed in tick {}, but {same} hashes are equal",
        changed_at + 1
    );
    let last = first.hashes[ticks - 1];
    ensure!(changed.hashes[ticks - 1] != last, "seed {seed}: the changed input left no trace");
    // Without actions, equal hashes would say little.
    ensure!(first.done > 0, "seed {seed}: no bot did anything");
    Ok(format!(
        "{ticks} ticks, {players} bots, {} actions done, {} distinct hashes, last {last:016x} twice; one changed input \
         in tick {} changes every hash from there",
        first.done,
        first.distinct,
        changed_at + 1
    ))
}

struct Played {
    hashes: Vec<u64>,
    distinct: usize,
    done: u64,
}

/// Plays bots in a fresh world; in tick `change_at` one movement input more is given.
fn play(ticks: usize, players: usize, seed: u64, change_at: Option<usize>) -> Played {
    let config = SimConfig { seed, half_m: 256, ..SimConfig::default() };
    let mut simulation = Simulation::create(&config, &world::content());
    world::grant_ids(&mut simulation);
    let faults = Faults { delay_ms: (5, 40), loss_permille: 20, duplicate_permille: 10, reorder_permille: 10 };
    let mut shard = LoopbackShard::new(simulation, players, seed, Style::Builder, faults);
    for tick in 0..ticks {
        if change_at == Some(tick) {
            let player = shard.bots[0].1.account.player;
            // One step more than the bot sent; its own next one has the same number and is dropped, all others count.
            let sequence = shard.simulation.view().newest_input(player) + 1;
            let step = MoveInput { sequence, direction_x: 127, direction_z: 1, yaw: 12_345, sprint: true };
            shard.inject(player, Input::Move(step));
        }
        shard.tick();
    }
    let distinct = shard.hashes.iter().collect::<std::collections::BTreeSet<_>>().len();
    Played { distinct, done: shard.report(seed).done, hashes: shard.hashes }
}
