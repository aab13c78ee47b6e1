//! What a file may contain after something went wrong: the contents that were acknowledged, or those of any later change, chunk by
//! chunk. A changed chunk that reads as neither, or a chunk that does not read at all, is what the tests look for.

#![allow(dead_code, unreachable_pub, missing_docs)]

use std::collections::BTreeMap;

/// Bytes of a chunk: the unit that an interrupted change leaves old or new (promise D2).
const CHUNK: usize = 4096;

/// One change of a file's contents.
#[derive(Debug, Clone)]
pub enum Change {
    Write {
        at: u64,
        data: Vec<u8>,
    },
    Truncate(u64),
    /// Zeros within the size.
    Punch {
        at: u64,
        len: u64,
    },
    /// Found like this after a change that failed half way.
    Became(Vec<u8>),
}

impl Change {
    fn apply(&self, contents: &mut Vec<u8>) {
        match self {
            Change::Write { at, data } => {
                let (at, end) = (*at as usize, *at as usize + data.len());
                contents.resize(contents.len().max(end), 0);
                contents[at..end].copy_from_slice(data);
            }
            Change::Truncate(len) => contents.resize(*len as usize, 0),
            Change::Punch { at, len } => {
                let size = contents.len();
                contents[size.min(*at as usize)..size.min((at + len) as usize)].fill(0);
            }
            Change::Became(all) => contents.clone_from(all),
        }
    }

    /// Sizes on the way: a large write reaches the filesystem in pieces.
    fn sizes(&self, before: u64, after: u64) -> std::ops::RangeInclusive<u64> {
        match self {
            Change::Write { .. } => before..=after,
            _ => after..=after,
        }
    }
}

/// What is promised of a file that is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// Everything up to the last flush to the disk: what a power failure must leave.
    Durable,
    /// Everything up to the last close or flush to the disk: what the death of the daemon must leave.
    HandedOver,
    /// Everything up to the last change that returned success: what is read as long as the daemon lives.
    Returned,
}

/// The changes of one file since it was last durable.
#[derive(Debug, Clone, Default)]
pub struct History {
    durable: Vec<u8>,
    changes: Vec<Change>,
    /// So many changes were handed over since.
    handed_over: usize,
    /// So many of them returned success, or are known to be in effect.
    returned: usize,
    /// It was durable since it was last empty.
    settled: bool,
    now: Vec<u8>,
}

impl History {
    /// A file with contents that are durable.
    pub fn of(contents: Vec<u8>) -> History {
        History { now: contents.clone(), durable: contents, settled: true, ..History::default() }
    }

    /// Notes a change: before it is made, because it may take effect without ever returning.
    pub fn push(&mut self, change: Change) {
        change.apply(&mut self.now);
        self.settled &= !matches!(change, Change::Truncate(0));
        self.changes.push(change);
    }

    /// Goes on from contents that were found and judged right: these are what is read from now on.
    pub fn saw(&mut self, found: &[u8]) {
        if self.now != found {
            self.push(Change::Became(found.to_vec()));
        }
        self.returned();
    }

    /// All changes so far returned success.
    pub fn returned(&mut self) {
        self.returned = self.changes.len();
    }

    /// All changes so far are durable.
    pub fn durable(&mut self) {
        self.durable.clone_from(&self.now);
        self.changes.clear();
        self.handed_over = 0;
        self.returned = 0;
        self.settled = true;
    }

    /// All changes so far were handed over.
    pub fn handed_over(&mut self) {
        self.handed_over = self.changes.len();
    }

    /// True if it was durable at some time since it was created or truncated to nothing: only then does a power failure leave it whole.
    pub fn is_settled(&self) -> bool {
        self.settled
    }

    /// True if nothing changed since it was durable.
    pub fn is_durable(&self) -> bool {
        self.changes.is_empty()
    }

    /// The contents if all changes took effect.
    pub fn now(&self) -> &[u8] {
        &self.now
    }

    /// Says what is wrong with the contents found.
    pub fn judge(&self, found: &[u8], bound: Bound) -> Result<(), String> {
        let mut contents = self.durable.clone();
        let promised = match bound {
            Bound::Durable => 0,
            Bound::HandedOver => self.handed_over,
            Bound::Returned => self.returned,
        };
        let (early, late) = self.changes.split_at(promised);
        early.iter().for_each(|change| change.apply(&mut contents));
        let first = contents.clone();
        let mut sizes = vec![first.len() as u64..=first.len() as u64];
        let mut versions: BTreeMap<usize, Vec<Vec<u8>>> = BTreeMap::new();
        for change in late {
            let before = contents.clone();
            change.apply(&mut contents);
            sizes.push(change.sizes(before.len() as u64, contents.len() as u64));
            for (index, chunk) in contents.chunks(CHUNK).enumerate() {
                if before.chunks(CHUNK).nth(index) != Some(chunk) {
                    versions.entry(index).or_default().push(chunk.to_vec());
                }
            }
        }
        if !sizes.iter().any(|range| range.contains(&(found.len() as u64))) {
            return Err(format!("it has {} bytes instead of {:?}", found.len(), sizes.first()));
        }
        for (index, chunk) in found.chunks(CHUNK).enumerate() {
            let old = first.chunks(CHUNK).nth(index).unwrap_or_default();
            let new = versions.get(&index).map(Vec::as_slice).unwrap_or_default();
            if !same(old, chunk) && !new.iter().any(|version| same(version, chunk)) {
                let like = |other: &[u8]| chunk.iter().zip(other).take_while(|(a, b)| a == b).count();
                return Err(format!(
                    "chunk {index} ({} of {} bytes) is neither the acknowledged one (equal for {} bytes) nor one of {} later ones (equal for {:?})",
                    chunk.len(),
                    found.len(),
                    like(old),
                    new.len(),
                    new.iter().map(|version| like(version)).collect::<Vec<_>>(),
                ));
            }
        }
        Ok(())
    }
}

/// True if a chunk holds a version of it, cut or continued with zeros where the file's size is another version's.
fn same(version: &[u8], found: &[u8]) -> bool {
    let both = version.len().min(found.len());
    version[..both] == found[..both] && found[both..].iter().all(|&byte| byte == 0)
}
