//! Both databases, for tests: a SQLite file, and a PostgreSQL of the test run's own.

use std::sync::Arc;

use super::{Settings, State};

#[path = "../../../tests/common/postgres.rs"]
pub(crate) mod postgres;

/// A database of one test.
#[derive(Clone)]
pub(crate) struct Database {
    pub(crate) url: String,
    _dir: Option<Arc<tempfile::TempDir>>,
}

impl Database {
    pub(crate) fn sqlite() -> Database {
        let dir = tempfile::tempdir().unwrap();
        // A blank: paths are encoded in addresses.
        let file = dir.path().join("the state");
        Database { url: format!("sqlite:{}", file.display()), _dir: Some(Arc::new(dir)) }
    }

    pub(crate) fn postgres() -> Database {
        Database { url: postgres::database(), _dir: None }
    }

    pub(crate) async fn open(&self) -> State {
        State::open(&Settings::new(&self.url)).await.unwrap()
    }
}

/// Runs a test on each database.
pub(crate) fn each_database<F: Future<Output = ()>>(test: impl Fn(Database) -> F) {
    for database in [Database::sqlite(), Database::postgres()] {
        block_on(test(database));
    }
}

/// On a runtime like the server's.
pub(crate) fn block_on<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(test)
}

impl State {
    /// Runs statements as they are, on one connection.
    pub(crate) async fn execute(&self, sql: &'static str) {
        sqlx::raw_sql(sql).execute(&self.pool).await.unwrap();
    }
}
