//! Where the catalogue of a build comes from, and what it must keep to before anything is done with it.

use crate::catalogue;
use crate::error::{Exit, TaskError, shown};
use crate::release::Catalogue;
use crate::whole;
use std::path::PathBuf;

/// Says what a repository offers for one build.
pub trait Offers: Send + Sync {
    /// The catalogue, checked and as new as can be had.
    ///
    /// # Errors
    /// When it cannot be had, is refused, or is not one.
    fn catalogue(&self) -> Result<Catalogue, TaskError>;
}

/// The catalogue of a folder on this machine, taken as it is: nothing proves who wrote it. For trials, and for folders that only their owner
/// can write.
#[derive(Debug, Clone)]
pub struct Unsigned {
    /// The repository.
    pub folder: PathBuf,
    /// Which build.
    pub client_id: String,
}

impl Offers for Unsigned {
    fn catalogue(&self) -> Result<Catalogue, TaskError> {
        if !catalogue::is_client_id(&self.client_id) {
            return Err(TaskError::new(
                Exit::Usage,
                format!("client id {:?}: must be 1 to 64 of a-z 0-9 -", self.client_id),
            ));
        }
        let file = self.folder.join("catalogue").join(format!("{}.json", self.client_id));
        let bytes = whole::read(&file, catalogue::BYTES_MAX)?.ok_or_else(|| {
            let what = format!(
                "{}: no such catalogue; is {} a repository that has this build?",
                shown(&file),
                shown(&self.folder)
            );
            TaskError::new(Exit::NotFound, what)
        })?;
        catalogue::parse(&bytes).map_err(|why| TaskError::new(Exit::Damaged, format!("{}: {why}", shown(&file))))
    }
}
