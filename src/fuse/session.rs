//! A mounted session: mounting, event threads, signals, unmounting.

use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use fuser::{Config, MountOption, Session, SessionACL};
use rustix::mount::UnmountFlags;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::Adapter;
use super::control::Control;
use super::served::Served;
use super::turns::{Limits, Turns};
use crate::fs::Fs;

/// Everything written is made durable at least this often.
const COMMIT_INTERVAL: Duration = Duration::from_secs(5);
/// Read-ahead of a mount, in KiB: four requests of the largest size, so that while one is copied others are decrypted. The kernel offers 128.
const READ_AHEAD_KIB: u32 = 4096;

/// How a volume is mounted. `Default` is safe: no suid, no devices, nobody but the mounting user.
#[derive(Debug, Clone, Default)]
pub struct SessionOptions {
    /// What the mount table names as the source: the backing directory.
    pub source: String,
    /// Other users may use the mount (`allow_other`).
    pub allow_other: bool,
    /// Only root and the mounting user may (`allow_root`).
    pub allow_root: bool,
    /// `ro`.
    pub read_only: bool,
    /// suid and sgid take effect (`suid`).
    pub suid: bool,
    /// Device nodes work (`dev`).
    pub dev: bool,
    /// `noexec`.
    pub no_exec: bool,
    /// `noatime`.
    pub no_atime: bool,
    /// `sync`.
    pub sync: bool,
    /// `dirsync`.
    pub dir_sync: bool,
    /// Event threads; 0 for the usual number.
    pub threads: usize,
    /// How long an event thread looks for the next request before it sleeps, at most; the usual time if there is none.
    pub busy_poll: Option<Duration>,
}

impl SessionOptions {
    fn to_config(&self) -> Config {
        let mut options = vec![
            MountOption::FSName(self.source.clone()),
            // Not as `Subtype`, which the library leaves out where it calls mount(2) itself.
            MountOption::CUSTOM("subtype=envelopefs".into()),
            MountOption::DefaultPermissions,
            if self.read_only { MountOption::RO } else { MountOption::RW },
            if self.suid { MountOption::Suid } else { MountOption::NoSuid },
            if self.dev { MountOption::Dev } else { MountOption::NoDev },
            if self.no_exec { MountOption::NoExec } else { MountOption::Exec },
        ];
        if self.no_atime {
            options.push(MountOption::NoAtime);
        }
        if self.sync {
            options.push(MountOption::Sync);
        }
        if self.dir_sync {
            options.push(MountOption::DirSync);
        }
        let mut config = Config::default();
        config.mount_options = options;
        config.acl = match (self.allow_other, self.allow_root) {
            (true, _) => SessionACL::All,
            (false, true) => SessionACL::RootAndOwner,
            (false, false) => SessionACL::Owner,
        };
        config.n_threads = Some(self.thread_count());
        config.clone_fd = true;
        config
    }

    /// Sixteen threads by default: so many requests may wait for the disk before others do. Who is not needed is parked and costs next to nothing
    /// ([`turns`](super::turns)).
    fn thread_count(&self) -> usize {
        if self.threads == 0 { 16 } else { self.threads }
    }

    fn limits(&self) -> Limits {
        let usual = Limits::default();
        // With a single processor, who looks for requests keeps those who make them from it.
        let look = self.busy_poll.unwrap_or(if usual.processors == 1 { Duration::ZERO } else { usual.look });
        Limits { look, ..usual }
    }
}

/// Leave to go on using the keys, which has to be asked for again and again.
pub struct Lease {
    /// How often.
    pub every: Duration,
    /// Asks. An error says why it was refused for good; not being able to ask is no refusal.
    pub renew: Box<dyn FnMut() -> Result<(), String> + Send>,
}

impl Lease {
    /// Until it is refused, or the session ends.
    fn watch(mut self, served: &Served, ended: &Receiver<()>) {
        while let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(self.every) {
            if let Err(reason) = (self.renew)() {
                tracing::error!("the lease was refused, the keys are dropped: {reason}");
                return served.revoke();
            }
        }
    }
}

/// A volume that is mounted and answers once [`run`](Self::run) is called.
pub struct Mounted {
    session: Session<Adapter>,
    served: Arc<Served>,
    control: Arc<Control>,
    turns: Arc<Turns>,
    mountpoint: PathBuf,
}

/// Mounts.
///
/// # Errors
/// Those of mount(2) or of fusermount3.
pub fn mount(fs: Arc<Fs>, mountpoint: &Path, options: &SessionOptions) -> io::Result<Mounted> {
    let mountpoint = mountpoint.canonicalize()?;
    let served = Arc::new(Served::new(fs));
    let control = Arc::new(Control::new(served.clone()));
    let turns = Turns::new(options.limits());
    let adapter = Adapter::new(served.clone(), control.clone(), turns.clone());
    let session = Session::new(adapter, &mountpoint, &options.to_config())?;
    served.set_notifier(session.notifier());
    turns.set_queue(session.as_fd().try_clone_to_owned()?);
    Ok(Mounted { session, served, control, turns, mountpoint })
}

impl Mounted {
    /// Serves requests until the volume is unmounted, from outside or by SIGTERM, SIGINT or SIGHUP, and commits everything.
    /// `on_ready` is called, on a thread of its own, when the mount answers. A lease is asked for every so often; the first time it is
    /// refused, the keys are dropped and everything ends in ENOKEY until the volume is unmounted.
    ///
    /// # Errors
    /// If threads cannot be made, or the kernel ends the session otherwise than by unmounting.
    pub fn run(self, on_ready: impl FnOnce() + Send + 'static, lease: Option<Lease>) -> io::Result<()> {
        let Mounted { session, served, control, turns, mountpoint } = self;
        let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
        let stop_signals = signals.handle();
        let on_signal = {
            let (mountpoint, served) = (mountpoint.clone(), served.clone());
            std::thread::Builder::new().name("signals".into()).spawn(move || {
                for (before, signal) in signals.forever().enumerate() {
                    tracing::info!(signal, "asked to end");
                    match before {
                        0 => unmount_for_signal(&mountpoint),
                        _ => end_at_once(&served),
                    }
                }
            })?
        };
        let committer = {
            let served = served.clone();
            std::thread::Builder::new().name("commit".into()).spawn(move || {
                while let Some(fs) = served.get().filter(|fs| fs.wait_for_background(COMMIT_INTERVAL)) {
                    if let Err(error) = fs.commit_all() {
                        tracing::error!("the background commit failed: {error}");
                    }
                }
            })?
        };
        let (end_lease, ended) = channel();
        let lessee = lease.map(|lease| {
            let served = served.clone();
            std::thread::Builder::new().name("lease".into()).spawn(move || lease.watch(&served, &ended))
        });
        let lessee = lessee.transpose()?;
        // The first answer needs the event threads, which `run` starts: ask from beside it.
        std::thread::Builder::new().name("ready".into()).spawn(move || {
            match rustix::fs::statvfs(&mountpoint) {
                Ok(_) => {
                    raise_read_ahead(&mountpoint);
                    on_ready();
                }
                // Nobody waits for ever: the session ends.
                Err(error) => {
                    tracing::error!(%error, "the mount does not answer");
                    let _ = unmount(&mountpoint, Unmount::Lazy);
                }
            }
        })?;

        let watch = {
            let turns = turns.clone();
            std::thread::Builder::new().name("turns".into()).spawn(move || turns.watch())?
        };

        let outcome = serve(session);
        turns.end();
        let _ = watch.join();
        control.end();
        let fs = served.get();
        if let Some(fs) = &fs {
            fs.stop_background();
        }
        stop_signals.close();
        drop(end_lease);
        let _ = committer.join();
        let _ = on_signal.join();
        if let Some(lessee) = lessee {
            let _ = lessee.join();
        }
        let committed = fs.map_or(Ok(()), |fs| fs.shut_down()).map_err(|error| io::Error::other(error.to_string()));
        outcome.and(committed)
    }
}

/// Runs the event threads to their end and leaves the mount point alone.
///
/// fuser 0.18 would unmount it by path at the end of a session, even one that ended because the mount did (its check
/// whether it is still mounted has the answer reversed, see its `is_mounted`). By then another session may be mounted
/// there, and would lose its mount: so what it keeps for that is forgotten, not dropped.
fn serve(session: Session<Adapter>) -> io::Result<()> {
    let mut background = session.spawn()?;
    let nothing = std::thread::Builder::new().spawn(|| Ok(()))?;
    let events = std::mem::replace(&mut background.guard, nothing);
    std::mem::forget(background);
    events.join().unwrap_or_else(|_| Err(io::Error::other("an event thread panicked")))
}

/// Unmounts, or detaches a mount that is in use and leaves it to those who use it.
fn unmount_for_signal(mountpoint: &Path) {
    let Err(error) = unmount(mountpoint, Unmount::Normal) else { return };
    tracing::warn!(%error, "the mount is in use: detached, it ends with its last user; a second signal ends it at once");
    if let Err(error) = unmount(mountpoint, Unmount::Lazy) {
        tracing::error!(%error, "could not unmount");
    }
}

/// Ends the process, and with it the session under whoever uses it, once all they wrote is handed over. Nothing that works by the
/// mountpoint's path would do: the path may be another session's by now.
fn end_at_once(served: &Served) -> ! {
    if let Some(fs) = served.get()
        && let Err(error) = fs.shut_down()
    {
        tracing::error!("pending changes could not be written: {error}");
    }
    std::process::exit(1)
}

/// Ways to unmount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unmount {
    /// EBUSY if the mount is in use.
    Normal,
    /// The mount goes from the tree now and ends with its last user.
    Lazy,
}

/// Unmounts: by umount2(2) for root, through fusermount3 for others.
///
/// # Errors
/// EBUSY and the others of umount2(2).
pub fn unmount(mountpoint: &Path, how: Unmount) -> io::Result<()> {
    let flags = match how {
        Unmount::Normal => UnmountFlags::empty(),
        Unmount::Lazy => UnmountFlags::DETACH,
    };
    match rustix::mount::unmount(mountpoint, flags | UnmountFlags::NOFOLLOW) {
        Err(rustix::io::Errno::PERM) => {}
        other => return Ok(other?),
    }
    let mut helper = Command::new("fusermount3");
    helper.args(if how == Unmount::Normal { &["-u", "-q"][..] } else { &["-u", "-q", "-z"] });
    match helper.arg("--").arg(mountpoint).status()? {
        status if status.success() => Ok(()),
        // It says no more than that; a mount in use is by far the commonest reason.
        _ => Err(io::Error::from(rustix::io::Errno::BUSY)),
    }
}

/// Raises the kernel's read-ahead for this mount, which only root may. Not being able to costs speed alone.
fn raise_read_ahead(mountpoint: &Path) {
    let Ok(stat) = rustix::fs::stat(mountpoint) else { return };
    let (major, minor) = (rustix::fs::major(stat.st_dev), rustix::fs::minor(stat.st_dev));
    let path = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
    if let Err(error) = std::fs::write(&path, READ_AHEAD_KIB.to_string()) {
        tracing::debug!(%error, "read-ahead stays as the kernel set it");
    }
}
