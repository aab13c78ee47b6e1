//! What is known of one backing file between its last durable state and now, and the rules by which its blocks are written.
//!
//! A file is in one of two modes. *In place*: nothing of it was ever committed (it was just created, or emptied), so nothing can be
//! destroyed; every block goes straight to its place and one flush makes all of it durable. *Journalled*: there is a committed state, and then
//! - a block to which a committed state refers is replaced by an after-image that is held here (`open`), goes into the journal
//!   with its commit (`committed`), and is applied in place once that record is durable;
//! - a fresh block goes to its place at once, and is flushed before the record that refers to it is declared good - or, if there are few,
//!   rides in the record as a copy, which saves a flush;
//! - a block with an image in the live journal, or one that the durable state may still refer to though a later one does not
//!   (`freed`), counts as replaced;
//! - space is given back and the file is cut only when the commit that did without it is durable.
//!
//! Lock order: the caller's own locks, then a ledger's `pending`, then the journal's. No ledger's lock is held over a flush.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, IoSlice, IoSliceMut};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering};

use parking_lot::{Mutex, RwLock};

use super::journal::{AppendError, Appended};
use super::record::{BLOCK, Image, Kind, Record};
use super::{BackingFile, Rule, Store, Timestamp};

const BLOCK_LEN: u64 = BLOCK as u64;
/// Most fresh blocks that ride in the journal; more are cheaper to flush in place.
const MAX_COPIES: usize = 32;

/// Bytes written in place after which the background flushes a file that will be flushed some time anyway, so that the disk works while the writer
/// does. Smaller files are left alone.
const EARLY_FLUSH: u64 = 16 << 20;

/// After-image of a block.
type Bytes = Box<[u8]>;

/// One backing file's state in the store.
#[derive(Debug)]
pub(super) struct Ledger {
    /// `None`: without a journal, always in place.
    pub(super) store: Option<Arc<Store>>,
    pub(super) ino: u64,
    /// Held only to copy or exchange the reference, never over a system call.
    raw: RwLock<Arc<dyn BackingFile>>,
    /// Number of [`BlockFile`](super::BlockFile)s that use it; changed under the registry's lock.
    pub(super) attached: AtomicUsize,
    /// The file's last name is gone.
    pub(super) gone: AtomicBool,
    /// Errno of the first flush of this file that failed, 0 = none.
    failed: AtomicI32,
    /// Not zero: reads must look into `pending`.
    overlaid: AtomicUsize,
    pending: Mutex<Pending>,
}

#[derive(Debug, Default)]
struct Pending {
    id: [u8; 16],
    hint: Box<[u8]>,
    in_place: bool,
    /// No state of it is durable.
    virgin: bool,
    /// Something was written in place since the last flush, and no copy of it is kept.
    dirty: bool,
    /// Counts writes in place, to see whether one came during a flush.
    writes: u64,
    /// Attributes or names changed since the last flush of all metadata.
    attributes: bool,
    /// Bytes written in place since the last flush, or since the background was asked for one.
    unflushed: u64,
    /// Fresh blocks written in place since the last flush, while they are few.
    copies: BTreeMap<u64, Bytes>,
    /// Length as of now, as of the last commit, and of the file on disk.
    len: u64,
    committed_len: u64,
    physical_len: u64,
    /// Images of blocks replaced since the last commit.
    open: BTreeMap<u64, Bytes>,
    /// Images in the journal and not yet in place, with the sequence number of their record.
    committed: BTreeMap<u64, (Bytes, u64)>,
    /// Blocks with an image in the live journal, with the lap of the newest one.
    live: HashMap<u64, u64>,
    /// Laps of the first and the last commit in the live journal, with images or without; `None`: recovery knows nothing of this file.
    recorded: Option<(u64, u64)>,
    /// The durable state may refer to blocks below this offset that later states do without.
    freed: u64,
    /// Ranges to give back when the commits so far are durable.
    punches: Vec<(u64, u64)>,
    /// Last record of this file, and the last one known to be durable; 0 = none.
    last: u64,
    durable: u64,
}

/// What remains to be done, without a lock, for a commit to be durable.
#[derive(Debug, Clone, Copy)]
#[must_use]
pub struct Ticket {
    /// The file itself must be flushed; the number of writes in place that this then covers.
    flush: Option<u64>,
    /// With all attributes.
    metadata: bool,
    /// Then the records up to this one are to be declared good...
    mark: u64,
    /// ...or, where the record says so itself, flushed.
    through: u64,
}

impl Ticket {
    const DONE: Ticket = Ticket { flush: None, metadata: false, mark: 0, through: 0 };
}

/// Why a step could not be taken yet.
#[derive(Debug)]
pub(super) enum Stop {
    /// The journal is full: a checkpoint first.
    Full(u64),
    Io(io::Error),
}

impl From<AppendError> for Stop {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::Full { lap } => Stop::Full(lap),
            AppendError::Io(error) => Stop::Io(error),
        }
    }
}

impl Pending {
    fn is_settled(&self) -> bool {
        self.open.is_empty()
            && self.committed.is_empty()
            && self.punches.is_empty()
            && self.durable >= self.last
            && self.len == self.committed_len
            && self.physical_len == self.len
    }

    fn note_record(&mut self, lap: u64) {
        self.recorded = Some((self.recorded.map_or(lap, |(first, _)| first), lap));
    }

    /// Blocks are in use again: their space is not to be given back.
    fn keep(&mut self, blocks: &Range<u64>) {
        if self.punches.is_empty() {
            return;
        }
        let (start, end) = (blocks.start * BLOCK_LEN, blocks.end * BLOCK_LEN);
        let parts = |&(at, len): &(u64, u64)| {
            let before = (at, len.min(start.saturating_sub(at)));
            let behind = (at.max(end), (at + len).saturating_sub(at.max(end)));
            [before, behind].into_iter().filter(|(_, len)| *len > 0)
        };
        self.punches = self.punches.iter().flat_map(parts).collect();
    }

    /// True if a block must not be written directly though nothing now refers to it.
    fn is_guarded(&self, block: u64, rules: Option<Rule>) -> bool {
        let live = rules != Some(Rule::DirectOverLive) && self.live.contains_key(&block);
        live || self.open.contains_key(&block)
            || (block * BLOCK_LEN < self.freed && rules != Some(Rule::DirectOverFreed))
    }
}

impl Ledger {
    /// A file whose contents on disk are all durable, or (`fresh`) one that has never been.
    pub(super) fn new(
        store: Option<Arc<Store>>,
        raw: Arc<dyn BackingFile>,
        fresh: bool,
        hint: Box<[u8]>,
    ) -> io::Result<Self> {
        let stat = raw.stat()?;
        let pending = Pending {
            hint,
            in_place: fresh || store.is_none(),
            virgin: fresh,
            dirty: fresh,
            len: stat.size,
            committed_len: stat.size,
            physical_len: stat.size,
            ..Pending::default()
        };
        Ok(Ledger {
            store,
            ino: stat.ino,
            raw: RwLock::new(raw),
            attached: AtomicUsize::new(0),
            gone: AtomicBool::new(false),
            failed: AtomicI32::new(0),
            overlaid: AtomicUsize::new(0),
            pending: Mutex::new(pending),
        })
    }

    pub(super) fn raw(&self) -> Arc<dyn BackingFile> {
        Arc::clone(&self.raw.read())
    }

    pub(super) fn reopened(&self, raw: Arc<dyn BackingFile>) {
        *self.raw.write() = raw;
    }

    pub(super) fn is_attached(&self) -> bool {
        self.attached.load(Ordering::Acquire) > 0
    }

    /// Somebody has it open, and it has a name.
    pub(super) fn is_wanted(&self) -> bool {
        self.is_attached() && !self.gone.load(Ordering::Acquire)
    }

    pub(super) fn identify(&self, id: [u8; 16]) {
        self.pending.lock().id = id;
    }

    pub(super) fn set_hint(&self, hint: Box<[u8]>) {
        self.pending.lock().hint = hint;
    }

    /// Attributes changed by another way than the file's contents.
    pub(super) fn attributes_changed(&self) {
        self.pending.lock().attributes = true;
    }

    pub(super) fn len(&self) -> u64 {
        self.pending.lock().len
    }

    /// Images that no commit has taken yet.
    pub(super) fn open_blocks(&self) -> usize {
        self.pending.lock().open.len()
    }

    /// True if the file on disk is, apart from flushes, what it is to be.
    pub(super) fn is_settled(&self) -> bool {
        self.pending.lock().is_settled()
    }

    /// True if nothing needs to be remembered of the file once nobody uses it.
    pub(super) fn is_forgettable(&self) -> bool {
        let pending = self.pending.lock();
        let clean = !pending.dirty && pending.copies.is_empty() && pending.is_settled() && pending.recorded.is_none();
        clean || self.gone.load(Ordering::Acquire)
    }

    fn rules(&self) -> Option<Rule> {
        self.store.as_ref().and_then(|store| store.broken_rule())
    }

    /// Keeps what depends on the images in step with them.
    fn count(&self, pending: &Pending, before: usize) {
        let images = pending.open.len() + pending.committed.len();
        if let Some(store) = &self.store {
            store.count_images(before, images);
        }
        self.overlaid.store(images + usize::from(pending.physical_len != pending.len), Ordering::Release);
    }

    /// Changes `pending` and keeps the counts.
    fn change<T>(&self, change: impl FnOnce(&mut Pending) -> T) -> T {
        let mut pending = self.pending.lock();
        let before = pending.open.len() + pending.committed.len();
        let result = change(&mut pending);
        self.count(&pending, before);
        result
    }

    /// Reads as of now; fewer bytes than asked for mean the end of the file.
    pub(super) fn read(&self, bufs: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<usize> {
        if self.overlaid.load(Ordering::Acquire) == 0 {
            return self.raw().read_vectored_at(bufs, offset);
        }
        let wanted: usize = bufs.iter().map(|buf| buf.len()).sum();
        // Collected first: an image leaves only once it is in place, so what is not collected is read from there.
        let (len, images) = {
            let pending = self.pending.lock();
            let end = offset.saturating_add(wanted as u64).min(pending.len).max(offset);
            let blocks = offset / BLOCK_LEN..end.div_ceil(BLOCK_LEN);
            let mut images: BTreeMap<u64, Bytes> = BTreeMap::new();
            if !blocks.is_empty() {
                images.extend(pending.committed.range(blocks.clone()).map(|(at, (bytes, _))| (*at, bytes.clone())));
                images.extend(pending.open.range(blocks).map(|(at, bytes)| (*at, bytes.clone())));
            }
            (end - offset, images)
        };
        // Through other slices: a read that ends early leaves those that it was given shortened.
        let mut views: Vec<IoSliceMut<'_>> = bufs.iter_mut().map(|buf| IoSliceMut::new(buf)).collect();
        let got = self.raw().read_vectored_at(&mut views, offset)? as u64;
        let mut at = offset;
        for buf in bufs.iter_mut() {
            // Behind the end on disk and before the one in memory there are images, or places not in use.
            if at + buf.len() as u64 > offset + got {
                let from = (offset + got).saturating_sub(at) as usize;
                if let Some(rest) = buf.get_mut(from..) {
                    rest.fill(0);
                }
            }
            for (block, bytes) in images.range(at / BLOCK_LEN..) {
                let start = block * BLOCK_LEN;
                if start >= at + buf.len() as u64 {
                    break;
                }
                let skipped = at.saturating_sub(start) as usize;
                let to = start.saturating_sub(at) as usize;
                if let (Some(from), Some(to)) = (bytes.get(skipped..), buf.get_mut(to..)) {
                    let n = from.len().min(to.len());
                    to[..n].copy_from_slice(&from[..n]);
                }
            }
            at += buf.len() as u64;
        }
        Ok(len as usize)
    }

    /// Writes blocks that no committed state refers to.
    pub(super) fn write_fresh(&self, bufs: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        let len: usize = bufs.iter().map(|buf| buf.len()).sum();
        let blocks = offset / BLOCK_LEN..(offset + len as u64).div_ceil(BLOCK_LEN);
        let rules = self.rules();
        let mut pending = self.pending.lock();
        if blocks.clone().any(|block| pending.is_guarded(block, rules)) {
            drop(pending);
            return self.write_mixed(bufs, offset);
        }
        let end = offset + len as u64;
        pending.keep(&blocks);
        if !pending.in_place && !pending.dirty {
            if pending.copies.len() + blocks.clone().count() <= MAX_COPIES {
                for (block, bytes) in pieces(bufs, offset) {
                    pending.copies.insert(block, bytes);
                }
            } else {
                pending.copies.clear();
                pending.dirty = true;
            }
        }
        pending.dirty |= pending.in_place;
        pending.writes += 1;
        let raw = self.raw();
        // The lock stays: whoever applies an image or cuts the file sees this write or comes before it.
        let written = raw.write_all_vectored_at(bufs, offset);
        if written.is_ok() {
            pending.physical_len = pending.physical_len.max(end);
            pending.len = pending.len.max(end);
            if pending.in_place {
                pending.committed_len = pending.len;
            }
            pending.unflushed += len as u64;
            if pending.unflushed >= EARLY_FLUSH {
                pending.unflushed = 0;
                drop(pending);
                if let Some(store) = &self.store {
                    store.flush_early(self.ino);
                }
            }
        } else {
            pending.physical_len = raw.stat().map_or(pending.physical_len, |stat| stat.size);
        }
        written
    }

    /// Fresh blocks of which some must not be written directly.
    fn write_mixed(&self, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        for (block, bytes) in pieces(bufs, offset) {
            let guarded = self.pending.lock().is_guarded(block, self.rules());
            match guarded {
                true => self.hold(block, bytes),
                false => self.write_fresh(&mut [IoSlice::new(&bytes)], block * BLOCK_LEN)?,
            }
        }
        Ok(())
    }

    fn hold(&self, block: u64, bytes: Bytes) {
        self.change(|pending| {
            pending.len = pending.len.max(block * BLOCK_LEN + bytes.len() as u64);
            pending.keep(&(block..block + 1));
            if pending.copies.remove(&block).is_some() {
                // A commit that is not durable yet may rely on the fresh one, which now only is in place.
                pending.dirty = true;
            }
            pending.open.insert(block, bytes);
        });
    }

    /// Writes over blocks to which a committed state refers.
    pub(super) fn replace(&self, bufs: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        let in_place = self.pending.lock().in_place || self.rules() == Some(Rule::ImageBeforePlace);
        if in_place {
            return self.write_fresh(bufs, offset);
        }
        for (block, bytes) in pieces(bufs, offset) {
            self.hold(block, bytes);
        }
        Ok(())
    }

    /// Changes the length.
    pub(super) fn set_len(&self, len: u64) -> Result<(), Stop> {
        let raw = self.raw();
        self.change(|pending| {
            if len == 0 && !pending.in_place {
                return self.empty(pending, &*raw);
            }
            let cut_now = pending.in_place || self.rules() == Some(Rule::CutWhenDurable);
            if len > pending.physical_len || (cut_now && len != pending.physical_len) {
                raw.set_len(len).map_err(Stop::Io)?;
                pending.physical_len = len;
                pending.writes += 1;
                pending.dirty |= pending.in_place;
            }
            if pending.in_place {
                pending.committed_len = len;
            } else if len < pending.len {
                pending.freed = pending.freed.max(pending.len);
                let behind = len.div_ceil(BLOCK_LEN);
                pending.open.split_off(&behind);
                if !pending.copies.split_off(&behind).is_empty() {
                    pending.dirty = true;
                }
            }
            pending.len = len;
            Ok(())
        })
    }

    /// Cuts what is behind the end of every state.
    pub(super) fn cut_excess(&self, len: u64) -> io::Result<()> {
        let raw = self.raw();
        self.change(|pending| {
            raw.set_len(len)?;
            (pending.len, pending.committed_len, pending.physical_len) = (len, len, len);
            pending.writes += 1;
            Ok(())
        })
    }

    /// Makes a journalled file one of no bytes. A cut to nothing is atomic in itself and needs no commit: an empty file is matched by no
    /// image, for its id is gone with block 0. But the id comes back with the next header: where there are records in the live journal, be
    /// it of a length alone, another one must say that they are void.
    fn empty(&self, pending: &mut Pending, raw: &dyn BackingFile) -> Result<(), Stop> {
        let live = pending.recorded.is_some();
        if live && let Some(store) = &self.store {
            let record = Record {
                kind: Kind::Commit,
                ino: self.ino,
                id: pending.id,
                through: 0,
                len: 0,
                mtime: None,
                hint: &pending.hint,
                images: Vec::new(),
            };
            let Appended { seq, lap } = store.journal().append(&record)?;
            pending.note_record(lap);
            pending.last = seq;
            store.noted(lap);
        }
        raw.set_len(0).map_err(Stop::Io)?;
        pending.open.clear();
        pending.committed.clear();
        pending.copies.clear();
        pending.punches.clear();
        (pending.len, pending.committed_len, pending.physical_len) = (0, 0, 0);
        pending.freed = 0;
        pending.dirty = true;
        pending.writes += 1;
        if !live {
            pending.in_place = true;
            pending.virgin = true;
            pending.durable = pending.last;
        }
        Ok(())
    }

    /// Notes that the places of a range are not in use any more, and gives their space back (`punch`) when that is durable.
    pub(super) fn release(&self, offset: u64, len: u64, punch: bool) -> io::Result<()> {
        let mut pending = self.pending.lock();
        if pending.in_place {
            pending.dirty |= punch;
            pending.writes += u64::from(punch);
            return if punch { self.raw().punch_hole(offset, len) } else { Ok(()) };
        }
        if !pending.is_settled() || pending.dirty {
            pending.freed = pending.freed.max(offset + len);
            if punch {
                pending.punches.push((offset, len));
            }
            return Ok(());
        }
        if punch { self.raw().punch_hole(offset, len) } else { Ok(()) }
    }

    /// Ends a group of writes: what was replaced goes into the journal, without a flush.
    pub(super) fn commit(&self, mtime: Option<Timestamp>) -> Result<(), Stop> {
        self.change(|pending| {
            let Some(store) = &self.store else { return Ok(()) };
            if std::mem::take(&mut pending.in_place) {
                // All of it is in place, and from now on there is a state to be kept.
                return Ok(());
            }
            if !pending.open.is_empty() || pending.len != pending.committed_len {
                self.append(store, pending, mtime, 0)?;
            }
            Ok(())
        })
    }

    /// Ends a group of writes that is to become durable, as [`finish`](Self::finish) then makes it. In between, nothing
    /// that this group committed is written over.
    pub(super) fn prepare(&self, metadata: bool, mtime: Option<Timestamp>) -> Result<Ticket, Stop> {
        self.change(|pending| {
            let metadata = metadata && (pending.attributes || pending.virgin || pending.is_settled());
            let Some(store) = &self.store else {
                return Ok(Ticket { flush: Some(pending.writes), metadata, ..Ticket::DONE });
            };
            // A record that carries all that it relies on says itself that it is good, and with it all earlier ones.
            let mut marked = false;
            if std::mem::take(&mut pending.in_place) {
                // As in `commit`.
            } else if !pending.open.is_empty() || pending.len != pending.committed_len || !pending.copies.is_empty() {
                marked = !pending.dirty;
                self.append(store, pending, mtime, if marked { Record::OWN } else { 0 })?;
            }
            let through = if pending.last > pending.durable { pending.last } else { 0 };
            let flush = (pending.dirty || metadata).then_some(pending.writes);
            Ok(Ticket { flush, metadata, mark: if marked { 0 } else { through }, through })
        })
    }

    /// Appends a commit record, and with `through` set the fresh blocks that are not flushed.
    fn append(
        &self,
        store: &Arc<Store>,
        pending: &mut Pending,
        mtime: Option<Timestamp>,
        through: u64,
    ) -> Result<(), Stop> {
        let copies = through != 0;
        let mut images: Vec<Image<'_>> =
            pending.open.iter().map(|(block, bytes)| Image { block: *block, bytes }).collect();
        if copies {
            images.extend(pending.copies.iter().map(|(block, bytes)| Image { block: *block, bytes }));
        }
        let record = Record {
            kind: Kind::Commit,
            ino: self.ino,
            id: pending.id,
            through,
            len: pending.len,
            mtime,
            hint: &pending.hint,
            images,
        };
        let Appended { seq, lap } = store.journal().append(&record)?;
        for (block, bytes) in std::mem::take(&mut pending.open) {
            pending.live.insert(block, lap);
            pending.committed.insert(block, (bytes, seq));
        }
        if copies {
            for block in std::mem::take(&mut pending.copies).into_keys() {
                pending.live.insert(block, lap);
            }
        }
        pending.committed_len = pending.len;
        pending.note_record(lap);
        pending.last = seq;
        store.noted(lap);
        Ok(())
    }

    /// Makes durable what a ticket stands for.
    ///
    /// # Errors
    /// Those of fsync(2). After a failed flush the kernel may have dropped the pages and count them as clean, so that
    /// another flush would succeed without the data being anywhere: every later flush of this file fails as well.
    pub(super) fn finish(&self, ticket: Ticket) -> Result<(), Stop> {
        self.check_failed().map_err(Stop::Io)?;
        if let Some(writes) = ticket.flush {
            if self.rules() != Some(Rule::DataBeforeMark) {
                self.flush(ticket.metadata).map_err(Stop::Io)?;
            }
            self.flushed(writes, ticket.metadata);
        }
        let Some(store) = &self.store else { return Ok(()) };
        let mut through = ticket.through;
        if ticket.mark != 0 {
            through = self.mark(store, ticket.mark)?;
        }
        if through != 0 {
            if self.rules() != Some(Rule::FlushOnSync) {
                store.journal().flush_to(through).map_err(Stop::Io)?;
            }
            self.apply(ticket.through);
        }
        Ok(())
    }

    /// Makes the records so far durable by a marker of their own; they rely on nothing that is not flushed.
    pub(super) fn finish_marked(&self) -> Result<(), Stop> {
        let last = self.pending.lock().last;
        self.finish(Ticket { mark: last, through: last, ..Ticket::DONE })
    }

    fn mark(&self, store: &Arc<Store>, mark: u64) -> Result<u64, Stop> {
        let pending = self.pending.lock();
        let record = Record {
            kind: Kind::Marker,
            ino: self.ino,
            id: pending.id,
            through: mark,
            len: pending.committed_len,
            mtime: None,
            hint: &pending.hint,
            images: Vec::new(),
        };
        Ok(store.journal().append(&record)?.seq)
    }

    /// Flushes the file itself.
    pub(super) fn flush(&self, metadata: bool) -> io::Result<()> {
        self.check_failed()?;
        self.raw().sync(metadata).inspect_err(|error| {
            self.failed.store(error.raw_os_error().unwrap_or(libc::EIO), Ordering::Release);
        })
    }

    fn check_failed(&self) -> io::Result<()> {
        match self.failed.load(Ordering::Acquire) {
            0 => Ok(()),
            errno => Err(io::Error::from_raw_os_error(errno)),
        }
    }

    /// A flush that began when so many writes had been made has ended.
    pub(super) fn flushed(&self, writes: u64, metadata: bool) {
        let mut pending = self.pending.lock();
        if pending.writes == writes {
            pending.dirty = false;
            pending.unflushed = 0;
            pending.copies.clear();
        }
        pending.virgin = false;
        pending.attributes &= !metadata;
    }

    /// Before a flush of the file for the sake of all its commits: the number of writes, if there is anything to flush. In a file
    /// in place there is nothing that was committed.
    pub(super) fn to_flush(&self) -> Option<u64> {
        let pending = self.pending.lock();
        if pending.in_place && self.is_attached() {
            return None;
        }
        (pending.dirty || !pending.copies.is_empty()).then_some(pending.writes)
    }

    /// Forgets what was written since the last commit, for a user who gives it up. What of it is in place is in places not in use.
    pub(super) fn discard(&self) {
        self.change(|pending| {
            pending.open.clear();
            if !pending.in_place {
                pending.len = pending.committed_len;
            }
        });
    }

    /// True if a power loss now could leave nothing of the file.
    pub(super) fn is_virgin(&self) -> bool {
        let pending = self.pending.lock();
        pending.virgin && pending.dirty
    }

    /// True if records of the file are not known to be durable.
    pub(super) fn is_unmarked(&self) -> bool {
        let pending = self.pending.lock();
        pending.last > pending.durable
    }

    /// True if something is left to apply.
    pub(super) fn is_unapplied(&self) -> bool {
        !self.pending.lock().is_settled()
    }

    /// The file's records up to `through` are durable: their images go to their places, then what they do without is given back.
    /// An error leaves the images where they are, in memory and in the journal, for the next attempt.
    pub(super) fn apply(&self, through: u64) {
        let raw = self.raw();
        let result = self.change(|pending| {
            pending.durable = pending.durable.max(through.min(pending.last));
            let due: Vec<u64> =
                pending.committed.iter().filter(|(_, (_, seq))| *seq <= through).map(|(block, _)| *block).collect();
            // Whole blocks that follow one another go in one call; a shorter one ends a run.
            let is_whole = |block: &u64| pending.committed.get(block).is_some_and(|(bytes, _)| bytes.len() == BLOCK);
            let runs: Vec<Vec<u64>> = due.chunk_by(|a, b| b - a == 1 && is_whole(a)).map(|run| run.to_vec()).collect();
            for run in runs {
                let Some(first) = run.first() else { continue };
                let images = run.iter().filter_map(|block| pending.committed.get(block));
                let mut bufs: Vec<IoSlice<'_>> = images.map(|(bytes, _)| IoSlice::new(bytes)).collect();
                let end = first * BLOCK_LEN + bufs.iter().map(|buf| buf.len() as u64).sum::<u64>();
                raw.write_all_vectored_at(&mut bufs, first * BLOCK_LEN)?;
                pending.physical_len = pending.physical_len.max(end);
                run.iter().for_each(|block| drop(pending.committed.remove(block)));
            }
            if pending.durable < pending.last || !pending.open.is_empty() || pending.len != pending.committed_len {
                return Ok(());
            }
            if pending.physical_len != pending.len {
                raw.set_len(pending.len)?;
                pending.physical_len = pending.len;
            }
            for (offset, len) in std::mem::take(&mut pending.punches) {
                match raw.punch_hole(offset, len) {
                    // Without the gain: the backing filesystem cannot do it.
                    Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => break,
                    done => done?,
                }
            }
            pending.freed = 0;
            Ok::<_, io::Error>(())
        });
        if let Err(error) = result {
            tracing::warn!(inode = self.ino, %error, "changes stay in the journal: the backing filesystem does not take them");
        }
    }

    /// Whether a checkpoint of a lap concerns this file.
    pub(super) fn is_live_in(&self, lap: u64) -> bool {
        self.pending.lock().recorded.is_some_and(|(first, _)| first <= lap)
    }

    /// Whether an image of a lap waits for its place in vain.
    pub(super) fn is_stuck_in(&self, lap: u64) -> bool {
        let pending = self.pending.lock();
        pending.committed.keys().any(|block| pending.live.get(block).is_some_and(|live| *live <= lap))
    }

    /// A checkpoint made everything up to a lap durable in place.
    pub(super) fn checkpointed(&self, lap: u64) {
        let mut pending = self.pending.lock();
        pending.live.retain(|_, live| *live > lap);
        pending.recorded =
            pending.recorded.filter(|(_, last)| *last > lap).map(|(first, last)| (first.max(lap + 1), last));
    }

    /// The record for a file whose last name is gone, where recovery would otherwise search for it.
    pub(super) fn note_gone(&self) {
        self.gone.store(true, Ordering::Release);
        let Some(store) = &self.store else { return };
        let pending = self.pending.lock();
        if pending.recorded.is_none() {
            return;
        }
        let record = Record {
            kind: Kind::Gone,
            ino: self.ino,
            id: pending.id,
            through: 0,
            len: 0,
            mtime: None,
            hint: &[],
            images: Vec::new(),
        };
        // For speed only: without it recovery searches in vain.
        let _ = store.journal().append(&record);
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        let pending = self.pending.get_mut();
        let images = pending.open.len() + pending.committed.len();
        if let Some(store) = &self.store {
            store.count_images(images, 0);
        }
    }
}

/// The blocks of a write, which begins at a block's beginning, one by one.
fn pieces(bufs: &[IoSlice<'_>], offset: u64) -> Vec<(u64, Bytes)> {
    let cut = |all: &[u8]| {
        (offset / BLOCK_LEN..).zip(all.chunks(BLOCK)).map(|(block, bytes)| (block, bytes.into())).collect()
    };
    match bufs {
        [one] => cut(one),
        many => cut(&many.iter().map(|buf| &**buf).collect::<Vec<&[u8]>>().concat()),
    }
}
