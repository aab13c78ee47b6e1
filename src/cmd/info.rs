//! `envelopefs info`: what a volume says of itself.

use super::{Exit, Result};
use crate::cli::Info;
use crate::keys;
use crate::volume::{Description, Volume};

pub(super) fn run(args: Info) -> Result<Exit> {
    let volume = Volume::open(&args.backing)?;
    let description = volume.description();
    println!("Volume:          {}", description.uuid());
    println!("Format version:  {}", description.format());
    let features = description.features();
    println!("Features:        {}", if features.is_empty() { "none".into() } else { features.join(", ") });
    print_keys(description);
    println!("\nThis is what the description says; its authenticity is verified when the volume is unlocked.");
    Ok(Exit::SUCCESS)
}

/// Key versions and their slots.
pub(super) fn print_keys(description: &Description) {
    for key in description.keys() {
        println!("Master key {}:    id {}, {}, made {}", key.version, key.id, key.state, key.created);
        for slot in &key.slots {
            let label =
                if slot.label.is_empty() { String::new() } else { format!(" \"{}\"", slot.label.escape_debug()) };
            println!("  slot {}: {}{label}, made {}", slot.id, slot.provider.escape_debug(), slot.created);
            for (name, value) in keys::show_slot(&slot.provider, &slot.parameters) {
                println!("    {name:<13} {value}");
            }
        }
    }
}
