//! Files that are replaced as a whole.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

/// Writes a file so that after a crash it is as it was, or as it should be: beside it, to the disk, then in its place.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let mut new = std::ffi::OsString::from(".new-");
    new.push(name);
    let new = folder.join(new);
    let mut file = File::create(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&new, path)?;
    File::open(folder)?.sync_all()
}
