//! Where things are: plain offsets, chunks, tree nodes and blocks of the backing file, converted into one another.
//!
//! Section 3 of the [format](crate::file) in code, and the only place that does this arithmetic. Pure and total: every
//! function gives an answer for every argument, sizes up to [`MAX_LEN`] are exact, and larger ones count as [`MAX_LEN`].

use super::{BLOCK, MAX_LEN};

/// [`BLOCK`] in the type of offsets.
pub(crate) const BLOCK_LEN: u64 = BLOCK as u64;
/// Entries of a node.
pub(crate) const FANOUT: u64 = 128;
/// log2 of [`FANOUT`].
const FANOUT_BITS: u32 = 7;
/// Bytes of the header that are in use in every file; inline contents follow them.
pub(crate) const HEADER_LEN: usize = 284;
/// Largest plain size that is stored inline.
pub(crate) const INLINE_MAX: u64 = BLOCK_LEN - HEADER_LEN as u64;
#[cfg(test)]
/// Height of the tree of a file of [`MAX_LEN`] bytes.
pub(crate) const MAX_HEIGHT: u8 = 8;

/// Number of a 4096-byte piece of the plain file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ChunkIndex(pub(crate) u64);

/// Number of a 4096-byte unit of the backing file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct BlockIndex(pub(crate) u64);

/// A node's place in the tree. Ordered by level, then index: a parent comes after all of its children.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct NodeId {
    /// 1 for a leaf, up to 8.
    pub(crate) level: u8,
    /// Number among the nodes of this level.
    pub(crate) index: u64,
}

impl ChunkIndex {
    /// The chunk that holds a plain offset.
    pub(crate) fn containing(offset: u64) -> Self {
        ChunkIndex(offset / BLOCK_LEN)
    }

    /// Plain offset of the chunk's first byte; saturates for chunks that no file has.
    pub(crate) fn start(self) -> u64 {
        self.0.saturating_mul(BLOCK_LEN)
    }

    /// Bytes the chunk has in a file of `size` bytes: 0 behind the end.
    pub(crate) fn len_in(self, size: u64) -> usize {
        size.saturating_sub(self.start()).min(BLOCK_LEN) as usize
    }

    /// The leaf that describes the chunk.
    pub(crate) fn leaf(self) -> NodeId {
        NodeId { level: 1, index: self.0 / FANOUT }
    }

    /// Number of the chunk's entry in its leaf.
    pub(crate) fn slot(self) -> usize {
        (self.0 % FANOUT) as usize
    }

    /// The chunk's place.
    pub(crate) fn block(self) -> BlockIndex {
        let chunk = self.0.min(MAX_LEN / BLOCK_LEN);
        BlockIndex(1 + chunk + nodes_before(chunk / FANOUT))
    }
}

impl BlockIndex {
    /// Offset of the block in the backing file.
    pub(crate) fn offset(self) -> u64 {
        self.0.saturating_mul(BLOCK_LEN)
    }
}

impl NodeId {
    /// The node whose entry describes this one.
    pub(crate) fn parent(self) -> NodeId {
        NodeId { level: self.level.saturating_add(1), index: self.index / FANOUT }
    }

    /// Number of this node's entry in its parent.
    pub(crate) fn slot(self) -> usize {
        (self.index % FANOUT) as usize
    }

    /// The node that entry `slot` describes; for a leaf, whose entries describe chunks, that is no node.
    pub(crate) fn child(self, slot: usize) -> NodeId {
        NodeId {
            level: self.level.saturating_sub(1),
            index: self.index.saturating_mul(FANOUT).saturating_add(slot as u64),
        }
    }

    /// The node of this level on the path to a chunk.
    pub(crate) fn above(chunk: ChunkIndex, level: u8) -> NodeId {
        NodeId { level, index: chunk.0.checked_shr(FANOUT_BITS * u32::from(level)).unwrap_or(0) }
    }

    /// First chunk below the node.
    pub(crate) fn first_chunk(self) -> ChunkIndex {
        ChunkIndex(self.index.saturating_mul(chunks_below(self.level)))
    }

    /// The chunk behind the last one below the node.
    pub(crate) fn end_chunk(self) -> ChunkIndex {
        ChunkIndex(self.index.saturating_add(1).saturating_mul(chunks_below(self.level)))
    }

    /// The node's place. The nodes in front of one group are of levels top to 1 without a gap, so the level tells how
    /// many blocks before the group's first chunk it is.
    pub(crate) fn block(self) -> BlockIndex {
        let group = match (self.level, self.index) {
            (0 | 1, index) => index,
            (level, 0) => groups_below(level - 1),
            (level, index) => index.saturating_mul(groups_below(level)),
        };
        let first = ChunkIndex(group.saturating_mul(FANOUT)).block();
        BlockIndex(first.0 - u64::from(self.level))
    }
}

/// Chunks below one node of a level: `128^level`, saturating.
pub(crate) fn chunks_below(level: u8) -> u64 {
    1u64.checked_shl(FANOUT_BITS * u32::from(level)).filter(|_| level < 10).unwrap_or(u64::MAX)
}

/// Groups of 128 chunks below one node of a level: `128^(level-1)`.
fn groups_below(level: u8) -> u64 {
    chunks_below(level.saturating_sub(1))
}

/// Nodes that are in front of the chunks of group `group`: `nodes(g)` of the format.
fn nodes_before(group: u64) -> u64 {
    let mut nodes = group + 1;
    let mut shift = 0;
    // For level n = 2, 3, …: `shift` = 7 (n-2), so that 128^(n-2) = 1 << shift. Ends at shift <= 49, as groups < 2^45.
    while group >> shift > 0 {
        shift += FANOUT_BITS;
        nodes += 1 + (group >> shift);
    }
    nodes
}

/// Chunks of a plain file of `size` bytes.
pub(crate) fn chunk_count(size: u64) -> u64 {
    size.div_ceil(BLOCK_LEN)
}

/// Levels of the tree of a file of `size` bytes: 0 for an empty or inline one.
pub(crate) fn height(size: u64) -> u8 {
    if size <= INLINE_MAX {
        return 0;
    }
    let chunks = chunk_count(size);
    let mut height = 1;
    while chunks_below(height) < chunks {
        height += 1;
    }
    height
}

/// Stored length of a plain file; sizes beyond [`MAX_LEN`] count as [`MAX_LEN`].
///
/// ```
/// use envelopefs::file::stored_len;
/// for (plain, stored) in [(0, 0), (1, 285), (3812, 4096), (3813, 12005), (4096, 12288), (4097, 12289)] {
///     assert_eq!(stored_len(plain), stored);
/// }
/// assert_eq!((stored_len(524_288), stored_len(524_289)), (532_480, 540_673));
/// ```
pub fn stored_len(plain: u64) -> u64 {
    let plain = plain.min(MAX_LEN);
    match plain {
        0 => 0,
        1..=INLINE_MAX => HEADER_LEN as u64 + plain,
        _ => {
            let last = ChunkIndex::containing(plain - 1);
            last.block().offset() + last.len_in(plain) as u64
        }
    }
}

/// Plain size of a backing file of this stored length; `None` for a length that no plain size gives.
///
/// ```
/// use envelopefs::file::{plain_len, stored_len};
/// assert_eq!(plain_len(stored_len(1_000_000)), Some(1_000_000));
/// assert_eq!(plain_len(8192), None);
/// ```
pub fn plain_len(stored: u64) -> Option<u64> {
    const INLINE_STORED: u64 = HEADER_LEN as u64 + 1;
    match stored {
        0 => return Some(0),
        1..INLINE_STORED => return None,
        INLINE_STORED..=BLOCK_LEN => return Some(stored - HEADER_LEN as u64),
        _ => {}
    }
    let block = (stored - 1) / BLOCK_LEN;
    let chunk = chunk_at(BlockIndex(block))?;
    let plain = chunk.0.checked_mul(BLOCK_LEN)?.checked_add(stored - block * BLOCK_LEN)?;
    (plain > INLINE_MAX && plain <= MAX_LEN).then_some(plain)
}

/// The chunk whose place a block is; `None` for the header's, a node's, and those behind the largest file.
fn chunk_at(block: BlockIndex) -> Option<ChunkIndex> {
    let block = block.0;
    // Group g starts at block 129 g or later, and no later than 129 g + g / 127 + 10 (the geometric sum over the
    // levels and a node 0 for each). That leaves one or two candidates for files below 8 GiB.
    let mut low = block.saturating_sub(10).checked_mul(127)? / (129 * 127 + 1);
    let mut high = (block / 129).min(MAX_LEN / BLOCK_LEN / FANOUT);
    low = low.saturating_sub(1).min(high);
    // The largest group that starts at or before `block`.
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        if ChunkIndex(middle * FANOUT).block().0 <= block {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    let first = ChunkIndex(low * FANOUT);
    let slot = block.checked_sub(first.block().0)?;
    let chunk = ChunkIndex(first.0 + slot);
    (slot < FANOUT && chunk.0 <= MAX_LEN / BLOCK_LEN).then_some(chunk)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// The layout as the format document tells it, by walking: before each group its nodes, highest level first.
    fn walk(groups: u64) -> (BTreeMap<u64, u64>, BTreeMap<NodeId, u64>) {
        let (mut chunks, mut nodes) = (BTreeMap::new(), BTreeMap::new());
        let mut block = 1;
        for group in 0..groups {
            for level in (1..=MAX_HEIGHT).rev() {
                let span = 128u64.pow(u32::from(level) - 1);
                let here = if level == 1 {
                    Some(group)
                } else if group == 128u64.pow(u32::from(level) - 2) {
                    Some(0)
                } else if group > 0 && group.is_multiple_of(span) {
                    Some(group / span)
                } else {
                    None
                };
                if let Some(index) = here {
                    assert_eq!(nodes.insert(NodeId { level, index }, block), None);
                    block += 1;
                }
            }
            for slot in 0..128 {
                chunks.insert(group * 128 + slot, block);
                block += 1;
            }
        }
        (chunks, nodes)
    }

    #[test]
    fn the_closed_forms_agree_with_walking_the_format() {
        let (chunks, nodes) = walk(128 * 3 + 2);
        for (&chunk, &block) in &chunks {
            assert_eq!(ChunkIndex(chunk).block(), BlockIndex(block));
            assert_eq!(chunk_at(BlockIndex(block)), Some(ChunkIndex(chunk)));
        }
        for (&node, &block) in &nodes {
            assert_eq!(node.block(), BlockIndex(block), "{node:?}");
            assert_eq!(chunk_at(BlockIndex(block)), None);
        }
        assert_eq!(chunk_at(BlockIndex(0)), None);
    }

    #[test]
    fn heights_step_at_powers_of_the_fanout() {
        assert_eq!([0, 1, 3812].map(height), [0, 0, 0]);
        assert_eq!([3813, 4096, 128 * 4096].map(height), [1, 1, 1]);
        assert_eq!([128 * 4096 + 1, 128 * 128 * 4096].map(height), [2, 2]);
        assert_eq!(height(128 * 128 * 4096 + 1), 3);
        assert_eq!(height(MAX_LEN), MAX_HEIGHT);
        assert_eq!(height(u64::MAX), MAX_HEIGHT);
    }

    #[test]
    fn the_largest_file_has_a_stored_length_and_back() {
        assert_eq!(plain_len(stored_len(MAX_LEN)), Some(MAX_LEN));
        assert_eq!(stored_len(u64::MAX), stored_len(MAX_LEN));
        assert_eq!(plain_len(stored_len(MAX_LEN) + 1), None);
        assert_eq!(plain_len(u64::MAX), None);
    }

    #[test]
    fn lengths_between_the_forms_belong_to_no_file() {
        for stored in (1..=284).chain(4097..12005) {
            assert_eq!(plain_len(stored), None, "{stored}");
        }
    }

    /// Sizes near where something changes: chunk, group and level boundaries, both ends.
    fn sizes() -> impl Strategy<Value = u64> {
        let near = |centre: u64| (-5000i64..5000).prop_map(move |d| centre.saturating_add_signed(d).min(MAX_LEN));
        prop_oneof![
            0..20_000u64,
            0..=MAX_LEN,
            (0u32..=63).prop_flat_map(move |bits| near((1u64 << bits).min(MAX_LEN))),
            (0u32..8, 1u64..130).prop_flat_map(move |(level, n)| near(
                128u64.saturating_pow(level).saturating_mul(n).saturating_mul(4096)
            )),
        ]
    }

    proptest! {
        #[test]
        fn sizes_survive_the_round_trip(size in sizes()) {
            prop_assert_eq!(plain_len(stored_len(size)), Some(size));
        }

        #[test]
        fn stored_lengths_grow_strictly(size in sizes()) {
            prop_assume!(size < MAX_LEN);
            prop_assert!(stored_len(size) < stored_len(size + 1));
        }

        #[test]
        fn every_stored_length_is_refused_or_comes_back(stored in prop_oneof![any::<u64>(), sizes()]) {
            if let Some(plain) = plain_len(stored) {
                prop_assert_eq!(stored_len(plain), stored);
            }
        }

        #[test]
        fn nodes_lie_behind_the_header_and_before_what_they_describe(chunk in 0..=MAX_LEN / 4096, level in 1..=8u8) {
            let node = NodeId::above(ChunkIndex(chunk), level);
            prop_assert!(node.first_chunk().0 <= chunk && chunk < node.end_chunk().0);
            prop_assert!(node.block().0 >= 1);
            prop_assert_eq!(chunk_at(node.block()), None);
            if node.index > 0 {
                prop_assert!(node.block() < node.first_chunk().block());
            }
        }

        #[test]
        fn nothing_overflows(n in any::<u64>(), level in any::<u8>()) {
            let node = NodeId { level: level % 9, index: n };
            let _ = (node.block().offset(), node.parent(), node.child(127), node.first_chunk(), node.end_chunk());
            let _ = (ChunkIndex(n).block().offset(), ChunkIndex(n).start(), ChunkIndex(n).len_in(n), height(n));
            let _ = (NodeId::above(ChunkIndex(n), level), chunks_below(level), chunk_at(BlockIndex(n)));
        }
    }
}
