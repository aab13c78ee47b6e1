//! Contents: open handles, reading, writing, space.

use std::ffi::OsStr;
use std::ops::Range;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::RwLock;

use super::handle::FileHandle;
use super::inode::{Inode, InodeTable, OpenFile, SizeOverride};
use super::{Caller, Fallocate, Fs, HandleId, Ino, Kind, OpenHow, Result, Seek, WriteHow, posix};
use crate::file::{self, File};
use crate::store::{Access, BackingFile, Durability, Stat};

/// Files kept open for the store's sake from which on it is asked to hurry.
const MAX_LINGERING: usize = 128;
/// And from which on whoever opens a further one waits for it.
const MOST_LINGERING: usize = 2048;
/// Bytes copied at a time by [`Fs::copy_file_range`].
const COPY_STEP: usize = 1 << 20;

/// Makes a handle on an open file that [`Fs::open_inode`] or [`acquired`] counted.
pub(super) fn reserve_handle(inodes: &InodeTable, inode: Arc<Inode>, open: Arc<OpenFile>, how: OpenHow) -> FileHandle {
    inodes.reference(&inode);
    FileHandle { inode, open, write: how.write, sync: how.sync }
}

/// Records a file just created as its inode's open file, with one handle.
pub(super) fn acquired(inode: &Inode, file: File, raw: Arc<dyn BackingFile>) -> Arc<OpenFile> {
    let open = Arc::new(OpenFile { file, raw: RwLock::new(raw), writable: AtomicBool::new(true) });
    let mut state = inode.open.lock();
    state.handles += 1;
    state.file.get_or_insert(open).clone()
}

impl Fs {
    /// Opens a regular file.
    ///
    /// # Errors
    /// EIO for a damaged one. ESTALE if its size was not what `stat` had said (an interrupted truncation, mended now): the kernel
    /// then looks the name up again, and the caller notices nothing.
    pub fn open(&self, caller: &Caller, ino: Ino, how: OpenHow) -> Result<HandleId> {
        if how.write || how.truncate {
            self.check_writable()?;
        }
        let inode = self.inode(ino)?;
        if inode.kind != Kind::File {
            return Err(posix(if inode.kind == Kind::Dir { libc::EISDIR } else { libc::ENXIO }));
        }
        self.make_room();
        let open = self.open_inode(&inode, how.write || how.truncate)?;
        if how.truncate {
            let truncated = open.file.set_len(0).map_err(Into::into);
            if let Err(error) = truncated.and_then(|()| self.clear_suid_sgid(caller, &inode)) {
                self.close_inode(&inode)?;
                return Err(error);
            }
        }
        Ok(self.handles.add_file(reserve_handle(&self.inodes, inode, open, how)))
    }

    /// Before a file is opened: see [`Store::make_room`](crate::store::Store::make_room). Files that lingered for the store's sake go with it.
    pub(super) fn make_room(&self) {
        let Some(store) = &self.store else { return };
        store.make_room();
        if self.lingering.lock().len() > MOST_LINGERING {
            if let Err(error) = store.settle() {
                tracing::warn!(%error, "many closed files could not be written");
            }
            self.close_lingering();
        }
    }

    /// Opens the file behind an inode or shares the one that is open; undone by [`close_inode`](Self::close_inode).
    pub(super) fn open_inode(&self, inode: &Inode, write: bool) -> Result<Arc<OpenFile>> {
        let mut state = inode.open.lock();
        if let Some(open) = state.file.clone() {
            if write && !open.writable.load(Ordering::Acquire) {
                let raw = self.open_backing(inode, Access::ReadWrite)?;
                open.file.reopened(raw.clone());
                *open.raw.write() = raw;
                open.writable.store(true, Ordering::Release);
            }
            state.handles += 1;
            return Ok(open);
        }
        let (raw, writable) = self.open_backing_widely(inode, write)?;
        let file = match &self.store {
            Some(store) => File::open_blocks(store.attach(raw.clone(), false, &self.hint(inode))?, self.ring.clone())?,
            None => File::open(raw.clone(), self.ring.clone())?,
        };
        if file.excess() {
            let stored = raw.stat()?.size;
            if writable || inode.size_override(stored) != Some(file.len()) {
                return Err(self.mend_excess(inode, &file, stored, writable));
            }
        }
        let open = Arc::new(OpenFile { file, raw: RwLock::new(raw), writable: AtomicBool::new(writable) });
        if std::mem::take(&mut state.attributes_changed) {
            open.file.attributes_changed();
        }
        state.file = Some(open.clone());
        state.handles = 1;
        Ok(open)
    }

    /// Opens for reading and writing if that can be had, so that later handles share it.
    fn open_backing_widely(&self, inode: &Inode, write: bool) -> Result<(Arc<dyn BackingFile>, bool)> {
        if !self.options.read_only {
            match self.open_backing(inode, Access::ReadWrite) {
                Ok(raw) => return Ok((raw, true)),
                Err(error) if !write && matches!(error.errno(), libc::EACCES | libc::EPERM | libc::EROFS) => {}
                Err(error) => return Err(error),
            }
        }
        Ok((self.open_backing(inode, Access::Read)?, false))
    }

    fn open_backing(&self, inode: &Inode, access: Access) -> Result<Arc<dyn BackingFile>> {
        self.at_own_name(inode, || {
            // Its last name is gone, or about to go: found before that, it opens all the same.
            if let Some(held) = inode.pinned() {
                return Ok(Some(held.open_pinned(access)?));
            }
            let (dir, entry) = self.named(inode)?;
            let (raw, stat) = dir.open_file_and_stat(&entry, access)?;
            Ok((self.ino_of(stat.ino) == inode.ino).then_some(raw))
        })
    }

    /// Deals with bytes behind the sealed size: cut, or left out of sight on a read-only mount. Either way the kernel
    /// holds a wrong size, and the error makes it ask again for an inode of a new generation.
    fn mend_excess(&self, inode: &Inode, file: &File, stored: u64, writable: bool) -> super::FsError {
        tracing::warn!(
            inode = inode.ino.0,
            size = file.len(),
            writable,
            "a backing file is longer than its sealed size: left by an interrupted truncation, or extended"
        );
        if writable && let Err(error) = file.cut_excess() {
            return error.into();
        }
        if !writable {
            self.inodes.override_size(inode, SizeOverride { stored, plain: file.len() });
        }
        inode.generation.fetch_add(1, Ordering::Relaxed);
        posix(libc::ESTALE)
    }

    /// The file just created in a backing file.
    pub(super) fn open_created(&self, raw: Arc<dyn BackingFile>, parent: &Inode, entry: &OsStr) -> Result<File> {
        let Some(store) = &self.store else { return Err(posix(libc::EROFS)) };
        let mut hint = self.hint(parent);
        if !hint.is_empty() {
            hint.push(b'/');
        }
        hint.extend_from_slice(entry.as_bytes());
        Ok(File::open_blocks(store.attach(raw, true, &hint)?, self.ring.clone())?)
    }

    /// An inode's path in stored names, for the journal: empty for the root, and where a name on the way is not known.
    fn hint(&self, inode: &Inode) -> Vec<u8> {
        let mut names = Vec::new();
        let mut link = inode.first_link();
        while let Some(here) = link {
            link = match here.parent {
                Ino::ROOT => None,
                parent => match self.inodes.find(parent).and_then(|parent| parent.first_link()) {
                    Some(above) => Some(above),
                    None => return Vec::new(),
                },
            };
            names.push(here.entry);
        }
        names.reverse();
        names.join(OsStr::new("/")).into_vec()
    }

    /// Gives one share of an open file back; the last one commits and closes it, unless the store is not done with it.
    pub(super) fn close_inode(&self, inode: &Arc<Inode>) -> Result<()> {
        let mut state = inode.open.lock();
        state.handles = state.handles.saturating_sub(1);
        let Some(open) = state.file.clone().filter(|_| state.handles == 0) else { return Ok(()) };
        let outcome = open.file.commit(Durability::Written);
        if outcome.is_err() {
            open.file.discard();
        }
        if outcome.is_err() || open.file.is_settled() {
            state.file = None;
        } else if !state.lingers {
            state.lingers = true;
            self.inodes.reference(inode);
            let mut lingering = self.lingering.lock();
            lingering.push(inode.clone());
            if lingering.len() > MAX_LINGERING
                && let Some(store) = &self.store
            {
                store.wake_background();
            }
        }
        Ok(outcome?)
    }

    /// Closes the files that the store is done with.
    pub(super) fn close_lingering(&self) {
        let candidates = self.lingering.lock().clone();
        for inode in candidates {
            let mut state = inode.open.lock();
            if !state.lingers {
                continue;
            }
            let stays = state.handles == 0 && state.file.as_ref().is_some_and(|open| !open.file.is_settled());
            if stays {
                continue;
            }
            state.lingers = false;
            self.lingering.lock().retain(|other| !Arc::ptr_eq(other, &inode));
            if state.handles == 0
                && let Some(open) = state.file.take()
                && let Err(error) = open.file.commit(Durability::Written)
            {
                tracing::warn!(inode = inode.ino.0, %error, "a file's mtime could not be set");
            }
            drop(state);
            self.inodes.release(inode.ino, 1);
        }
    }

    /// Notes for the next fsync that attributes or names of an inode changed.
    pub(super) fn attributes_changed(&self, inode: &Inode) {
        let mut state = inode.open.lock();
        match &state.file {
            Some(open) => open.file.attributes_changed(),
            None => state.attributes_changed = true,
        }
    }

    /// Before an inode takes the name of another: makes contents durable that never were, or a power loss could leave the name
    /// with neither the old contents nor the new.
    pub(super) fn settle_contents(&self, stat: &Stat) -> Result<()> {
        let Some(store) = &self.store else { return Ok(()) };
        if stat.kind != Kind::File || !store.is_unflushed(stat.ino) {
            return Ok(());
        }
        match self.inodes.find(self.ino_of(stat.ino)).and_then(|inode| inode.open_file()) {
            Some(open) => Ok(open.file.commit(Durability::Data)?),
            None => Ok(store.flush_closed(stat.ino)?),
        }
    }

    /// The last name of a backing inode is gone.
    pub(super) fn contents_gone(&self, stat: &Stat) {
        let Some(store) = self.store.as_ref().filter(|_| stat.kind == Kind::File) else { return };
        store.forget(stat.ino);
        let Some(inode) = self.inodes.find(self.ino_of(stat.ino)) else { return };
        let mut state = inode.open.lock();
        if state.lingers && state.handles == 0 {
            // Nobody will miss what is left to do, and its space is wanted.
            (state.file, state.lingers) = (None, false);
            self.lingering.lock().retain(|other| !Arc::ptr_eq(other, &inode));
            drop(state);
            self.inodes.release(inode.ino, 1);
        }
    }

    /// Reads up to `len` bytes; they are `buf[range]`, and `buf` is reused between calls.
    ///
    /// # Errors
    /// EIO if the stored bytes are not what was written.
    pub fn read(&self, handle: HandleId, offset: u64, len: usize, buf: &mut Vec<u8>) -> Result<Range<usize>> {
        let handle = self.handles.file(handle)?;
        Ok(handle.open.file.read_at(offset, len, buf)?)
    }

    /// Writes all of `data`.
    ///
    /// # Errors
    /// EBADF on a handle not open for writing, EFBIG, and those of the backing filesystem.
    pub fn write(&self, handle: HandleId, offset: u64, data: &[u8], how: WriteHow) -> Result<()> {
        let handle = self.writable_handle(handle, how.from_cache)?;
        if how.kill_suid_sgid {
            self.clear_suid_sgid_now(&handle.inode)?;
        }
        let file = &handle.open.file;
        file.write_at(offset, data)?;
        self.settle(&handle)
    }

    /// A handle that may be written through. The kernel passes a shared memory map's pages on through any handle of the inode.
    fn writable_handle(&self, handle: HandleId, any: bool) -> Result<Arc<FileHandle>> {
        self.check_writable()?;
        let handle = self.handles.file(handle)?;
        if handle.write || any { Ok(handle) } else { Err(posix(libc::EBADF)) }
    }

    /// A handle is being closed: hands everything written to the backing file (promise D3).
    ///
    /// # Errors
    /// Those of the writes that this takes.
    pub fn flush(&self, handle: HandleId) -> Result<()> {
        let handle = self.handles.file(handle)?;
        Ok(handle.open.file.commit(Durability::Written)?)
    }

    /// Closes a handle.
    ///
    /// # Errors
    /// As [`flush`](Self::flush); the handle is closed all the same.
    pub fn release(&self, handle: HandleId) -> Result<()> {
        let handle = self.handles.remove_file(handle).ok_or_else(|| posix(libc::EBADF))?;
        let outcome = self.close_inode(&handle.inode);
        self.inodes.release(handle.inode.ino, 1);
        outcome
    }

    /// Makes contents, or with `data_only` unset all attributes too, durable (promise D1).
    ///
    /// # Errors
    /// Those of the writes and of the flush. After a failed flush nothing is promised of what was written before.
    pub fn fsync(&self, handle: HandleId, data_only: bool) -> Result<()> {
        let handle = self.handles.file(handle)?;
        if self.options.read_only {
            return Ok(());
        }
        let durability = if data_only { Durability::Data } else { Durability::Full };
        Ok(handle.open.file.commit(durability)?)
    }

    /// Reserves or gives back space (fallocate(2)).
    ///
    /// # Errors
    /// EBADF on a handle not open for writing, EINVAL for no bytes, EFBIG, ENOSPC.
    pub fn fallocate(&self, caller: &Caller, handle: HandleId, offset: u64, len: u64, how: Fallocate) -> Result<()> {
        let handle = self.writable_handle(handle, false)?;
        if len == 0 {
            return Err(posix(libc::EINVAL));
        }
        if offset.checked_add(len).is_none_or(|end| end > file::MAX_LEN) {
            return Err(posix(libc::EFBIG));
        }
        let file = &handle.open.file;
        match how {
            Fallocate::Allocate { keep_size } => file.allocate(offset, len, keep_size)?,
            Fallocate::PunchHole => file.punch_hole(offset, len)?,
            Fallocate::ZeroRange { keep_size } => file.zero_range(offset, len, keep_size)?,
        }
        // As with a truncation, the kernel leaves this to us and does not ask for it.
        self.clear_suid_sgid(caller, &handle.inode)?;
        self.settle(&handle)
    }

    /// Makes a change durable where the handle asks for that; else it waits for [`flush`](Self::flush).
    fn settle(&self, handle: &FileHandle) -> Result<()> {
        if handle.sync { Ok(handle.open.file.commit(Durability::Data)?) } else { Ok(()) }
    }

    /// Finds data or a hole (lseek(2)).
    ///
    /// # Errors
    /// ENXIO behind the end, or where no more data is.
    pub fn lseek(&self, handle: HandleId, offset: u64, whence: Seek) -> Result<u64> {
        let handle = self.handles.file(handle)?;
        let found = match whence {
            Seek::Data => handle.open.file.seek_data(offset)?,
            Seek::Hole => handle.open.file.seek_hole(offset)?,
        };
        found.ok_or_else(|| posix(libc::ENXIO))
    }

    /// Copies between files without a detour through the kernel; holes stay holes. Returns the bytes copied, fewer than asked
    /// only at the end of the source.
    ///
    /// # Errors
    /// EINVAL if the ranges are in one file and overlap; those of reading and writing if nothing was copied.
    pub fn copy_file_range(
        &self,
        caller: &Caller,
        from: HandleId,
        from_offset: u64,
        to: HandleId,
        to_offset: u64,
        len: u64,
    ) -> Result<u64> {
        let source = self.handles.file(from)?;
        let target = self.writable_handle(to, false)?;
        let len = len.min(source.open.file.len().saturating_sub(from_offset));
        if to_offset.checked_add(len).is_none_or(|end| end > file::MAX_LEN) {
            return Err(posix(libc::EFBIG));
        }
        if Arc::ptr_eq(&source.inode, &target.inode) && from_offset.abs_diff(to_offset) < len {
            return Err(posix(libc::EINVAL));
        }
        let mut buf = Vec::new();
        let mut done = 0;
        while done < len {
            match self.copy_some(&source, from_offset + done, &target, to_offset + done, len - done, &mut buf) {
                Ok(0) => break,
                Ok(copied) => done += copied,
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            }
        }
        self.clear_suid_sgid(caller, &target.inode)?;
        self.settle(&target)?;
        Ok(done)
    }

    /// Copies one piece: a hole, or up to [`COPY_STEP`] bytes of data.
    fn copy_some(
        &self,
        source: &FileHandle,
        at: u64,
        target: &FileHandle,
        to: u64,
        len: u64,
        buf: &mut Vec<u8>,
    ) -> Result<u64> {
        let (from, onto) = (&source.open.file, &target.open.file);
        let data = from.seek_data(at)?.unwrap_or(u64::MAX);
        if data > at {
            let hole = len.min(data - at);
            if onto.len() < to + hole {
                onto.set_len(to + hole)?;
            }
            onto.punch_hole(to, hole)?;
            return Ok(hole);
        }
        let step = COPY_STEP.min(usize::try_from(len).unwrap_or(COPY_STEP));
        let range = from.read_at(at, step, buf)?;
        let read = &buf[range];
        onto.write_at(to, read)?;
        Ok(read.len() as u64)
    }
}
