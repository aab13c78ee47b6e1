//! The committer: one task that takes what waits, makes one transaction of it, and lets the callers go on after the commit.
//!
//! A record holds the hash of the one before, not its signature, so a batch is numbered and chained first, then all is signed side by side. The
//! logs of a batch are locked from the reading of their ends to the commit: a second node waits, and goes on where this one ended. Whatever
//! fails, or dies, on the way leaves no number used and no record.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arc_swap::ArcSwap;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use jiff::Timestamp;
use tokio::sync::mpsc;

use super::outbox::Outbox;
use super::{Answer, AuditError, AuditSettings, Entry, Record, Recorded, SignError, Signer, SignerBox, timestamp};
use crate::crypto::sha256;
use crate::server::state::{LogName, State, StateError};

/// Most entries of one transaction: with them a batch of signatures stays well below its time limit on a slow HSM.
pub(super) const BATCH: usize = 256;

impl From<StateError> for AuditError {
    fn from(error: StateError) -> Self {
        AuditError::State(Arc::new(error))
    }
}

/// What the committer works with.
pub(super) struct Committer {
    pub(super) state: State,
    pub(super) signer: Arc<ArcSwap<SignerBox>>,
    pub(super) settings: Arc<AuditSettings>,
    pub(super) outboxes: Arc<[Arc<Outbox>]>,
}

/// A record as it was stored.
pub(super) type Row = (LogName, u64, Vec<u8>);

impl Committer {
    /// Until the last sender is gone.
    pub(super) async fn run(self, mut waiting: mpsc::Receiver<(Entry, Answer)>) {
        let mut batch = Vec::with_capacity(BATCH);
        let limit = self.settings.timeout;
        while waiting.recv_many(&mut batch, BATCH).await > 0 {
            // Whoever does not wait any longer gets no answer, so there is nothing to record.
            batch.retain(|(_, answer): &(Entry, Answer)| !answer.is_closed());
            if batch.is_empty() {
                continue;
            }
            let (entries, answers): (Vec<_>, Vec<_>) = batch.drain(..).unzip();
            let signer = Arc::clone(&self.signer.load().0);
            let commit = commit(&self.state, &signer, &self.settings.server_id, entries);
            match tokio::time::timeout(limit, commit).await.unwrap_or(Err(AuditError::Slow(limit))) {
                Ok((recorded, rows)) => self.answer(answers, recorded, rows),
                Err(error) => {
                    let records = answers.len();
                    tracing::warn!(records, error = &error as &dyn std::error::Error, "audit records were not stored");
                    for answer in answers {
                        _ = answer.send(Err(error.clone()));
                    }
                }
            }
        }
    }

    /// Lets the callers go on; first, where it is demanded, once sinks have the records too. The next batch does not wait for that.
    fn answer(&self, answers: Vec<Answer>, recorded: Vec<Recorded>, rows: Vec<Row>) {
        let first: Vec<_> = self.outboxes.iter().filter(|outbox| outbox.before_answer).cloned().collect();
        let limit = self.settings.timeout;
        // Workers of the others at once, of these when the callers' own attempts are over.
        for outbox in self.outboxes.iter().filter(|outbox| !outbox.before_answer) {
            outbox.news.notify_one();
        }
        if first.is_empty() {
            for (answer, recorded) in answers.into_iter().zip(recorded) {
                _ = answer.send(Ok(recorded));
            }
            return;
        }
        for ((answer, recorded), (log, number, record)) in answers.into_iter().zip(recorded).zip(rows) {
            let first = first.clone();
            tokio::spawn(async move {
                let copied = tokio::time::timeout(limit, async {
                    for outbox in &first {
                        outbox.put_first(&log, number, &record).await?;
                    }
                    Ok(())
                });
                let copied = match copied.await {
                    Ok(copied) => copied.map_err(AuditError::Sink),
                    Err(_) => Err(AuditError::Slow(limit)),
                };
                if let Err(error) = &copied {
                    tracing::warn!(
                        error = error as &dyn std::error::Error,
                        "a call is refused: its audit record was not copied"
                    );
                }
                _ = answer.send(copied.map(|()| recorded));
                first.iter().for_each(|outbox| outbox.news.notify_one());
            });
        }
    }
}

/// One transaction.
pub(super) async fn commit(
    state: &State,
    signer: &Arc<dyn Signer>,
    server_id: &str,
    entries: Vec<Entry>,
) -> Result<(Vec<Recorded>, Vec<Row>), AuditError> {
    let logs: Vec<_> = entries.iter().map(|entry| entry.log.clone()).collect();
    let mut transaction = state.begin_log().await?;
    let mut heads = transaction.lock(&logs).await?;
    let signed_at = timestamp(Timestamp::now());

    let mut records: Vec<(LogName, Record)> = Vec::with_capacity(entries.len());
    let mut headed = BTreeMap::new();
    // First the records' texts, then those of contexts, with the entry that each belongs to.
    let mut texts: Vec<String> = Vec::with_capacity(entries.len());
    let mut contexts: Vec<(usize, String)> = Vec::new();
    for (at, entry) in entries.iter().enumerate() {
        let head = heads.get_mut(&entry.log).ok_or_else(|| StateError::Missing(format!("audit log {}", entry.log)))?;
        let record = entry.record(head, server_id, &**signer);
        let text = record.canonical();
        if let Some(context) = &entry.context {
            contexts.push((at, context.text(head.next, &signed_at)));
        }
        if entry.name == super::HEAD {
            headed.insert(entry.log.clone(), head.next);
        }
        head.previous = sha256(text.as_bytes());
        head.next += 1;
        texts.push(text);
        records.push((entry.log.clone(), record));
    }
    let entries_of_contexts: Vec<_> = contexts.iter().map(|(at, _)| *at).collect();
    texts.extend(contexts.into_iter().map(|(_, text)| text));

    let mut signatures = sign_all(signer, texts).await?;
    let of_contexts = signatures.split_off(records.len());
    let mut recorded: Vec<_> = records
        .iter()
        .map(|(_, record)| Recorded {
            seq: record.vpc_op_seq_num,
            signed_at: signed_at.clone(),
            context_signature: None,
            key_id: signer.key_id().to_owned(),
        })
        .collect();
    for (at, signature) in entries_of_contexts.into_iter().zip(of_contexts) {
        if let Some(recorded) = recorded.get_mut(at) {
            recorded.context_signature = Some(signature);
        }
    }
    let rows: Vec<Row> = records
        .into_iter()
        .zip(signatures)
        .map(|((log, mut record), signature)| {
            record.signature = BASE64_STANDARD.encode(signature);
            (log, record.vpc_op_seq_num, record.line().into_bytes())
        })
        .collect();
    transaction.insert(&rows).await?;
    for (log, head) in &heads {
        transaction.advance(log, head, headed.get(log).copied()).await?;
    }
    transaction.commit().await?;
    Ok((recorded, rows))
}

/// Signs all texts, as many at a time as the key can; in their order.
async fn sign_all(signer: &Arc<dyn Signer>, texts: Vec<String>) -> Result<Vec<Vec<u8>>, AuditError> {
    let failed = |error: SignError| AuditError::Sign(error.into());
    let texts: Arc<[String]> = texts.into();
    let next = Arc::new(AtomicUsize::new(0));
    let mut workers = tokio::task::JoinSet::new();
    for _ in 0..signer.parallel().clamp(1, texts.len().max(1)) {
        let (signer, texts, next) = (Arc::clone(signer), Arc::clone(&texts), Arc::clone(&next));
        workers.spawn_blocking(move || -> Result<Vec<(usize, Vec<u8>)>, SignError> {
            let mut signed = Vec::new();
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                let Some(text) = texts.get(at) else { return Ok(signed) };
                let signature = signer.sign(text.as_bytes()).inspect_err(|_| {
                    // The others need not go on.
                    next.store(texts.len(), Ordering::Relaxed);
                })?;
                signed.push((at, signature));
            }
        });
    }
    let mut signatures: Vec<Option<Vec<u8>>> = vec![None; texts.len()];
    while let Some(signed) = workers.join_next().await {
        let signed = signed.unwrap_or_else(|error| Err(error.into()));
        for (at, signature) in signed.map_err(failed)? {
            if let Some(place) = signatures.get_mut(at) {
                *place = Some(signature);
            }
        }
    }
    signatures.into_iter().collect::<Option<_>>().ok_or_else(|| failed("a text was left unsigned".into()))
}
