//! What clients in other languages test their step against: walks with every pose, committed in
//! `schema/fixtures/movement_v1.json`. `VSEKAI_WRITE_FIXTURES=1` writes the file when it is not there, and never overwrites.

use super::*;
use std::fmt::Write;

const STEPS: usize = 150;

struct Walk {
    name: &'static str,
    seed: u64,
    half_mm: i32,
    gait: Gait,
    tick_hz: u32,
    from: (i32, i32),
}

fn walks() -> Vec<Walk> {
    let gait = Gait { walk_mm_s: 4_000, sprint_mm_s: 7_000, climb_mm_per_m: 900 };
    let slow = Gait { climb_mm_per_m: 120, ..gait };
    let plain = Walk { name: "plain", seed: 7, half_mm: 512_000, gait, tick_hz: 60, from: (0, 0) };
    vec![
        Walk { name: "sixty ticks a second", ..plain },
        Walk { name: "twenty ticks a second", tick_hz: 20, from: (-33_000, 64_100), ..plain },
        Walk { name: "a seed beyond 2^53, far out", seed: 0xfedc_ba98_7654_3210, from: (-400_000, 311_111), ..plain },
        Walk { name: "too steep now and then", seed: 99, gait: slow, tick_hz: 30, from: (70_000, -20_000), ..plain },
        Walk {
            name: "too steep nearly everywhere",
            seed: 3,
            gait: Gait { climb_mm_per_m: 1, ..gait },
            from: (5_000, 9_000),
            ..plain
        },
        Walk { name: "at the edge of a small world", half_mm: 300, from: (290, -290), ..plain },
        Walk {
            name: "the fastest steps that content allows",
            gait: Gait { walk_mm_s: 20_000, sprint_mm_s: 40_000, climb_mm_per_m: 10_000 },
            tick_hz: 1,
            half_mm: 2_000_000_000,
            from: (1_999_000_000, -1_999_000_000),
            ..plain
        },
    ]
}

/// Directions of all kinds, some as no keyboard gives them; each lasts ten ticks.
fn input(walk: usize, number: usize) -> MoveInput {
    let mut mixed = (walk as u32 * 7_919 + number as u32 / 10 + 1).wrapping_mul(0x9e37_79b1);
    mixed ^= mixed >> 15;
    mixed = mixed.wrapping_mul(0x85eb_ca77);
    mixed ^= mixed >> 13;
    let [a, b, c, d] = mixed.to_le_bytes();
    let (direction_x, direction_z) = match c % 8 {
        0 => (0, 0),
        1 => (127, 0),
        2 => (-128, -128),
        3 => (0, if a < 128 { 1 } else { -1 }),
        4 => (127, 127),
        _ => (a as i8, b as i8),
    };
    MoveInput { sequence: number as u32 + 1, direction_x, direction_z, yaw: u16::from(d) * 257, sprint: c & 64 != 0 }
}

fn json() -> String {
    let mut out = String::from("[");
    for (number, walk) in walks().iter().enumerate() {
        let ground = Ground { terrain: Terrain::new(walk.seed), half_mm: walk.half_mm };
        let Gait { walk_mm_s, sprint_mm_s, climb_mm_per_m } = walk.gait;
        let mut pose = Pose { position: ground.at(walk.from.0, walk.from.1), yaw: 0 };
        let Position { x, y, z } = pose.position;
        let _ = write!(
            out,
            "{}\n{{\"name\":\"{}\",\"seed\":\"{}\",\"half_mm\":{},\"walk_mm_s\":{walk_mm_s},\"sprint_mm_s\":{sprint_mm_s},\
             \"climb_mm_per_m\":{climb_mm_per_m},\"tick_hz\":{},\"from\":[{x},{y},{z},0],\n\"inputs_and_poses\":[",
            if number > 0 { "," } else { "" },
            walk.name,
            walk.seed,
            walk.half_mm,
            walk.tick_hz,
        );
        for step_number in 0..STEPS {
            let input = input(number, step_number);
            pose = step(&ground, walk.gait, TickRate(walk.tick_hz), pose, &input);
            let MoveInput { direction_x, direction_z, yaw, sprint, .. } = input;
            let Position { x, y, z } = pose.position;
            let comma = if step_number > 0 { "," } else { "" };
            let _ = write!(out, "{comma}\n[{direction_x},{direction_z},{yaw},{sprint},{x},{y},{z}]");
        }
        out.push_str("]}");
    }
    out.push_str("\n]\n");
    out
}

#[test]
fn the_vectors_that_clients_test_against_are_what_the_step_gives() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../schema/fixtures/movement_v1.json");
    let made = json();
    if !std::path::Path::new(path).exists() && std::env::var_os("VSEKAI_WRITE_FIXTURES").is_some() {
        std::fs::write(path, &made).unwrap();
    }
    let committed = std::fs::read_to_string(path).unwrap();
    for (number, (committed, made)) in committed.lines().zip(made.lines()).enumerate() {
        assert_eq!(committed, made, "line {}", number + 1);
    }
    assert_eq!(committed.len(), made.len());
}

#[test]
fn the_vectors_reach_what_is_special() {
    let mut special = [0; 4];
    for (number, walk) in walks().iter().enumerate() {
        let ground = Ground { terrain: Terrain::new(walk.seed), half_mm: walk.half_mm };
        let mut pose = Pose { position: ground.at(walk.from.0, walk.from.1), yaw: 0 };
        for step_number in 0..STEPS {
            let input = input(number, step_number);
            let to = step(&ground, walk.gait, TickRate(walk.tick_hz), pose, &input);
            let (east, south) = (to.position.x != pose.position.x, to.position.z != pose.position.z);
            let wanted = (input.direction_x.unsigned_abs() > 20, input.direction_z.unsigned_abs() > 20);
            special[0] += usize::from(wanted == (true, true) && east && !south);
            special[1] += usize::from(wanted == (true, true) && !east && south);
            special[2] += usize::from(wanted == (true, true) && !east && !south);
            special[3] += usize::from(to.position.y > pose.position.y);
            pose = to;
        }
    }
    // Slid along x, along z, stood before a slope or the edge, climbed.
    assert!(special.iter().all(|count| *count >= 12), "{special:?}");
}
