//! An answer, there or to come. Its memory lives as long as the future, as in the library.
#![expect(unsafe_code, reason = "calls back into C, and hands out pointers to its own memory")]

use crate::error::{CLIENT_INVALID_OPERATION, FUTURE_NOT_SET, OPERATION_CANCELLED};
use std::ffi::{c_int, c_void};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// `FDBCallback`.
pub(crate) type Callback = unsafe extern "C" fn(*mut Future, *mut c_void);

/// `FDBKeyValue`, packed to 4 bytes as in the header.
#[derive(Clone, Copy)]
#[repr(C, packed(4))]
pub(crate) struct KeyValue {
    key: *const u8,
    key_length: c_int,
    value: *const u8,
    value_length: c_int,
}

/// What an operation says in the end.
pub(crate) enum Answer {
    Nothing,
    Number(i64),
    Key(Vec<u8>),
    Value(Option<Vec<u8>>),
    Pairs(Pairs),
}

/// Pairs, and the array of pointers to them.
pub(crate) struct Pairs {
    packed: Vec<KeyValue>,
    more: bool,
    /// Where the pointers lead; moved nowhere as long as the answer lives.
    _owned: Vec<(Vec<u8>, Vec<u8>)>,
}

// SAFETY: the pointers lead into vectors that lie beside them and are never changed.
unsafe impl Send for Pairs {}

impl Pairs {
    pub(crate) fn new(owned: Vec<(Vec<u8>, Vec<u8>)>, more: bool) -> Self {
        let packed = owned.iter().map(|(key, value)| KeyValue {
            key: key.as_ptr(),
            key_length: length(key),
            value: value.as_ptr(),
            value_length: length(value),
        });
        Pairs { packed: packed.collect(), more, _owned: owned }
    }
}

/// What an `FDBFuture` points to.
#[derive(Default)]
pub(crate) struct Future(Mutex<State>);

#[derive(Default)]
struct State {
    /// Given once, then never changed: pointers into it are out.
    answer: Option<Result<Answer, i32>>,
    /// The callback, and its parameter as a number, since it is not ours to look at.
    callback: Option<(Callback, usize)>,
}

impl Future {
    pub(crate) fn ready(answer: Result<Answer, i32>) -> Arc<Self> {
        let future = Arc::new(Future::default());
        future.state().answer = Some(answer);
        future
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.state().answer.is_some()
    }

    /// Gives the answer, unless there is one, and calls back.
    pub(crate) fn answer(&self, answer: Result<Answer, i32>) {
        let mut state = self.state();
        if state.answer.is_some() {
            return;
        }
        state.answer = Some(answer);
        let callback = state.callback.take();
        drop(state);
        self.call(callback);
    }

    pub(crate) fn cancel(&self) {
        self.answer(Err(OPERATION_CANCELLED));
    }

    pub(crate) fn set_callback(&self, callback: Callback, parameter: *mut c_void) -> Result<(), i32> {
        let mut state = self.state();
        if state.callback.is_some() {
            return Err(CLIENT_INVALID_OPERATION);
        }
        let callback = Some((callback, parameter.expose_provenance()));
        if state.answer.is_some() {
            drop(state);
            self.call(callback);
        } else {
            state.callback = callback;
        }
        Ok(())
    }

    fn call(&self, callback: Option<(Callback, usize)>) {
        if let Some((callback, parameter)) = callback {
            let future = std::ptr::from_ref(self).cast_mut();
            // SAFETY: called once, with the parameter that came with it, while the future lives.
            unsafe { callback(future, std::ptr::with_exposed_provenance_mut(parameter)) };
        }
    }

    /// Zero, or the error that the answer is.
    pub(crate) fn error(&self) -> i32 {
        match &self.state().answer {
            None => FUTURE_NOT_SET,
            Some(Ok(_)) => 0,
            Some(Err(code)) => *code,
        }
    }

    /// Looks at the answer.
    pub(crate) fn read<T>(&self, look: impl FnOnce(&Answer) -> Option<T>) -> Result<T, i32> {
        match &self.state().answer {
            None => Err(FUTURE_NOT_SET),
            Some(Ok(answer)) => look(answer).ok_or(CLIENT_INVALID_OPERATION),
            Some(Err(code)) => Err(*code),
        }
    }
}

/// Bytes as C takes them.
pub(crate) fn pointers(bytes: &[u8]) -> (*const u8, c_int) {
    (bytes.as_ptr(), length(bytes))
}

/// The array, its length, and whether more follow.
pub(crate) fn array(pairs: &Pairs) -> (*const KeyValue, c_int, c_int) {
    (pairs.packed.as_ptr(), c_int::try_from(pairs.packed.len()).unwrap_or(c_int::MAX), c_int::from(pairs.more))
}

fn length(bytes: &[u8]) -> c_int {
    c_int::try_from(bytes.len()).unwrap_or(c_int::MAX)
}
