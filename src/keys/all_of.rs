//! Provider `all-of`: one slot that needs two or more providers together, so that none of their secrets alone opens the volume.
//!
//! Each part wraps a random key of its own for the same volume, key version and slot, as it would wrap a master key. The slot's secret is
//! HKDF-SHA-256 over all of those keys in order (the concatenation of SP 800-56C, section 2: whoever lacks one of them knows nothing of
//! the result), and from there on the slot is like that of a key file. The number, the kinds and the order of the parts, with all that each of them
//! keeps in the slot, are bound as associated data.

use serde::{Deserialize, Serialize};

use super::kek::{self, CHECK, Kek, SALT, base64_array, base64_bytes};
use super::{KeyProvider, ProviderError, ProviderSpec, SlotContext, SlotData, SpecError, join};
use crate::crypto::kdf;
use crate::crypto::secret::Secret;

/// The provider's word in `volume.toml`.
pub const KIND: &str = "all-of";
/// Most parts.
pub const MAX_PARTS: usize = kdf::MAX_KEYS;

/// Providers that are needed together.
pub struct AllOf {
    parts: Vec<Box<dyn KeyProvider>>,
}

impl AllOf {
    /// Opens the parts that a specification names, in its order: `all-of:?part=…&part=…`, or tables `[[part]]` in a file.
    ///
    /// # Errors
    /// Those of `open`, which opens a part; [`ProviderError::Spec`] if there are not between two and [`MAX_PARTS`].
    pub fn open<E: From<ProviderError>>(
        mut spec: ProviderSpec,
        mut open: impl FnMut(ProviderSpec) -> Result<Box<dyn KeyProvider>, E>,
    ) -> Result<Self, E> {
        let parts = std::mem::take(&mut spec.parts);
        let wrong = |name: &str, expected| SpecError::Value { name: name.into(), expected };
        let unwanted = (!spec.target.is_empty()).then(|| wrong("target", "empty"));
        unwanted.map_or_else(|| spec.finish(), Err).map_err(ProviderError::from)?;
        if !(2..=MAX_PARTS).contains(&parts.len()) {
            return Err(ProviderError::from(wrong("part", "there two to eight times")).into());
        }
        Ok(AllOf { parts: parts.into_iter().map(&mut open).collect::<Result<_, E>>()? })
    }

    /// Makes a slot, `wrap` wrapping a part's key.
    fn make(
        &self,
        master: &Secret<32>,
        context: &SlotContext,
        mut wrap: impl FnMut(usize, &dyn KeyProvider, &Secret<32>) -> Result<SlotData, ProviderError>,
    ) -> Result<SlotData, ProviderError> {
        if master.is_zero() {
            return Err(ProviderError::ZeroKey);
        }
        let mut keys = Vec::with_capacity(self.parts.len());
        let mut parts = Vec::with_capacity(self.parts.len());
        for (at, provider) in self.parts.iter().enumerate() {
            let key = Secret::random();
            let data = wrap(at, &**provider, &key)?;
            parts.push(Part { provider: provider.kind().into(), wrapped: data.wrapped, parameters: data.parameters });
            keys.push(key);
        }
        let derive = |salt: &[u8; SALT]| Ok(kek(&keys, salt));
        Kek::make_slot(master, context, derive, |salt, check| Parameters { salt, check, part: parts })
    }

    /// The keys of all parts; `None` if a part is not this provider's.
    fn part_keys(&self, parts: &[Part], context: &SlotContext) -> Result<Option<Vec<Secret<32>>>, ProviderError> {
        if !self.are_of_kinds(parts) {
            return Ok(None);
        }
        let mut keys = Vec::with_capacity(parts.len());
        for (at, (provider, part)) in self.parts.iter().zip(parts).enumerate() {
            match provider.unwrap(&part.data(), context) {
                Some(Ok(key)) if key.is_zero() => return Err(ProviderError::ZeroKey),
                Some(Ok(key)) => keys.push(key),
                Some(Err(error)) => return Err(error),
                None => {
                    // One that opens and one that does not: most likely one wrong credential, which is worth a word.
                    if at > 0 {
                        let (slot, part, with) = (context.slot, at + 1, provider.describe());
                        tracing::warn!(slot, part, with, "a part of a key slot does not open, those before it do");
                    }
                    return Ok(None);
                }
            }
        }
        Ok(Some(keys))
    }

    fn are_of_kinds(&self, parts: &[Part]) -> bool {
        self.parts.iter().map(|provider| provider.kind()).eq(parts.iter().map(|part| part.provider.as_str()))
    }

    fn parse(slot: &SlotData) -> Result<Parameters, ProviderError> {
        let malformed = |error: toml::de::Error| ProviderError::Malformed(error.message().into());
        slot.parameters.clone().try_into().map_err(malformed)
    }

    fn unwrap_all(&self, slot: &SlotData, context: &SlotContext) -> Result<Option<Secret<32>>, ProviderError> {
        // Twice parsed, here for the parts and in `open_slot` for what is bound: the same text both times.
        let Some(keys) = self.part_keys(&Self::parse(slot)?.part, context)? else { return Ok(None) };
        Kek::open_slot(slot, context, |parameters: &Parameters| Ok(kek(&keys, &parameters.salt)))
    }
}

fn kek(keys: &[Secret<32>], salt: &[u8; SALT]) -> Kek {
    Kek::derive(KIND, &kdf::derive_from_all(keys, salt, kdf::ALL_OF), salt)
}

impl KeyProvider for AllOf {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn describe(&self) -> String {
        let parts: Vec<String> = self.parts.iter().map(|part| part.describe()).collect();
        format!("all of ({})", parts.join(" + "))
    }

    fn is_machine_bound(&self) -> bool {
        self.parts.iter().any(|part| part.is_machine_bound())
    }

    fn wrap(&self, master: &Secret<32>, context: &SlotContext) -> Result<SlotData, ProviderError> {
        self.make(master, context, |_, provider, key| provider.wrap(key, context))
    }

    fn wrap_like(
        &self,
        slot: &SlotData,
        master: &Secret<32>,
        context: &SlotContext,
    ) -> Result<SlotData, ProviderError> {
        let old = Self::parse(slot)?.part;
        if !self.are_of_kinds(&old) {
            return Err(ProviderError::Malformed("the slot was made with other parts".into()));
        }
        self.make(master, context, |at, provider, key| match old.get(at) {
            Some(part) => provider.wrap_like(&part.data(), key, context),
            None => provider.wrap(key, context),
        })
    }

    fn unwrap(&self, slot: &SlotData, context: &SlotContext) -> Option<Result<Secret<32>, ProviderError>> {
        self.unwrap_all(slot, context).transpose()
    }

    fn check(&self) -> Result<(), ProviderError> {
        self.parts.iter().try_for_each(|part| part.check())
    }
}

/// A slot's parameters.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Parameters {
    #[serde(with = "base64_array")]
    salt: [u8; SALT],
    #[serde(with = "base64_array")]
    check: [u8; CHECK],
    part: Vec<Part>,
}

/// What one provider keeps in the slot.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Part {
    provider: String,
    #[serde(with = "base64_bytes")]
    wrapped: Vec<u8>,
    #[serde(default)]
    parameters: toml::Table,
}

impl Part {
    fn data(&self) -> SlotData {
        SlotData { parameters: self.parameters.clone(), wrapped: self.wrapped.clone() }
    }
}

impl kek::Parameters for Parameters {
    fn check(&self) -> &[u8; CHECK] {
        &self.check
    }

    fn encode(&self) -> Vec<u8> {
        let parts: Vec<Vec<u8>> = self
            .part
            .iter()
            .map(|part| join(&[part.provider.as_bytes(), &part.wrapped, &encode_table(&part.parameters)]))
            .collect();
        let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
        join(&[&self.salt, &self.check, &join(&parts)])
    }
}

/// One encoding for each table, whatever the library that wrote it: names in the order of their bytes, values with their type.
fn encode_table(table: &toml::Table) -> Vec<u8> {
    let mut fields: Vec<(&String, Vec<u8>)> = table.iter().map(|(name, value)| (name, encode_value(value))).collect();
    fields.sort_unstable();
    let fields: Vec<&[u8]> = fields.iter().flat_map(|(name, value)| [name.as_bytes(), value.as_slice()]).collect();
    join(&fields)
}

fn encode_value(value: &toml::Value) -> Vec<u8> {
    let (tag, bytes): (&[u8], Vec<u8>) = match value {
        toml::Value::String(text) => (b"s", text.clone().into_bytes()),
        toml::Value::Integer(n) => (b"i", n.to_le_bytes().to_vec()),
        toml::Value::Float(n) => (b"f", n.to_bits().to_le_bytes().to_vec()),
        toml::Value::Boolean(b) => (b"b", vec![u8::from(*b)]),
        toml::Value::Datetime(at) => (b"d", at.to_string().into_bytes()),
        toml::Value::Array(items) => {
            let items: Vec<Vec<u8>> = items.iter().map(encode_value).collect();
            (b"a", join(&items.iter().map(Vec::as_slice).collect::<Vec<_>>()))
        }
        toml::Value::Table(table) => (b"t", encode_table(table)),
    };
    join(&[tag, &bytes])
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::super::contract::{self, Contract, PLACE};
    use super::super::{KeyFile, PassphraseProvider};
    use super::*;
    use crate::crypto::kdf::ArgonCost;
    use crate::crypto::secret::Passphrase;

    struct Files(tempfile::TempDir);

    impl Files {
        fn new(names: &[&str]) -> Self {
            let dir = tempfile::tempdir().unwrap();
            names.iter().for_each(|name| drop(KeyFile::create(&dir.path().join(name)).unwrap()));
            Files(dir)
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn file(&self, name: &str) -> Box<dyn KeyProvider> {
            Box::new(KeyFile::read(&self.path(name)).unwrap())
        }
    }

    fn words(text: &str) -> Box<dyn KeyProvider> {
        let cost = ArgonCost::new(8, 1, 1).unwrap();
        Box::new(PassphraseProvider::with_cost(Passphrase::new(text.as_bytes()).unwrap(), cost))
    }

    fn all(parts: Vec<Box<dyn KeyProvider>>) -> AllOf {
        AllOf { parts }
    }

    #[test]
    fn the_provider_keeps_the_contract() {
        let files = Files::new(&["a", "b"]);
        let key = std::fs::read(files.path("a")).unwrap();
        let make = |file: &str, text: &str| all(vec![files.file(file), words(text), files.file("b")]);
        let contract = Contract { secrets: &[&key, b"open sesame"], ..Contract::LOCAL };
        for other in
            [make("b", "open sesame"), make("a", "open sesamE"), all(vec![files.file("a"), words("open sesame")])]
        {
            contract::keep(&make("a", "open sesame"), &make("a", "open sesame"), &other, &contract);
        }
        // All-of within all-of.
        let nested = || all(vec![words("x"), Box::new(make("a", "open sesame"))]);
        let contract = Contract { threads: 2, rounds: 2, ..contract };
        contract::keep(&nested(), &nested(), &all(vec![words("y"), Box::new(make("a", "open sesame"))]), &contract);
    }

    #[test]
    fn every_part_is_needed_in_its_place() {
        let files = Files::new(&["a", "b", "c"]);
        let of = |names: &[&str]| all(names.iter().map(|name| files.file(name)).collect());
        let ours = of(&["a", "b"]);
        let master = Secret::random();
        let slot = ours.wrap(&master, &PLACE).unwrap();
        assert_eq!(ours.unwrap(&slot, &PLACE).unwrap().unwrap().expose(), master.expose());
        for wrong in [&["b", "a"][..], &["a"], &["a", "b", "c"], &["a", "c"], &["c", "b"], &["a", "a"]] {
            assert!(of(wrong).unwrap(&slot, &PLACE).is_none(), "{wrong:?}");
        }
        // A part alone is a slot of its kind, which opens to its own key, not the master key's.
        let parameters = AllOf::parse(&slot).unwrap();
        let part = files.file("a").unwrap(&parameters.part[0].data(), &PLACE).unwrap().unwrap();
        assert_ne!(part.expose(), master.expose());
    }

    #[test]
    fn parts_swapped_removed_repeated_or_from_another_slot_are_refused() {
        let files = Files::new(&["a"]);
        let ours = all(vec![files.file("a"), files.file("a"), words("x")]);
        let master = Secret::random();
        let (slot, other) = (ours.wrap(&master, &PLACE).unwrap(), ours.wrap(&master, &PLACE).unwrap());
        let parts = |slot: &SlotData| slot.parameters["part"].as_array().unwrap().clone();
        let with = |parts: Vec<toml::Value>| {
            let mut changed = slot.clone();
            changed.parameters.insert("part".into(), parts.into());
            changed
        };
        // The first two parts open with the same key file: order is bound, not only found out by who opens what.
        let mut swapped = parts(&slot);
        swapped.swap(0, 1);
        assert!(!matches!(ours.unwrap(&with(swapped), &PLACE), Some(Ok(_))));
        for at in 0..3 {
            let mut fewer = parts(&slot);
            fewer.remove(at);
            assert!(!matches!(ours.unwrap(&with(fewer.clone()), &PLACE), Some(Ok(_))), "part {at} gone");
            let rest = match at {
                2 => all(vec![files.file("a"), files.file("a")]),
                _ => all(vec![files.file("a"), words("x")]),
            };
            assert!(!matches!(rest.unwrap(&with(fewer), &PLACE), Some(Ok(_))), "part {at} gone on both sides");
            let mut foreign = parts(&slot);
            foreign[at] = parts(&other)[at].clone();
            assert!(!matches!(ours.unwrap(&with(foreign), &PLACE), Some(Ok(_))), "part {at} of another slot");
        }
        assert!(!matches!(ours.unwrap(&with(Vec::new()), &PLACE), Some(Ok(_))));
    }

    #[test]
    fn a_specification_names_the_parts() {
        let files = Files::new(&["a", "b"]);
        let (a, b) = (files.path("a"), files.path("b"));
        let of = |a: &Path, b: &Path| format!("all-of:?part=key-file:{}&part=key-file:{}", a.display(), b.display());
        let ours = super::super::open(of(&a, &b).parse().unwrap()).unwrap();
        let slot = ours.wrap(&Secret::random(), &PLACE).unwrap();
        assert!(ours.unwrap(&slot, &PLACE).unwrap().is_ok());
        let swapped = super::super::open(of(&b, &a).parse().unwrap()).unwrap();
        assert!(swapped.unwrap(&slot, &PLACE).is_none());
        let one = format!("all-of:?part=key-file:{}", a.display());
        let nine = format!("all-of:?{}", vec![format!("part=key-file:{}", a.display()); 9].join("&"));
        for bad in
            ["all-of:", &one, &nine, "all-of:x?part=key-file:/a&part=key-file:/b", "all-of:?part=no:/a&part=no:/b"]
        {
            assert!(super::super::open(bad.parse().unwrap()).is_err(), "{bad}");
        }
    }

    #[test]
    fn different_tables_have_different_encodings() {
        let table = |text: &str| encode_table(&text.parse::<toml::Table>().unwrap());
        assert_eq!(table("a = 1\nb = 'x'"), table("b = 'x'\na = 1"));
        let texts = [
            "",
            "a = 1",
            "a = '1'",
            "a = true",
            "a = 1.0",
            "a = [1]",
            "a = [[1]]",
            "[a]\nb = 1",
            "a = 'b'",
            "ab = ''",
            "a = [1, 1]",
        ];
        for (at, one) in texts.iter().enumerate() {
            assert!(texts[at + 1..].iter().all(|other| table(one) != table(other)), "{one}");
        }
    }
}
