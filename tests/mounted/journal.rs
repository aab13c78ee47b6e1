//! The journal as users meet it: what an fsync costs, and what a volume says and does after an unclean stop.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::{self, Mount, Volume, text};

const JOURNAL: &str = ".envelopefs/journal";

/// Watches a process with strace and tells how often it flushed.
struct Flushes {
    strace: Child,
    trace: std::path::PathBuf,
}

impl Flushes {
    fn watch(mount: &Mount, trace: &Path) -> Flushes {
        let mut strace = Command::new("strace")
            .args(["-f", "-e", "trace=fsync,fdatasync,sync_file_range,syncfs,msync", "-o"])
            .arg(trace)
            .args(["-p", &mount.pid().to_string()])
            .stderr(Stdio::piped())
            .spawn()
            .expect("strace is installed");
        // It says so when it has attached; before that it would miss calls.
        let mut said = [0; 64];
        let read = strace.stderr.as_mut().expect("piped").read(&mut said).expect("strace speaks");
        assert!(String::from_utf8_lossy(&said[..read]).contains("attached"), "{}", String::from_utf8_lossy(&said));
        // The threads are attached one after another; a moment for the last of them.
        std::thread::sleep(Duration::from_millis(300));
        Flushes { strace, trace: trace.to_owned() }
    }

    fn count(mut self) -> usize {
        let pid = rustix::process::Pid::from_child(&self.strace);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("kill");
        self.strace.wait().expect("wait");
        let trace = fs::read_to_string(&self.trace).expect("trace");
        // A call that was interrupted by another thread's is shown on two lines.
        trace.lines().filter(|line| line.contains("sync") && !line.contains("resumed>")).count()
    }
}

#[test]
fn each_fsync_is_one_device_flush() {
    if crate::native().is_some() {
        return;
    }
    common::require_root_and_fuse();
    let volume = Volume::new();
    let mount = volume.mount();
    let path = |name: &str| mount.path().join(name);
    let durable = |name: &str, len: usize| {
        let file =
            OpenOptions::new().create(true).read(true).append(name == "log").write(true).open(path(name)).unwrap();
        (&file).write_all(&vec![7; len]).unwrap();
        file.sync_all().unwrap();
        file
    };
    let big = durable("big", 1 << 20);
    let log = durable("log", 5000);
    type Case<'a> = (&'a str, &'a dyn Fn(u64));
    let cases: [Case<'_>; 4] = [
        ("first fsync of a new file", &|n| {
            let file = File::create(path(&format!("new-{n}"))).unwrap();
            (&file).write_all(&[1; 50_000]).unwrap();
            file.sync_all().unwrap();
        }),
        ("fsync after overwriting", &|n| {
            big.write_all_at(&[n as u8; 4096], n * 37 % 256 * 4096).unwrap();
            big.sync_all().unwrap();
        }),
        ("fdatasync after overwriting", &|n| {
            big.write_all_at(&[n as u8; 300], n * 41 % 256 * 4096 + 50).unwrap();
            big.sync_data().unwrap();
        }),
        ("fsync after appending", &|_| {
            (&log).write_all(&[2; 512]).unwrap();
            log.sync_all().unwrap();
        }),
    ];
    for (name, case) in cases {
        const ROUNDS: u64 = 30;
        let flushes = Flushes::watch(&mount, &volume.dir().join("trace"));
        let start = Instant::now();
        (0..ROUNDS).for_each(case);
        let elapsed = start.elapsed();
        let counted = flushes.count() as u64;
        // The background has its own, every five seconds.
        let allowed = ROUNDS + 4 * (1 + elapsed.as_secs() / 5);
        assert!((ROUNDS..=allowed).contains(&counted), "{name}: {counted} flushes for {ROUNDS}");
    }
    drop((big, log));
    mount.unmount();
    volume.assert_clean();
}

#[test]
fn after_an_unclean_stop_the_volume_is_recovered_by_whoever_may_write() {
    if crate::native().is_some() {
        return;
    }
    common::require_root_and_fuse();
    let volume = Volume::new();
    let mount = volume.mount();
    fs::write(mount.path().join("file"), vec![1; 20_000]).unwrap();
    let file = OpenOptions::new().write(true).open(mount.path().join("file")).unwrap();
    file.sync_all().unwrap();
    file.write_all_at(&[2; 5000], 3000).unwrap();
    drop(file);
    mount.kill();

    let mut refused = Command::new(common::PROGRAM);
    refused.args(["mount", "-o", "ro", "--key-file"]).arg(volume.key()).arg(volume.backing()).arg(volume.mountpoint());
    let refused = common::run(&mut refused);
    assert_eq!(refused.status.code(), Some(8), "{}", text(&refused));
    assert!(text(&refused).contains("without `ro`"), "{}", text(&refused));

    let checked = volume.check();
    assert!(checked.status.success() && text(&checked).contains("journal was replayed"), "{}", text(&checked));
    let checked = volume.check();
    assert!(checked.status.success() && !text(&checked).contains("replayed"), "{}", text(&checked));

    let mount = volume.mount_with("ro");
    let read = fs::read(mount.path().join("file")).unwrap();
    assert!(read[..3000] == [1; 3000] && read[3000..8000] == [2; 5000] && read[8000..] == [1; 12_000]);
    mount.unmount();
}

#[test]
fn a_mount_that_recovers_says_so_in_the_log() {
    if crate::native().is_some() {
        return;
    }
    common::require_root_and_fuse();
    let volume = Volume::new();
    let mount = volume.mount();
    fs::write(mount.path().join("file"), b"text").unwrap();
    mount.kill();
    for _ in 0..2 {
        // The log goes on over mounts: said once, by the first of them.
        let mount = volume.mount();
        assert_eq!(mount.log_text().matches("journal was replayed").count(), 1, "{}", mount.log_text());
        mount.unmount();
    }
}

#[test]
fn the_size_of_the_journal_is_chosen_and_changed_by_an_option() {
    if crate::native().is_some() {
        return;
    }
    common::require_root_and_fuse();
    let volume = Volume::new();
    let len = || volume.backing().join(JOURNAL).metadata().unwrap().len() >> 20;
    for (options, expected) in [("journal_size=5", 5), ("", 5), ("journal_size=9", 9), ("journal_size=4", 4)] {
        let mount = volume.mount_with(options);
        fs::write(mount.path().join("file"), options).unwrap();
        assert_eq!(len(), expected, "{options:?}");
        mount.unmount();
    }
    volume.assert_clean();
}

#[test]
fn a_journal_that_cannot_be_read_is_an_error_with_a_remedy() {
    if crate::native().is_some() {
        return;
    }
    common::require_root_and_fuse();
    let volume = Volume::new();
    volume.mount().unmount();
    fs::write(volume.backing().join(JOURNAL), [0; 100_000]).unwrap();
    let mut mount = Command::new(common::PROGRAM);
    mount.args(["mount", "--key-file"]).arg(volume.key()).arg(volume.backing()).arg(volume.mountpoint());
    let refused = common::run(&mut mount);
    assert_eq!(refused.status.code(), Some(4), "{}", text(&refused));
    let said = text(&refused);
    assert!(said.contains("journal is damaged") && said.contains("remove .envelopefs/journal"), "{said}");
    // As the remedy says, and nothing was in it.
    fs::remove_file(volume.backing().join(JOURNAL)).unwrap();
    volume.mount().unmount();
}
