//! Named measurements, appended to `bench/README.md` with date, machine and command.

use crate::run;
use anyhow::{Context, Result, bail};
use std::fmt::Write;

/// A measurement: its name, what it is, and the commands of `vsekai-bench` it consists of; none for criterion's.
struct Bench {
    name: &'static str,
    what: &'static str,
    commands: &'static [&'static str],
}

const BENCHES: &[Bench] = &[
    Bench {
        name: "tick",
        what: "time of a tick and memory of an idle entity, with 500 loopback players in 100,000 and 1,000,000 entities",
        commands: &[
            "tick --entities 100000 --players 500",
            "tick --entities 100000 --players 500 --crowd",
            "tick --entities 1000000 --players 500",
        ],
    },
    Bench {
        name: "webrtc",
        what: "players over WebRTC on this machine, load generator included, with p99 action latency below 50 ms at 60 Hz",
        commands: &["capacity"],
    },
    Bench {
        name: "restart",
        what: "time from process start to ready with 1,000,000 entities in the store",
        commands: &["restart --entities 1000000"],
    },
    Bench {
        name: "store",
        what: "durable commits beside a raw sync and fjall 3, flushes, loads, bytes on disk, ticks beside a flush",
        commands: &["store commits", "store flush", "store load", "store tick"],
    },
    Bench {
        name: "replication",
        what: "server time, and bytes, with walking clients at 20 Hz, over WebRTC and over loopback",
        commands: &[
            "replication --transport webrtc --players 100,300",
            "replication --players 100,300,600 --seconds 5",
            "replication --players 100,300,600,1000,2000 --seconds 5 --blind",
        ],
    },
    Bench {
        name: "peers",
        what: "replication beside Colyseus and bevy_replicon in one run: 20 Hz, all visible and with an interest of 50 m",
        commands: &["peers --players 100,300 --seconds 10"],
    },
    Bench {
        name: "latency",
        what: "from one player's input, or head and hands, to another player's picture, 300 players over WebRTC, with the store",
        commands: &["latency"],
    },
    Bench {
        name: "crowd",
        what: "1,000 avatars in a venue of 50 m: bytes, and how fresh each client's picture of the others is",
        commands: &["crowd"],
    },
    Bench {
        name: "bodies",
        what: "250 rigid bodies at 30 Hz: bytes, and how right the client's picture is; packets and baselines only, no shard",
        commands: &["bodies"],
    },
    Bench {
        name: "updates",
        what: "making, extracting, updating and mounting a generated build of 1.6 GB, beside desync and casync",
        commands: &["updates"],
    },
    Bench { name: "micro", what: "micro-benchmarks by criterion: lowest, middle and highest estimate", commands: &[] },
];

/// Runs measurement `name`, prints it and appends it.
///
/// # Errors
/// When there is none of this name, or it fails.
pub fn run(name: Option<&str>, list: bool, dry_run: bool) -> Result<()> {
    if list {
        for bench in BENCHES {
            println!("{:<10}{}", bench.name, bench.what);
        }
        return Ok(());
    }
    let name = name.context("no measurement was named")?;
    let Some(bench) = BENCHES.iter().find(|bench| bench.name == name) else {
        let names: Vec<&str> = BENCHES.iter().map(|bench| bench.name).collect();
        bail!("there is no measurement `{name}`; there are {}", names.join(", "));
    };
    run::cargo(&[
        "build",
        "--quiet",
        "--release",
        "--locked",
        "-p",
        "vsekai-shard",
        "-p",
        "vsekai",
        "-p",
        "vsekai-bench",
    ])?;
    let mut entry =
        format!("\n### {} · {}\n\n`cargo xtask bench {}`: {}.\n", bench.name, today()?, bench.name, bench.what);
    let _ = writeln!(entry, "Machine: {}; commit {}.", machine(), commit());
    if bench.commands.is_empty() {
        let output = micro()?;
        print!("{output}");
        let _ = write!(entry, "\n{output}");
    }
    for command in bench.commands {
        let mut arguments = vec!["run", "--quiet", "--release", "--locked", "-p", "vsekai-bench", "--"];
        arguments.extend(command.split(' '));
        let output = run::cargo_output(&arguments)?;
        print!("{output}");
        let _ = write!(entry, "\n`vsekai-bench {command}`\n\n{output}");
    }
    if !dry_run {
        let path = run::root().join("bench/README.md");
        let mut text = std::fs::read_to_string(&path).context("cannot read bench/README.md")?;
        text.push_str(&entry);
        std::fs::write(&path, text).context("cannot write bench/README.md")?;
    }
    Ok(())
}

/// Criterion's estimates, a line each.
fn micro() -> Result<String> {
    let output = run::cargo_output(&["bench", "--quiet", "--locked", "-p", "vsekai-bench", "--bench", "micro"])?;
    let mut lines = String::new();
    let mut name = "";
    for line in output.lines() {
        // A long name stands on a line of its own before its estimate.
        match line.split_once("time:") {
            Some((own, estimate)) => {
                let own = own.trim();
                let _ = writeln!(lines, "- {}: {}", if own.is_empty() { name } else { own }, estimate.trim());
            }
            None => name = line.trim(),
        }
    }
    if lines.is_empty() {
        bail!("criterion printed no estimate");
    }
    Ok(lines)
}

fn output_of(program: &str, arguments: &[&str]) -> Option<String> {
    let output = std::process::Command::new(program).args(arguments).current_dir(run::root()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_string())
}

fn today() -> Result<String> {
    output_of("date", &["-u", "+%Y-%m-%d"]).context("cannot tell the date")
}

fn commit() -> String {
    output_of("git", &["describe", "--always", "--dirty"]).unwrap_or_else(|| "unknown".into())
}

/// Cores and processor, as far as the system says.
fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ").map(|(_, model)| model));
    format!("{cores} cores, {}", model.unwrap_or("unknown processor"))
}
