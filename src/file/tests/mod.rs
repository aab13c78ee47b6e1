//! One encrypted file over memory, against a model, an attacker and a failing disk.

mod behaviour;
mod faults;
mod model;
mod rewrap;
mod tamper;

use std::sync::{Arc, LazyLock};

use uuid::Uuid;

use super::*;
use crate::store::BlockFile;
use crate::store::mem::MemFile;

/// Key rings cost a little to make; most tests need only any one.
fn ring() -> Arc<KeyRing> {
    static RING: LazyLock<Arc<KeyRing>> = LazyLock::new(|| Arc::new(KeyRing::generate(Uuid::from_bytes([7; 16]))));
    Arc::clone(&RING)
}

fn open(raw: &Arc<MemFile>) -> Result<File, FileError> {
    File::open(Arc::clone(raw) as Arc<dyn BackingFile>, ring())
}

/// Opens with a small cache and a small epoch limit, so that eviction and new epochs happen all the time.
fn open_small(raw: &Arc<MemFile>) -> Result<File, FileError> {
    let options = FileOptions { cache: NodeCache::new(64 * BLOCK), epoch_limit: 50 };
    File::open_with(BlockFile::direct(Arc::clone(raw) as Arc<dyn BackingFile>)?, ring(), options)
}

/// Bytes that differ everywhere, so that what is in the wrong place shows.
fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

fn read(file: &File, offset: u64, len: usize) -> Result<Vec<u8>, FileError> {
    let mut buf = Vec::new();
    let range = file.read_at(offset, len, &mut buf)?;
    Ok(buf[range].to_vec())
}

fn findings(file: &File) -> Vec<Damage> {
    let mut found = Vec::new();
    file.verify(&mut |damage| found.push(damage), &mut |_| {}).expect("the backing file can be read");
    found
}
