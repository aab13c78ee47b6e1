//! A hostile world below: full and read-only disks, one that stands still, no free inodes, a daemon that is killed, commands that must refuse.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::common::{self, Disk, PROGRAM, Volume, run, sh, succeed, text, wait_until, write_key};
use crate::volumes;

/// Contents that only depend on a number, and tell their place.
fn contents(seed: u64, size: usize) -> Vec<u8> {
    (0..size as u64).map(|i| ((i ^ seed.wrapping_mul(0x9e37_79b9)) >> ((i >> 8) % 5)) as u8 ^ seed as u8).collect()
}

fn write_synced(path: &Path, data: &[u8]) -> std::io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(data)?;
    file.sync_all()
}

#[test]
fn a_full_disk_says_enospc_and_loses_nothing() {
    if !volumes() {
        return;
    }
    let scratch = common::scratch();
    let disk = Disk::new(scratch.path(), 40, 2000);
    let volume = Volume::at(&disk.backing());
    let mount = volume.mount();
    let path = |i: u64| mount.path().join(format!("file-{i}"));
    let size = |i: u64| [300, 5_000, 100_000, 1_000_000][i as usize % 4];
    let mut count = 0;
    let error = loop {
        match write_synced(&path(count), &contents(count, size(count))) {
            Ok(()) => count += 1,
            Err(error) => break error,
        }
        assert!(count < 1000, "the disk does not fill");
    };
    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
    assert!(count > 80, "{count} files fit");
    // Fill the rest to the last block, with appends to one file.
    let mut last = OpenOptions::new().append(true).create(true).open(path(9999)).unwrap();
    while last.write_all(&[7; 4096]).and_then(|()| last.sync_all()).is_ok() {}
    drop(last);
    let intact = |range: std::ops::Range<u64>| {
        for i in range {
            assert!(fs::read(path(i)).unwrap() == contents(i, size(i)), "file {i}");
        }
    };
    intact(0..count);
    // Changes of what is there may be refused, but must not destroy it.
    for i in 0..count {
        let changed = OpenOptions::new()
            .append(true)
            .open(path(i))
            .and_then(|mut file| file.write_all(&[1; 10_000]).and_then(|()| file.sync_all()));
        if let Err(error) = changed {
            assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
        }
        let now = fs::read(path(i)).unwrap();
        assert!(now[..size(i)] == contents(i, size(i)), "file {i} after a refused append");
    }
    let kept = |i: &u64| i % 2 == 1 && i % 8 != 3;
    for i in (0..count).filter(|i| !kept(i)) {
        fs::remove_file(path(i)).unwrap();
    }
    fs::remove_file(path(count)).unwrap();
    for i in 2000..2010 {
        write_synced(&path(i), &contents(i, 500_000)).unwrap();
    }
    let listing = sh(mount.path(), "ls | sort");
    mount.unmount();
    volume.assert_clean();
    let mount = volume.mount();
    assert_eq!(sh(mount.path(), "ls | sort"), listing);
    for i in 2000..2010 {
        assert!(fs::read(path_in(&mount, i)).unwrap() == contents(i, 500_000), "file {i}");
    }
    for i in (0..count).filter(kept) {
        assert!(fs::read(path_in(&mount, i)).unwrap()[..size(i)] == contents(i, size(i)), "file {i}");
    }
    mount.unmount();
}

fn path_in(mount: &common::Mount, i: u64) -> PathBuf {
    mount.path().join(format!("file-{i}"))
}

#[test]
fn a_disk_without_free_inodes_refuses_whole_operations() {
    if !volumes() {
        return;
    }
    let scratch = common::scratch();
    let disk = Disk::new(scratch.path(), 20, 128);
    let volume = Volume::at(&disk.backing());
    let mount = volume.mount();
    let dir = mount.path();
    fs::create_dir(dir.join("d")).unwrap();
    let mut count = 0;
    let error = loop {
        match File::create(dir.join(format!("f{count}"))) {
            Ok(_) => count += 1,
            Err(error) => break error,
        }
        assert!(count < 1000, "the inodes do not run out");
    };
    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
    let refused = |result: std::io::Result<()>| assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::ENOSPC));
    // A directory takes two inodes, a long name two: with one free, neither may be left half made.
    for free in 0..2 {
        refused(fs::create_dir(dir.join("d2")));
        refused(fs::write(dir.join("n".repeat(200)), ""));
        refused(fs::create_dir(dir.join("n".repeat(201))));
        assert_eq!(fs::read_dir(dir).unwrap().count(), 1 + count - free, "nothing half made shows");
        fs::remove_file(dir.join(format!("f{free}"))).unwrap();
    }
    // The kernel tells the daemon in its own time that nobody has a removed file any more.
    let free = || rustix::fs::statvfs(disk.path()).unwrap().f_ffree;
    wait_until("the inodes of the removed files are free", || free().to_string(), || free() == 2);
    fs::create_dir(dir.join("d2")).unwrap();
    fs::rename(dir.join("d2"), dir.join("d/d3")).unwrap();
    mount.unmount();
    volume.assert_clean();
}

/// A disk on which nothing can be written: who tries to waits until this is dropped, or the test has ended in any way.
///
/// A process of its own sees to that. It is there before any file of the mount is open: a child that is started later closes those on its way to
/// another program, which waits for the daemon, and whoever starts it waits for the child.
struct Freezer {
    process: Child,
}

impl Freezer {
    fn new(disk: &Disk) -> Freezer {
        let script = "trap '' TERM INT HUP; read _ && /sbin/fsfreeze -f \"$1\" && echo frozen && read -t 100 _; /sbin/fsfreeze -u \"$1\" 2>/dev/null";
        let mut command = Command::new("bash");
        command.args(["-c", script, "freezer"]).arg(disk.path()).stdin(Stdio::piped()).stdout(Stdio::piped());
        Freezer { process: command.spawn().unwrap() }
    }

    fn freeze(&mut self) {
        self.process.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
        let mut said = [0; 7];
        self.process.stdout.as_mut().unwrap().read_exact(&mut said).unwrap();
        assert_eq!(&said, b"frozen\n");
    }
}

impl Drop for Freezer {
    fn drop(&mut self) {
        // A child that another test starts now may wait for this disk, and have a copy of the pipe until then: closing it may not be enough.
        let _ = self.process.stdin.as_mut().map(|stdin| stdin.write_all(b"\n\n"));
        let _ = self.process.wait();
    }
}

#[test]
fn who_waits_for_the_disk_stops_nobody_else() {
    if !volumes() {
        return;
    }
    let scratch = common::scratch();
    let disk = Disk::new(scratch.path(), 40, 500);
    let volume = Volume::at(&disk.backing());
    let mount = volume.mount();
    let path = |i: u64| mount.path().join(format!("file-{i}"));
    for i in 0..100 {
        write_synced(&path(i), &contents(i, 5_000)).unwrap();
    }
    // Elsewhere: the kernel keeps others out of a directory in which something is being renamed.
    let elsewhere = mount.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    write_synced(&elsewhere.join("old"), b"new contents").unwrap();
    write_synced(&elsewhere.join("new"), b"old contents").unwrap();
    let mut freezer = Freezer::new(&disk);
    let open = |i| OpenOptions::new().write(true).open(path(i)).unwrap();
    let unsynced: Vec<File> = (0..3).map(open).collect();
    unsynced.iter().for_each(|mut file| file.write_all(&contents(9, 3_000)).unwrap());
    let answered = AtomicUsize::new(0);
    freezer.freeze();
    std::thread::scope(|scope| {
        let answered = &answered;
        let mut waiting: Vec<_> = unsynced.iter().map(|file| scope.spawn(|| file.sync_all())).collect();
        waiting.push(scope.spawn(|| open(3).write_all(&contents(9, 3_000))));
        waiting.push(scope.spawn(|| fs::rename(elsewhere.join("old"), elsewhere.join("new"))));
        std::thread::sleep(Duration::from_millis(200));
        let others = scope.spawn(|| {
            for i in 10..90 {
                assert_eq!(fs::metadata(path(i)).unwrap().len(), 5_000);
                assert!(fs::read(path(i)).unwrap() == contents(i, 5_000), "file {i}");
                assert!(fs::read_dir(mount.path()).unwrap().count() == 101);
                answered.fetch_add(1, Ordering::SeqCst);
            }
        });
        let start = Instant::now();
        while !others.is_finished() && start.elapsed() < Duration::from_secs(60) {
            std::thread::sleep(Duration::from_millis(10));
        }
        let (meanwhile, still) = (answered.load(Ordering::SeqCst), waiting.iter().filter(|t| !t.is_finished()).count());
        // Before anything is asserted: a scope ends with its threads.
        drop(freezer);
        assert_eq!((meanwhile, still), (80, 5), "answered while so many waited");
        waiting.into_iter().for_each(|thread| thread.join().unwrap().unwrap());
    });
    drop(unsynced);
    mount.unmount();
    volume.assert_clean();
    let mount = volume.mount();
    for i in 0..4 {
        assert!(fs::read(path_in(&mount, i)).unwrap()[..3_000] == contents(9, 3_000), "file {i}");
    }
    mount.unmount();
}

#[test]
fn a_killed_daemon_loses_no_closed_file() {
    if !volumes() {
        return;
    }
    let volume = Volume::new();
    let log = volume.dir().join("closed");
    // Names a file before it is written (`+`) and after it was closed (`=`), outside of the mount.
    let script = "
import os, sys
start, log = int(sys.argv[1]), os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
block = bytes((i * 7 + (i >> 8)) & 255 for i in range(1 << 20))
for i in range(start, start + 100000):
    os.write(log, b'+%d\\n' % i)
    data = (b'%d:' % i + block * 3)[:(10, 300, 5000, 40000, 300000, 2500000)[i % 6]]
    with open('file-%d' % i, 'wb') as f:
        for at in range(0, len(data), 70000): f.write(data[at:at + 70000])
    os.write(log, b'=%d\\n' % i)
";
    let block: Vec<u8> = (0..1u32 << 20).map(|i| (i.wrapping_mul(7).wrapping_add(i >> 8)) as u8).collect();
    for round in 0..6u64 {
        let mount = volume.mount();
        let writers: Vec<_> = (0..2)
            .map(|writer| {
                let start = (round * 2 + writer) * 100_000;
                let mut command = Command::new("python3");
                command.args(["-c", script, &start.to_string()]).arg(&log).current_dir(mount.path());
                command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
            })
            .collect();
        let closed_files = || fs::read_to_string(&log).unwrap_or_default().matches('=').count();
        while closed_files() < 20 {
            std::thread::sleep(Duration::from_millis(10));
        }
        std::thread::sleep(Duration::from_millis(100 * round));
        mount.kill();
        for mut writer in writers {
            writer.wait().unwrap();
        }
        let mount = volume.mount();
        let logged = fs::read_to_string(&log).unwrap();
        let closed: Vec<u64> =
            logged.lines().filter_map(|line| line.strip_prefix('=')).map(|n| n.parse().unwrap()).collect();
        for &i in &closed {
            let mut want = format!("{i}:").into_bytes();
            let size = [10, 300, 5000, 40_000, 300_000, 2_500_000][i as usize % 6];
            while want.len() < size {
                want.extend_from_slice(&block);
            }
            want.truncate(size);
            let got = fs::read(mount.path().join(format!("file-{i}")));
            assert!(got.unwrap() == want, "file {i}, closed before the kill of round {round} or earlier");
        }
        // What was being written may be anything but in the way.
        for line in logged.lines().filter_map(|line| line.strip_prefix('+')) {
            if !closed.contains(&line.parse().unwrap()) {
                let _ = fs::remove_file(mount.path().join(format!("file-{line}")));
            }
        }
        // Keep the next rounds short.
        for &i in &closed {
            fs::remove_file(mount.path().join(format!("file-{i}"))).unwrap();
        }
        fs::remove_file(&log).unwrap();
        assert_eq!(fs::read_dir(mount.path()).unwrap().count(), 0);
        mount.unmount();
        volume.assert_clean();
    }
}

#[test]
fn a_killed_daemon_in_the_middle_of_renames_leaves_every_name_usable() {
    if !volumes() {
        return;
    }
    let volume = Volume::new();
    let script = "
import os, random
rng = random.Random()
LONG = 'n' * 200
names = ['a', 'b', LONG + '1', LONG + '2', 'd/a', 'd/' + LONG]
os.makedirs('d', exist_ok=True)
while True:
    try:
        what = rng.randrange(6)
        if what == 0: open(rng.choice(names), 'w').write('whole')
        elif what == 1: os.rename(rng.choice(names), rng.choice(names))
        elif what == 2: os.unlink(rng.choice(names))
        elif what == 3: os.mkdir('sub' + LONG); os.rmdir('sub' + LONG)
        elif what == 4: os.link(rng.choice(names), rng.choice(names))
        else: os.symlink('x' * 3500, 'far'); os.unlink('far')
    except (FileNotFoundError, FileExistsError): pass
";
    for round in 0..6u64 {
        let mount = volume.mount();
        let mut command = Command::new("python3");
        command.args(["-c", script]).current_dir(mount.path()).stderr(Stdio::null());
        let mut writer = command.spawn().unwrap();
        std::thread::sleep(Duration::from_millis(200 + 90 * round));
        mount.kill();
        writer.wait().unwrap();
        let mount = volume.mount();
        // Everything listed can be looked up; everything can be removed; directories end up empty.
        sh(mount.path(), "find . -printf '%p %s\\n' >/dev/null; rm -rf -- *; test -z \"$(ls -A)\"");
        mount.unmount();
    }
}

#[test]
fn a_dead_mount_is_taken_away_and_mounted_again() {
    if !volumes() {
        return;
    }
    let volume = Volume::new();
    let mount = volume.mount();
    fs::write(mount.path().join("file"), "kept").unwrap();
    mount.kill();
    let mount = volume.mount();
    assert_eq!(fs::read_to_string(mount.path().join("file")).unwrap(), "kept");
    mount.unmount();
}

#[test]
fn the_end_of_a_detached_session_takes_no_successors_mount_away() {
    if !volumes() {
        return;
    }
    let (volume, other) = (Volume::new(), Volume::new());
    let mut first = volume.mount();
    let in_use = File::create(first.path().join("open")).unwrap();
    first.detach();
    // Another one is mounted there before the first session's last user is done.
    let successor = other.mount_at(&volume.mountpoint());
    fs::write(successor.path().join("file"), "x").unwrap();
    drop(in_use);
    first.wait_for_end();
    assert_eq!(fs::read_to_string(successor.path().join("file")).unwrap(), "x");
    successor.unmount();
    volume.assert_clean();
}

/// Runs a command that must refuse: not by a panic, not by a signal, and saying something that fits.
fn refuses(command: &mut Command, hint: &str) {
    let output = run(command);
    let said = text(&output);
    assert!(output.status.code().is_some_and(|code| code != 0 && code != 101), "{command:?}: {} {said}", output.status);
    assert!(!said.contains("panicked"), "{said}");
    assert!(said.to_lowercase().contains(hint), "{command:?} does not say {hint:?}: {said}");
}

fn mount_command(key: &Path, backing: &Path, mountpoint: &Path) -> Command {
    let mut command = Command::new(PROGRAM);
    command.args(["mount", "--key-file"]).arg(key).arg(backing).arg(mountpoint);
    command
}

#[test]
fn mounting_refuses_what_cannot_work() {
    if !volumes() {
        return;
    }
    let volume = Volume::new();
    let (backing, key, mnt) = (volume.backing(), volume.key(), volume.mountpoint());
    let other_key = volume.dir().join("other-key");
    write_key(&other_key);
    refuses(&mut mount_command(&other_key, backing, &mnt), "key");
    refuses(&mut mount_command(&volume.dir().join("no-key"), backing, &mnt), "no-key");
    refuses(&mut mount_command(&key, &volume.dir().join("no-backing"), &mnt), "no-backing");
    refuses(&mut mount_command(&key, &mnt, backing), "envelopefs");
    refuses(&mut mount_command(&key, backing, &volume.dir().join("no-mountpoint")), "no-mountpoint");
    let full = volume.dir().join("full");
    fs::create_dir(&full).unwrap();
    fs::write(full.join("file"), "").unwrap();
    refuses(&mut mount_command(&key, backing, &full), "empty");
    // A key file that others may read is no secret.
    fs::set_permissions(&other_key, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    refuses(&mut mount_command(&other_key, backing, &mnt), "chmod 600");
    refuses(Command::new(PROGRAM).args(["init", "--key-file"]).arg(&key).arg(backing), "already");
    refuses(Command::new(PROGRAM).arg("umount").arg(&mnt), "mount");
    // One daemon for a volume.
    let mount = volume.mount();
    let second = volume.dir().join("second");
    fs::create_dir(&second).unwrap();
    refuses(&mut mount_command(&key, backing, &second), "use");
    mount.unmount();
    volume.mount().unmount();
}

#[test]
fn the_background_mount_answers_and_ends_on_a_signal() {
    if !volumes() {
        return;
    }
    let volume = Volume::new();
    for signal in ["TERM", "INT"] {
        succeed(&mut mount_command(&volume.key(), volume.backing(), &volume.mountpoint()));
        let file = volume.mountpoint().join("file");
        fs::write(&file, signal).unwrap();
        let pid = sh(volume.dir(), &format!("pgrep -f 'envelopefs mount .*{}'", volume.mountpoint().display()));
        assert_eq!(pid.lines().count(), 1, "{pid}");
        sh(volume.dir(), &format!("kill -{signal} {0}; tail --pid={0} -f /dev/null", pid.trim()));
        assert!(!file.exists(), "unmounted by SIG{signal}");
        let mount = volume.mount();
        assert_eq!(fs::read_to_string(&file).unwrap(), signal);
        mount.unmount();
    }
}
