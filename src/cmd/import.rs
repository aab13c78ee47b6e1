//! `envelopefs import`: a plaintext directory or file becomes part of a volume that is not mounted.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};

use super::{Code, Exit, Failure, Result, credentials, harden, umount};
use crate::audit::{self, Event, Operation};
use crate::cli::Import;
use crate::fs::{Fs, FsError, FsOptions};
use crate::import::{self, Compared, Failed, How, Source, Summary};
use crate::keys::KeyRing;
use crate::store::{StoreOptions, open_root};
use crate::volume::Volume;

/// Failures that are shown one by one; all are counted, and all are in the JSON summary.
const SHOWN: usize = 50;
/// How often what was written so far is made durable.
const COMMIT_INTERVAL: Duration = Duration::from_secs(5);

pub(super) fn run(args: Import) -> Result<Exit> {
    harden()?;
    crate::sys::process::raise_file_limit();
    if let Ok(absolute) = umount::absolute(&args.backing)
        && umount::mounted_at(&absolute)?.is_some()
    {
        let fact = format!("{} is a mountpoint; import writes into the backing directory", args.backing.display());
        return Err(Failure::new(Code::Usage, fact).remedy(
            "unmount it and name the backing directory, or copy through the mount: rsync -aHAX SOURCE/ MOUNTPOINT/",
        ));
    }
    let volume = Volume::open(&args.backing)?;
    apart(&args.source, &args.backing)?;
    let source = Source::open(&args.source).map_err(|error| {
        Failure::new(Code::Failure, format!("cannot open the source {}", args.source.display())).because(&error)
    })?;
    let _lock = volume.lock()?;
    let given = credentials::existing(&args.credentials)?;
    let unlocked = match args.dry_run {
        true => volume.unlock(&given, args.volume_id)?,
        false => audit::unlock(&volume, Operation::Import, &given, args.volume_id)?,
    };
    let ring = unlocked.ring();
    let how = How { dry_run: args.dry_run, overwrite: args.overwrite };
    let into = args.into.as_path();
    let (entries, bytes) = source.size();
    let bar = progress(args.quiet || args.json, if args.dry_run { bytes } else { 2 * bytes });
    let advance = |bytes| bar.inc(bytes);

    let copied = if args.dry_run {
        let fs = open(&args.backing, ring.clone(), true)?;
        let into = import::find_path(&fs, into).map_err(Failure::from)?;
        import::copy(&fs, &source, into, how, &advance)
    } else {
        write(&open(&args.backing, ring.clone(), false)?, |fs| {
            import::copy(fs, &source, Some(import::make_path(fs, into)?), how, &advance).map_err(|stopped| {
                tracing::error!("{stopped}");
                stopped.source
            })
        })
        .map_err(|source| import::Stopped { path: PathBuf::new(), source })
    };
    let summary = copied.map_err(|stopped| {
        bar.finish_and_clear();
        Failure::new(Code::Failure, "the import was stopped; what was copied so far is in the volume")
            .because(&stopped.source)
            .remedy("mend the cause and run the same command again: it goes on where it ended")
    })?;
    let mut compared = None;
    let mut removed = (0, Vec::new());
    if !args.dry_run {
        // Everything is on the disk before it is compared, and compared before anything is removed.
        rustix::fs::syncfs(volume.control()).map_err(|errno| {
            Failure::new(Code::Failure, "what was copied cannot be flushed to the disk").because(&errno)
        })?;
        let fs = open(&args.backing, ring, true)?;
        let into = import::find_path(&fs, into).map_err(Failure::from)?;
        let found = import::compare(&fs, &source, into, &advance);
        if args.remove_originals && summary.failed.is_empty() && found.different.is_empty() {
            removed = import::remove_originals(&source, &found);
        }
        compared = Some(found);
    }
    bar.finish_and_clear();

    let failures = failures(&summary, compared.as_ref(), &removed.1);
    let done = failures.is_empty();
    if !args.dry_run {
        let event = Event::new(Operation::Import);
        let event =
            if done { event } else { event.failed(&format!("{} entries could not be imported", failures.len())) };
        audit::note(&volume, Some(&unlocked), event);
    }
    let report =
        Report { args: &args, entries, summary: &summary, compared: compared.as_ref(), removed: removed.0, failures };
    report.print();
    if done {
        return Ok(Exit::SUCCESS);
    }
    let failure = Failure::new(Code::Failure, "not everything could be imported as it is");
    Err(match args.remove_originals && removed.0 == 0 {
        true => failure.remedy("no original was removed; see the entries above"),
        false => failure,
    })
}

/// The filesystem of a volume that nobody has mounted.
fn open(backing: &Path, ring: Arc<KeyRing>, read_only: bool) -> Result<Fs> {
    let root = open_root(backing).map_err(FsError::from)?;
    let options = FsOptions { read_only, give_to_caller: false, store: StoreOptions::of_this_kernel() };
    Ok(Fs::new(root, ring, options)?)
}

/// Writes into a filesystem, committing now and then as a daemon does, and everything in the end.
fn write<T>(fs: &Fs, act: impl FnOnce(&Fs) -> std::result::Result<T, FsError>) -> std::result::Result<T, FsError> {
    let done = std::thread::scope(|scope| {
        scope.spawn(|| {
            while fs.wait_for_background(COMMIT_INTERVAL) {
                if let Err(error) = fs.commit_all() {
                    tracing::error!("the background commit failed: {error}");
                }
            }
        });
        let done = act(fs);
        fs.stop_background();
        done
    });
    let ended = fs.shut_down();
    done.and_then(|done| ended.map(|()| done))
}

/// Refuses to read what is being written.
fn apart(source: &Path, backing: &Path) -> Result<()> {
    let (Ok(from), Ok(to)) = (source.canonicalize(), backing.canonicalize()) else { return Ok(()) };
    if !from.starts_with(&to) && !to.starts_with(&from) {
        return Ok(());
    }
    let fact =
        format!("the source {} and the backing directory {} lie one in the other", source.display(), backing.display());
    Err(Failure::new(Code::Usage, fact).remedy("choose a backing directory apart from the source"))
}

fn progress(quiet: bool, bytes: u64) -> ProgressBar {
    let bar = ProgressBar::new(bytes);
    if quiet || !std::io::stderr().is_terminal() {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    let style = ProgressStyle::with_template("{wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

/// What was done to whom, for all that went wrong.
fn failures(summary: &Summary, compared: Option<&Compared>, kept: &[Failed]) -> Vec<(&'static str, Failed)> {
    let different = compared.map(|found| found.different.as_slice()).unwrap_or_default();
    // What could not be copied differs too: once is enough.
    let news = different.iter().filter(|one| !summary.failed.iter().any(|failed| failed.path == one.path));
    let not = |what| move |failed: &Failed| (what, failed.clone());
    summary
        .failed
        .iter()
        .map(not("not copied"))
        .chain(news.map(not("not equal")))
        .chain(kept.iter().map(not("not removed")))
        .collect()
}

struct Report<'a> {
    args: &'a Import,
    entries: u64,
    summary: &'a Summary,
    compared: Option<&'a Compared>,
    removed: u64,
    failures: Vec<(&'static str, Failed)>,
}

impl Report<'_> {
    fn print(&self) {
        let summary = self.summary;
        if self.args.json {
            let failures: Vec<Value> = self
                .failures
                .iter()
                .map(|(what, failed)| json!({"path": failed.path.to_string_lossy(), "what": what, "reason": failed.reason}))
                .collect();
            let object = json!({
                "dry_run": self.args.dry_run, "entries": self.entries, "files": summary.files, "directories": summary.directories,
                "symlinks": summary.symlinks, "specials": summary.specials, "hard_links": summary.hard_links,
                "copied": summary.copied, "skipped": summary.equal, "bytes": summary.bytes,
                "verified": self.compared.map(|found| found.equal), "verified_bytes": self.compared.map(|found| found.bytes),
                "removed": self.removed, "failed": self.failures.len(), "failures": failures,
            });
            println!("{object}");
            return;
        }
        for (what, failed) in self.failures.iter().take(SHOWN) {
            // Escaped: a name may hold anything, the terminal's control codes included.
            println!("{what}: {}: {}", failed.path.to_string_lossy().escape_debug(), failed.reason.escape_debug());
        }
        if self.failures.len() > SHOWN {
            println!("and {} more.", self.failures.len() - SHOWN);
        }
        println!(
            "{} files, {} directories, {} symlinks, {} others, {} hard links.",
            summary.files, summary.directories, summary.symlinks, summary.specials, summary.hard_links
        );
        let (copied, equal, bytes) = (summary.copied, summary.equal, summary.bytes);
        if self.args.dry_run {
            println!(
                "Dry run, nothing was changed: {copied} would be copied ({bytes} bytes), {equal} are there already."
            );
            return;
        }
        println!("Copied {copied} ({bytes} bytes); {equal} were there already.");
        if let Some(found) = self.compared {
            println!(
                "Compared byte for byte: {} equal ({} bytes), {} different.",
                found.equal,
                found.bytes,
                found.different.len()
            );
        }
        if self.removed > 0 {
            println!("Removed {} originals. What the disk held of them may still be on it.", self.removed);
        } else if self.failures.is_empty() && summary.copied + summary.equal > 0 {
            println!("The originals are still there in plain: {}.", self.args.source.display());
        }
    }
}
