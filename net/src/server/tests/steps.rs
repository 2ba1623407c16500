//! A client that walks ahead of the shard, over a bad network, against the real simulation.

use super::*;
use std::collections::BTreeMap;
use vsekai_schema::units::Position;

/// 50 ms of round trip, jitter, one datagram in fifty lost.
const BAD_NETWORK: Faults =
    Faults { delay_ms: (22, 28), loss_permille: 20, duplicate_permille: 0, reorder_permille: 0 };

#[test]
fn the_shard_walks_exactly_as_the_client_predicted() {
    let mut scene = Scene::new(BAD_NETWORK);
    let anna = scene.join("anna-token");
    let player = scene.player(anna);
    let start = scene.clients[anna].1.own().unwrap().get::<Pose>().unwrap();
    let mut predicted: BTreeMap<u32, Position> = BTreeMap::new();
    let mut compared = 0;
    for tick in 0..1_800u32 {
        let turn = tick / 25;
        let (direction_x, direction_z) = [(127, 0), (0, 127), (-127, 60), (90, -90), (0, 0)][(turn % 5) as usize];
        let (now, client) = (scene.now, &mut scene.clients[anna].1);
        if client.advance(now, direction_x, direction_z, turn as u16, turn.is_multiple_of(3)) > 0 {
            predicted.insert(client.last_step(), client.own_shown().unwrap().position);
        }
        scene.tick();
        let view = scene.simulation.view();
        let taken = view.newest_input(player);
        // Of several steps at once only the last is noted.
        if let Some(expected) = predicted.get(&taken) {
            assert_eq!(view.position(player), Some(*expected), "after input {taken}, tick {tick}");
            compared += 1;
        }
    }
    assert!(compared > 1_700, "{compared} ticks were compared");
    let far = scene.simulation.view().position(player).unwrap().horizontal_distance_squared(start.position);
    assert!(far > 3_000i64.pow(2), "walked nowhere");
    assert_eq!(scene.refusal(anna), None);
    let counts = scene.clients[anna].1.prediction().unwrap();
    // The first packet is of before the first step: there is nothing to compare it with.
    assert!(counts.compared > 300 && counts.corrected <= 1 && counts.error_sum_mm == 0, "{counts:?}");
}

#[test]
fn a_player_who_is_moved_glides_to_where_the_shard_has_it_and_walks_on_from_there() {
    let mut scene = Scene::new(BAD_NETWORK);
    let anna = scene.join("anna-token");
    let player = scene.player(anna);
    let walk = |scene: &mut Scene, ticks: u32| {
        for _ in 0..ticks {
            let now = scene.now;
            scene.clients[anna].1.advance(now, 127, 0, 0, false);
            scene.tick();
        }
    };
    walk(&mut scene, 120);
    let entity = scene.simulation.world_mut().resource::<Space>().entity(player).unwrap();
    let mut pose = *scene.simulation.world_mut().get::<Pose>(entity).unwrap();
    pose.position.z += 1_000;
    scene.simulation.world_mut().entity_mut(entity).insert(pose);
    walk(&mut scene, 60);
    let counts = scene.clients[anna].1.prediction().unwrap();
    assert!((900..=1_100).contains(&counts.error_max_mm), "{counts:?}");
    assert!(counts.corrected < 20, "put right once, it is right: {counts:?}");
    let shown = scene.clients[anna].1.own_shown().unwrap().position;
    assert_eq!(shown.z, scene.simulation.view().position(player).unwrap().z, "it has not arrived");
}

#[test]
fn others_walk_smoothly_over_a_bad_network_and_a_session_that_goes_on_draws_on() {
    let mut scene = Scene::new(BAD_NETWORK);
    let (anna, bert) = (scene.join("anna-token"), scene.join("bert-token"));
    let player = scene.player(anna);
    scene.clients[bert].1.smooth();
    for life in 0..2 {
        scene.until("the other", |scene| scene.clients[bert].1.entity(player).is_some());
        let (mut steps, mut jumps, mut shown, mut known) = (Vec::new(), 0, None, None);
        for tick in 0..400u32 {
            let now = scene.now;
            let direction = if life == 0 { 127 } else { -127 };
            scene.clients[anna].1.advance(now, direction, 0, 0, false);
            if tick % 30 == 0 {
                scene.clients[bert].1.ping(now);
            }
            scene.tick();
            scene.clients[bert].1.frame(scene.now);
            let client = &scene.clients[bert].1;
            let drawn = client.shown(player).unwrap().position.x;
            let told = client.entity(player).unwrap().get::<Pose>().unwrap().position.x;
            if tick > 150 {
                steps.extend(shown.map(|before: i32| (drawn - before).abs()));
                jumps += usize::from(known.is_some_and(|before: i32| before == told));
            }
            (shown, known) = (Some(drawn), Some(told));
        }
        // What comes stands still between two snapshots; what is drawn does not.
        assert!(jumps > 100, "{jumps} ticks without news");
        let (mean, most) = (steps.iter().sum::<i32>() / steps.len() as i32, *steps.iter().max().unwrap());
        let least = *steps.iter().min().unwrap();
        assert!(mean > 20 && most < 2 * mean && least > 0, "{mean} mm a tick, from {least} to {most}");
        let late = scene.clients[bert].1.shown_late_by().unwrap();
        assert!((50..200).contains(&late.as_millis()), "{late:?}");
        let at = scene.clients[bert].1.shard_tick_thousandths(scene.now).unwrap() / 1_000;
        let frame = scene.simulation.frame();
        assert!(at.abs_diff(frame) <= 1, "the shard is at {frame}, the client thinks {at}");
        scene.break_off(bert);
        scene.come_back(bert);
    }
}

#[test]
fn steps_that_no_client_may_send_end_the_connection_with_a_reason() {
    let mut scene = Scene::new(Faults::default());
    let anna = scene.join("anna-token");
    let peer = scene.clients[anna].0;
    scene.network.client_send(peer, CHANNEL_STATE, vec![3, 100, 9]);
    scene.until("the refusal", |scene| scene.refusal(anna) == Some(Refusal::Malformed));
}
