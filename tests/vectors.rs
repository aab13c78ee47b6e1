//! Backing files that must stay readable for ever, and a second reader of the format, written from its document alone.
//!
//! The files under `tests/vectors/` are never made anew: [`make_missing_vectors`] writes what is not there, for a new version of the
//! format. Their keys are public and protect nothing.

use std::path::PathBuf;
use std::sync::Arc;

use aes_gcm::aead::{AeadInOut, KeyInit};
use envelopefs::crypto::secret::Secret;
use envelopefs::file::{File, FileOptions, NodeCache, stored_len};
use envelopefs::keys::{FileId, KeyId, KeyRing, WrappedDek};
use envelopefs::store::mem::MemFile;
use envelopefs::store::{BlockFile, Durability};
use hkdf::Hkdf;
use sha2::Sha256;
use uuid::Uuid;

const VOLUME: [u8; 16] = [0x11; 16];
const VOLUME_KEY: u8 = 0x22;
const MASTER: u8 = 0x33;
const OLDER_MASTER: u8 = 0x44;

fn secret(byte: u8) -> Secret<32> {
    Secret::fill_with(|key| key.fill(byte))
}

fn ring(active: u8, older: &[u8]) -> Arc<KeyRing> {
    let older: Vec<Secret<32>> = older.iter().copied().map(secret).collect();
    Arc::new(KeyRing::new(
        Uuid::from_bytes(VOLUME),
        &secret(VOLUME_KEY),
        &secret(active),
        &older.iter().collect::<Vec<_>>(),
    ))
}

/// The contents of a vector: its size and the ranges that are not holes.
struct Vector {
    name: &'static str,
    size: u64,
    data: &'static [(u64, usize)],
    epoch_limit: u64,
    /// Wrapped under the older master key in place 0 and under the newer one in place 1.
    rewrapped: bool,
}

const VECTORS: &[Vector] = &[
    Vector { name: "v1-inline", size: 100, data: &[(0, 100)], epoch_limit: 1 << 31, rewrapped: false },
    Vector { name: "v1-inline-full", size: 3812, data: &[(0, 3812)], epoch_limit: 1 << 31, rewrapped: false },
    Vector { name: "v1-leaf", size: 10_000, data: &[(0, 10_000)], epoch_limit: 1 << 31, rewrapped: true },
    Vector {
        name: "v1-two-levels",
        size: 540_001,
        data: &[(0, 5000), (520_000, 8000), (539_000, 1001)],
        epoch_limit: 2,
        rewrapped: false,
    },
];

/// Byte `n` of every vector, where it is not a hole.
fn byte(n: u64) -> u8 {
    (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

impl Vector {
    fn path(&self) -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vectors").join(format!("{}.bin", self.name))
    }

    fn stored(&self) -> Vec<u8> {
        std::fs::read(self.path()).unwrap_or_else(|error| panic!("{}: {error}", self.name))
    }

    fn plain(&self) -> Vec<u8> {
        let mut plain = vec![0; self.size as usize];
        for &(offset, len) in self.data {
            for (n, out) in (offset..).zip(&mut plain[offset as usize..][..len]) {
                *out = byte(n);
            }
        }
        plain
    }
}

#[test]
fn every_vector_reads_as_it_was_written() {
    for vector in VECTORS {
        let stored = vector.stored();
        assert_eq!(stored.len() as u64, stored_len(vector.size), "{}", vector.name);
        let rings = match vector.rewrapped {
            true => vec![ring(MASTER, &[]), ring(OLDER_MASTER, &[]), ring(MASTER, &[OLDER_MASTER])],
            false => vec![ring(MASTER, &[])],
        };
        for ring in rings {
            let file = File::open(MemFile::with_contents(&stored), ring).expect(vector.name);
            let mut buf = Vec::new();
            let range = file.read_at(0, 1 << 20, &mut buf).expect(vector.name);
            assert!(buf[range] == vector.plain(), "{}", vector.name);
        }
        let file = File::open(MemFile::with_contents(&stored), ring(MASTER, &[OLDER_MASTER])).expect(vector.name);
        let mut findings = Vec::new();
        file.verify(&mut |damage| findings.push(damage), &mut |_| {}).expect(vector.name);
        assert_eq!(findings, [], "{}", vector.name);
    }
}

#[test]
fn the_document_suffices_to_read_every_vector() {
    for vector in VECTORS {
        let master = if vector.rewrapped { OLDER_MASTER } else { MASTER };
        assert!(Reader::open(&vector.stored(), &[master; 32]).read_all() == vector.plain(), "{}", vector.name);
    }
}

/// Writes the vectors that are missing.
#[test]
#[ignore = "for a new version of the format only"]
fn make_missing_vectors() {
    for vector in VECTORS.iter().filter(|vector| !vector.path().exists()) {
        let raw = MemFile::new();
        let first = ring(if vector.rewrapped { OLDER_MASTER } else { MASTER }, &[]);
        let options = FileOptions { cache: NodeCache::new(1 << 20), epoch_limit: vector.epoch_limit };
        let file = File::open_with(BlockFile::direct(raw.clone()).expect("stats"), Arc::clone(&first), options)
            .expect("opens");
        file.set_len(vector.size).expect("extends");
        let plain = vector.plain();
        for &(offset, len) in vector.data {
            file.write_at(offset, &plain[offset as usize..][..len]).expect("writes");
        }
        file.commit(Durability::Written).expect("commits");
        let mut stored = raw.bytes(0, raw.len() as usize);
        if vector.rewrapped {
            let id = FileId(stored[16..32].try_into().expect("16 bytes"));
            let array = |from: usize, to: usize| stored[from..to].to_vec();
            let mut dek = first.wrap_dek(&id, &secret(0));
            dek.key_id = KeyId(array(32, 48).try_into().expect("16 bytes"));
            dek.wrapped.nonce = array(48, 60).try_into().expect("12 bytes");
            dek.wrapped.sealed = array(60, 92).try_into().expect("32 bytes");
            dek.wrapped.tag = array(92, 108).try_into().expect("16 bytes");
            let dek = first.unwrap_dek(&id, &dek).expect("unwraps");
            let WrappedDek { key_id, wrapped } = ring(MASTER, &[]).wrap_dek(&id, &dek);
            stored[108..184].copy_from_slice(&[&key_id.0[..], &wrapped.nonce, &wrapped.sealed, &wrapped.tag].concat());
        }
        std::fs::write(vector.path(), stored).expect("writes");
    }
}

/// Reads a whole backing file, by section 2 and 3 of the document and with another AEAD implementation. Panics on anything unexpected.
struct Reader<'a> {
    stored: &'a [u8],
    file_id: [u8; 16],
    dek: Vec<u8>,
    size: u64,
    height: u8,
    root: Vec<u8>,
    inline: Vec<u8>,
}

fn hkdf<const N: usize>(key: &[u8], salt: &[u8], info: &[u8]) -> [u8; N] {
    let mut out = [0; N];
    Hkdf::<Sha256>::new(Some(salt), key).expand(info, &mut out).expect("a short output");
    out
}

fn decrypt(key: &[u8; 32], nonce: &[u8], tag: &[u8], associated: &[u8], text: &[u8]) -> Vec<u8> {
    let mut text = text.to_vec();
    let nonce: [u8; 12] = nonce.try_into().expect("12 bytes");
    let tag: [u8; 16] = tag.try_into().expect("16 bytes");
    aes_gcm::Aes256Gcm::new(key.into())
        .decrypt_inout_detached(&nonce.into(), associated, text.as_mut_slice().into(), &tag.into())
        .expect("authentic");
    text
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

impl<'a> Reader<'a> {
    fn open(stored: &'a [u8], master: &[u8; 32]) -> Self {
        assert_eq!(stored[..12], *b"ENVFS\0\r\n\x01\0\0\0");
        let file_id: [u8; 16] = stored[16..32].try_into().expect("16 bytes");
        let key_id: [u8; 16] = hkdf(master, &VOLUME, b"envelopefs/v1/key-id");
        assert_eq!(stored[32..48], key_id);
        let wrapping: [u8; 32] = hkdf(master, &VOLUME, b"envelopefs/v1/dek-wrap");
        let associated = [&b"envelopefs dek v1"[..], &VOLUME, &file_id, &key_id].concat();
        let dek = decrypt(&wrapping, &stored[48..60], &stored[92..108], &associated, &stored[60..92]);
        let mut reader = Reader { stored, file_id, dek, size: 0, height: 0, root: Vec::new(), inline: Vec::new() };
        let key = reader.key(&stored[12..16]);
        let end = if stored.len() <= 4096 { stored.len() } else { 284 };
        let associated = [&stored[..32], &VOLUME].concat();
        let record = decrypt(&key, &stored[184..196], &stored[196..212], &associated, &stored[212..end]);
        reader.size = number(&record[..8]);
        reader.height = record[24];
        reader.root = record[32..64].to_vec();
        reader.inline = record[72..].to_vec();
        reader
    }

    fn key(&self, epoch: &[u8]) -> [u8; 32] {
        hkdf(&self.dek, &self.file_id, &[b"envelopefs/v1/file", epoch].concat())
    }

    fn read_all(&self) -> Vec<u8> {
        if self.height == 0 {
            return self.inline.clone();
        }
        let mut plain = vec![0; self.size as usize];
        self.node(self.height, 0, &self.root, &mut plain);
        plain
    }

    /// Opens what an entry describes.
    fn block(&self, entry: &[u8], kind: u8, level: u8, index: u64, block: u64, len: usize) -> Vec<u8> {
        let mut associated = vec![kind, level, 1, 0, 0, 0, 0, 0];
        associated.extend_from_slice(&index.to_le_bytes());
        let text = &self.stored[block as usize * 4096..][..len];
        decrypt(&self.key(&entry[28..]), &entry[..12], &entry[12..28], &associated, text)
    }

    fn node(&self, level: u8, index: u64, entry: &[u8], plain: &mut [u8]) {
        if entry.iter().all(|byte| *byte == 0) {
            return;
        }
        let node = self.block(entry, 2, level, index, node_block(level, index), 4096);
        for (n, entry) in (index * 128..).zip(node.chunks(32)) {
            if level > 1 {
                self.node(level - 1, n, entry, plain);
            } else if entry.iter().any(|byte| *byte != 0) {
                let out = plain[n as usize * 4096..].chunks_mut(4096).next().expect("not behind the end");
                out.copy_from_slice(&self.block(entry, 1, 0, n, chunk_block(n), out.len()));
            }
        }
    }
}

/// `1 + k + nodes(g)`.
fn chunk_block(k: u64) -> u64 {
    let g = k / 128;
    let upper: u64 = (2..9).filter(|n| g >= 128u64.pow(n - 2)).map(|n| 1 + g / 128u64.pow(n - 1)).sum();
    1 + k + (g + 1) + upper
}

/// Before its group, the leaf last.
fn node_block(level: u8, index: u64) -> u64 {
    let group = match (level, index) {
        (1, _) => index,
        (_, 0) => 128u64.pow(u32::from(level) - 2),
        _ => index * 128u64.pow(u32::from(level) - 1),
    };
    chunk_block(group * 128) - u64::from(level)
}
