//! The contract that every [`KeyProvider`] keeps, as a test to be called with providers set up for it.
//!
//! [`keep`] asserts: a slot opens with the credential that made it and with no other; it is bound to volume, key version and slot
//! number, to each bit of the wrapped key and to each of its parameters, nested ones too; no parameter may be missing or too many; a key of
//! zeros is not wrapped; several threads may use one provider; nothing a provider says holds key bytes. What happens when a provider's
//! other end is down, slow or lying is for the provider's own tests.

use base64::Engine;
use base64::prelude::{BASE64_STANDARD_NO_PAD, BASE64_URL_SAFE_NO_PAD};
use uuid::Uuid;

use super::{KeyProvider, ProviderError, SlotContext, SlotData};
use crate::crypto::secret::Secret;

/// What may differ between providers, and how thorough the test is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Contract<'a> {
    /// At most so many damaged variants of the wrapped key, spread evenly; `usize::MAX` for each bit. Each costs an unwrap.
    pub(crate) samples: usize,
    /// Threads that wrap and unwrap at once, and how often each does.
    pub(crate) threads: usize,
    /// Times that each thread wraps and unwraps.
    pub(crate) rounds: usize,
    /// The provider tells another credential's slot from a damaged one of its own: it gives `None` for it. One that asks a service
    /// which does not say so gives an error.
    pub(crate) knows_its_own: bool,
    /// Damage and a wrong place are [`ProviderError::Unauthentic`]. Where a service's word for them is passed on, any error will do.
    pub(crate) authenticates: bool,
    /// The provider's own secrets, which no text of it may hold.
    pub(crate) secrets: &'a [&'a [u8]],
}

impl Contract<'_> {
    /// For a provider that computes by itself.
    pub(crate) const LOCAL: Contract<'static> =
        Contract { samples: usize::MAX, threads: 4, rounds: 8, knows_its_own: true, authenticates: true, secrets: &[] };

    /// For a provider behind a network or a device, where each call takes its time.
    #[allow(dead_code, reason = "each remote provider is a feature for itself")]
    pub(crate) const REMOTE: Contract<'static> =
        Contract { samples: 24, threads: 3, rounds: 2, knows_its_own: false, authenticates: false, secrets: &[] };
}

/// The place that the slots of this test are made for.
pub(crate) const PLACE: SlotContext = SlotContext { volume: Uuid::from_bytes([7; 16]), key_version: 1, slot: 2 };

/// Asserts the contract. `same` has the same credential as `ours` and was set up for itself; `other` has another one of the same kind.
pub(crate) fn keep(ours: &dyn KeyProvider, same: &dyn KeyProvider, other: &dyn KeyProvider, contract: &Contract<'_>) {
    let master = Secret::random();
    let silent = Silence { contract, master: &master };
    ours.check().expect("ready for use");
    same.check().expect("ready for use");
    assert_eq!(ours.kind(), same.kind());
    for provider in [ours, same, other] {
        silent.holds(&provider.describe());
    }

    // Right and wrong credential.
    let slot = ours.wrap(&master, &PLACE).expect("wraps");
    assert_ne!(slot, ours.wrap(&master, &PLACE).expect("wraps again"), "wrapping is not deterministic");
    silent.holds(&format!("{slot:?}"));
    assert!(!contains(&slot.wrapped, master.expose()), "wrapped is not in the clear");
    let opened = same.unwrap(&slot, &PLACE).expect("its own slot").expect("opens");
    assert_eq!(opened.expose(), master.expose());
    match other.unwrap(&slot, &PLACE) {
        None => {}
        Some(Ok(_)) => panic!("another credential opens the slot"),
        Some(Err(error)) => {
            assert!(!contract.knows_its_own, "another's slot is passed over, not an error: {error}");
            silent.says(&error);
        }
    }
    // The next version of the master key.
    let (next, next_place) = (Secret::random(), SlotContext { key_version: PLACE.key_version + 1, ..PLACE });
    let like = ours.wrap_like(&slot, &next, &next_place).expect("wraps in the same way");
    assert_eq!(same.unwrap(&like, &next_place).expect("its own slot").expect("opens").expose(), next.expose());

    let refused = |what: &str, outcome: Option<Result<Secret<32>, ProviderError>>| match outcome {
        None => assert!(!contract.authenticates, "{what}: the provider does not know its own slot"),
        Some(Ok(_)) => panic!("{what}: the slot opens all the same"),
        Some(Err(error)) => {
            silent.says(&error);
            let is_class = matches!(error, ProviderError::Unauthentic(_));
            assert!(
                is_class || !contract.authenticates,
                "{what}: {error:?} is not the class for wrong key, place or bytes"
            );
        }
    };
    // Another volume's context is that of a slot which was copied from there.
    refused("another volume", same.unwrap(&slot, &SlotContext { volume: Uuid::from_bytes([8; 16]), ..PLACE }));
    refused("another key version", same.unwrap(&slot, &SlotContext { key_version: PLACE.key_version + 1, ..PLACE }));
    refused("another slot number", same.unwrap(&slot, &SlotContext { slot: PLACE.slot - 1, ..PLACE }));

    // Each bit of the wrapped key, and other lengths.
    let bits = slot.wrapped.len() * 8;
    for bit in (0..bits).step_by(bits.div_ceil(contract.samples.min(bits).max(1)).max(1)) {
        let mut changed = slot.clone();
        changed.wrapped[bit / 8] ^= 1 << (bit % 8);
        refused(&format!("bit {bit} of the wrapped key"), same.unwrap(&changed, &PLACE));
    }
    for len in [0, 1, slot.wrapped.len().saturating_sub(1), slot.wrapped.len() + 1] {
        let mut changed = slot.clone();
        changed.wrapped.resize(len, 0);
        if changed.wrapped != slot.wrapped {
            not_opened(&format!("{len} bytes of wrapped key"), same.unwrap(&changed, &PLACE), &silent);
        }
    }
    // Each parameter changed or gone, one too many, and all of another slot.
    for (what, parameters) in variants(&slot.parameters) {
        let changed = SlotData { parameters, wrapped: slot.wrapped.clone() };
        not_opened(&what, same.unwrap(&changed, &PLACE), &silent);
    }
    let another = ours.wrap(&next, &PLACE).expect("wraps");
    if another.parameters != slot.parameters {
        let mixed = SlotData { parameters: another.parameters, wrapped: slot.wrapped.clone() };
        not_opened("parameters of another slot", same.unwrap(&mixed, &PLACE), &silent);
    }

    let zero = Secret::fill_with(|_| ());
    assert!(matches!(ours.wrap(&zero, &PLACE), Err(ProviderError::ZeroKey)), "a key of zeros is not wrapped");

    std::thread::scope(|scope| {
        for thread in 0..contract.threads {
            scope.spawn(move || {
                for round in 0..contract.rounds {
                    let place = SlotContext { slot: (1000 * thread + round) as u32, ..PLACE };
                    let master = Secret::random();
                    let slot = ours.wrap(&master, &place).expect("wraps beside others");
                    let opened = ours.unwrap(&slot, &place).expect("its own slot").expect("opens beside others");
                    assert_eq!(opened.expose(), master.expose());
                }
            });
        }
    });
}

fn not_opened(what: &str, outcome: Option<Result<Secret<32>, ProviderError>>, silent: &Silence<'_>) {
    match outcome {
        None => {}
        Some(Ok(_)) => panic!("{what}: the slot opens all the same"),
        Some(Err(error)) => silent.says(&error),
    }
}

/// Damaged variants of a slot's parameters: what was done, and the outcome.
pub(crate) fn variants(table: &toml::Table) -> Vec<(String, toml::Table)> {
    let mut variants = Vec::new();
    let mut more = table.clone();
    more.insert("more".into(), 1.into());
    variants.push(("one more parameter".into(), more));
    for (name, value) in table {
        let mut gone = table.clone();
        gone.remove(name);
        variants.push((format!("{name} gone"), gone));
        for (what, value) in changed(value) {
            let mut changed = table.clone();
            changed.insert(name.clone(), value);
            variants.push((format!("{name} {what}"), changed));
        }
    }
    variants
}

fn changed(value: &toml::Value) -> Vec<(String, toml::Value)> {
    let one = |value: toml::Value| vec![("changed".to_owned(), value)];
    match value {
        toml::Value::Integer(n) => one((n ^ 1).into()),
        toml::Value::Float(n) => one((n + 1.0).into()),
        toml::Value::Boolean(b) => one((!b).into()),
        toml::Value::Datetime(_) => one("1979-05-27".into()),
        toml::Value::String(text) => {
            let first = text.chars().next();
            let rest: String = text.chars().skip(1).collect();
            let other = if first == Some('A') { 'B' } else { 'A' };
            vec![
                ("changed".into(), format!("{other}{rest}").into()),
                ("with one more".into(), format!("{text}A").into()),
            ]
        }
        toml::Value::Array(items) => {
            let mut variants = vec![];
            for at in 0..items.len() {
                let mut gone = items.clone();
                gone.remove(at);
                variants.push((format!("without item {at}"), gone.into()));
                for (what, value) in changed(&items[at]) {
                    let mut changed = items.clone();
                    changed[at] = value;
                    variants.push((format!("item {at} {what}"), changed.into()));
                }
                if at > 0 && items[at] != items[at - 1] {
                    let mut swapped = items.clone();
                    swapped.swap(at - 1, at);
                    variants.push((format!("items {} and {at} swapped", at - 1), swapped.into()));
                }
            }
            let mut twice = items.clone();
            twice.extend(items.last().cloned());
            variants.push(("with an item twice".into(), twice.into()));
            variants
        }
        toml::Value::Table(table) => variants(table).into_iter().map(|(what, table)| (what, table.into())).collect(),
    }
}

/// Looks for key bytes in what a provider says.
struct Silence<'a> {
    contract: &'a Contract<'a>,
    master: &'a Secret<32>,
}

impl Silence<'_> {
    fn says(&self, error: &ProviderError) {
        let mut text = format!("{error:?} {error} {:?}", error.remedy());
        let mut source = std::error::Error::source(error);
        while let Some(cause) = source {
            text += &format!(" {cause} {cause:?}");
            source = cause.source();
        }
        self.holds(&text);
    }

    fn holds(&self, text: &str) {
        let secrets = self.contract.secrets.iter().copied().chain([&self.master.expose()[..]]);
        for secret in secrets.filter(|secret| !secret.is_empty()) {
            let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
            let lower = text.to_lowercase();
            assert!(!contains(text.as_bytes(), secret) && !lower.contains(&hex), "a secret is in {text:?}");
            // In Debug form, and encoded: without the last characters, which depend on what follows.
            let listed = format!("{secret:?}");
            assert!(!text.contains(listed.trim_matches(['[', ']'])) || secret.len() < 4, "a secret is in {text:?}");
            for encoded in [BASE64_STANDARD_NO_PAD.encode(secret), BASE64_URL_SAFE_NO_PAD.encode(secret)] {
                assert!(!text.contains(&encoded[..encoded.len() - 1]), "a secret is in {text:?}");
            }
        }
    }
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

/// A contract that nobody can break proves nothing.
mod tests {
    use super::*;

    /// Wraps by exclusive or with a byte: bound to what it is told to be bound to.
    struct Careless {
        binds_place: bool,
        binds_parameters: bool,
    }

    impl Careless {
        fn tag(&self, context: &SlotContext, parameters: &toml::Table) -> Vec<u8> {
            let place = if self.binds_place { context.encode() } else { Vec::new() };
            let parameters = if self.binds_parameters { parameters.to_string() } else { String::new() };
            [place, parameters.into_bytes()].concat()
        }
    }

    impl KeyProvider for Careless {
        fn kind(&self) -> &'static str {
            "careless"
        }

        fn describe(&self) -> String {
            "careless".into()
        }

        fn wrap(&self, master: &Secret<32>, context: &SlotContext) -> Result<SlotData, ProviderError> {
            if master.is_zero() {
                return Err(ProviderError::ZeroKey);
            }
            let mut parameters = toml::Table::new();
            parameters.insert("salt".into(), format!("{:?}", std::time::Instant::now()).into());
            let mut wrapped: Vec<u8> = master.expose().iter().map(|byte| byte ^ 0x55).collect();
            wrapped.extend_from_slice(master.expose().map(|byte| byte ^ 0xaa).as_slice());
            wrapped.extend(self.tag(context, &parameters));
            Ok(SlotData { parameters, wrapped })
        }

        fn unwrap(&self, slot: &SlotData, context: &SlotContext) -> Option<Result<Secret<32>, ProviderError>> {
            let tag = self.tag(context, &slot.parameters);
            let bad = || Some(Err(crate::crypto::Unauthentic.into()));
            let Some((key, rest)) = slot.wrapped.split_at_checked(64) else { return bad() };
            let twice = (0..32).all(|at| key[at] == !key[at + 32]);
            if rest != tag || !twice {
                return bad();
            }
            Some(Ok(Secret::fill_with(|out| (0..32).for_each(|at| out[at] = key[at] ^ 0x55))))
        }

        fn check(&self) -> Result<(), ProviderError> {
            Ok(())
        }
    }

    fn try_with(binds_place: bool, binds_parameters: bool, other: &dyn KeyProvider) {
        let make = || Careless { binds_place, binds_parameters };
        keep(&make(), &make(), other, &Contract::REMOTE);
    }

    #[test]
    #[should_panic(expected = "another credential opens the slot")]
    fn a_provider_that_anybody_opens_is_found_out() {
        try_with(true, true, &Careless { binds_place: true, binds_parameters: true });
    }

    #[test]
    #[should_panic(expected = "another volume: the slot opens all the same")]
    fn a_provider_that_ignores_the_place_is_found_out() {
        try_with(false, true, &Stranger);
    }

    #[test]
    #[should_panic(expected = "one more parameter: the slot opens all the same")]
    fn a_provider_that_ignores_its_parameters_is_found_out() {
        try_with(true, false, &Stranger);
    }

    /// Opens nothing.
    struct Stranger;

    impl KeyProvider for Stranger {
        fn kind(&self) -> &'static str {
            "careless"
        }

        fn describe(&self) -> String {
            "stranger".into()
        }

        fn wrap(&self, _: &Secret<32>, _: &SlotContext) -> Result<SlotData, ProviderError> {
            Err(ProviderError::ZeroKey)
        }

        fn unwrap(&self, _: &SlotData, _: &SlotContext) -> Option<Result<Secret<32>, ProviderError>> {
            None
        }

        fn check(&self) -> Result<(), ProviderError> {
            Ok(())
        }
    }
}
