//! Every cryptographic operation, behind types that say what a key is for.
//!
//! The derivation tree is drawn in section 2 of the [format](crate::file); the labels stand in [`kdf`].
//! Only this room names an AEAD, a KDF or a random generator. What an open returns is authentic; nothing
//! else is plaintext.

pub mod aead;
pub mod kdf;
#[cfg(feature = "key-server")]
pub mod key_wrap;
pub mod names;
#[cfg(feature = "pkcs11")]
pub mod rsa;
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

/// SHA-256 (FIPS 180-4).
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    use sha2::Digest;
    sha2::Sha256::digest(bytes).into()
}

/// A fresh random nonce.
///
/// Drawn from a stock of 64 that each thread has, since the generator costs as much for 12 bytes as sealing a whole chunk does.
/// The stock lies in [key memory](crate::sys::memory), which a forked child does not have: one that seals
/// on dies instead of using the parent's nonces again.
pub fn nonce() -> Nonce {
    STOCK.with_borrow_mut(|stock| stock.next())
}

thread_local! {
    static STOCK: std::cell::RefCell<NonceStock> = const { std::cell::RefCell::new(NonceStock { bytes: None, used: 0 }) };
}

/// Random bytes not yet handed out as nonces.
struct NonceStock {
    bytes: Option<secret::Secret<{ NonceStock::NONCES * 12 }>>,
    /// Nonces handed out of `bytes`.
    used: usize,
}

impl NonceStock {
    const NONCES: usize = 64;

    fn next(&mut self) -> Nonce {
        let left = self.bytes.as_ref().and_then(|bytes| bytes.expose().as_chunks::<12>().0.get(self.used));
        if let Some(nonce) = left {
            self.used += 1;
            return *nonce;
        }
        let fresh = secret::Secret::random();
        let first = std::array::from_fn(|at| fresh.expose()[at]);
        *self = NonceStock { bytes: Some(fresh), used: 1 };
        first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonces_do_not_repeat_within_or_between_threads() {
        let draw = || (0..1000).map(|_| nonce()).collect::<Vec<_>>();
        let threads: Vec<_> = (0..4).map(|_| std::thread::spawn(draw)).collect();
        let mut all: Vec<_> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).chain(draw()).collect();
        all.sort_unstable();
        assert!(all.windows(2).all(|pair| pair[0] != pair[1]));
        assert!(!all.contains(&[0; 12]));
    }
}
