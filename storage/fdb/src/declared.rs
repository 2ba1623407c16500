//! The C interface: structures, numbers and functions of `fdb_c.h`, as far as they are used. API versions 730 and 740 agree
//! on all of it.
#![expect(unsafe_code, reason = "symbols of a C library have the types that we say they have")]

use libloading::Library;
use std::ffi::{c_char, c_int, c_void};

/// The newest API version that this crate knows, that of 7.4.
pub(crate) const API_VERSION_MAX: c_int = 740;
/// The oldest one that it works with, that of 7.3.
pub(crate) const API_VERSION_MIN: c_int = 730;

/// `FDBFuture`, which only the library looks into.
#[repr(C)]
pub(crate) struct FdbFuture {
    opaque: [u8; 0],
}

/// `FDBDatabase`, which only the library looks into.
#[repr(C)]
pub(crate) struct FdbDatabase {
    opaque: [u8; 0],
}

/// `FDBTransaction`, which only the library looks into.
#[repr(C)]
pub(crate) struct FdbTransaction {
    opaque: [u8; 0],
}

/// `FDBKeyValue`. The header packs it to 4 bytes: 24 bytes where pointers have 8.
#[derive(Clone, Copy)]
#[repr(C, packed(4))]
pub(crate) struct FdbKeyValue {
    pub(crate) key: *const u8,
    pub(crate) key_length: c_int,
    pub(crate) value: *const u8,
    pub(crate) value_length: c_int,
}

/// `FDBCallback`.
pub(crate) type FdbCallback = unsafe extern "C" fn(*mut FdbFuture, *mut c_void);

/// `FDB_STREAMING_MODE_WANT_ALL`: the caller will read on to the end, in large pages.
pub(crate) const STREAMING_WANT_ALL: c_int = -2;
/// `FDB_STREAMING_MODE_EXACT`: all of the limit in one page.
pub(crate) const STREAMING_EXACT: c_int = 0;

/// `FDB_ERROR_PREDICATE_RETRYABLE`.
pub(crate) const PREDICATE_RETRYABLE: c_int = 50_000;
/// `FDB_ERROR_PREDICATE_MAYBE_COMMITTED`.
pub(crate) const PREDICATE_MAYBE_COMMITTED: c_int = 50_001;

/// Changes that the store computes itself (`FDBMutationType`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum Mutation {
    /// The sum of two little-endian numbers of the operand's length.
    Add = 2,
    /// The larger of two little-endian numbers.
    Max = 12,
    /// The smaller of two little-endian numbers.
    Min = 13,
    /// Writes the versionstamp into the key, at the offset in its last 4 bytes (little-endian), which are cut off.
    SetVersionstampedKey = 14,
    /// Writes the versionstamp into the value, at the offset in its last 4 bytes (little-endian), which are cut off.
    SetVersionstampedValue = 15,
    /// The earlier of two byte strings.
    ByteMin = 16,
    /// The later of two byte strings.
    ByteMax = 17,
    /// Takes the key away when its value equals the operand.
    CompareAndClear = 20,
}

/// Which side of a conflict a range is added to (`FDBConflictRangeType`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum ConflictKind {
    /// As if it had been read.
    Read = 0,
    /// As if it had been written.
    Write = 1,
}

/// Declares the table of functions and how it is filled, so that no name is written twice.
macro_rules! functions {
    ($($name:ident: fn($($argument:ty),*) $(-> $result:ty)?;)*) => {
        /// The functions of the library, under their own names.
        pub(crate) struct Functions {
            $(pub(crate) $name: unsafe extern "C" fn($($argument),*) $(-> $result)?,)*
        }

        impl Functions {
            /// Finds each function in `library`.
            ///
            /// # Safety
            /// The library must be a FoundationDB client: its symbols have the types declared here. It must stay loaded
            /// as long as the functions are used.
            pub(crate) unsafe fn of(library: &Library) -> Result<Self, libloading::Error> {
                Ok(Functions {
                    // SAFETY: the caller vouches for the library, and the declarations below are the header's.
                    $($name: unsafe { *library.get(concat!(stringify!($name), "\0"))? },)*
                })
            }
        }
    };
}

functions! {
    fdb_get_error: fn(c_int) -> *const c_char;
    fdb_error_predicate: fn(c_int, c_int) -> c_int;
    fdb_get_max_api_version: fn() -> c_int;
    // Runtime and header version. `fdb_select_api_version` is a macro over this one.
    fdb_select_api_version_impl: fn(c_int, c_int) -> c_int;

    fdb_setup_network: fn() -> c_int;
    fdb_run_network: fn() -> c_int;
    fdb_stop_network: fn() -> c_int;

    fdb_future_destroy: fn(*mut FdbFuture);
    fdb_future_set_callback: fn(*mut FdbFuture, FdbCallback, *mut c_void) -> c_int;
    fdb_future_get_error: fn(*mut FdbFuture) -> c_int;
    fdb_future_get_int64: fn(*mut FdbFuture, *mut i64) -> c_int;
    fdb_future_get_key: fn(*mut FdbFuture, *mut *const u8, *mut c_int) -> c_int;
    // Present, value, length.
    fdb_future_get_value: fn(*mut FdbFuture, *mut c_int, *mut *const u8, *mut c_int) -> c_int;
    // Pairs, count, more.
    fdb_future_get_keyvalue_array: fn(*mut FdbFuture, *mut *const FdbKeyValue, *mut c_int, *mut c_int) -> c_int;

    fdb_create_database: fn(*const c_char, *mut *mut FdbDatabase) -> c_int;
    fdb_database_destroy: fn(*mut FdbDatabase);
    fdb_database_create_transaction: fn(*mut FdbDatabase, *mut *mut FdbTransaction) -> c_int;

    fdb_transaction_destroy: fn(*mut FdbTransaction);
    fdb_transaction_cancel: fn(*mut FdbTransaction);
    fdb_transaction_reset: fn(*mut FdbTransaction);
    fdb_transaction_set_read_version: fn(*mut FdbTransaction, i64);
    fdb_transaction_get_read_version: fn(*mut FdbTransaction) -> *mut FdbFuture;
    // Key, snapshot.
    fdb_transaction_get: fn(*mut FdbTransaction, *const u8, c_int, c_int) -> *mut FdbFuture;
    // Two key selectors (key, or_equal, offset), limit, target bytes, mode, iteration, snapshot, reverse.
    fdb_transaction_get_range: fn(
        *mut FdbTransaction, *const u8, c_int, c_int, c_int, *const u8, c_int, c_int, c_int,
        c_int, c_int, c_int, c_int, c_int, c_int
    ) -> *mut FdbFuture;
    fdb_transaction_set: fn(*mut FdbTransaction, *const u8, c_int, *const u8, c_int);
    fdb_transaction_atomic_op: fn(*mut FdbTransaction, *const u8, c_int, *const u8, c_int, c_int);
    fdb_transaction_clear: fn(*mut FdbTransaction, *const u8, c_int);
    fdb_transaction_clear_range: fn(*mut FdbTransaction, *const u8, c_int, *const u8, c_int);
    fdb_transaction_add_conflict_range: fn(*mut FdbTransaction, *const u8, c_int, *const u8, c_int, c_int) -> c_int;
    fdb_transaction_watch: fn(*mut FdbTransaction, *const u8, c_int) -> *mut FdbFuture;
    fdb_transaction_commit: fn(*mut FdbTransaction) -> *mut FdbFuture;
    fdb_transaction_get_committed_version: fn(*mut FdbTransaction, *mut i64) -> c_int;
    fdb_transaction_get_versionstamp: fn(*mut FdbTransaction) -> *mut FdbFuture;
    fdb_transaction_on_error: fn(*mut FdbTransaction, c_int) -> *mut FdbFuture;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::{align_of, offset_of, size_of};

    #[test]
    fn structures_and_numbers_are_those_of_the_header() {
        // Of a C program with `_Static_assert`s against `fdb_c.h` of 730 and 740, on x86_64.
        assert_eq!((size_of::<FdbKeyValue>(), align_of::<FdbKeyValue>()), (24, 4));
        assert_eq!((offset_of!(FdbKeyValue, key_length), offset_of!(FdbKeyValue, value)), (8, 12));
        assert_eq!(offset_of!(FdbKeyValue, value_length), 20);
        assert_eq!((size_of::<c_int>(), size_of::<FdbCallback>()), (4, 8));
        let mutations = [
            (Mutation::Add, 2),
            (Mutation::Max, 12),
            (Mutation::Min, 13),
            (Mutation::SetVersionstampedKey, 14),
            (Mutation::SetVersionstampedValue, 15),
            (Mutation::ByteMin, 16),
            (Mutation::ByteMax, 17),
            (Mutation::CompareAndClear, 20),
        ];
        assert!(mutations.iter().all(|(mutation, number)| *mutation as i32 == *number));
        assert_eq!((ConflictKind::Read as i32, ConflictKind::Write as i32), (0, 1));
    }
}
