//! The installation that follows a channel: versions beside each other, one pointer to the current one, and the ways from one state
//! to the next: update, repair, rollback. After a kill at any moment `current` leads to a whole version, old or new, and what was
//! fetched is not fetched again.

mod beneath;
mod build;
mod download;
mod keep;
pub mod machine;
mod progress;
mod root;
mod switch;
#[cfg(test)]
mod tests;
mod tree;

pub use progress::{Look, Progress};
pub use root::{Installation, Notes, Record};
pub use tree::Links;

use crate::delta::{FIXED_SIZE, Fixed, decode_list};
use crate::error::{Exit, TaskError, shown};
use crate::fetch::{Fetch, FetchError};
use crate::hex::unhex;
use crate::manifest::{MANIFEST_SIZE_MAX, Manifest};
use crate::offers::Offers;
use crate::pack::decompress_after;
use crate::release::{Blob, Catalogue, Release};
use crate::whole;
use beneath::Folder;
use build::{Builder, Delta, Source};
use download::cost;
use keep::Keep;
use machine::{Event, State};
use progress::Counted;
use root::Installed;
use serde::Serialize;
use tree::Staging;

/// The first piece of a delta that is asked for: it says how long the head is.
const HEAD_SIZE: u64 = 4 << 10;

/// Where updates come from, and how they are installed.
pub struct Follow<'a> {
    /// Says what there is.
    pub offers: &'a dyn Offers,
    /// Has it.
    pub fetch: &'a dyn Fetch,
    /// Which channel.
    pub channel: String,
    /// This version, whatever the channel says.
    pub version: Option<String>,
    /// A version that was gone back from is installed again.
    pub again: bool,
    /// Globs of what belongs to the player, beside those that the build itself names.
    pub keep: Vec<String>,
    /// How unchanged files come into the new version.
    pub links: Links,
    /// Who watches.
    pub progress: &'a Progress,
}

/// What there is to do. Bytes and requests are those to the repository, the catalogue's not counted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// What is installed.
    pub installed: Option<String>,
    /// What is offered to this installation.
    pub offered: String,
    /// Whether `system update` would install it.
    pub update: bool,
    /// The player went back from it.
    pub held: bool,
    /// What an update would fetch, at most.
    pub bytes: u64,
    /// In so many requests, about.
    pub requests: u64,
    /// Files of the installed version that are not as they were left: `system repair` looks into them.
    pub changed: Vec<String>,
    /// For players.
    pub notes: String,
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// What is current now.
    pub version: String,
    /// What was before.
    pub before: Option<String>,
    /// Whether anything was done.
    pub done: bool,
    /// The offered version is one that the player went back from.
    pub held: bool,
    /// Bytes that came from the repository, the catalogue's not counted.
    pub fetched: u64,
    /// In so many requests.
    pub requests: u64,
    /// Files of the current version that are not as they were left.
    pub changed: Vec<String>,
}

/// What a look at every file found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Which version.
    pub version: String,
    /// Paths whose bytes, kind or mode are not what the manifest says, or that are missing.
    pub damaged: Vec<String>,
    /// Paths that are in no manifest and do not belong to the player: no damage.
    pub extra: Vec<String>,
    /// Bytes that a repair would fetch; `None` if that was not asked for.
    pub repair_bytes: Option<u64>,
    /// In so many requests.
    pub repair_requests: Option<u64>,
}

/// What all steps of building a version need.
pub(crate) struct Context<'a> {
    pub installation: &'a Installation,
    pub fetch: &'a dyn Fetch,
    pub keep: Keep,
    /// The version whose saves and mods will be carried over, a name under `versions/`.
    pub carry: Option<String>,
    pub progress: &'a Progress,
}

/// Moves the machine, and writes down where it is.
struct Journey<'a> {
    installation: &'a Installation,
    progress: &'a Progress,
    state: State,
}

impl<'a> Journey<'a> {
    fn begin(installation: &'a Installation, progress: &'a Progress) -> Result<Self, TaskError> {
        let mut journey = Self { installation, progress, state: State::Idle };
        journey.go(Event::Triggered)?;
        Ok(journey)
    }

    fn go(&mut self, event: Event) -> Result<(), TaskError> {
        let state = self.state.after(event);
        self.state = state.map_err(|error| TaskError::because(Exit::Failed, "this is a fault of vsekai", error))?;
        self.progress.enter(self.state, 0);
        // Checking is over before anybody could look, and finding nothing is no reason to write.
        if matches!(self.state, State::Checking | State::NoUpdateFound | State::UpdateAvailable | State::Idle) {
            return Ok(());
        }
        self.installation.note(|notes| {
            notes.state = self.state;
            notes.failure = None;
        })
    }

    /// Ends it, well or not, and passes the outcome through.
    fn end<T>(mut self, outcome: Result<T, TaskError>) -> Result<T, TaskError> {
        if let Err(error) = &outcome
            && self.go(Event::Failed).is_ok()
        {
            let why = error.to_string();
            // The failure itself is told; that it cannot be written down as well (a full disk) adds nothing.
            let _ = self.installation.note(|notes| notes.failure = Some(why));
        }
        outcome
    }
}

/// Which release of a catalogue is meant.
fn wanted<'c>(follow: &Follow<'_>, catalogue: &'c Catalogue, installation: &str) -> Result<&'c Release, TaskError> {
    let none = |what: String| TaskError::new(Exit::NotFound, what);
    let version = match &follow.version {
        Some(version) => version.as_str(),
        None => {
            let channel = catalogue.channel(&follow.channel).ok_or_else(|| {
                let names: Vec<&str> = catalogue.channels.iter().map(|channel| channel.name.as_str()).collect();
                none(format!("no channel {:?}; there are: {}", follow.channel, names.join(", ")))
            })?;
            channel
                .offered(installation)
                .ok_or_else(|| none(format!("channel {:?} offers nothing to this installation yet", follow.channel)))?
        }
    };
    catalogue.release(version).ok_or_else(|| none(format!("no version {version:?} in the repository")))
}

/// Says whether there is an update and what it would take. Writes nothing.
///
/// # Errors
/// When the repository cannot be asked.
pub fn check(installation: &Installation, follow: &Follow<'_>) -> Result<Answer, TaskError> {
    let notes = installation.notes();
    let catalogue = follow.offers.catalogue()?;
    let release = wanted(follow, &catalogue, &notes.installation)?;
    let current = installation.current()?;
    let record = current.as_ref().and_then(|installed| installed.record.as_ref());
    let keep = |manifest: &Manifest| Keep::new(manifest.keep.iter().chain(&notes.keep).chain(&follow.keep));
    let old = record.and_then(|record| installation.manifest_of(record));
    let mut changed = vec![];
    if let (Some(installed), Some(record), Some(manifest)) = (&current, record, &old) {
        let folder = version_folder(installation, &installed.dir)?;
        let numbers = tree::changed(&folder, manifest, record, &keep(manifest))
            .map_err(|source| installation.unreadable(source))?;
        changed = numbers.iter().map(|&number| manifest.entries[number as usize].path.clone()).collect();
    }
    let same = record.is_some_and(|record| record.manifest == release.manifest);
    let held = follow.version.is_none() && !follow.again && notes.rolled_back_from.as_ref() == Some(&release.version);
    let mut answer = Answer {
        installed: record.map(|record| record.version.clone()),
        offered: release.version.clone(),
        update: !same && !held,
        held,
        bytes: 0,
        requests: 0,
        changed,
        notes: release.notes.clone(),
    };
    if same || installation.here(&release.manifest)?.is_some() {
        return Ok(answer);
    }
    let delta = record.and_then(|record| release.deltas.iter().find(|delta| delta.from == record.version));
    match delta {
        Some(delta) if old.is_some() => {
            answer.bytes = delta.pack.size + HEAD_SIZE;
            answer.requests = 2 + delta.pack.size.div_ceil(16 << 20);
        }
        _ => {
            let context = Context {
                installation,
                fetch: follow.fetch,
                keep: Keep::default(),
                carry: None,
                progress: follow.progress,
            };
            let bytes = fetch_manifest(&context, &release.manifest)?;
            let manifest = decode(&bytes, &release.manifest)?;
            let source = source(installation, current.as_ref(), old.as_ref())?;
            let builder = Builder::new(&context, &manifest, source.as_ref(), None, tree::Link::Copy);
            let (requests, size) = cost(&builder.requests(&builder.plan(None)?));
            answer.bytes = size + release.manifest.size;
            answer.requests = requests + 1;
        }
    }
    Ok(answer)
}

fn version_folder(installation: &Installation, dir: &str) -> Result<Folder, TaskError> {
    let path = format!("versions/{dir}");
    installation.root.folder(&path).map_err(|source| TaskError::unreadable(&installation.path.join(path), source))
}

/// The current version as a source, as sound as a look at sizes and times shows.
fn source<'a>(
    installation: &Installation,
    current: Option<&Installed>,
    manifest: Option<&'a Manifest>,
) -> Result<Option<Source<'a>>, TaskError> {
    let Some((installed, manifest)) = current.zip(manifest) else { return Ok(None) };
    let Some(record) = &installed.record else { return Ok(None) };
    let folder = version_folder(installation, &installed.dir)?;
    // What the player may have changed is no source, whatever it should be.
    let unreadable = |source| installation.unreadable(source);
    let mut sound = vec![true; manifest.entries.len()];
    for number in tree::changed(&folder, manifest, record, &Keep::default()).map_err(unreadable)? {
        sound[number as usize] = false;
    }
    Ok(Some(Source { folder, manifest, sound }))
}

fn fetch_manifest(context: &Context<'_>, blob: &Blob) -> Result<Vec<u8>, TaskError> {
    if let Some(bytes) = context.installation.cached_manifest(&blob.blake3) {
        return Ok(bytes);
    }
    let fetch = Counted { fetch: context.fetch, progress: context.progress };
    let path = format!("manifests/{}", blob.blake3);
    let bytes = fetch.whole(&path, blob.size.min(MANIFEST_SIZE_MAX)).map_err(FetchError::into_task)?;
    if blake3::hash(&bytes).to_hex().as_str() != blob.blake3 {
        return Err(TaskError::new(
            Exit::Damaged,
            format!("{path}: its bytes are not those of its name; the repository is damaged"),
        ));
    }
    Ok(bytes)
}

fn decode(bytes: &[u8], blob: &Blob) -> Result<Manifest, TaskError> {
    Manifest::decode(bytes)
        .map_err(|error| TaskError::because(Exit::Damaged, format!("manifests/{}", blob.blake3), error))
}

/// The delta from the installed version and the manifest that it leads to, if there is one that holds.
fn fetch_delta(
    context: &Context<'_>,
    release: &Release,
    record: &Record,
    old: &Manifest,
) -> Result<Option<(Delta, Vec<u8>)>, TaskError> {
    let Some(delta) = release.deltas.iter().find(|delta| delta.from == record.version) else { return Ok(None) };
    let path = format!("deltas/{}", delta.pack.blake3);
    let cache = context.installation.path.join(".vsekai").join(&path);
    let size = delta.pack.size;
    let mut head = std::fs::read(&cache).ok().filter(|head| head.len() as u64 <= size).unwrap_or_default();
    let fetch = Counted { fetch: context.fetch, progress: context.progress };
    let extend = |head: &mut Vec<u8>, to: u64| -> Result<bool, TaskError> {
        let from = head.len() as u64;
        if from >= to.min(size) {
            return Ok(true);
        }
        let taken = fetch.range(&path, from..to.min(size), &mut |bytes| {
            head.extend_from_slice(bytes);
            Ok(())
        });
        match taken {
            Ok(()) => Ok(true),
            // A delta is a convenience: without it there are the packs.
            Err(FetchError::NotFound { .. } | FetchError::TooLong { .. }) => Ok(false),
            Err(error) => Err(error.into_task()),
        }
    };
    let parse = |head: &[u8]| Fixed::decode(head.get(..FIXED_SIZE)?).ok();
    let mut fixed = parse(&head);
    if fixed.is_none_or(|fixed| fixed.head_size() != head.len() as u64) {
        head.clear();
        if !extend(&mut head, HEAD_SIZE)? {
            return Ok(None);
        }
        fixed = parse(&head);
    }
    let Some(fixed) = fixed else { return Ok(None) };
    let expected = (unhex::<32>(&record.manifest.blake3), unhex(&release.manifest.blake3));
    if (Some(fixed.from), Some(fixed.to)) != expected
        || fixed.head_size() > size
        || !extend(&mut head, fixed.head_size())?
    {
        return Ok(None);
    }
    head.truncate(fixed.head_size() as usize);
    let (list, patch) = head[FIXED_SIZE..].split_at(fixed.list_size as usize);
    let mut bytes = vec![];
    let old_bytes = old.encode();
    let plain_size = release.manifest.size.min(MANIFEST_SIZE_MAX) as usize;
    if decompress_after(&old_bytes, patch, plain_size, &mut bytes).is_err()
        || blake3::hash(&bytes).to_hex().as_str() != release.manifest.blake3
    {
        return Ok(None);
    }
    drop(old_bytes);
    let manifest = decode(&bytes, &release.manifest)?;
    let Ok(runs) = decode_list(list, &fixed, size, old, &manifest) else { return Ok(None) };
    whole::write(&cache, &head, whole::PUBLIC)?;
    Ok(Some((Delta { path, runs }, bytes)))
}

/// Installs what is offered, if it is not installed.
///
/// # Errors
/// Leaves the current version as it was; going on later continues where it ended.
pub fn update(installation: &Installation, follow: &Follow<'_>) -> Result<Outcome, TaskError> {
    let mut journey = Journey::begin(installation, follow.progress)?;
    let outcome = update_steps(installation, follow, &mut journey);
    journey.end(outcome)
}

fn update_steps(
    installation: &Installation,
    follow: &Follow<'_>,
    journey: &mut Journey<'_>,
) -> Result<Outcome, TaskError> {
    let notes = installation.notes();
    let catalogue = follow.offers.catalogue()?;
    let release = wanted(follow, &catalogue, &notes.installation)?;
    let current = installation.current()?;
    let record = current.as_ref().and_then(|installed| installed.record.as_ref());
    let old = record.and_then(|record| installation.manifest_of(record));
    let before = record.map(|record| record.version.clone());
    let done = |version: &str, done: bool, held: bool, changed: Vec<String>| {
        let look = follow.progress.look();
        Outcome {
            version: version.into(),
            before: before.clone(),
            done,
            held,
            fetched: look.fetched,
            requests: look.requests,
            changed,
        }
    };
    let held = follow.version.is_none() && !follow.again && notes.rolled_back_from.as_ref() == Some(&release.version);
    if let (Some(installed), Some(record), Some(old)) = (&current, record, &old)
        && (held || record.manifest == release.manifest)
    {
        journey.go(Event::NothingNew)?;
        let keep = Keep::new(old.keep.iter().chain(&notes.keep).chain(&follow.keep));
        let folder = version_folder(installation, &installed.dir)?;
        let changed = tree::changed(&folder, old, record, &keep).map_err(|source| installation.unreadable(source))?;
        let changed = changed.iter().map(|&number| old.entries[number as usize].path.clone()).collect();
        return Ok(done(&record.version, false, held, changed));
    }
    journey.go(Event::Found)?;
    installation.note(|notes| notes.target = Some(release.version.clone()))?;
    journey.go(Event::Started)?;
    if !follow.keep.iter().all(|glob| notes.keep.contains(glob)) {
        installation.note(|notes| notes.keep = follow.keep.clone())?;
    }
    let carry = current.as_ref().map(|installed| installed.dir.clone());
    let mut context =
        Context { installation, fetch: follow.fetch, keep: Keep::default(), carry, progress: follow.progress };
    // A version that is still here needs no building.
    if let Some(dir) = installation.here(&release.manifest)? {
        for event in [Event::Prepared, Event::Downloaded, Event::Applied] {
            journey.go(event)?;
        }
        switch::back_to(&context, &dir, current.as_ref(), &follow.keep)?;
        installation.note(|notes| notes.rolled_back_from = None)?;
        journey.go(Event::Finalized)?;
        return Ok(done(&release.version, true, false, vec![]));
    }
    let (delta, bytes) = match record.zip(old.as_ref()) {
        Some((record, old)) => fetch_delta(&context, release, record, old)?.unzip(),
        None => (None, None),
    };
    let bytes = bytes.map_or_else(|| fetch_manifest(&context, &release.manifest), Ok)?;
    let manifest = decode(&bytes, &release.manifest)?;
    context.keep = Keep::new(manifest.keep.iter().chain(&installation.notes().keep));
    let source = source(installation, current.as_ref(), old.as_ref())?;
    let job = Job {
        version: &release.version,
        blob: &release.manifest,
        manifest: &manifest,
        manifest_bytes: Some(bytes),
        source: source.as_ref(),
        delta: delta.as_ref(),
        previous: current
            .as_ref()
            .filter(|installed| installed.record.is_some())
            .map(|installed| installed.dir.clone()),
        links: follow.links,
        seed: vec![],
    };
    build_and_switch(&context, job, journey)?;
    installation.note(|notes| notes.rolled_back_from = None)?;
    journey.go(Event::Finalized)?;
    Ok(done(&release.version, true, false, vec![]))
}

/// A version to be built.
struct Job<'a> {
    version: &'a str,
    blob: &'a Blob,
    manifest: &'a Manifest,
    /// To be cached.
    manifest_bytes: Option<Vec<u8>>,
    source: Option<&'a Source<'a>>,
    delta: Option<&'a Delta>,
    /// Where a rollback will lead.
    previous: Option<String>,
    links: Links,
    /// Paths of the source whose bytes are partly good.
    seed: Vec<String>,
}

fn build_and_switch(context: &Context<'_>, mut job: Job<'_>, journey: &mut Journey<'_>) -> Result<(), TaskError> {
    let installation = context.installation;
    let unwritable = |source| installation.unwritable(source);
    let link = job.source.map_or(tree::Link::Copy, |_| job.links.decide(&installation.root));
    let builder = Builder::new(context, job.manifest, job.source, job.delta, link);
    let begun = installation.begun(&job.blob.blake3);
    let there = if begun { installation.root.folder("incoming").ok() } else { None };
    // For a repair the damaged files themselves are the beginning.
    let seeded = if job.seed.is_empty() { None } else { job.source.map(|source| &source.folder) };
    let mut plan = builder.plan(there.as_ref().or(seeded))?;
    let kept = switch::kept_size(context)?;
    builder.check_space(&plan, kept, &installation.root)?;

    if let Some(bytes) = job.manifest_bytes.take() {
        installation.cache_manifest(&bytes)?;
    }
    if there.is_none() {
        installation.begin(&job.blob.blake3)?;
    }
    let incoming = installation.root.folder("incoming").map_err(unwritable)?;
    if let Some(source) = job.source
        && there.is_none()
    {
        for path in &job.seed {
            // What cannot be read is fetched.
            if tree::copy(&source.folder, path, &incoming, path, true).is_err() {
                incoming.remove(path).map_err(unwritable)?;
            }
        }
        if !job.seed.is_empty() {
            plan = builder.plan(Some(&incoming))?;
        }
    }
    let staging = Staging::new(&incoming, job.manifest, Builder::assembled(&plan));
    builder.prepare(&mut plan, &staging)?;
    journey.go(Event::Prepared)?;
    builder.download(&plan, &staging)?;
    journey.go(Event::Downloaded)?;
    drop(staging);
    builder.apply(&plan, &incoming)?;
    journey.go(Event::Applied)?;
    switch::finish(context, job.version, job.blob, job.manifest, &incoming, job.previous)
}

/// What a repair or verification looks at.
struct Examined {
    installed: Installed,
    version: String,
    blob: Blob,
    manifest: Manifest,
    bytes: Option<Vec<u8>>,
    keep: Keep,
    damaged: Vec<u32>,
}

/// Reads every file of the current version.
fn examine(installation: &Installation, follow: &Follow<'_>) -> Result<Examined, TaskError> {
    let Some(installed) = installation.current()? else {
        return Err(TaskError::new(
            Exit::NotFound,
            format!("{}: nothing is installed; run `system update`", shown(&installation.path)),
        ));
    };
    let (version, blob) = match &installed.record {
        Some(record) => (record.version.clone(), record.manifest.clone()),
        // What was written down about it is lost: the repository knows what it should be.
        None => {
            let version = installed.dir.split('~').next().unwrap_or_default().to_owned();
            let catalogue = follow.offers.catalogue()?;
            let release = catalogue.release(&version).ok_or_else(|| {
                TaskError::new(
                    Exit::NotFound,
                    format!("version {version}: neither its record nor the repository has it; run `system update`"),
                )
            })?;
            (version, release.manifest.clone())
        }
    };
    let cached = installation.cached_manifest(&blob.blake3).is_some();
    let context =
        Context { installation, fetch: follow.fetch, keep: Keep::default(), carry: None, progress: follow.progress };
    let bytes = fetch_manifest(&context, &blob)?;
    let manifest = decode(&bytes, &blob)?;
    let keep = Keep::new(manifest.keep.iter().chain(&installation.notes().keep).chain(&follow.keep));
    let folder = version_folder(installation, &installed.dir)?;
    follow.progress.expect(manifest.total_size());
    let damaged = tree::damaged(&folder, &manifest, &keep, &|bytes| follow.progress.advance(bytes));
    let damaged = damaged.map_err(|source| installation.unreadable(source))?;
    Ok(Examined { installed, version, blob, bytes: (!cached).then_some(bytes), manifest, keep, damaged })
}

impl Examined {
    fn source(&self, installation: &Installation) -> Result<Source<'_>, TaskError> {
        let mut sound = vec![true; self.manifest.entries.len()];
        self.damaged.iter().for_each(|&number| sound[number as usize] = false);
        // What belongs to the player was not looked at.
        for (number, entry) in self.manifest.entries.iter().enumerate() {
            sound[number] &= !self.keep.has(&entry.path);
        }
        Ok(Source { folder: version_folder(installation, &self.installed.dir)?, manifest: &self.manifest, sound })
    }

    fn paths(&self) -> Vec<String> {
        self.damaged.iter().map(|&number| self.manifest.entries[number as usize].path.clone()).collect()
    }
}

/// Reads every file of the current version and says which are not what they should be, and what a repair would fetch.
///
/// # Errors
/// When nothing is installed, or the manifest is neither here nor in the repository.
pub fn verify(installation: &Installation, follow: &Follow<'_>) -> Result<Verdict, TaskError> {
    let examined = examine(installation, follow)?;
    let folder = version_folder(installation, &examined.installed.dir)?;
    let extra =
        tree::extra(&folder, &examined.manifest, &examined.keep).map_err(|source| installation.unreadable(source))?;
    let context = Context {
        installation,
        fetch: follow.fetch,
        keep: examined.keep.clone(),
        carry: Some(examined.installed.dir.clone()),
        progress: follow.progress,
    };
    let source = examined.source(installation)?;
    let builder = Builder::new(&context, &examined.manifest, Some(&source), None, tree::Link::Copy);
    let (requests, bytes) = if examined.damaged.is_empty() {
        (0, 0)
    } else {
        let plan = builder.plan(Some(&source.folder))?;
        cost(&builder.requests(&plan))
    };
    Ok(Verdict {
        version: examined.version.clone(),
        damaged: examined.paths(),
        extra,
        repair_bytes: Some(bytes),
        repair_requests: Some(requests),
    })
}

/// Builds the current version again, from what of it is sound and from the repository, and switches to that. `confirm` is told before
/// anything is fetched or written, and may refuse.
///
/// # Errors
/// As [`update`].
pub fn repair(
    installation: &Installation,
    follow: &Follow<'_>,
    confirm: &mut dyn FnMut(&Verdict) -> bool,
) -> Result<Outcome, TaskError> {
    let verdict = verify(installation, follow)?;
    let before = Some(verdict.version.clone());
    let done = |done: bool| {
        let look = follow.progress.look();
        Outcome {
            version: verdict.version.clone(),
            before: before.clone(),
            done,
            held: false,
            fetched: look.fetched,
            requests: look.requests,
            changed: vec![],
        }
    };
    let current = installation.current()?;
    let recorded = current.as_ref().is_some_and(|installed| installed.record.is_some());
    if !confirm(&verdict) || (verdict.damaged.is_empty() && recorded) {
        return Ok(done(false));
    }
    let mut journey = Journey::begin(installation, follow.progress)?;
    let outcome = repair_steps(installation, follow, &mut journey);
    journey.end(outcome)?;
    Ok(done(true))
}

fn repair_steps(installation: &Installation, follow: &Follow<'_>, journey: &mut Journey<'_>) -> Result<(), TaskError> {
    let examined = examine(installation, follow)?;
    journey.go(Event::Found)?;
    installation.note(|notes| notes.target = Some(examined.version.clone()))?;
    journey.go(Event::Started)?;
    let context = Context {
        installation,
        fetch: follow.fetch,
        keep: examined.keep.clone(),
        carry: Some(examined.installed.dir.clone()),
        progress: follow.progress,
    };
    let source = examined.source(installation)?;
    let job = Job {
        version: &examined.version,
        blob: &examined.blob,
        manifest: &examined.manifest,
        manifest_bytes: examined.bytes.clone(),
        source: Some(&source),
        delta: None,
        previous: examined.installed.record.as_ref().and_then(|record| record.previous.clone()),
        links: follow.links,
        seed: examined.paths(),
    };
    build_and_switch(&context, job, journey)?;
    journey.go(Event::Finalized)
}

/// Goes back to the version before, with the saves and mods of the current one. `update` will not install the current one again unasked.
///
/// # Errors
/// [`Exit::NotFound`] when there is none, [`Exit::Damaged`] when files of it were changed.
pub fn rollback(installation: &Installation, progress: &Progress) -> Result<Outcome, TaskError> {
    let none =
        || TaskError::new(Exit::NotFound, format!("{}: there is no version to go back to", shown(&installation.path)));
    let current = installation.current()?.ok_or_else(none)?;
    let record = current.record.as_ref().ok_or_else(none)?;
    let dir = record.previous.clone().ok_or_else(none)?;
    let target = installation.record(&dir).ok_or_else(none)?;
    let manifest = installation.manifest_of(&target).ok_or_else(none)?;
    let keep = Keep::new(manifest.keep.iter().chain(&installation.notes().keep));
    let folder = version_folder(installation, &dir).map_err(|_| none())?;
    let changed =
        tree::changed(&folder, &manifest, &target, &keep).map_err(|source| installation.unreadable(source))?;
    if let Some(&first) = changed.first() {
        let path = &manifest.entries[first as usize].path;
        let what = format!(
            "version {}: {path} and {} other files were changed since it was installed; install it with `system update --version {}`",
            target.version,
            changed.len() - 1,
            target.version
        );
        return Err(TaskError::new(Exit::Damaged, what));
    }
    installation.note(|notes| notes.rolled_back_from = Some(record.version.clone()))?;
    let fetch = Nothing;
    let context = Context { installation, fetch: &fetch, keep, carry: None, progress };
    switch::back_to(&context, &dir, Some(&current), &[])?;
    Ok(Outcome {
        version: target.version,
        before: Some(record.version.clone()),
        done: true,
        held: false,
        fetched: 0,
        requests: 0,
        changed: vec![],
    })
}

/// Where nothing is fetched from.
struct Nothing;

impl Fetch for Nothing {
    fn whole(&self, path: &str, _: u64) -> Result<Vec<u8>, FetchError> {
        Err(FetchError::NotFound { path: path.into() })
    }

    fn range(
        &self,
        path: &str,
        _: std::ops::Range<u64>,
        _: &mut dyn FnMut(&[u8]) -> std::io::Result<()>,
    ) -> Result<(), FetchError> {
        Err(FetchError::NotFound { path: path.into() })
    }
}
