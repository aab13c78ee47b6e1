//! `envelopefs key list, add, remove`: the slots that open a volume.

use serde_json::{Value, json};

use super::{Exit, Result, credentials, harden, info, recovery};
use crate::audit::{self, Event, Operation};
use crate::cli::{KeyAdd, KeyList, KeyRemove};
use crate::keys;
use crate::volume::{Description, KeyState, Volume};

pub(super) fn list(args: KeyList) -> Result<Exit> {
    let volume = Volume::open(&args.backing)?;
    match args.json {
        true => println!("{}", described(volume.description())),
        false => info::print_keys(volume.description()),
    }
    Ok(Exit::SUCCESS)
}

/// Versions and slots with all that a slot says of itself but the wrapped key.
fn described(description: &Description) -> Value {
    let slots = |slots: &[crate::volume::KeySlot]| -> Vec<Value> {
        let one = |slot: &crate::volume::KeySlot| {
            json!({
                "slot": slot.id, "provider": slot.provider, "label": slot.label, "created": slot.created.to_string(),
                "parameters": slot.parameters,
            })
        };
        slots.iter().map(one).collect()
    };
    let versions: Vec<Value> = description
        .keys()
        .iter()
        .map(|key| {
            json!({
                "version": key.version, "id": key.id.to_string(), "state": key.state.to_string(),
                "created": key.created.to_string(), "slots": slots(&key.slots),
            })
        })
        .collect();
    json!({"volume": description.uuid().to_string(), "versions": versions})
}

/// Whether a slot, other than those that go, opens the active master key when this machine is no more.
pub(super) fn outlives(description: &Description, gone: &[u32]) -> bool {
    let slots = description.keys().iter().filter(|key| key.state == KeyState::Active).flat_map(|key| &key.slots);
    let mut left = slots.filter(|slot| !gone.contains(&slot.id));
    left.any(|slot| !keys::slot_is_machine_bound(&slot.provider, &slot.parameters))
}

pub(super) fn add(args: KeyAdd) -> Result<Exit> {
    harden()?;
    let mut volume = Volume::open(&args.backing)?;
    let unlocked =
        audit::unlock(&volume, Operation::SlotAdd, &credentials::existing(&args.credentials)?, args.volume_id)?;
    let uuid = volume.description().uuid();
    let provider = recovery::new_slot(&args.new, &args.recovery, uuid, args.dry_run, args.json)?;
    if provider.is_machine_bound() && !args.new.insecure_no_recovery_slot && !outlives(volume.description(), &[]) {
        return Err(credentials::no_recovery());
    }
    let slot = match args.dry_run {
        true => provider.check().map(|()| None)?,
        false => Some(recovery::add_slot(&mut volume, &unlocked, &*provider, &args.new.label)?),
    };
    match (args.json, slot) {
        (true, _) => {
            println!("{}", json!({"slot": slot, "provider": provider.describe(), "dry_run": args.dry_run}));
        }
        (false, Some(slot)) => println!("Added key slot {slot}: {}.", provider.describe()),
        (false, None) => println!("Dry run: a key slot would be added for {}.", provider.describe()),
    }
    Ok(Exit::SUCCESS)
}

pub(super) fn remove(args: KeyRemove) -> Result<Exit> {
    harden()?;
    let mut volume = Volume::open(&args.backing)?;
    let unlocked =
        audit::unlock(&volume, Operation::SlotRemove, &credentials::existing(&args.credentials)?, args.volume_id)?;
    volume.check_removable(args.slot)?;
    if !outlives(volume.description(), &[args.slot]) {
        eprintln!(
            "envelopefs: warning: the slots that are left open on this machine alone: another chip, image or firmware, and the data is lost"
        );
    }
    if !args.dry_run {
        let slots = volume.description().keys().iter().flat_map(|key| &key.slots);
        let kind = slots.filter(|slot| slot.id == args.slot).map(|slot| slot.provider.clone()).next();
        let event = Event::new(Operation::SlotRemove).slot(args.slot).provider(&kind.unwrap_or_default());
        let removed = volume.remove_slot(&unlocked, args.slot);
        audit::noted(&volume, &unlocked, event, removed)?;
    }
    match (args.json, args.dry_run) {
        (true, _) => println!("{}", json!({"slot": args.slot, "dry_run": args.dry_run})),
        (false, true) => println!("Dry run: key slot {} would be removed.", args.slot),
        (false, false) => {
            println!("Removed key slot {}.", args.slot);
            println!(
                "Whoever kept a copy of the volume's description and has the slot's credential can still unwrap the master key: rotate it (envelopefs key rotate)."
            );
        }
    }
    Ok(Exit::SUCCESS)
}
