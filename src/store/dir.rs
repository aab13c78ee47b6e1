//! The real backing directory: system calls relative to open directories, one name at a time.
//!
//! Nobody but the daemon should write to the backing directory, but an attacker may. So no call follows a
//! symlink in a name's place, and anything opened is checked to be of the kind that was asked for.

use std::any::Any;
use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::sync::Arc;

use rustix::buffer::spare_capacity;
use rustix::fs::{
    AtFlags, CWD, FallocateFlags, FileType, Gid, Mode, OFlags, RawDir, RenameFlags, SeekFrom, Timespec, Timestamps,
    Uid, XattrFlags,
};
use rustix::io::Errno;

use super::{
    Access, BackingDir, BackingFile, DirEntry, DirStream, Kind, RenameHow, SetTime, Stat, Timestamp, VolumeStat,
    XattrHow,
};

/// Bytes of directory entries fetched by one `getdents64`.
const LISTING_BUFFER: usize = 32 * 1024;
/// Most buffers in one `preadv`/`pwritev` (`UIO_MAXIOV`).
const MAX_IOVECS: usize = 1024;

/// Opens the root of a backing directory. A symlink in the last component is followed: the path is the
/// administrator's, not the volume's.
///
/// # Errors
/// Those of `open(2)` with `O_DIRECTORY`.
pub fn open_root(path: &Path) -> io::Result<Arc<dyn BackingDir>> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(CWD, path, flags, Mode::empty())?;
    Ok(Arc::new(RealDir { fd }))
}

/// A directory held by an `O_PATH` descriptor.
#[derive(Debug)]
struct RealDir {
    fd: OwnedFd,
}

impl RealDir {
    /// The same directory, open for listing and flushing.
    fn open_for_reading(&self) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(&self.fd, ".", flags, Mode::empty())?)
    }

    /// An `O_PATH` descriptor of the entry itself.
    fn open_path(&self, name: &OsStr) -> io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(&self.fd, name, flags, Mode::empty())?)
    }

    /// A path by which the calls that take no directory descriptor reach an entry without following it. The last component is
    /// resolved by the `l` variants of those calls.
    fn proc_path(&self, name: &OsStr) -> Vec<u8> {
        let mut path = proc_fd(&self.fd);
        path.push(b'/');
        path.extend_from_slice(name.as_bytes());
        path
    }

    fn peer(dir: &dyn BackingDir) -> io::Result<&RealDir> {
        dir.as_any().downcast_ref().ok_or_else(|| Errno::XDEV.into())
    }

    /// Opens a file of ours whose mode denies it: an ordinary user's daemon needs to read and write what
    /// its user made write-only or read-only. Permissions were checked by the kernel against the mount.
    fn open_despite_mode(&self, name: &OsStr, flags: OFlags) -> io::Result<OwnedFd> {
        open_held_despite_mode(&self.open_path(name)?, flags)
    }
}

/// [`RealDir::open_despite_mode`] for an inode that is held by an `O_PATH` descriptor.
fn open_held_despite_mode(held: &OwnedFd, flags: OFlags) -> io::Result<OwnedFd> {
    let stat = to_stat(&rustix::fs::fstat(held)?)?;
    if stat.kind != Kind::File || stat.uid != rustix::process::geteuid().as_raw() {
        return Err(Errno::ACCESS.into());
    }
    let path = proc_fd(held);
    rustix::fs::chmodat(CWD, &*path, mode_bits(stat.mode | 0o600), AtFlags::empty())?;
    let opened = rustix::fs::openat(CWD, &*path, flags & !OFlags::NOFOLLOW, Mode::empty());
    rustix::fs::chmodat(CWD, &*path, mode_bits(stat.mode), AtFlags::empty())?;
    Ok(opened?)
}

/// How a backing file's contents are opened. NONBLOCK: a FIFO put in a file's place must not hang the daemon.
fn content_flags(access: Access) -> OFlags {
    let rights = match access {
        Access::Read => OFlags::RDONLY,
        Access::ReadWrite => OFlags::RDWR,
    };
    rights | OFlags::NONBLOCK | OFlags::CLOEXEC
}

impl BackingDir for RealDir {
    fn open_dir(&self, name: &OsStr) -> io::Result<Arc<dyn BackingDir>> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.fd, name, flags, Mode::empty())?;
        Ok(Arc::new(RealDir { fd }))
    }

    fn list(&self) -> io::Result<Box<dyn DirStream>> {
        Ok(Box::new(RealStream {
            fd: self.open_for_reading()?,
            buffer: Vec::with_capacity(LISTING_BUFFER),
            fetched: VecDeque::new(),
        }))
    }

    fn stat(&self, name: &OsStr) -> io::Result<Stat> {
        to_stat(&rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW)?)
    }

    fn create_file(&self, name: &OsStr, mode: u32) -> io::Result<Arc<dyn BackingFile>> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.fd, name, flags, mode_bits(mode))?;
        Ok(Arc::new(RealFile { fd, pinned: false }))
    }

    fn open_file(&self, name: &OsStr, access: Access) -> io::Result<Arc<dyn BackingFile>> {
        Ok(self.open_file_and_stat(name, access)?.0)
    }

    fn open_file_and_stat(&self, name: &OsStr, access: Access) -> io::Result<(Arc<dyn BackingFile>, Stat)> {
        let flags = content_flags(access) | OFlags::NOFOLLOW;
        let fd = match rustix::fs::openat(&self.fd, name, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::ACCESS) => self.open_despite_mode(name, flags)?,
            Err(error) => return Err(error.into()),
        };
        let stat = to_stat(&rustix::fs::fstat(&fd)?)?;
        if stat.kind != Kind::File {
            return Err(Errno::INVAL.into());
        }
        Ok((Arc::new(RealFile { fd, pinned: false }), stat))
    }

    fn pin(&self, name: &OsStr) -> io::Result<Arc<dyn BackingFile>> {
        Ok(Arc::new(RealFile { fd: self.open_path(name)?, pinned: true }))
    }

    fn make_dir(&self, name: &OsStr, mode: u32) -> io::Result<()> {
        Ok(rustix::fs::mkdirat(&self.fd, name, mode_bits(mode))?)
    }

    fn make_node(&self, name: &OsStr, mode: u32, rdev: u64) -> io::Result<()> {
        let kind = FileType::from_raw_mode(mode);
        Ok(rustix::fs::mknodat(&self.fd, name, kind, mode_bits(mode), rdev)?)
    }

    fn make_symlink(&self, name: &OsStr, target: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::symlinkat(target, &self.fd, name)?)
    }

    fn read_link(&self, name: &OsStr) -> io::Result<OsString> {
        let target = rustix::fs::readlinkat(&self.fd, name, Vec::with_capacity(256))?;
        Ok(OsString::from_vec(target.into_bytes()))
    }

    fn link(&self, name: &OsStr, to: &dyn BackingDir, to_name: &OsStr) -> io::Result<()> {
        let to = Self::peer(to)?;
        Ok(rustix::fs::linkat(&self.fd, name, &to.fd, to_name, AtFlags::empty())?)
    }

    fn rename(&self, name: &OsStr, to: &dyn BackingDir, to_name: &OsStr, how: RenameHow) -> io::Result<()> {
        let to = Self::peer(to)?;
        let flags = match how {
            RenameHow::Replace => RenameFlags::empty(),
            RenameHow::NoReplace => RenameFlags::NOREPLACE,
            RenameHow::Exchange => RenameFlags::EXCHANGE,
        };
        Ok(rustix::fs::renameat_with(&self.fd, name, &to.fd, to_name, flags)?)
    }

    fn unlink(&self, name: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.fd, name, AtFlags::empty())?)
    }

    fn remove_dir(&self, name: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.fd, name, AtFlags::REMOVEDIR)?)
    }

    fn set_mode(&self, name: &OsStr, mode: u32) -> io::Result<()> {
        // fchmodat follows symlinks (its no-follow form came with Linux 6.6): go through a held inode.
        RealFile { fd: self.open_path(name)?, pinned: true }.set_mode(mode)
    }

    fn set_owner(&self, name: &OsStr, uid: Option<u32>, gid: Option<u32>) -> io::Result<()> {
        Ok(rustix::fs::chownat(&self.fd, name, to_uid(uid), to_gid(gid), AtFlags::SYMLINK_NOFOLLOW)?)
    }

    fn set_times(&self, name: &OsStr, atime: SetTime, mtime: SetTime) -> io::Result<()> {
        Ok(rustix::fs::utimensat(&self.fd, name, &to_times(atime, mtime), AtFlags::SYMLINK_NOFOLLOW)?)
    }

    fn get_xattr(&self, name: &OsStr, attr: &OsStr) -> io::Result<Vec<u8>> {
        let path = self.proc_path(name);
        read_growing(|out| rustix::fs::lgetxattr(&*path, attr, spare_capacity(out)))
    }

    fn set_xattr(&self, name: &OsStr, attr: &OsStr, value: &[u8], how: XattrHow) -> io::Result<()> {
        Ok(rustix::fs::lsetxattr(self.proc_path(name), attr, value, xattr_flags(how))?)
    }

    fn list_xattrs(&self, name: &OsStr) -> io::Result<Vec<OsString>> {
        let path = self.proc_path(name);
        split_names(read_growing(|out| rustix::fs::llistxattr(&*path, spare_capacity(out)))?)
    }

    fn remove_xattr(&self, name: &OsStr, attr: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::lremovexattr(self.proc_path(name), attr)?)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::fsync(self.open_for_reading()?)?)
    }

    fn sync_all(&self) -> io::Result<()> {
        Ok(rustix::fs::syncfs(self.open_for_reading()?)?)
    }

    fn stat_volume(&self) -> io::Result<VolumeStat> {
        let stat = rustix::fs::fstatvfs(&self.fd)?;
        Ok(VolumeStat {
            block_size: stat.f_bsize,
            fragment_size: stat.f_frsize,
            blocks: stat.f_blocks,
            blocks_free: stat.f_bfree,
            blocks_available: stat.f_bavail,
            files: stat.f_files,
            files_free: stat.f_ffree,
            name_max: stat.f_namemax,
        })
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// An open backing file, or (`pinned`) an `O_PATH` descriptor of an inode of any kind, on which only
/// attributes can be worked.
#[derive(Debug)]
struct RealFile {
    fd: OwnedFd,
    pinned: bool,
}

impl BackingFile for RealFile {
    fn open_pinned(&self, access: Access) -> io::Result<Arc<dyn BackingFile>> {
        // Through the magic link, which leads to the inode itself.
        if !self.pinned || self.stat()?.kind != Kind::File {
            return Err(Errno::INVAL.into());
        }
        let flags = content_flags(access);
        let fd = match rustix::fs::openat(CWD, proc_fd(&self.fd), flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::ACCESS) => open_held_despite_mode(&self.fd, flags)?,
            Err(error) => return Err(error.into()),
        };
        Ok(Arc::new(RealFile { fd, pinned: false }))
    }

    fn read_vectored_at(&self, bufs: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<usize> {
        let mut bufs = bufs;
        let mut done = 0;
        while !bufs.is_empty() {
            let batch = bufs.len().min(MAX_IOVECS);
            match rustix::io::preadv(&self.fd, &mut bufs[..batch], offset + done as u64) {
                Ok(0) => break,
                Ok(n) => {
                    done += n;
                    IoSliceMut::advance_slices(&mut bufs, n);
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(done)
    }

    fn write_all_vectored_at(&self, bufs: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        let mut bufs = bufs;
        let mut done = 0;
        while bufs.iter().any(|buf| !buf.is_empty()) {
            let batch = bufs.len().min(MAX_IOVECS);
            match rustix::io::pwritev(&self.fd, &bufs[..batch], offset + done as u64) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => {
                    done += n;
                    IoSlice::advance_slices(&mut bufs, n);
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        Ok(rustix::fs::ftruncate(&self.fd, len)?)
    }

    fn reserve(&self, offset: u64, len: u64) -> io::Result<()> {
        Ok(rustix::fs::fallocate(&self.fd, FallocateFlags::KEEP_SIZE, offset, len)?)
    }

    fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()> {
        Ok(rustix::fs::fallocate(&self.fd, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, len)?)
    }

    fn sync(&self, metadata: bool) -> io::Result<()> {
        Ok(if metadata { rustix::fs::fsync(&self.fd) } else { rustix::fs::fdatasync(&self.fd) }?)
    }

    fn stat(&self) -> io::Result<Stat> {
        to_stat(&rustix::fs::fstat(&self.fd)?)
    }

    fn set_mode(&self, mode: u32) -> io::Result<()> {
        if !self.pinned {
            return Ok(rustix::fs::fchmod(&self.fd, mode_bits(mode))?);
        }
        if self.stat()?.kind == Kind::Symlink {
            return Err(Errno::OPNOTSUPP.into());
        }
        Ok(rustix::fs::chmodat(CWD, proc_fd(&self.fd), mode_bits(mode), AtFlags::empty())?)
    }

    fn set_owner(&self, uid: Option<u32>, gid: Option<u32>) -> io::Result<()> {
        Ok(rustix::fs::chownat(&self.fd, "", to_uid(uid), to_gid(gid), AtFlags::EMPTY_PATH)?)
    }

    fn set_times(&self, atime: SetTime, mtime: SetTime) -> io::Result<()> {
        let times = to_times(atime, mtime);
        if self.pinned {
            return Ok(rustix::fs::utimensat(CWD, proc_fd(&self.fd), &times, AtFlags::empty())?);
        }
        Ok(rustix::fs::futimens(&self.fd, &times)?)
    }

    fn get_xattr(&self, attr: &OsStr) -> io::Result<Vec<u8>> {
        let path = proc_fd(&self.fd);
        read_growing(|out| rustix::fs::getxattr(&*path, attr, spare_capacity(out)))
    }

    fn set_xattr(&self, attr: &OsStr, value: &[u8], how: XattrHow) -> io::Result<()> {
        Ok(rustix::fs::setxattr(proc_fd(&self.fd), attr, value, xattr_flags(how))?)
    }

    fn list_xattrs(&self) -> io::Result<Vec<OsString>> {
        let path = proc_fd(&self.fd);
        split_names(read_growing(|out| rustix::fs::listxattr(&*path, spare_capacity(out)))?)
    }

    fn remove_xattr(&self, attr: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::removexattr(proc_fd(&self.fd), attr)?)
    }
}

/// A directory being listed, a buffer of entries at a time.
struct RealStream {
    fd: OwnedFd,
    buffer: Vec<u8>,
    fetched: VecDeque<DirEntry>,
}

impl RealStream {
    /// Takes over one buffer of entries. It is emptied completely, so the descriptor's own position is
    /// always behind the last entry fetched.
    fn fetch(&mut self) -> io::Result<()> {
        let space: &mut [MaybeUninit<u8>] = self.buffer.spare_capacity_mut();
        let mut raw = RawDir::new(self.fd.as_fd(), space);
        while let Some(entry) = raw.next() {
            let entry = entry?;
            self.fetched.push_back(DirEntry {
                name: OsStr::from_bytes(entry.file_name().to_bytes()).to_os_string(),
                ino: entry.ino(),
                kind: kind_of_type(entry.file_type()),
                offset: entry.next_entry_cookie().cast_signed(),
            });
            if raw.is_buffer_empty() {
                break;
            }
        }
        Ok(())
    }
}

impl DirStream for RealStream {
    fn seek(&mut self, offset: i64) -> io::Result<()> {
        self.fetched.clear();
        rustix::fs::seek(&self.fd, SeekFrom::Start(offset.cast_unsigned()))?;
        Ok(())
    }

    fn next(&mut self) -> io::Result<Option<DirEntry>> {
        if self.fetched.is_empty() {
            self.fetch()?;
        }
        Ok(self.fetched.pop_front())
    }
}

/// The magic link of a descriptor (proc(5)), for calls that have no `f…at` form with `AT_EMPTY_PATH`.
fn proc_fd(fd: &OwnedFd) -> Vec<u8> {
    format!("/proc/self/fd/{}", fd.as_raw_fd()).into_bytes()
}

/// Calls `read`, which appends to its argument, with more and more room while it reports ERANGE.
fn read_growing(read: impl Fn(&mut Vec<u8>) -> Result<usize, Errno>) -> io::Result<Vec<u8>> {
    // 64 KiB is the limit of both a value and a list of names (xattr(7)).
    for room in [512, 4 * 1024, 64 * 1024] {
        let mut out = Vec::with_capacity(room);
        match read(&mut out) {
            Ok(_) => return Ok(out),
            Err(Errno::RANGE) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(Errno::RANGE.into())
}

fn split_names(list: Vec<u8>) -> io::Result<Vec<OsString>> {
    Ok(list.split(|&b| b == 0).filter(|n| !n.is_empty()).map(|n| OsStr::from_bytes(n).to_os_string()).collect())
}

fn mode_bits(mode: u32) -> Mode {
    Mode::from_raw_mode(mode & 0o7777)
}

fn xattr_flags(how: XattrHow) -> XattrFlags {
    match how {
        XattrHow::Set => XattrFlags::empty(),
        XattrHow::Create => XattrFlags::CREATE,
        XattrHow::Replace => XattrFlags::REPLACE,
    }
}

fn to_uid(id: Option<u32>) -> Option<Uid> {
    id.map(Uid::from_raw)
}

fn to_gid(id: Option<u32>) -> Option<Gid> {
    id.map(Gid::from_raw)
}

fn to_times(atime: SetTime, mtime: SetTime) -> Timestamps {
    let one = |time: SetTime| match time {
        SetTime::Keep => Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT },
        SetTime::Now => Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW },
        SetTime::To(t) => Timespec { tv_sec: t.secs, tv_nsec: t.nanos.into() },
    };
    Timestamps { last_access: one(atime), last_modification: one(mtime) }
}

fn kind_of_type(kind: FileType) -> Option<Kind> {
    match kind {
        FileType::RegularFile => Some(Kind::File),
        FileType::Directory => Some(Kind::Dir),
        FileType::Symlink => Some(Kind::Symlink),
        FileType::Fifo => Some(Kind::Fifo),
        FileType::Socket => Some(Kind::Socket),
        FileType::CharacterDevice => Some(Kind::CharDevice),
        FileType::BlockDevice => Some(Kind::BlockDevice),
        FileType::Unknown => None,
    }
}

fn kind_of(mode: u32) -> io::Result<Kind> {
    kind_of_type(FileType::from_raw_mode(mode)).ok_or_else(|| Errno::INVAL.into())
}

fn to_stat(stat: &rustix::fs::Stat) -> io::Result<Stat> {
    let time = |secs: i64, nanos: u64| Timestamp { secs, nanos: nanos as u32 };
    Ok(Stat {
        dev: stat.st_dev,
        ino: stat.st_ino,
        kind: kind_of(stat.st_mode)?,
        mode: stat.st_mode & 0o7777,
        nlink: stat.st_nlink,
        uid: stat.st_uid,
        gid: stat.st_gid,
        rdev: stat.st_rdev,
        size: stat.st_size.cast_unsigned(),
        blocks: stat.st_blocks.cast_unsigned(),
        atime: time(stat.st_atime, stat.st_atime_nsec),
        mtime: time(stat.st_mtime, stat.st_mtime_nsec),
        ctime: time(stat.st_ctime, stat.st_ctime_nsec),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch() -> (tempfile::TempDir, Arc<dyn BackingDir>) {
        let dir = tempfile::tempdir().unwrap();
        let root = open_root(dir.path()).unwrap();
        (dir, root)
    }

    fn name(text: &str) -> &OsStr {
        OsStr::new(text)
    }

    #[test]
    fn a_file_is_written_and_read_in_several_buffers() {
        let (_keep, root) = scratch();
        let file = root.create_file(name("f"), 0o640).unwrap();
        file.write_all_vectored_at(&mut [IoSlice::new(b"abc"), IoSlice::new(b""), IoSlice::new(b"defg")], 2).unwrap();
        let (mut a, mut b) = ([0; 4], [0; 9]);
        let read = file.read_vectored_at(&mut [IoSliceMut::new(&mut a), IoSliceMut::new(&mut b)], 1).unwrap();
        assert_eq!((read, &a, &b[..4]), (8, b"\0abc", &b"defg"[..]));
        assert_eq!(root.stat(name("f")).unwrap().mode, 0o640);
        assert_eq!(root.create_file(name("f"), 0o600).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    }

    #[test]
    fn more_buffers_than_one_system_call_takes() {
        let (_keep, root) = scratch();
        let file = root.create_file(name("f"), 0o600).unwrap();
        let byte = [7u8];
        file.write_all_vectored_at(&mut vec![IoSlice::new(&byte); 3000], 0).unwrap();
        let mut out = vec![[0u8]; 3000];
        let mut bufs: Vec<_> = out.iter_mut().map(|b| IoSliceMut::new(b)).collect();
        assert_eq!(file.read_vectored_at(&mut bufs, 0).unwrap(), 3000);
        assert!(out.iter().all(|b| b[0] == 7));
    }

    #[test]
    fn symlinks_are_never_followed() {
        let (keep, root) = scratch();
        std::fs::write(keep.path().join("target"), "x").unwrap();
        std::fs::create_dir(keep.path().join("dir")).unwrap();
        root.make_symlink(name("to_file"), name("target")).unwrap();
        root.make_symlink(name("to_dir"), name("dir")).unwrap();
        for access in [Access::Read, Access::ReadWrite] {
            let error = root.open_file(name("to_file"), access).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::ELOOP));
        }
        assert!(root.open_dir(name("to_dir")).is_err());
        assert_eq!(root.set_mode(name("to_file"), 0o777).unwrap_err().raw_os_error(), Some(libc::EOPNOTSUPP));
        let before = root.stat(name("target")).unwrap();
        root.set_owner(name("to_file"), Some(1), Some(1)).unwrap();
        root.set_times(name("to_file"), SetTime::To(Timestamp::default()), SetTime::To(Timestamp::default())).unwrap();
        assert_eq!(root.stat(name("target")).unwrap(), before);
        assert_eq!(root.read_link(name("to_file")).unwrap(), "target");
    }

    #[test]
    fn only_regular_files_are_opened() {
        let (_keep, root) = scratch();
        root.make_node(name("fifo"), libc::S_IFIFO | 0o600, 0).unwrap();
        root.make_dir(name("dir"), 0o700).unwrap();
        assert_eq!(root.open_file(name("fifo"), Access::ReadWrite).unwrap_err().raw_os_error(), Some(libc::EINVAL));
        assert_eq!(root.open_file(name("fifo"), Access::Read).unwrap_err().raw_os_error(), Some(libc::EINVAL));
        assert!(root.open_file(name("dir"), Access::Read).is_err());
    }

    #[test]
    fn a_listing_continues_at_any_entry() {
        let (_keep, root) = scratch();
        for n in 0..2000 {
            root.make_node(name(&format!("entry-with-a-name-of-some-length-{n}")), libc::S_IFREG | 0o600, 0).unwrap();
        }
        let mut stream = root.list().unwrap();
        let mut all = Vec::new();
        while let Some(entry) = stream.next().unwrap() {
            all.push(entry);
        }
        assert_eq!(all.len(), 2002, "2000 entries, . and ..");
        for at in [0, 1, 777, 2000, 2001] {
            stream.seek(all[at].offset).unwrap();
            let next = stream.next().unwrap().map(|e| e.name);
            assert_eq!(next, all.get(at + 1).map(|e| e.name.clone()));
        }
        stream.seek(0).unwrap();
        assert_eq!(stream.next().unwrap().unwrap().name, all[0].name);
    }

    #[test]
    fn a_pinned_inode_outlives_its_name() {
        let (_keep, root) = scratch();
        drop(root.create_file(name("f"), 0o600).unwrap());
        let pinned = root.pin(name("f")).unwrap();
        root.unlink(name("f")).unwrap();
        assert_eq!(pinned.stat().unwrap().nlink, 0);
        pinned.set_mode(0o640).unwrap();
        pinned.set_times(SetTime::Keep, SetTime::To(Timestamp { secs: 7, nanos: 9 })).unwrap();
        pinned.set_xattr(name("user.a"), b"value", XattrHow::Create).unwrap();
        assert_eq!(pinned.get_xattr(name("user.a")).unwrap(), b"value");
        assert_eq!(pinned.list_xattrs().unwrap(), ["user.a"]);
        let stat = pinned.stat().unwrap();
        assert_eq!((stat.mode, stat.mtime), (0o640, Timestamp { secs: 7, nanos: 9 }));
    }

    #[test]
    fn xattrs_of_entries_and_of_the_directory_itself() {
        let (_keep, root) = scratch();
        root.make_dir(name("d"), 0o700).unwrap();
        let long = vec![3u8; 3000];
        for entry in ["d", "."] {
            root.set_xattr(name(entry), name("user.a"), &long, XattrHow::Set).unwrap();
            assert_eq!(root.get_xattr(name(entry), name("user.a")).unwrap(), long);
            let error = root.set_xattr(name(entry), name("user.a"), b"", XattrHow::Create).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EEXIST));
            root.remove_xattr(name(entry), name("user.a")).unwrap();
            assert!(root.list_xattrs(name(entry)).unwrap().is_empty());
        }
    }

    #[test]
    fn rename_and_link_between_directories() {
        let (_keep, root) = scratch();
        root.make_dir(name("d"), 0o700).unwrap();
        let d = root.open_dir(name("d")).unwrap();
        drop(root.create_file(name("a"), 0o600).unwrap());
        root.link(name("a"), &*d, name("b")).unwrap();
        assert_eq!(root.stat(name("a")).unwrap().nlink, 2);
        drop(root.create_file(name("c"), 0o600).unwrap());
        let error = root.rename(name("c"), &*d, name("b"), RenameHow::NoReplace).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EEXIST));
        let (b, c) = (d.stat(name("b")).unwrap().ino, root.stat(name("c")).unwrap().ino);
        root.rename(name("c"), &*d, name("b"), RenameHow::Exchange).unwrap();
        assert_eq!((d.stat(name("b")).unwrap().ino, root.stat(name("c")).unwrap().ino), (c, b));
        root.sync().unwrap();
    }
}
