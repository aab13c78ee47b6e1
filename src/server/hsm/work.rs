//! What is done in one session: keys found and made, derived, wrapped, unwrapped; secrets released; texts signed.
//!
//! Every temporary object is destroyed when its name goes out of scope, on errors too. All flags of a key are given, those that it must not have
//! as well: what a token takes for granted differs.

use std::cell::Cell;
use std::time::{SystemTime, UNIX_EPOCH};

use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::rsa::{PkcsMgfType, PkcsOaepParams, PkcsOaepSource};
use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;
use zeroize::{Zeroize, Zeroizing};

use super::blob::{Body, Draft};
use super::profile::{Kdf, Oaep, Wrap};
use super::rsa::RsaKey;
use super::{HsmError, KeyId};
use crate::api::signature::{self, SigningKey};
use crate::crypto;
use crate::crypto::key_wrap;
use crate::crypto::rsa::OaepHash;
use crate::crypto::secret::Secret;

/// Bytes of each symmetric key and of a secret.
const KEY: u64 = 32;
/// The curve P-384, DER of its object identifier.
const P384: [u8; 7] = [0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22];
/// Bytes of an uncompressed point on it.
const POINT: usize = 97;
/// What precedes a point in a SubjectPublicKeyInfo (RFC 5480).
const SPKI_HEAD: [u8; 23] = [
    0x30, 0x76, 0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05, 0x2b, 0x81, 0x04, 0x00,
    0x22, 0x03, 0x62, 0x00,
];

/// What went wrong in a session.
#[derive(Debug)]
pub(super) enum Fault {
    /// Found out here; the token is as it was.
    Known(HsmError),
    /// The token's error, and what it would mean if the token is well.
    Token(Error, Meaning),
}

/// What an error of a token that is well says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    /// Nothing about what was sent.
    Nothing,
    /// The blob is not what it should be.
    Blob,
    /// The caller's key is one that the token does not take.
    RsaKey,
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Fault::Token(error, Meaning::Nothing)
    }
}

impl From<HsmError> for Fault {
    fn from(error: HsmError) -> Self {
        Fault::Known(error)
    }
}

/// What is the same in all sessions.
#[derive(Debug)]
pub(super) struct Rules {
    pub(super) domain_key: String,
    pub(super) signing_key: String,
    pub(super) public_key: String,
    /// Temporary keys are token objects, with this in front of their labels.
    pub(super) temporary: Option<String>,
}

/// A session at work.
pub(super) struct Bench<'a> {
    session: &'a Session,
    rules: &'a Rules,
    /// An object could not be destroyed: it goes with its session.
    spoilt: Cell<bool>,
}

/// A temporary object.
struct Temporary<'b> {
    bench: &'b Bench<'b>,
    handle: ObjectHandle,
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.bench.session.destroy_object(self.handle) {
            tracing::debug!(%error, "a temporary object is not destroyed");
            self.bench.spoilt.set(true);
        }
    }
}

/// Attributes, of which the key's value is wiped.
struct Template(Vec<Attribute>);

impl Drop for Template {
    fn drop(&mut self) {
        for attribute in &mut self.0 {
            if let Attribute::Value(value) = attribute {
                value.zeroize();
            }
        }
    }
}

/// What a key may be used for.
#[derive(Debug, Clone, Copy, Default)]
struct Usage {
    derive: bool,
    wrap: bool,
    extract: bool,
}

const DERIVE: Usage = Usage { derive: true, wrap: false, extract: false };
const WRAP: Usage = Usage { derive: false, wrap: true, extract: false };
const EXTRACT: Usage = Usage { derive: false, wrap: false, extract: true };

impl<'a> Bench<'a> {
    pub(super) fn new(session: &'a Session, rules: &'a Rules) -> Self {
        Bench { session, rules, spoilt: Cell::new(false) }
    }

    /// Whether its session must not be used again.
    pub(super) fn is_spoilt(&self) -> bool {
        self.spoilt.get()
    }

    /// The attributes of a secret key, but for its length or value.
    fn secret_key(&self, key_type: KeyType, usage: Usage) -> Vec<Attribute> {
        let mut template = vec![
            Attribute::Class(ObjectClass::SECRET_KEY),
            Attribute::KeyType(key_type),
            Attribute::Private(true),
            Attribute::Sensitive(true),
            Attribute::Extractable(usage.extract),
            Attribute::Derive(usage.derive),
            Attribute::Wrap(usage.wrap),
            Attribute::Unwrap(usage.wrap),
            Attribute::Encrypt(false),
            Attribute::Decrypt(false),
            Attribute::Sign(false),
            Attribute::Verify(false),
        ];
        template.extend(self.lifetime());
        template
    }

    /// The attributes of a temporary object.
    fn lifetime(&self) -> Vec<Attribute> {
        match &self.rules.temporary {
            None => vec![Attribute::Token(false)],
            Some(front) => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
                vec![Attribute::Token(true), Attribute::Label(format!("{front}{now}").into_bytes())]
            }
        }
    }

    fn temporary(&'a self, handle: ObjectHandle) -> Temporary<'a> {
        Temporary { bench: self, handle }
    }

    fn generate_key(&'a self, key_type: KeyType, usage: Usage) -> Result<Temporary<'a>, Fault> {
        let mechanism = if key_type == KeyType::AES { Mechanism::AesKeyGen } else { Mechanism::GenericSecretKeyGen };
        let mut template = self.secret_key(key_type, usage);
        template.push(Attribute::ValueLen(KEY.into()));
        Ok(self.temporary(self.session.generate_key(&mechanism, &template)?))
    }

    /// The key-encryption key of one blob.
    fn derive(&'a self, kdf: Kdf, parent: ObjectHandle, purpose: &[u8; 32]) -> Result<Temporary<'a>, Fault> {
        let mut template = self.secret_key(KeyType::AES, WRAP);
        template.push(Attribute::ValueLen(KEY.into()));
        Ok(self.temporary(kdf.derive(self.session, parent, purpose, &template)?))
    }

    fn seal(&'a self, parent: ObjectHandle, draft: &Draft, key: ObjectHandle) -> Result<Vec<u8>, Fault> {
        let kek = self.derive(draft.kdf, parent, &draft.purpose)?;
        let wrapped = self.session.wrap_key(&draft.wrap.mechanism(), kek.handle, key)?;
        draft.finish(&wrapped).ok_or_else(|| lies("a wrapped key of another length"))
    }

    fn open(
        &'a self,
        parent: ObjectHandle,
        body: &Body,
        key_type: KeyType,
        usage: Usage,
    ) -> Result<Temporary<'a>, Fault> {
        let kek = self.derive(body.kdf, parent, &body.purpose).map_err(|fault| match fault {
            // The blob says how, and this token does not do it that way.
            Fault::Token(error @ Error::Pkcs11(code, _), _) if is_of_mechanism(code) => {
                Fault::Token(error, Meaning::Blob)
            }
            other => other,
        })?;
        let template = self.secret_key(key_type, usage);
        let handle = self
            .session
            .unwrap_key(&body.wrap.mechanism(), kek.handle, &body.wrapped, &template)
            .map_err(|error| Fault::Token(error, Meaning::Blob))?;
        Ok(self.temporary(handle))
    }

    /// Makes a secret and gives it sealed, and encrypted to its caller.
    pub(super) fn generate(
        &'a self,
        domain: ObjectHandle,
        customer: &Body,
        draft: &Draft,
        rsa: &RsaKey,
        oaep: Oaep,
    ) -> Result<(Vec<u8>, Vec<u8>), Fault> {
        let customer = self.open(domain, customer, KeyType::AES, DERIVE)?;
        let secret = self.generate_key(KeyType::GENERIC_SECRET, EXTRACT)?;
        let sealed = self.seal(customer.handle, draft, secret.handle)?;
        Ok((sealed, self.release(secret.handle, rsa, oaep)?))
    }

    /// Opens a sealed secret and encrypts it to its caller.
    pub(super) fn decrypt(
        &'a self,
        domain: ObjectHandle,
        customer: &Body,
        sealed: &Body,
        rsa: &RsaKey,
        oaep: Oaep,
    ) -> Result<Vec<u8>, Fault> {
        let customer = self.open(domain, customer, KeyType::AES, DERIVE)?;
        let secret = self.open(customer.handle, sealed, KeyType::GENERIC_SECRET, EXTRACT)?;
        self.release(secret.handle, rsa, oaep)
    }

    /// Opens a sealed secret and seals it anew; domain keys, customer keys and owners may differ.
    pub(super) fn convert(
        &'a self,
        (from_domain, from_customer, sealed): (ObjectHandle, &Body, &Body),
        (to_domain, to_customer, draft): (ObjectHandle, &Body, &Draft),
    ) -> Result<Vec<u8>, Fault> {
        let from = self.open(from_domain, from_customer, KeyType::AES, DERIVE)?;
        let secret = self.open(from.handle, sealed, KeyType::GENERIC_SECRET, EXTRACT)?;
        let to = self.open(to_domain, to_customer, KeyType::AES, DERIVE)?;
        self.seal(to.handle, draft, secret.handle)
    }

    /// Makes a customer key, wrapped.
    pub(super) fn make_customer_key(&'a self, domain: ObjectHandle, draft: &Draft) -> Result<Vec<u8>, Fault> {
        let key = self.generate_key(KeyType::AES, EXTRACT)?;
        self.seal(domain, draft, key.handle)
    }

    /// Wraps a customer key under another domain key.
    pub(super) fn rewrap(
        &'a self,
        from: ObjectHandle,
        customer: &Body,
        to: ObjectHandle,
        draft: &Draft,
    ) -> Result<Vec<u8>, Fault> {
        let key = self.open(from, customer, KeyType::AES, EXTRACT)?;
        self.seal(to, draft, key.handle)
    }

    /// Encrypts a secret to its caller: RSAES-OAEP (RFC 8017, 7.1) with SHA-256 for hash and MGF1, without a label.
    fn release(&'a self, secret: ObjectHandle, rsa: &RsaKey, oaep: Oaep) -> Result<Vec<u8>, Fault> {
        let wrapped = match oaep {
            Oaep::Token => {
                let mut template = vec![
                    Attribute::Class(ObjectClass::PUBLIC_KEY),
                    Attribute::KeyType(KeyType::RSA),
                    Attribute::Modulus(rsa.modulus().to_vec()),
                    Attribute::PublicExponent(rsa.exponent().to_vec()),
                    Attribute::Private(true),
                    Attribute::Wrap(true),
                    Attribute::Encrypt(false),
                    Attribute::Verify(false),
                ];
                template.extend(self.lifetime());
                let of_key = |error| Fault::Token(error, Meaning::RsaKey);
                let key = self.temporary(self.session.create_object(&template).map_err(of_key)?);
                let parameters =
                    PkcsOaepParams::new(MechanismType::SHA256, PkcsMgfType::MGF1_SHA256, PkcsOaepSource::empty());
                self.session.wrap_key(&Mechanism::RsaPkcsOaep(parameters), key.handle, secret).map_err(of_key)?
            }
            Oaep::Software => {
                let secret = self.take_out(secret)?;
                let sealed = rsa.key().oaep_seal(OaepHash::Sha256, secret.expose());
                sealed.map_err(|_| Fault::Known(HsmError::RsaKey))?
            }
        };
        if wrapped.len() == rsa.modulus().len() {
            Ok(wrapped)
        } else {
            Err(lies("an encrypted secret of another length than the key's"))
        }
    }

    /// Brings a secret into locked memory. It leaves the token wrapped under a key that is made up here for it alone, so that no copy of it lies
    /// in buffers of the module's interface.
    fn take_out(&'a self, secret: ObjectHandle) -> Result<Secret<32>, Fault> {
        let transport = Secret::<32>::random();
        let mut template = Template(self.secret_key(KeyType::AES, WRAP));
        template.0.push(Attribute::Value(transport.expose().to_vec()));
        let key = self.temporary(self.session.create_object(&template.0)?);
        let wrapped = Zeroizing::new(self.session.wrap_key(&Mechanism::AesKeyWrap, key.handle, secret)?);
        let wrapped = <&[u8; 40]>::try_from(&wrapped[..]).map_err(|_| lies("a wrapped key of another length"))?;
        key_wrap::unwrap(&transport, wrapped).map_err(|_| lies("a wrapped key that does not open"))
    }

    /// Signs a SHA-256 digest: ECDSA (FIPS 186-5), as minimal DER.
    pub(super) fn sign(&self, key: ObjectHandle, digest: &[u8; 32]) -> Result<Vec<u8>, Fault> {
        let numbers = self.session.sign(&Mechanism::Ecdsa, key, digest)?;
        let numbers = <&[u8; 96]>::try_from(&numbers[..]).map_err(|_| lies("a signature of another length"))?;
        Ok(signature::to_der(numbers))
    }

    /// Whether a derivation works here and does what it must: what was wrapped opens, and under another context it does not.
    pub(super) fn test_wrapping(&'a self, kdf: Kdf) -> Result<(), Fault> {
        let parent = self.generate_key(KeyType::AES, DERIVE)?;
        self.test_parent(kdf, parent.handle)
    }

    /// The same with a parent that is there. The session is spoilt afterwards: an error was provoked in it.
    pub(super) fn test_parent(&'a self, kdf: Kdf, parent: ObjectHandle) -> Result<(), Fault> {
        self.spoilt.set(true);
        let secret = self.generate_key(KeyType::GENERIC_SECRET, EXTRACT)?;
        let mut purpose = [0; 32];
        crypto::random(&mut purpose);
        let kek = self.derive(kdf, parent, &purpose)?;
        let wrapped = self.session.wrap_key(&Wrap::AesKeyWrap.mechanism(), kek.handle, secret.handle)?;
        let body = Body { kdf, wrap: Wrap::AesKeyWrap, purpose, wrapped };
        // Through another derivation, so that both must agree.
        let opened = self.open(parent, &body, KeyType::GENERIC_SECRET, EXTRACT)?;
        let again = self.session.wrap_key(&Wrap::AesKeyWrap.mechanism(), kek.handle, opened.handle)?;
        if again != body.wrapped {
            return Err(lies("another key than was wrapped"));
        }
        let [first, ..] = purpose;
        let mut other = Body { purpose, ..body.clone() };
        if let Some(byte) = other.purpose.first_mut() {
            *byte = !first;
        }
        let mut changed = body;
        if let Some(byte) = changed.wrapped.last_mut() {
            *byte ^= 1;
        }
        for wrong in [other, changed] {
            if self.open(parent, &wrong, KeyType::GENERIC_SECRET, EXTRACT).is_ok() {
                return Err(lies("a key from what was wrapped for another context, or changed"));
            }
        }
        Ok(())
    }

    /// Something wrapped under a key that is derived from a domain key; another token opens it if it has the same domain key.
    pub(super) fn reference(&'a self, kdf: Kdf, parent: ObjectHandle) -> Result<Body, Fault> {
        let secret = self.generate_key(KeyType::GENERIC_SECRET, EXTRACT)?;
        let mut purpose = [0; 32];
        crypto::random(&mut purpose);
        let kek = self.derive(kdf, parent, &purpose)?;
        let wrapped = self.session.wrap_key(&Wrap::AesKeyWrap.mechanism(), kek.handle, secret.handle)?;
        Ok(Body { kdf, wrap: Wrap::AesKeyWrap, purpose, wrapped })
    }

    /// Whether a [reference](Self::reference) opens. The session is spoilt if it does not.
    pub(super) fn opens(&'a self, parent: ObjectHandle, reference: &Body) -> Result<bool, Fault> {
        match self.open(parent, reference, KeyType::GENERIC_SECRET, EXTRACT) {
            Ok(_) => Ok(true),
            Err(Fault::Token(error, Meaning::Blob)) if !is_lost(&error) => {
                self.spoilt.set(true);
                Ok(false)
            }
            Err(fault) => Err(fault),
        }
    }

    /// A throwaway secret, encrypted to a key; for the self-test.
    pub(super) fn test_release(&'a self, rsa: &RsaKey, oaep: Oaep) -> Result<Vec<u8>, Fault> {
        let secret = self.generate_key(KeyType::GENERIC_SECRET, EXTRACT)?;
        self.release(secret.handle, rsa, oaep)
    }

    /// The handle of a domain key.
    pub(super) fn domain_key(&self, id: KeyId) -> Result<ObjectHandle, Fault> {
        let handle = self.find(ObjectClass::SECRET_KEY, KeyType::AES, &self.rules.domain_key, id)?;
        self.is_kept(handle, AttributeType::Derive, id)?;
        Ok(handle)
    }

    /// The handle of a signing key's private half.
    pub(super) fn private_key(&self, id: KeyId) -> Result<ObjectHandle, Fault> {
        let handle = self.find(ObjectClass::PRIVATE_KEY, KeyType::EC, &self.rules.signing_key, id)?;
        self.is_kept(handle, AttributeType::Sign, id)?;
        Ok(handle)
    }

    /// The public half of a signing key.
    pub(super) fn signing_key(&self, id: KeyId) -> Result<SigningKey, Fault> {
        let handle = self.find(ObjectClass::PUBLIC_KEY, KeyType::EC, &self.rules.public_key, id)?;
        let attributes = self.session.get_attributes(handle, &[AttributeType::EcPoint])?;
        let point = attributes.iter().find_map(|attribute| match attribute {
            Attribute::EcPoint(bytes) => point(bytes),
            _ => None,
        });
        let spki = point.map(|point| [&SPKI_HEAD[..], point].concat());
        spki.and_then(|spki| SigningKey::from_spki(&spki).ok()).ok_or_else(|| {
            Fault::Known(HsmError::Setup {
                fact: format!("the public key {id} is not a point on P-384"),
                remedy: "name by its label and id a key pair that envelopefs-keyserver init has made",
                source: None,
            })
        })
    }

    /// The ids of the keys with a label.
    pub(super) fn list(&self, class: ObjectClass) -> Result<Vec<KeyId>, Fault> {
        let label = if class == ObjectClass::SECRET_KEY { &self.rules.domain_key } else { &self.rules.signing_key };
        let template = [Attribute::Class(class), Attribute::Token(true), Attribute::Label(label.clone().into_bytes())];
        let mut ids = Vec::new();
        for handle in self.session.find_objects(&template)? {
            for attribute in self.session.get_attributes(handle, &[AttributeType::Id])? {
                if let Attribute::Id(id) = attribute
                    && let Ok(id) = <[u8; 16]>::try_from(&id[..])
                {
                    ids.push(KeyId(id));
                }
            }
        }
        Ok(ids)
    }

    /// The one object with this class, type, label and id.
    fn find(&self, class: ObjectClass, key_type: KeyType, label: &str, id: KeyId) -> Result<ObjectHandle, Fault> {
        let template = [
            Attribute::Class(class),
            Attribute::KeyType(key_type),
            Attribute::Token(true),
            Attribute::Label(label.as_bytes().to_vec()),
            Attribute::Id(id.0.to_vec()),
        ];
        match self.session.find_objects(&template)?[..] {
            [handle] => Ok(handle),
            [] => Err(HsmError::NoSuchKey(id).into()),
            [_, _, ..] => Err(Fault::Known(HsmError::Setup {
                fact: format!("there are several keys {label:?} with the id {id}"),
                remedy: "which one is meant cannot be known: destroy the wrong one with the vendor's tool",
                source: None,
            })),
        }
    }

    /// Checks that a key cannot leave its token, and that it can do one thing alone.
    fn is_kept(&self, key: ObjectHandle, usage: AttributeType, id: KeyId) -> Result<(), Fault> {
        use AttributeType as A;
        let all = [A::Sensitive, A::Extractable, A::Derive, A::Sign, A::Encrypt, A::Decrypt, A::Wrap, A::Unwrap];
        let wrong = |what: &str| {
            Fault::Known(HsmError::Setup {
                fact: format!("the key {id} {what}"),
                remedy: "let envelopefs-keyserver make its keys (init, key rotate); this one is not used",
                source: None,
            })
        };
        let (mut sensitive, mut kept, mut usable) = (false, false, false);
        for attribute in self.session.get_attributes(key, &all)? {
            let (kind, set) = match attribute {
                Attribute::Sensitive(set) => {
                    sensitive = set;
                    continue;
                }
                Attribute::Extractable(set) => {
                    kept = !set;
                    continue;
                }
                Attribute::Derive(set) => (A::Derive, set),
                Attribute::Sign(set) => (A::Sign, set),
                Attribute::Encrypt(set) => (A::Encrypt, set),
                Attribute::Decrypt(set) => (A::Decrypt, set),
                Attribute::Wrap(set) => (A::Wrap, set),
                Attribute::Unwrap(set) => (A::Unwrap, set),
                _ => continue,
            };
            if kind == usage {
                usable = set;
            } else if set {
                return Err(wrong("may be used for more than its one purpose"));
            }
        }
        match (sensitive && kept, usable) {
            (true, true) => Ok(()),
            (false, _) => Err(wrong("can be read out of its token (CKA_SENSITIVE, CKA_EXTRACTABLE)")),
            (true, false) => Err(wrong("cannot do what it is for (CKA_DERIVE, CKA_SIGN)")),
        }
    }

    /// Makes a domain key, unless it is there. Needs a session for writing.
    pub(super) fn make_domain_key(&self, id: KeyId) -> Result<(), Fault> {
        match self.domain_key(id) {
            Err(Fault::Known(HsmError::NoSuchKey(_))) => {}
            other => return other.map(drop),
        }
        let template = [
            Attribute::Class(ObjectClass::SECRET_KEY),
            Attribute::KeyType(KeyType::AES),
            Attribute::ValueLen(KEY.into()),
            Attribute::Label(self.rules.domain_key.clone().into_bytes()),
            Attribute::Id(id.0.to_vec()),
            Attribute::Token(true),
            Attribute::Private(true),
            Attribute::Sensitive(true),
            Attribute::Extractable(false),
            Attribute::Modifiable(false),
            Attribute::Derive(true),
            Attribute::Wrap(false),
            Attribute::Unwrap(false),
            Attribute::Encrypt(false),
            Attribute::Decrypt(false),
            Attribute::Sign(false),
            Attribute::Verify(false),
        ];
        self.session.generate_key(&Mechanism::AesKeyGen, &template)?;
        self.domain_key(id).map(drop)
    }

    /// Makes a signing key, unless it is there, and gives its public half. Needs a session for writing.
    pub(super) fn make_signing_key(&self, id: KeyId) -> Result<SigningKey, Fault> {
        match self.private_key(id) {
            Err(Fault::Known(HsmError::NoSuchKey(_))) => {}
            Err(other) => return Err(other),
            Ok(_) => return self.signing_key(id),
        }
        let public = [
            Attribute::Class(ObjectClass::PUBLIC_KEY),
            Attribute::KeyType(KeyType::EC),
            Attribute::EcParams(P384.to_vec()),
            Attribute::Label(self.rules.public_key.clone().into_bytes()),
            Attribute::Id(id.0.to_vec()),
            Attribute::Token(true),
            Attribute::Private(true),
            Attribute::Modifiable(false),
            Attribute::Verify(true),
            Attribute::Encrypt(false),
            Attribute::Wrap(false),
        ];
        let private = [
            Attribute::Class(ObjectClass::PRIVATE_KEY),
            Attribute::KeyType(KeyType::EC),
            Attribute::Label(self.rules.signing_key.clone().into_bytes()),
            Attribute::Id(id.0.to_vec()),
            Attribute::Token(true),
            Attribute::Private(true),
            Attribute::Sensitive(true),
            Attribute::Extractable(false),
            Attribute::Modifiable(false),
            Attribute::Sign(true),
            Attribute::Decrypt(false),
            Attribute::Unwrap(false),
            Attribute::Derive(false),
        ];
        self.session.generate_key_pair(&Mechanism::EccKeyPairGen, &public, &private)?;
        self.private_key(id)?;
        self.signing_key(id)
    }

    /// Destroys all objects with this id and one of our labels. Needs a session for writing.
    pub(super) fn destroy_key(&self, id: KeyId) -> Result<(), Fault> {
        let mut any = false;
        for label in [&self.rules.domain_key, &self.rules.signing_key, &self.rules.public_key] {
            let label = Attribute::Label(label.clone().into_bytes());
            for handle in self.session.find_objects(&[Attribute::Token(true), label, Attribute::Id(id.0.to_vec())])? {
                self.session.destroy_object(handle)?;
                any = true;
            }
        }
        if any { Ok(()) } else { Err(HsmError::NoSuchKey(id).into()) }
    }

    /// Destroys temporary token objects that were left behind.
    pub(super) fn sweep(&self) -> Result<usize, Fault> {
        let Some(front) = &self.rules.temporary else { return Ok(0) };
        let mut swept = 0;
        for handle in self.session.find_objects(&[Attribute::Token(true)])? {
            let labels = self.session.get_attributes(handle, &[AttributeType::Label])?;
            let ours = |attribute: &Attribute| matches!(attribute, Attribute::Label(label) if label.starts_with(front.as_bytes()));
            if labels.iter().any(ours) {
                self.session.destroy_object(handle)?;
                swept += 1;
            }
        }
        Ok(swept)
    }
}

/// An uncompressed point, bare or in the OCTET STRING that the standard wants around it.
fn point(bytes: &[u8]) -> Option<&[u8]> {
    let point = match bytes {
        [0x04, 0x61, point @ ..] if point.len() == POINT => point,
        point => point,
    };
    (point.len() == POINT && point.first() == Some(&0x04)).then_some(point)
}

/// The token has given something that no token gives.
fn lies(what: &str) -> Fault {
    Fault::Known(HsmError::Unavailable(format!("the token has given {what}").into()))
}

/// Codes that refuse a derivation.
fn is_of_mechanism(code: RvError) -> bool {
    use RvError as E;
    matches!(code, E::MechanismInvalid | E::MechanismParamInvalid | E::KeyTypeInconsistent)
}

/// Codes that speak of the wrapped bytes alone.
pub(super) fn is_of_blob(error: &Error) -> bool {
    use RvError as E;
    let Error::Pkcs11(code, _) = error else { return false };
    matches!(code, E::WrappedKeyInvalid | E::WrappedKeyLenRange | E::EncryptedDataInvalid | E::EncryptedDataLenRange)
}

/// Codes that speak of a token, session or login that is gone.
pub(super) fn is_lost(error: &Error) -> bool {
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
            | E::KeyHandleInvalid
            | E::ObjectHandleInvalid
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_is_read_bare_or_wrapped() {
        let bare: Vec<u8> = std::iter::once(4).chain(1..=96).collect();
        assert_eq!(point(&bare), Some(&bare[..]));
        assert_eq!(point(&[&[4, 97], &bare[..]].concat()), Some(&bare[..]));
        let compressed = [&[2], &bare[1..]].concat();
        for bad in [&bare[..96], &[&[4, 96], &bare[..]].concat(), &compressed, &[4, 97], &[]] {
            assert_eq!(point(bad), None);
        }
    }
}
