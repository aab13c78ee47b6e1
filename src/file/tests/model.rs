//! Random operations against bytes with holes in a map.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::store::Durability;

/// A plain file as chunks; what is missing is a hole.
#[derive(Debug, Clone, Default)]
struct Model {
    size: u64,
    chunks: BTreeMap<u64, Vec<u8>>,
}

const CHUNK: u64 = 4096;

impl Model {
    fn read(&self, offset: u64, len: usize) -> Vec<u8> {
        let end = self.size.min(offset.saturating_add(len as u64));
        (offset..end.max(offset))
            .map(|at| self.chunks.get(&(at / CHUNK)).map_or(0, |chunk| chunk[(at % CHUNK) as usize]))
            .collect()
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        self.extend(offset + data.len() as u64);
        for (at, byte) in (offset..).zip(data) {
            self.chunks.entry(at / CHUNK).or_insert_with(|| vec![0; CHUNK as usize])[(at % CHUNK) as usize] = *byte;
        }
    }

    /// Contents of small files become a chunk when the file grows, holes or not.
    fn extend(&mut self, size: u64) {
        if self.size > 0 && self.size <= 3812 && size > 3812 {
            self.chunks.entry(0).or_insert_with(|| vec![0; CHUNK as usize]);
        }
        self.size = self.size.max(size);
    }

    fn truncate(&mut self, size: u64) {
        if size > self.size {
            return self.extend(size);
        }
        self.size = size;
        self.chunks.retain(|chunk, _| chunk * CHUNK < size);
        if let Some(last) = self.chunks.get_mut(&(size / CHUNK)) {
            last[(size % CHUNK) as usize..].fill(0);
        }
    }

    fn zero(&mut self, offset: u64, len: u64) {
        let end = offset.saturating_add(len).min(self.size);
        if offset >= end {
            return;
        }
        let whole_end = if end == self.size { u64::MAX } else { end };
        let inline = self.size <= 3812;
        for (chunk, bytes) in &mut self.chunks {
            let from = offset.clamp(chunk * CHUNK, (chunk + 1) * CHUNK);
            let to = end.clamp(chunk * CHUNK, (chunk + 1) * CHUNK);
            bytes[(from - chunk * CHUNK) as usize..(to.max(from) - chunk * CHUNK) as usize].fill(0);
        }
        if !inline {
            self.chunks.retain(|chunk, _| chunk * CHUNK < offset || (chunk + 1) * CHUNK > whole_end);
        }
    }

    fn seek(&self, offset: u64, data: bool) -> Option<u64> {
        if offset >= self.size {
            return None;
        }
        if self.size <= 3812 {
            return Some(if data { offset } else { self.size });
        }
        let count = self.size.div_ceil(CHUNK);
        let first = offset / CHUNK;
        let found = if data {
            self.chunks.range(first..).next().map(|(chunk, _)| *chunk)
        } else {
            let mut at = first;
            while self.chunks.contains_key(&at) {
                at += 1;
            }
            (at < count).then_some(at)
        };
        found.map(|chunk| (chunk * CHUNK).max(offset)).or((!data).then_some(self.size))
    }
}

#[derive(Debug, Clone)]
enum Op {
    Write(u64, usize, u64),
    Read(u64, usize),
    SetLen(u64),
    Punch(u64, u64),
    ZeroRange(u64, u64, bool),
    Allocate(u64, u64, bool),
    Seek(u64),
    Commit,
    Reopen,
    Verify,
}

/// Offsets near where the form changes: 0, inline limit, chunk, group, level 2 and level 3.
fn offsets() -> impl Strategy<Value = u64> {
    let near = |centre: u64, by: i64| (-by..by).prop_map(move |d| centre.saturating_add_signed(d));
    prop_oneof![
        4 => 0..5000u64,
        4 => near(3812, 3),
        4 => near(4096, 5),
        3 => near(8192, 4100),
        4 => near(128 * 4096, 5000),
        2 => near(256 * 4096, 5000),
        3 => near(128 * 128 * 4096, 5000),
        1 => near(128 * 128 * 128 * 4096, 5000),
        2 => 0..3_000_000u64,
    ]
}

fn lengths() -> impl Strategy<Value = usize> {
    prop_oneof![3 => 0..200usize, 3 => 1..10_000usize, 2 => Just(4096), 1 => 1..700_000usize]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (offsets(), lengths(), any::<u64>()).prop_map(|(o, l, s)| Op::Write(o, l, s)),
        6 => (offsets(), lengths()).prop_map(|(o, l)| Op::Read(o, l)),
        3 => offsets().prop_map(Op::SetLen),
        2 => (offsets(), lengths()).prop_map(|(o, l)| Op::Punch(o, l as u64)),
        1 => (offsets(), offsets()).prop_map(|(o, l)| Op::Punch(o, l)),
        1 => (offsets(), lengths(), any::<bool>()).prop_map(|(o, l, k)| Op::ZeroRange(o, l as u64, k)),
        1 => (offsets(), lengths(), any::<bool>()).prop_map(|(o, l, k)| Op::Allocate(o, l as u64, k)),
        3 => offsets().prop_map(Op::Seek),
        2 => Just(Op::Commit),
        2 => Just(Op::Reopen),
        1 => Just(Op::Verify),
    ]
}

/// Applies an operation to both and compares.
fn step(raw: &Arc<MemFile>, file: &mut File, model: &mut Model, op: &Op) {
    match *op {
        Op::Write(offset, len, seed) => {
            let data = pattern(seed, len);
            file.write_at(offset, &data, seed & 1 == 1).unwrap();
            if len > 0 {
                model.write(offset, &data);
            }
        }
        Op::Read(offset, len) => assert!(read(file, offset, len).unwrap() == model.read(offset, len)),
        Op::SetLen(len) => {
            file.set_len(len).unwrap();
            model.truncate(len);
        }
        Op::Punch(offset, len) => {
            file.punch_hole(offset, len).unwrap();
            model.zero(offset, len);
        }
        Op::ZeroRange(offset, len, keep_size) => {
            file.zero_range(offset, len, keep_size).unwrap();
            model.zero(offset, len);
            if !keep_size {
                model.extend(offset + len);
            }
        }
        Op::Allocate(offset, len, keep_size) => {
            file.allocate(offset, len, keep_size).unwrap();
            if !keep_size {
                model.extend(offset + len);
            }
        }
        Op::Seek(offset) => {
            assert_eq!(file.seek_data(offset).unwrap(), model.seek(offset, true), "data from {offset}");
            assert_eq!(file.seek_hole(offset).unwrap(), model.seek(offset, false), "hole from {offset}");
        }
        Op::Commit => {
            file.commit(Durability::Data).unwrap();
            assert_eq!(raw.len(), stored_len(model.size));
        }
        Op::Reopen => {
            file.commit(Durability::Written).unwrap();
            *file = open_small(raw).unwrap();
            assert!(!file.excess());
        }
        Op::Verify => assert_eq!(findings(file), []),
    }
    assert_eq!(file.len(), model.size);
}

/// Every chunk of both, and a look into holes.
fn compare(file: &File, model: &Model) {
    for chunk in model.chunks.keys().flat_map(|chunk| [chunk.saturating_sub(1), *chunk, chunk + 1]) {
        let offset = chunk * CHUNK;
        assert!(read(file, offset, 4096).unwrap() == model.read(offset, 4096), "chunk {chunk}");
    }
}

fn run(ops: &[Op]) {
    let raw = MemFile::new();
    let mut file = open_small(&raw).unwrap();
    let mut model = Model::default();
    for op in ops {
        step(&raw, &mut file, &mut model, op);
    }
    compare(&file, &model);
    file.commit(Durability::Full).unwrap();
    assert_eq!(raw.len(), stored_len(model.size));
    assert_eq!(file.dirty_bytes(), 0);
    drop(file);
    let file = open(&raw).unwrap();
    assert_eq!(findings(&file), []);
    compare(&file, &model);
}

proptest! {
    #[test]
    fn a_file_behaves_like_its_model(ops in proptest::collection::vec(op(), 1..40)) {
        run(&ops);
    }
}
