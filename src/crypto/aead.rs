//! AES-256-GCM (NIST SP 800-38D): bulk keys for chunks, wrap keys for keys.
//!
//! Bulk work is done by aws-lc-rs, the fastest implementation measured; keys and small values are
//! wrapped by the crate aes-gcm. The two are wire-compatible, and tests hold each against the other.

use aes_gcm::aead::{AeadInOut, KeyInit};
use aes_gcm::{Aes256Gcm, Key};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce as BulkNonce, UnboundKey};

use super::secret::Secret;
use super::{Nonce, SealFailed, Tag, Unauthentic};

/// Bytes by which a sealed value is longer than its plaintext: nonce 12, tag 16.
pub const VALUE_OVERHEAD: usize = 28;

/// The key of one file in one epoch; seals and opens chunks, nodes and the root record.
///
/// Sealing draws no nonce: the caller passes a fresh random one for every call (see
/// [`nonce`](super::nonce)) and counts seals.
pub struct ChunkKey(LessSafeKey);

impl ChunkKey {
    /// Expands the key schedule. The library wipes it when it is dropped.
    pub fn new(key: &Secret<32>) -> Self {
        let key = UnboundKey::new(&AES_256_GCM, key.expose()).expect("AES-256-GCM takes any 32 bytes");
        ChunkKey(LessSafeKey::new(key))
    }

    /// Encrypts `plain` into `sealed`, which has the same length.
    ///
    /// # Errors
    /// [`SealFailed`] if the lengths differ.
    pub fn seal(&self, nonce: &Nonce, aad: &[u8], plain: &[u8], sealed: &mut [u8]) -> Result<Tag, SealFailed> {
        let mut tag = Tag::default();
        self.0
            .seal_out_of_place_scatter(bulk_nonce(nonce), Aad::from(aad), plain, sealed, &[], &mut tag)
            .map_err(|_| SealFailed)?;
        Ok(tag)
    }

    /// Encrypts in place.
    ///
    /// # Errors
    /// [`SealFailed`] for more than GCM's 64 GiB.
    pub fn seal_in_place(&self, nonce: &Nonce, aad: &[u8], buf: &mut [u8]) -> Result<Tag, SealFailed> {
        let mut tag = Tag::default();
        self.0.seal_in_place_scatter(bulk_nonce(nonce), Aad::from(aad), buf, &[], &mut tag).map_err(|_| SealFailed)?;
        Ok(tag)
    }

    /// Verifies and decrypts in place; on error `buf` holds nothing of use and must be discarded.
    ///
    /// # Errors
    /// [`Unauthentic`] for another key, nonce or tag, other associated data or changed bytes.
    pub fn open_in_place(&self, nonce: &Nonce, aad: &[u8], buf: &mut [u8], tag: &Tag) -> Result<(), Unauthentic> {
        self.0
            .open_in_place_separate_tag(bulk_nonce(nonce), Aad::from(aad), tag, buf)
            .map(|_| ())
            .map_err(|_| Unauthentic)
    }
}

impl std::fmt::Debug for ChunkKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ChunkKey(..)")
    }
}

fn bulk_nonce(nonce: &Nonce) -> BulkNonce {
    BulkNonce::assume_unique_for_key(*nonce)
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

impl WrappedSecret {
    /// Bytes of one: nonce 12, ciphertext 32, tag 16.
    pub const LEN: usize = 60;

    /// `nonce ‖ ciphertext ‖ tag`.
    pub fn to_bytes(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..12].copy_from_slice(&self.nonce);
        bytes[12..44].copy_from_slice(&self.sealed);
        bytes[44..].copy_from_slice(&self.tag);
        bytes
    }

    /// What [`to_bytes`](Self::to_bytes) gave; `None` for another length.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (nonce, rest) = bytes.split_first_chunk()?;
        let (sealed, tag) = rest.split_first_chunk()?;
        Some(WrappedSecret { nonce: *nonce, sealed: *sealed, tag: tag.try_into().ok()? })
    }
}

/// Wraps `secret` under `key`.
pub fn wrap(key: &Secret<32>, aad: &[u8], secret: &Secret<32>) -> WrappedSecret {
    let nonce = super::nonce();
    let mut sealed = *secret.expose();
    let tag = wrap_cipher(key)
        .encrypt_inout_detached(&nonce.into(), aad, sealed.as_mut_slice().into())
        .expect("32 bytes are far from GCM's limit");
    WrappedSecret { nonce, sealed, tag: tag.into() }
}

/// Unwraps.
///
/// # Errors
/// [`Unauthentic`] for another key, other associated data or changed bytes.
pub fn unwrap(key: &Secret<32>, aad: &[u8], wrapped: &WrappedSecret) -> Result<Secret<32>, Unauthentic> {
    Secret::try_fill_with(|out| {
        out.copy_from_slice(&wrapped.sealed);
        wrap_cipher(key)
            .decrypt_inout_detached(&wrapped.nonce.into(), aad, out.as_mut_slice().into(), &wrapped.tag.into())
            .map_err(|_| Unauthentic)
    })
}

/// Seals a value of any length: `nonce ‖ ciphertext ‖ tag`, [`VALUE_OVERHEAD`] bytes longer.
pub fn seal_value(key: &Secret<32>, aad: &[u8], plain: &[u8]) -> Vec<u8> {
    let nonce = super::nonce();
    let mut out = Vec::with_capacity(plain.len() + VALUE_OVERHEAD);
    out.extend_from_slice(&nonce);
    out.extend_from_slice(plain);
    let tag = wrap_cipher(key)
        .encrypt_inout_detached(&nonce.into(), aad, (&mut out[nonce.len()..]).into())
        .expect("values are far from GCM's limit of 64 GiB");
    out.extend_from_slice(&tag);
    out
}

/// Opens what [`seal_value`] made.
///
/// # Errors
/// [`Unauthentic`], also for less than [`VALUE_OVERHEAD`] bytes.
pub fn open_value(key: &Secret<32>, aad: &[u8], sealed: &[u8]) -> Result<Vec<u8>, Unauthentic> {
    let (nonce, rest) = sealed.split_first_chunk::<12>().ok_or(Unauthentic)?;
    let (body, tag) = rest.split_last_chunk::<16>().ok_or(Unauthentic)?;
    let mut plain = body.to_vec();
    wrap_cipher(key)
        .decrypt_inout_detached(&(*nonce).into(), aad, plain.as_mut_slice().into(), &(*tag).into())
        .map_err(|_| Unauthentic)?;
    Ok(plain)
}

fn wrap_cipher(key: &Secret<32>) -> Aes256Gcm {
    Aes256Gcm::new(<&Key<Aes256Gcm>>::from(key.expose()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(n: u8) -> Secret<32> {
        Secret::fill_with(|b| b.fill(n))
    }

    proptest! {
        #[test]
        fn the_two_implementations_agree(plain in prop::collection::vec(any::<u8>(), 0..9000), aad in prop::collection::vec(any::<u8>(), 0..40), nonce: [u8; 12], fill: u8) {
            let bulk = ChunkKey::new(&key(fill));
            let mut sealed = vec![0; plain.len()];
            let tag = bulk.seal(&nonce, &aad, &plain, &mut sealed).unwrap();
            let mut theirs = plain.clone();
            let their_tag: Tag = wrap_cipher(&key(fill))
                .encrypt_inout_detached(&nonce.into(), &aad, theirs.as_mut_slice().into()).unwrap().into();
            prop_assert_eq!((&sealed, tag), (&theirs, their_tag));
            let mut in_place = plain.clone();
            prop_assert_eq!(bulk.seal_in_place(&nonce, &aad, &mut in_place).unwrap(), tag);
            prop_assert_eq!(&in_place, &sealed);
            bulk.open_in_place(&nonce, &aad, &mut in_place, &tag).unwrap();
            prop_assert_eq!(in_place, plain);
        }
    }

    /// Test case 16 of the GCM submission (McGrew and Viega, appendix B).
    #[test]
    fn published_vector() {
        let hex = |s: &str| -> Vec<u8> {
            (0..s.len()).step_by(2).map(|i| u8::from_str_radix(&s[i..i + 2], 16).unwrap()).collect()
        };
        let key = hex("feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308");
        let key = Secret::<32>::fill_with(|b| b.copy_from_slice(&key));
        let plain = hex(concat!(
            "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525",
            "b16aedf5aa0de657ba637b39"
        ));
        let sealed = hex(concat!(
            "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa8cb08e48590dbb3da7b08b1056828838",
            "c5f61e6393ba7a0abcc9f662"
        ));
        let aad = hex("feedfacedeadbeeffeedfacedeadbeefabaddad2");
        let nonce: Nonce = hex("cafebabefacedbaddecaf888").try_into().unwrap();
        let mut out = plain.clone();
        let tag = ChunkKey::new(&key).seal_in_place(&nonce, &aad, &mut out).unwrap();
        assert_eq!(out, sealed);
        assert_eq!(tag.to_vec(), hex("76fc6ece0f4e1768cddf8853bb2d551b"));
    }

    #[test]
    fn anything_changed_is_refused() {
        let bulk = ChunkKey::new(&key(1));
        let plain = [9u8; 100];
        let mut sealed = plain;
        let tag = bulk.seal_in_place(&[3; 12], b"aad", &mut sealed).unwrap();
        let open = |key: &ChunkKey, nonce, aad: &[u8], bytes: &[u8], tag| {
            key.open_in_place(&nonce, aad, &mut bytes.to_vec(), &tag)
        };
        assert_eq!(open(&bulk, [3; 12], b"aad", &sealed, tag), Ok(()));
        assert_eq!(open(&ChunkKey::new(&key(2)), [3; 12], b"aad", &sealed, tag), Err(Unauthentic));
        assert_eq!(open(&bulk, [4; 12], b"aad", &sealed, tag), Err(Unauthentic));
        assert_eq!(open(&bulk, [3; 12], b"aae", &sealed, tag), Err(Unauthentic));
        assert_eq!(open(&bulk, [3; 12], b"aad", &sealed[..99], tag), Err(Unauthentic));
        for at in 0..100 {
            let mut changed = sealed;
            changed[at] ^= 0x80;
            assert_eq!(open(&bulk, [3; 12], b"aad", &changed, tag), Err(Unauthentic));
        }
        for at in 0..16 {
            let mut changed = tag;
            changed[at] ^= 1;
            assert_eq!(open(&bulk, [3; 12], b"aad", &sealed, changed), Err(Unauthentic));
        }
    }

    #[test]
    fn a_wrapped_secret_is_bound_to_key_and_context() {
        let secret = Secret::random();
        let wrapped = wrap(&key(1), b"context", &secret);
        assert_eq!(unwrap(&key(1), b"context", &wrapped).unwrap().expose(), secret.expose());
        let bytes = wrapped.to_bytes();
        assert_eq!(WrappedSecret::from_bytes(&bytes), Some(wrapped));
        assert_eq!(WrappedSecret::from_bytes(&bytes[..59]), None);
        assert_eq!(WrappedSecret::from_bytes(&[&bytes[..], &[0]].concat()), None);
        assert_eq!(unwrap(&key(2), b"context", &wrapped).unwrap_err(), Unauthentic);
        assert_eq!(unwrap(&key(1), b"contexT", &wrapped).unwrap_err(), Unauthentic);
        for at in 0..60 {
            let mut changed = wrapped;
            match at {
                0..12 => changed.nonce[at] ^= 1,
                12..44 => changed.sealed[at - 12] ^= 1,
                _ => changed.tag[at - 44] ^= 1,
            }
            assert_eq!(unwrap(&key(1), b"context", &changed).unwrap_err(), Unauthentic);
        }
    }

    #[test]
    fn a_sealed_value_comes_back_or_is_refused() {
        for len in [0, 1, 100, 5000] {
            let plain = vec![5u8; len];
            let sealed = seal_value(&key(1), b"name", &plain);
            assert_eq!(sealed.len(), len + VALUE_OVERHEAD);
            assert_eq!(open_value(&key(1), b"name", &sealed).unwrap(), plain);
            assert_eq!(open_value(&key(1), b"other", &sealed), Err(Unauthentic));
            for cut in [0, 1, 11, 12, 27, sealed.len() - 1] {
                assert_eq!(open_value(&key(1), b"name", &sealed[..cut]), Err(Unauthentic));
            }
        }
    }
}
