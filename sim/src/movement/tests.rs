use super::*;
use crate::scenario::{Scenario, content};
use vsekai_schema::content::Palette;
use vsekai_schema::wire::Input;

fn ground() -> Ground {
    Ground { terrain: Terrain::new(3), half_mm: 64_000 }
}

fn gait() -> Gait {
    Gait { climb_mm_per_m: 10_000, ..Gait::from(&content().resolve(&Palette::default()).tuning) }
}

fn input(direction_x: i8, direction_z: i8) -> MoveInput {
    MoveInput { sequence: 1, direction_x, direction_z, yaw: 77, sprint: false }
}

fn pose(x: i32, z: i32) -> Pose {
    Pose { position: ground().at(x, z), yaw: 0 }
}

#[test]
fn a_second_of_walking_goes_as_far_as_the_tuning_says_in_every_direction() {
    for (dx, dz) in [(127, 0), (-128, 0), (0, 127), (90, 90), (-128, -128), (127, -127)] {
        let mut walker = pose(0, 0);
        for _ in 0..60 {
            walker = step(&ground(), gait(), TickRate(60), walker, &input(dx, dz));
        }
        let far = (walker.position.horizontal_distance_squared(Position::default()) as f64).sqrt();
        assert!((far - 4_000.0).abs() < 60.0, "({dx}, {dz}) went {far} mm");
        assert_eq!(walker.position, ground().at(walker.position.x, walker.position.z));
        assert_eq!(walker.yaw, 77);
    }
}

#[test]
fn a_half_pushed_stick_walks_half_as_fast() {
    let full = step(&ground(), gait(), TickRate(10), pose(0, 0), &input(127, 0)).position.x;
    let half = step(&ground(), gait(), TickRate(10), pose(0, 0), &input(64, 0)).position.x;
    assert_eq!((full, half), (400, 202));
}

#[test]
fn the_world_ends_at_its_edge_and_one_slides_along_it() {
    let walker = step(&ground(), gait(), TickRate(60), pose(64_000, 0), &input(127, 127));
    assert_eq!(walker.position.x, 64_000);
    assert!(walker.position.z > 0);
    let corner = step(&ground(), gait(), TickRate(60), pose(64_000, 64_000), &input(127, 127));
    assert_eq!((corner.position.x, corner.position.z), (64_000, 64_000));
}

#[test]
fn an_input_moves_the_player_until_it_lapses_and_an_overtaken_one_is_dropped() {
    let mut scene = Scenario::new();
    let player = scene.join("walker");
    let from = scene.get::<Pose>(player).position;
    let east = MoveInput { sequence: 5, ..input(127, 0) };
    scene.submit(player, Input::Move(east));
    scene.submit(player, Input::Move(MoveInput { sequence: 4, ..input(-127, 0) }));
    scene.tick();
    let after_one = scene.get::<Pose>(player).position;
    assert!(after_one.x > from.x, "walked from {from:?} to {after_one:?}");
    assert_eq!(scene.simulation.view().newest_input(player), 5);
    for _ in 0..100 {
        scene.tick();
    }
    let at_rest = scene.get::<Pose>(player).position;
    assert!(at_rest.x - from.x <= 67 * 31, "went {} mm after the input lapsed", at_rest.x - from.x);
    assert_eq!(scene.tick().events, [], "a player who stands changes nothing");
}
