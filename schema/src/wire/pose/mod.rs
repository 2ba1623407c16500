//! Where a player's head and hands are: a stream of small datagrams that stands loss and reordering.
//!
//! A [`BodyPose`] is whole numbers only: millimetres relative to the body's root (the feet, turned with the body), and rotations
//! of which the three smaller parts of the unit quaternion are kept ([`Rotation`]; "smallest three", G. Fiedler, Snapshot
//! Compression, 2015). Converting a real pose into it errs by at most 0.87 mm and 0.25°; the codec itself loses nothing.
//!
//! A stream has four [`Layer`]s, as scalable video has: key poses stand alone, the poses of a layer name one pose of a lower
//! layer. So a receiver that gets only the lower layers decodes them all, a sender encodes once for all receivers, and what a
//! loss spoils is over at the next key pose, [`KEY_INTERVAL`] slots later. `schema/docs/wire.md` has the bits.
//!
//! [`PoseEncoder`] and [`PoseDecoder`] are in `stream.rs`, what a pose may be in `limits.rs`, and synthetic movement for tests and
//! load in [`motion`].

pub(in crate::wire) mod bits;
mod datagram;
mod limits;
pub mod motion;
pub(in crate::wire) mod rotation;
pub(in crate::wire) mod stream;
#[cfg(test)]
mod tests;

pub use datagram::{
    CLIENT_POSE, POSES_BYTES_MAX, SERVER_POSES, client_pose, decode_poses, write_client_pose, write_pose_entry,
};
pub use limits::{PoseRefusal, check_reach, check_speed};
pub(in crate::wire) use rotation::others;
pub use rotation::{ROTATION_ONE, Rotation};
pub use stream::{PoseDecoder, PoseEncoder, PoseError, ReceivedPose};

/// Poses a second, at most: one per slot.
pub const SLOTS_PER_S: u32 = 60;
/// A key pose comes after at most so many slots.
pub const KEY_INTERVAL: u16 = 24;
/// Longest encoded pose, bytes.
pub const POSE_BYTES_MAX: usize = 160;
/// Tracked parts of a body, the head included.
pub const PARTS: usize = 11;

/// What is tracked. The number is the bit in a key pose's mask, plus one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// Between the eyes; always there.
    Head = 0,
    /// The left controller's grip.
    LeftHand = 1,
    /// The right controller's grip.
    RightHand = 2,
    /// The middle of the pelvis.
    Hips = 3,
    /// The breastbone.
    Chest = 4,
    /// The left ankle.
    LeftFoot = 5,
    /// The right ankle.
    RightFoot = 6,
    /// The left knee.
    LeftKnee = 7,
    /// The right knee.
    RightKnee = 8,
    /// The left elbow.
    LeftElbow = 9,
    /// The right elbow.
    RightElbow = 10,
}

impl Part {
    /// All of them, in the order of the wire.
    pub const ALL: [Part; PARTS] = [
        Part::Head,
        Part::LeftHand,
        Part::RightHand,
        Part::Hips,
        Part::Chest,
        Part::LeftFoot,
        Part::RightFoot,
        Part::LeftKnee,
        Part::RightKnee,
        Part::LeftElbow,
        Part::RightElbow,
    ];
}

/// One tracked part: where it is and how it is turned, relative to the root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tracked {
    /// East, up and south of the root, before the root's yaw turns it; millimetres.
    pub position: [i16; 3],
    /// How it is turned.
    pub rotation: Rotation,
}

impl Tracked {
    /// From metres and a quaternion (x, y, z, w) of any length. `None` when a number is not finite, the quaternion is zero, or the
    /// place is further than 32 m.
    pub fn from_real(metres: [f64; 3], quaternion: [f64; 4]) -> Option<Self> {
        let mut position = [0; 3];
        for (to, from) in position.iter_mut().zip(metres) {
            let millimetres = (from * 1_000.0).round();
            // A comparison with what is not a number is false.
            if !(-32_000.0..=32_000.0).contains(&millimetres) {
                return None;
            }
            *to = millimetres as i16;
        }
        Some(Tracked { position, rotation: Rotation::from_real(quaternion)? })
    }
}

/// A whole body at one moment. Its parts are listed with a mask, so that two bodies with equal parts are equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BodyPose {
    mask: u16,
    parts: [Tracked; PARTS],
}

impl BodyPose {
    /// A head alone.
    pub fn new(head: Tracked) -> Self {
        let mut parts = [Tracked::default(); PARTS];
        parts[0] = head;
        BodyPose { mask: 1, parts }
    }

    /// The same body with one more part, or another value of one.
    pub fn with(mut self, part: Part, tracked: Tracked) -> Self {
        self.mask |= 1 << part as u16;
        self.parts[part as usize] = tracked;
        self
    }

    /// The head.
    pub fn head(&self) -> Tracked {
        self.parts[0]
    }

    /// One part, if it is tracked.
    pub fn part(&self, part: Part) -> Option<Tracked> {
        (self.mask & 1 << part as u16 != 0).then(|| self.parts[part as usize])
    }

    /// All tracked parts, the head first.
    pub fn parts(&self) -> impl Iterator<Item = (Part, Tracked)> + '_ {
        Part::ALL.into_iter().filter_map(|part| Some((part, self.part(part)?)))
    }
}

/// How much hangs on a pose: lower ones are referred to by higher ones, and a far viewer gets the lower ones only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Layer {
    /// Stands alone; every 24 slots: 2.5 a second.
    Key = 0,
    /// Refers to the anchor before, or a key pose; with it every 4 slots: 15 a second.
    Anchor = 1,
    /// Refers to one of the above; with them every 2 slots: 30 a second.
    Half = 2,
    /// Refers to one of the above; with them every slot: 60 a second.
    Full = 3,
}

impl Layer {
    /// All of them, the lowest first.
    pub const ALL: [Layer; 4] = [Layer::Key, Layer::Anchor, Layer::Half, Layer::Full];

    /// The layer of an encoded pose, without decoding it.
    pub fn of(bytes: &[u8]) -> Option<Layer> {
        bytes.first().map(|first| Layer::ALL[3 - (first & 7).trailing_ones() as usize])
    }
}
