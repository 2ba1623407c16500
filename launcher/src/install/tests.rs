//! Whole ways of an installation: install, update, check, verify, repair, rollback, and what happens when something is in the way.

use super::*;
use crate::fetch::{Folder as FetchFolder, Limits};
use crate::offers::Unsigned;
use crate::publish::{Job as PublishJob, publish};
use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// A build that is changed and published, a repository, an installation.
struct Scene {
    folder: tempfile::TempDir,
    log: Mutex<Vec<String>>,
    /// A request whose path contains this fails.
    broken: Mutex<Option<&'static str>>,
}

fn noise(name: &str, size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    blake3::Hasher::new().update(name.as_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

impl Fetch for Scene {
    fn whole(&self, path: &str, max: u64) -> Result<Vec<u8>, FetchError> {
        self.asked(path)?;
        self.fetch().whole(path, max)
    }

    fn range(
        &self,
        path: &str,
        range: std::ops::Range<u64>,
        into: &mut dyn FnMut(&[u8]) -> std::io::Result<()>,
    ) -> Result<(), FetchError> {
        self.asked(path)?;
        self.fetch().range(path, range, into)
    }
}

impl Scene {
    /// With version 1 published and nothing installed.
    fn new() -> Self {
        let scene =
            Self { folder: tempfile::tempdir().expect("a folder"), log: Mutex::default(), broken: Mutex::default() };
        scene.write("bin/game", b"#!/bin/sh\necho 1\n");
        std::fs::set_permissions(scene.path("build/bin/game"), std::fs::Permissions::from_mode(0o755))
            .expect("sets the mode");
        scene.write("data/level.pak", &noise("level", 2 << 20));
        scene.write("data/music.ogg", &noise("music", 1 << 20));
        scene.write("data/twice.bin", &noise("level", 2 << 20)[..1 << 20]);
        scene.write("saves/template.sav", b"empty");
        std::fs::create_dir_all(scene.path("build/mods")).expect("makes");
        std::os::unix::fs::symlink("../data/music.ogg", scene.path("build/bin/tune")).expect("links");
        scene.publish("1");
        scene
    }

    fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    fn write(&self, path: &str, bytes: &[u8]) {
        let full = self.path("build").join(path);
        std::fs::create_dir_all(full.parent().expect("a parent")).expect("makes");
        std::fs::write(full, bytes).expect("writes");
    }

    fn publish(&self, version: &str) {
        let job = PublishJob {
            source: self.path("build"),
            repository: self.path("repository"),
            client_id: "game".into(),
            version: version.into(),
            notes: format!("notes of {version}"),
            published: 1,
            channel: Some(("stable".into(), 100)),
            deltas: 3,
            sizes: None,
            level: 3,
            keep: vec!["saves/**".into(), "mods".into()],
        };
        publish(&job).expect("publishes");
    }

    /// Version 2: something inserted, something removed, something new.
    fn publish_second(&self) {
        let mut level = noise("level", 2 << 20);
        level.splice(700_000..700_000, noise("inserted", 20_000));
        self.write("data/level.pak", &level);
        self.write("bin/game", b"#!/bin/sh\necho 2\n");
        self.write("data/new/world.bin", &noise("world", 300_000));
        std::fs::remove_file(self.path("build/data/twice.bin")).expect("removes");
        self.publish("2");
    }

    fn fetch(&self) -> FetchFolder {
        FetchFolder::open(&self.path("repository"), Limits::default()).expect("opens")
    }

    fn asked(&self, path: &str) -> Result<(), FetchError> {
        self.log.lock().expect("sound").push(path.to_owned());
        match *self.broken.lock().expect("sound") {
            Some(part) if path.contains(part) => {
                Err(FetchError::Network { path: path.into(), why: "broken for the test".into() })
            }
            _ => Ok(()),
        }
    }

    fn requests(&self) -> Vec<String> {
        std::mem::take(&mut *self.log.lock().expect("sound"))
    }

    fn with<T>(&self, change: impl FnOnce(&mut Follow<'_>), task: impl FnOnce(&Follow<'_>) -> T) -> T {
        let offers = Unsigned { folder: self.path("repository"), client_id: "game".into() };
        let progress = Progress::default();
        let mut follow = Follow {
            offers: &offers,
            fetch: self,
            channel: "stable".into(),
            version: None,
            again: false,
            keep: vec![],
            links: Links::Auto,
            progress: &progress,
        };
        change(&mut follow);
        task(&follow)
    }

    fn open(&self) -> Installation {
        Installation::open(&self.path("root")).expect("opens")
    }

    fn update(&self) -> Outcome {
        self.with(|_| (), |follow| update(&self.open(), follow)).expect("updates")
    }

    fn verify(&self) -> Verdict {
        self.with(|_| (), |follow| verify(&self.open(), follow)).expect("verifies")
    }

    fn current(&self, path: &str) -> PathBuf {
        self.path("root/current").join(path)
    }

    /// Files and links that are current, and those of the build, are the same; what belongs to the player aside.
    #[track_caller]
    fn assert_current_is_build(&self) {
        let list = |root: &Path| {
            let mut found = BTreeMap::new();
            let folder = Folder::open(root).expect("opens");
            let each = &mut |path: &str, kind: rustix::fs::FileType| {
                if !path.starts_with("saves") && !path.starts_with("mods") {
                    let bytes = match kind {
                        rustix::fs::FileType::RegularFile => std::fs::read(root.join(path))?,
                        rustix::fs::FileType::Symlink => {
                            std::fs::read_link(root.join(path))?.into_os_string().into_encoded_bytes()
                        }
                        _ => vec![],
                    };
                    let executable = std::fs::symlink_metadata(root.join(path))?.mode() & 0o100 != 0;
                    found.insert(path.to_owned(), (bytes, executable));
                }
                Ok(())
            };
            folder.walk(each).expect("walks");
            found
        };
        let (build, current) = (list(&self.path("build")), list(&self.path("root/current")));
        assert_eq!(build.keys().collect::<Vec<_>>(), current.keys().collect::<Vec<_>>());
        assert!(build == current, "the same names, but other bytes or modes");
        assert_eq!(self.verify().damaged, [""; 0]);
    }
}

#[test]
fn a_build_is_installed_updated_and_gone_back_from() {
    let scene = Scene::new();
    let first = scene.update();
    assert_eq!((first.version.as_str(), first.before, first.done), ("1", None, true));
    scene.assert_current_is_build();
    assert_eq!(scene.requests(), ["manifests", "packs"].map(|kind| scene.requests_of(kind)).concat());
    let mode = |path: &str| std::fs::metadata(scene.current(path)).expect("is there").mode() & 0o777;
    assert_eq!((mode("bin/game"), mode("data/level.pak"), mode("saves/template.sav")), (0o555, 0o444, 0o644));

    scene.publish_second();
    scene.requests();
    let answer = scene
        .with(|_| (), |follow| check(&Installation::look(&scene.path("root")).expect("looks"), follow))
        .expect("answers");
    assert_eq!((answer.installed.as_deref(), answer.offered.as_str(), answer.update), (Some("1"), "2", true));
    assert_eq!(answer.notes, "notes of 2");
    assert_eq!(scene.requests(), [""; 0], "what a delta takes is in the catalogue");
    let second = scene.update();
    assert_eq!((second.version.as_str(), second.before.as_deref(), second.done), ("2", Some("1"), true));
    assert!(second.fetched <= answer.bytes && second.fetched > 320_000, "{} of {} bytes", second.fetched, answer.bytes);
    assert!(second.requests <= answer.requests);
    assert!(scene.requests().iter().all(|path| path.starts_with("deltas/")));
    scene.assert_current_is_build();
    let again = scene.update();
    assert_eq!((again.done, again.changed.len(), again.fetched), (false, 0, 0));

    let back = rollback(&scene.open(), &Progress::default()).expect("goes back");
    assert_eq!((back.version.as_str(), back.before.as_deref()), ("1", Some("2")));
    assert_eq!(std::fs::read(scene.current("bin/game")).expect("reads"), b"#!/bin/sh\necho 1\n");
    assert_eq!(scene.verify().damaged, [""; 0]);
    let held = scene.update();
    assert_eq!((held.version.as_str(), held.done, held.held), ("1", false, true));
    // Asked for, it is back at once, without a byte.
    let asked = scene.with(|follow| follow.again = true, |follow| update(&scene.open(), follow)).expect("updates");
    assert_eq!((asked.version.as_str(), asked.done, asked.fetched), ("2", true, 0));
    scene.assert_current_is_build();
}

impl Scene {
    fn requests_of(&self, kind: &str) -> Vec<String> {
        let folder = self.path("repository").join(kind);
        let names = std::fs::read_dir(folder)
            .expect("reads")
            .map(|item| item.expect("reads").file_name().into_string().expect("a name"));
        names.map(|name| format!("{kind}/{name}")).collect()
    }
}

#[test]
fn the_players_files_stay_the_players() {
    let scene = Scene::new();
    scene.update();
    std::fs::write(scene.current("saves/one.sav"), "level 5").expect("writes");
    std::fs::write(scene.current("saves/template.sav"), "mine").expect("writes");
    std::fs::write(scene.current("mods/big.mod"), "mod").expect("writes");
    assert_eq!((scene.verify().damaged, scene.verify().extra), (vec![], vec![]));
    scene.publish_second();
    assert_eq!(scene.update().version, "2");
    let read = |path: &str| std::fs::read_to_string(scene.current(path)).expect("is there");
    assert_eq!(
        (read("saves/one.sav"), read("saves/template.sav"), read("mods/big.mod")),
        ("level 5".into(), "mine".into(), "mod".into())
    );
    std::fs::write(scene.current("saves/one.sav"), "level 6").expect("writes");
    rollback(&scene.open(), &Progress::default()).expect("goes back");
    assert_eq!((read("bin/game"), read("saves/one.sav")), ("#!/bin/sh\necho 1\n".into(), "level 6".into()));
    // A version that goes leaves what only it has.
    std::fs::write(scene.path("root/versions/2/saves/only-2.sav"), "late").expect("writes");
    scene.write("bin/game", b"#!/bin/sh\necho 3\n");
    scene.publish("3");
    assert_eq!(scene.update().version, "3");
    assert!(!scene.path("root/versions/2").exists());
    assert_eq!(std::fs::read_to_string(scene.path("root/kept/2/saves/only-2.sav")).expect("kept"), "late");
    assert_eq!(read("saves/one.sav"), "level 6");
}

#[test]
fn damage_is_found_and_mended_with_few_bytes() {
    let scene = Scene::new();
    scene.update();
    let target = std::fs::canonicalize(scene.current("data/level.pak")).expect("is there");
    let stat = std::fs::metadata(&target).expect("is there");
    let mut bytes = std::fs::read(&target).expect("reads");
    bytes[1_500_000] ^= 1;
    // As a bad sector would: the size and times stay.
    std::fs::set_permissions(&target, std::fs::Permissions::from_mode(0o644)).expect("sets the mode");
    std::fs::write(&target, &bytes).expect("writes");
    let file = std::fs::File::options().write(true).open(&target).expect("opens");
    file.set_modified(stat.modified().expect("a time")).expect("sets the time");
    std::fs::remove_file(scene.current("bin/tune")).expect("removes");
    std::fs::write(scene.current("stray.txt"), "x").expect("writes");
    let verdict = scene.verify();
    assert_eq!(
        (verdict.damaged, verdict.extra),
        (vec!["bin/tune".to_owned(), "data/level.pak".into()], vec!["stray.txt".to_owned()])
    );
    let announced = verdict.repair_bytes.expect("is said");
    assert!((4_096..=65_536).contains(&announced), "{announced} bytes for one chunk");
    let asked = scene.with(|_| (), |follow| repair(&scene.open(), follow, &mut |_| false)).expect("asks");
    assert!(!asked.done && scene.verify().damaged.len() == 2, "refused, nothing is done");
    let outcome = scene.with(|_| (), |follow| repair(&scene.open(), follow, &mut |_| true)).expect("mends");
    assert_eq!((outcome.done, outcome.fetched), (true, announced));
    scene.assert_current_is_build();
    assert_eq!(std::fs::read_link(scene.path("root/current")).expect("a link"), Path::new("versions/1~2"));
    assert!(!scene.path("root/versions/1").exists());
    assert!(!scene.update().done);
}

#[test]
fn what_was_fetched_is_not_fetched_again() {
    let scene = Scene::new();
    let failed = |part: &'static str| {
        *scene.broken.lock().expect("sound") = Some(part);
        let error = scene.with(|_| (), |follow| update(&scene.open(), follow)).expect_err("broken");
        assert_eq!(error.exit, Exit::Network);
        *scene.broken.lock().expect("sound") = None;
    };
    failed("packs/");
    assert!(!scene.path("root/current").exists());
    let notes = scene.open().notes();
    assert_eq!((notes.state, notes.target.as_deref()), (State::Failed(machine::Step::Downloading), Some("1")));
    assert!(notes.failure.is_some_and(|why| why.contains("broken for the test")));
    // Half of a file that was there before the kill counts, a damaged half does not.
    let level = noise("level", 2 << 20);
    std::fs::write(scene.path("root/incoming/data/level.pak"), [&level[..1 << 20], &noise("other", 1 << 20)].concat())
        .expect("writes");
    let outcome = scene.update();
    scene.assert_current_is_build();
    // `twice.bin` is the first half of `level.pak`, too.
    assert!((2 << 20..(2 << 20) + 200_000).contains(&outcome.fetched), "{} bytes", outcome.fetched);

    scene.publish_second();
    failed("deltas/");
    assert_eq!(std::fs::read(scene.current("bin/game")).expect("reads"), b"#!/bin/sh\necho 1\n");
    assert_eq!(scene.update().version, "2");
    scene.assert_current_is_build();
}

#[test]
fn a_delta_that_lies_costs_bytes_and_nothing_else() {
    let scene = Scene::new();
    scene.update();
    scene.publish_second();
    let delta = scene.path("repository").join(&scene.requests_of("deltas")[0]);
    let mut bytes = std::fs::read(&delta).expect("reads");
    let last = bytes.len() - 2_000;
    bytes[last] ^= 1;
    std::fs::write(&delta, &bytes).expect("writes");
    assert_eq!(scene.update().version, "2");
    scene.assert_current_is_build();
    // Without one, packs do.
    let other = Scene::new();
    other.update();
    other.publish_second();
    std::fs::remove_file(other.path("repository").join(&other.requests_of("deltas")[0])).expect("removes");
    assert_eq!(other.update().version, "2");
    other.assert_current_is_build();
}

#[test]
fn damaged_packs_and_manifests_are_named_and_nothing_is_switched() {
    for kind in ["packs", "manifests"] {
        let scene = Scene::new();
        scene.update();
        scene.publish_second();
        for path in scene.requests_of("deltas") {
            std::fs::remove_file(scene.path("repository").join(path)).expect("removes");
        }
        for path in scene.requests_of(kind) {
            let full = scene.path("repository").join(path);
            let mut bytes = std::fs::read(&full).expect("reads");
            bytes.iter_mut().step_by(500).for_each(|byte| *byte ^= 1);
            std::fs::write(full, bytes).expect("writes");
        }
        let error = scene.with(|_| (), |follow| update(&scene.open(), follow)).expect_err("damaged");
        assert_eq!(error.exit, Exit::Damaged, "{error}");
        assert!(error.what.contains(&format!("{kind}/")), "{error}");
        assert_eq!(std::fs::read(scene.current("bin/game")).expect("reads"), b"#!/bin/sh\necho 1\n");
    }
}

#[test]
fn a_corrupt_cache_is_seen_and_got_again() {
    let scene = Scene::new();
    scene.update();
    let cache = scene.path("root/.vsekai/manifests");
    for item in std::fs::read_dir(&cache).expect("reads") {
        std::fs::write(item.expect("reads").path(), "rubbish").expect("writes");
    }
    scene.requests();
    assert_eq!(scene.verify().damaged, [""; 0]);
    assert!(scene.requests()[0].starts_with("manifests/"));
    // Even with the record gone, a repair knows the version from its folder, and the pointer from the disk.
    std::fs::write(scene.path("root/.vsekai/installed/1.json"), "rubbish").expect("writes");
    let outcome = scene.with(|_| (), |follow| repair(&scene.open(), follow, &mut |_| true)).expect("mends");
    assert_eq!((outcome.done, outcome.version.as_str()), (true, "1"));
    scene.assert_current_is_build();
    // And notes that are rubbish are begun anew.
    std::fs::write(scene.path("root/.vsekai/state.json"), "rubbish").expect("writes");
    assert!(!scene.update().done);
}

#[test]
fn one_at_a_time() {
    let scene = Scene::new();
    let held = scene.open();
    assert_eq!(Installation::open(&scene.path("root")).expect_err("is held").exit, Exit::Busy);
    assert!(Installation::look(&scene.path("root")).is_ok());
    drop(held);
    assert!(Installation::open(&scene.path("root")).is_ok());
}

#[test]
fn a_link_in_the_way_leads_nowhere() {
    let scene = Scene::new();
    *scene.broken.lock().expect("sound") = Some("packs/");
    scene.with(|_| (), |follow| update(&scene.open(), follow)).expect_err("broken");
    *scene.broken.lock().expect("sound") = None;
    let outside = scene.path("outside");
    std::fs::create_dir(&outside).expect("makes");
    std::fs::write(outside.join("level.pak"), "precious").expect("writes");
    std::fs::remove_dir_all(scene.path("root/incoming/data")).expect("removes");
    std::os::unix::fs::symlink(&outside, scene.path("root/incoming/data")).expect("links");
    scene.update();
    scene.assert_current_is_build();
    assert_eq!(std::fs::read_dir(&outside).expect("reads").count(), 1);
    assert_eq!(std::fs::read(outside.join("level.pak")).expect("reads"), b"precious");
}

#[test]
fn hard_links_are_of_files_that_nobody_may_write() {
    let scene = Scene::new();
    scene.update();
    scene.publish_second();
    let outcome =
        scene.with(|follow| follow.links = Links::Hard, |follow| update(&scene.open(), follow)).expect("updates");
    assert_eq!(outcome.version, "2");
    scene.assert_current_is_build();
    let stat = |path: &str| std::fs::metadata(scene.current(path)).expect("is there");
    assert_eq!((stat("data/music.ogg").nlink(), stat("data/music.ogg").mode() & 0o777), (2, 0o444));
    assert_eq!(stat("saves/template.sav").nlink(), 1);
    assert_eq!(stat("data/level.pak").nlink(), 1);
    // Repairing one does not touch the other.
    let music = std::fs::canonicalize(scene.current("data/music.ogg")).expect("is there");
    std::fs::remove_file(&music).expect("removes");
    std::fs::write(&music, "broken").expect("writes");
    scene
        .with(|follow| follow.links = Links::Hard, |follow| repair(&scene.open(), follow, &mut |_| true))
        .expect("mends");
    scene.assert_current_is_build();
    assert!(std::fs::read(scene.path("root/versions/1/data/music.ogg")).expect("reads") == noise("music", 1 << 20));
}

#[test]
fn what_is_not_there_is_said() {
    let scene = Scene::new();
    let exit = |change: fn(&mut Follow<'_>)| {
        scene.with(change, |follow| update(&scene.open(), follow)).expect_err("is not there").exit
    };
    assert_eq!(exit(|follow| follow.channel = "beta".into()), Exit::NotFound);
    assert_eq!(exit(|follow| follow.version = Some("9".into())), Exit::NotFound);
    assert_eq!(rollback(&scene.open(), &Progress::default()).expect_err("nothing").exit, Exit::NotFound);
    scene.update();
    assert_eq!(rollback(&scene.open(), &Progress::default()).expect_err("nothing before").exit, Exit::NotFound);
}

#[test]
fn a_stop_is_no_failure_of_the_repository() {
    let scene = Scene::new();
    let error =
        scene.with(|follow| follow.progress.stop(), |follow| update(&scene.open(), follow)).expect_err("stopped");
    assert_eq!(error.exit, Exit::Stopped);
    assert_eq!(scene.update().version, "1");
    scene.assert_current_is_build();
}
