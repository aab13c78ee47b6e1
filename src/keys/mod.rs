//! Key providers, key slots and the unlocked key ring.
//!
//! A [`KeyProvider`] holds, or reaches, a key from outside the volume: a passphrase, a key file, later an HSM, a KMS or the AMD
//! secure processor. It does three things: it names itself, wraps a master key into the data of a key slot, and
//! unwraps it again. Which slots there are, who wrote them and whether the description around them is
//! authentic is the business of [`crate::volume`].

pub mod all_of;
#[cfg(feature = "aws-kms")]
mod aws_credentials;
#[cfg(feature = "aws-kms")]
pub mod aws_kms;
#[cfg(test)]
pub(crate) mod contract;
#[cfg(all(test, feature = "aws-kms"))]
#[path = "../../tests/common/fake_kms.rs"]
mod fake_kms;
#[cfg(all(test, feature = "vault"))]
#[path = "../../tests/common/fake_vault.rs"]
mod fake_vault;
#[cfg(feature = "hsm-api")]
pub mod hsm_api;
#[cfg(feature = "network")]
#[allow(dead_code, reason = "each network provider, a feature for itself, uses its part")]
pub(crate) mod http;
mod kek;
pub mod key_file;
#[cfg(all(test, feature = "hsm-api"))]
#[path = "../../tests/common/key_server.rs"]
mod key_server;
pub mod passphrase;
#[cfg(feature = "pkcs11")]
pub mod pkcs11;
pub mod recovery;
pub mod ring;
#[allow(dead_code, reason = "each provider, a feature for itself, uses its part")]
pub(crate) mod secret_file;
#[cfg(all(test, feature = "network"))]
#[path = "../../tests/common/server.rs"]
pub(crate) mod server;
#[cfg(feature = "sev-snp")]
pub mod snp;
#[cfg(all(test, feature = "pkcs11"))]
#[path = "../../tests/common/softhsm.rs"]
pub(crate) mod softhsm;
pub mod spec;
#[cfg(feature = "vault")]
pub mod vault;

use uuid::Uuid;

use crate::crypto::Unauthentic;
use crate::crypto::kdf::{ArgonError, CostError};
use crate::crypto::secret::Secret;

pub use all_of::AllOf;
pub use key_file::KeyFile;
pub use passphrase::PassphraseProvider;
pub use recovery::RecoveryKey;
pub use ring::{FileId, Handover, KeyId, KeyRing, WrappedDek};
pub use spec::{ProviderSpec, SpecError};

/// A key from outside the volume that wraps master keys.
pub trait KeyProvider: Send + Sync {
    /// The word for this kind of provider, as it stands in `volume.toml`.
    fn kind(&self) -> &'static str;

    /// Names this provider to people, without secrets: "key file /etc/envelopefs/key".
    fn describe(&self) -> String;

    /// Wraps a master key for the slot that `context` names, and binds it to that.
    ///
    /// # Errors
    /// [`ProviderError`].
    fn wrap(&self, master: &Secret<32>, context: &SlotContext) -> Result<SlotData, ProviderError>;

    /// Wraps another master key as [`wrap`](Self::wrap) does, in the way that a slot of this provider has been wrapped: with its costs,
    /// or bound to what it is bound to. For the next version of the master key.
    ///
    /// # Errors
    /// [`ProviderError`].
    fn wrap_like(
        &self,
        _slot: &SlotData,
        master: &Secret<32>,
        context: &SlotContext,
    ) -> Result<SlotData, ProviderError> {
        self.wrap(master, context)
    }

    /// Unwraps what [`wrap`](Self::wrap) made. `None`: the slot is of this kind, but another passphrase's or key's, not
    /// this one's. `Some(Err(_))`: it is this provider's and broken, or the provider failed.
    ///
    /// The slot comes from the disk and nothing about it is authentic yet.
    fn unwrap(&self, slot: &SlotData, context: &SlotContext) -> Option<Result<Secret<32>, ProviderError>>;

    /// Whether its slots open on this machine in its present state alone, so that the volume needs another one beside them.
    fn is_machine_bound(&self) -> bool {
        false
    }

    /// Whether the provider could do its work now: for a remote one, whether it can be reached.
    ///
    /// # Errors
    /// [`ProviderError`].
    fn check(&self) -> Result<(), ProviderError>;

    /// What can be found out about it, as names and values for people, without secrets; asks the other end, and says here what fails.
    fn facts(&self) -> Vec<(String, String)> {
        Vec::new()
    }
}

/// The providers that a command was given credentials for.
pub type Credentials = [Box<dyn KeyProvider>];

/// What a wrapped master key is bound to: its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotContext {
    /// The volume.
    pub volume: Uuid,
    /// Version number of the master key.
    pub key_version: u32,
    /// Number of the slot.
    pub slot: u32,
}

impl SlotContext {
    /// Domain and version of the encoding.
    const DOMAIN: &[u8] = b"envelopefs/slot/v1";

    /// The one encoding that every provider binds, as associated data or encryption context: domain, UUID, key version and slot
    /// number (u32, little-endian), each with its length in front (u32, little-endian).
    pub fn encode(&self) -> Vec<u8> {
        join(&[Self::DOMAIN, self.volume.as_bytes(), &self.key_version.to_le_bytes(), &self.slot.to_le_bytes()])
    }
}

/// Joins fields with their lengths in front, so that different fields never give the same bytes.
pub(crate) fn join(fields: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    for field in fields {
        let len = u32::try_from(field.len()).expect("fields are far below 4 GiB");
        out.extend_from_slice(&len.to_le_bytes());
        out.extend_from_slice(field);
    }
    out
}

/// What a provider keeps in a slot: public parameters of its own, and the wrapped master key.
#[derive(Debug, Clone, PartialEq)]
pub struct SlotData {
    /// Parameters, a table of `volume.toml`. Each provider binds its own.
    pub parameters: toml::Table,
    /// The wrapped master key.
    pub wrapped: Vec<u8>,
}

/// What another library or a server says, as the cause of a provider's error. Never holds a secret.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Why a provider could not be set up, wrap or unwrap.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    /// How the provider is named or set up is not right.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// What its specification refers to is not right: a file, a certificate, a key that is not there.
    #[error("{fact}")]
    Setup {
        /// What is wrong.
        fact: String,
        /// What to do about it.
        remedy: &'static str,
        /// What lies behind it, if anything.
        source: Option<Cause>,
    },
    /// Nobody answers, or not in time: the same may work later.
    #[error("{provider} cannot be reached")]
    Unreachable {
        /// Who, for people.
        provider: String,
        /// What was seen.
        source: Cause,
    },
    /// It answers, and will not: permission, a disabled key, a wrong PIN.
    #[error("{provider} refuses: {reason}")]
    Refused {
        /// Who, for people.
        provider: String,
        /// In its words or ours.
        reason: String,
        /// What to do about it.
        remedy: &'static str,
    },
    /// Its answer cannot be right. Nothing of it is used.
    #[error("{provider} gave an answer that cannot be right: {what}")]
    Answer {
        /// Who, for people.
        provider: String,
        /// What is wrong with it.
        what: String,
    },
    /// What the slot is bound to is not what there is now.
    #[error("the slot is bound to another state of this machine: {changed}")]
    Bound {
        /// Which bound values changed, as far as can be known.
        changed: String,
        /// What to do about it.
        remedy: &'static str,
    },
    /// The credential fits, the rest does not: changed bytes, or a slot from another place.
    #[error("the slot was changed, or put here from another volume, key version or slot")]
    Unauthentic(#[from] Unauthentic),
    /// The slot's parameters are not this provider's.
    #[error("the slot's parameters are damaged: {0}")]
    Malformed(String),
    /// Argon2 costs out of bounds.
    #[error("the slot's Argon2 parameters are refused")]
    Cost(#[from] CostError),
    /// Argon2 could not run.
    #[error("Argon2 could not run")]
    Argon(#[from] ArgonError),
    /// What came out is no key.
    #[error("the master key is all zero")]
    ZeroKey,
}

impl ProviderError {
    /// What the user can do about it, where there is something.
    pub fn remedy(&self) -> Option<String> {
        match self {
            ProviderError::Spec(error) => error.remedy(),
            ProviderError::Setup { remedy, .. }
            | ProviderError::Refused { remedy, .. }
            | ProviderError::Bound { remedy, .. } => Some((*remedy).into()),
            ProviderError::Unreachable { .. } => {
                Some("try again when it can be reached, or give a credential for another slot".into())
            }
            ProviderError::Answer { .. } => {
                Some("check that the address is the provider's and nothing stands between".into())
            }
            ProviderError::Unauthentic(_)
            | ProviderError::Malformed(_)
            | ProviderError::Cost(_)
            | ProviderError::Argon(_)
            | ProviderError::ZeroKey => None,
        }
    }

    /// True if the slot itself is at fault, rather than the provider or its set-up.
    pub fn is_damage(&self) -> bool {
        match self {
            ProviderError::Unauthentic(_)
            | ProviderError::Malformed(_)
            | ProviderError::Cost(_)
            | ProviderError::ZeroKey => true,
            ProviderError::Spec(_)
            | ProviderError::Setup { .. }
            | ProviderError::Unreachable { .. }
            | ProviderError::Refused { .. }
            | ProviderError::Answer { .. }
            | ProviderError::Bound { .. }
            | ProviderError::Argon(_) => false,
        }
    }
}

/// Opens a provider that needs nothing but its specification: no terminal, no secret at hand.
///
/// # Errors
/// [`ProviderError`]; one for a kind that is unknown or not compiled in. Nothing is asked of the provider yet.
pub fn open(spec: ProviderSpec) -> Result<Box<dyn KeyProvider>, ProviderError> {
    match spec.kind.as_str() {
        key_file::KIND => Ok(Box::new(KeyFile::open(spec)?)),
        #[cfg(feature = "sev-snp")]
        snp::KIND => Ok(Box::new(snp::Snp::open(spec)?)),
        #[cfg(feature = "aws-kms")]
        aws_kms::KIND => Ok(Box::new(aws_kms::AwsKms::open(spec)?)),
        #[cfg(feature = "hsm-api")]
        hsm_api::KIND => Ok(Box::new(hsm_api::HsmApi::open(spec)?)),
        #[cfg(feature = "pkcs11")]
        pkcs11::KIND => Ok(Box::new(pkcs11::Pkcs11Provider::open(spec)?)),
        #[cfg(feature = "vault")]
        vault::KIND => Ok(Box::new(vault::Vault::open(spec)?)),
        recovery::KIND => Ok(Box::new(RecoveryKey::open(spec)?)),
        all_of::KIND => Ok(Box::new(AllOf::open(spec, open)?)),
        _ => Err(ProviderError::Setup {
            fact: format!("this envelopefs has no key provider {:?}", spec.kind),
            remedy: "check the word before the colon, or build with the provider's feature",
            source: None,
        }),
    }
}

/// What a slot says it is bound to, line by line: name and value. For display: the slot is not authenticated. Kinds that have nothing to
/// say beyond their name give nothing.
pub fn show_slot(kind: &str, parameters: &toml::Table) -> Vec<(&'static str, String)> {
    match kind {
        #[cfg(feature = "sev-snp")]
        snp::KIND => snp::show(parameters),
        // A slot of several parts shows what each of them says.
        _ => {
            let parts = parameters.get("part").and_then(toml::Value::as_array).into_iter().flatten();
            let parts = parts.filter_map(|part| {
                let kind = part.get("provider").and_then(toml::Value::as_str)?;
                Some(show_slot(kind, part.get("parameters").and_then(toml::Value::as_table)?))
            });
            parts.flatten().collect()
        }
    }
}

/// Whether a slot opens on one machine alone, as [`KeyProvider::is_machine_bound`] says of its provider. A slot made of several has its parts in its
/// parameters.
pub fn slot_is_machine_bound(kind: &str, parameters: &toml::Table) -> bool {
    const BOUND: &str = "sev-snp";
    fn names_it(value: &toml::Value) -> bool {
        match value {
            toml::Value::String(text) => text == BOUND,
            toml::Value::Array(items) => items.iter().any(names_it),
            toml::Value::Table(table) => table.values().any(names_it),
            _ => false,
        }
    }
    kind == BOUND || parameters.values().any(names_it)
}

#[cfg(test)]
mod tests {
    use super::contract::Contract;
    use super::*;
    use crate::crypto::kdf::ArgonCost;
    use crate::crypto::secret::Passphrase;

    #[test]
    fn the_context_has_one_encoding() {
        let mut expected = b"\x12\0\0\0envelopefs/slot/v1\x10\0\0\0".to_vec();
        expected.extend_from_slice(&[7; 16]);
        expected.extend_from_slice(b"\x04\0\0\0\x01\0\0\0\x04\0\0\0\x02\0\0\0");
        assert_eq!(contract::PLACE.encode(), expected);
    }

    #[test]
    fn the_passphrase_provider_keeps_the_contract() {
        let cost = ArgonCost::new(64, 1, 2).unwrap();
        let provider = |text: &[u8]| PassphraseProvider::with_cost(Passphrase::new(text).unwrap(), cost);
        let ours = provider(b"open sesame");
        let contract = Contract { secrets: &[b"open sesame"], ..Contract::LOCAL };
        contract::keep(&ours, &provider(b"open sesame"), &provider(b"open sesamE"), &contract);
    }

    #[test]
    fn the_key_file_provider_keeps_the_contract() {
        let dir = tempfile::tempdir().unwrap();
        let (ours, other) = (dir.path().join("ours"), dir.path().join("other"));
        let created = KeyFile::create(&ours).unwrap();
        let key = std::fs::read(&ours).unwrap();
        let contract = Contract { secrets: &[&key], ..Contract::LOCAL };
        contract::keep(&created, &KeyFile::read(&ours).unwrap(), &KeyFile::create(&other).unwrap(), &contract);
    }
}
