//! Where a volume's description lives: the control directory and the files in it.
//!
//! Everything is reached from an open directory, name by name, and no symlink is followed: whoever can
//! write to the backing directory must not be able to lead the command elsewhere.

use std::ffi::{CStr, OsStr};
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::error::VolumeError;
use super::{CONTROL_DIR, DESCRIPTION_FILE, LOCK_FILE};

/// Most bytes of a description.
const MAX_DESCRIPTION: u64 = 1 << 20;
/// A description being written.
const NEW_DESCRIPTION_FILE: &str = "volume.toml.new";

const PRIVATE_DIR: Mode = Mode::RWXU;
const PRIVATE_FILE: Mode = Mode::RUSR.union(Mode::WUSR);

/// A control directory, held open.
#[derive(Debug)]
pub(super) struct Place {
    backing: PathBuf,
    root: OwnedFd,
    control: OwnedFd,
}

/// Held as long as the volume is in use; the kernel releases it when the last copy of its descriptor is closed, over forks too.
#[derive(Debug)]
pub struct VolumeLock {
    file: File,
    recorded: bool,
}

impl VolumeLock {
    /// Writes the calling process's id into the lock file, for messages, until the lock is released. Not for those who promise to
    /// change nothing.
    pub fn record_pid(&mut self) {
        // A read-only backing filesystem has no room for it, and nothing depends on it.
        let pid = std::process::id();
        let cleared = self.file.set_len(0).and_then(|()| self.file.rewind());
        self.recorded = cleared.and_then(|()| writeln!(self.file, "{pid}")).is_ok();
    }
}

impl Drop for VolumeLock {
    fn drop(&mut self) {
        if self.recorded {
            let _ = self.file.set_len(0);
        }
    }
}

impl Place {
    /// The control directory of an existing volume.
    pub(super) fn find(backing: &Path) -> Result<Self, VolumeError> {
        let root = open_root(backing)?;
        match open_control(&root) {
            Ok(control) => Ok(Place { backing: backing.into(), root, control }),
            Err(Errno::NOENT) => Err(VolumeError::NotAVolume(backing.into())),
            Err(errno) => Err(control_error(backing, errno)),
        }
    }

    /// The control directory of a volume to be made.
    pub(super) fn prepare(backing: &Path) -> Result<Self, VolumeError> {
        let root = Self::check_vacant(backing)?;
        match rustix::fs::mkdirat(&root, CONTROL_DIR, PRIVATE_DIR) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(io_error("make", &backing.join(CONTROL_DIR), errno)),
        }
        let control = open_control(&root).map_err(|errno| control_error(backing, errno))?;
        Ok(Place { backing: backing.into(), root, control })
    }

    /// Opens a backing directory that is empty but for what an interrupted initialisation may have left.
    pub(super) fn check_vacant(backing: &Path) -> Result<OwnedFd, VolumeError> {
        let root = open_root(backing)?;
        for entry in list(&root).map_err(|errno| io_error("list", backing, errno))? {
            if entry.as_bytes() != CONTROL_DIR.as_bytes() {
                // A volume has other entries too, and deserves the other message.
                return Err(match Place::find(backing).and_then(|place| place.read()) {
                    Ok(_) => VolumeError::AlreadyAVolume(backing.into()),
                    Err(_) => VolumeError::NotEmpty { path: backing.into(), entry },
                });
            }
        }
        let control = match open_control(&root) {
            Ok(control) => control,
            Err(Errno::NOENT) => return Ok(root),
            Err(errno) => return Err(control_error(backing, errno)),
        };
        for entry in list(&control).map_err(|errno| io_error("list", &backing.join(CONTROL_DIR), errno))? {
            match entry.as_bytes() {
                name if name == DESCRIPTION_FILE.as_bytes() => {
                    return Err(VolumeError::AlreadyAVolume(backing.into()));
                }
                name if name == LOCK_FILE.as_bytes() || name == NEW_DESCRIPTION_FILE.as_bytes() => {}
                _ => {
                    let entry = Path::new(CONTROL_DIR).join(entry).into();
                    return Err(VolumeError::NotEmpty { path: backing.into(), entry });
                }
            }
        }
        Ok(root)
    }

    /// The control directory.
    pub(super) fn control(&self) -> BorrowedFd<'_> {
        self.control.as_fd()
    }

    /// Reads the description.
    pub(super) fn read(&self) -> Result<Vec<u8>, VolumeError> {
        let path = self.path(DESCRIPTION_FILE);
        let fail = |doing| {
            let path = &path;
            move |source| VolumeError::Io { doing, path: path.clone(), source }
        };
        let file = match self.open(DESCRIPTION_FILE, OFlags::RDONLY) {
            Ok(file) => file,
            Err(VolumeError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Err(VolumeError::NotAVolume(self.backing.clone()));
            }
            Err(error) => return Err(error),
        };
        let mut bytes = Vec::new();
        file.take(MAX_DESCRIPTION + 1).read_to_end(&mut bytes).map_err(fail("read"))?;
        if bytes.len() as u64 > MAX_DESCRIPTION {
            return Err(VolumeError::TooLarge(MAX_DESCRIPTION));
        }
        Ok(bytes)
    }

    /// Writes the first description. Of two at the same time, one wins.
    pub(super) fn create(&self, bytes: &[u8]) -> Result<(), VolumeError> {
        let _editing = self.lock_for_editing()?;
        match rustix::fs::statat(&self.control, DESCRIPTION_FILE, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => {}
            Ok(_) => return Err(VolumeError::AlreadyAVolume(self.backing.clone())),
            Err(errno) => return Err(io_error("examine", &self.path(DESCRIPTION_FILE), errno)),
        }
        // Whatever the umask took away or an earlier attempt left.
        rustix::fs::fchmod(&self.control, PRIVATE_DIR)
            .map_err(|errno| io_error("set the mode of", &self.path(""), errno))?;
        self.open(LOCK_FILE, OFlags::RDWR | OFlags::CREATE)?;
        self.write(bytes)?;
        // The control directory itself is an entry of the backing directory.
        let root = rustix::fs::openat(&self.root, ".", directory(), Mode::empty());
        root.and_then(rustix::fs::fsync).map_err(|errno| io_error("flush", &self.backing, errno))
    }

    /// Replaces the description, if it is still `old`.
    pub(super) fn replace(&self, old: &[u8], new: &[u8]) -> Result<(), VolumeError> {
        let _editing = self.lock_for_editing()?;
        if self.read()? != old {
            return Err(VolumeError::Raced);
        }
        self.write(new)
    }

    /// Puts a description in place: after a crash at any point the old one or the new one is there, whole.
    fn write(&self, bytes: &[u8]) -> Result<(), VolumeError> {
        let path = self.path(NEW_DESCRIPTION_FILE);
        match rustix::fs::unlinkat(&self.control, NEW_DESCRIPTION_FILE, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(io_error("remove", &path, errno)),
        }
        let mut file = self.open(NEW_DESCRIPTION_FILE, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL)?;
        let written = rustix::fs::fchmod(&file, PRIVATE_FILE)
            .map_err(io::Error::from)
            .and_then(|()| file.write_all(bytes))
            .and_then(|()| file.sync_all());
        if let Err(source) = written {
            // On a full disk the leftover should not take the last space away.
            let _ = rustix::fs::unlinkat(&self.control, NEW_DESCRIPTION_FILE, AtFlags::empty());
            return Err(VolumeError::Io { doing: "write", path, source });
        }
        rustix::fs::renameat(&self.control, NEW_DESCRIPTION_FILE, &self.control, DESCRIPTION_FILE)
            .map_err(|errno| io_error("rename", &path, errno))?;
        rustix::fs::fsync(&self.control).map_err(|errno| io_error("flush", &self.path(""), errno))
    }

    /// Takes the daemon's lock.
    pub(super) fn lock(&self) -> Result<VolumeLock, VolumeError> {
        let path = self.path(LOCK_FILE);
        let file = match self.open(LOCK_FILE, OFlags::RDWR | OFlags::CREATE) {
            // A read-only filesystem still locks; every volume has the file from the start.
            Err(VolumeError::Io { source, .. }) if source.kind() == io::ErrorKind::ReadOnlyFilesystem => {
                self.open(LOCK_FILE, OFlags::RDONLY)?
            }
            opened => opened?,
        };
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(VolumeLock { file, recorded: false }),
            Err(Errno::WOULDBLOCK) => {
                let mut text = String::new();
                let pid = file.take(20).read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
                Err(VolumeError::InUse { pid })
            }
            Err(errno) => Err(io_error("lock", &path, errno)),
        }
    }

    /// Waits for others who are replacing the description. The lock ends with the descriptor.
    fn lock_for_editing(&self) -> Result<OwnedFd, VolumeError> {
        let fail = |errno| io_error("lock", &self.path(""), errno);
        let fd = rustix::fs::openat(&self.control, ".", directory(), Mode::empty()).map_err(fail)?;
        rustix::io::retry_on_intr(|| rustix::fs::flock(&fd, FlockOperation::LockExclusive)).map_err(fail)?;
        Ok(fd)
    }

    /// Opens one of the control files, which must be a regular file.
    fn open(&self, name: &str, flags: OFlags) -> Result<File, VolumeError> {
        let path = self.path(name);
        let wrong_kind = || VolumeError::WrongKind { path: path.clone(), expected: "regular file" };
        // NONBLOCK: a FIFO in its place must not hang the command.
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let fd = match rustix::fs::openat(&self.control, name, flags, PRIVATE_FILE) {
            Ok(fd) => fd,
            Err(Errno::LOOP | Errno::ISDIR | Errno::NXIO) => return Err(wrong_kind()),
            Err(errno) => return Err(io_error("open", &path, errno)),
        };
        let stat = rustix::fs::fstat(&fd).map_err(|errno| io_error("examine", &path, errno))?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile { Ok(fd.into()) } else { Err(wrong_kind()) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.backing.join(CONTROL_DIR).join(name)
    }
}

fn directory() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC
}

/// Opens the backing directory; the path is the administrator's, so symlinks in it are followed.
fn open_root(backing: &Path) -> Result<OwnedFd, VolumeError> {
    rustix::fs::openat(CWD, backing, directory(), Mode::empty()).map_err(|errno| match errno {
        Errno::NOTDIR => VolumeError::WrongKind { path: backing.into(), expected: "directory" },
        errno => io_error("open", backing, errno),
    })
}

fn open_control(root: &OwnedFd) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(root, CONTROL_DIR, directory() | OFlags::NOFOLLOW, Mode::empty())
}

fn control_error(backing: &Path, errno: Errno) -> VolumeError {
    let path = backing.join(CONTROL_DIR);
    match errno {
        Errno::LOOP | Errno::NOTDIR => VolumeError::WrongKind { path, expected: "directory" },
        errno => io_error("open", &path, errno),
    }
}

fn list(dir: &OwnedFd) -> Result<Vec<std::ffi::OsString>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name: &CStr = entry.file_name();
        if name != c"." && name != c".." {
            names.push(OsStr::from_bytes(name.to_bytes()).into());
        }
    }
    Ok(names)
}

fn io_error(doing: &'static str, path: &Path, errno: Errno) -> VolumeError {
    VolumeError::Io { doing, path: path.into(), source: errno.into() }
}
