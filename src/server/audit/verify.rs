//! Verification of a whole log: form, order, chain, signatures, heads. It stops at the first fault and names it.
//!
//! What it proves: nothing was changed, put in, taken out or moved after it was signed, from number 1 to the last record that is vouched for. Records after the
//! last head that the server's log lists can be cut off without a trace in a copy; `max_age` bounds for how long. Whoever could sign with the
//! key could have written another history: verify copies that are out of his reach.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use jiff::Timestamp;

use super::record::is_digest;
use super::source::{Reader, Source, SourceError};
use super::{HEAD, NoRecord, Record};
use crate::api::canonical::endorsement_text;
use crate::api::hex;
use crate::api::signature::{NoSigningKey, Padding, SigningKey, SigningKeys};
use crate::crypto::sha256;
use crate::server::state::{LogName, SigningKeyRecord};

/// What is wrong with a log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Fault {
    /// Which log, as it is named.
    pub log: String,
    /// At which record; none if it is about the log as a whole.
    pub number: Option<u64>,
    /// What.
    pub what: What,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "log {}", self.log)?;
        if let Some(number) = self.number {
            write!(f, ", record {number}")?;
        }
        write!(f, ": {}", self.what)
    }
}

/// Kinds of faults.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum What {
    /// Records between two are not there.
    #[error("records {from} to {to} are missing")]
    Missing {
        /// The first.
        from: u64,
        /// The last.
        to: u64,
    },
    /// The bytes are no record.
    #[error("{0}")]
    Form(NoRecord),
    /// It is another log's.
    #[error("it belongs to log {0}")]
    Log(String),
    /// It has another number.
    #[error("it is record {0}, stored in another's place")]
    Number(u64),
    /// It does not follow on the record before it.
    #[error("the record before it is not the one that it was written after")]
    Chain,
    /// It says it was signed with a key that is not trusted.
    #[error("it is signed with the key {0}, which is not a trusted one")]
    Key(String),
    /// It was not signed by that key.
    #[error("its signature is not right")]
    Signature,
    /// The log ends before the place that something else vouches for.
    #[error("its end is missing: it had {had} records, as {witness} says")]
    End {
        /// So many.
        had: u64,
        /// Who says so.
        witness: String,
    },
    /// The log had another record there.
    #[error("it is not the record that {0} names")]
    Witness(String),
    /// A head lists something that is not where a log ends.
    #[error("what it lists is not where a log ends")]
    Listing,
    /// Something in the log's place that is not a record, or not under its name.
    #[error("{0:?} is not the name of a record")]
    Stranger(String),
    /// The newest signed head is older than allowed.
    #[error("its last record is of {0}: a newer signed head is missing")]
    Stale(String),
}

/// A log is not right, or could not be read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum VerifyError {
    /// The first fault.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// It could not be read.
    #[error(transparent)]
    Source(#[from] SourceError),
}

/// A log that is right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogReport {
    /// Which.
    pub log: LogName,
    /// So many records.
    pub records: u64,
    /// The number of its last signed head, 0 if it has none.
    pub head: u64,
    /// When the last record's call ended, RFC 3339; empty without records.
    pub last: String,
}

/// Why a signing key is not trusted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unendorsed {
    /// A listed key is no key.
    #[error("a listed signing key is not right")]
    Key(#[from] NoSigningKey),
    /// A listed key's endorsement is not the key's it names.
    #[error("the signing key {0} is not endorsed by the key before it")]
    Endorsement(String),
}

/// The keys to trust: the pinned ones, and of the listed ones those which a trusted one vouches for (section 13.3 of the wire). A listed key that nobody
/// trusted vouches for is left out; one whose endorsement by a trusted key is wrong is an error.
///
/// # Errors
/// [`Unendorsed`].
pub fn trusted_keys(pinned: &SigningKeys, listed: &[SigningKeyRecord]) -> Result<SigningKeys, Unendorsed> {
    let mut trusted: Vec<SigningKey> = pinned.iter().cloned().collect();
    // Oldest first: each key follows the one that vouches for it.
    for record in listed {
        let key = SigningKey::from_spki(&record.spki)?;
        let endorser = record.endorsement.as_ref().and_then(|(by, signature)| {
            let spki = &listed.iter().find(|key| key.id == *by)?.spki;
            Some((trusted.iter().find(|key| key.spki()[..] == spki[..])?, signature))
        });
        if trusted.contains(&key) {
            continue;
        }
        if let Some((endorser, signature)) = endorser {
            let text = endorsement_text(key.spki());
            let verified = endorser.verify(text.as_bytes(), signature, Padding::Minimal);
            verified.map_err(|_| Unendorsed::Endorsement(key.id()))?;
            trusted.push(key);
        }
    }
    let pem: String = trusted.iter().map(SigningKey::to_pem).collect();
    Ok(SigningKeys::from_pem(&pem)?)
}

/// Where a log was, as a head in the server's log says.
#[derive(Debug, Clone)]
struct Listed {
    number: u64,
    hash: String,
    witness: String,
}

/// Verifies all logs of a source, or one and the server's own.
///
/// `max_age`: a log that ends in something else than a signed head, older than this, is a fault too; and so is a server's log without any head for so
/// long. Give it a little more than the server's interval of heads, and only if the server has been running.
///
/// # Errors
/// [`VerifyError`], with the first fault.
pub async fn verify(
    source: &Source,
    keys: &SigningKeys,
    only: Option<&LogName>,
    max_age: Option<Duration>,
) -> Result<Vec<LogReport>, VerifyError> {
    let (logs, stranger) = source.logs().await?;
    if let Some(stranger) = stranger {
        return Err(Fault { log: stranger.clone(), number: None, what: What::Stranger(stranger) }.into());
    }
    let server = LogName::server();
    let mut listed = BTreeMap::new();
    let mut reports = Vec::new();
    // The server's log first: it says where the others were.
    if logs.contains(&server) {
        reports.push(verify_log(source, keys, &server, max_age, &mut listed).await?);
    }
    for log in logs.iter().filter(|log| **log != server && only.is_none_or(|only| only == *log)) {
        reports.push(verify_log(source, keys, log, max_age, &mut listed).await?);
    }
    // What is left was listed, and is not there at all.
    if let Some((log, Listed { number, witness, .. })) =
        listed.into_iter().find(|(log, _)| only.is_none_or(|only| only == log))
    {
        return Err(Fault { log: log.to_string(), number: None, what: What::End { had: number, witness } }.into());
    }
    if let Some(only) = only
        && !logs.contains(only)
    {
        reports.push(LogReport { log: only.clone(), records: 0, head: 0, last: String::new() });
    }
    Ok(reports)
}

async fn verify_log(
    source: &Source,
    keys: &SigningKeys,
    log: &LogName,
    max_age: Option<Duration>,
    listed: &mut BTreeMap<LogName, Listed>,
) -> Result<LogReport, VerifyError> {
    let fault = |number: Option<u64>, what: What| Fault { log: log.to_string(), number, what };
    let head = source.head(log).await?;
    let mut reader: Reader<'_> = source.read(log, 1).await?;
    if let Some(stranger) = reader.stranger.take() {
        return Err(fault(None, What::Stranger(stranger)).into());
    }
    let mut link = Link { next: 1, previous: [0; 32] };
    let mut report = LogReport { log: log.clone(), records: 0, head: 0, last: String::new() };
    let claim = listed.remove(log);
    while let Some((number, bytes)) = reader.next().await? {
        // A server that runs goes on writing: what came after its end was read is the next verification's.
        if head.as_ref().is_some_and(|head| number >= head.next) {
            break;
        }
        let record = link.check(log, number, &bytes, keys)?;
        if let Some(claim) = &claim
            && claim.number == number
            && claim.hash != hex(&link.previous)
        {
            return Err(fault(Some(number), What::Witness(claim.witness.clone())).into());
        }
        if record.call.name == HEAD {
            report.head = number;
            if *log == LogName::server() {
                for (name, text) in &record.call.parameters.0 {
                    let (log, end) = listing(name, text).ok_or_else(|| fault(Some(number), What::Listing))?;
                    let witness = format!("record {number} of log {}", LogName::server());
                    listed.insert(log, Listed { number: end.0, hash: end.1, witness });
                }
            }
        }
        report.records = number;
        report.last = record.op_end;
    }
    if let Some(head) = head
        && (head.next != link.next || head.previous != link.previous)
    {
        return Err(fault(None, What::End { had: head.next - 1, witness: "the database".into() }).into());
    }
    if let Some(claim) = claim
        && claim.number > report.records
    {
        return Err(fault(None, What::End { had: claim.number, witness: claim.witness }).into());
    }
    let old = |time: &str, age: Duration| {
        time.parse::<Timestamp>().is_ok_and(|time| Timestamp::now().duration_since(time).unsigned_abs() > age)
    };
    if let Some(age) = max_age
        && report.records > 0
        && report.head < report.records
        && old(&report.last, age)
    {
        return Err(fault(Some(report.records), What::Stale(report.last)).into());
    }
    Ok(report)
}

/// Where a log has been verified to.
pub(crate) struct Link {
    pub(crate) next: u64,
    pub(crate) previous: [u8; 32],
}

impl Link {
    /// Verifies the record that was stored under a number as the next one.
    pub(crate) fn check(
        &mut self,
        log: &LogName,
        number: u64,
        bytes: &[u8],
        keys: &SigningKeys,
    ) -> Result<Record, Fault> {
        let fault = |number: Option<u64>, what: What| Fault { log: log.to_string(), number, what };
        if number > self.next {
            return Err(fault(None, What::Missing { from: self.next, to: number - 1 }));
        }
        let at = |what: What| fault(Some(number), what);
        let record = Record::parse(bytes).map_err(|error| at(What::Form(error)))?;
        if record.vpc_id != log.as_str() {
            return Err(at(What::Log(record.vpc_id)));
        }
        if record.vpc_op_seq_num != number || number < self.next {
            return Err(at(What::Number(record.vpc_op_seq_num)));
        }
        let text = record.canonical();
        let key = keys.by_id(&record.chain.key_id).ok_or_else(|| at(What::Key(record.chain.key_id.clone())))?;
        let signature = BASE64_STANDARD.decode(&record.signature).map_err(|_| at(What::Signature))?;
        key.verify(text.as_bytes(), &signature, Padding::Minimal).map_err(|_| at(What::Signature))?;
        // After the signature: a record that was changed is its own fault, not that of the one before.
        if record.chain.previous_sha256 != hex(&self.previous) {
            return Err(at(What::Chain));
        }
        self.previous = sha256(text.as_bytes());
        self.next = number + 1;
        Ok(record)
    }
}

/// One end that a head lists.
fn listing(name: &str, text: &str) -> Option<(LogName, (u64, String))> {
    let (number, hash) = text.split_once(' ')?;
    let parsed = number.parse::<u64>().ok()?;
    (parsed.to_string() == number && is_digest(hash)).then_some(())?;
    Some((name.parse().ok()?, (parsed, hash.to_owned())))
}
