//! A connection to one token: found by its attributes, logged in once, its key found or made, tested, and opened anew when it is lost.
//!
//! Rules of PKCS#11 that this file keeps: login belongs to the process, so "already logged in" is success and nothing ever logs out; a
//! session that gave an error is not used again; handles are looked up anew in each connection; a PIN that was refused is not sent again,
//! and none is sent to a token that the next wrong one would lock.

use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::{Mechanism as Ck, MechanismType};
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, SessionState, UserType};
use cryptoki::slot::{Slot, TokenInfo};
use cryptoki::types::RawAuthPin;

use super::mechanism::{self, Choice, Key, Mechanism, RsaKey, Trouble};
use super::module::Module;
use super::uri::{Class, Place, Rules, hex};
use crate::crypto;
use crate::crypto::Unauthentic;
use crate::crypto::rsa::PublicKey;
use crate::crypto::secret::Secret;
use crate::keys::{Cause, ProviderError, join};

/// Bits of an RSA key made here: what TPMs and smart cards can do.
const RSA_BITS: u64 = 2048;
/// Bytes of the CKA_ID of a key made here. Random: it tells keys apart in whatever token they are.
const KEY_ID: usize = 16;

/// A token, connected or not.
pub(super) struct Token {
    place: Place,
    rules: Rules,
    /// Keys may be made here.
    make: bool,
    /// The key was here: if it is not any more, that is a refusal, not a mistake in a specification.
    had_key: bool,
    // Dropped in this order: the session ends before its module does.
    connection: Option<Connection>,
    module: Option<Module>,
}

/// A session that works, and what was found in it.
pub(super) struct Connection {
    pub(super) session: Session,
    pub(super) key: Key,
    pub(super) choice: Choice,
    pub(super) names: Names,
    slot: Slot,
}

/// What is recorded in a slot to name the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Names {
    /// CKA_ID.
    pub(super) id: Vec<u8>,
    /// CKA_LABEL.
    pub(super) object: String,
    pub(super) token: String,
    pub(super) serial: String,
}

/// A key as it was found.
struct Found {
    key: Key,
    id: Vec<u8>,
    label: String,
}

impl Token {
    /// Nothing is loaded or asked yet.
    pub(super) fn new(place: Place, rules: Rules, make: bool) -> Self {
        Token { place, rules, make, had_key: false, connection: None, module: None }
    }

    /// Runs `operation` on a connection that has passed the self-test. One that fails on an older connection is tried once more on a new one:
    /// the token may have been away. What fails on a new one, where the self-test has just passed, is not the connection's fault.
    ///
    /// # Errors
    /// [`ProviderError`]; what `blame` makes of the token's error if the token is well and refuses nevertheless.
    pub(super) fn run<T>(
        &mut self,
        making: bool,
        operation: impl Fn(&Connection) -> Result<T, Trouble>,
        blame: impl Fn(&Self, Error) -> ProviderError,
    ) -> Result<T, ProviderError> {
        loop {
            let fresh = self.connection.is_none();
            let connection = match self.connection.take() {
                Some(connection) => connection,
                None => self.connect(making)?,
            };
            match operation(&connection) {
                Ok(value) => {
                    self.connection = Some(connection);
                    return Ok(value);
                }
                // Found here, not by the token: its session is as it was.
                Err(Trouble::Known(error)) => {
                    self.connection = Some(connection);
                    return Err(error);
                }
                Err(Trouble::Token(error)) => {
                    drop(connection);
                    if fresh || is_of_data(&error) {
                        return Err(blame(self, error));
                    }
                    tracing::info!(token = self.place.uri.token_name(), %error, "the connection to the token is made anew");
                }
            }
        }
    }

    /// Whether it could wrap and unwrap now: connects, or asks after the session there is.
    pub(super) fn check(&mut self) -> Result<(), ProviderError> {
        let ask = |connection: &Connection| Ok(connection.session.get_session_info().map(drop)?);
        self.run(false, ask, Self::not_wrapped)
    }

    /// What an error in unwrapping means on a token that is well.
    pub(super) fn not_unwrapped(&self, error: Error) -> ProviderError {
        if is_lost(&error) {
            return self.unreachable(error);
        }
        tracing::debug!(token = self.place.uri.token_name(), %error, "does not unwrap");
        Unauthentic.into()
    }

    /// What an error in wrapping means on a token that is well.
    pub(super) fn not_wrapped(&self, error: Error) -> ProviderError {
        if is_lost(&error) {
            self.unreachable(error)
        } else {
            self.refused(format!("it does not wrap: {error}"), "see: envelopefs key probe")
        }
    }

    fn connect(&mut self, making: bool) -> Result<Connection, ProviderError> {
        let first = self.module.is_none();
        if first {
            self.module = Some(Module::open(&self.place.module)?);
        }
        let (slot, info) = match self.find_token() {
            Err(ProviderError::Unreachable { .. }) if !first => {
                // It was away, and the module may keep on thinking so.
                if let Some(module) = &self.module {
                    module.restart();
                }
                self.find_token()?
            }
            found => found?,
        };
        let session = self.pkcs11()?.open_ro_session(slot).map_err(|error| self.failed("opens no session", error))?;
        self.log_in(&session, slot, &info)?;
        let found = match self.find_key(&session)? {
            Some(found) => found,
            None if self.make && making => {
                self.make_key(slot)?;
                self.find_key(&session)?.ok_or_else(|| self.no_key())?
            }
            None => return Err(self.no_key()),
        };
        self.had_key = true;
        let choice = self.choose(slot, &found.key)?;
        let names = Names {
            id: found.id,
            object: found.label,
            token: info.label().to_owned(),
            serial: info.serial_number().to_owned(),
        };
        Ok(Connection { session, key: found.key, choice, names, slot })
    }

    fn pkcs11(&self) -> Result<&cryptoki::context::Pkcs11, ProviderError> {
        let module = self.module.as_ref().ok_or_else(|| self.unreachable("its module is not loaded"))?;
        Ok(module.pkcs11())
    }

    /// The one token that has all attributes which are named.
    fn find_token(&self) -> Result<(Slot, TokenInfo), ProviderError> {
        let pkcs11 = self.pkcs11()?;
        let slots = pkcs11.get_slots_with_token().map_err(|error| self.failed("lists no tokens", error))?;
        let uri = &self.place.uri;
        let (mut fitting, mut others) = (Vec::new(), Vec::new());
        for slot in slots {
            let Ok(info) = pkcs11.get_token_info(slot) else { continue };
            match uri.fits(slot, &info) && info.token_initialized() {
                true => fitting.push((slot, info)),
                false if info.token_initialized() => others.push(format!("{:?}", info.label())),
                false => {}
            }
        }
        match fitting.len() {
            1 => fitting.pop().ok_or_else(|| self.unreachable("there is no such token")),
            0 if others.is_empty() => Err(self.unreachable("no token is present")),
            0 => Err(self.unreachable(format!("there is no such token; present: {}", others.join(", ")))),
            several => Err(ProviderError::Setup {
                fact: format!("{several} tokens fit {}", uri.token_name()),
                remedy: "name one of them by serial=…, as `pkcs11-tool --list-token-slots` shows it; others can be alternatives",
                source: None,
            }),
        }
    }

    /// Logs the process in unless it is, with one attempt.
    fn log_in(&self, session: &Session, slot: Slot, info: &TokenInfo) -> Result<(), ProviderError> {
        let state = session.get_session_info().map(|info| info.session_state());
        if !info.login_required() || matches!(state, Ok(SessionState::RoUser | SessionState::RwUser)) {
            return Ok(());
        }
        const UNLOCK: &str = "have the token's security officer unlock it, with the vendor's tool";
        if info.user_pin_locked() {
            return Err(self.refused("its PIN is locked (CKF_USER_PIN_LOCKED)", UNLOCK));
        }
        if !info.user_pin_initialized() {
            return Err(
                self.refused("it has no user PIN yet", "set one, with the vendor's tool or pkcs11-tool --init-pin")
            );
        }
        let entered = match &self.place.pin {
            None if info.protected_authentication_path() => session.login(UserType::User, None),
            None => {
                return Err(ProviderError::Setup {
                    fact: format!("{} wants a PIN", self.place.uri.token_name()),
                    remedy: "say where it is: pin-source=PATH, pin-fd=N or pin-credential=NAME",
                    source: None,
                });
            }
            Some(pin) => {
                const CHANGE: &str = "put the right PIN where it is read from; it is not tried again by itself, since wrong ones lock tokens";
                let Some(bytes) = pin.expose() else { return Err(self.refused("this PIN was refused before", CHANGE)) };
                if info.user_pin_final_try() {
                    let reason = "one wrong PIN more would lock it (CKF_USER_PIN_FINAL_TRY), so none is sent";
                    return Err(self.refused(reason, "log in once with the vendor's tool, which ends this state"));
                }
                let entered = session.login_with_raw(UserType::User, &RawAuthPin::new(Box::new(bytes.to_vec())));
                if let Err(Error::Pkcs11(code, _)) = &entered {
                    use RvError::{
                        PinExpired, PinIncorrect, PinInvalid, PinLenRange, PinLocked, UserPinNotInitialized,
                    };
                    if matches!(
                        code,
                        PinIncorrect | PinLenRange | PinInvalid | PinLocked | PinExpired | UserPinNotInitialized
                    ) {
                        pin.refuse();
                    }
                    let reason = match code {
                        PinIncorrect | PinLenRange | PinInvalid => {
                            let left = match self.pkcs11()?.get_token_info(slot) {
                                Ok(info) if info.user_pin_locked() => ", and it is locked now",
                                Ok(info) if info.user_pin_final_try() => ", and the next wrong one locks it",
                                Ok(info) if info.user_pin_count_low() => ", and it counts wrong ones",
                                _ => "",
                            };
                            return Err(self.refused(format!("the PIN is wrong ({code:?}){left}"), CHANGE));
                        }
                        PinLocked => return Err(self.refused("its PIN is locked (CKR_PIN_LOCKED)", UNLOCK)),
                        PinExpired => "its PIN has expired and must be changed (CKR_PIN_EXPIRED)",
                        UserPinNotInitialized => "it has no user PIN yet (CKR_USER_PIN_NOT_INITIALIZED)",
                        _ => "",
                    };
                    if !reason.is_empty() {
                        return Err(self.refused(reason, "set a PIN with the vendor's tool"));
                    }
                }
                entered
            }
        };
        match entered {
            Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => Ok(()),
            Err(error) => Err(self.failed("does not log us in", error)),
        }
    }

    /// The one key that the specification names, if it is there.
    fn find_key(&self, session: &Session) -> Result<Option<Found>, ProviderError> {
        let failed = |error| self.failed("does not look for keys", error);
        let secrets = if self.wants(Class::SecretKey) {
            self.objects(session, ObjectClass::SECRET_KEY).map_err(failed)?
        } else {
            vec![]
        };
        let privates = if self.wants(Class::PrivateKey) {
            self.objects(session, ObjectClass::PRIVATE_KEY).map_err(failed)?
        } else {
            vec![]
        };
        match (&secrets[..], &privates[..]) {
            ([], []) => Ok(None),
            ([one], []) => self.secret_key(session, *one).map(Some),
            ([], some) => self.rsa_key(session, some).map(Some),
            ([_, _, ..], _) => Err(self.duplicates(secrets.len(), "secret keys")),
            ([_], _) => Err(ProviderError::Setup {
                fact: format!("{} is a secret key, and a private key as well", self.place.uri),
                remedy: "say which: type=secret-key or type=private before the question mark",
                source: None,
            }),
        }
    }

    /// Whether a class of key comes into question.
    fn wants(&self, class: Class) -> bool {
        let by_mechanism = self.rules.mechanism.is_none_or(|choice| class_of(choice.mechanism) == class);
        by_mechanism && self.place.uri.class.is_none_or(|named| named == class)
    }

    fn objects(&self, session: &Session, class: ObjectClass) -> Result<Vec<ObjectHandle>, Error> {
        let mut template = vec![Attribute::Class(class), Attribute::Token(true)];
        template.extend(self.place.uri.object.as_ref().map(|label| Attribute::Label(label.clone().into_bytes())));
        template.extend(self.place.uri.id.as_ref().map(|id| Attribute::Id(id.clone())));
        session.find_objects(&template)
    }

    fn duplicates(&self, count: usize, what: &str) -> ProviderError {
        ProviderError::Setup {
            fact: format!("{count} {what} are called {}; which one is meant cannot be known", self.place.uri),
            remedy: "name one by id=%..%.. before the question mark, or give the others another label (pkcs11-tool --list-objects shows them)",
            source: None,
        }
    }

    fn no_key(&self) -> ProviderError {
        if self.had_key {
            return self
                .refused("the key is no longer in it", "use another key slot; who removed the key has revoked it");
        }
        ProviderError::Setup {
            fact: format!("there is no {}", self.place.uri),
            remedy: match self.make {
                true => "it is made with the first key slot, since make=true: envelopefs init, or key add",
                false => "check label and id, or let the first key slot make it: make=true",
            },
            source: None,
        }
    }

    fn secret_key(&self, session: &Session, handle: ObjectHandle) -> Result<Found, ProviderError> {
        let facts = self.attributes(session, handle)?;
        let bits256 = facts.value_len.is_none_or(|len| len == 32);
        let key = match facts.key_type {
            Some(KeyType::AES) if bits256 && facts.encrypt && facts.decrypt => Key::Aes(handle),
            Some(KeyType::GENERIC_SECRET | KeyType::SHA256_HMAC)
                if facts.value_len.is_none_or(|len| len >= 32) && facts.sign =>
            {
                Key::Hmac(handle)
            }
            Some(KeyType::AES) if !bits256 => return Err(self.unfit("is no AES key of 256 bits")),
            Some(KeyType::AES) => return Err(self.unfit("may not encrypt and decrypt")),
            Some(KeyType::GENERIC_SECRET | KeyType::SHA256_HMAC) => {
                return Err(self.unfit("has less than 32 bytes, or may not sign"));
            }
            _ => return Err(self.unfit("is neither AES nor a generic secret")),
        };
        if self.rules.mechanism.is_some_and(|choice| !key.can(choice.mechanism)) {
            return Err(self.unfit("is of another type than the mechanism that is asked for"));
        }
        Ok(Found { key, id: facts.id, label: facts.label })
    }

    fn rsa_key(&self, session: &Session, handles: &[ObjectHandle]) -> Result<Found, ProviderError> {
        let mut keys = Vec::new();
        for handle in handles {
            let facts = self.attributes(session, *handle)?;
            if facts.key_type == Some(KeyType::RSA) {
                keys.push((*handle, facts));
            }
        }
        let one = |what: &'static str, may: fn(&Facts) -> bool| {
            let mut fitting = keys.iter().filter(|(_, facts)| may(facts));
            match (fitting.next(), fitting.count()) {
                (None, _) => Err(self.unfit(what)),
                (Some(key), 0) => Ok(key),
                (_, more) => Err(self.duplicates(more + 1, "RSA keys")),
            }
        };
        let (decrypt, facts) = one("is no RSA key that may decrypt", |facts| facts.decrypt)?;
        let (sign, signing) = one("is no RSA key that may sign, or has none beside it", |facts| facts.sign)?;
        let public = |facts: &Facts| {
            PublicKey::new(&facts.modulus, &facts.exponent).ok_or_else(|| {
                self.unfit("does not show its public half, or has less than 2048 or more than 8192 bits")
            })
        };
        let key = RsaKey { decrypt: (*decrypt, public(facts)?), sign: (*sign, public(signing)?) };
        Ok(Found { key: Key::Rsa(Box::new(key)), id: facts.id.clone(), label: facts.label.clone() })
    }

    fn unfit(&self, why: &str) -> ProviderError {
        ProviderError::Setup {
            fact: format!("{} {why}", self.place.uri),
            remedy: "name another key, or let one be made under a new label: make=true",
            source: None,
        }
    }

    /// What a key's attributes say; a key that can be read out is refused unless that was allowed.
    fn attributes(&self, session: &Session, handle: ObjectHandle) -> Result<Facts, ProviderError> {
        use AttributeType as A;
        let wanted = [
            A::KeyType,
            A::ValueLen,
            A::Id,
            A::Label,
            A::Encrypt,
            A::Decrypt,
            A::Sign,
            A::Sensitive,
            A::Extractable,
            A::Modulus,
            A::PublicExponent,
        ];
        let attributes = session.get_attributes(handle, &wanted);
        let mut facts = Facts::default();
        for attribute in attributes.map_err(|error| self.failed("does not describe its key", error))? {
            match attribute {
                Attribute::KeyType(value) => facts.key_type = Some(value),
                Attribute::ValueLen(value) => facts.value_len = Some(usize::from(value)),
                Attribute::Id(value) => facts.id = value,
                Attribute::Label(value) => facts.label = String::from_utf8_lossy(&value).into_owned(),
                Attribute::Encrypt(value) => facts.encrypt = value,
                Attribute::Decrypt(value) => facts.decrypt = value,
                Attribute::Sign(value) => facts.sign = value,
                Attribute::Sensitive(value) => facts.readable |= !value,
                Attribute::Extractable(value) => facts.readable |= value,
                Attribute::Modulus(value) => facts.modulus = value,
                Attribute::PublicExponent(value) => facts.exponent = value,
                _ => {}
            }
        }
        if facts.readable && !self.rules.extractable {
            return Err(ProviderError::Setup {
                fact: format!("{} can be read out of its token: it is extractable, or not sensitive", self.place.uri),
                remedy: "let one be made that cannot, under a new label (make=true); insecure-extractable-key=true takes it all the same",
                source: None,
            });
        }
        if facts.readable {
            tracing::warn!(key = %self.place.uri, "the key can be read out of its token");
        }
        Ok(facts)
    }

    /// Makes a key that never leaves the token and does one thing.
    fn make_key(&self, slot: Slot) -> Result<(), ProviderError> {
        let pkcs11 = self.pkcs11()?;
        let failed = |error| self.failed("does not make a key", error);
        let session = pkcs11.open_rw_session(slot).map_err(failed)?;
        let mechanisms = pkcs11.get_mechanism_list(slot).map_err(failed)?;
        let has = |all: &[MechanismType]| all.iter().all(|mechanism| mechanisms.contains(mechanism));
        let possible = |mechanism: Mechanism| {
            self.wants(class_of(mechanism))
                && self.rules.mechanism.is_none_or(|choice| choice.mechanism == mechanism)
                && match mechanism {
                    Mechanism::AesGcm => has(&[MechanismType::AES_GCM, MechanismType::AES_KEY_GEN]),
                    Mechanism::HmacSha256 => has(&[MechanismType::SHA256_HMAC, MechanismType::GENERIC_SECRET_KEY_GEN]),
                    Mechanism::RsaOaepSha256 | Mechanism::RsaOaepSha1 => has(&[
                        MechanismType::RSA_PKCS_OAEP,
                        MechanismType::SHA256_RSA_PKCS,
                        MechanismType::RSA_PKCS_KEY_PAIR_GEN,
                    ]),
                }
        };
        let order = [Mechanism::AesGcm, Mechanism::HmacSha256, Mechanism::RsaOaepSha256, Mechanism::RsaOaepSha1];
        let Some(mechanism) = order.into_iter().find(|mechanism| possible(*mechanism)) else {
            return Err(ProviderError::Setup {
                fact: format!("{} cannot make a key for any mechanism that is allowed", self.place.uri.token_name()),
                remedy: "make the key with the vendor's tool; `envelopefs key probe` lists what the token can do",
                source: None,
            });
        };
        let label = self.place.uri.object.clone().unwrap_or_else(|| "envelopefs".into());
        let named = |id: &[u8]| {
            vec![Attribute::Token(true), Attribute::Label(label.clone().into_bytes()), Attribute::Id(id.to_vec())]
        };
        let hidden = [Attribute::Private(true), Attribute::Sensitive(true), Attribute::Extractable(false)];
        let id = || self.place.uri.id.clone().unwrap_or_else(random_id);
        // - what a key may do is said outright: tokens differ in what they assume
        let may = |encrypt, sign| {
            [Attribute::Encrypt(encrypt), Attribute::Decrypt(encrypt), Attribute::Sign(sign), Attribute::Verify(sign)]
                .into_iter()
                .chain([Attribute::Wrap(false), Attribute::Unwrap(false), Attribute::Derive(false)])
        };
        let secret = |key_type, encrypt, sign| {
            let mut template = named(&id());
            template.extend([
                Attribute::Class(ObjectClass::SECRET_KEY),
                Attribute::KeyType(key_type),
                Attribute::ValueLen(32.into()),
            ]);
            template.extend(hidden.clone());
            template.extend(may(encrypt, sign));
            template
        };
        match mechanism {
            Mechanism::AesGcm => session.generate_key(&Ck::AesKeyGen, &secret(KeyType::AES, true, false)).map(drop),
            Mechanism::HmacSha256 => {
                session.generate_key(&Ck::GenericSecretKeyGen, &secret(KeyType::GENERIC_SECRET, false, true)).map(drop)
            }
            Mechanism::RsaOaepSha256 | Mechanism::RsaOaepSha1 => [false, true].into_iter().try_for_each(|signs| {
                let id = if signs { random_id() } else { id() };
                let (mut public, mut private) = (named(&id), named(&id));
                public.extend([
                    Attribute::Private(false),
                    Attribute::ModulusBits(RSA_BITS.into()),
                    Attribute::PublicExponent(vec![1, 0, 1]),
                    Attribute::Encrypt(!signs),
                    Attribute::Verify(signs),
                ]);
                private.extend(hidden.clone());
                private.extend([Attribute::Decrypt(!signs), Attribute::Sign(signs)]);
                session.generate_key_pair(&Ck::RsaPkcsKeyPairGen, &public, &private).map(drop)
            }),
        }
        .map_err(failed)?;
        tracing::info!(key = %self.place.uri, mechanism = mechanism.word(), "a key was made in the token");
        Ok(())
    }

    /// The mechanism for new slots: the one asked for, or the first that passes the self-test.
    fn choose(&self, slot: Slot, key: &Key) -> Result<Choice, ProviderError> {
        let asked = self.rules.mechanism;
        let mut refusal = None;
        for choice in key.choices().iter().filter(|choice| asked.is_none_or(|asked| asked == **choice)) {
            match self.self_test(slot, key, *choice) {
                Ok(()) => return Ok(*choice),
                Err(Trouble::Known(error)) => return Err(error),
                Err(Trouble::Token(error)) if is_lost(&error) => return Err(self.unreachable(error)),
                Err(Trouble::Token(error)) => refusal = refusal.or(Some(error)),
            }
        }
        Err(ProviderError::Setup {
            fact: format!("{} does not pass the self-test", self.place.uri),
            remedy: "see what the token can do with `envelopefs key probe`, and name another mechanism",
            source: refusal.map(Cause::from),
        })
    }

    /// Wraps, unwraps, and expects refusals: of another place, and of a changed bit. In a session of its own, which errors may spoil.
    fn self_test(&self, slot: Slot, key: &Key, choice: Choice) -> Result<(), Trouble> {
        let lies = |what: &str| ProviderError::Answer {
            provider: self.place.uri.token_name(),
            what: format!("in the self-test, {what}"),
        };
        let session = || Ok::<_, Trouble>(self.pkcs11()?.open_ro_session(slot)?);
        let mut nonce = [0; 16];
        crypto::random(&mut nonce);
        let aad = join(&[b"envelopefs/v1/pkcs11-self-test", &nonce]);
        let other = join(&[b"envelopefs/v1/pkcs11-self-test", &nonce, b"other"]);
        let master = Secret::random();
        let good = session()?;
        let wrapped = mechanism::wrap(&good, key, choice, &master, &aad)?;
        let again = mechanism::wrap(&good, key, choice, &master, &aad)?;
        if wrapped.get(..12) == again.get(..12) {
            return Err(lies("it has used a nonce twice").into());
        }
        if mechanism::unwrap(&good, key, choice.mechanism, &wrapped, &aad)?.expose() != master.expose() {
            return Err(lies("it has unwrapped something else than was wrapped").into());
        }
        if mechanism::unwrap(&session()?, key, choice.mechanism, &wrapped, &other).is_ok() {
            return Err(lies("it has unwrapped for another place").into());
        }
        let mut changed = wrapped;
        if let Some(last) = changed.last_mut() {
            *last ^= 1;
        }
        if mechanism::unwrap(&session()?, key, choice.mechanism, &changed, &aad).is_ok() {
            return Err(lies("it has unwrapped what was changed").into());
        }
        Ok(())
    }

    /// What there is, for people; connects first.
    pub(super) fn facts(&mut self) -> Result<Vec<(String, String)>, ProviderError> {
        if self.connection.is_none() {
            self.connection = Some(self.connect(false)?);
        }
        let (Some(connection), pkcs11) = (&self.connection, self.pkcs11()?) else { return Ok(Vec::new()) };
        let failed = |error| self.failed("does not describe itself", error);
        let library = pkcs11.get_library_info().map_err(failed)?;
        let info = pkcs11.get_token_info(connection.slot).map_err(failed)?;
        let mut mechanisms = pkcs11.get_mechanism_list(connection.slot).map_err(failed)?;
        mechanisms.sort_by_key(|mechanism| **mechanism);
        let pin = [(info.user_pin_count_low(), "wrong ones are counted"), (info.user_pin_final_try(), "one try left")];
        let pin: Vec<_> = pin.into_iter().filter(|(is, _)| *is).map(|(_, text)| text).collect();
        let key = match &connection.key {
            Key::Aes(_) => "AES, 256 bits".to_owned(),
            Key::Hmac(_) => "generic secret".to_owned(),
            Key::Rsa(key) if key.decrypt.0 == key.sign.0 => {
                format!("RSA, {} bits, for both purposes", key.decrypt.1.bits())
            }
            Key::Rsa(key) => format!("RSA, {} bits, and {} bits to sign", key.decrypt.1.bits(), key.sign.1.bits()),
        };
        let possible: Vec<_> = connection.key.choices().iter().map(|choice| choice.word()).collect();
        let list: Vec<_> = mechanisms.iter().map(ToString::to_string).collect();
        let facts = [
            (
                "module",
                format!(
                    "{} ({} {}, version {}, PKCS#11 {})",
                    self.place.module.display(),
                    library.manufacturer_id(),
                    library.library_description(),
                    library.library_version(),
                    library.cryptoki_version()
                ),
            ),
            (
                "token",
                format!(
                    "{:?}, serial {}, {} {}, firmware {}, slot {}",
                    info.label(),
                    info.serial_number(),
                    info.manufacturer_id(),
                    info.model(),
                    info.firmware_version(),
                    connection.slot.id()
                ),
            ),
            ("PIN", if pin.is_empty() { "nothing to report".into() } else { pin.join(", ") }),
            ("key", format!("{:?}, id {}: {key}", connection.names.object, hex(&connection.names.id))),
            ("mechanism", format!("{} (this key: {})", connection.choice.word(), possible.join(", "))),
            ("token's mechanisms", list.join(" ")),
        ];
        Ok(facts.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
    }

    fn name(&self) -> String {
        format!("PKCS#11 {} ({})", self.place.uri.token_name(), self.place.module.display())
    }

    pub(super) fn unreachable(&self, source: impl Into<Cause>) -> ProviderError {
        ProviderError::Unreachable { provider: self.name(), source: source.into() }
    }

    fn refused(&self, reason: impl Into<String>, remedy: &'static str) -> ProviderError {
        ProviderError::Refused { provider: self.name(), reason: reason.into(), remedy }
    }

    /// An error outside wrapping and unwrapping.
    fn failed(&self, doing: &str, error: Error) -> ProviderError {
        if is_lost(&error) {
            return self.unreachable(error);
        }
        self.refused(format!("it {doing}: {error}"), "see the module's own log and manual")
    }
}

/// What decides about a key.
#[derive(Debug, Default)]
struct Facts {
    key_type: Option<KeyType>,
    value_len: Option<usize>,
    id: Vec<u8>,
    label: String,
    encrypt: bool,
    decrypt: bool,
    sign: bool,
    readable: bool,
    modulus: Vec<u8>,
    exponent: Vec<u8>,
}

fn random_id() -> Vec<u8> {
    let mut id = vec![0; KEY_ID];
    crypto::random(&mut id);
    id
}

fn class_of(mechanism: Mechanism) -> Class {
    match mechanism {
        Mechanism::AesGcm | Mechanism::HmacSha256 => Class::SecretKey,
        Mechanism::RsaOaepSha256 | Mechanism::RsaOaepSha1 => Class::PrivateKey,
    }
}

/// Codes that speak of the ciphertext alone.
fn is_of_data(error: &Error) -> bool {
    matches!(error, Error::Pkcs11(RvError::EncryptedDataInvalid | RvError::EncryptedDataLenRange, _))
}

/// Codes that speak of a token or session that is gone.
fn is_lost(error: &Error) -> bool {
    use RvError as E;
    let Error::Pkcs11(code, _) = error else { return false };
    matches!(
        code,
        E::DeviceRemoved
            | E::TokenNotPresent
            | E::TokenNotRecognized
            | E::SlotIdInvalid
            | E::SessionHandleInvalid
            | E::SessionClosed
            | E::CryptokiNotInitialized
            | E::UserNotLoggedIn
    )
}
