//! Who there is: users, organisations and their members, API keys, tiers of users and orgs.

use crate::Result;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use domain::{
    access::{Role, Scope},
    ids::{KeyId, OrgId, Provider, UserId},
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// A key as stored: never the secret, only its keyed hash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiKey {
    pub id: KeyId,
    /// `None` for the bootstrap administrator, who is no user.
    pub user_id: Option<UserId>,
    pub name: Option<String>,
    pub scopes: BTreeSet<Scope>,
    /// Empty: every provider.
    pub providers: BTreeSet<Provider>,
    /// Empty: every org of the user.
    pub org_ids: BTreeSet<OrgId>,
    pub created_at: DateTime<Utc>,
    pub expires_at: Option<DateTime<Utc>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Org {
    pub id: OrgId,
    pub name: String,
    pub created_at: DateTime<Utc>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Member {
    pub user_id: UserId,
    pub role: Role,
}

/// What the decision about a spend needs to know of the user and the org it names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpendFacts {
    pub user_tier: Option<String>,
    pub org_tier: Option<String>,
    pub org_exists: bool,
    /// The user's role in the org.
    pub role: Option<Role>,
}

/// SHA-256-HMAC of the secret under the installation's pepper.
pub type KeyHash = [u8; 32];

#[async_trait]
pub trait Accounts: Send + Sync {
    /// The pepper under which key secrets are hashed: made once per installation, 32 random bytes.
    async fn pepper(&self) -> Result<[u8; 32]>;

    /// Stores a key; makes the user's row when it is missing. The same hash again replaces nothing.
    async fn create_key(&self, key: &ApiKey, hash: KeyHash) -> Result<()>;

    /// Sets the one bootstrap administrator key (no user, scope `admin`), replacing an earlier one. `replace: false` only sets it
    /// when there is none; answers whether this hash is the stored one now.
    async fn put_bootstrap_key(&self, key: &ApiKey, hash: KeyHash, replace: bool) -> Result<bool>;

    async fn find_key(&self, hash: &KeyHash) -> Result<Option<ApiKey>>;

    /// Newest first, expired ones included.
    async fn keys(&self, user: UserId) -> Result<Vec<ApiKey>>;

    /// `false` when this user has no such key.
    async fn revoke_key(&self, user: UserId, key: KeyId) -> Result<bool>;

    /// Creates the org with its first member as `ORG_ADMIN` (no member when an administrator who is no user creates it).
    /// The same id again changes nothing.
    async fn create_org(&self, org: &Org, first_admin: Option<UserId>) -> Result<()>;

    async fn find_org(&self, org: OrgId) -> Result<Option<Org>>;

    /// Orgs of a user, or all; ordered by id, after `after`.
    async fn orgs(&self, of_user: Option<UserId>, after: Option<OrgId>, limit: u32) -> Result<Vec<Org>>;

    /// `false` when there is no such org. Makes the user's row when it is missing.
    async fn put_member(&self, org: OrgId, member: Member) -> Result<bool>;

    /// `false` when there was no such member.
    async fn remove_member(&self, org: OrgId, user: UserId) -> Result<bool>;

    /// Ordered by user id, after `after`.
    async fn members(&self, org: OrgId, after: Option<UserId>, limit: u32) -> Result<Vec<Member>>;

    /// Makes the user's row when it is missing.
    async fn set_user_tier(&self, user: UserId, tier: &str) -> Result<()>;

    /// `false` when there is no such org.
    async fn set_org_tier(&self, org: OrgId, tier: &str) -> Result<bool>;

    async fn spend_facts(&self, user: UserId, org: Option<OrgId>) -> Result<SpendFacts>;

    /// Rises with every revoked key, changed membership and changed tier: what was cached under an older number is no longer valid.
    async fn revision(&self) -> Result<i64>;

    async fn ping(&self) -> Result<()>;
}
