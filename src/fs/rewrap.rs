//! Rotation over a whole volume: every header gets its DEK under the active master key, or is counted by the one it has.
//!
//! The walk looks at the backing directory itself, mounted or not. A file that is open is rewrapped through its [`File`](crate::file::File); one that is not, in
//! its backing file, with the inode's lock held so that nobody opens it meanwhile. What others rename while the walk is under
//! way is visited again, for it may have moved from where the walk was still to come to where it had been: so at the end of a walk without
//! failures no header is left behind. Doing it again does nothing twice, and that is how it resumes after a crash.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::name::{self, Decoded, DirId};
use super::{BackingDir, Fs, Kind, Result, is_missing};
use crate::file::{self, Wrapping};
use crate::keys::KeyId;
use crate::store::{Access, BackingFile, Stat};

/// Files handed to a thread at a time.
const BATCH: usize = 64;
/// Batches waiting for a thread.
const QUEUE: usize = 8;
/// Failures that are kept with their path; all are counted.
const MAX_FAILURES: usize = 1000;

/// What is to be done with each header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// Have it under the active master key.
    Rewrap,
    /// Count it.
    Count,
}

/// A walk over all headers: what is to be done, and how far it is. Shared between those who work and those who watch.
#[derive(Debug)]
pub struct HeaderWalk {
    task: Task,
    /// Headers per second; 0 = as many as possible.
    rate: u64,
    stop: AtomicBool,
    files: AtomicU64,
    empty: AtomicU64,
    rewrapped: AtomicU64,
    failed: AtomicU64,
    failures: Mutex<Vec<Failed>>,
    by_key: Mutex<BTreeMap<KeyId, u64>>,
    /// The files that only these master keys unwrap, for those who ask what would be lost.
    wanted: Vec<KeyId>,
    needing: Mutex<Vec<PathBuf>>,
}

/// A file whose header could not be dealt with.
#[derive(Debug, Clone)]
pub struct Failed {
    /// Plain path from the root of the mount; components that cannot be decrypted are shown as they are stored.
    pub path: PathBuf,
    /// Why.
    pub what: String,
}

/// How far a walk is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Counts {
    /// Regular files seen.
    pub files: u64,
    /// Of those: empty ones, which have no header.
    pub empty: u64,
    /// Headers that got a wrapping under the active master key.
    pub rewrapped: u64,
    /// Files whose header could not be dealt with.
    pub failed: u64,
}

impl Counts {
    /// Headers that had what was wanted already, or were only counted.
    pub fn skipped(&self) -> u64 {
        self.files.saturating_sub(self.empty + self.rewrapped + self.failed)
    }
}

impl HeaderWalk {
    /// A walk at most so many headers a second, 0 = no limit.
    pub fn new(task: Task, rate: u64) -> Self {
        HeaderWalk {
            task,
            rate,
            stop: AtomicBool::new(false),
            files: AtomicU64::new(0),
            empty: AtomicU64::new(0),
            rewrapped: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            failures: Mutex::default(),
            by_key: Mutex::default(),
            wanted: Vec::new(),
            needing: Mutex::default(),
        }
    }

    /// A count that also notes which files need one of these master keys.
    pub fn listing(wanted: Vec<KeyId>) -> Self {
        HeaderWalk { wanted, ..Self::new(Task::Count, 0) }
    }

    /// Ends it before its time.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// True after [`stop`](Self::stop): it did not see everything.
    pub fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// How far it is.
    pub fn counts(&self) -> Counts {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Counts {
            files: read(&self.files),
            empty: read(&self.empty),
            rewrapped: read(&self.rewrapped),
            failed: read(&self.failed),
        }
    }

    /// The first of the failures.
    pub fn failures(&self) -> Vec<Failed> {
        self.failures.lock().clone()
    }

    /// Headers by the master key that unwraps them: the active one where it does.
    pub fn by_key(&self) -> BTreeMap<KeyId, u64> {
        self.by_key.lock().clone()
    }

    /// Paths of the files that need one of the listed master keys.
    pub fn needing(&self) -> Vec<PathBuf> {
        self.needing.lock().clone()
    }
}

/// Files of one directory for a thread.
struct Batch {
    dir: Arc<dyn BackingDir>,
    /// Stored path of the directory.
    path: Arc<Path>,
    entries: Vec<OsString>,
}

/// A directory that the walk is still to come to.
struct Pending {
    parent: Arc<dyn BackingDir>,
    entry: OsString,
    path: PathBuf,
}

/// What was renamed while a walk was under way: where it is now.
#[derive(Default)]
pub(super) struct Moved {
    watched: AtomicBool,
    /// The filesystem ends: a walk must not keep its keys.
    ended: AtomicBool,
    places: Mutex<Vec<(Arc<dyn BackingDir>, OsString)>>,
}

impl Moved {
    /// Something has a name that it did not have.
    pub(super) fn note(&self, dir: &Arc<dyn BackingDir>, entry: &OsStr) {
        if self.watched.load(Ordering::Acquire) {
            self.places.lock().push((dir.clone(), entry.to_os_string()));
        }
    }

    /// Has a walk under way stop, and any later one.
    pub(super) fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
    }
}

impl Fs {
    /// Walks over all headers, with `threads` threads. A rewrapping walk ends with everything durable in its place.
    ///
    /// # Errors
    /// EBUSY if there is another walk; those of the backing filesystem, if the walk itself cannot go on. What concerns one file is counted.
    pub fn walk_headers(&self, walk: &HeaderWalk, threads: usize) -> Result<()> {
        if walk.task == Task::Rewrap {
            self.check_writable()?;
        }
        if self.moved.watched.swap(true, Ordering::AcqRel) {
            return Err(super::posix(libc::EBUSY));
        }
        let outcome = self.walk_watched(walk, threads);
        self.moved.watched.store(false, Ordering::Release);
        self.moved.places.lock().clear();
        outcome?;
        if walk.task == Task::Rewrap
            && !self.moved.ended.load(Ordering::Relaxed)
            && let Some(store) = &self.store
        {
            self.commit_all()?;
            // Headers were written beside the journal: no image of them may be left in it, and what was written must be durable before
            // anybody says that the old master key is not needed.
            store.checkpoint_all()?;
            self.root.sync_all()?;
        }
        Ok(())
    }

    fn walk_watched(&self, walk: &HeaderWalk, threads: usize) -> Result<()> {
        if walk.task == Task::Rewrap
            && let Some(store) = &self.store
        {
            // What is committed from now on is committed with the active master key; what was before must not be replayed over it.
            self.commit_all()?;
            store.checkpoint_all()?;
        }
        let (queue, batches) = sync_channel(QUEUE);
        let batches = Mutex::new(batches);
        std::thread::scope(|scope| {
            for _ in 0..threads.max(1) {
                scope.spawn(|| self.work_on_headers(walk, &batches));
            }
            let mut lister = Lister { fs: self, walk, queue, began: Instant::now(), sent: 0 };
            lister.list(vec![Pending { parent: self.root.clone(), entry: ".".into(), path: PathBuf::new() }])?;
            loop {
                let moved = std::mem::take(&mut *self.moved.places.lock());
                if moved.is_empty() || !self.walks_on(walk) {
                    return Ok(());
                }
                for (dir, entry) in moved {
                    lister.visit_moved(dir, entry)?;
                }
            }
        })
    }

    /// Whether a walk goes on.
    fn walks_on(&self, walk: &HeaderWalk) -> bool {
        if self.moved.ended.load(Ordering::Relaxed) {
            walk.stop();
        }
        !walk.is_stopped()
    }

    fn work_on_headers(&self, walk: &HeaderWalk, batches: &Mutex<Receiver<Batch>>) {
        loop {
            // The lock is held while waiting: whoever gets the next batch lets the others wait in turn.
            let Ok(batch) = batches.lock().recv() else { return };
            let mut by_key: BTreeMap<KeyId, u64> = BTreeMap::new();
            for entry in &batch.entries {
                match self.work_on_header(walk, &batch, entry) {
                    Ok(None) => continue,
                    Ok(Some(Wrapping::None)) => drop(walk.empty.fetch_add(1, Ordering::Relaxed)),
                    Ok(Some(Wrapping::Under(key))) => {
                        *by_key.entry(key).or_default() += 1;
                        if walk.wanted.contains(&key) {
                            walk.needing.lock().push(self.plain_path(&batch.path.join(entry)));
                        }
                    }
                    Ok(Some(Wrapping::Rewrapped(_))) => {
                        walk.rewrapped.fetch_add(1, Ordering::Relaxed);
                        *by_key.entry(self.ring.active()).or_default() += 1;
                    }
                    Err(error) => {
                        walk.failed.fetch_add(1, Ordering::Relaxed);
                        let path = self.plain_path(&batch.path.join(entry));
                        let mut failures = walk.failures.lock();
                        if failures.len() < MAX_FAILURES {
                            failures.push(Failed { path, what: error.to_string() });
                        }
                    }
                }
                walk.files.fetch_add(1, Ordering::Relaxed);
            }
            let mut sums = walk.by_key.lock();
            by_key.into_iter().for_each(|(key, count)| *sums.entry(key).or_default() += count);
        }
    }

    /// Deals with one header; `None` if the file is gone or another filesystem's.
    fn work_on_header(&self, walk: &HeaderWalk, batch: &Batch, entry: &OsStr) -> Result<Option<Wrapping>> {
        let write = walk.task == Task::Rewrap;
        let (raw, stat) = match self.open_for_rewrap(&*batch.dir, entry, write) {
            Ok(opened) => opened,
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ELOOP | libc::EINVAL)) => {
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        if stat.dev != self.root_dev {
            return Ok(None);
        }
        let inode = self.inodes.acquire(self.ino_of(stat.ino), Kind::File, None);
        let outcome = {
            let open = inode.open.lock();
            match &open.file {
                Some(open) => {
                    if write && !open.writable.swap(true, Ordering::AcqRel) {
                        open.file.reopened(raw.clone());
                        *open.raw.write() = raw;
                    }
                    open.file.rewrap(write)
                }
                None => file::rewrap(&*raw, &stat, &self.ring, write),
            }
        };
        self.inodes.release(inode.ino, 1);
        Ok(Some(outcome?))
    }

    /// Opens a file whose header may have to be written. An ordinary user's daemon needs for that what the file's mode may deny, and
    /// the file is that user's: the mode is widened for the moment of opening.
    fn open_for_rewrap(
        &self,
        dir: &dyn BackingDir,
        entry: &OsStr,
        write: bool,
    ) -> std::io::Result<(Arc<dyn BackingFile>, Stat)> {
        let access = if write { Access::ReadWrite } else { Access::Read };
        let denied = match dir.open_file_and_stat(entry, access) {
            Err(error) if error.raw_os_error() == Some(libc::EACCES) => error,
            outcome => return outcome,
        };
        let stat = dir.stat(entry)?;
        if self.options.read_only || stat.uid != rustix::process::geteuid().as_raw() {
            return Err(denied);
        }
        dir.set_mode(entry, stat.mode | 0o600)?;
        let opened = dir.open_file_and_stat(entry, access);
        dir.set_mode(entry, stat.mode)?;
        opened
    }

    /// A stored path as the mount shows it, as far as it can be decrypted.
    fn plain_path(&self, stored: &Path) -> PathBuf {
        let mut plain = PathBuf::new();
        let mut dir = Some(self.root.clone());
        for entry in stored.iter() {
            let id = dir.as_ref().and_then(|dir| DirId::from_text(&dir.read_link(OsStr::new(name::DIR_ID)).ok()?));
            let decoded = dir
                .as_ref()
                .zip(id)
                .map(|(dir, id)| name::plain(self.ring.names(), &id, entry, |side| dir.read_link(side)));
            match decoded {
                Some(Decoded::Plain(name)) => plain.push(name),
                _ => plain.push(entry),
            }
            dir = dir.and_then(|dir| dir.open_dir(entry).ok());
        }
        plain
    }
}

/// Lists directories and hands their files out.
struct Lister<'a> {
    fs: &'a Fs,
    walk: &'a HeaderWalk,
    queue: SyncSender<Batch>,
    began: Instant,
    sent: u64,
}

impl Lister<'_> {
    fn list(&mut self, mut pending: Vec<Pending>) -> Result<()> {
        while let Some(Pending { parent, entry, path }) = pending.pop() {
            if !self.fs.walks_on(self.walk) {
                return Ok(());
            }
            let dir = match parent.open_dir(&entry) {
                Ok(dir) => dir,
                // Removed, or renamed: then it is noted as moved.
                Err(error) if is_missing(&error) => continue,
                Err(error) => {
                    self.unlisted(&path, &error);
                    continue;
                }
            };
            if dir.stat(OsStr::new(".")).is_ok_and(|stat| stat.dev != self.fs.root_dev) {
                continue;
            }
            if let Err(error) = self.list_one(&dir, &path, &mut pending) {
                self.unlisted(&path, &error);
            }
        }
        Ok(())
    }

    fn list_one(&mut self, dir: &Arc<dyn BackingDir>, path: &Path, below: &mut Vec<Pending>) -> std::io::Result<()> {
        let is_root = path.as_os_str().is_empty();
        let shared: Arc<Path> = path.into();
        let mut entries = Vec::new();
        let mut stream = dir.list()?;
        while let Some(entry) = stream.next()? {
            if entry.name == "." || entry.name == ".." || (is_root && entry.name == name::CONTROL_DIR) {
                continue;
            }
            let kind = match entry.kind {
                Some(kind) => kind,
                None => match dir.stat(&entry.name) {
                    Ok(stat) => stat.kind,
                    Err(error) if is_missing(&error) => continue,
                    Err(error) => return Err(error),
                },
            };
            match kind {
                Kind::Dir => {
                    let path = path.join(&entry.name);
                    below.push(Pending { parent: dir.clone(), entry: entry.name, path });
                }
                Kind::File => entries.push(entry.name),
                _ => {}
            }
            if entries.len() == BATCH {
                self.send(Batch { dir: dir.clone(), path: shared.clone(), entries: std::mem::take(&mut entries) });
            }
        }
        self.send(Batch { dir: dir.clone(), path: shared, entries });
        Ok(())
    }

    /// A directory that cannot be listed hides files that may need a key.
    fn unlisted(&self, path: &Path, error: &std::io::Error) {
        self.walk.files.fetch_add(1, Ordering::Relaxed);
        self.walk.failed.fetch_add(1, Ordering::Relaxed);
        let what = format!("the directory cannot be listed: {error}");
        let path = self.fs.plain_path(path);
        let mut failures = self.walk.failures.lock();
        if failures.len() < MAX_FAILURES {
            failures.push(Failed { path, what });
        }
    }

    /// What was renamed while the walk was under way.
    fn visit_moved(&mut self, dir: Arc<dyn BackingDir>, entry: OsString) -> Result<()> {
        let kind = match dir.stat(&entry) {
            Ok(stat) => stat.kind,
            Err(error) if is_missing(&error) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        match kind {
            Kind::Dir => self.list(vec![Pending { parent: dir, path: PathBuf::from(&entry), entry }])?,
            Kind::File => self.send(Batch { dir, path: Path::new("").into(), entries: vec![entry] }),
            _ => {}
        }
        Ok(())
    }

    fn send(&mut self, batch: Batch) {
        self.sent += batch.entries.len() as u64;
        if batch.entries.is_empty() {
            return;
        }
        // The threads end only when the queue does.
        let _ = self.queue.send(batch);
        if self.walk.rate > 0 {
            let due = Duration::from_secs_f64(self.sent as f64 / self.walk.rate as f64);
            while self.fs.walks_on(self.walk) {
                let ahead = due.saturating_sub(self.began.elapsed());
                if ahead.is_zero() {
                    break;
                }
                std::thread::sleep(ahead.min(Duration::from_millis(100)));
            }
        }
    }
}
