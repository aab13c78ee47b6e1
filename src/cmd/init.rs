//! `envelopefs init`: makes a volume.

use std::process::ExitCode;

use super::credentials::{self, NewCredential};
use super::{Code, Failure, Result, harden};
use crate::audit::{self, Event, Operation};
use crate::cli::{Credentials, Init};
use crate::volume::{NewSlot, Volume};

pub(super) fn run(args: Init) -> Result<ExitCode> {
    harden()?;
    let credential = the_one(&args.credentials, args.make_key_file)?;
    // Before anything is asked for or made: a directory that cannot become a volume.
    Volume::check_vacant(&args.backing)?;
    let provider = credentials::new(&credential, &args.argon)?;
    let (volume, unlocked) = Volume::create(&args.backing, &[NewSlot { provider: &*provider, label: &args.label }])?;
    let event = Event::new(Operation::Init).slot(unlocked.slot()).provider(provider.kind());
    audit::note(&volume, Some(&unlocked), event);
    println!("Made volume {} in {}.", volume.description().uuid(), args.backing.display());
    println!("Key slot {}: {}.", unlocked.slot(), provider.describe());
    println!(
        "Without a key slot that opens, nothing can bring the data back: keep the credential safe, or add a second"
    );
    println!("slot with: envelopefs key add {}", args.backing.display());
    Ok(ExitCode::SUCCESS)
}

/// `init` makes one slot.
fn the_one(options: &Credentials, make: bool) -> Result<NewCredential<'_>> {
    match (&options.key_file[..], &options.passphrase_file[..], options.passphrase_fd, &options.provider[..]) {
        ([path], [], None, []) => Ok(NewCredential::KeyFile { path, make }),
        ([], [path], None, []) => Ok(NewCredential::PassphraseFile(path)),
        ([], [], Some(number), []) => Ok(NewCredential::PassphraseFd(number)),
        ([], [], None, [spec]) => Ok(NewCredential::Provider(spec)),
        ([], [], None, []) => Ok(NewCredential::Ask),
        _ => Err(Failure::new(Code::Usage, "init makes one key slot: name one credential")
            .remedy("add further ones with: envelopefs key add")),
    }
}
