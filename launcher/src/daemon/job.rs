//! Jobs: what was ordered, how far it is, and doing it.

use super::mirror::mirror;
use crate::error::{Exit, TaskError, one_line, shown};
use crate::fetch;
use crate::install::{self, Follow, Installation, Links, Look, Progress};
use crate::offers::{Offers, Unsigned};
use crate::settings::{Settings, trust_folder};
use crate::trust::Signed;
use crate::whole;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Most jobs that are remembered; the oldest that are over make room.
const JOBS_MAX: usize = 100;

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// A repository (`http://`, `https://`, a folder), or a plain folder, which is copied.
    pub source: String,
    /// The folder of the installation, or of the copy. Absolute.
    pub destination: PathBuf,
    /// Which build; not needed if the repository is a folder and has only one.
    pub client_id: Option<String>,
    /// The channel that is followed.
    pub channel: String,
    /// The catalogue of a folder is taken as it is.
    pub unsigned: bool,
    /// Bytes a second.
    pub limit_rate: Option<u64>,
    /// Globs of what belongs to the player.
    pub keep: Vec<String>,
}

/// Where a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// Its turn will come.
    Queued,
    /// It is being done.
    Running,
    /// It waits for somebody to resume it.
    Paused,
    /// Over, and well.
    Done,
    /// Over; resuming tries again.
    Failed,
}

/// An order and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// From 1.
    pub id: u64,
    /// What was ordered.
    pub order: Order,
    /// Where it is.
    pub status: Status,
    /// Why it failed.
    pub failure: Option<String>,
    /// The exit code of that.
    pub exit: Option<u8>,
    /// The version that was installed.
    pub version: Option<String>,
    /// How far it is, while it runs.
    #[serde(default)]
    pub progress: Option<Look>,
}

/// All jobs of the daemon; on the disk as soon as their status changes.
pub(super) struct Jobs {
    file: PathBuf,
    inner: Mutex<Inner>,
    changed: Condvar,
}

struct Inner {
    jobs: Vec<Job>,
    /// The one that runs.
    running: Option<(u64, Arc<Progress>)>,
    stopping: bool,
}

impl Jobs {
    /// Reads what the last daemon left: what ran goes on.
    pub fn load(folder: &Path) -> Self {
        let file = folder.join("jobs.json");
        let mut jobs: Vec<Job> =
            std::fs::read(&file).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
        for job in &mut jobs {
            job.progress = None;
            // At a machine's start the network may come later than the daemon before this one.
            let without_network = job.status == Status::Failed && job.exit == Some(Exit::Network as u8);
            if job.status == Status::Running || without_network {
                job.status = Status::Queued;
            }
        }
        Self { file, inner: Mutex::new(Inner { jobs, running: None, stopping: false }), changed: Condvar::new() }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn save(&self, inner: &Inner) -> Result<(), TaskError> {
        let text = serde_json::to_vec_pretty(&inner.jobs).expect("jobs are JSON");
        self.changed.notify_all();
        whole::write(&self.file, &text, whole::PRIVATE)
    }

    pub fn list(&self) -> Vec<Job> {
        let inner = self.inner();
        let mut jobs = inner.jobs.clone();
        if let Some((id, progress)) = &inner.running {
            jobs.iter_mut().filter(|job| job.id == *id).for_each(|job| job.progress = Some(progress.look()));
        }
        jobs
    }

    /// Takes an order. One for a destination that has an unfinished job replaces that.
    pub fn begin(&self, order: Order) -> Result<Job, TaskError> {
        if !order.destination.is_absolute() {
            return Err(TaskError::new(
                Exit::Usage,
                format!("{}: the destination must be absolute", shown(&order.destination)),
            ));
        }
        let mut inner = self.inner();
        if inner
            .running
            .as_ref()
            .is_some_and(|(id, _)| inner.jobs.iter().any(|job| job.id == *id && job.order == order))
        {
            let (id, _) = inner.running.as_ref().expect("just seen");
            return Ok(inner.jobs.iter().find(|job| job.id == *id).expect("just seen").clone());
        }
        let waiting = |job: &Job| {
            matches!(job.status, Status::Queued | Status::Paused | Status::Failed)
                && job.order.destination == order.destination
        };
        inner.jobs.retain(|job| !waiting(job));
        while inner.jobs.len() >= JOBS_MAX {
            let Some(over) = inner.jobs.iter().position(|job| matches!(job.status, Status::Done | Status::Failed))
            else {
                return Err(TaskError::new(Exit::Busy, format!("{JOBS_MAX} jobs are waiting already")));
            };
            inner.jobs.remove(over);
        }
        let id = inner.jobs.iter().map(|job| job.id).max().unwrap_or(0) + 1;
        let job = Job { id, order, status: Status::Queued, failure: None, exit: None, version: None, progress: None };
        inner.jobs.push(job.clone());
        self.save(&inner)?;
        Ok(job)
    }

    /// Pauses a job or all that are not over.
    pub fn pause(&self, id: Option<u64>) -> Result<Vec<Job>, TaskError> {
        self.tell(id, |job| match job.status {
            Status::Queued | Status::Running => Some(Status::Paused),
            _ => None,
        })
    }

    /// Goes on with a job or all that are paused or failed.
    pub fn resume(&self, id: Option<u64>) -> Result<Vec<Job>, TaskError> {
        self.tell(id, |job| match job.status {
            Status::Paused | Status::Failed => Some(Status::Queued),
            _ => None,
        })
    }

    fn tell(&self, id: Option<u64>, next: impl Fn(&Job) -> Option<Status>) -> Result<Vec<Job>, TaskError> {
        let mut inner = self.inner();
        if let Some(id) = id
            && !inner.jobs.iter().any(|job| job.id == id)
        {
            return Err(TaskError::new(Exit::NotFound, format!("no job {id}")));
        }
        let running = inner.running.as_ref().map(|(id, _)| *id);
        for job in inner.jobs.iter_mut().filter(|job| id.is_none_or(|id| id == job.id)) {
            if let Some(status) = next(job) {
                job.status = status;
            }
        }
        // What runs though it should not is stopped; its thread finds its status changed.
        if let Some((running, progress)) = running.zip(inner.running.as_ref().map(|(_, progress)| progress.clone()))
            && inner.jobs.iter().any(|job| job.id == running && job.status == Status::Paused)
        {
            progress.stop();
        }
        self.save(&inner)?;
        drop(inner);
        Ok(self.list())
    }

    /// Stops what runs; it goes on with the next daemon.
    pub fn stop(&self) {
        let mut inner = self.inner();
        inner.stopping = true;
        if let Some((_, progress)) = &inner.running {
            progress.stop();
        }
        self.changed.notify_all();
    }

    /// Does one job after the other until [`Jobs::stop`].
    pub fn work(&self) {
        loop {
            let mut inner = self.inner();
            let job = loop {
                if inner.stopping {
                    return;
                }
                if let Some(job) = inner.jobs.iter_mut().find(|job| job.status == Status::Queued) {
                    job.status = Status::Running;
                    (job.failure, job.exit) = (None, None);
                    break job.clone();
                }
                inner = self.changed.wait(inner).unwrap_or_else(PoisonError::into_inner);
            };
            let progress = Arc::new(Progress::default());
            inner.running = Some((job.id, progress.clone()));
            // A status that cannot be written is not worth stopping for: at worst the job is done once more.
            let _ = self.save(&inner);
            drop(inner);
            let result = do_order(&job.order, &progress);
            let mut inner = self.inner();
            inner.running = None;
            let stopping = inner.stopping;
            if let Some(job) = inner.jobs.iter_mut().find(|other| other.id == job.id) {
                match result {
                    Ok(version) => (job.status, job.version) = (Status::Done, version),
                    // Paused, or paused and resumed already, or the daemon ends.
                    Err(error) if error.exit == Exit::Stopped => {
                        if job.status == Status::Running {
                            job.status = Status::Queued;
                        }
                    }
                    Err(error) => {
                        job.exit = Some(error.exit as u8);
                        job.failure = Some(one_line(error));
                        if job.status == Status::Running {
                            job.status = Status::Failed;
                        }
                    }
                }
            }
            let _ = self.save(&inner);
            if stopping {
                return;
            }
        }
    }
}

/// The only build of a repository's folder.
fn only_client(folder: &Path) -> Result<String, TaskError> {
    let unreadable = |source| TaskError::unreadable(folder, source);
    let mut names = vec![];
    for item in std::fs::read_dir(folder.join("catalogue")).map_err(unreadable)? {
        let name = item.map_err(unreadable)?.file_name().to_string_lossy().into_owned();
        names.extend(name.strip_suffix(".json").filter(|name| crate::catalogue::is_client_id(name)).map(str::to_owned));
    }
    match names.as_slice() {
        [name] => Ok(name.clone()),
        _ => Err(TaskError::new(
            Exit::Usage,
            format!("{}: has {} builds; --client_id says which", shown(folder), names.len()),
        )),
    }
}

fn do_order(order: &Order, progress: &Progress) -> Result<Option<String>, TaskError> {
    let folder = Path::new(&order.source);
    let is_web = order.source.contains("://");
    if !is_web && !folder.join("catalogue").is_dir() {
        mirror(folder, &order.destination, progress)?;
        return Ok(None);
    }
    let client_id = match &order.client_id {
        Some(client_id) => client_id.clone(),
        None if is_web => {
            return Err(TaskError::new(Exit::Usage, format!("{}: --client_id says which build", order.source)));
        }
        None => only_client(folder)?,
    };
    let offers = offers(&order.source, &client_id, order.unsigned)?;
    let fetch = fetch::open(&order.source, Settings::load()?.limits(order.limit_rate))?;
    let installation = Installation::open(&order.destination)?;
    let follow = Follow {
        offers: &*offers,
        fetch: &*fetch,
        channel: order.channel.clone(),
        version: None,
        again: false,
        keep: order.keep.clone(),
        links: Links::Auto,
        progress,
    };
    install::update(&installation, &follow).map(|outcome| Some(outcome.version))
}

/// The catalogue's source for an address.
pub(crate) fn offers(repository: &str, client_id: &str, unsigned: bool) -> Result<Box<dyn Offers>, TaskError> {
    if !unsigned {
        let fetch = fetch::open(repository, Settings::load()?.limits(None))?;
        let state = trust_folder(repository, client_id)?;
        return Ok(Box::new(Signed { fetch, state, client_id: client_id.into() }));
    }
    if repository.contains("://") {
        let what = format!("{repository}: a catalogue from the network must be signed; --unsigned is for folders");
        return Err(TaskError::new(Exit::Untrusted, what));
    }
    Ok(Box::new(Unsigned { folder: repository.into(), client_id: client_id.into() }))
}
