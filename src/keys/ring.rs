//! The unlocked key ring of a volume: what wraps and unwraps DEKs and gives the volume's other keys.

use uuid::Uuid;

use crate::crypto::Unauthentic;
use crate::crypto::names::NameCipher;
use crate::crypto::secret::Secret;

/// Id of a master key: a key check value by HKDF, so it tells nothing of the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId(pub [u8; 16]);

/// Random id of a file, constant for its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileId(pub [u8; 16]);

/// A DEK wrapped under a master key; 76 bytes in a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WrappedDek {
    /// The master key it is wrapped under.
    pub key_id: KeyId,
    /// The wrapped DEK.
    pub wrapped: crate::crypto::aead::WrappedSecret,
}

/// Why a DEK could not be unwrapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UnwrapError {
    /// No such master key in this ring.
    #[error("no master key with id {}", hex(&.0.0))]
    NoSuchKey(KeyId),
    /// The key is there and the bytes do not fit it.
    #[error(transparent)]
    Unauthentic(#[from] Unauthentic),
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// The master keys of an unlocked volume and the keys that depend on them.
pub struct KeyRing {}

impl KeyRing {
    /// A ring with one fresh random master key and a fresh volume key.
    pub fn generate(_volume: Uuid) -> Self {
        todo!()
    }

    /// The volume the ring belongs to.
    pub fn volume(&self) -> Uuid {
        todo!()
    }

    /// Id of the master key under which new DEKs are wrapped.
    pub fn active(&self) -> KeyId {
        todo!()
    }

    /// Wraps a DEK for a file under the active master key.
    pub fn wrap_dek(&self, _file: &FileId, _dek: &Secret<32>) -> WrappedDek {
        todo!()
    }

    /// Unwraps a file's DEK.
    ///
    /// # Errors
    /// [`UnwrapError`].
    pub fn unwrap_dek(&self, _file: &FileId, _wrapped: &WrappedDek) -> Result<Secret<32>, UnwrapError> {
        todo!()
    }

    /// Cipher of entry names.
    pub fn names(&self) -> &NameCipher {
        todo!()
    }

    /// Cipher of xattr names.
    pub fn xattr_names(&self) -> &NameCipher {
        todo!()
    }

    /// Key of symlink targets.
    pub fn symlink_key(&self) -> &Secret<32> {
        todo!()
    }

    /// Key of xattr values.
    pub fn xattr_value_key(&self) -> &Secret<32> {
        todo!()
    }
}
