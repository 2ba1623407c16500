//! The `vsekai-supervisor` command: keeps children running, asks a running supervisor, or serves a store.

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tracing::{error, info, warn};
use vsekai_storage::kv::Database;
use vsekai_supervisor::client::{Client, Failure};
use vsekai_supervisor::engine::Engine;
use vsekai_supervisor::policy::Limits;
use vsekai_supervisor::tree::TreeHandle;
use vsekai_supervisor::tree::cli::TreeCommand;
use vsekai_supervisor::{api, cli, config, keeper, runner, store, tree};

/// The supervisor itself failed; see [`vsekai_supervisor::policy::Outcome::exit_code`] for the other codes.
const EXIT_FAILED: u8 = 5;

/// A running supervisor was asked and said no, or a configuration is wrong.
const EXIT_REFUSED: u8 = 1;

const EXIT_CODES: &str = "\
Exit codes:
  0  done; of `run`: stopped on request, or detached; of `run -- COMMAND`: the command exited with code 0, or was stopped on
     request within the grace time
  1  the running supervisor said no, or the configuration is wrong; the reason is on stderr
  2  the command line is wrong
  3  quarantined: the command of `run -- COMMAND` failed too often; the reason is on stderr
  4  stopped on request, but somebody of `run -- COMMAND` had to be killed when the grace time was over
  5  the supervisor itself failed, or none answers";

/// Keeps game servers and other commands running: restarts what fails, gives up in the open when it keeps failing.
#[derive(Parser)]
#[command(version, after_help = EXIT_CODES)]
struct Cli {
    #[command(flatten)]
    place: cli::Where,
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Run in the foreground: the children of the configuration, or one command.
    ///
    /// With a configuration: until SIGTERM or SIGINT comes, which stops all children in reverse order; a second one kills them. SIGHUP
    /// reads the configuration again. Killed with -9 and started again, it takes over the children that still run.
    ///
    /// With a command: until it exits with code 0, fails too often, or SIGTERM or SIGINT comes. A failure is an exit code other than 0, an end by a signal, or a command that cannot be started. It is started
    /// again after 100 ms, doubling to 30 s while it keeps failing, less up to 20 % of jitter. SIGTERM and SIGINT are
    /// passed on to the command's whole process group; what has not ended when the grace time is over is killed.
    #[command(after_help = EXIT_CODES)]
    Run(RunArgs),
    /// Own a store and serve it to the shards and tools of this machine, until SIGTERM or SIGINT comes.
    ///
    /// They use it as `unix:SOCKET`. Only this user's processes may: the socket has mode 0600.
    #[command(after_help = STORE_EXAMPLE)]
    Store(StoreArgs),
    /// Bring what a dead shard has left in its journal into its store, so that the store alone has the world.
    ///
    /// The supervisor does this by itself for children with `[child.journal]`. Killed at any moment, nothing is lost.
    DrainJournal(DrainArgs),
    /// Check a configuration
    Check,
    /// The state tree: small values for operators and servers, kept by the running supervisor
    #[command(subcommand)]
    Tree(TreeCommand),
    #[command(flatten)]
    Request(cli::Request),
}

const STORE_EXAMPLE: &str = "\
Example:
  vsekai-supervisor store --store local:/srv/vsekai/store --socket /run/vsekai/store.sock
  vsekai-shard run --store unix:/run/vsekai/store.sock --data /srv/vsekai/shard-1";

#[derive(Args)]
struct StoreArgs {
    /// The store to own: local:DIR, or mem: (nothing survives this process)
    #[arg(long, value_name = "URL")]
    store: String,
    /// Where to listen; a socket that a dead server has left is replaced
    #[arg(long, value_name = "PATH")]
    socket: PathBuf,
}

#[derive(Args)]
struct DrainArgs {
    /// The journal's directory: `journal` in the shard's data directory
    #[arg(long, value_name = "DIR")]
    journal: PathBuf,
    /// Its store: local:DIR, unix:SOCKET or fdb:CLUSTER_FILE
    #[arg(long, value_name = "URL")]
    store: String,
    /// Try again for as long as the store does not answer
    #[arg(long)]
    patient: bool,
    /// End with this process, which must be the one that started this
    #[arg(long, value_name = "PID", hide = true)]
    parent: Option<i32>,
}

#[derive(Args)]
struct RunArgs {
    /// Most restarts within the window; the failure after that is the last one (0 to 1000).
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(0..=1000))]
    max_restarts: u32,
    /// Length of the window in seconds (1 to 86400).
    #[arg(long, value_name = "S", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    within_s: u64,
    /// Seconds between the stop signal and the kill (0 to 3600).
    #[arg(long, value_name = "S", default_value_t = 5, value_parser = clap::value_parser!(u64).range(0..=3600))]
    grace_s: u64,
    /// Seed of the jitter, to replay a run; otherwise drawn from the clock and told on stderr.
    #[arg(long, value_name = "SEED")]
    seed: Option<u64>,
    /// One program and its arguments, after `--`, instead of a configuration.
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

fn main() -> ExitCode {
    // Keepers are small, and children start quickly: neither needs more of this program than its own part.
    match std::env::args_os().nth(1) {
        Some(task) if task == "keep" => return keep(),
        Some(task) if task == "launch" => return ExitCode::from(u8::try_from(keeper::launch()).unwrap_or(EXIT_FAILED)),
        _ => {}
    }
    let Cli { place, task } = Cli::parse();
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
    match task {
        Task::Run(arguments) if arguments.command.is_empty() => supervise(&place.config, arguments.seed),
        Task::Run(arguments) => run(&arguments),
        Task::Check => match config::load(&place.config) {
            Ok(config) => {
                println!("{}: {} children, well", place.config.display(), config.children.len());
                ExitCode::SUCCESS
            }
            Err(error) => {
                error!("{:#}", anyhow::Error::new(error));
                ExitCode::from(EXIT_REFUSED)
            }
        },
        Task::Request(request) => ask(&place, request),
        Task::Tree(command) => ask_tree(&place, &command),
        Task::Store(StoreArgs { store, socket }) => done(store::run(&store, &socket)),
        Task::DrainJournal(DrainArgs { journal, store, patient, parent }) => {
            let storage = vsekai_storage::Config::new(store, journal);
            done(store::drain(&store::DrainTask { storage, patient, parent, json: place.json }))
        }
    }
}

fn done(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!("{error:#}");
            ExitCode::from(EXIT_FAILED)
        }
    }
}

/// Keeps one child; only the supervisor starts this (`keep`, and `launch` in the child itself).
fn keep() -> ExitCode {
    match keeper::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The supervisor reads this.
            eprintln!("{error:#}");
            ExitCode::from(EXIT_FAILED)
        }
    }
}

/// One thread for the engine and the API, and a few for disks.
fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().max_blocking_threads(6).thread_keep_alive(Duration::from_secs(2));
    builder.build().context("there is no runtime")
}

fn supervise(path: &Path, seed: Option<u64>) -> ExitCode {
    let config = match config::load(path) {
        Ok(config) => config,
        Err(error) => {
            error!("{:#}", anyhow::Error::new(error));
            return ExitCode::from(EXIT_REFUSED);
        }
    };
    let supervised = || -> anyhow::Result<()> {
        let runtime = runtime()?;
        runtime.block_on(async {
            let (engine, handle) = Engine::new(config.clone(), path, seed.unwrap_or_else(ambient_seed))?;
            let tree = open_tree(&config.state_dir);
            api::serve(&config, &handle, tree.clone().map(tree::http::router)).await?;
            let outcome = engine.run().await?;
            info!("{outcome:?}");
            if let Some(tree) = tree {
                tokio::task::spawn_blocking(move || tree.close()).await.context("the state tree did not close")?;
            }
            // Whoever asked for this gets the answer.
            tokio::time::sleep(Duration::from_millis(50)).await;
            Ok(())
        })
    };
    match supervised() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!("the supervisor failed: {error:#}");
            ExitCode::from(EXIT_FAILED)
        }
    }
}

/// The state tree, in the state directory. Children are kept running without it, too: why it is missing is said, and no more.
fn open_tree(state_dir: &Path) -> Option<TreeHandle> {
    let opened = Database::open(&format!("local:{}", state_dir.join("tree").display()))
        .map_err(anyhow::Error::new)
        .and_then(|database| TreeHandle::open(database, tree::Limits::default()).map_err(anyhow::Error::new));
    opened.inspect_err(|error| error!("there is no state tree: {error:#}")).ok()
}

fn ask_tree(place: &cli::Where, command: &TreeCommand) -> ExitCode {
    let client = Client::new(place.url.as_deref(), place.socket.as_deref(), &place.config, place.token_file.as_deref());
    let done = client.and_then(|client| tree::cli::run(command, &client.target(), place.json, &mut std::io::stdout()));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::from(EXIT_REFUSED)
        }
    }
}

fn ask(place: &cli::Where, request: cli::Request) -> ExitCode {
    let asked = runtime().and_then(|runtime| runtime.block_on(cli::run(place, request)));
    match asked {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            let not_there = matches!(error.downcast_ref(), Some(Failure::NotThere(..)));
            ExitCode::from(if not_there { EXIT_FAILED } else { EXIT_REFUSED })
        }
    }
}

fn run(arguments: &RunArgs) -> ExitCode {
    let limits = Limits {
        restarts_max: arguments.max_restarts,
        window: Duration::from_secs(arguments.within_s),
        grace: Duration::from_secs(arguments.grace_s),
    };
    if !limits.quarantine_reachable() {
        warn!(
            "the waits before {} restarts add up to more than {} s: a command that fails at once will never be quarantined",
            arguments.max_restarts, arguments.within_s
        );
    }
    let seed = arguments.seed.unwrap_or_else(ambient_seed);
    info!("jitter seed {seed}");

    let (program, parameters) = arguments.command.split_first().expect("clap asks for at least one");
    let command = || {
        let mut command = Command::new(program);
        command.args(parameters);
        Ok(command)
    };
    match runner::run(command, limits, seed) {
        Ok(outcome) => ExitCode::from(outcome.exit_code()),
        Err(error) => {
            error!("the supervisor failed: {:#}", anyhow::Error::new(error));
            ExitCode::from(EXIT_FAILED)
        }
    }
}

/// Different for supervisors started together on one machine or on many; need not be secret.
fn ambient_seed() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::from(since_epoch.subsec_nanos()) << 32 | u64::from(std::process::id())
}
