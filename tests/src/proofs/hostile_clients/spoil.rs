//! How packets are spoiled. Pure functions of bytes and randomness.
//!
//! An SCTP packet (RFC 9260) is a header of 12 bytes, with a CRC-32C in its last four, and chunks: `type u8 · flags u8 · length u16`, the
//! length with these four bytes and without what fills it up to a multiple of four.

use rand::{Rng, RngExt};

const SCTP_HEADER_BYTES: usize = 12;
const DATA: u8 = 0;
const SACK: u8 = 3;
/// In the flags of a DATA chunk: it holds the end of a message.
const ENDS: u8 = 1;

/// Changes a packet somewhere: bits, its length, or all of it but the first byte, by which layers are told apart.
pub(super) fn garble(rng: &mut impl Rng, packet: &mut Vec<u8>) {
    match rng.random_range(0..5) {
        0 => packet.truncate(rng.random_range(1..=packet.len().max(1))),
        1 => packet.extend((0..rng.random_range(1..200)).map(|_| 0xa5u8)),
        2 if packet.len() > 1 => rng.fill_bytes(&mut packet[1..]),
        _ => {
            for _ in 0..rng.random_range(1..6) {
                let at = rng.random_range(0..packet.len().max(1));
                if let Some(byte) = packet.get_mut(at) {
                    *byte ^= 1 << rng.random_range(0..8);
                }
            }
        }
    }
}

/// Changes an SCTP packet somewhere, and gives most of them a true checksum: what has none is not looked at.
pub(super) fn garble_sctp(rng: &mut impl Rng, packet: &[u8]) -> Vec<u8> {
    let mut spoiled = packet.to_vec();
    if spoiled.len() < SCTP_HEADER_BYTES + 4 {
        return spoiled;
    }
    let chunks = SCTP_HEADER_BYTES..spoiled.len();
    match rng.random_range(0..8) {
        // Another kind of chunk, with the flags and the body of this one.
        0 => spoiled[chunks.start] = rng.random_range(0..16),
        // Kinds beyond RFC 9260: reconfiguration, forwarding, padding.
        1 => spoiled[chunks.start] = [0x80, 0x82, 0x84, 0xc0, 0xc1, 0xff][rng.random_range(0..6)],
        2 => spoiled[chunks.start + 1] = rng.random(),
        3 => {
            let length = [0u16, 1, 3, 4, 5, 0x7fff, 0xffff, rng.random()][rng.random_range(0..8)];
            spoiled[chunks.start + 2..chunks.start + 4].copy_from_slice(&length.to_be_bytes());
        }
        // The same chunks twice.
        4 => spoiled.extend_from_within(chunks),
        5 => rng.fill_bytes(&mut spoiled[chunks.start + 4..]),
        6 => spoiled.truncate(rng.random_range(SCTP_HEADER_BYTES..=packet.len())),
        _ => {
            for _ in 0..rng.random_range(1..8) {
                let at = rng.random_range(0..spoiled.len());
                spoiled[at] ^= 1 << rng.random_range(0..8);
            }
        }
    }
    // Neither more than a record holds, nor all with a checksum.
    spoiled.truncate(1_200);
    if rng.random_bool(0.95) {
        seal(&mut spoiled);
    }
    spoiled
}

/// The packet without any message's end; `None` when there is none in it.
pub(super) fn never_end(packet: &[u8]) -> Option<Vec<u8>> {
    let mut spoiled = packet.to_vec();
    let mut found = false;
    for (at, chunk) in chunks(packet) {
        if chunk[0] == DATA && chunk[1] & ENDS != 0 {
            spoiled[at + 1] &= !ENDS;
            found = true;
        }
    }
    found.then(|| {
        seal(&mut spoiled);
        spoiled
    })
}

/// The packet with its acknowledgements made stale: nothing after the first that passed here has arrived, and there is no room
/// for more. `None` when it holds none.
pub(super) fn hold_back_acknowledgements(packet: &[u8], held: &mut Option<u32>) -> Option<Vec<u8>> {
    let mut spoiled = packet.get(..SCTP_HEADER_BYTES)?.to_vec();
    let mut found = false;
    for (_, chunk) in chunks(packet) {
        let Some(cumulative) = chunk.get(4..8).filter(|_| chunk[0] == SACK) else {
            spoiled.extend_from_slice(chunk);
            spoiled.resize(spoiled.len().next_multiple_of(4), 0);
            continue;
        };
        let first = *held.get_or_insert(cumulative.iter().fold(0, |number, byte| number << 8 | u32::from(*byte)));
        spoiled.extend([SACK, 0, 0, 16]);
        spoiled.extend(first.to_be_bytes());
        // No room, no gaps, no duplicates.
        spoiled.extend([0; 8]);
        found = true;
    }
    found.then(|| {
        seal(&mut spoiled);
        spoiled
    })
}

/// The chunks of a packet in order, and where they stand.
fn chunks(packet: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let mut at = SCTP_HEADER_BYTES;
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_be_bytes([*packet.get(at + 2)?, *packet.get(at + 3)?]));
        let chunk = packet.get(at..at + length.max(4))?;
        let found = (at, chunk);
        at += chunk.len().next_multiple_of(4);
        Some(found)
    })
}

fn seal(packet: &mut [u8]) {
    let Some(checksum) = packet.get_mut(8..SCTP_HEADER_BYTES) else { return };
    checksum.fill(0);
    let checksum = crc32c::crc32c(packet);
    packet[8..SCTP_HEADER_BYTES].copy_from_slice(&checksum.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A SACK of 1,000 with one gap and a DATA chunk of five bytes that is a whole message.
    fn packet() -> Vec<u8> {
        let mut packet = vec![19, 136, 19, 136, 1, 2, 3, 4, 0, 0, 0, 0];
        packet.extend([SACK, 0, 0, 20, 0, 0, 3, 232, 0, 16, 0, 0, 0, 1, 0, 0, 0, 2, 0, 3]);
        packet.extend([DATA, 3, 0, 21, 0, 0, 0, 9, 0, 1, 0, 0, 0, 0, 0, 53, 1, 2, 3, 4, 5, 0, 0, 0]);
        seal(&mut packet);
        packet
    }

    #[test]
    fn acknowledgements_are_held_back_and_the_rest_stays() {
        let mut held = None;
        let spoiled = hold_back_acknowledgements(&packet(), &mut held).unwrap();
        assert_eq!(held, Some(1_000));
        let found: Vec<_> = chunks(&spoiled).map(|(_, chunk)| chunk.to_vec()).collect();
        assert_eq!(found[0], [SACK, 0, 0, 16, 0, 0, 3, 232, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(found[1][..], packet()[32..53]);
        assert_eq!(hold_back_acknowledgements(&packet()[..12], &mut held), None);
        held = Some(7);
        assert_eq!(hold_back_acknowledgements(&packet(), &mut held).unwrap()[16..20], [0, 0, 0, 7]);
    }

    #[test]
    fn messages_lose_their_ends() {
        let spoiled = never_end(&packet()).unwrap();
        assert_eq!(spoiled[33], 2);
        assert_eq!(spoiled.len(), packet().len());
        assert_eq!(never_end(&spoiled), None);
        let mut again = spoiled.clone();
        seal(&mut again);
        assert_eq!(again, spoiled, "the checksum is true");
    }
}
