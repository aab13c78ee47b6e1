//! What a crash may leave of a workload, and whether it is what a volume shows.
//!
//! [`read_volume`] reads everything through a mounted [`Fs`]; [`Run::check`] compares it with the history:
//! - The names are those of one moment, not before the newest acknowledged one; where the backing filesystem keeps names by directory,
//!   each listing is that of such a moment of its own.
//! - A file that was ever durable is, as a whole, in its last durable state or a later one, and all of it can be read (D1, D2).
//! - A file that never was, or was emptied since, may be damaged, but what can be read of it was once written there.
//! - After the death of the daemon alone the names are the last ones, and a file is in its last state handed over or a later one (D3).

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::ops::RangeInclusive;

use envelopefs::fs::{Fs, FsError, HandleId, Ino, Kind, OpenHow, Seek};

use super::image::{BLOCK, Contents, page_or_zeros};
use super::states::Model;
use super::world::{FileHistory, Item, Listing, NOBODY, Run, Snapshot};

/// What died.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    Power(Model),
    Daemon,
}

/// An entry as a volume shows it.
#[derive(Debug)]
pub enum Found {
    Dir(BTreeMap<OsString, Found>),
    File(FoundFile),
    Symlink(Result<Vec<u8>, i32>),
    Broken(String),
}

#[derive(Debug)]
pub struct FoundFile {
    ino: Ino,
    /// Errno of the attempt to open it.
    refused: Option<i32>,
    contents: Contents,
    /// Blocks that cannot be read.
    damaged: Vec<u64>,
}

impl FoundFile {
    /// Its bytes, if all of them can be read.
    pub fn bytes(&self) -> Result<Vec<u8>, String> {
        if self.refused.is_some() || !self.damaged.is_empty() {
            return Err(format!("errno {:?}, damaged blocks {:?}", self.refused, self.damaged));
        }
        let mut bytes = vec![0; self.contents.len() as usize];
        self.contents.read(&mut bytes, 0);
        Ok(bytes)
    }
}

/// Most bytes read at a time, and the size from which on holes are skipped.
const STEP: u64 = 256 * 1024;

/// Everything below the root.
pub fn read_volume(fs: &Fs) -> Result<Found, FsError> {
    read_dir(fs, Ino::ROOT)
}

fn read_dir(fs: &Fs, dir: Ino) -> Result<Found, FsError> {
    let handle = fs.opendir(dir)?;
    let mut names = Vec::new();
    let listed = fs.readdir(handle, 0, &mut |item| {
        names.push((item.name.clone(), item.kind));
        true
    });
    fs.releasedir(handle);
    listed?;
    let mut entries = BTreeMap::new();
    for (name, kind) in names {
        if name != "." && name != ".." {
            let found = read_entry(fs, dir, &name, kind).unwrap_or_else(|error| Found::Broken(error.to_string()));
            if entries.insert(name.clone(), found).is_some() {
                return Ok(Found::Broken(format!("{} is listed twice", name.display())));
            }
        }
    }
    Ok(Found::Dir(entries))
}

fn read_entry(fs: &Fs, dir: Ino, name: &OsStr, kind: Kind) -> Result<Found, FsError> {
    let ino = fs.lookup(dir, name)?.attr.ino;
    match kind {
        Kind::Dir => read_dir(fs, ino),
        Kind::Symlink => Ok(Found::Symlink(fs.readlink(ino).map_err(|error| error.errno()))),
        Kind::File => {
            let open = |ino| fs.open(&NOBODY, ino, OpenHow::default());
            let opened = match open(ino) {
                // An interrupted truncation was mended: the kernel looks it up again.
                Err(error) if error.errno() == libc::ESTALE => open(fs.lookup(dir, name)?.attr.ino),
                other => other,
            };
            let handle = match opened {
                Ok(handle) => handle,
                Err(error) => {
                    let (refused, contents) = (Some(error.errno()), Contents::default());
                    return Ok(Found::File(FoundFile { ino, refused, contents, damaged: Vec::new() }));
                }
            };
            let read = read_file(fs, ino, handle);
            fs.release(handle)?;
            Ok(Found::File(read?))
        }
        _ => Ok(Found::Broken(format!("{kind:?}"))),
    }
}

fn read_file(fs: &Fs, ino: Ino, handle: HandleId) -> Result<FoundFile, FsError> {
    let size = fs.getattr(ino)?.size;
    let (mut contents, mut damaged, mut buf) = (Contents::default(), Vec::new(), Vec::new());
    let mut at = 0;
    while at < size {
        if size > STEP {
            match fs.lseek(handle, at, Seek::Data) {
                Ok(data) => at = data / BLOCK as u64 * BLOCK as u64,
                Err(error) if error.errno() == libc::ENXIO => break,
                // Reading tells more exactly what is damaged.
                Err(_) => {}
            }
        }
        let len = STEP.min(size - at);
        match fs.read(handle, at, len as usize, &mut buf) {
            Ok(range) => contents.write(&buf[range], at),
            Err(_) => {
                for at in (at..at + len).step_by(BLOCK) {
                    match fs.read(handle, at, BLOCK.min((size - at) as usize), &mut buf) {
                        Ok(range) => contents.write(&buf[range], at),
                        Err(_) => damaged.push(at / BLOCK as u64),
                    }
                }
            }
        }
        at += len;
    }
    contents.set_len(size);
    Ok(FoundFile { ino, refused: None, contents, damaged })
}

/// Whether two mounts showed the same.
pub fn same(one: &Found, other: &Found) -> bool {
    match (one, other) {
        (Found::Dir(one), Found::Dir(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|((a, one), (b, other))| a == b && same(one, other))
        }
        (Found::File(one), Found::File(other)) => {
            one.refused == other.refused && one.damaged == other.damaged && one.contents.same(&other.contents)
        }
        (Found::Symlink(one), Found::Symlink(other)) => one == other,
        _ => false,
    }
}

impl Run {
    /// Whether a volume may look like this after a crash at a point of the log. The error says why not.
    pub fn check(&self, found: &Found, point: usize, loss: Loss) -> Result<(), String> {
        let Found::Dir(root) = found else { return Err(format!("the root: {found:?}")) };
        let begun = |snapshot: &Snapshot| snapshot.begun < point || snapshot.begun == 0;
        let last = self.snapshots.iter().rposition(begun).unwrap_or(0);
        let marks = || self.name_marks.iter().filter(|mark| mark.at <= point);
        let check = Check { run: self, point, loss };
        match loss {
            Loss::Power(Model::PerInode) => {
                let first = |dir: usize| {
                    marks().filter(|mark| mark.dirs.contains(&dir)).map(|mark| mark.snapshot).max().unwrap_or(0)
                };
                check.listing(root, 0, &|dir| first(dir)..=last, &mut HashMap::new())
            }
            _ => {
                let first = match loss {
                    Loss::Daemon => self.snapshots.iter().rposition(|one| one.acknowledged <= point).unwrap_or(0),
                    Loss::Power(_) => marks().map(|mark| mark.snapshot).max().unwrap_or(0),
                };
                let mut errors = Vec::new();
                for moment in (first..=last).rev() {
                    match check.listing(root, 0, &|_| moment..=moment, &mut HashMap::new()) {
                        Ok(()) => return Ok(()),
                        Err(error) => errors.push(error),
                    }
                }
                Err(one_of(errors))
            }
        }
    }
}

/// Why none of several moments fits.
fn one_of(mut errors: Vec<String>) -> String {
    errors.dedup();
    match errors.len() {
        0 => "a directory that should not be there".into(),
        _ => errors.join(", or "),
    }
}

/// A comparison under way.
struct Check<'a> {
    run: &'a Run,
    point: usize,
    loss: Loss,
}

impl Check<'_> {
    /// A directory is that of one of the moments given, with everything below.
    fn listing(
        &self,
        found: &BTreeMap<OsString, Found>,
        dir: usize,
        moments: &dyn Fn(usize) -> RangeInclusive<usize>,
        inos: &mut HashMap<usize, Ino>,
    ) -> Result<(), String> {
        let mut errors = Vec::new();
        for moment in moments(dir).rev() {
            let Some(listing) = self.run.snapshots[moment].dirs.get(&dir) else { continue };
            match self.entries(found, listing, moments, &mut inos.clone()) {
                Ok(()) => return Ok(()),
                Err(error) => errors.push(error),
            }
        }
        Err(one_of(errors))
    }

    fn entries(
        &self,
        found: &BTreeMap<OsString, Found>,
        listing: &Listing,
        moments: &dyn Fn(usize) -> RangeInclusive<usize>,
        inos: &mut HashMap<usize, Ino>,
    ) -> Result<(), String> {
        if !found.keys().eq(listing.keys()) {
            let show = |name: &OsString| name.to_string_lossy().chars().take(24).collect::<String>();
            let (found, meant) = (found.keys().map(show), listing.keys().map(show));
            return Err(format!("names {:?} instead of {:?}", found.collect::<Vec<_>>(), meant.collect::<Vec<_>>()));
        }
        for ((name, found), item) in found.iter().zip(listing.values()) {
            let outcome = match (found, item) {
                (Found::Dir(entries), Item::Dir(dir)) => self.listing(entries, *dir, moments, inos),
                (Found::Symlink(target), Item::Symlink(meant)) => match target {
                    Ok(target) if **target == **meant => Ok(()),
                    _ => Err("another target".into()),
                },
                (Found::File(found), Item::File(file)) => match inos.insert(*file, found.ino) {
                    Some(ino) if ino != found.ino => Err("two files where there was one with two names".into()),
                    _ => self.file(found, &self.run.files[*file]).map_err(|error| format!("file {file}: {error}")),
                },
                (Found::Broken(error), _) => Err(error.clone()),
                _ => Err(format!("not a {item:?}")),
            };
            outcome.map_err(|error| {
                let name: String = name.to_string_lossy().chars().take(24).collect();
                format!("{name}: {error}")
            })?;
        }
        Ok(())
    }

    fn file(&self, found: &FoundFile, history: &FileHistory) -> Result<(), String> {
        let acknowledged = |marks: &[super::world::Mark]| {
            marks.iter().filter(|mark| mark.at <= self.point).map(|mark| mark.version).max()
        };
        let durable = acknowledged(&history.durable);
        let first = match self.loss {
            Loss::Daemon => durable.max(acknowledged(&history.handed)),
            Loss::Power(_) => durable,
        };
        let begun = |at: usize| history.versions[at].begun < self.point;
        let last = (0..history.versions.len()).rev().find(|at| begun(*at)).unwrap_or(0);
        let range = first.unwrap_or(0)..=last.max(first.unwrap_or(0));
        let versions = &history.versions[range.clone()];
        let whole = found.refused.is_none() && found.damaged.is_empty();
        if whole && versions.iter().any(|version| version.contents.same(&found.contents)) {
            return Ok(());
        }
        let fragile = durable.is_none() || versions[1..].iter().any(|version| version.emptied);
        if !fragile || self.loss == Loss::Daemon {
            return Err(self.describe(found, history, range));
        }
        let wrong =
            (0..found.contents.len().div_ceil(BLOCK as u64)).filter(|at| !found.damaged.contains(at)).find(|at| {
                let page = page_or_zeros(&found.contents, *at);
                !versions.iter().any(|version| page_or_zeros(&version.contents, *at) == page)
            });
        let size_known = versions.iter().any(|version| version.contents.len() == found.contents.len());
        match wrong {
            Some(at) => Err(format!("wrong data at block {at}: {}", self.describe(found, history, range))),
            None if !size_known && found.refused.is_none() => Err(self.describe(found, history, range)),
            None => Ok(()),
        }
    }

    fn describe(&self, found: &FoundFile, history: &FileHistory, range: RangeInclusive<usize>) -> String {
        let sizes: Vec<u64> =
            history.versions[range.clone()].iter().map(|version| version.contents.len()).take(8).collect();
        let nearest = history.versions.iter().rposition(|version| version.contents.same(&found.contents));
        let nearest = nearest.filter(|_| found.refused.is_none() && found.damaged.is_empty());
        format!(
            "{:?}: errno {:?}, {} bytes, damaged blocks {:?}, is version {nearest:?}, should be one of {range:?} with sizes {sizes:?}",
            self.loss,
            found.refused,
            found.contents.len(),
            found.damaged
        )
    }
}
