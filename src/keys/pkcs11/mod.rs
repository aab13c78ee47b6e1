//! Provider `pkcs11`: a key in a hardware security module, smart card or TPM, by its vendor's PKCS#11 library.
//!
//! ```text
//! pkcs11:token=hsm;object=app?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=/etc/envelopefs/pin
//! ```
//!
//! The key cannot be read out of its token; the token wraps and unwraps the master key (`mechanism`), which is bound to volume,
//! key version and slot. The specification alone says which key is used, never the slot. Slots record the key's CKA_ID, by which another
//! key's slot is passed over.
//!
//! The same key may be in several tokens (replicas of an HSM): `alternative=` names them, and they are tried in order. Modules are foreign
//! code: each call has a thread of its own and is waited for only so long (`worker`). Set-up and all parameters:
//! contrib/providers/pkcs11.md.

mod mechanism;
// The key server drives modules, too.
pub(crate) mod module;
pub(crate) mod pin;
mod token;
pub(crate) mod uri;
mod worker;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use self::mechanism::Mechanism;
use self::token::{Names, Token};
use self::uri::{Settings, hex};
use self::worker::Worker;
use super::{KeyProvider, ProviderError, ProviderSpec, SlotContext, SlotData, join};
use crate::crypto::secret::Secret;

/// The provider's word in `volume.toml`.
pub const KIND: &str = "pkcs11";

/// A key in one or several tokens.
pub struct Pkcs11Provider {
    tokens: Vec<Served>,
    timeout: Duration,
}

/// A token, and what lends it to threads.
struct Served {
    /// For people.
    name: String,
    worker: Worker<Token>,
}

/// A slot's parameters: how it is wrapped and by which key. All are bound; all but `mechanism` and `key` are for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Parameters {
    mechanism: Mechanism,
    /// CKA_ID, in hexadecimal digits.
    key: String,
    /// CKA_LABEL.
    object: String,
    token: String,
    serial: String,
}

impl Parameters {
    fn new(mechanism: Mechanism, names: &Names) -> Self {
        let Names { id, object, token, serial } = names.clone();
        Parameters { mechanism, key: hex(&id), object, token, serial }
    }

    /// What the wrapped key is bound to.
    fn aad(&self, context: &SlotContext) -> Vec<u8> {
        let Parameters { mechanism, key, object, token, serial } = self;
        let texts = [KIND, mechanism.word(), key, object, token, serial].map(str::as_bytes);
        join(&[&[&context.encode()[..]], &texts[..]].concat())
    }
}

impl Pkcs11Provider {
    /// Reads a specification and the PINs it refers to; nothing is loaded before the first use.
    ///
    /// # Errors
    /// [`ProviderError::Spec`] or [`ProviderError::Setup`].
    pub fn open(spec: ProviderSpec) -> Result<Self, ProviderError> {
        let Settings { places, timeout, rules } = Settings::of(spec)?;
        let serve = |(at, place): (usize, uri::Place)| {
            let name = format!("PKCS#11 {} ({})", place.uri, place.module.display());
            // In the first place alone: keys made in several would differ.
            let make = rules.make && at == 0;
            Served { name, worker: Worker::new(Token::new(place, rules, make)) }
        };
        Ok(Pkcs11Provider { tokens: places.into_iter().enumerate().map(serve).collect(), timeout })
    }

    /// Runs a job with one token.
    fn on<T: Send + 'static>(
        &self,
        served: &Served,
        job: impl FnOnce(&mut Token) -> Result<T, ProviderError> + Send + 'static,
    ) -> Result<T, ProviderError> {
        let unreachable = |source| ProviderError::Unreachable { provider: served.name.clone(), source };
        served.worker.call(self.timeout, job).map_err(|error| unreachable(error.into()))?
    }

    /// Tries the tokens in order; the first error is the answer if none succeeds.
    fn first<T>(&self, attempt: impl Fn(&Served) -> Result<T, ProviderError>) -> Result<T, ProviderError> {
        let mut first = None;
        for served in &self.tokens {
            match attempt(served) {
                Err(error) if !error.is_damage() => first = first.or(Some(self.passed_over(served, error))),
                outcome => return outcome,
            }
        }
        Err(first.unwrap_or_else(|| ProviderError::Malformed("there is no token to ask".into())))
    }

    /// Logs why a token of several does not serve: of these errors the caller sees only one.
    fn passed_over(&self, served: &Served, error: ProviderError) -> ProviderError {
        if self.tokens.len() > 1 {
            tracing::warn!(token = served.name, error = told(&error), "one of several tokens does not serve");
        }
        error
    }
}

impl KeyProvider for Pkcs11Provider {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn describe(&self) -> String {
        let names: Vec<_> = self.tokens.iter().map(|served| served.name.as_str()).collect();
        names.join(", or ")
    }

    fn wrap(&self, master: &Secret<32>, context: &SlotContext) -> Result<SlotData, ProviderError> {
        self.first(|served| {
            let (master, context) = (Secret::fill_with(|out| *out = *master.expose()), *context);
            self.on(served, move |token| {
                let wrap = |connection: &token::Connection| {
                    let parameters = Parameters::new(connection.choice.mechanism, &connection.names);
                    let aad = parameters.aad(&context);
                    let wrapped =
                        mechanism::wrap(&connection.session, &connection.key, connection.choice, &master, &aad)?;
                    Ok((parameters, wrapped))
                };
                let (parameters, wrapped) = token.run(true, wrap, Token::not_wrapped)?;
                let parameters = toml::Table::try_from(&parameters).expect("strings make a table");
                Ok(SlotData { parameters, wrapped })
            })
        })
    }

    fn unwrap(&self, slot: &SlotData, context: &SlotContext) -> Option<Result<Secret<32>, ProviderError>> {
        let malformed = |error: toml::de::Error| ProviderError::Malformed(error.message().into());
        let parameters: Parameters = match slot.parameters.clone().try_into().map_err(malformed) {
            Ok(parameters) => parameters,
            Err(error) => return Some(Err(error)),
        };
        let slot = Arc::new((parameters, slot.wrapped.clone(), *context));
        let mut first = None;
        for served in &self.tokens {
            let slot = slot.clone();
            let opened = self.on(served, move |token| {
                let (parameters, wrapped, context) = &*slot;
                let unwrap = |connection: &token::Connection| {
                    if hex(&connection.names.id) != parameters.key {
                        return Ok(None);
                    }
                    if !connection.key.can(parameters.mechanism) {
                        let what = format!("its key is not one for {}", parameters.mechanism.word());
                        return Err(ProviderError::Malformed(what).into());
                    }
                    let aad = parameters.aad(context);
                    mechanism::unwrap(&connection.session, &connection.key, parameters.mechanism, wrapped, &aad)
                        .map(Some)
                };
                token.run(false, unwrap, Token::not_unwrapped)
            });
            match opened {
                Ok(Some(master)) => return Some(Ok(master)),
                Ok(None) => {}
                Err(error) if error.is_damage() => return Some(Err(error)),
                Err(error) => first = first.or(Some(self.passed_over(served, error))),
            }
        }
        first.map(Err)
    }

    fn check(&self) -> Result<(), ProviderError> {
        self.first(|served| self.on(served, Token::check))
    }

    fn facts(&self) -> Vec<(String, String)> {
        let mut facts = Vec::new();
        for served in &self.tokens {
            match self.on(served, Token::facts) {
                Ok(found) => facts.extend(found),
                Err(error) => facts.push((served.name.clone(), told(&error))),
            }
        }
        facts
    }
}

impl std::fmt::Debug for Pkcs11Provider {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Pkcs11Provider").field(&self.describe()).finish()
    }
}

/// An error with what lies behind it, in one line.
fn told(error: &ProviderError) -> String {
    let causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
