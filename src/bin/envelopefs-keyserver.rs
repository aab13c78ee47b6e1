//! The `envelopefs-keyserver` command: parse, run, exit code.

use std::process::ExitCode;

use clap::Parser;
use envelopefs::server::{cli, cmd};

fn main() -> ExitCode {
    cmd::run(cli::Cli::parse())
}
