use super::*;
use crate::scenario::Scenario;
use vsekai_schema::units::Position;
use vsekai_schema::wire::Command;

fn wait_out_cooldown(scene: &mut Scenario) {
    for _ in 0..16 {
        scene.tick();
    }
}

#[test]
fn a_node_gives_its_yield_depletes_and_regrows() {
    let mut scene = Scenario::new();
    let player = scene.join("digger");
    let node = scene.node_beside(player, "boulder", 2);
    let command = Command::Harvest { node };
    for left in [1, 0] {
        let before = scene.count(player, "stone");
        assert_eq!(scene.done(player, command.clone()), node);
        assert!((1..=3).contains(&(scene.count(player, "stone") - before)));
        assert_eq!(scene.get::<ResourceNode>(node).left, left);
        wait_out_cooldown(&mut scene);
    }
    assert_eq!(scene.rejected(player, command), Rejection::Depleted);
    let regrow_at = scene.get::<ResourceNode>(node).regrow_at;
    scene.restart();
    scene.join("digger");
    scene.world().resource_mut::<crate::record::Frame>().number = regrow_at - 2;
    scene.tick();
    assert_eq!(scene.get::<ResourceNode>(node).left, 0);
    scene.tick();
    assert_eq!(scene.get::<ResourceNode>(node), ResourceNode { left: 15, regrow_at: 0, ..scene.get(node) });
    scene.check_ledger();
}

#[test]
fn what_cannot_be_harvested_is_refused_by_name() {
    let mut scene = Scenario::new();
    let player = scene.join("digger");
    let other = scene.join("other");
    let node = scene.node_beside(player, "pine", 5);
    assert_eq!(scene.rejected(player, Command::Harvest { node: EntityId(u64::MAX) }), Rejection::NoSuchEntity);
    assert_eq!(scene.rejected(player, Command::Harvest { node: other }), Rejection::NotHarvestable);
    scene.done(player, Command::Harvest { node });
    assert_eq!(scene.rejected(player, Command::Harvest { node }), Rejection::TooSoon);
    let at = scene.get::<Pose>(player).position;
    scene.place(player, Position { x: at.x + 4_001, ..at });
    wait_out_cooldown(&mut scene);
    assert_eq!(scene.rejected(player, Command::Harvest { node }), Rejection::TooFar);
    assert_eq!(scene.get::<ResourceNode>(node).left, 4);
    scene.check_ledger();
}

#[test]
fn two_players_share_one_last_harvest() {
    let mut scene = Scenario::new();
    let (one, two) = (scene.join("one"), scene.join("two"));
    let node = scene.node_beside(one, "pine", 1);
    let at = scene.get::<Placement>(node).position;
    scene.place(two, at);
    scene.queue(one, Command::Harvest { node });
    scene.queue(two, Command::Harvest { node });
    let outcomes: Vec<_> = scene.tick().results.iter().map(|result| result.outcome.clone()).collect();
    assert!(matches!(outcomes[0], Outcome::Done { .. }));
    assert_eq!(outcomes[1], Outcome::Rejected(Rejection::Depleted));
    scene.check_ledger();
}

#[test]
fn a_new_world_has_about_as_many_nodes_as_the_files_say() {
    let mut scene = Scenario::new();
    let nodes = scene.simulation.entity_counts()["resource"];
    // 16 chunks × 14.7 a chunk, less what the height limits and the spacing leave out.
    assert!((60..240).contains(&nodes), "{nodes} nodes");
}
