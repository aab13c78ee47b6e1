//! RSA with somebody else's private key: encrypt to it, verify what it signed. The private half stays in a token.
//!
//! RSAES-OAEP and RSASSA-PKCS1-v1_5 are those of RFC 8017; aws-lc-rs does both.

use aws_lc_rs::rsa::{
    OAEP_SHA1_MGF1SHA1, OAEP_SHA256_MGF1SHA256, OaepAlgorithm, OaepPublicEncryptingKey, PublicEncryptingKey,
};
use aws_lc_rs::signature::{RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents};

use super::{SealFailed, Unauthentic};

/// Hash of OAEP, for its label and in MGF1. SHA-1 serves here as a mask generator and not against collisions; some tokens have no other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum OaepHash {
    Sha1,
    Sha256,
}

impl OaepHash {
    fn algorithm(self) -> &'static OaepAlgorithm {
        match self {
            OaepHash::Sha1 => &OAEP_SHA1_MGF1SHA1,
            OaepHash::Sha256 => &OAEP_SHA256_MGF1SHA256,
        }
    }
}

/// A public key of 2048 to 8192 bits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    modulus: Vec<u8>,
    exponent: Vec<u8>,
}

impl PublicKey {
    /// From big-endian numbers, leading zeros or not; `None` if they are no such key.
    pub fn new(modulus: &[u8], exponent: &[u8]) -> Option<Self> {
        let stripped = |bytes: &[u8]| bytes.iter().copied().skip_while(|&byte| byte == 0).collect::<Vec<u8>>();
        let key = PublicKey { modulus: stripped(modulus), exponent: stripped(exponent) };
        let possible = (256..=1024).contains(&key.modulus.len()) && (1..=8).contains(&key.exponent.len());
        (possible && key.encrypting().is_ok()).then_some(key)
    }

    /// Bytes of a ciphertext or signature.
    pub fn bytes(&self) -> usize {
        self.modulus.len()
    }

    /// Bits, rounded up to whole bytes.
    pub fn bits(&self) -> usize {
        8 * self.modulus.len()
    }

    fn components(&self) -> RsaPublicKeyComponents<&[u8]> {
        RsaPublicKeyComponents { n: &self.modulus, e: &self.exponent }
    }

    fn encrypting(&self) -> Result<OaepPublicEncryptingKey, aws_lc_rs::error::Unspecified> {
        let key: PublicEncryptingKey = self.components().try_into()?;
        OaepPublicEncryptingKey::new(key)
    }

    /// RSAES-OAEP without a label. Whoever has the public key can do this: it says nothing about who did.
    ///
    /// # Errors
    /// [`SealFailed`] if the text is too long for the key.
    pub fn oaep_seal(&self, hash: OaepHash, plain: &[u8]) -> Result<Vec<u8>, SealFailed> {
        let key = self.encrypting().map_err(|_| SealFailed)?;
        let mut sealed = vec![0; key.ciphertext_size()];
        let len = key.encrypt(hash.algorithm(), plain, &mut sealed, None).map_err(|_| SealFailed)?.len();
        sealed.truncate(len);
        Ok(sealed)
    }

    /// Verifies a RSASSA-PKCS1-v1_5 signature with SHA-256.
    ///
    /// # Errors
    /// [`Unauthentic`].
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> Result<(), Unauthentic> {
        self.components().verify(&RSA_PKCS1_2048_8192_SHA256, message, signature).map_err(|_| Unauthentic)
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::rsa::{KeyPair, KeySize};
    use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256};

    use super::*;

    #[test]
    fn a_signature_holds_for_its_key_and_message_alone() {
        let pair = KeyPair::generate(KeySize::Rsa2048).unwrap();
        let public = |pair: &KeyPair| {
            // RSAPublicKey in DER: two headers of four bytes, the modulus with a zero in front, the exponent 65537.
            let der = pair.public_key().as_ref();
            PublicKey::new(&der[8..265], &der[267..]).unwrap()
        };
        let key = public(&pair);
        assert_eq!((key.bytes(), key.bits()), (256, 2048));
        let mut signature = vec![0; key.bytes()];
        pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), b"text", &mut signature).unwrap();
        key.verify(b"text", &signature).unwrap();
        assert!(key.verify(b"texT", &signature).is_err());
        assert!(public(&KeyPair::generate(KeySize::Rsa2048).unwrap()).verify(b"text", &signature).is_err());
        signature[100] ^= 1;
        assert!(key.verify(b"text", &signature).is_err());
        for hash in [OaepHash::Sha1, OaepHash::Sha256] {
            assert_ne!(key.oaep_seal(hash, b"text").unwrap(), key.oaep_seal(hash, b"text").unwrap());
            assert!(key.oaep_seal(hash, &[0; 256]).is_err());
        }
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for (modulus, exponent) in
            [(&[0xff; 128][..], &[1, 0, 1][..]), (&[0xff; 2000], &[1, 0, 1]), (&[0xff; 256], &[]), (&[], &[3])]
        {
            assert!(PublicKey::new(modulus, exponent).is_none());
        }
    }
}
