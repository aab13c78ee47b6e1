//! The table `[hsm]` of the configuration: which tokens, how they are used, where their PIN comes from.

use std::path::PathBuf;
use std::time::Duration;

use jiff::fmt::serde::unsigned_duration::friendly::compact::required as friendly;
use serde::Deserialize;

use super::HsmError;
use super::profile::{Kdf, Oaep};
use crate::keys::ProviderError;
use crate::keys::pkcs11::pin;
use crate::keys::pkcs11::uri::Uri;
use crate::server::config::SecretRef;

/// Most tokens.
const MAX_TOKENS: usize = 16;
/// Most sessions with a token.
const MAX_SESSIONS: usize = 256;
/// Longest label, in bytes.
const MAX_LABEL: usize = 64;

/// A token's user PIN, in locked memory.
pub use crate::crypto::secret::Passphrase as Pin;

/// The table `[hsm]`.
///
/// ```toml
/// [hsm]
/// pin = "credential:hsm-pin"
///
/// [[hsm.token]]
/// uri = "pkcs11:token=keys"
/// module = "/usr/lib/softhsm/libsofthsm2.so"
/// ```
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HsmSettings {
    /// The tokens, at least one. All hold the same keys: replicas of one HSM, or slots that its vendor keeps alike. Calls are shared
    /// among those that work.
    #[serde(rename = "token")]
    pub tokens: Vec<TokenSettings>,
    /// Where the PIN is: the absolute path of a file that only its owner may read, or `credential:NAME`. Default: nowhere, it is handed in
    /// at run time (`PUT /hsm-pin`).
    #[serde(default)]
    pub pin: Option<SecretRef>,
    /// Sessions with each token, so many calls run side by side. Default: 8; 1 to 256.
    #[serde(default = "default_sessions")]
    pub sessions: usize,
    /// How long a token may take for one call before it is taken for dead. Default: 10s; 1s to 300s.
    #[serde(default = "default_timeout", with = "friendly")]
    pub timeout: Duration,
    /// CKA_LABEL of domain keys. Default: `domain_key`.
    #[serde(default = "default_domain_key")]
    pub domain_key_label: String,
    /// CKA_LABEL of the signing keys' private halves. Default: `sig_key`.
    #[serde(default = "default_signing_key")]
    pub signing_key_label: String,
    /// CKA_LABEL of the signing keys' public halves. Default: `sig_key_pub`.
    #[serde(default = "default_public_key")]
    pub public_key_label: String,
    /// How key-encryption keys are derived: `sp800-108-hmac`, `sp800-108-cmac` or `aes-cbc`. Default: the first of these that passes the
    /// self-test on every token.
    #[serde(default)]
    pub kdf: Option<Kdf>,
    /// Where a secret is encrypted to its caller: `token`, or `software` with `insecure_software_oaep`. Default: in the token where that
    /// passes the self-test.
    #[serde(default)]
    pub oaep: Option<Oaep>,
    /// Encrypts secrets to their callers in this process where a token cannot do it (SoftHSM 2 cannot). The secret is then in this process's
    /// memory for a moment: for tests and trials. Default: no.
    #[serde(default)]
    pub insecure_software_oaep: bool,
    /// Makes temporary keys as token objects, for devices that have no session objects of that kind. Those which a crash left behind are
    /// swept up at the start. Default: no.
    #[serde(default)]
    pub temporary_token_objects: bool,
    /// Names this node in the labels of temporary token objects; no two nodes that share a token have one name. Default: `node`.
    #[serde(default = "default_node")]
    pub node: String,
    /// Largest RSA key of a caller, in bits. Default: 4096; 2048 to 8192.
    #[serde(default = "default_rsa_bits")]
    pub max_rsa_bits: usize,
}

/// One token.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenSettings {
    /// Which: an RFC 7512 URI of a token, `pkcs11:token=NAME`, with `serial=`, `model=`, `manufacturer=` and `slot-id=` where the name
    /// does not say it.
    pub uri: String,
    /// The vendor's library, by its absolute path.
    pub module: PathBuf,
    /// Where this token's PIN is, if it has another than the others.
    #[serde(default)]
    pub pin: Option<SecretRef>,
}

fn default_sessions() -> usize {
    8
}

fn default_timeout() -> Duration {
    Duration::from_secs(10)
}

fn default_domain_key() -> String {
    "domain_key".into()
}

fn default_signing_key() -> String {
    "sig_key".into()
}

fn default_public_key() -> String {
    "sig_key_pub".into()
}

fn default_node() -> String {
    "node".into()
}

fn default_rsa_bits() -> usize {
    4096
}

impl HsmSettings {
    /// One token, and the rest as it is by default.
    pub fn new(uri: impl Into<String>, module: impl Into<PathBuf>) -> Self {
        HsmSettings {
            tokens: vec![TokenSettings { uri: uri.into(), module: module.into(), pin: None }],
            pin: None,
            sessions: default_sessions(),
            timeout: default_timeout(),
            domain_key_label: default_domain_key(),
            signing_key_label: default_signing_key(),
            public_key_label: default_public_key(),
            kdf: None,
            oaep: None,
            insecure_software_oaep: false,
            temporary_token_objects: false,
            node: default_node(),
            max_rsa_bits: default_rsa_bits(),
        }
    }

    /// Checks what the types do not: ranges, names, URIs. Nothing is opened.
    ///
    /// # Errors
    /// [`HsmError::Setup`].
    pub fn check(&self) -> Result<(), HsmError> {
        let wrong = |fact: String, remedy| Err(HsmError::Setup { fact, remedy, source: None });
        if !(1..=MAX_TOKENS).contains(&self.tokens.len()) {
            return wrong(
                format!("hsm: {} tokens are named", self.tokens.len()),
                "name 1 to 16, each as [[hsm.token]]",
            );
        }
        if !(1..=MAX_SESSIONS).contains(&self.sessions) {
            return wrong(format!("hsm.sessions is {}", self.sessions), "give 1 to 256");
        }
        if !(Duration::from_secs(1)..=Duration::from_secs(300)).contains(&self.timeout) {
            return wrong(format!("hsm.timeout is {:?}", self.timeout), "give 1s to 300s");
        }
        if !(2048..=8192).contains(&self.max_rsa_bits) {
            return wrong(format!("hsm.max_rsa_bits is {}", self.max_rsa_bits), "give 2048 to 8192");
        }
        let labels = [&self.domain_key_label, &self.signing_key_label, &self.public_key_label];
        if labels.iter().any(|label| !(1..=MAX_LABEL).contains(&label.len())) {
            return wrong(
                "hsm: a label is empty or longer than 64 bytes".into(),
                "give the keys labels, or leave them out",
            );
        }
        if labels[0] == labels[1] {
            return wrong("hsm: the domain key and the signing key have one label".into(), "give them different ones");
        }
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if !(1..=32).contains(&self.node.len()) || !self.node.bytes().all(plain) {
            let remedy = "give 1 to 32 letters, digits and characters of \"._-\"";
            return wrong("hsm.node is not a name".into(), remedy);
        }
        if self.oaep == Some(Oaep::Software) && !self.insecure_software_oaep {
            return wrong(
                "hsm.oaep is \"software\", which brings secrets into this process".into(),
                "say insecure_software_oaep = true as well, for tests alone, or leave oaep out",
            );
        }
        for token in &self.tokens {
            token.uri()?;
            if !token.module.is_absolute() {
                let fact = format!("the PKCS#11 module {} is not named by its absolute path", token.module.display());
                return wrong(fact, "name the library with its whole path, /usr/lib/… say");
            }
        }
        Ok(())
    }
}

impl TokenSettings {
    /// The URI, taken apart.
    pub(super) fn uri(&self) -> Result<Uri, HsmError> {
        let parsed = self.uri.strip_prefix("pkcs11:").map(Uri::parse_token);
        match parsed {
            Some(Ok(uri)) => Ok(uri),
            Some(Err(error)) => Err(HsmError::Setup {
                fact: format!("{:?} does not name a token", self.uri),
                remedy: "name it as in RFC 7512: pkcs11:token=NAME",
                source: Some(error.into()),
            }),
            None => Err(HsmError::Setup {
                fact: format!("{:?} does not name a token", self.uri),
                remedy: "name it as in RFC 7512: pkcs11:token=NAME",
                source: None,
            }),
        }
    }
}

/// Reads a PIN from where the configuration says it is.
pub(super) fn read_pin(from: &SecretRef) -> Result<Pin, HsmError> {
    let read = match from {
        SecretRef::File(path) => pin::from_file(path),
        SecretRef::Credential(name) => pin::from_credential(name),
    };
    read.map_err(HsmError::from)
}

impl From<ProviderError> for HsmError {
    fn from(error: ProviderError) -> Self {
        match error {
            ProviderError::Setup { fact, remedy, source } => HsmError::Setup { fact, remedy, source },
            other => HsmError::Unavailable(other.into()),
        }
    }
}
