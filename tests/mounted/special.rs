//! Nodes that are not files, and what the volume says of itself.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};

use crate::common::sh;
use crate::{on_mount, over_remount};

#[test]
fn programs_talk_through_a_fifo() {
    on_mount(|dir| {
        let said = sh(dir, "mkfifo pipe; (echo through the pipe > pipe) & cat pipe");
        assert_eq!(said, "through the pipe\n");
        assert!(fs::metadata(dir.join("pipe")).unwrap().file_type().is_fifo());
    });
}

#[test]
fn programs_meet_at_a_unix_socket() {
    on_mount(|dir| {
        let path = dir.join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let client = std::thread::spawn({
            let path = path.clone();
            move || UnixStream::connect(path).unwrap().write_all(b"hello").unwrap()
        });
        let mut heard = String::new();
        listener.accept().unwrap().0.read_to_string(&mut heard).unwrap();
        client.join().unwrap();
        assert_eq!(heard, "hello");
        assert!(fs::metadata(&path).unwrap().file_type().is_socket());
        drop(listener);
        fs::remove_file(&path).unwrap();
    });
}

#[test]
fn device_nodes_work_where_the_mount_allows_them() {
    over_remount(
        |dir| {
            sh(dir, "mknod null c 1 3; mknod zero c 1 5; echo gone > null; test -z \"$(cat null)\"");
        },
        |dir| {
            assert_eq!(sh(dir, "head -c 5 zero | od -An -tx1").trim(), "00 00 00 00 00");
            assert_eq!(fs::metadata(dir.join("null")).unwrap().rdev(), libc::makedev(1, 3));
        },
    );
}

#[test]
fn statfs_describes_the_backing_filesystem() {
    on_mount(|dir| {
        let volume = rustix::fs::statvfs(dir).unwrap();
        let below = rustix::fs::statvfs(dir.parent().unwrap()).unwrap();
        assert_eq!(volume.f_namemax, 255);
        assert_eq!(volume.f_frsize * volume.f_blocks, below.f_frsize * below.f_blocks);
        assert_eq!(volume.f_files, below.f_files);
        assert!(volume.f_bavail <= volume.f_bfree && volume.f_bfree <= volume.f_blocks);
        sh(dir, "df . >/dev/null && df -i . >/dev/null");
    });
}

#[test]
fn scripts_and_programs_run_from_the_mount() {
    on_mount(|dir| {
        sh(dir, "printf '#!/bin/sh\\necho ran $1\\n' > script; chmod +x script; cp /bin/true prog");
        assert_eq!(sh(dir, "./script well; ./prog"), "ran well\n");
    });
}

#[test]
fn block_counts_follow_the_data() {
    on_mount(|dir| {
        fs::write(dir.join("file"), vec![1; 1 << 20]).unwrap();
        fs::File::open(dir.join("file")).unwrap().sync_all().unwrap();
        let blocks = fs::metadata(dir.join("file")).unwrap().blocks();
        assert!((2048..2200).contains(&blocks), "{blocks} of 512 bytes for 1 MiB");
        let file = fs::File::create(dir.join("sparse")).unwrap();
        file.set_len(1 << 30).unwrap();
        file.sync_all().unwrap();
        assert!(file.metadata().unwrap().blocks() < 64);
        let du: u64 = sh(dir, "du -k --apparent-size sparse | cut -f1").trim().parse().unwrap();
        assert_eq!(du, 1 << 20);
    });
}
