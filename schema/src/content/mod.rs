//! The game's data as designers write it in `sim/content/`, checked as a whole before anything uses it.
//!
//! Files name things by words (`wood`, `pine`); a running world uses small numbers. The number of a word is its place in the
//! world's [`Palette`], which is stored with the world and only ever grows, so that files can be reordered, extended and
//! pruned without changing what a stored number means.

mod load;
mod palette;
#[cfg(test)]
mod tests;

pub use load::{ContentError, ContentFiles};
pub use palette::Palette;

use crate::id::{ItemId, NodeId, PieceId, RecipeId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Most kinds of each sort: items, nodes, pieces, recipes.
pub const KINDS_MAX: usize = 4_096;

/// An item kind (`items.toml`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ItemKind {
    /// What players read.
    pub name: String,
    /// How many fit one inventory slot, 1–10,000.
    pub stack_size: u16,
}

/// How a resource node looks; clients choose a model by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Look {
    /// A tree.
    Tree,
    /// A boulder.
    Rock,
    /// A vein of ore.
    Ore,
    /// A bush or another small plant.
    Bush,
}

/// A resource node kind (`nodes.toml`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeKind {
    /// What players read.
    pub name: String,
    /// How it looks.
    pub look: Look,
    /// The item that harvesting gives.
    pub yields: String,
    /// Fewest items per harvest, at least 1.
    pub yield_min: u16,
    /// Most items per harvest.
    pub yield_max: u16,
    /// Harvests until it is depleted, 1–10,000.
    pub harvests: u16,
    /// Seconds until a depleted node is whole again, 1–31,536,000.
    pub regrow_s: u32,
    /// How many a new world puts into a chunk (32 m × 32 m) on average, 0–200.
    pub per_chunk: f64,
    /// Lowest ground it grows on, millimetres above zero.
    pub ground_min_mm: i32,
    /// Highest ground it grows on, millimetres above zero.
    pub ground_max_mm: i32,
}

/// Which place of a grid cell a structure piece fills.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Slot {
    /// The floor of the cell.
    Floor,
    /// One of the cell's four edges, chosen by the turn.
    Edge,
    /// The inside of the cell.
    Inside,
}

/// What must be there before a piece can be built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Support {
    /// The ground: storey 0 only.
    Ground,
    /// A floor piece in the same cell and storey.
    Floor,
    /// An edge piece in the same cell, one storey below.
    Walls,
}

/// A structure piece kind (`pieces.toml`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PieceKind {
    /// What players read.
    pub name: String,
    /// Which place it fills.
    pub slot: Slot,
    /// What it stands on.
    pub needs: Support,
    /// Items that building it costs.
    pub cost: BTreeMap<String, u16>,
    /// Percent of the cost that demolishing gives back, 0–100, rounded down per item.
    pub refund_percent: u8,
    /// Strength of a new piece, 1–60,000.
    pub health: u16,
}

/// A hand-crafting recipe (`recipes.toml`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// What players read.
    pub name: String,
    /// Items used up.
    pub inputs: BTreeMap<String, u16>,
    /// Items made.
    pub outputs: BTreeMap<String, u16>,
}

/// Numbers of the game (`tuning.toml`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tuning {
    /// Walking speed, mm/s, 100–20,000.
    pub walk_mm_s: i32,
    /// Running speed, mm/s, from walking speed to 40,000.
    pub sprint_mm_s: i32,
    /// Steepest climb: millimetres up for one metre forward, 100–10,000.
    pub climb_mm_per_m: i32,
    /// How far a hand reaches, millimetres, 500–20,000.
    pub reach_mm: i32,
    /// Shortest time between two harvests of one player, milliseconds, 0–60,000.
    pub harvest_interval_ms: u32,
    /// Slots of an inventory, 1–64.
    pub inventory_slots: u8,
    /// Side of a building grid cell, millimetres, 500–8,000, and a divisor of the chunk side 32,000.
    pub grid_mm: i32,
    /// Height of a storey, millimetres, 500–8,000.
    pub storey_mm: i32,
    /// Highest storey that can be built, 0–100.
    pub storey_max: u8,
    /// Largest height difference of the ground below a ground piece, millimetres, 0–8,000.
    pub uneven_ground_mm: i32,
    /// Items a new player starts with.
    pub starting_items: BTreeMap<String, u16>,
}

/// Items with counts, by number.
pub type ItemCounts = Vec<(ItemId, u16)>;

/// A resource node kind, resolved.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// As written.
    pub kind: NodeKind,
    /// `kind.yields`, by number.
    pub item: ItemId,
}

/// A structure piece kind, resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// As written.
    pub kind: PieceKind,
    /// `kind.cost`, by number.
    pub cost: ItemCounts,
}

/// A recipe, resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedRecipe {
    /// As written.
    pub recipe: Recipe,
    /// Items used up, by number.
    pub inputs: ItemCounts,
    /// Items made, by number.
    pub outputs: ItemCounts,
}

/// Content resolved against a world's palette: what the simulation reads. An entry is `None` when the world's palette
/// holds a word that the files no longer define: such things stay in the world and can do nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct Content {
    /// By [`ItemId`].
    pub items: Vec<Option<ItemKind>>,
    /// By [`NodeId`].
    pub nodes: Vec<Option<Node>>,
    /// By [`PieceId`].
    pub pieces: Vec<Option<Piece>>,
    /// By [`RecipeId`].
    pub recipes: Vec<Option<ResolvedRecipe>>,
    /// The game's numbers.
    pub tuning: Tuning,
    /// `tuning.starting_items`, by number.
    pub starting_items: ItemCounts,
    palette: Palette,
}

impl Content {
    /// The item kind of `id`, if it exists.
    pub fn item(&self, id: ItemId) -> Option<&ItemKind> {
        self.items.get(id.index())?.as_ref()
    }

    /// The node kind of `id`, if it exists.
    pub fn node(&self, id: NodeId) -> Option<&Node> {
        self.nodes.get(id.index())?.as_ref()
    }

    /// The piece kind of `id`, if it exists.
    pub fn piece(&self, id: PieceId) -> Option<&Piece> {
        self.pieces.get(id.index())?.as_ref()
    }

    /// The recipe of `id`, if it exists.
    pub fn recipe(&self, id: RecipeId) -> Option<&ResolvedRecipe> {
        self.recipes.get(id.index())?.as_ref()
    }

    /// The palette it was resolved against, with the files' new words appended.
    pub fn palette(&self) -> &Palette {
        &self.palette
    }

    /// What clients are told: every kind with its number.
    pub fn catalogue(&self) -> Catalogue {
        fn entries<T, E>(words: &[String], kinds: &[Option<T>], entry: impl Fn(u16, &str, &T) -> E) -> Vec<E> {
            let numbered = words.iter().zip(kinds).enumerate();
            numbered.filter_map(|(i, (word, kind))| Some(entry(i as u16, word, kind.as_ref()?))).collect()
        }
        Catalogue {
            items: entries(&self.palette.items, &self.items, |id, key, item| CatalogueItem {
                id,
                key: key.into(),
                name: item.name.clone(),
                stack_size: item.stack_size,
            }),
            nodes: entries(&self.palette.nodes, &self.nodes, |id, key, node| CatalogueNode {
                id,
                key: key.into(),
                name: node.kind.name.clone(),
                look: node.kind.look,
                item: node.item,
                harvests: node.kind.harvests,
                yield_min: node.kind.yield_min,
                yield_max: node.kind.yield_max,
            }),
            pieces: entries(&self.palette.pieces, &self.pieces, |id, key, piece| CataloguePiece {
                id,
                key: key.into(),
                name: piece.kind.name.clone(),
                slot: piece.kind.slot,
                needs: piece.kind.needs,
                cost: piece.cost.clone(),
                refund_percent: piece.kind.refund_percent,
                health: piece.kind.health,
            }),
            recipes: entries(&self.palette.recipes, &self.recipes, |id, key, recipe| CatalogueRecipe {
                id,
                key: key.into(),
                name: recipe.recipe.name.clone(),
                inputs: recipe.inputs.clone(),
                outputs: recipe.outputs.clone(),
            }),
            reach_mm: self.tuning.reach_mm,
            grid_mm: self.tuning.grid_mm,
            storey_mm: self.tuning.storey_mm,
            storey_max: self.tuning.storey_max,
            walk_mm_s: self.tuning.walk_mm_s,
            sprint_mm_s: self.tuning.sprint_mm_s,
            climb_mm_per_m: self.tuning.climb_mm_per_m,
            uneven_ground_mm: self.tuning.uneven_ground_mm,
            harvest_interval_ms: self.tuning.harvest_interval_ms,
            inventory_slots: self.tuning.inventory_slots,
        }
    }
}

/// The content as clients get it, in the welcome, as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "each field is documented where designers write it, in the kinds above")]
pub struct Catalogue {
    pub items: Vec<CatalogueItem>,
    pub nodes: Vec<CatalogueNode>,
    pub pieces: Vec<CataloguePiece>,
    pub recipes: Vec<CatalogueRecipe>,
    pub reach_mm: i32,
    pub grid_mm: i32,
    pub storey_mm: i32,
    pub storey_max: u8,
    pub walk_mm_s: i32,
    pub sprint_mm_s: i32,
    pub climb_mm_per_m: i32,
    pub uneven_ground_mm: i32,
    pub harvest_interval_ms: u32,
    pub inventory_slots: u8,
}

/// An item of the [`Catalogue`]; `id` is its [`ItemId`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "as in ItemKind")]
pub struct CatalogueItem {
    pub id: u16,
    pub key: String,
    pub name: String,
    pub stack_size: u16,
}

/// A node of the [`Catalogue`]; `id` is its [`NodeId`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "as in NodeKind")]
pub struct CatalogueNode {
    pub id: u16,
    pub key: String,
    pub name: String,
    pub look: Look,
    pub item: ItemId,
    pub harvests: u16,
    pub yield_min: u16,
    pub yield_max: u16,
}

/// A piece of the [`Catalogue`]; `id` is its [`PieceId`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "as in PieceKind")]
pub struct CataloguePiece {
    pub id: u16,
    pub key: String,
    pub name: String,
    pub slot: Slot,
    pub needs: Support,
    pub cost: ItemCounts,
    pub refund_percent: u8,
    pub health: u16,
}

/// A recipe of the [`Catalogue`]; `id` is its [`RecipeId`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "as in Recipe")]
pub struct CatalogueRecipe {
    pub id: u16,
    pub key: String,
    pub name: String,
    pub inputs: ItemCounts,
    pub outputs: ItemCounts,
}
