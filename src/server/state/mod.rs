//! What a server remembers: tenants, wrapped customer keys, tokens, challenges, the audit log and how far its sinks are.
//!
//! In SQLite, one file of one node, or in PostgreSQL for several nodes: the same tables ([`migrations`](self)), the same queries. Nothing in
//! here opens anything: customer keys are wrapped in the HSM, of tokens there is a hash, PINs are elsewhere.
//!
//! A commit is durable when it returns: SQLite runs with `synchronous=FULL` on a write-ahead log, PostgreSQL with
//! `synchronous_commit=on`, since an audit record has to outlive a power cut that the answer it belongs to outlived.
//!
//! A database that is away is an error within [`Settings::timeout`]; connections come back by themselves. Who may do what is none of this
//! room's business. Only this room names sqlx.

mod callers;
mod database;
mod export;
mod keys;
mod log;
mod tenants;

pub use callers::{Challenge, NewToken, TokenRecord};
pub use database::{Settings, State, StateError};
pub use export::{Continue, ExportError, Moved};
pub use keys::{CustomerKeyRecord, KeyState, SigningKeyRecord};
pub use log::{Head, LogName, SERVER_LOG, Transaction as LogTransaction};
pub use tenants::TenantRecord;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
