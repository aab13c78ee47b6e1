//! Verifying a whole volume: every directory id, name, header, node, chunk, symlink target and attribute value.
//!
//! The walk looks at the backing directory itself, not through the inode table, so that it also sees what a mount leaves
//! out. It changes nothing.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use parking_lot::Mutex;

use super::name::{self, Decoded, DirId};
use super::{BackingDir, Fs, FsError, Kind, Result, is_missing};
use crate::file::{File, FileError};
use crate::store::{Access, Stat};

/// Files waiting for a thread to verify them: enough to keep the threads busy, few enough to bound open directories.
const QUEUE: usize = 64;

/// Something found, at a place in the tree.
#[derive(Debug, Clone)]
pub struct Finding {
    /// Plain path from the root of the mount; components that cannot be decrypted are shown as they are stored.
    pub path: PathBuf,
    /// What is wrong.
    pub what: String,
    /// False for what does no harm: left-overs of an interrupted operation.
    pub damage: bool,
}

/// What a check looked at and found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Summary {
    pub directories: u64,
    pub files: u64,
    pub others: u64,
    /// Stored bytes of all files.
    pub bytes: u64,
    pub damaged: u64,
    pub leftovers: u64,
}

/// Takes findings and progress, from several threads.
pub trait Reporter: Sync {
    /// Something was found.
    fn found(&self, finding: &Finding);
    /// The number of stored bytes to verify is known.
    fn total(&self, bytes: u64);
    /// So many more stored bytes were verified.
    fn verified(&self, bytes: u64);
}

/// A directory that the walk is still to come to. It shares its parent's descriptor with its siblings, so that only as many are
/// open as the tree is deep.
struct Pending {
    parent: Arc<dyn BackingDir>,
    entry: OsString,
    path: PathBuf,
}

/// A directory on the walk.
struct Visit {
    dir: Arc<dyn BackingDir>,
    path: PathBuf,
    /// `None` if it was lost: names in it cannot be decrypted.
    id: Option<DirId>,
    is_root: bool,
}

/// A file for a thread to verify.
struct Job {
    dir: Arc<dyn BackingDir>,
    entry: OsString,
    path: PathBuf,
}

struct Check<'a> {
    fs: &'a Fs,
    reporter: &'a dyn Reporter,
    damaged: AtomicU64,
    leftovers: AtomicU64,
}

impl Fs {
    /// Verifies everything, with `threads` threads for the files' contents.
    ///
    /// # Errors
    /// If the walk itself cannot go on; what is damaged is reported, not an error.
    pub fn check(&self, threads: usize, reporter: &dyn Reporter) -> Result<Summary> {
        let check = Check { fs: self, reporter, damaged: AtomicU64::new(0), leftovers: AtomicU64::new(0) };
        let mut summary = Summary::default();
        check.walk(&mut |_, stat| summary.bytes += if stat.kind == Kind::File { stat.size } else { 0 }, None)?;
        // The first pass only counts: whatever it found will be found again.
        check.damaged.store(0, Ordering::Relaxed);
        check.leftovers.store(0, Ordering::Relaxed);
        reporter.total(summary.bytes);
        let (queue, jobs) = sync_channel(QUEUE);
        let jobs = Mutex::new(jobs);
        std::thread::scope(|scope| {
            for _ in 0..threads.max(1) {
                scope.spawn(|| check.verify_files(&jobs));
            }
            let count = &mut |_: &Path, stat: &Stat| match stat.kind {
                Kind::File => summary.files += 1,
                Kind::Dir => summary.directories += 1,
                _ => summary.others += 1,
            };
            check.walk(count, Some(queue))
        })?;
        summary.damaged = check.damaged.load(Ordering::Relaxed);
        summary.leftovers = check.leftovers.load(Ordering::Relaxed);
        Ok(summary)
    }
}

impl Check<'_> {
    fn found(&self, path: &Path, what: impl Into<String>, damage: bool) {
        let count = if damage { &self.damaged } else { &self.leftovers };
        count.fetch_add(1, Ordering::Relaxed);
        self.reporter.found(&Finding { path: path.to_path_buf(), what: what.into(), damage });
    }

    /// Visits every entry once. With a queue it verifies as it goes and sends the files there; without, it only counts.
    fn walk(&self, count: &mut dyn FnMut(&Path, &Stat), queue: Option<SyncSender<Job>>) -> Result<()> {
        let verifying = queue.is_some();
        let mut seen = HashSet::new();
        let mut targets = HashSet::new();
        let mut ids = HashMap::new();
        let mut pending = vec![Pending { parent: self.fs.root.clone(), entry: ".".into(), path: PathBuf::new() }];
        while let Some(next) = pending.pop() {
            let Some(visit) = self.visit(next, &mut ids, verifying) else { continue };
            let mut stream = match visit.dir.list() {
                Ok(stream) => stream,
                Err(error) => {
                    self.found_if(verifying, &visit.path, format!("the directory cannot be listed: {error}"));
                    continue;
                }
            };
            loop {
                let entry = match stream.next() {
                    Ok(Some(entry)) => entry.name,
                    Ok(None) => break,
                    Err(error) => {
                        self.found_if(verifying, &visit.path, format!("the directory cannot be listed: {error}"));
                        break;
                    }
                };
                let Some(path) = self.shown_path(&visit, &entry, verifying) else { continue };
                let stat = match visit.dir.stat(&entry) {
                    Ok(stat) => stat,
                    Err(error) => {
                        self.found_if(verifying, &path, format!("its attributes cannot be read: {error}"));
                        continue;
                    }
                };
                if stat.dev != self.fs.root_dev {
                    self.found_if(verifying, &path, "another filesystem is mounted here".into());
                    continue;
                }
                // Further names of a hard link.
                if stat.kind != Kind::Dir && stat.nlink > 1 && !seen.insert(stat.ino) {
                    continue;
                }
                count(&path, &stat);
                if stat.kind == Kind::Dir {
                    pending.push(Pending { parent: visit.dir.clone(), entry: entry.clone(), path: path.clone() });
                }
                let Some(queue) = &queue else { continue };
                self.verify_attributes(&visit.dir, &entry, &path, stat.kind);
                match stat.kind {
                    Kind::Symlink => self.verify_symlink(&visit.dir, &entry, &path, &mut targets),
                    Kind::File => {
                        let job = Job { dir: visit.dir.clone(), entry, path };
                        // The threads end only when the queue does.
                        let _ = queue.send(job);
                    }
                    _ => {}
                }
            }
        }
        if verifying { self.sweep_targets(&targets) } else { Ok(()) }
    }

    fn found_if(&self, verifying: bool, path: &Path, what: String) {
        if verifying {
            self.found(path, what, true);
        }
    }

    /// Opens a directory and reads its id, which no other of `ids` may have; `None` if it cannot be opened.
    fn visit(&self, next: Pending, ids: &mut HashMap<DirId, PathBuf>, verifying: bool) -> Option<Visit> {
        let Pending { parent, entry, path } = next;
        let is_root = path.as_os_str().is_empty();
        let dir = match parent.open_dir(&entry) {
            Ok(dir) => dir,
            Err(error) => {
                self.found_if(verifying, &path, format!("the directory cannot be opened: {error}"));
                return None;
            }
        };
        let id = match dir.read_link(OsStr::new(name::DIR_ID)) {
            Ok(text) => {
                let id = DirId::from_text(&text);
                if id.is_none() {
                    self.found_if(verifying, &path, "the directory's id is not one".into());
                }
                id
            }
            Err(error) if is_missing(&error) => {
                // One that cannot be listed is reported as such in its turn.
                if let Ok(false) = super::dir::is_empty(&*dir) {
                    self.found_if(verifying, &path, "the directory has entries but no id".into());
                }
                None
            }
            Err(error) => {
                self.found_if(verifying, &path, format!("the directory's id cannot be read: {error}"));
                None
            }
        };
        if let Some(other) = id.and_then(|id| ids.insert(id, path.clone())) {
            let other = Path::new("/").join(other);
            self.found_if(verifying, &path, format!("the directory has the same id as {}", other.display()));
        }
        Some(Visit { dir, path, id, is_root })
    }

    /// The path to show for an entry; `None` for the format's own.
    fn shown_path(&self, visit: &Visit, entry: &OsStr, verifying: bool) -> Option<PathBuf> {
        if entry == "." || entry == ".." || entry == name::DIR_ID || (visit.is_root && entry == name::CONTROL_DIR) {
            return None;
        }
        let stored = visit.path.join(entry);
        if let Some(owner) = name::entry_of_side(entry) {
            if verifying && visit.dir.stat(&owner).is_err_and(|error| is_missing(&error)) {
                self.found(&stored, "a long name's side link without its entry", false);
            }
            return None;
        }
        let Some(id) = &visit.id else { return Some(stored) };
        match name::plain(self.fs.ring.names(), id, entry, |side| visit.dir.read_link(side)) {
            Decoded::Plain(plain) => Some(visit.path.join(plain)),
            Decoded::Own => {
                self.found_if(verifying, &stored, "the name is reserved and nothing of the format's has it".into());
                None
            }
            Decoded::Damaged => {
                self.found_if(verifying, &stored, "the stored name does not belong to this directory".into());
                Some(stored)
            }
        }
    }

    fn verify_attributes(&self, dir: &Arc<dyn BackingDir>, entry: &OsStr, path: &Path, kind: Kind) {
        if !matches!(kind, Kind::File | Kind::Dir) {
            return;
        }
        let attributes = match dir.list_xattrs(entry) {
            Ok(attributes) => attributes,
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => return,
            Err(error) => return self.found(path, format!("its attributes cannot be listed: {error}"), true),
        };
        for attribute in attributes.iter().filter(|attribute| attribute.as_bytes().starts_with(b"user.")) {
            let Some(plain) = name::plain_xattr(self.fs.ring.xattr_names(), attribute) else {
                self.found(path, "an extended attribute's name fails authentication", true);
                continue;
            };
            let opened = dir
                .get_xattr(entry, attribute)
                .map(|sealed| crate::crypto::aead::open_value(self.fs.ring.xattr_value_key(), &plain, &sealed).is_ok());
            if !matches!(opened, Ok(true)) {
                let shown = OsString::from_vec(plain);
                self.found(path, format!("the extended attribute user.{} fails authentication", shown.display()), true);
            }
        }
    }

    fn verify_symlink(&self, dir: &Arc<dyn BackingDir>, entry: &OsStr, path: &Path, targets: &mut HashSet<OsString>) {
        let opened = dir.read_link(entry).map_err(FsError::from).and_then(|text| {
            targets.extend(name::target_file(&text));
            let sealed = self.fs.sealed_target(&text)?;
            name::open_target(self.fs.ring.symlink_key(), &sealed)
        });
        if let Err(error) = opened {
            self.found(path, error.to_string(), true);
        }
    }

    /// Reports files in the control directory that no symlink refers to.
    fn sweep_targets(&self, referred: &HashSet<OsString>) -> Result<()> {
        let control = self.fs.root.open_dir(OsStr::new(name::CONTROL_DIR))?;
        let targets = match control.open_dir(OsStr::new("targets")) {
            Ok(targets) => targets,
            Err(error) if is_missing(&error) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let mut stream = targets.list()?;
        while let Some(entry) = stream.next()? {
            if entry.name != "." && entry.name != ".." && !referred.contains(&entry.name) {
                let path = Path::new(name::CONTROL_DIR).join("targets").join(&entry.name);
                self.found(&path, "a long symlink target without its symlink", false);
            }
        }
        Ok(())
    }

    fn verify_files(&self, jobs: &Mutex<Receiver<Job>>) {
        loop {
            // The lock is held while waiting: whoever gets the next job lets the others wait in turn.
            let Ok(job) = jobs.lock().recv() else { return };
            if let Err(error) = self.verify_file(&job) {
                self.found(&job.path, error.to_string(), true);
            }
        }
    }

    fn verify_file(&self, job: &Job) -> std::result::Result<(), FileError> {
        let raw = job.dir.open_file(&job.entry, Access::Read)?;
        let file = File::open(raw, self.fs.ring.clone())?;
        file.verify(&mut |damage| self.found(&job.path, damage.to_string(), true), &mut |bytes| {
            self.reporter.verified(bytes)
        })
    }
}
