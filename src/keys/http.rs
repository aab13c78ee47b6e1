//! The HTTP client of all network providers, and the only place that names reqwest and rustls.
//!
//! What holds for every exchange:
//! - TLS 1.2 or later with a verified certificate: of the system's authorities, or of those in `ca-file` and then of no others. Plain HTTP
//!   only with `insecure-plain-http=true`.
//! - It ends in time: the `timeout` counts for all tries at all endpoints together, name resolution included. A provider that makes several
//!   exchanges for one answer takes one [`Deadline`] for all of them.
//! - Answers are bounded, redirects are not followed, and neither proxies nor anything else comes from the environment.
//! - A try that fails in passing (no connection, no answer in time, status 429, and what the caller says) is made again, at the next endpoint and
//!   then after a growing, random wait. So a request may reach a server more than once: send only what may.
//! - Bodies and header values are wiped after use. What TLS and HTTP code below copies meanwhile is not within reach.
//! - No thread is left behind (except one that still waits for a name server): the client is made for each try, and gone when this returns. A daemon
//!   gives up capabilities thread by thread.
//!
//! A use, in full:
//!
//! ```text
//! let http = Http::new("key server", HttpOptions::take(&mut spec)?)?;
//! let endpoints = [http.endpoint("https://a.example:8443")?, http.endpoint("https://b.example:8443")?];
//! let answer = http.exchange(http.deadline(), &endpoints, |_| false, |endpoint| {
//!     Ok(Request::post(endpoint.join("v1/key")).header("Authorization", token).json(&body))
//! })?;
//! match answer.status { 200 => answer.json::<Reply>(), … }
//! ```

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::io::Read;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use reqwest::Url;
use reqwest::blocking::Client;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde::Serialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use super::secret_file::{self, Access};
use super::{Cause, ProviderError, ProviderSpec, SpecError};

/// For everything that one answer of a provider needs.
const TIMEOUT: Duration = Duration::from_secs(15);
/// For one connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Largest answer, in bytes: the largest there is, a certificate chain or a list of credentials, has some ten thousand.
const MAX_ANSWER: usize = 64 << 10;
/// Largest file with certificates or a key, in bytes; the system's authorities together have about 220,000.
const MAX_PEM: usize = 1 << 20;
/// Tries at each endpoint.
const ROUNDS: u32 = 4;
/// Bounds of the random wait before the second round; they double with each further one.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(200));
/// Longest wait that a server's `Retry-After` is heard for.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(10);

/// The parameters that all network providers have in their specifications.
#[derive(Debug, Clone)]
pub(crate) struct HttpOptions {
    /// `timeout`: seconds that everything may take together (15).
    pub(crate) timeout: Duration,
    /// `connect-timeout`: seconds that one connection may take (5).
    pub(crate) connect_timeout: Duration,
    /// `ca-file`: PEM certificates of the authorities that are trusted, instead of the system's.
    pub(crate) ca_file: Option<PathBuf>,
    /// `client-cert` and `client-key`: PEM certificate (chain) and private key for mutual TLS.
    pub(crate) identity: Option<(PathBuf, PathBuf)>,
    /// `proxy`: address of an HTTP proxy (CONNECT).
    pub(crate) proxy: Option<String>,
    /// `insecure-plain-http`: addresses may begin with `http://`, and whoever is on the path reads and changes everything.
    pub(crate) plain: bool,
}

impl Default for HttpOptions {
    fn default() -> Self {
        HttpOptions {
            timeout: TIMEOUT,
            connect_timeout: CONNECT_TIMEOUT,
            ca_file: None,
            identity: None,
            proxy: None,
            plain: false,
        }
    }
}

impl HttpOptions {
    /// Takes them from a provider's specification.
    ///
    /// # Errors
    /// [`SpecError`].
    pub(crate) fn take(spec: &mut ProviderSpec) -> Result<Self, SpecError> {
        let missing = |name| SpecError::Missing { kind: spec.kind.clone(), name };
        let unpaired = (missing("client-cert beside client-key"), missing("client-key beside client-cert"));
        let identity = match (spec.take_path("client-cert"), spec.take_path("client-key")) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            (None, Some(_)) => return Err(unpaired.0),
            (Some(_), None) => return Err(unpaired.1),
        };
        let plain = spec.take_switch("insecure-plain-http")?;
        if plain {
            tracing::warn!(provider = spec.kind, "plain HTTP is allowed: whoever is on the path can read the keys");
        }
        Ok(HttpOptions {
            timeout: spec.take_seconds("timeout")?.unwrap_or(TIMEOUT),
            connect_timeout: spec.take_seconds("connect-timeout")?.unwrap_or(CONNECT_TIMEOUT),
            ca_file: spec.take_path("ca-file"),
            identity,
            proxy: spec.take("proxy"),
            plain,
        })
    }
}

/// When everything must be over.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline {
    end: Instant,
    total: Duration,
}

impl Deadline {
    /// What is left; nothing when it is over.
    pub(crate) fn remaining(&self) -> Duration {
        self.end.saturating_duration_since(Instant::now())
    }

    /// An earlier deadline, for a part that must not use up the time of the rest.
    #[must_use]
    pub(crate) fn within(self, time: Duration) -> Deadline {
        let total = self.remaining().min(time);
        Deadline { end: Instant::now() + total, total }
    }
}

/// An address that requests may go to: `https://host:port/path`, without credentials, query or fragment.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Endpoint(Url);

impl Endpoint {
    /// The address of something below this one.
    pub(crate) fn join(&self, path: &str) -> String {
        format!("{}/{}", self.0.as_str().trim_end_matches('/'), path.trim_start_matches('/'))
    }

    /// The host, without its port.
    pub(crate) fn host(&self) -> &str {
        self.0.host_str().unwrap_or_default()
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str().trim_end_matches('/'))
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What is sent.
pub(crate) struct Request {
    /// The method.
    pub(crate) method: &'static str,
    /// The whole address.
    pub(crate) url: String,
    /// Header fields, in the order of sending.
    pub(crate) headers: Vec<(Cow<'static, str>, Zeroizing<String>)>,
    /// The body.
    pub(crate) body: Zeroizing<Vec<u8>>,
}

impl Request {
    /// A request without a body.
    pub(crate) fn new(method: &'static str, url: String) -> Self {
        Request { method, url, headers: Vec::new(), body: Zeroizing::default() }
    }

    /// A GET request.
    pub(crate) fn get(url: String) -> Self {
        Request::new("GET", url)
    }

    /// A POST request.
    pub(crate) fn post(url: String) -> Self {
        Request::new("POST", url)
    }

    /// Adds a header field.
    #[must_use]
    pub(crate) fn header(mut self, name: impl Into<Cow<'static, str>>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), Zeroizing::new(value.into())));
        self
    }

    /// Sets the body.
    #[must_use]
    pub(crate) fn body(mut self, content_type: &str, body: Zeroizing<Vec<u8>>) -> Self {
        self.body = body;
        self.header("Content-Type", content_type)
    }

    /// Sets the body to JSON.
    #[must_use]
    pub(crate) fn json(self, value: &impl Serialize) -> Self {
        self.body("application/json", json(value))
    }
}

/// A value as JSON, in memory that is wiped.
pub(crate) fn json(value: &impl Serialize) -> Zeroizing<Vec<u8>> {
    // With room for any request, so that it does not grow and leave copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(16 << 10));
    serde_json::to_writer(&mut *bytes, value).expect("structures of text and numbers are JSON");
    bytes
}

/// What comes back, whatever its status.
pub(crate) struct Answer {
    /// Status code.
    pub(crate) status: u16,
    /// The body.
    pub(crate) body: Zeroizing<Vec<u8>>,
    /// Whose answer it is.
    pub(crate) endpoint: Endpoint,
    headers: HeaderMap,
}

impl Answer {
    /// Whether the status says success.
    pub(crate) fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The first header field of a name, if it is text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The body as JSON; `None` if it is not that. What was wrong is not told: the text would quote the body.
    pub(crate) fn json<T: DeserializeOwned>(&self) -> Option<T> {
        serde_json::from_slice(&self.body).ok()
    }

    /// How long the server wants to be left alone (RFC 9110, section 10.2.3).
    fn retry_after(&self) -> Option<Duration> {
        let value = self.header("retry-after")?;
        if let Ok(seconds) = value.parse() {
            return Some(Duration::from_secs(seconds));
        }
        let when = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(value).ok()?;
        Some(Duration::try_from(when.duration_since(jiff::Timestamp::now())).unwrap_or_default())
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Answer({} from {}, {} bytes)", self.status, self.endpoint, self.body.len())
    }
}

/// Words from outside, for people: without control characters, and not endless.
pub(crate) fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(400).collect()
}

/// Why a try gave no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoAnswer {
    #[error("the host {host} has no address")]
    Name { host: String, source: std::io::Error },
    #[error("the name server does not answer for {host}")]
    NameServer { host: String },
    #[error("{endpoint} does not answer")]
    Transport { endpoint: Endpoint, source: reqwest::Error },
    #[error("the answer of {endpoint} breaks off")]
    Body { endpoint: Endpoint, source: std::io::Error },
    #[error("the answer of {endpoint} does not end in time")]
    Slow { endpoint: Endpoint },
    #[error("there is no time left")]
    NoTime,
}

/// A try without an answer.
pub(crate) enum Fault {
    /// May pass.
    Transient(NoAnswer),
    /// Will be the same again at this endpoint.
    Lasting(ProviderError),
    /// Will be the same at any.
    Final(ProviderError),
}

/// A client with its trust and its credentials.
pub(crate) struct Http {
    provider: String,
    options: HttpOptions,
    proxy: Option<Endpoint>,
    authorities: Option<Zeroizing<Vec<u8>>>,
    /// Certificate and key in one.
    identity: Option<Zeroizing<Vec<u8>>>,
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http").field("provider", &self.provider).field("options", &self.options).finish_non_exhaustive()
    }
}

impl Http {
    /// Reads and tries out the files that the options name. `provider` names the other side to people: "the key server".
    ///
    /// # Errors
    /// [`ProviderError::Setup`] or [`ProviderError::Spec`].
    pub(crate) fn new(provider: impl Into<String>, options: HttpOptions) -> Result<Self, ProviderError> {
        let read = |what, path: &Path, access| secret_file::read(what, path, MAX_PEM, access);
        let authorities = options.ca_file.as_deref().map(|path| read("file of authorities", path, Access::Believed));
        let identity = options.identity.as_ref().map(|(certificate, key)| -> Result<_, ProviderError> {
            let (certificate, key) =
                (read("client certificate", certificate, Access::AsMounted)?, read("client key", key, Access::Owner)?);
            let mut both = Zeroizing::new(Vec::with_capacity(certificate.len() + 1 + key.len()));
            [&certificate, &b"\n"[..], &key].iter().for_each(|part| both.extend_from_slice(part));
            Ok(both)
        });
        let mut http = Http {
            provider: provider.into(),
            proxy: None,
            authorities: authorities.transpose()?,
            identity: identity.transpose()?,
            options,
        };
        http.proxy = http.options.proxy.as_deref().map(|proxy| address("proxy", proxy, true)).transpose()?;
        http.client(CONNECT_TIMEOUT, None, http.options.plain)?;
        Ok(http)
    }

    /// Names the other side in errors.
    pub(crate) fn provider(&self) -> &str {
        &self.provider
    }

    /// Checks an address.
    ///
    /// # Errors
    /// [`ProviderError::Spec`] if it is none, or a plain one that was not allowed.
    pub(crate) fn endpoint(&self, text: &str) -> Result<Endpoint, ProviderError> {
        address("address", text, self.options.plain)
    }

    /// The deadline of what begins now.
    pub(crate) fn deadline(&self) -> Deadline {
        let total = self.options.timeout;
        Deadline { end: Instant::now() + total, total }
    }

    /// Sends a request to the endpoints in order until one answers with anything that is not passing: an answer with status 429, or one
    /// that `transient` is true for, makes it go on. `request` is called for each try. The last answer is returned if no better one comes.
    ///
    /// # Errors
    /// [`ProviderError::Unreachable`] if nobody answered in time, [`ProviderError::Setup`] or [`ProviderError::Refused`] if TLS fails for
    /// a reason that lasts, [`ProviderError::Answer`] for one that is too large, and what `request` gives.
    pub(crate) fn exchange(
        &self,
        deadline: Deadline,
        endpoints: &[Endpoint],
        transient: impl Fn(&Answer) -> bool,
        mut request: impl FnMut(&Endpoint) -> Result<Request, ProviderError>,
    ) -> Result<Answer, ProviderError> {
        self.exchange_by(deadline, endpoints, transient, |endpoint, time| {
            self.attempt(endpoint, request(endpoint).map_err(Fault::Final)?, time)
        })
    }

    /// The same with another try than one request and its answer, for what takes two of one server. `attempt` is given the time that it may
    /// take; the answer that it returns counts.
    ///
    /// # Errors
    /// Those of [`exchange`](Self::exchange).
    pub(crate) fn exchange_by(
        &self,
        deadline: Deadline,
        endpoints: &[Endpoint],
        transient: impl Fn(&Answer) -> bool,
        mut attempt: impl FnMut(&Endpoint, Duration) -> Result<Answer, Fault>,
    ) -> Result<Answer, ProviderError> {
        // One that is silent must leave time for the others.
        let share = deadline.total / u32::try_from(endpoints.len()).unwrap_or(u32::MAX).max(1);
        let mut lasting = vec![false; endpoints.len()];
        let mut last = Err(self.unreachable(NoAnswer::NoTime));
        for round in 0..ROUNDS {
            let mut wait = back_off(round);
            for (endpoint, lasting) in endpoints.iter().zip(&mut lasting) {
                let time = deadline.remaining().min(share);
                if *lasting || time.is_zero() {
                    continue;
                }
                last = match attempt(endpoint, time) {
                    Ok(answer) if answer.status == 429 || transient(&answer) => {
                        tracing::debug!(status = answer.status, %endpoint, "a passing failure");
                        wait = wait.max(answer.retry_after().unwrap_or_default());
                        Ok(answer)
                    }
                    Ok(answer) => return Ok(answer),
                    Err(Fault::Transient(error)) => {
                        tracing::debug!(%endpoint, %error, "no answer");
                        // An answer, even a bad one, says more.
                        if last.is_ok() { last } else { Err(self.unreachable(error)) }
                    }
                    Err(Fault::Final(error)) => return Err(error),
                    Err(Fault::Lasting(error)) => {
                        *lasting = true;
                        if last.is_ok() { last } else { Err(error) }
                    }
                };
            }
            if lasting.iter().all(|lasting| *lasting) || wait > MAX_RETRY_AFTER || wait >= deadline.remaining() {
                break;
            }
            if round + 1 < ROUNDS {
                std::thread::sleep(wait);
            }
        }
        last
    }

    /// One try: sends a request, and reads its answer.
    pub(crate) fn attempt(&self, endpoint: &Endpoint, request: Request, time: Duration) -> Result<Answer, Fault> {
        let end = Instant::now() + time;
        let url = Url::parse(&request.url).map_err(|_| self.bad_request())?;
        if url.origin() != endpoint.0.origin() {
            return Err(self.bad_request());
        }
        let connect_to = self.proxy.as_ref().unwrap_or(endpoint);
        let addresses = resolve(connect_to, time.min(self.options.connect_timeout)).map_err(Fault::Transient)?;
        let plain = endpoint.0.scheme() == "http";
        let client = self.client(time, addresses.as_deref().map(|to| (connect_to.host(), to)), plain);
        let client = client.map_err(Fault::Lasting)?;

        let method = request.method.parse().map_err(|_| self.bad_request())?;
        let time = end.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        let mut sent = client.request(method, url).timeout(time);
        for (name, value) in &request.headers {
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| self.bad_request())?;
            let mut value = HeaderValue::from_str(value).map_err(|_| self.bad_request())?;
            value.set_sensitive(true);
            sent = sent.header(name, value);
        }
        if !request.body.is_empty() || request.method != "GET" {
            // Owned, and so wiped when the last user is done.
            sent = sent.body(Bytes::from_owner(request.body));
        }
        let mut response = sent.send().map_err(|error| self.transport(endpoint, error.without_url()))?;
        let (status, headers) = (response.status().as_u16(), std::mem::take(response.headers_mut()));

        let mut body = Zeroizing::new(vec![0; MAX_ANSWER + 1]);
        let mut len = 0;
        while let Some(rest) = body.get_mut(len..).filter(|rest| !rest.is_empty()) {
            if Instant::now() >= end {
                return Err(Fault::Transient(NoAnswer::Slow { endpoint: endpoint.clone() }));
            }
            match response.read(rest) {
                Ok(0) => break,
                Ok(n) => len += n,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(source) => return Err(Fault::Transient(NoAnswer::Body { endpoint: endpoint.clone(), source })),
            }
        }
        if len > MAX_ANSWER {
            return Err(Fault::Lasting(self.answer(format!("it has more than {MAX_ANSWER} bytes"))));
        }
        body.truncate(len);
        Ok(Answer { status, body, endpoint: endpoint.clone(), headers })
    }

    /// A client for one try.
    fn client(
        &self,
        time: Duration,
        addresses: Option<(&str, &[SocketAddr])>,
        plain: bool,
    ) -> Result<Client, ProviderError> {
        let setup = |fact: &str, remedy, source: reqwest::Error| ProviderError::Setup {
            fact: fact.into(),
            remedy,
            source: Some(source.into()),
        };
        let mut builder = Client::builder()
            .user_agent(concat!("envelopefs/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            .no_proxy()
            .https_only(!plain)
            .tls_version_min(reqwest::tls::Version::TLS_1_2)
            .pool_max_idle_per_host(0)
            .connect_timeout(time.min(self.options.connect_timeout))
            .timeout(time);
        if let Some((host, addresses)) = addresses {
            builder = builder.resolve_to_addrs(host, addresses);
        }
        if let Some(pem) = &self.authorities {
            let remedy = "name a PEM file with the certificates of the authorities";
            let certificates = reqwest::Certificate::from_pem_bundle(pem)
                .map_err(|error| setup("the file of authorities holds no certificates", remedy, error))?;
            if certificates.is_empty() {
                let fact = "the file of authorities holds no certificates".into();
                return Err(ProviderError::Setup { fact, remedy, source: None });
            }
            builder = builder.tls_certs_only(certificates);
        } else if plain {
            // The system's need not even be there.
            builder = builder.tls_certs_only([]);
        }
        if let Some(pem) = &self.identity {
            let remedy = "client-cert is a PEM certificate (chain), client-key the PEM private key that belongs to it";
            let identity = reqwest::Identity::from_pem(pem)
                .map_err(|error| setup("the client certificate or its key cannot be read", remedy, error))?;
            builder = builder.identity(identity);
        }
        if let Some(proxy) = &self.proxy {
            let remedy = "give proxy as http://host:port";
            let proxy = reqwest::Proxy::all(proxy.0.clone())
                .map_err(|error| setup("the proxy's address cannot be used", remedy, error))?;
            builder = builder.proxy(proxy);
        }
        let remedy = "install the package ca-certificates, or name your authorities with ca-file; a client key must fit its certificate";
        builder.build().map_err(|error| setup("the TLS client cannot be set up", remedy, error))
    }

    /// [`ProviderError::Answer`] of this provider.
    pub(crate) fn answer(&self, what: impl Into<String>) -> ProviderError {
        ProviderError::Answer { provider: self.provider.clone(), what: what.into() }
    }

    /// [`ProviderError::Refused`] of this provider.
    pub(crate) fn refused(&self, reason: impl Into<String>, remedy: &'static str) -> ProviderError {
        ProviderError::Refused { provider: self.provider.clone(), reason: reason.into(), remedy }
    }

    /// [`ProviderError::Unreachable`] of this provider.
    pub(crate) fn unreachable(&self, source: impl Into<Cause>) -> ProviderError {
        ProviderError::Unreachable { provider: self.provider.clone(), source: source.into() }
    }

    fn bad_request(&self) -> Fault {
        Fault::Lasting(ProviderError::Setup {
            fact: format!("no request can be made to {} with what it is given", self.provider),
            remedy: "check the address, and that tokens are visible ASCII characters without line ends",
            source: None,
        })
    }

    /// What it means that no answer came: trust that is missing will be missing again.
    fn transport(&self, endpoint: &Endpoint, source: reqwest::Error) -> Fault {
        match tls_fault(&source) {
            Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented) => {
                Fault::Lasting(ProviderError::Setup {
                    fact: format!("the certificate of {endpoint} is not trusted"),
                    remedy: "name the authority that issued it with ca-file=PATH, and use the name that the certificate has",
                    source: Some(source.into()),
                })
            }
            Some(rustls::Error::AlertReceived(alert)) => Fault::Lasting(self.refused(
                format!("TLS alert {alert:?}"),
                "the server may want a client certificate that it knows: client-cert=PATH and client-key=PATH",
            )),
            _ => Fault::Transient(NoAnswer::Transport { endpoint: endpoint.clone(), source }),
        }
    }
}

/// Checks an address.
fn address(name: &str, text: &str, plain: bool) -> Result<Endpoint, ProviderError> {
    let expected = match plain {
        true => "an address https://host:port/path or http://host:port/path, without user, query and fragment",
        false => "an address https://host:port/path, without user, query and fragment (http: insecure-plain-http=true)",
    };
    let wrong = || SpecError::Value { name: name.into(), expected }.into();
    let url = Url::parse(text).map_err(|_| wrong())?;
    let scheme = url.scheme() == "https" || (plain && url.scheme() == "http");
    let bare = url.username().is_empty() && url.password().is_none();
    let bare = bare && url.query().is_none() && url.fragment().is_none();
    if scheme && bare && url.has_host() { Ok(Endpoint(url)) } else { Err(wrong()) }
}

/// The addresses of a host, in bounded time; `None` if it is an address itself. The system's resolver knows no time-out of ours, so a thread
/// waits for it, and may be left waiting.
fn resolve(endpoint: &Endpoint, time: Duration) -> Result<Option<Vec<SocketAddr>>, NoAnswer> {
    if endpoint.0.domain().is_none() {
        return Ok(None);
    }
    let (host, port) = (endpoint.host().to_owned(), endpoint.0.port_or_known_default().unwrap_or(443));
    let (to, from) = mpsc::channel();
    let asked = (host.clone(), port);
    let thread = std::thread::Builder::new().name("name".into());
    let spawned = thread.spawn(move || to.send(asked.to_socket_addrs().map(Iterator::collect::<Vec<_>>)));
    if let Err(source) = spawned {
        return Err(NoAnswer::Name { host, source });
    }
    match from.recv_timeout(time) {
        Ok(Ok(addresses)) => Ok(Some(addresses)),
        Ok(Err(source)) => Err(NoAnswer::Name { host, source }),
        Err(_) => Err(NoAnswer::NameServer { host }),
    }
}

/// The wait after a round: random, so that many clients of a server that failed do not come back together.
fn back_off(round: u32) -> Duration {
    let (low, high) = (BACK_OFF.0 * 2_u32.pow(round), BACK_OFF.1 * 2_u32.pow(round));
    let mut random = [0; 2];
    crate::crypto::random(&mut random);
    low + (high - low) * u32::from(u16::from_le_bytes(random)) / u32::from(u16::MAX)
}

/// The TLS error behind an error.
fn tls_fault<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        // An I/O error shows as its source not what it holds, but the source of that.
        next = match error.downcast_ref::<std::io::Error>().and_then(|error| error.get_ref()) {
            Some(inner) => Some(inner as &(dyn StdError + 'static)),
            None => error.source(),
        };
    }
    None
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::super::server::{Authority, Reply, Server, closed_port, raw};
    use super::*;

    fn http(parameters: &str) -> Result<Http, ProviderError> {
        let mut spec: ProviderSpec = format!("test:?{parameters}").parse().unwrap();
        Http::new("the test server", HttpOptions::take(&mut spec)?)
    }

    fn plain() -> Http {
        http("insecure-plain-http=true&timeout=3").unwrap()
    }

    fn get(http: &Http, urls: &[&str]) -> Result<Answer, ProviderError> {
        let endpoints: Vec<Endpoint> = urls.iter().map(|url| http.endpoint(url)).collect::<Result<_, _>>()?;
        let transient = |answer: &Answer| answer.status >= 500;
        http.exchange(http.deadline(), &endpoints, transient, |to| Ok(Request::get(to.join("/v1/x"))))
    }

    /// The whole text of an error, causes included.
    fn told(error: &ProviderError) -> String {
        let first: &dyn StdError = error;
        let causes = std::iter::successors(Some(first), |error| (*error).source());
        causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
    }

    #[test]
    fn a_request_arrives_whole_and_so_does_its_answer() {
        let server = Server::new(|call| {
            assert_eq!((call.method.as_str(), call.path.as_str()), ("POST", "/base/v1/x"));
            assert_eq!((call.header("x-vault-token"), call.header("content-type")), ("t", "application/json"));
            assert_eq!(call.header("content-length"), call.body.len().to_string());
            Reply::json(202, call.json()).header("x-more", "yes")
        });
        let http = plain();
        let endpoint = http.endpoint(&format!("{}/base/", server.url())).unwrap();
        let request = |to: &Endpoint| {
            Ok(Request::post(to.join("v1/x")).header("X-Vault-Token", "t").json(&serde_json::json!({ "a": [1, 2] })))
        };
        let answer = http.exchange(http.deadline(), &[endpoint], |_| false, request).unwrap();
        assert_eq!((answer.status, answer.header("x-more"), answer.is_success()), (202, Some("yes"), true));
        assert_eq!(answer.json::<serde_json::Value>().unwrap()["a"][1], 2);
        assert!(answer.json::<Vec<u8>>().is_none());
    }

    #[test]
    fn plain_http_and_odd_addresses_are_refused() {
        let secure = http("").unwrap();
        for bad in [
            "http://127.0.0.1",
            "ftp://h",
            "h",
            "https://",
            "https://u@h",
            "https://u:p@h",
            "https://h?a",
            "https://h#a",
        ] {
            let error = secure.endpoint(bad).unwrap_err();
            assert!(matches!(error, ProviderError::Spec(_)) && !error.to_string().contains("u:p"), "{bad}: {error}");
        }
        assert!(matches!(plain().endpoint("ftp://h"), Err(ProviderError::Spec(_))));
        for bad in ["client-cert=/a", "client-key=/a", "timeout=0", "insecure-plain-http=1", "proxy=x"] {
            assert!(matches!(http(bad), Err(ProviderError::Spec(_))), "{bad}");
        }
    }

    #[test]
    fn a_passing_failure_is_tried_again_and_other_endpoints_are_tried() {
        let server = Server::new(|call| Reply::text(if call.number < 2 { [429, 503][call.number] } else { 200 }, "ok"));
        let answer = get(&plain(), &[&server.url()]).unwrap();
        assert_eq!((answer.status, server.calls()), (200, 3));

        let (gone, server) = (format!("http://127.0.0.1:{}", closed_port()), Server::new(|_| Reply::text(200, "ok")));
        let answer = get(&plain(), &[&gone, &server.url()]).unwrap();
        assert_eq!(answer.endpoint.to_string(), server.url());

        // The last answer is the caller's to judge; what does not pass is not tried again.
        let server = Server::new(|_| Reply::text(503, "sealed"));
        assert_eq!(get(&plain(), &[&server.url()]).unwrap().status, 503);
        assert_eq!(server.calls(), 4);
        let server = Server::new(|_| Reply::text(403, "no"));
        assert_eq!((get(&plain(), &[&server.url()]).unwrap().status, server.calls()), (403, 1));
    }

    #[test]
    fn a_server_that_wants_to_be_left_alone_is() {
        let server = Server::new(|call| match call.number {
            0 => Reply::text(429, "").header("retry-after", "1"),
            _ => Reply::text(200, ""),
        });
        let start = Instant::now();
        assert_eq!(get(&plain(), &[&server.url()]).unwrap().status, 200);
        assert!(start.elapsed() >= Duration::from_secs(1));
        // Longer than we have: at once, not later.
        for long in ["3600", "99999999999999999999", "Wed, 21 Oct 2099 07:28:00 GMT"] {
            let server = Server::new(move |_| Reply::text(429, "").header("retry-after", long));
            let start = Instant::now();
            assert_eq!(get(&plain(), &[&server.url()]).unwrap().status, 429);
            assert!(long.len() == 20 || (server.calls() == 1 && start.elapsed() < Duration::from_secs(3)), "{long}");
        }
    }

    #[test]
    fn nobody_there_hanging_up_silence_and_garbage_end_in_time() {
        let hang_up = Server::new(|_| Reply::HangUp);
        let silent = Server::new(|_| Reply::Silence);
        let drip = Server::new(|_| Reply::Drip);
        let gone = format!("http://127.0.0.1:{}", closed_port());
        let garbage = raw(b"\x15\x03\x01\0\x02\x02\x28 this is no HTTP\r\n\r\n");
        let cut = raw(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nshort");
        for url in [hang_up.url(), silent.url(), drip.url(), gone, garbage, cut, "http://nowhere.invalid".into()] {
            let start = Instant::now();
            let error = get(&plain(), &[&url]).unwrap_err();
            assert!(matches!(error, ProviderError::Unreachable { .. }), "{url}: {error}");
            assert!(start.elapsed() < Duration::from_secs(20), "{url}");
        }
        // A silent one leaves time for the next.
        let server = Server::new(|_| Reply::text(200, ""));
        assert_eq!(get(&plain(), &[&silent.url(), &server.url()]).unwrap().status, 200);
    }

    #[test]
    fn an_answer_is_bounded_and_a_redirect_not_followed() {
        let server = Server::new(|_| Reply::Is(200, Vec::new(), vec![b'x'; MAX_ANSWER]));
        assert_eq!(get(&plain(), &[&server.url()]).unwrap().body.len(), MAX_ANSWER);
        let server = Server::new(|_| Reply::Is(200, Vec::new(), vec![b'x'; MAX_ANSWER + 1]));
        assert!(matches!(get(&plain(), &[&server.url()]), Err(ProviderError::Answer { .. })));
        assert_eq!(server.calls(), 1);
        let target = Server::new(|_| Reply::text(200, ""));
        let location = target.url();
        let server = Server::new(move |_| Reply::text(307, "").header("location", &location));
        assert_eq!(get(&plain(), &[&server.url()]).unwrap().status, 307);
        assert_eq!(target.calls(), 0);
    }

    #[test]
    fn a_request_goes_nowhere_but_to_its_endpoint_and_carries_no_line_ends() {
        let (server, other) = (Server::new(|_| Reply::text(200, "")), Server::new(|_| Reply::text(200, "")));
        let http = plain();
        let endpoint = http.endpoint(&server.url()).unwrap();
        let elsewhere = |_: &Endpoint| Ok(Request::get(other.url()));
        assert!(http.exchange(http.deadline(), std::slice::from_ref(&endpoint), |_| false, elsewhere).is_err());
        let split = |to: &Endpoint| Ok(Request::get(to.join("x")).header("X-A", "a\r\nX-B: secret"));
        let error = http.exchange(http.deadline(), &[endpoint], |_| false, split).unwrap_err();
        assert!(!told(&error).contains("secret"));
        assert_eq!((server.calls(), other.calls()), (0, 0));
    }

    /// Files of a certificate authority, a client certificate and its key.
    fn files(authority: &Authority, mode: u32) -> (tempfile::TempDir, String, String) {
        let dir = tempfile::tempdir().unwrap();
        let (certificate, key) = authority.issue("client");
        let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        std::fs::write(path("ca"), &authority.pem).unwrap();
        std::fs::write(path("cert"), certificate.pem()).unwrap();
        std::fs::write(path("key"), key.serialize_pem()).unwrap();
        std::fs::set_permissions(path("key"), std::fs::Permissions::from_mode(mode)).unwrap();
        let trust = format!("timeout=5&ca-file={}", path("ca"));
        let identity = format!("{trust}&client-cert={}&client-key={}", path("cert"), path("key"));
        (dir, trust, identity)
    }

    #[test]
    fn tls_trusts_the_named_authority_alone_and_shows_the_client_certificate() {
        let (authority, other) = (Authority::new(), Authority::new());
        let server = Server::tls(&authority, |call| Reply::text(if call.certified { 200 } else { 401 }, ""));
        let (_dir, trust, identity) = files(&authority, 0o600);
        assert_eq!(get(&http(&trust).unwrap(), &[&server.url()]).unwrap().status, 401);
        assert_eq!(get(&http(&identity).unwrap(), &[&server.url()]).unwrap().status, 200);

        // Another authority's, the system's, and the right one's for another name.
        let (_dir, others, _) = files(&other, 0o600);
        let wrong_name = server.url().replace("localhost", "127.0.0.1");
        for (parameters, url) in [(&*others, &*server.url()), ("timeout=5", &server.url()), (&trust, &wrong_name)] {
            let error = get(&http(parameters).unwrap(), &[url]).unwrap_err();
            assert!(matches!(error, ProviderError::Setup { .. }), "{error}");
            assert!(told(&error).contains("is not trusted"), "{error}");
        }
        // A client certificate that the server does not know.
        let (dir, _, identity) = files(&other, 0o600);
        std::fs::write(dir.path().join("ca"), &authority.pem).unwrap();
        let error = get(&http(&identity).unwrap(), &[&server.url()]).unwrap_err();
        assert!(matches!(error, ProviderError::Refused { .. }), "{}", told(&error));
        assert_eq!(server.calls(), 2);
    }

    #[test]
    fn files_that_are_not_right_are_refused_before_anything_is_sent() {
        let authority = Authority::new();
        let (dir, trust, identity) = files(&authority, 0o640);
        assert!(http(&identity).unwrap_err().to_string().contains("can be used by others"));
        for bad in ["", "no PEM", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
            std::fs::write(dir.path().join("ca"), bad).unwrap();
            assert!(matches!(http(&trust), Err(ProviderError::Setup { .. })), "{bad}");
        }
        let (dir, _, identity) = files(&authority, 0o600);
        let (_, foreign) = authority.issue("client");
        std::fs::write(dir.path().join("key"), foreign.serialize_pem()).unwrap();
        assert!(matches!(http(&identity), Err(ProviderError::Setup { .. })));
        std::fs::write(dir.path().join("key"), "no key").unwrap();
        let error = told(&http(&identity).unwrap_err());
        assert!(!error.contains("no key\n"), "{error}");
    }

    #[test]
    fn a_proxy_is_used_where_one_is_named_and_never_from_the_environment() {
        let proxy =
            Server::new(|call| Reply::text(if call.path == "http://nowhere.invalid/v1/x" { 200 } else { 500 }, ""));
        let through = http(&format!("insecure-plain-http=true&timeout=3&proxy={}", proxy.url())).unwrap();
        assert_eq!(get(&through, &["http://nowhere.invalid"]).unwrap().status, 200);
        assert_eq!(proxy.calls(), 1);
    }

    #[test]
    fn waits_grow_and_differ() {
        for round in 0..ROUNDS {
            let waits: Vec<Duration> = (0..50).map(|_| back_off(round)).collect();
            let bounds = BACK_OFF.0 * 2_u32.pow(round)..=BACK_OFF.1 * 2_u32.pow(round);
            assert!(waits.iter().all(|wait| bounds.contains(wait)) && waits.iter().any(|wait| *wait != waits[0]));
        }
    }
}
