//! Users, organisations and API keys on SQLite.

mod rows;

use crate::{
    Embedded,
    columns::corrupt,
    database::{Durability, commit, failed},
};
use async_trait::async_trait;
use domain::{
    access::Role,
    ids::{KeyId, OrgId, UserId},
};
use ports::{
    Result,
    accounts::{Accounts, ApiKey, KeyHash, Member, Org, SpendFacts},
};
use rows::{KeyRow, MemberRow, OrgRow, put_key};
use sqlx::{SqliteConnection, SqliteExecutor};
use uuid::Uuid;

#[async_trait]
impl Accounts for Embedded {
    async fn pepper(&self) -> Result<[u8; 32]> {
        if let Some(pepper) = find_pepper(self.inner.main.readers()).await? {
            return Ok(pepper);
        }
        let mut transaction = self.inner.main.begin(Durability::Now).await?;
        let new: [u8; 32] = rand::random();
        let query = sqlx::query(include_str!("../sql/put_installation.sql")).bind(new.as_slice());
        query.execute(&mut *transaction).await.map_err(failed)?;
        let stored = find_pepper(&mut *transaction).await?;
        commit(transaction).await?;
        stored.ok_or_else(|| corrupt("installation has no row after it was written"))
    }

    async fn create_key(&self, key: &ApiKey, hash: KeyHash) -> Result<()> {
        let mut transaction = self.inner.main.begin(Durability::Now).await?;
        if let Some(user) = key.user_id {
            ensure_user(&mut transaction, user).await?;
        }
        put_key(&mut transaction, key, &hash, false).await?;
        commit(transaction).await
    }

    async fn put_bootstrap_key(&self, key: &ApiKey, hash: KeyHash, replace: bool) -> Result<bool> {
        let mut transaction = self.inner.main.begin(Durability::Now).await?;
        let query = sqlx::query_scalar::<_, Vec<u8>>(include_str!("../sql/find_bootstrap_hash.sql"));
        let stored = query.fetch_optional(&mut *transaction).await.map_err(failed)?;
        match stored {
            Some(stored) if stored == hash => return Ok(true),
            Some(_) if !replace => return Ok(false),
            Some(_) => {
                let delete = sqlx::query(include_str!("../sql/delete_bootstrap_key.sql"));
                delete.execute(&mut *transaction).await.map_err(failed)?;
                raise_revision(&mut transaction).await?;
            }
            None => {}
        }
        put_key(&mut transaction, key, &hash, true).await?;
        commit(transaction).await?;
        Ok(true)
    }

    async fn find_key(&self, hash: &KeyHash) -> Result<Option<ApiKey>> {
        let query = sqlx::query_as::<_, KeyRow>(include_str!("../sql/find_key.sql")).bind(hash.as_slice());
        query.fetch_optional(self.inner.main.readers()).await.map_err(failed)?.map(KeyRow::into_key).transpose()
    }

    async fn keys(&self, user: UserId) -> Result<Vec<ApiKey>> {
        let query = sqlx::query_as::<_, KeyRow>(include_str!("../sql/list_keys.sql")).bind(user.0);
        let rows = query.fetch_all(self.inner.main.readers()).await.map_err(failed)?;
        rows.into_iter().map(KeyRow::into_key).collect()
    }

    async fn revoke_key(&self, user: UserId, key: KeyId) -> Result<bool> {
        let mut transaction = self.inner.main.begin(Durability::Now).await?;
        let query = sqlx::query(include_str!("../sql/delete_key.sql")).bind(user.0).bind(key.0);
        if query.execute(&mut *transaction).await.map_err(failed)?.rows_affected() == 0 {
            return Ok(false);
        }
        raise_revision(&mut transaction).await?;
        commit(transaction).await?;
        Ok(true)
    }

    async fn create_org(&self, org: &Org, first_admin: Option<UserId>) -> Result<()> {
        let mut transaction = self.inner.main.begin(Durability::Now).await?;
        let query =
            sqlx::query(include_str!("../sql/insert_org.sql")).bind(org.id.0).bind(&org.name).bind(org.created_at.timestamp_millis());
        let created = query.execute(&mut *transaction).await.map_err(failed)?.rows_affected() == 1;
        if let Some(user_id) = first_admin.filter(|_| created) {
            put_member_row(&mut transaction, org.id, Member { user_id, role: Role::OrgAdmin }).await?;
            raise_revision(&mut transaction).await?;
        }
        commit(transaction).await
    }

    async fn find_org(&self, org: OrgId) -> Result<Option<Org>> {
        let query = sqlx::query_as::<_, OrgRow>(include_str!("../sql/find_org.sql")).bind(org.0);
        query.fetch_optional(self.inner.main.readers()).await.map_err(failed)?.map(OrgRow::into_org).transpose()
    }

    async fn orgs(&self, of_user: Option<UserId>, after: Option<OrgId>, limit: u32) -> Result<Vec<Org>> {
        let query = match of_user {
            None => sqlx::query_as::<_, OrgRow>(include_str!("../sql/list_orgs.sql")),
            Some(user) => sqlx::query_as(include_str!("../sql/list_orgs_of_user.sql")).bind(user.0),
        };
        let query = query.bind(after.map(|org| org.0)).bind(limit);
        let rows = query.fetch_all(self.inner.main.readers()).await.map_err(failed)?;
        rows.into_iter().map(OrgRow::into_org).collect()
    }

    async fn put_member(&self, org: OrgId, member: Member) -> Result<bool> {
        let mut transaction = self.inner.main.begin(Durability::Now).await?;
        if !org_exists(&mut transaction, org).await? {
            return Ok(false);
        }
        if put_member_row(&mut transaction, org, member).await? {
            raise_revision(&mut transaction).await?;
        }
        commit(transaction).await?;
        Ok(true)
    }

    async fn remove_member(&self, org: OrgId, user: UserId) -> Result<bool> {
        let mut transaction = self.inner.main.begin(Durability::Now).await?;
        let query = sqlx::query(include_str!("../sql/delete_member.sql")).bind(org.0).bind(user.0);
        if query.execute(&mut *transaction).await.map_err(failed)?.rows_affected() == 0 {
            return Ok(false);
        }
        raise_revision(&mut transaction).await?;
        commit(transaction).await?;
        Ok(true)
    }

    async fn members(&self, org: OrgId, after: Option<UserId>, limit: u32) -> Result<Vec<Member>> {
        let query =
            sqlx::query_as::<_, MemberRow>(include_str!("../sql/list_members.sql")).bind(org.0).bind(after.map(|user| user.0)).bind(limit);
        let rows = query.fetch_all(self.inner.main.readers()).await.map_err(failed)?;
        rows.into_iter().map(MemberRow::into_member).collect()
    }

    async fn set_user_tier(&self, user: UserId, tier: &str) -> Result<()> {
        let mut transaction = self.inner.main.begin(Durability::Now).await?;
        ensure_user(&mut transaction, user).await?;
        let query = sqlx::query(include_str!("../sql/set_user_tier.sql")).bind(user.0).bind(tier);
        if query.execute(&mut *transaction).await.map_err(failed)?.rows_affected() > 0 {
            raise_revision(&mut transaction).await?;
        }
        commit(transaction).await
    }

    async fn set_org_tier(&self, org: OrgId, tier: &str) -> Result<bool> {
        let mut transaction = self.inner.main.begin(Durability::Now).await?;
        if !org_exists(&mut transaction, org).await? {
            return Ok(false);
        }
        let query = sqlx::query(include_str!("../sql/set_org_tier.sql")).bind(org.0).bind(tier);
        if query.execute(&mut *transaction).await.map_err(failed)?.rows_affected() > 0 {
            raise_revision(&mut transaction).await?;
        }
        commit(transaction).await?;
        Ok(true)
    }

    async fn spend_facts(&self, user: UserId, org: Option<OrgId>) -> Result<SpendFacts> {
        let query = sqlx::query_as::<_, (Option<String>, Option<String>, bool, Option<String>)>(include_str!("../sql/spend_facts.sql"));
        let query = query.bind(user.0).bind(org.map(|org| org.0));
        let (user_tier, org_tier, org_exists, role) = query.fetch_one(self.inner.main.readers()).await.map_err(failed)?;
        Ok(SpendFacts { user_tier, org_tier, org_exists, role: role.as_deref().map(rows::role).transpose()? })
    }

    async fn revision(&self) -> Result<i64> {
        let query = sqlx::query_scalar::<_, i64>(include_str!("../sql/find_revision.sql"));
        Ok(query.fetch_optional(self.inner.main.readers()).await.map_err(failed)?.unwrap_or(0))
    }

    async fn ping(&self) -> Result<()> {
        self.inner.main.ping().await
    }
}

async fn find_pepper(executor: impl SqliteExecutor<'_>) -> Result<Option<[u8; 32]>> {
    let query = sqlx::query_scalar::<_, Option<Vec<u8>>>(include_str!("../sql/find_pepper.sql"));
    let pepper = query.fetch_optional(executor).await.map_err(failed)?.flatten();
    pepper.map(|pepper| pepper.try_into().map_err(|_| corrupt("installation.pepper is not 32 bytes"))).transpose()
}

/// What was cached under an older number is no longer valid.
async fn raise_revision(connection: &mut SqliteConnection) -> Result<()> {
    sqlx::query(include_str!("../sql/raise_revision.sql")).execute(connection).await.map_err(failed)?;
    Ok(())
}

async fn ensure_user(connection: &mut SqliteConnection, user: UserId) -> Result<()> {
    sqlx::query(include_str!("../sql/ensure_user.sql")).bind(user.0).execute(connection).await.map_err(failed)?;
    Ok(())
}

async fn org_exists(connection: &mut SqliteConnection, org: OrgId) -> Result<bool> {
    let query = sqlx::query_scalar::<_, Uuid>(include_str!("../sql/org_exists.sql")).bind(org.0);
    Ok(query.fetch_optional(connection).await.map_err(failed)?.is_some())
}

/// Whether that changed anything.
async fn put_member_row(connection: &mut SqliteConnection, org: OrgId, member: Member) -> Result<bool> {
    ensure_user(connection, member.user_id).await?;
    let query = sqlx::query(include_str!("../sql/put_member.sql")).bind(org.0).bind(member.user_id.0).bind(member.role.as_str());
    Ok(query.execute(connection).await.map_err(failed)?.rows_affected() > 0)
}
