//! Who took how much of the machine while something was going on, how long the players' actions took meanwhile, and load without
//! attack.

use crate::harness::resident_bytes;
use anyhow::{Context, Result};
use rustix::time::{ClockId, clock_gettime};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use vsekai_bench::report::Latency;
use vsekai_bench::webrtc::Life;

/// Linux counts processor time in hundredths of a second, on all machines that it runs on today (`USER_HZ`).
const TICKS_PER_S: f64 = 100.0;

/// Processor time so far, seconds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Usage {
    at: Instant,
    own: f64,
    shard: f64,
    all: f64,
}

impl Usage {
    /// Of this process, of the process `shard` and of the machine.
    pub(super) fn now(shard: u32) -> Result<Usage> {
        let text = std::fs::read_to_string(format!("/proc/{shard}/stat")).context("the shard is gone")?;
        // Behind the name, which may hold anything: the state, and ten numbers before the two that count.
        let numbers = text.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().skip(11).take(2);
        let ticks: f64 = numbers.filter_map(|number| number.parse::<f64>().ok()).sum();
        let machine = std::fs::read_to_string("/proc/stat").context("Linux says what the machine does")?;
        let line: Vec<f64> =
            machine.lines().next().unwrap_or("").split_whitespace().filter_map(|n| n.parse().ok()).collect();
        // user, nice, system, (idle, waiting), interrupts, soft interrupts, stolen.
        let busy: f64 = line.iter().take(8).sum::<f64>() - line.iter().skip(3).take(2).sum::<f64>();
        Ok(Usage {
            at: Instant::now(),
            own: process_time().as_secs_f64(),
            shard: ticks / TICKS_PER_S,
            all: busy / TICKS_PER_S,
        })
    }

    /// What went on since then.
    pub(super) fn phase(self, shard: u32, kind: Kind, name: &'static str) -> Result<Phase> {
        let now = Usage::now(shard)?;
        let seconds = (now.at - self.at).as_secs_f64();
        let (own, of_shard) = ((now.own - self.own) / seconds, (now.shard - self.shard) / seconds);
        let others = ((now.all - self.all) / seconds - own - of_shard).max(0.0);
        Ok(Phase { kind, name, begin: self.at, end: now.at, own, shard: of_shard, others })
    }
}

/// What a phase is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Before,
    Attack,
    /// The load of the attack before it, without the attack.
    Control,
}

/// A time in which one thing was going on, and how many cores who took meanwhile.
#[derive(Debug, Clone, Copy)]
pub(super) struct Phase {
    pub(super) kind: Kind,
    pub(super) name: &'static str,
    begin: Instant,
    end: Instant,
    /// This process: players and attackers.
    pub(super) own: f64,
    pub(super) shard: f64,
    /// Whoever has nothing to do with this.
    pub(super) others: f64,
}

/// Processor time that this process took since it began.
fn process_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.try_into().unwrap_or(0), time.tv_nsec.try_into().unwrap_or(0))
}

/// Threads of this process that do something until they are stopped.
#[derive(Debug)]
pub(super) struct Threads {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<u64>>,
}

impl Threads {
    /// `count` threads that call `turn` again and again with what it returned before, 0 at first.
    fn start(count: usize, turn: impl Fn(u64) -> u64 + Clone + Send + 'static) -> Threads {
        let stop = Arc::new(AtomicBool::new(false));
        let thread = || {
            let (stopped, turn) = (Arc::clone(&stop), turn.clone());
            std::thread::spawn(move || {
                let mut value = 0;
                while !stopped.load(Ordering::Relaxed) {
                    value = turn(value);
                }
                value
            })
        };
        let threads = (0..count).map(|_| thread()).collect();
        Threads { stop, threads }
    }

    /// Ends them; the last value of the last.
    pub(super) fn stop(self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        let mut last = 0;
        for thread in self.threads {
            last = thread.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?;
        }
        Ok(last)
    }
}

/// Looks how much memory a process holds; ends with the most that it held.
pub(super) fn watch_memory(process: u32) -> Threads {
    Threads::start(1, move |most| {
        std::thread::sleep(Duration::from_millis(100));
        most.max(resident_bytes(process))
    })
}

/// Burns processor time until this process takes as many cores as it should.
pub(super) fn burn(cores: f64) -> Threads {
    let (begin, start) = (Instant::now(), process_time());
    Threads::start(2, move |turns| {
        let should = begin.elapsed().as_secs_f64() * cores;
        if (process_time() - start).as_secs_f64() < should {
            let spin = Instant::now();
            while spin.elapsed() < Duration::from_micros(300) {
                std::hint::spin_loop();
            }
        } else {
            std::thread::sleep(Duration::from_millis(1));
        }
        turns + 1
    })
}

/// How long the players' actions took.
#[derive(Debug)]
pub(super) struct Times {
    pub(super) before: Latency,
    /// In all attacks together, and in all their controls.
    pub(super) during: Latency,
    pub(super) control: Latency,
    pub(super) of_each: Vec<(Phase, Latency)>,
}

impl Times {
    pub(super) fn of(phases: &[Phase], lives: &[Life]) -> Times {
        let within = |wanted: &dyn Fn(&Phase) -> bool| {
            let wanted: Vec<&Phase> = phases.iter().filter(|phase| wanted(phase)).collect();
            let answers = lives.iter().flat_map(|life| {
                let counts = &life.bot.counts;
                counts.latencies.iter().zip(&counts.answered_at).map(|((_, took), at)| (*took, life.begin + *at))
            });
            let among = answers.filter(|(_, at)| wanted.iter().any(|phase| (phase.begin..phase.end).contains(at)));
            Latency::of(among.map(|(took, _)| took))
        };
        let of_kind = |kind: Kind| within(&|phase| phase.kind == kind);
        Times {
            before: of_kind(Kind::Before),
            during: of_kind(Kind::Attack),
            control: of_kind(Kind::Control),
            of_each: phases.iter().map(|phase| (*phase, within(&|other| other.begin == phase.begin))).collect(),
        }
    }

    /// The most cores that others took before and during the attacks.
    pub(super) fn others(&self) -> f64 {
        let judged = self.of_each.iter().filter(|(phase, _)| phase.kind != Kind::Control);
        judged.map(|(phase, _)| phase.others).fold(0.0, f64::max)
    }
}
