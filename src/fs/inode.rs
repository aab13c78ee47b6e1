//! Inodes that the kernel or an open handle refers to, and the file opened behind them.
//!
//! Lock order: a shard of the table, then nothing; an inode's `open`, then its `links`. No lock of the
//! table is held during a system call, and none here during a device flush.

use std::collections::HashMap;
use std::collections::hash_map::Entry as MapEntry;
use std::ffi::{OsStr, OsString};
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};

use super::name::DirId;
use super::{Ino, Kind};
use crate::file::File;
use crate::store::BackingFile;

/// One place of an inode in the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Link {
    /// Directory it is in.
    pub(super) parent: Ino,
    /// Its stored name there.
    pub(super) entry: OsString,
}

/// What is known of one backing inode.
#[derive(Debug)]
pub(super) struct Inode {
    pub(super) ino: Ino,
    pub(super) kind: Kind,
    /// Goes up when the kernel must forget what it cached of this inode.
    pub(super) generation: AtomicU64,
    /// Lookups that the kernel has not forgotten plus open handles; changed under the table's shard lock.
    references: AtomicU64,
    /// Every place through which the kernel may reach it. Empty: unlinked (or the root).
    links: Mutex<Links>,
    /// The open file, shared by all handles.
    pub(super) open: Mutex<OpenState>,
    /// A directory's id, once it was read.
    pub(super) dir_id: OnceLock<DirId>,
    /// Serialises making the id of a directory that has none.
    pub(super) dir_id_making: Mutex<()>,
    /// Whether a directory has a default ACL: see [`DefaultAcl`].
    default_acl: AtomicU8,
    /// Made under this mount and never given file capabilities since.
    without_capability: AtomicBool,
    /// What a symlink's target is stored as, kept from when its last name goes: held by `O_PATH`, it can still be read.
    pub(super) sealed_target: OnceLock<Vec<u8>>,
    /// Set when a backing file has bytes behind its sealed size that cannot be cut (a read-only mount).
    size_override: Mutex<Option<SizeOverride>>,
}

/// The plain size of a backing file whose length says another; void once its length is a different one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SizeOverride {
    pub(super) stored: u64,
    pub(super) plain: u64,
}

#[derive(Debug, Default)]
struct Links {
    known: Vec<Link>,
    /// Keeps the backing inode alive, and its number from being used again, after its last name went.
    pinned: Option<Arc<dyn BackingFile>>,
}

/// The open file of an inode and how many handles share it.
#[derive(Debug, Default)]
pub(super) struct OpenState {
    pub(super) file: Option<Arc<OpenFile>>,
    pub(super) handles: usize,
    /// Kept open for the store's sake.
    pub(super) lingers: bool,
    /// Attributes or names changed while it was not open: the next fsync has to flush them.
    pub(super) attributes_changed: bool,
}

/// An opened encrypted file with the backing file under it.
#[derive(Debug)]
pub(super) struct OpenFile {
    pub(super) file: File,
    /// For attributes.
    pub(super) raw: RwLock<Arc<dyn BackingFile>>,
    pub(super) writable: AtomicBool,
}

impl OpenFile {
    pub(super) fn raw(&self) -> Arc<dyn BackingFile> {
        self.raw.read().clone()
    }
}

/// Whether a directory has a default ACL, which takes the umask's place (acl(5)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DefaultAcl {
    Unknown = 0,
    Absent = 1,
    Present = 2,
}

impl Inode {
    fn new(ino: Ino, kind: Kind, generation: u64, size_override: Option<SizeOverride>) -> Self {
        Inode {
            ino,
            kind,
            generation: AtomicU64::new(generation),
            references: AtomicU64::new(0),
            links: Mutex::default(),
            open: Mutex::default(),
            dir_id: OnceLock::new(),
            dir_id_making: Mutex::new(()),
            default_acl: AtomicU8::new(DefaultAcl::Unknown as u8),
            without_capability: AtomicBool::new(false),
            sealed_target: OnceLock::new(),
            size_override: Mutex::new(size_override),
        }
    }

    /// The places known.
    pub(super) fn links(&self) -> Vec<Link> {
        self.links.lock().known.clone()
    }

    /// The first place known, without copying all of them.
    pub(super) fn first_link(&self) -> Option<Link> {
        self.links.lock().known.first().cloned()
    }

    /// Learns of a place.
    pub(super) fn add_link(&self, parent: Ino, entry: &OsStr) {
        let mut links = self.links.lock();
        if !links.known.iter().any(|link| link.parent == parent && link.entry == entry) {
            links.known.push(Link { parent, entry: entry.to_os_string() });
        }
    }

    /// Forgets a place that is no more.
    pub(super) fn remove_link(&self, parent: Ino, entry: &OsStr) {
        self.links.lock().known.retain(|link| link.parent != parent || link.entry != entry);
    }

    /// Holds on to the backing inode, whose last name is about to go.
    pub(super) fn pin(&self, file: Arc<dyn BackingFile>) {
        self.links.lock().pinned = Some(file);
    }

    /// Undoes [`pin`](Self::pin): the name stayed.
    pub(super) fn unpin(&self) {
        self.links.lock().pinned = None;
    }

    /// The held backing inode, if there is no other way to it.
    pub(super) fn pinned(&self) -> Option<Arc<dyn BackingFile>> {
        self.links.lock().pinned.clone()
    }

    /// The open file, if any handle is.
    pub(super) fn open_file(&self) -> Option<Arc<OpenFile>> {
        self.open.lock().file.clone()
    }

    pub(super) fn default_acl(&self) -> DefaultAcl {
        match self.default_acl.load(Ordering::Acquire) {
            1 => DefaultAcl::Absent,
            2 => DefaultAcl::Present,
            _ => DefaultAcl::Unknown,
        }
    }

    pub(super) fn set_default_acl(&self, known: DefaultAcl) {
        self.default_acl.store(known as u8, Ordering::Release);
    }

    /// True if there is certainly no `security.capability` (capabilities(7)). The kernel asks for it before the first write to each
    /// file. Only creation sets this, never an answer of the backing filesystem, which a setting under way may outdate.
    pub(super) fn without_capability(&self) -> bool {
        self.without_capability.load(Ordering::Acquire)
    }

    pub(super) fn set_without_capability(&self, known: bool) {
        self.without_capability.store(known, Ordering::Release);
    }

    /// The plain size to show for a backing file of this length, if it is not the one that the length gives.
    pub(super) fn size_override(&self, stored: u64) -> Option<u64> {
        let size = (*self.size_override.lock())?;
        (size.stored == stored).then_some(size.plain)
    }
}

/// Number of shards; a power of two well above the number of request threads.
const SHARDS: usize = 16;

/// All inodes that something refers to.
#[derive(Debug)]
pub(super) struct InodeTable {
    shards: [Mutex<HashMap<Ino, Arc<Inode>>>; SHARDS],
    /// Every size override, kept over the life of its inode: told of a wrong size, the kernel forgets the inode and only then
    /// looks it up again. Locked after a shard.
    overrides: Mutex<HashMap<Ino, SizeOverride>>,
}

impl InodeTable {
    /// A table with the root in it, which is never forgotten.
    pub(super) fn new() -> Self {
        let table = InodeTable { shards: std::array::from_fn(|_| Mutex::default()), overrides: Mutex::default() };
        table.acquire(Ino::ROOT, Kind::Dir, None);
        table
    }

    /// The numbers of all inodes known.
    pub(super) fn numbers(&self) -> Vec<Ino> {
        self.shards.iter().flat_map(|shard| shard.lock().keys().copied().collect::<Vec<_>>()).collect()
    }

    /// Inodes known.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }

    fn shard(&self, ino: Ino) -> &Mutex<HashMap<Ino, Arc<Inode>>> {
        // Backing filesystems number neighbours in sequence, so the low bits spread well.
        &self.shards[ino.0 as usize % SHARDS]
    }

    /// The inode, if something refers to it.
    pub(super) fn find(&self, ino: Ino) -> Option<Arc<Inode>> {
        self.shard(ino).lock().get(&ino).cloned()
    }

    /// The inode with one more reference, made if it was not known, and the place it was found at.
    pub(super) fn acquire(&self, ino: Ino, kind: Kind, link: Option<(Ino, &OsStr)>) -> Arc<Inode> {
        let mut shard = self.shard(ino).lock();
        let inode = match shard.entry(ino) {
            // Another kind under a known number: the backing inode was replaced behind our back.
            MapEntry::Occupied(mut known) if known.get().kind != kind => {
                let generation = known.get().generation.load(Ordering::Relaxed) + 1;
                known.insert(Arc::new(Inode::new(ino, kind, generation, None)));
                known.get().clone()
            }
            MapEntry::Occupied(known) => known.get().clone(),
            MapEntry::Vacant(place) => {
                let size = self.overrides.lock().get(&ino).copied();
                place.insert(Arc::new(Inode::new(ino, kind, 0, size))).clone()
            }
        };
        inode.references.fetch_add(1, Ordering::Relaxed);
        drop(shard);
        if let Some((parent, entry)) = link {
            inode.add_link(parent, entry);
        }
        inode
    }

    /// One more reference to an inode at hand.
    pub(super) fn reference(&self, inode: &Inode) {
        let _shard = self.shard(inode.ino).lock();
        inode.references.fetch_add(1, Ordering::Relaxed);
    }

    /// Shows a plain size other than the stored length says, now and whenever the inode is found again.
    pub(super) fn override_size(&self, inode: &Inode, size: SizeOverride) {
        self.overrides.lock().insert(inode.ino, size);
        *inode.size_override.lock() = Some(size);
    }

    /// Takes references back; the inode goes with the last one.
    pub(super) fn release(&self, ino: Ino, count: u64) {
        let mut shard = self.shard(ino).lock();
        let Some(inode) = shard.get(&ino) else { return };
        let left = inode.references.load(Ordering::Relaxed).saturating_sub(count);
        inode.references.store(left, Ordering::Relaxed);
        if left == 0 && ino != Ino::ROOT {
            shard.remove(&ino);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inode_lives_as_long_as_something_refers_to_it() {
        let table = InodeTable::new();
        let first = table.acquire(Ino(7), Kind::File, Some((Ino::ROOT, OsStr::new("a"))));
        let second = table.acquire(Ino(7), Kind::File, Some((Ino::ROOT, OsStr::new("b"))));
        assert!(Arc::ptr_eq(&first, &second));
        assert_eq!(first.links().len(), 2);
        table.release(Ino(7), 1);
        assert!(table.find(Ino(7)).is_some());
        table.release(Ino(7), 1);
        assert!(table.find(Ino(7)).is_none());
        table.release(Ino::ROOT, 100);
        assert!(table.find(Ino::ROOT).is_some());
    }

    #[test]
    fn a_size_override_outlives_its_inode() {
        let table = InodeTable::new();
        let first = table.acquire(Ino(7), Kind::File, None);
        table.override_size(&first, SizeOverride { stored: 400, plain: 100 });
        table.release(Ino(7), 1);
        let again = table.acquire(Ino(7), Kind::File, None);
        assert_eq!((again.size_override(400), again.size_override(399)), (Some(100), None));
        assert_eq!(table.acquire(Ino(8), Kind::File, None).size_override(400), None);
    }

    #[test]
    fn a_number_reused_for_another_kind_is_another_inode() {
        let table = InodeTable::new();
        let file = table.acquire(Ino(7), Kind::File, None);
        let dir = table.acquire(Ino(7), Kind::Dir, None);
        assert!(!Arc::ptr_eq(&file, &dir));
        assert_eq!(dir.generation.load(Ordering::Relaxed), 1);
    }
}
