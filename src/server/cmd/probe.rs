//! `envelopefs-keyserver probe`: what the tokens can do, tried.

use std::path::Path;

use serde_json::{Value, json};

use super::{Code, Exit, Failure, Result, harden, installation};
use crate::server::cli::Probe;
use crate::server::config::Config;
use crate::server::hsm::TokenStatus;

pub(super) fn run(config: &Path, args: Probe) -> Result<Exit> {
    harden()?;
    let config = Config::load(config)?;
    let cluster = installation::cluster(&config, &args.pin)?;
    // Logging in has tried the mechanisms with keys of its own; this tries the installation's keys, if they are there.
    let keys = cluster.probe();
    let tokens = cluster.status();
    if args.output.json {
        let described = tokens.iter().map(described).collect::<Value>();
        say!("{}", json!({"tokens": described, "keys": keys.as_ref().err().map(ToString::to_string)}));
    } else {
        tokens.iter().for_each(tell);
    }
    if let Some(broken) = tokens.iter().find(|token| !token.healthy) {
        return Err(Failure::new(Code::Provider, format!("{} cannot be used", broken.name))
            .remedy("what it last failed with stands above; contrib/keyserver/README.md says what is known of HSMs"));
    }
    keys.map_err(Failure::from)?;
    if !args.output.json {
        say!("The installation's keys sign, derive, wrap and unwrap, and refuse a wrong context.");
    }
    Ok(Exit::SUCCESS)
}

fn described(token: &TokenStatus) -> Value {
    json!({
        "token": token.name,
        "module": token.module,
        "healthy": token.healthy,
        "kdf": token.kdf.map(|kdf| kdf.word()),
        "oaep": token.oaep.map(|oaep| oaep.word()),
        "last_error": token.last_error,
    })
}

fn tell(token: &TokenStatus) {
    say!("{} by {}: {}", token.name, token.module.display(), if token.healthy { "works" } else { "DOES NOT WORK" });
    if let Some(kdf) = token.kdf {
        say!("  derives keys by {}", kdf.word());
    }
    if let Some(oaep) = token.oaep {
        say!("  secrets are encrypted to callers in: {}", oaep.word());
    }
    if let Some(error) = &token.last_error {
        say!("  last error: {error}");
    }
}
