//! `envelopefs-keyserver check-config`: what can be known without touching tokens or the state.

use std::path::Path;

use serde_json::json;

use super::{Exit, Result, log};
use crate::server::cli::CheckConfig;
use crate::server::config::Config;

pub(super) fn run(path: &Path, args: CheckConfig) -> Result<Exit> {
    let config = Config::load(path)?;
    log::filter(&config.log.level)?;
    let insecure = config.insecure();
    if args.output.json {
        say!("{}", json!({"config": path, "insecure": insecure}));
    } else {
        say!("{} is right.", path.display());
        for setting in insecure {
            say!("It weakens the server: {setting}");
        }
    }
    Ok(Exit::SUCCESS)
}
