//! `envelopefs mount`: unlocks a volume and serves it, in the background unless told otherwise.
//!
//! The order matters: fork before keys exist (key memory is not inherited) and before threads; unlock while the
//! terminal is still ours; mount; give up privileges; start threads; leave the terminal once the mount answers.

use std::path::{Path, PathBuf};
use std::time::Duration;

use uuid::Uuid;

use super::options::MountOptions;
use super::{Code, Exit, Failure, Result, credentials, harden, log, options, umount};
use crate::audit::{self, Operation};
use crate::cli::{Credentials, Mount};
use crate::fs::{Fs, FsOptions};
use crate::fuse::session::{self, Lease, SessionOptions};
use crate::keys::{KeyProvider, ProviderError};
use crate::store::{StoreOptions, open_root};
use crate::sys::process::{self, Forked, Ready};
use crate::volume::{Volume, VolumeError};

pub(super) fn run(args: Mount) -> Result<Exit> {
    let options = options::parse(&args)?;
    // Before the fork, so that relative paths mean what they say.
    let backing = args.backing.canonicalize().map_err(|error| {
        Failure::new(Code::NotAVolume, format!("there is no backing directory {}", args.backing.display()))
            .because(&error)
    })?;
    let mountpoint = check_mountpoint(&args.mountpoint, &backing, options.non_empty)?;
    check_fuse()?;
    if args.foreground {
        return serve(&args, options, &backing, &mountpoint, None);
    }
    let cannot_fork =
        |error: std::io::Error| Failure::new(Code::Failure, "cannot go to the background").because(&error);
    match process::fork().map_err(cannot_fork)? {
        Forked::Child(ready) => serve(&args, options, &backing, &mountpoint, Some(ready)),
        Forked::Parent(waiting) => match waiting.wait().map_err(cannot_fork)? {
            None => Ok(Exit::SUCCESS),
            Some(0) => Err(Failure::new(Code::Mount, "the mount ended before it answered").remedy("see the log")),
            // The child has said why.
            Some(code) => Ok(Exit::from(code)),
        },
    }
}

fn serve(args: &Mount, options: MountOptions, backing: &Path, mountpoint: &Path, ready: Option<Ready>) -> Result<Exit> {
    harden()?;
    process::raise_file_limit();
    // Modes are decided by the callers' umasks, which come with their requests.
    rustix::process::umask(rustix::fs::Mode::empty());
    log::start(ready.is_none(), options.log_file.as_deref())?;

    let volume = Volume::open(backing)?;
    let mut lock = volume.lock()?;
    if !options.session.read_only {
        lock.record_pid();
    }
    let given = Credentials {
        key_file: options.key_file,
        passphrase_file: options.passphrase_file,
        provider: options.provider,
        passphrase_fd: args.credentials.passphrase_fd,
    };
    let credentials = credentials::existing(&given)?;
    let unlocked = match options.session.read_only {
        // Promises to change nothing in the backing directory.
        true => volume.unlock(&credentials, options.volume_id)?,
        false => audit::unlock(&volume, Operation::Mount, &credentials, options.volume_id)?,
    };
    let uuid = volume.description().uuid();

    let session = SessionOptions { source: backing.to_string_lossy().into_owned(), ..options.session };
    let fs = open_fs(backing, unlocked.ring(), &session, options.journal_len)?;
    drop(unlocked);
    // Without a lease, the credentials have done their part.
    let lease = options.lease.map(|every| lease(every, backing.to_owned(), uuid, credentials));
    let mounted = session::mount(fs, mountpoint, &session).map_err(|error| cannot_mount(mountpoint, &error))?;
    process::drop_privileges()
        .map_err(|error| Failure::new(Code::Failure, "cannot give up privileges").because(&error))?;
    // In the foreground too: a daemon keeps no other filesystem busy.
    let _ = std::env::set_current_dir("/");
    tracing::info!(volume = %uuid, "mounted");
    let announce = move || {
        if let Some(ready) = ready
            && let Err(error) = ready.report()
        {
            tracing::error!(%error, "cannot leave the terminal");
        }
    };
    let outcome = mounted.run(announce, lease);
    tracing::info!(volume = %uuid, "ended");
    drop(lock);
    match outcome {
        Ok(()) => Ok(Exit::SUCCESS),
        Err(error) => {
            tracing::error!(%error, "the session did not end well");
            Err(Failure::new(Code::Mount, "the session did not end well").because(&error))
        }
    }
}

/// The slot must go on opening: neither removed from the volume, nor refused by its provider. A provider that cannot be reached refuses nothing,
/// so that its failure is not everybody's.
fn lease(every: Duration, backing: PathBuf, uuid: Uuid, credentials: Vec<Box<dyn KeyProvider>>) -> Lease {
    let renew = move || match Volume::open(&backing).and_then(|volume| volume.unlock(&credentials, Some(uuid))) {
        Ok(_) => Ok(()),
        Err(error) if is_refusal(&error) => Err(Failure::from(error).to_string()),
        Err(error) => {
            tracing::warn!("the lease could not be renewed, and goes on: {}", Failure::from(error));
            Ok(())
        }
    };
    Lease { every, renew: Box::new(renew) }
}

/// True for what says that the slot shall not open any more, false for what says that nobody knows.
fn is_refusal(error: &VolumeError) -> bool {
    match error {
        VolumeError::Provider { source, .. } => {
            matches!(source, ProviderError::Refused { .. } | ProviderError::Bound { .. })
        }
        VolumeError::Io { .. } | VolumeError::Raced | VolumeError::InUse { .. } => false,
        _ => true,
    }
}

fn open_fs(
    backing: &Path,
    ring: std::sync::Arc<crate::keys::KeyRing>,
    session: &SessionOptions,
    journal_len: Option<u64>,
) -> Result<std::sync::Arc<Fs>> {
    let root = open_root(backing).map_err(crate::fs::FsError::from)?;
    let options = FsOptions {
        read_only: session.read_only,
        give_to_caller: rustix::process::geteuid().is_root(),
        store: StoreOptions { journal_len, ..StoreOptions::of_this_kernel() },
    };
    let fs = Fs::new(root, ring, options).map_err(|error| match error.errno() {
        libc::EROFS => {
            Failure::new(Code::Mount, "the backing filesystem is read-only").remedy("mount the volume read-only: -o ro")
        }
        _ => Failure::from(error),
    })?;
    Ok(std::sync::Arc::new(fs))
}

fn cannot_mount(mountpoint: &Path, error: &std::io::Error) -> Failure {
    let failure = Failure::new(Code::Mount, format!("cannot mount at {}", mountpoint.display())).because(error);
    if error.kind() == std::io::ErrorKind::NotFound {
        return failure.remedy("install fuse3, whose fusermount3 mounts for ordinary users");
    }
    failure.remedy("an ordinary user needs fusermount3 (package fuse3), a mountpoint of their own, and for allow_other the line user_allow_other in /etc/fuse.conf")
}

fn check_fuse() -> Result<()> {
    if Path::new("/dev/fuse").exists() {
        return Ok(());
    }
    Err(Failure::new(Code::Mount, "there is no /dev/fuse")
        .remedy("load the kernel module (modprobe fuse); in a container, pass the device in"))
}

/// The mountpoint, resolved: an empty directory apart from the backing directory.
fn check_mountpoint(mountpoint: &Path, backing: &Path, non_empty: bool) -> Result<PathBuf> {
    let shown = mountpoint.display();
    // First, and by the mount table: to look at the mount itself would fail if its daemon is dead.
    if let Ok(absolute) = umount::absolute(mountpoint)
        && let Some(other) = umount::mounted_at(&absolute)?
    {
        let fact = format!("the volume {} is mounted at {shown}", other.backing.display());
        return Err(Failure::new(Code::InUse, fact).remedy(format!("unmount it first: envelopefs umount {shown}")));
    }
    let resolved = mountpoint.canonicalize().map_err(|error| {
        let failure = Failure::new(Code::Mount, format!("there is no mountpoint {shown}")).because(&error);
        match error.raw_os_error() {
            Some(libc::ENOTCONN) => {
                failure.remedy(format!("a daemon died there; take its mount away: envelopefs umount {shown}"))
            }
            _ => failure.remedy(format!("make the directory: mkdir {shown}")),
        }
    })?;
    if resolved.starts_with(backing) || backing.starts_with(&resolved) {
        let fact =
            format!("the mountpoint {shown} and the backing directory {} lie one in the other", backing.display());
        return Err(Failure::new(Code::Mount, fact).remedy("choose a mountpoint apart from the backing directory"));
    }
    let mut entries = std::fs::read_dir(&resolved).map_err(|error| {
        Failure::new(Code::Mount, format!("the mountpoint {shown} is not a directory that can be read")).because(&error)
    })?;
    if !non_empty && entries.next().is_some() {
        return Err(Failure::new(Code::Mount, format!("the mountpoint {shown} is not empty"))
            .remedy("choose an empty directory, or hide what is in this one with -o nonempty"));
    }
    Ok(resolved)
}
