//! A backing directory with changed names, side links, directory id, symlinks and attributes: listed, looked up and read through the
//! filesystem. What it shows is what was stored under that very name, or an error, or nothing.

#![no_main]

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use envelopefs::fs::{Caller, Fs, FsOptions, Ino, Kind, OpenHow, XattrHow};
use envelopefs::keys::KeyRing;
use envelopefs::store::{StoreOptions, open_root};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use rustix::fs::XattrFlags;
use uuid::Uuid;

const DIR_ID: &str = ".envelopefs.dir";
const TARGETS: &str = ".envelopefs/targets";
const NAMES: [(&str, usize); 4] = [("short", 1), ("n", 175), ("l", 176), ("m", 255)];
const LINKS: [(&str, usize); 3] = [("link", 10), ("long link", 3_043), ("side link", 4_000)];
const VALUES: [(&str, &[u8]); 2] = [("user.one", b"first"), ("user.other", b"second, and longer")];

/// What an untouched volume holds, by plain and by stored name.
struct Sample {
    ring: Arc<KeyRing>,
    id: OsString,
    /// Stored name of each file, with its plain name.
    files: BTreeMap<OsString, OsString>,
    /// Stored symlinks, side links among them, with their stored targets.
    links: BTreeMap<OsString, OsString>,
    /// Plain targets by stored one.
    plain_targets: BTreeMap<OsString, OsString>,
    targets: BTreeMap<OsString, Vec<u8>>,
    attributes: BTreeMap<OsString, Vec<u8>>,
}

fn options(read_only: bool) -> FsOptions {
    FsOptions { read_only, give_to_caller: false, store: StoreOptions::of_this_kernel() }
}

fn caller() -> Caller {
    Caller { uid: 0, gid: 0, pid: 0 }
}

fn get_attribute(path: &Path, name: &OsStr) -> Vec<u8> {
    let mut value = Vec::with_capacity(4096);
    rustix::fs::lgetxattr(path, name, rustix::buffer::spare_capacity(&mut value)).expect("lgetxattr");
    value
}

static SAMPLE: LazyLock<Sample> = LazyLock::new(|| {
    let scratch = tempfile::tempdir_in("/dev/shm").expect("a directory in memory");
    let root = scratch.path();
    std::fs::create_dir(root.join(".envelopefs")).expect("mkdir");
    let ring = Arc::new(KeyRing::generate(Uuid::nil()));
    let fs = Fs::new(open_root(root).expect("backing directory"), ring.clone(), options(false)).expect("filesystem");
    let mut sample = Sample {
        ring: ring.clone(),
        id: OsString::new(),
        files: BTreeMap::new(),
        links: BTreeMap::new(),
        plain_targets: BTreeMap::new(),
        targets: BTreeMap::new(),
        attributes: BTreeMap::new(),
    };
    let list = |dir: &Path| -> Vec<OsString> {
        std::fs::read_dir(dir).expect("listing").map(|entry| entry.expect("entry").file_name()).collect()
    };
    for (name, len) in NAMES {
        let plain = OsString::from(name.repeat(len));
        let before = list(root);
        let (entry, handle) = fs
            .create(&caller(), Ino::ROOT, &plain, 0o600, 0, OpenHow { write: true, ..OpenHow::default() })
            .expect("create");
        fs.release(handle).expect("release");
        let made = |stored: &OsString| root.join(stored).is_file() && !before.contains(stored);
        let stored = list(root).into_iter().find(made).expect("a new entry");
        if sample.attributes.is_empty() {
            for (attribute, value) in VALUES {
                fs.setxattr(&caller(), entry.attr.ino, OsStr::new(attribute), value, XattrHow::Set).expect("setxattr");
            }
            let mut names = Vec::with_capacity(4096);
            rustix::fs::llistxattr(root.join(&stored), rustix::buffer::spare_capacity(&mut names)).expect("llistxattr");
            for name in names.split(|byte| *byte == 0).filter(|name| name.starts_with(b"user.")) {
                let name = OsStr::from_bytes(name);
                sample.attributes.insert(name.into(), get_attribute(&root.join(&stored), name));
            }
        }
        sample.files.insert(stored, plain);
    }
    for (name, len) in LINKS {
        let plain = OsString::from("t".repeat(len));
        let before = list(root);
        fs.symlink(&caller(), Ino::ROOT, OsStr::new(name), &plain).expect("symlink");
        let stored = list(root).into_iter().find(|stored| !before.contains(stored)).expect("a new entry");
        let target = std::fs::read_link(root.join(stored)).expect("readlink").into_os_string();
        sample.plain_targets.insert(target, plain);
    }
    for name in list(root) {
        if let Ok(target) = std::fs::read_link(root.join(&name)) {
            if name == DIR_ID {
                sample.id = target.into_os_string();
            } else {
                sample.links.insert(name, target.into_os_string());
            }
        }
    }
    for name in list(&root.join(TARGETS)) {
        let contents = std::fs::read(root.join(TARGETS).join(&name)).expect("target");
        sample.targets.insert(name, contents);
    }
    sample
});

/// Bytes of the attacker's own, or some that were stored, changed.
#[derive(Debug, Arbitrary)]
enum Bytes {
    Raw(Vec<u8>),
    Stored { which: u8, edits: Vec<(u16, u8)>, cut: Option<u16> },
}

impl Bytes {
    fn choose<'a>(self, mut stored: impl ExactSizeIterator<Item = &'a [u8]>) -> Vec<u8> {
        match self {
            Bytes::Raw(bytes) => bytes,
            Bytes::Stored { which, edits, cut } => {
                let count = stored.len().max(1);
                let mut bytes = stored.nth(usize::from(which) % count).unwrap_or_default().to_vec();
                for (at, mask) in edits {
                    let len = bytes.len().max(1);
                    if let Some(byte) = bytes.get_mut(usize::from(at) % len) {
                        *byte ^= mask;
                    }
                }
                bytes.truncate(cut.map_or(usize::MAX, usize::from));
                bytes
            }
        }
    }
}

#[derive(Debug, Arbitrary)]
struct Attack {
    id: Option<Bytes>,
    files: Vec<Bytes>,
    links: Vec<(Bytes, Bytes)>,
    targets: Vec<(Bytes, Bytes)>,
    attributes: Vec<(Bytes, Bytes)>,
}

fn bytes<'a, V: 'a>(map: &'a BTreeMap<OsString, V>) -> impl ExactSizeIterator<Item = &'a [u8]> {
    map.keys().map(|key| key.as_bytes())
}

fuzz_target!(|attack: Attack| {
    let sample = &*SAMPLE;
    let scratch = tempfile::tempdir_in("/dev/shm").expect("a directory in memory");
    let root = scratch.path();
    std::fs::create_dir_all(root.join(TARGETS)).expect("mkdir");
    // What the kernel does not take (no name, NUL, a slash, too long, there already) is no attack.
    let name = |bytes: Vec<u8>| {
        let usable =
            !bytes.is_empty() && !bytes.contains(&0) && !bytes.contains(&b'/') && bytes != b"." && bytes != b"..";
        usable.then(|| OsString::from_vec(bytes))
    };
    let id = match attack.id {
        None => sample.id.clone(),
        Some(id) => OsString::from_vec(id.choose([sample.id.as_bytes()].into_iter())),
    };
    let _ = symlink(&id, root.join(DIR_ID));
    for (stored, contents) in attack.targets.into_iter().take(8) {
        if let Some(stored) = name(stored.choose(bytes(&sample.targets))) {
            let contents = contents.choose(sample.targets.values().map(Vec::as_slice));
            let _ = std::fs::write(root.join(TARGETS).join(stored), contents);
        }
    }
    for (stored, target) in attack.links.into_iter().take(16) {
        if let Some(stored) = name(stored.choose(bytes(&sample.links))) {
            let target = target.choose(sample.links.values().map(|target| target.as_bytes()));
            let _ = symlink(OsString::from_vec(target), root.join(stored));
        }
    }
    for stored in attack.files.into_iter().take(16) {
        if let Some(stored) = name(stored.choose(bytes(&sample.files))) {
            let _ = std::fs::File::create_new(root.join(stored));
        }
    }
    let bearer = sample.files.keys().map(|stored| root.join(stored)).find(|path| path.exists());
    for (attribute, value) in attack.attributes.into_iter().take(8) {
        let attribute = attribute.choose(bytes(&sample.attributes));
        if let Some(bearer) = &bearer
            && attribute.starts_with(b"user.")
            && let Some(attribute) = name(attribute)
        {
            let value = value.choose(sample.attributes.values().map(Vec::as_slice));
            let _ = rustix::fs::lsetxattr(bearer, &*attribute, &value, XattrFlags::empty());
        }
    }

    let backing = open_root(root).expect("backing directory");
    let fs = Fs::unchecked(backing, sample.ring.clone(), options(true)).expect("filesystem");
    let Ok(handle) = fs.opendir(Ino::ROOT) else { return };
    let mut shown = Vec::new();
    let _ = fs.readdirplus(handle, 0, &mut |item, entry| {
        if item.name != "." && item.name != ".." {
            shown.push((item.name.clone(), entry.copied()));
        }
        true
    });
    fs.releasedir(handle);
    for (plain, entry) in shown {
        // Only the names that were ever stored decrypt, and only in the directory whose id they were stored for.
        assert_eq!(id, sample.id, "a name of another directory");
        assert!(
            sample.files.values().any(|known| *known == plain) || LINKS.iter().any(|(known, _)| plain == *known),
            "a name that nobody made: {plain:?}"
        );
        let Some(entry) = entry else { continue };
        assert_eq!(fs.lookup(Ino::ROOT, &plain).expect("what is listed is there").attr.ino, entry.attr.ino);
        if entry.attr.kind == Kind::Symlink
            && let Ok(target) = fs.readlink(entry.attr.ino)
        {
            assert!(sample.plain_targets.values().any(|known| known.as_bytes() == target), "a target that nobody made");
        }
        for attribute in fs.listxattr(entry.attr.ino).unwrap_or_default() {
            let Some((_, want)) = VALUES.iter().find(|(known, _)| attribute == *known) else {
                assert!(!attribute.as_bytes().starts_with(b"user."), "an attribute that nobody made: {attribute:?}");
                continue;
            };
            if let Ok(value) = fs.getxattr(entry.attr.ino, &attribute) {
                assert_eq!(value, *want, "a value that nobody stored under {attribute:?}");
            }
        }
    }
});
