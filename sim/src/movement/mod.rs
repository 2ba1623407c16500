//! Walking on the land.
//!
//! Writes [`Pose`]. Invariants: a walker's height is the ground's; nobody leaves the world; nobody climbs what is too
//! steep; the whole step is integer arithmetic, so that a client can predict it exactly.

#[cfg(test)]
mod tests;
#[cfg(test)]
mod vectors;

use crate::schedule::{Tick, TickSet};
use crate::space::{Pose, Present};
use crate::terrain::Terrain;
use crate::world::{CurrentFrame, GameContent, TickRate};
use bevy_app::App;
use bevy_ecs::prelude::*;
use vsekai_schema::content::{Catalogue, Tuning};
use vsekai_schema::units::Position;
use vsekai_schema::wire::MoveInput;

/// A walker stops when no input came for this long, milliseconds: a lost "stop" must not walk anybody off.
pub const INPUT_LAPSE_MS: u64 = 500;

/// The newest movement input of a player. Never kept.
#[derive(Component, Debug, Clone, Copy, Default)]
pub struct Walk {
    /// The input, once there was one.
    pub input: Option<MoveInput>,
    /// The frame from which on it no longer counts.
    pub lapses_at: u64,
}

/// The limits of the walkable world.
#[derive(Resource, Debug, Clone, Copy)]
pub struct Ground {
    /// The land.
    pub terrain: Terrain,
    /// Half of the world's side, millimetres: both coordinates stay within ± this.
    pub half_mm: i32,
}

impl Ground {
    /// True when the point is inside the world.
    pub fn contains(&self, x: i32, z: i32) -> bool {
        x.unsigned_abs() <= self.half_mm as u32 && z.unsigned_abs() <= self.half_mm as u32
    }

    /// The point on the ground at (`x`, `z`).
    pub fn at(&self, x: i32, z: i32) -> Position {
        Position::new(x, self.terrain.height(x, z), z)
    }
}

/// How somebody walks: the part of the tuning that a step needs, which clients have from the catalogue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gait {
    /// Walking speed, mm/s.
    pub walk_mm_s: i32,
    /// Running speed, mm/s.
    pub sprint_mm_s: i32,
    /// Steepest climb: millimetres up for one metre forward.
    pub climb_mm_per_m: i32,
}

impl From<&Tuning> for Gait {
    fn from(tuning: &Tuning) -> Self {
        let Tuning { walk_mm_s, sprint_mm_s, climb_mm_per_m, .. } = *tuning;
        Gait { walk_mm_s, sprint_mm_s, climb_mm_per_m }
    }
}

impl From<&Catalogue> for Gait {
    fn from(catalogue: &Catalogue) -> Self {
        let Catalogue { walk_mm_s, sprint_mm_s, climb_mm_per_m, .. } = *catalogue;
        Gait { walk_mm_s, sprint_mm_s, climb_mm_per_m }
    }
}

/// Wires walking into the tick.
pub fn plugin(app: &mut App) {
    app.add_systems(Tick, walk.in_set(TickSet::Move));
}

/// Takes a movement input; an older one than the newest is dropped, as datagrams may overtake one another.
pub fn take_input(walk: &mut Walk, input: MoveInput, frame: u64, rate: TickRate) {
    if walk.input.is_some_and(|newest| newest.sequence >= input.sequence) {
        return;
    }
    *walk = Walk { input: Some(input), lapses_at: frame + rate.ticks_of_ms(INPUT_LAPSE_MS) };
}

fn walk(
    ground: Res<'_, Ground>,
    content: Res<'_, GameContent>,
    rate: Res<'_, TickRate>,
    frame: Res<'_, CurrentFrame>,
    mut walkers: Query<'_, '_, (&Walk, &mut Pose), With<Present>>,
) {
    let gait = Gait::from(&content.0.tuning);
    for (walk, mut pose) in &mut walkers {
        let Some(input) = walk.input.filter(|_| walk.lapses_at > frame.0) else { continue };
        let stepped = step(&ground, gait, *rate, *pose, &input);
        pose.set_if_neq(stepped);
    }
}

/// One tick of walking: where `pose` is after it. A pure function; `schema/docs/movement.md` says the same
/// for other languages, and `schema/fixtures/movement_v1.json` has what it gives.
///
/// The direction counts as a vector no longer than 1; the step is `direction × speed ÷ rate`, each axis rounded half away
/// from zero to a millimetre. A step that is too steep or leaves the world is tried along x alone, then along z alone.
pub fn step(ground: &Ground, gait: Gait, rate: TickRate, pose: Pose, input: &MoveInput) -> Pose {
    let turned = Pose { yaw: input.yaw, ..pose };
    let direction = (i64::from(input.direction_x.max(-127)), i64::from(input.direction_z.max(-127)));
    if direction == (0, 0) {
        return turned;
    }
    let length = ((direction.0 * direction.0 + direction.1 * direction.1) as u64).isqrt().max(127) as i64;
    let speed = i64::from(if input.sprint { gait.sprint_mm_s } else { gait.walk_mm_s });
    let along = |part: i64| divide_rounded(part * speed, length * i64::from(rate.0)) as i32;
    let (dx, dz) = (along(direction.0), along(direction.1));
    let Position { x, z, .. } = pose.position;
    for (dx, dz) in [(dx, dz), (dx, 0), (0, dz)] {
        let to = (x.saturating_add(dx), z.saturating_add(dz));
        let moves = to != (x, z);
        if moves && ground.contains(to.0, to.1) && ground.terrain.can_climb((x, z), to, gait.climb_mm_per_m) {
            return Pose { position: ground.at(to.0, to.1), ..turned };
        }
    }
    turned
}

fn divide_rounded(numerator: i64, denominator: i64) -> i64 {
    (numerator.abs() * 2 + denominator) / (denominator * 2) * numerator.signum()
}
