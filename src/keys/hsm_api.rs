//! Provider `hsm-api`: a secret that a remote key server makes and opens in its HSM ([`crate::api`]) is the key-encryption key of a slot.
//!
//! The slot holds the server's sealed form of the secret, for which instance and volume it was sealed, and the master key wrapped under a key
//! derived from the secret. The secret itself is never stored: who wants it asks the server, as the instance that owns it.
//!
//! What holds for every call:
//! - The server's signing key is pinned. A key that the server tells counts only if it has the pinned fingerprint.
//! - Every signature is verified, over decoded bytes, before anything of an answer is used. The wire's signatures bind nothing to anything, so more is done: the
//!   answer comes under an RSA key that exists for one call; a new secret is opened again from its sealed form, and compared, before it wraps a key; a
//!   converted one must open the slot that it is for. Where the server signs the context, that is verified, and insisted on ever after.
//! - One deadline covers all that one wrap or unwrap needs of the network, and of the secure processor for its evidence. The one-time keys are made
//!   before it begins.
//! - A call may reach several servers, or one twice: the server keeps nothing but its audit log, and challenges, of which each try has its own.

#[cfg(feature = "sev-snp")]
pub(crate) mod evidence;

use std::borrow::Cow;
use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rsa::{KeySize, OAEP_SHA256_MGF1SHA256, OaepPrivateDecryptingKey, PrivateDecryptingKey};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::http::{Answer, Deadline, Endpoint, Fault, Http, HttpOptions, Request};
use super::kek::{self, CHECK, Kek, SALT, base64_array};
use super::secret_file::{self, Access};
use super::{KeyProvider, ProviderError, ProviderSpec, SlotContext, SlotData, SpecError, join};
use crate::api::canonical::AttestedCall;
use crate::api::signature::{Padding, SigningKey, SigningKeys};
use crate::api::{
    Asked, Base64, Challenge, ChallengeAnswer, ClientNonce, ConvertRequest, DecryptRequest, ErrorBody, Evidence,
    GenerateRequest, InstanceId, MAX_SEALED, Operation, PUBLIC_SIGNING_KEY, PublicSigningKey, Refusal, SECRET,
    SecretAnswer, Tenant, VerifiedAnswer, VolumeName, WithEvidence, challenge_path,
};
use crate::crypto::Unauthentic;
use crate::crypto::secret::Secret;

/// The provider's word in `volume.toml`.
pub const KIND: &str = "hsm-api";

/// Largest file of pinned keys.
const MAX_PEM: usize = 64 << 10;
/// Address of EC2's metadata service.
const IMDS: &str = "http://169.254.169.254";
/// For both of its answers.
const IMDS_TIMEOUT: Duration = Duration::from_secs(5);
/// Most characters of a server's words that are passed on.
const MAX_SAID: usize = 200;

/// A key server, as one instance sees it.
#[derive(Debug)]
pub struct HsmApi {
    http: Http,
    /// At least one; in the order of preference.
    endpoints: Vec<Endpoint>,
    instance: InstanceId,
    pinned: Pinned,
    padding: Padding,
    /// A file with a bearer token, read for every call: tokens are renewed.
    token_file: Option<PathBuf>,
    /// The tenant that answers must be for.
    tenant: Option<Tenant>,
    /// Whether the context signature is insisted on from the first call.
    needs_context: bool,
    /// What shows servers that demand it on which machine this process runs.
    attester: Option<Box<dyn Attester>>,
    /// Size of one-time keys. Smaller ones are for tests that make hundreds.
    key_size: KeySize,
}

/// Makes evidence of the machine that this process runs on.
trait Attester: std::fmt::Debug + Send + Sync {
    /// Evidence for one call, within a time.
    ///
    /// # Errors
    /// [`ProviderError`], but never a refusal: the server has not spoken.
    fn evidence(
        &self,
        call: &AttestedCall<'_>,
        challenge: Challenge,
        limit: Duration,
    ) -> Result<Evidence, ProviderError>;

    /// Whether it could be made now.
    ///
    /// # Errors
    /// Those of [`evidence`](Self::evidence).
    fn check(&self, limit: Duration) -> Result<(), ProviderError>;
}

/// The server's signing key as it is pinned.
#[derive(Debug)]
enum Pinned {
    Keys(SigningKeys),
    /// By [`SigningKey::id`]; the key itself is asked of the server once.
    Fingerprint(String, OnceLock<SigningKeys>),
}

impl HsmApi {
    /// Opens the key server that a specification names:
    /// `hsm-api:https://host/v1?instance-id=i-…&signing-key=/etc/envelopefs/api_public_key.pem`.
    ///
    /// # Errors
    /// [`ProviderError::Spec`] or [`ProviderError::Setup`]. Nothing is asked of the server.
    pub fn open(mut spec: ProviderSpec) -> Result<Self, ProviderError> {
        let options = HttpOptions::take(&mut spec)?;
        let http = Http::new(format!("key server {}", spec.target), options)?;
        let mut endpoints = vec![http.endpoint(&spec.target)?];
        for fallback in spec.take("fallback").unwrap_or_default().split_ascii_whitespace() {
            endpoints.push(http.endpoint(fallback)?);
        }
        let provider = HsmApi {
            instance: take_instance(&mut spec)?,
            pinned: take_pinned(&mut spec)?,
            padding: match spec.take_switch("original-signatures")? {
                true => Padding::Original,
                false => Padding::Minimal,
            },
            // Absolute: a daemon changes its directory.
            token_file: spec.take_path("token-file").map(|path| std::path::absolute(&path).unwrap_or(path)),
            tenant: match spec.take("tenant") {
                None => None,
                Some(text) => Some(text.parse().map_err(|_| SpecError::Value {
                    name: "tenant".into(),
                    expected: "1 to 64 lower-case letters, digits and hyphens",
                })?),
            },
            needs_context: spec.take_switch("require-context")?,
            attester: take_attester(&mut spec)?,
            key_size: KeySize::Rsa4096,
            http,
            endpoints,
        };
        spec.finish()?;
        // A token that is not there should be found out now.
        provider.token()?;
        Ok(provider)
    }

    /// In a test's own guest, with small one-time keys.
    #[cfg(all(test, feature = "sev-snp"))]
    pub(crate) fn in_guest(
        mut spec: ProviderSpec,
        guest: impl crate::attest::SnpGuest + 'static,
    ) -> Result<Self, ProviderError> {
        assert_eq!(spec.take("evidence").as_deref(), Some("sev-snp"));
        let attester = evidence::SnpEvidence::take(guest, &mut spec)?;
        let provider = Self::open(spec)?;
        Ok(HsmApi { attester: Some(Box::new(attester)), key_size: KeySize::Rsa2048, ..provider })
    }

    /// The instance that it speaks as.
    pub fn instance(&self) -> &InstanceId {
        &self.instance
    }

    /// Fingerprints of the pinned signing keys: SHA-256 of the SubjectPublicKeyInfo, hexadecimal.
    pub fn pinned(&self) -> Vec<String> {
        match &self.pinned {
            Pinned::Keys(keys) => keys.iter().map(SigningKey::id).collect(),
            Pinned::Fingerprint(id, _) => vec![id.clone()],
        }
    }

    /// Whether a key is a pinned one.
    pub fn is_pinned(&self, key: &SigningKey) -> bool {
        self.pinned().contains(&key.id())
    }

    /// The signing key that each of the servers tells, for comparison only.
    pub fn told_keys(&self) -> Vec<(String, Result<SigningKey, ProviderError>)> {
        let ask = |endpoint: &Endpoint| {
            let told = self.begin().and_then(|session| {
                session.endpoints.replace(vec![endpoint.clone()]);
                session.told_key()
            });
            (endpoint.to_string(), told)
        };
        self.endpoints.iter().map(ask).collect()
    }

    /// What is to be had before the first byte goes out; the deadline begins.
    fn begin(&self) -> Result<Session<'_>, ProviderError> {
        let endpoints = RefCell::new(self.endpoints.clone());
        Ok(Session { provider: self, endpoints, token: self.token()?, deadline: self.http.deadline() })
    }

    fn token(&self) -> Result<Option<Zeroizing<String>>, ProviderError> {
        self.token_file.as_deref().map(|path| secret_file::read_word("token file", path, Access::Owner)).transpose()
    }

    /// Has the server make a secret, and open its sealed form again.
    fn generate(&self, volume: &VolumeName) -> Result<Sealed, ProviderError> {
        let keys = (self.one_time_key()?, self.one_time_key()?);
        let session = self.begin()?;
        let nonce = ClientNonce::random();
        let asked = Asked {
            operation: Operation::Generate,
            instance: &self.instance,
            volume,
            nonce: &nonce,
            rsa_wrapping_key: &keys.0.public,
            encrypted_secret: &[],
        };
        let request = GenerateRequest {
            rsa_wrapping_key: Base64(keys.0.public.clone()),
            volume_uuid: volume.clone(),
            client_nonce: Some(nonce),
        };
        let answer = session.call(&asked, None, &request, None)?;
        let secret = keys.0.open(answer.wrapped_secret()).map_err(|what| self.http.answer(what))?;
        let sealed = Sealed { secret, blob: answer.encrypted_secret().to_vec(), tenant: answer.tenant().cloned() };
        let again = session.decrypt(volume, &sealed.blob, sealed.tenant.as_ref(), &keys.1)?;
        if verify_slices_are_equal(sealed.secret.expose(), again.expose()).is_err() {
            return Err(self.http.answer("the sealed form of the new secret holds another one"));
        }
        Ok(sealed)
    }

    /// Has the server seal another instance's secret to this one, and opens that.
    fn convert(
        &self,
        volume: &VolumeName,
        from: &InstanceId,
        blob: &[u8],
        tenant: Option<&Tenant>,
    ) -> Result<Sealed, ProviderError> {
        let key = self.one_time_key()?;
        let session = self.begin()?;
        let nonce = ClientNonce::random();
        let asked = Asked {
            operation: Operation::Convert,
            instance: &self.instance,
            volume,
            nonce: &nonce,
            rsa_wrapping_key: &[],
            encrypted_secret: blob,
        };
        let request = ConvertRequest {
            encrypted_secret: Base64(blob.to_vec()),
            volume_uuid: volume.clone(),
            source_instance_id: from.clone(),
            client_nonce: Some(nonce),
        };
        let answer = session.call(&asked, Some(from), &request, tenant)?;
        let (blob, tenant) = (answer.encrypted_secret().to_vec(), answer.tenant().cloned());
        let secret = session.decrypt(volume, &blob, tenant.as_ref(), &key)?;
        Ok(Sealed { secret, blob, tenant })
    }

    fn one_time_key(&self) -> Result<OneTimeKey, ProviderError> {
        OneTimeKey::new(self.key_size).ok_or_else(|| ProviderError::Setup {
            fact: "no RSA key can be made".into(),
            remedy: "see whether there is enough memory",
            source: None,
        })
    }

    /// Makes the slot of a master key with a secret.
    fn slot_with(
        &self,
        sealed: Sealed,
        volume: VolumeName,
        master: &Secret<32>,
        context: &SlotContext,
    ) -> Result<SlotData, ProviderError> {
        let Sealed { secret, blob, tenant } = sealed;
        let derive = |salt: &[u8; SALT]| Ok(Kek::derive(KIND, &secret, salt));
        Kek::make_slot(master, context, derive, |salt, check| Parameters {
            instance_id: self.instance.clone(),
            volume_uuid: volume,
            context: ServerContext(tenant),
            encrypted_secret: blob,
            salt,
            check,
        })
    }
}

/// Opens a slot with its secret. The secret passed every check on its way, so if it is not the slot's, then the slot is not as it was.
fn open_with(secret: &Secret<32>, slot: &SlotData, context: &SlotContext) -> Result<Secret<32>, ProviderError> {
    let derive = |parameters: &Parameters| Ok(Kek::derive(KIND, secret, &parameters.salt));
    Kek::open_slot(slot, context, derive)?.ok_or(ProviderError::Unauthentic(Unauthentic))
}

impl KeyProvider for HsmApi {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn describe(&self) -> String {
        format!("{} as instance {}", self.http.provider(), self.instance)
    }

    fn wrap(&self, master: &Secret<32>, context: &SlotContext) -> Result<SlotData, ProviderError> {
        if master.is_zero() {
            return Err(ProviderError::ZeroKey);
        }
        let volume = VolumeName::from(context.volume);
        self.slot_with(self.generate(&volume)?, volume, master, context)
    }

    fn unwrap(&self, slot: &SlotData, context: &SlotContext) -> Option<Result<Secret<32>, ProviderError>> {
        let parameters = match Parameters::of(slot) {
            Ok(parameters) => parameters,
            Err(error) => return Some(Err(error)),
        };
        if parameters.instance_id != self.instance {
            return None;
        }
        Some((|| {
            parameters.check_volume(context)?;
            let Parameters { volume_uuid, encrypted_secret, context: ServerContext(tenant), .. } = &parameters;
            let key = self.one_time_key()?;
            let secret = self.begin()?.decrypt(volume_uuid, encrypted_secret, tenant.as_ref(), &key)?;
            open_with(&secret, slot, context)
        })())
    }

    /// That a server answers and tells a pinned key, and evidence could be made. Nothing is opened: the server would write it into its audit log.
    fn check(&self) -> Result<(), ProviderError> {
        let session = self.begin()?;
        let told = session.told_key()?;
        if !self.is_pinned(&told) {
            return Err(self.http.answer(format!("it tells the signing key {}, which is not a pinned one", told.id())));
        }
        self.attester.as_ref().map_or(Ok(()), |attester| attester.check(session.deadline.remaining()))
    }
}

/// Opens the slots of another instance, as the owner that their secrets get in the same step: the credential of a take-over. It opens a slot by having the
/// secret sealed anew to this instance, which leaves the old form valid; and it wraps with what it has opened.
#[derive(Debug)]
pub struct TakeOver {
    provider: HsmApi,
    from: InstanceId,
    opened: Mutex<Vec<(SlotContext, Sealed)>>,
}

impl TakeOver {
    /// A take-over of slots that belong to `from`.
    pub fn new(provider: HsmApi, from: InstanceId) -> Self {
        TakeOver { provider, from, opened: Mutex::new(Vec::new()) }
    }
}

/// The instance that a slot with these parameters belongs to, as far as it says.
pub fn owner(parameters: &toml::Table) -> Option<InstanceId> {
    parameters.get("instance_id")?.as_str()?.parse().ok()
}

impl KeyProvider for TakeOver {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn describe(&self) -> String {
        format!("{} for slots of instance {}", self.provider.describe(), self.from)
    }

    /// With the converted secret of the slot if it was opened, else with a new one.
    fn wrap(&self, master: &Secret<32>, context: &SlotContext) -> Result<SlotData, ProviderError> {
        let opened = {
            let mut opened = self.opened.lock();
            opened.iter().position(|(place, _)| place == context).map(|at| opened.swap_remove(at).1)
        };
        match opened {
            Some(sealed) => self.provider.slot_with(sealed, VolumeName::from(context.volume), master, context),
            None => self.provider.wrap(master, context),
        }
    }

    fn unwrap(&self, slot: &SlotData, context: &SlotContext) -> Option<Result<Secret<32>, ProviderError>> {
        let parameters = match Parameters::of(slot) {
            Ok(parameters) => parameters,
            Err(error) => return Some(Err(error)),
        };
        if parameters.instance_id != self.from {
            return None;
        }
        Some((|| {
            parameters.check_volume(context)?;
            let Parameters { volume_uuid, encrypted_secret, context: ServerContext(tenant), .. } = &parameters;
            let sealed = self.provider.convert(volume_uuid, &self.from, encrypted_secret, tenant.as_ref())?;
            // The new form's secret opens the old slot: so it is the same one.
            let master = open_with(&sealed.secret, slot, context)?;
            let mut opened = self.opened.lock();
            opened.retain(|(place, _)| place != context);
            opened.push((*context, sealed));
            Ok(master)
        })())
    }

    fn check(&self) -> Result<(), ProviderError> {
        self.provider.check()
    }
}

/// A secret with its sealed form.
struct Sealed {
    secret: Secret<SECRET>,
    blob: Vec<u8>,
    /// If the server signed the context.
    tenant: Option<Tenant>,
}

impl std::fmt::Debug for Sealed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sealed(..)")
    }
}

/// One or two calls within one deadline.
struct Session<'a> {
    provider: &'a HsmApi,
    /// The one that answered last is asked first: the time that a silent one takes is spent once.
    endpoints: RefCell<Vec<Endpoint>>,
    token: Option<Zeroizing<String>>,
    deadline: Deadline,
}

impl Session<'_> {
    /// Opens a sealed secret.
    fn decrypt(
        &self,
        volume: &VolumeName,
        blob: &[u8],
        tenant: Option<&Tenant>,
        key: &OneTimeKey,
    ) -> Result<Secret<SECRET>, ProviderError> {
        let nonce = ClientNonce::random();
        let asked = Asked {
            operation: Operation::Decrypt,
            instance: &self.provider.instance,
            volume,
            nonce: &nonce,
            rsa_wrapping_key: &key.public,
            encrypted_secret: blob,
        };
        let request = DecryptRequest {
            encrypted_secret: Base64(blob.to_vec()),
            rsa_wrapping_key: Base64(key.public.clone()),
            volume_uuid: volume.clone(),
            client_nonce: Some(nonce),
        };
        let answer = self.call(&asked, None, &request, tenant)?;
        key.open(answer.wrapped_secret()).map_err(|what| self.provider.http.answer(what))
    }

    /// Makes a call and verifies the answer. `source` is the owner until now, of convert. With `tenant`, the context signature must be there and be
    /// that tenant's.
    fn call(
        &self,
        asked: &Asked<'_>,
        source: Option<&InstanceId>,
        request: &impl Serialize,
        tenant: Option<&Tenant>,
    ) -> Result<VerifiedAnswer, ProviderError> {
        let HsmApi { http, padding, attester, .. } = self.provider;
        let (keys, word) = (self.signing_keys()?, asked.operation.word());
        // What the server's audit log has of this call.
        let key_hash = crate::api::hex(&Sha256::digest(asked.rsa_wrapping_key));
        tracing::debug!(operation = word, rsa_wrapping_key_sha256 = key_hash, "asking the key server");
        let path = asked.operation.path(asked.instance);
        let send = |endpoint: &Endpoint, attestation: Option<Evidence>, time| {
            let body = Body { request, more: WithEvidence { attestation } };
            self.attempt(endpoint, Request::post(endpoint.join(&path)).json(&body), time)
        };
        let answer = self.exchange_by(|endpoint, time| match attester {
            None => send(endpoint, None, time),
            Some(attester) => match self.evidence(attester.as_ref(), asked, source, endpoint, time)? {
                Evident::Given(evidence) => send(endpoint, evidence, time.min(self.deadline.remaining())),
                Evident::NoChallenge(answer) => Ok(answer),
            },
        })?;
        if answer.status != 200 {
            let call = match attester {
                Some(_) => Call::Attested,
                None if answer.status == 403 && self.demands_evidence(&answer.endpoint) => Call::Unattested,
                None => asked.operation.into(),
            };
            return Err(self.refusal(&answer, call));
        }
        let wrong = |what: &dyn std::fmt::Display| http.answer(format!("{what} ({word} of {})", answer.endpoint));
        let parsed: SecretAnswer = answer.json().ok_or_else(|| wrong(&"it is no JSON object of the key API"))?;
        let verified = parsed.verify(&keys, *padding, asked).map_err(|error| wrong(&error))?;
        for expected in [tenant, self.provider.tenant.as_ref()].into_iter().flatten() {
            match verified.tenant() {
                Some(found) if found == expected => {}
                Some(found) => {
                    let (found, expected) = (found.as_str(), expected.as_str());
                    return Err(wrong(&format!("it is for the tenant {found}, not for {expected}")));
                }
                None => return Err(wrong(&"it has no context signature, which this server is known to give")),
            }
        }
        if self.provider.needs_context && verified.tenant().is_none() {
            return Err(wrong(&"it has no context signature"));
        }
        Ok(verified)
    }

    /// Evidence for a call at a server that demands it. The challenge is of that server and for this try: it counts once, for a call too whose answer
    /// is lost on its way.
    fn evidence(
        &self,
        attester: &dyn Attester,
        asked: &Asked<'_>,
        source: Option<&InstanceId>,
        endpoint: &Endpoint,
        time: Duration,
    ) -> Result<Evident, Fault> {
        let answer = self.challenge(endpoint, time)?;
        match answer.status {
            200 => {}
            // Nobody demands any.
            404 => return Ok(Evident::Given(None)),
            _ => return Ok(Evident::NoChallenge(answer)),
        }
        let given: Option<ChallengeAnswer> = answer.json();
        let given = given.ok_or_else(|| {
            Fault::Final(self.provider.http.answer(format!("it is no challenge of 32 bytes ({endpoint})")))
        })?;
        let &Asked { operation, instance, volume, rsa_wrapping_key, encrypted_secret, .. } = asked;
        let call = AttestedCall { operation, instance, volume, rsa_wrapping_key, encrypted_secret, source };
        let evidence = attester.evidence(&call, given.challenge, self.deadline.remaining());
        evidence.map(|evidence| Evident::Given(Some(evidence))).map_err(Fault::Final)
    }

    fn challenge(&self, endpoint: &Endpoint, time: Duration) -> Result<Answer, Fault> {
        self.attempt(endpoint, Request::post(endpoint.join(&challenge_path(&self.provider.instance))), time)
    }

    /// Whether a server that has refused a call without evidence wants to see some: then it gives challenges.
    fn demands_evidence(&self, endpoint: &Endpoint) -> bool {
        let answer = self.challenge(endpoint, self.deadline.remaining());
        answer.is_ok_and(|answer| answer.status == 200 && answer.json::<ChallengeAnswer>().is_some())
    }

    /// The keys that signatures are verified with.
    fn signing_keys(&self) -> Result<Cow<'_, SigningKeys>, ProviderError> {
        match &self.provider.pinned {
            Pinned::Keys(keys) => Ok(Cow::Borrowed(keys)),
            Pinned::Fingerprint(id, known) => {
                if let Some(keys) = known.get() {
                    return Ok(Cow::Borrowed(keys));
                }
                let told = self.told_key()?;
                if told.id() != *id {
                    let what = format!("it tells the signing key {}, which is not the pinned one", told.id());
                    return Err(self.provider.http.answer(what));
                }
                Ok(Cow::Borrowed(known.get_or_init(|| told.into())))
            }
        }
    }

    /// The signing key that a server tells; worth nothing by itself.
    fn told_key(&self) -> Result<SigningKey, ProviderError> {
        let http = &self.provider.http;
        let answer = self.exchange(|endpoint| Request::get(endpoint.join(PUBLIC_SIGNING_KEY)))?;
        if answer.status != 200 {
            return Err(self.refusal(&answer, Call::Key));
        }
        let told: PublicSigningKey =
            answer.json().ok_or_else(|| http.answer("it is no JSON object with a public_key in base64"))?;
        SigningKey::from_spki(&told.public_key.0).map_err(|error| http.answer(format!("its public_key is {error}")))
    }

    /// Sends a request to the servers in turn.
    fn exchange(&self, request: impl Fn(&Endpoint) -> Request) -> Result<Answer, ProviderError> {
        self.exchange_by(|endpoint, time| self.attempt(endpoint, request(endpoint), time))
    }

    /// The same with any kind of try.
    fn exchange_by(
        &self,
        attempt: impl FnMut(&Endpoint, Duration) -> Result<Answer, Fault>,
    ) -> Result<Answer, ProviderError> {
        let mut endpoints = self.endpoints.borrow_mut();
        let answer = self.provider.http.exchange_by(self.deadline, &endpoints, is_passing, attempt)?;
        if let Some(at) = endpoints.iter().position(|endpoint| *endpoint == answer.endpoint) {
            endpoints.rotate_left(at);
        }
        Ok(answer)
    }

    /// Sends a request once, with the token, or with the header that the original's gateway wants to see, whatever it holds.
    fn attempt(&self, endpoint: &Endpoint, request: Request, time: Duration) -> Result<Answer, Fault> {
        let credential = match &self.token {
            Some(token) => format!("Bearer {}", **token),
            None => "Custom".into(),
        };
        self.provider.http.attempt(endpoint, request.header("Authorization", credential), time)
    }

    /// What an answer with another status than 200 means. A refusal takes the keys from a mount with a lease, so only what the server says
    /// about credentials and slots is one, and nothing that a proxy or a wrong address might say.
    fn refusal(&self, answer: &Answer, call: Call) -> ProviderError {
        let HsmApi { http, instance, .. } = self.provider;
        let said = format!("status {}, {:?} ({})", answer.status, said(answer), answer.endpoint);
        let refused = |remedy| http.refused(said.clone(), remedy);
        let known = (answer.status == 400).then(|| Refusal::of_bad_request(&answer.body)).flatten();
        match (answer.status, known, call) {
            (_, Some(Refusal::Incorrect), _) => http.refused(
                format!("{:?}, asked as instance {instance}", Refusal::Incorrect.message()),
                "the slot was made with another server, HSM or tenant, or was changed: check the address and the credentials, or put volume.toml back from a backup",
            ),
            (_, Some(Refusal::NoCustomerKey), _) => http.refused(
                format!("{:?}", Refusal::NoCustomerKey.message()),
                "this tenant never made a secret: check the address and the credentials",
            ),
            (401, ..) => refused("the server wants to know who asks: client-cert and client-key, or token-file"),
            (403, _, Call::Key) => {
                refused("these credentials may not speak with the server: check the certificate or token")
            }
            (403, _, Call::Secret) => refused(
                "these credentials may not act as this instance: check instance-id and the certificate or token",
            ),
            (403, _, Call::Convert) => refused(
                "either the server does not let this instance take over from the other (a tenant's policy says who may), or these credentials may not act as this instance",
            ),
            (403, _, Call::Attested) => refused(
                "these credentials may not act as this instance, or not take over from the other, or the evidence is not what the tenant demands: the server's log says which (failure_code)",
            ),
            (403, _, Call::Unattested) => http.refused(
                format!("{said}: it demands evidence with each call, and this provider brings none"),
                "in an SEV-SNP guest, have it bring some: evidence=sev-snp and certificates=PATH",
            ),
            (429 | 500 | 502..=504, ..) => http.unreachable(said),
            _ => http.answer(said),
        }
    }
}

/// Which call was refused, as far as remedies differ.
#[derive(Clone, Copy)]
enum Call {
    Key,
    Secret,
    Convert,
    /// With evidence.
    Attested,
    /// Without evidence, at a server that demands it.
    Unattested,
}

impl From<Operation> for Call {
    fn from(operation: Operation) -> Self {
        match operation {
            Operation::Convert => Call::Convert,
            Operation::Generate | Operation::Decrypt => Call::Secret,
        }
    }
}

/// What is sent.
#[derive(Serialize)]
struct Body<'a, T> {
    #[serde(flatten)]
    request: &'a T,
    #[serde(flatten)]
    more: WithEvidence,
}

/// What asking for a challenge has led to.
enum Evident {
    /// Evidence, or none where none is demanded.
    Given(Option<Evidence>),
    /// An answer that is no challenge, and stands for that of the call.
    NoChallenge(Answer),
}

/// Whether another try, or another server, may do better: every call may be made again.
fn is_passing(answer: &Answer) -> bool {
    matches!(answer.status, 500 | 502..=504)
}

/// The words of a server, made harmless.
fn said(answer: &Answer) -> String {
    let body: Option<ErrorBody> = answer.json();
    let text = body.map(|body| body.message).unwrap_or_default();
    text.chars().filter(|c| c.is_ascii_graphic() || *c == ' ').take(MAX_SAID).collect()
}

/// An RSA key for one call (RSAES-OAEP, RFC 8017). The library wipes all memory that it frees, the private key's too.
struct OneTimeKey {
    private: OaepPrivateDecryptingKey,
    /// DER SubjectPublicKeyInfo.
    public: Vec<u8>,
}

impl OneTimeKey {
    fn new(size: KeySize) -> Option<Self> {
        let private = PrivateDecryptingKey::generate(size).ok()?;
        let public = private.public_key().as_der().ok()?.as_ref().to_vec();
        Some(OneTimeKey { private: OaepPrivateDecryptingKey::new(private).ok()?, public })
    }

    /// Opens a wrapped secret: OAEP with SHA-256, MGF1 with SHA-256, empty label. The error is what is wrong with the answer.
    fn open(&self, wrapped: &[u8]) -> Result<Secret<SECRET>, String> {
        let size = self.private.key_size_bytes();
        if wrapped.len() != size {
            return Err(format!("the wrapped secret has {} bytes instead of the {size} of the modulus", wrapped.len()));
        }
        let mut buffer = Zeroizing::new(vec![0; self.private.min_output_size()]);
        let opened = self.private.decrypt(&OAEP_SHA256_MGF1SHA256, wrapped, &mut buffer, None);
        let opened = opened.map_err(|_| "the wrapped secret does not open with the key of this call".to_owned())?;
        let secret = Secret::try_fill_with(|secret: &mut [u8; SECRET]| match opened.len() {
            SECRET => {
                secret.copy_from_slice(opened);
                Ok(())
            }
            len => Err(format!("the secret has {len} bytes instead of {SECRET}")),
        })?;
        if secret.is_zero() { Err("the secret is all zero".into()) } else { Ok(secret) }
    }
}

/// A slot's parameters.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Parameters {
    /// Owner of the secret.
    instance_id: InstanceId,
    /// The volume's name as it is sent.
    volume_uuid: VolumeName,
    /// Whether the server signs the context.
    context: ServerContext,
    /// The secret, sealed by the server.
    #[serde(with = "sealed")]
    encrypted_secret: Vec<u8>,
    #[serde(with = "base64_array")]
    salt: [u8; SALT],
    #[serde(with = "base64_array")]
    check: [u8; CHECK],
}

impl Parameters {
    fn of(slot: &SlotData) -> Result<Self, ProviderError> {
        kek::parameters(slot)
    }

    /// Before anything is sent: a slot from another volume is not even asked for.
    fn check_volume(&self, context: &SlotContext) -> Result<(), ProviderError> {
        let right = self.volume_uuid == VolumeName::from(context.volume);
        if right { Ok(()) } else { Err(ProviderError::Unauthentic(Unauthentic)) }
    }
}

impl kek::Parameters for Parameters {
    fn check(&self) -> &[u8; CHECK] {
        &self.check
    }

    fn encode(&self) -> Vec<u8> {
        let (instance, volume) = (self.instance_id.as_str().as_bytes(), self.volume_uuid.as_str().as_bytes());
        let context = String::from(self.context.clone());
        join(&[instance, volume, context.as_bytes(), &self.encrypted_secret, &self.salt, &self.check])
    }
}

/// `none`, or `v1` and the tenant.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
struct ServerContext(Option<Tenant>);

impl From<ServerContext> for String {
    fn from(context: ServerContext) -> String {
        context.0.map_or_else(|| "none".into(), |tenant| format!("v1 {}", tenant.as_str()))
    }
}

impl TryFrom<String> for ServerContext {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, &'static str> {
        match text.strip_prefix("v1 ") {
            None if text == "none" => Ok(ServerContext(None)),
            Some(tenant) if tenant.parse::<Tenant>().is_ok() => Ok(ServerContext(tenant.parse().ok())),
            _ => Err("context is neither none nor v1 with a tenant"),
        }
    }
}

/// The sealed secret as base64url text without padding.
mod sealed {
    use base64::Engine;
    use base64::prelude::BASE64_URL_SAFE_NO_PAD;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&BASE64_URL_SAFE_NO_PAD.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(String::deserialize(from)?).map_err(D::Error::custom)?;
        if (1..=super::MAX_SEALED).contains(&bytes.len()) {
            Ok(bytes)
        } else {
            Err(D::Error::custom("encrypted_secret has 1 to 4096 bytes"))
        }
    }
}

fn take_instance(spec: &mut ProviderSpec) -> Result<InstanceId, ProviderError> {
    let metadata = spec.take("imds-endpoint");
    let text = match (spec.take("instance-id"), spec.take_path("instance-id-file")) {
        (Some(_), Some(_)) => {
            let name = "instance-id-file".into();
            return Err(SpecError::Value { name, expected: "there beside instance-id" }.into());
        }
        (Some(text), None) if text == "imds" => instance_of_metadata(metadata.as_deref().unwrap_or(IMDS))?,
        (Some(text), None) => text,
        (None, Some(path)) => secret_file::read_word("file of the instance id", &path, Access::AsMounted)?.to_string(),
        (None, None) => return Err(SpecError::Missing { kind: spec.kind.clone(), name: "instance-id" }.into()),
    };
    let expected = "an instance id: up to 64 letters, digits and characters of \"._-\"";
    Ok(text.parse().map_err(|_| SpecError::Value { name: "instance-id".into(), expected })?)
}

/// The instance id that EC2's metadata service tells, version 2 with a session token (EC2 user guide, "Use the Instance Metadata
/// Service"). It decides nothing: the server knows by the credentials who may be which instance.
fn instance_of_metadata(base: &str) -> Result<String, ProviderError> {
    let options = HttpOptions {
        timeout: IMDS_TIMEOUT,
        connect_timeout: Duration::from_secs(1),
        // There is no other: it answers on a link of this machine alone.
        plain: true,
        ..HttpOptions::default()
    };
    let http = Http::new("instance metadata service", options)?;
    let (deadline, endpoints) = (http.deadline(), [http.endpoint(base)?]);
    let ask = |request: &dyn Fn(&Endpoint) -> Request| {
        let answer = http.exchange(deadline, &endpoints, is_passing, |endpoint| Ok(request(endpoint)))?;
        let text = std::str::from_utf8(&answer.body).map(str::trim).unwrap_or_default();
        match answer.status {
            200 if !text.is_empty() => Ok(Zeroizing::new(text.to_owned())),
            status => Err(http.answer(format!("status {status}, and no text"))),
        }
    };
    let token = ask(&|endpoint| {
        Request::new("PUT", endpoint.join("latest/api/token")).header("X-aws-ec2-metadata-token-ttl-seconds", "60")
    })?;
    let id = ask(&|endpoint| {
        let request = Request::get(endpoint.join("latest/meta-data/instance-id"));
        request.header("X-aws-ec2-metadata-token", token.as_str())
    })?;
    Ok(id.to_string())
}

/// Takes `evidence`, and what belongs to it.
fn take_attester(spec: &mut ProviderSpec) -> Result<Option<Box<dyn Attester>>, ProviderError> {
    match spec.take("evidence").as_deref() {
        Some("sev-snp") => snp_attester(spec).map(Some),
        Some(_) => Err(SpecError::Value { name: "evidence".into(), expected: "sev-snp" }.into()),
        None if spec.take("certificates").is_some() || spec.take("vmpl").is_some() => {
            let name = "evidence beside certificates or vmpl";
            Err(SpecError::Missing { kind: spec.kind.clone(), name }.into())
        }
        None => Ok(None),
    }
}

#[cfg(feature = "sev-snp")]
fn snp_attester(spec: &mut ProviderSpec) -> Result<Box<dyn Attester>, ProviderError> {
    Ok(Box::new(evidence::SnpEvidence::take(crate::attest::DeviceGuest, spec)?))
}

#[cfg(not(feature = "sev-snp"))]
fn snp_attester(_: &mut ProviderSpec) -> Result<Box<dyn Attester>, ProviderError> {
    Err(ProviderError::Setup {
        fact: "this envelopefs cannot ask an SEV-SNP secure processor for evidence".into(),
        remedy: "build it with the feature sev-snp",
        source: None,
    })
}

fn take_pinned(spec: &mut ProviderSpec) -> Result<Pinned, ProviderError> {
    match (spec.take_path("signing-key"), spec.take("signing-key-sha256")) {
        (Some(_), Some(_)) => {
            let name = "signing-key-sha256".into();
            Err(SpecError::Value { name, expected: "there beside signing-key" }.into())
        }
        (Some(path), None) => Ok(Pinned::Keys(read_keys(&path)?)),
        (None, Some(id)) => {
            let id = id.to_ascii_lowercase();
            if id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                return Ok(Pinned::Fingerprint(id, OnceLock::new()));
            }
            let (name, expected) = ("signing-key-sha256".into(), "64 hexadecimal digits");
            Err(SpecError::Value { name, expected }.into())
        }
        (None, None) => Err(SpecError::Missing { kind: spec.kind.clone(), name: "signing-key" }.into()),
    }
}

/// Reads a file of pinned keys.
fn read_keys(path: &Path) -> Result<SigningKeys, ProviderError> {
    let bytes = secret_file::read("signing key", path, MAX_PEM, Access::Believed)?;
    SigningKeys::from_pem(&String::from_utf8_lossy(&bytes)).map_err(|error| ProviderError::Setup {
        fact: format!("the signing key {} cannot be used", path.display()),
        remedy: "name the PEM file with the public key that the operator of the key server has handed out",
        source: Some(error.into()),
    })
}

#[cfg(test)]
mod tests;
