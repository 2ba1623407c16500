//! Words to numbers, for the life of a world.

use super::load::ContentFiles;
use super::{Content, ItemCounts, Node, Piece, ResolvedRecipe};
use crate::id::ItemId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Which word has which number, per sort. Stored with the world; words are only ever appended.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Palette {
    /// Item words by [`ItemId`].
    pub items: Vec<String>,
    /// Node words by [`crate::id::NodeId`].
    pub nodes: Vec<String>,
    /// Piece words by [`crate::id::PieceId`].
    pub pieces: Vec<String>,
    /// Recipe words by [`crate::id::RecipeId`].
    pub recipes: Vec<String>,
}

fn append_new<'w>(words: &mut Vec<String>, from: impl Iterator<Item = &'w String>) {
    for word in from {
        if !words.contains(word) {
            words.push(word.clone());
        }
    }
}

impl ContentFiles {
    /// Resolves words to numbers: those of `palette` keep theirs, new ones are appended in alphabetical order.
    pub fn resolve(&self, palette: &Palette) -> Content {
        let mut palette = palette.clone();
        append_new(&mut palette.items, self.items.keys());
        append_new(&mut palette.nodes, self.nodes.keys());
        append_new(&mut palette.pieces, self.pieces.keys());
        append_new(&mut palette.recipes, self.recipes.keys());
        let item = |word: &String| {
            let index = palette.items.iter().position(|w| w == word).expect("checked on load: every item named exists");
            ItemId(index as u16)
        };
        let counts = |map: &BTreeMap<String, u16>| -> ItemCounts { map.iter().map(|(w, n)| (item(w), *n)).collect() };
        Content {
            items: palette.items.iter().map(|word| self.items.get(word).cloned()).collect(),
            nodes: palette
                .nodes
                .iter()
                .map(|word| self.nodes.get(word).map(|kind| Node { kind: kind.clone(), item: item(&kind.yields) }))
                .collect(),
            pieces: palette
                .pieces
                .iter()
                .map(|word| self.pieces.get(word).map(|kind| Piece { kind: kind.clone(), cost: counts(&kind.cost) }))
                .collect(),
            recipes: palette
                .recipes
                .iter()
                .map(|word| {
                    self.recipes.get(word).map(|recipe| ResolvedRecipe {
                        recipe: recipe.clone(),
                        inputs: counts(&recipe.inputs),
                        outputs: counts(&recipe.outputs),
                    })
                })
                .collect(),
            starting_items: counts(&self.tuning.starting_items),
            tuning: self.tuning.clone(),
            palette,
        }
    }
}
