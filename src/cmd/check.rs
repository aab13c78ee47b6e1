//! `envelopefs check`: verifies a whole volume.

use std::io::IsTerminal;
use std::process::ExitCode;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{Code, Result, credentials, harden};
use crate::cli::Check;
use crate::fs::check::{Finding, Reporter};
use crate::fs::{Fs, FsOptions};
use crate::store::open_root;
use crate::volume::Volume;

pub(super) fn run(args: Check) -> Result<ExitCode> {
    harden()?;
    crate::sys::process::raise_file_limit();
    let volume = Volume::open(&args.backing)?;
    // A mounted volume changes under the check, which would take that for damage.
    let _lock = volume.lock()?;
    let unlocked = volume.unlock(&credentials::existing(&args.credentials)?, args.volume_id)?;
    let root = open_root(&args.backing).map_err(crate::fs::FsError::from)?;
    let options = FsOptions { read_only: true, give_to_caller: false, commit_on_flush: true };
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
        return Ok(ExitCode::from(Code::Damaged as u8));
    }
    println!("No damage found.");
    Ok(ExitCode::SUCCESS)
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
