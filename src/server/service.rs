//! One call, from what a request shows of its caller to an answer or a refusal.
//!
//! ```text
//! admit     instance id ─▶ rate of the address ─▶ identity (401, 403) ─▶ rate of the tenant ─▶ health (503)
//! perform   body (400) ─▶ policy, evidence (403) ─▶ HSM ─▶ audit commit ─▶ answer
//! ```
//!
//! The address's rate comes first, since finding out who somebody is costs a query. From `perform` on each outcome is recorded, and nothing that
//! the HSM gave leaves before its record is durable: if that fails, the answer is 503 and what was made is dropped.
//!
//! **Refused callers** are recorded too (`refused`), in the log of the tenant whose they are beyond doubt, else in the server's own; but at
//! the rate of `REFUSALS` at most in each log, so that strangers cannot fill it. What was left out is counted in the metrics, and in the next record of
//! that log (`unrecorded`).
//!
//! **Wrong blobs** have one text, whatever is wrong with them, and leave at a multiple of `UNIFORM` after the call came: what the HSM was asked before
//! does not show.
//!
//! **Customer keys** are made when a tenant is added. Where the HSM was away then, the first generate makes one, under the database's
//! unique constraint: of two first calls one wins, and the other uses the winner's. decrypt and convert never make one.

mod health;
mod metrics;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use jiff::Timestamp;
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use tokio::sync::Semaphore;
use tokio::time::Instant;

pub use self::health::Health;
pub use self::metrics::Metrics;

use super::attestation::{self, Unattested};
use super::audit::{
    Audit, Caller, CallerKind, Context, Entry, Failure, Parameters, Recorded, SignError, Signer, timestamp,
};
use super::config::{Config, Limits};
use super::hsm::{Cluster, CustomerKey, HsmError, KeyId, Owner, Sealed};
use super::http::limits::{Rate, Rates, neighbourhood};
use super::http::routes::{Calls, Refused};
use super::identity::{Denied, Identities, Identity, Presented};
use super::state::{
    Challenge, CustomerKeyRecord, KeyState, LogName, SigningKeyRecord, State, StateError, TenantRecord,
};
use crate::api::canonical::AttestedCall;
use crate::api::signature::SigningKey;
use crate::api::{
    Base64, ChallengeAnswer, ClientNonce, ConvertRequest, DecryptRequest, GenerateRequest, InstanceId, MAX_SEALED,
    Operation, PublicSigningKey, Refusal, SecretAnswer, Tenant, VolumeName, WithEvidence, hex,
};
use crate::attest::Roots;
use crate::keys::ProviderError;

/// Refusals that are recorded in one log: one a second, and some at once after a pause.
const REFUSALS: Rate = Rate { per_second: 1, burst: 30 };
/// Wrong blobs are refused at multiples of this after the call came.
const UNIFORM: Duration = Duration::from_millis(100);
/// Longest wait for a session of the HSM.
const SESSION: Duration = Duration::from_secs(10);
/// Tenants whose rates are remembered.
const TENANTS: usize = 65_536;

impl From<StateError> for Refused {
    fn from(error: StateError) -> Self {
        tracing::error!(error = told(&error), "the state cannot be used");
        Refusal::Internal.into()
    }
}

/// A refusal with its exact reason, which goes to the record alone.
#[derive(Debug)]
struct Failed {
    refusal: Refusal,
    code: &'static str,
}

impl From<Refusal> for Failed {
    fn from(refusal: Refusal) -> Self {
        Failed { refusal, code: refusal.code() }
    }
}

impl From<Unattested> for Failed {
    fn from(unattested: Unattested) -> Self {
        Failed { refusal: Refusal::Forbidden, code: unattested.code }
    }
}

impl From<StateError> for Failed {
    fn from(error: StateError) -> Self {
        tracing::error!(error = told(&error), "the state cannot be used");
        Failed { refusal: Refusal::Internal, code: "state" }
    }
}

impl From<HsmError> for Failed {
    fn from(error: HsmError) -> Self {
        let (refusal, code) = match &error {
            HsmError::WrongContext => return Refusal::Incorrect.into(),
            HsmError::RsaKey => return Refusal::InvalidRsaKey.into(),
            HsmError::NoPin => (Refusal::Internal, "hsm-no-pin"),
            HsmError::Unavailable(_) => (Refusal::Internal, "hsm-unavailable"),
            HsmError::NoSuchKey(_) => (Refusal::Internal, "hsm-no-such-key"),
            HsmError::Setup { .. } => (Refusal::Internal, "hsm-setup"),
        };
        tracing::error!(error = told(&error), code, "the HSM has no answer");
        Failed { refusal, code }
    }
}

/// An error with its causes, in one line.
pub(super) fn told(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// A caller who may do what he asks for, as far as can be told without the body.
#[derive(Debug)]
pub struct Admitted {
    identity: Identity,
    operation: Operation,
    instance: InstanceId,
    request_id: String,
    start: Timestamp,
    clock: Instant,
}

/// The signing keys as they are now.
struct Keys {
    all: Vec<SigningKeyRecord>,
    current: Option<(KeyId, Vec<u8>)>,
}

impl Keys {
    async fn read(state: &State) -> Result<Keys, StateError> {
        let all = state.signing_keys().await?;
        let current = all.iter().rfind(|key| key.state == KeyState::Current);
        let current = current.map(|key| (KeyId(key.id), key.spki.clone()));
        Ok(Keys { all, current })
    }
}

/// Signs records with a key in the HSM.
pub struct HsmSigner {
    cluster: Arc<Cluster>,
    key: KeyId,
    id: String,
}

impl HsmSigner {
    /// With this key, of which the public half is given.
    pub fn new(cluster: Arc<Cluster>, key: KeyId, spki: &[u8]) -> HsmSigner {
        HsmSigner { cluster, key, id: hex(&crate::crypto::sha256(spki)) }
    }

    /// With the current key.
    ///
    /// # Errors
    /// [`ProviderError::Setup`] if there is none, or the state cannot be read.
    pub async fn current(state: &State, cluster: &Arc<Cluster>) -> Result<Arc<HsmSigner>, ProviderError> {
        let setup = |fact: &str, source| ProviderError::Setup {
            fact: fact.into(),
            remedy: "make the server's keys: envelopefs-keyserver init",
            source,
        };
        let keys = Keys::read(state).await;
        let keys = keys.map_err(|error| setup("the signing key cannot be read from the state", Some(error.into())))?;
        let (key, spki) = keys.current.ok_or_else(|| setup("there is no signing key", None))?;
        Ok(Arc::new(HsmSigner::new(Arc::clone(cluster), key, &spki)))
    }
}

impl Signer for HsmSigner {
    fn key_id(&self) -> &str {
        &self.id
    }

    fn sign(&self, text: &[u8]) -> Result<Vec<u8>, SignError> {
        Ok(self.cluster.sign(self.key, text)?)
    }

    fn parallel(&self) -> usize {
        self.cluster.sessions()
    }
}

/// The key server, without its listeners.
pub struct Service {
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Whether it can work.
    pub health: Health,
    state: State,
    cluster: Arc<Cluster>,
    audit: Audit,
    identities: Identities,
    limits: Limits,
    addresses: Rates<IpAddr>,
    tenants: Rates<Tenant>,
    refusals: Rates<LogName>,
    unrecorded: Mutex<HashMap<LogName, u64>>,
    sessions: Arc<Semaphore>,
    keys: ArcSwap<Keys>,
    sinks: Vec<String>,
    roots: Roots,
}

impl Service {
    /// Puts the rooms together, and begins to probe them on the current runtime until the service is dropped.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn start(
        config: &Config,
        state: State,
        cluster: Arc<Cluster>,
        audit: Audit,
    ) -> Result<Arc<Service>, StateError> {
        Service::start_with(config, state, cluster, audit, Roots::amd()).await
    }

    /// The same, with the roots that evidence of callers has to lead to.
    async fn start_with(
        config: &Config,
        state: State,
        cluster: Arc<Cluster>,
        audit: Audit,
        roots: Roots,
    ) -> Result<Arc<Service>, StateError> {
        let keys = Keys::read(&state).await?;
        let service = Arc::new(Service {
            metrics: Arc::new(Metrics::new()),
            health: Health::new(),
            identities: Identities::new(state.clone(), config.listen.trusted_gateways.clone()),
            limits: config.limits.clone(),
            addresses: Rates::new(config.limits.addresses),
            tenants: Rates::new(TENANTS),
            refusals: Rates::new(TENANTS),
            unrecorded: Mutex::default(),
            sessions: Arc::new(Semaphore::new(cluster.sessions().max(1))),
            keys: ArcSwap::from_pointee(keys),
            sinks: config.audit.sinks.iter().map(|sink| sink.name().to_owned()).collect(),
            roots,
            state,
            cluster,
            audit,
        });
        service.probe().await;
        let watched = Arc::downgrade(&service);
        tokio::spawn(async move {
            while let Some(service) = watched.upgrade() {
                tokio::select! {
                    () = tokio::time::sleep(health::INTERVAL) => {}
                    () = service.health.wanted.notified() => {}
                }
                service.probe().await;
            }
        });
        Ok(service)
    }

    /// The HSM, for the host's own listener.
    pub(super) fn cluster(&self) -> &Arc<Cluster> {
        &self.cluster
    }

    /// Probes without waiting for the next time.
    pub(super) async fn probe_now(&self) {
        self.probe().await;
    }

    /// What is counted, as text.
    pub(super) async fn metrics_text(&self) -> String {
        for sink in &self.sinks {
            match self.state.behind(sink).await {
                Ok(logs) => {
                    let records = logs.iter().map(|(_, from, next)| next.saturating_sub(*from)).sum();
                    self.metrics.set_behind([(sink.clone(), records)]);
                }
                Err(error) => tracing::debug!(error = told(&error), "the sinks' positions cannot be read"),
            }
        }
        self.metrics.text(&self.cluster.status(), self.cluster.sessions())
    }

    async fn probe(&self) {
        let cluster = Arc::clone(&self.cluster);
        let hsm = tokio::task::spawn_blocking(move || cluster.probe());
        let outcome = match tokio::time::timeout(health::LIMIT, hsm).await {
            Err(_) => Err("the HSM does not answer in time".to_owned()),
            Ok(Err(_)) => Err("the probe of the HSM failed inside".to_owned()),
            Ok(Ok(outcome)) => outcome.map_err(|error| told(&error)),
        };
        let keys = Keys::read(&self.state).await.map_err(|error| told(&error));
        let outcome = match (outcome, keys) {
            (outcome, Ok(keys)) => {
                self.take_keys(keys);
                outcome
            }
            (Ok(()), Err(error)) => Err(error),
            (outcome, Err(_)) => outcome,
        };
        let healthy = outcome.is_ok();
        self.health.set(outcome.clone());
        self.metrics.set_healthy(healthy);
        if self.health.changed() {
            match outcome {
                Ok(()) => tracing::info!("healthy: HSM and database work"),
                Err(error) => tracing::warn!(error, "unhealthy"),
            }
        }
    }

    /// A key that was rotated by another process signs from now on.
    fn take_keys(&self, keys: Keys) {
        let before = self.keys.load();
        if let Some((id, spki)) = keys.current.as_ref().filter(|_| before.current != keys.current) {
            self.audit.set_signer(Arc::new(HsmSigner::new(Arc::clone(&self.cluster), *id, spki)));
        }
        self.keys.store(Arc::new(keys));
    }

    /// Answers `GET public-signing-key`.
    ///
    /// # Errors
    /// [`Refused`].
    pub async fn public_signing_key(&self, shown: &Presented, request_id: &str) -> Result<PublicSigningKey, Refused> {
        self.known(shown, None, "", request_id).await?;
        let keys = self.keys.load();
        let (_, spki) = keys.current.as_ref().ok_or(Refusal::Internal)?;
        Ok(PublicSigningKey { public_key: Base64(spki.clone()) })
    }

    /// Answers `GET signing-keys`: by key id, without arrays, which an unquoted shell would take for patterns.
    ///
    /// # Errors
    /// [`Refused`].
    pub async fn signing_keys(&self, shown: &Presented, request_id: &str) -> Result<Value, Refused> {
        self.known(shown, None, "", request_id).await?;
        let keys = self.keys.load();
        let id = |spki: &[u8]| hex(&crate::crypto::sha256(spki));
        let mut all = Map::new();
        for key in &keys.all {
            let current = key.state == KeyState::Current;
            let mut entry = json!({
                "public_key": Base64(key.spki.clone()),
                "state": if current { "current" } else { "retired" },
                "created_at": key.created_at,
            });
            if let Some(retired) = &key.retired_at {
                entry["retired_at"] = json!(retired);
            }
            if let Some((by, signature)) = &key.endorsement
                && let Some(by) = keys.all.iter().find(|other| other.id == *by)
            {
                entry["endorsed_by"] = json!(id(&by.spki));
                entry["endorsement"] = json!(Base64(signature.clone()));
            }
            all.insert(id(&key.spki), entry);
        }
        let (_, spki) = keys.current.as_ref().ok_or(Refusal::Internal)?;
        Ok(json!({ "current": id(spki), "keys": all }))
    }

    /// Answers `POST encryption/{instance}/challenge`: for tenants who demand evidence; of the others there is no such call.
    ///
    /// # Errors
    /// [`Refused`].
    pub async fn challenge(
        &self,
        shown: &Presented,
        instance: &str,
        request_id: &str,
    ) -> Result<ChallengeAnswer, Refused> {
        let instance = instance.parse::<InstanceId>().map_err(|_| Refusal::BadParameters)?;
        let identity = self.known(shown, Some(&instance), "challenge", request_id).await?;
        let demanded = identity.policy.attestation.as_ref().ok_or(Refusal::NotFound)?;
        let (challenge, expires_at) = (attestation::challenge(), Timestamp::now() + demanded.window());
        let (nonce, tenant) = (challenge.0, &identity.tenant.id);
        self.state.put_challenge(&Challenge { nonce, tenant, instance: &instance, expires_at }).await?;
        Ok(ChallengeAnswer { challenge, expires_at: timestamp(expires_at) })
    }

    /// Looks whether a caller may make a call, before its body is read.
    ///
    /// # Errors
    /// [`Refused`].
    pub async fn admit(
        &self,
        shown: &Presented,
        operation: Operation,
        instance: &str,
        request_id: &str,
    ) -> Result<Admitted, Refused> {
        let (start, clock) = (Timestamp::now(), Instant::now());
        let parsed = instance.parse::<InstanceId>().map_err(|_| Refusal::BadParameters)?;
        let identity = self.known(shown, Some(&parsed), operation.word(), request_id).await?;
        if !self.health.is_healthy() {
            return Err(Refusal::Unhealthy.into());
        }
        Ok(Admitted { identity, operation, instance: parsed, request_id: request_id.to_owned(), start, clock })
    }

    /// Who it is, within his rates.
    async fn known(
        &self,
        shown: &Presented,
        instance: Option<&InstanceId>,
        call: &str,
        request_id: &str,
    ) -> Result<Identity, Refused> {
        let too_many = |wait: Duration| {
            self.metrics.refused("rate");
            Refused { refusal: Refusal::TooMany, retry_after: Some(wait.as_secs() + 1) }
        };
        let ip = self.identities.address(shown);
        let (per_second, burst) = (self.limits.address_requests_per_second, self.limits.address_burst);
        self.addresses.take(neighbourhood(ip), Rate { per_second, burst }).map_err(too_many)?;
        let identity = match self.identities.identify(shown, instance).await {
            Ok(identity) => identity,
            Err(Denied::Unknown(error)) => return Err(error.into()),
            Err(denied) => return Err(self.deny(denied, ip, instance, call, request_id).await.into()),
        };
        let rate = Rate {
            per_second: identity.policy.requests_per_second.unwrap_or(self.limits.tenant_requests_per_second),
            burst: identity.policy.burst.unwrap_or(self.limits.tenant_burst),
        };
        self.tenants.take(identity.tenant.id.clone(), rate).map_err(too_many)?;
        Ok(identity)
    }

    /// Counts and records a refused caller.
    async fn deny(
        &self,
        denied: Denied,
        ip: IpAddr,
        instance: Option<&InstanceId>,
        call: &str,
        request_id: &str,
    ) -> Refusal {
        let (refusal, tenant, code, how) = match denied {
            Denied::Nobody => (Refusal::Unauthorized, None, "nobody", None),
            Denied::Refused { tenant, code, how } => (Refusal::Forbidden, tenant, code, how),
            Denied::Unknown(_) => return Refusal::Internal,
        };
        self.metrics.refused(code);
        let of = tenant.as_ref().map_or("-", |tenant| tenant.id.as_str());
        tracing::info!(request_id, %ip, tenant = of, code, "a caller is refused");
        let log = tenant.as_ref().map_or_else(LogName::server, |tenant| LogName::from(&tenant.id));
        if self.refusals.take(log.clone(), REFUSALS).is_err() {
            *self.unrecorded.lock().entry(log).or_default() += 1;
            return refusal;
        }
        let mut more = Vec::new();
        if !call.is_empty() {
            more.push(("operation".to_owned(), call.to_owned()));
        }
        let unrecorded = self.unrecorded.lock().remove(&log);
        if let Some(unrecorded) = unrecorded {
            more.push(("unrecorded".to_owned(), unrecorded.to_string()));
        }
        let now = Timestamp::now();
        let instance = instance.map(|instance| instance.as_str().to_owned());
        let entry = Entry {
            log,
            account_id: tenant.map_or_else(|| "-".to_owned(), |tenant| tenant.account_id),
            name: "refused",
            caller: Caller {
                kind: CallerKind::Instance,
                id: instance.clone().unwrap_or_else(|| "-".to_owned()),
                ip: ip.to_string(),
                identity: how,
                attestation_sha256: None,
            },
            parameters: Parameters { instance_id: instance, more, ..Parameters::default() },
            op_start: now,
            op_end: now,
            result: Err(Failure { reason: refusal.message(), code: code.into() }),
            request_id: request_id.to_owned(),
            context: None,
        };
        // He is refused either way.
        let _ = self.record(entry).await;
        refusal
    }

    /// Records an act at the node itself: a PIN or key that was handed in.
    pub(super) async fn record_operator(&self, name: &'static str, who: &str, result: Result<(), Failure>) -> bool {
        let now = Timestamp::now();
        let entry = Entry {
            log: LogName::server(),
            account_id: "-".into(),
            name,
            parameters: Parameters::default(),
            caller: Caller {
                kind: CallerKind::Operator,
                id: who.to_owned(),
                ip: who.to_owned(),
                identity: None,
                attestation_sha256: None,
            },
            op_start: now,
            op_end: now,
            result,
            request_id: uuid::Uuid::new_v4().simple().to_string(),
            context: None,
        };
        self.record(entry).await.is_some()
    }

    async fn record(&self, entry: Entry) -> Option<Recorded> {
        let (clock, name) = (Instant::now(), entry.name);
        let recorded = self.audit.record(entry).await;
        self.metrics.recorded(clock.elapsed(), recorded.is_ok());
        recorded.map_err(|error| tracing::error!(error = told(&error), name, "a call could not be recorded")).ok()
    }

    /// Makes the call, records it, and answers.
    ///
    /// # Errors
    /// [`Refused`].
    pub async fn perform(&self, admitted: Admitted, body: Result<Bytes, Refusal>) -> Result<SecretAnswer, Refused> {
        let mut parameters =
            Parameters { instance_id: Some(admitted.instance.as_str().to_owned()), ..Parameters::default() };
        let mut attestation_sha256 = None;
        let outcome = match body {
            Err(refusal) => Err(refusal.into()),
            Ok(bytes) => self.work(&admitted, &bytes, &mut parameters, &mut attestation_sha256).await,
        };
        let Admitted { identity, operation, instance, request_id, start, clock } = admitted;
        let (made, failed) = match outcome {
            Ok(made) => (Some(made), None),
            Err(failed) => (None, Some(failed)),
        };
        if let Some(Failed { refusal: Refusal::Incorrect, .. }) = failed {
            let periods = clock.elapsed().as_millis() / UNIFORM.as_millis() + 1;
            tokio::time::sleep_until(clock + UNIFORM * u32::try_from(periods).unwrap_or(u32::MAX)).await;
        }
        let context = made.as_ref().and_then(|made| made.context(operation, &identity.tenant, &instance));
        let failure = |failed: &Failed| Failure { reason: failed.refusal.audit_reason(), code: failed.code.into() };
        let recorded = self
            .record(Entry {
                log: LogName::from(&identity.tenant.id),
                account_id: identity.tenant.account_id.clone(),
                name: operation.word(),
                parameters,
                caller: Caller {
                    kind: CallerKind::Instance,
                    id: instance.as_str().to_owned(),
                    ip: identity.ip.to_string(),
                    identity: Some(identity.how),
                    attestation_sha256,
                },
                op_start: start,
                op_end: Timestamp::now(),
                result: failed.as_ref().map_or(Ok(()), |failed| Err(failure(failed))),
                request_id,
                context,
            })
            .await;
        match (made, recorded) {
            // What was made stays here: nobody would know that it left.
            (_, None) => Err(Refusal::Internal.into()),
            (None, Some(_)) => Err(failed.map_or(Refusal::Internal, |failed| failed.refusal).into()),
            (Some(made), Some(recorded)) => Ok(made.answer(&identity.tenant.id, recorded)),
        }
    }

    async fn work(
        &self,
        admitted: &Admitted,
        body: &[u8],
        parameters: &mut Parameters,
        attestation_sha256: &mut Option<[u8; 32]>,
    ) -> Result<Made, Failed> {
        let Admitted { identity, instance, operation, .. } = admitted;
        let fields = fields(body)?;
        let text = |name: &str| fields.get(name).and_then(Value::as_str).map(str::to_owned);
        // As they came, so that a record of what could not be read says what was asked for.
        parameters.volume_uuid = text("volume_uuid");
        parameters.source_instance_id = text("source_instance_id").filter(|_| *operation == Operation::Convert);
        // The original took these for the caller's identity.
        let ip = identity.ip.to_string();
        for (name, right) in [("vpc_id", identity.tenant.id.as_str()), ("client_ip", ip.as_str())] {
            if fields.get(name).is_some_and(|value| value.as_str() != Some(right)) {
                return Err(Failed { refusal: Refusal::BadParameters, code: "identity-in-body" });
            }
        }
        match operation {
            Operation::Generate => {
                let GenerateRequest { rsa_wrapping_key, volume_uuid, client_nonce } = parse(body)?;
                parameters.rsa_wrapping_key = Some(rsa_wrapping_key.0.clone());
                let call = AttestedCall { rsa_wrapping_key: &rsa_wrapping_key.0, ..asked(admitted, &volume_uuid) };
                self.attest(admitted, body, &call, parameters, attestation_sha256).await?;
                self.generate(admitted, rsa_wrapping_key.0, volume_uuid, client_nonce).await
            }
            Operation::Decrypt => {
                let request: DecryptRequest = parse(body)?;
                parameters.rsa_wrapping_key = Some(request.rsa_wrapping_key.0.clone());
                parameters.encrypted_secret = Some(request.encrypted_secret.0.clone());
                let call = AttestedCall {
                    rsa_wrapping_key: &request.rsa_wrapping_key.0,
                    encrypted_secret: &request.encrypted_secret.0,
                    ..asked(admitted, &request.volume_uuid)
                };
                self.attest(admitted, body, &call, parameters, attestation_sha256).await?;
                self.decrypt(admitted, request).await
            }
            Operation::Convert => {
                let request: ConvertRequest = parse(body)?;
                parameters.encrypted_secret = Some(request.encrypted_secret.0.clone());
                if !identity.policy.convert.allows(&request.source_instance_id, instance) {
                    return Err(Failed { refusal: Refusal::Forbidden, code: "convert-not-allowed" });
                }
                let call = AttestedCall {
                    encrypted_secret: &request.encrypted_secret.0,
                    source: Some(&request.source_instance_id),
                    ..asked(admitted, &request.volume_uuid)
                };
                self.attest(admitted, body, &call, parameters, attestation_sha256).await?;
                self.convert(admitted, request).await
            }
        }
    }

    /// Looks at a caller's evidence, if his tenant demands any. What it was, and why it does not do, goes to the record.
    async fn attest(
        &self,
        admitted: &Admitted,
        body: &[u8],
        call: &AttestedCall<'_>,
        parameters: &mut Parameters,
        attestation_sha256: &mut Option<[u8; 32]>,
    ) -> Result<(), Failed> {
        let Admitted { identity, instance, .. } = admitted;
        let Some(demanded) = &identity.policy.attestation else { return Ok(()) };
        let WithEvidence { attestation } = parse(body)?;
        let evidence = attestation.ok_or(Unattested::new("attestation-missing"))?;
        *attestation_sha256 = Some(crate::crypto::sha256(&evidence.report.0));
        if !self.state.take_challenge(&evidence.challenge.0, &identity.tenant.id, instance).await? {
            return Err(Unattested::new("attestation-challenge").into());
        }
        match attestation::check(demanded, &evidence, call, &self.roots, Timestamp::now()) {
            Ok(verified) => {
                parameters.more.push(("attestation_measurement".into(), hex(&verified.report().measurement())));
                Ok(())
            }
            Err(unattested) => {
                parameters.more.extend(unattested.cause.clone().map(|cause| ("attestation_failure".into(), cause)));
                Err(unattested.into())
            }
        }
    }

    async fn generate(
        &self,
        admitted: &Admitted,
        rsa_wrapping_key: Vec<u8>,
        volume: VolumeName,
        nonce: Option<ClientNonce>,
    ) -> Result<Made, Failed> {
        let tenant = admitted.identity.tenant.id.clone();
        let rsa = self.cluster.rsa_key(&rsa_wrapping_key).map_err(|_| Refusal::InvalidRsaKey)?;
        let key = match self.state.customer_key(&tenant).await? {
            Some(key) => customer_key(key),
            None => self.first_key(&tenant).await?,
        };
        let (signing, instance, owned) = (self.signing_key()?, admitted.instance.clone(), volume.clone());
        let (sealed, wrapped) = self
            .on_hsm(move |hsm| {
                let owner = Owner { tenant: &tenant, instance: &instance, volume: &owned };
                let made = hsm.generate(&key, &owner, &rsa)?;
                let signatures = (hsm.sign(signing, &made.sealed)?, hsm.sign(signing, &made.wrapped)?);
                Ok(((made.sealed, signatures.0), (made.wrapped, signatures.1)))
            })
            .await?;
        Ok(Made { sealed: Some(sealed), wrapped: Some(wrapped), sent: Vec::new(), rsa_wrapping_key, volume, nonce })
    }

    async fn decrypt(&self, admitted: &Admitted, request: DecryptRequest) -> Result<Made, Failed> {
        let DecryptRequest { encrypted_secret, rsa_wrapping_key, volume_uuid, client_nonce } = request;
        let tenant = admitted.identity.tenant.id.clone();
        let rsa = self.cluster.rsa_key(&rsa_wrapping_key.0).map_err(|_| Refusal::InvalidRsaKey)?;
        let (sealed, key) = self.opened_with(&tenant, &encrypted_secret.0).await?;
        let (signing, instance, volume) = (self.signing_key()?, admitted.instance.clone(), volume_uuid.clone());
        let wrapped = self
            .on_hsm(move |hsm| {
                let owner = Owner { tenant: &tenant, instance: &instance, volume: &volume };
                let wrapped = hsm.decrypt(&key, &sealed, &owner, &rsa)?;
                let signature = hsm.sign(signing, &wrapped)?;
                Ok((wrapped, signature))
            })
            .await?;
        Ok(Made {
            sealed: None,
            wrapped: Some(wrapped),
            sent: encrypted_secret.0,
            rsa_wrapping_key: rsa_wrapping_key.0,
            volume: volume_uuid,
            nonce: client_nonce,
        })
    }

    async fn convert(&self, admitted: &Admitted, request: ConvertRequest) -> Result<Made, Failed> {
        let ConvertRequest { encrypted_secret, volume_uuid, source_instance_id, client_nonce } = request;
        let tenant = admitted.identity.tenant.id.clone();
        let (sealed, from_key) = self.opened_with(&tenant, &encrypted_secret.0).await?;
        let to_key = self.state.customer_key(&tenant).await?.map(customer_key).ok_or(Refusal::NoCustomerKey)?;
        let (signing, instance, volume) = (self.signing_key()?, admitted.instance.clone(), volume_uuid.clone());
        let sealed = self
            .on_hsm(move |hsm| {
                let from = Owner { tenant: &tenant, instance: &source_instance_id, volume: &volume };
                let to = Owner { instance: &instance, ..from };
                let sealed = hsm.convert(&from_key, &sealed, &from, &to_key, &to)?;
                let signature = hsm.sign(signing, &sealed)?;
                Ok((sealed, signature))
            })
            .await?;
        Ok(Made {
            sealed: Some(sealed),
            wrapped: None,
            sent: Vec::new(),
            rsa_wrapping_key: Vec::new(),
            volume: volume_uuid,
            nonce: client_nonce,
        })
    }

    /// A blob, and the customer key that it names.
    async fn opened_with(&self, tenant: &Tenant, blob: &[u8]) -> Result<(Sealed, CustomerKey), Failed> {
        if self.state.customer_key(tenant).await?.is_none() {
            return Err(Refusal::NoCustomerKey.into());
        }
        if blob.len() > MAX_SEALED {
            return Err(Refusal::Incorrect.into());
        }
        let sealed = Sealed::parse(blob)?;
        let key = self.state.customer_key_version(tenant, sealed.customer_key_version()).await?;
        Ok((sealed, key.map(customer_key).ok_or(Refusal::Incorrect)?))
    }

    async fn first_key(&self, tenant: &Tenant) -> Result<CustomerKey, Failed> {
        let domain =
            self.state.domain_key().await?.ok_or(Failed { refusal: Refusal::Internal, code: "no-domain-key" })?;
        let owner = tenant.clone();
        let made = self.on_hsm(move |hsm| hsm.make_customer_key(KeyId(domain), &owner, 1)).await?;
        Ok(customer_key(self.state.insert_first_customer_key(tenant, domain, &made.wrapped).await?))
    }

    fn signing_key(&self) -> Result<KeyId, Failed> {
        let keys = self.keys.load();
        keys.current.as_ref().map(|(id, _)| *id).ok_or(Failed { refusal: Refusal::Internal, code: "no-signing-key" })
    }

    /// Works with the HSM on a thread that may block, as many at a time as it has sessions.
    async fn on_hsm<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Cluster) -> Result<T, HsmError> + Send + 'static,
    ) -> Result<T, Failed> {
        let busy = Failed { refusal: Refusal::Unhealthy, code: "hsm-busy" };
        let waiting = tokio::time::timeout(SESSION, Arc::clone(&self.sessions).acquire_owned()).await;
        let Ok(Ok(permit)) = waiting else { return Err(busy) };
        let cluster = Arc::clone(&self.cluster);
        let done = tokio::task::spawn_blocking(move || {
            let outcome = work(&cluster);
            drop(permit);
            outcome
        });
        match done.await {
            Ok(outcome) => Ok(outcome?),
            Err(_) => Err(Failed { refusal: Refusal::Internal, code: "panic" }),
        }
    }

    /// The public half of the current signing key, verified to be one.
    pub fn current_key(&self) -> Option<SigningKey> {
        let keys = self.keys.load();
        keys.current.as_ref().and_then(|(_, spki)| SigningKey::from_spki(spki).ok())
    }
}

impl Calls for Arc<Service> {
    type Admitted = Admitted;

    fn admit(
        &self,
        shown: &Presented,
        operation: Operation,
        instance: &str,
        id: &str,
    ) -> impl Future<Output = Result<Admitted, Refused>> + Send {
        Service::admit(self, shown, operation, instance, id)
    }

    fn perform(
        &self,
        admitted: Admitted,
        body: Result<Bytes, Refusal>,
    ) -> impl Future<Output = Result<SecretAnswer, Refused>> + Send {
        Service::perform(self, admitted, body)
    }

    fn challenge(
        &self,
        shown: &Presented,
        instance: &str,
        id: &str,
    ) -> impl Future<Output = Result<ChallengeAnswer, Refused>> + Send {
        Service::challenge(self, shown, instance, id)
    }

    fn public_signing_key(
        &self,
        shown: &Presented,
        id: &str,
    ) -> impl Future<Output = Result<PublicSigningKey, Refused>> + Send {
        Service::public_signing_key(self, shown, id)
    }

    fn signing_keys(&self, shown: &Presented, id: &str) -> impl Future<Output = Result<Value, Refused>> + Send {
        Service::signing_keys(self, shown, id)
    }

    fn in_flight(&self, more: i64) {
        self.metrics.in_flight.inc_by(more);
    }

    fn answered(&self, route: &'static str, status: u16, time: Duration) {
        self.metrics.called(route, status, time);
    }
}

/// What is asked, but for what only some operations have.
fn asked<'a>(admitted: &'a Admitted, volume: &'a VolumeName) -> AttestedCall<'a> {
    let Admitted { operation, instance, .. } = admitted;
    let (rsa_wrapping_key, encrypted_secret): (&[u8], &[u8]) = (&[], &[]);
    AttestedCall { operation: *operation, instance, volume, rsa_wrapping_key, encrypted_secret, source: None }
}

fn customer_key(record: CustomerKeyRecord) -> CustomerKey {
    CustomerKey { version: record.version, domain: KeyId(record.domain), wrapped: record.wrapped }
}

/// A body's members. Not an array, which the typed forms would take for members in order.
fn fields(body: &[u8]) -> Result<Map<String, Value>, Failed> {
    serde_json::from_slice(body).map_err(|_| Refusal::BadParameters.into())
}

/// A body in its typed form; a member that is there twice is an error.
fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Failed> {
    serde_json::from_slice(body).map_err(|_| Refusal::BadParameters.into())
}

/// What the HSM made: each value with its signature; and what it was made from.
struct Made {
    sealed: Option<(Vec<u8>, Vec<u8>)>,
    wrapped: Option<(Vec<u8>, Vec<u8>)>,
    sent: Vec<u8>,
    rsa_wrapping_key: Vec<u8>,
    volume: VolumeName,
    nonce: Option<ClientNonce>,
}

impl Made {
    fn context(&self, operation: Operation, tenant: &TenantRecord, instance: &InstanceId) -> Option<Context> {
        let value = |made: &Option<(Vec<u8>, Vec<u8>)>| made.as_ref().map(|(value, _)| value.clone());
        Some(Context {
            operation,
            tenant: tenant.id.clone(),
            instance: instance.clone(),
            volume: self.volume.clone(),
            nonce: self.nonce?,
            rsa_wrapping_key: self.rsa_wrapping_key.clone(),
            encrypted_secret: value(&self.sealed).unwrap_or_else(|| self.sent.clone()),
            wrapped_secret: value(&self.wrapped).unwrap_or_default(),
        })
    }

    fn answer(self, tenant: &Tenant, recorded: Recorded) -> SecretAnswer {
        let mut answer = SecretAnswer::default();
        if let Some((value, signature)) = self.sealed {
            (answer.encrypted_secret, answer.encrypted_secret_signature) =
                (Some(Base64(value)), Some(Base64(signature)));
        }
        if let Some((value, signature)) = self.wrapped {
            (answer.wrapped_secret, answer.wrapped_secret_signature) = (Some(Base64(value)), Some(Base64(signature)));
        }
        if let Some(signature) = recorded.context_signature {
            answer.tenant = Some(tenant.clone());
            answer.context_signature = Some(Base64(signature));
            answer.signed_at = Some(recorded.signed_at);
            answer.audit_seq = Some(recorded.seq.to_string());
            answer.key_id = Some(recorded.key_id);
        }
        answer
    }
}

#[cfg(test)]
mod tests;
