//! The filesystem: inodes, names, handles, attributes, without any FUSE type.
//!
//! (Skeleton of the interface that `fuse` is written against.)

mod error;

use std::ffi::{OsStr, OsString};
use std::ops::Range;
use std::sync::Arc;

pub use error::FsError;

use crate::keys::KeyRing;
pub use crate::store::{BackingDir, Kind, RenameHow, SetTime, Timestamp, VolumeStat, XattrHow};

/// Result of a filesystem operation.
pub type Result<T> = std::result::Result<T, FsError>;

/// Inode number as programs see it: the backing inode's number, so it is stable over remounts; the root is [`Ino::ROOT`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ino(pub u64);

impl Ino {
    /// The root directory.
    pub const ROOT: Ino = Ino(1);
}

/// An open file or directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct HandleId(pub u64);

/// Who asks; new files belong to them.
#[derive(Debug, Clone, Copy)]
pub struct Caller {
    /// Filesystem user id.
    pub uid: u32,
    /// Filesystem group id.
    pub gid: u32,
    /// Process id, 0 if unknown; its supplementary groups are looked up where a rule depends on them.
    pub pid: u32,
}

/// What `stat` shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Attr {
    pub ino: Ino,
    pub kind: Kind,
    /// Permission bits with suid, sgid and sticky.
    pub mode: u32,
    pub nlink: u32,
    pub uid: u32,
    pub gid: u32,
    pub rdev: u64,
    /// Plain size.
    pub size: u64,
    /// Allocated 512-byte units of the backing file.
    pub blocks: u64,
    pub atime: Timestamp,
    pub mtime: Timestamp,
    pub ctime: Timestamp,
}

/// A looked-up entry. Each one returned counts as one lookup, undone by [`Fs::forget`].
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// Its attributes.
    pub attr: Attr,
    /// Tells two lives of one inode number apart.
    pub generation: u64,
}

/// Attributes to change; `None` and `Keep` leave as is.
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs)]
pub struct SetAttr {
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub size: Option<u64>,
    pub atime: SetTime,
    pub mtime: SetTime,
}

/// How a file is opened.
#[derive(Debug, Clone, Copy, Default)]
#[allow(missing_docs)]
pub struct OpenHow {
    /// For writing (readable handles are always served reads: the kernel's cache reads before partial writes).
    pub write: bool,
    pub truncate: bool,
    /// `O_SYNC` or `O_DSYNC`: each write is durable before it returns.
    pub sync: bool,
}

/// How one write is done.
#[derive(Debug, Clone, Copy, Default)]
pub struct WriteHow {
    /// Comes from the kernel's write-back cache, which owns the mtime.
    pub from_cache: bool,
    /// Clear suid and sgid (`FUSE_WRITE_KILL_SUIDGID`).
    pub kill_suid_sgid: bool,
}

/// `fallocate(2)` modes that are served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Fallocate {
    Allocate { keep_size: bool },
    PunchHole,
    ZeroRange { keep_size: bool },
}

/// `lseek(2)` on data and holes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Seek {
    Data,
    Hole,
}

/// One entry of a listing.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct DirItem {
    pub ino: Ino,
    pub kind: Kind,
    pub name: OsString,
    /// Position behind this entry.
    pub offset: i64,
}

/// What the mount decides for the filesystem.
#[derive(Debug, Clone, Copy)]
pub struct FsOptions {
    /// Nothing is changed in the backing directory.
    pub read_only: bool,
    /// New files are given to the caller (the daemon runs as root); otherwise they are the daemon's.
    pub give_to_caller: bool,
    /// Reads and writes are counted as complete only at `flush`: pending headers wait until then. Without it every
    /// write commits (`flush` is never called).
    pub commit_on_flush: bool,
}

/// A mounted volume. Methods may be called from any number of threads.
pub struct Fs {}

#[allow(unused_variables, missing_docs)]
impl Fs {
    /// # Errors
    /// If the root directory cannot be read or has no directory id.
    pub fn new(root: Arc<dyn BackingDir>, ring: Arc<KeyRing>, options: FsOptions) -> Result<Fs> {
        todo!()
    }
    pub fn lookup(&self, parent: Ino, name: &OsStr) -> Result<Entry> {
        todo!()
    }
    pub fn forget(&self, ino: Ino, lookups: u64) {
        todo!()
    }
    pub fn getattr(&self, ino: Ino) -> Result<Attr> {
        todo!()
    }
    pub fn setattr(&self, caller: &Caller, ino: Ino, set: &SetAttr) -> Result<Attr> {
        todo!()
    }
    pub fn readlink(&self, ino: Ino) -> Result<Vec<u8>> {
        todo!()
    }
    /// `mode` is complete with type and not masked; `umask` is applied unless the parent has a default ACL.
    pub fn mknod(&self, caller: &Caller, parent: Ino, name: &OsStr, mode: u32, umask: u32, rdev: u64) -> Result<Entry> {
        todo!()
    }
    pub fn mkdir(&self, caller: &Caller, parent: Ino, name: &OsStr, mode: u32, umask: u32) -> Result<Entry> {
        todo!()
    }
    pub fn symlink(&self, caller: &Caller, parent: Ino, name: &OsStr, target: &OsStr) -> Result<Entry> {
        todo!()
    }
    pub fn link(&self, ino: Ino, parent: Ino, name: &OsStr) -> Result<Entry> {
        todo!()
    }
    pub fn unlink(&self, parent: Ino, name: &OsStr) -> Result<()> {
        todo!()
    }
    pub fn rmdir(&self, parent: Ino, name: &OsStr) -> Result<()> {
        todo!()
    }
    pub fn rename(&self, parent: Ino, name: &OsStr, to: Ino, to_name: &OsStr, how: RenameHow) -> Result<()> {
        todo!()
    }
    /// EEXIST if it exists.
    pub fn create(
        &self,
        caller: &Caller,
        parent: Ino,
        name: &OsStr,
        mode: u32,
        umask: u32,
        how: OpenHow,
    ) -> Result<(Entry, HandleId)> {
        todo!()
    }
    pub fn open(&self, caller: &Caller, ino: Ino, how: OpenHow) -> Result<HandleId> {
        todo!()
    }
    /// Bytes read are `buf[range]`; `buf` is reused between calls.
    pub fn read(&self, handle: HandleId, offset: u64, len: usize, buf: &mut Vec<u8>) -> Result<Range<usize>> {
        todo!()
    }
    pub fn write(&self, handle: HandleId, offset: u64, data: &[u8], how: WriteHow) -> Result<()> {
        todo!()
    }
    pub fn flush(&self, handle: HandleId) -> Result<()> {
        todo!()
    }
    pub fn release(&self, handle: HandleId) -> Result<()> {
        todo!()
    }
    pub fn fsync(&self, handle: HandleId, data_only: bool) -> Result<()> {
        todo!()
    }
    pub fn fallocate(&self, handle: HandleId, offset: u64, len: u64, how: Fallocate) -> Result<()> {
        todo!()
    }
    pub fn lseek(&self, handle: HandleId, offset: u64, whence: Seek) -> Result<u64> {
        todo!()
    }
    /// Returns the bytes copied, fewer than asked only at the end of the source.
    pub fn copy_file_range(
        &self,
        from: HandleId,
        from_offset: u64,
        to: HandleId,
        to_offset: u64,
        len: u64,
    ) -> Result<u64> {
        todo!()
    }
    pub fn opendir(&self, ino: Ino) -> Result<HandleId> {
        todo!()
    }
    /// Calls `take` for each entry behind `offset` (`.` and `..` included) until it returns false (the reply is full; that entry comes again next time).
    pub fn readdir(&self, handle: HandleId, offset: i64, take: &mut dyn FnMut(&DirItem) -> bool) -> Result<()> {
        todo!()
    }
    /// Like [`readdir`](Self::readdir) with attributes; each taken entry but `.` and `..` counts as a lookup.
    pub fn readdirplus(
        &self,
        handle: HandleId,
        offset: i64,
        take: &mut dyn FnMut(&DirItem, &Entry) -> bool,
    ) -> Result<()> {
        todo!()
    }
    pub fn releasedir(&self, handle: HandleId) {
        todo!()
    }
    pub fn fsyncdir(&self, handle: HandleId) -> Result<()> {
        todo!()
    }
    pub fn statfs(&self) -> Result<VolumeStat> {
        todo!()
    }
    pub fn getxattr(&self, ino: Ino, name: &OsStr) -> Result<Vec<u8>> {
        todo!()
    }
    pub fn setxattr(&self, caller: &Caller, ino: Ino, name: &OsStr, value: &[u8], how: XattrHow) -> Result<()> {
        todo!()
    }
    pub fn listxattr(&self, ino: Ino) -> Result<Vec<OsString>> {
        todo!()
    }
    pub fn removexattr(&self, ino: Ino, name: &OsStr) -> Result<()> {
        todo!()
    }
    /// Commits everything pending and releases what is open: after unmounting.
    pub fn shut_down(&self) -> Result<()> {
        todo!()
    }
}
