//! The command list of the launcher's design document, line by line with the real program, and the effect of each line looked at.
//!
//! The lines stand here as they do in the document, in an order in which they make sense. Where the document has a word to be replaced, and
//! that word would do as a name, it is taken as it stands. Flags that the document leaves out are kept apart.

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// The document's list, whole: what is not run is missed at the end.
const LIST: [&str; 27] = [
    "--help",
    "--version",
    "auth login --client_id your_client_id --client_secret your_client_secret --redirect_uri your_redirect_uri --scope user:email",
    "config set --key your_key --value your_value",
    "config get --key your_key",
    "log view",
    "auth token",
    "auth logout",
    "portal check-status",
    "portal launch",
    "portal restart",
    "portal close",
    "system update",
    "system check",
    "version upload --file your_version_file",
    "version list",
    "version download --version your_version_number",
    "version delete --version your_version_number",
    "profile switch --profile_name your_profile_name",
    "sync start --source your_source_directory --destination your_destination_directory",
    "sync pause",
    "sync resume",
    "sync check-status",
    "sync extract --index your_index_file",
    "sync verify --store your_store_location",
    "sync list-chunks --index your_index_file",
    "sync make --blob your_blob --chunk_size min:avg:max",
];
/// The rest of it.
const LIST_MORE: [&str; 4] = [
    "sync mount-index --index your_index_file --mountpoint your_mountpoint",
    "sync tar --catar your_catar_file",
    "sync untar --catar your_catar_file",
    "sync prune --store your_store_location",
];
const PATIENCE: Duration = Duration::from_secs(60);

/// All lines; there is no shorter form.
pub fn run(_short: bool) -> Result<String> {
    let mut scene = Scene::new()?;
    let outcome = scene.all();
    // The daemon is the only one that would stay.
    let _ = scene.command(&["sync", "stop"]).output();
    outcome?;
    let missed: Vec<_> =
        LIST.iter().chain(&LIST_MORE).filter(|line| !scene.done.contains(&(**line).to_owned())).collect();
    ensure!(missed.is_empty(), "not run: {missed:?}");
    Ok(format!("{} lines of the design document run, {} effects checked", scene.done.len(), scene.checked))
}

/// A home with a build, a studio's repository, a service and a provider.
struct Scene {
    folder: tempfile::TempDir,
    program: PathBuf,
    provider: String,
    /// Has a token of its own for the service.
    is_studio: bool,
    done: Vec<String>,
    checked: usize,
    children: Vec<Child>,
}

impl Drop for Scene {
    fn drop(&mut self) {
        for child in &mut self.children {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Scene {
    fn new() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let program = vsekai_bench::process::program("vsekai")?;
        let mut scene = Self {
            folder,
            program,
            provider: String::new(),
            is_studio: false,
            done: Vec::new(),
            checked: 0,
            children: Vec::new(),
        };
        let login = Path::new(env!("CARGO_MANIFEST_DIR")).join("../launcher/tests/login");
        if !login.join("node_modules/oidc-provider").exists() {
            let npm = ["ci", "--no-audit", "--no-fund", "--ignore-scripts"];
            let npm = Command::new("npm").args(npm).current_dir(&login).status();
            ensure!(npm.context("this proof needs npm: install Node.js")?.success(), "npm ci failed");
        }
        let mut node = Command::new("node");
        node.args(["provider.mjs", "jwt"]).current_dir(&login).stderr(Stdio::null());
        scene.provider = scene.start(node)?;
        ensure!(scene.provider.starts_with("http://127.0.0.1:"), "the provider says {:?}", scene.provider);
        Ok(scene)
    }

    /// Starts a process that lives as long as the scene, and returns its first line.
    fn start(&mut self, mut command: Command) -> Result<String> {
        let name = command.get_program().display().to_string();
        let mut child = command.stdout(Stdio::piped()).spawn().with_context(|| format!("cannot start {name}"))?;
        let output = child.stdout.take().context("no output")?;
        self.children.push(child);
        let mut output = BufReader::new(output);
        let mut line = String::new();
        output.read_line(&mut line)?;
        // It goes on writing, and must not find its pipe closed.
        std::thread::spawn(move || std::io::copy(&mut output, &mut std::io::sink()));
        Ok(line.trim().to_owned())
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        for name in ["VSEKAI_KEY_PASSPHRASE", "VSEKAI_CLIENT_SECRET", "DISPLAY", "WAYLAND_DISPLAY"] {
            command.env_remove(name);
        }
        let user = Path::new(env!("CARGO_MANIFEST_DIR")).join("../launcher/tests/login/user.mjs");
        command.args(words).current_dir(self.folder.path()).env("VSEKAI_HOME", self.at("home")).env("NO_PROXY", "*");
        command.env("BROWSER", user).env_remove("VSEKAI_TOKEN");
        if self.is_studio {
            command.env("VSEKAI_TOKEN", TOKEN);
        }
        command
    }

    /// Something that is not in the list, and must succeed.
    fn prepare(&self, words: &[&str]) -> Result<String> {
        text(self.command(words).output()?).with_context(|| words.join(" "))
    }

    /// A line of the list, with what the document leaves out; it must succeed. The answer is what it prints.
    fn line(&mut self, line: &str, more: &[&str]) -> Result<String> {
        let output = self.end_of(line, more)?;
        text(output).with_context(|| format!("vsekai {line}"))
    }

    fn end_of(&mut self, line: &str, more: &[&str]) -> Result<Output> {
        ensure!(LIST.contains(&line) || LIST_MORE.contains(&line), "{line} is not in the document");
        self.done.push(line.to_owned());
        let words: Vec<&str> = line.split(' ').map(replaced).chain(more.iter().copied()).collect();
        Ok(self.command(&words).stdin(Stdio::null()).output()?)
    }

    #[track_caller]
    fn check(&mut self, holds: bool, what: &str, said: &str) -> Result<()> {
        self.checked += 1;
        ensure!(holds, "{what}: {said}");
        Ok(())
    }

    fn all(&mut self) -> Result<()> {
        let said = self.line("--help", &[])?;
        let groups = ["auth", "config", "log", "portal", "system", "version", "profile", "sync"];
        self.check(groups.iter().all(|group| said.contains(group)), "groups are missing", &said)?;
        let said = self.line("--version", &[])?;
        self.check(said.starts_with("vsekai "), "no version", &said)?;
        self.settings_and_login()?;
        self.releases()?;
        self.game()?;
        self.jobs()?;
        self.chunks()
    }

    fn settings_and_login(&mut self) -> Result<()> {
        self.line("config set --key your_key --value your_value", &[])?;
        let said = self.line("config get --key your_key", &[])?;
        self.check(said.trim() == "debug", "the setting is not what was set", &said)?;

        let provider = self.provider.clone();
        self.prepare(&["config", "set", "--key", "auth.issuer", "--value", &provider])?;
        self.line(LIST[2], &[])?;
        let tokens = self.at("home/state/tokens.json");
        let mode = fs::metadata(&tokens).map_or(0, |file| file.permissions().mode() & 0o777);
        self.check(mode == 0o600, "the tokens' file", &format!("{mode:o}"))?;
        let said = self.line("auth token", &[])?;
        self.check(said.trim().split('.').count() == 3, "no token", &said)?;
        self.line("auth logout", &[])?;
        let refused = self.command(&["auth", "token"]).output()?;
        self.check(refused.status.code() == Some(8) && !tokens.exists(), "still logged in", "")?;
        let said = self.line("log view", &[])?;
        self.check(said.contains("auth login") && !said.contains("your_client_secret"), "the log", &said)
    }

    /// A studio publishes two versions; a player installs the second.
    fn releases(&mut self) -> Result<()> {
        self.is_studio = true;
        for (version, text) in [("older", "one"), ("your_version_number", "two")] {
            let build = self.at(version);
            fs::create_dir_all(build.join("bin"))?;
            fs::write(
                build.join("bin/game"),
                format!("#!/bin/sh\necho {text} >> ../../../played\nwhile :; do sleep 0.1; done\n"),
            )?;
            fs::set_permissions(build.join("bin/game"), fs::Permissions::from_mode(0o755))?;
            fs::write(build.join("vsekai-launch.toml"), "program = \"bin/game\"\n")?;
        }
        self.prepare(&["keys", "generate", "--keys", "keys", "--repository", "your_version_file"])?;
        let pack =
            ["version", "pack", "--repository", "your_version_file", "--client_id", "game", "--channel", "stable"];
        for version in ["your_version_number", "older"] {
            self.prepare(&[&pack[..], &["--source", version, "--version", version]].concat())?;
        }
        self.prepare(&["version", "sign", "--repository", "your_version_file", "--keys", "keys"])?;
        fs::write(self.at("tokens"), format!("{TOKEN} studio release:write release:delete\n"))?;
        fs::copy(self.at("your_version_file/metadata/1.root.json"), self.at("root.json"))?;
        let mut serve =
            self.command(&["--json", "serve", "--listen", "127.0.0.1:0", "--repository", "srv", "--store", "mem:"]);
        serve.args(["--root_file", "root.json", "--tokens", "tokens"]);
        let told: Value = serde_json::from_str(&self.start(serve)?)?;
        let address = told["listening"].as_str().context("the service does not say where it listens")?.to_owned();
        for name in ["another", "your_profile_name"] {
            let add = ["profile", "add", "--profile_name", name, "--client_id", "game", "--repository", &address];
            self.prepare(&[&add[..], &["--root_file", "root.json", "--root", name]].concat())?;
        }
        self.line("profile switch --profile_name your_profile_name", &[])?;
        let said = self.prepare(&["config", "get", "--key", "profile"])?;
        self.check(said.trim() == "your_profile_name", "the profile is another", &said)?;

        self.line("version upload --file your_version_file", &[])?;
        let said = self.line("version list", &[])?;
        self.check(said.contains("your_version_number") && said.contains("older"), "a version is missing", &said)?;
        self.line("version download --version your_version_number", &["--destination", "downloaded"])?;
        let game = fs::read_to_string(self.at("downloaded/current/bin/game")).unwrap_or_default();
        self.check(game.contains("two"), "not what was published", &game)?;
        let said = self.line("system check", &["--json"])?;
        let told: Value = serde_json::from_str(&said)?;
        self.check(told["update"] == true && told["offered"] == "older", "no update is seen", &said)?;
        self.line("system update", &[])?;
        let game = fs::read_to_string(self.at("your_profile_name/current/bin/game")).unwrap_or_default();
        self.check(game.contains("one"), "not what is offered", &game)?;
        self.line(
            "version delete --version your_version_number",
            &["--repository", "your_version_file", "--keys", "keys"],
        )?;
        let said = self.prepare(&["version", "list"])?;
        self.check(!said.contains("your_version_number") && said.contains("older"), "still there", &said)
    }

    fn game(&mut self) -> Result<()> {
        let before = self.end_of("portal check-status", &[])?;
        self.check(before.status.code() == Some(10), "it runs before it was launched", "")?;
        self.line("portal launch", &[])?;
        let played = self.at("played");
        let times =
            |count: usize| eventually(|| fs::read_to_string(&played).is_ok_and(|text| text == "one\n".repeat(count)));
        times(1).context("the game does not run")?;
        self.line("portal restart", &[])?;
        times(2).context("the game was not started again")?;
        let said = self.prepare(&["--json", "portal", "check-status"])?;
        let status: Value = serde_json::from_str(&said)?;
        let process = PathBuf::from(format!("/proc/{}", status["pid"]));
        self.check(status["state"] == "running" && process.exists(), "it is not said to run", &said)?;
        self.line("portal close", &[])?;
        self.check(!process.exists(), "it still runs", &said)
    }

    /// A folder is copied in the background, slowly, paused and gone on with.
    fn jobs(&mut self) -> Result<()> {
        let (source, copied) = (self.at("your_source_directory"), self.at("your_destination_directory"));
        fs::create_dir_all(&source)?;
        for number in 0..64_u8 {
            fs::write(source.join(format!("{number:02}.bin")), vec![number; 64 << 10])?;
        }
        self.line(
            "sync start --source your_source_directory --destination your_destination_directory",
            &["--limit_rate", "1000000"],
        )?;
        self.line("sync pause", &[])?;
        let said = self.line("sync check-status", &["--json"])?;
        self.check(said.contains("paused"), "it is not paused", &said)?;
        self.line("sync resume", &[])?;
        let same = |name: &str| {
            fs::read(source.join(name))
                .ok()
                .is_some_and(|bytes| fs::read(copied.join(name)).is_ok_and(|other| other == bytes))
        };
        let arrived = eventually(|| (0..64).all(|number| same(&format!("{number:02}.bin"))));
        self.checked += 1;
        arrived.context("the copy is not whole")
    }

    fn chunks(&mut self) -> Result<()> {
        let blob: Vec<u8> = {
            let mut bytes = vec![0; 3 << 20];
            let mut stream = blake3::Hasher::new().update(b"your_blob").finalize_xof();
            stream.fill(&mut bytes);
            bytes
        };
        fs::write(self.at("your_blob"), &blob)?;
        self.line(
            "sync make --blob your_blob --chunk_size min:avg:max",
            &["--index", "your_index_file", "--store", "default.castr"],
        )?;
        let said = self.line("sync list-chunks --index your_index_file", &["--json"])?;
        let listed: Value = serde_json::from_str(&said)?;
        self.check(listed["total_size"] == blob.len(), "another size", &listed["total_size"].to_string())?;
        let count = listed["chunks"].as_array().map_or(0, Vec::len);
        self.check(count > 8, "the chunks are too few", &count.to_string())?;
        self.line("sync extract --index your_index_file", &["--output", "extracted"])?;
        let same = fs::read(self.at("extracted"))? == blob;
        self.check(same, "what comes out is not what went in", "")?;
        fs::rename(self.at("default.castr"), self.at("your_store_location"))?;
        self.line("sync verify --store your_store_location", &[])?;
        let stranger = self.at("your_store_location/0000").join(format!("{}.cacnk", "0".repeat(64)));
        fs::create_dir_all(stranger.parent().context("no folder")?)?;
        fs::write(&stranger, b"no chunk")?;
        let damaged = self.end_of("sync verify --store your_store_location", &[])?;
        self.check(damaged.status.code() == Some(4), "damage is not seen", &format!("{damaged:?}"))?;
        self.line("sync prune --store your_store_location", &["--index", "your_index_file", "--grace", "0s"])?;
        let left = chunk_files(&self.at("your_store_location"));
        self.check(!stranger.exists() && left == count, "not what the index names is left", &left.to_string())?;

        let mountpoint = self.at("your_mountpoint");
        fs::create_dir(&mountpoint)?;
        let line = LIST_MORE[0];
        self.done.push(line.to_owned());
        let words: Vec<&str> = line.split(' ').chain(["--store", "your_store_location"]).collect();
        let mut mount = self.command(&words);
        let mounted = mount.stdout(Stdio::null()).spawn()?;
        let id = rustix::process::Pid::from_child(&mounted);
        self.children.push(mounted);
        let read = || fs::read_dir(&mountpoint).ok()?.flatten().find_map(|entry| fs::read(entry.path()).ok());
        let seen = eventually(|| read().is_some_and(|bytes| bytes == blob));
        rustix::process::kill_process(id, rustix::process::Signal::TERM)?;
        let ended = self.children.pop().context("no mount")?.wait()?;
        seen.context("the mounted file is not the blob")?;
        self.check(fs::read_dir(&mountpoint)?.next().is_none(), "still mounted", &ended.to_string())?;

        self.line("sync tar --catar your_catar_file", &["--source", "your_source_directory"])?;
        self.line("sync untar --catar your_catar_file", &["--destination", "untarred"])?;
        for number in 0..64 {
            let name = format!("{number:02}.bin");
            let same =
                fs::read(self.at("untarred").join(&name))? == fs::read(self.at("your_source_directory").join(&name))?;
            ensure!(same, "{name} is another");
        }
        self.checked += 1;
        Ok(())
    }
}

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// What stands for a word of the document that cannot be taken as it is.
fn replaced(word: &str) -> &str {
    match word {
        "your_key" => "log_level",
        "your_value" => "debug",
        "your_redirect_uri" => "http://127.0.0.1/callback",
        "min:avg:max" => "16:64:256",
        other => other,
    }
}

fn text(output: Output) -> Result<String> {
    ensure!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    Ok(String::from_utf8(output.stdout)?)
}

fn chunk_files(store: &Path) -> usize {
    let folders = fs::read_dir(store).into_iter().flatten().flatten();
    folders.flat_map(|folder| fs::read_dir(folder.path()).into_iter().flatten().flatten()).count()
}

fn eventually(mut holds: impl FnMut() -> bool) -> Result<()> {
    let begun = Instant::now();
    while !holds() {
        if begun.elapsed() > PATIENCE {
            bail!("not within {} s", PATIENCE.as_secs());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
