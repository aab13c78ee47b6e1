//! Where the server's messages go, as `[log]` says. `RUST_LOG` overrides its level.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Mutex;

use syslog_tracing::{Facility, Options, Syslog};
use tracing_subscriber::EnvFilter;

use super::{Code, Failure, Result};
use crate::server::config::{Log, LogTo};

/// Name under which the system log has our messages.
const IDENTITY: &std::ffi::CStr = c"envelopefs-keyserver";

/// What `level` says, checked.
pub(super) fn filter(level: &str) -> Result<EnvFilter> {
    let text = std::env::var("RUST_LOG").ok().filter(|text| !text.is_empty());
    EnvFilter::builder().parse(text.as_deref().unwrap_or(level)).map_err(|error| {
        Failure::new(Code::Usage, "log.level cannot be understood")
            .because(&error)
            .remedy("write error, warn, info, debug or trace")
    })
}

/// Sets the log up, once for the process.
pub(super) fn start(log: &Log) -> Result<()> {
    let builder = tracing_subscriber::fmt().with_env_filter(filter(&log.level)?).with_ansi(false);
    // The system log and systemd's journal have times of their own.
    let timeless = std::env::var_os("JOURNAL_STREAM").is_some();
    let started = match &log.to {
        LogTo::File(path) => {
            let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path).map_err(|error| {
                Failure::new(Code::Failure, format!("cannot open the log file {}", path.display()))
                    .because(&error)
                    .remedy("give log.to the path of a file that the server's user may write")
            })?;
            builder.with_writer(Mutex::new(file)).try_init()
        }
        LogTo::Stderr if timeless => builder.with_writer(std::io::stderr).without_time().try_init(),
        LogTo::Stderr => builder.with_writer(std::io::stderr).try_init(),
        LogTo::Syslog => {
            let syslog = Syslog::new(IDENTITY, Options::LOG_PID, Facility::Daemon)
                .ok_or_else(|| Failure::new(Code::Failure, "cannot use the system log"))?;
            builder.without_time().with_level(false).with_writer(syslog).try_init()
        }
    };
    started.map_err(|error| Failure::new(Code::Failure, format!("cannot start the log: {error}")))
}
