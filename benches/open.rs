//! Opening a file: header and root record against what of it is unavoidable.

use std::io::IoSliceMut;
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use envelopefs::crypto::aead::ChunkKey;
use envelopefs::crypto::secret::Secret;
use envelopefs::file::{File, plain_len, stored_len};
use envelopefs::keys::{FileId, KeyRing};
use envelopefs::store::mem::MemFile;
use envelopefs::store::{BackingFile, Durability};
use uuid::Uuid;

fn open(c: &mut Criterion) {
    let ring = Arc::new(KeyRing::generate(Uuid::nil()));
    let mut group = c.benchmark_group("open");
    for (label, size) in [("inline, 1 KiB", 1024), ("1 MiB", 1 << 20)] {
        let raw = MemFile::new();
        let file = File::open(raw.clone(), Arc::clone(&ring)).expect("opens");
        file.write_at(0, &vec![1; size]).expect("writes");
        file.commit(Durability::Written).expect("commits");
        let raw: Arc<dyn BackingFile> = raw;
        group.bench_function(label, |b| {
            b.iter(|| File::open(Arc::clone(&raw), Arc::clone(&ring)).expect("opens").len())
        });
    }
    let raw = MemFile::with_contents(&[1; 4096]);
    let mut block = [0; 4096];
    group.bench_function("bare file, stat and one read", |b| {
        b.iter(|| (raw.stat().expect("stats").size, raw.read_vectored_at(&mut [IoSliceMut::new(&mut block)], 0)))
    });
    let (file, dek) = (FileId::random(), Secret::random());
    let wrapped = ring.wrap_dek(&file, &dek);
    group.bench_function("unwrapping a DEK", |b| b.iter(|| ring.unwrap_dek(&file, &wrapped).expect("unwraps")));
    group.bench_function("expanding a key", |b| b.iter(|| ChunkKey::new(&dek)));
    group.finish();
}

/// What `stat` costs without opening.
fn lengths(c: &mut Criterion) {
    let mut group = c.benchmark_group("plain length of a stored length");
    for size in [1000, 100_000, 10 << 30] {
        let stored = stored_len(size);
        group.bench_function(format!("{size}"), |b| b.iter(|| plain_len(std::hint::black_box(stored))));
    }
    group.finish();
}

criterion_group!(benches, open, lengths);
criterion_main!(benches);
