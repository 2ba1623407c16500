//! Asks foreign programs whether they are well, and ours to finish: HTTP and TCP, with a bound on everything.

use crate::config::Target;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Most bytes of an answer that are looked at.
const ANSWER_BYTES_MAX: usize = 64 * 1_024;

/// Asks once.
///
/// # Errors
/// Why it is not well, for people.
pub async fn probe(target: &Target, within: Duration) -> Result<(), String> {
    let asked = async {
        match target {
            Target::Http(url) => request(Method::GET, url).await,
            Target::Tcp(address) => {
                TcpStream::connect(address).await.map(drop).map_err(|error| format!("{address}: {error}"))
            }
        }
    };
    timeout(within, asked).await.unwrap_or_else(|_| Err(format!("no answer within {} s", within.as_secs_f64())))
}

/// Posts nothing to a URL; it is done when the answer is 2xx.
///
/// # Errors
/// Why it is not, for people.
pub async fn post(url: &str, within: Duration) -> Result<(), String> {
    let asked = timeout(within, request(Method::POST, url));
    asked.await.unwrap_or_else(|_| Err(format!("no answer within {} s", within.as_secs_f64())))
}

async fn request(method: Method, url: &str) -> Result<(), String> {
    let wrong = |error: &dyn std::fmt::Display| format!("{method} {url}: {error}");
    let uri: Uri = url.parse().map_err(|error| wrong(&error))?;
    let host = uri.host().unwrap_or_default();
    let port = uri.port_u16().unwrap_or(80);
    let stream = TcpStream::connect((host.trim_matches(['[', ']']), port)).await.map_err(|error| wrong(&error))?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| wrong(&error))?;
    let driver = tokio::spawn(connection);
    let authority = uri.authority().map_or(host, |authority| authority.as_str());
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let request = Request::builder()
        .method(&method)
        .uri(path)
        .header("host", authority)
        .header("connection", "close")
        .header("user-agent", "vsekai-supervisor")
        .body(Empty::<Bytes>::new())
        .map_err(|error| wrong(&error))?;
    let answer = sender.send_request(request).await.map_err(|error| wrong(&error));
    let status = match answer {
        Ok(answer) => {
            let status = answer.status();
            let _ = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
            Ok(status)
        }
        Err(error) => Err(error),
    };
    driver.abort();
    match status? {
        status if status.is_success() => Ok(()),
        StatusCode::NOT_FOUND => Err(wrong(&"404, there is no such path")),
        status => Err(wrong(&status)),
    }
}
