//! A caller's one-time RSA key: strict SubjectPublicKeyInfo in, numbers for a token or a library out.

use crate::crypto::rsa::PublicKey;

/// Least bits of a modulus.
const MIN_BITS: usize = 2048;
/// Most bits of a modulus, unless another limit is set.
const MAX_BITS: usize = 4096;
/// Least public exponent.
const MIN_EXPONENT: u32 = 65537;
/// AlgorithmIdentifier of rsaEncryption with its NULL (RFC 3279, 2.3.1).
const ALGORITHM: [u8; 15] = [0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00];

/// An RSA public key of 2048 bits or more, with an odd exponent of 65537 to 2^32.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RsaKey {
    modulus: Vec<u8>,
    exponent: Vec<u8>,
    key: PublicKey,
}

/// Bytes are no key that a secret is given to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an RSA public key of the size and form that is taken")]
pub struct BadRsaKey;

impl RsaKey {
    /// Reads DER SubjectPublicKeyInfo of a key of at most 4096 bits.
    ///
    /// # Errors
    /// [`BadRsaKey`] for anything else: a bare RSAPublicKey, other algorithms, BER that is not DER, bytes behind, numbers out of range.
    pub fn from_spki(der: &[u8]) -> Result<RsaKey, BadRsaKey> {
        Self::from_spki_up_to(der, MAX_BITS)
    }

    /// The same with another limit for the modulus, in bits.
    ///
    /// # Errors
    /// [`BadRsaKey`].
    pub fn from_spki_up_to(der: &[u8], max_bits: usize) -> Result<RsaKey, BadRsaKey> {
        Self::parse(der, max_bits).ok_or(BadRsaKey)
    }

    fn parse(der: &[u8], max_bits: usize) -> Option<RsaKey> {
        let (spki, []) = element(der, 0x30)? else { return None };
        let (bits, []) = element(spki.strip_prefix(&ALGORITHM)?, 0x03)? else { return None };
        // No bits are unused in the last byte.
        let (numbers, []) = element(bits.strip_prefix(&[0])?, 0x30)? else { return None };
        let (modulus, rest) = number(numbers)?;
        let (exponent, []) = number(rest)? else { return None };
        let bits = 8 * modulus.len() - usize::try_from(modulus.first()?.leading_zeros()).ok()?;
        if !(MIN_BITS..=max_bits).contains(&bits) || modulus.last()? & 1 == 0 {
            return None;
        }
        if exponent.len() > 4 {
            return None;
        }
        let value = exponent.iter().fold(0, |value, byte| value << 8 | u32::from(*byte));
        if value < MIN_EXPONENT || value & 1 == 0 {
            return None;
        }
        let key = PublicKey::new(modulus, exponent)?;
        Some(RsaKey { modulus: modulus.to_vec(), exponent: exponent.to_vec(), key })
    }

    /// Big-endian, without zeros in front.
    pub(super) fn modulus(&self) -> &[u8] {
        &self.modulus
    }

    /// Big-endian, without zeros in front.
    pub(super) fn exponent(&self) -> &[u8] {
        &self.exponent
    }

    /// For software.
    pub(super) fn key(&self) -> &PublicKey {
        &self.key
    }
}

/// The content of a DER element with this tag, and what follows. Lengths have their shortest form, and at most two bytes.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&found, rest) = der.split_first()?;
    let (len, rest) = match rest {
        [len @ 0..=0x7f, rest @ ..] => (usize::from(*len), rest),
        [0x81, len @ 0x80..=0xff, rest @ ..] => (usize::from(*len), rest),
        [0x82, high @ 1..=0xff, low, rest @ ..] => (usize::from(*high) << 8 | usize::from(*low), rest),
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(len)?;
    (found == tag).then_some((content, rest))
}

/// A positive INTEGER in its shortest form, without the zero byte for its sign, and what follows.
fn number(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (content, rest) = element(der, 0x02)?;
    let digits = match content {
        [0, digits @ ..] if digits.first().is_some_and(|byte| byte & 0x80 != 0) => digits,
        [1..=0x7f, ..] => content,
        _ => return None,
    };
    Some((digits, rest))
}
