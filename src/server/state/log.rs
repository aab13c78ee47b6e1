//! The audit log's tables: who is next, what was recorded, what each sink still needs.

use std::collections::BTreeMap;

use sqlx::{AssertSqlSafe, Row};

use super::database::{Write, seconds};
use super::{State, StateError};
use crate::api::Tenant;

/// The log of what belongs to no tenant: operators' acts, starts and stops. No tenant may have this name.
pub const SERVER_LOG: &str = "server";

/// Rows in one statement that inserts: three values each, far below either database's limit.
const ROWS: usize = 64;

/// The name of a log: a tenant's, or [`SERVER_LOG`]. Ordered, since logs are locked in their order.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogName(String);

impl LogName {
    /// The log of what belongs to no tenant.
    pub fn server() -> LogName {
        LogName(SERVER_LOG.into())
    }

    /// As text: lower-case letters, digits and hyphens.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&Tenant> for LogName {
    fn from(tenant: &Tenant) -> Self {
        LogName(tenant.as_str().to_owned())
    }
}

impl std::fmt::Display for LogName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::str::FromStr for LogName {
    type Err = crate::api::NoTenant;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(LogName::from(&text.parse::<Tenant>()?))
    }
}

/// Where a log ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The number that its next record gets, from 1.
    pub next: u64,
    /// SHA-256 of the canonical text of its last record; zeros before the first.
    pub previous: [u8; 32],
}

impl Head {
    /// Of an empty log.
    pub const EMPTY: Head = Head { next: 1, previous: [0; 32] };
}

/// A transaction that adds records. The logs it asked for are its own until it ends; dropped without commit, it never was.
pub struct Transaction {
    write: Write,
    for_update: &'static str,
}

impl Transaction {
    /// Locks logs and tells where they end; a log that has no record yet begins to exist. Once per transaction: logs are locked in the order of their names, so that two transactions cannot
    /// wait for each other.
    ///
    /// # Errors
    /// Those of the database; [`StateError::Away`] if another node holds one of them for too long.
    pub async fn lock(&mut self, logs: &[LogName]) -> Result<BTreeMap<LogName, Head>, StateError> {
        let mut heads = BTreeMap::new();
        let sorted: std::collections::BTreeSet<&LogName> = logs.iter().collect();
        for log in sorted {
            let select = format!("SELECT next, previous FROM audit_heads WHERE log = $1{}", self.for_update);
            let mut row = sqlx::query(AssertSqlSafe(select.clone()))
                .bind(log.as_str())
                .fetch_optional(&mut *self.write.tx)
                .await?;
            if row.is_none() {
                sqlx::query(
                    "INSERT INTO audit_heads (log, next, previous, headed, listed) VALUES ($1, 1, $2, 0, 0) ON CONFLICT (log) DO NOTHING",
                )
                .bind(log.as_str())
                .bind(&Head::EMPTY.previous[..])
                .execute(&mut *self.write.tx)
                .await?;
                row = sqlx::query(AssertSqlSafe(select)).bind(log.as_str()).fetch_optional(&mut *self.write.tx).await?;
            }
            let row = row.ok_or_else(|| StateError::Missing(format!("audit log {log}")))?;
            heads.insert(log.clone(), Head { next: number(row.try_get(0)?)?, previous: hash(row.try_get(1)?)? });
        }
        Ok(heads)
    }

    /// Adds records, each with its log and number.
    ///
    /// # Errors
    /// Those of the database, one of them that a number is taken.
    pub async fn insert(&mut self, records: &[(LogName, u64, Vec<u8>)]) -> Result<(), StateError> {
        for rows in records.chunks(ROWS) {
            let values: Vec<_> =
                (0..rows.len()).map(|row| format!("(${}, ${}, ${})", row * 3 + 1, row * 3 + 2, row * 3 + 3)).collect();
            let sql = format!("INSERT INTO audit_records (log, number, record) VALUES {}", values.join(", "));
            let mut query = sqlx::query(AssertSqlSafe(sql));
            for (log, number, record) in rows {
                query = query.bind(log.as_str().to_owned()).bind(stored(*number)).bind(record.clone());
            }
            query.execute(&mut *self.write.tx).await?;
        }
        Ok(())
    }

    /// Moves a log's end. `headed`: up to this number a signed head vouches for it.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn advance(&mut self, log: &LogName, head: &Head, headed: Option<u64>) -> Result<(), StateError> {
        sqlx::query("UPDATE audit_heads SET next = $2, previous = $3, headed = CASE WHEN $4 > headed THEN $4 ELSE headed END WHERE log = $1")
            .bind(log.as_str())
            .bind(stored(head.next))
            .bind(&head.previous[..])
            .bind(stored(headed.unwrap_or(0)))
            .execute(&mut *self.write.tx)
            .await?;
        Ok(())
    }

    /// Makes it so, durably.
    ///
    /// # Errors
    /// Those of the database. If the connection broke while it committed, nobody knows whether it did.
    pub async fn commit(self) -> Result<(), StateError> {
        self.write.commit().await
    }
}

impl State {
    /// Begins to add records.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn begin_log(&self) -> Result<Transaction, StateError> {
        Ok(Transaction { write: self.write().await?, for_update: self.for_update() })
    }

    /// All logs and where they end, by name.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn heads(&self) -> Result<BTreeMap<LogName, Head>, StateError> {
        let rows =
            sqlx::query("SELECT log, next, previous FROM audit_heads ORDER BY log").fetch_all(&self.pool).await?;
        let head = |row: &sqlx::any::AnyRow| {
            Ok((log_name(row.try_get(0)?)?, Head { next: number(row.try_get(1)?)?, previous: hash(row.try_get(2)?)? }))
        };
        rows.iter().map(head).collect()
    }

    /// Where a log ends; none if it has never had a record.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn head(&self, log: &LogName) -> Result<Option<Head>, StateError> {
        let row = sqlx::query("SELECT next, previous FROM audit_heads WHERE log = $1")
            .bind(log.as_str())
            .fetch_optional(&self.pool)
            .await?;
        row.map(|row| Ok(Head { next: number(row.try_get(0)?)?, previous: hash(row.try_get(1)?)? })).transpose()
    }

    /// Logs with at least so many records that no signed head of their own vouches for.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn logs_without_head(&self, least: u64) -> Result<Vec<LogName>, StateError> {
        let rows = sqlx::query("SELECT log FROM audit_heads WHERE next - 1 - headed >= $1 ORDER BY log")
            .bind(stored(least))
            .fetch_all(&self.pool)
            .await?;
        rows.iter().map(|row| log_name(row.try_get(0)?)).collect()
    }

    /// Logs whose end the server's own log does not list, and where they end.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn logs_not_listed(&self) -> Result<Vec<(LogName, Head)>, StateError> {
        let rows = sqlx::query(
            "SELECT log, next, previous FROM audit_heads WHERE next - 1 > listed AND log <> $1 ORDER BY log",
        )
        .bind(SERVER_LOG)
        .fetch_all(&self.pool)
        .await?;
        let head = |row: &sqlx::any::AnyRow| {
            Ok((log_name(row.try_get(0)?)?, Head { next: number(row.try_get(1)?)?, previous: hash(row.try_get(2)?)? }))
        };
        rows.iter().map(head).collect()
    }

    /// Notes that the server's own log has listed where these logs ended.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn mark_listed(&self, logs: &[(LogName, Head)]) -> Result<(), StateError> {
        let mut write = self.write().await?;
        for (log, head) in logs {
            sqlx::query("UPDATE audit_heads SET listed = $2 WHERE log = $1 AND listed < $2")
                .bind(log.as_str())
                .bind(stored(head.next - 1))
                .execute(&mut *write.tx)
                .await?;
        }
        write.commit().await
    }

    /// Up to `limit` records of a log from a number on, in order, with their numbers.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn records(&self, log: &LogName, from: u64, limit: u32) -> Result<Vec<(u64, Vec<u8>)>, StateError> {
        let rows = sqlx::query(
            "SELECT number, record FROM audit_records WHERE log = $1 AND number >= $2 ORDER BY number LIMIT $3",
        )
        .bind(log.as_str())
        .bind(stored(from))
        .bind(i64::from(limit))
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(|row| Ok((number(row.try_get(0)?)?, row.try_get(1)?))).collect()
    }

    /// Logs of which a sink lacks records: the log, the number the sink needs next, and the number that the log's next record gets.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn behind(&self, sink: &str) -> Result<Vec<(LogName, u64, u64)>, StateError> {
        let rows = sqlx::query(
            "SELECT h.log, coalesce(p.next, 1), h.next FROM audit_heads h LEFT JOIN sink_positions p ON p.log = h.log AND p.sink = $1 \
             WHERE h.next > coalesce(p.next, 1) ORDER BY h.log",
        )
        .bind(sink)
        .fetch_all(&self.pool)
        .await?;
        rows.iter()
            .map(|row| Ok((log_name(row.try_get(0)?)?, number(row.try_get(1)?)?, number(row.try_get(2)?)?)))
            .collect()
    }

    /// Notes that a sink has all records of a log before `next`. Never goes back.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn set_position(&self, sink: &str, log: &LogName, next: u64) -> Result<(), StateError> {
        sqlx::query(
            "INSERT INTO sink_positions (sink, log, next) VALUES ($1, $2, $3) \
             ON CONFLICT (sink, log) DO UPDATE SET next = excluded.next WHERE sink_positions.next < excluded.next",
        )
        .bind(sink)
        .bind(log.as_str())
        .bind(stored(next))
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Takes or keeps a lease: true if `owner` has it until `seconds_long` from now. By the clocks of the nodes, which may differ: what a lease is for
    /// has to be safe to do twice.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn lease(&self, name: &str, owner: &str, seconds_long: u32) -> Result<bool, StateError> {
        let now = seconds(jiff::Timestamp::now());
        let done = sqlx::query(
            "INSERT INTO leases (name, owner, until) VALUES ($1, $2, $3) \
             ON CONFLICT (name) DO UPDATE SET owner = excluded.owner, until = excluded.until \
             WHERE leases.owner = excluded.owner OR leases.until < $4",
        )
        .bind(name)
        .bind(owner)
        .bind(now + i64::from(seconds_long))
        .bind(now)
        .execute(&self.pool)
        .await?;
        Ok(done.rows_affected() == 1)
    }

    /// Gives a lease up, so that another node need not wait for its end.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn release(&self, name: &str, owner: &str) -> Result<(), StateError> {
        sqlx::query("DELETE FROM leases WHERE name = $1 AND owner = $2")
            .bind(name)
            .bind(owner)
            .execute(&self.pool)
            .await?;
        Ok(())
    }
}

pub(super) fn number(stored: i64) -> Result<u64, StateError> {
    u64::try_from(stored).map_err(|_| StateError::Damaged("a negative number of a record".into()))
}

pub(super) fn stored(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(super) fn hash(bytes: Vec<u8>) -> Result<[u8; 32], StateError> {
    bytes.try_into().map_err(|_| StateError::Damaged("a hash that has not 32 bytes".into()))
}

fn log_name(text: String) -> Result<LogName, StateError> {
    text.parse().map_err(|_| StateError::Damaged("the name of a log".into()))
}
