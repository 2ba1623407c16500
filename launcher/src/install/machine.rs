//! The update state machine of the design document, as one pure type: states, what moves them, and nothing else.
//!
//! ```text
//! Idle ─ Triggered → Checking ─ NothingNew → NoUpdateFound ─ Done → Idle
//!                             └ Found → UpdateAvailable ─ Started → Preparing ─ Prepared → Downloading
//!          ─ Downloaded → Applying ─ Applied → Finalizing ─ Finalized → Successful ─ Done → Idle
//! any but Idle ─ Failed → Failed(there) ─ Done → Idle
//! ```

use serde::{Deserialize, Serialize};
use std::fmt;

/// Where an update is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Waiting for somebody to ask.
    Idle,
    /// Asking the repository.
    Checking,
    /// The installed version is the offered one.
    NoUpdateFound,
    /// Another version is offered.
    UpdateAvailable,
    /// Getting the manifest, counting what is missing, making room, taking what the installed version has.
    Preparing,
    /// Getting the rest.
    Downloading,
    /// Linking what did not change.
    Applying,
    /// To the disk, and the pointer to the new version.
    Finalizing,
    /// The new version is the current one.
    Successful,
    /// What failed: the installed version is as it was.
    Failed(Step),
}

/// The states that can fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// See [`State::Checking`].
    Checking,
    /// See [`State::UpdateAvailable`].
    UpdateAvailable,
    /// See [`State::Preparing`].
    Preparing,
    /// See [`State::Downloading`].
    Downloading,
    /// See [`State::Applying`].
    Applying,
    /// See [`State::Finalizing`].
    Finalizing,
}

/// What moves the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Somebody asks for an update, a check or a repair.
    Triggered,
    /// The offered version is installed.
    NothingNew,
    /// It is not.
    Found,
    /// It is to be installed.
    Started,
    /// Known what is missing, room made.
    Prepared,
    /// Nothing is missing any more.
    Downloaded,
    /// The new version stands beside the old one.
    Applied,
    /// It is the current one.
    Finalized,
    /// The step failed.
    Failed,
    /// The end was told to who asked.
    Done,
}

/// The event cannot happen in the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{event:?} cannot happen in {state}")]
pub struct Impossible {
    /// Where.
    pub state: State,
    /// What.
    pub event: Event,
}

impl State {
    /// The state after an event.
    ///
    /// # Errors
    /// When the event cannot happen here; that is a fault of the program.
    pub fn after(self, event: Event) -> Result<Self, Impossible> {
        Ok(match (self, event) {
            (Self::Idle, Event::Triggered) => Self::Checking,
            (Self::Checking, Event::NothingNew) => Self::NoUpdateFound,
            (Self::Checking, Event::Found) => Self::UpdateAvailable,
            (Self::UpdateAvailable, Event::Started) => Self::Preparing,
            (Self::Preparing, Event::Prepared) => Self::Downloading,
            (Self::Downloading, Event::Downloaded) => Self::Applying,
            (Self::Applying, Event::Applied) => Self::Finalizing,
            (Self::Finalizing, Event::Finalized) => Self::Successful,
            // Who only asked is done when the answer is known.
            (Self::NoUpdateFound | Self::UpdateAvailable | Self::Successful | Self::Failed(_), Event::Done) => {
                Self::Idle
            }
            (Self::Checking, Event::Failed) => Self::Failed(Step::Checking),
            (Self::UpdateAvailable, Event::Failed) => Self::Failed(Step::UpdateAvailable),
            (Self::Preparing, Event::Failed) => Self::Failed(Step::Preparing),
            (Self::Downloading, Event::Failed) => Self::Failed(Step::Downloading),
            (Self::Applying, Event::Failed) => Self::Failed(Step::Applying),
            (Self::Finalizing, Event::Failed) => Self::Failed(Step::Finalizing),
            (state, event) => return Err(Impossible { state, event }),
        })
    }

    /// Whether something is being done.
    pub fn is_at_work(self) -> bool {
        matches!(self, Self::Checking | Self::Preparing | Self::Downloading | Self::Applying | Self::Finalizing)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(step) => write!(f, "failed while {step:?}"),
            other => write!(f, "{other:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const EVENTS: [Event; 10] = [
        Event::Triggered,
        Event::NothingNew,
        Event::Found,
        Event::Started,
        Event::Prepared,
        Event::Downloaded,
        Event::Applied,
        Event::Finalized,
        Event::Failed,
        Event::Done,
    ];

    fn walk(events: &[Event]) -> Result<State, Impossible> {
        events.iter().try_fold(State::Idle, |state, &event| state.after(event))
    }

    #[test]
    fn an_update_goes_through_every_state_of_the_design() {
        use State::*;
        let mut state = Idle;
        let mut seen = vec![state];
        for event in [
            Event::Triggered,
            Event::Found,
            Event::Started,
            Event::Prepared,
            Event::Downloaded,
            Event::Applied,
            Event::Finalized,
            Event::Done,
        ] {
            state = state.after(event).expect("the way of an update");
            seen.push(state);
        }
        assert_eq!(
            seen,
            [Idle, Checking, UpdateAvailable, Preparing, Downloading, Applying, Finalizing, Successful, Idle]
        );
        assert_eq!(walk(&[Event::Triggered, Event::NothingNew]), Ok(NoUpdateFound));
        assert_eq!(walk(&[Event::Triggered, Event::NothingNew, Event::Done]), Ok(Idle));
        assert_eq!(Idle.after(Event::Found), Err(Impossible { state: Idle, event: Event::Found }));
    }

    #[test]
    fn every_state_at_work_has_an_exit_by_failure_that_names_it() {
        let way = [Event::Triggered, Event::Found, Event::Started, Event::Prepared, Event::Downloaded, Event::Applied];
        for count in 1..=way.len() {
            let state = walk(&way[..count]).expect("possible");
            let failed = state.after(Event::Failed).expect("may fail");
            assert_eq!(failed.to_string(), format!("failed while {state}"));
            assert_eq!(failed.after(Event::Done), Ok(State::Idle));
        }
    }

    proptest! {
        /// Whatever happens, success is reached only through every step of an update, in order, without a failure in between.
        #[test]
        fn success_has_one_way(picks in prop::collection::vec(0usize..EVENTS.len(), 0..400)) {
            let way = [Event::Found, Event::Started, Event::Prepared, Event::Downloaded, Event::Applied, Event::Finalized];
            let (mut state, mut since) = (State::Idle, vec![]);
            for pick in picks {
                // Possible events are drawn among those that are possible, so that walks are long.
                let possible: Vec<Event> = EVENTS.into_iter().filter(|&event| state.after(event).is_ok()).collect();
                prop_assert!(!possible.is_empty(), "{} has no way out", state);
                let event = possible[pick % possible.len()];
                state = state.after(event).expect("possible");
                if event == Event::Triggered { since.clear() } else { since.push(event) }
                prop_assert_eq!(state == State::Successful, since == way);
                prop_assert_eq!(state == State::Idle, event == Event::Done);
            }
        }
    }
}
