use super::*;

const SHIPPED: [&str; 5] = [
    include_str!("../../../sim/content/items.toml"),
    include_str!("../../../sim/content/nodes.toml"),
    include_str!("../../../sim/content/pieces.toml"),
    include_str!("../../../sim/content/recipes.toml"),
    include_str!("../../../sim/content/tuning.toml"),
];

/// The error that the shipped content gives once `find` is replaced by `replace` in file number `file`.
fn broken(file: usize, find: &str, replace: &str) -> String {
    assert!(SHIPPED[file].contains(find), "the shipped {} has no {find:?}", ContentFiles::NAMES[file]);
    let text = SHIPPED[file].replacen(find, replace, 1);
    let mut texts = SHIPPED;
    texts[file] = &text;
    ContentFiles::parse(texts).expect_err("this content is broken").to_string()
}

#[test]
fn shipped_content_is_valid_and_resolves() {
    let files = ContentFiles::parse(SHIPPED).unwrap();
    let content = files.resolve(&Palette::default());
    assert_eq!(content.items.len(), files.items.len());
    let catalogue = content.catalogue();
    let wood = catalogue.items.iter().find(|item| item.key == "wood").unwrap();
    assert_eq!(content.item(ItemId(wood.id)).unwrap().name, files.items["wood"].name);
}

#[test]
fn errors_name_file_place_and_remedy() {
    let cases = [
        (
            broken(0, "stack_size = 100", "stak_size = 100"),
            vec!["items.toml", "line", "unknown field `stak_size`", "stack_size"],
        ),
        (broken(1, "yields = \"wood\"", "yields = \"wod\""), vec!["nodes.toml", "`wod`", "did you mean `wood`?"]),
        (broken(1, "per_chunk = ", "per_chunk = nan #"), vec!["nodes.toml", "per_chunk", "from 0 to 200"]),
        (broken(1, "per_chunk = ", "per_chunk = inf #"), vec!["nodes.toml", "per_chunk", "from 0 to 200"]),
        (broken(2, "refund_percent = ", "refund_percent = 101 #"), vec!["pieces.toml", "refund_percent", "0 to 100"]),
        (broken(4, "walk_mm_s = ", "walk_mm_s = 0 #"), vec!["tuning.toml", "walk_mm_s", "100 to 20000"]),
        (broken(4, "grid_mm = ", "grid_mm = 1999 #"), vec!["tuning.toml", "grid_mm", "divide"]),
    ];
    for (message, parts) in &cases {
        for part in parts {
            assert!(message.contains(part), "{message:?} does not say {part:?}");
        }
    }
}

#[test]
fn a_word_keeps_its_number_when_files_are_reordered_extended_and_pruned() {
    let files = ContentFiles::parse(SHIPPED).unwrap();
    let before = files.resolve(&Palette::default());
    let mut changed = files.clone();
    changed.items.insert("aaa_first".into(), ItemKind { name: "First".into(), stack_size: 1 });
    let after = changed.resolve(before.palette());
    let index = |content: &Content, word: &str| content.palette().items.iter().position(|w| w == word);
    assert_eq!(index(&before, "wood"), index(&after, "wood"));
    assert_eq!(index(&after, "aaa_first"), Some(before.items.len()));

    changed.items.remove("aaa_first");
    let pruned = changed.resolve(after.palette());
    assert_eq!(pruned.items.last(), Some(&None));
    assert_eq!(pruned.palette(), after.palette());
}
