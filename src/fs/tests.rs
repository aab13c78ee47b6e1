//! The filesystem over a real backing directory, an operation at a time.

mod hooked;
mod interrupted;
mod rewrap;

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::sync::Arc;

use uuid::Uuid;

use super::*;
use crate::store::{StoreOptions, open_root};

const ROOT: Caller = Caller { uid: 0, gid: 0, pid: 0 };
const WRITE: OpenHow = OpenHow { write: true, truncate: false, sync: false };
const KEEP: SetAttr =
    SetAttr { mode: None, uid: None, gid: None, size: None, atime: SetTime::Keep, mtime: SetTime::Keep };

struct Scratch {
    dir: tempfile::TempDir,
    ring: Arc<KeyRing>,
}

impl Scratch {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join(".envelopefs")).unwrap();
        Scratch { dir, ring: Arc::new(KeyRing::generate(Uuid::new_v4())) }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn mount(&self) -> Fs {
        self.mount_with(false)
    }

    fn mount_with(&self, read_only: bool) -> Fs {
        let root = rustix::process::geteuid().is_root();
        let options = FsOptions { read_only, give_to_caller: root, store: StoreOptions::of_this_kernel() };
        Fs::new(open_root(self.path()).unwrap(), self.ring.clone(), options).unwrap()
    }
}

fn os(text: &str) -> &OsStr {
    OsStr::new(text)
}

fn long(letter: &str) -> OsString {
    letter.repeat(230).into()
}

fn write_file(fs: &Fs, parent: Ino, name: &OsStr, contents: &[u8]) -> Entry {
    let (entry, handle) = fs.create(&ROOT, parent, name, 0o644, 0, WRITE).unwrap();
    fs.write(handle, 0, contents, WriteHow::default()).unwrap();
    fs.flush(handle).unwrap();
    fs.release(handle).unwrap();
    entry
}

fn read_file(fs: &Fs, parent: Ino, name: &OsStr) -> Result<Vec<u8>> {
    let entry = fs.lookup(parent, name)?;
    let handle = fs.open(&ROOT, entry.attr.ino, OpenHow::default())?;
    let mut buf = Vec::new();
    let range = fs.read(handle, 0, entry.attr.size as usize + 10, &mut buf);
    fs.release(handle).unwrap();
    Ok(buf[range?].to_vec())
}

fn names(fs: &Fs, ino: Ino) -> Vec<OsString> {
    let handle = fs.opendir(ino).unwrap();
    let mut names = Vec::new();
    fs.readdir(handle, 0, &mut |item| {
        names.push(item.name.clone());
        true
    })
    .unwrap();
    fs.releasedir(handle);
    names.sort();
    names
}

fn errno<T: std::fmt::Debug>(result: Result<T>) -> i32 {
    result.unwrap_err().errno()
}

#[test]
fn contents_and_names_survive_a_remount() {
    let scratch = Scratch::new();
    let fs = scratch.mount();
    let dir = fs.mkdir(&ROOT, Ino::ROOT, os("dir"), 0o755, 0).unwrap();
    let big = vec![7u8; 3_000_000];
    write_file(&fs, dir.attr.ino, os("big"), &big);
    write_file(&fs, Ino::ROOT, os(".env"), b"SECRET=1\n");
    write_file(&fs, Ino::ROOT, os("empty"), b"");
    write_file(&fs, dir.attr.ino, &long("n"), b"long");
    fs.shut_down().unwrap();
    drop(fs);

    let fs = scratch.mount();
    assert_eq!(names(&fs, Ino::ROOT), [".", "..", ".env", "dir", "empty"]);
    let dir = fs.lookup(Ino::ROOT, os("dir")).unwrap().attr.ino;
    assert_eq!(names(&fs, dir), [OsString::from("."), "..".into(), "big".into(), long("n")]);
    assert_eq!(read_file(&fs, Ino::ROOT, os(".env")).unwrap(), b"SECRET=1\n");
    assert_eq!(read_file(&fs, Ino::ROOT, os("empty")).unwrap(), b"");
    assert_eq!(read_file(&fs, dir, os("big")).unwrap(), big);
    assert_eq!(read_file(&fs, dir, &long("n")).unwrap(), b"long");
    assert_eq!(fs.lookup(dir, os("big")).unwrap().attr.size, 3_000_000);
}

#[test]
fn nothing_readable_reaches_the_backing_directory() {
    let scratch = Scratch::new();
    let fs = scratch.mount();
    let dir = fs.mkdir(&ROOT, Ino::ROOT, os("plaindirectory"), 0o755, 0).unwrap().attr.ino;
    let file = write_file(&fs, dir, os("plainfilename"), b"plaincontents plaincontents").attr.ino;
    fs.symlink(&ROOT, dir, os("plainlink"), os("plaintarget")).unwrap();
    fs.setxattr(&ROOT, file, os("user.plainattr"), b"plainvalue", XattrHow::Set).unwrap();
    fs.shut_down().unwrap();
    let all = std::process::Command::new("sh")
        .args(["-c", "find . ; find . -type l -printf '%l\\n'; find . -type f -exec cat {} +; getfattr -R -d ."])
        .current_dir(scratch.path())
        .output()
        .unwrap()
        .stdout;
    let all = String::from_utf8_lossy(&all);
    assert!(all.lines().count() > 5);
    assert!(!all.contains("plain"), "{all}");
}

#[test]
fn an_unlinked_file_lives_on_while_it_is_open() {
    let scratch = Scratch::new();
    let fs = scratch.mount();
    let (entry, handle) = fs.create(&ROOT, Ino::ROOT, os("f"), 0o600, 0, WRITE).unwrap();
    fs.unlink(Ino::ROOT, os("f")).unwrap();
    fs.write(handle, 0, &[1; 10_000], WriteHow::default()).unwrap();
    let attr = fs.getattr(entry.attr.ino).unwrap();
    assert_eq!((attr.nlink, attr.size), (0, 10_000));
    let mut buf = Vec::new();
    let range = fs.read(handle, 9_999, 10, &mut buf).unwrap();
    assert_eq!(buf[range], [1]);
    fs.release(handle).unwrap();
    assert_eq!(fs.getattr(entry.attr.ino).unwrap().nlink, 0, "held although closed: the kernel still knows it");
    fs.forget(entry.attr.ino, 1);
    assert_eq!(errno(fs.getattr(entry.attr.ino)), libc::ESTALE);
    assert_eq!(errno(fs.lookup(Ino::ROOT, os("f"))), libc::ENOENT);
}

#[test]
fn hard_links_are_one_file() {
    let scratch = Scratch::new();
    let fs = scratch.mount();
    let entry = write_file(&fs, Ino::ROOT, os("a"), b"one");
    let dir = fs.mkdir(&ROOT, Ino::ROOT, os("d"), 0o755, 0).unwrap().attr.ino;
    let link = fs.link(entry.attr.ino, dir, &long("b")).unwrap();
    assert_eq!((link.attr.ino, link.attr.nlink), (entry.attr.ino, 2));
    fs.unlink(Ino::ROOT, os("a")).unwrap();
    assert_eq!(fs.getattr(entry.attr.ino).unwrap().nlink, 1);
    assert_eq!(read_file(&fs, dir, &long("b")).unwrap(), b"one");
    assert_eq!(errno(fs.link(dir, Ino::ROOT, os("x"))), libc::EPERM);
}

#[test]
fn rename_in_all_its_forms() {
    let scratch = Scratch::new();
    let fs = scratch.mount();
    let d = fs.mkdir(&ROOT, Ino::ROOT, os("d"), 0o755, 0).unwrap().attr.ino;
    write_file(&fs, Ino::ROOT, os("a"), b"a");
    write_file(&fs, Ino::ROOT, os("b"), b"b");
    fs.rename(Ino::ROOT, os("a"), d, &long("a"), RenameHow::Replace).unwrap();
    assert_eq!(read_file(&fs, d, &long("a")).unwrap(), b"a");
    assert_eq!(errno(fs.rename(Ino::ROOT, os("b"), d, &long("a"), RenameHow::NoReplace)), libc::EEXIST);
    fs.rename(Ino::ROOT, os("b"), d, &long("a"), RenameHow::Exchange).unwrap();
    assert_eq!(read_file(&fs, d, &long("a")).unwrap(), b"b");
    assert_eq!(read_file(&fs, Ino::ROOT, os("b")).unwrap(), b"a");
    fs.rename(Ino::ROOT, os("b"), d, &long("a"), RenameHow::Replace).unwrap();
    assert_eq!(read_file(&fs, d, &long("a")).unwrap(), b"a");
    fs.rename(Ino::ROOT, os("d"), Ino::ROOT, &long("d"), RenameHow::Replace).unwrap();
    assert_eq!(names(&fs, Ino::ROOT), [OsString::from("."), "..".into(), long("d")]);
    assert_eq!(names(&fs, d), [OsString::from("."), "..".into(), long("a")]);
    assert_eq!(errno(fs.rename(Ino::ROOT, os("none"), d, os("x"), RenameHow::Replace)), libc::ENOENT);
    let left = std::fs::read_dir(scratch.path()).unwrap().map(|e| e.unwrap().file_name()).collect::<Vec<_>>();
    assert_eq!(left.len(), 4, "control directory, id, the long name and its side link: {left:?}");
}

#[test]
fn a_directory_replaces_only_an_empty_one() {
    let scratch = Scratch::new();
    let fs = scratch.mount();
    let a = fs.mkdir(&ROOT, Ino::ROOT, os("a"), 0o755, 0).unwrap().attr.ino;
    let b = fs.mkdir(&ROOT, Ino::ROOT, os("b"), 0o755, 0).unwrap().attr.ino;
    write_file(&fs, a, os("in a"), b"a");
    write_file(&fs, b, os("in b"), b"b");
    assert_eq!(errno(fs.rename(Ino::ROOT, os("a"), Ino::ROOT, os("b"), RenameHow::Replace)), libc::ENOTEMPTY);
    assert_eq!(errno(fs.rmdir(Ino::ROOT, os("b"))), libc::ENOTEMPTY);
    assert_eq!(read_file(&fs, b, os("in b")).unwrap(), b"b", "a failed removal takes nothing away");
    fs.unlink(b, os("in b")).unwrap();
    fs.rename(Ino::ROOT, os("a"), Ino::ROOT, os("b"), RenameHow::Replace).unwrap();
    let b = fs.lookup(Ino::ROOT, os("b")).unwrap().attr.ino;
    assert_eq!((b, read_file(&fs, b, os("in a")).unwrap()), (a, b"a".to_vec()));
    fs.unlink(b, os("in a")).unwrap();
    fs.rmdir(Ino::ROOT, os("b")).unwrap();
    assert_eq!(fs.getattr(b).unwrap().kind, Kind::Dir, "somebody may still stand in it");
    assert_eq!(errno(fs.lookup(b, os("x"))), libc::ENOENT);
}

#[test]
fn a_listing_goes_on_where_the_reply_was_full() {
    let scratch = Scratch::new();
    let fs = scratch.mount();
    for n in 0..500 {
        write_file(&fs, Ino::ROOT, os(&format!("file {n}")), b"");
    }
    let handle = fs.opendir(Ino::ROOT).unwrap();
    let (mut seen, mut at) = (Vec::new(), 0);
    loop {
        let (before, mut room) = (seen.len(), 7);
        fs.readdirplus(handle, at, &mut |item, entry| {
            if room == 0 {
                return false;
            }
            room -= 1;
            assert_eq!(entry.is_none(), item.name == "." || item.name == "..");
            assert!(entry.is_none_or(|entry| entry.attr.ino == item.ino));
            seen.push(item.name.clone());
            at = item.offset;
            true
        })
        .unwrap();
        if seen.len() == before {
            break;
        }
    }
    assert_eq!(seen.len(), 502);
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 502);
}

#[test]
fn symlinks_short_and_long() {
    let scratch = Scratch::new();
    let fs = scratch.mount();
    for len in [1, 3043, 3044, 4095] {
        let target = OsString::from("t".repeat(len));
        let entry = fs.symlink(&ROOT, Ino::ROOT, os("link"), &target).unwrap();
        assert_eq!(entry.attr.size, len as u64);
        assert_eq!(fs.readlink(entry.attr.ino).unwrap(), target.as_encoded_bytes());
        let stored = std::fs::read_dir(scratch.path().join(".envelopefs/targets"));
        assert_eq!(stored.map_or(0, |d| d.count()), usize::from(len > 3043));
        fs.rename(Ino::ROOT, os("link"), Ino::ROOT, os("moved"), RenameHow::Replace).unwrap();
        assert_eq!(fs.lookup(Ino::ROOT, os("moved")).unwrap().attr.size, len as u64);
        fs.unlink(Ino::ROOT, os("moved")).unwrap();
        let stored = std::fs::read_dir(scratch.path().join(".envelopefs/targets"));
        assert_eq!(stored.map_or(0, |d| d.count()), 0);
    }
}

#[test]
fn attributes_are_encrypted_or_passed_through() {
    let scratch = Scratch::new();
    let fs = scratch.mount();
    let ino = write_file(&fs, Ino::ROOT, os("f"), b"x").attr.ino;
    fs.setxattr(&ROOT, ino, os("user.a"), b"value", XattrHow::Create).unwrap();
    assert_eq!(errno(fs.setxattr(&ROOT, ino, os("user.a"), b"", XattrHow::Create)), libc::EEXIST);
    assert_eq!(errno(fs.setxattr(&ROOT, ino, os("user.b"), b"", XattrHow::Replace)), libc::ENODATA);
    assert_eq!(fs.getxattr(ino, os("user.a")).unwrap(), b"value");
    assert_eq!(errno(fs.getxattr(ino, os("user.b"))), libc::ENODATA);
    assert_eq!(errno(fs.getxattr(ino, os("other.b"))), libc::EOPNOTSUPP);
    assert_eq!(fs.listxattr(ino).unwrap(), ["user.a"]);
    fs.removexattr(ino, os("user.a")).unwrap();
    assert_eq!(fs.listxattr(ino).unwrap(), [""; 0]);
}

#[test]
fn capabilities_set_on_a_new_file_are_found() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let scratch = Scratch::new();
    let fs = scratch.mount();
    let ino = write_file(&fs, Ino::ROOT, os("f"), b"x").attr.ino;
    assert_eq!(errno(fs.getxattr(ino, os("security.capability"))), libc::ENODATA);
    // vfs_cap_data of revision 2 with cap_net_raw permitted (linux/capability.h).
    let value = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    fs.setxattr(&ROOT, ino, os("security.capability"), &value, XattrHow::Set).unwrap();
    assert_eq!(fs.getxattr(ino, os("security.capability")).unwrap(), value);
    fs.removexattr(ino, os("security.capability")).unwrap();
    assert_eq!(errno(fs.getxattr(ino, os("security.capability"))), libc::ENODATA);
}

#[test]
fn mtime_survives_the_commit_of_what_was_written() {
    let scratch = Scratch::new();
    let fs = scratch.mount();
    let (entry, handle) = fs.create(&ROOT, Ino::ROOT, os("f"), 0o600, 0, WRITE).unwrap();
    fs.write(handle, 0, &[1; 100_000], WriteHow::default()).unwrap();
    let mtime = Timestamp { secs: 1_000_000_000, nanos: 123_456_789 };
    let times = SetAttr { atime: SetTime::To(Timestamp { secs: 5, nanos: 6 }), mtime: SetTime::To(mtime), ..KEEP };
    let shown = fs.setattr(&ROOT, entry.attr.ino, &times).unwrap();
    assert_eq!((shown.mtime, shown.atime), (mtime, Timestamp { secs: 5, nanos: 6 }));
    fs.release(handle).unwrap();
    assert_eq!(fs.getattr(entry.attr.ino).unwrap().mtime, mtime);
    drop(fs);
    let found = scratch.mount().lookup(Ino::ROOT, os("f")).unwrap().attr;
    assert_eq!((found.mtime, found.atime), (mtime, Timestamp { secs: 5, nanos: 6 }));
}

#[test]
fn copies_keep_holes() {
    let scratch = Scratch::new();
    let fs = scratch.mount();
    let (_, from) = fs.create(&ROOT, Ino::ROOT, os("from"), 0o600, 0, WRITE).unwrap();
    fs.write(from, 10 << 20, &[5; 4096], WriteHow::default()).unwrap();
    let (to_entry, to) = fs.create(&ROOT, Ino::ROOT, os("to"), 0o600, 0, WRITE).unwrap();
    fs.write(to, 0, &[9; 8192], WriteHow::default()).unwrap();
    let len = (10 << 20) + 4096;
    assert_eq!(fs.copy_file_range(&ROOT, from, 0, to, 0, len + 77).unwrap(), len);
    assert_eq!(fs.lseek(to, 0, Seek::Data).unwrap(), 10 << 20);
    assert!(fs.getattr(to_entry.attr.ino).unwrap().blocks < 100);
    assert_eq!(errno(fs.copy_file_range(&ROOT, to, 0, to, 100, 200)), libc::EINVAL);
}

#[test]
fn allocating_and_copying_clear_suid_unless_root_does_it() {
    let scratch = Scratch::new();
    let fs = scratch.mount();
    let other = Caller { uid: 65534, gid: 65534, pid: 0 };
    let (entry, handle) = fs.create(&ROOT, Ino::ROOT, os("f"), 0o600, 0, WRITE).unwrap();
    fs.write(handle, 0, &[1; 8192], WriteHow::default()).unwrap();
    let set = || fs.setattr(&ROOT, entry.attr.ino, &SetAttr { mode: Some(0o6755), ..KEEP }).map(drop).unwrap();
    let mode = || fs.getattr(entry.attr.ino).unwrap().mode;
    for how in [Fallocate::Allocate { keep_size: true }, Fallocate::PunchHole, Fallocate::ZeroRange { keep_size: true }]
    {
        set();
        fs.fallocate(&ROOT, handle, 0, 4096, how).unwrap();
        assert_eq!(mode(), 0o6755, "{how:?} by root");
        fs.fallocate(&other, handle, 0, 4096, how).unwrap();
        assert_eq!(mode(), 0o755, "{how:?}");
    }
    set();
    fs.copy_file_range(&other, handle, 0, handle, 4096, 4096).unwrap();
    assert_eq!(mode(), 0o755);
}

#[test]
fn a_read_only_mount_changes_nothing() {
    let scratch = Scratch::new();
    let fs = scratch.mount();
    let ino = write_file(&fs, Ino::ROOT, os("f"), b"x").attr.ino;
    fs.shut_down().unwrap();
    drop(fs);
    let fs = scratch.mount_with(true);
    assert_eq!(read_file(&fs, Ino::ROOT, os("f")).unwrap(), b"x");
    let refused = [
        errno(fs.create(&ROOT, Ino::ROOT, os("n"), 0o600, 0, WRITE)),
        errno(fs.mkdir(&ROOT, Ino::ROOT, os("n"), 0o700, 0)),
        errno(fs.unlink(Ino::ROOT, os("f"))),
        errno(fs.rename(Ino::ROOT, os("f"), Ino::ROOT, os("g"), RenameHow::Replace)),
        errno(fs.setattr(&ROOT, ino, &SetAttr { mode: Some(0), ..KEEP })),
        errno(fs.open(&ROOT, ino, WRITE)),
    ];
    assert_eq!(refused, [libc::EROFS; 6]);
}

#[test]
fn a_file_left_too_long_is_cut_and_looked_up_again() {
    let scratch = Scratch::new();
    let fs = scratch.mount();
    write_file(&fs, Ino::ROOT, os("f"), &[1; 5000]);
    fs.shut_down().unwrap();
    drop(fs);
    let backing = std::fs::read_dir(scratch.path()).unwrap().map(|e| e.unwrap().path());
    let backing = backing.into_iter().find(|p| p.is_file()).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(&backing).unwrap();
    let whole = file.metadata().unwrap().len();
    file.set_len(whole + 4096).unwrap();

    let read_only = scratch.mount_with(true);
    let before = read_only.lookup(Ino::ROOT, os("f")).unwrap();
    assert_eq!(errno(read_only.open(&ROOT, before.attr.ino, OpenHow::default())), libc::ESTALE);
    let after = read_only.lookup(Ino::ROOT, os("f")).unwrap();
    assert_eq!(after.attr.size, 5000);
    assert_ne!(after.generation, before.generation);
    // The kernel may have forgotten the old inode before it looks the name up again.
    read_only.forget(before.attr.ino, 2);
    assert_eq!(read_only.lookup(Ino::ROOT, os("f")).unwrap().attr.size, 5000);
    assert_eq!(read_file(&read_only, Ino::ROOT, os("f")).unwrap(), [1; 5000]);

    let fs = scratch.mount();
    let before = fs.lookup(Ino::ROOT, os("f")).unwrap();
    assert!(before.attr.size > 5000);
    assert_eq!(errno(fs.open(&ROOT, before.attr.ino, OpenHow::default())), libc::ESTALE);
    let after = fs.lookup(Ino::ROOT, os("f")).unwrap();
    assert_eq!((after.attr.size, file.metadata().unwrap().len()), (5000, whole));
    assert_ne!(after.generation, before.generation);
    assert_eq!(read_file(&fs, Ino::ROOT, os("f")).unwrap(), [1; 5000]);
}

#[test]
fn a_moved_or_changed_name_is_not_shown() {
    let scratch = Scratch::new();
    let fs = scratch.mount();
    let d = fs.mkdir(&ROOT, Ino::ROOT, os("d"), 0o755, 0).unwrap().attr.ino;
    write_file(&fs, Ino::ROOT, os("f"), b"x");
    drop(fs);
    let entries = std::fs::read_dir(scratch.path()).unwrap().map(|e| e.unwrap().path()).collect::<Vec<_>>();
    let file = entries.iter().find(|p| p.is_file()).unwrap();
    let dir = entries.iter().find(|p| p.is_dir() && !p.ends_with(".envelopefs")).unwrap();
    std::fs::rename(file, dir.join(file.file_name().unwrap())).unwrap();
    let fs = scratch.mount();
    assert_eq!(fs.lookup(Ino::ROOT, os("d")).unwrap().attr.ino, d);
    assert_eq!(names(&fs, d), [".", ".."]);
    assert_eq!(errno(fs.lookup(d, os("f"))), libc::ENOENT);
}

#[test]
fn a_directory_without_an_id_gets_one_only_while_it_is_empty() {
    let scratch = Scratch::new();
    let fs = scratch.mount();
    for name in ["empty", "full"] {
        fs.mkdir(&ROOT, Ino::ROOT, os(name), 0o755, 0).unwrap();
    }
    let full = fs.lookup(Ino::ROOT, os("full")).unwrap().attr.ino;
    write_file(&fs, full, os("f"), b"x");
    drop(fs);
    for entry in std::fs::read_dir(scratch.path()).unwrap().map(|e| e.unwrap().path()) {
        if entry.is_dir() && !entry.ends_with(".envelopefs") {
            std::fs::remove_file(entry.join(".envelopefs.dir")).unwrap();
        }
    }
    let fs = scratch.mount();
    let empty = fs.lookup(Ino::ROOT, os("empty")).unwrap().attr.ino;
    write_file(&fs, empty, os("new"), b"y");
    assert_eq!(names(&fs, empty), [".", "..", "new"]);
    assert_eq!(errno(fs.lookup(full, os("f"))), libc::ESTALE, "not yet looked up in this mount");
    let full = fs.lookup(Ino::ROOT, os("full")).unwrap().attr.ino;
    assert_eq!(errno(fs.lookup(full, os("f"))), libc::EIO);
}

#[test]
fn new_files_belong_to_the_caller() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let scratch = Scratch::new();
    let fs = scratch.mount();
    let caller = Caller { uid: 1234, gid: 2345, pid: 0 };
    let owner = |entry: &Entry| (entry.attr.uid, entry.attr.gid, entry.attr.mode);
    let (file, handle) = fs.create(&caller, Ino::ROOT, os("f"), 0o4755, 0o022, WRITE).unwrap();
    fs.release(handle).unwrap();
    assert_eq!(owner(&file), (1234, 2345, 0o4755));
    let dir = fs.mkdir(&caller, Ino::ROOT, os("d"), 0o777, 0o027).unwrap();
    assert_eq!(owner(&dir), (1234, 2345, 0o750));
    fs.setattr(&ROOT, dir.attr.ino, &SetAttr { mode: Some(0o2770), gid: Some(99), ..KEEP }).unwrap();
    let inside = fs.mkdir(&caller, dir.attr.ino, os("inside"), 0o755, 0).unwrap();
    assert_eq!(owner(&inside), (1234, 99, 0o2755), "a setgid directory hands its group and the bit down");
    let link = fs.symlink(&caller, dir.attr.ino, os("link"), os("target")).unwrap();
    assert_eq!(owner(&link), (1234, 99, 0o777));
    let fifo = fs.mknod(&caller, Ino::ROOT, os("fifo"), libc::S_IFIFO | 0o666, 0o022, 0).unwrap();
    assert_eq!((fifo.attr.kind, owner(&fifo)), (Kind::Fifo, (1234, 2345, 0o644)));
}

#[test]
fn a_default_acl_is_not_widened_by_what_creation_does_afterwards() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let scratch = Scratch::new();
    let fs = scratch.mount();
    let dir = fs.mkdir(&ROOT, Ino::ROOT, os("d"), 0o777, 0).unwrap().attr.ino;
    // Version 2; user::rwx, group::r-x, other::--- (linux/posix_acl_xattr.h).
    let mut acl = 2u32.to_le_bytes().to_vec();
    for (tag, permissions) in [(0x01u16, 7u16), (0x04, 5), (0x20, 0)] {
        acl.extend_from_slice(&tag.to_le_bytes());
        acl.extend_from_slice(&permissions.to_le_bytes());
        acl.extend_from_slice(&u32::MAX.to_le_bytes());
    }
    fs.setxattr(&ROOT, dir, os("system.posix_acl_default"), &acl, XattrHow::Create).unwrap();
    let caller = Caller { uid: 1234, gid: 2345, pid: 0 };
    let (file, handle) = fs.create(&caller, dir, os("f"), 0o4777, 0o022, WRITE).unwrap();
    fs.release(handle).unwrap();
    assert_eq!(file.attr.mode, 0o4750, "suid is put back after chown, and nothing else");
    let inside = fs.mkdir(&caller, dir, os("inside"), 0o077, 0o022).unwrap();
    assert_eq!(inside.attr.mode, 0o050, "the owner's bits lent to make the id are taken back, and nothing else");
}
