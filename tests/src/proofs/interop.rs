//! Files and trees pass between our program and the real casync and desync, every way there is, and come out byte for byte.
//!
//! casync is Debian 12's, desync that of Debian's unstable suite; both are unpacked beside the system when they are not there yet
//! (`debian.rs`). A tool that cannot be had fails the proof by its name.

use crate::debian::{self, Unpacked};
use crate::harness::{Killed, wait_for};
use anyhow::{Context, Result, bail, ensure};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};
use vsekai_bench::process::program;

const DEADLINE: Duration = Duration::from_secs(60);

/// All exchanges; short: a tree of 6 MB instead of one of 120 MB.
pub fn run(short: bool) -> Result<String> {
    let began = Instant::now();
    let seed = super::seed(0xca5_17c);
    let tools = Tools {
        vsekai: program("vsekai")?,
        casync: debian::unpacked("bookworm", &["casync"]).and_then(|casync| named(&casync, "casync"))?,
        desync: debian::unpacked("sid", &["desync"]).and_then(|desync| named(&desync, "desync"))?,
    };
    let bench = Bench::new(tools, seed, if short { 6 } else { 120 }).with_context(|| format!("VSEKAI_SEED={seed}"))?;
    let steps: [(&str, fn(&Bench) -> Result<u32>); 8] = [
        ("indexes are identical", identical),
        ("their indexes and stores, by us", theirs_by_us),
        ("ours, by them", ours_by_them),
        ("their archives, by us", their_archives_by_us),
        ("our archives, by them", our_archives_by_them),
        ("a mounted index", mounted),
        ("our server, their client", our_server),
        ("their server, our client", their_server),
    ];
    let mut exchanges = 0;
    for (what, step) in steps {
        let done = step(&bench).with_context(|| format!("{what} (VSEKAI_SEED={seed})"))?;
        println!("{what}: {done}");
        exchanges += done;
    }
    Ok(format!(
        "{exchanges} exchanges with casync 2 and desync ({}), blob {} bytes, tree {} entries, all byte-identical; {:.0} s",
        bench.desync_version,
        bench.blob_size,
        bench.tree.len(),
        began.elapsed().as_secs_f64()
    ))
}

fn named(unpacked: &Unpacked, name: &str) -> Result<(PathBuf, String)> {
    Ok((unpacked.program(name)?, unpacked.version.clone()))
}

struct Tools {
    vsekai: PathBuf,
    casync: (PathBuf, String),
    desync: (PathBuf, String),
}

/// A folder with a blob, a second version of it, a tree; and the tools.
struct Bench {
    folder: tempfile::TempDir,
    vsekai: PathBuf,
    casync: PathBuf,
    desync: PathBuf,
    desync_version: String,
    blob_size: u64,
    tree: Tree,
}

/// Path → mode, time in ns, content or target.
type Tree = BTreeMap<PathBuf, (u32, i128, Vec<u8>)>;

fn tree(folder: &Path) -> Result<Tree> {
    let mut tree = Tree::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next)? {
            let path = entry?.path();
            let metadata = fs::symlink_metadata(&path)?;
            let content = if metadata.is_dir() {
                folders.push(path.clone());
                Vec::new()
            } else if metadata.is_symlink() {
                fs::read_link(&path)?.into_os_string().into_encoded_bytes()
            } else {
                fs::read(&path)?
            };
            let time = i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec());
            tree.insert(path.strip_prefix(folder)?.to_owned(), (metadata.mode(), time, content));
        }
    }
    Ok(tree)
}

/// Bytes like a game's: a third of it random, the rest words that repeat.
fn content(random: &mut ChaCha8Rng, size: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(size + 4_096);
    while bytes.len() < size {
        if random.random_range(0..3) == 0 {
            let mut piece = vec![0; random.random_range(1..4_096)];
            random.fill_bytes(&mut piece);
            bytes.extend(piece);
        } else {
            let word = random.random::<u64>().to_le_bytes();
            bytes.extend(word.repeat(random.random_range(1..512)));
        }
    }
    bytes.truncate(size);
    bytes
}

impl Bench {
    fn new(tools: Tools, seed: u64, megabytes: usize) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let blob = content(&mut random, megabytes << 20);
        fs::write(folder.path().join("blob"), &blob)?;
        // The next version: something inserted, changed and left out.
        let (third, two) = (blob.len() / 3, blob.len() / 3 * 2);
        let inserted = content(&mut random, 100_001);
        let next = [&blob[..third], &inserted, &blob[third..two], &blob[two + 50_000..]].concat();
        fs::write(folder.path().join("next"), next)?;

        let root = folder.path().join("tree");
        fs::create_dir(&root)?;
        let mut left = megabytes << 20;
        for number in 0.. {
            let inner = root.join(format!("part {}/level{}", number % 7, number % 3));
            fs::create_dir_all(&inner)?;
            let size = [0, 1, 100, 70_000, 500_000][number % 5] + random.random_range(0..2_000);
            let size = if number == 3 { 0 } else { size };
            let path = inner.join(format!("file-{number:04}.pak"));
            fs::write(&path, content(&mut random, size))?;
            fs::set_permissions(&path, fs::Permissions::from_mode(if number % 4 == 0 { 0o755 } else { 0o640 }))?;
            if left < size {
                break;
            }
            left -= size;
        }
        fs::create_dir(root.join("empty"))?;
        fs::write(root.join("ünïcode name"), "x")?;
        symlink("part 0/level0", root.join("link"))?;
        symlink("../file-0000.pak", root.join("part 0/level0/gone"))?;
        let tree = tree(&root)?;
        let bench = Self {
            folder,
            vsekai: tools.vsekai,
            casync: tools.casync.0,
            desync: tools.desync.0,
            desync_version: tools.desync.1,
            blob_size: blob.len() as u64,
            tree,
        };
        for store in ["store-v", "store-c", "store-d"] {
            fs::create_dir(bench.path(store))?;
        }
        Ok(bench)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs a tool in the folder; it must succeed.
    fn run(&self, tool: &Path, arguments: &str) -> Result<Output> {
        let output = self.try_run(tool, arguments)?;
        if !output.status.success() {
            bail!(
                "`{} {arguments}`: {}: {}",
                name(tool),
                output.status,
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(output)
    }

    fn try_run(&self, tool: &Path, arguments: &str) -> Result<Output> {
        Command::new(tool)
            .args(arguments.split(' '))
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("cannot start {}", tool.display()))
    }

    fn same(&self, one: &str, other: &str) -> Result<()> {
        ensure!(fs::read(self.path(one))? == fs::read(self.path(other))?, "{one} and {other} differ");
        Ok(())
    }

    fn same_tree(&self, folder: &str) -> Result<()> {
        self.same_tree_as(folder, tree(&self.path(folder))?)
    }

    /// desync leaves the times of links as they come.
    fn same_tree_by_desync(&self, folder: &str) -> Result<()> {
        let mut found = tree(&self.path(folder))?;
        for (path, (_, time, _)) in found.iter_mut().filter(|(_, (mode, ..))| mode & 0o170_000 == 0o120_000) {
            *time = self.tree.get(path).map_or(0, |(_, time, _)| *time);
        }
        self.same_tree_as(folder, found)
    }

    fn same_tree_as(&self, folder: &str, found: Tree) -> Result<()> {
        let mut differences = String::new();
        for path in self.tree.keys().chain(found.keys()) {
            let (wanted, found) = (self.tree.get(path), found.get(path));
            if wanted != found && differences.len() < 500 {
                let brief = |entry: Option<&(u32, i128, Vec<u8>)>| {
                    entry.map(|(mode, time, content)| format!("{mode:o} {time} {} bytes", content.len()))
                };
                let _ = write!(differences, "{}: {:?}, wanted {:?}; ", path.display(), brief(found), brief(wanted));
            }
        }
        ensure!(differences.is_empty(), "{folder} is another tree: {differences}");
        Ok(())
    }

    /// Starts a server and waits until it can be connected to.
    fn serve(&self, tool: &Path, arguments: &str) -> Result<Killed> {
        let child = Command::new(tool)
            .args(arguments.split(' '))
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start {}", tool.display()))?;
        Ok(Killed(child))
    }
}

fn name(tool: &Path) -> &str {
    tool.file_name().and_then(OsStr::to_str).unwrap_or("?")
}

/// Cut by buzhash our index is casync's and desync's, byte for byte, at every size; and our archive is desync's.
fn identical(bench: &Bench) -> Result<u32> {
    let mut count = 0;
    for (min, avg, max) in [(16, 64, 256), (4, 16, 64), (1, 3, 17), (64, 256, 1_024)] {
        let b = format!("{}:{}:{}", min << 10, avg << 10, max << 10);
        bench.run(&bench.casync, &format!("make --chunk-size={b} --store=store-c c{avg}.caibx blob"))?;
        bench.run(&bench.desync, &format!("make -n 1 -m {min}:{avg}:{max} -s store-d d{avg}.caibx blob"))?;
        let ours = format!("sync make --chunker buzhash --chunk_size {min}:{avg}:{max} --store store-v --blob blob");
        bench.run(&bench.vsekai, &format!("{ours} --index v{avg}.caibx"))?;
        bench.same(&format!("v{avg}.caibx"), &format!("c{avg}.caibx")).context("casync's")?;
        count += 1;
        // desync never cuts after exactly the smallest size, where casync does; with small chunks that happens. And its flags
        // of a blob lack one bit that means nothing there.
        if avg >= 64 {
            let entries = |name: String| -> Result<Vec<u8>> { Ok(fs::read(bench.path(&name))?.split_off(24)) };
            let same = entries(format!("v{avg}.caibx"))? == entries(format!("d{avg}.caibx"))?;
            ensure!(same, "desync's chunks at {avg} differ");
            count += 1;
        }
    }
    let digest = "--digest sha256 --no-store --chunker buzhash --blob blob --index v256.caibx";
    bench.run(&bench.vsekai, &format!("sync make {digest}"))?;
    bench.run(&bench.casync, "make --digest=sha256 --store=store-c c256.caibx blob")?;
    bench.same("v256.caibx", "c256.caibx").context("SHA-256")?;
    bench.run(&bench.desync, "tar d.catar tree")?;
    bench.run(&bench.vsekai, "sync tar --catar v.catar --source tree")?;
    bench.same("v.catar", "d.catar").context("archives")?;
    Ok(count + 2)
}

fn theirs_by_us(bench: &Bench) -> Result<u32> {
    for (index, store) in
        [("c64.caibx", "store-c"), ("d64.caibx", "store-d"), ("c3.caibx", "store-c"), ("d16.caibx", "store-d")]
    {
        bench.run(&bench.vsekai, &format!("sync extract --index {index} --store {store} --output out-{index}"))?;
        bench.same(&format!("out-{index}"), "blob")?;
        bench.run(&bench.vsekai, &format!("sync verify --index {index} --blob blob"))?;
        bench.run(&bench.vsekai, &format!("sync verify --index {index} --store {store}"))?;
        bench.run(&bench.vsekai, &format!("sync list-chunks --index {index}"))?;
    }
    for store in ["store-c", "store-d"] {
        bench.run(&bench.vsekai, &format!("sync verify --store {store}"))?;
    }
    // The next version with the old one as a seed: most of it must come from there.
    bench.run(&bench.casync, "make --store=store-c next-c.caibx next")?;
    let arguments =
        "--json sync extract --index next-c.caibx --store store-c --seed blob --chunker buzhash --output out-next";
    let output = bench.run(&bench.vsekai, arguments)?;
    bench.same("out-next", "next")?;
    let report: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let (seeded, total) = (report["seed_size"].as_u64(), report["total_size"].as_u64());
    ensure!(
        seeded.zip(total).is_some_and(|(seeded, total)| seeded * 10 > total * 8),
        "little came from the seed: {report}"
    );
    // Damage is found, and told by the exit code.
    let chunks = bench.run(&bench.vsekai, "--json sync list-chunks --index d64.caibx")?;
    let chunks: serde_json::Value = serde_json::from_slice(&chunks.stdout)?;
    let id = chunks["chunks"][0]["id"].as_str().context("no chunk")?;
    let file = bench.path("store-d").join(&id[..4]).join(format!("{id}.cacnk"));
    let whole = fs::read(&file)?;
    let mut damaged = whole.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    fs::write(&file, damaged)?;
    let output = bench.try_run(&bench.vsekai, "sync verify --store store-d")?;
    ensure!(output.status.code() == Some(4), "a damaged store: {}", output.status);
    ensure!(String::from_utf8_lossy(&output.stdout).contains(id), "the damaged chunk is not named");
    fs::write(&file, whole)?;
    Ok(18)
}

fn ours_by_them(bench: &Bench) -> Result<u32> {
    let mut count = 0;
    for (chunker, name) in [("fastcdc", "f"), ("buzhash", "b")] {
        let make = format!("sync make --chunker {chunker} --store store-v");
        bench.run(&bench.vsekai, &format!("{make} --blob blob --index {name}.caibx"))?;
        bench.run(&bench.vsekai, &format!("{make} --blob next --index {name}-next.caibx"))?;
        bench.run(&bench.desync, &format!("verify-index {name}.caibx blob"))?;
        bench.run(&bench.desync, &format!("extract -s store-v {name}.caibx out-d-{name}"))?;
        bench.run(&bench.casync, &format!("extract --store=store-v {name}.caibx out-c-{name}"))?;
        bench.same(&format!("out-d-{name}"), "blob")?;
        bench.same(&format!("out-c-{name}"), "blob")?;
        // Their seeds are found by the index beside them.
        fs::copy(bench.path("blob"), bench.path(name))?;
        bench.run(&bench.desync, &format!("extract -s store-v --seed {name}.caibx {name}-next.caibx out-ds-{name}"))?;
        bench.run(&bench.casync, &format!("extract --store=store-v --seed=blob {name}-next.caibx out-cs-{name}"))?;
        bench.same(&format!("out-ds-{name}"), "next")?;
        bench.same(&format!("out-cs-{name}"), "next")?;
        count += 5;
    }
    bench.run(&bench.desync, "verify -s store-v")?;
    Ok(count + 1)
}

fn their_archives_by_us(bench: &Bench) -> Result<u32> {
    bench.run(&bench.casync, "make c.catar tree")?;
    bench.run(&bench.casync, "make --store=store-c c.caidx tree")?;
    bench.run(&bench.desync, "tar -i -s store-d d.caidx tree")?;
    for (from, to) in [
        ("--catar c.catar", "t1"),
        ("--catar d.catar", "t2"),
        ("--index c.caidx --store store-c", "t3"),
        ("--index d.caidx --store store-d", "t4"),
    ] {
        bench.run(&bench.vsekai, &format!("sync untar {from} --destination {to}"))?;
        bench.same_tree(to)?;
    }
    Ok(4)
}

fn our_archives_by_them(bench: &Bench) -> Result<u32> {
    for (chunker, name) in [("fastcdc", "tf"), ("buzhash", "tb")] {
        let tar = format!("sync tar --chunker {chunker} --store store-v --source tree");
        bench.run(&bench.vsekai, &format!("{tar} --index {name}.caidx"))?;
        bench.run(&bench.casync, &format!("extract --store=store-v {name}.caidx {name}-c"))?;
        bench.same_tree(&format!("{name}-c"))?;
        fs::create_dir(bench.path(&format!("{name}-d")))?;
        bench.run(&bench.desync, &format!("untar -i -s store-v {name}.caidx {name}-d"))?;
        bench.same_tree_by_desync(&format!("{name}-d"))?;
    }
    bench.run(&bench.casync, "extract v.catar tc")?;
    bench.same_tree("tc")?;
    fs::create_dir(bench.path("td"))?;
    bench.run(&bench.desync, "untar v.catar td")?;
    bench.same_tree_by_desync("td")?;
    Ok(6)
}

fn mounted(bench: &Bench) -> Result<u32> {
    let mountpoint = bench.path("mountpoint");
    fs::create_dir(&mountpoint)?;
    for (index, store, file) in [("c64.caibx", "store-c", "c64"), ("f.caibx", "store-v", "f")] {
        let mut mount = bench.serve(
            &bench.vsekai,
            &format!("sync mount-index --index {index} --store {store} --mountpoint mountpoint"),
        )?;
        let path = mountpoint.join(file);
        wait_for("the mounted file", DEADLINE, || path.exists().then_some(()));
        ensure!(fs::read(&path)? == fs::read(bench.path("blob"))?, "{index}: the mounted file differs");
        let id = rustix::process::Pid::from_child(&mount.0);
        rustix::process::kill_process(id, rustix::process::Signal::TERM)?;
        let status = wait_for("unmounting", DEADLINE, || mount.0.try_wait().ok().flatten());
        ensure!(status.success(), "mount-index ended with {status}");
        ensure!(fs::read_dir(&mountpoint)?.next().is_none(), "it is still mounted");
    }
    Ok(2)
}

fn our_server(bench: &Bench) -> Result<u32> {
    fs::create_dir(bench.path("indexes"))?;
    fs::create_dir(bench.path("store-s"))?;
    let arguments = "--json sync serve --store store-s --index-dir indexes --writable --listen 127.0.0.1:0";
    let mut child = Command::new(&bench.vsekai)
        .args(arguments.split(' '))
        .env("VSEKAI_AUTHORIZATION", "Bearer secret")
        .current_dir(bench.folder.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let output = child.stdout.take().context("no output")?;
    let _server = Killed(child);
    let mut line = String::new();
    BufReader::new(output).read_line(&mut line)?;
    let listening: serde_json::Value = serde_json::from_str(&line).with_context(|| line.clone())?;
    let url = listening["listening"].as_str().context("no address")?.to_owned();

    // desync takes the header from a file of settings only.
    let settings = |name: &str, key: &str| -> Result<()> {
        let options = serde_json::json!({"http-auth": key, "error-retry": 0});
        let stores = [format!("{url}/"), format!("{url}/*")].map(|store| (store, options.clone()));
        let stores: serde_json::Map<_, _> = stores.into_iter().collect();
        Ok(fs::write(bench.path(name), serde_json::json!({"store-options": stores}).to_string())?)
    };
    settings("right.json", "Bearer secret")?;
    settings("wrong.json", "Bearer wrong")?;
    let desync = |arguments: String, settings: &str| -> Result<Output> {
        let output = Command::new(&bench.desync)
            .args(arguments.split(' '))
            .args(["--config", settings])
            .current_dir(bench.folder.path())
            .stdin(Stdio::null())
            .output()?;
        Ok(output)
    };
    let good = |arguments: String| -> Result<()> {
        let output = desync(arguments.clone(), "right.json")?;
        ensure!(output.status.success(), "desync {arguments}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    };
    // Upload, then download, by them.
    good(format!("make -s {url}/ {url}/by-them.caibx blob"))?;
    good(format!("extract -s {url}/ {url}/by-them.caibx out-server"))?;
    bench.same("out-server", "blob")?;
    good(format!("tar -i -s {url}/ {url}/tree.caidx tree"))?;
    fs::create_dir(bench.path("t-server"))?;
    good(format!("untar -i -s {url}/ {url}/tree.caidx t-server"))?;
    bench.same_tree_by_desync("t-server")?;
    let locked_out = desync(format!("extract -s {url}/ {url}/by-them.caibx out-no"), "wrong.json")?;
    ensure!(
        !locked_out.status.success() && String::from_utf8_lossy(&locked_out.stderr).contains("401"),
        "a wrong key opens"
    );
    // And by us, with what they put there.
    let ours = |arguments: String| {
        Command::new(&bench.vsekai)
            .args(arguments.split(' '))
            .env("VSEKAI_AUTHORIZATION", "Bearer secret")
            .current_dir(bench.folder.path())
            .stdin(Stdio::null())
            .output()
    };
    let output = ours(format!("sync extract --index {url}/by-them.caibx --store {url} --output out-server-v"))?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    bench.same("out-server-v", "blob")?;
    let output = ours(format!("sync make --blob next --index {url}/next.caibx --store {url}"))?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    good(format!("extract -s {url}/ {url}/next.caibx out-server-next"))?;
    bench.same("out-server-next", "next")?;
    let refused =
        bench.try_run(&bench.vsekai, &format!("sync extract --index {url}/next.caibx --store {url} --output no"))?;
    ensure!(refused.status.code() == Some(8), "without a key: {}", refused.status);
    Ok(8)
}

fn their_server(bench: &Bench) -> Result<u32> {
    let free = || -> Result<u16> { Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port()) };
    let (chunks, indexes) = (free()?, free()?);
    fs::create_dir(bench.path("store-t"))?;
    fs::create_dir(bench.path("indexes-t"))?;
    let checked = "--skip-verify-read=false --skip-verify-write=false";
    let _chunks = bench.serve(&bench.desync, &format!("chunk-server -w -s store-t {checked} -l 127.0.0.1:{chunks}"))?;
    let _indexes = bench.serve(&bench.desync, &format!("index-server -w -s indexes-t -l 127.0.0.1:{indexes}"))?;
    for port in [chunks, indexes] {
        wait_for("desync's server", DEADLINE, || std::net::TcpStream::connect(("127.0.0.1", port)).ok());
    }
    let (store, index) = (format!("http://127.0.0.1:{chunks}/"), format!("http://127.0.0.1:{indexes}/by-us.caibx"));
    bench.run(&bench.vsekai, &format!("sync make --blob blob --index {index} --store {store}"))?;
    bench.run(&bench.vsekai, &format!("sync extract --index {index} --store {store} --output out-t"))?;
    bench.same("out-t", "blob")?;
    bench.run(&bench.vsekai, &format!("sync verify --index {index} --store {store}"))?;
    bench.run(&bench.vsekai, "sync verify --store store-t")?;
    bench.run(&bench.desync, &format!("extract -s {store} {index} out-t-d"))?;
    bench.same("out-t-d", "blob")?;
    let again = bench.run(&bench.vsekai, &format!("--json sync make --blob blob --index {index} --store {store}"))?;
    let again: serde_json::Value = serde_json::from_slice(&again.stdout)?;
    ensure!(again["new_chunk_count"] == 0, "chunks were uploaded twice: {again}");
    Ok(6)
}
