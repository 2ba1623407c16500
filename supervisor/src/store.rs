//! Owns an embedded store and serves it to the shards and tools of this machine.

use anyhow::{Context, Result};
use signal_hook::consts::{SIGINT, SIGTERM};
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::Path;
use tracing::info;
use vsekai_storage::kv::{Database, serve, stop_network};

/// Serves `store` at `socket` until SIGTERM or SIGINT comes. One line on standard output says when it is ready.
///
/// # Errors
/// When the store can't be opened, or the socket is another server's.
pub fn run(store: &str, socket: &Path) -> Result<()> {
    // Before anything is served: a signal that comes early must still end it cleanly.
    let (mut wait, wake) = UnixStream::pair().context("cannot make a pipe for signals")?;
    for signal in [SIGTERM, SIGINT] {
        let wake = wake.try_clone().context("cannot make a pipe for signals")?;
        signal_hook::low_level::pipe::register(signal, wake).context("cannot listen for signals")?;
    }
    let database = Database::open(store).with_context(|| format!("cannot open the store {store}"))?;
    let server = serve(database.clone(), socket).with_context(|| format!("cannot serve at {}", socket.display()))?;
    info!(store, socket = %socket.display(), pid = std::process::id(), "serving");
    println!("Serving {store} as unix:{}", socket.display());
    wait.read_exact(&mut [0]).context("cannot wait for signals")?;
    let status = server.status();
    info!(connections = status.connections, requests = status.requests, commits = status.commits, "stopping");
    server.stop();
    drop(database);
    stop_network();
    Ok(())
}
