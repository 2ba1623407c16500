//! The C functions, by the names and types of `fdb_c.h`. What they mean stands there and at
//! <https://apple.github.io/foundationdb/api-c.html>.
#![expect(unsafe_code, reason = "C functions, called with C's pointers")]

use crate::database::Database;
use crate::error::{is_maybe_committed, is_retryable, words};
use crate::future::{Answer, Callback, Future, KeyValue, array, pointers};
use crate::network;
use crate::transaction::Transaction;
use std::ffi::{CStr, OsStr, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

/// The number of an outcome.
fn number(outcome: Result<(), i32>) -> c_int {
    outcome.err().unwrap_or(0)
}

/// Hands a future out.
fn given(future: Arc<Future>) -> *mut Future {
    Arc::into_raw(future).cast_mut()
}

/// The bytes that C points to.
///
/// # Safety
/// When `length` is above zero, `bytes` must point to so many, for as long as the call lasts.
unsafe fn bytes<'b>(bytes: *const u8, length: c_int) -> &'b [u8] {
    match usize::try_from(length) {
        // SAFETY: the caller says so.
        Ok(length) if length > 0 => unsafe { std::slice::from_raw_parts(bytes, length) },
        _ => &[],
    }
}

#[unsafe(no_mangle)]
extern "C" fn fdb_get_error(code: c_int) -> *const c_char {
    words(code).as_ptr()
}

#[unsafe(no_mangle)]
extern "C" fn fdb_error_predicate(predicate: c_int, code: c_int) -> c_int {
    c_int::from(match predicate {
        50_000 => is_retryable(code),
        50_001 => is_maybe_committed(code),
        50_002 => is_retryable(code) && !is_maybe_committed(code),
        _ => false,
    })
}

#[unsafe(no_mangle)]
extern "C" fn fdb_get_max_api_version() -> c_int {
    network::API_VERSION
}

#[unsafe(no_mangle)]
extern "C" fn fdb_select_api_version_impl(runtime: c_int, header: c_int) -> c_int {
    number(network::select(runtime, header))
}

#[unsafe(no_mangle)]
extern "C" fn fdb_setup_network() -> c_int {
    number(network::set_up())
}

#[unsafe(no_mangle)]
extern "C" fn fdb_run_network() -> c_int {
    number(network::run())
}

#[unsafe(no_mangle)]
extern "C" fn fdb_stop_network() -> c_int {
    number(network::stop())
}

#[unsafe(no_mangle)]
unsafe extern "C" fn fdb_future_destroy(future: *mut Future) {
    // SAFETY: the caller owned the future, which `given` made.
    let future = unsafe { Arc::from_raw(future.cast_const()) };
    future.cancel();
}

#[unsafe(no_mangle)]
unsafe extern "C" fn fdb_future_set_callback(future: *mut Future, callback: Callback, parameter: *mut c_void) -> c_int {
    // SAFETY: the caller owns the future.
    number(unsafe { &*future }.set_callback(callback, parameter))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn fdb_future_get_error(future: *mut Future) -> c_int {
    // SAFETY: the caller owns the future.
    unsafe { &*future }.error()
}

/// Reads the future's answer into C's places.
///
/// # Safety
/// The caller must own the future.
unsafe fn read<T>(future: *mut Future, look: impl FnOnce(&Answer) -> Option<T>, put: impl FnOnce(T)) -> c_int {
    // SAFETY: the caller says so.
    number(unsafe { &*future }.read(look).map(put))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn fdb_future_get_int64(future: *mut Future, out: *mut i64) -> c_int {
    let look = |answer: &Answer| if let Answer::Number(number) = answer { Some(*number) } else { None };
    // SAFETY: the caller owns the future and the place.
    unsafe { read(future, look, |number| *out = number) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn fdb_future_get_key(future: *mut Future, out: *mut *const u8, out_length: *mut c_int) -> c_int {
    let look = |answer: &Answer| if let Answer::Key(key) = answer { Some(pointers(key)) } else { None };
    // SAFETY: the caller owns the future and the places.
    unsafe { read(future, look, |key| (*out, *out_length) = key) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn fdb_future_get_value(
    future: *mut Future,
    out_present: *mut c_int,
    out: *mut *const u8,
    out_length: *mut c_int,
) -> c_int {
    let look = |answer: &Answer| match answer {
        Answer::Value(value) => Some(value.as_deref().map(pointers)),
        _ => None,
    };
    let put = |value: Option<_>| {
        // SAFETY: the caller owns the places.
        unsafe {
            *out_present = c_int::from(value.is_some());
            (*out, *out_length) = value.unwrap_or((std::ptr::null(), 0));
        }
    };
    // SAFETY: the caller owns the future.
    unsafe { read(future, look, put) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn fdb_future_get_keyvalue_array(
    future: *mut Future,
    out: *mut *const KeyValue,
    out_count: *mut c_int,
    out_more: *mut c_int,
) -> c_int {
    let look = |answer: &Answer| if let Answer::Pairs(pairs) = answer { Some(array(pairs)) } else { None };
    // SAFETY: the caller owns the future and the places.
    unsafe { read(future, look, |found| (*out, *out_count, *out_more) = found) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn fdb_create_database(cluster_file: *const c_char, out: *mut *mut Database) -> c_int {
    // SAFETY: the caller gives a string that ends in a zero byte.
    let path = unsafe { CStr::from_ptr(cluster_file) };
    let database = network::check().and_then(|()| Database::open(Path::new(OsStr::from_bytes(path.to_bytes()))));
    // SAFETY: the caller owns the place.
    number(database.map(|database| unsafe { *out = Arc::into_raw(database).cast_mut() }))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn fdb_database_destroy(database: *mut Database) {
    // SAFETY: the caller owned one count of it, made by `fdb_create_database`.
    drop(unsafe { Arc::from_raw(database.cast_const()) });
}

#[unsafe(no_mangle)]
unsafe extern "C" fn fdb_database_create_transaction(database: *mut Database, out: *mut *mut Transaction) -> c_int {
    // SAFETY: the caller owns one count of it, which stays; the transaction gets its own.
    let database = unsafe {
        Arc::increment_strong_count(database.cast_const());
        Arc::from_raw(database.cast_const())
    };
    // SAFETY: the caller owns the place.
    number(Transaction::new(database).map(|transaction| unsafe { *out = Box::into_raw(Box::new(transaction)) }))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn fdb_transaction_destroy(transaction: *mut Transaction) {
    // SAFETY: the caller owned it, made by `fdb_database_create_transaction`.
    drop(unsafe { Box::from_raw(transaction) });
}

#[unsafe(no_mangle)]
unsafe extern "C" fn fdb_transaction_cancel(transaction: *mut Transaction) {
    // SAFETY: the caller owns the transaction.
    unsafe { &*transaction }.cancel();
}

#[unsafe(no_mangle)]
unsafe extern "C" fn fdb_transaction_reset(transaction: *mut Transaction) {
    // SAFETY: the caller owns the transaction.
    unsafe { &*transaction }.reset();
}

#[unsafe(no_mangle)]
unsafe extern "C" fn fdb_transaction_set_read_version(transaction: *mut Transaction, version: i64) {
    // SAFETY: the caller owns the transaction.
    unsafe { &*transaction }.set_read_version(version);
}

#[unsafe(no_mangle)]
unsafe extern "C" fn fdb_transaction_get_read_version(transaction: *mut Transaction) -> *mut Future {
    // SAFETY: the caller owns the transaction.
    given(unsafe { &*transaction }.read_version())
}

#[unsafe(no_mangle)]
unsafe extern "C" fn fdb_transaction_get(
    transaction: *mut Transaction,
    key: *const u8,
    key_length: c_int,
    snapshot: c_int,
) -> *mut Future {
    // SAFETY: the caller owns the transaction and the key.
    given(unsafe { (*transaction).get(bytes(key, key_length), snapshot != 0) })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn fdb_transaction_get_range(
    transaction: *mut Transaction,
    begin: *const u8,
    begin_length: c_int,
    begin_or_equal: c_int,
    begin_offset: c_int,
    end: *const u8,
    end_length: c_int,
    end_or_equal: c_int,
    end_offset: c_int,
    limit: c_int,
    _target_bytes: c_int,
    mode: c_int,
    _iteration: c_int,
    snapshot: c_int,
    reverse: c_int,
) -> *mut Future {
    // SAFETY: the caller owns the keys.
    let (begin, end) = unsafe { (bytes(begin, begin_length), bytes(end, end_length)) };
    let begin = (begin, begin_or_equal != 0, begin_offset);
    let end = (end, end_or_equal != 0, end_offset);
    // SAFETY: the caller owns the transaction.
    given(unsafe { &*transaction }.get_range(begin, end, limit, mode, snapshot != 0, reverse != 0))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn fdb_transaction_set(
    transaction: *mut Transaction,
    key: *const u8,
    key_length: c_int,
    value: *const u8,
    value_length: c_int,
) {
    // SAFETY: the caller owns the transaction, key and value.
    unsafe { (*transaction).set(bytes(key, key_length), bytes(value, value_length)) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn fdb_transaction_atomic_op(
    transaction: *mut Transaction,
    key: *const u8,
    key_length: c_int,
    operand: *const u8,
    operand_length: c_int,
    mutation: c_int,
) {
    // SAFETY: the caller owns the transaction, key and operand.
    unsafe { (*transaction).atomic(bytes(key, key_length), bytes(operand, operand_length), mutation) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn fdb_transaction_clear(transaction: *mut Transaction, key: *const u8, key_length: c_int) {
    // SAFETY: the caller owns the transaction and the key.
    unsafe { (*transaction).clear(bytes(key, key_length)) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn fdb_transaction_clear_range(
    transaction: *mut Transaction,
    begin: *const u8,
    begin_length: c_int,
    end: *const u8,
    end_length: c_int,
) {
    // SAFETY: the caller owns the transaction and the keys.
    unsafe { (*transaction).clear_range(bytes(begin, begin_length), bytes(end, end_length)) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn fdb_transaction_add_conflict_range(
    transaction: *mut Transaction,
    begin: *const u8,
    begin_length: c_int,
    end: *const u8,
    end_length: c_int,
    kind: c_int,
) -> c_int {
    // SAFETY: the caller owns the transaction and the keys.
    number(unsafe { (*transaction).add_conflict_range(bytes(begin, begin_length), bytes(end, end_length), kind) })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn fdb_transaction_watch(
    transaction: *mut Transaction,
    key: *const u8,
    key_length: c_int,
) -> *mut Future {
    // SAFETY: the caller owns the transaction and the key.
    given(unsafe { (*transaction).watch(bytes(key, key_length)) })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn fdb_transaction_commit(transaction: *mut Transaction) -> *mut Future {
    // SAFETY: the caller owns the transaction.
    given(unsafe { &*transaction }.commit())
}

#[unsafe(no_mangle)]
unsafe extern "C" fn fdb_transaction_get_committed_version(transaction: *mut Transaction, out: *mut i64) -> c_int {
    // SAFETY: the caller owns the transaction and the place.
    unsafe { *out = (*transaction).committed_version() };
    0
}

#[unsafe(no_mangle)]
unsafe extern "C" fn fdb_transaction_get_versionstamp(transaction: *mut Transaction) -> *mut Future {
    // SAFETY: the caller owns the transaction.
    given(unsafe { &*transaction }.versionstamp())
}

#[unsafe(no_mangle)]
unsafe extern "C" fn fdb_transaction_on_error(transaction: *mut Transaction, code: c_int) -> *mut Future {
    // SAFETY: the caller owns the transaction.
    given(unsafe { &*transaction }.on_error(code))
}
