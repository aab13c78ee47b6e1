//! Attributes: times, modes and who may change them, extended attributes, ACLs.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, XattrFlags};
use rustix::io::Errno;

use crate::common::{run, sh, succeed};
use crate::{errno, on_mount, over_remount};

/// An ordinary user's shell: `nobody`, without supplementary groups.
fn as_nobody(dir: &Path, script: &str) -> std::process::Output {
    run(Command::new("sh").args(["-ec", script]).current_dir(dir).uid(65534).gid(65534))
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Longer than the coarsest clock tick that file times come from.
fn tick() {
    sleep(Duration::from_millis(20));
}

fn ctime(path: &Path) -> (i64, i64) {
    let metadata = fs::symlink_metadata(path).unwrap();
    (metadata.ctime(), metadata.ctime_nsec())
}

fn mtime(path: &Path) -> (i64, i64) {
    let metadata = fs::symlink_metadata(path).unwrap();
    (metadata.mtime(), metadata.mtime_nsec())
}

#[test]
fn an_ordinary_users_write_clears_suid_and_sgid() {
    on_mount(|dir| {
        for (name, change) in [
            ("write", "printf x >> write"),
            ("truncate", "truncate -s 1 truncate"),
            ("open", ": > open"),
            ("allocate", "fallocate -l 100000 allocate"),
            ("punch", "fallocate -p -o 0 -l 4096 punch"),
            (
                "copy",
                "python3 -c 'import os; f = os.open(\"copy\", os.O_RDWR); os.copy_file_range(f, f, 4096, 0, 4096)'",
            ),
        ] {
            let path = dir.join(name);
            fs::write(&path, vec![1; 10_000]).unwrap();
            chown(&path, Some(65534), Some(65534)).unwrap();
            set_mode(&path, 0o6777);
            assert!(as_nobody(dir, change).status.success(), "{name}");
            assert_eq!(mode(&path), 0o777, "after {name}");
        }
    });
}

#[test]
fn roots_write_keeps_suid() {
    on_mount(|dir| {
        let path = dir.join("program");
        fs::write(&path, "x").unwrap();
        set_mode(&path, 0o4755);
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"y").unwrap();
        assert_eq!(mode(&path), 0o4755);
    });
}

#[test]
fn chown_clears_suid_and_sgid() {
    on_mount(|dir| {
        let path = dir.join("program");
        fs::write(&path, "x").unwrap();
        set_mode(&path, 0o6755);
        chown(&path, Some(65534), None).unwrap();
        assert_eq!(mode(&path), 0o755);
    });
}

#[test]
fn suid_programs_run_as_their_owner() {
    on_mount(|dir| {
        fs::copy("/usr/bin/id", dir.join("id")).unwrap();
        set_mode(&dir.join("id"), 0o4755);
        let output = as_nobody(dir, "./id -u");
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "0");
    });
}

#[test]
fn a_setgid_directory_gives_its_group_to_new_entries() {
    on_mount(|dir| {
        let shared = dir.join("shared");
        fs::create_dir(&shared).unwrap();
        chown(&shared, None, Some(12)).unwrap();
        set_mode(&shared, 0o2777);
        fs::write(shared.join("file"), "").unwrap();
        fs::create_dir(shared.join("sub")).unwrap();
        assert!(as_nobody(&shared, "touch theirs; mkdir theirdir; ln -s x theirlink").status.success());
        for name in ["file", "sub", "theirs", "theirdir", "theirlink"] {
            assert_eq!(fs::symlink_metadata(shared.join(name)).unwrap().gid(), 12, "{name}");
        }
        assert_eq!(mode(&shared.join("sub")) & 0o2000, 0o2000);
        assert_eq!(mode(&shared.join("file")) & 0o2000, 0);
        assert_eq!(fs::metadata(shared.join("theirs")).unwrap().uid(), 65534);
        // A member of neither group cannot keep sgid on a file of that group.
        assert!(as_nobody(&shared, "chmod 2755 theirs").status.success());
        assert_eq!(mode(&shared.join("theirs")), 0o755);
    });
}

#[test]
fn new_entries_belong_to_the_caller() {
    on_mount(|dir| {
        set_mode(dir, 0o777);
        assert!(as_nobody(dir, "echo x > file; mkdir d; mkfifo p; ln -s file l").status.success());
        for name in ["file", "d", "p", "l"] {
            let metadata = fs::symlink_metadata(dir.join(name)).unwrap();
            assert_eq!((metadata.uid(), metadata.gid()), (65534, 65534), "{name}");
        }
    });
}

#[test]
fn a_sticky_directory_protects_other_peoples_entries() {
    on_mount(|dir| {
        let tmp = dir.join("tmp");
        fs::create_dir(&tmp).unwrap();
        set_mode(&tmp, 0o1777);
        fs::write(tmp.join("roots"), "x").unwrap();
        assert!(!as_nobody(&tmp, "rm -f roots").status.success());
        assert!(!as_nobody(&tmp, "mv roots mine").status.success());
        assert!(as_nobody(&tmp, "echo x > mine; mv mine own; rm own").status.success());
        assert!(tmp.join("roots").exists());
    });
}

#[test]
fn default_acls_are_inherited_and_replace_the_umask() {
    over_remount(
        |dir| {
            sh(
                dir,
                "mkdir d; setfacl -d -m u:1:rwx,g:12:r-x,o::--- d; umask 022; touch plain; umask 077; touch d/file; mkdir d/sub
                 setfacl -m u:65534:rw plain; chmod 640 plain; umask 0; touch d/open",
            );
            assert!(!as_nobody(dir, "cat d/file").status.success());
            // chmod 640 left the mask r--: the entry rw is effective for reading only.
            assert!(as_nobody(dir, "cat plain").status.success());
            assert!(!as_nobody(dir, "echo x > plain").status.success());
        },
        |dir| {
            let acl = |name: &str| sh(dir, &format!("getfacl -cE {name}")).trim().to_owned();
            assert_eq!(acl("d/file"), "user::rw-\nuser:daemon:rwx\ngroup::r-x\ngroup:man:r-x\nmask::rw-\nother::---");
            assert_eq!(mode(&dir.join("d/file")), 0o660);
            assert_eq!(mode(&dir.join("d/open")), 0o660);
            assert!(acl("d/sub").contains("default:user:daemon:rwx"));
            assert_eq!(acl("plain"), "user::rw-\nuser:nobody:rw-\ngroup::r--\nmask::r--\nother::---");
            sh(dir, "setfacl -b plain; setfacl -k d");
            assert_eq!(acl("plain"), "user::rw-\ngroup::r--\nother::---");
            assert_eq!(
                errno(rustix::fs::getxattr_query(dir.join("plain"), "system.posix_acl_access")),
                Some(Errno::NODATA)
            );
        },
    );
}

fn set_times(path: &Path, atime: Timespec, mtime: Timespec) {
    let times = Timestamps { last_access: atime, last_modification: mtime };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

#[test]
fn times_to_the_nanosecond_before_and_after_the_epoch() {
    let cases =
        [(1_234_567_890, 123_456_789), (0, 1), (-1, 999_999_999), (-1_000_000_000, 5), (4_000_000_000, 999_999_999)];
    over_remount(
        |dir| {
            for (i, (secs, nanos)) in cases.into_iter().enumerate() {
                let time = Timespec { tv_sec: secs, tv_nsec: nanos };
                for kind in ["file", "dir", "link"] {
                    let path = dir.join(format!("{kind}{i}"));
                    match kind {
                        "file" => fs::write(&path, vec![1; 5000]).unwrap(),
                        "dir" => fs::create_dir(&path).unwrap(),
                        _ => std::os::unix::fs::symlink("x", &path).unwrap(),
                    }
                    set_times(&path, time, time);
                    let metadata = fs::symlink_metadata(&path).unwrap();
                    assert_eq!((metadata.atime(), metadata.atime_nsec()), (secs, nanos), "atime of {kind} {i}");
                }
            }
        },
        |dir| {
            for (i, (secs, nanos)) in cases.into_iter().enumerate() {
                for kind in ["file", "dir", "link"] {
                    let metadata = fs::symlink_metadata(dir.join(format!("{kind}{i}"))).unwrap();
                    assert_eq!((metadata.mtime(), metadata.mtime_nsec()), (secs, nanos), "mtime of {kind} {i}");
                }
            }
        },
    );
}

#[test]
fn times_that_no_filesystem_stores_do_no_harm() {
    on_mount(|dir| {
        let path = dir.join("file");
        fs::write(&path, "x").unwrap();
        for secs in [i64::MIN, i64::MIN + 1, -(1 << 40), 1 << 40, i64::MAX] {
            let time = Timespec { tv_sec: secs, tv_nsec: 999_999_999 };
            let times = Timestamps { last_access: time, last_modification: time };
            let _ = rustix::fs::utimensat(CWD, &path, &times, AtFlags::empty());
            assert_eq!(fs::read(&path).unwrap(), b"x", "the mount answers after {secs}");
        }
    });
}

#[test]
fn utime_omit_and_utime_now() {
    on_mount(|dir| {
        let path = dir.join("file");
        fs::write(&path, "x").unwrap();
        let old = Timespec { tv_sec: 1000, tv_nsec: 42 };
        let omit = Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT };
        let now = Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW };
        set_times(&path, old, old);
        set_times(&path, omit, now);
        let metadata = fs::metadata(&path).unwrap();
        assert_eq!((metadata.atime(), metadata.atime_nsec()), (1000, 42));
        assert!(metadata.mtime() > 1_000_000);
        set_times(&path, now, old);
        let metadata = fs::metadata(&path).unwrap();
        assert!(metadata.atime() > 1_000_000);
        assert_eq!((metadata.mtime(), metadata.mtime_nsec()), (1000, 42));
        let before = ctime(&path);
        tick();
        set_times(&path, omit, omit);
        assert_eq!(ctime(&path), before, "nothing to set changes nothing");
        // The owner alone may set a time; a writer may say `now`.
        set_mode(&path, 0o666);
        assert!(!as_nobody(dir, "touch -d @5 file").status.success());
        assert!(as_nobody(dir, "touch -c file").status.success());
    });
}

#[test]
fn a_time_set_on_an_open_dirty_file_stays() {
    over_remount(
        |dir| {
            // What tar, cp -p and rsync do: write, set the times through the descriptor, close.
            let file = File::create(dir.join("unpacked")).unwrap();
            file.write_all_at(&vec![1; 300_000], 0).unwrap();
            let old = Timespec { tv_sec: 1_000_000_000, tv_nsec: 7 };
            rustix::fs::futimens(&file, &Timestamps { last_access: old, last_modification: old }).unwrap();
            drop(file);
            assert_eq!(mtime(&dir.join("unpacked")), (1_000_000_000, 7));
            sleep(Duration::from_millis(200));
            assert_eq!(mtime(&dir.join("unpacked")), (1_000_000_000, 7));
        },
        |dir| {
            assert_eq!(mtime(&dir.join("unpacked")), (1_000_000_000, 7));
            assert_eq!(fs::read(dir.join("unpacked")).unwrap(), vec![1; 300_000]);
        },
    );
}

#[test]
fn writing_moves_mtime_and_ctime_and_reading_does_not() {
    on_mount(|dir| {
        let path = dir.join("file");
        fs::write(&path, vec![1; 10_000]).unwrap();
        let old = Timespec { tv_sec: 1000, tv_nsec: 0 };
        set_times(&path, old, old);
        tick();
        let (m, c) = (mtime(&path), ctime(&path));
        fs::read(&path).unwrap();
        tick();
        assert_eq!((mtime(&path), ctime(&path)), (m, c));
        for (change, moves) in [
            ("printf x | dd of=file conv=notrunc status=none", true),
            ("truncate -s 5000 file", true),
            ("truncate -s 20000 file", true),
            (": > file", true),
            ("chmod 600 file", false),
            ("chown 1 file", false),
            ("ln file second", false),
            ("setfattr -n user.a -v b file", false),
        ] {
            let (m, c) = (mtime(&path), ctime(&path));
            tick();
            sh(dir, change);
            assert!(ctime(&path) > c, "ctime after {change}");
            assert_eq!(mtime(&path) > m, moves, "mtime after {change}");
        }
    });
}

#[test]
fn a_directorys_times_move_with_its_entries() {
    on_mount(|dir| {
        fs::create_dir(dir.join("d")).unwrap();
        for change in
            ["touch d/a", "ln d/a d/b", "mv d/a d/c", "rm d/b", "mkdir d/e", "rmdir d/e", "mkfifo d/p", "ln -s x d/l"]
        {
            let before = (mtime(&dir.join("d")), ctime(&dir.join("d")));
            tick();
            sh(dir, change);
            let after = (mtime(&dir.join("d")), ctime(&dir.join("d")));
            assert!(after.0 > before.0 && after.1 > before.1, "after {change}");
        }
    });
}

#[test]
fn access_time_is_no_later_than_now_and_can_be_set() {
    on_mount(|dir| {
        let path = dir.join("file");
        fs::write(&path, vec![1; 10_000]).unwrap();
        let now = std::time::SystemTime::now() + Duration::from_secs(1);
        fs::read(&path).unwrap();
        assert!(fs::metadata(&path).unwrap().accessed().unwrap() <= now);
        let time = Timespec { tv_sec: 77, tv_nsec: 88 };
        set_times(&path, time, Timespec { tv_sec: 99, tv_nsec: 0 });
        assert_eq!(fs::metadata(&path).unwrap().atime(), 77);
    });
}

#[test]
fn extended_attributes_of_all_sizes() {
    let value = |length: usize| -> Vec<u8> { (0..length).map(|i| (i * 7) as u8).collect() };
    over_remount(
        |dir| {
            fs::write(dir.join("file"), "x").unwrap();
            fs::create_dir(dir.join("d")).unwrap();
            for (name, length) in [("user.empty", 0), ("user.one", 1), ("user.some", 255), ("user.more", 2500)] {
                rustix::fs::setxattr(dir.join("file"), name, &value(length), XattrFlags::CREATE).unwrap();
                rustix::fs::setxattr(dir.join("d"), name, &value(length), XattrFlags::empty()).unwrap();
            }
            rustix::fs::setxattr(dir.join("file"), "trusted.t", b"v", XattrFlags::empty()).unwrap();
            let again = rustix::fs::setxattr(dir.join("file"), "user.one", b"", XattrFlags::CREATE);
            assert_eq!(errno(again), Some(Errno::EXIST));
            let absent = rustix::fs::setxattr(dir.join("file"), "user.absent", b"", XattrFlags::REPLACE);
            assert_eq!(errno(absent), Some(Errno::NODATA));
            let mut small = [0; 10];
            let small = rustix::fs::getxattr(dir.join("file"), "user.some", &mut small);
            assert_eq!(errno(small), Some(Errno::RANGE));
            let huge = rustix::fs::setxattr(dir.join("file"), "user.huge", &vec![0; 65537], XattrFlags::empty());
            assert!(matches!(errno(huge), Some(Errno::TOOBIG | Errno::RANGE)), "{huge:?}");
            let strange = rustix::fs::setxattr(dir.join("file"), "strange.x", b"", XattrFlags::empty());
            assert_eq!(errno(strange), Some(Errno::OPNOTSUPP));
        },
        |dir| {
            for (name, length) in [("user.empty", 0), ("user.one", 1), ("user.some", 255), ("user.more", 2500)] {
                for path in ["file", "d"] {
                    let mut buffer = vec![0; length + 1];
                    let got = rustix::fs::getxattr(dir.join(path), name, &mut buffer[..]).unwrap();
                    assert_eq!(&buffer[..got], value(length), "{name} of {path}");
                    assert_eq!(rustix::fs::getxattr_query(dir.join(path), name).unwrap(), length);
                }
            }
            let mut names = vec![0; 1000];
            let length = rustix::fs::listxattr(dir.join("file"), &mut names[..]).unwrap();
            let mut names: Vec<&[u8]> =
                names[..length].split(|&byte| byte == 0).filter(|name| !name.is_empty()).collect();
            names.sort();
            assert_eq!(names, [&b"trusted.t"[..], b"user.empty", b"user.more", b"user.one", b"user.some"]);
            rustix::fs::removexattr(dir.join("file"), "user.one").unwrap();
            assert_eq!(errno(rustix::fs::removexattr(dir.join("file"), "user.one")), Some(Errno::NODATA));
            assert_eq!(errno(rustix::fs::getxattr_query(dir.join("file"), "user.one")), Some(Errno::NODATA));
        },
    );
}

#[test]
fn file_capabilities_are_kept_and_lost_on_write() {
    over_remount(
        |dir| {
            fs::copy("/usr/bin/id", dir.join("kept")).unwrap();
            fs::copy("/usr/bin/id", dir.join("lost")).unwrap();
            // cap_net_raw=ep, version 2 (capabilities(7)).
            let mut capability = vec![1, 0, 0, 2, 0, 0x20, 0, 0];
            capability.resize(20, 0);
            for name in ["kept", "lost"] {
                rustix::fs::setxattr(dir.join(name), "security.capability", &capability, XattrFlags::empty()).unwrap();
            }
            OpenOptions::new().append(true).open(dir.join("lost")).unwrap().write_all(b"x").unwrap();
        },
        |dir| {
            assert_eq!(rustix::fs::getxattr_query(dir.join("kept"), "security.capability").unwrap(), 20);
            assert_eq!(errno(rustix::fs::getxattr_query(dir.join("lost"), "security.capability")), Some(Errno::NODATA));
        },
    );
}

#[test]
fn owners_modes_and_types_survive_a_remount() {
    over_remount(
        |dir| {
            sh(dir, "touch f; mkdir d; mkfifo p; mknod c c 1 3; mknod b b 7 200; ln -s f l");
            sh(dir, "chown 1:2 f; chown 3:4 d; chown -h 5:6 l; chmod 1234 f; chmod 2770 d; chmod 0 p");
        },
        |dir| {
            let seen = succeed(
                Command::new("stat")
                    .args(["-c", "%n %F %a %u %g %t %T"])
                    .args(["f", "d", "p", "c", "b", "l"])
                    .current_dir(dir),
            );
            assert_eq!(
                seen,
                "f regular empty file 1234 1 2 0 0\nd directory 2770 3 4 0 0\np fifo 0 0 0 0 0\n\
                 c character special file 644 0 0 1 3\nb block special file 644 0 0 7 c8\nl symbolic link 777 5 6 0 0\n"
            );
        },
    );
}
