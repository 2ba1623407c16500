//! A studio's side of the update service: brings a signed repository up, resumably.

use crate::auth;
use crate::catalogue;
use crate::error::{Exit, TaskError, shown};
use crate::hex::hex;
use crate::manifest::{MANIFEST_SIZE_MAX, Manifest};
use crate::trust;
use crate::whole;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::time::Duration;
use ureq::http::Response;
use ureq::{Agent, Body, SendBody};

/// Answers are small.
const ANSWER_BYTES_MAX: u64 = 4 << 20;
/// Tries in a row that bring an upload no further.
const TRIES: u32 = 5;
/// Between two of them, doubled each time.
const PAUSE: Duration = Duration::from_millis(500);

/// What was brought up.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// Files that the service did not have.
    pub sent_files: u64,
    /// Their bytes.
    pub sent_bytes: u64,
    /// Files that it had.
    pub present_files: u64,
    /// `BUILD/VERSION` of releases that are new.
    pub added: Vec<String>,
    /// `BUILD/VERSION` of releases that are gone.
    pub removed: Vec<String>,
}

/// The service, with this user's token.
pub struct Service {
    agent: Agent,
    address: String,
    token: String,
}

impl Service {
    /// `address` begins with `https://`, or stays on this machine.
    pub fn new(address: &str) -> Result<Self, TaskError> {
        auth::check_address(address)?;
        let (token, _) = auth::access_token(false)?;
        Ok(Self { agent: auth::agent(address, None)?, address: address.trim_end_matches('/').to_owned(), token })
    }

    /// Brings up what the catalogues of `repository` name, then its metadata. `progress` is told bytes sent so far and in all.
    pub fn publish(&self, repository: &Path, progress: &mut dyn FnMut(u64, u64)) -> Result<Report, TaskError> {
        let mut report = Report::default();
        let (wanted, files) = named(repository)?;
        let mut missing = Vec::new();
        for (path, size) in wanted {
            if self.has(&path, size)? { report.present_files += 1 } else { missing.push((path, size)) }
        }
        let all = missing.iter().map(|(_, size)| size).sum();
        for (path, size) in missing {
            let sent = report.sent_bytes;
            self.send(repository, &path, size, &mut |of_it| progress(sent + of_it, all))?;
            report.sent_files += 1;
            report.sent_bytes += size;
            progress(report.sent_bytes, all);
        }
        let answer = self
            .agent
            .post(self.url("api/publish"))
            .header("authorization", self.bearer())
            .send_json(json!({ "files": files }));
        let answer = self.answer("api/publish", answer)?;
        let listed = |name: &str| serde_json::from_value(answer[name].clone()).unwrap_or_default();
        (report.added, report.removed) = (listed("added"), listed("removed"));
        Ok(report)
    }

    fn url(&self, path: &str) -> String {
        format!("{}/{path}", self.address)
    }

    fn bearer(&self) -> String {
        format!("Bearer {}", self.token)
    }

    fn has(&self, path: &str, size: u64) -> Result<bool, TaskError> {
        let answer = self.agent.head(self.url(path)).call().map_err(|error| self.unreachable(path, error))?;
        match answer.status().as_u16() {
            200 => Ok(answer.headers().get("content-length").and_then(|length| length.to_str().ok()?.parse().ok())
                == Some(size)),
            404 => Ok(false),
            _ => self.answer(path, Ok(answer)).map(|_| false),
        }
    }

    fn unreachable(&self, path: &str, error: ureq::Error) -> TaskError {
        TaskError::because(Exit::Network, format!("{}: the service cannot be reached", self.url(path)), error)
    }

    /// The JSON of a success; a refusal becomes an error with what the service says.
    fn answer(&self, path: &str, answered: Result<Response<Body>, ureq::Error>) -> Result<Value, TaskError> {
        let mut answered = answered.map_err(|error| self.unreachable(path, error))?;
        let status = answered.status().as_u16();
        let mut bytes = Vec::new();
        let read = answered.body_mut().as_reader().take(ANSWER_BYTES_MAX).read_to_end(&mut bytes);
        read.map_err(|error| {
            TaskError::because(Exit::Network, format!("{}: the answer broke off", self.url(path)), error)
        })?;
        let value: Value = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        if (200..300).contains(&status) {
            return Ok(value);
        }
        let exit = match status {
            401 | 403 => Exit::Denied,
            404 => Exit::NotFound,
            409 => Exit::Busy,
            422 if value["error"] == "untrusted" => Exit::Untrusted,
            413 | 422 => Exit::Damaged,
            507 => Exit::NoSpace,
            408 | 429 | 500.. => Exit::Network,
            _ => Exit::Failed,
        };
        let says = value["message"].as_str().map_or_else(|| format!("status {status}"), str::to_owned);
        Err(TaskError::new(exit, format!("{}: {says}", self.url(path))))
    }

    /// Sends one file from where the service has it, again and again as long as it gets further.
    fn send(&self, repository: &Path, path: &str, size: u64, progress: &mut dyn FnMut(u64)) -> Result<(), TaskError> {
        let (mut failures, mut reached) = (0, 0);
        loop {
            let before = reached;
            match self.send_rest(repository, path, size, &mut reached, progress) {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(error) if error.exit != Exit::Network && error.exit != Exit::Busy => return Err(error),
                Err(error) => {
                    failures = if reached > before { 1 } else { failures + 1 };
                    if failures >= TRIES {
                        return Err(error);
                    }
                    tracing::warn!(path, reached, "upload interrupted: {}", error.what);
                    std::thread::sleep(PAUSE * (1 << failures.min(4)));
                }
            }
        }
    }

    /// True when the service has all of it.
    fn send_rest(
        &self,
        repository: &Path,
        path: &str,
        size: u64,
        reached: &mut u64,
        progress: &mut dyn FnMut(u64),
    ) -> Result<bool, TaskError> {
        let begin = self.agent.post(self.url("api/uploads")).header("authorization", self.bearer());
        let standing = self.answer("api/uploads", begin.send_json(json!({ "path": path, "size": size })))?;
        if standing["complete"] == true {
            return Ok(true);
        }
        let (Some(id), Some(offset)) = (standing["id"].as_str(), standing["offset"].as_u64()) else {
            return Err(TaskError::new(
                Exit::Damaged,
                format!("{}: no answer of an update service", self.url("api/uploads")),
            ));
        };
        *reached = (*reached).max(offset);
        let file = repository.join(path);
        let unreadable = |error| TaskError::unreadable(&file, error);
        let mut opened = File::open(&file).map_err(unreadable)?;
        opened.seek(SeekFrom::Start(offset)).map_err(unreadable)?;
        let at = format!("api/uploads/{id}");
        let request = self
            .agent
            .patch(self.url(&at))
            .header("authorization", self.bearer())
            .header("upload-offset", offset.to_string());
        let mut told = Told { file: opened, done: offset, progress };
        let answer = request.content_type("application/octet-stream").send(SendBody::from_reader(&mut told));
        Ok(self.answer(&at, answer)?["complete"] == true)
    }
}

/// A file that says how far it was read.
struct Told<'a> {
    file: File,
    done: u64,
    progress: &'a mut dyn FnMut(u64),
}

impl Read for Told<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        let count = self.file.read(bytes)?;
        self.done += count as u64;
        (self.progress)(self.done);
        Ok(count)
    }
}

/// What a repository's catalogues name, by path and size; and its metadata, by path and in base64.
fn named(repository: &Path) -> Result<(BTreeMap<String, u64>, BTreeMap<String, String>), TaskError> {
    let mut wanted = BTreeMap::new();
    let mut files = BTreeMap::new();
    let folder = repository.join("catalogue");
    let entries = std::fs::read_dir(&folder).map_err(|error| TaskError::unreadable(&folder, error))?;
    for entry in entries {
        let name =
            entry.map_err(|error| TaskError::unreadable(&folder, error))?.file_name().to_string_lossy().into_owned();
        let Some(client_id) = name.strip_suffix(".json").filter(|of| catalogue::is_client_id(of)) else {
            continue;
        };
        let bytes = needed(&folder.join(&name), catalogue::BYTES_MAX)?;
        let damaged = |why: String| TaskError::new(Exit::Damaged, format!("{}: {why}", shown(&folder.join(&name))));
        let catalogue = catalogue::parse(&bytes).map_err(damaged)?;
        files.insert(format!("catalogue/{}.{client_id}.json", trust::sha256(&bytes)), STANDARD.encode(&bytes));
        for release in &catalogue.releases {
            let path = format!("manifests/{}", release.manifest.blake3);
            let manifest = needed(&repository.join(&path), MANIFEST_SIZE_MAX)?;
            let manifest = Manifest::decode(&manifest).map_err(|error| damaged(format!("{path}: {error}")))?;
            wanted.insert(path, release.manifest.size);
            wanted.extend(manifest.packs.iter().map(|pack| (format!("packs/{}", hex(&pack.id)), u64::from(pack.size))));
            wanted
                .extend(release.deltas.iter().map(|delta| (format!("deltas/{}", delta.pack.blake3), delta.pack.size)));
        }
    }
    let metadata = repository.join(trust::METADATA);
    for role in ["targets.json", "snapshot.json"] {
        let version = trust::latest_version(repository, role)?;
        let file = metadata.join(format!("{version}.{role}"));
        if let Some(bytes) = whole::read(&file, trust::TARGETS_BYTES_MAX)? {
            files.insert(format!("metadata/{version}.{role}"), STANDARD.encode(bytes));
        }
    }
    for version in 1..=trust::latest_version(repository, "root.json")? {
        let bytes = needed(&metadata.join(format!("{version}.root.json")), trust::ROOT_BYTES_MAX)?;
        files.insert(format!("metadata/{version}.root.json"), STANDARD.encode(bytes));
    }
    if let Some(bytes) = whole::read(&metadata.join("timestamp.json"), trust::TIMESTAMP_BYTES_MAX)? {
        files.insert("metadata/timestamp.json".into(), STANDARD.encode(bytes));
    }
    Ok((wanted, files))
}

fn needed(file: &Path, max: u64) -> Result<Vec<u8>, TaskError> {
    whole::read(file, max)?.ok_or_else(|| TaskError::new(Exit::NotFound, format!("{}: not there", shown(file))))
}
