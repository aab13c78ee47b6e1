//! Provider `recovery`: 32 random bytes on paper, whole or split so that M of N people are needed.
//!
//! The key opens its slot without Argon2: nobody guesses 256 bits. Splitting is Shamir's scheme over GF(256), byte by byte, by the crate
//! vsss-rs: it is maintained, its funded audits' findings are mended (biased coefficients among them, the flaw of RUSTSEC-2024-0398 in the
//! crate sharks), and its field arithmetic has no tables and no branches on secrets. M-1 shares tell nothing of the key.
//!
//! Each share says how many are needed, which one it is, and of which key and volume, so that mixed, missing and repeated shares are told
//! apart; the id of the key is derived from it, so shares that were tampered with to give another key are found out. How a share is
//! written is in `recovery/text.rs`; what is asked and printed is in [`crate::cmd`].

mod text;

use std::convert::Infallible;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use uuid::Uuid;
use vsss_rs::Gf256;
use zeroize::Zeroizing;

use super::kek::{self, CHECK, Kek, SALT, base64_array};
use super::secret_file::{self, Access};
use super::{KeyProvider, ProviderError, ProviderSpec, SlotContext, SlotData, SpecError, join};
use crate::crypto::kdf;
use crate::crypto::secret::Secret;

use text::Share;
pub use text::TextError;

/// The provider's word in `volume.toml`.
pub const KIND: &str = "recovery";
/// Largest file with shares: 255 of them as words, with room for remarks.
const MAX_FILE: usize = 256 << 10;

/// A whole recovery key.
#[derive(Debug)]
pub struct RecoveryKey {
    key: Secret<32>,
    id: [u8; 4],
    volume: [u8; 4],
    threshold: u8,
    count: u8,
}

/// In which form a key is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Groups of letters and digits.
    Text,
    /// Words of a list.
    Words,
}

/// Why shares do not make a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SharesError {
    /// None at all.
    #[error("there is no recovery key and no share of one")]
    None,
    /// Of another key, or with other numbers.
    #[error("{first} and {other} belong to different recovery keys")]
    #[allow(missing_docs)]
    Mixed { first: String, other: String },
    /// The same one again.
    #[error("share {0} was given twice")]
    Twice(u8),
    /// Too few.
    #[error("{threshold} shares are needed, there {}: {}", if .have.len() == 1 { "is one" } else { "are only" }, list(.have))]
    #[allow(missing_docs)]
    TooFew { threshold: u8, have: Vec<u8> },
    /// Correct each for itself, and the key is not the one that they name.
    #[error("the shares do not give the recovery key that they name: one of them was made up or altered")]
    Altered,
    /// Cannot be split so.
    #[error("a key is split into 2 to 255 shares, of which 2 to all are needed")]
    Numbers,
}

fn list(numbers: &[u8]) -> String {
    numbers.iter().map(|number| format!("share {number}")).collect::<Vec<_>>().join(", ")
}

/// Shares read so far: keys or shares, in any order.
#[derive(Debug, Default)]
pub struct Shares(Vec<Share>);

impl Shares {
    /// Reads one key or share.
    ///
    /// # Errors
    /// [`TextError`].
    pub fn add(&mut self, typed: &str) -> Result<(), TextError> {
        self.0.push(Share::parse(typed)?);
        Ok(())
    }

    /// Reads all keys and shares in a text: an empty line is between two of them, and lines that begin with `#` are remarks.
    ///
    /// # Errors
    /// [`TextError`].
    pub fn add_all(&mut self, text: &str) -> Result<(), TextError> {
        // As long as the whole, so that no part of it is left behind in a smaller buffer.
        let mut one = Zeroizing::new(String::with_capacity(text.len() + 1));
        let mut found = false;
        for line in text.lines().map(str::trim).chain([""]) {
            if !line.is_empty() && !line.starts_with('#') {
                one.push_str(line);
                one.push('\n');
            } else if !one.is_empty() {
                self.add(&one)?;
                found = true;
                one.clear();
            }
        }
        if found { Ok(()) } else { Err(TextError::Empty) }
    }

    /// How many more are needed; `None` before the first.
    pub fn missing(&self) -> Option<usize> {
        let needed = usize::from(self.0.first()?.threshold);
        Some(needed.saturating_sub(self.0.len()))
    }

    /// Forgets the last one.
    pub fn forget_last(&mut self) {
        self.0.pop();
    }

    /// What is wrong with the shares so far, apart from their number.
    ///
    /// # Errors
    /// [`SharesError::Mixed`] or [`SharesError::Twice`].
    pub fn check(&self) -> Result<(), SharesError> {
        let Some((first, others)) = self.0.split_first() else { return Ok(()) };
        let name = |share: &Share| match share.threshold {
            1 => format!("the whole key {}", hex(share.id)),
            _ => format!(
                "share {} of {} (key {}, volume {}…)",
                share.index,
                share.count,
                hex(share.id),
                hex(share.volume)
            ),
        };
        let set = |share: &Share| (share.id, share.volume, share.threshold, share.count);
        let mut seen = vec![first.index];
        for other in others {
            if set(other) != set(first) {
                return Err(SharesError::Mixed { first: name(first), other: name(other) });
            }
            if seen.contains(&other.index) && first.threshold > 1 {
                return Err(SharesError::Twice(other.index));
            }
            seen.push(other.index);
        }
        Ok(())
    }

    /// Puts the key together.
    ///
    /// # Errors
    /// [`SharesError`].
    pub fn combine(&self) -> Result<RecoveryKey, SharesError> {
        self.check()?;
        let first = self.0.first().ok_or(SharesError::None)?;
        let needed = usize::from(first.threshold);
        let Some(shares) = self.0.get(..needed) else {
            let have = self.0.iter().map(|share| share.index).collect();
            return Err(SharesError::TooFew { threshold: first.threshold, have });
        };
        let key = if needed == 1 {
            Secret::fill_with(|out| *out = *first.value.expose())
        } else {
            let numbered = |share: &Share| {
                let mut bytes = Vec::with_capacity(33);
                bytes.push(share.index);
                bytes.extend_from_slice(share.value.expose());
                bytes
            };
            let shares: Zeroizing<Vec<Vec<u8>>> = Zeroizing::new(shares.iter().map(numbered).collect());
            let key = Zeroizing::new(Gf256::combine_bytes(&*shares).map_err(|_| SharesError::Altered)?);
            Secret::try_fill_with(|out| {
                out.copy_from_slice(key.get(..32).filter(|_| key.len() == 32).ok_or(SharesError::Altered)?);
                Ok(())
            })?
        };
        if key.is_zero() || id_of(&key) != first.id {
            return Err(SharesError::Altered);
        }
        Ok(RecoveryKey { key, id: first.id, volume: first.volume, threshold: first.threshold, count: first.count })
    }
}

/// The id of a recovery key: 32 bits by HKDF, which tell nothing that would help to find the rest of 256.
fn id_of(key: &Secret<32>) -> [u8; 4] {
    *kdf::derive::<4>(key, &[], &[kdf::RECOVERY_ID]).expose()
}

fn hex(bytes: [u8; 4]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The beginning of a volume's id.
fn beginning(volume: Uuid) -> [u8; 4] {
    let [a, b, c, d, ..] = *volume.as_bytes();
    [a, b, c, d]
}

impl RecoveryKey {
    /// Makes a key for a volume, to be split into `count` shares of which `threshold` are needed; 1 of 1 is not split.
    ///
    /// # Errors
    /// [`SharesError::Numbers`].
    pub fn generate(volume: Uuid, threshold: u8, count: u8) -> Result<Self, SharesError> {
        let possible = (threshold, count) == (1, 1) || (threshold >= 2 && threshold <= count);
        if !possible {
            return Err(SharesError::Numbers);
        }
        let key = Secret::random();
        Ok(RecoveryKey { id: id_of(&key), key, volume: beginning(volume), threshold, count })
    }

    /// Opens the key, or the shares of one, that a specification names: `recovery:/file`, or `file`, `file-2`, `file-3` and so on.
    ///
    /// # Errors
    /// [`ProviderError::Spec`] or [`ProviderError::Setup`].
    pub fn open(mut spec: ProviderSpec) -> Result<Self, ProviderError> {
        let files = Self::take_files(&mut spec)?;
        spec.finish()?;
        if files.is_empty() {
            return Err(SpecError::Missing { kind: KIND.into(), name: "file" }.into());
        }
        Self::read(&files)
    }

    /// Takes the names of files from a specification.
    ///
    /// # Errors
    /// [`SpecError::Value`] for one file too many.
    pub fn take_files(spec: &mut ProviderSpec) -> Result<Vec<PathBuf>, SpecError> {
        let mut files = Vec::new();
        if !spec.target.is_empty() {
            files.push(PathBuf::from(std::mem::take(&mut spec.target)));
        }
        files.extend(spec.take_path("file"));
        let numbered = (2..=u8::MAX).map_while(|number| spec.take_path(&format!("file-{number}")));
        files.extend(numbered);
        Ok(files)
    }

    /// Reads a key or shares from files that only their owner may use.
    ///
    /// # Errors
    /// [`ProviderError::Setup`].
    pub fn read(files: &[PathBuf]) -> Result<Self, ProviderError> {
        let mut shares = Shares::default();
        for path in files {
            let bytes = secret_file::read("recovery file", path, MAX_FILE, Access::Owner)?;
            let text = std::str::from_utf8(&bytes).map_err(|_| unusable(path, "it is not text", None))?;
            shares.add_all(text).map_err(|error| unusable(path, &error.to_string(), Some(error.clone().into())))?;
        }
        Ok(shares.combine()?)
    }

    /// What is to be printed: the key, or its shares in order, each with a line for people. Shares are made anew on each call; those of
    /// different calls do not go together.
    ///
    /// # Errors
    /// [`SharesError::Numbers`], which [`generate`](Self::generate) has ruled out.
    pub fn print(&self, form: Form) -> Result<Vec<(String, Zeroizing<String>)>, SharesError> {
        let share = |index, value| Share {
            threshold: self.threshold,
            index,
            count: self.count,
            id: self.id,
            volume: self.volume,
            value,
        };
        let written = |share: &Share| match form {
            Form::Text => share.to_text(),
            Form::Words => share.to_words(),
        };
        let (id, volume) = (hex(self.id), hex(self.volume));
        if self.threshold == 1 {
            let whole = share(0, Secret::fill_with(|out| *out = *self.key.expose()));
            return Ok(vec![(format!("recovery key {id} of volume {volume}…"), written(&whole))]);
        }
        let (threshold, count) = (usize::from(self.threshold), usize::from(self.count));
        let split = Gf256::split_bytes(threshold, count, self.key.expose(), Random);
        let split = Zeroizing::new(split.map_err(|_| SharesError::Numbers)?);
        split
            .iter()
            .map(|bytes| {
                let (index, value) = bytes.split_first().ok_or(SharesError::Numbers)?;
                let value: &[u8; 32] = value.try_into().map_err(|_| SharesError::Numbers)?;
                let share = share(*index, Secret::fill_with(|out| *out = *value));
                let line = format!(
                    "share {index} of {count} of recovery key {id} of volume {volume}…; {threshold} are needed"
                );
                Ok((line, written(&share)))
            })
            .collect()
    }

    /// Whether the key was made for a volume, as far as the beginning of its id tells.
    pub fn is_for(&self, volume: Uuid) -> bool {
        self.volume == beginning(volume)
    }

    fn kek(&self, salt: &[u8; SALT]) -> Result<Kek, ProviderError> {
        Ok(Kek::derive(KIND, &self.key, salt))
    }
}

fn unusable(path: &Path, why: &str, source: Option<super::Cause>) -> ProviderError {
    ProviderError::Setup {
        fact: format!("the recovery file {} cannot be used: {why}", path.display()),
        remedy: "compare it with what was printed; remarks begin with #, and an empty line is between two shares",
        source,
    }
}

impl From<SharesError> for ProviderError {
    fn from(error: SharesError) -> Self {
        let remedy = match error {
            SharesError::None | SharesError::TooFew { .. } => "give more shares of the same recovery key",
            SharesError::Mixed { .. } => "give shares of one recovery key only",
            SharesError::Twice(_) => "give each share once",
            SharesError::Altered => "compare with other shares: any that are enough and unaltered will do",
            SharesError::Numbers => "for example 5 shares, of which 3 are needed",
        };
        ProviderError::Setup { fact: error.to_string(), remedy, source: None }
    }
}

impl KeyProvider for RecoveryKey {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn describe(&self) -> String {
        format!("recovery key {} of volume {}…", hex(self.id), hex(self.volume))
    }

    fn wrap(&self, master: &Secret<32>, context: &SlotContext) -> Result<SlotData, ProviderError> {
        let describe =
            |salt, check| Parameters { key: hex(self.id), threshold: self.threshold, shares: self.count, salt, check };
        Kek::make_slot(master, context, |salt| self.kek(salt), describe)
    }

    fn unwrap(&self, slot: &SlotData, context: &SlotContext) -> Option<Result<Secret<32>, ProviderError>> {
        Kek::open_slot(slot, context, |parameters: &Parameters| self.kek(&parameters.salt)).transpose()
    }

    fn check(&self) -> Result<(), ProviderError> {
        Ok(())
    }
}

/// A slot's parameters.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Parameters {
    /// Id of the recovery key, as it is printed with it.
    key: String,
    /// Shares needed; 1 for a whole key.
    threshold: u8,
    /// Shares made.
    shares: u8,
    #[serde(with = "base64_array")]
    salt: [u8; SALT],
    #[serde(with = "base64_array")]
    check: [u8; CHECK],
}

impl kek::Parameters for Parameters {
    fn check(&self) -> &[u8; CHECK] {
        &self.check
    }

    fn encode(&self) -> Vec<u8> {
        join(&[self.key.as_bytes(), &[self.threshold], &[self.shares], &self.salt, &self.check])
    }
}

/// The random numbers of this program, for the crate that splits.
struct Random;

impl rand_core::TryRng for Random {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut bytes = Zeroizing::new([0; 4]);
        crate::crypto::random(&mut *bytes);
        Ok(u32::from_le_bytes(*bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut bytes = Zeroizing::new([0; 8]);
        crate::crypto::random(&mut *bytes);
        Ok(u64::from_le_bytes(*bytes))
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Infallible> {
        crate::crypto::random(out);
        Ok(())
    }
}

impl rand_core::TryCryptoRng for Random {}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use proptest::prelude::*;

    use super::super::contract::{self, Contract};
    use super::*;

    const VOLUME: Uuid = Uuid::from_bytes([7; 16]);

    fn printed(key: &RecoveryKey, form: Form) -> Vec<String> {
        key.print(form).unwrap().into_iter().map(|(_, text)| text.to_string()).collect()
    }

    fn combine<'a>(texts: impl IntoIterator<Item = &'a String>) -> Result<RecoveryKey, SharesError> {
        let mut shares = Shares::default();
        texts.into_iter().for_each(|text| shares.add(text).unwrap());
        shares.combine()
    }

    #[test]
    fn the_provider_keeps_the_contract() {
        let ours = RecoveryKey::generate(VOLUME, 3, 5).unwrap();
        let same = combine(&printed(&ours, Form::Words)[1..4]).unwrap();
        let secret = *ours.key.expose();
        let contract = Contract { secrets: &[&secret], ..Contract::LOCAL };
        contract::keep(&ours, &same, &RecoveryKey::generate(VOLUME, 3, 5).unwrap(), &contract);
    }

    #[test]
    fn any_m_shares_give_the_key_and_fewer_do_not() {
        for form in [Form::Text, Form::Words] {
            let key = RecoveryKey::generate(VOLUME, 3, 5).unwrap();
            let texts = printed(&key, form);
            for chosen in 0_u32..32 {
                let some: Vec<&String> =
                    texts.iter().enumerate().filter(|(at, _)| chosen >> at & 1 == 1).map(|x| x.1).collect();
                match combine(some.iter().copied()) {
                    Ok(read) => {
                        assert!(some.len() >= 3);
                        assert_eq!(read.key.expose(), key.key.expose());
                        assert!(read.is_for(VOLUME) && !read.is_for(Uuid::nil()));
                    }
                    Err(SharesError::None) => assert!(some.is_empty()),
                    Err(error) => assert!(some.len() < 3 && matches!(error, SharesError::TooFew { threshold: 3, .. })),
                }
            }
            let whole = RecoveryKey::generate(VOLUME, 1, 1).unwrap();
            assert_eq!(combine(&printed(&whole, form)).unwrap().key.expose(), whole.key.expose());
        }
    }

    #[test]
    fn mixed_repeated_and_altered_shares_are_told_apart() {
        let (ours, other) =
            (RecoveryKey::generate(VOLUME, 2, 3).unwrap(), RecoveryKey::generate(VOLUME, 2, 3).unwrap());
        let (a, b) = (printed(&ours, Form::Text), printed(&other, Form::Text));
        assert!(matches!(combine([&a[0], &b[1]]), Err(SharesError::Mixed { .. })));
        assert_eq!(combine([&a[1], &a[1]]).unwrap_err(), SharesError::Twice(2));
        let whole = printed(&RecoveryKey::generate(VOLUME, 1, 1).unwrap(), Form::Text);
        assert!(matches!(combine([&a[0], &whole[0]]), Err(SharesError::Mixed { .. })));
        // Another splitting of the same key: each share is sound, together they give another key.
        let again = printed(&ours, Form::Text);
        assert_eq!(combine([&a[0], &again[1]]).unwrap_err(), SharesError::Altered);
        for (threshold, count) in [(0, 0), (1, 2), (0, 1), (3, 2), (2, 1)] {
            assert_eq!(RecoveryKey::generate(VOLUME, threshold, count).unwrap_err(), SharesError::Numbers);
        }
        RecoveryKey::generate(VOLUME, 255, 255).unwrap().print(Form::Text).unwrap();
    }

    #[test]
    fn files_may_hold_remarks_and_several_shares() {
        let dir = tempfile::tempdir().unwrap();
        let key = RecoveryKey::generate(VOLUME, 3, 4).unwrap();
        let texts = printed(&key, Form::Words);
        let write = |name: &str, text: &str, mode| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            path
        };
        let two = write("two", &format!("# share 1\n{}\n\n\n# share 2\n{}", texts[0], texts[1]), 0o600);
        let one = write("one", &texts[3], 0o400);
        assert_eq!(RecoveryKey::read(&[two.clone(), one.clone()]).unwrap().key.expose(), key.key.expose());
        let word = format!("recovery:?file={}&file-2={}", two.display(), one.display());
        assert_eq!(RecoveryKey::open(word.parse().unwrap()).unwrap().key.expose(), key.key.expose());
        let word = format!("recovery:{}?file-2={}", two.display(), one.display());
        assert_eq!(RecoveryKey::open(word.parse().unwrap()).unwrap().key.expose(), key.key.expose());
        for bad in ["recovery:", "recovery:?fiel=/x", "recovery:/none", "recovery:?file=/none&file-3=/none"] {
            assert!(RecoveryKey::open(bad.parse().unwrap()).is_err(), "{bad}");
        }
        for (text, mode) in [("", 0o600), ("# nothing", 0o600), ("some words", 0o600), (texts[0].as_str(), 0o644)] {
            let error = RecoveryKey::read(&[two.clone(), write("bad", text, mode)]).unwrap_err();
            assert!(matches!(error, ProviderError::Setup { .. }), "{error}");
        }
        let error = RecoveryKey::read(&[two]).unwrap_err().to_string();
        assert!(error.contains("3 shares are needed") && error.contains("share 1, share 2"), "{error}");
    }

    proptest! {
        #[test]
        fn any_file_is_read_without_harm(text in "[a-z #\n]{0,300}") {
            let _ = Shares::default().add_all(&text);
        }
    }
}
