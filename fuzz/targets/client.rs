//! What the client's side makes of what a shard says: views and motion are applied to what it knows. The input is cut into messages: a
//! byte of channel, two of length, then so many bytes. A welcome comes first.

#![no_main]

use libfuzzer_sys::fuzz_target;
use std::time::Duration;
use vsekai_net::client::Client;
use vsekai_schema::id::EntityId;
use vsekai_schema::wire::{CHANNEL_COMMAND, PROTOCOL_VERSION, ServerMessage, encode};

/// Nothing can be harvested or built: the client only passes it on.
const CATALOGUE: &str = r#"{"items":[],"nodes":[],"pieces":[],"recipes":[],"reach_mm":4000,"grid_mm":2000,"storey_mm":3000,"storey_max":8,
"walk_mm_s":4000,"sprint_mm_s":7000,"climb_mm_per_m":1000,"uneven_ground_mm":500,
"harvest_interval_ms":500,"inventory_slots":24}"#;

fuzz_target!(|bytes: &[u8]| {
    let welcome = ServerMessage::Welcome {
        protocol: PROTOCOL_VERSION,
        tick_hz: 60,
        tick: 1_000,
        player: EntityId(7),
        seed: 122,
        world_half_mm: 512_000,
        last_command: 0,
        content: CATALOGUE.into(),
    };
    let mut client = Client::new("a token", "fuzz");
    let mut now = Duration::ZERO;
    assert!(client.receive(now, CHANNEL_COMMAND, &encode(&welcome)).is_ok(), "the welcome is in order");
    let mut rest = bytes;
    while let Some(([channel, low, high], behind)) = rest.split_first_chunk() {
        let length = usize::from(u16::from_le_bytes([*low, *high]));
        let (message, behind) = behind.split_at(length.min(behind.len()));
        rest = behind;
        now += Duration::from_millis(16);
        if client.receive(now, usize::from(channel & 1), message).is_err() {
            return;
        }
        while client.poll_event().is_some() {}
        client.take_outgoing();
    }
});
