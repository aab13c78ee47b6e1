//! The verbs of the command, a file each: they compose the rooms, speak with the user and map errors to exit codes.

#[cfg(feature = "sev-snp")]
mod attest;
mod audit;
mod check;
mod credentials;
pub(crate) mod failure;
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

pub use failure::Code;
use failure::{Failure, Result, sources};

use crate::cli::{Audit, Cli, Command, Key};
use crate::fs::FsError;
use crate::keys::ProviderError;
use crate::keys::key_file::KeyFileError;
use crate::store::StoreError;
use crate::sys::process::Exit;
use crate::volume::VolumeError;

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
pub fn run(cli: Cli) -> Exit {
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
    outcome.unwrap_or_else(|failure| failure.report("envelopefs"))
}

/// Keeps what this process will know to itself, or refuses to go on.
fn harden() -> Result<()> {
    let hardened = crate::sys::memory::harden_process()
        .map_err(|error| Failure::new(Code::Failure, "cannot protect the memory of this process").because(&error))?;
    tracing::debug!(all_memory_locked = hardened.all_memory_locked, "process hardened");
    Ok(())
}
