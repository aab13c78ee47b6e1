//! Memory for tree nodes, shared by all files of a process and bounded.
//!
//! Half of the budget is for verified nodes that equal their stored form (dropped least recently used first), half for
//! changed ones, beyond which a file commits. Nodes are opened plaintext of the tree: nonces and tags, no user data.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};

use lru::LruCache;
use parking_lot::Mutex;

use super::BLOCK;
use super::layout::NodeId;
use super::tree::Node;

/// Budget of the cache that [`File::open`](super::File::open) uses.
const DEFAULT_BYTES: usize = 32 << 20;
const SHARDS: usize = 16;

/// What the nodes of one tree are filed under. A tree that drops nodes takes a new life, and what the old one left behind ages out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Life(u64);

impl Life {
    pub(super) fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Life(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

type Shard = Mutex<LruCache<(Life, NodeId), Arc<Node>>>;

/// A bounded store of tree nodes.
pub struct NodeCache {
    /// Innermost locks: nothing is called while one is held.
    shards: [Shard; SHARDS],
    pending: AtomicUsize,
    pending_limit: usize,
}

impl NodeCache {
    /// A cache that holds about `bytes` of nodes.
    pub fn new(bytes: usize) -> Arc<Self> {
        let nodes = (bytes / 2).div_ceil(BLOCK);
        let each = NonZeroUsize::new(nodes.div_ceil(SHARDS)).unwrap_or(NonZeroUsize::MIN);
        Arc::new(NodeCache {
            shards: std::array::from_fn(|_| Mutex::new(LruCache::new(each))),
            pending: AtomicUsize::new(0),
            pending_limit: nodes,
        })
    }

    /// The one that files share unless told otherwise: 32 MiB.
    pub fn shared() -> Arc<Self> {
        static SHARED: LazyLock<Arc<NodeCache>> = LazyLock::new(|| NodeCache::new(DEFAULT_BYTES));
        Arc::clone(&SHARED)
    }

    fn shard(&self, life: Life, id: NodeId) -> &Shard {
        let mixed = (life.0 ^ id.index ^ u64::from(id.level) << 60).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        &self.shards[(mixed >> 60) as usize % SHARDS]
    }

    pub(super) fn get(&self, life: Life, id: NodeId) -> Option<Arc<Node>> {
        self.shard(life, id).lock().get(&(life, id)).cloned()
    }

    pub(super) fn put(&self, life: Life, id: NodeId, node: Arc<Node>) {
        // What is pushed out is freed after the lock is.
        let _pushed_out = self.shard(life, id).lock().push((life, id), node);
    }

    pub(super) fn take(&self, life: Life, id: NodeId) -> Option<Arc<Node>> {
        self.shard(life, id).lock().pop(&(life, id))
    }

    /// A file's number of changed nodes went from `before` to `now`.
    pub(super) fn count_pending(&self, before: usize, now: usize) {
        if now >= before {
            self.pending.fetch_add(now - before, Ordering::Relaxed);
        } else {
            self.pending.fetch_sub(before - now, Ordering::Relaxed);
        }
    }

    /// True if there are more changed nodes than there should be.
    pub(super) fn is_pressed(&self) -> bool {
        self.pending.load(Ordering::Relaxed) > self.pending_limit
    }
}

impl std::fmt::Debug for NodeCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeCache").field("pending", &self.pending).finish_non_exhaustive()
    }
}
