//! What callers of the log hand in: everything of a record that is not the log's own business.

use std::borrow::Cow;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use jiff::Timestamp;

use super::record::{self, MAX_PARAMETERS, safe_text, timestamp};
use super::{Record, Signer};
use crate::api::canonical::ResponseContext;
use crate::api::{ClientNonce, InstanceId, Operation, Refusal, Tenant, VolumeName, hex};
use crate::crypto::sha256;
use crate::server::state::{Head, LogName};

/// Longest one-time key, in bytes of its DER, that is recorded in whole: one of 4104 bits has less than 600. Of longer ones there is the hash.
const MAX_KEY: usize = 1024;

/// One call, or one act of an operator or the server.
#[derive(Debug, Clone)]
pub struct Entry {
    /// In whose log.
    pub log: LogName,
    /// The tenant's account; of the server's own log `-`.
    pub account_id: String,
    /// `generate-secret`, `refused`, `tenant-add` and so on: a word of lower-case letters and hyphens.
    pub name: &'static str,
    /// With what.
    pub parameters: Parameters,
    /// By whom.
    pub caller: Caller,
    /// When the call came in.
    pub op_start: Timestamp,
    /// When its result was known.
    pub op_end: Timestamp,
    /// How it went.
    pub result: Result<(), Failure>,
    /// The request's number in the node's log.
    pub request_id: String,
    /// Asks for a context signature over this.
    pub context: Option<Context>,
}

/// Who called. Texts may hold anything: they are made safe when they are written.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Of which kind.
    pub kind: CallerKind,
    /// The instance id from the path, as sent; who the operator is; the node.
    pub id: String,
    /// The address.
    pub ip: String,
    /// How it showed who it is: a certificate's fingerprint, a token's hash.
    pub identity: Option<String>,
    /// SHA-256 of the evidence it brought.
    pub attestation_sha256: Option<[u8; 32]>,
}

/// Kinds of callers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallerKind {
    /// A machine of a tenant.
    Instance,
    /// A person or script at the node.
    Operator,
    /// A node itself.
    Server,
}

impl CallerKind {
    fn word(self) -> &'static str {
        match self {
            CallerKind::Instance => "INSTANCE",
            CallerKind::Operator => "OPERATOR",
            CallerKind::Server => "SERVER",
        }
    }
}

/// Why a call failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The text that the caller got, one of the wire's: rules in log systems match on it.
    pub reason: &'static str,
    /// The exact reason: a word for programs, which the caller need not have been told.
    pub code: Cow<'static, str>,
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        let reason = match refusal {
            // What the wire's records have had for everything that went wrong inside.
            Refusal::Internal | Refusal::Unhealthy => "Internal API error",
            refusal => refusal.message(),
        };
        Failure { reason, code: Cow::Borrowed(refusal.code()) }
    }
}

/// With what a call was made. Texts may hold anything: they are made safe when they are written.
#[derive(Debug, Clone, Default)]
pub struct Parameters {
    /// From the path.
    pub instance_id: Option<String>,
    /// From the body.
    pub volume_uuid: Option<String>,
    /// Of convert: the owner until then.
    pub source_instance_id: Option<String>,
    /// The caller's one-time key, DER. Recorded as base64 and as a hash.
    pub rsa_wrapping_key: Option<Vec<u8>>,
    /// The sealed secret that came. Recorded as a hash alone.
    pub encrypted_secret: Option<Vec<u8>>,
    /// What else belongs to the call. Names are words of `[a-z0-9_-]`; none of the above.
    pub more: Vec<(String, String)>,
}

/// What a context signature is over, but for the number and the time that the log gives.
#[derive(Debug, Clone)]
pub struct Context {
    /// What was asked.
    pub operation: Operation,
    /// Whose keys were used.
    pub tenant: Tenant,
    /// Who asked, as in the path.
    pub instance: InstanceId,
    /// For which volume.
    pub volume: VolumeName,
    /// The caller's nonce.
    pub nonce: ClientNonce,
    /// The caller's one-time key, DER; empty for convert.
    pub rsa_wrapping_key: Vec<u8>,
    /// The sealed secret: the one returned, for decrypt the one sent.
    pub encrypted_secret: Vec<u8>,
    /// The secret under the one-time key; empty for convert.
    pub wrapped_secret: Vec<u8>,
}

impl Context {
    /// The text that is signed.
    pub(super) fn text(&self, audit_seq: u64, signed_at: &str) -> String {
        ResponseContext {
            operation: self.operation,
            tenant: &self.tenant,
            instance: &self.instance,
            volume: &self.volume,
            nonce: &self.nonce,
            rsa_wrapping_key: &self.rsa_wrapping_key,
            encrypted_secret: &self.encrypted_secret,
            wrapped_secret: &self.wrapped_secret,
            audit_seq,
            signed_at,
        }
        .text()
    }
}

impl Parameters {
    fn texts(&self) -> record::Parameters {
        let mut texts = record::Parameters::default();
        let text = |text: &Option<String>| text.as_deref().map(safe_text);
        let mut add = |name: &str, text: Option<String>| {
            if let Some(text) = text
                && texts.get(name).is_none()
                && texts.0.len() < MAX_PARAMETERS
            {
                texts.0.push((safe_text(name), text));
            }
        };
        let key = self.rsa_wrapping_key.as_ref();
        add("instance_id", text(&self.instance_id));
        add("volume_uuid", text(&self.volume_uuid));
        add("rsa_wrapping_key", key.filter(|der| der.len() <= MAX_KEY).map(|der| BASE64_STANDARD.encode(der)));
        add("source_instance_id", text(&self.source_instance_id));
        add("rsa_wrapping_key_sha256", key.map(|der| hex(&sha256(der))));
        add("encrypted_secret_sha256", self.encrypted_secret.as_ref().map(|blob| hex(&sha256(blob))));
        for (name, value) in &self.more {
            add(name, Some(safe_text(value)));
        }
        texts
    }
}

impl Entry {
    /// The record, but for its signature.
    pub(super) fn record(&self, head: &Head, server_id: &str, signer: &dyn Signer) -> Record {
        let failure = self.result.as_ref().err();
        let mut record = Record {
            event_version: record::EVENT_VERSION,
            vpc_op_seq_num: head.next,
            vpc_id: self.log.as_str().to_owned(),
            op_start: timestamp(self.op_start),
            // A clock that was set back in between must not make a record that looks forged.
            op_end: timestamp(self.op_end.max(self.op_start)),
            caller: record::CallerText {
                kind: self.caller.kind.word().to_owned(),
                id: safe_text(&self.caller.id),
                ip: safe_text(&self.caller.ip),
                aws_account_id: safe_text(&self.account_id),
                identity: self.caller.identity.as_deref().map(safe_text),
                attestation_sha256: self.caller.attestation_sha256.as_ref().map(|hash| hex(hash)),
            },
            call: record::Call { name: safe_text(self.name), parameters: self.parameters.texts() },
            result: if failure.is_some() { "Failed" } else { "Succeed" }.to_owned(),
            failure_reason: failure.map(|failure| safe_text(failure.reason)),
            failure_code: failure.map(|failure| safe_text(&failure.code)),
            request_id: safe_text(&self.request_id),
            chain: record::Chain {
                previous_sha256: hex(&head.previous),
                server_id: safe_text(server_id),
                key_id: signer.key_id().to_owned(),
                exact_sha256: String::new(),
            },
            signature: String::new(),
        };
        record.chain.exact_sha256 = record.exact_sha256();
        record
    }
}
