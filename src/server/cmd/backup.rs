//! `envelopefs-keyserver backup` and `restore`: the state as a file, and a state from it.

use std::path::Path;

use serde_json::{Value, json};

use super::installation::Installation;
use super::{Code, Exit, Failure, Result, audit, sources};
use crate::server::cli::{Backup, Restore};
use crate::server::state::{Continue, ExportError};

pub(super) async fn backup(config: &Path, args: Backup) -> Result<Exit> {
    let Installation { state, .. } = Installation::open_initialised(config).await?;
    let moved = state.backup(&args.file).await?;
    if args.output.json {
        say!("{}", json!({"file": args.file, "rows": moved.rows}));
    } else {
        say!("The state is in {}, {} rows.", args.file.display(), moved.rows);
        say!(
            "The HSM's keys are not in it, and without them it opens nothing: back the tokens up by their vendor's means."
        );
    }
    Ok(Exit::SUCCESS)
}

pub(super) async fn restore(config: &Path, args: Restore) -> Result<Exit> {
    let Installation { config, state } = Installation::open(config).await?;
    let how = match (args.stopped, args.above) {
        (true, _) => Continue::Here,
        (false, Some(number)) => Continue::Above(number),
        (false, None) => {
            let keys = audit::pinned(&args.key)?;
            let copies = args.after.iter().map(|source| audit::copies(Some(&config), source)).collect::<Result<_>>()?;
            Continue::After(copies, keys)
        }
    };
    let moved = state.restore(&args.file, &how).await?;
    if args.output.json {
        let logs = moved.brought_in.iter().map(|(log, records)| json!({"log": log.as_str(), "records": records}));
        say!("{}", json!({"rows": moved.rows, "brought_in": logs.collect::<Value>()}));
    } else {
        say!("The state is restored, {} rows.", moved.rows);
        for (log, records) in &moved.brought_in {
            say!("{log}: {records} records that are newer than the backup were brought in.");
        }
    }
    Ok(Exit::SUCCESS)
}

impl From<ExportError> for Failure {
    fn from(error: ExportError) -> Self {
        let (code, remedy) = match error {
            ExportError::State(error) => return error.into(),
            ExportError::File { .. } => {
                (Code::Failure, "name a file that can be read, or for a backup one that is not there yet")
            }
            ExportError::Damaged { .. } => (Code::Damaged, "take another backup: of this one nothing was restored"),
            ExportError::NotEmpty(_) => {
                (Code::InUse, "name a new database in state.url: a restore adds to none that is in use")
            }
            ExportError::Copies(_) => (
                Code::Damaged,
                "verify the copies: envelopefs-keyserver audit verify. With --above, numbers go on without them",
            ),
        };
        Failure { code, fact: error.to_string(), causes: sources(&error), remedy: Some(remedy.into()) }
    }
}
