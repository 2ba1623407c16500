//! Files beneath a folder, by paths that others chose: no step on the way is a symbolic link, none leads out.
//!
//! The kernel resolves the whole path at once (`openat2` with `RESOLVE_BENEATH` and `RESOLVE_NO_SYMLINKS`); where it is older than 5.6 or forbids that
//! call, each name is opened by itself without following links. Paths that come in have passed `manifest::paths`.

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::path::Path;

/// An open folder.
#[derive(Debug)]
pub(crate) struct Folder {
    fd: OwnedFd,
}

fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

impl Folder {
    pub fn open(path: &Path) -> io::Result<Self> {
        let fd = rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { fd })
    }

    /// A folder beneath this one.
    pub fn folder(&self, path: &str) -> io::Result<Self> {
        Ok(Self { fd: self.resolve(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())? })
    }

    fn resolve(&self, path: &str, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
        let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let path = if path.is_empty() { "." } else { path };
        loop {
            match rustix::fs::openat2(&self.fd, path, flags, mode, beneath) {
                Ok(fd) => return Ok(fd),
                // The tree was changed meanwhile, the kernel says: once more.
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(Errno::NOSYS | Errno::PERM | Errno::INVAL) => return self.resolve_by_name(path, flags, mode),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn resolve_by_name(&self, path: &str, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
        let (above, name) = split(path);
        let mut folder = None::<OwnedFd>;
        for step in above.split('/').filter(|step| !step.is_empty()) {
            if step == ".." {
                return Err(Errno::XDEV.into());
            }
            let here = folder.as_ref().unwrap_or(&self.fd);
            let step_flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            folder = Some(rustix::fs::openat(here, step, step_flags, Mode::empty())?);
        }
        if name == ".." {
            return Err(Errno::XDEV.into());
        }
        Ok(rustix::fs::openat(folder.as_ref().unwrap_or(&self.fd), name, flags, mode)?)
    }

    /// Opens the folder above the last name of `path`, and gives it with that name.
    fn above<T>(&self, path: &str, task: impl FnOnce(&OwnedFd, &str) -> rustix::io::Result<T>) -> io::Result<T> {
        let (above, name) = split(path);
        if name.is_empty() || name == "." || name == ".." {
            return Err(Errno::INVAL.into());
        }
        if above.is_empty() {
            return Ok(task(&self.fd, name)?);
        }
        let folder = self.resolve(above, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())?;
        Ok(task(&folder, name)?)
    }

    /// Opens a regular file for reading.
    pub fn read(&self, path: &str) -> io::Result<File> {
        let file = File::from(self.resolve(path, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty())?);
        if file.metadata()?.is_file() {
            Ok(file)
        } else {
            Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"))
        }
    }

    /// Opens a file for writing, and makes it if it is not there.
    pub fn write(&self, path: &str) -> io::Result<File> {
        let mode = Mode::from_raw_mode(0o644);
        let file = File::from(self.resolve(path, OFlags::RDWR | OFlags::CREATE | OFlags::NONBLOCK, mode)?);
        if file.metadata()?.is_file() {
            Ok(file)
        } else {
            Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"))
        }
    }

    /// Makes the folder and all above it.
    pub fn make_folders(&self, path: &str) -> io::Result<()> {
        if path.is_empty() {
            return Ok(());
        }
        match self.above(path, |folder, name| rustix::fs::mkdirat(folder, name, Mode::from_raw_mode(0o755))) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.make_folders(split(path).0)?;
                self.make_folders(path)
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            other => other,
        }
    }

    /// Makes the folders above the last name.
    pub fn make_folders_above(&self, path: &str) -> io::Result<()> {
        self.make_folders(split(path).0)
    }

    /// What stands there; a link itself, not what it leads to.
    pub fn stat(&self, path: &str) -> io::Result<Option<Stat>> {
        match self.above(path, |folder, name| rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)) {
            Ok(stat) => Ok(Some(stat)),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
            // A link where a folder should be.
            Err(error) if error.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub fn link_target(&self, path: &str) -> io::Result<Option<String>> {
        let target = self.above(path, |folder, name| rustix::fs::readlinkat(folder, name, vec![]));
        match target {
            Ok(target) => Ok(target.into_string().ok()),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidInput) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub fn symlink(&self, path: &str, target: &str) -> io::Result<()> {
        self.above(path, |folder, name| rustix::fs::symlinkat(target, folder, name))
    }

    /// Removes a file or link, if there is one.
    pub fn remove(&self, path: &str) -> io::Result<()> {
        match self.above(path, |folder, name| rustix::fs::unlinkat(folder, name, AtFlags::empty())) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    /// Makes `to_path` beneath `to` another name of the file at `path`.
    pub fn hard_link(&self, path: &str, to: &Self, to_path: &str) -> io::Result<()> {
        self.above(path, |from, name| {
            let linked = to.above(to_path, |to, to_name| rustix::fs::linkat(from, name, to, to_name, AtFlags::empty()));
            linked.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
        })
    }

    /// Renames within one file system, in the place of what stood there.
    pub fn rename(&self, path: &str, to: &Self, to_path: &str) -> io::Result<()> {
        self.above(path, |from, name| {
            let renamed = to.above(to_path, |to, to_name| rustix::fs::renameat(from, name, to, to_name));
            renamed.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
        })
    }

    /// Everything beneath but folders, and folders that are empty: its path and what it is. Names that are not Unicode are passed over: no
    /// manifest has them.
    pub fn walk(&self, each: &mut dyn FnMut(&str, FileType) -> io::Result<()>) -> io::Result<()> {
        walk(self.fd.as_fd(), "", each)
    }

    /// The names in this folder, of whatever kind.
    pub fn names(&self) -> io::Result<Vec<String>> {
        let mut names = vec![];
        for item in rustix::fs::Dir::read_from(&self.fd)? {
            if let Ok(name) = item?.file_name().to_str()
                && name != "."
                && name != ".."
            {
                names.push(name.to_owned());
            }
        }
        Ok(names)
    }

    /// Removes everything beneath.
    pub fn clear(&self) -> io::Result<()> {
        clear(self.fd.as_fd())
    }

    /// Removes an empty folder.
    pub fn remove_folder(&self, path: &str) -> io::Result<()> {
        self.above(path, |folder, name| rustix::fs::unlinkat(folder, name, AtFlags::REMOVEDIR))
    }

    /// To the disk: the names in this folder.
    pub fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::fsync(&self.fd)?)
    }

    /// To the disk: everything that was written to this file system.
    pub fn sync_all(&self) -> io::Result<()> {
        Ok(rustix::fs::syncfs(&self.fd)?)
    }

    /// Bytes that may still be written on this file system.
    pub fn free(&self) -> io::Result<u64> {
        let stat = rustix::fs::fstatvfs(&self.fd)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

fn open_here(folder: rustix::fd::BorrowedFd<'_>, name: &std::ffi::CStr) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(folder, name, flags, Mode::empty())?)
}

fn kind_of(folder: rustix::fd::BorrowedFd<'_>, item: &rustix::fs::DirEntry) -> io::Result<FileType> {
    if item.file_type() != FileType::Unknown {
        return Ok(item.file_type());
    }
    let stat = rustix::fs::statat(folder, item.file_name(), AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(FileType::from_raw_mode(stat.st_mode))
}

fn walk(
    folder: rustix::fd::BorrowedFd<'_>,
    above: &str,
    each: &mut dyn FnMut(&str, FileType) -> io::Result<()>,
) -> io::Result<()> {
    let mut empty = true;
    for item in rustix::fs::Dir::read_from(folder)? {
        let item = item?;
        if matches!(item.file_name().to_bytes(), b"." | b"..") {
            continue;
        }
        empty = false;
        let Ok(name) = item.file_name().to_str() else { continue };
        let path = if above.is_empty() { name.to_owned() } else { format!("{above}/{name}") };
        match kind_of(folder, &item)? {
            FileType::Directory => walk(open_here(folder, item.file_name())?.as_fd(), &path, each)?,
            kind => each(&path, kind)?,
        }
    }
    if empty && !above.is_empty() { each(above, FileType::Directory) } else { Ok(()) }
}

fn clear(folder: rustix::fd::BorrowedFd<'_>) -> io::Result<()> {
    for item in rustix::fs::Dir::read_from(folder)? {
        let item = item?;
        if matches!(item.file_name().to_bytes(), b"." | b"..") {
            continue;
        }
        let flags = if kind_of(folder, &item)? == FileType::Directory {
            clear(open_here(folder, item.file_name())?.as_fd())?;
            AtFlags::REMOVEDIR
        } else {
            AtFlags::empty()
        };
        rustix::fs::unlinkat(folder, item.file_name(), flags)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_link_on_the_way_is_followed() {
        let outside = tempfile::tempdir().expect("a folder");
        std::fs::write(outside.path().join("secret"), "old").expect("writes");
        let inside = tempfile::tempdir().expect("a folder");
        std::os::unix::fs::symlink(outside.path(), inside.path().join("out")).expect("links");
        std::os::unix::fs::symlink(outside.path().join("secret"), inside.path().join("file")).expect("links");
        let folder = Folder::open(inside.path()).expect("opens");
        assert!(folder.read("out/secret").is_err());
        assert!(folder.read("file").is_err());
        assert!(folder.write("out/new").is_err());
        assert!(folder.write("file").is_err());
        assert!(folder.make_folders("out/a/b").is_err());
        assert!(folder.symlink("out/link", "x").is_err());
        assert!(folder.remove("out/secret").is_err());
        assert!(folder.read("../anything").is_err());
        assert!(folder.write("/tmp/anything").is_err());
        assert_eq!(folder.stat("out/secret").expect("says so").map(|_| ()), None);
        // The same by names, as on an old kernel.
        for path in ["out/secret", "file", "../anything", "a/../../anything"] {
            assert!(folder.resolve_by_name(path, OFlags::RDONLY | OFlags::NOFOLLOW, Mode::empty()).is_err(), "{path}");
        }
        folder.clear().expect("clears");
        assert_eq!(std::fs::read_to_string(outside.path().join("secret")).expect("still there"), "old");
        assert_eq!(std::fs::read_dir(inside.path()).expect("reads").count(), 0);
    }
}
