//! A list of entities, as chunks hold it. What is understood comes back from its own encoding.

#![no_main]

use libfuzzer_sys::fuzz_target;
use vsekai_schema::record::{EntitiesReader, EntitiesWriter};

fuzz_target!(|bytes: &[u8]| {
    let Ok(list) = EntitiesReader::new(bytes).and_then(EntitiesReader::collect) else { return };
    let mut writer = EntitiesWriter::new();
    for record in &list {
        writer.push(record.id, record.components.iter().copied());
    }
    let written = writer.finish();
    assert_eq!(EntitiesReader::new(&written).and_then(EntitiesReader::collect), Ok(list));
});
