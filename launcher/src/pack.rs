//! Chunks as packs hold them: a zstd frame where that is shorter, else as they are.

use crate::manifest::{Chunk, Id};
use zstd::zstd_safe::{CCtx, CParameter, DCtx, compress_bound, get_error_name};

/// What zstd says went wrong.
#[derive(Debug, thiserror::Error)]
#[error("zstd: {0}")]
pub(crate) struct ZstdError(&'static str);

impl ZstdError {
    pub fn of(code: usize) -> Self {
        Self(get_error_name(code))
    }
}

/// The chunk as stored: shorter than `plain`, or `plain` itself.
pub(crate) fn compress(plain: &[u8], level: i32) -> Result<Vec<u8>, ZstdError> {
    thread_local! {
        static CONTEXT: std::cell::RefCell<CCtx<'static>> = std::cell::RefCell::new(CCtx::create());
    }
    let mut stored = Vec::with_capacity(compress_bound(plain.len()));
    CONTEXT.with_borrow_mut(|context| context.compress(&mut stored, plain, level)).map_err(ZstdError::of)?;
    if stored.len() < plain.len() { Ok(stored) } else { Ok(plain.to_vec()) }
}

/// Why bytes of a pack are not the chunk.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChunkError {
    #[error(transparent)]
    Zstd(#[from] ZstdError),
    #[error("other bytes than the manifest says")]
    Wrong,
}

/// Turns stored chunks into plain ones. One for each thread.
pub(crate) struct Unpacker {
    context: DCtx<'static>,
    plain: Vec<u8>,
}

impl Unpacker {
    pub fn new() -> Self {
        Self { context: DCtx::create(), plain: vec![] }
    }

    /// The plain bytes, checked against the chunk's digest. The buffer is never larger than the chunk.
    pub fn unpack<'a>(&'a mut self, chunk: &Chunk, stored: &'a [u8]) -> Result<&'a [u8], ChunkError> {
        let plain = if chunk.stored == chunk.size {
            stored
        } else {
            self.plain.clear();
            self.plain.reserve_exact(chunk.size as usize);
            // What zstd may write is what the vector has room for, which may be more than was reserved.
            let mut room = Exactly { bytes: &mut self.plain, size: chunk.size as usize };
            room.decompress(&mut self.context, stored)?;
            &self.plain[..]
        };
        if digest(plain) == chunk.id && plain.len() == chunk.size as usize { Ok(plain) } else { Err(ChunkError::Wrong) }
    }
}

/// A vector that is filled to a size and not beyond.
struct Exactly<'a> {
    bytes: &'a mut Vec<u8>,
    size: usize,
}

impl Exactly<'_> {
    fn decompress(&mut self, context: &mut DCtx<'_>, stored: &[u8]) -> Result<(), ZstdError> {
        self.bytes.resize(self.size, 0);
        let written = context.decompress(&mut self.bytes[..], stored).map_err(ZstdError::of)?;
        self.bytes.truncate(written);
        Ok(())
    }
}

/// BLAKE3.
pub(crate) fn digest(bytes: &[u8]) -> Id {
    blake3::hash(bytes).into()
}

/// Compresses `plain` with the bytes of `prefix` as if they stood before it.
pub(crate) fn compress_after(prefix: &[u8], plain: &[u8], level: i32) -> Result<Vec<u8>, ZstdError> {
    let mut context = CCtx::create();
    let window = (prefix.len() + plain.len()).next_power_of_two().trailing_zeros().clamp(17, 27);
    let parameters = [
        CParameter::CompressionLevel(level),
        CParameter::WindowLog(window),
        CParameter::EnableLongDistanceMatching(true),
    ];
    for parameter in parameters {
        context.set_parameter(parameter).map_err(ZstdError::of)?;
    }
    context.ref_prefix(prefix).map_err(ZstdError::of)?;
    let mut stored = Vec::with_capacity(compress_bound(plain.len()));
    context.compress2(&mut stored, plain).map_err(ZstdError::of)?;
    Ok(stored)
}

/// The inverse of [`compress_after`]: exactly `size` bytes, or an error.
pub(crate) fn decompress_after(
    prefix: &[u8],
    stored: &[u8],
    size: usize,
    plain: &mut Vec<u8>,
) -> Result<(), ZstdError> {
    let mut context = DCtx::create();
    context.ref_prefix(prefix).map_err(ZstdError::of)?;
    plain.clear();
    plain.reserve_exact(size);
    Exactly { bytes: plain, size }.decompress(&mut context, stored)?;
    if plain.len() == size { Ok(()) } else { Err(ZstdError("fewer bytes than expected")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn chunk(plain: &[u8], stored: usize) -> Chunk {
        Chunk { id: digest(plain), size: plain.len() as u32, pack: 0, offset: 0, stored: stored as u32 }
    }

    #[test]
    fn a_bomb_stops_at_the_chunks_size() {
        let stored = zstd::bulk::compress(&vec![0; 64 << 20], 3).expect("compresses");
        let lie = Chunk { id: [0; 32], size: 4_096, pack: 0, offset: 0, stored: stored.len() as u32 };
        let mut unpacker = Unpacker::new();
        assert!(matches!(unpacker.unpack(&lie, &stored), Err(ChunkError::Zstd(_))));
        assert!(unpacker.plain.capacity() <= 4_096);
        assert!(decompress_after(b"", &stored, 4_096, &mut vec![]).is_err());
    }

    #[test]
    fn a_run_after_the_old_bytes_is_the_difference() {
        let old: Vec<u8> =
            (0..300_000u32).flat_map(|n| blake3::hash(&n.to_le_bytes()).as_bytes()[..4].to_vec()).collect();
        let mut new = old.clone();
        new[500_000..500_100].fill(7);
        let stored = compress_after(&old, &new, 3).expect("compresses");
        assert!(stored.len() < 2_000, "{} bytes", stored.len());
        let mut plain = vec![];
        decompress_after(&old, &stored, new.len(), &mut plain).expect("decompresses");
        assert!(plain == new);
        assert!(decompress_after(&old, &stored, new.len() - 1, &mut plain).is_err());
        assert!(decompress_after(&old, &stored, new.len() + 1, &mut plain).is_err());
    }

    proptest! {
        #[test]
        fn what_was_packed_is_unpacked_and_nothing_else(plain in prop::collection::vec(0u8..4, 1..2_000), flip: prop::sample::Index) {
            let mut stored = compress(&plain, 3).expect("compresses");
            let chunk = chunk(&plain, stored.len());
            let mut unpacker = Unpacker::new();
            prop_assert_eq!(unpacker.unpack(&chunk, &stored).expect("sound"), &plain[..]);
            let at = flip.index(stored.len());
            stored[at] ^= 1;
            // A flipped bit of a frame's header may mean the same; never other bytes.
            if let Ok(unpacked) = unpacker.unpack(&chunk, &stored) {
                prop_assert_eq!(unpacked, &plain[..]);
            }
        }
    }
}
