//! Copying a plain folder: what changed, each file as a whole, nothing deleted.

use crate::error::{Exit, TaskError, shown};
use crate::install::Progress;
use crate::publish::{Found, list};
use std::fs::{File, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

/// Makes `destination` have all that `source` has. A file of the same size and time is the same.
pub(super) fn mirror(source: &Path, destination: &Path, progress: &Progress) -> Result<(), TaskError> {
    if !source.is_dir() {
        return Err(TaskError::new(Exit::Unreadable, format!("{}: neither a folder nor a repository", shown(source))));
    }
    let found = list(source)?;
    progress.expect(found.iter().map(|(_, what)| if let Found::File { size, .. } = what { *size } else { 0 }).sum());
    for (path, what) in &found {
        let (from, to) = (source.join(path), destination.join(path));
        let unwritable = |error| TaskError::unwritable(&to, error);
        let parent = if matches!(what, Found::Folder) { Some(to.as_path()) } else { to.parent() };
        std::fs::create_dir_all(parent.unwrap_or(destination)).map_err(unwritable)?;
        match what {
            Found::Folder => {}
            Found::Link { target } => {
                if std::fs::read_link(&to).ok().as_deref() != Some(Path::new(target)) {
                    let new = to.with_file_name(".vsekai-part");
                    let _ = std::fs::remove_file(&new);
                    std::os::unix::fs::symlink(target, &new)
                        .and_then(|()| std::fs::rename(&new, &to))
                        .map_err(unwritable)?;
                }
            }
            Found::File { size, .. } => {
                let metadata = std::fs::metadata(&from).map_err(|error| TaskError::unreadable(&from, error))?;
                let same = |other: Metadata| {
                    (other.len(), other.mtime(), other.mtime_nsec())
                        == (metadata.len(), metadata.mtime(), metadata.mtime_nsec())
                };
                if std::fs::symlink_metadata(&to).is_ok_and(same) {
                    progress.advance(*size);
                } else {
                    copy(&from, &to, &metadata, progress)?;
                }
            }
        }
    }
    Ok(())
}

fn copy(from: &Path, to: &Path, metadata: &Metadata, progress: &Progress) -> Result<(), TaskError> {
    let unreadable = |error| TaskError::unreadable(from, error);
    let new = to.with_file_name(".vsekai-part");
    let unwritable = |error: io::Error| TaskError::unwritable(to, error);
    let mut source = File::open(from).map_err(unreadable)?;
    let mut target = File::create(&new).map_err(unwritable)?;
    let mut piece = vec![0; 256 << 10];
    loop {
        if progress.is_stopped() {
            return Err(TaskError::new(Exit::Stopped, "stopped on request; going on later copies nothing twice"));
        }
        let count = source.read(&mut piece).map_err(unreadable)?;
        if count == 0 {
            break;
        }
        target.write_all(&piece[..count]).map_err(unwritable)?;
        progress.advance(count as u64);
    }
    let finish = || -> io::Result<()> {
        target.set_permissions(std::fs::Permissions::from_mode(metadata.mode() & 0o777))?;
        target.set_modified(metadata.modified()?)?;
        target.sync_all()?;
        std::fs::rename(&new, to)
    };
    finish().map_err(unwritable)
}
