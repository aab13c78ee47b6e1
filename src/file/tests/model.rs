//! Random operations against bytes with holes in a map.

use std::collections::BTreeMap;
use std::ffi::OsStr;

use proptest::prelude::*;

use super::*;
use crate::store::{Access, CONTROL_DIR, Durability, JOURNAL_MIN, Store, StoreOptions, open_root};

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
    /// What the background does.
    Settle,
    /// The daemon dies and the volume is mounted anew.
    Die,
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
        2 => Just(Op::Settle),
        1 => Just(Op::Die),
    ]
}

/// Where the file is.
enum Home {
    /// In memory, written without a journal.
    Memory(Arc<MemFile>),
    /// On disk, in a store with a journal so small that it wraps.
    Disk(tempfile::TempDir, Option<Arc<Store>>),
}

impl Home {
    fn on_disk() -> Home {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join(CONTROL_DIR)).unwrap();
        let store = Self::store(&dir);
        let raw = open_root(dir.path()).unwrap().create_file(OsStr::new("f"), 0o600).unwrap();
        drop(File::open_blocks(store.attach(raw, true, b"f").unwrap(), ring()).unwrap());
        Home::Disk(dir, Some(store))
    }

    fn store(dir: &tempfile::TempDir) -> Arc<Store> {
        let options = StoreOptions { journal_len: Some(JOURNAL_MIN), ..StoreOptions::of_this_kernel() };
        Store::open(open_root(dir.path()).unwrap(), *ring().volume().as_bytes(), options).unwrap()
    }

    fn open(&self) -> File {
        let options = FileOptions { cache: NodeCache::new(64 * BLOCK), epoch_limit: 50 };
        let blocks = match self {
            Home::Memory(raw) => BlockFile::direct(raw.clone()).unwrap(),
            Home::Disk(dir, store) => {
                let raw = open_root(dir.path()).unwrap().open_file(OsStr::new("f"), Access::ReadWrite).unwrap();
                store.as_ref().unwrap().attach(raw, false, b"f").unwrap()
            }
        };
        File::open_with(blocks, ring(), options).unwrap()
    }

    fn settle(&self) {
        if let Home::Disk(_, Some(store)) = self {
            store.work().unwrap();
        }
    }

    /// The store ends without being told to.
    fn die(&mut self) {
        if let Home::Disk(dir, store) = self {
            store.take().unwrap().abandon();
            *store = Some(Self::store(dir));
        }
    }

    fn len(&self) -> u64 {
        match self {
            Home::Memory(raw) => raw.len(),
            Home::Disk(dir, _) => dir.path().join("f").metadata().unwrap().len(),
        }
    }
}

/// Applies an operation to both and compares.
fn step(home: &mut Home, file: &mut Option<File>, model: &mut Model, op: &Op) {
    if let Op::Reopen | Op::Die = op {
        // As the filesystem does it: a file stays open until the store is done with it.
        let old = file.take().unwrap();
        old.commit(Durability::Written).unwrap();
        if !old.is_settled() && matches!(op, Op::Reopen) {
            home.settle();
        }
        drop(old);
        if let Op::Die = op {
            home.die();
        }
        let new = file.insert(home.open());
        assert!(!new.excess());
        return;
    }
    let file = file.as_mut().unwrap();
    match *op {
        Op::Write(offset, len, seed) => {
            let data = pattern(seed, len);
            file.write_at(offset, &data).unwrap();
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
            assert_eq!(home.len(), stored_len(model.size));
        }
        Op::Settle => {
            file.commit_for_settling().unwrap();
            home.settle();
            assert!(file.is_settled());
        }
        Op::Reopen | Op::Die => {}
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

fn run(mut home: Home, ops: &[Op]) {
    let mut file = Some(home.open());
    let mut model = Model::default();
    for op in ops {
        step(&mut home, &mut file, &mut model, op);
    }
    let file = file.unwrap();
    compare(&file, &model);
    file.commit(Durability::Full).unwrap();
    assert_eq!(home.len(), stored_len(model.size));
    assert_eq!(file.dirty_bytes(), 0);
    drop(file);
    home.die();
    let file = home.open();
    assert_eq!(findings(&file), []);
    compare(&file, &model);
}

/// Found by the model on a journalled file: a commit that changed only the length was not replayed.
#[test]
fn a_commit_of_a_length_alone_is_replayed() {
    run(Home::on_disk(), &[Op::Commit, Op::Write(0, 3813, 0), Op::SetLen(3812), Op::Die]);
}

proptest! {
    #[test]
    fn a_file_behaves_like_its_model(ops in proptest::collection::vec(op(), 1..40)) {
        run(Home::Memory(MemFile::new()), &ops);
    }

    #[test]
    fn a_file_in_the_journalled_store_behaves_like_its_model(ops in proptest::collection::vec(op(), 1..40)) {
        run(Home::on_disk(), &ops);
    }
}
