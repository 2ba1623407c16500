//! Finds and reads the designers' files.

use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use vsekai_schema::content::ContentFiles;
use vsekai_sim::SHIPPED_CONTENT;

/// Content, and where it came from.
pub fn load(directory: Option<&Path>) -> Result<(ContentFiles, String)> {
    let usual = PathBuf::from("sim/content");
    let directory = match directory {
        Some(directory) if !directory.is_dir() => bail!("there is no content folder {}", directory.display()),
        Some(directory) => directory.to_path_buf(),
        None if usual.is_dir() => usual,
        None => {
            let files = ContentFiles::parse(SHIPPED_CONTENT).context("the content built into this program")?;
            return Ok((files, "built in".into()));
        }
    };
    let mut texts = Vec::with_capacity(ContentFiles::NAMES.len());
    for name in ContentFiles::NAMES {
        let path = directory.join(name);
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        texts.push(text);
    }
    let texts: [&str; 5] = std::array::from_fn(|i| texts[i].as_str());
    let files = ContentFiles::parse(texts).with_context(|| format!("content in {}", directory.display()))?;
    Ok((files, directory.display().to_string()))
}
