//! Children that crash, exit, hang, fork away and flood their logs, again and again: each end is seen at once, nobody of them
//! is left, and the supervisor neither grows nor leaks.
//!
//! The children are this program, started again by a real supervisor. Each writes when it is about to end into a file; the time until the
//! supervisor's stream of events says so, to a client in this process, is what is measured.

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use vsekai_bench::process::program;

/// Longer than anything takes that is expected.
const LONG: Duration = Duration::from_secs(60);
/// Connections are closed by then.
const SETTLING: Duration = Duration::from_secs(2);
/// Children at once.
const CHILDREN: usize = 6;
/// A child lives so long before it misbehaves; then its backoff begins anew each time.
const LIFE: Duration = Duration::from_millis(120);
/// Half of a flood's lines, and none of the others', are dropped.
const FLOOD_LINES: usize = 20_000;
/// What is allowed; the short form runs beside anything else.
const SEEN_P99: Duration = Duration::from_millis(10);
const SEEN_P99_SHORT: Duration = Duration::from_millis(250);
const MEMORY_MAX: u64 = 20 << 20;
const GROWTH_MAX: u64 = 2 << 20;

/// What a child may do, in turn.
const KINDS: [&str; 5] = ["crash", "exit", "hang", "fork", "flood"];

/// 1,000 cycles; short: 40.
pub fn run(short: bool) -> Result<String> {
    let cycles = if short { 40 } else { 1_000 };
    let folder = tempfile::tempdir()?;
    let deaths = folder.path().join("deaths");
    let own = std::env::current_exe()?;
    let children = (0..CHILDREN).map(|number| {
        format!(
            "[[child]]\nname = \"c{number}\"\ncommand = [{:?}, \"--child\", \"misbehave\", {:?}]\ngrace_s = 2\n\
             health = {{ kind = \"notify\", timeout_s = 0.4, abort_timeout_s = 2 }}\n\
             log = {{ file_mib = 1, files = 2, lines_per_s = 10000, crashes = 5 }}\n",
            own, deaths
        )
    });
    let children: String = children.collect();
    let config = format!(
        "[http]\naddress = \"127.0.0.1:0\"\n[[group]]\nname = \"main\"\nrestarts_max = 100\nwindow_s = 0.1\n{children}"
    );
    let mut supervisor = Supervisor::start(folder.path(), &config)?;
    let events = supervisor.events()?;

    let mut seen = BTreeMap::new();
    let warm = cycles / 5;
    collect(&events, &mut seen, warm)?;
    supervisor.all("stop", "stopped")?;
    let (files_before, memory_before) = (supervisor.open_files(0)?, supervisor.resident_bytes()?);
    supervisor.all("start", "running")?;
    collect(&events, &mut seen, cycles)?;
    supervisor.all("stop", "stopped")?;
    let (files_after, memory_after) = (supervisor.open_files(files_before)?, supervisor.resident_bytes()?);

    let zombies = supervisor.children()?.len();
    let mark = folder.path().join("state").display().to_string();
    let orphans = marked(&mark).len();
    let status = supervisor.stop()?;
    ensure!(status == Some(0), "the supervisor ended with {status:?}: {}", supervisor.log());
    let left = marked(&mark).len();

    let mut waits = Vec::new();
    let mut kinds = BTreeMap::new();
    for line in std::fs::read_to_string(&deaths)?.lines() {
        let [mark, kind, at_us] = line.split(' ').collect::<Vec<_>>()[..] else { bail!("a torn line: {line}") };
        // A child that was stopped in its last moment has not misbehaved.
        let Some(seen_us) = seen.get(mark) else { continue };
        *kinds.entry(kind.to_owned()).or_insert(0usize) += 1;
        // Of a hang, the supervisor itself decides when it ends.
        if kind != "hang" {
            let at_us: u64 = at_us.parse()?;
            waits.push(Duration::from_micros(seen_us.saturating_sub(at_us)));
        }
    }
    waits.sort_unstable();
    ensure!(waits.len() >= cycles / 2, "only {} ends were measured", waits.len());
    ensure!(KINDS.iter().all(|kind| kinds.contains_key(*kind)), "not every kind of end happened: {kinds:?}");
    let p = |share: usize| waits[(waits.len() - 1) * share / 100].as_secs_f64() * 1_000.0;
    let figures = format!(
        "{} ends ({kinds:?}), exit seen p50 {:.2} ms p99 {:.2} ms max {:.2} ms, {zombies} zombies, {} orphans, \
         descriptors {files_before} → {files_after}, memory {:.1} → {:.1} MiB",
        seen.len(),
        p(50),
        p(99),
        p(100),
        orphans + left,
        mib(memory_before),
        mib(memory_after),
    );
    let limit = if short { SEEN_P99_SHORT } else { SEEN_P99 };
    ensure!(p(99) <= limit.as_secs_f64() * 1_000.0, "an exit is seen too late: {figures}");
    ensure!(zombies == 0 && orphans == 0 && left == 0, "somebody is left: {figures}");
    ensure!(files_after <= files_before, "descriptors leak: {figures}");
    ensure!(memory_after <= MEMORY_MAX && memory_after <= memory_before + GROWTH_MAX, "memory grows: {figures}");
    Ok(figures)
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Takes the ends that the supervisor tells, by `CHILD#RUN`, and when they came, until there are so many.
fn collect(events: &Receiver<(u64, Value)>, seen: &mut BTreeMap<String, u64>, count: usize) -> Result<()> {
    let mut quiet_since = Instant::now();
    while seen.len() < count {
        match events.recv_timeout(Duration::from_secs(1)) {
            Ok((at_us, event)) => {
                ensure!(event["kind"] != "quarantined", "a child is quarantined: {event}");
                if event["kind"] == "ended" {
                    seen.insert(format!("{}#{}", event["child"].as_str().unwrap_or_default(), event["run"]), at_us);
                    quiet_since = Instant::now();
                }
            }
            Err(RecvTimeoutError::Timeout) => {
                ensure!(quiet_since.elapsed() < LONG, "nothing ends any more, after {}", seen.len())
            }
            Err(RecvTimeoutError::Disconnected) => bail!("the stream of events has ended after {} ends", seen.len()),
        }
    }
    Ok(())
}

/// Microseconds since 1970.
pub(super) fn unix_us() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros()).unwrap_or(u64::MAX)
}

/// Processes that belong to a supervisor with this state directory, by the mark in their environment.
pub(super) fn marked(state: &str) -> Vec<i32> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let ids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let mark = format!("VSEKAI_RUN={state}/children/");
    ids.filter(|pid| {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|&byte| byte == 0).any(|variable| variable.starts_with(mark.as_bytes()))
    })
    .collect()
}

/// A supervisor in a process of its own. Killed when dropped, and its children with it.
pub struct Supervisor {
    process: Child,
    folder: PathBuf,
    /// Its children go on for the next one.
    killed: bool,
    /// The API's address, `http://127.0.0.1:PORT`.
    pub url: String,
}

impl Supervisor {
    /// Starts one in this folder, with this configuration, and waits until it listens.
    pub fn start(folder: &Path, config: &str) -> Result<Supervisor> {
        let file = folder.join("supervisor.toml");
        std::fs::write(&file, config)?;
        let log = OpenOptions::new().create(true).append(true).open(folder.join("supervisor.log"))?;
        let mut process = Command::new(program("vsekai-supervisor")?)
            .args(["run", "--seed", "1", "--config"])
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .context("cannot start the supervisor")?;
        let mut line = String::new();
        let stdout = process.stdout.take().context("the supervisor has no output")?;
        BufReader::new(stdout).read_line(&mut line)?;
        let url = line.trim().trim_end_matches('/').to_owned();
        let supervisor = Supervisor { process, folder: folder.to_owned(), killed: false, url };
        ensure!(supervisor.url.starts_with("http://"), "the supervisor did not start: {}", supervisor.log());
        Ok(supervisor)
    }

    /// Its log's end.
    pub fn log(&self) -> String {
        let log = std::fs::read_to_string(self.folder.join("supervisor.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// What it answers.
    pub fn get(&self, path: &str) -> Result<Value> {
        Ok(ureq::get(format!("{}{path}", self.url)).call()?.body_mut().read_json()?)
    }

    /// What it says of one child.
    pub fn child(&self, name: &str) -> Result<Value> {
        let children = self.get("/api/children")?;
        let found = children.as_array().context("no children")?.iter().find(|child| child["name"] == name);
        found.cloned().with_context(|| format!("no child {name}"))
    }

    /// Its events, each with the time at which it came here.
    fn events(&self) -> Result<Receiver<(u64, Value)>> {
        let answer = ureq::get(format!("{}/api/events", self.url)).call()?;
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            let mut is_event = false;
            for line in BufReader::new(answer.into_body().into_reader()).lines() {
                let Ok(line) = line else { return };
                if let Some(name) = line.strip_prefix("event: ") {
                    is_event = name == "happened";
                } else if let (true, Some(data)) = (is_event, line.strip_prefix("data: ")) {
                    let at_us = unix_us();
                    let Ok(event) = serde_json::from_str(data) else { return };
                    if sender.send((at_us, event)).is_err() {
                        return;
                    }
                }
            }
        });
        Ok(receiver)
    }

    /// Asks the same of all children, and waits until they all are in this state.
    fn all(&self, order: &str, state: &str) -> Result<()> {
        for number in 0..CHILDREN {
            ureq::post(format!("{}/api/children/c{number}/{order}", self.url)).send_empty()?;
        }
        let begun = Instant::now();
        loop {
            let children = self.get("/api/children")?;
            let children = children.as_array().context("no children")?;
            // What ran for a moment ran.
            if children.iter().all(|child| child["state"] == state || state == "running" && child["state"] != "stopped")
            {
                return Ok(());
            }
            ensure!(begun.elapsed() < LONG, "not all are {state}: {children:?}\n{}", self.log());
            std::thread::yield_now();
        }
    }

    /// Its process's id.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// The fewest descriptors that it has open within a while: connections of clients that are gone close a little later. No longer
    /// than until they are `enough`.
    fn open_files(&self, enough: usize) -> Result<usize> {
        let begun = Instant::now();
        let mut fewest = usize::MAX;
        while begun.elapsed() < SETTLING && fewest > enough {
            fewest = fewest.min(std::fs::read_dir(format!("/proc/{}/fd", self.pid()))?.count());
            std::thread::yield_now();
        }
        Ok(fewest)
    }

    fn resident_bytes(&self) -> Result<u64> {
        Ok(crate::harness::resident_bytes(self.pid()))
    }

    fn children(&self) -> Result<Vec<String>> {
        let listed = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", self.pid()))?;
        Ok(listed.split_ascii_whitespace().map(str::to_owned).collect())
    }

    /// Ends it as nothing else would: SIGKILL. Its children go on.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill().context("cannot kill the supervisor")?;
        self.process.wait().context("cannot wait for the supervisor")?;
        self.killed = true;
        Ok(())
    }

    /// Asks it to stop, and waits: its exit code.
    pub fn stop(&mut self) -> Result<Option<i32>> {
        let pid = rustix::process::Pid::from_child(&self.process);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        let begun = Instant::now();
        loop {
            if let Some(status) = self.process.try_wait()? {
                return Ok(status.code());
            }
            ensure!(begun.elapsed() < LONG, "the supervisor does not stop: {}", self.log());
            std::thread::yield_now();
        }
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        if self.killed {
            return;
        }
        // It may have ended already. After a failure its children must not be left.
        let _ = self.process.kill();
        let _ = self.process.wait();
        for pid in marked(&self.folder.join("state").display().to_string()) {
            if let Some(pid) = rustix::process::Pid::from_raw(pid) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
    }
}

/// This program as a supervised child: `misbehave DEATHS`, or `tick`. Returns its exit code, if it comes to that.
///
/// # Errors
/// When it is not started by a supervisor.
pub fn child(arguments: &[String]) -> Result<u8> {
    let socket = std::env::var("NOTIFY_SOCKET").context("there is no NOTIFY_SOCKET")?;
    let notify = UnixDatagram::unbound()?;
    let say = move |text: &str| drop(notify.send_to(text.as_bytes(), &socket));
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["misbehave", deaths] => misbehave(&say, Path::new(deaths)),
        ["tick"] => tick(&say),
        _ => bail!("unknown arguments {arguments:?}"),
    }
}

fn misbehave(say: &dyn Fn(&str), deaths: &Path) -> Result<u8> {
    let mark = std::env::var("VSEKAI_RUN")?;
    let mark = mark.rsplit('/').next().unwrap_or_default().to_owned();
    let (name, run) = mark.split_once('#').context("no run in the mark")?;
    let turn: usize = run.parse::<usize>()? + name.trim_start_matches('c').parse::<usize>()?;
    let kind = KINDS[turn % KINDS.len()];
    let mut deaths = OpenOptions::new().create(true).append(true).open(deaths)?;
    // In one piece: others write into the same file.
    let mut dying = || deaths.write_all(format!("{mark} {kind} {}\n", unix_us()).as_bytes());
    say("READY=1\nX_VSEKAI_TICK=1");
    println!("{kind}, about to");
    // What lives for a while is not restarted more and more slowly.
    std::thread::sleep(LIFE);
    match kind {
        "crash" => {
            dying()?;
            std::process::abort()
        }
        "exit" => {
            dying()?;
            Ok(3)
        }
        "hang" => {
            dying()?;
            loop {
                // It answers, but it does not tick.
                say("WATCHDOG=1\nX_VSEKAI_TICK=1");
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        "fork" => {
            // Two of them leave session, process group and parent.
            let script = "setsid sh -c 'sleep 1000 & exec sleep 1000' & sleep 0.05";
            Command::new("sh").args(["-c", script]).stdin(Stdio::null()).spawn()?.wait()?;
            dying()?;
            Ok(4)
        }
        _ => {
            let mut out = std::io::stdout().lock();
            for number in 0..FLOOD_LINES {
                writeln!(out, "flood {number} {}", "x".repeat(200))?;
            }
            dying()?;
            Ok(5)
        }
    }
}

/// Ticks every 5 ms and prints a line each time: its number, and how long the tick before was ago.
fn tick(say: &dyn Fn(&str)) -> Result<u8> {
    say("READY=1\nX_VSEKAI_TICK=0");
    let mut before = Instant::now();
    for number in 1u64.. {
        std::thread::sleep(Duration::from_millis(5));
        let now = Instant::now();
        println!("tick {number} {}", (now - before).as_micros());
        before = now;
        say(&format!("X_VSEKAI_TICK={number}\nX_VSEKAI_PLAYERS=1\nX_VSEKAI_BACKLOG=0"));
    }
    Ok(0)
}
