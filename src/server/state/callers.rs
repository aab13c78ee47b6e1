//! Bearer tokens, of which only hashes are kept, and the nonces that callers' evidence has to contain.

use jiff::Timestamp;
use sqlx::Row;
use sqlx::any::AnyRow;

use super::database::{is_duplicate, now_text, seconds};
use super::{State, StateError};
use crate::api::{InstanceId, Tenant};

/// Most challenges of one instance that are open at a time: its newest ones stay.
const MAX_CHALLENGES: i64 = 16;

/// A token to be let in.
#[derive(Debug, Clone)]
pub struct NewToken<'a> {
    /// SHA-256 of the token.
    pub hash: [u8; 32],
    /// Whose.
    pub tenant: &'a Tenant,
    /// For which instances; for none it is useless.
    pub instances: &'a [InstanceId],
    /// Until when.
    pub expires_at: Option<Timestamp>,
}

/// What is known of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRecord {
    /// SHA-256 of the token.
    pub hash: [u8; 32],
    /// Whose.
    pub tenant: Tenant,
    /// For which instances.
    pub instances: Vec<InstanceId>,
    /// Until when.
    pub expires_at: Option<Timestamp>,
    /// Taken back.
    pub disabled: bool,
    /// When it was made, RFC 3339.
    pub created_at: String,
}

/// A nonce that was handed out.
#[derive(Debug, Clone)]
pub struct Challenge<'a> {
    /// The nonce.
    pub nonce: [u8; 32],
    /// To whom.
    pub tenant: &'a Tenant,
    /// To whom.
    pub instance: &'a InstanceId,
    /// Until when it counts.
    pub expires_at: Timestamp,
}

const TOKEN: &str = "SELECT hash, tenant, instances, expires_at, disabled, created_at FROM tokens";

impl State {
    /// Lets a token in.
    ///
    /// # Errors
    /// [`StateError::Exists`]; those of the database, one of them that there is no such tenant.
    pub async fn add_token(&self, token: &NewToken<'_>) -> Result<(), StateError> {
        let instances = serde_json::to_string(token.instances).map_err(|_| StateError::Refused("instances".into()))?;
        let added = sqlx::query(
            "INSERT INTO tokens (hash, tenant, instances, expires_at, disabled, created_at) VALUES ($1, $2, $3, $4, 0, $5)",
        )
        .bind(&token.hash[..])
        .bind(token.tenant.as_str())
        .bind(instances)
        .bind(token.expires_at.map(seconds))
        .bind(now_text())
        .execute(&self.pool)
        .await;
        match added {
            Err(error) if is_duplicate(&error) => Err(StateError::Exists("token".into())),
            added => Ok(added.map(|_| ())?),
        }
    }

    /// The token with this SHA-256, also if it is disabled or over. The look-up is by a hash of high entropy: its time tells nothing.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn token(&self, hash: &[u8; 32]) -> Result<Option<TokenRecord>, StateError> {
        let sql = const_format(TOKEN, " WHERE hash = $1");
        let row = sqlx::query(sql).bind(&hash[..]).fetch_optional(&self.pool).await?;
        row.as_ref().map(token).transpose()
    }

    /// All tokens of a tenant, oldest first.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn tokens(&self, tenant: &Tenant) -> Result<Vec<TokenRecord>, StateError> {
        let sql = const_format(TOKEN, " WHERE tenant = $1 ORDER BY created_at, hash");
        let rows = sqlx::query(sql).bind(tenant.as_str()).fetch_all(&self.pool).await?;
        rows.iter().map(token).collect()
    }

    /// Takes a token back. At once: nothing remembers tokens.
    ///
    /// # Errors
    /// [`StateError::Missing`].
    pub async fn disable_token(&self, hash: &[u8; 32]) -> Result<(), StateError> {
        let done =
            sqlx::query("UPDATE tokens SET disabled = 1 WHERE hash = $1").bind(&hash[..]).execute(&self.pool).await?;
        if done.rows_affected() == 1 { Ok(()) } else { Err(StateError::Missing("such token".into())) }
    }

    /// Remembers a nonce that is handed out. What is over goes, and so do an instance's oldest beyond sixteen: the table cannot be
    /// flooded by one that only asks.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn put_challenge(&self, challenge: &Challenge<'_>) -> Result<(), StateError> {
        let mut write = self.write().await?;
        sqlx::query("DELETE FROM challenges WHERE expires_at < $1")
            .bind(seconds(Timestamp::now()))
            .execute(&mut *write.tx)
            .await?;
        let instance = challenge.instance.as_str().to_ascii_lowercase();
        sqlx::query(
            "DELETE FROM challenges WHERE tenant = $1 AND instance = $2 AND nonce NOT IN (SELECT nonce FROM challenges \
             WHERE tenant = $1 AND instance = $2 ORDER BY expires_at DESC, nonce LIMIT $3)",
        )
        .bind(challenge.tenant.as_str())
        .bind(&instance)
        .bind(MAX_CHALLENGES - 1)
        .execute(&mut *write.tx)
        .await?;
        sqlx::query("INSERT INTO challenges (nonce, tenant, instance, expires_at) VALUES ($1, $2, $3, $4)")
            .bind(&challenge.nonce[..])
            .bind(challenge.tenant.as_str())
            .bind(&instance)
            .bind(seconds(challenge.expires_at))
            .execute(&mut *write.tx)
            .await?;
        write.commit().await
    }

    /// Takes a nonce: true once, for whom it was handed out to, and while it counts. A nonce that is shown by anybody else stays.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn take_challenge(
        &self,
        nonce: &[u8; 32],
        tenant: &Tenant,
        instance: &InstanceId,
    ) -> Result<bool, StateError> {
        let mut write = self.write().await?;
        let done = sqlx::query(
            "DELETE FROM challenges WHERE nonce = $1 AND tenant = $2 AND instance = $3 AND expires_at >= $4",
        )
        .bind(&nonce[..])
        .bind(tenant.as_str())
        .bind(instance.as_str().to_ascii_lowercase())
        .bind(seconds(Timestamp::now()))
        .execute(&mut *write.tx)
        .await?;
        write.commit().await?;
        Ok(done.rows_affected() == 1)
    }
}

/// Two constants joined, which is as safe as they are.
fn const_format(head: &'static str, tail: &'static str) -> sqlx::AssertSqlSafe<String> {
    sqlx::AssertSqlSafe([head, tail].concat())
}

fn token(row: &AnyRow) -> Result<TokenRecord, StateError> {
    let damaged = |what: &str| StateError::Damaged(format!("{what} of a token"));
    let expires: Option<i64> = row.try_get(3)?;
    Ok(TokenRecord {
        hash: row.try_get::<Vec<u8>, _>(0)?.try_into().map_err(|_| damaged("the hash"))?,
        tenant: super::tenants::name(row.try_get(1)?)?,
        instances: serde_json::from_str(&row.try_get::<String, _>(2)?).map_err(|_| damaged("the instances"))?,
        expires_at: expires.map(|at| Timestamp::from_second(at).map_err(|_| damaged("the end"))).transpose()?,
        disabled: row.try_get::<i64, _>(4)? == 1,
        created_at: row.try_get(5)?,
    })
}
