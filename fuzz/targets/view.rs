//! The operations of a view.

#![no_main]

use libfuzzer_sys::fuzz_target;
use vsekai_schema::wire::view::decode_view;

fuzz_target!(|bytes: &[u8]| {
    let _ = decode_view(bytes);
});
