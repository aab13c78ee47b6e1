#![doc = include_str!("audit.md")]

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::str::FromStr;

use jiff::Timestamp;
use rustix::fs::{FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::crypto::kdf;
use crate::crypto::secret::Secret;
use crate::keys::Credentials;
use crate::volume::{Unlocked, Volume, VolumeError};

/// Name of the log in the control directory.
pub const LOG_FILE: &str = "key-events.log";
/// What the first line has as the hash of the line before it begins with.
const GENESIS: &[u8] = b"envelopefs key events v1";
/// Longest line, its end not counted: a longer one is no event.
const MAX_LINE: usize = 8 << 10;
/// Longest free text in a line, in characters.
const MAX_TEXT: usize = 600;
/// What stands before the MAC, which is the last field of a line.
const BEFORE_MAC: &str = ",\"mac\":\"";

/// What was done, or tried, with a volume's keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)]
pub enum Operation {
    Init,
    Mount,
    Check,
    Unlock,
    SlotAdd,
    SlotRemove,
    SlotRebind,
    Rotate,
    Retire,
    Destroy,
    Recover,
    Takeover,
    Import,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Operation::Init => "init",
            Operation::Mount => "mount",
            Operation::Check => "check",
            Operation::Unlock => "unlock",
            Operation::SlotAdd => "slot-add",
            Operation::SlotRemove => "slot-remove",
            Operation::SlotRebind => "slot-rebind",
            Operation::Rotate => "rotate",
            Operation::Retire => "retire",
            Operation::Destroy => "destroy",
            Operation::Recover => "recover",
            Operation::Takeover => "takeover",
            Operation::Import => "import",
        })
    }
}

/// An event to be noted.
#[derive(Debug, Clone)]
pub struct Event {
    operation: Operation,
    slot: Option<u32>,
    key_version: Option<u32>,
    provider: Option<String>,
    failure: Option<String>,
}

impl Event {
    /// One that succeeded.
    pub fn new(operation: Operation) -> Self {
        Event { operation, slot: None, key_version: None, provider: None, failure: None }
    }

    /// About this slot.
    #[must_use]
    pub fn slot(mut self, slot: u32) -> Self {
        self.slot = Some(slot);
        self
    }

    /// About this version of the master key; without it, the active one.
    #[must_use]
    pub fn version(mut self, version: u32) -> Self {
        self.key_version = Some(version);
        self
    }

    /// With a provider of this kind; without it, that of the slot.
    #[must_use]
    pub fn provider(mut self, kind: &str) -> Self {
        self.provider = Some(kind.into());
        self
    }

    /// It failed, for this reason.
    #[must_use]
    pub fn failed(mut self, error: &dyn fmt::Display) -> Self {
        self.failure = Some(bounded(&error.to_string()));
        self
    }
}

/// A line of the log. The MAC, if any, follows as the last field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Line {
    /// Counts from 1.
    pub seq: u64,
    /// When.
    pub time: Timestamp,
    /// What.
    pub operation: Operation,
    /// True if it was done.
    pub ok: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The volume.
    pub volume: Uuid,
    /// Version of the master key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_version: Option<u32>,
    /// Number of the slot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<u32>,
    /// Kind of provider.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// Effective user.
    pub uid: u32,
    /// User who logged in (`/proc/self/loginuid`), whatever `su` and `sudo` did since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub login_uid: Option<u32>,
    /// Process.
    pub pid: u32,
    /// The program as it was called, without arguments.
    pub command: String,
    /// SHA-256 of the line before, without its end.
    pub previous: String,
    /// HMAC-SHA-256 of all before this field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
}

/// Notes an event in the volume's log; `keys` authenticate it. What was done is done whether or not it can be noted: a failure to note it goes to the
/// program's own log and to standard error.
pub fn note(volume: &Volume, keys: Option<&Unlocked>, event: Event) {
    if let Err(error) = append(volume, keys, event)
        && error.kind() != io::ErrorKind::ReadOnlyFilesystem
    {
        tracing::warn!("a key event could not be noted in {LOG_FILE}: {error}");
        eprintln!("envelopefs: warning: a key event could not be noted in .envelopefs/{LOG_FILE}: {error}");
    }
}

/// Notes the outcome of something done to the keys, and passes it on.
///
/// # Errors
/// Those of the outcome.
pub fn noted<T>(
    volume: &Volume,
    keys: &Unlocked,
    event: Event,
    outcome: Result<T, VolumeError>,
) -> Result<T, VolumeError> {
    let event = match &outcome {
        Ok(_) => event,
        Err(error) => event.failed(error),
    };
    note(volume, Some(keys), event);
    outcome
}

/// [Unlocks](Volume::unlock) a volume for an operation, and notes it if that failed. Success is noted where it is the whole of the operation, as for
/// a mount; what does something to the keys notes that itself.
///
/// # Errors
/// As [`Volume::unlock`].
pub fn unlock(
    volume: &Volume,
    operation: Operation,
    credentials: &Credentials,
    expected: Option<Uuid>,
) -> Result<Unlocked, VolumeError> {
    match volume.unlock(credentials, expected) {
        Ok(unlocked) => {
            if matches!(operation, Operation::Mount | Operation::Check | Operation::Unlock) {
                note(volume, Some(&unlocked), Event::new(operation).slot(unlocked.slot()));
            }
            Ok(unlocked)
        }
        Err(error) => {
            let kinds: Vec<&str> = credentials.iter().map(|provider| provider.kind()).collect();
            note(volume, None, Event::new(operation).provider(&kinds.join(" ")).failed(&error));
            Err(error)
        }
    }
}

fn append(volume: &Volume, keys: Option<&Unlocked>, event: Event) -> io::Result<()> {
    let description = volume.description();
    let uuid = description.uuid();
    let active = keys.and_then(|keys| keys.versions().first().copied());
    let mut file = open(volume, OFlags::RDWR | OFlags::CREATE)?;
    // Until the file is closed.
    rustix::io::retry_on_intr(|| rustix::fs::flock(&file, FlockOperation::LockExclusive))?;
    let end = End::of(&mut file, uuid)?;
    let of_slot = || {
        let slots = description.keys().iter().flat_map(|key| &key.slots);
        slots.filter(|slot| Some(slot.id) == event.slot).map(|slot| slot.provider.clone()).next()
    };
    let line = Line {
        seq: end.seq.saturating_add(1),
        time: Timestamp::now(),
        operation: event.operation,
        ok: event.failure.is_none(),
        reason: event.failure.clone(),
        volume: uuid,
        key_version: event.key_version.or(active),
        slot: event.slot,
        provider: event.provider.clone().or_else(of_slot),
        uid: rustix::process::geteuid().as_raw(),
        login_uid: login_uid(),
        pid: std::process::id(),
        command: bounded(&std::env::args_os().next().unwrap_or_default().to_string_lossy()),
        previous: end.hash,
        mac: None,
    };
    let mut bytes = Vec::new();
    if end.torn {
        bytes.push(b'\n');
    }
    bytes.extend_from_slice(&encode(&line, keys.map(|keys| keys.ring().audit_key()).as_deref())?);
    bytes.push(b'\n');
    file.seek(SeekFrom::End(0))?;
    file.write_all(&bytes)?;
    file.sync_all()?;
    if end.seq == 0 {
        rustix::fs::fsync(volume.control())?;
    }
    Ok(())
}

/// The bytes of a line without its end.
fn encode(line: &Line, key: Option<&Secret<32>>) -> io::Result<Vec<u8>> {
    let mut text = serde_json::to_string(line)?;
    if let Some(key) = key {
        // Before the closing brace.
        text.pop();
        let mac = kdf::mac(key, text.as_bytes());
        text = format!("{text}{BEFORE_MAC}{}\"}}", hex(&mac));
    }
    Ok(text.into_bytes())
}

fn open(volume: &Volume, flags: OFlags) -> io::Result<File> {
    // NONBLOCK: a FIFO in its place must not hang the command.
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let fd = rustix::fs::openat(volume.control(), LOG_FILE, flags, Mode::RUSR | Mode::WUSR)?;
    let stat = rustix::fs::fstat(&fd)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Ok(fd.into()),
        _ => Err(io::Error::other(format!("{LOG_FILE} is not a regular file"))),
    }
}

/// Where the log ends.
struct End {
    /// Number of the last event.
    seq: u64,
    /// What the next line has as the hash of the line before.
    hash: String,
    /// The last line has no end.
    torn: bool,
}

impl End {
    /// Looks at the last lines only.
    fn of(file: &mut File, volume: Uuid) -> io::Result<End> {
        const TAIL: u64 = 8 * MAX_LINE as u64;
        let len = file.metadata()?.len();
        let from = len.saturating_sub(TAIL);
        file.seek(SeekFrom::Start(from))?;
        let mut tail = Vec::new();
        Read::by_ref(file).take(TAIL).read_to_end(&mut tail)?;
        let torn = tail.last().is_some_and(|last| *last != b'\n');
        let body = tail.strip_suffix(b"\n").unwrap_or(&tail);
        if body.is_empty() && len == 0 {
            return Ok(End { seq: 0, hash: genesis(volume), torn: false });
        }
        let mut lines = body.rsplit(|byte| *byte == b'\n');
        let last = lines.next().unwrap_or_default();
        let numbered = std::iter::once(last).chain(lines).find_map(|line| serde_json::from_slice::<Line>(line).ok());
        Ok(End { seq: numbered.map_or(0, |line| line.seq), hash: digest(last), torn })
    }
}

fn genesis(volume: Uuid) -> String {
    digest(&[GENESIS, volume.as_bytes()].concat())
}

fn digest(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    use fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 || !text.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(bytes)
}

fn bounded(text: &str) -> String {
    text.chars().take(MAX_TEXT).collect()
}

fn login_uid() -> Option<u32> {
    let text = std::fs::read_to_string("/proc/self/loginuid").ok()?;
    text.trim().parse().ok().filter(|uid| *uid != u32::MAX)
}

/// A line of the log by number and hash, noted elsewhere: proof that the log went at least so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Number of the event.
    pub seq: u64,
    /// SHA-256 of its line, in hexadecimal digits.
    pub hash: String,
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.seq, self.hash)
    }
}

impl FromStr for Head {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = "a head has the form NUMBER:SHA256, as audit verify prints it";
        let (seq, hash) = text.split_once(':').ok_or(wrong)?;
        unhex(hash).ok_or(wrong)?;
        Ok(Head { seq: seq.parse().map_err(|_| wrong)?, hash: hash.into() })
    }
}

/// What a verified log holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// Events.
    pub events: u64,
    /// Those with a MAC that was verified.
    pub authenticated: u64,
    /// Events behind the last one with a MAC: only their chain could be verified.
    pub unconfirmed: u64,
    /// Lines (from 1) that were not written whole.
    pub torn: Vec<u64>,
    /// The last event.
    pub head: Option<Head>,
}

/// What is wrong with a log, first.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// It cannot be read.
    #[error("cannot read {LOG_FILE}")]
    Io(#[from] io::Error),
    /// A line is not what was written.
    #[error("line {line}: {what}")]
    #[allow(missing_docs)]
    Line { line: u64, what: &'static str },
    /// A line that was there is gone.
    #[error("the event {0} that was noted elsewhere is not in the log: its end was cut off, or it was replaced")]
    Cut(Head),
}

/// Reads the log of a volume; empty if there is none.
///
/// # Errors
/// Those of the filesystem.
pub fn read(volume: &Volume) -> io::Result<Box<dyn BufRead>> {
    match open(volume, OFlags::RDONLY) {
        Ok(file) => Ok(Box::new(BufReader::new(file))),
        Err(error) if error.raw_os_error() == Some(Errno::NOENT.raw_os_error()) => Ok(Box::new(io::empty())),
        Err(error) => Err(error),
    }
}

/// Verifies a log: numbers, chain and, with the `key` of [`crate::keys::KeyRing::audit_key`], MACs. `expected` is a head noted earlier.
/// `show` gets each event.
///
/// # Errors
/// The first [`Fault`].
pub fn verify(
    mut log: impl BufRead,
    volume: Uuid,
    key: Option<&Secret<32>>,
    expected: Option<&Head>,
    mut show: impl FnMut(&Line, &[u8]),
) -> Result<Verified, Fault> {
    let mut verified = Verified { events: 0, authenticated: 0, unconfirmed: 0, torn: Vec::new(), head: None };
    let (mut previous, mut found) = (genesis(volume), expected.is_none());
    let mut bytes = Vec::new();
    for line in 1.. {
        bytes.clear();
        Read::by_ref(&mut log).take(MAX_LINE as u64 + 1).read_until(b'\n', &mut bytes)?;
        let Some(last) = bytes.last() else { break };
        let has_end = *last == b'\n';
        let fault = |what| Fault::Line { line, what };
        if !has_end && bytes.len() > MAX_LINE {
            return Err(fault("it is too long to be an event"));
        }
        let text = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
        let hash = digest(text);
        let Ok(event) = serde_json::from_slice::<Line>(text) else {
            // A line that a crash cut has no closing brace; the next one begins on a line of its own and continues the chain over it.
            if text.ends_with(b"}") {
                return Err(fault("it is not an event"));
            }
            verified.torn.push(line);
            previous = hash;
            continue;
        };
        if event.volume != volume {
            return Err(fault("it is of another volume"));
        }
        if event.seq != verified.events + 1 {
            return Err(fault("events are missing before it, or repeated: its number does not follow"));
        }
        if event.previous != previous {
            return Err(fault("the chain is broken: this line or the one before it was changed"));
        }
        verified.events += 1;
        verified.unconfirmed += 1;
        if let (Some(mac), Some(key)) = (&event.mac, key) {
            let end = format!("{BEFORE_MAC}{mac}\"}}");
            let covered = text.strip_suffix(end.as_bytes()).ok_or(fault("its MAC is not the last field"))?;
            let mac = unhex(mac).ok_or(fault("its MAC is not one"))?;
            kdf::verify_mac(key, covered, &mac).map_err(|_| fault("its MAC is wrong: it was changed"))?;
            verified.authenticated += 1;
            verified.unconfirmed = 0;
        } else if event.mac.is_none() && event.ok {
            // Success needs the keys, and whoever has them authenticates.
            return Err(fault("it tells of a success and has no MAC"));
        }
        if let Some(expected) = expected {
            found |= expected.seq == event.seq && expected.hash == hash;
        }
        show(&event, text);
        previous = hash.clone();
        verified.head = Some(Head { seq: event.seq, hash });
    }
    match expected.filter(|_| !found) {
        Some(expected) => Err(Fault::Cut(expected.clone())),
        None => Ok(verified),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::keys::{KeyFile, KeyProvider};
    use crate::volume::NewSlot;

    struct Fixture {
        _dir: tempfile::TempDir,
        backing: std::path::PathBuf,
        volume: Volume,
        keys: Unlocked,
    }

    impl Fixture {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let backing = dir.path().join("b");
            std::fs::create_dir(&backing).unwrap();
            let provider = KeyFile::create(&dir.path().join("key")).unwrap();
            let (volume, keys) = Volume::create(&backing, &[NewSlot { provider: &provider, label: "" }]).unwrap();
            note(&volume, Some(&keys), Event::new(Operation::Init).slot(1));
            Fixture { backing, volume, keys, _dir: dir }
        }

        fn path(&self) -> std::path::PathBuf {
            self.backing.join(".envelopefs").join(LOG_FILE)
        }

        fn bytes(&self) -> Vec<u8> {
            std::fs::read(self.path()).unwrap()
        }

        fn note(&self, event: Event) {
            note(&self.volume, Some(&self.keys), event);
        }

        fn verify_with(&self, bytes: &[u8], expected: Option<&Head>) -> Result<Verified, Fault> {
            let key = self.keys.ring().audit_key();
            verify(bytes, self.volume.description().uuid(), Some(&*key), expected, |_, _| ())
        }

        fn verify(&self) -> Result<Verified, Fault> {
            self.verify_with(&self.bytes(), None)
        }

        /// Three events with a MAC, a failure without one between them.
        fn filled() -> Self {
            let log = Self::new();
            log.note(Event::new(Operation::SlotAdd).slot(2).provider("passphrase"));
            let wrong = KeyFile::create(&log.backing.parent().unwrap().join("wrong")).unwrap();
            let credentials = [Box::new(wrong) as Box<dyn KeyProvider>];
            unlock(&log.volume, Operation::Mount, &credentials, None).unwrap_err();
            log.note(Event::new(Operation::Destroy).version(7).failed(&"because"));
            log
        }
    }

    #[test]
    fn what_is_noted_is_read_and_verified() {
        let log = Fixture::filled();
        let verified = log.verify().unwrap();
        assert_eq!((verified.events, verified.authenticated, verified.unconfirmed), (4, 3, 0));
        assert!(verified.torn.is_empty());
        let mut lines = Vec::new();
        let uuid = log.volume.description().uuid();
        verify(&log.bytes()[..], uuid, None, None, |line, _| lines.push(line.clone())).unwrap();
        let of = |at: usize| (lines[at].operation, lines[at].ok, lines[at].slot, lines[at].key_version);
        assert_eq!(of(0), (Operation::Init, true, Some(1), Some(1)));
        assert_eq!(of(1), (Operation::SlotAdd, true, Some(2), Some(1)));
        assert_eq!(of(2), (Operation::Mount, false, None, None));
        assert_eq!(of(3), (Operation::Destroy, false, None, Some(7)));
        assert_eq!(lines[0].provider.as_deref(), Some("key-file"), "that of the slot");
        assert_eq!(lines[2].provider.as_deref(), Some("key-file"));
        assert_eq!((lines[0].pid, lines[0].uid), (std::process::id(), rustix::process::geteuid().as_raw()));
        assert_eq!(lines[3].reason.as_deref(), Some("because"));
        assert!(lines[2].mac.is_none() && lines[3].mac.is_some());
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(std::fs::metadata(log.path()).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn every_changed_byte_is_found_and_its_line_named() {
        let log = Fixture::filled();
        let bytes = log.bytes();
        let line_of = |at: usize| 1 + bytes[..at].iter().filter(|byte| **byte == b'\n').count() as u64;
        // Without its last brace the last line is one that a crash tore.
        for at in 0..bytes.len() - 2 {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            match log.verify_with(&changed, None) {
                Err(Fault::Line { line, .. }) => {
                    assert!(line == line_of(at) || line == line_of(at) + 1, "byte {at}: line {line}")
                }
                other => panic!("byte {at}: {other:?}"),
            }
        }
    }

    #[test]
    fn lines_removed_swapped_repeated_or_put_in_are_found() {
        let log = Fixture::filled();
        let bytes = log.bytes();
        let lines: Vec<&[u8]> = bytes.split_inclusive(|byte| *byte == b'\n').collect();
        let is_fault = |lines: &[&[u8]]| matches!(log.verify_with(&lines.concat(), None), Err(Fault::Line { .. }));
        for at in 0..lines.len() - 1 {
            let mut fewer = lines.clone();
            fewer.remove(at);
            assert!(is_fault(&fewer), "without line {}", at + 1);
            let mut swapped = lines.clone();
            swapped.swap(at, at + 1);
            assert!(is_fault(&swapped), "line {} swapped", at + 1);
            let mut twice = lines.clone();
            twice.insert(at, lines[at]);
            assert!(is_fault(&twice), "line {} twice", at + 1);
        }
        // The whole log, or its beginning, from another volume.
        let other = Fixture::filled();
        assert!(matches!(log.verify_with(&other.bytes(), None), Err(Fault::Line { line: 1, .. })));
        // Without the key a chain can be made for changed lines; the MACs tell.
        let mut forged: Line = serde_json::from_slice(lines[1].strip_suffix(b"\n").unwrap()).unwrap();
        forged.slot = Some(9);
        let mut text = serde_json::to_vec(&forged).unwrap();
        text.push(b'\n');
        let mut all = [lines[0], &text].concat();
        assert!(matches!(log.verify_with(&all, None), Err(Fault::Line { line: 2, .. })));
        forged.mac = None;
        all = [lines[0], &serde_json::to_vec(&forged).unwrap()].concat();
        let error = log.verify_with(&all, None).unwrap_err().to_string();
        assert!(error.contains("success and has no MAC"), "{error}");
    }

    #[test]
    fn a_cut_end_is_found_by_a_head_noted_elsewhere() {
        let log = Fixture::filled();
        let head = log.verify().unwrap().head.unwrap();
        assert_eq!(head.to_string().parse::<Head>().unwrap(), head);
        let bytes = log.bytes();
        log.verify_with(&bytes, Some(&head)).unwrap();
        log.note(Event::new(Operation::Rotate).version(2));
        log.verify_with(&log.bytes(), Some(&head)).unwrap();
        let cut = bytes.iter().rposition(|byte| *byte == b',').unwrap();
        let cut = bytes[..cut].iter().rposition(|byte| *byte == b'\n').unwrap() + 1;
        assert!(log.verify_with(&bytes[..cut], None).is_ok(), "nothing in the log itself tells");
        assert!(matches!(log.verify_with(&bytes[..cut], Some(&head)), Err(Fault::Cut(_))));
        assert!(matches!(log.verify_with(b"", Some(&head)), Err(Fault::Cut(_))));
        for bad in ["", "1", "1:", "x:00", "1:zz"] {
            assert!(bad.parse::<Head>().is_err());
        }
    }

    #[test]
    fn a_line_that_a_crash_tore_is_told_and_the_log_goes_on() {
        let log = Fixture::filled();
        let whole = log.bytes();
        for cut in [1, 5, 60, 200] {
            std::fs::write(log.path(), &whole[..whole.len() - cut]).unwrap();
            let torn = if cut > 1 { vec![4] } else { vec![] };
            assert_eq!(log.verify().unwrap().torn, torn, "{cut}");
            log.note(Event::new(Operation::Rotate));
            let verified = log.verify().unwrap();
            assert_eq!(verified.torn, torn);
            assert_eq!(verified.events, if cut > 1 { 4 } else { 5 });
        }
    }

    #[test]
    fn several_writers_make_one_chain() {
        let log = Fixture::new();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..10).for_each(|_| log.note(Event::new(Operation::Mount))));
            }
        });
        assert_eq!(log.verify().unwrap().events, 41);
    }

    #[test]
    fn what_is_no_log_is_not_followed_or_written_to() {
        let log = Fixture::new();
        let elsewhere = log.backing.parent().unwrap().join("elsewhere");
        std::fs::write(&elsewhere, "").unwrap();
        std::fs::remove_file(log.path()).unwrap();
        std::os::unix::fs::symlink(&elsewhere, log.path()).unwrap();
        log.note(Event::new(Operation::Rotate));
        assert!(std::fs::read(&elsewhere).unwrap().is_empty());
        assert!(read(&log.volume).is_err());
        std::fs::remove_file(log.path()).unwrap();
        let mut text = String::new();
        read(&log.volume).unwrap().read_to_string(&mut text).unwrap();
        assert!(text.is_empty());
    }

    proptest! {
        #[test]
        fn any_bytes_are_verified_without_harm(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = verify(&bytes[..], Uuid::nil(), None, None, |_, _| ());
        }
    }
}
