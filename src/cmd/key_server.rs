//! `envelopefs takeover` and `envelopefs check-server-key`: what only volumes behind a key server need.

use serde_json::json;

use super::{Code, Exit, Failure, Result, harden};
use crate::api::InstanceId;
use crate::audit::{self, Event, Operation};
use crate::cli::{CheckServerKey, Takeover};
use crate::keys::hsm_api::{self, HsmApi, TakeOver};
use crate::keys::{KeyProvider, ProviderError, ProviderSpec};
use crate::volume::{NewSlot, Volume};

/// Makes the slots of another instance this one's. A slot is replaced when the server has shown that its new sealed form opens to
/// the volume's own master key; until then the old form stays.
pub(super) fn takeover(args: Takeover) -> Result<Exit> {
    harden()?;
    let from: InstanceId =
        args.from.parse().map_err(|error| Failure::new(Code::Usage, "--from is no instance id").because(&error))?;
    let provider = open(&args.provider)?;
    if *provider.instance() == from {
        return Err(Failure::new(Code::Usage, format!("the provider speaks as instance {from} itself"))
            .remedy("name the instance that takes over in the provider's instance-id"));
    }
    let to = provider.instance().clone();
    let takeover = TakeOver::new(provider, from.clone());
    let credential: [Box<dyn KeyProvider>; 1] = [Box::new(takeover)];
    let mut volume = Volume::open(&args.backing)?;
    let slots = slots_of(&volume, &from);
    if slots.is_empty() {
        return Err(Failure::new(Code::WrongKey, format!("no key slot of the volume belongs to instance {from}"))
            .remedy("envelopefs info lists the slots, volume.toml says whose they are"));
    }
    for slot in &slots {
        // Again for each: it opens one slot that is still the other's, and proves that the description is what it was.
        let unlocked = audit::unlock(&volume, Operation::Takeover, &credential, args.volume_id)?;
        if args.dry_run {
            break;
        }
        let [provider] = &credential;
        let done = volume.rebind(&unlocked, *slot, NewSlot { provider: &**provider, label: "" });
        audit::noted(&volume, &unlocked, Event::new(Operation::Takeover).slot(*slot), done)?;
    }
    let numbers = slots.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    match (args.json, args.dry_run) {
        (true, dry_run) => {
            println!("{}", json!({"slots": slots, "from": from.as_str(), "to": to.as_str(), "dry_run": dry_run}));
        }
        (false, true) => println!("Dry run, would take over key slot {numbers} from {from} to {to}."),
        (false, false) => {
            println!("Took over key slot {numbers} from {from} to {to}.");
            println!(
                "A copy of the volume's old description still opens for {from}: what it knew is ended by envelopefs key rotate."
            );
        }
    }
    Ok(Exit::SUCCESS)
}

/// Numbers of the slots that belong to an instance.
fn slots_of(volume: &Volume, instance: &InstanceId) -> Vec<u32> {
    let keys = volume.description().keys().iter().filter(|key| key.state.unwraps());
    let slots = keys.flat_map(|key| &key.slots).filter(|slot| slot.provider == hsm_api::KIND);
    let mut numbers: Vec<u32> =
        slots.filter(|slot| hsm_api::owner(&slot.parameters).as_ref() == Some(instance)).map(|slot| slot.id).collect();
    numbers.sort_unstable();
    numbers.dedup();
    numbers
}

/// Compares what each server tells with what is pinned.
pub(super) fn check_server_key(args: CheckServerKey) -> Result<Exit> {
    let provider = open(&args.provider)?;
    let (mut other, mut failed) = (false, None);
    let mut servers = Vec::new();
    for (server, told) in provider.told_keys() {
        match told {
            Ok(key) => {
                let pinned = provider.is_pinned(&key);
                other |= !pinned;
                if !args.json {
                    println!("{server}: {} ({})", key.id(), if pinned { "pinned" } else { "NOT the pinned key" });
                }
                servers.push(json!({"server": server, "sha256": key.id(), "pinned": pinned}));
            }
            Err(error) => {
                servers.push(json!({"server": server, "error": error.to_string()}));
                if !args.json {
                    println!("{server}: no key");
                }
                failed = Some(error);
            }
        }
    }
    if args.json {
        println!("{}", json!({"pinned": provider.pinned(), "servers": servers}));
    }
    if other {
        let pinned = provider.pinned().join(" or ");
        return Err(Failure::new(Code::Failure, format!("a server tells another signing key than {pinned}")).remedy(
            "ask the server's operator over another channel which key is right before you believe or change anything",
        ));
    }
    match failed {
        Some(error) => Err(error.into()),
        None => Ok(Exit::SUCCESS),
    }
}

fn open(spec: &str) -> Result<HsmApi> {
    let spec: ProviderSpec = spec.parse().map_err(ProviderError::from)?;
    if spec.kind != hsm_api::KIND {
        return Err(Failure::new(Code::Usage, format!("a key provider {:?} has no key server", spec.kind))
            .remedy("name one of the kind hsm-api"));
    }
    Ok(HsmApi::open(spec)?)
}
