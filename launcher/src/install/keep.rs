//! What belongs to the player: saves, mods, settings. Globs say which paths those are.

/// Paths that are never deleted, never reported as damage, and carried over to the next version.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Keep {
    globs: Vec<Vec<String>>,
}

impl Keep {
    pub fn new<'a>(globs: impl IntoIterator<Item = &'a String>) -> Self {
        let names = |glob: &String| glob.split('/').filter(|name| !name.is_empty()).map(str::to_owned).collect();
        Self { globs: globs.into_iter().map(names).filter(|names: &Vec<String>| !names.is_empty()).collect() }
    }

    /// Whether the path, or a folder above it, is one of them: `saves` and `saves/**` mean the same.
    pub fn has(&self, path: &str) -> bool {
        let names: Vec<&str> = path.split('/').collect();
        self.globs.iter().any(|glob| matches(glob, &names))
    }
}

/// `**` stands for any number of names, `*` for any part of one, `?` for one character.
fn matches(glob: &[String], names: &[&str]) -> bool {
    // Which names of the path may come next, glob by glob: no recursion, so that no glob takes exponential time.
    let mut reached = vec![false; names.len() + 1];
    reached[0] = true;
    for name in glob {
        let mut next = vec![false; names.len() + 1];
        for at in 0..=names.len() {
            if !reached[at] {
                continue;
            }
            if name == "**" {
                next[at..].fill(true);
            } else if at < names.len() && name_matches(name, names[at]) {
                next[at + 1] = true;
            }
        }
        reached = next;
    }
    reached[1..].contains(&true)
}

fn name_matches(glob: &str, name: &str) -> bool {
    let (glob, name): (Vec<char>, Vec<char>) = (glob.chars().collect(), name.chars().collect());
    let (mut g, mut n, mut star) = (0, 0, None);
    while n < name.len() {
        if g < glob.len() && glob[g] == '*' {
            star = Some((g, n));
            g += 1;
        } else if g < glob.len() && (glob[g] == '?' || glob[g] == name[n]) {
            g += 1;
            n += 1;
        } else if let Some((at, from)) = star {
            star = Some((at, from + 1));
            (g, n) = (at + 1, from + 1);
        } else {
            return false;
        }
    }
    glob[g..].iter().all(|&c| c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_mean_what_they_say() {
        let has = |glob: &str, path: &str| Keep::new([&glob.to_owned()]).has(path);
        for (glob, path) in [
            ("saves", "saves"),
            ("saves", "saves/a/b"),
            ("saves/**", "saves/a/b"),
            ("saves/*", "saves/a/b"),
            ("*.sav", "a.sav"),
            ("**/*.sav", "a/b/c.sav"),
            ("**/*.sav", "c.sav"),
            ("mods/*/config.json", "mods/x/config.json"),
            ("a?c", "abc"),
            ("/saves/", "saves/x"),
        ] {
            assert!(has(glob, path), "{glob} {path}");
        }
        for (glob, path) in [
            ("saves", "game/saves"),
            ("saves", "savesx"),
            ("*.sav", "a/b.sav"),
            ("mods/*/config.json", "mods/config.json"),
            ("a?c", "ac"),
            ("", "a"),
            ("/", "a"),
            ("saves/*", "saves"),
        ] {
            assert!(!has(glob, path), "{glob} {path}");
        }
        assert!(!name_matches(&"a*".repeat(50), &"a".repeat(49)));
    }
}
