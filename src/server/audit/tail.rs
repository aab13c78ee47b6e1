//! The newest records, for people.

use std::collections::BTreeMap;

use super::source::{Source, SourceError};
use super::{NoRecord, Record};
use crate::server::state::LogName;

/// Follows logs: one line of text for each record, not verified.
#[derive(Debug)]
pub struct Tail {
    source: Source,
    only: Option<LogName>,
    last: u64,
    next: BTreeMap<LogName, u64>,
}

impl Tail {
    /// From the last so many records of each log on, or of one.
    pub fn new(source: Source, only: Option<LogName>, last: u64) -> Tail {
        Tail { source, only, last, next: BTreeMap::new() }
    }

    /// What there is that was not returned yet, each log's in its order, logs by name; empty if there is nothing new. To follow, call it again after a while.
    ///
    /// # Errors
    /// [`SourceError`]; the next call goes on where this one stopped.
    pub async fn lines(&mut self) -> Result<Vec<String>, SourceError> {
        let first_time = self.next.is_empty();
        let logs = match &self.only {
            Some(only) => vec![only.clone()],
            None => self.source.logs().await?.0,
        };
        let mut lines = Vec::new();
        for log in logs {
            let from = match self.next.get(&log) {
                Some(from) => *from,
                // A log that begins to exist later is shown from its beginning.
                None if !first_time => 1,
                None => (self.source.last(&log).await? + 1).saturating_sub(self.last).max(1),
            };
            let mut next = from;
            self.next.insert(log.clone(), next);
            loop {
                let records = self.source.since(&log, next).await?;
                let Some((last, _)) = records.last() else { break };
                let after = last.saturating_add(1);
                lines.extend(records.iter().map(|(number, bytes)| line(&log, *number, bytes)));
                next = after;
                self.next.insert(log.clone(), next);
            }
        }
        Ok(lines)
    }
}

/// A record in short.
fn line(log: &LogName, number: u64, bytes: &[u8]) -> String {
    match Record::parse(bytes) {
        Ok(record) => short(&record),
        Err(error @ (NoRecord::Hash(_) | NoRecord::Spelling | NoRecord::Member(_))) => {
            format!("{log} #{number} was tampered with: {error}")
        }
        Err(error) => format!("{log} #{number} cannot be read: {error}"),
    }
}

fn short(record: &Record) -> String {
    let parameter =
        |name: &str| record.call.parameters.get(name).map(|text| format!(" {name}={text}")).unwrap_or_default();
    let result = match (&record.failure_reason, &record.failure_code) {
        (Some(reason), Some(code)) => format!("{}: {reason} ({code})", record.result),
        (Some(reason), None) => format!("{}: {reason}", record.result),
        (None, _) => record.result.clone(),
    };
    format!(
        "{} {} #{} {} {}@{}{}{} {} [{}]",
        record.op_end,
        record.vpc_id,
        record.vpc_op_seq_num,
        record.call.name,
        record.caller.id,
        record.caller.ip,
        parameter("volume_uuid"),
        parameter("source_instance_id"),
        result,
        record.chain.server_id,
    )
}
