//! The tree of nonces and tags: from the root entry down to the entry of each chunk.
//!
//! A node is in one of three states: stored, verified in the [cache](super::cache) (and equal to its stored form), or
//! *pending*: changed since the last commit and held here. Invariants:
//!
//! - All nodes above a pending one are pending. So a commit needs to read nothing, and a hole in a node that has no
//!   pending child below it is a hole all the way down.
//! - The entry of a pending node in its parent says nothing until the commit; lookups ask the pending nodes first.
//! - Entries behind the end of the file are holes.

use std::collections::BTreeMap;
use std::io::IoSliceMut;
use std::ops::Range;
use std::sync::Arc;

use super::cache::{Life, NodeCache};
use super::chunk::{self, FileKeys, Place};
use super::layout::{ChunkIndex, FANOUT, NodeId};
use super::{BLOCK, Damage, FileError};
use crate::crypto::{Nonce, Tag};
use crate::store::BlockFile;

/// Bytes of an entry.
pub(super) const ENTRY_LEN: usize = 32;

/// What it takes to open the block below: the nonce, tag and epoch it was sealed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) nonce: Nonce,
    pub(super) tag: Tag,
    pub(super) epoch: u32,
}

impl Entry {
    /// Everything below reads as zeros.
    pub(super) const HOLE: Entry = Entry { nonce: [0; 12], tag: [0; 16], epoch: 0 };

    pub(super) fn is_hole(&self) -> bool {
        *self == Self::HOLE
    }

    pub(super) fn from_bytes(bytes: [u8; ENTRY_LEN]) -> Self {
        let (mut nonce, mut tag, mut epoch) = ([0; 12], [0; 16], [0; 4]);
        nonce.copy_from_slice(&bytes[..12]);
        tag.copy_from_slice(&bytes[12..28]);
        epoch.copy_from_slice(&bytes[28..]);
        Entry { nonce, tag, epoch: u32::from_le_bytes(epoch) }
    }

    pub(super) fn to_bytes(self) -> [u8; ENTRY_LEN] {
        let mut bytes = [0; ENTRY_LEN];
        bytes[..12].copy_from_slice(&self.nonce);
        bytes[12..28].copy_from_slice(&self.tag);
        bytes[28..].copy_from_slice(&self.epoch.to_le_bytes());
        bytes
    }
}

/// 128 entries, as stored: any 4096 bytes are a node.
#[derive(Clone)]
pub(super) struct Node(Box<[[u8; ENTRY_LEN]; FANOUT as usize]>);

impl Node {
    /// All holes.
    pub(super) fn empty() -> Self {
        Node(Box::new([[0; ENTRY_LEN]; FANOUT as usize]))
    }

    /// Entry `slot`; a hole if there is none of that number.
    pub(super) fn entry(&self, slot: usize) -> Entry {
        self.0.get(slot).map_or(Entry::HOLE, |bytes| Entry::from_bytes(*bytes))
    }

    fn set(&mut self, slot: usize, entry: Entry) {
        if let Some(bytes) = self.0.get_mut(slot) {
            *bytes = entry.to_bytes();
        }
    }

    fn is_empty(&self) -> bool {
        super::is_zero(self.bytes())
    }

    fn bytes(&self) -> &[u8] {
        self.0.as_flattened()
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        self.0.as_flattened_mut()
    }
}

/// Where stored nodes come from.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    pub(super) blocks: &'a BlockFile,
    pub(super) keys: &'a FileKeys,
    pub(super) cache: &'a NodeCache,
}

impl Source<'_> {
    /// Reads and opens one stored node.
    pub(super) fn load(&self, id: NodeId, entry: &Entry) -> Result<Node, FileError> {
        let mut node = Node::empty();
        let offset = id.block().offset();
        let got = self.blocks.read(&mut [IoSliceMut::new(node.bytes_mut())], offset)?;
        if got < BLOCK {
            let stored = self.blocks.raw().stat()?.size;
            return Err(Damage::TooShort { stored, expected: offset + BLOCK as u64 }.into());
        }
        self.keys.open(Place::Node(id), entry, node.bytes_mut())?;
        Ok(node)
    }
}

/// A node that was looked up.
pub(super) enum Found<'a> {
    /// There is none: all below are holes.
    Hole,
    Pending(&'a Node),
    Clean(Arc<Node>),
}

impl Found<'_> {
    pub(super) fn entry(&self, slot: usize) -> Entry {
        match self {
            Found::Hole => Entry::HOLE,
            Found::Pending(node) => node.entry(slot),
            Found::Clean(node) => node.entry(slot),
        }
    }
}

/// A changed node.
struct Pending {
    node: Node,
    /// The committed tree refers to the node's place.
    placed: bool,
    /// In a leaf, bit n: the committed tree refers to the place of chunk n.
    committed: u128,
}

/// A pending node as it goes to disk.
pub(super) struct SealedNode {
    pub(super) id: NodeId,
    /// The committed tree refers to the place.
    pub(super) placed: bool,
    /// Where the sealed bytes are in the buffer; `None` if the node is empty now and needs no place.
    pub(super) at: Option<Range<usize>>,
}

/// The tree of one file.
pub(super) struct Tree {
    height: u8,
    root: Entry,
    pending: BTreeMap<NodeId, Pending>,
    life: Life,
    /// Parts of the committed tree were dropped since the commit, so a missing node no longer means an unused place.
    dropped: bool,
}

impl Tree {
    /// A tree as a root record describes it.
    pub(super) fn new(height: u8, root: Entry) -> Self {
        Tree { height, root, pending: BTreeMap::new(), life: Life::new(), dropped: false }
    }

    /// A tree of holes in a file whose committed form may use any place.
    pub(super) fn of_holes(height: u8, dropped: bool) -> Self {
        Tree { dropped, ..Self::new(height, Entry::HOLE) }
    }

    pub(super) fn height(&self) -> u8 {
        self.height
    }

    pub(super) fn root(&self) -> Entry {
        self.root
    }

    /// Number of changed nodes.
    pub(super) fn pending_len(&self) -> usize {
        self.pending.len()
    }

    fn top(&self) -> NodeId {
        NodeId { level: self.height, index: 0 }
    }

    /// Looks a node up, loading it and those above as needed.
    pub(super) fn node(&self, source: Source<'_>, id: NodeId) -> Result<Found<'_>, FileError> {
        if let Some(pending) = self.pending.get(&id) {
            return Ok(Found::Pending(&pending.node));
        }
        if let Some(node) = source.cache.get(self.life, id) {
            return Ok(Found::Clean(node));
        }
        let entry = if id.level >= self.height {
            if id == self.top() { self.root } else { Entry::HOLE }
        } else {
            self.node(source, id.parent())?.entry(id.slot())
        };
        if entry.is_hole() {
            return Ok(Found::Hole);
        }
        let node = Arc::new(source.load(id, &entry)?);
        source.cache.put(self.life, id, Arc::clone(&node));
        Ok(Found::Clean(node))
    }

    /// Appends the entries of a range of chunks.
    pub(super) fn entries(
        &self,
        source: Source<'_>,
        chunks: Range<u64>,
        out: &mut Vec<Entry>,
    ) -> Result<(), FileError> {
        let mut chunk = ChunkIndex(chunks.start);
        while chunk.0 < chunks.end {
            let leaf = chunk.leaf();
            let found = self.node(source, leaf)?;
            let end = leaf.end_chunk().0.min(chunks.end);
            out.extend((chunk.0..end).map(|chunk| found.entry(ChunkIndex(chunk).slot())));
            chunk.0 = end;
        }
        Ok(())
    }

    /// First chunk in the range that is data, or that is a hole.
    pub(super) fn find(
        &self,
        source: Source<'_>,
        chunks: Range<u64>,
        data: bool,
    ) -> Result<Option<ChunkIndex>, FileError> {
        let mut at = ChunkIndex(chunks.start);
        'chunks: while at.0 < chunks.end {
            // From the top, so that a hole is passed at the level where it is widest.
            for level in (1..=self.height).rev() {
                let id = NodeId::above(at, level);
                let found = self.node(source, id)?;
                if matches!(found, Found::Hole) {
                    if !data {
                        return Ok(Some(at));
                    }
                    at = id.end_chunk();
                    continue 'chunks;
                }
                if level == 1 {
                    let end = id.end_chunk().0.min(chunks.end);
                    let hit = (at.0..end).find(|&chunk| found.entry(ChunkIndex(chunk).slot()).is_hole() != data);
                    if hit.is_some() {
                        return Ok(hit.map(ChunkIndex));
                    }
                    at = ChunkIndex(end);
                }
            }
            if self.height == 0 {
                break;
            }
        }
        Ok(None)
    }

    /// Makes a node and those above it pending, creating what is missing.
    pub(super) fn edit(&mut self, source: Source<'_>, id: NodeId) -> Result<(), FileError> {
        if self.pending.contains_key(&id) {
            return Ok(());
        }
        if id.level < self.height {
            self.edit(source, id.parent())?;
        }
        let found = match self.node(source, id)? {
            Found::Hole => None,
            Found::Pending(_) => return Ok(()),
            Found::Clean(node) => Some(node),
        };
        let placed = found.is_some() || self.dropped;
        let node = match found {
            Some(node) => {
                // Taken out of the cache, the node moves rather than being copied.
                drop(source.cache.take(self.life, id));
                Arc::try_unwrap(node).unwrap_or_else(|shared| Node::clone(&shared))
            }
            None => Node::empty(),
        };
        let committed = match id.level {
            1 if self.dropped => u128::MAX,
            1 => {
                (0..FANOUT as usize).filter(|&slot| !node.entry(slot).is_hole()).fold(0, |bits, slot| bits | 1 << slot)
            }
            _ => 0,
        };
        self.pending.insert(id, Pending { node, placed, committed });
        Ok(())
    }

    /// Makes those nodes above `chunk` pending that exist, down to level `lowest`.
    fn edit_existing(&mut self, source: Source<'_>, chunk: ChunkIndex, lowest: u8) -> Result<(), FileError> {
        for level in (lowest.max(1)..=self.height).rev() {
            let id = NodeId::above(chunk, level);
            if matches!(self.node(source, id)?, Found::Hole) {
                break;
            }
            self.edit(source, id)?;
        }
        Ok(())
    }

    /// The entry of a chunk whose leaf is pending.
    pub(super) fn pending_entry(&self, chunk: ChunkIndex) -> Entry {
        self.pending.get(&chunk.leaf()).map_or(Entry::HOLE, |leaf| leaf.node.entry(chunk.slot()))
    }

    /// True if the committed tree refers to the place of a chunk, whose leaf is pending.
    pub(super) fn is_committed(&self, chunk: ChunkIndex) -> bool {
        self.pending.get(&chunk.leaf()).is_none_or(|leaf| leaf.committed >> chunk.slot() & 1 == 1)
    }

    /// Sets the entry of a chunk whose leaf is pending.
    pub(super) fn set_entry(&mut self, chunk: ChunkIndex, entry: Entry) {
        debug_assert!(self.pending.contains_key(&chunk.leaf()));
        if let Some(leaf) = self.pending.get_mut(&chunk.leaf()) {
            leaf.node.set(chunk.slot(), entry);
        }
    }

    /// Adds levels on top.
    pub(super) fn grow(&mut self, height: u8) {
        while self.height < height {
            let below = self.top();
            self.height += 1;
            if !self.root.is_hole() || self.pending.contains_key(&below) {
                let mut node = Node::empty();
                node.set(0, self.root);
                self.pending.insert(self.top(), Pending { node, placed: self.dropped, committed: 0 });
                self.root = Entry::HOLE;
            }
        }
    }

    /// First half of [`clear`](Self::clear) and [`cut`](Self::cut): loads what they change, so that they cannot fail.
    pub(super) fn prepare_clear(
        &mut self,
        source: Source<'_>,
        chunks: &Range<u64>,
        height: u8,
    ) -> Result<(), FileError> {
        for edge in [chunks.start, chunks.end] {
            if edge < self.top().end_chunk().0 {
                self.edit_existing(source, ChunkIndex(edge), 1)?;
            }
        }
        self.edit_existing(source, ChunkIndex(0), height.saturating_add(1))
    }

    /// Turns a range of chunks into holes.
    pub(super) fn clear(&mut self, chunks: Range<u64>) {
        if chunks.is_empty() {
            return;
        }
        self.dropped = true;
        self.life = Life::new();
        self.clear_below(self.top(), &chunks);
    }

    fn clear_below(&mut self, id: NodeId, chunks: &Range<u64>) {
        let (first, end) = (id.first_chunk().0, id.end_chunk().0);
        if end <= chunks.start || chunks.end <= first {
            return;
        }
        if chunks.start <= first && end <= chunks.end {
            self.drop_below(id);
            if id == self.top() {
                self.root = Entry::HOLE;
            } else if let Some(parent) = self.pending.get_mut(&id.parent()) {
                parent.node.set(id.slot(), Entry::HOLE);
            }
            return;
        }
        let Some(pending) = self.pending.get_mut(&id) else { return };
        if id.level == 1 {
            for chunk in chunks.start.max(first)..chunks.end.min(end) {
                pending.node.set(ChunkIndex(chunk).slot(), Entry::HOLE);
            }
            return;
        }
        for slot in 0..FANOUT as usize {
            self.clear_below(id.child(slot), chunks);
        }
    }

    /// Forgets a node and everything pending below it.
    fn drop_below(&mut self, id: NodeId) {
        let (first, end) = (id.first_chunk(), id.end_chunk());
        for level in 1..=id.level {
            let range = NodeId::above(first, level)..NodeId::above(end, level);
            let ids: Vec<NodeId> = self.pending.range(range).map(|(id, _)| *id).collect();
            for id in ids {
                self.pending.remove(&id);
            }
        }
    }

    /// Takes levels off, whose nodes have nothing but their entry 0, and pending nodes behind the end.
    pub(super) fn cut(&mut self, chunks: u64, height: u8) {
        self.pending.retain(|id, _| id.first_chunk().0 < chunks);
        while self.height > height {
            self.root = match self.pending.remove(&self.top()) {
                Some(top) => top.node.entry(0),
                None => Entry::HOLE,
            };
            self.height -= 1;
        }
    }

    /// Seals all pending nodes into `out`, children before parents, and enters them in their parents. The nodes stay
    /// pending until [`settle`](Self::settle), so a commit that fails is simply done again.
    pub(super) fn seal(&mut self, keys: &FileKeys, out: &mut Vec<u8>) -> Result<Vec<SealedNode>, FileError> {
        let ids: Vec<NodeId> = self.pending.keys().copied().collect();
        let grant = keys.reserve(ids.len() as u64)?;
        let mut nonces = Vec::new();
        chunk::nonces(ids.len(), &mut nonces);
        if out.len() < ids.len() * BLOCK {
            out.resize(ids.len() * BLOCK, 0);
        }
        let mut sealed = Vec::with_capacity(ids.len());
        let mut next = 0;
        for (id, nonce) in ids.into_iter().zip(nonces) {
            let Some(pending) = self.pending.get(&id) else { continue };
            let placed = pending.placed;
            let (entry, at) = if pending.node.is_empty() {
                (Entry::HOLE, None)
            } else {
                let at = next..next + BLOCK;
                next = at.end;
                let place = out.get_mut(at.clone()).unwrap_or_default();
                (grant.seal(Place::Node(id), nonce, pending.node.bytes(), place)?, Some(at))
            };
            sealed.push(SealedNode { id, placed, at });
            if id == self.top() {
                self.root = entry;
            } else if let Some(parent) = self.pending.get_mut(&id.parent()) {
                parent.node.set(id.slot(), entry);
            }
        }
        Ok(sealed)
    }

    /// The sealed nodes are stored: they are clean now.
    pub(super) fn settle(&mut self, cache: &NodeCache) {
        for (id, Pending { node, .. }) in std::mem::take(&mut self.pending) {
            if node.is_empty() {
                cache.take(self.life, id);
            } else {
                cache.put(self.life, id, Arc::new(node));
            }
        }
        self.dropped = false;
    }
}
