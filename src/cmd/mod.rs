//! The verbs of the command, a file each: they compose the rooms, speak with the user and map errors to exit codes.

#[cfg(feature = "sev-snp")]
mod attest;
mod audit;
mod check;
mod credentials;
mod generate;
mod headers;
mod import;
mod info;
mod init;
mod key;
#[cfg(feature = "hsm-api")]
mod key_server;
mod life;
mod log;
mod mount;
mod options;
mod probe;
mod recovery;
mod umount;

use std::fmt;
use std::process::ExitCode;

use crate::cli::{Audit, Cli, Command, Key};
use crate::fs::FsError;
use crate::keys::ProviderError;
use crate::keys::key_file::KeyFileError;
use crate::store::StoreError;
use crate::volume::VolumeError;

/// Exit codes; scripts rely on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Code {
    /// Any failure that has no code of its own.
    Failure = 1,
    /// Wrong usage, which the parser also reports with this code.
    Usage = 2,
    /// No key slot opens with the credentials given.
    WrongKey = 3,
    /// Something stored is not what was written.
    Damaged = 4,
    /// In use by another process.
    InUse = 5,
    /// Not a volume, or no place for one.
    NotAVolume = 6,
    /// A format or feature of a later version.
    Unsupported = 7,
    /// Mounting or unmounting failed.
    Mount = 8,
    /// A key provider cannot be reached, refuses, or is not set up.
    Provider = 9,
    /// An attestation report is not genuine or not what was demanded.
    Attestation = 10,
}

/// Why a verb failed: fact, cause, remedy, and the exit code.
#[derive(Debug)]
struct Failure {
    code: Code,
    fact: String,
    causes: Vec<String>,
    remedy: Option<String>,
}

type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    fn new(code: Code, fact: impl Into<String>) -> Self {
        Failure { code, fact: fact.into(), causes: Vec::new(), remedy: None }
    }

    /// Adds what lies behind it.
    fn because(mut self, error: &dyn std::error::Error) -> Self {
        self.causes.push(error.to_string());
        self.causes.extend(sources(error));
        self
    }

    fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "envelopefs: {}", self.fact)?;
        for cause in &self.causes {
            write!(f, "\n  cause: {}", cause.trim_end())?;
        }
        if let Some(remedy) = &self.remedy {
            write!(f, "\n  remedy: {remedy}")?;
        }
        Ok(())
    }
}

/// The texts of the errors behind an error.
fn sources(error: &dyn std::error::Error) -> Vec<String> {
    std::iter::successors(error.source(), |error| error.source()).map(ToString::to_string).collect()
}

impl From<VolumeError> for Failure {
    fn from(error: VolumeError) -> Self {
        let code = match &error {
            VolumeError::NoSlotFor { .. }
            | VolumeError::NoneOpens { .. }
            | VolumeError::StillLocked(_)
            | VolumeError::SlotsLeft { .. } => Code::WrongKey,
            VolumeError::WrongKind { .. }
            | VolumeError::TooLarge(_)
            | VolumeError::Malformed(_)
            | VolumeError::BrokenSlot { .. }
            | VolumeError::ForeignKey { .. }
            | VolumeError::Changed { .. }
            | VolumeError::VolumeKey => Code::Damaged,
            VolumeError::InUse { .. } | VolumeError::Raced => Code::InUse,
            VolumeError::NotAVolume(_) | VolumeError::AlreadyAVolume(_) | VolumeError::NotEmpty { .. } => {
                Code::NotAVolume
            }
            VolumeError::UnknownFormat(_) | VolumeError::UnknownFeature(_) => Code::Unsupported,
            VolumeError::CannotWrap(_) | VolumeError::Provider { .. } => Code::Provider,
            VolumeError::Io { .. }
            | VolumeError::OtherVolume { .. }
            | VolumeError::LastSlot { .. }
            | VolumeError::NoSuchVersion(_)
            | VolumeError::Active(_)
            | VolumeError::Destroyed(_)
            | VolumeError::NoSuchSlot(_) => Code::Failure,
        };
        Failure { code, fact: error.to_string(), causes: sources(&error), remedy: error.remedy() }
    }
}

impl From<KeyFileError> for Failure {
    fn from(error: KeyFileError) -> Self {
        Failure { code: Code::Failure, fact: error.to_string(), causes: sources(&error), remedy: error.remedy() }
    }
}

impl From<ProviderError> for Failure {
    fn from(error: ProviderError) -> Self {
        let code = if matches!(error, ProviderError::Spec(_)) { Code::Usage } else { Code::Provider };
        Failure { code, fact: error.to_string(), causes: sources(&error), remedy: error.remedy() }
    }
}

impl From<FsError> for Failure {
    fn from(error: FsError) -> Self {
        let remedy = match &error {
            FsError::Store(StoreError::NeedsRecovery) => {
                return Failure::new(Code::Mount, "the volume must be recovered first")
                    .because(&error)
                    .remedy("mount it once without `ro`, which replays the journal");
            }
            FsError::Store(StoreError::Foreign(_)) => Some(
                "put the right journal back, or remove .envelopefs/journal and with it the last changes before the unclean stop",
            ),
            _ => None,
        };
        let code = if error.is_fault() { Code::Damaged } else { Code::Failure };
        let failure = Failure::new(code, "the volume cannot be read").because(&error);
        remedy.into_iter().fold(failure, Failure::remedy)
    }
}

/// Runs a parsed command to its end.
pub fn run(cli: Cli) -> ExitCode {
    let outcome = match cli.command {
        Command::Init(args) => init::run(args),
        Command::Mount(args) => mount::run(args),
        Command::Umount(args) => umount::run(args),
        Command::Info(args) => info::run(args),
        Command::Check(args) => check::run(args),
        Command::Key(Key::List(args)) => key::list(args),
        Command::Key(Key::Add(args)) => key::add(args),
        Command::Key(Key::Remove(args)) => key::remove(args),
        Command::Key(Key::Rotate(args)) => life::rotate(args),
        Command::Key(Key::Status(args)) => life::status(args),
        Command::Key(Key::Retire(args)) => life::retire(args),
        Command::Key(Key::Destroy(args)) => life::destroy(args),
        Command::Key(Key::Rebind(args)) => life::rebind(args),
        Command::Key(Key::Probe(args)) => probe::run(args),
        #[cfg(feature = "hsm-api")]
        Command::Takeover(args) => key_server::takeover(args),
        #[cfg(feature = "hsm-api")]
        Command::CheckServerKey(args) => key_server::check_server_key(args),
        Command::Import(args) => import::run(args),
        Command::Audit(Audit::Verify(args)) => audit::verify(args),
        Command::Audit(Audit::Show(args)) => audit::show(args),
        Command::Recover(args) => recovery::run(args),
        #[cfg(feature = "sev-snp")]
        Command::Attest(args) => attest::run(args),
        Command::Generate(args) => generate::run(args),
    };
    match outcome {
        Ok(code) => code,
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::from(failure.code as u8)
        }
    }
}

/// Keeps what this process will know to itself, or refuses to go on.
fn harden() -> Result<()> {
    let hardened = crate::sys::memory::harden_process()
        .map_err(|error| Failure::new(Code::Failure, "cannot protect the memory of this process").because(&error))?;
    tracing::debug!(all_memory_locked = hardened.all_memory_locked, "process hardened");
    Ok(())
}
