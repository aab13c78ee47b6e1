//! The journalled store of a volume: every file that has something to be remembered, the journal, and what is done in the background.

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsStr;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::journal::{self, Head, Journal};
use super::ledger::{Ledger, Stop};
use super::{Access, BackingDir, BackingFile, BlockFile, recovery};

/// The control directory, below the root of a backing directory.
pub const CONTROL_DIR: &str = ".envelopefs";
/// The journal in it, and the name under which a new one is made.
const JOURNAL: &str = "journal";
const NEW_JOURNAL: &str = "journal.new";

/// Journal length where nobody says another: bounds what recovery reads and what memory the images of one segment take.
const DEFAULT_LEN: u64 = 32 << 20;
/// Of a small backing filesystem, the journal takes at most this part.
const SHARE_OF_VOLUME: u64 = 64;
/// Images in memory, in blocks, from which on writers wait for commits: 16 MiB.
const MAX_IMAGES: usize = 4096;
/// Blocks from which on a file commits by itself: 2 MiB.
const MAX_COMMIT: usize = 512;
/// Files that are flushed one by one; more of them are flushed with their whole filesystem.
const MAX_SINGLE_FLUSHES: usize = 64;
/// Files that are closed and remembered, each with a descriptor, from which on the background does not wait for its time.
const MAX_CLOSED: usize = 512;
/// And from which on whoever opens a further one waits: this many, and at most this part of the files that the process may have open.
const MOST_CLOSED: usize = 8192;
const SHARE_OF_FILES: usize = 4;

/// An ordering rule that a test takes out of force, to show that the simulator then finds a violation.
#[doc(hidden)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// A referenced block is replaced only after its image is durable in the journal (R1).
    ImageBeforePlace,
    /// Data in place is flushed before the record that relies on it is declared good (R2).
    DataBeforeMark,
    /// A durability request flushes the journal (R2).
    FlushOnSync,
    /// A block with an image in the live journal is not written directly (R4).
    DirectOverLive,
    /// Nor is one to which the durable state refers though a later one does not (R4).
    DirectOverFreed,
    /// A file is cut only when the commit that did without its tail is durable (R5).
    CutWhenDurable,
    /// After a power loss only records that were declared good are replayed (R6).
    MarksDecide,
}

/// How a store works.
#[derive(Debug, Clone, Copy)]
pub struct StoreOptions {
    /// Bytes of the journal file; `None` keeps the existing one, or makes one fit for the backing filesystem.
    pub journal_len: Option<u64>,
    /// Names the running kernel: records that were never declared durable are good only as long as its page cache lives.
    pub boot: [u8; 16],
    /// For tests of the tests.
    #[doc(hidden)]
    pub broken_rule: Option<Rule>,
}

impl StoreOptions {
    /// The usual options.
    pub fn of_this_kernel() -> Self {
        StoreOptions { journal_len: None, boot: crate::sys::process::boot_id(), broken_rule: None }
    }
}

/// Error of opening a store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The backing filesystem refused.
    #[error("the journal: {0}")]
    Io(#[from] io::Error),
    /// Neither head of the journal can be read, or it is another volume's.
    #[error("the journal {0}")]
    Foreign(&'static str),
    /// It ended uncleanly and may not be written to.
    #[error("the volume was not unmounted cleanly, and its journal cannot be replayed read-only")]
    NeedsRecovery,
}

/// The store of a mounted volume.
#[derive(Debug)]
pub struct Store {
    root: Arc<dyn BackingDir>,
    journal: Journal,
    broken_rule: Option<Rule>,
    files: Mutex<HashMap<u64, Arc<Ledger>>>,
    /// Blocks held in memory as images.
    images: AtomicUsize,
    /// One settles or checkpoints at a time.
    settling: Mutex<()>,
    /// Files remembered, from which on [`make_room`](Self::make_room) waits.
    most_remembered: usize,
    background: Mutex<Background>,
    wake: Condvar,
    ended: AtomicBool,
}

/// What the background thread is told.
#[derive(Debug, Default)]
struct Background {
    wanted: bool,
    stopped: bool,
    /// Files to be flushed early.
    early: BTreeSet<u64>,
}

impl Store {
    /// Opens the store below a root: replays what an unclean stop left in the journal, and begins a new session.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn open(root: Arc<dyn BackingDir>, volume: [u8; 16], options: StoreOptions) -> Result<Arc<Store>, StoreError> {
        let control = root.open_dir(OsStr::new(CONTROL_DIR))?;
        let (mut file, mut head) = match open_journal(&*control, volume, Access::ReadWrite)? {
            Some(found) => found,
            None => make_journal(&*root, &*control, volume, wanted_len(&*root, options.journal_len)?, None)?,
        };
        let next = recovery::recover(&root, &*file, &mut head, &options)?;
        if let Some(len) = options.journal_len
            && journal::segment_len(len) != head.segment_len
        {
            let clean = Head { tail: next, ..head };
            (file, head) = make_journal(&*root, &*control, volume, len, Some(clean))?;
        }
        let journal = Journal::begin(file, head, next, options.boot)?;
        Ok(Arc::new(Store {
            root,
            journal,
            broken_rule: options.broken_rule,
            files: Mutex::default(),
            images: AtomicUsize::new(0),
            settling: Mutex::new(()),
            most_remembered: (crate::sys::process::file_limit() / SHARE_OF_FILES).min(MOST_CLOSED),
            background: Mutex::default(),
            wake: Condvar::new(),
            ended: AtomicBool::new(false),
        }))
    }

    /// Refuses a volume that must be recovered first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn require_clean(root: &dyn BackingDir, volume: [u8; 16]) -> Result<(), StoreError> {
        let control = root.open_dir(OsStr::new(CONTROL_DIR))?;
        match open_journal(&*control, volume, Access::Read)? {
            Some((_, head)) if !head.clean => Err(StoreError::NeedsRecovery),
            _ => Ok(()),
        }
    }

    /// Takes a backing file into the store, `created` if it was made just now. `hint` is its path in stored names.
    ///
    /// # Errors
    /// That of `fstat`.
    pub fn attach(self: &Arc<Self>, raw: Arc<dyn BackingFile>, created: bool, hint: &[u8]) -> io::Result<BlockFile> {
        let ino = raw.stat()?.ino;
        let hint: Box<[u8]> = if hint.len() <= super::record::MAX_HINT { hint.into() } else { Box::default() };
        let mut files = self.files.lock();
        let ledger = match files.get(&ino).filter(|_| !created) {
            Some(ledger) => {
                ledger.reopened(raw);
                ledger.set_hint(hint);
                ledger.clone()
            }
            None => {
                let ledger = Arc::new(Ledger::new(Some(self.clone()), raw, created, hint)?);
                files.insert(ino, ledger.clone());
                ledger
            }
        };
        // Under the registry's lock, as the other end of it: a file may be opened anew before its former user is quite gone.
        ledger.attached.fetch_add(1, Ordering::AcqRel);
        Ok(BlockFile::of(ledger))
    }

    /// A file has one user less.
    pub(super) fn detach(&self, ledger: &Ledger) {
        let mut files = self.files.lock();
        let left = ledger.attached.fetch_sub(1, Ordering::AcqRel) - 1;
        let known = files.get(&ledger.ino).is_some_and(|known| std::ptr::eq(&**known, ledger));
        if left == 0 {
            ledger.discard();
        }
        if left == 0 && known && ledger.is_forgettable() {
            files.remove(&ledger.ino);
        }
        if files.len() > MAX_CLOSED {
            drop(files);
            self.wake_background();
        }
    }

    /// The last name of a backing inode is gone.
    pub fn forget(&self, ino: u64) {
        let known = self.files.lock().get(&ino).cloned();
        let Some(ledger) = known else { return };
        ledger.note_gone();
        self.files.lock().retain(|_, other| other.is_attached() || !Arc::ptr_eq(other, &ledger));
    }

    /// Before a file takes another's name: what it has is made durable if it never was, or a power loss could leave the name
    /// with neither contents. For a file that is closed; one that is open is committed by whoever has it open.
    ///
    /// # Errors
    /// That of the flush.
    pub fn flush_closed(&self, ino: u64) -> io::Result<()> {
        let known = self.files.lock().get(&ino).cloned();
        let Some(ledger) = known else { return Ok(()) };
        let Some(writes) = ledger.to_flush() else { return Ok(()) };
        ledger.flush(false)?;
        ledger.flushed(writes, false);
        Ok(())
    }

    /// True if a file has contents in place that were never flushed.
    pub fn is_unflushed(&self, ino: u64) -> bool {
        let known = self.files.lock().get(&ino).cloned();
        known.is_some_and(|ledger| ledger.is_virgin())
    }

    pub(super) fn journal(&self) -> &Journal {
        &self.journal
    }

    pub(super) fn broken_rule(&self) -> Option<Rule> {
        self.broken_rule
    }

    /// Keeps count of the images in memory.
    pub(super) fn count_images(&self, before: usize, now: usize) {
        match now >= before {
            true => self.images.fetch_add(now - before, Ordering::Relaxed),
            false => self.images.fetch_sub(before - now, Ordering::Relaxed),
        };
    }

    /// True if writers should commit and [`settle`](Self::settle) before they go on.
    pub fn is_pressed(&self) -> bool {
        self.images.load(Ordering::Relaxed) > MAX_IMAGES
    }

    /// Blocks from which on a file should commit, so that each commit fits the journal comfortably.
    pub(super) fn commit_limit(&self) -> usize {
        let quarter = self.journal.segment_len() / 4 / super::record::BLOCK as u64;
        usize::try_from(quarter).unwrap_or(usize::MAX).min(MAX_COMMIT)
    }

    /// A record went into a lap.
    pub(super) fn noted(&self, lap: u64) {
        if self.journal.full_lap() == Some(lap - 1) {
            self.wake_background();
        }
    }

    /// Has the background commit done now.
    pub fn wake_background(&self) {
        self.background.lock().wanted = true;
        self.wake.notify_all();
    }

    /// A lot of a file was written in place, which makes no difference to anybody until it is to be durable; that will then take less time.
    pub(super) fn flush_early(&self, ino: u64) {
        self.background.lock().early.insert(ino);
        self.wake.notify_all();
    }

    /// Waits until there is work in the background, at most so long; false if it was stopped. Meanwhile flushes files of which a lot was written
    /// in place: an error is for those to hear who flush the file because they must.
    pub fn wait_for_work(&self, longest: Duration) -> bool {
        let until = Instant::now() + longest;
        let mut background = self.background.lock();
        while !background.wanted && !background.stopped {
            if let Some(ino) = background.early.pop_first() {
                MutexGuard::unlocked(&mut background, || {
                    let known = self.files.lock().get(&ino).cloned();
                    let _ = known.filter(|ledger| ledger.is_wanted()).map(|ledger| ledger.flush(false));
                });
                if Instant::now() >= until {
                    break;
                }
            } else if self.wake.wait_until(&mut background, until).timed_out() {
                break;
            }
        }
        background.wanted = false;
        !background.stopped
    }

    /// Ends [`wait_for_work`](Self::wait_for_work) for ever.
    pub fn stop_background(&self) {
        self.background.lock().stopped = true;
        self.wake.notify_all();
    }

    fn ledgers(&self) -> Vec<Arc<Ledger>> {
        self.files.lock().values().cloned().collect()
    }

    /// Runs a step, with a checkpoint before each new attempt while the journal is full.
    pub(super) fn with_room<T>(&self, mut step: impl FnMut() -> Result<T, Stop>) -> io::Result<T> {
        loop {
            match step() {
                Ok(done) => return Ok(done),
                Err(Stop::Io(error)) => return Err(error),
                Err(Stop::Full(lap)) => self.checkpoint(lap)?,
            }
        }
    }

    /// Before a file is opened: while very many are remembered, each with a descriptor, because the disk does not keep up with those who close
    /// them, what they are remembered for is done first. An error is for those to hear whose files it concerns.
    pub fn make_room(&self) {
        let is_crowded = || self.files.lock().len() > self.most_remembered;
        if !is_crowded() {
            return;
        }
        let settled = {
            let _one = self.settling.lock();
            if is_crowded() { self.settle_locked() } else { Ok(()) }
        };
        // Those that remain are open, or have records that recovery would need.
        let outcome = settled.and_then(|()| if is_crowded() { self.checkpoint_all() } else { Ok(()) });
        if let Err(error) = outcome {
            tracing::warn!(%error, "many closed files could not be written");
        }
    }

    /// Makes every commit so far durable and brings its images to their places.
    ///
    /// # Errors
    /// Those of the flushes. A file whose own flush failed holds nobody else up.
    pub fn settle(&self) -> io::Result<()> {
        let _one = self.settling.lock();
        self.settle_locked()
    }

    fn settle_locked(&self) -> io::Result<()> {
        // First: what records up to here rely on was written before they were.
        let upto = self.journal.appended();
        let ledgers = self.ledgers();
        let due: Vec<(Arc<Ledger>, u64)> =
            ledgers.iter().filter_map(|ledger| Some((ledger.clone(), ledger.to_flush()?))).collect();
        let outcome = match self.broken_rule {
            Some(Rule::DataBeforeMark) => Ok(()),
            _ => self.flush_all(&due),
        };
        if outcome.is_ok() {
            due.iter().for_each(|(ledger, writes)| ledger.flushed(*writes, false));
        }
        let unfinished = || ledgers.iter().filter(|ledger| ledger.is_unmarked() || ledger.is_unapplied());
        if outcome.is_err() {
            // Not all records can be declared good at once, but each file's own can that relies on nothing unflushed.
            for ledger in unfinished().filter(|ledger| ledger.to_flush().is_none()) {
                let _ = ledger.finish_marked();
            }
        } else if unfinished().next().is_some() {
            self.journal.validate(upto)?;
            ledgers.iter().for_each(|ledger| ledger.apply(upto));
        }
        self.files.lock().retain(|_, ledger| ledger.is_attached() || !ledger.is_forgettable());
        outcome
    }

    /// Flushes files, all of them even if one fails.
    fn flush_all(&self, due: &[(Arc<Ledger>, u64)]) -> io::Result<()> {
        if due.len() > MAX_SINGLE_FLUSHES {
            return self.root.sync_all();
        }
        due.iter().map(|(ledger, _)| ledger.flush(false)).fold(Ok(()), io::Result::and)
    }

    /// Frees the segment of a full lap: everything in it becomes durable in its place.
    pub(super) fn checkpoint(&self, lap: u64) -> io::Result<()> {
        let _one = self.settling.lock();
        if self.journal.full_lap() != Some(lap) {
            return Ok(());
        }
        self.settle_locked()?;
        let due: Vec<(Arc<Ledger>, u64)> =
            self.ledgers().into_iter().filter(|ledger| ledger.is_live_in(lap)).map(|ledger| (ledger, 0)).collect();
        if due.iter().any(|(ledger, _)| ledger.is_stuck_in(lap)) {
            let error = "the journal is full of changes that the backing filesystem does not take";
            return Err(io::Error::new(io::ErrorKind::StorageFull, error));
        }
        self.flush_all(&due)?;
        self.journal.checkpointed(lap)?;
        due.iter().for_each(|(ledger, _)| ledger.checkpointed(lap));
        self.files.lock().retain(|_, ledger| ledger.is_attached() || !ledger.is_forgettable());
        Ok(())
    }

    /// Makes everything committed so far durable in its place: no record of it is left for recovery.
    ///
    /// # Errors
    /// As [`settle`](Self::settle).
    pub fn checkpoint_all(&self) -> io::Result<()> {
        if let Some(lap) = self.journal.full_lap() {
            self.checkpoint(lap)?;
        }
        match self.journal.turn() {
            Some(lap) => self.checkpoint(lap),
            // Another one has turned it meanwhile, or there is nothing.
            None => self.journal.full_lap().map_or(Ok(()), |lap| self.checkpoint(lap)),
        }
    }

    /// What the background does each time: settles, and checkpoints a segment that is full.
    ///
    /// # Errors
    /// As [`settle`](Self::settle).
    pub fn work(&self) -> io::Result<()> {
        self.settle()?;
        match self.journal.full_lap() {
            Some(lap) => self.checkpoint(lap),
            None => Ok(()),
        }
    }

    /// The clean end: everything is durable in its place, and the journal says that nothing is to be recovered.
    ///
    /// # Errors
    /// As [`settle`](Self::settle); recovery is then due at the next mount.
    pub fn end(&self) -> io::Result<()> {
        let _one = self.settling.lock();
        self.settle_locked()?;
        if self.ledgers().iter().any(|ledger| ledger.is_unapplied()) {
            return Err(io::Error::other("changes are still in the journal alone"));
        }
        let live: Vec<(Arc<Ledger>, u64)> =
            self.ledgers().into_iter().filter(|ledger| ledger.is_live_in(u64::MAX)).map(|ledger| (ledger, 0)).collect();
        self.flush_all(&live)?;
        self.journal.end()?;
        self.ended.store(true, Ordering::Release);
        Ok(())
    }

    /// True after [`end`](Self::end).
    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Lets go of all files, whatever is left to do for them: the journal has what is to be recovered.
    pub fn abandon(&self) {
        self.files.lock().clear();
    }
}

/// A journal file and the head that counts.
type OpenJournal = (Arc<dyn BackingFile>, Head);

/// The journal of a volume; `None` if there is none yet.
fn open_journal(control: &dyn BackingDir, volume: [u8; 16], access: Access) -> Result<Option<OpenJournal>, StoreError> {
    let file = match control.open_file(OsStr::new(JOURNAL), access) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    match Head::read(&*file)? {
        None => Err(StoreError::Foreign("is damaged: neither of its heads can be read")),
        Some(head) if head.volume != volume => Err(StoreError::Foreign("belongs to another volume")),
        Some(head) => Ok(Some((file, head))),
    }
}

fn wanted_len(root: &dyn BackingDir, asked: Option<u64>) -> io::Result<u64> {
    if let Some(len) = asked {
        return Ok(len);
    }
    let volume = root.stat_volume()?;
    let share = volume.blocks.saturating_mul(volume.fragment_size) / SHARE_OF_VOLUME;
    Ok(share.clamp(journal::MIN_LEN, DEFAULT_LEN))
}

/// Makes a journal, complete and durable before it has its name. Zeros are written, not only reserved: a flush of a record in
/// blocks that were written before changes no metadata.
fn make_journal(
    root: &dyn BackingDir,
    control: &dyn BackingDir,
    volume: [u8; 16],
    len: u64,
    old: Option<Head>,
) -> Result<OpenJournal, StoreError> {
    const STEP: usize = 1 << 20;
    let name = OsStr::new(NEW_JOURNAL);
    match control.unlink(name) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    let file = control.create_file(name, 0o600)?;
    let head = Head {
        volume,
        generation: old.as_ref().map_or(0, |old| old.generation) + 1,
        segment_len: journal::segment_len(len),
        session: old.as_ref().map_or(0, |old| old.session),
        tail: old.as_ref().map_or(1, |old| old.tail),
        valid: 0,
        boot: [0; 16],
        clean: true,
    };
    let zeros = vec![0; STEP];
    let end = head.journal_len();
    let written = (0..end)
        .step_by(STEP)
        .try_for_each(|at| {
            let part = zeros.get(..STEP.min((end - at) as usize)).unwrap_or_default();
            file.write_all_vectored_at(&mut [io::IoSlice::new(part)], at)
        })
        .and_then(|()| head.write(&*file))
        .and_then(|()| file.sync(true));
    if let Err(error) = written {
        // On a full disk the attempt should not take the last space away.
        let _ = control.unlink(name);
        return Err(error.into());
    }
    control.rename(name, control, OsStr::new(JOURNAL), super::RenameHow::Replace)?;
    control.sync()?;
    root.sync()?;
    Ok((file, head))
}
