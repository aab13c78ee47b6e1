//! Listings: complete, stable while entries come and go, and usable by position.

use std::collections::BTreeSet;
use std::fs::{self, File};

use rustix::fs::{Dir, Mode, OFlags};

use crate::common::sh;
use crate::on_mount;

fn open_dir(path: &std::path::Path) -> Dir {
    Dir::new(rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap()).unwrap()
}

fn name(entry: &rustix::fs::DirEntry) -> String {
    entry.file_name().to_str().unwrap().to_owned()
}

#[test]
fn a_listing_of_ten_thousand_entries_is_complete_while_others_come_and_go() {
    on_mount(|dir| {
        for i in 0..10_000 {
            File::create(dir.join(format!("stay-{i:05}"))).unwrap();
        }
        let mut seen = Vec::new();
        for (i, entry) in open_dir(dir).enumerate() {
            seen.push(name(&entry.unwrap()));
            if i % 10 == 0 {
                File::create(dir.join(format!("new-{i}"))).unwrap();
            }
            if i % 20 == 10 {
                fs::remove_file(dir.join(format!("new-{}", i - 10))).unwrap();
            }
        }
        let stayed: Vec<&String> = seen.iter().filter(|name| name.starts_with("stay-")).collect();
        assert_eq!(stayed.len(), 10_000, "each once");
        assert_eq!(stayed.iter().collect::<BTreeSet<_>>().len(), 10_000);
        assert_eq!(seen.iter().filter(|name| *name == "." || *name == "..").count(), 2);
    });
}

#[test]
fn removing_every_entry_while_listing_removes_all() {
    on_mount(|dir| {
        for i in 0..3_000 {
            File::create(dir.join(format!("entry-{i}"))).unwrap();
        }
        for entry in open_dir(dir) {
            let name = name(&entry.unwrap());
            if name != "." && name != ".." {
                fs::remove_file(dir.join(name)).unwrap();
            }
        }
        assert_eq!(fs::read_dir(dir).unwrap().count(), 0);
    });
}

#[test]
fn positions_stay_valid_while_entries_come_and_go() {
    on_mount(|dir| {
        for i in 0..10_000 {
            File::create(dir.join(format!("stay-{i:05}"))).unwrap();
        }
        let mut stream = open_dir(dir);
        let mut order = Vec::new();
        while let Some(entry) = stream.read() {
            let entry = entry.unwrap();
            order.push((name(&entry), entry.offset()));
        }
        for i in 0..200 {
            File::create(dir.join(format!("new-{i}"))).unwrap();
            fs::remove_file(dir.join(format!("stay-{:05}", i * 7))).unwrap();
        }
        let gone: BTreeSet<String> = (0..200).map(|i| format!("stay-{:05}", i * 7)).collect();
        for start in (0..order.len() - 1).step_by(613) {
            // telldir behind the entry `start`, seekdir there: what followed then follows now. Of entries that came or went since
            // opendir, POSIX leaves open whether they show.
            stream.seek(order[start].1).unwrap();
            let mut follow = Vec::new();
            while follow.len() < 50 {
                match stream.read() {
                    Some(entry) => follow.push(name(&entry.unwrap())),
                    None => break,
                }
            }
            follow.retain(|name| !name.starts_with("new-") && !gone.contains(name));
            let want: Vec<String> =
                order[start + 1..].iter().map(|(name, _)| name.clone()).filter(|name| !gone.contains(name)).collect();
            assert_eq!(follow[..], want[..follow.len()], "behind entry {start}");
        }
        stream.rewind();
        let again = stream.by_ref().map(|entry| name(&entry.unwrap())).filter(|name| name.starts_with("new-")).count();
        assert_eq!(again, 200, "a rewound listing shows new entries");
    });
}

#[test]
fn a_large_listing_with_long_names() {
    on_mount(|dir| {
        // About 2 MiB of names, long ones among them.
        for i in 0..10_000 {
            let length = if i % 50 == 0 { 240 } else { 200 };
            File::create(dir.join(format!("{i:05}{}", "n".repeat(length - 5 - i % 60)))).unwrap();
        }
        let names: BTreeSet<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names.len(), 10_000);
        assert_eq!(sh(dir, "ls -f | wc -l").trim(), "10002");
        assert_eq!(sh(dir, "ls -l | wc -l").trim(), "10001");
        sh(dir, "ls -f | grep -v '^\\.*$' | xargs rm");
        assert_eq!(fs::read_dir(dir).unwrap().count(), 0);
    });
}

#[test]
fn types_and_inodes_of_a_listing_match_stat() {
    on_mount(|dir| {
        sh(dir, "touch f; mkdir d; mkfifo p; mknod c c 1 3; ln -s f l; ln f g");
        let mut count = 0;
        for entry in open_dir(dir) {
            let entry = entry.unwrap();
            let stat = rustix::fs::lstat(dir.join(name(&entry))).unwrap();
            if name(&entry) != ".." {
                assert_eq!(entry.ino(), stat.st_ino, "{}", name(&entry));
            }
            assert_eq!(entry.file_type(), rustix::fs::FileType::from_raw_mode(stat.st_mode), "{}", name(&entry));
            count += 1;
        }
        assert_eq!(count, 8);
    });
}

#[test]
fn two_listings_of_one_directory_run_side_by_side() {
    on_mount(|dir| {
        for i in 0..500 {
            File::create(dir.join(format!("{i}"))).unwrap();
        }
        let (mut one, mut two) = (open_dir(dir), open_dir(dir));
        let (mut first, mut second) = (Vec::new(), Vec::new());
        loop {
            let step = (one.read(), two.read());
            first.extend(step.0.map(|entry| name(&entry.unwrap())));
            let Some(entry) = step.1 else { break };
            second.push(name(&entry.unwrap()));
        }
        assert_eq!(first.len(), 502);
        assert_eq!(first, second);
    });
}

#[test]
fn removing_directories() {
    on_mount(|dir| {
        fs::create_dir_all(dir.join("a/b")).unwrap();
        assert_eq!(fs::remove_dir(dir.join("a")).unwrap_err().raw_os_error(), Some(libc::ENOTEMPTY));
        fs::write(dir.join("file"), "").unwrap();
        assert_eq!(fs::remove_dir(dir.join("file")).unwrap_err().raw_os_error(), Some(libc::ENOTDIR));
        assert_eq!(fs::remove_file(dir.join("a")).unwrap_err().raw_os_error(), Some(libc::EISDIR));
        fs::remove_dir(dir.join("a/b")).unwrap();
        fs::remove_dir(dir.join("a")).unwrap();
        assert_eq!(fs::create_dir(dir.join("file")).unwrap_err().raw_os_error(), Some(libc::EEXIST));
        assert_eq!(fs::metadata(dir.join("a")).unwrap_err().raw_os_error(), Some(libc::ENOENT));
    });
}
