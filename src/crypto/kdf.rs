//! Key derivation: HKDF-SHA-256 (RFC 5869) and its labels, Argon2id (RFC 9106) for passphrases, and the MAC over `volume.toml`.
//!
//! One key, one purpose: no two derivations share salt, label and input key.

use hkdf::Hkdf;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::Unauthentic;
use super::secret::{Passphrase, Secret};

/// Label of the entry-name key, from the volume key.
pub const NAMES: &[u8] = b"envelopefs/v1/names";
/// Label of the xattr-name key, from the volume key.
pub const XATTR_NAMES: &[u8] = b"envelopefs/v1/xattr-names";
/// Label of the symlink-target key, from the volume key.
pub const SYMLINKS: &[u8] = b"envelopefs/v1/symlinks";
/// Label of the xattr-value key, from the volume key.
pub const XATTR_VALUES: &[u8] = b"envelopefs/v1/xattr-values";
/// Label of a master key's id, from the master key.
pub const KEY_ID: &[u8] = b"envelopefs/v1/key-id";
/// Label of the key of the MAC over `volume.toml`, from the master key.
pub const CONFIG_MAC: &[u8] = b"envelopefs/v1/config-mac";
/// Label of the key that wraps the volume key, from the master key.
pub const VOLUME_WRAP: &[u8] = b"envelopefs/v1/volume-wrap";
/// Label of the key that wraps DEKs, from the master key.
pub const DEK_WRAP: &[u8] = b"envelopefs/v1/dek-wrap";
/// From the volume key: wraps the DEK-wrapping key of a new master key on its way to the daemon that serves the volume.
pub const HANDOVER: &[u8] = b"envelopefs/v1/handover";
/// Label of the keys that encrypt a file, from its DEK; the epoch follows it.
pub const FILE: &[u8] = b"envelopefs/v1/file";

/// Label of the key that wraps a master key in a slot, from the slot's secret; the provider's kind follows it.
pub const SLOT_KEK: &[u8] = b"envelopefs/v1/slot-kek ";
/// Label of the check value of a slot's secret; the provider's kind follows it.
pub const SLOT_CHECK: &[u8] = b"envelopefs/v1/slot-check ";

/// Label of the key of the MACs in the log of key events, from the volume key.
pub const AUDIT_MAC: &[u8] = b"envelopefs/v1/audit-mac";
/// Label of a recovery key's id, from that key.
pub const RECOVERY_ID: &[u8] = b"envelopefs/v1/recovery-id";
/// Label of the secret of a slot that needs several keys; their number follows it.
pub const ALL_OF: &[u8] = b"envelopefs/v1/all-of ";

/// Most keys that one is derived from.
pub const MAX_KEYS: usize = 8;

/// `HKDF-SHA-256[salt, label ‖ number of keys](all keys in order, 32)`: nobody who lacks one of them knows anything of it.
///
/// # Panics
/// For more than [`MAX_KEYS`], which callers rule out.
pub fn derive_from_all(keys: &[Secret<32>], salt: &[u8], label: &[u8]) -> Secret<32> {
    assert!(keys.len() <= MAX_KEYS, "bounded where the keys come from");
    let all: Secret<{ 32 * MAX_KEYS }> = Secret::fill_with(|out| {
        out.chunks_exact_mut(32).zip(keys).for_each(|(out, key)| out.copy_from_slice(key.expose()));
    });
    let input = all.expose().get(..32 * keys.len()).unwrap_or_default();
    let number = [keys.len() as u8];
    Secret::fill_with(|out| hkdf(input, salt, &[label, &number], out))
}

/// `HKDF-SHA-256[salt, info](key, N)`; the parts of `info` are concatenated, so only one of them may vary in length.
pub fn derive<const N: usize>(key: &Secret<32>, salt: &[u8], info: &[&[u8]]) -> Secret<N> {
    const { assert!(N <= 255 * 32, "RFC 5869, section 2.3: at most 255 hashes of output") };
    Secret::fill_with(|out| hkdf(key.expose(), salt, info, out))
}

fn hkdf<const N: usize>(key: &[u8], salt: &[u8], info: &[&[u8]], out: &mut [u8; N]) {
    Hkdf::<Sha256>::new(Some(salt), key).expand_multi_info(info, out).expect("N is within HKDF's limit, see derive");
}

/// The key of one file in one epoch: `HKDF-SHA-256[file id, FILE ‖ epoch](DEK, 32)`.
pub fn file_key(dek: &Secret<32>, file_id: &[u8; 16], epoch: u32) -> Secret<32> {
    derive(dek, file_id, &[FILE, &epoch.to_le_bytes()])
}

/// What one run of Argon2id costs, within bounds that no volume can use to bring a machine down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArgonCost {
    memory_kib: u32,
    passes: u32,
    lanes: u32,
}

/// A cost is out of bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CostError {
    /// One of the three numbers.
    #[error("{what} is {value}; allowed is {min} to {max}")]
    OutOfBounds {
        /// Which one.
        what: &'static str,
        /// What it is.
        value: u32,
        /// The least allowed.
        min: u32,
        /// The most allowed.
        max: u32,
    },
    /// Each of them is allowed, all together are too much work.
    #[error("{memory_kib} KiB of memory filled {passes} times is more than the {} GiB allowed in all", ArgonCost::MAX_WORK_KIB >> 20)]
    TooMuchWork {
        /// Memory.
        memory_kib: u32,
        /// Passes over it.
        passes: u32,
    },
}

/// Argon2id could not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ArgonError {
    /// The memory is not to be had.
    #[error("not enough memory: {0} KiB are needed")]
    OutOfMemory(u32),
    /// The library refused.
    #[error("refused: {0}")]
    Refused(argon2::Error),
}

impl ArgonCost {
    /// Most memory: 4 GiB.
    const MAX_MEMORY_KIB: u32 = 4 << 20;
    /// Most passes.
    const MAX_PASSES: u32 = 1000;
    /// Most lanes.
    const MAX_LANES: u32 = 64;
    /// Most memory filled in all passes together, 256 GiB: minutes of work.
    const MAX_WORK_KIB: u64 = 256 << 20;

    /// Memory in KiB (at least 8 for each lane), passes over it, lanes.
    ///
    /// # Errors
    /// [`CostError`].
    pub fn new(memory_kib: u32, passes: u32, lanes: u32) -> Result<Self, CostError> {
        let within = |what, value, min, max| {
            if (min..=max).contains(&value) { Ok(()) } else { Err(CostError::OutOfBounds { what, value, min, max }) }
        };
        within("the number of lanes", lanes, 1, Self::MAX_LANES)?;
        within("the memory in KiB", memory_kib, 8 * lanes, Self::MAX_MEMORY_KIB)?;
        within("the number of passes", passes, 1, Self::MAX_PASSES)?;
        if u64::from(memory_kib) * u64::from(passes) > Self::MAX_WORK_KIB {
            return Err(CostError::TooMuchWork { memory_kib, passes });
        }
        Ok(ArgonCost { memory_kib, passes, lanes })
    }

    /// Memory in KiB.
    pub fn memory_kib(&self) -> u32 {
        self.memory_kib
    }

    /// Passes over the memory.
    pub fn passes(&self) -> u32 {
        self.passes
    }

    /// Lanes.
    pub fn lanes(&self) -> u32 {
        self.lanes
    }
}

impl Default for ArgonCost {
    /// The second recommended option of RFC 9106, section 4: 64 MiB, 3 passes, 4 lanes.
    fn default() -> Self {
        ArgonCost { memory_kib: 64 << 10, passes: 3, lanes: 4 }
    }
}

/// `Argon2id(passphrase, salt, cost)`, version 0x13. Its memory is wiped.
///
/// # Errors
/// [`ArgonError`].
pub fn argon2id(passphrase: &Passphrase, salt: &[u8], cost: ArgonCost) -> Result<Secret<32>, ArgonError> {
    let params =
        argon2::Params::new(cost.memory_kib, cost.passes, cost.lanes, Some(32)).map_err(ArgonError::Refused)?;
    let mut memory = Zeroizing::new(Vec::new());
    memory.try_reserve_exact(params.block_count()).map_err(|_| ArgonError::OutOfMemory(cost.memory_kib))?;
    memory.resize(params.block_count(), argon2::Block::new());
    let argon = argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params);
    Secret::try_fill_with(|out| {
        argon
            .hash_password_into_with_memory(passphrase.expose(), salt, out, memory.as_mut_slice())
            .map_err(ArgonError::Refused)
    })
}

/// `HMAC-SHA-256(key, text)` (RFC 2104). The tag is stored in the clear beside what it authenticates.
pub fn mac(key: &Secret<32>, text: &[u8]) -> [u8; 32] {
    keyed(key, text).finalize().into_bytes().into()
}

/// Compares a MAC in constant time.
///
/// # Errors
/// [`Unauthentic`] if it is another key's or another text's.
pub fn verify_mac(key: &Secret<32>, text: &[u8], tag: &[u8]) -> Result<(), Unauthentic> {
    keyed(key, text).verify_slice(tag).map_err(|_| Unauthentic)
}

fn keyed(key: &Secret<32>, text: &[u8]) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key.expose()).expect("HMAC takes keys of any length");
    mac.update(text);
    mac
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_input_changes_the_derived_key() {
        let key = |n: u8| Secret::<32>::fill_with(|b| b.fill(n));
        let base = derive::<32>(&key(1), b"salt", &[NAMES]);
        assert_eq!(base.expose(), derive::<32>(&key(1), b"salt", &[NAMES]).expose());
        assert_ne!(base.expose(), derive::<32>(&key(2), b"salt", &[NAMES]).expose());
        assert_ne!(base.expose(), derive::<32>(&key(1), b"tlas", &[NAMES]).expose());
        assert_ne!(base.expose(), derive::<32>(&key(1), b"salt", &[SYMLINKS]).expose());
        assert_ne!(file_key(&key(1), &[0; 16], 0).expose(), file_key(&key(1), &[0; 16], 1).expose());
        assert_ne!(file_key(&key(1), &[0; 16], 0).expose(), file_key(&key(1), &[1; 16], 0).expose());
    }

    #[test]
    fn every_key_its_place_and_their_number_change_what_is_derived_from_all() {
        let key = |n: u8| Secret::<32>::fill_with(|b| b.fill(n));
        let all = |keys: &[u8]| {
            let keys: Vec<_> = keys.iter().map(|n| key(*n)).collect();
            *derive_from_all(&keys, b"salt", ALL_OF).expose()
        };
        let different = [all(&[1, 2]), all(&[2, 1]), all(&[1, 3]), all(&[1]), all(&[1, 2, 0]), all(&[1, 2, 2])];
        for (at, one) in different.iter().enumerate() {
            assert!(different[at + 1..].iter().all(|other| other != one));
        }
        assert_eq!(all(&[1, 2]), all(&[1, 2]));
    }

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
    }

    /// RFC 5869, test cases 1 and 2.
    #[test]
    fn hkdf_gives_the_published_values() {
        let mut out = [0; 42];
        let (key, salt, info) = ([0x0b; 22], hex("000102030405060708090a0b0c"), hex("f0f1f2f3f4f5f6f7f8f9"));
        hkdf(&key, &salt, &[&info], &mut out);
        let expected = hex("3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865");
        assert_eq!(out.to_vec(), expected);
        hkdf(&key, &salt, &[&info[..4], &info[4..]], &mut out);
        assert_eq!(out.to_vec(), expected, "the parts of info are concatenated");
        hkdf(&key, &salt[1..], &[&info], &mut out);
        assert_ne!(out.to_vec(), expected);

        let mut out = [0; 82];
        let bytes = |range: std::ops::RangeInclusive<u8>| range.collect::<Vec<_>>();
        hkdf(&bytes(0..=0x4f), &bytes(0x60..=0xaf), &[&bytes(0xb0..=0xff)], &mut out);
        let expected = hex(concat!(
            "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c",
            "59045a99cac7827271cb41c65e590e09da3275600c2f09b8367793a9aca3db71",
            "cc30c58179ec3e87c14c01d5c1f3434f1d87"
        ));
        assert_eq!(out.to_vec(), expected);
    }

    /// From the reference implementation's own tests (P-H-C/phc-winner-argon2, src/test.c).
    #[test]
    fn argon2id_gives_the_published_values() {
        let run = |passphrase: &[u8], memory_kib, passes, lanes| {
            let passphrase = Passphrase::new(passphrase).unwrap();
            *argon2id(&passphrase, b"somesalt", ArgonCost::new(memory_kib, passes, lanes).unwrap()).unwrap().expose()
        };
        let one_lane = hex("9dfeb910e80bad0311fee20f9c0e2b12c17987b4cac90c2ef54d5b3021c68bfe");
        let two_lanes = hex("6d093c501fd5999645e0ea3bf620d7b8be7fd2db59c20d9fff9539da2bf57037");
        assert_eq!(run(b"password", 256, 2, 1).to_vec(), one_lane);
        assert_eq!(run(b"password", 256, 2, 2).to_vec(), two_lanes);
        assert_ne!(run(b"passworD", 256, 2, 1).to_vec(), one_lane);
        assert_ne!(run(b"password", 257, 2, 1).to_vec(), run(b"password", 256, 3, 1).to_vec());
    }

    #[test]
    fn argon2_costs_are_bounded() {
        assert_eq!(ArgonCost::new(64 << 10, 3, 4), Ok(ArgonCost::default()));
        assert!(ArgonCost::new(8, 1, 1).is_ok() && ArgonCost::new(4 << 20, 64, 64).is_ok());
        for (memory, passes, lanes) in
            [(0, 1, 1), (7, 1, 1), (15, 1, 2), ((4 << 20) + 1, 1, 1), (8, 0, 1), (8, 1001, 1)]
        {
            let refused = ArgonCost::new(memory, passes, lanes);
            assert!(matches!(refused, Err(CostError::OutOfBounds { .. })), "{memory} {passes} {lanes}: {refused:?}");
        }
        assert!(matches!(ArgonCost::new(1024, 1, 0), Err(CostError::OutOfBounds { .. })));
        assert!(matches!(ArgonCost::new(1 << 20, 1, u32::MAX), Err(CostError::OutOfBounds { .. })));
        assert!(matches!(ArgonCost::new(4 << 20, 65, 1), Err(CostError::TooMuchWork { .. })));
    }

    #[test]
    fn hkdf_agrees_with_an_independent_implementation() {
        let key = Secret::<32>::fill_with(|b| b.fill(0x0b));
        let salt = aws_lc_rs::hkdf::Salt::new(aws_lc_rs::hkdf::HKDF_SHA256, b"some salt");
        let prk = salt.extract(key.expose());
        let mut theirs = [0u8; 32];
        prk.expand(&[b"label".as_slice(), b"more"], aws_lc_rs::hkdf::HKDF_SHA256).unwrap().fill(&mut theirs).unwrap();
        assert_eq!(derive::<32>(&key, b"some salt", &[b"label", b"more"]).expose(), &theirs);
    }

    #[test]
    fn a_mac_is_bound_to_its_key_and_text() {
        let key = Secret::random();
        let tag = mac(&key, b"text");
        assert_eq!(verify_mac(&key, b"text", &tag), Ok(()));
        assert_eq!(verify_mac(&key, b"texT", &tag), Err(Unauthentic));
        assert_eq!(verify_mac(&Secret::random(), b"text", &tag), Err(Unauthentic));
        assert_eq!(verify_mac(&key, b"text", &tag[..31]), Err(Unauthentic));
        assert_eq!(verify_mac(&key, b"text", b""), Err(Unauthentic));
    }
}
