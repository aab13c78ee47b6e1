//! Recovery: what an unclean stop left in the journal goes to its place. Needs no key.
//!
//! The journal may be torn anywhere, and hostile anywhere: an attacker who can write to the backing directory can write what he likes
//! into a record. So a record only ever reaches a regular file below the volume's root, found name by name without following
//! symlinks, on the root's own device, that carries the record's file id; lengths and offsets are checked when it is parsed.
//!
//! What is to be written is settled before anything is: for each file the newest image of each block and the last length. Doing it
//! again gives the same, so recovery may itself be interrupted anywhere.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use super::journal::{Head, segment_start};
use super::record::{self, ALIGN, BLOCK, Kind, Parsed, StoredImage};
use super::registry::{CONTROL_DIR, Rule, StoreOptions};
use super::{Access, BackingDir, BackingFile, SetTime, Timestamp};

/// Where a backing file has its file id: in the first sector, in bytes that never change (format, section 3).
const FILE_ID: std::ops::Range<usize> = 16..32;
/// Files that are flushed one by one; more of them are flushed with their whole filesystem.
const MAX_SINGLE_FLUSHES: usize = 64;
/// Directories are searched this deep; each level costs a descriptor.
const MAX_DEPTH: usize = 512;

/// A backing file as records name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct FileKey {
    ino: u64,
    id: [u8; 16],
}

/// The last state of a file that the journal has.
#[derive(Debug, Default)]
struct Target {
    hint: Vec<u8>,
    len: u64,
    mtime: Option<Timestamp>,
    /// Newest image of each block, and where its record is in the journal file.
    images: BTreeMap<u64, (u64, StoredImage)>,
    /// It was made empty on the way: it may have no header yet.
    emptied: bool,
    gone: bool,
    /// There is a good record: the length is one.
    committed: bool,
}

/// What a recovery did, for the log.
#[derive(Debug, Default)]
struct Outcome {
    files: usize,
    blocks: usize,
    missing: usize,
}

/// Brings the backing directory to the state the journal gives, and returns the sequence number to go on with. Does nothing after a
/// clean stop.
pub(super) fn recover(
    root: &Arc<dyn BackingDir>,
    journal: &dyn BackingFile,
    head: &mut Head,
    options: &StoreOptions,
) -> io::Result<u64> {
    if head.clean {
        return Ok(head.tail);
    }
    let records = scan(journal, head)?;
    let next = records.last().map_or(head.tail, |(_, record)| record.seq + 1);
    let same_kernel = head.boot == options.boot;
    if same_kernel {
        // The daemon died, its kernel did not: all that was written is there. It is made durable, then declared good, and only then
        // put in place: a power loss meanwhile must find either all records good or none in place.
        root.sync_all()?;
        head.valid = next - 1;
        write_head(journal, head)?;
    }
    let all = options.broken_rule == Some(Rule::MarksDecide);
    let targets = targets(&records, if all { next - 1 } else { head.valid }, same_kernel);
    let outcome = replay(root, journal, targets)?;
    tracing::info!(
        records = records.len(),
        files = outcome.files,
        blocks = outcome.blocks,
        missing = outcome.missing,
        restarted = !same_kernel,
        "the volume was not unmounted cleanly: its journal was replayed"
    );
    (head.tail, head.clean) = (next, true);
    write_head(journal, head)?;
    Ok(next)
}

fn write_head(journal: &dyn BackingFile, head: &mut Head) -> io::Result<()> {
    head.generation += 1;
    head.write(journal)?;
    journal.sync(false)
}

/// All records from the head's tail on, in order and without a gap, each with its offset in the journal file.
fn scan(journal: &dyn BackingFile, head: &Head) -> io::Result<Vec<(u64, Parsed)>> {
    let mut records = Vec::new();
    let mut next = head.tail;
    let mut segments = vec![0, 1];
    // The tail is at the beginning of a segment, and what follows a segment's last record at that of the other.
    while let Some(at) = {
        let firsts = segments.iter().map(|segment| read_record(journal, head, *segment, 0));
        let firsts = firsts.collect::<io::Result<Vec<_>>>()?;
        firsts.iter().position(|first| first.as_ref().is_some_and(|record| record.seq == next))
    } {
        let segment = segments.remove(at);
        let mut offset = 0;
        while let Some(record) = read_record(journal, head, segment, offset)?.filter(|record| record.seq == next) {
            let at = segment_start(head.segment_len, segment) + offset;
            offset += record.size as u64;
            next += 1;
            records.push((at, record));
        }
    }
    Ok(records)
}

/// Reads the record at an offset of a segment, if there is a sound one of this session.
fn read_record(journal: &dyn BackingFile, head: &Head, segment: u64, offset: u64) -> io::Result<Option<Parsed>> {
    let room = head.segment_len.saturating_sub(offset);
    let at = segment_start(head.segment_len, segment) + offset;
    let mut bytes = vec![0; ALIGN.min(usize::try_from(room).unwrap_or(usize::MAX))];
    let got = journal.read_vectored_at(&mut [IoSliceMut::new(&mut bytes)], at)?;
    bytes.truncate(got);
    let limit = usize::try_from(room).unwrap_or(usize::MAX);
    let Some(size) = record::size(&bytes, limit) else { return Ok(None) };
    // As far as the file goes: a hostile size costs no more memory than the journal has bytes.
    let len = journal.stat()?.size.saturating_sub(at).min(size as u64);
    let start = bytes.len();
    bytes.resize(len as usize, 0);
    if let Some(rest) = bytes.get_mut(start..) {
        let got = journal.read_vectored_at(&mut [IoSliceMut::new(rest)], at + start as u64)?;
        bytes.truncate(start + got);
    }
    Ok(record::parse(&bytes, &head.volume, head.session))
}

/// What the good records come to for each file. `valid`: all up to it are good; beyond, a file's own markers decide. `same_kernel`: what was
/// done to names was done, while a power loss may have undone the removal that a record tells of.
fn targets(records: &[(u64, Parsed)], valid: u64, same_kernel: bool) -> HashMap<FileKey, Target> {
    let key = |record: &Parsed| FileKey { ino: record.ino, id: record.id };
    let mut marks: HashMap<FileKey, u64> = HashMap::new();
    for (_, record) in records {
        let mark = marks.entry(key(record)).or_insert(valid);
        *mark = (*mark).max(record.through);
    }
    let mut targets: HashMap<FileKey, Target> = HashMap::new();
    for (at, record) in records {
        let good = marks.get(&key(record)).is_some_and(|mark| record.seq <= *mark);
        match record.kind {
            Kind::Gone if same_kernel => targets.entry(key(record)).or_default().gone = true,
            Kind::Commit if good => {
                let target = targets.entry(key(record)).or_default();
                if record.len == 0 {
                    target.images.clear();
                    target.emptied = true;
                }
                target.len = record.len;
                target.committed = true;
                target.mtime = record.mtime.or(target.mtime);
                target.hint.clone_from(&record.hint);
                target.images.extend(record.images.iter().map(|image| (image.block, (*at, *image))));
            }
            Kind::Commit | Kind::Marker | Kind::Gone => {}
        }
    }
    targets.retain(|_, target| target.committed && !target.gone);
    targets
}

fn replay(
    root: &Arc<dyn BackingDir>,
    journal: &dyn BackingFile,
    mut targets: HashMap<FileKey, Target>,
) -> io::Result<Outcome> {
    let mut outcome = Outcome::default();
    let device = root.stat(OsStr::new("."))?.dev;
    let mut written = Vec::new();
    let mut put = |key: &FileKey, target: &Target, file: Arc<dyn BackingFile>| -> io::Result<()> {
        tracing::debug!(inode = key.ino, blocks = target.images.len(), "replaying a file");
        outcome.files += 1;
        outcome.blocks += target.images.len();
        put_in_place(journal, target, &*file)?;
        written.push(file);
        Ok(())
    };
    let by_hint: Vec<FileKey> = targets.keys().copied().collect();
    for key in by_hint {
        let Some(target) = targets.get(&key) else { continue };
        if let Some(file) = at_hint(root, device, &target.hint, |file| is_meant(file, &key, target)) {
            put(&key, target, file)?;
            targets.remove(&key);
        }
    }
    if !targets.is_empty() {
        // Renamed since, or removed.
        let mut wanted: HashMap<u64, Vec<FileKey>> = HashMap::new();
        targets.keys().for_each(|key| wanted.entry(key.ino).or_default().push(*key));
        search(root, device, true, 0, &mut |dir, name, ino| {
            for key in wanted.get(&ino).into_iter().flatten() {
                let Some(target) = targets.get(key) else { continue };
                if let Some(file) = unless_absent(dir.open_file(name, Access::ReadWrite))?
                    && is_meant(&*file, key, target)
                {
                    put(key, target, file)?;
                    targets.remove(key);
                }
            }
            Ok(!targets.is_empty())
        })?;
    }
    outcome.missing = targets.len();
    if written.len() > MAX_SINGLE_FLUSHES {
        root.sync_all()?;
    } else {
        written.iter().try_for_each(|file| file.sync(true))?;
    }
    Ok(outcome)
}

/// True if a file is the one that records are about: it carries their file id, or it was emptied and has no header yet.
fn is_meant(file: &dyn BackingFile, key: &FileKey, target: &Target) -> bool {
    let mut start = [0; FILE_ID.end];
    let Ok(got) = file.read_vectored_at(&mut [IoSliceMut::new(&mut start)], 0) else { return false };
    let headless = start == [0; FILE_ID.end];
    match headless {
        true => target.emptied && file.stat().is_ok_and(|stat| stat.ino == key.ino),
        false => got == start.len() && start[FILE_ID] == key.id,
    }
}

/// The file at a path of stored names, if there is one and it is the one meant.
fn at_hint(
    root: &Arc<dyn BackingDir>,
    device: u64,
    hint: &[u8],
    is_meant: impl Fn(&dyn BackingFile) -> bool,
) -> Option<Arc<dyn BackingFile>> {
    let mut names: Vec<&OsStr> = hint.split(|byte| *byte == b'/').map(OsStr::from_bytes).collect();
    let last = names.pop()?;
    let proper = |name: &OsStr| !name.is_empty() && name != "." && name != ".." && name != CONTROL_DIR;
    if !names.iter().all(|name| proper(name)) || !proper(last) || names.len() > MAX_DEPTH {
        return None;
    }
    let mut dir = root.clone();
    for name in names {
        dir = dir.open_dir(name).ok()?;
    }
    let file = dir.open_file(last, Access::ReadWrite).ok()?;
    (file.stat().ok()?.dev == device && is_meant(&*file)).then_some(file)
}

/// Takes a regular file's directory, name and inode number; false if it has seen enough.
type Visit<'a> = dyn FnMut(&Arc<dyn BackingDir>, &OsStr, u64) -> io::Result<bool> + 'a;

/// Shows every regular file below a directory, with its inode number, until `visit` has seen enough.
fn search(
    dir: &Arc<dyn BackingDir>,
    device: u64,
    is_root: bool,
    depth: usize,
    visit: &mut Visit<'_>,
) -> io::Result<bool> {
    if depth > MAX_DEPTH || dir.stat(OsStr::new("."))?.dev != device {
        return Ok(true);
    }
    let mut below: Vec<OsString> = Vec::new();
    let mut stream = dir.list()?;
    while let Some(entry) = stream.next()? {
        if entry.name == "." || entry.name == ".." || (is_root && entry.name == CONTROL_DIR) {
            continue;
        }
        let kind = match entry.kind {
            Some(kind) => kind,
            None => match unless_absent(dir.stat(&entry.name))? {
                Some(stat) => stat.kind,
                None => continue,
            },
        };
        match kind {
            super::Kind::Dir => below.push(entry.name),
            super::Kind::File if !visit(dir, &entry.name, entry.ino)? => return Ok(false),
            _ => {}
        }
    }
    drop(stream);
    for name in below {
        let Some(child) = unless_absent(dir.open_dir(&name))? else { continue };
        if !search(&child, device, false, depth + 1, visit)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// `None` where there is nothing of that name and kind. Any other error ends the recovery, for what it would otherwise pass over
/// could be what was to be recovered.
fn unless_absent<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(error) => match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP | libc::EINVAL) => Ok(None),
            _ => Err(error),
        },
    }
}

/// Writes a file's images, length and mtime.
fn put_in_place(journal: &dyn BackingFile, target: &Target, file: &dyn BackingFile) -> io::Result<()> {
    for (block, (at, image)) in &target.images {
        let start = block * BLOCK as u64;
        // An image behind the end is of an earlier, longer state.
        if start + image.len as u64 > target.len {
            continue;
        }
        let mut bytes = vec![0; image.len];
        let stored = bytes.get_mut(..image.stored).unwrap_or_default();
        let got = journal.read_vectored_at(&mut [IoSliceMut::new(stored)], at + image.at as u64)?;
        if got != image.stored {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        file.write_all_vectored_at(&mut [IoSlice::new(&bytes)], start)?;
    }
    if file.stat()?.size != target.len {
        file.set_len(target.len)?;
    }
    if let Some(mtime) = target.mtime {
        // For looks; a daemon that does not own the file cannot.
        let _ = file.set_times(SetTime::Keep, SetTime::To(mtime));
    }
    Ok(())
}
