//! Making changes reachable: pending nodes bottom-up, then the length, then the header.
//!
//! The order: nodes in unused places, a longer length, nodes over old ones, the header, a shorter length. So running out of
//! space comes before anything that is in use changes, and a death on the way leaves at worst a backing file that is too long.

use std::io::{self, IoSlice};

use super::header::{Header, PLACES, ROOT_LEN, RootRecord};
use super::layout::{HEADER_LEN, stored_len};
use super::read::Scratch;
use super::tree::{Entry, SealedNode};
use super::{BLOCK, Body, File, FileError, State};
use crate::store::{BlockFile, Durability, Timestamp};

impl File {
    /// Writes pending nodes and the header: everything written so far is then reachable from the file's header,
    /// at the given durability. Does nothing for a clean file at [`Durability::Written`].
    ///
    /// # Errors
    /// [`FileError`]. What was pending still is, and the next commit tries again; but once a flush has failed, the backing
    /// filesystem may have dropped the data, so no later one of this file reports success.
    pub fn commit(&self, durability: Durability) -> Result<(), FileError> {
        let metadata = match durability {
            Durability::Written => return self.hand_over(),
            Durability::Data => false,
            Durability::Full => true,
        };
        let ticket = {
            let mut state = self.writing();
            let ticket = self.commit_as(&mut state, |blocks, mtime| blocks.prepare(metadata, mtime))?;
            if metadata {
                state.restore_mtime(&self.blocks);
            }
            ticket
        };
        // Without a lock: nobody else waits for the flush.
        Ok(self.blocks.finish(ticket)?)
    }

    /// [`commit`](Self::commit) at [`Durability::Written`].
    fn hand_over(&self) -> Result<(), FileError> {
        // A reader's lock is enough to see that there is nothing to do.
        let state = self.state.read();
        if !state.dirty && state.mtime.is_none() {
            return Ok(());
        }
        drop(state);
        let mut state = self.writing();
        self.commit_locked(&mut state)?;
        state.restore_mtime(&self.blocks);
        Ok(())
    }

    /// Commits and leaves it to [`Store::settle`](crate::store::Store::settle), called next, to make it durable.
    ///
    /// # Errors
    /// As [`commit`](Self::commit).
    pub fn commit_for_settling(&self) -> Result<(), FileError> {
        let mut state = self.writing();
        self.commit_as(&mut state, BlockFile::commit)
    }

    /// Gives up what was written since the last commit, before the file is dropped: whoever opens it again must not see half of it.
    pub fn discard(&self) {
        let _state = self.writing();
        self.blocks.discard();
    }

    pub(super) fn commit_locked(&self, state: &mut State) -> Result<(), FileError> {
        if !state.dirty {
            return Ok(());
        }
        self.commit_as(state, BlockFile::commit)?;
        state.restore_mtime(&self.blocks);
        Ok(())
    }

    /// Writes what is pending and ends the group as `end` does.
    fn commit_as<T>(
        &self,
        state: &mut State,
        end: impl FnOnce(&BlockFile, Option<Timestamp>) -> io::Result<T>,
    ) -> Result<T, FileError> {
        if !state.dirty {
            return Ok(end(&self.blocks, state.mtime)?);
        }
        state.keep_mtime(&self.blocks)?;
        let unused = Scratch::with(|scratch| self.write_tree(state, scratch))?;
        if let Body::Tree(tree) = &mut state.body {
            tree.settle(&self.options.cache);
        }
        self.count_pending(state);
        state.dropped = false;
        let length = stored_len(state.size);
        if state.stored > length {
            // An error leaves the file dirty, so the next commit tries this again.
            self.blocks.set_len(length)?;
            state.stored = length;
        }
        state.committed = state.size;
        let ended = end(&self.blocks, state.mtime)?;
        state.dirty = false;
        state.excess = false;
        if std::mem::take(&mut state.retired) {
            self.blocks.retire(0, state.stored)?;
        }
        for node in unused {
            // For the space only: what is in a place without a node means nothing.
            let _ = self.blocks.punch_hole(node.id.block().offset(), BLOCK as u64);
        }
        Ok(ended)
    }

    /// Writes nodes and header, and returns the nodes whose places are unused now.
    fn write_tree(&self, state: &mut State, scratch: &mut Scratch) -> Result<Vec<SealedNode>, FileError> {
        if state.size == 0 {
            // An empty file has no header; its length alone is its commit.
            return Ok(Vec::new());
        }
        let mut nodes = match &mut state.body {
            Body::Tree(tree) => tree.seal(self.keys(), &mut scratch.sealed)?,
            _ => Vec::new(),
        };
        // Old places last; by place, so that neighbours go in one call.
        nodes.sort_by_key(|node| (node.at.is_none(), node.placed, node.id.block()));
        let used = nodes.iter().position(|node| node.at.is_none()).unwrap_or(nodes.len());
        let unused = nodes.split_off(used).into_iter().filter(|node| node.placed).collect();
        let (fresh, old) = nodes.split_at(nodes.iter().position(|node| node.placed).unwrap_or(nodes.len()));
        self.write_nodes(state, fresh, &scratch.sealed)?;
        let length = stored_len(state.size);
        if state.stored < length && matches!(state.body, Body::Tree(_)) {
            // The end is a hole. (The header of an inline file brings the whole length itself.)
            self.blocks.set_len(length)?;
            state.stored = length;
        }
        self.write_nodes(state, old, &scratch.sealed)?;
        self.write_header(state)?;
        Ok(unused)
    }

    /// Writes nodes that are sorted by place and all of one kind, fresh or not.
    fn write_nodes(&self, state: &mut State, nodes: &[SealedNode], sealed: &[u8]) -> Result<(), FileError> {
        for run in nodes.chunk_by(|a, b| b.id.block().0 == a.id.block().0 + 1) {
            let Some(first) = run.first() else { continue };
            let bytes = |node: &SealedNode| sealed.get(node.at.clone()?);
            let mut bufs: Vec<IoSlice<'_>> = run.iter().filter_map(bytes).map(IoSlice::new).collect();
            let offset = first.id.block().offset();
            if first.placed {
                self.blocks.replace(&mut bufs, offset)?;
            } else {
                self.blocks.write_fresh(&mut bufs, offset)?;
            }
            state.wrote_to(offset + (run.len() * BLOCK) as u64);
        }
        Ok(())
    }

    fn write_header(&self, state: &mut State) -> Result<(), FileError> {
        let keys = self.keys();
        if state.committed == 0 {
            state.places = [None; PLACES];
            let place = self.ring.wrap_dek(&keys.id(), keys.dek());
            (state.places[0], state.under) = (Some(place), Some(place.key_id));
            self.blocks.identify(keys.id().0);
        }
        let (places, under) = self.with_active_place(state);
        let grant = keys.reserve(1)?;
        let (height, root, contents): (u8, Entry, &[u8]) = match &state.body {
            Body::Tree(tree) => (tree.height(), tree.root(), &[]),
            Body::Inline(plain) => (0, Entry::HOLE, plain),
            Body::Empty => (0, Entry::HOLE, &[]),
        };
        let generation = state.generation.wrapping_add(1);
        let record = RootRecord { size: state.size, generation, seals: grant.seals, height, root };
        let mut header = Header {
            epoch: grant.epoch,
            file_id: keys.id(),
            places,
            root_nonce: super::chunk::nonce(),
            root_tag: [0; 16],
            root: [0; ROOT_LEN],
        };

        // Root record and contents are one text; in any but an inline file the block goes out whole, with its zeros.
        let mut block = [0; BLOCK];
        let (fixed, text) = block.split_at_mut(HEADER_LEN - ROOT_LEN);
        let (text, _) = text.split_at_mut(ROOT_LEN + contents.len());
        let (root, inline) = text.split_at_mut(ROOT_LEN);
        root.copy_from_slice(&record.encode());
        inline.copy_from_slice(contents);
        let associated = header.associated_data(self.ring.volume());
        let sealed = grant.key().seal_in_place(&header.root_nonce, &associated, text);
        header.root_tag = sealed.map_err(std::io::Error::other)?;
        fixed.copy_from_slice(&header.encode()[..HEADER_LEN - ROOT_LEN]);

        let len = if height == 0 { HEADER_LEN + contents.len() } else { BLOCK };
        let (block, _) = block.split_at(len);
        let mut bufs = [IoSlice::new(block)];
        if state.committed == 0 {
            self.blocks.write_fresh(&mut bufs, 0)?;
        } else {
            self.blocks.replace(&mut bufs, 0)?;
        }
        (state.generation, state.places, state.under) = (generation, places, Some(under));
        // From here on the committed file is this one, whatever comes of the length.
        state.committed = state.size;
        state.wrote_to(len as u64);
        Ok(())
    }
}
