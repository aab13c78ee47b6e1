//! The command as its users and their scripts meet it: verbs, options, exit codes, what is said, signals, the daemon.
//!
//! Needs root and /dev/fuse, as `tests/mounted` does.

mod common;

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use common::{Mount, PROGRAM, Volume, flip, python, run, sh, succeed, text, wait_until};

/// The documented exit codes.
mod code {
    pub(crate) const FAILURE: i32 = 1;
    pub(crate) const USAGE: i32 = 2;
    pub(crate) const WRONG_KEY: i32 = 3;
    pub(crate) const DAMAGED: i32 = 4;
    pub(crate) const IN_USE: i32 = 5;
    pub(crate) const NOT_A_VOLUME: i32 = 6;
    pub(crate) const UNSUPPORTED: i32 = 7;
    pub(crate) const MOUNT: i32 = 8;
    pub(crate) const PROVIDER: i32 = 9;
}

/// `envelopefs` with arguments; spaces separate them, `{b}`, `{m}`, `{k}` and `{d}` stand for the volume's paths.
fn envelopefs(volume: &Volume, line: &str) -> Command {
    let mut command = Command::new(PROGRAM);
    for word in line.split(' ') {
        let word = word
            .replace("{b}", volume.backing().to_str().unwrap())
            .replace("{m}", volume.mountpoint().to_str().unwrap())
            .replace("{k}", volume.key().to_str().unwrap())
            .replace("{d}", volume.dir().to_str().unwrap());
        command.arg(word);
    }
    command
}

/// Runs a command that must fail with this code and say this; it must also speak in facts.
fn fails(command: &mut Command, code: i32, says: &str) {
    let output = run(command);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{command:?}: {said}");
    assert!(said.contains(says), "{command:?} does not say {says:?}: {said}");
    if code != code::USAGE {
        assert!(said.starts_with("envelopefs: "), "{said}");
    }
}

/// Runs a command with text for its standard input.
fn with_input(command: &mut Command, input: &str) -> Output {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("spawn");
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn is_mounted(path: &Path) -> bool {
    let table = fs::read_to_string("/proc/self/mounts").unwrap();
    table.lines().any(|line| line.split(' ').nth(1) == path.to_str())
}

/// The line of /proc/mounts about a mountpoint: source, type and options.
fn mount_line(path: &Path) -> String {
    let table = fs::read_to_string("/proc/self/mounts").unwrap();
    table.lines().find(|line| line.split(' ').nth(1) == path.to_str()).expect("mounted").to_owned()
}

/// A mount in the background, taken down when dropped.
struct Background<'a>(&'a Volume);

impl<'a> Background<'a> {
    fn new(volume: &'a Volume, line: &str) -> Self {
        succeed(&mut envelopefs(volume, line));
        assert!(is_mounted(&volume.mountpoint()), "mounted when the command returns");
        Background(volume)
    }

    /// The daemon, as its lock file names it.
    fn pid(&self) -> u32 {
        fs::read_to_string(self.0.backing().join(".envelopefs/lock")).unwrap().trim().parse().unwrap()
    }
}

impl Drop for Background<'_> {
    fn drop(&mut self) {
        let _ = run(envelopefs(self.0, "umount {m}").stderr(Stdio::null()));
        if is_mounted(&self.0.mountpoint()) {
            let _ = run(Command::new("umount").arg("-l").arg(self.0.mountpoint()));
        }
    }
}

fn file_with(path: &Path, contents: &str, mode: u32) -> PathBuf {
    fs::write(path, contents).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    path.to_owned()
}

#[test]
fn what_is_written_through_a_mount_is_there_after_the_next() {
    common::require_root_and_fuse();
    let volume = Volume::new();
    for round in 0..5 {
        let mount = Background::new(&volume, "mount --key-file {k} {b} {m}");
        assert_eq!(fs::read_dir(volume.mountpoint()).unwrap().count(), round);
        fs::write(volume.mountpoint().join(format!("{round}")), vec![round as u8; 100_000]).unwrap();
        // umount returns when all is written and the volume is free: the next round mounts at once.
        succeed(&mut envelopefs(&volume, "umount {m}"));
        assert!(!is_mounted(&volume.mountpoint()));
        drop(mount);
        volume.assert_clean();
    }
}

#[test]
fn wrong_usage_is_told_and_never_prompts() {
    common::require_root_and_fuse();
    let volume = Volume::new();
    for (line, says) in [
        ("mount {b}", "MOUNTPOINT"),
        ("moutn {b} {m}", "unrecognized subcommand"),
        ("mount --key-file {k} {b} {m} -o nonsense", "nonsense"),
        ("mount --key-file {k} {b} {m} -o threads=0", "threads=0"),
        ("mount --key-file {k} {b} {m} --volume-id 5", "--volume-id"),
        ("key remove {b} x", "x"),
        ("generate nothing {d}", "nothing"),
    ] {
        fails(&mut envelopefs(&volume, line), code::USAGE, says);
    }
    // Without a terminal there is nobody to ask.
    for line in ["mount {b} {m}", "check {b}", "key add {b}"] {
        let mut command = Command::new("setsid");
        command.arg("-w").arg(PROGRAM).args(envelopefs(&volume, line).get_args());
        fails(&mut command, code::FAILURE, "there is no terminal");
    }
    assert!(!is_mounted(&volume.mountpoint()));
}

#[test]
fn wrong_keys_and_wrong_places_have_their_codes() {
    common::require_root_and_fuse();
    let volume = Volume::new();
    let other = Volume::new();
    let dir = volume.dir();
    common::write_key(&dir.join("other-key"));
    fs::create_dir(dir.join("plain")).unwrap();
    fs::create_dir(dir.join("full")).unwrap();
    fs::write(dir.join("full/file"), "").unwrap();
    fs::create_dir(dir.join("outer")).unwrap();
    fails(&mut envelopefs(&volume, "mount --key-file {d}/other-key {b} {m}"), code::WRONG_KEY, "wrong key file");
    let output = with_input(&mut envelopefs(&volume, "mount --passphrase-fd 0 {b} {m}"), "guess\n");
    assert_eq!(output.status.code(), Some(code::WRONG_KEY), "{}", text(&output));
    for (line, code, says) in [
        ("mount --key-file {k} {d}/none {m}", code::NOT_A_VOLUME, "none"),
        ("mount --key-file {k} {d}/plain {m}", code::NOT_A_VOLUME, "not an envelopefs volume"),
        ("info {d}/plain", code::NOT_A_VOLUME, "not an envelopefs volume"),
        ("init --key-file {k} {b}", code::NOT_A_VOLUME, "already"),
        ("init --key-file {k} {d}/full", code::NOT_A_VOLUME, "not empty"),
        ("init --key-file {k} {d}/none", code::FAILURE, "none"),
        ("mount --key-file {k} {b} {d}/none", code::MOUNT, "none"),
        ("mount --key-file {k} {b} {d}/full", code::MOUNT, "not empty"),
        ("mount --key-file {k} {b} {d}/full/file", code::MOUNT, "directory"),
        ("mount --key-file {k} {b} {b}", code::MOUNT, "one in the other"),
        ("mount --key-file {k} {b} {b}/.envelopefs", code::MOUNT, "one in the other"),
        ("mount --key-file {k} {b} {d}", code::MOUNT, "one in the other"),
        ("umount {m}", code::MOUNT, "no envelopefs volume is mounted"),
        ("umount {d}/none/none", code::MOUNT, "none"),
    ] {
        fails(&mut envelopefs(&volume, line), code, says);
    }
    let pinned = format!("mount --key-file {{k}} {{b}} {{m}} --volume-id {}", uuid_of(&other));
    fails(&mut envelopefs(&volume, &pinned), code::FAILURE, "this is volume");
    let pinned = format!("mount --key-file {{k}} {{b}} {{m}} -o volume_id={}", uuid_of(&volume));
    drop(Background::new(&volume, &pinned));
}

fn uuid_of(volume: &Volume) -> String {
    let info = succeed(&mut envelopefs(volume, "info {b}"));
    info.lines().next().unwrap().split_whitespace().last().unwrap().to_owned()
}

#[test]
fn a_mount_over_files_needs_nonempty() {
    common::require_root_and_fuse();
    let volume = Volume::new();
    let hidden = volume.mountpoint().join("hidden");
    fs::write(&hidden, "").unwrap();
    let mount = Background::new(&volume, "mount --key-file {k} {b} {m} -o nonempty");
    assert!(!hidden.exists());
    drop(mount);
    assert!(hidden.exists());
}

#[test]
fn a_volume_and_a_mountpoint_have_one_mount_at_a_time() {
    common::require_root_and_fuse();
    let volume = Volume::new();
    let other = Volume::new();
    fs::create_dir(volume.dir().join("second")).unwrap();
    let mount = Background::new(&volume, "mount --key-file {k} {b} {m}");
    fails(
        &mut envelopefs(&volume, "mount --key-file {k} {b} {d}/second"),
        code::IN_USE,
        &format!("in use by process {}", mount.pid()),
    );
    fails(&mut envelopefs(&volume, "check --key-file {k} {b}"), code::IN_USE, "in use");
    let mut command = envelopefs(&other, "mount --key-file {k} {b}");
    fails(command.arg(volume.mountpoint()), code::IN_USE, "is mounted at");
    // Key slots may be managed meanwhile: the daemon has its keys already.
    succeed(&mut envelopefs(&volume, "key add --key-file {k} --new-key-file {d}/k2 --make-key-file {b}"));
    fs::write(volume.mountpoint().join("f"), "x").unwrap();
    drop(mount);
    drop(Background::new(&volume, "mount --key-file {d}/k2 {b} {m}"));
}

#[test]
fn an_unknown_format_or_feature_is_refused_by_name() {
    common::require_root_and_fuse();
    let volume = Volume::new();
    let path = volume.backing().join(".envelopefs/volume.toml");
    let original = fs::read_to_string(&path).unwrap();
    fs::write(&path, original.replace("format = 1", "format = 99")).unwrap();
    fails(&mut envelopefs(&volume, "mount --key-file {k} {b} {m}"), code::UNSUPPORTED, "format version 99");
    fs::write(&path, original.replace("features = []", "features = [\"time-travel\"]")).unwrap();
    fails(&mut envelopefs(&volume, "check --key-file {k} {b}"), code::UNSUPPORTED, "time-travel");
    fs::write(&path, original.replace("format = 1", "format = ")).unwrap();
    fails(&mut envelopefs(&volume, "info {b}"), code::DAMAGED, "damaged");
    fs::write(&path, original.replace("state = \"active\"", "state = \"active\"\n")).unwrap();
    fails(&mut envelopefs(&volume, "mount --key-file {k} {b} {m}"), code::DAMAGED, "was changed");
}

#[test]
fn check_names_what_is_damaged_and_its_code_says_so() {
    common::require_root_and_fuse();
    let volume = Volume::new();
    let mount = volume.mount();
    fs::create_dir(mount.path().join("dir")).unwrap();
    fs::write(mount.path().join("dir/good"), vec![1; 50_000]).unwrap();
    let bad = mount.path().join("dir/bad\x1b[31m");
    fs::write(&bad, vec![2; 50_000]).unwrap();
    let inode = fs::metadata(&bad).unwrap().ino();
    mount.unmount();
    let report = succeed(&mut envelopefs(&volume, "check --key-file {k} {b}"));
    assert!(report.contains("No damage"), "{report}");
    let stored = sh(volume.backing(), &format!("find . -inum {inode}"));
    flip(&volume.backing().join(stored.trim()), 30_000);
    let output = run(&mut envelopefs(&volume, "check --key-file {k} {b}"));
    let said = text(&output);
    assert_eq!(output.status.code(), Some(code::DAMAGED), "{said}");
    assert!(said.contains("damaged: /dir/bad\\u{1b}[31m: "), "control characters are escaped: {said}");
    assert!(!said.contains("good"), "{said}");
}

#[test]
fn any_slot_opens_and_the_last_one_stays() {
    common::require_root_and_fuse();
    let volume = Volume::new();
    let passphrase = file_with(&volume.dir().join("pass"), "correct horse\n", 0o600);
    let added = succeed(&mut envelopefs(
        &volume,
        "key add --key-file {k} --new-passphrase-file {d}/pass --label recovery {b} --argon2-memory 8",
    ));
    assert!(added.contains("slot 2"), "{added}");
    let listed = succeed(&mut envelopefs(&volume, "key list {b}"));
    assert!(listed.contains("slot 1: key-file") && listed.contains("slot 2: passphrase \"recovery\""), "{listed}");
    // A trailing newline is an editor's, not the passphrase's.
    let output = with_input(&mut envelopefs(&volume, "mount --passphrase-fd 0 {b} {m}"), "correct horse");
    assert!(output.status.success(), "{}", text(&output));
    drop(Background(&volume));
    drop(Background::new(&volume, "mount {b} {m} -o passphrase_file={d}/pass,key_file={k}"));

    let pinned = "--volume-id 00000000-0000-4000-8000-000000000000";
    for verb in ["add --new-passphrase-file {d}/pass", "remove", "rebind --new-passphrase-file {d}/pass"] {
        let slot = if verb.starts_with("add") { "" } else { "1" };
        let command = format!("key {verb} --key-file {{k}} {pinned} {{b}} {slot}");
        fails(&mut envelopefs(&volume, command.trim()), code::FAILURE, "this is volume");
    }
    succeed(&mut envelopefs(&volume, "key remove --passphrase-file {d}/pass {b} 1"));
    fails(&mut envelopefs(&volume, "mount --key-file {k} {b} {m}"), code::WRONG_KEY, "no key slot for key-file");
    fails(&mut envelopefs(&volume, "key remove --passphrase-file {d}/pass {b} 2"), code::FAILURE, "the last one");
    fails(&mut envelopefs(&volume, "key remove --passphrase-file {d}/pass {b} 7"), code::FAILURE, "no key slot 7");
    drop(Background::new(&volume, "mount --passphrase-file {d}/pass {b} {m}"));

    for (mode, contents, says) in [(0o644, "x", "permissions"), (0o600, "", "empty"), (0o600, "\n", "empty")] {
        file_with(&passphrase, contents, mode);
        fails(&mut envelopefs(&volume, "check --passphrase-file {d}/pass {b}"), code::FAILURE, says);
    }
    fails(&mut envelopefs(&volume, "check --passphrase-fd 77 {b}"), code::USAGE, "77");
}

#[test]
fn a_key_file_is_never_overwritten() {
    common::require_root_and_fuse();
    let volume = Volume::new();
    let before = fs::read(volume.key()).unwrap();
    fs::create_dir(volume.dir().join("new")).unwrap();
    fails(
        &mut envelopefs(&volume, "init --key-file {k} --make-key-file {d}/new"),
        code::FAILURE,
        "cannot create the key file",
    );
    assert_eq!(fs::read(volume.key()).unwrap(), before);
    assert!(fs::read_dir(volume.dir().join("new")).unwrap().next().is_none(), "nothing half made");
    // Nor is one left in the way of the next attempt.
    let half = "init --key-file {d}/k2 --make-key-file --provider key-file:/nonexistent {d}/new";
    fails(&mut envelopefs(&volume, half), code::PROVIDER, "cannot open the key file");
    assert!(!volume.dir().join("k2").exists());
    succeed(&mut envelopefs(&volume, "init --key-file {d}/k2 --make-key-file {d}/new"));
    let made = fs::metadata(volume.dir().join("k2")).unwrap();
    assert_eq!((made.len(), made.mode() & 0o7777), (32, 0o600));
}

/// Answers the prompts of a command on a pseudo-terminal and prints what the terminal showed, then the exit code.
const ON_A_TERMINAL: &str = "
import os, pty, sys, time
answers, argv = sys.argv[1].split('|'), sys.argv[2:]
pid, fd = pty.fork()
if pid == 0: os.execv(argv[0], argv)
shown = b''
while True:
    try: data = os.read(fd, 4096)
    except OSError: break
    if not data: break
    shown += data
    if data.rstrip().endswith(b':') and answers:
        # The prompt comes a moment before the echo goes.
        time.sleep(0.3)
        os.write(fd, answers.pop(0).encode() + b'\\n')
_, status = os.waitpid(pid, 0)
print(shown.decode(), 'exit', os.waitstatus_to_exitcode(status))
";

#[test]
fn a_passphrase_is_asked_for_without_echo_and_twice_when_it_is_new() {
    common::require_root_and_fuse();
    let volume = Volume::new();
    let path = |name: &str| volume.dir().join(name).to_str().unwrap().to_owned();
    fs::create_dir(path("b")).unwrap();
    let on_terminal = |answers: &str, args: &[&str]| {
        let mut all = vec![answers, PROGRAM];
        all.extend(args);
        python(volume.dir(), ON_A_TERMINAL, &all)
    };
    let init = ["init", &path("b"), "--argon2-memory", "8"];
    let shown = on_terminal("one|two", &init);
    assert!(shown.contains("differ") && shown.contains("exit 1"), "{shown}");
    let shown = on_terminal("open sesame|open sesame", &init);
    assert!(shown.contains("exit 0") && !shown.contains("sesame"), "{shown}");
    let (backing, mountpoint) = (path("b"), path("mnt"));
    let shown = on_terminal("open sesamE", &["mount", &backing, &mountpoint]);
    assert!(shown.contains("exit 3") && shown.contains("wrong passphrase"), "{shown}");
    let shown = on_terminal("open sesame", &["mount", &backing, &mountpoint]);
    assert!(shown.contains("exit 0") && !shown.contains("sesame"), "{shown}");
    let mount = Background(&volume);
    // The terminal is gone by now; the daemon does not mind.
    fs::write(volume.mountpoint().join("f"), "x").unwrap();
    drop(mount);
    assert!(!is_mounted(&volume.mountpoint()));
}

#[test]
fn mount_options_arrive_at_the_kernel() {
    common::require_root_and_fuse();
    let volume = Volume::new();
    let shows = |options: &str, with: &[&str], without: &[&str]| {
        let mount = Background::new(&volume, &format!("mount --key-file {{k}} {{b}} {{m}}{options}"));
        let line = mount_line(&volume.mountpoint());
        let shown: Vec<&str> = line.split(' ').nth(3).unwrap().split(',').collect();
        assert!(line.starts_with(volume.backing().to_str().unwrap()) && line.contains(" fuse.envelopefs "), "{line}");
        with.iter().for_each(|option| assert!(shown.contains(option), "{option} with {options:?}: {line}"));
        without.iter().for_each(|option| assert!(!shown.contains(option), "{option} with {options:?}: {line}"));
        drop(mount);
    };
    shows("", &["rw", "nosuid", "nodev", "default_permissions"], &["allow_other", "noexec", "ro"]);
    shows(" -o allow_other,suid,dev,noexec", &["allow_other", "noexec"], &["nosuid", "nodev"]);
    shows(" -o ro -o noatime,defaults,_netdev,x-a.b=c,nofail", &["ro", "noatime"], &["rw"]);
    shows(" -o threads=1,sync", &["sync"], &[]);
}

#[test]
fn mount_8_and_its_fuse_helper_mount_without_the_verb() {
    common::require_root_and_fuse();
    let volume = Volume::new();
    let options = format!("rw,key_file={},nofail,x-systemd.automount", volume.key().display());
    let line = format!("{{b}} {{m}} -o {options}");
    drop(Background::new(&volume, &line));
    // As mount(8) calls /sbin/mount.envelopefs.
    let helper = volume.dir().join("mount.envelopefs");
    std::os::unix::fs::symlink(PROGRAM, &helper).unwrap();
    succeed(Command::new(&helper).arg(volume.backing()).arg(volume.mountpoint()).args(["-n", "-o", &options]));
    drop(Background(&volume));
    // As mount(8) does for `-t fuse.envelopefs` and fstab: mount.fuse finds the program in PATH.
    let Some(helper) = ["/sbin/mount.fuse3", "/usr/sbin/mount.fuse3"].into_iter().find(|path| Path::new(path).exists())
    else {
        panic!("mount.fuse3 is missing (package fuse3)");
    };
    let path = format!("{}:/usr/bin:/bin", Path::new(PROGRAM).parent().unwrap().display());
    let mut command = Command::new(helper);
    command.arg(volume.backing()).arg(volume.mountpoint()).args(["-o", &options, "-t", "fuse.envelopefs"]);
    succeed(command.env("PATH", path));
    let mount = Background(&volume);
    let line = mount_line(&volume.mountpoint());
    assert!(!line.contains("nosuid"), "mount(8) asks for suid and dev unless told otherwise: {line}");
    drop(mount);
}

#[test]
fn signals_unmount_and_everything_is_written() {
    common::require_root_and_fuse();
    let volume = Volume::new();
    for signal in ["TERM", "INT", "HUP"] {
        let mount = Background::new(&volume, "mount --key-file {k} {b} {m}");
        // Not closed: what was written is still to be committed.
        let mut file = fs::File::create(volume.mountpoint().join(signal)).unwrap();
        file.write_all(&[7; 300_000]).unwrap();
        let pid = mount.pid();
        drop(file);
        sh(volume.dir(), &format!("kill -{signal} {pid}; tail --pid={pid} -f /dev/null"));
        assert!(!is_mounted(&volume.mountpoint()), "SIG{signal}");
        let mount = volume.mount();
        assert_eq!(fs::read(mount.path().join(signal)).unwrap(), [7; 300_000]);
        mount.unmount();
    }
}

#[test]
fn a_signal_to_a_busy_mount_lets_its_users_finish_and_a_second_one_does_not() {
    common::require_root_and_fuse();
    let volume = Volume::new();
    let mount = Background::new(&volume, "mount --key-file {k} {b} {m}");
    let pid = mount.pid();
    let running = || Path::new(&format!("/proc/{pid}")).exists();
    let mut file = fs::File::create(volume.mountpoint().join("long")).unwrap();
    file.write_all(b"before ").unwrap();
    sh(volume.dir(), &format!("kill -TERM {pid}"));
    wait_until("the mount goes from the tree", String::new, || !is_mounted(&volume.mountpoint()));
    file.write_all(b"after").unwrap();
    assert!(running());
    drop(file);
    wait_until("the daemon ends with its last user", String::new, || !running());
    drop(mount);

    let mount = Background::new(&volume, "mount --key-file {k} {b} {m}");
    assert_eq!(fs::read_to_string(volume.mountpoint().join("long")).unwrap(), "before after");
    let pid = mount.pid();
    let mut file = fs::File::create(volume.mountpoint().join("cut")).unwrap();
    file.write_all(b"written").unwrap();
    sh(volume.dir(), &format!("kill -TERM {pid}"));
    wait_until("the mount goes from the tree", String::new, || !is_mounted(&volume.mountpoint()));
    sh(volume.dir(), &format!("kill -TERM {pid}"));
    wait_until("the daemon ends all the same", String::new, || !Path::new(&format!("/proc/{pid}")).exists());
    assert!(file.write_all(b"more").is_err());
    drop((file, mount));
    volume.assert_clean();
}

#[test]
fn a_busy_mount_is_told_and_can_be_detached() {
    common::require_root_and_fuse();
    let volume = Volume::new();
    let mount = Background::new(&volume, "mount --key-file {k} {b} {m}");
    let pid = mount.pid();
    let file = fs::File::create(volume.mountpoint().join("open")).unwrap();
    fails(&mut envelopefs(&volume, "umount {m}"), code::IN_USE, "--lazy");
    assert!(is_mounted(&volume.mountpoint()));
    succeed(&mut envelopefs(&volume, "umount --lazy {m}"));
    assert!(!is_mounted(&volume.mountpoint()));
    fails(&mut envelopefs(&volume, "mount --key-file {k} {b} {m}"), code::IN_USE, "in use");
    drop(file);
    wait_until("the daemon ends", String::new, || !Path::new(&format!("/proc/{pid}")).exists());
    drop(mount);
}

#[test]
fn another_user_cannot_unmount_and_is_told_why() {
    common::require_root_and_fuse();
    let volume = Volume::new();
    let program = volume.dir().join("envelopefs");
    fs::copy(PROGRAM, &program).unwrap();
    let mount = Background::new(&volume, "mount --key-file {k} {b} {m} -o allow_other");
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&program).arg("umount");
    fails(command.arg(volume.mountpoint()), code::MOUNT, "another user");
    assert!(is_mounted(&volume.mountpoint()));
    drop(mount);
}

#[test]
fn umount_8_and_a_symlink_to_the_mountpoint_will_do() {
    common::require_root_and_fuse();
    let volume = Volume::new();
    let mount = volume.mount();
    fs::write(mount.path().join("f"), "x").unwrap();
    succeed(Command::new("umount").arg(mount.path()));
    wait_until("the daemon ends well", String::new, || mount.log_text().contains("ended"));
    drop(mount);
    let link = volume.dir().join("link");
    std::os::unix::fs::symlink(volume.mountpoint(), &link).unwrap();
    let mount = Background::new(&volume, "mount --key-file {k} {b} {d}/link");
    succeed(Command::new(PROGRAM).arg("umount").arg(&link));
    assert!(!is_mounted(&volume.mountpoint()));
    drop(mount);
}

#[test]
fn a_dead_mount_is_told_and_taken_away() {
    common::require_root_and_fuse();
    let volume = Volume::new();
    let mount = Background::new(&volume, "mount --key-file {k} {b} {m}");
    let pid = mount.pid();
    sh(volume.dir(), &format!("kill -KILL {pid}; tail --pid={pid} -f /dev/null"));
    fails(&mut envelopefs(&volume, "mount --key-file {k} {b} {m}"), code::IN_USE, "envelopefs umount");
    succeed(&mut envelopefs(&volume, "umount {m}"));
    drop(mount);
    drop(Background::new(&volume, "mount --key-file {k} {b} {m}"));
}

#[test]
fn without_dev_fuse_the_command_says_what_to_do() {
    common::require_root_and_fuse();
    let volume = Volume::new();
    let script = "mount -t tmpfs none /dev && exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", script, "sh", PROGRAM]);
    command.args(envelopefs(&volume, "mount --key-file {k} {b} {m}").get_args());
    fails(&mut command, code::MOUNT, "modprobe fuse");
}

#[test]
fn the_daemon_keeps_its_memory_and_few_privileges() {
    common::require_root_and_fuse();
    let volume = Volume::new();
    let mount = Background::new(&volume, "mount --key-file {k} {b} {m}");
    let proc = |file: &str| fs::read(format!("/proc/{}/{file}", mount.pid())).unwrap();
    let status = String::from_utf8(proc("status")).unwrap();
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).expect(name);
        line.split_whitespace().nth(1).unwrap().to_owned()
    };
    assert_eq!(field("NoNewPrivs:"), "1");
    let capabilities = u64::from_str_radix(&field("CapEff:"), 16).unwrap();
    for (name, number) in [("CAP_SETUID", 7), ("CAP_NET_ADMIN", 12), ("CAP_SYS_MODULE", 16), ("CAP_SYS_PTRACE", 19)] {
        assert_eq!(capabilities >> number & 1, 0, "{name}");
    }
    assert_eq!(field("CapPrm:"), field("CapEff:"));
    // Threads too: capabilities are a thread's own.
    for task in fs::read_dir(format!("/proc/{}/task", mount.pid())).unwrap() {
        let status = fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        assert!(status.contains(&format!("CapEff:\t{capabilities:016x}")), "{status}");
    }
    assert!(field("VmLck:").parse::<u64>().unwrap() > 0, "memory is locked");
    let limits = String::from_utf8(proc("limits")).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
    let limit = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let numbers: Vec<&str> = limit.split_whitespace().collect();
    assert_eq!(numbers[3], numbers[4], "as many open files as allowed: {limit}");
    let link = |name: &str| fs::read_link(format!("/proc/{}/{name}", mount.pid())).unwrap();
    assert_eq!(link("cwd"), Path::new("/"));
    (0..3).for_each(|fd| assert_eq!(link(&format!("fd/{fd}")), Path::new("/dev/null")));
    let session: u32 = sh(volume.dir(), &format!("ps -o sid= -p {}", mount.pid())).trim().parse().unwrap();
    assert_eq!(session, mount.pid(), "a session of its own");
}

#[test]
fn no_secret_is_in_arguments_environment_or_log() {
    common::require_root_and_fuse();
    let volume = Volume::new();
    file_with(&volume.dir().join("pass"), "hunter22\n", 0o600);
    succeed(&mut envelopefs(&volume, "key add --key-file {k} --new-passphrase-file {d}/pass {b} --argon2-memory 8"));
    let mut command = envelopefs(&volume, "mount --passphrase-file {d}/pass --log-file {d}/log {b} {m}");
    succeed(command.env("RUST_LOG", "debug,fuser=info"));
    let mount = Background(&volume);
    fs::write(volume.mountpoint().join("very-private-name"), "very private contents").unwrap();
    assert_eq!(fs::read(volume.mountpoint().join("very-private-name")).unwrap(), b"very private contents");
    let pid = mount.pid();
    for file in ["cmdline", "environ"] {
        let bytes = fs::read(format!("/proc/{pid}/{file}")).unwrap();
        assert!(!String::from_utf8_lossy(&bytes).contains("hunter22"), "{file}");
    }
    drop(mount);
    let log = fs::read_to_string(volume.dir().join("log")).unwrap();
    assert!(log.contains("mounted"), "{log}");
    for secret in ["hunter22", "very-private-name", "very private"] {
        assert!(!log.contains(secret), "{secret} in {log}");
    }
    assert_eq!(fs::metadata(volume.dir().join("log")).unwrap().mode() & 0o7777, 0o600);
}

#[test]
fn man_pages_and_completions_come_from_the_grammar() {
    let scratch = common::scratch();
    let dir = |name: &str| scratch.path().join(name);
    for what in ["man", "completions"] {
        succeed(Command::new(PROGRAM).args(["generate", what]).arg(dir(what)));
    }
    let page = fs::read_to_string(dir("man").join("envelopefs-mount.1")).unwrap();
    assert!(page.contains("passphrase\\-file") && page.contains("volume_id=UUID"), "{page}");
    assert!(fs::read_to_string(dir("man").join("envelopefs.1")).unwrap().contains("Exit codes"));
    assert!(dir("completions").join("envelopefs.bash").exists());
    let checked_in = Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib");
    for what in ["man", "completions"] {
        for entry in fs::read_dir(dir(what)).unwrap() {
            let name = entry.unwrap().file_name();
            let (new, old) = (dir(what).join(&name), checked_in.join(what).join(&name));
            assert!(
                fs::read(&new).unwrap() == fs::read(&old).unwrap_or_default(),
                "contrib/{what}/{} is out of date: envelopefs generate {what} contrib/{what}",
                name.display()
            );
        }
    }
}

#[test]
fn a_foreground_mount_logs_to_standard_error_and_ends_well() {
    common::require_root_and_fuse();
    let volume = Volume::new();
    let mut command = envelopefs(&volume, "mount -f --key-file {k} {b} {m}");
    command.env_remove("RUST_LOG");
    let mount = Mount::start(command, volume.mountpoint(), volume.dir().join("log"));
    fs::write(mount.path().join("f"), "x").unwrap();
    assert!(mount.log_text().contains("mounted"), "{}", mount.log_text());
    mount.unmount();
}

#[test]
fn a_recovery_key_opens_when_all_else_is_lost_and_gives_a_new_slot() {
    common::require_root_and_fuse();
    let volume = Volume::new();
    let mount = volume.mount();
    fs::write(mount.path().join("f"), "kept").unwrap();
    mount.unmount();
    for dir in ["paper", "other"] {
        fs::create_dir(volume.dir().join(dir)).unwrap();
    }
    let made = succeed(&mut envelopefs(
        &volume,
        "key add --key-file {k} --new-recovery --shares 5 --threshold 3 --words --output-dir {d}/paper --label paper {b}",
    ));
    assert!(made.contains("Added key slot 2") && !made.contains("EFS1"), "{made}");
    let mut files: Vec<PathBuf> =
        fs::read_dir(volume.dir().join("paper")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert_eq!(files.len(), 5);
    for file in &files {
        assert_eq!(fs::metadata(file).unwrap().mode() & 0o7777, 0o600);
        let share = fs::read_to_string(file).unwrap();
        assert_eq!(share.lines().skip(1).flat_map(str::split_whitespace).count(), 34, "{share}");
        assert!(!made.contains(share.lines().nth(1).unwrap()), "what is in a file is not shown");
    }
    let recover = |some: &[&PathBuf], more: &str| {
        let mut command = envelopefs(&volume, &format!("recover {{b}} {more}"));
        for file in some {
            command.arg("--recovery-file").arg(file);
        }
        command
    };
    fs::remove_file(volume.key()).unwrap();
    let all: Vec<&PathBuf> = files.iter().collect();
    fails(&mut recover(&all[..2], "--dry-run"), code::PROVIDER, "3 shares are needed");
    fails(&mut recover(&[all[0], all[1], all[0]], "--dry-run"), code::PROVIDER, "share 1 was given twice");
    let said = succeed(&mut recover(&all[2..], "--dry-run"));
    assert!(said.contains("opens key slot 2"), "{said}");
    // Damaged, of another key and of another volume: each is told as what it is.
    let damaged = volume.dir().join("damaged");
    let share = fs::read_to_string(all[0]).unwrap();
    let first = share.lines().nth(1).unwrap().split(' ').next().unwrap().to_owned();
    file_with(&damaged, &share.replacen(&first, if first == "zoo" { "abandon" } else { "zoo" }, 1), 0o600);
    fails(&mut recover(&[all[1], all[2], &damaged], "--dry-run"), code::PROVIDER, "a word is wrong");
    let other = Volume::new();
    succeed(
        envelopefs(&other, "key add --key-file {k} --new-recovery --output-dir")
            .arg(volume.dir().join("other"))
            .arg(other.backing()),
    );
    let foreign = fs::read_dir(volume.dir().join("other")).unwrap().next().unwrap().unwrap().path();
    fails(&mut recover(&[&foreign], "--dry-run"), code::WRONG_KEY, "made for another volume");
    fails(&mut recover(&[all[0], all[1], &foreign], "--dry-run"), code::PROVIDER, "different recovery keys");
    common::write_key(&volume.dir().join("new-key"));
    let foretold = succeed(&mut recover(&all[1..4], "--dry-run --json"));
    assert!(foretold.contains(r#""opened":2"#) && foretold.contains(r#""dry_run":true"#), "{foretold}");
    let said = succeed(&mut recover(&all[1..4], "--new-key-file {d}/new-key"));
    assert!(said.contains("Added key slot 3"), "{said}");
    common::write_key(&volume.dir().join("further-key"));
    let json = succeed(&mut recover(&all[1..4], "--new-key-file {d}/further-key --json"));
    let json: serde_json::Value = serde_json::from_str(&json).expect("one JSON object");
    assert_eq!((&json["slot"], &json["opened"]), (&4.into(), &2.into()), "{json}");
    // The shares are a credential like any other, also for a mount.
    let words: Vec<String> = (2..).zip(&all[1..3]).map(|(n, file)| format!("&file-{n}={}", file.display())).collect();
    let spec = format!("recovery:?file={}{}", all[0].display(), words.concat());
    for credential in ["key_file={d}/new-key".to_owned(), format!("provider={spec}")] {
        let mount = Background::new(&volume, &format!("mount {{b}} {{m}} -o {credential}"));
        assert_eq!(fs::read_to_string(volume.mountpoint().join("f")).unwrap(), "kept");
        drop(mount);
    }
    let all_in_one = files.iter().map(|file| fs::read_to_string(file).unwrap()).collect::<Vec<_>>().join("\n");
    let output = with_input(&mut envelopefs(&volume, "recover --recovery-fd 0 --dry-run {b}"), &all_in_one);
    assert!(output.status.success(), "{}", text(&output));
    succeed(envelopefs(&volume, "check --provider").arg(&spec).arg(volume.backing()));
}

#[test]
fn a_recovery_key_is_shown_once_and_confirmed() {
    common::require_root_and_fuse();
    let volume = Volume::new();
    let key = volume.key().to_str().unwrap().to_owned();
    let backing = volume.backing().to_str().unwrap().to_owned();
    let on_terminal = |answers: &str, args: &[&str]| {
        let mut all = vec![answers, PROGRAM];
        all.extend(args);
        python(volume.dir(), ON_A_TERMINAL, &all)
    };
    let add = ["key", "add", "--key-file", &key, "--new-recovery", &backing];
    let shown = on_terminal("no", &add);
    assert!(shown.contains("EFS1 ") && shown.contains("not confirmed") && shown.contains("exit 1"), "{shown}");
    assert!(!succeed(&mut envelopefs(&volume, "key list {b}")).contains("recovery"), "nothing was changed");
    let shown = on_terminal("yes", &add);
    assert!(shown.contains("Added key slot 2") && shown.contains("exit 0"), "{shown}");
    let typed = shown.lines().find(|line| line.trim().starts_with("EFS1 ")).unwrap().trim().to_lowercase();
    // Mistyped first: said where, and asked again; never echoed.
    let mistyped = format!("{}q{}", &typed[..20], &typed[21..]);
    let mistyped = if mistyped == typed { format!("{}p{}", &typed[..20], &typed[21..]) } else { mistyped };
    let shown = on_terminal(&format!("{mistyped}|{typed}"), &["recover", "--dry-run", &backing]);
    assert!(shown.contains("opens key slot 2") && shown.contains("probably in group 3"), "{shown}");
    assert!(!shown.to_lowercase().contains(&typed[..30]), "{shown}");
    for (line, code, says) in [
        ("key add --key-file {k} --new-recovery {b}", code::USAGE, "--yes"),
        ("key add --key-file {k} --new-recovery --shares 3 {b}", code::USAGE, "--threshold"),
        ("key add --key-file {k} --new-recovery --shares 3 --threshold 4 --yes {b}", code::USAGE, "2 to 255"),
        ("key add --key-file {k} --words {b}", code::USAGE, "--new-recovery"),
        ("key add --key-file {k} --new-recovery --new-key-file {d}/x {b}", code::USAGE, "cannot be used with"),
        ("key add --key-file {k} --new-recovery --output-dir {d}/none {b}", code::FAILURE, "none"),
    ] {
        fails(&mut envelopefs(&volume, line), code, says);
    }
}

#[test]
fn a_slot_of_two_providers_needs_both() {
    common::require_root_and_fuse();
    let volume = Volume::new();
    common::write_key(&volume.dir().join("second"));
    file_with(&volume.dir().join("pass"), "open sesame\n", 0o600);
    file_with(&volume.dir().join("wrong"), "open sesamE\n", 0o600);
    let both = "all-of:?part=key-file:{d}/second&part=passphrase:%3Ffile={d}/pass";
    let added = succeed(&mut envelopefs(
        &volume,
        &format!("key add --key-file {{k}} --new-provider {both} {{b}} --argon2-memory 8"),
    ));
    assert!(added.contains("all of (key file") && added.contains("+ passphrase)"), "{added}");
    succeed(&mut envelopefs(&volume, &format!("key remove --provider {both} {{b}} 1")));
    let mount = Background::new(&volume, &format!("mount {{b}} {{m}} -o provider={both}"));
    fs::write(volume.mountpoint().join("f"), "x").unwrap();
    drop(mount);
    let file = "kind = 'all-of'\n[[part]]\nkind = 'key-file'\ntarget = '{d}/second'\n[[part]]\nkind = 'passphrase'\nfile = '{d}/pass'\n";
    file_with(&volume.dir().join("both.toml"), &file.replace("{d}", volume.dir().to_str().unwrap()), 0o644);
    succeed(&mut envelopefs(&volume, "check --provider {d}/both.toml {b}"));
    for (wrong, code, says) in [
        ("check --key-file {d}/second {b}", code::WRONG_KEY, "no key slot for key-file"),
        ("check --passphrase-file {d}/pass {b}", code::WRONG_KEY, "no key slot for passphrase"),
        (
            "check --provider all-of:?part=passphrase:%3Ffile={d}/pass&part=key-file:{d}/second {b}",
            code::WRONG_KEY,
            "wrong all of",
        ),
        (
            "check --provider all-of:?part=key-file:{d}/second&part=passphrase:%3Ffile={d}/wrong {b}",
            code::WRONG_KEY,
            "wrong all of",
        ),
        ("check --provider all-of:?part=key-file:{d}/second {b}", code::USAGE, "two to eight"),
    ] {
        fails(&mut envelopefs(&volume, wrong), code, says);
    }
}

#[test]
fn key_events_are_noted_and_verified() {
    common::require_root_and_fuse();
    let volume = Volume::new();
    common::write_key(&volume.dir().join("wrong"));
    succeed(&mut envelopefs(&volume, "key add --key-file {k} --new-key-file {d}/k2 --make-key-file {b}"));
    drop(Background::new(&volume, "mount --key-file {d}/k2 {b} {m}"));
    fails(&mut envelopefs(&volume, "mount --key-file {d}/wrong {b} {m}"), code::WRONG_KEY, "wrong key file");
    fails(&mut envelopefs(&volume, "key remove --key-file {d}/wrong {b} 2"), code::WRONG_KEY, "wrong key file");
    succeed(&mut envelopefs(&volume, "key remove --key-file {k} {b} 2"));
    volume.assert_clean();
    let shown = succeed(&mut envelopefs(&volume, "audit show {b}"));
    let operations: Vec<&str> = shown.lines().map(|line| line.split_whitespace().nth(2).unwrap()).collect();
    assert_eq!(operations, ["init", "slot-add", "mount", "mount", "slot-remove", "slot-remove", "check"], "{shown}");
    assert_eq!(shown.matches("FAILED: wrong key file").count(), 2, "{shown}");
    assert!(shown.lines().nth(2).unwrap().contains("slot 2"), "{shown}");
    let lines = succeed(&mut envelopefs(&volume, "audit show --json {b}"));
    let path = volume.backing().join(".envelopefs/key-events.log");
    assert_eq!(lines, fs::read_to_string(&path).unwrap());
    let verified = succeed(&mut envelopefs(&volume, "audit verify --key-file {k} {b}"));
    assert!(verified.contains("Verified 7 events, 5 of them with a MAC."), "{verified}");
    let head = verified.lines().find_map(|line| line.strip_prefix("Head: ")).unwrap();
    succeed(&mut envelopefs(&volume, &format!("audit verify --key-file {{k}} {{b}} --head {head}")));
    succeed(&mut envelopefs(&volume, "audit verify --chain-only {b}"));
    // Changed in the middle, then cut off at the end.
    let whole = fs::read_to_string(&path).unwrap();
    fs::write(&path, whole.replacen("\"slot-add\"", "\"slot-del\"", 1)).unwrap();
    fails(&mut envelopefs(&volume, "audit verify --key-file {k} {b}"), code::DAMAGED, "line 2");
    fs::write(&path, whole.replacen("\"slot\":2", "\"slot\":3", 1)).unwrap();
    fails(&mut envelopefs(&volume, "audit verify --key-file {k} {b}"), code::DAMAGED, "line 2: its MAC is wrong");
    let json = run(&mut envelopefs(&volume, "audit verify --json --key-file {k} {b}"));
    assert!(text(&json).contains("\"line\":2"), "{}", text(&json));
    let cut: Vec<&str> = whole.split_inclusive('\n').take(6).collect();
    fs::write(&path, cut.concat()).unwrap();
    succeed(&mut envelopefs(&volume, "audit verify --key-file {k} {b}"));
    fails(
        &mut envelopefs(&volume, &format!("audit verify --key-file {{k}} {{b}} --head {head}")),
        code::DAMAGED,
        "cut off",
    );
    fails(&mut envelopefs(&volume, "audit verify --head 7 {b}"), code::USAGE, "NUMBER:SHA256");
}

#[test]
fn a_plaintext_tree_is_imported_compared_and_removed() {
    common::require_root_and_fuse();
    let volume = Volume::new();
    sh(
        volume.dir(),
        "mkdir -p app/conf.d && cd app && printf 'PASSWORD=geheim\n' >.env && chmod 640 .env && chown 1234:5678 .env
         head -c 3000000 /dev/urandom >conf.d/data && ln conf.d/data again && ln -s conf.d/data link && mkfifo pipe && mknod null c 1 3
         truncate -s 50M sparse && setfacl -m u:1234:r .env && setfacl -d -m g:5678:rx conf.d && setfattr -n user.note -v x .env
         cp /bin/true cap && setcap cap_net_raw+ep cap && chmod 4711 conf.d/data && touch -d 1999-12-31 conf.d .",
    );
    let before = sh(&volume.dir().join("app"), LISTING);
    let dry = succeed(&mut envelopefs(&volume, "import --dry-run --key-file {k} {d}/app {b}"));
    assert!(dry.contains("nothing was changed: 9 would be copied"), "{dry}");
    let done = succeed(&mut envelopefs(&volume, "import --json --key-file {k} {d}/app {b}"));
    for part in
        ["\"copied\":9", "\"verified\":9", "\"failed\":0", "\"removed\":0", "\"hard_links\":1", "\"specials\":2"]
    {
        assert!(done.contains(part), "{part}: {done}");
    }
    let again = succeed(&mut envelopefs(&volume, "import --key-file {k} {d}/app {b}"));
    assert!(again.contains("Copied 0 (0 bytes); 9 were there already."), "{again}");
    // A file that is other in the volume: told, and nothing removed.
    fs::write(volume.dir().join("app/new"), "1").unwrap();
    succeed(&mut envelopefs(&volume, "import --quiet --key-file {k} {d}/app/new {b} --into /sub/dir"));
    succeed(&mut envelopefs(&volume, "import --key-file {k} {d}/app/new {b}"));
    fs::write(volume.dir().join("app/new"), "22").unwrap();
    let output = run(&mut envelopefs(&volume, "import --remove-originals --key-file {k} {d}/app {b}"));
    assert_eq!(output.status.code(), Some(code::FAILURE));
    assert!(text(&output).contains("not copied: new: something else"), "{}", text(&output));
    assert!(text(&output).contains("no original was removed"), "{}", text(&output));
    assert_eq!(fs::read_dir(volume.dir().join("app")).unwrap().count(), 9);
    fs::remove_file(volume.dir().join("app/new")).unwrap();
    sh(volume.dir(), "touch -d 1999-12-31 app");
    let done = succeed(&mut envelopefs(&volume, "import --remove-originals --key-file {k} {d}/app {b}"));
    assert!(done.contains("Removed 9 originals") && done.contains("may still be on it"), "{done}");
    assert_eq!(fs::read_dir(volume.dir().join("app")).unwrap().count(), 0, "the directory itself stays");
    let mount = volume.mount();
    sh(mount.path(), "test \"$(cat sub/dir/new)\" = 1 && rm -r sub new && touch -d 1999-12-31 .");
    assert_eq!(sh(mount.path(), LISTING), before);
    sh(mount.path(), "test conf.d/data -ef again && test $(stat -c %b sparse) -lt 1000");
    for (line, code, says) in [
        ("import --key-file {k} {d}/app {m}", code::USAGE, "is a mountpoint"),
        ("import --key-file {k} {d}/app {b}", code::IN_USE, "in use"),
        ("import --key-file {k} {d} {b}", code::USAGE, "one in the other"),
        ("import --key-file {k} {d}/none {b}", code::FAILURE, "none"),
        ("import --key-file {k} {d}/app {d}/app", code::NOT_A_VOLUME, "not an envelopefs volume"),
    ] {
        fails(&mut envelopefs(&volume, line), code, says);
    }
    mount.unmount();
    volume.assert_clean();
    succeed(&mut envelopefs(&volume, "audit verify --key-file {k} {b}"));
}

/// Everything an import keeps, of everything in a directory, in one text; sums of contents included.
const LISTING: &str = "find . -mindepth 1 -printf '%P %y %m %U %G %n %l %T@\\n' | sort
    find . -type f -print0 | sort -z | xargs -0 sha256sum
    find . ! -type l -print0 | sort -z | xargs -0 getfacl -pn
    find . -print0 | sort -z | xargs -0 getfattr -hdm 'user.*|security.capability'
    stat -c '%n %t %T' null; stat -c '%a %Y' .";
