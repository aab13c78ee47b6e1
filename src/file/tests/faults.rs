//! The backing filesystem refuses, at each call in turn.

use super::*;
use crate::store::Durability;
use crate::store::mem::Faults;

/// One change, and what it makes of the contents.
#[derive(Debug, Clone, Copy)]
enum Change {
    Write(u64, usize),
    SetLen(u64),
    Punch(u64, u64),
    ZeroRange(u64, u64),
    Allocate(u64, u64),
    Commit,
}

use Change::*;

impl Change {
    fn apply(self, file: &File) -> Result<(), FileError> {
        match self {
            Write(offset, len) => file.write_at(offset, &pattern(offset ^ len as u64, len)),
            SetLen(len) => file.set_len(len),
            Punch(offset, len) => file.punch_hole(offset, len),
            ZeroRange(offset, len) => file.zero_range(offset, len, false),
            Allocate(offset, len) => file.allocate(offset, len, false),
            Commit => file.commit(Durability::Data),
        }
    }

    fn apply_to(self, model: &mut Vec<u8>) {
        match self {
            Write(offset, len) => {
                let end = offset as usize + len;
                model.resize(model.len().max(end), 0);
                model[offset as usize..end].copy_from_slice(&pattern(offset ^ len as u64, len));
            }
            SetLen(len) => model.resize(len as usize, 0),
            Punch(offset, len) => {
                let end = model.len().min((offset + len) as usize);
                if (offset as usize) < end {
                    model[offset as usize..end].fill(0);
                }
            }
            ZeroRange(offset, len) => {
                model.resize(model.len().max((offset + len) as usize), 0);
                model[offset as usize..(offset + len) as usize].fill(0);
            }
            Allocate(offset, len) => model.resize(model.len().max((offset + len) as usize), 0),
            Commit => {}
        }
    }
}

/// Through every form and back, over committed and uncommitted chunks.
const SERIES: &[Change] = &[
    Write(0, 100),
    Commit,
    Write(50, 3000),
    SetLen(2000),
    Commit,
    Write(3000, 9000),
    Commit,
    Write(4000, 5000),
    Write(11_500, 600),
    Write(520_000, 20_000),
    Commit,
    Write(500_000, 300_000),
    Punch(4096, 600_000),
    Write(8192, 8192),
    Commit,
    Write(8192, 8192),
    Write(8192, 4096),
    ZeroRange(700_000, 200_000),
    Commit,
    Allocate(1_000_000, 10_000),
    SetLen(600_001),
    Write(600_001, 10),
    SetLen(3_000),
    Write(100, 200),
    Commit,
    SetLen(700_000),
    Write(690_000, 10_000),
    Commit,
    SetLen(0),
    Write(0, 5000),
    Commit,
];

fn contents(file: &File) -> Vec<u8> {
    read(file, 0, file.len() as usize).expect("what was readable stays readable")
}

/// Runs the series with faults set just before change number `at`; returns the calls that change makes.
fn run(at: usize, faults: Faults) -> u64 {
    let raw = MemFile::new();
    let file = open_small(&raw).unwrap();
    let mut model = Vec::new();
    for change in &SERIES[..at] {
        change.apply(&file).unwrap();
        change.apply_to(&mut model);
    }
    let what = format!("{:?} (number {at}) with {faults:?}", SERIES[at]);
    let before = model.clone();
    raw.set_faults(faults);
    let outcome = SERIES[at].apply(&file);
    let calls = raw.calls();
    raw.set_faults(Faults::default());
    SERIES[at].apply_to(&mut model);
    match &outcome {
        Ok(()) => assert!(contents(&file) == model, "{what}: succeeded with other contents"),
        Err(FileError::Io(error)) => {
            assert_eq!(error.raw_os_error(), Some(faults.errno), "{what}");
            // Each byte is the old or the new one, in a size that is one of the two or between them.
            let now = contents(&file);
            let sizes = [before.len(), model.len()];
            assert!(sizes[0].min(sizes[1]) <= now.len() && now.len() <= sizes[0].max(sizes[1]), "{what}: size");
            let zeros = std::iter::repeat(&0);
            let allowed = before.iter().chain(zeros.clone()).zip(model.iter().chain(zeros));
            let wrong = now.iter().zip(allowed).position(|(byte, (old, new))| byte != old && byte != new);
            assert_eq!(wrong, None, "{what}: byte");
        }
        Err(error) => panic!("{what}: {error}"),
    }
    // When the disk is well again, a commit makes all of it durable as it is.
    let now = contents(&file);
    match file.commit(Durability::Data) {
        Ok(()) => {}
        // Unless what failed was a flush.
        Err(FileError::Io(error)) => assert!(
            matches!(SERIES[at], Commit) && outcome.is_err() && error.raw_os_error() == Some(faults.errno),
            "{what}: {error}"
        ),
        Err(error) => panic!("{what}: {error}"),
    }
    let again = open(&raw).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert!(contents(&again) == now, "{what}: reopened");
    assert_eq!(findings(&again), [], "{what}");
    assert_eq!(raw.len(), stored_len(now.len() as u64), "{what}");
    calls
}

#[test]
fn nothing_is_lost_when_any_call_fails() {
    for at in 0..SERIES.len() {
        let calls = run(at, Faults::default());
        for after in 0..calls {
            for torn in [0, 4096, 12_288] {
                for once in [true, false] {
                    run(at, Faults { after: Some(after), errno: libc::ENOSPC, once, torn, reads: false });
                }
            }
        }
    }
}

#[test]
fn nothing_is_lost_when_a_read_fails() {
    for at in 0..SERIES.len() {
        let calls = run(at, Faults { reads: true, ..Faults::default() });
        for after in 0..calls {
            run(at, Faults { after: Some(after), errno: libc::EIO, once: true, torn: 0, reads: true });
        }
    }
}

#[test]
fn a_write_that_runs_out_of_space_leaves_the_committed_file() {
    let raw = MemFile::new();
    let file = open(&raw).unwrap();
    // Whole chunks: growing would seal a shorter last one anew, over the committed one.
    let data = pattern(1, 12 * 4096);
    file.write_at(0, &data).unwrap();
    file.commit(Durability::Written).unwrap();
    for after in 0..4 {
        raw.set_faults(Faults { after: Some(after), errno: libc::ENOSPC, torn: 5000, ..Faults::default() });
        // Behind the end, so nothing committed is in the way.
        let result = file.write_at(1 << 20, &pattern(2, 2 << 20));
        assert!(matches!(result, Err(FileError::Io(error)) if error.raw_os_error() == Some(libc::ENOSPC)));
        let survivor = raw.copy();
        let again = open(&survivor).unwrap();
        assert!(again.excess());
        assert_eq!(read(&again, 0, 60_000).unwrap(), data);
        again.cut_excess().unwrap();
        assert_eq!(findings(&again), []);
        assert_eq!(survivor.len(), stored_len(12 * 4096));
    }
}

#[test]
fn a_failed_flush_is_never_forgotten() {
    let raw = MemFile::new();
    let file = open(&raw).unwrap();
    file.write_at(0, b"kept").unwrap();
    file.commit(Durability::Written).unwrap();
    raw.set_faults(Faults { after: Some(0), errno: libc::EIO, once: true, ..Faults::default() });
    for _ in 0..2 {
        let result = file.commit(Durability::Data);
        assert!(matches!(result, Err(FileError::Io(error)) if error.raw_os_error() == Some(libc::EIO)));
    }
    assert_eq!(read(&file, 0, 4).unwrap(), b"kept");
    file.commit(Durability::Written).unwrap();
}

#[test]
fn a_file_open_for_reading_refuses_changes() {
    for size in [0, 100, 10_000] {
        let raw = MemFile::new();
        let file = open(&raw).unwrap();
        let data = pattern(4, size);
        file.write_at(0, &data).unwrap();
        file.commit(Durability::Written).unwrap();
        raw.set_read_only(true);
        let file = open(&raw).unwrap();
        for change in [Write(5000, 10_000), Write(0, 4096), SetLen(20), Punch(0, 4096), Allocate(0, 20_000)] {
            let refused = change.apply(&file).and_then(|()| file.commit(Durability::Written));
            let untouched = size == 0 && matches!(change, Punch(..));
            if let Err(error) = refused {
                assert!(matches!(&error, FileError::Io(error) if error.raw_os_error() == Some(libc::EBADF)), "{error}");
            } else {
                assert!(untouched, "{change:?} of {size} bytes went through");
            }
        }
        assert_eq!(contents(&open(&raw).unwrap()), data);
    }
}
