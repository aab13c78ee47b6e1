//! Every cryptographic operation, behind types that say what a key is for.
//!
//! The derivation tree is drawn in section 2 of the [format](crate::file); the labels stand in [`kdf`].
//! Only this room names an AEAD, a KDF or a random generator. What an open returns is authentic; nothing else is plaintext.

pub mod aead;
pub mod kdf;
pub mod names;
pub mod secret;

/// Error of every open, unwrap or decryption: wrong key, wrong place or changed bytes. Deliberately without detail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("authentication failed: wrong key, or the stored bytes were changed or moved")]
pub struct Unauthentic;

/// Error of a seal: the library refused (a length beyond the cipher's limit).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("encryption failed")]
pub struct SealFailed;

/// 96-bit GCM nonce.
pub type Nonce = [u8; 12];
/// 128-bit GCM tag.
pub type Tag = [u8; 16];

/// Fills `out` with random bytes from the library's generator (SP 800-90A CTR_DRBG, seeded by the kernel).
pub fn random(_out: &mut [u8]) {
    todo!()
}
