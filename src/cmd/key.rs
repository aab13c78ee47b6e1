//! `envelopefs key`: the slots that open a volume.

use std::process::ExitCode;

use super::{Result, credentials, harden, info};
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
    let provider = credentials::new_slot(&args.new)?;
    let slot = volume.add_slot(&unlocked, NewSlot { provider: &*provider, label: &args.new.label })?;
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
