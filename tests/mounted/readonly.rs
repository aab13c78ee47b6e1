//! A read-only mount (`-o ro`), and a backing filesystem that is read-only itself: EROFS for every change, all reads served.

use std::fs;
use std::path::Path;
use std::process::Command;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;

use crate::common::{self, Volume, sh, succeed};
use crate::{errno, volumes};

fn fill(dir: &Path) {
    sh(dir, "echo text > file; mkdir d; ln -s file l; mkfifo p; setfattr -n user.a -v b file");
}

/// The calls that pjdfstest's `erofs` cases make, on a mount that refuses them all.
fn assert_refuses_changes(dir: &Path) {
    let none = rustix::fs::AtFlags::empty();
    let (file, new) = (dir.join("file"), dir.join("new"));
    let rofs = Some(Errno::ROFS);
    assert_eq!(errno(rustix::fs::open(&file, OFlags::WRONLY, Mode::empty())), rofs, "open for writing");
    assert_eq!(errno(rustix::fs::open(&file, OFlags::RDONLY | OFlags::TRUNC, Mode::empty())), rofs, "open to truncate");
    assert_eq!(errno(rustix::fs::open(&new, OFlags::CREATE | OFlags::WRONLY, Mode::RUSR)), rofs, "create");
    assert_eq!(errno(rustix::fs::mkdir(&new, Mode::RWXU)), rofs, "mkdir");
    let fifo = rustix::fs::mknodat(CWD, &new, rustix::fs::FileType::Fifo, Mode::RUSR, 0);
    assert_eq!(errno(fifo), rofs, "mkfifo");
    assert_eq!(errno(rustix::fs::symlink("x", &new)), rofs, "symlink");
    assert_eq!(errno(rustix::fs::link(&file, &new)), rofs, "link");
    assert_eq!(errno(rustix::fs::rename(&file, &new)), rofs, "rename");
    assert_eq!(errno(rustix::fs::unlink(&file)), rofs, "unlink");
    assert_eq!(errno(rustix::fs::rmdir(dir.join("d"))), rofs, "rmdir");
    assert_eq!(errno(rustix::fs::chmodat(CWD, &file, Mode::RUSR, none)), rofs, "chmod");
    let owner = Some(rustix::fs::Uid::from_raw(1));
    assert_eq!(errno(rustix::fs::chownat(CWD, &file, owner, None, none)), rofs, "chown");
    assert_eq!(
        errno(rustix::fs::chownat(CWD, dir.join("l"), owner, None, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)),
        rofs,
        "lchown"
    );
    let time = rustix::fs::Timespec { tv_sec: 1, tv_nsec: 0 };
    let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
    assert_eq!(errno(rustix::fs::utimensat(CWD, &file, &times, none)), rofs, "utimensat");
    assert_eq!(errno(rustix::fs::setxattr(&file, "user.b", b"", rustix::fs::XattrFlags::empty())), rofs, "setxattr");
    assert_eq!(errno(rustix::fs::removexattr(&file, "user.a")), rofs, "removexattr");
}

fn assert_readable(dir: &Path) {
    assert_eq!(fs::read_to_string(dir.join("l")).unwrap(), "text\n");
    assert_eq!(fs::read_dir(dir).unwrap().count(), 4);
    let mut value = [0; 1];
    assert_eq!(rustix::fs::getxattr(dir.join("file"), "user.a", &mut value), Ok(1));
}

#[test]
fn a_read_only_mount_refuses_every_change() {
    if !volumes() {
        return;
    }
    let volume = Volume::new();
    let mount = volume.mount();
    fill(mount.path());
    mount.unmount();
    // All but the lock file, which says who holds it.
    let everything = "find . -not -path ./.envelopefs/lock -printf '%p %s %T@ %C@\n' | sort";
    let before = sh(volume.backing(), everything);
    let mount = volume.mount_with("ro,allow_other");
    assert_refuses_changes(mount.path());
    assert_readable(mount.path());
    mount.unmount();
    assert_eq!(sh(volume.backing(), everything), before, "the backing directory is untouched");
}

#[test]
fn a_read_only_backing_filesystem_serves_reads_and_says_erofs() {
    if !volumes() {
        return;
    }
    let scratch = common::scratch();
    let disk = common::Disk::new(scratch.path(), 40, 500);
    let volume = Volume::at(&disk.backing());
    let mount = volume.mount();
    fill(mount.path());
    mount.unmount();
    succeed(Command::new("mount").args(["-o", "remount,ro"]).arg(disk.path()));
    let mount = volume.mount_with("ro");
    assert_readable(mount.path());
    assert_refuses_changes(mount.path());
    mount.unmount();
    volume.assert_clean();
}
