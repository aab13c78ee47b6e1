//! Names that others rename meanwhile, calls of the backing directory that fail: nothing is mistaken, lost or left behind.

use super::hooked::{Hook, Hooked};
use super::*;
use crate::fs::check::{Finding, Reporter};

type Action = Box<dyn FnOnce() + Send>;
/// What a call does when it is made: something once, or fail with an errno.
enum Then {
    Once(Action),
    Fail(i32),
}

/// The next call of a name (about an entry, if one is given) does this.
struct Armed {
    call: &'static str,
    entry: Option<OsString>,
    then: Then,
}

/// Waits in a backing directory for one call.
#[derive(Clone, Default)]
struct Trap(Arc<Mutex<Option<Armed>>>);

impl Trap {
    fn set(&self, call: &'static str, entry: Option<&OsStr>, then: Then) {
        *self.0.lock() = Some(Armed { call, entry: entry.map(Into::into), then });
    }

    fn clear(&self) {
        *self.0.lock() = None;
    }

    /// True if the call that was waited for has come.
    fn sprung(&self) -> bool {
        self.0.lock().is_none()
    }

    fn hook(&self) -> Arc<Hook> {
        let trap = self.0.clone();
        Arc::new(move |call, entry| {
            let mut set = trap.lock();
            let meant = |armed: &mut Armed| armed.call == call && armed.entry.as_deref().is_none_or(|at| at == entry);
            match set.take_if(meant) {
                Some(Armed { then: Then::Once(action), .. }) => {
                    drop(set);
                    action();
                    Ok(())
                }
                Some(armed @ Armed { then: Then::Fail(errno), .. }) => {
                    // It goes on failing.
                    *set = Some(armed);
                    Err(std::io::Error::from_raw_os_error(errno))
                }
                None => Ok(()),
            }
        })
    }
}

impl Scratch {
    fn mount_trapped(&self, trap: &Trap) -> Arc<Fs> {
        let root = rustix::process::geteuid().is_root();
        let options = FsOptions { give_to_caller: root, ..self.mount().options };
        let root = Hooked::root(open_root(self.path()).unwrap(), trap.hook());
        Arc::new(Fs::new(root, self.ring.clone(), options).unwrap())
    }

    /// Names in the directory of long symlink targets.
    fn targets(&self) -> usize {
        std::fs::read_dir(self.path().join(".envelopefs/targets")).map_or(0, |entries| entries.count())
    }
}

/// Exchanges two names in the root when the call comes.
fn exchange_at(fs: &Arc<Fs>, trap: &Trap, call: &'static str, one: &'static str, other: &'static str) {
    let fs = fs.clone();
    let exchange = move || fs.rename(Ino::ROOT, os(one), Ino::ROOT, os(other), RenameHow::Exchange).unwrap();
    trap.set(call, None, Then::Once(Box::new(exchange)));
}

#[test]
fn attributes_read_while_the_name_moves_on_are_the_inodes_own() {
    let (scratch, trap) = (Scratch::new(), Trap::default());
    let fs = scratch.mount_trapped(&trap);
    let a = write_file(&fs, Ino::ROOT, os("a"), b"a").attr.ino;
    let b = write_file(&fs, Ino::ROOT, os("b"), b"b").attr.ino;
    fs.setxattr(&ROOT, a, os("user.of-a"), b"a", XattrHow::Set).unwrap();
    fs.setxattr(&ROOT, b, os("user.of-b"), b"b", XattrHow::Set).unwrap();
    for _ in 0..2 {
        for call in ["pin", "get_xattr"] {
            exchange_at(&fs, &trap, call, "a", "b");
            assert_eq!(fs.getxattr(a, os("user.of-a")).unwrap(), b"a", "{call}");
            assert_eq!(errno(fs.getxattr(b, os("user.of-a"))), libc::ENODATA);
        }
        exchange_at(&fs, &trap, "pin", "a", "b");
        assert_eq!(fs.listxattr(b).unwrap(), ["user.of-b"]);
        assert!(trap.sprung());
    }
}

#[test]
fn a_symlink_read_while_its_name_moves_on_has_its_own_target() {
    let (scratch, trap) = (Scratch::new(), Trap::default());
    let fs = scratch.mount_trapped(&trap);
    let a = fs.symlink(&ROOT, Ino::ROOT, os("a"), os("target of a")).unwrap().attr.ino;
    fs.symlink(&ROOT, Ino::ROOT, os("b"), os("target of b")).unwrap();
    write_file(&fs, Ino::ROOT, os("c"), b"no symlink");
    for other in ["b", "c"] {
        exchange_at(&fs, &trap, "read_link", "a", other);
        assert_eq!(fs.readlink(a).unwrap(), b"target of a", "{other}");
        assert!(trap.sprung());
        fs.rename(Ino::ROOT, os("a"), Ino::ROOT, os(other), RenameHow::Exchange).unwrap();
    }
}

#[test]
fn a_removed_symlink_that_is_still_held_can_be_read() {
    let scratch = Scratch::new();
    let fs = scratch.mount();
    for len in [10, 4000] {
        let target = OsString::from("t".repeat(len));
        let held = fs.symlink(&ROOT, Ino::ROOT, os("link"), &target).unwrap().attr.ino;
        fs.unlink(Ino::ROOT, os("link")).unwrap();
        assert_eq!(fs.readlink(held).unwrap(), target.as_encoded_bytes());
        assert_eq!(fs.getattr(held).unwrap().size, len as u64);
        assert_eq!(scratch.targets(), 0);
        fs.forget(held, 1);
    }
}

#[test]
fn a_symlink_that_cannot_be_made_leaves_no_target_behind() {
    let (scratch, trap) = (Scratch::new(), Trap::default());
    let fs = scratch.mount_trapped(&trap);
    let target = OsString::from("t".repeat(4000));
    // The side link of a long name and the entry itself are both symlinks to the backing directory.
    for name in [long("n"), "short".into()] {
        trap.set("make_symlink", None, Then::Fail(libc::ENOSPC));
        assert_eq!(errno(fs.symlink(&ROOT, Ino::ROOT, &name, &target)), libc::ENOSPC);
        trap.clear();
        assert_eq!(scratch.targets(), 0);
        assert_eq!(errno(fs.lookup(Ino::ROOT, &name)), libc::ENOENT);
    }
    // Made, but not to be looked at: taken back.
    trap.set("stat", None, Then::Fail(libc::EIO));
    assert_eq!(errno(fs.symlink(&ROOT, Ino::ROOT, os("link"), &target)), libc::EIO);
    trap.clear();
    assert_eq!(scratch.targets(), 0);
    // Another one's name stays, with its own target.
    let there = fs.symlink(&ROOT, Ino::ROOT, os("link"), &target).unwrap().attr.ino;
    assert_eq!(errno(fs.symlink(&ROOT, Ino::ROOT, os("link"), os(&"u".repeat(4000)))), libc::EEXIST);
    assert_eq!((scratch.targets(), fs.readlink(there).unwrap().len()), (1, 4000));
}

#[test]
fn a_long_target_is_durable_before_its_symlink_is_made() {
    let (scratch, calls) = (Scratch::new(), Arc::new(Mutex::new(Vec::new())));
    let log = calls.clone();
    let hook: Arc<Hook> = Arc::new(move |call, entry| {
        log.lock().push((call, entry.to_os_string()));
        Ok(())
    });
    let root = Hooked::root(open_root(scratch.path()).unwrap(), hook);
    let fs = Fs::new(root, scratch.ring.clone(), scratch.mount().options).unwrap();
    fs.symlink(&ROOT, Ino::ROOT, os("link"), os(&"t".repeat(4000))).unwrap();
    let calls = calls.lock();
    let at = |call: &str, entry: &str| calls.iter().position(|(c, e)| *c == call && (e == entry || entry.is_empty()));
    let made = at("make_symlink", "").unwrap();
    assert!(at("sync", "targets").is_some_and(|synced| synced < made), "{calls:?}");
    assert!(at("sync", ".envelopefs").is_some_and(|synced| synced < made), "the directory itself is new: {calls:?}");
}

#[test]
fn a_listing_that_fails_loses_no_entry() {
    let (scratch, trap) = (Scratch::new(), Trap::default());
    let fs = scratch.mount_trapped(&trap);
    let dir = fs.mkdir(&ROOT, Ino::ROOT, os("d"), 0o755, 0).unwrap().attr.ino;
    let all: Vec<OsString> = (0..20).map(|n| OsString::from(format!("entry-{n:02}"))).collect();
    for name in &all {
        write_file(&fs, dir, name, b"x");
    }
    for plus in [false, true] {
        let handle = fs.opendir(dir).unwrap();
        let (mut seen, mut failures) = (Vec::<DirItem>::new(), 0);
        let mut tripped = false;
        loop {
            let before = seen.len();
            let from = seen.last().map_or(0, |item| item.offset);
            let mut take = |item: &DirItem| {
                seen.push(item.clone());
                // In the middle of the listing the next entry cannot be fetched.
                if seen.len() == 7 && !std::mem::replace(&mut tripped, true) {
                    trap.set("next", None, Then::Fail(libc::EIO));
                }
                true
            };
            let outcome = match plus {
                false => fs.readdir(handle, from, &mut take),
                true => fs.readdirplus(handle, from, &mut |item, _| take(item)),
            };
            match outcome {
                Ok(()) if seen.len() == before => break,
                Ok(()) => {}
                Err(error) => {
                    assert_eq!(
                        (error.errno(), seen.len()),
                        (libc::EIO, before),
                        "what was delivered is not taken back"
                    );
                    failures += 1;
                    trap.clear();
                }
            }
        }
        let mut seen: Vec<OsString> = seen.into_iter().map(|item| item.name).collect();
        fs.releasedir(handle);
        seen.retain(|name| name != "." && name != "..");
        seen.sort();
        assert_eq!((seen, failures), (all.clone(), 1));
    }
}

#[test]
fn an_entry_that_an_error_met_comes_again() {
    let (scratch, trap) = (Scratch::new(), Trap::default());
    let dir = {
        let fs = scratch.mount();
        let dir = fs.mkdir(&ROOT, Ino::ROOT, os("d"), 0o755, 0).unwrap().attr.ino;
        write_file(&fs, dir, os("only"), b"x");
        dir
    };
    // A fresh mount: the directory's id is read when its first entry is to be shown.
    let fs = scratch.mount_trapped(&trap);
    assert_eq!(fs.lookup(Ino::ROOT, os("d")).unwrap().attr.ino, dir);
    let handle = fs.opendir(dir).unwrap();
    trap.set("read_link", Some(os(name::DIR_ID)), Then::Fail(libc::EIO));
    let (mut seen, mut failures) = (Vec::new(), 0);
    let mut offset = 0;
    for _ in 0..4 {
        let from = offset;
        let outcome = fs.readdir(handle, from, &mut |item| {
            seen.push(item.name.clone());
            offset = item.offset;
            true
        });
        if outcome.is_err() {
            failures += 1;
            trap.clear();
        }
    }
    seen.sort();
    assert_eq!(seen, [".", "..", "only"]);
    assert_eq!(failures, 1);
}

#[test]
fn a_creation_that_fails_refers_to_nothing_afterwards() {
    let (scratch, trap) = (Scratch::new(), Trap::default());
    let fs = scratch.mount_trapped(&trap);
    let nobody = Caller { uid: 65_534, gid: 65_534, pid: 0 };
    if !fs.options.give_to_caller {
        return;
    }
    trap.set("set_owner", None, Then::Fail(libc::EIO));
    assert_eq!(errno(fs.create(&nobody, Ino::ROOT, os("f"), 0o600, 0, WRITE)), libc::EIO);
    assert_eq!(errno(fs.mkdir(&nobody, Ino::ROOT, os("d"), 0o700, 0)), libc::EIO);
    assert_eq!(errno(fs.mknod(&nobody, Ino::ROOT, os("p"), libc::S_IFIFO | 0o600, 0, 0)), libc::EIO);
    trap.clear();
    assert_eq!(fs.inodes.len(), 1, "the root alone");
    assert_eq!(names(&fs, Ino::ROOT), [".", ".."]);
    let left = std::fs::read_dir(scratch.path()).unwrap().count();
    assert_eq!(left, 2, "the control directory and the root's id");
}

/// Collects what a check finds.
#[derive(Default)]
struct Findings(Mutex<Vec<String>>);

impl Reporter for Findings {
    fn found(&self, finding: &Finding) {
        self.0.lock().push(format!("{}: {}", finding.path.display(), finding.what));
    }
    fn total(&self, _bytes: u64) {}
    fn verified(&self, _bytes: u64) {}
}

#[test]
fn a_check_goes_on_behind_a_directory_that_cannot_be_listed() {
    let (scratch, trap) = (Scratch::new(), Trap::default());
    let fs = scratch.mount_trapped(&trap);
    fs.mkdir(&ROOT, Ino::ROOT, os("lost"), 0o755, 0).unwrap();
    let stored = stored(scratch.path(), std::fs::FileType::is_dir).remove(0);
    let file = write_file(&fs, Ino::ROOT, os("file"), b"contents").attr.ino;
    std::fs::remove_file(scratch.path().join(&stored).join(name::DIR_ID)).unwrap();
    trap.set("list", Some(&stored), Then::Fail(libc::EIO));
    let findings = Findings::default();
    let summary = fs.check(1, &findings).unwrap();
    assert_eq!((summary.files, summary.directories, summary.damaged), (1, 1, 1), "{:?}", findings.0.lock());
    assert!(findings.0.lock()[0].starts_with("lost: the directory cannot be listed"));
    fs.forget(file, 1);
}

/// Names of what is stored in a backing directory and of a kind.
fn stored(root: &Path, kind: fn(&std::fs::FileType) -> bool) -> Vec<OsString> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(root).unwrap() {
        let entry = entry.unwrap();
        if kind(&entry.file_type().unwrap()) && entry.file_name() != name::CONTROL_DIR {
            names.push(entry.file_name());
        }
    }
    names
}

#[test]
fn a_check_holds_few_directories_open_however_many_there_are() {
    let scratch = Scratch::new();
    let fs = scratch.mount();
    for n in 0..200 {
        let dir = fs.mkdir(&ROOT, Ino::ROOT, os(&format!("d{n}")), 0o755, 0).unwrap().attr.ino;
        fs.mkdir(&ROOT, dir, os("below"), 0o755, 0).unwrap();
    }
    drop(fs);
    // Counts the descriptors that are open under the volume whenever a directory is listed.
    let (path, most) = (scratch.path().to_path_buf(), Arc::new(Mutex::new(0)));
    let seen = most.clone();
    let hook: Arc<Hook> = Arc::new(move |call, _| {
        if call == "list" {
            let open = std::fs::read_dir("/proc/self/fd").unwrap();
            let ours =
                open.filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok()).filter(|at| at.starts_with(&path));
            let mut most = seen.lock();
            *most = ours.count().max(*most);
        }
        Ok(())
    });
    let root = Hooked::root(open_root(scratch.path()).unwrap(), hook);
    let fs = Fs::new(root, scratch.ring.clone(), scratch.mount().options).unwrap();
    let summary = fs.check(1, &Findings::default()).unwrap();
    assert_eq!((summary.directories, summary.damaged), (400, 0));
    let most = *most.lock();
    assert!((1..16).contains(&most), "{most}");
}

#[test]
fn a_check_notices_two_directories_with_one_id() {
    let scratch = Scratch::new();
    let fs = scratch.mount();
    for name in ["a", "b"] {
        let dir = fs.mkdir(&ROOT, Ino::ROOT, os(name), 0o755, 0).unwrap().attr.ino;
        write_file(&fs, dir, os("file"), b"contents");
    }
    let dirs = stored(scratch.path(), std::fs::FileType::is_dir);
    let [a, b] = [&dirs[0], &dirs[1]].map(|dir| scratch.path().join(dir));
    // As if one directory had been copied over the other: all of its names decrypt.
    std::fs::remove_dir_all(&b).unwrap();
    let copied = std::process::Command::new("cp").arg("-a").args([&a, &b]).status().unwrap();
    assert!(copied.success());
    let findings = Findings::default();
    let summary = scratch.mount().check(1, &findings).unwrap();
    assert_eq!(summary.damaged, 1, "{:?}", findings.0.lock());
    assert!(findings.0.lock()[0].contains("the same id as /"), "{:?}", findings.0.lock());
}

/// Found by making many files on a busy disk: the daemon kept each open until the background had flushed it, and ran out of descriptors.
#[test]
fn files_closed_faster_than_they_are_flushed_do_not_use_descriptors_up() {
    let scratch = Scratch::new();
    let fs = scratch.mount();
    let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let (before, limit) = (open(), (crate::sys::process::file_limit() / 4).min(8192) + 500);
    // No background runs here: it has fallen behind for good.
    let many = limit + 500;
    for n in 0..many {
        write_file(&fs, Ino::ROOT, os(&format!("new {n}")), b"x");
    }
    assert!(open() - before < limit, "{} of {limit} after {many} new files", open() - before);
    // Files whose commits are in the journal alone.
    fs.commit_all().unwrap();
    for n in 0..many {
        let ino = fs.lookup(Ino::ROOT, os(&format!("new {n}"))).unwrap().attr.ino;
        let handle = fs.open(&ROOT, ino, WRITE).unwrap();
        fs.write(handle, 0, b"y", WriteHow::default()).unwrap();
        fs.release(handle).unwrap();
    }
    assert!(open() - before < limit, "{} of {limit} after {many} changed files", open() - before);
    assert_eq!(read_file(&fs, Ino::ROOT, os("new 7")).unwrap(), b"y");
}
