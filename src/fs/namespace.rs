//! Operations on names: create, remove, link, rename.
//!
//! A long name is an entry and a side link, a directory is a directory and its id link, a long symlink is a symlink and a
//! file in the control directory. Each pair is made companion first and removed companion last, so that whatever
//! interrupts leaves at most a companion without its owner, which is harmless and swept by `check`.
//!
//! The kernel holds the locks of the directories concerned over each of these calls (VFS locking rules), so two
//! of them do not meet on one name.

use std::ffi::{OsStr, OsString};
use std::io::IoSlice;
use std::sync::Arc;

use super::inode::{DefaultAcl, Inode};
use super::io::{acquired, reserve_handle};
use super::name::{self, DirId, StoredTarget};
use super::{
    BackingDir, Caller, Entry, Fs, FsError, HandleId, Ino, Kind, OpenHow, Place, RenameHow, Result, dir, is_missing,
    posix,
};
use crate::store::{BackingFile, Stat};

/// Name of the directory of long symlink targets in the control directory.
const TARGETS: &str = "targets";
/// Attribute that holds a directory's default ACL.
pub(super) const DEFAULT_ACL: &str = "system.posix_acl_default";

impl Fs {
    /// Creates a regular file, open.
    ///
    /// # Errors
    /// EEXIST if the name exists.
    pub fn create(
        &self,
        caller: &Caller,
        parent: Ino,
        name: &OsStr,
        mode: u32,
        umask: u32,
        how: OpenHow,
    ) -> Result<(Entry, HandleId)> {
        self.check_writable()?;
        self.make_room();
        let place = self.place(parent, name)?;
        let mode = self.masked(&place, mode, umask)?;
        self.make_side(&place)?;
        let raw = self.undo_side_on_error(&place, || Ok(place.dir.create_file(place.entry(), mode)?))?;
        let outcome = self.finish_file(caller, &place, raw, how);
        if outcome.is_err() {
            self.take_back(&place);
        }
        outcome
    }

    fn finish_file(
        &self,
        caller: &Caller,
        place: &Place,
        raw: Arc<dyn BackingFile>,
        how: OpenHow,
    ) -> Result<(Entry, HandleId)> {
        let stat = self.give(caller, place, raw.stat()?)?;
        let file = self.open_created(raw.clone(), &place.parent, place.entry())?;
        let (entry, inode) = self.enter_inode(place, &stat)?;
        inode.set_without_capability(true);
        let open = acquired(&inode, file, raw);
        Ok((entry, self.handles.add_file(reserve_handle(&self.inodes, inode, open, how))))
    }

    /// Makes a regular file, FIFO, socket or device node; `mode` includes the type and is not masked.
    ///
    /// # Errors
    /// Those of mknod(2).
    pub fn mknod(&self, caller: &Caller, parent: Ino, name: &OsStr, mode: u32, umask: u32, rdev: u64) -> Result<Entry> {
        self.check_writable()?;
        let place = self.place(parent, name)?;
        let bits = self.masked(&place, mode & 0o7777, umask)?;
        self.make_side(&place)?;
        self.undo_side_on_error(&place, || {
            Ok(place.dir.make_node(place.entry(), (mode & libc::S_IFMT) | bits, rdev)?)
        })?;
        self.finish_creation(caller, &place)
    }

    /// Makes a directory with an id of its own.
    ///
    /// # Errors
    /// Those of mkdir(2).
    pub fn mkdir(&self, caller: &Caller, parent: Ino, name: &OsStr, mode: u32, umask: u32) -> Result<Entry> {
        self.check_writable()?;
        let place = self.place(parent, name)?;
        let mode = self.masked(&place, mode & 0o7777, umask)?;
        self.make_side(&place)?;
        // Its owner must be able to put the id inside, whatever the mode will be.
        self.undo_side_on_error(&place, || Ok(place.dir.make_dir(place.entry(), mode | 0o700)?))?;
        let made = self.finish_dir(caller, &place, mode);
        if made.is_err() {
            if let Ok(dir) = place.dir.open_dir(place.entry()) {
                let _ = dir.unlink(OsStr::new(name::DIR_ID));
            }
            let _ = place.dir.remove_dir(place.entry());
            self.drop_side(&place.dir, place.entry());
        }
        made
    }

    /// Gives a new directory its id and its owner, and counts a lookup of it.
    fn finish_dir(&self, caller: &Caller, place: &Place, mode: u32) -> Result<Entry> {
        let id = DirId::random();
        let dir = place.dir.open_dir(place.entry())?;
        dir.make_symlink(OsStr::new(name::DIR_ID), &id.to_text())?;
        if mode & 0o700 != 0o700 {
            // Takes back what was lent and no more: setgid is inherited, and a default ACL may grant less than `mode`.
            let lent = place.dir.stat(place.entry())?.mode;
            place.dir.set_mode(place.entry(), lent & (mode | !0o700))?;
        }
        let stat = self.give(caller, place, place.dir.stat(place.entry())?)?;
        let (entry, inode) = self.enter_inode(place, &stat)?;
        // What is known of it need not be read again. A directory inherits the default ACL of the one it is made in (acl(5)).
        let _ = inode.dir_id.set(id);
        if place.parent.default_acl() == DefaultAcl::Absent {
            inode.set_default_acl(DefaultAcl::Absent);
        }
        self.dirs.lock().put(inode.ino, dir);
        Ok(entry)
    }

    /// Makes a symlink.
    ///
    /// # Errors
    /// Those of symlink(2).
    pub fn symlink(&self, caller: &Caller, parent: Ino, name: &OsStr, target: &OsStr) -> Result<Entry> {
        self.check_writable()?;
        let place = self.place(parent, name)?;
        let (text, file) = match name::store_target(self.ring.symlink_key(), target)? {
            StoredTarget::Inline(text) => (text, None),
            StoredTarget::Side { text, file, contents } => {
                self.write_target(&file, &contents)?;
                (text, Some(file))
            }
        };
        let made = self.make_side(&place).and_then(|()| {
            self.undo_side_on_error(&place, || Ok(place.dir.make_symlink(place.entry(), &text)?))?;
            self.finish_creation(caller, &place)
        });
        // Not if the symlink is there and could not be taken back.
        if made.is_err()
            && let Some(file) = file
            && place.dir.read_link(place.entry()).map_or(true, |there| there != text)
        {
            let _ = self.targets().map(|dir| dir.unlink(&file));
        }
        made
    }

    /// The target of a symlink.
    ///
    /// # Errors
    /// EIO if it is not what was stored.
    pub fn readlink(&self, ino: Ino) -> Result<Vec<u8>> {
        let inode = self.inode(ino)?;
        if inode.kind != Kind::Symlink {
            return Err(posix(libc::EINVAL));
        }
        let sealed = self.at_own_name(&inode, || {
            if let Some(sealed) = inode.sealed_target.get() {
                return Ok(Some(sealed.clone()));
            }
            let (dir, entry) = self.named(&inode)?;
            let text = dir.read_link(&entry);
            if self.ino_of(dir.stat(&entry)?.ino) != inode.ino {
                return Ok(None);
            }
            self.sealed_target(&text?).map(Some)
        })?;
        name::open_target(self.ring.symlink_key(), &sealed)
    }

    /// Makes a further name for an inode.
    ///
    /// # Errors
    /// Those of link(2).
    pub fn link(&self, ino: Ino, parent: Ino, name: &OsStr) -> Result<Entry> {
        self.check_writable()?;
        let inode = self.inode(ino)?;
        if inode.kind == Kind::Dir {
            return Err(posix(libc::EPERM));
        }
        let (from, entry) = self.named(&inode).map_err(|error| match error.errno() {
            libc::ESTALE => posix(libc::ENOENT),
            _ => error,
        })?;
        let place = self.place(parent, name)?;
        self.make_side(&place)?;
        self.undo_side_on_error(&place, || Ok(from.link(&entry, &*place.dir, place.entry())?))?;
        self.moved.note(&place.dir, place.entry());
        self.attributes_changed(&inode);
        let stat = place.dir.stat(place.entry())?;
        self.enter(&place, &stat)
    }

    /// Removes a name of anything but a directory.
    ///
    /// # Errors
    /// Those of unlink(2).
    pub fn unlink(&self, parent: Ino, name: &OsStr) -> Result<()> {
        self.check_writable()?;
        let place = self.place(parent, name)?;
        let doomed = self.doom(&place)?;
        if doomed.stat.kind == Kind::Dir {
            return Err(posix(libc::EISDIR));
        }
        if let Err(error) = place.dir.unlink(place.entry()) {
            doomed.spare();
            return Err(error.into());
        }
        self.finish_removal(&place, doomed);
        Ok(())
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// ENOTEMPTY and the others of rmdir(2).
    pub fn rmdir(&self, parent: Ino, name: &OsStr) -> Result<()> {
        self.check_writable()?;
        let place = self.place(parent, name)?;
        let doomed = self.doom(&place)?;
        if doomed.stat.kind != Kind::Dir {
            return Err(posix(libc::ENOTDIR));
        }
        let outcome = self.strip(&place, &doomed).and_then(|stripped| {
            place.dir.remove_dir(place.entry()).map_err(|error| {
                stripped.restore();
                error.into()
            })
        });
        if outcome.is_err() {
            doomed.spare();
            return outcome;
        }
        self.finish_removal(&place, doomed);
        Ok(())
    }

    /// Renames, as renameat2(2).
    ///
    /// # Errors
    /// Those of renameat2(2).
    pub fn rename(&self, parent: Ino, name: &OsStr, to: Ino, to_name: &OsStr, how: RenameHow) -> Result<()> {
        self.check_writable()?;
        let (from, to) = (self.place(parent, name)?, self.place(to, to_name)?);
        let source = from.dir.stat(from.entry())?;
        let target = match to.dir.stat(to.entry()) {
            Ok(stat) => Some(stat),
            Err(error) if is_missing(&error) => None,
            Err(error) => return Err(error.into()),
        };
        match (how, &target) {
            (RenameHow::NoReplace, Some(_)) => Err(posix(libc::EEXIST)),
            (RenameHow::Exchange, None) => Err(posix(libc::ENOENT)),
            // Two names of one inode: nothing happens (rename(2)).
            (_, Some(target)) if target.ino == source.ino => Ok(()),
            (RenameHow::Exchange, Some(target)) => self.exchange(&from, &source, &to, target),
            (_, Some(_)) => self.rename_over(&from, &source, &to, how),
            (_, None) => {
                self.make_side(&to)?;
                self.undo_side_on_error(&to, || Ok(from.dir.rename(from.entry(), &*to.dir, to.entry(), how)?))?;
                self.moved(&from, &source, &to);
                self.drop_side(&from.dir, from.entry());
                Ok(())
            }
        }
    }

    fn rename_over(&self, from: &Place, source: &Stat, to: &Place, how: RenameHow) -> Result<()> {
        self.settle_contents(source)?;
        let doomed = self.doom(to)?;
        let both_dirs = (source.kind == Kind::Dir, doomed.stat.kind == Kind::Dir);
        let stripped = match both_dirs {
            (true, true) => self.strip(to, &doomed).map(Some),
            (true, false) => Err(posix(libc::ENOTDIR)),
            (false, true) => Err(posix(libc::EISDIR)),
            (false, false) => Ok(None),
        };
        let outcome = stripped.and_then(|stripped| {
            from.dir.rename(from.entry(), &*to.dir, to.entry(), how).map_err(|error| {
                if let Some(stripped) = stripped {
                    stripped.restore();
                }
                error.into()
            })
        });
        if outcome.is_err() {
            doomed.spare();
            return outcome;
        }
        self.forget_name(to, &doomed);
        self.moved(from, source, to);
        self.drop_side(&from.dir, from.entry());
        Ok(())
    }

    fn exchange(&self, from: &Place, source: &Stat, to: &Place, target: &Stat) -> Result<()> {
        from.dir.rename(from.entry(), &*to.dir, to.entry(), RenameHow::Exchange)?;
        self.moved(from, source, to);
        self.moved(to, target, from);
        // Each inode had its old name taken away by the other's move: nothing else is to be told.
        Ok(())
    }

    /// Tells the table that an inode has moved from one place to another.
    fn moved(&self, from: &Place, stat: &Stat, to: &Place) {
        self.moved.note(&to.dir, to.entry());
        if let Some(inode) = self.inodes.find(self.ino_of(stat.ino)) {
            inode.remove_link(from.parent.ino, from.entry());
            inode.add_link(to.parent.ino, to.entry());
            self.attributes_changed(&inode);
        }
    }

    /// What is about to lose its name, held on to if that is its last one and something still refers to it.
    fn doom(&self, place: &Place) -> Result<Doomed> {
        let stat = place.dir.stat(place.entry())?;
        let last = stat.kind == Kind::Dir || stat.nlink <= 1;
        let inode = self.inodes.find(self.ino_of(stat.ino));
        if let Some(inode) = &inode
            && last
        {
            inode.pin(place.dir.pin(place.entry())?);
        }
        let mut target = None;
        if last && stat.kind == Kind::Symlink && (inode.is_some() || name::is_side_target(stat.size)) {
            let text = place.dir.read_link(place.entry())?;
            if let Some(inode) = &inode
                && let Ok(sealed) = self.sealed_target(&text)
            {
                let _ = inode.sealed_target.set(sealed);
            }
            target = name::target_file(&text);
        }
        Ok(Doomed { stat, inode, target })
    }

    /// After a removal: the side link, the symlink's target file, what the table knows.
    fn finish_removal(&self, place: &Place, doomed: Doomed) {
        self.forget_name(place, &doomed);
        self.drop_side(&place.dir, place.entry());
    }

    fn forget_name(&self, place: &Place, doomed: &Doomed) {
        let ino = self.ino_of(doomed.stat.ino);
        if let Some(inode) = &doomed.inode {
            inode.remove_link(place.parent.ino, place.entry());
        }
        if doomed.stat.kind == Kind::Dir {
            self.dirs.lock().pop(&ino);
        }
        if doomed.stat.nlink <= 1 {
            self.contents_gone(&doomed.stat);
        }
        if let Some(file) = &doomed.target {
            // The two are in different directories: a power loss must not bring back the symlink without its target.
            let removed = place.dir.sync().map_err(FsError::from);
            let removed = removed.and_then(|()| Ok(self.targets()?.unlink(file)?));
            if let Err(error) = removed {
                tracing::warn!(%error, "a removed symlink's target stays behind in the control directory");
            }
        }
    }

    /// Empties a directory of the format's own entries so that it can be removed.
    ///
    /// # Errors
    /// ENOTEMPTY if anything else is in it.
    fn strip(&self, place: &Place, doomed: &Doomed) -> Result<Stripped> {
        let held = self.dirs.lock().get(&self.ino_of(doomed.stat.ino)).cloned();
        let dir = held.map_or_else(|| place.dir.open_dir(place.entry()), Ok)?;
        // An ordinary user's daemon needs what the directory's mode may deny; root's does not care.
        let mode = doomed.stat.mode;
        let mode = (mode & 0o700 != 0o700 && !self.options.give_to_caller).then_some(mode);
        if let Some(mode) = mode {
            place.dir.set_mode(place.entry(), mode | 0o700)?;
        }
        let mut stripped = Stripped { parent: place.dir.clone(), entry: place.entry().into(), dir, mode, id: None };
        let id = doomed.inode.as_ref().and_then(|inode| inode.dir_id.get());
        match self.strip_entries(&mut stripped, id) {
            Ok(()) => Ok(stripped),
            Err(error) => {
                stripped.restore();
                Err(error)
            }
        }
    }

    /// `id` is the directory's, if it was read before.
    fn strip_entries(&self, stripped: &mut Stripped, id: Option<&DirId>) -> Result<()> {
        let sides = dir::survey(&*stripped.dir)?.ok_or_else(|| posix(libc::ENOTEMPTY))?;
        for side in sides {
            stripped.dir.unlink(&side)?;
        }
        let link = OsStr::new(name::DIR_ID);
        let text = id.map_or_else(|| stripped.dir.read_link(link), |id| Ok(id.to_text()));
        match text.and_then(|text| stripped.dir.unlink(link).map(|()| text)) {
            Ok(text) => {
                stripped.id = Some(text);
                Ok(())
            }
            Err(error) if is_missing(&error) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes the side link of a long name. One that is left over from an earlier entry says the same.
    fn make_side(&self, place: &Place) -> Result<()> {
        let (Some(target), Some(side)) = (&place.name.side_target, name::side_of(place.entry())) else { return Ok(()) };
        match place.dir.make_symlink(&side, target) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                if place.dir.read_link(&side).is_ok_and(|there| there == *target) {
                    return Ok(());
                }
                place.dir.unlink(&side)?;
                Ok(place.dir.make_symlink(&side, target)?)
            }
            other => Ok(other?),
        }
    }

    /// Removes the side link of a long name whose entry is gone. It may stay: nothing depends on it.
    fn drop_side(&self, dir: &Arc<dyn BackingDir>, entry: &OsStr) {
        if let Some(side) = name::side_of(entry) {
            let _ = dir.unlink(&side);
        }
    }

    /// Runs `make`; if it fails and there is no entry, takes the side link back.
    fn undo_side_on_error<T>(&self, place: &Place, make: impl FnOnce() -> Result<T>) -> Result<T> {
        make().inspect_err(|_| {
            if place.name.side_target.is_some() && place.dir.stat(place.entry()).is_err_and(|e| is_missing(&e)) {
                self.drop_side(&place.dir, place.entry());
            }
        })
    }

    /// Removes an entry that was made and could not be finished.
    fn take_back(&self, place: &Place) {
        let _ = place.dir.unlink(place.entry());
        self.drop_side(&place.dir, place.entry());
    }

    /// The mode of a new entry: masked, unless the directory's default ACL takes the umask's place.
    fn masked(&self, place: &Place, mode: u32, umask: u32) -> Result<u32> {
        if umask == 0 {
            return Ok(mode);
        }
        if place.parent.default_acl() == DefaultAcl::Unknown {
            let known = match place.dir.get_xattr(OsStr::new("."), OsStr::new(DEFAULT_ACL)) {
                Ok(_) => DefaultAcl::Present,
                Err(error) if matches!(error.raw_os_error(), Some(libc::ENODATA | libc::EOPNOTSUPP)) => {
                    DefaultAcl::Absent
                }
                Err(error) => return Err(error.into()),
            };
            place.parent.set_default_acl(known);
        }
        Ok(if place.parent.default_acl() == DefaultAcl::Present { mode } else { mode & !umask })
    }

    /// Gives a new entry to the caller and counts a lookup of it.
    fn finish_creation(&self, caller: &Caller, place: &Place) -> Result<Entry> {
        let made = place.dir.stat(place.entry()).map_err(Into::into);
        let outcome = made.and_then(|stat| self.give(caller, place, stat)).and_then(|stat| self.enter(place, &stat));
        if outcome.is_err() {
            self.take_back(place);
        }
        outcome
    }

    /// Gives a new entry to the caller, as the kernel would have: its user, and its group unless the directory hands its own
    /// down (setgid, mkdir(2)). Returns the attributes that hold then.
    fn give(&self, caller: &Caller, place: &Place, stat: Stat) -> Result<Stat> {
        if !self.options.give_to_caller || (stat.uid, stat.gid) == (caller.uid, caller.gid) {
            return Ok(stat);
        }
        let keeps_group = stat.gid != caller.gid && place.dir.stat(OsStr::new("."))?.mode & libc::S_ISGID != 0;
        let gid = (!keeps_group).then_some(caller.gid);
        place.dir.set_owner(place.entry(), Some(caller.uid), gid)?;
        // chown took suid and sgid away (chown(2)). The mode it had, not the one asked for: a default ACL may grant less.
        if stat.kind != Kind::Dir && stat.kind != Kind::Symlink && stat.mode & (libc::S_ISUID | libc::S_ISGID) != 0 {
            place.dir.set_mode(place.entry(), stat.mode)?;
        }
        Ok(place.dir.stat(place.entry())?)
    }

    /// The directory of long symlink targets.
    pub(super) fn targets(&self) -> Result<Arc<dyn BackingDir>> {
        let control = self.root.open_dir(OsStr::new(name::CONTROL_DIR))?;
        match control.open_dir(OsStr::new(TARGETS)) {
            Err(error) if is_missing(&error) && !self.options.read_only => {
                control.make_dir(OsStr::new(TARGETS), 0o700)?;
                control.sync()?;
                Ok(control.open_dir(OsStr::new(TARGETS))?)
            }
            other => Ok(other?),
        }
    }

    /// Stores a long target durably, so that no symlink ever refers to one that a crash emptied.
    fn write_target(&self, file: &OsStr, contents: &[u8]) -> Result<()> {
        let targets = self.targets()?;
        let raw = targets.create_file(file, 0o600)?;
        let written = raw.write_all_vectored_at(&mut [IoSlice::new(contents)], 0).and_then(|()| raw.sync(true));
        written.and_then(|()| targets.sync()).map_err(|error| {
            let _ = targets.unlink(file);
            error.into()
        })
    }

    /// What a backing symlink's text stands for, sealed still.
    pub(super) fn sealed_target(&self, text: &OsStr) -> Result<Vec<u8>> {
        match name::target_file(text) {
            None => name::inline_target(text),
            Some(file) => self.read_target(&file),
        }
    }

    fn read_target(&self, file: &OsStr) -> Result<Vec<u8>> {
        let raw = self.targets()?.open_file(file, crate::store::Access::Read).map_err(target_error)?;
        // The longest plain target with nonce and tag, and one byte more to notice a longer file.
        let mut sealed = vec![0; 4095 + 28 + 1];
        let read = raw.read_vectored_at(&mut [std::io::IoSliceMut::new(&mut sealed)], 0)?;
        sealed.truncate(read);
        Ok(sealed)
    }
}

/// What it means that a symlink's target file cannot be reached: damage only if it is not there.
pub(super) fn target_error(error: std::io::Error) -> FsError {
    match is_missing(&error) {
        true => FsError::Damaged("the symlink's target is missing from the control directory"),
        false => error.into(),
    }
}

/// An inode about to lose a name.
struct Doomed {
    stat: Stat,
    inode: Option<Arc<Inode>>,
    /// The file with a long symlink's target, if the symlink goes with this name.
    target: Option<OsString>,
}

impl Doomed {
    /// The name stayed after all.
    fn spare(&self) {
        if let Some(inode) = &self.inode {
            inode.unpin();
        }
    }
}

/// A directory without the format's own entries, and what it takes to put them back.
struct Stripped {
    parent: Arc<dyn BackingDir>,
    entry: OsString,
    dir: Arc<dyn BackingDir>,
    mode: Option<u32>,
    id: Option<OsString>,
}

impl Stripped {
    /// Puts the same id back: names made later must find it.
    fn restore(&self) {
        let id = self.id.as_ref().map_or(Ok(()), |id| self.dir.make_symlink(OsStr::new(name::DIR_ID), id));
        let mode = self.mode.map_or(Ok(()), |mode| self.parent.set_mode(&self.entry, mode));
        if let Err(error) = id.and(mode) {
            tracing::error!(%error, "a directory that could not be removed could not be put back as it was");
        }
    }
}
