//! Codecs of the wire in other languages, made from the Rust types: `cargo xtask codecs` writes them, a system test fails when what
//! is committed is another.
//!
//! [`model`] says what there is, in no language's words; a [`Backend`] writes it down in one. See `schema/docs/wire.md`.

mod javascript;
pub mod model;

use anyhow::{Context, Result};
use model::Model;
use std::path::Path;

/// A language that codecs are written in.
#[derive(Debug, Clone, Copy)]
pub struct Backend {
    /// The file that it makes, from the repository's root.
    pub file: &'static str,
    /// Its text.
    pub emit: fn(&Model) -> Result<String>,
}

/// All of them.
pub const BACKENDS: &[Backend] = &[Backend { file: "net/web/wire.generated.js", emit: javascript::emit }];

/// Writes all files anew below `root` and gives their names.
///
/// # Errors
/// When a type has a form that a backend cannot write, or a file cannot be written.
pub fn write(root: &Path) -> Result<Vec<&'static str>> {
    let model = model::of_the_wire()?;
    for backend in BACKENDS {
        let text = (backend.emit)(&model).with_context(|| format!("making {}", backend.file))?;
        std::fs::write(root.join(backend.file), text).with_context(|| format!("writing {}", backend.file))?;
    }
    Ok(BACKENDS.iter().map(|backend| backend.file).collect())
}

/// The files below `root` that are not what would be written.
///
/// # Errors
/// When a type has a form that a backend cannot write.
pub fn stale(root: &Path) -> Result<Vec<&'static str>> {
    let model = model::of_the_wire()?;
    let mut stale = Vec::new();
    for backend in BACKENDS {
        let text = (backend.emit)(&model).with_context(|| format!("making {}", backend.file))?;
        if std::fs::read_to_string(root.join(backend.file)).ok().as_deref() != Some(&text) {
            stale.push(backend.file);
        }
    }
    Ok(stale)
}
