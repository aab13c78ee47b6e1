#![doc = include_str!("format.md")]

use std::io;
use std::ops::Range;
use std::sync::Arc;

use crate::keys::KeyRing;
use crate::store::{BackingFile, Durability, Stat, Timestamp};

/// Bytes of a chunk, a block and a node.
pub const BLOCK: usize = 4096;

/// Largest plain size: that of `off_t`.
pub const MAX_LEN: u64 = i64::MAX as u64;

/// What is wrong with a backing file, for the log and for `check`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// The header cannot be read as one.
    #[error("header: {0}")]
    Header(&'static str),
    /// A node fails authentication.
    #[error("tree node {index} of level {level} fails authentication")]
    #[allow(missing_docs)]
    Node { level: u8, index: u64 },
    /// A chunk fails authentication.
    #[error("chunk {index} (bytes {} and up) fails authentication", index * 4096)]
    #[allow(missing_docs)]
    Chunk { index: u64 },
    /// The backing file is shorter than its sealed size demands.
    #[error("the backing file has {stored} bytes where its sealed size demands {expected}")]
    #[allow(missing_docs)]
    TooShort { stored: u64, expected: u64 },
    /// The backing file is longer than its sealed size allows.
    #[error("the backing file has {stored} bytes where its sealed size allows {expected}")]
    #[allow(missing_docs)]
    TooLong { stored: u64, expected: u64 },
}

/// Error of an operation on an encrypted file.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The backing filesystem refused.
    #[error("backing file: {0}")]
    Io(#[from] io::Error),
    /// The stored bytes are not what was written.
    #[error("damaged: {0}")]
    Damaged(#[from] Damage),
    /// The DEK is wrapped under a master key that is not in the ring.
    #[error("no master key in the ring unwraps this file's key")]
    NoKey,
    /// The size is beyond [`MAX_LEN`].
    #[error("file too large")]
    TooLarge,
}

/// Plain size of a backing file of this stored length; `None` for a length that no plain size gives.
pub fn plain_len(_stored: u64) -> Option<u64> {
    todo!()
}

/// Stored length of a plain file.
pub fn stored_len(_plain: u64) -> u64 {
    todo!()
}

/// One encrypted file, shared by all of its handles. All methods take `&self` and may run side by side:
/// readers with one another always, writers one at a time, nobody during a device flush.
#[derive(Debug)]
pub struct File {}

impl File {
    /// Opens a backing file: reads and verifies header and root record. A zero-length one is an empty file.
    /// A backing file that is longer than its sealed size is opened with its sealed size, and
    /// [`excess`](Self::excess) tells of it.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn open(_raw: Arc<dyn BackingFile>, _ring: Arc<KeyRing>) -> Result<File, FileError> {
        todo!()
    }

    /// Exchanges the backing file for one opened with wider access (a reader's file that is now written to).
    pub fn reopened(&self, _raw: Arc<dyn BackingFile>) {
        todo!()
    }

    /// True if the backing file had more bytes than the sealed size allows when it was opened, and still has.
    pub fn excess(&self) -> bool {
        todo!()
    }

    /// Cuts what [`excess`](Self::excess) told of.
    pub fn cut_excess(&self) -> Result<(), FileError> {
        todo!()
    }

    /// Plain size in bytes.
    pub fn len(&self) -> u64 {
        todo!()
    }

    /// True if there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Attributes with `size` being the plain size and `mtime` the time of the last write or [`set_mtime`](Self::set_mtime).
    pub fn stat(&self) -> Result<Stat, FileError> {
        todo!()
    }

    /// Reads up to `len` bytes at `offset` into `buf` (grown as needed and reused between calls, never shrunk); the
    /// bytes read are `buf[range]`, fewer than asked only at the end of the file.
    pub fn read_at(&self, _offset: u64, _len: usize, _buf: &mut Vec<u8>) -> Result<Range<usize>, FileError> {
        todo!()
    }

    /// Writes all of `data`. The mtime becomes the current time unless `keep_mtime` (a write-back of the kernel's cache).
    pub fn write_at(&self, _offset: u64, _data: &[u8], _keep_mtime: bool) -> Result<(), FileError> {
        todo!()
    }

    /// Truncates or extends with a hole.
    pub fn set_len(&self, _len: u64) -> Result<(), FileError> {
        todo!()
    }

    /// Zeroes a range, giving whole chunks' space back; the size stays.
    pub fn punch_hole(&self, _offset: u64, _len: u64) -> Result<(), FileError> {
        todo!()
    }

    /// Zeroes a range and reserves its space; the size grows to the end of the range unless `keep_size`.
    pub fn zero_range(&self, _offset: u64, _len: u64, _keep_size: bool) -> Result<(), FileError> {
        todo!()
    }

    /// Reserves space for a range; the size grows to its end unless `keep_size`.
    pub fn allocate(&self, _offset: u64, _len: u64, _keep_size: bool) -> Result<(), FileError> {
        todo!()
    }

    /// First offset >= `offset` that holds data (`SEEK_DATA`); `None` (ENXIO) if there is none before the end.
    pub fn seek_data(&self, _offset: u64) -> Result<Option<u64>, FileError> {
        todo!()
    }

    /// First offset >= `offset` in a hole, or the end (`SEEK_HOLE`); `None` (ENXIO) if `offset` is at or behind the end.
    pub fn seek_hole(&self, _offset: u64) -> Result<Option<u64>, FileError> {
        todo!()
    }

    /// Sets the mtime and keeps it over commits that follow; atime goes straight to the backing file.
    pub fn set_mtime(&self, _mtime: Timestamp) -> Result<(), FileError> {
        todo!()
    }

    /// Writes pending nodes and the header: everything written so far is then reachable from the backing file's header,
    /// at the given durability. Does nothing for a clean file at [`Durability::Written`].
    pub fn commit(&self, _durability: Durability) -> Result<(), FileError> {
        todo!()
    }

    /// Bytes of memory that pending changes hold; for back-pressure.
    pub fn dirty_bytes(&self) -> usize {
        todo!()
    }

    /// Reads and verifies everything: both wrapped-DEK places, reserved bytes, each node, each chunk, the length. Calls
    /// `damage` for each finding, `progress` with the number of stored bytes verified since the last call.
    pub fn verify(&self, _damage: &mut dyn FnMut(Damage), _progress: &mut dyn FnMut(u64)) -> Result<(), FileError> {
        todo!()
    }
}
