//! The life of a master key after its first day: the next version, and the end of the last one (NIST SP 800-57 part 1, section 7).
//!
//! Every step is one replacement of the description, so a crash leaves the state before or after it. What happens to the headers in
//! between is [`crate::fs`]'s matter, and can be done again at any time: a header names the master key that its DEK is wrapped under.

use uuid::Uuid;

use super::description::{self, Description, Document, MasterKey};
use super::{KeySlot, KeyState, NewSlot, Result, Unlocked, Volume, VolumeError};
use super::{mac_key, make_slot, volume_key_aad, volume_wrap, wrap_volume_key};
use crate::crypto::aead;
use crate::crypto::secret::Secret;
use crate::keys::{Credentials, Handover, KeyId, KeyRing, SlotContext};

/// A new version of the master key, in force.
#[derive(Debug)]
pub struct Rotation {
    /// Its number.
    pub version: u32,
    /// The keys of the volume from now on.
    pub unlocked: Unlocked,
    /// Slots that the new version does not have, because no credential for them was given.
    pub left_behind: Vec<u32>,
}

impl Volume {
    /// Makes the next version of the master key and puts it in force: what is wrapped from now on is wrapped under it. The version before
    /// only unwraps from now on. Every slot is wrapped anew by the credential that opens it; with `leave_behind`, slots
    /// that none opens stay with the version before.
    ///
    /// # Errors
    /// [`VolumeError::SlotsLeft`] names the slots without a credential; the volume is then as before, as after any error.
    pub fn rotate(&mut self, keys: &Unlocked, credentials: &Credentials, leave_behind: bool) -> Result<Rotation> {
        let mut description = self.description().clone();
        let uuid = description.uuid();
        let old = description.active()?.clone();
        let old_master = self.current_master(keys)?;
        let volume_key = volume_key(&old, uuid, old_master)?;
        let versions = description.keys().iter().map(|key| key.version);
        let version =
            versions.max().and_then(|last| last.checked_add(1)).ok_or(VolumeError::NoSuchVersion(u32::MAX))?;

        let master = Secret::random();
        let (mut slots, mut left) = (Vec::new(), Vec::new());
        for slot in &old.slots {
            match wrap_again(uuid, slot, (old.version, old_master), (version, &master), credentials)? {
                Some(new) => slots.push(new),
                None => left.push(slot),
            }
        }
        if slots.is_empty() || (!left.is_empty() && !leave_behind) {
            let slots = left.iter().map(|slot| (slot.id, slot.provider.clone())).collect();
            return Err(VolumeError::SlotsLeft { slots });
        }
        let left_behind = left.iter().map(|slot| slot.id).collect();
        let id = KeyId::of(&master, uuid);
        let before = description.key_mut(old.version)?;
        (before.state, before.deactivated) = (KeyState::Deactivated, Some(description::now()));
        description.push_key(MasterKey {
            id,
            version,
            state: KeyState::Active,
            created: description::now(),
            deactivated: None,
            retired: None,
            destroyed: None,
            volume_key: Some(wrap_volume_key(&master, uuid, id, &volume_key)),
            slots,
        });
        self.put(description, &master)?;

        let slot = keys.slot;
        let mut masters = vec![(version, master)];
        masters.extend(keys.masters.iter().map(|(version, master)| (*version, copy(master))));
        let ring = ring(self.description(), &volume_key, &masters)?;
        Ok(Rotation { version, unlocked: Unlocked { ring, slot, masters }, left_behind })
    }

    /// The active master key for a daemon that has the volume mounted.
    ///
    /// # Errors
    /// [`VolumeError`] if the keys are not the volume's.
    pub fn handover(&self, keys: &Unlocked) -> Result<Handover> {
        let (uuid, master) = (self.description().uuid(), self.current_master(keys)?);
        let volume_key = volume_key(self.description().active()?, uuid, master)?;
        Ok(Handover::new(uuid, &volume_key, master))
    }

    /// Notes that no header needs a version any more, which the caller has made sure of; the grace period counts from now. `compromised`
    /// notes as well that others know it.
    ///
    /// # Errors
    /// [`VolumeError::Active`] for the version in force.
    pub fn retire(&mut self, keys: &Unlocked, version: u32, compromised: bool) -> Result<()> {
        self.replace(keys, |_, description| {
            let key = not_active(description, version)?;
            key.retired = key.retired.or(Some(description::now()));
            if compromised {
                key.state = KeyState::Compromised;
            }
            Ok(())
        })
    }

    /// Notes that others know a version. It goes on to unwrap.
    ///
    /// # Errors
    /// [`VolumeError::Active`] for the version in force: rotate first.
    pub fn mark_compromised(&mut self, keys: &Unlocked, version: u32) -> Result<()> {
        self.replace(keys, |_, description| {
            not_active(description, version)?.state = KeyState::Compromised;
            Ok(())
        })
    }

    /// Destroys a version: its slots go, its record stays. What is wrapped under it alone is lost, and so it is for whoever kept a copy
    /// of files only; a copy of the old description together with a credential still opens it.
    ///
    /// # Errors
    /// [`VolumeError::Active`] for the version in force.
    pub fn destroy(&mut self, keys: &Unlocked, version: u32) -> Result<()> {
        self.replace(keys, |_, description| {
            let key = not_active(description, version)?;
            key.slots.clear();
            (key.state, key.volume_key, key.destroyed) = (KeyState::Destroyed, None, Some(description::now()));
            Ok(())
        })
    }

    /// Wraps a slot anew by another provider, or by the same in another state, in every version that has it. The number stays.
    ///
    /// # Errors
    /// [`VolumeError`]; the volume is then as before.
    pub fn rebind(&mut self, keys: &Unlocked, slot: u32, new: NewSlot<'_>) -> Result<()> {
        if !self.description().keys().iter().any(|key| key.slots.iter().any(|have| have.id == slot)) {
            return Err(VolumeError::NoSuchSlot(slot));
        }
        self.replace(keys, |uuid, description| {
            for key in description.keys_mut().iter_mut().filter(|key| key.state.unwraps()) {
                let Some(place) = key.slots.iter_mut().find(|have| have.id == slot) else { continue };
                let master = keys.master(key.version)?;
                let label = if new.label.is_empty() { place.label.clone() } else { new.label.into() };
                *place = make_slot(uuid, master, key.version, slot, NewSlot { label: &label, ..new })?;
            }
            Ok(())
        })
    }

    /// The active master key, if `keys` has it.
    pub(super) fn current_master<'a>(&self, keys: &'a Unlocked) -> Result<&'a Secret<32>> {
        let active = self.description().active()?;
        keys.master(active.version)
            .ok()
            .filter(|master| KeyId::of(master, self.description().uuid()) == active.id)
            .ok_or(VolumeError::StillLocked(active.version))
    }

    /// Writes a description, authenticated by its active master key, unless the one on disk is no longer the one that was read.
    pub(super) fn put(&mut self, description: Description, master: &Secret<32>) -> Result<()> {
        let mac_key = mac_key(master, description.uuid());
        let document = Document::new(description, &mac_key)?;
        self.place.replace(self.document.bytes(), document.bytes())?;
        self.document = document;
        Ok(())
    }
}

impl Unlocked {
    /// The master key of a version.
    pub(super) fn master(&self, version: u32) -> Result<&Secret<32>> {
        let found = self.masters.iter().find(|(have, _)| *have == version);
        found.map(|(_, master)| master).ok_or(VolumeError::StillLocked(version))
    }

    /// The versions that were unlocked, the active one first.
    pub fn versions(&self) -> Vec<u32> {
        self.masters.iter().map(|(version, _)| *version).collect()
    }
}

/// The volume key, from a master key.
pub(super) fn volume_key(key: &MasterKey, uuid: Uuid, master: &Secret<32>) -> Result<Secret<32>> {
    let wrapped = key.volume_key.as_ref().ok_or(VolumeError::VolumeKey)?;
    aead::unwrap(&volume_wrap(master, uuid), &volume_key_aad(uuid, key.id), wrapped).map_err(|_| VolumeError::VolumeKey)
}

/// The ring of unlocked master keys, the active one first.
pub(super) fn ring(
    description: &Description,
    volume_key: &Secret<32>,
    masters: &[(u32, Secret<32>)],
) -> Result<std::sync::Arc<KeyRing>> {
    let ((_, active), older) = masters.split_first().ok_or(VolumeError::VolumeKey)?;
    let older: Vec<_> = older.iter().map(|(_, master)| master).collect();
    let ring = KeyRing::new(description.uuid(), volume_key, active, &older);
    ring.learn(description.keys().iter().map(|key| key.id));
    Ok(std::sync::Arc::new(ring))
}

/// The slot for the next version, by the credential that opens this one; `None` if there is none.
fn wrap_again(
    uuid: Uuid,
    slot: &KeySlot,
    (old_version, old_master): (u32, &Secret<32>),
    (version, master): (u32, &Secret<32>),
    credentials: &Credentials,
) -> Result<Option<KeySlot>> {
    let (old, new) = (slot.data(), SlotContext { volume: uuid, key_version: version, slot: slot.id });
    for provider in credentials.iter().filter(|provider| provider.kind() == slot.provider) {
        let opened = match provider.unwrap(&old, &SlotContext { key_version: old_version, ..new }) {
            Some(Ok(opened)) => opened,
            Some(Err(source)) => {
                tracing::warn!(slot = slot.id, error = %source, "a key slot does not open");
                continue;
            }
            None => continue,
        };
        if KeyId::of(&opened, uuid) != KeyId::of(old_master, uuid) {
            return Err(VolumeError::ForeignKey { slot: slot.id });
        }
        let data = provider.wrap_like(&old, master, &new).map_err(VolumeError::CannotWrap)?;
        let (id, provider, label) = (slot.id, slot.provider.clone(), slot.label.clone());
        let created = description::now();
        return Ok(Some(KeySlot { id, provider, label, created, wrapped: data.wrapped, parameters: data.parameters }));
    }
    Ok(None)
}

fn not_active(description: &mut Description, version: u32) -> Result<&mut MasterKey> {
    let key = description.key_mut(version)?;
    match key.state {
        KeyState::Active => Err(VolumeError::Active(version)),
        KeyState::Destroyed => Err(VolumeError::Destroyed(version)),
        KeyState::PreActive | KeyState::Deactivated | KeyState::Compromised => Ok(key),
    }
}

fn copy(secret: &Secret<32>) -> Secret<32> {
    Secret::fill_with(|out| out.copy_from_slice(secret.expose()))
}
