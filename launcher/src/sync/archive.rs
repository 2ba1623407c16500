//! `vsekai sync tar` and `untar`: a folder into an archive, or an archive's index and store, and back.

use super::files::{Appearing, Index, folder_of, stores};
use super::make::{Cutting, Source, make};
use super::stream::IndexStream;
use super::{Access, Job, Printed, fault};
use crate::bar::Counter;
use crate::castr::http::is_url;
use crate::catar::{self, Decoder, EncodeError, Encoded, ExtractError, Extracted, Keep, Rules};
use crate::error::{Exit, TaskError, shown};
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// `vsekai sync tar`
#[derive(Debug, Clone, clap::Args)]
pub struct Tar {
    /// The archive to write.
    #[arg(long, value_name = "FILE", required_unless_present = "index", conflicts_with_all = ["index", "store"])]
    pub catar: Option<PathBuf>,
    /// Write an index (.caidx) and chunks instead.
    #[arg(long, value_name = "FILE|URL")]
    pub index: Option<String>,
    /// The store for the chunks; usually `default.castr` beside the index.
    #[arg(long, value_name = "DIR|URL")]
    pub store: Option<String>,
    /// The folder to archive; the current one unless said otherwise.
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub source: PathBuf,
    /// Leave out modification times: the same content then gives the same archive.
    #[arg(long = "no_time", alias = "no-time")]
    pub no_time: bool,
    /// Leave out owners and groups.
    #[arg(long = "no_owner", alias = "no-owner")]
    pub no_owner: bool,
    #[command(flatten)]
    pub cutting: Cutting,
    #[command(flatten)]
    pub access: Access,
}

#[derive(serde::Serialize)]
struct TarReport<'a> {
    catar: &'a str,
    #[serde(flatten)]
    encoded: Encoded,
}

impl Job for Tar {
    fn run(&self) -> Result<Printed, TaskError> {
        let keep = Keep { times: !self.no_time, owners: !self.no_owner };
        let Some(target) = &self.catar else {
            let index = self.index.as_deref().expect("clap wants one of them");
            let source = Source::Plain(&self.source, keep);
            return make(source, index, Some(self.store.clone()), &self.cutting, &self.access);
        };
        // The archive is not to be in itself: it is written where nothing is read.
        let inside = fs::canonicalize(&self.source)
            .and_then(|source| Ok(fs::canonicalize(folder_of(target))?.starts_with(source)))
            .unwrap_or(false);
        let progress = Counter::new("archiving", 0);
        let each = |count| progress.add(count);
        let appearing = if inside { None } else { Some(Appearing::new(target)?) };
        let spool;
        let file = match &appearing {
            Some(appearing) => appearing.file(),
            None => {
                // Of a folder that the archive goes into, the archive of before is a part like any other.
                spool = tempfile::tempfile().map_err(|source| TaskError::unwritable(target, source))?;
                &spool
            }
        };
        let mut sink = BufWriter::with_capacity(256 << 10, file);
        let encoded = catar::encode(&self.source, keep, self.cutting.digest, &mut sink, &each).map_err(encoding)?;
        drop(sink);
        let appearing = match appearing {
            Some(appearing) => appearing,
            None => {
                let appearing = Appearing::new(target)?;
                io::copy(&mut super::files::Cursor::new(file), &mut appearing.file())
                    .map_err(|source| TaskError::unwritable(target, source))?;
                appearing
            }
        };
        appearing.appear()?;
        let name = shown(target);
        let text = format!(
            "{name}: {} bytes: {} files, {} folders, {} links\n",
            encoded.size, encoded.file_count, encoded.folder_count, encoded.link_count
        );
        Printed::new(&TarReport { catar: &name, encoded }, text)
    }
}

pub fn encoding(error: EncodeError) -> TaskError {
    let exit = match &error {
        EncodeError::Read { .. } | EncodeError::Refused { .. } => Exit::Unreadable,
        EncodeError::Write(source) if source.kind() == io::ErrorKind::StorageFull => Exit::NoSpace,
        EncodeError::Write(_) => Exit::Unwritable,
    };
    TaskError::because(exit, "no archive was made", error)
}

/// `vsekai sync untar`
#[derive(Debug, Clone, clap::Args)]
pub struct Untar {
    /// The archive.
    #[arg(long, value_name = "FILE", required_unless_present = "index", conflicts_with_all = ["index", "store"])]
    pub catar: Option<PathBuf>,
    /// The archive's index (.caidx), a file or an address.
    #[arg(long, value_name = "FILE|URL")]
    pub index: Option<String>,
    /// Where chunks are; may be repeated. Usually `default.castr` beside the index.
    #[arg(long, value_name = "DIR|URL")]
    pub store: Vec<String>,
    /// The folder to unpack into; usually the archive's name without `.catar` or `.caidx`. It must not exist, or be empty.
    #[arg(long, visible_alias = "output", value_name = "DIR")]
    pub destination: Option<PathBuf>,
    /// Unpack into a folder that has something in it, replacing files and links of the same name; others stay.
    #[arg(long)]
    pub overwrite: bool,
    /// Allow names that Windows or macOS could not hold.
    #[arg(long = "any_name", alias = "any-name")]
    pub any_name: bool,
    /// Give files the owners and groups of the archive, by number.
    #[arg(long = "same_owner", alias = "same-owner")]
    pub same_owner: bool,
    #[command(flatten)]
    pub access: Access,
}

#[derive(serde::Serialize)]
struct UntarReport<'a> {
    destination: &'a str,
    #[serde(flatten)]
    extracted: Extracted,
}

impl Job for Untar {
    fn run(&self) -> Result<Printed, TaskError> {
        let name = match (&self.catar, &self.index) {
            (Some(catar), _) => catar.to_string_lossy().into_owned(),
            (None, Some(index)) => index.clone(),
            (None, None) => unreachable!("clap wants one of them"),
        };
        let destination = match &self.destination {
            Some(destination) => destination.clone(),
            None => usual_destination(&name).ok_or_else(|| {
                TaskError::new(Exit::Usage, format!("{name}: does not end in .catar or .caidx: say --destination"))
            })?,
        };
        let rules = Rules { any_name: self.any_name, same_owner: self.same_owner, overwrite: self.overwrite };
        let place = Place::prepare(&destination, self.overwrite)?;
        let extracted = match (&self.catar, &self.index) {
            (Some(catar), _) => unpack_by(catar, place.folder(), rules)?,
            (None, index) => {
                let authorization = self.access.authorization.as_deref();
                let index = Index::open(index.as_deref().expect("clap wants one of them"), authorization)?;
                let stores = Arc::new(stores(&self.store, &name, authorization)?);
                let progress = Counter::new("unpacking", index.total_size);
                let stream = IndexStream::new(index.into_reader()?, stores);
                // Large pieces pass the buffer by; small elements are many.
                let mut decoder = Decoder::new(BufReader::with_capacity(64 << 10, stream));
                let extracted = catar::extract(&mut decoder, place.folder(), rules, &|count| progress.add(count));
                extracted.map_err(|error| match decoder.source().get_mut().failure() {
                    Some(failure) => fault::stream(&name, failure),
                    None => unpacking(&name, error),
                })?
            }
        };
        place.complete(&destination)?;
        let shown = shown(&destination);
        let text = format!(
            "{shown}: {} files, {} folders, {} links, {} bytes\n",
            extracted.file_count, extracted.folder_count, extracted.link_count, extracted.size
        );
        Printed::new(&UntarReport { destination: &shown, extracted }, text)
    }
}

/// Unpacks an archive into an empty folder, by the strictest rules.
pub fn unpack(catar: &Path, folder: &Path) -> Result<(), TaskError> {
    unpack_by(catar, folder, Rules { any_name: false, same_owner: false, overwrite: false }).map(|_| ())
}

fn unpack_by(catar: &Path, folder: &Path, rules: Rules) -> Result<Extracted, TaskError> {
    let file = File::open(catar).map_err(|source| TaskError::unreadable(catar, source))?;
    let progress = Counter::new("unpacking", file.metadata().map_or(0, |metadata| metadata.len()));
    let mut decoder = Decoder::new(BufReader::with_capacity(256 << 10, file));
    catar::extract(&mut decoder, folder, rules, &|count| progress.add(count))
        .map_err(|error| unpacking(&shown(catar), error))
}

fn usual_destination(name: &str) -> Option<PathBuf> {
    let stem = name.strip_suffix(".catar").or_else(|| name.strip_suffix(".caidx"))?;
    let stem = if is_url(name) { stem.rsplit('/').next()? } else { stem };
    Path::new(stem).file_name().map(|_| PathBuf::from(stem))
}

fn unpacking(name: &str, error: ExtractError) -> TaskError {
    let exit = match &error {
        ExtractError::Archive(catar::CatarError::Read { .. }) => Exit::Unreadable,
        ExtractError::Archive(_) | ExtractError::Refused { .. } => Exit::Damaged,
        ExtractError::Write { source, .. } => match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Exit::NoSpace,
            _ => Exit::Unwritable,
        },
    };
    TaskError::because(exit, shown(Path::new(name)), error)
}

/// Where a tree is unpacked.
enum Place {
    /// Beside its place, into which it is renamed when it is whole.
    Beside(tempfile::TempDir),
    There(PathBuf),
}

impl Place {
    fn prepare(destination: &Path, overwrite: bool) -> Result<Self, TaskError> {
        let failed = |source| TaskError::unwritable(destination, source);
        match fs::read_dir(destination) {
            Ok(mut entries) => {
                if !overwrite && entries.next().is_some() {
                    let what = format!("{}: is not empty; --overwrite allows that", shown(destination));
                    return Err(TaskError::new(Exit::Unwritable, what));
                }
                Ok(Self::There(destination.to_owned()))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let beside = folder_of(destination);
                fs::create_dir_all(&beside).map_err(failed)?;
                tempfile::Builder::new()
                    .prefix(".vsekai-")
                    .suffix(".part")
                    .tempdir_in(beside)
                    .map(Self::Beside)
                    .map_err(failed)
            }
            Err(error) => Err(failed(error)),
        }
    }

    fn folder(&self) -> &Path {
        match self {
            Self::Beside(folder) => folder.path(),
            Self::There(folder) => folder,
        }
    }

    /// Brings all of it to the disk, and gives it its name if it has none yet.
    fn complete(self, destination: &Path) -> Result<(), TaskError> {
        let failed = |source| TaskError::unwritable(destination, source);
        File::open(self.folder()).and_then(|folder| Ok(rustix::fs::syncfs(folder)?)).map_err(failed)?;
        if let Self::Beside(folder) = self {
            fs::rename(folder.path(), destination).map_err(failed)?;
            // It is not there any more under its old name.
            let _ = folder.keep();
            File::open(folder_of(destination)).and_then(|folder| folder.sync_all()).map_err(failed)?;
        }
        Ok(())
    }
}
