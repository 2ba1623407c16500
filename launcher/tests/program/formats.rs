//! `vsekai sync` on casync's formats from outside: what it writes, refuses and leaves behind.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic where it stands")]

use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use tempfile::TempDir;

struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    fn run(&self, arguments: &str) -> Output {
        Command::new(env!("CARGO_BIN_EXE_vsekai"))
            .args(arguments.split(' '))
            .env_remove("VSEKAI_AUTHORIZATION")
            .current_dir(self.0.path())
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// Runs it with `--json`; it must succeed.
    #[track_caller]
    fn done(&self, arguments: &str) -> Value {
        let output = self.run(&format!("--json {arguments}"));
        assert_eq!(output.status.code(), Some(0), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Runs it; it must fail with this exit code. Returns what it says.
    #[track_caller]
    fn fails(&self, arguments: &str, code: i32) -> String {
        let output = self.run(arguments);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments}: {said}");
        said
    }

    fn names(&self, folder: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(folder)).unwrap();
        let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn chunks(&self, store: &str) -> Vec<PathBuf> {
        let mut files = Vec::new();
        for folder in fs::read_dir(self.path(store)).unwrap() {
            files.extend(fs::read_dir(folder.unwrap().path()).unwrap().map(|file| file.unwrap().path()));
        }
        files.sort();
        files
    }
}

/// Bytes in which nothing repeats.
fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 24) as u8
        })
        .collect()
}

#[test]
fn what_is_made_is_extracted_with_names_that_are_left_out() {
    for options in
        ["", " --chunker buzhash", " --digest sha256", " --chunk_size 1:4:16", " --chunk-size 64b:256b:1024b"]
    {
        let folder = Folder::new();
        let blob = noise(700_001, 1);
        folder.write("game.bin", &blob);
        let made = folder.done(&format!("sync make --blob game.bin{options}"));
        assert_eq!((&made["total_size"], &made["new_size"]), (&700_001.into(), &700_001.into()), "{options}");
        let again = folder.done(&format!("sync make --input game.bin{options}"));
        assert_eq!((&again["new_chunk_count"], &again["chunk_count"]), (&0.into(), &made["chunk_count"]));
        assert_eq!(folder.names("."), ["default.castr", "game.bin", "game.bin.caibx"]);
        assert_eq!(folder.chunks("default.castr").len() as u64, made["new_chunk_count"]);
        fs::remove_file(folder.path("game.bin")).unwrap();
        let extracted = folder.done("sync extract --index game.bin.caibx");
        assert_eq!((&extracted["unchanged"], &extracted["store_size"]), (&false.into(), &700_001.into()));
        assert_eq!(folder.read("game.bin"), blob);
        assert_eq!(folder.done("sync extract --index game.bin.caibx")["unchanged"], true);
        assert_eq!(folder.done("sync verify --index game.bin.caibx --blob game.bin")["whole"], true);
        folder.done("sync verify --index game.bin.caibx");
        assert_eq!(folder.names("."), ["default.castr", "game.bin", "game.bin.caibx"]);
    }
}

#[test]
fn nothing_is_a_blob_too_and_standard_input_needs_a_name() {
    let folder = Folder::new();
    folder.write("empty", b"");
    assert_eq!(folder.done("sync make --blob empty")["chunk_count"], 0);
    folder.done("sync extract --index empty.caibx --output copy");
    assert_eq!(folder.read("copy"), b"");
    assert!(folder.fails("sync make --blob -", 2).contains("say --index"));
    assert_eq!(folder.done("sync make --blob - --index in.caibx --no_store")["total_size"], 0);
}

#[test]
fn what_is_there_is_used_before_seeds_and_seeds_before_stores() {
    let folder = Folder::new();
    let (first, second) = (noise(400_000, 2), noise(400_000, 3));
    folder.write("v1", &[&first[..], &second].concat());
    folder.write("v2", &[&first[..], b"inserted", &second, &noise(300_000, 4)].concat());
    folder.done("sync make --blob v1");
    folder.done("sync make --blob v2");
    for seed in ["v1", "v1.caibx"] {
        let report = folder.done(&format!("sync extract --index v2.caibx --seed {seed} --output out"));
        assert!(report["seed_size"].as_u64().unwrap() > 600_000, "{report}");
        assert!(report["store_size"].as_u64().unwrap() < 700_000, "{report}");
        assert_eq!(folder.read("out"), folder.read("v2"));
        fs::remove_file(folder.path("out")).unwrap();
    }
    // A seed without an index is cut first; one whose index lies is not believed.
    fs::rename(folder.path("v1.caibx"), folder.path("kept")).unwrap();
    let report = folder.done("sync extract --index v2.caibx --seed v1 --output out");
    assert!(report["seed_size"].as_u64().unwrap() > 600_000, "{report}");
    fs::remove_file(folder.path("out")).unwrap();
    fs::rename(folder.path("kept"), folder.path("v1.caibx")).unwrap();
    folder.write("v1", &noise(800_000, 5));
    let report = folder.done("sync extract --index v2.caibx --seed v1 --output out");
    assert_eq!((&report["seed_size"], folder.read("out")), (&0.into(), folder.read("v2")));
    // A file that is nearly right keeps what is right.
    let mut nearly = folder.read("out");
    nearly[500_000] ^= 1;
    folder.write("out", &nearly);
    let report = folder.done("sync extract --index v2.caibx --output out");
    assert!(report["kept_size"].as_u64().unwrap() > 800_000, "{report}");
    assert_eq!(folder.read("out"), folder.read("v2"));
}

#[test]
fn damage_is_found_named_and_repaired_and_nothing_is_left_behind() {
    let folder = Folder::new();
    let blob = noise(1_000_000, 6);
    folder.write("blob", &blob);
    folder.done("sync make --blob blob");
    let file = folder.chunks("default.castr").pop().unwrap();
    let id = file.file_stem().unwrap().to_str().unwrap().to_owned();
    let mut bytes = fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x40;
    fs::write(&file, &bytes).unwrap();
    let said = folder.fails("sync extract --index blob.caibx --output out", 4);
    assert!(said.contains(&id) && said.starts_with("vsekai: out was not extracted"), "{said}");
    assert_eq!(folder.names("."), ["blob", "blob.caibx", "default.castr"]);
    assert!(folder.fails("sync verify --store default.castr", 4).contains("1 damaged"));
    assert!(folder.fails("sync verify --index blob.caibx", 4).contains("1 damaged"));
    let output = folder.run("--json sync verify --store default.castr --repair");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["removed_count"], &report["damaged"][0]["id"]), (&1.into(), &id.as_str().into()));
    assert_eq!(output.status.code(), Some(4));
    folder.done("sync verify --store default.castr");
    assert!(folder.fails("sync verify --index blob.caibx", 4).contains("1 missing"));
    assert_eq!(folder.done("sync make --blob blob")["new_chunk_count"], 1);
    folder.done("sync verify --index blob.caibx");
}

#[test]
fn pruning_keeps_what_lives_and_refuses_to_guess() {
    let folder = Folder::new();
    folder.write("a", &noise(500_000, 7));
    folder.write("b", &noise(500_000, 8));
    folder.done("sync make --blob a --store s");
    let kept = folder.chunks("s");
    folder.done("sync make --blob b --store s");
    // The usual grace time keeps all that is young.
    fs::rename(folder.path("b.caibx"), folder.path("gone")).unwrap();
    let young = folder.done("sync prune --store s");
    assert_eq!((&young["removed_count"], &young["kept_count"]), (&0.into(), &kept.len().into()));
    assert!(young["young_count"].as_u64().unwrap() > 0);
    let dry = folder.done("sync prune --store s --index a.caibx --grace 0 --dry-run");
    assert!(dry["removed_count"].as_u64().unwrap() > 0 && folder.chunks("s").len() > kept.len());
    folder.write(
        &format!("s/{}/.tmp-cacnk-1-1", kept[0].parent().unwrap().file_name().unwrap().to_str().unwrap()),
        b"left",
    );
    folder.done("sync prune --store s --grace 0s");
    assert_eq!(folder.chunks("s"), kept);
    // A damaged index keeps everything; no index at all is no wish to remove everything.
    folder.write("bad.caibx", b"no index");
    folder.fails("sync prune --store s --grace 0", 4);
    fs::remove_file(folder.path("bad.caibx")).unwrap();
    fs::rename(folder.path("a.caibx"), folder.path("also gone")).unwrap();
    assert!(folder.fails("sync prune --store s --grace 0", 2).contains("--everything"));
    assert_eq!(folder.chunks("s"), kept);
    folder.done("sync prune --store s --grace 0 --everything");
    assert!(folder.chunks("s").is_empty());
}

#[test]
fn a_folder_goes_through_an_archive_and_through_an_index() {
    let folder = Folder::new();
    for name in ["build/game.pck", "build/data/a", "build/data/b", "build/deep/er/c"] {
        folder.write(name, &noise(100_000, name.len() as u64));
    }
    std::os::unix::fs::symlink("data/a", folder.path("build/link")).unwrap();
    folder.done("sync tar --source build --catar build.catar");
    folder.done("sync tar --source build --index build.caidx --store s");
    folder.done("sync make --blob build --index made.caidx --store s");
    assert_eq!(folder.read("made.caidx"), folder.read("build.caidx"));
    folder.done("sync untar --catar build.catar --destination one");
    let two = folder.done("sync untar --index build.caidx --store s --destination two");
    assert_eq!((&two["file_count"], &two["link_count"], &two["size"]), (&4.into(), &1.into(), &400_000.into()));
    for name in ["game.pck", "data/a", "data/b", "deep/er/c", "link"] {
        for root in ["one", "two"] {
            assert_eq!(folder.read(&format!("{root}/{name}")), folder.read(&format!("build/{name}")));
        }
    }
    assert!(folder.fails("sync untar --catar build.catar --destination one", 5).contains("is not empty"));
    folder.done("sync untar --catar build.catar --destination one --overwrite");
    // Cut off in the middle: nothing appears.
    let archive = folder.read("build.catar");
    folder.write("cut.catar", &archive[..archive.len() / 2]);
    let before = folder.names(".");
    assert!(folder.fails("sync untar --catar cut.catar", 4).contains("ends in the middle"));
    assert_eq!(folder.names("."), before);
    // The archive of the folder that it lies in does not hold itself.
    let inside = folder.done("sync tar --source build --catar build/own.catar");
    assert_eq!(inside["file_count"], 4);
}

#[test]
fn wrong_command_lines_are_usage_errors_and_missing_files_are_not() {
    let folder = Folder::new();
    folder.write("blob", b"x");
    for arguments in [
        "sync make --blob blob --chunk_size 1:2",
        "sync make --blob blob --chunk_size 64:16:256",
        "sync make --blob blob --chunk_size 1b:2b:3b",
        "sync make --blob blob --chunker rabin",
        "sync verify",
        "sync tar",
        "sync untar",
        "sync prune",
        "sync prune --store . --grace soon",
        "sync verify --store http://127.0.0.1:1/",
        "sync untar --catar no-ending",
    ] {
        folder.fails(arguments, 2);
    }
    for arguments in [
        "sync make --blob missing",
        "sync extract --index missing.caibx",
        "sync verify --store missing",
        "sync untar --catar a.catar",
    ] {
        folder.fails(arguments, 3);
    }
    assert_eq!(folder.names("."), ["blob"]);
}

/// A server of ours, ended when dropped.
struct Server {
    child: Child,
    url: String,
}

impl Server {
    fn start(folder: &Folder, options: &str, authorization: Option<&str>) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vsekai"));
        command
            .args(format!("--json sync serve --listen 127.0.0.1:0 {options}").split(' '))
            .current_dir(folder.0.path());
        match authorization {
            Some(value) => command.env("VSEKAI_AUTHORIZATION", value),
            None => command.env_remove("VSEKAI_AUTHORIZATION"),
        };
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let listening: Value = serde_json::from_str(&line).unwrap();
        Self { child, url: listening["listening"].as_str().unwrap().to_owned() }
    }

    fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> (u16, ureq::http::HeaderMap, Vec<u8>) {
        let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
        let mut request = ureq::http::Request::builder().method(method).uri(format!("{}{path}", self.url));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut response = agent.run(request.body(body).unwrap()).unwrap();
        let bytes = response.body_mut().read_to_vec().unwrap();
        (response.status().as_u16(), response.headers().clone(), bytes)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn address(chunk: &Path) -> String {
    let name = chunk.file_name().unwrap().to_str().unwrap();
    format!("/{}/{name}", &name[..4])
}

#[test]
fn the_server_answers_as_the_protocol_says() {
    let folder = Folder::new();
    folder.write("blob", &noise(300_000, 9));
    folder.done("sync make --blob blob --store s");
    let chunk = folder.chunks("s").pop().unwrap();
    let (path, bytes) = (address(&chunk), fs::read(&chunk).unwrap());
    let server = Server::start(&folder, "--store s --index_dir .", None);
    let (status, headers, body) = server.request("GET", &path, &[], b"");
    assert_eq!((status, &body), (200, &bytes));
    assert_eq!(headers["cache-control"], "public, max-age=31536000, immutable");
    let tag = headers["etag"].to_str().unwrap();
    assert_eq!(server.request("GET", &path, &[("if-none-match", tag)], b"").0, 304);
    let (status, headers, body) = server.request("HEAD", &path, &[], b"");
    assert_eq!(
        (status, body.len(), headers["content-length"].to_str().unwrap()),
        (200, 0, bytes.len().to_string().as_str())
    );
    let missing = format!("/0000/{}.cacnk", "0".repeat(64));
    for path in
        [&missing, "/nothing.caibx", "/blob", "/a/b/c", "/..%2fblob.caibx", "/.caibx", &path.replace(".cacnk", "")]
    {
        assert_eq!(server.request("GET", path, &[], b"").0, 404, "{path}");
    }
    let (status, headers, body) = server.request("GET", "/blob.caibx", &[], b"");
    assert_eq!((status, body), (200, folder.read("blob.caibx")));
    assert_eq!(headers["cache-control"], "no-cache");
    for path in [path.as_str(), "/blob.caibx"] {
        assert_eq!(server.request("PUT", path, &[], b"little").0, 400, "uploads are off");
        for method in ["POST", "DELETE", "PATCH"] {
            assert_eq!(server.request(method, path, &[], b"").0, 405, "{method}");
        }
    }
}

#[test]
fn uploads_are_checked_and_need_the_key() {
    let folder = Folder::new();
    folder.write("blob", &noise(300_000, 10));
    folder.done("sync make --blob blob --store s");
    fs::create_dir(folder.path("indexes")).unwrap();
    let server = Server::start(&folder, "--store up --index_dir indexes --writable", Some("Bearer key"));
    let chunks = folder.chunks("s");
    let (path, bytes) = (address(&chunks[0]), fs::read(&chunks[0]).unwrap());
    let key = [("authorization", "Bearer key")];
    for wrong in [&[][..], &[("authorization", "Bearer other")], &[("authorization", "Bearer key ")]] {
        // Blanks around a header's value are not part of it. A refusal does not wait for the upload.
        let trimmed = wrong.first().is_some_and(|(_, value)| value.trim() == "Bearer key");
        let (status, ..) = server.request("PUT", &path, wrong, if trimmed { &bytes[..] } else { &b"little"[..] });
        assert_eq!(status, if trimmed { 200 } else { 401 }, "{wrong:?}");
    }
    let mut damaged = bytes.clone();
    damaged[bytes.len() / 2] ^= 1;
    assert_eq!(server.request("PUT", &address(&chunks[1]), &key, &bytes).0, 400, "another chunk's bytes");
    assert_eq!(server.request("PUT", &address(&chunks[1]), &key, &damaged).0, 400);
    assert_eq!(server.request("PUT", &address(&chunks[1]), &key, b"").0, 400);
    assert_eq!(server.request("PUT", "/blob.caibx", &key, b"no index").0, 400);
    assert_eq!(server.request("PUT", "/blob.txt", &key, b"no index").0, 404);
    assert_eq!(folder.chunks("up").len(), 1);
    assert!(folder.names("indexes").is_empty());

    // The whole way by our own client.
    let url = &server.url;
    let key = "--authorization=Bearer:key";
    assert_eq!(
        folder.run(&format!("sync make --blob blob --index {url}/b.caibx --store {url}")).status.code(),
        Some(8)
    );
    assert_eq!(
        folder.run(&format!("sync make --blob blob --index {url}/b.caibx --store {url} {key}")).status.code(),
        Some(8)
    );
    let with_key = |arguments: String| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vsekai"));
        command.args(arguments.split(' ')).env("VSEKAI_AUTHORIZATION", "Bearer key").current_dir(folder.0.path());
        let output = command.stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    with_key(format!("sync make --blob blob --index {url}/b.caibx --store {url}"));
    with_key(format!("sync extract --index {url}/b.caibx --store {url} --output out"));
    with_key(format!("sync verify --index {url}/b.caibx --store {url}"));
    assert_eq!(folder.read("out"), folder.read("blob"));
    assert_eq!(folder.read("indexes/b.caibx"), folder.read("blob.caibx"));
}

#[test]
fn a_server_that_is_not_there_is_a_network_failure() {
    let folder = Folder::new();
    folder.write("blob", b"some bytes");
    folder.done("sync make --blob blob --store s");
    // A port that was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let said =
        folder.fails(&format!("sync extract --index blob.caibx --store http://127.0.0.1:{port} --output out"), 6);
    assert!(said.contains("4 attempts"), "{said}");
}
