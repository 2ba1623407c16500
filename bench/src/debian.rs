//! Programs of Debian's suites, this machine's or another one's, unpacked with all they need beside the system and run from there.
//!
//! A private apt tree below `target/debian/` asks the mirror that the machine's own apt sources name, with the machine's keyring; nothing of
//! the system is changed, and nobody need be root. What was unpacked is kept by the package's version; the suite is asked for a newer one
//! after a week, or never while it cannot be reached.

use anyhow::{Context, Result, bail, ensure};
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// How long what was found in a suite is taken for its newest.
const FRESH: Duration = Duration::from_secs(7 * 86_400);
/// Parts of packages that no program needs to run.
const LEFT_OUT: [&str; 4] = ["./usr/share/doc*", "./usr/share/man*", "./usr/share/locale*", "./usr/share/lintian*"];

/// Packages of a suite with all they depend on, unpacked into one folder.
#[derive(Debug, Clone)]
pub struct Unpacked {
    /// The folder that stands for `/`.
    pub root: PathBuf,
    /// The version of the first package.
    pub version: String,
}

/// Unpacks `packages` of `suite` (`bookworm`, `sid`, …) with all they depend on, unless that was done before.
///
/// # Errors
/// When a package cannot be found, fetched or unpacked; names it.
pub fn unpacked(suite: &str, packages: &[&str]) -> Result<Unpacked> {
    let first = packages.first().context("no package was named")?;
    let wanted = || format!("{} of Debian's suite {suite}", packages.join(" and "));
    let folder = target()?.join("debian").join(suite);
    fs::create_dir_all(&folder)?;
    // Tests run beside each other; one of them does it.
    let lock = File::create(folder.join("lock"))?;
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive)?;

    let note = folder.join(format!("{}.version", packages.join("+")));
    let noted = fs::read_to_string(&note)
        .ok()
        .map(|version| Unpacked { root: folder.join(format!("{}_{version}", packages.join("+"))), version });
    let noted = noted.filter(|unpacked| unpacked.root.is_dir());
    let age = fs::metadata(&note).and_then(|metadata| metadata.modified()).ok().and_then(|at| at.elapsed().ok());
    if let Some(noted) = &noted
        && age.is_some_and(|age| age < FRESH)
    {
        return Ok(noted.clone());
    }
    match fetch(suite, &folder, packages, first) {
        Ok(unpacked) => {
            fs::write(&note, &unpacked.version)?;
            Ok(unpacked)
        }
        // An older one is better than none, where there is no network.
        Err(error) => match noted {
            Some(noted) => Ok(noted),
            None => Err(error.context(format!("cannot get {}", wanted()))),
        },
    }
}

impl Unpacked {
    /// A script that runs the program `/usr/bin/NAME` of the tree with the tree's own libraries, and finds the tree's other programs by
    /// their names if they were asked for, too.
    ///
    /// # Errors
    /// When the tree has no such program.
    pub fn program(&self, name: &str) -> Result<PathBuf> {
        let places = ["usr/bin", "bin", "usr/sbin"];
        let program = places.iter().map(|place| self.root.join(place).join(name)).find(|program| program.exists());
        let program = program.with_context(|| format!("no program {name} in {}", self.root.display()))?;
        let loader = find(&self.root, &["lib64", "usr/lib64", "lib", "usr/lib"], |name| {
            name.starts_with("ld-linux") && name.contains(".so")
        })
        .with_context(|| format!("no loader in {}", self.root.display()))?;
        let mut libraries = Vec::new();
        for place in ["lib", "usr/lib"] {
            if let Some(folder) = find(&self.root, &[place], |name| name.ends_with("-linux-gnu")) {
                // Some libraries lie in a folder of their own, and are asked for without it.
                let own = folder.join("pulseaudio");
                libraries.push(folder.display().to_string());
                libraries.extend(own.is_dir().then(|| own.display().to_string()));
            }
        }
        let folder = self.root.join("run-here");
        fs::create_dir_all(&folder)?;
        let script = folder.join(name);
        let text = format!(
            "#!/bin/sh\nPATH='{}':\"$PATH\"\nexport PATH\nexec '{}' --inhibit-cache --library-path '{}' --argv0 {name} '{}' \"$@\"\n",
            folder.display(),
            loader.display(),
            libraries.join(":"),
            program.display()
        );
        // Another test may be running the script just now.
        if fs::read_to_string(&script).ok().as_deref() != Some(&text) {
            let beside = tempfile::NamedTempFile::new_in(&folder)?;
            fs::write(beside.path(), &text)?;
            fs::set_permissions(beside.path(), fs::Permissions::from_mode(0o755))?;
            // Closed before it is run: a program that is open for writing cannot be.
            beside.into_temp_path().persist(&script)?;
        }
        Ok(script)
    }
}

fn find(root: &Path, places: &[&str], is_it: impl Fn(&str) -> bool) -> Option<PathBuf> {
    places.iter().find_map(|place| {
        let entries = fs::read_dir(root.join(place)).ok()?;
        entries.flatten().find(|entry| entry.file_name().to_str().is_some_and(&is_it)).map(|entry| entry.path())
    })
}

/// The workspace's `target` folder, from where this program lies: `target/PROFILE/` or `target/PROFILE/deps/`.
fn target() -> Result<PathBuf> {
    let program = std::env::current_exe()?;
    let found = program.ancestors().find(|folder| folder.join("CACHEDIR.TAG").is_file());
    found.map(Path::to_owned).with_context(|| format!("{} does not lie in a target folder", program.display()))
}

fn fetch(suite: &str, folder: &Path, packages: &[&str], first: &str) -> Result<Unpacked> {
    let (mirror, keyring) = mirror()?;
    let apt = folder.join("apt");
    for inner in ["etc/apt.conf.d", "etc/preferences.d", "state/lists/partial", "cache/archives/partial"] {
        fs::create_dir_all(apt.join(inner))?;
    }
    fs::write(apt.join("status"), "")?;
    fs::write(apt.join("etc/sources.list"), format!("deb [signed-by={keyring}] {mirror} {suite} main\n"))?;
    let shown = apt.display();
    let config = format!(
        "Dir::State \"{shown}/state\";\nDir::State::status \"{shown}/status\";\nDir::Cache \"{shown}/cache\";\nDir::Etc \"{shown}/etc\";\n\
         APT::Install-Recommends \"false\";\nAcquire::Languages \"none\";\nAcquire::Check-Valid-Until \"false\";\n\
         APT::Sandbox::User \"\";\nDebug::NoLocking \"true\";\n"
    );
    fs::write(apt.join("apt.conf"), config)?;
    run(&apt, "apt-get", &["update"])?;
    let policy = run(&apt, "apt-cache", &["policy", first])?;
    let version = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate: "));
    let version =
        version.filter(|version| *version != "(none)").with_context(|| format!("the suite has no {first}"))?;
    let version = version.replace([':', '/'], "-");
    let root = folder.join(format!("{}_{version}", packages.join("+")));
    if root.is_dir() {
        return Ok(Unpacked { root, version });
    }
    run(&apt, "apt-get", &[&["install", "--download-only", "-y"], packages].concat())?;
    let beside = tempfile::Builder::new().prefix("unpacking-").tempdir_in(folder)?;
    let mut count = 0;
    for entry in fs::read_dir(apt.join("cache/archives"))? {
        let package = entry?.path();
        if package.extension().is_some_and(|extension| extension == "deb") {
            unpack(&package, beside.path()).with_context(|| format!("cannot unpack {}", package.display()))?;
            // The next package of this suite has a closure of its own.
            fs::remove_file(&package)?;
            count += 1;
        }
    }
    ensure!(count > 0, "nothing was fetched");
    fs::rename(beside.keep(), &root)?;
    Ok(Unpacked { root, version })
}

fn unpack(package: &Path, root: &Path) -> Result<()> {
    let mut reading = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(package)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start dpkg-deb")?;
    let tar = reading.stdout.take().context("no output")?;
    let status = Command::new("tar")
        .args(["-x", "--no-same-owner", "-C"])
        .arg(root)
        .args(LEFT_OUT.map(|left_out| format!("--exclude={left_out}")))
        .stdin(tar)
        .status()
        .context("cannot start tar")?;
    let read = reading.wait()?;
    ensure!(status.success() && read.success(), "tar ended with {status}, dpkg-deb with {read}");
    Ok(())
}

fn run(apt: &Path, program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .env("APT_CONFIG", apt.join("apt.conf"))
        .env("LC_ALL", "C")
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {program}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let said: Vec<&str> = said.lines().filter(|line| line.starts_with("E:")).collect();
        bail!("`{program} {}` failed ({}): {}", arguments.join(" "), output.status, said.join(" "));
    }
    Ok(text)
}

/// The mirror of Debian that this machine uses, and the keyring it is checked with: from `/etc/apt`, in either of its formats.
fn mirror() -> Result<(String, String)> {
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    if let Ok(entries) = fs::read_dir("/etc/apt/sources.list.d") {
        files.extend(entries.flatten().map(|entry| entry.path()));
    }
    let usual = "/usr/share/keyrings/debian-archive-keyring.gpg";
    let found = files.iter().filter_map(|file| fs::read_to_string(file).ok()).find_map(|text| mirror_in(&text));
    let mirror = found.context("/etc/apt names no mirror of Debian")?;
    ensure!(Path::new(usual).is_file(), "{usual} is missing: install debian-archive-keyring");
    Ok((mirror, usual.into()))
}

/// The first address that ends in `/debian`: security and third parties have others.
fn mirror_in(text: &str) -> Option<String> {
    let lines = text.lines().map(str::trim).filter(|line| !line.starts_with('#'));
    lines
        .filter(|line| line.starts_with("URIs:") || line.starts_with("deb "))
        .flat_map(str::split_whitespace)
        .map(|word| word.trim_end_matches('/'))
        .find(|word| word.contains("://") && word.ends_with("/debian"))
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mirror_is_read_from_both_formats() {
        let wanted = Some("http://mirror.test/debian".to_owned());
        assert_eq!(mirror_in("# http://no/debian\nTypes: deb\nURIs: http://mirror.test/debian/\nSuites: x"), wanted);
        assert_eq!(mirror_in("deb [arch=amd64] http://mirror.test/debian bookworm main"), wanted);
        assert_eq!(mirror_in("URIs: http://mirror.test/debian-security\n#deb http://no/debian x main"), None);
    }
}
