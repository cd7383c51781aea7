//! Rows of keys, orgs and members.

use crate::{
    columns::{corrupt, from_json, instant, optional_instant, optional_millis, to_json},
    database::failed,
};
use domain::{
    access::Role,
    ids::{KeyId, OrgId, UserId},
};
use ports::{
    Result,
    accounts::{ApiKey, KeyHash, Member, Org},
};
use sqlx::SqliteConnection;
use uuid::Uuid;

#[derive(Debug)]
pub(super) struct KeyRow {
    id: Uuid,
    user_id: Option<Uuid>,
    name: Option<String>,
    scopes: String,
    providers: String,
    org_ids: String,
    created_at: i64,
    expires_at: Option<i64>,
}

from_row!(KeyRow { id, user_id, name, scopes, providers, org_ids, created_at, expires_at });

impl KeyRow {
    pub(super) fn into_key(self) -> Result<ApiKey> {
        Ok(ApiKey {
            id: KeyId(self.id),
            user_id: self.user_id.map(UserId),
            name: self.name,
            scopes: from_json("api_key.scopes", &self.scopes)?,
            providers: from_json("api_key.providers", &self.providers)?,
            org_ids: from_json("api_key.org_ids", &self.org_ids)?,
            created_at: instant(self.created_at)?,
            expires_at: optional_instant(self.expires_at)?,
        })
    }
}

/// The same hash again replaces nothing.
pub(super) async fn put_key(connection: &mut SqliteConnection, key: &ApiKey, hash: &KeyHash, bootstrap: bool) -> Result<()> {
    let query = sqlx::query(include_str!("../../sql/put_key.sql"))
        .bind(key.id.0)
        .bind(hash.as_slice())
        .bind(key.user_id.map(|user| user.0))
        .bind(&key.name)
        .bind(to_json(&key.scopes)?)
        .bind(to_json(&key.providers)?)
        .bind(to_json(&key.org_ids)?)
        .bind(key.created_at.timestamp_millis())
        .bind(optional_millis(key.expires_at))
        .bind(bootstrap);
    query.execute(connection).await.map_err(failed)?;
    Ok(())
}

#[derive(Debug)]
pub(super) struct OrgRow {
    id: Uuid,
    name: String,
    created_at: i64,
}

from_row!(OrgRow { id, name, created_at });

impl OrgRow {
    pub(super) fn into_org(self) -> Result<Org> {
        Ok(Org { id: OrgId(self.id), name: self.name, created_at: instant(self.created_at)? })
    }
}

#[derive(Debug)]
pub(super) struct MemberRow {
    user_id: Uuid,
    role: String,
}

from_row!(MemberRow { user_id, role });

impl MemberRow {
    pub(super) fn into_member(self) -> Result<Member> {
        Ok(Member { user_id: UserId(self.user_id), role: role(&self.role)? })
    }
}

pub(super) fn role(text: &str) -> Result<Role> {
    Role::parse(text).ok_or_else(|| corrupt(format!("role {text:?}")))
}
