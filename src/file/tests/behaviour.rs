//! What users of a file notice beyond its bytes: times, leftovers of a crash, threads, memory.

use std::thread;

use super::*;
use crate::store::Durability;

const T0: Timestamp = Timestamp { secs: 1_000_000_000, nanos: 123_456_789 };

#[test]
fn a_commit_does_not_move_the_mtime() {
    for size in [10, 10_000] {
        let raw = MemFile::new();
        let file = open(&raw).unwrap();
        file.write_at(0, &pattern(1, size)).unwrap();
        let written = file.stat().unwrap().mtime;
        file.commit(Durability::Full).unwrap();
        assert_eq!(file.stat().unwrap().mtime, written);
        assert_eq!(raw.stat().unwrap().mtime, written);

        file.set_mtime(T0).unwrap();
        assert_eq!(raw.stat().unwrap().mtime, T0);
        file.commit(Durability::Written).unwrap();
        assert_eq!((file.stat().unwrap().mtime, raw.stat().unwrap().mtime), (T0, T0));

        file.write_at(0, b"by a program").unwrap();
        let later = Timestamp { secs: T0.secs + 5, ..T0 };
        file.set_mtime(later).unwrap();
        file.commit(Durability::Written).unwrap();
        assert_eq!(raw.stat().unwrap().mtime, later);

        file.write_at(0, b"by a program").unwrap();
        assert!(file.stat().unwrap().mtime > later);
    }
}

#[test]
fn attributes_are_of_before_a_change_that_is_under_way() {
    let file = open(&MemFile::new()).unwrap();
    file.write_at(0, &pattern(1, 10_000)).unwrap();
    let before = file.stat().unwrap();
    let mut under_way = file.writing();
    file.set_len_locked(&mut under_way, 50_000).unwrap();
    let shown = file.stat().unwrap();
    assert_eq!((shown.size, shown.mtime), (10_000, before.mtime));
    drop(under_way);
    assert_eq!(file.stat().unwrap().size, 50_000);
}

#[test]
fn a_new_small_file_is_one_write() {
    let raw = MemFile::new();
    let file = open(&raw).unwrap();
    file.write_at(0, b"KEY=value\n").unwrap();
    assert_eq!(raw.calls(), 0);
    file.commit(Durability::Written).unwrap();
    assert_eq!(raw.calls(), 1);
    assert_eq!(raw.len(), 294);
    file.commit(Durability::Written).unwrap();
    assert_eq!(raw.calls(), 1);
}

#[test]
fn a_huge_sparse_extension_costs_a_call_or_two() {
    let raw = MemFile::new();
    let file = open(&raw).unwrap();
    file.write_at(0, &pattern(1, 5000)).unwrap();
    file.commit(Durability::Written).unwrap();
    raw.set_faults(Default::default());
    file.set_len(8 << 40).unwrap();
    assert!(raw.calls() <= 2, "{}", raw.calls());
    file.commit(Durability::Written).unwrap();
    assert_eq!(raw.len(), stored_len(8 << 40));
    let file = open(&raw).unwrap();
    file.write_at(7 << 40, b"far").unwrap();
    assert_eq!(file.seek_data(8192).unwrap(), Some(7 << 40));
    assert_eq!(file.seek_hole(7 << 40).unwrap(), Some((7 << 40) + 4096));
    assert_eq!(file.seek_data((7 << 40) + 4096).unwrap(), None);
    file.punch_hole(0, 8 << 40).unwrap();
    assert_eq!(file.seek_data(0).unwrap(), None);
    assert_eq!(raw.stored_pages(), [0]);
    assert_eq!(findings(&open(&raw).unwrap()), []);
    assert!(matches!(file.set_len(u64::MAX), Err(FileError::TooLarge)));
    assert!(matches!(file.write_at(MAX_LEN - 1, b"xx"), Err(FileError::TooLarge)));
    assert!(matches!(file.write_at(u64::MAX, b"xx"), Err(FileError::TooLarge)));
    assert_eq!(read(&file, u64::MAX, 10).unwrap(), b"");
}

#[test]
fn a_file_whose_first_header_was_never_written_is_empty() {
    let raw = MemFile::new();
    let file = open(&raw).unwrap();
    file.write_at(0, &pattern(1, 100_000)).unwrap();
    drop(file);
    assert!(!raw.is_empty());
    let file = open(&raw).unwrap();
    assert!(file.excess() && file.is_empty());
    assert_eq!(findings(&file).len(), 1);
    file.cut_excess().unwrap();
    assert!(raw.is_empty() && !file.excess());
    assert_eq!(findings(&file), []);
}

#[test]
fn leftovers_of_a_length_change_are_cut() {
    // (size before, size after): the header of the second with the length of the first.
    for (before, after) in [(3000u64, 1000u64), (100_000, 1000), (100_000, 5000), (5000, 3812), (600_000, 4096)] {
        let raw = MemFile::new();
        let file = open(&raw).unwrap();
        let data = pattern(before, before as usize);
        file.write_at(0, &data).unwrap();
        file.commit(Durability::Written).unwrap();
        let long = raw.copy();
        file.set_len(after).unwrap();
        let crashed = raw.copy();
        crashed.overwrite(raw.len(), &long.bytes(raw.len(), (long.len() - raw.len()) as usize));
        let file = open(&crashed).unwrap_or_else(|error| panic!("{before} to {after}: {error}"));
        assert!(file.excess());
        assert_eq!(file.len(), after);
        assert_eq!(read(&file, 0, before as usize).unwrap(), data[..after as usize]);
        // Written to without being cut first, the tail reads as zeros.
        file.set_len(after + 10).unwrap();
        assert_eq!(read(&file, after, 20).unwrap(), [0; 10]);
        file.commit(Durability::Written).unwrap();
        assert!(!file.excess());
        assert_eq!(crashed.len(), stored_len(after + 10));
        assert_eq!(findings(&file), []);
    }
}

#[test]
fn readers_writers_and_commits_run_side_by_side() {
    const PART: usize = 300_000;
    let raw = MemFile::new();
    let file = open_small(&raw).unwrap();
    thread::scope(|scope| {
        for part in 0..4u64 {
            let file = &file;
            scope.spawn(move || {
                let start = part * PART as u64;
                let mut buf = Vec::new();
                for round in 0..15 {
                    let data = pattern(part * 100 + round, PART);
                    for (n, piece) in data.chunks(70_001).enumerate() {
                        file.write_at(start + n as u64 * 70_001, piece).unwrap();
                    }
                    let range = file.read_at(start, PART, &mut buf).unwrap();
                    assert!(buf[range] == data, "part {part}, round {round}");
                    if round % 4 == part % 4 {
                        file.commit(Durability::Data).unwrap();
                    }
                }
            });
        }
        let file = &file;
        scope.spawn(move || {
            for _ in 0..60 {
                let size = file.len();
                let _ = (file.seek_hole(0).unwrap(), read(file, 0, size as usize).unwrap(), file.stat().unwrap());
            }
        });
    });
    file.commit(Durability::Data).unwrap();
    let file = open(&raw).unwrap();
    for part in 0..4u64 {
        assert!(read(&file, part * PART as u64, PART).unwrap() == pattern(part * 100 + 14, PART));
    }
    assert_eq!(findings(&file), []);
}

#[test]
fn pending_nodes_are_bounded() {
    let raw = MemFile::new();
    let file = open_small(&raw).unwrap();
    for group in 0..200u64 {
        file.write_at(group * 128 * 4096, b"one chunk of each group").unwrap();
        assert!(file.dirty_bytes() <= 36 * BLOCK, "{}", file.dirty_bytes());
    }
    file.commit(Durability::Written).unwrap();
    assert_eq!(findings(&open(&raw).unwrap()), []);
}

#[test]
fn a_file_lives_through_many_epochs() {
    let raw = MemFile::new();
    let mut expected = Vec::new();
    for round in 0..40 {
        let file = open_small(&raw).unwrap();
        let data = pattern(round, 30 * 4096);
        file.write_at(round * 100_000, &data).unwrap();
        expected.resize(round as usize * 100_000, 0);
        expected.extend_from_slice(&data);
        file.commit(Durability::Written).unwrap();
        assert!(contents_equal(&open_small(&raw).unwrap(), &expected));
    }
    let epoch = u32::from_le_bytes(raw.bytes(12, 4).try_into().unwrap());
    assert!(epoch >= 20, "{epoch}");
    assert_eq!(findings(&open(&raw).unwrap()), []);
}

fn contents_equal(file: &File, expected: &[u8]) -> bool {
    read(file, 0, expected.len() + 1).unwrap() == expected
}

#[test]
fn writing_through_a_reopened_file_works() {
    let raw = MemFile::new();
    let file = open(&raw).unwrap();
    raw.set_read_only(true);
    file.set_len(10_000).unwrap_err();
    let wider = raw.copy();
    file.reopened(wider.clone());
    file.write_at(0, b"now").unwrap();
    file.commit(Durability::Written).unwrap();
    assert_eq!(read(&open(&wider).unwrap(), 0, 3).unwrap(), b"now");
}

#[test]
fn debug_output_tells_no_secrets() {
    let raw = MemFile::new();
    let file = open(&raw).unwrap();
    file.write_at(0, b"SECRET").unwrap();
    let shown = format!("{file:?}");
    assert!(!shown.contains("SECRET") && !shown.contains("83, 69") && !shown.contains("dek"), "{shown}");
}

#[test]
fn a_large_read_is_one_call() {
    let raw = MemFile::new();
    let file = open(&raw).unwrap();
    let data = pattern(8, 4 << 20);
    file.write_at(0, &data).unwrap();
    file.commit(Durability::Written).unwrap();
    raw.set_faults(crate::store::mem::Faults { reads: true, ..Default::default() });
    for (offset, len) in [(0, 1 << 20), (1 << 20, 1 << 20), (5, (1 << 20) + 4000), (500_000, 3 << 20)] {
        let before = raw.calls();
        assert!(read(&file, offset, len).unwrap() == data[offset as usize..offset as usize + len]);
        assert_eq!(raw.calls() - before, 1, "{len} bytes at {offset}");
    }
}
