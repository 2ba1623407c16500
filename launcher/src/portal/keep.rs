//! The keeper: runs the game under the supervisor's own policy, keeps what it says, and writes down how it ended.

use super::MARK;
use super::record::{self, ENDED_FILE, Ended, LOCK_FILE, LOG_FOLDER, RUN_FILE, Run};
use crate::error::{Exit, TaskError, shown};
use crate::whole;
use std::io::{BufRead, BufReader, PipeReader, Read};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use vsekai_supervisor::log::LogLimits;
use vsekai_supervisor::log::write::LogWriter;
use vsekai_supervisor::policy::{Limits, Outcome};
use vsekai_supervisor::procfs::Process;
use vsekai_supervisor::runner;

/// Crashes within this time count together.
const WINDOW: Duration = Duration::from_secs(60);
/// Restarts in that time, if they were asked for.
const RESTARTS_MAX: u32 = 5;

/// How long the lock is waited for.
const LOCK_WAIT_MAX: Duration = Duration::from_secs(1);
/// How long a game's last lines are waited for when its processes are gone.
const LAST_WORDS_MAX: Duration = Duration::from_secs(1);

/// Keeps the run that `folder` names, to its end. [`Exit::Busy`] when another keeper does.
pub fn keep(folder: &Path) -> Result<(), TaskError> {
    let lock = folder.join(LOCK_FILE);
    let begun = Instant::now();
    let _held = loop {
        match whole::try_lock(&lock).map_err(|source| TaskError::unwritable(&lock, source))? {
            Some(held) => break held,
            // Whoever looks whether the game is kept holds the lock for a moment.
            None if begun.elapsed() < LOCK_WAIT_MAX => std::thread::sleep(Duration::from_millis(5)),
            None => return Err(TaskError::new(Exit::Busy, format!("{}: another keeper is at work", shown(folder)))),
        }
    };
    // Out of the terminal's session, so that its end is not the game's.
    let _ = rustix::process::setsid();
    let run_file = folder.join(RUN_FILE);
    let Some(mut run) = record::load::<Run>(&run_file)? else {
        return Err(TaskError::new(Exit::NotFound, format!("{}: there is nothing to keep", shown(&run_file))));
    };
    run.keeper = Process::now(i32::try_from(std::process::id()).unwrap_or(0));
    record::store(&run_file, &run)?;
    let limits = Limits {
        restarts_max: if run.restart { RESTARTS_MAX } else { 0 },
        window: WINDOW,
        grace: Duration::from_millis(run.grace_ms),
    };
    let log = Arc::new(Mutex::new(LogWriter::open(&folder.join(LOG_FOLDER), LogLimits::default())));
    let mut readers = Vec::new();
    let command = || {
        run.starts += 1;
        record::store(&run_file, &run).map_err(std::io::Error::other)?;
        let (output, to_output) = std::io::pipe()?;
        let (errors, to_errors) = std::io::pipe()?;
        readers.retain(|reader: &JoinHandle<()>| !reader.is_finished());
        for (stream, pipe) in [('o', output), ('e', errors)] {
            let log = Arc::clone(&log);
            readers.push(std::thread::spawn(move || copy(stream, pipe, &log)));
        }
        let mut command = Command::new(&run.program.program);
        command.args(&run.program.arguments).current_dir(&run.folder).env(MARK, &run.id);
        for (name, value) in [("VSEKAI_ADDRESS", &run.address), ("VSEKAI_SESSION", &run.session)] {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.stdout(to_output).stderr(to_errors);
        Ok(command)
    };
    let outcome = runner::run(command, limits, rand::random());
    // The group is gone, and with it all who wrote, but for those who left it: its last words are worth a moment.
    let begun = Instant::now();
    while readers.iter().any(|reader| !reader.is_finished()) && begun.elapsed() < LAST_WORDS_MAX {
        std::thread::sleep(Duration::from_millis(5));
    }
    let (said, succeeded) = match &outcome {
        Ok(outcome) => (outcome.to_string(), matches!(outcome, Outcome::Succeeded | Outcome::Stopped)),
        Err(error) => (format!("its keeper failed: {error}"), false),
    };
    {
        let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
        log.line('s', said.as_bytes());
        log.flush();
    }
    record::store(&folder.join(ENDED_FILE), &Ended { outcome: said.clone(), at: record::now() })?;
    if succeeded { Ok(()) } else { Err(TaskError::new(Exit::Failed, said)) }
}

/// Copies lines into the log until nobody writes any more. A line that is too long is cut into several.
fn copy(stream: char, pipe: PipeReader, log: &Mutex<LogWriter>) {
    let longest = LogLimits::default().line_bytes as u64;
    let mut lines = BufReader::new(pipe);
    let mut line = Vec::new();
    loop {
        line.clear();
        match lines.by_ref().take(longest).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let text = line.strip_suffix(b"\n").unwrap_or(&line);
        let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
        log.line(stream, text);
        log.flush();
    }
}
