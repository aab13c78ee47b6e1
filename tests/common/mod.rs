//! What tests of the installed command share: a scratch volume, its mount, and processes run to an expected end.
//!
//! Everything a test makes lies under one directory, `$ENVELOPEFS_TEST_TMP` or `/var/tmp` (on a disk and open to all users, which a
//! home directory is not), and guards take it down again, also when the test fails. A caller that kills the whole test run unmounts
//! what is mounted below that directory.

#![allow(dead_code, unreachable_pub, missing_docs)]

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_envelopefs");

/// How long a mount may take to answer, a daemon to end or another thing to come about before the test fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// A directory of the test's own, searchable by all users, removed at the end.
pub fn scratch() -> TempDir {
    let base = std::env::var_os("ENVELOPEFS_TEST_TMP").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
    // Short: pjdfstest binds sockets below it, whose paths have at most 107 bytes (unix(7)).
    let dir = tempfile::Builder::new().prefix("e-").tempdir_in(&base).expect("scratch directory");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
    dir
}

/// Panics unless the tests can mount at all: better one clear sentence than a hundred odd failures.
pub fn require_root_and_fuse() {
    assert!(
        rustix::process::geteuid().is_root(),
        "tests/mounted mounts filesystems: run it as root (contrib/test does)"
    );
    assert!(Path::new("/dev/fuse").exists(), "tests/mounted needs /dev/fuse (modprobe fuse)");
}

/// An initialised volume: `backing/`, `key` and an empty `mnt/` in a scratch directory.
pub struct Volume {
    // None when the caller owns the directory.
    _scratch: Option<TempDir>,
    dir: PathBuf,
    backing: PathBuf,
}

impl Volume {
    pub fn new() -> Volume {
        let scratch = scratch();
        let backing = scratch.path().join("backing");
        fs::create_dir(&backing).expect("mkdir backing");
        Volume::init(scratch.path().to_owned(), backing, Some(scratch))
    }

    /// A volume whose backing directory is given (an existing empty one).
    pub fn at(backing: &Path) -> Volume {
        let scratch = scratch();
        Volume::init(scratch.path().to_owned(), backing.to_owned(), Some(scratch))
    }

    fn init(dir: PathBuf, backing: PathBuf, scratch: Option<TempDir>) -> Volume {
        let volume = Volume { _scratch: scratch, dir, backing };
        write_key(&volume.key());
        fs::create_dir(volume.mountpoint()).expect("mkdir mnt");
        succeed(Command::new(PROGRAM).args(["init", "--key-file"]).arg(volume.key()).arg(&volume.backing));
        volume
    }

    /// The scratch directory around the volume, for a test's other files.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn backing(&self) -> &Path {
        &self.backing
    }

    pub fn key(&self) -> PathBuf {
        self.dir.join("key")
    }

    pub fn mountpoint(&self) -> PathBuf {
        self.dir.join("mnt")
    }

    /// Mounts as root for all users, devices and suid programs included: what pjdfstest and multi-user programs need.
    pub fn mount(&self) -> Mount {
        self.mount_with("allow_other,dev,suid")
    }

    /// Mounts with these `-o` options, in the foreground so that the daemon is a child that can be killed and waited for.
    pub fn mount_with(&self, options: &str) -> Mount {
        self.mount_with_at(options, &self.mountpoint())
    }

    /// Mounts somewhere else than at [`mountpoint`](Self::mountpoint).
    pub fn mount_at(&self, mountpoint: &Path) -> Mount {
        self.mount_with_at("", mountpoint)
    }

    fn mount_with_at(&self, options: &str, mountpoint: &Path) -> Mount {
        let mut command = Command::new(PROGRAM);
        command.args(["mount", "--foreground", "--key-file"]).arg(self.key());
        if !options.is_empty() {
            command.args(["-o", options]);
        }
        command.arg(&self.backing).arg(mountpoint);
        Mount::start(command, mountpoint.to_owned(), self.dir.join("daemon.log"))
    }

    /// `envelopefs check`: verifies every header, node and chunk of the volume, which need not be unmounted for what it reads.
    pub fn check(&self) -> Output {
        run(Command::new(PROGRAM).args(["check", "--key-file"]).arg(self.key()).arg(&self.backing))
    }

    /// Fails the test unless `check` finds nothing.
    pub fn assert_clean(&self) {
        let output = self.check();
        assert!(output.status.success(), "check found damage: {}", text(&output));
    }
}

/// A small ext4 filesystem in a file, mounted through a loop device until dropped.
pub struct Disk {
    mountpoint: PathBuf,
}

impl Disk {
    /// A disk mounted at `dir/disk`.
    pub fn new(dir: &Path, mebibytes: u64, inodes: u64) -> Disk {
        let (image, mountpoint) = (dir.join("disk.img"), dir.join("disk"));
        fs::File::create(&image).unwrap().set_len(mebibytes << 20).unwrap();
        let mut format = Command::new("/sbin/mkfs.ext4");
        // No blocks reserved for root, so that root meets the end of the disk as everybody does.
        succeed(format.args(["-q", "-m", "0", "-O", "^has_journal", "-N", &inodes.to_string()]).arg(&image));
        fs::create_dir(&mountpoint).unwrap();
        succeed(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&mountpoint));
        Disk { mountpoint }
    }

    pub fn path(&self) -> &Path {
        &self.mountpoint
    }

    /// An empty directory for a volume.
    pub fn backing(&self) -> PathBuf {
        let backing = self.mountpoint.join("backing");
        fs::create_dir(&backing).unwrap();
        backing
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let gone = Command::new("umount").arg(&self.mountpoint).stderr(Stdio::null()).status();
        if !gone.is_ok_and(|status| status.success()) {
            let _ = Command::new("umount").arg("-l").arg(&self.mountpoint).status();
        }
    }
}

/// Writes a random key file with the permissions the key-file provider insists on.
pub fn write_key(path: &Path) {
    let mut key = [0; 32];
    rustix::io::read(fs::File::open("/dev/urandom").expect("urandom"), &mut key).expect("random bytes");
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).expect("key file");
    file.write_all(&key).expect("write key");
}

/// A mounted volume; unmounted when dropped.
pub struct Mount {
    mountpoint: PathBuf,
    log: PathBuf,
    daemon: Child,
    mounted: bool,
}

impl Mount {
    /// Runs a `mount --foreground` command and waits until the mount answers.
    pub fn start(mut command: Command, mountpoint: PathBuf, log: PathBuf) -> Mount {
        let errors = fs::OpenOptions::new().create(true).append(true).open(&log).expect("log file");
        let before = device(&mountpoint);
        let daemon = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors).spawn().expect("spawn mount");
        let mut mount = Mount { mountpoint, log, daemon, mounted: true };
        let start = Instant::now();
        while device(&mount.mountpoint) == before {
            if let Some(status) = mount.daemon.try_wait().expect("wait") {
                mount.mounted = false;
                panic!("mount ended with {status}: {}", mount.log_text());
            }
            assert!(start.elapsed() < PATIENCE, "the mount does not answer: {}", mount.log_text());
            std::thread::sleep(Duration::from_millis(5));
        }
        mount
    }

    pub fn path(&self) -> &Path {
        &self.mountpoint
    }

    /// Process id of the daemon.
    pub fn pid(&self) -> u32 {
        self.daemon.id()
    }

    /// All that the daemon logged so far.
    pub fn log_text(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Unmounts and insists that the daemon ends well.
    pub fn unmount(mut self) {
        // A child that another test thread forks right now has our descriptors until it calls exec.
        let start = Instant::now();
        while !run(Command::new(PROGRAM).arg("umount").arg(&self.mountpoint)).status.success() {
            assert!(start.elapsed() < Duration::from_secs(10), "cannot unmount: {}", self.users());
            std::thread::sleep(Duration::from_millis(100));
        }
        self.mounted = false;
        self.wait_for_end();
    }

    /// Takes the mount out of the tree while it is in use: the daemon goes on until its last user is done.
    pub fn detach(&mut self) {
        succeed(Command::new("umount").arg("-l").arg(&self.mountpoint));
        self.mounted = false;
    }

    /// Waits for the daemon of a [detached](Self::detach) mount and insists that it ends well.
    pub fn wait_for_end(mut self) {
        let status = self.wait();
        assert!(status.success(), "the daemon ended with {status}: {}", self.log_text());
    }

    /// SIGKILL for the daemon, in the middle of whatever it does, and the dead mount taken away.
    pub fn kill(mut self) {
        self.daemon.kill().expect("kill");
        self.daemon.wait().expect("wait");
        succeed(Command::new("umount").arg("-l").arg(&self.mountpoint));
        self.mounted = false;
    }

    /// Who still uses the mount, for messages.
    fn users(&self) -> String {
        let under = format!("{}/", self.mountpoint.display());
        let mut users = String::new();
        for link in ["cwd", "root"].into_iter().map(String::from).chain((0..64).map(|fd| format!("fd/{fd}"))) {
            for process in fs::read_dir("/proc").expect("proc").flatten() {
                let target = fs::read_link(process.path().join(&link)).unwrap_or_default();
                if target.starts_with(&under) || target == self.mountpoint {
                    users += &format!("{} {link} {}; ", process.path().display(), target.display());
                }
            }
        }
        users
    }

    fn wait(&mut self) -> std::process::ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.daemon.try_wait().expect("wait") {
                return status;
            }
            assert!(start.elapsed() < PATIENCE, "the daemon does not end after the unmount: {}", self.log_text());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log_text();
            let tail: Vec<&str> = log.lines().rev().take(30).collect();
            eprintln!("last lines of the daemon's log:");
            tail.iter().rev().for_each(|line| eprintln!("  {line}"));
        }
        if self.mounted {
            let gone = Command::new("umount").arg(&self.mountpoint).stderr(Stdio::null()).status();
            if !gone.is_ok_and(|status| status.success()) {
                let _ = Command::new("umount").arg("-l").arg(&self.mountpoint).status();
            }
            let start = Instant::now();
            while matches!(self.daemon.try_wait(), Ok(None)) && start.elapsed() < Duration::from_secs(10) {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

fn device(path: &Path) -> Option<u64> {
    fs::symlink_metadata(path).ok().map(|metadata| metadata.dev())
}

/// Waits for a condition; the test fails if it does not come about. `more` is said then too: a daemon's log, say.
pub fn wait_until(what: &str, more: impl Fn() -> String, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "waited in vain: {what}: {}", more());
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Changes one byte of a file.
pub fn flip(path: &Path, offset: u64) {
    let file = fs::OpenOptions::new().read(true).write(true).open(path).expect("open");
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).expect("read");
    file.write_all_at(&[byte[0] ^ 0x10], offset).expect("write");
}

/// Runs a command to its end.
pub fn run(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// Runs a command and fails the test unless it succeeds; its standard output is returned.
pub fn succeed(command: &mut Command) -> String {
    let output = run(command);
    assert!(output.status.success(), "{command:?} ended with {}: {}", output.status, text(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Both output streams of a finished command, for messages.
pub fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Runs a shell script in a directory; it ends at the first command that fails.
pub fn sh(dir: &Path, script: &str) -> String {
    succeed(Command::new("bash").args(["-euo", "pipefail", "-c", script]).current_dir(dir))
}

/// Runs a Python script in a directory with the arguments given.
pub fn python<S: AsRef<OsStr>>(dir: &Path, script: &str, args: &[S]) -> String {
    succeed(Command::new("python3").args(["-c", script]).args(args).current_dir(dir))
}
