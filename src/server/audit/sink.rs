//! Where copies of records go: a directory, or an S3-compatible store. Both hold `LOG/000000001.json`, the bytes of the database.
//!
//! A record is only ever created. What is there already with the same bytes counts as written, so that two nodes, or one that died on the way, do no
//! harm; what is there with other bytes is an error, and stays as it is.

use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, Checksum, S3ConditionalPut};
use object_store::{ClientOptions, ObjectStore, ObjectStoreExt, PutMode, PutOptions, RetryConfig};

use super::record::MAX_RECORD;
use crate::server::config;
use crate::server::state::LogName;

/// How long one request to a store may take.
const REQUEST: Duration = Duration::from_secs(15);
/// What names of files begin with that are still being written.
pub(super) const UNFINISHED: &str = ".new-";
/// After this time a file that is still being written is left over from a node that died.
const LEFT_OVER: Duration = Duration::from_secs(3600);

/// Why a record is not in a sink.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SinkError {
    /// The configuration names none that can be used.
    #[error("audit sink {sink:?}: {fact}")]
    Setup {
        /// Which.
        sink: String,
        /// What is wrong.
        fact: String,
    },
    /// It could not be reached, or refused.
    #[error("audit sink {sink:?} failed: {cause}")]
    Away {
        /// Which.
        sink: String,
        /// What it said.
        cause: String,
    },
    /// It holds something else under the record's name: never overwritten, somebody has to look.
    #[error("audit sink {sink:?} holds other bytes as record {number} of {log}: they were left as they are")]
    Differs {
        /// Which.
        sink: String,
        /// Of which log.
        log: LogName,
        /// Which record.
        number: u64,
    },
}

/// A place for copies.
#[derive(Debug, Clone)]
pub struct Sink {
    name: Arc<str>,
    place: Place,
}

#[derive(Debug, Clone)]
enum Place {
    Directory(PathBuf),
    Store { store: Arc<dyn ObjectStore>, prefix: String },
}

/// The name of a record, relative to the sink.
pub(super) fn record_name(log: &LogName, number: u64) -> String {
    format!("{log}/{number:09}.json")
}

/// The number in a record's file name: only the one spelling that [`record_name`] gives.
pub(super) fn record_number(name: &str) -> Option<u64> {
    let number = name.strip_suffix(".json")?.parse().ok()?;
    (number > 0 && name == format!("{number:09}.json")).then_some(number)
}

impl Sink {
    /// A directory, which exists.
    pub fn directory(name: &str, path: &Path) -> Result<Sink, SinkError> {
        let setup = |fact: String| SinkError::Setup { sink: name.to_owned(), fact };
        match std::fs::metadata(path) {
            Ok(meta) if meta.is_dir() => {}
            Ok(_) => return Err(setup(format!("{} is no directory", path.display()))),
            Err(error) => return Err(setup(format!("{} cannot be used: {error}", path.display()))),
        }
        Ok(Sink { name: name.into(), place: Place::Directory(path.to_owned()) })
    }

    /// As configured. Reads the secret key, asks no store.
    ///
    /// # Errors
    /// [`SinkError::Setup`].
    pub fn open(sink: &config::Sink) -> Result<Sink, SinkError> {
        let name = sink.name();
        let setup = |fact: String| SinkError::Setup { sink: name.to_owned(), fact };
        match sink {
            config::Sink::Directory { path, .. } => Sink::directory(name, path),
            config::Sink::S3 {
                bucket,
                prefix,
                region,
                endpoint,
                access_key_id,
                secret_access_key,
                insecure_plain_http,
                ..
            } => {
                let client = ClientOptions::new()
                    .with_timeout(REQUEST)
                    .with_connect_timeout(REQUEST)
                    .with_allow_http(*insecure_plain_http);
                // The outbox tries again itself, and longer.
                let retry = RetryConfig { max_retries: 1, retry_timeout: REQUEST, ..RetryConfig::default() };
                let mut builder = AmazonS3Builder::new()
                    .with_bucket_name(bucket)
                    .with_region(region)
                    .with_client_options(client)
                    .with_retry(retry)
                    // If-None-Match: *; and what a bucket with object lock demands.
                    .with_conditional_put(S3ConditionalPut::ETagMatch)
                    .with_checksum_algorithm(Checksum::SHA256);
                if let Some(endpoint) = endpoint {
                    builder = builder.with_endpoint(endpoint);
                }
                if let (Some(id), Some(secret)) = (access_key_id, secret_access_key) {
                    let secret = secret.read_word("secret access key").map_err(|error| setup(error.to_string()))?;
                    builder = builder.with_access_key_id(id).with_secret_access_key(secret.as_str());
                }
                let store = builder.build().map_err(|error| setup(error.to_string()))?;
                let prefix = prefix.trim_matches('/').to_owned();
                Ok(Sink { name: name.into(), place: Place::Store { store: Arc::new(store), prefix } })
            }
        }
    }

    /// By which it is known.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn away(&self, cause: impl std::fmt::Display) -> SinkError {
        SinkError::Away { sink: self.name.to_string(), cause: cause.to_string() }
    }

    fn differs(&self, log: &LogName, number: u64) -> SinkError {
        SinkError::Differs { sink: self.name.to_string(), log: log.clone(), number }
    }

    /// Writes a record, durably. Done also if it is there already.
    ///
    /// # Errors
    /// [`SinkError::Away`], [`SinkError::Differs`].
    pub async fn put(&self, log: &LogName, number: u64, record: &[u8]) -> Result<(), SinkError> {
        let there = match &self.place {
            Place::Directory(root) => {
                let (root, name, bytes) = (root.clone(), record_name(log, number), record.to_vec());
                let written = tokio::task::spawn_blocking(move || create(&root, &name, &bytes)).await;
                let written = written.unwrap_or_else(|error| Err(io::Error::other(error)));
                written.map_err(|error| self.away(error))?
            }
            Place::Store { store, prefix } => {
                let path = path(prefix, &record_name(log, number));
                let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
                match store.put_opts(&path, record.to_vec().into(), options).await {
                    Ok(_) => None,
                    Err(object_store::Error::AlreadyExists { .. }) => Some(self.get(log, number).await?),
                    Err(error) => return Err(self.away(error)),
                }
            }
        };
        match there {
            None => Ok(()),
            Some(Some(there)) if there == record => Ok(()),
            // Created and removed by somebody: the next attempt sees what is left.
            Some(None) => Err(self.away(format!("{} came and went", record_name(log, number)))),
            Some(Some(_)) => Err(self.differs(log, number)),
        }
    }

    /// Reads a record; longer than any record, it is cut off, which nothing that follows takes for one.
    ///
    /// # Errors
    /// [`SinkError::Away`].
    pub(super) async fn get(&self, log: &LogName, number: u64) -> Result<Option<Vec<u8>>, SinkError> {
        match &self.place {
            Place::Directory(root) => {
                let file = root.join(record_name(log, number));
                let read = tokio::task::spawn_blocking(move || read(&file)).await;
                read.unwrap_or_else(|error| Err(io::Error::other(error))).map_err(|error| self.away(error))
            }
            Place::Store { store, prefix } => {
                let got = match store.get(&path(prefix, &record_name(log, number))).await {
                    Ok(got) => got,
                    Err(object_store::Error::NotFound { .. }) => return Ok(None),
                    Err(error) => return Err(self.away(error)),
                };
                if got.meta.size > MAX_RECORD as u64 {
                    return Ok(Some(vec![0; MAX_RECORD + 1]));
                }
                Ok(Some(got.bytes().await.map_err(|error| self.away(error))?.to_vec()))
            }
        }
    }

    /// The logs of which it has anything; and the first name that is no log's.
    pub(super) async fn logs(&self) -> Result<(Vec<LogName>, Option<String>), SinkError> {
        let names: Vec<String> = match &self.place {
            Place::Directory(root) => self.list_directory(root.clone()).await?,
            Place::Store { store, prefix } => {
                let prefix = object_store::path::Path::from(&**prefix);
                let listed = store.list_with_delimiter(Some(&prefix)).await.map_err(|error| self.away(error))?;
                let directories =
                    listed.common_prefixes.into_iter().chain(listed.objects.into_iter().map(|o| o.location));
                directories.filter_map(|path| path.filename().map(str::to_owned)).collect()
            }
        };
        let mut logs = Vec::new();
        let mut stranger = None;
        for name in names {
            match name.parse() {
                Ok(log) => logs.push(log),
                Err(_) => stranger = stranger.or(Some(name)),
            }
        }
        logs.sort();
        Ok((logs, stranger))
    }

    /// The numbers of the records that it has of a log, in order; and the first name that is no record's.
    pub(super) async fn numbers(&self, log: &LogName) -> Result<(Vec<u64>, Option<String>), SinkError> {
        let (mut numbers, mut stranger) = (Vec::new(), None);
        let mut take = |name: &str| match record_number(name) {
            Some(number) => numbers.push(number),
            None => stranger = stranger.take().or_else(|| Some(name.to_owned())),
        };
        match &self.place {
            Place::Directory(root) => {
                self.list_directory(root.join(log.as_str())).await?.iter().for_each(|name| take(name));
            }
            Place::Store { store, prefix } => {
                use futures_util::TryStreamExt;
                let mut listed = store.list(Some(&path(prefix, log.as_str())));
                while let Some(object) = listed.try_next().await.map_err(|error| self.away(error))? {
                    take(object.location.filename().unwrap_or_default());
                }
            }
        }
        numbers.sort_unstable();
        Ok((numbers, stranger))
    }

    async fn list_directory(&self, path: PathBuf) -> Result<Vec<String>, SinkError> {
        let listed = tokio::task::spawn_blocking(move || -> io::Result<Vec<String>> {
            let entries = match std::fs::read_dir(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
                entries => entries?,
            };
            let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
            names.filter(|name| !matches!(name, Ok(name) if name.starts_with(UNFINISHED))).collect()
        });
        let listed = listed.await.unwrap_or_else(|error| Err(io::Error::other(error)));
        listed.map_err(|error| self.away(error))
    }
}

fn path(prefix: &str, name: &str) -> object_store::path::Path {
    object_store::path::Path::from(if prefix.is_empty() { name.to_owned() } else { format!("{prefix}/{name}") })
}

/// The file, or None.
fn read(file: &Path) -> io::Result<Option<Vec<u8>>> {
    use std::io::Read;
    let file = match std::fs::File::open(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let mut bytes = Vec::new();
    file.take(MAX_RECORD as u64 + 1).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

/// Creates a file whole or not at all; or gives what is there. A link, unlike a rename, replaces nothing.
fn create(root: &Path, name: &str, bytes: &[u8]) -> io::Result<Option<Option<Vec<u8>>>> {
    static SERIAL: AtomicU64 = AtomicU64::new(0);
    let file = root.join(name);
    if let Some(there) = read(&file)? {
        return Ok(Some(Some(there)));
    }
    let directory = file.parent().unwrap_or(root);
    match std::fs::DirBuilder::new().mode(0o750).create(directory) {
        // A new log's directory has to survive as well.
        Ok(()) => std::fs::File::open(root)?.sync_all()?,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
    if serial.is_multiple_of(1024) {
        sweep(directory)?;
    }
    let random = uuid::Uuid::new_v4().simple();
    let new = directory.join(format!("{UNFINISHED}{random}"));
    let written = (|| {
        let mut to = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o640).open(&new)?;
        to.write_all(bytes)?;
        to.sync_all()?;
        std::fs::hard_link(&new, &file)
    })();
    // Also after an error: nothing half-written stays.
    let removed = std::fs::remove_file(&new);
    match written {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(Some(read(&file)?)),
        written => written?,
    }
    removed?;
    std::fs::File::open(directory)?.sync_all()?;
    Ok(None)
}

/// Removes what nodes that died left half-written.
pub(super) fn sweep(directory: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let old = || {
            entry
                .metadata()
                .and_then(|meta| meta.modified())
                .is_ok_and(|at| at.elapsed().is_ok_and(|age| age > LEFT_OVER))
        };
        if entry.file_name().to_string_lossy().starts_with(UNFINISHED) && old() {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
