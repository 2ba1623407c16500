//! Replication beside that of others, in one run on one machine: ours over WebRTC and over loopback, Colyseus with its WebSockets, and
//! bevy_replicon, which has no transport. The peers' own programs are in `bench/peers/`; they are built or installed when needed.

use crate::latency::{self, FEW_WATCH};
use crate::live;
use crate::replication::{self, ALL_VISIBLE, HZ, NEAR_VISIBLE, Scene};
use crate::report::Latency;
use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// How long a peer may take for one row besides the seconds that it measures: many clients join one after the other, and those of
/// bevy_replicon do not keep up with the clock.
const ROW_MAX: Duration = Duration::from_secs(600);

/// Runs everything one after the other and prints a table, and below it what could not be measured and why: a machine that cannot
/// carry so many clients says something, too.
///
/// # Errors
/// When a peer cannot be built or installed.
pub fn run(players: &[usize], seconds: u32) -> Result<()> {
    ensure!(!players.is_empty(), "no number of players");
    let (colyseus, replicon) = (Colyseus::install()?, Replicon::build()?);
    let mut failures = Vec::new();
    println!(
        "| walking clients, {HZ} Hz | by | µs per client-tick | above the transport | transport, in the program | transport, in the kernel | updates/s each | \
         B per update | B/s down each | seen by another p50 ms | p99 | time ÷ ours | B per update ÷ ours | B/s ÷ ours |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|---|---|");
    for scene in [ALL_VISIBLE, NEAR_VISIBLE] {
        for players in players {
            let webrtc = with_sockets(&scene, *players, seconds, &mut failures);
            let rows = [
                ("ours, WebRTC", None, webrtc),
                ("Colyseus, WebSocket", Some(0), colyseus.measure(&scene, *players, seconds)),
                ("ours, no transport", None, Ok(without_transport(&scene, *players, seconds))),
                ("bevy_replicon, no transport", Some(2), replicon.measure(&scene, *players, seconds)),
            ];
            for (name, ours, row) in &rows {
                // What it is compared with stands before it.
                let ours = ours.and_then(|place: usize| rows[place].2.as_ref().ok());
                match row {
                    Ok(row) => println!("| {players}, {} | {name} | {} |", scene.name, row.cells(ours).join(" | ")),
                    Err(error) => failures.push(format!("{players}, {}, {name}: {error:#}", scene.name)),
                }
            }
        }
    }
    if !failures.is_empty() {
        println!("\nNot measured: {}.", failures.join("; "));
    }
    Ok(())
}

/// Processor time of a client and tick, microseconds.
#[derive(Debug, Clone, Copy)]
enum Spent {
    /// Of all that there is.
    Whole(f64),
    /// Where the transport is a thread of its own.
    Split { above: f64, transport: f64, kernel: f64 },
    /// Where it is not.
    Mingled { program: f64, kernel: f64 },
}

/// What one of them came to.
#[derive(Debug, Clone, Copy)]
struct Row {
    spent: Spent,
    updates_per_s: f64,
    bytes_per_update: f64,
    down_bytes_per_s: f64,
    /// From saying to another client that knows it: p50 and p99, milliseconds.
    latency_ms: Option<(f64, f64)>,
}

impl Row {
    fn micros(&self) -> f64 {
        match self.spent {
            Spent::Whole(whole) => whole,
            Spent::Split { above, transport, kernel } => above + transport + kernel,
            Spent::Mingled { program, kernel } => program + kernel,
        }
    }

    fn cells(&self, ours: Option<&Row>) -> Vec<String> {
        let none = || "–".to_string();
        let tenths = |value: f64| format!("{value:.1}");
        let mut cells = vec![tenths(self.micros())];
        cells.extend(match self.spent {
            Spent::Whole(whole) => [tenths(whole), none(), none()],
            Spent::Split { above, transport, kernel } => [above, transport, kernel].map(tenths),
            Spent::Mingled { program, kernel } => [format!("{program:.1} with it"), none(), tenths(kernel)],
        });
        cells.push(format!("{:.0}", self.updates_per_s));
        cells.push(format!("{:.2}", self.bytes_per_update));
        cells.push(format!("{:.0}", self.down_bytes_per_s));
        cells.extend(self.latency_ms.map_or([none(), none()], |(p50, p99)| [p50, p99].map(tenths)));
        let ratio = |of: fn(&Row) -> f64| ours.map_or_else(none, |ours| format!("{:.2}", of(self) / of(ours)));
        cells.push(ratio(Row::micros));
        cells.push(ratio(|row| row.bytes_per_update));
        cells.push(ratio(|row| row.down_bytes_per_s));
        cells
    }
}

/// Ours over WebRTC. How soon others see it is a run of its own, in which a few clients watch, as with Colyseus; when that one fails
/// the rest stands.
fn with_sockets(scene: &Scene, players: usize, seconds: u32, failures: &mut Vec<String>) -> Result<Row> {
    let figures = live::clients_of(scene, players, seconds)?;
    let seen = latency_of(scene, players, seconds);
    if let Err(error) = &seen {
        failures.push(format!("{players}, {}, ours, how soon others see: {error:#}", scene.name));
    }
    Ok(Row {
        spent: Spent::Split {
            above: figures.above_us,
            transport: figures.transport_us,
            kernel: figures.transport_kernel_us,
        },
        updates_per_s: figures.updates_per_s,
        bytes_per_update: figures.bytes_per_update,
        down_bytes_per_s: figures.udp_bytes_per_s,
        latency_ms: seen.ok().filter(|seen| seen.count > 0).map(|seen| (seen.p50_ms, seen.p99_ms)),
    })
}

fn latency_of(scene: &Scene, players: usize, seconds: u32) -> Result<Latency> {
    let (shard, _folder) = live::shard(&live::settings(scene))?;
    let seen = latency::measure(&shard, FEW_WATCH, players, seconds)?;
    shard.stop()?;
    Ok(seen.all)
}

/// Ours over loopback.
fn without_transport(scene: &Scene, players: usize, seconds: u32) -> Row {
    let figures = replication::measure(scene, players, seconds, false);
    Row {
        spent: Spent::Whole(figures.cpu_us),
        updates_per_s: figures.updates_per_s,
        bytes_per_update: figures.bytes_per_update,
        down_bytes_per_s: figures.down_bytes_per_s,
        latency_ms: None,
    }
}

/// The peers' programs.
fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("peers").join(name)
}

/// How far clients of a peer see, metres; `None`: everything.
fn interest_m(scene: &Scene) -> Option<u32> {
    (scene.interest_m < 2 * scene.spawn_radius_m).then_some(scene.interest_m)
}

/// Colyseus as it is installed.
struct Colyseus;

/// What `colyseus/clients.js` prints.
#[derive(Debug, Deserialize)]
struct ColyseusFigures {
    program_us_per_client_tick: f64,
    kernel_us_per_client_tick: f64,
    updates_per_s: f64,
    bytes_per_update: f64,
    down_bytes_per_s: f64,
    latency_p50_ms: f64,
    latency_p99_ms: f64,
}

impl Colyseus {
    fn install() -> Result<Colyseus> {
        for program in ["node", "npm"] {
            let found = Command::new(program).arg("--version").stdout(Stdio::null()).status();
            ensure!(
                found.is_ok_and(|status| status.success()),
                "{program} is missing: Colyseus needs Node.js with npm"
            );
        }
        let folder = folder("colyseus");
        // npm writes the second when it has installed what the first says.
        let changed = |name: &str| folder.join(name).metadata().and_then(|file| file.modified()).ok();
        if changed("node_modules/.package-lock.json") < changed("package-lock.json") {
            let arguments = ["ci", "--ignore-scripts", "--no-audit", "--no-fund"];
            prepare("npm", &arguments, &folder)?;
        }
        Ok(Colyseus)
    }

    fn measure(&self, scene: &Scene, players: usize, seconds: u32) -> Result<Row> {
        let mut command = Command::new("node");
        command.current_dir(folder("colyseus")).arg("clients.js");
        let interest_m = interest_m(scene).unwrap_or(0);
        command.args([
            players.to_string(),
            seconds.to_string(),
            scene.spawn_radius_m.to_string(),
            interest_m.to_string(),
        ]);
        let figures: ColyseusFigures = answer(command, seconds).context("Colyseus")?;
        Ok(Row {
            spent: Spent::Mingled {
                program: figures.program_us_per_client_tick,
                kernel: figures.kernel_us_per_client_tick,
            },
            updates_per_s: figures.updates_per_s,
            bytes_per_update: figures.bytes_per_update,
            down_bytes_per_s: figures.down_bytes_per_s,
            latency_ms: Some((figures.latency_p50_ms, figures.latency_p99_ms)),
        })
    }
}

/// bevy_replicon as it is built.
struct Replicon;

/// What `replicon` prints.
#[derive(Debug, Deserialize)]
struct RepliconFigures {
    us_per_client_tick: f64,
    updates_per_s: f64,
    bytes_per_update: f64,
    down_bytes_per_s: f64,
}

impl Replicon {
    fn build() -> Result<Replicon> {
        // Wherever else cargo is told to build, this is where it is looked for.
        let arguments = ["build", "--quiet", "--release", "--locked", "--target-dir", "target"];
        let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
        prepare(&cargo, &arguments, &folder("replicon"))?;
        Ok(Replicon)
    }

    fn measure(&self, scene: &Scene, players: usize, seconds: u32) -> Result<Row> {
        let mut command = Command::new(folder("replicon").join("target/release/vsekai-peer-replicon"));
        command.args(["--players", &players.to_string(), "--seconds", &seconds.to_string()]);
        command.args(["--radius-m", &scene.spawn_radius_m.to_string()]);
        if let Some(metres) = interest_m(scene) {
            command.args(["--interest-m", &metres.to_string()]);
        }
        let figures: RepliconFigures = answer(command, seconds).context("bevy_replicon")?;
        Ok(Row {
            spent: Spent::Whole(figures.us_per_client_tick),
            updates_per_s: figures.updates_per_s,
            bytes_per_update: figures.bytes_per_update,
            down_bytes_per_s: figures.down_bytes_per_s,
            latency_ms: None,
        })
    }
}

/// Runs what builds or installs a peer. It says what it does where it does not get into the table.
fn prepare(program: &str, arguments: &[&str], folder: &Path) -> Result<()> {
    let name = Path::new(program).file_name().map_or(program.into(), |name| name.to_string_lossy());
    let told = format!("{name} {} in {}", arguments.join(" "), folder.display());
    eprintln!("vsekai-bench: {told}");
    let output = Command::new(program)
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("{name} is missing: cannot run {told}"))?;
    ensure!(output.status.success(), "{told} failed ({})", output.status);
    Ok(())
}

/// Ended when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a peer and reads the one line of JSON that it prints.
fn answer<T: DeserializeOwned>(mut command: Command, seconds: u32) -> Result<T> {
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("cannot be started")?;
    let mut child = Running(child);
    let mut stdout = child.0.stdout.take().context("has no output")?;
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut text = String::new();
        let read = stdout.read_to_string(&mut text).map(|_| text);
        // Who has given up waiting does not want it.
        let _ = sender.send(read);
    });
    let Ok(text) = receiver.recv_timeout(ROW_MAX + Duration::from_secs(seconds.into())) else {
        bail!("did not end");
    };
    let status = child.0.wait().context("cannot be waited for")?;
    ensure!(status.success(), "failed ({status})");
    let text = text.context("cannot be read")?;
    serde_json::from_str(&text).with_context(|| format!("printed what is not understood: {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(spent: Spent) -> Row {
        Row { spent, updates_per_s: 100.0, bytes_per_update: 4.0, down_bytes_per_s: 500.0, latency_ms: None }
    }

    #[test]
    fn ratios_are_of_a_peer_to_ours() {
        let ours = row(Spent::Split { above: 10.0, transport: 20.0, kernel: 10.0 });
        let peer = Row {
            bytes_per_update: 14.0,
            down_bytes_per_s: 250.0,
            latency_ms: Some((26.04, 53.0)),
            ..row(Spent::Mingled { program: 40.0, kernel: 20.0 })
        };
        assert_eq!(
            peer.cells(Some(&ours)),
            ["60.0", "40.0 with it", "–", "20.0", "100", "14.00", "250", "26.0", "53.0", "1.50", "3.50", "0.50"]
        );
        assert_eq!(ours.cells(None), ["40.0", "10.0", "20.0", "10.0", "100", "4.00", "500", "–", "–", "–", "–", "–"]);
    }

    #[test]
    fn peers_see_as_far_as_ours() {
        assert_eq!(interest_m(&ALL_VISIBLE), None);
        assert_eq!(interest_m(&NEAR_VISIBLE), Some(50));
    }

    #[test]
    fn what_a_peer_prints_is_read_and_its_failure_is_told() {
        let shell = |script: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", script]);
            command
        };
        let line = r#"{"us_per_client_tick":1.5,"updates_per_s":3,"bytes_per_update":4,"down_bytes_per_s":5,"more":6}"#;
        let figures: RepliconFigures = answer(shell(&format!("echo '{line}'")), 1).unwrap();
        assert_eq!((figures.us_per_client_tick, figures.down_bytes_per_s), (1.5, 5.0));
        let failed = answer::<RepliconFigures>(shell(&format!("echo '{line}'; exit 3")), 1);
        assert!(failed.unwrap_err().to_string().contains('3'));
        assert!(answer::<RepliconFigures>(shell("echo nothing"), 1).unwrap_err().to_string().contains("nothing"));
    }
}
