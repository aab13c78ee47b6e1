//! Rotation of a whole volume, with others at work on it.

use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::hooked::Hooked;
use super::*;
use crate::crypto::secret::Secret;
use crate::fs::rewrap::{Counts, HeaderWalk, Task};
use crate::keys::{Handover, KeyId};

/// A backing directory whose master key can be rotated.
struct Volume {
    scratch: Scratch,
    volume_key: Secret<32>,
    newest: Secret<32>,
}

impl Volume {
    fn new() -> Volume {
        let (volume_key, newest) = (Secret::random(), Secret::random());
        let mut scratch = Scratch::new();
        scratch.ring = Arc::new(KeyRing::new(Uuid::new_v4(), &volume_key, &newest, &[]));
        Volume { scratch, volume_key, newest }
    }

    /// Puts a new master key in force and returns the id of the one before.
    fn rotate(&mut self) -> KeyId {
        let old = self.scratch.ring.active();
        self.newest = Secret::random();
        let handover = Handover::new(self.scratch.ring.volume(), &self.volume_key, &self.newest);
        self.scratch.ring.adopt(&handover).unwrap();
        old
    }

    /// Goes on with the newest master key alone.
    fn forget_old(&mut self) {
        self.scratch.ring = Arc::new(KeyRing::new(self.scratch.ring.volume(), &self.volume_key, &self.newest, &[]));
    }
}

fn rewrap(fs: &Fs) -> HeaderWalk {
    let walk = HeaderWalk::new(Task::Rewrap, 0);
    fs.walk_headers(&walk, 2).unwrap();
    walk
}

/// A tree of `dirs` directories with `files` files each.
fn plant(fs: &Fs, dirs: usize, files: usize) {
    for dir in 0..dirs {
        let parent = fs.mkdir(&ROOT, Ino::ROOT, os(&format!("d{dir}")), 0o755, 0).unwrap().attr.ino;
        for file in 0..files {
            let contents = vec![dir as u8; [0, 50, 3000, 9000][file % 4]];
            write_file(fs, parent, os(&format!("f{file}")), &contents);
        }
    }
}

fn assert_planted(fs: &Fs, dirs: usize, files: usize) {
    for dir in 0..dirs {
        let parent = fs.lookup(Ino::ROOT, os(&format!("d{dir}"))).unwrap().attr.ino;
        for file in 0..files {
            let contents = read_file(fs, parent, os(&format!("f{file}"))).unwrap();
            assert_eq!(contents, vec![dir as u8; [0, 50, 3000, 9000][file % 4]], "d{dir}/f{file}");
        }
    }
}

#[test]
fn after_a_rotation_the_new_master_key_alone_opens_everything() {
    let mut volume = Volume::new();
    let fs = volume.scratch.mount();
    plant(&fs, 5, 40);
    let original = fs.lookup(Ino::ROOT, os("d0")).unwrap().attr.ino;
    let linked = fs.lookup(original, os("f1")).unwrap().attr.ino;
    fs.link(linked, Ino::ROOT, os("second name")).unwrap();
    fs.symlink(&ROOT, Ino::ROOT, os("link"), os("d0/f1")).unwrap();
    // One open and dirty, one open for reading, one closed and not yet settled.
    let dirty = fs.open(&ROOT, linked, WRITE).unwrap();
    fs.write(dirty, 0, b"changed", WriteHow::default()).unwrap();
    let reading = fs.lookup(original, os("f2")).unwrap().attr.ino;
    let reading = fs.open(&ROOT, reading, OpenHow::default()).unwrap();
    let lingering = fs.lookup(original, os("f3")).unwrap().attr.ino;
    let handle = fs.open(&ROOT, lingering, WRITE).unwrap();
    fs.write(handle, 8000, b"lingers", WriteHow::default()).unwrap();
    fs.release(handle).unwrap();

    let old = volume.rotate();
    let count = HeaderWalk::new(Task::Count, 0);
    fs.walk_headers(&count, 2).unwrap();
    assert_eq!(count.by_key().get(&old), Some(&151), "149 once, one with two names");
    let walk = rewrap(&fs);
    let counts = walk.counts();
    assert_eq!((counts.failed, counts.empty, counts.files), (0, 50, 201), "{:?}", walk.failures());
    assert_eq!(walk.by_key().keys().collect::<Vec<_>>(), [&volume.scratch.ring.active()]);
    assert!(counts.rewrapped >= 149);
    assert_eq!(rewrap(&fs).counts().rewrapped, 0);

    fs.write(dirty, 7, b"!", WriteHow::default()).unwrap();
    fs.release(dirty).unwrap();
    let mut buf = Vec::new();
    let range = fs.read(reading, 0, 10, &mut buf).unwrap();
    assert_eq!(buf[range], [0; 10]);
    fs.release(reading).unwrap();
    fs.shut_down().unwrap();
    drop(fs);
    volume.forget_old();
    let fs = volume.scratch.mount();
    let original = fs.lookup(Ino::ROOT, os("d0")).unwrap().attr.ino;
    assert_eq!(&read_file(&fs, Ino::ROOT, os("second name")).unwrap()[..8], b"changed!");
    assert_eq!(&read_file(&fs, original, os("f3")).unwrap()[8000..8007], b"lingers");
    for file in ["f1", "f3"] {
        fs.unlink(original, os(file)).unwrap();
    }
    write_file(&fs, original, os("f1"), &[0; 50]);
    write_file(&fs, original, os("f3"), &[0; 9000]);
    assert_planted(&fs, 5, 40);
}

/// The claim "no header needs the old master key" is made when a walk ends: no crash afterwards may bring a header back that does.
#[test]
fn a_crash_after_a_rotation_brings_no_old_header_back() {
    for boot in [[1; 16], [2; 16]] {
        let mut volume = Volume::new();
        let options = |boot| FsOptions {
            read_only: false,
            give_to_caller: rustix::process::geteuid().is_root(),
            store: StoreOptions { boot, ..StoreOptions::of_this_kernel() },
        };
        let fs =
            Fs::new(open_root(volume.scratch.path()).unwrap(), volume.scratch.ring.clone(), options([1; 16])).unwrap();
        plant(&fs, 2, 12);
        // Headers with images in the journal.
        for dir in 0..2 {
            let parent = fs.lookup(Ino::ROOT, os(&format!("d{dir}"))).unwrap().attr.ino;
            for file in 0..12 {
                let ino = fs.lookup(parent, os(&format!("f{file}"))).unwrap().attr.ino;
                let handle = fs.open(&ROOT, ino, WRITE).unwrap();
                let len = [0, 50, 3000, 9000][file % 4];
                fs.write(handle, 0, &vec![dir as u8; len], WriteHow::default()).unwrap();
                fs.fsync(handle, false).unwrap();
                fs.release(handle).unwrap();
            }
        }
        volume.rotate();
        assert_eq!(rewrap(&fs).counts().failed, 0);
        // The daemon dies; or, with another boot id, the machine, which loses nothing that was flushed.
        drop(fs);
        volume.forget_old();
        let fs =
            Fs::new(open_root(volume.scratch.path()).unwrap(), volume.scratch.ring.clone(), options(boot)).unwrap();
        assert_planted(&fs, 2, 12);
    }
}

#[test]
fn a_file_that_moves_behind_the_walks_back_is_not_missed() {
    let mut volume = Volume::new();
    let fs = volume.scratch.mount();
    plant(&fs, 8, 8);
    fs.shut_down().unwrap();
    drop(fs);
    volume.rotate();
    // Before each directory is listed, everything still in it moves to one that has been listed.
    let listed: Arc<Mutex<Vec<OsString>>> = Arc::default();
    let moving: Arc<std::sync::OnceLock<Arc<Fs>>> = Arc::default();
    let busy = AtomicBool::new(false);
    let hook = {
        let (listed, moving) = (listed.clone(), moving.clone());
        Arc::new(move |call: &'static str, entry: &OsStr| {
            if call == "list" && entry != "." && moving.get().is_some() && !busy.swap(true, Ordering::SeqCst) {
                let mut listed = listed.lock();
                listed.push(entry.into());
                if let ([first, .., last], Some(fs)) = (&listed[..], moving.get()) {
                    move_all(fs, last, first);
                }
                busy.store(false, Ordering::SeqCst);
            }
            Ok(())
        })
    };
    let root = Hooked::root(open_root(volume.scratch.path()).unwrap(), hook);
    let options = FsOptions { read_only: false, give_to_caller: true, store: StoreOptions::of_this_kernel() };
    let fs = Arc::new(Fs::new(root, volume.scratch.ring.clone(), options).unwrap());
    assert!(moving.set(fs.clone()).is_ok());
    let walk = rewrap(&fs);
    assert!(listed.lock().len() >= 8, "the directories were listed one after another");
    assert_eq!(walk.counts().failed, 0);
    assert_eq!(rewrap(&fs).counts().rewrapped, 0, "nothing was left behind");
}

/// Renames every file of one stored directory into another, through the filesystem.
fn move_all(fs: &Fs, from: &OsStr, to: &OsStr) {
    let dirs: Vec<(Ino, OsString)> = names(fs, Ino::ROOT)
        .into_iter()
        .filter(|name| name != "." && name != "..")
        .map(|name| (fs.lookup(Ino::ROOT, &name).unwrap().attr.ino, name))
        .collect();
    let by_stored = |stored: &OsStr| {
        let root = fs.root.clone();
        let ino = root.stat(stored).unwrap().ino;
        dirs.iter().find(|(other, _)| other.0 == ino).unwrap().clone()
    };
    let ((from, prefix), (to, _)) = (by_stored(from), by_stored(to));
    for file in 0..8 {
        let name = format!("f{file}");
        let moved = format!("{}-{name}", prefix.display());
        let _ = fs.rename(from, os(&name), to, os(&moved), RenameHow::Replace);
    }
}

#[test]
fn what_cannot_be_rewrapped_is_counted_and_named() {
    let mut volume = Volume::new();
    let fs = volume.scratch.mount();
    plant(&fs, 1, 4);
    write_file(&fs, Ino::ROOT, os("damaged one"), b"x");
    fs.shut_down().unwrap();
    let stored = std::fs::read_dir(volume.scratch.path()).unwrap().map(|entry| entry.unwrap().path());
    let file = stored.filter(|path| path.is_file()).find(|path| path.metadata().unwrap().size() > 0).unwrap();
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[0] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    drop(fs);
    volume.rotate();
    let fs = volume.scratch.mount();
    let walk = rewrap(&fs);
    assert_eq!(walk.counts(), Counts { files: 5, empty: 1, rewrapped: 3, failed: 1 });
    let failures = walk.failures();
    assert_eq!(failures.len(), 1);
    assert_eq!(failures[0].path, Path::new("damaged one"));
    assert!(failures[0].what.contains("magic"), "{}", failures[0].what);
}

/// It holds the filesystem, and with it the keys, that a lease or a session may be waiting to be rid of.
#[test]
fn a_slow_walk_ends_with_its_filesystem() {
    let mut volume = Volume::new();
    let fs = volume.scratch.mount();
    plant(&fs, 40, 8);
    volume.rotate();
    let walk = HeaderWalk::new(Task::Rewrap, 1);
    std::thread::scope(|scope| {
        let walking = scope.spawn(|| fs.walk_headers(&walk, 1));
        while walk.counts().files == 0 {
            std::thread::yield_now();
        }
        fs.stop_background();
        walking.join().unwrap().unwrap();
    });
    assert!(walk.is_stopped() && walk.counts().files < 320, "{:?}", walk.counts());
    fs.shut_down().unwrap();
}

#[test]
fn a_walk_can_be_slowed_and_stopped_and_there_is_one_at_a_time() {
    let mut volume = Volume::new();
    let fs = volume.scratch.mount();
    plant(&fs, 40, 8);
    volume.rotate();
    let walk = HeaderWalk::new(Task::Rewrap, 50);
    std::thread::scope(|scope| {
        let walking = scope.spawn(|| fs.walk_headers(&walk, 1));
        while walk.counts().files == 0 {
            std::thread::yield_now();
        }
        assert_eq!(errno(fs.walk_headers(&HeaderWalk::new(Task::Count, 0), 1)), libc::EBUSY);
        walk.stop();
        walking.join().unwrap().unwrap();
    });
    assert!(walk.is_stopped() && walk.counts().files < 320, "{:?}", walk.counts());
    // The next one does the rest.
    let done = walk.counts().rewrapped;
    assert_eq!(rewrap(&fs).counts().rewrapped + done, 240);
    fs.shut_down().unwrap();
    let read_only = volume.scratch.mount_with(true);
    assert_eq!(errno(read_only.walk_headers(&HeaderWalk::new(Task::Rewrap, 0), 1)), libc::EROFS);
}
