//! A backing directory that refuses: every call below `Fs` in turn fails, once or from then on, and nothing that was acknowledged
//! is lost by it (promise D5).
//!
//! A fixed workload runs once to count its calls, then again for each of them. An operation during which the fault struck returns
//! its errno or succeeds. Afterwards, without faults, everything is read back through the same `Fs` and through a fresh one on the same
//! directory, and must be what the operations that returned left; files are judged chunk by chunk ([`crate::history`]).
//!
//! Short writes leave half of the bytes and fail. Short reads cannot be had through the trait: there a short count means the end of the file,
//! and a changed file is what the tampering tests are about. A failed flush either leaves what was to be flushed, or takes it away, as a
//! kernel does that drops the pages it could not write and counts them as clean; a later flush then succeeds without it.

use std::any::Any;
use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::io::{self, IoSlice, IoSliceMut};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use envelopefs::fs::{
    Caller, Fallocate, Fs, FsError, FsOptions, HandleId, Ino, Kind, OpenHow, RenameHow, SetAttr, SetTime, WriteHow,
    XattrHow,
};
use envelopefs::keys::KeyRing;
use envelopefs::store::{
    Access, BackingDir, BackingFile, DirEntry, DirStream, JOURNAL_MIN, Stat, StoreOptions, VolumeStat, open_root,
};
use uuid::Uuid;

use crate::history::{Bound, Change, History};
use crate::random::number_from;

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Fault {
    /// Number of the call that fails, from 0.
    at: u64,
    errno: i32,
    /// All later calls fail as well.
    onward: bool,
    /// A write leaves half of its bytes, a flush takes away what it was to flush.
    half: bool,
}

/// What all wrappers of one backing directory share.
#[derive(Debug, Default)]
struct Faults {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Names of the calls so far.
    calls: Vec<&'static str>,
    fault: Option<Fault>,
    /// Nothing fails and nothing is counted: the test itself looks.
    suspended: bool,
    flush_failed: bool,
    /// What was overwritten since the last flush, by device and inode number: kept only for a flush that takes it away.
    dirty: HashMap<(u64, u64), Vec<Overwritten>>,
}

#[derive(Debug)]
struct Overwritten {
    file: Arc<dyn BackingFile>,
    offset: u64,
    old: Vec<u8>,
}

impl Faults {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a call; gives the fault that strikes it.
    fn strike(&self, call: &'static str) -> Option<Fault> {
        let mut state = self.state();
        if state.suspended {
            return None;
        }
        let number = state.calls.len() as u64;
        state.calls.push(call);
        let struck = state.fault.filter(|fault| number == fault.at || (fault.onward && number > fault.at));
        state.flush_failed |= struck.is_some() && is_flush(call);
        struck
    }

    fn check(&self, call: &'static str) -> io::Result<()> {
        self.strike(call).map_or(Ok(()), |fault| Err(io::Error::from_raw_os_error(fault.errno)))
    }

    fn suspend(&self, suspended: bool) {
        self.state().suspended = suspended;
    }

    /// The fault struck already.
    fn has_struck(&self) -> bool {
        let state = self.state();
        state.fault.is_some_and(|fault| state.calls.len() as u64 > fault.at)
    }

    /// Name of the call that failed first.
    fn struck_call(&self) -> Option<&'static str> {
        let state = self.state();
        state.calls.get(usize::try_from(state.fault?.at).ok()?).copied()
    }

    fn takes_away(&self) -> bool {
        self.state().fault.is_some_and(|fault| fault.half)
    }

    /// A flush failed and data with it.
    fn took_away(&self) -> bool {
        self.damaged() && self.state().flush_failed
    }

    /// Something was written by half, or taken away.
    fn damaged(&self) -> bool {
        self.takes_away() && self.has_struck()
    }
}

/// True for the calls that make something durable.
fn is_flush(call: &str) -> bool {
    matches!(call, "sync" | "sync_dir" | "sync_all")
}

#[derive(Debug)]
struct FaultyDir {
    real: Arc<dyn BackingDir>,
    faults: Arc<Faults>,
}

impl FaultyDir {
    fn file(&self, real: Arc<dyn BackingFile>) -> Arc<dyn BackingFile> {
        Arc::new(FaultyFile { real, faults: self.faults.clone() })
    }

    fn peer(dir: &dyn BackingDir) -> io::Result<&dyn BackingDir> {
        let peer: Option<&FaultyDir> = dir.as_any().downcast_ref();
        peer.map(|peer| &*peer.real).ok_or_else(|| io::Error::from_raw_os_error(libc::EXDEV))
    }
}

impl BackingDir for FaultyDir {
    fn open_dir(&self, name: &OsStr) -> io::Result<Arc<dyn BackingDir>> {
        self.faults.check("open_dir")?;
        Ok(Arc::new(FaultyDir { real: self.real.open_dir(name)?, faults: self.faults.clone() }))
    }

    fn list(&self) -> io::Result<Box<dyn DirStream>> {
        self.faults.check("list")?;
        Ok(Box::new(FaultyStream { real: self.real.list()?, faults: self.faults.clone() }))
    }

    fn stat(&self, name: &OsStr) -> io::Result<Stat> {
        self.faults.check("stat")?;
        self.real.stat(name)
    }

    fn create_file(&self, name: &OsStr, mode: u32) -> io::Result<Arc<dyn BackingFile>> {
        self.faults.check("create_file")?;
        Ok(self.file(self.real.create_file(name, mode)?))
    }

    fn open_file(&self, name: &OsStr, access: Access) -> io::Result<Arc<dyn BackingFile>> {
        self.faults.check("open_file")?;
        Ok(self.file(self.real.open_file(name, access)?))
    }

    fn pin(&self, name: &OsStr) -> io::Result<Arc<dyn BackingFile>> {
        self.faults.check("pin")?;
        Ok(self.file(self.real.pin(name)?))
    }

    fn make_dir(&self, name: &OsStr, mode: u32) -> io::Result<()> {
        self.faults.check("make_dir")?;
        self.real.make_dir(name, mode)
    }

    fn make_node(&self, name: &OsStr, mode: u32, rdev: u64) -> io::Result<()> {
        self.faults.check("make_node")?;
        self.real.make_node(name, mode, rdev)
    }

    fn make_symlink(&self, name: &OsStr, target: &OsStr) -> io::Result<()> {
        self.faults.check("make_symlink")?;
        self.real.make_symlink(name, target)
    }

    fn read_link(&self, name: &OsStr) -> io::Result<OsString> {
        self.faults.check("read_link")?;
        self.real.read_link(name)
    }

    fn link(&self, name: &OsStr, to: &dyn BackingDir, to_name: &OsStr) -> io::Result<()> {
        self.faults.check("link")?;
        self.real.link(name, FaultyDir::peer(to)?, to_name)
    }

    fn rename(&self, name: &OsStr, to: &dyn BackingDir, to_name: &OsStr, how: RenameHow) -> io::Result<()> {
        self.faults.check("rename")?;
        self.real.rename(name, FaultyDir::peer(to)?, to_name, how)
    }

    fn unlink(&self, name: &OsStr) -> io::Result<()> {
        self.faults.check("unlink")?;
        self.real.unlink(name)
    }

    fn remove_dir(&self, name: &OsStr) -> io::Result<()> {
        self.faults.check("remove_dir")?;
        self.real.remove_dir(name)
    }

    fn set_mode(&self, name: &OsStr, mode: u32) -> io::Result<()> {
        self.faults.check("set_mode")?;
        self.real.set_mode(name, mode)
    }

    fn set_owner(&self, name: &OsStr, uid: Option<u32>, gid: Option<u32>) -> io::Result<()> {
        self.faults.check("set_owner")?;
        self.real.set_owner(name, uid, gid)
    }

    fn set_times(&self, name: &OsStr, atime: SetTime, mtime: SetTime) -> io::Result<()> {
        self.faults.check("set_times")?;
        self.real.set_times(name, atime, mtime)
    }

    fn get_xattr(&self, name: &OsStr, attr: &OsStr) -> io::Result<Vec<u8>> {
        self.faults.check("get_xattr")?;
        self.real.get_xattr(name, attr)
    }

    fn set_xattr(&self, name: &OsStr, attr: &OsStr, value: &[u8], how: XattrHow) -> io::Result<()> {
        self.faults.check("set_xattr")?;
        self.real.set_xattr(name, attr, value, how)
    }

    fn list_xattrs(&self, name: &OsStr) -> io::Result<Vec<OsString>> {
        self.faults.check("list_xattrs")?;
        self.real.list_xattrs(name)
    }

    fn remove_xattr(&self, name: &OsStr, attr: &OsStr) -> io::Result<()> {
        self.faults.check("remove_xattr")?;
        self.real.remove_xattr(name, attr)
    }

    fn sync(&self) -> io::Result<()> {
        // The power stays on, so a flush that succeeds has nothing to do.
        self.faults.check("sync_dir")
    }

    fn sync_all(&self) -> io::Result<()> {
        let struck = self.faults.strike("sync_all");
        let dirty = std::mem::take(&mut self.faults.state().dirty);
        let Some(fault) = struck else { return Ok(()) };
        dirty.into_values().for_each(take_away);
        Err(io::Error::from_raw_os_error(fault.errno))
    }

    fn stat_volume(&self) -> io::Result<VolumeStat> {
        self.faults.check("stat_volume")?;
        self.real.stat_volume()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

struct FaultyStream {
    real: Box<dyn DirStream>,
    faults: Arc<Faults>,
}

impl DirStream for FaultyStream {
    fn seek(&mut self, offset: i64) -> io::Result<()> {
        self.faults.check("seek")?;
        self.real.seek(offset)
    }

    fn next(&mut self) -> io::Result<Option<DirEntry>> {
        self.faults.check("next")?;
        self.real.next()
    }
}

#[derive(Debug)]
struct FaultyFile {
    real: Arc<dyn BackingFile>,
    faults: Arc<Faults>,
}

impl FaultyFile {
    fn identity(&self) -> (u64, u64) {
        self.real.stat().map(|stat| (stat.dev, stat.ino)).expect("fstat")
    }

    /// Remembers what a write is about to replace.
    fn keep_old(&self, offset: u64, len: usize) {
        if !self.faults.takes_away() {
            return;
        }
        let mut old = vec![0; len];
        // Behind the end the zeros stay: that is what a place reads as whose data never arrived.
        self.real.read_vectored_at(&mut [IoSliceMut::new(&mut old)], offset).expect("pread");
        let overwritten = Overwritten { file: self.real.clone(), offset, old };
        self.faults.state().dirty.entry(self.identity()).or_default().push(overwritten);
    }

    /// A range was cut off or punched out: nothing of it comes back.
    fn clear_old(&self, from: u64, to: u64) {
        if !self.faults.takes_away() {
            return;
        }
        let identity = self.identity();
        for entry in self.faults.state().dirty.entry(identity).or_default() {
            for (at, byte) in (entry.offset..).zip(&mut entry.old) {
                if (from..to).contains(&at) {
                    *byte = 0;
                }
            }
        }
    }
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|&byte| byte == 0)
}

/// Undoes writes of one file, the last one first; its length and what is allocated stay.
fn take_away(dirty: Vec<Overwritten>) {
    for Overwritten { file, offset, mut old } in dirty.into_iter().rev() {
        let len = file.stat().expect("fstat").size;
        old.truncate(usize::try_from(len.saturating_sub(offset)).expect("a small file"));
        file.write_all_vectored_at(&mut [IoSlice::new(&old)], offset).expect("pwrite");
    }
}

impl BackingFile for FaultyFile {
    fn open_pinned(&self, access: Access) -> io::Result<Arc<dyn BackingFile>> {
        self.faults.check("open_pinned")?;
        Ok(Arc::new(FaultyFile { real: self.real.open_pinned(access)?, faults: self.faults.clone() }))
    }

    fn read_vectored_at(&self, bufs: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<usize> {
        self.faults.check("read")?;
        self.real.read_vectored_at(bufs, offset)
    }

    fn write_all_vectored_at(&self, bufs: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        let struck = self.faults.strike("write");
        let len = bufs.iter().map(|buf| buf.len()).sum();
        match struck {
            // A hole reads the same, and a journal of zeros is soon made.
            None if len >= 1 << 20 && self.real.stat()?.size <= offset && bufs.iter().all(|buf| is_zero(buf)) => {
                self.real.set_len(offset + len as u64)
            }
            None => {
                self.keep_old(offset, len);
                self.real.write_all_vectored_at(bufs, offset)
            }
            Some(fault) => {
                if fault.half {
                    let half = len / 2;
                    self.keep_old(offset, half);
                    let all = bufs.iter().flat_map(|buf| buf.iter().copied()).collect::<Vec<u8>>();
                    self.real.write_all_vectored_at(&mut [IoSlice::new(&all[..half])], offset)?;
                }
                Err(io::Error::from_raw_os_error(fault.errno))
            }
        }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.faults.check("set_len")?;
        self.real.set_len(len)?;
        self.clear_old(len, u64::MAX);
        Ok(())
    }

    fn reserve(&self, offset: u64, len: u64) -> io::Result<()> {
        self.faults.check("reserve")?;
        self.real.reserve(offset, len)
    }

    fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()> {
        self.faults.check("punch_hole")?;
        self.real.punch_hole(offset, len)?;
        self.clear_old(offset, offset.saturating_add(len));
        Ok(())
    }

    fn sync(&self, _metadata: bool) -> io::Result<()> {
        let struck = self.faults.strike("sync");
        let dirty = self.faults.state().dirty.remove(&self.identity()).unwrap_or_default();
        match struck {
            None => Ok(()),
            Some(fault) => {
                take_away(dirty);
                Err(io::Error::from_raw_os_error(fault.errno))
            }
        }
    }

    fn stat(&self) -> io::Result<Stat> {
        self.faults.check("fstat")?;
        self.real.stat()
    }

    fn set_mode(&self, mode: u32) -> io::Result<()> {
        self.faults.check("fchmod")?;
        self.real.set_mode(mode)
    }

    fn set_owner(&self, uid: Option<u32>, gid: Option<u32>) -> io::Result<()> {
        self.faults.check("fchown")?;
        self.real.set_owner(uid, gid)
    }

    fn set_times(&self, atime: SetTime, mtime: SetTime) -> io::Result<()> {
        self.faults.check("futimens")?;
        self.real.set_times(atime, mtime)
    }

    fn get_xattr(&self, attr: &OsStr) -> io::Result<Vec<u8>> {
        self.faults.check("fgetxattr")?;
        self.real.get_xattr(attr)
    }

    fn set_xattr(&self, attr: &OsStr, value: &[u8], how: XattrHow) -> io::Result<()> {
        self.faults.check("fsetxattr")?;
        self.real.set_xattr(attr, value, how)
    }

    fn list_xattrs(&self) -> io::Result<Vec<OsString>> {
        self.faults.check("flistxattr")?;
        self.real.list_xattrs()
    }

    fn remove_xattr(&self, attr: &OsStr) -> io::Result<()> {
        self.faults.check("fremovexattr")?;
        self.real.remove_xattr(attr)
    }
}

const ROOT: Caller = Caller { uid: 0, gid: 0, pid: 0 };
const WRITE: OpenHow = OpenHow { write: true, truncate: false, sync: false };
const NOTE: &str = "user.note";

fn start(root: Arc<dyn BackingDir>, ring: &Arc<KeyRing>) -> Result<Fs, FsError> {
    start_under(StoreOptions::of_this_kernel(), root, ring)
}

/// The one place that builds an `Fs`.
fn start_under(kernel: StoreOptions, root: Arc<dyn BackingDir>, ring: &Arc<KeyRing>) -> Result<Fs, FsError> {
    let store = StoreOptions { journal_len: Some(JOURNAL_MIN), ..kernel };
    let options = FsOptions { read_only: false, give_to_caller: false, store };
    Fs::new(root, ring.clone(), options)
}

/// One operation of the workload, by paths relative to the root. What has no sense after an earlier failure is left out.
#[derive(Debug, Clone)]
enum Op {
    /// Creates a file and keeps it open.
    Create(&'static str),
    Open(&'static str),
    Close(&'static str),
    Write(&'static str, u64, usize),
    Read(&'static str),
    Fsync(&'static str),
    Fdatasync(&'static str),
    Punch(&'static str, u64, u64),
    Truncate(&'static str, u64),
    SetNote(&'static str, usize),
    Chmod(&'static str, u32),
    Mkdir(&'static str),
    Rmdir(&'static str),
    Symlink(&'static str, usize),
    Link(&'static str, &'static str),
    Rename(&'static str, &'static str),
    Unlink(&'static str),
    List(&'static str),
    FsyncDir(&'static str),
    CommitAll,
}

/// 176 bytes and more are stored with a side link.
const LONG: &str = "long-long-long-long-long-long-long-long-long-long-long-long-long-long-long-long-long-long-\
                    long-long-long-long-long-long-long-long-long-long-long-long-long-long-long-long-long-name";

fn workload() -> Vec<Op> {
    use Op::*;
    vec![
        // Inline, then with a tree, then with a tree of two levels; each state made durable.
        Create("a"),
        Write("a", 0, 1000),
        Fsync("a"),
        Write("a", 500, 20_000),
        Fdatasync("a"),
        Write("a", 8192, 4096),
        Write("a", 100, 50),
        Fdatasync("a"),
        Write("a", 530_000, 9000),
        Fsync("a"),
        Write("a", 4096, 12_288),
        Read("a"),
        Close("a"),
        // Atomic replacement.
        Create("a.new"),
        Write("a.new", 0, 30_000),
        Fsync("a.new"),
        Close("a.new"),
        Rename("a.new", "a"),
        // Closed without a flush, changed, closed again.
        Create("b"),
        Write("b", 0, 70_000),
        Close("b"),
        Open("b"),
        Write("b", 4000, 10_000),
        Punch("b", 8192, 16_384),
        Close("b"),
        Open("b"),
        Write("b", 9000, 300),
        Truncate("b", 50_000),
        Write("b", 49_000, 5000),
        Fsync("b"),
        Write("b", 20_480, 4096),
        Fsync("b"),
        Truncate("b", 0),
        Write("b", 0, 6000),
        CommitAll,
        Write("b", 3000, 3000),
        CommitAll,
        // Appends, flushed and not.
        Create("log"),
        Write("log", 0, 512),
        Fdatasync("log"),
        Write("log", 512, 512),
        Write("log", 1024, 512),
        Fdatasync("log"),
        Write("log", 1536, 6000),
        Fdatasync("log"),
        Write("log", 7536, 512),
        // Names.
        Mkdir("d"),
        Create("d/f"),
        Write("d/f", 0, 5000),
        Close("d/f"),
        SetNote("d/f", 300),
        Chmod("d/f", 0o600),
        Link("d/f", LONG),
        Rename("d", "e"),
        FsyncDir("e"),
        Symlink("short", 20),
        Symlink("e/far", 3500),
        List("e"),
        SetNote("e/f", 20),
        Mkdir("e/g"),
        Rename("e/g", "h"),
        Rmdir("h"),
        // A file without a name is one all the same.
        Open("e/f"),
        Write("e/f", 0, 100),
        Unlink("e/f"),
        Write("e/f", 4096, 4096),
        Fsync("e/f"),
        Read("e/f"),
        Close("e/f"),
        Unlink(LONG),
        Unlink("e/far"),
        Fsync("log"),
        Read("b"),
        Close("b"),
        Close("log"),
    ]
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Node {
    Dir,
    /// Index among the files.
    File(usize),
    Symlink(String),
}

type Tree = BTreeMap<String, Node>;

/// What a file may be.
#[derive(Debug, Default)]
struct Expected {
    contents: History,
    /// Values its attribute may have.
    notes: Vec<Option<Vec<u8>>>,
    /// Half a block was written to it while it was not durable, and the damage was found: later flushes do not heal it.
    lost: bool,
    /// All contents that were durable at some time.
    durable: Vec<Vec<u8>>,
}

impl Expected {
    fn durable(&mut self) {
        self.contents.durable();
        self.durable.push(self.contents.now().to_vec());
    }

    fn was_durable(&self, found: &[u8]) -> bool {
        self.durable.iter().any(|contents| contents == found)
    }
}

#[derive(Debug, Clone, Copy)]
struct Open {
    handle: HandleId,
    file: usize,
    /// A flush through this handle failed.
    failed_flush: bool,
}

/// An entry as it was found: with the contents of a file or the target of a symlink.
struct Found {
    kind: Kind,
    contents: Result<Vec<u8>, i32>,
    note: Option<Vec<u8>>,
}

/// In memory if that will do, which makes the sweeps several times as fast: tmpfs takes attributes of users since Linux 6.6.
fn scratch() -> tempfile::TempDir {
    let in_memory = tempfile::tempdir_in("/dev/shm").ok().filter(|dir| {
        let flags = rustix::fs::XattrFlags::CREATE;
        rustix::fs::setxattr(dir.path(), NOTE, b"", flags)
            .is_ok_and(|()| rustix::fs::removexattr(dir.path(), NOTE).is_ok())
    });
    in_memory.unwrap_or_else(|| tempfile::tempdir().expect("scratch directory"))
}

/// A filesystem on a backing directory that fails, and what it is known to hold.
struct World {
    backing: tempfile::TempDir,
    ring: Arc<KeyRing>,
    faults: Arc<Faults>,
    tree: Tree,
    /// The tree once the operation under way has taken effect.
    next: Option<Tree>,
    files: Vec<Expected>,
    open: BTreeMap<&'static str, Open>,
    /// Number of writes so far: no two are alike.
    writes: u64,
    /// What an operation did that is wrong.
    complaint: Option<String>,
    /// This is the filesystem started after all.
    restarted: bool,
}

/// What an operation came to: its errno, or nothing if it does not apply.
type Outcome = Option<Result<(), i32>>;

fn errno<T>(result: Result<T, FsError>) -> Result<T, i32> {
    result.map_err(|error| error.errno())
}

impl World {
    fn new() -> World {
        // Modes come masked already.
        rustix::process::umask(rustix::fs::Mode::empty());
        let backing = scratch();
        std::fs::create_dir(backing.path().join(".envelopefs")).expect("mkdir");
        World {
            backing,
            ring: Arc::new(KeyRing::generate(Uuid::new_v4())),
            faults: Arc::default(),
            tree: Tree::new(),
            next: None,
            files: Vec::new(),
            open: BTreeMap::new(),
            writes: 0,
            complaint: None,
            restarted: false,
        }
    }

    fn faulty_root(&self) -> Arc<dyn BackingDir> {
        let real = open_root(self.backing.path()).expect("open the root");
        Arc::new(FaultyDir { real, faults: self.faults.clone() })
    }

    fn lookup(fs: &Fs, path: &str) -> Result<Ino, i32> {
        path.split('/').filter(|name| !name.is_empty()).try_fold(Ino::ROOT, |dir, name| {
            let entry = errno(fs.lookup(dir, OsStr::new(name)))?;
            Ok(entry.attr.ino)
        })
    }

    /// The directory of a path, and its last name.
    fn parent<'p>(fs: &Fs, path: &'p str) -> Result<(Ino, &'p OsStr), i32> {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        Ok((World::lookup(fs, dir)?, OsStr::new(name)))
    }

    fn file_at(&self, path: &str) -> Option<usize> {
        match self.tree.get(path) {
            Some(&Node::File(file)) => Some(file),
            _ => None,
        }
    }

    /// There is room for an entry of this path.
    fn is_free(&self, path: &str) -> bool {
        let dir = path.rsplit_once('/').map_or("", |(dir, _)| dir);
        !self.tree.contains_key(path) && (dir.is_empty() || self.tree.get(dir) == Some(&Node::Dir))
    }

    /// The tree with an entry moved or, without a new path, removed.
    fn moved(&self, from: &str, to: Option<&str>) -> Tree {
        let mut tree = self.tree.clone();
        if let Some(to) = to {
            tree.remove(to);
        }
        let below = |path: &String| {
            path.strip_prefix(from).filter(|rest| rest.is_empty() || rest.starts_with('/')).map(String::from)
        };
        tree.into_iter()
            .filter_map(|(path, node)| match (below(&path), to) {
                (Some(rest), Some(to)) => Some((format!("{to}{rest}"), node)),
                (Some(_), None) => None,
                (None, _) => Some((path, node)),
            })
            .collect()
    }

    /// Does an operation.
    fn apply(&mut self, fs: &Fs, op: &Op) -> Outcome {
        match *op {
            Op::Create(path) => {
                if !self.is_free(path) || self.open.contains_key(path) {
                    return None;
                }
                self.files.push(Expected { notes: vec![None], ..Expected::default() });
                let file = self.files.len() - 1;
                self.next = Some(self.with(path, Node::File(file)));
                let made =
                    World::parent(fs, path).and_then(|(dir, name)| errno(fs.create(&ROOT, dir, name, 0o644, 0, WRITE)));
                Some(made.map(|(_, handle)| {
                    self.open.insert(path, Open { handle, file, failed_flush: false });
                }))
            }
            Op::Open(path) => {
                let file = self.file_at(path)?;
                let opened = World::lookup(fs, path).and_then(|ino| errno(fs.open(&ROOT, ino, WRITE)));
                Some(opened.map(|handle| {
                    self.open.insert(path, Open { handle, file, failed_flush: false });
                }))
            }
            Op::Close(path) => {
                let open = self.open.remove(path)?;
                let (flushed, released) = (errno(fs.flush(open.handle)), errno(fs.release(open.handle)));
                let closed = flushed.and(released);
                if closed.is_ok() {
                    self.files[open.file].contents.handed_over();
                }
                Some(closed)
            }
            Op::Write(path, at, len) => {
                let open = *self.open.get(path)?;
                self.writes += 1;
                let word = self.writes.wrapping_mul(0x9e37_79b9_7f4a_7c15);
                let data: Vec<u8> =
                    (0..len).map(|i| (word >> (i % 8 * 8)) as u8 ^ (i >> 3) as u8 ^ (i >> 11) as u8).collect();
                self.files[open.file].contents.push(Change::Write { at, data: data.clone() });
                Some(errno(fs.write(open.handle, at, &data, WriteHow::default())))
            }
            Op::Read(path) => {
                let open = *self.open.get(path)?;
                let read = contents(fs, open.handle);
                if read.is_ok() {
                    self.complaint = self.judge(open.file, &read, Bound::Returned).err();
                }
                Some(read.map(|_| ()))
            }
            Op::Fsync(path) => self.fsync(fs, path, false),
            Op::Fdatasync(path) => self.fsync(fs, path, true),
            Op::Punch(path, at, len) => {
                let open = *self.open.get(path)?;
                self.files[open.file].contents.push(Change::Punch { at, len });
                Some(errno(fs.fallocate(&ROOT, open.handle, at, len, Fallocate::PunchHole)))
            }
            Op::Truncate(path, len) => {
                let file = self.file_at(path)?;
                self.files[file].contents.push(Change::Truncate(len));
                Some(self.set_attr(fs, path, SetAttr { size: Some(len), ..KEEP }))
            }
            Op::Chmod(path, mode) => {
                self.file_at(path)?;
                Some(self.set_attr(fs, path, SetAttr { mode: Some(mode), ..KEEP }))
            }
            Op::SetNote(path, len) => {
                let file = self.file_at(path)?;
                let value = vec![len as u8; len];
                self.files[file].notes.push(Some(value.clone()));
                let set = World::lookup(fs, path)
                    .and_then(|ino| errno(fs.setxattr(&ROOT, ino, OsStr::new(NOTE), &value, XattrHow::Set)));
                if set.is_ok() {
                    self.files[file].notes = vec![Some(value)];
                }
                Some(set)
            }
            Op::Mkdir(path) => {
                self.is_free(path).then_some(())?;
                self.next = Some(self.with(path, Node::Dir));
                let made = World::parent(fs, path).and_then(|(dir, name)| errno(fs.mkdir(&ROOT, dir, name, 0o755, 0)));
                Some(made.map(|_| ()))
            }
            Op::Rmdir(path) => {
                self.tree.get(path)?;
                self.next = Some(self.moved(path, None));
                Some(World::parent(fs, path).and_then(|(dir, name)| errno(fs.rmdir(dir, name))))
            }
            Op::Symlink(path, len) => {
                self.is_free(path).then_some(())?;
                let target = "t".repeat(len);
                self.next = Some(self.with(path, Node::Symlink(target.clone())));
                let made = World::parent(fs, path)
                    .and_then(|(dir, name)| errno(fs.symlink(&ROOT, dir, name, OsStr::new(&target))));
                Some(made.map(|_| ()))
            }
            Op::Link(from, to) => {
                let node = self.tree.get(from)?.clone();
                self.is_free(to).then_some(())?;
                self.next = Some(self.with(to, node));
                let linked = World::lookup(fs, from).and_then(|ino| {
                    let (dir, name) = World::parent(fs, to)?;
                    errno(fs.link(ino, dir, name))
                });
                Some(linked.map(|_| ()))
            }
            Op::Rename(from, to) => {
                self.tree.get(from)?;
                self.next = Some(self.moved(from, Some(to)));
                Some(World::parent(fs, from).and_then(|(dir, name)| {
                    let (to_dir, to_name) = World::parent(fs, to)?;
                    errno(fs.rename(dir, name, to_dir, to_name, RenameHow::Replace))
                }))
            }
            Op::Unlink(path) => {
                self.tree.get(path)?;
                self.next = Some(self.moved(path, None));
                Some(World::parent(fs, path).and_then(|(dir, name)| errno(fs.unlink(dir, name))))
            }
            Op::List(path) => {
                self.tree.get(path)?;
                Some(World::lookup(fs, path).and_then(|ino| list(fs, ino)).map(|_| ()))
            }
            Op::FsyncDir(path) => {
                self.tree.get(path)?;
                Some(World::lookup(fs, path).and_then(|ino| errno(fs.opendir(ino))).and_then(|handle| {
                    let synced = errno(fs.fsyncdir(handle));
                    fs.releasedir(handle);
                    synced
                }))
            }
            Op::CommitAll => {
                let committed = errno(fs.commit_all());
                if committed.is_ok() {
                    self.files.iter_mut().for_each(Expected::durable);
                }
                Some(committed)
            }
        }
    }

    fn with(&self, path: &str, node: Node) -> Tree {
        let mut tree = self.tree.clone();
        tree.insert(path.into(), node);
        tree
    }

    fn set_attr(&self, fs: &Fs, path: &str, set: SetAttr) -> Result<(), i32> {
        World::lookup(fs, path).and_then(|ino| errno(fs.setattr(&ROOT, ino, &set))).map(|_| ())
    }

    fn fsync(&mut self, fs: &Fs, path: &'static str, data_only: bool) -> Outcome {
        let struck_before = self.faults.has_struck();
        let open = self.open.get_mut(path)?;
        let synced = errno(fs.fsync(open.handle, data_only));
        if synced.is_ok() {
            if open.failed_flush {
                self.complaint = Some("a flush failed, and a later one says that all is safe".into());
            }
            self.files[open.file].durable();
        } else if !struck_before && self.faults.struck_call().is_some_and(is_flush) {
            open.failed_flush = true;
        }
        Some(synced)
    }

    /// Takes an operation's outcome into account.
    fn settle(&mut self, fs: &Fs, op: &Op, outcome: Result<(), i32>) -> Result<(), String> {
        let next = self.next.take();
        if outcome.is_ok() {
            self.tree = next.unwrap_or(std::mem::take(&mut self.tree));
            self.files.iter_mut().for_each(|file| file.contents.returned());
            return Ok(());
        }
        // It may have taken effect or not, but nothing else may have. A file that was closed is read from what is stored.
        let bound = if matches!(op, Op::Close(_)) { Bound::HandedOver } else { Bound::Returned };
        self.faults.suspend(true);
        let verdict = self.adopt(fs, next, bound);
        self.faults.suspend(false);
        verdict
    }

    /// Compares everything with what it may be, and goes on from what it is.
    fn adopt(&mut self, fs: &Fs, next: Option<Tree>, bound: Bound) -> Result<(), String> {
        let found = survey(fs)?;
        // Before the operation under way or after it: whichever fits.
        let mut verdict = self.matches(&self.tree, &found, bound);
        if let Some(next) = next
            && let Err(before) = &verdict
        {
            verdict = self.matches(&next, &found, bound).map_err(|after| format!("{before}; or {after}"));
            self.tree = next;
        }
        verdict?;
        let mut seen = BTreeMap::new();
        for open in self.open.values() {
            let read = contents(fs, open.handle);
            self.judge(open.file, &read, bound).map_err(|error| format!("file {}: {error}", open.file))?;
            let note = self.files[open.file].notes.last().cloned().flatten();
            seen.insert(open.file, Found { kind: Kind::File, contents: read, note });
        }
        for (path, found) in found {
            if let Some(&Node::File(file)) = self.tree.get(&path) {
                seen.insert(file, found);
            }
        }
        for (file, found) in seen {
            self.files[file].notes = vec![found.note];
            match found.contents {
                Ok(contents) => self.files[file].contents.saw(&contents),
                // Judged to be allowed. (What a failed flush took away must not be called durable later.)
                Err(_) => self.files[file].lost |= !self.faults.took_away(),
            }
        }
        Ok(())
    }

    fn matches(&self, expected: &Tree, found: &Survey, bound: Bound) -> Result<(), String> {
        if !expected.keys().eq(found.keys()) {
            return Err(format!("names {:?} instead of {:?}", found.keys(), expected.keys()));
        }
        for ((path, node), found) in expected.iter().zip(found.values()) {
            let verdict = match (node, found.kind) {
                (Node::Dir, Kind::Dir) => Ok(()),
                (Node::File(file), Kind::File) if self.files[*file].notes.contains(&found.note) => {
                    self.judge(*file, &found.contents, bound)
                }
                (Node::File(_), Kind::File) => Err(format!("its attribute is {:?}", found.note)),
                (Node::Symlink(target), Kind::Symlink) if found.contents.as_deref() == Ok(target.as_bytes()) => Ok(()),
                (Node::Symlink(_), Kind::Symlink) => Err(format!("it leads to {:?}", found.contents)),
                (_, kind) => Err(format!("it is a {kind:?}")),
            };
            verdict.map_err(|error| format!("{path}: {error}"))?;
        }
        Ok(())
    }

    fn judge(&self, file: usize, found: &Result<Vec<u8>, i32>, bound: Bound) -> Result<(), String> {
        let contents = &self.files[file].contents;
        // A file that never was durable is written in place, and so are new chunks: half of one is damage, found as long as the
        // filesystem lives. What is durable by then stays.
        let firm = contents.is_settled() && (self.restarted || contents.is_durable()) && !self.files[file].lost;
        match found {
            Err(_) if self.faults.damaged() && !firm => Ok(()),
            Err(errno) => Err(format!("does not read: {}", io::Error::from_raw_os_error(*errno))),
            // As long as the filesystem lives, a place whose flush failed may hold what was durable before: the journal has the rest.
            Ok(found) if self.faults.took_away() && !self.restarted && self.files[file].was_durable(found) => Ok(()),
            // What was flushed with success is left for certain.
            Ok(found) if self.faults.took_away() && contents.is_settled() => contents.judge(found, Bound::Durable),
            Ok(_) if self.faults.took_away() => Ok(()),
            Ok(found) => contents.judge(found, bound),
        }
    }
}

const KEEP: SetAttr =
    SetAttr { mode: None, uid: None, gid: None, size: None, atime: SetTime::Keep, mtime: SetTime::Keep };

fn contents(fs: &Fs, handle: HandleId) -> Result<Vec<u8>, i32> {
    let (mut all, mut buf) = (Vec::new(), Vec::new());
    loop {
        let range = errno(fs.read(handle, all.len() as u64, 100_000, &mut buf))?;
        if range.is_empty() {
            return Ok(all);
        }
        all.extend_from_slice(&buf[range]);
    }
}

fn list(fs: &Fs, dir: Ino) -> Result<Vec<(String, Kind)>, i32> {
    let handle = errno(fs.opendir(dir))?;
    let mut listed = Vec::new();
    let done = errno(fs.readdir(handle, 0, &mut |item| {
        listed.push((item.name.to_string_lossy().into_owned(), item.kind));
        true
    }));
    fs.releasedir(handle);
    listed.retain(|(name, _)| name != "." && name != "..");
    done.map(|()| listed)
}

/// Everything there is, by path.
type Survey = BTreeMap<String, Found>;

fn survey(fs: &Fs) -> Result<Survey, String> {
    let mut found = Survey::new();
    let mut dirs = vec![(String::new(), Ino::ROOT)];
    while let Some((below, dir)) = dirs.pop() {
        for (name, kind) in list(fs, dir).map_err(|errno| format!("listing {below:?}: errno {errno}"))? {
            let path = format!("{below}{name}");
            let entry = fs.lookup(dir, OsStr::new(&name)).map_err(|error| format!("lookup of {path}: {error}"))?;
            let ino = entry.attr.ino;
            let (contents, note) = match kind {
                Kind::Dir => {
                    dirs.push((format!("{path}/"), ino));
                    (Ok(Vec::new()), None)
                }
                Kind::Symlink => (errno(fs.readlink(ino)), None),
                _ => (read_file(fs, ino), fs.getxattr(ino, OsStr::new(NOTE)).ok()),
            };
            found.insert(path, Found { kind, contents, note });
        }
    }
    Ok(found)
}

fn read_file(fs: &Fs, ino: Ino) -> Result<Vec<u8>, i32> {
    let open = || errno(fs.open(&ROOT, ino, OpenHow::default()));
    // Once stale: the kernel asks again (an interrupted truncation was mended).
    let handle = open().or_else(|errno| if errno == libc::ESTALE { open() } else { Err(errno) })?;
    let read = contents(fs, handle);
    errno(fs.release(handle))?;
    read
}

impl World {
    /// An operation may succeed or return the errno of the fault that has struck.
    fn refused(&self, outcome: Result<(), i32>, what: &dyn std::fmt::Debug) -> Result<(), String> {
        let fault = self.faults.state().fault;
        match outcome {
            Ok(()) => Ok(()),
            Err(errno) if self.faults.has_struck() && fault.is_some_and(|fault| fault.errno == errno) => Ok(()),
            // What is damaged or missing since then may be found by later operations.
            Err(libc::EIO) if self.faults.damaged() => Ok(()),
            Err(errno) => Err(format!("{what:?}: {}", io::Error::from_raw_os_error(errno))),
        }
    }

    /// Does an operation and judges it.
    fn step(&mut self, fs: &Fs, op: &Op) -> Result<(), String> {
        let struck_before = self.faults.has_struck();
        let Some(outcome) = self.apply(fs, op) else { return Ok(()) };
        self.refused(outcome, op)?;
        if let Some(complaint) = self.complaint.take() {
            return Err(format!("{op:?}: {complaint}"));
        }
        let once = self.faults.state().fault.is_some_and(|fault| !fault.onward);
        // A failed flush and half a block have consequences, another failure none.
        let excused = self.faults.damaged() || self.faults.struck_call().is_some_and(is_flush);
        if outcome.is_err() && struck_before && once && !excused {
            return Err(format!("{op:?} fails after the fault has passed"));
        }
        self.settle(fs, op, outcome).map_err(|error| format!("after {op:?}, {outcome:?}: {error}"))
    }

    /// What a fresh filesystem without faults finds.
    fn restart(&mut self) -> Result<(), String> {
        // The handles died with the other one.
        self.open.clear();
        self.restarted = true;
        let mut kernel = StoreOptions::of_this_kernel();
        // As long as the kernel runs, recovery counts on what was written and not flushed. Where a flush has taken that away and no
        // later call could note it, only the state after a restart of the machine is promised.
        if self.faults.took_away() && self.faults.state().fault.is_some_and(|fault| fault.onward) {
            kernel.boot = [0xff; 16];
        }
        let root = open_root(self.backing.path()).expect("open the root");
        let fresh = start_under(kernel, root, &self.ring);
        let fresh = fresh.map_err(|error| format!("a fresh start: {error}"))?;
        self.adopt(&fresh, None, Bound::HandedOver).map_err(|error| format!("in a fresh filesystem: {error}"))
    }

    fn calls(&self) -> Calls {
        std::mem::take(&mut self.faults.state().calls)
    }
}

/// Names of the calls that a run made.
type Calls = Vec<&'static str>;

/// Runs the workload under a fault and looks at the result. With `clean` the filesystem is shut down at the end, else it dies.
fn run(fault: Option<Fault>, clean: bool) -> Result<Calls, String> {
    let mut world = World::new();
    world.faults.state().fault = fault;
    match start(world.faulty_root(), &world.ring) {
        Err(error) => world.refused(Err(error.errno()), &"start")?,
        Ok(fs) => {
            for op in workload() {
                world.step(&fs, &op)?;
            }
            world.faults.suspend(true);
            world.adopt(&fs, None, Bound::Returned).map_err(|error| format!("at the end: {error}"))?;
            world.faults.suspend(false);
            let ended = if clean { errno(fs.shut_down()) } else { Err(0) };
            if clean {
                world.refused(ended, &"shut_down")?;
            }
            if ended.is_ok() {
                world.files.iter_mut().for_each(|file| file.contents.handed_over());
            }
        }
    }
    world.restart()?;
    Ok(world.calls())
}

/// Lets a filesystem die after so many operations and the next one start under a fault, which recovers or fails; the one after that
/// finds everything.
fn recover(operations: usize, fault: Option<Fault>) -> Result<Calls, String> {
    let mut world = World::new();
    let fs = start(world.faulty_root(), &world.ring).map_err(|error| error.to_string())?;
    for op in &workload()[..operations] {
        world.step(&fs, op)?;
    }
    drop(fs);
    world.open.clear();
    world.calls();
    world.faults.state().fault = fault;
    match start(world.faulty_root(), &world.ring) {
        Err(error) => world.refused(Err(error.errno()), &"start")?,
        Ok(fs) => {
            world.faults.suspend(true);
            world.adopt(&fs, None, Bound::HandedOver).map_err(|error| format!("as recovered: {error}"))?;
        }
    }
    // Whatever a flush took away, the journal has: it was written before.
    world.faults.state().flush_failed = false;
    world.restart()?;
    Ok(world.calls())
}

/// The faults to try at each call: in the full sweep each errno, else one of them in turn.
fn faults(calls: &Calls, full: bool) -> Vec<Fault> {
    const ERRNOS: [i32; 3] = [libc::ENOSPC, libc::EDQUOT, libc::EIO];
    let mut all = Vec::new();
    for (at, call) in (0..).zip(calls) {
        for onward in [false, true] {
            for half in [false, true] {
                let taken = if full { &ERRNOS[..] } else { std::slice::from_ref(&ERRNOS[(at % 3) as usize]) };
                if half && *call != "write" && !is_flush(call) {
                    continue;
                }
                all.extend(taken.iter().map(|&errno| Fault { at, errno, onward, half }));
            }
        }
    }
    all
}

/// Fails the first call of an operation, then the second and so on until it succeeds, and insists that each time it returns just
/// that error.
fn every_errno_arrives<T>(
    prepare: impl Fn(&Fs) -> Result<T, FsError>,
    operation: impl Fn(&Fs, &T) -> Result<(), FsError>,
) {
    let world = World::new();
    let fs = start(world.faulty_root(), &world.ring).expect("start");
    let prepared = prepare(&fs).expect("prepare");
    for nth in 0.. {
        let at = world.faults.state().calls.len() as u64 + nth;
        world.faults.state().fault = Some(Fault { at, errno: libc::EDQUOT, onward: true, half: false });
        let outcome = errno(operation(&fs, &prepared));
        if !world.faults.has_struck() {
            assert_eq!(outcome, Ok(()));
            return assert!(nth > 0, "no call was made");
        }
        assert_eq!(outcome, Err(libc::EDQUOT), "call {nth}, {:?}", world.faults.struck_call());
        world.faults.state().fault = None;
    }
}

#[test]
fn a_long_target_that_cannot_be_reached_is_not_called_damaged() {
    let (name, target) = (OsStr::new("far"), "t".repeat(3500));
    every_errno_arrives(
        |fs| fs.symlink(&ROOT, Ino::ROOT, name, OsStr::new(&target)),
        |fs, _| fs.lookup(Ino::ROOT, name).map(|_| ()),
    );
}

#[test]
fn a_directory_that_cannot_be_opened_for_a_link_is_not_called_missing() {
    every_errno_arrives(
        |fs| {
            let dir = fs.mkdir(&ROOT, Ino::ROOT, OsStr::new("d"), 0o755, 0)?.attr.ino;
            let (file, handle) = fs.create(&ROOT, dir, OsStr::new("f"), 0o644, 0, WRITE)?;
            fs.release(handle)?;
            // More directories than are held open.
            for n in 0..520 {
                let other = fs.mkdir(&ROOT, Ino::ROOT, OsStr::new(&format!("other-{n}")), 0o755, 0)?;
                let _ = fs.lookup(other.attr.ino, OsStr::new("f"));
            }
            Ok(file.attr.ino)
        },
        |fs, &file| fs.link(file, Ino::ROOT, OsStr::new("link")).map(|_| ()),
    );
}

/// Grown by 20 MiB, a file is flushed in the background before anybody wants that; if the flush fails, whoever wants it hears of it.
#[test]
fn a_file_that_grows_by_a_lot_is_flushed_early() {
    let growth = vec![7; 1 << 20];
    for fails in [false, true] {
        let world = World::new();
        let fs = start(world.faulty_root(), &world.ring).expect("start");
        let (_, handle) = fs.create(&ROOT, Ino::ROOT, OsStr::new("f"), 0o644, 0, WRITE).expect("create");
        let flushes = || world.faults.state().calls.iter().filter(|call| **call == "sync").count();
        let before = flushes();
        let grow = |from: u64, to: u64| {
            (from..to).for_each(|n| fs.write(handle, n << 20, &growth, WriteHow::default()).expect("write"));
            if fails {
                let at = world.faults.state().calls.len() as u64;
                world.faults.state().fault = Some(Fault { at, errno: libc::EIO, onward: false, half: false });
            }
            assert!(fs.wait_for_background(Duration::from_millis(1)));
            flushes() - before
        };
        assert_eq!(grow(0, 10), 0, "as yet it has not grown by a lot");
        world.faults.state().fault = None;
        assert_eq!(grow(10, 20), 1);
        world.faults.state().fault = None;
        assert_eq!(errno(fs.fsync(handle, true)), if fails { Err(libc::EIO) } else { Ok(()) });
        fs.stop_background();
        assert!(!fs.wait_for_background(Duration::from_secs(60)));
    }
}

#[test]
fn what_was_flushed_already_or_has_no_name_is_not_flushed_early() {
    let growth = vec![7; 1 << 20];
    for unlinks in [false, true] {
        let world = World::new();
        let fs = start(world.faulty_root(), &world.ring).expect("start");
        let name = OsStr::new("f");
        let (_, handle) = fs.create(&ROOT, Ino::ROOT, name, 0o644, 0, WRITE).expect("create");
        let grow = |from: u64, to: u64| {
            (from..to).for_each(|n| fs.write(handle, n << 20, &growth, WriteHow::default()).expect("write"));
        };
        grow(0, 10);
        match unlinks {
            true => fs.unlink(Ino::ROOT, name).expect("unlink"),
            false => fs.fsync(handle, true).expect("fsync"),
        }
        let flushes = || world.faults.state().calls.iter().filter(|call| **call == "sync").count();
        let before = flushes();
        grow(10, 20);
        assert!(fs.wait_for_background(Duration::from_millis(1)));
        assert_eq!(flushes(), before);
    }
}

/// The full sweep is asked for.
fn is_full() -> bool {
    std::env::var("ENVELOPEFS_FAULT_SWEEP").is_ok_and(|value| value == "full")
}

/// Runs all of a sweep and fails with the first of what went wrong.
fn sweep<T: std::fmt::Debug + Copy>(
    runs: &[(T, Fault)],
    calls: &Calls,
    run: impl Fn(T, Fault) -> Result<Calls, String>,
) {
    let only = number_from("ENVELOPEFS_FAULT_AT");
    let mut failures = Vec::new();
    for &(what, fault) in runs.iter().filter(|(_, fault)| only.is_none_or(|at| fault.at == at)) {
        let outcome = catch_unwind(AssertUnwindSafe(|| run(what, fault)));
        if let Err(error) = outcome.unwrap_or_else(|_| Err("a panic".into())) {
            failures.push(format!("{:?} {fault:?} {what:?}: {error}", calls.get(fault.at as usize)));
        }
    }
    eprintln!("{} calls, {} runs", calls.len(), runs.len());
    let first = failures[..failures.len().min(40)].join("\n");
    assert!(failures.is_empty(), "{} of {} runs:\n{first}", failures.len(), runs.len());
}

#[test]
fn a_failure_of_any_call_returns_its_errno_and_loses_nothing() {
    let calls = run(None, true).expect("without faults");
    let mut runs = Vec::new();
    for (number, fault) in faults(&calls, is_full()).into_iter().enumerate() {
        match is_full() {
            true => runs.extend([(false, fault), (true, fault)]),
            false => runs.push((number % 2 == 0, fault)),
        }
    }
    sweep(&runs, &calls, |clean, fault| run(Some(fault), clean));
}

#[test]
fn a_failure_of_any_call_of_a_recovery_leaves_it_to_the_next_one() {
    let all = workload().len();
    // In CI at one moment, with files open in all states.
    let moments: Vec<usize> = if is_full() { (0..=all).step_by(8).collect() } else { vec![48] };
    for operations in moments {
        let calls = recover(operations, None).expect("without faults");
        let runs: Vec<_> = faults(&calls, is_full()).into_iter().map(|fault| (operations, fault)).collect();
        sweep(&runs, &calls, |operations, fault| recover(operations, Some(fault)));
    }
}
