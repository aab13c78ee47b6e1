//! Provider `aws-kms`: the master key encrypted by a key of AWS Key Management Service, which never leaves it.
//!
//! ```text
//! aws-kms:arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab?profile=app
//! aws-kms:alias/app?region=eu-central-1&endpoint=https://vpce-….kms.eu-central-1.vpce.amazonaws.com
//! ```
//!
//! - `Encrypt` of our own random master key, not `GenerateDataKey`: the same master key stands in several slots.
//! - The encryption context holds volume, key version and slot: KMS decrypts for no other. It is no secret, is seen in CloudTrail, and key
//!   policies can ask for it.
//! - The slot keeps the ARN of the key that KMS named. `Decrypt` is always sent with it, or with that of a related multi-Region key, and
//!   its answer must name it again. Which keys a slot may name is the specification's to say, not the volume's: the very key of an ARN,
//!   or for an alias or a bare id, resolved by `DescribeKey`, a key of the same account and region. Custom key stores are the same to us.
//! - Requests are signed by crate aws-sigv4 (Signature Version 4), with a hash of the body, so that the crate never sees (or logs) a key.
//!
//! Reference: AWS KMS API Reference, protocol `x-amz-json-1.1`. Where credentials come from: `aws_credentials.rs`.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;
use std::time::SystemTime;

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::aws_credentials::{CredentialSource, Environment, Places, element};
use super::http::{self, Answer, Deadline, Endpoint, Http, HttpOptions, Request, printable};
use super::{KeyProvider, ProviderError, ProviderSpec, SlotContext, SlotData, SpecError};
use crate::crypto::Unauthentic;
use crate::crypto::secret::Secret;

/// The provider's word in `volume.toml`.
pub const KIND: &str = "aws-kms";

/// Largest ciphertext, in bytes: that of 32 bytes has about 200, and in custom key stores with external keys more.
const MAX_WRAPPED: usize = 6144;

/// A key of AWS KMS.
pub struct AwsKms {
    key: KeyName,
    region: String,
    endpoint: Endpoint,
    http: Http,
    credentials: CredentialSource,
    /// The key that an alias or a bare id stands for.
    resolved: OnceLock<KeyArn>,
}

/// How the specification names the key.
#[derive(Debug, Clone, PartialEq, Eq)]
enum KeyName {
    /// By its ARN.
    Arn(KeyArn),
    /// By its bare id.
    Id(String),
    /// By an alias or the ARN of one.
    Alias(String),
}

/// `arn:PARTITION:kms:REGION:ACCOUNT:key/ID`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct KeyArn {
    partition: String,
    region: String,
    account: String,
    id: String,
}

impl KeyArn {
    /// The same key, or a related multi-Region key, which has the same id and decrypts the same (KMS Developer Guide, "Multi-Region keys").
    fn is_related(&self, other: &KeyArn) -> bool {
        let same_key = self.partition == other.partition && self.account == other.account && self.id == other.id;
        same_key && (self.region == other.region || self.id.starts_with("mrk-"))
    }
}

/// A word of an ARN: safe in host names, JSON and log lines.
fn is_word(text: &str) -> bool {
    !text.is_empty() && text.len() <= 128 && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
}

impl FromStr for KeyArn {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let parts: Vec<&str> = text.split(':').collect();
        let ["arn", partition, "kms", region, account, key] = parts[..] else { return Err(()) };
        let id = key.strip_prefix("key/").ok_or(())?;
        if ![partition, region, account, id].into_iter().all(is_word) {
            return Err(());
        }
        let [partition, region, account, id] = [partition, region, account, id].map(str::to_owned);
        Ok(KeyArn { partition, region, account, id })
    }
}

impl fmt::Display for KeyArn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "arn:{}:kms:{}:{}:key/{}", self.partition, self.region, self.account, self.id)
    }
}

impl fmt::Display for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeyName::Arn(arn) => arn.fmt(f),
            KeyName::Id(name) | KeyName::Alias(name) => f.write_str(name),
        }
    }
}

impl KeyName {
    /// The name, and partition and region where it says them.
    fn parse(text: &str) -> Option<(Self, Option<(String, String)>)> {
        if let Ok(arn) = text.parse::<KeyArn>() {
            let place = (arn.partition.clone(), arn.region.clone());
            return Some((KeyName::Arn(arn), Some(place)));
        }
        let is_alias = |text: &str| {
            text.strip_prefix("alias/").is_some_and(|name| name.len() <= 250 && name.split(['/', '_']).all(is_word))
        };
        let parts: Vec<&str> = text.split(':').collect();
        match parts[..] {
            ["arn", partition, "kms", region, account, alias]
                if [partition, region, account].into_iter().all(is_word) && is_alias(alias) =>
            {
                Some((KeyName::Alias(text.into()), Some((partition.into(), region.into()))))
            }
            [alias] if is_alias(alias) => Some((KeyName::Alias(alias.into()), None)),
            [id] if is_word(id) => Some((KeyName::Id(id.into()), None)),
            _ => None,
        }
    }
}

/// The domain of a partition's addresses (AWS SDKs: partitions.json).
fn domain(partition: &str) -> &'static str {
    match partition {
        "aws-cn" => "amazonaws.com.cn",
        "aws-eusc" => "amazonaws.eu",
        "aws-iso" => "c2s.ic.gov",
        "aws-iso-b" => "sc2s.sgov.gov",
        "aws-iso-e" => "cloud.adc-e.uk",
        "aws-iso-f" => "csp.hci.ic.gov",
        _ => "amazonaws.com",
    }
}

/// The partition that a region belongs to, where only the region is known.
fn partition(region: &str) -> &'static str {
    match region {
        _ if region.starts_with("cn-") => "aws-cn",
        _ if region.starts_with("us-gov-") => "aws-us-gov",
        _ if region.starts_with("eusc-") => "aws-eusc",
        _ if region.starts_with("us-isob-") => "aws-iso-b",
        _ if region.starts_with("us-isof-") => "aws-iso-f",
        _ if region.starts_with("us-iso-") => "aws-iso",
        _ if region.starts_with("eu-isoe-") => "aws-iso-e",
        _ => "aws",
    }
}

impl AwsKms {
    /// Opens the key that a specification names. Nothing is asked of AWS yet.
    ///
    /// # Errors
    /// [`ProviderError::Spec`] or [`ProviderError::Setup`].
    pub fn open(spec: ProviderSpec) -> Result<Self, ProviderError> {
        Self::open_in(spec, Environment::of_process())
    }

    fn open_in(mut spec: ProviderSpec, environment: Environment) -> Result<Self, ProviderError> {
        let value = |name: &str, expected| SpecError::Value { name: name.into(), expected };
        let (key, place) = KeyName::parse(&spec.target)
            .ok_or_else(|| value("target", "a key ARN, a key id, alias/NAME or the ARN of an alias"))?;
        let options = HttpOptions::take(&mut spec)?;
        let places =
            Places { profile: spec.take("profile"), credentials_file: spec.take_path("credentials-file"), environment };
        let (endpoint, sts, region) = (spec.take("endpoint"), spec.take("sts-endpoint"), spec.take("region"));
        let fips = spec.take_switch("fips")?;
        spec.finish()?;

        let sts_http = Http::new("AWS STS", options.clone())?;
        let http = Http::new(format!("AWS KMS (key {key})"), options)?;
        let here = |region: &str| place.as_ref().map_or_else(|| partition(region), |place| place.0.as_str());
        let unknown = || ProviderError::Setup {
            fact: format!("the AWS region of the key {key} is not known"),
            remedy: "name it: region=REGION, or name the key by its ARN",
            source: None,
        };
        let region = match (region, &place) {
            (Some(region), _) => region,
            (None, Some((_, region))) => region.clone(),
            (None, None) => places.region().ok_or_else(unknown)?,
        };
        if !is_word(&region) {
            return Err(value("region", "the name of an AWS region").into());
        }
        // A related multi-Region key elsewhere is another key: its ARN names its region.
        if place.as_ref().is_some_and(|(_, named)| *named != region) {
            return Err(value("region", "that of the ARN").into());
        }
        let service = |name: &str| {
            let fips = if fips { "-fips" } else { "" };
            format!("https://{name}{fips}.{region}.{}", domain(here(&region)))
        };
        let endpoint = http.endpoint(&endpoint.unwrap_or_else(|| service("kms")))?;
        let sts_endpoint = sts_http.endpoint(&sts.unwrap_or_else(|| service("sts")))?;
        let credentials = CredentialSource::new(places, sts_http, sts_endpoint);
        Ok(AwsKms { key, region, endpoint, http, credentials, resolved: OnceLock::new() })
    }

    /// Calls an operation, signed.
    fn call<T: for<'de> Deserialize<'de>>(
        &self,
        deadline: Deadline,
        operation: &'static str,
        body: &impl Serialize,
    ) -> Result<T, Refusal> {
        let body = http::json(body);
        let mut credentials = self.credentials.get(deadline)?;
        let mut renewed = false;
        let answer = loop {
            let endpoints = std::slice::from_ref(&self.endpoint);
            let answer = self.http.exchange(deadline, endpoints, is_transient, |to| {
                self.signed(Request::post(to.join("")), operation, &body, &credentials)
            })?;
            let ended = !answer.is_success() && Error::of(&answer).is_one(&["ExpiredTokenException", "ExpiredToken"]);
            if !ended || renewed {
                break answer;
            }
            self.credentials.forget();
            (credentials, renewed) = (self.credentials.get(deadline)?, true);
        };
        if !answer.is_success() {
            return Err(self.refusal(operation, &answer));
        }
        answer.json().ok_or_else(|| Refusal::Other(self.http.answer(format!("it is no answer to {operation}"))))
    }

    /// A request with its signature (AWS General Reference, "Signature Version 4").
    fn signed(
        &self,
        request: Request,
        operation: &str,
        body: &Zeroizing<Vec<u8>>,
        credentials: &Credentials,
    ) -> Result<Request, ProviderError> {
        const CONTENT_TYPE: &str = "application/x-amz-json-1.1";
        let unsigned = |error: &dyn fmt::Display| ProviderError::Setup {
            fact: format!("the request to AWS KMS cannot be signed: {error}"),
            remedy: "check the AWS credentials: an id or a token holds what cannot be sent",
            source: None,
        };
        let target = format!("TrentService.{operation}");
        let identity = credentials.clone().into();
        let parameters = v4::SigningParams::builder()
            .identity(&identity)
            .region(&self.region)
            .name("kms")
            .time(SystemTime::now())
            .settings(SigningSettings::default())
            .build()
            .map_err(|error| unsigned(&error))?
            .into();
        let headers = [("content-type", CONTENT_TYPE), ("x-amz-target", target.as_str())];
        let digest = Sha256::digest(body).iter().map(|byte| format!("{byte:02x}")).collect();
        let signable = SignableRequest::new(
            request.method,
            request.url.clone(),
            headers.into_iter(),
            SignableBody::Precomputed(digest),
        );
        // The crate traces what it signs, session tokens included: nobody listens meanwhile.
        let signature = tracing::subscriber::with_default(tracing::subscriber::NoSubscriber::new(), || {
            signable.and_then(|signable| sign(signable, &parameters))
        });
        let signature = signature.map_err(|error| unsigned(&error))?;
        let (headers, _) = signature.into_parts().0.into_parts();
        let request = request.body(CONTENT_TYPE, body.clone()).header("X-Amz-Target", target);
        Ok(headers.into_iter().fold(request, |request, header| request.header(header.name(), header.value())))
    }

    /// What an error means (KMS API Reference, "Common errors" and those of each operation).
    fn refusal(&self, operation: &str, answer: &Answer) -> Refusal {
        let error = Error::of(answer);
        let reason = format!("{operation}: {}", error.text(answer.status));
        let refused = |remedy| Refusal::Other(self.http.refused(reason.clone(), remedy));
        match error.code.as_str() {
            "InvalidCiphertextException" | "IncorrectKeyException" => Refusal::Ciphertext,
            "AccessDeniedException" | "AccessDenied" => Refusal::Denied(reason),
            "DisabledException" => refused("enable the key: aws kms enable-key --key-id KEY"),
            "KMSInvalidStateException" => {
                tracing::error!(
                    key = %self.key, reason,
                    "the KMS key is in a state in which it does nothing. If it is pending deletion, what is encrypted under it will be lost for good"
                );
                refused(
                    "if it is pending deletion, cancel that now (aws kms cancel-key-deletion --key-id KEY, then enable-key), or add another \
                     slot while the volume is mounted; if its custom key store is disconnected, connect it",
                )
            }
            "NotFoundException" => {
                refused("check the ARN, the region and the account; a key that was deleted is gone, use another slot")
            }
            "InvalidKeyUsageException" | "InvalidArnException" | "UnsupportedOperationException" => {
                refused("name a symmetric key with usage ENCRYPT_DECRYPT")
            }
            "SignatureDoesNotMatch"
            | "InvalidSignatureException"
            | "IncompleteSignature"
            | "IncompleteSignatureException"
            | "InvalidClientTokenId"
            | "UnrecognizedClientException"
            | "MissingAuthenticationToken"
            | "MissingAuthenticationTokenException"
            | "ExpiredTokenException"
            | "ExpiredToken"
            | "AuthFailure"
            | "RequestExpired"
            | "OptInRequired" => {
                refused("check the AWS credentials (aws sts get-caller-identity), the region, and this machine's clock")
            }
            _ if answer.status >= 500 || answer.status == 429 || is_transient(answer) => {
                Refusal::Other(self.http.unreachable(reason))
            }
            _ if (300..500).contains(&answer.status) && !error.code.is_empty() => {
                refused("see the error in the AWS KMS API reference")
            }
            _ => Refusal::Other(self.http.answer(format!("status {} without a KMS error", answer.status))),
        }
    }

    /// The key that the specification means.
    fn arn(&self, deadline: Deadline) -> Result<&KeyArn, ProviderError> {
        match (&self.key, self.resolved.get()) {
            (KeyName::Arn(arn), _) | (_, Some(arn)) => Ok(arn),
            (KeyName::Id(_) | KeyName::Alias(_), None) => {
                let described = self.describe_key(deadline)?.ok_or_else(|| {
                    self.http.refused(
                        "DescribeKey is denied",
                        "allow kms:DescribeKey, or name the key by its ARN, which needs no description",
                    )
                })?;
                let arn = self.own_arn(&described.arn)?;
                if arn.region != self.region {
                    return Err(self.http.answer("it describes a key of another region"));
                }
                Ok(self.resolved.get_or_init(|| arn))
            }
        }
    }

    fn own_arn(&self, text: &str) -> Result<KeyArn, ProviderError> {
        text.parse().map_err(|()| self.http.answer("it names the key by something else than a key ARN"))
    }

    /// `None` where the credentials do not allow the question.
    fn describe_key(&self, deadline: Deadline) -> Result<Option<Metadata>, ProviderError> {
        let body = serde_json::json!({ "KeyId": self.key.to_string() });
        match self.call::<Described>(deadline, "DescribeKey", &body) {
            Ok(described) => Ok(Some(described.key_metadata)),
            Err(Refusal::Denied(reason)) => {
                tracing::debug!(reason, "the key cannot be described");
                Ok(None)
            }
            Err(refusal) => Err(self.error(refusal)),
        }
    }

    fn error(&self, refusal: Refusal) -> ProviderError {
        match refusal {
            Refusal::Ciphertext => Unauthentic.into(),
            Refusal::Denied(reason) => self.http.refused(
                reason,
                "the credentials need kms:Encrypt and kms:Decrypt on this key, in its policy or theirs, for the encryption context of this volume",
            ),
            Refusal::Other(error) => error,
        }
    }

    fn decrypt(
        &self,
        deadline: Deadline,
        key: &KeyArn,
        wrapped: &[u8],
        context: &SlotContext,
    ) -> Result<Secret<32>, Refusal> {
        let key = key.to_string();
        let body = DecryptRequest {
            key_id: &key,
            ciphertext_blob: BASE64_STANDARD.encode(wrapped),
            encryption_context: encryption_context(context),
        };
        let decrypted: Decrypted = self.call(deadline, "Decrypt", &body)?;
        let plaintext = Zeroizing::new(decrypted.plaintext);
        if decrypted.key_id != key {
            return Err(Refusal::Other(self.http.answer("it names another key than the one it was to decrypt with")));
        }
        let wrong = || Refusal::Other(self.http.answer("what it decrypted is no master key"));
        let master = Secret::try_fill_with(|bytes: &mut [u8; 32]| {
            // One byte more than a key has room for, as the decoder wants it.
            let mut decoded = Zeroizing::new([0; 36]);
            match BASE64_STANDARD.decode_slice(plaintext.as_bytes(), &mut *decoded) {
                Ok(32) => bytes.copy_from_slice(decoded.get(..32).unwrap_or_default()),
                _ => return Err(wrong()),
            }
            Ok(())
        })?;
        if master.is_zero() { Err(Refusal::Other(ProviderError::ZeroKey)) } else { Ok(master) }
    }

    fn open_slot(&self, slot: &SlotData, context: &SlotContext) -> Result<Option<Secret<32>>, ProviderError> {
        let malformed = |error: toml::de::Error| ProviderError::Malformed(error.message().into());
        let parameters: Parameters = slot.parameters.clone().try_into().map_err(malformed)?;
        let stored: KeyArn =
            parameters.key.parse().map_err(|()| ProviderError::Malformed("key is not a key ARN".into()))?;
        if slot.wrapped.is_empty() || slot.wrapped.len() > MAX_WRAPPED {
            return Err(ProviderError::Malformed("the wrapped key has a wrong length".into()));
        }
        let deadline = self.http.deadline();
        let named = self.arn(deadline)?;
        let key = match &self.key {
            // An alias may have moved on to another key of the account; the slot needs the one it was made with.
            KeyName::Alias(_) if (&named.partition, &named.account) == (&stored.partition, &stored.account) => {
                if stored.region == self.region {
                    stored
                } else if stored.id.starts_with("mrk-") {
                    KeyArn { region: self.region.clone(), ..stored }
                } else {
                    return Ok(None);
                }
            }
            KeyName::Arn(_) | KeyName::Id(_) if named.is_related(&stored) => named.clone(),
            _ => return Ok(None),
        };
        self.decrypt(deadline, &key, &slot.wrapped, context).map(Some).map_err(|refusal| self.error(refusal))
    }
}

impl KeyProvider for AwsKms {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn describe(&self) -> String {
        format!("AWS KMS key {} at {}", self.key, self.endpoint)
    }

    fn wrap(&self, master: &Secret<32>, context: &SlotContext) -> Result<SlotData, ProviderError> {
        if master.is_zero() {
            return Err(ProviderError::ZeroKey);
        }
        let deadline = self.http.deadline();
        let key = self.arn(deadline)?.clone();
        let mut plaintext = Zeroizing::new(String::with_capacity(64));
        BASE64_STANDARD.encode_string(master.expose(), &mut plaintext);
        let body = EncryptRequest {
            key_id: &key.to_string(),
            plaintext: &plaintext,
            encryption_context: encryption_context(context),
        };
        let encrypted: Encrypted = self.call(deadline, "Encrypt", &body).map_err(|refusal| self.error(refusal))?;
        if self.own_arn(&encrypted.key_id)? != key {
            return Err(self.http.answer("it names another key than the one it was to encrypt with"));
        }
        let wrapped = BASE64_STANDARD.decode(&encrypted.ciphertext_blob).ok();
        let wrapped = wrapped
            .filter(|wrapped| !wrapped.is_empty() && wrapped.len() <= MAX_WRAPPED)
            .ok_or_else(|| self.http.answer("it holds no ciphertext"))?;
        // A slot that does not open is worse than none. Some may only add slots, not open them.
        match self.decrypt(deadline, &key, &wrapped, context) {
            Ok(opened) if opened.expose() == master.expose() => {}
            Ok(_) | Err(Refusal::Ciphertext) => {
                return Err(self.http.answer("what it encrypted does not decrypt to the same key"));
            }
            Err(Refusal::Denied(reason)) => {
                tracing::warn!(reason, "the new slot was not tried: these credentials may encrypt but not decrypt");
            }
            Err(refusal) => return Err(self.error(refusal)),
        }
        let parameters = Parameters { key: key.to_string() };
        let parameters = toml::Table::try_from(&parameters).expect("text makes a table");
        Ok(SlotData { parameters, wrapped })
    }

    fn unwrap(&self, slot: &SlotData, context: &SlotContext) -> Option<Result<Secret<32>, ProviderError>> {
        self.open_slot(slot, context).transpose()
    }

    fn check(&self) -> Result<(), ProviderError> {
        let Some(key) = self.describe_key(self.http.deadline())? else {
            tracing::warn!(key = %self.key, "KMS answers, but does not allow kms:DescribeKey: the key's state is not known");
            return Ok(());
        };
        match key.key_state.as_str() {
            "Enabled" | "Creating" | "Updating" => Ok(()),
            "Disabled" => Err(self.http.refused("the key is disabled", "enable it: aws kms enable-key --key-id KEY")),
            "PendingDeletion" | "PendingReplicaDeletion" => {
                let when = key.deletion_date.and_then(|seconds| jiff::Timestamp::from_second(seconds as i64).ok());
                let when = when.map_or_else(|| "soon".into(), |when| format!("on {when}"));
                tracing::error!(key = %self.key, "the KMS key will be deleted {when}; what is encrypted under it will then be lost for good");
                Err(self.http.refused(
                    format!("the key is pending deletion and will be gone {when}"),
                    "cancel that now: aws kms cancel-key-deletion --key-id KEY, then enable-key",
                ))
            }
            state => Err(self.http.refused(
                format!("the key's state is {}", printable(state)),
                "see the key's state and that of its key store in the AWS console",
            )),
        }
    }
}

/// The encryption context (KMS Developer Guide, "Encryption context"): authenticated, case-sensitive, not secret.
fn encryption_context(context: &SlotContext) -> BTreeMap<&'static str, String> {
    BTreeMap::from([
        ("envelopefs-volume", context.volume.to_string()),
        ("envelopefs-key-version", context.key_version.to_string()),
        ("envelopefs-slot", context.slot.to_string()),
    ])
}

/// A slot's parameters.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Parameters {
    key: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct EncryptRequest<'a> {
    key_id: &'a str,
    plaintext: &'a str,
    encryption_context: BTreeMap<&'static str, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Encrypted {
    ciphertext_blob: String,
    key_id: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct DecryptRequest<'a> {
    key_id: &'a str,
    ciphertext_blob: String,
    encryption_context: BTreeMap<&'static str, String>,
}

/// The plaintext is moved into memory that is wiped as soon as it is here.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Decrypted {
    plaintext: String,
    key_id: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Described {
    key_metadata: Metadata,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Metadata {
    arn: String,
    key_state: String,
    /// Seconds since 1970.
    deletion_date: Option<f64>,
}

/// Why a call gave nothing.
enum Refusal {
    /// The ciphertext is not of this key and context.
    Ciphertext,
    /// Permission.
    Denied(String),
    /// Everything else.
    Other(ProviderError),
}

impl From<ProviderError> for Refusal {
    fn from(error: ProviderError) -> Self {
        Refusal::Other(error)
    }
}

/// An error of AWS: the code, and words for people.
#[derive(Debug, Default)]
struct Error {
    code: String,
    message: String,
}

impl Error {
    /// JSON from KMS itself, XML from what stands before it.
    fn of(answer: &Answer) -> Self {
        #[derive(Deserialize)]
        struct Json {
            #[serde(rename = "__type")]
            code: Option<String>,
            #[serde(alias = "Message")]
            message: Option<String>,
        }
        let json = answer.json::<Json>();
        let header = || answer.header("x-amzn-errortype").map(str::to_owned);
        let xml = || element(answer, "Code").map(|code| code.to_string());
        let (code, message) = json.map_or((None, None), |json| (json.code, json.message));
        let code = code.or_else(header).or_else(xml).unwrap_or_default();
        // "com.amazonaws.kms#NotFoundException", "NotFoundException:http://…"
        let code = code.rsplit('#').next().unwrap_or_default().split(':').next().unwrap_or_default();
        Error { code: printable(code), message: printable(&message.unwrap_or_default()) }
    }

    fn is_one(&self, codes: &[&str]) -> bool {
        codes.contains(&self.code.as_str())
    }

    fn text(&self, status: u16) -> String {
        match (self.code.is_empty(), self.message.is_empty()) {
            (true, _) => format!("status {status}"),
            (false, true) => self.code.clone(),
            (false, false) => format!("{}: {}", self.code, self.message),
        }
    }
}

/// What passes by itself.
fn is_transient(answer: &Answer) -> bool {
    if answer.is_success() {
        return false;
    }
    let passing = [
        "ThrottlingException",
        "Throttling",
        "RequestLimitExceeded",
        "LimitExceededException",
        "TooManyRequestsException",
        "KMSInternalException",
        "DependencyTimeoutException",
        "KeyUnavailableException",
        "ServiceUnavailable",
        "InternalFailure",
    ];
    answer.status >= 500 || Error::of(answer).is_one(&passing)
}

#[cfg(test)]
mod tests;
