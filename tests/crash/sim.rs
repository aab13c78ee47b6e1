//! A backing directory in memory that records every changing call.
//!
//! [`SimDir`] and [`SimFile`] implement the store's traits completely: kinds, attributes, hard links, renames with their flags,
//! extended attributes, holes, open files without a name, listings with stable offsets, inode numbers that are used again. All that
//! belong to one [`Volume`] write one [`Event`] log, in the order in which the calls took effect; calls that fail leave no trace.
//! The clock is the number of changes, so that a run repeated is the same run.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use envelopefs::store::{
    Access, BackingDir, BackingFile, DirEntry, DirStream, Kind, RenameHow, SetTime, Stat, Timestamp, VolumeStat,
    XattrHow,
};
use parking_lot::{Mutex, MutexGuard};

use super::image::{BLOCK, Body, Change, Contents, Dir, Id, Image, Node, ROOT, page_or_zeros};

/// First number for an inode that is not the root.
const FIRST_INO: u64 = 11;
const DEVICE: u64 = 1;

/// One call that changed something or made something durable.
#[derive(Debug, Clone)]
pub enum Event {
    Change(Change),
    /// fsync, or without `metadata` fdatasync, of a file.
    SyncFile {
        id: Id,
        metadata: bool,
    },
    SyncDir {
        id: Id,
    },
    /// syncfs.
    SyncAll,
}

/// A simulated filesystem, shared by everything open on it.
#[derive(Debug)]
pub struct Volume(Mutex<Live>);

#[derive(Debug)]
struct Live {
    image: Image,
    log: Vec<Event>,
    /// Changes ever made.
    changes: u64,
    /// What is held open, by inode.
    held: BTreeMap<Id, usize>,
    /// Last life of inode numbers that are free.
    former: BTreeMap<u64, Id>,
    /// See [`Volume::keep_ids_in_files`].
    ids_in_files: bool,
}

/// The name under which a directory's id is kept in it.
const DIR_ID: &str = ".envelopefs.dir";

/// The time of the n-th change.
pub fn time_of(change: u64) -> Timestamp {
    Timestamp { secs: 1_700_000_000 + i64::try_from(change).unwrap_or(0), nanos: 0 }
}

fn errno<T>(number: i32) -> io::Result<T> {
    Err(io::Error::from_raw_os_error(number))
}

impl Volume {
    pub fn new(mut image: Image) -> Arc<Self> {
        image.drop_orphans();
        Arc::new(Volume(Mutex::new(Live {
            image,
            log: Vec::new(),
            changes: 0,
            held: BTreeMap::new(),
            former: BTreeMap::new(),
            ids_in_files: false,
        })))
    }

    /// From now on a directory's id is a small file instead of a symlink: what filesystems do that lose directories. For a test of the
    /// simulator.
    pub fn keep_ids_in_files(&self) {
        self.0.lock().ids_in_files = true;
    }

    /// The root directory.
    pub fn root(self: &Arc<Self>) -> Arc<dyn BackingDir> {
        SimDir::hold(self, &mut self.0.lock(), ROOT)
    }

    /// Number of events so far.
    pub fn position(&self) -> usize {
        self.0.lock().log.len()
    }

    /// The filesystem as it is now.
    pub fn image(&self) -> Image {
        self.0.lock().image.clone()
    }

    /// The events since the last call of this.
    pub fn take_log(&self) -> Vec<Event> {
        std::mem::take(&mut self.0.lock().log)
    }
}

impl Live {
    fn node(&self, id: Id) -> io::Result<&Node> {
        self.image.node(id).ok_or_else(|| io::Error::from_raw_os_error(libc::ESTALE))
    }

    fn dir(&self, id: Id) -> io::Result<&Dir> {
        self.image.dir(id).ok_or_else(|| io::Error::from_raw_os_error(libc::ENOTDIR))
    }

    fn contents(&self, id: Id) -> io::Result<&Contents> {
        self.image.contents(id).ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))
    }

    /// The inode that an entry names; `.` is the directory itself.
    fn find(&self, dir: Id, name: &OsStr) -> io::Result<Id> {
        match name {
            name if name == "." => Ok(dir),
            name if name.is_empty() || name == ".." || name.as_encoded_bytes().contains(&b'/') => errno(libc::EINVAL),
            name if name.len() > 255 => errno(libc::ENAMETOOLONG),
            name => match self.dir(dir)?.entries.get(name) {
                Some((id, _)) => Ok(*id),
                None => errno(libc::ENOENT),
            },
        }
    }

    /// A name that is to be made.
    fn check_free(&self, dir: Id, name: &OsStr) -> io::Result<()> {
        if self.node(dir)?.nlink == 0 {
            return errno(libc::ENOENT);
        }
        match self.find(dir, name) {
            Ok(_) => errno(libc::EEXIST),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn change(&mut self, change: Change) {
        self.changes += 1;
        self.image.apply(&change, time_of(self.changes));
        self.log.push(Event::Change(change));
    }

    fn create(&mut self, dir: Id, name: &OsStr, kind: Kind, mode: u32, rdev: u64, body: Body) -> io::Result<Id> {
        self.check_free(dir, name)?;
        let used: BTreeSet<u64> = self.image.nodes.values().map(|node| node.ino).collect();
        let ino = (FIRST_INO..).find(|ino| !used.contains(ino)).unwrap_or(u64::MAX);
        let id = self.image.next_id;
        let now = time_of(self.changes + 1);
        let node = Node {
            ino,
            kind,
            mode: mode & 0o7777,
            nlink: if kind == Kind::Dir { 2 } else { 1 },
            uid: 0,
            gid: 0,
            rdev,
            atime: now,
            mtime: now,
            ctime: now,
            xattrs: BTreeMap::new(),
            body,
        };
        let after = self.former.remove(&ino);
        self.change(Change::Create { dir, name: name.into(), id, node: Arc::new(node), after });
        Ok(id)
    }

    /// Frees an inode that has neither a name nor a user.
    fn reap(&mut self, id: Id) {
        if self.held.contains_key(&id) || self.image.node(id).is_none_or(|node| node.nlink > 0) {
            return;
        }
        if let Some(node) = self.image.nodes.remove(&id) {
            self.former.insert(node.ino, id);
        }
    }

    fn hold(&mut self, id: Id) {
        *self.held.entry(id).or_default() += 1;
    }

    fn let_go(&mut self, id: Id) {
        if let Some(count) = self.held.get_mut(&id) {
            *count -= 1;
            if *count == 0 {
                self.held.remove(&id);
                self.reap(id);
            }
        }
    }

    fn rename(&mut self, from: Id, name: &OsStr, to: Id, to_name: &OsStr, how: RenameHow) -> io::Result<()> {
        let id = self.find(from, name)?;
        let over = match self.find(to, to_name) {
            Ok(over) => Some(over),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let exchange = how == RenameHow::Exchange;
        match (how, over) {
            (RenameHow::NoReplace, Some(_)) => return errno(libc::EEXIST),
            (RenameHow::Exchange, None) => return errno(libc::ENOENT),
            (_, Some(over)) if over == id => return Ok(()),
            (RenameHow::Replace, Some(over)) => match (self.image.dir(id).is_some(), self.image.dir(over)) {
                (true, None) => return errno(libc::ENOTDIR),
                (false, Some(_)) => return errno(libc::EISDIR),
                (true, Some(over)) if !over.entries.is_empty() => return errno(libc::ENOTEMPTY),
                _ => {}
            },
            _ => {}
        }
        self.check_not_below(id, to)?;
        if let (true, Some(over)) = (exchange, over) {
            self.check_not_below(over, from)?;
        }
        let (name, to_name) = (name.to_os_string(), to_name.to_os_string());
        self.change(Change::Rename { from, name, id, to, to_name, over, exchange });
        over.into_iter().for_each(|over| self.reap(over));
        Ok(())
    }

    /// A directory cannot go below itself.
    fn check_not_below(&self, id: Id, mut dir: Id) -> io::Result<()> {
        while dir != ROOT {
            if dir == id {
                return errno(libc::EINVAL);
            }
            dir = self.dir(dir)?.parent;
        }
        Ok(())
    }

    fn remove(&mut self, dir: Id, name: &OsStr, is_dir: bool) -> io::Result<()> {
        let id = self.find(dir, name)?;
        match (self.image.dir(id), is_dir) {
            (Some(_), false) => return errno(libc::EISDIR),
            (None, true) => return errno(libc::ENOTDIR),
            (Some(removed), true) if !removed.entries.is_empty() => return errno(libc::ENOTEMPTY),
            _ => {}
        }
        self.change(Change::Remove { dir, name: name.into(), id });
        self.reap(id);
        Ok(())
    }

    fn stat(&self, id: Id) -> io::Result<Stat> {
        let node = self.node(id)?;
        let (size, blocks) = match &node.body {
            Body::File(contents) => (contents.len(), contents.pages().count() as u64 * (BLOCK as u64 / 512)),
            Body::Symlink(target) => (target.len() as u64, 0),
            Body::Dir(_) => (BLOCK as u64, 8),
            Body::Other => (0, 0),
        };
        Ok(Stat {
            dev: DEVICE,
            ino: node.ino,
            kind: node.kind,
            mode: node.mode,
            nlink: node.nlink,
            uid: node.uid,
            gid: node.gid,
            rdev: node.rdev,
            size,
            blocks,
            atime: node.atime,
            mtime: node.mtime,
            ctime: node.ctime,
        })
    }

    fn set_mode(&mut self, id: Id, mode: u32) -> io::Result<()> {
        if self.node(id)?.kind == Kind::Symlink {
            return errno(libc::EOPNOTSUPP);
        }
        self.change(Change::SetMode { id, mode: mode & 0o7777 });
        Ok(())
    }

    fn set_owner(&mut self, id: Id, uid: Option<u32>, gid: Option<u32>) -> io::Result<()> {
        self.node(id)?;
        self.change(Change::SetOwner { id, uid, gid });
        Ok(())
    }

    fn set_times(&mut self, id: Id, atime: SetTime, mtime: SetTime) -> io::Result<()> {
        self.node(id)?;
        let now = time_of(self.changes + 1);
        let new = |time| match time {
            SetTime::Keep => None,
            SetTime::Now => Some(now),
            SetTime::To(time) => Some(time),
        };
        self.change(Change::SetTimes { id, atime: new(atime), mtime: new(mtime) });
        Ok(())
    }

    fn get_xattr(&self, id: Id, attr: &OsStr) -> io::Result<Vec<u8>> {
        self.node(id)?.xattrs.get(attr).cloned().ok_or_else(|| io::Error::from_raw_os_error(libc::ENODATA))
    }

    fn set_xattr(&mut self, id: Id, attr: &OsStr, value: &[u8], how: XattrHow) -> io::Result<()> {
        match (how, self.node(id)?.xattrs.contains_key(attr)) {
            (XattrHow::Create, true) => errno(libc::EEXIST),
            (XattrHow::Replace, false) => errno(libc::ENODATA),
            _ => {
                self.change(Change::SetXattr { id, name: attr.into(), value: Some(value.to_vec()) });
                Ok(())
            }
        }
    }

    fn list_xattrs(&self, id: Id) -> io::Result<Vec<OsString>> {
        Ok(self.node(id)?.xattrs.keys().cloned().collect())
    }

    fn remove_xattr(&mut self, id: Id, attr: &OsStr) -> io::Result<()> {
        self.get_xattr(id, attr)?;
        self.change(Change::SetXattr { id, name: attr.into(), value: None });
        Ok(())
    }
}

/// An open directory.
#[derive(Debug)]
struct SimDir {
    volume: Arc<Volume>,
    id: Id,
}

impl SimDir {
    fn hold(volume: &Arc<Volume>, live: &mut Live, id: Id) -> Arc<dyn BackingDir> {
        live.hold(id);
        Arc::new(SimDir { volume: volume.clone(), id })
    }

    fn live(&self) -> MutexGuard<'_, Live> {
        self.volume.0.lock()
    }

    fn peer<'a>(&self, dir: &'a dyn BackingDir) -> io::Result<&'a SimDir> {
        let peer = dir.as_any().downcast_ref::<SimDir>().filter(|peer| Arc::ptr_eq(&peer.volume, &self.volume));
        peer.ok_or_else(|| io::Error::from_raw_os_error(libc::EXDEV))
    }

    fn file(&self, live: &mut Live, id: Id, use_: Use) -> Arc<dyn BackingFile> {
        live.hold(id);
        Arc::new(SimFile { volume: self.volume.clone(), id, use_ })
    }
}

impl Drop for SimDir {
    fn drop(&mut self) {
        self.volume.0.lock().let_go(self.id);
    }
}

impl BackingDir for SimDir {
    fn open_dir(&self, name: &OsStr) -> io::Result<Arc<dyn BackingDir>> {
        let mut live = self.live();
        let id = live.find(self.id, name)?;
        live.dir(id)?;
        Ok(SimDir::hold(&self.volume, &mut live, id))
    }

    fn list(&self) -> io::Result<Box<dyn DirStream>> {
        let mut live = self.live();
        let dir = SimDir::hold(&self.volume, &mut live, self.id);
        Ok(Box::new(SimStream { volume: self.volume.clone(), id: self.id, at: 0, _dir: dir }))
    }

    fn stat(&self, name: &OsStr) -> io::Result<Stat> {
        let live = self.live();
        live.stat(live.find(self.id, name)?)
    }

    fn create_file(&self, name: &OsStr, mode: u32) -> io::Result<Arc<dyn BackingFile>> {
        let mut live = self.live();
        let id = live.create(self.id, name, Kind::File, mode, 0, Body::File(Contents::default()))?;
        Ok(self.file(&mut live, id, Use::Write))
    }

    fn open_file(&self, name: &OsStr, access: Access) -> io::Result<Arc<dyn BackingFile>> {
        let mut live = self.live();
        let id = live.find(self.id, name)?;
        match live.node(id)?.kind {
            Kind::File => Ok(self.file(&mut live, id, access.into())),
            Kind::Symlink => errno(libc::ELOOP),
            _ => errno(libc::EINVAL),
        }
    }

    fn pin(&self, name: &OsStr) -> io::Result<Arc<dyn BackingFile>> {
        let mut live = self.live();
        let id = live.find(self.id, name)?;
        Ok(self.file(&mut live, id, Use::Attributes))
    }

    fn make_dir(&self, name: &OsStr, mode: u32) -> io::Result<()> {
        self.live().create(self.id, name, Kind::Dir, mode, 0, Body::Dir(Dir::new(self.id)))?;
        Ok(())
    }

    fn make_node(&self, name: &OsStr, mode: u32, rdev: u64) -> io::Result<()> {
        let (kind, body) = match mode & libc::S_IFMT {
            libc::S_IFREG => (Kind::File, Body::File(Contents::default())),
            libc::S_IFIFO => (Kind::Fifo, Body::Other),
            libc::S_IFSOCK => (Kind::Socket, Body::Other),
            libc::S_IFCHR => (Kind::CharDevice, Body::Other),
            libc::S_IFBLK => (Kind::BlockDevice, Body::Other),
            _ => return errno(libc::EINVAL),
        };
        self.live().create(self.id, name, kind, mode, rdev, body)?;
        Ok(())
    }

    fn make_symlink(&self, name: &OsStr, target: &OsStr) -> io::Result<()> {
        if name == DIR_ID && self.live().ids_in_files {
            return self.create_file(name, 0o600)?.write_all_vectored_at(&mut [IoSlice::new(target.as_bytes())], 0);
        }
        self.live().create(self.id, name, Kind::Symlink, 0o777, 0, Body::Symlink(target.into()))?;
        Ok(())
    }

    fn read_link(&self, name: &OsStr) -> io::Result<OsString> {
        let live = self.live();
        match &live.node(live.find(self.id, name)?)?.body {
            Body::Symlink(target) => Ok(target.clone()),
            // An id kept in a file, also in the states that a crash left of it.
            Body::File(contents) if name == DIR_ID => {
                let page = page_or_zeros(contents, 0);
                let len = page.len().min(contents.len() as usize);
                Ok(OsStr::from_bytes(&page[..len]).into())
            }
            _ => errno(libc::EINVAL),
        }
    }

    fn link(&self, name: &OsStr, to: &dyn BackingDir, to_name: &OsStr) -> io::Result<()> {
        let to = self.peer(to)?;
        let mut live = self.live();
        let id = live.find(self.id, name)?;
        if live.node(id)?.kind == Kind::Dir {
            return errno(libc::EPERM);
        }
        live.check_free(to.id, to_name)?;
        live.change(Change::Link { dir: to.id, name: to_name.into(), id });
        Ok(())
    }

    fn rename(&self, name: &OsStr, to: &dyn BackingDir, to_name: &OsStr, how: RenameHow) -> io::Result<()> {
        let to = self.peer(to)?;
        self.live().rename(self.id, name, to.id, to_name, how)
    }

    fn unlink(&self, name: &OsStr) -> io::Result<()> {
        self.live().remove(self.id, name, false)
    }

    fn remove_dir(&self, name: &OsStr) -> io::Result<()> {
        self.live().remove(self.id, name, true)
    }

    fn set_mode(&self, name: &OsStr, mode: u32) -> io::Result<()> {
        let mut live = self.live();
        let id = live.find(self.id, name)?;
        live.set_mode(id, mode)
    }

    fn set_owner(&self, name: &OsStr, uid: Option<u32>, gid: Option<u32>) -> io::Result<()> {
        let mut live = self.live();
        let id = live.find(self.id, name)?;
        live.set_owner(id, uid, gid)
    }

    fn set_times(&self, name: &OsStr, atime: SetTime, mtime: SetTime) -> io::Result<()> {
        let mut live = self.live();
        let id = live.find(self.id, name)?;
        live.set_times(id, atime, mtime)
    }

    fn get_xattr(&self, name: &OsStr, attr: &OsStr) -> io::Result<Vec<u8>> {
        let live = self.live();
        live.get_xattr(live.find(self.id, name)?, attr)
    }

    fn set_xattr(&self, name: &OsStr, attr: &OsStr, value: &[u8], how: XattrHow) -> io::Result<()> {
        let mut live = self.live();
        let id = live.find(self.id, name)?;
        live.set_xattr(id, attr, value, how)
    }

    fn list_xattrs(&self, name: &OsStr) -> io::Result<Vec<OsString>> {
        let live = self.live();
        live.list_xattrs(live.find(self.id, name)?)
    }

    fn remove_xattr(&self, name: &OsStr, attr: &OsStr) -> io::Result<()> {
        let mut live = self.live();
        let id = live.find(self.id, name)?;
        live.remove_xattr(id, attr)
    }

    fn sync(&self) -> io::Result<()> {
        self.live().log.push(Event::SyncDir { id: self.id });
        Ok(())
    }

    fn sync_all(&self) -> io::Result<()> {
        self.live().log.push(Event::SyncAll);
        Ok(())
    }

    fn stat_volume(&self) -> io::Result<VolumeStat> {
        // A volume of 1 TiB that is never full.
        let blocks = (1 << 40) / BLOCK as u64;
        Ok(VolumeStat {
            block_size: BLOCK as u64,
            fragment_size: BLOCK as u64,
            blocks,
            blocks_free: blocks,
            blocks_available: blocks,
            files: 1 << 30,
            files_free: 1 << 30,
            name_max: 255,
        })
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// What a file was opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    Attributes,
    Read,
    Write,
}

impl From<Access> for Use {
    fn from(access: Access) -> Self {
        match access {
            Access::Read => Use::Read,
            Access::ReadWrite => Use::Write,
        }
    }
}

/// An open or pinned file.
#[derive(Debug)]
struct SimFile {
    volume: Arc<Volume>,
    id: Id,
    use_: Use,
}

impl SimFile {
    fn live(&self) -> MutexGuard<'_, Live> {
        self.volume.0.lock()
    }

    /// Makes a change of the contents.
    fn change(&self, change: Change) -> io::Result<()> {
        if self.use_ != Use::Write {
            return errno(libc::EBADF);
        }
        let mut live = self.live();
        live.contents(self.id)?;
        live.change(change);
        Ok(())
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        self.volume.0.lock().let_go(self.id);
    }
}

impl BackingFile for SimFile {
    fn open_pinned(&self, access: Access) -> io::Result<Arc<dyn BackingFile>> {
        let mut live = self.live();
        if self.use_ != Use::Attributes || live.node(self.id)?.kind != Kind::File {
            return errno(libc::EINVAL);
        }
        live.hold(self.id);
        Ok(Arc::new(SimFile { volume: self.volume.clone(), id: self.id, use_: access.into() }))
    }

    fn read_vectored_at(&self, bufs: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<usize> {
        if self.use_ == Use::Attributes {
            return errno(libc::EBADF);
        }
        let live = self.live();
        let contents = live.contents(self.id)?;
        Ok(bufs.iter_mut().fold(0, |done, buf| done + contents.read(buf, offset + done as u64)))
    }

    fn write_all_vectored_at(&self, bufs: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        let data = bufs.iter().map(|buf| &**buf).collect::<Vec<&[u8]>>().concat();
        if data.is_empty() {
            return Ok(());
        }
        self.change(Change::Write { id: self.id, offset, data: data.into() })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        if len > i64::MAX as u64 {
            return errno(libc::EFBIG);
        }
        self.change(Change::SetLen { id: self.id, len })
    }

    fn reserve(&self, _offset: u64, _len: u64) -> io::Result<()> {
        // A reserved block reads as zeros, as a hole does, and a write into it is lost or kept like one into a hole.
        if self.use_ == Use::Write { Ok(()) } else { errno(libc::EBADF) }
    }

    fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()> {
        self.change(Change::Punch { id: self.id, offset, len })
    }

    fn sync(&self, metadata: bool) -> io::Result<()> {
        self.live().log.push(Event::SyncFile { id: self.id, metadata });
        Ok(())
    }

    fn stat(&self) -> io::Result<Stat> {
        self.live().stat(self.id)
    }

    fn set_mode(&self, mode: u32) -> io::Result<()> {
        self.live().set_mode(self.id, mode)
    }

    fn set_owner(&self, uid: Option<u32>, gid: Option<u32>) -> io::Result<()> {
        self.live().set_owner(self.id, uid, gid)
    }

    fn set_times(&self, atime: SetTime, mtime: SetTime) -> io::Result<()> {
        self.live().set_times(self.id, atime, mtime)
    }

    fn get_xattr(&self, attr: &OsStr) -> io::Result<Vec<u8>> {
        self.live().get_xattr(self.id, attr)
    }

    fn set_xattr(&self, attr: &OsStr, value: &[u8], how: XattrHow) -> io::Result<()> {
        self.live().set_xattr(self.id, attr, value, how)
    }

    fn list_xattrs(&self) -> io::Result<Vec<OsString>> {
        self.live().list_xattrs(self.id)
    }

    fn remove_xattr(&self, attr: &OsStr) -> io::Result<()> {
        self.live().remove_xattr(self.id, attr)
    }
}

/// A listing: entries in the order in which they were made.
struct SimStream {
    volume: Arc<Volume>,
    id: Id,
    at: i64,
    /// Keeps a removed directory's inode.
    _dir: Arc<dyn BackingDir>,
}

impl DirStream for SimStream {
    fn seek(&mut self, offset: i64) -> io::Result<()> {
        self.at = offset;
        Ok(())
    }

    fn next(&mut self) -> io::Result<Option<DirEntry>> {
        let live = self.volume.0.lock();
        let dir = live.dir(self.id)?;
        let (name, id, offset) = match self.at {
            0 => (OsString::from("."), self.id, 1),
            1 => (OsString::from(".."), dir.parent, 2),
            at => match dir.order.range(at + 1..).next() {
                None => return Ok(None),
                Some((offset, name)) => (name.clone(), dir.entries.get(name).map_or(self.id, |(id, _)| *id), *offset),
            },
        };
        let node = live.node(id)?;
        self.at = offset;
        Ok(Some(DirEntry { name, ino: node.ino, kind: Some(node.kind), offset }))
    }
}
