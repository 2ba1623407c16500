//! Downloads from a server on loopback that breaks off, stutters, lies and refuses, as a test asks.

use super::*;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};

const SIZE: usize = 300_000;

fn file() -> Vec<u8> {
    (0..SIZE).map(|n| (n * 7 % 251) as u8).collect()
}

/// Answers each request by what `script` says to its number (from 0), path and first byte asked for: the whole answer.
fn server(script: impl Fn(usize, &str, Option<usize>) -> Vec<u8> + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for number in 0.. {
            let Ok((mut stream, _)) = listener.accept() else { return };
            let mut reader = BufReader::new(stream.try_clone().expect("clones"));
            let (mut path, mut from) = (String::new(), None);
            loop {
                let mut line = String::new();
                if reader.read_line(&mut line).unwrap_or(0) == 0 || line == "\r\n" {
                    break;
                }
                if let Some(rest) = line.strip_prefix("GET ") {
                    path = rest.split(' ').next().unwrap_or_default().to_owned();
                } else if let Some(rest) = line.to_lowercase().strip_prefix("range: bytes=") {
                    from = rest.split('-').next().and_then(|number| number.parse().ok());
                }
            }
            let _ = stream.write_all(&script(number, &path, from));
        }
    });
    address
}

fn head(status: &str, more: &str, length: usize) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n{more}\r\n").into_bytes()
}

fn partial(from: usize, sent: usize) -> Vec<u8> {
    let range = format!("content-range: bytes {from}-{}/{SIZE}\r\n", SIZE - 1);
    [head("206 Partial Content", &range, SIZE - from), file()[from..(from + sent).min(SIZE)].to_vec()].concat()
}

fn http(address: SocketAddr) -> Http {
    let limits = Limits {
        connections: 4,
        tries: 3,
        backoff: Duration::from_millis(1),
        patience: Duration::from_secs(5),
        bytes_per_second: None,
    };
    Http::new(&format!("http://{address}/repo/"), limits, TlsConfig::default())
}

fn get(http: &Http, range: Range<u64>) -> Result<Vec<u8>, FetchError> {
    let mut bytes = vec![];
    http.range("packs/x", range, &mut |piece| {
        bytes.extend_from_slice(piece);
        Ok(())
    })?;
    Ok(bytes)
}

#[test]
fn a_broken_answer_goes_on_where_it_broke() {
    // Five times more than the tries allowed in a row: each brings something.
    let address = server(|_, path, from| {
        assert_eq!(path, "/repo/packs/x");
        partial(from.expect("a range"), 20_000)
    });
    assert!(get(&http(address), 1_000..SIZE as u64).expect("comes") == file()[1_000..]);
}

#[test]
fn a_server_without_ranges_serves() {
    let address = server(|_, _, _| [head("200 OK", "", SIZE), file()].concat());
    assert!(get(&http(address), 100_000..200_000).expect("comes") == file()[100_000..200_000]);
    assert_eq!(get(&http(address), 5..5).expect("nothing").len(), 0);
}

#[test]
fn errors_that_pass_are_outwaited_and_others_are_not() {
    let address = server(|number, _, from| match number {
        0 => head("503 Service Unavailable", "retry-after: 0\r\n", 0),
        1 => vec![],
        _ => partial(from.expect("a range"), SIZE),
    });
    assert!(get(&http(address), 0..SIZE as u64).expect("comes") == file());
    let address = server(|number, _, _| {
        assert_eq!(number, 0, "a refusal is final");
        head("403 Forbidden", "", 0)
    });
    assert!(matches!(get(&http(address), 0..10), Err(FetchError::Network { why, .. }) if why.contains("403")));
    let address = server(|_, _, _| head("404 Not Found", "", 0));
    assert!(matches!(get(&http(address), 0..10), Err(FetchError::NotFound { .. })));
    let address = server(|_, _, _| head("500 Oops", "", 0));
    assert!(matches!(get(&http(address), 0..10), Err(FetchError::Network { why, .. }) if why.contains("3 tries")));
}

#[test]
fn an_endless_or_wrong_answer_is_cut() {
    let address = server(|_, _, _| [head("200 OK", "", SIZE), file()].concat());
    assert!(matches!(http(address).whole("x", 1_000), Err(FetchError::TooLong { max: 1_000, .. })));
    assert_eq!(http(address).whole("x", SIZE as u64).expect("comes").len(), SIZE);
    // Without a length, too.
    let address = server(|_, _, _| [b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n".to_vec(), file()].concat());
    assert!(matches!(http(address).whole("x", 1_000), Err(FetchError::TooLong { .. })));
    let address = server(|_, _, _| partial(7, SIZE));
    assert!(
        matches!(get(&http(address), 0..10), Err(FetchError::Network { why, .. }) if why.contains("another range"))
    );
}

#[test]
fn what_is_no_path_is_not_asked_for() {
    let address = server(|_, path, _| panic!("was asked for {path}"));
    for path in ["../x", "a/../b", "/x", "a//b", "a?b", "a#b", "a%2e", "", "a\\b"] {
        assert!(matches!(http(address).whole(path, 10), Err(FetchError::NotFound { .. })), "{path}");
    }
}

#[test]
fn a_full_disk_is_told_at_once() {
    let address = server(|number, _, from| {
        assert_eq!(number, 0, "another try does not help");
        partial(from.expect("a range"), SIZE)
    });
    let full = http(address).range("x", 0..SIZE as u64, &mut |_| Err(io::ErrorKind::StorageFull.into()));
    assert!(matches!(full, Err(FetchError::Sink { .. })));
}

#[test]
fn nobody_there_is_the_network() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    drop(listener);
    let error = get(&http(address), 0..10).expect_err("nobody there");
    assert_eq!(error.into_task().exit, crate::error::Exit::Network);
}

/// The pace is a sum of waits, not a clock that a slow machine could fail.
#[test]
fn a_pace_owes_what_was_taken() {
    let pace = Pace::new(Some(1_000_000));
    pace.take(300_000);
    let paid = *pace.paid.lock().expect("sound");
    pace.take(100_000);
    assert_eq!(*pace.paid.lock().expect("sound") - paid, Duration::from_millis(100));
    assert!(Pace::new(Some(0)).bytes_per_second.is_none());
}
