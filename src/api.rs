#![doc = include_str!("api.md")]

pub mod canonical;
pub mod signature;

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use canonical::ResponseContext;
use signature::{Padding, SigningKeys};

/// Largest body of a request or an answer, in bytes; real ones have less than 2 KiB.
pub const MAX_BODY: usize = 64 << 10;
/// Largest `encrypted_secret`, in bytes.
pub const MAX_SEALED: usize = 4096;
/// Bytes of a secret.
pub const SECRET: usize = 32;
/// Path of the call that tells the signing key, below the base address.
pub const PUBLIC_SIGNING_KEY: &str = "public-signing-key";

/// Bytes, as strict base64 (RFC 4648, section 4): with padding, without line breaks, without bits that are left over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base64(pub Vec<u8>);

impl Serialize for Base64 {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&BASE64_STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        // Not the library's text: it would quote what was sent.
        let text = std::borrow::Cow::<'de, str>::deserialize(from)?;
        BASE64_STANDARD.decode(text.as_bytes()).map(Base64).map_err(|_| D::Error::custom("not base64"))
    }
}

/// What the caller made up so that an answer can only be to this request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Base64", into = "Base64")]
pub struct ClientNonce(pub [u8; 32]);

impl ClientNonce {
    /// A random one.
    pub fn random() -> Self {
        let mut bytes = [0; 32];
        crate::crypto::random(&mut bytes);
        ClientNonce(bytes)
    }
}

/// On the wire, as Base64.
macro_rules! thirty_two_bytes {
    ($name:ident, $otherwise:literal) => {
        impl From<$name> for Base64 {
            fn from(value: $name) -> Self {
                Base64(value.0.to_vec())
            }
        }

        impl TryFrom<Base64> for $name {
            type Error = &'static str;

            fn try_from(bytes: Base64) -> Result<Self, &'static str> {
                bytes.0.try_into().map($name).map_err(|_| $otherwise)
            }
        }
    };
}

thirty_two_bytes!(ClientNonce, "a client nonce has 32 bytes");
thirty_two_bytes!(Challenge, "a challenge has 32 bytes");

/// What the server made up so that evidence can only be for one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Base64", into = "Base64")]
pub struct Challenge(pub [u8; 32]);

/// The name of a machine, which owns secrets: 1 to 64 letters, digits, `.`, `_` and `-`, of which the first is a letter or digit. Without
/// `volume_uuid` in it, so that the original's associated data, names and values in a row, says one thing only.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct InstanceId(String);

/// Text is no instance id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an instance id has 1 to 64 letters, digits and characters of \"._-\", and begins with a letter or digit")]
pub struct NoInstanceId;

impl InstanceId {
    /// As it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// `i-ABC` and `i-abc` are one owner.
impl PartialEq for InstanceId {
    fn eq(&self, other: &Self) -> bool {
        self.0.eq_ignore_ascii_case(&other.0)
    }
}

impl Eq for InstanceId {}

impl FromStr for InstanceId {
    type Err = NoInstanceId;

    fn from_str(text: &str) -> Result<Self, NoInstanceId> {
        let possible = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let begins = text.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric);
        let ambiguous = text.to_ascii_lowercase().contains("volume_uuid");
        let right = begins && text.len() <= 64 && text.bytes().all(possible) && !ambiguous;
        if right { Ok(InstanceId(text.into())) } else { Err(NoInstanceId) }
    }
}

impl TryFrom<String> for InstanceId {
    type Error = NoInstanceId;

    fn try_from(text: String) -> Result<Self, NoInstanceId> {
        text.parse()
    }
}

impl From<InstanceId> for String {
    fn from(id: InstanceId) -> String {
        id.0
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of a volume: 1 to 256 printable ASCII characters, of which case does not count. Ours are UUIDs, the original's may be anything.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VolumeName(String);

/// Text is no volume's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the name of a volume has 1 to 256 printable ASCII characters")]
pub struct NoVolumeName;

impl VolumeName {
    /// As it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl PartialEq for VolumeName {
    fn eq(&self, other: &Self) -> bool {
        self.0.eq_ignore_ascii_case(&other.0)
    }
}

impl Eq for VolumeName {}

impl FromStr for VolumeName {
    type Err = NoVolumeName;

    fn from_str(text: &str) -> Result<Self, NoVolumeName> {
        let right = (1..=256).contains(&text.len()) && text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
        if right { Ok(VolumeName(text.into())) } else { Err(NoVolumeName) }
    }
}

impl TryFrom<String> for VolumeName {
    type Error = NoVolumeName;

    fn try_from(text: String) -> Result<Self, NoVolumeName> {
        text.parse()
    }
}

impl From<VolumeName> for String {
    fn from(name: VolumeName) -> String {
        name.0
    }
}

impl From<uuid::Uuid> for VolumeName {
    fn from(uuid: uuid::Uuid) -> Self {
        VolumeName(uuid.hyphenated().to_string())
    }
}

/// The name of a tenant: 1 to 64 lower-case letters, digits and `-`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Tenant(String);

/// Text is no tenant's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a tenant has 1 to 64 lower-case letters, digits and hyphens")]
pub struct NoTenant;

impl Tenant {
    /// As it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Tenant {
    type Err = NoTenant;

    fn from_str(text: &str) -> Result<Self, NoTenant> {
        let possible = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let right = (1..=64).contains(&text.len()) && text.bytes().all(possible);
        if right { Ok(Tenant(text.into())) } else { Err(NoTenant) }
    }
}

impl TryFrom<String> for Tenant {
    type Error = NoTenant;

    fn try_from(text: String) -> Result<Self, NoTenant> {
        text.parse()
    }
}

impl From<Tenant> for String {
    fn from(tenant: Tenant) -> String {
        tenant.0
    }
}

/// What a caller wants done with a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Make one.
    Generate,
    /// Open a sealed one.
    Decrypt,
    /// Seal another instance's to the caller.
    Convert,
}

impl Operation {
    /// Its word, in paths and audit records.
    pub fn word(self) -> &'static str {
        match self {
            Operation::Generate => "generate-secret",
            Operation::Decrypt => "decrypt-secret",
            Operation::Convert => "convert-secret",
        }
    }

    /// The path of the call, below the base address. An instance id needs no percent-encoding.
    pub fn path(self, instance: &InstanceId) -> String {
        format!("encryption/{instance}/{}", self.word())
    }
}

/// Answer to `GET public-signing-key`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublicSigningKey {
    /// DER SubjectPublicKeyInfo.
    pub public_key: Base64,
}

/// Request to make a secret. What identifies the caller is not part of any request.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GenerateRequest {
    /// The caller's one-time RSA key, DER SubjectPublicKeyInfo.
    pub rsa_wrapping_key: Base64,
    /// What the secret is for.
    pub volume_uuid: VolumeName,
    /// Asks for a context signature.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_nonce: Option<ClientNonce>,
}

/// Request to open a sealed secret.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DecryptRequest {
    /// The sealed secret.
    pub encrypted_secret: Base64,
    /// The caller's one-time RSA key, DER SubjectPublicKeyInfo.
    pub rsa_wrapping_key: Base64,
    /// What the secret is for.
    pub volume_uuid: VolumeName,
    /// Asks for a context signature.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_nonce: Option<ClientNonce>,
}

/// Request to seal another instance's secret to the caller.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ConvertRequest {
    /// The sealed secret of the owner until now.
    pub encrypted_secret: Base64,
    /// What the secret is for, now and then.
    pub volume_uuid: VolumeName,
    /// The owner until now.
    pub source_instance_id: InstanceId,
    /// Asks for a context signature.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_nonce: Option<ClientNonce>,
}

/// Path of the call that gives a challenge, below the base address.
pub fn challenge_path(instance: &InstanceId) -> String {
    format!("encryption/{instance}/challenge")
}

/// Answer to `POST encryption/{instance}/challenge`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChallengeAnswer {
    /// For one call of this instance.
    pub challenge: Challenge,
    /// Until when, RFC 3339.
    pub expires_at: String,
}

/// What any of the three requests may hold besides.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WithEvidence {
    /// What the caller's secure processor says, for a tenant who demands it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attestation: Option<Evidence>,
}

/// An SEV-SNP report for one call.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Evidence {
    /// The challenge that it answers.
    pub challenge: Challenge,
    /// The report as the processor gave it, with [`report_data`](canonical::AttestedCall::report_data) in it.
    pub report: Base64,
    /// The certificate of the key that signed it, and those of its authorities where that is not AMD's own chip key (VCEK): PEM, one in
    /// DER, or the table that the host hands out.
    pub certificates: Base64,
}

/// Answer to any of the three: generate fills all four values, decrypt the wrapped ones, convert the encrypted ones. Parsed, not verified.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct SecretAnswer {
    /// The sealed secret, for the caller to store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encrypted_secret: Option<Base64>,
    /// Its signature.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encrypted_secret_signature: Option<Base64>,
    /// The secret under the caller's one-time key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wrapped_secret: Option<Base64>,
    /// Its signature.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wrapped_secret_signature: Option<Base64>,
    /// Whose keys the server took; with the four below.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<Tenant>,
    /// Signature over what was asked and answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context_signature: Option<Base64>,
    /// When, in RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signed_at: Option<String>,
    /// Number of the audit record, decimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audit_seq: Option<String>,
    /// SHA-256 of the signing key's SubjectPublicKeyInfo, hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_id: Option<String>,
}

/// What was asked, as far as answers are bound to it.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// What.
    pub operation: Operation,
    /// By whom.
    pub instance: &'a InstanceId,
    /// For which volume.
    pub volume: &'a VolumeName,
    /// The nonce that was sent.
    pub nonce: &'a ClientNonce,
    /// The one-time key that was sent, DER; empty for convert.
    pub rsa_wrapping_key: &'a [u8],
    /// The sealed secret that was sent; empty for generate.
    pub encrypted_secret: &'a [u8],
}

/// An answer whose signatures are right: only [`SecretAnswer::verify`] makes one.
#[derive(Debug)]
pub struct VerifiedAnswer {
    encrypted_secret: Vec<u8>,
    wrapped_secret: Vec<u8>,
    tenant: Option<Tenant>,
}

impl VerifiedAnswer {
    /// The sealed secret, 1 to [`MAX_SEALED`] bytes; empty in an answer to decrypt.
    pub fn encrypted_secret(&self) -> &[u8] {
        &self.encrypted_secret
    }

    /// The secret under the one-time key; empty in an answer to convert.
    pub fn wrapped_secret(&self) -> &[u8] {
        &self.wrapped_secret
    }

    /// The tenant, if the server signed the context.
    pub fn tenant(&self) -> Option<&Tenant> {
        self.tenant.as_ref()
    }
}

/// Why an answer is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unverified {
    /// A value that belongs to the answer is not there.
    #[error("it has no {0}")]
    Missing(&'static str),
    /// A value is not in its form.
    #[error("its {0} is not in its form")]
    Form(&'static str),
    /// A signature is not the pinned key's over this value.
    #[error("the signature of its {0} is not by the pinned signing key")]
    Signature(&'static str),
    /// The context signature names a key that is not pinned.
    #[error("it is signed with the key {0}, which is not a pinned one")]
    Key(String),
    /// The context signature is not over what was asked and answered.
    #[error("its context signature is not over this request and answer")]
    Context,
}

impl SecretAnswer {
    /// Checks that everything that belongs to the answer is there, verifies each signature over the decoded bytes, and the context signature where there is one.
    ///
    /// # Errors
    /// [`Unverified`]; nothing of the answer may then be used.
    pub fn verify(self, keys: &SigningKeys, padding: Padding, asked: &Asked<'_>) -> Result<VerifiedAnswer, Unverified> {
        let signed = |value: Option<Base64>, signature: Option<Base64>, names: (&'static str, &'static str)| {
            let value = value.ok_or(Unverified::Missing(names.0))?.0;
            let signature = signature.ok_or(Unverified::Missing(names.1))?.0;
            if !(1..=MAX_SEALED).contains(&value.len()) {
                return Err(Unverified::Form(names.0));
            }
            keys.verify(&value, &signature, padding).map_err(|_| Unverified::Signature(names.0))?;
            Ok(value)
        };
        let sealed = ("encrypted_secret", "encrypted_secret_signature");
        let encrypted_secret = match asked.operation {
            Operation::Generate | Operation::Convert => {
                signed(self.encrypted_secret, self.encrypted_secret_signature, sealed)?
            }
            Operation::Decrypt => Vec::new(),
        };
        let wrapped = ("wrapped_secret", "wrapped_secret_signature");
        let wrapped_secret = match asked.operation {
            Operation::Generate | Operation::Decrypt => {
                signed(self.wrapped_secret, self.wrapped_secret_signature, wrapped)?
            }
            Operation::Convert => Vec::new(),
        };
        let tenant = match self.context_signature {
            None => None,
            Some(signature) => {
                let tenant = self.tenant.ok_or(Unverified::Missing("tenant"))?;
                let signed_at = self.signed_at.ok_or(Unverified::Missing("signed_at"))?;
                let audit_seq = self.audit_seq.ok_or(Unverified::Missing("audit_seq"))?;
                let key_id = self.key_id.ok_or(Unverified::Missing("key_id"))?;
                signed_at.parse::<jiff::Timestamp>().map_err(|_| Unverified::Form("signed_at"))?;
                let audit_seq = match audit_seq.parse::<u64>() {
                    Ok(number) if number.to_string() == audit_seq => number,
                    _ => return Err(Unverified::Form("audit_seq")),
                };
                let key = keys.by_id(&key_id).ok_or_else(|| match key_id.len() == 64 {
                    true => Unverified::Key(key_id.escape_default().collect()),
                    false => Unverified::Form("key_id"),
                })?;
                let context = ResponseContext {
                    operation: asked.operation,
                    tenant: &tenant,
                    instance: asked.instance,
                    volume: asked.volume,
                    nonce: asked.nonce,
                    rsa_wrapping_key: asked.rsa_wrapping_key,
                    encrypted_secret: match asked.operation {
                        Operation::Decrypt => asked.encrypted_secret,
                        Operation::Generate | Operation::Convert => &encrypted_secret,
                    },
                    wrapped_secret: &wrapped_secret,
                    audit_seq,
                    signed_at: &signed_at,
                };
                key.verify(context.text().as_bytes(), &signature.0, padding).map_err(|_| Unverified::Context)?;
                Some(tenant)
            }
        };
        Ok(VerifiedAnswer { encrypted_secret, wrapped_secret, tenant })
    }
}

/// Body of an answer with a status of 400 or more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// For people, and for rules that match the original's texts.
    pub message: String,
    /// For programs; the original sends none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
}

/// Why a call is refused, with the status and the text that both the original and rules in log systems know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Something is missing, of a wrong type or in a wrong encoding.
    BadParameters,
    /// The wrapping key is not RSA, not SubjectPublicKeyInfo, too small or too large.
    InvalidRsaKey,
    /// The tenant never made a secret.
    NoCustomerKey,
    /// Wrong instance, volume or tenant, or a damaged blob.
    Incorrect,
    /// No identity was shown.
    Unauthorized,
    /// An identity that may not do this.
    Forbidden,
    /// There is no such call.
    NotFound,
    /// Another method is needed.
    Method,
    /// More than the server reads.
    TooLarge,
    /// Later, more slowly.
    TooMany,
    /// The server cannot work now.
    Unhealthy,
    /// Something failed inside.
    Internal,
}

impl Refusal {
    /// All of them.
    pub const ALL: [Refusal; 12] = [
        Refusal::BadParameters,
        Refusal::InvalidRsaKey,
        Refusal::NoCustomerKey,
        Refusal::Incorrect,
        Refusal::Unauthorized,
        Refusal::Forbidden,
        Refusal::NotFound,
        Refusal::Method,
        Refusal::TooLarge,
        Refusal::TooMany,
        Refusal::Unhealthy,
        Refusal::Internal,
    ];

    /// HTTP status (RFC 9110).
    pub fn status(self) -> u16 {
        match self {
            Refusal::BadParameters | Refusal::InvalidRsaKey | Refusal::NoCustomerKey | Refusal::Incorrect => 400,
            Refusal::Unauthorized => 401,
            Refusal::Forbidden => 403,
            Refusal::NotFound => 404,
            Refusal::Method => 405,
            Refusal::TooLarge => 413,
            Refusal::TooMany => 429,
            Refusal::Unhealthy | Refusal::Internal => 503,
        }
    }

    /// The text.
    pub fn message(self) -> &'static str {
        match self {
            Refusal::BadParameters => "Bad parameters",
            Refusal::InvalidRsaKey => "Invalid RSA pub key",
            Refusal::NoCustomerKey => "There is no encryption key for this VPC",
            Refusal::Incorrect => "Wrapped secret and/or context are incorrect",
            Refusal::Unauthorized => "Unauthorized",
            Refusal::Forbidden => "Forbidden",
            Refusal::NotFound => "Not Found",
            Refusal::Method => "Method Not Allowed",
            Refusal::TooLarge => "Content Too Large",
            Refusal::TooMany => "Too Many Requests",
            Refusal::Unhealthy => "Unhealthy",
            Refusal::Internal => "Internal Server Error",
        }
    }

    /// The stable word.
    pub fn code(self) -> &'static str {
        match self {
            Refusal::BadParameters => "bad-parameters",
            Refusal::InvalidRsaKey => "invalid-rsa-key",
            Refusal::NoCustomerKey => "no-customer-key",
            Refusal::Incorrect => "incorrect",
            Refusal::Unauthorized => "unauthorized",
            Refusal::Forbidden => "forbidden",
            Refusal::NotFound => "not-found",
            Refusal::Method => "method",
            Refusal::TooLarge => "too-large",
            Refusal::TooMany => "too-many-requests",
            Refusal::Unhealthy => "unhealthy",
            Refusal::Internal => "internal",
        }
    }

    /// What `failure_reason` of an audit record says of it.
    pub fn audit_reason(self) -> &'static str {
        match self {
            Refusal::Unhealthy | Refusal::Internal => "Internal API error",
            other => other.message(),
        }
    }

    /// The body that goes with it.
    pub fn body(self) -> ErrorBody {
        ErrorBody { message: self.message().into(), code: Some(self.code().into()) }
    }

    /// Which of the four refusals with status 400 a body speaks of, if any: in ours and the gateway's JSON, or somewhere in the HTML page that
    /// the original makes.
    pub fn of_bad_request(body: &[u8]) -> Option<Refusal> {
        let known = Refusal::ALL.into_iter().filter(|refusal| refusal.status() == 400);
        match serde_json::from_slice::<ErrorBody>(body) {
            Ok(body) => known.into_iter().find(|refusal| refusal.message() == body.message),
            Err(_) => {
                let text = String::from_utf8_lossy(body);
                known.into_iter().find(|refusal| text.contains(refusal.message()))
            }
        }
    }
}

/// Bytes in lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        for digit in [byte >> 4, byte & 15] {
            text.extend(char::from_digit(u32::from(digit), 16));
        }
        text
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_checked_and_compared_without_case() {
        for right in ["i-095af01fb0461e052", "A", "host.example_1-x", &"x".repeat(64)] {
            assert_eq!(right.parse::<InstanceId>().unwrap(), right.to_uppercase().parse().unwrap());
        }
        for wrong in ["", "-i", ".", "i/x", "i x", "i%2f", "ü", "Avolume_uuidB", "aVOLUME_UUIDb", &"x".repeat(65)] {
            assert_eq!(wrong.parse::<InstanceId>(), Err(NoInstanceId), "{wrong}");
        }
        assert_eq!("AZERTU-ZERTYUI".parse::<VolumeName>().unwrap(), "azertu-zertyui".parse().unwrap());
        for wrong in ["", "a\nb", "\u{e9}", "\u{7f}", &"x".repeat(257)] {
            assert_eq!(wrong.parse::<VolumeName>(), Err(NoVolumeName), "{wrong}");
        }
        for wrong in ["", "VPC", "a_b", "a.b", &"x".repeat(65)] {
            assert_eq!(wrong.parse::<Tenant>(), Err(NoTenant), "{wrong}");
        }
        assert!("vpc-0b1e8a8e776a87423".parse::<Tenant>().is_ok());
    }

    #[test]
    fn base64_is_strict_and_has_the_published_lengths() {
        for (bytes, characters) in [(92, 124), (512, 684), (120, 160), (102, 136), (103, 140), (104, 140)] {
            let text = serde_json::to_string(&Base64(vec![0xff; bytes])).unwrap();
            assert_eq!(text.len(), characters + 2, "{bytes}");
            assert_eq!(serde_json::from_str::<Base64>(&text).unwrap().0.len(), bytes);
        }
        for bad in ["AA", "AA=", "AAA", "A A=", "AA==\\n", "AB==", "AA__", "A-A=", "AA===", "\\u0000AA=", "AA=A"] {
            let error = serde_json::from_str::<Base64>(&format!("\"{bad}\"")).unwrap_err().to_string();
            assert!(!error.contains(bad), "{error}");
        }
        assert!(serde_json::from_str::<ClientNonce>("\"AAAA\"").is_err());
    }

    #[test]
    fn requests_have_the_names_of_the_wire_and_nothing_of_identity() {
        let request = ConvertRequest {
            encrypted_secret: Base64(vec![0, 1]),
            volume_uuid: "V".parse().unwrap(),
            source_instance_id: "i-1".parse().unwrap(),
            client_nonce: None,
        };
        let text = serde_json::to_string(&request).unwrap();
        assert_eq!(text, r#"{"encrypted_secret":"AAE=","volume_uuid":"V","source_instance_id":"i-1"}"#);
        // Unknown fields are ignored, missing and mistyped ones are not.
        let parse = |text: &str| serde_json::from_str::<ConvertRequest>(text);
        assert!(parse(&text.replace("}", r#","vpc_id":"x"}"#)).is_ok());
        for (from, to) in [("\"V\"", "1"), ("AAE=", "AAE"), ("volume_uuid", "volume"), ("i-1", "i/1")] {
            assert!(parse(&text.replace(from, to)).is_err(), "{from} -> {to}");
        }
        let doubled = text.replace("}", r#","volume_uuid":"W"}"#);
        assert!(parse(&doubled).is_err());
    }

    #[test]
    fn paths_are_those_of_the_wire() {
        let instance = "i-095af01fb0461e052".parse().unwrap();
        assert_eq!(Operation::Decrypt.path(&instance), "encryption/i-095af01fb0461e052/decrypt-secret");
    }

    #[test]
    fn the_texts_are_recognised_in_json_and_in_the_originals_page() {
        let page = b"<p>Error code: 400</p><p>Message: Wrapped secret and/or context are incorrect.</p>";
        assert_eq!(Refusal::of_bad_request(page), Some(Refusal::Incorrect));
        for refusal in Refusal::ALL {
            let body = serde_json::to_vec(&refusal.body()).unwrap();
            assert_eq!(Refusal::of_bad_request(&body), Some(refusal).filter(|refusal| refusal.status() == 400));
        }
        assert_eq!(Refusal::of_bad_request(b"{\"message\":\"Bad parametersX\"}"), None);
        assert_eq!(Refusal::of_bad_request(b"\xff\xfe"), None);
        assert_eq!(Refusal::Internal.audit_reason(), "Internal API error");
    }

    #[test]
    fn no_answer_of_ours_holds_what_an_unquoted_shell_would_expand() {
        for refusal in Refusal::ALL {
            let body = serde_json::to_string(&refusal.body()).unwrap();
            assert!(!body.contains(['*', '?', '[']), "{body}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_without_harm(body: Vec<u8>) {
            let _ = serde_json::from_slice::<SecretAnswer>(&body);
            let _ = serde_json::from_slice::<GenerateRequest>(&body);
            let _ = Refusal::of_bad_request(&body);
        }

        #[test]
        fn base64_that_is_read_is_what_would_be_written(text in "[A-Za-z0-9+/=]{0,12}") {
            let quoted = format!("\"{text}\"");
            if let Ok(bytes) = serde_json::from_str::<Base64>(&quoted) {
                prop_assert_eq!(serde_json::to_string(&bytes).unwrap(), quoted);
            }
        }
    }
}
