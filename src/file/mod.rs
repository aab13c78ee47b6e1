#![doc = include_str!("format.md")]

mod cache;
mod chunk;
mod commit;
mod header;
mod layout;
mod read;
mod rewrap;
mod space;
mod tree;
mod verify;
mod write;

#[cfg(test)]
mod tests;

use std::io::{self, IoSliceMut};
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, OnceLock};

use parking_lot::{Mutex, RwLock, RwLockWriteGuard};
use zeroize::Zeroizing;

pub use cache::NodeCache;
pub use layout::{plain_len, stored_len};
pub use rewrap::{Wrapping, rewrap};

use chunk::FileKeys;
use header::{Header, PLACES, ROOT_LEN, RootRecord};
use layout::{HEADER_LEN, INLINE_MAX};
use tree::{Source, Tree};

use crate::crypto::secret::Secret;
use crate::keys::ring::UnwrapError;
use crate::keys::{KeyId, KeyRing, WrappedDek};
use crate::store::{BackingFile, BlockFile, SetTime, Stat, Timestamp};

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

/// What a file is opened with apart from its keys.
#[derive(Debug, Clone)]
pub struct FileOptions {
    /// Memory for tree nodes.
    pub cache: Arc<NodeCache>,
    /// Seals counted under one derived key before the next epoch; see the format's section 2.
    pub epoch_limit: u64,
}

impl Default for FileOptions {
    fn default() -> Self {
        FileOptions { cache: NodeCache::shared(), epoch_limit: chunk::EPOCH_LIMIT }
    }
}

/// One encrypted file, shared by all of its handles. All methods take `&self` and may run side by side:
/// readers with one another always, writers one at a time (they encrypt side by side), nobody waits for a device flush
/// but who asked for it, and who asks for attributes waits for nobody.
///
/// A change is in memory and in place at once, but a file opened anew shows it only once [`commit`](Self::commit) wrote the
/// header that refers to it. Dropping a file commits nothing.
///
/// Any error but [`FileError::Damaged`] leaves the file as it was, or as a shorter write would have; what was readable
/// stays readable, through this value and after a later commit. What a power loss or the daemon's death leaves is the
/// store's matter: see [`crate::store`].
pub struct File {
    blocks: BlockFile,
    ring: Arc<KeyRing>,
    options: FileOptions,
    /// Set with the first header. Never replaced, not even where the file is truncated to nothing and begun anew: so
    /// what a writer sealed before it took the state's lock is good whatever happened meanwhile.
    keys: OnceLock<FileKeys>,
    /// Readers hold it shared while they read and open, writers exclusively while they place blocks; nobody holds it over
    /// a flush. Before it no lock is taken, inside it the ones of `keys` and of the cache.
    state: RwLock<State>,
    /// Of the state, what attributes want: of before a change that is under way, and without waiting for it.
    shown: Mutex<Shown>,
}

/// A part of [`State`].
#[derive(Clone, Copy)]
struct Shown {
    size: u64,
    mtime: Option<Timestamp>,
    changed: Timestamp,
}

impl From<&State> for Shown {
    fn from(state: &State) -> Self {
        Shown { size: state.size, mtime: state.mtime, changed: state.changed }
    }
}

/// The state, for its one writer.
struct Writing<'a> {
    state: RwLockWriteGuard<'a, State>,
    shown: &'a Mutex<Shown>,
}

impl Deref for Writing<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        &self.state
    }
}

impl DerefMut for Writing<'_> {
    fn deref_mut(&mut self) -> &mut State {
        &mut self.state
    }
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        *self.shown.lock() = Shown::from(&*self.state);
    }
}

/// What a file is now, and what is known of its stored form.
struct State {
    size: u64,
    body: Body,
    /// Something is not in the header yet.
    dirty: bool,
    /// The mtime that users see, where the backing file's own is not it: to be set there by the next commit.
    mtime: Option<Timestamp>,
    /// When the contents last changed here: the backing file may not know yet.
    changed: Timestamp,
    generation: u64,
    places: [Option<WrappedDek>; PLACES],
    /// The master key of which a place is known to serve.
    under: Option<KeyId>,
    /// Size in the stored header; 0 = there is no header.
    committed: u64,
    /// Parts of the committed tree were dropped together with the [`Tree`] value.
    dropped: bool,
    /// Chunks became holes whose space is kept: the next commit does without their places.
    retired: bool,
    /// Length of the backing file.
    stored: u64,
    /// The backing file was longer than its header allows when it was opened.
    excess: bool,
    /// Pending nodes that the cache was told of.
    counted: usize,
}

/// The contents, by form.
enum Body {
    /// Size 0.
    Empty,
    /// Up to [`INLINE_MAX`] bytes: all here, in plain.
    Inline(Zeroizing<Vec<u8>>),
    /// Any larger file.
    Tree(Tree),
}

impl File {
    /// Opens a backing file by itself, without a journal ([`BlockFile::direct`]): for reading, and for files in memory.
    ///
    /// # Errors
    /// As [`open_blocks`](Self::open_blocks).
    pub fn open(raw: Arc<dyn BackingFile>, ring: Arc<KeyRing>) -> Result<File, FileError> {
        Self::open_blocks(BlockFile::direct(raw)?, ring)
    }

    /// Opens a file: reads and verifies header and root record. A backing file of no bytes is an empty file.
    /// A backing file that is longer than its sealed size is opened with its sealed size, and
    /// [`excess`](Self::excess) tells of it.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn open_blocks(blocks: BlockFile, ring: Arc<KeyRing>) -> Result<File, FileError> {
        Self::open_with(blocks, ring, FileOptions::default())
    }

    /// Like [`open_blocks`](Self::open_blocks), with other options than the usual ones.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn open_with(blocks: BlockFile, ring: Arc<KeyRing>, options: FileOptions) -> Result<File, FileError> {
        let stored = blocks.len();
        let mut state = State {
            size: 0,
            body: Body::Empty,
            dirty: false,
            mtime: None,
            changed: Timestamp { secs: i64::MIN, nanos: 0 },
            generation: 0,
            places: [None; PLACES],
            under: None,
            committed: 0,
            dropped: false,
            retired: false,
            stored,
            excess: false,
            counted: 0,
        };
        let keys = OnceLock::new();
        if stored > 0 {
            let mut block = [0; BLOCK];
            let got = blocks.read(&mut [IoSliceMut::new(&mut block)], 0)?;
            let block = block.get(..got).unwrap_or_default();
            if got >= HEADER_LEN && is_zero(block) {
                // Blocks were placed and the writer died before the first header: nothing was ever committed.
                state.excess = true;
            } else {
                let opened = open_header(block, stored, &ring, options.epoch_limit)?;
                blocks.identify(opened.header.file_id.0);
                state.size = opened.record.size;
                state.committed = opened.record.size;
                state.generation = opened.record.generation;
                state.places = opened.header.places;
                state.excess = stored > stored_len(state.size);
                state.body = match opened.inline {
                    Some(plain) => Body::Inline(plain),
                    None => Body::Tree(Tree::new(opened.record.height, opened.record.root)),
                };
                keys.get_or_init(|| opened.keys);
            }
        }
        let shown = Mutex::new(Shown::from(&state));
        Ok(File { blocks, ring, options, keys, state: RwLock::new(state), shown })
    }

    fn writing(&self) -> Writing<'_> {
        Writing { state: self.state.write(), shown: &self.shown }
    }

    /// Exchanges the backing file for one opened with wider access (a reader's file that is now written to).
    pub fn reopened(&self, raw: Arc<dyn BackingFile>) {
        self.blocks.reopened(raw);
    }

    /// True if the backing file had more bytes than the sealed size allows when it was opened, and still has.
    pub fn excess(&self) -> bool {
        self.state.read().excess
    }

    /// Cuts what [`excess`](Self::excess) told of.
    ///
    /// # Errors
    /// [`FileError::Io`].
    pub fn cut_excess(&self) -> Result<(), FileError> {
        let mut state = self.writing();
        if state.excess {
            state.keep_mtime(&self.blocks)?;
            // Nothing that is pending may be cut with it; a commit sets the length itself.
            if state.dirty {
                return self.commit_locked(&mut state);
            }
            let stored = stored_len(state.size);
            self.blocks.cut_excess(stored)?;
            state.stored = stored;
            state.excess = false;
            state.restore_mtime(&self.blocks);
        }
        Ok(())
    }

    /// True if nothing is left to be written to the backing file later on; until then whoever opens the file must be given this
    /// one, and attributes be asked here.
    pub fn is_settled(&self) -> bool {
        !self.state.read().dirty && self.blocks.is_settled()
    }

    /// Attributes or names changed by another way than through this value; see [`BlockFile::attributes_changed`].
    pub fn attributes_changed(&self) {
        self.blocks.attributes_changed();
    }

    /// Plain size in bytes.
    pub fn len(&self) -> u64 {
        self.state.read().size
    }

    /// True if there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Attributes with `size` being the plain size, `mtime` the time of the last write or [`set_mtime`](Self::set_mtime), and `ctime` no
    /// earlier than the last write.
    ///
    /// # Errors
    /// [`FileError::Io`].
    pub fn stat(&self) -> Result<Stat, FileError> {
        // First: a commit that comes between gives the backing file this mtime, after another one.
        let Shown { size, mtime, changed } = *self.shown.lock();
        let stat = self.blocks.raw().stat()?;
        Ok(Stat { size, mtime: mtime.unwrap_or(stat.mtime), ctime: stat.ctime.max(changed), ..stat })
    }

    /// Sets the mtime and keeps it over commits that follow; atime goes straight to the backing file.
    ///
    /// # Errors
    /// [`FileError::Io`].
    pub fn set_mtime(&self, mtime: Timestamp) -> Result<(), FileError> {
        let mut state = self.writing();
        if !state.dirty {
            self.blocks.raw().set_times(SetTime::Keep, SetTime::To(mtime))?;
        }
        // What is written later on disturbs it, and then it is set again.
        state.mtime = (state.dirty || !self.blocks.is_settled()).then_some(mtime);
        self.blocks.attributes_changed();
        Ok(())
    }

    /// Bytes of memory that pending changes hold; for back-pressure.
    pub fn dirty_bytes(&self) -> usize {
        let state = self.state.read();
        match &state.body {
            Body::Inline(plain) if state.dirty => plain.len(),
            Body::Tree(tree) => tree.pending_len() * BLOCK,
            _ => 0,
        }
    }

    /// The file's keys, made if it has none yet.
    fn keys(&self) -> &FileKeys {
        self.keys.get_or_init(|| FileKeys::generate(self.options.epoch_limit))
    }

    fn source(&self) -> Source<'_> {
        Source { blocks: &self.blocks, keys: self.keys(), cache: &self.options.cache }
    }

    /// Tells the cache of the number of pending nodes; at the end of whatever may change it.
    fn count_pending(&self, state: &mut State) {
        let now = match &state.body {
            Body::Tree(tree) => tree.pending_len(),
            _ => 0,
        };
        self.options.cache.count_pending(state.counted, now);
        state.counted = now;
    }
}

impl Drop for File {
    fn drop(&mut self) {
        self.options.cache.count_pending(self.state.get_mut().counted, 0);
    }
}

impl std::fmt::Debug for File {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("File");
        if let Some(keys) = self.keys.get() {
            shown.field("id", &keys.id());
        }
        if let Some(state) = self.state.try_read() {
            shown.field("size", &state.size).field("dirty", &state.dirty);
        }
        shown.finish_non_exhaustive()
    }
}

impl State {
    /// Before the first change that leaves the mtime alone: notes the one that the backing file is about to lose.
    fn keep_mtime(&mut self, blocks: &BlockFile) -> io::Result<()> {
        if self.mtime.is_none() {
            self.mtime = Some(blocks.raw().stat()?.mtime);
        }
        Ok(())
    }

    /// Gives the backing file the mtime that users see, once nothing will disturb it. A daemon that may write to a file it does not
    /// own cannot; the mtime is then remembered for as long as the file is open.
    fn restore_mtime(&mut self, blocks: &BlockFile) {
        if let Some(mtime) = self.mtime
            && blocks.is_settled()
            && blocks.raw().set_times(SetTime::Keep, SetTime::To(mtime)).is_ok()
        {
            self.mtime = None;
        }
    }

    /// The contents changed now.
    fn touched(&mut self) {
        self.changed = now();
        self.mtime = Some(self.changed);
    }

    /// Blocks were written up to this offset of the backing file.
    fn wrote_to(&mut self, end: u64) {
        self.stored = self.stored.max(end);
    }
}

/// The current time, as the kernel would note it for a write.
fn now() -> Timestamp {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
    Timestamp { secs: now.tv_sec, nanos: u32::try_from(now.tv_nsec).unwrap_or(0) }
}

/// True if a block, or a part of one, is all zero.
fn is_zero(bytes: &[u8]) -> bool {
    // A comparison of slices is one of memory; going byte by byte takes longer than opening the root record.
    static ZEROS: [u8; BLOCK] = [0; BLOCK];
    ZEROS.get(..bytes.len()) == Some(bytes)
}

/// Refuses sizes whose stored form `off_t` cannot address.
fn check_size(size: u64) -> Result<(), FileError> {
    if size > MAX_LEN || stored_len(size) > i64::MAX as u64 {
        return Err(FileError::TooLarge);
    }
    Ok(())
}

/// A header whose root record opened.
struct Opened {
    header: Header,
    record: RootRecord,
    /// Contents of an inline file.
    inline: Option<Zeroizing<Vec<u8>>>,
    keys: FileKeys,
}

/// Reads block 0, unwraps the DEK and opens the root record. `block` is what there is of the block, `stored` the length
/// of the whole backing file.
fn open_header(block: &[u8], stored: u64, ring: &KeyRing, epoch_limit: u64) -> Result<Opened, FileError> {
    let header = Header::parse(block)?;
    let dek = unwrap_dek(&header, ring)?;
    let keys = FileKeys::new(header.file_id, dek, header.epoch, epoch_limit);
    let inline = block.get(HEADER_LEN..).unwrap_or_default();
    let (record, plain) = open_root(&header, inline, stored, ring, &keys)?;
    let record = RootRecord::parse(&record)?;
    let inline = (record.height == 0).then_some(plain);
    if inline.as_ref().map_or(0, |plain| plain.len() as u64) != if record.height == 0 { record.size } else { 0 } {
        return Err(Damage::Header("root record contradicts the inline contents").into());
    }
    if record.height > 0 && !is_zero(block.get(HEADER_LEN..).unwrap_or_default()) {
        return Err(Damage::Header("reserved bytes are not zero").into());
    }
    let expected = stored_len(record.size);
    if stored < expected {
        return Err(Damage::TooShort { stored, expected }.into());
    }
    let keys = keys.counted(record.seals);
    Ok(Opened { header, record, inline, keys })
}

/// Takes the first wrapped-DEK place whose master key is in the ring and whose tag verifies.
fn unwrap_dek(header: &Header, ring: &KeyRing) -> Result<Secret<32>, FileError> {
    let mut error = FileError::NoKey;
    for place in header.places.iter().flatten() {
        match ring.unwrap_dek(&header.file_id, place) {
            Ok(dek) => return Ok(dek),
            Err(UnwrapError::NoSuchKey(_)) => {}
            Err(UnwrapError::Unauthentic(_)) => {
                error = Damage::Header("the wrapped DEK fails authentication").into();
            }
        }
    }
    Err(error)
}

/// Opens root record and inline contents, which are one text. How long it is follows from the stored length, unless the writer
/// died between writing a header and setting the length that goes with it: then the length that authenticates is
/// searched, at most [`INLINE_MAX`] times.
fn open_root(
    header: &Header,
    inline: &[u8],
    stored: u64,
    ring: &KeyRing,
    keys: &FileKeys,
) -> Result<([u8; ROOT_LEN], Zeroizing<Vec<u8>>), Damage> {
    let key = keys.key(header.epoch);
    let associated = header.associated_data(ring.volume());
    let mut text = Zeroizing::new(Vec::with_capacity(BLOCK));
    let mut opens = |len: usize| {
        text.clear();
        text.extend_from_slice(&header.root);
        text.extend_from_slice(inline.get(..len)?);
        key.open_in_place(&header.root_nonce, &associated, &mut text, &header.root_tag).ok()?;
        let (record, plain) = text.split_first_chunk::<ROOT_LEN>()?;
        // Room for the largest inline contents: growing later would leave copies behind.
        let mut contents = Zeroizing::new(Vec::with_capacity(INLINE_MAX as usize));
        contents.extend_from_slice(plain);
        Some((*record, contents))
    };
    let likely = if stored <= BLOCK as u64 { inline.len() } else { 0 };
    opens(likely)
        .or_else(|| (0..=inline.len()).find_map(opens))
        .ok_or(Damage::Header("the root record fails authentication"))
}
