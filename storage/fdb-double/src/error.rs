//! The library's error numbers, and which of ours is which of them.

use std::ffi::CStr;
use vsekai_storage::Error;

pub(crate) const TRANSACTION_TOO_OLD: i32 = 1_007;
pub(crate) const FUTURE_VERSION: i32 = 1_009;
pub(crate) const NOT_COMMITTED: i32 = 1_020;
pub(crate) const COMMIT_UNKNOWN_RESULT: i32 = 1_021;
pub(crate) const TRANSACTION_CANCELLED: i32 = 1_025;
pub(crate) const TOO_MANY_WATCHES: i32 = 1_032;
pub(crate) const ACCESSED_UNREADABLE: i32 = 1_036;
pub(crate) const PROCESS_BEHIND: i32 = 1_037;
pub(crate) const CLUSTER_VERSION_CHANGED: i32 = 1_039;
pub(crate) const OPERATION_CANCELLED: i32 = 1_101;
pub(crate) const IO_ERROR: i32 = 1_510;
pub(crate) const NO_CLUSTER_FILE: i32 = 1_515;
pub(crate) const CLIENT_INVALID_OPERATION: i32 = 2_000;
pub(crate) const KEY_OUTSIDE_LEGAL_RANGE: i32 = 2_004;
pub(crate) const INVERTED_RANGE: i32 = 2_005;
pub(crate) const NETWORK_NOT_SETUP: i32 = 2_008;
pub(crate) const NETWORK_ALREADY_SETUP: i32 = 2_009;
pub(crate) const RANGE_LIMITS_INVALID: i32 = 2_012;
pub(crate) const FUTURE_NOT_SET: i32 = 2_015;
pub(crate) const USED_DURING_COMMIT: i32 = 2_017;
pub(crate) const INVALID_MUTATION_TYPE: i32 = 2_018;
pub(crate) const NO_COMMIT_VERSION: i32 = 2_021;
pub(crate) const NETWORK_CANNOT_BE_RESTARTED: i32 = 2_025;
pub(crate) const TRANSACTION_TOO_LARGE: i32 = 2_101;
pub(crate) const KEY_TOO_LARGE: i32 = 2_102;
pub(crate) const VALUE_TOO_LARGE: i32 = 2_103;
pub(crate) const API_VERSION_UNSET: i32 = 2_200;
pub(crate) const API_VERSION_ALREADY_SET: i32 = 2_201;
pub(crate) const API_VERSION_INVALID: i32 = 2_202;
pub(crate) const API_VERSION_NOT_SUPPORTED: i32 = 2_203;
pub(crate) const EXACT_MODE_WITHOUT_LIMITS: i32 = 2_210;

/// The number of what went wrong in the store.
pub(crate) fn code_of(error: &Error) -> i32 {
    match error {
        Error::Conflict => NOT_COMMITTED,
        Error::TooOld => TRANSACTION_TOO_OLD,
        Error::FutureVersion => FUTURE_VERSION,
        Error::ProcessBehind => PROCESS_BEHIND,
        Error::CommitUnknownResult => COMMIT_UNKNOWN_RESULT,
        Error::Unreadable => ACCESSED_UNREADABLE,
        Error::KeyOutside(_) => KEY_OUTSIDE_LEGAL_RANGE,
        Error::TooLarge { what: "transaction", .. } => TRANSACTION_TOO_LARGE,
        Error::TooLarge { what: "key", .. } => KEY_TOO_LARGE,
        Error::TooLarge { what: "value", .. } => VALUE_TOO_LARGE,
        Error::TooLarge { what: "list of watches", .. } => TOO_MANY_WATCHES,
        Error::Config(_) => CLIENT_INVALID_OPERATION,
        _ => IO_ERROR,
    }
}

/// `FDB_ERROR_PREDICATE_MAYBE_COMMITTED`.
pub(crate) fn is_maybe_committed(code: i32) -> bool {
    [COMMIT_UNKNOWN_RESULT, CLUSTER_VERSION_CHANGED].contains(&code)
}

/// `FDB_ERROR_PREDICATE_RETRYABLE`.
pub(crate) fn is_retryable(code: i32) -> bool {
    is_maybe_committed(code) || [TRANSACTION_TOO_OLD, FUTURE_VERSION, NOT_COMMITTED, PROCESS_BEHIND].contains(&code)
}

/// The words of the library for the numbers that tests are likely to meet.
pub(crate) fn words(code: i32) -> &'static CStr {
    match code {
        0 => c"Success",
        TRANSACTION_TOO_OLD => c"Transaction is too old to perform reads or be committed",
        FUTURE_VERSION => c"Request for future version",
        NOT_COMMITTED => c"Transaction not committed due to conflict with another transaction",
        COMMIT_UNKNOWN_RESULT => c"Transaction may or may not have committed",
        TRANSACTION_CANCELLED => c"Operation aborted because the transaction was cancelled",
        PROCESS_BEHIND => c"Storage process does not have recent mutations",
        CLUSTER_VERSION_CHANGED => c"The protocol version of the cluster has changed",
        OPERATION_CANCELLED => c"Asynchronous operation cancelled",
        CLIENT_INVALID_OPERATION => c"Invalid API call",
        NETWORK_NOT_SETUP => c"Action not possible before the network is configured",
        USED_DURING_COMMIT => c"Operation issued while a commit was outstanding",
        API_VERSION_UNSET => c"API version is not set",
        API_VERSION_ALREADY_SET => c"API version may be set only once",
        _ => c"UNKNOWN_ERROR",
    }
}
