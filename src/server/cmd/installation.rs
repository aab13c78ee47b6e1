//! An installation as operators' verbs see it: configuration, state, tokens, and the audit log that their changes are noted in.
//!
//! A change is made first and recorded after it: a record of what did not happen would be a lie, and what takes rights away must work when
//! nothing can be signed. A change that could not be recorded is told, with an exit code of its own kind ([`Code::Provider`]).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;

use super::{Code, Failure, Result, not_set_up, pin};
use crate::api::signature::SigningKey;
use crate::crypto::secret::Passphrase;
use crate::server::audit::{Audit, Caller, CallerKind, Entry, Parameters};
use crate::server::cli::PinSource;
use crate::server::config::Config;
use crate::server::hsm::{Cluster, HsmError, HsmSettings, KeyId, PinError};
use crate::server::service::HsmSigner;
use crate::server::state::{LogName, SigningKeyRecord, State};

/// Configuration and state; tokens when they are needed.
pub(super) struct Installation {
    pub(super) config: Config,
    pub(super) state: State,
}

/// An installation whose tokens are logged in, and whose log is open.
pub(super) struct Opened {
    pub(super) state: State,
    pub(super) cluster: Arc<Cluster>,
    pub(super) audit: Audit,
    /// The key that signs.
    pub(super) signing: SigningKeyRecord,
}

impl Installation {
    /// Opens the state.
    pub(super) async fn open(config: &Path) -> Result<Self> {
        let config = Config::load(config)?;
        let state = State::open(&config.state.settings().map_err(not_set_up)?).await?;
        Ok(Installation { config, state })
    }

    /// Opens the state, and refuses one that `init` has not made.
    pub(super) async fn open_initialised(config: &Path) -> Result<Self> {
        let installation = Self::open(config).await?;
        match installation.state.signing_key().await? {
            Some(_) => Ok(installation),
            None => Err(uninitialised()),
        }
    }

    /// Logs in to the tokens and opens the log.
    pub(super) async fn log_in(self, source: &PinSource) -> Result<Opened> {
        let Installation { config, state } = self;
        let signing = state.signing_key().await?.ok_or_else(uninitialised)?;
        let cluster = cluster(&config, source)?;
        let signer = HsmSigner::new(Arc::clone(&cluster), KeyId(signing.id), &signing.spki);
        let audit = Audit::start(state.clone(), Arc::new(signer), config.audit.settings());
        Ok(Opened { state, cluster, audit, signing })
    }
}

impl Opened {
    /// Notes a change that was made, in the server's own log.
    pub(super) async fn note(&self, name: &'static str, since: Timestamp, more: &[(&str, String)]) -> Result<()> {
        let recorded = self.audit.record(entry(name, since, more)).await;
        recorded.map(|_| ()).map_err(|error| {
            Failure::new(Code::Provider, "it is done, but the audit log does not have it")
                .because(&error)
                .remedy("write it down by other means; envelopefs-keyserver status and probe tell what is away")
        })
    }
}

/// Where `init` has not been run.
pub(super) fn uninitialised() -> Failure {
    Failure::new(Code::NotAVolume, "the state is not that of an initialised installation").remedy(
        "run envelopefs-keyserver init once; if that was done, state.url names another database (a new one is made where none is)",
    )
}

/// Opens the tokens and logs in.
pub(super) fn cluster(config: &Config, source: &PinSource) -> Result<Arc<Cluster>> {
    // Logging in is done here, so that what a token says of the PIN is this command's error and not a line in a log.
    let settings = HsmSettings { pin: None, ..config.hsm.clone() };
    let cluster = Cluster::open(&settings)?;
    if settings.tokens.iter().any(|token| token.pin.is_none()) {
        let pin = match pin_of(config, source.pin_file.as_deref(), source.pin_fd)? {
            Some(pin) => pin,
            None => pin::asked()?,
        };
        cluster.log_in(pin, false)?;
    }
    Ok(Arc::new(cluster))
}

/// The PIN that options or the configuration name; `None` if neither does.
pub(super) fn pin_of(config: &Config, file: Option<&Path>, fd: Option<i32>) -> Result<Option<Passphrase>> {
    if let Some(pin) = pin::named(file, fd)? {
        return Ok(Some(pin));
    }
    match &config.hsm.pin {
        None => Ok(None),
        Some(reference) => {
            let bytes = reference.read("PIN file").map_err(not_set_up)?;
            Passphrase::read_line_from(&bytes[..]).map(Some).map_err(|error| pin::no_pin(&error))
        }
    }
}

/// The public half of a signing key.
pub(super) fn public(key: &SigningKeyRecord) -> Result<SigningKey> {
    SigningKey::from_spki(&key.spki).map_err(|error| {
        Failure::new(Code::Damaged, "a signing key in the state is damaged")
            .because(&error)
            .remedy("restore the state from a backup")
    })
}

/// An operator's act, in the server's own log.
fn entry(name: &'static str, since: Timestamp, more: &[(&str, String)]) -> Entry {
    let more = more.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    Entry {
        log: LogName::server(),
        account_id: "-".into(),
        name,
        parameters: Parameters { more, ..Parameters::default() },
        caller: Caller {
            kind: CallerKind::Operator,
            id: operator(),
            ip: "-".into(),
            identity: None,
            attestation_sha256: None,
        },
        op_start: since,
        op_end: Timestamp::now(),
        result: Ok(()),
        request_id: uuid::Uuid::new_v4().to_string(),
        context: None,
    }
}

/// Who runs this command: the user whose rights it has, and whoever logged in (proc(5), `loginuid`) if that is another.
fn operator() -> String {
    let user = rustix::process::geteuid().as_raw();
    let login = std::fs::read_to_string("/proc/self/loginuid").ok().and_then(|text| text.trim().parse::<u32>().ok());
    match login.filter(|login| *login != u32::MAX && *login != user) {
        Some(login) => format!("uid {user}, logged in as uid {login}"),
        None => format!("uid {user}"),
    }
}

/// Writes a new file of this mode, durably; never over another.
pub(super) fn write_new(what: &str, path: &Path, mode: u32, bytes: &[u8]) -> Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let written =
        std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path).and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        });
    written.map_err(|error| cannot_write(what, path, &error))
}

/// Makes sure that a file can be made before something is done that it is to tell of.
pub(super) fn check_new(what: &str, path: &Path) -> Result<()> {
    if path.symlink_metadata().is_ok() {
        let error = std::io::Error::from(std::io::ErrorKind::AlreadyExists);
        return Err(cannot_write(what, path, &error));
    }
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    rustix::fs::access(&directory, rustix::fs::Access::WRITE_OK)
        .map_err(|error| cannot_write(what, path, &std::io::Error::from(error)))
}

fn cannot_write(what: &str, path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(Code::Failure, format!("cannot write the {what} {}", path.display()))
        .because(error)
        .remedy("name a file that is not there yet, in a directory that you may write")
}

impl From<HsmError> for Failure {
    fn from(error: HsmError) -> Self {
        let remedy = match &error {
            HsmError::NoPin => "name the PIN: --pin-file, --pin-fd, or hsm.pin in the configuration",
            HsmError::Unavailable(_) => {
                "look whether the token can be reached, and what envelopefs-keyserver probe says"
            }
            HsmError::NoSuchKey(_) => {
                "look whether every token of hsm.token holds the installation's keys: replicas have to be made by the vendor's means"
            }
            HsmError::WrongContext | HsmError::RsaKey => {
                "restore the state from a backup, or name the state that belongs to these tokens"
            }
            HsmError::Setup { remedy, .. } => remedy,
        };
        let code = if matches!(error, HsmError::WrongContext) { Code::Damaged } else { Code::Provider };
        Failure::new(code, error.to_string()).caused(&error).remedy(remedy)
    }
}

impl From<PinError> for Failure {
    fn from(error: PinError) -> Self {
        let (code, remedy) = match &error {
            PinError::Refused => {
                (Code::WrongKey, "look at the PIN before the next try: tokens count wrong ones and lock")
            }
            PinError::Withheld(_) => {
                (Code::WrongKey, "look at the token with its vendor's tool; a right PIN there clears the count")
            }
            PinError::Unreachable(HsmError::Setup { remedy, .. })
            | PinError::Unusable(HsmError::Setup { remedy, .. }) => (Code::Provider, *remedy),
            PinError::Present | PinError::Unreachable(_) | PinError::Unusable(_) => {
                (Code::Provider, "look whether the tokens of hsm.token are there, and at what lies behind this")
            }
        };
        Failure::new(code, error.to_string()).caused(&error).remedy(remedy)
    }
}
