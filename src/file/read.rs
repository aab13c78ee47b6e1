//! Reading: one `preadv` for each run of stored chunks, opened where they land in the caller's buffer.

use std::cell::Cell;
use std::io::IoSliceMut;
use std::ops::Range;

use super::chunk::Place;
use super::layout::{self, BLOCK_LEN, ChunkIndex, FANOUT};
use super::tree::{Entry, Source, Tree};
use super::{BLOCK, Body, Damage, File, FileError};
use crate::crypto::Nonce;

/// Chunks looked up and read at a time: bounds the scratch memory and the number of buffers of one `preadv`.
const SEGMENT: u64 = 1024;

/// Buffers that a thread uses again for each request.
#[derive(Default)]
pub(super) struct Scratch {
    /// Entries of the chunks of a request.
    pub(super) entries: Vec<Entry>,
    /// Fresh nonces.
    pub(super) nonces: Vec<Nonce>,
    /// Ciphertext on its way out.
    pub(super) sealed: Vec<u8>,
    /// Where the nodes between groups land that a read passes over.
    gaps: Vec<u8>,
}

thread_local! {
    static SCRATCH: Cell<Scratch> = const {
        Cell::new(Scratch { entries: Vec::new(), nonces: Vec::new(), sealed: Vec::new(), gaps: Vec::new() })
    };
}

impl Scratch {
    /// Ciphertext kept for the next request; what a large commit used beyond is given back.
    const KEPT: usize = 2 << 20;

    /// Runs `f` with this thread's buffers; a nested use gets new ones.
    pub(super) fn with<T>(f: impl FnOnce(&mut Scratch) -> T) -> T {
        let mut scratch = SCRATCH.take();
        let result = f(&mut scratch);
        if scratch.sealed.len() > Self::KEPT {
            scratch.sealed = Vec::new();
        }
        SCRATCH.set(scratch);
        result
    }
}

impl File {
    /// Reads up to `len` bytes at `offset` into `buf` (grown as needed and reused between calls, never shrunk); the
    /// bytes read are `buf[range]`, fewer than asked only at the end of the file. After an error `buf` holds nothing of use.
    ///
    /// # Errors
    /// [`FileError`]; a single damaged chunk fails the whole read.
    pub fn read_at(&self, offset: u64, len: usize, buf: &mut Vec<u8>) -> Result<Range<usize>, FileError> {
        let state = self.state.read();
        let end = state.size.min(offset.saturating_add(len as u64));
        if offset >= end {
            return Ok(0..0);
        }
        match &state.body {
            Body::Empty => Ok(0..0),
            Body::Inline(plain) => {
                let wanted = plain.get(offset as usize..end as usize).unwrap_or_default();
                grow(buf, wanted.len()).copy_from_slice(wanted);
                Ok(0..wanted.len())
            }
            Body::Tree(tree) => {
                let first = ChunkIndex::containing(offset);
                let last = ChunkIndex::containing(end - 1);
                // Whole chunks are read, so the edges take the same path as what is between them.
                let stored_end = last.start() + last.len_in(state.size) as u64;
                let chunks = grow(buf, (stored_end - first.start()) as usize);
                Scratch::with(|scratch| read_chunks(self.source(), tree, first, chunks, scratch))?;
                let start = (offset - first.start()) as usize;
                Ok(start..start + (end - offset) as usize)
            }
        }
    }

    /// First offset >= `offset` that holds data (`SEEK_DATA`); `None` (ENXIO) if there is none before the end.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn seek_data(&self, offset: u64) -> Result<Option<u64>, FileError> {
        self.seek(offset, true)
    }

    /// First offset >= `offset` in a hole, or the end (`SEEK_HOLE`); `None` (ENXIO) if `offset` is at or behind the end.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn seek_hole(&self, offset: u64) -> Result<Option<u64>, FileError> {
        self.seek(offset, false)
    }

    fn seek(&self, offset: u64, data: bool) -> Result<Option<u64>, FileError> {
        let state = self.state.read();
        if offset >= state.size {
            return Ok(None);
        }
        let found = match &state.body {
            Body::Tree(tree) => {
                let chunks = ChunkIndex::containing(offset).0..layout::chunk_count(state.size);
                tree.find(self.source(), chunks, data)?.map(|chunk| chunk.start().max(offset))
            }
            // Contents without a tree are data throughout.
            _ => data.then_some(offset),
        };
        Ok(found.or((!data).then_some(state.size)))
    }
}

/// The first `len` bytes of a buffer that may have to grow for it. What it has already is not cleared.
fn grow(buf: &mut Vec<u8>, len: usize) -> &mut [u8] {
    if buf.len() < len {
        buf.resize(len, 0);
    }
    buf.get_mut(..len).unwrap_or_default()
}

/// Reads chunks from `first` on into `out`, whose length says how many and how long the last one is.
pub(super) fn read_chunks(
    source: Source<'_>,
    tree: &Tree,
    first: ChunkIndex,
    out: &mut [u8],
    scratch: &mut Scratch,
) -> Result<(), FileError> {
    let mut at = first.0;
    for segment in out.chunks_mut(SEGMENT as usize * BLOCK) {
        let end = at + (segment.len() as u64).div_ceil(BLOCK_LEN);
        scratch.entries.clear();
        tree.entries(source, at..end, &mut scratch.entries)?;
        let mut rest = segment;
        let mut chunk = at;
        for run in scratch.entries.chunk_by(|a, b| a.is_hole() == b.is_hole()) {
            let len = rest.len().min(run.len() * BLOCK);
            let (here, behind) = rest.split_at_mut(len);
            rest = behind;
            if run.first().is_some_and(Entry::is_hole) {
                here.fill(0);
            } else {
                read_run(source, ChunkIndex(chunk), run, here, &mut scratch.gaps)?;
            }
            chunk += run.len() as u64;
        }
        at = end;
    }
    Ok(())
}

/// Reads and opens consecutive chunks that are all stored.
fn read_run(
    source: Source<'_>,
    first: ChunkIndex,
    entries: &[Entry],
    out: &mut [u8],
    gaps: &mut Vec<u8>,
) -> Result<(), FileError> {
    let end = ChunkIndex(first.0 + entries.len() as u64);
    let offset = first.block().offset();
    let last_len = out.len() - (entries.len() - 1) * BLOCK;
    let expected = (ChunkIndex(end.0 - 1).block().offset() - offset) as usize + last_len;
    let got = if expected == out.len() {
        source.blocks.read(&mut [IoSliceMut::new(out)], offset)?
    } else {
        // Between two groups lie the nodes in front of the second one.
        let mut gaps = grow(gaps, expected - out.len());
        let mut rest = &mut *out;
        let mut bufs = Vec::with_capacity(2 * (entries.len() / FANOUT as usize + 2));
        let mut chunk = first;
        loop {
            let next = ChunkIndex((chunk.0 / FANOUT + 1) * FANOUT);
            let (here, behind) = rest.split_at_mut(rest.len().min((next.0 - chunk.0) as usize * BLOCK));
            bufs.push(IoSliceMut::new(here));
            rest = behind;
            if next.0 >= end.0 {
                break;
            }
            let nodes = next.block().0 - ChunkIndex(next.0 - 1).block().0 - 1;
            let (gap, other) = gaps.split_at_mut(gaps.len().min(nodes as usize * BLOCK));
            bufs.push(IoSliceMut::new(gap));
            gaps = other;
            chunk = next;
        }
        source.blocks.read(&mut bufs, offset)?
    };
    if got < expected {
        let stored = source.blocks.raw().stat()?.size;
        return Err(Damage::TooShort { stored, expected: offset + expected as u64 }.into());
    }
    let mut opener = source.keys.opener();
    for ((chunk, entry), sealed) in (first.0..).zip(entries).zip(out.chunks_mut(BLOCK)) {
        opener.open(Place::Chunk(ChunkIndex(chunk)), entry, sealed)?;
    }
    Ok(())
}
