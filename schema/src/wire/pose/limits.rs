//! What a body can do: pure checks of poses that come from outside.

use super::{BodyPose, Part, SLOTS_PER_S};
use thiserror::Error;

/// The head is no further than this from the root in the horizontal plane, millimetres: who walks about in the room moves
/// the root.
pub const HEAD_AWAY_MAX_MM: i32 = 2_000;
/// How low the head may be: somebody kneels at a slope.
pub const HEAD_LOW_MM: i32 = -500;
/// How high the head may be.
pub const HEAD_HIGH_MM: i32 = 3_000;
/// An arm's length from the head to the hand, of a tall person.
pub const ARM_MM: i32 = 1_600;
/// Any other tracker from the head.
pub const BODY_MM: i32 = 2_500;
/// The fastest head, millimetres a second.
pub const HEAD_SPEED_MAX_MM_S: i32 = 12_000;
/// The fastest hand or foot: a pitcher's hand has about 35 m/s.
pub const LIMB_SPEED_MAX_MM_S: i32 = 40_000;

/// Why a pose is not believed. It is dropped; the player is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PoseRefusal {
    /// The head is too far from the root.
    #[error("the head is {found_mm} mm from the root, at most {limit_mm} are allowed")]
    HeadAway {
        /// How far.
        found_mm: i32,
        /// How far it may be.
        limit_mm: i32,
    },
    /// The head is too low or too high.
    #[error("the head is {found_mm} mm above the root, {HEAD_LOW_MM} to {HEAD_HIGH_MM} are allowed")]
    HeadHeight {
        /// How high.
        found_mm: i32,
    },
    /// A part is too far from the head.
    #[error("{part:?} is {found_mm} mm from the head, at most {limit_mm} are allowed")]
    OutOfReach {
        /// Which part.
        part: Part,
        /// How far.
        found_mm: i32,
        /// How far it may be.
        limit_mm: i32,
    },
    /// A part moved faster than bodies do.
    #[error("{part:?} moved {found_mm} mm, at most {limit_mm} are allowed in that time")]
    TooFast {
        /// Which part.
        part: Part,
        /// How far it moved.
        found_mm: i32,
        /// How far it may have.
        limit_mm: i32,
    },
}

fn length(parts: [i32; 3]) -> i32 {
    let squares: i64 = parts.iter().map(|part| i64::from(*part) * i64::from(*part)).sum();
    (squares as u64).isqrt() as i32
}

fn between(a: [i16; 3], b: [i16; 3]) -> i32 {
    length([0, 1, 2].map(|axis| i32::from(a[axis]) - i32::from(b[axis])))
}

/// Whether a body can have this shape.
///
/// # Errors
/// What it is that no body can.
pub fn check_reach(pose: &BodyPose) -> Result<(), PoseRefusal> {
    let head = pose.head().position;
    let away = length([i32::from(head[0]), 0, i32::from(head[2])]);
    if away > HEAD_AWAY_MAX_MM {
        return Err(PoseRefusal::HeadAway { found_mm: away, limit_mm: HEAD_AWAY_MAX_MM });
    }
    let height = i32::from(head[1]);
    if !(HEAD_LOW_MM..=HEAD_HIGH_MM).contains(&height) {
        return Err(PoseRefusal::HeadHeight { found_mm: height });
    }
    for (part, tracked) in pose.parts() {
        let limit_mm = if matches!(part, Part::LeftHand | Part::RightHand) { ARM_MM } else { BODY_MM };
        let found_mm = between(tracked.position, head);
        if found_mm > limit_mm {
            return Err(PoseRefusal::OutOfReach { part, found_mm, limit_mm });
        }
    }
    Ok(())
}

/// Whether a body can come from one pose to another in `slots` sixtieths of a second. Parts that were not tracked before may be
/// anywhere.
///
/// # Errors
/// Which part is too fast.
pub fn check_speed(from: &BodyPose, to: &BodyPose, slots: u16) -> Result<(), PoseRefusal> {
    for (part, tracked) in to.parts() {
        let Some(before) = from.part(part) else { continue };
        let speed = if part == Part::Head { HEAD_SPEED_MAX_MM_S } else { LIMB_SPEED_MAX_MM_S };
        let limit_mm = speed / SLOTS_PER_S as i32 * i32::from(slots.max(1));
        let found_mm = between(tracked.position, before.position);
        if found_mm > limit_mm {
            return Err(PoseRefusal::TooFast { part, found_mm, limit_mm });
        }
    }
    Ok(())
}
