//! `envelopefs key`: the slots that open a volume.

use std::process::ExitCode;

use super::credentials::{self, NewCredential};
use super::{Result, harden, info};
use crate::cli::{Info, KeyAdd, KeyRemove};
use crate::volume::{NewSlot, Volume};

pub(super) fn list(args: Info) -> Result<ExitCode> {
    info::print_keys(Volume::open(&args.backing)?.description());
    Ok(ExitCode::SUCCESS)
}

pub(super) fn add(args: KeyAdd) -> Result<ExitCode> {
    harden()?;
    let mut volume = Volume::open(&args.backing)?;
    let unlocked = volume.unlock(&credentials::existing(&args.credentials)?, None)?;
    let credential = match (&args.new_key_file, &args.new_passphrase_file, args.new_passphrase_fd, &args.new_provider) {
        (Some(path), ..) => NewCredential::KeyFile { path, make: args.make_key_file },
        (None, Some(path), ..) => NewCredential::PassphraseFile(path),
        (None, None, Some(number), _) => NewCredential::PassphraseFd(number),
        (None, None, None, Some(spec)) => NewCredential::Provider(spec),
        (None, None, None, None) => NewCredential::Ask,
    };
    let provider = credentials::new(&credential, &args.argon)?;
    let slot = volume.add_slot(&unlocked, NewSlot { provider: &*provider, label: &args.label })?;
    println!("Added key slot {slot}: {}.", provider.describe());
    Ok(ExitCode::SUCCESS)
}

pub(super) fn remove(args: KeyRemove) -> Result<ExitCode> {
    harden()?;
    let mut volume = Volume::open(&args.backing)?;
    let unlocked = volume.unlock(&credentials::existing(&args.credentials)?, None)?;
    volume.remove_slot(&unlocked, args.slot)?;
    println!("Removed key slot {}.", args.slot);
    println!(
        "Whoever kept a copy of the volume's description and has the slot's credential can still unwrap the master key."
    );
    Ok(ExitCode::SUCCESS)
}
