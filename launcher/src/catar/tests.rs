use super::*;
use crate::chunker::tests::noise;
use crate::digest::Digest;
use crate::hex::hex;
use proptest::prelude::*;
use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// 2020-02-03 04:05:06.789 UTC.
const WHEN_NS: u64 = 1_580_702_706_789_000_000;

fn encoded(folder: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    let keep = Keep { times: true, owners: false };
    let encoded = encode(folder, keep, Digest::Sha512_256, &mut bytes, &|_| {}).expect("encoded");
    assert_eq!(encoded.size, bytes.len() as u64);
    bytes
}

fn unpack(archive: &[u8], root: &Path, rules: Rules) -> Result<Extracted, ExtractError> {
    extract(&mut Decoder::new(archive), root, rules, &|_| {})
}

/// All paths below `folder` with type and mode, time, and content or target.
fn tree(folder: &Path) -> Vec<(String, u32, i64, i64, Vec<u8>)> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next).expect("a folder") {
            let path = entry.expect("an entry").path();
            let metadata = fs::symlink_metadata(&path).expect("there");
            let content = if metadata.is_dir() {
                folders.push(path.clone());
                Vec::new()
            } else if metadata.is_symlink() {
                fs::read_link(&path).expect("a link").into_os_string().into_encoded_bytes()
            } else {
                fs::read(&path).expect("a file")
            };
            let name = path.strip_prefix(folder).expect("below").to_str().expect("text").to_owned();
            found.push((name, metadata.mode(), metadata.mtime(), metadata.mtime_nsec(), content));
        }
    }
    found.sort();
    found
}

fn set_all_times(folder: &Path) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let kind = fs::symlink_metadata(&path).expect("there").file_type();
        if kind.is_dir() {
            set_all_times(&path);
        } else {
            set_time(&path);
        }
    }
    set_time(folder);
}

fn set_time(path: &Path) {
    let time =
        rustix::fs::Timespec { tv_sec: (WHEN_NS / 1_000_000_000) as i64, tv_nsec: (WHEN_NS % 1_000_000_000) as i64 };
    let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(rustix::fs::CWD, path, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).expect("set");
}

/// The tree that desync 1.0.4 was given, too.
fn sample(folder: &Path) {
    let mode = |path: &str, mode| {
        fs::set_permissions(folder.join(path), fs::Permissions::from_mode(mode)).expect("set");
    };
    for inner in ["sub/deep", "empty"] {
        fs::create_dir_all(folder.join(inner)).expect("made");
    }
    fs::write(folder.join("a.txt"), "hello").expect("written");
    fs::write(folder.join("nothing"), "").expect("written");
    fs::write(folder.join("sub/b"), "x".repeat(100)).expect("written");
    fs::write(folder.join("sub/deep/big"), noise(300_000, 7)).expect("written");
    symlink("../a.txt", folder.join("sub/link")).expect("linked");
    for file in ["nothing", "sub/b", "sub/deep/big"] {
        mode(file, 0o644);
    }
    for executable in ["", "sub", "sub/deep", "empty", "a.txt"] {
        mode(executable, 0o755);
    }
    set_all_times(folder);
}

/// The same folder, given to `desync tar` by root, is this archive.
#[test]
fn archives_are_desync_s_to_the_last_byte() {
    let folder = tempfile::tempdir().expect("a folder");
    sample(folder.path());
    let archive = encoded(folder.path());
    assert_eq!(hex(&Digest::Sha256.of(&archive)), "3bef9da362f5b9fd7eeaa00fe89bdda0d277aa5eeb4abb7b8675ea543afc2544");
}

#[test]
fn what_goes_in_comes_out() {
    let (folder, out) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    sample(folder.path());
    let archive = encoded(folder.path());
    let extracted = unpack(&archive, out.path(), Rules::default()).expect("unpacked");
    assert_eq!(extracted, Extracted { file_count: 4, folder_count: 4, link_count: 1, size: 300_105 });
    assert_eq!(tree(out.path()), tree(folder.path()));
    assert_eq!(encoded(out.path()), archive);
    // Into a folder that has it already: refused, or replaced.
    let error = unpack(&archive, out.path(), Rules::default()).expect_err("there already");
    assert!(error.to_string().ends_with("a.txt: cannot be written"), "{error}");
    fs::write(out.path().join("a.txt"), "changed").expect("written");
    fs::write(out.path().join("mine"), "stays").expect("written");
    unpack(&archive, out.path(), Rules { overwrite: true, ..Rules::default() }).expect("unpacked");
    assert_eq!(fs::read(out.path().join("a.txt")).expect("there"), b"hello");
    fs::remove_file(out.path().join("mine")).expect("it stayed");
    assert_eq!(tree(out.path()), tree(folder.path()));
}

#[test]
fn what_cannot_be_archived_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let refused = |wanted: &str| {
        let error =
            encode(folder.path(), Keep::default(), Digest::Sha256, &mut Vec::new(), &|_| {}).expect_err("refused");
        assert!(error.to_string().contains(wanted), "{error}");
    };
    let file = folder.path().join("setuid");
    fs::write(&file, "").expect("written");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o4755)).expect("set");
    refused("setuid: it has a set-uid or set-gid bit");
    fs::remove_file(&file).expect("removed");
    let socket = std::os::unix::net::UnixListener::bind(folder.path().join("socket")).expect("bound");
    refused("socket: it is neither file, folder nor link");
    drop(socket);
}

/// An archive made by hand, element by element.
#[derive(Default)]
struct Built {
    bytes: Vec<u8>,
    open: Vec<(u64, Vec<goodbye::Item>)>,
}

impl Built {
    fn at(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn element(&mut self, kind: u64, body: &[u8]) -> &mut Self {
        self.bytes.extend((16 + body.len() as u64).to_le_bytes());
        self.bytes.extend(kind.to_le_bytes());
        self.bytes.extend(body);
        self
    }

    fn entry(&mut self, mode: u64) -> &mut Self {
        let body: Vec<u8> = [FLAGS, mode, 0, 0, 0, WHEN_NS].into_iter().flat_map(u64::to_le_bytes).collect();
        self.element(ENTRY, &body)
    }

    fn root() -> Self {
        let mut built = Self::default();
        built.enter();
        built
    }

    fn enter(&mut self) -> &mut Self {
        let at = self.at();
        self.open.push((at, Vec::new()));
        self.entry(0o040_755)
    }

    fn name(&mut self, name: &[u8]) -> &mut Self {
        let at = self.at();
        self.end_entry();
        let items = &mut self.open.last_mut().expect("open").1;
        items.push(goodbye::Item { begin: at, end: at, hash: goodbye::hash(name) });
        self.element(FILENAME, &[name, b"\0"].concat())
    }

    fn end_entry(&mut self) {
        let at = self.at();
        if let Some(item) = self.open.last_mut().and_then(|(_, items)| items.last_mut()) {
            item.end = at;
        }
    }

    fn file(&mut self, name: &[u8], content: &[u8]) -> &mut Self {
        self.name(name).entry(0o100_644).element(PAYLOAD, content)
    }

    fn link(&mut self, name: &[u8], target: &[u8]) -> &mut Self {
        self.name(name).entry(0o120_777).element(SYMLINK, &[target, b"\0"].concat())
    }

    fn folder(&mut self, name: &[u8]) -> &mut Self {
        self.name(name).enter()
    }

    fn leave(&mut self) -> &mut Self {
        self.end_entry();
        let (entry, mut items) = self.open.pop().expect("open");
        let element = goodbye::element(&mut items, entry, self.at());
        self.bytes.extend(element);
        self
    }
}

/// Unpacks into a folder within another one, and asserts that beside it nothing appeared.
fn unpacked_within(archive: &[u8], rules: Rules) -> Result<Extracted, ExtractError> {
    let outer = tempfile::tempdir().expect("a folder");
    let root = outer.path().join("root");
    fs::create_dir(&root).expect("made");
    let result = unpack(archive, &root, rules);
    assert_eq!(fs::read_dir(outer.path()).expect("a folder").count(), 1, "something beside the root");
    result
}

#[track_caller]
fn assert_refused(archive: &[u8], rules: Rules, wanted: &str) {
    let error = unpacked_within(archive, rules).expect_err("refused");
    assert!(error.to_string().contains(wanted), "{error}");
}

#[test]
fn an_archive_by_hand_unpacks() {
    let mut built = Built::root();
    built.file(b"a", b"1").folder(b"b").link(b"to a", b"../a").leave().file(b"c", b"").leave();
    let extracted = unpacked_within(&built.bytes, Rules::default()).expect("unpacked");
    assert_eq!(extracted, Extracted { file_count: 2, folder_count: 2, link_count: 1, size: 1 });
}

#[test]
fn names_that_lead_elsewhere_are_refused_whatever_is_allowed() {
    let any = Rules { any_name: true, overwrite: true, ..Rules::default() };
    for name in [&b".."[..], b".", b"a/b", b"/etc", b"../x", b"/"] {
        for rules in [Rules::default(), any] {
            assert_refused(&Built::root().file(name, b"x").leave().bytes, rules, "its name is not one part of a path");
            assert_refused(
                &Built::root().folder(name).leave().leave().bytes,
                rules,
                "its name is not one part of a path",
            );
            assert_refused(&Built::root().link(name, b"x").leave().bytes, rules, "its name is not one part of a path");
        }
    }
    assert_refused(&Built::root().file(b"a\0b", b"x").leave().bytes, any, "not text that ends in its only NUL");
    assert_refused(&Built::root().file(b"", b"x").leave().bytes, any, "has 17 bytes");
    assert_refused(&Built::root().file(&[b'a'; 256], b"x").leave().bytes, any, "has 273 bytes");
}

#[test]
fn names_that_other_systems_cannot_hold_are_refused_unless_allowed() {
    let any = Rules { any_name: true, ..Rules::default() };
    for name in [
        "a\\b", "c:", "what?", "a*", "x\ty", "con", "NUL.txt", "Com1", "lpt9.a.b", "COM¹", "aux ", "dot.", "space ",
        "a|b", "\"", "<>",
    ] {
        let mut built = Built::root();
        let archive = &built.file(name.as_bytes(), b"x").leave().bytes;
        assert_refused(archive, Rules::default(), "its name");
        assert_eq!(unpacked_within(archive, any).expect(name).file_count, 1);
    }
    for pair in [["A", "a"], ["README", "Readme"], ["Ä", "ä"]] {
        let mut built = Built::root();
        let archive = &built.file(pair[0].as_bytes(), b"1").file(pair[1].as_bytes(), b"2").leave().bytes;
        assert_refused(archive, Rules::default(), "only in case");
        assert_eq!(unpacked_within(archive, any).expect("allowed").file_count, 2);
    }
    for name in ["console", "com", "com10", "nullable", "a.con", ".hidden", "ä"] {
        assert_eq!(
            unpacked_within(&Built::root().file(name.as_bytes(), b"x").leave().bytes, Rules::default())
                .expect(name)
                .file_count,
            1
        );
    }
}

#[test]
fn names_that_come_twice_or_out_of_order_are_refused() {
    let any = Rules { any_name: true, overwrite: true, ..Rules::default() };
    assert_refused(&Built::root().file(b"a", b"1").file(b"a", b"2").leave().bytes, any, "does not come after");
    assert_refused(&Built::root().file(b"b", b"1").file(b"a", b"2").leave().bytes, any, "does not come after");
    // The classic: a link, then a file through it.
    assert_refused(
        &Built::root().link(b"a", b"b").folder(b"a").file(b"x", b"2").leave().leave().bytes,
        any,
        "does not come after",
    );
}

#[test]
fn links_that_leave_the_root_are_refused_whatever_is_allowed() {
    let any = Rules { any_name: true, overwrite: true, ..Rules::default() };
    for target in [&b"/etc/passwd"[..], b"..", b"../x", b"a/../../x", b"a/..", b"./../x", b"//x"] {
        assert_refused(&Built::root().link(b"l", target).leave().bytes, any, "its target");
    }
    assert_refused(&Built::root().folder(b"d").link(b"l", b"../../x").leave().leave().bytes, any, "leaves the archive");
    for target in [&b"x"[..], b"./x/y", b"a/b/c", b"."] {
        assert_eq!(
            unpacked_within(&Built::root().link(b"l", target).leave().bytes, Rules::default())
                .expect("inside")
                .link_count,
            1
        );
    }
    assert_refused(&Built::root().link(b"l", &[b'a'; 4_096]).leave().bytes, any, "has 4113 bytes");
}

#[test]
fn links_that_lie_there_are_not_followed() {
    let outer = tempfile::tempdir().expect("a folder");
    let (root, victim) = (outer.path().join("root"), outer.path().join("victim"));
    fs::create_dir(&root).expect("made");
    fs::create_dir(&victim).expect("made");
    fs::write(victim.join("file"), "mine").expect("written");
    symlink(&victim, root.join("d")).expect("linked");
    symlink(victim.join("file"), root.join("f")).expect("linked");
    let all = Rules { any_name: true, overwrite: true, ..Rules::default() };
    let mut through = Built::root();
    through.folder(b"d").file(b"new", b"x").leave().leave();
    assert!(matches!(unpack(&through.bytes, &root, all), Err(ExtractError::Write { .. })));
    let mut over = Built::root();
    over.file(b"f", b"x").leave();
    unpack(&over.bytes, &root, all).expect("the link is replaced");
    assert_eq!(fs::read(victim.join("file")).expect("there"), b"mine");
    assert_eq!(fs::read_dir(&victim).expect("a folder").count(), 1);
    assert!(fs::symlink_metadata(root.join("f")).expect("there").is_file());
}

#[test]
fn devices_and_set_uid_bits_are_refused_whatever_is_allowed() {
    let any = Rules { any_name: true, overwrite: true, ..Rules::default() };
    for mode in [0o020_644, 0o060_644] {
        let mut built = Built::root();
        built.name(b"d").entry(mode).element(DEVICE, &[0; 16]).leave();
        assert_refused(&built.bytes, any, "device, FIFO or socket");
    }
    for mode in [0o010_644, 0o140_644] {
        let mut built = Built::root();
        built.name(b"d").entry(mode);
        built.leave();
        assert_refused(&built.bytes, any, "device, FIFO or socket");
    }
    for mode in [0o104_755, 0o102_755, 0o106_755] {
        assert_refused(&Built::root().name(b"f").entry(mode).element(PAYLOAD, b"x").leave().bytes, any, "set-uid");
    }
}

#[test]
fn sizes_are_checked_before_anything_is_allocated() {
    let any = Rules { any_name: true, ..Rules::default() };
    let mut huge = Built::root().name(b"f").entry(0o100_644).bytes.clone();
    huge.extend(u64::MAX.to_le_bytes());
    huge.extend(PAYLOAD.to_le_bytes());
    huge.extend(b"little");
    assert_refused(&huge, any, "ends in the middle of an element");
    for (kind, wanted) in [(FILENAME, "a name"), (PASSED_OVER[2], "an attribute"), (GOODBYE, "table of contents")] {
        let mut huge = Built::root().bytes;
        huge.extend((u64::MAX / 2).to_le_bytes());
        huge.extend(kind.to_le_bytes());
        assert_refused(&huge, any, wanted);
    }
    let mut deep = Built::root();
    for _ in 0..250 {
        deep.folder(b"d");
    }
    assert_refused(&deep.bytes, any, "nested more than 200 deep");
}

#[test]
fn attributes_are_passed_over() {
    let mut built = Built::root();
    for kind in PASSED_OVER {
        built.element(kind, b"user\0");
    }
    built.name(b"f").entry(0o100_600);
    for kind in PASSED_OVER {
        built.element(kind, &[7; 300]);
    }
    built.element(PAYLOAD, b"content").leave();
    assert_eq!(unpacked_within(&built.bytes, Rules::default()).expect("unpacked").size, 7);
}

#[test]
fn a_root_that_is_no_folder_and_trailing_bytes_are_refused() {
    let mut file = Built::default();
    file.entry(0o100_644).element(PAYLOAD, b"x");
    assert!(unpacked_within(&file.bytes, Rules::default()).is_err());
    let mut long = Built::root().leave().bytes.clone();
    long.push(0);
    assert_refused(&long, Rules::default(), "goes on after its end");
}

#[test]
fn every_cut_is_noticed() {
    let mut built = Built::root();
    built.file(b"a", b"123").folder(b"b").link(b"l", b"../a").leave().leave();
    for length in 0..built.bytes.len() {
        assert!(unpacked_within(&built.bytes[..length], Rules::default()).is_err(), "{length}");
    }
}

#[test]
fn times_before_1970_and_far_from_now_survive() {
    let (folder, out) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let path = folder.path().join("f");
    fs::write(&path, "x").expect("written");
    for (set, wanted) in [
        (UNIX_EPOCH - Duration::from_secs(100), UNIX_EPOCH),
        (
            UNIX_EPOCH + Duration::from_nanos(4_000_000_000_123_456_789),
            UNIX_EPOCH + Duration::from_nanos(4_000_000_000_123_456_789),
        ),
    ] {
        File::options().write(true).open(&path).and_then(|file| file.set_modified(set)).expect("set");
        unpack(&encoded(folder.path()), out.path(), Rules { overwrite: true, ..Rules::default() }).expect("unpacked");
        let found: SystemTime =
            fs::metadata(out.path().join("f")).and_then(|metadata| metadata.modified()).expect("there");
        assert_eq!(found, wanted);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(unpacked_within(&bytes, Rules::default()).is_err());
    }

    /// A changed byte is noticed, or is one of a mode, an owner, a time, a flag, or a file's content.
    #[test]
    fn damage_never_panics_nor_writes_outside(at: prop::sample::Index, byte: u8) {
        let mut built = Built::root();
        built.file(b"a", b"123").folder(b"b").link(b"l", b"../a").file(b"m", b"456").leave().leave();
        let at = at.index(built.bytes.len());
        built.bytes[at] = byte;
        let _ = unpacked_within(&built.bytes, Rules { any_name: true, ..Rules::default() });
    }

    #[test]
    fn any_tree_comes_back(
        files in prop::collection::btree_map("[a-z]{1,3}(/[a-z]{4,6}){0,3}", prop::collection::vec(any::<u8>(), 0..400), 0..12)
    ) {
        let (folder, out) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        for (name, content) in &files {
            let path = folder.path().join(name);
            // Where one name is a file and another a folder the second is left out.
            if fs::create_dir_all(path.parent().expect("below")).is_ok() && !path.is_dir() {
                fs::write(path, content).expect("written");
            }
        }
        let archive = encoded(folder.path());
        unpack(&archive, out.path(), Rules { any_name: true, ..Rules::default() }).expect("unpacked");
        prop_assert_eq!(tree(out.path()), tree(folder.path()));
        prop_assert_eq!(encoded(out.path()), archive);
    }
}
