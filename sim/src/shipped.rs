//! The content that the project ships, built into whoever needs it: tests, benchmarks, and a shard that is started where no
//! content folder is.

/// The texts of `sim/content/`, in the order of `vsekai_schema::content::ContentFiles::NAMES`.
pub const SHIPPED_CONTENT: [&str; 5] = [
    include_str!("../content/items.toml"),
    include_str!("../content/nodes.toml"),
    include_str!("../content/pieces.toml"),
    include_str!("../content/recipes.toml"),
    include_str!("../content/tuning.toml"),
];
