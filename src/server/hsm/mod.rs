//! The HSM side: long-lived keys that never leave their tokens, and what the server has them do.
//!
//! ```text
//! domain key     AES-256, token object, not extractable, can derive and nothing else
//!   └─ derive ─▶ key-encryption key of one blob ─ wraps ─▶ customer key (one per tenant and version; stored wrapped, by others)
//!                  └─ derive ─▶ key-encryption key of one blob ─ wraps ─▶ secret (made in the token; stored by the client)
//! signing key    ECDSA on P-384, token object, not extractable
//! ```
//!
//! [`Cluster`] is blocking, and any number of threads may call it: as many calls run side by side as there are
//! [sessions](Cluster::sessions), the others wait. It has several tokens or one; each call goes to the least busy of those that work,
//! and to another one if it fails there. All tokens of a cluster hold the same keys; keys that are made here come to the
//! others by the device's own replication. A token without a key that another has is passed over for it.
//!
//! What is kept: key bytes other than those of a temporary public key are in this process at no time, with one exception that must be asked for
//! (`insecure_software_oaep`): where a token cannot do RSA-OAEP with SHA-256 (SoftHSM 2 knows SHA-1 alone, which no caller takes), the secret
//! leaves it under a transport key made up for this one call, is unwrapped into locked memory, encrypted and wiped. The domain key, the
//! customer keys and the signing key are not touched by that. Whoever has the PIN can have any secret encrypted to himself, since secrets must
//! be extractable: that is inherent in releasing them.
//!
//! A token's error says little: the same code means a wrong blob and a broken device. So after an error the token must show in another session that
//! it still derives, wraps and unwraps; if it does, the blob or the caller's key was wrong, else the token is taken out.
//!
//! Left to others: who may ask for what, where customer keys are stored, what is recorded.

pub mod blob;
mod pool;
mod profile;
mod rsa;
mod selftest;
mod settings;
mod threads;
mod work;

#[cfg(test)]
pub(crate) use crate::keys::softhsm;
#[cfg(test)]
#[path = "../../../tests/common/hsm.rs"]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cryptoki::object::ObjectClass;

pub use self::blob::Sealed;
pub use self::profile::{Kdf, Oaep};
pub use self::rsa::{BadRsaKey, RsaKey};
pub use self::settings::{HsmSettings, Pin, TokenSettings};

use self::blob::Draft;
use self::pool::{Login, Pool, Use};
use crate::api::signature::{Padding, SigningKey};
use crate::api::{InstanceId, Tenant, VolumeName};
use crate::crypto;
use crate::keys::Cause;

/// CKA_ID of a key that was made here: 16 random bytes; 32 hexadecimal digits in texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId(pub [u8; 16]);

impl KeyId {
    /// A random one.
    pub fn random() -> KeyId {
        let mut id = [0; 16];
        crypto::random(&mut id);
        KeyId(id)
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Text is no key's id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the id of a key has 32 lower-case hexadecimal digits")]
pub struct NoKeyId;

impl std::str::FromStr for KeyId {
    type Err = NoKeyId;

    fn from_str(text: &str) -> Result<Self, NoKeyId> {
        let mut id = [0; 16];
        if text.len() != 32 || !text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(NoKeyId);
        }
        for (at, byte) in id.iter_mut().enumerate() {
            let digits = text.get(2 * at..2 * at + 2).ok_or(NoKeyId)?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| NoKeyId)?;
        }
        Ok(KeyId(id))
    }
}

/// Whom a secret belongs to: bound into its blob, in lower case.
#[derive(Debug, Clone, Copy)]
pub struct Owner<'a> {
    /// The tenant.
    pub tenant: &'a Tenant,
    /// The machine.
    pub instance: &'a InstanceId,
    /// The volume on it.
    pub volume: &'a VolumeName,
}

/// A tenant's customer key as it is stored: wrapped under a domain key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CustomerKey {
    /// Counted from 1.
    pub version: u32,
    /// The domain key that it is wrapped under.
    pub domain: KeyId,
    /// The [blob], of 100 bytes.
    pub wrapped: Vec<u8>,
}

/// A new secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generated {
    /// For the client to store: `encrypted_secret`.
    pub sealed: Vec<u8>,
    /// For the caller alone: `wrapped_secret`, RSAES-OAEP with SHA-256, as long as his key's modulus.
    pub wrapped: Vec<u8>,
}

/// Why the HSM side has no answer.
#[derive(Debug, thiserror::Error)]
pub enum HsmError {
    /// No PIN has been handed in yet.
    #[error("the PIN of the HSM has not been handed in yet")]
    NoPin,
    /// No token answers as it should; the same may work later.
    #[error("the HSM does not answer")]
    Unavailable(#[source] Cause),
    /// The blob is none, was changed, or is another owner's. Deliberately without detail.
    #[error("the wrapped secret or its context is not right")]
    WrongContext,
    /// The token does not take the caller's RSA key, which is of the right form.
    #[error("the RSA key is refused")]
    RsaKey,
    /// No token has a key with this id.
    #[error("there is no key {0} in the HSM")]
    NoSuchKey(KeyId),
    /// Something must be done about the set-up first.
    #[error("{fact}")]
    Setup {
        /// What is wrong.
        fact: String,
        /// What to do about it.
        remedy: &'static str,
        /// What lies behind it, if anything.
        source: Option<Cause>,
    },
}

/// Why a PIN was not taken.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// A token says that it is wrong. Handing in another one must be forced: tokens count wrong ones.
    #[error("the PIN was refused")]
    Refused,
    /// It was not sent to a token: one was refused before and this is not forced, or the next wrong one would lock the token.
    #[error("the PIN was not tried: {0}")]
    Withheld(String),
    /// There is one already, which works.
    #[error("there is a PIN already")]
    Present,
    /// No token could be asked.
    #[error("no token could be asked")]
    Unreachable(#[source] HsmError),
    /// It is right, and kept; but no token can be used.
    #[error("the PIN is right, but the HSM cannot be used")]
    Unusable(#[source] HsmError),
}

/// How a token is.
#[derive(Debug, Clone)]
pub struct TokenStatus {
    /// For people: `token "keys"`.
    pub name: String,
    /// Its module.
    pub module: PathBuf,
    /// It takes calls.
    pub healthy: bool,
    /// How keys are derived, if it is open.
    pub kdf: Option<Kdf>,
    /// Where secrets are encrypted to callers, if it is open.
    pub oaep: Option<Oaep>,
    /// Calls that it serves now.
    pub busy: usize,
    /// Calls that have not come back in time.
    pub stuck: usize,
    /// Why it was last taken out, without secrets.
    pub last_error: Option<String>,
}

/// The tokens.
pub struct Cluster {
    pool: Arc<Pool>,
    max_rsa_bits: usize,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.status()).finish()
    }
}

impl Cluster {
    /// Loads the modules; where the configuration says where the PIN is, logs in. Tokens that are away come in later.
    ///
    /// # Errors
    /// [`HsmError::Setup`] if what is configured cannot work.
    pub fn open(settings: &HsmSettings) -> Result<Cluster, HsmError> {
        let pool = Pool::new(settings)?;
        let cluster = Cluster { pool, max_rsa_bits: settings.max_rsa_bits };
        let (mut open, mut problem) = (false, None);
        for at in 0..cluster.pool.len() {
            let Some(pin) = cluster.pool.own_pin(at) else { continue };
            match cluster.pool.open(at, Some(pin)).1 {
                Ok(()) => open = true,
                Err(error) => problem = Some(error),
            }
        }
        if let Some(from) = &settings.pin {
            match cluster.log_in(settings::read_pin(from)?, false) {
                Ok(()) | Err(PinError::Present) => open = true,
                Err(PinError::Unusable(error) | PinError::Unreachable(error)) => problem = Some(error),
                // Not the end: each further start would send it again.
                Err(error) => tracing::error!(error = told(&error), "the HSM is not open: the PIN is not taken"),
            }
        }
        match problem {
            Some(error @ HsmError::Setup { .. }) if !open => Err(error),
            Some(error) => {
                tracing::warn!(error = told(&error), "not every token of the HSM is open yet");
                Ok(cluster)
            }
            None => Ok(cluster),
        }
    }

    /// Takes a PIN and opens the tokens with it. Each token is asked once; the first that refuses it ends the attempt. A PIN that a token takes is
    /// kept, in locked memory, and used again when a token was away. `force` lets another one in after one was refused, and for
    /// tokens that refuse the one which others took. Login is the process's, not a session's (PKCS#11, section 5.6): a token at which the process
    /// is logged in already, by another cluster say, is not asked again.
    ///
    /// # Errors
    /// [`PinError`].
    pub fn log_in(&self, pin: Pin, force: bool) -> Result<(), PinError> {
        let _one = self.pool.logging_in();
        if self.pool.has_pin() && !(force && self.pool.is_refused_somewhere()) {
            return Err(PinError::Present);
        }
        if self.pool.was_refused() && !force {
            let why = "one was refused before, and tokens count wrong ones: it must be forced";
            return Err(PinError::Withheld(why.into()));
        }
        let pin = Arc::new(pin);
        let (mut taken, mut open, mut problem) = (false, false, None);
        for at in self.pool.waiting() {
            match self.pool.open(at, Some(pin.clone())) {
                (_, Ok(())) => (taken, open) = (true, true),
                (Login::Refused, Err(error)) if !taken => {
                    tracing::warn!(error = told(&error), "the PIN is refused");
                    return Err(PinError::Refused);
                }
                (Login::Withheld, Err(error)) if !taken => return Err(PinError::Withheld(told(&error))),
                (login, Err(error)) => {
                    taken |= login == Login::Taken;
                    problem = problem.or(Some(error));
                }
            }
        }
        if taken {
            self.pool.keep_pin(pin);
        }
        match problem {
            _ if open => Ok(()),
            Some(error) if taken => Err(PinError::Unusable(error)),
            Some(error) => Err(PinError::Unreachable(error)),
            None => Err(PinError::Present),
        }
    }

    /// Whether a PIN is here that a token has taken.
    pub fn has_pin(&self) -> bool {
        self.pool.has_pin()
    }

    /// How many calls may run side by side.
    pub fn sessions(&self) -> usize {
        self.pool.sessions()
    }

    /// How the tokens are.
    pub fn status(&self) -> Vec<TokenStatus> {
        self.pool.status()
    }

    /// Reads a caller's RSA key, as large as the configuration allows.
    ///
    /// # Errors
    /// [`BadRsaKey`].
    pub fn rsa_key(&self, spki: &[u8]) -> Result<RsaKey, BadRsaKey> {
        RsaKey::from_spki_up_to(spki, self.max_rsa_bits)
    }

    /// Has each token sign with each signing key, derive from each domain key, wrap, unwrap, and refuse a wrong context. A token that fails is taken
    /// out.
    ///
    /// # Errors
    /// [`HsmError`] if no token passes; if all lack keys, [`HsmError::Setup`].
    pub fn probe(&self) -> Result<(), HsmError> {
        let (mut passed, mut failed) = (false, None);
        for at in 0..self.pool.len() {
            let outcome = self.pool.probe(at, |link, bench| {
                let domains = bench.list(ObjectClass::SECRET_KEY)?;
                let signing = bench.list(ObjectClass::PRIVATE_KEY)?;
                if domains.is_empty() || signing.is_empty() {
                    return Err(work::Fault::Known(HsmError::Setup {
                        fact: "the token has no domain key or no signing key".into(),
                        remedy: "make them: envelopefs-keyserver init",
                        source: None,
                    }));
                }
                for id in signing {
                    let text = KeyId::random().0;
                    let key = link.key(bench, Use::Sign, id)?;
                    let signature = bench.sign(key, &crypto::sha256(&text))?;
                    let verified = bench.signing_key(id)?.verify(&text, &signature, Padding::Minimal);
                    verified.map_err(|error| work::Fault::Known(HsmError::Unavailable(error.into())))?;
                }
                for id in domains {
                    let key = link.key(bench, Use::Domain, id)?;
                    bench.test_parent(link.kdf(), key)?;
                }
                Ok(())
            });
            match outcome {
                Ok(()) => passed = true,
                Err(error) => failed = Some(error),
            }
        }
        match failed {
            Some(error) if !passed => Err(error),
            _ => Ok(()),
        }
    }

    /// Makes a domain key; nothing if it is there. For `init` and rotation, on no request's path.
    ///
    /// # Errors
    /// [`HsmError`].
    pub fn make_domain_key(&self, id: KeyId) -> Result<(), HsmError> {
        self.pool.write(move |bench| bench.make_domain_key(id))?;
        self.pool.forget(id);
        Ok(())
    }

    /// Makes a signing key, a pair on P-384; gives the one that is there.
    ///
    /// # Errors
    /// [`HsmError`].
    pub fn make_signing_key(&self, id: KeyId) -> Result<SigningKey, HsmError> {
        let key = self.pool.write(move |bench| bench.make_signing_key(id))?;
        self.pool.forget(id);
        Ok(key)
    }

    /// The public half of a signing key.
    ///
    /// # Errors
    /// [`HsmError`].
    pub fn signing_key(&self, id: KeyId) -> Result<SigningKey, HsmError> {
        self.pool.call(&[id], move |_, bench, _| bench.signing_key(id))
    }

    /// Signs a text: SHA-256 here, ECDSA in the token, DER in its one shortest form.
    ///
    /// # Errors
    /// [`HsmError`].
    pub fn sign(&self, key: KeyId, text: &[u8]) -> Result<Vec<u8>, HsmError> {
        let digest = crypto::sha256(text);
        self.pool.call(&[key], move |link, bench, _| bench.sign(link.key(bench, Use::Sign, key)?, &digest))
    }

    /// Makes a tenant's customer key under a domain key.
    ///
    /// # Errors
    /// [`HsmError`].
    pub fn make_customer_key(&self, domain: KeyId, tenant: &Tenant, version: u32) -> Result<CustomerKey, HsmError> {
        let tenant = tenant.clone();
        let wrapped = self.pool.call(&[domain], move |link, bench, kdf| {
            let key = link.key(bench, Use::Domain, domain)?;
            bench.make_customer_key(key, &Draft::customer_key(kdf, version, domain, &tenant))
        })?;
        Ok(CustomerKey { version, domain, wrapped })
    }

    /// Wraps a customer key under another domain key, or anew under the same.
    ///
    /// # Errors
    /// [`HsmError`].
    pub fn rewrap_customer_key(&self, key: &CustomerKey, tenant: &Tenant, to: KeyId) -> Result<CustomerKey, HsmError> {
        let CustomerKey { version, domain, .. } = *key;
        let body = key.body(tenant)?;
        let tenant = tenant.clone();
        let wrapped = self.pool.call(&[domain, to], move |link, bench, kdf| {
            let (from, into) = (link.key(bench, Use::Domain, domain)?, link.key(bench, Use::Domain, to)?);
            bench.rewrap(from, &body, into, &Draft::customer_key(kdf, version, to, &tenant))
        })?;
        Ok(CustomerKey { version, domain: to, wrapped })
    }

    /// Makes a secret for an owner, and gives it sealed and encrypted to a caller.
    ///
    /// # Errors
    /// [`HsmError`].
    pub fn generate(&self, key: &CustomerKey, owner: &Owner<'_>, rsa: &RsaKey) -> Result<Generated, HsmError> {
        let (customer, domain, version) = (key.body(owner.tenant)?, key.domain, key.version);
        let (owner, rsa) = (OwnOwner::of(owner), rsa.clone());
        let (sealed, wrapped) = self.pool.call(&[domain], move |link, bench, kdf| {
            let domain = link.key(bench, Use::Domain, domain)?;
            bench.generate(domain, &customer, &Draft::secret(kdf, version, &owner.borrow()), &rsa, link.oaep)
        })?;
        Ok(Generated { sealed, wrapped })
    }

    /// Opens a secret of an owner and gives it encrypted to a caller, as long as his key's modulus.
    ///
    /// # Errors
    /// [`HsmError`].
    pub fn decrypt(
        &self,
        key: &CustomerKey,
        sealed: &Sealed,
        owner: &Owner<'_>,
        rsa: &RsaKey,
    ) -> Result<Vec<u8>, HsmError> {
        let (customer, domain) = (key.body(owner.tenant)?, key.domain);
        let (body, rsa) = (key.sealed(sealed, owner)?, rsa.clone());
        self.pool.call(&[domain], move |link, bench, _| {
            let domain = link.key(bench, Use::Domain, domain)?;
            bench.decrypt(domain, &customer, &body, &rsa, link.oaep)
        })
    }

    /// Opens a secret of one owner and seals it for another; gives the new blob.
    ///
    /// # Errors
    /// [`HsmError`].
    pub fn convert(
        &self,
        from_key: &CustomerKey,
        sealed: &Sealed,
        from: &Owner<'_>,
        to_key: &CustomerKey,
        to: &Owner<'_>,
    ) -> Result<Vec<u8>, HsmError> {
        let (from_customer, to_customer) = (from_key.body(from.tenant)?, to_key.body(to.tenant)?);
        let (from_domain, to_domain, version) = (from_key.domain, to_key.domain, to_key.version);
        let (body, to) = (from_key.sealed(sealed, from)?, OwnOwner::of(to));
        self.pool.call(&[from_domain, to_domain], move |link, bench, kdf| {
            let from = (link.key(bench, Use::Domain, from_domain)?, &from_customer, &body);
            let draft = Draft::secret(kdf, version, &to.borrow());
            bench.convert(from, (link.key(bench, Use::Domain, to_domain)?, &to_customer, &draft))
        })
    }

    /// Destroys a domain key or a signing key in every token that works: what is wrapped under it is lost, for good.
    ///
    /// # Errors
    /// [`HsmError`].
    pub fn destroy_key(&self, id: KeyId) -> Result<(), HsmError> {
        let mut outcome = Err(HsmError::NoSuchKey(id));
        for at in 0..self.pool.len() {
            match self.pool.on(at, move |link, _| link.write(|bench| bench.destroy_key(id))) {
                // With the first, for a device that keeps them alike.
                Err(HsmError::NoSuchKey(_)) => {}
                other if outcome.is_err() => outcome = other,
                _ => {}
            }
        }
        self.pool.forget(id);
        outcome
    }
}

impl Drop for Cluster {
    /// Closes the sessions and ends the modules, as far as calls come back within two seconds: a module that is still at work when the process
    /// ends may well crash it.
    fn drop(&mut self) {
        self.pool.close();
        let start = Instant::now();
        while Arc::strong_count(&self.pool) > 1 && start.elapsed() < pool::FAREWELL {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl CustomerKey {
    fn body(&self, tenant: &Tenant) -> Result<blob::Body, HsmError> {
        blob::customer_key(&self.wrapped, self.version, self.domain, tenant)
    }

    /// A sealed secret that names this version.
    fn sealed(&self, sealed: &Sealed, owner: &Owner<'_>) -> Result<blob::Body, HsmError> {
        let right = sealed.customer_key_version() == self.version;
        right.then(|| sealed.body(owner)).ok_or(HsmError::WrongContext)
    }
}

/// An owner that a thread can take along.
struct OwnOwner {
    tenant: Tenant,
    instance: InstanceId,
    volume: VolumeName,
}

impl OwnOwner {
    fn of(owner: &Owner<'_>) -> Self {
        OwnOwner { tenant: owner.tenant.clone(), instance: owner.instance.clone(), volume: owner.volume.clone() }
    }

    fn borrow(&self) -> Owner<'_> {
        Owner { tenant: &self.tenant, instance: &self.instance, volume: &self.volume }
    }
}

/// An error with what lies behind it, in one line.
fn told(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
