//! A key of software, and entries to record.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use jiff::Timestamp;
use p384::ecdsa::signature::hazmat::PrehashSigner;
use p384::pkcs8::EncodePublicKey;

use super::{Caller, CallerKind, Entry, Parameters, SignError, Signer};
use crate::api::signature::{SigningKey, to_der};
use crate::server::state::LogName;

/// Signs as the HSM does, and fails when told to.
pub(crate) struct Software {
    pair: p384::ecdsa::SigningKey,
    pub(crate) key: SigningKey,
    id: String,
    /// Signatures until it fails.
    pub(crate) left: AtomicUsize,
}

impl Software {
    pub(crate) fn new(seed: u8) -> Arc<Self> {
        let pair = p384::ecdsa::SigningKey::from_slice(&[seed; 48]).unwrap();
        let spki = p384::PublicKey::from(pair.verifying_key()).to_public_key_der().unwrap();
        let key = SigningKey::from_spki(spki.as_bytes()).unwrap();
        let id = key.id();
        Arc::new(Software { pair, key, id, left: AtomicUsize::new(usize::MAX) })
    }
}

impl Signer for Software {
    fn key_id(&self) -> &str {
        &self.id
    }

    fn sign(&self, text: &[u8]) -> Result<Vec<u8>, SignError> {
        if self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_err() {
            return Err("the token is gone".into());
        }
        let signature: p384::ecdsa::Signature = self.pair.sign_prehash(&crate::crypto::sha256(text))?;
        Ok(to_der(signature.to_bytes()[..].try_into()?))
    }

    fn parallel(&self) -> usize {
        3
    }
}

/// A call that went well.
pub(crate) fn entry(log: &str, request: &str) -> Entry {
    Entry {
        log: log.parse::<LogName>().unwrap(),
        account_id: "123456789012".into(),
        name: "generate-secret",
        parameters: Parameters {
            instance_id: Some("i-0A".into()),
            volume_uuid: Some("Volume 1".into()),
            rsa_wrapping_key: Some(vec![0x30, 0x82, 1, 2, 3]),
            ..Parameters::default()
        },
        caller: Caller {
            kind: CallerKind::Instance,
            id: "i-0A".into(),
            ip: "10.0.0.7".into(),
            identity: Some("token:ab".into()),
            attestation_sha256: Some([7; 32]),
        },
        op_start: Timestamp::now(),
        op_end: Timestamp::now(),
        result: Ok(()),
        request_id: request.into(),
        context: None,
    }
}
