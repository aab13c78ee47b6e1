//! Sealing and opening one chunk as this project does it, beside the bare AEAD of the same library and beside RustCrypto's.

use aes_gcm::aead::{AeadInOut, KeyInit};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use envelopefs::crypto::aead::ChunkKey;
use envelopefs::crypto::random;
use envelopefs::crypto::secret::Secret;

const CHUNK: usize = 4096;
const AAD: [u8; 16] = [1; 16];

fn seal(c: &mut Criterion) {
    let mut group = c.benchmark_group("seal 4 KiB");
    group.throughput(Throughput::Bytes(CHUNK as u64));
    let plain = vec![7; CHUNK];
    let mut sealed = vec![0; CHUNK];

    let key = ChunkKey::new(&Secret::random());
    let mut nonce = [0; 12];
    group.bench_function("ChunkKey, fresh nonce", |b| {
        b.iter(|| {
            random(&mut nonce);
            key.seal(&nonce, &AAD, &plain, &mut sealed)
        })
    });
    group.bench_function("ChunkKey", |b| b.iter(|| key.seal(&nonce, &AAD, &plain, &mut sealed)));
    let bare = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &[3; 32]).expect("32 bytes"));
    group.bench_function("bare AEAD, in place", |b| {
        b.iter(|| {
            let nonce = Nonce::assume_unique_for_key(nonce);
            bare.seal_in_place_separate_tag(nonce, Aad::from(AAD), &mut sealed).expect("seals")
        })
    });
    let other = aes_gcm::Aes256Gcm::new(&[3; 32].into());
    group.bench_function("crate aes-gcm, in place", |b| {
        b.iter(|| other.encrypt_inout_detached(&nonce.into(), &AAD, sealed.as_mut_slice().into()).expect("seals"))
    });
    group.finish();
}

fn open(c: &mut Criterion) {
    let mut group = c.benchmark_group("open 4 KiB");
    group.throughput(Throughput::Bytes(CHUNK as u64));
    let nonce = [5; 12];

    // Opening works in place and destroys its input, so each round starts with a copy, the baselines' too.
    let key = ChunkKey::new(&Secret::random());
    let mut sealed = vec![0; CHUNK];
    let tag = key.seal(&nonce, &AAD, &[7; CHUNK], &mut sealed).expect("seals");
    let mut buf = vec![0; CHUNK];
    group.bench_function("ChunkKey", |b| {
        b.iter(|| {
            buf.copy_from_slice(&sealed);
            key.open_in_place(&nonce, &AAD, &mut buf, &tag).expect("opens")
        })
    });
    let bare = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &[3; 32]).expect("32 bytes"));
    let mut sealed = vec![7; CHUNK];
    bare.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(AAD), &mut sealed).expect("seals");
    let mut buf = vec![0; sealed.len()];
    group.bench_function("bare AEAD", |b| {
        b.iter(|| {
            buf.copy_from_slice(&sealed);
            bare.open_in_place(Nonce::assume_unique_for_key(nonce), Aad::from(AAD), &mut buf).expect("opens").len()
        })
    });
    group.finish();
}

criterion_group!(benches, seal, open);
criterion_main!(benches);
