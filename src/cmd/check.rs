//! `envelopefs check`: verifies a whole volume.

use std::io::IsTerminal;
use std::sync::Arc;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use uuid::Uuid;

use super::{Code, Exit, Failure, Result, credentials, harden};
use crate::audit::{self, Operation};
use crate::cli::Check;
use crate::fs::check::{Finding, Reporter};
use crate::fs::{Fs, FsOptions};
use crate::store::{BackingDir, Store, StoreError, StoreOptions, open_root};
use crate::volume::Volume;

pub(super) fn run(args: Check) -> Result<Exit> {
    harden()?;
    crate::sys::process::raise_file_limit();
    let volume = Volume::open(&args.backing)?;
    // A mounted volume changes under the check, which would take that for damage.
    let _lock = volume.lock()?;
    let unlocked =
        audit::unlock(&volume, Operation::Check, &credentials::existing(&args.credentials)?, args.volume_id)?;
    let root = open_root(&args.backing).map_err(crate::fs::FsError::from)?;
    let options = FsOptions { read_only: true, give_to_caller: false, store: StoreOptions::of_this_kernel() };
    recover(&root, volume.description().uuid(), options.store)?;
    let fs = Fs::unchecked(root, unlocked.ring(), options)?;
    let threads = args.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let progress = Progress::new(args.quiet);
    let summary = fs.check(threads, &progress)?;
    progress.bar.finish_and_clear();
    println!(
        "Checked {} files ({} bytes stored), {} directories, {} others.",
        summary.files, summary.bytes, summary.directories, summary.others
    );
    if summary.leftovers > 0 {
        println!("Left-overs of interrupted operations, harmless: {}.", summary.leftovers);
    }
    if summary.damaged > 0 {
        println!("DAMAGED: {} findings.", summary.damaged);
        return Ok(Code::Damaged.into());
    }
    println!("No damage found.");
    Ok(Exit::SUCCESS)
}

/// Replays the journal of a volume that was not unmounted cleanly, as mounting it would: what is in it is part of the volume.
fn recover(root: &Arc<dyn BackingDir>, volume: Uuid, options: StoreOptions) -> Result<()> {
    let fail = |error: StoreError| Failure::from(crate::fs::FsError::from(error));
    match Store::require_clean(&**root, *volume.as_bytes()) {
        Err(StoreError::NeedsRecovery) => {}
        other => return other.map_err(fail),
    }
    let store = Store::open(root.clone(), *volume.as_bytes(), options).map_err(fail)?;
    store.end().map_err(|error| fail(error.into()))?;
    println!("The volume was not unmounted cleanly: its journal was replayed.");
    Ok(())
}

/// Findings as lines, progress as a bar on a terminal.
struct Progress {
    bar: ProgressBar,
}

impl Progress {
    fn new(quiet: bool) -> Self {
        let bar = ProgressBar::new(0);
        if quiet || !std::io::stderr().is_terminal() {
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
        let style = ProgressStyle::with_template("{wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Progress { bar }
    }
}

impl Reporter for Progress {
    fn found(&self, finding: &Finding) {
        let kind = if finding.damage { "damaged" } else { "left over" };
        // Escaped: a name may hold anything, the terminal's control codes included.
        let path = finding.path.to_string_lossy();
        self.bar.suspend(|| println!("{kind}: /{}: {}", path.escape_debug(), finding.what.escape_debug()));
    }

    fn total(&self, bytes: u64) {
        self.bar.set_length(bytes);
    }

    fn verified(&self, bytes: u64) {
        self.bar.inc(bytes);
    }
}
