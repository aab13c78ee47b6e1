//! A chunk or node as stored bytes: what binds it to its place, the keys it is sealed with, and the count of seals.
//!
//! Invariants: a nonce is random and used for one seal; at most [`EPOCH_LIMIT`] seals (and one request's more) are
//! counted under one epoch's key before the next one is derived; sealing needs no lock but a short one for the count,
//! so that threads encrypt side by side.

use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

use super::layout::{ChunkIndex, NodeId};
use super::tree::Entry;
use super::{Damage, FileError, header};
use crate::crypto::aead::ChunkKey;
use crate::crypto::secret::Secret;
use crate::crypto::{Nonce, kdf, random};
use crate::keys::FileId;

/// Seals counted in an epoch before the next one begins: half of what SP 800-38D allows under one key with random
/// nonces, so that seals which a crash left uncounted are covered too.
pub(super) const EPOCH_LIMIT: u64 = 1 << 31;

/// Keys of other epochs that are kept for reading.
const KEPT_KEYS: usize = 4;

/// What a sealed block is, bound to it as associated data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Chunk(ChunkIndex),
    Node(NodeId),
}

impl Place {
    /// Kind, level, format version, index.
    fn associated_data(self) -> [u8; 16] {
        let (kind, level, index) = match self {
            Place::Chunk(chunk) => (1, 0, chunk.0),
            Place::Node(node) => (2, node.level, node.index),
        };
        let mut data = [0; 16];
        data[..2].copy_from_slice(&[kind, level]);
        data[2..4].copy_from_slice(&header::VERSION.to_le_bytes());
        data[8..].copy_from_slice(&index.to_le_bytes());
        data
    }

    fn damage(self) -> Damage {
        match self {
            Place::Chunk(chunk) => Damage::Chunk { index: chunk.0 },
            Place::Node(node) => Damage::Node { level: node.level, index: node.index },
        }
    }
}

/// A file's id and DEK, and what is derived from them.
pub(super) struct FileKeys {
    id: FileId,
    dek: Secret<32>,
    epoch_limit: u64,
    /// Guards the count; held for no I/O. Taken inside the file's state lock or alone.
    sealer: Mutex<Grant>,
    /// Keys of epochs recently read, latest use last.
    kept: Mutex<Vec<(u32, Arc<ChunkKey>)>>,
}

/// Leave to make the seals that were asked for, under one epoch's key.
#[derive(Clone)]
pub(super) struct Grant {
    pub(super) epoch: u32,
    /// Seals counted in the epoch, these included.
    pub(super) seals: u64,
    key: Arc<ChunkKey>,
}

impl FileKeys {
    /// Keys of a file that seals in `epoch`, none counted yet.
    pub(super) fn new(id: FileId, dek: Secret<32>, epoch: u32, epoch_limit: u64) -> Self {
        let key = Arc::new(derive(&dek, &id, epoch));
        let sealer = Mutex::new(Grant { epoch, seals: 0, key });
        FileKeys { id, dek, epoch_limit, sealer, kept: Mutex::default() }
    }

    /// Keys of a new file.
    pub(super) fn generate(epoch_limit: u64) -> Self {
        Self::new(FileId::random(), Secret::random(), 0, epoch_limit)
    }

    /// The same keys with the count of seals that the root record tells.
    pub(super) fn counted(mut self, seals: u64) -> Self {
        self.sealer.get_mut().seals = seals;
        self
    }

    pub(super) fn id(&self) -> FileId {
        self.id
    }

    pub(super) fn dek(&self) -> &Secret<32> {
        &self.dek
    }

    /// Counts `seals` and gives leave for them.
    pub(super) fn reserve(&self, seals: u64) -> Result<Grant, FileError> {
        let mut sealer = self.sealer.lock();
        if sealer.seals >= self.epoch_limit {
            let epoch = sealer.epoch.checked_add(1).ok_or_else(|| io::Error::other("all epochs are used up"))?;
            let key = Arc::new(derive(&self.dek, &self.id, epoch));
            *sealer = Grant { epoch, seals: 0, key };
        }
        sealer.seals = sealer.seals.saturating_add(seals);
        Ok(sealer.clone())
    }

    /// The key of an epoch, to open with.
    pub(super) fn key(&self, epoch: u32) -> Arc<ChunkKey> {
        {
            let sealer = self.sealer.lock();
            if sealer.epoch == epoch {
                return Arc::clone(&sealer.key);
            }
        }
        let mut kept = self.kept.lock();
        let found = match kept.iter().position(|(kept_epoch, _)| *kept_epoch == epoch) {
            Some(at) => kept.remove(at),
            None => (epoch, Arc::new(derive(&self.dek, &self.id, epoch))),
        };
        if kept.len() >= KEPT_KEYS {
            kept.remove(0);
        }
        let key = Arc::clone(&found.1);
        kept.push(found);
        key
    }

    /// Opens what an entry describes.
    pub(super) fn open(&self, place: Place, entry: &Entry, sealed: &mut [u8]) -> Result<(), Damage> {
        Opener { keys: self, current: None }.open(place, entry, sealed)
    }

    /// Opens many blocks, looking a key up only where the epoch changes.
    pub(super) fn opener(&self) -> Opener<'_> {
        Opener { keys: self, current: None }
    }
}

impl std::fmt::Debug for FileKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileKeys").field("id", &self.id).finish_non_exhaustive()
    }
}

/// See [`FileKeys::opener`].
pub(super) struct Opener<'a> {
    keys: &'a FileKeys,
    current: Option<(u32, Arc<ChunkKey>)>,
}

impl Opener<'_> {
    pub(super) fn open(&mut self, place: Place, entry: &Entry, sealed: &mut [u8]) -> Result<(), Damage> {
        let key = match &self.current {
            Some((epoch, key)) if *epoch == entry.epoch => key,
            _ => &self.current.insert((entry.epoch, self.keys.key(entry.epoch))).1,
        };
        key.open_in_place(&entry.nonce, &place.associated_data(), sealed, &entry.tag).map_err(|_| place.damage())
    }
}

impl Grant {
    /// Seals one block; `nonce` is fresh from [`nonces`] or [`nonce`].
    pub(super) fn seal(&self, place: Place, nonce: Nonce, plain: &[u8], sealed: &mut [u8]) -> Result<Entry, FileError> {
        let tag = self.key.seal(&nonce, &place.associated_data(), plain, sealed).map_err(io::Error::other)?;
        Ok(Entry { nonce, tag, epoch: self.epoch })
    }

    /// The key itself, for the root record, whose associated data is the header's.
    pub(super) fn key(&self) -> &ChunkKey {
        &self.key
    }
}

/// A fresh nonce.
pub(super) fn nonce() -> Nonce {
    let mut nonce = Nonce::default();
    random(&mut nonce);
    nonce
}

/// `count` fresh nonces from one call of the generator.
pub(super) fn nonces(count: usize, out: &mut Vec<Nonce>) {
    out.clear();
    out.resize(count, Nonce::default());
    random(out.as_flattened_mut());
}

fn derive(dek: &Secret<32>, id: &FileId, epoch: u32) -> ChunkKey {
    ChunkKey::new(&kdf::file_key(dek, &id.0, epoch))
}
