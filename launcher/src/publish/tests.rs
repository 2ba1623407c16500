//! Publishing: the same folder gives the same repository, earlier packs are used again, what cannot be installed is refused.

use super::*;
use std::collections::BTreeMap;

/// Bytes that do not compress, the same for the same name.
fn noise(name: &str, size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    blake3::Hasher::new().update(name.as_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

fn job(source: &Path, repository: &Path, version: &str) -> Job {
    Job {
        source: source.into(),
        repository: repository.into(),
        client_id: "game".into(),
        version: version.into(),
        notes: String::new(),
        published: 1_700_000_000,
        channel: Some(("stable".into(), 100)),
        deltas: 3,
        sizes: None,
        level: 3,
        keep: vec![],
    }
}

fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let listed = list(folder).expect("lists");
    let files = listed.into_iter().filter(|(_, found)| matches!(found, Found::File { .. }));
    files.map(|(path, _)| (path.clone(), std::fs::read(folder.join(path)).expect("reads"))).collect()
}

#[test]
fn the_same_folder_gives_the_same_files() {
    let build = tempfile::tempdir().expect("a folder");
    std::fs::write(build.path().join("a.bin"), noise("a", 3 << 20)).expect("writes");
    std::fs::create_dir(build.path().join("empty")).expect("makes");
    std::os::unix::fs::symlink("a.bin", build.path().join("link")).expect("links");
    let repositories: Vec<_> = (0..2).map(|_| tempfile::tempdir().expect("a folder")).collect();
    for repository in &repositories {
        publish(&job(build.path(), repository.path(), "1")).expect("publishes");
    }
    std::fs::write(build.path().join("b.bin"), noise("b", 1 << 20)).expect("writes");
    for repository in &repositories {
        publish(&job(build.path(), repository.path(), "2")).expect("publishes");
    }
    let (one, other) = (files(repositories[0].path()), files(repositories[1].path()));
    assert_eq!(one.keys().collect::<Vec<_>>(), other.keys().collect::<Vec<_>>());
    assert!(one == other, "the same names, but other bytes");
    // Lock, catalogue, two manifests, a pack for each version, one delta.
    assert_eq!(one.len(), 1 + 1 + 2 + 2 + 1, "{:?}", one.keys());
}

#[test]
fn a_second_version_packs_only_what_is_new() {
    let (build, repository) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let old = noise("level", 4 << 20);
    std::fs::write(build.path().join("level.pak"), &old).expect("writes");
    let first = publish(&job(build.path(), repository.path(), "1")).expect("publishes");
    assert_eq!((first.new_packs, first.deltas.len()), (1, 0));
    let mut new = old.clone();
    new.splice(1_000_000..1_000_000, noise("inserted", 10_000));
    std::fs::write(build.path().join("level.pak"), &new).expect("writes");
    let second = publish(&job(build.path(), repository.path(), "2")).expect("publishes");
    assert_eq!((second.packs, second.new_packs), (2, 1));
    assert!((1..=6).contains(&second.new_chunks), "{} new chunks", second.new_chunks);
    let (from, size) = &second.deltas[0];
    assert_eq!(from, "1");
    // The insertion itself, and little else.
    assert!((10_000..13_000).contains(size), "a delta of {size} bytes");
    assert!(second.new_packs_size > 2 * size, "packs of {} bytes", second.new_packs_size);

    let catalogue = Repository::open(repository.path()).expect("opens").catalogue("game").expect("is there");
    assert_eq!(
        catalogue.channel("stable").map(|channel| (channel.version.as_str(), channel.previous.as_deref())),
        Some(("2", Some("1")))
    );
    let again = publish(&job(build.path(), repository.path(), "2")).expect_err("is published already");
    assert_eq!(again.exit, Exit::Usage);
}

#[test]
fn a_pack_of_which_little_is_needed_is_not_kept_alive() {
    let (build, repository) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let old = noise("level", 4 << 20);
    std::fs::write(build.path().join("level.pak"), &old).expect("writes");
    publish(&job(build.path(), repository.path(), "1")).expect("publishes");
    let new = [&noise("new", 4 << 20)[..], &old[..1 << 20]].concat();
    std::fs::write(build.path().join("level.pak"), new).expect("writes");
    let second = publish(&job(build.path(), repository.path(), "2")).expect("publishes");
    assert_eq!((second.packs, second.new_packs, second.new_chunks), (1, 1, second.chunks));
}

#[test]
fn what_cannot_be_installed_everywhere_is_refused() {
    let plant: [(&str, fn(&Path)); 4] = [
        ("upper and lower case", |build| {
            std::fs::write(build.join("A"), "").expect("writes");
            std::fs::write(build.join("a"), "").expect("writes");
        }),
        ("device", |build| std::fs::write(build.join("con.txt"), "").expect("writes")),
        ("leaves the root", |build| std::os::unix::fs::symlink("/etc/passwd", build.join("x")).expect("links")),
        ("neither file, folder nor link", |build| {
            let _socket = std::os::unix::net::UnixListener::bind(build.join("s")).expect("binds");
        }),
    ];
    for (why, plant) in plant {
        let (build, repository) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        plant(build.path());
        let error = publish(&job(build.path(), repository.path(), "1")).expect_err(why);
        assert_eq!(error.exit, Exit::Damaged);
        assert!(crate::error::one_line(error).contains(why), "{why}");
        assert!(!repository.path().join("catalogue/game.json").exists());
    }
}

#[test]
fn names_and_numbers_are_checked_before_anything_is_made() {
    let build = tempfile::tempdir().expect("a folder");
    let target = build.path().join("repository");
    let good = job(build.path(), &target, "1");
    for bad in [
        Job { client_id: "Game".into(), ..good.clone() },
        Job { client_id: "../x".into(), ..good.clone() },
        Job { version: ".1".into(), ..good.clone() },
        Job { version: "1/2".into(), ..good.clone() },
        Job { channel: Some(("stable".into(), 101)), ..good.clone() },
        Job { level: 0, ..good.clone() },
        Job { deltas: 17, ..good.clone() },
        Job { sizes: Some(ChunkSizes { min: 1, avg: 2, max: 3 }), ..good.clone() },
    ] {
        assert_eq!(publish(&bad).expect_err("refused").exit, Exit::Usage);
        assert!(!target.exists());
    }
}
