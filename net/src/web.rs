//! The browser client's files, built into the program: no folder has to be found at run time.

macro_rules! files {
    ($($name:literal => $kind:literal),* $(,)?) => {
        const FILES: &[(&str, &[u8], &str)] = &[$(($name, include_bytes!(concat!("../web/", $name)), $kind)),*];
    };
}

const JS: &str = "text/javascript; charset=utf-8";

files! {
    "index.html" => "text/html; charset=utf-8",
    "style.css" => "text/css; charset=utf-8",
    "building.js" => "js",
    "catalogue.js" => "js",
    "codec.js" => "js",
    "hud.js" => "js",
    "input.js" => "js",
    "land.js" => "js",
    "main.js" => "js",
    "matchbox.js" => "js",
    "motion.js" => "js",
    "own.js" => "js",
    "pose.js" => "js",
    "prediction.js" => "js",
    "render.js" => "js",
    "session.js" => "js",
    "sprites.js" => "js",
    "terrain.js" => "js",
    "view.js" => "js",
    "wire.generated.js" => "js",
    "wire.js" => "js",
}

/// A file of `net/web/` by its name, with its content type.
pub fn file(name: &str) -> Option<(&'static [u8], &'static str)> {
    let (_, bytes, kind) = FILES.iter().find(|(known, ..)| *known == name)?;
    Some((bytes, if *kind == "js" { JS } else { kind }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_the_folder_is_served() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/web");
        for entry in std::fs::read_dir(folder).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            assert!(file(&name).is_some(), "net/web/{name} is missing from web.rs");
        }
    }
}
