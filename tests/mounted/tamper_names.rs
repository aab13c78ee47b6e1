//! Somebody else changes what is stored around contents: names, directory ids, symlinks, attributes. Nothing wrong is ever shown: what was
//! changed gives EIO or is not there, what was not is unharmed, and `check` names it.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::{DirEntryExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Output;

use rustix::fs::XattrFlags;
use rustix::io::Errno;

use crate::common::{Volume, text};
use crate::tamper::{DAMAGED, backing_path};
use crate::volumes;

const DIR_ID: &str = ".envelopefs.dir";

/// A volume made by `make` in its root, unmounted, with the backing path of each inode.
fn victim(make: impl FnOnce(&Path)) -> (Volume, BTreeMap<u64, PathBuf>, BTreeMap<OsString, u64>) {
    let volume = Volume::new();
    let mount = volume.mount();
    make(mount.path());
    let inodes = fs::read_dir(mount.path()).unwrap().map(|entry| entry.unwrap());
    let inodes = inodes.map(|entry| (entry.file_name(), entry.ino())).collect();
    mount.unmount();
    volume.assert_clean();
    let stored = fs::read_dir(volume.backing()).unwrap().map(|entry| entry.unwrap());
    let stored = stored.map(|entry| (entry.ino(), entry.path())).collect();
    (volume, stored, inodes)
}

fn assert_names(check: &Output, names: impl IntoIterator<Item = impl AsRef<str>>) {
    assert_eq!(check.status.code(), Some(DAMAGED), "{}", text(check));
    let said = text(check);
    for name in names {
        let named = |line: &str| line.contains(name.as_ref());
        assert!(said.lines().any(named), "check does not name {}: {said}", name.as_ref());
    }
}

fn errno<T: std::fmt::Debug>(result: io::Result<T>, what: &str) -> i32 {
    let error = result.expect_err(what);
    error.raw_os_error().unwrap_or_else(|| panic!("{what}: {error}"))
}

fn listing(dir: &Path) -> io::Result<BTreeSet<OsString>> {
    fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name())).collect()
}

fn relink(link: &Path, target: impl AsRef<Path>) {
    fs::remove_file(link).unwrap();
    symlink(target, link).unwrap();
}

#[test]
fn damaged_names_and_directory_ids_do_not_take_the_rest_along() {
    if !volumes() {
        return;
    }
    let volume = Volume::new();
    let mount = volume.mount();
    fs::create_dir(mount.path().join("dir")).unwrap();
    fs::write(mount.path().join("dir/inside"), "inside").unwrap();
    fs::write(mount.path().join("good"), "good").unwrap();
    fs::write(mount.path().join("renamed"), "renamed").unwrap();
    let stored = |name: &str| backing_path(volume.backing(), fs::metadata(mount.path().join(name)).unwrap().ino());
    let (dir, renamed) = (stored("dir"), stored("renamed"));
    mount.unmount();
    // A stored name that no key made, and one that was never a stored name at all.
    fs::rename(&renamed, renamed.with_file_name("AAAAAAAAAAAAAAAAAAAAAAAAAAAA")).unwrap();
    fs::write(volume.backing().join("not ours"), "x").unwrap();
    let id = dir.join(".envelopefs.dir");
    let old = fs::read_link(&id).unwrap();
    fs::remove_file(&id).unwrap();
    std::os::unix::fs::symlink(old.to_str().unwrap().chars().rev().collect::<String>(), &id).unwrap();
    let check = volume.check();
    assert_eq!(check.status.code(), Some(DAMAGED), "{}", text(&check));
    let mount = volume.mount();
    let names: Vec<_> = fs::read_dir(mount.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(
        names.contains(&"good".into()) && names.contains(&"dir".into()) && !names.contains(&"renamed".into()),
        "{names:?}"
    );
    assert_eq!(fs::read_to_string(mount.path().join("good")).unwrap(), "good");
    assert!(fs::read(mount.path().join("dir/inside")).is_err());
    fs::write(mount.path().join("new"), "new").unwrap();
    mount.unmount();
}

#[test]
fn exchanged_directory_ids_show_neither_directorys_names() {
    if !volumes() {
        return;
    }
    let (volume, stored, inodes) = victim(|root| {
        for dir in ["one", "other"] {
            fs::create_dir(root.join(dir)).unwrap();
            for name in ["same", &format!("in-{dir}"), &"long".repeat(50)] {
                fs::write(root.join(dir).join(name), format!("{name} of {dir}")).unwrap();
            }
        }
        fs::write(root.join("beside"), "beside").unwrap();
    });
    let ids = ["one", "other"].map(|dir| stored[&inodes[&OsString::from(dir)]].join(DIR_ID));
    let exchange = || {
        let targets = ids.each_ref().map(|id| fs::read_link(id).unwrap());
        relink(&ids[0], &targets[1]);
        relink(&ids[1], &targets[0]);
    };
    exchange();
    assert_names(&volume.check(), ["one", "other"]);
    let mount = volume.mount();
    for dir in ["one", "other"] {
        let dir = mount.path().join(dir);
        assert!(listing(&dir).map_or(true, |names| names.is_empty()), "a name of the other directory is shown");
        for name in ["same", "in-one", "in-other", &"long".repeat(50)] {
            let errno = errno(fs::read(dir.join(name)), name);
            assert!(matches!(errno, libc::ENOENT | libc::EIO), "{name}: {errno}");
        }
        // It has entries, whatever they are: not to be removed.
        assert_eq!(errno(fs::remove_dir(&dir), "rmdir"), libc::ENOTEMPTY);
    }
    assert_eq!(fs::read_to_string(mount.path().join("beside")).unwrap(), "beside");
    mount.unmount();
    exchange();
    volume.assert_clean();
    let mount = volume.mount();
    assert_eq!(fs::read_to_string(mount.path().join("other/same")).unwrap(), "same of other");
    mount.unmount();
}

#[test]
fn side_links_of_long_names_removed_changed_and_exchanged() {
    if !volumes() {
        return;
    }
    let name = |letter: char| letter.to_string().repeat(200);
    let letters = ['a', 'b', 'c', 'd', 'e'];
    let (volume, stored, inodes) = victim(|root| {
        for letter in letters {
            fs::write(root.join(name(letter)), letter.to_string()).unwrap();
        }
        fs::write(root.join("beside"), "beside").unwrap();
    });
    let side = |letter: char| {
        let entry = stored[&inodes[&OsString::from(name(letter))]].file_name().unwrap().to_str().unwrap();
        volume.backing().join(entry.replace(".envelopefs.long.", ".envelopefs.name."))
    };
    fs::remove_file(side('a')).unwrap();
    let sealed = fs::read_link(side('b')).unwrap().into_os_string().into_string().unwrap();
    let first = if sealed.starts_with('A') { 'B' } else { 'A' };
    relink(&side('b'), format!("{first}{}", &sealed[1..]));
    let (c, d) = (fs::read_link(side('c')).unwrap(), fs::read_link(side('d')).unwrap());
    relink(&side('c'), d);
    relink(&side('d'), c);

    let check = volume.check();
    let entry = |letter: char| stored[&inodes[&OsString::from(name(letter))]].file_name().unwrap().to_str().unwrap();
    assert_names(&check, ['a', 'b', 'c', 'd'].map(entry));
    let mount = volume.mount();
    assert_eq!(listing(mount.path()).unwrap(), BTreeSet::from([name('e').into(), "beside".into()]));
    for letter in letters {
        // The entry's own name says which plain name it has: by that it can still be reached.
        assert_eq!(fs::read_to_string(mount.path().join(name(letter))).unwrap(), letter.to_string());
    }
    // A name written anew has its side link again.
    fs::rename(mount.path().join(name('a')), mount.path().join("rescued")).unwrap();
    assert_eq!(fs::read_to_string(mount.path().join("rescued")).unwrap(), "a");
    mount.unmount();
}

/// Every single character replaced by one of the alphabet and by one outside, one more, one less.
fn changed_texts(text: &str) -> Vec<String> {
    let mut changed: Vec<String> = Vec::new();
    for at in 0..text.len() {
        let other = if &text[at..=at] == "Q" { 'R' } else { 'Q' };
        for put in [other, '.'] {
            changed.push(format!("{}{put}{}", &text[..at], &text[at + 1..]));
        }
    }
    changed.extend([
        text[1..].into(),
        text[..text.len() - 1].into(),
        format!("{text}A"),
        format!("A{text}"),
        "A".into(),
    ]);
    changed
}

#[test]
fn a_changed_symlink_target_is_eio_and_named() {
    if !volumes() {
        return;
    }
    const TARGET: &str = "the/target";
    let cases = changed_texts(&"x".repeat((TARGET.len() + 28).div_ceil(3) * 4)).len();
    let link = |n: usize| format!("link-{n:03}.");
    let (volume, stored, inodes) = victim(|root| {
        (0..=cases).for_each(|n| symlink(TARGET, root.join(link(n))).unwrap());
    });
    let path = |n: usize| &stored[&inodes[&OsString::from(link(n))]];
    let mut tampered = 0;
    for n in 0..cases {
        let sealed = fs::read_link(path(n)).unwrap().into_os_string().into_string().unwrap();
        let Some(changed) = changed_texts(&sealed).into_iter().nth(n) else { break };
        relink(path(n), changed);
        tampered = n + 1;
    }
    assert!(tampered > 2 * (TARGET.len() + 28), "every byte of nonce, text and tag");
    assert_names(&volume.check(), (0..tampered).map(link));
    let mount = volume.mount();
    for n in 0..tampered {
        assert_eq!(errno(fs::read_link(mount.path().join(link(n))), "readlink"), libc::EIO, "{n}");
        fs::symlink_metadata(mount.path().join(link(n))).expect("it is still a symlink");
    }
    assert_eq!(fs::read_link(mount.path().join(link(cases))).unwrap(), Path::new(TARGET));
    // What cannot be read can be removed.
    (0..tampered).for_each(|n| fs::remove_file(mount.path().join(link(n))).unwrap());
    mount.unmount();
    volume.assert_clean();
}

#[test]
fn a_changed_long_symlink_target_is_eio_and_named() {
    if !volumes() {
        return;
    }
    type Change = fn(&mut Vec<u8>);
    let target = "long/".repeat(700);
    // Nonce, text and tag at both ends and in the middle; the length.
    let changes: [Change; 12] = [
        |sealed| sealed[0] ^= 1,
        |sealed| sealed[11] ^= 0x80,
        |sealed| sealed[12] ^= 1,
        |sealed| sealed[1700] ^= 0x10,
        |sealed| *sealed.iter_mut().nth_back(16).unwrap() ^= 1,
        |sealed| *sealed.iter_mut().nth_back(15).unwrap() ^= 1,
        |sealed| *sealed.last_mut().unwrap() ^= 0x80,
        |sealed| sealed.truncate(sealed.len() - 1),
        |sealed| sealed.push(0),
        |sealed| sealed.truncate(28),
        |sealed| sealed.clear(),
        |sealed| sealed.resize(1 << 20, 0),
    ];
    let (missing, good) = (changes.len(), changes.len() + 1);
    let link = |n: usize| format!("link-{n:03}.");
    let (volume, stored, inodes) = victim(|root| {
        (0..=good).for_each(|n| symlink(&target, root.join(link(n))).unwrap());
    });
    let file = |n: usize| {
        let text = fs::read_link(&stored[&inodes[&OsString::from(link(n))]]).unwrap().into_os_string().into_string();
        volume.backing().join(".envelopefs/targets").join(text.unwrap().trim_matches('~'))
    };
    for (n, change) in changes.iter().enumerate() {
        let mut sealed = fs::read(file(n)).unwrap();
        change(&mut sealed);
        fs::write(file(n), sealed).unwrap();
    }
    fs::remove_file(file(missing)).unwrap();
    assert_names(&volume.check(), (0..good).map(link));
    let mount = volume.mount();
    let shown = listing(mount.path()).unwrap();
    for n in 0..good {
        assert_eq!(errno(fs::read_link(mount.path().join(link(n))), "readlink"), libc::EIO, "{n}");
        assert!(shown.contains(&OsString::from(link(n))), "{n} is listed");
    }
    assert_eq!(fs::read_link(mount.path().join(link(good))).unwrap(), Path::new(&target));
    (0..good).for_each(|n| fs::remove_file(mount.path().join(link(n))).unwrap());
    mount.unmount();
    volume.assert_clean();
}

#[test]
fn a_changed_attribute_is_eio_or_absent_and_named() {
    if !volumes() {
        return;
    }
    const VALUE: &[u8] = b"the value";
    const OTHER: &[u8] = b"another one";
    let sealed_len = VALUE.len() + 28;
    // Each byte; then the length; then the name; then the other attribute's value.
    let (shorter, longer, empty) = (sealed_len, sealed_len + 1, sealed_len + 2);
    let (renamed, exchanged, good) = (sealed_len + 3, sealed_len + 4, sealed_len + 5);
    let file = |n: usize| format!("file-{n:03}.");
    let get = |path: &Path, name: &str| {
        let mut value = Vec::with_capacity(100);
        rustix::fs::getxattr(path, name, rustix::buffer::spare_capacity(&mut value)).map(|_| value)
    };
    let (volume, stored, inodes) = victim(|root| {
        for n in 0..=good {
            let path = root.join(file(n));
            fs::write(&path, file(n)).unwrap();
            rustix::fs::setxattr(&path, "user.value", VALUE, XattrFlags::CREATE).unwrap();
            rustix::fs::setxattr(&path, "user.other", OTHER, XattrFlags::CREATE).unwrap();
        }
    });
    let path = |n: usize| &stored[&inodes[&OsString::from(file(n))]];
    // A name's stored form is the same on every file; the value's length tells which is which.
    let mut list = Vec::with_capacity(1000);
    rustix::fs::listxattr(path(good), rustix::buffer::spare_capacity(&mut list)).unwrap();
    let names: Vec<&str> = std::str::from_utf8(&list).unwrap().split_terminator('\0').collect();
    let names: Vec<&str> = names.into_iter().filter(|name| name.starts_with("user.")).collect();
    let is_value = |name: &&&str| get(path(good), name).unwrap().len() == sealed_len;
    let value = *names.iter().find(is_value).unwrap();
    let other = *names.iter().find(|name| **name != value).unwrap();
    for n in 0..good {
        let mut sealed = get(path(n), value).unwrap();
        match n {
            n if n < sealed_len => sealed[n] ^= 1 << (n % 8),
            n if n == shorter => sealed.truncate(sealed_len - 1),
            n if n == longer => sealed.push(0),
            n if n == empty => sealed.clear(),
            n if n == exchanged => {
                let theirs = get(path(n), other).unwrap();
                rustix::fs::setxattr(path(n), other, &sealed, XattrFlags::REPLACE).unwrap();
                sealed = theirs;
            }
            n => {
                let last = if value.ends_with('A') { 'B' } else { 'A' };
                let changed = format!("{}{last}", &value[..value.len() - 1]);
                rustix::fs::setxattr(path(n), &changed, &sealed, XattrFlags::CREATE).unwrap();
                rustix::fs::removexattr(path(n), value).unwrap();
                continue;
            }
        }
        rustix::fs::setxattr(path(n), value, &sealed, XattrFlags::REPLACE).unwrap();
    }
    assert_names(&volume.check(), (0..good).map(file));
    let mount = volume.mount();
    for n in 0..=good {
        let path = mount.path().join(file(n));
        let want = match n {
            n if n == good => Ok(VALUE.to_vec()),
            n if n == renamed => Err(Errno::NODATA),
            _ => Err(Errno::IO),
        };
        assert_eq!(get(&path, "user.value"), want, "{n}");
        let want = if n == exchanged { Err(Errno::IO) } else { Ok(OTHER.to_vec()) };
        assert_eq!(get(&path, "user.other"), want, "{n}");
        assert_eq!(fs::read_to_string(&path).unwrap(), file(n), "contents are unharmed");
    }
    mount.unmount();
}
