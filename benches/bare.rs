//! The ceiling: a FUSE filesystem that does nothing but talk to the kernel.
//!
//! Files read as zeros and writes are discarded; names, sizes, modes and times are kept in memory, so that the workloads
//! of `contrib/bench/run` find what they made. It asks the kernel for what `envelopefs` asks for (`src/fuse/mod.rs`), so
//! what it takes is what the transport takes, and no FUSE filesystem on the same library can be faster. It syncs nothing:
//! for workloads that wait for the disk it is no bound that a filesystem could reach.
//!
//! ```text
//! cargo run --release --example bare -- MOUNTPOINT      until unmounted; what was asked how often goes to stderr
//! ```

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use clap::Parser;
use fuser::{
    BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    InitFlags, KernelConfig, LockOwner, MountOption, OpenAccMode, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate,
    ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs,
    ReplyWrite, Request, SessionACL, TimeOrNow, WriteFlags,
};
use parking_lot::{Mutex, RwLock};

const TTL: Duration = Duration::from_secs(24 * 60 * 60);
const MAX_WRITE: u32 = 1 << 20;
const MAX_BACKGROUND: u16 = 64;
const ROOT: u64 = 1;

static ZEROS: [u8; MAX_WRITE as usize] = [0; MAX_WRITE as usize];

/// A FUSE filesystem that returns zeros and discards writes.
#[derive(Parser)]
struct Options {
    mountpoint: PathBuf,
    /// Let the kernel collect writes (FUSE_WRITEBACK_CACHE)
    #[arg(long)]
    writeback: bool,
    /// Event threads
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Read-ahead of the mount in KiB, 0 for the kernel's own
    #[arg(long, default_value_t = 1024)]
    read_ahead: u32,
    /// Answer FLUSH with ENOSYS, so that the kernel never asks again
    #[arg(long)]
    no_flush: bool,
    /// Ask for FLUSH at the close of handles that cannot write, too
    #[arg(long)]
    flush_always: bool,
    /// Let other users in
    #[arg(long)]
    allow_other: bool,
    /// Print each data request to stderr
    #[arg(long)]
    trace: bool,
}

enum Body {
    File,
    Dir(BTreeMap<OsString, u64>),
    Symlink(PathBuf),
}

struct Node {
    attr: FileAttr,
    body: Body,
}

type Nodes = HashMap<u64, Node>;
type Listing = Vec<(OsString, u64, FileType)>;

/// Counts requests by name.
#[derive(Default)]
struct Counts(Mutex<BTreeMap<&'static str, u64>>);

struct Bare {
    options: Options,
    nodes: RwLock<Nodes>,
    next_ino: AtomicU64,
    listings: RwLock<HashMap<u64, Listing>>,
    next_handle: AtomicU64,
    counts: Counts,
}

fn new_attr(ino: u64, kind: FileType, mode: u32, req: Option<&Request>) -> FileAttr {
    let now = SystemTime::now();
    FileAttr {
        ino: INodeNo(ino),
        size: 0,
        blocks: 0,
        atime: now,
        mtime: now,
        ctime: now,
        crtime: now,
        kind,
        perm: (mode & 0o7777) as u16,
        nlink: if kind == FileType::Directory { 2 } else { 1 },
        uid: req.map_or(0, Request::uid),
        gid: req.map_or(0, Request::gid),
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

fn time(time: TimeOrNow) -> SystemTime {
    match time {
        TimeOrNow::Now => SystemTime::now(),
        TimeOrNow::SpecificTime(time) => time,
    }
}

fn children(nodes: &Nodes, dir: INodeNo) -> Result<&BTreeMap<OsString, u64>, Errno> {
    match nodes.get(&dir.0).map(|node| &node.body) {
        Some(Body::Dir(children)) => Ok(children),
        Some(_) => Err(Errno::ENOTDIR),
        None => Err(Errno::ENOENT),
    }
}

fn children_mut(nodes: &mut Nodes, dir: INodeNo) -> Result<&mut BTreeMap<OsString, u64>, Errno> {
    match nodes.get_mut(&dir.0).map(|node| &mut node.body) {
        Some(Body::Dir(children)) => Ok(children),
        Some(_) => Err(Errno::ENOTDIR),
        None => Err(Errno::ENOENT),
    }
}

/// Drops one name of a node, and with the last one the node. The kernel still sends what it has for an open file whose
/// name is gone; the answers then need no node.
fn drop_name(nodes: &mut Nodes, ino: u64) {
    let Some(node) = nodes.get_mut(&ino) else { return };
    node.attr.nlink = node.attr.nlink.saturating_sub(1);
    if node.attr.nlink == 0 || matches!(node.body, Body::Dir(_)) {
        nodes.remove(&ino);
    }
}

fn is_empty_dir(nodes: &Nodes, ino: u64) -> bool {
    nodes.get(&ino).is_none_or(|node| !matches!(&node.body, Body::Dir(children) if !children.is_empty()))
}

fn rename(nodes: &mut Nodes, from: (INodeNo, &OsStr), to: (INodeNo, &OsStr), flags: u32) -> Result<(), Errno> {
    let ino = *children(nodes, from.0)?.get(from.1).ok_or(Errno::ENOENT)?;
    let target = children(nodes, to.0)?.get(to.1).copied();
    match (flags, target) {
        (0, Some(target)) if target == ino => return Ok(()),
        (0, Some(target)) if !is_empty_dir(nodes, target) => return Err(Errno::ENOTEMPTY),
        (0, Some(target)) => drop_name(nodes, target),
        (0 | libc::RENAME_NOREPLACE, None) => {}
        (libc::RENAME_NOREPLACE, Some(_)) => return Err(Errno::EEXIST),
        _ => return Err(Errno::EINVAL),
    }
    children_mut(nodes, from.0)?.remove(from.1);
    children_mut(nodes, to.0)?.insert(to.1.to_owned(), ino);
    Ok(())
}

impl Bare {
    fn new(options: Options) -> Bare {
        let root = Node { attr: new_attr(ROOT, FileType::Directory, 0o755, None), body: Body::Dir(BTreeMap::new()) };
        Bare {
            options,
            nodes: RwLock::new(HashMap::from([(ROOT, root)])),
            next_ino: AtomicU64::new(ROOT + 1),
            listings: RwLock::default(),
            next_handle: AtomicU64::new(1),
            counts: Counts::default(),
        }
    }

    fn count(&self, op: &'static str) {
        *self.counts.0.lock().entry(op).or_default() += 1;
    }

    fn trace(&self, op: &str, ino: INodeNo, offset: u64, len: usize) {
        if self.options.trace {
            eprintln!("{op} inode {} offset {offset} length {len}", ino.0);
        }
    }

    fn fopen_flags(&self, flags: OpenFlags) -> FopenFlags {
        let writes = flags.acc_mode() != OpenAccMode::O_RDONLY;
        let quiet = !writes && !self.options.flush_always;
        FopenFlags::FOPEN_KEEP_CACHE | if quiet { FopenFlags::FOPEN_NOFLUSH } else { FopenFlags::empty() }
    }

    fn make(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, body: Body) -> Result<FileAttr, Errno> {
        let kind = match body {
            Body::File => FileType::RegularFile,
            Body::Dir(_) => FileType::Directory,
            Body::Symlink(_) => FileType::Symlink,
        };
        let mut attr = new_attr(self.next_ino.fetch_add(1, Ordering::Relaxed), kind, mode, Some(req));
        if let Body::Symlink(target) = &body {
            attr.size = target.as_os_str().len() as u64;
        }
        let mut nodes = self.nodes.write();
        let siblings = children_mut(&mut nodes, parent)?;
        if siblings.contains_key(name) {
            return Err(Errno::EEXIST);
        }
        siblings.insert(name.to_owned(), attr.ino.0);
        nodes.insert(attr.ino.0, Node { attr, body });
        Ok(attr)
    }

    fn remove(&self, parent: INodeNo, name: &OsStr) -> Result<(), Errno> {
        let mut nodes = self.nodes.write();
        let ino = *children(&nodes, parent)?.get(name).ok_or(Errno::ENOENT)?;
        if !is_empty_dir(&nodes, ino) {
            return Err(Errno::ENOTEMPTY);
        }
        children_mut(&mut nodes, parent)?.remove(name);
        drop_name(&mut nodes, ino);
        Ok(())
    }

    fn attr(&self, ino: INodeNo) -> Result<FileAttr, Errno> {
        self.nodes.read().get(&ino.0).map(|node| node.attr).ok_or(Errno::ENOENT)
    }
}

fn reply_entry(reply: ReplyEntry, outcome: Result<FileAttr, Errno>) {
    match outcome {
        Ok(attr) => reply.entry(&TTL, &attr, Generation(0)),
        Err(errno) => reply.error(errno),
    }
}

fn reply_attr(reply: ReplyAttr, outcome: Result<FileAttr, Errno>) {
    match outcome {
        Ok(attr) => reply.attr(&TTL, &attr),
        Err(errno) => reply.error(errno),
    }
}

fn reply_empty(reply: ReplyEmpty, outcome: Result<(), Errno>) {
    match outcome {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(errno),
    }
}

impl Filesystem for Bare {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        let mut wanted = InitFlags::FUSE_ASYNC_READ
            | InitFlags::FUSE_BIG_WRITES
            | InitFlags::FUSE_MAX_PAGES
            | InitFlags::FUSE_ATOMIC_O_TRUNC
            | InitFlags::FUSE_PARALLEL_DIROPS
            | InitFlags::FUSE_HANDLE_KILLPRIV_V2
            | InitFlags::FUSE_DO_READDIRPLUS
            | InitFlags::FUSE_READDIRPLUS_AUTO
            | InitFlags::FUSE_POSIX_ACL
            | InitFlags::FUSE_DONT_MASK
            | InitFlags::FUSE_CACHE_SYMLINKS
            | InitFlags::FUSE_ASYNC_DIO;
        if self.options.writeback {
            wanted |= InitFlags::FUSE_WRITEBACK_CACHE;
        }
        for flag in wanted.iter() {
            if config.add_capabilities(flag).is_err() {
                eprintln!("the kernel does not offer {flag:?}");
            }
        }
        let _ = config.set_max_write(MAX_WRITE).map_err(|nearest| config.set_max_write(nearest));
        let _ = config.set_max_readahead(MAX_WRITE).map_err(|nearest| config.set_max_readahead(nearest));
        let _ = config.set_max_background(MAX_BACKGROUND);
        let _ = config.set_congestion_threshold(MAX_BACKGROUND / 4 * 3);
        let _ = config.set_time_granularity(Duration::from_nanos(1));
        Ok(())
    }

    fn destroy(&mut self) {
        let counts: Vec<_> = self.counts.0.lock().iter().map(|(op, count)| format!("{op} {count}")).collect();
        eprintln!("requests: {}", counts.join(", "));
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.count("lookup");
        let nodes = self.nodes.read();
        let found = children(&nodes, parent).map(|names| names.get(name).and_then(|ino| nodes.get(ino)));
        // Inode 0: there is none, and the kernel may remember that.
        let none = new_attr(0, FileType::RegularFile, 0, None);
        reply_entry(reply, found.map(|node| node.map_or(none, |node| node.attr)));
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        self.count("getattr");
        reply_attr(reply, self.attr(ino));
    }

    fn setattr(
        &self,
        _req: &Request,
        ino: INodeNo,
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
        self.count("setattr");
        let mut nodes = self.nodes.write();
        let Some(Node { attr, .. }) = nodes.get_mut(&ino.0) else { return reply.error(Errno::ENOENT) };
        attr.perm = mode.map_or(attr.perm, |mode| (mode & 0o7777) as u16);
        attr.uid = uid.unwrap_or(attr.uid);
        attr.gid = gid.unwrap_or(attr.gid);
        attr.size = size.unwrap_or(attr.size);
        attr.blocks = attr.size.div_ceil(512);
        attr.atime = atime.map_or(attr.atime, time);
        attr.mtime = mtime.map_or(attr.mtime, time);
        attr.ctime = SystemTime::now();
        reply.attr(&TTL, attr);
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        self.count("readlink");
        match self.nodes.read().get(&ino.0).map(|node| &node.body) {
            Some(Body::Symlink(target)) => reply.data(target.as_os_str().as_encoded_bytes()),
            _ => reply.error(Errno::EINVAL),
        }
    }

    fn mknod(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _rdev: u32,
        reply: ReplyEntry,
    ) {
        self.count("mknod");
        reply_entry(reply, self.make(req, parent, name, mode & !umask, Body::File));
    }

    fn mkdir(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        self.count("mkdir");
        reply_entry(reply, self.make(req, parent, name, mode & !umask, Body::Dir(BTreeMap::new())));
    }

    fn symlink(&self, req: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        self.count("symlink");
        reply_entry(reply, self.make(req, parent, name, 0o777, Body::Symlink(target.to_owned())));
    }

    fn link(&self, _req: &Request, ino: INodeNo, newparent: INodeNo, newname: &OsStr, reply: ReplyEntry) {
        self.count("link");
        let mut nodes = self.nodes.write();
        let linked = children_mut(&mut nodes, newparent).map(|names| names.insert(newname.to_owned(), ino.0));
        let attr = linked.and_then(|_| nodes.get_mut(&ino.0).ok_or(Errno::ENOENT)).map(|node| {
            node.attr.nlink += 1;
            node.attr
        });
        reply_entry(reply, attr);
    }

    fn unlink(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.count("unlink");
        reply_empty(reply, self.remove(parent, name));
    }

    fn rmdir(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.count("rmdir");
        reply_empty(reply, self.remove(parent, name));
    }

    fn rename(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        self.count("rename");
        reply_empty(reply, rename(&mut self.nodes.write(), (parent, name), (newparent, newname), flags.bits()));
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
        self.count("create");
        match self.make(req, parent, name, mode & !umask, Body::File) {
            Ok(attr) => {
                reply.created(&TTL, &attr, Generation(0), FileHandle(0), self.fopen_flags(OpenFlags(flags)));
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn open(&self, _req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        self.count("open");
        if flags.0 & libc::O_TRUNC != 0
            && let Some(node) = self.nodes.write().get_mut(&ino.0)
        {
            node.attr.size = 0;
        }
        reply.opened(FileHandle(0), self.fopen_flags(flags));
    }

    fn read(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.count("read");
        self.trace("READ", ino, offset, size as usize);
        let left = self.attr(ino).map_or(0, |attr| attr.size.saturating_sub(offset));
        let len = usize::try_from(left).unwrap_or(usize::MAX).min(size as usize);
        reply.data(ZEROS.get(..len).unwrap_or(&ZEROS));
    }

    fn write(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        self.count("write");
        self.trace("WRITE", ino, offset, data.len());
        if let Some(Node { attr, .. }) = self.nodes.write().get_mut(&ino.0) {
            attr.size = attr.size.max(offset.saturating_add(data.len() as u64));
            attr.blocks = attr.size.div_ceil(512);
            attr.mtime = SystemTime::now();
            attr.ctime = attr.mtime;
        }
        reply.written(data.len() as u32);
    }

    fn flush(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, _lock_owner: LockOwner, reply: ReplyEmpty) {
        self.count("flush");
        self.trace("FLUSH", ino, 0, 0);
        reply_empty(reply, if self.options.no_flush { Err(Errno::ENOSYS) } else { Ok(()) });
    }

    fn release(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.count("release");
        reply.ok();
    }

    fn fsync(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        self.count("fsync");
        self.trace("FSYNC", ino, 0, 0);
        reply.ok();
    }

    fn fsyncdir(&self, _req: &Request, _ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        self.count("fsyncdir");
        reply.ok();
    }

    fn opendir(&self, _req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        self.count("opendir");
        let nodes = self.nodes.read();
        let listing: Result<Listing, Errno> = children(&nodes, ino).map(|names| {
            let kind_of = |ino| nodes.get(ino).map_or(FileType::RegularFile, |node| node.attr.kind);
            let dots = [".", ".."].map(|name| (name.into(), ino.0, FileType::Directory));
            dots.into_iter().chain(names.iter().map(|(name, ino)| (name.clone(), *ino, kind_of(ino)))).collect()
        });
        match listing {
            Ok(listing) => {
                let handle = self.next_handle.fetch_add(1, Ordering::Relaxed);
                self.listings.write().insert(handle, listing);
                reply.opened(FileHandle(handle), FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_CACHE_DIR);
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn readdir(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        self.count("readdir");
        let listings = self.listings.read();
        for (item, next) in listings.get(&fh.0).into_iter().flatten().zip(1..).skip(offset as usize) {
            if reply.add(INodeNo(item.1), next, item.2, &item.0) {
                break;
            }
        }
        reply.ok();
    }

    fn readdirplus(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, offset: u64, mut reply: ReplyDirectoryPlus) {
        self.count("readdirplus");
        let listings = self.listings.read();
        let nodes = self.nodes.read();
        for (item, next) in listings.get(&fh.0).into_iter().flatten().zip(1..).skip(offset as usize) {
            let Some(node) = nodes.get(&item.1) else { continue };
            if reply.add(INodeNo(item.1), next, &item.0, &TTL, &node.attr, Generation(0)) {
                break;
            }
        }
        reply.ok();
    }

    fn releasedir(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, _flags: OpenFlags, reply: ReplyEmpty) {
        self.count("releasedir");
        self.listings.write().remove(&fh.0);
        reply.ok();
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        reply.statfs(1 << 30, 1 << 30, 1 << 30, 1 << 30, 1 << 30, 4096, 255, 4096);
    }

    fn fallocate(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        self.count("fallocate");
        if mode & libc::FALLOC_FL_KEEP_SIZE == 0
            && let Some(Node { attr, .. }) = self.nodes.write().get_mut(&ino.0)
        {
            attr.size = attr.size.max(offset.saturating_add(length));
        }
        reply.ok();
    }

    /// Every file is all data.
    fn lseek(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        self.count("lseek");
        self.trace(if whence == libc::SEEK_DATA { "LSEEK data" } else { "LSEEK hole" }, ino, offset as u64, 0);
        let size = self.attr(ino).map_or(0, |attr| attr.size.cast_signed());
        match whence {
            _ if offset >= size => reply.error(Errno::ENXIO),
            libc::SEEK_DATA => reply.offset(offset),
            _ => reply.offset(size),
        }
    }
}

/// As `src/fuse/session.rs` does it; only root may, others keep the kernel's.
fn raise_read_ahead(mountpoint: &Path, kib: u32) -> std::io::Result<()> {
    let stat = rustix::fs::stat(mountpoint)?;
    let (major, minor) = (rustix::fs::major(stat.st_dev), rustix::fs::minor(stat.st_dev));
    std::fs::write(format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb"), kib.to_string())
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let mut config = Config::default();
    config.mount_options =
        vec![MountOption::FSName("bare".into()), MountOption::Subtype("bare".into()), MountOption::DefaultPermissions];
    config.acl = if options.allow_other { SessionACL::All } else { SessionACL::Owner };
    config.n_threads = Some(options.threads);
    config.clone_fd = true;

    let (mountpoint, read_ahead) = (options.mountpoint.clone(), options.read_ahead);
    let session = fuser::Session::new(Bare::new(options), &mountpoint, &config)?;
    if read_ahead > 0 {
        // `stat` needs the event threads, which `run` starts.
        std::thread::spawn(move || {
            if let Err(error) = raise_read_ahead(&mountpoint, read_ahead) {
                eprintln!("read-ahead stays as the kernel set it: {error}");
            }
        });
    }
    Ok(session.run()?)
}
