//! The verbs of `envelopefs-keyserver`, a file each: they compose the server's rooms, speak with the operator and map errors to exit codes.

/// Prints a line. Unlike `println!`, it leaves a reader that has seen enough, as head(1) has, in peace.
macro_rules! say {
    ($($text:tt)*) => {{
        use std::io::Write;
        let _ = writeln!(std::io::stdout(), $($text)*);
    }};
}

mod audit;
mod backup;
mod check_config;
mod generate;
mod host;
mod init;
mod installation;
mod key;
mod log;
mod pin;
mod probe;
mod serve;
mod tenant;
mod token;

use super::cli::{Cli, Command};
use super::config::ConfigError;
use crate::cmd::failure::{Code, Failure, Result, sources};
use crate::keys::ProviderError;
use crate::sys::process::Exit;

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        let remedy = Some(error.remedy()).filter(|remedy| !remedy.is_empty());
        Failure { code: Code::Usage, fact: error.to_string(), causes: sources(&error), remedy }
    }
}

/// What is not set up, on this host rather than in a token.
fn not_set_up(error: ProviderError) -> Failure {
    Failure { code: Code::Failure, fact: error.to_string(), causes: sources(&error), remedy: error.remedy() }
}

/// Runs a parsed command to its end.
pub fn run(cli: Cli) -> Exit {
    let config = cli.config.as_path();
    let outcome = match cli.command {
        Command::Init(args) => in_runtime(init::run(config, args)),
        Command::Serve(args) => serve(config, args),
        Command::Status(args) => host::status(config, args),
        Command::Tenant(command) => in_runtime(tenant::run(config, command)),
        Command::Token(command) => in_runtime(token::run(config, command)),
        Command::Key(command) => in_runtime(key::run(config, command)),
        Command::Audit(command) => in_runtime(audit::run(config, command)),
        Command::Backup(args) => in_runtime(backup::backup(config, args)),
        Command::Restore(args) => in_runtime(backup::restore(config, args)),
        Command::Pin(args) => pin::run(config, args),
        Command::Probe(args) => probe::run(config, args),
        Command::CheckConfig(args) => check_config::run(config, args),
        Command::Generate(args) => generate::run(args),
    };
    outcome.unwrap_or_else(|failure| failure.report("envelopefs-keyserver"))
}

/// Runs a verb that waits for the state. Signatures are made on threads of their own; one thread does for the rest.
fn in_runtime(verb: impl Future<Output = Result<Exit>>) -> Result<Exit> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| Failure::new(Code::Failure, "cannot start the runtime").because(&error))?.block_on(verb)
}

/// Serves on all processors.
fn serve(config: &std::path::Path, args: super::cli::Serve) -> Result<Exit> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime
        .map_err(|error| Failure::new(Code::Failure, "cannot start the runtime").because(&error))?
        .block_on(serve::run(config, args))
}

/// Keeps what this process will know to itself, or refuses to go on.
fn harden() -> Result<()> {
    let hardened = crate::sys::memory::harden_process()
        .map_err(|error| Failure::new(Code::Failure, "cannot protect the memory of this process").because(&error))?;
    tracing::debug!(all_memory_locked = hardened.all_memory_locked, "process hardened");
    Ok(())
}
