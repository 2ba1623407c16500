//! `vsekai-shard`: one shard of the world. Puts sim, net and storage together and runs them.

mod access;
mod bans;
mod config;
mod content;
mod heartbeat;
mod http;
mod keeper;
mod shard;
mod status;
mod store;
mod token;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use config::{Config, Overrides};
use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// One shard of the V-Sekai world: it serves the page, the players and their world, and keeps the world on disk.
///
/// Start it, open the address it prints in a browser, and walk. Stop it with Ctrl-C, or kill it: everything that a
/// player was told is done is there again after the next start.
#[derive(Debug, Parser)]
#[command(name = "vsekai-shard", version, args_conflicts_with_subcommands = true, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    options: Options,
}

const EXIT_CODES: &str = "Exit codes: 0 stopped as asked; 1 could not start, or had to stop (the last line says why); \
                          2 wrong flags.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the shard (also without a subcommand)
    Run(Options),
    /// Print every component of every entity of this shard's world, one line each, and stop
    ///
    /// Takes the journal in first, as a start would: it shows the world up to its last durable frame. `store dump` only looks,
    /// at any store.
    Dump(Options),
    /// Issue a join token for a player, or make the key for that
    Token(token::TokenCommand),
    /// Look at, copy, export, import and repair stored worlds
    #[command(subcommand)]
    Store(store::StoreCommand),
}

#[derive(Debug, Clone, Args)]
struct Options {
    /// Configuration file; see sim/shard/shard.toml for every key
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Directory that holds everything of this shard [default: data]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Store of the world: local:DIR, fdb:CLUSTER_FILE, unix:SOCKET or mem: [default: local: in the data directory]
    #[arg(long, value_name = "URL")]
    store: Option<String>,
    /// Address of page, signalling, status and metrics [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR")]
    http: Option<SocketAddr>,
    /// UDP address that players reach by WebRTC [default: 127.0.0.1, any port]
    #[arg(long, value_name = "ADDR")]
    udp: Option<SocketAddr>,
    /// Folder with the designers' files [default: sim/content if it is there, else built in]
    #[arg(long, value_name = "DIR")]
    content: Option<PathBuf>,
    /// Seed of a new world; a stored world keeps its own [default: 122]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Ticks per second, 10-120 [default: 60]
    #[arg(long, value_name = "N")]
    tick_hz: Option<u32>,
    /// Start although the journal with the world's last frames is not at hand: they are lost then
    #[arg(long)]
    abandon_journal: bool,
}

impl Options {
    fn load(self) -> Result<Config> {
        let Options { config, data, store, http, udp, content, seed, tick_hz, abandon_journal } = self;
        let overrides = Overrides { data, store, http, udp, content, seed, tick_hz, abandon_journal };
        Ok(Config::load(config.as_deref(), overrides)?)
    }
}

fn main() -> ExitCode {
    quiet_engine_panics();
    let cli = Cli::parse();
    let done = match cli.command {
        Some(Command::Run(options)) => run(options).map(|()| 0),
        Some(Command::Dump(options)) => dump(options).map(|()| 0),
        Some(Command::Token(command)) => token::run(command).map(|()| 0),
        Some(Command::Store(command)) => store::run(command),
        None => run(cli.options).map(|()| 0),
    };
    // FoundationDB's thread, if it ever ran, must not outlive `main`.
    vsekai_storage::kv::stop_network();
    match done {
        Ok(code) => code.into(),
        Err(error) => {
            // One line: the whole chain of causes.
            eprintln!("vsekai-shard: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Some damaged files make the store's engine panic. Storage catches that and says what is corrupt, so the panic's own
/// message and backtrace would only hide that line.
fn quiet_engine_panics() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let is_engine = |file: &str| Path::new(file).iter().any(|part| part.to_string_lossy().starts_with("redb"));
        match panic.location() {
            Some(place) if is_engine(place.file()) => tracing::debug!(%panic, "the store's engine panicked"),
            _ => usual(panic),
        }
    }));
}

fn run(options: Options) -> Result<()> {
    let config = options.load()?;
    let log = tracing_subscriber::fmt()
        .with_max_level(config.log_level)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .with_target(false);
    if config.log_json {
        log.json().init()
    } else {
        log.init()
    }
    shard::run(config)
}

fn dump(options: Options) -> Result<()> {
    let config = options.load()?;
    let mut simulation = shard::restore_for_reading(&config)?;
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let mut written = Ok(());
    simulation.dump(|entity, component, value| {
        if written.is_ok() {
            written = writeln!(out, "{entity} {component} {value}");
        }
    });
    // A reader that has seen enough (`| head`) is no error.
    match written.and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error).context("cannot write the dump"),
        _ => Ok(()),
    }
}
