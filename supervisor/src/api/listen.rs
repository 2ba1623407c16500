//! Where the API listens: TCP and a Unix socket, with a bound on connections.

use super::access::{Access, TOKEN_CHARS_MIN};
use super::router;
use crate::config::Config;
use crate::engine::Handle;
use anyhow::{Context, Result, bail};
use axum::Router;
use axum::serve::Listener;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as Task, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::info;

/// Connections of one listener at once; more wait.
const CONNECTIONS_MAX: usize = 96;
/// Most bytes of a token file.
const TOKEN_BYTES_MAX: u64 = 4_096;

/// Serves the API as configured, for as long as the runtime lives. The tree's routes are mounted at `/api/tree`.
///
/// # Errors
/// When it cannot listen there, or the token cannot be read.
pub async fn serve(config: &Config, engine: &Handle, tree: Option<Router>) -> Result<()> {
    if let Some(path) = &config.socket {
        let listener = bind_socket(path).with_context(|| format!("cannot listen at {}", path.display()))?;
        spawn(listener, router(engine.clone(), Access::Owner, tree.clone()));
        info!("the API is at {}", path.display());
    }
    if let Some(address) = config.http {
        let access = match &config.token_file {
            None => Access::ThisMachine,
            Some(path) => Access::Token(read_token(path)?),
        };
        let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
        let address = listener.local_addr().context("the listener has no address")?;
        spawn(listener, router(engine.clone(), access, tree));
        info!("the page is at http://{address}/");
        println!("http://{address}/");
    }
    Ok(())
}

/// The secret in a token file.
///
/// # Errors
/// When it cannot be read or is none.
pub fn read_token(path: &Path) -> Result<String> {
    let read = || -> io::Result<String> {
        if fs::metadata(path)?.len() > TOKEN_BYTES_MAX {
            return Err(io::Error::other(format!("it has more than {TOKEN_BYTES_MAX} bytes")));
        }
        fs::read_to_string(path)
    };
    let text = read().with_context(|| format!("cannot read the token file {}", path.display()))?;
    let token = text.trim();
    if token.len() < TOKEN_CHARS_MIN || token.contains(|c: char| !c.is_ascii_graphic()) {
        bail!("the token in {} must be at least {TOKEN_CHARS_MIN} printable ASCII characters", path.display());
    }
    Ok(token.to_owned())
}

/// A socket that a dead supervisor left is replaced, one of a living server refused.
fn bind_socket(path: &Path) -> io::Result<UnixListener> {
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(io::Error::new(io::ErrorKind::AddrInUse, "somebody listens there already"));
    }
    // Nobody else may open it in the moment before its mode is set: it is made beside its place.
    let beside = path.with_extension("new");
    let _ = fs::remove_file(&beside);
    let listener = UnixListener::bind(&beside)?;
    fs::set_permissions(&beside, fs::Permissions::from_mode(0o600))?;
    fs::rename(&beside, path)?;
    Ok(listener)
}

fn spawn<L: Listener>(listener: L, router: Router)
where
    L::Addr: std::fmt::Debug,
    L::Io: Unpin,
{
    let listener = Bounded { listener, permits: Arc::new(Semaphore::new(CONNECTIONS_MAX)) };
    tokio::spawn(async move {
        let served = axum::serve(listener, router).await;
        if let Err(error) = served {
            tracing::error!("the API has ended: {error}");
        }
    });
}

/// Lets in so many at once.
struct Bounded<L> {
    listener: L,
    permits: Arc<Semaphore>,
}

impl<L: Listener> Listener for Bounded<L>
where
    L::Io: Unpin,
{
    type Io = Admitted<L::Io>;
    type Addr = L::Addr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        let permit = self.permits.clone().acquire_owned().await.ok();
        let (io, address) = self.listener.accept().await;
        (Admitted { io, _permit: permit }, address)
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

/// A connection and its place among those that are let in.
struct Admitted<I> {
    io: I,
    _permit: Option<OwnedSemaphorePermit>,
}

impl<I: AsyncRead + Unpin> AsyncRead for Admitted<I> {
    fn poll_read(mut self: Pin<&mut Self>, task: &mut Task<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(task, buffer)
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Admitted<I> {
    fn poll_write(mut self: Pin<&mut Self>, task: &mut Task<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(task, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(task)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(task)
    }
}
