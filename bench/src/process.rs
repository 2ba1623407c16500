//! A shard in a process of its own: found, started, watched, ended. Only processes that were started here are ended here.

use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// How long a shard may take to start.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// A program of ours: what `VSEKAI_SHARD` (for `vsekai-shard` and so on) names if set, else the one beside this program.
///
/// # Errors
/// When there is none; the text says how to build it.
pub fn program(name: &str) -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(name.to_uppercase().replace('-', "_")) {
        return Ok(path.into());
    }
    let own = std::env::current_exe().context("cannot tell where this program is")?;
    // A test's program lies one folder deeper, in `deps`.
    let folders = own.ancestors().skip(1).take(2);
    let found = folders.map(|folder| folder.join(name)).find(|path| path.is_file());
    found.with_context(|| {
        format!("there is no {name} beside this program; build it with `cargo build -p {name}` (same profile)")
    })
}

/// A running shard. Killed when dropped.
#[derive(Debug)]
pub struct ShardProcess {
    child: Child,
    /// The page's address, `http://127.0.0.1:PORT/`.
    pub url: String,
    /// From starting the process to its being ready.
    pub started_in: Duration,
    errors: PathBuf,
    _errors_folder: tempfile::TempDir,
}

impl ShardProcess {
    /// Starts a shard on `data`, on free ports of 127.0.0.1, with more arguments if wanted, and waits until it is ready.
    ///
    /// # Errors
    /// When it ends instead; the text has its last line.
    pub fn start(data: &Path, arguments: &[&str]) -> Result<Self> {
        ShardProcess::start_at("127.0.0.1:0", data, arguments)
    }

    /// The same with the page at `http`, an address and port, so that clients find it again after a restart.
    ///
    /// # Errors
    /// When it ends instead; the text has its last line.
    pub fn start_at(http: &str, data: &Path, arguments: &[&str]) -> Result<Self> {
        ShardProcess::start_in(http, data, arguments, &[])
    }

    /// The same with more in its environment.
    ///
    /// # Errors
    /// When it ends instead; the text has its last line.
    pub fn start_in(http: &str, data: &Path, arguments: &[&str], environment: &[(&str, &Path)]) -> Result<Self> {
        let folder = tempfile::tempdir().context("cannot make a folder for the shard's log")?;
        let errors = folder.path().join("stderr.log");
        let begin = Instant::now();
        let mut child = Command::new(program("vsekai-shard")?)
            .args(["run", "--http", http, "--data"])
            .arg(data)
            .args(arguments)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(&errors).context("cannot make the shard's log")?)
            .spawn()
            .context("cannot start the shard")?;
        let stdout = child.stdout.take().context("the shard has no output")?;
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            let mut reader = BufReader::new(stdout);
            let mut line = String::new();
            if reader.read_line(&mut line).is_ok() && sender.send(line).is_ok() {
                // Keep the pipe open and empty as long as the shard lives.
                let _ = reader.read_to_end(&mut Vec::new());
            }
        });
        let line = receiver.recv_timeout(START_TIMEOUT).unwrap_or_default();
        let started_in = begin.elapsed();
        let Some(url) = line.split_whitespace().find(|word| word.starts_with("http://")) else {
            let _ = child.kill();
            let status = child.wait().context("cannot wait for the shard")?;
            let log = std::fs::read_to_string(&errors).unwrap_or_default();
            bail!("the shard did not start ({status}): {}", log.lines().last().unwrap_or("it said nothing"));
        };
        Ok(ShardProcess { child, url: url.to_string(), started_in, errors, _errors_folder: folder })
    }

    /// Where players' signalling is.
    pub fn signalling_url(&self) -> String {
        self.url.replacen("http", "ws", 1)
    }

    /// The answer of `/api/status`.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn status(&self) -> Result<Value> {
        let mut response = ureq::get(format!("{}api/status", self.url)).call().context("no status")?;
        Ok(response.body_mut().read_json()?)
    }

    /// Ends it as a power cut would end the process: SIGKILL.
    ///
    /// # Errors
    /// When it is gone already.
    pub fn kill(mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("the shard had ended by itself ({status}): {}", self.log().lines().last().unwrap_or_default());
        }
        self.child.kill().context("cannot kill the shard")?;
        self.child.wait().context("cannot wait for the shard")?;
        Ok(())
    }

    /// Asks it to stop, and waits.
    ///
    /// # Errors
    /// When it does not stop within ten seconds.
    pub fn stop(mut self) -> Result<ExitStatus> {
        let pid = rustix_pid(&self.child)?;
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).context("cannot signal the shard")?;
        self.await_end(Duration::from_secs(10))
    }

    /// Waits until it ends, by itself or as asked.
    ///
    /// # Errors
    /// When it still runs after `deadline`.
    pub fn await_end(&mut self, deadline: Duration) -> Result<ExitStatus> {
        let begin = Instant::now();
        while begin.elapsed() < deadline {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        bail!("the shard does not stop")
    }

    /// True while it runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.errors).unwrap_or_default()
    }
}

fn rustix_pid(child: &Child) -> Result<rustix::process::Pid> {
    i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw).context("no process id")
}

impl Drop for ShardProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
