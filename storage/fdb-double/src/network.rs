//! What must be called once, in order: the API version selected, the network set up, run and stopped.

use crate::error::{
    API_VERSION_ALREADY_SET, API_VERSION_INVALID, API_VERSION_NOT_SUPPORTED, API_VERSION_UNSET, NETWORK_ALREADY_SETUP,
    NETWORK_CANNOT_BE_RESTARTED, NETWORK_NOT_SETUP,
};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// The version of the API that the double plays.
pub(crate) const API_VERSION: i32 = 740;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Unselected,
    Selected,
    SetUp,
    Running,
    Stopped,
}

static STAGE: Mutex<Stage> = Mutex::new(Stage::Unselected);
static STOPPED: Condvar = Condvar::new();

fn stage() -> MutexGuard<'static, Stage> {
    STAGE.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn select(runtime: i32, header: i32) -> Result<(), i32> {
    let mut stage = stage();
    if *stage != Stage::Unselected {
        return Err(API_VERSION_ALREADY_SET);
    }
    if runtime > header || runtime < 13 {
        return Err(API_VERSION_INVALID);
    }
    if header > API_VERSION {
        return Err(API_VERSION_NOT_SUPPORTED);
    }
    *stage = Stage::Selected;
    Ok(())
}

pub(crate) fn set_up() -> Result<(), i32> {
    let mut stage = stage();
    match *stage {
        Stage::Unselected => Err(API_VERSION_UNSET),
        Stage::Selected => {
            *stage = Stage::SetUp;
            Ok(())
        }
        Stage::SetUp | Stage::Running => Err(NETWORK_ALREADY_SETUP),
        Stage::Stopped => Err(NETWORK_CANNOT_BE_RESTARTED),
    }
}

/// Blocks until it is stopped.
pub(crate) fn run() -> Result<(), i32> {
    let mut stage = stage();
    match *stage {
        Stage::Unselected => return Err(API_VERSION_UNSET),
        Stage::Selected => return Err(NETWORK_NOT_SETUP),
        Stage::Running => return Err(NETWORK_ALREADY_SETUP),
        // It may be stopped before its thread has come so far.
        Stage::Stopped => return Ok(()),
        Stage::SetUp => *stage = Stage::Running,
    }
    drop(STOPPED.wait_while(stage, |stage| *stage != Stage::Stopped).unwrap_or_else(PoisonError::into_inner));
    Ok(())
}

pub(crate) fn stop() -> Result<(), i32> {
    let mut stage = stage();
    match *stage {
        Stage::Unselected => return Err(API_VERSION_UNSET),
        Stage::Selected => return Err(NETWORK_NOT_SETUP),
        Stage::SetUp | Stage::Running | Stage::Stopped => *stage = Stage::Stopped,
    }
    STOPPED.notify_all();
    Ok(())
}

/// Refuses what needs the network before it is set up.
pub(crate) fn check() -> Result<(), i32> {
    match *stage() {
        Stage::Unselected => Err(API_VERSION_UNSET),
        Stage::Selected => Err(NETWORK_NOT_SETUP),
        Stage::SetUp | Stage::Running | Stage::Stopped => Ok(()),
    }
}
