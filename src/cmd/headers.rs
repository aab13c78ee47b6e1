//! All headers of a volume, reached in the one way that is possible now: through the daemon that has it mounted, or directly.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::IsTerminal;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use rustix::fs::{Mode, OFlags};

use super::{Code, Failure, Result, umount};
use crate::fs::rewrap::{Counts, HeaderWalk, Task};
use crate::fs::{Fs, FsError, FsOptions};
use crate::fuse::control::{Answer, IOCTL, Progress, Request, decode, encode};
use crate::keys::{Handover, KeyId, KeyRing};
use crate::store::{StoreOptions, open_root};
use crate::sys::process;
use crate::volume::{CONTROL_DIR, Volume, VolumeError, VolumeLock};

/// How often the progress of a walk is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// The way to a volume's headers.
pub(super) enum Reach {
    /// Nobody has it mounted, and nobody will as long as this is held.
    Unmounted { backing: PathBuf, _lock: VolumeLock },
    /// A daemon has.
    Mounted(Daemon),
}

/// How a walk is done.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    pub(super) threads: usize,
    pub(super) rate: u64,
    pub(super) quiet: bool,
}

/// What a walk over all headers found and did.
#[derive(Debug, Default)]
pub(super) struct Walked {
    pub(super) counts: Counts,
    pub(super) by_key: BTreeMap<KeyId, u64>,
    pub(super) failures: Vec<(String, String)>,
    pub(super) elapsed: Duration,
}

impl Reach {
    /// Finds the way: by the volume's lock, which a daemon holds.
    pub(super) fn find(volume: &Volume, backing: &Path) -> Result<Self> {
        let backing = backing.canonicalize().map_err(|error| {
            Failure::new(Code::NotAVolume, format!("there is no backing directory {}", backing.display()))
                .because(&error)
        })?;
        match volume.lock() {
            Ok(mut lock) => {
                lock.record_pid();
                Ok(Reach::Unmounted { backing, _lock: lock })
            }
            Err(error @ VolumeError::InUse { .. }) => match umount::mountpoints_of(&backing, &believed(&backing))?.first() {
                Some(mountpoint) => Ok(Reach::Mounted(Daemon::at(mountpoint)?)),
                None => Err(Failure::from(error).remedy(
                    "it is mounted where this process cannot see it, or another command works on it: run this there, or later",
                )),
            },
            Err(error) => Err(error.into()),
        }
    }

    /// Puts a master key in force that the description has as the active one.
    pub(super) fn adopt(&self, new: &Handover) -> Result<()> {
        match self {
            Reach::Unmounted { .. } => Ok(()),
            Reach::Mounted(daemon) => daemon.order(&Request::Adopt {
                key_id: new.key_id.to_string(),
                wrapped: BASE64_STANDARD.encode(new.wrapped.to_bytes()),
            }),
        }
    }

    /// Has the daemon let go of all master keys but the active one and these.
    pub(super) fn keep_only(&self, keys: &[KeyId]) -> Result<()> {
        match self {
            Reach::Unmounted { .. } => Ok(()),
            Reach::Mounted(daemon) => {
                daemon.order(&Request::KeepOnly { keys: keys.iter().map(ToString::to_string).collect() })
            }
        }
    }

    /// Walks over all headers.
    pub(super) fn walk(&self, ring: &Arc<KeyRing>, task: Task, pace: Pace) -> Result<Walked> {
        let bar = progress_bar(pace.quiet);
        let began = Instant::now();
        let show = |counts: &Counts| {
            bar.set_position(counts.files);
            bar.set_message(format!("{} rewrapped, {} failed", counts.rewrapped, counts.failed));
        };
        let progress = match self {
            Reach::Unmounted { backing, .. } => walk_directly(backing, ring, task, pace, &show)?,
            Reach::Mounted(daemon) => daemon.walk(task, pace, &show)?,
        };
        bar.finish_and_clear();
        if let Some(error) = progress.error {
            return Err(Failure::new(Code::Failure, format!("the walk over the headers ended early: {error}"))
                .remedy("run the command again with --resume: what is done stays done"));
        }
        // What it did not see may need any key: its counts prove nothing.
        if !progress.complete {
            return Err(Failure::new(Code::Failure, "the walk over the headers was stopped before its end")
                .remedy("run the command again; a rotation with --resume: what is done stays done"));
        }
        let by_key = progress.by_key.iter().filter_map(|(key, count)| Some((key.parse().ok()?, *count))).collect();
        Ok(Walked { counts: progress.counts, by_key, failures: progress.failures, elapsed: began.elapsed() })
    }
}

/// Whose daemon may say which headers need which key: root's, this user's, and that of the user who alone can open the control directory.
fn believed(backing: &Path) -> Vec<u32> {
    let owner = std::fs::symlink_metadata(backing.join(CONTROL_DIR)).ok().map(|metadata| metadata.uid());
    [0, rustix::process::geteuid().as_raw()].into_iter().chain(owner).collect()
}

fn progress_bar(quiet: bool) -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    if quiet || !std::io::stderr().is_terminal() {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    let style = ProgressStyle::with_template("{spinner} {pos} files, {msg} ({per_sec})");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
    bar
}

fn fail(error: impl Into<FsError>) -> Failure {
    Failure::from(error.into())
}

fn walk_directly(
    backing: &Path,
    ring: &Arc<KeyRing>,
    task: Task,
    pace: Pace,
    show: &dyn Fn(&Counts),
) -> Result<Progress> {
    process::raise_file_limit();
    let root = open_root(backing).map_err(fail)?;
    let give_to_caller = rustix::process::geteuid().is_root();
    let options = FsOptions { read_only: false, give_to_caller, store: StoreOptions::of_this_kernel() };
    // Recovers what an unclean stop left: headers may be among it.
    let fs = Fs::new(root, ring.clone(), options).map_err(Failure::from)?;
    let walk = HeaderWalk::new(task, pace.rate);
    let outcome = std::thread::scope(|scope| {
        let working = scope.spawn(|| fs.walk_headers(&walk, pace.threads));
        while !working.is_finished() {
            show(&walk.counts());
            std::thread::sleep(LOOK);
        }
        working.join().unwrap_or(Err(FsError::Posix(libc::EIO)))
    });
    let outcome = outcome.and(fs.shut_down());
    Ok(Progress::of(&walk, false, outcome.err().map(|error| error.to_string())))
}

/// The files that need one of these master keys, as they are now, without a change and beside whoever works on the volume.
pub(super) fn needing(backing: &Path, ring: &Arc<KeyRing>, keys: Vec<KeyId>) -> Result<Vec<PathBuf>> {
    let root = open_root(backing).map_err(fail)?;
    let options = FsOptions { read_only: true, give_to_caller: false, store: StoreOptions::of_this_kernel() };
    let fs = Fs::unchecked(root, ring.clone(), options).map_err(Failure::from)?;
    let walk = HeaderWalk::listing(keys);
    fs.walk_headers(&walk, 1).map_err(Failure::from)?;
    Ok(walk.needing())
}

/// The daemon behind a mountpoint.
pub(super) struct Daemon {
    root: File,
    mountpoint: PathBuf,
}

impl Daemon {
    fn at(mountpoint: &Path) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match rustix::fs::open(mountpoint, flags, Mode::empty()) {
            Ok(fd) => Ok(Daemon { root: fd.into(), mountpoint: mountpoint.into() }),
            Err(errno) => {
                Err(Failure::new(Code::InUse, format!("cannot reach the volume at {}", mountpoint.display()))
                    .because(&std::io::Error::from(errno))
                    .remedy("run the command as the user who mounted the volume"))
            }
        }
    }

    fn ask(&self, request: &Request) -> Result<Answer> {
        let wrong = || {
            Failure::new(Code::Failure, format!("the daemon at {} is of another version", self.mountpoint.display()))
        };
        let mut buffer = encode(request).ok_or_else(wrong)?;
        process::exchange(&self.root, IOCTL, &mut buffer).map_err(|error| {
            let remedy = match error.raw_os_error() {
                Some(libc::EPERM | libc::EACCES) => "run the command as root or as the user who mounted the volume",
                _ => "mount the volume again with this version of envelopefs",
            };
            wrong().because(&error).remedy(remedy)
        })?;
        decode(&buffer).ok_or_else(wrong)
    }

    fn order(&self, request: &Request) -> Result<()> {
        match self.ask(request)? {
            Answer::Done => Ok(()),
            Answer::Refused { reason } => Err(Failure::new(Code::Failure, format!("the daemon refuses: {reason}"))),
            Answer::Progress(_) => Err(Failure::new(Code::Failure, "the daemon gave an answer to another question")),
        }
    }

    fn progress(&self) -> Result<Progress> {
        match self.ask(&Request::Progress)? {
            Answer::Progress(progress) => Ok(progress),
            Answer::Refused { reason } => Err(Failure::new(Code::Failure, format!("the daemon refuses: {reason}"))),
            Answer::Done => Err(Failure::new(Code::Failure, "the daemon gave an answer to another question")),
        }
    }

    fn walk(&self, task: Task, pace: Pace, show: &dyn Fn(&Counts)) -> Result<Progress> {
        self.order(&Request::Walk { rewrap: task == Task::Rewrap, threads: pace.threads, rate: pace.rate })?;
        loop {
            let progress = self.progress()?;
            show(&progress.counts);
            if !progress.running {
                return Ok(progress);
            }
            std::thread::sleep(LOOK);
        }
    }
}
