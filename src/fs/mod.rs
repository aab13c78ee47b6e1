#![doc = include_str!("semantics.md")]

mod attr;
pub mod check;
mod dir;
mod error;
mod handle;
mod inode;
mod io;
mod name;
mod namespace;
pub mod rewrap;
mod xattr;

use std::ffi::{OsStr, OsString};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use lru::LruCache;
use parking_lot::Mutex;

pub use error::FsError;

use handle::HandleTable;
use inode::{Inode, InodeTable};
use name::{DirId, StoredName};

use crate::keys::KeyRing;
pub use crate::store::{BackingDir, Kind, RenameHow, SetTime, Timestamp, VolumeStat, XattrHow};
use crate::store::{BackingFile, Stat, Store, StoreOptions};

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
    /// Comes from a shared memory map by way of the kernel's page cache, through any handle.
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
    /// How contents are kept over crashes; of no account where nothing is changed.
    pub store: StoreOptions,
}

/// Directories held open, most recently used first; each costs a descriptor.
const OPEN_DIRS: NonZeroUsize = NonZeroUsize::new(512).unwrap();

/// Attempts at reaching an inode by a name that others are renaming.
const NAME_ATTEMPTS: usize = 8;
/// Between them: ample for the rename under way.
const NAME_PAUSE: Duration = Duration::from_micros(200);

/// A mounted volume. Methods may be called from any number of threads.
///
/// The operations are in the files of this module: names in `namespace.rs`, attributes in `attr.rs`, contents in `io.rs`,
/// listings in `dir.rs`, extended attributes in `xattr.rs`. Here is how a number becomes something to work on.
pub struct Fs {
    root: Arc<dyn BackingDir>,
    /// Backing device and inode number of the root.
    root_dev: u64,
    root_ino: u64,
    ring: Arc<KeyRing>,
    options: FsOptions,
    inodes: InodeTable,
    handles: HandleTable,
    dirs: Mutex<LruCache<Ino, Arc<dyn BackingDir>>>,
    /// `None` where nothing is changed.
    store: Option<Arc<Store>>,
    /// Files that nobody has open and that the store is not done with: they stay open until it is, so that whoever comes meanwhile
    /// finds what was written. Each counts as a reference to its inode.
    lingering: Mutex<Vec<Arc<Inode>>>,
    /// For a walk over all headers that is under way.
    moved: rewrap::Moved,
}

/// Where the attributes of an inode are reached.
enum Spot {
    /// Through a name.
    At(Arc<dyn BackingDir>, OsString),
    /// Through something held open.
    Held(Arc<dyn BackingFile>),
}

/// Directory, its id and the stored form of a name in it: where an operation on a name works.
struct Place {
    parent: Arc<Inode>,
    dir: Arc<dyn BackingDir>,
    name: StoredName,
}

impl Place {
    fn entry(&self) -> &OsStr {
        &self.name.entry
    }
}

fn posix(errno: i32) -> FsError {
    FsError::Posix(errno)
}

/// True for the error that says a name is not there.
fn is_missing(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::NotFound
}

impl Fs {
    /// Takes over a backing directory, exclusively, and brings it to the state that an unclean stop left in the journal.
    ///
    /// # Errors
    /// If the journal cannot be opened or replayed, or the root directory cannot be read or has lost its directory id.
    pub fn new(root: Arc<dyn BackingDir>, ring: Arc<KeyRing>, options: FsOptions) -> Result<Fs> {
        let volume = *ring.volume().as_bytes();
        let store = match options.read_only {
            true => Store::require_clean(&*root, volume).map(|()| None)?,
            false => Some(Store::open(root.clone(), volume, options.store)?),
        };
        let fs = Self::with_store(root, ring, options, store)?;
        let root = fs.inode(Ino::ROOT)?;
        fs.dir_id(&root, &fs.root)?;
        Ok(fs)
    }

    /// As [`new`](Self::new), but without a store, and also for a volume whose root has lost its id: for [`check`](Self::check).
    ///
    /// # Errors
    /// If the root directory cannot be examined.
    pub fn unchecked(root: Arc<dyn BackingDir>, ring: Arc<KeyRing>, options: FsOptions) -> Result<Fs> {
        Self::with_store(root, ring, options, None)
    }

    fn with_store(
        root: Arc<dyn BackingDir>,
        ring: Arc<KeyRing>,
        options: FsOptions,
        store: Option<Arc<Store>>,
    ) -> Result<Fs> {
        let stat = root.stat(OsStr::new("."))?;
        Ok(Fs {
            root,
            root_dev: stat.dev,
            root_ino: stat.ino,
            ring,
            options,
            inodes: InodeTable::new(),
            handles: HandleTable::default(),
            dirs: Mutex::new(LruCache::new(OPEN_DIRS)),
            store,
            lingering: Mutex::default(),
            moved: rewrap::Moved::default(),
        })
    }

    /// The background commit: makes everything written so far durable, so that it bounds what a power loss can take.
    ///
    /// # Errors
    /// The first one; the other files are committed all the same.
    pub fn commit_all(&self) -> Result<()> {
        let Some(store) = &self.store else { return Ok(()) };
        let mut outcome = Ok(());
        for handle in self.handles.files() {
            outcome = outcome.and(handle.open.file.commit_for_settling().map_err(FsError::from));
        }
        outcome = outcome.and(store.work().map_err(FsError::from));
        self.close_lingering();
        outcome
    }

    /// Waits until the background commit is due, which is at once where the store is short of room; false once
    /// [`stop_background`](Self::stop_background) was called.
    pub fn wait_for_background(&self, longest: Duration) -> bool {
        self.store.as_ref().is_some_and(|store| store.wait_for_work(longest))
    }

    /// Ends [`wait_for_background`](Self::wait_for_background), and a walk over the headers before its time.
    pub fn stop_background(&self) {
        self.moved.end();
        if let Some(store) = &self.store {
            store.stop_background();
        }
    }

    /// Commits everything and ends the session of the store, after which nothing can be written: for the time after unmounting.
    ///
    /// # Errors
    /// As [`commit_all`](Self::commit_all); the next mount then recovers.
    pub fn shut_down(&self) -> Result<()> {
        let Some(store) = &self.store else { return Ok(()) };
        if store.has_ended() {
            return Ok(());
        }
        self.commit_all()?;
        Ok(store.end()?)
    }

    /// Every inode that the kernel or a handle may refer to.
    pub fn known_inodes(&self) -> Vec<Ino> {
        self.inodes.numbers()
    }

    /// The keys in use.
    pub fn ring(&self) -> &KeyRing {
        &self.ring
    }

    fn check_writable(&self) -> Result<()> {
        if self.options.read_only { Err(posix(libc::EROFS)) } else { Ok(()) }
    }

    /// The number a program sees for a backing inode. The root is always 1; should the backing filesystem use 1 for
    /// another inode, that one is shown under the root's own number.
    fn ino_of(&self, backing: u64) -> Ino {
        match backing {
            n if n == self.root_ino => Ino::ROOT,
            1 => Ino(self.root_ino),
            n => Ino(n),
        }
    }

    /// The inode behind a number that the kernel named; ESTALE if it should know better.
    fn inode(&self, ino: Ino) -> Result<Arc<Inode>> {
        self.inodes.find(ino).ok_or_else(|| posix(libc::ESTALE))
    }

    /// Refuses an entry behind which another filesystem is mounted.
    fn check_device(&self, stat: &Stat) -> Result<()> {
        if stat.dev == self.root_dev { Ok(()) } else { Err(posix(libc::EXDEV)) }
    }

    /// A directory, held open.
    fn dir(&self, inode: &Inode) -> Result<Arc<dyn BackingDir>> {
        if inode.ino == Ino::ROOT {
            return Ok(self.root.clone());
        }
        if inode.kind != Kind::Dir {
            return Err(posix(libc::ENOTDIR));
        }
        if let Some(dir) = self.dirs.lock().get(&inode.ino) {
            return Ok(dir.clone());
        }
        // No link: removed while something still refers to it.
        let link = inode.first_link().ok_or_else(|| posix(libc::ENOENT))?;
        let parent = self.dir(&*self.inode(link.parent)?)?;
        let dir = parent.open_dir(&link.entry)?;
        if self.ino_of(dir.stat(OsStr::new("."))?.ino) != inode.ino {
            return Err(posix(libc::ESTALE));
        }
        self.dirs.lock().put(inode.ino, dir.clone());
        Ok(dir)
    }

    /// The id of a directory. An empty directory that has none (a crash came between) gets one.
    fn dir_id(&self, inode: &Inode, dir: &Arc<dyn BackingDir>) -> Result<DirId> {
        if let Some(id) = inode.dir_id.get() {
            return Ok(*id);
        }
        let _making = inode.dir_id_making.lock();
        let id = match dir.read_link(OsStr::new(name::DIR_ID)) {
            Ok(text) => DirId::from_text(&text).ok_or(FsError::Damaged("the directory's id is not one"))?,
            Err(error) if is_missing(&error) => {
                if !dir::is_empty(&**dir)? {
                    return Err(FsError::Damaged("the directory has entries but no id"));
                }
                let id = DirId::random();
                if self.options.read_only {
                    return Ok(id);
                }
                dir.make_symlink(OsStr::new(name::DIR_ID), &id.to_text())?;
                id
            }
            Err(error) => return Err(error.into()),
        };
        Ok(*inode.dir_id.get_or_init(|| id))
    }

    /// Where a name in a directory is stored.
    fn place(&self, parent: Ino, plain: &OsStr) -> Result<Place> {
        let parent = self.inode(parent)?;
        let dir = self.dir(&parent)?;
        let id = self.dir_id(&parent, &dir)?;
        let name = name::store(self.ring.names(), &id, plain)?;
        Ok(Place { parent, dir, name })
    }

    /// Where an inode's attributes are reached: the open file, the held inode or any of its names.
    fn spot(&self, inode: &Inode) -> Result<Spot> {
        if inode.ino == Ino::ROOT {
            return Ok(Spot::At(self.root.clone(), ".".into()));
        }
        if let Some(open) = inode.open_file() {
            return Ok(Spot::Held(open.raw()));
        }
        if let Some(held) = inode.pinned() {
            return Ok(Spot::Held(held));
        }
        let (dir, entry) = self.named(inode)?;
        Ok(Spot::At(dir, entry))
    }

    /// Any name of an inode, with the directory it is in.
    fn named(&self, inode: &Inode) -> Result<(Arc<dyn BackingDir>, OsString)> {
        let mut outcome = Err(posix(libc::ESTALE));
        for link in inode.links() {
            outcome = self.inode(link.parent).and_then(|parent| self.dir(&parent)).map(|dir| (dir, link.entry));
            if outcome.is_ok() {
                break;
            }
        }
        outcome
    }

    /// Does something to an inode by its name, again as long as the name moves on: `attempt` gives `None` when it reached another
    /// inode than it meant. The kernel locks an inode over a change of its attributes or its names, but not to open it or to ask for
    /// its attributes, and then it may lose its name to another file meanwhile.
    ///
    /// # Errors
    /// Those of `attempt`; ESTALE, on which the kernel looks the name up again, if no name leads to the inode.
    fn at_own_name<T>(&self, inode: &Inode, mut attempt: impl FnMut() -> Result<Option<T>>) -> Result<T> {
        let mut outcome = posix(libc::ESTALE);
        for _ in 0..NAME_ATTEMPTS {
            let names = inode.links();
            match attempt() {
                Ok(Some(done)) => return Ok(done),
                Ok(None) => {}
                // ENOENT may be a rename that the table has not heard of yet.
                Err(error) if error.errno() == libc::ENOENT => {}
                Err(error) if inode.links() == names && inode.pinned().is_none() => return Err(error),
                Err(error) => outcome = error,
            }
            std::thread::sleep(NAME_PAUSE);
        }
        Err(outcome)
    }

    /// Takes lookups back that [`lookup`](Self::lookup) and others counted.
    pub fn forget(&self, ino: Ino, lookups: u64) {
        self.inodes.release(ino, lookups);
    }

    /// Capacity of the backing filesystem, with the limit on names that holds here.
    ///
    /// # Errors
    /// Those of `fstatvfs`.
    pub fn statfs(&self) -> Result<VolumeStat> {
        Ok(VolumeStat { name_max: 255, ..self.root.stat_volume()? })
    }
}

#[cfg(test)]
mod tests;

impl Drop for Fs {
    fn drop(&mut self) {
        if let Some(store) = &self.store {
            store.abandon();
        }
    }
}
