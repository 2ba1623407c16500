//! Cuts a stream of bytes into chunks where its content says so, so that an insertion moves few cuts.
//!
//! Two ways of cutting: FastCDC (Xia et al. 2020, crate `fastcdc`), the faster, and casync's buzhash, for whoever mixes with tools that
//! cut again on their side. An index does not say which it was: any reader takes both.

mod buzhash;
#[cfg(test)]
pub(crate) mod tests;

use crate::caibx::CHUNK_SIZE_MAX;
use buzhash::Buzhash;
use fastcdc::v2020 as fastcdc_2020;
use std::fmt;
use std::str::FromStr;

/// Where chunks are cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Algorithm {
    /// FastCDC of 2020, normalisation level 1.
    Fastcdc,
    /// As casync and desync do.
    Buzhash,
}

/// Bounds of a chunk's size and its wanted average, in bytes. Text is `min:avg:max`; a number without a unit counts KiB, as
/// desync's do; `b`, `k`, `m` behind a number count bytes, KiB, MiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkSizes {
    pub min: usize,
    pub avg: usize,
    pub max: usize,
}

impl ChunkSizes {
    /// casync's and desync's own.
    pub const DEFAULT: Self = Self { min: 16 << 10, avg: 64 << 10, max: 256 << 10 };
}

impl FromStr for ChunkSizes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut sizes = text.split(':').map(size);
        let mut next = || sizes.next().unwrap_or_else(|| Err("three sizes are wanted, min:avg:max".into()));
        let found = Self { min: next()?, avg: next()?, max: next()? };
        if sizes.next().is_some() {
            return Err("three sizes are wanted, min:avg:max".into());
        }
        if found.min > found.avg || found.avg > found.max || found.max as u64 > CHUNK_SIZE_MAX {
            return Err("sizes must be min ≤ avg ≤ max ≤ 128m".into());
        }
        Ok(found)
    }
}

impl fmt::Display for ChunkSizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}b:{}b:{}b", self.min, self.avg, self.max)
    }
}

fn size(text: &str) -> Result<usize, String> {
    let (digits, unit) = match text.as_bytes().last().map(u8::to_ascii_lowercase) {
        Some(b'b') => (&text[..text.len() - 1], 1),
        Some(b'k') => (&text[..text.len() - 1], 1 << 10),
        Some(b'm') => (&text[..text.len() - 1], 1 << 20),
        _ => (text, 1 << 10),
    };
    let number: u32 = digits.parse().map_err(|_| format!("`{text}` is not a size: digits, then b, k, m or nothing"))?;
    usize::try_from(number)
        .ok()
        .and_then(|number| number.checked_mul(unit))
        .ok_or_else(|| format!("`{text}` is too large"))
}

/// Cuts, one chunk at a time; the same bytes always at the same places.
#[derive(Debug, Clone)]
pub struct Chunker {
    sizes: ChunkSizes,
    how: How,
}

#[derive(Debug, Clone)]
enum How {
    Fastcdc,
    Buzhash(Buzhash),
}

impl Chunker {
    /// Fails with a sentence when the algorithm cannot keep to these sizes.
    pub fn new(algorithm: Algorithm, sizes: ChunkSizes) -> Result<Self, String> {
        let ChunkSizes { min, avg, max } = sizes;
        if min > avg || avg > max {
            return Err(format!("chunk sizes {sizes} are not min ≤ avg ≤ max"));
        }
        let how = match algorithm {
            Algorithm::Fastcdc => {
                use fastcdc_2020::{AVERAGE_MAX, AVERAGE_MIN, MAXIMUM_MAX, MAXIMUM_MIN, MINIMUM_MAX, MINIMUM_MIN};
                if !(MINIMUM_MIN..=MINIMUM_MAX).contains(&min)
                    || !(AVERAGE_MIN..=AVERAGE_MAX).contains(&avg)
                    || !(MAXIMUM_MIN..=MAXIMUM_MAX).contains(&max)
                    || [min, avg, max].iter().any(|size| !size.is_multiple_of(2))
                {
                    return Err(format!(
                        "fastcdc cuts with even sizes, min from {MINIMUM_MIN}b to 1m, avg from {AVERAGE_MIN}b to 4m, max from \
                         {MAXIMUM_MIN}b to 16m, not with {sizes}"
                    ));
                }
                How::Fastcdc
            }
            Algorithm::Buzhash => {
                if min < 48 || avg > 4 << 20 || max as u64 > CHUNK_SIZE_MAX {
                    return Err(format!("buzhash cuts with min from 48b, avg to 4m, max to 128m, not with {sizes}"));
                }
                How::Buzhash(Buzhash::new(sizes))
            }
        };
        Ok(Self { sizes, how })
    }

    /// As given.
    pub fn sizes(&self) -> ChunkSizes {
        self.sizes
    }

    /// Bytes of the first chunk of `bytes`, or `None` when that cannot be said before there are more: fewer than max, and not the
    /// `last` of the input; and of nothing.
    pub fn cut(&self, bytes: &[u8], last: bool) -> Option<usize> {
        let ChunkSizes { min, avg, max } = self.sizes;
        if bytes.is_empty() || (bytes.len() < max && !last) {
            return None;
        }
        Some(match &self.how {
            How::Buzhash(buzhash) => buzhash.cut(bytes),
            How::Fastcdc => {
                fastcdc_2020::FastCDC::new(&bytes[..bytes.len().min(max)], min, avg, max).cut(0, bytes.len().min(max)).1
            }
        })
    }
}
