//! A supervisor in a process of its own, and what it keeps running.

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use vsekai_bench::process::program;

/// How long a supervisor may take to answer, and to end with all its children.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running supervisor. Stopped with its children when dropped.
#[derive(Debug)]
pub struct Supervisor {
    process: Child,
    config: PathBuf,
    url: String,
    log: PathBuf,
}

impl Supervisor {
    /// Writes `supervisor.toml` into `folder` with `children` (tables of groups and children), and starts it.
    ///
    /// # Errors
    /// When it does not answer; the text has what it said last.
    pub fn start(folder: &Path, children: &str) -> Result<Supervisor> {
        let address = format!("127.0.0.1:{}", free_port()?);
        let config = folder.join("supervisor.toml");
        let text =
            format!("state_dir = {:?}\n[http]\naddress = \"{address}\"\n{children}", folder.join("state").display());
        std::fs::write(&config, text).context("cannot write the configuration")?;
        Supervisor::start_again(&config, &format!("http://{address}"), folder.join("supervisor.log"))
    }

    fn start_again(config: &Path, url: &str, log: PathBuf) -> Result<Supervisor> {
        let output = std::fs::OpenOptions::new().create(true).append(true).open(&log).context("no log")?;
        let process = Command::new(program("vsekai-supervisor")?)
            .args(["run", "--config"])
            .arg(config)
            .stdin(Stdio::null())
            .stdout(output.try_clone().context("no log")?)
            .stderr(output)
            .spawn()
            .context("cannot start the supervisor")?;
        let mut supervisor = Supervisor { process, config: config.into(), url: url.into(), log };
        let begin = Instant::now();
        while supervisor.board().is_err() {
            if let Some(status) = supervisor.process.try_wait()? {
                bail!("the supervisor ended ({status}): {}", supervisor.last_line());
            }
            if begin.elapsed() > PATIENCE {
                bail!("the supervisor does not answer: {}", supervisor.last_line());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(supervisor)
    }

    /// Kills it and starts another in its place, as soon as it is gone. Its children must not notice.
    ///
    /// # Errors
    /// When it had ended by itself, or the next one does not answer.
    pub fn kill_and_start(mut self) -> Result<Supervisor> {
        if let Some(status) = self.process.try_wait()? {
            bail!("the supervisor had ended by itself ({status}): {}", self.last_line());
        }
        self.process.kill().context("cannot kill the supervisor")?;
        self.process.wait().context("cannot wait for the supervisor")?;
        Supervisor::start_again(&self.config, &self.url, self.log.clone())
    }

    /// What it says of everything.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn board(&self) -> Result<Value> {
        let mut answer = ureq::get(format!("{}/api/board", self.url)).call().context("no board")?;
        Ok(answer.body_mut().read_json()?)
    }

    /// What it says of one child.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn child(&self, name: &str) -> Result<Value> {
        let board = self.board()?;
        let children = board["children"].as_array().context("a board has children")?;
        children.iter().find(|child| child["name"] == name).cloned().with_context(|| format!("no child {name}"))
    }

    /// The process of a child that runs.
    ///
    /// # Errors
    /// When it does not run.
    pub fn pid(&self, name: &str) -> Result<Pid> {
        let child = self.child(name)?;
        let pid = child["pid"].as_i64().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        pid.with_context(|| format!("{name} does not run: {child}"))
    }

    /// Waits until a child is in `state`.
    ///
    /// # Errors
    /// When it is not after a minute.
    pub fn await_state(&self, name: &str, state: &str) -> Result<()> {
        let begin = Instant::now();
        loop {
            let child = self.child(name)?;
            if child["state"] == state {
                return Ok(());
            }
            if begin.elapsed() > PATIENCE {
                bail!("{name} is not {state}: {child}");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Tells it something: `restart` a child, and so on.
    ///
    /// # Errors
    /// When it refuses.
    pub fn order(&self, name: &str, what: &str) -> Result<()> {
        let url = format!("{}/api/children/{name}/{what}", self.url);
        ureq::post(url).send_empty().with_context(|| format!("{what} {name}"))?;
        Ok(())
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Ends it with all its children, the last one first.
    ///
    /// # Errors
    /// When it does not end within a minute.
    pub fn stop(mut self) -> Result<ExitStatus> {
        self.terminate()
    }

    fn terminate(&mut self) -> Result<ExitStatus> {
        if let Some(status) = self.process.try_wait()? {
            return Ok(status);
        }
        let pid = i32::try_from(self.process.id()).ok().and_then(Pid::from_raw).context("no process id")?;
        kill_process(pid, Signal::TERM).context("cannot signal the supervisor")?;
        let begin = Instant::now();
        while begin.elapsed() < PATIENCE {
            if let Some(status) = self.process.try_wait()? {
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        bail!("the supervisor does not stop: {}", self.last_line())
    }

    fn last_line(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        log.lines().last().unwrap_or("it said nothing").to_string()
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        if let Err(error) = self.terminate() {
            eprintln!("the supervisor of a test: {error:#}");
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
    }
}

/// A port of 127.0.0.1 that nobody has at this moment.
///
/// # Errors
/// When the system has none.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0").context("no free port")?.local_addr()?.port())
}
