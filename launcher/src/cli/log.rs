//! `vsekai log …`: what the launcher has done.

use crate::error::{EXIT_CODES, Exit, TaskError};
use crate::log::{self, Filter};
use crate::trust::{now, time};
use clap::{Subcommand, ValueEnum};

/// What the launcher has done, and what failed.
#[derive(Debug, Subcommand)]
pub enum Log {
    /// Show the launcher's log, oldest entry first.
    #[command(after_help = EXIT_CODES)]
    View {
        /// This level and more severe ones.
        #[arg(long)]
        level: Option<Level>,
        /// Only entries that contain this text, whatever the case.
        #[arg(long, alias = "filter")]
        text: Option<String>,
        /// Only entries from then on: a time (2026-11-21T22:30:00Z) or an age (90s, 15m, 2h, 7d).
        #[arg(long)]
        since: Option<String>,
        /// Go on with new entries as they come.
        #[arg(long, short)]
        follow: bool,
    },
    /// Print where the log is.
    #[command(after_help = EXIT_CODES)]
    Path,
}

/// Levels of log entries.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Level {
    /// Something failed.
    Error,
    /// Something is odd.
    Warn,
    /// What was done.
    Info,
    /// How it was done.
    Debug,
    /// Every step.
    Trace,
}

impl Log {
    /// Does the task.
    pub fn run(self, json: bool) -> Result<(), TaskError> {
        match self {
            Self::View { level, text, since, follow } => {
                let since = since.as_deref().map(parse_since).transpose()?;
                let filter = Filter { level: level.map(|level| format!("{level:?}")), text, since };
                log::view(&log::file()?, &filter, json, follow, &mut std::io::stdout().lock())
            }
            Self::Path => {
                let file = log::file()?;
                crate::output::say(json, &serde_json::json!({ "path": file }), || file.display().to_string())
            }
        }
    }
}

/// A time, or an age before now, as seconds since 1970.
fn parse_since(text: &str) -> Result<u64, TaskError> {
    let units = [('s', 1), ('m', 60), ('h', 3_600), ('d', 86_400)];
    let age = units.iter().find_map(|&(unit, seconds)| {
        text.strip_suffix(unit)?.parse::<u64>().ok()?.checked_mul(seconds).map(|age| now().saturating_sub(age))
    });
    time::parse(text).or(age).ok_or_else(|| {
        TaskError::new(
            Exit::Usage,
            format!("--since {text:?}: a time like 2026-11-21T22:30:00Z or an age like 90s, 15m, 2h or 7d"),
        )
    })
}
