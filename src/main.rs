//! The `envelopefs` command: parse, run, exit code.

use clap::Parser;
use envelopefs::sys::process::Exit;
use envelopefs::{cli, cmd};

fn main() -> Exit {
    cmd::run(cli::Cli::parse_from(cli::with_verb(std::env::args_os())))
}
