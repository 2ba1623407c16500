//! Clients that attack every layer while ordinary players play: the players notice nothing, nothing of theirs is lost, and the shard
//! neither panics, nor grows, nor answers a stranger.
//!
//! The attacks come one after the other, from this process:
//! - *garbage*: signalling JSON, SDP and ICE candidates (`door`); STUN, DTLS, SCTP inside an established DTLS session, and messages on
//!   both channels, by peers that are in order in all layers but one (`mutant`, `spoil`);
//! - *calls*: signalling until the offer, and then nothing (`door`). Those that find no room are answered, too;
//! - *flood*: UDP packets from many sockets that were never at signalling, noise and what looks like STUN and DTLS (`udp`). Their
//!   sources are addresses and ports of this machine: forging others takes raw sockets;
//! - *heavy*: messages of 65,536 bytes, messages that never end, and readers that acknowledge nothing and keep their window shut.
//!
//! Attackers, players and the shard share the machine's cores, so that players would wait longer even if the shard had nothing to do
//! with it. What that alone costs is measured, too: each attack is followed by its *control*, in which threads burn as much processor
//! time as the attackers took, and a flood goes to a port that nobody reads. What others took of the machine is in the figures.

mod door;
mod load;
mod mutant;
mod spoil;
mod udp;

use super::seed;
use crate::harness::{Bots, Stored, check_lives, eventually, resident_bytes, udp_address, udp_socket};
use anyhow::{Context, Result, ensure};
use load::{Kind, Phase, Times, Usage};
use mutant::Vice;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use udp::{Exchange, Flood};
use vsekai_bench::bot::Style;
use vsekai_bench::process::ShardProcess;
use vsekai_bench::webrtc::{self, Library};

const PATIENCE: Duration = Duration::from_secs(40);
/// What the shard may hold more at any time of the attacks than before them. The door lets 600 unfinished handshakes of an address
/// stand, and 1,266 connections in all; each is some 60 kB of the WebRTC library.
const GROWTH_MAX: u64 = 256 << 20;
/// What it may have written to its log: nobody can flood that.
const LOG_BYTES_MAX: usize = 64 << 10;
/// The slowest hundredth of the players' actions may take so much longer during the attacks than under the same load without attack and
/// than before, or [`SLOWER_FLOOR_MS`] longer: below that, processes that share two cores measure the scheduler.
const SLOWER_MAX: f64 = 1.5;
const SLOWER_FLOOR_MS: f64 = 10.0;
/// When others took more than so many cores, times before the attacks say nothing about times during them: only those of the controls,
/// which lie between the attacks, do.
const OTHERS_MAX: f64 = 0.3;

/// How large everything is.
#[derive(Debug, Clone, Copy)]
struct Scale {
    players: usize,
    /// The shard's deadline for handshakes; 10 by default.
    handshake_s: u32,
    /// Before the attacks.
    calm: Duration,
    /// After each of them.
    control: Duration,
    garbage: Duration,
    /// Peers that send garbage at a time, of each kind.
    garblers: usize,
    calls: usize,
    calls_per_s: u32,
    flood: Duration,
    flood_per_s: u32,
    heavy: Duration,
    /// Of each kind.
    heavies: usize,
}

const LONG: Scale = Scale {
    players: 40,
    handshake_s: 10,
    calm: Duration::from_secs(30),
    control: Duration::from_secs(15),
    garbage: Duration::from_secs(30),
    garblers: 4,
    calls: 10_000,
    calls_per_s: 500,
    flood: Duration::from_secs(25),
    flood_per_s: 50_000,
    heavy: Duration::from_secs(25),
    heavies: 8,
};

const SHORT: Scale = Scale {
    players: 10,
    handshake_s: 4,
    calm: Duration::from_secs(3),
    control: Duration::from_millis(500),
    garbage: Duration::from_secs(4),
    garblers: 2,
    calls: 300,
    calls_per_s: 200,
    flood: Duration::from_secs(2),
    flood_per_s: 10_000,
    heavy: Duration::from_secs(3),
    heavies: 2,
};

/// What the attackers did.
#[derive(Debug, Default)]
struct Tally {
    json: AtomicU64,
    sdp: AtomicU64,
    candidates: AtomicU64,
    mutants: AtomicU64,
    stun: AtomicU64,
    dtls: AtomicU64,
    messages: AtomicU64,
    large: AtomicU64,
    /// Mutants that found the door shut.
    turned_away: AtomicU64,
    half_open_held: AtomicU64,
    half_open_refused: AtomicU64,
}

/// All attacks under 40 players, with 10,000 calls and 50,000 packets a second; short: under 10, with fewer of everything, and
/// without a look at times.
pub fn run(short: bool) -> Result<String> {
    let seed = seed(12_000);
    let scale = if short { SHORT } else { LONG };
    prove(seed, scale, short).with_context(|| format!("seed {seed} (VSEKAI_SEED replays it)"))
}

fn prove(seed: u64, scale: Scale, short: bool) -> Result<String> {
    let folder = tempfile::tempdir()?;
    let config = folder.path().join("shard.toml");
    // All attackers have one address, and each life of one takes a token.
    let handshake_s = scale.handshake_s;
    let keys = format!("[net]\ntokens_per_address_per_s = 1000\n[webrtc]\nhandshake_s = {handshake_s}\n");
    std::fs::write(&config, keys)?;
    let data = folder.path().join("data");
    let mut shard = ShardProcess::start(&data, &["--config", &config.display().to_string()])?;
    let bots = Bots::start(&shard, scale.players, seed, Style::Mixed);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let tally = Arc::new(Tally::default());
    let mut trial = Trial { shard: &shard, scale, seed, tally: Arc::clone(&tally), phases: Vec::new() };
    let attacked = runtime.block_on(trial.all())?;
    let phases = std::mem::take(&mut trial.phases);
    let lives = bots.stop();
    drop(runtime);

    check_lives(&lives)?;
    ensure!(shard.is_running(), "the shard ended");
    let log = shard.log();
    let panics = log.matches("panicked").count();
    ensure!(panics == 0 && !log.contains("ERROR"), "{panics} panics; the log ends: {}", tail(&log));
    ensure!(log.len() < LOG_BYTES_MAX, "the log has grown to {} bytes: {}", log.len(), tail(&log));
    ensure!(shard.stop()?.success(), "the shard did not stop cleanly");
    let times = Times::of(&phases, &lives);
    let accounts: Vec<_> = lives.into_iter().map(|life| life.bot.account).collect();
    let (checked, faults) = Stored::read(&data).check(&accounts);
    ensure!(faults.is_empty(), "{faults:?}");
    let figures = figures(scale, &tally, &attacked, &times, checked);
    if !short {
        let allowed = |usual: f64| (usual * SLOWER_MAX).max(usual + SLOWER_FLOOR_MS);
        let Times { before, during, control, .. } = &times;
        ensure!(during.p99_ms <= allowed(control.p99_ms), "slower than under the same load: {figures}");
        let quiet = times.others() <= OTHERS_MAX;
        ensure!(!quiet || during.p99_ms <= allowed(before.p99_ms), "slower than before: {figures}");
    }
    Ok(figures)
}

fn tail(log: &str) -> &str {
    let from = log.len().saturating_sub(2_000);
    &log[log.ceil_char_boundary(from)..]
}

/// What came of the attacks but for times.
#[derive(Debug)]
struct Attacked {
    flood: Exchange,
    /// Packets that the shard read meanwhile and gave to no connection.
    flood_read: u64,
    /// Of one who was let in by signalling, and went away.
    vanished: Exchange,
    probes: Vec<(&'static str, Exchange)>,
    /// The most that the shard held more than before, and what it holds more after all.
    growth_max: u64,
    growth: u64,
}

struct Trial<'s> {
    shard: &'s ShardProcess,
    scale: Scale,
    seed: u64,
    tally: Arc<Tally>,
    phases: Vec<Phase>,
}

impl Trial<'_> {
    async fn all(&mut self) -> Result<Attacked> {
        let (shard, scale) = (self.shard, self.scale);
        eventually("the players", PATIENCE, async || (shard.status().ok()?["players"] == scale.players).then_some(()))
            .await;
        tokio::time::sleep(scale.calm / 4).await;
        let usage = self.usage()?;
        tokio::time::sleep(scale.calm).await;
        self.phase(usage, Kind::Before, "before")?;
        let memory = resident_bytes(shard.id());
        let watch = load::watch_memory(shard.id());

        let usage = self.usage()?;
        self.garbage().await?;
        self.phase(usage, Kind::Attack, "garbage")?;
        self.control(None).await?;
        let usage = self.usage()?;
        door::half_open(&shard.signalling_url(), scale.calls, scale.calls_per_s, &self.tally).await?;
        self.phase(usage, Kind::Attack, "calls")?;
        self.control(None).await?;
        let (flood, flood_read) = self.flood().await?;
        // Bound, and never read: the system throws away what it is sent.
        let dead = udp_socket();
        self.control(Some(dead.local_addr()?)).await?;
        let usage = self.usage()?;
        let vanished = self.heavy().await?;
        self.phase(usage, Kind::Attack, "heavy")?;
        self.control(None).await?;
        let probes = self.probe().await?;
        let net = |what: &str| shard.status().ok().and_then(|status| status["net"][what].as_u64());
        eventually("all handshakes to be over", PATIENCE, async || (net("handshakes_open")? == 0).then_some(())).await;
        // Whoever comes by the rules is let in as ever.
        let (late, _) = webrtc::run(
            &shard.signalling_url(),
            Library::Str0m,
            1,
            self.seed + 1,
            Style::Mixed,
            Duration::from_secs(2),
        )
        .await;
        ensure!(late.joined == 1 && late.lost == 0, "a player who came after the attacks: {:?}", late.first_loss);
        let growth_max = watch.stop()?.saturating_sub(memory);
        ensure!(growth_max < GROWTH_MAX, "the shard held {growth_max} bytes more");
        let growth = resident_bytes(shard.id()).saturating_sub(memory);
        Ok(Attacked { flood, flood_read, probes, vanished, growth_max, growth })
    }

    fn usage(&self) -> Result<Usage> {
        Usage::now(self.shard.id())
    }

    fn phase(&mut self, since: Usage, kind: Kind, name: &'static str) -> Result<()> {
        self.phases.push(since.phase(self.shard.id(), kind, name)?);
        Ok(())
    }

    /// Garbage in all layers at once.
    async fn garbage(&self) -> Result<()> {
        let end = Instant::now() + self.scale.garbage;
        let mut attackers = tokio::task::JoinSet::new();
        for number in 0..self.scale.garblers as u64 {
            let (url, tally) = (self.shard.signalling_url(), Arc::clone(&self.tally));
            let seed = self.seed + number;
            attackers.spawn(async move {
                door::garble_signalling(&url, &format!("garbler-{number:04}"), seed, end, &tally).await
            });
        }
        self.mutants(&mut attackers, &Vice::GARBAGE, self.scale.garblers, Duration::from_secs(3), end);
        join_all(attackers).await
    }

    async fn heavy(&self) -> Result<Exchange> {
        let end = Instant::now() + self.scale.heavy;
        let mut attackers = tokio::task::JoinSet::new();
        self.mutants(&mut attackers, &Vice::HEAVY, self.scale.heavies, self.scale.heavy, end);
        let vanished = mutant::begin_and_vanish(&self.shard.signalling_url(), "a-vanisher", end).await?;
        join_all(attackers).await?;
        Ok(vanished)
    }

    /// Lets `each` mutants of each kind live one life after the other until `end`, none longer than `longest`.
    fn mutants(
        &self,
        attackers: &mut tokio::task::JoinSet<Result<()>>,
        vices: &[Vice],
        each: usize,
        longest: Duration,
        end: Instant,
    ) {
        for vice in vices.iter().copied() {
            for number in 0..each {
                let (url, tally) = (self.shard.signalling_url(), Arc::clone(&self.tally));
                let mut seed = self.seed + 1_000 * number as u64;
                attackers.spawn(async move {
                    let secret = format!("mutant-{vice:?}-{number:04}");
                    while Instant::now() < end {
                        seed += 1;
                        let until = end.min(Instant::now() + longest);
                        mutant::live(&url, &secret, vice, seed, until, &tally).await?;
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                    Ok(())
                });
            }
        }
    }

    async fn flood(&mut self) -> Result<(Exchange, u64)> {
        let shard = self.shard;
        let refused = || shard.status().ok().and_then(|status| status["net"]["packets_refused"].as_u64());
        let known = udp::credentials(&shard.signalling_url(), "a-flooder").await?;
        let before = refused().context("no count of packets")?;
        let usage = self.usage()?;
        let flood = Flood::start(udp_address(shard), self.scale.flood_per_s, self.seed, &known.user)?;
        tokio::time::sleep(self.scale.flood).await;
        let stopping = tokio::task::spawn_blocking(|| flood.stop());
        self.phase(usage, Kind::Attack, "flood")?;
        // It waits for answers meanwhile; the shard's count is as old as a second.
        let flood = stopping.await??;
        let read = refused().context("no count of packets")? - before;
        ensure!(read > flood.packets / 10, "the shard read {read} of {} packets", flood.packets);
        Ok((flood, read))
    }

    async fn probe(&self) -> Result<Vec<(&'static str, Exchange)>> {
        let known = udp::credentials(&self.shard.signalling_url(), "a-prober").await?;
        let (target, seed) = (udp_address(self.shard), self.seed);
        let probes = tokio::task::spawn_blocking(move || udp::probe(target, seed, &known)).await??;
        for (kind, exchange) in &probes {
            let strange = *kind != udp::KNOWN;
            ensure!(!strange || exchange.answered_bytes <= exchange.sent_bytes, "{kind}: {exchange:?}");
        }
        Ok(probes)
    }

    /// The load of the last attack without the attack. A flood goes to `dead`.
    async fn control(&mut self, dead: Option<SocketAddr>) -> Result<()> {
        let attack = self.phases.last().context("no attack yet")?;
        let (name, cores) = (attack.name, attack.own);
        let flood =
            dead.map(|dead| Flood::start(dead, self.scale.flood_per_s, self.seed, "nobody:at-all")).transpose()?;
        let usage = self.usage()?;
        let burner = load::burn(cores);
        tokio::time::sleep(self.scale.control).await;
        self.phase(usage, Kind::Control, name)?;
        burner.stop()?;
        if let Some(flood) = flood {
            tokio::task::spawn_blocking(|| flood.stop()).await??;
        }
        Ok(())
    }
}

async fn join_all(mut attackers: tokio::task::JoinSet<Result<()>>) -> Result<()> {
    while let Some(ended) = attackers.join_next().await {
        ended.context("an attacker panicked")?.context("an attacker")?;
    }
    Ok(())
}

fn figures(scale: Scale, tally: &Tally, attacked: &Attacked, times: &Times, checked: u64) -> String {
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let Times { before, during, control, of_each } = times;
    let each = of_each.iter().map(|(phase, latency)| {
        let Phase { kind, name, own, shard, others, .. } = phase;
        let kind = if *kind == Kind::Control { "'s control" } else { "" };
        format!("{name}{kind} {:.1} ms at {own:.2}+{shard:.2}+{others:.2}", latency.p99_ms)
    });
    let each: Vec<String> = each.collect();
    let judged = match times.others() <= OTHERS_MAX {
        true => "",
        false => " (not judged: others were busy)",
    };
    let strangers = attacked.probes.iter().filter(|(kind, _)| *kind != udp::KNOWN);
    let most = strangers.map(|(_, exchange)| exchange.amplification()).fold(attacked.flood.amplification(), f64::max);
    let known = attacked.probes.iter().find(|(kind, _)| *kind == udp::KNOWN).map_or(0.0, |(_, e)| e.amplification());
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    format!(
        "{} players, {checked} actions held against the world, none lost; garbage: {} JSON, {} SDP, {} candidates, {} peers with {} STUN, \
         {} DTLS, {} SCTP packets and {} messages spoiled; {} calls held at the door and ended, {} refused; {} UDP packets at {:.0} a second, {} of which the shard read; {} \
         messages of 64 KiB; 0 panics; memory at most {:.0} MiB more, {:.0} MiB in the end; answered to strangers {most:.2} bytes a byte, to a check \
         in order {known:.2}, to one who began DTLS and vanished {:.2}; p99 of actions {:.1} ms before ({} of them), {:.1} during ({}), {:.1} under the same load without attack \
         ({}): {:.2} times{judged}, {:.2} against that load [p99 at cores of this \
         process+shard+others: {}]",
        scale.players,
        count(&tally.json),
        count(&tally.sdp),
        count(&tally.candidates),
        count(&tally.mutants),
        count(&tally.stun),
        count(&tally.dtls),
        count(&mutant::SPOILED_SCTP),
        count(&tally.messages),
        count(&tally.half_open_held),
        count(&tally.half_open_refused),
        attacked.flood.packets,
        attacked.flood.packets as f64 / scale.flood.as_secs_f64(),
        attacked.flood_read,
        count(&tally.large),
        mib(attacked.growth_max),
        mib(attacked.growth),
        attacked.vanished.amplification(),
        before.p99_ms,
        before.count,
        during.p99_ms,
        during.count,
        control.p99_ms,
        control.count,
        during.p99_ms / before.p99_ms.max(0.001),
        during.p99_ms / control.p99_ms.max(0.001),
        each.join(", "),
    )
}
