//! The FUSE adapter: unpacks a kernel request, makes one call to [`Fs`], replies. No decisions are made here but
//! those that are the protocol's. This room alone names the FUSE library, so another transport could take its place.
//!
//! An error is logged once, here, with operation, inode and request id. Names are never logged.

pub mod control;
mod served;
pub mod session;
mod turns;

use std::cell::RefCell;
use std::ffi::OsStr;
use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    BsdFileFlags, CopyFileRangeFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, InitFlags, IoctlFlags, KernelConfig, LockOwner, OpenAccMode, OpenFlags, RenameFlags, ReplyAttr,
    ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek,
    ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use control::Control;
use served::Served;
use turns::{Turn, Turns, Work};
use zeroize::Zeroize;

use crate::fs::{
    Attr, Caller, Entry, Fallocate, Fs, FsError, HandleId, Ino, Kind, OpenHow, RenameHow, Seek, SetAttr, SetTime,
    Timestamp, WriteHow, XattrHow,
};

/// How long the kernel may believe what it was told. The daemon owns the backing directory, so nothing changes but
/// through the kernel itself.
const TTL: Duration = Duration::from_secs(24 * 60 * 60);
/// Largest request, the kernel's own default limit (256 pages).
const MAX_WRITE: u32 = 1 << 20;
/// Requests that may wait in the background (read-ahead, write-back).
const MAX_BACKGROUND: u16 = 64;
/// Their number from which on the kernel calls the filesystem congested: three quarters, its usual proportion.
const CONGESTED: u16 = MAX_BACKGROUND / 4 * 3;

thread_local! {
    /// What a thread reads into: as large as its largest request so far, kept between requests.
    static READ_BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Serves one mounted [`Fs`] to the kernel.
pub(crate) struct Adapter {
    served: Arc<Served>,
    control: Arc<Control>,
    turns: Arc<Turns>,
}

/// The volume for one request. To be dropped after the answer, when the thread waits for its next turn.
struct Serving<'a> {
    // Dropped in this order: who waits must not keep keys.
    fs: Arc<Fs>,
    turn: Turn<'a>,
}

impl Serving<'_> {
    /// Does what may wait for the disk.
    fn at_length<T>(&self, work: impl FnOnce(&Fs) -> T) -> T {
        let result = work(&self.fs);
        self.turn.worked();
        result
    }
}

impl Deref for Serving<'_> {
    type Target = Fs;

    fn deref(&self) -> &Fs {
        &self.fs
    }
}

impl Adapter {
    pub(crate) fn new(served: Arc<Served>, control: Arc<Control>, turns: Arc<Turns>) -> Self {
        Adapter { served, control, turns }
    }

    /// For a request that is answered at once unless something is wrong or slow.
    fn fs(&self) -> Option<Serving<'_>> {
        self.serving(Work::Quick)
    }

    /// For one that waits for the disk.
    fn fs_at_length(&self) -> Option<Serving<'_>> {
        self.serving(Work::Long)
    }

    fn serving(&self, work: Work) -> Option<Serving<'_>> {
        self.served.get().map(|fs| Serving { fs, turn: self.turns.take(work) })
    }
}

/// The errno once the keys were taken away, and the end of what this thread read with them.
fn revoked() -> Errno {
    READ_BUFFER.with_borrow_mut(|buffer| std::mem::take(buffer).zeroize());
    Errno::from_i32(libc::ENOKEY)
}

/// Logs a failure and gives the errno to reply with. What POSIX names is an answer, not a fault.
fn failed(op: &'static str, req: &Request, ino: INodeNo, error: &FsError) -> Errno {
    let errno = error.errno();
    if error.is_fault() {
        tracing::error!(op, inode = ino.0, request = req.unique().0, errno, "{error}");
    } else {
        tracing::debug!(op, inode = ino.0, request = req.unique().0, errno, "{error}");
    }
    Errno::from_i32(errno)
}

fn caller(req: &Request) -> Caller {
    Caller { uid: req.uid(), gid: req.gid(), pid: req.pid() }
}

fn ino(number: INodeNo) -> Ino {
    Ino(number.0)
}

fn handle(number: FileHandle) -> HandleId {
    HandleId(number.0)
}

fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::File => FileType::RegularFile,
        Kind::Dir => FileType::Directory,
        Kind::Symlink => FileType::Symlink,
        Kind::Fifo => FileType::NamedPipe,
        Kind::Socket => FileType::Socket,
        Kind::CharDevice => FileType::CharDevice,
        Kind::BlockDevice => FileType::BlockDevice,
    }
}

/// The library has times as `SystemTime`; out of its range (which is larger than any filesystem's) they become the epoch.
fn to_system_time(time: Timestamp) -> SystemTime {
    let nanos = Duration::from_nanos(time.nanos.into());
    let secs = Duration::from_secs(time.secs.unsigned_abs());
    let whole = if time.secs < 0 { UNIX_EPOCH.checked_sub(secs) } else { UNIX_EPOCH.checked_add(secs) };
    whole.and_then(|whole| whole.checked_add(nanos)).unwrap_or(UNIX_EPOCH)
}

/// A time from a request. For one before the epoch, fuser 0.18 gives `epoch - (|secs| + nanos)` where the kernel
/// meant `epoch - |secs| + nanos` (its `system_time_from_time`): undone here.
fn from_system_time(time: SystemTime) -> Timestamp {
    let bounded = |secs: u64| i64::try_from(secs).unwrap_or(i64::MAX);
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => Timestamp { secs: bounded(after.as_secs()), nanos: after.subsec_nanos() },
        Err(error) => {
            let before = error.duration();
            Timestamp { secs: 0i64.saturating_sub_unsigned(before.as_secs()), nanos: before.subsec_nanos() }
        }
    }
}

fn set_time(time: Option<TimeOrNow>) -> SetTime {
    match time {
        None => SetTime::Keep,
        Some(TimeOrNow::Now) => SetTime::Now,
        Some(TimeOrNow::SpecificTime(time)) => SetTime::To(from_system_time(time)),
    }
}

/// A device number as FUSE carries it, in the kernel's `new_encode_dev` form (include/linux/kdev_t.h).
fn encode_dev(dev: u64) -> u32 {
    let (major, minor) = (rustix::fs::major(dev), rustix::fs::minor(dev));
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}

fn decode_dev(dev: u32) -> u64 {
    rustix::fs::makedev((dev & 0xfff00) >> 8, (dev & 0xff) | ((dev >> 12) & 0xfff00))
}

fn file_attr(attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.ino.0),
        size: attr.size,
        blocks: attr.blocks,
        atime: to_system_time(attr.atime),
        mtime: to_system_time(attr.mtime),
        ctime: to_system_time(attr.ctime),
        crtime: UNIX_EPOCH,
        kind: file_type(attr.kind),
        perm: (attr.mode & 0o7777) as u16,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: encode_dev(attr.rdev),
        blksize: 4096,
        flags: 0,
    }
}

/// Attributes for `.`, `..` and the answer "no such entry": only number and kind count.
fn bare_attr(number: Ino, kind: Kind) -> FileAttr {
    let zero = Timestamp::default();
    file_attr(&Attr {
        ino: number,
        kind,
        mode: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        size: 0,
        blocks: 0,
        atime: zero,
        mtime: zero,
        ctime: zero,
    })
}

fn open_how(flags: OpenFlags) -> OpenHow {
    OpenHow {
        write: flags.acc_mode() != OpenAccMode::O_RDONLY,
        truncate: flags.0 & libc::O_TRUNC != 0,
        sync: flags.0 & (libc::O_SYNC | libc::O_DSYNC) != 0,
    }
}

/// The kernel's cache stays good over opens. A handle that cannot write has nothing to flush.
fn fopen_flags(how: OpenHow) -> FopenFlags {
    let flush = if how.write { FopenFlags::empty() } else { FopenFlags::FOPEN_NOFLUSH };
    FopenFlags::FOPEN_KEEP_CACHE | flush
}

fn fallocate_how(mode: i32) -> Option<Fallocate> {
    const KEEP: i32 = libc::FALLOC_FL_KEEP_SIZE;
    const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | KEEP;
    const ZERO: i32 = libc::FALLOC_FL_ZERO_RANGE;
    const ZERO_KEEP: i32 = ZERO | KEEP;
    match mode {
        0 => Some(Fallocate::Allocate { keep_size: false }),
        KEEP => Some(Fallocate::Allocate { keep_size: true }),
        PUNCH => Some(Fallocate::PunchHole),
        ZERO => Some(Fallocate::ZeroRange { keep_size: false }),
        ZERO_KEEP => Some(Fallocate::ZeroRange { keep_size: true }),
        _ => None,
    }
}

fn reply_entry(reply: ReplyEntry, entry: &Entry) {
    reply.entry(&TTL, &file_attr(&entry.attr), Generation(entry.generation));
}

/// Replies to a request for a variable-length value, whose length is asked for with size 0 (getxattr(2)).
fn reply_xattr(reply: ReplyXattr, size: u32, value: &[u8]) {
    let len = u32::try_from(value.len()).unwrap_or(u32::MAX);
    if size == 0 {
        reply.size(len);
    } else if len > size {
        reply.error(Errno::ERANGE);
    } else {
        reply.data(value);
    }
}

impl Filesystem for Adapter {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        // Not FUSE_ATOMIC_O_TRUNC: the kernel then truncates before it refuses, and a running program that somebody opens with O_TRUNC is
        // destroyed under the ETXTBSY (pjdfstest's open::etxtbsy failed one time in ten).
        // Not FUSE_WRITEBACK_CACHE: with it the kernel answers for sizes and times, asks for data and holes without sending what it
        // still keeps (measured on Linux 6.18), and passes large sequential writes on more slowly.
        let wanted = InitFlags::FUSE_ASYNC_READ
            | InitFlags::FUSE_BIG_WRITES
            | InitFlags::FUSE_MAX_PAGES
            | InitFlags::FUSE_PARALLEL_DIROPS
            | InitFlags::FUSE_HANDLE_KILLPRIV_V2
            | InitFlags::FUSE_DO_READDIRPLUS
            | InitFlags::FUSE_READDIRPLUS_AUTO
            | InitFlags::FUSE_POSIX_ACL
            | InitFlags::FUSE_DONT_MASK
            | InitFlags::FUSE_CACHE_SYMLINKS
            | InitFlags::FUSE_ASYNC_DIO;
        for flag in wanted.iter() {
            if config.add_capabilities(flag).is_err() {
                tracing::debug!(?flag, "the kernel does not offer a FUSE capability; going on without it");
            }
        }
        // Each setter reports the nearest value it takes; that one is then right.
        let _ = config.set_max_write(MAX_WRITE).map_err(|nearest| config.set_max_write(nearest));
        let _ = config.set_max_readahead(MAX_WRITE).map_err(|nearest| config.set_max_readahead(nearest));
        let _ = config.set_max_background(MAX_BACKGROUND);
        let _ = config.set_congestion_threshold(CONGESTED);
        let _ = config.set_time_granularity(Duration::from_nanos(1));
        Ok(())
    }

    fn destroy(&mut self) {
        if let Some(fs) = self.served.get()
            && let Err(error) = fs.shut_down()
        {
            tracing::error!("at the end of the session, pending changes could not be written: {error}");
        }
    }

    fn lookup(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let Some(fs) = self.fs() else { return reply.error(revoked()) };
        match fs.lookup(ino(parent), name) {
            Ok(entry) => reply_entry(reply, &entry),
            // A negative entry, which the kernel keeps: inode 0 (fuse_lowlevel.h, fuse_entry_param).
            Err(error) if error.errno() == libc::ENOENT => {
                reply.entry(&TTL, &bare_attr(Ino(0), Kind::File), Generation(0));
            }
            Err(error) => reply.error(failed("lookup", req, parent, &error)),
        }
    }

    fn forget(&self, _req: &Request, number: INodeNo, nlookup: u64) {
        // The library gives those of a batch one by one.
        if let Some(fs) = self.serving(Work::Part) {
            fs.forget(ino(number), nlookup);
        }
    }

    fn getattr(&self, req: &Request, number: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        let Some(fs) = self.fs() else { return reply.error(revoked()) };
        match fs.getattr(ino(number)) {
            Ok(attr) => reply.attr(&TTL, &file_attr(&attr)),
            Err(error) => reply.error(failed("getattr", req, number, &error)),
        }
    }

    fn setattr(
        &self,
        req: &Request,
        number: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let Some(fs) = self.serving(if size.is_some() { Work::Long } else { Work::Quick }) else {
            return reply.error(revoked());
        };
        let set = SetAttr { mode, uid, gid, size, atime: set_time(atime), mtime: set_time(mtime) };
        match fs.at_length(|fs| fs.setattr(&caller(req), ino(number), &set)) {
            Ok(attr) => reply.attr(&TTL, &file_attr(&attr)),
            Err(error) => reply.error(failed("setattr", req, number, &error)),
        }
    }

    fn readlink(&self, req: &Request, number: INodeNo, reply: ReplyData) {
        let Some(fs) = self.fs() else { return reply.error(revoked()) };
        match fs.readlink(ino(number)) {
            Ok(target) => reply.data(&target),
            Err(error) => reply.error(failed("readlink", req, number, &error)),
        }
    }

    fn mknod(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, rdev: u32, reply: ReplyEntry) {
        let Some(fs) = self.fs() else { return reply.error(revoked()) };
        match fs.mknod(&caller(req), ino(parent), name, mode, umask, decode_dev(rdev)) {
            Ok(entry) => reply_entry(reply, &entry),
            Err(error) => reply.error(failed("mknod", req, parent, &error)),
        }
    }

    fn mkdir(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        let Some(fs) = self.fs() else { return reply.error(revoked()) };
        match fs.mkdir(&caller(req), ino(parent), name, mode, umask) {
            Ok(entry) => reply_entry(reply, &entry),
            Err(error) => reply.error(failed("mkdir", req, parent, &error)),
        }
    }

    fn unlink(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let Some(fs) = self.fs() else { return reply.error(revoked()) };
        match fs.unlink(ino(parent), name) {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(failed("unlink", req, parent, &error)),
        }
    }

    fn rmdir(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let Some(fs) = self.fs() else { return reply.error(revoked()) };
        match fs.rmdir(ino(parent), name) {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(failed("rmdir", req, parent, &error)),
        }
    }

    fn symlink(&self, req: &Request, parent: INodeNo, link_name: &OsStr, target: &Path, reply: ReplyEntry) {
        let Some(fs) = self.fs() else { return reply.error(revoked()) };
        match fs.symlink(&caller(req), ino(parent), link_name, target.as_os_str()) {
            Ok(entry) => reply_entry(reply, &entry),
            Err(error) => reply.error(failed("symlink", req, parent, &error)),
        }
    }

    fn rename(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let Some(fs) = self.fs_at_length() else { return reply.error(revoked()) };
        let how = match flags.bits() {
            0 => RenameHow::Replace,
            libc::RENAME_NOREPLACE => RenameHow::NoReplace,
            libc::RENAME_EXCHANGE => RenameHow::Exchange,
            _ => return reply.error(Errno::EINVAL),
        };
        match fs.at_length(|fs| fs.rename(ino(parent), name, ino(newparent), newname, how)) {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(failed("rename", req, parent, &error)),
        }
    }

    fn link(&self, req: &Request, number: INodeNo, newparent: INodeNo, newname: &OsStr, reply: ReplyEntry) {
        let Some(fs) = self.fs() else { return reply.error(revoked()) };
        match fs.link(ino(number), ino(newparent), newname) {
            Ok(entry) => reply_entry(reply, &entry),
            Err(error) => reply.error(failed("link", req, number, &error)),
        }
    }

    fn open(&self, req: &Request, number: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let Some(fs) = self.fs() else { return reply.error(revoked()) };
        let how = open_how(flags);
        match fs.open(&caller(req), ino(number), how) {
            Ok(handle) => reply.opened(FileHandle(handle.0), fopen_flags(how)),
            Err(error) => reply.error(failed("open", req, number, &error)),
        }
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let Some(fs) = self.fs() else { return reply.error(revoked()) };
        let how = open_how(OpenFlags(flags));
        match fs.create(&caller(req), ino(parent), name, mode & 0o7777, umask, how) {
            Ok((entry, handle)) => reply.created(
                &TTL,
                &file_attr(&entry.attr),
                Generation(entry.generation),
                FileHandle(handle.0),
                fopen_flags(how),
            ),
            Err(error) => reply.error(failed("create", req, parent, &error)),
        }
    }

    fn read(
        &self,
        req: &Request,
        number: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let Some(fs) = self.serving(Work::of_bytes(size as usize)) else { return reply.error(revoked()) };
        READ_BUFFER.with_borrow_mut(|buf| {
            let outcome = fs.read(handle(fh), offset, size as usize, buf);
            match outcome.as_ref().map(|range| buf.get(range.clone()).unwrap_or_default()) {
                Ok(data) => reply.data(data),
                Err(error) => reply.error(failed("read", req, number, error)),
            }
        });
    }

    fn write(
        &self,
        req: &Request,
        number: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let Some(fs) = self.serving(Work::of_bytes(data.len())) else { return reply.error(revoked()) };
        let how = WriteHow {
            from_cache: write_flags.contains(WriteFlags::FUSE_WRITE_CACHE),
            kill_suid_sgid: write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID),
        };
        match fs.write(handle(fh), offset, data, how) {
            Ok(()) => reply.written(data.len() as u32),
            Err(error) => reply.error(failed("write", req, number, &error)),
        }
    }

    fn flush(&self, req: &Request, number: INodeNo, fh: FileHandle, _lock_owner: LockOwner, reply: ReplyEmpty) {
        let Some(fs) = self.fs() else { return reply.error(revoked()) };
        match fs.flush(handle(fh)) {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(failed("flush", req, number, &error)),
        }
    }

    fn release(
        &self,
        req: &Request,
        number: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let Some(fs) = self.fs() else { return reply.error(revoked()) };
        match fs.release(handle(fh)) {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(failed("release", req, number, &error)),
        }
    }

    fn fsync(&self, req: &Request, number: INodeNo, fh: FileHandle, datasync: bool, reply: ReplyEmpty) {
        let Some(fs) = self.fs_at_length() else { return reply.error(revoked()) };
        match fs.at_length(|fs| fs.fsync(handle(fh), datasync)) {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(failed("fsync", req, number, &error)),
        }
    }

    fn opendir(&self, req: &Request, number: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let Some(fs) = self.fs() else { return reply.error(revoked()) };
        match fs.opendir(ino(number)) {
            Ok(handle) => {
                let flags = FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_CACHE_DIR;
                reply.opened(FileHandle(handle.0), flags);
            }
            Err(error) => reply.error(failed("opendir", req, number, &error)),
        }
    }

    fn readdir(&self, req: &Request, number: INodeNo, fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let Some(fs) = self.fs() else { return reply.error(revoked()) };
        let outcome = fs.readdir(handle(fh), offset.cast_signed(), &mut |item| {
            !reply.add(INodeNo(item.ino.0), item.offset.cast_unsigned(), file_type(item.kind), &item.name)
        });
        match outcome {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(failed("readdir", req, number, &error)),
        }
    }

    fn readdirplus(&self, req: &Request, number: INodeNo, fh: FileHandle, offset: u64, mut reply: ReplyDirectoryPlus) {
        let Some(fs) = self.fs() else { return reply.error(revoked()) };
        let outcome = fs.readdirplus(handle(fh), offset.cast_signed(), &mut |item, entry| {
            let (attr, generation) = match entry {
                Some(entry) => (file_attr(&entry.attr), entry.generation),
                // The kernel takes no inode from these two, only their numbers.
                None if item.name == "." || item.name == ".." => (bare_attr(item.ino, item.kind), 0),
                None => return true,
            };
            let offset = item.offset.cast_unsigned();
            !reply.add(INodeNo(item.ino.0), offset, &item.name, &TTL, &attr, Generation(generation))
        });
        match outcome {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(failed("readdirplus", req, number, &error)),
        }
    }

    fn releasedir(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, _flags: OpenFlags, reply: ReplyEmpty) {
        let Some(fs) = self.fs() else { return reply.error(revoked()) };
        fs.releasedir(handle(fh));
        reply.ok();
    }

    fn fsyncdir(&self, req: &Request, number: INodeNo, fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        let Some(fs) = self.fs_at_length() else { return reply.error(revoked()) };
        match fs.at_length(|fs| fs.fsyncdir(handle(fh))) {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(failed("fsyncdir", req, number, &error)),
        }
    }

    fn statfs(&self, req: &Request, number: INodeNo, reply: ReplyStatfs) {
        let Some(fs) = self.fs() else { return reply.error(revoked()) };
        let narrow = |size: u64| u32::try_from(size).unwrap_or(u32::MAX);
        match fs.statfs() {
            Ok(stat) => reply.statfs(
                stat.blocks,
                stat.blocks_free,
                stat.blocks_available,
                stat.files,
                stat.files_free,
                narrow(stat.block_size),
                narrow(stat.name_max),
                narrow(stat.fragment_size),
            ),
            Err(error) => reply.error(failed("statfs", req, number, &error)),
        }
    }

    fn setxattr(
        &self,
        req: &Request,
        number: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let Some(fs) = self.fs() else { return reply.error(revoked()) };
        let how = match flags {
            0 => XattrHow::Set,
            libc::XATTR_CREATE => XattrHow::Create,
            libc::XATTR_REPLACE => XattrHow::Replace,
            _ => return reply.error(Errno::EINVAL),
        };
        match fs.setxattr(&caller(req), ino(number), name, value, how) {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(failed("setxattr", req, number, &error)),
        }
    }

    fn getxattr(&self, req: &Request, number: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let Some(fs) = self.fs() else { return reply.error(revoked()) };
        match fs.getxattr(ino(number), name) {
            Ok(value) => reply_xattr(reply, size, &value),
            Err(error) => reply.error(failed("getxattr", req, number, &error)),
        }
    }

    fn listxattr(&self, req: &Request, number: INodeNo, size: u32, reply: ReplyXattr) {
        let Some(fs) = self.fs() else { return reply.error(revoked()) };
        match fs.listxattr(ino(number)) {
            Ok(names) => {
                let list: Vec<u8> = names.iter().flat_map(|name| [name.as_encoded_bytes(), &[0]].concat()).collect();
                reply_xattr(reply, size, &list);
            }
            Err(error) => reply.error(failed("listxattr", req, number, &error)),
        }
    }

    fn removexattr(&self, req: &Request, number: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let Some(fs) = self.fs() else { return reply.error(revoked()) };
        match fs.removexattr(ino(number), name) {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(failed("removexattr", req, number, &error)),
        }
    }

    fn fallocate(
        &self,
        req: &Request,
        number: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let Some(fs) = self.fs_at_length() else { return reply.error(revoked()) };
        let Some(how) = fallocate_how(mode) else { return reply.error(Errno::EOPNOTSUPP) };
        match fs.at_length(|fs| fs.fallocate(&caller(req), handle(fh), offset, length, how)) {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(failed("fallocate", req, number, &error)),
        }
    }

    fn lseek(&self, req: &Request, number: INodeNo, fh: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        let Some(fs) = self.fs() else { return reply.error(revoked()) };
        let whence = match whence {
            libc::SEEK_DATA => Seek::Data,
            libc::SEEK_HOLE => Seek::Hole,
            _ => return reply.error(Errno::EINVAL),
        };
        let Ok(offset) = u64::try_from(offset) else { return reply.error(Errno::ENXIO) };
        match fs.lseek(handle(fh), offset, whence) {
            Ok(found) => reply.offset(found.cast_signed()),
            Err(error) => reply.error(failed("lseek", req, number, &error)),
        }
    }

    fn copy_file_range(
        &self,
        req: &Request,
        ino_in: INodeNo,
        fh_in: FileHandle,
        offset_in: u64,
        _ino_out: INodeNo,
        fh_out: FileHandle,
        offset_out: u64,
        len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let Some(fs) = self.fs_at_length() else { return reply.error(revoked()) };
        // The reply has 32 bits: the kernel asks again for the rest.
        let len = len.min(u64::from(u32::MAX) & !0xfff);
        let (from, to) = ((handle(fh_in), offset_in), (handle(fh_out), offset_out));
        match fs.at_length(|fs| fs.copy_file_range(&caller(req), from.0, from.1, to.0, to.1, len)) {
            Ok(copied) => reply.written(copied as u32),
            Err(error) => reply.error(failed("copy_file_range", req, ino_in, &error)),
        }
    }

    fn ioctl(
        &self,
        req: &Request,
        number: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        cmd: u32,
        in_data: &[u8],
        out_size: u32,
        reply: ReplyIoctl,
    ) {
        if ino(number) != Ino::ROOT || cmd != control::IOCTL || out_size as usize != control::SIZE {
            return reply.error(Errno::ENOTTY);
        }
        if req.uid() != 0 && req.uid() != rustix::process::geteuid().as_raw() {
            return reply.error(Errno::EPERM);
        }
        let _turn = self.turns.take(Work::Long);
        match self.control.answer(in_data) {
            Some(answer) => reply.ioctl(0, &answer),
            None => reply.error(Errno::EOVERFLOW),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_around_the_epoch() {
        for (secs, nanos) in [(0, 0), (1, 999_999_999), (-1, 0), (-1, 1), (-2, 500_000_000), (i64::from(u32::MAX), 7)] {
            let shown = to_system_time(Timestamp { secs, nanos });
            let expected = f64::from(nanos) / 1e9 + secs as f64;
            let got = match shown.duration_since(UNIX_EPOCH) {
                Ok(after) => after.as_secs_f64(),
                Err(error) => -error.duration().as_secs_f64(),
            };
            assert!((expected - got).abs() < 1e-6, "{secs} {nanos}");
        }
        // As the library decodes -2 s + 0.5 s.
        let decoded = UNIX_EPOCH - Duration::new(2, 500_000_000);
        assert_eq!(from_system_time(decoded), Timestamp { secs: -2, nanos: 500_000_000 });
        let decoded = UNIX_EPOCH + Duration::new(2, 5);
        assert_eq!(from_system_time(decoded), Timestamp { secs: 2, nanos: 5 });
        let decoded = UNIX_EPOCH - Duration::new(1 << 63, 0);
        assert_eq!(from_system_time(decoded), Timestamp { secs: i64::MIN, nanos: 0 });
    }

    #[test]
    fn device_numbers_come_back() {
        for (major, minor) in [(0, 0), (1, 3), (8, 0), (259, 65537), (4095, 1_048_575)] {
            let dev = rustix::fs::makedev(major, minor);
            assert_eq!(decode_dev(encode_dev(dev)), dev);
        }
        assert_eq!(encode_dev(rustix::fs::makedev(1, 3)), 0x103);
    }

    #[test]
    fn fallocate_modes_are_served_or_refused() {
        assert_eq!(fallocate_how(0), Some(Fallocate::Allocate { keep_size: false }));
        assert_eq!(fallocate_how(1), Some(Fallocate::Allocate { keep_size: true }));
        assert_eq!(fallocate_how(3), Some(Fallocate::PunchHole));
        assert_eq!(fallocate_how(2), None, "a hole that may change the size does not exist");
        assert_eq!(fallocate_how(0x10), Some(Fallocate::ZeroRange { keep_size: false }));
        assert_eq!(fallocate_how(0x11), Some(Fallocate::ZeroRange { keep_size: true }));
        for refused in [0x08, 0x20, 0x40, 0x13] {
            assert_eq!(fallocate_how(refused), None);
        }
    }
}
