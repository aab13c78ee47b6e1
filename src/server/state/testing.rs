//! Both databases, for tests: a SQLite file.

use std::path::PathBuf;
use std::sync::Arc;

use super::{Settings, State};

/// A database of one test.
#[derive(Clone)]
pub(crate) struct Database {
    pub(crate) url: String,
    _dir: Arc<tempfile::TempDir>,
}

impl Database {
    pub(crate) fn sqlite() -> Database {
        let dir = tempfile::tempdir().unwrap();
        let file: PathBuf = dir.path().join("state");
        Database { url: format!("sqlite:{}", file.display()), _dir: Arc::new(dir) }
    }

    pub(crate) async fn open(&self) -> State {
        State::open(&Settings::new(&self.url)).await.unwrap()
    }
}

/// Runs a test on each database.
pub(crate) fn each_database<F: Future<Output = ()>>(test: impl Fn(Database) -> F) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(test(Database::sqlite()));
}
