//! The house's own rules, checked: which crate may depend on which, what lies at the top, lints, licences, file sizes.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Who may depend on whom, among our own crates. What a crate's tests use is not an arrow of the program.
const ARROWS: &[(&str, &[&str])] = &[
    ("vsekai-schema", &[]),
    ("vsekai-sim", &["vsekai-schema"]),
    ("vsekai-net", &["vsekai-schema", "vsekai-sim"]),
    ("vsekai-fdb", &[]),
    ("vsekai-storage", &["vsekai-schema", "vsekai-sim", "vsekai-fdb"]),
    ("vsekai-fdb-double", &["vsekai-storage"]),
    ("vsekai-shard", &["vsekai-schema", "vsekai-sim", "vsekai-net", "vsekai-storage"]),
    ("vsekai-supervisor", &["vsekai-schema", "vsekai-storage"]),
    ("vsekai", &["vsekai-schema", "vsekai-storage", "vsekai-supervisor"]),
    ("vsekai-bench", &["vsekai-schema", "vsekai-sim", "vsekai-net", "vsekai-storage"]),
    (
        "vsekai-tests",
        &[
            "vsekai-schema",
            "vsekai-sim",
            "vsekai-net",
            "vsekai-fdb",
            "vsekai-fdb-double",
            "vsekai-storage",
            "vsekai-bench",
        ],
    ),
    ("xtask", &[]),
];

/// What may lie at the top of the repository.
const TOP: &[&str] = &[
    ".cargo",
    ".ci",
    ".gitignore",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "README.md",
    "bench",
    "clippy.toml",
    "deny.toml",
    "fuzz",
    "launcher",
    "net",
    "rust-toolchain.toml",
    "rustfmt.toml",
    "schema",
    "sim",
    "storage",
    "supervisor",
    "tests",
];

/// The crates at a foreign interface. They may not inherit a `forbid`, so they repeat the table with `deny`. The fuzz targets, whose
/// entry is called from C++, are a workspace of their own besides; so is what runs a peer to compare with.
const FOREIGN: &[&str] =
    &["bench/peers/replicon/Cargo.toml", "fuzz/Cargo.toml", "storage/fdb/Cargo.toml", "storage/fdb-double/Cargo.toml"];

/// The lint settings of a manifest, but for those about unsafe code.
fn lints(manifest: &str, table: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut section = "";
    for line in manifest.lines().filter(|line| !line.trim().is_empty() && !line.starts_with(['#'])) {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            section = name.strip_prefix(table).unwrap_or("");
        } else if !section.is_empty() && !line.starts_with("unsafe_") {
            found.insert(format!("{section}: {line}"));
        }
    }
    assert!(found.len() > 5, "[{table}] was not found");
    found
}

/// Longer than this, a file has outgrown its reader.
const LINES_MAX: usize = 900;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn tracked_files() -> Vec<PathBuf> {
    let output = Command::new("git").args(["ls-files", "-z"]).current_dir(root()).output().unwrap();
    assert!(output.status.success(), "git ls-files: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().split('\0').filter(|name| !name.is_empty()).map(PathBuf::from).collect()
}

/// The arrows that run the wrong way.
fn wrong_arrows(metadata: &Value) -> Vec<String> {
    let members: BTreeSet<&str> =
        metadata["workspace_members"].as_array().unwrap().iter().map(|id| id.as_str().unwrap()).collect();
    let packages = metadata["packages"].as_array().unwrap();
    let own: Vec<&Value> =
        packages.iter().filter(|package| members.contains(package["id"].as_str().unwrap())).collect();
    let names: BTreeSet<&str> = own.iter().map(|package| package["name"].as_str().unwrap()).collect();
    let allowed: BTreeMap<&str, &[&str]> = ARROWS.iter().copied().collect();
    let mut wrong = Vec::new();
    for package in &own {
        let name = package["name"].as_str().unwrap();
        let Some(allowed) = allowed.get(name) else {
            wrong.push(format!("{name} has no line in ARROWS"));
            continue;
        };
        for dependency in package["dependencies"].as_array().unwrap() {
            let to = dependency["name"].as_str().unwrap();
            if names.contains(to) && dependency["kind"].as_str() != Some("dev") && !allowed.contains(&to) {
                wrong.push(format!("{name} → {to}"));
            }
        }
    }
    wrong
}

#[test]
fn dependencies_run_one_way() {
    let mut metadata = metadata();
    assert_eq!(wrong_arrows(&metadata), Vec::<String>::new());
    // The check can fail: an arrow from schema to storage is found.
    let packages = metadata["packages"].as_array_mut().unwrap();
    let schema = packages.iter_mut().find(|package| package["name"] == "vsekai-schema").unwrap();
    let arrow = serde_json::json!({ "name": "vsekai-storage", "kind": null });
    schema["dependencies"].as_array_mut().unwrap().push(arrow);
    assert_eq!(wrong_arrows(&metadata), ["vsekai-schema → vsekai-storage"]);
}

#[test]
fn net_and_storage_see_the_simulation_through_its_port() {
    for file in tracked_files() {
        let name = file.to_str().unwrap();
        let adapter = (name.starts_with("net/src/") || name.starts_with("storage/src/")) && name.ends_with(".rs");
        if !adapter || name.contains("tests") {
            continue;
        }
        let text = std::fs::read_to_string(root().join(&file)).unwrap();
        for line in text.lines().filter(|line| line.trim_start().starts_with("use vsekai_sim::")) {
            assert!(
                line.trim().starts_with("use vsekai_sim::port::"),
                "{name}: `{}` reaches behind the port",
                line.trim()
            );
        }
    }
}

#[test]
fn nothing_else_lies_at_the_top() {
    let top: BTreeSet<String> = tracked_files()
        .iter()
        .map(|file| file.components().next().unwrap().as_os_str().to_str().unwrap().to_string())
        .collect();
    let unknown: Vec<_> = top.iter().filter(|name| !TOP.contains(&name.as_str())).collect();
    assert!(unknown.is_empty(), "unexpected at the top: {unknown:?}");
    for needed in TOP {
        assert!(root().join(needed).exists(), "{needed} is missing at the top");
    }
}

#[test]
fn every_crate_takes_the_lint_table_and_no_file_outgrows_its_reader() {
    let root_manifest = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
    for file in tracked_files() {
        let name = file.to_str().unwrap();
        let path = root().join(&file);
        if name.ends_with("Cargo.toml") && name != "Cargo.toml" {
            let text = std::fs::read_to_string(&path).unwrap();
            if FOREIGN.contains(&name) {
                assert_eq!(lints(&text, "lints"), lints(&root_manifest, "workspace.lints"), "{name}");
            } else {
                assert!(text.contains("[lints]\nworkspace = true"), "{name} has lints of its own");
            }
        }
        if name.ends_with(".rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            assert!(text.lines().count() <= LINES_MAX, "{name} has {} lines", text.lines().count());
        }
    }
}

/// Whether a licence expression can be met with the allowed licences. `/` is the old way to write OR.
fn is_met(expression: &str, allowed: &BTreeSet<String>) -> bool {
    fn split<'e>(expression: &'e str, word: &str) -> Vec<&'e str> {
        let mut depth = 0;
        let mut parts = Vec::new();
        let mut start = 0;
        for (at, c) in expression.char_indices() {
            match c {
                '(' => depth += 1,
                ')' => depth -= 1,
                _ if depth == 0 && expression[at..].starts_with(word) => {
                    parts.push(&expression[start..at]);
                    start = at + word.len();
                }
                _ => {}
            }
        }
        parts.push(&expression[start..]);
        parts
    }
    let expression = expression.trim();
    let any = split(expression, " OR ");
    if any.len() > 1 {
        return any.into_iter().any(|part| is_met(part, allowed));
    }
    let all = split(expression, " AND ");
    if all.len() > 1 {
        return all.into_iter().all(|part| is_met(part, allowed));
    }
    match expression.strip_prefix('(').and_then(|inner| inner.strip_suffix(')')) {
        Some(inner) => is_met(inner, allowed),
        None => allowed.contains(expression),
    }
}

#[test]
fn every_dependency_has_a_licence_that_deny_toml_allows() {
    let text = std::fs::read_to_string(root().join("deny.toml")).unwrap();
    let list = text.split_once("allow = [").unwrap().1.split_once(']').unwrap().0;
    let allowed: BTreeSet<String> = list.split('"').skip(1).step_by(2).map(str::to_string).collect();
    assert!(allowed.contains("MIT") && !is_met("GPL-3.0-only", &allowed) && !is_met("MIT AND GPL-3.0-only", &allowed));
    let metadata = metadata();
    let mut refused = Vec::new();
    for package in metadata["packages"].as_array().unwrap() {
        let licence = package["license"].as_str().unwrap_or("none").replace(" / ", " OR ").replace('/', " OR ");
        if !is_met(&licence, &allowed) {
            refused.push(format!("{} {}: {licence}", package["name"], package["version"]));
        }
    }
    assert_eq!(refused, Vec::<String>::new());
}
