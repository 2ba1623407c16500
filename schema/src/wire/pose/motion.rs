//! Synthetic movement of a head and two hands, for tests, benchmarks and bots: sums of a few sines with seeded frequencies, so
//! that every joint is band-limited as a body is, with the tremble of hands and trackers on top.

use super::{BodyPose, Part, Tracked};
use std::f64::consts::TAU;

/// What the player is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activity {
    /// Stands and listens; hands hang.
    Idle,
    /// Talks with the hands: they go at 0.3 m/s.
    Talk,
    /// Builds and crafts: 0.9 m/s, up to two.
    Work,
    /// Swings an axe or a sword: 2.8 m/s, up to seven.
    Swing,
}

impl Activity {
    /// All of them, from the calmest to the wildest.
    pub const ALL: [Activity; 4] = [Activity::Idle, Activity::Talk, Activity::Work, Activity::Swing];
}

/// A sum of sines for one quantity.
#[derive(Debug, Clone)]
struct Wave {
    /// Frequency (Hz), amplitude and phase (turns) of each.
    sines: [(f64, f64, f64); 4],
}

impl Wave {
    fn new(random: &mut Mix, (from_hz, to_hz): (f64, f64), amplitude: f64) -> Self {
        let sines = std::array::from_fn(|number| {
            let hz = from_hz + (to_hz - from_hz) * random.unit();
            // The faster of the four are the smaller ones.
            (hz * (0.6 + 0.25 * number as f64), amplitude * 0.5 / (1.0 + number as f64 * 0.5), random.unit())
        });
        Wave { sines }
    }

    fn at(&self, seconds: f64) -> f64 {
        self.sines.iter().map(|(hz, amplitude, phase)| amplitude * ((seconds * hz + phase) * TAU).sin()).sum()
    }
}

/// SplitMix64 (S. Vigna, 2015): schema has no dependency for randomness.
#[derive(Debug)]
struct Mix(u64);

impl Mix {
    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ z >> 31) >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[derive(Debug, Clone)]
struct Joint {
    rest: [f64; 3],
    place: [Wave; 3],
    /// Yaw, pitch and roll, radians.
    turn: [Wave; 3],
    tremble: [Wave; 6],
}

/// One player's movement.
#[derive(Debug, Clone)]
pub struct Motion {
    /// Head, left and right hand; one set for each activity.
    joints: Vec<[Joint; 3]>,
    activity: Option<Activity>,
}

/// Head and hands as real numbers: metres and quaternion (x, y, z, w) of each.
pub type RealPose = [([f64; 3], [f64; 4]); 3];

impl Motion {
    /// The movement that `seed` gives: of one activity, or of all in turn (`None`: idle 30 %, talking 35 %, working 25 % and swinging
    /// 10 % of the time, six seconds a turn).
    pub fn new(seed: u64, activity: Option<Activity>) -> Self {
        let mut random = Mix(seed);
        let joints = Activity::ALL.map(|kind| joints(&mut random, kind)).to_vec();
        Motion { joints, activity }
    }

    /// Where everything is at a time.
    pub fn at(&self, seconds: f64) -> RealPose {
        // Who does something else does not jump: the last second of a turn goes over into the next.
        let turn = (seconds / 6.0).floor();
        let over = ((seconds - turn * 6.0) - 5.0).clamp(0.0, 1.0);
        let over = over * over * (3.0 - 2.0 * over);
        let (now, next) = (self.activity_in(turn), self.activity_in(turn + 1.0));
        [0, 1, 2].map(|part| {
            let (a, b) = (self.joints[now][part].at(seconds), self.joints[next][part].at(seconds));
            let blend = |a: f64, b: f64| a + (b - a) * over;
            let place = [0, 1, 2].map(|axis| blend(a.0[axis], b.0[axis]));
            let turn = [0, 1, 2].map(|axis| blend(a.1[axis], b.1[axis]));
            (place, quaternion(turn))
        })
    }

    /// The same, quantised. `None` never comes of a motion of this module.
    pub fn pose(&self, seconds: f64) -> Option<BodyPose> {
        let [head, left, right] = self.at(seconds);
        let pose = BodyPose::new(Tracked::from_real(head.0, head.1)?);
        let pose = pose.with(Part::LeftHand, Tracked::from_real(left.0, left.1)?);
        Some(pose.with(Part::RightHand, Tracked::from_real(right.0, right.1)?))
    }

    fn activity_in(&self, turn: f64) -> usize {
        if let Some(activity) = self.activity {
            return activity as usize;
        }
        match Mix((turn as i64 as u64).wrapping_mul(0x2545_f491_4f6c_dd1d) ^ self.joints.len() as u64).unit() {
            u if u < 0.30 => 0,
            u if u < 0.65 => 1,
            u if u < 0.90 => 2,
            _ => 3,
        }
    }
}

impl Joint {
    fn at(&self, seconds: f64) -> ([f64; 3], [f64; 3]) {
        let tremble = |number: usize| self.tremble[number].at(seconds);
        let place = [0, 1, 2].map(|axis| self.rest[axis] + self.place[axis].at(seconds) + tremble(axis));
        let turn = [0, 1, 2].map(|axis| self.turn[axis].at(seconds) + tremble(3 + axis));
        (place, turn)
    }
}

fn joints(random: &mut Mix, activity: Activity) -> [Joint; 3] {
    // (band in Hz, metres, radians) of the head, then of the hands.
    let ((head_hz, head_m, head_rad), (hand_hz, hand_m, hand_rad)) = match activity {
        Activity::Idle => (((0.1, 0.4), 0.02, 0.15), ((0.1, 0.4), 0.03, 0.10)),
        Activity::Talk => (((0.2, 0.8), 0.04, 0.30), ((0.4, 1.2), 0.10, 0.35)),
        Activity::Work => (((0.2, 0.9), 0.10, 0.45), ((0.5, 1.6), 0.22, 0.60)),
        Activity::Swing => (((0.4, 1.2), 0.12, 0.40), ((1.2, 1.9), 0.50, 1.10)),
    };
    let mut joint = |rest, band: (f64, f64), metres: f64, radians: f64| Joint {
        rest,
        place: [1.0, 0.6, 1.0].map(|part| Wave::new(random, band, metres * part)),
        turn: [1.0, 0.6, 0.3].map(|part| Wave::new(random, band, radians * part)),
        tremble: [0.000_3, 0.000_3, 0.000_3, 0.000_6, 0.000_6, 0.000_6].map(|part| Wave::new(random, (6.0, 9.0), part)),
    };
    [
        joint([0.0, 1.65, 0.0], head_hz, head_m, head_rad),
        joint([-0.25, 1.1, -0.3], hand_hz, hand_m, hand_rad),
        joint([0.25, 1.1, -0.3], hand_hz, hand_m, hand_rad),
    ]
}

/// Yaw about y, then pitch about x, then roll about z.
fn quaternion([yaw, pitch, roll]: [f64; 3]) -> [f64; 4] {
    let half = |angle: f64| ((angle / 2.0).sin(), (angle / 2.0).cos());
    let ((sy, cy), (sx, cx), (sz, cz)) = (half(yaw), half(pitch), half(roll));
    [cy * sx * cz + sy * cx * sz, sy * cx * cz - cy * sx * sz, cy * cx * sz - sy * sx * cz, cy * cx * cz + sy * sx * sz]
}
