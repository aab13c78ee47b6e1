//! A backing filesystem as a value: inodes, names and blocks, cheap to copy, since tens of thousands of crash states are made from
//! one run.
//!
//! Everything large is shared between copies and copied when it is written to. [`Change`] is the vocabulary in which a run
//! is recorded; [`Image::apply`] is its only interpreter, for the live filesystem and for crash states alike.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, LazyLock};

use envelopefs::store::{Kind, Timestamp};
use xxhash_rust::xxh3::xxh3_64;

pub const BLOCK: usize = 4096;
/// Blocks that are copied together; a journal has a thousand, and most states share nearly all of them.
const GROUP: usize = 64;
/// Inode number of the root, which is not the 1 that programs see.
const ROOT_INO: u64 = 2;

pub type Page = [u8; BLOCK];
/// Names an inode for good, while inode numbers are used again.
pub type Id = u64;
pub const ROOT: Id = 0;

static ZEROS: LazyLock<Arc<Page>> = LazyLock::new(|| Arc::new([0; BLOCK]));

/// A file's bytes, with holes. What a hole reads as is zeros; what is stored as zeros is no hole.
#[derive(Debug, Clone, Default)]
pub struct Contents {
    len: u64,
    groups: BTreeMap<u64, Arc<[Option<Arc<Page>>; GROUP]>>,
}

impl Contents {
    pub fn len(&self) -> u64 {
        self.len
    }

    pub fn page(&self, block: u64) -> Option<&Arc<Page>> {
        self.groups.get(&(block / GROUP as u64))?[(block % GROUP as u64) as usize].as_ref()
    }

    pub fn set_page(&mut self, block: u64, page: Option<Arc<Page>>) {
        let at = block / GROUP as u64;
        if page.is_none() && !self.groups.contains_key(&at) {
            return;
        }
        let group = self.groups.entry(at).or_insert_with(|| Arc::new([const { None }; GROUP]));
        Arc::make_mut(group)[(block % GROUP as u64) as usize] = page;
    }

    /// The blocks that are not holes, in order.
    pub fn pages(&self) -> impl Iterator<Item = (u64, &Arc<Page>)> {
        self.groups.iter().flat_map(|(at, group)| {
            let numbered = group.iter().enumerate();
            numbered.filter_map(move |(n, page)| Some((at * GROUP as u64 + n as u64, page.as_ref()?)))
        })
    }

    pub fn read(&self, out: &mut [u8], offset: u64) -> usize {
        let len = out.len().min(usize::try_from(self.len.saturating_sub(offset)).unwrap_or(usize::MAX));
        for (at, range) in blocks(offset, len) {
            let out = &mut out[range.clone()];
            let within = ((offset + range.start as u64) % BLOCK as u64) as usize;
            match self.page(at) {
                Some(page) => out.copy_from_slice(&page[within..within + out.len()]),
                None => out.fill(0),
            }
        }
        len
    }

    pub fn write(&mut self, bytes: &[u8], offset: u64) {
        for (at, range) in blocks(offset, bytes.len()) {
            let part = &bytes[range.clone()];
            let within = ((offset + range.start as u64) % BLOCK as u64) as usize;
            let page = match self.page(at) {
                _ if part.len() == BLOCK && part == &ZEROS[..] => ZEROS.clone(),
                old => {
                    let mut page = old.map_or_else(|| ZEROS.clone(), Arc::clone);
                    Arc::make_mut(&mut page)[within..within + part.len()].copy_from_slice(part);
                    page
                }
            };
            self.set_page(at, Some(page));
        }
        self.len = self.len.max(offset + bytes.len() as u64);
    }

    pub fn set_len(&mut self, len: u64) {
        if len < self.len {
            self.punch(len, self.len.next_multiple_of(BLOCK as u64) - len);
        }
        self.len = len;
    }

    pub fn punch(&mut self, offset: u64, len: u64) {
        let end = (offset + len).min(self.len.next_multiple_of(BLOCK as u64));
        if offset >= end {
            return;
        }
        let touched: Vec<u64> = self
            .pages()
            .map(|(at, _)| at)
            .filter(|at| (offset / BLOCK as u64..end.div_ceil(BLOCK as u64)).contains(at))
            .collect();
        for at in touched {
            let start = at * BLOCK as u64;
            let (from, to) = (offset.max(start) - start, end.min(start + BLOCK as u64) - start);
            let page = match (from, to as usize) {
                (0, BLOCK) => None,
                _ => self.page(at).cloned().map(|mut page| {
                    Arc::make_mut(&mut page)[from as usize..to as usize].fill(0);
                    page
                }),
            };
            self.set_page(at, page);
        }
    }

    /// Equality as a reader sees it: a hole is zeros.
    pub fn same(&self, other: &Contents) -> bool {
        self.len == other.len && self.covers(other) && other.covers(self)
    }

    fn covers(&self, other: &Contents) -> bool {
        self.pages().all(|(at, page)| self.len <= at * BLOCK as u64 || page_or_zeros(other, at) == &page[..])
    }
}

/// A block as a reader sees it.
pub fn page_or_zeros(contents: &Contents, block: u64) -> &[u8] {
    contents.page(block).map_or(&ZEROS[..], |page| &page[..])
}

/// The blocks of a range of a file, each with its part of the bytes.
pub fn blocks(offset: u64, len: usize) -> impl Iterator<Item = (u64, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = offset + done as u64;
        let step = (BLOCK - (at % BLOCK as u64) as usize).min(len - done);
        let range = done..done + step;
        done += step;
        (step > 0).then_some((at / BLOCK as u64, range))
    })
}

/// What an inode is.
#[derive(Debug, Clone)]
pub enum Body {
    File(Contents),
    Dir(Dir),
    Symlink(OsString),
    /// FIFOs, sockets, device nodes.
    Other,
}

/// The entries of a directory, each with the offset behind it in a listing.
#[derive(Debug, Clone)]
pub struct Dir {
    pub parent: Id,
    pub entries: BTreeMap<OsString, (Id, i64)>,
    pub order: BTreeMap<i64, OsString>,
    next: i64,
}

impl Dir {
    /// Offsets 1 and 2 are those of `.` and `..`.
    pub fn new(parent: Id) -> Self {
        Dir { parent, entries: BTreeMap::new(), order: BTreeMap::new(), next: 3 }
    }

    fn insert(&mut self, name: OsString, id: Id) {
        self.remove(&name);
        self.order.insert(self.next, name.clone());
        self.entries.insert(name, (id, self.next));
        self.next += 1;
    }

    fn remove(&mut self, name: &OsString) -> Option<Id> {
        let (id, at) = self.entries.remove(name)?;
        self.order.remove(&at);
        Some(id)
    }
}

#[derive(Debug, Clone)]
pub struct Node {
    pub ino: u64,
    pub kind: Kind,
    pub mode: u32,
    pub nlink: u64,
    pub uid: u32,
    pub gid: u32,
    pub rdev: u64,
    pub atime: Timestamp,
    pub mtime: Timestamp,
    pub ctime: Timestamp,
    pub xattrs: BTreeMap<OsString, Vec<u8>>,
    pub body: Body,
}

/// One change of a backing filesystem.
#[derive(Debug, Clone)]
pub enum Change {
    /// `after`: the former life of the inode number.
    Create {
        dir: Id,
        name: OsString,
        id: Id,
        node: Arc<Node>,
        after: Option<Id>,
    },
    Link {
        dir: Id,
        name: OsString,
        id: Id,
    },
    /// unlink and rmdir.
    Remove {
        dir: Id,
        name: OsString,
        id: Id,
    },
    Rename {
        from: Id,
        name: OsString,
        id: Id,
        to: Id,
        to_name: OsString,
        over: Option<Id>,
        exchange: bool,
    },
    SetMode {
        id: Id,
        mode: u32,
    },
    SetOwner {
        id: Id,
        uid: Option<u32>,
        gid: Option<u32>,
    },
    SetTimes {
        id: Id,
        atime: Option<Timestamp>,
        mtime: Option<Timestamp>,
    },
    /// `None` removes it.
    SetXattr {
        id: Id,
        name: OsString,
        value: Option<Vec<u8>>,
    },
    Write {
        id: Id,
        offset: u64,
        data: Arc<[u8]>,
    },
    SetLen {
        id: Id,
        len: u64,
    },
    Punch {
        id: Id,
        offset: u64,
        len: u64,
    },
}

impl Change {
    /// The file whose contents it changes.
    pub fn contents_of(&self) -> Option<Id> {
        match self {
            Change::Write { id, .. } | Change::SetLen { id, .. } | Change::Punch { id, .. } => Some(*id),
            _ => None,
        }
    }

    /// The inodes that a change of names or attributes concerns.
    pub fn concerns(&self) -> Vec<Id> {
        match self {
            Change::Create { dir, id, after, .. } => [*dir, *id].into_iter().chain(*after).collect(),
            Change::Link { dir, id, .. } | Change::Remove { dir, id, .. } => vec![*dir, *id],
            Change::Rename { from, id, to, over, .. } => [*from, *id, *to].into_iter().chain(*over).collect(),
            Change::SetMode { id, .. }
            | Change::SetOwner { id, .. }
            | Change::SetTimes { id, .. }
            | Change::SetXattr { id, .. }
            | Change::Write { id, .. }
            | Change::SetLen { id, .. }
            | Change::Punch { id, .. } => vec![*id],
        }
    }
}

/// A whole backing filesystem.
#[derive(Debug, Clone)]
pub struct Image {
    pub nodes: BTreeMap<Id, Arc<Node>>,
    /// The id of the next inode; none is given twice.
    pub next_id: Id,
}

impl Image {
    /// An empty root directory.
    pub fn new() -> Self {
        let node = Node {
            ino: ROOT_INO,
            kind: Kind::Dir,
            mode: 0o755,
            nlink: 2,
            uid: 0,
            gid: 0,
            rdev: 0,
            atime: Timestamp::default(),
            mtime: Timestamp::default(),
            ctime: Timestamp::default(),
            xattrs: BTreeMap::new(),
            body: Body::Dir(Dir::new(ROOT)),
        };
        Image { nodes: BTreeMap::from([(ROOT, Arc::new(node))]), next_id: ROOT + 1 }
    }

    pub fn node(&self, id: Id) -> Option<&Node> {
        self.nodes.get(&id).map(|node| &**node)
    }

    pub fn dir(&self, id: Id) -> Option<&Dir> {
        match &self.node(id)?.body {
            Body::Dir(dir) => Some(dir),
            _ => None,
        }
    }

    pub fn contents(&self, id: Id) -> Option<&Contents> {
        match &self.node(id)?.body {
            Body::File(contents) => Some(contents),
            _ => None,
        }
    }

    pub fn node_mut(&mut self, id: Id) -> Option<&mut Node> {
        self.nodes.get_mut(&id).map(Arc::make_mut)
    }

    fn dir_mut(&mut self, id: Id) -> Option<&mut Dir> {
        match &mut self.node_mut(id)?.body {
            Body::Dir(dir) => Some(dir),
            _ => None,
        }
    }

    pub fn contents_mut(&mut self, id: Id) -> Option<&mut Contents> {
        match &mut self.node_mut(id)?.body {
            Body::File(contents) => Some(contents),
            _ => None,
        }
    }

    /// Makes a change at a time. One of something that is not there has no effect.
    pub fn apply(&mut self, change: &Change, now: Timestamp) {
        match change {
            Change::Create { dir, name, id, node, .. } => {
                self.nodes.insert(*id, node.clone());
                self.next_id = self.next_id.max(id + 1);
                self.enter(*dir, name, *id, now);
            }
            Change::Link { dir, name, id } => {
                self.count_links(*id, 1, now);
                self.enter(*dir, name, *id, now);
            }
            Change::Remove { dir, name, id } => {
                self.leave(*dir, name, now);
                self.drop_link(*id, now);
            }
            Change::Rename { from, name, id, to, to_name, over, exchange } => {
                self.leave(*from, name, now);
                if let Some(over) = over {
                    self.leave(*to, to_name, now);
                    match exchange {
                        true => self.enter_moved(*to, *from, name, *over, now),
                        false => self.drop_link(*over, now),
                    }
                }
                self.enter_moved(*from, *to, to_name, *id, now);
            }
            Change::SetMode { id, mode } => self.with(*id, now, |node| node.mode = *mode),
            Change::SetOwner { id, uid, gid } => self.with(*id, now, |node| {
                node.uid = uid.unwrap_or(node.uid);
                node.gid = gid.unwrap_or(node.gid);
            }),
            Change::SetTimes { id, atime, mtime } => self.with(*id, now, |node| {
                node.atime = atime.unwrap_or(node.atime);
                node.mtime = mtime.unwrap_or(node.mtime);
            }),
            Change::SetXattr { id, name, value } => self.with(*id, now, |node| {
                match value {
                    Some(value) => node.xattrs.insert(name.clone(), value.clone()),
                    None => node.xattrs.remove(name),
                };
            }),
            Change::Write { id, offset, data } => {
                self.with_contents(*id, now, |contents| contents.write(data, *offset))
            }
            Change::SetLen { id, len } => self.with_contents(*id, now, |contents| contents.set_len(*len)),
            Change::Punch { id, offset, len } => self.with_contents(*id, now, |contents| contents.punch(*offset, *len)),
        }
    }

    fn with(&mut self, id: Id, now: Timestamp, change: impl FnOnce(&mut Node)) {
        if let Some(node) = self.node_mut(id) {
            change(node);
            node.ctime = now;
        }
    }

    fn with_contents(&mut self, id: Id, now: Timestamp, change: impl FnOnce(&mut Contents)) {
        self.with(id, now, |node| {
            if let Body::File(contents) = &mut node.body {
                change(contents);
            }
            node.mtime = now;
        });
    }

    fn enter(&mut self, dir: Id, name: &OsString, id: Id, now: Timestamp) {
        if let Some(dir) = self.dir_mut(dir) {
            dir.insert(name.clone(), id);
        }
        let is_dir = self.dir(id).is_some();
        self.with(dir, now, |dir| {
            dir.mtime = now;
            dir.nlink += u64::from(is_dir);
        });
    }

    fn leave(&mut self, dir: Id, name: &OsString, now: Timestamp) {
        let Some(id) = self.dir_mut(dir).and_then(|dir| dir.remove(name)) else { return };
        let is_dir = self.dir(id).is_some();
        self.with(dir, now, |dir| {
            dir.mtime = now;
            dir.nlink -= u64::from(is_dir);
        });
    }

    fn enter_moved(&mut self, from: Id, to: Id, name: &OsString, id: Id, now: Timestamp) {
        self.enter(to, name, id, now);
        if from != to
            && let Some(moved) = self.dir_mut(id)
        {
            moved.parent = to;
        }
        self.with(id, now, |_| ());
    }

    fn count_links(&mut self, id: Id, more: u64, now: Timestamp) {
        self.with(id, now, |node| node.nlink += more);
    }

    fn drop_link(&mut self, id: Id, now: Timestamp) {
        self.with(id, now, |node| match node.kind {
            Kind::Dir => node.nlink = 0,
            _ => node.nlink -= 1,
        });
    }

    /// Drops what no name leads to: nothing else is left of it once nobody has it open.
    pub fn drop_orphans(&mut self) {
        self.nodes.retain(|_, node| node.nlink > 0);
    }

    /// Tells states apart, by everything but times.
    pub fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        for (id, node) in &self.nodes {
            (id, node.ino, node.mode, node.nlink, node.uid, node.gid, &node.xattrs).hash(&mut hasher);
            match &node.body {
                Body::File(contents) => {
                    contents.len.hash(&mut hasher);
                    for (at, page) in contents.pages().filter(|(_, page)| !Arc::ptr_eq(page, &ZEROS)) {
                        (at, xxh3_64(&page[..])).hash(&mut hasher);
                    }
                }
                Body::Dir(dir) => {
                    dir.entries.iter().for_each(|(name, (id, _))| (name, id).hash(&mut hasher));
                }
                Body::Symlink(target) => target.hash(&mut hasher),
                Body::Other => {}
            }
        }
        hasher.finish()
    }
}
