//! Every cryptographic operation, behind types that say what a key is for.
//!
//! The derivation tree is drawn in section 2 of the [format](crate::file); the labels stand in [`kdf`].
//! Only this room names an AEAD, a KDF or a random generator. What an open returns is authentic; nothing
//! else is plaintext.

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

/// 96-bit GCM nonce, always random: 2^31 seals under one key keep the chance that any two are equal below 2^-35
/// (SP 800-38D, section 8.2.2, allows 2^32).
pub type Nonce = [u8; 12];
/// 128-bit GCM tag.
pub type Tag = [u8; 16];

/// Fills `out` with random bytes from the library's generator (SP 800-90A CTR_DRBG, seeded by the kernel).
///
/// A generator that fails leaves nothing safe to go on with (a nonce that repeats gives the key away), so
/// the process ends.
pub fn random(out: &mut [u8]) {
    if aws_lc_rs::rand::fill(out).is_err() {
        tracing::error!("the random generator failed: the process ends, since no key or nonce can be made safely");
        std::process::abort();
    }
}
