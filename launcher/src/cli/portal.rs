//! `vsekai portal …`: the game client, launched and kept.

use crate::error::{EXIT_CODES, Exit, TaskError};
use crate::output::say;
use crate::portal::{self, Launch, Portal, Status};
use crate::settings::Settings;
use crate::whole;
use clap::{Args, Subcommand};
use serde_json::json;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;
use vsekai_supervisor::client::{Client, Failure};

/// A session's token is no longer.
const SESSION_BYTES_MAX: u64 = 64 << 10;

/// Whose game, and who keeps it.
#[derive(Debug, Args)]
pub struct Which {
    /// The profile, if not the current one.
    #[arg(long = "profile_name", alias = "profile-name", global = true)]
    profile_name: Option<String>,
    /// Let the supervisor at this address (http://HOST:PORT, or the path of its socket) do it, whose child `--child` is.
    #[arg(long, value_name = "ADDRESS", global = true, requires = "child")]
    supervisor: Option<String>,
    /// The supervisor's name for the game.
    #[arg(long, value_name = "NAME", global = true, requires = "supervisor")]
    child: Option<String>,
    /// A file with the token for the supervisor.
    #[arg(long = "token_file", alias = "token-file", value_name = "FILE", global = true, requires = "supervisor")]
    token_file: Option<PathBuf>,
}

/// The game client: launched, kept, closed.
#[derive(Debug, Args)]
pub struct PortalArgs {
    #[command(flatten)]
    which: Which,
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Say how the game is. Exit code 0 if it runs, 10 if not.
    #[command(name = "check-status", alias = "check_status", after_help = EXIT_CODES)]
    CheckStatus,
    /// Launch the game of the installed version, and return once it runs.
    ///
    /// What is started is said by `vsekai-launch.toml` at the root of the build (`program = "bin/game"`, `arguments = []`), or here after `--`.
    #[command(after_help = EXIT_CODES)]
    Launch {
        /// Address of the shard to join; the game finds it in VSEKAI_ADDRESS.
        #[arg(long)]
        address: Option<String>,
        /// File with the session's token (`-` for standard input); the game finds the token in VSEKAI_SESSION.
        #[arg(long = "session_file", alias = "session-file", value_name = "FILE")]
        session_file: Option<PathBuf>,
        /// Start it again when it crashes: at most five times in a minute.
        #[arg(long = "restart_on_crash", alias = "restart-on-crash")]
        restart_on_crash: bool,
        /// Between the request to close and the kill, seconds.
        #[arg(long = "grace_s", alias = "grace-s", default_value_t = 10)]
        grace_s: u32,
        /// The folder of the installation, if not the profile's.
        #[arg(long, value_name = "FOLDER")]
        root: Option<PathBuf>,
        /// One more argument for the program that the build names; may be repeated.
        #[arg(long = "argument", value_name = "WORD", allow_hyphen_values = true)]
        arguments: Vec<String>,
        /// What to start instead, beneath the version's folder unless it is absolute.
        #[arg(last = true)]
        command: Vec<OsString>,
    },
    /// Close the game if it runs, and launch it as it was launched last.
    #[command(after_help = EXIT_CODES)]
    Restart,
    /// Ask the game to end, and kill it with all it started when its grace time is over.
    #[command(after_help = EXIT_CODES)]
    Close {
        /// Instead of the grace time it was launched with, seconds.
        #[arg(long = "grace_s", alias = "grace-s")]
        grace_s: Option<u32>,
    },
    /// What `launch` leaves behind.
    #[command(hide = true)]
    Keep {
        #[arg(long)]
        folder: PathBuf,
    },
}

impl PortalArgs {
    /// Does the task.
    pub fn run(self, json: bool) -> Result<(), TaskError> {
        let Self { which, task } = self;
        if let Task::Keep { folder } = task {
            return portal::keep(&folder);
        }
        if let (Some(address), Some(child)) = (&which.supervisor, &which.child) {
            return supervised(address, which.token_file.as_deref(), child, &task, json);
        }
        let settings = Settings::load()?;
        let name = which.profile_name.as_deref().unwrap_or(&settings.profile);
        let portal = Portal::of(name)?;
        match task {
            Task::CheckStatus => {
                let status = portal.status()?;
                show(json, &status)?;
                match status {
                    Status::Running { .. } => Ok(()),
                    Status::Stopped { .. } => Err(TaskError::new(Exit::NotFound, "the game does not run")),
                    Status::Adrift { .. } => Err(TaskError::new(Exit::Failed, "the game runs, but nobody keeps it")),
                }
            }
            Task::Launch { address, session_file, restart_on_crash, grace_s, root, arguments, command } => {
                let root = match root {
                    Some(root) => root,
                    None => settings.profile(Some(name))?.root.clone(),
                };
                let session = session_file.as_deref().map(session).transpose()?;
                let grace = Duration::from_secs(grace_s.into());
                let launch = Launch { root, command, arguments, address, session, restart: restart_on_crash, grace };
                show(json, &portal.launch(&launch)?)
            }
            Task::Restart => show(json, &portal.restart()?),
            Task::Close { grace_s } => show(json, &portal.close(grace_s.map(|s| Duration::from_secs(s.into())))?),
            Task::Keep { .. } => unreachable!("done above"),
        }
    }
}

fn session(file: &Path) -> Result<String, TaskError> {
    let bytes = if file == Path::new("-") {
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut std::io::Read::take(std::io::stdin(), SESSION_BYTES_MAX), &mut bytes)
            .map_err(|source| TaskError::unreadable(file, source))?;
        bytes
    } else {
        let there = whole::read(file, SESSION_BYTES_MAX)?;
        there.ok_or_else(|| TaskError::unreadable(file, std::io::ErrorKind::NotFound.into()))?
    };
    let text = String::from_utf8(bytes).ok().map(|text| text.trim().to_owned());
    text.filter(|text| !text.is_empty() && !text.contains('\0'))
        .ok_or_else(|| TaskError::new(Exit::Damaged, format!("{}: no token", file.display())))
}

fn show(json: bool, status: &Status) -> Result<(), TaskError> {
    say(json, status, || match status {
        Status::Running { program, version, pid, keeper, restarts, address, logs, .. } => {
            let version = version.as_ref().map(|version| format!(" {version}")).unwrap_or_default();
            let process = match pid {
                Some(pid) => format!("process {pid}"),
                None => "waiting to be started again".into(),
            };
            let address = address.as_ref().map(|address| format!(", at {address}")).unwrap_or_default();
            let logs = logs.display();
            format!(
                "running{version}: {program}, {process}, kept by {keeper}, {restarts} restarts{address}\nlogs: {logs}"
            )
        }
        Status::Stopped { outcome: Some(outcome), .. } => format!("not running: {outcome}"),
        Status::Stopped { outcome: None, .. } => "not running: it was never launched".into(),
        Status::Adrift { pids } => {
            format!("adrift: {pids:?} run without their keeper; `vsekai portal close` ends them")
        }
    })
}

/// The same through a supervisor: its child is configured there, address and session included.
fn supervised(address: &str, token: Option<&Path>, child: &str, task: &Task, json: bool) -> Result<(), TaskError> {
    let (url, socket) = if address.contains("://") { (Some(address), None) } else { (None, Some(Path::new(address))) };
    let client = Client::new(url, socket, Path::new(""), token)
        .map_err(|error| TaskError::because(Exit::Usage, "--supervisor", error))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| TaskError::because(Exit::Failed, "no runtime", error))?;
    let failed = |failure: Failure| match failure {
        Failure::NotThere(..) => TaskError::because(Exit::Network, "the supervisor", failure),
        Failure::Refused(why) => TaskError::new(Exit::Failed, format!("the supervisor says no: {why}")),
    };
    let order = match task {
        Task::Launch {
            address: None,
            session_file: None,
            restart_on_crash: false,
            root: None,
            command,
            arguments,
            ..
        } if command.is_empty() && arguments.is_empty() => "start",
        Task::Launch { .. } => {
            let why = "with --supervisor its configuration says what is started and how: no other flags";
            return Err(TaskError::new(Exit::Usage, why));
        }
        Task::Restart => "restart",
        Task::Close { .. } => "stop",
        Task::CheckStatus | Task::Keep { .. } => {
            let view: serde_json::Value =
                runtime.block_on(client.get(&format!("/api/children/{child}"))).map_err(failed)?;
            let state = view["state"].as_str().unwrap_or("unknown").to_owned();
            say(json, &view, || format!("{child}: {state}, process {}", view["pid"]))?;
            let runs = state == "running";
            return if runs { Ok(()) } else { Err(TaskError::new(Exit::NotFound, format!("{child} is {state}"))) };
        }
    };
    let path = format!("/api/children/{child}/{order}");
    let done = runtime.block_on(client.post(&path, String::new())).map_err(failed)?;
    say(json, &json!({ "child": child, "done": done }), || done.clone())
}
