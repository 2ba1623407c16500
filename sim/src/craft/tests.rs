use crate::scenario::Scenario;
use vsekai_schema::id::RecipeId;
use vsekai_schema::wire::{Command, Rejection};

#[test]
fn a_recipe_turns_inputs_into_outputs_or_does_nothing() {
    let mut scene = Scenario::new();
    let player = scene.join("crafter");
    let recipe = scene.recipe("plank");
    assert_eq!(scene.count(player, "wood"), 10);
    for made in 1..=10 {
        scene.done(player, Command::Craft { recipe });
        assert_eq!((scene.count(player, "wood"), scene.count(player, "plank")), (10 - made, 2 * made));
    }
    assert_eq!(scene.rejected(player, Command::Craft { recipe }), Rejection::MissingItems);
    assert_eq!(scene.count(player, "plank"), 20);
    assert_eq!(scene.rejected(player, Command::Craft { recipe: RecipeId(999) }), Rejection::UnknownRecipe);
    scene.check_ledger();
}

#[test]
fn a_full_inventory_keeps_its_inputs() {
    let mut scene = Scenario::new();
    let player = scene.join("crafter");
    // 24 slots: wood 10 and fibre 6 take two; iron ore fills the rest.
    scene.give(player, "iron_ore", 22 * 50);
    let recipe = scene.recipe("plank");
    assert_eq!(scene.rejected(player, Command::Craft { recipe }), Rejection::InventoryFull);
    assert_eq!((scene.count(player, "wood"), scene.count(player, "plank")), (10, 0));
    scene.check_ledger();
}
