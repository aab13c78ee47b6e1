//! A backing file of arbitrary bytes: header and root record are parsed, and nothing opens that no key sealed.

#![no_main]

use std::sync::{Arc, LazyLock};

use envelopefs::file::File;
use envelopefs::keys::KeyRing;
use envelopefs::store::mem::MemFile;
use libfuzzer_sys::fuzz_target;
use uuid::Uuid;

static RING: LazyLock<Arc<KeyRing>> = LazyLock::new(|| Arc::new(KeyRing::generate(Uuid::nil())));

fuzz_target!(|bytes: &[u8]| {
    if let Ok(file) = File::open(MemFile::with_contents(bytes), RING.clone()) {
        assert!(file.is_empty(), "no key sealed this");
        let mut buf = Vec::new();
        assert!(file.read_at(0, 4096, &mut buf).is_ok_and(|range| range.is_empty()));
    }
});
