//! What carries poses: from the client one pose, from the shard those of several players.
//!
//! **Client → shard** (unreliable): `kind u8 = 2 · the pose`. **Shard → client** (unreliable): `kind u8 = 3 · entries to the end`, an entry
//! being `id varint · length u8 · the pose`.

use super::POSE_BYTES_MAX;
use crate::codec::{DecodeError, Reader, write_varint};
use crate::id::EntityId;

/// First byte of a client's datagram with its pose: the number behind the last variant of `ClientDatagram`.
pub const CLIENT_POSE: u8 = 2;
/// First byte of the shard's datagram with others' poses.
pub const SERVER_POSES: u8 = 3;

/// Longest datagram of the shard with poses, bytes: fits one UDP packet with DTLS and SCTP around it.
pub const POSES_BYTES_MAX: usize = 1_000;

/// The pose in a client's datagram; `None` when it is one of another kind.
pub fn client_pose(datagram: &[u8]) -> Option<&[u8]> {
    datagram.split_first().filter(|(kind, _)| **kind == CLIENT_POSE).map(|(_, pose)| pose)
}

/// A client's datagram with its pose.
pub fn write_client_pose(pose: &[u8]) -> Vec<u8> {
    [&[CLIENT_POSE][..], pose].concat()
}

/// Appends an entry: whose pose, and the pose.
///
/// # Panics
/// When the pose is longer than [`POSE_BYTES_MAX`].
pub fn write_pose_entry(out: &mut Vec<u8>, player: EntityId, pose: &[u8]) {
    assert!(pose.len() <= POSE_BYTES_MAX, "a pose of {} bytes", pose.len());
    write_varint(out, player.0);
    out.push(pose.len() as u8);
    out.extend_from_slice(pose);
}

/// The entries of a shard's datagram, its kind included.
///
/// # Errors
/// When it is not such a datagram.
pub fn decode_poses(datagram: &[u8]) -> Result<Vec<(EntityId, &[u8])>, DecodeError> {
    let mut reader = Reader::new(datagram);
    if reader.byte()? != SERVER_POSES {
        return Err(DecodeError::Invalid("datagram kind"));
    }
    let mut entries = Vec::new();
    while !reader.is_empty() {
        let player = EntityId(reader.varint()?);
        let length = usize::from(reader.byte()?);
        if length > POSE_BYTES_MAX {
            let (found, limit) = (length as u64, POSE_BYTES_MAX as u64);
            return Err(DecodeError::TooLarge { what: "pose length", found, limit });
        }
        entries.push((player, reader.take(length)?));
    }
    Ok(entries)
}
