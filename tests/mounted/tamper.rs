//! Somebody else writes to the backing directory: through the mount every read gives the right bytes or EIO, and `check` names
//! the file. This samples, end to end, what the tests beside the format's code go through exhaustively. Contents and headers are
//! here, the rest is in `tamper_names`.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::SeekFrom;

use crate::common::{PROGRAM, Volume, flip, run, succeed, text};
use crate::volumes;

const BLOCK: u64 = 4096;
const GIB: u64 = 1 << 30;

/// Where in a plain file data stands, as (offset, bytes): all of it for a dense file.
type Extents = Vec<(u64, Vec<u8>)>;

fn noise(seed: u32, size: usize) -> Vec<u8> {
    (0..size as u32).map(|i| ((i ^ seed).wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

fn files(version: u32) -> BTreeMap<&'static str, Extents> {
    let sparse = vec![
        (0, noise(version, 10_000)),
        (10 * GIB + 5, noise(version + 1, 600_000)),
        (20 * GIB - 5_000, noise(version + 2, 5_000)),
    ];
    BTreeMap::from([
        ("empty", vec![]),
        ("inline-100", vec![(0, noise(version + 3, 100))]),
        ("chunk-4k", vec![(0, noise(version + 4, 4096))]),
        ("dense-1m", vec![(0, noise(version + 5, 1 << 20))]),
        ("sparse-20g", sparse),
    ])
}

/// A volume with the files, their backing paths, and the backing files as they were one version earlier.
struct Victim {
    volume: Volume,
    backing: BTreeMap<&'static str, PathBuf>,
    stale: BTreeMap<&'static str, PathBuf>,
}

impl Victim {
    fn new() -> Victim {
        let volume = Volume::new();
        let mut backing = BTreeMap::new();
        let mut stale = BTreeMap::new();
        for version in [1, 1000] {
            let mount = volume.mount();
            for (name, extents) in files(version) {
                let path = mount.path().join(name);
                let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path).unwrap();
                extents.iter().for_each(|(offset, data)| file.write_all_at(data, *offset).unwrap());
                file.sync_all().unwrap();
                backing.insert(name, backing_path(volume.backing(), file.metadata().unwrap().ino()));
            }
            mount.unmount();
            if version == 1 {
                for (name, path) in &backing {
                    let copy = volume.dir().join(format!("stale-{name}"));
                    succeed(Command::new("cp").arg("--sparse=always").arg(path).arg(&copy));
                    stale.insert(*name, copy);
                }
            }
        }
        volume.assert_clean();
        Victim { volume, backing, stale }
    }

    /// Applies one change to a backing file, reads the plain file through a fresh mount, runs `check`, and puts all back.
    ///
    /// The read must give the right bytes or EIO. With `must_notice`, `check` must name the file whatever the read gave; without, it
    /// must if the read failed.
    fn after(&self, name: &'static str, change: &str, must_notice: bool, apply: impl FnOnce(&Path)) {
        let path = &self.backing[name];
        let saved = self.volume.dir().join("saved");
        succeed(Command::new("cp").args(["--sparse=always", "--preserve"]).arg(path).arg(&saved));
        apply(path);
        let check = self.volume.check();
        let mount = self.volume.mount_with("ro");
        let failed = !read_is_right(&mount.path().join(name), &files(1000)[name], name, change);
        for (other, extents) in files(1000) {
            if other != name && other != "sparse-20g" {
                assert!(read_is_right(&mount.path().join(other), &extents, other, change), "{other} is unharmed");
            }
        }
        mount.unmount();
        if must_notice || failed {
            assert!(
                check.status.code().is_some_and(|code| code == DAMAGED),
                "check after: {change} of {name}: {}",
                text(&check)
            );
            assert!(text(&check).contains(name), "check names {name} after: {change}: {}", text(&check));
        }
        // In place: the inode must stay what it is.
        succeed(Command::new("cp").args(["--sparse=always", "--no-preserve=all"]).arg(&saved).arg(path));
    }

    /// First, middle and last byte of each allocated block of a backing file, at most `limit` blocks evenly taken.
    fn places(&self, name: &'static str, limit: usize) -> Vec<u64> {
        let file = File::open(&self.backing[name]).unwrap();
        let length = file.metadata().unwrap().len();
        let mut blocks = Vec::new();
        let mut at = 0;
        while let Ok(start) = rustix::fs::seek(&file, SeekFrom::Data(at)) {
            let end = rustix::fs::seek(&file, SeekFrom::Hole(start)).unwrap();
            blocks.extend((start / BLOCK..end.div_ceil(BLOCK)).map(|block| block * BLOCK));
            at = end;
        }
        let step = blocks.len().div_ceil(limit);
        blocks
            .iter()
            .step_by(step)
            .flat_map(|&at| [at, (at + 2000).min(length - 1), (at + 4095).min(length - 1)])
            .collect()
    }
}

/// The exit code of `check` for damage.
pub(crate) const DAMAGED: i32 = 4;

pub(crate) fn backing_path(backing: &Path, inode: u64) -> PathBuf {
    let found = succeed(Command::new("find").arg(backing).args(["-inum", &inode.to_string()]));
    PathBuf::from(found.trim())
}

/// True if the file reads as it should, false if it fails with EIO; anything else fails the test.
fn read_is_right(path: &Path, want: &Extents, name: &str, change: &str) -> bool {
    // ENOKEY if it is the id of the wrapping key that was changed: as if the key had been removed from the volume.
    let eio = |error: std::io::Error| {
        let errno = error.raw_os_error();
        assert!(matches!(errno, Some(libc::EIO | libc::ENOKEY)), "reading {name} after: {change}: {error}");
        false
    };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) => return eio(error),
    };
    if name != "sparse-20g" {
        return match fs::read(path) {
            Ok(data) => {
                let want = want.first().map_or(&[][..], |(_, data)| data);
                assert!(data == want, "{name} gives wrong bytes after: {change}");
                true
            }
            Err(error) => eio(error),
        };
    }
    // In pieces, the holes sampled: one bad piece fails the file, the others must still be right or EIO.
    let mut right = true;
    let mut piece = |offset: u64, want: &[u8]| {
        let mut data = vec![0xa5; want.len()];
        match file.read_exact_at(&mut data, offset) {
            Ok(()) => assert!(data == want, "{name} gives wrong bytes at {offset} after: {change}"),
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                panic!("{name} is short after: {change}")
            }
            Err(error) => right = eio(error),
        }
    };
    for (offset, data) in want {
        for (i, part) in data.chunks(50_000).enumerate() {
            piece(offset + i as u64 * 50_000, part);
        }
    }
    for hole in [1 << 20, GIB, 10 * GIB - 4096, 15 * GIB, 20 * GIB - 100_000] {
        piece(hole, &[0; 4096]);
    }
    right
}

fn copy_block(from: &Path, from_block: u64, to: &Path, to_block: u64) {
    let mut block = vec![0; BLOCK as usize];
    let got = File::open(from).unwrap().read_at(&mut block, from_block * BLOCK).unwrap();
    OpenOptions::new().write(true).open(to).unwrap().write_all_at(&block[..got], to_block * BLOCK).unwrap();
}

#[test]
fn flipped_bytes_are_eio_and_named() {
    if !volumes() {
        return;
    }
    let victim = Victim::new();
    // Magic, version, flags, epoch, file id, both wrapped-DEK places, nonce, tag, root record.
    let header = [0, 8, 10, 12, 16, 31, 32, 60, 107, 108, 183, 184, 196, 212, 283];
    for name in ["inline-100", "chunk-4k", "dense-1m", "sparse-20g"] {
        let mut places = header.to_vec();
        places.extend(victim.places(name, 8));
        if name == "inline-100" {
            places.extend([284, 330, 383]);
        }
        places.sort();
        places.dedup();
        for offset in places {
            victim.after(name, &format!("flip at {offset}"), true, |path| flip(path, offset));
        }
    }
}

#[test]
fn cut_and_extended_files_are_right_or_eio() {
    if !volumes() {
        return;
    }
    let victim = Victim::new();
    let set_len =
        |path: &Path, length: u64| OpenOptions::new().write(true).open(path).unwrap().set_len(length).unwrap();
    for name in ["inline-100", "chunk-4k", "dense-1m", "sparse-20g"] {
        let length = fs::metadata(&victim.backing[name]).unwrap().len();
        // Cut to nothing it is an empty file, which no header can contradict: an older state of the whole file (see README).
        for cut in [1, 100, length / 2 / BLOCK * BLOCK, length.saturating_sub(BLOCK), length - 1] {
            if cut > 0 && cut < length {
                victim.after(name, &format!("cut to {cut}"), true, |path| set_len(path, cut));
            }
        }
        // Longer is what an interrupted truncation leaves behind: the sealed size holds.
        for extra in [1, 100, BLOCK, 129 * BLOCK] {
            victim.after(name, &format!("{extra} bytes of hole appended"), false, |path| set_len(path, length + extra));
            victim.after(name, &format!("{extra} bytes of noise appended"), false, |path| {
                OpenOptions::new()
                    .write(true)
                    .open(path)
                    .unwrap()
                    .write_all_at(&noise(9, extra as usize), length)
                    .unwrap();
            });
        }
        victim.after(name, "its last block appended again", false, |path| {
            let last = (length - 1) / BLOCK;
            copy_block(path, last, path, last + 1);
        });
    }
    for extra in [1, 284, 300, 5_000] {
        victim.after("empty", &format!("{extra} bytes of noise in an empty file"), true, |path| {
            fs::write(path, noise(10, extra)).unwrap();
        });
    }
}

#[test]
fn exchanged_and_moved_blocks_are_eio_and_named() {
    if !volumes() {
        return;
    }
    let victim = Victim::new();
    for (change, from, to) in [
        ("chunk 1 over chunk 0", 3, 2),
        ("chunk 0 over the last of its group", 2, 129),
        ("a chunk over the leaf", 2, 1),
        ("the leaf over a chunk", 1, 2),
        ("leaf over leaf", 1, 131),
    ] {
        victim.after("dense-1m", change, true, |path| copy_block(path, from, path, to));
    }
    victim.after("dense-1m", "two chunks exchanged", true, |path| {
        let other = path.with_extension("copy");
        fs::copy(path, &other).unwrap();
        copy_block(&other, 10, path, 20);
        copy_block(&other, 20, path, 10);
        fs::remove_file(&other).unwrap();
    });
    // Between files, at the same position.
    for block in [0, 1, 2] {
        let from = victim.backing["chunk-4k"].clone();
        victim.after("dense-1m", &format!("block {block} of another file"), true, |path| {
            copy_block(&from, block, path, block)
        });
    }
}

#[test]
fn stale_blocks_are_eio_and_named() {
    if !volumes() {
        return;
    }
    let victim = Victim::new();
    for name in ["chunk-4k", "dense-1m"] {
        let stale = &victim.stale[name];
        for blocks in [vec![0], vec![1], vec![2], vec![1, 2], vec![0, 1], vec![0, 2]] {
            victim.after(name, &format!("stale blocks {blocks:?}"), true, |path| {
                blocks.iter().for_each(|&block| copy_block(stale, block, path, block));
            });
        }
    }
    let stale = &victim.stale["inline-100"];
    let head = |path: &Path, range: std::ops::Range<usize>| {
        let old = fs::read(stale).unwrap();
        OpenOptions::new()
            .write(true)
            .open(path)
            .unwrap()
            .write_all_at(&old[range.clone()], range.start as u64)
            .unwrap();
    };
    victim.after("inline-100", "stale contents under the new record", true, |path| head(path, 284..384));
    victim.after("inline-100", "stale record over the new contents", true, |path| head(path, 184..284));
}

#[test]
fn a_header_or_file_of_another_volume_is_eio_and_named() {
    if !volumes() {
        return;
    }
    let victim = Victim::new();
    let other = Victim::new();
    for name in ["inline-100", "chunk-4k", "dense-1m"] {
        let foreign = &other.backing[name];
        victim.after(name, "another volume's header", true, |path| copy_block(foreign, 0, path, 0));
        victim.after(name, "another volume's file", true, |path| {
            succeed(Command::new("cp").args(["--no-preserve=all"]).arg(foreign).arg(path));
        });
    }
    // The wrapped DEK alone, under the victim's own id.
    victim.after("dense-1m", "another file's wrapped key", true, |path| {
        let mut wrapped = vec![0; 76];
        File::open(&victim.backing["chunk-4k"]).unwrap().read_exact_at(&mut wrapped, 32).unwrap();
        OpenOptions::new().write(true).open(path).unwrap().write_all_at(&wrapped, 32).unwrap();
    });
}

fn assert_not_mounted(volume: &Volume, change: &str) {
    let mut command = Command::new(PROGRAM);
    command.args(["mount", "--key-file"]).arg(volume.key()).arg(volume.backing()).arg(volume.mountpoint());
    let output = run(&mut command);
    let said = text(&output);
    assert!(
        output.status.code().is_some_and(|code| code != 0 && code != 101),
        "mount after {change}: {} {said}",
        output.status
    );
    assert!(said.len() > 20 && !said.contains("panicked"), "mount after {change} says: {said}");
}

#[test]
fn an_edited_or_foreign_volume_description_is_refused() {
    if !volumes() {
        return;
    }
    let (volume, other) = (Volume::new(), Volume::new());
    let description = |volume: &Volume| volume.backing().join(".envelopefs/volume.toml");
    let path = description(&volume);
    let original = fs::read_to_string(&path).unwrap();
    let edited = |text: &str, change: &str| {
        fs::write(&path, text).unwrap();
        assert_not_mounted(&volume, change);
        fs::write(&path, &original).unwrap();
    };
    // Any character of any value, one at a time, and whole lines.
    for (number, line) in original.lines().enumerate().filter(|(_, line)| line.contains('=')) {
        let without: String =
            original.lines().enumerate().filter(|(i, _)| *i != number).map(|(_, line)| format!("{line}\n")).collect();
        edited(&without, &format!("removing `{line}`"));
        let (key, value) = line.split_once('=').unwrap();
        let changed = match value.chars().rev().find(|c| c.is_ascii_alphanumeric()) {
            Some(last) => {
                let at = value.rfind(last).unwrap();
                let new = if last == '1' { '2' } else { '1' };
                format!("{key}={}{new}{}", &value[..at], &value[at + 1..])
            }
            None => format!("{key}= 5"),
        };
        edited(&original.replace(line, &changed), &format!("changing `{line}` to `{changed}`"));
    }
    edited("", "emptying it");
    edited(&original[..original.len() / 2], "cutting it");
    edited(&format!("{original}\nunknown = 1\n"), "adding a line");
    edited(&fs::read_to_string(description(&other)).unwrap(), "exchanging it with another volume's");
    fs::remove_file(&path).unwrap();
    assert_not_mounted(&volume, "removing it");
    fs::write(&path, &original).unwrap();
    volume.mount().unmount();
}
