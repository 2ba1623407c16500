//! What all system tests share: waiting for a condition, programs that are to end, bots that play meanwhile, stored
//! worlds, and file systems made for a test.

use anyhow::{Result, ensure};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use std::collections::BTreeMap;
use std::ffi::CString;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use vsekai_bench::bot::{Account, Bot, Style, kind_of};
use vsekai_bench::process::{ShardProcess, program};
use vsekai_bench::webrtc::{Life, run_bots};
use vsekai_schema::id::{EntityId, ItemId};
use vsekai_schema::wire;

/// How often a condition is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// How long a program that must end at once may take.
const END_DEADLINE: Duration = Duration::from_secs(60);

/// Looks until there is an answer, and returns it.
///
/// # Panics
/// When there is none within `deadline`: the text says what was waited for.
pub fn wait_for<T>(what: &str, deadline: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begin.elapsed() < deadline, "waited {deadline:?} in vain for {what}");
        std::thread::sleep(LOOK_INTERVAL);
    }
}

/// The same for looks that are asynchronous.
///
/// # Panics
/// When there is no answer within `deadline`.
pub async fn eventually<T>(what: &str, deadline: Duration, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(begin.elapsed() < deadline, "waited {deadline:?} in vain for {what}");
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// How a program ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// Exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

/// Runs `vsekai-shard` with `arguments` until it ends.
///
/// # Panics
/// When it does not end within a minute.
pub fn run_shard(arguments: &[&str]) -> Ended {
    let folder = tempfile::tempdir().expect("a folder for the output");
    let [out, err] = ["stdout", "stderr"].map(|name| folder.path().join(name));
    let file = |path: &Path| std::fs::File::create(path).expect("a file for the output");
    let child = Command::new(program("vsekai-shard").expect("the shard is built"))
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(file(&out))
        .stderr(file(&err))
        .spawn()
        .expect("the shard starts");
    let mut child = Killed(child);
    let what = format!("`vsekai-shard {}` to end", arguments.join(" "));
    let status = wait_for(&what, END_DEADLINE, || child.0.try_wait().expect("the shard can be waited for"));
    let read = |path: &Path| std::fs::read_to_string(path).expect("the output is text");
    Ended { code: status.code(), stdout: read(&out), stderr: read(&err) }
}

/// A child process that is killed when dropped.
#[derive(Debug)]
pub struct Killed(pub Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // Gone already, most of the time.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Bots that play over WebRTC on a thread of their own while a test does something else.
#[derive(Debug)]
pub struct Bots {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<Vec<Life>>,
}

impl Bots {
    /// Lets `count` new bots of `seed` play on `shard`.
    pub fn start(shard: &ShardProcess, count: usize, seed: u64, style: Style) -> Bots {
        Bots::rejoin(shard, vec![None; count], seed, style)
    }

    /// Lets bots play that go on where their accounts ended.
    pub fn rejoin(shard: &ShardProcess, accounts: Vec<Option<Account>>, seed: u64, style: Style) -> Bots {
        Bots::play(&shard.signalling_url(), accounts, seed, style)
    }

    /// The same on the shard that is reached at `url` (`ws://host:port/`).
    ///
    /// # Panics
    /// When the system gives no thread.
    pub fn play(url: &str, accounts: Vec<Option<Account>>, seed: u64, style: Style) -> Bots {
        let url = url.to_string();
        let (stop, stopped) = oneshot::channel();
        let bots = accounts.into_iter().enumerate().map(|(number, account)| match account {
            Some(account) => Bot::rejoin(account, seed, number, style),
            None => Bot::new(seed, number, style),
        });
        let bots = bots.collect();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let end = async {
                // A dropped sender is an end, too.
                let _ = stopped.await;
            };
            runtime.expect("a runtime").block_on(run_bots(&url, bots, end)).0
        });
        Bots { stop, thread }
    }

    /// Ends them and returns what they lived through.
    ///
    /// # Panics
    /// When a bot panicked.
    pub fn stop(self) -> Vec<Life> {
        let _ = self.stop.send(());
        self.thread.join().expect("no bot panics")
    }
}

/// What a stored world holds of players, as `vsekai-shard dump` prints it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// What each player carries.
    pub items: BTreeMap<EntityId, BTreeMap<ItemId, i64>>,
    /// Number of each player's last command.
    pub last_command: BTreeMap<EntityId, u32>,
    /// Structures and who owns them.
    pub structures: BTreeMap<EntityId, EntityId>,
}

impl Stored {
    /// Reads the world in the data directory `data`, where no shard may run.
    ///
    /// # Panics
    /// When it cannot be read.
    pub fn read(data: &Path) -> Stored {
        let dump = run_shard(&["dump", "--data", &data.display().to_string()]);
        assert_eq!(dump.code, Some(0), "the dump failed: {}", dump.stderr);
        let mut stored = Stored::default();
        for line in dump.stdout.lines() {
            let (entity, rest) = line.split_once(' ').expect("entity component value");
            let entity = EntityId(entity.parse().expect("an entity's number"));
            if rest.starts_with("inventory ") {
                let held = stored.items.entry(entity).or_default();
                for stack in rest.split("item: ItemId(").skip(1) {
                    *held.entry(ItemId(number(stack, ""))).or_default() += number::<i64>(stack, "count: ");
                }
            } else if rest.starts_with("command log ") {
                stored.last_command.insert(entity, number(rest, "last: "));
            } else if rest.starts_with("structure ") {
                stored.structures.insert(entity, EntityId(number(rest, "owner: #")));
            }
        }
        stored
    }

    /// Compares with what bots were told; commands that never had a result may each have happened or not. Returns how many actions were checked, and what is missing or too much.
    pub fn check(&self, accounts: &[Account]) -> (u64, Vec<String>) {
        let mut faults = Vec::new();
        let mut checked = 0;
        for account in accounts {
            checked += account.done;
            let player = account.player;
            let missing: Vec<_> = account.built.iter().filter(|id| self.structures.get(id) != Some(&player)).collect();
            let last = self.last_command.get(&player).copied();
            if last == Some(account.last_command) {
                let held: BTreeMap<_, _> =
                    self.items.get(&player).into_iter().flatten().filter(|(_, n)| **n != 0).collect();
                let told: BTreeMap<_, _> = account.items.iter().filter(|(_, n)| **n != 0).collect();
                let owned = self.structures.values().filter(|owner| **owner == player).count();
                if held != told && !account.learns_items {
                    faults.push(format!("player {player} holds {held:?} and was told of {told:?}"));
                }
                // What never had a result may have happened.
                let built_unsettled = account.unsettled.iter().filter(|command| kind_of(command) == "build").count();
                let more = owned + missing.len() - account.built.len();
                if missing.iter().any(|id| !demolished(account.unsettled.iter(), **id)) || more > built_unsettled {
                    faults.push(format!(
                        "player {player} owns {owned}, not {}; missing {missing:?}",
                        account.built.len()
                    ));
                }
            } else if last.is_none_or(|last| last < account.last_command) {
                faults.push(format!("player {player} executed command {last:?}, was told of {}", account.last_command));
            } else if missing.iter().any(|id| {
                // One more command was under way, whose result never came.
                let under_way = account.under_way.iter().map(|(_, command)| command);
                !demolished(account.unsettled.iter().chain(under_way), **id)
            }) {
                faults.push(format!("player {player} misses {missing:?}"));
            }
        }
        (checked, faults)
    }
}

/// Is the demolition of this structure among the commands, which may each have happened or not?
fn demolished<'c>(mut commands: impl Iterator<Item = &'c wire::Command>, id: EntityId) -> bool {
    commands.any(|command| matches!(command, wire::Command::Demolish { structure } if *structure == id))
}

/// The number behind `name` in a line of a dump.
fn number<N: std::str::FromStr>(text: &str, name: &str) -> N
where
    N::Err: std::fmt::Debug,
{
    let rest = text.split_once(name).expect("the value has the field").1;
    let digits = rest.split(|sign: char| !sign.is_ascii_digit()).next().unwrap_or_default();
    digits.parse().expect("the field is a number")
}

/// Every file below `folder` with its bytes.
///
/// # Panics
/// When one cannot be read.
pub fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).expect("the folder can be read") {
        let path = entry.expect("the folder can be read").path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            let bytes = std::fs::read(&path).expect("the file can be read");
            found.insert(path, bytes);
        }
    }
    found
}

/// Copies a folder with everything in it.
///
/// # Panics
/// When that fails.
pub fn copy_folder(from: &Path, to: &Path) {
    for (path, bytes) in files(from) {
        let target = to.join(path.strip_prefix(from).expect("the file lies in the folder"));
        std::fs::create_dir_all(target.parent().expect("a file has a folder")).expect("the folder can be made");
        std::fs::write(target, bytes).expect("the file can be written");
    }
}

/// A file system in memory, for as long as this lives.
#[derive(Debug)]
pub struct MemoryDisk {
    folder: tempfile::TempDir,
}

impl MemoryDisk {
    /// Mounts one of so many MiB.
    ///
    /// # Panics
    /// When mounting is not permitted: the test needs root.
    pub fn mount(size_mib: u32, read_only: bool) -> MemoryDisk {
        let folder = tempfile::tempdir().expect("a folder to mount on");
        let options = CString::new(format!("size={size_mib}m,mode=700")).expect("no zero byte");
        let flags = if read_only { MountFlags::RDONLY } else { MountFlags::empty() };
        mount("tmpfs", folder.path(), "tmpfs", flags, options.as_c_str())
            .expect("this test mounts a small tmpfs: run it as root, in a container with CAP_SYS_ADMIN");
        MemoryDisk { folder }
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Fills it to the last byte with one file; removing that file frees it.
    ///
    /// # Panics
    /// When it cannot be written at all.
    pub fn fill(&self) -> PathBuf {
        use std::io::Write;
        let path = self.path().join("filler");
        let mut file = std::fs::File::create(&path).expect("the filler can be made");
        let mut size = 1 << 20;
        while size > 0 {
            match file.write(&vec![0xee; size]) {
                Ok(written) if written > 0 => {}
                _ => size /= 2,
            }
        }
        path
    }
}

impl Drop for MemoryDisk {
    fn drop(&mut self) {
        // Detached: it goes away even while a process of a failed test still holds a file.
        let _ = unmount(self.folder.path(), UnmountFlags::DETACH);
    }
}

/// Memory that a process holds now (`VmRSS`), bytes.
///
/// # Panics
/// When there is no such process.
pub fn resident_bytes(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("the process runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("Linux says VmRSS");
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number of kB");
    kib * 1_024
}

/// The UDP address that a shard wrote into its log.
///
/// # Panics
/// When it did not.
pub fn udp_address(shard: &ShardProcess) -> std::net::SocketAddr {
    let log = shard.log();
    let word =
        log.split_whitespace().find_map(|word| word.strip_prefix("udp=")).expect("the log names the UDP address");
    word.parse().expect("an address")
}

/// A UDP socket on a free port of this machine.
///
/// # Panics
/// When there is none.
pub fn udp_socket() -> UdpSocket {
    UdpSocket::bind("127.0.0.1:0").expect("a UDP port")
}

/// Every bot was served to its end: none lost its connection, each command had one result, and each bot did something.
///
/// # Errors
/// The first bot of which that is not true.
pub fn check_lives(lives: &[Life]) -> Result<()> {
    for (number, life) in lives.iter().enumerate() {
        let counts = &life.bot.counts;
        ensure!(life.lost.is_none(), "bot {number} was lost: {:?}", life.lost);
        ensure!(counts.failed == 0, "bot {number}: a command had no result");
        ensure!(counts.unasked == 0, "bot {number}: {} results came twice or unasked", counts.unasked);
        ensure!(life.bot.account.done > 0, "bot {number} did nothing");
    }
    Ok(())
}
