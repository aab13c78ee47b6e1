//! Opening: what the flags of `open(2)` promise, and files that outlive their name.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::process::Command;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;

use crate::common::{python, run, sh};
use crate::{errno, on_mount};

#[test]
fn append_writes_at_the_end_whatever_the_offset() {
    on_mount(|dir| {
        let path = dir.join("log");
        let mut one = OpenOptions::new().append(true).create(true).open(&path).unwrap();
        let mut two = OpenOptions::new().append(true).open(&path).unwrap();
        for _ in 0..1000 {
            one.write_all(b"one\n").unwrap();
            two.seek(SeekFrom::Start(0)).unwrap();
            two.write_all(b"two\n").unwrap();
        }
        assert_eq!(fs::read(&path).unwrap(), b"one\ntwo\n".repeat(1000));
    });
}

#[test]
fn append_from_many_processes_loses_no_line() {
    on_mount(|dir| {
        sh(dir, "for p in 1 2 3 4; do (for i in $(seq 500); do echo $p $i >>log; done) & done; wait");
        assert_eq!(fs::read_to_string(dir.join("log")).unwrap().lines().count(), 2000);
        for p in 1..=4 {
            let seen = sh(dir, &format!("grep '^{p} ' log | cut -d' ' -f2"));
            let want: String = (1..=500).map(|i| format!("{i}\n")).collect();
            assert_eq!(seen, want, "lines of process {p} in order");
        }
    });
}

#[test]
fn truncating_open_empties_the_file_and_keeps_the_inode() {
    on_mount(|dir| {
        let path = dir.join("file");
        for size in [10, 5_000, 3_000_000] {
            fs::write(&path, vec![7; size]).unwrap();
            let before = fs::metadata(&path).unwrap();
            let file = OpenOptions::new().write(true).truncate(true).open(&path).unwrap();
            assert_eq!(file.metadata().unwrap().len(), 0);
            assert_eq!(fs::metadata(&path).unwrap().ino(), before.ino());
            assert_eq!(fs::read(&path).unwrap(), b"");
        }
    });
}

#[test]
fn exclusive_creation_succeeds_once() {
    on_mount(|dir| {
        let script = "
import os, sys, time
won = 0
for i in range(200):
    try:
        os.close(os.open('x%d' % i, os.O_CREAT | os.O_EXCL | os.O_WRONLY)); won += 1
    except FileExistsError:
        pass
print(won)";
        let racers: Vec<_> = (0..4)
            .map(|_| {
                let mut command = Command::new("python3");
                command.args(["-c", script]).current_dir(dir).stdout(std::process::Stdio::piped());
                command.spawn().unwrap()
            })
            .collect();
        let mut won = 0;
        for racer in racers {
            let output = racer.wait_with_output().unwrap();
            won += String::from_utf8(output.stdout).unwrap().trim().parse::<u32>().unwrap();
        }
        assert_eq!(won, 200);
        std::os::unix::fs::symlink("nowhere", dir.join("dangling")).unwrap();
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY;
        assert_eq!(errno(rustix::fs::open(dir.join("dangling"), flags, Mode::RUSR)), Some(Errno::EXIST));
    });
}

#[test]
fn direct_io_reads_and_writes_what_the_cache_shows() {
    on_mount(|dir| {
        // 4096-aligned memory comes from an anonymous mapping.
        let script = "
import mmap, os
fd = os.open('direct', os.O_RDWR | os.O_CREAT | os.O_DIRECT)
buf = mmap.mmap(-1, 1 << 20)
for i in range(1 << 8): buf[i * 4096:(i + 1) * 4096] = bytes([i]) * 4096
assert os.pwritev(fd, [buf], 0) == 1 << 20
assert os.pwritev(fd, [memoryview(buf)[:8192]], 1 << 22) == 8192
plain = os.open('direct', os.O_RDWR)
assert os.pread(plain, 4096, 5 * 4096) == bytes([5]) * 4096
os.pwrite(plain, b'cached', 9 * 4096 + 10)
back = mmap.mmap(-1, 1 << 20)
assert os.preadv(fd, [back], 0) == 1 << 20
assert back[9 * 4096 + 10:9 * 4096 + 16] == b'cached', 'a cached write is seen by direct reads'
assert back[:9 * 4096] == buf[:9 * 4096]
assert os.preadv(fd, [back], 1 << 20) == 1 << 20 and back[:] == bytes(1 << 20), 'a hole'
assert os.preadv(fd, [memoryview(back)[:8192]], 1 << 22) == 8192 and back[:8192] == buf[:8192]
assert os.preadv(fd, [back], (1 << 22) + 4096) == 4096, 'a short read at the end'
assert os.preadv(fd, [back], 1 << 23) == 0";
        python::<&str>(dir, script, &[]);
    });
}

#[test]
fn temporary_file_without_a_name_is_refused_clearly() {
    on_mount(|dir| {
        let result = rustix::fs::open(dir, OFlags::TMPFILE | OFlags::RDWR, Mode::RUSR | Mode::WUSR);
        if crate::native().is_none() {
            assert_eq!(errno(result), Some(Errno::OPNOTSUPP));
        }
        // What C and Python libraries fall back to.
        python::<&str>(dir, "import tempfile; f = tempfile.TemporaryFile(dir='.'); f.write(b'x'); f.flush()", &[]);
        assert_eq!(fs::read_dir(dir).unwrap().count(), 0);
    });
}

#[test]
fn an_unlinked_open_file_stays_whole_until_closed() {
    on_mount(|dir| {
        let path = dir.join("gone");
        let mut file = OpenOptions::new().read(true).write(true).create_new(true).open(&path).unwrap();
        file.write_all(&vec![1; 100_000]).unwrap();
        fs::remove_file(&path).unwrap();
        assert!(!path.exists());
        assert_eq!(file.metadata().unwrap().nlink(), 0);
        file.write_all_at(&vec![2; 100_000], 100_000).unwrap();
        file.sync_all().unwrap();
        let mut all = Vec::new();
        file.seek(SeekFrom::Start(0)).unwrap();
        file.read_to_end(&mut all).unwrap();
        assert_eq!(all, [vec![1; 100_000], vec![2; 100_000]].concat());
        file.set_len(10).unwrap();
        rustix::fs::fchmod(&file, Mode::RUSR).unwrap();
        rustix::fs::fsetxattr(&file, "user.late", b"x", rustix::fs::XattrFlags::CREATE).unwrap();
        let metadata = file.metadata().unwrap();
        assert_eq!((metadata.len(), metadata.mode() & 0o777), (10, 0o400));
        // A new file of that name is another file.
        fs::write(&path, "new").unwrap();
        assert_ne!(fs::metadata(&path).unwrap().ino(), metadata.ino());
        assert_eq!(file.metadata().unwrap().len(), 10);
    });
}

#[test]
fn a_file_replaced_by_rename_stays_whole_until_closed() {
    on_mount(|dir| {
        fs::write(dir.join("config"), vec![1; 50_000]).unwrap();
        let old = File::open(dir.join("config")).unwrap();
        fs::write(dir.join("config.new"), vec![2; 60_000]).unwrap();
        fs::rename(dir.join("config.new"), dir.join("config")).unwrap();
        assert_eq!(fs::read(dir.join("config")).unwrap(), vec![2; 60_000]);
        let mut all = vec![0; 50_000];
        old.read_exact_at(&mut all, 0).unwrap();
        assert_eq!(all, vec![1; 50_000]);
        assert_eq!(old.metadata().unwrap().nlink(), 0);
    });
}

#[test]
fn a_path_descriptor_keeps_an_unlinked_file_reachable() {
    on_mount(|dir| {
        let path = dir.join("pinned");
        fs::write(&path, "still here").unwrap();
        let pin = rustix::fs::open(&path, OFlags::PATH, Mode::empty()).unwrap();
        fs::remove_file(&path).unwrap();
        let stat = rustix::fs::fstat(&pin).unwrap();
        assert_eq!((stat.st_nlink, stat.st_size), (0, 10));
        // Opened again by way of the descriptor: there is no name left to go by.
        let again = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&pin));
        assert_eq!(fs::read_to_string(&again).unwrap(), "still here");
        fs::write(&again, "changed").unwrap();
        assert_eq!(fs::read_to_string(&again).unwrap(), "changed");
    });
}

#[test]
fn an_open_directory_survives_its_removal() {
    on_mount(|dir| {
        fs::create_dir(dir.join("d")).unwrap();
        let open = rustix::fs::open(dir.join("d"), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        fs::remove_dir(dir.join("d")).unwrap();
        assert_eq!(rustix::fs::fstat(&open).unwrap().st_nlink, 0);
        let flags = OFlags::CREATE | OFlags::WRONLY;
        assert_eq!(errno(rustix::fs::openat(&open, "orphan", flags, Mode::RUSR)), Some(Errno::NOENT));
    });
}

#[test]
fn umask_takes_bits_from_new_entries() {
    on_mount(|dir| {
        sh(dir, "umask 027; touch f; mkdir d; mkfifo p");
        let mode = |name: &str| fs::metadata(dir.join(name)).unwrap().mode() & 0o7777;
        assert_eq!((mode("f"), mode("d"), mode("p")), (0o640, 0o750, 0o640));
        sh(dir, "umask 0; touch f0; mkdir d0");
        assert_eq!((mode("f0"), mode("d0")), (0o666, 0o777));
    });
}

#[test]
fn creation_with_a_read_only_mode_gives_a_writable_descriptor() {
    on_mount(|dir| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o444).open(dir.join("ro")).unwrap();
        file.write_all(&vec![3; 10_000]).unwrap();
        file.sync_all().unwrap();
        assert_eq!(fs::metadata(dir.join("ro")).unwrap().mode() & 0o777, 0o444);
        assert_eq!(fs::read(dir.join("ro")).unwrap().len(), 10_000);
    });
}

#[test]
fn a_write_only_descriptor_changes_parts_of_chunks() {
    on_mount(|dir| {
        let path = dir.join("parts");
        fs::write(&path, vec![1; 20_000]).unwrap();
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        file.write_all_at(b"abc", 4095).unwrap();
        file.write_all_at(b"z", 19_999).unwrap();
        drop(file);
        let mut want = vec![1; 20_000];
        want[4095..4098].copy_from_slice(b"abc");
        want[19_999] = b'z';
        assert_eq!(fs::read(&path).unwrap(), want);
    });
}

#[test]
fn permission_is_checked_against_the_caller() {
    on_mount(|dir| {
        fs::write(dir.join("secret"), "s").unwrap();
        rustix::fs::chmodat(CWD, dir.join("secret"), Mode::RUSR, rustix::fs::AtFlags::empty()).unwrap();
        let mut cat = Command::new("cat");
        std::os::unix::process::CommandExt::uid(&mut cat, 65534);
        let output = run(cat.arg(dir.join("secret")));
        assert!(!output.status.success() && output.stdout.is_empty());
        assert!(String::from_utf8_lossy(&output.stderr).contains("Permission denied"));
    });
}
