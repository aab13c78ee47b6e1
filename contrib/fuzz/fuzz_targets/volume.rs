//! A changed `volume.toml`: parsed, shown, unlocked with the key it was made for. Unlocked, it has the keys it had; else it is refused.

#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

use envelopefs::keys::{KeyFile, KeyProvider};
use envelopefs::volume::{NewSlot, Volume};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;

struct Sample {
    _scratch: TempDir,
    backing: PathBuf,
    description: PathBuf,
    valid: Vec<u8>,
    credentials: [Box<dyn KeyProvider>; 1],
}

static SAMPLE: LazyLock<Sample> = LazyLock::new(|| {
    let scratch = tempfile::tempdir_in("/dev/shm").expect("a directory in memory");
    let backing = scratch.path().join("backing");
    std::fs::create_dir(&backing).expect("mkdir");
    let key = KeyFile::create(&scratch.path().join("key")).expect("key file");
    let credentials: [Box<dyn KeyProvider>; 1] = [Box::new(key)];
    Volume::create(&backing, &[NewSlot { label: "fuzzed", provider: &*credentials[0] }]).expect("volume");
    let description = backing.join(".envelopefs/volume.toml");
    let valid = std::fs::read(&description).expect("volume.toml");
    Sample { _scratch: scratch, backing, description, valid, credentials }
});

#[derive(Debug, Arbitrary)]
enum Attack<'a> {
    Raw(&'a [u8]),
    Edited { edits: Vec<(u16, u8)>, cut: Option<u16>, more: &'a [u8] },
}

fuzz_target!(|attack: Attack| {
    let sample = &*SAMPLE;
    let bytes = match attack {
        Attack::Raw(bytes) => bytes.to_vec(),
        Attack::Edited { edits, cut, more } => {
            let mut bytes = sample.valid.clone();
            for (at, mask) in edits {
                let len = bytes.len();
                bytes[usize::from(at) % len] ^= mask;
            }
            bytes.truncate(cut.map_or(usize::MAX, usize::from));
            bytes.extend_from_slice(more);
            bytes
        }
    };
    std::fs::write(&sample.description, &bytes).expect("write volume.toml");
    let Ok(volume) = Volume::open(&sample.backing) else { return };
    let _ = format!("{:?}", volume.description());
    if volume.unlock(&sample.credentials, None).is_ok() {
        assert!(bytes == sample.valid, "a changed description is taken for the volume's own");
    }
});
