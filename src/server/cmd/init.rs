//! `envelopefs-keyserver init`: keys in the tokens, the state, the first tenant.
//!
//! Keys are made before the state knows them, so an init that was interrupted is run again and goes on where it ended; at worst a key that
//! nobody knows stays in a token. The tenant comes last: with one, the installation is initialised, and init refuses it.

use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::json;

use super::installation::{self, Installation, Opened, public};
use super::{Code, Exit, Failure, Result, harden, tenant};
use crate::server::audit::Audit;
use crate::server::cli::Init;
use crate::server::hsm::KeyId;
use crate::server::service::HsmSigner;

pub(super) async fn run(config: &Path, args: Init) -> Result<Exit> {
    harden()?;
    let since = Timestamp::now();
    let policy = tenant::policy_of(&args.policy, None)?;
    installation::check_new("public signing key", &args.signing_key)?;
    let Installation { config, state } = Installation::open(config).await?;
    if let Some(tenant) = state.tenants().await?.first() {
        let fact = format!("there is an installation already: the state has the tenant {}", tenant.id.as_str());
        return Err(Failure::new(Code::InUse, fact)
            .remedy("add tenants with envelopefs-keyserver tenant add, or name another state in state.url"));
    }
    let cluster = installation::cluster(&config, &args.pin)?;
    if args.change.dry_run {
        match args.change.json {
            true => say!("{}", json!({"dry_run": true, "tenant": args.tenant.as_str()})),
            false => say!(
                "Dry run, would make a domain key and a signing key in the tokens, and the tenant {} with its customer key.",
                args.tenant.as_str()
            ),
        }
        return Ok(Exit::SUCCESS);
    }
    let domain = match state.domain_key().await? {
        Some(id) => KeyId(id),
        None => {
            let id = KeyId::random();
            cluster.make_domain_key(id)?;
            state.add_domain_key(id.0).await?;
            id
        }
    };
    if state.signing_key().await?.is_none() {
        let id = KeyId::random();
        let key = cluster.make_signing_key(id)?;
        state.add_signing_key(id.0, key.spki(), None).await?;
    }
    let signing = state.signing_key().await?.ok_or_else(installation::uninitialised)?;
    let key = public(&signing)?;
    installation::write_new("public signing key", &args.signing_key, 0o644, key.to_pem().as_bytes())?;
    let signer = HsmSigner::new(Arc::clone(&cluster), KeyId(signing.id), &signing.spki);
    let audit = Audit::start(state.clone(), Arc::new(signer), config.audit.settings());
    let opened = Opened { state, cluster, audit, signing };
    tenant::make(&opened, &args.tenant, &args.account_id, &policy, domain).await?;
    let more = [
        ("domain_key", domain.to_string()),
        ("signing_key_sha256", key.id()),
        ("tenant", args.tenant.as_str().to_owned()),
    ];
    opened.note("init", since, &more).await?;
    if args.change.json {
        say!(
            "{}",
            json!({
                "tenant": args.tenant.as_str(),
                "domain_key": domain.to_string(),
                "signing_key": {"id": KeyId(opened.signing.id).to_string(), "sha256": key.id(), "pem": args.signing_key},
            })
        );
    } else {
        say!("An installation with the tenant {}.", args.tenant.as_str());
        say!("Domain key:  {domain}");
        say!("Signing key: {}", KeyId(opened.signing.id));
        say!("  its public half, which machines pin and logs are verified by: {}", args.signing_key.display());
        say!("  its SHA-256: {}", key.id());
        say!("Back the tokens up by their vendor's means: without these two keys no secret opens again.");
    }
    Ok(Exit::SUCCESS)
}
