//! What a token can do, found out by trying it before it is used: mechanism lists say little and not always the truth.

use std::sync::OnceLock;

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rsa::{KeySize, OAEP_SHA256_MGF1SHA256, OaepPrivateDecryptingKey, PrivateDecryptingKey};
use cryptoki::error::{Error, RvError};
use cryptoki::session::Session;
use zeroize::Zeroizing;

use super::HsmError;
use super::profile::{Kdf, Oaep};
use super::rsa::RsaKey;
use super::settings::HsmSettings;
use super::work::{Bench, Fault, Rules, is_lost};

/// An RSA key of this process's own, to which throwaway secrets are encrypted.
struct Pair {
    public: RsaKey,
    private: OaepPrivateDecryptingKey,
}

/// Made once: it takes a while.
fn pair() -> Result<&'static Pair, HsmError> {
    static PAIR: OnceLock<Option<Pair>> = OnceLock::new();
    let make = || {
        let private = PrivateDecryptingKey::generate(KeySize::Rsa2048).ok()?;
        let der: PublicKeyX509Der<'_> = private.public_key().as_der().ok()?;
        let public = RsaKey::from_spki(der.as_ref()).ok()?;
        Some(Pair { public, private: OaepPrivateDecryptingKey::new(private).ok()? })
    };
    PAIR.get_or_init(make).as_ref().ok_or_else(|| HsmError::Unavailable("no RSA key for the self-test is made".into()))
}

/// Finds the derivations that work, and where OAEP is done.
///
/// # Errors
/// [`HsmError::Setup`] if there is no way that is allowed, else [`HsmError::Unavailable`].
pub(super) fn run(
    name: &str,
    settings: &HsmSettings,
    session: impl Fn() -> Result<Session, Error>,
    rules: &Rules,
    first: bool,
) -> Result<(Vec<Kdf>, Oaep), HsmError> {
    let fresh = || session().map_err(|error| HsmError::Unavailable(error.into()));
    if first {
        let swept = Bench::new(&fresh()?, rules).sweep().map_err(told)?;
        if swept > 0 {
            tracing::warn!(token = name, swept, "temporary objects of an earlier run are destroyed");
        }
    }
    let mut kdfs = Vec::new();
    let mut refusal = None;
    for kdf in settings.kdf.map_or_else(|| Kdf::ALL.to_vec(), |one| vec![one]) {
        match Bench::new(&fresh()?, rules).test_wrapping(kdf) {
            Ok(()) => kdfs.push(kdf),
            // It is away, which says nothing about what it can do.
            Err(Fault::Token(error, _)) if is_lost(&error) || is_of_device(&error) => {
                return Err(HsmError::Unavailable(error.into()));
            }
            Err(fault) => {
                let error = told(fault);
                tracing::debug!(
                    token = name,
                    kdf = kdf.word(),
                    error = super::told(&error),
                    "does not pass the self-test"
                );
                refusal = Some(error);
            }
        }
    }
    if kdfs.is_empty() {
        return Err(HsmError::Setup {
            fact: format!("{name} derives and wraps keys in no way that is known here"),
            remedy: "use an HSM with AES key wrap, and SP 800-108 or CKM_AES_CBC_ENCRYPT_DATA; see its list with pkcs11-tool --list-mechanisms",
            source: refusal.map(Into::into),
        });
    }
    let inside = match settings.oaep {
        Some(Oaep::Software) => None,
        _ => Some(test_oaep(&fresh()?, rules, Oaep::Token)),
    };
    match inside {
        Some(Ok(())) => return Ok((kdfs, Oaep::Token)),
        Some(Err(error)) if settings.oaep == Some(Oaep::Token) || !settings.insecure_software_oaep => {
            return Err(HsmError::Setup {
                fact: format!("{name} does not encrypt secrets to callers (RSA-OAEP with SHA-256 in C_WrapKey)"),
                remedy: "use an HSM that does; for a trial with SoftHSM say insecure_software_oaep = true, which brings each secret into this process's memory",
                source: Some(error.into()),
            });
        }
        _ => {}
    }
    test_oaep(&fresh()?, rules, Oaep::Software)?;
    tracing::warn!(
        token = name,
        "insecure_software_oaep: secrets are encrypted to callers in this process, not in the token; each is in its memory for a moment"
    );
    Ok((kdfs, Oaep::Software))
}

/// Encrypts a throwaway secret to a key whose other half is here.
fn test_oaep(session: &Session, rules: &Rules, oaep: Oaep) -> Result<(), HsmError> {
    let pair = pair()?;
    let wrapped = Bench::new(session, rules).test_release(&pair.public, oaep).map_err(told)?;
    let mut plain = Zeroizing::new(vec![0; pair.private.min_output_size()]);
    let opened = pair.private.decrypt(&OAEP_SHA256_MGF1SHA256, &wrapped, &mut plain, None).map(|plain| plain.len());
    if opened == Ok(32) { Ok(()) } else { Err(HsmError::Unavailable("what it encrypts does not open".into())) }
}

/// What no token says of a mechanism that it lacks.
fn is_of_device(error: &Error) -> bool {
    matches!(error, Error::Pkcs11(RvError::DeviceError, _))
}

/// A fault of a session in which nothing of a caller's was at stake.
fn told(fault: Fault) -> HsmError {
    match fault {
        Fault::Known(error) => error,
        Fault::Token(error, _) => HsmError::Unavailable(error.into()),
    }
}
