//! Names and links: every byte string that POSIX allows, renames, hard links, symlinks, depth.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, RenameFlags, renameat_with};
use rustix::io::Errno;

use crate::{errno, on_mount, over_remount};

fn listing(dir: &Path) -> BTreeSet<OsString> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect()
}

#[test]
fn every_byte_but_nul_and_slash_is_a_name() {
    let names: BTreeSet<OsString> =
        (1..=255u8).filter(|&byte| byte != b'/' && byte != b'.').map(|byte| OsString::from_vec(vec![byte])).collect();
    over_remount(
        |dir| {
            for name in &names {
                fs::write(dir.join(name), name.as_bytes()).unwrap();
            }
            assert_eq!(listing(dir), names);
        },
        |dir| {
            assert_eq!(listing(dir), names);
            for name in &names {
                assert_eq!(fs::read(dir.join(name)).unwrap(), name.as_bytes());
            }
        },
    );
}

#[test]
fn names_of_every_length_up_to_255_bytes() {
    let name = |length: usize| -> OsString { OsString::from_vec((0..length).map(|i| b'a' + (i % 26) as u8).collect()) };
    over_remount(
        |dir| {
            for length in 1..=255 {
                fs::write(dir.join(name(length)), length.to_string()).unwrap();
            }
            let (old, new) = (dir.join(name(255)), dir.join(OsStr::from_bytes(&[0xff; 255])));
            fs::rename(&old, &new).unwrap();
            fs::rename(&new, dir.join("short")).unwrap();
            fs::rename(dir.join("short"), &old).unwrap();
            fs::hard_link(&old, dir.join("x".repeat(250))).unwrap();
            fs::remove_file(dir.join("x".repeat(250))).unwrap();
            fs::create_dir(dir.join("d".repeat(255))).unwrap();
            fs::write(dir.join("d".repeat(255)).join("e".repeat(255)), "deep").unwrap();
            assert_eq!(errno(rustix::fs::stat(dir.join("a".repeat(256)))), Some(Errno::NAMETOOLONG));
            assert_eq!(fs::write(dir.join("a".repeat(256)), "").unwrap_err().raw_os_error(), Some(libc::ENAMETOOLONG));
            assert_eq!(fs::metadata(dir.join("a".repeat(255))).unwrap_err().raw_os_error(), Some(libc::ENOENT));
        },
        |dir| {
            assert_eq!(listing(dir).len(), 256);
            for length in 1..=255 {
                assert_eq!(fs::read_to_string(dir.join(name(length))).unwrap(), length.to_string());
            }
            let inner = dir.join("d".repeat(255));
            assert_eq!(listing(&inner), BTreeSet::from([OsString::from("e".repeat(255))]));
            fs::remove_dir_all(inner).unwrap();
            for length in 1..=255 {
                fs::remove_file(dir.join(name(length))).unwrap();
            }
            assert!(listing(dir).is_empty());
        },
    );
}

#[test]
fn the_formats_own_names_are_ordinary_names_inside() {
    over_remount(
        |dir| {
            for name in [".envelopefs", ".envelopefs.dir", ".envelopefs.long.x", ".envelopefs.name.y"] {
                fs::write(dir.join(name), name).unwrap();
            }
        },
        |dir| {
            assert_eq!(listing(dir).len(), 4);
            assert_eq!(fs::read_to_string(dir.join(".envelopefs")).unwrap(), ".envelopefs");
            fs::remove_file(dir.join(".envelopefs.dir")).unwrap();
        },
    );
}

#[test]
fn rename_noreplace_and_exchange() {
    over_remount(
        |dir| {
            fs::write(dir.join("a"), "a").unwrap();
            fs::write(dir.join("b"), "b").unwrap();
            let long = "l".repeat(220);
            fs::create_dir(dir.join("d")).unwrap();
            fs::write(dir.join("d").join(&long), "long").unwrap();
            let rename = |from: &str, to: &str, flags| renameat_with(CWD, dir.join(from), CWD, dir.join(to), flags);
            assert_eq!(errno(rename("a", "b", RenameFlags::NOREPLACE)), Some(Errno::EXIST));
            assert_eq!(errno(rename("a", "nothing", RenameFlags::EXCHANGE)), Some(Errno::NOENT));
            rename("a", "c", RenameFlags::NOREPLACE).unwrap();
            rename("b", "c", RenameFlags::EXCHANGE).unwrap();
            assert_eq!(fs::read(dir.join("b")).unwrap(), b"a");
            // A file with a directory, a long name with a short one.
            rename("b", "d", RenameFlags::EXCHANGE).unwrap();
            rename(&format!("b/{long}"), "c", RenameFlags::EXCHANGE).unwrap();
            assert_eq!(errno(rename("b", "b/inside", RenameFlags::empty())), Some(Errno::INVAL));
            assert_eq!(errno(rename("c", &long, RenameFlags::NOREPLACE)), None);
        },
        |dir| {
            let long = "l".repeat(220);
            assert_eq!(fs::read(dir.join("d")).unwrap(), b"a");
            assert_eq!(fs::read(dir.join("b").join(&long)).unwrap(), b"b");
            assert_eq!(fs::read(dir.join(&long)).unwrap(), b"long");
            assert_eq!(listing(dir).len(), 3);
        },
    );
}

#[test]
fn renaming_a_directory_takes_its_tree_along() {
    over_remount(
        |dir| {
            fs::create_dir_all(dir.join("one/two/three")).unwrap();
            fs::write(dir.join("one/two/three/file"), "x").unwrap();
            fs::create_dir(dir.join("other")).unwrap();
            fs::rename(dir.join("one/two"), dir.join("other/moved")).unwrap();
            fs::write(dir.join("other/moved/three/more"), "y").unwrap();
            // Over an empty directory, but not over one with entries.
            fs::create_dir(dir.join("empty")).unwrap();
            fs::rename(dir.join("one"), dir.join("empty")).unwrap();
            let full = fs::rename(dir.join("empty"), dir.join("other")).unwrap_err();
            assert_eq!(full.raw_os_error(), Some(libc::ENOTEMPTY));
        },
        |dir| {
            assert_eq!(fs::read(dir.join("other/moved/three/file")).unwrap(), b"x");
            assert_eq!(fs::read(dir.join("other/moved/three/more")).unwrap(), b"y");
            assert_eq!(listing(dir), ["empty", "other"].map(OsString::from).into());
        },
    );
}

#[test]
fn hard_links_are_one_file() {
    over_remount(
        |dir| {
            fs::create_dir(dir.join("d")).unwrap();
            fs::write(dir.join("a"), vec![1; 10_000]).unwrap();
            fs::hard_link(dir.join("a"), dir.join("d/b")).unwrap();
            fs::hard_link(dir.join("a"), dir.join("c".repeat(240))).unwrap();
            assert_eq!(fs::metadata(dir.join("a")).unwrap().nlink(), 3);
            fs::write(dir.join("d/b"), vec![2; 20_000]).unwrap();
            assert_eq!(fs::read(dir.join("a")).unwrap(), vec![2; 20_000]);
            fs::remove_file(dir.join("c".repeat(240))).unwrap();
            assert_eq!(fs::metadata(dir.join("d/b")).unwrap().nlink(), 2);
            // Renaming one link of a file onto another does nothing at all (POSIX).
            fs::rename(dir.join("a"), dir.join("d/b")).unwrap();
            assert_eq!(fs::metadata(dir.join("a")).unwrap().nlink(), 2);
            symlink("a", dir.join("link")).unwrap();
            fs::hard_link(dir.join("link"), dir.join("link2")).unwrap();
            assert_eq!(fs::symlink_metadata(dir.join("link2")).unwrap().nlink(), 2);
        },
        |dir| {
            let (a, b) = (fs::metadata(dir.join("a")).unwrap(), fs::metadata(dir.join("d/b")).unwrap());
            assert_eq!((a.ino(), a.nlink()), (b.ino(), 2));
            fs::remove_file(dir.join("a")).unwrap();
            assert_eq!(fs::metadata(dir.join("d/b")).unwrap().nlink(), 1);
            assert_eq!(fs::read(dir.join("d/b")).unwrap(), vec![2; 20_000]);
        },
    );
}

#[test]
fn symlink_targets_up_to_the_path_limit() {
    let target = |length: usize| "t/".repeat(length / 2) + if length % 2 == 1 { "x" } else { "" };
    let lengths = [1, 2, 3, 100, 255, 1000, 3042, 3043, 3044, 4000, 4094, 4095];
    over_remount(
        |dir| {
            for length in lengths {
                symlink(target(length), dir.join(format!("l{length}"))).unwrap();
            }
            symlink(OsStr::from_bytes(&[0xff, 1, b'\n', 0x80]), dir.join("bytes")).unwrap();
        },
        |dir| {
            for length in lengths {
                let link = dir.join(format!("l{length}"));
                assert_eq!(fs::read_link(&link).unwrap().as_os_str(), OsStr::new(&target(length)), "{length}");
                assert_eq!(
                    fs::symlink_metadata(&link).unwrap().len(),
                    length as u64,
                    "size of a link to {length} bytes"
                );
                fs::remove_file(&link).unwrap();
            }
            assert_eq!(fs::read_link(dir.join("bytes")).unwrap().as_os_str().as_bytes(), &[0xff, 1, b'\n', 0x80]);
        },
    );
}

#[test]
fn a_tree_200_directories_deep() {
    over_remount(
        |dir| {
            // Deeper than PATH_MAX allows in one path: by steps.
            let script = "
import os
for i in range(200):
    os.mkdir('level-%03d-with-a-longish-name' % i); os.chdir('level-%03d-with-a-longish-name' % i)
open('bottom', 'w').write('found')";
            crate::common::python::<&str>(dir, script, &[]);
        },
        |dir| {
            let script = "
import os
for i in range(200): os.chdir('level-%03d-with-a-longish-name' % i)
assert open('bottom').read() == 'found'
for i in range(200): os.chdir('..')
assert os.listdir('.') == ['level-000-with-a-longish-name'], os.listdir('.')";
            crate::common::python::<&str>(dir, script, &[]);
            crate::common::sh(dir, "test $(find . | wc -l) = 202 && rm -rf level-*");
            assert!(listing(dir).is_empty());
        },
    );
}

#[test]
fn dot_entries_and_parents_have_the_right_inodes() {
    on_mount(|dir| {
        fs::create_dir_all(dir.join("p/q")).unwrap();
        let ino = |path: &str| fs::metadata(dir.join(path)).unwrap().ino();
        assert_eq!(ino("p/q/."), ino("p/q"));
        assert_eq!(ino("p/q/.."), ino("p"));
        assert_eq!(fs::metadata(dir.join("p")).unwrap().nlink(), 3);
        fs::create_dir(dir.join("r")).unwrap();
        fs::rename(dir.join("p/q"), dir.join("r/q")).unwrap();
        assert_eq!(ino("r/q/.."), ino("r"));
        assert_eq!(fs::metadata(dir.join("p")).unwrap().nlink(), 2);
    });
}

#[test]
fn a_removed_symlink_is_read_through_a_descriptor() {
    on_mount(|dir| {
        for target in ["short".to_string(), "long/".repeat(800)] {
            let link = dir.join("link");
            symlink(&target, &link).unwrap();
            let held = rustix::fs::open(&link, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty()).unwrap();
            fs::remove_file(&link).unwrap();
            // Another one takes the name, and perhaps the number.
            symlink("another", &link).unwrap();
            assert_eq!(rustix::fs::readlinkat(&held, "", Vec::new()).unwrap().as_bytes(), target.as_bytes());
            fs::remove_file(&link).unwrap();
        }
    });
}
