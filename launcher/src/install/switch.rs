//! From one version to another: what belongs to the player is carried over, everything goes to the disk, the pointer moves, and
//! what nobody can go back to any more is removed.

use super::Context;
use super::beneath::Folder;
use super::keep::Keep;
use super::root::{Installation, Installed, Record};
use super::tree::{copy_kept, modified_ns, stats};
use crate::error::TaskError;
use crate::manifest::Manifest;
use crate::release::Blob;
use crate::whole;
use rustix::fs::FileType;
use std::io;

/// Bytes that will be carried over.
pub(super) fn kept_size(context: &Context<'_>) -> Result<u64, TaskError> {
    let Some(folder) =
        context.carry.as_ref().and_then(|dir| context.installation.root.folder(&format!("versions/{dir}")).ok())
    else {
        return Ok(0);
    };
    let mut size = 0;
    let walked = folder.walk(&mut |path, kind| {
        if kind == FileType::RegularFile && context.keep.has(path) {
            size += folder.stat(path)?.map_or(0, |stat| stat.st_size as u64);
        }
        Ok(())
    });
    walked.map_err(|source| context.installation.unreadable(source))?;
    Ok(size)
}

/// The built version becomes the current one.
pub(super) fn finish(
    context: &Context<'_>,
    version: &str,
    blob: &Blob,
    manifest: &Manifest,
    incoming: &Folder,
    previous: Option<String>,
) -> Result<(), TaskError> {
    let installation = context.installation;
    let unwritable = |source| installation.unwritable(source);
    remove_extra(incoming, manifest).map_err(unwritable)?;
    if let Some(old) = context.carry.as_ref().and_then(|dir| installation.root.folder(&format!("versions/{dir}")).ok())
    {
        let carried = old.walk(&mut |path, kind| {
            if context.keep.has(path) { copy_kept(&old, incoming, path, kind, None) } else { Ok(()) }
        });
        carried.map_err(unwritable)?;
    }
    let record = Record {
        version: version.to_owned(),
        manifest: blob.clone(),
        previous,
        files: stats(incoming, manifest).map_err(unwritable)?,
    };
    let dir = installation.free_dir(version)?;
    incoming.sync_all().map_err(unwritable)?;
    installation.write_record(&dir, &record)?;
    let appear = || -> io::Result<()> {
        installation.root.rename("incoming", &installation.root, &format!("versions/{dir}"))?;
        installation.root.folder("versions")?.sync()?;
        installation.root.sync()
    };
    appear().map_err(unwritable)?;
    installation.point_to(&dir)?;
    prune(installation)
}

/// What an earlier attempt left that the version does not have.
fn remove_extra(incoming: &Folder, manifest: &Manifest) -> io::Result<()> {
    let mut extra = vec![];
    incoming.walk(&mut |path, kind| {
        if manifest.entry(path).is_none() {
            extra.push((path.to_owned(), kind));
        }
        Ok(())
    })?;
    for (path, kind) in extra {
        if kind == FileType::Directory { incoming.remove_folder(&path)? } else { incoming.remove(&path)? }
    }
    Ok(())
}

/// A version that is still here becomes the current one again, with what belongs to the player as it is now. Each file is replaced as a
/// whole, so that a kill in between leaves each as it was before or as it is now.
pub(super) fn back_to(
    context: &Context<'_>,
    dir: &str,
    current: Option<&Installed>,
    keep: &[String],
) -> Result<(), TaskError> {
    let installation = context.installation;
    let unwritable = |source| installation.unwritable(source);
    let target = installation.root.folder(&format!("versions/{dir}")).map_err(unwritable)?;
    if let Some(current) = current {
        let old = installation.root.folder(&format!("versions/{}", current.dir)).map_err(unwritable)?;
        // What belongs to the player is what either version says.
        let mut globs = installation.notes().keep;
        globs.extend_from_slice(keep);
        for record in [installation.record(dir), current.record.clone()].into_iter().flatten() {
            globs.extend(installation.manifest_of(&record).map(|manifest| manifest.keep).unwrap_or_default());
        }
        let keep = Keep::new(&globs);
        let carried = old.walk(&mut |path, kind| {
            if !keep.has(path) || same_file(&old, &target, path)? {
                return Ok(());
            }
            let through = ".vsekai-carried";
            copy_kept(&old, &target, path, kind, Some(through))?;
            if kind == FileType::RegularFile {
                target.read(through)?.sync_all()?;
                target.make_folders_above(path)?;
                target.rename(through, &target, path)?;
            }
            Ok(())
        });
        carried.map_err(unwritable)?;
        if let Some(mut record) = installation.record(dir)
            && current.record.is_some()
            && record.previous.as_deref() != Some(current.dir.as_str())
        {
            // The version that is left can be gone back to.
            record.previous = Some(current.dir.clone());
            installation.write_record(dir, &record)?;
        }
    }
    installation.point_to(dir)?;
    prune(installation)
}

fn same_file(one: &Folder, other: &Folder, path: &str) -> io::Result<bool> {
    let (one, other) = (one.stat(path)?, other.stat(path)?);
    Ok(one.zip(other).is_some_and(|(one, other)| {
        one.st_size == other.st_size && modified_ns(&one) == modified_ns(&other) && one.st_mode == other.st_mode
    }))
}

impl Installation {
    /// A version that is here as the manifest says, by sizes and times; the current one is not meant.
    pub(super) fn here(&self, manifest: &Blob) -> Result<Option<String>, TaskError> {
        let current = self.current_dir()?;
        let Ok(dirs) = self.dirs() else { return Ok(None) };
        for dir in dirs {
            let Some(record) = self.record(&dir) else { continue };
            if Some(&dir) == current.as_ref() || record.manifest != *manifest {
                continue;
            }
            let Some(decoded) = self.manifest_of(&record) else { continue };
            let Ok(folder) = self.root.folder(&format!("versions/{dir}")) else { continue };
            let keep = Keep::new(decoded.keep.iter().chain(&self.notes().keep));
            if super::tree::changed(&folder, &decoded, &record, &keep).is_ok_and(|changed| changed.is_empty()) {
                return Ok(Some(dir));
            }
        }
        Ok(None)
    }

    /// Whether `incoming/` was begun for this manifest.
    pub(super) fn begun(&self, manifest: &str) -> bool {
        std::fs::read_to_string(self.path.join(".vsekai/incoming")).is_ok_and(|text| text == manifest)
    }

    /// Makes `incoming/` empty, for this manifest.
    pub(super) fn begin(&self, manifest: &str) -> Result<(), TaskError> {
        let begin = || -> io::Result<()> {
            remove_tree(&self.root, "incoming")?;
            whole::write_io(&self.path.join(".vsekai/incoming"), manifest.as_bytes(), whole::PUBLIC)?;
            self.root.make_folders("incoming")
        };
        begin().map_err(|source| self.unwritable(source))
    }
}

fn remove_tree(root: &Folder, path: &str) -> io::Result<()> {
    match root.folder(path) {
        Ok(folder) => {
            folder.clear()?;
            root.remove_folder(path)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(_) => root.remove(path),
    }
}

/// Removes versions that are neither current nor the one before it, and what was written down of them. Saves that are newer than the
/// current version's, or that it does not have, are put aside.
fn prune(installation: &Installation) -> Result<(), TaskError> {
    let unwritable = |source| installation.unwritable(source);
    let Some(current) = installation.current()? else { return Ok(()) };
    let previous = current.record.as_ref().and_then(|record| record.previous.clone());
    let live = |dir: &str| dir == current.dir || Some(dir) == previous.as_deref();
    let current_folder = installation.root.folder(&format!("versions/{}", current.dir)).map_err(unwritable)?;
    for dir in installation.dirs()? {
        if live(&dir) {
            continue;
        }
        if let Ok(folder) = installation.root.folder(&format!("versions/{dir}")) {
            let own = installation
                .record(&dir)
                .or(current.record.clone())
                .and_then(|record| installation.manifest_of(&record));
            let notes = installation.notes();
            let keep = Keep::new(own.iter().flat_map(|manifest| &manifest.keep).chain(&notes.keep));
            rescue(installation, &folder, &current_folder, &dir, &keep).map_err(unwritable)?;
        }
        remove_tree(&installation.root, &format!("versions/{dir}")).map_err(unwritable)?;
    }
    // Records go last, since they say what in a version belongs to the player.
    let mut manifests = vec![];
    let names = |folder: &str| installation.root.folder(folder).and_then(|folder| folder.names()).map_err(unwritable);
    for name in names(".vsekai/installed")? {
        match name.strip_suffix(".json").filter(|dir| live(dir)) {
            Some(dir) => manifests.extend(installation.record(dir).map(|record| record.manifest.blake3)),
            None => installation.root.remove(&format!(".vsekai/installed/{name}")).map_err(unwritable)?,
        }
    }
    for name in names(".vsekai/manifests")?.iter().filter(|name| !manifests.contains(name)) {
        installation.root.remove(&format!(".vsekai/manifests/{name}")).map_err(unwritable)?;
    }
    installation.root.folder(".vsekai/deltas").and_then(|folder| folder.clear()).map_err(unwritable)
}

fn rescue(installation: &Installation, from: &Folder, current: &Folder, dir: &str, keep: &Keep) -> io::Result<()> {
    from.walk(&mut |path, kind| {
        if kind != FileType::RegularFile || !keep.has(path) {
            return Ok(());
        }
        let (old, new) = (from.stat(path)?, current.stat(path)?);
        let newer = old.zip(new).is_none_or(|(old, new)| modified_ns(&old) > modified_ns(&new));
        if newer {
            let place = format!("kept/{dir}/{path}");
            installation.root.make_folders_above(&place)?;
            from.rename(path, &installation.root, &place)?;
        }
        Ok(())
    })
}
