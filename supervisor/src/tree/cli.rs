//! `vsekai-supervisor tree …`: the tree from the command line, through the API of a running supervisor.

use super::client::{Answer, Question, Target, ask};
use super::command::{Change, ChangeKind, NodeView, Revision};
use super::condition::Payload;
use super::machine::Listing;
use super::path::{NodePath, Pattern};
use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use hyper::{Method, header};
use serde_json::Value;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

/// Most bytes that are read from a file or from standard input.
const INPUT_BYTES_MAX: u64 = 256 << 20;
/// Characters of a payload in a list.
const PREVIEW_CHARS: usize = 60;

/// What to do with the state tree.
#[derive(Debug, Clone, Subcommand)]
pub enum TreeCommand {
    /// Show one node
    Get {
        /// Where, as /component/component
        path: NodePath,
        /// The payload alone, as it is
        #[arg(long)]
        raw: bool,
    },
    /// Set the payload of a node, and make the node if it is missing
    Put(PutArgs),
    /// Delete a node and all below it
    Delete {
        /// Where
        path: NodePath,
        /// Only when the payload has this version
        #[arg(long, value_name = "N")]
        if_version: Option<u64>,
    },
    /// List nodes
    List {
        /// Which: `*` stands for one component, `**` for any number
        #[arg(default_value = "/**")]
        pattern: Pattern,
        /// Most nodes
        #[arg(long, default_value_t = 1000, value_name = "N")]
        limit: usize,
        /// Go on behind this path
        #[arg(long, value_name = "PATH")]
        after: Option<NodePath>,
        /// Only how many there are
        #[arg(long, conflicts_with_all = ["limit", "after"])]
        count: bool,
    },
    /// Follow changes until interrupted
    Watch {
        /// Of which nodes
        #[arg(default_value = "/**")]
        pattern: Pattern,
        /// Begin after this revision instead of now
        #[arg(long, value_name = "REVISION")]
        cursor: Option<u64>,
        /// End after so many revisions
        #[arg(long, value_name = "N")]
        revisions: Option<u64>,
    },
    /// Do several operations at once, if all checks hold
    Transaction {
        /// JSON: {"checks": […], "operations": […]}; standard input when missing
        file: Option<PathBuf>,
    },
    /// Write the whole tree as JSON
    Export {
        /// Into this file, which must not be there; standard output when missing
        file: Option<PathBuf>,
    },
    /// Put an export in the place of the whole tree
    Import {
        /// The export
        file: PathBuf,
        /// Everything that is in the tree goes: say that this is meant
        #[arg(long, required = true)]
        replace: bool,
    },
    /// Sessions, which nodes can be bound to
    #[command(subcommand)]
    Session(SessionCommand),
    /// Revision, sizes and limits
    Status,
}

/// What to do with sessions.
#[derive(Debug, Clone, Copy, Subcommand)]
pub enum SessionCommand {
    /// Begin one, and print its number
    Open {
        /// How long it lives when it is not renewed
        #[arg(long, default_value_t = 30_000, value_name = "MS")]
        ttl_ms: u64,
    },
    /// Let one live for its whole time again
    Renew {
        /// Its number
        session: u64,
    },
    /// End one, and the nodes bound to it
    Close {
        /// Its number
        session: u64,
    },
    /// List them
    List,
}

/// A node to put.
#[derive(Debug, Clone, Args)]
pub struct PutArgs {
    /// Where
    path: NodePath,
    /// The payload as text
    #[arg(required_unless_present_any = ["file", "no_payload"])]
    payload: Option<String>,
    /// The payload from a file; `-` is standard input
    #[arg(long, conflicts_with = "payload", value_name = "FILE")]
    file: Option<PathBuf>,
    /// No payload
    #[arg(long, conflicts_with_all = ["payload", "file"])]
    no_payload: bool,
    /// Only when the node is missing
    #[arg(long, conflicts_with_all = ["update", "if_version"])]
    create: bool,
    /// Only when the node is there
    #[arg(long, conflicts_with = "if_version")]
    update: bool,
    /// Only when the payload has this version
    #[arg(long, value_name = "N")]
    if_version: Option<u64>,
    /// The node goes with this session
    #[arg(long, value_name = "N")]
    session: Option<u64>,
    /// The node goes after this time
    #[arg(long, value_name = "MS")]
    ttl_ms: Option<u64>,
    /// The node goes when this condition no longer holds, in JSON, such as {"at":["/a",{"exists":true}]}
    #[arg(long, value_name = "CONDITION")]
    keep_while: Option<String>,
}

/// Does it, and writes what came of it to `out`: for people, or as the API's JSON, one document a line.
///
/// # Errors
/// When the supervisor can't be reached, or refuses: in its words.
pub fn run(command: &TreeCommand, target: &Target, json: bool, out: &mut dyn Write) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("cannot start a runtime")?.block_on(Session { target, json, out }.run(command))
}

struct Session<'s> {
    target: &'s Target,
    json: bool,
    out: &'s mut dyn Write,
}

impl Session<'_> {
    async fn run(mut self, command: &TreeCommand) -> Result<()> {
        match command {
            TreeCommand::Get { path, raw: true } => {
                let question = Question::of_node(Method::GET, path.as_str()).query("raw", Some(true));
                self.out.write_all(&self.ask(question).await?.bytes().await?)?;
            }
            TreeCommand::Get { path, raw: false } => {
                let text = self.ask(Question::of_node(Method::GET, path.as_str())).await?.text().await?;
                self.show(&text, |text, out| show_node(&serde_json::from_str(text)?, out))?;
            }
            TreeCommand::Put(put) => {
                let text = self.ask(put.question()?).await?.text().await?;
                self.show(&text, |text, out| {
                    let reply: Value = serde_json::from_str(text)?;
                    let what = if reply["is_new"] == true { "created" } else { "updated" };
                    let (version, revision) = (&reply["payload_version"], &reply["revision"]);
                    Ok(writeln!(out, "{what} {}, version {version}, revision {revision}", put.path)?)
                })?;
            }
            TreeCommand::Delete { path, if_version } => {
                let mut question = Question::of_node(Method::DELETE, path.as_str());
                if let Some(version) = if_version {
                    question = question.header(header::IF_MATCH, format!("\"{version}\""));
                }
                let text = self.ask(question).await?.text().await?;
                self.show_count(&text, "nodes deleted")?;
            }
            TreeCommand::List { pattern, count: true, .. } => {
                let question = Question::new(Method::GET, "/count").query("pattern", Some(pattern));
                let text = self.ask(question).await?.text().await?;
                self.show_count(&text, "nodes")?;
            }
            TreeCommand::List { pattern, limit, after, count: false } => {
                let question = Question::new(Method::GET, "/list").query("pattern", Some(pattern));
                let question = question.query("limit", Some(limit)).query("after", after.as_ref());
                let text = self.ask(question).await?.text().await?;
                self.show(&text, show_listing)?;
            }
            TreeCommand::Watch { pattern, cursor, revisions } => self.watch(pattern, *cursor, *revisions).await?,
            TreeCommand::Transaction { file } => {
                let body = read_input(file.as_deref().unwrap_or(Path::new("-")))?;
                let question = Question::new(Method::POST, "/transaction").body(body);
                let text = self.ask(question).await?.text().await?;
                self.show(&text, |text, out| {
                    let reply: Value = serde_json::from_str(text)?;
                    writeln!(out, "revision {}", reply["revision"])?;
                    for result in reply["results"].as_array().into_iter().flatten() {
                        writeln!(out, "{result}")?;
                    }
                    Ok(())
                })?;
            }
            TreeCommand::Export { file } => self.export(file.as_deref()).await?,
            TreeCommand::Import { file, replace: _ } => {
                let question = Question::new(Method::POST, "/import").body(read_input(file)?);
                let text = self.ask(question).await?.text().await?;
                self.show_count(&text, "nodes imported")?;
            }
            TreeCommand::Session(command) => self.session(*command).await?,
            TreeCommand::Status => {
                let text = self.ask(Question::new(Method::GET, "/status")).await?.text().await?;
                self.show(&text, |text, out| {
                    let status: Value = serde_json::from_str(text)?;
                    Ok(writeln!(out, "{status:#}")?)
                })?;
            }
        }
        self.out.flush()?;
        Ok(())
    }

    async fn ask(&self, question: Question) -> Result<Answer> {
        ask(self.target, question).await
    }

    fn show(&mut self, text: &str, show: impl FnOnce(&str, &mut dyn Write) -> Result<()>) -> Result<()> {
        if self.json { Ok(writeln!(self.out, "{}", text.trim_end())?) } else { show(text, self.out) }
    }

    fn show_count(&mut self, text: &str, what: &str) -> Result<()> {
        self.show(text, |text, out| {
            let reply: Value = serde_json::from_str(text)?;
            Ok(writeln!(out, "{} {what}, revision {}", reply["count"], reply["revision"])?)
        })
    }

    async fn watch(&mut self, pattern: &Pattern, cursor: Option<u64>, revisions: Option<u64>) -> Result<()> {
        let question = Question::new(Method::GET, "/watch").query("pattern", Some(pattern)).query("cursor", cursor);
        let mut events = self.ask(question).await?.events();
        let mut cursor = String::new();
        let mut left = revisions.unwrap_or(u64::MAX);
        while left > 0 {
            let Some(event) = events.next().await? else {
                bail!("the supervisor has hung up; go on with --cursor {cursor}");
            };
            cursor = event.id.unwrap_or(cursor);
            match &*event.event {
                "revision" if self.json => writeln!(self.out, "{}", event.data)?,
                "revision" => {
                    let Revision { revision, changes } = serde_json::from_str(&event.data)?;
                    changes.iter().try_for_each(|change| show_change(revision, change, self.out))?;
                }
                "compacted" | "stopped" => bail!("{}: {}; the last cursor was {cursor}", event.event, event.data),
                _ => continue,
            }
            self.out.flush()?;
            left -= 1;
        }
        Ok(())
    }

    async fn export(&mut self, file: Option<&Path>) -> Result<()> {
        let mut answer = self.ask(Question::new(Method::GET, "/export")).await?;
        let Some(path) = file else {
            while let Some(piece) = answer.piece().await? {
                self.out.write_all(&piece)?;
            }
            return Ok(());
        };
        let mut file = File::create_new(path).with_context(|| format!("cannot create {}", path.display()))?;
        let mut bytes = 0;
        while let Some(piece) = answer.piece().await? {
            bytes += piece.len();
            file.write_all(&piece).with_context(|| format!("cannot write {}", path.display()))?;
        }
        file.sync_all().with_context(|| format!("cannot write {}", path.display()))?;
        Ok(writeln!(self.out, "{bytes} bytes in {}", path.display())?)
    }

    async fn session(&mut self, command: SessionCommand) -> Result<()> {
        let question = match command {
            SessionCommand::Open { ttl_ms } => {
                Question::new(Method::POST, "/session").body(serde_json::json!({ "ttl_ms": ttl_ms }).to_string())
            }
            SessionCommand::Renew { session } => Question::new(Method::POST, &format!("/session/{session}")),
            SessionCommand::Close { session } => Question::new(Method::DELETE, &format!("/session/{session}")),
            SessionCommand::List => Question::new(Method::GET, "/session"),
        };
        let text = self.ask(question).await?.text().await?;
        match command {
            SessionCommand::Close { .. } => self.show_count(&text, "sessions closed"),
            SessionCommand::List => self.show(&text, |text, out| {
                let reply: Value = serde_json::from_str(text)?;
                for session in reply["sessions"].as_array().into_iter().flatten() {
                    writeln!(out, "{} of {} ms", session["session"], session["ttl_ms"])?;
                }
                Ok(())
            }),
            _ => self.show(&text, |text, out| {
                let session: Value = serde_json::from_str(text)?;
                Ok(writeln!(out, "{}", session["session"])?)
            }),
        }
    }
}

impl PutArgs {
    fn question(&self) -> Result<Question> {
        let mut question = Question::of_node(Method::PUT, self.path.as_str())
            .query("session", self.session)
            .query("ttl_ms", self.ttl_ms)
            .query("keep_while", self.keep_while.as_ref())
            .query("no_payload", self.no_payload.then_some(true));
        if self.create {
            question = question.header(header::IF_NONE_MATCH, "*");
        }
        if self.update {
            question = question.header(header::IF_MATCH, "*");
        }
        if let Some(version) = self.if_version {
            question = question.header(header::IF_MATCH, format!("\"{version}\""));
        }
        let payload = match &self.file {
            Some(file) => read_input(file)?,
            None => self.payload.clone().unwrap_or_default().into_bytes(),
        };
        Ok(question.body(payload))
    }
}

fn read_input(file: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = |input: &mut dyn Read, bytes: &mut Vec<u8>| input.take(INPUT_BYTES_MAX + 1).read_to_end(bytes);
    if file == Path::new("-") {
        read(&mut std::io::stdin(), &mut bytes).context("cannot read standard input")?;
    } else {
        let opened = File::open(file).and_then(|mut file| read(&mut file, &mut bytes));
        opened.with_context(|| format!("cannot read {}", file.display()))?;
    }
    if bytes.len() as u64 > INPUT_BYTES_MAX {
        bail!("{} has more than {INPUT_BYTES_MAX} bytes", file.display());
    }
    Ok(bytes)
}

/// On one line, and without what a terminal would obey.
fn preview(payload: Option<&Payload>, chars_max: usize) -> String {
    let Some(payload) = payload else { return "-".into() };
    let Ok(text) = std::str::from_utf8(&payload.0) else { return format!("({} bytes)", payload.len()) };
    let mut shown: String = text.chars().take(chars_max).flat_map(char::escape_debug).collect();
    if text.chars().nth(chars_max).is_some() {
        shown.push('…');
    }
    shown
}

fn show_node(node: &NodeView, out: &mut dyn Write) -> Result<()> {
    writeln!(out, "{}", node.path)?;
    writeln!(out, "  payload   {}", preview(node.payload.as_ref(), 4_000))?;
    writeln!(out, "  version   {}, put at revision {}", node.payload_version, node.modified)?;
    let intermediate = if node.intermediate { ", made for its children" } else { "" };
    writeln!(out, "  created   at revision {}{intermediate}", node.created)?;
    writeln!(out, "  children  {}, version {}", node.child_list_length, node.child_list_version)?;
    if let Some(session) = node.session {
        writeln!(out, "  session   {session}")?;
    }
    if let Some(expires_ms) = node.expires_ms {
        writeln!(out, "  expires   {expires_ms} ms since 1970")?;
    }
    if let Some(condition) = &node.keep_while {
        writeln!(out, "  kept while {}", serde_json::to_string(condition)?)?;
    }
    Ok(())
}

fn show_listing(text: &str, out: &mut dyn Write) -> Result<()> {
    let listing: Listing = serde_json::from_str(text)?;
    let width = listing.nodes.iter().map(|node| node.path.as_str().chars().count()).max().unwrap_or(0).min(60);
    for node in &listing.nodes {
        let (path, version) = (node.path.as_str(), node.payload_version);
        writeln!(out, "{path:width$}  v{version}  {}", preview(node.payload.as_ref(), PREVIEW_CHARS))?;
    }
    match listing.next {
        Some(next) => writeln!(out, "More behind --after '{next}' (revision {})", listing.revision)?,
        None => writeln!(out, "{} nodes, revision {}", listing.nodes.len(), listing.revision)?,
    }
    Ok(())
}

fn show_change(revision: u64, change: &Change, out: &mut dyn Write) -> Result<()> {
    let path = &change.path;
    match (change.kind, change.cause) {
        (ChangeKind::Created, _) => write!(out, "{revision} created {path}")?,
        (ChangeKind::Updated, _) => write!(out, "{revision} updated {path}")?,
        (ChangeKind::Deleted, Some(cause)) => return Ok(writeln!(out, "{revision} deleted {path} ({cause:?})")?),
        (ChangeKind::Deleted, None) => return Ok(writeln!(out, "{revision} deleted {path}")?),
    }
    Ok(writeln!(out, " v{} {}", change.payload_version, preview(change.payload.as_ref(), PREVIEW_CHARS))?)
}
