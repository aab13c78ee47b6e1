//! Where AWS credentials come from: the places that AWS's own tools look into, in their order.
//!
//! 1. The environment: `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`.
//! 2. Web identity: `AWS_ROLE_ARN` and `AWS_WEB_IDENTITY_TOKEN_FILE`, exchanged at STS (EKS service accounts).
//! 3. The shared files, `~/.aws/credentials` and `~/.aws/config`: keys of a profile, or its role with a web identity token.
//! 4. The container's endpoint: `AWS_CONTAINER_CREDENTIALS_FULL_URI` or `…_RELATIVE_URI` (ECS, EKS pod identity).
//! 5. The instance's metadata service, version 2 alone: version 1 gives keys to whoever can make a process fetch an address.
//!
//! A profile or a credentials file that is named by the provider's specification is the only place then. A place that is configured
//! and fails is an error; the next one is not tried, for that could be another identity.
//!
//! Secrets stand in the environment here because that is how AWS's tools hand them over; they are AWS's, not ours, and end with their
//! session. References: AWS SDKs and Tools Reference Guide, "Standardized credential providers"; Amazon EC2 User Guide, "Use the
//! Instance Metadata Service".

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use parking_lot::Mutex;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::ProviderError;
use super::http::{Answer, Deadline, Endpoint, Http, HttpOptions, Request, printable};
use super::secret_file::{self, Access};

/// Largest shared file, in bytes.
const MAX_FILE: usize = 256 << 10;
/// Credentials that end within this time are replaced.
const MARGIN: Duration = Duration::from_secs(5 * 60);
/// For a service on this machine: it answers at once or is not there.
const LOCAL_TIMEOUT: Duration = Duration::from_secs(3);
/// The metadata service (EC2 User Guide).
const IMDS: &str = "http://169.254.169.254";
/// The container endpoint (ECS Developer Guide, "task IAM role").
const ECS: &str = "http://169.254.170.2";
/// Hosts that may be asked for credentials over plain HTTP: this machine, ECS and EKS agents (AWS SDKs and Tools Reference Guide, "Container
/// credential provider").
const PLAIN_HOSTS: [&str; 6] = ["127.0.0.1", "localhost", "[::1]", "169.254.170.2", "169.254.170.23", "[fd00:ec2::23]"];

/// The environment of this process; of a test, another.
#[derive(Clone)]
pub(super) struct Environment(Arc<Variables>);

type Variables = dyn Fn(&str) -> Option<String> + Send + Sync;

impl Environment {
    /// This process's.
    pub(super) fn of_process() -> Self {
        Environment(Arc::new(|name| std::env::var(name).ok()))
    }

    #[cfg(test)]
    pub(super) fn of(variables: &[(&str, &str)]) -> Self {
        let variables: BTreeMap<String, String> =
            variables.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        Environment(Arc::new(move |name| variables.get(name).cloned()))
    }

    /// A variable that is there and not empty.
    pub(super) fn get(&self, name: &str) -> Option<String> {
        (self.0)(name).filter(|value| !value.is_empty())
    }
}

/// Where to look.
pub(super) struct Places {
    /// `profile` of the provider's specification.
    pub(super) profile: Option<String>,
    /// `credentials-file` of the provider's specification.
    pub(super) credentials_file: Option<PathBuf>,
    /// Everywhere else.
    pub(super) environment: Environment,
}

impl Places {
    /// The region that environment or profile name.
    pub(super) fn region(&self) -> Option<String> {
        let named = || self.environment.get("AWS_REGION").or_else(|| self.environment.get("AWS_DEFAULT_REGION"));
        let from_profile = || self.profile().ok()?.get("region").map(|region| region.to_string());
        match self.is_pinned() {
            true => from_profile().or_else(named),
            false => named().or_else(from_profile),
        }
    }

    fn is_pinned(&self) -> bool {
        self.profile.is_some() || self.credentials_file.is_some()
    }

    fn profile_name(&self) -> String {
        let named = self.profile.clone().or_else(|| self.environment.get("AWS_PROFILE"));
        named.unwrap_or_else(|| "default".into())
    }

    /// What the shared files say about the profile; nothing if there are none.
    fn profile(&self) -> Result<Profile, ProviderError> {
        let name = self.profile_name();
        let at_home = |file: &str| Some(PathBuf::from(self.environment.get("HOME")?).join(".aws").join(file));
        let from_environment = |name| self.environment.get(name).map(PathBuf::from);
        let credentials = match &self.credentials_file {
            Some(path) => Some(path.clone()),
            None => from_environment("AWS_SHARED_CREDENTIALS_FILE").or_else(|| at_home("credentials")),
        };
        let config = from_environment("AWS_CONFIG_FILE").or_else(|| at_home("config"));

        let mut profile = Profile::default();
        let section = if name == "default" { name.clone() } else { format!("profile {name}") };
        let mut found = false;
        if let Some(path) = config.filter(|path| self.credentials_file.is_none() && path.exists()) {
            let text = secret_file::read("AWS configuration file", &path, MAX_FILE, Access::AsMounted)?;
            found |= read_section(&text, &section, &mut profile);
        }
        // Read last, because it counts more (SDKs and Tools Reference Guide, "Shared config and credentials files").
        let must_exist = self.credentials_file.is_some();
        if let Some(path) = credentials.filter(|path| must_exist || path.exists()) {
            let text = secret_file::read("AWS credentials file", &path, MAX_FILE, Access::Owner)?;
            found |= read_section(&text, &name, &mut profile);
        }
        let asked = self.is_pinned() || self.environment.get("AWS_PROFILE").is_some();
        match found || !asked {
            true => Ok(profile),
            false => Err(setup(
                format!("there is no AWS profile {name:?}"),
                "check the name, and HOME, AWS_CONFIG_FILE and AWS_SHARED_CREDENTIALS_FILE, or name the file: credentials-file=PATH",
            )),
        }
    }
}

/// The source of credentials; it keeps them until they end.
pub(super) struct CredentialSource {
    places: Places,
    /// For STS: trust and time-outs as for the KMS itself.
    sts: Http,
    sts_endpoint: Endpoint,
    cached: Mutex<Option<Credentials>>,
}

impl CredentialSource {
    pub(super) fn new(places: Places, sts: Http, sts_endpoint: Endpoint) -> Self {
        CredentialSource { places, sts, sts_endpoint, cached: Mutex::new(None) }
    }

    /// The credentials, fetched anew where they are about to end. Others wait meanwhile.
    ///
    /// # Errors
    /// [`ProviderError`].
    pub(super) fn get(&self, deadline: Deadline) -> Result<Credentials, ProviderError> {
        let mut cached = self.cached.lock();
        let lasts =
            |credentials: &Credentials, margin| credentials.expiry().is_none_or(|end| end > SystemTime::now() + margin);
        if let Some(credentials) = cached.as_ref().filter(|credentials| lasts(credentials, MARGIN)) {
            return Ok(credentials.clone());
        }
        match self.fetch(deadline) {
            Ok(credentials) => {
                *cached = Some(credentials.clone());
                Ok(credentials)
            }
            // The old ones are good for a little longer.
            Err(error) => match cached.as_ref().filter(|credentials| lasts(credentials, Duration::ZERO)) {
                Some(credentials) => {
                    tracing::warn!(%error, "AWS credentials cannot be renewed and end soon");
                    Ok(credentials.clone())
                }
                None => Err(error),
            },
        }
    }

    /// Forgets credentials that were refused as ended.
    pub(super) fn forget(&self) {
        *self.cached.lock() = None;
    }

    fn fetch(&self, deadline: Deadline) -> Result<Credentials, ProviderError> {
        let get = |name| self.places.environment.get(name);
        if self.places.is_pinned() {
            let profile = self.places.profile()?;
            return self.profile_credentials(&profile, deadline)?.ok_or_else(|| {
                setup(
                    format!("the AWS profile {:?} has no credentials", self.places.profile_name()),
                    "give it aws_access_key_id and aws_secret_access_key, or role_arn and web_identity_token_file",
                )
            });
        }
        if let (Some(id), Some(secret)) = (get("AWS_ACCESS_KEY_ID"), get("AWS_SECRET_ACCESS_KEY")) {
            return Ok(Credentials::new(id, secret, get("AWS_SESSION_TOKEN"), None, "environment"));
        }
        if let (Some(role), Some(file)) = (get("AWS_ROLE_ARN"), get("AWS_WEB_IDENTITY_TOKEN_FILE")) {
            return self.web_identity(&role, get("AWS_ROLE_SESSION_NAME"), Path::new(&file), deadline);
        }
        let profile = self.places.profile()?;
        if let Some(credentials) = self.profile_credentials(&profile, deadline)? {
            return Ok(credentials);
        }
        if let Some(uri) = get("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI") {
            return self.container(&format!("{ECS}{uri}"), deadline);
        }
        if let Some(uri) = get("AWS_CONTAINER_CREDENTIALS_FULL_URI") {
            return self.container(&uri, deadline);
        }
        if get("AWS_EC2_METADATA_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            return Err(nowhere(None));
        }
        let base = get("AWS_EC2_METADATA_SERVICE_ENDPOINT").unwrap_or_else(|| IMDS.into());
        instance(base.trim_end_matches('/'), deadline)
    }

    fn profile_credentials(&self, profile: &Profile, deadline: Deadline) -> Result<Option<Credentials>, ProviderError> {
        let get = |name: &str| profile.get(name).map(|value| value.to_string());
        if let (Some(id), Some(secret)) = (get("aws_access_key_id"), get("aws_secret_access_key")) {
            return Ok(Some(Credentials::new(id, secret, get("aws_session_token"), None, "profile")));
        }
        if let (Some(role), Some(file)) = (get("role_arn"), get("web_identity_token_file")) {
            return self.web_identity(&role, get("role_session_name"), Path::new(&file), deadline).map(Some);
        }
        // Not passed over in silence: what comes next would be somebody else.
        let unknown = ["role_arn", "credential_process", "sso_session", "sso_start_url", "login_session"];
        match unknown.into_iter().find(|name| profile.contains_key(*name)) {
            None => Ok(None),
            Some(name) => Err(setup(
                format!(
                    "the AWS profile {:?} gets its credentials by {name}, which is not supported here",
                    self.places.profile_name()
                ),
                "let `aws configure export-credentials` put them into the environment, or use a profile with keys or a web identity",
            )),
        }
    }

    /// STS AssumeRoleWithWebIdentity (AWS Security Token Service API Reference): the one call that needs no signature.
    fn web_identity(
        &self,
        role: &str,
        session: Option<String>,
        file: &Path,
        deadline: Deadline,
    ) -> Result<Credentials, ProviderError> {
        // Read each time: the cluster replaces it.
        let token = secret_file::read_word("web identity token file", file, Access::AsMounted)?;
        let session = session.unwrap_or_else(|| "envelopefs".into());
        let escape = |text: &str| Zeroizing::new(utf8_percent_encode(text, NON_ALPHANUMERIC).to_string());
        let form = Zeroizing::new(format!(
            "Action=AssumeRoleWithWebIdentity&Version=2011-06-15&RoleArn={}&RoleSessionName={}&WebIdentityToken={}",
            *escape(role),
            *escape(&session),
            *escape(&token)
        ));
        let transient = |answer: &Answer| {
            let code =
                answer.status < 500 && element(answer, "Code").is_some_and(|code| *code == "IDPCommunicationError");
            answer.status >= 500 || code
        };
        let endpoints = std::slice::from_ref(&self.sts_endpoint);
        let answer = self.sts.exchange(deadline, endpoints, transient, |to| {
            let body = Zeroizing::new(form.as_bytes().to_vec());
            Ok(Request::post(to.join("")).body("application/x-www-form-urlencoded", body))
        })?;
        if !answer.is_success() {
            let code = element(&answer, "Code").map_or_else(|| answer.status.to_string(), |code| code.to_string());
            return match answer.status {
                500.. => Err(self.sts.unreachable(code)),
                _ => Err(self.sts.refused(
                    format!("AssumeRoleWithWebIdentity for {role}: {}", printable(&code)),
                    "check that the role trusts the cluster's identity provider and this service account, and that the token has not ended",
                )),
            };
        }
        let part = |name| element(&answer, name).ok_or_else(|| self.sts.answer(format!("it has no {name}")));
        let end = part("Expiration")?.parse::<jiff::Timestamp>();
        let end = end.map_err(|_| self.sts.answer("its Expiration is no time"))?;
        Ok(Credentials::new(
            part("AccessKeyId")?.to_string(),
            part("SecretAccessKey")?.to_string(),
            Some(part("SessionToken")?.to_string()),
            Some(end.into()),
            "web identity",
        ))
    }

    /// The endpoint of ECS or EKS (SDKs and Tools Reference Guide, "Container credential provider").
    fn container(&self, uri: &str, deadline: Deadline) -> Result<Credentials, ProviderError> {
        let secure = uri.starts_with("https://");
        let http = Http::new("the container's credential endpoint", local(!secure))?;
        let endpoint = http.endpoint(uri)?;
        if !secure && !PLAIN_HOSTS.contains(&endpoint.host()) {
            return Err(setup(
                format!("AWS_CONTAINER_CREDENTIALS_FULL_URI names the host {:?} without TLS", endpoint.host()),
                "plain HTTP is for this machine and the agents of ECS and EKS alone: use an https:// address",
            ));
        }
        let file = self.places.environment.get("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE");
        let token = match file {
            // Read each time: the agent replaces it.
            Some(file) => {
                Some(secret_file::read_word("container authorization token file", Path::new(&file), Access::AsMounted)?)
            }
            None => self.places.environment.get("AWS_CONTAINER_AUTHORIZATION_TOKEN").map(Zeroizing::new),
        };
        let answer = http.exchange(
            deadline.within(LOCAL_TIMEOUT),
            &[endpoint],
            |answer| answer.status >= 500,
            |_| {
                let request = Request::get(uri.into());
                Ok(match &token {
                    Some(token) => request.header("Authorization", token.as_str()),
                    None => request,
                })
            },
        )?;
        from_document(&http, &answer, "container")
    }
}

/// Credentials of the instance's role from its metadata service, with a session token (IMDSv2).
fn instance(base: &str, deadline: Deadline) -> Result<Credentials, ProviderError> {
    let http = Http::new("the instance metadata service", local(true))?;
    let endpoint = http.endpoint(base)?;
    let deadline = deadline.within(LOCAL_TIMEOUT);
    let endpoints = std::slice::from_ref(&endpoint);
    let fetch = |request: &dyn Fn(&Endpoint) -> Request| {
        http.exchange(deadline, endpoints, |answer| answer.status >= 500, |to| Ok(request(to)))
    };
    let token = fetch(&|to| {
        let request = Request::new("PUT", to.join("latest/api/token"));
        request.header("X-aws-ec2-metadata-token-ttl-seconds", "300")
    });
    // Nothing there is the usual case outside EC2.
    let token = token.map_err(|error| nowhere(Some(error)))?;
    let token_text = std::str::from_utf8(&token.body).ok().filter(|text| !text.is_empty());
    let (true, Some(token)) = (token.is_success(), token_text) else {
        return Err(http.refused(
            format!("it gives no session token (status {})", token.status),
            "enable the metadata service and its version 2; version 1 is never used",
        ));
    };
    let base = "latest/meta-data/iam/security-credentials/";
    let get = |path: String| fetch(&|to| Request::get(to.join(&path)).header("X-aws-ec2-metadata-token", token));
    let roles = get(base.into())?;
    let role = std::str::from_utf8(&roles.body).ok().and_then(|text| text.lines().next()).unwrap_or_default();
    let plain = |c: char| c.is_ascii_alphanumeric() || "+=,.@_-".contains(c);
    if !roles.is_success() || role.is_empty() || !role.chars().all(plain) {
        return Err(http.refused(
            format!("it names no role (status {})", roles.status),
            "attach an instance profile with a role to the instance",
        ));
    }
    from_document(&http, &get(format!("{base}{role}"))?, "instance")
}

/// Options for a service on this machine.
fn local(plain: bool) -> HttpOptions {
    HttpOptions { plain, timeout: LOCAL_TIMEOUT, connect_timeout: Duration::from_secs(1), ..HttpOptions::default() }
}

/// The document that container endpoint and metadata service give.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Document {
    access_key_id: String,
    secret_access_key: String,
    token: Option<String>,
    expiration: Option<jiff::Timestamp>,
}

fn from_document(http: &Http, answer: &Answer, name: &'static str) -> Result<Credentials, ProviderError> {
    if !answer.is_success() {
        let remedy = "check that the task, pod or instance has a role, and the authorization token";
        return Err(http.refused(format!("it gives no credentials (status {})", answer.status), remedy));
    }
    let document: Document = answer.json().ok_or_else(|| http.answer("it is no credentials document"))?;
    let end = document.expiration.map(SystemTime::from);
    Ok(Credentials::new(document.access_key_id, document.secret_access_key, document.token, end, name))
}

fn setup(fact: String, remedy: &'static str) -> ProviderError {
    ProviderError::Setup { fact, remedy, source: None }
}

/// No place has any.
fn nowhere(source: Option<ProviderError>) -> ProviderError {
    ProviderError::Setup {
        fact: "there are no AWS credentials: none in the environment, no web identity, no profile with any, no container endpoint, no \
               instance metadata service that answers"
            .into(),
        remedy: "name a profile (profile=NAME) or a file (credentials-file=PATH), or give the machine a role; in a container on EC2 raise \
                 the hop limit: aws ec2 modify-instance-metadata-options --http-put-response-hop-limit 2",
        source: source.map(Into::into),
    }
}

/// Names and values of one profile.
type Profile = BTreeMap<String, Zeroizing<String>>;

/// Adds what a shared file says under `[section]`; whether the section is there at all. Indented lines belong to a nested setting and are
/// passed over.
fn read_section(text: &[u8], section: &str, profile: &mut Profile) -> bool {
    let (mut inside, mut found) = (false, false);
    for line in String::from_utf8_lossy(text).lines() {
        if let Some(header) = line.trim().strip_prefix('[') {
            let name = header.split(']').next().unwrap_or_default();
            // Any white space may stand in `[profile  name]`.
            inside = name.split_whitespace().eq(section.split_whitespace());
            found |= inside;
        } else if inside
            && !line.starts_with(['#', ';', ' ', '\t'])
            && let Some((name, value)) = line.split_once('=')
        {
            profile.insert(name.trim().to_ascii_lowercase(), Zeroizing::new(value.trim().into()));
        }
    }
    found
}

/// The text of the first XML element of a name. STS and IAM answer in XML of which only elements with plain text matter here: keys,
/// tokens, times and error codes, none of which has entities.
pub(super) fn element(answer: &Answer, name: &str) -> Option<Zeroizing<String>> {
    let text = std::str::from_utf8(&answer.body).ok()?;
    let (_, rest) = text.split_once(&format!("<{name}>"))?;
    let (value, _) = rest.split_once(&format!("</{name}>"))?;
    let value = value.trim();
    let plain = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_graphic() && !b"<&".contains(&byte));
    plain.then(|| Zeroizing::new(value.to_owned()))
}
