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

#[cfg(test)]
mod tests {
    use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
    use aws_lc_rs::rsa::{KeySize, PrivateDecryptingKey};
    use proptest::prelude::*;

    use super::*;

    fn spki(size: KeySize) -> Vec<u8> {
        let key = PrivateDecryptingKey::generate(size).unwrap();
        let der: PublicKeyX509Der<'_> = key.public_key().as_der().unwrap();
        der.as_ref().to_vec()
    }

    /// DER with these contents.
    fn der(tag: u8, contents: &[&[u8]]) -> Vec<u8> {
        let body = contents.concat();
        let len = body.len();
        let head = match len {
            0..=0x7f => vec![tag, len as u8],
            0x80..=0xff => vec![tag, 0x81, len as u8],
            _ => vec![tag, 0x82, (len >> 8) as u8, len as u8],
        };
        [head, body].concat()
    }

    fn built(modulus: &[u8], exponent: &[u8]) -> Vec<u8> {
        let numbers = der(0x30, &[&der(2, &[modulus]), &der(2, &[exponent])]);
        der(0x30, &[&ALGORITHM, &der(3, &[&[0], &numbers])])
    }

    #[test]
    fn a_key_of_the_right_size_is_read_and_the_limits_hold() {
        for (size, bytes) in [(KeySize::Rsa2048, 256), (KeySize::Rsa3072, 384), (KeySize::Rsa4096, 512)] {
            let spki = spki(size);
            let key = RsaKey::from_spki(&spki).unwrap();
            assert_eq!((key.modulus().len(), key.exponent()), (bytes, &[1, 0, 1][..]));
            let with_sign = [&[0], key.modulus()].concat();
            assert_eq!(built(&with_sign, key.exponent()), spki);
            assert_eq!(RsaKey::from_spki_up_to(&spki, 8 * bytes), Ok(key.clone()));
            assert!(RsaKey::from_spki_up_to(&spki, 8 * bytes - 1).is_err());
            // Exponents: even, small, of five bytes, with zeros in front, zero, negative.
            for bad in [&[1, 0, 0][..], &[3], &[0xff, 0xff], &[1, 0, 0, 0, 1], &[0, 1, 0, 1], &[0], &[0x80, 0, 1], &[]]
            {
                assert!(RsaKey::from_spki(&built(&with_sign, bad)).is_err(), "{bad:?}");
            }
            RsaKey::from_spki(&built(&with_sign, &[0, 0xff, 0, 0, 1])).expect("four bytes");
            let mut even = with_sign.clone();
            *even.last_mut().unwrap() &= 0xfe;
            let negative = key.modulus().to_vec();
            let short = [&[0x7f], &with_sign[2..255]].concat();
            for bad in [&even, &negative, &short, &[&[0, 0], key.modulus()].concat()] {
                assert!(RsaKey::from_spki(&built(bad, &[1, 0, 1])).is_err());
            }
        }
    }

    #[test]
    fn only_der_of_exactly_a_public_key_is_read() {
        let spki = spki(KeySize::Rsa2048);
        for len in 0..spki.len() {
            assert!(RsaKey::from_spki(&spki[..len]).is_err());
        }
        assert!(RsaKey::from_spki(&[&spki[..], &[0]].concat()).is_err());
        // RSAPublicKey alone (PKCS#1).
        assert!(RsaKey::from_spki(&spki[24..]).is_err());
        // A changed structure; changed digits of the modulus are another key.
        for bit in 0..32 * 8 {
            let mut changed = spki.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(RsaKey::from_spki(&changed).is_err(), "bit {bit}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_harm(bytes in proptest::collection::vec(any::<u8>(), 0..600), at in 0_usize..294, byte: u8) {
            prop_assert!(RsaKey::from_spki(&bytes).is_err());
            let mut spki = built(&[&[0, 0xc1][..], &[0x5b; 255]].concat(), &[1, 0, 1]);
            spki[at] = byte;
            let _ = RsaKey::from_spki(&spki);
        }
    }
}
