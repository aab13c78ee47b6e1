//! Valid files of every form with some bytes changed, cut or extended: header, tree nodes and chunks are parsed behind tags that may
//! still be right, and every read gives the bytes written or an error.

#![no_main]

use std::sync::{Arc, LazyLock};

use envelopefs::file::{BLOCK, File};
use envelopefs::keys::KeyRing;
use envelopefs::store::Durability;
use envelopefs::store::mem::MemFile;
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use uuid::Uuid;

/// A backing file, and what it holds: data at offsets, zeros elsewhere.
struct Sample {
    raw: Arc<MemFile>,
    size: u64,
    data: Vec<(u64, Vec<u8>)>,
}

struct Samples {
    ring: Arc<KeyRing>,
    all: Vec<Sample>,
}

static SAMPLES: LazyLock<Samples> = LazyLock::new(|| {
    let ring = Arc::new(KeyRing::generate(Uuid::nil()));
    let noise = |seed: u64, len: u64| -> Vec<u8> {
        (0..len).map(|i| ((i ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
    };
    // Inline; one chunk; one leaf; two levels; three levels with holes between.
    let forms: [&[(u64, u64)]; 5] = [
        &[(0, 100)],
        &[(0, 5_000)],
        &[(0, 300_000)],
        &[(0, 9_000), (1_500_000, 70_000)],
        &[(0, 4_096), (1 << 33, 20_000), ((1 << 34) - 5_000, 5_000)],
    ];
    let all = forms.iter().enumerate().map(|(n, extents)| {
        let raw = MemFile::new();
        let file = File::open(raw.clone(), ring.clone()).expect("an empty file");
        let data: Vec<_> = extents.iter().map(|&(at, len)| (at, noise(n as u64 + at, len))).collect();
        for (at, bytes) in &data {
            file.write_at(*at, bytes).expect("memory takes all");
        }
        file.commit(Durability::Written).expect("memory takes all");
        Sample { raw, size: file.len(), data }
    });
    Samples { all: all.collect(), ring: ring.clone() }
});

#[derive(Debug, Arbitrary)]
struct Attack {
    form: u8,
    edits: Vec<Edit>,
    /// The new length, as a part of the old one's double; `None` leaves it.
    len: Option<u16>,
}

#[derive(Debug, Arbitrary)]
enum Edit {
    Flip { block: u16, byte: u16, mask: u8 },
    Copy { from: u16, to: u16 },
    Zero { block: u16 },
}

fuzz_target!(|attack: Attack| {
    let samples = &*SAMPLES;
    let Some(sample) = samples.all.get(usize::from(attack.form) % samples.all.len()) else { return };
    let raw = sample.raw.copy();
    // Only blocks that hold something: the tallest file has many TiB of holes.
    let blocks = raw.stored_pages();
    let block = |n: u16| blocks[usize::from(n) % blocks.len()];
    for edit in attack.edits.iter().take(64) {
        match *edit {
            Edit::Flip { block: n, byte, mask } => {
                raw.flip((block(n) + u64::from(byte) % BLOCK as u64).min(raw.len() - 1), mask)
            }
            Edit::Copy { from, to } => raw.overwrite(block(to), &raw.bytes(block(from), BLOCK)),
            Edit::Zero { block: n } => raw.overwrite(block(n), &[0; BLOCK]),
        }
    }
    if let Some(len) = attack.len {
        raw.force_len((u128::from(raw.len()) * 2 * u128::from(len) / u128::from(u16::MAX)) as u64);
    }
    let Ok(file) = File::open(raw.clone(), samples.ring.clone()) else { return };
    // No bytes at all are an empty file, and so are bytes that no commit ever referred to: rollback to before the first one.
    assert!(file.len() == sample.size || file.is_empty(), "{} bytes of {}", file.len(), sample.size);
    let mut buf = Vec::new();
    for (at, bytes) in sample.data.iter().filter(|_| !file.is_empty()) {
        for (n, piece) in bytes.chunks(50_000).enumerate() {
            if let Ok(range) = file.read_at(at + n as u64 * 50_000, piece.len(), &mut buf) {
                assert!(buf[range] == *piece, "wrong bytes");
            }
        }
    }
    for hole in [1 << 20, 1 << 30, (1 << 34) - 50_000] {
        let inside = sample.data.iter().any(|(at, bytes)| hole < at + bytes.len() as u64 && *at < hole + 4096);
        if !inside && let Ok(range) = file.read_at(hole, 4096, &mut buf) {
            assert!(buf[range].iter().all(|byte| *byte == 0), "a hole reads as something");
        }
    }
    let _ = file.verify(&mut |_| (), &mut |_| ());
});
