//! The ways in which a token's key wraps a master key, and how each binds it to its place.
//!
//! | word in the slot | key in the token | wrapped is | standard |
//! |---|---|---|---|
//! | `aes-gcm` | AES-256 | nonce 12 ‖ ciphertext 32 ‖ tag 16; place and parameters are associated data | SP 800-38D |
//! | `hmac-sha256` | generic secret | nonce 32 ‖ [`WrappedSecret`] under a KEK that the token derives from nonce, place and parameters: counter mode with HMAC-SHA-256 as PRF | SP 800-108r1, 4.1; SP 800-38D |
//! | `rsa-oaep-sha256`, `rsa-oaep-sha1` | RSA | OAEP ciphertext of master key 32 ‖ SHA-256 of place and parameters; then the token's signature over place, parameters and ciphertext | RFC 8017, 7.1 and 8.2 |
//!
//! `hmac-sha256` is for tokens with AES but without GCM, or with no AES at all but HMAC; the KEK is in this process's memory as the master key
//! itself is. RSA encryption needs only the public key, so OAEP alone would let anybody who knows it make a slot with a master key of their
//! own; hence the signature. The two RSA operations have a key each in keys made here; a key that does both is taken as well.

use cryptoki::mechanism::aead::GcmParams;
use cryptoki::mechanism::rsa::{PkcsMgfType, PkcsOaepParams, PkcsOaepSource};
use cryptoki::mechanism::{Mechanism as Ck, MechanismType};
use cryptoki::object::ObjectHandle;
use cryptoki::session::Session;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::crypto::aead::{self, WrappedSecret};
use crate::crypto::rsa::{OaepHash, PublicKey};
use crate::crypto::secret::Secret;
use crate::crypto::{self, Unauthentic};
use crate::keys::{ProviderError, join};

/// Bytes of a GCM nonce.
const NONCE: usize = 12;
/// Bytes of GCM's wrapped key.
const GCM_LEN: usize = NONCE + 32 + 16;
/// Bytes of the nonce that a KEK is derived from.
const KDF_NONCE: usize = 32;
/// Label of that derivation.
const KDF_LABEL: &[u8] = b"envelopefs/v1/pkcs11-slot-kek";

/// How a slot is wrapped, as it stands in its parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Mechanism {
    AesGcm,
    HmacSha256,
    RsaOaepSha256,
    RsaOaepSha1,
}

/// How new slots are to be wrapped: a mechanism, and for GCM who makes the nonce.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Choice {
    pub(super) mechanism: Mechanism,
    /// The token makes GCM's nonce and writes it back, as AWS CloudHSM and HSMs in FIPS mode do.
    pub(super) token_iv: bool,
}

impl Choice {
    /// What a specification may say.
    pub(super) const WORDS: &'static str = "aes-gcm, aes-gcm-token-iv, hmac-sha256, rsa-oaep-sha256 or rsa-oaep-sha1";

    pub(super) fn of(word: &str) -> Option<Self> {
        let (mechanism, token_iv) = match word {
            "aes-gcm" => (Mechanism::AesGcm, false),
            "aes-gcm-token-iv" => (Mechanism::AesGcm, true),
            "hmac-sha256" => (Mechanism::HmacSha256, false),
            "rsa-oaep-sha256" => (Mechanism::RsaOaepSha256, false),
            "rsa-oaep-sha1" => (Mechanism::RsaOaepSha1, false),
            _ => return None,
        };
        Some(Choice { mechanism, token_iv })
    }

    /// For people, and what [`of`](Self::of) reads.
    pub(super) fn word(self) -> &'static str {
        if self.token_iv { "aes-gcm-token-iv" } else { self.mechanism.word() }
    }
}

impl Mechanism {
    pub(super) fn word(self) -> &'static str {
        match self {
            Mechanism::AesGcm => "aes-gcm",
            Mechanism::HmacSha256 => "hmac-sha256",
            Mechanism::RsaOaepSha256 => "rsa-oaep-sha256",
            Mechanism::RsaOaepSha1 => "rsa-oaep-sha1",
        }
    }

    fn oaep(self) -> Option<(OaepHash, MechanismType, PkcsMgfType)> {
        match self {
            Mechanism::RsaOaepSha256 => Some((OaepHash::Sha256, MechanismType::SHA256, PkcsMgfType::MGF1_SHA256)),
            Mechanism::RsaOaepSha1 => Some((OaepHash::Sha1, MechanismType::SHA1, PkcsMgfType::MGF1_SHA1)),
            Mechanism::AesGcm | Mechanism::HmacSha256 => None,
        }
    }
}

/// Handles of a key in an open session.
#[derive(Debug, Clone)]
pub(super) enum Key {
    Aes(ObjectHandle),
    Hmac(ObjectHandle),
    Rsa(Box<RsaKey>),
}

/// The private keys' handles with their public halves.
#[derive(Debug, Clone)]
pub(super) struct RsaKey {
    pub(super) decrypt: (ObjectHandle, PublicKey),
    pub(super) sign: (ObjectHandle, PublicKey),
}

impl Key {
    /// The mechanisms that it can do, the preferred one first.
    pub(super) fn choices(&self) -> &'static [Choice] {
        const fn choice(mechanism: Mechanism) -> Choice {
            Choice { mechanism, token_iv: false }
        }
        match self {
            Key::Aes(_) => {
                const { &[choice(Mechanism::AesGcm), Choice { mechanism: Mechanism::AesGcm, token_iv: true }] }
            }
            Key::Hmac(_) => const { &[choice(Mechanism::HmacSha256)] },
            Key::Rsa(_) => const { &[choice(Mechanism::RsaOaepSha256), choice(Mechanism::RsaOaepSha1)] },
        }
    }

    pub(super) fn can(&self, mechanism: Mechanism) -> bool {
        self.choices().iter().any(|choice| choice.mechanism == mechanism)
    }
}

/// Why a token did not wrap or unwrap.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The token's own word: the token or the slot may be at fault.
    Token(cryptoki::error::Error),
    /// What came out is known to be wrong, or could not go in.
    Known(ProviderError),
}

impl From<cryptoki::error::Error> for Trouble {
    fn from(error: cryptoki::error::Error) -> Self {
        Trouble::Token(error)
    }
}

impl From<ProviderError> for Trouble {
    fn from(error: ProviderError) -> Self {
        Trouble::Known(error)
    }
}

impl From<Unauthentic> for Trouble {
    fn from(error: Unauthentic) -> Self {
        Trouble::Known(error.into())
    }
}

/// Wraps a master key, bound to `aad`.
pub(super) fn wrap(
    session: &Session,
    key: &Key,
    choice: Choice,
    master: &Secret<32>,
    aad: &[u8],
) -> Result<Vec<u8>, Trouble> {
    if master.is_zero() {
        return Err(ProviderError::ZeroKey.into());
    }
    match key {
        Key::Aes(key) => gcm_wrap(session, *key, choice.token_iv, master, aad),
        Key::Hmac(key) => {
            let mut nonce = [0; KDF_NONCE];
            crypto::random(&mut nonce);
            let kek = derive(session, *key, &nonce, aad)?;
            Ok([&nonce[..], &aead::wrap(&kek, aad, master).to_bytes()].concat())
        }
        Key::Rsa(key) => rsa_wrap(session, key, choice.mechanism, master, aad),
    }
}

/// Unwraps what [`wrap`] made. Bytes of a wrong length do not go to the token.
pub(super) fn unwrap(
    session: &Session,
    key: &Key,
    mechanism: Mechanism,
    wrapped: &[u8],
    aad: &[u8],
) -> Result<Secret<32>, Trouble> {
    let master = match key {
        Key::Aes(key) => gcm_unwrap(session, *key, wrapped, aad)?,
        Key::Hmac(key) => {
            let (nonce, rest) = wrapped.split_first_chunk::<KDF_NONCE>().ok_or_else(wrong_length)?;
            let sealed = WrappedSecret::from_bytes(rest).ok_or_else(wrong_length)?;
            aead::unwrap(&derive(session, *key, nonce, aad)?, aad, &sealed)?
        }
        Key::Rsa(key) => rsa_unwrap(session, key, mechanism, wrapped, aad)?,
    };
    if master.is_zero() { Err(ProviderError::ZeroKey.into()) } else { Ok(master) }
}

fn gcm_wrap(
    session: &Session,
    key: ObjectHandle,
    token_iv: bool,
    master: &Secret<32>,
    aad: &[u8],
) -> Result<Vec<u8>, Trouble> {
    // Zeros ask for the token's own; what counts is what stands there afterwards, either way.
    let mut iv = if token_iv { [0; NONCE] } else { crypto::nonce() };
    let sealed = {
        let parameters = GcmParams::new(&mut iv, aad, 128.into())?;
        session.encrypt(&Ck::AesGcm(parameters), key, master.expose())?
    };
    if iv == [0; NONCE] {
        return Err(lies("it has left GCM's nonce zero"));
    }
    if sealed.len() != GCM_LEN - NONCE {
        return Err(lies("GCM's output has a wrong length"));
    }
    Ok([&iv[..], &sealed].concat())
}

fn gcm_unwrap(session: &Session, key: ObjectHandle, wrapped: &[u8], aad: &[u8]) -> Result<Secret<32>, Trouble> {
    let (iv, sealed) = wrapped.split_first_chunk::<NONCE>().ok_or_else(wrong_length)?;
    if sealed.len() != GCM_LEN - NONCE {
        return Err(wrong_length().into());
    }
    let mut iv = *iv;
    let parameters = GcmParams::new(&mut iv, aad, 128.into())?;
    let plain = Zeroizing::new(session.decrypt(&Ck::AesGcm(parameters), key, sealed)?);
    secret(&plain)
}

/// One block of SP 800-108r1 in counter mode: `HMAC([1] ‖ label ‖ 0 ‖ context ‖ [256])`, the numbers of 32 bits with the highest byte first.
fn derive(session: &Session, key: ObjectHandle, nonce: &[u8; KDF_NONCE], aad: &[u8]) -> Result<Secret<32>, Trouble> {
    let context = join(&[nonce, aad]);
    let input = [b"\0\0\0\x01", KDF_LABEL, b"\0", &context, b"\0\0\x01\0"].concat();
    let kek = secret(&Zeroizing::new(session.sign(&Ck::Sha256Hmac, key, &input)?))?;
    if kek.is_zero() { Err(lies("its HMAC is zero")) } else { Ok(kek) }
}

fn rsa_wrap(
    session: &Session,
    key: &RsaKey,
    mechanism: Mechanism,
    master: &Secret<32>,
    aad: &[u8],
) -> Result<Vec<u8>, Trouble> {
    let (hash, ..) = mechanism.oaep().ok_or_else(not_rsa)?;
    let (_, public) = &key.decrypt;
    let plain = Zeroizing::new([&master.expose()[..], &crypto::sha256(aad)].concat());
    let sealed = public.oaep_seal(hash, &plain).map_err(|_| lies("its RSA key is too short"))?;
    let (handle, verifying) = &key.sign;
    let message = join(&[aad, &sealed]);
    let signature = session.sign(&Ck::Sha256RsaPkcs, *handle, &message)?;
    verifying.verify(&message, &signature).map_err(|_| lies("its signature does not hold"))?;
    Ok([sealed, signature].concat())
}

fn rsa_unwrap(
    session: &Session,
    key: &RsaKey,
    mechanism: Mechanism,
    wrapped: &[u8],
    aad: &[u8],
) -> Result<Secret<32>, Trouble> {
    let (_, hash, mgf) = mechanism.oaep().ok_or_else(not_rsa)?;
    let ((decrypt, public), (_, verifying)) = (&key.decrypt, &key.sign);
    let (sealed, signature) = wrapped.split_at_checked(public.bytes()).ok_or_else(wrong_length)?;
    // First: an answer about a ciphertext that others made would help them (RFC 8017, section 7.1.2).
    verifying.verify(&join(&[aad, sealed]), signature)?;
    let oaep = Ck::RsaPkcsOaep(PkcsOaepParams::new(hash, mgf, PkcsOaepSource::empty()));
    let plain = Zeroizing::new(session.decrypt(&oaep, *decrypt, sealed)?);
    let (master, digest) =
        plain.split_first_chunk::<32>().ok_or_else(|| lies("what it decrypted has a wrong length"))?;
    if digest != crypto::sha256(aad) {
        return Err(Unauthentic.into());
    }
    secret(master)
}

fn secret(bytes: &[u8]) -> Result<Secret<32>, Trouble> {
    if bytes.len() != 32 {
        return Err(lies("what it decrypted or computed does not have 32 bytes"));
    }
    Ok(Secret::fill_with(|out| out.copy_from_slice(bytes)))
}

fn wrong_length() -> ProviderError {
    ProviderError::Malformed("the wrapped key has a wrong length".into())
}

fn not_rsa() -> ProviderError {
    ProviderError::Malformed("the mechanism is not one of RSA".into())
}

fn lies(what: &str) -> Trouble {
    Trouble::Known(ProviderError::Answer { provider: "the PKCS#11 token".into(), what: what.into() })
}
