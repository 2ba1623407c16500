//! The `vsekai-supervisor` command: runs one supervised command, or serves a store, in the foreground.

use clap::{Args, Parser, Subcommand};
use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tracing::{error, info, warn};
use vsekai_supervisor::policy::Limits;
use vsekai_supervisor::{keeper, runner, store};

/// The supervisor itself failed; see [`vsekai_supervisor::policy::Outcome::exit_code`] for the other codes.
const EXIT_FAILED: u8 = 5;

const EXIT_CODES: &str = "\
Exit codes:
  0  the command exited with code 0, or was stopped on request within the grace time
  2  the command line is wrong
  3  quarantined: the command failed too often; the reason is on stderr
  4  stopped on request, but somebody had to be killed when the grace time was over
  5  the supervisor itself failed";

/// Keeps a command running: restarts it when it fails, gives up in the open when it keeps failing.
#[derive(Parser)]
#[command(version, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Run one command in the foreground until it exits with code 0, fails too often, or SIGTERM or SIGINT comes.
    ///
    /// A failure is an exit code other than 0, an end by a signal, or a command that cannot be started. It is started
    /// again after 100 ms, doubling to 30 s while it keeps failing, less up to 20 % of jitter. SIGTERM and SIGINT are
    /// passed on to the command's whole process group; what has not ended when the grace time is over is killed.
    #[command(after_help = EXIT_CODES)]
    Run(RunArgs),
    /// Own a store and serve it to the shards and tools of this machine, until SIGTERM or SIGINT comes.
    ///
    /// They use it as `unix:SOCKET`. Only this user's processes may: the socket has mode 0600.
    #[command(after_help = STORE_EXAMPLE)]
    Store(StoreArgs),
    /// Keep one child; only the supervisor starts this.
    #[command(hide = true)]
    Keep,
    /// Become one child; only a keeper starts this.
    #[command(hide = true)]
    Launch,
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
    /// The program and its arguments, after `--`.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

fn main() -> ExitCode {
    let Cli { task } = Cli::parse();
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
    match task {
        Task::Run(arguments) => run(&arguments),
        Task::Keep => match keeper::run() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                error!("{error:#}");
                ExitCode::from(EXIT_FAILED)
            }
        },
        Task::Launch => ExitCode::from(u8::try_from(keeper::launch()).unwrap_or(EXIT_FAILED)),
        Task::Store(StoreArgs { store, socket }) => match store::run(&store, &socket) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                error!("{error:#}");
                ExitCode::from(EXIT_FAILED)
            }
        },
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

    match runner::run(&arguments.command, limits, seed) {
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
