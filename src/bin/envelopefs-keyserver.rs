//! The `envelopefs-keyserver` command: parse, run, exit code.

use clap::Parser;
use envelopefs::server::{cli, cmd};
use envelopefs::sys::process::Exit;

fn main() -> Exit {
    cmd::run(cli::Cli::parse())
}
