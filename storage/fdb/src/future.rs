//! An answer that the library will give, and waiting for it: the library calls back, so nothing is polled.
#![expect(unsafe_code, reason = "calls a C library with the pointers it gave")]

use crate::client::Client;
use crate::declared::{FdbFuture, FdbKeyValue};
use crate::error::Error;
use std::ffi::{c_int, c_void};
use std::ptr::NonNull;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// A page of a range: its pairs, and whether more follow.
pub(crate) type Page = (Vec<(Vec<u8>, Vec<u8>)>, bool);

/// One answer to come. Dropped, it is cancelled and forgotten.
pub(crate) struct Future {
    client: &'static Client,
    raw: NonNull<FdbFuture>,
    signal: Arc<Signal>,
}

// SAFETY: the library allows its futures to be used from any thread, and from several at once.
unsafe impl Send for Future {}
// SAFETY: as above.
unsafe impl Sync for Future {}

/// Tells the waiting thread that the answer is there.
#[derive(Default)]
struct Signal {
    is_ready: Mutex<bool>,
    changed: Condvar,
}

/// Called by the library's network thread, or at once. `parameter` is a strong count of the signal, which ends here. A
/// callback that never comes leaks it: a few bytes, and the only way in which nobody can touch what is gone.
unsafe extern "C" fn on_ready(_: *mut FdbFuture, parameter: *mut c_void) {
    // SAFETY: `Future::new` made the pointer with `Arc::into_raw`, and the library calls back once.
    let signal = unsafe { Arc::from_raw(parameter.cast_const().cast::<Signal>()) };
    *signal.is_ready.lock().unwrap_or_else(PoisonError::into_inner) = true;
    signal.changed.notify_all();
}

impl Future {
    /// Takes over what the library returned.
    ///
    /// # Safety
    /// `raw` must be a future of the library, of which nobody else knows, or null.
    pub(crate) unsafe fn new(client: &'static Client, raw: *mut FdbFuture) -> Result<Self, Error> {
        let raw =
            NonNull::new(raw).ok_or_else(|| Error::Library("the library of FoundationDB gave no future".into()))?;
        let future = Future { client, raw, signal: Arc::default() };
        let parameter = Arc::into_raw(future.signal.clone());
        // SAFETY: the future is alive, and the callback gets the pointer that it expects.
        let code = unsafe {
            (client.functions.fdb_future_set_callback)(raw.as_ptr(), on_ready, parameter.cast_mut().cast::<c_void>())
        };
        if let Err(error) = client.check(code) {
            // SAFETY: refused, the callback never comes: the count is still ours.
            drop(unsafe { Arc::from_raw(parameter) });
            return Err(error);
        }
        Ok(future)
    }

    /// True when the answer is there, false when `timeout` went by. Without a timeout it waits as long as it takes.
    pub(crate) fn wait(&self, timeout: Option<Duration>) -> bool {
        let ready = self.signal.is_ready.lock().unwrap_or_else(PoisonError::into_inner);
        match timeout {
            None => {
                let ready = self.signal.changed.wait_while(ready, |ready| !*ready);
                *ready.unwrap_or_else(PoisonError::into_inner)
            }
            Some(timeout) => {
                let waited = self.signal.changed.wait_timeout_while(ready, timeout, |ready| !*ready);
                *waited.unwrap_or_else(PoisonError::into_inner).0
            }
        }
    }

    /// The error that the answer is, if it is one.
    pub(crate) fn outcome(&self) -> Result<(), Error> {
        // SAFETY: the future is alive. A future that is not ready answers with an error.
        self.client.check(unsafe { (self.client.functions.fdb_future_get_error)(self.raw.as_ptr()) })
    }

    /// The answer, if it is a number.
    pub(crate) fn int64(&self) -> Result<i64, Error> {
        let mut number = 0;
        // SAFETY: the future is alive, and the place for the answer, too.
        let code = unsafe { (self.client.functions.fdb_future_get_int64)(self.raw.as_ptr(), &mut number) };
        self.client.check(code).map(|()| number)
    }

    /// The answer, if it is a key.
    pub(crate) fn key(&self) -> Result<Vec<u8>, Error> {
        let (mut key, mut length) = (std::ptr::null(), 0);
        // SAFETY: the future is alive, and the places for the answer, too.
        let code = unsafe { (self.client.functions.fdb_future_get_key)(self.raw.as_ptr(), &mut key, &mut length) };
        self.client.check(code)?;
        // SAFETY: the library gave a key of its length, which lives as long as the future.
        Ok(unsafe { copied(key, length) })
    }

    /// The answer, if it is a value that may be missing.
    pub(crate) fn value(&self) -> Result<Option<Vec<u8>>, Error> {
        let (mut present, mut value, mut length) = (0, std::ptr::null(), 0);
        // SAFETY: the future is alive, and the places for the answer, too.
        let code = unsafe {
            (self.client.functions.fdb_future_get_value)(self.raw.as_ptr(), &mut present, &mut value, &mut length)
        };
        self.client.check(code)?;
        // SAFETY: the library gave a value of its length, which lives as long as the future.
        Ok((present != 0).then(|| unsafe { copied(value, length) }))
    }

    /// The answer, if it is a page of pairs.
    pub(crate) fn page(&self) -> Result<Page, Error> {
        let (mut array, mut count, mut more): (*const FdbKeyValue, c_int, c_int) = (std::ptr::null(), 0, 0);
        // SAFETY: the future is alive, and the places for the answer, too.
        let code = unsafe {
            (self.client.functions.fdb_future_get_keyvalue_array)(self.raw.as_ptr(), &mut array, &mut count, &mut more)
        };
        self.client.check(code)?;
        let count = if array.is_null() { 0 } else { usize::try_from(count).unwrap_or(0) };
        let pairs = (0..count).map(|index| {
            // SAFETY: the library gave an array of `count` packed structures, which lives as long as the future and
            // need not be aligned.
            let pair = unsafe { array.add(index).read_unaligned() };
            // SAFETY: as long as the array live the bytes that it points to.
            unsafe { (copied(pair.key, pair.key_length), copied(pair.value, pair.value_length)) }
        });
        Ok((pairs.collect(), more != 0))
    }
}

impl Drop for Future {
    fn drop(&mut self) {
        // SAFETY: the future is ours alone and goes now. What is not answered yet is cancelled by this, too.
        unsafe { (self.client.functions.fdb_future_destroy)(self.raw.as_ptr()) };
    }
}

/// A copy of bytes that the library owns.
///
/// # Safety
/// When `length` is above zero, `bytes` must point to so many.
unsafe fn copied(bytes: *const u8, length: c_int) -> Vec<u8> {
    match usize::try_from(length) {
        // SAFETY: the caller says so.
        Ok(length) if length > 0 && !bytes.is_null() => unsafe { std::slice::from_raw_parts(bytes, length) }.to_vec(),
        _ => Vec::new(),
    }
}
