//! The `envelopefs` command: parse, run, exit code.

use std::process::ExitCode;

use clap::Parser;
use envelopefs::{cli, cmd};

fn main() -> ExitCode {
    cmd::run(cli::Cli::parse_from(cli::with_verb(std::env::args_os())))
}
