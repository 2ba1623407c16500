//! A conversation with a session, hello and resume included. The input is cut into messages: a byte for channel and time, two of
//! length, then so many bytes.

#![no_main]

use libfuzzer_sys::fuzz_target;
use std::time::Duration;
use vsekai_net::flood::Rates;
use vsekai_net::session::{Limits, Session, Verdict};
use vsekai_schema::id::EntityId;

fuzz_target!(|bytes: &[u8]| {
    let limits = Limits { rates: Rates::default(), silence: Duration::from_secs(5), hello: Duration::from_secs(5) };
    let mut now = Duration::ZERO;
    let mut session = Session::new(limits, 60, now);
    let mut rest = bytes;
    while let Some(([how, low, high], behind)) = rest.split_first_chunk() {
        let length = usize::from(u16::from_le_bytes([*low, *high]));
        let (message, behind) = behind.split_at(length.min(behind.len()));
        rest = behind;
        now += Duration::from_millis(u64::from(how >> 2));
        let channel = usize::from(how & 3);
        match session.receive(now, channel, message) {
            Verdict::Enter { .. } | Verdict::Resume { .. } => session.entered(EntityId(7)),
            Verdict::Leave | Verdict::Refuse { .. } => return,
            _ => {}
        }
        let _ = session.check_silence(now);
    }
});
