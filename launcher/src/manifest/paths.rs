//! Which paths and links a manifest may have: such as mean the same file on every system, and none outside the root.

use std::collections::HashMap;

/// Longest path, bytes.
pub(crate) const PATH_MAX: usize = 1_024;
/// Longest name between two slashes, bytes: what most file systems take.
const NAME_MAX: usize = 255;
/// Most names in a path.
const DEPTH_MAX: usize = 64;

/// Names that Windows takes for devices, whatever follows a dot.
const RESERVED: [&str; 6] = ["con", "prn", "aux", "nul", "conin$", "conout$"];

/// What a path in a manifest stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    Folder,
    Leaf,
}

/// All paths of a manifest so far.
#[derive(Default)]
pub(crate) struct Paths {
    /// By the path in lower case: two that differ in case only are one file on half of the players' machines.
    seen: HashMap<String, (String, Use)>,
}

impl Paths {
    /// Takes the path of a folder, or says what is wrong with it.
    pub fn folder(&mut self, path: &str) -> Result<(), String> {
        check(path)?;
        self.insert(path, Use::Folder)
    }

    /// Takes the path of a file or link.
    pub fn leaf(&mut self, path: &str) -> Result<(), String> {
        check(path)?;
        for (at, _) in path.match_indices('/') {
            self.insert(&path[..at], Use::Folder)?;
        }
        if self.seen.contains_key(&path.to_lowercase()) {
            return Err(self.clash(path));
        }
        self.insert(path, Use::Leaf)
    }

    fn insert(&mut self, path: &str, what: Use) -> Result<(), String> {
        match self.seen.get(&path.to_lowercase()) {
            None => {
                if let Some((parent, _)) = path.rsplit_once('/') {
                    self.insert(parent, Use::Folder)?;
                }
                self.seen.insert(path.to_lowercase(), (path.to_owned(), what));
                Ok(())
            }
            Some((same, before)) if same == path && *before == what => Ok(()),
            Some(_) => Err(self.clash(path)),
        }
    }

    fn clash(&self, path: &str) -> String {
        match self.seen.get(&path.to_lowercase()) {
            Some((same, _)) if same == path => format!("{path:?} is there twice, or as a folder and as a file"),
            Some((other, _)) => format!("{path:?} and {other:?} differ in upper and lower case only"),
            None => format!("{path:?} is there twice"),
        }
    }
}

/// What is wrong with a path, if anything.
pub(crate) fn check(path: &str) -> Result<(), String> {
    if path.is_empty() || path.len() > PATH_MAX {
        return Err(format!("path of {} bytes, must have 1 to {PATH_MAX}", path.len()));
    }
    let names: Vec<&str> = path.split('/').collect();
    if names.len() > DEPTH_MAX {
        return Err(format!("{path:?} is deeper than {DEPTH_MAX} folders"));
    }
    names.into_iter().try_for_each(|name| check_name(name).map_err(|why| format!("{path:?}: {why}")))
}

fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("a name in it is empty".into());
    }
    if name == "." || name == ".." {
        return Err("it has . or .. in it".into());
    }
    if name.len() > NAME_MAX {
        return Err(format!("a name in it is longer than {NAME_MAX} bytes"));
    }
    if let Some(c) = name.chars().find(|&c| c.is_control() || r#"\:<>"|?*"#.contains(c)) {
        return Err(format!("it has {c:?} in it"));
    }
    if name.ends_with(['.', ' ']) {
        return Err("a name in it ends with a dot or a space, which Windows drops".into());
    }
    let stem = name.split('.').next().unwrap_or(name).trim_end().to_lowercase();
    let device = (stem.starts_with("com") || stem.starts_with("lpt"))
        && stem.chars().count() == 4
        && stem.chars().last().is_some_and(|last| "0123456789¹²³".contains(last));
    if device || RESERVED.contains(&stem.as_str()) {
        return Err("a name in it is a device's on Windows".into());
    }
    Ok(())
}

/// What is wrong with a link at `path` to `target`, if anything. Since `..` may only stand in front and every folder above a link is a
/// folder and not a link, no chain of such links leaves the root.
pub(crate) fn check_link(path: &str, target: &str) -> Result<(), String> {
    if target.is_empty() || target.len() > PATH_MAX {
        return Err(format!("link {path:?}: target of {} bytes, must have 1 to {PATH_MAX}", target.len()));
    }
    let names: Vec<&str> = target.split('/').collect();
    let up = names.iter().take_while(|&&name| name == "..").count();
    let depth = path.matches('/').count();
    if target.starts_with('/') || up > depth {
        return Err(format!("link {path:?} to {target:?} leaves the root"));
    }
    if names[up..].is_empty() {
        return Ok(());
    }
    check(&names[up..].join("/")).map_err(|why| format!("link {path:?} to {target:?}: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_mean_something_else_somewhere_are_refused() {
        for good in ["a", "a/b", "bin/game.exe", "ä/Ω", ".hidden", "a b", "COMMON", "con1", "nullable/x", "..a"] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for bad in [
            "", "/", "/a", "a/", "a//b", ".", "..", "a/../b", "../a", "a\\b", "a\0b", "a\nb", "c:", "a:b", "CON",
            "con.txt", "a/Nul", "COM1.log", "lpt9", "aux .x", "a.", "a ", "a?b", "com¹",
        ] {
            assert!(check(bad).is_err(), "{bad:?} was taken");
        }
        assert!(check(&"a".repeat(256)).is_err());
        assert!(check(&"a/".repeat(64)).is_err());
        assert!(check(&["a"; 65].join("/")).is_err());
    }

    #[test]
    fn one_path_is_one_file_everywhere() {
        let taken = |leaves: &[&str]| {
            let mut paths = Paths::default();
            leaves.iter().try_for_each(|leaf| paths.leaf(leaf))
        };
        assert_eq!(taken(&["a/b", "a/c", "b"]), Ok(()));
        for bad in [&["a", "a"], &["a", "A"], &["a", "a/b"], &["a/b", "a"], &["a/x", "A/y"], &["Ä", "ä"]] {
            assert!(taken(bad).is_err(), "{bad:?} was taken");
        }
        let mut paths = Paths::default();
        assert_eq!(paths.folder("a/b"), Ok(()));
        assert_eq!(paths.folder("a"), Ok(()));
        assert_eq!(paths.leaf("a/b/c"), Ok(()));
        assert!(paths.leaf("a/b").is_err());
        assert!(paths.folder("a/b/c").is_err());
    }

    #[test]
    fn links_stay_inside() {
        for (path, target) in [("a", "b"), ("a/b", "../c"), ("a/b/c", "../../d/e"), ("a/b", ".."), ("a", "lib.so.1")] {
            assert_eq!(check_link(path, target), Ok(()), "{path} -> {target}");
        }
        for (path, target) in [
            ("a", ""),
            ("a", "/etc"),
            ("a", ".."),
            ("a", "../b"),
            ("a/b", "../../c"),
            ("a/b", "c/../../.."),
            ("a", "b/.."),
            ("a", "./b"),
            ("a", "b\0"),
        ] {
            assert!(check_link(path, target).is_err(), "{path} -> {target:?} was taken");
        }
    }
}
