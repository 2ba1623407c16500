//! The command line's side of the API: over the Unix socket, or TCP with a token.

use crate::config;
use crate::tree::client::{Address, Target};
use anyhow::{Context, Result, bail};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

/// How long an answer may take to begin.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Most bytes of an answer.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Where a supervisor is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// At this socket.
    Socket(PathBuf),
    /// At this host and port.
    Tcp(String),
}

/// Asks a supervisor.
#[derive(Debug, Clone)]
pub struct Client {
    place: Place,
    token: Option<String>,
}

/// What went wrong with a request.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// There is no supervisor.
    #[error("no supervisor answers at {0}")]
    NotThere(String, #[source] anyhow::Error),
    /// It says no, and why.
    #[error("{0}")]
    Refused(String),
}

impl Client {
    /// The supervisor at a URL, at a socket, or of a configuration; the first that is given.
    ///
    /// # Errors
    /// When none of them says where it is.
    pub fn new(url: Option<&str>, socket: Option<&Path>, config: &Path, token_file: Option<&Path>) -> Result<Client> {
        let token = token_file.map(crate::api::read_token).transpose()?;
        if let Some(url) = url {
            let uri: hyper::Uri = url.parse().with_context(|| format!("{url} is no URL"))?;
            let (Some("http"), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
                bail!("{url} must be http://HOST:PORT");
            };
            return Ok(Client { place: Place::Tcp(authority.to_string()), token });
        }
        if let Some(socket) = socket {
            return Ok(Client { place: Place::Socket(socket.to_owned()), token });
        }
        let config = config::load(config).context("where is the supervisor? --url, --socket or --config says so")?;
        let place = match (config.socket, config.http) {
            (Some(socket), _) => Place::Socket(socket),
            (None, Some(address)) => Place::Tcp(address.to_string()),
            (None, None) => bail!("this supervisor listens nowhere (`http.socket` and `http.address` are empty)"),
        };
        let token = match (token, config.token_file, &place) {
            (None, Some(file), Place::Tcp(_)) => Some(crate::api::read_token(&file)?),
            (token, ..) => token,
        };
        Ok(Client { place, token })
    }

    /// The same supervisor, for the commands of the state tree.
    pub fn target(&self) -> Target {
        let address = match &self.place {
            Place::Socket(path) => Address::Unix(path.clone()),
            Place::Tcp(authority) => Address::Tcp(authority.clone()),
        };
        Target { address, token: self.token.clone() }
    }

    /// Asks for something and understands the answer.
    ///
    /// # Errors
    /// When there is no answer, or it is no.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        let text = self.text(Method::GET, path, String::new()).await?;
        serde_json::from_str(&text).map_err(|error| Failure::Refused(format!("the answer is not understood: {error}")))
    }

    /// Asks for something to be done; the answer is what was done.
    ///
    /// # Errors
    /// When there is no answer, or it is no.
    pub async fn post(&self, path: &str, body: String) -> Result<String, Failure> {
        let text = self.text(Method::POST, path, body).await?;
        let done: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        Ok(done["done"].as_str().unwrap_or(text.trim()).to_owned())
    }

    /// Asks, and waits for the whole answer.
    ///
    /// # Errors
    /// When there is no answer, or it is no.
    pub async fn text(&self, method: Method, path: &str, body: String) -> Result<String, Failure> {
        let mut answer = self.send(method, path, body).await?;
        let mut text = Vec::new();
        while let Some(part) = self.part(&mut answer).await? {
            text.extend_from_slice(&part);
            if text.len() > ANSWER_BYTES_MAX {
                return Err(Failure::Refused("the answer is too long".to_owned()));
            }
        }
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// Gives the data of server-sent events to `each` until the stream ends or that says no.
    ///
    /// # Errors
    /// When there is no answer, or it is no.
    pub async fn events(&self, path: &str, mut each: impl FnMut(&str, &str) -> bool) -> Result<(), Failure> {
        let mut answer = self.send(Method::GET, path, String::new()).await?;
        let (mut begun, mut event, mut data) = (Vec::new(), String::new(), String::new());
        while let Some(part) = self.part(&mut answer).await? {
            begun.extend_from_slice(&part);
            if begun.len() > ANSWER_BYTES_MAX {
                return Err(Failure::Refused("an event is too long".to_owned()));
            }
            while let Some(end) = begun.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = begun.drain(..=end).collect();
                let line = String::from_utf8_lossy(&line);
                let line = line.trim_end();
                if let Some(name) = line.strip_prefix("event: ") {
                    name.clone_into(&mut event);
                } else if let Some(text) = line.strip_prefix("data: ") {
                    text.clone_into(&mut data);
                } else if line.is_empty() && !data.is_empty() {
                    if !each(&event, &data) {
                        return Ok(());
                    }
                    data.clear();
                }
            }
        }
        Ok(())
    }

    fn not_there(&self, error: impl Into<anyhow::Error>) -> Failure {
        let place = match &self.place {
            Place::Socket(path) => path.display().to_string(),
            Place::Tcp(authority) => authority.clone(),
        };
        Failure::NotThere(place, error.into())
    }

    async fn part(&self, answer: &mut Response<Incoming>) -> Result<Option<Bytes>, Failure> {
        loop {
            match answer.body_mut().frame().await {
                None => return Ok(None),
                Some(Err(error)) => return Err(self.not_there(error)),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }

    async fn send(&self, method: Method, path: &str, body: String) -> Result<Response<Incoming>, Failure> {
        let asked = async {
            match &self.place {
                Place::Socket(socket) => {
                    let stream = UnixStream::connect(socket).await.map_err(|error| self.not_there(error))?;
                    self.ask(stream, "localhost", method, path, body).await
                }
                Place::Tcp(authority) => {
                    let stream = TcpStream::connect(authority).await.map_err(|error| self.not_there(error))?;
                    self.ask(stream, authority, method, path, body).await
                }
            }
        };
        let Ok(answer) = timeout(ANSWER_TIMEOUT, asked).await else {
            return Err(self.not_there(anyhow::anyhow!("no answer within {} s", ANSWER_TIMEOUT.as_secs())));
        };
        let mut answer = answer?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let status = answer.status();
        let mut text = Vec::new();
        while let (Some(part), true) = (self.part(&mut answer).await?, text.len() < 4_096) {
            text.extend_from_slice(&part);
        }
        let text = String::from_utf8_lossy(&text);
        let text = text.trim();
        Err(Failure::Refused(if text.is_empty() { status.to_string() } else { text.to_owned() }))
    }

    async fn ask(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        host: &str,
        method: Method,
        path: &str,
        body: String,
    ) -> Result<Response<Incoming>, Failure> {
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| self.not_there(error))?;
        tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(path).header("host", host);
        if !body.is_empty() {
            request = request.header("content-type", "application/json");
        }
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let request = request
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| Failure::Refused(format!("that cannot be asked: {error}")))?;
        sender.send_request(request).await.map_err(|error| self.not_there(error))
    }
}
