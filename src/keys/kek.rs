//! Key-encryption keys of slots whose secret is at hand here: 32 bytes from a passphrase or a file.
//!
//! From the secret and the slot's random salt come two values: the KEK, and a check value that is stored
//! beside the wrapped key. It tells "another passphrase" from "this passphrase, damaged slot" and gives a
//! guesser nothing that the wrapped key's tag would not.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{ProviderError, SlotContext, SlotData, join};
use crate::crypto::aead::{self, WrappedSecret};
use crate::crypto::kdf;
use crate::crypto::secret::Secret;

/// Bytes of a slot's salt.
pub(super) const SALT: usize = 32;
/// Bytes of a check value.
pub(super) const CHECK: usize = 16;

/// What such a provider keeps in a slot beside the wrapped key.
pub(super) trait Parameters: Serialize + DeserializeOwned {
    /// The KEK's check value.
    fn check(&self) -> &[u8; CHECK];
    /// All of them in one encoding, which is bound as associated data.
    fn encode(&self) -> Vec<u8>;
}

/// The keys of one slot.
pub(super) struct Kek {
    kind: &'static str,
    key: Secret<32>,
    check: [u8; CHECK],
}

impl Kek {
    /// Derives the KEK and its check value from a slot's secret and salt.
    pub(super) fn derive(kind: &'static str, secret: &Secret<32>, salt: &[u8; SALT]) -> Self {
        Kek {
            kind,
            key: kdf::derive(secret, salt, &[kdf::SLOT_KEK, kind.as_bytes()]),
            check: *kdf::derive(secret, salt, &[kdf::SLOT_CHECK, kind.as_bytes()]).expose(),
        }
    }

    /// Wraps a master key for a new slot: `derive` gives the KEK for a fresh salt, `describe` the slot's parameters from salt and check
    /// value.
    pub(super) fn make_slot<P: Parameters>(
        master: &Secret<32>,
        context: &SlotContext,
        derive: impl FnOnce(&[u8; SALT]) -> Result<Kek, ProviderError>,
        describe: impl FnOnce([u8; SALT], [u8; CHECK]) -> P,
    ) -> Result<SlotData, ProviderError> {
        let mut salt = [0; SALT];
        crate::crypto::random(&mut salt);
        let kek = derive(&salt)?;
        let parameters = describe(salt, kek.check);
        let wrapped = kek.wrap(master, context, &parameters.encode())?;
        let parameters = toml::Table::try_from(&parameters).expect("numbers and strings make a table");
        Ok(SlotData { parameters, wrapped })
    }

    /// Unwraps the master key of a slot with the KEK that `derive` gives for its parameters; `None` if the slot is another secret's.
    pub(super) fn open_slot<P: Parameters>(
        slot: &SlotData,
        context: &SlotContext,
        derive: impl FnOnce(&P) -> Result<Kek, ProviderError>,
    ) -> Result<Option<Secret<32>>, ProviderError> {
        let parameters: P = parameters(slot)?;
        let kek = derive(&parameters)?;
        if kek.check != *parameters.check() {
            return Ok(None);
        }
        kek.unwrap(&slot.wrapped, context, &parameters.encode()).map(Some)
    }

    /// Wraps a master key, bound to its place and to the slot's parameters.
    fn wrap(&self, master: &Secret<32>, context: &SlotContext, parameters: &[u8]) -> Result<Vec<u8>, ProviderError> {
        if master.is_zero() {
            return Err(ProviderError::ZeroKey);
        }
        Ok(aead::wrap(&self.key, &self.aad(context, parameters), master).to_bytes().to_vec())
    }

    /// Unwraps what [`wrap`](Self::wrap) made.
    fn unwrap(&self, wrapped: &[u8], context: &SlotContext, parameters: &[u8]) -> Result<Secret<32>, ProviderError> {
        let wrapped = WrappedSecret::from_bytes(wrapped)
            .ok_or_else(|| ProviderError::Malformed("the wrapped key has a wrong length".into()))?;
        let master = aead::unwrap(&self.key, &self.aad(context, parameters), &wrapped)?;
        if master.is_zero() { Err(ProviderError::ZeroKey) } else { Ok(master) }
    }

    fn aad(&self, context: &SlotContext, parameters: &[u8]) -> Vec<u8> {
        join(&[&context.encode(), self.kind.as_bytes(), parameters])
    }
}

/// A slot's parameters as their type.
pub(super) fn parameters<P: DeserializeOwned>(slot: &SlotData) -> Result<P, ProviderError> {
    let malformed = |error: toml::de::Error| ProviderError::Malformed(error.message().into());
    slot.parameters.clone().try_into().map_err(malformed)
}

/// Fixed-size bytes as base64url text without padding, for serde.
pub(super) mod base64_array {
    use base64::Engine;
    use base64::prelude::BASE64_URL_SAFE_NO_PAD;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(in crate::keys) fn serialize<S: Serializer, const N: usize>(bytes: &[u8; N], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&BASE64_URL_SAFE_NO_PAD.encode(bytes))
    }

    pub(in crate::keys) fn deserialize<'de, D: Deserializer<'de>, const N: usize>(
        from: D,
    ) -> Result<[u8; N], D::Error> {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(String::deserialize(from)?).map_err(D::Error::custom)?;
        <[u8; N]>::try_from(bytes).map_err(|bytes| D::Error::custom(format!("{} bytes instead of {N}", bytes.len())))
    }
}

/// Bytes as base64url text without padding, for serde.
pub(super) mod base64_bytes {
    use base64::Engine;
    use base64::prelude::BASE64_URL_SAFE_NO_PAD;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(in crate::keys) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&BASE64_URL_SAFE_NO_PAD.encode(bytes))
    }

    pub(in crate::keys) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        BASE64_URL_SAFE_NO_PAD.decode(String::deserialize(from)?).map_err(D::Error::custom)
    }
}
