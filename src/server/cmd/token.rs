//! `envelopefs-keyserver token`: bearer tokens, of which the state keeps hashes.

use std::path::Path;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jiff::Timestamp;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::installation::{self, Installation};
use super::{Code, Exit, Failure, Result, harden, tenant};
use crate::api::hex;
use crate::crypto::secret::Secret;
use crate::crypto::sha256;
use crate::server::cli::{TokenAdd, TokenCommand, TokenDisable, TokenList};
use crate::server::state::{NewToken, TokenRecord};

/// What tokens begin with, so that those who look for leaked secrets know one.
const PREFIX: &str = "efsk_";

pub(super) async fn run(config: &Path, command: TokenCommand) -> Result<Exit> {
    match command {
        TokenCommand::Add(args) => add(config, args).await,
        TokenCommand::List(args) => list(config, &args).await,
        TokenCommand::Disable(args) => disable(config, args).await,
    }
}

async fn add(config: &Path, args: TokenAdd) -> Result<Exit> {
    harden()?;
    let since = Timestamp::now();
    installation::check_new("token", &args.out)?;
    let installation = Installation::open_initialised(config).await?;
    let record = tenant::existing(&installation.state, &args.tenant).await?;
    let identities = record.policy.get("identities").and_then(Value::as_array);
    if !identities.is_some_and(|identities| identities.iter().any(|identity| identity.get("token").is_some())) {
        return Err(Failure::new(Code::Failure, format!("the tenant {} does not allow tokens", args.tenant.as_str()))
            .remedy("allow them: envelopefs-keyserver tenant set TENANT --tokens"));
    }
    let expires_at = since
        .checked_add(args.expires_in.0)
        .map_err(|error| Failure::new(Code::Usage, "the token would end after the end of times").because(&error))?;
    let opened = installation.log_in(&args.pin).await?;
    let random = Secret::<32>::random();
    let mut token = Zeroizing::new(String::with_capacity(PREFIX.len() + 44));
    token.push_str(PREFIX);
    BASE64_URL_SAFE_NO_PAD.encode_string(random.expose(), &mut token);
    let hash = sha256(token.as_bytes());
    if !args.change.dry_run {
        token.push('\n');
        installation::write_new("token", &args.out, 0o600, token.as_bytes())?;
        let new = NewToken { hash, tenant: &args.tenant, instances: &args.instance, expires_at: Some(expires_at) };
        let stored = opened.state.add_token(&new).await;
        if let Err(error) = stored {
            // A token that the server does not know helps nobody.
            let _ = std::fs::remove_file(&args.out);
            return Err(error.into());
        }
        let instances = args.instance.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let more = [("tenant", args.tenant.as_str().to_owned()), ("token", hex(&hash)), ("instances", instances)];
        opened.note("token-add", since, &more).await?;
    }
    match (args.change.json, args.change.dry_run) {
        (true, dry_run) => {
            let id = (!dry_run).then(|| hex(&hash));
            say!("{}", json!({"id": id, "file": args.out, "expires_at": expires_at.to_string(), "dry_run": dry_run}));
        }
        (false, true) => say!("Dry run, would write a token into {}.", args.out.display()),
        (false, false) => {
            say!("A token is in {}, and nowhere else; it ends at {expires_at}.", args.out.display());
            say!("Its id: {}", hex(&hash));
        }
    }
    Ok(Exit::SUCCESS)
}

async fn list(config: &Path, args: &TokenList) -> Result<Exit> {
    let installation = Installation::open_initialised(config).await?;
    tenant::existing(&installation.state, &args.tenant).await?;
    let tokens = installation.state.tokens(&args.tenant).await?;
    if args.output.json {
        say!("{}", Value::Array(tokens.iter().map(described).collect()));
        return Ok(Exit::SUCCESS);
    }
    for token in tokens {
        let state = match token.expires_at {
            _ if token.disabled => "disabled".to_owned(),
            Some(at) if at <= Timestamp::now() => format!("over since {at}"),
            Some(at) => format!("until {at}"),
            None => "without end".to_owned(),
        };
        let instances = token.instances.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        say!("{}  {state}  for {instances}", hex(&token.hash));
    }
    Ok(Exit::SUCCESS)
}

fn described(token: &TokenRecord) -> Value {
    json!({
        "id": hex(&token.hash),
        "instances": token.instances,
        "expires_at": token.expires_at.map(|at| at.to_string()),
        "disabled": token.disabled,
        "created_at": token.created_at,
    })
}

async fn disable(config: &Path, args: TokenDisable) -> Result<Exit> {
    harden()?;
    let since = Timestamp::now();
    let installation = Installation::open_initialised(config).await?;
    let tokens = installation.state.tokens(&args.tenant).await?;
    // Eight digits will do where they name one only.
    let mut named = tokens.iter().filter(|token| args.id.len() >= 8 && hex(&token.hash).starts_with(&args.id));
    let (Some(token), None) = (named.next(), named.next()) else {
        return Err(Failure::new(
            Code::Failure,
            format!("the tenant {} has no one token {}", args.tenant.as_str(), args.id),
        )
        .remedy("envelopefs-keyserver token list names them; the first eight digits will do, or more"));
    };
    let id = hex(&token.hash);
    if !args.change.dry_run {
        // Before the PIN is asked for: nothing may stand between an operator and this.
        installation.state.disable_token(&token.hash).await?;
        let noted = async {
            let opened = installation.log_in(&args.pin).await?;
            let more = [("tenant", args.tenant.as_str().to_owned()), ("token", id.clone())];
            opened.note("token-disable", since, &more).await
        };
        noted.await.map_err(|failure| tenant::done_but(failure, "the token is disabled"))?;
    }
    match (args.change.json, args.change.dry_run) {
        (true, dry_run) => say!("{}", json!({"id": id, "dry_run": dry_run})),
        (false, true) => say!("Dry run, would disable the token {id}."),
        (false, false) => say!("Disabled the token {id}."),
    }
    Ok(Exit::SUCCESS)
}
