//! Someone else writes to the backing file: each read gives the right bytes or an error, and `verify` finds each change.

use super::*;
use crate::store::Durability;

/// A committed file and what is in it.
struct Sample {
    raw: Arc<MemFile>,
    size: u64,
    /// Places that were written, and what was.
    data: Vec<(u64, Vec<u8>)>,
}

const GIB: u64 = 1 << 30;

/// Sparse: 4 levels, with chunks in the first group, on both sides of level boundaries, and at the end.
const SPARSE: u64 = 20 * GIB;

fn sample(size: u64, seed: u64) -> Sample {
    let raw = MemFile::new();
    let file = open(&raw).unwrap();
    let places: &[(u64, usize)] = match size {
        SPARSE => &[(0, 5000), (64 << 20, 4096), (5 * GIB - 100, 9000), (SPARSE - 5000, 5000)],
        _ => &[(0, size as usize)],
    };
    file.set_len(size).unwrap();
    let mut data = Vec::new();
    for (n, &(offset, len)) in places.iter().enumerate() {
        let bytes = pattern(seed + n as u64, len);
        file.write_at(offset, &bytes).unwrap();
        data.push((offset, bytes));
    }
    file.commit(Durability::Written).unwrap();
    assert_eq!(findings(&open(&raw).unwrap()), []);
    Sample { raw, size, data }
}

fn samples() -> Vec<Sample> {
    [0, 100, 3812, 4096, 1 << 20, SPARSE].map(|size| sample(size, size)).into()
}

impl Sample {
    /// Opens and reads everything: right bytes or damage, nothing else. `named`: and `verify` reports something.
    fn check(&self, raw: &Arc<MemFile>, what: &str, named: bool) {
        let file = match open(raw) {
            Ok(file) => file,
            Err(FileError::Damaged(_) | FileError::NoKey) => return,
            Err(error) => panic!("{what}: {error}"),
        };
        assert_eq!(file.len(), self.size, "{what}");
        for (offset, expected) in &self.data {
            // As a whole, and each chunk: damage in one must not hide a wrong byte in another.
            let whole = (*offset, expected.len());
            let chunks = (0..expected.len().div_ceil(4096)).map(|n| (offset + n as u64 * 4096, 4096));
            for (at, len) in std::iter::once(whole).chain(chunks) {
                match read(&file, at, len) {
                    Ok(bytes) => {
                        let start = (at - offset) as usize;
                        let end = expected.len().min(start + len);
                        assert!(bytes[..end - start] == expected[start..end], "{what}: wrong bytes at {at}");
                    }
                    Err(FileError::Damaged(_)) => {}
                    Err(error) => panic!("{what}: {error}"),
                }
            }
        }
        assert_eq!(!findings(&file).is_empty(), named, "{what}: verify");
    }
}

#[test]
fn every_header_byte_counts() {
    for sample in samples() {
        let len = sample.raw.len().min(4096);
        // In long stretches of ciphertext or zeros a sample will do.
        for at in (0..len).filter(|at| *at < 300 || at % 61 == 0 || *at > len - 3) {
            for mask in [1, 0x80] {
                let raw = sample.raw.copy();
                raw.flip(at, mask);
                sample.check(&raw, &format!("size {}, header byte {at}", sample.size), true);
            }
        }
    }
}

#[test]
fn every_block_counts() {
    for sample in samples() {
        for page in sample.raw.stored_pages() {
            let len = (sample.raw.len() - page).min(4096);
            for at in [0, len / 2, len - 1] {
                let raw = sample.raw.copy();
                raw.flip(page + at, 1);
                sample.check(&raw, &format!("size {}, block at {page}, byte {at}", sample.size), true);
            }
        }
    }
}

#[test]
fn blocks_have_one_place() {
    for sample in samples() {
        let other = self::sample(sample.size, sample.size + 1000);
        let pages = sample.raw.stored_pages();
        // Nodes and chunks near the front, and the last ones.
        let near: Vec<u64> =
            pages.iter().copied().filter(|page| *page < 5 * 4096 || page + 9000 > sample.raw.len()).collect();
        for &a in &near {
            for &b in pages.iter().step_by(if pages.len() > 50 { 37 } else { 1 }) {
                if a == b {
                    continue;
                }
                let what = format!("size {}, blocks at {a} and {b}", sample.size);
                let (bytes_a, bytes_b) = (sample.raw.bytes(a, 4096), sample.raw.bytes(b, 4096));
                let copied = sample.raw.copy();
                copied.overwrite(a, &bytes_b);
                copied.force_len(sample.raw.len());
                sample.check(&copied, &what, true);
                copied.overwrite(b, &bytes_a);
                copied.force_len(sample.raw.len());
                sample.check(&copied, &what, true);
                copied.overwrite(a, &[0; 4096]);
                copied.force_len(sample.raw.len());
                let never_committed = a == 0 && open(&copied).is_ok_and(|file| file.is_empty() && file.excess());
                if !never_committed {
                    sample.check(&copied, &what, true);
                }
            }
        }
        for &page in &pages {
            let raw = sample.raw.copy();
            raw.overwrite(page, &other.raw.bytes(page, 4096));
            raw.force_len(sample.raw.len());
            // The whole block 0 of an inline file is the whole file.
            if sample.size > 3812 {
                sample.check(&raw, &format!("size {}, block at {page} from another file", sample.size), true);
            }
        }
    }
}

#[test]
fn a_chunk_brought_with_its_leaf_from_another_file_is_refused() {
    let (sample, other) = (sample(1 << 20, 1), sample(1 << 20, 2));
    for count in 1..=4 {
        let raw = sample.raw.copy();
        raw.overwrite(4096, &other.raw.bytes(4096, count * 4096));
        sample.check(&raw, &format!("{count} blocks from another file"), true);
    }
}

#[test]
fn files_are_cut_and_extended_nowhere_unnoticed() {
    for sample in samples() {
        let len = sample.raw.len();
        let pages = sample.raw.stored_pages();
        let boundaries = pages.iter().flat_map(|page| [*page, page + 4096]).chain([284, 285, len, 12288, len + 4096]);
        for at in boundaries.flat_map(|at| [at.saturating_sub(1), at, at + 1]) {
            let raw = sample.raw.copy();
            raw.force_len(at);
            let what = format!("size {}, stored length {at} for {len}", sample.size);
            if at == 0 || at == len {
                // Cut to nothing, it is the file that was never written: section 4 of the format.
                assert_eq!(open(&raw).unwrap().len(), if at == 0 { 0 } else { sample.size });
                continue;
            }
            if at > len && sample.size > 0 {
                let file = open(&raw).unwrap();
                assert!(file.excess(), "{what}");
            }
            sample.check(&raw, &what, true);
        }
    }
}

#[test]
fn older_versions_of_parts_are_refused() {
    for size in [4096, 1 << 20, SPARSE] {
        let old = sample(size, 5);
        let raw = old.raw.copy();
        let file = open(&raw).unwrap();
        let mut data = old.data.clone();
        for (n, (offset, bytes)) in data.iter_mut().enumerate() {
            *bytes = pattern(900 + n as u64, bytes.len());
            file.write_at(*offset, bytes).unwrap();
        }
        file.commit(Durability::Written).unwrap();
        let new = Sample { raw, size, data };
        let put_back = |pages: &[u64]| {
            let raw = new.raw.copy();
            for &page in pages {
                raw.overwrite(page, &old.raw.bytes(page, 4096));
            }
            raw.force_len(new.raw.len());
            raw
        };
        let pages = new.raw.stored_pages();
        for &page in &pages {
            new.check(&put_back(&[page]), &format!("size {size}, old block at {page}"), true);
            // With the block before it: a leaf and its first chunk; with the leaf of the first group.
            if page >= 8192 {
                new.check(&put_back(&[page - 4096, page]), &format!("size {size}, old pair before {page}"), true);
                new.check(&put_back(&[4096, page]), &format!("size {size}, old leaf and block at {page}"), true);
            }
        }
        // All but the header: a whole subtree with its data.
        let subtree: Vec<u64> = pages.iter().copied().filter(|&page| page > 0).collect();
        new.check(&put_back(&subtree), &format!("size {size}, old tree"), true);
        for without in &subtree {
            let most: Vec<u64> = pages.iter().copied().filter(|page| page != without).collect();
            old.check(&put_back(&most), &format!("size {size}, all old but {without}"), true);
        }
        // The whole file put back is a whole file: not detected by this version.
        old.check(&put_back(&pages), "rollback", false);
    }
}

#[test]
fn what_is_under_a_hole_means_nothing() {
    let sample = sample(SPARSE, 3);
    let raw = sample.raw.copy();
    for chunk in [2u64, 200, 1 << 20] {
        let offset = layout::ChunkIndex(chunk).block().offset();
        assert_eq!(read(&open(&raw).unwrap(), chunk * 4096, 4096).unwrap(), [0; 4096]);
        raw.overwrite(offset, &pattern(chunk, 4096));
        assert_eq!(read(&open(&raw).unwrap(), chunk * 4096, 4096).unwrap(), [0; 4096]);
    }
    sample.check(&raw, "bytes under holes", false);
}

#[test]
fn a_header_belongs_to_one_volume() {
    let (volume_key, master) = (Secret::fill_with(|key| key.fill(1)), Secret::fill_with(|key| key.fill(2)));
    let ring_of = |id| Arc::new(KeyRing::new(Uuid::from_bytes([id; 16]), &volume_key, &master, &[]));
    let raw = MemFile::new();
    let file = File::open(raw.clone(), ring_of(1)).unwrap();
    file.write_at(0, b"secret").unwrap();
    file.commit(Durability::Written).unwrap();
    assert!(File::open(raw.clone(), ring_of(1)).is_ok());
    assert!(matches!(File::open(raw, ring_of(2)), Err(FileError::NoKey)));
}

#[test]
fn the_second_wrapped_dek_serves_when_the_first_does_not() {
    let sample = sample(100, 9);
    let place = sample.raw.bytes(32, 76);
    let raw = sample.raw.copy();
    raw.overwrite(108, &place);
    sample.check(&raw, "both places used", false);
    for at in 32..108 {
        raw.flip(at, 4);
        let file = open(&raw).unwrap();
        assert_eq!(read(&file, 0, 100).unwrap(), sample.data[0].1);
        assert_eq!(findings(&file).len(), 1, "place 0, byte {at}");
        raw.flip(at, 4);
        raw.flip(at + 76, 4);
        assert_eq!(findings(&open(&raw).unwrap()).len(), 1, "place 1, byte {at}");
        raw.flip(at + 76, 4);
    }
}
