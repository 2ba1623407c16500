//! The own player, ahead of the shard.
//!
//! Each input moves the own player at once, and is kept. A snapshot says where the player was after input N: when that is where the
//! client had it, all is well; when not, the player is put there and the inputs after N are walked again. What the eye sees
//! glides from the wrong place to the right one. (Y. Bernier, Latency Compensating Methods in Client/Server In-game Protocol
//! Design, 2001; G. Gambetta, Client-Side Prediction and Server Reconciliation.)

use std::collections::VecDeque;
use vsekai_schema::units::Position;
use vsekai_schema::wire::MoveInput;
use vsekai_sim::port::{Gait, Ground, Pose, TickRate, step};

/// Inputs that are kept: at 60 a second about two seconds' worth of round trip.
pub const HISTORY_MAX: usize = 128;
/// An error beyond this is not glided over: the player was moved.
const SNAP_MM: i32 = 2_000;
/// What is left of the shown error after each tick: three quarters.
const GLIDE_PARTS: i32 = 4;

/// What a snapshot meant for the prediction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reconciled {
    /// The shard had it where the client had it.
    Agreed,
    /// It had not: the player was put right, by this much after all inputs were walked again.
    Corrected {
        /// Distance between where the client had it and where it is now, millimetres.
        error_mm: i32,
    },
    /// Older than one that was taken already.
    Stale,
}

/// Counts for the network panel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PredictionCounts {
    /// Snapshots that were compared.
    pub compared: u64,
    /// Those that the client had otherwise.
    pub corrected: u64,
    /// Sum of the corrections, millimetres.
    pub error_sum_mm: u64,
    /// The largest of them.
    pub error_max_mm: i32,
}

/// The own player as the client has it.
#[derive(Debug, Clone)]
pub struct Predictor {
    ground: Ground,
    gait: Gait,
    rate: TickRate,
    pose: Pose,
    /// The inputs that the shard has not confirmed, with the pose after each.
    history: VecDeque<(MoveInput, Pose)>,
    /// The newest input that a snapshot confirmed.
    confirmed: Option<u32>,
    /// What is shown beside `pose`, millimetres.
    glide: [i32; 3],
    counts: PredictionCounts,
}

impl Predictor {
    /// The player stands at `pose`.
    pub fn new(ground: Ground, gait: Gait, rate: TickRate, pose: Pose) -> Self {
        Predictor {
            ground,
            gait,
            rate,
            pose,
            history: VecDeque::new(),
            confirmed: None,
            glide: [0; 3],
            counts: PredictionCounts::default(),
        }
    }

    /// One tick: the player moves by this input, whose number is larger than the one before.
    pub fn advance(&mut self, input: MoveInput) -> Pose {
        self.pose = step(&self.ground, self.gait, self.rate, self.pose, &input);
        if self.history.len() == HISTORY_MAX {
            self.history.pop_front();
        }
        self.history.push_back((input, self.pose));
        // Towards zero, and always there in the end.
        self.glide = self.glide.map(|error| error * (GLIDE_PARTS - 1) / GLIDE_PARTS);
        self.pose
    }

    /// A snapshot has the player at `pose` after input `taken`.
    pub fn reconcile(&mut self, taken: u32, pose: Pose) -> Reconciled {
        if self.confirmed.is_some_and(|confirmed| (taken.wrapping_sub(confirmed) as i32) <= 0) {
            return Reconciled::Stale;
        }
        self.confirmed = Some(taken);
        let mut known = None;
        while let Some((input, after)) = self.history.front()
            && (input.sequence.wrapping_sub(taken) as i32) <= 0
        {
            known = (input.sequence == taken).then_some(*after);
            self.history.pop_front();
        }
        self.counts.compared += 1;
        if known == Some(pose) {
            return Reconciled::Agreed;
        }
        let before = self.pose;
        self.pose = pose;
        for (input, after) in &mut self.history {
            self.pose = step(&self.ground, self.gait, self.rate, self.pose, input);
            *after = self.pose;
        }
        let (from, to) = (before.position, self.pose.position);
        let error = [from.x.saturating_sub(to.x), from.y.saturating_sub(to.y), from.z.saturating_sub(to.z)];
        let squares = error.iter().map(|part| i128::from(*part) * i128::from(*part)).sum::<i128>();
        let error_mm = squares.isqrt().min(i128::from(i32::MAX)) as i32;
        let glide = [0, 1, 2].map(|axis| self.glide[axis].saturating_add(error[axis]));
        self.glide = if error_mm > SNAP_MM || glide.iter().any(|part| part.abs() > SNAP_MM) { [0; 3] } else { glide };
        self.counts.corrected += 1;
        self.counts.error_sum_mm += u64::from(error_mm.unsigned_abs());
        self.counts.error_max_mm = self.counts.error_max_mm.max(error_mm);
        Reconciled::Corrected { error_mm }
    }

    /// Where the player is, by all inputs so far.
    pub fn pose(&self) -> Pose {
        self.pose
    }

    /// Where to draw the player.
    pub fn shown(&self) -> Position {
        let [x, y, z] = self.glide;
        let Position { x: at_x, y: at_y, z: at_z } = self.pose.position;
        Position::new(at_x.saturating_add(x), at_y.saturating_add(y), at_z.saturating_add(z))
    }

    /// Inputs that the shard has not confirmed.
    pub fn unconfirmed(&self) -> usize {
        self.history.len()
    }

    /// How often the shard disagreed, and by how much.
    pub fn counts(&self) -> PredictionCounts {
        self.counts
    }
}
