//! The store on a real directory: what recovery does with records of every kind, and how the journal is used.

use std::ffi::OsStr;
use std::io::{IoSlice, IoSliceMut};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::TempDir;

use super::journal::{Head, segment_start};
use super::record::{Image, Kind, Record, trimmed};
use super::*;

const VOLUME: [u8; 16] = [1; 16];
const ID: [u8; 16] = [9; 16];
const THIS: [u8; 16] = [5; 16];
const OTHER: [u8; 16] = [6; 16];

/// A backing directory with a journal, and files made by hand.
struct Volume(TempDir);

impl Volume {
    fn new() -> Volume {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join(CONTROL_DIR)).unwrap();
        Volume(dir)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn root(&self) -> Arc<dyn BackingDir> {
        open_root(self.0.path()).unwrap()
    }

    fn options(boot: [u8; 16]) -> StoreOptions {
        StoreOptions { journal_len: Some(JOURNAL_MIN), boot, broken_rule: None }
    }

    fn open(&self, boot: [u8; 16]) -> Arc<Store> {
        Store::open(self.root(), VOLUME, Self::options(boot)).unwrap()
    }

    /// A file with an id and a block behind its header.
    fn file(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, contents(ID, b'o')).unwrap();
        path
    }

    fn journal(&self) -> PathBuf {
        self.path(CONTROL_DIR).join("journal")
    }

    /// Leaves these records behind as an unclean stop does, and recovers.
    fn recover(&self, boot: [u8; 16], records: &[Record<'_>]) {
        self.leave(records);
        self.open(boot).end().unwrap();
    }

    fn leave(&self, records: &[Record<'_>]) {
        let store = self.open(THIS);
        for record in records {
            store.journal().append(record).unwrap();
        }
        store.abandon();
    }

    fn attach(&self, store: &Arc<Store>, name: &str) -> BlockFile {
        let raw = self.root().open_file(OsStr::new(name), Access::ReadWrite).unwrap();
        let file = store.attach(raw, false, name.as_bytes()).unwrap();
        file.identify(ID);
        file
    }
}

/// A header-like block with the id in its place, and one block of letters.
fn contents(id: [u8; 16], letter: u8) -> Vec<u8> {
    let mut bytes = vec![b'h'; 4096];
    bytes[16..32].copy_from_slice(&id);
    bytes.extend([letter; 4096]);
    bytes
}

fn ino(path: &Path) -> u64 {
    std::os::unix::fs::MetadataExt::ino(&path.metadata().unwrap())
}

/// A good record that gives block 1 of a file other letters.
fn commit<'a>(ino: u64, hint: &'a [u8], images: Vec<Image<'a>>) -> Record<'a> {
    Record { kind: Kind::Commit, ino, id: ID, through: Record::OWN, len: 8192, mtime: None, hint, images }
}

const NEW: &[u8] = &[b'n'; 4096];

fn new_block<'a>() -> Vec<Image<'a>> {
    vec![Image { block: 1, bytes: NEW }]
}

fn letter(path: &Path) -> char {
    char::from(*std::fs::read(path).unwrap().last().unwrap())
}

#[test]
fn a_good_record_is_replayed_once_and_for_all() {
    let volume = Volume::new();
    let file = volume.file("f");
    volume.recover(OTHER, &[commit(ino(&file), b"f", new_block())]);
    assert_eq!(letter(&file), 'n');
    // The journal is clean now: what is changed since stays.
    std::fs::write(&file, contents(ID, b'l')).unwrap();
    volume.open(OTHER).end().unwrap();
    assert_eq!(letter(&file), 'l');
}

#[test]
fn a_record_without_a_mark_is_good_only_while_its_kernel_runs() {
    for (boot, expected) in [(OTHER, 'o'), (THIS, 'n')] {
        let volume = Volume::new();
        let file = volume.file("f");
        volume.recover(boot, &[Record { through: 0, ..commit(ino(&file), b"f", new_block()) }]);
        assert_eq!(letter(&file), expected);
    }
}

#[test]
fn a_later_marker_makes_earlier_records_of_its_file_good() {
    let volume = Volume::new();
    let file = volume.file("f");
    let first = Record { through: 0, ..commit(ino(&file), b"f", new_block()) };
    let marker = |id| Record { kind: Kind::Marker, id, through: 1, ..commit(ino(&file), b"f", Vec::new()) };
    volume.recover(OTHER, &[first.clone(), marker([3; 16])]);
    assert_eq!(letter(&file), 'o', "another file's marker");
    let volume = Volume::new();
    let file = volume.file("f");
    let first = Record { ino: ino(&file), ..first };
    volume.recover(OTHER, &[first, Record { ino: ino(&file), ..marker(ID) }]);
    assert_eq!(letter(&file), 'n');
}

#[test]
fn a_renamed_file_is_found_and_a_removed_one_passed_over() {
    let volume = Volume::new();
    let file = volume.file("f");
    let gone = volume.file("gone");
    let records = [commit(ino(&file), b"f", new_block()), commit(ino(&gone), b"gone", new_block())];
    std::fs::create_dir(volume.path("d")).unwrap();
    std::fs::rename(&file, volume.path("d/g")).unwrap();
    std::fs::remove_file(&gone).unwrap();
    volume.recover(OTHER, &records);
    assert_eq!(letter(&volume.path("d/g")), 'n');
    assert!(!gone.exists());
}

#[test]
fn a_file_with_another_id_is_left_alone() {
    let volume = Volume::new();
    let file = volume.path("f");
    std::fs::write(&file, contents([8; 16], b'o')).unwrap();
    volume.recover(OTHER, &[commit(ino(&file), b"f", new_block())]);
    assert_eq!(letter(&file), 'o');
    // Nor is an empty one filled, or one without a header, unless it was emptied on the way.
    for start in [Vec::new(), vec![0; 8192]] {
        std::fs::write(&file, &start).unwrap();
        volume.recover(OTHER, &[commit(ino(&file), b"f", new_block())]);
        assert_eq!(std::fs::read(&file).unwrap(), start);
    }
}

#[test]
fn images_before_a_file_was_emptied_are_void() {
    let volume = Volume::new();
    let file = volume.file("f");
    let header = contents(ID, b'n');
    let number = ino(&file);
    let emptied = Record { len: 0, ..commit(number, b"f", Vec::new()) };
    let again = Record { len: 4096, ..commit(number, b"f", vec![Image { block: 0, bytes: &header[..4096] }]) };
    volume.recover(OTHER, &[commit(number, b"f", new_block()), emptied.clone()]);
    assert_eq!(std::fs::read(&file).unwrap(), b"");
    volume.recover(OTHER, &[commit(number, b"f", new_block()), emptied, again]);
    assert_eq!(std::fs::read(&file).unwrap(), header[..4096]);
}

/// What an attacker writes into records must not reach anything outside.
#[test]
fn hostile_paths_lead_nowhere() {
    let outside = tempfile::tempdir().unwrap();
    let victim = outside.path().join("victim");
    std::fs::write(&victim, contents(ID, b'o')).unwrap();
    let volume = Volume::new();
    std::os::unix::fs::symlink(&victim, volume.path("link")).unwrap();
    std::os::unix::fs::symlink(outside.path(), volume.path("dirlink")).unwrap();
    let up = format!("../../../../../../../..{}", victim.display());
    let absolute = victim.display().to_string();
    let long = "d/".repeat(900) + "f";
    for hint in ["link", "dirlink/victim", &up, &absolute, "", "/", ".", "..", ".envelopefs/journal", &long] {
        volume.recover(OTHER, &[commit(ino(&victim), hint.as_bytes(), new_block())]);
        assert_eq!(letter(&victim), 'o', "{hint}");
    }
}

#[test]
fn images_outside_their_file_are_not_written() {
    let volume = Volume::new();
    let file = volume.file("f");
    let images = vec![
        Image { block: 1, bytes: NEW },
        Image { block: 2, bytes: NEW },
        Image { block: i64::MAX as u64 / 4096, bytes: NEW },
    ];
    volume.recover(OTHER, &[commit(ino(&file), b"f", images)]);
    assert_eq!(std::fs::read(&file).unwrap(), contents(ID, b'n'));
}

#[test]
fn torn_foreign_and_old_records_end_the_replay() {
    let volume = Volume::new();
    let file = volume.file("f");
    let good = commit(ino(&file), b"f", new_block());
    let bad = Record { images: vec![Image { block: 1, bytes: &[b'b'; 4096] }], ..good.clone() };
    let at = segment_start(super::journal::segment_len(JOURNAL_MIN), 1) + good.size() as u64;
    let damage: [Damage<'_>; 5] = [
        &|bytes| bytes[4000] ^= 1,
        &|bytes| bytes[512..1024].fill(0),
        &|bytes| bytes[8..12].fill(0xff),
        &|bytes| *bytes = forged(&bad, &[2; 16], 1, 2),
        &|bytes| *bytes = forged(&bad, &VOLUME, 1_000, 2),
    ];
    for (number, damage) in damage.iter().enumerate() {
        std::fs::write(&file, contents(ID, b'o')).unwrap();
        volume.leave(&[good.clone(), bad.clone()]);
        let journal = std::fs::OpenOptions::new().read(true).write(true).open(volume.journal()).unwrap();
        let mut bytes = vec![0; bad.size()];
        journal.read_exact_at(&mut bytes, at).unwrap();
        assert!(bytes.starts_with(b"ENVJREC1"));
        damage(&mut bytes);
        journal.write_all_at(&bytes, at).unwrap();
        volume.open(OTHER).end().unwrap();
        assert_eq!(letter(&file), 'n', "damage {number}");
    }
}

type Damage<'a> = &'a dyn Fn(&mut Vec<u8>);

fn forged(record: &Record<'_>, volume: &[u8; 16], session: u64, seq: u64) -> Vec<u8> {
    let mut bytes = record.encode(volume, session, seq);
    record.images.iter().for_each(|image| bytes.extend_from_slice(trimmed(image.bytes)));
    bytes.resize(record.size(), 0);
    bytes
}

#[test]
fn a_journal_that_cannot_be_trusted_is_refused() {
    let volume = Volume::new();
    volume.open(THIS).end().unwrap();
    let sound = std::fs::read(volume.journal()).unwrap();
    // One head torn: the other serves.
    let mut torn = sound.clone();
    torn[4096..4608].fill(0xaa);
    std::fs::write(volume.journal(), &torn).unwrap();
    volume.open(THIS).end().unwrap();

    torn[..512].fill(0xaa);
    torn[4096..4608].fill(0xaa);
    for bad in [&torn[..], b"", &[0; 8192]] {
        std::fs::write(volume.journal(), bad).unwrap();
        let opened = Store::open(volume.root(), VOLUME, Volume::options(THIS));
        assert!(matches!(opened, Err(StoreError::Foreign(_))), "{opened:?}");
    }
    std::fs::write(volume.journal(), &sound).unwrap();
    let opened = Store::open(volume.root(), [2; 16], Volume::options(THIS));
    assert!(matches!(opened, Err(StoreError::Foreign(_))), "another volume's: {opened:?}");
}

#[test]
fn a_volume_to_be_recovered_is_refused_where_nothing_may_be_written() {
    let volume = Volume::new();
    assert!(Store::require_clean(&*volume.root(), VOLUME).is_ok(), "no journal yet");
    volume.leave(&[]);
    assert!(matches!(Store::require_clean(&*volume.root(), VOLUME), Err(StoreError::NeedsRecovery)));
    volume.open(OTHER).end().unwrap();
    assert!(Store::require_clean(&*volume.root(), VOLUME).is_ok());
}

#[test]
fn a_full_journal_checkpoints_and_its_length_can_be_changed() {
    let volume = Volume::new();
    let file = volume.file("f");
    let store = volume.open(THIS);
    let blocks = volume.attach(&store, "f");
    let letters = || (0..3000u32).map(|n| b'a' + (n % 26) as u8);
    for letter in letters() {
        // Three segments' worth.
        blocks.replace(&mut [IoSlice::new(&[letter; 4096])], 4096).unwrap();
        let ticket = blocks.prepare(false, None).unwrap();
        blocks.finish(ticket).unwrap();
    }
    let last = letters().next_back().map(char::from).unwrap();
    assert_eq!(letter(&file), last);
    drop(blocks);
    store.abandon();
    let options = StoreOptions { journal_len: Some(2 * JOURNAL_MIN), ..Volume::options(OTHER) };
    Store::open(volume.root(), VOLUME, options).unwrap().end().unwrap();
    assert_eq!(letter(&file), last);
    let head = Head::read(
        &*volume
            .root()
            .open_dir(OsStr::new(CONTROL_DIR))
            .unwrap()
            .open_file(OsStr::new("journal"), Access::Read)
            .unwrap(),
    );
    let head = head.unwrap().unwrap();
    assert!(head.clean);
    assert_eq!(volume.journal().metadata().unwrap().len(), head.journal_len());
    assert!(head.journal_len() > JOURNAL_MIN);
}

#[test]
fn an_image_is_read_at_once_and_in_place_only_when_durable() {
    let volume = Volume::new();
    let file = volume.file("f");
    let store = volume.open(THIS);
    let blocks = volume.attach(&store, "f");
    blocks.replace(&mut [IoSlice::new(NEW)], 4096).unwrap();
    blocks.commit(None).unwrap();
    let mut read = [0; 4096];
    assert_eq!(blocks.read(&mut [IoSliceMut::new(&mut read)], 4096).unwrap(), 4096);
    assert_eq!(read, NEW);
    assert_eq!((letter(&file), blocks.is_settled()), ('o', false));
    store.settle().unwrap();
    assert_eq!((letter(&file), blocks.is_settled()), ('n', true));
}

/// Found by fsx: the place of a hole was given back after something else had been written to it.
#[test]
fn a_place_used_again_is_not_given_back() {
    let volume = Volume::new();
    let file = volume.file("f");
    let store = volume.open(THIS);
    let blocks = volume.attach(&store, "f");
    // The commit that makes a hole of block 1, and then one that uses it again.
    blocks.replace(&mut [IoSlice::new(&contents(ID, b'x')[..4096])], 0).unwrap();
    blocks.commit(None).unwrap();
    blocks.punch_hole(4096, 4096).unwrap();
    blocks.write_fresh(&mut [IoSlice::new(NEW)], 4096).unwrap();
    blocks.commit(None).unwrap();
    store.settle().unwrap();
    assert_eq!(letter(&file), 'n');
}

/// Found by the fault tests: the next user saw half of what a failed commit had left.
#[test]
fn what_no_commit_took_is_gone_with_its_user() {
    let volume = Volume::new();
    volume.file("f");
    let store = volume.open(THIS);
    let blocks = volume.attach(&store, "f");
    blocks.replace(&mut [IoSlice::new(NEW)], 4096).unwrap();
    drop(blocks);
    let blocks = volume.attach(&store, "f");
    let mut read = [0; 4096];
    blocks.read(&mut [IoSliceMut::new(&mut read)], 4096).unwrap();
    assert_eq!(read, [b'o'; 4096]);
}

/// Found by the model: a read that ended early on disk left the images in the wrong place.
#[test]
fn an_image_behind_the_end_on_disk_is_read_where_it_belongs() {
    let volume = Volume::new();
    volume.file("f");
    let store = volume.open(THIS);
    let blocks = volume.attach(&store, "f");
    blocks.replace(&mut [IoSlice::new(NEW), IoSlice::new(&[b'm'; 100])], 4096).unwrap();
    let (mut first, mut second) = ([0; 5000], [0; 5000]);
    let mut bufs = [IoSliceMut::new(&mut first), IoSliceMut::new(&mut second)];
    assert_eq!(blocks.read(&mut bufs, 0).unwrap(), 8292);
    assert_eq!((&first[4096..], &second[..3192]), (&NEW[..904], &NEW[904..]));
    assert_eq!(second[3192..3292], [b'm'; 100]);
}

/// Found by the kill tests: a file was emptied while images of it were live, written again after a checkpoint had taken those away, so that its next
/// commit was of a length alone, and emptied and written once more. That length was then replayed over the last contents.
#[test]
fn a_length_alone_in_the_journal_is_void_once_the_file_is_emptied() {
    let volume = Volume::new();
    let file = volume.file("f");
    let store = volume.open(THIS);
    let blocks = volume.attach(&store, "f");
    blocks.replace(&mut [IoSlice::new(NEW)], 4096).unwrap();
    blocks.commit(None).unwrap();
    blocks.set_len(0).unwrap();
    checkpoint(&store);
    let write = |letter| {
        blocks.write_fresh(&mut [IoSlice::new(&[letter; 4096])], 4096).unwrap();
        blocks.write_fresh(&mut [IoSlice::new(&contents(ID, letter)[..4096])], 0).unwrap();
    };
    write(b'1');
    blocks.commit(None).unwrap();
    blocks.set_len(0).unwrap();
    write(b'2');
    blocks.write_fresh(&mut [IoSlice::new(&[b'2'; 4096])], 8192).unwrap();
    blocks.commit(None).unwrap();
    store.abandon();
    volume.open(THIS).end().unwrap();
    let expected = [contents(ID, b'2'), vec![b'2'; 4096]].concat();
    assert!(std::fs::read(&file).unwrap() == expected);
}

/// The record that says "emptied" is itself one of a length: it must not come over what was written since.
#[test]
fn a_file_emptied_twice_keeps_what_came_after() {
    let volume = Volume::new();
    let file = volume.file("f");
    let store = volume.open(THIS);
    let blocks = volume.attach(&store, "f");
    blocks.replace(&mut [IoSlice::new(NEW)], 4096).unwrap();
    blocks.commit(None).unwrap();
    // The images in one segment, the record that voids them in the next one, which outlives them.
    fill_segment(&store);
    blocks.set_len(0).unwrap();
    let lap = store.journal().full_lap().unwrap();
    store.checkpoint(lap).unwrap();
    blocks.set_len(0).unwrap();
    blocks.write_fresh(&mut [IoSlice::new(&contents(ID, b'2'))], 0).unwrap();
    blocks.commit(None).unwrap();
    store.abandon();
    volume.open(THIS).end().unwrap();
    assert!(std::fs::read(&file).unwrap() == contents(ID, b'2'));
}

/// A checkpoint of a segment must not give up images that could not be put in place.
#[test]
fn a_segment_is_kept_while_the_backing_filesystem_does_not_take_its_images() {
    let volume = Volume::new();
    let file = volume.file("f");
    let store = volume.open(THIS);
    let blocks = volume.attach(&store, "f");
    blocks.replace(&mut [IoSlice::new(NEW)], 4096).unwrap();
    blocks.commit(None).unwrap();
    // A descriptor that takes no writes.
    blocks.reopened(volume.root().open_file(OsStr::new("f"), Access::Read).unwrap());
    fill_segment(&store);
    let lap = store.journal().full_lap().unwrap();
    assert_eq!(store.checkpoint(lap).unwrap_err().kind(), std::io::ErrorKind::StorageFull);
    drop(blocks);
    store.abandon();
    volume.open(OTHER).end().unwrap();
    assert_eq!(letter(&file), 'n');
}

/// Markers until a segment is full and the next one begun.
fn fill_segment(store: &Store) {
    let marker = Record { kind: Kind::Marker, through: 0, ..commit(1, b"", Vec::new()) };
    while store.journal().full_lap().is_none() {
        store.journal().append(&marker).unwrap();
    }
}

fn checkpoint(store: &Store) {
    fill_segment(store);
    store.checkpoint(store.journal().full_lap().unwrap()).unwrap();
}
