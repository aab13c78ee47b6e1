//! The unlocked key ring of a volume: what wraps and unwraps DEKs and gives the volume's other keys.
//!
//! A ring exists only after a key slot was unlocked and `volume.toml` verified (see [`crate::volume`]). It holds
//! no master key itself, only the keys derived from it that a mounted volume needs.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use parking_lot::RwLock;
use uuid::Uuid;

use crate::crypto::Unauthentic;
use crate::crypto::aead::{self, WrappedSecret};
use crate::crypto::kdf;
use crate::crypto::names::NameCipher;
use crate::crypto::secret::Secret;

/// Domain of the associated data of a wrapped DEK.
const DEK_DOMAIN: &[u8] = b"envelopefs dek v1";
/// Domain of the associated data of a [`Handover`].
const HANDOVER_DOMAIN: &[u8] = b"envelopefs handover v1";

/// Id of a master key: a key check value by HKDF, so it tells nothing of the key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId(pub [u8; 16]);

impl KeyId {
    /// The id of a master key of this volume.
    pub fn of(master: &Secret<32>, volume: Uuid) -> Self {
        KeyId(*kdf::derive::<16>(master, volume.as_bytes(), &[kdf::KEY_ID]).expose())
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// 32 hexadecimal digits.
impl FromStr for KeyId {
    type Err = BadKeyId;

    fn from_str(text: &str) -> Result<Self, BadKeyId> {
        let mut id = [0; 16];
        if text.len() != 2 * id.len() || !text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(BadKeyId);
        }
        for (byte, digits) in id.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let digits = std::str::from_utf8(digits).map_err(|_| BadKeyId)?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| BadKeyId)?;
        }
        Ok(KeyId(id))
    }
}

/// Text that is no [`KeyId`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a key id is 32 lower-case hexadecimal digits")]
pub struct BadKeyId;

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

/// Random id of a file, constant for its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileId(pub [u8; 16]);

impl FileId {
    /// A fresh id.
    pub fn random() -> Self {
        let mut id = [0; 16];
        crate::crypto::random(&mut id);
        FileId(id)
    }
}

/// A DEK wrapped under a master key; 76 bytes in a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WrappedDek {
    /// The master key it is wrapped under.
    pub key_id: KeyId,
    /// The wrapped DEK.
    pub wrapped: WrappedSecret,
}

/// Why a DEK could not be unwrapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UnwrapError {
    /// No such master key in this ring.
    #[error("no master key with id {0}")]
    NoSuchKey(KeyId),
    /// The key is there and the bytes do not fit it.
    #[error(transparent)]
    Unauthentic(#[from] Unauthentic),
}

/// A new master key on its way to a daemon that has the volume mounted: what it needs to wrap DEKs with it. Opens with the volume key
/// alone, which that daemon was given when it mounted, and never lies on a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Handover {
    /// The new master key.
    pub key_id: KeyId,
    /// Its DEK-wrapping key, wrapped.
    pub wrapped: WrappedSecret,
}

impl Handover {
    /// Prepares a master key of a volume for its daemon.
    pub fn new(volume: Uuid, volume_key: &Secret<32>, master: &Secret<32>) -> Self {
        let salt = volume.as_bytes();
        let key_id = KeyId::of(master, volume);
        let (under, key) =
            (kdf::derive(volume_key, salt, &[kdf::HANDOVER]), kdf::derive(master, salt, &[kdf::DEK_WRAP]));
        Handover { key_id, wrapped: aead::wrap(&under, &Self::aad(volume, &key_id), &key) }
    }

    fn aad(volume: Uuid, key_id: &KeyId) -> Vec<u8> {
        [HANDOVER_DOMAIN, volume.as_bytes(), &key_id.0].concat()
    }
}

/// The master keys of an unlocked volume, as far as files need them, and the keys derived from the volume key.
#[derive(Debug)]
pub struct KeyRing {
    volume: Uuid,
    /// DEK-wrapping keys by master key; the first belongs to the active one. Held for one wrapping, never over a system call.
    dek_wraps: RwLock<Vec<(KeyId, Secret<32>)>>,
    /// Master keys of the volume that are not in the ring: destroyed, or locked.
    absent: RwLock<Vec<KeyId>>,
    handover: Secret<32>,
    names: NameCipher,
    xattr_names: NameCipher,
    symlink_key: Secret<32>,
    xattr_value_key: Secret<32>,
    audit: Arc<Secret<32>>,
}

impl KeyRing {
    /// The ring of a volume: its volume key, its active master key, and further master keys that only unwrap, newer ones first.
    pub fn new(volume: Uuid, volume_key: &Secret<32>, active: &Secret<32>, older: &[&Secret<32>]) -> Self {
        let salt = volume.as_bytes();
        let dek_wraps = std::iter::once(active)
            .chain(older.iter().copied())
            .map(|master| (KeyId::of(master, volume), kdf::derive(master, salt, &[kdf::DEK_WRAP])))
            .collect();
        KeyRing {
            volume,
            dek_wraps: RwLock::new(dek_wraps),
            absent: RwLock::default(),
            handover: kdf::derive(volume_key, salt, &[kdf::HANDOVER]),
            names: NameCipher::new(kdf::derive(volume_key, salt, &[kdf::NAMES])),
            xattr_names: NameCipher::new(kdf::derive(volume_key, salt, &[kdf::XATTR_NAMES])),
            symlink_key: kdf::derive(volume_key, salt, &[kdf::SYMLINKS]),
            xattr_value_key: kdf::derive(volume_key, salt, &[kdf::XATTR_VALUES]),
            audit: Arc::new(kdf::derive(volume_key, salt, &[kdf::AUDIT_MAC])),
        }
    }

    /// The key of the MACs in the log of key events: the same for all versions of the master key.
    pub fn audit_key(&self) -> Arc<Secret<32>> {
        self.audit.clone()
    }

    /// A ring with one fresh random master key and a fresh volume key.
    pub fn generate(volume: Uuid) -> Self {
        Self::new(volume, &Secret::random(), &Secret::random(), &[])
    }

    /// The volume the ring belongs to.
    pub fn volume(&self) -> Uuid {
        self.volume
    }

    /// Id of the master key under which new DEKs are wrapped.
    pub fn active(&self) -> KeyId {
        self.dek_wraps.read()[0].0
    }

    /// Takes over a master key as the active one; the others still unwrap.
    ///
    /// # Errors
    /// [`Unauthentic`] if it was not made for this volume.
    pub fn adopt(&self, new: &Handover) -> Result<(), Unauthentic> {
        let key = aead::unwrap(&self.handover, &Handover::aad(self.volume, &new.key_id), &new.wrapped)?;
        let mut keys = self.dek_wraps.write();
        keys.retain(|(id, _)| *id != new.key_id);
        keys.insert(0, (new.key_id, key));
        Ok(())
    }

    /// Lets go of every master key but the active one and those named, and returns how many went.
    pub fn keep_only(&self, wanted: &[KeyId]) -> usize {
        let mut keys = self.dek_wraps.write();
        let (before, active) = (keys.len(), keys[0].0);
        let stays = |id: &KeyId| *id == active || wanted.contains(id);
        self.absent.write().extend(keys.iter().map(|(id, _)| *id).filter(|id| !stays(id)));
        keys.retain(|(id, _)| stays(id));
        before - keys.len()
    }

    /// Learns of master keys that the volume has or had.
    pub fn learn(&self, ids: impl IntoIterator<Item = KeyId>) {
        let missing: Vec<KeyId> = ids.into_iter().filter(|id| self.rank(*id).is_none()).collect();
        self.absent.write().extend(missing);
    }

    /// True for a master key of the volume, be it in the ring or not.
    pub fn knows(&self, key_id: KeyId) -> bool {
        self.rank(key_id).is_some() || self.absent.read().contains(&key_id)
    }

    /// The place of a master key in the ring, the active one being 0 and newer ones before older ones; `None` if it is not there.
    pub fn rank(&self, key_id: KeyId) -> Option<usize> {
        self.dek_wraps.read().iter().position(|(id, _)| *id == key_id)
    }

    /// Wraps a DEK for a file under the active master key.
    pub fn wrap_dek(&self, file: &FileId, dek: &Secret<32>) -> WrappedDek {
        let keys = self.dek_wraps.read();
        let (key_id, key) = &keys[0];
        WrappedDek { key_id: *key_id, wrapped: aead::wrap(key, &self.dek_aad(file, key_id), dek) }
    }

    /// Unwraps a file's DEK.
    ///
    /// # Errors
    /// [`UnwrapError`].
    pub fn unwrap_dek(&self, file: &FileId, dek: &WrappedDek) -> Result<Secret<32>, UnwrapError> {
        let keys = self.dek_wraps.read();
        let (_, key) = keys.iter().find(|(id, _)| *id == dek.key_id).ok_or(UnwrapError::NoSuchKey(dek.key_id))?;
        Ok(aead::unwrap(key, &self.dek_aad(file, &dek.key_id), &dek.wrapped)?)
    }

    /// Binds a wrapped DEK to the volume, the file and the master key, so it is of no use anywhere else.
    fn dek_aad(&self, file: &FileId, key_id: &KeyId) -> Vec<u8> {
        [DEK_DOMAIN, self.volume.as_bytes(), &file.0, &key_id.0].concat()
    }

    /// Cipher of entry names.
    pub fn names(&self) -> &NameCipher {
        &self.names
    }

    /// Cipher of xattr names.
    pub fn xattr_names(&self) -> &NameCipher {
        &self.xattr_names
    }

    /// Key of symlink targets.
    pub fn symlink_key(&self) -> &Secret<32> {
        &self.symlink_key
    }

    /// Key of xattr values.
    pub fn xattr_value_key(&self) -> &Secret<32> {
        &self.xattr_value_key
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dek_opens_only_with_its_volume_file_and_key() {
        let (volume, file, dek) = (Uuid::new_v4(), FileId::random(), Secret::random());
        let (volume_key, master) = (Secret::random(), Secret::random());
        let ring = KeyRing::new(volume, &volume_key, &master, &[]);
        let wrapped = ring.wrap_dek(&file, &dek);
        assert_eq!(ring.unwrap_dek(&file, &wrapped).unwrap().expose(), dek.expose());
        assert_eq!(ring.unwrap_dek(&FileId::random(), &wrapped).unwrap_err(), UnwrapError::Unauthentic(Unauthentic));

        // Even a volume with the same master key: its id and its wrap key differ.
        let elsewhere = KeyRing::new(Uuid::new_v4(), &volume_key, &master, &[]);
        assert_eq!(elsewhere.unwrap_dek(&file, &wrapped).unwrap_err(), UnwrapError::NoSuchKey(wrapped.key_id));
        let renamed = WrappedDek { key_id: elsewhere.active(), ..wrapped };
        assert_eq!(elsewhere.unwrap_dek(&file, &renamed).unwrap_err(), UnwrapError::Unauthentic(Unauthentic));
    }

    #[test]
    fn an_older_master_key_still_unwraps() {
        let (volume, file, dek) = (Uuid::new_v4(), FileId::random(), Secret::random());
        let (volume_key, old, new) = (Secret::random(), Secret::random(), Secret::random());
        let wrapped = KeyRing::new(volume, &volume_key, &old, &[]).wrap_dek(&file, &dek);
        let rotated = KeyRing::new(volume, &volume_key, &new, &[&old]);
        assert_eq!(rotated.unwrap_dek(&file, &wrapped).unwrap().expose(), dek.expose());
        assert_ne!(rotated.wrap_dek(&file, &dek).key_id, wrapped.key_id);
    }

    #[test]
    fn a_handed_over_key_becomes_the_active_one_in_its_own_volume_alone() {
        let (volume, file, dek) = (Uuid::new_v4(), FileId::random(), Secret::random());
        let (volume_key, old, new) = (Secret::random(), Secret::random(), Secret::random());
        let ring = KeyRing::new(volume, &volume_key, &old, &[]);
        let before = ring.wrap_dek(&file, &dek);
        let handover = Handover::new(volume, &volume_key, &new);
        for at in 0..WrappedSecret::LEN {
            let mut bytes = handover.wrapped.to_bytes();
            bytes[at] ^= 1;
            let wrapped = WrappedSecret::from_bytes(&bytes).unwrap();
            assert_eq!(ring.adopt(&Handover { wrapped, ..handover }), Err(Unauthentic));
        }
        assert_eq!(ring.adopt(&Handover { key_id: before.key_id, ..handover }), Err(Unauthentic));
        assert_eq!(ring.adopt(&Handover::new(Uuid::new_v4(), &volume_key, &new)), Err(Unauthentic));
        assert_eq!(ring.active(), before.key_id);

        ring.adopt(&handover).unwrap();
        ring.adopt(&handover).unwrap();
        let after = ring.wrap_dek(&file, &dek);
        let remounted = KeyRing::new(volume, &volume_key, &new, &[]);
        assert_eq!((after.key_id, ring.active()), (remounted.active(), remounted.active()));
        assert_eq!(remounted.unwrap_dek(&file, &after).unwrap().expose(), dek.expose());
        assert_eq!(ring.unwrap_dek(&file, &before).unwrap().expose(), dek.expose());

        assert_eq!((ring.keep_only(&[before.key_id]), ring.rank(before.key_id)), (0, Some(1)));
        assert_eq!((ring.keep_only(&[]), ring.rank(before.key_id)), (1, None));
        assert_eq!(ring.unwrap_dek(&file, &before).unwrap_err(), UnwrapError::NoSuchKey(before.key_id));
    }
}
