//! `envelopefs-keyserver generate`: man pages and completions, from the grammar.

use clap::CommandFactory;
use clap_complete::Shell;

use super::{Code, Exit, Failure, Result};
use crate::server::cli::{Cli, Generate, Generated};

pub(super) fn run(args: Generate) -> Result<Exit> {
    let command = Cli::command();
    let outcome = std::fs::create_dir_all(&args.directory).and_then(|()| match args.what {
        Generated::Man => clap_mangen::generate_to(command, &args.directory),
        Generated::Completions => [Shell::Bash, Shell::Zsh, Shell::Fish].into_iter().try_for_each(|shell| {
            clap_complete::generate_to(shell, &mut command.clone(), "envelopefs-keyserver", &args.directory).map(|_| ())
        }),
    });
    outcome.map_err(|error| {
        Failure::new(Code::Failure, format!("cannot write into {}", args.directory.display())).because(&error)
    })?;
    Ok(Exit::SUCCESS)
}
