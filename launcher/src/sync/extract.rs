//! `vsekai sync extract`: an index and stores back into the file they are of.

use super::assemble::{From, Sources, assemble, is_whole};
use super::fault;
use super::files::{Appearing, Index, expect_room, folder_of, stores};
use super::seed::{Seed, SeedError};
use super::{Access, Job, Printed};
use crate::bar::Counter;
use crate::caibx::Header;
use crate::chunker::Algorithm;
use crate::error::{Exit, TaskError, shown};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// `vsekai sync extract`
#[derive(Debug, Clone, clap::Args)]
pub struct Extract {
    /// The index, a file or an address.
    #[arg(long, value_name = "FILE|URL")]
    pub index: String,
    /// Where chunks are, a folder or an address; may be repeated, and they are asked in order. Usually `default.castr` beside the index.
    #[arg(long, value_name = "DIR|URL")]
    pub store: Vec<String>,
    /// A file that has some of the chunks: with its index (`FILE.caibx`, or named instead of it), or else it is cut first. May be
    /// repeated.
    #[arg(long, value_name = "FILE")]
    pub seed: Vec<PathBuf>,
    /// How seeds without an index are cut: as the index was.
    #[arg(long, value_enum, default_value = "fastcdc")]
    pub chunker: Algorithm,
    /// The file to write; usually the index without `.caibx`. What is there already is kept as far as it is right.
    #[arg(long, visible_alias = "destination", value_name = "FILE")]
    pub output: Option<PathBuf>,
    #[command(flatten)]
    pub access: Access,
}

#[derive(serde::Serialize)]
struct Report<'a> {
    output: &'a str,
    total_size: u64,
    /// Nothing was written: the file was right.
    unchanged: bool,
    #[serde(flatten)]
    sources: Sources,
}

impl Job for Extract {
    fn run(&self) -> Result<Printed, TaskError> {
        let authorization = self.access.authorization.as_deref();
        let index = Index::open(&self.index, authorization)?;
        let output = match &self.output {
            Some(output) => output.clone(),
            None => without_extension(&self.index).ok_or_else(|| {
                let what = format!("{}: does not end in .caibx, and is a name of its own: say --output", self.index);
                TaskError::new(Exit::Usage, what)
            })?,
        };
        if output.is_dir() {
            let what =
                format!("{}: is a folder; an archive's index (.caidx) is for `sync untar --index`", shown(&output));
            return Err(TaskError::new(Exit::Unwritable, what));
        }

        let before = match File::open(&output) {
            Ok(file) if file.metadata().is_ok_and(|metadata| metadata.is_file()) => Some(file),
            _ => None,
        };
        let name = shown(&output);
        let report = |unchanged, sources: Sources| {
            let total_size = index.total_size;
            let text = if unchanged {
                format!("{name}: {total_size} bytes, already right\n")
            } else {
                format!(
                    "{name}: {total_size} bytes: {} were there, {} from seeds, {} in {} chunks from stores ({} fetched)\n",
                    sources.kept_size,
                    sources.seed_size,
                    sources.store_size,
                    sources.store_chunk_count,
                    sources.fetched_size
                )
            };
            Printed::new(&Report { output: &name, total_size, unchanged, sources }, text)
        };
        let same_size = |file: &File| file.metadata().is_ok_and(|metadata| metadata.len() == index.total_size);
        if let Some(before) = before.as_ref().filter(|file| same_size(file))
            && is_whole(index.reader()?, before).map_err(|error| fault::stream(&index.name, error))?
        {
            return report(true, Sources { kept_size: index.total_size, ..Sources::default() });
        }

        let stores = stores(&self.store, &self.index, authorization)?;
        let seeds: Vec<Seed> =
            self.seed.iter().map(|seed| opened(seed, &index.header, self.chunker)).collect::<Result<_, _>>()?;
        expect_room(&folder_of(&output), index.total_size)?;
        let appearing = Appearing::new(&output)?;
        appearing.file().set_len(index.total_size).map_err(|source| TaskError::unwritable(&output, source))?;
        let progress = Counter::new("extracting", index.total_size);
        let from = From { before: before.as_ref(), seeds: &seeds, stores: &stores };
        let sources = assemble(index.reader()?, &from, appearing.file(), &|count| progress.add(count))
            .map_err(|error| fault::assemble(&format!("{name} was not extracted"), error))?;
        drop(progress);
        appearing.appear()?;
        report(false, sources)
    }
}

/// The index's name without `.caibx`, in the folder of the index; of an address, in the current folder.
fn without_extension(index: &str) -> Option<PathBuf> {
    let name = index.strip_suffix(".caibx")?;
    let path = if crate::castr::http::is_url(index) { Path::new(name.rsplit('/').next()?) } else { Path::new(name) };
    path.file_name().map(|_| path.to_owned())
}

fn opened(seed: &Path, wanted: &Header, chunker: Algorithm) -> Result<Seed, TaskError> {
    let failed = |error: SeedError| {
        let exit = match error {
            SeedError::Read(_) => Exit::Unreadable,
            SeedError::Index(_) | SeedError::OtherDigest { .. } => Exit::Damaged,
            SeedError::Sizes(_) => Exit::Usage,
        };
        TaskError::because(exit, format!("seed {}", shown(seed)), error)
    };
    if !seed.is_file() {
        return Err(failed(io::Error::new(io::ErrorKind::NotFound, "no such file").into()));
    }
    if seed.extension().is_some_and(|extension| extension == "caibx") {
        return Seed::indexed(&seed.with_extension(""), seed, wanted.digest).map_err(failed);
    }
    let mut index = seed.as_os_str().to_owned();
    index.push(".caibx");
    if Path::new(&index).is_file() {
        return Seed::indexed(seed, Path::new(&index), wanted.digest).map_err(failed);
    }
    Seed::cut(seed, wanted, chunker).map_err(failed)
}
