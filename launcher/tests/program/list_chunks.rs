//! The `vsekai` binary from outside: what it prints, where, and with which exit code.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic where it stands")]

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

/// An index of `count` chunks of 1,000,000 bytes, the id of each its number; sizes 1/2/3 MB, SHA-256.
fn index(count: u64) -> Vec<u8> {
    let mut words = vec![48, 0x9682_4d9c_7b12_9ff9, 0x9000_0000_0000_0000, 1_000_000, 2_000_000, 3_000_000];
    words.extend([u64::MAX, 0xe75b_9e11_2f17_417d]);
    for number in 0..count {
        words.extend([(number + 1) * 1_000_000, number, 0, 0, 0xff << 56]);
    }
    words.extend([0, 0, 48, 16 + 40 * count + 40, 0x4b4f_050e_5549_ecd1]);
    words.into_iter().flat_map(u64::to_le_bytes).collect()
}

struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    }
}

fn vsekai(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vsekai")).args(arguments).output().unwrap()
}

fn list(file: &Path, more: &[&str]) -> Output {
    vsekai(&[&["sync", "list-chunks", "--index", file.to_str().unwrap()], more].concat())
}

/// Asserts a failure that prints nothing but one line on stderr, and returns the line.
#[track_caller]
fn failure(output: Output, code: i32) -> String {
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(code), 0), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    stderr.trim_end().to_owned()
}

#[test]
fn the_table_is_for_people() {
    let files = Files::new();
    let file = files.write("game.caibx", &index(2));
    let output = list(&file, &[]);
    assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0));
    let expected = format!(
        "\
index       {}
digest      SHA-256
flags       0x9000000000000000
chunk size  1000000 min, 2000000 avg, 3000000 max (bytes)
chunks      2
total size  2000000 bytes

 offset       size  id
      0    1000000  00000000000000000000000000000000000000000000000000000000000000ff
1000000    1000000  01000000000000000000000000000000000000000000000000000000000000ff
",
        file.display()
    );
    assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
}

#[test]
fn json_is_one_object() {
    let files = Files::new();
    let file = files.write("game.caibx", &index(2));
    let output = list(&file, &["--json"]);
    assert_eq!(output.status.code(), Some(0));
    let value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        value,
        serde_json::json!({
            "index": file.to_str().unwrap(),
            "digest": "SHA-256",
            "flags": "0x9000000000000000",
            "chunk_size_min": 1_000_000,
            "chunk_size_avg": 2_000_000,
            "chunk_size_max": 3_000_000,
            "chunk_count": 2,
            "total_size": 2_000_000,
            "chunks": [
                {"offset": 0, "size": 1_000_000, "id": format!("00{}ff", "0".repeat(60))},
                {"offset": 1_000_000, "size": 1_000_000, "id": format!("01{}ff", "0".repeat(60))},
            ],
        })
    );
}

#[test]
fn an_index_of_nothing_lists_nothing() {
    let files = Files::new();
    let file = files.write("empty.caibx", &index(0));
    let output = list(&file, &["--json"]);
    let value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&value["chunks"], &value["total_size"]), (&serde_json::json!([]), &serde_json::json!(0)));
    assert_eq!(String::from_utf8(list(&file, &[]).stdout).unwrap().lines().count(), 8);
}

#[test]
fn a_bad_index_is_refused_before_anything_is_listed() {
    let files = Files::new();
    let mut bytes = index(5000);
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    let file = files.write("bad.caibx", &bytes);
    for more in [&[][..], &["--json"]] {
        let line = failure(list(&file, more), 4);
        let expected = format!(
            "vsekai: {}: byte {}: mark of the tail is 0x4a4f050e5549ecd1, must be 0x4b4f050e5549ecd1",
            file.display(),
            bytes.len() - 8
        );
        assert_eq!(line, expected);
    }
}

#[test]
fn a_name_with_a_line_break_still_makes_one_line() {
    let files = Files::new();
    let file = files.write("two\nlines", b"not an index");
    let line = failure(list(&file, &[]), 4);
    assert!(line.ends_with("two\\nlines: byte 12: the file ends here, too short for an index: it has 12 bytes, the shortest index has 104"), "{line}");
}

#[test]
fn what_cannot_be_read_has_its_own_code() {
    let files = Files::new();
    let line = failure(list(&files.0.path().join("missing"), &[]), 3);
    assert!(line.ends_with("missing: cannot be read: No such file or directory (os error 2)"), "{line}");
    let line = failure(list(files.0.path(), &[]), 3);
    assert!(line.ends_with(": cannot be read: not a regular file"), "{line}");
}

#[test]
fn a_full_disk_is_told_and_a_closed_pipe_is_not_a_failure() {
    let files = Files::new();
    let file = files.write("game.caibx", &index(5000));
    let command = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vsekai"));
        command.args(["sync", "list-chunks", "--index"]).arg(&file).stderr(Stdio::piped());
        command
    };
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let line = failure(command().stdout(full).output().unwrap(), 5);
    assert_eq!(line, "vsekai: the result cannot be written: No space left on device (os error 28)");

    let mut listing = command().stdout(Stdio::piped()).spawn().unwrap();
    let mut first = [0; 5];
    let mut stdout = listing.stdout.take().unwrap();
    stdout.read_exact(&mut first).unwrap();
    drop(stdout);
    let output = listing.wait_with_output().unwrap();
    assert_eq!((&first, output.status.code(), output.stderr.len()), (b"index", Some(0), 0));
}

#[test]
fn memory_does_not_grow_with_the_index() {
    let files = Files::new();
    // 40 MB of index, listed with 32 MB of address space for everything.
    let file = files.write("big.caibx", &index(1_000_000));
    let script = "ulimit -v 32768; exec \"$0\" sync list-chunks --json --index \"$1\"";
    let listing = files.0.path().join("listing");
    let output = Command::new("sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_vsekai")])
        .arg(&file)
        .stdout(fs::File::create(&listing).unwrap())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(fs::read_to_string(&listing).unwrap().matches("\"offset\"").count(), 1_000_000);
}

#[test]
fn help_and_version_read_well_and_the_unknown_is_refused() {
    let text = |arguments: &[&str]| {
        let output = vsekai(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(text(&["--version"]), format!("vsekai {}\n", env!("CARGO_PKG_VERSION")));
    assert!(text(&["--help"]).contains("4  a file is not what it should be"));
    assert!(text(&["sync", "--help"]).contains("list-chunks"));
    assert!(text(&["sync", "list-chunks", "--help"]).contains("--index <FILE>"));
    for arguments in [
        &[][..],
        &["sync"],
        &["sync", "list-chunks"],
        &["sync", "list-chunks", "--index"],
        &["sync", "list-chunks", "--index", "a", "b"],
        &["sync", "list-chunks", "--index", "a", "--store", "b"],
        &["sync", "make"],
        &["system"],
        &["system", "upgrade"],
    ] {
        let output = vsekai(arguments);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{arguments:?}");
    }
}

#[test]
fn shells_and_man_are_told_of_every_command() {
    let script = vsekai(&["completions", "bash"]);
    let script = String::from_utf8(script.stdout).unwrap();
    for word in ["list-chunks", "rollback", "--client_id", "check-status"] {
        assert!(script.contains(word), "{word}");
    }
    assert_eq!(vsekai(&["completions", "tcl"]).status.code(), Some(2));
    let folder = tempfile::tempdir().unwrap();
    let told = vsekai(&["--json", "man", "--output", folder.path().join("man1").to_str().unwrap()]);
    let told: serde_json::Value = serde_json::from_slice(&told.stdout).unwrap();
    let page = fs::read_to_string(folder.path().join("man1/vsekai-system-update.1")).unwrap();
    assert!(page.starts_with(".ie") || page.starts_with(".TH"), "{page}");
    assert!(page.contains("limit_rate"), "{page}");
    assert!(told["pages"].as_u64().unwrap() > 50, "{told}");
}
