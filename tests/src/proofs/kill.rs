//! `kill -9` of a shard while bots build, again and again on the same world: everything that a bot was told is done is
//! there, nothing is there twice, and the state hash is the one of the last durable frame.
//!
//! Between kill and restart the world is loaded in this process from a copy of the shard's files, and every account that
//! any bot ever had is held against it, item by item and structure by structure.

use super::seed;
use anyhow::{Context, Result, bail, ensure};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use vsekai_bench::bot::{Account, Bot, Style};
use vsekai_bench::process::ShardProcess;
use vsekai_bench::webrtc::run_bots;
use vsekai_bench::world;
use vsekai_schema::content::Content;
use vsekai_schema::id::{EntityId, ItemId, PlayerKey};
use vsekai_schema::wire::Command;
use vsekai_sim::build::{Cell, Place, Structure};
use vsekai_sim::inventory::Inventory;
use vsekai_sim::player::{CommandLog, Player};
use vsekai_sim::record::Identity;
use vsekai_sim::space::Space;
use vsekai_sim::world::GameContent;
use vsekai_sim::{SimConfig, Simulation};
use vsekai_storage::{Storage, last_durable_frame};

/// 20 kills under 100 bots; short: 3 under 25.
pub fn run(short: bool) -> Result<String> {
    let (rounds, players) = if short { (3, 25) } else { (20, 100) };
    let seed = seed(1_000);
    Trial::new(seed, players)?.rounds(rounds).with_context(|| format!("seed {seed} (VSEKAI_SEED replays it)"))
}

struct Trial {
    seed: u64,
    players: usize,
    folder: tempfile::TempDir,
    rng: ChaCha8Rng,
    /// All that any bot was told, by the bot's token.
    accounts: BTreeMap<String, Account>,
    actions: u64,
    applied_unacknowledged: u64,
    rejoined: u64,
}

impl Trial {
    fn new(seed: u64, players: usize) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let rng = ChaCha8Rng::seed_from_u64(seed);
        Ok(Trial {
            seed,
            players,
            folder,
            rng,
            accounts: BTreeMap::new(),
            actions: 0,
            applied_unacknowledged: 0,
            rejoined: 0,
        })
    }

    fn rounds(mut self, rounds: usize) -> Result<String> {
        let data = self.folder.path().join("data");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mut shard = ShardProcess::start(&data, &[])?;
        let mut ready_ms: f64 = 0.0;
        for round in 0..rounds {
            // Half of the players are new; the others were new in the last round and come back with what they were told.
            let seed = self.seed + round as u64;
            let mut who: Vec<(u64, usize)> = (0..self.players).map(|number| (seed, number)).collect();
            if round > 0 {
                who.iter_mut().skip(round % 2).step_by(2).for_each(|(seed, _)| *seed -= 1);
            }
            let bots = who.iter().map(|(seed, number)| match self.accounts.get(&Bot::secret(*seed, *number)) {
                Some(account) => Bot::rejoin(account.clone(), *seed, *number, Style::Builder),
                None => Bot::new(*seed, *number, Style::Builder),
            });
            let bots = bots.collect();
            let wait = Duration::from_millis(self.rng.random_range(2_500..6_000));
            let url = shard.signalling_url();
            let mut killed = Ok(());
            let (lives, _) = runtime.block_on(run_bots(&url, bots, async {
                tokio::time::sleep(wait).await;
                killed = shard.kill();
            }));
            killed.with_context(|| format!("round {round}"))?;
            let mut done = 0;
            for ((seed, number), life) in who.into_iter().zip(lives) {
                let token = Bot::secret(seed, number);
                let before = self.accounts.get(&token).map_or(0, |account| account.done);
                done += life.bot.account.done - before;
                self.rejoined += u64::from(before > 0 && life.bot.is_playing());
                self.accounts.insert(token, life.bot.account);
            }
            ensure!(done > 0, "round {round}: the bots did nothing in {wait:?}");
            self.actions += done;
            let (frame, state_hash) = self.check_world(&data).with_context(|| format!("round {round}"))?;

            shard = ShardProcess::start(&data, &[]).with_context(|| format!("round {round}"))?;
            let status = shard.status()?;
            let recovered = &status["recovered"];
            ensure!(
                recovered["frame"] == frame && recovered["state_hash"] == format!("{state_hash:016x}"),
                "round {round}: restarted with {recovered}, the last durable frame was {frame} with {state_hash:016x}"
            );
            let items = &status["items"];
            let total = |key: &str| items[key].as_u64().context("no item totals");
            ensure!(
                total("minted")? - total("consumed")? == total("live")?,
                "round {round}: items do not add up: {items}"
            );
            ready_ms = ready_ms.max(recovered["ready_ms"].as_f64().unwrap_or_default());
        }
        ensure!(shard.stop()?.success(), "the shard did not stop cleanly");
        Ok(format!(
            "{rounds} kills under {} bots, {} acknowledged actions of {} players checked ({} came back after a kill; {} more \
             actions had happened without an answer), every state hash equal, slowest restart {ready_ms:.0} ms",
            self.players,
            self.actions,
            self.accounts.len(),
            self.rejoined,
            self.applied_unacknowledged
        ))
    }

    /// Loads a copy of the killed shard's files and holds every account against it.
    fn check_world(&mut self, data: &Path) -> Result<(u64, u64)> {
        let copy = self.folder.path().join("copy");
        if copy.exists() {
            std::fs::remove_dir_all(&copy)?;
        }
        copy_folder(data, &copy)?;
        let config = world::storage_config(&copy);
        let (frame, state_hash) = last_durable_frame(&config)?.context("there is no world")?;
        let opened = Storage::open(config, Arc::new(|_| {}))?;
        let saved = opened.world.context("there is no world")?;
        ensure!(
            (saved.frame, saved.state_hash) == (frame, state_hash),
            "loaded frame {} with {:016x}, the last durable frame was {frame} with {state_hash:016x}",
            saved.frame,
            saved.state_hash
        );
        let payloads = saved.chunks.iter().map(|(_, p)| &p[..]).chain(saved.alone.iter().map(|p| &p[..]));
        // Restoring verifies the hash against what the frame said.
        let mut simulation =
            Simulation::restore(&SimConfig::default(), &world::content(), frame, state_hash, saved.ids, payloads)?;
        let content = simulation.world_mut().resource::<GameContent>().0.clone();
        let found = Found::in_world(&mut simulation, &content)?;
        for (token, account) in &mut self.accounts {
            let applied = found
                .check(token, account, &content)
                .with_context(|| format!("player {} ({token})", account.player))?;
            self.applied_unacknowledged += u64::from(applied);
        }
        let known: BTreeSet<EntityId> =
            self.accounts.values().flat_map(|account| account.built.iter().copied()).collect();
        let all: BTreeSet<EntityId> = found.structures.values().flatten().copied().collect();
        ensure!(all == known, "structures that nobody built: {:?}", all.difference(&known).collect::<Vec<_>>());
        Ok((frame, state_hash))
    }
}

/// What a world holds of players.
struct Found {
    players: BTreeMap<EntityId, (PlayerKey, u32, BTreeMap<ItemId, i64>)>,
    structures: BTreeMap<EntityId, BTreeSet<EntityId>>,
}

impl Found {
    fn in_world(simulation: &mut Simulation, content: &Content) -> Result<Self> {
        let (minted, consumed, live) = simulation.item_totals();
        for item in 0..minted.len().max(live.len()) {
            let of = |totals: &Vec<u64>| totals.get(item).copied().unwrap_or(0);
            ensure!(
                of(&minted) - of(&consumed) == of(&live),
                "item {item}: {} minted, {} consumed, {} live",
                of(&minted),
                of(&consumed),
                of(&live)
            );
        }
        let world = simulation.world_mut();
        let mut players = BTreeMap::new();
        let mut stacks = BTreeSet::new();
        for (identity, player, log, inventory) in
            world.query::<(&Identity, &Player, &CommandLog, &Inventory)>().iter(world)
        {
            let mut items = BTreeMap::new();
            for stack in inventory.slots.stacks() {
                ensure!(stacks.insert(stack.id), "the item stack {} is in two places", stack.id);
                ensure!(world.resource::<Space>().entity(stack.id).is_none(), "stack {} has an entity's id", stack.id);
                *items.entry(stack.item).or_default() += i64::from(stack.count);
            }
            players.insert(identity.id, (player.key, log.last, items));
        }
        let mut structures: BTreeMap<EntityId, BTreeSet<EntityId>> = BTreeMap::new();
        let mut places = BTreeSet::new();
        for (identity, structure) in world.query::<(&Identity, &Structure)>().iter(world) {
            structures.entry(structure.owner).or_default().insert(identity.id);
            let Structure { piece, column, row, level, turn, .. } = *structure;
            let slot = content.piece(piece).context("an unknown piece")?.kind.slot;
            let place = format!("{:?}", Place::new(Cell { column, row }, level, slot, turn));
            ensure!(places.insert(place), "two pieces in one place: {structure:?}");
        }
        Ok(Found { players, structures })
    }

    /// Holds one account against the world, then sets it to what the world says: what was under way is settled now.
    /// True when a command had happened without its answer.
    fn check(&self, token: &str, account: &mut Account, content: &Content) -> Result<bool> {
        if account.player == EntityId(0) || account.last_command == 0 && account.done == 0 && account.items.is_empty() {
            // Never told anything.
            return Ok(false);
        }
        let (key, last, items) = self.players.get(&account.player).context("the player is gone")?;
        ensure!(*key == PlayerKey::from_secret(token), "the entity belongs to somebody else");
        let nothing = BTreeSet::new();
        let built = self.structures.get(&account.player).unwrap_or(&nothing);
        let happened = match &account.under_way {
            Some((sequence, command)) if last == sequence => Some(command.clone()),
            _ => {
                ensure!(
                    *last == account.last_command,
                    "command {last} was executed last, not {}",
                    account.last_command
                );
                None
            }
        };
        let gained: BTreeMap<ItemId, i64> = changes(&account.items, items);
        let added: Vec<_> = built.difference(&account.built).copied().collect();
        let missing: Vec<_> = account.built.difference(built).copied().collect();
        let explained = match &happened {
            None | Some(Command::MoveItems { .. }) => gained.is_empty() && added.is_empty() && missing.is_empty(),
            // A command that happened may have been rejected, too: then nothing changed.
            Some(_) if gained.is_empty() && added.is_empty() && missing.is_empty() => true,
            Some(Command::Harvest { .. }) => {
                gained.len() == 1
                    && gained.values().all(|n| (1..=4).contains(n))
                    && added.is_empty()
                    && missing.is_empty()
            }
            Some(Command::Craft { recipe }) => {
                let recipe = content.recipe(*recipe).context("an unknown recipe")?;
                let mut effect = BTreeMap::new();
                recipe.inputs.iter().for_each(|(item, n)| *effect.entry(*item).or_default() -= i64::from(*n));
                recipe.outputs.iter().for_each(|(item, n)| *effect.entry(*item).or_default() += i64::from(*n));
                gained == effect && added.is_empty() && missing.is_empty()
            }
            Some(Command::Build { piece, .. }) => {
                let piece = content.piece(*piece).context("an unknown piece")?;
                let cost: BTreeMap<ItemId, i64> = piece.cost.iter().map(|(item, n)| (*item, -i64::from(*n))).collect();
                gained == cost && added.len() == 1 && missing.is_empty()
            }
            Some(Command::Demolish { structure }) => {
                gained.values().all(|n| *n > 0) && added.is_empty() && missing == [*structure]
            }
        };
        if !explained {
            bail!(
                "told of {} done actions, last command {}; under way: {:?}; but items changed by {gained:?}, structures \
                 added {added:?}, missing {missing:?}",
                account.done,
                account.last_command,
                account.under_way
            );
        }
        account.items = items.clone();
        account.built = built.clone();
        account.last_command = *last;
        account.under_way = None;
        Ok(happened.is_some())
    }
}

/// What `after` has more (or, negative, fewer) than `before`.
fn changes(before: &BTreeMap<ItemId, i64>, after: &BTreeMap<ItemId, i64>) -> BTreeMap<ItemId, i64> {
    let kinds: BTreeSet<ItemId> = before.keys().chain(after.keys()).copied().collect();
    let of = |items: &BTreeMap<ItemId, i64>, kind: &ItemId| items.get(kind).copied().unwrap_or(0);
    let changed = kinds.into_iter().map(|kind| (kind, of(after, &kind) - of(before, &kind)));
    changed.filter(|(_, by)| *by != 0).collect()
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
