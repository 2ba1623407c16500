use super::*;
use vsekai_schema::record::FrameWriter;

const CHUNK: ChunkKey = ChunkKey { x: -1, z: 2 };

type Components = &'static [(u16, &'static [u8])];

fn list(entities: &[(u64, Components)]) -> Vec<u8> {
    let mut writer = EntitiesWriter::new();
    for (id, components) in entities {
        writer.push(EntityId(*id), components.iter().map(|(tag, bytes)| (Tag(*tag), *bytes)));
    }
    writer.finish()
}

/// Folds frames of `(entity, written components or despawn)` in one chunk over `stored`.
fn check(
    stored: Option<&[(u64, Components)]>,
    frames: &[&[(u64, Option<Components>)]],
    expected: Option<&[(u64, Components)]>,
) {
    let mut writer = FrameWriter::new();
    let mut records = Vec::new();
    for (frame, changes) in frames.iter().enumerate() {
        for (id, components) in *changes {
            match components {
                Some(components) => writer.write(
                    EntityId(*id),
                    Home::Chunk(CHUNK),
                    components.iter().map(|(tag, bytes)| (Tag(*tag), *bytes)),
                ),
                None => writer.despawn(EntityId(*id), Home::Chunk(CHUNK)),
            }
        }
        records.push(writer.finish(frame as u64, 0, &[]));
    }
    let mut fold = Fold::default();
    for record in &records {
        fold.add(record).unwrap();
    }
    let merged = merge(stored.map(list).as_deref(), fold.chunks[&CHUNK].iter()).unwrap();
    assert_eq!(merged, expected.map(list));
}

#[test]
fn written_components_replace_stored_ones_and_empty_ones_take_them_away() {
    let stored: &[(u64, Components)] = &[(5, &[(1, b"a"), (2, b"b"), (4, b"d")]), (9, &[(1, b"z")])];
    check(
        Some(stored),
        &[&[(5, Some(&[(2, b"B"), (3, b"C")]))], &[(5, Some(&[(4, b""), (3, b"CC")])), (7, Some(&[(1, b"n")]))]],
        Some(&[(5, &[(1, b"a"), (2, b"B"), (3, b"CC")]), (7, &[(1, b"n")]), (9, &[(1, b"z")])]),
    );
}

#[test]
fn entities_come_before_between_and_behind_stored_ones() {
    check(
        Some(&[(5, &[]), (9, &[])]),
        &[&[(12, Some(&[])), (7, Some(&[])), (1, Some(&[]))]],
        Some(&[(1, &[]), (5, &[]), (7, &[]), (9, &[]), (12, &[])]),
    );
}

#[test]
fn nothing_of_a_despawned_entity_remains_when_it_is_written_again() {
    check(
        Some(&[(5, &[(1, b"a"), (2, b"b")])]),
        &[&[(5, None)], &[(5, Some(&[(2, b"new")]))]],
        Some(&[(5, &[(2, b"new")])]),
    );
}

#[test]
fn an_emptied_home_is_gone() {
    check(Some(&[(5, &[(1, b"a")])]), &[&[(5, None), (6, Some(&[(1, b"b")]))], &[(6, None)]], None);
    check(None, &[&[(5, None)]], None);
}
