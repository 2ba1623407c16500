//! The formats that casync, desync and we share: make, extract, update with a seed, verify, read through FUSE.

use super::measure::{self, Cost};
use crate::debian;
use crate::process::program;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::io::{Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const MIB: f64 = (1 << 20) as f64;
/// How long a mount may take to appear.
const MOUNT_TIMEOUT: Duration = Duration::from_secs(30);
/// What is compared with a goal runs so often, in turn with desync, and the cheapest run counts: others on the machine only ever add.
const RUNS: usize = 5;

struct Tools {
    vsekai: PathBuf,
    casync: PathBuf,
    desync: PathBuf,
    folder: PathBuf,
}

impl Tools {
    fn run(&self, tool: &Path, arguments: &str) -> Result<Cost> {
        measure::run(tool, &arguments.split(' ').collect::<Vec<_>>(), &self.folder)
    }

    fn same(&self, one: &str, other: &str) -> Result<()> {
        let mut files = [fs::File::open(self.folder.join(one))?, fs::File::open(self.folder.join(other))?];
        let mut pieces = [vec![0; 1 << 20], vec![0; 1 << 20]];
        loop {
            let mut counts = [0; 2];
            for ((file, piece), count) in files.iter_mut().zip(&mut pieces).zip(&mut counts) {
                while *count < piece.len() {
                    match file.read(&mut piece[*count..])? {
                        0 => break,
                        more => *count += more,
                    }
                }
            }
            ensure!(
                counts[0] == counts[1] && pieces[0][..counts[0]] == pieces[1][..counts[1]],
                "{one} and {other} differ"
            );
            if counts[0] == 0 {
                return Ok(());
            }
        }
    }

    /// The cheapest runs of desync and ours: arguments, and what is to be away (a folder that is to be empty ends in `/`) before each.
    fn cheapest(&self, theirs: (&str, &str), ours: (&str, &str)) -> Result<(Cost, Cost)> {
        let mut costs: [Option<Cost>; 2] = [None; 2];
        for _ in 0..RUNS {
            for ((tool, (arguments, made)), least) in
                [(&self.desync, theirs), (&self.vsekai, ours)].into_iter().zip(&mut costs)
            {
                let folder = made.trim_end_matches('/');
                if self.folder.join(folder).exists() {
                    self.remove(folder)?;
                }
                if folder != made {
                    fs::create_dir(self.folder.join(folder))?;
                }
                let cost = self.run(tool, arguments)?;
                *least = Some(least.filter(|least| least.cpu_seconds <= cost.cpu_seconds).unwrap_or(cost));
            }
        }
        costs[0].zip(costs[1]).context("nothing was run")
    }

    fn remove(&self, name: &str) -> Result<()> {
        let path = self.folder.join(name);
        if path.is_dir() {
            fs::remove_dir_all(path)?
        } else {
            fs::remove_file(path)?
        }
        Ok(())
    }
}

/// One line of the table: what was done, by whom, at which cost.
fn line(what: &str, who: &str, cost: Cost, desync: Option<Cost>, extra: &str) {
    let ratio =
        desync.map_or(String::new(), |desync| format!("{:.2} ×", cost.cpu_seconds / desync.cpu_seconds.max(0.01)));
    println!(
        "| {what} | {who} | {:.2} | {ratio} | {:.1} | {:.0} | {extra} |",
        cost.cpu_seconds,
        cost.seconds,
        cost.peak_bytes as f64 / MIB
    );
    let _ = std::io::stdout().flush();
}

/// Measures and prints a table.
///
/// # Errors
/// When a tool is missing or fails, or its result is not what went in.
pub fn run(folder: &Path) -> Result<()> {
    let desync = debian::unpacked("sid", &["desync", "fuse3"])?;
    // desync mounts through this one.
    let fusermount = desync.program("fusermount3");
    let tools = Tools {
        vsekai: program("vsekai")?,
        casync: debian::unpacked("bookworm", &["casync"])?.program("casync")?,
        desync: desync.program("desync")?,
        folder: folder.to_owned(),
    };
    println!(
        "desync {}, casync 2 (Debian 12); digest SHA-512/256, chunks 16:64:256 KiB, zstd. CPU-s beside desync's.\n",
        desync.version
    );
    println!("Of make and extract by desync and by us: the cheapest of {RUNS} runs in turn.\n");
    println!("| task | tool | CPU-s | of desync's | s | peak MiB | |\n|---|---|---|---|---|---|---|");
    for version in ["v1", "v2"] {
        tools.run(&tools.vsekai, &format!("sync tar --catar {version}.catar --source {version}"))?;
    }
    for store in ["store-d", "store-c"] {
        fs::create_dir(folder.join(store))?;
    }

    let (theirs, ours) = tools.cheapest(
        ("make -n 2 -s store-d d1.caibx v1.catar", "store-d/"),
        ("sync make --blob v1.catar --index f1.caibx --store store-f", "store-f/"),
    )?;
    line("make v1", "desync", theirs, None, "");
    line("make v1", "casync", tools.run(&tools.casync, "make --store=store-c c1.caibx v1.catar")?, Some(theirs), "");
    line("make v1", "vsekai", ours, Some(theirs), "fastcdc");
    let ours =
        tools.run(&tools.vsekai, "sync make --blob v1.catar --index b1.caibx --store store-b --chunker buzhash")?;
    line("make v1", "vsekai", ours, Some(theirs), "buzhash");
    tools.remove("store-b")?;
    let (sha_theirs, sha_ours) = tools.cheapest(
        ("--digest sha256 make -n 2 -s store-ds ds.caibx v1.catar", "store-ds/"),
        ("sync make --blob v1.catar --index s1.caibx --store store-s --digest sha256", "store-s/"),
    )?;
    line("make v1", "desync", sha_theirs, None, "SHA-256");
    line("make v1", "vsekai", sha_ours, Some(sha_theirs), "fastcdc, SHA-256");
    let (sha_theirs, sha_ours) = tools.cheapest(
        ("--digest sha256 extract -n 2 -s store-ds ds.caibx out", "out"),
        ("sync extract --index s1.caibx --store store-s --output out", "out"),
    )?;
    tools.same("out", "v1.catar")?;
    for name in ["out", "store-ds", "store-s"] {
        tools.remove(name)?;
    }

    let casync = tools.run(&tools.casync, "extract --store=store-c c1.caibx out")?;
    let (theirs, ours) = tools.cheapest(
        ("extract -n 2 -s store-d d1.caibx out", "out"),
        ("sync extract --index f1.caibx --store store-f --output out", "out"),
    )?;
    line("extract v1", "desync", theirs, None, "");
    line("extract v1", "casync", casync, Some(theirs), "");
    line("extract v1", "vsekai", ours, Some(theirs), "");
    tools.same("out", "v1.catar")?;
    line("extract v1", "desync", sha_theirs, None, "SHA-256");
    line("extract v1", "vsekai", sha_ours, Some(sha_theirs), "SHA-256");

    let theirs = tools.run(&tools.desync, "extract -n 2 -k -s store-d d1.caibx out")?;
    line("nothing to do", "desync", theirs, None, "all is read again");
    let ours = tools.run(&tools.vsekai, "sync extract --index f1.caibx --store store-f --output out")?;
    line("nothing to do", "vsekai", ours, Some(theirs), "all is read again");
    tools.remove("out")?;

    let theirs = tools.run(&tools.desync, "verify -n 2 -s store-d")?;
    line("verify the store", "desync", theirs, None, "");
    line("verify the store", "vsekai", tools.run(&tools.vsekai, "sync verify --store store-f")?, Some(theirs), "");

    tools.run(&tools.desync, "make -n 2 -s store-d d2.caibx v2.catar")?;
    tools.run(&tools.vsekai, "sync make --blob v2.catar --index f2.caibx --store store-f")?;
    fs::rename(folder.join("v1.catar"), folder.join("d1"))?;
    let theirs = tools.run(&tools.desync, "extract -n 2 -s store-d --seed d1.caibx d2.caibx out")?;
    line("v1 → v2 with v1 as seed", "desync", theirs, None, "");
    tools.remove("out")?;
    fs::rename(folder.join("d1"), folder.join("f1"))?;
    let ours =
        tools.run(&tools.vsekai, "sync extract --index f2.caibx --store store-f --seed f1.caibx --output out")?;
    line("v1 → v2 with v1 as seed", "vsekai", ours, Some(theirs), "");
    tools.same("out", "v2.catar")?;
    tools.remove("out")?;

    fs::create_dir(folder.join("mount"))?;
    let theirs = match &fusermount {
        Ok(_) => Some(mounted(&tools, &tools.desync, "mount-index -n 2 -s store-d d1.caibx mount")?),
        Err(error) => {
            println!("| read through FUSE | desync | | | | | no fusermount3: {error:#} |");
            None
        }
    };
    if let Some((cost, speed)) = theirs {
        line("read through FUSE", "desync", cost, None, &format!("{speed:.0} MB/s"));
    }
    let (cost, speed) =
        mounted(&tools, &tools.vsekai, "sync mount-index --index f1.caibx --store store-f --mountpoint mount")?;
    line("read through FUSE", "vsekai", cost, theirs.map(|(cost, _)| cost), &format!("{speed:.0} MB/s"));
    Ok(())
}

/// Reads the mounted file from front to back: what the tool that serves it costs, and MB/s.
fn mounted(tools: &Tools, tool: &Path, arguments: &str) -> Result<(Cost, f64)> {
    let mut child = Serving(
        Command::new(tool)
            .args(arguments.split(' '))
            .current_dir(&tools.folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?,
    );
    let mountpoint = tools.folder.join("mount");
    let begin = Instant::now();
    let file = loop {
        if let Some(entry) = fs::read_dir(&mountpoint)?.next() {
            break entry?.path();
        }
        ensure!(begin.elapsed() < MOUNT_TIMEOUT, "{} did not mount", tool.display());
        std::thread::sleep(Duration::from_millis(10));
    };
    let begin = Instant::now();
    let mut file = fs::File::open(file)?;
    let mut piece = vec![0; 1 << 20];
    let mut size = 0;
    loop {
        match file.read(&mut piece)? {
            0 => break,
            count => size += count,
        }
    }
    let seconds = begin.elapsed().as_secs_f64();
    drop(file);
    let id = child.0.id();
    let cost = Cost { seconds, cpu_seconds: measure::cpu_seconds(id)?, peak_bytes: measure::peak(id) };
    rustix::process::kill_process(rustix::process::Pid::from_child(&child.0), rustix::process::Signal::TERM)?;
    measure::until_ended(&mut child.0)?;
    child.0.wait().context("the mount does not end")?;
    Ok((cost, size as f64 / 1e6 / seconds))
}

/// Killed when dropped: a measurement that fails leaves nothing running.
struct Serving(Child);

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
