//! Movement inputs one per tick, and what the shard says about them. What is understood comes back from its own encoding.

#![no_main]

use libfuzzer_sys::fuzz_target;
use vsekai_schema::wire::steps::{decode_steps, decode_steps_feedback, write_steps, write_steps_feedback};

fuzz_target!(|bytes: &[u8]| {
    if let Some(Ok((steps, rest))) = decode_steps(bytes) {
        let written = write_steps(&steps);
        assert_eq!(decode_steps(&[&written, rest].concat()), Some(Ok((steps, rest))));
    }
    if let Some(Ok((taken, slack))) = decode_steps_feedback(bytes) {
        assert_eq!(decode_steps_feedback(&write_steps_feedback(taken, slack)), Some(Ok((taken, slack))));
    }
});
