//! `envelopefs-keyserver audit`: is the log whole and genuine, and what does it say.
//!
//! Verification needs no PIN and trusts no server: the keys come from the operator. A directory of records needs no configuration either, so
//! that it can be verified elsewhere.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;

use super::installation::Installation;
use super::{Code, Exit, Failure, Result};
use crate::api::signature::SigningKeys;
use crate::server::audit::{Sink, Source, Tail, VerifyError, trusted_keys, verify};
use crate::server::cli::{AuditCommand, AuditTail, AuditVerify};
use crate::server::config::Config;
use crate::server::state::{LogName, State};

/// Longest PEM file with keys, in bytes.
const MAX_PEM: u64 = 64 << 10;
/// How often `--follow` looks for new records.
const LOOK: Duration = Duration::from_secs(1);
/// Records that are fetched at a time.
const PAGE: u32 = 100;

pub(super) async fn run(config: &Path, command: AuditCommand) -> Result<Exit> {
    match command {
        AuditCommand::Verify(args) => check(config, args).await,
        AuditCommand::Tail(args) => tail(config, args).await,
    }
}

async fn check(config: &Path, args: AuditVerify) -> Result<Exit> {
    let pinned = pinned(&args.key)?;
    let (source, keys) = match args.source.as_deref() {
        Some(path) if is_directory(path) => (copies(None, path)?, pinned),
        name => {
            let Installation { config, state } = Installation::open_initialised(config).await?;
            let listed = state.signing_keys().await?;
            let keys = trusted_keys(&pinned, &listed).map_err(|error| {
                Failure::new(Code::Damaged, "a signing key in the state is not what the key before it vouched for")
                    .because(&error)
                    .remedy("the state was changed: compare it with a backup, and verify the sinks")
            })?;
            match name {
                None => (Source::State(state), keys),
                Some(name) => (copies(Some(&config), name)?, keys),
            }
        }
    };
    let log = args.tenant.as_ref().map(LogName::from);
    let max_age = args.max_age.map(|age| age.0.unsigned_abs());
    match verify(&source, &keys, log.as_ref(), max_age).await {
        Ok(reports) => {
            if args.output.json {
                let logs = reports.iter().map(|report| {
                    json!({"log": report.log.as_str(), "records": report.records, "head": report.head, "last": report.last})
                });
                say!("{}", json!({"verified": true, "logs": logs.collect::<serde_json::Value>()}));
            } else {
                for report in &reports {
                    let (log, records) = (report.log.as_str(), report.records);
                    match report.records - report.head.min(report.records) {
                        0 => say!("{log}: {records} records, all right, up to a signed head"),
                        after => say!("{log}: {records} records, all right; {after} after the last signed head"),
                    }
                }
            }
            Ok(Exit::SUCCESS)
        }
        Err(VerifyError::Fault(fault)) => {
            if args.output.json {
                say!("{}", json!({"verified": false, "fault": fault.to_string()}));
            }
            Err(Failure::new(Code::Damaged, format!("the audit log is not right: {fault}"))
                .remedy("compare with the other sinks and with a backup: which one differs says who could change it"))
        }
        Err(error) => Err(unreadable(&error)),
    }
}

/// A path has a slash in it, a sink's name has none.
fn is_directory(source: &str) -> bool {
    source.contains('/')
}

/// Copies of the log: a directory by its path, or a sink of the configuration by its name.
pub(super) fn copies(config: Option<&Config>, source: &str) -> Result<Source> {
    let opened = if is_directory(source) {
        Sink::directory("directory", Path::new(source))
    } else {
        let sink = config.and_then(|config| config.audit.sinks.iter().find(|sink| sink.name() == source));
        let sink = sink.ok_or_else(|| {
            Failure::new(Code::Usage, format!("there is no sink {source:?}"))
                .remedy("name one of audit.sinks, or the path of a directory, with a slash in it: ./records")
        })?;
        Sink::open(sink)
    };
    opened.map(Source::Sink).map_err(|error| {
        Failure::new(Code::Failure, format!("the records of {source} cannot be read"))
            .because(&error)
            .remedy("name a directory of records, or a sink that can be reached")
    })
}

/// The signing keys that the operator believes.
pub(super) fn pinned(files: &[PathBuf]) -> Result<SigningKeys> {
    let mut pem = String::new();
    for path in files {
        pem.push_str(&key_file(path)?);
        pem.push('\n');
    }
    SigningKeys::from_pem(&pem).map_err(|error| {
        Failure::new(Code::Usage, "the --key files hold no signing keys")
            .because(&error)
            .remedy("name the file that init wrote (--signing-key)")
    })
}

fn key_file(path: &Path) -> Result<String> {
    use std::io::Read;
    let mut text = String::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(MAX_PEM).read_to_string(&mut text));
    read.map(|_| text).map_err(|error| {
        Failure::new(Code::Failure, format!("cannot read the signing key {}", path.display()))
            .because(&error)
            .remedy("name the PEM file that init wrote")
    })
}

async fn tail(config: &Path, args: AuditTail) -> Result<Exit> {
    let Installation { state, .. } = Installation::open_initialised(config).await?;
    let log = args.tenant.as_ref().map(LogName::from);
    let mut tail = match args.json {
        true => Lines::Records { state, only: log, last: args.lines.into(), next: BTreeMap::new() },
        false => Lines::People(Tail::new(Source::State(state), log, args.lines.into())),
    };
    loop {
        let mut out = std::io::stdout().lock();
        for line in tail.next().await? {
            // A reader that has seen enough, as head(1) has, is no failure.
            if writeln!(out, "{line}").is_err() {
                return Ok(Exit::SUCCESS);
            }
        }
        drop(out);
        if !args.follow {
            return Ok(Exit::SUCCESS);
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn unreadable(error: &dyn std::error::Error) -> Failure {
    Failure::new(Code::Failure, "the audit log cannot be read")
        .because(error)
        .remedy("look whether the database or the sink can be reached, and read by this user")
}

/// What is new, each time it is asked.
enum Lines {
    People(Tail),
    Records { state: State, only: Option<LogName>, last: u64, next: BTreeMap<LogName, u64> },
}

impl Lines {
    async fn next(&mut self) -> Result<Vec<String>> {
        match self {
            Lines::People(tail) => tail.lines().await.map_err(|error| unreadable(&error)),
            Lines::Records { state, only, last, next } => {
                let first_time = next.is_empty();
                let mut lines = Vec::new();
                for (log, head) in state.heads().await? {
                    if only.as_ref().is_some_and(|only| *only != log) {
                        continue;
                    }
                    let start = if first_time { head.next.saturating_sub(*last).max(1) } else { 1 };
                    let from = next.entry(log.clone()).or_insert(start);
                    loop {
                        let records = state.records(&log, *from, PAGE).await?;
                        let Some((number, _)) = records.last() else { break };
                        *from = number + 1;
                        lines.extend(
                            records.iter().map(|(_, record)| String::from_utf8_lossy(record).trim_end().to_owned()),
                        );
                    }
                }
                Ok(lines)
            }
        }
    }
}
