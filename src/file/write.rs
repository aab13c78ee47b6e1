//! Writing and the length: chunks sealed side by side, placed one writer at a time.
//!
//! The order within one write decides what a failure leaves. First go chunks that nothing refers to: if they fail, nothing
//! has changed. Then go chunks that are read today, and each run of them is entered in the tree as soon as it is placed; if one
//! fails, the stored bytes tell which of its chunks are the new ones. Last goes the old last chunk where the file grows,
//! because its length changes with the size.

use std::io::{IoSlice, IoSliceMut};
use std::ops::Range;

use zeroize::Zeroizing;

use super::chunk::{self, Grant, Place};
use super::layout::{self, BLOCK_LEN, ChunkIndex, INLINE_MAX};
use super::read::Scratch;
use super::tree::{Entry, Source, Tree};
use super::{BLOCK, Body, File, FileError, State, check_size};
use crate::crypto::Nonce;

/// Chunks written at a time: bounds the scratch memory.
const PIECE: u64 = 256 * BLOCK_LEN;

/// Pending nodes or blocks below which a file does not commit for want of memory: others have what is to be given back.
const FEW_PENDING: usize = 16;

/// A chunk about to be written, sealed already.
#[derive(Clone, Copy)]
pub(super) struct Job {
    chunk: ChunkIndex,
    entry: Entry,
    /// Start of the ciphertext in the scratch buffer.
    at: usize,
    len: usize,
    order: Order,
    /// The committed tree refers to the place.
    placed: bool,
}

impl Job {
    fn sealed<'a>(&self, scratch: &'a [u8]) -> &'a [u8] {
        scratch.get(self.at..self.at + self.len).unwrap_or_default()
    }
}

/// When a chunk is written; see the top of this file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Order {
    Unread,
    Overwritten,
    Grown,
}

/// What a file was before a write.
struct Old<'a> {
    size: u64,
    /// The contents, if they were inline.
    inline: Option<&'a [u8]>,
}

impl File {
    /// Writes all of `data`. The mtime becomes the current time.
    ///
    /// # Errors
    /// [`FileError`]; part of the data may have been written.
    pub fn write_at(&self, offset: u64, data: &[u8]) -> Result<(), FileError> {
        check_size(offset.checked_add(data.len() as u64).ok_or(FileError::TooLarge)?)?;
        let (mut offset, mut rest) = (offset, data);
        while !rest.is_empty() {
            let room = PIECE - offset % BLOCK_LEN;
            let (piece, behind) = rest.split_at(rest.len().min(room as usize));
            Scratch::with(|scratch| self.write_piece(offset, piece, scratch))?;
            if self.blocks.is_pressed()
                && let Err(error) = self.blocks.settle()
            {
                // Not this write's fault; what it is about fails by itself, in the next commit.
                tracing::warn!(%error, "the store could not make room in memory");
            }
            offset += piece.len() as u64;
            rest = behind;
        }
        Ok(())
    }

    fn write_piece(&self, offset: u64, data: &[u8], scratch: &mut Scratch) -> Result<(), FileError> {
        let end = offset + data.len() as u64;
        let whole = seal_whole_chunks(self, offset, data, scratch)?;

        let mut state = self.writing();
        let result = self.place(&mut state, offset..end, data, whole, scratch);
        self.count_pending(&mut state);
        result?;
        let nodes_pressed = state.counted >= FEW_PENDING && self.options.cache.is_pressed();
        let blocks_pressed = self.blocks.is_pressed() && self.blocks.is_holding(FEW_PENDING);
        if nodes_pressed || blocks_pressed || self.blocks.is_full(state.counted) {
            self.commit_locked(&mut state)?;
        }
        Ok(())
    }

    /// Everything of a write that needs the lock.
    fn place(
        &self,
        state: &mut State,
        range: Range<u64>,
        data: &[u8],
        whole: Vec<Job>,
        scratch: &mut Scratch,
    ) -> Result<(), FileError> {
        let size = state.size.max(range.end);
        if size <= INLINE_MAX {
            let plain = state.inline_mut(size);
            if let Some(place) = plain.get_mut(range.start as usize..range.end as usize) {
                place.copy_from_slice(data);
            }
            state.size = size;
            state.dirty = true;
        } else {
            self.place_chunks(state, range, data, size, whole, scratch)?;
        }
        state.touched();
        Ok(())
    }

    /// Places chunks and grows the file to `size`, which makes it one with a tree. With an empty range it only grows.
    pub(super) fn place_chunks(
        &self,
        state: &mut State,
        range: Range<u64>,
        data: &[u8],
        size: u64,
        whole: Vec<Job>,
        scratch: &mut Scratch,
    ) -> Result<(), FileError> {
        let source = self.source();
        state.dirty = true;
        let old_size = state.size;
        let (mut tree, inline) = match std::mem::replace(&mut state.body, Body::Empty) {
            Body::Tree(tree) => (tree, None),
            Body::Inline(plain) => (Tree::of_holes(1, state.dropped), Some(plain)),
            Body::Empty => (Tree::of_holes(1, state.dropped), None),
        };
        tree.grow(layout::height(size));
        let mut size_now = old_size;
        let mut jobs = whole;
        let old = Old { size: old_size, inline: inline.as_ref().map(|plain| plain.as_slice()) };
        let placed = self
            .seal_partial_chunks(&tree, &old, &range, data, size, &mut jobs, scratch)
            .and_then(|()| order_jobs(source, &mut tree, &mut jobs, old_size))
            .and_then(|()| place_jobs(source, &mut tree, &jobs, &scratch.sealed, &mut size_now, &mut state.stored));
        if let Err(error) = placed {
            state.size = size_now;
            state.body = match inline {
                Some(plain) => Body::Inline(plain),
                None if old_size == 0 => Body::Empty,
                None => {
                    // Without the leaves made for chunks that did not come about, and the levels above them.
                    tree.cut(layout::chunk_count(size_now), layout::height(size_now));
                    Body::Tree(tree)
                }
            };
            return Err(error);
        }
        state.size = size;
        state.body = Body::Tree(tree);
        Ok(())
    }

    /// Seals the chunks of which the write covers a part, and the old last chunk if it gets longer.
    #[allow(clippy::too_many_arguments)]
    fn seal_partial_chunks(
        &self,
        tree: &Tree,
        old: &Old<'_>,
        range: &Range<u64>,
        data: &[u8],
        size: u64,
        jobs: &mut Vec<Job>,
        scratch: &mut Scratch,
    ) -> Result<(), FileError> {
        let source = self.source();
        let &Old { size: old_size, inline } = old;
        let first = ChunkIndex::containing(range.start);
        let mut partial: Vec<(ChunkIndex, usize)> = Vec::with_capacity(3);
        if !range.is_empty() {
            let last = ChunkIndex::containing(range.end - 1);
            for chunk in [first, last] {
                let covered = range.start <= chunk.start() && chunk.start() + BLOCK_LEN <= range.end;
                let at = (chunk.0 - first.0) as usize * BLOCK;
                if !covered && partial.last().is_none_or(|&(other, _)| other != chunk) {
                    partial.push((chunk, at));
                }
            }
        }
        let grows = old_size > 0 && size > old_size;
        let old_last = ChunkIndex::containing(old_size.saturating_sub(1));
        if grows
            && old_last.len_in(size) > old_last.len_in(old_size)
            && partial.iter().all(|&(chunk, _)| chunk != old_last)
        {
            let written = !range.is_empty() && range.start <= old_last.start() && old_last.start() < range.end;
            let hole = inline.is_none() && tree.node(source, old_last.leaf())?.entry(old_last.slot()).is_hole();
            if !written && !hole {
                // Behind the part of the scratch buffer that the write itself uses.
                let behind = data.len().div_ceil(BLOCK) + 1;
                partial.push((old_last, behind * BLOCK));
            }
        }
        if partial.is_empty() {
            return Ok(());
        }
        let grant = self.keys().reserve(partial.len() as u64)?;
        for (chunk, at) in partial {
            let mut plain = [0; BLOCK];
            match inline {
                Some(contents) if chunk.0 == 0 => {
                    let (place, _) = plain.split_at_mut(contents.len().min(BLOCK));
                    place.copy_from_slice(contents.get(..place.len()).unwrap_or_default());
                }
                Some(_) => {}
                None => {
                    let old_len = chunk.len_in(old_size);
                    let (old, _) = plain.split_at_mut(old_len);
                    read_chunk(source, tree, chunk, old)?;
                }
            }
            let from = range.start.max(chunk.start());
            let to = range.end.min(chunk.start() + BLOCK_LEN);
            if from < to {
                let new = data.get((from - range.start) as usize..(to - range.start) as usize).unwrap_or_default();
                let place = plain.get_mut((from - chunk.start()) as usize..(to - chunk.start()) as usize);
                place.unwrap_or_default().copy_from_slice(new);
            }
            let len = chunk.len_in(size);
            jobs.push(seal_job(&grant, chunk::nonce(), chunk, plain.get(..len).unwrap_or_default(), at, scratch)?);
        }
        Ok(())
    }

    /// Truncates or extends with a hole. A truncation is committed before it returns, without a flush.
    ///
    /// # Errors
    /// [`FileError`]
    pub fn set_len(&self, len: u64) -> Result<(), FileError> {
        check_size(len)?;
        let mut state = self.writing();
        let result = self.set_len_locked(&mut state, len);
        self.count_pending(&mut state);
        result
    }

    pub(super) fn set_len_locked(&self, state: &mut State, len: u64) -> Result<(), FileError> {
        if len > state.size {
            self.extend(state, len)?;
            state.touched();
        } else if len < state.size {
            self.truncate(state, len)?;
        }
        Ok(())
    }

    pub(super) fn extend(&self, state: &mut State, len: u64) -> Result<(), FileError> {
        if len <= INLINE_MAX {
            state.inline_mut(len);
            state.size = len;
            state.dirty = true;
            return Ok(());
        }
        // The length first: this is where a backing filesystem says that it does not do files of this size.
        let stored = layout::stored_len(len);
        if state.stored < stored {
            self.blocks.set_len(stored)?;
            state.stored = stored;
            state.dirty = true;
        }
        Scratch::with(|scratch| self.place_chunks(state, len..len, &[], len, Vec::new(), scratch))
    }

    fn truncate(&self, state: &mut State, len: u64) -> Result<(), FileError> {
        if len == 0 {
            return self.truncate_to_nothing(state);
        }
        let shorter = match &mut state.body {
            Body::Empty => None,
            Body::Inline(plain) => {
                plain.truncate(len as usize);
                None
            }
            Body::Tree(tree) if len <= INLINE_MAX => {
                let mut plain = inline_buffer();
                plain.resize(len as usize, 0);
                let old_len = ChunkIndex(0).len_in(state.size);
                let mut chunk = Zeroizing::new([0; BLOCK]);
                let (old, _) = chunk.split_at_mut(old_len);
                read_chunk(self.source(), tree, ChunkIndex(0), old)?;
                plain.copy_from_slice(old.get(..len as usize).unwrap_or_default());
                Some(Body::Inline(plain))
            }
            Body::Tree(_) => {
                self.cut_tree(state, len)?;
                None
            }
        };
        if let Some(body) = shorter {
            state.dropped = true;
            state.body = body;
        }
        state.size = len;
        state.dirty = true;
        state.touched();
        self.commit_locked(state)
    }

    /// The length alone commits this: an empty file has neither header nor DEK. The next header wraps the DEK anew.
    fn truncate_to_nothing(&self, state: &mut State) -> Result<(), FileError> {
        if state.stored > 0 {
            self.blocks.set_len(0)?;
        }
        state.stored = 0;
        state.committed = 0;
        state.body = Body::Empty;
        state.size = 0;
        (state.dirty, state.dropped, state.excess) = (false, false, false);
        state.touched();
        state.restore_mtime(&self.blocks);
        Ok(())
    }

    /// Shortens a tree to a size that still needs one.
    fn cut_tree(&self, state: &mut State, len: u64) -> Result<(), FileError> {
        let source = self.source();
        let Body::Tree(tree) = &mut state.body else { return Ok(()) };
        let chunks = layout::chunk_count(len);
        let height = layout::height(len);
        state.dirty = true;
        tree.prepare_clear(source, &(chunks..u64::MAX), height)?;
        let last = ChunkIndex(chunks - 1);
        let (old_len, new_len) = (last.len_in(state.size), last.len_in(len));
        let stored = tree.node(source, last.leaf())?.entry(last.slot());
        if old_len != new_len && !stored.is_hole() {
            tree.edit(source, last.leaf())?;
            let mut plain = [0; BLOCK];
            let (plain, _) = plain.split_at_mut(old_len);
            read_chunk(source, tree, last, plain)?;
            let (plain, _) = plain.split_at(new_len);
            Scratch::with(|scratch| {
                let grant = self.keys().reserve(1)?;
                let mut job = seal_job(&grant, chunk::nonce(), last, plain, 0, scratch)?;
                job.order = Order::Overwritten;
                job.placed = tree.is_committed(last);
                // A shorter image over a longer one: if this fails, either of the two is there.
                let (mut size, mut end) = (state.size, state.stored);
                let placed = place_jobs(source, tree, &[job], &scratch.sealed, &mut size, &mut end);
                if placed.is_err() && tree.pending_entry(last) == job.entry {
                    return Ok(());
                }
                placed
            })?;
        }
        tree.clear(chunks..u64::MAX);
        tree.cut(chunks, height);
        Ok(())
    }
}

impl State {
    /// The inline contents with `size` bytes, zeros behind what was there. The body is inline or empty.
    fn inline_mut(&mut self, size: u64) -> &mut [u8] {
        if !matches!(self.body, Body::Inline(_)) {
            self.body = Body::Inline(inline_buffer());
        }
        let Body::Inline(plain) = &mut self.body else { return &mut [] };
        plain.resize(size as usize, 0);
        plain
    }
}

/// An empty buffer with room for the largest inline contents, so that it never leaves a copy behind by growing.
fn inline_buffer() -> Zeroizing<Vec<u8>> {
    Zeroizing::new(Vec::with_capacity(INLINE_MAX as usize))
}

/// Reads and opens one chunk as long as `out`; zeros if it is a hole.
pub(super) fn read_chunk(source: Source<'_>, tree: &Tree, chunk: ChunkIndex, out: &mut [u8]) -> Result<(), FileError> {
    if out.is_empty() {
        return Ok(());
    }
    let entry = tree.node(source, chunk.leaf())?.entry(chunk.slot());
    if entry.is_hole() {
        out.fill(0);
        return Ok(());
    }
    let offset = chunk.block().offset();
    let got = source.blocks.read(&mut [IoSliceMut::new(out)], offset)?;
    if got < out.len() {
        let stored = source.blocks.raw().stat()?.size;
        return Err(super::Damage::TooShort { stored, expected: offset + out.len() as u64 }.into());
    }
    Ok(source.keys.open(Place::Chunk(chunk), &entry, out)?)
}

/// Seals the chunks that a write covers whole, without any lock: their contents depend on nothing stored.
fn seal_whole_chunks(file: &File, offset: u64, data: &[u8], scratch: &mut Scratch) -> Result<Vec<Job>, FileError> {
    let first = ChunkIndex::containing(offset);
    let begin = offset.div_ceil(BLOCK_LEN);
    let end = (offset + data.len() as u64) / BLOCK_LEN;
    if begin >= end {
        return Ok(Vec::new());
    }
    let count = end - begin;
    let skipped = (begin * BLOCK_LEN - offset) as usize;
    let plain = data.get(skipped..skipped + count as usize * BLOCK).unwrap_or_default();
    let grant = file.keys().reserve(count)?;
    let mut nonces = std::mem::take(&mut scratch.nonces);
    chunk::nonces(count as usize, &mut nonces);
    let mut jobs = Vec::with_capacity(count as usize + 3);
    for ((chunk, plain), nonce) in (begin..end).map(ChunkIndex).zip(plain.chunks(BLOCK)).zip(&nonces) {
        let at = (chunk.0 - first.0) as usize * BLOCK;
        jobs.push(seal_job(&grant, *nonce, chunk, plain, at, scratch)?);
    }
    scratch.nonces = nonces;
    Ok(jobs)
}

fn seal_job(
    grant: &Grant,
    nonce: Nonce,
    chunk: ChunkIndex,
    plain: &[u8],
    at: usize,
    scratch: &mut Scratch,
) -> Result<Job, FileError> {
    let end = at + plain.len();
    if scratch.sealed.len() < end {
        scratch.sealed.resize(end.next_multiple_of(BLOCK), 0);
    }
    let sealed = scratch.sealed.get_mut(at..end).unwrap_or_default();
    let entry = grant.seal(Place::Chunk(chunk), nonce, plain, sealed)?;
    Ok(Job { chunk, entry, at, len: plain.len(), order: Order::Unread, placed: false })
}

/// Makes the leaves of sealed chunks pending and sorts the chunks as they are to be written.
fn order_jobs(source: Source<'_>, tree: &mut Tree, jobs: &mut [Job], old_size: u64) -> Result<(), FileError> {
    for job in &mut *jobs {
        tree.edit(source, job.chunk.leaf())?;
        job.placed = tree.is_committed(job.chunk);
        let longer = job.len > job.chunk.len_in(old_size);
        job.order = match tree.pending_entry(job.chunk).is_hole() {
            true => Order::Unread,
            false if longer => Order::Grown,
            false => Order::Overwritten,
        };
    }
    jobs.sort_by_key(|job| (job.order, job.chunk));
    Ok(())
}

/// Writes sealed chunks, sorted by order and place, and enters them in the tree; their leaves are pending. After an error
/// the tree tells what is stored, and `size` has grown if the old last chunk did.
fn place_jobs(
    source: Source<'_>,
    tree: &mut Tree,
    jobs: &[Job],
    sealed: &[u8],
    size: &mut u64,
    stored: &mut u64,
) -> Result<(), FileError> {
    let follows = |a: &Job, b: &Job| {
        (a.order, a.placed) == (b.order, b.placed)
            && b.chunk.block().0 == a.chunk.block().0 + 1
            && b.at == a.at + a.len
            && a.order != Order::Grown
    };
    for run in jobs.chunk_by(follows) {
        let (Some(first), Some(last)) = (run.first(), run.last()) else { continue };
        let offset = first.chunk.block().offset();
        let bytes = sealed.get(first.at..last.at + last.len).unwrap_or_default();
        let mut bufs = [IoSlice::new(bytes)];
        let written = match first.placed {
            true => source.blocks.replace(&mut bufs, offset),
            false => source.blocks.write_fresh(&mut bufs, offset),
        };
        match written {
            Ok(()) => *stored = (*stored).max(offset + bytes.len() as u64),
            Err(error) => {
                if first.order != Order::Unread {
                    run.iter().filter(|job| is_stored(source, job, sealed)).for_each(|job| enter(tree, job, size));
                }
                // Part of the run may be there and may have made the backing file longer.
                *stored = source.blocks.raw().stat().map_or(*stored, |stat| stat.size).max(*stored);
                return Err(error.into());
            }
        }
        if first.order != Order::Unread {
            run.iter().for_each(|job| enter(tree, job, size));
        }
    }
    for job in jobs.iter().filter(|job| job.order == Order::Unread) {
        tree.set_entry(job.chunk, job.entry);
    }
    Ok(())
}

fn enter(tree: &mut Tree, job: &Job, size: &mut u64) {
    tree.set_entry(job.chunk, job.entry);
    *size = (*size).max(job.chunk.start() + job.len as u64);
}

/// True if the stored bytes of a chunk are these.
fn is_stored(source: Source<'_>, job: &Job, sealed: &[u8]) -> bool {
    let mut there = [0; BLOCK];
    let (there, _) = there.split_at_mut(job.len);
    let got = source.blocks.read(&mut [IoSliceMut::new(there)], job.chunk.block().offset());
    got.is_ok_and(|got| got == job.len) && *there == *job.sealed(sealed)
}
