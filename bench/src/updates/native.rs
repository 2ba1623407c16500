//! Our own formats: publishing, a full installation, an update, nothing to do; over HTTP with 40 ms before each answer, as a server far
//! away has, and with every request and byte counted by that server. desync installs and updates from the same server beside it.

use super::build::Build;
use super::measure::{self, Cost};
use crate::debian;
use crate::process::program;
use anyhow::{Context, Result, ensure};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const MIB: f64 = (1 << 20) as f64;
/// Before each answer.
const DELAY: Duration = Duration::from_millis(40);
/// Who, in the table.
const OURS: &str = "vsekai";

/// What a slow server saw.
#[derive(Debug, Default)]
struct Seen {
    requests: AtomicU64,
    bytes: AtomicU64,
}

impl Seen {
    /// Requests and bytes since the last time.
    fn take(&self) -> (u64, u64) {
        (self.requests.swap(0, Ordering::Relaxed), self.bytes.swap(0, Ordering::Relaxed))
    }
}

/// Serves a folder on a free port of 127.0.0.1 as long as this process lives: GET with ranges, connections kept.
fn serve(folder: PathBuf) -> Result<(String, Arc<Seen>)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = format!("http://{}", listener.local_addr()?);
    let seen = Arc::new(Seen::default());
    let shared = seen.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (folder, seen) = (folder.clone(), shared.clone());
            std::thread::spawn(move || while let Ok(true) = answer(&stream, &folder, &seen) {});
        }
    });
    Ok((address, seen))
}

/// Answers one request. False when the client has gone.
fn answer(stream: &TcpStream, folder: &Path, seen: &Seen) -> Result<bool> {
    stream.set_nodelay(true)?;
    // One byte is buffered: nothing of the next request may be lost.
    let mut reader = BufReader::with_capacity(1, stream);
    let (mut path, mut range) = (String::new(), None);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(false);
        }
        if line == "\r\n" {
            break;
        }
        if let Some(rest) = line.strip_prefix("GET /") {
            path = rest.split(' ').next().unwrap_or_default().to_owned();
        } else if let Some(rest) = line.to_ascii_lowercase().strip_prefix("range: bytes=") {
            range = rest
                .trim()
                .split_once('-')
                .and_then(|(from, to)| Some((from.parse::<u64>().ok()?, to.parse::<u64>().ok())));
        }
    }
    std::thread::sleep(DELAY);
    seen.requests.fetch_add(1, Ordering::Relaxed);
    let mut output = stream;
    let opened = if path.contains("..") {
        None
    } else {
        File::open(folder.join(&path)).ok().filter(|file| file.metadata().is_ok_and(|found| found.is_file()))
    };
    let Some(mut file) = opened else {
        output.write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")?;
        return Ok(true);
    };
    let size = file.metadata()?.len();
    let (from, to) = range.map_or((0, size), |(from, to)| (from.min(size), to.map_or(size, |to| (to + 1).min(size))));
    let status = match range {
        Some(_) => format!("206 Partial Content\r\ncontent-range: bytes {from}-{}/{size}", to.saturating_sub(1)),
        None => "200 OK".into(),
    };
    output.write_all(format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n", to - from).as_bytes())?;
    file.seek(SeekFrom::Start(from))?;
    let sent = std::io::copy(&mut file.take(to - from), &mut output)?;
    seen.bytes.fetch_add(sent, Ordering::Relaxed);
    Ok(true)
}

/// Measures and prints a table. `folder` has the build, and what [`super::compatible::run`] left there.
///
/// # Errors
/// When a tool fails, or its result is not what went in.
pub fn run(folder: &Path, build: &Build) -> Result<()> {
    let vsekai = program("vsekai")?;
    let home = folder.join("home");
    // The launcher's own files go beside the build's.
    let ours = |arguments: &str| -> Result<Cost> {
        let own = format!("VSEKAI_HOME={}", home.display());
        let program = vsekai.to_str().context("the program's name is not Unicode")?;
        let arguments: Vec<&str> = [own.as_str(), program].into_iter().chain(arguments.split(' ')).collect();
        measure::run(Path::new("env"), &arguments, folder)
    };
    println!(
        "\nOver HTTP; the server answers after {} ms. Requests and bytes are those that the server saw.\n",
        DELAY.as_millis()
    );
    println!("| task | tool | CPU-s | s | of desync's | peak MiB | requests | MB |\n|---|---|---|---|---|---|---|---|");
    let line = |what: &str, who: &str, cost: Cost, desync: Option<Cost>, seen: Option<(u64, u64)>| {
        let ratio = desync.map_or(String::new(), |desync| format!("{:.3} ×", cost.seconds / desync.seconds));
        let seen = seen.map_or("| ".into(), |(requests, bytes)| format!("{requests} | {:.1}", bytes as f64 / 1e6));
        println!(
            "| {what} | {who} | {:.2} | {:.2} | {ratio} | {:.0} | {seen} |",
            cost.cpu_seconds,
            cost.seconds,
            cost.peak_bytes as f64 / MIB
        );
        let _ = std::io::stdout().flush();
    };

    let desync = debian::unpacked("sid", &["desync"])?.program("desync")?;
    let (address, seen) = serve(folder.to_owned())?;
    // Where its index says that the seed is.
    fs::rename(folder.join("f1"), folder.join("d1"))?;
    let theirs = |index: &str, seed: &str| {
        let arguments = format!("extract -n 10 -s {address}/store-d {seed} {address}/{index} out");
        let cost = measure::run(&desync, &arguments.split_whitespace().collect::<Vec<_>>(), folder);
        fs::remove_file(folder.join("out"))?;
        cost
    };
    let their_installation = theirs("d1.caibx", "")?;
    line("full installation of v1", "desync", their_installation, None, Some(seen.take()));
    let their_update = theirs("d2.caibx", "--seed d1.caibx")?;
    line("v1 → v2", "desync", their_update, None, Some(seen.take()));

    let pack = |version: &str| {
        ours(&format!(
            "version pack --source v{version} --repository repository --client_id game --version {version} --channel stable"
        ))
    };
    line("publish v1", OURS, pack("1")?, None, None);
    ours("keys generate --keys keys --repository repository")?;
    ours("version sign --repository repository --keys keys")?;
    let (address, seen) = serve(folder.join("repository"))?;
    let root = fs::read_dir(folder.join("repository/metadata"))?
        .flatten()
        .map(|item| item.path())
        .find(|path| path.to_string_lossy().ends_with("1.root.json"))
        .context("the repository has no root")?;
    ours(&format!(
        "profile add --profile_name game --repository {address} --client_id game --root_file {} --root installed",
        root.display()
    ))?;
    seen.take();
    let cost = ours("system update")?;
    line("full installation of v1", OURS, cost, Some(their_installation), Some(seen.take()));
    same(&build.v1, &folder.join("installed/current"))?;
    line("publish v2, with the delta from v1", OURS, pack("2")?, None, None);
    ours("version sign --repository repository --keys keys")?;
    line("check", OURS, ours("system check")?, None, Some(seen.take()));
    let cost = ours("system update")?;
    line("v1 → v2", OURS, cost, Some(their_update), Some(seen.take()));
    same(&build.v2, &folder.join("installed/current"))?;
    line("nothing to do", OURS, ours("system update")?, None, Some(seen.take()));
    line("verify", OURS, ours("system verify")?, None, Some(seen.take()));
    line("rollback", OURS, ours("system rollback")?, None, Some(seen.take()));
    same(&build.v1, &folder.join("installed/current"))
}

/// Whether every file of one folder is in the other, with the same bytes.
fn same(one: &Path, other: &Path) -> Result<()> {
    for item in fs::read_dir(one)? {
        let item = item?;
        let beside = other.join(item.file_name());
        if item.file_type()?.is_dir() {
            same(&item.path(), &beside)?;
            continue;
        }
        let mut files = [File::open(item.path())?, File::open(&beside).with_context(|| beside.display().to_string())?];
        let mut pieces = [vec![], vec![]];
        loop {
            for (file, piece) in files.iter_mut().zip(&mut pieces) {
                piece.clear();
                file.take(1 << 20).read_to_end(piece)?;
            }
            ensure!(pieces[0] == pieces[1], "{} is not what was published", beside.display());
            if pieces[0].is_empty() {
                break;
            }
        }
    }
    Ok(())
}
