//! A stand-in for FoundationDB's client library: the C functions that `vsekai-fdb` calls, over our `mem:` store, so that
//! everything above them is tested on every change and on a machine without a cluster. It is loaded like the real one, by
//! its path ([`library_path`]), and is as strict as that about the order of calls.
//!
//! What it is not: a cluster. It shows that our side calls the library rightly, not that the library does what we think.
//! `storage/docs/foundationdb.md` says how the same tests run against a cluster.
//!
//! Each cluster file has its own store, empty when the process first opens it. The description in the file
//! (`description:id@address`) may ask for trouble:
//!
//! - `unreachable`: nothing is ever answered.
//! - `slow`: each commit is answered after 400 ms.
//! - `fails_CODE`: the first commit ends with that error, and has not happened.
//!
//! - `functions`: the C functions. `future`, `database`, `transaction`: what they act on. `network`: what must come first.

mod database;
mod error;
mod functions;
mod future;
mod network;
mod transaction;

use std::path::PathBuf;

/// The file of the library that cargo has built beside the test that asks, for `vsekai_fdb::use_library` or the
/// environment variable `VSEKAI_FDB_LIBRARY`.
pub fn library_path() -> std::io::Result<PathBuf> {
    const NAME: &str = "libvsekai_fdb_double.so";
    let program = std::env::current_exe()?;
    // Tests lie in `deps` like the libraries; programs one folder above.
    let folder = program.parent().unwrap_or(&program);
    let places = [folder.join(NAME), folder.join("deps").join(NAME)];
    places.into_iter().find(|path| path.exists()).ok_or_else(|| {
        std::io::Error::new(std::io::ErrorKind::NotFound, format!("no {NAME} beside {}", program.display()))
    })
}
