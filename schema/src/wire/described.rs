//! The wire's numbers and bit-packed records as data, for generators of codecs in other languages (`cargo xtask codecs`). The serde types
//! describe themselves; here stands what they do not say.

use super::motion::{Motion, MotionHead, OwnPose, Step};
use super::pose::{Layer, Part, bits, rotation, stream};
use super::{motion, pose, slots, steps, view};
use crate::layout::Layout;
use crate::units;

/// A number of the protocol, or several that belong together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    /// In capitals, as constants are written.
    pub name: &'static str,
    /// What it is for.
    pub meaning: &'static str,
    /// One number, or a list.
    pub value: Value,
}

/// What is [`Described`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// One number.
    Number(i64),
    /// Numbers, in order.
    Numbers(Vec<i64>),
    /// Names, the first of which stands for 0.
    Names(Vec<String>),
}

/// All numbers that a client needs.
pub fn numbers() -> Vec<Described> {
    let list = |numbers: &[u32]| Value::Numbers(numbers.iter().map(|number| i64::from(*number)).collect());
    let one = |name, meaning, value: i64| Described { name, meaning, value: Value::Number(value) };
    let named = |names: Vec<String>| Value::Names(names);
    let usual: Vec<u32> = Layer::ALL.iter().map(|layer| u32::from(stream::usual_distance(*layer))).collect();
    vec![
        one("PROTOCOL_VERSION", "The protocol of this build.", super::PROTOCOL_VERSION.into()),
        one("CHANNEL_STATE", "Index of the unreliable, unordered channel.", super::CHANNEL_STATE as i64),
        one("CHANNEL_COMMAND", "Index of the reliable, ordered channel.", super::CHANNEL_COMMAND as i64),
        one("NAME_CHARS_MAX", "Longest player name, characters.", super::NAME_CHARS_MAX as i64),
        one("CHUNK_MM", "Side of a chunk, millimetres.", units::CHUNK_MM.into()),
        one("CHUNKS_IN_MIND_MAX", "Most chunks that are kept in mind.", view::CHUNKS_IN_MIND_MAX as i64),
        one("MOTION_KIND", "First byte of a motion packet.", motion::MOTION_KIND.into()),
        one("PONG_KIND", "First byte of a pong.", view::PONG_KIND.into()),
        one("SERVER_POSES", "First byte of the shard's datagram with poses.", pose::SERVER_POSES.into()),
        one("SERVER_STEPS", "First byte of the shard's datagram about steps.", steps::SERVER_STEPS.into()),
        one("CLIENT_POSE", "First byte of a client's datagram with a pose.", pose::CLIENT_POSE.into()),
        one("CLIENT_STEPS", "First byte of a client's datagram with steps.", steps::CLIENT_STEPS.into()),
        one("STEPS_MAX", "Most steps in one datagram.", steps::STEPS_MAX as i64),
        one("QUANTUM_MM", "Millimetres of a quantum of position.", motion::QUANTUM_MM.into()),
        one("HISTORY_TICKS", "How far back states are kept, ticks.", motion::HISTORY_TICKS.into()),
        one("COUNT_BITS", "Bits of a packet's count of entities.", slots::COUNT_BITS.into()),
        one("RICE_BITS", "Bits of the gaps' parameter.", slots::RICE_BITS.into()),
        one("GAP_ONES_MAX", "So many ones in a gap mean that the slot follows.", slots::GAP_ONES_MAX.into()),
        one("SLOT_BITS", "Bits of a slot that is told whole.", slots::SLOT_BITS.into()),
        one("AGE_BITS", "Bits of an age.", slots::AGE_BITS.into()),
        Described {
            name: "STEP_BITS",
            meaning: "Bits of each axis of a difference, by class.",
            value: list(&motion::STEP_BITS),
        },
        Described {
            name: "POSE_PARTS",
            meaning: "What is tracked, by number.",
            value: named(Part::ALL.iter().map(|part| format!("{part:?}")).collect()),
        },
        Described {
            name: "POSE_LAYERS",
            meaning: "Layers of poses, by number.",
            value: named(Layer::ALL.iter().map(|layer| format!("{layer:?}")).collect()),
        },
        Described {
            name: "POSE_USUAL_DISTANCES",
            meaning: "How far back each layer usually refers, slots.",
            value: list(&usual),
        },
        one("POSE_SLOTS_PER_S", "Poses a second, at most.", pose::SLOTS_PER_S.into()),
        one("POSE_BYTES_MAX", "Longest encoded pose.", pose::POSE_BYTES_MAX as i64),
        one("POSE_SLOT_BITS", "Bits of a key pose's slot.", stream::SLOT_BITS.into()),
        one("POSE_SHORT_BITS", "Bits of other poses' slots.", stream::SHORT_BITS.into()),
        one("POSE_DISTANCE_BITS", "Bits of a distance that is not usual.", stream::DISTANCE_BITS.into()),
        one("POSE_HEAD_AND_HANDS", "The mask of head and both hands.", stream::HEAD_AND_HANDS.into()),
        one("POSE_HEAD_BITS", "Bits of a head's coordinate in a key pose.", stream::HEAD_BITS.into()),
        one("POSE_PART_BITS", "Bits of other parts' coordinates there.", stream::PART_BITS.into()),
        one("POSE_LEFT_OUT_BITS", "Bits of the number of the left-out part.", stream::LEFT_OUT_BITS.into()),
        one("POSE_ROTATION_BITS", "Bits of a rotation's part in a key pose.", stream::ROTATION_BITS.into()),
        one("POSE_REMEMBERED", "Slots that a receiver remembers.", stream::REMEMBERED as i64),
        one("POSE_SILENCE_MS", "After such a silence all is forgotten.", stream::SILENCE.as_millis() as i64),
        one("POSE_RESTART_SLOTS", "A key pose further off begins anew.", stream::RESTART_SLOTS.into()),
        Described {
            name: "POSE_KEY_PARAMETERS",
            meaning: "The parameters of a key pose: of places, of rotations.",
            value: list(&stream::KEY_PARAMETERS.map(u32::from)),
        },
        Described {
            name: "POSE_PARAMETERS",
            meaning: "Lowest bits of a number, by parameter.",
            value: list(&bits::PARAMETERS),
        },
        one("POSE_PARAMETER_BITS", "Bits of a parameter.", stream::PARAMETER_BITS.into()),
        one("POSE_ONES_MAX", "So many ones mean that the number follows plainly.", bits::ONES_MAX.into()),
        one("POSE_PLAIN_BITS", "Bits of such a number.", bits::PLAIN_BITS.into()),
        one("ROTATION_ONE", "What 1 is in a rotation's parts.", pose::ROTATION_ONE.into()),
        one("ROTATION_PART_MAX", "No part but the left-out one is larger.", rotation::PART_MAX.into()),
        one("ROTATION_LEFT_OUT_MIN", "The left-out part is not smaller.", rotation::LEFT_OUT_MIN.into()),
    ]
}

/// The bit-packed records that a client reads, each after those that it holds.
pub const LAYOUTS: &[Layout] = &[OwnPose::LAYOUT, MotionHead::LAYOUT, Motion::LAYOUT, Step::LAYOUT];
