//! Key derivation: HKDF-SHA-256 (RFC 5869), its labels, and the MAC over `volume.toml`.
//!
//! One key, one purpose: no two derivations share salt, label and input key.

use hkdf::Hkdf;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::Unauthentic;
use super::secret::Secret;

/// Label of the entry-name key, from the volume key.
pub const NAMES: &[u8] = b"envelopefs/v1/names";
/// Label of the xattr-name key, from the volume key.
pub const XATTR_NAMES: &[u8] = b"envelopefs/v1/xattr-names";
/// Label of the symlink-target key, from the volume key.
pub const SYMLINKS: &[u8] = b"envelopefs/v1/symlinks";
/// Label of the xattr-value key, from the volume key.
pub const XATTR_VALUES: &[u8] = b"envelopefs/v1/xattr-values";
/// Label of a master key's id, from the master key.
pub const KEY_ID: &[u8] = b"envelopefs/v1/key-id";
/// Label of the key of the MAC over `volume.toml`, from the master key.
pub const CONFIG_MAC: &[u8] = b"envelopefs/v1/config-mac";
/// Label of the key that wraps the volume key, from the master key.
pub const VOLUME_WRAP: &[u8] = b"envelopefs/v1/volume-wrap";
/// Label of the key that wraps DEKs, from the master key.
pub const DEK_WRAP: &[u8] = b"envelopefs/v1/dek-wrap";
/// Label of the keys that encrypt a file, from its DEK; the epoch follows it.
pub const FILE: &[u8] = b"envelopefs/v1/file";

/// `HKDF-SHA-256[salt, info](key, N)`; the parts of `info` are concatenated, so only one of them may vary in length.
pub fn derive<const N: usize>(key: &Secret<32>, salt: &[u8], info: &[&[u8]]) -> Secret<N> {
    const { assert!(N <= 255 * 32, "RFC 5869, section 2.3: at most 255 hashes of output") };
    let hkdf = Hkdf::<Sha256>::new(Some(salt), key.expose());
    Secret::fill_with(|out| hkdf.expand_multi_info(info, out).expect("N is within HKDF's limit, asserted above"))
}

/// The key of one file in one epoch: `HKDF-SHA-256[file id, FILE ‖ epoch](DEK, 32)`.
pub fn file_key(dek: &Secret<32>, file_id: &[u8; 16], epoch: u32) -> Secret<32> {
    derive(dek, file_id, &[FILE, &epoch.to_le_bytes()])
}

/// `HMAC-SHA-256(key, text)` (RFC 2104). The tag is stored in the clear beside what it authenticates.
pub fn mac(key: &Secret<32>, text: &[u8]) -> [u8; 32] {
    keyed(key, text).finalize().into_bytes().into()
}

/// Compares a MAC in constant time.
///
/// # Errors
/// [`Unauthentic`] if it is another key's or another text's.
pub fn verify_mac(key: &Secret<32>, text: &[u8], tag: &[u8]) -> Result<(), Unauthentic> {
    keyed(key, text).verify_slice(tag).map_err(|_| Unauthentic)
}

fn keyed(key: &Secret<32>, text: &[u8]) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key.expose()).expect("HMAC takes keys of any length");
    mac.update(text);
    mac
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 4231-style self-check is the crate's own; what is ours is that each input matters.
    #[test]
    fn every_input_changes_the_derived_key() {
        let key = |n: u8| Secret::<32>::fill_with(|b| b.fill(n));
        let base = derive::<32>(&key(1), b"salt", &[NAMES]);
        assert_eq!(base.expose(), derive::<32>(&key(1), b"salt", &[NAMES]).expose());
        assert_ne!(base.expose(), derive::<32>(&key(2), b"salt", &[NAMES]).expose());
        assert_ne!(base.expose(), derive::<32>(&key(1), b"tlas", &[NAMES]).expose());
        assert_ne!(base.expose(), derive::<32>(&key(1), b"salt", &[SYMLINKS]).expose());
        assert_ne!(file_key(&key(1), &[0; 16], 0).expose(), file_key(&key(1), &[0; 16], 1).expose());
        assert_ne!(file_key(&key(1), &[0; 16], 0).expose(), file_key(&key(1), &[1; 16], 0).expose());
    }

    #[test]
    fn hkdf_agrees_with_an_independent_implementation() {
        let key = Secret::<32>::fill_with(|b| b.fill(0x0b));
        let salt = aws_lc_rs::hkdf::Salt::new(aws_lc_rs::hkdf::HKDF_SHA256, b"some salt");
        let prk = salt.extract(key.expose());
        let mut theirs = [0u8; 32];
        prk.expand(&[b"label".as_slice(), b"more"], aws_lc_rs::hkdf::HKDF_SHA256).unwrap().fill(&mut theirs).unwrap();
        assert_eq!(derive::<32>(&key, b"some salt", &[b"label", b"more"]).expose(), &theirs);
    }

    #[test]
    fn a_mac_is_bound_to_its_key_and_text() {
        let key = Secret::random();
        let tag = mac(&key, b"text");
        assert_eq!(verify_mac(&key, b"text", &tag), Ok(()));
        assert_eq!(verify_mac(&key, b"texT", &tag), Err(Unauthentic));
        assert_eq!(verify_mac(&Secret::random(), b"text", &tag), Err(Unauthentic));
        assert_eq!(verify_mac(&key, b"text", &tag[..31]), Err(Unauthentic));
        assert_eq!(verify_mac(&key, b"text", b""), Err(Unauthentic));
    }
}
