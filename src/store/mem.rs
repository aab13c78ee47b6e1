//! A backing file in memory that can be made to fail: for tests and for benchmarks without a disk.
//!
//! Sparse by 4096-byte pages, so lengths of many TiB cost nothing. [`Faults`] refuse chosen calls, wholly or after a part of
//! them was done.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::{self, IoSlice, IoSliceMut};
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::Mutex;

use super::{BackingFile, Kind, SetTime, Stat, Timestamp, XattrHow};

const PAGE: usize = 4096;

/// What is to go wrong. Calls that change the file or flush it are counted, others are not unless [`reads`](Self::reads).
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    /// Calls that still succeed; `None` = all.
    pub after: Option<u64>,
    /// Errno of the calls behind that.
    pub errno: i32,
    /// Only the first call behind that fails.
    pub once: bool,
    /// Bytes that a failing write has written nevertheless.
    pub torn: usize,
    /// Count and fail reads as well.
    pub reads: bool,
}

#[derive(Debug, Default)]
struct Inner {
    pages: BTreeMap<u64, Box<[u8; PAGE]>>,
    len: u64,
    mtime: Timestamp,
    atime: Timestamp,
    faults: Faults,
    calls: u64,
    read_only: bool,
    mode: u32,
    flushes: u64,
}

/// See the [module](self).
#[derive(Debug, Default)]
pub struct MemFile(Mutex<Inner>);

impl MemFile {
    /// An empty file.
    pub fn new() -> Arc<Self> {
        Arc::new(MemFile::default())
    }

    /// A file with these bytes.
    pub fn with_contents(bytes: &[u8]) -> Arc<Self> {
        let file = MemFile::default();
        {
            let mut inner = file.0.lock();
            inner.write(bytes, 0);
            inner.len = bytes.len() as u64;
        }
        Arc::new(file)
    }

    /// Another file with the same contents and length, without faults.
    pub fn copy(&self) -> Arc<Self> {
        let inner = self.0.lock();
        let (pages, len, mtime) = (inner.pages.clone(), inner.len, inner.mtime);
        Arc::new(MemFile(Mutex::new(Inner { pages, len, mtime, ..Inner::default() })))
    }

    /// Sets what goes wrong from now on and counts anew.
    pub fn set_faults(&self, faults: Faults) {
        let mut inner = self.0.lock();
        inner.faults = faults;
        inner.calls = 0;
    }

    /// Calls counted since [`set_faults`](Self::set_faults).
    pub fn calls(&self) -> u64 {
        self.0.lock().calls
    }

    /// Flushes so far.
    pub fn flushes(&self) -> u64 {
        self.0.lock().flushes
    }

    /// Refuses changes with EBADF, like a descriptor that is open for reading.
    pub fn set_read_only(&self, read_only: bool) {
        self.0.lock().read_only = read_only;
    }

    /// Bytes of a range, zeros where there are none.
    pub fn bytes(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.0.lock().read(&mut bytes, offset);
        bytes
    }

    /// Puts bytes in place, as an attacker would: no count, no fault, no mtime.
    pub fn overwrite(&self, offset: u64, bytes: &[u8]) {
        let mut inner = self.0.lock();
        inner.write(bytes, offset);
        inner.len = inner.len.max(offset + bytes.len() as u64);
    }

    /// Flips bits of one byte, as an attacker would.
    pub fn flip(&self, offset: u64, mask: u8) {
        let byte = self.bytes(offset, 1)[0];
        self.overwrite(offset, &[byte ^ mask]);
    }

    /// Cuts or extends, as an attacker would.
    pub fn force_len(&self, len: u64) {
        self.0.lock().set_len(len);
    }

    /// Length.
    pub fn len(&self) -> u64 {
        self.0.lock().len
    }

    /// True if there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Offsets of the pages that are not holes.
    pub fn stored_pages(&self) -> Vec<u64> {
        self.0.lock().pages.keys().map(|page| page * PAGE as u64).collect()
    }
}

impl Inner {
    fn read(&self, out: &mut [u8], offset: u64) {
        let mut at = offset;
        let mut rest = out;
        while !rest.is_empty() {
            let within = (at % PAGE as u64) as usize;
            let len = rest.len().min(PAGE - within);
            let (here, behind) = rest.split_at_mut(len);
            match self.pages.get(&(at / PAGE as u64)) {
                Some(page) => here.copy_from_slice(&page[within..within + len]),
                None => here.fill(0),
            }
            at += len as u64;
            rest = behind;
        }
    }

    fn write(&mut self, bytes: &[u8], offset: u64) {
        let mut at = offset;
        let mut rest = bytes;
        while !rest.is_empty() {
            let within = (at % PAGE as u64) as usize;
            let (here, behind) = rest.split_at(rest.len().min(PAGE - within));
            let page = self.pages.entry(at / PAGE as u64).or_insert_with(|| Box::new([0; PAGE]));
            page[within..within + here.len()].copy_from_slice(here);
            at += here.len() as u64;
            rest = behind;
        }
        self.len = self.len.max(at);
    }

    fn zero(&mut self, from: u64, to: u64) {
        let (first, last) = (from.div_ceil(PAGE as u64), to / PAGE as u64);
        if first < last {
            let behind = self.pages.split_off(&first);
            self.pages.extend(behind.into_iter().filter(|&(page, _)| page >= last));
        }
        for (page, start, end) in [
            (from / PAGE as u64, from % PAGE as u64, (to - from / PAGE as u64 * PAGE as u64).min(PAGE as u64)),
            (last, (from.max(last * PAGE as u64)) % PAGE as u64, to % PAGE as u64),
        ] {
            if let Some(page) = self.pages.get_mut(&page).filter(|_| start < end) {
                page[start as usize..end as usize].fill(0);
            }
        }
    }

    fn set_len(&mut self, len: u64) {
        if len < self.len {
            let end = self.len.next_multiple_of(PAGE as u64);
            self.zero(len, end);
        }
        self.len = len;
    }

    /// Counts a call that changes something; an error says with how many bytes done it fails.
    fn change(&mut self) -> Result<(), (io::Error, usize)> {
        if self.read_only {
            return Err((io::Error::from_raw_os_error(libc::EBADF), 0));
        }
        self.count().map_err(|error| (error, self.faults.torn))?;
        self.mtime = now();
        Ok(())
    }

    fn count(&mut self) -> io::Result<()> {
        let call = self.calls;
        self.calls += 1;
        match self.faults.after {
            Some(after) if call == after || (call > after && !self.faults.once) => {
                Err(io::Error::from_raw_os_error(self.faults.errno))
            }
            _ => Ok(()),
        }
    }
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp { secs: i64::try_from(since.as_secs()).unwrap_or(i64::MAX), nanos: since.subsec_nanos() }
}

fn refuse<T>((error, _): (io::Error, usize)) -> io::Result<T> {
    Err(error)
}

impl BackingFile for MemFile {
    fn open_pinned(&self, _access: super::Access) -> io::Result<Arc<dyn BackingFile>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn read_vectored_at(&self, bufs: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<usize> {
        let mut inner = self.0.lock();
        if inner.faults.reads {
            inner.count()?;
        }
        let mut at = offset;
        for buf in bufs {
            let there = usize::try_from(inner.len.saturating_sub(at)).unwrap_or(usize::MAX);
            let len = buf.len().min(there);
            inner.read(&mut buf[..len], at);
            at += len as u64;
        }
        Ok((at - offset) as usize)
    }

    fn write_all_vectored_at(&self, bufs: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        let mut inner = self.0.lock();
        let outcome = inner.change();
        let mut room = match &outcome {
            Ok(()) => usize::MAX,
            Err((_, torn)) => *torn,
        };
        let mut at = offset;
        for buf in bufs {
            let len = buf.len().min(room);
            inner.write(&buf[..len], at);
            at += len as u64;
            room -= len;
        }
        outcome.or_else(refuse)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut inner = self.0.lock();
        if len > i64::MAX as u64 {
            return Err(io::Error::from_raw_os_error(libc::EFBIG));
        }
        inner.change().or_else(refuse)?;
        inner.set_len(len);
        Ok(())
    }

    fn reserve(&self, _offset: u64, _len: u64) -> io::Result<()> {
        self.0.lock().change().or_else(refuse)
    }

    fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()> {
        let mut inner = self.0.lock();
        inner.change().or_else(refuse)?;
        let end = (offset + len).min(inner.len.next_multiple_of(PAGE as u64));
        if offset < end {
            inner.zero(offset, end);
        }
        Ok(())
    }

    fn sync(&self, _metadata: bool) -> io::Result<()> {
        let mut inner = self.0.lock();
        inner.count()?;
        inner.flushes += 1;
        Ok(())
    }

    fn stat(&self) -> io::Result<Stat> {
        let inner = self.0.lock();
        Ok(Stat {
            dev: 0,
            ino: 1,
            kind: Kind::File,
            mode: inner.mode,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            size: inner.len,
            blocks: inner.pages.len() as u64 * 8,
            atime: inner.atime,
            mtime: inner.mtime,
            ctime: inner.mtime,
        })
    }

    fn set_mode(&self, mode: u32) -> io::Result<()> {
        self.0.lock().mode = mode;
        Ok(())
    }

    fn set_owner(&self, _uid: Option<u32>, _gid: Option<u32>) -> io::Result<()> {
        Ok(())
    }

    fn set_times(&self, atime: SetTime, mtime: SetTime) -> io::Result<()> {
        let mut inner = self.0.lock();
        let new = |time, old| match time {
            SetTime::Keep => old,
            SetTime::Now => now(),
            SetTime::To(time) => time,
        };
        inner.atime = new(atime, inner.atime);
        inner.mtime = new(mtime, inner.mtime);
        Ok(())
    }

    fn get_xattr(&self, _attr: &OsStr) -> io::Result<Vec<u8>> {
        Err(io::Error::from_raw_os_error(libc::ENODATA))
    }

    fn set_xattr(&self, _attr: &OsStr, _value: &[u8], _how: XattrHow) -> io::Result<()> {
        Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP))
    }

    fn list_xattrs(&self) -> io::Result<Vec<OsString>> {
        Ok(Vec::new())
    }

    fn remove_xattr(&self, _attr: &OsStr) -> io::Result<()> {
        Err(io::Error::from_raw_os_error(libc::ENODATA))
    }
}
