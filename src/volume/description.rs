//! The contents of `volume.toml`: parsing with limits, and the text that the MAC covers.

use std::collections::BTreeSet;
use std::fmt;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::error::VolumeError;
use crate::crypto::Unauthentic;
use crate::crypto::aead::WrappedSecret;
use crate::crypto::kdf;
use crate::crypto::secret::Secret;
use crate::keys::{KeyId, SlotData};

/// The format version written, and the only one read.
pub(super) const FORMAT: u32 = 1;
/// Names of the features that are understood.
const KNOWN_FEATURES: [&str; 0] = [];
/// Most versions of the master key in one volume.
const MAX_KEYS: usize = 1000;
/// Most slots of one version: each may cost an Argon2 run to try.
const MAX_SLOTS: usize = 32;
/// Most characters of a label.
const MAX_LABEL: usize = 100;

/// What stands between the MAC and the fields.
const COMMENT: &str = "\n# An envelopefs volume. Every byte below the first line is authenticated: change it with the envelopefs command only.\n\n";

/// What a volume says of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Description {
    format: u32,
    features: Vec<String>,
    uuid: Uuid,
    #[serde(rename = "key")]
    keys: Vec<MasterKey>,
}

/// One version of the master key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MasterKey {
    /// Key check value.
    #[serde(with = "as_text")]
    pub id: KeyId,
    /// Counts from 1.
    pub version: u32,
    /// Its state.
    pub state: KeyState,
    /// When it was made.
    pub created: Timestamp,
    /// When it ceased to be the active one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deactivated: Option<Timestamp>,
    /// When it was shown that no header needs it any more; the grace period counts from then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retired: Option<Timestamp>,
    /// When its slots were destroyed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destroyed: Option<Timestamp>,
    /// The volume key, wrapped; a destroyed one has none.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "wrapped_secret")]
    pub(super) volume_key: Option<WrappedSecret>,
    /// Its slots.
    #[serde(rename = "slot", default)]
    pub slots: Vec<KeySlot>,
}

/// State of a master key (SP 800-57 part 1, section 7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeyState {
    /// Made, not yet used.
    PreActive,
    /// Wraps and unwraps.
    Active,
    /// Only unwraps.
    Deactivated,
    /// Known to others: only unwraps, and should be replaced everywhere.
    Compromised,
    /// Gone; only its record is left.
    Destroyed,
}

impl KeyState {
    /// Whether DEKs may be unwrapped with a key in this state.
    pub fn unwraps(self) -> bool {
        match self {
            KeyState::Active | KeyState::Deactivated | KeyState::Compromised => true,
            KeyState::PreActive | KeyState::Destroyed => false,
        }
    }
}

impl fmt::Display for KeyState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            KeyState::PreActive => "pre-active",
            KeyState::Active => "active",
            KeyState::Deactivated => "deactivated",
            KeyState::Compromised => "compromised",
            KeyState::Destroyed => "destroyed",
        })
    }
}

/// A master key wrapped by a provider.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeySlot {
    /// Number of the slot; the same credential has the same one in every version.
    pub id: u32,
    /// Kind of provider.
    pub provider: String,
    /// A name for people.
    pub label: String,
    /// When it was made.
    pub created: Timestamp,
    /// The wrapped key.
    #[serde(with = "as_base64")]
    pub(super) wrapped: Vec<u8>,
    /// The provider's parameters.
    #[serde(default)]
    pub parameters: toml::Table,
}

impl KeySlot {
    /// What the provider put there.
    pub(super) fn data(&self) -> SlotData {
        SlotData { parameters: self.parameters.clone(), wrapped: self.wrapped.clone() }
    }
}

/// The current time, in seconds: more says nothing here.
pub(super) fn now() -> Timestamp {
    Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default()
}

impl Description {
    pub(super) fn new(uuid: Uuid, key: MasterKey) -> Self {
        Description { format: FORMAT, features: Vec::new(), uuid, keys: vec![key] }
    }

    /// Format version.
    pub fn format(&self) -> u32 {
        self.format
    }

    /// Names of the features in use.
    pub fn features(&self) -> &[String] {
        &self.features
    }

    /// Identity of the volume.
    pub fn uuid(&self) -> Uuid {
        self.uuid
    }

    /// The versions of the master key.
    pub fn keys(&self) -> &[MasterKey] {
        &self.keys
    }

    pub(super) fn keys_mut(&mut self) -> &mut [MasterKey] {
        &mut self.keys
    }

    /// A version of the master key.
    pub(super) fn key_mut(&mut self, version: u32) -> Result<&mut MasterKey, VolumeError> {
        self.keys.iter_mut().find(|key| key.version == version).ok_or(VolumeError::NoSuchVersion(version))
    }

    /// Adds a version of the master key.
    pub(super) fn push_key(&mut self, key: MasterKey) {
        self.keys.push(key);
    }

    /// The active master key.
    pub(super) fn active(&self) -> Result<&MasterKey, VolumeError> {
        self.keys
            .iter()
            .find(|key| key.state == KeyState::Active)
            .ok_or_else(|| VolumeError::Malformed("no master key is active".into()))
    }

    /// A number that no slot has.
    pub(super) fn next_slot(&self) -> Result<u32, VolumeError> {
        let last = self.keys.iter().flat_map(|key| &key.slots).map(|slot| slot.id).max().unwrap_or(0);
        last.checked_add(1).ok_or_else(|| VolumeError::Malformed("the slot numbers are used up".into()))
    }

    /// The rules that a table of fields alone does not express.
    fn validate(&self) -> Result<(), String> {
        if self.keys.len() > MAX_KEYS {
            return Err(format!("more than {MAX_KEYS} master keys"));
        }
        if self.keys.iter().filter(|key| key.state == KeyState::Active).count() != 1 {
            return Err("there must be exactly one active master key".into());
        }
        let (mut versions, mut ids) = (BTreeSet::new(), BTreeSet::new());
        for key in &self.keys {
            if !versions.insert(key.version) || !ids.insert(key.id) {
                return Err(format!("master key version {} is there twice", key.version));
            }
            if key.volume_key.is_none() && key.state.unwraps() {
                return Err(format!("master key version {} has no volume key", key.version));
            }
            if key.slots.is_empty() && key.state.unwraps() {
                return Err(format!("master key version {} has no slot", key.version));
            }
            if key.slots.len() > MAX_SLOTS {
                return Err(format!("master key version {} has more than {MAX_SLOTS} slots", key.version));
            }
            let mut slots = BTreeSet::new();
            for slot in &key.slots {
                if !slots.insert(slot.id) {
                    return Err(format!("slot {} is there twice", slot.id));
                }
                if slot.label.chars().count() > MAX_LABEL || slot.label.chars().any(char::is_control) {
                    return Err(format!(
                        "the label of slot {} has control characters or more than {MAX_LABEL} characters",
                        slot.id
                    ));
                }
                let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
                if slot.provider.is_empty() || slot.provider.len() > 32 || !slot.provider.chars().all(word) {
                    return Err(format!("the provider of slot {} is not a word", slot.id));
                }
            }
        }
        Ok(())
    }
}

/// A description together with the text it came from or goes to, and the MAC over that.
#[derive(Debug)]
pub(super) struct Document {
    description: Description,
    bytes: Vec<u8>,
    /// Where the authenticated text begins.
    authenticated: usize,
    mac: [u8; 32],
}

impl Document {
    /// Writes a description and authenticates it.
    pub(super) fn new(description: Description, mac_key: &Secret<32>) -> Result<Self, VolumeError> {
        description.validate().map_err(VolumeError::Malformed)?;
        let fields = toml::to_string(&description).map_err(|error| VolumeError::Malformed(error.to_string()))?;
        let text = format!("{COMMENT}{fields}");
        let mac = kdf::mac(mac_key, text.as_bytes());
        let first = format!("mac = \"{}\"\n", BASE64_URL_SAFE_NO_PAD.encode(mac));
        let authenticated = first.len();
        Ok(Document { description, bytes: (first + &text).into_bytes(), authenticated, mac })
    }

    /// Parses what is on disk, which anybody may have written.
    pub(super) fn parse(bytes: Vec<u8>) -> Result<Self, VolumeError> {
        let malformed = |reason: &str| VolumeError::Malformed(reason.into());
        let text = std::str::from_utf8(&bytes).map_err(|_| malformed("it is not text"))?;
        let (first, rest) = text.split_once('\n').ok_or_else(|| malformed("it is cut off"))?;
        let mac = first
            .strip_prefix("mac = \"")
            .and_then(|rest| rest.strip_suffix('"'))
            .and_then(|mac| BASE64_URL_SAFE_NO_PAD.decode(mac).ok())
            .and_then(|mac| mac.try_into().ok())
            .ok_or_else(|| malformed("its first line is not the MAC"))?;
        let malformed = |error: toml::de::Error| VolumeError::Malformed(error.message().into());
        let table: toml::Table = toml::from_str(rest).map_err(malformed)?;
        // Version and features first: with others, unknown fields are no surprise.
        let gate: Gate = table.clone().try_into().map_err(malformed)?;
        if gate.format != i64::from(FORMAT) {
            return Err(VolumeError::UnknownFormat(gate.format));
        }
        if let Some(unknown) = gate.features.into_iter().find(|name| !KNOWN_FEATURES.contains(&name.as_str())) {
            return Err(VolumeError::UnknownFeature(unknown));
        }
        let description: Description = table.try_into().map_err(malformed)?;
        description.validate().map_err(VolumeError::Malformed)?;
        let authenticated = first.len() + 1;
        Ok(Document { description, authenticated, mac, bytes })
    }

    pub(super) fn description(&self) -> &Description {
        &self.description
    }

    /// The whole file.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Verifies the MAC.
    pub(super) fn verify(&self, mac_key: &Secret<32>) -> Result<(), Unauthentic> {
        let text = self.bytes.get(self.authenticated..).ok_or(Unauthentic)?;
        kdf::verify_mac(mac_key, text, &self.mac)
    }
}

/// What decides whether the rest can be understood.
#[derive(Deserialize)]
struct Gate {
    format: i64,
    features: Vec<String>,
}

mod as_text {
    use super::*;
    use serde::de::Error;
    use serde::{Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(id: &KeyId, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(id)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<KeyId, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

mod as_base64 {
    use super::*;
    use serde::de::Error;
    use serde::{Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&BASE64_URL_SAFE_NO_PAD.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        BASE64_URL_SAFE_NO_PAD.decode(String::deserialize(from)?).map_err(D::Error::custom)
    }
}

mod wrapped_secret {
    use super::*;
    use serde::de::Error;
    use serde::{Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(wrapped: &Option<WrappedSecret>, to: S) -> Result<S::Ok, S::Error> {
        match wrapped {
            Some(wrapped) => as_base64::serialize(&wrapped.to_bytes(), to),
            None => to.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<WrappedSecret>, D::Error> {
        let bytes = as_base64::deserialize(from)?;
        let wrapped = WrappedSecret::from_bytes(&bytes);
        wrapped.map(Some).ok_or_else(|| D::Error::custom("a wrapped key has 60 bytes"))
    }
}
