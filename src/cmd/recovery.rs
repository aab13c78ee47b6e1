//! `envelopefs recover` and the recovery keys that `key add --new-recovery` makes: what is printed, asked for and confirmed.

use std::fs::{File, OpenOptions};
use std::io::{IsTerminal, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde_json::json;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::{Code, Exit, Failure, Result, credentials, harden};
use crate::audit::{self, Event, Operation};
use crate::cli::{NewRecovery, Recover};
use crate::keys::recovery::{Form, RecoveryKey, Shares, SharesError};
use crate::keys::{KeyProvider, ProviderError};
use crate::volume::{NewSlot, Unlocked, Volume};

/// Wrong entries before the command gives up.
const ATTEMPTS: usize = 5;
/// Most bytes read from a descriptor.
const MAX_TEXT: usize = 256 << 10;

/// Opens a volume with its recovery key, or enough shares of it, and gives it a new slot.
pub(super) fn run(args: Recover) -> Result<Exit> {
    harden()?;
    let mut volume = Volume::open(&args.backing)?;
    let uuid = volume.description().uuid();
    let key = match (args.recovery_file.as_slice(), args.recovery_fd) {
        ([], Some(number)) => from_fd(number)?,
        ([], None) => ask()?,
        (files, _) => RecoveryKey::read(files)?,
    };
    if !key.is_for(uuid) {
        let fact = format!("{} was made for another volume; this one is {uuid}", key.describe());
        return Err(Failure::new(Code::WrongKey, fact).remedy("check the backing directory, or find the other paper"));
    }
    let credential = [Box::new(key) as Box<dyn KeyProvider>];
    let unlocked = audit::unlock(&volume, Operation::Recover, &credential, args.volume_id)?;
    let opened = unlocked.slot();
    if args.dry_run {
        match args.json {
            true => println!("{}", json!({"volume": uuid.to_string(), "opened": opened, "dry_run": true})),
            false => println!("The recovery key opens key slot {opened} of volume {uuid}. Nothing was changed."),
        }
        return Ok(Exit::SUCCESS);
    }
    let provider = new_slot(&args.new, &args.recovery, uuid, false, args.json)?;
    audit::note(&volume, Some(&unlocked), Event::new(Operation::Recover).slot(opened));
    let slot = add_slot(&mut volume, &unlocked, &*provider, &args.new.label)?;
    if args.json {
        let with = provider.describe();
        println!(
            "{}",
            json!({"volume": uuid.to_string(), "opened": opened, "slot": slot, "provider": with, "dry_run": false})
        );
        return Ok(Exit::SUCCESS);
    }
    println!("Added key slot {slot}: {}.", provider.describe());
    println!(
        "What opened the volume before still does: envelopefs key list, and key remove for what is lost or known to others."
    );
    Ok(Exit::SUCCESS)
}

/// Adds a slot, and notes it in the log of key events.
pub(super) fn add_slot(volume: &mut Volume, keys: &Unlocked, provider: &dyn KeyProvider, label: &str) -> Result<u32> {
    let added = volume.add_slot(keys, NewSlot { provider, label });
    let event = Event::new(Operation::SlotAdd).provider(provider.kind());
    let event = added.iter().fold(event, |event, slot| event.slot(*slot));
    Ok(audit::noted(volume, keys, event, added)?)
}

/// The provider for a new slot, which may be a recovery key made here: it is shown unless nothing is to be changed. With `json`, standard
/// output is not for people, so that it has to go into files.
pub(super) fn new_slot(
    options: &crate::cli::NewSlot,
    recovery: &NewRecovery,
    volume: Uuid,
    dry_run: bool,
    json: bool,
) -> Result<Box<dyn KeyProvider>> {
    if !recovery.new_recovery {
        return credentials::new_slot(options);
    }
    let (threshold, count) = (recovery.threshold.unwrap_or(1), recovery.shares.unwrap_or(1));
    let numbers = |error: SharesError| Failure::new(Code::Usage, error.to_string());
    let key = RecoveryKey::generate(volume, threshold, count).map_err(numbers)?;
    if dry_run {
        return Ok(Box::new(key));
    }
    if json && recovery.output_dir.is_none() {
        return Err(Failure::new(Code::Usage, "a recovery key is shown to people, not as JSON")
            .remedy("say --output-dir, where it is written into files"));
    }
    if !recovery.yes && recovery.output_dir.is_none() && !std::io::stdin().is_terminal() {
        return Err(Failure::new(Code::Usage, "nobody is there to confirm that the recovery key was written down")
            .remedy("run the command on a terminal, or say --yes or --output-dir"));
    }
    let form = if recovery.words { Form::Words } else { Form::Text };
    let printed = key.print(form).map_err(numbers)?;
    match &recovery.output_dir {
        Some(dir) => write_files(dir, &printed)?,
        None => print(&printed),
    }
    if !recovery.yes && recovery.output_dir.is_none() {
        confirm()?;
    }
    Ok(Box::new(key))
}

/// Shown once and nowhere else: not in a log, not in an error.
fn print(printed: &[(String, Zeroizing<String>)]) {
    let mut out = std::io::stdout().lock();
    for (what, text) in printed {
        let (first, rest) = what.split_at_checked(1).unwrap_or((what, ""));
        let _ = writeln!(out, "\n{}{rest}:\n", first.to_uppercase());
        for line in text.lines() {
            let _ = writeln!(out, "    {line}");
        }
    }
    let alone =
        if printed.len() == 1 { "Whoever has it opens the volume." } else { "Give each share to somebody else." };
    let _ = writeln!(out, "\nWrite it down or print it now: it is not shown again. {alone}");
    let _ = out.flush();
}

fn confirm() -> Result<()> {
    print!("Type yes when it is written down: ");
    let _ = std::io::stdout().flush();
    let mut answer = String::new();
    let read = std::io::stdin().read_line(&mut answer);
    match read {
        Ok(_) if answer.trim().eq_ignore_ascii_case("yes") => Ok(()),
        _ => Err(Failure::new(Code::Failure, "it was not confirmed that the recovery key was written down")
            .remedy("nothing was changed, and what was shown opens nothing; run the command again")),
    }
}

/// A file for each share, which its owner alone may read. Either all of them are there in the end, or none.
fn write_files(dir: &Path, printed: &[(String, Zeroizing<String>)]) -> Result<()> {
    let mut made: Vec<PathBuf> = Vec::new();
    let outcome = printed.iter().enumerate().try_for_each(|(at, (what, text))| {
        let id = what.split_whitespace().skip_while(|word| *word != "key").nth(1).unwrap_or_default();
        let name = match printed.len() {
            1 => format!("recovery-{id}.txt"),
            count => format!("recovery-{id}-share-{}-of-{count}.txt", at + 1),
        };
        let path = dir.join(name);
        let fail = |error: std::io::Error| {
            Failure::new(Code::Failure, format!("cannot write the recovery file {}", path.display())).because(&error)
        };
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(fail)?;
        made.push(path.clone());
        let mut contents = Zeroizing::new(String::with_capacity(what.len() + text.len() + 100));
        contents.push_str("# envelopefs ");
        contents.push_str(what);
        contents.push('\n');
        contents.push_str(text);
        contents.push('\n');
        file.write_all(contents.as_bytes()).and_then(|()| file.sync_all()).map_err(fail)
    });
    let outcome = outcome.and_then(|()| {
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(|error| {
            Failure::new(Code::Failure, format!("cannot flush the directory {}", dir.display())).because(&error)
        })
    });
    if outcome.is_err() {
        made.iter().for_each(|path| drop(std::fs::remove_file(path)));
    }
    made.iter().filter(|_| outcome.is_ok()).for_each(|path| eprintln!("Wrote {}.", path.display()));
    outcome
}

/// Asks on the terminal, without echo, until there are enough shares.
pub(super) fn ask() -> Result<RecoveryKey> {
    let mut shares = Shares::default();
    let mut wrong = 0;
    loop {
        let prompt = match shares.missing() {
            None => "Recovery key, or first share: ".into(),
            Some(0) => break,
            Some(more) => format!("Next share, {more} more needed: "),
        };
        let typed = rpassword::prompt_password(prompt).map(Zeroizing::new).map_err(|error| {
            Failure::new(Code::Failure, "cannot ask for a recovery key: there is no terminal")
                .because(&error)
                .remedy("name files: --recovery-file, or --provider recovery:?file=…")
        })?;
        let said = match shares.add(&typed) {
            Ok(()) => match shares.check() {
                Ok(()) => continue,
                Err(error) => {
                    shares.forget_last();
                    error.to_string()
                }
            },
            Err(error) => error.to_string(),
        };
        wrong += 1;
        if wrong == ATTEMPTS {
            return Err(Failure::new(Code::Failure, said).remedy("compare with what was printed, group by group"));
        }
        eprintln!("envelopefs: {said}; try again");
    }
    Ok(shares.combine().map_err(ProviderError::from)?)
}

/// Reads a key or shares from an open descriptor.
pub(super) fn from_fd(number: i32) -> Result<RecoveryKey> {
    let unusable = |error: &dyn std::error::Error| {
        Failure::new(Code::Failure, format!("descriptor {number} has no usable recovery key")).because(error)
    };
    let file = File::from(credentials::descriptor("--recovery-fd", number)?);
    // Filled in place: no smaller buffer with a part of it is left behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_TEXT + 1));
    file.take(MAX_TEXT as u64 + 1).read_to_end(&mut bytes).map_err(|error| unusable(&error))?;
    let text = std::str::from_utf8(&bytes).map_err(|error| unusable(&error))?;
    let mut shares = Shares::default();
    shares.add_all(text).map_err(|error| unusable(&error))?;
    Ok(shares.combine().map_err(ProviderError::from)?)
}
