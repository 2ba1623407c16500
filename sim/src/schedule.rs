//! The tick, as one list: every system of the game is in one of these sets, and they run in this order.

use bevy_app::App;
use bevy_ecs::prelude::*;
use bevy_ecs::schedule::{LogLevel, ScheduleBuildSettings, ScheduleLabel, SingleThreadedExecutor};

/// The one schedule of the simulation; run once per tick.
#[derive(ScheduleLabel, Debug, Clone, PartialEq, Eq, Hash)]
pub struct Tick;

/// The sets of a tick, in running order.
#[derive(SystemSet, Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TickSet {
    /// World inputs: players join and leave, ids are granted; movement inputs reach their players.
    Admit,
    /// Players walk.
    Move,
    /// Commands are executed, one after the other, in the order in which they arrived.
    Act,
    /// What goes on by itself: nodes regrow, and whatever later features add.
    Live,
    /// Indexes catch up with what happened.
    Index,
    /// The ledger is written back.
    Account,
    /// The changes become the frame record and the state hash. Nothing may change state after this.
    Record,
}

/// Adds the schedule. System-order ambiguity is an error: two systems that could run in either order and touch the same
/// data would make the result depend on chance.
pub fn plugin(app: &mut App) {
    app.add_schedule(Schedule::new(Tick));
    app.edit_schedule(Tick, |schedule| {
        // A tick is a few hundred microseconds of small systems: handing them to other threads costs more than it gives,
        // and one order is easier to reason about. Parallelism is inside systems, where it pays.
        schedule.set_executor(SingleThreadedExecutor::new());
        schedule.set_build_settings(ScheduleBuildSettings {
            ambiguity_detection: LogLevel::Error,
            hierarchy_detection: LogLevel::Error,
            ..ScheduleBuildSettings::new()
        });
        schedule.configure_sets(
            (
                TickSet::Admit,
                TickSet::Move,
                TickSet::Act,
                TickSet::Live,
                TickSet::Index,
                TickSet::Account,
                TickSet::Record,
            )
                .chain(),
        );
    });
}
