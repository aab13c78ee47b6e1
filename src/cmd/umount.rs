//! `envelopefs umount`: unmounts and waits until everything is written.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Code, Exit, Failure, Result};
use crate::cli::Umount;
use crate::fuse::session::{Unmount, unmount};
use crate::volume::{Volume, VolumeError};

/// How often the volume's lock is tried while its daemon ends.
const POLL: Duration = Duration::from_millis(20);

pub(super) fn run(args: Umount) -> Result<Exit> {
    let shown = args.mountpoint.display();
    let absolute = absolute(&args.mountpoint)
        .map_err(|error| Failure::new(Code::Mount, format!("there is no mountpoint {shown}")).because(&error))?;
    let Some(mount) = mounted_at(&absolute)? else {
        return Err(Failure::new(Code::Mount, format!("no envelopefs volume is mounted at {shown}"))
            .remedy("see what is: findmnt -t fuse.envelopefs"));
    };
    let user = rustix::process::geteuid();
    if !user.is_root() && mount.user.is_some_and(|owner| owner != user.as_raw()) {
        return Err(Failure::new(Code::Mount, format!("{shown} was mounted by another user"))
            .remedy("unmount it as that user or as root"));
    }
    let how = if args.lazy { Unmount::Lazy } else { Unmount::Normal };
    unmount(&absolute, how).map_err(|error| match error.raw_os_error() {
        Some(libc::EBUSY) => Failure::new(Code::InUse, format!("{shown} is in use")).remedy(format!(
            "end the programs that use it (fuser -vm {shown} lists them), or take it out of the tree now with --lazy"
        )),
        _ => Failure::new(Code::Mount, format!("cannot unmount {shown}")).because(&error),
    })?;
    if !args.lazy {
        wait_for_daemon(&mount.backing);
    }
    Ok(Exit::SUCCESS)
}

/// Waits until the daemon has written everything and let go of the volume's lock. Where the backing directory cannot be looked at any
/// more there is nothing to wait for.
fn wait_for_daemon(backing: &Path) {
    let Ok(volume) = Volume::open(backing) else { return };
    let mut daemon = None;
    while let Err(VolumeError::InUse { pid }) = volume.lock() {
        // Another daemon has the volume now: this one's work is done.
        if pid.is_some_and(|pid| *daemon.get_or_insert(pid) != pid) {
            return;
        }
        std::thread::sleep(POLL);
    }
}

/// The mountpoint as the mount table has it, without asking the mount itself, whose daemon may be dead.
pub(super) fn absolute(mountpoint: &Path) -> io::Result<PathBuf> {
    let whole = std::path::absolute(mountpoint)?;
    match (whole.parent(), whole.file_name()) {
        (Some(parent), Some(name)) => {
            let path = parent.canonicalize()?.join(name);
            let is_symlink = std::fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_symlink());
            if is_symlink { path.canonicalize() } else { Ok(path) }
        }
        _ => Ok(whole),
    }
}

/// A mount of this program.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Mounted {
    pub(super) backing: PathBuf,
    /// Who mounted it.
    user: Option<u32>,
}

/// The envelopefs volume mounted last at a place (proc_pid_mountinfo(5)).
pub(super) fn mounted_at(mountpoint: &Path) -> Result<Option<Mounted>> {
    let table = std::fs::read("/proc/self/mountinfo")
        .map_err(|error| Failure::new(Code::Mount, "cannot read the mount table").because(&error))?;
    Ok(find(&table, mountpoint))
}

/// Where one of these users has mounted a volume, the latest mount first. Anybody can mount something that calls itself a mount of this
/// volume; who speaks with a daemon says whose he believes.
pub(super) fn mountpoints_of(backing: &Path, users: &[u32]) -> Result<Vec<PathBuf>> {
    let table = std::fs::read("/proc/self/mountinfo")
        .map_err(|error| Failure::new(Code::Mount, "cannot read the mount table").because(&error))?;
    Ok(find_all(&table, backing, users))
}

fn find_all(table: &[u8], backing: &Path, users: &[u32]) -> Vec<PathBuf> {
    let at = |line: &[u8]| {
        let place = PathBuf::from(OsString::from_vec(unescape(line.split(|&byte| byte == b' ').nth(4)?)));
        let mounted = find(line, &place).filter(|mounted| mounted.backing == backing)?;
        mounted.user.is_some_and(|user| users.contains(&user)).then_some(place)
    };
    table.split(|&byte| byte == b'\n').rev().filter_map(at).collect()
}

fn find(table: &[u8], mountpoint: &Path) -> Option<Mounted> {
    table.split(|&byte| byte == b'\n').rev().find_map(|line| {
        let fields: Vec<&[u8]> = line.split(|&byte| byte == b' ').collect();
        let dash = fields.iter().position(|field| *field == b"-")?;
        let is_ours = *fields.get(dash + 1)? == b"fuse.envelopefs";
        let is_here = unescape(fields.get(4)?) == mountpoint.as_os_str().as_bytes();
        let backing = OsString::from_vec(unescape(fields.get(dash + 2)?)).into();
        let mut options = fields.get(dash + 3)?.split(|&byte| byte == b',');
        let user = options.find_map(|option| std::str::from_utf8(option.strip_prefix(b"user_id=")?).ok()?.parse().ok());
        (is_ours && is_here).then_some(Mounted { backing, user })
    })
}

/// Undoes the octal escapes of space, tab, newline and backslash.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let digits = tail.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()).filter(|_| first == b'\\') {
            Some(byte) => {
                out.push(byte);
                rest = tail.get(3..).unwrap_or_default();
            }
            None => {
                out.push(first);
                rest = tail;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_found_in_the_mount_table() {
        let table = b"24 1 254:0 / / rw - ext4 /dev/vda rw\n\
            90 24 0:50 / /mnt/a\\040b rw,nosuid shared:1 - fuse.envelopefs /srv/x\\134y rw,user_id=1000,group_id=0\n\
            91 24 0:51 / /mnt/other rw - fuse.sshfs host: rw\n";
        let mounted = Mounted { backing: "/srv/x\\y".into(), user: Some(1000) };
        assert_eq!(find(table, Path::new("/mnt/a b")), Some(mounted));
        assert_eq!(find(table, Path::new("/mnt/other")), None);
        assert_eq!(find(table, Path::new("/mnt")), None);
        assert_eq!(find(b"garbage\n\n - \\", Path::new("/mnt")), None);
    }

    /// Such a daemon could say of every header that it needs no old key.
    #[test]
    fn a_mount_that_another_user_passes_off_as_the_volumes_is_not_taken_for_it() {
        let table = b"90 24 0:50 / /srv/x rw - fuse.envelopefs /srv/x.enc rw,user_id=0,group_id=0,allow_other\n\
            91 24 0:51 / /mnt/mine rw - fuse.envelopefs /srv/x.enc rw,user_id=1000,group_id=0\n\
            92 24 0:52 / /home/m/fake rw - fuse.envelopefs /srv/x.enc rw,user_id=1001,group_id=0,allow_other\n\
            93 24 0:53 / /mnt/odd rw - fuse.envelopefs /srv/x.enc rw\n";
        let backing = Path::new("/srv/x.enc");
        assert_eq!(find_all(table, backing, &[0]), [Path::new("/srv/x")]);
        assert_eq!(find_all(table, backing, &[0, 1000]), [Path::new("/mnt/mine"), Path::new("/srv/x")]);
        assert!(find_all(table, Path::new("/srv/y.enc"), &[0, 1000, 1001]).is_empty());
    }
}
