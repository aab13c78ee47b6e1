//! Reading and writing an encrypted file, over memory and over `/dev/shm`, beside the same calls on the bare file.

use std::ffi::OsStr;
use std::hint::black_box;
use std::io::{IoSlice, IoSliceMut};
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use envelopefs::file::File;
use envelopefs::keys::KeyRing;
use envelopefs::store::mem::MemFile;
use envelopefs::store::{BackingFile, Durability, open_root};
use uuid::Uuid;

const MIB: usize = 1 << 20;
const SIZE: u64 = 64 << 20;

type Make = Box<dyn Fn() -> Arc<dyn BackingFile>>;

/// What the benchmarks run over: a label and a way to make a backing file.
fn backings() -> Vec<(&'static str, Make)> {
    let shm = tempfile::tempdir_in("/dev/shm").expect("/dev/shm is writable");
    let root = open_root(shm.path()).expect("opens");
    let count = std::cell::Cell::new(0);
    let make = move || {
        let _keeps_it = &shm;
        count.set(count.get() + 1);
        root.create_file(OsStr::new(&format!("file{}", count.get())), 0o600).expect("creates")
    };
    vec![("memory", Box::new(|| MemFile::new() as Arc<dyn BackingFile>)), ("/dev/shm", Box::new(make))]
}

fn ring() -> Arc<KeyRing> {
    Arc::new(KeyRing::generate(Uuid::nil()))
}

fn filled(raw: Arc<dyn BackingFile>) -> File {
    let file = File::open(raw, ring()).expect("opens");
    let data = vec![7; MIB];
    for offset in (0..SIZE).step_by(MIB) {
        file.write_at(offset, &data).expect("writes");
    }
    file.commit(Durability::Written).expect("commits");
    file
}

/// Offsets that a linear congruence scatters.
fn scattered(unit: u64) -> impl FnMut() -> u64 {
    let mut state = 1u64;
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % (SIZE / unit) * unit
    }
}

fn reads(c: &mut Criterion) {
    for (name, make) in backings() {
        for (label, len) in [("1 MiB", MIB), ("4 KiB", 4096)] {
            let mut group = c.benchmark_group(format!("read {label}, {name}"));
            group.throughput(Throughput::Bytes(len as u64));
            let file = filled(make());
            let (mut next, mut buf) = (scattered(len as u64), Vec::new());
            group.bench_function("encrypted", |b| b.iter(|| file.read_at(next(), len, &mut buf).expect("reads")));
            let bare = make();
            bare.write_all_vectored_at(&mut [IoSlice::new(&vec![7; SIZE as usize])], 0).expect("writes");
            let (mut next, mut buf) = (scattered(len as u64), vec![0; len]);
            group.bench_function("bare file", |b| {
                b.iter(|| bare.read_vectored_at(&mut [IoSliceMut::new(&mut buf)], next()).expect("reads"))
            });
            group.finish();
        }
    }
}

fn writes(c: &mut Criterion) {
    for (name, make) in backings() {
        for (label, len) in [("1 MiB", MIB), ("4 KiB", 4096)] {
            let mut group = c.benchmark_group(format!("overwrite {label}, {name}"));
            group.throughput(Throughput::Bytes(len as u64));
            let data = vec![9; len];
            let file = filled(make());
            let mut next = scattered(len as u64);
            group.bench_function("encrypted", |b| b.iter(|| file.write_at(next(), &data).expect("writes")));
            let bare = make();
            bare.write_all_vectored_at(&mut [IoSlice::new(&vec![7; SIZE as usize])], 0).expect("writes");
            let mut next = scattered(len as u64);
            group.bench_function("bare file", |b| {
                b.iter(|| bare.write_all_vectored_at(&mut [IoSlice::new(&data)], next()).expect("writes"))
            });
            group.finish();
        }
    }
}

/// A new file of 1 KiB, committed: what unpacking a source tree does most.
fn small(c: &mut Criterion) {
    let ring = ring();
    for (name, make) in backings() {
        let mut group = c.benchmark_group(format!("write 1 KiB and commit, {name}"));
        let raw = make();
        let data = vec![3; 1024];
        group.bench_function("encrypted", |b| {
            b.iter(|| {
                raw.set_len(0).expect("truncates");
                let file = File::open(Arc::clone(&raw), Arc::clone(&ring)).expect("opens");
                file.write_at(0, &data).expect("writes");
                file.commit(Durability::Written).expect("commits");
            })
        });
        group.bench_function("bare file", |b| {
            b.iter(|| {
                raw.set_len(0).expect("truncates");
                raw.write_all_vectored_at(&mut [IoSlice::new(black_box(&data))], 0).expect("writes");
            })
        });
        group.finish();
    }
}

criterion_group!(benches, reads, writes, small);
criterion_main!(benches);
