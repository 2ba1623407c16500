//! `vsekai sync serve`: a store and a folder of indexes over HTTP, for casync's and desync's clients and our own.

use super::{Access, Job, Printed};
use crate::chunk_server::{ChunkServer, router};
use crate::error::{Exit, TaskError, shown};
use crate::output::say;
use std::net::SocketAddr;
use std::path::PathBuf;

/// `vsekai sync serve`
#[derive(Debug, Clone, clap::Args)]
pub struct Serve {
    /// The store whose chunks are served.
    #[arg(long, value_name = "DIR")]
    pub store: PathBuf,
    /// A folder whose indexes are served as well.
    #[arg(long = "index_dir", alias = "index-dir", value_name = "DIR")]
    pub index_dir: Option<PathBuf>,
    /// The address to listen at; port 0 takes a free one.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,
    /// Take chunks and indexes as well; each is checked first.
    #[arg(long)]
    pub writable: bool,
    #[command(flatten)]
    pub access: Access,
}

#[derive(serde::Serialize)]
struct Listening {
    listening: String,
}

impl Job for Serve {
    /// Says where it listens on the first line of standard output (JSON: `{"listening": "http://…"}`), and returns after SIGINT or
    /// SIGTERM, when the answers that were begun are done.
    fn run(&self) -> Result<Printed, TaskError> {
        unreachable!("serving says where it listens before it ends")
    }

    fn run_and_print(&self, json: bool) -> Result<(), TaskError> {
        if !self.store.is_dir() && !self.writable {
            let why = std::io::Error::new(std::io::ErrorKind::NotADirectory, "no store is there: not a folder");
            return Err(TaskError::unreadable(&self.store, why));
        }
        if let Some(folder) = self.index_dir.as_ref().filter(|folder| !folder.is_dir()) {
            let why = std::io::Error::new(std::io::ErrorKind::NotADirectory, "not a folder");
            return Err(TaskError::unreadable(folder, why));
        }
        let server = ChunkServer {
            store: self.store.clone(),
            index_folder: self.index_dir.clone(),
            writable: self.writable,
            authorization: self.access.authorization.clone(),
        };
        let failed = |what: String| move |source: std::io::Error| TaskError::because(Exit::Failed, what, source);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .map_err(failed("no threads to serve with".into()))?;
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind(self.listen)
                .await
                .map_err(failed(format!("{}: cannot be listened at", self.listen)))?;
            let address = listener.local_addr().map_err(failed("the listener has no address".into()))?;
            let listening = format!("http://{address}");
            let text = format!("{listening} serves {}", shown(&self.store));
            say(json, &Listening { listening }, || text)?;
            let stop = stopped().map_err(failed("signals cannot be waited for".into()))?;
            axum::serve(listener, router(server))
                .with_graceful_shutdown(stop)
                .await
                .map_err(failed("serving failed".into()))
        })
    }
}

/// Ends when the process is asked to.
fn stopped() -> std::io::Result<impl Future<Output = ()> + Send + 'static> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}
