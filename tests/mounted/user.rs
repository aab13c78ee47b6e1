//! A mount by an ordinary user, through `fusermount3`: no root anywhere, files are the user's own.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

use crate::common::{self, PROGRAM, run, text, write_key};
use crate::volumes;

/// `nobody`'s uid and gid on Debian.
const NOBODY: u32 = 65534;

/// A directory of `nobody` with a copy of the program (the build directory may be closed to others) and a volume.
struct Home {
    scratch: TempDir,
}

impl Home {
    fn new() -> Home {
        let home = Home { scratch: common::scratch() };
        // By another process: a descriptor that a concurrent fork of ours holds open for writing would be ETXTBSY.
        common::succeed(Command::new("cp").arg(PROGRAM).arg(home.path()));
        write_key(&home.path().join("key"));
        for name in ["backing", "mnt"] {
            fs::create_dir(home.path().join(name)).unwrap();
        }
        for name in [".", "key", "backing", "mnt"] {
            chown(home.path().join(name), Some(NOBODY), Some(NOBODY)).unwrap();
        }
        home.must("./envelopefs init --key-file key backing");
        home
    }

    fn path(&self) -> &Path {
        self.scratch.path()
    }

    fn mnt(&self) -> PathBuf {
        self.path().join("mnt")
    }

    /// Runs a shell script as `nobody`, with sbin absent from the path as users have it.
    fn try_sh(&self, script: &str) -> Output {
        let mut command = Command::new("bash");
        command.args(["-euo", "pipefail", "-c", script]).current_dir(self.path());
        command.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin").env("HOME", self.path()).env("LANG", "C.UTF-8");
        run(command.uid(NOBODY).gid(NOBODY))
    }

    fn must(&self, script: &str) -> String {
        let output = self.try_sh(script);
        assert!(output.status.success(), "as nobody, `{script}`: {}", text(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn mount(&self) {
        self.must("./envelopefs mount --key-file key backing mnt");
        assert_ne!(
            fs::metadata(self.path()).unwrap().dev(),
            self.device(),
            "the mount answers when the command returns"
        );
    }

    fn umount(&self) {
        self.must("./envelopefs umount mnt");
        assert_eq!(fs::metadata(self.path()).unwrap().dev(), self.device(), "nothing is mounted any more");
    }

    /// Device that the user sees at the mountpoint; root may not look into it.
    fn device(&self) -> u64 {
        self.must("stat -c %d mnt").trim().parse().unwrap()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        if mounts.contains(&format!(" {} ", self.mnt().display())) {
            let _ = run(Command::new("umount").arg("-l").arg(self.mnt()));
        }
    }
}

#[test]
fn an_ordinary_user_mounts_works_and_unmounts() {
    if !volumes() {
        return;
    }
    let home = Home::new();
    home.mount();
    home.must(
        "cd mnt; echo secret > .env; mkdir d; head -c 1000000 /dev/zero > d/zeros; ln -s .env l; ln .env h; mkfifo p
         test \"$(cat l)\" = secret; mv d e; rm p; truncate -s 5 e/zeros; test $(stat -c %U .env) = nobody
         setfattr -n user.a -v b .env; test \"$(getfattr --only-values -n user.a .env)\" = b",
    );
    let root = run(Command::new("ls").arg(home.mnt()));
    assert!(!root.status.success(), "without allow_other not even root looks in");
    home.umount();
    home.must("./envelopefs check --key-file key backing");
    home.mount();
    home.must("cd mnt; test \"$(cat h)\" = secret; test $(stat -c %s e/zeros) = 5; test $(stat -c %h .env) = 2");
    home.umount();
}

#[test]
fn an_ordinary_users_own_modes_hold() {
    if !volumes() {
        return;
    }
    let home = Home::new();
    home.mount();
    // Read only, write only, neither: the daemon has no more rights than the user and must still do the user's work.
    home.must(
        "cd mnt; head -c 10000 /dev/zero | tr '\\0' x > f; cp f ro; cp f wo; cp f no; chmod 400 ro; chmod 200 wo; chmod 0 no
         cat ro >/dev/null; (! cat wo 2>/dev/null); (! cat no 2>/dev/null); (! echo x >> ro) 2>/dev/null; (! echo x >> no) 2>/dev/null
         echo appended >> wo; printf y | dd of=wo bs=1 seek=5000 conv=notrunc status=none; truncate -s 9000 wo; echo end >> wo
         umask 0777; echo new > unreadable; umask 022; test $(stat -c %a unreadable) = 0; chmod 600 unreadable
         test $(cat unreadable) = new; touch -d @5 no; test $(stat -c %Y no) = 5",
    );
    home.umount();
    home.mount();
    home.must(
        "cd mnt; test $(stat -c '%a' ro wo no | tr '\\n' ,) = 400,200,0,; chmod 600 wo no; test $(stat -c %s wo) = 9004
         cmp ro no; test $(head -c 5001 wo | tail -c 1) = y; test $(tail -n 1 wo | tail -c 4) = end",
    );
    home.umount();
    let modes = home.must("find backing -type f -perm /022 | wc -l");
    assert_eq!(modes.trim(), "0");
}

#[test]
fn directories_without_search_or_write_permission_are_closed() {
    if !volumes() {
        return;
    }
    let home = Home::new();
    home.mount();
    home.must(
        "cd mnt; mkdir closed readonly; echo x > closed/f; echo x > readonly/f; chmod 0 closed; chmod 500 readonly
         (! ls closed) 2>/dev/null; (! cat closed/f) 2>/dev/null; (! touch readonly/g) 2>/dev/null; cat readonly/f
         (! rm -f readonly/f) 2>/dev/null; chmod 700 closed readonly; cat closed/f; rm -r closed readonly",
    );
    home.umount();
}

#[test]
fn a_backing_file_that_the_user_may_not_read_is_eacces_and_check_names_it() {
    if !volumes() {
        return;
    }
    let home = Home::new();
    home.mount();
    home.must("cd mnt; echo mine > mine; echo taken > taken");
    let inode: u64 = home.must("stat -c %i mnt/taken").trim().parse().unwrap();
    home.umount();
    let backing = run(Command::new("find").arg(home.path().join("backing")).args(["-inum", &inode.to_string()]));
    let backing = String::from_utf8(backing.stdout).unwrap();
    chown(backing.trim(), Some(0), Some(0)).unwrap();
    fs::set_permissions(backing.trim(), fs::Permissions::from_mode(0o600)).unwrap();
    home.mount();
    let output = home.try_sh("cat mnt/taken");
    assert!(!output.status.success() && text(&output).contains("Permission denied"), "{}", text(&output));
    assert_eq!(home.must("cat mnt/mine"), "mine\n");
    home.umount();
    let check = home.try_sh("./envelopefs check --key-file key backing");
    assert!(!check.status.success() && text(&check).contains("taken"), "{}", text(&check));
}
