//! Checking every stored byte that means something.
//!
//! Not checked, because nothing depends on them: bytes in places that are holes.

use std::io::IoSliceMut;

use super::chunk::Place;
use super::header::Header;
use super::layout::{self, ChunkIndex, FANOUT, NodeId};
use super::tree::Entry;
use super::{BLOCK, Body, Damage, File, FileError, State, open_header, stored_len};
use crate::keys::ring::UnwrapError;

impl File {
    /// Reads and verifies everything: both wrapped-DEK places, reserved bytes, each node, each chunk, the length. Calls
    /// `damage` for each finding, `progress` with the number of stored bytes verified since the last call. What is pending is
    /// committed first.
    ///
    /// # Errors
    /// [`FileError::Io`] if the backing file cannot be read; damage is reported, not returned.
    pub fn verify(&self, damage: &mut dyn FnMut(Damage), progress: &mut dyn FnMut(u64)) -> Result<(), FileError> {
        if self.state.read().dirty {
            self.commit_locked(&mut self.writing())?;
        }
        let state = self.state.read();
        let stored = self.blocks.len();
        let expected = stored_len(state.size);
        if stored > expected {
            damage(Damage::TooLong { stored, expected });
        } else if stored < expected {
            damage(Damage::TooShort { stored, expected });
        }
        if state.size == 0 {
            return Ok(());
        }
        self.verify_header(&state, stored, damage)?;
        progress(expected.min(BLOCK as u64));
        if let Body::Tree(tree) = &state.body {
            let top = NodeId { level: tree.height(), index: 0 };
            self.verify_node(&state, top, tree.root(), damage, progress)?;
        }
        Ok(())
    }

    fn verify_header(&self, state: &State, stored: u64, damage: &mut dyn FnMut(Damage)) -> Result<(), FileError> {
        let mut block = [0; BLOCK];
        let got = self.blocks.read(&mut [IoSliceMut::new(&mut block)], 0)?;
        let block = block.get(..got).unwrap_or_default();
        let header = match Header::parse(block) {
            Ok(header) => header,
            Err(found) => {
                damage(found);
                return Ok(());
            }
        };
        for (place, [forged, foreign]) in header.places.iter().zip([
            [
                "wrapped-DEK place 0 fails authentication",
                "wrapped-DEK place 0 names a master key that the volume never had",
            ],
            [
                "wrapped-DEK place 1 fails authentication",
                "wrapped-DEK place 1 names a master key that the volume never had",
            ],
        ]) {
            let Some(wrapped) = place else { continue };
            match self.ring.unwrap_dek(&header.file_id, wrapped) {
                Ok(_) => {}
                Err(UnwrapError::Unauthentic(_)) => damage(Damage::Header(forged)),
                // Of a master key that was destroyed, or is locked: as good as unused.
                Err(UnwrapError::NoSuchKey(id)) if self.ring.knows(id) => {}
                Err(UnwrapError::NoSuchKey(_)) => damage(Damage::Header(foreign)),
            }
        }
        match open_header(block, stored, &self.ring, self.options.epoch_limit) {
            Ok(opened) if opened.record.size == state.size && opened.record.generation == state.generation => {}
            Ok(_) => damage(Damage::Header("is not the one last read or written")),
            Err(FileError::Damaged(Damage::TooShort { .. } | Damage::TooLong { .. })) => {}
            Err(FileError::Damaged(found)) => damage(found),
            Err(FileError::NoKey) => damage(Damage::Header("no master key in the ring unwraps the DEK")),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Verifies what `entry` describes and everything below, past what is damaged.
    fn verify_node(
        &self,
        state: &State,
        id: NodeId,
        entry: Entry,
        damage: &mut dyn FnMut(Damage),
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), FileError> {
        if entry.is_hole() {
            return Ok(());
        }
        // From the backing file, whatever the cache has.
        let node = match self.source().load(id, &entry) {
            Ok(node) => node,
            Err(FileError::Damaged(found)) => {
                damage(found);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        progress(BLOCK as u64);
        let chunks = layout::chunk_count(state.size);
        let first_behind = |slot: usize| match id.level {
            1 => id.first_chunk().0 + slot as u64,
            _ => id.child(slot).first_chunk().0,
        };
        let slots = FANOUT as usize;
        if (0..slots).any(|slot| first_behind(slot) >= chunks && !node.entry(slot).is_hole()) {
            damage(Damage::Node { level: id.level, index: id.index });
        }
        if id.level > 1 {
            for slot in (0..slots).filter(|&slot| first_behind(slot) < chunks) {
                self.verify_node(state, id.child(slot), node.entry(slot), damage, progress)?;
            }
            return Ok(());
        }
        let mut buf = vec![0; slots * BLOCK];
        let mut opener = self.source().keys.opener();
        let first = id.first_chunk();
        // A group is contiguous: what of it is stored comes with one read.
        let len = (first.0..id.end_chunk().0.min(chunks)).map(|chunk| ChunkIndex(chunk).len_in(state.size)).sum();
        let group = buf.get_mut(..len).unwrap_or_default();
        let got = self.blocks.read(&mut [IoSliceMut::new(group)], first.block().offset())?;
        let mut done = 0;
        for (slot, sealed) in group.chunks_mut(BLOCK).enumerate() {
            let entry = node.entry(slot);
            if entry.is_hole() {
                continue;
            }
            let chunk = ChunkIndex(first.0 + slot as u64);
            if got < slot * BLOCK + sealed.len() {
                damage(Damage::Chunk { index: chunk.0 });
            } else if let Err(found) = opener.open(Place::Chunk(chunk), &entry, sealed) {
                damage(found);
            }
            done += sealed.len() as u64;
        }
        progress(done);
        Ok(())
    }
}
