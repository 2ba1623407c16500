//! `vsekai sync make`: a file or a folder into an index and a store.

use super::fault;
use super::files::{Appearing, default_store, split_url};
use super::pipeline::{Made, Pipeline};
use super::{Job, Printed};
use crate::bar::Counter;
use crate::castr::Store;
use crate::castr::http::{HttpStore, is_url};
use crate::catar;
use crate::chunker::{Algorithm, ChunkSizes, Chunker};
use crate::digest::Digest;
use crate::error::{Exit, TaskError, shown};
use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How chunks are cut, named and where they go.
#[derive(Debug, Clone, clap::Args)]
pub struct Cutting {
    /// Sizes of chunks, min:avg:max: in KiB, or with b, k, m behind each.
    #[arg(long = "chunk_size", alias = "chunk-size", value_name = "MIN:AVG:MAX", default_value = "16:64:256")]
    pub chunk_size: ChunkSizes,
    /// Where chunks are cut. Whoever updates with casync's own seeds needs buzhash.
    #[arg(long, value_enum, default_value = "fastcdc")]
    pub chunker: Algorithm,
    /// What names chunks.
    #[arg(long, value_enum, default_value = "sha512-256")]
    pub digest: Digest,
}

/// `vsekai sync make`
#[derive(Debug, Clone, clap::Args)]
pub struct Make {
    /// The file to make an index of; `-` is standard input. A folder becomes an archive's index, as `tar --index` makes it.
    #[arg(long, visible_alias = "input", value_name = "FILE")]
    pub blob: PathBuf,
    /// The index to write, a file or an address; usually the blob's name and `.caibx` (`.caidx` of a folder).
    #[arg(long, value_name = "FILE|URL")]
    pub index: Option<String>,
    /// The store to add chunks to, a folder or an address; usually `default.castr` beside the index.
    #[arg(long, value_name = "DIR|URL")]
    pub store: Option<String>,
    /// Write no chunks, only the index.
    #[arg(long = "no_store", alias = "no-store", conflicts_with = "store")]
    pub no_store: bool,
    #[command(flatten)]
    pub cutting: Cutting,
    #[command(flatten)]
    pub access: super::Access,
}

#[derive(serde::Serialize)]
struct Report<'a> {
    index: &'a str,
    store: Option<&'a str>,
    #[serde(flatten)]
    made: Made,
}

impl Job for Make {
    fn run(&self) -> Result<Printed, TaskError> {
        let is_folder = self.blob.is_dir();
        let location = match &self.index {
            Some(index) => index.clone(),
            None if self.blob == Path::new("-") => {
                return Err(TaskError::new(Exit::Usage, "standard input has no name: say --index"));
            }
            None => {
                let mut name = self.blob.as_os_str().to_owned();
                name.push(if is_folder { ".caidx" } else { ".caibx" });
                name.to_string_lossy().into_owned()
            }
        };
        let source = if is_folder { Source::Folder(&self.blob) } else { Source::File(&self.blob) };
        let store = if self.no_store { None } else { Some(self.store.clone()) };
        make(source, &location, store, &self.cutting, &self.access)
    }
}

/// What an index is made of.
pub enum Source<'a> {
    File(&'a Path),
    Folder(&'a Path),
    /// A folder, with some of what is known of its files left out.
    Plain(&'a Path, catar::Keep),
}

/// Makes an index at `location` and fills the store: none, the usual one, or the one named.
pub fn make(
    source: Source<'_>,
    location: &str,
    store: Option<Option<String>>,
    cutting: &Cutting,
    access: &super::Access,
) -> Result<Printed, TaskError> {
    let authorization = access.authorization.as_deref();
    let chunker = Chunker::new(cutting.chunker, cutting.chunk_size).map_err(|why| TaskError::new(Exit::Usage, why))?;
    let store = match store {
        None => None,
        Some(Some(named)) => Some(named),
        Some(None) => Some(default_store(location)?),
    };
    let store_opened = store.as_deref().map(|location| Store::at(location, authorization).map(Arc::new)).transpose()?;

    let mut output = Output::new(location)?;
    let archive = match &source {
        Source::File(_) => None,
        Source::Folder(_) | Source::Plain(..) => Some(catar::FLAGS),
    };
    let what = format!(
        "no index of {}",
        match &source {
            Source::File(path) | Source::Folder(path) | Source::Plain(path, _) => shown(path),
        }
    );
    let failed = |error| fault::pipeline(&what, error);
    let sink = BufWriter::new(&mut output);
    let mut pipeline = Pipeline::new(chunker, cutting.digest, archive, store_opened.clone(), sink).map_err(failed)?;
    match source {
        Source::File(path) if path == Path::new("-") => {
            let progress = Counter::new("chunking", 0);
            pipeline.read_all(&mut std::io::stdin().lock(), |count| progress.add(count)).map_err(failed)?;
        }
        Source::File(path) => {
            let mut file = File::open(path).map_err(|source| TaskError::unreadable(path, source))?;
            let size = file.metadata().map_or(0, |metadata| metadata.len());
            let progress = Counter::new("chunking", size);
            pipeline.read_all(&mut file, |count| progress.add(count)).map_err(failed)?;
        }
        Source::Folder(path) => archive_into(path, catar::Keep::default(), cutting.digest, &mut pipeline, &what)?,
        Source::Plain(path, keep) => archive_into(path, keep, cutting.digest, &mut pipeline, &what)?,
    }
    let (sink, made) = pipeline.finish().map_err(failed)?;
    drop(sink);
    if let Some(store) = &store_opened {
        let unsafe_store = |source| TaskError::unwritable(Path::new(&store.name()), source);
        store.sync().map_err(unsafe_store)?;
    }
    output.complete(authorization)?;

    let text = format!(
        "{location}: {} chunks, {} bytes; {} chunks new in the store, {} bytes packed\n",
        made.chunk_count, made.total_size, made.new_chunk_count, made.new_packed_size
    );
    Printed::new(&Report { index: location, store: store.as_deref(), made }, text)
}

fn archive_into<W: Write>(
    folder: &Path,
    keep: catar::Keep,
    digest: Digest,
    pipeline: &mut Pipeline<W>,
    what: &str,
) -> Result<(), TaskError> {
    let progress = Counter::new("archiving", 0);
    let encoded = catar::encode(folder, keep, digest, pipeline, &|count| progress.add(count));
    encoded.map(|_| ()).map_err(|error| match pipeline.failure() {
        Some(failure) => fault::pipeline(what, failure),
        None => super::archive::encoding(error),
    })
}

/// An index on its way to a file or a server.
enum Output {
    File(Appearing),
    Server { base: String, name: String, file: File },
}

impl Output {
    fn new(location: &str) -> Result<Self, TaskError> {
        if !is_url(location) {
            return Ok(Self::File(Appearing::new(Path::new(location))?));
        }
        let (base, name) = split_url(location)?;
        let file = tempfile::tempfile()
            .map_err(|source| TaskError::because(Exit::Unwritable, "no temporary file for the index", source))?;
        Ok(Self::Server { base: base.to_owned(), name: name.to_owned(), file })
    }

    fn complete(self, authorization: Option<&str>) -> Result<(), TaskError> {
        match self {
            Self::File(file) => file.appear(),
            Self::Server { base, name, file } => {
                let mut bytes = Vec::new();
                super::files::Cursor::new(&file)
                    .read_to_end(&mut bytes)
                    .map_err(|source| TaskError::because(Exit::Unreadable, "the temporary index", source))?;
                let server = HttpStore::new(&base, authorization)?;
                server.upload(&name, &bytes).map_err(|error| fault::store("the index was not uploaded", error))
            }
        }
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self {
            Self::File(file) => file.write(bytes),
            Self::Server { file, .. } => file.write(bytes),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
