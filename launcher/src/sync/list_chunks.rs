//! `vsekai sync list-chunks`: an index as a table for people or as JSON for programs.
//!
//! The file is read twice: once to check all of it and to learn its total size, then to list it, so that nothing is ever
//! listed of an unsound index and memory does not grow with it. Both times every check is made: a file that is changed in
//! between still fails, though after a part of it was listed.

use crate::caibx::{Header, IndexError, IndexReader};
use crate::error::{Exit, TaskError, shown};
use crate::hex::hex;
use serde::Serialize;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Seek, Write};
use std::path::Path;

/// The JSON object, but for its last member, `chunks`, which is written a chunk at a time. Sizes and offsets in bytes.
#[derive(Serialize)]
struct Summary<'a> {
    /// As given; what is not Unicode in it is replaced.
    index: &'a str,
    digest: &'a str,
    /// In hexadecimal, since not every JSON reader takes 64 bits.
    flags: String,
    chunk_size_min: u64,
    chunk_size_avg: u64,
    chunk_size_max: u64,
    chunk_count: u64,
    total_size: u64,
}

#[derive(Serialize)]
struct Entry<'a> {
    offset: u64,
    size: u64,
    id: &'a str,
}

/// Lists the index `file` on `output`. A reader that closes the output early (`| head`) is no failure.
pub fn list(file: &Path, json: bool, output: &mut dyn Write) -> Result<(), TaskError> {
    let unreadable = |source| TaskError::unreadable(file, source);
    // A pipe would block the opening, so what it is comes first.
    if !std::fs::metadata(file).map_err(unreadable)?.is_file() {
        return Err(unreadable(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")));
    }
    let mut opened = File::open(file).map_err(unreadable)?;
    let file_size = opened.metadata().map_err(unreadable)?.len();

    let bad = |source| match source {
        IndexError::Read { .. } => unreadable(io::Error::other(source)),
        IndexError::Unsound { .. } => TaskError::because(Exit::Damaged, shown(file), source),
    };
    let mut checked = IndexReader::new(BufReader::new(&opened), file_size).map_err(bad)?;
    while checked.next_chunk().map_err(bad)?.is_some() {}
    let total_size = checked.total_size();

    opened.rewind().map_err(unreadable)?;
    let mut index = IndexReader::new(BufReader::new(&opened), file_size).map_err(bad)?;
    let mut listing = Listing { output: BufWriter::new(output), json, offset_width: digits(total_size), first: true };
    let mut written = listing.begin(file, index.header(), total_size);
    while written.is_ok()
        && let Some(chunk) = index.next_chunk().map_err(bad)?
    {
        written = listing.chunk(chunk.offset, chunk.size, &hex(&chunk.id));
    }
    match written.and_then(|()| listing.end()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(TaskError::output(error)),
        _ => Ok(()),
    }
}

struct Listing<W: Write> {
    output: W,
    json: bool,
    /// Columns of the largest number in the table.
    offset_width: usize,
    first: bool,
}

impl<W: Write> Listing<W> {
    fn begin(&mut self, file: &Path, header: Header, total_size: u64) -> io::Result<()> {
        let Header { digest, flags, chunk_size_min, chunk_size_avg, chunk_size_max, chunk_count } = header;
        if self.json {
            let summary = Summary {
                index: &file.to_string_lossy(),
                digest: digest.name(),
                flags: format!("{flags:#018x}"),
                chunk_size_min,
                chunk_size_avg,
                chunk_size_max,
                chunk_count,
                total_size,
            };
            let object = serde_json::to_string(&summary)?;
            let open = object.strip_suffix('}').expect("a struct is an object");
            return write!(self.output, "{open},\"chunks\":[");
        }
        writeln!(self.output, "index       {}", shown(file))?;
        writeln!(self.output, "digest      {}", digest.name())?;
        writeln!(self.output, "flags       {flags:#018x}")?;
        writeln!(self.output, "chunk size  {chunk_size_min} min, {chunk_size_avg} avg, {chunk_size_max} max (bytes)")?;
        writeln!(self.output, "chunks      {chunk_count}")?;
        writeln!(self.output, "total size  {total_size} bytes")?;
        writeln!(self.output)?;
        writeln!(self.output, "{:>width$}  {:>9}  id", "offset", "size", width = self.offset_width)
    }

    fn chunk(&mut self, offset: u64, size: u64, id: &str) -> io::Result<()> {
        if self.json {
            let separator = if std::mem::take(&mut self.first) { "\n" } else { ",\n" };
            return write!(self.output, "{separator}{}", serde_json::to_string(&Entry { offset, size, id })?);
        }
        // The largest chunk size has nine digits.
        writeln!(self.output, "{offset:>width$}  {size:>9}  {id}", width = self.offset_width)
    }

    fn end(&mut self) -> io::Result<()> {
        if self.json {
            writeln!(self.output, "\n]}}")?;
        }
        self.output.flush()
    }
}

/// Columns that a number and the word above it need.
fn digits(number: u64) -> usize {
    number.to_string().len().max("offset".len())
}
