//! From what the parts failed with to the one line and the exit code of a task.

use super::assemble::AssembleError;
use super::pipeline::PipelineError;
use super::stream::StreamError;
use crate::caibx::IndexError;
use crate::castr::StoreError;
use crate::error::{Exit, TaskError};
use std::io;

/// The exit code of a failure to write.
fn unwritable(error: &io::Error) -> Exit {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Exit::NoSpace,
        _ => Exit::Unwritable,
    }
}

pub fn store(what: &str, error: StoreError) -> TaskError {
    let exit = match &error {
        StoreError::Missing { .. } | StoreError::Damaged { .. } => Exit::Damaged,
        StoreError::Read { .. } => Exit::Unreadable,
        StoreError::Write { source, .. } => unwritable(source),
        StoreError::Network { .. } => Exit::Network,
        StoreError::Denied { .. } => Exit::Denied,
    };
    TaskError::because(exit, what, error)
}

pub fn index(what: &str, error: IndexError) -> TaskError {
    let exit = match &error {
        IndexError::Unsound { .. } => Exit::Damaged,
        IndexError::Read { .. } => Exit::Unreadable,
    };
    TaskError::because(exit, what, error)
}

pub fn stream(what: &str, error: StreamError) -> TaskError {
    match error {
        StreamError::Store(error) => store(what, error),
        StreamError::Index(error) => index(what, error),
        error @ StreamError::Unpack(_) => TaskError::because(Exit::Failed, what, error),
    }
}

pub fn assemble(what: &str, error: AssembleError) -> TaskError {
    match error {
        AssembleError::Chunk(error) => stream(what, error),
        AssembleError::Write(source) => TaskError::because(unwritable(&source), what, AssembleError::Write(source)),
    }
}

pub fn pipeline(what: &str, error: PipelineError) -> TaskError {
    let exit = match &error {
        PipelineError::Store(_) => {
            let PipelineError::Store(error) = error else { unreachable!("just seen") };
            return store(what, error);
        }
        PipelineError::Pack(_) => Exit::Failed,
        PipelineError::Index(source) => unwritable(source),
        PipelineError::Input(_) => Exit::Unreadable,
    };
    TaskError::because(exit, what, error)
}
