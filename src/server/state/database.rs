//! Connections: which database, its limits and time-outs, its tables, and what its errors mean.

use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Once};
use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC};
use sqlx::any::{AnyConnectOptions, AnyPoolOptions};
use sqlx::{Any, AssertSqlSafe, ConnectOptions, Connection, Executor, Row};
use tokio::sync::{Mutex, OwnedMutexGuard};
use zeroize::Zeroizing;

/// The tables, version by version.
const MIGRATIONS: &[&str] = &[include_str!("migrations/1.sql")];
/// Key of the advisory lock under which a PostgreSQL is brought up to date: any number, the same in all nodes.
const MIGRATION_LOCK: i64 = 0x656e_7665_6c6f_7065;
/// What a path in an address may hold as it is (RFC 3986, 2.3, and the slash).
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');
/// Longest password file.
const MAX_PASSWORD: u64 = 4096;

/// Where the state is, and how patiently it is asked.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `sqlite:/path/to/file`, or `postgres://user@host/database?sslmode=verify-full&sslrootcert=/path`; without a password.
    pub url: String,
    /// PostgreSQL's password, the file's first line (a systemd credential, say). Without it `PGPASSFILE` and `~/.pgpass` count.
    pub password_file: Option<PathBuf>,
    /// Most connections at a time.
    pub connections: u32,
    /// How long one statement, a wait for a lock, or a wait for a connection may take.
    pub timeout: Duration,
}

impl Settings {
    /// Settings with the default limits.
    pub fn new(url: &str) -> Settings {
        Settings { url: url.to_owned(), password_file: None, connections: 8, timeout: Duration::from_secs(10) }
    }
}

/// Why the state could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The settings name no database that can be used.
    #[error("state database: {fact}. {remedy}")]
    Setup {
        /// What is wrong.
        fact: String,
        /// What to do.
        remedy: &'static str,
    },
    /// Another version of the program has been here.
    #[error(
        "the state database has tables of version {found}; this program knows versions up to {known}. \
         Use the program that it was last used with, or a newer one"
    )]
    Newer {
        /// Of the database.
        found: i64,
        /// Of the program.
        known: i64,
    },
    /// No connection, or no answer in time. Later it may be different.
    #[error("the state database does not answer")]
    Away(#[source] sqlx::Error),
    /// No space left. Nothing of the transaction was stored.
    #[error("the state database has no space left")]
    Full(#[source] sqlx::Error),
    /// What was to be added is there already.
    #[error("{0} exists already")]
    Exists(String),
    /// What was to be changed is not there, or was changed meanwhile.
    #[error("there is no {0}, or it was changed meanwhile")]
    Missing(String),
    /// A value is not allowed.
    #[error("{0}")]
    Refused(String),
    /// A stored value is none that this program writes.
    #[error("the state database holds an impossible value: {0}")]
    Damaged(String),
    /// Anything else that the database says.
    #[error("the state database failed")]
    Database(#[source] sqlx::Error),
}

impl From<sqlx::Error> for StateError {
    fn from(error: sqlx::Error) -> Self {
        use sqlx::Error as E;
        match &error {
            E::Io(_) | E::Tls(_) | E::Protocol(_) | E::PoolTimedOut | E::PoolClosed | E::WorkerCrashed => {
                StateError::Away(error)
            }
            E::Database(said) => match said.code().as_deref() {
                // SQLITE_FULL; disk_full (class 53 of PostgreSQL's errors: insufficient resources).
                Some("13" | "53100") => StateError::Full(error),
                // SQLITE_BUSY and its extended codes; connections, shutdown, lock and statement time-outs.
                Some("5" | "261" | "517" | "773" | "53300" | "55P03" | "57014" | "25P03") => StateError::Away(error),
                // Class 28: authorization; and no such database.
                Some(code) if code.starts_with("28") || code == "3D000" => StateError::Setup {
                    fact: said.message().to_owned(),
                    remedy: "Check the user, the database and the password_file (or PGPASSFILE)",
                },
                Some(code) if code.starts_with("08") || code.starts_with("57P") => StateError::Away(error),
                _ => StateError::Database(error),
            },
            E::ColumnDecode { .. } | E::Decode(_) | E::TypeNotFound { .. } => StateError::Damaged(error.to_string()),
            _ => StateError::Database(error),
        }
    }
}

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Sqlite,
    Postgres,
}

/// The state of a server. Clones share its connections.
#[derive(Clone)]
pub struct State {
    pub(super) pool: sqlx::Pool<Any>,
    pub(super) kind: Kind,
    /// SQLite has one writer at a time. Writers of this process queue here, in order, instead of polling the file's lock.
    writer: Arc<Mutex<()>>,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "State({:?})", self.kind)
    }
}

/// A transaction that writes. Dropped without [`commit`](Self::commit), it never was.
pub(super) struct Write {
    pub(super) tx: sqlx::Transaction<'static, Any>,
    _turn: Option<OwnedMutexGuard<()>>,
}

impl Write {
    pub(super) async fn commit(self) -> Result<(), StateError> {
        Ok(self.tx.commit().await?)
    }
}

impl State {
    /// Opens the state, makes its tables or brings them up to date.
    ///
    /// # Errors
    /// [`StateError::Setup`], [`StateError::Newer`], [`StateError::Away`] if it does not answer in time.
    pub async fn open(settings: &Settings) -> Result<State, StateError> {
        static DRIVERS: Once = Once::new();
        // A second installation is refused, and does not matter: the drivers are the same.
        DRIVERS.call_once(|| {
            let _ = sqlx::any::install_drivers(&[sqlx::sqlite::any::DRIVER, sqlx::postgres::any::DRIVER]);
        });
        let (kind, options) = options(settings)?;
        let millis = settings.timeout.as_millis();
        let pragmas = match kind {
            // What is deleted is overwritten: a retired customer key shall not lie in a free page.
            Kind::Sqlite => format!(
                "PRAGMA busy_timeout = {millis}; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; \
                 PRAGMA secure_delete = ON;"
            ),
            // A node that hangs in the middle of a transaction must not hold other nodes up for ever.
            Kind::Postgres => format!(
                "SET statement_timeout = {millis}; SET lock_timeout = {millis}; SET synchronous_commit = on; \
                 SET idle_in_transaction_session_timeout = 60000; SET client_min_messages = warning;"
            ),
        };
        let pragmas: Arc<str> = pragmas.into();
        let pool = AnyPoolOptions::new()
            .max_connections(settings.connections.max(1))
            .acquire_timeout(settings.timeout)
            .idle_timeout(Duration::from_secs(600))
            .after_connect(move |connection, _| {
                let pragmas = Arc::clone(&pragmas);
                Box::pin(async move {
                    connection.execute(sqlx::raw_sql(AssertSqlSafe(&*pragmas))).await?;
                    Ok(())
                })
            })
            .after_release(|connection, _| {
                Box::pin(async move {
                    // SQLite ends a transaction itself when the disk is full; the driver then counts on being in it still, and the connection is of
                    // no more use. The ping lets the rollback, which is under way, come to its end.
                    connection.ping().await?;
                    Ok(!connection.is_in_transaction())
                })
            })
            .connect_with(options)
            .await?;
        let state = State { pool, kind, writer: Arc::default() };
        state.migrate().await?;
        Ok(state)
    }

    /// Ends all connections, once what uses them has ended.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    /// Asks the database for an answer.
    ///
    /// # Errors
    /// [`StateError::Away`].
    pub async fn probe(&self) -> Result<(), StateError> {
        sqlx::query("SELECT 1").fetch_one(&self.pool).await?;
        Ok(())
    }

    /// Whether several nodes can use this state at a time.
    pub fn is_shared(&self) -> bool {
        self.kind == Kind::Postgres
    }

    /// Begins a transaction that writes.
    pub(super) async fn write(&self) -> Result<Write, StateError> {
        let (turn, begin) = match self.kind {
            // Immediate: a transaction that reads first and writes later could fail in the middle, when another has written.
            Kind::Sqlite => (Some(Arc::clone(&self.writer).lock_owned().await), "BEGIN IMMEDIATE"),
            // Named, whatever the database's default is: who waited for a lock has to see what was committed meanwhile, not to fail.
            Kind::Postgres => (None, "BEGIN ISOLATION LEVEL READ COMMITTED"),
        };
        Ok(Write { tx: self.pool.begin_with(begin).await?, _turn: turn })
    }

    /// Rows locked until the transaction ends. SQLite has locked everything already.
    pub(super) fn for_update(&self) -> &'static str {
        match self.kind {
            Kind::Sqlite => "",
            Kind::Postgres => " FOR UPDATE",
        }
    }

    async fn migrate(&self) -> Result<(), StateError> {
        let known = i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX);
        let mut write = self.write().await?;
        if self.kind == Kind::Postgres {
            sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(MIGRATION_LOCK).execute(&mut *write.tx).await?;
        }
        write.tx.execute("CREATE TABLE IF NOT EXISTS state_version (version BIGINT NOT NULL)").await?;
        let row = sqlx::query("SELECT max(version) FROM state_version").fetch_one(&mut *write.tx).await?;
        let found: i64 = row.try_get::<Option<i64>, _>(0)?.unwrap_or(0);
        if found > known {
            return Err(StateError::Newer { found, known });
        }
        for (version, text) in (1_i64..).zip(MIGRATIONS).filter(|(version, _)| *version > found) {
            let text = match self.kind {
                Kind::Sqlite => (*text).to_owned(),
                Kind::Postgres => text.replace(" BLOB", " BYTEA"),
            };
            write.tx.execute(sqlx::raw_sql(AssertSqlSafe(text))).await?;
            sqlx::query("INSERT INTO state_version (version) VALUES ($1)")
                .bind(version)
                .execute(&mut *write.tx)
                .await?;
        }
        write.commit().await
    }
}

fn options(settings: &Settings) -> Result<(Kind, AnyConnectOptions), StateError> {
    let (kind, options) = match settings.url.split_once(':') {
        Some(("sqlite", path)) => (Kind::Sqlite, sqlite(Path::new(path))?),
        Some(("postgres" | "postgresql", _)) => (Kind::Postgres, postgres(settings)?),
        _ => {
            return Err(StateError::Setup {
                fact: "the address is neither sqlite:/path nor postgres://…".into(),
                remedy: "Give one of the two",
            });
        }
    };
    // Statements hold no values, but say nothing of use either.
    Ok((kind, options.disable_statement_logging()))
}

/// The file is made here so that nobody else could ever read it; SQLite gives the files beside it the same mode.
fn sqlite(path: &Path) -> Result<AnyConnectOptions, StateError> {
    let setup = |fact: String, remedy| StateError::Setup { fact, remedy };
    if !path.is_absolute() {
        return Err(setup(format!("{} is no absolute path", path.display()), "Write it as sqlite:/path/to/file"));
    }
    let file = std::fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
    let file = file.map_err(|error| {
        setup(
            format!("{} cannot be opened: {error}", path.display()),
            "Its directory must exist and belong to the server's user",
        )
    })?;
    let mode = file.metadata().map(|meta| meta.permissions().mode()).unwrap_or(0);
    if mode & 0o077 != 0 {
        return Err(setup(
            format!("{} is accessible to others (mode {:03o})", path.display(), mode & 0o777),
            "Look who read it, then: chmod 600",
        ));
    }
    let encoded = percent_encoding::percent_encode(path.as_os_str().as_bytes(), UNRESERVED);
    format!("sqlite:{encoded}?mode=rw")
        .parse()
        .map_err(|_| setup(format!("{} is no path that SQLite can be given", path.display()), "Choose another"))
}

fn postgres(settings: &Settings) -> Result<AnyConnectOptions, StateError> {
    let setup = |fact: &str, remedy| StateError::Setup { fact: fact.to_owned(), remedy };
    // The parser's text would quote the address, and so a password in it.
    let mut options: AnyConnectOptions =
        settings.url.parse().map_err(|_| setup("the address cannot be parsed", "postgres://user@host/database"))?;
    let url = &mut options.database_url;
    let query = |wanted: &[&str]| {
        url.query_pairs().find(|(name, _)| wanted.contains(&&**name)).map(|(_, value)| value.into_owned())
    };
    if url.password().is_some() || query(&["password"]).is_some() || std::env::var_os("PGPASSWORD").is_some() {
        return Err(setup(
            "a password stands in the address or in PGPASSWORD, where logs and process lists find it",
            "Put it into a file that only the server's user can read, and name that as password_file (or use PGPASSFILE)",
        ));
    }
    let host = query(&["host", "hostaddr"]).or_else(|| url.host_str().map(str::to_owned)).unwrap_or_default();
    let host = percent_encoding::percent_decode_str(&host).decode_utf8_lossy().into_owned();
    let local =
        host.is_empty() || host.starts_with('/') || matches!(&*host, "localhost" | "127.0.0.1" | "::1" | "[::1]");
    let mode = query(&["sslmode", "ssl-mode"]);
    let root = query(&["sslrootcert", "ssl-root-cert", "ssl-ca"]);
    match mode.as_deref() {
        Some("verify-full" | "verify-ca") if root.is_some() => {}
        Some("verify-full" | "verify-ca") => {
            return Err(setup(
                "sslrootcert is missing",
                "Name the file of the authority that signed the database's certificate",
            ));
        }
        _ if local => {}
        _ => {
            return Err(setup(
                "the database is on another host, and the connection would not be verified",
                "Add ?sslmode=verify-full&sslrootcert=/path/to/ca.pem",
            ));
        }
    }
    if let Some(path) = &settings.password_file {
        let password = read_password(path)?;
        url.set_password(Some(&password))
            .map_err(|()| setup("the address has no host", "postgres://user@host/database"))?;
    }
    Ok(options)
}

fn read_password(path: &Path) -> Result<Zeroizing<String>, StateError> {
    use std::io::Read;
    let setup = |fact: String| StateError::Setup {
        fact,
        remedy: "Its first line is the password, and only the server's user may read it",
    };
    let read = || -> std::io::Result<(u32, Zeroizing<String>)> {
        let file = std::fs::File::open(path)?;
        let mode = file.metadata()?.permissions().mode();
        let mut text = Zeroizing::new(String::with_capacity(usize::try_from(MAX_PASSWORD).unwrap_or(0)));
        file.take(MAX_PASSWORD).read_to_string(&mut text)?;
        Ok((mode, text))
    };
    let (mode, text) =
        read().map_err(|error| setup(format!("the password file {} cannot be read: {error}", path.display())))?;
    // Systemd makes the directory of credentials the service's alone.
    let credential = std::env::var_os("CREDENTIALS_DIRECTORY").is_some_and(|directory| path.starts_with(directory));
    if mode & 0o077 != 0 && !credential {
        return Err(setup(format!("the password file {} is accessible to others", path.display())));
    }
    match text.lines().next() {
        Some(line) if !line.is_empty() => Ok(Zeroizing::new(line.to_owned())),
        _ => Err(setup(format!("the password file {} is empty", path.display()))),
    }
}

/// Seconds since 1970, as times that are compared are stored.
pub(super) fn seconds(time: jiff::Timestamp) -> i64 {
    time.as_second()
}

/// Now, as times that are read are stored.
pub(super) fn now_text() -> String {
    crate::server::audit::timestamp(jiff::Timestamp::now())
}

/// Whether an error says that a row with this key is there already.
pub(super) fn is_duplicate(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(sqlx::error::DatabaseError::is_unique_violation)
}

/// Sixteen bytes of a stored id.
pub(super) fn id(bytes: Vec<u8>) -> Result<[u8; 16], StateError> {
    bytes.try_into().map_err(|_| StateError::Damaged("a key id that has not 16 bytes".into()))
}
