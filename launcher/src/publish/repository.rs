//! A repository's folder: files that appear whole under their digest's name or not at all.

use crate::delta::build::Bytes;
use crate::error::{Exit, TaskError, shown};
use crate::hex::hex;
use crate::manifest::{Id, Kind, MANIFEST_SIZE_MAX, Manifest, Place};
use crate::offers::{self, Offers};
use crate::pack::Unpacker;
use crate::release::{Blob, Catalogue, Release};
use crate::whole;
use rustix::fs::{FlockOperation, flock};
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// A repository that this process alone writes.
pub(crate) struct Repository {
    pub folder: PathBuf,
    /// Locked as long as it is open.
    _lock: File,
}

impl Repository {
    /// Opens it, or makes it.
    pub fn open(folder: &Path) -> Result<Self, TaskError> {
        let unwritable = |source| TaskError::unwritable(folder, source);
        for name in ["catalogue", "manifests", "packs", "deltas"] {
            std::fs::create_dir_all(folder.join(name)).map_err(unwritable)?;
        }
        let lock = File::create(folder.join(".lock")).map_err(unwritable)?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(TaskError::new(
                    Exit::Busy,
                    format!("{}: another vsekai writes this repository", shown(folder)),
                ));
            }
            Err(error) => return Err(unwritable(error.into())),
        }
        let repository = Self { folder: folder.to_owned(), _lock: lock };
        repository.remove_leftovers().map_err(unwritable)?;
        Ok(repository)
    }

    /// What a killed process left half-written.
    fn remove_leftovers(&self) -> io::Result<()> {
        for name in ["catalogue", "manifests", "packs", "deltas"] {
            for item in std::fs::read_dir(self.folder.join(name))? {
                let path = item?.path();
                if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(".new-")) {
                    std::fs::remove_file(path)?;
                }
            }
            whole::remove_leftovers(&self.folder.join(name))?;
        }
        Ok(())
    }

    pub fn path(&self, kind: &str, id: &Id) -> PathBuf {
        self.folder.join(kind).join(hex(id))
    }

    pub fn catalogue(&self, client_id: &str) -> Result<Catalogue, TaskError> {
        let unsigned = offers::Unsigned { folder: self.folder.clone(), client_id: client_id.into() };
        match unsigned.catalogue() {
            Err(error) if error.exit == Exit::NotFound => Ok(Catalogue::default()),
            other => other,
        }
    }

    pub fn manifest(&self, release: &Release) -> Result<Manifest, TaskError> {
        let path = self.folder.join("manifests").join(&release.manifest.blake3);
        let mut bytes = vec![];
        let read = File::open(&path).and_then(|file| file.take(MANIFEST_SIZE_MAX + 1).read_to_end(&mut bytes));
        read.map_err(|source| TaskError::unreadable(&path, source))?;
        if blake3::hash(&bytes).to_hex().as_str() != release.manifest.blake3 {
            return Err(TaskError::new(
                Exit::Damaged,
                format!("{}: its bytes are not those of its name", shown(&path)),
            ));
        }
        Manifest::decode(&bytes).map_err(|error| TaskError::because(Exit::Damaged, shown(&path), error))
    }

    /// Writes a file under the name of its digest.
    pub fn put(&self, kind: &str, bytes: &[u8]) -> Result<(Id, u64), TaskError> {
        let mut writer = self.writer(kind)?;
        writer.write_all(bytes).map_err(|source| TaskError::unwritable(&writer.path, source))?;
        writer.finish()
    }

    /// A file that gets its name in the end.
    pub fn writer(&self, kind: &str) -> Result<BlobWriter, TaskError> {
        let folder = self.folder.join(kind);
        let path = folder.join(format!(".new-{}", std::process::id()));
        let file = File::create(&path).map_err(|source| TaskError::unwritable(&path, source))?;
        Ok(BlobWriter {
            folder,
            path,
            file: BufWriter::with_capacity(256 << 10, file),
            hasher: blake3::Hasher::new(),
            size: 0,
        })
    }

    pub fn put_catalogue(&self, client_id: &str, catalogue: &Catalogue) -> Result<(), TaskError> {
        let path = self.folder.join("catalogue").join(format!("{client_id}.json"));
        let mut text = serde_json::to_vec_pretty(catalogue).expect("a catalogue is JSON");
        text.push(b'\n');
        whole::write(&path, &text, whole::PUBLIC)
    }
}

/// A file of a repository that is being written.
pub(crate) struct BlobWriter {
    folder: PathBuf,
    pub path: PathBuf,
    file: BufWriter<File>,
    hasher: blake3::Hasher,
    pub size: u64,
}

impl Write for BlobWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        self.size += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl BlobWriter {
    /// Gives it its name. A file that is there already has the same bytes.
    pub fn finish(self) -> Result<(Id, u64), TaskError> {
        let id: Id = self.hasher.finalize().into();
        let target = self.folder.join(hex(&id));
        let done = || -> io::Result<()> {
            let file = self.file.into_inner().map_err(io::IntoInnerError::into_error)?;
            file.sync_all()?;
            std::fs::rename(&self.path, &target)?;
            File::open(&self.folder)?.sync_all()
        };
        done().map_err(|source| TaskError::unwritable(&target, source))?;
        Ok((id, self.size))
    }
}

/// A blob as catalogues name it.
pub(crate) fn blob((id, size): (Id, u64)) -> Blob {
    Blob { blake3: hex(&id), size }
}

/// The bytes of a published version, from its packs.
pub(crate) struct Published<'a> {
    pub repository: &'a Repository,
    pub manifest: &'a Manifest,
    places: Vec<Place>,
    /// The pack opened last: what is read together lies together.
    open: Mutex<Option<(u32, std::sync::Arc<File>)>>,
}

impl<'a> Published<'a> {
    pub fn new(repository: &'a Repository, manifest: &'a Manifest) -> Self {
        Self { repository, manifest, places: manifest.places(), open: Mutex::new(None) }
    }

    fn pack(&self, number: u32) -> io::Result<std::sync::Arc<File>> {
        let mut open = self.open.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some((same, file)) = &*open
            && *same == number
        {
            return Ok(file.clone());
        }
        let file = File::open(self.repository.path("packs", &self.manifest.packs[number as usize].id))?;
        let file = std::sync::Arc::new(file);
        *open = Some((number, file.clone()));
        Ok(file)
    }
}

impl Bytes for Published<'_> {
    fn read(&self, entry: u32, offset: u64, size: u64) -> io::Result<Vec<u8>> {
        let Kind::File { positions, .. } = &self.manifest.entries[entry as usize].kind else {
            return Err(io::Error::other("not a file"));
        };
        let here = &self.places[positions.start as usize..positions.end as usize];
        let first = here.partition_point(|place| place.offset <= offset).saturating_sub(1);
        let mut bytes = Vec::with_capacity(size as usize);
        let (mut unpacker, mut stored) = (Unpacker::new(), vec![]);
        for (number, place) in here.iter().enumerate().skip(first) {
            if place.offset >= offset + size {
                break;
            }
            let chunk = self.manifest.chunk_at(positions.start + number as u32);
            stored.resize(chunk.stored as usize, 0);
            self.pack(chunk.pack)?.read_exact_at(&mut stored, u64::from(chunk.offset))?;
            let plain = unpacker.unpack(chunk, &stored).map_err(io::Error::other)?;
            let begin = offset.saturating_sub(place.offset) as usize;
            let end = (offset + size - place.offset).min(plain.len() as u64) as usize;
            bytes.extend_from_slice(&plain[begin..end]);
        }
        if bytes.len() as u64 == size { Ok(bytes) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }
}

/// The bytes of the build that is being published, from its folder.
pub(crate) struct Source<'a> {
    pub folder: &'a Path,
    pub manifest: &'a Manifest,
}

impl Bytes for Source<'_> {
    fn read(&self, entry: u32, offset: u64, size: u64) -> io::Result<Vec<u8>> {
        let file = File::open(self.folder.join(&self.manifest.entries[entry as usize].path))?;
        let mut bytes = vec![0; size as usize];
        file.read_exact_at(&mut bytes, offset)?;
        Ok(bytes)
    }
}
