//! Deterministic encryption of names: AES-256-SIV (RFC 5297).

use super::Unauthentic;
use super::secret::Secret;

/// Encrypts and decrypts names under one associated datum. Cheap to share between threads.
pub struct NameCipher(());

impl NameCipher {
    /// Takes the 512-bit key (MAC half, then cipher half).
    pub fn new(_key: &Secret<64>) -> Self {
        todo!()
    }

    /// `synthetic IV 16 ‖ ciphertext`.
    pub fn seal(&self, _associated: &[u8], _name: &[u8]) -> Vec<u8> {
        todo!()
    }

    /// Opens what [`seal`](Self::seal) made.
    pub fn open(&self, _associated: &[u8], _sealed: &[u8]) -> Result<Vec<u8>, Unauthentic> {
        todo!()
    }
}
