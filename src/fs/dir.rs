//! Listings. Offsets are the backing filesystem's own (telldir(3)), so they stay good while the directory changes
//! and need no state of ours.

use std::ffi::{OsStr, OsString};

use parking_lot::Mutex;

use super::handle::{DirHandle, Listing};
use super::name::{self, Decoded};
use super::{BackingDir, DirItem, Entry, Fs, HandleId, Ino, Kind, Place, Result, StoredName};
use crate::store::DirEntry;

/// True if nothing but the format's own entries is in a directory: its id, the control directory in the root, and side
/// links whose entries are gone.
pub(super) fn is_empty(dir: &dyn BackingDir) -> std::io::Result<bool> {
    Ok(survey(dir)?.is_some())
}

/// The orphaned side links of a directory that has no entries; `None` if it has entries.
pub(super) fn survey(dir: &dyn BackingDir) -> std::io::Result<Option<Vec<OsString>>> {
    let mut sides = Vec::new();
    let mut stream = dir.list()?;
    while let Some(entry) = stream.next()? {
        if is_dots(&entry.name) || entry.name == name::DIR_ID || entry.name == name::CONTROL_DIR {
            continue;
        }
        if name::entry_of_side(&entry.name).is_none() {
            return Ok(None);
        }
        sides.push(entry.name);
    }
    Ok(Some(sides))
}

fn is_dots(name: &OsStr) -> bool {
    name == "." || name == ".."
}

impl Fs {
    /// Opens a directory for listing.
    ///
    /// # Errors
    /// ENOTDIR.
    pub fn opendir(&self, ino: Ino) -> Result<HandleId> {
        let inode = self.inode(ino)?;
        let stream = self.dir(&inode)?.list()?;
        let listing = Mutex::new(Listing { stream, at: 0, left_over: None });
        Ok(self.handles.add_dir(DirHandle { inode, listing }))
    }

    /// Calls `take` for each entry behind `offset` (`.` and `..` included) until it returns false: the reply is full, and that
    /// entry comes again next time.
    ///
    /// # Errors
    /// EBADF, or EIO if the directory has lost its id.
    pub fn readdir(&self, handle: HandleId, offset: i64, take: &mut dyn FnMut(&DirItem) -> bool) -> Result<()> {
        let handle = self.handles.dir(handle)?;
        self.list(&handle, offset, &mut |_, item| Ok(take(item)))
    }

    /// Like [`readdir`](Self::readdir) with attributes; each entry taken but `.` and `..` counts as a lookup. For those
    /// two and for entries that cannot be read, there are no attributes.
    ///
    /// # Errors
    /// As [`readdir`](Self::readdir).
    pub fn readdirplus(
        &self,
        handle: HandleId,
        offset: i64,
        take: &mut dyn FnMut(&DirItem, Option<&Entry>) -> bool,
    ) -> Result<()> {
        let handle = self.handles.dir(handle)?;
        let dir = self.dir(&handle.inode)?;
        self.list(&handle, offset, &mut |stored, item| {
            if is_dots(stored) {
                return Ok(take(item, None));
            }
            let name = StoredName { entry: stored.to_os_string(), side_target: None };
            let place = Place { parent: handle.inode.clone(), dir: dir.clone(), name };
            let found = dir.stat(stored).map_err(Into::into).and_then(|stat| self.enter(&place, &stat));
            let Ok(entry) = found else { return Ok(take(item, None)) };
            let taken = take(item, Some(&entry));
            if !taken {
                self.forget(entry.attr.ino, 1);
            }
            Ok(taken)
        })
    }

    /// Runs through a listing and gives `visit` each shown entry with its stored name. An error waits for the next call if there
    /// are entries to deliver, and none takes an entry along: the next call begins with the one that it met.
    fn list(
        &self,
        handle: &DirHandle,
        offset: i64,
        visit: &mut dyn FnMut(&OsStr, &DirItem) -> Result<bool>,
    ) -> Result<()> {
        let dir = self.dir(&handle.inode)?;
        let mut listing = handle.listing.lock();
        if offset != listing.at {
            listing.stream.seek(offset)?;
            listing.left_over = None;
            listing.at = offset;
        }
        let mut delivered = false;
        loop {
            let entry = match listing.left_over.take().map_or_else(|| listing.stream.next(), |entry| Ok(Some(entry))) {
                Ok(Some(entry)) => entry,
                Ok(None) => return Ok(()),
                Err(_) if delivered => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            let outcome = match self.show(handle, &dir, &entry) {
                Ok(Some(item)) => visit(&entry.name, &item).map(Some),
                Ok(None) => Ok(None),
                Err(error) => Err(error),
            };
            match outcome {
                Ok(Some(true)) => delivered = true,
                Ok(None) => {}
                Ok(Some(false)) => {
                    listing.left_over = Some(entry);
                    return Ok(());
                }
                Err(error) => {
                    listing.left_over = Some(entry);
                    return if delivered { Ok(()) } else { Err(error) };
                }
            }
            listing.at = entry.offset;
        }
    }

    /// What a backing entry is to a program; `None` if it is not shown.
    fn show(
        &self,
        handle: &DirHandle,
        dir: &std::sync::Arc<dyn BackingDir>,
        entry: &DirEntry,
    ) -> Result<Option<DirItem>> {
        let item = |ino, kind, name| Some(DirItem { ino, kind, name, offset: entry.offset });
        if entry.name == "." {
            return Ok(item(handle.inode.ino, Kind::Dir, entry.name.clone()));
        }
        if entry.name == ".." {
            let parent = handle.inode.first_link().map_or(Ino::ROOT, |link| link.parent);
            return Ok(item(parent, Kind::Dir, entry.name.clone()));
        }
        let id = self.dir_id(&handle.inode, dir)?;
        let plain = match name::plain(self.ring.names(), &id, &entry.name, |side| dir.read_link(side)) {
            Decoded::Plain(plain) => plain,
            Decoded::Own => return Ok(None),
            Decoded::Damaged => {
                tracing::warn!(
                    directory = handle.inode.ino.0,
                    inode = entry.ino,
                    "an entry is left out of a listing: its stored name does not belong to this directory"
                );
                return Ok(None);
            }
        };
        let kind = match entry.kind {
            Some(kind) => kind,
            None => match dir.stat(&entry.name) {
                Ok(stat) => stat.kind,
                Err(_) => return Ok(None),
            },
        };
        Ok(item(self.ino_of(entry.ino), kind, plain))
    }

    /// Closes a listing.
    pub fn releasedir(&self, handle: HandleId) {
        self.handles.remove_dir(handle);
    }

    /// Makes a directory's entries durable.
    ///
    /// # Errors
    /// Those of `fsync` on the backing directory.
    pub fn fsyncdir(&self, handle: HandleId) -> Result<()> {
        let handle = self.handles.dir(handle)?;
        match self.dir(&handle.inode) {
            Ok(dir) => Ok(dir.sync()?),
            // A removed directory has nothing to make durable.
            Err(error) if error.errno() == libc::ENOENT => Ok(()),
            Err(error) => Err(error),
        }
    }
}
