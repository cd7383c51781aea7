//! The one administrator key that exists before any other: set by the operator, or made at the first start and shown once.

use crate::api_key::{self, Form, KeyHasher};
use chrono::{DateTime, Utc};
use domain::{access::Scope, ids::KeyId};
use ports::{
    StoreError,
    accounts::{Accounts, ApiKey},
};
use secrecy::{ExposeSecret, SecretString};
use std::collections::BTreeSet;
use thiserror::Error;
use uuid::Uuid;

/// The same in every installation, so that limits and usage of the key stay together when its secret is replaced.
const BOOTSTRAP_KEY: KeyId = KeyId(Uuid::from_u128(0x0000_0000_0000_7000_8000_0000_0000_0001));

/// Does not print its secret.
#[derive(Debug)]
pub enum Bootstrap {
    /// The configured key is the administrator's now, and no earlier one is.
    Configured,
    /// Made now: show it, it is stored as a hash only.
    Generated(SecretString),
    /// One was set at an earlier start, or by another process a moment ago.
    Existing,
}

#[derive(Debug, Error)]
pub enum BootstrapError {
    #[error("the administrator key must be weir_ followed by visible ASCII characters, 20 to 255 in all")]
    Form,
    #[error(
        "the administrator key has the shape of a key that Weir made but a wrong checksum: correct the typing error, or choose one of another length"
    )]
    Checksum,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Makes sure that there is an administrator key. Safe from several processes at once.
pub async fn bootstrap_admin(
    accounts: &dyn Accounts,
    configured_key: Option<SecretString>,
    now: DateTime<Utc>,
) -> Result<Bootstrap, BootstrapError> {
    let replace = configured_key.is_some();
    let secret = configured_key.unwrap_or_else(api_key::generate);
    match api_key::form(secret.expose_secret()) {
        Form::Plausible => {}
        Form::NotAKey => return Err(BootstrapError::Form),
        Form::WrongChecksum => return Err(BootstrapError::Checksum),
    }
    let hash = KeyHasher::new(&accounts.pepper().await?).hash(secret.expose_secret());
    let ours = accounts.put_bootstrap_key(&bootstrap_key(now), hash, replace).await?;
    Ok(match (replace, ours) {
        (true, _) => Bootstrap::Configured,
        (false, true) => Bootstrap::Generated(secret),
        (false, false) => Bootstrap::Existing,
    })
}

fn bootstrap_key(now: DateTime<Utc>) -> ApiKey {
    ApiKey {
        id: BOOTSTRAP_KEY,
        user_id: None,
        name: Some("bootstrap".into()),
        scopes: BTreeSet::from([Scope::Admin]),
        providers: BTreeSet::new(),
        org_ids: BTreeSet::new(),
        created_at: now,
        expires_at: None,
    }
}
