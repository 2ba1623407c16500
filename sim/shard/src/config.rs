//! The shard's configuration: a TOML file in its raw form, checked into a [`Config`], overridden by flags.

use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;
use thiserror::Error;
use vsekai_net::flood::{IntakeRates, Rates};
use vsekai_net::pose_relay::PoseRelayConfig;
use vsekai_net::replication::ReplicationConfig;
use vsekai_net::server::ServerConfig;
use vsekai_net::session::Limits;
use vsekai_net::token::LIFETIME_S_MAX;
use vsekai_net::webrtc::WebRtcConfig;
use vsekai_schema::wire::CLIENT_MESSAGE_BYTES_MAX;
use vsekai_sim::SimConfig;

/// Farther than this, looking up who sees a pose would cost more than the pose.
const POSE_M_MAX: u64 = 256;
/// Bytes a second in a kbit/s.
const BYTES_PER_S_IN_KBIT: u32 = 125;

/// What is wrong with the configuration; the text names file, key and what is allowed.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}", .path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Not TOML, an unknown key, a value of the wrong kind: the text shows the line and what is allowed.
    #[error("{}: {message}", .path.display())]
    Syntax {
        /// Which file.
        path: PathBuf,
        /// Line, column, what is wrong and what is allowed.
        message: String,
    },
    /// A value out of range.
    #[error("{origin}: `{key}` is {value}, it must be from {min} to {max}")]
    Range {
        /// The file's name, or "flags".
        origin: String,
        /// Section and key.
        key: &'static str,
        /// What was given.
        value: u64,
        /// Smallest allowed.
        min: u64,
        /// Largest allowed.
        max: u64,
    },
    /// Nobody could ever join.
    #[error(
        "{origin}: HTTP listens on {http}, beyond this machine, and there is no `net.token_key_file`: whoever reaches it could \
         be any player. Set a key file (`vsekai-shard token --new-key FILE`), or `net.dev_tokens = true` to have it so"
    )]
    NoTokens {
        /// The file's name, or "flags".
        origin: String,
        /// Where HTTP listens.
        http: SocketAddr,
    },
    /// The last worker's port would be beyond 65,535.
    #[error("{origin}: `webrtc.workers` is {workers}: from port {port} on there are not that many")]
    Ports {
        /// The file's name, or "flags".
        origin: String,
        /// The first port.
        port: u16,
        /// How many are wanted.
        workers: u32,
    },
}

/// A STUN or TURN server that clients are told of, as browsers take it (`RTCIceServer`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IceServer {
    /// `stun:host:port` or `turn:host:port`.
    pub urls: Vec<String>,
    /// For TURN.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// For TURN.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<String>,
}

/// How players get join tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenConfig {
    /// The secret that issuers share with this shard; without it, one of its own for each start.
    pub key_file: Option<PathBuf>,
    /// Issue tokens to whoever asks at `POST /api/token`.
    pub dev: bool,
    /// How long those are good for.
    pub lifetime: Duration,
    /// How many a second one address may have; sixty times as many at once.
    pub per_address_per_s: u32,
}

/// A checked configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// The world.
    pub simulation: SimConfig,
    /// The designers' files; `None` for the folder that is there or the built-in ones.
    pub content: Option<PathBuf>,
    /// Page, signalling, status.
    pub http: SocketAddr,
    /// The players' transport.
    pub webrtc: WebRtcConfig,
    /// STUN and TURN servers that clients are told of.
    pub ice_servers: Vec<IceServer>,
    /// The players' sessions.
    pub server: ServerConfig,
    /// How players get join tokens.
    pub tokens: TokenConfig,
    /// Where bans are kept.
    pub bans_file: PathBuf,
    /// The store and its journal.
    pub storage: vsekai_storage::Config,
    /// Where exports of the running world go.
    pub export_dir: PathBuf,
    /// How much is logged.
    pub log_level: tracing::Level,
    /// Log lines as JSON.
    pub log_json: bool,
}

/// What flags override.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// `--data`
    pub data: Option<PathBuf>,
    /// `--store`
    pub store: Option<String>,
    /// `--http`
    pub http: Option<SocketAddr>,
    /// `--udp`
    pub udp: Option<SocketAddr>,
    /// `--content`
    pub content: Option<PathBuf>,
    /// `--seed`
    pub seed: Option<u64>,
    /// `--tick-hz`
    pub tick_hz: Option<u32>,
    /// `--abandon-journal`, which no file may say: it holds for one start.
    pub abandon_journal: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawConfig {
    simulation: RawSimulation,
    http: RawHttp,
    webrtc: RawWebRtc,
    net: RawNet,
    storage: RawStorage,
    log: RawLog,
}

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawSimulation {
    tick_hz: u32,
    seed: u64,
    half_m: u32,
    spawn_radius_m: u32,
    content: Option<PathBuf>,
}

impl Default for RawSimulation {
    fn default() -> Self {
        let SimConfig { tick_hz, seed, half_m, spawn_radius_m } = SimConfig::default();
        RawSimulation { tick_hz, seed, half_m, spawn_radius_m, content: None }
    }
}

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawHttp {
    address: SocketAddr,
}

impl Default for RawHttp {
    fn default() -> Self {
        RawHttp { address: SocketAddr::from(([127, 0, 0, 1], 8080)) }
    }
}

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawWebRtc {
    address: SocketAddr,
    public_address: Option<IpAddr>,
    workers: u32,
    connections_per_address_max: u32,
    handshakes_per_address_max: u32,
    handshake_s: u32,
    packets_per_s: u32,
    intake_kbit_s: u32,
    ice_servers: Vec<IceServer>,
}

impl Default for RawWebRtc {
    fn default() -> Self {
        let intake = IntakeRates::default();
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        RawWebRtc {
            address,
            public_address: None,
            workers: 1,
            connections_per_address_max: 1_200,
            handshakes_per_address_max: 600,
            handshake_s: 10,
            packets_per_s: intake.packets_per_s,
            intake_kbit_s: intake.bytes_per_s / 125,
            ice_servers: Vec::new(),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawNet {
    players_max: u32,
    view_radius_chunks: u32,
    interest_m: u32,
    snapshot_hz: u32,
    motion_kbit_s: u32,
    bulk_kbit_s: u32,
    pose_full_m: u32,
    pose_half_m: u32,
    pose_anchor_m: u32,
    pose_key_m: u32,
    pose_kbit_s: u32,
    moves_per_s: u32,
    commands_per_s: u32,
    pings_per_s: u32,
    others_per_s: u32,
    silence_s: u32,
    resume_s: u32,
    token_key_file: Option<PathBuf>,
    dev_tokens: Option<bool>,
    token_lifetime_s: u32,
    tokens_per_address_per_s: u32,
}

impl Default for RawNet {
    fn default() -> Self {
        let rates = Rates::default();
        let poses = PoseRelayConfig::default();
        let metres = |mm: i32| mm.unsigned_abs() / 1_000;
        RawNet {
            players_max: 1_000,
            view_radius_chunks: 3,
            interest_m: 100,
            snapshot_hz: 20,
            motion_kbit_s: 256,
            bulk_kbit_s: 4_000,
            pose_full_m: metres(poses.full_mm),
            pose_half_m: metres(poses.half_mm),
            pose_anchor_m: metres(poses.anchor_mm),
            pose_key_m: metres(poses.key_mm),
            pose_kbit_s: poses.viewer_bytes_per_s / BYTES_PER_S_IN_KBIT,
            moves_per_s: rates.moves_per_s,
            commands_per_s: rates.commands_per_s,
            pings_per_s: rates.pings_per_s,
            others_per_s: rates.others_per_s,
            silence_s: 5,
            resume_s: 60,
            token_key_file: None,
            dev_tokens: None,
            token_lifetime_s: 120,
            tokens_per_address_per_s: 20,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawStorage {
    data: PathBuf,
    store: Option<String>,
    flush_interval_ms: u64,
    segment_mib: u64,
    backlog_mib: u64,
    min_free_mib: u64,
    lease_ttl_ms: u64,
    change_log_frames: u64,
    flush_threads: u64,
    export_dir: Option<PathBuf>,
}

impl Default for RawStorage {
    fn default() -> Self {
        let usual = vsekai_storage::Config::new("", "");
        RawStorage {
            data: "data".into(),
            store: None,
            flush_interval_ms: usual.flush_interval_ms,
            segment_mib: usual.segment_bytes >> 20,
            backlog_mib: usual.backlog_bytes_max >> 20,
            min_free_mib: usual.min_free_bytes >> 20,
            lease_ttl_ms: usual.lease_ttl_ms,
            change_log_frames: usual.change_log_frames,
            flush_threads: usual.flush_threads,
            export_dir: None,
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawLog {
    level: RawLevel,
    format: RawFormat,
}

#[derive(Debug, Default, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RawLevel {
    Error,
    Warn,
    #[default]
    Info,
    Debug,
    Trace,
}

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RawFormat {
    #[default]
    Text,
    Json,
}

impl Config {
    /// Reads `file`, if given, and applies the overrides.
    ///
    /// # Errors
    /// What is wrong, by file, line and key.
    pub fn load(file: Option<&Path>, overrides: Overrides) -> Result<Config, ConfigError> {
        let Some(path) = file else { return Config::check("flags", RawConfig::default(), overrides) };
        let text =
            std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_path_buf(), source })?;
        let raw = toml::from_str(&text).map_err(|error| ConfigError::Syntax {
            path: path.to_path_buf(),
            message: error.to_string().trim_end().to_string(),
        })?;
        Config::check(&path.display().to_string(), raw, overrides)
    }

    fn check(origin: &str, mut raw: RawConfig, overrides: Overrides) -> Result<Config, ConfigError> {
        let Overrides { data, store, http, udp, content, seed, tick_hz, abandon_journal } = overrides;
        raw.storage.data = data.unwrap_or(raw.storage.data);
        raw.storage.store = store.or(raw.storage.store);
        raw.http.address = http.unwrap_or(raw.http.address);
        raw.webrtc.address = udp.unwrap_or(raw.webrtc.address);
        raw.simulation.content = content.or(raw.simulation.content);
        raw.simulation.seed = seed.unwrap_or(raw.simulation.seed);
        raw.simulation.tick_hz = tick_hz.unwrap_or(raw.simulation.tick_hz);

        let range = |key, value: u64, allowed: RangeInclusive<u64>| {
            let (min, max) = (*allowed.start(), *allowed.end());
            let fits = allowed.contains(&value);
            if fits { Ok(()) } else { Err(ConfigError::Range { origin: origin.to_string(), key, value, min, max }) }
        };
        let RawSimulation { tick_hz, seed, half_m, spawn_radius_m, content } = raw.simulation;
        let simulation = SimConfig { tick_hz, seed, half_m, spawn_radius_m };
        simulation.validate().map_err(|error| ConfigError::Range {
            origin: origin.to_string(),
            key: error.key,
            value: error.value,
            min: error.min,
            max: error.max,
        })?;
        let net = &raw.net;
        range("net.players_max", net.players_max.into(), 1..=10_000)?;
        range("net.view_radius_chunks", net.view_radius_chunks.into(), 1..=8)?;
        range("net.interest_m", net.interest_m.into(), 8..=10_000)?;
        range("net.snapshot_hz", net.snapshot_hz.into(), 1..=120)?;
        range("net.motion_kbit_s", net.motion_kbit_s.into(), 16..=100_000)?;
        range("net.bulk_kbit_s", net.bulk_kbit_s.into(), 64..=1_000_000)?;
        // Each reaches at least as far as the finer one before it.
        range("net.pose_full_m", net.pose_full_m.into(), 1..=POSE_M_MAX)?;
        range("net.pose_half_m", net.pose_half_m.into(), net.pose_full_m.into()..=POSE_M_MAX)?;
        range("net.pose_anchor_m", net.pose_anchor_m.into(), net.pose_half_m.into()..=POSE_M_MAX)?;
        range("net.pose_key_m", net.pose_key_m.into(), net.pose_anchor_m.into()..=POSE_M_MAX)?;
        range("net.pose_kbit_s", net.pose_kbit_s.into(), 16..=100_000)?;
        range("net.moves_per_s", net.moves_per_s.into(), 1..=1_000)?;
        range("net.commands_per_s", net.commands_per_s.into(), 1..=1_000)?;
        range("net.pings_per_s", net.pings_per_s.into(), 1..=1_000)?;
        range("net.others_per_s", net.others_per_s.into(), 1..=1_000)?;
        range("net.resume_s", net.resume_s.into(), 0..=3_600)?;
        range("net.token_lifetime_s", net.token_lifetime_s.into(), 10..=LIFETIME_S_MAX)?;
        range("net.tokens_per_address_per_s", net.tokens_per_address_per_s.into(), 1..=1_000)?;
        range("webrtc.workers", raw.webrtc.workers.into(), 1..=64)?;
        range("webrtc.handshakes_per_address_max", raw.webrtc.handshakes_per_address_max.into(), 1..=100_000)?;
        range("webrtc.handshake_s", raw.webrtc.handshake_s.into(), 1..=60)?;
        range("webrtc.packets_per_s", raw.webrtc.packets_per_s.into(), 50..=100_000)?;
        range("webrtc.intake_kbit_s", raw.webrtc.intake_kbit_s.into(), 64..=1_000_000)?;
        range("net.silence_s", net.silence_s.into(), 1..=300)?;
        range("webrtc.connections_per_address_max", raw.webrtc.connections_per_address_max.into(), 1..=100_000)?;
        range("storage.flush_interval_ms", raw.storage.flush_interval_ms, 1..=3_600_000)?;
        range("storage.segment_mib", raw.storage.segment_mib, 1..=1_024)?;
        range("storage.backlog_mib", raw.storage.backlog_mib, 1..=16_777_216)?;
        range("storage.min_free_mib", raw.storage.min_free_mib, 0..=16_777_216)?;
        range("storage.lease_ttl_ms", raw.storage.lease_ttl_ms, 100..=600_000)?;
        range("storage.change_log_frames", raw.storage.change_log_frames, 0..=100_000_000)?;
        range("storage.flush_threads", raw.storage.flush_threads, 1..=64)?;

        let store_url =
            raw.storage.store.unwrap_or_else(|| format!("local:{}", raw.storage.data.join("store").display()));
        // A store that goes with the process takes its journal along.
        let journal_dir = if store_url == "mem:" {
            std::env::temp_dir().join(format!("vsekai-shard-{}-journal", std::process::id()))
        } else {
            raw.storage.data.join("journal")
        };
        let port = raw.webrtc.address.port();
        if port != 0 && u32::from(port) + raw.webrtc.workers - 1 > u16::MAX.into() {
            return Err(ConfigError::Ports { origin: origin.to_string(), port, workers: raw.webrtc.workers });
        }
        let at_home = raw.http.address.ip().to_canonical().is_loopback();
        let dev = net.dev_tokens.unwrap_or(net.token_key_file.is_none() && at_home);
        if !dev && net.token_key_file.is_none() {
            return Err(ConfigError::NoTokens { origin: origin.to_string(), http: raw.http.address });
        }
        let rates = Rates {
            moves_per_s: net.moves_per_s,
            commands_per_s: net.commands_per_s,
            pings_per_s: net.pings_per_s,
            others_per_s: net.others_per_s,
        };
        let server = ServerConfig {
            tick_hz: tick_hz as u8,
            players_max: net.players_max as usize,
            limits: Limits {
                rates,
                silence: Duration::from_secs(net.silence_s.into()),
                hello: Duration::from_secs(net.silence_s.into()),
            },
            resume: Duration::from_secs(net.resume_s.into()),
            replication: ReplicationConfig {
                tick_hz: tick_hz as u8,
                view_radius_chunks: net.view_radius_chunks as i32,
                interest_mm: net.interest_m as i32 * 1_000,
                snapshot_interval_ticks: u64::from((tick_hz / net.snapshot_hz).max(1)),
                motion_kbit_s: net.motion_kbit_s,
                bulk_kbit_s: net.bulk_kbit_s,
            },
            poses: PoseRelayConfig {
                full_mm: net.pose_full_m as i32 * 1_000,
                half_mm: net.pose_half_m as i32 * 1_000,
                anchor_mm: net.pose_anchor_m as i32 * 1_000,
                key_mm: net.pose_key_m as i32 * 1_000,
                viewer_bytes_per_s: net.pose_kbit_s * BYTES_PER_S_IN_KBIT,
            },
        };
        Ok(Config {
            simulation,
            content,
            http: raw.http.address,
            webrtc: WebRtcConfig {
                bind: raw.webrtc.address,
                public_address: raw.webrtc.public_address,
                workers: raw.webrtc.workers as usize,
                // Room for those that are still shaking hands, and for refusals with a reason.
                connections_max: net.players_max as usize * 5 / 4 + 16,
                connections_per_address_max: raw.webrtc.connections_per_address_max as usize,
                handshakes_per_address_max: raw.webrtc.handshakes_per_address_max as usize,
                handshake_timeout: Duration::from_secs(raw.webrtc.handshake_s.into()),
                message_bytes_max: CLIENT_MESSAGE_BYTES_MAX,
                rates: Some(rates),
                intake: Some(IntakeRates {
                    packets_per_s: raw.webrtc.packets_per_s,
                    bytes_per_s: raw.webrtc.intake_kbit_s * 125,
                }),
            },
            ice_servers: raw.webrtc.ice_servers,
            tokens: TokenConfig {
                key_file: net.token_key_file.clone(),
                dev,
                lifetime: Duration::from_secs(net.token_lifetime_s.into()),
                per_address_per_s: net.tokens_per_address_per_s,
            },
            bans_file: raw.storage.data.join("bans.json"),
            server,
            storage: vsekai_storage::Config {
                flush_interval_ms: raw.storage.flush_interval_ms,
                segment_bytes: raw.storage.segment_mib << 20,
                backlog_bytes_max: raw.storage.backlog_mib << 20,
                min_free_bytes: raw.storage.min_free_mib << 20,
                lease_ttl_ms: raw.storage.lease_ttl_ms,
                change_log_frames: raw.storage.change_log_frames,
                flush_threads: raw.storage.flush_threads,
                abandon_journal,
                ..vsekai_storage::Config::new(store_url, journal_dir)
            },
            export_dir: raw.storage.export_dir.unwrap_or_else(|| raw.storage.data.join("exports")),
            log_level: match raw.log.level {
                RawLevel::Error => tracing::Level::ERROR,
                RawLevel::Warn => tracing::Level::WARN,
                RawLevel::Info => tracing::Level::INFO,
                RawLevel::Debug => tracing::Level::DEBUG,
                RawLevel::Trace => tracing::Level::TRACE,
            },
            log_json: raw.log.format == RawFormat::Json,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, String> {
        let raw = toml::from_str(text).map_err(|error| error.to_string())?;
        Config::check("shard.toml", raw, Overrides::default()).map_err(|error| error.to_string())
    }

    #[test]
    fn the_sample_file_says_the_defaults() {
        let sample = parse(include_str!("../shard.toml")).unwrap();
        assert_eq!(format!("{sample:?}"), format!("{:?}", parse("").unwrap()));
    }

    #[test]
    fn every_key_that_the_sample_leaves_commented_out_is_accepted() {
        let mut text = include_str!("../shard.toml").to_string();
        for key in ["content", "store", "public_address", "export_dir", "token_key_file", "dev_tokens"] {
            text = text.replace(&format!("# {key} ="), &format!("{key} ="));
        }
        let config = parse(&text).unwrap();
        assert_eq!(config.export_dir, PathBuf::from("data/exports"));
        assert_eq!(config.content, Some("sim/content".into()));
        assert_eq!(config.storage.store_url, "local:data/store");
        assert_eq!(config.webrtc.public_address, Some(IpAddr::from([203, 0, 113, 7])));
    }

    #[test]
    fn tokens_for_everybody_stay_on_this_machine_unless_asked_for() {
        let dev = |text: &str| parse(text).map(|config| config.tokens.dev);
        assert_eq!(dev(""), Ok(true));
        assert_eq!(dev("[net]\ntoken_key_file = \"key\"\n"), Ok(false));
        assert_eq!(dev("[net]\ntoken_key_file = \"key\"\ndev_tokens = true\n"), Ok(true));
        let open = "[http]\naddress = \"0.0.0.0:80\"\n[net]\n";
        let refused = dev(open).unwrap_err();
        assert!(refused.contains("net.token_key_file") && refused.contains("0.0.0.0:80"), "{refused}");
        assert_eq!(dev(&format!("{open}dev_tokens = true\n")), Ok(true));
        assert_eq!(dev(&format!("{open}token_key_file = \"key\"\n")), Ok(false));
        assert!(dev("[net]\ndev_tokens = false\n").is_err());
    }

    #[test]
    fn transport_keys_reach_the_transport() {
        let text = "[webrtc]\naddress = \"127.0.0.1:65000\"\nworkers = 3\nhandshake_s = 4\nhandshakes_per_address_max = 5\nintake_kbit_s = 80\n\
                    [[webrtc.ice_servers]]\nurls = [\"turn:t.example:3478\"]\nusername = \"u\"\ncredential = \"c\"\n\
                    [net]\npings_per_s = 7\nresume_s = 9\n";
        let config = parse(text).unwrap();
        let webrtc = &config.webrtc;
        assert_eq!((webrtc.workers, webrtc.handshakes_per_address_max, webrtc.handshake_timeout.as_secs()), (3, 5, 4));
        assert_eq!(webrtc.rates, Some(Rates { pings_per_s: 7, ..Rates::default() }));
        assert_eq!(webrtc.intake, Some(IntakeRates { bytes_per_s: 10_000, ..IntakeRates::default() }));
        assert_eq!((config.server.limits.rates.pings_per_s, config.server.resume.as_secs()), (7, 9));
        let told = serde_json::to_string(&config.ice_servers).unwrap();
        assert_eq!(told, r#"[{"urls":["turn:t.example:3478"],"username":"u","credential":"c"}]"#);
        let ports = "[webrtc]\naddress = \"127.0.0.1:65535\"\nworkers = 2\n";
        assert!(parse(ports).unwrap_err().contains("from port 65535 on there are not that many"));
    }

    #[test]
    fn pose_keys_reach_the_relay_and_rise() {
        let keys = "pose_full_m = 3\npose_half_m = 4\npose_anchor_m = 5\npose_key_m = 6\npose_kbit_s = 64\n";
        let poses = parse(&format!("[net]\n{keys}")).unwrap().server.poses;
        let told = PoseRelayConfig {
            full_mm: 3_000,
            half_mm: 4_000,
            anchor_mm: 5_000,
            key_mm: 6_000,
            viewer_bytes_per_s: 8_000,
        };
        assert_eq!(poses, told);
        assert_eq!(parse("").unwrap().server.poses, PoseRelayConfig::default());
        assert_eq!(
            parse("[net]\npose_anchor_m = 19\n").unwrap_err(),
            "shard.toml: `net.pose_anchor_m` is 19, it must be from 20 to 256"
        );
        assert!(parse("[net]\npose_key_m = 257\n").unwrap_err().contains("from 40 to 256"));
        assert!(parse("[net]\npose_kbit_s = 15\n").unwrap_err().contains("from 16 to 100000"));
    }

    #[test]
    fn storage_keys_reach_storage() {
        let text =
            "[storage]\ndata = \"d\"\nmin_free_mib = 3\nlease_ttl_ms = 700\nchange_log_frames = 9\nflush_threads = 2\n";
        let config = parse(text).unwrap();
        let expected = vsekai_storage::Config {
            min_free_bytes: 3 << 20,
            lease_ttl_ms: 700,
            change_log_frames: 9,
            flush_threads: 2,
            ..vsekai_storage::Config::new("local:d/store", "d/journal")
        };
        assert_eq!(config.storage, expected);
        assert_eq!(config.export_dir, PathBuf::from("d/exports"));
        let overrides = Overrides { abandon_journal: true, ..Overrides::default() };
        assert!(Config::check("flags", RawConfig::default(), overrides).unwrap().storage.abandon_journal);
        assert!(parse("[storage]\nabandon_journal = true\n").unwrap_err().contains("unknown field"));
        assert_eq!(
            parse("[storage]\nflush_threads = 0\n").unwrap_err(),
            "shard.toml: `storage.flush_threads` is 0, it must be from 1 to 64"
        );
    }

    #[test]
    fn errors_name_line_key_and_what_is_allowed() {
        let unknown = parse("[net]\nplayers_max = 5\nplayer_max = 6\n").unwrap_err();
        for part in ["line 3", "unknown field `player_max`", "players_max", "silence_s"] {
            assert!(unknown.contains(part), "{unknown:?} does not say {part:?}");
        }
        assert_eq!(
            parse("[simulation]\ntick_hz = 9\n").unwrap_err(),
            "shard.toml: `tick_hz` is 9, it must be from 10 to 120"
        );
        assert!(parse("[simulation]\ntick_hz = \"fast\"\n").unwrap_err().contains("line 2"));
        assert!(parse("[http]\naddress = \"nowhere\"\n").unwrap_err().contains("address"));
    }
}
