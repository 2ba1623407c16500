//! Tests of the whole system: real processes, real browsers, real peers.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod browser;
mod drain;
mod hostile;
mod javascript;
mod matchbox;
mod startup;
mod supervisor_disk;
mod supervisor_godot;
mod supervisor_page;
mod supervisor_upgrade;
mod tidy;
