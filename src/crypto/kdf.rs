//! Key derivation: HKDF-SHA-256 (RFC 5869), its labels, and the MAC over `volume.toml`.

use super::secret::Secret;

/// Label of the entry-name key.
pub const NAMES: &[u8] = b"envelopefs/v1/names";

/// `HKDF-SHA-256[salt, info](key, N)`.
pub fn derive<const N: usize>(_key: &Secret<32>, _salt: &[u8], _info: &[&[u8]]) -> Secret<N> {
    todo!()
}
