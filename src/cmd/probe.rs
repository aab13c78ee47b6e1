//! `envelopefs key probe`: what a key provider is, and whether it does what it must.

use serde_json::json;
use uuid::Uuid;

use super::{Code, Exit, Failure, Result, credentials, harden};
use crate::cli::KeyProbe;
use crate::crypto::secret::Secret;
use crate::keys::{KeyProvider, ProviderError, SlotContext};

pub(super) fn run(args: KeyProbe) -> Result<Exit> {
    harden()?;
    let (mut reports, mut code) = (Vec::new(), Exit::SUCCESS);
    for provider in credentials::existing(&args.credentials)? {
        // First: it may make the key that the facts are about.
        let tested = test(&*provider);
        let facts = provider.facts();
        if args.json {
            let facts: serde_json::Map<_, _> = facts.into_iter().map(|(name, value)| (name, value.into())).collect();
            let failure = tested.as_ref().err().map(ToString::to_string);
            let (kind, what) = (provider.kind(), provider.describe());
            reports.push(json!({ "kind": kind, "provider": what, "facts": facts, "failure": failure }));
        } else {
            println!("{}: {}", provider.kind(), provider.describe());
            facts.iter().for_each(|(name, value)| println!("  {name}: {value}"));
            match &tested {
                Ok(()) => println!("  self-test: passed"),
                Err(_) => println!("  self-test: failed"),
            }
        }
        if let Err(failure) = tested {
            code = if args.json { failure.code.into() } else { failure.report("envelopefs") };
        }
    }
    if args.json {
        println!("{:#}", json!({ "providers": reports }));
    }
    Ok(code)
}

/// Wraps a random key for a place that no volume has, unwraps it there, and expects refusals elsewhere and of changed bytes.
fn test(provider: &dyn KeyProvider) -> Result<()> {
    let broken = |what: &str| {
        let fact = format!("{} does not keep what is asked of a provider: {what}", provider.describe());
        Failure::new(Code::Provider, fact).remedy("do not use it")
    };
    let master = Secret::random();
    let place = SlotContext { volume: Uuid::new_v4(), key_version: 1, slot: 1 };
    let slot = provider.wrap(&master, &place)?;
    match provider.unwrap(&slot, &place) {
        Some(Ok(opened)) if opened.expose() == master.expose() => {}
        Some(Ok(_)) => return Err(broken("it unwraps something else than was wrapped")),
        Some(Err(error)) => return Err(error.into()),
        None => return Err(broken("it does not know its own slot")),
    }
    let refuses = |outcome: Option<std::result::Result<Secret<32>, ProviderError>>, what: &str| match outcome {
        Some(Ok(_)) => Err(broken(what)),
        Some(Err(_)) | None => Ok(()),
    };
    refuses(provider.unwrap(&slot, &SlotContext { volume: Uuid::new_v4(), ..place }), "it unwraps for another volume")?;
    refuses(provider.unwrap(&slot, &SlotContext { key_version: 2, ..place }), "it unwraps for another key version")?;
    let mut changed = slot;
    if let Some(last) = changed.wrapped.last_mut() {
        *last ^= 1;
    }
    refuses(provider.unwrap(&changed, &place), "it unwraps what was changed")?;
    // The refusals have left it in order.
    Ok(provider.check()?)
}
