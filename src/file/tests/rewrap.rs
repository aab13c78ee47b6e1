//! Rotation of one file: its DEK under another master key, and nothing else of it changed.

use super::*;
use crate::crypto::secret::Secret;
use crate::keys::Handover;
use crate::store::Durability;

fn rewrapped(raw: &MemFile, ring: &KeyRing, write: bool) -> Result<Wrapping, FileError> {
    rewrap(raw, &raw.stat().unwrap(), ring, write)
}

/// A ring, and what is needed to put further master keys in force.
struct Volume {
    ring: Arc<KeyRing>,
    volume_key: Secret<32>,
    masters: Vec<Secret<32>>,
}

impl Volume {
    fn new() -> Volume {
        let (volume_key, master) = (Secret::random(), Secret::random());
        let ring = Arc::new(KeyRing::new(Uuid::from_bytes([7; 16]), &volume_key, &master, &[]));
        Volume { ring, volume_key, masters: vec![master] }
    }

    fn rotate(&mut self) {
        let master = Secret::random();
        self.ring.adopt(&Handover::new(self.ring.volume(), &self.volume_key, &master)).unwrap();
        self.masters.push(master);
    }

    /// A ring with the newest master keys only.
    fn newest(&self, count: usize) -> Arc<KeyRing> {
        let newest: Vec<_> = self.masters.iter().rev().take(count).collect();
        Arc::new(KeyRing::new(self.ring.volume(), &self.volume_key, newest[0], &newest[1..]))
    }

    fn open(&self, raw: &Arc<MemFile>) -> File {
        File::open(raw.clone(), self.ring.clone()).unwrap()
    }

    fn make(&self, len: usize) -> Arc<MemFile> {
        let raw = MemFile::new();
        let file = self.open(&raw);
        file.write_at(0, &pattern(1, len)).unwrap();
        file.commit(Durability::Full).unwrap();
        raw
    }
}

fn contents(raw: &Arc<MemFile>, ring: Arc<KeyRing>, len: usize) -> Result<Vec<u8>, FileError> {
    read(&File::open(raw.clone() as Arc<dyn BackingFile>, ring)?, 0, len)
}

#[test]
fn a_closed_file_is_rewrapped_time_and_again_and_keeps_its_contents_and_mtime() {
    for len in [1, 100, 3812, 5000, 700_000] {
        let mut volume = Volume::new();
        let raw = volume.make(len);
        let before = raw.bytes(0, raw.len() as usize);
        for round in 0..4 {
            let old = volume.ring.active();
            volume.rotate();
            let mtime = raw.stat().unwrap().mtime;
            assert_eq!(rewrapped(&raw, &volume.ring, false).unwrap(), Wrapping::Under(old), "only looked at");
            assert_eq!(rewrapped(&raw, &volume.ring, true).unwrap(), Wrapping::Rewrapped(old));
            assert_eq!(rewrapped(&raw, &volume.ring, true).unwrap(), Wrapping::Under(volume.ring.active()));
            assert_eq!(raw.stat().unwrap().mtime, mtime);
            assert_eq!(contents(&raw, volume.newest(1), len).unwrap(), pattern(1, len), "{len}, round {round}");
            assert!(findings(&volume.open(&raw)).is_empty());
            // Nothing but one place is another.
            let after = raw.bytes(0, raw.len() as usize);
            assert!(before[..32] == after[..32] && before[184..] == after[184..]);
        }
    }
}

#[test]
fn an_open_file_is_rewrapped_with_its_next_commit_or_on_request() {
    for len in [100, 70_000] {
        let mut volume = Volume::new();
        let raw = volume.make(len);
        let file = volume.open(&raw);
        volume.rotate();
        file.write_at(0, b"new").unwrap();
        file.commit(Durability::Data).unwrap();
        assert_eq!(file.rewrap(true).unwrap(), Wrapping::Under(volume.ring.active()));
        assert_eq!(&contents(&raw, volume.newest(1), len).unwrap()[..4], [b"new", &pattern(1, 4)[3..]].concat());

        let old = volume.ring.active();
        volume.rotate();
        assert_eq!(file.rewrap(false).unwrap(), Wrapping::Under(old));
        assert_eq!(file.rewrap(true).unwrap(), Wrapping::Rewrapped(old));
        assert_eq!(&contents(&raw, volume.newest(1), len).unwrap()[..3], b"new");
    }
}

#[test]
fn what_has_no_header_needs_no_key() {
    let mut volume = Volume::new();
    let (empty, zeros) = (MemFile::new(), MemFile::with_contents(&[0; 8192]));
    let file = volume.open(&empty);
    volume.rotate();
    assert_eq!(rewrapped(&empty, &volume.ring, true).unwrap(), Wrapping::None);
    assert_eq!(rewrapped(&zeros, &volume.ring, true).unwrap(), Wrapping::None);
    assert_eq!(file.rewrap(true).unwrap(), Wrapping::None);
    assert_eq!((empty.len(), zeros.len()), (0, 8192));
    file.write_at(0, b"later").unwrap();
    file.commit(Durability::Written).unwrap();
    assert_eq!(contents(&empty, volume.newest(1), 5).unwrap(), b"later");
}

/// A place that was cut off in the middle, or tampered with, takes nothing along.
#[test]
fn a_damaged_place_leaves_the_other_one_to_serve_and_is_replaced() {
    let mut volume = Volume::new();
    let raw = volume.make(5000);
    let old = volume.ring.active();
    volume.rotate();
    rewrapped(&raw, &volume.ring, true).unwrap();
    for at in 108..184 {
        let torn = raw.copy();
        torn.overwrite(at, &vec![0; 184 - at as usize]);
        torn.flip(108, if at == 108 { 0x40 } else { 0 });
        assert_eq!(contents(&torn, volume.ring.clone(), 5000).unwrap(), pattern(1, 5000), "torn at {at}");
        assert_eq!(rewrapped(&torn, &volume.ring, true).unwrap(), Wrapping::Rewrapped(old), "torn at {at}");
        assert_eq!(contents(&torn, volume.newest(1), 5000).unwrap(), pattern(1, 5000), "torn at {at}");
    }
    // Through an open file as well.
    let torn = raw.copy();
    torn.flip(150, 1);
    let file = volume.open(&torn);
    assert_eq!(file.rewrap(true).unwrap(), Wrapping::Rewrapped(old));
    drop(file);
    assert_eq!(contents(&torn, volume.newest(1), 5000).unwrap(), pattern(1, 5000));
}

#[test]
fn what_no_key_opens_is_told_from_what_is_no_header() {
    let volume = Volume::new();
    let raw = volume.make(100);
    let before = raw.bytes(0, raw.len() as usize);
    let mut stranger = Volume::new();
    stranger.rotate();
    assert!(matches!(rewrapped(&raw, &stranger.ring, true), Err(FileError::NoKey)));
    for at in [0, 8, 10, 16, 33, 60, 107] {
        let damaged = raw.copy();
        damaged.flip(at, 1);
        let outcome = rewrapped(&damaged, &volume.ring, true);
        // With its id changed, a place is another master key's.
        let expected = if at == 33 {
            matches!(outcome, Err(FileError::NoKey))
        } else {
            matches!(outcome, Err(FileError::Damaged(_)))
        };
        assert!(expected, "byte {at}: {outcome:?}");
    }
    for len in 1..184 {
        let cut = MemFile::with_contents(&before[..len]);
        assert!(matches!(rewrapped(&cut, &volume.ring, true), Err(FileError::Damaged(_))), "{len} bytes");
    }
    assert_eq!(raw.bytes(0, raw.len() as usize), before);
}

#[test]
fn a_destroyed_master_key_in_the_other_place_is_no_damage() {
    let mut volume = Volume::new();
    let raw = volume.make(5000);
    let old = volume.ring.active();
    volume.rotate();
    rewrapped(&raw, &volume.ring, true).unwrap();
    let file = File::open(raw.clone(), volume.newest(1)).unwrap();
    assert_eq!(findings(&file).len(), 1, "nobody has told of the old one");
    let ring = volume.newest(1);
    ring.learn([volume.newest(2).active(), old]);
    assert!(findings(&File::open(raw.clone(), ring).unwrap()).is_empty());
    // While a place of a key that is there must verify.
    raw.flip(160, 1);
    let file = File::open(raw.clone(), volume.newest(2)).unwrap();
    assert_eq!(findings(&file), [Damage::Header("wrapped-DEK place 1 fails authentication")]);
}

#[test]
fn a_header_that_cannot_be_written_stays_as_it_was() {
    use crate::store::mem::Faults;
    let mut volume = Volume::new();
    let raw = volume.make(5000);
    let file = volume.open(&raw);
    volume.rotate();
    let before = raw.bytes(0, raw.len() as usize);
    raw.set_faults(Faults { after: Some(0), errno: libc::ENOSPC, ..Faults::default() });
    assert!(matches!(rewrapped(&raw, &volume.ring, true), Err(FileError::Io(_))));
    assert!(matches!(file.rewrap(true), Err(FileError::Io(_))));
    raw.set_faults(Faults::default());
    assert_eq!(raw.bytes(0, raw.len() as usize), before);
    assert!(matches!(file.rewrap(true), Ok(Wrapping::Rewrapped(_))));
    assert_eq!(contents(&raw, volume.newest(1), 5000).unwrap(), pattern(1, 5000));
}
