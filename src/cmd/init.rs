//! `envelopefs init`: makes a volume.

use std::path::PathBuf;

use super::credentials::{self, NewCredential};
use super::{Exit, Result, harden};
use crate::audit::{self, Event, Operation};
use crate::cli::{Credentials, Init};
use crate::volume::{NewSlot, Volume};

pub(super) fn run(args: Init) -> Result<Exit> {
    harden()?;
    let chosen = chosen(&args.credentials, args.make_key_file);
    // Before anything is asked for or made: a directory that cannot become a volume.
    Volume::check_vacant(&args.backing)?;
    let mut made = MadeFiles(Vec::new());
    let mut providers = Vec::new();
    for one in &chosen {
        providers.push(credentials::new(one, &args.argon)?);
        if let NewCredential::KeyFile { path, make: true } = *one {
            made.0.push(path.into());
        }
    }
    if !args.insecure_no_recovery_slot && providers.iter().all(|provider| provider.is_machine_bound()) {
        return Err(credentials::no_recovery());
    }
    let slots: Vec<_> =
        providers.iter().map(|provider| NewSlot { provider: &**provider, label: &args.label }).collect();
    let (volume, unlocked) = Volume::create(&args.backing, &slots)?;
    made.0.clear();
    for (slot, provider) in (1..).zip(&providers) {
        audit::note(&volume, Some(&unlocked), Event::new(Operation::Init).slot(slot).provider(provider.kind()));
    }
    println!("Made volume {} in {}.", volume.description().uuid(), args.backing.display());
    for (slot, provider) in (1..).zip(&providers) {
        println!("Key slot {slot}: {}.", provider.describe());
    }
    if providers.len() == 1 {
        println!(
            "Without a key slot that opens, nothing can bring the data back: keep the credential safe, or add a second"
        );
        println!("slot with: envelopefs key add {}", args.backing.display());
    }
    Ok(Exit::SUCCESS)
}

/// Key files made for a volume that does not come to be: they open nothing, and would be in the way of the next attempt.
struct MadeFiles(Vec<PathBuf>);

impl Drop for MadeFiles {
    fn drop(&mut self) {
        self.0.iter().for_each(|path| drop(std::fs::remove_file(path)));
    }
}

/// A slot for each credential that is named; without any, for a passphrase that is asked for.
fn chosen(options: &Credentials, make: bool) -> Vec<NewCredential<'_>> {
    let mut all: Vec<_> = options.key_file.iter().map(|path| NewCredential::KeyFile { path, make }).collect();
    all.extend(options.passphrase_file.iter().map(|path| NewCredential::PassphraseFile(path)));
    all.extend(options.passphrase_fd.map(NewCredential::PassphraseFd));
    all.extend(options.provider.iter().map(|spec| NewCredential::Provider(spec)));
    if all.is_empty() { vec![NewCredential::Ask] } else { all }
}
