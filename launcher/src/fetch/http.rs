//! A repository on a web server: ranges, retries from where it broke off, a bandwidth limit.

use super::{Broken, Fetch, FetchError, is_path, pass_on};
use rand::RngExt;
use std::io::{self, Read};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use ureq::Agent;
use ureq::tls::TlsConfig;

/// How patient and how greedy to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// All connections together; `None` for as many as come.
    pub bytes_per_second: Option<u64>,
    /// Requests at a time.
    pub connections: usize,
    /// Tries in a row without a single byte before giving up.
    pub tries: u32,
    /// Before the second try; doubled each time, up to 8 s, and drawn between its half and its whole.
    pub backoff: Duration,
    /// To connect, to get an answer, and from one byte to the next.
    pub patience: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            bytes_per_second: None,
            // Measured: more brought nothing at 40 ms to the first byte and 50 Mbit/s.
            connections: 6,
            tries: 6,
            backoff: Duration::from_millis(500),
            patience: Duration::from_secs(20),
        }
    }
}

const BACKOFF_MAX: Duration = Duration::from_secs(8);
/// A server that asks for a longer pause is asked again after this.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(30);

/// Reads files below a web address. Connections are kept and used again.
#[derive(Debug)]
pub struct Http {
    agent: Agent,
    /// Without a slash at the end.
    base: String,
    limits: Limits,
    pace: Pace,
}

/// How one request ended, if not well.
enum Failure {
    /// Another try may do better.
    Passing {
        why: String,
        after: Option<Duration>,
    },
    Final(FetchError),
}

impl Http {
    /// `base` begins with `http://` or `https://`; from the latter no redirection leads to the former.
    pub fn new(base: &str, limits: Limits, tls: TlsConfig) -> Self {
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .https_only(base.starts_with("https://"))
            .tls_config(tls)
            .user_agent(concat!("vsekai/", env!("CARGO_PKG_VERSION")))
            .accept_encoding("identity")
            .timeout_resolve(Some(limits.patience))
            .timeout_connect(Some(limits.patience))
            .timeout_recv_response(Some(limits.patience))
            .timeout_per_read(Some(limits.patience))
            .max_idle_connections_per_host(limits.connections.max(2))
            .build()
            .new_agent();
        Self { agent, base: base.trim_end_matches('/').to_owned(), limits, pace: Pace::new(limits.bytes_per_second) }
    }

    /// Repeats `request` until it succeeds. It returns true if bytes came before it failed: then tries are counted anew.
    fn retry(&self, path: &str, mut request: impl FnMut(&mut bool) -> Result<(), Failure>) -> Result<(), FetchError> {
        if !is_path(path) {
            return Err(FetchError::NotFound { path: path.into() });
        }
        let mut failures = 0;
        loop {
            let mut progress = false;
            let (why, after) = match request(&mut progress) {
                Ok(()) => return Ok(()),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Passing { why, after }) => (why, after),
            };
            failures = if progress { 1 } else { failures + 1 };
            if failures >= self.limits.tries {
                let why = format!("{}: {why} ({failures} tries)", self.base);
                return Err(FetchError::Network { path: path.into(), why });
            }
            let backoff = self.limits.backoff.saturating_mul(1 << (failures - 1).min(16)).min(BACKOFF_MAX);
            let drawn = backoff.mul_f64(rand::rng().random_range(0.5..=1.0));
            std::thread::sleep(after.map_or(drawn, |asked| asked.min(RETRY_AFTER_MAX)));
        }
    }

    /// One request, from `range` if there is one; the body and whether it begins at the range's beginning.
    fn request(&self, path: &str, range: Option<&Range<u64>>) -> Result<(ureq::Body, bool), Failure> {
        let mut request = self.agent.get(format!("{}/{path}", self.base));
        if let Some(range) = range {
            request = request.header("range", format!("bytes={}-{}", range.start, range.end - 1));
        }
        let answer = request.call().map_err(|error| Failure::Passing { why: error.to_string(), after: None })?;
        let header = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok());
        let status = answer.status().as_u16();
        match status {
            200 => Ok((answer.into_body(), false)),
            206 => {
                let begins = header("content-range")
                    .and_then(|value| value.strip_prefix("bytes ")?.split('-').next()?.parse().ok());
                if begins == range.map(|range| range.start) && begins.is_some() {
                    Ok((answer.into_body(), true))
                } else {
                    Err(refused(path, "the server answers with another range than was asked for"))
                }
            }
            404 | 410 => Err(Failure::Final(FetchError::NotFound { path: path.into() })),
            408 | 425 | 429 | 500..=599 => {
                let after = header("retry-after").and_then(|value| value.parse().ok()).map(Duration::from_secs);
                Err(Failure::Passing { why: format!("the server answers {status}"), after })
            }
            416 => Err(refused(path, "the file is shorter than it should be (416)")),
            _ => Err(refused(path, &format!("the server answers {status}"))),
        }
    }
}

fn refused(path: &str, why: &str) -> Failure {
    Failure::Final(FetchError::Network { path: path.into(), why: why.into() })
}

impl Fetch for Http {
    fn connections(&self) -> usize {
        self.limits.connections
    }

    fn whole(&self, path: &str, max: u64) -> Result<Vec<u8>, FetchError> {
        let mut bytes = vec![];
        self.retry(path, |_| {
            bytes.clear();
            let (body, _) = self.request(path, None)?;
            let length = body.content_length();
            if length.is_some_and(|length| length > max) {
                return Err(Failure::Final(FetchError::TooLong { path: path.into(), max }));
            }
            let mut reader = body.into_reader();
            let mut piece = vec![0; 64 << 10];
            loop {
                match reader.read(&mut piece) {
                    Ok(0) => break,
                    Ok(count) => {
                        self.pace.take(count as u64);
                        bytes.extend_from_slice(&piece[..count]);
                    }
                    Err(error) => return Err(Failure::Passing { why: error.to_string(), after: None }),
                }
                if bytes.len() as u64 > max {
                    return Err(Failure::Final(FetchError::TooLong { path: path.into(), max }));
                }
            }
            match length {
                Some(length) if length != bytes.len() as u64 => {
                    Err(Failure::Passing { why: "the answer broke off".into(), after: None })
                }
                _ => Ok(()),
            }
        })?;
        Ok(bytes)
    }

    fn range(
        &self,
        path: &str,
        range: Range<u64>,
        into: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<(), FetchError> {
        let mut next = range.start;
        if range.is_empty() {
            return Ok(());
        }
        self.retry(path, |progress| {
            let (body, ranged) = self.request(path, Some(&(next..range.end)))?;
            let mut reader = body.into_reader();
            // A server that knows no ranges sends the file from its beginning.
            let skip = if ranged { 0 } else { next };
            let before = next;
            let passed = pass_on(&mut reader, &self.pace, skip, &mut next, range.end, into);
            *progress = next > before;
            passed.map_err(|broken| match broken {
                Broken::Ended => Failure::Passing { why: "the answer broke off".into(), after: None },
                Broken::Read(error) => Failure::Passing { why: error.to_string(), after: None },
                Broken::Sink(source) => Failure::Final(FetchError::Sink { path: path.into(), source }),
            })?;
            // A connection whose answer was read to its end is used again.
            let _ = reader.read(&mut [0]);
            Ok(())
        })
    }
}

/// Keeps all readers together below so many bytes a second, over a quarter of a second.
#[derive(Debug)]
pub(super) struct Pace {
    bytes_per_second: Option<u64>,
    /// When what was taken so far is paid for.
    paid: Mutex<Instant>,
}

impl Pace {
    pub fn new(bytes_per_second: Option<u64>) -> Self {
        Self { bytes_per_second: bytes_per_second.filter(|&rate| rate > 0), paid: Mutex::new(Instant::now()) }
    }

    /// Waits until so many bytes may be taken.
    pub fn take(&self, count: u64) {
        let Some(rate) = self.bytes_per_second else { return };
        let wait = {
            let mut paid = self.paid.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            *paid = (*paid).max(now.checked_sub(Duration::from_millis(250)).unwrap_or(now))
                + Duration::from_secs_f64(count as f64 / rate as f64);
            paid.saturating_duration_since(now)
        };
        std::thread::sleep(wait);
    }
}

#[cfg(test)]
mod tests;
