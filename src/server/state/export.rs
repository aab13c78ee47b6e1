//! Backup and restore: everything that is worth keeping, in one file that either database can be made of.
//!
//! The file is text: a line that says what it is, one line of JSON for each row (`["table", value, …]`, bytes as `{"b": base64}`), and at
//! the end their number and the SHA-256 of all lines before. It is one moment of the database, and as confidential as that is: who
//! the tenants are, wrapped keys, hashes of tokens; no key and no secret. The checksum finds damage, not forgery: keep the file
//! where only operators can write. Challenges and leases, good for minutes, are left out.
//!
//! **A backup is older than the log.** A server that went on with its numbers would give them out again, for other records. So a restore has to be told how the
//! log went on: from the copies in the sinks, which are verified and brought in ([`Continue::After`]); not at all ([`Continue::Here`]); or
//! unknown, but not beyond some number ([`Continue::Above`]), which leaves a gap that [`verify`](crate::server::audit::verify) names.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use sqlx::any::AnyRow;
use sqlx::{AssertSqlSafe, Row};

use super::database::Kind;
use super::log::stored;
use super::{LogName, State, StateError};
use crate::api::hex;
use crate::api::signature::SigningKeys;
use crate::server::audit::{Link, Source, VerifyError};

/// What the first line says.
const FORMAT: &str = "envelopefs-keyserver-state";
/// Version of the form, which is that of the tables.
const VERSION: u32 = 1;
/// Longest line: a policy of 1 MiB, or a record, in JSON.
const MAX_LINE: u64 = 4 << 20;
/// Rows that are fetched at a time.
const PAGE: i64 = 500;

/// What a column holds.
#[derive(Clone, Copy)]
enum Column {
    Text,
    Number,
    Bytes,
}

/// A table, its columns, of which the first `key` are its primary key.
struct Table {
    name: &'static str,
    key: usize,
    columns: &'static [(&'static str, Column)],
}

/// In an order in which rows can be inserted: what refers to others comes after them.
const TABLES: &[Table] = {
    use Column::{Bytes, Number, Text};
    &[
        Table {
            name: "tenants",
            key: 1,
            columns: &[
                ("tenant", Text),
                ("account_id", Text),
                ("active", Number),
                ("policy", Text),
                ("created_at", Text),
            ],
        },
        Table { name: "domain_keys", key: 1, columns: &[("id", Bytes), ("state", Text), ("created_at", Text)] },
        Table {
            name: "signing_keys",
            key: 1,
            columns: &[
                ("id", Bytes),
                ("state", Text),
                ("spki", Bytes),
                ("endorsed_by", Bytes),
                ("endorsement", Bytes),
                ("created_at", Text),
                ("retired_at", Text),
            ],
        },
        Table {
            name: "customer_keys",
            key: 2,
            columns: &[
                ("tenant", Text),
                ("version", Number),
                ("domain", Bytes),
                ("wrapped", Bytes),
                ("created_at", Text),
            ],
        },
        Table {
            name: "tokens",
            key: 1,
            columns: &[
                ("hash", Bytes),
                ("tenant", Text),
                ("instances", Text),
                ("expires_at", Number),
                ("disabled", Number),
                ("created_at", Text),
            ],
        },
        Table {
            name: "audit_heads",
            key: 1,
            columns: &[("log", Text), ("next", Number), ("previous", Bytes), ("headed", Number), ("listed", Number)],
        },
        Table { name: "audit_records", key: 2, columns: &[("log", Text), ("number", Number), ("record", Bytes)] },
        Table { name: "sink_positions", key: 2, columns: &[("sink", Text), ("log", Text), ("next", Number)] },
    ]
};

/// First line.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    format: String,
    version: u32,
    created_at: String,
}

/// Last line.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Foot {
    rows: u64,
    sha256: String,
}

/// How the log went on after the backup.
#[derive(Debug, Clone)]
pub enum Continue {
    /// Not at all: the server was stopped before the backup, and has not run since. For a move from one database to another.
    Here,
    /// As these copies say. What they have beyond the backup is verified with the keys and brought in, so the log stays whole. Trustworthy if a
    /// sink had every record before its answer left (`before_answer`), or had caught up.
    After(Vec<Source>, SigningKeys),
    /// Nobody knows. Numbers go on above this one in every log; what is missing stays missing, and a verification says so.
    Above(u64),
}

/// What a backup or a restore did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Moved {
    /// Rows of the backup.
    pub rows: u64,
    /// Records that came from copies, of each log that had some.
    pub brought_in: BTreeMap<LogName, u64>,
}

/// Why there is no backup, or nothing was restored.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The file could not be read or written.
    #[error("backup {path}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is no backup, or damaged.
    #[error("{path} is no whole backup: {fact}")]
    Damaged {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        fact: String,
    },
    /// The state that is to be restored to holds something.
    #[error("the state database is not empty (table {0} has rows). Restore into a new one")]
    NotEmpty(&'static str),
    /// The copies do not go on where the backup ends, or are not right.
    #[error("the copies of the audit log do not continue the backup")]
    Copies(#[source] VerifyError),
    /// Of the database.
    #[error(transparent)]
    State(#[from] StateError),
}

impl From<sqlx::Error> for ExportError {
    fn from(error: sqlx::Error) -> Self {
        ExportError::State(error.into())
    }
}

impl Table {
    fn names(&self) -> String {
        self.columns.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
    }

    /// The page after a key, or the first.
    fn page(&self, first: bool) -> String {
        let key: Vec<_> = self.columns.iter().take(self.key).map(|(name, _)| *name).collect();
        let places: Vec<_> = (1..=self.key).map(|at| format!("${at}")).collect();
        let after = if first { String::new() } else { format!("WHERE ({}) > ({})", key.join(", "), places.join(", ")) };
        // Both databases compare rows; the order of texts must be one order.
        format!("SELECT {} FROM {} {after} ORDER BY {} LIMIT {PAGE}", self.names(), self.name, key.join(", "))
    }
}

impl State {
    /// Writes a backup to a new file, which its owner alone can read. The server may be running.
    ///
    /// # Errors
    /// [`ExportError`]; also if the file is there already.
    pub async fn backup(&self, path: &Path) -> Result<Moved, ExportError> {
        let failed = |source| ExportError::File { path: path.to_owned(), source };
        let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
        let written = self.write_backup(&file, path).await;
        if written.is_err() {
            // Ours, and not whole.
            std::fs::remove_file(path).map_err(failed)?;
        }
        let rows = written?;
        file.sync_all().map_err(failed)?;
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        std::fs::File::open(parent).and_then(|parent| parent.sync_all()).map_err(failed)?;
        Ok(Moved { rows, ..Moved::default() })
    }

    async fn write_backup(&self, file: &std::fs::File, path: &Path) -> Result<u64, ExportError> {
        let failed = |source| ExportError::File { path: path.to_owned(), source };
        let mut to = BufWriter::new(file);
        let mut hash = Sha256::new();
        let mut line = |text: String| -> std::io::Result<()> {
            hash.update(text.as_bytes());
            to.write_all(text.as_bytes())
        };
        let head = Head { format: FORMAT.into(), version: VERSION, created_at: super::database::now_text() };
        line(text(&head)).map_err(failed)?;
        // One moment: all that is read is as it was when the first row was.
        let begin = match self.kind {
            Kind::Sqlite => "BEGIN",
            Kind::Postgres => "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
        };
        let mut tx = self.pool.begin_with(begin).await?;
        let mut rows = 0;
        for table in TABLES {
            let mut after: Vec<Value> = Vec::new();
            loop {
                let sql = table.page(after.is_empty());
                let mut query = sqlx::query(AssertSqlSafe(sql));
                for (value, (_, column)) in after.iter().zip(table.columns) {
                    query = bind(query, *column, value).ok_or_else(|| StateError::Damaged(table.name.into()))?;
                }
                let page = query.fetch_all(&mut *tx).await?;
                let Some(last) = page.last() else { break };
                after = values(table, last)?.into_iter().take(table.key).collect();
                for row in &page {
                    let mut values = values(table, row)?;
                    values.insert(0, Value::from(table.name));
                    line(text(&values)).map_err(failed)?;
                    rows += 1;
                }
            }
        }
        tx.rollback().await?;
        let foot = Foot { rows, sha256: hex(&hash.finalize()) };
        to.write_all(text(&foot).as_bytes()).and_then(|()| to.flush()).map_err(failed)?;
        Ok(rows)
    }

    /// Restores a backup into a state that is empty, all of it or nothing.
    ///
    /// # Errors
    /// [`ExportError`].
    pub async fn restore(&self, path: &Path, how: &Continue) -> Result<Moved, ExportError> {
        // Whole before anything is changed.
        read(path, |_, _| Ok(()))?;
        let mut write = self.write().await?;
        for table in TABLES {
            let sql = format!("SELECT count(*) FROM {}", table.name);
            let row = sqlx::query(AssertSqlSafe(sql)).fetch_one(&mut *write.tx).await?;
            if row.try_get::<i64, _>(0)? > 0 {
                return Err(ExportError::NotEmpty(table.name));
            }
        }
        let (send, mut rows) = tokio::sync::mpsc::channel(64);
        let reading = {
            let path = path.to_owned();
            tokio::task::spawn_blocking(move || {
                read(&path, |table, values| {
                    // The other end is gone: the database has failed.
                    send.blocking_send((table, values)).map_err(|_| "the database failed".to_owned())
                })
            })
        };
        let damaged = |fact: &str| ExportError::Damaged { path: path.to_owned(), fact: fact.to_owned() };
        let mut moved = Moved::default();
        while let Some((table, values)) = rows.recv().await {
            let table: &Table = table;
            let places: Vec<_> = (1..=table.columns.len()).map(|at| format!("${at}")).collect();
            let sql = format!("INSERT INTO {} ({}) VALUES ({})", table.name, table.names(), places.join(", "));
            let mut query = sqlx::query(AssertSqlSafe(sql));
            for (value, (name, column)) in values.iter().zip(table.columns) {
                query = bind(query, *column, value).ok_or_else(|| damaged(&format!("{} of {}", name, table.name)))?;
            }
            query.execute(&mut *write.tx).await?;
            moved.rows += 1;
        }
        reading.await.map_err(|_| damaged("it could not be read twice"))??;
        match how {
            Continue::Here => {}
            Continue::Above(number) => {
                sqlx::query("UPDATE audit_heads SET next = $1 WHERE next < $1")
                    .bind(stored(number.saturating_add(1)))
                    .execute(&mut *write.tx)
                    .await?;
            }
            Continue::After(sources, keys) => {
                for source in sources {
                    bring_in(&mut write, source, keys, &mut moved).await?;
                }
            }
        }
        write.commit().await?;
        Ok(moved)
    }
}

/// Brings in what a copy has beyond the database.
async fn bring_in(
    write: &mut super::database::Write,
    source: &Source,
    keys: &SigningKeys,
    moved: &mut Moved,
) -> Result<(), ExportError> {
    let copies = |error: VerifyError| ExportError::Copies(error);
    let (logs, _) = source.logs().await.map_err(|error| copies(error.into()))?;
    for log in logs {
        let row = sqlx::query("SELECT next, previous FROM audit_heads WHERE log = $1").bind(log.as_str().to_owned());
        let mut link = match row.fetch_optional(&mut *write.tx).await? {
            Some(row) => {
                Link { next: super::log::number(row.try_get(0)?)?, previous: super::log::hash(row.try_get(1)?)? }
            }
            None => {
                // A log that began after the backup. Its tenant is gone, its numbers are not.
                sqlx::query("INSERT INTO audit_heads (log, next, previous, headed, listed) VALUES ($1, 1, $2, 0, 0)")
                    .bind(log.as_str().to_owned())
                    .bind(vec![0; 32])
                    .execute(&mut *write.tx)
                    .await?;
                Link { next: 1, previous: [0; 32] }
            }
        };
        let from = link.next;
        let mut reader = source.read(&log, from).await.map_err(|error| copies(error.into()))?;
        while let Some((number, record)) = reader.next().await.map_err(|error| copies(error.into()))? {
            link.check(&log, number, &record, keys).map_err(|fault| copies(fault.into()))?;
            sqlx::query("INSERT INTO audit_records (log, number, record) VALUES ($1, $2, $3)")
                .bind(log.as_str().to_owned())
                .bind(stored(number))
                .bind(record)
                .execute(&mut *write.tx)
                .await?;
        }
        sqlx::query("UPDATE audit_heads SET next = $2, previous = $3 WHERE log = $1")
            .bind(log.as_str().to_owned())
            .bind(stored(link.next))
            .bind(link.previous.to_vec())
            .execute(&mut *write.tx)
            .await?;
        if link.next > from {
            *moved.brought_in.entry(log).or_default() += link.next - from;
        }
    }
    Ok(())
}

/// Reads a backup; `row` sees each row before it is known whether all is whole.
fn read(path: &Path, mut row: impl FnMut(&'static Table, Vec<Value>) -> Result<(), String>) -> Result<(), ExportError> {
    let failed = |source| ExportError::File { path: path.to_owned(), source };
    let damaged = |fact: String| ExportError::Damaged { path: path.to_owned(), fact };
    let mut from = BufReader::new(std::fs::File::open(path).map_err(failed)?);
    let (mut hash, mut rows, mut number) = (Sha256::new(), 0, 0_u64);
    let mut line = Vec::new();
    loop {
        line.clear();
        number += 1;
        (&mut from).take(MAX_LINE).read_until(b'\n', &mut line).map_err(failed)?;
        let at = |what: &str| damaged(format!("line {number} {what}"));
        if line.last() != Some(&b'\n') {
            return Err(at("is cut off, or too long"));
        }
        if number == 1 {
            let head: Head = serde_json::from_slice(&line).map_err(|_| at("does not say that it is one"))?;
            if (&*head.format, head.version) != (FORMAT, VERSION) {
                return Err(damaged(format!("it is of the form {} {}", head.format.escape_debug(), head.version)));
            }
        } else if line.starts_with(b"{") {
            let foot: Foot = serde_json::from_slice(&line).map_err(|_| at("is not its last line"))?;
            if foot.rows != rows || foot.sha256 != hex(&hash.finalize()) {
                return Err(damaged("its checksum is another".into()));
            }
            let mut rest = [0];
            return match from.read(&mut rest).map_err(failed)? {
                0 => Ok(()),
                _ => Err(damaged("something follows its end".into())),
            };
        } else {
            let mut values: Vec<Value> = serde_json::from_slice(&line).map_err(|_| at("is no row"))?;
            let name = if values.is_empty() { Value::Null } else { values.remove(0) };
            let table = TABLES.iter().find(|table| name == table.name).ok_or_else(|| at("is of no known table"))?;
            if values.len() != table.columns.len() {
                return Err(at("has another number of values"));
            }
            rows += 1;
            row(table, values).map_err(damaged)?;
        }
        hash.update(&line);
    }
}

/// One line of JSON. Nothing here has a form that JSON lacks.
fn text(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default() + "\n"
}

type Query = sqlx::query::Query<'static, sqlx::Any, sqlx::any::AnyArguments>;

/// Binds a value as its column wants it; none if it is of another kind.
fn bind(query: Query, column: Column, value: &Value) -> Option<Query> {
    Some(match (column, value) {
        (Column::Text, Value::Null) => query.bind(None::<String>),
        (Column::Number, Value::Null) => query.bind(None::<i64>),
        (Column::Bytes, Value::Null) => query.bind(None::<Vec<u8>>),
        (Column::Text, Value::String(text)) => query.bind(text.clone()),
        (Column::Number, Value::Number(number)) => query.bind(number.as_i64()?),
        (Column::Bytes, Value::Object(bytes)) => query.bind(BASE64_STANDARD.decode(bytes.get("b")?.as_str()?).ok()?),
        _ => return None,
    })
}

fn values(table: &Table, row: &AnyRow) -> Result<Vec<Value>, StateError> {
    let value = |(at, (_, column)): (usize, &(&str, Column))| -> Result<Value, StateError> {
        Ok(match column {
            Column::Text => row.try_get::<Option<String>, _>(at)?.into(),
            Column::Number => row.try_get::<Option<i64>, _>(at)?.into(),
            Column::Bytes => match row.try_get::<Option<Vec<u8>>, _>(at)? {
                Some(bytes) => serde_json::json!({ "b": BASE64_STANDARD.encode(bytes) }),
                None => Value::Null,
            },
        })
    };
    table.columns.iter().enumerate().map(value).collect()
}
