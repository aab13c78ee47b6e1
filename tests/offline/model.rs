//! Random operations on `Fs` and on a filesystem that is a few maps in memory: every answer must be the same, and so must the whole
//! tree at the end and after each remount. What was once found is kept below as a named regression.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::sync::Arc;

use envelopefs::fs::{
    Caller, Entry, Fallocate, Fs, FsError, FsOptions, HandleId, Ino, Kind, OpenHow, RenameHow, SetAttr, SetTime,
    WriteHow, XattrHow,
};
use envelopefs::keys::KeyRing;
use envelopefs::store::{StoreOptions, open_root};
use proptest::prelude::*;
use tempfile::TempDir;
use uuid::Uuid;

const ROOT: Caller = Caller { uid: 0, gid: 0, pid: 0 };
const WRITE: OpenHow = OpenHow { write: true, truncate: false, sync: false };
const KEEP: SetAttr =
    SetAttr { mode: None, uid: None, gid: None, size: None, atime: SetTime::Keep, mtime: SetTime::Keep };
/// Handles that are open at a time.
const HANDLES: usize = 3;
/// Largest file: enough for two groups of chunks, so a tree of two levels.
const LARGEST: u64 = 700_000;

/// What an operation works on is chosen by small numbers, taken modulo what there is, so that operations meet.
#[derive(Debug, Clone)]
enum Op {
    Create { dir: usize, name: usize, mode: u32 },
    Mkdir { dir: usize, name: usize, mode: u32 },
    Symlink { dir: usize, name: usize, len: usize },
    Fifo { dir: usize, name: usize },
    Link { from: (usize, usize), to: (usize, usize) },
    Unlink { dir: usize, name: usize },
    Rmdir { dir: usize, name: usize },
    Rename { from: (usize, usize), to: (usize, usize), how: u8 },
    Open { dir: usize, name: usize, slot: usize, truncate: bool },
    Close { slot: usize },
    Write { slot: usize, at: u64, len: usize, fill: u8 },
    Punch { slot: usize, at: u64, len: u64 },
    Zero { slot: usize, at: u64, len: u64, keep: bool },
    Copy { from: usize, to: usize, at: (u64, u64), len: u64 },
    Truncate { dir: usize, name: usize, len: u64 },
    Chmod { dir: usize, name: usize, mode: u32 },
    SetXattr { dir: usize, name: usize, attr: usize, len: usize },
    RemoveXattr { dir: usize, name: usize, attr: usize },
    Commit,
    Remount,
}

/// Short, hidden, odd bytes, like the format's own, and every length around the limit of a short stored name.
fn names() -> Vec<OsString> {
    let text = |s: &str| OsString::from(s);
    vec![
        text("a"),
        text(".env"),
        OsString::from_vec(vec![0xff, 0x01, b'\n', 0x80]),
        text(".envelopefs.dir"),
        text(&"s".repeat(175)),
        text(&"l".repeat(176)),
        text(&"m".repeat(255)),
    ]
}

const ATTRS: [&str; 2] = ["user.a", "user.another.attribute"];

fn spot() -> impl Strategy<Value = (usize, usize)> {
    (0..4usize, 0..7usize)
}

/// Places where something changes: inline, chunk and group limits.
fn offset() -> impl Strategy<Value = u64> {
    let edge = prop::sample::select(vec![0u64, 1, 3811, 3812, 3813, 4095, 4096, 8192, 524_287, 524_288, 528_384]);
    prop_oneof![3 => edge, 1 => 0..LARGEST]
}

fn op() -> impl Strategy<Value = Op> {
    let len = || prop::sample::select(vec![1usize, 100, 3812, 4096, 5000, 70_000]);
    prop_oneof![
        3 => (spot(), 0..0o10000u32).prop_map(|((dir, name), mode)| Op::Create { dir, name, mode }),
        2 => (spot(), 0..0o1000u32).prop_map(|((dir, name), mode)| Op::Mkdir { dir, name, mode }),
        1 => (spot(), prop::sample::select(vec![1usize, 50, 3043, 3044, 4095])).prop_map(|((dir, name), len)| Op::Symlink { dir, name, len }),
        1 => spot().prop_map(|(dir, name)| Op::Fifo { dir, name }),
        2 => (spot(), spot()).prop_map(|(from, to)| Op::Link { from, to }),
        2 => spot().prop_map(|(dir, name)| Op::Unlink { dir, name }),
        1 => spot().prop_map(|(dir, name)| Op::Rmdir { dir, name }),
        4 => (spot(), spot(), 0..3u8).prop_map(|(from, to, how)| Op::Rename { from, to, how }),
        4 => (spot(), 0..HANDLES, prop::bool::weighted(0.2)).prop_map(|((dir, name), slot, truncate)| Op::Open { dir, name, slot, truncate }),
        1 => (0..HANDLES).prop_map(|slot| Op::Close { slot }),
        6 => (0..HANDLES, offset(), len(), 1..=255u8).prop_map(|(slot, at, len, fill)| Op::Write { slot, at, len, fill }),
        1 => (0..HANDLES, offset(), 1..20_000u64).prop_map(|(slot, at, len)| Op::Punch { slot, at, len }),
        1 => (0..HANDLES, offset(), 1..20_000u64, any::<bool>()).prop_map(|(slot, at, len, keep)| Op::Zero { slot, at, len, keep }),
        1 => (0..HANDLES, 0..HANDLES, (offset(), offset()), 1..200_000u64).prop_map(|(from, to, at, len)| Op::Copy { from, to, at, len }),
        2 => (spot(), offset()).prop_map(|((dir, name), len)| Op::Truncate { dir, name, len }),
        1 => (spot(), 0..0o10000u32).prop_map(|((dir, name), mode)| Op::Chmod { dir, name, mode }),
        1 => (spot(), 0..2usize, 0..600usize).prop_map(|((dir, name), attr, len)| Op::SetXattr { dir, name, attr, len }),
        1 => (spot(), 0..2usize).prop_map(|((dir, name), attr)| Op::RemoveXattr { dir, name, attr }),
        1 => Just(Op::Commit),
        1 => Just(Op::Remount),
    ]
}

/// A node of the model. Directories are named by exactly one entry; the others by `links` of them.
#[derive(Debug, Clone)]
struct Node {
    mode: u32,
    links: u32,
    xattrs: BTreeMap<OsString, Vec<u8>>,
    body: Body,
}

#[derive(Debug, Clone)]
enum Body {
    File(Vec<u8>),
    Dir(BTreeMap<OsString, usize>),
    Symlink(OsString),
    Fifo,
}

impl Body {
    fn kind(&self) -> Kind {
        match self {
            Body::File(_) => Kind::File,
            Body::Dir(_) => Kind::Dir,
            Body::Symlink(_) => Kind::Symlink,
            Body::Fifo => Kind::Fifo,
        }
    }
}

type Outcome<T> = std::result::Result<T, i32>;

/// Model and filesystem side by side.
struct Pair {
    backing: TempDir,
    ring: Arc<KeyRing>,
    fs: Fs,
    /// Nodes by number, 0 the root; a node nothing names any more stays, for open handles.
    nodes: Vec<Node>,
    open: [Option<(HandleId, usize)>; HANDLES],
}

fn errno<T>(result: Result<T, FsError>) -> Outcome<T> {
    result.map_err(|error| error.errno())
}

fn fresh(ring: &Arc<KeyRing>, backing: &TempDir) -> Fs {
    let options = FsOptions { read_only: false, give_to_caller: false, store: StoreOptions::of_this_kernel() };
    Fs::new(open_root(backing.path()).unwrap(), ring.clone(), options).unwrap()
}

impl Pair {
    fn new() -> Self {
        // As the daemon does: modes come masked with the caller's umask already.
        rustix::process::umask(rustix::fs::Mode::empty());
        let backing = tempfile::tempdir().unwrap();
        std::fs::create_dir(backing.path().join(".envelopefs")).unwrap();
        let ring = Arc::new(KeyRing::generate(Uuid::new_v4()));
        let fs = fresh(&ring, &backing);
        let root = Node { mode: 0, links: 1, xattrs: BTreeMap::new(), body: Body::Dir(BTreeMap::new()) };
        Pair { backing, ring, fs, nodes: vec![root], open: [None; HANDLES] }
    }

    fn entries(&self, dir: usize) -> &BTreeMap<OsString, usize> {
        match &self.nodes[dir].body {
            Body::Dir(entries) => entries,
            _ => unreachable!("not a directory"),
        }
    }

    fn entries_mut(&mut self, dir: usize) -> &mut BTreeMap<OsString, usize> {
        match &mut self.nodes[dir].body {
            Body::Dir(entries) => entries,
            _ => unreachable!("not a directory"),
        }
    }

    /// Every directory with its path, the root first.
    fn dirs(&self) -> Vec<(usize, Vec<OsString>)> {
        let mut found = vec![(0, Vec::new())];
        let mut at = 0;
        while at < found.len() {
            let (dir, path) = found[at].clone();
            for (name, &node) in self.entries(dir) {
                if matches!(self.nodes[node].body, Body::Dir(_)) {
                    found.push((node, [&path[..], std::slice::from_ref(name)].concat()));
                }
            }
            at += 1;
        }
        found
    }

    /// The directory chosen by a number, on both sides, and its path.
    fn dir(&self, choice: usize) -> (usize, Ino, Vec<OsString>) {
        let dirs = self.dirs();
        let (node, path) = dirs[choice % dirs.len()].clone();
        let ino = path.iter().fold(Ino::ROOT, |ino, name| self.fs.lookup(ino, name).unwrap().attr.ino);
        (node, ino, path)
    }

    fn found(&self, dir: usize, name: &OsStr) -> Outcome<usize> {
        self.entries(dir).get(name).copied().ok_or(libc::ENOENT)
    }

    fn looked_up(&self, dir: Ino, name: &OsStr) -> Outcome<Entry> {
        errno(self.fs.lookup(dir, name))
    }

    fn add(&mut self, dir: usize, name: &OsStr, mode: u32, body: Body) -> Outcome<usize> {
        if self.entries(dir).contains_key(name) {
            return Err(libc::EEXIST);
        }
        self.nodes.push(Node { mode, links: 1, xattrs: BTreeMap::new(), body });
        let node = self.nodes.len() - 1;
        self.entries_mut(dir).insert(name.to_os_string(), node);
        Ok(node)
    }

    fn drop_name(&mut self, dir: usize, name: &OsStr) {
        if let Some(node) = self.entries_mut(dir).remove(name) {
            self.nodes[node].links -= 1;
        }
    }

    fn file(&mut self, node: usize) -> &mut Vec<u8> {
        match &mut self.nodes[node].body {
            Body::File(data) => data,
            _ => unreachable!("not a file"),
        }
    }

    /// Does an operation on both sides and compares the outcomes.
    fn step(&mut self, op: &Op) {
        let names = names();
        match *op {
            Op::Create { dir, name, mode } => {
                let (node, ino, _) = self.dir(dir);
                let ours = errno(self.fs.create(&ROOT, ino, &names[name], mode, 0, WRITE));
                let theirs = self.add(node, &names[name], mode, Body::File(Vec::new()));
                assert_eq!(ours.as_ref().err(), theirs.as_ref().err());
                if let Ok((_, handle)) = ours {
                    self.fs.release(handle).unwrap();
                }
            }
            Op::Mkdir { dir, name, mode } => {
                let (node, ino, path) = self.dir(dir);
                if path.len() > 3 {
                    return;
                }
                let ours = errno(self.fs.mkdir(&ROOT, ino, &names[name], mode, 0)).map(|_| ());
                // A setgid directory hands the bit down (mkdir(2)).
                let inherited = self.nodes[node].mode & libc::S_ISGID;
                let theirs = self.add(node, &names[name], mode | inherited, Body::Dir(BTreeMap::new())).map(|_| ());
                assert_eq!(ours, theirs);
            }
            Op::Symlink { dir, name, len } => {
                let (node, ino, _) = self.dir(dir);
                let target = OsString::from("t".repeat(len));
                let ours = errno(self.fs.symlink(&ROOT, ino, &names[name], &target)).map(|_| ());
                let theirs = self.add(node, &names[name], 0o777, Body::Symlink(target)).map(|_| ());
                assert_eq!(ours, theirs);
            }
            Op::Fifo { dir, name } => {
                let (node, ino, _) = self.dir(dir);
                let ours = errno(self.fs.mknod(&ROOT, ino, &names[name], libc::S_IFIFO | 0o640, 0, 0)).map(|_| ());
                let theirs = self.add(node, &names[name], 0o640, Body::Fifo).map(|_| ());
                assert_eq!(ours, theirs);
            }
            Op::Link { from, to } => self.link(from, to, &names),
            Op::Unlink { dir, name } => {
                let (node, ino, _) = self.dir(dir);
                let theirs = self.found(node, &names[name]).and_then(|found| match self.nodes[found].body {
                    Body::Dir(_) => Err(libc::EISDIR),
                    _ => Ok(()),
                });
                assert_eq!(errno(self.fs.unlink(ino, &names[name])), theirs);
                if theirs.is_ok() {
                    self.drop_name(node, &names[name]);
                }
            }
            Op::Rmdir { dir, name } => {
                let (node, ino, _) = self.dir(dir);
                let theirs = self.found(node, &names[name]).and_then(|found| match &self.nodes[found].body {
                    Body::Dir(entries) if entries.is_empty() => Ok(()),
                    Body::Dir(_) => Err(libc::ENOTEMPTY),
                    _ => Err(libc::ENOTDIR),
                });
                assert_eq!(errno(self.fs.rmdir(ino, &names[name])), theirs);
                if theirs.is_ok() {
                    self.drop_name(node, &names[name]);
                }
            }
            Op::Rename { from, to, how } => self.rename(from, to, how, &names),
            Op::Open { dir, name, slot, truncate } => {
                let (node, ino, _) = self.dir(dir);
                let Ok(found) = self.found(node, &names[name]) else { return };
                if !matches!(self.nodes[found].body, Body::File(_)) {
                    return;
                }
                self.close(slot);
                if truncate {
                    self.file(found).clear();
                }
                let entry = self.looked_up(ino, &names[name]).unwrap();
                let how = OpenHow { truncate, ..WRITE };
                self.open[slot] = Some((self.fs.open(&ROOT, entry.attr.ino, how).unwrap(), found));
            }
            Op::Close { slot } => self.close(slot),
            Op::Write { slot, at, len, fill } => {
                let Some((handle, node)) = self.open[slot] else { return };
                let bytes: Vec<u8> = (0..len).map(|n| fill.wrapping_add((n / 7) as u8)).collect();
                self.fs.write(handle, at, &bytes, WriteHow::default()).unwrap();
                self.put(node, at as usize, &bytes);
            }
            Op::Punch { slot, at, len } => {
                let Some((handle, node)) = self.open[slot] else { return };
                self.fs.fallocate(&ROOT, handle, at, len, Fallocate::PunchHole).unwrap();
                let data = self.file(node);
                let (from, to) = ((at as usize).min(data.len()), ((at + len) as usize).min(data.len()));
                data[from..to].fill(0);
            }
            Op::Zero { slot, at, len, keep } => {
                let Some((handle, node)) = self.open[slot] else { return };
                self.fs.fallocate(&ROOT, handle, at, len, Fallocate::ZeroRange { keep_size: keep }).unwrap();
                let data = self.file(node);
                if !keep && data.len() < (at + len) as usize {
                    data.resize((at + len) as usize, 0);
                }
                let (from, to) = ((at as usize).min(data.len()), ((at + len) as usize).min(data.len()));
                data[from..to].fill(0);
            }
            Op::Copy { from, to, at, len } => {
                let (Some((source, source_node)), Some((target, target_node))) = (self.open[from], self.open[to])
                else {
                    return;
                };
                let available = (self.file(source_node).len() as u64).saturating_sub(at.0).min(len);
                let ours = errno(self.fs.copy_file_range(&ROOT, source, at.0, target, at.1, len));
                if source_node == target_node && at.0.abs_diff(at.1) < available {
                    assert_eq!(ours, Err(libc::EINVAL));
                    return;
                }
                assert_eq!(ours, Ok(available));
                let bytes = self.file(source_node).get(at.0 as usize..(at.0 + available) as usize).map(<[u8]>::to_vec);
                if let Some(bytes) = bytes.filter(|bytes| !bytes.is_empty()) {
                    self.put(target_node, at.1 as usize, &bytes);
                }
            }
            Op::Truncate { dir, name, len } => {
                let (node, ino, _) = self.dir(dir);
                let Ok(found) = self.found(node, &names[name]) else { return };
                let entry = self.looked_up(ino, &names[name]).unwrap();
                let set = SetAttr { size: Some(len), ..KEEP };
                let ours = errno(self.fs.setattr(&ROOT, entry.attr.ino, &set));
                match &mut self.nodes[found].body {
                    Body::File(data) => {
                        data.resize(len as usize, 0);
                        assert_eq!(ours.unwrap().size, len);
                    }
                    Body::Dir(_) => assert_eq!(ours.unwrap_err(), libc::EISDIR),
                    _ => assert_eq!(ours.unwrap_err(), libc::EINVAL),
                }
            }
            Op::Chmod { dir, name, mode } => {
                let (node, ino, _) = self.dir(dir);
                let Ok(found) = self.found(node, &names[name]) else { return };
                let entry = self.looked_up(ino, &names[name]).unwrap();
                let ours = errno(self.fs.setattr(&ROOT, entry.attr.ino, &SetAttr { mode: Some(mode), ..KEEP }));
                if matches!(self.nodes[found].body, Body::Symlink(_)) {
                    assert_eq!(ours.unwrap_err(), libc::EOPNOTSUPP);
                } else {
                    ours.unwrap();
                    self.nodes[found].mode = mode;
                }
            }
            Op::SetXattr { dir, name, attr, len } => {
                let (node, ino, _) = self.dir(dir);
                let Ok(found) = self.found(node, &names[name]) else { return };
                let entry = self.looked_up(ino, &names[name]).unwrap();
                let (attr, value) = (OsStr::new(ATTRS[attr]), vec![len as u8; len]);
                let ours = errno(self.fs.setxattr(&ROOT, entry.attr.ino, attr, &value, XattrHow::Set));
                if matches!(self.nodes[found].body, Body::File(_) | Body::Dir(_)) {
                    ours.unwrap();
                    self.nodes[found].xattrs.insert(attr.to_os_string(), value);
                } else {
                    assert_eq!(ours, Err(libc::EPERM));
                }
            }
            Op::RemoveXattr { dir, name, attr } => {
                let (node, ino, _) = self.dir(dir);
                let Ok(found) = self.found(node, &names[name]) else { return };
                if !matches!(self.nodes[found].body, Body::File(_) | Body::Dir(_)) {
                    return;
                }
                let entry = self.looked_up(ino, &names[name]).unwrap();
                let attr = OsStr::new(ATTRS[attr]);
                let theirs = self.nodes[found].xattrs.remove(attr).map(|_| ()).ok_or(libc::ENODATA);
                assert_eq!(errno(self.fs.removexattr(entry.attr.ino, attr)), theirs);
            }
            Op::Commit => self.fs.commit_all().unwrap(),
            Op::Remount => {
                self.remount();
                self.compare();
            }
        }
    }

    fn put(&mut self, node: usize, at: usize, bytes: &[u8]) {
        let data = self.file(node);
        if data.len() < at + bytes.len() {
            data.resize(at + bytes.len(), 0);
        }
        data[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn link(&mut self, from: (usize, usize), to: (usize, usize), names: &[OsString]) {
        let ((from_node, from_ino, _), (to_node, to_ino, _)) = (self.dir(from.0), self.dir(to.0));
        let Ok(found) = self.found(from_node, &names[from.1]) else { return };
        let entry = self.looked_up(from_ino, &names[from.1]).unwrap();
        let ours = errno(self.fs.link(entry.attr.ino, to_ino, &names[to.1])).map(|entry| entry.attr.nlink);
        if matches!(self.nodes[found].body, Body::Dir(_)) {
            assert_eq!(ours, Err(libc::EPERM));
        } else if self.entries(to_node).contains_key(&names[to.1]) {
            assert_eq!(ours, Err(libc::EEXIST));
        } else {
            self.entries_mut(to_node).insert(names[to.1].clone(), found);
            self.nodes[found].links += 1;
            assert_eq!(ours, Ok(self.nodes[found].links));
        }
    }

    fn rename(&mut self, from: (usize, usize), to: (usize, usize), how: u8, names: &[OsString]) {
        let ((from_node, from_ino, from_path), (to_node, to_ino, to_path)) = (self.dir(from.0), self.dir(to.0));
        let (from_name, to_name) = (&names[from.1], &names[to.1]);
        // The kernel refuses to move a directory below itself before it asks a filesystem.
        let inside = |outer: &[OsString], name: &OsString, inner: &[OsString]| {
            inner.len() > outer.len() && inner.starts_with(outer) && inner[outer.len()] == *name
        };
        if inside(&from_path, from_name, &to_path) || inside(&to_path, to_name, &from_path) {
            return;
        }
        let how = [RenameHow::Replace, RenameHow::NoReplace, RenameHow::Exchange][usize::from(how)];
        let ours = errno(self.fs.rename(from_ino, from_name, to_ino, to_name, how));
        let (source, target) = (self.found(from_node, from_name), self.found(to_node, to_name).ok());
        let theirs = match (source, target, how) {
            (Err(errno), ..) => Err(errno),
            (_, Some(_), RenameHow::NoReplace) => Err(libc::EEXIST),
            (_, None, RenameHow::Exchange) => Err(libc::ENOENT),
            (Ok(source), Some(target), _) if source == target => Ok(None),
            (Ok(source), Some(target), RenameHow::Replace) => {
                match (&self.nodes[source].body, &self.nodes[target].body) {
                    (Body::Dir(_), Body::Dir(entries)) if !entries.is_empty() => Err(libc::ENOTEMPTY),
                    (Body::Dir(_), Body::Dir(_)) => Ok(Some(source)),
                    (Body::Dir(_), _) => Err(libc::ENOTDIR),
                    (_, Body::Dir(_)) => Err(libc::EISDIR),
                    _ => Ok(Some(source)),
                }
            }
            (Ok(source), ..) => Ok(Some(source)),
        };
        assert_eq!(ours, theirs.map(|_| ()));
        let Ok(Some(source)) = theirs else { return };
        if how == RenameHow::Exchange {
            let target = target.unwrap();
            self.entries_mut(from_node).insert(from_name.clone(), target);
            self.entries_mut(to_node).insert(to_name.clone(), source);
            return;
        }
        self.drop_name(to_node, to_name);
        self.entries_mut(from_node).remove(from_name);
        self.entries_mut(to_node).insert(to_name.clone(), source);
    }

    fn close(&mut self, slot: usize) {
        if let Some((handle, node)) = self.open[slot].take() {
            let data = self.contents(handle);
            assert!(data == *self.file(node), "contents of an open file differ");
            self.fs.flush(handle).unwrap();
            self.fs.release(handle).unwrap();
        }
    }

    fn remount(&mut self) {
        (0..HANDLES).for_each(|slot| self.close(slot));
        self.fs.shut_down().unwrap();
        self.fs = fresh(&self.ring, &self.backing);
    }

    fn contents(&self, handle: HandleId) -> Vec<u8> {
        let (mut all, mut buf) = (Vec::new(), Vec::new());
        loop {
            let range = self.fs.read(handle, all.len() as u64, 100_000, &mut buf).unwrap();
            if range.is_empty() {
                return all;
            }
            all.extend_from_slice(&buf[range]);
        }
    }

    /// Compares the whole tree.
    fn compare(&self) {
        let mut numbers: BTreeMap<Ino, usize> = BTreeMap::new();
        for (dir, path) in self.dirs() {
            let ino = path.iter().fold(Ino::ROOT, |ino, name| self.fs.lookup(ino, name).unwrap().attr.ino);
            let handle = self.fs.opendir(ino).unwrap();
            let mut listed = Vec::new();
            self.fs
                .readdir(handle, 0, &mut |item| {
                    listed.push((item.name.clone(), item.kind, item.ino));
                    true
                })
                .unwrap();
            self.fs.releasedir(handle);
            listed.retain(|(name, ..)| name != "." && name != "..");
            listed.sort_by(|one, other| one.0.cmp(&other.0));
            let expected: Vec<_> = self.entries(dir).iter().collect();
            assert_eq!(
                listed.iter().map(|(name, ..)| name).collect::<Vec<_>>(),
                expected.iter().map(|e| e.0).collect::<Vec<_>>()
            );
            for ((name, kind, listed_ino), (_, node)) in listed.iter().zip(expected) {
                let entry = self.fs.lookup(ino, name).unwrap();
                assert_eq!((entry.attr.ino, entry.attr.kind), (*listed_ino, *kind));
                assert_eq!(*numbers.entry(entry.attr.ino).or_insert(*node), *node, "one number, one node");
                self.compare_node(&entry, &self.nodes[*node]);
            }
        }
    }

    fn compare_node(&self, entry: &Entry, node: &Node) {
        let attr = &entry.attr;
        assert_eq!((attr.kind, attr.mode), (node.body.kind(), node.mode));
        match &node.body {
            Body::File(data) => {
                assert_eq!((attr.size, attr.nlink), (data.len() as u64, node.links));
                let handle = self.fs.open(&ROOT, attr.ino, OpenHow::default()).unwrap();
                assert!(self.contents(handle) == *data, "contents differ");
                self.fs.release(handle).unwrap();
            }
            Body::Symlink(target) => {
                assert_eq!((attr.size, attr.nlink), (target.len() as u64, node.links));
                assert_eq!(self.fs.readlink(attr.ino).unwrap(), target.as_bytes());
            }
            Body::Fifo => assert_eq!(attr.nlink, node.links),
            Body::Dir(_) => {}
        }
        let mut attrs = self.fs.listxattr(attr.ino).unwrap();
        attrs.retain(|name| name.as_bytes().starts_with(b"user."));
        attrs.sort();
        assert_eq!(attrs, node.xattrs.keys().cloned().collect::<Vec<_>>());
        for (name, value) in &node.xattrs {
            assert_eq!(self.fs.getxattr(attr.ino, name).unwrap(), *value);
        }
    }
}

fn check(ops: &[Op]) {
    let mut pair = Pair::new();
    for op in ops {
        pair.step(op);
    }
    pair.compare();
    pair.remount();
    pair.compare();
}

proptest! {
    // Shrinking runs the operations on a disk each time: bounded, so that a failure is reported within minutes.
    #![proptest_config(ProptestConfig { cases: 96, max_shrink_iters: 2000, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn behaves_as_the_model_does(ops in prop::collection::vec(op(), 1..80)) {
        check(&ops);
    }
}
