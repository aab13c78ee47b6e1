//! A workload on a volume over the simulator, and what it was promised.
//!
//! [`World`] does operations on an [`Fs`] and keeps their history: for each file every state of its contents, with the position in the log
//! at which it came into being and those at which it was acknowledged as handed over or durable; the same for the listings of
//! directories. [`Run`] is the result: the log with that history, which is all that a judge needs.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use envelopefs::crypto::secret::Secret;
use envelopefs::fs::rewrap::{HeaderWalk, Task};
use envelopefs::fs::{
    Caller, Fallocate, Fs, FsError, FsOptions, HandleId, Ino, OpenHow, RenameHow, SetAttr, SetTime, WriteHow,
};
use envelopefs::keys::{Handover, KeyRing};
use envelopefs::store::{BackingDir, CONTROL_DIR, JOURNAL_MIN, Rule, StoreOptions};
use uuid::Uuid;

use super::image::{Contents, Image};
use super::sim::{Event, Volume};

pub const NOBODY: Caller = Caller { uid: 0, gid: 0, pid: 0 };
const KEEP: SetAttr =
    SetAttr { mode: None, uid: None, gid: None, size: None, atime: SetTime::Keep, mtime: SetTime::Keep };

/// The kernel under which workloads run.
pub const FIRST_BOOT: [u8; 16] = [1; 16];

/// The one place that builds an [`Fs`].
pub fn mount(
    root: Arc<dyn BackingDir>,
    ring: &Arc<KeyRing>,
    boot: [u8; 16],
    broken_rule: Option<Rule>,
) -> Result<Fs, FsError> {
    let store = StoreOptions { journal_len: Some(JOURNAL_MIN), boot, broken_rule };
    Fs::new(root, ring.clone(), FsOptions { read_only: false, give_to_caller: false, store })
}

/// What a name leads to; directories and files by number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    Dir(usize),
    File(usize),
    Symlink(Arc<[u8]>),
}

pub type Listing = BTreeMap<OsString, Item>;

/// The names as they were between two operations.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Position in the log when the operation that led here began, and when it returned.
    pub begun: usize,
    pub acknowledged: usize,
    pub dirs: BTreeMap<usize, Arc<Listing>>,
}

/// A promise that the listings of some directories are those of a snapshot or of later ones.
#[derive(Debug, Clone)]
pub struct NameMark {
    pub at: usize,
    pub snapshot: usize,
    pub dirs: Vec<usize>,
}

/// The contents of a file between two operations.
#[derive(Debug, Clone)]
pub struct Version {
    pub begun: usize,
    pub contents: Contents,
    /// It came into being by emptying the file, which is not journalled.
    pub emptied: bool,
}

/// A promise that a file is in a state or in a later one.
#[derive(Debug, Clone, Copy)]
pub struct Mark {
    pub at: usize,
    pub version: usize,
}

#[derive(Debug, Clone, Default)]
pub struct FileHistory {
    pub versions: Vec<Version>,
    /// Over power losses.
    pub durable: Vec<Mark>,
    /// Over the death of the daemon.
    pub handed: Vec<Mark>,
    /// Snapshots of its first name and of the last change of its names.
    created_at: usize,
    named_at: usize,
}

/// A recorded workload.
#[derive(Debug)]
pub struct Run {
    pub base: Image,
    pub log: Vec<Event>,
    pub ring: Arc<KeyRing>,
    pub broken_rule: Option<Rule>,
    pub files: Vec<FileHistory>,
    pub snapshots: Vec<Snapshot>,
    pub name_marks: Vec<NameMark>,
}

/// An open file: handle, and the number of the file.
#[derive(Debug, Clone, Copy)]
pub struct Open {
    handle: HandleId,
    pub file: usize,
}

/// A volume in use. Paths are relative to its root and separated by `/`.
pub struct World {
    volume: Arc<Volume>,
    fs: Fs,
    base: Image,
    ring: Arc<KeyRing>,
    broken_rule: Option<Rule>,
    files: Vec<FileHistory>,
    snapshots: Vec<Snapshot>,
    name_marks: Vec<NameMark>,
    next_dir: usize,
}

/// A new volume, mounted once so that its journal is there.
pub fn new_volume() -> (Arc<Volume>, Arc<KeyRing>) {
    let volume = Volume::new(Image::new());
    volume.root().make_dir(OsStr::new(CONTROL_DIR), 0o700).expect("the control directory");
    let (volume_key, master) = (secret(VOLUME_KEY), secret(0));
    (volume, Arc::new(KeyRing::new(Uuid::from_u128(7), &volume_key, &master, &[])))
}

/// The volume key's letter; master keys are numbered from 0.
const VOLUME_KEY: u8 = b'v';

fn secret(letter: u8) -> Secret<32> {
    Secret::fill_with(|bytes| bytes.fill(letter.wrapping_add(1)))
}

fn split(path: &str) -> (&str, &OsStr) {
    let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
    (dir, OsStr::new(name))
}

impl World {
    /// A new volume in use.
    pub fn new(broken_rule: Option<Rule>) -> Self {
        let (volume, ring) = new_volume();
        Self::on(volume, ring, broken_rule)
    }

    /// A new volume in use, with directory ids in files.
    pub fn with_ids_in_files() -> Self {
        let (volume, ring) = new_volume();
        volume.keep_ids_in_files();
        Self::on(volume, ring, None)
    }

    fn on(volume: Arc<Volume>, ring: Arc<KeyRing>, broken_rule: Option<Rule>) -> Self {
        let fs = mount(volume.root(), &ring, FIRST_BOOT, broken_rule).expect("the first mount");
        volume.take_log();
        let root = BTreeMap::from([(0, Arc::new(Listing::new()))]);
        World {
            base: volume.image(),
            volume,
            fs,
            ring,
            broken_rule,
            files: Vec::new(),
            snapshots: vec![Snapshot { begun: 0, acknowledged: 0, dirs: root }],
            name_marks: Vec::new(),
            next_dir: 1,
        }
    }

    /// Ends without a clean stop.
    pub fn finish(self) -> Run {
        drop(self.fs);
        Run {
            base: self.base,
            log: self.volume.take_log(),
            ring: self.ring,
            broken_rule: self.broken_rule,
            files: self.files,
            snapshots: self.snapshots,
            name_marks: self.name_marks,
        }
    }

    fn now(&self) -> usize {
        self.volume.position()
    }

    fn listings(&self) -> &BTreeMap<usize, Arc<Listing>> {
        &self.snapshots.last().expect("there is always one").dirs
    }

    /// The number of a directory.
    fn dir(&self, path: &str) -> usize {
        path.split('/').filter(|name| !name.is_empty()).fold(0, |dir, name| {
            match self.listings()[&dir][OsStr::new(name)] {
                Item::Dir(dir) => dir,
                _ => panic!("{path}: not a directory"),
            }
        })
    }

    fn ino(&self, path: &str) -> Ino {
        path.split('/')
            .filter(|name| !name.is_empty())
            .fold(Ino::ROOT, |dir, name| self.fs.lookup(dir, OsStr::new(name)).expect(path).attr.ino)
    }

    fn item(&self, path: &str) -> Item {
        let (dir, name) = split(path);
        self.listings()[&self.dir(dir)][name].clone()
    }

    /// The listings after a change of names that began at a position.
    fn renamed(&mut self, begun: usize, change: impl FnOnce(&mut BTreeMap<usize, Arc<Listing>>)) {
        let mut dirs = self.listings().clone();
        change(&mut dirs);
        self.snapshots.push(Snapshot { begun, acknowledged: self.now(), dirs });
    }

    fn enter(&mut self, begun: usize, path: &str, item: Item) {
        let (dir, name) = split(path);
        let dir = self.dir(dir);
        let made = if let Item::Dir(made) = item { Some(made) } else { None };
        self.renamed(begun, |dirs| {
            Arc::make_mut(dirs.get_mut(&dir).expect("a directory")).insert(name.into(), item);
            dirs.extend(made.map(|made| (made, Arc::default())));
        });
    }

    pub fn create(&mut self, path: &str) -> Open {
        let begun = self.now();
        let (dir, name) = split(path);
        let how = OpenHow { write: true, ..OpenHow::default() };
        let (_, handle) = self.fs.create(&NOBODY, self.ino(dir), name, 0o644, 0, how).expect(path);
        let file = self.files.len();
        self.enter(begun, path, Item::File(file));
        let created = self.snapshots.len() - 1;
        let empty = Version { begun, contents: Contents::default(), emptied: false };
        self.files.push(FileHistory {
            versions: vec![empty],
            created_at: created,
            named_at: created,
            ..FileHistory::default()
        });
        Open { handle, file }
    }

    pub fn open(&mut self, path: &str) -> Open {
        let Item::File(file) = self.item(path) else { panic!("{path}: not a file") };
        let how = OpenHow { write: true, ..OpenHow::default() };
        Open { handle: self.fs.open(&NOBODY, self.ino(path), how).expect(path), file }
    }

    /// Opens with O_TRUNC.
    pub fn open_truncated(&mut self, path: &str) -> Open {
        let Item::File(file) = self.item(path) else { panic!("{path}: not a file") };
        let begun = self.now();
        let how = OpenHow { write: true, truncate: true, ..OpenHow::default() };
        let handle = self.fs.open(&NOBODY, self.ino(path), how).expect(path);
        self.became(begun, file, |contents| contents.set_len(0));
        Open { handle, file }
    }

    fn became(&mut self, begun: usize, file: usize, change: impl FnOnce(&mut Contents)) {
        let versions = &mut self.files[file].versions;
        let mut contents = versions.last().expect("there is always one").contents.clone();
        let len = contents.len();
        change(&mut contents);
        let emptied = len > 0 && contents.len() == 0;
        versions.push(Version { begun, contents, emptied });
    }

    pub fn write(&mut self, open: Open, offset: u64, data: &[u8]) {
        let begun = self.now();
        self.fs.write(open.handle, offset, data, WriteHow::default()).expect("write");
        self.became(begun, open.file, |contents| contents.write(data, offset));
    }

    pub fn punch(&mut self, open: Open, offset: u64, len: u64) {
        let begun = self.now();
        self.fs.fallocate(&NOBODY, open.handle, offset, len, Fallocate::PunchHole).expect("punch");
        self.became(begun, open.file, |contents| {
            contents.punch(offset, len.min(contents.len().saturating_sub(offset)))
        });
    }

    pub fn zero(&mut self, open: Open, offset: u64, len: u64) {
        let begun = self.now();
        self.fs.fallocate(&NOBODY, open.handle, offset, len, Fallocate::ZeroRange { keep_size: false }).expect("zero");
        self.became(begun, open.file, |contents| {
            contents.punch(offset, len.min(contents.len().saturating_sub(offset)));
            contents.set_len(contents.len().max(offset + len));
        });
    }

    pub fn truncate(&mut self, path: &str, len: u64) {
        let Item::File(file) = self.item(path) else { panic!("{path}: not a file") };
        let begun = self.now();
        self.fs.setattr(&NOBODY, self.ino(path), &SetAttr { size: Some(len), ..KEEP }).expect(path);
        self.became(begun, file, |contents| contents.set_len(len));
    }

    fn mark(&self, file: usize) -> Mark {
        Mark { at: self.now(), version: self.files[file].versions.len() - 1 }
    }

    pub fn flush(&mut self, open: Open) {
        self.fs.flush(open.handle).expect("flush");
        let mark = self.mark(open.file);
        self.files[open.file].handed.push(mark);
    }

    /// What close(2) does: a flush, then the release.
    pub fn close(&mut self, open: Open) {
        self.flush(open);
        self.fs.release(open.handle).expect("release");
    }

    pub fn fsync(&mut self, open: Open) {
        self.fs.fsync(open.handle, false).expect("fsync");
        self.synced(open.file, self.files[open.file].named_at);
    }

    pub fn fdatasync(&mut self, open: Open) {
        self.fs.fsync(open.handle, true).expect("fdatasync");
        self.synced(open.file, self.files[open.file].created_at);
    }

    fn synced(&mut self, file: usize, snapshot: usize) {
        let mark = self.mark(file);
        self.files[file].durable.push(mark);
        let names = |dirs: &BTreeMap<usize, Arc<Listing>>| -> Vec<usize> {
            let leads_here = |listing: &Listing| listing.values().any(|item| *item == Item::File(file));
            dirs.iter().filter(|(_, listing)| leads_here(listing)).map(|(dir, _)| *dir).collect()
        };
        let (then, now) = (names(&self.snapshots[snapshot].dirs), names(self.listings()));
        let dirs = then.into_iter().filter(|dir| now.contains(dir)).collect();
        self.name_marks.push(NameMark { at: mark.at, snapshot, dirs });
    }

    /// A new master key, and every header rewrapped under it. What was wrapped under the old one is read with it all the same, as a
    /// volume's description keeps both.
    pub fn rotate(&mut self, number: u8) {
        let handover = Handover::new(self.ring.volume(), &secret(VOLUME_KEY), &secret(number));
        self.ring.adopt(&handover).expect("adopt");
        let walk = HeaderWalk::new(Task::Rewrap, 0);
        self.fs.walk_headers(&walk, 1).expect("walk");
        assert_eq!(walk.counts().failed, 0);
    }

    /// The background commit.
    pub fn commit_all(&mut self) {
        self.fs.commit_all().expect("commit_all");
        for file in 0..self.files.len() {
            let mark = self.mark(file);
            self.files[file].durable.push(mark);
        }
    }

    pub fn fsync_dir(&mut self, path: &str) {
        let handle = self.fs.opendir(self.ino(path)).expect(path);
        self.fs.fsyncdir(handle).expect(path);
        self.fs.releasedir(handle);
        let (at, snapshot) = (self.now(), self.snapshots.len() - 1);
        self.name_marks.push(NameMark { at, snapshot, dirs: vec![self.dir(path)] });
    }

    pub fn mkdir(&mut self, path: &str) {
        let begun = self.now();
        let (dir, name) = split(path);
        self.fs.mkdir(&NOBODY, self.ino(dir), name, 0o755, 0).expect(path);
        let made = self.next_dir;
        self.next_dir += 1;
        self.enter(begun, path, Item::Dir(made));
    }

    pub fn symlink(&mut self, path: &str, target: &str) {
        let begun = self.now();
        let (dir, name) = split(path);
        self.fs.symlink(&NOBODY, self.ino(dir), name, OsStr::new(target)).expect(path);
        self.enter(begun, path, Item::Symlink(OsStr::new(target).as_bytes().into()));
    }

    pub fn link(&mut self, from: &str, path: &str) {
        let begun = self.now();
        let (dir, name) = split(path);
        self.fs.link(self.ino(from), self.ino(dir), name).expect(path);
        let item = self.item(from);
        self.enter(begun, path, item.clone());
        self.name_changed(&item);
    }

    fn name_changed(&mut self, item: &Item) {
        if let Item::File(file) = item {
            self.files[*file].named_at = self.snapshots.len() - 1;
        }
    }

    fn leave(&mut self, begun: usize, path: &str) {
        let (dir, name) = split(path);
        let (dir, item) = (self.dir(dir), self.item(path));
        self.renamed(begun, |dirs| {
            Arc::make_mut(dirs.get_mut(&dir).expect("a directory")).remove(name);
            if let Item::Dir(removed) = item {
                dirs.remove(&removed);
            }
        });
    }

    pub fn unlink(&mut self, path: &str) {
        let begun = self.now();
        let (dir, name) = split(path);
        self.fs.unlink(self.ino(dir), name).expect(path);
        self.leave(begun, path);
    }

    pub fn rmdir(&mut self, path: &str) {
        let begun = self.now();
        let (dir, name) = split(path);
        self.fs.rmdir(self.ino(dir), name).expect(path);
        self.leave(begun, path);
    }

    pub fn rename(&mut self, path: &str, to: &str) {
        let begun = self.now();
        let ((dir, name), (to_dir, to_name)) = (split(path), split(to));
        self.fs.rename(self.ino(dir), name, self.ino(to_dir), to_name, RenameHow::Replace).expect(path);
        let (dir, to_dir, item) = (self.dir(dir), self.dir(to_dir), self.item(path));
        self.renamed(begun, |dirs| {
            Arc::make_mut(dirs.get_mut(&dir).expect("a directory")).remove(name);
            Arc::make_mut(dirs.get_mut(&to_dir).expect("a directory")).insert(to_name.into(), item.clone());
        });
        self.name_changed(&item);
    }

    pub fn exchange(&mut self, path: &str, to: &str) {
        let begun = self.now();
        let ((dir, name), (to_dir, to_name)) = (split(path), split(to));
        self.fs.rename(self.ino(dir), name, self.ino(to_dir), to_name, RenameHow::Exchange).expect(path);
        let (dir, to_dir) = (self.dir(dir), self.dir(to_dir));
        let (item, other) = (self.item(path), self.item(to));
        self.renamed(begun, |dirs| {
            Arc::make_mut(dirs.get_mut(&dir).expect("a directory")).insert(name.into(), other.clone());
            Arc::make_mut(dirs.get_mut(&to_dir).expect("a directory")).insert(to_name.into(), item.clone());
        });
        self.name_changed(&item);
        self.name_changed(&other);
    }
}
