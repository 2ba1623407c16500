//! The supervisor's end of the line to a keeper: what it says becomes messages, as long as it lives.

use crate::link::{FromKeeper, LINE_BYTES_MAX, SOCKET, ToKeeper};
use crate::procfs::Process;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::time::sleep;

/// A keeper that just started does not listen yet; one that hangs, or was let go of, is asked again.
const RETRY_INTERVAL: Duration = Duration::from_millis(3);
/// Orders that may wait for a keeper.
pub const ORDERS_MAX: usize = 16;

/// From a keeper, of this child's this run.
#[derive(Debug)]
pub struct FromTether {
    /// Index of the child.
    pub child: usize,
    /// As the supervisor counts.
    pub run: u64,
    /// What.
    pub word: Word,
}

/// What a tether reports.
#[derive(Debug)]
pub enum Word {
    /// The keeper said this.
    Said(FromKeeper),
    /// The keeper's process has ended; nothing more comes.
    Ended,
}

/// Holds on to a keeper until it ends.
pub async fn hold(
    child: usize,
    run: u64,
    folder: PathBuf,
    keeper: Process,
    mut orders: mpsc::Receiver<ToKeeper>,
    words: mpsc::Sender<FromTether>,
) {
    // Who is gone already cannot be opened.
    #[expect(
        deprecated,
        reason = "its successor is unsafe to call; an `OwnedFd` keeps the descriptor that it is, which is what that wants"
    )]
    let pidfd = keeper.open().and_then(|pidfd| AsyncFd::new(pidfd).ok());
    if let Some(pidfd) = pidfd {
        let talk = async {
            // An order that could not be given is given on the next connection.
            let mut order = None;
            loop {
                let _: io::Result<()> = converse(child, run, &folder, keeper, &mut orders, &mut order, &words).await;
                sleep(RETRY_INTERVAL).await;
            }
        };
        tokio::select! {
            // What it said last comes before its end. If it is lost, the record says it, too.
            biased;
            () = talk => {}
            () = ended(&pidfd) => {}
        }
    }
    let _ = words.send(FromTether { child, run, word: Word::Ended }).await;
}

async fn ended(pidfd: &AsyncFd<OwnedFd>) {
    let _ = pidfd.readable().await;
}

async fn converse(
    child: usize,
    run: u64,
    folder: &std::path::Path,
    keeper: Process,
    orders: &mut mpsc::Receiver<ToKeeper>,
    pending: &mut Option<ToKeeper>,
    words: &mpsc::Sender<FromTether>,
) -> io::Result<()> {
    let stream = UnixStream::connect(folder.join(SOCKET)).await?;
    // The socket could be one that a dead keeper left.
    if stream.peer_cred()?.pid() != Some(keeper.pid) {
        return Err(io::ErrorKind::NotFound.into());
    }
    let (from, mut to) = stream.into_split();
    let mut from = BufReader::new(from);
    let mut line = Vec::new();
    loop {
        if let Some(order) = *pending {
            let mut text = serde_json::to_vec(&order)?;
            text.push(b'\n');
            to.write_all(&text).await?;
            *pending = None;
        }
        tokio::select! {
            biased;
            // What was read of a line stays in `line` when something else comes first.
            count = async { (&mut from).take((LINE_BYTES_MAX + 1 - line.len()) as u64).read_until(b'\n', &mut line).await } => {
                if count? == 0 || line.last() != Some(&b'\n') {
                    return Ok(());
                }
                let said = serde_json::from_slice(&line)?;
                line.clear();
                if words.send(FromTether { child, run, word: Word::Said(said) }).await.is_err() {
                    return Ok(());
                }
            }
            order = orders.recv(), if pending.is_none() => match order {
                Some(order) => *pending = Some(order),
                // Let go of: the keeper goes on alone.
                None => std::future::pending().await,
            },
        }
    }
}
