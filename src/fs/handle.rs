//! Open handles: a number for the kernel, a file or a listing for us.

use std::sync::Arc;

use parking_lot::{Mutex, RwLock};

use super::inode::{Inode, OpenFile};
use super::{HandleId, Result, posix};
use crate::store::{DirEntry, DirStream};

/// An open file.
#[derive(Debug)]
pub(super) struct FileHandle {
    pub(super) inode: Arc<Inode>,
    pub(super) open: Arc<OpenFile>,
    pub(super) write: bool,
    /// Each write is durable before it returns (`O_SYNC`, `O_DSYNC`).
    pub(super) sync: bool,
}

/// An open directory.
pub(super) struct DirHandle {
    pub(super) inode: Arc<Inode>,
    pub(super) listing: Mutex<Listing>,
}

/// Where a listing stands.
pub(super) struct Listing {
    pub(super) stream: Box<dyn DirStream>,
    /// Offset behind the last entry delivered.
    pub(super) at: i64,
    /// An entry that was fetched and did not fit into the reply.
    pub(super) left_over: Option<DirEntry>,
}

#[derive(Clone)]
enum Handle {
    File(Arc<FileHandle>),
    Dir(Arc<DirHandle>),
}

/// All open handles. The lock is held only to copy or exchange an `Arc`.
#[derive(Default)]
pub(super) struct HandleTable {
    slots: RwLock<Slots>,
}

#[derive(Default)]
struct Slots {
    used: Vec<Option<Handle>>,
    free: Vec<usize>,
}

impl HandleTable {
    fn insert(&self, handle: Handle) -> HandleId {
        let mut slots = self.slots.write();
        let at = match slots.free.pop() {
            Some(at) => at,
            None => {
                slots.used.push(None);
                slots.used.len() - 1
            }
        };
        slots.used[at] = Some(handle);
        HandleId(at as u64)
    }

    fn get(&self, id: HandleId) -> Option<Handle> {
        self.slots.read().used.get(usize::try_from(id.0).ok()?)?.clone()
    }

    fn remove(&self, id: HandleId) -> Option<Handle> {
        let at = usize::try_from(id.0).ok()?;
        let mut slots = self.slots.write();
        let handle = slots.used.get_mut(at)?.take()?;
        slots.free.push(at);
        Some(handle)
    }

    pub(super) fn add_file(&self, handle: FileHandle) -> HandleId {
        self.insert(Handle::File(Arc::new(handle)))
    }

    pub(super) fn add_dir(&self, handle: DirHandle) -> HandleId {
        self.insert(Handle::Dir(Arc::new(handle)))
    }

    /// An open file; EBADF for anything else.
    pub(super) fn file(&self, id: HandleId) -> Result<Arc<FileHandle>> {
        match self.get(id) {
            Some(Handle::File(file)) => Ok(file),
            _ => Err(posix(libc::EBADF)),
        }
    }

    /// An open directory; EBADF for anything else.
    pub(super) fn dir(&self, id: HandleId) -> Result<Arc<DirHandle>> {
        match self.get(id) {
            Some(Handle::Dir(dir)) => Ok(dir),
            _ => Err(posix(libc::EBADF)),
        }
    }

    pub(super) fn remove_file(&self, id: HandleId) -> Option<Arc<FileHandle>> {
        match self.remove(id)? {
            Handle::File(file) => Some(file),
            Handle::Dir(_) => None,
        }
    }

    pub(super) fn remove_dir(&self, id: HandleId) -> Option<Arc<DirHandle>> {
        match self.remove(id)? {
            Handle::Dir(dir) => Some(dir),
            Handle::File(_) => None,
        }
    }

    /// Every open file, once for each handle.
    pub(super) fn files(&self) -> Vec<Arc<FileHandle>> {
        let slots = self.slots.read();
        slots
            .used
            .iter()
            .flatten()
            .filter_map(|h| if let Handle::File(f) = h { Some(f.clone()) } else { None })
            .collect()
    }
}
