//! Indexes wherever they are, and files that are there whole or not at all.

use super::fault;
use crate::caibx::{Header, IndexReader};
use crate::castr::Store;
use crate::castr::http::{HttpStore, is_url};
use crate::error::{Exit, TaskError, shown};
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// The largest index that is downloaded: 26 million chunks.
const INDEX_MAX: u64 = 1 << 30;

/// A file read from its beginning, without a position of its own, so that it can be read several times at once.
pub struct Cursor<'a> {
    file: &'a File,
    position: u64,
}

impl<'a> Cursor<'a> {
    pub fn new(file: &'a File) -> Self {
        Self { file, position: 0 }
    }
}

impl Read for Cursor<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(bytes, self.position)?;
        self.position += count as u64;
        Ok(count)
    }
}

/// An index, checked from end to end once.
pub struct Index {
    pub file: File,
    /// As given, for people.
    pub name: String,
    pub header: Header,
    /// Bytes of all chunks.
    pub total_size: u64,
}

impl Index {
    /// Opens the index at `location`, a file or a server's address, and checks all of it.
    pub fn open(location: &str, authorization: Option<&str>) -> Result<Self, TaskError> {
        let (file, name) = if is_url(location) {
            (download(location, authorization)?, location.to_owned())
        } else {
            let path = Path::new(location);
            let unreadable = |source| TaskError::unreadable(path, source);
            // A pipe would block the opening, so what it is comes first.
            if !std::fs::metadata(path).map_err(unreadable)?.is_file() {
                return Err(unreadable(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")));
            }
            (File::open(path).map_err(unreadable)?, shown(path))
        };
        let size = file.metadata().map_err(|source| TaskError::because(Exit::Unreadable, &name, source))?.len();
        let bad = |error| fault::index(&name, error);
        let mut reader = IndexReader::new(BufReader::new(Cursor::new(&file)), size).map_err(bad)?;
        while reader.next_chunk().map_err(bad)?.is_some() {}
        let (header, total_size) = (reader.header(), reader.total_size());
        Ok(Self { file, name, header, total_size })
    }

    /// Reads it again from its beginning.
    pub fn reader(&self) -> Result<IndexReader<BufReader<Cursor<'_>>>, TaskError> {
        let bad = |error| fault::index(&self.name, error);
        let size = self.file.metadata().map_err(|error| TaskError::because(Exit::Unreadable, &self.name, error))?.len();
        IndexReader::new(BufReader::new(Cursor::new(&self.file)), size).map_err(bad)
    }

    /// Reads it again, for a thread of its own.
    pub fn into_reader(self) -> Result<IndexReader<BufReader<File>>, TaskError> {
        let bad = |error| fault::index(&self.name, error);
        let mut file = self.file;
        let size = file
            .metadata()
            .and_then(|metadata| io::Seek::rewind(&mut file).map(|()| metadata.len()))
            .map_err(|error| TaskError::because(Exit::Unreadable, &self.name, error))?;
        IndexReader::new(BufReader::new(file), size).map_err(bad)
    }
}

/// The address in front of a file's name, and the name.
pub fn split_url(location: &str) -> Result<(&str, &str), TaskError> {
    match location.rsplit_once('/') {
        Some((base, name)) if base.len() > "https:/".len() && !name.is_empty() => Ok((base, name)),
        _ => Err(TaskError::new(Exit::Usage, format!("{location}: names no file"))),
    }
}

fn download(location: &str, authorization: Option<&str>) -> Result<File, TaskError> {
    let (base, name) = split_url(location)?;
    let mut file = tempfile::tempfile()
        .map_err(|source| TaskError::because(Exit::Unwritable, "no temporary file for the index", source))?;
    HttpStore::new(base, authorization)?
        .download(name, INDEX_MAX, &mut file)
        .map_err(|error| fault::store("the index did not come", error))?;
    Ok(file)
}

/// The stores to read from: those given, else `default.castr` beside the index.
pub fn stores(given: &[String], index: &str, authorization: Option<&str>) -> Result<Vec<Store>, TaskError> {
    if given.is_empty() {
        let beside = default_store(index)?;
        return Ok(vec![Store::at(&beside, authorization)?]);
    }
    for folder in given.iter().filter(|location| !is_url(location)) {
        if !Path::new(folder).is_dir() {
            let why = io::Error::new(io::ErrorKind::NotADirectory, "no store is there: not a folder");
            return Err(TaskError::unreadable(Path::new(folder), why));
        }
    }
    given.iter().map(|location| Store::at(location, authorization)).collect()
}

/// `default.castr` beside the index, as casync has it.
pub fn default_store(index: &str) -> Result<String, TaskError> {
    if is_url(index) {
        return Ok(split_url(index)?.0.to_owned());
    }
    Ok(folder_of(Path::new(index)).join("default.castr").to_string_lossy().into_owned())
}

/// The folder of a file, `.` if it has none.
pub fn folder_of(file: &Path) -> PathBuf {
    match file.parent() {
        Some(folder) if folder != Path::new("") => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// A file that appears under its name when it is complete and on the disk.
pub struct Appearing {
    file: NamedTempFile,
    target: PathBuf,
}

impl Appearing {
    pub fn new(target: &Path) -> Result<Self, TaskError> {
        let name = target.file_name().and_then(|name| name.to_str()).unwrap_or("file");
        let file = tempfile::Builder::new()
            .prefix(&format!(".{}-", name.chars().take(64).collect::<String>()))
            .suffix(".part")
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666))
            .tempfile_in(folder_of(target))
            .map_err(|source| TaskError::unwritable(target, source))?;
        Ok(Self { file, target: target.to_owned() })
    }

    pub fn file(&self) -> &File {
        self.file.as_file()
    }

    /// Flushes it to the disk, gives it its name, and flushes that.
    pub fn appear(self) -> Result<(), TaskError> {
        let Self { file, target } = self;
        let failed = |source| TaskError::unwritable(&target, source);
        file.as_file().sync_all().map_err(failed)?;
        file.persist(&target).map_err(|error| failed(error.error))?;
        File::open(folder_of(&target)).and_then(|folder| folder.sync_all()).map_err(failed)
    }
}

impl Write for Appearing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.as_file_mut().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Refuses before anything is written when the file system of `folder` has less room than `wanted` bytes.
pub fn expect_room(folder: &Path, wanted: u64) -> Result<(), TaskError> {
    let Ok(system) = rustix::fs::statvfs(folder) else { return Ok(()) };
    let free = system.f_bavail.saturating_mul(system.f_frsize);
    if free < wanted {
        let what =
            format!("{}: {wanted} bytes are wanted, {free} are free; make room or name another folder", shown(folder));
        return Err(TaskError::new(Exit::NoSpace, what));
    }
    Ok(())
}
