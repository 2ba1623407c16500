//! The real program where it must not start, where it must stop, and where it is stopped: each time with a clear cause, an
//! exit code, and everything that was stored as it was.

use serde_json::Value;
use std::collections::BTreeMap;
use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;
use vsekai_bench::bot::{Account, Style};
use vsekai_bench::process::ShardProcess;
use vsekai_bench::webrtc::Life;
use vsekai_tests::harness::{Bots, Ended, MemoryDisk, Stored, copy_folder, files, run_shard, wait_for};

const PATIENCE: Duration = Duration::from_secs(60);

/// A small world: it is made in a moment, and bots meet on it.
const SMALL_WORLD: &str = "[simulation]\nhalf_m = 64\n";

// ---- Refusals ---------------------------------------------------------------------------------------------------------

/// A start that must be refused: free ports unless `arguments` say otherwise. Asserts what all refusals have in common.
fn refused(data: &Path, arguments: &[&str]) -> String {
    let data = data.display().to_string();
    let mut all = vec!["run", "--data", &data];
    if !arguments.contains(&"--http") {
        all.extend(["--http", "127.0.0.1:0"]);
    }
    all.extend(arguments);
    let Ended { code, stdout, stderr } = run_shard(&all);
    assert_eq!(code, Some(1), "exit code of {all:?}; it said {stderr}");
    assert_eq!(stdout, "", "it said that it was ready");
    assert!(!stderr.contains("panicked"), "a panic shows: {stderr}");
    stderr
}

/// The one line of a refusal, without what begins it.
fn refused_in_one_line(data: &Path, arguments: &[&str]) -> String {
    let stderr = refused(data, arguments);
    let line = stderr.strip_suffix('\n').unwrap_or_default();
    assert!(!line.contains('\n'), "more than one line: {stderr}");
    let cause = line.strip_prefix("vsekai-shard: ");
    cause.unwrap_or_else(|| panic!("the line does not begin with the program: {line}")).to_string()
}

#[test]
fn a_directory_below_a_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "precious").unwrap();
    let store = file.join("data/store");
    assert_eq!(
        refused_in_one_line(&file.join("data"), &[]),
        format!("cannot create the directory {}: Not a directory (os error 20)", store.display())
    );
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
}

#[test]
fn a_read_only_directory_is_refused() {
    let disk = MemoryDisk::mount(1, true);
    let store = disk.path().join("data/store");
    assert_eq!(
        refused_in_one_line(&disk.path().join("data"), &[]),
        format!(
            "cannot create the directory {} (the file system is read-only): Read-only file system (os error 30)",
            store.display()
        )
    );
}

#[test]
fn a_taken_port_is_refused_before_anything_is_stored() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let http = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = http.local_addr().unwrap().to_string();
    assert_eq!(
        refused_in_one_line(&data, &["--http", &address]),
        format!("cannot listen on {address} (HTTP): Address already in use (os error 98)")
    );
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = udp.local_addr().unwrap().to_string();
    assert_eq!(
        refused_in_one_line(&data, &["--udp", &address]),
        format!("cannot start WebRTC: cannot bind UDP {address}: Address already in use (os error 98)")
    );
    assert!(!data.exists(), "something was stored");
}

#[test]
fn a_full_disk_is_refused() {
    let disk = MemoryDisk::mount(24, false);
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("shard.toml");
    std::fs::write(&config, SMALL_WORLD).unwrap();
    let config = config.display().to_string();
    let filler = disk.fill();
    let cause = refused_in_one_line(&disk.path().join("data"), &["--config", &config]);
    assert!(cause.contains("(the disk is full)") && cause.contains(&disk.path().display().to_string()), "{cause}");
    std::fs::remove_file(filler).unwrap();
    // What the attempt left behind is in nobody's way.
    let shard = ShardProcess::start(&disk.path().join("data"), &["--config", &config]).unwrap();
    assert_eq!(shard.stop().unwrap().code(), Some(0));
}

#[test]
fn a_mistake_in_a_file_or_a_flag_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let config = folder.path().join("shard.toml");
    let config_name = config.display().to_string();

    std::fs::write(&config, "[simulation]\ntick_hz = 30\ntick_rate = 30\n").unwrap();
    let stderr = refused(&data, &["--config", &config_name]);
    let begin = format!("vsekai-shard: {config_name}: TOML parse error at line 3, column 1\n");
    assert!(stderr.starts_with(&begin), "{stderr}");
    assert!(stderr.contains("unknown field `tick_rate`, expected one of `tick_hz`, `seed`, `half_m`"), "{stderr}");

    std::fs::write(&config, "[net]\nplayers_max = 0\n").unwrap();
    assert_eq!(
        refused_in_one_line(&data, &["--config", &config_name]),
        format!("{config_name}: `net.players_max` is 0, it must be from 1 to 10000")
    );

    let content = folder.path().join("content");
    copy_folder(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../sim/content")), &content);
    let recipes = content.join("recipes.toml");
    let text = std::fs::read_to_string(&recipes).unwrap();
    std::fs::write(&recipes, text.replace("wood = 1", "would = 1")).unwrap();
    let stderr = refused(&data, &["--content", &content.display().to_string()]);
    let begin = format!("vsekai-shard: content in {}: ", content.display());
    assert!(stderr.starts_with(&begin) && stderr.contains("recipes.toml") && stderr.contains("would"), "{stderr}");

    std::fs::remove_file(&recipes).unwrap();
    assert_eq!(
        refused_in_one_line(&data, &["--content", &content.display().to_string()]),
        format!("cannot read {}: No such file or directory (os error 2)", recipes.display())
    );

    let ended = run_shard(&["--data", &data.display().to_string(), "--tickrate", "30"]);
    assert_eq!((ended.code, &ended.stdout[..]), (Some(2), ""));
    assert!(ended.stderr.starts_with("error: unexpected argument '--tickrate' found\n"), "{}", ended.stderr);
    assert!(!data.exists(), "something was stored");
}

// ---- Damage -----------------------------------------------------------------------------------------------------------

/// A world that bots have built in.
struct BuiltWorld {
    folder: TempDir,
    config: String,
    accounts: Vec<Account>,
}

enum Ending {
    Stopped,
    Killed,
}

impl BuiltWorld {
    fn make(seed: u64, ending: Ending, storage: &str) -> BuiltWorld {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("shard.toml");
        std::fs::write(&config, format!("{SMALL_WORLD}[storage]\n{storage}\n")).unwrap();
        let config = config.display().to_string();
        let shard = ShardProcess::start(&folder.path().join("data"), &["--config", &config]).unwrap();
        let bots = Bots::start(&shard, 6, seed, Style::Builder);
        wait_for_structures(&shard, 6);
        let lives = match ending {
            Ending::Stopped => {
                let lives = bots.stop();
                assert_eq!(shard.stop().unwrap().code(), Some(0));
                lives
            }
            Ending::Killed => {
                shard.kill().unwrap();
                bots.stop()
            }
        };
        let accounts = accounts(&lives);
        assert!(accounts.iter().map(|account| account.done).sum::<u64>() > 20, "seed {seed}: they did too little");
        BuiltWorld { folder, config, accounts }
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn store(&self) -> PathBuf {
        self.data().join("store/store.redb")
    }

    /// The oldest segment of the journal that holds records of bots.
    fn segment(&self) -> PathBuf {
        let segments = files(&self.data().join("journal"));
        segments.into_keys().next().unwrap()
    }

    /// Damages `file`, asserts that the start is refused with all files below `kept` as they are, and repairs the file.
    fn refuses_damage(&self, file: &Path, kept: &Path, damage: impl FnOnce(&mut Vec<u8>)) -> String {
        let whole = std::fs::read(file).unwrap();
        let mut damaged = whole.clone();
        damage(&mut damaged);
        assert_ne!(damaged, whole, "nothing was damaged");
        std::fs::write(file, damaged).unwrap();
        let before = files(kept);
        let cause = refused_in_one_line(&self.data(), &["--config", &self.config]);
        let after = files(kept);
        assert_eq!(after.keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>(), "{cause}");
        let changed: Vec<_> = after.keys().filter(|path| after[*path] != before[*path]).collect();
        assert!(changed.is_empty(), "a refused start changed {changed:?}: {cause}");
        std::fs::write(file, whole).unwrap();
        cause
    }

    /// Asserts that everything the bots were told of is stored.
    fn is_whole(&self) {
        let (checked, faults) = Stored::read(&self.data()).check(&self.accounts);
        assert_eq!(faults, Vec::<String>::new(), "of {checked} actions");
    }
}

fn accounts(lives: &[Life]) -> Vec<Account> {
    lives.iter().map(|life| life.bot.account.clone()).collect()
}

fn wait_for_structures(shard: &ShardProcess, count: u64) {
    wait_for("bots to build", PATIENCE, || {
        let status = shard.status().unwrap();
        (status["entities"]["structure"].as_u64().unwrap() >= count).then_some(())
    });
}

/// Where `needle` begins in `bytes`, everywhere.
fn places_of(needle: &[u8], bytes: &[u8]) -> Vec<usize> {
    (0..bytes.len().saturating_sub(needle.len())).filter(|at| bytes[*at..].starts_with(needle)).collect()
}

#[test]
fn a_corrupt_store_is_refused_and_left_as_it_is() {
    let world = BuiltWorld::make(21, Ending::Stopped, "");
    let store = world.store();
    let name = store.display().to_string();

    let cause = world.refuses_damage(&store, &world.data(), |bytes| bytes.fill(0xa5));
    assert_eq!(cause, format!("{name} is corrupt: it does not begin as a store does"));
    for (what, damage) in [
        (
            "truncated to half",
            Box::new(|bytes: &mut Vec<u8>| bytes.truncate(bytes.len() / 2)) as Box<dyn Fn(&mut Vec<u8>)>,
        ),
        ("truncated to 100 bytes", Box::new(|bytes: &mut Vec<u8>| bytes.truncate(100))),
        (
            "a bit of every 64 bytes flipped",
            Box::new(|bytes: &mut Vec<u8>| {
                bytes.iter_mut().skip(4_096).step_by(64).for_each(|byte| *byte ^= 0x10);
            }),
        ),
        (
            "garbage behind the first page",
            Box::new(|bytes: &mut Vec<u8>| {
                bytes[4_096..].iter_mut().enumerate().for_each(|(at, byte)| *byte = (at * 31 + 7) as u8);
            }),
        ),
    ] {
        let cause = world.refuses_damage(&store, &world.data(), damage);
        assert!(cause.contains(&name), "{what}: the cause does not name {name}: {cause}");
    }
    world.is_whole();
}

#[test]
fn a_rotten_value_is_refused_and_nothing_else_is_lost() {
    let world = BuiltWorld::make(22, Ending::Stopped, "");
    let store = world.store();
    let mut bytes = std::fs::read(&store).unwrap();
    let names = places_of(b"bot 3", &bytes);
    assert!(!names.is_empty(), "the store holds the player's name");
    for at in &names {
        bytes[*at] = b'X';
    }
    std::fs::write(&store, &bytes).unwrap();
    let cause = refused_in_one_line(&world.data(), &["--config", &world.config]);
    // The walk over all pages at the opening finds it, before any value is read.
    assert!(cause.contains(&format!("{} is corrupt", store.display())), "{cause}");

    let mut bytes = std::fs::read(&store).unwrap();
    for at in places_of(b"Xot 3", &bytes) {
        bytes[at] = b'b';
    }
    std::fs::write(&store, &bytes).unwrap();
    world.is_whole();
}

#[test]
fn a_journal_damaged_in_its_middle_is_refused_and_left_as_it_is() {
    // Nothing is folded into the store before the kill: the journal alone knows what the bots did.
    let world = BuiltWorld::make(23, Ending::Killed, "flush_interval_ms = 3600000");
    let segment = world.segment();
    let records = std::fs::read(&segment).unwrap().iter().rposition(|byte| *byte != 0).unwrap();
    // The store was not closed: its engine may mend its file, and knows nothing of what the journal holds.
    let journal = world.data().join("journal");
    let cause = world.refuses_damage(&segment, &journal, |bytes| bytes[records / 2] ^= 0x10);
    let damaged = format!(" of {} is corrupt: it is damaged, but record ", segment.display());
    assert!(cause.contains(&damaged) && cause.ends_with(" behind it is whole"), "{cause}");
    world.is_whole();
}

#[test]
fn a_journal_without_its_store_is_refused() {
    let world = BuiltWorld::make(24, Ending::Stopped, "");
    let kept = world.folder.path().join("kept.redb");
    std::fs::rename(world.store(), &kept).unwrap();
    let journal = world.data().join("journal");
    let before = files(&journal);
    let cause = refused_in_one_line(&world.data(), &["--config", &world.config]);
    let begin = format!("the journal {} does not belong to this store: it holds records up to ", journal.display());
    assert!(cause.starts_with(&begin) && cause.ends_with(", and the store no world"), "{cause}");
    assert_eq!(files(&journal), before);
    std::fs::rename(kept, world.store()).unwrap();
    world.is_whole();
}

// ---- Running ----------------------------------------------------------------------------------------------------------

#[test]
fn a_disk_that_fills_up_stops_the_shard_and_loses_nothing() {
    let disk = MemoryDisk::mount(24, false);
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("shard.toml");
    // Small segments: the next one is due soon. Nobody looks how much room there is.
    let storage = "segment_mib = 1\nflush_interval_ms = 200\nmin_free_mib = 0";
    std::fs::write(&config, format!("{SMALL_WORLD}[storage]\n{storage}\n")).unwrap();
    let config = config.display().to_string();
    let data = disk.path().join("data");
    let mut shard = ShardProcess::start(&data, &["--config", &config]).unwrap();
    let bots = Bots::start(&shard, 20, 25, Style::Builder);
    wait_for_structures(&shard, 10);
    let filler = disk.fill();
    let status = shard.await_end(PATIENCE).unwrap();
    let lives = bots.stop();
    let log = shard.log();
    let last = log.lines().last().unwrap();
    assert_eq!(status.code(), Some(1), "{last}");
    assert!(last.starts_with("vsekai-shard: "), "{last}");
    assert!(last.contains("(the disk is full)") && last.contains(&data.display().to_string()), "{last}");
    assert!(!log.contains("panicked"), "{log}");
    drop(shard);

    std::fs::remove_file(filler).unwrap();
    let shard = ShardProcess::start(&data, &["--config", &config]).unwrap();
    assert_eq!(shard.stop().unwrap().code(), Some(0));
    let accounts = accounts(&lives);
    let (checked, faults) = Stored::read(&data).check(&accounts);
    assert!(checked > 20, "only {checked} actions");
    assert_eq!(faults, Vec::<String>::new(), "of {checked} actions");
}

#[test]
fn a_second_shard_on_the_same_data_is_refused_and_the_first_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let config = folder.path().join("shard.toml");
    std::fs::write(&config, SMALL_WORLD).unwrap();
    let config = config.display().to_string();
    let mut shard = ShardProcess::start(&data, &["--config", &config]).unwrap();
    let bots = Bots::start(&shard, 4, 26, Style::Builder);
    wait_for_structures(&shard, 2);

    let cause = refused_in_one_line(&data, &["--config", &config]);
    let store = data.join("store/store.redb");
    assert_eq!(cause, format!("{} is already in use by another process", store.display()));

    let before = shard.status().unwrap();
    let done = |status: &Value| status["net"]["commands_done"].as_u64().unwrap();
    wait_for("the first shard to go on", PATIENCE, || {
        (done(&shard.status().unwrap()) >= done(&before) + 20).then_some(())
    });
    let lives = bots.stop();
    assert_eq!(lives.iter().filter_map(|life| life.lost.clone()).collect::<Vec<_>>(), Vec::<String>::new());
    assert!(shard.is_running());
    assert_eq!(shard.stop().unwrap().code(), Some(0));
    let (checked, faults) = Stored::read(&data).check(&accounts(&lives));
    assert_eq!(faults, Vec::<String>::new(), "of {checked} actions");
}

#[test]
fn a_shard_that_is_asked_to_stop_stops_and_comes_back_as_it_was() {
    let world = BuiltWorld::make(27, Ending::Stopped, "");
    let data = world.data();
    let storage = vsekai_storage::Config::new(format!("local:{}", data.join("store").display()), data.join("journal"));
    let (frame, state_hash) = vsekai_storage::last_durable_frame(&storage).unwrap().unwrap();
    // A command may have been done whose result nobody heard: what is stored counts, and `is_whole` compares it with what was told.
    let held: i64 = Stored::read(&data).items.values().flat_map(BTreeMap::values).sum();
    let shard = ShardProcess::start(&data, &["--config", &world.config]).unwrap();
    let recovered = shard.status().unwrap()["recovered"].clone();
    assert_eq!(recovered["frame"], frame);
    assert_eq!(recovered["state_hash"], format!("{state_hash:016x}"));
    // What was built, its bots among what was found, and the items that are in hands.
    let status = shard.status().unwrap();
    assert_eq!(status["entities"]["player"], world.accounts.len());
    assert_eq!(status["items"]["live"], held);
    assert_eq!(shard.stop().unwrap().code(), Some(0));
    world.is_whole();
}
