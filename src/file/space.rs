//! Holes and reservations: `fallocate(2)` in its modes.

use std::ops::Range;

use super::layout::{self, BLOCK_LEN, BlockIndex, ChunkIndex, FANOUT, INLINE_MAX, NodeId};
use super::read::Scratch;
use super::{BLOCK, Body, File, FileError, State, check_size};

const ZEROS: [u8; BLOCK] = [0; BLOCK];

impl File {
    /// Zeroes a range, giving whole chunks' space back; the size stays. Committed before it returns, at
    /// [`Durability::Written`](crate::store::Durability::Written), for the space is not given back before.
    ///
    /// # Errors
    /// [`FileError`]; a part of the range may be zeroed.
    pub fn punch_hole(&self, offset: u64, len: u64) -> Result<(), FileError> {
        let mut state = self.writing();
        let result = self.zero(&mut state, offset, len).and_then(|holes| {
            if holes.is_empty() {
                return Ok(());
            }
            self.commit_locked(&mut state)?;
            // `holes` ends at the last chunk, but behind the end there is nothing in use.
            let end = if holes.end == layout::chunk_count(state.size) { u64::MAX } else { holes.end };
            for (offset, len) in unused_blocks(&holes, end, layout::height(state.size)) {
                match self.blocks.punch_hole(offset, len) {
                    // Holes without the gain: the backing filesystem cannot do it.
                    Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => break,
                    done => done?,
                }
            }
            Ok(())
        });
        state.restore_mtime_if_clean(self);
        self.count_pending(&mut state);
        result
    }

    /// Zeroes a range and reserves its space; the size grows to the end of the range unless `keep_size`.
    ///
    /// # Errors
    /// [`FileError`]; a part of the range may be zeroed.
    pub fn zero_range(&self, offset: u64, len: u64, keep_size: bool) -> Result<(), FileError> {
        let end = offset.checked_add(len).ok_or(FileError::TooLarge)?;
        check_size(end)?;
        let mut state = self.writing();
        let result = self
            .reserve(&mut state, offset..end, keep_size)
            .and_then(|()| self.zero(&mut state, offset, len))
            .map(|holes| state.retired |= !holes.is_empty())
            .and_then(|()| self.grow_to(&mut state, end, keep_size));
        self.count_pending(&mut state);
        result
    }

    /// Reserves space for a range; the size grows to its end unless `keep_size`.
    ///
    /// # Errors
    /// [`FileError`]
    pub fn allocate(&self, offset: u64, len: u64, keep_size: bool) -> Result<(), FileError> {
        let end = offset.checked_add(len).ok_or(FileError::TooLarge)?;
        check_size(end)?;
        let mut state = self.writing();
        let result =
            self.reserve(&mut state, offset..end, keep_size).and_then(|()| self.grow_to(&mut state, end, keep_size));
        self.count_pending(&mut state);
        result
    }

    fn grow_to(&self, state: &mut State, end: u64, keep_size: bool) -> Result<(), FileError> {
        if !keep_size && end > state.size {
            self.extend(state, end)?;
        }
        state.touched();
        state.restore_mtime_if_clean(self);
        Ok(())
    }

    /// Turns a range into zeros: whole chunks into holes, which it returns, parts of chunks by writing.
    fn zero(&self, state: &mut State, offset: u64, len: u64) -> Result<Range<u64>, FileError> {
        let end = offset.saturating_add(len).min(state.size);
        if offset >= end {
            return Ok(0..0);
        }
        match &mut state.body {
            Body::Empty => return Ok(0..0),
            Body::Inline(plain) => {
                if let Some(range) = plain.get_mut(offset as usize..end as usize) {
                    range.fill(0);
                }
                state.dirty = true;
                state.touched();
                return Ok(0..0);
            }
            Body::Tree(_) => {}
        }
        let first = offset.div_ceil(BLOCK_LEN);
        let behind = if end == state.size { layout::chunk_count(end) } else { end / BLOCK_LEN };
        let mut edges = [offset..end.min(first * BLOCK_LEN), offset.max(behind * BLOCK_LEN)..end];
        if first > behind {
            // Both edges are in one chunk.
            edges = [offset..end, end..end];
        }
        for edge in edges {
            self.zero_in_chunk(state, edge)?;
        }
        let holes = first..behind.max(first);
        let source = self.source();
        let Body::Tree(tree) = &mut state.body else { return Ok(0..0) };
        if tree.find(source, holes.clone(), true)?.is_some() {
            state.dirty = true;
            tree.prepare_clear(source, &holes, tree.height())?;
            tree.clear(holes.clone());
        }
        state.touched();
        Ok(holes)
    }

    /// Zeroes a range within one chunk, unless the chunk is a hole.
    fn zero_in_chunk(&self, state: &mut State, range: Range<u64>) -> Result<(), FileError> {
        let Body::Tree(tree) = &state.body else { return Ok(()) };
        let chunk = ChunkIndex::containing(range.start);
        if range.is_empty() || tree.node(self.source(), chunk.leaf())?.entry(chunk.slot()).is_hole() {
            return Ok(());
        }
        let zeros = ZEROS.get(..(range.end - range.start) as usize).unwrap_or_default();
        let size = state.size;
        Scratch::with(|scratch| self.place_chunks(state, range, zeros, size, Vec::new(), scratch))
    }

    /// Reserves the backing space of a plain range, nodes and header included.
    fn reserve(&self, state: &mut State, range: Range<u64>, keep_size: bool) -> Result<(), FileError> {
        if range.is_empty() {
            return Ok(());
        }
        let size = if keep_size { state.size } else { state.size.max(range.end) };
        state.keep_mtime(&self.blocks)?;
        self.blocks.reserve(0, BLOCK_LEN)?;
        if size <= INLINE_MAX && range.end <= INLINE_MAX {
            return Ok(());
        }
        let (first, last) = (ChunkIndex::containing(range.start), ChunkIndex::containing(range.end - 1));
        let start = first.block().offset();
        self.blocks.reserve(start, last.block().offset() + BLOCK_LEN - start)?;
        for level in 1..=layout::height(size.max(range.end)) {
            for chunk in [first, last] {
                let place = NodeId::above(chunk, level).block().offset();
                if place < start {
                    self.blocks.reserve(place, BLOCK_LEN)?;
                }
            }
        }
        Ok(())
    }
}

impl State {
    /// For operations that change the backing file without a commit.
    fn restore_mtime_if_clean(&mut self, file: &File) {
        if !self.dirty {
            self.restore_mtime(&file.blocks);
        }
    }
}

/// The blocks, as offsets and lengths, that the chunks of a new hole and the nodes that described nothing else had. `end` is
/// where the hole ends for the nodes' purposes. One range, less the few nodes in it that describe something outside the hole:
/// those on the paths to its edges, and the first of each level, which are not at the front of what they describe.
fn unused_blocks(holes: &Range<u64>, end: u64, height: u8) -> Vec<(u64, u64)> {
    let (first, last) = (ChunkIndex(holes.start), ChunkIndex(holes.end.saturating_sub(1)));
    let start = match first.0 {
        0 => 1,
        chunk if chunk.is_multiple_of(FANOUT) => ChunkIndex(chunk - 1).block().0 + 1,
        _ => first.block().0,
    };
    let mut used: Vec<BlockIndex> = (1..=height)
        .flat_map(|level| [ChunkIndex(0), first, last].map(|chunk| NodeId::above(chunk, level)))
        .filter(|node| node.first_chunk().0 < holes.start || node.end_chunk().0 > end)
        .map(NodeId::block)
        .collect();
    used.push(BlockIndex(last.block().0 + 1));
    used.sort_unstable();
    let mut ranges = Vec::with_capacity(used.len());
    let mut at = start;
    for block in used {
        if block.0 > at && block <= BlockIndex(last.block().0 + 1) {
            ranges.push((BlockIndex(at).offset(), (block.0 - at) * BLOCK_LEN));
        }
        at = at.max(block.0 + 1);
    }
    ranges
}
