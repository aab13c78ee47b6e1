//! `envelopefs-keyserver tenant`: tenants and what they allow.

use std::path::Path;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::installation::{self, Installation, Opened};
use super::{Code, Exit, Failure, Result, harden};
use crate::api::Tenant;
use crate::server::cli::{
    AccountId, Convert, Output, PolicyArgs, TenantAdd, TenantCommand, TenantSet, TenantShow, TenantSwitch,
};
use crate::server::hsm::KeyId;
use crate::server::identity;
use crate::server::policy::Policy;
use crate::server::state::{State, StateError, TenantRecord};

/// Longest file that a policy is made of, in bytes.
const MAX_FILE: u64 = 1 << 20;

pub(super) async fn run(config: &Path, command: TenantCommand) -> Result<Exit> {
    match command {
        TenantCommand::Add(args) => add(config, args).await,
        TenantCommand::List(args) => list(config, &args).await,
        TenantCommand::Show(args) => show(config, &args).await,
        TenantCommand::Set(args) => set(config, args).await,
        TenantCommand::Disable(args) => switch(config, args, false).await,
        TenantCommand::Enable(args) => switch(config, args, true).await,
    }
}

async fn add(config: &Path, args: TenantAdd) -> Result<Exit> {
    harden()?;
    let policy = policy_of(&args.policy, None)?;
    let installation = Installation::open_initialised(config).await?;
    if installation.state.tenant(&args.tenant).await?.is_some() {
        return Err(Failure::new(Code::InUse, format!("there is a tenant {} already", args.tenant.as_str()))
            .remedy("change it with envelopefs-keyserver tenant set"));
    }
    let opened = installation.log_in(&args.pin).await?;
    if !args.change.dry_run {
        let domain = opened.state.domain_key().await?.ok_or_else(installation::uninitialised)?;
        make(&opened, &args.tenant, &args.account_id, &policy, KeyId(domain)).await?;
    }
    tell(args.change.json, args.change.dry_run, "add", "Added", &args.tenant, &policy);
    Ok(Exit::SUCCESS)
}

/// Adds a tenant with its customer key, and notes it.
pub(super) async fn make(
    opened: &Opened,
    tenant: &Tenant,
    account_id: &AccountId,
    policy: &Value,
    domain: KeyId,
) -> Result<()> {
    let since = Timestamp::now();
    // First the key: a tenant without one would get it on a request's path.
    let key = opened.cluster.make_customer_key(domain, tenant, 1)?;
    opened.state.add_tenant(tenant, &account_id.0, policy).await?;
    opened.state.insert_first_customer_key(tenant, domain.0, &key.wrapped).await?;
    let more = [
        ("tenant", tenant.as_str().to_owned()),
        ("account_id", account_id.0.clone()),
        ("policy_sha256", policy_hash(policy)),
    ];
    opened.note("tenant-add", since, &more).await
}

async fn list(config: &Path, args: &Output) -> Result<Exit> {
    let installation = Installation::open_initialised(config).await?;
    let tenants = installation.state.tenants().await?;
    if args.json {
        say!("{}", Value::Array(tenants.iter().map(described).collect()));
        return Ok(Exit::SUCCESS);
    }
    for tenant in tenants {
        let state = if tenant.active { "active" } else { "DISABLED" };
        say!("{:<24} {:<16} {state:<8} since {}", tenant.id.as_str(), tenant.account_id, tenant.created_at);
    }
    Ok(Exit::SUCCESS)
}

async fn show(config: &Path, args: &TenantShow) -> Result<Exit> {
    let installation = Installation::open_initialised(config).await?;
    let tenant = existing(&installation.state, &args.tenant).await?;
    let text = if args.output.json {
        described(&tenant).to_string()
    } else {
        serde_json::to_string_pretty(&described(&tenant)).unwrap_or_default()
    };
    say!("{text}");
    Ok(Exit::SUCCESS)
}

async fn set(config: &Path, args: TenantSet) -> Result<Exit> {
    harden()?;
    let since = Timestamp::now();
    let installation = Installation::open_initialised(config).await?;
    let tenant = existing(&installation.state, &args.tenant).await?;
    let policy = policy_of(&args.policy, Some(&tenant.policy))?;
    if policy == tenant.policy {
        return Err(Failure::new(Code::Usage, "nothing would change").remedy("name what it allows from now on: --help"));
    }
    let opened = installation.log_in(&args.pin).await?;
    if !args.change.dry_run {
        opened.state.set_tenant_policy(&args.tenant, &policy).await?;
        let more = [("tenant", args.tenant.as_str().to_owned()), ("policy_sha256", policy_hash(&policy))];
        opened.note("tenant-set", since, &more).await?;
    }
    tell(args.change.json, args.change.dry_run, "change", "Changed", &args.tenant, &policy);
    Ok(Exit::SUCCESS)
}

async fn switch(config: &Path, args: TenantSwitch, active: bool) -> Result<Exit> {
    harden()?;
    let since = Timestamp::now();
    let installation = Installation::open_initialised(config).await?;
    let tenant = existing(&installation.state, &args.tenant).await?;
    let (would, did, name) = match active {
        true => ("enable", "Enabled", "tenant-enable"),
        false => ("disable", "Disabled", "tenant-disable"),
    };
    if !args.change.dry_run {
        if active {
            let opened = installation.log_in(&args.pin).await?;
            opened.state.set_tenant_active(&args.tenant, true).await?;
            opened.note(name, since, &[("tenant", args.tenant.as_str().to_owned())]).await?;
        } else {
            // Before the PIN is asked for: nothing may stand between an operator and this.
            installation.state.set_tenant_active(&args.tenant, false).await?;
            let noted = async {
                let opened = installation.log_in(&args.pin).await?;
                opened.note(name, since, &[("tenant", args.tenant.as_str().to_owned())]).await
            };
            noted.await.map_err(|failure| done_but(failure, "the tenant is disabled"))?;
        }
    }
    tell(args.change.json, args.change.dry_run, would, did, &args.tenant, &tenant.policy);
    Ok(Exit::SUCCESS)
}

/// A failure after what mattered was done.
pub(super) fn done_but(mut failure: Failure, done: &str) -> Failure {
    failure.causes.insert(0, std::mem::take(&mut failure.fact));
    failure.fact = format!("{done}, but the audit log does not have it");
    failure
}

fn tell(json: bool, dry_run: bool, would: &str, did: &str, tenant: &Tenant, policy: &Value) {
    match (json, dry_run) {
        (true, _) => say!("{}", json!({"tenant": tenant.as_str(), "policy": policy, "dry_run": dry_run})),
        (false, true) => say!("Dry run, would {would} the tenant {}.", tenant.as_str()),
        (false, false) => say!("{did} the tenant {}.", tenant.as_str()),
    }
}

/// The tenant, or a failure that says that there is none.
pub(super) async fn existing(state: &State, tenant: &Tenant) -> Result<TenantRecord> {
    state.tenant(tenant).await?.ok_or_else(|| {
        Failure::new(Code::Failure, format!("there is no tenant {}", tenant.as_str()))
            .remedy("envelopefs-keyserver tenant list names them")
    })
}

fn described(tenant: &TenantRecord) -> Value {
    json!({
        "tenant": tenant.id.as_str(),
        "account_id": tenant.account_id,
        "active": tenant.active,
        "created_at": tenant.created_at,
        "policy": tenant.policy,
    })
}

fn policy_hash(policy: &Value) -> String {
    crate::api::hex(&crate::crypto::sha256(policy.to_string().as_bytes()))
}

/// The policy that options describe: a file's or the one until now, changed by the others. Checked as the server will read it.
pub(super) fn policy_of(args: &PolicyArgs, until_now: Option<&Value>) -> Result<Value> {
    let mut policy = match &args.policy {
        Some(path) => json_file("policy", path)?,
        None => until_now.cloned().unwrap_or_else(|| json!({"identities": []})),
    };
    let wrong = |fact: &str| {
        Failure::new(Code::Usage, format!("the policy {fact}")).remedy("contrib/keyserver/README.md shows one")
    };
    let members = policy.as_object_mut().ok_or_else(|| wrong("is no JSON object"))?;
    change_identities(args, members)?;
    if let Some(convert) = &args.convert {
        let value = match convert {
            Convert::Off => json!("off"),
            Convert::Any => json!("any"),
            Convert::From(instances) => json!({"from": instances}),
        };
        members.insert("convert".into(), value);
    }
    for (name, value) in [("requests_per_second", args.requests_per_second), ("burst", args.burst)] {
        if let Some(value) = value {
            members.insert(name.into(), value.into());
        }
    }
    match args.attestation.as_deref() {
        None => {}
        Some(path) if path == Path::new("none") => {
            members.remove("attestation");
        }
        Some(path) => {
            members.insert("attestation".into(), json_file("attestation policy", path)?);
        }
    }
    if members.get("identities").and_then(Value::as_array).is_none_or(Vec::is_empty) {
        return Err(Failure::new(Code::Usage, "nobody could call: the policy names no identity")
            .remedy("name how callers show who they are: --ca, --tokens, --gateway"));
    }
    let checked = Policy::parse(&policy).and_then(|_| identity::check(&policy));
    checked.map_err(|error| wrong("is not right").because(&error))?;
    Ok(policy)
}

/// Sets what the options name; what they do not name stays.
fn change_identities(args: &PolicyArgs, members: &mut Map<String, Value>) -> Result<()> {
    let wrong = || Failure::new(Code::Usage, "the policy's identities are no list").remedy("write \"identities\": []");
    let list = members.entry("identities").or_insert_with(|| json!([])).as_array_mut().ok_or_else(wrong)?;
    let mut set = |name: &str, value: Value| {
        match list.iter_mut().find_map(|identity| identity.get_mut(name)) {
            Some(old) => *old = value,
            None => list.push(json!({ name: value })),
        };
    };
    if let Some(path) = &args.ca {
        let mut certificate = json!({"ca": text_file("authority's certificate", path)?});
        if let Some(path) = &args.crl {
            certificate["crl"] = text_file("revocation list", path)?.into();
        }
        set("certificate", certificate);
    }
    if args.tokens {
        set("token", json!({}));
    }
    if args.gateway {
        set("gateway", json!({}));
    }
    if !args.insecure_address.is_empty() {
        let rules = args.insecure_address.iter();
        let rules = rules.map(|rule| json!({"instance": rule.instance, "cidr": rule.network.to_string()})).collect();
        set("insecure_address_map", Value::Array(rules));
    }
    if let (None, Some(path)) = (&args.ca, &args.crl) {
        let crl = text_file("revocation list", path)?;
        let certificate = list.iter_mut().find_map(|identity| identity.get_mut("certificate"));
        let certificate = certificate.and_then(Value::as_object_mut).ok_or_else(|| {
            Failure::new(Code::Usage, "a revocation list without an authority").remedy("name the authority: --ca")
        })?;
        certificate.insert("crl".into(), crl.into());
    }
    Ok(())
}

fn text_file(what: &str, path: &Path) -> Result<String> {
    use std::io::Read;
    let mut text = String::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(MAX_FILE + 1).read_to_string(&mut text));
    let failed = |error: &dyn std::error::Error| {
        Failure::new(Code::Failure, format!("cannot read the {what} {}", path.display())).because(error)
    };
    read.map_err(|error| failed(&error))?;
    if text.len() as u64 > MAX_FILE {
        return Err(failed(&std::io::Error::other("it has more than 1 MiB")));
    }
    Ok(text)
}

fn json_file(what: &str, path: &Path) -> Result<Value> {
    serde_json::from_str(&text_file(what, path)?)
        .map_err(|error| Failure::new(Code::Usage, format!("the {what} {} is no JSON", path.display())).because(&error))
}

impl From<StateError> for Failure {
    fn from(error: StateError) -> Self {
        let (code, remedy) = match &error {
            StateError::Setup { fact, remedy } => {
                return Failure::new(Code::Usage, format!("state.url: {fact}")).remedy(*remedy);
            }
            StateError::Newer { .. } => {
                (Code::Unsupported, "use the program that it was last used with, or a newer one")
            }
            StateError::Exists(_) => (Code::InUse, "look at what there is, and choose another name"),
            StateError::Damaged(_) => (Code::Damaged, "restore the state from a backup: envelopefs-keyserver restore"),
            StateError::Away(_) => (Code::Failure, "look whether the database of state.url runs and can be reached"),
            StateError::Full(_) => (Code::Failure, "make room for the database of state.url"),
            StateError::Missing(_) => (Code::Failure, "look at what there is now, and try again"),
            StateError::Refused(_) => (Code::Usage, "choose another value"),
            StateError::Database(_) => (Code::Failure, "the database's own log says more"),
        };
        Failure { code, fact: error.to_string(), causes: super::sources(&error), remedy: Some(remedy.into()) }
    }
}
