//! One backing file as blocks, written so that a crash leaves the old or the new contents.
//!
//! This is the interface the `file` room is written against. It tells *what* a write means (a fresh block,
//! a replaced one, a new length, a commit); *how* that reaches the disk in which order is decided here.
//! Until the journal exists, writes go to place in the order given and a commit flushes if asked to.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use parking_lot::RwLock;

use super::BackingFile;

/// What a commit waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Handed to the backing filesystem: survives the death of the daemon, not of the machine.
    Written,
    /// Contents and length survive power loss (`fdatasync`).
    Data,
    /// All attributes as well (`fsync`).
    Full,
}

/// A backing file as a sequence of 4096-byte blocks.
#[derive(Debug)]
pub struct BlockFile {
    /// Held only to copy or exchange the reference, never over a system call.
    raw: RwLock<Arc<dyn BackingFile>>,
    /// Errno of the first flush that failed, 0 = none.
    failed_flush: AtomicI32,
}

impl BlockFile {
    /// Takes over an open backing file.
    pub fn new(raw: Arc<dyn BackingFile>) -> Self {
        BlockFile { raw: RwLock::new(raw), failed_flush: AtomicI32::new(0) }
    }

    /// Exchanges the backing file for the same one opened with other access.
    pub fn reopened(&self, raw: Arc<dyn BackingFile>) {
        *self.raw.write() = raw;
    }

    /// The backing file, for attributes.
    pub fn raw(&self) -> Arc<dyn BackingFile> {
        Arc::clone(&self.raw.read())
    }

    /// Stored length in bytes.
    pub fn len(&self) -> io::Result<u64> {
        Ok(self.raw().stat()?.size)
    }

    /// True if nothing is stored.
    pub fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Reads into the buffers in turn; less than asked means end of file.
    pub fn read(&self, bufs: &mut [io::IoSliceMut<'_>], offset: u64) -> io::Result<usize> {
        self.raw().read_vectored_at(bufs, offset)
    }

    /// Writes blocks that nothing committed refers to: holes, places behind the committed end, or blocks
    /// that were themselves written since the last commit.
    pub fn write_fresh(&self, bufs: &mut [io::IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.raw().write_all_vectored_at(bufs, offset)
    }

    /// Writes after-images of blocks to which the committed tree refers. Seen by [`read`](Self::read) at once;
    /// after a crash either the last commit's image or, once [`commit`](Self::commit) returned, this one is there.
    pub fn replace(&self, bufs: &mut [io::IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.raw().write_all_vectored_at(bufs, offset)
    }

    /// Changes the stored length. Growing leaves a hole. The tail that shrinking cuts off is already unused: the header that
    /// no longer refers to it was written before; on disk the cut takes effect only when that header is as durable as the tail was.
    pub fn set_len(&self, len: u64) -> io::Result<()> {
        self.raw().set_len(len)
    }

    /// Reserves space for a range without changing contents or length.
    pub fn reserve(&self, offset: u64, len: u64) -> io::Result<()> {
        self.raw().reserve(offset, len)
    }

    /// Gives the space of blocks back to which the tree no longer refers; they read as zeros.
    pub fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()> {
        self.raw().punch_hole(offset, len)
    }

    /// Ends a group of writes that belong together (the header is the last of the blocks among them), and makes it and all
    /// earlier ones durable if asked to. Flushes may run beside one another, beside reads and beside the writes of later groups.
    ///
    /// # Errors
    /// Those of `fsync(2)`. After a failed flush the kernel may have dropped the pages and count them as clean, so that
    /// another flush would succeed without the data being anywhere: every later flush of this file fails as well.
    pub fn commit(&self, durability: Durability) -> io::Result<()> {
        let metadata = match durability {
            Durability::Written => return Ok(()),
            Durability::Data => false,
            Durability::Full => true,
        };
        match self.failed_flush.load(Ordering::Acquire) {
            0 => {}
            errno => return Err(io::Error::from_raw_os_error(errno)),
        }
        self.raw().sync(metadata).inspect_err(|error| {
            self.failed_flush.store(error.raw_os_error().unwrap_or(libc::EIO), Ordering::Release);
        })
    }
}
