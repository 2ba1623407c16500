//! The chunk and index protocol over HTTP, the client's side: `GET`, `HEAD`, `PUT` of `/<first four digits>/<id>.cacnk` and of
//! `/<index name>`. Plain static hosting answers the first two as well as a chunk server does.

use super::{StoreError, packed_max};
use crate::caibx::CHUNK_SIZE_MAX;
use crate::digest::Id;
use crate::error::TaskError;
use crate::hex::hex;
use crate::tls;
use std::io::{self, Read, Write};
use std::time::Duration;
use ureq::http::{Response, StatusCode};
use ureq::{Agent, Body};

/// Attempts at one request; before the second it waits [`WAIT`], and twice as long before each further one.
const ATTEMPTS: u32 = 4;
const WAIT: Duration = Duration::from_millis(250);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// For all of a request: a chunk is small.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// Whether a location is a server's.
pub fn is_url(location: &str) -> bool {
    location.starts_with("http://") || location.starts_with("https://")
}

/// A store, or a place of indexes, behind HTTP. Connections are kept and shared between threads.
#[derive(Debug)]
pub struct HttpStore {
    /// Without a slash at its end.
    base: String,
    authorization: Option<String>,
    agent: Agent,
}

/// How one attempt failed.
enum Attempt {
    /// Trying again may help.
    Passing(String),
    /// It will not.
    Final(StoreError),
}

impl HttpStore {
    /// `authorization` is sent as the header of that name, as it is.
    pub fn new(base: &str, authorization: Option<&str>) -> Result<Self, TaskError> {
        let config = Agent::config_builder()
            .tls_config(tls::config(base)?)
            .http_status_as_error(false)
            .https_only(base.starts_with("https://"))
            .accept_encoding("identity")
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_global(Some(REQUEST_TIMEOUT))
            .max_idle_connections_per_host(32)
            .user_agent(concat!("vsekai/", env!("CARGO_PKG_VERSION")));
        Ok(Self {
            base: base.trim_end_matches('/').to_owned(),
            authorization: authorization.map(str::to_owned),
            agent: config.build().into(),
        })
    }

    pub fn name(&self) -> &str {
        &self.base
    }

    fn chunk_url(&self, id: &Id) -> String {
        let name = hex(id);
        format!("{}/{}/{name}.cacnk", self.base, &name[..4])
    }

    pub fn read(&self, id: &Id, max: u64, packed: &mut Vec<u8>) -> Result<(), StoreError> {
        let url = self.chunk_url(id);
        self.retried(&url, || {
            let mut response = self.answered(&url, self.get(&url))?;
            if response.status() == StatusCode::NOT_FOUND {
                return Err(Attempt::Final(StoreError::Missing { id: hex(id), store: self.base.clone() }));
            }
            self.expect_ok(&url, &mut response)?;
            packed.clear();
            // An endless answer is cut one byte after the limit.
            let read = response.body_mut().as_reader().take(max + 1).read_to_end(packed);
            read.map_err(|error| Attempt::Passing(error.to_string()))?;
            if packed.len() as u64 > max {
                let why = format!("the answer has more than {max} bytes");
                return Err(Attempt::Final(StoreError::Damaged { id: hex(id), store: self.base.clone(), why }));
            }
            Ok(())
        })
    }

    pub fn has(&self, id: &Id) -> Result<bool, StoreError> {
        let url = self.chunk_url(id);
        self.retried(&url, || {
            let request = self.agent.head(&url);
            let request = match &self.authorization {
                Some(value) => request.header("authorization", value),
                None => request,
            };
            let mut response = self.answered(&url, request.call())?;
            if response.status() == StatusCode::NOT_FOUND {
                return Ok(false);
            }
            self.expect_ok(&url, &mut response).map(|()| true)
        })
    }

    pub fn write(&self, id: &Id, packed: &[u8]) -> Result<(), StoreError> {
        debug_assert!(packed.len() as u64 <= packed_max(CHUNK_SIZE_MAX));
        self.put(&self.chunk_url(id), packed)
    }

    /// Uploads the file `name`: an index.
    pub fn upload(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        self.put(&format!("{}/{name}", self.base), bytes)
    }

    /// Downloads the file `name` into `sink`, at most `max` bytes.
    pub fn download(&self, name: &str, max: u64, sink: &mut dyn Write) -> Result<(), StoreError> {
        let url = format!("{}/{name}", self.base);
        let network = |why: String| StoreError::Network { what: url.clone(), why };
        // Only the answer's head is asked for again: after it bytes are already written.
        let mut response = self.retried(&url, || {
            let mut response = self.answered(&url, self.get(&url))?;
            if response.status() == StatusCode::NOT_FOUND {
                return Err(Attempt::Final(network("not there".into())));
            }
            self.expect_ok(&url, &mut response)?;
            Ok(response)
        })?;
        let mut body = response.body_mut().as_reader().take(max + 1);
        let count = io::copy(&mut body, sink).map_err(|error| network(error.to_string()))?;
        if count > max {
            return Err(network(format!("the answer has more than {max} bytes")));
        }
        Ok(())
    }

    fn get(&self, url: &str) -> Result<Response<Body>, ureq::Error> {
        let request = self.agent.get(url);
        match &self.authorization {
            Some(value) => request.header("authorization", value).call(),
            None => request.call(),
        }
    }

    fn put(&self, url: &str, bytes: &[u8]) -> Result<(), StoreError> {
        self.retried(url, || {
            let request = self.agent.put(url);
            let request = match &self.authorization {
                Some(value) => request.header("authorization", value),
                None => request,
            };
            let mut response = self.answered(url, request.send(bytes))?;
            self.expect_ok(url, &mut response)
        })
    }

    fn answered(&self, url: &str, sent: Result<Response<Body>, ureq::Error>) -> Result<Response<Body>, Attempt> {
        sent.map_err(|error| match error {
            ureq::Error::BadUri(_) | ureq::Error::Http(_) => {
                Attempt::Final(StoreError::Network { what: url.to_owned(), why: error.to_string() })
            }
            error => Attempt::Passing(error.to_string()),
        })
    }

    /// Success passes; the server's own trouble may be over soon; everything else stays as it is.
    fn expect_ok(&self, url: &str, response: &mut Response<Body>) -> Result<(), Attempt> {
        let status = response.status();
        if status.is_success() {
            return Ok(());
        }
        let mut text = String::new();
        // For people, and from a stranger: little of it, and nothing that moves a terminal's cursor.
        let _ = response.body_mut().as_reader().take(200).read_to_string(&mut text);
        let text: String = text.trim().chars().filter(|c| !c.is_control()).collect();
        let why = if text.is_empty() { status.to_string() } else { format!("{status}: {text}") };
        let what = url.to_owned();
        Err(match status {
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => Attempt::Passing(why),
            status if status.is_server_error() => Attempt::Passing(why),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Attempt::Final(StoreError::Denied { what, why }),
            _ => Attempt::Final(StoreError::Network { what, why }),
        })
    }

    fn retried<T>(&self, url: &str, mut attempt: impl FnMut() -> Result<T, Attempt>) -> Result<T, StoreError> {
        let mut wait = WAIT;
        for number in 1.. {
            match attempt() {
                Ok(done) => return Ok(done),
                Err(Attempt::Final(error)) => return Err(error),
                Err(Attempt::Passing(why)) if number == ATTEMPTS => {
                    let why = format!("{why} ({ATTEMPTS} attempts)");
                    return Err(StoreError::Network { what: url.to_owned(), why });
                }
                Err(Attempt::Passing(_)) => {
                    std::thread::sleep(wait);
                    wait *= 2;
                }
            }
        }
        unreachable!("the last attempt returns")
    }
}
