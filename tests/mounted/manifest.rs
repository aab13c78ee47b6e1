//! Everything a program can see of a tree, for comparing before and after.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// One line for each entry by relative path: type, mode, owner, size, mtime, link count and partners, device, extended attributes
/// (ACLs among them), contents.
pub(crate) fn manifest(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut entries = BTreeMap::new();
    let mut first_names = BTreeMap::new();
    let mut paths = vec![root.to_owned()];
    while let Some(path) = paths.pop() {
        let mut children: Vec<PathBuf> = match fs::symlink_metadata(&path).unwrap().is_dir() {
            true => fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()).collect(),
            false => Vec::new(),
        };
        children.sort_by(|a, b| b.cmp(a));
        paths.extend(children);
        let relative = path.strip_prefix(root).unwrap().to_owned();
        entries.insert(relative.clone(), describe(&path, &relative, &mut first_names));
    }
    entries
}

/// Fails the test with the first few differences.
pub(crate) fn assert_same(before: &BTreeMap<PathBuf, String>, after: &BTreeMap<PathBuf, String>) {
    let mut differences = Vec::new();
    for path in before.keys().chain(after.keys().filter(|path| !before.contains_key(*path))) {
        let (a, b) = (before.get(path), after.get(path));
        if a != b {
            differences.push(format!("{}:\n  before {a:?}\n  after  {b:?}", path.display()));
        }
    }
    assert!(
        differences.is_empty(),
        "{} entries differ\n{}",
        differences.len(),
        differences[..differences.len().min(10)].join("\n")
    );
}

fn describe(path: &Path, relative: &Path, first_names: &mut BTreeMap<u64, PathBuf>) -> String {
    let metadata = fs::symlink_metadata(path).unwrap();
    let kind = metadata.file_type();
    let contents = if kind.is_file() {
        let mut hash = Sha256::new();
        std::io::copy(&mut fs::File::open(path).unwrap(), &mut HashWriter(&mut hash)).unwrap();
        hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    } else if kind.is_symlink() {
        format!("-> {:?}", fs::read_link(path).unwrap())
    } else if kind.is_dir() {
        "dir".to_owned()
    } else {
        assert!(kind.is_fifo() || kind.is_socket() || kind.is_char_device() || kind.is_block_device());
        format!("rdev {}", metadata.rdev())
    };
    let links = if kind.is_dir() {
        String::new()
    } else {
        let first = first_names.entry(metadata.ino()).or_insert_with(|| relative.to_owned());
        format!("{} links, first {}", metadata.nlink(), first.display())
    };
    // A directory's size is the backing filesystem's own affair.
    let size = if kind.is_dir() { 0 } else { metadata.len() };
    format!(
        "{:o} {}:{} size {size} mtime {}.{:09} {links} {contents} {}",
        metadata.mode(),
        metadata.uid(),
        metadata.gid(),
        metadata.mtime(),
        metadata.mtime_nsec(),
        xattrs(path)
    )
}

fn xattrs(path: &Path) -> String {
    let mut names = vec![0; 65_536];
    let length = rustix::fs::llistxattr(path, &mut names[..]).unwrap();
    let mut all: Vec<String> = names[..length]
        .split(|&byte| byte == 0)
        .filter(|name| !name.is_empty())
        .map(|name| {
            let mut value = vec![0; 65_536];
            let name = std::ffi::OsStr::from_bytes(name);
            let length = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap();
            format!("{name:?}={:?}", &value[..length])
        })
        .collect();
    all.sort();
    all.join(" ")
}

struct HashWriter<'a>(&'a mut Sha256);

impl std::io::Write for HashWriter<'_> {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        self.0.update(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
