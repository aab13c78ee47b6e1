//! Attributes: what `stat` shows and what `chmod`, `chown`, `utimensat` and `truncate` change.

use std::ffi::OsStr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::inode::Inode;
use super::namespace::target_error;
use super::{Attr, Caller, Entry, Fs, FsError, Ino, Kind, Place, Result, SetAttr, SetTime, Spot, name, posix};
use crate::file;
use crate::store::{Durability, Stat};

impl Spot {
    pub(super) fn stat(&self) -> std::io::Result<Stat> {
        match self {
            Spot::At(dir, name) => dir.stat(name),
            Spot::Held(file) => file.stat(),
        }
    }

    pub(super) fn set_mode(&self, mode: u32) -> std::io::Result<()> {
        match self {
            Spot::At(dir, name) => dir.set_mode(name, mode),
            Spot::Held(file) => file.set_mode(mode),
        }
    }

    fn set_owner(&self, uid: Option<u32>, gid: Option<u32>) -> std::io::Result<()> {
        match self {
            Spot::At(dir, name) => dir.set_owner(name, uid, gid),
            Spot::Held(file) => file.set_owner(uid, gid),
        }
    }

    fn set_times(&self, atime: SetTime, mtime: SetTime) -> std::io::Result<()> {
        match self {
            Spot::At(dir, name) => dir.set_times(name, atime, mtime),
            Spot::Held(file) => file.set_times(atime, mtime),
        }
    }
}

/// The mode after a write or truncation by somebody without CAP_FSETID (write(2), truncate(2)): suid goes, and
/// sgid where the group may execute (elsewhere it once meant mandatory locking).
pub(super) fn without_suid_sgid(mode: u32) -> u32 {
    let sgid = if mode & libc::S_IXGRP != 0 { libc::S_ISGID } else { 0 };
    mode & !(libc::S_ISUID | sgid)
}

impl Fs {
    /// Finds a name.
    ///
    /// # Errors
    /// ENOENT if it is not there.
    pub fn lookup(&self, parent: Ino, name: &OsStr) -> Result<Entry> {
        let place = self.place(parent, name)?;
        let stat = place.dir.stat(place.entry())?;
        self.enter(&place, &stat)
    }

    /// Attributes of an inode.
    ///
    /// # Errors
    /// ESTALE if it is no longer known.
    pub fn getattr(&self, ino: Ino) -> Result<Attr> {
        let inode = self.inode(ino)?;
        if let Some(open) = inode.open_file() {
            return self.attr(&inode, &open.file.stat()?, None);
        }
        self.at_own_name(&inode, || {
            let spot = self.spot(&inode)?;
            let stat = spot.stat()?;
            (self.ino_of(stat.ino) == ino).then(|| self.attr(&inode, &stat, Some(&spot))).transpose()
        })
    }

    /// Counts one lookup of what is at a place.
    pub(super) fn enter(&self, place: &Place, stat: &Stat) -> Result<Entry> {
        Ok(self.enter_inode(place, stat)?.0)
    }

    /// [`enter`](Self::enter) for whoever goes on with the inode: from here on nothing should fail, or the lookup is to be undone.
    pub(super) fn enter_inode(&self, place: &Place, stat: &Stat) -> Result<(Entry, Arc<Inode>)> {
        self.check_device(stat)?;
        let link = Some((place.parent.ino, place.entry()));
        let inode = self.inodes.acquire(self.ino_of(stat.ino), stat.kind, link);
        let attr = match inode.open_file() {
            Some(open) => open.file.stat().map_err(FsError::from).and_then(|stat| self.attr(&inode, &stat, None)),
            None => {
                let spot = Spot::At(place.dir.clone(), place.entry().to_os_string());
                self.attr(&inode, stat, Some(&spot))
            }
        };
        match attr {
            Ok(attr) => Ok((Entry { attr, generation: inode.generation.load(Ordering::Relaxed) }, inode)),
            Err(error) => {
                self.inodes.release(inode.ino, 1);
                Err(error)
            }
        }
    }

    /// Translates backing attributes. `spot` is where they were read, `None` if `stat` is already an open
    /// file's, with its plain size.
    fn attr(&self, inode: &Inode, stat: &Stat, spot: Option<&Spot>) -> Result<Attr> {
        let size = match (stat.kind, spot) {
            (Kind::File, Some(_)) => match inode.size_override(stat.size) {
                Some(size) => size,
                // No plain size gives such a length: a torn or damaged file. Opening it tells which.
                None => file::plain_len(stat.size).unwrap_or(stat.size),
            },
            (Kind::Symlink, Some(spot)) => match self.target_size(inode, stat.size, spot) {
                // Without its target a symlink can still be looked at and removed.
                Err(FsError::Damaged(_)) => stat.size,
                size => size?,
            },
            _ => stat.size,
        };
        // The control directory is not shown; where directories count their subdirectories, it counts.
        let hidden = u64::from(inode.ino == Ino::ROOT && stat.nlink > 2);
        Ok(Attr {
            ino: inode.ino,
            kind: stat.kind,
            mode: stat.mode,
            nlink: u32::try_from(stat.nlink - hidden).unwrap_or(u32::MAX),
            uid: stat.uid,
            gid: stat.gid,
            rdev: stat.rdev,
            size,
            blocks: stat.blocks,
            atime: stat.atime,
            mtime: stat.mtime,
            ctime: stat.ctime,
        })
    }

    /// Plain length of a symlink's target.
    fn target_size(&self, inode: &Inode, stored: u64, spot: &Spot) -> Result<u64> {
        let sealed = if !name::is_side_target(stored) {
            name::text_bytes(stored)
        } else if let Some(sealed) = inode.sealed_target.get() {
            sealed.len() as u64
        } else if let Spot::At(dir, entry) = spot {
            match name::target_file(&dir.read_link(entry)?) {
                Some(file) => self.targets()?.stat(&file).map_err(target_error)?.size,
                None => return Err(FsError::Damaged("the symlink's text names no target")),
            }
        } else {
            return Err(FsError::Damaged("the symlink's target is missing from the control directory"));
        };
        Ok(name::target_len(sealed))
    }

    /// Changes attributes, in the order in which `chown`, `chmod`, `truncate` and `utimensat` would have to follow one another
    /// for all of them to show.
    ///
    /// # Errors
    /// Those of the calls named. What came before the failing one stays changed.
    pub fn setattr(&self, caller: &Caller, ino: Ino, set: &SetAttr) -> Result<Attr> {
        self.check_writable()?;
        let inode = self.inode(ino)?;
        if set.uid.is_some() || set.gid.is_some() {
            self.spot(&inode)?.set_owner(set.uid, set.gid)?;
            self.attributes_changed(&inode);
        }
        if let Some(mode) = set.mode {
            self.spot(&inode)?.set_mode(mode & 0o7777)?;
            self.attributes_changed(&inode);
        }
        if let Some(size) = set.size {
            self.set_size(caller, &inode, size)?;
        }
        if set.atime != SetTime::Keep || set.mtime != SetTime::Keep {
            self.set_times(&inode, set.atime, set.mtime)?;
            self.attributes_changed(&inode);
        }
        self.getattr(ino)
    }

    fn set_size(&self, caller: &Caller, inode: &Arc<Inode>, size: u64) -> Result<()> {
        match inode.kind {
            Kind::File => {}
            Kind::Dir => return Err(posix(libc::EISDIR)),
            _ => return Err(posix(libc::EINVAL)),
        }
        let open = self.open_inode(inode, true)?;
        let outcome = open.file.set_len(size).and_then(|()| open.file.commit(Durability::Written));
        self.close_inode(inode)?;
        outcome?;
        self.clear_suid_sgid(caller, inode)
    }

    /// Clears suid and sgid after a change of contents, unless the caller is root. (The kernel's own flag for this does
    /// not reach us with a truncation.)
    pub(super) fn clear_suid_sgid(&self, caller: &Caller, inode: &Inode) -> Result<()> {
        if caller.uid == 0 {
            return Ok(());
        }
        self.clear_suid_sgid_now(inode)
    }

    /// Clears suid and sgid.
    pub(super) fn clear_suid_sgid_now(&self, inode: &Inode) -> Result<()> {
        let spot = self.spot(inode)?;
        let mode = spot.stat()?.mode;
        if without_suid_sgid(mode) != mode {
            spot.set_mode(without_suid_sgid(mode))?;
            self.attributes_changed(inode);
        }
        Ok(())
    }

    fn set_times(&self, inode: &Inode, atime: SetTime, mtime: SetTime) -> Result<()> {
        let Some(open) = inode.open_file().filter(|_| mtime != SetTime::Keep) else {
            return Ok(self.spot(inode)?.set_times(atime, mtime)?);
        };
        // Programs that set an mtime do so when they have written everything. A commit now leaves none for the close, which would
        // have to set the mtime once more. (It forgives a daemon that may not set it, which one of root's always may.)
        if let SetTime::To(time) = mtime
            && self.options.give_to_caller
        {
            if atime != SetTime::Keep {
                open.raw().set_times(atime, SetTime::Keep)?;
            }
            open.file.set_mtime(time)?;
            return Ok(open.file.commit(Durability::Written)?);
        }
        open.raw().set_times(atime, mtime)?;
        // The open file writes blocks later on and must then put the mtime back.
        Ok(open.file.set_mtime(open.raw().stat()?.mtime)?)
    }
}
