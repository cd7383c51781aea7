//! Roles in an org, scopes of a credential, and the caller that the gateway vouches for.

use crate::ids::{KeyId, OrgId, Provider, UserId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Role {
    OrgAdmin,
    Member,
}

impl Role {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OrgAdmin => "ORG_ADMIN",
            Self::Member => "MEMBER",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        [Self::OrgAdmin, Self::Member].into_iter().find(|role| role.as_str() == text)
    }
}

/// What an API key may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Scope {
    #[serde(rename = "tokens:consume")]
    TokensConsume,
    #[serde(rename = "tokens:read")]
    TokensRead,
    #[serde(rename = "analytics:read")]
    AnalyticsRead,
    #[serde(rename = "orgs:manage")]
    OrgsManage,
    #[serde(rename = "limits:take")]
    LimitsTake,
    #[serde(rename = "admin")]
    Admin,
}

impl Scope {
    pub const ALL: [Self; 6] =
        [Self::TokensConsume, Self::TokensRead, Self::AnalyticsRead, Self::OrgsManage, Self::LimitsTake, Self::Admin];
    /// What a key gets when nothing is asked for.
    pub const DEFAULT: [Self; 3] = [Self::TokensConsume, Self::TokensRead, Self::AnalyticsRead];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TokensConsume => "tokens:consume",
            Self::TokensRead => "tokens:read",
            Self::AnalyticsRead => "analytics:read",
            Self::OrgsManage => "orgs:manage",
            Self::LimitsTake => "limits:take",
            Self::Admin => "admin",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.as_str() == text)
    }
}

/// Who asks, as the gateway authenticated it. Services believe nothing else about the client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Caller {
    /// `None` for the bootstrap administrator, who is no user.
    pub user_id: Option<UserId>,
    pub key_id: Option<KeyId>,
    pub scopes: BTreeSet<Scope>,
    /// Empty: every provider.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub providers: BTreeSet<Provider>,
    /// Empty: every org of the user.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub org_ids: BTreeSet<OrgId>,
}

impl Caller {
    pub fn is_admin(&self) -> bool {
        self.scopes.contains(&Scope::Admin)
    }

    /// `admin` includes every other scope.
    pub fn may(&self, scope: Scope) -> bool {
        self.is_admin() || self.scopes.contains(&scope)
    }

    pub fn may_use_provider(&self, provider: &Provider) -> bool {
        self.providers.is_empty() || self.providers.contains(provider)
    }

    pub fn may_use_org(&self, org: OrgId) -> bool {
        self.org_ids.is_empty() || self.org_ids.contains(&org)
    }

    /// Scopes idempotency keys and names the author of changes: `user:<id>` or `bootstrap`.
    pub fn principal(&self) -> String {
        self.user_id.map_or_else(|| "bootstrap".to_owned(), |user| format!("user:{user}"))
    }
}
