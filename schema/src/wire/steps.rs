//! Movement inputs one per tick: a client's datagram with its newest inputs, and what the shard says about how they come.
//!
//! **Client → shard** (unreliable): `kind u8 = 3 · number of the newest varint · count u8, 1–8 · steps, the newest first · the rest`. The first step
//! is `direction_x i8 · direction_z i8 · yaw u16 little-endian · sprint u8`; each further one `0` (as the one before in the datagram) or `1`
//! and these five bytes. The rest is what the client acknowledges, as behind the step of a `Move`. **Shard → client** (unreliable): `kind
//! u8 = 4 · number taken last varint · slack zigzag`.
//!
//! Four inputs in a datagram take 11 bytes while the player holds a direction: three losses in a row cost nothing.

use crate::codec::{DecodeError, Reader, from_bytes, write_postcard, write_varint};
use crate::wire::MoveInput;
use serde::{Deserialize, Serialize};

/// First byte of a client's datagram with steps.
pub const CLIENT_STEPS: u8 = 3;
/// First byte of the shard's datagram about them.
pub const SERVER_STEPS: u8 = 4;
/// Most steps in one datagram.
pub const STEPS_MAX: usize = 8;

/// Writes the newest steps, the oldest first and numbered without gaps; what is acknowledged can be appended.
///
/// # Panics
/// When there are none, or more than [`STEPS_MAX`].
pub fn write_steps(steps: &[MoveInput]) -> Vec<u8> {
    assert!((1..=STEPS_MAX).contains(&steps.len()), "{} steps in a datagram", steps.len());
    let mut out = vec![CLIENT_STEPS];
    let mut before: Option<&MoveInput> = None;
    for step in steps.iter().rev() {
        match before {
            None => {
                write_varint(&mut out, u64::from(step.sequence));
                out.push(steps.len() as u8);
            }
            Some(before) if *before == (MoveInput { sequence: before.sequence, ..*step }) => {
                out.push(0);
                continue;
            }
            Some(_) => out.push(1),
        }
        let [low, high] = step.yaw.to_le_bytes();
        out.extend([step.direction_x as u8, step.direction_z as u8, low, high, u8::from(step.sprint)]);
        before = Some(step);
    }
    out
}

/// The steps of a client's datagram, the oldest first, and the rest of it. `None` when it is one of another kind.
///
/// # Errors
/// When it is no such datagram.
pub fn decode_steps(datagram: &[u8]) -> Option<Result<(Vec<MoveInput>, &[u8]), DecodeError>> {
    let (_, rest) = datagram.split_first().filter(|(kind, _)| **kind == CLIENT_STEPS)?;
    Some(read_steps(rest))
}

fn read_steps(bytes: &[u8]) -> Result<(Vec<MoveInput>, &[u8]), DecodeError> {
    let mut reader = Reader::new(bytes);
    let newest = u32::try_from(reader.varint()?).map_err(|_| DecodeError::IntegerRange)?;
    let count = reader.byte()?;
    if count == 0 {
        return Err(DecodeError::Invalid("count of steps"));
    }
    if usize::from(count) > STEPS_MAX {
        return Err(DecodeError::TooLarge { what: "count of steps", found: count.into(), limit: STEPS_MAX as u64 });
    }
    let mut steps = vec![read_step(&mut reader, newest)?];
    for back in 1..u32::from(count) {
        let sequence = newest.wrapping_sub(back);
        let step = match (reader.byte()?, steps.last()) {
            (0, Some(before)) => MoveInput { sequence, ..*before },
            (1, _) => read_step(&mut reader, sequence)?,
            _ => return Err(DecodeError::Invalid("step")),
        };
        steps.push(step);
    }
    steps.reverse();
    Ok((steps, reader.rest()))
}

fn read_step(reader: &mut Reader<'_>, sequence: u32) -> Result<MoveInput, DecodeError> {
    let (direction_x, direction_z) = (reader.byte()? as i8, reader.byte()? as i8);
    let yaw = u16::from_le_bytes([reader.byte()?, reader.byte()?]);
    let sprint = match reader.byte()? {
        0 => false,
        1 => true,
        _ => return Err(DecodeError::Invalid("bool")),
    };
    Ok(MoveInput { sequence, direction_x, direction_z, yaw, sprint })
}

/// True of a client's datagram that asks for nothing before the next tick: movement, and what it acknowledges. Looks at the first byte
/// only.
pub fn is_movement(datagram: &[u8]) -> bool {
    // `ClientDatagram::Move`: postcard writes the number of the variant first.
    const MOVE: u8 = 0;
    matches!(datagram.first(), Some(&(MOVE | CLIENT_STEPS)))
}

/// How a client's steps come, behind [`SERVER_STEPS`]: postcard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepsFeedback {
    /// Number of the step that was taken last.
    pub taken: u32,
    /// How many ticks before their turn steps come; fits an `i8`.
    pub slack: i16,
}

/// The shard's datagram about a client's steps: which it took last, and how many ticks before their turn they come.
pub fn write_steps_feedback(taken: u32, slack: i8) -> Vec<u8> {
    let mut out = vec![SERVER_STEPS];
    write_postcard(&mut out, &StepsFeedback { taken, slack: slack.into() });
    out
}

/// What [`write_steps_feedback`] wrote: the number taken last and the slack. `None` when it is a datagram of another kind.
///
/// # Errors
/// When it is no such datagram.
pub fn decode_steps_feedback(datagram: &[u8]) -> Option<Result<(u32, i8), DecodeError>> {
    let (_, rest) = datagram.split_first().filter(|(kind, _)| **kind == SERVER_STEPS)?;
    let read = || {
        let StepsFeedback { taken, slack } = from_bytes(rest)?;
        let slack = i8::try_from(slack).map_err(|_| DecodeError::IntegerRange)?;
        Ok((taken, slack))
    };
    Some(read())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::pose::write_client_pose;
    use crate::wire::{ClientDatagram, encode};
    use proptest::prelude::*;

    fn steps(newest: u32, directions: &[(i8, i8, u16, bool)]) -> Vec<MoveInput> {
        let first = newest.wrapping_sub(directions.len() as u32 - 1);
        let numbered = directions.iter().zip((0..).map(|n: u32| first.wrapping_add(n)));
        numbered
            .map(|((direction_x, direction_z, yaw, sprint), sequence)| MoveInput {
                sequence,
                direction_x: *direction_x,
                direction_z: *direction_z,
                yaw: *yaw,
                sprint: *sprint,
            })
            .collect()
    }

    proptest! {
        #[test]
        fn steps_come_back(newest: u32, directions in prop::collection::vec(any::<(i8, i8, u16, bool)>(), 1..=STEPS_MAX), rest: [u8; 3]) {
            let steps = steps(newest, &directions);
            let bytes = [&write_steps(&steps)[..], &rest].concat();
            prop_assert_eq!(decode_steps(&bytes), Some(Ok((steps, &rest[..]))));
        }

        #[test]
        fn feedback_comes_back(taken: u32, slack: i8) {
            prop_assert_eq!(decode_steps_feedback(&write_steps_feedback(taken, slack)), Some(Ok((taken, slack))));
        }

        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            for kind in [CLIENT_STEPS, SERVER_STEPS] {
                let bytes = [&[kind][..], &bytes].concat();
                let _ = (decode_steps(&bytes), decode_steps_feedback(&bytes));
            }
        }
    }

    #[test]
    fn movement_is_told_from_what_must_be_answered() {
        let steps = steps(7, &[(1, 0, 0, false)]);
        let moves = ClientDatagram::Move { step: steps[0], acks: None };
        assert!(is_movement(&encode(&moves)) && is_movement(&write_steps(&steps)));
        let ping = ClientDatagram::Ping { nonce: 0, acks: None };
        assert!(!is_movement(&encode(&ping)) && !is_movement(&write_client_pose(&[0])) && !is_movement(&[]));
    }

    #[test]
    fn a_held_direction_takes_eleven_bytes_and_what_is_wrong_is_named() {
        let held = write_steps(&steps(100, &[(127, 0, 300, true); 4]));
        assert_eq!(held, [3, 100, 4, 127, 0, 44, 1, 1, 0, 0, 0]);
        assert_eq!(write_steps_feedback(300, -2), [4, 0xac, 2, 3]);
        assert_eq!((decode_steps(&[0, 1]), decode_steps_feedback(&[1])), (None, None));
        assert_eq!(decode_steps(&[3, 100, 0]), Some(Err(DecodeError::Invalid("count of steps"))));
        let many = DecodeError::TooLarge { what: "count of steps", found: 9, limit: 8 };
        assert_eq!(decode_steps(&[3, 100, 9]), Some(Err(many)));
        assert_eq!(decode_steps(&held[..7]), Some(Err(DecodeError::Truncated { needed: 1 })));
        assert_eq!(decode_steps(&[3, 100, 1, 0, 0, 0, 0, 2]), Some(Err(DecodeError::Invalid("bool"))));
        assert_eq!(decode_steps(&[3, 100, 2, 0, 0, 0, 0, 1, 2]), Some(Err(DecodeError::Invalid("step"))));
    }
}
