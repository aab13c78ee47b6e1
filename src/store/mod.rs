//! The backing directory: names, attributes and blocks of backing files.
//!
//! Two seams meet here. Above, [`BlockFile`] is what the `file` room writes through: it says which blocks
//! are fresh (nothing committed refers to them) and which replace something, and asks for a commit; how that
//! becomes crash-safe is this room's business alone: [`Store`] with its journal, described in `journal.md`. Below, [`BackingDir`] and [`BackingFile`] are the narrow traits through
//! which every system call on the backing directory goes, so that another implementation can record,
//! reorder, tear or refuse them. [`dir`] holds the real one.
//!
//! Nothing here knows a key or sees plaintext.

mod block;
pub mod dir;
mod journal;
mod ledger;
pub mod mem;
mod record;
mod recovery;
mod registry;
#[cfg(test)]
mod tests;

use std::ffi::{OsStr, OsString};
use std::io;
use std::sync::Arc;

pub use block::{BlockFile, Durability};
pub use dir::open_root;
pub use journal::{MAX_LEN as JOURNAL_MAX, MIN_LEN as JOURNAL_MIN};
pub use ledger::Ticket;
pub use registry::{CONTROL_DIR, Rule, Store, StoreError, StoreOptions};

/// A backing directory, held open: names are resolved relative to it and symlinks are never followed.
///
/// `name` is a single component, or `"."` for the directory itself where a method acts on an existing entry.
/// Errors are those of the underlying system call.
pub trait BackingDir: Send + Sync + std::fmt::Debug + 'static {
    /// Opens a subdirectory, for names only (`O_PATH`): search permission suffices.
    fn open_dir(&self, name: &OsStr) -> io::Result<Arc<dyn BackingDir>>;
    /// Starts a listing of this directory; `.` and `..` are among the entries, so that each has an offset of its own.
    fn list(&self) -> io::Result<Box<dyn DirStream>>;
    /// Attributes of the entry itself (`lstat`).
    fn stat(&self, name: &OsStr) -> io::Result<Stat>;
    /// Creates a regular file that must not exist, open for reading and writing whatever `mode` says.
    fn create_file(&self, name: &OsStr, mode: u32) -> io::Result<Arc<dyn BackingFile>>;
    /// Opens an existing regular file; ELOOP for a symlink, EINVAL for any other kind.
    fn open_file(&self, name: &OsStr, access: Access) -> io::Result<Arc<dyn BackingFile>>;
    /// [`open_file`](Self::open_file), and the attributes of what was opened.
    fn open_file_and_stat(&self, name: &OsStr, access: Access) -> io::Result<(Arc<dyn BackingFile>, Stat)> {
        let file = self.open_file(name, access)?;
        let stat = file.stat()?;
        Ok((file, stat))
    }
    /// Holds on to an entry of any kind so that it can be reached after it was unlinked; contents cannot be read through it.
    fn pin(&self, name: &OsStr) -> io::Result<Arc<dyn BackingFile>>;
    /// Makes a directory.
    fn make_dir(&self, name: &OsStr, mode: u32) -> io::Result<()>;
    /// Makes a FIFO, socket, device node or empty regular file: `mode` includes the type, `rdev` is the device number.
    fn make_node(&self, name: &OsStr, mode: u32, rdev: u64) -> io::Result<()>;
    /// Makes a symlink with the given target bytes.
    fn make_symlink(&self, name: &OsStr, target: &OsStr) -> io::Result<()>;
    /// The target of a symlink.
    fn read_link(&self, name: &OsStr) -> io::Result<OsString>;
    /// Hard link; `to` must come from the same implementation.
    fn link(&self, name: &OsStr, to: &dyn BackingDir, to_name: &OsStr) -> io::Result<()>;
    /// Renames as `renameat2(2)`; `to` must come from the same implementation.
    fn rename(&self, name: &OsStr, to: &dyn BackingDir, to_name: &OsStr, how: RenameHow) -> io::Result<()>;
    /// Removes an entry that is not a directory.
    fn unlink(&self, name: &OsStr) -> io::Result<()>;
    /// Removes an empty directory.
    fn remove_dir(&self, name: &OsStr) -> io::Result<()>;
    /// `fchmodat`; EOPNOTSUPP for a symlink.
    fn set_mode(&self, name: &OsStr, mode: u32) -> io::Result<()>;
    /// `lchown`; `None` leaves the id alone.
    fn set_owner(&self, name: &OsStr, uid: Option<u32>, gid: Option<u32>) -> io::Result<()>;
    /// `utimensat` without following.
    fn set_times(&self, name: &OsStr, atime: SetTime, mtime: SetTime) -> io::Result<()>;
    /// `lgetxattr`.
    fn get_xattr(&self, name: &OsStr, attr: &OsStr) -> io::Result<Vec<u8>>;
    /// `lsetxattr`.
    fn set_xattr(&self, name: &OsStr, attr: &OsStr, value: &[u8], how: XattrHow) -> io::Result<()>;
    /// `llistxattr`.
    fn list_xattrs(&self, name: &OsStr) -> io::Result<Vec<OsString>>;
    /// `lremovexattr`.
    fn remove_xattr(&self, name: &OsStr, attr: &OsStr) -> io::Result<()>;
    /// Makes the directory's entries durable (`fsync` of the directory).
    fn sync(&self) -> io::Result<()>;
    /// Makes everything on the backing filesystem durable (`syncfs(2)`).
    fn sync_all(&self) -> io::Result<()>;
    /// `fstatvfs`.
    fn stat_volume(&self) -> io::Result<VolumeStat>;
    /// For [`link`](Self::link) and [`rename`](Self::rename) to recognise their own kind.
    fn as_any(&self) -> &dyn std::any::Any;
}

/// An open (or pinned) backing file.
pub trait BackingFile: Send + Sync + std::fmt::Debug + 'static {
    /// Opens a pinned regular file for its contents, whatever became of its names; EINVAL for any other kind.
    fn open_pinned(&self, access: Access) -> io::Result<Arc<dyn BackingFile>>;
    /// Reads into the buffers in turn (`preadv`), retrying short reads; less than asked means end of file.
    fn read_vectored_at(&self, bufs: &mut [io::IoSliceMut<'_>], offset: u64) -> io::Result<usize>;
    /// Writes all of the buffers in turn (`pwritev`), retrying short writes.
    fn write_all_vectored_at(&self, bufs: &mut [io::IoSlice<'_>], offset: u64) -> io::Result<()>;
    /// `ftruncate`.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// `fallocate` with KEEP_SIZE: reserves space, changes neither length nor contents.
    fn reserve(&self, offset: u64, len: u64) -> io::Result<()>;
    /// `fallocate` with PUNCH_HOLE and KEEP_SIZE.
    fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()>;
    /// Makes contents (and with `metadata` all attributes) durable: `fsync` or `fdatasync`.
    fn sync(&self, metadata: bool) -> io::Result<()>;
    /// `fstat`.
    fn stat(&self) -> io::Result<Stat>;
    /// `fchmod`.
    fn set_mode(&self, mode: u32) -> io::Result<()>;
    /// `fchown`.
    fn set_owner(&self, uid: Option<u32>, gid: Option<u32>) -> io::Result<()>;
    /// `futimens`.
    fn set_times(&self, atime: SetTime, mtime: SetTime) -> io::Result<()>;
    /// `fgetxattr`.
    fn get_xattr(&self, attr: &OsStr) -> io::Result<Vec<u8>>;
    /// `fsetxattr`.
    fn set_xattr(&self, attr: &OsStr, value: &[u8], how: XattrHow) -> io::Result<()>;
    /// `flistxattr`.
    fn list_xattrs(&self) -> io::Result<Vec<OsString>>;
    /// `fremovexattr`.
    fn remove_xattr(&self, attr: &OsStr) -> io::Result<()>;
}

/// A directory being listed.
pub trait DirStream: Send {
    /// Continues behind the entry that reported `offset`; 0 is the beginning.
    fn seek(&mut self, offset: i64) -> io::Result<()>;
    /// The next entry, or `None` at the end.
    fn next(&mut self) -> io::Result<Option<DirEntry>>;
}

/// One entry of a listing.
#[derive(Debug, Clone)]
pub struct DirEntry {
    /// Stored name.
    pub name: OsString,
    /// Backing inode number.
    pub ino: u64,
    /// Kind, where the backing filesystem reports it.
    pub kind: Option<Kind>,
    /// Position behind this entry, for [`DirStream::seek`]; stable while the directory changes (telldir(3)).
    pub offset: i64,
}

/// Kind of an inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Kind {
    File,
    Dir,
    Symlink,
    Fifo,
    Socket,
    CharDevice,
    BlockDevice,
}

/// How a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Read only.
    Read,
    /// Read and write.
    ReadWrite,
}

/// What `rename` does where the target exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RenameHow {
    /// Replaces it.
    Replace,
    /// Fails with EEXIST (`RENAME_NOREPLACE`).
    NoReplace,
    /// Exchanges the two (`RENAME_EXCHANGE`).
    Exchange,
}

/// What setting an xattr does where it exists or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum XattrHow {
    /// Creates or replaces.
    Set,
    /// `XATTR_CREATE`: EEXIST if there is one.
    Create,
    /// `XATTR_REPLACE`: ENODATA if there is none.
    Replace,
}

/// Seconds and nanoseconds since the epoch; seconds may be negative, nanoseconds are 0..1e9.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Timestamp {
    /// Seconds.
    pub secs: i64,
    /// Nanoseconds.
    pub nanos: u32,
}

/// What becomes of one timestamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetTime {
    /// Stays as it is (`UTIME_OMIT`).
    Keep,
    /// Becomes the current time (`UTIME_NOW`).
    Now,
    /// Becomes this.
    To(Timestamp),
}

/// Attributes of a backing inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Stat {
    /// Device the inode is on: differs where something is mounted inside the backing directory.
    pub dev: u64,
    pub ino: u64,
    pub kind: Kind,
    /// Permission bits, suid, sgid and sticky included (`mode & 0o7777`).
    pub mode: u32,
    pub nlink: u64,
    pub uid: u32,
    pub gid: u32,
    /// Device number of a device node.
    pub rdev: u64,
    /// Stored length in bytes.
    pub size: u64,
    /// Allocated 512-byte units.
    pub blocks: u64,
    pub atime: Timestamp,
    pub mtime: Timestamp,
    pub ctime: Timestamp,
}

/// Capacity of the backing filesystem (`statvfs`), in units of `block_size` bytes.
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs)]
pub struct VolumeStat {
    pub block_size: u64,
    pub fragment_size: u64,
    pub blocks: u64,
    pub blocks_free: u64,
    pub blocks_available: u64,
    pub files: u64,
    pub files_free: u64,
    pub name_max: u64,
}
