//! The background daemon of one user: jobs that go on when the terminal is closed, and after restarts.
//!
//! It listens on a random port of 127.0.0.1 and answers only who has the token of `daemon.json` (mode 0600). One runs at a time: whoever
//! holds `daemon.lock` is it. `docs/install.md` has the API.

mod job;
mod mirror;
mod server;

pub(crate) use job::offers;
pub use job::{Job, Order, Status};
pub(crate) use server::serve;

use crate::error::{Exit, TaskError, shown};
use crate::settings::{self, Purpose};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long a daemon may take from its start to its first answer.
const START_MAX: Duration = Duration::from_secs(20);
const ANSWER_MAX: Duration = Duration::from_secs(20);

/// How to reach a daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Reach {
    pub port: u16,
    /// Who has it is this user.
    pub token: String,
    pub pid: u32,
}

/// Where the daemon's files are. Only its user may look in.
pub(crate) fn state_folder() -> Result<PathBuf, TaskError> {
    let folder = settings::folder(Purpose::State)?.join("daemon");
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder);
    made.map_err(|source| TaskError::unwritable(&folder, source))?;
    Ok(folder)
}

/// Becomes the only daemon, as long as the file is held.
pub(crate) fn lock(folder: &Path) -> Result<Option<File>, TaskError> {
    let path = folder.join("daemon.lock");
    let unwritable = |source| TaskError::unwritable(&path, source);
    let file = File::options().create(true).truncate(false).write(true).mode(0o600).open(&path).map_err(unwritable)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(unwritable(error.into())),
    }
}

/// A daemon that answers.
pub(crate) struct Client {
    agent: ureq::Agent,
    reach: Reach,
}

impl Client {
    /// The daemon that runs; one is started if there is none.
    pub fn start() -> Result<Self, TaskError> {
        let folder = state_folder()?;
        if let Some(client) = Self::find(&folder) {
            return Ok(client);
        }
        let program = std::env::current_exe()
            .map_err(|source| TaskError::because(Exit::Failed, "cannot tell where this program is", source))?;
        let log = folder.join("daemon.log");
        let unwritable = |source| TaskError::unwritable(&log, source);
        let errors = File::options().create(true).append(true).mode(0o600).open(&log).map_err(unwritable)?;
        let mut command = Command::new(&program);
        command.args(["sync", "daemon"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors).current_dir("/");
        let mut child = command.spawn().map_err(|source| {
            TaskError::because(Exit::Failed, format!("{}: cannot be started", shown(&program)), source)
        })?;
        let begun = Instant::now();
        while begun.elapsed() < START_MAX {
            if let Some(client) = Self::find(&folder) {
                return Ok(client);
            }
            // One that ended lost the race against another, which will answer, or failed and said why.
            if let Ok(Some(status)) = child.try_wait()
                && !status.success()
            {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Err(TaskError::new(Exit::Failed, format!("the daemon did not start; {} says why", shown(&log))))
    }

    /// The daemon that runs, if one does.
    pub fn running() -> Result<Option<Self>, TaskError> {
        Ok(Self::find(&state_folder()?))
    }

    fn find(folder: &Path) -> Option<Self> {
        let mut text = vec![];
        File::open(folder.join("daemon.json")).ok()?.take(4_096).read_to_end(&mut text).ok()?;
        let reach: Reach = serde_json::from_slice(&text).ok()?;
        let config =
            ureq::Agent::config_builder().timeout_global(Some(ANSWER_MAX)).http_status_as_error(false).proxy(None);
        let client = Self { agent: config.build().new_agent(), reach };
        client.jobs().is_ok().then_some(client)
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}/v1/{path}", self.reach.port)
    }

    fn answer<T: for<'a> Deserialize<'a>>(
        &self,
        answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
    ) -> Result<T, TaskError> {
        let failed = |why: String| TaskError::new(Exit::NotFound, format!("the daemon does not answer: {why}"));
        let mut answer = answer.map_err(|error| failed(error.to_string()))?;
        let status = answer.status();
        let text = answer.body_mut().read_to_string().map_err(|error| failed(error.to_string()))?;
        if !status.is_success() {
            let exit = match status.as_u16() {
                404 => Exit::NotFound,
                401 | 403 => Exit::Denied,
                _ => Exit::Usage,
            };
            return Err(TaskError::new(exit, format!("the daemon refuses: {text}")));
        }
        serde_json::from_str(&text).map_err(|error| failed(error.to_string()))
    }

    fn authorization(&self) -> String {
        format!("Bearer {}", self.reach.token)
    }

    pub fn jobs(&self) -> Result<Vec<Job>, TaskError> {
        self.answer(self.agent.get(self.url("jobs")).header("authorization", self.authorization()).call())
    }

    pub fn begin(&self, order: &Order) -> Result<Job, TaskError> {
        self.answer(self.agent.post(self.url("jobs")).header("authorization", self.authorization()).send_json(order))
    }

    /// `what` is `pause` or `resume`; of one job or all.
    pub fn tell(&self, job: Option<u64>, what: &str) -> Result<Vec<Job>, TaskError> {
        let path = job.map_or_else(|| what.to_owned(), |job| format!("jobs/{job}/{what}"));
        self.answer(self.agent.post(self.url(&path)).header("authorization", self.authorization()).send_empty())
    }

    /// Asks it to end; jobs go on when the next one starts.
    pub fn stop(&self) -> Result<Vec<Job>, TaskError> {
        self.answer(self.agent.post(self.url("stop")).header("authorization", self.authorization()).send_empty())
    }
}
