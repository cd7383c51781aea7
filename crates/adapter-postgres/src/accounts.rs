//! `ports::accounts` in Postgres. Every change of who may do what raises one counter in the same statement.

use crate::{
    Postgres,
    error::{bounded, corrupt},
};
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use domain::{
    access::{Role, Scope},
    ids::{KeyId, OrgId, Provider, UserId},
};
use ports::{
    Result,
    accounts::{Accounts, ApiKey, KeyHash, Member, Org, SpendFacts},
};
use sqlx::{FromRow, PgConnection, Postgres as Database, postgres::PgArguments, query::Query};
use uuid::Uuid;

#[derive(FromRow)]
struct KeyRow {
    id: Uuid,
    user_id: Option<Uuid>,
    name: Option<String>,
    scopes: Vec<String>,
    providers: Vec<String>,
    org_ids: Vec<Uuid>,
    created_at: DateTime<Utc>,
    expires_at: Option<DateTime<Utc>>,
}

impl KeyRow {
    fn key(self) -> Result<ApiKey> {
        let scope = |text: &String| Scope::parse(text).ok_or_else(|| corrupt("an API key of unknown scope"));
        let provider = |text: &String| Provider::parse(text).map_err(|_| corrupt("an API key with a provider that is no name"));
        Ok(ApiKey {
            id: KeyId(self.id),
            user_id: self.user_id.map(UserId),
            name: self.name,
            scopes: self.scopes.iter().map(scope).collect::<Result<_>>()?,
            providers: self.providers.iter().map(provider).collect::<Result<_>>()?,
            org_ids: self.org_ids.into_iter().map(OrgId).collect(),
            created_at: self.created_at,
            expires_at: self.expires_at,
        })
    }
}

#[derive(FromRow)]
struct OrgRow {
    id: Uuid,
    name: String,
    created_at: DateTime<Utc>,
}

impl OrgRow {
    fn org(self) -> Org {
        Org { id: OrgId(self.id), name: self.name, created_at: self.created_at }
    }
}

#[derive(FromRow)]
struct FactsRow {
    user_tier: Option<String>,
    org_tier: Option<String>,
    org_exists: bool,
    role: Option<String>,
}

#[async_trait]
impl Accounts for Postgres {
    async fn pepper(&self) -> Result<[u8; 32]> {
        let pepper: Vec<u8> = bounded(sqlx::query_scalar(include_str!("sql/accounts/pepper.sql")).fetch_one(&self.pool)).await?;
        pepper.try_into().map_err(|_| corrupt("a pepper that is not 32 bytes"))
    }

    async fn create_key(&self, key: &ApiKey, hash: KeyHash) -> Result<()> {
        let statement = sqlx::query(include_str!("sql/accounts/create_key.sql")).bind(&hash[..]).bind(key.id.0);
        let statement = bind_key(statement.bind(key.user_id.map(|user| user.0)), key);
        bounded(statement.execute(&self.pool)).await.map(drop)
    }

    async fn put_bootstrap_key(&self, key: &ApiKey, hash: KeyHash, replace: bool) -> Result<bool> {
        bounded(async {
            let mut transaction = self.pool.begin().await?;
            let stored = put_bootstrap(&mut transaction, key, hash, replace).await?;
            transaction.commit().await?;
            Ok(stored)
        })
        .await
    }

    async fn find_key(&self, hash: &KeyHash) -> Result<Option<ApiKey>> {
        let statement = sqlx::query_as(include_str!("sql/accounts/find_key.sql")).bind(&hash[..]);
        let row: Option<KeyRow> = bounded(statement.fetch_optional(&self.pool)).await?;
        row.map(KeyRow::key).transpose()
    }

    async fn keys(&self, user: UserId) -> Result<Vec<ApiKey>> {
        let statement = sqlx::query_as(include_str!("sql/accounts/list_keys.sql")).bind(user.0);
        let rows: Vec<KeyRow> = bounded(statement.fetch_all(&self.pool)).await?;
        rows.into_iter().map(KeyRow::key).collect()
    }

    async fn revoke_key(&self, user: UserId, key: KeyId) -> Result<bool> {
        let statement = sqlx::query_scalar(include_str!("sql/accounts/revoke_key.sql")).bind(user.0).bind(key.0);
        bounded(statement.fetch_one(&self.pool)).await
    }

    async fn create_org(&self, org: &Org, first_admin: Option<UserId>) -> Result<()> {
        let statement = sqlx::query(include_str!("sql/accounts/create_org.sql"))
            .bind(org.id.0)
            .bind(&org.name)
            .bind(org.created_at)
            .bind(first_admin.map(|user| user.0));
        bounded(statement.execute(&self.pool)).await.map(drop)
    }

    async fn find_org(&self, org: OrgId) -> Result<Option<Org>> {
        let statement = sqlx::query_as(include_str!("sql/accounts/find_org.sql")).bind(org.0);
        let row: Option<OrgRow> = bounded(statement.fetch_optional(&self.pool)).await?;
        Ok(row.map(OrgRow::org))
    }

    async fn orgs(&self, of_user: Option<UserId>, after: Option<OrgId>, limit: u32) -> Result<Vec<Org>> {
        // No org has the nil id.
        let after = after.map_or_else(Uuid::nil, |org| org.0);
        let statement = match of_user {
            Some(user) => sqlx::query_as(include_str!("sql/accounts/list_orgs_of_user.sql")).bind(user.0),
            None => sqlx::query_as(include_str!("sql/accounts/list_orgs.sql")),
        };
        let rows: Vec<OrgRow> = bounded(statement.bind(after).bind(i64::from(limit)).fetch_all(&self.pool)).await?;
        Ok(rows.into_iter().map(OrgRow::org).collect())
    }

    async fn put_member(&self, org: OrgId, member: Member) -> Result<bool> {
        let statement =
            sqlx::query_scalar(include_str!("sql/accounts/put_member.sql")).bind(org.0).bind(member.user_id.0).bind(member.role.as_str());
        bounded(statement.fetch_one(&self.pool)).await
    }

    async fn remove_member(&self, org: OrgId, user: UserId) -> Result<bool> {
        let statement = sqlx::query_scalar(include_str!("sql/accounts/remove_member.sql")).bind(org.0).bind(user.0);
        bounded(statement.fetch_one(&self.pool)).await
    }

    async fn members(&self, org: OrgId, after: Option<UserId>, limit: u32) -> Result<Vec<Member>> {
        let statement = sqlx::query_as(include_str!("sql/accounts/list_members.sql"))
            .bind(org.0)
            .bind(after.map_or_else(Uuid::nil, |user| user.0))
            .bind(i64::from(limit));
        let rows: Vec<(Uuid, String)> = bounded(statement.fetch_all(&self.pool)).await?;
        rows.into_iter().map(|(user, text)| Ok(Member { user_id: UserId(user), role: role(&text)? })).collect()
    }

    async fn set_user_tier(&self, user: UserId, tier: &str) -> Result<()> {
        let statement = sqlx::query(include_str!("sql/accounts/set_user_tier.sql")).bind(user.0).bind(tier);
        bounded(statement.execute(&self.pool)).await.map(drop)
    }

    async fn set_org_tier(&self, org: OrgId, tier: &str) -> Result<bool> {
        let statement = sqlx::query_scalar(include_str!("sql/accounts/set_org_tier.sql")).bind(org.0).bind(tier);
        bounded(statement.fetch_one(&self.pool)).await
    }

    async fn spend_facts(&self, user: UserId, org: Option<OrgId>) -> Result<SpendFacts> {
        let statement = sqlx::query_as(include_str!("sql/accounts/spend_facts.sql")).bind(user.0).bind(org.map(|org| org.0));
        let row: FactsRow = bounded(statement.fetch_one(&self.pool)).await?;
        let role = row.role.as_deref().map(role).transpose()?;
        Ok(SpendFacts { user_tier: row.user_tier, org_tier: row.org_tier, org_exists: row.org_exists, role })
    }

    async fn revision(&self) -> Result<i64> {
        bounded(sqlx::query_scalar(include_str!("sql/accounts/revision.sql")).fetch_one(&self.pool)).await
    }

    async fn ping(&self) -> Result<()> {
        ports::ledger::Ledger::ping(self).await
    }
}

async fn put_bootstrap(connection: &mut PgConnection, key: &ApiKey, hash: KeyHash, replace: bool) -> sqlx::Result<bool> {
    // Two processes that start together decide one after the other.
    sqlx::query(include_str!("sql/accounts/lock_installation.sql")).execute(&mut *connection).await?;
    if replace {
        sqlx::query(include_str!("sql/accounts/delete_bootstrap_key.sql")).bind(&hash[..]).execute(&mut *connection).await?;
    }
    let statement = sqlx::query(include_str!("sql/accounts/insert_bootstrap_key.sql")).bind(&hash[..]).bind(key.id.0);
    bind_key(statement, key).execute(&mut *connection).await?;
    sqlx::query_scalar(include_str!("sql/accounts/is_bootstrap_key.sql")).bind(&hash[..]).fetch_one(connection).await
}

/// The columns from `name` on.
fn bind_key<'q>(statement: Query<'q, Database, PgArguments>, key: &'q ApiKey) -> Query<'q, Database, PgArguments> {
    statement
        .bind(key.name.as_deref())
        .bind(key.scopes.iter().map(|scope| scope.as_str()).collect::<Vec<_>>())
        .bind(key.providers.iter().map(Provider::as_str).collect::<Vec<_>>())
        .bind(key.org_ids.iter().map(|org| org.0).collect::<Vec<_>>())
        .bind(key.created_at)
        .bind(key.expires_at)
}

fn role(text: &str) -> Result<Role> {
    Role::parse(text).ok_or_else(|| corrupt("a member of unknown role"))
}
