//! The step between keeper and child: in the child's own process, before its program takes its place.

use crate::link::Spec;
use anyhow::{Context, Result, bail};
use rustix::process::{Resource, Rlimit, Signal, getppid, getrlimit, set_parent_process_death_signal, setrlimit};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// What the launcher's exit code is when there is a word of it.
const EXIT_REFUSED: i32 = 127;
/// Most bytes of that word.
const REFUSAL_BYTES_MAX: u64 = 4_096;
/// What a child is not told about: they are the supervisor's own.
const SUPERVISORS_OWN: [&str; 3] = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"];

/// The variable that marks everybody of a run.
pub const MARK: &str = "VSEKAI_RUN";

/// Its value for a run of the child in this folder.
pub fn mark(folder: &Path, run: u64) -> String {
    format!("{}#{run}", folder.display())
}

/// What the launcher needs to know; it comes over its standard input.
#[derive(Serialize, Deserialize)]
struct Orders {
    keeper: i32,
    command: Vec<String>,
    environment: BTreeMap<String, String>,
    directory: PathBuf,
    open_files: Option<u64>,
}

/// A started child, and the line on which its launcher says why the program could not take its place.
pub struct Launched {
    pub child: Child,
    words: UnixStream,
}

impl Launched {
    /// What the launcher said; asked only after the process has ended.
    pub fn refusal(&mut self) -> Option<String> {
        let mut said = String::new();
        let _ = self.words.set_nonblocking(true);
        let _ = (&mut self.words).take(REFUSAL_BYTES_MAX).read_to_string(&mut said);
        (!said.is_empty()).then_some(said)
    }
}

/// Starts the launcher in a process group of its own.
pub fn start(spec: &Spec) -> io::Result<Launched> {
    let (mut words, theirs) = UnixStream::pair()?;
    // The same program, even when its file has been replaced meanwhile.
    let child = Command::new("/proc/self/exe")
        .arg("launch")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()?;
    let mut environment = spec.environment.clone();
    if let Some(socket) = &spec.notify_socket {
        environment.insert("NOTIFY_SOCKET".to_owned(), socket.display().to_string());
        if let Some(watchdog_us) = spec.watchdog_us {
            environment.insert("WATCHDOG_USEC".to_owned(), watchdog_us.to_string());
        }
    }
    environment.insert("VSEKAI_CHILD".to_owned(), spec.name.clone());
    // By this, whoever the child started can be found even when keeper and supervisor were killed together.
    environment.insert(MARK.to_owned(), mark(&std::env::current_dir()?, spec.run));
    let orders = Orders {
        keeper: std::process::id().cast_signed(),
        command: spec.command.clone(),
        environment,
        directory: spec.directory.clone(),
        open_files: spec.open_files,
    };
    // Who ends before it has read them has a word about it, or an end, that is seen in time.
    let sent = words.write_all(&serde_json::to_vec(&orders)?).and_then(|()| words.shutdown(std::net::Shutdown::Write));
    drop(sent);
    Ok(Launched { child, words })
}

/// Becomes the child's program. Returns only when that fails, with the exit code.
pub fn launch() -> i32 {
    let Ok(mut words) = io::stdin().as_fd().try_clone_to_owned().map(UnixStream::from) else { return EXIT_REFUSED };
    let Err(error) = become_program(&mut words);
    // The keeper reads this after our end.
    let _ = words.write_all(format!("{error:#}").as_bytes());
    EXIT_REFUSED
}

fn become_program(words: &mut UnixStream) -> Result<std::convert::Infallible> {
    let mut text = Vec::new();
    words.read_to_end(&mut text).context("cannot read what to start")?;
    let orders: Orders = serde_json::from_slice(&text).context("cannot understand what to start")?;
    set_parent_process_death_signal(Some(Signal::KILL)).context("cannot ask to die with the keeper")?;
    if getppid().map(|pid| pid.as_raw_nonzero().get()) != Some(orders.keeper) {
        bail!("the keeper is gone already");
    }
    if let Some(most) = orders.open_files {
        let mut limit = getrlimit(Resource::Nofile);
        let most = limit.maximum.map_or(most, |allowed| most.min(allowed));
        limit = Rlimit { current: Some(most), maximum: Some(most) };
        setrlimit(Resource::Nofile, limit).context("cannot limit the open files")?;
    }
    std::env::set_current_dir(&orders.directory)
        .with_context(|| format!("cannot change to {}", orders.directory.display()))?;
    let (program, arguments) = orders.command.split_first().context("there is no command")?;
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    for name in SUPERVISORS_OWN {
        command.env_remove(name);
    }
    let error = command.envs(&orders.environment).exec();
    Err(error).with_context(|| program.clone())
}
