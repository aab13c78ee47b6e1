//! AES-256-GCM (NIST SP 800-38D): bulk keys for chunks, wrap keys for keys.

use super::secret::Secret;
use super::{Nonce, SealFailed, Tag, Unauthentic};

/// The key of one file in one epoch; seals and opens chunks, nodes and the root record.
///
/// Sealing draws no nonce: the caller passes a fresh random one for every call
/// (see [`random`](super::random)) and counts seals.
pub struct ChunkKey(());

impl ChunkKey {
    /// Expands the key schedule.
    pub fn new(_key: &Secret<32>) -> Self {
        todo!()
    }

    /// Encrypts `plain` into `sealed`, which has the same length.
    pub fn seal(&self, _nonce: &Nonce, _aad: &[u8], _plain: &[u8], _sealed: &mut [u8]) -> Result<Tag, SealFailed> {
        todo!()
    }

    /// Encrypts in place.
    pub fn seal_in_place(&self, _nonce: &Nonce, _aad: &[u8], _buf: &mut [u8]) -> Result<Tag, SealFailed> {
        todo!()
    }

    /// Verifies and decrypts in place; on error `buf` holds nothing of use and must be discarded.
    pub fn open_in_place(&self, _nonce: &Nonce, _aad: &[u8], _buf: &mut [u8], _tag: &Tag) -> Result<(), Unauthentic> {
        todo!()
    }
}

/// A 256-bit secret wrapped by AES-256-GCM with a random nonce.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WrappedSecret {
    /// Random nonce.
    pub nonce: Nonce,
    /// Ciphertext.
    pub sealed: [u8; 32],
    /// Tag.
    pub tag: Tag,
}

/// Wraps `secret` under `key`.
pub fn wrap(_key: &Secret<32>, _aad: &[u8], _secret: &Secret<32>) -> WrappedSecret {
    todo!()
}

/// Unwraps.
///
/// # Errors
/// [`Unauthentic`] for another key, other associated data or changed bytes.
pub fn unwrap(_key: &Secret<32>, _aad: &[u8], _wrapped: &WrappedSecret) -> Result<Secret<32>, Unauthentic> {
    todo!()
}

/// Seals a value of any length: `nonce ‖ ciphertext ‖ tag` (28 bytes longer).
pub fn seal_value(_key: &Secret<32>, _aad: &[u8], _plain: &[u8]) -> Vec<u8> {
    todo!()
}

/// Opens what [`seal_value`] made.
///
/// # Errors
/// [`Unauthentic`], also for less than 28 bytes.
pub fn open_value(_key: &Secret<32>, _aad: &[u8], _sealed: &[u8]) -> Result<Vec<u8>, Unauthentic> {
    todo!()
}
