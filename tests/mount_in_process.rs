//! A volume mounted by this process itself: the adapter and the session, without the command line.
//!
//! Needs `/dev/fuse` and the right to mount; skipped, saying so, without them.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use envelopefs::fs::{Fs, FsOptions};
use envelopefs::fuse::session::{self, SessionOptions};
use envelopefs::keys::KeyRing;
use envelopefs::store::{StoreOptions, open_root};
use rustix::fs::{AtFlags, CWD, FallocateFlags, FileType, Mode, SeekFrom, Timespec, Timestamps};
use rustix::io::Errno;
use uuid::Uuid;

struct Volume {
    scratch: tempfile::TempDir,
    ring: Arc<KeyRing>,
}

struct Mount {
    at: PathBuf,
    serving: Option<JoinHandle<std::io::Result<()>>>,
}

impl Volume {
    fn new() -> Self {
        let scratch = tempfile::tempdir().unwrap();
        fs::DirBuilder::new().recursive(true).create(scratch.path().join("backing/.envelopefs")).unwrap();
        fs::create_dir(scratch.path().join("mnt")).unwrap();
        Volume { scratch, ring: Arc::new(KeyRing::generate(Uuid::new_v4())) }
    }

    fn mount(&self) -> Mount {
        let root = rustix::process::geteuid().is_root();
        let options = FsOptions { read_only: false, give_to_caller: root, store: StoreOptions::of_this_kernel() };
        let backing = open_root(&self.scratch.path().join("backing")).unwrap();
        let fs = Arc::new(Fs::new(backing, self.ring.clone(), options).unwrap());
        let at = self.scratch.path().join("mnt");
        let options = SessionOptions {
            source: "test".to_owned(),
            allow_other: root,
            suid: true,
            dev: true,
            threads: 2,
            ..SessionOptions::default()
        };
        let mounted = session::mount(fs, &at, &options).unwrap();
        let (ready, is_ready) = mpsc::channel();
        let serving = std::thread::spawn(move || mounted.run(move || ready.send(()).unwrap()));
        is_ready.recv().unwrap();
        Mount { at, serving: Some(serving) }
    }
}

impl Mount {
    fn path(&self, name: &str) -> PathBuf {
        self.at.join(name)
    }

    fn unmount(mut self) {
        assert!(umount(&self.at), "cannot unmount");
        self.serving.take().unwrap().join().unwrap().unwrap();
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if self.serving.is_some() {
            rustix::mount::unmount(&self.at, rustix::mount::UnmountFlags::DETACH).ok();
        }
    }
}

fn umount(at: &Path) -> bool {
    std::process::Command::new("umount").arg(at).status().unwrap().success()
}

fn can_mount() -> bool {
    let can = rustix::process::geteuid().is_root() && Path::new("/dev/fuse").exists();
    if !can {
        eprintln!("skipped: needs root and /dev/fuse");
    }
    can
}

fn names(dir: &Path) -> Vec<OsString> {
    let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    names
}

#[test]
fn files_directories_and_links() {
    if !can_mount() {
        return;
    }
    let volume = Volume::new();
    let mount = volume.mount();

    // - negative entries must give way to what is created later
    assert!(!mount.path("a").exists());
    let contents: Vec<u8> = (0..3_000_000u32).map(|i| (i % 251) as u8).collect();
    fs::write(mount.path("a"), &contents).unwrap();
    assert_eq!(fs::read(mount.path("a")).unwrap(), contents);

    fs::create_dir(mount.path("dir")).unwrap();
    fs::rename(mount.path("a"), mount.path("dir/b")).unwrap();
    assert!(!mount.path("a").exists());
    symlink("dir/b", mount.path("link")).unwrap();
    fs::hard_link(mount.path("dir/b"), mount.path("hard")).unwrap();
    assert_eq!(fs::metadata(mount.path("dir/b")).unwrap().nlink(), 2);
    assert_eq!(fs::read_link(mount.path("link")).unwrap(), Path::new("dir/b"));

    // - more entries than fit one reply, twice, for the kernel's cache of directories
    for i in 0..1000 {
        File::create(mount.path(&format!("dir/file number {i}"))).unwrap();
    }
    assert_eq!(names(&mount.path("dir")).len(), 1001);
    assert_eq!(names(&mount.path("dir")).len(), 1001);
    assert_eq!(names(&mount.at), ["dir", "hard", "link"]);

    let mut file = OpenOptions::new().append(true).read(true).open(mount.path("link")).unwrap();
    file.write_all(b"tail").unwrap();
    file.sync_all().unwrap();
    drop(file);
    mount.unmount();

    let mount = volume.mount();
    let read = fs::read(mount.path("hard")).unwrap();
    assert_eq!((&read[..contents.len()], &read[contents.len()..]), (&contents[..], &b"tail"[..]));
    assert_eq!(names(&mount.path("dir")).len(), 1001);
    fs::remove_dir_all(mount.path("dir")).unwrap();
    assert_eq!(fs::metadata(mount.path("hard")).unwrap().nlink(), 1);
    mount.unmount();
}

#[test]
fn attributes_come_and_go_unchanged() {
    if !can_mount() {
        return;
    }
    let volume = Volume::new();
    let mount = volume.mount();
    let file = mount.path("file");
    fs::write(&file, b"0123456789").unwrap();
    let before = |secs, nanos| Timespec { tv_sec: secs, tv_nsec: nanos };
    for (secs, nanos) in [(0, 1), (-1, 200_000_000), (-86_400, 999_999_999), (4_000_000_000, 5)] {
        let times = Timestamps { last_access: before(secs, nanos), last_modification: before(secs, nanos) };
        rustix::fs::utimensat(CWD, &file, &times, AtFlags::empty()).unwrap();
        let stat = rustix::fs::stat(&file).unwrap();
        assert_eq!((stat.st_mtime, stat.st_mtime_nsec as i64), (secs, nanos));
        assert_eq!((stat.st_atime, stat.st_atime_nsec as i64), (secs, nanos));
    }

    fs::set_permissions(&file, fs::Permissions::from_mode(0o6751)).unwrap();
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o7777, 0o6751);
    std::os::unix::fs::chown(&file, Some(12), Some(34)).unwrap();
    let metadata = fs::metadata(&file).unwrap();
    assert_eq!((metadata.uid(), metadata.gid(), metadata.blksize()), (12, 34, 4096));

    for (major, minor) in [(1, 3), (259, 0x1_0002)] {
        let node = mount.path(&format!("node {major}"));
        let rdev = rustix::fs::makedev(major, minor);
        match rustix::fs::mknodat(CWD, &node, FileType::CharacterDevice, Mode::from_raw_mode(0o600), rdev) {
            Ok(()) => assert_eq!(fs::metadata(&node).unwrap().rdev(), rdev),
            Err(error) => assert_eq!(error, Errno::PERM, "device nodes"),
        }
    }

    let xattr = "user.colour";
    rustix::fs::setxattr(&file, xattr, b"green", rustix::fs::XattrFlags::CREATE).unwrap();
    let again = rustix::fs::setxattr(&file, xattr, b"red", rustix::fs::XattrFlags::CREATE);
    assert_eq!(again, Err(Errno::EXIST));
    let mut value = [0; 64];
    let len = rustix::fs::getxattr(&file, xattr, &mut value[..]).unwrap();
    assert_eq!(&value[..len], b"green");
    assert_eq!(rustix::fs::getxattr(&file, xattr, &mut value[..2]), Err(Errno::RANGE));
    assert_eq!(rustix::fs::getxattr_query(&file, xattr), Ok(5));
    let len = rustix::fs::listxattr(&file, &mut value[..]).unwrap();
    assert!(value[..len].windows(12).any(|name| name == b"user.colour\0"));
    rustix::fs::removexattr(&file, xattr).unwrap();
    assert_eq!(rustix::fs::getxattr(&file, xattr, &mut value[..]), Err(Errno::NODATA));
    mount.unmount();
}

#[test]
fn a_write_by_another_user_takes_the_suid_bit_and_shows_it() {
    if !can_mount() {
        return;
    }
    let volume = Volume::new();
    let mount = volume.mount();
    // - the directory above must let the other user through
    fs::set_permissions(volume.scratch.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(&mount.at, fs::Permissions::from_mode(0o755)).unwrap();
    for (name, script) in [("written", "printf x >> \"$0\""), ("cut", "truncate -s 1 \"$0\""), ("opened", ": > \"$0\"")]
    {
        let file = mount.path(name);
        fs::write(&file, b"0123456789").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o6777)).unwrap();
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o7777, 0o6777);
        let status = std::process::Command::new("setpriv")
            .args(["--reuid=1234", "--regid=1234", "--clear-groups", "sh", "-c", script])
            .arg(&file)
            .status()
            .unwrap();
        assert!(status.success(), "{name}");
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o7777, 0o777, "{name}");
    }
    mount.unmount();
}

#[test]
fn holes_ranges_and_copies() {
    if !can_mount() {
        return;
    }
    let volume = Volume::new();
    let mount = volume.mount();
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(mount.path("f")).unwrap();
    file.write_all_at(b"start", 0).unwrap();
    file.write_all_at(b"end", 1 << 20).unwrap();
    assert_eq!(rustix::fs::seek(&file, SeekFrom::Hole(0)).unwrap() % 4096, 0);
    assert_eq!(rustix::fs::seek(&file, SeekFrom::Data(8192)).unwrap(), 1 << 20);
    let far = rustix::fs::seek(&file, SeekFrom::Data(2 << 20));
    assert_eq!(far, Err(Errno::NXIO));

    rustix::fs::fallocate(&file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 0, 4096).unwrap();
    let mut start = [1; 5];
    file.read_exact_at(&mut start, 0).unwrap();
    assert_eq!(start, [0; 5]);
    let collapse = rustix::fs::fallocate(&file, FallocateFlags::COLLAPSE_RANGE, 0, 4096);
    assert_eq!(collapse, Err(Errno::OPNOTSUPP));
    rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, 2 << 20).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 2 << 20);

    let copy = OpenOptions::new().read(true).write(true).create_new(true).open(mount.path("copy")).unwrap();
    let (mut from, mut to) = (1 << 20, 0);
    let copied = rustix::fs::copy_file_range(&file, Some(&mut from), &copy, Some(&mut to), 3).unwrap();
    assert_eq!(copied, 3);
    let mut text = String::new();
    File::open(mount.path("copy")).unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "end");

    let both = rustix::fs::RenameFlags::NOREPLACE;
    assert_eq!(rustix::fs::renameat_with(CWD, mount.path("f"), CWD, mount.path("copy"), both), Err(Errno::EXIST));
    let exchange = rustix::fs::RenameFlags::EXCHANGE;
    rustix::fs::renameat_with(CWD, mount.path("f"), CWD, mount.path("copy"), exchange).unwrap();
    assert_eq!(fs::metadata(mount.path("f")).unwrap().len(), 3);
    drop((file, copy));
    mount.unmount();
}

#[test]
fn the_successor_at_the_mount_point_stays() {
    if !can_mount() {
        return;
    }
    let volume = Volume::new();
    let mut first = volume.mount();
    let in_use = File::create(first.path("open")).unwrap();
    rustix::mount::unmount(&first.at, rustix::mount::UnmountFlags::DETACH).unwrap();
    // - another one is mounted before the first session's last user is done
    let successor = volume.mount();
    fs::write(successor.path("file"), b"x").unwrap();
    drop(in_use);
    first.serving.take().unwrap().join().unwrap().unwrap();
    assert!(successor.path("file").exists(), "the end of the first session took its successor's mount away");
    successor.unmount();
}

#[test]
fn shows_its_type() {
    if !can_mount() {
        return;
    }
    let volume = Volume::new();
    let mount = volume.mount();
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    let line = mounts.lines().find(|line| line.contains(mount.at.to_str().unwrap())).unwrap().to_owned();
    mount.unmount();
    assert!(line.contains(" fuse.envelopefs "), "{line}");
}
