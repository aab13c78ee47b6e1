//! What a command says to the daemon that has a volume mounted: by ioctl(2) on the root of the mount.
//!
//! The mount itself is the channel, so there is no socket to protect: the kernel brings a request to the daemon that serves this mount and no
//! other, and says who asks. Root and the daemon's own user may. Nothing secret goes through it in the clear: a new master
//! key comes as a [`Handover`], which opens with the volume key.
//!
//! Both directions are one JSON object in a buffer of [`SIZE`] bytes, filled up with zeros.

use std::sync::Arc;
use std::thread::JoinHandle;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::served::Served;
use crate::crypto::aead::WrappedSecret;
use crate::fs::Fs;
use crate::fs::rewrap::{Counts, HeaderWalk, Task};
use crate::keys::{Handover, KeyId};

/// Bytes of a request and of an answer.
pub const SIZE: usize = 8192;
/// `_IOWR(0xE5, 1, [u8; SIZE])` (include/uapi/asm-generic/ioctl.h).
pub const IOCTL: u32 = 3 << 30 | (SIZE as u32) << 16 | 0xE5 << 8 | 1;
/// Failures that an answer names; the others are counted.
const NAMED_FAILURES: usize = 10;
/// Longest text of a failure, in characters, so that all fit into an answer.
const FAILURE_TEXT: usize = 120;
/// Master keys that an answer counts for.
const NAMED_KEYS: usize = 50;

/// What is asked of the daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
pub enum Request {
    /// Take a new master key over as the active one.
    Adopt {
        /// Its id.
        key_id: String,
        /// Its DEK-wrapping key, wrapped, in base64.
        wrapped: String,
    },
    /// Let go of all master keys but the active one and these.
    KeepOnly {
        /// Ids.
        keys: Vec<String>,
    },
    /// Begin a walk over all headers.
    Walk {
        /// True: rewrap them; false: count them.
        rewrap: bool,
        /// Threads that work on headers.
        threads: usize,
        /// Headers a second, 0 = no limit.
        rate: u64,
    },
    /// How far the last walk is.
    Progress,
    /// End the walk under way.
    Stop,
}

/// What the daemon answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub enum Answer {
    /// It is done.
    Done,
    /// It is not.
    Refused {
        /// Why.
        reason: String,
    },
    /// How far a walk is.
    Progress(Progress),
}

/// How far a walk is, and what came of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// It is not at its end.
    pub running: bool,
    /// It came to its end, and was not stopped.
    pub complete: bool,
    /// Why it did not.
    pub error: Option<String>,
    /// So far.
    pub counts: Counts,
    /// Headers by the id of the master key that unwraps them.
    pub by_key: Vec<(String, u64)>,
    /// The first failures: path and reason.
    pub failures: Vec<(String, String)>,
}

impl Progress {
    /// Of a walk in this process.
    pub fn of(walk: &HeaderWalk, running: bool, error: Option<String>) -> Self {
        let short = |text: String| text.chars().take(FAILURE_TEXT).collect();
        let failures = walk.failures().into_iter().take(NAMED_FAILURES);
        Progress {
            running,
            complete: !running && error.is_none() && !walk.is_stopped(),
            error: error.map(short),
            counts: walk.counts(),
            by_key: walk.by_key().into_iter().take(NAMED_KEYS).map(|(key, count)| (key.to_string(), count)).collect(),
            failures: failures.map(|failed| (short(failed.path.display().to_string()), short(failed.what))).collect(),
        }
    }
}

/// Writes a request or an answer into a buffer; `None` if it does not fit.
pub fn encode(message: &impl Serialize) -> Option<[u8; SIZE]> {
    let text = serde_json::to_vec(message).ok()?;
    let mut buffer = [0; SIZE];
    buffer.get_mut(..text.len())?.copy_from_slice(&text);
    Some(buffer)
}

/// Reads what [`encode`] wrote; `None` for anything else.
pub fn decode<'a, T: Deserialize<'a>>(buffer: &'a [u8]) -> Option<T> {
    let end = buffer.iter().position(|&byte| byte == 0).unwrap_or(buffer.len());
    serde_json::from_slice(buffer.get(..end)?).ok()
}

/// The daemon's end.
pub(crate) struct Control {
    served: Arc<Served>,
    last: Mutex<Option<Running>>,
}

/// A walk and the thread that it is done by.
struct Running {
    walk: Arc<HeaderWalk>,
    error: Arc<Mutex<Option<String>>>,
    thread: JoinHandle<()>,
}

impl Control {
    pub(crate) fn new(served: Arc<Served>) -> Self {
        Control { served, last: Mutex::default() }
    }

    fn fs(&self) -> Result<Arc<Fs>, String> {
        self.served.get().ok_or_else(|| "the volume's keys were taken away: mount it again".into())
    }

    /// Answers a request from a user who may make it.
    pub(crate) fn answer(&self, request: &[u8]) -> Option<[u8; SIZE]> {
        let answer = match decode(request) {
            Some(request) => self.act(request).unwrap_or_else(|reason| Answer::Refused { reason }),
            None => {
                Answer::Refused { reason: "this daemon does not know the request: it may be of another version".into() }
            }
        };
        encode(&answer).or_else(|| {
            // Characters that JSON writes with six made it too long: they are counted, if not named.
            let Answer::Progress(progress) = answer else { return None };
            encode(&Answer::Progress(Progress { failures: Vec::new(), ..progress }))
        })
    }

    fn act(&self, request: Request) -> Result<Answer, String> {
        match request {
            Request::Adopt { key_id, wrapped } => {
                let wrapped = BASE64_STANDARD.decode(wrapped).ok().and_then(|bytes| WrappedSecret::from_bytes(&bytes));
                let wrapped = wrapped.ok_or("the key is not one")?;
                let key_id: KeyId = key_id.parse().map_err(|_| "the key's id is not one")?;
                let adopted = self.fs()?.ring().adopt(&Handover { key_id, wrapped });
                adopted.map_err(|_| "the key is not this volume's")?;
                tracing::info!(key = %key_id, "a new master key is in force");
                Ok(Answer::Done)
            }
            Request::KeepOnly { keys } => {
                let keys: Result<Vec<KeyId>, _> = keys.iter().map(|key| key.parse()).collect();
                let gone = self.fs()?.ring().keep_only(&keys.map_err(|_| "a key's id is not one")?);
                tracing::info!(gone, "master keys were let go of");
                Ok(Answer::Done)
            }
            Request::Walk { rewrap, threads, rate } => self.walk(rewrap, threads, rate),
            Request::Progress => {
                let last = self.last.lock();
                let progress = last.as_ref().map(|running| {
                    let at_work = !running.thread.is_finished();
                    Progress::of(&running.walk, at_work, running.error.lock().clone())
                });
                Ok(Answer::Progress(progress.unwrap_or_default()))
            }
            Request::Stop => {
                if let Some(running) = &*self.last.lock() {
                    running.walk.stop();
                }
                Ok(Answer::Done)
            }
        }
    }

    fn walk(&self, rewrap: bool, threads: usize, rate: u64) -> Result<Answer, String> {
        let mut last = self.last.lock();
        if last.as_ref().is_some_and(|running| !running.thread.is_finished()) {
            return Err("another walk over the headers is under way".into());
        }
        let walk = Arc::new(HeaderWalk::new(if rewrap { Task::Rewrap } else { Task::Count }, rate));
        let error = Arc::new(Mutex::new(None));
        let thread = {
            let (fs, walk, error) = (self.fs()?, walk.clone(), error.clone());
            std::thread::Builder::new().name("headers".into()).spawn(move || {
                if let Err(failed) = fs.walk_headers(&walk, threads.clamp(1, 64)) {
                    tracing::error!("the walk over the headers ended early: {failed}");
                    *error.lock() = Some(failed.to_string());
                }
                let Counts { files, empty, rewrapped, failed } = walk.counts();
                tracing::info!(files, empty, rewrapped, failed, stopped = walk.is_stopped(), "headers walked over");
            })
        };
        *last = Some(Running { walk, error, thread: thread.map_err(|error| error.to_string())? });
        Ok(Answer::Done)
    }

    /// Ends a walk under way: the session ends.
    pub(crate) fn end(&self) {
        if let Some(running) = self.last.lock().take() {
            running.walk.stop();
            let _ = running.thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn messages_come_back_as_they_were() {
        let requests = [
            Request::Adopt { key_id: "00".repeat(16), wrapped: "AA==".into() },
            Request::KeepOnly { keys: vec!["x".into()] },
            Request::Walk { rewrap: true, threads: 2, rate: 0 },
            Request::Progress,
            Request::Stop,
        ];
        for request in requests {
            assert_eq!(decode(&encode(&request).unwrap()), Some(request));
        }
        let failures = vec![("p".repeat(FAILURE_TEXT), "ü".repeat(FAILURE_TEXT)); NAMED_FAILURES];
        let by_key = vec![("00".repeat(16), u64::MAX); NAMED_KEYS];
        let full = Answer::Progress(Progress { failures, by_key, ..Progress::default() });
        assert!(encode(&full).is_some_and(|bytes| decode(&bytes) == Some(full)), "the largest answer fits");
        assert_eq!(encode(&Request::KeepOnly { keys: vec!["x".repeat(SIZE)] }), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _: Option<Request> = decode(&bytes);
        }
    }
}
