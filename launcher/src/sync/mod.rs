//! The tasks of `vsekai sync` that work on indexes, stores and archives as casync and desync have them, one file each.

pub mod archive;
mod assemble;
pub mod extract;
mod fault;
mod files;
pub mod list_chunks;
pub mod make;
pub mod mount;
mod pipeline;
pub mod prune;
mod seed;
pub mod serve;
mod stream;
pub mod verify;

use crate::error::TaskError;
use crate::output;
use serde::Serialize;

/// A task that ends with one thing to say.
pub trait Job {
    /// Does it.
    fn run(&self) -> Result<Printed, TaskError>;

    /// Does it and says how it went.
    fn run_and_print(&self, json: bool) -> Result<(), TaskError> {
        let Printed { text, object, failed } = self.run()?;
        output::print(&if json { object + "\n" } else { text })?;
        failed.map_or(Ok(()), Err)
    }
}

/// What a task says: to people, and to programs.
#[derive(Debug)]
pub struct Printed {
    text: String,
    object: String,
    /// It was done, and yet is a failure: damage was found.
    failed: Option<TaskError>,
}

impl Printed {
    fn new(object: &impl Serialize, text: String) -> Result<Self, TaskError> {
        Ok(Self { text, object: output::to_json(object)?, failed: None })
    }
}

/// How servers are spoken to.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Access {
    /// What is sent to servers as the Authorization header. Other users of the machine can see command lines; the environment
    /// they cannot.
    #[arg(long, value_name = "VALUE", env = "VSEKAI_AUTHORIZATION", hide_env_values = true)]
    pub authorization: Option<String>,
}

/// A span of time: seconds, or a number and s, m, h, d.
pub fn duration(text: &str) -> Result<std::time::Duration, String> {
    let (digits, unit) = match text.as_bytes().last() {
        Some(b's') => (&text[..text.len() - 1], 1),
        Some(b'm') => (&text[..text.len() - 1], 60),
        Some(b'h') => (&text[..text.len() - 1], 3_600),
        Some(b'd') => (&text[..text.len() - 1], 86_400),
        _ => (text, 1),
    };
    let number: u32 =
        digits.parse().map_err(|_| format!("`{text}` is no span of time: a number, then s, m, h, d or nothing"))?;
    Ok(std::time::Duration::from_secs(u64::from(number) * unit))
}
