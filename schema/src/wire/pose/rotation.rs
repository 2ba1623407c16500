//! A rotation as three small whole numbers.

use crate::codec::DecodeError;

/// What 1 is in a rotation's parts. With it the angle is right to 0.243° in the worst case.
pub const ROTATION_ONE: i32 = 820;
/// No part but the left-out one is larger than √½.
pub(in crate::wire) const PART_MAX: i32 = 580;
/// The left-out part is at least ½, but for rounding.
pub(in crate::wire) const LEFT_OUT_MIN: i32 = 406;

/// A unit quaternion (x, y, z, w) of which the largest part is left out: it follows from the others, and its sign is made positive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rotation {
    largest: u8,
    parts: [i16; 3],
}

impl Default for Rotation {
    /// Not turned.
    fn default() -> Self {
        Rotation { largest: 3, parts: [0; 3] }
    }
}

impl Rotation {
    /// From a quaternion (x, y, z, w) of any length. `None` when a number is not finite or all are nearly zero.
    pub fn from_real(quaternion: [f64; 4]) -> Option<Self> {
        let length = quaternion.iter().map(|part| part * part).sum::<f64>().sqrt();
        if !length.is_finite() || length < 1e-6 {
            return None;
        }
        let mut largest = 0;
        for part in 1..4 {
            if quaternion[part].abs() > quaternion[largest].abs() {
                largest = part;
            }
        }
        let scale = f64::from(ROTATION_ONE) / length * quaternion[largest].signum();
        let quantised = others(quaternion, largest).map(|part| (part * scale).round() as i16);
        Some(Rotation { largest: largest as u8, parts: quantised })
    }

    /// As a unit quaternion (x, y, z, w).
    pub fn to_real(self) -> [f64; 4] {
        let parts = self.parts.map(|part| f64::from(part) / f64::from(ROTATION_ONE));
        let left_out = (1.0 - parts.iter().map(|part| part * part).sum::<f64>()).max(0.0).sqrt();
        insert(parts, usize::from(self.largest), left_out)
    }

    /// Which part of (x, y, z, w) is left out.
    pub fn largest(self) -> usize {
        usize::from(self.largest)
    }

    /// The other three, in units of 1 ÷ [`ROTATION_ONE`].
    pub fn parts(self) -> [i16; 3] {
        self.parts
    }

    /// From parts that come from outside.
    ///
    /// # Errors
    /// When the left-out part would not be the largest.
    pub fn from_parts(largest: usize, parts: [i32; 3]) -> Result<Self, DecodeError> {
        let wrong = DecodeError::Invalid("rotation");
        if largest > 3 || parts.iter().any(|part| part.abs() > PART_MAX) {
            return Err(wrong);
        }
        let rest = ROTATION_ONE * ROTATION_ONE - parts.iter().map(|part| part * part).sum::<i32>();
        if rest < LEFT_OUT_MIN * LEFT_OUT_MIN {
            return Err(wrong);
        }
        Ok(Rotation { largest: largest as u8, parts: parts.map(|part| part as i16) })
    }

    /// All four parts; the left-out one rounded down.
    pub(in crate::wire) fn whole(self) -> [i32; 4] {
        let parts = self.parts.map(i32::from);
        let rest = ROTATION_ONE * ROTATION_ONE - parts.iter().map(|part| part * part).sum::<i32>();
        insert(parts, self.largest(), (rest.max(0) as u32).isqrt() as i32)
    }

    /// The angle between two rotations, degrees.
    pub fn angle_to(self, real: [f64; 4]) -> f64 {
        let own = self.to_real();
        let length = |q: [f64; 4]| q.iter().map(|part| part * part).sum::<f64>().sqrt();
        let (own_length, length) = (length(own), length(real));
        // By the chord: the cosine loses small angles. Both signs of a quaternion are the same rotation.
        let chord = |sign: f64| {
            let parts = own.iter().zip(real).map(|(a, b)| (a / own_length - sign * b / length).powi(2));
            parts.sum::<f64>().sqrt()
        };
        (chord(1.0).min(chord(-1.0)) / 2.0).min(1.0).asin().to_degrees() * 4.0
    }
}

/// The parts but the one at `place`.
pub(in crate::wire) fn others<T: Copy>(parts: [T; 4], place: usize) -> [T; 3] {
    match place {
        0 => [parts[1], parts[2], parts[3]],
        1 => [parts[0], parts[2], parts[3]],
        2 => [parts[0], parts[1], parts[3]],
        _ => [parts[0], parts[1], parts[2]],
    }
}

fn insert<T: Copy>(parts: [T; 3], place: usize, part: T) -> [T; 4] {
    let [a, b, c] = parts;
    match place {
        0 => [part, a, b, c],
        1 => [a, part, b, c],
        2 => [a, b, part, c],
        _ => [a, b, c, part],
    }
}
