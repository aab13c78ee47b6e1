//! Keys: which ones the HSM has for the installation, and each tenant's, wrapped.

use sqlx::Row;
use sqlx::any::AnyRow;

use super::database::{id, is_duplicate, now_text};
use super::{State, StateError};
use crate::api::Tenant;

/// Whether a key makes new things, or only opens or verifies old ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyState {
    /// The one in use.
    Current,
    /// One before it.
    Retired,
}

impl KeyState {
    fn parse(text: &str) -> Result<Self, StateError> {
        match text {
            "current" => Ok(KeyState::Current),
            "retired" => Ok(KeyState::Retired),
            _ => Err(StateError::Damaged("the state of a key".into())),
        }
    }
}

/// A key that signs answers and audit records, or did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SigningKeyRecord {
    /// `CKA_ID` of the pair in the HSM.
    pub id: [u8; 16],
    /// In use?
    pub state: KeyState,
    /// DER SubjectPublicKeyInfo.
    pub spki: Vec<u8>,
    /// The key before it, by its `CKA_ID`, and that key's signature over [`endorsement_text`](crate::api::canonical::endorsement_text).
    pub endorsement: Option<([u8; 16], Vec<u8>)>,
    /// Since when, RFC 3339.
    pub created_at: String,
    /// Until when, RFC 3339.
    pub retired_at: Option<String>,
}

/// A tenant's customer key, wrapped under a domain key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CustomerKeyRecord {
    /// From 1.
    pub version: u32,
    /// The domain key, by its `CKA_ID`.
    pub domain: [u8; 16],
    /// As the HSM wrapped it.
    pub wrapped: Vec<u8>,
}

impl State {
    /// Makes a domain key the current one; the one before is retired.
    ///
    /// # Errors
    /// [`StateError::Exists`].
    pub async fn add_domain_key(&self, key: [u8; 16]) -> Result<(), StateError> {
        let mut write = self.write().await?;
        sqlx::query("UPDATE domain_keys SET state = 'retired' WHERE state = 'current'").execute(&mut *write.tx).await?;
        let added = sqlx::query("INSERT INTO domain_keys (id, state, created_at) VALUES ($1, 'current', $2)")
            .bind(&key[..])
            .bind(now_text())
            .execute(&mut *write.tx)
            .await;
        match added {
            Err(error) if is_duplicate(&error) => return Err(StateError::Exists("domain key".into())),
            added => added?,
        };
        write.commit().await
    }

    /// The current domain key, unless `init` has not been run.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn domain_key(&self) -> Result<Option<[u8; 16]>, StateError> {
        let row = sqlx::query("SELECT id FROM domain_keys WHERE state = 'current'").fetch_optional(&self.pool).await?;
        row.map(|row| id(row.try_get(0)?)).transpose()
    }

    /// All domain keys, oldest first, with the state of each and how many customer keys it wraps.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn domain_keys(&self) -> Result<Vec<([u8; 16], KeyState, u64)>, StateError> {
        let rows = sqlx::query(
            "SELECT id, state, (SELECT count(*) FROM customer_keys WHERE domain = domain_keys.id) FROM domain_keys \
             ORDER BY created_at, id",
        )
        .fetch_all(&self.pool)
        .await?;
        let row = |row: &AnyRow| {
            let wraps = u64::try_from(row.try_get::<i64, _>(2)?).unwrap_or(0);
            Ok((id(row.try_get(0)?)?, KeyState::parse(&row.try_get::<String, _>(1)?)?, wraps))
        };
        rows.iter().map(row).collect()
    }

    /// Forgets a retired domain key that wraps nothing, before it is destroyed in the HSM.
    ///
    /// # Errors
    /// [`StateError::Missing`] if it is current or in use.
    pub async fn remove_domain_key(&self, key: [u8; 16]) -> Result<(), StateError> {
        let done = sqlx::query(
            "DELETE FROM domain_keys WHERE id = $1 AND state = 'retired' \
             AND NOT EXISTS (SELECT 1 FROM customer_keys WHERE domain = domain_keys.id)",
        )
        .bind(&key[..])
        .execute(&self.pool)
        .await?;
        if done.rows_affected() == 1 {
            Ok(())
        } else {
            Err(StateError::Missing("retired domain key out of use".into()))
        }
    }

    /// Makes a signing key the current one; the one before is retired.
    ///
    /// `endorsement` is the key before it and its signature over [`endorsement_text`](crate::api::canonical::endorsement_text); the first key has none.
    ///
    /// # Errors
    /// [`StateError::Exists`]; [`StateError::Missing`] if the endorsing key is not the current one (somebody else was first).
    pub async fn add_signing_key(
        &self,
        key: [u8; 16],
        spki: &[u8],
        endorsement: Option<([u8; 16], &[u8])>,
    ) -> Result<(), StateError> {
        let mut write = self.write().await?;
        let now = now_text();
        let sql = format!("SELECT id FROM signing_keys WHERE state = 'current'{}", self.for_update());
        let current = sqlx::query(sqlx::AssertSqlSafe(sql)).fetch_optional(&mut *write.tx).await?;
        let current = current.map(|row| id(row.try_get(0)?)).transpose()?;
        if current != endorsement.map(|(by, _)| by) {
            return Err(StateError::Missing("current signing key that endorsed the new one".into()));
        }
        sqlx::query("UPDATE signing_keys SET state = 'retired', retired_at = $1 WHERE state = 'current'")
            .bind(&now)
            .execute(&mut *write.tx)
            .await?;
        let added = sqlx::query(
            "INSERT INTO signing_keys (id, state, spki, endorsed_by, endorsement, created_at) VALUES ($1, 'current', $2, $3, $4, $5)",
        )
        .bind(&key[..])
        .bind(spki)
        .bind(endorsement.map(|(by, _)| by.to_vec()))
        .bind(endorsement.map(|(_, signature)| signature.to_vec()))
        .bind(&now)
        .execute(&mut *write.tx)
        .await;
        match added {
            Err(error) if is_duplicate(&error) => return Err(StateError::Exists("signing key".into())),
            added => added?,
        };
        write.commit().await
    }

    /// All signing keys, oldest first: the last is the current one.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn signing_keys(&self) -> Result<Vec<SigningKeyRecord>, StateError> {
        let rows = sqlx::query(
            "SELECT id, state, spki, endorsed_by, endorsement, created_at, retired_at FROM signing_keys \
             ORDER BY CASE state WHEN 'current' THEN 1 ELSE 0 END, created_at, id",
        )
        .fetch_all(&self.pool)
        .await?;
        let row = |row: &AnyRow| {
            let by = row.try_get::<Option<Vec<u8>>, _>(3)?.map(id).transpose()?;
            Ok(SigningKeyRecord {
                id: id(row.try_get(0)?)?,
                state: KeyState::parse(&row.try_get::<String, _>(1)?)?,
                spki: row.try_get(2)?,
                endorsement: by.zip(row.try_get::<Option<Vec<u8>>, _>(4)?),
                created_at: row.try_get(5)?,
                retired_at: row.try_get(6)?,
            })
        };
        rows.iter().map(row).collect()
    }

    /// The current signing key, unless `init` has not been run.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn signing_key(&self) -> Result<Option<SigningKeyRecord>, StateError> {
        Ok(self.signing_keys().await?.into_iter().rfind(|key| key.state == KeyState::Current))
    }

    /// Stores a tenant's first customer key, unless somebody was faster; and returns the one that counts from now on, his or ours.
    ///
    /// # Errors
    /// Those of the database, one of them that there is no such tenant or domain key.
    pub async fn insert_first_customer_key(
        &self,
        tenant: &Tenant,
        domain: [u8; 16],
        wrapped: &[u8],
    ) -> Result<CustomerKeyRecord, StateError> {
        sqlx::query(
            "INSERT INTO customer_keys (tenant, version, domain, wrapped, created_at) VALUES ($1, 1, $2, $3, $4) \
             ON CONFLICT (tenant, version) DO NOTHING",
        )
        .bind(tenant.as_str())
        .bind(&domain[..])
        .bind(wrapped)
        .bind(now_text())
        .execute(&self.pool)
        .await?;
        self.customer_key(tenant).await?.ok_or_else(|| StateError::Missing("customer key just stored".into()))
    }

    /// Adds the next version of a tenant's customer key.
    ///
    /// # Errors
    /// [`StateError::Exists`] if somebody was faster; [`StateError::Missing`] if this is not the version after the newest.
    pub async fn add_customer_key(&self, tenant: &Tenant, key: &CustomerKeyRecord) -> Result<(), StateError> {
        let added = sqlx::query(
            "INSERT INTO customer_keys (tenant, version, domain, wrapped, created_at) \
             SELECT newest.tenant, newest.version + 1, $3, $4, $5 FROM customer_keys newest WHERE newest.tenant = $1 \
             AND newest.version + 1 = $2 AND newest.version = (SELECT max(version) FROM customer_keys WHERE tenant = $1)",
        )
        .bind(tenant.as_str())
        .bind(i64::from(key.version))
        .bind(&key.domain[..])
        .bind(&key.wrapped[..])
        .bind(now_text())
        .execute(&self.pool)
        .await;
        let what = || format!("customer key {} of tenant {}", key.version, tenant.as_str());
        match added {
            Err(error) if is_duplicate(&error) => Err(StateError::Exists(what())),
            Err(error) => Err(error.into()),
            Ok(done) if done.rows_affected() == 1 => Ok(()),
            Ok(_) => Err(StateError::Missing(format!("version before {}", what()))),
        }
    }

    /// A tenant's newest customer key, which new secrets are sealed under.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn customer_key(&self, tenant: &Tenant) -> Result<Option<CustomerKeyRecord>, StateError> {
        let row = sqlx::query(
            "SELECT version, domain, wrapped FROM customer_keys WHERE tenant = $1 ORDER BY version DESC LIMIT 1",
        )
        .bind(tenant.as_str())
        .fetch_optional(&self.pool)
        .await?;
        row.map(|row| customer_key(&row, 0)).transpose()
    }

    /// One version of a tenant's customer key.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn customer_key_version(
        &self,
        tenant: &Tenant,
        version: u32,
    ) -> Result<Option<CustomerKeyRecord>, StateError> {
        let row = sqlx::query("SELECT version, domain, wrapped FROM customer_keys WHERE tenant = $1 AND version = $2")
            .bind(tenant.as_str())
            .bind(i64::from(version))
            .fetch_optional(&self.pool)
            .await?;
        row.map(|row| customer_key(&row, 0)).transpose()
    }

    /// Up to `limit` customer keys that a domain key wraps: what a rotation has still to rewrap.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn customer_keys_under(
        &self,
        domain: [u8; 16],
        limit: u32,
    ) -> Result<Vec<(Tenant, CustomerKeyRecord)>, StateError> {
        let rows = sqlx::query(
            "SELECT tenant, version, domain, wrapped FROM customer_keys WHERE domain = $1 ORDER BY tenant, version LIMIT $2",
        )
        .bind(&domain[..])
        .bind(i64::from(limit))
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(|row| Ok((super::tenants::name(row.try_get(0)?)?, customer_key(row, 1)?))).collect()
    }

    /// All customer keys, by tenant and version.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn customer_keys(&self) -> Result<Vec<(Tenant, CustomerKeyRecord)>, StateError> {
        let rows = sqlx::query("SELECT tenant, version, domain, wrapped FROM customer_keys ORDER BY tenant, version")
            .fetch_all(&self.pool)
            .await?;
        rows.iter().map(|row| Ok((super::tenants::name(row.try_get(0)?)?, customer_key(row, 1)?))).collect()
    }

    /// Erases an old version of a tenant's customer key: what it sealed opens never again.
    ///
    /// # Errors
    /// [`StateError::Missing`] if there is no such version, or it is the newest, which seals.
    pub async fn remove_customer_key(&self, tenant: &Tenant, version: u32) -> Result<(), StateError> {
        let done = sqlx::query(
            "DELETE FROM customer_keys WHERE tenant = $1 AND version = $2 \
             AND version < (SELECT max(version) FROM customer_keys WHERE tenant = $1)",
        )
        .bind(tenant.as_str())
        .bind(i64::from(version))
        .execute(&self.pool)
        .await?;
        let what = || format!("old customer key {version} of tenant {}", tenant.as_str());
        if done.rows_affected() == 1 { Ok(()) } else { Err(StateError::Missing(what())) }
    }

    /// Puts the same customer key, wrapped under another domain key, in the place of `old`.
    ///
    /// # Errors
    /// [`StateError::Missing`] if what is stored is no longer `old`.
    pub async fn replace_customer_key(
        &self,
        tenant: &Tenant,
        old: &CustomerKeyRecord,
        domain: [u8; 16],
        wrapped: &[u8],
    ) -> Result<(), StateError> {
        let done = sqlx::query(
            "UPDATE customer_keys SET domain = $1, wrapped = $2 WHERE tenant = $3 AND version = $4 AND domain = $5 AND wrapped = $6",
        )
        .bind(&domain[..])
        .bind(wrapped)
        .bind(tenant.as_str())
        .bind(i64::from(old.version))
        .bind(&old.domain[..])
        .bind(&old.wrapped[..])
        .execute(&self.pool)
        .await?;
        let what = || format!("customer key {} of tenant {}", old.version, tenant.as_str());
        if done.rows_affected() == 1 { Ok(()) } else { Err(StateError::Missing(what())) }
    }
}

/// Three columns from `at`: version, domain, wrapped.
fn customer_key(row: &AnyRow, at: usize) -> Result<CustomerKeyRecord, StateError> {
    let version = u32::try_from(row.try_get::<i64, _>(at)?);
    Ok(CustomerKeyRecord {
        version: version.map_err(|_| StateError::Damaged("the version of a customer key".into()))?,
        domain: id(row.try_get(at + 1)?)?,
        wrapped: row.try_get(at + 2)?,
    })
}
