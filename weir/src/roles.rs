//! The roles a process can play, and where each listens by itself.

use anyhow::{Result, bail};
use std::{collections::BTreeSet, str::FromStr};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    Gateway,
    AuthService,
    TokenService,
    Analytics,
    ConfigService,
    OutboxRelay,
    ProviderStubs,
}

impl Role {
    pub const ALL: [Self; 7] = [
        Self::Gateway,
        Self::AuthService,
        Self::TokenService,
        Self::Analytics,
        Self::ConfigService,
        Self::OutboxRelay,
        Self::ProviderStubs,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::AuthService => "auth-service",
            Self::TokenService => "token-service",
            Self::Analytics => "analytics",
            Self::ConfigService => "config-service",
            Self::OutboxRelay => "outbox-relay",
            Self::ProviderStubs => "provider-stubs",
        }
    }

    /// Address of a process whose first role this is, unless `--listen` says otherwise.
    pub const fn default_listen(self) -> &'static str {
        match self {
            Self::Gateway => "127.0.0.1:8080",
            Self::AuthService => "127.0.0.1:8081",
            Self::TokenService => "127.0.0.1:8082",
            Self::Analytics => "127.0.0.1:8083",
            Self::OutboxRelay => "127.0.0.1:8084",
            Self::ProviderStubs => "127.0.0.1:8090",
            Self::ConfigService => "127.0.0.1:8888",
        }
    }
}

impl FromStr for Role {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let text = text.trim();
        match Self::ALL.into_iter().find(|role| role.as_str() == text) {
            Some(role) => Ok(role),
            None => bail!("there is no role {text:?}; the roles are {}", Self::ALL.map(Self::as_str).join(", ")),
        }
    }
}

/// The roles of one process.
#[derive(Clone, Debug)]
pub struct Roles(BTreeSet<Role>);

impl Roles {
    /// All of them when the list is empty.
    pub fn new(roles: &[Role]) -> Self {
        let all = if roles.is_empty() { &Role::ALL } else { roles };
        Self(all.iter().copied().collect())
    }

    pub fn has(&self, role: Role) -> bool {
        self.0.contains(&role)
    }

    pub fn has_any(&self, roles: &[Role]) -> bool {
        roles.iter().any(|role| self.has(*role))
    }

    pub fn is_everything(&self) -> bool {
        self.0.len() == Role::ALL.len()
    }

    pub fn first(&self) -> Role {
        self.0.iter().next().copied().unwrap_or(Role::Gateway)
    }

    pub fn names(&self) -> String {
        self.0.iter().map(|role| role.as_str()).collect::<Vec<_>>().join(",")
    }
}
