//! Brings a plaintext tree into a volume: copying, comparing, and removing the originals that were found equal.
//!
//! It goes through [`Fs`], so no mount is needed and what a mount cannot take from a program (inode numbers of hard links, device nodes, times) is
//! set directly. The source is reached as the backing directory of a volume is: from open directories, name by name, never
//! through a symlink.
//!
//! - What a copy keeps is what `rsync -aHAX` keeps: modes, owners, times, hard links, holes, symlinks, device nodes, FIFOs and sockets, POSIX ACLs, `user.*`
//!   and `trusted.*` attributes and file capabilities. Labels that belong to a place (`security.selinux` and the like) stay behind.
//! - A new entry is made under a name of its own and takes its name when it is whole, so an interrupted import leaves no half file
//!   under a right name; the next run goes on where the last one ended.
//! - Something else that is there already is left alone unless it may be replaced.
//! - Comparing reads everything anew and byte for byte. Only what was found equal, and has not changed since, is removed from the source.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io::{self, IoSliceMut};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::fs::{Attr, Caller, Entry, Fs, FsError, HandleId, Ino, OpenHow, SetAttr, WriteHow};
use crate::store::{Access, BackingDir, BackingFile, Kind, RenameHow, SetTime, Stat, XattrHow, open_root};

/// What a new entry is called until it is whole.
const TEMPORARY: &str = ".envelopefs-import.new";
/// Bytes copied or compared at once.
const PIECE: usize = 1 << 20;
/// All-zero pieces of this size become holes.
const HOLE: usize = 4096;

const NOTHING: SetAttr =
    SetAttr { mode: None, uid: None, gid: None, size: None, atime: SetTime::Keep, mtime: SetTime::Keep };

/// A directory, or one file in it, to be brought in.
#[derive(Debug)]
pub struct Source {
    dir: Arc<dyn BackingDir>,
    /// Only this entry; `None` for all.
    only: Option<OsString>,
}

impl Source {
    /// Opens a directory, or the directory that a file is in.
    ///
    /// # Errors
    /// Those of the filesystem.
    pub fn open(path: &Path) -> io::Result<Source> {
        let metadata = std::fs::metadata(path)?;
        if metadata.is_dir() {
            return Ok(Source { dir: open_root(path)?, only: None });
        }
        let whole = path.canonicalize()?;
        let (Some(parent), Some(name)) = (whole.parent(), whole.file_name()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        Ok(Source { dir: open_root(parent)?, only: Some(name.into()) })
    }

    fn names(&self) -> io::Result<Vec<OsString>> {
        self.only.as_ref().map_or_else(|| names(&self.dir), |name| Ok(vec![name.clone()]))
    }

    /// Entries and bytes that there are. What cannot be read is left out: the import will tell.
    pub fn size(&self) -> (u64, u64) {
        fn count(dir: &Arc<dyn BackingDir>, all: &[OsString], total: &mut (u64, u64)) {
            for name in all {
                let Ok(stat) = dir.stat(name) else { continue };
                total.0 += 1;
                match stat.kind {
                    Kind::File => total.1 += stat.size,
                    Kind::Dir => {
                        let inner = dir.open_dir(name).and_then(|dir| Ok((names(&dir)?, dir)));
                        if let Ok((within, dir)) = inner {
                            count(&dir, &within, total);
                        }
                    }
                    _ => {}
                }
            }
        }
        let mut total = (0, 0);
        count(&self.dir, &self.names().unwrap_or_default(), &mut total);
        total
    }
}

/// Names in a directory, in the order of their bytes.
fn names(dir: &Arc<dyn BackingDir>) -> io::Result<Vec<OsString>> {
    let mut stream = dir.list()?;
    let mut names = Vec::new();
    while let Some(entry) = stream.next()? {
        if entry.name != "." && entry.name != ".." {
            names.push(entry.name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// How an import is done.
#[derive(Debug, Clone, Copy, Default)]
pub struct How {
    /// Nothing is changed.
    pub dry_run: bool,
    /// What is there already and differs is replaced.
    pub overwrite: bool,
}

/// What was brought in, or would be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Summary {
    pub files: u64,
    pub directories: u64,
    pub symlinks: u64,
    /// Device nodes, FIFOs and sockets.
    pub specials: u64,
    /// Further names of what has several.
    pub hard_links: u64,
    /// Entries made.
    pub copied: u64,
    /// Entries that were there already, equal as far as size and times tell.
    pub equal: u64,
    /// Bytes of the contents copied.
    pub bytes: u64,
    /// What could not be brought in, and why.
    pub failed: Vec<Failed>,
}

/// Something that went wrong with one entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed {
    /// Path below the source.
    pub path: PathBuf,
    /// What.
    pub reason: String,
}

/// An error that ends an import: going on would give the same for every entry.
#[derive(Debug, thiserror::Error)]
#[error("{}: {source}", .path.display())]
pub struct Stopped {
    /// Path below the source.
    pub path: PathBuf,
    /// Why.
    pub source: FsError,
}

type Result<T> = std::result::Result<T, FsError>;

/// Whether an attribute is carried over.
fn is_carried(attr: &OsStr) -> bool {
    let bytes = attr.as_bytes();
    bytes.starts_with(b"user.")
        || bytes.starts_with(b"trusted.")
        || [&b"security.capability"[..], b"system.posix_acl_access", b"system.posix_acl_default"].contains(&bytes)
}

fn is_missing(error: &FsError) -> bool {
    error.errno() == libc::ENOENT
}

fn caller() -> Caller {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    Caller { uid, gid, pid: 0 }
}

fn find(fs: &Fs, parent: Ino, name: &OsStr) -> Result<Option<Entry>> {
    match fs.lookup(parent, name) {
        Ok(entry) => Ok(Some(entry)),
        Err(error) if is_missing(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Attributes of a source entry that are carried over; none where its filesystem has none.
fn carried(dir: &Arc<dyn BackingDir>, name: &OsStr) -> io::Result<Vec<(OsString, Vec<u8>)>> {
    let attrs = match dir.list_xattrs(name) {
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => return Ok(Vec::new()),
        attrs => attrs?,
    };
    let mut found: Vec<_> = attrs
        .into_iter()
        .filter(|attr| is_carried(attr))
        .map(|attr| dir.get_xattr(name, &attr).map(|value| (attr, value)))
        .collect::<io::Result<_>>()?;
    found.sort_unstable();
    Ok(found)
}

/// As [`carried`], of what is in the volume.
fn carried_in(fs: &Fs, ino: Ino) -> Result<Vec<(OsString, Vec<u8>)>> {
    let attrs = match fs.listxattr(ino) {
        Err(error) if error.errno() == libc::EOPNOTSUPP => return Ok(Vec::new()),
        attrs => attrs?,
    };
    let mut found: Vec<_> = attrs
        .into_iter()
        .filter(|attr| is_carried(attr))
        .map(|attr| fs.getxattr(ino, &attr).map(|value| (attr, value)))
        .collect::<Result<_>>()?;
    found.sort_unstable();
    Ok(found)
}

/// Makes a path of directories in a volume, as far as they are not there, and counts a lookup of the last.
///
/// # Errors
/// Those of mkdir(2).
pub fn make_path(fs: &Fs, path: &Path) -> Result<Ino> {
    let mut at = Ino::ROOT;
    for part in path.components() {
        let std::path::Component::Normal(name) = part else { continue };
        let entry = match find(fs, at, name)? {
            Some(entry) => entry,
            None => fs.mkdir(&caller(), at, name, 0o755, 0)?,
        };
        if entry.attr.kind != Kind::Dir {
            return Err(FsError::Posix(libc::ENOTDIR));
        }
        at = entry.attr.ino;
    }
    Ok(at)
}

/// Finds a path of directories in a volume.
///
/// # Errors
/// Those of a lookup.
pub fn find_path(fs: &Fs, path: &Path) -> Result<Option<Ino>> {
    let mut at = Ino::ROOT;
    for part in path.components() {
        let std::path::Component::Normal(name) = part else { continue };
        match find(fs, at, name)? {
            Some(entry) => at = entry.attr.ino,
            None => return Ok(None),
        }
    }
    Ok(Some(at))
}

/// Copies a source into a directory of a volume; `into` is `None` where a dry run finds none. `advance` hears of bytes done.
///
/// # Errors
/// [`Stopped`] if nothing more can be written. Everything else is in the summary.
pub fn copy(
    fs: &Fs,
    source: &Source,
    into: Option<Ino>,
    how: How,
    advance: &dyn Fn(u64),
) -> std::result::Result<Summary, Stopped> {
    let mut copy = Copy {
        fs,
        how,
        advance,
        caller: caller(),
        links: HashMap::new(),
        summary: Summary::default(),
        path: PathBuf::new(),
    };
    let stopped = |source| Stopped { path: PathBuf::new(), source };
    let names = source.names().map_err(|error| stopped(error.into()))?;
    copy.entries(&source.dir, &names, into)?;
    if let (None, Some(into), false) = (&source.only, into, how.dry_run) {
        let done = source.dir.stat(OsStr::new(".")).map_err(FsError::from);
        let done = done.and_then(|stat| copy.apply(into, &source.dir, OsStr::new("."), &stat));
        copy.take(done)?;
    }
    Ok(copy.summary)
}

struct Copy<'a> {
    fs: &'a Fs,
    how: How,
    advance: &'a dyn Fn(u64),
    caller: Caller,
    /// First copies of what has several names, by device and inode of the source.
    links: HashMap<(u64, u64), Option<Ino>>,
    summary: Summary,
    /// Where it is, below the source.
    path: PathBuf,
}

impl Copy<'_> {
    /// Notes a failure; one that will repeat itself ends the import.
    fn take(&mut self, outcome: Result<()>) -> std::result::Result<(), Stopped> {
        match outcome {
            Ok(()) => Ok(()),
            Err(source) if matches!(source.errno(), libc::ENOSPC | libc::EDQUOT | libc::EROFS) => {
                Err(Stopped { path: self.path.clone(), source })
            }
            Err(error) => {
                self.summary.failed.push(Failed { path: self.path.clone(), reason: error.to_string() });
                Ok(())
            }
        }
    }

    fn fail(&mut self, reason: &str) {
        self.summary.failed.push(Failed { path: self.path.clone(), reason: reason.into() });
    }

    fn entries(
        &mut self,
        dir: &Arc<dyn BackingDir>,
        names: &[OsString],
        into: Option<Ino>,
    ) -> std::result::Result<(), Stopped> {
        for name in names {
            self.path.push(name);
            match dir.stat(name).map_err(FsError::from) {
                Ok(stat) if stat.kind == Kind::Dir => self.directory(dir, name, &stat, into)?,
                Ok(stat) => {
                    let outcome = self.entry(dir, name, &stat, into);
                    self.take(outcome)?;
                }
                Err(error) => self.take(Err(error))?,
            }
            self.path.pop();
        }
        Ok(())
    }

    fn directory(
        &mut self,
        dir: &Arc<dyn BackingDir>,
        name: &OsStr,
        stat: &Stat,
        into: Option<Ino>,
    ) -> std::result::Result<(), Stopped> {
        self.summary.directories += 1;
        let made = match into.map(|into| find(self.fs, into, name)).transpose() {
            Ok(existing) => match (existing.flatten(), into) {
                (Some(entry), _) if entry.attr.kind == Kind::Dir => {
                    self.summary.equal += 1;
                    Ok(Some(entry.attr.ino))
                }
                (Some(_), _) => Err(FsError::Posix(libc::ENOTDIR)),
                (None, Some(into)) if !self.how.dry_run => {
                    self.summary.copied += 1;
                    self.fs.mkdir(&self.caller, into, name, 0o700, 0).map(|entry| Some(entry.attr.ino))
                }
                (None, _) => {
                    self.summary.copied += 1;
                    Ok(None)
                }
            },
            Err(error) => Err(error),
        };
        let inner = made.and_then(|ino| {
            let inner = dir.open_dir(name)?;
            Ok((ino, names(&inner)?, inner))
        });
        match inner {
            Err(error) => self.take(Err(error)),
            Ok((ino, names, inner)) => {
                self.entries(&inner, &names, ino)?;
                // After its entries, which change its times, and whose making its mode may forbid.
                let Some(ino) = ino.filter(|_| !self.how.dry_run) else { return Ok(()) };
                let outcome = self.apply(ino, dir, name, stat);
                self.take(outcome)
            }
        }
    }

    /// Anything but a directory.
    fn entry(&mut self, dir: &Arc<dyn BackingDir>, name: &OsStr, stat: &Stat, into: Option<Ino>) -> Result<()> {
        let existing = into.map(|into| find(self.fs, into, name)).transpose()?.flatten();
        let key = (stat.dev, stat.ino);
        if stat.nlink > 1
            && let Some(first) = self.links.get(&key).copied()
        {
            self.summary.hard_links += 1;
            (self.advance)(if stat.kind == Kind::File { stat.size } else { 0 });
            match existing {
                Some(entry) if Some(entry.attr.ino) == first => self.summary.equal += 1,
                Some(_) if !self.how.overwrite => self.fail(THERE),
                _ => {
                    self.summary.copied += 1;
                    if let (Some(first), Some(into), false) = (first, into, self.how.dry_run) {
                        self.discard(into, OsStr::new(TEMPORARY))?;
                        let entry = self.fs.link(first, into, OsStr::new(TEMPORARY))?;
                        self.fs.forget(entry.attr.ino, 1);
                        self.fs.rename(into, OsStr::new(TEMPORARY), into, name, RenameHow::Replace)?;
                    }
                }
            }
            return Ok(());
        }
        match stat.kind {
            Kind::File => self.summary.files += 1,
            Kind::Symlink => self.summary.symlinks += 1,
            _ => self.summary.specials += 1,
        }
        if let Some(entry) = existing {
            if self.is_same(dir, name, stat, &entry)? {
                self.summary.equal += 1;
                (self.advance)(if stat.kind == Kind::File { stat.size } else { 0 });
                if !self.how.dry_run {
                    self.apply(entry.attr.ino, dir, name, stat)?;
                }
                self.remember(stat, Some(entry.attr.ino));
                return Ok(());
            }
            if !self.how.overwrite {
                self.fail(THERE);
                return Ok(());
            }
        }
        self.summary.copied += 1;
        self.summary.bytes += if stat.kind == Kind::File { stat.size } else { 0 };
        let Some(into) = into.filter(|_| !self.how.dry_run) else {
            (self.advance)(if stat.kind == Kind::File { stat.size } else { 0 });
            self.remember(stat, None);
            return Ok(());
        };
        self.discard(into, OsStr::new(TEMPORARY))?;
        let ino = self.make(dir, name, stat, into)?;
        let placed = self
            .apply(ino, dir, name, stat)
            .and_then(|()| self.fs.rename(into, OsStr::new(TEMPORARY), into, name, RenameHow::Replace));
        if placed.is_err() {
            let _ = self.discard(into, OsStr::new(TEMPORARY));
        }
        placed?;
        self.remember(stat, Some(ino));
        Ok(())
    }

    /// Keeps the first copy of what has several names in mind, and its lookup; gives other lookups back.
    fn remember(&mut self, stat: &Stat, ino: Option<Ino>) {
        if stat.nlink > 1 {
            self.links.insert((stat.dev, stat.ino), ino);
        } else if let Some(ino) = ino {
            self.fs.forget(ino, 1);
        }
    }

    fn discard(&self, parent: Ino, name: &OsStr) -> Result<()> {
        match self.fs.unlink(parent, name) {
            Err(error) if is_missing(&error) => Ok(()),
            outcome => outcome,
        }
    }

    /// Whether what is there is a copy already, as far as can be told without reading it.
    fn is_same(&self, dir: &Arc<dyn BackingDir>, name: &OsStr, stat: &Stat, entry: &Entry) -> Result<bool> {
        let attr = &entry.attr;
        Ok(attr.kind == stat.kind
            && match stat.kind {
                Kind::File => attr.size == stat.size && attr.mtime == stat.mtime,
                Kind::Symlink => self.fs.readlink(attr.ino)? == dir.read_link(name)?.as_bytes(),
                _ => attr.rdev == stat.rdev,
            })
    }

    /// Makes an entry under the temporary name, with its contents.
    fn make(&self, dir: &Arc<dyn BackingDir>, name: &OsStr, stat: &Stat, into: Ino) -> Result<Ino> {
        let new = OsStr::new(TEMPORARY);
        let format = match stat.kind {
            Kind::File => {
                let how = OpenHow { write: true, ..OpenHow::default() };
                let file = dir.open_file(name, Access::Read)?;
                let (entry, handle) = self.fs.create(&self.caller, into, new, 0o600, 0, how)?;
                let copied = self.contents(&*file, entry.attr.ino, handle);
                let closed = self.fs.release(handle);
                return copied.and(closed).map(|()| entry.attr.ino);
            }
            Kind::Symlink => {
                let target = dir.read_link(name)?;
                return self.fs.symlink(&self.caller, into, new, &target).map(|entry| entry.attr.ino);
            }
            Kind::Fifo => libc::S_IFIFO,
            Kind::Socket => libc::S_IFSOCK,
            Kind::CharDevice => libc::S_IFCHR,
            Kind::BlockDevice => libc::S_IFBLK,
            Kind::Dir => return Err(FsError::Posix(libc::EISDIR)),
        };
        self.fs.mknod(&self.caller, into, new, format | 0o600, 0, stat.rdev).map(|entry| entry.attr.ino)
    }

    /// Copies contents; runs of zeros become holes.
    fn contents(&self, from: &dyn BackingFile, ino: Ino, to: HandleId) -> Result<()> {
        let mut buf = vec![0; PIECE];
        let (mut offset, mut written) = (0_u64, 0_u64);
        loop {
            let n = from.read_vectored_at(&mut [IoSliceMut::new(&mut buf)], offset)?;
            let piece = buf.get(..n).unwrap_or_default();
            if piece.is_empty() {
                break;
            }
            let mut at = 0;
            let is_hole =
                |at: usize| piece.get(at..n.min(at + HOLE)).is_none_or(|part| part.iter().all(|byte| *byte == 0));
            while at < n {
                let start = at;
                while at < n && !is_hole(at) {
                    at += HOLE;
                }
                let run = piece.get(start..at.min(n)).unwrap_or_default();
                if run.is_empty() {
                    at += HOLE;
                    continue;
                }
                self.fs.write(to, offset + start as u64, run, WriteHow::default())?;
                written = offset + (start + run.len()) as u64;
            }
            offset += n as u64;
            (self.advance)(n as u64);
        }
        if written < offset {
            self.fs.setattr(&self.caller, ino, &SetAttr { size: Some(offset), ..NOTHING })?;
        }
        self.fs.flush(to)
    }

    /// Gives an entry the attributes of its original, as far as they differ; the order is that in which none of them undoes another.
    fn apply(&self, ino: Ino, dir: &Arc<dyn BackingDir>, name: &OsStr, stat: &Stat) -> Result<()> {
        let (fs, caller) = (self.fs, &self.caller);
        let now = fs.getattr(ino)?;
        let (uid, gid) = (Some(stat.uid).filter(|uid| *uid != now.uid), Some(stat.gid).filter(|gid| *gid != now.gid));
        if uid.is_some() || gid.is_some() {
            fs.setattr(caller, ino, &SetAttr { uid, gid, ..NOTHING })?;
        }
        let (wanted, have) = (carried(dir, name)?, carried_in(fs, ino)?);
        for (attr, _) in have.iter().filter(|(attr, _)| !wanted.iter().any(|(wanted, _)| wanted == attr)) {
            fs.removexattr(ino, attr)?;
        }
        for (attr, value) in wanted.iter().filter(|wanted| !have.contains(wanted)) {
            fs.setxattr(caller, ino, attr, value, XattrHow::Set)?;
        }
        let now = fs.getattr(ino)?;
        if stat.kind != Kind::Symlink && now.mode & 0o7777 != stat.mode & 0o7777 {
            fs.setattr(caller, ino, &SetAttr { mode: Some(stat.mode & 0o7777), ..NOTHING })?;
        }
        if (now.atime, now.mtime) != (stat.atime, stat.mtime) || stat.kind == Kind::Dir {
            let (atime, mtime) = (SetTime::To(stat.atime), SetTime::To(stat.mtime));
            fs.setattr(caller, ino, &SetAttr { atime, mtime, ..NOTHING })?;
        }
        Ok(())
    }
}

/// Why something was left alone.
const THERE: &str = "something else with this name is in the volume already (--overwrite replaces it)";

/// What comparing found.
#[derive(Debug, Default)]
pub struct Compared {
    /// Entries that are the same in all that is carried over.
    pub equal: u64,
    /// Bytes of contents compared.
    pub bytes: u64,
    /// What differs.
    pub different: Vec<Failed>,
    /// Originals that were found equal, each after what is in it.
    originals: Vec<Original>,
}

#[derive(Debug)]
struct Original {
    path: PathBuf,
    stat: Stat,
}

/// Compares a source with what is in a directory of a volume: contents byte by byte, and everything else that a copy keeps but atime.
pub fn compare(fs: &Fs, source: &Source, into: Option<Ino>, advance: &dyn Fn(u64)) -> Compared {
    let mut compare = Compare {
        fs,
        advance,
        links: HashMap::new(),
        back: HashMap::new(),
        found: Compared::default(),
        path: PathBuf::new(),
    };
    match source.names() {
        Ok(names) => {
            compare.entries(&source.dir, &names, into);
        }
        Err(error) => compare.differs(&error.to_string()),
    }
    compare.found
}

struct Compare<'a> {
    fs: &'a Fs,
    advance: &'a dyn Fn(u64),
    /// Copies by device and inode of the original, and back.
    links: HashMap<(u64, u64), Ino>,
    back: HashMap<Ino, (u64, u64)>,
    found: Compared,
    path: PathBuf,
}

impl Compare<'_> {
    fn differs(&mut self, reason: &str) {
        self.found.different.push(Failed { path: self.path.clone(), reason: reason.into() });
    }

    /// True if all are equal.
    fn entries(&mut self, dir: &Arc<dyn BackingDir>, names: &[OsString], into: Option<Ino>) -> bool {
        let mut all = true;
        for name in names {
            self.path.push(name);
            match self.entry(dir, name, into) {
                Ok((None, stat)) => {
                    self.found.equal += 1;
                    self.found.originals.push(Original { path: self.path.clone(), stat });
                }
                Ok((Some(reason), _)) => {
                    all = false;
                    self.differs(reason);
                }
                Err(error) => {
                    all = false;
                    self.differs(&error.to_string());
                }
            }
            self.path.pop();
        }
        all
    }

    /// What differs first, if anything, and the original's attributes.
    fn entry(
        &mut self,
        dir: &Arc<dyn BackingDir>,
        name: &OsStr,
        into: Option<Ino>,
    ) -> Result<(Option<&'static str>, Stat)> {
        let stat = dir.stat(name)?;
        let Some(entry) = into.map(|into| find(self.fs, into, name)).transpose()?.flatten() else {
            return Ok((Some("it is not in the volume"), stat));
        };
        let attr = entry.attr;
        let mut difference = self.attributes(dir, name, &stat, &attr)?;
        match stat.kind {
            Kind::Dir if attr.kind == Kind::Dir => {
                let inner = dir.open_dir(name)?;
                if !self.entries(&inner, &names(&inner)?, Some(attr.ino)) {
                    difference = difference.or(Some("not all that is in it is equal"));
                }
            }
            Kind::File if attr.kind == Kind::File && attr.size == stat.size => {
                let is_same = self.has_same_contents(&*dir.open_file(name, Access::Read)?, attr.ino)?;
                difference = difference.or((!is_same).then_some("its contents differ"));
            }
            Kind::Symlink if attr.kind == Kind::Symlink => {
                let is_same = self.fs.readlink(attr.ino)? == dir.read_link(name)?.as_bytes();
                difference = difference.or((!is_same).then_some("its target differs"));
            }
            _ => {}
        }
        // Two originals with one inode are two names of one copy, and of nothing else.
        let key = (stat.dev, stat.ino);
        if stat.kind != Kind::Dir && (stat.nlink > 1 || attr.nlink > 1) {
            let (copy, original) =
                (*self.links.entry(key).or_insert(attr.ino), *self.back.entry(attr.ino).or_insert(key));
            if copy != attr.ino || original != key {
                difference = Some("it is linked to other names");
            }
        } else if stat.kind != Kind::Dir {
            self.fs.forget(attr.ino, 1);
        }
        Ok((difference, stat))
    }

    fn attributes(
        &self,
        dir: &Arc<dyn BackingDir>,
        name: &OsStr,
        stat: &Stat,
        attr: &Attr,
    ) -> Result<Option<&'static str>> {
        let checks = [
            (attr.kind == stat.kind, "it is of another kind"),
            (stat.kind != Kind::File || attr.size == stat.size, "its size differs"),
            ((attr.uid, attr.gid) == (stat.uid, stat.gid), "its owner differs"),
            (stat.kind == Kind::Symlink || attr.mode & 0o7777 == stat.mode & 0o7777, "its mode differs"),
            (attr.mtime == stat.mtime, "its modification time differs"),
            (
                !matches!(stat.kind, Kind::CharDevice | Kind::BlockDevice) || attr.rdev == stat.rdev,
                "its device differs",
            ),
        ];
        if let Some((_, difference)) = checks.iter().find(|(is_equal, _)| !is_equal) {
            return Ok(Some(difference));
        }
        let equal = carried(dir, name)? == carried_in(self.fs, attr.ino)?;
        Ok((!equal).then_some("its extended attributes or its ACL differ"))
    }

    fn has_same_contents(&mut self, file: &dyn BackingFile, ino: Ino) -> Result<bool> {
        let handle = self.fs.open(&caller(), ino, OpenHow::default())?;
        let outcome = self.compare_contents(file, handle);
        self.fs.release(handle)?;
        outcome
    }

    fn compare_contents(&mut self, file: &dyn BackingFile, handle: HandleId) -> Result<bool> {
        let (mut ours, mut theirs) = (Vec::new(), vec![0; PIECE]);
        let mut offset = 0;
        loop {
            let n = file.read_vectored_at(&mut [IoSliceMut::new(&mut theirs)], offset)?;
            let range = self.fs.read(handle, offset, PIECE, &mut ours)?;
            if ours.get(range) != theirs.get(..n) {
                return Ok(false);
            }
            if n == 0 {
                return Ok(true);
            }
            offset += n as u64;
            self.found.bytes += n as u64;
            (self.advance)(n as u64);
        }
    }
}

/// Removes the originals that were found equal and are still what they were; the source directory itself stays. Returns how many were removed, and
/// what was not.
pub fn remove_originals(source: &Source, compared: &Compared) -> (u64, Vec<Failed>) {
    let (mut removed, mut kept) = (0, Vec::new());
    for original in &compared.originals {
        match remove(source, original) {
            Ok(()) => removed += 1,
            Err(reason) => kept.push(Failed { path: original.path.clone(), reason }),
        }
    }
    (removed, kept)
}

fn remove(source: &Source, original: &Original) -> std::result::Result<(), String> {
    let text = |error: io::Error| error.to_string();
    let name = original.path.file_name().ok_or("it has no name")?;
    let mut dir = source.dir.clone();
    for part in original.path.parent().into_iter().flat_map(Path::components) {
        dir = dir.open_dir(part.as_os_str()).map_err(text)?;
    }
    let (was, is) = (&original.stat, dir.stat(name).map_err(text)?);
    if was.kind == Kind::Dir {
        return dir.remove_dir(name).map_err(text);
    }
    let same = |stat: &Stat| (stat.dev, stat.ino, stat.kind, stat.size, stat.mtime);
    // The ctime of what had several names moves as they go.
    if same(was) != same(&is) || (was.nlink == 1 && was.ctime != is.ctime) {
        return Err("it was changed after it was compared".into());
    }
    dir.unlink(name).map_err(text)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;
    use crate::crypto::secret::Secret;
    use crate::fs::FsOptions;
    use crate::keys::KeyRing;
    use crate::store::StoreOptions;

    struct World {
        dir: tempfile::TempDir,
        ring: Arc<KeyRing>,
    }

    impl World {
        fn new() -> World {
            // On a disk: a tmpfs may have no user attributes.
            let dir = tempfile::tempdir_in("/var/tmp").unwrap();
            std::fs::create_dir(dir.path().join("source")).unwrap();
            std::fs::create_dir_all(dir.path().join("backing/.envelopefs")).unwrap();
            let uuid = uuid::Uuid::from_bytes([3; 16]);
            World { ring: Arc::new(KeyRing::new(uuid, &Secret::random(), &Secret::random(), &[])), dir }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.dir.path().join("source").join(name)
        }

        fn write(&self, name: &str, contents: &[u8]) {
            std::fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
            std::fs::write(self.path(name), contents).unwrap();
        }

        fn source(&self) -> Source {
            Source::open(&self.dir.path().join("source")).unwrap()
        }

        fn with_fs<T>(&self, read_only: bool, act: impl FnOnce(&Fs) -> T) -> T {
            let options = FsOptions { read_only, give_to_caller: false, store: StoreOptions::of_this_kernel() };
            let root = open_root(&self.dir.path().join("backing")).unwrap();
            let fs = Fs::new(root, self.ring.clone(), options).unwrap();
            let done = act(&fs);
            fs.shut_down().unwrap();
            done
        }

        fn copy(&self, how: How) -> Summary {
            self.with_fs(how.dry_run, |fs| copy(fs, &self.source(), Some(Ino::ROOT), how, &|_| ()).unwrap())
        }

        fn compare(&self) -> Compared {
            self.with_fs(true, |fs| compare(fs, &self.source(), Some(Ino::ROOT), &|_| ()))
        }

        fn fill(&self) {
            self.write(".env", b"PASSWORD=geheim\n");
            self.write("empty", b"");
            self.write("big", &(0..3_000_000_u32).map(|n| (n / 7) as u8).collect::<Vec<_>>());
            self.write("deep/er/file", b"x");
            let sparse = std::fs::File::create(self.path("sparse")).unwrap();
            std::os::unix::fs::FileExt::write_at(&sparse, b"in the middle", 5_000_000).unwrap();
            sparse.set_len(20_000_000).unwrap();
            std::fs::hard_link(self.path("big"), self.path("deep/also-big")).unwrap();
            symlink("../nowhere/at all", self.path("deep/link")).unwrap();
            std::fs::set_permissions(self.path("empty"), std::fs::Permissions::from_mode(0o4640)).unwrap();
            let fifo = self.path("fifo");
            let mode = rustix::fs::Mode::from_raw_mode(0o620);
            rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
            rustix::fs::setxattr(self.path(".env"), "user.note", b"value", rustix::fs::XattrFlags::empty()).unwrap();
            rustix::fs::setxattr(self.path("deep"), "user.dir", b"", rustix::fs::XattrFlags::empty()).unwrap();
            // Long names and a directory without rights for its owner but to read it.
            self.write(&format!("deep/{}", "n".repeat(255)), b"long");
            std::fs::set_permissions(self.path("deep/er"), std::fs::Permissions::from_mode(0o500)).unwrap();
        }
    }

    fn assert_none(failed: &[Failed]) {
        assert!(failed.is_empty(), "{failed:?}");
    }

    #[test]
    fn everything_is_copied_found_equal_and_skipped_by_the_next_run() {
        let world = World::new();
        world.fill();
        let dry = world.copy(How { dry_run: true, ..How::default() });
        assert!(!world.compare().different.is_empty(), "a dry run copies nothing");
        let done = world.copy(How::default());
        assert_none(&done.failed);
        assert_eq!((done.files, done.directories, done.symlinks, done.specials, done.hard_links), (6, 2, 1, 1, 1));
        assert_eq!((done.copied, done.equal), (11, 0));
        assert_eq!(dry, done, "a dry run says what will be done");
        let compared = world.compare();
        assert_none(&compared.different);
        assert_eq!(compared.equal, 11);
        let again = world.copy(How::default());
        assert_none(&again.failed);
        assert_eq!((again.copied, again.equal, again.bytes), (0, 11, 0));
        // Holes stay holes.
        let blocks = world.with_fs(true, |fs| fs.lookup(Ino::ROOT, OsStr::new("sparse")).unwrap().attr.blocks);
        assert!(blocks * 512 < 1_000_000, "{blocks}");
        let root = std::fs::metadata(world.dir.path().join("source")).unwrap();
        let attr = world.with_fs(true, |fs| fs.getattr(Ino::ROOT).unwrap());
        assert_eq!((attr.mode & 0o7777, attr.mtime.secs), (root.mode() & 0o7777, root.mtime()));
    }

    #[test]
    fn each_difference_is_found() {
        let world = World::new();
        world.fill();
        assert_none(&world.copy(How::default()).failed);
        let differs = |what: &str, path: &str| {
            let found = world.compare();
            let hit = found.different.iter().find(|one| one.path == Path::new(path));
            assert!(hit.is_some_and(|one| one.reason.contains(what)), "{what}: {:?}", found.different);
        };
        let bytes = std::fs::read(world.path("big")).unwrap();
        let times = std::fs::metadata(world.path("big")).unwrap().modified().unwrap();
        let mut changed = bytes.clone();
        changed[2_999_999] ^= 1;
        std::fs::write(world.path("big"), &changed).unwrap();
        std::fs::File::options().write(true).open(world.path("big")).unwrap().set_modified(times).unwrap();
        differs("contents", "big");
        differs("contents", "deep/also-big");
        differs("not all", "deep");
        std::fs::set_permissions(world.path(".env"), std::fs::Permissions::from_mode(0o600)).unwrap();
        differs("mode", ".env");
        rustix::fs::setxattr(world.path("empty"), "user.more", b"x", rustix::fs::XattrFlags::empty()).unwrap();
        differs("attributes", "empty");
        std::fs::remove_file(world.path("deep/link")).unwrap();
        symlink("elsewhere", world.path("deep/link")).unwrap();
        differs("", "deep/link");
        world.write("new", b"");
        differs("not in the volume", "new");
        std::fs::remove_file(world.path("fifo")).unwrap();
        world.write("fifo", b"");
        differs("another kind", "fifo");
    }

    #[test]
    fn what_is_there_already_is_replaced_only_if_told() {
        let world = World::new();
        world.fill();
        assert_none(&world.copy(How::default()).failed);
        world.write(".env", b"PASSWORD=another\n");
        let kept = world.copy(How::default());
        assert_eq!(kept.failed, [Failed { path: ".env".into(), reason: THERE.into() }]);
        assert!(!world.compare().different.is_empty());
        let done = world.copy(How { overwrite: true, ..How::default() });
        assert_none(&done.failed);
        assert_eq!(done.copied, 1);
        assert_none(&world.compare().different);
    }

    #[test]
    fn an_interrupted_import_is_finished_by_the_next() {
        let world = World::new();
        world.fill();
        // What an interruption leaves: a part of a file under the temporary name, and a directory that is not done.
        world.with_fs(false, |fs| {
            let how = OpenHow { write: true, ..OpenHow::default() };
            let (_, handle) = fs.create(&caller(), Ino::ROOT, OsStr::new(TEMPORARY), 0o600, 0, how).unwrap();
            fs.write(handle, 0, b"half", WriteHow::default()).unwrap();
            fs.release(handle).unwrap();
            fs.mkdir(&caller(), Ino::ROOT, OsStr::new("deep"), 0o700, 0).unwrap();
        });
        assert_none(&world.copy(How::default()).failed);
        assert_none(&world.compare().different);
        world.with_fs(true, |fs| assert!(find(fs, Ino::ROOT, OsStr::new(TEMPORARY)).unwrap().is_none()));
    }

    #[test]
    fn originals_go_only_if_they_are_what_was_compared() {
        let world = World::new();
        world.fill();
        assert_none(&world.copy(How::default()).failed);
        let compared = world.compare();
        assert_none(&compared.different);
        world.write("late", b"came after the comparison");
        world.write(".env", b"changed after the comparison");
        let (removed, kept) = remove_originals(&world.source(), &compared);
        let left: Vec<_> =
            std::fs::read_dir(world.dir.path().join("source")).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(removed, 10, "{kept:?}");
        assert_eq!(kept.len(), 1);
        assert!(kept[0].reason.contains("changed"), "{kept:?}");
        assert_eq!(left.len(), 2, "{left:?}");
    }

    #[test]
    fn one_file_goes_to_a_directory_of_the_volume() {
        let world = World::new();
        world.write(".env", b"A=1\n");
        world.write("other", b"");
        let source = Source::open(&world.path(".env")).unwrap();
        assert_eq!(source.size(), (1, 4));
        world.with_fs(false, |fs| {
            let into = make_path(fs, Path::new("/srv/app")).unwrap();
            let done = copy(fs, &source, Some(into), How::default(), &|_| ()).unwrap();
            assert_eq!((done.files, done.copied), (1, 1));
            assert_eq!(make_path(fs, Path::new("srv/app")).unwrap(), into);
            assert!(make_path(fs, Path::new("srv/app/.env")).is_err());
        });
        world.with_fs(true, |fs| {
            let into = find_path(fs, Path::new("srv/app")).unwrap();
            assert_none(&compare(fs, &source, into, &|_| ()).different);
            assert!(find_path(fs, Path::new("srv/none")).unwrap().is_none());
        });
    }
}
