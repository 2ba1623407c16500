use super::*;
use crate::scenario::Scenario;
use vsekai_schema::wire::{Command, Input, Rejection};

#[test]
fn a_token_gets_the_same_body_back_with_everything_it_had_also_after_a_restart() {
    let mut scene = Scenario::new();
    let player = scene.join("anna");
    scene.give(player, "stone", 3);
    scene.submit(player, Input::Leave);
    scene.tick();
    assert!(!scene.simulation.view().is_visible(player));
    scene.restart();
    assert_eq!(scene.join("anna"), player);
    assert_ne!(scene.join("berta"), player);
    assert_eq!(scene.count(player, "stone"), 3);
    assert!(scene.simulation.view().is_visible(player));
}

#[test]
fn a_command_is_executed_once_whatever_arrives_twice_also_after_a_restart() {
    let mut scene = Scenario::new();
    let player = scene.join("anna");
    let recipe = scene.recipe("plank");
    let command = Command::Craft { recipe };
    scene.done(player, command.clone());
    scene.restart();
    scene.join("anna");
    for sequence in [0, 1, 1_026, u32::MAX] {
        scene.submit(player, Input::Command { sequence, command: command.clone() });
        let outcome = scene.tick().results[0].outcome.clone();
        assert_eq!(outcome, vsekai_schema::wire::Outcome::Rejected(Rejection::OutOfTurn), "sequence {sequence}");
    }
    assert_eq!(scene.count(player, "plank"), 2);
    scene.done(player, command);
    assert_eq!(scene.count(player, "plank"), 4);
}

#[test]
fn who_left_or_never_came_can_do_nothing() {
    let mut scene = Scenario::new();
    let player = scene.join("anna");
    scene.submit(player, Input::Leave);
    scene.tick();
    let recipe = scene.recipe("plank");
    assert_eq!(scene.rejected(player, Command::Craft { recipe }), Rejection::NoSuchEntity);
    scene.submit(EntityId(1 << 60), Input::Command { sequence: 1, command: Command::Craft { recipe } });
    assert_eq!(scene.tick().results[0].outcome, vsekai_schema::wire::Outcome::Rejected(Rejection::NoSuchEntity));
}
