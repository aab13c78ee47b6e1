//! Where records are read from: the database, or a sink.

use std::collections::VecDeque;
use std::sync::Arc;

use super::sink::{Sink, SinkError};
use crate::server::state::{Head, LogName, State, StateError};

/// Records that are fetched at a time.
const PAGE: usize = 16;

/// A place to read records from.
#[derive(Debug, Clone)]
pub enum Source {
    /// The database.
    State(State),
    /// A directory or a store.
    Sink(Sink),
}

/// Records could not be read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SourceError {
    /// Of the database.
    #[error("audit records cannot be read")]
    State(#[source] Arc<StateError>),
    /// Of a sink.
    #[error("audit records cannot be read")]
    Sink(#[from] SinkError),
}

impl From<StateError> for SourceError {
    fn from(error: StateError) -> Self {
        SourceError::State(Arc::new(error))
    }
}

/// The records of one log, in the order of their numbers.
pub(crate) struct Reader<'a> {
    source: &'a Source,
    log: LogName,
    /// Of a sink: the numbers that it has from the first on.
    listed: VecDeque<u64>,
    /// Of the database: the number to go on with.
    from: u64,
    fetched: VecDeque<(u64, Vec<u8>)>,
    /// A name in the log's directory that is no record's.
    pub(crate) stranger: Option<String>,
}

impl Source {
    /// The logs that there are; and the first name in a log's place that is none.
    pub(crate) async fn logs(&self) -> Result<(Vec<LogName>, Option<String>), SourceError> {
        match self {
            Source::State(state) => Ok((state.heads().await?.into_keys().collect(), None)),
            Source::Sink(sink) => Ok(sink.logs().await?),
        }
    }

    /// Where the database says that a log ends; sinks do not say.
    pub(crate) async fn head(&self, log: &LogName) -> Result<Option<Head>, SourceError> {
        match self {
            Source::State(state) => Ok(state.head(log).await?),
            Source::Sink(_) => Ok(None),
        }
    }

    /// Reads a log from a number on.
    pub(crate) async fn read(&self, log: &LogName, from: u64) -> Result<Reader<'_>, SourceError> {
        let (mut listed, stranger) = match self {
            Source::State(_) => (Vec::new(), None),
            Source::Sink(sink) => sink.numbers(log).await?,
        };
        listed.retain(|number| *number >= from);
        let (listed, fetched) = (listed.into(), VecDeque::new());
        Ok(Reader { source: self, log: log.clone(), listed, from, fetched, stranger })
    }

    /// The number of a log's last record, 0 if it has none.
    pub(crate) async fn last(&self, log: &LogName) -> Result<u64, SourceError> {
        match self {
            Source::State(state) => Ok(state.head(log).await?.map_or(0, |head| head.next - 1)),
            Source::Sink(sink) => Ok(sink.numbers(log).await?.0.last().copied().unwrap_or(0)),
        }
    }

    /// Up to some records from a number on, without a hole: what a follower has not seen.
    pub(crate) async fn since(&self, log: &LogName, from: u64) -> Result<Vec<(u64, Vec<u8>)>, SourceError> {
        match self {
            Source::State(state) => Ok(state.records(log, from, PAGE as u32).await?),
            Source::Sink(sink) => {
                let mut records = Vec::new();
                for number in from..from.saturating_add(PAGE as u64) {
                    match sink.get(log, number).await? {
                        Some(record) => records.push((number, record)),
                        None => break,
                    }
                }
                Ok(records)
            }
        }
    }
}

impl Reader<'_> {
    /// The next record and the number it is stored under.
    pub(crate) async fn next(&mut self) -> Result<Option<(u64, Vec<u8>)>, SourceError> {
        if self.fetched.is_empty() {
            match self.source {
                Source::State(state) => {
                    self.fetched = state.records(&self.log, self.from, PAGE as u32).await?.into();
                    self.from = self.fetched.back().map_or(self.from, |(number, _)| number.saturating_add(1));
                }
                Source::Sink(sink) => {
                    let log = &self.log;
                    while self.fetched.is_empty() && !self.listed.is_empty() {
                        let numbers: Vec<u64> = self.listed.drain(..PAGE.min(self.listed.len())).collect();
                        let got = numbers.iter().map(|number| sink.get(log, *number));
                        let got = futures_util::future::try_join_all(got).await?;
                        // One that went away since it was listed is missing.
                        let got = numbers.into_iter().zip(got).filter_map(|(number, got)| Some((number, got?)));
                        self.fetched.extend(got);
                    }
                }
            }
        }
        Ok(self.fetched.pop_front())
    }
}
