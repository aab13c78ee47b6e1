//! The form of a record: how it is written, and read strictly. The order of the members is the wire's; `audit.md` describes them.

use std::fmt::Write as _;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use jiff::Timestamp;
use serde::de::{Error as _, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::api::{canonical, hex};
use crate::crypto::sha256;

/// Version of the form.
pub(super) const EVENT_VERSION: u64 = 2;
/// Longest text of a member that came from outside, in characters; what is beyond is cut off, and said to be.
const MAX_TEXT: usize = 512;
/// Longest record, in bytes: all parameters of [`MAX_TEXT`] backslashes, which JSON doubles.
pub(super) const MAX_RECORD: usize = 128 << 10;
/// Most parameters of a call.
pub(super) const MAX_PARAMETERS: usize = 80;

/// A record, as far as it is JSON. All members are always there, in this order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// The version of this form: 2.
    pub event_version: u64,
    /// Its number in its log, from 1.
    pub vpc_op_seq_num: u64,
    /// Its log: a tenant, or the server's own.
    pub vpc_id: String,
    /// When the call began: UTC, RFC 3339, six digits.
    pub op_start: String,
    /// When its result was known.
    pub op_end: String,
    /// Who called.
    pub caller: CallerText,
    /// What for.
    pub call: Call,
    /// `Succeed` or `Failed`.
    pub result: String,
    /// The text that the caller got.
    pub failure_reason: Option<String>,
    /// The exact reason, a word.
    pub failure_code: Option<String>,
    /// The request's number in the node's log.
    pub request_id: String,
    /// What ties it to the record before.
    pub chain: Chain,
    /// ECDSA over the canonical text, base64 of DER.
    pub signature: String,
}

/// Who called.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CallerText {
    /// `INSTANCE`, `OPERATOR` or `SERVER`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The instance id in the path, the operator or the node.
    pub id: String,
    /// Whence.
    pub ip: String,
    /// The tenant's account.
    pub aws_account_id: String,
    /// How he showed who he is.
    pub identity: Option<String>,
    /// SHA-256 of the evidence, hexadecimal.
    pub attestation_sha256: Option<String>,
}

/// What was called.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Call {
    /// Its word.
    pub name: String,
    /// With what.
    pub parameters: Parameters,
}

/// What ties a record to its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Chain {
    /// SHA-256 of the canonical text of the record before, 64 zeros in the first.
    pub previous_sha256: String,
    /// The node that wrote it.
    pub server_id: String,
    /// The key that signed it: SHA-256 of its SubjectPublicKeyInfo.
    pub key_id: String,
    /// SHA-256 of the line itself, with this member and the signature empty: letter case and types count.
    pub exact_sha256: String,
}

/// Names and texts, in order; a name once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Parameters(pub Vec<(String, String)>);

impl Parameters {
    /// The text of a name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(other, _)| other == name).map(|(_, text)| &**text)
    }
}

impl Serialize for Parameters {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(Some(self.0.len()))?;
        for (name, text) in &self.0 {
            map.serialize_entry(name, text)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Parameters {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = Parameters;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object of texts")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Parameters, A::Error> {
                let mut pairs = Parameters::default();
                while let Some((name, text)) = map.next_entry::<String, String>()? {
                    if pairs.get(&name).is_some() || pairs.0.len() == MAX_PARAMETERS {
                        return Err(A::Error::custom("a parameter is there twice, or there are too many"));
                    }
                    pairs.0.push((name, text));
                }
                Ok(pairs)
            }
        }
        from.deserialize_map(Pairs)
    }
}

/// Why bytes are no record of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoRecord {
    /// Longer than any.
    #[error("it is longer than {MAX_RECORD} bytes")]
    TooLong,
    /// Not JSON, or with members missing, unknown, twice or of another type.
    #[error("it is no record: {0}")]
    Form(String),
    /// Another version.
    #[error("it is of version {0}, which this program does not know")]
    Version(u64),
    /// The same values, written another way.
    #[error("it is not written the way the server writes")]
    Spelling,
    /// A member holds what no server writes there.
    #[error("its {0} is none that a server writes")]
    Member(&'static str),
    /// A hash inside it is of something else.
    #[error("its {0} does not fit the rest of it: it was changed after it was signed")]
    Hash(&'static str),
}

impl Record {
    /// The record as one line, without a line end: what every sink holds, byte for byte.
    pub fn line(&self) -> String {
        let mut bytes = Vec::with_capacity(2048);
        let mut to = serde_json::Serializer::with_formatter(&mut bytes, Spaced);
        // Into memory, with texts for names: neither can fail.
        let written = self.serialize(&mut to).is_ok();
        debug_assert!(written);
        String::from_utf8(bytes).unwrap_or_default()
    }

    /// The text that the signature is over, and whose hash the next record holds.
    pub fn canonical(&self) -> String {
        match serde_json::to_value(self) {
            Ok(serde_json::Value::Object(members)) => canonical::audit_text(&members),
            _ => String::new(),
        }
    }

    /// SHA-256 of the line with `exact_sha256` and the signature empty, hexadecimal.
    pub fn exact_sha256(&self) -> String {
        let mut bare = self.clone();
        bare.chain.exact_sha256.clear();
        bare.signature.clear();
        hex(&sha256(bare.line().as_bytes()))
    }

    /// Reads a record as strictly as can be: what it gives, [`line`](Self::line) writes as the very same bytes; and it is right in itself. Its
    /// signature and its place are another matter.
    ///
    /// # Errors
    /// [`NoRecord`].
    pub fn parse(bytes: &[u8]) -> Result<Record, NoRecord> {
        if bytes.len() > MAX_RECORD {
            return Err(NoRecord::TooLong);
        }
        let record: Record = serde_json::from_slice(bytes).map_err(|error| match version(bytes) {
            Some(version) if version != EVENT_VERSION => NoRecord::Version(version),
            // Without the library's text, which quotes what was read.
            _ => NoRecord::Form(format!("line {}, column {}", error.line(), error.column())),
        })?;
        if record.event_version != EVENT_VERSION {
            return Err(NoRecord::Version(record.event_version));
        }
        if record.line().as_bytes() != bytes {
            return Err(NoRecord::Spelling);
        }
        record.check()?;
        Ok(record)
    }

    fn check(&self) -> Result<(), NoRecord> {
        let time = |text: &str| text.parse::<Timestamp>().is_ok_and(|time| timestamp(time) == text);
        let digest = |text: &str| is_digest(text);
        let within = |right: bool, name| if right { Ok(()) } else { Err(NoRecord::Member(name)) };
        within(time(&self.op_start), "op_start")?;
        within(time(&self.op_end) && self.op_start <= self.op_end, "op_end")?;
        within(["INSTANCE", "OPERATOR", "SERVER"].contains(&&*self.caller.kind), "caller.type")?;
        within(self.caller.attestation_sha256.as_deref().is_none_or(digest), "caller.attestation_sha256")?;
        let failed = self.failure_reason.is_some();
        within(self.result == if failed { "Failed" } else { "Succeed" }, "result")?;
        within(failed || self.failure_code.is_none(), "failure_code")?;
        within(digest(&self.chain.previous_sha256), "chain.previous_sha256")?;
        within(digest(&self.chain.key_id), "chain.key_id")?;
        let texts = self.call.parameters.0.iter().flat_map(|(name, text)| [name, text]);
        let own = [&self.caller.id, &self.caller.ip, &self.chain.server_id, &self.request_id, &self.call.name];
        // Also keeps one line of the canonical text from being two.
        within(texts.chain(own).all(|text| text.bytes().all(|byte| (b' '..=b'~').contains(&byte))), "text")?;
        if let Some(key) = self.call.parameters.get("rsa_wrapping_key") {
            // The signature does not see letter case; this does.
            let digest = BASE64_STANDARD.decode(key).map(|der| hex(&sha256(&der)));
            if digest.ok().as_deref() != self.call.parameters.get("rsa_wrapping_key_sha256") {
                return Err(NoRecord::Hash("rsa_wrapping_key_sha256"));
            }
        }
        if self.exact_sha256() != self.chain.exact_sha256 {
            return Err(NoRecord::Hash("chain.exact_sha256"));
        }
        Ok(())
    }
}

fn version(bytes: &[u8]) -> Option<u64> {
    #[derive(Deserialize)]
    struct Version {
        event_version: u64,
    }
    serde_json::from_slice::<Version>(bytes).ok().map(|record| record.event_version)
}

/// Whether a text is a SHA-256 as records hold it.
pub(super) fn is_digest(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

/// UTC, RFC 3339, always six digits of the second.
pub fn timestamp(time: Timestamp) -> String {
    format!("{time:.6}")
}

/// A text from outside as it may stand in a record: printable ASCII as it is, a backslash doubled, everything else as `\u{…}`; of longer
/// ones the beginning and `\...`. Distinct texts that are not cut off stay distinct.
pub fn safe_text(text: &str) -> String {
    let mut safe = String::with_capacity(text.len().min(MAX_TEXT));
    for character in text.chars() {
        // None becomes more than ten.
        if safe.len() > MAX_TEXT - 14 {
            safe.push_str("\\...");
            break;
        }
        match character {
            '\\' => safe.push_str("\\\\"),
            ' '..='~' => safe.push(character),
            // Into a String, which takes everything.
            _ => _ = write!(safe, "\\u{{{:x}}}", u32::from(character)),
        }
    }
    safe
}

/// One line, with a blank behind each comma and colon, as the original writes. Texts are ASCII already.
struct Spaced;

impl serde_json::ser::Formatter for Spaced {
    fn begin_object_key<W: ?Sized + std::io::Write>(&mut self, to: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { to.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, to: &mut W) -> std::io::Result<()> {
        to.write_all(b": ")
    }
}
