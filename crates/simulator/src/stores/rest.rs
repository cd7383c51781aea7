//! What the simulated processes only look at: people without tiers, settings, no webhooks.
//!
//! What a process asks again and again has its [`Life`]: a dead one asks no more, and a stopped one not until it wakes.

use crate::link::Life;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use domain::{
    amount::Tokens,
    fixed_point::Thousandths,
    ids::{EventId, KeyId, OrgId, Payer, Provider, Shard, UserId},
    money::{Money, Price},
    settings::{Algorithm, Limit, LimitScope, OnOutage, Settings, SettingsChange, SettingsEffect},
};
use ports::{
    Result, StoreError,
    accounts::{Accounts, ApiKey, KeyHash, Member, Org, SpendFacts},
    settings::{SettingsStore, SettingsVersion},
    webhooks::{Delivery, DeliveryOutcome, Tidings, Webhook, Webhooks},
};
use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock},
    time::Duration,
};
use uuid::Uuid;

/// The shipped settings with a price of what is spent and purchased, and with limits of their own, if any: these hide the ledger behind
/// refusals.
pub fn settings(limited: bool) -> Arc<Settings> {
    let settings = if limited { &*LIMITED } else { &*UNLIMITED };
    Arc::clone(settings)
}

static UNLIMITED: LazyLock<Arc<Settings>> = LazyLock::new(|| with_limits(BTreeMap::new()));
static LIMITED: LazyLock<Arc<Settings>> = LazyLock::new(|| {
    let spent = Limit { leak_rate_per_second: Some(Thousandths::ONE), ..limit(Algorithm::LeakyBucket, 4_000) };
    with_limits([("spent".to_owned(), spent), ("running".to_owned(), limit(Algorithm::Concurrency, 2))].into())
});

fn with_limits(limits: BTreeMap<String, Limit>) -> Arc<Settings> {
    let money = "EUR".parse().ok().map(|currency| Money { currency, minor_unit_digits: 6 });
    let prices = price().map(|price| ("all".to_owned(), price)).into_iter().collect();
    Arc::new(Settings { limits, money, prices, ..Settings::default() })
}

/// Of each user; refuses while its buckets cannot be asked, so that what passed is known to the buckets.
fn limit(algorithm: Algorithm, capacity: i64) -> Limit {
    Limit {
        scope: LimitScope::User,
        provider: None,
        model: None,
        algorithm,
        capacity: Tokens::new(capacity).unwrap_or(Tokens::ZERO),
        leak_rate_per_second: None,
        window_seconds: None,
        on_outage: OnOutage::Closed,
    }
}

fn price() -> Option<Price> {
    Some(Price {
        provider: Provider::parse("openai").ok()?,
        model: None,
        effective_from: None,
        input_per_million: "3".parse().ok()?,
        output_per_million: "7.5".parse().ok()?,
        cached_input_per_million: None,
    })
}

fn not_simulated<T>() -> Result<T> {
    Err(StoreError::corrupt("memory", "nobody asks for this in a simulation"))
}

/// No user, no key, no org.
pub struct Nobody(pub Arc<Life>);

#[async_trait]
impl Accounts for Nobody {
    async fn pepper(&self) -> Result<[u8; 32]> {
        not_simulated()
    }
    async fn create_key(&self, _: &ApiKey, _: KeyHash) -> Result<()> {
        not_simulated()
    }
    async fn put_bootstrap_key(&self, _: &ApiKey, _: KeyHash, _: bool) -> Result<bool> {
        not_simulated()
    }
    async fn find_key(&self, _: &KeyHash) -> Result<Option<ApiKey>> {
        not_simulated()
    }
    async fn keys(&self, _: UserId) -> Result<Vec<ApiKey>> {
        not_simulated()
    }
    async fn revoke_key(&self, _: UserId, _: KeyId) -> Result<bool> {
        not_simulated()
    }
    async fn create_org(&self, _: &Org, _: Option<UserId>) -> Result<()> {
        not_simulated()
    }
    async fn find_org(&self, _: OrgId) -> Result<Option<Org>> {
        not_simulated()
    }
    async fn orgs(&self, _: Option<UserId>, _: Option<OrgId>, _: u32) -> Result<Vec<Org>> {
        not_simulated()
    }
    async fn put_member(&self, _: OrgId, _: Member) -> Result<bool> {
        not_simulated()
    }
    async fn remove_member(&self, _: OrgId, _: UserId) -> Result<bool> {
        not_simulated()
    }
    async fn members(&self, _: OrgId, _: Option<UserId>, _: u32) -> Result<Vec<Member>> {
        not_simulated()
    }
    async fn set_user_tier(&self, _: UserId, _: &str) -> Result<()> {
        not_simulated()
    }
    async fn set_org_tier(&self, _: OrgId, _: &str) -> Result<bool> {
        not_simulated()
    }
    async fn spend_facts(&self, _: UserId, _: Option<OrgId>) -> Result<SpendFacts> {
        self.0.runs().await;
        Ok(SpendFacts::default())
    }
    async fn revision(&self) -> Result<i64> {
        self.0.runs().await;
        Ok(0)
    }
    async fn ping(&self) -> Result<()> {
        Ok(())
    }
}

pub struct Shipped(pub Arc<Settings>);

#[async_trait]
impl SettingsStore for Shipped {
    async fn load(&self) -> Result<Settings> {
        Ok(Settings::clone(&self.0))
    }
    async fn change(&self, _: SettingsChange, _: &str, _: DateTime<Utc>) -> Result<(SettingsEffect, Settings)> {
        not_simulated()
    }
    /// They have never been changed.
    async fn history(&self, _: u32) -> Result<Vec<SettingsVersion>> {
        Ok(vec![SettingsVersion { version: 1, author: "simulation".into(), at: DateTime::UNIX_EPOCH, change: None }])
    }
    async fn wait(&self, _: i64, timeout: Duration) {
        tokio::time::sleep(timeout).await;
    }
}

pub struct NoWebhooks(pub Arc<Life>);

#[async_trait]
impl Webhooks for NoWebhooks {
    async fn create(&self, _: &Webhook, _: u32) -> Result<bool> {
        not_simulated()
    }
    async fn webhooks(&self, _: Payer) -> Result<Vec<Webhook>> {
        Ok(Vec::new())
    }
    async fn delete(&self, _: Payer, _: Uuid) -> Result<bool> {
        not_simulated()
    }
    async fn positions(&self) -> Result<Vec<(Shard, i64)>> {
        self.0.runs().await;
        Ok(Vec::new())
    }
    async fn queue(&self, _: &[Tidings], _: &[(Shard, i64)]) -> Result<()> {
        Ok(())
    }
    async fn claim_due(&self, _: DateTime<Utc>, _: DateTime<Utc>, _: u32) -> Result<Vec<(Webhook, Delivery)>> {
        Ok(Vec::new())
    }
    async fn record(&self, _: Uuid, _: EventId, _: &DeliveryOutcome) -> Result<()> {
        Ok(())
    }
    async fn deliveries(&self, _: Payer, _: Uuid, _: u32) -> Result<Vec<Delivery>> {
        Ok(Vec::new())
    }
    async fn redeliver(&self, _: Payer, _: Uuid, _: EventId, _: DateTime<Utc>) -> Result<bool> {
        not_simulated()
    }
    async fn forget(&self, _: DateTime<Utc>) -> Result<u64> {
        Ok(0)
    }
}
