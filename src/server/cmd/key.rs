//! `envelopefs-keyserver key`: what keys there are, new ones, and the end of old ones.
//!
//! Each step leaves something that works: a new key exists in the tokens before the state names it, customer keys are wrapped anew one by
//! one and compared before they take the old one's place, and a key is destroyed only when the state says that nothing needs it.

use std::path::Path;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::installation::{self, Installation, Opened, public};
use super::{Code, Exit, Failure, Result, harden, tenant};
use crate::api::Tenant;
use crate::api::canonical::endorsement_text;
use crate::server::cli::{
    Change, KeyCommand, KeyDestroy, Output, RetireCommand, RetireCustomer, Rotate, RotateCommand, RotateCustomer,
    RotateSigning,
};
use crate::server::hsm::{CustomerKey, KeyId};
use crate::server::state::{CustomerKeyRecord, KeyState, State, StateError};

/// Customer keys that are asked for at a time.
const PAGE: u32 = 100;

pub(super) async fn run(config: &Path, command: KeyCommand) -> Result<Exit> {
    match command {
        KeyCommand::List(args) => list(config, &args).await,
        KeyCommand::Rotate(RotateCommand::Domain(args)) => rotate_domain(config, args).await,
        KeyCommand::Rotate(RotateCommand::Customer(args)) => rotate_customer(config, args).await,
        KeyCommand::Rotate(RotateCommand::Signing(args)) => rotate_signing(config, args).await,
        KeyCommand::Retire(RetireCommand::Customer(args)) => retire_customer(config, args).await,
        KeyCommand::Destroy(args) => destroy(config, args).await,
    }
}

fn word(state: KeyState) -> &'static str {
    match state {
        KeyState::Current => "current",
        KeyState::Retired => "retired",
    }
}

async fn list(config: &Path, args: &Output) -> Result<Exit> {
    let Installation { state, .. } = Installation::open_initialised(config).await?;
    let domains = state.domain_keys().await?;
    let signing = state.signing_keys().await?;
    let customers = state.customer_keys().await?;
    if args.json {
        let domains = domains.iter().map(
            |(id, state, wraps)| json!({"id": KeyId(*id).to_string(), "state": word(*state), "customer_keys": wraps}),
        );
        let signing = signing.iter().map(|key| {
            let public = public(key)?;
            let by = key.endorsement.as_ref().map(|(by, _)| KeyId(*by).to_string());
            Ok(json!({
                "id": KeyId(key.id).to_string(), "state": word(key.state), "sha256": public.id(), "pem": public.to_pem(),
                "endorsed_by": by, "created_at": key.created_at, "retired_at": key.retired_at,
            }))
        });
        let customers = customers.iter().map(|(tenant, key)| {
            json!({"tenant": tenant.as_str(), "version": key.version, "domain_key": KeyId(key.domain).to_string()})
        });
        say!(
            "{}",
            json!({
                "domain_keys": domains.collect::<Value>(),
                "signing_keys": signing.collect::<Result<Value>>()?,
                "customer_keys": customers.collect::<Value>(),
            })
        );
        return Ok(Exit::SUCCESS);
    }
    for (id, state, wraps) in domains {
        say!("domain key   {}  {:<8} wraps {wraps} customer keys", KeyId(id), word(state));
    }
    for key in &signing {
        say!("signing key  {}  {:<8} since {}", KeyId(key.id), word(key.state), key.created_at);
        say!("             SHA-256 {}", public(key)?.id());
    }
    for (tenant, key) in customers {
        say!("customer key {} version {}, under domain key {}", tenant.as_str(), key.version, KeyId(key.domain));
    }
    Ok(Exit::SUCCESS)
}

async fn rotate_domain(config: &Path, args: Rotate) -> Result<Exit> {
    harden()?;
    let since = Timestamp::now();
    let installation = Installation::open_initialised(config).await?;
    // What an interrupted rotation left is finished before another key is made.
    let unfinished = outdated(&installation.state).await?;
    let opened = installation.log_in(&args.pin).await?;
    let keys = opened.state.domain_keys().await?;
    let count: u64 = keys.iter().map(|(_, _, wraps)| wraps).sum();
    if args.change.dry_run {
        let text = match unfinished {
            0 => format!("make a new domain key and wrap {count} customer keys under it"),
            left => format!(
                "finish a rotation that was interrupted: wrap {left} customer keys under the current domain key"
            ),
        };
        dry(&args.change, &text);
        return Ok(Exit::SUCCESS);
    }
    let new = if unfinished == 0 {
        let id = KeyId::random();
        opened.cluster.make_domain_key(id)?;
        opened.state.add_domain_key(id.0).await?;
        id
    } else {
        KeyId(opened.state.domain_key().await?.ok_or_else(installation::uninitialised)?)
    };
    let rewrapped = rewrap_all(&opened, new).await?;
    let more =
        [("kind", "domain".to_owned()), ("domain_key", new.to_string()), ("customer_keys", rewrapped.to_string())];
    opened.note("key-rotate", since, &more).await?;
    if args.change.json {
        say!("{}", json!({"domain_key": new.to_string(), "customer_keys": rewrapped}));
    } else {
        say!("The domain key is {new}; {rewrapped} customer keys are wrapped under it.");
        say!(
            "Old domain keys stay in the tokens for backups of the state; envelopefs-keyserver key destroy ends them."
        );
    }
    Ok(Exit::SUCCESS)
}

/// Customer keys that a retired domain key wraps.
async fn outdated(state: &State) -> Result<u64> {
    let keys = state.domain_keys().await?;
    Ok(keys.iter().filter(|(_, state, _)| *state == KeyState::Retired).map(|(_, _, wraps)| wraps).sum())
}

/// Wraps every customer key under `new`. A server that runs meanwhile goes on: it finds a key under the one or the other.
async fn rewrap_all(opened: &Opened, new: KeyId) -> Result<u64> {
    let mut done = 0;
    let retired = opened.state.domain_keys().await?.into_iter().filter(|(_, state, _)| *state == KeyState::Retired);
    for (old, _, _) in retired {
        loop {
            let page = opened.state.customer_keys_under(old, PAGE).await?;
            if page.is_empty() {
                break;
            }
            for (tenant, record) in page {
                let rewrapped = opened.cluster.rewrap_customer_key(&customer_key(&record), &tenant, new)?;
                match opened.state.replace_customer_key(&tenant, &record, new.0, &rewrapped.wrapped).await {
                    Ok(()) => done += 1,
                    // Somebody else was faster, or it was retired: the next page tells.
                    Err(StateError::Missing(_)) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
    }
    Ok(done)
}

/// As the tokens want it.
fn customer_key(record: &CustomerKeyRecord) -> CustomerKey {
    CustomerKey { version: record.version, domain: KeyId(record.domain), wrapped: record.wrapped.clone() }
}

async fn rotate_customer(config: &Path, args: RotateCustomer) -> Result<Exit> {
    harden()?;
    let since = Timestamp::now();
    let installation = Installation::open_initialised(config).await?;
    tenant::existing(&installation.state, &args.tenant).await?;
    let opened = installation.log_in(&args.pin).await?;
    let domain = opened.state.domain_key().await?.ok_or_else(installation::uninitialised)?;
    let newest = opened.state.customer_key(&args.tenant).await?;
    let version = newest.map_or(1, |key| key.version.saturating_add(1));
    if args.change.dry_run {
        dry(&args.change, &format!("make version {version} of the customer key of {}", args.tenant.as_str()));
        return Ok(Exit::SUCCESS);
    }
    let key = opened.cluster.make_customer_key(KeyId(domain), &args.tenant, version)?;
    let record = CustomerKeyRecord { version, domain, wrapped: key.wrapped };
    if version == 1 {
        opened.state.insert_first_customer_key(&args.tenant, domain, &record.wrapped).await?;
    } else {
        opened.state.add_customer_key(&args.tenant, &record).await?;
    }
    let more = [
        ("kind", "customer".to_owned()),
        ("tenant", args.tenant.as_str().to_owned()),
        ("version", version.to_string()),
    ];
    opened.note("key-rotate", since, &more).await?;
    if args.change.json {
        say!("{}", json!({"tenant": args.tenant.as_str(), "version": version}));
    } else {
        say!("New secrets of {} are sealed under version {version} of its customer key.", args.tenant.as_str());
        say!("Blobs of older versions open until these are retired: envelopefs-keyserver key retire customer.");
    }
    Ok(Exit::SUCCESS)
}

async fn rotate_signing(config: &Path, args: RotateSigning) -> Result<Exit> {
    harden()?;
    let since = Timestamp::now();
    installation::check_new("public signing key", &args.signing_key)?;
    let installation = Installation::open_initialised(config).await?;
    let opened = installation.log_in(&args.pin).await?;
    let old = KeyId(opened.signing.id);
    if args.change.dry_run {
        dry(
            &args.change,
            &format!("make a new signing key, which {old} signs; clients that pin the old one refuse every answer"),
        );
        return Ok(Exit::SUCCESS);
    }
    let new = KeyId::random();
    let key = opened.cluster.make_signing_key(new)?;
    let endorsement = opened.cluster.sign(old, endorsement_text(key.spki()).as_bytes())?;
    // Before the state names it: whoever pins it must be able to have it.
    installation::write_new("public signing key", &args.signing_key, 0o644, key.to_pem().as_bytes())?;
    opened.state.add_signing_key(new.0, key.spki(), Some((old.0, &endorsement))).await?;
    let more = [("kind", "signing".to_owned()), ("signing_key_sha256", key.id())];
    // Signed by the old key: its last word names the new one.
    opened.note("key-rotate", since, &more).await?;
    if args.change.json {
        let id = new.to_string();
        say!("{}", json!({"id": id, "sha256": key.id(), "pem": args.signing_key, "endorsed_by": old.to_string()}));
    } else {
        say!("The signing key is {new}, signed by {old}.");
        say!("  its public half: {}", args.signing_key.display());
        say!("  its SHA-256: {}", key.id());
        say!(
            "Running servers take it when they next look at their tokens, within a minute. Clients that pin the old one alone refuse their answers."
        );
    }
    Ok(Exit::SUCCESS)
}

async fn retire_customer(config: &Path, args: RetireCustomer) -> Result<Exit> {
    harden()?;
    let since = Timestamp::now();
    let installation = Installation::open_initialised(config).await?;
    let (tenant, version) = (&args.tenant, args.version);
    let newest = existing_versions(&installation.state, tenant).await?;
    if newest == Some(version) {
        return Err(Failure::new(Code::Failure, format!("version {version} is the one that seals"))
            .remedy("make another first: envelopefs-keyserver key rotate customer"));
    }
    if installation.state.customer_key_version(tenant, version).await?.is_none() {
        return Err(Failure::new(Code::Failure, format!("{} has no version {version}", tenant.as_str()))
            .remedy("envelopefs-keyserver key list names them"));
    }
    if args.change.dry_run {
        dry(
            &args.change,
            &format!("erase version {version}: what {} sealed under it opens never again", tenant.as_str()),
        );
        return Ok(Exit::SUCCESS);
    }
    let opened = installation.log_in(&args.pin).await?;
    opened.state.remove_customer_key(tenant, version).await?;
    let more =
        [("kind", "customer".to_owned()), ("tenant", tenant.as_str().to_owned()), ("version", version.to_string())];
    opened.note("key-retire", since, &more).await?;
    if args.change.json {
        say!("{}", json!({"tenant": tenant.as_str(), "version": version}));
    } else {
        say!("Version {version} of the customer key of {} is erased: its blobs are dead.", tenant.as_str());
        say!(
            "Older backups of the state still hold it, wrapped: key rotate domain, then key destroy of the old domain key, ends that."
        );
    }
    Ok(Exit::SUCCESS)
}

async fn existing_versions(state: &State, of: &Tenant) -> Result<Option<u32>> {
    tenant::existing(state, of).await?;
    Ok(state.customer_key(of).await?.map(|key| key.version))
}

async fn destroy(config: &Path, args: KeyDestroy) -> Result<Exit> {
    harden()?;
    let since = Timestamp::now();
    let installation = Installation::open_initialised(config).await?;
    let state = &installation.state;
    let unknown = || {
        Failure::new(Code::Failure, format!("there is no key {}", args.id))
            .remedy("envelopefs-keyserver key list names them; give the whole id")
    };
    let id: KeyId = args.id.parse().map_err(|_| unknown())?;
    let domain = state.domain_keys().await?.into_iter().find(|(key, _, _)| *key == id.0);
    let signing = state.signing_keys().await?.into_iter().find(|key| key.id == id.0);
    let in_use = |what: &str, remedy: &str| Failure::new(Code::Failure, format!("{id} is {what}")).remedy(remedy);
    let kind = match (domain, signing) {
        (Some((_, KeyState::Current, _)), _) => {
            return Err(in_use("the current domain key", "rotate first: envelopefs-keyserver key rotate domain"));
        }
        (Some((_, KeyState::Retired, wraps)), _) if wraps > 0 => {
            return Err(in_use(
                "still needed by customer keys",
                "finish the rotation: envelopefs-keyserver key rotate domain",
            ));
        }
        (Some(_), _) => "domain",
        (None, Some(key)) if key.state == KeyState::Current => {
            return Err(in_use("the current signing key", "rotate first: envelopefs-keyserver key rotate signing"));
        }
        (None, Some(_)) => "signing",
        (None, None) => return Err(unknown()),
    };
    if args.change.dry_run {
        dry(&args.change, &format!("destroy the {kind} key {id} in the tokens"));
        return Ok(Exit::SUCCESS);
    }
    let opened = installation.log_in(&args.pin).await?;
    if kind == "domain" {
        // First the state: it refuses a key that has come into use meanwhile.
        opened.state.remove_domain_key(id.0).await?;
    }
    opened.cluster.destroy_key(id)?;
    let more = [("kind", kind.to_owned()), ("key", id.to_string())];
    opened.note("key-destroy", since, &more).await?;
    if args.change.json {
        say!("{}", json!({"kind": kind, "id": id.to_string()}));
    } else {
        say!("The {kind} key {id} is destroyed in the tokens.");
    }
    Ok(Exit::SUCCESS)
}

fn dry(change: &Change, would: &str) {
    if change.json {
        say!("{}", json!({"dry_run": true, "would": would}));
    } else {
        say!("Dry run, would {would}.");
    }
}
