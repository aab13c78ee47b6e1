//! Where messages go: standard error in the foreground, the system log or a file in the background.
//!
//! `RUST_LOG` chooses what is said (default: info). Names and contents of protected files are not said above debug.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Mutex;

use syslog_tracing::{Facility, Options, Syslog};
use tracing_subscriber::EnvFilter;

use super::{Code, Failure, Result};

/// Name under which the system log has our messages.
const IDENTITY: &std::ffi::CStr = c"envelopefs";

/// Sets the log up, once for the process.
pub(super) fn start(foreground: bool, file: Option<&Path>) -> Result<()> {
    let filter = EnvFilter::builder().with_default_directive(tracing::Level::INFO.into()).from_env_lossy();
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_target(false).with_ansi(false);
    let started = match file {
        Some(path) => {
            let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path).map_err(|error| {
                Failure::new(Code::Failure, format!("cannot open the log file {}", path.display())).because(&error)
            })?;
            builder.with_writer(Mutex::new(file)).try_init()
        }
        None if foreground => builder.with_writer(std::io::stderr).try_init(),
        None => {
            let syslog = Syslog::new(IDENTITY, Options::LOG_PID, Facility::Daemon)
                .ok_or_else(|| Failure::new(Code::Failure, "cannot use the system log"))?;
            builder.without_time().with_level(false).with_writer(syslog).try_init()
        }
    };
    started.map_err(|error| Failure::new(Code::Failure, format!("cannot start the log: {error}")))?;
    // What the FUSE library says comes through the crate `log`. Fails only if somebody else took its place.
    let _ = tracing_log::LogTracer::builder().with_max_level(tracing_log::log::LevelFilter::Debug).init();
    Ok(())
}
