//! From options to key providers: files are read and passphrases asked for here, and go nowhere else.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use zeroize::Zeroizing;

use super::{Code, Failure, Result};
use crate::cli::{Argon, Credentials, NewSlot};
use crate::crypto::kdf::ArgonCost;
use crate::crypto::secret::{NoPassphrase, Passphrase};
use crate::keys::{
    self, AllOf, KeyFile, KeyProvider, PassphraseProvider, ProviderError, ProviderSpec, RecoveryKey, SpecError, all_of,
    passphrase, recovery,
};
use crate::sys::process::inherited_fd;

/// The providers that the options name; a passphrase asked for on the terminal if they name none.
pub(super) fn existing(options: &Credentials) -> Result<Vec<Box<dyn KeyProvider>>> {
    let mut providers: Vec<Box<dyn KeyProvider>> = Vec::new();
    for path in &options.key_file {
        providers.push(Box::new(KeyFile::read(path)?));
    }
    for path in &options.passphrase_file {
        providers.push(Box::new(PassphraseProvider::new(passphrase_file(path)?)));
    }
    if let Some(number) = options.passphrase_fd {
        providers.push(Box::new(PassphraseProvider::new(passphrase_fd(number)?)));
    }
    for spec in &options.provider {
        providers.push(by_spec(parse(spec)?, &PassphraseProvider::new)?);
    }
    if providers.is_empty() {
        providers.push(Box::new(PassphraseProvider::new(ask("Passphrase: ")?)));
    }
    Ok(providers)
}

/// Where the credential of a new slot comes from.
pub(super) enum NewCredential<'a> {
    KeyFile { path: &'a Path, make: bool },
    PassphraseFile(&'a Path),
    PassphraseFd(i32),
    Provider(&'a str),
    Ask,
}

/// The provider for a new slot; a passphrase is asked for twice.
pub(super) fn new(credential: &NewCredential<'_>, argon: &Argon) -> Result<Box<dyn KeyProvider>> {
    let passphrase = match *credential {
        NewCredential::KeyFile { path, make: true } => return Ok(Box::new(KeyFile::create(path)?)),
        NewCredential::KeyFile { path, make: false } => return Ok(Box::new(KeyFile::read(path)?)),
        NewCredential::PassphraseFile(path) => passphrase_file(path)?,
        NewCredential::PassphraseFd(number) => passphrase_fd(number)?,
        NewCredential::Provider(spec) => {
            let cost = cost(argon)?;
            return by_spec(parse(spec)?, &|passphrase| PassphraseProvider::with_cost(passphrase, cost));
        }
        NewCredential::Ask => ask_twice()?,
    };
    Ok(Box::new(PassphraseProvider::with_cost(passphrase, cost(argon)?)))
}

/// The provider for the slot that `key add` and its like make.
pub(super) fn new_slot(options: &NewSlot) -> Result<Box<dyn KeyProvider>> {
    let files = (&options.new_key_file, &options.new_passphrase_file);
    let credential = match (files, options.new_passphrase_fd, &options.new_provider) {
        ((Some(path), _), ..) => NewCredential::KeyFile { path, make: options.make_key_file },
        ((None, Some(path)), ..) => NewCredential::PassphraseFile(path),
        ((None, None), Some(number), _) => NewCredential::PassphraseFd(number),
        ((None, None), None, Some(spec)) => NewCredential::Provider(spec),
        ((None, None), None, None) => NewCredential::Ask,
    };
    new(&credential, &options.argon)
}

/// A volume whose every slot would be lost with the machine.
pub(super) fn no_recovery() -> Failure {
    Failure::new(Code::Usage, "every key slot would be bound to this machine: another chip, image or firmware, and the data is lost")
        .remedy("give a second credential of another kind as well (--key-file, --passphrase-file, another --provider), or insist with --insecure-no-recovery-slot")
}

fn parse(spec: &str) -> Result<ProviderSpec> {
    Ok(spec.parse().map_err(ProviderError::from)?)
}

/// The provider that a specification names. Those that need a secret from here are opened here: a passphrase is asked for unless the
/// specification says where it is.
fn by_spec(mut spec: ProviderSpec, hash: &dyn Fn(Passphrase) -> PassphraseProvider) -> Result<Box<dyn KeyProvider>> {
    match spec.kind.as_str() {
        passphrase::KIND => {
            let (file, fd) = (spec.take_path("file"), spec.take_number("fd").map_err(ProviderError::from)?);
            let passphrase = match (file, fd) {
                (Some(path), _) => passphrase_file(&path)?,
                (None, Some(number)) => passphrase_fd(number)?,
                (None, None) => ask("Passphrase: ")?,
            };
            finish(spec)?;
            Ok(Box::new(hash(passphrase)))
        }
        recovery::KIND => {
            let files = RecoveryKey::take_files(&mut spec).map_err(ProviderError::from)?;
            let fd = spec.take_number("fd").map_err(ProviderError::from)?;
            finish(spec)?;
            Ok(Box::new(match (files.as_slice(), fd) {
                ([], Some(number)) => super::recovery::from_fd(number)?,
                ([], None) => super::recovery::ask()?,
                (files, _) => RecoveryKey::read(files)?,
            }))
        }
        // Its parts may need something from here too.
        all_of::KIND => Ok(Box::new(AllOf::open(spec, |part| by_spec(part, hash))?)),
        _ => Ok(keys::open(spec)?),
    }
}

/// Refuses a target and what was not taken.
fn finish(spec: ProviderSpec) -> Result<()> {
    let unwanted = (!spec.target.is_empty()).then(|| SpecError::Value { name: "target".into(), expected: "empty" });
    Ok(unwanted.map_or_else(|| spec.finish(), Err).map_err(ProviderError::from)?)
}

fn cost(argon: &Argon) -> Result<ArgonCost> {
    let memory_kib = argon.argon2_memory.saturating_mul(1024);
    ArgonCost::new(memory_kib, argon.argon2_passes, argon.argon2_lanes)
        .map_err(|error| Failure::new(Code::Usage, "the Argon2id costs are refused").because(&error))
}

/// Reads a passphrase file. It is a key like a key file: nobody but its owner may have rights to it.
fn passphrase_file(path: &Path) -> Result<Passphrase> {
    let shown = path.display();
    let fail = |error: std::io::Error| {
        Failure::new(Code::Failure, format!("cannot read the passphrase file {shown}")).because(&error)
    };
    // NONBLOCK: a FIFO in its place must not hang the command.
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path).map_err(fail)?;
    let metadata = file.metadata().map_err(fail)?;
    let user = rustix::process::geteuid().as_raw();
    if !metadata.is_file() {
        return Err(Failure::new(Code::Failure, format!("the passphrase file {shown} is not a regular file")));
    }
    if metadata.mode() & 0o077 != 0 || (metadata.uid() != user && metadata.uid() != 0) {
        let fact = format!("the permissions of the passphrase file {shown} let others than its owner use it");
        return Err(Failure::new(Code::Failure, fact).remedy(format!("chown it to yourself and chmod 600 {shown}")));
    }
    Passphrase::read_line_from(file).map_err(|error| no_passphrase(&error))
}

fn passphrase_fd(number: i32) -> Result<Passphrase> {
    let fd = descriptor("--passphrase-fd", number)?;
    Passphrase::read_line_from(File::from(fd)).map_err(|error| no_passphrase(&error))
}

/// A descriptor that the caller left open; `option` named it.
pub(super) fn descriptor(option: &str, number: i32) -> Result<OwnedFd> {
    // The standard input stays open: its number must not go to something else, the FUSE device say.
    let fd = if number == 0 { std::io::stdin().as_fd().try_clone_to_owned() } else { inherited_fd(number) };
    fd.map_err(|error| {
        Failure::new(Code::Usage, format!("{option} {number}: there is no such open file")).because(&error)
    })
}

fn no_passphrase(error: &NoPassphrase) -> Failure {
    Failure::new(Code::Failure, "there is no usable passphrase").because(error)
}

fn ask(prompt: &str) -> Result<Passphrase> {
    let typed = rpassword::prompt_password(prompt).map(Zeroizing::new).map_err(|error| {
        Failure::new(Code::Failure, "cannot ask for a passphrase: there is no terminal")
            .because(&error)
            .remedy("name a credential: --key-file, --passphrase-file or --passphrase-fd")
    })?;
    Passphrase::new(typed.as_bytes()).map_err(|error| no_passphrase(&error))
}

fn ask_twice() -> Result<Passphrase> {
    let first = ask("New passphrase: ")?;
    let second = ask("The same again: ")?;
    if first.expose() != second.expose() {
        return Err(Failure::new(Code::Failure, "the two passphrases differ").remedy("try again"));
    }
    Ok(first)
}
