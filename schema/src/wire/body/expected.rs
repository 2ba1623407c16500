//! Where a body would be by now, had it gone on as it went: whole numbers only, none beyond 53 bits, so that every language
//! computes the same.

use super::{Body, COORDINATE_BITS, HEIGHT_BITS, others};
use crate::wire::pose::ROTATION_ONE;

/// A body is expected to go on for so long after the base, by what it did in so long before it, ticks. Beyond that it is
/// expected to stay.
pub const EXPECT_TICKS_MAX: u32 = 16;

/// A state that the client is known to have, and what it was told against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Baseline {
    /// The state.
    pub state: Body,
    /// `None` when it was told whole.
    pub before: Option<Before>,
}

/// The state that a [`Baseline`]'s was told against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Before {
    /// The state.
    pub state: Body,
    /// How long before, 1 to [`BASE_AGE_MAX`](super::BASE_AGE_MAX).
    pub ticks: u32,
}

/// Where a body is expected, and how turned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expected {
    pub(super) place: [i32; 3],
    /// All four parts, in units of 1 ÷ [`ROTATION_ONE`].
    turn: [i32; 4],
}

impl Baseline {
    /// A state that was told whole.
    pub fn whole(state: Body) -> Self {
        Baseline { state, before: None }
    }

    /// Where it is expected `age` ticks later.
    pub fn expected(&self, age: u32) -> Expected {
        let turn = self.state.rotation.whole();
        let near = |ticks: u32| (1..=EXPECT_TICKS_MAX).contains(&ticks);
        match self.before {
            Some(before) if !self.state.at_rest && near(age) && near(before.ticks) => {
                let (age, ticks) = (i64::from(age), i64::from(before.ticks));
                Expected {
                    place: onward(self.state.place, before.state.place, age, ticks),
                    turn: turned(turn, before.state.rotation.whole(), age, ticks),
                }
            }
            _ => Expected { place: self.state.place, turn },
        }
    }
}

/// In a straight line at the same speed, not out of the world.
fn onward(at: [i32; 3], before: [i32; 3], age: i64, ticks: i64) -> [i32; 3] {
    let axis = |axis: usize, bits: u32| {
        let (at, before) = (i64::from(at[axis]), i64::from(before[axis]));
        let most = (1 << (bits - 1)) - 1;
        (at + rounded((at - before) * age, ticks)).clamp(-most, most) as i32
    };
    [axis(0, COORDINATE_BITS), axis(1, HEIGHT_BITS), axis(2, COORDINATE_BITS)]
}

/// About the same axis at the same speed: `at · sin((age + ticks)·ω) ÷ sin(ticks·ω) − before · sin(age·ω) ÷ sin(ticks·ω)`, where
/// `ticks·ω` is the angle between the two quaternions (K. Shoemake, Animating rotation with quaternion curves, 1985). By whole numbers:
/// `sin(nω) ÷ sin(ω)` is `n − n(n² − 1) ÷ 3 · (1 − cos(ω))` and smaller terms, and exactly so for n = 1 and 2.
fn turned(at: [i32; 4], before: [i32; 4], age: i64, ticks: i64) -> [i32; 4] {
    let (at, mut before) = (at.map(i64::from), before.map(i64::from));
    let one = i64::from(ROTATION_ONE) * i64::from(ROTATION_ONE);
    let mut cosine: i64 = at.iter().zip(before).map(|(a, b)| a * b).sum();
    // Of a quaternion's two signs the nearer one.
    if cosine < 0 {
        cosine = -cosine;
        before = before.map(|part| -part);
    }
    let versine = (one - cosine).max(0);
    let both = age + ticks;
    let share = |n: i64| 3 * ticks * ticks * n * one - n * (n * n - ticks * ticks) * versine;
    let (of_at, of_before) = (share(both), share(age));
    let whole = 3 * ticks * ticks * ticks * one;
    [0, 1, 2, 3].map(|part| rounded(of_at * at[part] - of_before * before[part], whole) as i32)
}

/// The nearest whole number to `numerator ÷ denominator`, halves away from zero.
fn rounded(numerator: i64, denominator: i64) -> i64 {
    (2 * numerator.abs() + denominator) / (2 * denominator) * numerator.signum()
}

impl Expected {
    /// East, up and south, in quanta of [`QUANTUM_MM`](super::QUANTUM_MM): where a client shows a body of which it heard nothing newer.
    pub fn place(&self) -> [i32; 3] {
        self.place
    }

    /// A quaternion (x, y, z, w) of about unit length.
    pub fn turn(&self) -> [f64; 4] {
        self.turn.map(|part| f64::from(part) / f64::from(ROTATION_ONE))
    }

    /// The part that is left out: the largest by amount, of equals the first.
    pub(super) fn largest(&self) -> usize {
        let mut largest = 0;
        for part in 1..4 {
            if self.turn[part].abs() > self.turn[largest].abs() {
                largest = part;
            }
        }
        largest
    }

    /// The other three, of the two signs that which makes the largest positive.
    pub(super) fn parts(&self) -> [i32; 3] {
        let largest = self.largest();
        let sign = if self.turn[largest] < 0 { -1 } else { 1 };
        others(self.turn, largest).map(|part| sign * part)
    }
}
