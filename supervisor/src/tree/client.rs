//! Asks a supervisor's API for its tree, over TCP or a Unix socket.

use anyhow::{Context, Result, bail};
use axum::body::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::{Method, Request, Response, header};
use hyper_util::rt::TokioIo;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

/// Where the tree's router is nested.
const BASE: &str = "/api/tree";
/// As long as an answer may take to begin.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// Most bytes of an answer that is not streamed.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// Most bytes of one line of an event stream.
const LINE_BYTES_MAX: usize = 128 << 20;
/// What stays as it is in a URL's path.
const PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b'/');

/// Which supervisor is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Where it listens.
    pub address: Address,
    /// What it is shown, as `Authorization: Bearer …`.
    pub token: Option<String>,
}

/// Where a supervisor listens: `http://HOST:PORT` or `unix:PATH`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// Host and port.
    Tcp(String),
    /// A socket.
    Unix(PathBuf),
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:").filter(|path| !path.is_empty()) {
            return Ok(Address::Unix(path.into()));
        }
        let host = text.strip_prefix("http://").map(|host| host.trim_end_matches('/'));
        match host.filter(|host| !host.is_empty() && !host.contains(['/', '?', '#', '@'])) {
            Some(host) if host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()) => {
                Ok(Address::Tcp(host.to_owned()))
            }
            Some(host) if !host.contains(':') => Ok(Address::Tcp(format!("{host}:80"))),
            _ => Err(format!("`{text}` is no address: allowed are http://HOST:PORT and unix:PATH")),
        }
    }
}

/// Something to ask for.
#[derive(Debug, Clone)]
pub struct Question {
    method: Method,
    uri: String,
    headers: Vec<(header::HeaderName, String)>,
    body: Bytes,
}

impl Question {
    /// One without a body, of a place below [`BASE`].
    pub fn new(method: Method, place: &str) -> Self {
        Question { method, uri: format!("{BASE}{place}"), headers: Vec::new(), body: Bytes::new() }
    }

    /// One about a node.
    pub fn of_node(method: Method, path: &str) -> Self {
        Self::new(method, &format!("/node{}", utf8_percent_encode(path, PATH)))
    }

    /// With `?name=value`, when there is a value.
    pub fn query(mut self, name: &str, value: Option<impl ToString>) -> Self {
        if let Some(value) = value {
            let separator = if self.uri.contains('?') { '&' } else { '?' };
            let value = value.to_string();
            self.uri.push_str(&format!("{separator}{name}={}", utf8_percent_encode(&value, NON_ALPHANUMERIC)));
        }
        self
    }

    /// With a header.
    pub fn header(mut self, name: header::HeaderName, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// With a body.
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }
}

/// What was answered, with its body yet to come.
#[derive(Debug)]
pub struct Answer(Response<Incoming>);

/// Asks.
///
/// # Errors
/// When the supervisor can't be reached, or answers with an error: its words.
pub async fn ask(target: &Target, question: Question) -> Result<Answer> {
    let answer = tokio::time::timeout(ANSWER_WITHIN, send(target, question)).await;
    let answer = answer.context("the supervisor does not answer")??;
    let status = answer.status();
    if status.is_success() {
        return Ok(Answer(answer));
    }
    let text = Answer(answer).text().await?;
    let error = serde_json::from_str::<serde_json::Value>(&text).ok();
    let words = error.as_ref().and_then(|error| error["error"].as_str()).unwrap_or(text.trim());
    bail!("{status}: {words}");
}

async fn send(target: &Target, question: Question) -> Result<Response<Incoming>> {
    match &target.address {
        Address::Tcp(host) => {
            let stream = TcpStream::connect(host).await.with_context(|| format!("cannot connect to {host}"))?;
            exchange(stream, host, target, question).await
        }
        Address::Unix(path) => {
            let stream = UnixStream::connect(path).await;
            let stream = stream.with_context(|| format!("cannot connect to {}", path.display()))?;
            exchange(stream, "localhost", target, question).await
        }
    }
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    host: &str,
    target: &Target,
    question: Question,
) -> Result<Response<Incoming>> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // It ends with the answer, or says what went wrong through it.
    tokio::spawn(connection);
    let mut request = Request::builder().method(question.method).uri(question.uri).header(header::HOST, host);
    for (name, value) in question.headers {
        request = request.header(name, value);
    }
    if let Some(token) = &target.token {
        request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
    }
    Ok(sender.send_request(request.body(Full::new(question.body))?).await?)
}

impl Answer {
    /// The whole body as text.
    ///
    /// # Errors
    /// When it breaks off, is too large or no text.
    pub async fn text(self) -> Result<String> {
        let bytes = self.bytes().await?;
        String::from_utf8(bytes.into()).context("the answer is no text")
    }

    /// The whole body.
    ///
    /// # Errors
    /// When it breaks off or is too large.
    pub async fn bytes(self) -> Result<Bytes> {
        let body = Limited::new(self.0.into_body(), ANSWER_BYTES_MAX).collect().await;
        Ok(body.map_err(|error| anyhow::anyhow!(error).context("the answer breaks off or is too large"))?.to_bytes())
    }

    /// The next piece of the body; `None` at its end.
    ///
    /// # Errors
    /// When it breaks off.
    pub async fn piece(&mut self) -> Result<Option<Bytes>> {
        while let Some(frame) = self.0.body_mut().frame().await {
            if let Ok(piece) = frame.context("the answer breaks off")?.into_data() {
                return Ok(Some(piece));
            }
        }
        Ok(None)
    }

    /// The body as a stream of events.
    pub fn events(self) -> Events {
        Events { answer: self, bytes: Vec::new(), searched: 0 }
    }
}

/// One event of a stream.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServerEvent {
    /// What kind.
    pub event: String,
    /// Its place, to resume from.
    pub id: Option<String>,
    /// JSON.
    pub data: String,
}

/// Events as they come.
#[derive(Debug)]
pub struct Events {
    answer: Answer,
    bytes: Vec<u8>,
    searched: usize,
}

impl Events {
    /// The next event; `None` when the stream ends.
    ///
    /// # Errors
    /// When it breaks off, or is no event stream.
    pub async fn next(&mut self) -> Result<Option<ServerEvent>> {
        let mut event = ServerEvent::default();
        while let Some(line) = self.line().await? {
            match line.split_once(':').map(|(name, value)| (name, value.strip_prefix(' ').unwrap_or(value))) {
                None if line.is_empty() && !event.data.is_empty() => return Ok(Some(event)),
                Some(("event", kind)) => event.event = kind.to_owned(),
                Some(("id", id)) => event.id = Some(id.to_owned()),
                Some(("data", data)) => event.data.push_str(data),
                // Comments, and what this client does not know.
                _ => {}
            }
        }
        Ok(None)
    }

    async fn line(&mut self) -> Result<Option<String>> {
        loop {
            if let Some(at) = self.bytes[self.searched..].iter().position(|byte| *byte == b'\n') {
                let rest = self.bytes.split_off(self.searched + at + 1);
                let mut line = std::mem::replace(&mut self.bytes, rest);
                self.searched = 0;
                line.pop();
                return Ok(Some(String::from_utf8(line).context("the event stream is no text")?));
            }
            self.searched = self.bytes.len();
            if self.searched > LINE_BYTES_MAX {
                bail!("an event has more than {LINE_BYTES_MAX} bytes");
            }
            match self.answer.piece().await? {
                Some(piece) => self.bytes.extend_from_slice(&piece),
                None => return Ok(None),
            }
        }
    }
}
