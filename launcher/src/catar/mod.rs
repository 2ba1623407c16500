//! casync's archive of a directory tree, `.catar`: written from a folder, read as a stream, unpacked into a folder.
//!
//! The format (casync's `caformat.h`) is a sequence of elements: `size (with these 16 bytes), type, body`, numbers u64 little-endian.
//!
//! ```text
//! archive    ENTRY, then USER GROUP XATTR … as there are, then one of
//!              PAYLOAD              a file's bytes
//!              SYMLINK              target, NUL
//!              DEVICE               major, minor
//!              (FILENAME archive)*  a directory's content, in the order of the names' bytes
//!              GOODBYE              … and its table of contents
//! ENTRY      feature flags, mode, chattr flags, uid, gid, mtime (ns since 1970)
//! FILENAME   name, NUL
//! GOODBYE    n × (offset back to FILENAME, size of FILENAME and archive, SipHash-2-4 of the name), as a complete binary tree in array
//!            order, sorted by (hash, offset); then (offset back to ENTRY, size of this element, mark)
//! ```

mod decode;
mod encode;
mod extract;
mod goodbye;
#[cfg(test)]
mod tests;

pub use decode::{CatarError, Decoder};
pub use encode::{EncodeError, Encoded, Keep, encode};
pub use extract::{ExtractError, Extracted, Rules, extract};

/// The feature flags of archives that we write, without the digest's bit: 32-bit owners, times in ns, permissions, links, as desync
/// writes them, so that the same folder gives the same archive.
pub const FLAGS: u64 = 0x9000_0000_1000_1f22;

const ENTRY: u64 = 0x1396_fabc_ea5b_bb51;
const PAYLOAD: u64 = 0x8b9e_1d93_d6dc_ffc9;
const SYMLINK: u64 = 0x664a_6fb6_830e_0d6c;
const DEVICE: u64 = 0xac3d_ace3_69df_e643;
const FILENAME: u64 = 0x6dbb_6ebc_b316_1f0b;
const GOODBYE: u64 = 0xdfd3_5c5e_8327_c403;
const GOODBYE_TAIL: u64 = 0x5744_6fa5_3370_2943;
/// What may stand between ENTRY and the content, and is passed over: user, group, extended attributes, the kinds of access control
/// lists, SELinux label, capabilities, quota project.
const PASSED_OVER: [u64; 12] = [
    0xf453_131a_aeea_ccb3,
    0x25eb_6ac9_6939_6a52,
    0xb815_7091_f80b_c486,
    0x297d_c88b_2ef1_2faf,
    0x36f2_acb5_6cb3_dd0b,
    0x2304_7110_441f_38f3,
    0xfe3e_eda6_823c_8cd0,
    0xbdf0_3df9_bd01_0a91,
    0xa0cb_1168_782d_1f51,
    0x46fa_f060_2fd2_6c59,
    0xf726_7db0_afed_0629,
    0x161b_aad0_8ef0_8d5f,
];

const HEADER_SIZE: u64 = 16;
const ENTRY_SIZE: u64 = 64;
const DEVICE_SIZE: u64 = 32;
/// NAME_MAX and PATH_MAX of Linux, without the NUL.
const NAME_MAX: usize = 255;
const TARGET_MAX: usize = 4095;
/// What is passed over may have this much: an extended attribute's name and 64 KiB, with room.
const PASSED_OVER_MAX: u64 = 128 << 10;
/// Folders within folders; each holds a file descriptor while it is open.
const DEPTH_MAX: usize = 200;
/// Entries of all folders that are open at once: their tables of contents are held until they close.
const OPEN_ENTRIES_MAX: usize = 1 << 20;

const TYPE_MASK: u64 = 0o170_000;
const TYPE_DIRECTORY: u64 = 0o040_000;
const TYPE_FILE: u64 = 0o100_000;
const TYPE_SYMLINK: u64 = 0o120_000;

/// Why a link would leave the root it is unpacked into, when its folder is `depth` below that; `None` when it does not.
///
/// `..` may only stand at the beginning, and no more often than there are folders above: then it climbs real folders, and what follows
/// goes down through names each of which is a real entry or a link that keeps the same rule.
fn leaves_root(target: &[u8], depth: usize) -> Option<&'static str> {
    if target.is_empty() {
        return Some("its target is empty");
    }
    if target.starts_with(b"/") {
        return Some("its target is absolute");
    }
    let (mut climbed, mut descended) = (0, false);
    for part in target.split(|&byte| byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." if descended => return Some("its target climbs after it went down"),
            b".." => climbed += 1,
            _ => descended = true,
        }
    }
    (climbed > depth).then_some("its target leaves the archive")
}
