//! SQLite as the judge: a database on a mounted volume over the simulator, whose own check and last acknowledged transaction decide.
//!
//! A rollback journal or WAL that was new and never flushed may be damaged, as any such file (and SQLite then wants it removed, where a
//! torn one would have been ignored). The database is then judged without it: it must not have been needed.
//!
//! Needs `/dev/fuse` and the right to mount; skipped, saying so, without them.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::sync::{Arc, mpsc};

use envelopefs::fuse::session::{self, SessionOptions, Unmount};
use rusqlite::Connection;

use super::explore::{Crash, Judge, Outcome, explore, replay};
use super::judge::{Found, Loss};
use super::workloads::pattern;
use super::world::{FIRST_BOOT, Run, mount, new_volume};

/// Transactions of a run.
const TRANSACTIONS: u32 = 12;
const DATABASE: &str = "db";

/// Positions in the log between which each transaction, by its number, began and was acknowledged.
struct Transactions(Vec<(usize, usize)>);

/// What the database is after so many transactions: the number of each row's last change, by row.
fn rows_after(transactions: u32) -> BTreeMap<u32, u32> {
    let mut rows = BTreeMap::new();
    for number in 1..=transactions {
        rows.insert(number, number);
        rows.insert(1 + number / 2, number);
    }
    rows
}

fn payload(row: u32, number: u32) -> Vec<u8> {
    pattern(u64::from(row) << 32 | u64::from(number), 100 + 900 * (number % 4) as usize)
}

fn transact(database: &mut Connection, number: u32) -> rusqlite::Result<()> {
    let transaction = database.transaction()?;
    for row in [number, 1 + number / 2] {
        transaction.execute("INSERT OR REPLACE INTO t VALUES (?1, ?2, ?3)", (row, number, payload(row, number)))?;
    }
    transaction.commit()
}

/// Runs transactions on a mounted volume; `None` where nothing can be mounted.
fn record(mode: &str) -> Option<(Run, Transactions)> {
    if !rustix::process::geteuid().is_root() || !Path::new("/dev/fuse").exists() {
        eprintln!("skipped: needs root and /dev/fuse");
        return None;
    }
    let (volume, ring) = new_volume();
    let fs = Arc::new(mount(volume.root(), &ring, FIRST_BOOT, None).expect("the first mount"));
    volume.take_log();
    let base = volume.image();
    let at = tempfile::tempdir().expect("a mount point");
    let options = SessionOptions { source: "simulated".into(), threads: 2, ..SessionOptions::default() };
    let mounted = session::mount(fs, at.path(), &options).expect("the mount");
    let (ready, is_ready) = mpsc::channel();
    let serving = std::thread::spawn(move || mounted.run(move || ready.send(()).expect("somebody waits"), None));
    is_ready.recv().expect("the mount answers");

    let mut positions = Vec::new();
    let mut transactions = || -> rusqlite::Result<()> {
        let begun = volume.position();
        let mut database = Connection::open(at.path().join(DATABASE))?;
        // Nothing of the mount is mapped into memory: a page fault that this process's own event threads are to serve would lock
        // the memory map that they need.
        database.pragma_update(None, "mmap_size", 0)?;
        if mode == "WAL" {
            database.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
        }
        database.pragma_update(None, "journal_mode", mode)?;
        // The journal's removal is the commit: without this, SQLite does not wait for that to be durable.
        database.pragma_update(None, "synchronous", "EXTRA")?;
        database.pragma_update(None, "wal_autocheckpoint", 10)?;
        database.execute("CREATE TABLE t (row INTEGER PRIMARY KEY, number INTEGER, payload BLOB)", ())?;
        positions.push((begun, volume.position()));
        for number in 1..=TRANSACTIONS {
            let begun = volume.position();
            transact(&mut database, number)?;
            positions.push((begun, volume.position()));
        }
        Ok(())
    };
    let outcome = transactions();
    // Before the clean end adds to it.
    let log = volume.take_log();
    session::unmount(at.path(), Unmount::Lazy).expect("unmount");
    serving.join().expect("the session").expect("a clean end");
    outcome.expect("the transactions");
    let run =
        Run { base, log, ring, broken_rule: None, files: Vec::new(), snapshots: Vec::new(), name_marks: Vec::new() };
    Some((run, Transactions(positions)))
}

impl Judge for Transactions {
    fn check(&self, found: &Found, point: usize, _loss: Loss) -> Result<(), String> {
        let acknowledged = self.0.iter().filter(|(_, acknowledged)| *acknowledged <= point).count();
        let begun = self.0.iter().filter(|(begun, _)| *begun < point).count();
        let scratch = tempfile::tempdir().map_err(|error| error.to_string())?;
        for suffix in ["", "-wal", "-journal"] {
            let name = format!("{DATABASE}{suffix}");
            match bytes_of(found, OsStr::new(&name)) {
                Ok(None) => {}
                Ok(Some(bytes)) => {
                    std::fs::write(scratch.path().join(&name), bytes).map_err(|error| error.to_string())?
                }
                // A database that never was durable.
                Err(_) if acknowledged == 0 => return Ok(()),
                // A journal that never was: as it may be damaged, nothing may depend on it, so all must be there without.
                Err(_) if !suffix.is_empty() => {}
                Err(error) => return Err(format!("{name}: {error}")),
            }
        }
        let rows = read_database(&scratch.path().join(DATABASE)).map_err(|error| error.to_string())?;
        match rows {
            None if acknowledged == 0 => Ok(()),
            // The table's creation is the first of the transactions.
            Some(rows) if (acknowledged.max(1)..=begun).any(|done| rows == rows_after(done as u32 - 1)) => Ok(()),
            rows => Err(format!("{acknowledged} to {begun} transactions should be there, not {rows:?}")),
        }
    }
}

fn bytes_of(found: &Found, name: &OsStr) -> Result<Option<Vec<u8>>, String> {
    let Found::Dir(entries) = found else { return Err("no directory".into()) };
    match entries.get(&OsString::from(name)) {
        None => Ok(None),
        Some(Found::File(file)) => file.bytes().map(Some),
        Some(other) => Err(format!("{other:?}")),
    }
}

/// The rows, or `None` where there is no table yet; the error is SQLite's or what its check says.
fn read_database(path: &Path) -> Result<Option<BTreeMap<u32, u32>>, Box<dyn std::error::Error>> {
    let database = Connection::open(path)?;
    let check: String = database.query_row("PRAGMA integrity_check", (), |row| row.get(0))?;
    if check != "ok" {
        return Err(check.into());
    }
    if !database.table_exists(None, "t")? {
        return Ok(None);
    }
    let mut query = database.prepare("SELECT row, number, payload FROM t")?;
    let rows = query.query_map((), |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    let mut found = BTreeMap::new();
    for row in rows {
        let (row, number, bytes): (u32, u32, Vec<u8>) = row?;
        if bytes != payload(row, number) {
            return Err(format!("row {row} has a payload that nobody wrote").into());
        }
        found.insert(row, number);
    }
    Ok(Some(found))
}

/// The journal modes with the names of their runs.
const MODES: [(&str, &str); 2] = [("sqlite_wal", "WAL"), ("sqlite_rollback", "DELETE")];

fn survives(name: &str) {
    let mode = MODES.iter().find(|(known, _)| *known == name).expect("a run of that name").1;
    let Some((run, transactions)) = record(mode) else { return };
    let outcome = explore(name, &run, &transactions, super::wanted_states(), super::threads());
    super::judge_outcome(name, &run, &outcome);
}

/// Judges one crash of a new run; `None` if the name is not of one here. The kernel decides when it writes back, so the run may differ a
/// little from the one that failed.
pub fn replayed(name: &str, crash: Crash) -> Option<Outcome> {
    let (_, mode) = MODES.iter().find(|(known, _)| *known == name)?;
    let (run, transactions) = record(mode)?;
    Some(replay(name, &run, &transactions, crash))
}

#[test]
fn sqlite_wal() {
    survives("sqlite_wal");
}

#[test]
fn sqlite_rollback() {
    survives("sqlite_rollback");
}
