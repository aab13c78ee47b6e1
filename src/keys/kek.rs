//! Key-encryption keys of slots whose secret is at hand here: 32 bytes from a passphrase or a file.
//!
//! From the secret and the slot's random salt come two values: the KEK, and a check value that is stored
//! beside the wrapped key. It tells "another passphrase" from "this passphrase, damaged slot" and gives a
//! guesser nothing that the wrapped key's tag would not.

use super::{ProviderError, SlotContext, join};
use crate::crypto::aead::{self, WrappedSecret};
use crate::crypto::kdf;
use crate::crypto::secret::Secret;

/// Bytes of a slot's salt.
pub(super) const SALT: usize = 32;
/// Bytes of a check value.
pub(super) const CHECK: usize = 16;

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

    /// The check value: public, kept in the slot.
    pub(super) fn check(&self) -> [u8; CHECK] {
        self.check
    }

    /// Wraps a master key, bound to its place and to the slot's parameters.
    pub(super) fn wrap(
        &self,
        master: &Secret<32>,
        context: &SlotContext,
        parameters: &[u8],
    ) -> Result<Vec<u8>, ProviderError> {
        if master.is_zero() {
            return Err(ProviderError::ZeroKey);
        }
        Ok(aead::wrap(&self.key, &self.aad(context, parameters), master).to_bytes().to_vec())
    }

    /// Unwraps what [`wrap`](Self::wrap) made.
    pub(super) fn unwrap(
        &self,
        wrapped: &[u8],
        context: &SlotContext,
        parameters: &[u8],
    ) -> Result<Secret<32>, ProviderError> {
        let wrapped = WrappedSecret::from_bytes(wrapped)
            .ok_or_else(|| ProviderError::Malformed("the wrapped key has a wrong length".into()))?;
        let master = aead::unwrap(&self.key, &self.aad(context, parameters), &wrapped)?;
        if master.is_zero() { Err(ProviderError::ZeroKey) } else { Ok(master) }
    }

    fn aad(&self, context: &SlotContext, parameters: &[u8]) -> Vec<u8> {
        join(&[&context.encode(), self.kind.as_bytes(), parameters])
    }
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
