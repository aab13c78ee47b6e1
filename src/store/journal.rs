#![doc = include_str!("journal.md")]
//!
//! # This file
//!
//! The journal file: two heads and two segments that take turns.
//!
//! Appending and flushing are separate. A record is in the journal, and survives the daemon, once [`Journal::append`] returns; it is
//! durable once [`Journal::flush_to`] returns, which serves everybody who waits at the time with one device flush (group commit).

use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};

use parking_lot::Mutex;
use xxhash_rust::xxh3::xxh3_128;

use super::BackingFile;
use super::record::{ALIGN, Fields, Record, trimmed};

/// Bytes in front of the segments: two heads, each in a unit of its own, written in turn.
const HEADS: u64 = 2 * ALIGN as u64;
const HEAD_MAGIC: [u8; 8] = *b"ENVJHEAD";
const HEAD_VERSION: u32 = 1;
const HEAD_LEN: usize = 120;
/// Smallest journal: each segment must hold the largest commit several times over.
pub const MIN_LEN: u64 = 4 << 20;
/// Largest journal.
pub const MAX_LEN: u64 = 4 << 30;

/// What the journal says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) volume: [u8; 16],
    /// Goes up with each head written: of the two, the higher one counts.
    pub(super) generation: u64,
    /// Bytes of a segment.
    pub(super) segment_len: u64,
    /// Goes up with each mount: records of another session are void.
    pub(super) session: u64,
    /// The first record that recovery has to look at; always at the beginning of a segment.
    pub(super) tail: u64,
    /// Records up to this one hold after a power loss, whatever the markers say.
    pub(super) valid: u64,
    /// The kernel under which the session runs.
    pub(super) boot: [u8; 16],
    /// The session ended well: nothing is to be recovered.
    pub(super) clean: bool,
}

impl Head {
    fn encode(&self) -> [u8; ALIGN] {
        let mut out = Vec::with_capacity(HEAD_LEN);
        out.extend_from_slice(&HEAD_MAGIC);
        out.extend_from_slice(&HEAD_VERSION.to_le_bytes());
        out.extend_from_slice(&u32::from(self.clean).to_le_bytes());
        out.extend_from_slice(&self.volume);
        for number in [self.generation, self.segment_len, self.session, self.tail, self.valid] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&self.boot);
        out.resize(HEAD_LEN - 16, 0);
        let sum = xxh3_128(&out);
        out.extend_from_slice(&sum.to_le_bytes());
        let mut block = [0; ALIGN];
        block[..HEAD_LEN].copy_from_slice(&out);
        block
    }

    /// `None` for anything but a whole head of this version with possible lengths.
    fn parse(bytes: &[u8]) -> Option<Head> {
        let bytes = bytes.get(..HEAD_LEN)?;
        let (text, sum) = bytes.split_at(HEAD_LEN - 16);
        if xxh3_128(text).to_le_bytes() != sum {
            return None;
        }
        let mut fields = Fields(text);
        let (magic, version) = (fields.take()?, u32::from_le_bytes(fields.take()?));
        let clean = u32::from_le_bytes(fields.take()?);
        let volume = fields.take()?;
        let mut number = || fields.take().map(u64::from_le_bytes);
        let (generation, segment_len, session) = (number()?, number()?, number()?);
        let (tail, valid) = (number()?, number()?);
        let boot = fields.take()?;
        let possible = segment_len.is_multiple_of(ALIGN as u64) && segment_len > 0 && segment_len <= MAX_LEN;
        (magic == HEAD_MAGIC && version == HEAD_VERSION && clean <= 1 && possible).then_some(Head {
            volume,
            generation,
            segment_len,
            session,
            tail,
            valid,
            boot,
            clean: clean == 1,
        })
    }

    /// Reads the head that counts.
    pub(super) fn read(file: &dyn BackingFile) -> io::Result<Option<Head>> {
        let mut heads = Vec::with_capacity(2);
        for at in 0..2 {
            let mut block = [0; ALIGN];
            let got = file.read_vectored_at(&mut [io::IoSliceMut::new(&mut block)], at * ALIGN as u64)?;
            heads.extend(Head::parse(block.get(..got).unwrap_or_default()));
        }
        Ok(heads.into_iter().max_by_key(|head| head.generation))
    }

    /// Writes this head over the older of the two, without a flush.
    pub(super) fn write(&self, file: &dyn BackingFile) -> io::Result<()> {
        let at = self.generation % 2 * ALIGN as u64;
        file.write_all_vectored_at(&mut [IoSlice::new(&self.encode())], at)
    }

    /// Length of the whole journal file.
    pub(super) fn journal_len(&self) -> u64 {
        HEADS + 2 * self.segment_len
    }
}

/// Segment length of a journal of `len` bytes.
pub(super) fn segment_len(len: u64) -> u64 {
    len.saturating_sub(HEADS) / 2 / ALIGN as u64 * ALIGN as u64
}

/// Offset of a segment, 0 or 1.
pub(super) fn segment_start(segment_len: u64, segment: u64) -> u64 {
    HEADS + segment * segment_len
}

/// Where a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Appended {
    pub(super) seq: u64,
    /// Which filling of a segment: they are counted from 1, and filling n is in segment n % 2.
    pub(super) lap: u64,
}

/// Why a record could not be appended.
#[derive(Debug)]
pub(super) enum AppendError {
    /// Both segments are in use: the lap must be checkpointed first.
    Full {
        lap: u64,
    },
    Io(io::Error),
}

impl From<io::Error> for AppendError {
    fn from(error: io::Error) -> Self {
        AppendError::Io(error)
    }
}

/// The open journal of a session.
#[derive(Debug)]
pub(super) struct Journal {
    file: Arc<dyn BackingFile>,
    head: Mutex<Head>,
    tail: Mutex<Tail>,
    /// Held over the device flush, so that all who come meanwhile share the next one.
    flushing: Mutex<()>,
    /// Sequence number of the last record written.
    appended: AtomicU64,
    /// And of the last one that a flush covered.
    durable: AtomicU64,
    /// Errno of the first flush that failed; after it nothing is reported durable any more.
    failed: AtomicI32,
    volume: [u8; 16],
    session: u64,
    segment_len: u64,
}

/// Where the next record goes.
#[derive(Debug)]
struct Tail {
    lap: u64,
    offset: u64,
    next: u64,
    /// First sequence number of the current lap and of the one before.
    firsts: [u64; 2],
    /// Every lap up to this one is checkpointed.
    checkpointed: u64,
}

impl Journal {
    /// Begins a session on a journal file that holds nothing of worth any more: writes a head that says so, and flushes it.
    pub(super) fn begin(file: Arc<dyn BackingFile>, old: Head, next: u64, boot: [u8; 16]) -> io::Result<Journal> {
        let head = Head {
            generation: old.generation + 1,
            session: old.session + 1,
            tail: next,
            valid: 0,
            boot,
            clean: false,
            ..old
        };
        head.write(&*file)?;
        file.sync(false)?;
        Ok(Journal {
            tail: Mutex::new(Tail { lap: 1, offset: 0, next, firsts: [next; 2], checkpointed: 0 }),
            flushing: Mutex::new(()),
            appended: AtomicU64::new(next - 1),
            durable: AtomicU64::new(next - 1),
            failed: AtomicI32::new(0),
            volume: head.volume,
            session: head.session,
            segment_len: head.segment_len,
            head: Mutex::new(head),
            file,
        })
    }

    /// Bytes of a segment: more than any record has.
    pub(super) fn segment_len(&self) -> u64 {
        self.segment_len
    }

    /// Sequence number of the last record.
    pub(super) fn appended(&self) -> u64 {
        self.appended.load(Ordering::Acquire)
    }

    /// The lap that is full and not checkpointed, if there is one.
    pub(super) fn full_lap(&self) -> Option<u64> {
        let tail = self.tail.lock();
        (tail.lap - 1 > tail.checkpointed).then_some(tail.lap - 1)
    }

    /// Begins the next lap although the current one is not full, so that it can be checkpointed. `None`: there is nothing in it.
    pub(super) fn turn(&self) -> Option<u64> {
        let mut tail = self.tail.lock();
        if tail.offset == 0 || tail.lap - 1 > tail.checkpointed {
            return None;
        }
        tail.lap += 1;
        tail.offset = 0;
        let (lap, next) = (tail.lap, tail.next);
        tail.firsts[(lap % 2) as usize] = next;
        Some(lap - 1)
    }

    /// Writes a record behind the others, without a flush.
    pub(super) fn append(&self, record: &Record<'_>) -> Result<Appended, AppendError> {
        let size = record.size() as u64;
        if size > self.segment_len {
            let error = "a commit is larger than half of the journal: make the journal larger";
            return Err(io::Error::new(io::ErrorKind::StorageFull, error).into());
        }
        self.check()?;
        let mut tail = self.tail.lock();
        if tail.offset + size > self.segment_len {
            let other = tail.lap - 1;
            if other > tail.checkpointed {
                return Err(AppendError::Full { lap: other });
            }
            tail.lap += 1;
            tail.offset = 0;
            let (lap, next) = (tail.lap, tail.next);
            tail.firsts[(lap % 2) as usize] = next;
        }
        let seq = tail.next;
        let start = record.encode(&self.volume, self.session, seq);
        let data: usize = record.images.iter().map(|image| trimmed(image.bytes).len()).sum();
        let padding = [0; ALIGN];
        let mut bufs = Vec::with_capacity(record.images.len() + 2);
        bufs.push(IoSlice::new(&start));
        bufs.extend(record.images.iter().map(|image| IoSlice::new(trimmed(image.bytes))));
        bufs.push(IoSlice::new(&padding[..size as usize - start.len() - data]));
        let at = segment_start(self.segment_len, tail.lap % 2) + tail.offset;
        self.file.write_all_vectored_at(&mut bufs, at)?;
        tail.offset += size;
        tail.next += 1;
        self.appended.store(seq, Ordering::Release);
        Ok(Appended { seq, lap: tail.lap })
    }

    /// Returns once everything up to a record is durable.
    ///
    /// # Errors
    /// Those of fdatasync(2), for ever after the first one: the kernel may have dropped what it could not write, and a
    /// later flush would succeed without it.
    pub(super) fn flush_to(&self, seq: u64) -> io::Result<()> {
        if self.durable.load(Ordering::Acquire) >= seq {
            return Ok(());
        }
        let _flushing = self.flushing.lock();
        self.check()?;
        if self.durable.load(Ordering::Acquire) >= seq {
            return Ok(());
        }
        let upto = self.appended();
        self.sync()?;
        self.durable.store(upto, Ordering::Release);
        Ok(())
    }

    /// Declares all records up to `valid` good after a power loss: what they rely on in place is durable. They are flushed too.
    pub(super) fn validate(&self, valid: u64) -> io::Result<()> {
        self.change_head(|head| head.valid = valid)?;
        self.durable.fetch_max(valid, Ordering::AcqRel);
        Ok(())
    }

    /// Gives the segment of a full lap back: nothing in it is needed any more. The head that says so is durable before.
    pub(super) fn checkpointed(&self, lap: u64) -> io::Result<()> {
        let first = {
            let tail = self.tail.lock();
            if lap != tail.lap - 1 || lap <= tail.checkpointed {
                return Ok(());
            }
            tail.firsts[(tail.lap % 2) as usize]
        };
        self.change_head(|head| head.tail = first)?;
        self.tail.lock().checkpointed = lap;
        Ok(())
    }

    /// The clean end of a session: nothing is to be recovered, and nothing can be appended any more.
    pub(super) fn end(&self) -> io::Result<()> {
        let next = self.tail.lock().next;
        self.change_head(|head| (head.tail, head.clean) = (next, true))?;
        self.failed.store(libc::ESHUTDOWN, Ordering::Release);
        Ok(())
    }

    fn change_head(&self, change: impl FnOnce(&mut Head)) -> io::Result<()> {
        let mut head = self.head.lock();
        self.check()?;
        change(&mut head);
        head.generation += 1;
        head.write(&*self.file)?;
        self.sync()
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync(false).inspect_err(|error| {
            self.failed.store(error.raw_os_error().unwrap_or(libc::EIO), Ordering::Release);
        })
    }

    fn check(&self) -> io::Result<()> {
        match self.failed.load(Ordering::Acquire) {
            0 => Ok(()),
            errno => Err(io::Error::from_raw_os_error(errno)),
        }
    }
}
