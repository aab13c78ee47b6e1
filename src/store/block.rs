//! One backing file as blocks, written so that a crash leaves the old or the new contents.
//!
//! This is the interface the `file` room is written against. It tells *what* a write means (a fresh block,
//! a replaced one, a new length, a commit); *how* that reaches the disk in which order is decided below, in `ledger.rs`.

use std::io;
use std::sync::Arc;

use super::ledger::{Ledger, Stop, Ticket};
use super::{BackingFile, Timestamp};

/// What a commit waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Handed to the backing filesystem or to the journal: survives the death of the daemon, not of the machine.
    Written,
    /// Contents and length survive power loss (`fdatasync`).
    Data,
    /// All attributes as well (`fsync`).
    Full,
}

/// A backing file as a sequence of 4096-byte blocks.
#[derive(Debug)]
pub struct BlockFile {
    ledger: Arc<Ledger>,
}

impl BlockFile {
    /// Takes over an open backing file without a journal: everything goes straight to its place, which is crash-safe only for files that
    /// are new. For reading, and for files in memory.
    ///
    /// # Errors
    /// That of `fstat`.
    pub fn direct(raw: Arc<dyn BackingFile>) -> io::Result<Self> {
        Ok(BlockFile { ledger: Arc::new(Ledger::new(None, raw, false, Box::default())?) })
    }

    pub(super) fn of(ledger: Arc<Ledger>) -> Self {
        BlockFile { ledger }
    }

    /// Tells the store the file id, by which recovery recognises the file.
    pub fn identify(&self, id: [u8; 16]) {
        self.ledger.identify(id);
    }

    /// Exchanges the backing file for the same one opened with other access.
    pub fn reopened(&self, raw: Arc<dyn BackingFile>) {
        self.ledger.reopened(raw);
    }

    /// The backing file, for attributes.
    pub fn raw(&self) -> Arc<dyn BackingFile> {
        self.ledger.raw()
    }

    /// Stored length in bytes.
    pub fn len(&self) -> u64 {
        self.ledger.len()
    }

    /// True if nothing is stored.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads into the buffers in turn; less than asked means end of file.
    ///
    /// # Errors
    /// Those of preadv(2), as for all that follow those of the system call that the name tells of.
    pub fn read(&self, bufs: &mut [io::IoSliceMut<'_>], offset: u64) -> io::Result<usize> {
        self.ledger.read(bufs, offset)
    }

    /// Writes blocks that nothing committed refers to: holes, places behind the committed end, or blocks
    /// that were themselves written since the last commit. `offset` is the beginning of a block.
    ///
    /// # Errors
    /// Those of pwritev(2).
    pub fn write_fresh(&self, bufs: &mut [io::IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.ledger.write_fresh(bufs, offset)
    }

    /// Writes after-images of blocks to which the committed tree refers. Seen by [`read`](Self::read) at once;
    /// after a crash either the last commit's image or, once that is committed, this one is there.
    ///
    /// # Errors
    /// Those of pwritev(2).
    pub fn replace(&self, bufs: &mut [io::IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.ledger.replace(bufs, offset)
    }

    /// Changes the stored length. Growing leaves a hole. The tail that shrinking cuts off is already unused: the header that
    /// no longer refers to it was written before; on disk the cut takes effect only when that header is as durable as the tail was.
    ///
    /// # Errors
    /// Those of ftruncate(2).
    pub fn set_len(&self, len: u64) -> io::Result<()> {
        self.with_room(|| self.ledger.set_len(len))
    }

    /// Cuts off a tail to which no state, durable or not, has ever referred: at once, and without a commit.
    ///
    /// # Errors
    /// That of ftruncate(2).
    pub fn cut_excess(&self, len: u64) -> io::Result<()> {
        self.ledger.cut_excess(len)
    }

    /// Reserves space for a range without changing contents or length.
    ///
    /// # Errors
    /// Those of fallocate(2).
    pub fn reserve(&self, offset: u64, len: u64) -> io::Result<()> {
        self.raw().reserve(offset, len)
    }

    /// Gives the space of blocks back to which the committed tree no longer refers, as soon as that commit is durable. What is in them
    /// then means nothing. A backing filesystem that cannot do it says so at once (EOPNOTSUPP) or not at all.
    ///
    /// # Errors
    /// Those of fallocate(2).
    pub fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()> {
        self.ledger.release(offset, len, true)
    }

    /// Tells that the committed tree no longer refers to the blocks of a range, whose space is kept.
    ///
    /// # Errors
    /// None so far.
    pub fn retire(&self, offset: u64, len: u64) -> io::Result<()> {
        self.ledger.release(offset, len, false)
    }

    /// Attributes or names of the file changed by another way: the next [`Durability::Full`] flushes them.
    pub fn attributes_changed(&self) {
        self.ledger.attributes_changed();
    }

    /// Ends a group of writes that belong together (the header is the last of the blocks among them): it survives the daemon.
    /// `mtime` is the time that recovery gives the file with it.
    ///
    /// # Errors
    /// Those of the journal.
    pub fn commit(&self, mtime: Option<Timestamp>) -> io::Result<()> {
        self.with_room(|| self.ledger.commit(mtime))
    }

    /// Like [`commit`](Self::commit), of a group that [`finish`](Self::finish) then makes durable, with all earlier ones. To be called in
    /// the same breath as the group's writes; `finish` without any lock.
    ///
    /// # Errors
    /// Those of the journal.
    pub fn prepare(&self, metadata: bool, mtime: Option<Timestamp>) -> io::Result<Ticket> {
        self.with_room(|| self.ledger.prepare(metadata, mtime))
    }

    /// Makes the group of a ticket durable. May run beside others, beside reads and beside the writes of later groups.
    ///
    /// # Errors
    /// Those of fsync(2). After a failed flush the kernel may have dropped the pages and count them as clean, so that
    /// another flush would succeed without the data being anywhere: every later flush of this file fails as well.
    pub fn finish(&self, ticket: Ticket) -> io::Result<()> {
        self.with_room(|| self.ledger.finish(ticket))
    }

    /// Forgets what was written since the last commit, which reads no longer see.
    pub fn discard(&self) {
        self.ledger.discard();
    }

    /// True if the blocks that wait in memory for a commit, with `more` that it will add, are as many as one should have.
    pub fn is_full(&self, more: usize) -> bool {
        self.ledger.store.as_ref().is_some_and(|store| self.ledger.open_blocks() + more > store.commit_limit())
    }

    /// True if at least so many blocks wait in memory that no commit has taken.
    pub fn is_holding(&self, blocks: usize) -> bool {
        self.ledger.open_blocks() >= blocks
    }

    /// True if so much waits in the store that a writer should commit and [`settle`](Self::settle) before it goes on.
    pub fn is_pressed(&self) -> bool {
        self.ledger.store.as_ref().is_some_and(|store| store.is_pressed())
    }

    /// Makes all commits of all files durable.
    ///
    /// # Errors
    /// Those of the flushes.
    pub fn settle(&self) -> io::Result<()> {
        self.ledger.store.as_ref().map_or(Ok(()), |store| store.settle())
    }

    /// True if the backing file is, flushes apart, what it is to be: nothing is to be written to it later on.
    pub fn is_settled(&self) -> bool {
        self.ledger.is_settled()
    }

    fn with_room<T>(&self, mut step: impl FnMut() -> Result<T, Stop>) -> io::Result<T> {
        match &self.ledger.store {
            Some(store) => store.with_room(step),
            None => step().map_err(|stop| match stop {
                Stop::Io(error) => error,
                Stop::Full(_) => io::ErrorKind::StorageFull.into(),
            }),
        }
    }
}

impl Drop for BlockFile {
    fn drop(&mut self) {
        if let Some(store) = &self.ledger.store {
            store.detach(&self.ledger);
        }
    }
}
