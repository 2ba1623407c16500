//! The supervisor's configuration: a TOML file in its raw form, checked into a [`Config`]. `supervisor.toml` beside this crate has
//! every key.

#[cfg(test)]
mod tests;

use crate::fleet::{ChildRules, GroupRules, Restart, Strategy};
use crate::link::NOTIFY_SOCKET;
use crate::log::LogLimits;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use thiserror::Error;
use toml::Spanned;

/// Most children of one supervisor.
pub const CHILDREN_MAX: usize = 200;
/// Most characters of a name.
pub const NAME_CHARS_MAX: usize = 40;
/// Most bytes of a socket's path (`sun_path` of unix(7), less its end).
const SOCKET_BYTES_MAX: usize = 107;
/// A day is longer than any of these times needs to be.
const TIME_S_MAX: f64 = 86_400.0;
/// What the child that serves the store is called, and its group.
pub const STORE: &str = "store";
/// How long the store may not be heard: a disk that syncs slowly is no reason to end it.
const STORE_TIMEOUT: Duration = Duration::from_secs(60);
/// It may finish its commits for so long.
const STORE_GRACE: Duration = Duration::from_secs(60);
/// Most bytes of the file.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// What is wrong with the configuration; the text names file, line, key and what is allowed.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}", .path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Not TOML, an unknown key, a value of the wrong kind: the text shows the line and what is allowed.
    #[error("{}: {message}", .path.display())]
    Syntax {
        /// Which file.
        path: PathBuf,
        /// Line, column, what is wrong and what is allowed.
        message: String,
    },
    /// A value that is not allowed.
    #[error("{}:{line}: `{key}` {wrong}", .path.display())]
    Value {
        /// Which file.
        path: PathBuf,
        /// Which line of it.
        line: usize,
        /// Which key.
        key: String,
        /// What is wrong and what is allowed.
        wrong: String,
    },
}

/// A checked configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Where everything lies that must survive.
    pub state_dir: PathBuf,
    /// The page and the API over TCP.
    pub http: Option<SocketAddr>,
    /// The API over a Unix socket.
    pub socket: Option<PathBuf>,
    /// The secret of those who may ask over TCP.
    pub token_file: Option<PathBuf>,
    /// Names and rules, in order.
    pub groups: Vec<(String, GroupRules)>,
    /// In order. The first is the store, if there is one.
    pub children: Vec<ChildConfig>,
    /// The store that is served to the children of this machine.
    pub store: Option<StoreConfig>,
}

/// The store of this machine: a child of its own, called [`STORE`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreConfig {
    /// What is served: `local:DIR` or `mem:`.
    pub url: String,
    /// Where: others use it as `unix:SOCKET`.
    pub socket: PathBuf,
}

/// Where a child keeps what it has not brought into the store yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalConfig {
    /// The journal's directory.
    pub directory: PathBuf,
    /// The store behind it.
    pub store: String,
    /// How long a restart waits for the journal to be in the store.
    pub wait: Duration,
}

/// One child.
#[derive(Debug, Clone, PartialEq)]
pub struct ChildConfig {
    /// What it is called.
    pub name: String,
    /// The program and its arguments.
    pub command: Vec<String>,
    /// Added to the supervisor's own environment.
    pub environment: BTreeMap<String, String>,
    /// Where it is started.
    pub directory: PathBuf,
    /// What the policy goes by.
    pub rules: ChildRules,
    /// Asked to finish by itself.
    pub drain_url: Option<String>,
    /// How it shows that it is well.
    pub health: Health,
    /// Most bytes resident.
    pub memory_bytes: Option<u64>,
    /// Most descriptors.
    pub open_files: Option<u64>,
    /// What is kept of its lines.
    pub log: LogLimits,
    /// How many crash reports are kept.
    pub crashes: usize,
    /// What is brought into the store when it is dead.
    pub journal: Option<JournalConfig>,
}

/// How a child shows that it is well.
#[derive(Debug, Clone, PartialEq)]
pub enum Health {
    /// By running.
    None,
    /// Over its `NOTIFY_SOCKET`, at least this often.
    Notify(Option<Duration>),
    /// By answering.
    Probe {
        /// Whom to ask.
        target: Target,
        /// How often.
        interval: Duration,
        /// How long an answer may take.
        timeout: Duration,
        /// So many failures in a row are one too many.
        failures: u32,
    },
}

/// What is probed.
#[derive(Debug, Clone, PartialEq)]
pub enum Target {
    /// `GET` is answered with 2xx.
    Http(String),
    /// A connection is accepted.
    Tcp(String),
}

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawConfig {
    state_dir: Spanned<PathBuf>,
    http: RawHttp,
    store: Option<RawStore>,
    group: Vec<RawGroup>,
    child: Vec<RawChild>,
}

impl Default for RawConfig {
    fn default() -> Self {
        let state_dir = Spanned::new(0..0, "state".into());
        RawConfig { state_dir, http: RawHttp::default(), store: None, group: Vec::new(), child: Vec::new() }
    }
}

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawHttp {
    address: Spanned<String>,
    socket: Option<Spanned<PathBuf>>,
    token_file: Option<PathBuf>,
}

impl Default for RawHttp {
    fn default() -> Self {
        RawHttp { address: at("127.0.0.1:8075".to_owned()), socket: None, token_file: None }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawStore {
    url: Spanned<String>,
    #[serde(default)]
    socket: Option<Spanned<PathBuf>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawJournal {
    data: Spanned<PathBuf>,
    #[serde(default)]
    store: Option<Spanned<String>>,
    #[serde(default = "wait_s")]
    wait_s: Spanned<f64>,
}

fn wait_s() -> Spanned<f64> {
    at(30.0)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawGroup {
    name: Spanned<String>,
    #[serde(default = "one_for_one")]
    strategy: Strategy,
    #[serde(default = "restarts_max")]
    restarts_max: Spanned<u64>,
    #[serde(default = "window_s")]
    window_s: Spanned<f64>,
}

fn one_for_one() -> Strategy {
    Strategy::OneForOne
}

fn restarts_max() -> Spanned<u64> {
    at(5)
}

fn window_s() -> Spanned<f64> {
    at(10.0)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawChild {
    name: Spanned<String>,
    command: Spanned<Vec<String>>,
    #[serde(default)]
    group: Option<Spanned<String>>,
    #[serde(default = "nothing")]
    environment: Spanned<BTreeMap<String, String>>,
    #[serde(default)]
    directory: PathBuf,
    #[serde(default = "permanent")]
    restart: Restart,
    #[serde(default = "grace_s")]
    grace_s: Spanned<f64>,
    #[serde(default = "nothing")]
    drain_url: Spanned<String>,
    #[serde(default = "drain_timeout_s")]
    drain_timeout_s: Spanned<f64>,
    #[serde(default)]
    health: RawHealth,
    #[serde(default)]
    limits: RawLimits,
    #[serde(default)]
    log: RawLog,
    #[serde(default)]
    journal: Option<RawJournal>,
}

fn nothing<T: Default>() -> Spanned<T> {
    at(T::default())
}

fn permanent() -> Restart {
    Restart::Permanent
}

fn grace_s() -> Spanned<f64> {
    at(10.0)
}

fn drain_timeout_s() -> Spanned<f64> {
    at(60.0)
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RawKind {
    None,
    Notify,
    Http,
    Tcp,
}

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawHealth {
    kind: Spanned<RawKind>,
    url: Option<Spanned<String>>,
    address: Option<Spanned<String>>,
    interval_s: Spanned<f64>,
    timeout_s: Spanned<f64>,
    failures: Spanned<u64>,
    start_timeout_s: Spanned<f64>,
    abort_timeout_s: Spanned<f64>,
}

impl Default for RawHealth {
    fn default() -> Self {
        RawHealth {
            kind: at(RawKind::None),
            url: None,
            address: None,
            interval_s: at(5.0),
            timeout_s: at(10.0),
            failures: at(3),
            start_timeout_s: at(90.0),
            abort_timeout_s: at(5.0),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawLimits {
    memory_mib: Spanned<u64>,
    open_files: Spanned<u64>,
}

impl Default for RawLimits {
    fn default() -> Self {
        RawLimits { memory_mib: at(0), open_files: at(0) }
    }
}

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawLog {
    file_mib: Spanned<u64>,
    file_age_h: Spanned<u64>,
    files: Spanned<u64>,
    line_bytes: Spanned<u64>,
    lines_per_s: Spanned<u64>,
    crashes: Spanned<u64>,
}

impl Default for RawLog {
    fn default() -> Self {
        let LogLimits { file_bytes, file_age_s, files, line_bytes, lines_per_s } = LogLimits::default();
        RawLog {
            file_mib: at(file_bytes >> 20),
            file_age_h: at(file_age_s / 3_600),
            files: at(files.into()),
            line_bytes: at(line_bytes as u64),
            lines_per_s: at(lines_per_s.into()),
            crashes: at(20),
        }
    }
}

/// A value that no file says.
fn at<T>(value: T) -> Spanned<T> {
    Spanned::new(0..0, value)
}

/// Reads and checks a file.
///
/// # Errors
/// When it cannot be read, or says what is not allowed.
pub fn load(path: &Path) -> Result<Config, ConfigError> {
    let read = |source| ConfigError::Read { path: path.to_owned(), source };
    if std::fs::metadata(path).map_err(read)?.len() > FILE_BYTES_MAX {
        return Err(read(std::io::Error::other(format!("it has more than {FILE_BYTES_MAX} bytes"))));
    }
    parse(path, &std::fs::read_to_string(path).map_err(read)?)
}

/// Checks the text of the file at `path`, which relative paths count from.
///
/// # Errors
/// When it says what is not allowed.
pub fn parse(path: &Path, text: &str) -> Result<Config, ConfigError> {
    let raw: RawConfig = toml::from_str(text).map_err(|error| ConfigError::Syntax {
        path: path.to_owned(),
        message: error.to_string().trim_end().to_owned(),
    })?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder = std::path::absolute(folder).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    Checker { path, text, folder }.config(raw)
}

struct Checker<'a> {
    path: &'a Path,
    text: &'a str,
    folder: PathBuf,
}

impl Checker<'_> {
    fn wrong<T, R>(&self, key: &str, value: &Spanned<T>, wrong: impl Display) -> Result<R, ConfigError> {
        let line = self.text[..value.span().start.min(self.text.len())].matches('\n').count() + 1;
        Err(ConfigError::Value { path: self.path.to_owned(), line, key: key.to_owned(), wrong: wrong.to_string() })
    }

    fn whole(&self, key: &str, value: &Spanned<u64>, min: u64, max: u64) -> Result<u64, ConfigError> {
        let number = *value.get_ref();
        if (min..=max).contains(&number) {
            return Ok(number);
        }
        self.wrong(key, value, format!("is {number}, it must be from {min} to {max}"))
    }

    fn time(&self, key: &str, value: &Spanned<f64>, min: f64) -> Result<Duration, ConfigError> {
        let seconds = *value.get_ref();
        if (min..=TIME_S_MAX).contains(&seconds) {
            return Ok(Duration::from_secs_f64(seconds));
        }
        self.wrong(key, value, format!("is {seconds}, it must be from {min} to {TIME_S_MAX}"))
    }

    fn name(&self, key: &str, value: &Spanned<String>) -> Result<String, ConfigError> {
        let name = value.get_ref();
        if is_name(name) {
            return Ok(name.clone());
        }
        let allowed =
            format!("is {name:?}, it must be 1 to {NAME_CHARS_MAX} letters, digits, `-`, `_` or `.`, not first `.`");
        self.wrong(key, value, allowed)
    }

    fn config(&self, raw: RawConfig) -> Result<Config, ConfigError> {
        let state_dir = self.folder.join(raw.state_dir.get_ref());
        let mut groups: Vec<(String, GroupRules)> = Vec::new();
        for group in &raw.group {
            let name = self.name("group.name", &group.name)?;
            if groups.iter().any(|(other, _)| *other == name) {
                return self.wrong("group.name", &group.name, format!("is {name:?} a second time"));
            }
            let restarts_max = self.whole("group.restarts_max", &group.restarts_max, 0, 1_000)?;
            let rules = GroupRules {
                strategy: group.strategy,
                restarts_max: u32::try_from(restarts_max).unwrap_or(u32::MAX),
                window: self.time("group.window_s", &group.window_s, 0.1)?,
            };
            groups.push((name, rules));
        }
        if !groups.iter().any(|(name, _)| name == "main") {
            let rules = GroupRules { strategy: one_for_one(), restarts_max: 5, window: Duration::from_secs(10) };
            groups.push(("main".to_owned(), rules));
        }
        let store = raw.store.as_ref().map(|store| self.store(store, &state_dir)).transpose()?;
        let mut children: Vec<ChildConfig> = Vec::new();
        if let (Some(store), Some(raw_store)) = (&store, &raw.store) {
            if groups.iter().any(|(name, _)| name == STORE) {
                return self.wrong(
                    "store",
                    &raw_store.url,
                    format!("needs a group of its own, and there is a group {STORE:?}"),
                );
            }
            // Tried for ever: whoever uses it sits an outage out.
            let rules = GroupRules { strategy: one_for_one(), restarts_max: u32::MAX, window: Duration::from_secs(10) };
            groups.push((STORE.to_owned(), rules));
            self.socket("state_dir", &raw.state_dir, &state_dir.join("children").join(STORE).join(NOTIFY_SOCKET))?;
            children.push(self.store_child(store, groups.len() - 1)?);
        }
        for child in raw.child {
            if children.len() == CHILDREN_MAX {
                return self.wrong("child", &child.name, format!("is one too many, {CHILDREN_MAX} are allowed"));
            }
            if children.iter().any(|other| other.name == *child.name.get_ref()) {
                return self.wrong("child.name", &child.name, format!("is {:?} a second time", child.name.get_ref()));
            }
            children.push(self.child(child, &groups, &state_dir, &raw.state_dir, store.as_ref())?);
        }
        let token_file = raw.http.token_file.map(|file| self.folder.join(file));
        let http = match &raw.http.address.get_ref()[..] {
            "" => None,
            text => match text.parse::<SocketAddr>() {
                Ok(address) if !address.ip().is_loopback() && token_file.is_none() => {
                    let why = format!("is {text:?}, beyond this machine, and there is no `http.token_file`");
                    return self.wrong("http.address", &raw.http.address, why);
                }
                Ok(address) => Some(address),
                Err(_) => {
                    let why = format!("is {text:?}, it must be an address and port such as 127.0.0.1:8075, or \"\"");
                    return self.wrong("http.address", &raw.http.address, why);
                }
            },
        };
        let socket = match &raw.http.socket {
            Some(socket) if socket.get_ref().as_os_str().is_empty() => None,
            Some(socket) => {
                let path = self.folder.join(socket.get_ref());
                self.socket("http.socket", socket, &path)?;
                Some(path)
            }
            None => Some(state_dir.join("api.sock")),
        };
        Ok(Config { state_dir, http, socket, token_file, groups, children, store })
    }

    fn store(&self, raw: &RawStore, state_dir: &Path) -> Result<StoreConfig, ConfigError> {
        let url = match raw.url.get_ref().split_once(':') {
            Some(("mem", "")) => "mem:".to_owned(),
            Some(("local", directory)) if !directory.is_empty() => {
                format!("local:{}", self.folder.join(directory).display())
            }
            _ => {
                let why = format!("is {:?}, it must be local:DIR, or mem:", raw.url.get_ref());
                return self.wrong("store.url", &raw.url, why);
            }
        };
        let socket = match &raw.socket {
            Some(socket) => self.folder.join(socket.get_ref()),
            None => state_dir.join("store.sock"),
        };
        match &raw.socket {
            Some(key) => self.socket("store.socket", key, &socket)?,
            None => self.socket("state_dir", &raw.url, &socket)?,
        }
        Ok(StoreConfig { url, socket })
    }

    /// The store is a child as others are: it outlives a supervisor that is killed, has a log, and is started again.
    fn store_child(&self, store: &StoreConfig, group: usize) -> Result<ChildConfig, ConfigError> {
        let program =
            std::env::current_exe().map_err(|source| ConfigError::Read { path: self.path.to_owned(), source })?;
        let text = |path: &Path| path.display().to_string();
        // What Linux says when the file was replaced: then the new one is meant.
        let program = text(&program).trim_end_matches(" (deleted)").to_owned();
        let command =
            vec![program, "store".into(), "--store".into(), store.url.clone(), "--socket".into(), text(&store.socket)];
        Ok(ChildConfig {
            name: STORE.to_owned(),
            command,
            environment: BTreeMap::new(),
            directory: self.folder.clone(),
            rules: ChildRules {
                group,
                restart: Restart::Permanent,
                grace: STORE_GRACE,
                // A large store that was killed is walked through before it is served.
                start_timeout: Duration::from_secs(600),
                abort_timeout: Duration::from_secs(5),
                drain_timeout: STORE_GRACE,
            },
            drain_url: None,
            health: Health::Notify(Some(STORE_TIMEOUT)),
            memory_bytes: None,
            open_files: None,
            log: LogLimits::default(),
            crashes: 20,
            journal: None,
        })
    }

    fn journal(&self, raw: &RawJournal, store: Option<&StoreConfig>) -> Result<JournalConfig, ConfigError> {
        let data = self.folder.join(raw.data.get_ref());
        let url = match (&raw.store, store) {
            (Some(url), _) => match url.get_ref().split_once(':') {
                Some((kind @ ("local" | "unix" | "fdb"), path)) if !path.is_empty() => {
                    format!("{kind}:{}", self.folder.join(path).display())
                }
                _ => {
                    let why = format!("is {:?}, it must be local:DIR, unix:SOCKET or fdb:CLUSTER_FILE", url.get_ref());
                    return self.wrong("child.journal.store", url, why);
                }
            },
            (None, Some(store)) => format!("unix:{}", store.socket.display()),
            (None, None) => format!("local:{}", data.join("store").display()),
        };
        let wait = self.time("child.journal.wait_s", &raw.wait_s, 0.0)?;
        Ok(JournalConfig { directory: data.join("journal"), store: url, wait })
    }

    fn socket<T>(&self, key: &str, value: &Spanned<T>, path: &Path) -> Result<(), ConfigError> {
        let bytes = path.as_os_str().len();
        if bytes > SOCKET_BYTES_MAX {
            let why = format!(
                "is too long: {} has {bytes} bytes, a socket's path at most {SOCKET_BYTES_MAX}",
                path.display()
            );
            return self.wrong(key, value, why);
        }
        Ok(())
    }

    fn child(
        &self,
        raw: RawChild,
        groups: &[(String, GroupRules)],
        state_dir: &Path,
        state_key: &Spanned<PathBuf>,
        store: Option<&StoreConfig>,
    ) -> Result<ChildConfig, ConfigError> {
        let name = self.name("child.name", &raw.name)?;
        self.socket("state_dir", state_key, &state_dir.join("children").join(&name).join(NOTIFY_SOCKET))?;
        let command = raw.command.get_ref();
        if command.first().is_none_or(String::is_empty) || command.iter().any(|part| part.contains('\0')) {
            return self.wrong("child.command", &raw.command, "must name a program, without zero bytes");
        }
        let is_variable = |name: &String| !name.is_empty() && !name.contains(['=', '\0']);
        if !raw.environment.get_ref().iter().all(|(name, value)| is_variable(name) && !value.contains('\0')) {
            return self.wrong("child.environment", &raw.environment, "has a name with `=` or without a letter");
        }
        let group = match &raw.group {
            None => groups.iter().position(|(name, _)| name == "main"),
            Some(group) => groups.iter().position(|(name, _)| name == group.get_ref()),
        };
        let Some(group) = group else {
            let names: Vec<&str> = groups.iter().map(|(name, _)| &name[..]).collect();
            let key = raw.group.as_ref().unwrap_or(&raw.name);
            return self.wrong("child.group", key, format!("is none of the groups: {}", names.join(", ")));
        };
        let health = self.health(&raw.health)?;
        let memory_mib = self.whole("child.limits.memory_mib", &raw.limits.memory_mib, 0, 1 << 30)?;
        let open_files = self.whole("child.limits.open_files", &raw.limits.open_files, 0, 1 << 30)?;
        if (1..16).contains(&open_files) {
            return self.wrong("child.limits.open_files", &raw.limits.open_files, "must be 0 (none) or at least 16");
        }
        let drain_url = match &raw.drain_url.get_ref()[..] {
            "" => None,
            url => {
                self.url("child.drain_url", &raw.drain_url)?;
                Some(url.to_owned())
            }
        };
        let journal = raw.journal.as_ref().map(|journal| self.journal(journal, store)).transpose()?;
        let log = LogLimits {
            file_bytes: self.whole("child.log.file_mib", &raw.log.file_mib, 1, 4_096)? << 20,
            file_age_s: self.whole("child.log.file_age_h", &raw.log.file_age_h, 1, 8_760)? * 3_600,
            files: u32::try_from(self.whole("child.log.files", &raw.log.files, 1, 1_000)?).unwrap_or(1),
            line_bytes: usize::try_from(self.whole("child.log.line_bytes", &raw.log.line_bytes, 80, 65_536)?)
                .unwrap_or(80),
            lines_per_s: u32::try_from(self.whole("child.log.lines_per_s", &raw.log.lines_per_s, 1, 1_000_000)?)
                .unwrap_or(1),
        };
        Ok(ChildConfig {
            command: raw.command.into_inner(),
            environment: raw.environment.into_inner(),
            directory: self.folder.join(raw.directory),
            rules: ChildRules {
                group,
                restart: raw.restart,
                grace: self.time("child.grace_s", &raw.grace_s, 0.0)?,
                start_timeout: self.time("child.health.start_timeout_s", &raw.health.start_timeout_s, 0.1)?,
                abort_timeout: self.time("child.health.abort_timeout_s", &raw.health.abort_timeout_s, 0.0)?,
                drain_timeout: self.time("child.drain_timeout_s", &raw.drain_timeout_s, 0.1)?,
            },
            drain_url,
            health,
            memory_bytes: (memory_mib > 0).then_some(memory_mib << 20),
            open_files: (open_files > 0).then_some(open_files),
            log,
            crashes: usize::try_from(self.whole("child.log.crashes", &raw.log.crashes, 1, 1_000)?).unwrap_or(1),
            journal,
            name,
        })
    }

    fn health(&self, raw: &RawHealth) -> Result<Health, ConfigError> {
        let timeout = self.time("child.health.timeout_s", &raw.timeout_s, 0.0)?;
        let interval = self.time("child.health.interval_s", &raw.interval_s, 0.05)?;
        let failures = u32::try_from(self.whole("child.health.failures", &raw.failures, 1, 1_000)?).unwrap_or(1);
        let target = match (raw.kind.get_ref(), &raw.url, &raw.address) {
            (RawKind::None, None, None) => return Ok(Health::None),
            (RawKind::Notify, None, None) => return Ok(Health::Notify((!timeout.is_zero()).then_some(timeout))),
            (RawKind::Http, Some(url), None) => {
                self.url("child.health.url", url)?;
                Target::Http(url.get_ref().clone())
            }
            (RawKind::Tcp, None, Some(address)) => {
                let text = address.get_ref();
                if text.rsplit_once(':').is_none_or(|(host, port)| host.is_empty() || port.parse::<u16>().is_err()) {
                    let why = format!("is {text:?}, it must be HOST:PORT");
                    return self.wrong("child.health.address", address, why);
                }
                Target::Tcp(text.clone())
            }
            (RawKind::Http, ..) => {
                return self.wrong(
                    "child.health.kind",
                    &raw.kind,
                    "is http: that goes with `url`, and with no `address`",
                );
            }
            (RawKind::Tcp, ..) => {
                return self.wrong(
                    "child.health.kind",
                    &raw.kind,
                    "is tcp: that goes with `address`, and with no `url`",
                );
            }
            _ => return self.wrong("child.health.kind", &raw.kind, "must be http for `url`, tcp for `address`"),
        };
        if timeout.is_zero() {
            return self.wrong("child.health.timeout_s", &raw.timeout_s, "is 0: an answer must come at some time");
        }
        Ok(Health::Probe { target, interval, timeout, failures })
    }

    fn url(&self, key: &str, value: &Spanned<String>) -> Result<(), ConfigError> {
        let uri = value.get_ref().parse::<hyper::Uri>().ok();
        if uri.is_some_and(|uri| uri.scheme_str() == Some("http") && uri.host().is_some()) {
            return Ok(());
        }
        self.wrong(key, value, format!("is {:?}, it must be http://HOST:PORT/PATH", value.get_ref()))
    }
}

/// Whether a child or a group may be called that; such a name is safe as a folder's.
pub fn is_name(name: &str) -> bool {
    (1..=NAME_CHARS_MAX).contains(&name.len())
        && !name.starts_with('.')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
}
