//! One cluster.
#![expect(unsafe_code, reason = "calls a C library with the pointers it gave")]

use crate::client::{Client, client};
use crate::cluster_file::addresses;
use crate::declared::FdbDatabase;
use crate::error::Error;
use crate::transaction::Transaction;
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Duration;

/// How long a read waits before the cluster counts as unreachable. A transaction is too old for FoundationDB by then.
pub const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// The environment variable that sets another bound than [`READ_TIMEOUT`], in milliseconds.
pub const READ_TIMEOUT_VARIABLE: &str = "VSEKAI_FDB_READ_TIMEOUT_MS";

/// A cluster, shared by all clones of the handle.
#[derive(Debug, Clone)]
pub struct Database(Arc<Handle>);

/// The library's handle of a cluster, and what is said when it does not answer.
pub(crate) struct Handle {
    pub(crate) client: &'static Client,
    pub(crate) raw: NonNull<FdbDatabase>,
    pub(crate) read_timeout: Duration,
    cluster_file: PathBuf,
    addresses: String,
}

// SAFETY: the library allows its databases to be used from any thread, and from several at once.
unsafe impl Send for Handle {}
// SAFETY: as above.
unsafe impl Sync for Handle {}

impl std::fmt::Debug for Handle {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Handle").field("cluster_file", &self.cluster_file).finish_non_exhaustive()
    }
}

impl Database {
    /// Opens the cluster that the file names. Reads wait for [`READ_TIMEOUT`], or as [`READ_TIMEOUT_VARIABLE`] says. One
    /// read is done, so that a cluster out of reach is told now.
    pub fn open(cluster_file: &Path) -> Result<Self, Error> {
        let read_timeout = match std::env::var(READ_TIMEOUT_VARIABLE) {
            Ok(text) => match text.parse() {
                Ok(milliseconds @ 1..) => Duration::from_millis(milliseconds),
                _ => {
                    return Err(Error::Library(format!(
                        "{READ_TIMEOUT_VARIABLE} is `{text}`; it takes a number of milliseconds above 0"
                    )));
                }
            },
            Err(_) => READ_TIMEOUT,
        };
        Self::open_with(cluster_file, read_timeout)
    }

    /// The same with a bound of the caller's.
    pub fn open_with(cluster_file: &Path, read_timeout: Duration) -> Result<Self, Error> {
        let addresses = addresses(cluster_file)?;
        let path = CString::new(cluster_file.as_os_str().as_bytes()).map_err(|_| {
            Error::ClusterFile(format!("the cluster file {} has a zero byte in its name", cluster_file.display()))
        })?;
        let client = client()?;
        let mut raw = std::ptr::null_mut();
        // SAFETY: the path ends in a zero byte, and the place for the answer is alive.
        client.check(unsafe { (client.functions.fdb_create_database)(path.as_ptr(), &mut raw) })?;
        let raw = NonNull::new(raw).ok_or_else(|| Error::Library("FoundationDB's library gave no database".into()))?;
        let cluster_file = cluster_file.to_owned();
        let database = Database(Arc::new(Handle { client, raw, read_timeout, cluster_file, addresses }));
        database.begin()?.read_version()?;
        Ok(database)
    }

    /// Begins a transaction. Nothing is asked of the cluster before its first read or its commit.
    pub fn begin(&self) -> Result<Transaction, Error> {
        Transaction::new(self.0.clone())
    }
}

impl Handle {
    pub(crate) fn unreachable(&self) -> Error {
        Error::Unreachable {
            addresses: self.addresses.clone(),
            cluster_file: self.cluster_file.display().to_string(),
            waited: self.read_timeout,
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: ours alone, and no transaction is left: each holds a count of the handle.
        unsafe { (self.client.functions.fdb_database_destroy)(self.raw.as_ptr()) };
    }
}
