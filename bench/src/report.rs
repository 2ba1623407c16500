//! What a run of synthetic players came to: a table for people, JSON for machines.

use crate::bot::Bot;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::time::Duration;

/// Percentiles of durations, milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// How many were measured.
    pub count: u64,
    /// Median.
    pub p50_ms: f64,
    /// 99th percentile.
    pub p99_ms: f64,
    /// Largest.
    pub max_ms: f64,
}

impl Latency {
    /// Of these durations.
    pub fn of(durations: impl Iterator<Item = Duration>) -> Latency {
        // One microsecond to ten minutes, three digits: bounds that cannot be out of range.
        let mut histogram = Histogram::<u64>::new_with_bounds(1, 600_000_000, 3).expect("the bounds are valid");
        for duration in durations {
            histogram.saturating_record(duration.as_micros() as u64);
        }
        let ms = |micros: u64| micros as f64 / 1_000.0;
        Latency {
            count: histogram.len(),
            p50_ms: ms(histogram.value_at_quantile(0.5)),
            p99_ms: ms(histogram.value_at_quantile(0.99)),
            max_ms: ms(histogram.max()),
        }
    }
}

/// What a run came to.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Report {
    /// Players asked for.
    pub players: usize,
    /// Players that were let in.
    pub joined: usize,
    /// Players whose connection ended before its time, with the first reason.
    pub lost: usize,
    /// The first such reason.
    pub first_loss: Option<String>,
    /// How long they played, seconds.
    pub seconds: f64,
    /// Seed of the players.
    pub seed: u64,
    /// What carried them.
    pub transport: String,
    /// From connecting to the welcome.
    pub join: Latency,
    /// From an action to its result, by kind.
    pub actions: BTreeMap<String, Latency>,
    /// All kinds together.
    pub all_actions: Latency,
    /// Round trips of pings.
    pub round_trip: Latency,
    /// Results that said "done".
    pub done: u64,
    /// Results that said no, by reason.
    pub rejected: BTreeMap<String, u64>,
    /// Actions without a result in time.
    pub failed: u64,
    /// Bytes of messages from each player, per second.
    pub up_bytes_per_s: f64,
    /// Bytes of messages to each player, per second.
    pub down_bytes_per_s: f64,
    /// The shard's tick, milliseconds: median and 99th percentile.
    pub tick_p50_ms: f64,
    /// See `tick_p50_ms`.
    pub tick_p99_ms: f64,
}

impl Report {
    /// Adds up what the bots counted.
    pub fn add_bots<'b>(&mut self, bots: impl Iterator<Item = &'b Bot> + Clone) {
        let latencies = || bots.clone().flat_map(|bot| bot.counts.latencies.iter().copied());
        self.all_actions = Latency::of(latencies().map(|(_, latency)| latency));
        let kinds: std::collections::BTreeSet<&str> = latencies().map(|(kind, _)| kind).collect();
        for kind in kinds {
            let of_kind = Latency::of(latencies().filter(|(k, _)| *k == kind).map(|(_, latency)| latency));
            self.actions.insert(kind.to_string(), of_kind);
        }
        self.round_trip = Latency::of(bots.clone().flat_map(|bot| bot.counts.round_trips.iter().copied()));
        for bot in bots {
            self.joined += usize::from(bot.is_playing());
            self.done += bot.counts.done.values().sum::<u64>();
            self.failed += bot.counts.failed;
            for (rejection, count) in &bot.counts.rejected {
                *self.rejected.entry(rejection.to_string()).or_default() += count;
            }
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { players, joined, lost, seconds, seed, transport, .. } = self;
        writeln!(
            f,
            "{players} synthetic players over {transport} for {seconds:.0} s, seed {seed}: {joined} joined, {lost} lost"
        )?;
        if let Some(reason) = &self.first_loss {
            writeln!(f, "first loss: {reason}")?;
        }
        let mut table = String::new();
        let _ = writeln!(table, "{:<14}{:>10}{:>12}{:>12}{:>12}", "", "count", "p50 ms", "p99 ms", "max ms");
        let mut row = |name: &str, latency: &Latency| {
            let Latency { count, p50_ms, p99_ms, max_ms } = latency;
            let _ = writeln!(table, "{name:<14}{count:>10}{p50_ms:>12.2}{p99_ms:>12.2}{max_ms:>12.2}");
        };
        row("join", &self.join);
        for (kind, latency) in &self.actions {
            row(kind, latency);
        }
        row("all actions", &self.all_actions);
        row("round trip", &self.round_trip);
        f.write_str(&table)?;
        let rejected: u64 = self.rejected.values().sum();
        writeln!(f, "done {}, rejected {rejected}, failed {}", self.done, self.failed)?;
        for (reason, count) in &self.rejected {
            writeln!(f, "  {count:>8} × {reason}")?;
        }
        let (up, down) = (self.up_bytes_per_s, self.down_bytes_per_s);
        writeln!(f, "per player: {up:.0} B/s up, {down:.0} B/s down")?;
        write!(f, "shard's tick: p50 {:.3} ms, p99 {:.3} ms", self.tick_p50_ms, self.tick_p99_ms)
    }
}
