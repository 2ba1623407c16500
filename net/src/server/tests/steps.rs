//! A client that walks ahead of the shard, over a bad network, against the real simulation.

use super::*;
use crate::prediction::input::{InputFeedback, InputSender, Pacer, REDUNDANCY};
use crate::prediction::predict::Predictor;
use std::collections::BTreeMap;
use vsekai_schema::units::Position;
use vsekai_schema::wire::MoveInput;
use vsekai_sim::port::{Gait, Ground, Terrain, TickRate};

#[test]
fn the_shard_walks_exactly_as_the_client_predicted() {
    let faults = Faults { delay_ms: (22, 28), loss_permille: 20, ..Faults::default() };
    let mut scene = Scene::new(faults);
    let anna = scene.join("anna-token");
    let player = scene.player(anna);
    let welcome = scene.clients[anna].1.welcome().unwrap().clone();
    let ground = Ground { terrain: Terrain::new(welcome.seed), half_mm: welcome.world_half_mm };
    let start = scene.clients[anna].1.own().unwrap().get::<Pose>().unwrap();
    let rate = TickRate(u32::from(welcome.tick_hz));
    let mut predictor = Predictor::new(ground, Gait::from(&welcome.catalogue), rate, start);
    let (mut sender, mut pacer) = (InputSender::new(1), Pacer::new(welcome.tick_hz));
    let mut predicted: BTreeMap<u32, Position> = BTreeMap::new();
    let (mut compared, mut seen_events) = (0, 0);
    for tick in 0..1_800u32 {
        for _ in 0..pacer.due(scene.now) {
            let turn = tick / 25;
            let (direction_x, direction_z) = [(127, 0), (0, 127), (-127, 60), (90, -90), (0, 0)][(turn % 5) as usize];
            let wish = MoveInput { sequence: 0, direction_x, direction_z, yaw: turn as u16, sprint: turn % 3 == 0 };
            let input = sender.push(wish);
            predicted.insert(input.sequence, predictor.advance(input).position);
        }
        let newest: Vec<MoveInput> = sender.newest(REDUNDANCY).collect();
        if !newest.is_empty() {
            scene.clients[anna].1.steps(&newest);
        }
        scene.tick();
        for (_, event) in &scene.events[seen_events..] {
            if let ClientEvent::Steps { taken, slack } = event {
                pacer.feedback(scene.now, InputFeedback { taken: *taken, slack: *slack });
            }
        }
        seen_events = scene.events.len();
        let view = scene.simulation.view();
        let taken = view.newest_input(player);
        if taken > 0 {
            assert_eq!(view.position(player), predicted.get(&taken).copied(), "after input {taken}, tick {tick}");
            compared += 1;
        }
    }
    assert!(compared > 1_780, "{compared} ticks were compared");
    let far = scene.simulation.view().position(player).unwrap().horizontal_distance_squared(start.position);
    assert!(far > 3_000i64.pow(2), "walked nowhere");
    assert_eq!(scene.refusal(anna), None);
}

#[test]
fn steps_that_no_client_may_send_end_the_connection_with_a_reason() {
    let mut scene = Scene::new(Faults::default());
    let anna = scene.join("anna-token");
    let peer = scene.clients[anna].0;
    scene.network.client_send(peer, CHANNEL_STATE, vec![3, 100, 9]);
    scene.until("the refusal", |scene| scene.refusal(anna) == Some(Refusal::Malformed));
}
