//! Parsing and checking content files. Text in, checked content or an error that a designer understands out.

use super::{ItemKind, KINDS_MAX, NodeKind, PieceKind, Recipe, Tuning};
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use thiserror::Error;

/// What is wrong in which file. `Display` is the whole story: file, line or entry, what is wrong, what would be right.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ContentError {
    /// Not TOML, an unknown key, or a value of the wrong kind; the text shows the line.
    #[error("{file}: {message}")]
    Syntax {
        /// The file's name.
        file: &'static str,
        /// Line, column and what was expected.
        message: String,
    },
    /// The file reads well, but a value makes no sense.
    #[error("{file}: [{entry}]: {message}")]
    Value {
        /// The file's name.
        file: &'static str,
        /// The entry, in brackets as in the file.
        entry: String,
        /// What is wrong and what would be right.
        message: String,
    },
}

/// All content files, parsed and checked against each other, still by words.
#[derive(Debug, Clone, PartialEq)]
pub struct ContentFiles {
    /// `items.toml`.
    pub items: BTreeMap<String, ItemKind>,
    /// `nodes.toml`.
    pub nodes: BTreeMap<String, NodeKind>,
    /// `pieces.toml`.
    pub pieces: BTreeMap<String, PieceKind>,
    /// `recipes.toml`.
    pub recipes: BTreeMap<String, Recipe>,
    /// `tuning.toml`.
    pub tuning: Tuning,
}

fn parse<T: DeserializeOwned>(file: &'static str, text: &str) -> Result<T, ContentError> {
    toml::from_str(text)
        .map_err(|error| ContentError::Syntax { file, message: error.to_string().trim_end().to_string() })
}

/// Checks of one entry; each returns an error that names file and entry.
struct Entry<'a> {
    file: &'static str,
    entry: &'a str,
}

impl Entry<'_> {
    fn fail<T>(&self, message: String) -> Result<T, ContentError> {
        Err(ContentError::Value { file: self.file, entry: self.entry.to_string(), message })
    }

    fn within(&self, key: &str, value: i64, range: RangeInclusive<i64>) -> Result<(), ContentError> {
        if range.contains(&value) {
            return Ok(());
        }
        self.fail(format!("`{key}` is {value}, it must be from {} to {}", range.start(), range.end()))
    }

    fn name(&self, name: &str) -> Result<(), ContentError> {
        let count = name.chars().count();
        if name.trim() != name || name.chars().any(char::is_control) {
            return self.fail("`name` has spaces around it or characters that cannot be shown".into());
        }
        self.within("length of `name`", count as i64, 1..=40)
    }

    fn item(&self, key: &str, word: &str, items: &BTreeMap<String, ItemKind>) -> Result<(), ContentError> {
        if items.contains_key(word) {
            return Ok(());
        }
        let near = items.keys().min_by_key(|known| edit_distance(known, word));
        let hint = near.map_or(String::new(), |near| format!("; did you mean `{near}`?"));
        self.fail(format!("`{key}` names the item `{word}`, which is not in items.toml{hint}"))
    }

    fn items(
        &self,
        key: &str,
        counts: &BTreeMap<String, u16>,
        items: &BTreeMap<String, ItemKind>,
    ) -> Result<(), ContentError> {
        self.within(&format!("number of entries of {key}"), counts.len() as i64, 0..=16)?;
        for (word, count) in counts {
            self.item(key, word, items)?;
            self.within(&format!("{key}.{word}"), i64::from(*count), 1..=10_000)?;
        }
        Ok(())
    }
}

/// Levenshtein's distance, for "did you mean".
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

impl ContentFiles {
    /// The names of the files, in the order in which [`ContentFiles::parse`] takes their texts.
    pub const NAMES: [&'static str; 5] = ["items.toml", "nodes.toml", "pieces.toml", "recipes.toml", "tuning.toml"];

    /// Parses and checks all files.
    ///
    /// # Errors
    /// The first thing that is wrong, by file and line or entry.
    pub fn parse(texts: [&str; 5]) -> Result<Self, ContentError> {
        let [items, nodes, pieces, recipes, tuning] = Self::NAMES;
        let files = ContentFiles {
            items: parse(items, texts[0])?,
            nodes: parse(nodes, texts[1])?,
            pieces: parse(pieces, texts[2])?,
            recipes: parse(recipes, texts[3])?,
            tuning: parse(tuning, texts[4])?,
        };
        files.check()?;
        Ok(files)
    }

    fn check(&self) -> Result<(), ContentError> {
        let [items, nodes, pieces, recipes, tuning] = Self::NAMES;
        let words = [
            (items, self.items.keys().collect::<Vec<_>>()),
            (nodes, self.nodes.keys().collect()),
            (pieces, self.pieces.keys().collect()),
            (recipes, self.recipes.keys().collect()),
        ];
        for (file, words) in words {
            if words.len() > KINDS_MAX {
                let entry = Entry { file, entry: "the whole file" };
                return entry.within("number of entries", words.len() as i64, 0..=KINDS_MAX as i64);
            }
            for word in words {
                let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
                if word.is_empty() || word.len() > 40 || !word.chars().all(plain) {
                    let entry = Entry { file, entry: word };
                    return entry.fail("an entry's word is made of a-z, 0-9 and _, at most 40 of them".into());
                }
            }
        }
        for (word, item) in &self.items {
            let entry = Entry { file: items, entry: word };
            entry.name(&item.name)?;
            entry.within("stack_size", item.stack_size.into(), 1..=10_000)?;
        }
        for (word, node) in &self.nodes {
            let entry = Entry { file: nodes, entry: word };
            entry.name(&node.name)?;
            entry.item("yields", &node.yields, &self.items)?;
            entry.within("yield_min", node.yield_min.into(), 1..=1_000)?;
            entry.within("yield_max", node.yield_max.into(), node.yield_min.into()..=1_000)?;
            entry.within("harvests", node.harvests.into(), 1..=10_000)?;
            entry.within("regrow_s", node.regrow_s.into(), 1..=31_536_000)?;
            if !(0.0..=200.0).contains(&node.per_chunk) {
                return entry.fail(format!("`per_chunk` is {}, it must be a number from 0 to 200", node.per_chunk));
            }
            entry.within("ground_max_mm", node.ground_max_mm.into(), node.ground_min_mm.into()..=i32::MAX.into())?;
        }
        for (word, piece) in &self.pieces {
            let entry = Entry { file: pieces, entry: word };
            entry.name(&piece.name)?;
            entry.items("cost", &piece.cost, &self.items)?;
            entry.within("refund_percent", piece.refund_percent.into(), 0..=100)?;
            entry.within("health", piece.health.into(), 1..=60_000)?;
        }
        for (word, recipe) in &self.recipes {
            let entry = Entry { file: recipes, entry: word };
            entry.name(&recipe.name)?;
            entry.items("inputs", &recipe.inputs, &self.items)?;
            entry.items("outputs", &recipe.outputs, &self.items)?;
            if recipe.outputs.is_empty() {
                return entry.fail("`outputs` is empty: the recipe would make nothing".into());
            }
        }
        let t = &self.tuning;
        let entry = Entry { file: tuning, entry: "tuning" };
        entry.within("walk_mm_s", t.walk_mm_s.into(), 100..=20_000)?;
        entry.within("sprint_mm_s", t.sprint_mm_s.into(), t.walk_mm_s.into()..=40_000)?;
        entry.within("climb_mm_per_m", t.climb_mm_per_m.into(), 100..=10_000)?;
        entry.within("reach_mm", t.reach_mm.into(), 500..=20_000)?;
        entry.within("harvest_interval_ms", t.harvest_interval_ms.into(), 0..=60_000)?;
        entry.within("inventory_slots", t.inventory_slots.into(), 1..=64)?;
        entry.within("grid_mm", t.grid_mm.into(), 500..=8_000)?;
        if crate::units::CHUNK_MM % t.grid_mm != 0 {
            return entry.fail(format!("`grid_mm` is {}, it must divide a chunk's side of 32000", t.grid_mm));
        }
        entry.within("storey_mm", t.storey_mm.into(), 500..=8_000)?;
        entry.within("storey_max", t.storey_max.into(), 0..=100)?;
        entry.within("uneven_ground_mm", t.uneven_ground_mm.into(), 0..=8_000)?;
        entry.items("starting_items", &t.starting_items, &self.items)
    }
}
