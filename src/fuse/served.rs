//! The volume behind a mount, for as long as its keys may be used.
//!
//! Whoever needs it takes a share for one request or one piece of work. Once it is revoked nobody gets another one, and with the last share the
//! volume goes, and with it every key: the ring, the files' keys and what was read with them are wiped where they lie.

use std::sync::{Arc, OnceLock};

use fuser::{INodeNo, Notifier};
use parking_lot::RwLock;

use crate::fs::Fs;

/// A mounted volume that can be taken away.
pub(crate) struct Served {
    /// Held for the copy of the reference only.
    fs: RwLock<Option<Arc<Fs>>>,
    notifier: OnceLock<Notifier>,
}

impl Served {
    pub(crate) fn new(fs: Arc<Fs>) -> Self {
        Served { fs: RwLock::new(Some(fs)), notifier: OnceLock::new() }
    }

    /// The volume, unless it was revoked.
    pub(crate) fn get(&self) -> Option<Arc<Fs>> {
        self.fs.read().clone()
    }

    /// The kernel's ear, known once it is mounted.
    pub(crate) fn set_notifier(&self, notifier: Notifier) {
        let _ = self.notifier.set(notifier);
    }

    /// Writes everything back, takes the volume away and has the kernel forget contents and attributes. Names that the kernel knows stay known
    /// to it until it needs the memory.
    pub(crate) fn revoke(&self) {
        let Some(fs) = self.get() else { return };
        // What is only in the page cache, changed through a memory map, comes back while there still is a key to encrypt it with.
        self.forget_contents(&fs);
        self.fs.write().take();
        fs.stop_background();
        if let Err(error) = fs.shut_down() {
            tracing::error!("pending changes could not be written: {error}");
        }
        // And what was read meanwhile.
        self.forget_contents(&fs);
    }

    fn forget_contents(&self, fs: &Fs) {
        let Some(notifier) = self.notifier.get() else { return };
        for ino in fs.known_inodes() {
            // ENOENT: the kernel has forgotten it already.
            if let Err(error) = notifier.inval_inode(INodeNo(ino.0), 0, 0)
                && error.raw_os_error() != Some(libc::ENOENT)
            {
                tracing::warn!(inode = ino.0, %error, "the kernel did not let go of an inode's contents");
            }
        }
    }
}
