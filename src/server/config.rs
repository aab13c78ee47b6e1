//! The configuration file, parsed into checked types.
//!
//! One TOML file. Unknown names are errors; what is left out has the safe value: TLS is on, the admin listener is the host's alone, limits are set.
//! Secrets are named, never written: a value is a path or a systemd credential ([`SecretRef`]), and a file that others may read is refused.
//! What weakens the server is called `insecure_…`; [`Config::insecure`] lists what is switched on, and the server says so when it starts.
//!
//! This room checks what can be known from the file alone. Whether a certificate fits its key or a token is there is found by those who use it.

use std::collections::HashSet;
use std::fmt;
use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use jiff::fmt::serde::unsigned_duration::friendly::compact::required as friendly;
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::keys::ProviderError;
use crate::keys::secret_file::{self, Access};
use crate::server::hsm::{HsmError, HsmSettings};

/// Where the configuration is if nobody says otherwise.
pub const DEFAULT_PATH: &str = "/etc/envelopefs/keyserver.toml";
/// Longest configuration file, in bytes.
const MAX_FILE: u64 = 1 << 20;
/// Longest secret in a file that is named here, in bytes.
const MAX_SECRET: usize = 64 << 10;

/// Everything that an operator decides. Only [`Config::load`] makes one.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The listener for callers.
    pub listen: Listen,
    /// The listener for the host itself.
    #[serde(default)]
    pub admin: Admin,
    /// Modules and tokens.
    pub hsm: HsmSettings,
    /// The database.
    #[serde(default)]
    pub state: StateSettings,
    /// The audit log.
    pub audit: AuditSettings,
    /// How much of everything.
    #[serde(default)]
    pub limits: Limits,
    /// What the server says of itself.
    #[serde(default)]
    pub log: Log,
}

/// `[listen]`: the listener for callers.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listen {
    /// Address and port. Default: 0.0.0.0:8443.
    #[serde(default = "default_address")]
    pub address: SocketAddr,
    /// PEM file with the server's certificate and those between it and its root. Read again on SIGHUP and when it changes.
    pub certificate: Option<PathBuf>,
    /// PEM file with the certificate's private key.
    pub key: Option<SecretRef>,
    /// No TLS. Only for tests, and behind a gateway on the same host: one-time keys of callers are then not authenticated.
    #[serde(default)]
    pub insecure_plain_http: bool,
    /// Answer OPTIONS as the original's gateway does. Default: false.
    #[serde(default)]
    pub answer_options: bool,
    /// Who may speak for others by `x-amzn-vpc-id` and `X-Forwarded-For`. Default: nobody.
    #[serde(default)]
    pub trusted_gateways: Vec<Gateway>,
}

/// One `[[listen.trusted_gateways]]`: everything that is said must hold of the peer.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gateway {
    /// Its addresses.
    pub address: Option<IpNet>,
    /// SHA-256 of its client certificate (DER), hexadecimal.
    pub certificate_sha256: Option<Fingerprint>,
}

/// SHA-256 of something, written as 64 hexadecimal digits, with or without colons.
#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Fingerprint(pub [u8; 32]);

impl TryFrom<String> for Fingerprint {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, &'static str> {
        const EXPECTED: &str = "a SHA-256 has 64 hexadecimal digits";
        let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b':').collect();
        let mut bytes = [0; 32];
        if digits.len() != 2 * bytes.len() {
            return Err(EXPECTED);
        }
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| EXPECTED)?;
            // The library's own parser takes a sign.
            let digits = pair.bytes().all(|byte| byte.is_ascii_hexdigit());
            *byte = u8::from_str_radix(pair, 16).ok().filter(|_| digits).ok_or(EXPECTED)?;
        }
        Ok(Fingerprint(bytes))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// `[admin]`: the listeners that only this host reaches. They take the PIN, and tell health and metrics.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Admin {
    /// Loopback addresses with their ports, and paths of Unix sockets. Default: 127.0.0.1:8080.
    pub listen: Vec<AdminAddress>,
    /// Where the key goes that is handed in for the HSM library's own TLS connection; a memory filesystem suits it. Default: none is taken.
    pub client_key_file: Option<PathBuf>,
}

impl Default for Admin {
    fn default() -> Self {
        let listen = vec![AdminAddress::Loopback(SocketAddr::from(([127, 0, 0, 1], 8080)))];
        Admin { listen, client_key_file: None }
    }
}

/// Where the admin listener is.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum AdminAddress {
    /// A loopback address.
    Loopback(SocketAddr),
    /// A Unix socket, which only the server's own user may use.
    Unix(PathBuf),
}

impl TryFrom<String> for AdminAddress {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, &'static str> {
        if text.starts_with('/') {
            return Ok(AdminAddress::Unix(text.into()));
        }
        match text.parse::<SocketAddr>() {
            Ok(address) if address.ip().to_canonical().is_loopback() => Ok(AdminAddress::Loopback(address)),
            Ok(_) => Err("the admin listener takes PINs without TLS: its address must be 127.0.0.1 or [::1]"),
            Err(_) => Err("an admin listener is a loopback address with a port, or the path of a Unix socket"),
        }
    }
}

impl fmt::Display for AdminAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AdminAddress::Loopback(address) => address.fmt(f),
            AdminAddress::Unix(path) => path.display().fmt(f),
        }
    }
}

/// `[state]`: the database.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StateSettings {
    /// `sqlite:/path`, or `postgres://user@host/database` for several nodes, without a password in it.
    /// Default: sqlite:/var/lib/envelopefs-keyserver/state.sqlite.
    pub url: String,
    /// PostgreSQL's password.
    pub password_file: Option<SecretRef>,
    /// Connections to PostgreSQL. Default: 16.
    pub connections: u32,
}

impl StateSettings {
    /// As the state wants them.
    ///
    /// # Errors
    /// Those of [`SecretRef::path`].
    pub fn settings(&self) -> Result<super::state::Settings, ProviderError> {
        let mut settings = super::state::Settings::new(&self.url);
        settings.password_file = self.password_file.as_ref().map(SecretRef::path).transpose()?;
        settings.connections = self.connections;
        Ok(settings)
    }
}

impl Default for StateSettings {
    fn default() -> Self {
        StateSettings {
            url: "sqlite:/var/lib/envelopefs-keyserver/state.sqlite".into(),
            password_file: None,
            connections: 16,
        }
    }
}

/// `[audit]`: the audit log. The database always has it; sinks get copies.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditSettings {
    /// Names this node in records: 1 to 64 lower-case letters, digits, `-` and `.`. Another one on each node.
    pub server_id: String,
    /// Names of the sinks that must have a record before its answer leaves. Default: none, the database alone.
    #[serde(default)]
    pub before_answer: Vec<String>,
    /// A signed head record after so many records of a tenant. Default: 1000.
    #[serde(default = "default_head_records")]
    pub head_records: u32,
    /// And after so long, if there are new records. Default: 1h.
    #[serde(default = "default_head_time", with = "friendly")]
    pub head_time: Duration,
    /// Where copies go.
    #[serde(default)]
    pub sinks: Vec<Sink>,
}

/// One `[[audit.sinks]]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, tag = "kind", rename_all = "lowercase")]
pub enum Sink {
    /// JSON files in a directory, `TENANT/000000001.json`.
    Directory {
        /// By which it is known, also after a restart: 1 to 64 lower-case letters, digits and `-`.
        name: String,
        /// Absolute.
        path: PathBuf,
    },
    /// Objects of the same names in an S3-compatible store.
    S3 {
        /// By which it is known, also after a restart: 1 to 64 lower-case letters, digits and `-`.
        name: String,
        /// Bucket.
        bucket: String,
        /// What object names begin with. Default: nothing.
        #[serde(default)]
        prefix: String,
        /// Region. Default: us-east-1.
        #[serde(default = "default_region")]
        region: String,
        /// Address of a store that is not Amazon's.
        endpoint: Option<String>,
        /// Access key's id; without it, the machine's own role.
        access_key_id: Option<String>,
        /// Access key's secret.
        secret_access_key: Option<SecretRef>,
        /// Let the endpoint be `http:`. Records are signed, but anybody on the way reads them.
        #[serde(default)]
        insecure_plain_http: bool,
    },
}

impl AuditSettings {
    /// As the log wants them, without sinks: for a command, whose records the server copies. The server takes
    /// [`from_config`](super::audit::AuditSettings::from_config).
    pub fn settings(&self) -> super::audit::AuditSettings {
        super::audit::AuditSettings::new(&self.server_id)
    }
}

impl Sink {
    /// By which it is known.
    pub fn name(&self) -> &str {
        match self {
            Sink::Directory { name, .. } | Sink::S3 { name, .. } => name,
        }
    }
}

/// `[limits]`. What is over a limit is refused or waits; it does not make the server grow.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Bytes of a request's body. Default: 65536.
    pub body: usize,
    /// Bytes of a request's line and headers. Default: 16384.
    pub header: usize,
    /// Time for a TLS handshake, and again for a request's headers. Default: 10s.
    #[serde(with = "friendly")]
    pub header_time: Duration,
    /// Time for a request, from its headers to the end of its answer. Default: 29s, as long as the original's gateway waits.
    #[serde(with = "friendly")]
    pub request_time: Duration,
    /// Time that a connection may stay without a request. Default: 75s.
    #[serde(with = "friendly")]
    pub idle_time: Duration,
    /// Connections at the same time. Default: 4096.
    pub connections: usize,
    /// Of these from one address. Default: 256.
    pub connections_per_address: usize,
    /// Requests at the same time; more get 503 with Retry-After. Default: 512.
    pub in_flight: usize,
    /// Requests a second from one address, over all. Default: 100.
    pub address_requests_per_second: u32,
    /// How many may come at once after a pause. Default: 500.
    pub address_burst: u32,
    /// Requests a second of a tenant whose policy does not say. Default: 200.
    pub tenant_requests_per_second: u32,
    /// How many may come at once after a pause. Default: 1000.
    pub tenant_burst: u32,
    /// Addresses that are remembered for the limits above; beyond, the oldest are forgotten. Default: 65536.
    pub addresses: usize,
    /// How long requests may go on after SIGTERM. Default: 30s.
    #[serde(with = "friendly")]
    pub drain_time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            body: crate::api::MAX_BODY,
            header: 16 << 10,
            header_time: Duration::from_secs(10),
            request_time: Duration::from_secs(29),
            idle_time: Duration::from_secs(75),
            connections: 4096,
            connections_per_address: 256,
            in_flight: 512,
            address_requests_per_second: 100,
            address_burst: 500,
            tenant_requests_per_second: 200,
            tenant_burst: 1000,
            addresses: 65_536,
            drain_time: Duration::from_secs(30),
        }
    }
}

/// `[log]`: what the server says of itself. Bodies, blobs and tokens are in no message, at any level.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// `error`, `warn`, `info`, `debug` or `trace`, or a filter as `info,envelopefs::server::hsm=debug`. Default: info.
    pub level: String,
    /// `stderr` (systemd's journal takes it), `syslog`, or the path of a file. Default: stderr.
    pub to: LogTo,
}

impl Default for Log {
    fn default() -> Self {
        Log { level: "info".into(), to: LogTo::Stderr }
    }
}

/// Where messages go.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum LogTo {
    /// Standard error.
    Stderr,
    /// The system log.
    Syslog,
    /// A file, which is appended to.
    File(PathBuf),
}

impl TryFrom<String> for LogTo {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, &'static str> {
        match text.as_str() {
            "stderr" => Ok(LogTo::Stderr),
            "syslog" => Ok(LogTo::Syslog),
            path if path.starts_with('/') => Ok(LogTo::File(path.into())),
            _ => Err("messages go to \"stderr\", \"syslog\" or the absolute path of a file"),
        }
    }
}

/// Where a secret is: the absolute path of a file that only its owner may use, or `credential:NAME`, which systemd gives
/// the service (systemd.exec(5), LoadCredential=).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum SecretRef {
    /// A file.
    File(PathBuf),
    /// A systemd credential.
    Credential(String),
}

impl TryFrom<String> for SecretRef {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, &'static str> {
        // Not quoted in the error: it may be the secret itself.
        const EXPECTED: &str =
            "a secret is named, as the absolute path of a file or as credential:NAME, not written down";
        match text.strip_prefix("credential:") {
            Some(name) if !name.is_empty() && !name.contains('/') && name != "." && name != ".." => {
                Ok(SecretRef::Credential(name.to_owned()))
            }
            None if text.starts_with('/') => Ok(SecretRef::File(text.into())),
            _ => Err(EXPECTED),
        }
    }
}

impl fmt::Display for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SecretRef::File(path) => path.display().fmt(f),
            SecretRef::Credential(name) => write!(f, "credential:{name}"),
        }
    }
}

impl SecretRef {
    /// The file that holds it.
    ///
    /// # Errors
    /// [`ProviderError::Setup`] if it is a credential and this is no service that was given credentials.
    pub fn path(&self) -> Result<PathBuf, ProviderError> {
        match self {
            SecretRef::File(path) => Ok(path.clone()),
            SecretRef::Credential(name) => {
                let directory = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
                let directory = directory.filter(|path| path.is_absolute()).ok_or_else(|| ProviderError::Setup {
                    fact: format!("there is no systemd credential {name}: $CREDENTIALS_DIRECTORY is not set"),
                    remedy: "run it as a systemd service with LoadCredential= or LoadCredentialEncrypted=, or name a file",
                    source: None,
                })?;
                Ok(directory.join(name))
            }
        }
    }

    /// Its bytes, at most 64 KiB. `what` names it to people: "TLS key".
    ///
    /// # Errors
    /// [`ProviderError::Setup`], also for a file that others may use.
    pub fn read(&self, what: &str) -> Result<Zeroizing<Vec<u8>>, ProviderError> {
        secret_file::read(what, &self.path()?, MAX_SECRET, self.access())
    }

    /// It as one line of visible ASCII, without the white space around.
    ///
    /// # Errors
    /// [`ProviderError::Setup`], also for a file that others may use.
    pub fn read_word(&self, what: &str) -> Result<Zeroizing<String>, ProviderError> {
        secret_file::read_word(what, &self.path()?, self.access())
    }

    fn access(&self) -> Access {
        match self {
            SecretRef::File(_) => Access::Owner,
            // Systemd makes its directory the service's alone.
            SecretRef::Credential(_) => Access::AsMounted,
        }
    }
}

fn default_address() -> SocketAddr {
    SocketAddr::from(([0, 0, 0, 0], 8443))
}

fn default_head_records() -> u32 {
    1000
}

fn default_head_time() -> Duration {
    Duration::from_secs(3600)
}

fn default_region() -> String {
    "us-east-1".into()
}

/// Why a configuration is not taken.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("cannot read the configuration {}", path.display())]
    Read {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Others may change it.
    #[error("the configuration {} can be changed by others than its owner (mode {mode:04o})", path.display())]
    Loose {
        /// Its path.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// It is no TOML, or has something that nobody knows.
    #[error("{}, line {line}, column {column}: {message}", path.display())]
    Syntax {
        /// Its path.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// In characters, counted from 1.
        column: usize,
        /// What is wrong there.
        message: String,
    },
    /// A value, or values together, cannot be.
    #[error("{}, {field}: {fact}", path.display())]
    Value {
        /// Its path.
        path: PathBuf,
        /// As `listen.key`.
        field: &'static str,
        /// What is wrong.
        fact: String,
        /// What to do about it.
        remedy: &'static str,
    },
    /// A file that it names cannot be used.
    #[error("{}, {field}: a file that it names cannot be used", path.display())]
    Secret {
        /// Its path.
        path: PathBuf,
        /// As `listen.key`.
        field: &'static str,
        /// Why.
        source: ProviderError,
    },
}

impl ConfigError {
    /// What to do about it.
    pub fn remedy(&self) -> String {
        match self {
            ConfigError::Read { .. } => {
                format!(
                    "name another with --config, or begin with the example in contrib/keyserver/keyserver.toml (default: {DEFAULT_PATH})"
                )
            }
            ConfigError::Loose { path, .. } => {
                format!("look through it, then take their rights away: chmod go-w {}", path.display())
            }
            ConfigError::Syntax { .. } => "contrib/keyserver/README.md lists every name and what it may be".into(),
            ConfigError::Value { remedy, .. } => (*remedy).into(),
            ConfigError::Secret { source, .. } => source.remedy().unwrap_or_default(),
        }
    }
}

impl Config {
    /// Reads and checks a configuration file; secrets that it names are looked at, so that loose rights are found now.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        let config = Config::load_unread(path)?;
        config.check_secrets(path)?;
        Ok(config)
    }

    /// As [`load`](Self::load), without looking at the secrets: for commands that run as somebody else than the server.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn load_unread(path: &Path) -> Result<Config, ConfigError> {
        use std::os::unix::fs::PermissionsExt;
        let unreadable = |source| ConfigError::Read { path: path.to_owned(), source };
        let file = std::fs::File::open(path).map_err(unreadable)?;
        let metadata = file.metadata().map_err(unreadable)?;
        if !metadata.is_file() {
            return Err(unreadable(std::io::Error::other("it is not a regular file")));
        }
        let mode = metadata.permissions().mode() & 0o7777;
        if mode & 0o022 != 0 {
            return Err(ConfigError::Loose { path: path.to_owned(), mode });
        }
        let mut text = String::new();
        file.take(MAX_FILE + 1).read_to_string(&mut text).map_err(unreadable)?;
        if text.len() as u64 > MAX_FILE {
            return Err(unreadable(std::io::Error::other("it has more than 1 MiB")));
        }
        Config::parse(&text, path)
    }

    /// Checks a configuration's text; `path` is for messages.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn parse(text: &str, path: &Path) -> Result<Config, ConfigError> {
        let config: Config = toml::from_str(text).map_err(|error| {
            let before = text.get(..error.span().map_or(0, |span| span.start)).unwrap_or_default();
            ConfigError::Syntax {
                path: path.to_owned(),
                line: before.matches('\n').count() + 1,
                column: before.chars().rev().take_while(|c| *c != '\n').count() + 1,
                message: error.message().replace('\n', ", "),
            }
        })?;
        config.check(path)?;
        Ok(config)
    }

    /// Settings that weaken the server, as they are written.
    pub fn insecure(&self) -> Vec<String> {
        let mut found = Vec::new();
        if self.listen.insecure_plain_http {
            found.push("listen.insecure_plain_http".to_owned());
        }
        if self.hsm.insecure_software_oaep {
            found.push("hsm.insecure_software_oaep".to_owned());
        }
        for sink in &self.audit.sinks {
            if let Sink::S3 { name, insecure_plain_http: true, .. } = sink {
                found.push(format!("audit.sinks {name:?} insecure_plain_http"));
            }
        }
        found
    }

    fn check(&self, path: &Path) -> Result<(), ConfigError> {
        let wrong =
            |field, fact: String, remedy| Err(ConfigError::Value { path: path.to_owned(), field, fact, remedy });
        let listen = &self.listen;
        match (&listen.certificate, &listen.key, listen.insecure_plain_http) {
            (Some(_), Some(_), false) | (None, None, true) => {}
            (None, None, false) => {
                let remedy = "name the server's certificate and key: listen.certificate, listen.key";
                return wrong(
                    "listen",
                    "there is no certificate, and callers are only spoken to over TLS".into(),
                    remedy,
                );
            }
            (_, _, true) => {
                let fact = "a certificate or key is named, and insecure_plain_http says not to use it".into();
                return wrong("listen", fact, "remove insecure_plain_http");
            }
            _ => {
                return wrong("listen", "a certificate needs its key, and a key its certificate".into(), "name both");
            }
        }
        if listen.certificate.as_ref().is_some_and(|path| !path.is_absolute()) {
            return wrong("listen.certificate", "the path is relative".into(), "write it from the root");
        }
        if listen
            .trusted_gateways
            .iter()
            .any(|gateway| gateway.address.is_none() && gateway.certificate_sha256.is_none())
        {
            let remedy = "say by what it is known: address, certificate_sha256, better both";
            return wrong("listen.trusted_gateways", "one of them would be anybody".into(), remedy);
        }
        let by_certificate = listen.trusted_gateways.iter().any(|gateway| gateway.certificate_sha256.is_some());
        if by_certificate && listen.insecure_plain_http {
            let remedy = "remove insecure_plain_http, or know the gateway by its address";
            return wrong("listen.trusted_gateways", "without TLS nobody has a certificate".into(), remedy);
        }
        if self.admin.listen.is_empty() {
            let remedy = "leave it out for 127.0.0.1:8080, or name a Unix socket";
            return wrong("admin.listen", "without an admin listener nobody can hand in the PIN".into(), remedy);
        }
        self.hsm.check().or_else(|error| match error {
            HsmError::Setup { fact, remedy, .. } => wrong("hsm", fact, remedy),
            other => wrong("hsm", other.to_string(), "contrib/keyserver/README.md says what it may be"),
        })?;
        self.check_state().or_else(|(field, fact, remedy)| wrong(field, fact, remedy))?;
        self.check_audit().or_else(|(field, fact, remedy)| wrong(field, fact, remedy))?;
        self.check_limits().or_else(|(field, fact, remedy)| wrong(field, fact, remedy))
    }

    fn check_state(&self) -> Result<(), (&'static str, String, &'static str)> {
        const FORMS: &str = "write sqlite:/path, or postgres://user@host/database";
        let url = &self.state.url;
        if let Some(path) = url.strip_prefix("sqlite:") {
            // sqlite://relative is a relative path, sqlite:///absolute is not.
            let path = path.strip_prefix("//").unwrap_or(path);
            if !path.starts_with('/') {
                return Err(("state.url", "the path of the database is relative".into(), FORMS));
            }
            if self.state.password_file.is_some() {
                return Err(("state.password_file", "SQLite has no password".into(), "remove it"));
            }
            return Ok(());
        }
        let Some(rest) = url.strip_prefix("postgres://").or_else(|| url.strip_prefix("postgresql://")) else {
            return Err(("state.url", "it names neither SQLite nor PostgreSQL".into(), FORMS));
        };
        let authority = rest.split(['/', '?']).next().unwrap_or_default();
        let user_has_password = authority.rsplit_once('@').is_some_and(|(user, _)| user.contains(':'));
        if user_has_password || rest.split(['?', '&']).any(|pair| pair.starts_with("password=")) {
            let remedy = "put the password into a file of mode 600 and name it in state.password_file";
            return Err(("state.url", "it holds a password, which others can read here".into(), remedy));
        }
        if !(1..=1000).contains(&self.state.connections) {
            return Err(("state.connections", "it is not from 1 to 1000".into(), "leave it out for 16"));
        }
        Ok(())
    }

    fn check_audit(&self) -> Result<(), (&'static str, String, &'static str)> {
        let audit = &self.audit;
        let id = &audit.server_id;
        let possible = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte);
        if !(1..=64).contains(&id.len()) || !id.bytes().all(possible) {
            let fact = "it is not 1 to 64 lower-case letters, digits, dots and hyphens".into();
            return Err(("audit.server_id", fact, "take the node's host name"));
        }
        if audit.head_records == 0 || audit.head_time.is_zero() {
            return Err((
                "audit",
                "heads cannot follow without a pause".into(),
                "leave out head_records and head_time",
            ));
        }
        let mut names = HashSet::new();
        for sink in &audit.sinks {
            let name = sink.name();
            let possible = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
            if !(1..=64).contains(&name.len()) || !name.bytes().all(possible) {
                let fact = format!("the name {name:?} is not 1 to 64 lower-case letters, digits and hyphens");
                return Err(("audit.sinks", fact, "choose another"));
            }
            if !names.insert(name) {
                return Err(("audit.sinks", format!("two are named {name:?}"), "give each a name of its own"));
            }
            match sink {
                Sink::Directory { path, .. } if !path.is_absolute() => {
                    return Err(("audit.sinks", format!("the path of {name:?} is relative"), "write it from the root"));
                }
                Sink::Directory { .. } => {}
                Sink::S3 { endpoint, insecure_plain_http, access_key_id, secret_access_key, .. } => {
                    let https = endpoint.as_ref().is_none_or(|endpoint| endpoint.starts_with("https://"));
                    let http = endpoint.as_ref().is_some_and(|endpoint| endpoint.starts_with("http://"));
                    if !(https || http && *insecure_plain_http) {
                        let fact = format!("the endpoint of {name:?} is not reached by https");
                        return Err(("audit.sinks", fact, "write https://HOST"));
                    }
                    if access_key_id.is_some() != secret_access_key.is_some() {
                        let fact = format!("{name:?} has half of an access key");
                        return Err(("audit.sinks", fact, "name both access_key_id and secret_access_key, or neither"));
                    }
                }
            }
        }
        if let Some(unknown) = audit.before_answer.iter().find(|name| !names.contains(name.as_str())) {
            let fact = format!("there is no sink {unknown:?}");
            return Err(("audit.before_answer", fact, "name sinks of audit.sinks"));
        }
        Ok(())
    }

    fn check_limits(&self) -> Result<(), (&'static str, String, &'static str)> {
        let limits = &self.limits;
        let bounds: [(&'static str, u64, u64, u64); 10] = [
            ("limits.body", limits.body as u64, 4096, 1 << 20),
            ("limits.header", limits.header as u64, 8192, 1 << 20),
            ("limits.connections", limits.connections as u64, 1, 1 << 20),
            ("limits.connections_per_address", limits.connections_per_address as u64, 1, 1 << 20),
            ("limits.in_flight", limits.in_flight as u64, 1, 1 << 16),
            ("limits.address_requests_per_second", limits.address_requests_per_second.into(), 1, 1 << 20),
            ("limits.address_burst", limits.address_burst.into(), 1, 1 << 20),
            ("limits.tenant_requests_per_second", limits.tenant_requests_per_second.into(), 1, 1 << 20),
            ("limits.tenant_burst", limits.tenant_burst.into(), 1, 1 << 20),
            ("limits.addresses", limits.addresses as u64, 16, 1 << 24),
        ];
        let times = [
            ("limits.header_time", limits.header_time),
            ("limits.request_time", limits.request_time),
            ("limits.idle_time", limits.idle_time),
            ("limits.drain_time", limits.drain_time),
        ];
        for (field, value, least, most) in bounds {
            if !(least..=most).contains(&value) {
                return Err((field, format!("it is not from {least} to {most}"), "leave it out for its default"));
            }
        }
        for (field, time) in times {
            if !(Duration::from_millis(100)..=Duration::from_secs(3600)).contains(&time) {
                return Err((field, "it is not from 100ms to 1h".into(), "leave it out for its default"));
            }
        }
        Ok(())
    }

    fn check_secrets(&self, path: &Path) -> Result<(), ConfigError> {
        let failed = |field, source| ConfigError::Secret { path: path.to_owned(), field, source };
        if let Some(key) = &self.listen.key {
            key.read("TLS key").map_err(|error| failed("listen.key", error))?;
        }
        for pin in self.hsm.pin.iter().chain(self.hsm.tokens.iter().filter_map(|token| token.pin.as_ref())) {
            pin.read("PIN file").map_err(|error| failed("hsm.pin", error))?;
        }
        if let Some(password) = &self.state.password_file {
            password.read_word("password file").map_err(|error| failed("state.password_file", error))?;
        }
        for sink in &self.audit.sinks {
            if let Sink::S3 { secret_access_key: Some(secret), .. } = sink {
                secret.read_word("secret access key").map_err(|error| failed("audit.sinks", error))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: &str = "[listen]\ncertificate = \"/c.pem\"\nkey = \"/k.pem\"\n\
        [hsm]\n[[hsm.token]]\nuri = \"pkcs11:token=t\"\nmodule = \"/m.so\"\n\
        [audit]\nserver_id = \"node-1\"\n";

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(text, Path::new("/etc/ks.toml")).map_err(|error| {
            assert!(!error.remedy().is_empty(), "{error}");
            error.to_string()
        })
    }

    #[test]
    fn what_is_left_out_is_safe() {
        let config = parse(LEAST).unwrap();
        assert!(!config.listen.insecure_plain_http && !config.listen.answer_options);
        assert!(config.listen.trusted_gateways.is_empty());
        assert_eq!(config.admin.listen, [AdminAddress::Loopback("127.0.0.1:8080".parse().unwrap())]);
        assert_eq!(config.limits, Limits::default());
        assert_eq!(config.limits.body, 65_536);
        assert!(config.insecure().is_empty());
        assert_eq!(config.log.to, LogTo::Stderr);
    }

    #[test]
    fn errors_name_the_place_and_the_fact() {
        for (change, with, said) in [
            ("[hsm]", "[hsm", "/etc/ks.toml, line 4, column"),
            ("[hsm]", "[hms]", "line 4, column 2: unknown field `hms`"),
            ("certificate = \"/c.pem\"\n", "", "listen: a certificate needs its key"),
            ("key = \"/k.pem\"\n", "", "listen: a certificate needs its key"),
            ("certificate = \"/c.pem\"\nkey = \"/k.pem\"\n", "", "only spoken to over TLS"),
            ("[hsm]", "insecure_plain_http = true\n[hsm]", "says not to use it"),
            ("\"/k.pem\"", "\"hunter2\"", "line 3, column 7: a secret is named"),
            ("\"/k.pem\"", "\"credential:../x\"", "a secret is named"),
            ("\"/c.pem\"", "\"c.pem\"", "listen.certificate: the path is relative"),
            ("\"/c.pem\"", "7", "line 2, column 15: invalid type: integer `7`"),
            ("[hsm]", "[[listen.trusted_gateways]]\n[hsm]", "would be anybody"),
            ("[hsm]", "[[listen.trusted_gateways]]\naddress = \"10.0.0.0/33\"\n[hsm]", "line 5"),
            ("[hsm]", "[[listen.trusted_gateways]]\ncertificate_sha256 = \"+123\"\n[hsm]", "64 hexadecimal digits"),
            ("[hsm]", "[admin]\nlisten = [\"0.0.0.0:8080\"]\n[hsm]", "must be 127.0.0.1 or [::1]"),
            ("[hsm]", "[admin]\nlisten = [\"localhost\"]\n[hsm]", "a loopback address with a port"),
            ("[hsm]", "[admin]\nlisten = []\n[hsm]", "nobody can hand in the PIN"),
            ("[hsm]", "[state]\nurl = \"mysql://x\"\n[hsm]", "neither SQLite nor PostgreSQL"),
            ("[hsm]", "[state]\nurl = \"sqlite:here\"\n[hsm]", "relative"),
            ("[hsm]", "[state]\nurl = \"postgres://a:b@h/d\"\n[hsm]", "state.url: it holds a password"),
            ("[hsm]", "[state]\nurl = \"postgres://a@h/d?x=y&password=b\"\n[hsm]", "it holds a password"),
            ("[hsm]", "[state]\nurl = \"postgres://a@h/d\"\nconnections = 0\n[hsm]", "state.connections"),
            ("[hsm]", "[state]\npassword_file = \"/p\"\n[hsm]", "SQLite has no password"),
            ("\"node-1\"", "\"Node 1\"", "audit.server_id"),
            ("\"node-1\"", "\"n\"\nbefore_answer = [\"files\"]", "there is no sink \"files\""),
            ("\"node-1\"", "\"n\"\nhead_records = 0", "audit: heads"),
            ("\"node-1\"", "\"n\"\nhead_time = \"soon\"", "line 10"),
            ("\"node-1\"", "\"n\"\n[[audit.sinks]]\nkind = \"tape\"\nname = \"t\"", "unknown variant `tape`"),
            ("\"node-1\"", "\"n\"\n[[audit.sinks]]\nkind = \"directory\"\nname = \"t\"\npath = \"t\"", "is relative"),
            (
                "\"node-1\"",
                "\"n\"\n[[audit.sinks]]\nkind = \"s3\"\nname = \"t\"\nbucket = \"b\"\nendpoint = \"http://h\"",
                "not reached by https",
            ),
            (
                "\"node-1\"",
                "\"n\"\n[[audit.sinks]]\nkind = \"s3\"\nname = \"t\"\nbucket = \"b\"\naccess_key_id = \"a\"",
                "half of an access key",
            ),
            ("[hsm]", "[hsm]\nsessions = 0", "hsm: hsm.sessions is 0"),
            ("[hsm]", "[hsm]\npin = \"1234\"", "a secret is named"),
            ("\"pkcs11:token=t\"", "\"token\"", "/etc/ks.toml, hsm: "),
            ("\"/m.so\"", "\"m.so\"", "/etc/ks.toml, hsm: "),
            ("[hsm]", "[limits]\nbody = 100\n[hsm]", "limits.body: it is not from 4096 to 1048576"),
            ("[hsm]", "[limits]\nheader_time = \"0s\"\n[hsm]", "limits.header_time"),
            ("[hsm]", "[log]\nto = \"here\"\n[hsm]", "messages go to"),
        ] {
            let text = LEAST.replacen(change, with, 1);
            assert_ne!(text, LEAST);
            let error = parse(&text).unwrap_err();
            assert!(error.starts_with("/etc/ks.toml, ") && error.contains(said), "{text}\n{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn two_sinks_have_two_names() {
        let sink = "[[audit.sinks]]\nkind = \"directory\"\nname = \"files\"\npath = \"/a\"\n";
        assert!(parse(&format!("{LEAST}before_answer = [\"files\"]\n{sink}")).is_ok());
        assert!(parse(&format!("{LEAST}{sink}{sink}")).unwrap_err().contains("two are named"));
    }

    #[test]
    fn insecure_settings_are_told() {
        let text = LEAST.replace("certificate = \"/c.pem\"\nkey = \"/k.pem\"", "insecure_plain_http = true");
        assert_eq!(parse(&text).unwrap().insecure(), ["listen.insecure_plain_http"]);
    }

    #[test]
    fn files_that_others_may_use_are_refused() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let (path, key) = (dir.path().join("ks.toml"), dir.path().join("key.pem"));
        let mode = |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        std::fs::write(&path, LEAST.replace("/k.pem", key.to_str().unwrap())).unwrap();
        std::fs::write(&key, "key").unwrap();
        for (config_mode, key_mode, said) in [
            (0o644, 0o600, None),
            (0o600, 0o400, None),
            (0o664, 0o600, Some("can be changed by others")),
            (0o602, 0o600, Some("can be changed by others")),
            (0o600, 0o640, Some("listen.key: a file that it names")),
        ] {
            mode(&path, config_mode);
            mode(&key, key_mode);
            let outcome = Config::load(&path).map(|_| ()).map_err(|error| error.to_string());
            match said {
                None => outcome.unwrap(),
                Some(said) => assert!(outcome.unwrap_err().contains(said)),
            }
        }
        assert!(Config::load(dir.path()).is_err());
        assert!(Config::load(&dir.path().join("none")).is_err());
    }
}
