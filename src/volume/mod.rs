#![doc = include_str!("volume.md")]

mod description;
mod error;
mod life;
mod place;

#[cfg(test)]
mod tests;

use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;

use uuid::Uuid;

pub use description::{Description, KeySlot, KeyState, MasterKey};
pub use error::VolumeError;
pub use life::Rotation;
pub use place::VolumeLock;

use crate::crypto::aead;
use crate::crypto::kdf;
use crate::crypto::secret::Secret;
use crate::keys::{Credentials, KeyId, KeyProvider, KeyRing, ProviderError, SlotContext};
use description::Document;
use place::Place;

/// Name of the control directory in the root of a backing directory.
pub const CONTROL_DIR: &str = ".envelopefs";
/// Name of the volume's description in the control directory.
pub const DESCRIPTION_FILE: &str = "volume.toml";
/// Name of the lock file in the control directory.
pub const LOCK_FILE: &str = "lock";

/// Domain of the associated data of the wrapped volume key.
const VOLUME_KEY_DOMAIN: &[u8] = b"envelopefs volume key v1";

type Result<T> = std::result::Result<T, VolumeError>;

/// A slot to be made.
#[derive(Clone, Copy)]
pub struct NewSlot<'a> {
    /// Who wraps.
    pub provider: &'a dyn KeyProvider,
    /// A name for people; may be empty.
    pub label: &'a str,
}

/// A volume as it stands on disk. What it [describes](Self::description) is parsed, not authenticated, until
/// [`unlock`](Self::unlock) succeeds.
#[derive(Debug)]
pub struct Volume {
    place: Place,
    document: Document,
}

/// A volume's keys, after its description was authenticated.
#[derive(Debug)]
pub struct Unlocked {
    ring: Arc<KeyRing>,
    slot: u32,
    /// Versions and master keys, the active one first.
    masters: Vec<(u32, Secret<32>)>,
}

impl Unlocked {
    /// What a mount needs.
    pub fn ring(&self) -> Arc<KeyRing> {
        self.ring.clone()
    }

    /// Number of the slot that was opened.
    pub fn slot(&self) -> u32 {
        self.slot
    }
}

impl Volume {
    /// Makes a volume in an empty directory, with at least one slot.
    ///
    /// An initialisation that was interrupted before it made the description is no obstacle.
    ///
    /// # Errors
    /// [`VolumeError`]; the directory is then not a volume.
    pub fn create(backing: &Path, slots: &[NewSlot<'_>]) -> Result<(Volume, Unlocked)> {
        let place = Place::prepare(backing)?;
        let uuid = uuid::Builder::from_random_bytes(*Secret::random().expose()).into_uuid();
        let (master, volume_key) = (Secret::random(), Secret::random());
        let id = KeyId::of(&master, uuid);
        let mut key = MasterKey {
            id,
            version: 1,
            state: KeyState::Active,
            created: description::now(),
            deactivated: None,
            retired: None,
            destroyed: None,
            volume_key: Some(wrap_volume_key(&master, uuid, id, &volume_key)),
            slots: Vec::new(),
        };
        for (slot, new) in (1..).zip(slots) {
            key.slots.push(make_slot(uuid, &master, key.version, slot, *new)?);
        }
        let description = Description::new(uuid, key);
        let ring = Arc::new(KeyRing::new(uuid, &volume_key, &master, &[]));
        let document = Document::new(description, &mac_key(&master, uuid))?;
        place.create(document.bytes())?;
        Ok((Volume { place, document }, Unlocked { ring, slot: 1, masters: vec![(1, master)] }))
    }

    /// Whether a volume could be made in a directory now: it is there, and empty. Makes the control directory, so that no
    /// credential is asked for or made in vain.
    ///
    /// # Errors
    /// As [`create`](Self::create).
    pub fn check_vacant(backing: &Path) -> Result<()> {
        Place::check_vacant(backing).map(drop)
    }

    /// Finds and parses the volume in a backing directory.
    ///
    /// # Errors
    /// [`VolumeError`].
    pub fn open(backing: &Path) -> Result<Volume> {
        let place = Place::find(backing)?;
        let document = Document::parse(place.read()?)?;
        Ok(Volume { place, document })
    }

    /// What the volume says of itself: for display, not authenticated before [`unlock`](Self::unlock).
    pub fn description(&self) -> &Description {
        self.document.description()
    }

    /// The control directory, for what else is kept there.
    pub fn control(&self) -> BorrowedFd<'_> {
        self.place.control()
    }

    /// Takes the lock that a daemon holds as long as the volume is mounted.
    ///
    /// # Errors
    /// [`VolumeError::InUse`] if another process has it.
    pub fn lock(&self) -> Result<VolumeLock> {
        self.place.lock()
    }

    /// Opens a slot of the active master key with one of the credentials, and verifies the whole description with what it holds.
    /// Older master keys come along as far as the credentials open their slots. `expected` is a pinned UUID.
    ///
    /// # Errors
    /// [`VolumeError`] says whether there was no slot for the credentials, none that they open, a damaged one, or a
    /// description that was changed.
    pub fn unlock(&self, credentials: &Credentials, expected: Option<Uuid>) -> Result<Unlocked> {
        let description = self.description();
        let uuid = description.uuid();
        if let Some(expected) = expected.filter(|expected| *expected != uuid) {
            return Err(VolumeError::OtherVolume { expected, found: uuid });
        }
        let active = description.active()?;
        let (slot, master) = open_slot(uuid, active, credentials)?;
        self.document.verify(&mac_key(&master, uuid)).map_err(|_| VolumeError::Changed { slot })?;
        let volume_key = life::volume_key(active, uuid, &master)?;

        let mut masters = vec![(active.version, master)];
        let mut older: Vec<_> =
            description.keys().iter().filter(|key| key.state.unwraps() && key.version != active.version).collect();
        // Newer ones first, as a ring has them.
        older.sort_by_key(|key| std::cmp::Reverse(key.version));
        for key in older {
            match open_slot(uuid, key, credentials) {
                Ok((_, master)) => masters.push((key.version, master)),
                Err(error) => tracing::warn!(
                    version = key.version,
                    "an older master key stays locked, files that still need it cannot be read: {error}"
                ),
            }
        }
        let ring = life::ring(description, &volume_key, &masters)?;
        Ok(Unlocked { ring, slot, masters })
    }

    /// Adds a slot to every master key that is still of use, and returns its number.
    ///
    /// # Errors
    /// [`VolumeError`]; the volume is then as before.
    pub fn add_slot(&mut self, keys: &Unlocked, new: NewSlot<'_>) -> Result<u32> {
        let slot = self.description().next_slot()?;
        self.replace(keys, |uuid, description| {
            for key in description.keys_mut().iter_mut().filter(|key| key.state.unwraps()) {
                let master = keys.master(key.version)?;
                key.slots.push(make_slot(uuid, master, key.version, slot, new)?);
            }
            Ok(())
        })?;
        Ok(slot)
    }

    /// Whether a slot could be removed.
    ///
    /// # Errors
    /// [`VolumeError::NoSuchSlot`]; [`VolumeError::LastSlot`] if a master key that is still of use would have none left.
    pub fn check_removable(&self, slot: u32) -> Result<()> {
        let has = |key: &&MasterKey| key.slots.iter().any(|have| have.id == slot);
        if !self.description().keys().iter().any(|key| has(&key)) {
            return Err(VolumeError::NoSuchSlot(slot));
        }
        let mut in_use = self.description().keys().iter().filter(|key| key.state.unwraps()).filter(has);
        match in_use.find(|key| key.slots.len() == 1) {
            Some(key) => Err(VolumeError::LastSlot { slot, version: key.version }),
            None => Ok(()),
        }
    }

    /// Removes a slot from every master key.
    ///
    /// Whoever kept a copy of `volume.toml` and has the credential can still unlock with that copy.
    ///
    /// # Errors
    /// As [`check_removable`](Self::check_removable).
    pub fn remove_slot(&mut self, keys: &Unlocked, slot: u32) -> Result<()> {
        self.check_removable(slot)?;
        self.replace(keys, |_, description| {
            description.keys_mut().iter_mut().for_each(|key| key.slots.retain(|have| have.id != slot));
            Ok(())
        })
    }

    /// Writes a changed description, unless the one on disk is no longer the one that was read.
    fn replace(&mut self, keys: &Unlocked, change: impl FnOnce(Uuid, &mut Description) -> Result<()>) -> Result<()> {
        let mut description = self.description().clone();
        let master = self.current_master(keys)?;
        change(description.uuid(), &mut description)?;
        self.put(description, master)
    }
}

/// Tries the slots of one master key with the credentials for their kind.
fn open_slot(uuid: Uuid, key: &MasterKey, credentials: &Credentials) -> Result<(u32, Secret<32>)> {
    let mut broken = None;
    let mut tried = Vec::new();
    for provider in credentials {
        for slot in key.slots.iter().filter(|slot| slot.provider == provider.kind()) {
            let context = SlotContext { volume: uuid, key_version: key.version, slot: slot.id };
            match provider.unwrap(&slot.data(), &context) {
                Some(Ok(master)) if KeyId::of(&master, uuid) == key.id => return Ok((slot.id, master)),
                Some(Ok(_)) => broken = broken.or(Some(VolumeError::ForeignKey { slot: slot.id })),
                Some(Err(source)) => {
                    tracing::warn!(slot = slot.id, provider = provider.describe(), error = %source, "a key slot does not open");
                    let (slot, provider) = (slot.id, slot.provider.clone());
                    let gone = matches!(source, ProviderError::Unreachable { .. });
                    broken = broken.or(Some(match source.is_damage() {
                        true => VolumeError::BrokenSlot { slot, provider, source },
                        false => VolumeError::Provider { slot, provider, source },
                    }));
                    // Its other slots, of which the file may have many, would each wait for it in vain.
                    if gone {
                        break;
                    }
                }
                None => tried.push((slot.id, provider.describe())),
            }
        }
    }
    Err(broken.unwrap_or_else(|| {
        if tried.is_empty() {
            VolumeError::NoSlotFor {
                given: credentials.iter().map(|provider| provider.kind()).collect(),
                present: key.slots.iter().map(|slot| slot.provider.clone()).collect(),
            }
        } else {
            VolumeError::NoneOpens { tried }
        }
    }))
}

fn make_slot(uuid: Uuid, master: &Secret<32>, key_version: u32, slot: u32, new: NewSlot<'_>) -> Result<KeySlot> {
    let context = SlotContext { volume: uuid, key_version, slot };
    let data = new.provider.wrap(master, &context).map_err(VolumeError::CannotWrap)?;
    Ok(KeySlot {
        id: slot,
        provider: new.provider.kind().into(),
        label: new.label.into(),
        created: description::now(),
        wrapped: data.wrapped,
        parameters: data.parameters,
    })
}

fn mac_key(master: &Secret<32>, uuid: Uuid) -> Secret<32> {
    kdf::derive(master, uuid.as_bytes(), &[kdf::CONFIG_MAC])
}

fn volume_wrap(master: &Secret<32>, uuid: Uuid) -> Secret<32> {
    kdf::derive(master, uuid.as_bytes(), &[kdf::VOLUME_WRAP])
}

fn volume_key_aad(uuid: Uuid, id: KeyId) -> Vec<u8> {
    [VOLUME_KEY_DOMAIN, uuid.as_bytes(), &id.0].concat()
}

fn wrap_volume_key(master: &Secret<32>, uuid: Uuid, id: KeyId, volume_key: &Secret<32>) -> aead::WrappedSecret {
    aead::wrap(&volume_wrap(master, uuid), &volume_key_aad(uuid, id), volume_key)
}
