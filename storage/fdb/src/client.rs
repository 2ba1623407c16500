//! The library: found, loaded and its network thread started, once per process; and stopped before the process ends.
#![expect(unsafe_code, reason = "loads a C library and calls it")]

use crate::declared::{API_VERSION_MAX, API_VERSION_MIN, Functions, PREDICATE_MAYBE_COMMITTED, PREDICATE_RETRYABLE};
use crate::error::Error;
use libloading::Library;
use std::ffi::{CStr, OsString, c_int};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;

/// The environment variable that names the library's file, instead of the usual places.
pub const LIBRARY_VARIABLE: &str = "VSEKAI_FDB_LIBRARY";

/// Where the library is looked for. The first is a name for the dynamic loader, which knows more places.
const PLACES: [&str; 3] = ["libfdb_c.so", "/usr/lib/libfdb_c.so", "/usr/lib/x86_64-linux-gnu/libfdb_c.so"];

/// Set before the first use, by [`use_library`].
static CHOSEN: OnceLock<OsString> = OnceLock::new();
/// The library, or why there is none: it can be initialised only once in the life of a process.
static CLIENT: OnceLock<Result<Client, Error>> = OnceLock::new();

/// The loaded library, whose network thread runs.
pub(crate) struct Client {
    pub(crate) functions: Functions,
    network: Mutex<Option<JoinHandle<()>>>,
    stopped: AtomicBool,
    /// Never unloaded: its thread and its exit handlers stay.
    _library: Library,
}

/// Names the library's file for this process. It must come before the first database is opened, and counts more than
/// [`LIBRARY_VARIABLE`]. False when another one was named or loaded before.
pub fn use_library(path: &Path) -> bool {
    let chosen = CHOSEN.get_or_init(|| path.as_os_str().to_owned());
    chosen == path.as_os_str() && CLIENT.get().is_none_or(Result::is_ok)
}

/// Stops the library's network thread and waits for its end: what a program's `main` does last, after its last handle is
/// gone. FoundationDB asks for it ("otherwise the behavior is undefined"), and it can't be started again: whatever is
/// opened later is refused. Does nothing when the library was never used.
///
/// A program that forgets it is helped by an exit handler, which does the same. It may come too late for what the library
/// has registered in the meantime.
pub fn stop_network() {
    if let Some(Ok(client)) = CLIENT.get() {
        client.stop();
    }
}

/// The library, loaded and started at the first call.
pub(crate) fn client() -> Result<&'static Client, Error> {
    let client = CLIENT.get_or_init(|| {
        let chosen = CHOSEN.get().cloned().or_else(|| std::env::var_os(LIBRARY_VARIABLE));
        let places = match chosen {
            Some(path) => vec![path],
            None => PLACES.map(OsString::from).to_vec(),
        };
        Client::start(load(&places)?)
    });
    let client = client.as_ref().map_err(Error::clone)?;
    if client.stopped.load(Ordering::Acquire) {
        return Err(Error::Library("the network thread of FoundationDB was stopped: the program is ending".into()));
    }
    Ok(client)
}

fn load(places: &[OsString]) -> Result<Library, Error> {
    let mut tried = Vec::new();
    for place in places {
        // SAFETY: loading runs the initialisers of the named library, which is trusted like any other that the
        // system's loader would load for us.
        match unsafe { Library::new(place) } {
            Ok(library) => return Ok(library),
            Err(error) => tried.push(format!("{} ({})", place.display(), cause(&error))),
        }
    }
    Err(Error::Library(format!(
        "no FoundationDB client library: install the package foundationdb-clients (7.3 or 7.4), or name the file in \
         {LIBRARY_VARIABLE}; tried {}",
        tried.join(", ")
    )))
}

/// The loader's own words, which stand in the error's source.
fn cause(error: &libloading::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string).replace('\n', " ")
}

impl Client {
    fn start(library: Library) -> Result<Self, Error> {
        // SAFETY: the library was asked for as FoundationDB's client, and stands beside its functions until the end.
        let functions = unsafe { Functions::of(&library) };
        let functions = functions.map_err(|error| {
            Error::Library(format!("the library is no FoundationDB client of 7.3 or newer: {}", cause(&error)))
        })?;
        // SAFETY: takes nothing, and may be called at any time.
        let newest = unsafe { (functions.fdb_get_max_api_version)() };
        let version = api_version(newest)?;
        let client =
            Client { functions, network: Mutex::new(None), stopped: AtomicBool::new(false), _library: library };
        // SAFETY: called once per process, because `CLIENT` is filled once, and before any other function of the API.
        // The header's version is that of the runtime, because the declarations are good for both versions.
        client.check(unsafe { (client.functions.fdb_select_api_version_impl)(version, version) })?;
        // SAFETY: once per process, after the API version was selected.
        client.check(unsafe { (client.functions.fdb_setup_network)() })?;
        let run = client.functions.fdb_run_network;
        let network = std::thread::Builder::new().name("fdb-network".into()).spawn(move || {
            // SAFETY: once per process, after the setup, on a thread of its own; the library is never unloaded.
            // Its result says no more than that it was stopped.
            unsafe { run() };
        });
        let network = network.map_err(|error| Error::Library(format!("no thread for FoundationDB: {error}")))?;
        *client.network() = Some(network);
        // SAFETY: `stop_at_exit` does not unwind. Registered after the library was loaded, it runs before the
        // destructors that the library registered then. Without it only the exit is less clean.
        unsafe { atexit(stop_at_exit) };
        Ok(client)
    }

    fn network(&self) -> MutexGuard<'_, Option<JoinHandle<()>>> {
        self.network.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stop(&self) {
        let Some(thread) = self.network().take() else { return };
        self.stopped.store(true, Ordering::Release);
        // SAFETY: the network was set up, and this comes once because the thread's handle is taken once.
        unsafe { (self.functions.fdb_stop_network)() };
        // It ran C code only: there is no panic to hand on.
        let _ = thread.join();
    }

    /// The error behind one of the library's numbers; zero is none.
    pub(crate) fn check(&self, code: c_int) -> Result<(), Error> {
        if code == 0 {
            return Ok(());
        }
        // SAFETY: returns a static string for any number, and may be called at any time.
        let message = unsafe { (self.functions.fdb_get_error)(code) };
        let message = if message.is_null() {
            String::new()
        } else {
            // SAFETY: a static string that ends in a zero byte.
            unsafe { CStr::from_ptr(message) }.to_string_lossy().into_owned()
        };
        // SAFETY: takes plain numbers, and may be called at any time.
        let says = |predicate| unsafe { (self.functions.fdb_error_predicate)(predicate, code) } != 0;
        Err(Error::Code {
            code,
            message,
            retryable: says(PREDICATE_RETRYABLE),
            maybe_committed: says(PREDICATE_MAYBE_COMMITTED),
        })
    }
}

/// The version to ask for from a library that knows versions up to `newest`.
fn api_version(newest: c_int) -> Result<c_int, Error> {
    match newest {
        API_VERSION_MAX.. => Ok(API_VERSION_MAX),
        API_VERSION_MIN.. => Ok(API_VERSION_MIN),
        _ => Err(Error::Library(format!(
            "the FoundationDB client library is too old: its API version is {newest}, needed is {API_VERSION_MIN} or \
             newer; install the package foundationdb-clients of 7.3 or 7.4"
        ))),
    }
}

unsafe extern "C" {
    /// Of the C library: runs `handler` when the process exits.
    fn atexit(handler: extern "C" fn()) -> c_int;
}

extern "C" fn stop_at_exit() {
    stop_network();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_library_is_told_in_one_line() {
        let error = load(&["/nowhere/libfdb_c.so".into()]).map(drop).unwrap_err().to_string();
        for part in ["foundationdb-clients", LIBRARY_VARIABLE, "/nowhere/libfdb_c.so"] {
            assert!(error.contains(part), "{error}");
        }
        assert!(!error.contains('\n'), "{error}");
    }

    #[test]
    fn a_library_of_something_else_is_refused() {
        let library = load(&["libc.so.6".into()]).unwrap();
        let error = Client::start(library).map(drop).unwrap_err().to_string();
        assert!(error.contains("no FoundationDB client"), "{error}");
    }

    #[test]
    fn the_newest_common_version_is_asked_for_and_an_older_one_refused() {
        assert_eq!(api_version(800), Ok(740));
        assert_eq!(api_version(740), Ok(740));
        assert_eq!(api_version(730), Ok(730));
        let error = api_version(710).unwrap_err().to_string();
        assert!(error.contains("710") && error.contains("7.3"), "{error}");
    }
}
