//! `vsekai config …`: the settings file, key by key.

use crate::error::{EXIT_CODES, Exit, TaskError};
use crate::output::{say, table};
use crate::settings::{self, Settings};
use clap::Subcommand;
use serde_json::{Map, json};

/// The settings, key by key. `vsekai config list` shows all keys.
#[derive(Debug, Subcommand)]
pub enum Config {
    /// Set a key. Unknown keys and values that are not allowed are refused, with what is allowed.
    #[command(after_help = EXIT_CODES)]
    Set {
        /// As `config list` shows it; keys of the current profile need no `profiles.NAME.` before them.
        #[arg(long)]
        key: String,
        /// The new value.
        #[arg(long, allow_hyphen_values = true)]
        value: String,
    },
    /// Print the value of a key; exit code 10 if none is set.
    #[command(after_help = EXIT_CODES)]
    Get {
        /// As `config list` shows it.
        #[arg(long)]
        key: String,
    },
    /// Set a key back to its default.
    #[command(after_help = EXIT_CODES)]
    Unset {
        /// As `config list` shows it.
        #[arg(long)]
        key: String,
    },
    /// Print all keys and their values.
    #[command(after_help = EXIT_CODES)]
    List,
    /// Print where the settings file is.
    #[command(after_help = EXIT_CODES)]
    Path,
}

impl Config {
    /// Does the task.
    pub fn run(self, json: bool) -> Result<(), TaskError> {
        match self {
            Self::Set { key, value } => {
                Settings::change(|settings| settings.set(&key, Some(&value)))?;
                say(json, &json!({ "key": key, "value": value }), || format!("{key} = {value}"))
            }
            Self::Unset { key } => {
                let value = Settings::change(|settings| settings.set(&key, None).and_then(|()| settings.value(&key)))?;
                say(json, &json!({ "key": key, "value": value }), || {
                    format!("{key} = {}", value.as_deref().unwrap_or(""))
                })
            }
            Self::Get { key } => {
                let value = Settings::load()?.value(&key)?;
                let value = value.ok_or_else(|| TaskError::new(Exit::NotFound, format!("`{key}` is not set")))?;
                say(json, &json!({ "key": key, "value": value }), || value.clone())
            }
            Self::List => {
                let all = Settings::load()?.all();
                let object: Map<_, _> = all.iter().map(|(key, value, _)| (key.clone(), json!(value))).collect();
                let row = |(key, value, help): &(String, Option<String>, &str)| {
                    vec![key.clone(), value.clone().unwrap_or_default(), (*help).to_owned()]
                };
                say(json, &object, || table(&all.iter().map(row).collect::<Vec<_>>()))
            }
            Self::Path => {
                let file = settings::file()?;
                say(json, &json!({ "path": file }), || file.display().to_string())
            }
        }
    }
}
