//! Packets of rigid bodies. What is understood leads to states that can be told again, against any base, and come back.

#![no_main]

use libfuzzer_sys::fuzz_target;
use vsekai_schema::wire::body::{Baseline, Before, BodyHead, BodyWriter, Update, decode_bodies};

fuzz_target!(|bytes: &[u8]| {
    let Ok((_, updates)) = decode_bodies(bytes) else { return };
    // Each state is told against the one before it in the packet.
    let mut base: Option<Baseline> = None;
    for (slot, update) in updates {
        let (age, body) = match (update, base) {
            (Update::Absolute(body), _) => (7, body),
            (Update::Since { age, change }, Some(base)) => match change.from(&base, age) {
                Ok(body) => (age, body),
                Err(_) => continue,
            },
            (Update::Since { .. }, None) => continue,
        };
        if let Some(base) = base {
            let mut writer = BodyWriter::new(BodyHead { number: 0, tick: 0 }, 1, 0);
            writer.push(slot, age, body.since(&base, age));
            let Ok((_, again)) = decode_bodies(&writer.finish()) else { panic!("what was written cannot be read") };
            let Some((_, Update::Since { change, .. })) = again.first() else { panic!("nothing came back") };
            assert_eq!(change.from(&base, age), Ok(body));
        }
        base = Some(Baseline { state: body, before: base.map(|base| Before { state: base.state, ticks: age }) });
    }
});
