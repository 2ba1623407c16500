//! Hand crafting: a recipe turns items of the player's inventory into others, at once.
//!
//! Writes the inventory and the ledger, through [`crate::inventory::exchange`], so a recipe happens whole or not at all.

use crate::inventory::exchange;
use crate::world::GameContent;
use bevy_ecs::prelude::*;
use vsekai_schema::id::{EntityId, RecipeId};
use vsekai_schema::wire::{Outcome, Rejection};

#[cfg(test)]
mod tests;

/// Executes a craft command.
///
/// # Errors
/// `UnknownRecipe`, or why the exchange of items failed.
pub fn craft(world: &mut World, player: Entity, recipe: RecipeId) -> Result<Outcome, Rejection> {
    let recipe = world.resource::<GameContent>().0.recipe(recipe).ok_or(Rejection::UnknownRecipe)?;
    let (inputs, outputs) = (recipe.inputs.clone(), recipe.outputs.clone());
    let items = exchange(world, player, &inputs, &outputs)?;
    Ok(Outcome::Done { items, entity: EntityId(0) })
}
