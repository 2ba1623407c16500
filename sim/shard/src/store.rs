//! `vsekai-shard store …`: what operators do with a stored world, on any store.

use crate::content;
use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use std::collections::{BTreeSet, HashSet};
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use vsekai_schema::id::{EntityId, Tag};
use vsekai_schema::record::{EntitiesReader, IdBlock};
use vsekai_schema::units::ChunkKey;
use vsekai_sim::record::component_hash;
use vsekai_sim::registry::Registry;
use vsekai_sim::space::spawn_with_id;
use vsekai_sim::{SimConfig, Simulation};
use vsekai_storage::keys::{HomeId, Region};
use vsekai_storage::kv::Database;
use vsekai_storage::tools::{
    self, CheckOptions, CheckReport, ExportSummary, ImportOptions, Progress, RepairReport, Space, StoreStats,
    open_existing,
};

/// How often the line of progress is written anew.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

/// What `repair` ends with when something is lost.
const REPAIRED_WITH_LOSSES: u8 = 2;

const AFTER_HELP: &str = "\
STORE is local:DIR, fdb:CLUSTER_FILE, unix:SOCKET or mem:. A local: store that a shard runs on can't be opened by anybody \
else: have that shard export by `curl -X POST http://127.0.0.1:8080/api/export` (on its machine), or stop it. These \
commands show the store, which is up to one flush behind the journal; a shard that was stopped has flushed everything.

Examples:
  vsekai-shard store check local:data/store --journal data/journal
  vsekai-shard store export local:data/store backup.vsx
  vsekai-shard store import backup.vsx local:restored/store
  vsekai-shard store copy local:data/store fdb:/etc/foundationdb/fdb.cluster
  vsekai-shard store repair local:data/store --to local:repaired/store

Exit codes: 0 done, and for check: whole; 1 failed, and for check: problems were found; repair: 2 repaired, but something is \
lost. Wrong flags: 2, with a usage text.";

/// The subcommands of `store`.
#[derive(Debug, Subcommand)]
#[command(after_help = AFTER_HELP)]
pub enum StoreCommand {
    /// Look at everything in a store and say what is wrong with it
    ///
    /// Every key, every home, every entity list, ids, the change log, the state hash, and with --journal the journal.
    Check {
        /// The store
        store: String,
        /// The journal in front of the store, to be checked, too
        #[arg(long, value_name = "DIR")]
        journal: Option<PathBuf>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Count what is in a store: keys, bytes, entities
    Stats {
        /// The store
        store: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Print every component of every entity in a store, one line each, in order of entity
    Dump {
        /// The store
        store: String,
        #[command(flatten)]
        wanted: Wanted,
        /// Folder with the designers' files [default: sim/content if it is there, else built in]
        #[arg(long, value_name = "DIR")]
        content: Option<PathBuf>,
    },
    /// Write the whole world, as it was after one frame, into one file
    ///
    /// Also while a shard runs on the store, where others can open that. Two exports of the same frame are the same bytes.
    Export {
        /// The store
        store: String,
        /// The file, which must not be there yet; - is standard output
        file: PathBuf,
    },
    /// Bring an exported world into an empty store
    Import {
        /// The file
        file: PathBuf,
        /// The store
        store: String,
        /// Clear what an import or a first start that was cut short has left; never clears a world
        #[arg(long)]
        clear_leftovers: bool,
    },
    /// Bring the world of one store into another, empty one
    Copy {
        /// From this store
        from: String,
        /// To this store
        to: String,
        /// Clear what an import or a first start that was cut short has left; never clears a world
        #[arg(long)]
        clear_leftovers: bool,
    },
    /// Bring what is intact in a damaged store into a fresh one, and say what is lost
    ///
    /// The damaged store is never written to. A local: file that can't be opened is searched for what is intact in it; that
    /// takes about as much memory as the file is large.
    Repair {
        /// The damaged store
        store: String,
        /// The fresh store, which must be empty
        #[arg(long, value_name = "STORE")]
        to: String,
    },
}

/// What of a world is dumped; everything without any of these.
#[derive(Debug, Args)]
#[group(multiple = false)]
pub struct Wanted {
    /// Only what stands in this chunk
    #[arg(long, value_name = "X,Z", allow_hyphen_values = true, value_parser = parse_chunk)]
    chunk: Option<ChunkKey>,
    /// Only this entity
    #[arg(long, value_name = "ID")]
    entity: Option<u64>,
    /// Instead of entities: what the last N flushes changed
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "20")]
    changes: Option<usize>,
}

fn parse_chunk(text: &str) -> Result<ChunkKey, String> {
    let numbers = text.split_once(',').and_then(|(x, z)| Some((x.trim().parse().ok()?, z.trim().parse().ok()?)));
    let (x, z) = numbers.ok_or("a chunk is two numbers like -3,17")?;
    Ok(ChunkKey { x, z })
}

/// Carries a command out, and returns the program's exit code.
///
/// # Errors
/// When it failed.
pub fn run(command: StoreCommand) -> Result<u8> {
    let mut line = Line::new();
    let mut report = |progress| line.show(progress);
    let (code, text) = match command {
        StoreCommand::Check { store, journal, json } => {
            let database = open_existing(&store)?;
            let checked = check(&database, journal.as_deref(), &mut report)?;
            let text = if json { to_json(&check_json(&checked)) } else { check_text(&checked) };
            (u8::from(!checked.problems.is_empty()), text)
        }
        StoreCommand::Stats { store, json } => {
            let counted = tools::stats(&open_existing(&store)?, &store, Region::WHOLE, &mut report)?;
            (0, if json { to_json(&stats_json(&counted)) } else { stats_text(&counted) })
        }
        StoreCommand::Dump { store, wanted, content } => {
            let database = open_existing(&store)?;
            (0, dump(&database, &wanted, content.as_deref(), &mut report)?)
        }
        StoreCommand::Export { store, file } => (0, export(&store, &file, &mut report)?),
        StoreCommand::Import { file, store, clear_leftovers } => {
            let database = Database::open(&store)?;
            let imported = tools::import_file(&database, &file, import_options(clear_leftovers), &mut report)?;
            (0, format!("imported {}\n", summary_text(&imported)))
        }
        StoreCommand::Copy { from, to, clear_leftovers } => {
            let (from, to) = (open_existing(&from)?, Database::open(&to)?);
            let options = import_options(clear_leftovers);
            let (frame, homes) = tools::copy(&from, &to, Region::WHOLE, options, &mut report)?;
            (0, format!("copied frame {frame}: {homes} homes\n"))
        }
        StoreCommand::Repair { store, to } => {
            if store == to {
                bail!("a store is never repaired in place: --to must name another one");
            }
            let target = Database::open(&to)?;
            let repaired = tools::repair(&store, &target, Region::WHOLE, component_hash, &mut report)?;
            (if repaired.is_whole() { 0 } else { REPAIRED_WITH_LOSSES }, repair_text(&repaired, &to))
        }
    };
    line.clear();
    print(&text)?;
    Ok(code)
}

fn import_options(clear_leftovers: bool) -> ImportOptions {
    ImportOptions { clear_leftovers, component_hash: Some(component_hash) }
}

/// A reader that has seen enough (`| head`) is no error.
fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error).context("cannot write the result"),
        _ => Ok(()),
    }
}

fn to_json(value: &Value) -> String {
    format!("{value:#}\n")
}

// ---- Check -----------------------------------------------------------------------------------------------------------

fn check(database: &Database, journal: Option<&Path>, report: tools::Report<'_>) -> Result<CheckReport> {
    let mut judge = Judge::new()?;
    let mut judge = |id, tag, record: &[u8]| judge.component(id, tag, record);
    let options = CheckOptions { component_hash: Some(component_hash), judge: Some(&mut judge), journal_dir: journal };
    Ok(tools::check(database, Region::WHOLE, options, report)?)
}

/// Tries components out in a world of its own.
struct Judge {
    world: Simulation,
    /// Tags and versions of which one was read well.
    known: HashSet<(Tag, Option<u8>)>,
    tried: u64,
}

impl Judge {
    fn new() -> Result<Self> {
        let config = SimConfig { half_m: 32, ..SimConfig::default() };
        let (content, _) = content::load(None)?;
        Ok(Judge { world: Simulation::create(&config, &content), known: HashSet::new(), tried: 0 })
    }

    /// What is wrong with a component, if it is the first of its version or those before were wrong, too.
    fn component(&mut self, id: EntityId, tag: Tag, record: &[u8]) -> Result<(), String> {
        let version = (tag, record.first().copied());
        if self.known.contains(&version) {
            return Ok(());
        }
        self.tried += 1;
        let scratch = EntityId(u64::MAX - self.tried);
        let read = self.world.world_mut().resource_scope::<Registry, _>(|world, registry| {
            let Some((_, entry)) = registry.entry(tag) else {
                return Err(format!("entity {id} has a component with tag {}, which this build does not know", tag.0));
            };
            let entity = spawn_with_id(world, scratch, ());
            let read = entry.insert_record(&mut world.entity_mut(entity), record);
            world.despawn(entity);
            read.map_err(|error| format!("component `{}` of entity {id}: {error}", entry.name))
        });
        if read.is_ok() {
            self.known.insert(version);
        }
        read
    }
}

fn check_text(checked: &CheckReport) -> String {
    let mut text = String::new();
    for problem in &checked.problems {
        text += &format!("{}: {}\n", problem.place, problem.detail);
    }
    text += &format!(
        "frame {}, state hash {:016x}: {} entities in {} chunks and {} homes of their own, {} entries in the change log\n",
        checked.frame, checked.state_hash, checked.entities, checked.chunks, checked.alone, checked.changes
    );
    if let Some(journal) = &checked.journal {
        let torn = if journal.torn { "; its last write was torn, the next start cuts that off" } else { "" };
        text += &format!(
            "the journal has {} records, {} of them behind the store{torn}\n",
            journal.records, journal.behind_store
        );
    }
    if checked.version_1_homes > 0 {
        text += &format!("{} homes are in the form of version 1 until they change\n", checked.version_1_homes);
    }
    if checked.unreferenced_parts > 0 {
        text += &format!(
            "{} parts were left by a flush that was cut short; the next start takes them away\n",
            checked.unreferenced_parts
        );
    }
    text += &match checked.problems.len() {
        0 => "the store is whole\n".to_string(),
        1 => "1 problem\n".to_string(),
        count => format!("{count} problems\n"),
    };
    text
}

fn check_json(checked: &CheckReport) -> Value {
    let problems: Vec<Value> =
        checked.problems.iter().map(|problem| json!({ "place": problem.place, "detail": problem.detail })).collect();
    json!({
        "whole": problems.is_empty(),
        "problems": problems,
        "frame": checked.frame,
        "state_hash": format!("{:016x}", checked.state_hash),
        "computed_hash": checked.computed_hash.map(|hash| format!("{hash:016x}")),
        "chunks": checked.chunks,
        "alone": checked.alone,
        "entities": checked.entities,
        "version_1_homes": checked.version_1_homes,
        "unreferenced_parts": checked.unreferenced_parts,
        "changes": checked.changes,
        "journal": checked.journal.as_ref().map(|journal| json!({
            "records": journal.records,
            "behind_store": journal.behind_store,
            "torn": journal.torn,
        })),
    })
}

// ---- Stats -----------------------------------------------------------------------------------------------------------

fn spaces(counted: &StoreStats) -> [(&'static str, Space); 9] {
    [
        ("own", counted.own),
        ("lease", counted.lease),
        ("change log", counted.changes),
        ("chunk records", counted.chunk_records),
        ("chunk parts", counted.chunk_parts),
        ("entity records", counted.entity_records),
        ("entity parts", counted.entity_parts),
        ("unreferenced parts", counted.unreferenced_parts),
        ("together", counted.total()),
    ]
}

fn stats_text(counted: &StoreStats) -> String {
    let mut text = format!("{:<20}{:>12}{:>16}{:>16}\n", "", "keys", "key bytes", "value bytes");
    for (name, space) in spaces(counted) {
        text += &format!("{name:<20}{:>12}{:>16}{:>16}\n", space.keys, space.key_bytes, space.value_bytes);
    }
    let frame = counted.frame.map_or("unknown".into(), |frame| frame.to_string());
    text += &format!(
        "\nframe               {frame}\nentities            {} ({} in chunks, {} by themselves)\nbytes per entity    \
         {:.1} stored\nentity lists        {} bytes unpacked\n",
        counted.entities(),
        counted.entities_in_chunks,
        counted.entities_alone,
        counted.bytes_per_entity(),
        counted.list_bytes
    );
    if let Some(largest) = counted.largest_chunk {
        let ChunkKey { x, z } = largest.chunk;
        text +=
            &format!("largest chunk       {x},{z}: {} bytes unpacked, {} entities\n", largest.bytes, largest.entities);
    }
    if let Some(bytes) = counted.file_bytes {
        text += &format!("file                {bytes} bytes\n");
    }
    for (what, count) in [
        ("homes that can't be read, see `check`", counted.unreadable_homes),
        ("homes in the form of version 1", counted.version_1_homes),
        ("keys of no known kind, see `check`", counted.strays),
    ] {
        if count > 0 {
            text += &format!("{count} {what}\n");
        }
    }
    text
}

fn stats_json(counted: &StoreStats) -> Value {
    let space =
        |space: Space| json!({ "keys": space.keys, "key_bytes": space.key_bytes, "value_bytes": space.value_bytes });
    let spaces: serde_json::Map<String, Value> =
        spaces(counted).into_iter().map(|(name, found)| (name.replace(' ', "_"), space(found))).collect();
    json!({
        "spaces": spaces,
        "frame": counted.frame,
        "entities": counted.entities(),
        "entities_in_chunks": counted.entities_in_chunks,
        "entities_alone": counted.entities_alone,
        "bytes_per_entity": counted.bytes_per_entity(),
        "list_bytes": counted.list_bytes,
        "largest_chunk": counted.largest_chunk.map(|largest| json!({
            "x": largest.chunk.x,
            "z": largest.chunk.z,
            "bytes": largest.bytes,
            "entities": largest.entities,
        })),
        "file_bytes": counted.file_bytes,
        "unreadable_homes": counted.unreadable_homes,
        "version_1_homes": counted.version_1_homes,
        "strays": counted.strays,
    })
}

// ---- Dump ------------------------------------------------------------------------------------------------------------

/// The dump as text. A world whose state hash is wrong is dumped as well, with a warning.
pub fn dump(database: &Database, wanted: &Wanted, content: Option<&Path>, report: tools::Report<'_>) -> Result<String> {
    if let Some(count) = wanted.changes {
        return changes_text(database, count);
    }
    let world = tools::read_world(database, Region::WHOLE, None, report)?;
    let mut only: Option<BTreeSet<EntityId>> = wanted.entity.map(|id| [EntityId(id)].into());
    let mut state_hash = 0u64;
    for (home, list) in &world.homes {
        let entities = EntitiesReader::new(list).and_then(EntitiesReader::collect);
        let entities = entities.with_context(|| format!("the entity list of {home}"))?;
        for entity in &entities {
            for (tag, record) in &entity.components {
                state_hash = state_hash.wrapping_add(component_hash(entity.id, *tag, record));
            }
        }
        if wanted.chunk.is_some_and(|chunk| *home == HomeId::Chunk(chunk)) {
            only = Some(entities.iter().map(|entity| entity.id).collect());
        }
    }
    if let Some(chunk) = wanted.chunk
        && only.is_none()
    {
        bail!("there is nothing in chunk {},{}", chunk.x, chunk.z);
    }
    if state_hash != world.state_hash {
        let stored = world.state_hash;
        eprintln!("vsekai-shard: the state hash is {state_hash:016x}, but frame {} had {stored:016x}", world.frame);
    }
    let (content, _) = content::load(content)?;
    let ids = IdBlock { next: world.ids_reserved_to, end: world.ids_reserved_to };
    let payloads = world.homes.iter().map(|(_, list)| &list[..]);
    let restored = Simulation::restore(&SimConfig::default(), &content, world.frame, state_hash, ids, payloads);
    let mut simulation = restored.context("the stored world can't be restored")?;
    let mut text = String::new();
    simulation.dump(|entity, component, value| {
        if only.as_ref().is_none_or(|only| only.contains(&entity)) {
            text += &format!("{entity} {component} {value}\n");
        }
    });
    if text.is_empty() {
        bail!("there is no entity {}", wanted.entity.unwrap_or_default());
    }
    Ok(text)
}

fn changes_text(database: &Database, count: usize) -> Result<String> {
    let mut text = String::new();
    for entry in tools::read_changes_tail(database, Region::WHOLE, count)? {
        text += &format!("frames {}-{} state {:016x}", entry.first_frame, entry.last_frame, entry.state_hash);
        if !entry.complete {
            text += " (too many to be listed)";
        }
        for code in &entry.chunks {
            let ChunkKey { x, z } = ChunkKey::from_morton(*code);
            text += &format!(" chunk {x},{z}");
        }
        for id in &entry.entities {
            text += &format!(" entity {id}");
        }
        text.push('\n');
    }
    Ok(text)
}

// ---- Export and repair -----------------------------------------------------------------------------------------------

fn export(store: &str, file: &Path, report: tools::Report<'_>) -> Result<String> {
    let database = open_existing(store)?;
    if file == Path::new("-") {
        let out = std::io::BufWriter::new(std::io::stdout().lock());
        let summary = tools::export_to(&database, Region::WHOLE, Some(component_hash), out, report)?;
        eprintln!("exported {}", summary_text(&summary));
        return Ok(String::new());
    }
    let summary = tools::export_file(&database, Region::WHOLE, Some(component_hash), file, report)?;
    Ok(format!("exported {}\n", summary_text(&summary)))
}

fn summary_text(summary: &ExportSummary) -> String {
    let ExportSummary { frame, state_hash, entities, chunks, alone, file_bytes, digest, .. } = summary;
    format!(
        "frame {frame}, state hash {state_hash:016x}: {entities} entities in {chunks} chunks and {alone} homes of their own, \
         {file_bytes} bytes, digest {digest:032x}"
    )
}

fn repair_text(repaired: &RepairReport, target: &str) -> String {
    let mut text = String::new();
    if let Some(refused) = &repaired.refused {
        text += &format!("the store could not be opened, so its file was searched: {refused}\n");
    }
    for lost in &repaired.lost {
        text += &format!("lost: {}: {}\n", lost.place, lost.detail);
    }
    text += &format!(
        "{target} holds frame {}, state hash {:016x}: {} entities in {} chunks and {} homes of their own; new ids begin at {}\n",
        repaired.frame,
        repaired.state_hash,
        repaired.entities,
        repaired.chunks,
        repaired.alone,
        repaired.ids_reserved_to
    );
    text += if repaired.is_whole() {
        "nothing is lost: go on with the same journal\n"
    } else {
        "something is lost, so the old journal does not fit any more: start with a new, empty one\n"
    };
    text
}

// ---- Progress --------------------------------------------------------------------------------------------------------

/// One line on standard error that says how far it is; nothing when that is no terminal.
struct Line {
    is_terminal: bool,
    began: Instant,
    stage: &'static str,
    shown: Option<Instant>,
}

impl Line {
    fn new() -> Self {
        Line { is_terminal: std::io::stderr().is_terminal(), began: Instant::now(), stage: "", shown: None }
    }

    fn show(&mut self, progress: Progress) {
        if !self.is_terminal || self.shown.is_some_and(|shown| shown.elapsed() < PROGRESS_INTERVAL) {
            return;
        }
        if self.stage != progress.stage {
            (self.stage, self.began) = (progress.stage, Instant::now());
        }
        self.shown = Some(Instant::now());
        // Back to the line's start, and clear what stood there.
        eprint!("\r\x1b[K{}", progress_text(progress, self.began.elapsed()));
    }

    fn clear(&self) {
        if self.shown.is_some() {
            eprint!("\r\x1b[K");
        }
    }
}

fn progress_text(progress: Progress, elapsed: Duration) -> String {
    let Progress { stage, done, total, unit } = progress;
    let percent = total.filter(|total| *total > 0).map(|total| format!(" ({} %)", done.saturating_mul(100) / total));
    let rate = done as f64 / elapsed.as_secs_f64().max(0.001);
    format!("{stage}: {done} {unit}{}, {rate:.0} per second", percent.unwrap_or_default())
}

#[cfg(test)]
mod tests;
