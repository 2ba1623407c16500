//! An archive as a stream of what is in it, each element checked before anything is allocated for it.

use super::goodbye::{self, Item};
use super::{
    DEPTH_MAX, DEVICE, DEVICE_SIZE, ENTRY, ENTRY_SIZE, FILENAME, GOODBYE, HEADER_SIZE, NAME_MAX, OPEN_ENTRIES_MAX,
    PASSED_OVER, PASSED_OVER_MAX, PAYLOAD, SYMLINK, TARGET_MAX, TYPE_DIRECTORY, TYPE_FILE, TYPE_MASK, TYPE_SYMLINK,
};
use crate::read;
use std::io::{self, Read};

/// What is known of an entry besides its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meta {
    /// Type and permissions, as `stat` has them; at most 0o177777.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Nanoseconds since 1970.
    pub mtime_ns: u64,
}

/// One step through the archive. The name of the root is empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// What follows lies in it, until its [`Event::Leave`].
    Enter {
        name: Vec<u8>,
        meta: Meta,
    },
    /// Its `size` bytes are to be read with [`Decoder::payload`]; what is left of them is passed over.
    File {
        name: Vec<u8>,
        meta: Meta,
        size: u64,
    },
    Link {
        name: Vec<u8>,
        meta: Meta,
        target: Vec<u8>,
    },
    /// A device, FIFO or socket.
    Special {
        name: Vec<u8>,
        meta: Meta,
    },
    Leave,
}

/// Why an archive is none. The offset is that of the element at fault.
#[derive(Debug, thiserror::Error)]
pub enum CatarError {
    #[error("byte {offset}: {fault}")]
    Unsound { offset: u64, fault: Fault },
    #[error("byte {offset}: reading failed")]
    Read { offset: u64, source: io::Error },
}

/// What is wrong with an element.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("the archive ends in the middle of an element")]
    CutOff,
    #[error("the archive goes on after its end")]
    GoesOn,
    #[error("element of type {kind:#018x} stands where {wanted} must stand")]
    Misplaced { kind: u64, wanted: &'static str },
    #[error("{element} has {size} bytes, {wanted}")]
    Size { element: &'static str, size: u64, wanted: &'static str },
    #[error("{element} is not text that ends in its only NUL")]
    Text { element: &'static str },
    #[error("mode {mode:#o} is none that a file can have, or is not of what follows")]
    Mode { mode: u64 },
    #[error("{field} {value} is more than 32 bits")]
    TooLarge { field: &'static str, value: u64 },
    #[error("name {name:?} does not come after {before:?} in the order of bytes")]
    NotRising { name: String, before: String },
    #[error("folders are nested more than {DEPTH_MAX} deep")]
    TooDeep,
    #[error("the open folders have more than {OPEN_ENTRIES_MAX} entries")]
    TooMany,
    #[error("the folder's table of contents is not that of the folder")]
    Contents,
}

/// A folder that has been entered.
struct Open {
    /// Where its ENTRY begins.
    entry: u64,
    items: Vec<Item>,
    last_name: Vec<u8>,
}

/// Reads an archive from front to back. After an error nothing more is to be expected of it.
pub struct Decoder<R> {
    source: R,
    position: u64,
    open: Vec<Open>,
    /// Entries of all of them.
    open_entries: usize,
    /// Bytes of the current payload that were not read yet.
    payload: u64,
    begun: bool,
}

impl<R: Read> Decoder<R> {
    /// `source` is worth buffering.
    pub fn new(source: R) -> Self {
        Self { source, position: 0, open: Vec::new(), open_entries: 0, payload: 0, begun: false }
    }

    /// What the archive is read from: it may know more of a failed read.
    pub fn source(&mut self) -> &mut R {
        &mut self.source
    }

    /// The next step; `None` at the end, which has then been checked.
    pub fn next_event(&mut self) -> Result<Option<Event>, CatarError> {
        self.pass_over_payload()?;
        if self.open.is_empty() {
            if self.begun {
                return self.end().map(|()| None);
            }
            self.begun = true;
            let (at, size, kind) = self.header()?;
            let event = self.archive(Vec::new(), size, kind, at)?;
            return match event {
                Event::Enter { .. } => Ok(Some(event)),
                Event::File { meta, .. } | Event::Link { meta, .. } | Event::Special { meta, .. } => {
                    Err(self.unsound(0, Fault::Mode { mode: u64::from(meta.mode) }))
                }
                Event::Leave => unreachable!("an archive begins"),
            };
        }
        let (begin, size, kind) = self.header()?;
        match kind {
            FILENAME => {
                let name = self.text("a name", size, NAME_MAX)?;
                self.take_name(&name, begin)?;
                let (at, size, kind) = self.header()?;
                self.archive(name, size, kind, at).map(Some)
            }
            GOODBYE => self.goodbye(begin, size).map(|()| Some(Event::Leave)),
            _ => Err(self.unsound(begin, Fault::Misplaced { kind, wanted: "a name or a folder's end" })),
        }
    }

    /// Reads some of the current payload; nothing at its end.
    pub fn payload(&mut self, bytes: &mut [u8]) -> Result<usize, CatarError> {
        let most = usize::try_from(self.payload).unwrap_or(usize::MAX).min(bytes.len());
        if most == 0 {
            return Ok(0);
        }
        match self.some(&mut bytes[..most])? {
            0 => Err(self.unsound(self.position, Fault::CutOff)),
            count => {
                self.payload -= count as u64;
                self.ended_entry();
                Ok(count)
            }
        }
    }

    fn take_name(&mut self, name: &[u8], begin: u64) -> Result<(), CatarError> {
        self.open_entries += 1;
        if self.open_entries > OPEN_ENTRIES_MAX {
            return Err(self.unsound(begin, Fault::TooMany));
        }
        let folder = self.open.last_mut().expect("in a folder");
        // This finds names that come twice, too.
        if !folder.items.is_empty() && name <= folder.last_name.as_slice() {
            let text = |name: &[u8]| String::from_utf8_lossy(name).into_owned();
            let fault = Fault::NotRising { name: text(name), before: text(&folder.last_name) };
            return Err(self.unsound(begin, fault));
        }
        folder.last_name = name.to_vec();
        folder.items.push(Item { begin, end: begin, hash: goodbye::hash(name) });
        Ok(())
    }

    /// The entry whose end is now known, if one is: that of a file grows with each piece.
    fn ended_entry(&mut self) {
        let position = self.position;
        if let Some(item) = self.open.last_mut().and_then(|folder| folder.items.last_mut()) {
            item.end = position;
        }
    }

    /// What follows a name, or the beginning: `size` and `kind` are those of the element that was just begun.
    fn archive(&mut self, name: Vec<u8>, size: u64, kind: u64, begin: u64) -> Result<Event, CatarError> {
        if kind != ENTRY {
            return Err(self.unsound(begin, Fault::Misplaced { kind, wanted: "an entry" }));
        }
        if size != ENTRY_SIZE {
            return Err(self.unsound(begin, Fault::Size { element: "an entry", size, wanted: "must have 64" }));
        }
        let [_flags, mode, _chattr, uid, gid, mtime_ns] = self.words()?;
        let small = |field, value| match u32::try_from(value) {
            Ok(small) => Ok(small),
            Err(_) => Err(CatarError::Unsound { offset: begin, fault: Fault::TooLarge { field, value } }),
        };
        if mode & !0o177_777 != 0 {
            return Err(self.unsound(begin, Fault::Mode { mode }));
        }
        let meta = Meta { mode: mode as u32, uid: small("uid", uid)?, gid: small("gid", gid)?, mtime_ns };
        if mode & TYPE_MASK == TYPE_DIRECTORY {
            if self.open.len() == DEPTH_MAX {
                return Err(self.unsound(begin, Fault::TooDeep));
            }
            self.open.push(Open { entry: begin, items: Vec::new(), last_name: Vec::new() });
            return Ok(Event::Enter { name, meta });
        }
        if !matches!(mode & TYPE_MASK, TYPE_FILE | TYPE_SYMLINK) && !self.is_device(mode) {
            // A FIFO or a socket has nothing more.
            self.ended_entry();
            return match mode & TYPE_MASK {
                0o010_000 | 0o140_000 => Ok(Event::Special { name, meta }),
                _ => Err(self.unsound(begin, Fault::Mode { mode })),
            };
        }
        let (at, size, kind) = self.content_header()?;
        match (mode & TYPE_MASK, kind) {
            (TYPE_FILE, PAYLOAD) => {
                self.payload = size - HEADER_SIZE;
                self.ended_entry();
                Ok(Event::File { name, meta, size: self.payload })
            }
            (TYPE_SYMLINK, SYMLINK) => {
                let target = self.text("a link's target", size, TARGET_MAX)?;
                self.ended_entry();
                Ok(Event::Link { name, meta, target })
            }
            (_, DEVICE) if self.is_device(mode) => {
                if size != DEVICE_SIZE {
                    return Err(self.unsound(at, Fault::Size { element: "a device", size, wanted: "must have 32" }));
                }
                let [_major, _minor] = self.words()?;
                self.ended_entry();
                Ok(Event::Special { name, meta })
            }
            _ => Err(self.unsound(at, Fault::Misplaced { kind, wanted: "what the entry's mode says" })),
        }
    }

    fn is_device(&self, mode: u64) -> bool {
        matches!(mode & TYPE_MASK, 0o020_000 | 0o060_000)
    }

    /// The next element that is not passed over.
    fn content_header(&mut self) -> Result<(u64, u64, u64), CatarError> {
        loop {
            let (at, size, kind) = self.header()?;
            if !PASSED_OVER.contains(&kind) {
                return Ok((at, size, kind));
            }
            self.pass_over(at, size)?;
        }
    }

    fn pass_over(&mut self, at: u64, size: u64) -> Result<(), CatarError> {
        if size > PASSED_OVER_MAX {
            return Err(
                self.unsound(at, Fault::Size { element: "an attribute", size, wanted: "must have at most 128 KiB" })
            );
        }
        self.skip(size - HEADER_SIZE)
    }

    fn goodbye(&mut self, begin: u64, size: u64) -> Result<(), CatarError> {
        let mut folder = self.open.pop().expect("in a folder");
        self.open_entries -= folder.items.len();
        if size != goodbye::size(folder.items.len()) {
            return Err(self.unsound(begin, Fault::Contents));
        }
        let wanted = goodbye::element(&mut folder.items, folder.entry, begin);
        let mut rest = &wanted[HEADER_SIZE as usize..];
        let mut piece = [0; 4096];
        while !rest.is_empty() {
            let count = rest.len().min(piece.len());
            self.fill(&mut piece[..count])?;
            if piece[..count] != rest[..count] {
                return Err(self.unsound(begin, Fault::Contents));
            }
            rest = &rest[count..];
        }
        // The folder itself is an entry of the one above.
        self.ended_entry();
        Ok(())
    }

    /// Where the next element begins, its size, at least 16, and its type.
    fn header(&mut self) -> Result<(u64, u64, u64), CatarError> {
        let at = self.position;
        let [size, kind] = self.words()?;
        if size < HEADER_SIZE {
            return Err(self.unsound(at, Fault::Size { element: "an element", size, wanted: "must have at least 16" }));
        }
        // Attributes of a folder stand between its ENTRY and its first name.
        if PASSED_OVER.contains(&kind) && self.open.last().is_some_and(|folder| folder.items.is_empty()) {
            self.pass_over(at, size)?;
            return self.header();
        }
        Ok((at, size, kind))
    }

    fn text(&mut self, element: &'static str, size: u64, max: usize) -> Result<Vec<u8>, CatarError> {
        let at = self.position - HEADER_SIZE;
        let length = size - HEADER_SIZE;
        if length < 2 || length > max as u64 + 1 {
            let wanted = if max == NAME_MAX { "must have 18 to 272" } else { "must have 18 to 4112" };
            return Err(self.unsound(at, Fault::Size { element, size, wanted }));
        }
        let mut text = vec![0; length as usize];
        self.fill(&mut text)?;
        match text.iter().position(|&byte| byte == 0) {
            Some(end) if end + 1 == text.len() => {
                text.pop();
                Ok(text)
            }
            _ => Err(self.unsound(at, Fault::Text { element })),
        }
    }

    fn pass_over_payload(&mut self) -> Result<(), CatarError> {
        let left = std::mem::take(&mut self.payload);
        self.skip(left)?;
        if left > 0 {
            self.ended_entry();
        }
        Ok(())
    }

    fn skip(&mut self, mut count: u64) -> Result<(), CatarError> {
        let mut piece = [0; 8192];
        while count > 0 {
            let most = usize::try_from(count).unwrap_or(usize::MAX).min(piece.len());
            self.fill(&mut piece[..most])?;
            count -= most as u64;
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), CatarError> {
        match self.some(&mut [0])? {
            0 => Ok(()),
            _ => Err(self.unsound(self.position - 1, Fault::GoesOn)),
        }
    }

    fn words<const N: usize>(&mut self) -> Result<[u64; N], CatarError> {
        let mut words = [0; N];
        for word in &mut words {
            let mut bytes = [0; 8];
            self.fill(&mut bytes)?;
            *word = u64::from_le_bytes(bytes);
        }
        Ok(words)
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), CatarError> {
        match self.most(bytes)? {
            count if count == bytes.len() => Ok(()),
            _ => Err(self.unsound(self.position, Fault::CutOff)),
        }
    }

    fn some(&mut self, bytes: &mut [u8]) -> Result<usize, CatarError> {
        let count = read::some(&mut self.source, bytes);
        let count = count.map_err(|source| CatarError::Read { offset: self.position, source })?;
        self.position += count as u64;
        Ok(count)
    }

    fn most(&mut self, bytes: &mut [u8]) -> Result<usize, CatarError> {
        let count = read::most_at(&mut self.source, &mut self.position, bytes);
        count.map_err(|source| CatarError::Read { offset: self.position, source })
    }

    fn unsound(&self, offset: u64, fault: Fault) -> CatarError {
        CatarError::Unsound { offset, fault }
    }
}
