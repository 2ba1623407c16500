//! What a running shard says of itself: as JSON for pages and people, as Prometheus text for metrics.

use serde::Serialize;
use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write;
use std::time::{Duration, Instant};
use vsekai_net::server::ServerCounts;
use vsekai_net::webrtc::Metrics;

/// The answer of `/api/status`.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Status {
    /// When this was written; a loop that hangs writes no more.
    #[serde(skip)]
    pub published: Option<Instant>,
    /// Version of the program.
    pub version: &'static str,
    /// Seconds since the start.
    pub uptime_s: f64,
    /// Number of the last frame.
    pub tick: u64,
    /// Ticks per second.
    pub tick_hz: u32,
    /// Hash of the whole state after that frame, 16 hexadecimal digits.
    pub state_hash: String,
    /// The last frame that survives a crash.
    pub durable_frame: u64,
    /// Seed of the world.
    pub seed: u64,
    /// Players in the world now.
    pub players: usize,
    /// Entities by kind.
    pub entities: BTreeMap<&'static str, usize>,
    /// Items, all kinds together.
    pub items: Items,
    /// Duration of a tick over the last ten seconds, milliseconds.
    pub tick_ms: Percentiles,
    /// Ticks that began later than they should have by more than a tick, since the start.
    pub late_ticks: u64,
    /// Why the world stands still, if it does.
    pub standing: Option<String>,
    /// The journal.
    pub journal: Journal,
    /// The store.
    pub store: Store,
    /// What this start found on disk.
    pub recovered: Option<Recovered>,
    /// Players' commands and bytes.
    pub net: Net,
}

/// Items made, used up, and in inventories now; `minted - consumed = live`, or something is wrong.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Items {
    /// Made since the world was born.
    pub minted: u64,
    /// Used up since the world was born.
    pub consumed: u64,
    /// In inventories now.
    pub live: u64,
}

/// Two percentiles and the largest value.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Percentiles {
    /// Median.
    pub p50: f64,
    /// 99th percentile.
    pub p99: f64,
    /// Largest.
    pub max: f64,
}

/// How far behind the disk is.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Journal {
    /// Frames that are not durable yet.
    pub backlog_frames: u64,
    /// Bytes that the store does not have yet.
    pub bytes: u64,
    /// The last frame that is in the store.
    pub flushed_frame: u64,
    /// Groups of frames written and synced since the start.
    pub syncs: u64,
    /// How long such a write takes, 99th percentile, milliseconds.
    pub sync_p99_ms: f64,
    /// Bytes free on its disk when that was last looked at.
    pub free_bytes: Option<u64>,
}

/// What went into the store since the start.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Store {
    /// Transactions by which frames were brought there.
    pub flushes: u64,
    /// How long the last of them took, milliseconds.
    pub last_flush_ms: f64,
    /// Chunks and lone entities rewritten.
    pub flushed_homes: u64,
    /// Bytes of keys and values.
    pub flushed_bytes: u64,
    /// While the store does not answer; frames stay in the journal then.
    pub outage: Option<Outage>,
}

/// A store that does not answer.
#[derive(Debug, Clone, Serialize)]
pub struct Outage {
    /// What it says, or what is said of it.
    pub reason: String,
    /// For how long already.
    pub seconds: f64,
}

/// A world that was found on disk.
#[derive(Debug, Clone, Serialize)]
pub struct Recovered {
    /// Its last durable frame.
    pub frame: u64,
    /// The hash of its state, verified.
    pub state_hash: String,
    /// Entities in it.
    pub entities: usize,
    /// From the start of the process until it was ready, milliseconds.
    pub ready_ms: f64,
}

/// Connections and traffic since the start.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Net {
    /// Connections open now.
    pub connections: u64,
    /// Connections refused or ended by the shard.
    pub refused: u64,
    /// Handshakes that never finished.
    pub handshakes_failed: u64,
    /// Handshakes under way.
    pub handshakes_open: u64,
    /// Clients that found no room at the door.
    pub refused_at_door: u64,
    /// Clients without a good token or session.
    pub turned_away: u64,
    /// Players who lost their connection and may come back.
    pub away: usize,
    /// Sessions that went on over another connection.
    pub resumed: u64,
    /// Players who did not come back in time.
    pub not_resumed: u64,
    /// Players removed by operators.
    pub kicked: u64,
    /// Connections ended for flooding.
    pub flooded: u64,
    /// Messages dropped because their sender sent too many or too long ones.
    pub messages_flooded: u64,
    /// UDP packets that belonged to no connection, or that the system did not take.
    pub packets_refused: u64,
    /// UDP packets dropped unread because their sender sent too many or too much.
    pub packets_flooded: u64,
    /// Commands executed.
    pub commands_done: u64,
    /// Commands rejected by the rules.
    pub commands_rejected: u64,
    /// Commands refused at the door.
    pub commands_too_frequent: u64,
    /// Movements dropped because the shard was too busy.
    pub moves_dropped: u64,
    /// UDP bytes received.
    pub bytes_in: u64,
    /// UDP bytes sent.
    pub bytes_out: u64,
    /// Bytes of state handed to the transport.
    pub state_bytes: u64,
    /// Bytes of commands' results and views handed to the transport.
    pub command_bytes: u64,
    /// Packets of motion.
    pub motion_packets: u64,
    /// States of movers in them.
    pub motion_updates: u64,
    /// Their bytes.
    pub motion_bytes: u64,
    /// Bytes of chunks that came into somebody's view.
    pub chunk_bytes: u64,
    /// Heads and hands handed on.
    pub poses_relayed: u64,
    /// Heads and hands that were not believed, could not be read, or came too fast.
    pub poses_dropped: u64,
    /// Messages dropped because a queue was full.
    pub messages_dropped: u64,
}

impl Net {
    /// From the server's and the transport's counts; who is away and who was turned away is for the caller to add.
    pub fn of(server: ServerCounts, transport: Metrics) -> Net {
        Net {
            connections: transport.connections_open,
            refused: server.refused,
            handshakes_failed: transport.handshakes_failed,
            handshakes_open: transport.handshakes_open,
            refused_at_door: transport.refused_at_door,
            turned_away: 0,
            away: 0,
            resumed: server.resumed,
            not_resumed: server.not_resumed,
            kicked: server.kicked,
            flooded: server.flooded,
            messages_flooded: transport.messages_flooded,
            packets_refused: transport.packets_refused,
            packets_flooded: transport.packets_flooded,
            commands_done: server.commands_done,
            commands_rejected: server.commands_rejected,
            commands_too_frequent: server.too_frequent,
            moves_dropped: server.moves_dropped,
            bytes_in: transport.bytes_in,
            bytes_out: transport.bytes_out,
            state_bytes: server.state_bytes,
            motion_packets: server.replication.motion_packets,
            motion_updates: server.replication.motion_updates,
            motion_bytes: server.replication.motion_bytes,
            chunk_bytes: server.replication.bulk_bytes,
            poses_relayed: server.poses_relayed,
            poses_dropped: server.poses_dropped,
            command_bytes: server.command_bytes,
            messages_dropped: transport.messages_dropped,
        }
    }
}

/// Durations of the last ticks.
#[derive(Debug)]
pub struct TickTimes {
    last: VecDeque<Duration>,
    capacity: usize,
}

impl TickTimes {
    /// Remembers ten seconds' worth.
    pub fn new(tick_hz: u32) -> Self {
        TickTimes { last: VecDeque::new(), capacity: tick_hz as usize * 10 }
    }

    /// One more.
    pub fn push(&mut self, duration: Duration) {
        if self.last.len() == self.capacity {
            self.last.pop_front();
        }
        self.last.push_back(duration);
    }

    /// Over what is remembered, milliseconds.
    pub fn percentiles(&self) -> Percentiles {
        let mut sorted: Vec<f64> = self.last.iter().map(|duration| duration.as_secs_f64() * 1_000.0).collect();
        sorted.sort_by(f64::total_cmp);
        let at = |part: f64| sorted.get((sorted.len() as f64 * part) as usize).or(sorted.last()).copied();
        Percentiles {
            p50: at(0.5).unwrap_or_default(),
            p99: at(0.99).unwrap_or_default(),
            max: sorted.last().copied().unwrap_or_default(),
        }
    }
}

impl Status {
    /// The Prometheus text exposition format, version 0.0.4.
    pub fn prometheus(&self) -> String {
        let mut out = String::new();
        let mut metric = |name: &str, kind: &str, help: &str, values: &[(&str, f64)]| {
            let _ = writeln!(out, "# HELP vsekai_{name} {help}\n# TYPE vsekai_{name} {kind}");
            for (labels, value) in values {
                let _ = writeln!(out, "vsekai_{name}{labels} {value}");
            }
        };
        let kinds: Vec<(String, f64)> =
            self.entities.iter().map(|(kind, count)| (format!("{{kind=\"{kind}\"}}"), *count as f64)).collect();
        let kinds: Vec<(&str, f64)> = kinds.iter().map(|(labels, count)| (labels.as_str(), *count)).collect();
        let net = &self.net;
        metric("uptime_seconds", "gauge", "Seconds since the start.", &[("", self.uptime_s)]);
        metric("tick", "counter", "Number of the last frame.", &[("", self.tick as f64)]);
        metric(
            "late_ticks_total",
            "counter",
            "Ticks that began late by more than a tick.",
            &[("", self.late_ticks as f64)],
        );
        metric(
            "tick_milliseconds",
            "gauge",
            "Duration of a tick over the last ten seconds.",
            &[
                ("{quantile=\"0.5\"}", self.tick_ms.p50),
                ("{quantile=\"0.99\"}", self.tick_ms.p99),
                ("{quantile=\"1\"}", self.tick_ms.max),
            ],
        );
        metric("players", "gauge", "Players in the world.", &[("", self.players as f64)]);
        metric("entities", "gauge", "Entities by kind.", &kinds);
        metric(
            "items",
            "gauge",
            "Items since the world was born, and in inventories now.",
            &[
                ("{state=\"minted\"}", self.items.minted as f64),
                ("{state=\"consumed\"}", self.items.consumed as f64),
                ("{state=\"live\"}", self.items.live as f64),
            ],
        );
        metric("durable_frame", "counter", "The last frame that survives a crash.", &[("", self.durable_frame as f64)]);
        metric("flushed_frame", "counter", "The last frame in the store.", &[("", self.journal.flushed_frame as f64)]);
        metric(
            "journal_backlog_frames",
            "gauge",
            "Frames that are not durable yet.",
            &[("", self.journal.backlog_frames as f64)],
        );
        metric("journal_bytes", "gauge", "Bytes that the store does not have yet.", &[("", self.journal.bytes as f64)]);
        metric(
            "journal_syncs_total",
            "counter",
            "Groups of frames written and synced.",
            &[("", self.journal.syncs as f64)],
        );
        metric(
            "journal_sync_p99_milliseconds",
            "gauge",
            "How long such a write takes.",
            &[("", self.journal.sync_p99_ms)],
        );
        if let Some(free) = self.journal.free_bytes {
            let help = "Bytes free on the journal's disk.";
            metric("journal_disk_free_bytes", "gauge", help, &[("", free as f64)]);
        }
        let standing = f64::from(u8::from(self.standing.is_some()));
        metric("standing", "gauge", "1 while the world stands still for want of room.", &[("", standing)]);
        let outage = self.store.outage.as_ref().map_or(0.0, |outage| outage.seconds);
        metric(
            "store_outage_seconds",
            "gauge",
            "For how long the store has not answered; 0 when it does.",
            &[("", outage)],
        );
        metric("flushes_total", "counter", "Flushes into the store.", &[("", self.store.flushes as f64)]);
        metric("last_flush_milliseconds", "gauge", "How long the last flush took.", &[("", self.store.last_flush_ms)]);
        metric(
            "flushed_homes_total",
            "counter",
            "Chunks and lone entities rewritten in the store.",
            &[("", self.store.flushed_homes as f64)],
        );
        metric(
            "flushed_bytes_total",
            "counter",
            "Bytes of keys and values written to the store.",
            &[("", self.store.flushed_bytes as f64)],
        );
        metric("connections", "gauge", "WebRTC connections open.", &[("", net.connections as f64)]);
        metric(
            "connections_refused_total",
            "counter",
            "Connections refused or ended by the shard.",
            &[("", net.refused as f64)],
        );
        metric(
            "handshakes_failed_total",
            "counter",
            "Handshakes that never finished.",
            &[("", net.handshakes_failed as f64)],
        );
        metric("handshakes", "gauge", "Handshakes under way.", &[("", net.handshakes_open as f64)]);
        metric(
            "door_refusals_total",
            "counter",
            "Clients that were not let in.",
            &[("{reason=\"no_room\"}", net.refused_at_door as f64), ("{reason=\"token\"}", net.turned_away as f64)],
        );
        metric(
            "players_away",
            "gauge",
            "Players who lost their connection and may come back.",
            &[("", net.away as f64)],
        );
        metric(
            "sessions_total",
            "counter",
            "What became of sessions that lost their connection, and of those that operators or floods ended.",
            &[
                ("{end=\"resumed\"}", net.resumed as f64),
                ("{end=\"not_resumed\"}", net.not_resumed as f64),
                ("{end=\"kicked\"}", net.kicked as f64),
                ("{end=\"flooded\"}", net.flooded as f64),
            ],
        );
        metric(
            "messages_flooded_total",
            "counter",
            "Messages dropped because their sender sent too many or too long ones.",
            &[("", net.messages_flooded as f64)],
        );
        metric(
            "packets_refused_total",
            "counter",
            "UDP packets that belonged to no connection, or that the system did not take.",
            &[("", net.packets_refused as f64)],
        );
        metric(
            "packets_flooded_total",
            "counter",
            "UDP packets dropped unread because their sender sent too many or too much.",
            &[("", net.packets_flooded as f64)],
        );
        metric(
            "commands_total",
            "counter",
            "Commands by outcome.",
            &[
                ("{outcome=\"done\"}", net.commands_done as f64),
                ("{outcome=\"rejected\"}", net.commands_rejected as f64),
                ("{outcome=\"too_frequent\"}", net.commands_too_frequent as f64),
            ],
        );
        metric(
            "moves_dropped_total",
            "counter",
            "Movements dropped because the shard was too busy.",
            &[("", net.moves_dropped as f64)],
        );
        metric(
            "messages_dropped_total",
            "counter",
            "Messages dropped because a queue was full.",
            &[("", net.messages_dropped as f64)],
        );
        metric(
            "udp_bytes_total",
            "counter",
            "UDP bytes.",
            &[("{direction=\"in\"}", net.bytes_in as f64), ("{direction=\"out\"}", net.bytes_out as f64)],
        );
        metric(
            "sent_bytes_total",
            "counter",
            "Bytes handed to the transport.",
            &[("{channel=\"state\"}", net.state_bytes as f64), ("{channel=\"command\"}", net.command_bytes as f64)],
        );
        metric(
            "poses_total",
            "counter",
            "Poses of heads and hands by outcome: handed on, or not believed, not readable or too many.",
            &[("{outcome=\"relayed\"}", net.poses_relayed as f64), ("{outcome=\"dropped\"}", net.poses_dropped as f64)],
        );
        let replicated = [
            ("motion_packets_total", "Packets of motion.", net.motion_packets),
            ("motion_updates_total", "States of movers in motion packets.", net.motion_updates),
            ("motion_bytes_total", "Bytes of motion packets.", net.motion_bytes),
            ("chunk_bytes_total", "Bytes of chunks that came into somebody's view.", net.chunk_bytes),
        ];
        for (name, help, value) in replicated {
            metric(name, "counter", help, &[("", value as f64)]);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_last_ten_seconds() {
        let mut times = TickTimes::new(10);
        for ms in 0..200 {
            times.push(Duration::from_millis(ms));
        }
        let Percentiles { p50, p99, max } = times.percentiles();
        assert_eq!((p50, p99, max), (150.0, 199.0, 199.0));
    }

    #[test]
    fn every_metric_has_help_type_and_a_number() {
        let status = Status {
            entities: [("resource", 3)].into(),
            standing: Some("no room".into()),
            journal: Journal { free_bytes: Some(7), ..Journal::default() },
            net: Net { poses_relayed: 8, poses_dropped: 9, ..Net::default() },
            ..Status::default()
        };
        let text = status.prometheus();
        for counted in ["relayed\"} 8\n", "dropped\"} 9\n"] {
            assert!(text.contains(&format!("vsekai_poses_total{{outcome=\"{counted}")), "{counted}");
        }
        assert!(text.contains("vsekai_entities{kind=\"resource\"} 3\n"));
        assert!(text.contains("vsekai_standing 1\n") && text.contains("vsekai_journal_disk_free_bytes 7\n"));
        assert!(Status::default().prometheus().contains("vsekai_standing 0\n"));
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (_, value) = line.rsplit_once(' ').unwrap();
            value.parse::<f64>().unwrap();
        }
    }
}
