//! Writes the codecs of the wire for other languages anew: `cargo xtask codecs`.

use std::path::Path;

fn main() -> anyhow::Result<()> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    for file in vsekai_tests::codecs::write(own.parent().unwrap_or(own))? {
        println!("codecs: {file}");
    }
    Ok(())
}
