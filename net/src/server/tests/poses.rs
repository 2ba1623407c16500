//! Head and hands, from client to client.

use super::*;
use vsekai_schema::wire::pose::motion::Motion;
use vsekai_schema::wire::pose::{PoseDecoder, PoseEncoder, decode_poses, write_client_pose};

/// Puts a player beside another.
fn bring(scene: &mut Scene, player: EntityId, beside: EntityId) {
    let there = scene.simulation.view().position(beside).unwrap();
    let world = scene.simulation.world_mut();
    let entity = world.resource::<Space>().entity(player).unwrap();
    world.get_mut::<Pose>(entity).unwrap().position = there;
}

#[test]
fn hands_come_to_those_near_and_not_back() {
    let mut scene = Scene::new(Faults::default());
    let (anna, bert) = (scene.join("anna-token"), scene.join("bert-token"));
    let (anna_id, bert_id) = (scene.player(anna), scene.player(bert));
    bring(&mut scene, bert_id, anna_id);
    scene.tick();
    let motion = Motion::new(4, None);
    let pose = |slot: u16| motion.pose(f64::from(slot) / 60.0).unwrap();
    for slot in 0..120 {
        scene.clients[anna].1.pose(slot, &pose(slot)).unwrap();
        scene.tick();
    }
    scene.tick();
    let mut slots = Vec::new();
    for (to, event) in &scene.events {
        if let ClientEvent::Pose { player, received } = event {
            assert_eq!((*to, *player, received.pose), (bert, anna_id, pose(received.slot)));
            slots.push(received.slot);
        }
    }
    assert_eq!(slots, (0..120).collect::<Vec<u16>>());
    let counts = scene.server.counts();
    assert_eq!((counts.poses_relayed, counts.poses_dropped), (120, 0));
}

#[test]
fn a_pose_does_not_wait_for_the_tick_and_a_wild_one_costs_nobody_anything() {
    let mut scene = Scene::new(Faults::default());
    let (anna, bert) = (scene.join("anna-token"), scene.join("bert-token"));
    scene.tick();
    let (from, to) = (scene.clients[anna].0, scene.clients[bert].0);
    let pose = Motion::new(4, None).pose(0.0).unwrap();
    let bytes = PoseEncoder::default().encode(9, &pose).unwrap();
    let message = |bytes| TransportEvent::Message { peer: from, channel: CHANNEL_STATE, bytes };
    let now = scene.now;
    scene.server.receive(now, message(write_client_pose(&bytes)));
    // No tick in between.
    let commands = scene.server.take_commands();
    let [TransportCommand::Send { peer, channel: CHANNEL_STATE, bytes }] = &commands[..] else {
        panic!("{commands:?}")
    };
    assert_eq!(*peer, to);
    let entries = decode_poses(bytes).unwrap();
    assert_eq!(entries.len(), 1);
    assert_eq!(PoseDecoder::default().decode(now, entries[0].1).unwrap().pose, pose);
    for wild in [vec![], vec![0xff; 3], vec![7; 300]] {
        scene.server.receive(now, message(write_client_pose(&wild)));
    }
    assert_eq!(scene.server.take_commands(), [], "a pose that cannot be read is dropped, and that is all");
    assert_eq!(scene.server.counts().poses_dropped, 3);
    assert_eq!(scene.server.player_count(), 2);
}
