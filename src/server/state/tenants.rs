//! Tenants: the units of isolation.

use sqlx::Row;
use sqlx::any::AnyRow;

use super::database::{is_duplicate, now_text};
use super::{SERVER_LOG, State, StateError};
use crate::api::Tenant;

/// Longest policy, in bytes of its JSON.
const MAX_POLICY: usize = 1 << 20;

/// What is known of a tenant.
#[derive(Debug, Clone, PartialEq)]
pub struct TenantRecord {
    /// Its name.
    pub id: Tenant,
    /// What audit records call its account.
    pub account_id: String,
    /// Whether its callers are served.
    pub active: bool,
    /// What it allows, as JSON; [`policy`](crate::server::policy) knows its form.
    pub policy: serde_json::Value,
    /// When it was added, RFC 3339.
    pub created_at: String,
}

impl State {
    /// Adds an active tenant.
    ///
    /// # Errors
    /// [`StateError::Exists`]; [`StateError::Refused`] for the name of the server's own log or an account id other than 1 to 64 of `[a-z0-9-]`.
    pub async fn add_tenant(
        &self,
        tenant: &Tenant,
        account_id: &str,
        policy: &serde_json::Value,
    ) -> Result<(), StateError> {
        if tenant.as_str() == SERVER_LOG {
            return Err(StateError::Refused(format!("the name {SERVER_LOG} is that of the server's own audit log")));
        }
        // The same characters as a tenant's: it is the account number of the original's records.
        if account_id.parse::<Tenant>().is_err() {
            return Err(StateError::Refused("an account id has 1 to 64 lower-case letters, digits and hyphens".into()));
        }
        let added = sqlx::query(
            "INSERT INTO tenants (tenant, account_id, active, policy, created_at) VALUES ($1, $2, 1, $3, $4)",
        )
        .bind(tenant.as_str())
        .bind(account_id)
        .bind(policy_text(policy)?)
        .bind(now_text())
        .execute(&self.pool)
        .await;
        match added {
            Err(error) if is_duplicate(&error) => Err(StateError::Exists(format!("tenant {}", tenant.as_str()))),
            added => Ok(added.map(|_| ())?),
        }
    }

    /// What is known of a tenant.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn tenant(&self, tenant: &Tenant) -> Result<Option<TenantRecord>, StateError> {
        let row = sqlx::query("SELECT tenant, account_id, active, policy, created_at FROM tenants WHERE tenant = $1")
            .bind(tenant.as_str())
            .fetch_optional(&self.pool)
            .await?;
        row.as_ref().map(record).transpose()
    }

    /// All tenants, by name.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn tenants(&self) -> Result<Vec<TenantRecord>, StateError> {
        let rows = sqlx::query("SELECT tenant, account_id, active, policy, created_at FROM tenants ORDER BY tenant")
            .fetch_all(&self.pool)
            .await?;
        rows.iter().map(record).collect()
    }

    /// Serves a tenant's callers, or no longer.
    ///
    /// # Errors
    /// [`StateError::Missing`].
    pub async fn set_tenant_active(&self, tenant: &Tenant, active: bool) -> Result<(), StateError> {
        let done = sqlx::query("UPDATE tenants SET active = $2 WHERE tenant = $1")
            .bind(tenant.as_str())
            .bind(i64::from(active))
            .execute(&self.pool)
            .await?;
        changed(done.rows_affected(), tenant)
    }

    /// Gives a tenant another policy.
    ///
    /// # Errors
    /// [`StateError::Missing`].
    pub async fn set_tenant_policy(&self, tenant: &Tenant, policy: &serde_json::Value) -> Result<(), StateError> {
        let done = sqlx::query("UPDATE tenants SET policy = $2 WHERE tenant = $1")
            .bind(tenant.as_str())
            .bind(policy_text(policy)?)
            .execute(&self.pool)
            .await?;
        changed(done.rows_affected(), tenant)
    }
}

fn changed(rows: u64, tenant: &Tenant) -> Result<(), StateError> {
    if rows == 1 { Ok(()) } else { Err(StateError::Missing(format!("tenant {}", tenant.as_str()))) }
}

fn policy_text(policy: &serde_json::Value) -> Result<String, StateError> {
    let text = policy.to_string();
    // PostgreSQL's text holds no zero character; JSON escapes it.
    if text.len() <= MAX_POLICY { Ok(text) } else { Err(StateError::Refused("the policy is longer than 1 MiB".into())) }
}

/// A tenant's name as it is stored.
pub(super) fn name(text: String) -> Result<Tenant, StateError> {
    text.parse().map_err(|_| StateError::Damaged("the name of a tenant".into()))
}

fn record(row: &AnyRow) -> Result<TenantRecord, StateError> {
    let policy: String = row.try_get(3)?;
    Ok(TenantRecord {
        id: name(row.try_get(0)?)?,
        account_id: row.try_get(1)?,
        active: row.try_get::<i64, _>(2)? == 1,
        policy: serde_json::from_str(&policy).map_err(|_| StateError::Damaged("the policy of a tenant".into()))?,
        created_at: row.try_get(4)?,
    })
}
