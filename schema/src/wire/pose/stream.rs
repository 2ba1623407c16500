//! The stream of poses: which pose refers to which, and the bits of each.

use super::bits::{BitReader, BitWriter, PARAMETERS, signed_length};
use super::rotation::others;
use super::{BodyPose, KEY_INTERVAL, Layer, PARTS, POSE_BYTES_MAX, Rotation, Tracked};
use crate::codec::DecodeError;
use std::time::Duration;
use thiserror::Error;

/// A reference reaches back so many slots at most: what four bits hold.
const BACK_MAX: u16 = 15;
/// Slots that a receiver remembers. A reference reaches back 15 slots, and the reference's own reference 15 more.
pub(in crate::wire) const REMEMBERED: usize = 32;
/// After a silence this long a receiver trusts nothing that it remembers: a slot's short number could mean another one.
pub(in crate::wire) const SILENCE: Duration = Duration::from_millis(500);
/// A key pose that is further off than this begins anew.
pub(in crate::wire) const RESTART_SLOTS: u16 = 128;

/// What nearly everybody has.
pub(in crate::wire) const HEAD_AND_HANDS: u16 = 0b111;
/// Bits of a place's coordinate in a key pose, relative to the root (head) or the head (others).
pub(in crate::wire) const HEAD_BITS: u32 = 13;
/// See [`HEAD_BITS`].
pub(in crate::wire) const PART_BITS: u32 = 12;
/// Bits of a rotation's part in a key pose.
pub(in crate::wire) const ROTATION_BITS: u32 = 11;

/// Why a pose could not be written or read. None of these is a reason to end a connection.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PoseError {
    /// The bytes are no pose.
    #[error("a pose {0}")]
    Malformed(#[from] DecodeError),
    /// The pose that this one refers to did not arrive. The next key pose mends it.
    #[error("the pose {distance} slots before slot {slot} is missing")]
    MissingReference {
        /// The slot of the pose that cannot be read.
        slot: u16,
        /// How far back it refers.
        distance: u16,
    },
    /// A slot gets one pose, and slots only grow.
    #[error("slot {slot} is not behind slot {newest}")]
    SlotNotNew {
        /// The slot asked for.
        slot: u16,
        /// The newest one so far.
        newest: u16,
    },
    /// A part is too far from the head, or the head from the root, to be written.
    #[error("a coordinate of {millimetres} mm does not fit")]
    TooFar {
        /// The coordinate.
        millimetres: i32,
    },
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    slot: u16,
    /// Slots back to what it refers to; 0 for a key pose.
    distance: u16,
    pose: BodyPose,
    /// Which parameters its numbers were written with: those of a place and of a rotation, for each part.
    parameters: [[u8; 2]; PARTS],
}

/// The parameters of a key pose, which needs none: what those that refer to it expect.
const PARAMETERS_EXPECTED: [[u8; 2]; PARTS] = [KEY_PARAMETERS; PARTS];
/// Those of a place and of a rotation.
pub(in crate::wire) const KEY_PARAMETERS: [u8; 2] = [4, 3];

/// The poses of the last slots.
#[derive(Debug, Clone)]
struct History {
    entries: [Option<Entry>; REMEMBERED],
}

impl History {
    fn new() -> Self {
        History { entries: [None; REMEMBERED] }
    }

    fn at(&self, slot: u16) -> Option<&Entry> {
        self.entries[usize::from(slot) % REMEMBERED].as_ref().filter(|entry| entry.slot == slot)
    }

    fn keep(&mut self, entry: Entry) {
        self.entries[usize::from(entry.slot) % REMEMBERED] = Some(entry);
    }

    /// What is expected of the pose `distance` slots after `base`: the base itself, or the base moved on as it moved since
    /// its own reference.
    fn expected(&self, base: &Entry, distance: u16, moving: bool) -> Option<Expected> {
        let still = Expected { pose: base.pose, parameters: base.parameters, before: None };
        if !moving {
            return Some(still);
        }
        let before = self.at(base.slot.wrapping_sub(base.distance)).filter(|_| base.distance > 0)?;
        Some(Expected { before: Some((before.pose, i32::from(distance), i32::from(base.distance))), ..still })
    }
}

/// What a pose is told relative to.
struct Expected {
    pose: BodyPose,
    parameters: [[u8; 2]; PARTS],
    /// The base's own reference, the slots from the base on, and those between the base and it.
    before: Option<(BodyPose, i32, i32)>,
}

impl Expected {
    fn onward(&self, at: i32, before: i32, slots: i32, since: i32) -> i32 {
        let numerator = (at - before) * slots;
        at + (numerator.abs() * 2 + since) / (since * 2) * numerator.signum()
    }

    fn position(&self, part: usize) -> [i32; 3] {
        let base = self.pose.parts[part].position.map(i32::from);
        match self.before {
            None => base,
            Some((before, slots, since)) => {
                let before = before.parts[part].position.map(i32::from);
                [0, 1, 2].map(|axis| self.onward(base[axis], before[axis], slots, since))
            }
        }
    }

    /// The three parts beside the one that is left out.
    fn rotation(&self, part: usize, left_out: usize) -> [i32; 3] {
        let mut whole = self.pose.parts[part].rotation.whole();
        if let Some((before, slots, since)) = self.before {
            let before = before.parts[part].rotation.whole();
            // Of a quaternion's two signs the nearer one.
            let product: i32 = whole.iter().zip(before).map(|(a, b)| a * b).sum();
            let sign = if product < 0 { -1 } else { 1 };
            whole = [0, 1, 2, 3].map(|at| self.onward(whole[at], sign * before[at], slots, since));
        }
        let sign = if whole[left_out] < 0 { -1 } else { 1 };
        others(whole, left_out).map(|part| sign * part)
    }
}

/// The sender's side.
#[derive(Debug, Clone)]
pub struct PoseEncoder {
    history: History,
    newest: Option<u16>,
    /// The newest pose of each layer but the highest.
    last: [u16; 3],
    restart: bool,
}

impl Default for PoseEncoder {
    fn default() -> Self {
        PoseEncoder { history: History::new(), newest: None, last: [0; 3], restart: true }
    }
}

impl PoseEncoder {
    /// The next pose is a key pose: for a receiver that lost its place.
    pub fn restart(&mut self) {
        self.restart = true;
    }

    /// The pose of `slot`, the number of sixtieths of a second since any beginning, modulo 65,536. Slots may be skipped.
    ///
    /// # Errors
    /// When the slot is not new, or the pose is beyond what can be written.
    pub fn encode(&mut self, slot: u16, pose: &BodyPose) -> Result<Vec<u8>, PoseError> {
        if let Some(newest) = self.newest.filter(|newest| !is_later(slot, *newest)) {
            return Err(PoseError::SlotNotNew { slot, newest });
        }
        let since = |layer: Layer| slot.wrapping_sub(self.last[layer as usize]);
        let known = self.history.at(self.last[0]).is_some_and(|key| key.pose.mask == pose.mask);
        let (layer, reference) =
            if self.restart || !known || since(Layer::Key) >= KEY_INTERVAL || since(Layer::Anchor) > BACK_MAX {
                (Layer::Key, None)
            } else if since(Layer::Anchor) >= 4 {
                (Layer::Anchor, Some(self.last[1]))
            } else if since(Layer::Half) >= 2 {
                (Layer::Half, Some(self.last[1]))
            } else {
                (Layer::Full, Some(self.last[2]))
            };
        let (bytes, distance, parameters) = match reference.and_then(|at| self.history.at(at)) {
            None => (write_key(slot, pose)?, 0, PARAMETERS_EXPECTED),
            Some(base) => {
                let distance = slot.wrapping_sub(base.slot);
                let written = [false, true].into_iter().filter_map(|moving| {
                    let expected = self.history.expected(base, distance, moving)?;
                    Some(write_change(slot, layer, &expected, pose, distance))
                });
                let shorter = written.min_by_key(|(out, _)| out.len()).unwrap_or_default();
                (shorter.0.into_bytes(), distance, shorter.1)
            }
        };
        self.history.keep(Entry { slot, distance, pose: *pose, parameters });
        self.newest = Some(slot);
        self.restart = false;
        for last in self.last.iter_mut().skip(layer as usize) {
            *last = slot;
        }
        Ok(bytes)
    }
}

fn is_later(slot: u16, than: u16) -> bool {
    (slot.wrapping_sub(than) as i16) > 0
}

fn write_key(slot: u16, pose: &BodyPose) -> Result<Vec<u8>, PoseError> {
    let mut out = BitWriter::default();
    write_layer(&mut out, Layer::Key);
    out.write(u32::from(slot), SLOT_BITS);
    let usual = pose.mask == HEAD_AND_HANDS;
    out.write(u32::from(!usual), 1);
    if !usual {
        out.write(u32::from(pose.mask >> 1), PARTS as u32 - 1);
    }
    let head = pose.head().position.map(i32::from);
    for (part, tracked) in pose.parts() {
        let is_head = part == super::Part::Head;
        let (bits, origin) = if is_head { (HEAD_BITS, [0; 3]) } else { (PART_BITS, head) };
        for (axis, from) in tracked.position.into_iter().zip(origin) {
            let millimetres = i32::from(axis) - from;
            let half = 1 << (bits - 1);
            if !(-half..half).contains(&millimetres) {
                return Err(PoseError::TooFar { millimetres });
            }
            out.write((millimetres + half) as u32, bits);
        }
        out.write(tracked.rotation.largest() as u32, LEFT_OUT_BITS);
        for part in tracked.rotation.parts() {
            out.write((i32::from(part) + (1 << (ROTATION_BITS - 1))) as u32, ROTATION_BITS);
        }
    }
    Ok(out.into_bytes())
}

/// Bits of a key pose's slot.
pub(in crate::wire) const SLOT_BITS: u32 = 16;
/// Bits of a distance that is not the usual one.
pub(in crate::wire) const DISTANCE_BITS: u32 = 4;
/// Bits of the number of a rotation's left-out part.
pub(in crate::wire) const LEFT_OUT_BITS: u32 = 2;
/// Bits of a code's parameter.
pub(in crate::wire) const PARAMETER_BITS: u32 = 3;
/// Bits of a slot's short number.
pub(in crate::wire) const SHORT_BITS: u32 = 6;

/// Full 0, half 10, anchor 110, key 111: the commonest is the shortest.
fn write_layer(out: &mut BitWriter, layer: Layer) {
    let ones = Layer::Full as u32 - layer as u32;
    out.write((1 << ones) - 1, if layer == Layer::Key { 3 } else { ones + 1 });
}

fn read_layer(reader: &mut BitReader<'_>) -> Result<Layer, DecodeError> {
    for layer in [Layer::Full, Layer::Half, Layer::Anchor] {
        if reader.read(1)? == 0 {
            return Ok(layer);
        }
    }
    Ok(Layer::Key)
}

/// How far back a layer refers when no slot is skipped: 0, and otherwise 1 and four bits.
pub(in crate::wire) fn usual_distance(layer: Layer) -> u16 {
    match layer {
        Layer::Key => 0,
        Layer::Anchor => 4,
        Layer::Half => 2,
        Layer::Full => 1,
    }
}

type Written = (BitWriter, [[u8; 2]; PARTS]);

fn write_change(slot: u16, layer: Layer, expected: &Expected, pose: &BodyPose, distance: u16) -> Written {
    let mut out = BitWriter::default();
    let mut parameters = expected.parameters;
    write_layer(&mut out, layer);
    out.write(u32::from(slot), SHORT_BITS);
    let usual = distance == usual_distance(layer);
    out.write(u32::from(!usual), 1);
    if !usual {
        out.write(u32::from(distance), DISTANCE_BITS);
    }
    out.write(u32::from(expected.before.is_some()), 1);
    let largest = |pose: &BodyPose, at: usize| pose.parts[at].rotation.largest();
    let turned = (0..PARTS).any(|at| largest(pose, at) != largest(&expected.pose, at));
    out.write(u32::from(turned), 1);
    for (part, tracked) in pose.parts() {
        let at = part as usize;
        let [for_place, for_rotation] = &mut parameters[at];
        let position = expected.position(at);
        write_three(&mut out, for_place, [0, 1, 2].map(|axis| i32::from(tracked.position[axis]) - position[axis]));
        let left_out = tracked.rotation.largest();
        if turned {
            out.write(left_out as u32, LEFT_OUT_BITS);
        }
        let (parts, rotation) = (tracked.rotation.parts(), expected.rotation(at, left_out));
        write_three(&mut out, for_rotation, [0, 1, 2].map(|axis| i32::from(parts[axis]) - rotation[axis]));
    }
    (out, parameters)
}

/// Bits that say which parameter follows another: the same 1, a neighbour 3, any 5.
fn parameter_length(was: u8, is: u8) -> u32 {
    match was.abs_diff(is) {
        0 => 1,
        1 => 3,
        _ => 5,
    }
}

fn write_three(out: &mut BitWriter, parameter: &mut u8, values: [i32; 3]) {
    let cost = |index: &u8| {
        let codes = values.iter().map(|value| signed_length(*value, usize::from(*index)));
        codes.sum::<u32>() + parameter_length(*parameter, *index)
    };
    let best = (0..PARAMETERS.len() as u8).min_by_key(cost).unwrap_or_default();
    match parameter_length(*parameter, best) {
        1 => out.write(0, 1),
        3 => out.write(0b01 | u32::from(best > *parameter) << 2, 3),
        _ => out.write(0b11 | u32::from(best) << 2, 5),
    }
    *parameter = best;
    for value in values {
        out.write_signed(value, usize::from(best));
    }
}

fn read_three(reader: &mut BitReader<'_>, parameter: &mut u8) -> Result<[i32; 3], DecodeError> {
    if reader.read(1)? == 1 {
        *parameter = match reader.read(1)? {
            0 if reader.read(1)? == 1 => *parameter + 1,
            0 => parameter.wrapping_sub(1),
            _ => reader.read(PARAMETER_BITS)? as u8,
        };
    }
    let index = usize::from(*parameter);
    if index >= PARAMETERS.len() {
        return Err(DecodeError::Invalid("parameter"));
    }
    Ok([reader.read_signed(index)?, reader.read_signed(index)?, reader.read_signed(index)?])
}

/// A pose that arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReceivedPose {
    /// When it was, in sixtieths of a second, modulo 65,536. May be older than one that arrived before.
    pub slot: u16,
    /// How much hangs on it.
    pub layer: Layer,
    /// The pose.
    pub pose: BodyPose,
}

/// The receiver's side.
#[derive(Debug, Clone)]
pub struct PoseDecoder {
    history: History,
    newest: u16,
    heard: Option<Duration>,
}

impl Default for PoseDecoder {
    fn default() -> Self {
        PoseDecoder { history: History::new(), newest: 0, heard: None }
    }
}

impl PoseDecoder {
    /// Reads one pose that arrived at time `now` (of any clock that does not run back).
    ///
    /// # Errors
    /// When the bytes are no pose, or one that it refers to is missing; the decoder is then as it was.
    pub fn decode(&mut self, now: Duration, bytes: &[u8]) -> Result<ReceivedPose, PoseError> {
        if bytes.len() > POSE_BYTES_MAX {
            let (found, limit) = (bytes.len() as u64, POSE_BYTES_MAX as u64);
            return Err(DecodeError::TooLarge { what: "length", found, limit }.into());
        }
        let remembers = self.heard.is_some_and(|heard| now.saturating_sub(heard) < SILENCE);
        let mut reader = BitReader::new(bytes);
        let layer = read_layer(&mut reader)?;
        let entry =
            if layer == Layer::Key { read_key(&mut reader)? } else { self.read_change(&mut reader, layer, remembers)? };
        reader.finish()?;
        let away = entry.slot.wrapping_sub(self.newest) as i16;
        if layer == Layer::Key && (!remembers || away.unsigned_abs() > RESTART_SLOTS) {
            self.history = History::new();
            self.newest = entry.slot;
        } else if away > 0 {
            self.newest = entry.slot;
        }
        // One that is so late that nothing can refer to it must not push out one that is needed.
        if self.newest.wrapping_sub(entry.slot) < REMEMBERED as u16 {
            self.history.keep(entry);
        }
        self.heard = Some(now);
        Ok(ReceivedPose { slot: entry.slot, layer, pose: entry.pose })
    }

    fn read_change(&self, reader: &mut BitReader<'_>, layer: Layer, remembers: bool) -> Result<Entry, PoseError> {
        // The slot of this short number that is nearest to the newest one.
        let (modulus, half) = (1 << SHORT_BITS, 1 << (SHORT_BITS - 1));
        let short = reader.read(SHORT_BITS)? as u16;
        let ahead = short.wrapping_sub(self.newest).wrapping_add(half) % modulus;
        let slot = self.newest.wrapping_add(ahead).wrapping_sub(half);
        let distance = if reader.read(1)? == 1 { reader.read(DISTANCE_BITS)? as u16 } else { usual_distance(layer) };
        if distance == 0 {
            return Err(DecodeError::Invalid("reference").into());
        }
        let moving = reader.read(1)? == 1;
        let turned = reader.read(1)? == 1;
        let expected = self.history.at(slot.wrapping_sub(distance)).filter(|_| remembers);
        let expected = expected.and_then(|base| self.history.expected(base, distance, moving));
        let Some(expected) = expected else { return Err(PoseError::MissingReference { slot, distance }) };
        let (mut pose, mut parameters) = (expected.pose, expected.parameters);
        for at in (0..PARTS).filter(|at| pose.mask & 1 << at != 0) {
            let position = expected.position(at);
            let [for_place, for_rotation] = &mut parameters[at];
            for (axis, change) in read_three(reader, for_place)?.into_iter().enumerate() {
                pose.parts[at].position[axis] =
                    i16::try_from(position[axis] + change).map_err(|_| DecodeError::Invalid("position"))?;
            }
            let was = expected.pose.parts[at].rotation.largest();
            let is = if turned { reader.read(LEFT_OUT_BITS)? as usize } else { was };
            let rotation = expected.rotation(at, is);
            let change = read_three(reader, for_rotation)?;
            pose.parts[at].rotation = Rotation::from_parts(is, [0, 1, 2].map(|axis| rotation[axis] + change[axis]))?;
        }
        Ok(Entry { slot, distance, pose, parameters })
    }
}

fn read_key(reader: &mut BitReader<'_>) -> Result<Entry, DecodeError> {
    let slot = reader.read(SLOT_BITS)? as u16;
    let usual = reader.read(1)? == 0;
    let mask = if usual { HEAD_AND_HANDS } else { (reader.read(PARTS as u32 - 1)? << 1 | 1) as u16 };
    let mut pose = BodyPose { mask, parts: [Tracked::default(); PARTS] };
    let mut head = [0; 3];
    for at in (0..PARTS).filter(|at| mask & 1 << at != 0) {
        let bits = if at == 0 { HEAD_BITS } else { PART_BITS };
        for (axis, origin) in head.iter_mut().enumerate() {
            let place = reader.read(bits)? as i32 - (1 << (bits - 1)) + *origin;
            pose.parts[at].position[axis] = place as i16;
            if at == 0 {
                *origin = place;
            }
        }
        let largest = reader.read(LEFT_OUT_BITS)? as usize;
        let mut parts = [0; 3];
        for part in &mut parts {
            *part = reader.read(ROTATION_BITS)? as i32 - (1 << (ROTATION_BITS - 1));
        }
        pose.parts[at].rotation = Rotation::from_parts(largest, parts)?;
    }
    Ok(Entry { slot, distance: 0, pose, parameters: PARAMETERS_EXPECTED })
}
