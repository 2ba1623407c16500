//! `kill -9` of `vsekai` at random moments of installation, update, rollback and repair: afterwards what `current` leads to starts, is
//! the old version or the new one, and is whole (or, when a repair was killed, as damaged as before); the same command, given again,
//! finishes; the player's save is what it was all along.

use super::seed;
use anyhow::{Context, Result, bail, ensure};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};
use vsekai_bench::process::program;

/// So many versions that the one that is wanted is never still there: each update builds.
const VERSIONS: usize = 3;
const FILES: usize = 40;

/// 500 kills; short: 40.
pub fn run(short: bool) -> Result<String> {
    let kills = if short { 40 } else { 500 };
    let seed = seed(7_000);
    trial(kills, seed).with_context(|| format!("seed {seed} (VSEKAI_SEED replays it)"))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Task {
    Install,
    Update,
    Rollback,
    Repair,
}

/// How kills of one kind of task ended.
#[derive(Debug, Default, Clone, Copy)]
struct Count {
    /// Killed while at work.
    killed: usize,
    /// Done before the kill came.
    done: usize,
    /// Killed, and the new version was current already.
    switched: usize,
}

struct Scene {
    folder: tempfile::TempDir,
    rng: ChaCha8Rng,
    /// How long each task takes if it is let.
    usual: BTreeMap<Task, Duration>,
    counts: BTreeMap<Task, Count>,
}

fn trial(kills: usize, seed: u64) -> Result<String> {
    let mut scene = Scene {
        folder: tempfile::tempdir()?,
        rng: ChaCha8Rng::seed_from_u64(seed),
        usual: BTreeMap::new(),
        counts: BTreeMap::new(),
    };
    for version in 1..=VERSIONS {
        scene.publish(version)?;
    }
    scene.calibrate()?;
    let begun = Instant::now();
    for round in 0..kills {
        scene.round().with_context(|| format!("kill {round}"))?;
    }
    let text: Vec<String> = scene
        .counts
        .iter()
        .map(|(task, count)| {
            let Count { killed, done, switched } = count;
            format!("{task:?} {killed} ({switched} after the switch), {done} too late")
        })
        .collect();
    let at_work: usize = scene.counts.values().map(|count| count.killed).sum();
    ensure!(at_work * 2 > kills, "only {at_work} of {kills} kills hit a process at work");
    Ok(format!(
        "{kills} kills in {:.0} s: {}; every version started whole, every task finished when given again",
        begun.elapsed().as_secs_f64(),
        text.join(", ")
    ))
}

impl Scene {
    fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    fn root(&self) -> PathBuf {
        self.path("root")
    }

    /// A build whose program says which version it is, and data that differs from version to version by a part.
    fn publish(&self, version: usize) -> Result<()> {
        let build = self.path(&format!("build-{version}"));
        std::fs::create_dir_all(build.join("bin"))?;
        std::fs::create_dir_all(build.join("data"))?;
        std::fs::create_dir_all(build.join("saves"))?;
        let game = build.join("bin/game");
        std::fs::write(&game, format!("#!/bin/sh\necho {version}\n"))?;
        std::fs::set_permissions(&game, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        for number in 0..FILES {
            let mut rng = ChaCha8Rng::seed_from_u64(number as u64);
            let mut bytes: Vec<u8> = (0..60_000).map(|_| rng.random()).collect();
            if number % VERSIONS == version % VERSIONS {
                let mut own = ChaCha8Rng::seed_from_u64((version * 1_000 + number) as u64);
                let at = own.random_range(0..bytes.len());
                bytes.splice(at..at, (0..5_000).map(|_| own.random()));
            }
            std::fs::write(build.join(format!("data/{number}.bin")), bytes)?;
        }
        let mut command = Command::new(program("vsekai")?);
        command.args([
            "version",
            "pack",
            "--client_id",
            "game",
            "--channel",
            "stable",
            "--keep",
            "saves/**",
            "--version",
            &version.to_string(),
        ]);
        command.arg("--source").arg(build).arg("--repository").arg(self.path("repository"));
        succeed(command.output()?)?;
        Ok(())
    }

    fn command(&self, task: Task, version: Option<usize>) -> Result<Command> {
        let mut command = Command::new(program("vsekai")?);
        command.arg("system").arg(match task {
            Task::Install | Task::Update => "update",
            Task::Rollback => "rollback",
            Task::Repair => "repair",
        });
        command.arg("--root").arg(self.root());
        if task != Task::Rollback {
            command.args(["--unsigned", "--client_id", "game", "--repository"]).arg(self.path("repository"));
        }
        if let Some(version) = version {
            command.args(["--version", &version.to_string()]);
        }
        command.stdin(Stdio::null());
        Ok(command)
    }

    fn finish(&self, task: Task, version: Option<usize>) -> Result<()> {
        succeed(self.command(task, version)?.output()?).with_context(|| format!("{task:?} does not finish"))?;
        Ok(())
    }

    /// How long the tasks take on this machine today.
    fn calibrate(&mut self) -> Result<()> {
        let timed = |task, version, scene: &Scene| -> Result<Duration> {
            let begun = Instant::now();
            scene.finish(task, version)?;
            Ok(begun.elapsed())
        };
        let install = timed(Task::Install, Some(1), self)?;
        let update = timed(Task::Update, Some(2), self)?;
        let rollback = timed(Task::Rollback, None, self)?;
        self.damage()?;
        let repair = timed(Task::Repair, None, self)?;
        self.usual =
            [(Task::Install, install), (Task::Update, update), (Task::Rollback, rollback), (Task::Repair, repair)]
                .into();
        Ok(())
    }

    fn current(&self) -> Result<Option<usize>> {
        let game = self.root().join("current/bin/game");
        if std::fs::symlink_metadata(self.root().join("current")).is_err() {
            return Ok(None);
        }
        let output = Command::new(&game).output().with_context(|| format!("{} does not start", game.display()))?;
        Ok(Some(succeed(output)?.trim().parse().context("the program says no version")?))
    }

    /// The paths that are damaged, as `vsekai` says.
    fn damaged(&self) -> Result<Vec<String>> {
        let mut command = Command::new(program("vsekai")?);
        command.args(["--json", "system", "verify", "--unsigned", "--client_id", "game", "--repository"]);
        let output = command.arg(self.path("repository")).arg("--root").arg(self.root()).output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let verdict: Value = serde_json::from_str(&text)
            .with_context(|| format!("verify says {text:?} {:?}", String::from_utf8_lossy(&output.stderr)))?;
        let damaged: Vec<String> = verdict["damaged"]
            .as_array()
            .context("a list")?
            .iter()
            .filter_map(|path| path.as_str().map(str::to_owned))
            .collect();
        ensure!(
            output.status.code() == Some(if damaged.is_empty() { 0 } else { 4 }),
            "verify ends with {}",
            output.status
        );
        Ok(damaged)
    }

    /// Whether every file of the current version is the build's: not by `vsekai`, but by comparing the bytes.
    fn compare(&self, version: usize, but: &[String]) -> Result<()> {
        for number in 0..FILES {
            let path = format!("data/{number}.bin");
            if but.contains(&path) {
                continue;
            }
            let read = |folder: PathBuf| std::fs::read(folder.join(&path)).with_context(|| path.clone());
            let (build, current) = (read(self.path(&format!("build-{version}")))?, read(self.root().join("current"))?);
            ensure!(build == current, "{path} of version {version} is not what was published");
        }
        Ok(())
    }

    fn damage(&mut self) -> Result<Vec<String>> {
        let path = format!("data/{}.bin", self.rng.random_range(0..FILES));
        let full = std::fs::canonicalize(self.root().join("current").join(&path))?;
        let mut bytes = std::fs::read(&full)?;
        std::fs::remove_file(&full)?;
        match self.rng.random_range(0..3) {
            0 => {}
            1 => std::fs::write(&full, &bytes[..bytes.len() / 2])?,
            _ => {
                let at = self.rng.random_range(0..bytes.len());
                bytes[at] ^= 1;
                std::fs::write(&full, bytes)?;
            }
        }
        Ok(vec![path])
    }

    fn round(&mut self) -> Result<()> {
        let before = self.current()?;
        let (mut task, mut version) = match self.rng.random_range(0..10) {
            0 => (Task::Install, Some(self.rng.random_range(1..=VERSIONS))),
            1..=5 => (Task::Update, before.map(|before| before % VERSIONS + 1)),
            6..=7 => (Task::Rollback, None),
            _ => (Task::Repair, None),
        };
        if before.is_none() {
            (task, version) = (Task::Install, Some(1));
        }
        // Rolling back needs a version to go back to.
        if task == Task::Rollback && std::fs::read_dir(self.root().join("versions"))?.count() < 2 {
            (task, version) = (Task::Update, before.map(|before| before % VERSIONS + 1));
        }
        let mut damaged = vec![];
        let mut save = None;
        match task {
            Task::Install if self.root().exists() => {
                std::fs::remove_dir_all(self.root())?;
            }
            Task::Install => {}
            Task::Repair => damaged = self.damage()?,
            _ => {}
        }
        let before = if task == Task::Install { None } else { before };
        if before.is_some() {
            let text = format!("level {}", self.rng.random::<u32>());
            std::fs::create_dir_all(self.root().join("current/saves"))?;
            std::fs::write(self.root().join("current/saves/one.sav"), &text)?;
            save = Some(text);
        }
        let wait = self.usual[&task].mul_f64(self.rng.random_range(0.0..1.1));
        let mut child = self.command(task, version)?.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        std::thread::sleep(wait);
        let ended = child.try_wait()?;
        child.kill()?;
        let status = child.wait()?;
        if ended.is_some() {
            ensure!(status.success(), "{task:?} ended with {status}, though nothing was in its way");
        }

        let after = self.current()?;
        let switched = self.check(task, before, after, version, &damaged)?;
        let count = self.counts.entry(task).or_default();
        match ended {
            Some(_) => count.done += 1,
            None => {
                count.killed += 1;
                count.switched += usize::from(switched);
            }
        }
        // Given again, it finishes; a rollback that was through would go on to the version before.
        if !(task == Task::Rollback && switched) {
            self.finish(task, version)?;
        }
        let now = self.current()?.context("nothing is installed in the end")?;
        match (task, version, before) {
            (Task::Install | Task::Update, Some(version), _) => {
                ensure!(now == version, "{now} is current instead of {version}")
            }
            (Task::Rollback, _, Some(before)) => ensure!(now != before, "the rollback led nowhere"),
            (Task::Repair, _, Some(before)) => ensure!(now == before, "the repair led to {now}"),
            _ => {}
        }
        let rest = self.damaged()?;
        ensure!(rest.is_empty(), "in the end, {} are damaged", rest.join(", "));
        self.compare(now, &[])?;
        if let Some(save) = save {
            let found = std::fs::read_to_string(self.root().join("current/saves/one.sav"))?;
            ensure!(found == save, "the save says {found:?} instead of {save:?}");
        }
        Ok(())
    }

    /// What is current right after the kill. Whether the switch was through.
    fn check(
        &self,
        task: Task,
        before: Option<usize>,
        after: Option<usize>,
        wanted: Option<usize>,
        damaged: &[String],
    ) -> Result<bool> {
        let Some(now) = after else {
            ensure!(task == Task::Install, "nothing is current after the kill of a {task:?}");
            return Ok(false);
        };
        let found = self.damaged()?;
        match task {
            Task::Install | Task::Update => {
                ensure!(
                    Some(now) == before || Some(now) == wanted,
                    "{now} is current, neither {before:?} nor {wanted:?}"
                );
            }
            Task::Repair => ensure!(Some(now) == before, "{now} is current after a repair of {before:?}"),
            Task::Rollback => {}
        }
        if task == Task::Repair && !found.is_empty() {
            ensure!(found == damaged, "{found:?} are damaged, before the repair {damaged:?} were");
            self.compare(now, damaged)?;
            return Ok(false);
        }
        if !found.is_empty() {
            bail!("after the kill of a {task:?}, {} of version {now} are damaged", found.join(", "));
        }
        self.compare(now, &[])?;
        Ok(if task == Task::Repair { true } else { Some(now) != before })
    }
}

/// The output of a command that succeeded.
fn succeed(output: Output) -> Result<String> {
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {}", output.status, errors.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
