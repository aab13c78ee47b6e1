//! Provider `passphrase`: Argon2id (RFC 9106) turns a passphrase into a slot's key.

use serde::{Deserialize, Serialize};

use super::kek::{self, CHECK, Kek, SALT, base64_array};
use super::{KeyProvider, ProviderError, SlotContext, SlotData, join};
use crate::crypto::kdf::{self, ArgonCost};
use crate::crypto::secret::{Passphrase, Secret};

/// The provider's word in `volume.toml`.
pub const KIND: &str = "passphrase";

/// A passphrase, and what a new slot for it shall cost.
#[derive(Debug)]
pub struct PassphraseProvider {
    passphrase: Passphrase,
    cost: ArgonCost,
}

impl PassphraseProvider {
    /// With the default cost for new slots.
    pub fn new(passphrase: Passphrase) -> Self {
        Self::with_cost(passphrase, ArgonCost::default())
    }

    /// With a chosen cost for new slots. Existing slots have their own.
    pub fn with_cost(passphrase: Passphrase, cost: ArgonCost) -> Self {
        PassphraseProvider { passphrase, cost }
    }

    fn make_slot(
        &self,
        cost: ArgonCost,
        master: &Secret<32>,
        context: &SlotContext,
    ) -> Result<SlotData, ProviderError> {
        let describe = |salt, check| Parameters {
            kdf: KdfName::Argon2id,
            memory_kib: cost.memory_kib(),
            passes: cost.passes(),
            lanes: cost.lanes(),
            salt,
            check,
        };
        Kek::make_slot(master, context, |salt| self.kek(cost, salt), describe)
    }

    /// The slot's keys: the costly step.
    fn kek(&self, cost: ArgonCost, salt: &[u8; SALT]) -> Result<Kek, ProviderError> {
        Ok(Kek::derive(KIND, &kdf::argon2id(&self.passphrase, salt, cost)?, salt))
    }
}

impl KeyProvider for PassphraseProvider {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn describe(&self) -> String {
        "passphrase".into()
    }

    fn wrap(&self, master: &Secret<32>, context: &SlotContext) -> Result<SlotData, ProviderError> {
        self.make_slot(self.cost, master, context)
    }

    fn wrap_like(
        &self,
        slot: &SlotData,
        master: &Secret<32>,
        context: &SlotContext,
    ) -> Result<SlotData, ProviderError> {
        self.make_slot(kek::parameters::<Parameters>(slot)?.cost()?, master, context)
    }

    fn unwrap(&self, slot: &SlotData, context: &SlotContext) -> Option<Result<Secret<32>, ProviderError>> {
        let derive = |parameters: &Parameters| self.kek(parameters.cost()?, &parameters.salt);
        Kek::open_slot(slot, context, derive).transpose()
    }

    fn check(&self) -> Result<(), ProviderError> {
        Ok(())
    }
}

/// A slot's parameters.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Parameters {
    kdf: KdfName,
    memory_kib: u32,
    passes: u32,
    lanes: u32,
    #[serde(with = "base64_array")]
    salt: [u8; SALT],
    #[serde(with = "base64_array")]
    check: [u8; CHECK],
}

/// Derivations that slots may name.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum KdfName {
    /// Argon2id, version 0x13.
    Argon2id,
}

impl Parameters {
    /// Bounds are checked before anything is allocated.
    fn cost(&self) -> Result<ArgonCost, ProviderError> {
        Ok(ArgonCost::new(self.memory_kib, self.passes, self.lanes)?)
    }
}

impl kek::Parameters for Parameters {
    fn check(&self) -> &[u8; CHECK] {
        &self.check
    }

    fn encode(&self) -> Vec<u8> {
        let KdfName::Argon2id = self.kdf;
        let [memory, passes, lanes] = [self.memory_kib, self.passes, self.lanes].map(u32::to_le_bytes);
        join(&[b"argon2id", &memory, &passes, &lanes, &self.salt, &self.check])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::kdf::CostError;
    use uuid::Uuid;

    #[test]
    fn the_next_versions_slot_costs_what_the_last_one_did() {
        let provider = |cost| PassphraseProvider::with_cost(Passphrase::new(b"x").unwrap(), cost);
        let context = SlotContext { volume: Uuid::nil(), key_version: 1, slot: 1 };
        let slot = provider(ArgonCost::new(32, 2, 2).unwrap()).wrap(&Secret::random(), &context).unwrap();
        let next = provider(ArgonCost::new(8, 1, 1).unwrap()).wrap_like(&slot, &Secret::random(), &context).unwrap();
        for name in ["memory_kib", "passes", "lanes"] {
            assert_eq!(next.parameters[name], slot.parameters[name], "{name}");
        }
        assert_ne!(next.parameters["salt"], slot.parameters["salt"]);
    }

    #[test]
    fn absurd_stored_costs_are_refused_before_any_work() {
        let cost = ArgonCost::new(8, 1, 1).unwrap();
        let provider = PassphraseProvider::with_cost(Passphrase::new(b"x").unwrap(), cost);
        let context = SlotContext { volume: Uuid::nil(), key_version: 1, slot: 1 };
        let slot = provider.wrap(&Secret::random(), &context).unwrap();
        for (name, value) in [
            ("memory_kib", i64::from(u32::MAX)),
            ("memory_kib", 4 * 1024 * 1024 + 1),
            ("memory_kib", 0),
            ("passes", i64::from(u32::MAX)),
            ("passes", 0),
            ("lanes", i64::from(u32::MAX)),
            ("lanes", 0),
        ] {
            let mut absurd = slot.clone();
            absurd.parameters.insert(name.into(), value.into());
            let refused = provider.unwrap(&absurd, &context);
            assert!(
                matches!(refused, Some(Err(ProviderError::Cost(CostError::OutOfBounds { .. })))),
                "{name} = {value}: {refused:?}"
            );
        }
        for value in [-1, 1 << 32, i64::MAX] {
            let mut absurd = slot.clone();
            absurd.parameters.insert("memory_kib".into(), value.into());
            assert!(matches!(provider.unwrap(&absurd, &context), Some(Err(ProviderError::Malformed(_)))));
        }
    }
}
