//! Provider `vault`: the master key encrypted by a key of the transit engine of HashiCorp Vault or OpenBao.
//!
//! ```text
//! vault:https://vault.example:8200/v1/transit/keys/app?token-file=/run/vault/token
//! vault:https://vault.example:8200/v1/transit/keys/app?auth=approle&role-id=…&secret-id-file=/etc/envelopefs/secret-id
//! ```
//!
//! The target is the key's own address in the API. `Encrypt` of our own random master key, not `datakey`, which takes no associated data.
//! What the slot is bound to (volume, key version, slot) goes along as `associated_data` where the key has an AEAD type, and as `context`
//! (the input of the server's key derivation) where it was made with `derived=true`; the slot says which. Other keys are refused: they
//! would bind nothing.
//!
//! The server's `rewrap` takes no associated data either, so it cannot be used for the first kind, and nothing would be gained for the
//! second: whoever changes a slot has opened the volume. `key rebind` decrypts and encrypts, which uses the newest version of the key.
//!
//! Ciphertext is kept as version and bytes, not as the server's text, for text has more than one form of the same bytes.
//!
//! References: Vault API documentation, "Transit secrets engine", "/sys/health", "AppRole", "Kubernetes", "JWT/OIDC", "TLS certificates",
//! "Token"; the handlers of the same in its source. Only a fake written from these has been at the other end so far, and whatever server
//! `VAULT_ADDR` named when the optional test ran.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::http::{self, Answer, Deadline, Endpoint, Http, HttpOptions, Request, printable};
use super::secret_file::{self, Access};
use super::{KeyProvider, ProviderError, ProviderSpec, SlotContext, SlotData, SpecError};
use crate::crypto::Unauthentic;
use crate::crypto::secret::Secret;

/// The provider's word in `volume.toml`.
pub const KIND: &str = "vault";

/// Largest ciphertext, in bytes, without the version; that of 32 bytes has 60.
const MAX_WRAPPED: usize = 1024;
/// Most addresses of one cluster.
const MAX_ENDPOINTS: usize = 8;
/// Where Kubernetes puts a pod's token.
const POD_TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

/// A key of a transit engine.
pub struct Vault {
    endpoints: Vec<Endpoint>,
    /// Path of the engine: `transit`.
    mount: String,
    name: String,
    namespace: Option<String>,
    auth: Auth,
    http: Http,
    /// The token in use. Others wait while it is fetched.
    token: Mutex<Option<Token>>,
}

/// How this client says who it is.
#[derive(Debug, PartialEq, Eq)]
enum Auth {
    /// By a token that somebody else fetches and writes into a file.
    TokenFile(PathBuf),
    /// Role and secret id.
    AppRole { mount: String, role_id: String, secret_id: PathBuf },
    /// A signed token of the surroundings, for a role: Kubernetes, or any issuer that the server trusts.
    Jwt { mount: String, role: String, file: PathBuf },
    /// The client certificate of the TLS connection.
    Certificate { mount: String, role: Option<String> },
}

/// A token and how long it lasts.
struct Token {
    text: Zeroizing<String>,
    since: Instant,
    /// `None`: without end, or nothing known.
    lasts: Option<Duration>,
    renewable: bool,
}

/// What a slot is bound by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Binding {
    AssociatedData,
    Context,
}

/// A slot's parameters.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Parameters {
    /// Engine and key: `transit/app`.
    key: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    namespace: Option<String>,
    binding: Binding,
}

impl Vault {
    /// Opens the key that a specification names. Nothing is asked of the server yet.
    ///
    /// # Errors
    /// [`ProviderError::Spec`] or [`ProviderError::Setup`].
    pub fn open(mut spec: ProviderSpec) -> Result<Self, ProviderError> {
        let value = |name: &str, expected| SpecError::Value { name: name.into(), expected };
        let options = HttpOptions::take(&mut spec)?;
        let has_certificate = options.identity.is_some();
        let http = Http::new(format!("Vault at {}", printable(&spec.target)), options)?;

        let shape = || value("target", "the address of a transit key: https://HOST:PORT/v1/MOUNT/keys/NAME");
        let (server, path) = spec.target.split_once("/v1/").ok_or_else(shape)?;
        let (mount, name) = path.rsplit_once("/keys/").ok_or_else(shape)?;
        if !is_path(mount) || !is_path(name) || name.contains('/') {
            return Err(shape().into());
        }
        let (mount, name) = (mount.to_owned(), name.to_owned());
        let mut endpoints = vec![http.endpoint(server)?];
        for also in spec.take("also").unwrap_or_default().split([',', ' ']).filter(|also| !also.is_empty()) {
            endpoints.push(http.endpoint(also)?);
        }
        if endpoints.len() > MAX_ENDPOINTS {
            return Err(value("also", "a list of at most 7 addresses").into());
        }
        let namespace = spec.take("namespace").map(|namespace| namespace.trim_matches('/').to_owned());
        if namespace.as_deref().is_some_and(|namespace| !is_path(namespace)) {
            return Err(value("namespace", "a path of letters, digits, '-', '_' and '.'").into());
        }
        let auth = Self::auth(&mut spec, has_certificate)?;
        spec.finish()?;
        Ok(Vault { endpoints, mount, name, namespace, auth, http, token: Mutex::new(None) })
    }

    fn auth(spec: &mut ProviderSpec, has_certificate: bool) -> Result<Auth, SpecError> {
        let value = |name: &str, expected| SpecError::Value { name: name.into(), expected };
        let method = spec.take("auth").unwrap_or_else(|| "token".into());
        let mount = spec.take("auth-mount");
        if mount.as_deref().is_some_and(|mount| !is_path(mount)) {
            return Err(value("auth-mount", "a path of letters, digits, '-', '_' and '.'"));
        }
        let missing = |name| SpecError::Missing { kind: KIND.into(), name };
        let at = |default: &str| mount.clone().unwrap_or_else(|| default.into());
        let auth = match method.as_str() {
            "token" => Auth::TokenFile(spec.take_path("token-file").ok_or(missing("token-file, or auth"))?),
            "approle" => Auth::AppRole {
                mount: at("approle"),
                role_id: spec.require("role-id")?,
                secret_id: spec.take_path("secret-id-file").ok_or(missing("secret-id-file"))?,
            },
            "kubernetes" => Auth::Jwt {
                mount: at("kubernetes"),
                role: spec.require("role")?,
                file: spec.take_path("jwt-file").unwrap_or_else(|| POD_TOKEN.into()),
            },
            "jwt" => Auth::Jwt {
                mount: at("jwt"),
                role: spec.require("role")?,
                file: spec.take_path("jwt-file").ok_or(missing("jwt-file"))?,
            },
            "cert" if has_certificate => Auth::Certificate { mount: at("cert"), role: spec.take("role") },
            "cert" => return Err(missing("client-cert and client-key")),
            _ => return Err(value("auth", "token, approle, kubernetes, jwt or cert")),
        };
        Ok(auth)
    }

    /// One request, without a token where there is none yet.
    fn send(
        &self,
        deadline: Deadline,
        method: &'static str,
        path: &str,
        body: Option<&Zeroizing<Vec<u8>>>,
        token: Option<&str>,
    ) -> Result<Answer, ProviderError> {
        // Sealed, changing leaders, lagging replicas; a standby that redirects knows somebody better, and so may we.
        let passing = |answer: &Answer| answer.status >= 500 || matches!(answer.status, 307 | 412 | 472 | 473);
        self.http.exchange(deadline, &self.endpoints, passing, |to| {
            let mut request = Request::new(method, to.join(&format!("v1/{path}"))).header("X-Vault-Request", "true");
            if let Some(namespace) = self.namespace.as_ref().filter(|_| !path.starts_with("sys/")) {
                request = request.header("X-Vault-Namespace", namespace);
            }
            if let Some(token) = token {
                request = request.header("X-Vault-Token", token);
            }
            Ok(match body {
                Some(body) => request.body("application/json", body.clone()),
                None => request,
            })
        })
    }

    /// One request with a token, which is fetched anew once where it is refused: it may have been revoked, or replaced in its file.
    fn call(
        &self,
        deadline: Deadline,
        method: &'static str,
        path: &str,
        body: Option<&Zeroizing<Vec<u8>>>,
    ) -> Result<Answer, ProviderError> {
        let mut cached = self.token.lock();
        let token = self.token(deadline, &mut cached)?;
        drop(cached);
        let answer = self.send(deadline, method, path, body, Some(&token))?;
        if answer.status != 403 {
            return Ok(answer);
        }
        let mut cached = self.token.lock();
        if cached.as_ref().is_some_and(|cached| *cached.text == *token) {
            *cached = None;
        }
        let fresh = self.token(deadline, &mut cached)?;
        drop(cached);
        if *fresh == *token { Ok(answer) } else { self.send(deadline, method, path, body, Some(&fresh)) }
    }

    /// The token to use now: the one in use, renewed where half its time is over, or a new one.
    fn token(&self, deadline: Deadline, cached: &mut Option<Token>) -> Result<Zeroizing<String>, ProviderError> {
        // A file is read each time: an agent may have replaced the token.
        let from_file = match &self.auth {
            Auth::TokenFile(path) => Some(secret_file::read_word("Vault token file", path, Access::Owner)?),
            _ => None,
        };
        if let Some(token) = cached.take_if(|token| from_file.as_ref().is_none_or(|read| **read == *token.text)) {
            match token.lasts {
                Some(lasts) if token.since.elapsed() > lasts / 2 => {
                    if let Some(renewed) = self.renew(deadline, &token, lasts) {
                        return Ok(cached.insert(renewed).text.clone());
                    }
                }
                _ => return Ok(cached.insert(token).text.clone()),
            }
        }
        let token = match from_file {
            Some(text) => self.look_up(deadline, text)?,
            None => self.log_in(deadline)?,
        };
        Ok(cached.insert(token).text.clone())
    }

    /// Renews a token, or keeps it for the rest of its time; `None` if that is over.
    fn renew(&self, deadline: Deadline, token: &Token, lasts: Duration) -> Option<Token> {
        if token.renewable {
            let renewed = self.send(
                deadline,
                "POST",
                "auth/token/renew-self",
                Some(&http::json(&Login::default())),
                Some(&token.text),
            );
            match renewed.as_ref().ok().filter(|answer| answer.is_success()).and_then(Answer::json::<LoggedIn>) {
                Some(LoggedIn { auth }) => return Some(auth.into()),
                None => tracing::warn!("the Vault token could not be renewed"),
            }
        }
        // A little early, so that it does not end on its way.
        (token.since.elapsed() < lasts - lasts / 10).then(|| Token { text: token.text.clone(), ..*token })
    }

    /// How long a token from a file lasts, as far as it may know that itself.
    fn look_up(&self, deadline: Deadline, text: Zeroizing<String>) -> Result<Token, ProviderError> {
        #[derive(Deserialize)]
        struct Found {
            data: Data,
        }
        #[derive(Deserialize)]
        struct Data {
            ttl: u64,
            #[serde(default)]
            renewable: bool,
        }
        let answer = self.send(deadline, "GET", "auth/token/lookup-self", None, Some(&text))?;
        let found = Some(&answer).filter(|answer| answer.is_success()).and_then(|answer| answer.json::<Found>());
        let (ttl, renewable) = found.map_or((0, false), |found| (found.data.ttl, found.data.renewable));
        Ok(Token { text, since: Instant::now(), lasts: (ttl > 0).then(|| Duration::from_secs(ttl)), renewable })
    }

    /// Fetches a token.
    fn log_in(&self, deadline: Deadline) -> Result<Token, ProviderError> {
        let (mount, body) = match &self.auth {
            Auth::TokenFile(path) => {
                // Its token is in use already, or was refused.
                let fact = format!("the token in {} is refused", path.display());
                return Err(ProviderError::Setup { fact, remedy: "put a valid token there", source: None });
            }
            Auth::AppRole { mount, role_id, secret_id } => {
                let secret_id = secret_file::read_word("AppRole secret id file", secret_id, Access::Owner)?;
                let login = Login { role_id: Some(role_id), secret_id: Some(&secret_id), ..Login::default() };
                (mount, http::json(&login))
            }
            Auth::Jwt { mount, role, file } => {
                let jwt = secret_file::read_word("JWT file", file, Access::AsMounted)?;
                (mount, http::json(&Login { role: Some(role), jwt: Some(&jwt), ..Login::default() }))
            }
            Auth::Certificate { mount, role } => {
                (mount, http::json(&Login { name: role.as_deref(), ..Login::default() }))
            }
        };
        let answer = self.send(deadline, "POST", &format!("auth/{mount}/login"), Some(&body), None)?;
        match answer.status {
            200 => {
                let logged_in = answer.json::<LoggedIn>();
                Ok(logged_in.ok_or_else(|| self.http.answer("it is no answer to a login"))?.auth.into())
            }
            400 | 401 | 403 | 404 => Err(self.http.refused(
                format!("login at auth/{mount}: {}", self.words(&answer)),
                "check role, secret id or token, auth-mount and namespace, and that the role allows this client's address",
            )),
            _ => Err(self.failure(deadline, &answer)),
        }
    }

    /// What the key is like; `None` if the token may not know.
    fn properties(&self, deadline: Deadline) -> Result<Option<Properties>, ProviderError> {
        #[derive(Deserialize)]
        struct Found {
            data: Properties,
        }
        let answer = self.call(deadline, "GET", &format!("{}/keys/{}", self.mount, self.name), None)?;
        match answer.status {
            200 => {
                let found = answer.json::<Found>();
                Ok(Some(found.ok_or_else(|| self.http.answer("it does not describe a transit key"))?.data))
            }
            403 => Ok(None),
            404 => Err(self.http.refused(
                format!("there is no transit key {}/{}", self.mount, self.name),
                "check the address and the namespace, or make the key: vault write -f MOUNT/keys/NAME type=aes256-gcm96",
            )),
            _ => Err(self.failure(deadline, &answer)),
        }
    }

    /// How this key can bind a slot.
    fn binding(&self, properties: &Properties) -> Result<Binding, ProviderError> {
        let aead = matches!(
            properties.kind.as_str(),
            "aes128-gcm96" | "aes256-gcm96" | "chacha20-poly1305" | "xchacha20-poly1305"
        );
        match (properties.derived, aead) {
            (true, true) => Ok(Binding::Context),
            (false, true) => Ok(Binding::AssociatedData),
            (_, false) => Err(self.http.refused(
                format!("a key of type {} binds a slot to nothing", printable(&properties.kind)),
                "use a key of type aes256-gcm96 or chacha20-poly1305",
            )),
        }
    }

    /// Decrypts; `None` where permission is missing.
    fn decrypt(
        &self,
        deadline: Deadline,
        wrapped: &[u8],
        binding: Binding,
        context: &SlotContext,
    ) -> Result<Option<Secret<32>>, ProviderError> {
        #[derive(Deserialize)]
        struct Found {
            data: Data,
        }
        // Moved into memory that is wiped as soon as it is here.
        #[derive(Deserialize)]
        struct Data {
            plaintext: String,
        }
        let ciphertext = text_of(wrapped).ok_or(Unauthentic)?;
        let body = http::json(&Operation { ciphertext: Some(&ciphertext), ..Operation::bound(binding, context) });
        let answer = self.call(deadline, "POST", &format!("{}/decrypt/{}", self.mount, self.name), Some(&body))?;
        match answer.status {
            200 => {}
            403 => return Ok(None),
            _ => return Err(self.failure(deadline, &answer)),
        }
        let found: Found = answer.json().ok_or_else(|| self.http.answer("it holds no plaintext"))?;
        let plaintext = Zeroizing::new(found.data.plaintext);
        let master = Secret::try_fill_with(|bytes: &mut [u8; 32]| {
            // One byte more than a key has room for, as the decoder wants it.
            let mut decoded = Zeroizing::new([0; 36]);
            match BASE64_STANDARD.decode_slice(plaintext.as_bytes(), &mut *decoded) {
                Ok(32) => bytes.copy_from_slice(decoded.get(..32).unwrap_or_default()),
                _ => return Err(self.http.answer("what it decrypted is no master key")),
            }
            Ok(())
        })?;
        if master.is_zero() { Err(ProviderError::ZeroKey) } else { Ok(Some(master)) }
    }

    fn open_slot(&self, slot: &SlotData, context: &SlotContext) -> Result<Option<Secret<32>>, ProviderError> {
        let malformed = |error: toml::de::Error| ProviderError::Malformed(error.message().into());
        let parameters: Parameters = slot.parameters.clone().try_into().map_err(malformed)?;
        if parameters.key != self.path() || parameters.namespace != self.namespace {
            return Ok(None);
        }
        let opened = self.decrypt(self.http.deadline(), &slot.wrapped, parameters.binding, context)?;
        Ok(Some(opened.ok_or_else(|| self.denied("decrypt"))?))
    }

    fn path(&self) -> String {
        format!("{}/{}", self.mount, self.name)
    }

    fn denied(&self, operation: &str) -> ProviderError {
        self.http.refused(
            format!("permission denied for {}/{operation}/{}", self.mount, self.name),
            "the token's policy needs update on MOUNT/encrypt/NAME and MOUNT/decrypt/NAME, and read on MOUNT/keys/NAME to add slots; \
             a token that has ended is refused in the same words",
        )
    }

    /// The words of an error answer.
    fn words(&self, answer: &Answer) -> String {
        #[derive(Deserialize)]
        struct Errors {
            errors: Vec<String>,
        }
        let errors = answer.json::<Errors>().map(|errors| errors.errors.join("; ")).unwrap_or_default();
        if errors.is_empty() { format!("status {}", answer.status) } else { printable(&errors) }
    }

    /// What an error answer of transit means.
    fn failure(&self, deadline: Deadline, answer: &Answer) -> ProviderError {
        let words = self.words(answer);
        let says = |parts: &[&str]| parts.iter().any(|part| words.contains(part));
        match answer.status {
            400 if says(&["disallowed by policy (too old)"]) => self.http.refused(
                words,
                "the key version that this slot needs is retired: lower min_decryption_version once, and renew the slot: envelopefs key rebind",
            ),
            400 if says(&["message authentication failed", "invalid ciphertext", "unable to decrypt"]) => {
                Unauthentic.into()
            }
            400 if says(&["key not found"]) => self.http.refused(words, "check the key's name, the mount and the namespace"),
            403 => self.http.refused(words, "check the token and its policy"),
            404 => self.http.refused(
                format!("nothing is at {}: {words}", self.mount),
                "check the mount and the namespace: vault secrets list",
            ),
            400..=411 | 413..=428 => self.http.refused(words, "see the server's log"),
            307 | 412 | 429 | 472 | 473 | 500.. => match self.health(deadline) {
                Err(error) => error,
                Ok(()) => self.http.unreachable(words),
            },
            status => self.http.answer(format!("status {status}")),
        }
    }

    /// The server's state.
    fn health(&self, deadline: Deadline) -> Result<(), ProviderError> {
        #[derive(Deserialize)]
        struct Health {
            initialized: bool,
            sealed: bool,
            #[serde(default)]
            standby: bool,
            #[serde(default)]
            replication_dr_mode: String,
        }
        // The state is in the body; the status would make us try again.
        let path = "sys/health?standbyok=true&perfstandbyok=true&sealedcode=200&uninitcode=200&drsecondarycode=200";
        let answer = self.send(deadline, "GET", path, None, None)?;
        let health: Health =
            answer.json().ok_or_else(|| self.http.answer(format!("status {} to a health check", answer.status)))?;
        match health {
            Health { initialized: false, .. } => {
                Err(self.http.refused("the server is not initialised", "initialise it: vault operator init"))
            }
            // To be unsealed it needs its operators, but nothing is refused to us: as good as down.
            Health { sealed: true, .. } => {
                Err(self.http.unreachable("the server is sealed: its operators must unseal it (vault operator unseal)"))
            }
            Health { replication_dr_mode, .. } if replication_dr_mode == "secondary" => {
                Err(self.http.unreachable("the server is a disaster recovery secondary and serves nobody"))
            }
            Health { standby, .. } => {
                tracing::debug!(standby, endpoint = %answer.endpoint, "the server is well");
                Ok(())
            }
        }
    }
}

impl KeyProvider for Vault {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn describe(&self) -> String {
        let server = self.endpoints.first().map(ToString::to_string).unwrap_or_default();
        format!("transit key {} of Vault at {server}", self.path())
    }

    fn wrap(&self, master: &Secret<32>, context: &SlotContext) -> Result<SlotData, ProviderError> {
        #[derive(Deserialize)]
        struct Found {
            data: Data,
        }
        #[derive(Deserialize)]
        struct Data {
            ciphertext: String,
        }
        if master.is_zero() {
            return Err(ProviderError::ZeroKey);
        }
        let deadline = self.http.deadline();
        // Asked first: to encrypt with a key that is not there makes one, where the policy allows it.
        let properties = self.properties(deadline)?.ok_or_else(|| self.denied("keys"))?;
        properties.warn(&self.path());
        let binding = self.binding(&properties)?;
        let mut plaintext = Zeroizing::new(String::with_capacity(64));
        BASE64_STANDARD.encode_string(master.expose(), &mut plaintext);
        let body = http::json(&Operation { plaintext: Some(&plaintext), ..Operation::bound(binding, context) });
        let path = format!("{}/encrypt/{}", self.mount, self.name);
        let answer = self.call(deadline, "POST", &path, Some(&body))?;
        match answer.status {
            200 => {}
            403 => return Err(self.denied("encrypt")),
            _ => return Err(self.failure(deadline, &answer)),
        }
        let found: Found = answer.json().ok_or_else(|| self.http.answer("it holds no ciphertext"))?;
        let wrapped = bytes_of(&found.data.ciphertext).ok_or_else(|| self.http.answer("it holds no ciphertext"))?;
        // A slot that does not open is worse than none. Some may only add slots, not open them.
        match self.decrypt(deadline, &wrapped, binding, context) {
            Ok(Some(opened)) if opened.expose() == master.expose() => {}
            Ok(Some(_)) | Err(ProviderError::Unauthentic(_)) => {
                return Err(self.http.answer("what it encrypted does not decrypt to the same key"));
            }
            Ok(None) => tracing::warn!("the new slot was not tried: this token may encrypt but not decrypt"),
            Err(error) => return Err(error),
        }
        let parameters = Parameters { key: self.path(), namespace: self.namespace.clone(), binding };
        let parameters = toml::Table::try_from(&parameters).expect("text makes a table");
        Ok(SlotData { parameters, wrapped })
    }

    fn unwrap(&self, slot: &SlotData, context: &SlotContext) -> Option<Result<Secret<32>, ProviderError>> {
        self.open_slot(slot, context).transpose()
    }

    fn check(&self) -> Result<(), ProviderError> {
        let deadline = self.http.deadline();
        self.health(deadline)?;
        match self.properties(deadline)? {
            Some(properties) => {
                properties.warn(&self.path());
                self.binding(&properties).map(drop)
            }
            None => {
                // Either it may not read the key's properties, or it is no token at all.
                let answer = self.call(deadline, "GET", "auth/token/lookup-self", None)?;
                if answer.status == 403 { Err(self.denied("keys")) } else { Ok(()) }
            }
        }
    }
}

/// The answer to a login or renewal.
#[derive(Deserialize)]
struct LoggedIn {
    auth: AuthData,
}

#[derive(Deserialize)]
struct AuthData {
    client_token: String,
    #[serde(default)]
    lease_duration: u64,
    #[serde(default)]
    renewable: bool,
}

impl From<AuthData> for Token {
    fn from(auth: AuthData) -> Self {
        Token {
            text: Zeroizing::new(auth.client_token),
            since: Instant::now(),
            lasts: (auth.lease_duration > 0).then(|| Duration::from_secs(auth.lease_duration)),
            renewable: auth.renewable,
        }
    }
}

/// What the server says of a key.
#[derive(Deserialize)]
struct Properties {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    derived: bool,
    #[serde(default)]
    exportable: bool,
    #[serde(default)]
    allow_plaintext_backup: bool,
}

impl Properties {
    fn warn(&self, key: &str) {
        if self.exportable {
            tracing::warn!(key, "the transit key is exportable: who may export it needs no server to open this volume");
        }
        if self.allow_plaintext_backup {
            tracing::warn!(key, "the transit key allows plaintext backups, which open this volume without the server");
        }
    }
}

/// The body of a login, and of a renewal, which has nothing in it.
#[derive(Default, Serialize)]
struct Login<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    role_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    secret_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    jwt: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
}

/// The body of an encrypt or decrypt request.
#[derive(Default, Serialize)]
struct Operation<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    plaintext: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ciphertext: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    associated_data: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<String>,
}

impl Operation<'_> {
    fn bound(binding: Binding, context: &SlotContext) -> Self {
        let place = Some(BASE64_STANDARD.encode(context.encode()));
        match binding {
            Binding::AssociatedData => Operation { associated_data: place, ..Operation::default() },
            Binding::Context => Operation { context: place, ..Operation::default() },
        }
    }
}

/// A path in the API: words joined by slashes, nothing that an address would have to encode.
fn is_path(text: &str) -> bool {
    let word = |word: &str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        !word.is_empty() && word != "." && word != ".." && word.chars().all(plain)
    };
    text.len() <= 512 && text.split('/').all(word)
}

/// `vault:v<N>:<base64>` as version (u32, little-endian) and bytes.
fn bytes_of(text: &str) -> Option<Vec<u8>> {
    let (version, bytes) = text.strip_prefix("vault:v")?.split_once(':')?;
    let version: u32 = version.parse().ok().filter(|version| *version > 0)?;
    let bytes = BASE64_STANDARD.decode(bytes).ok().filter(|bytes| !bytes.is_empty() && bytes.len() <= MAX_WRAPPED)?;
    Some([&version.to_le_bytes()[..], &bytes].concat())
}

/// The reverse of [`bytes_of`].
fn text_of(wrapped: &[u8]) -> Option<String> {
    let (version, bytes) = wrapped.split_first_chunk()?;
    let version = Some(u32::from_le_bytes(*version)).filter(|version| *version > 0)?;
    if bytes.is_empty() || bytes.len() > MAX_WRAPPED {
        return None;
    }
    Some(format!("vault:v{version}:{}", BASE64_STANDARD.encode(bytes)))
}

#[cfg(test)]
mod tests;
