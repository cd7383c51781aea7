//! What the simulated processes only look at: people without tiers, settings without limits, no webhooks, no replays. A limit needs buckets, whose
//! loss and restoring have tests of their own; here it would only hide the ledger behind refusals.
//!
//! What a process asks again and again has its [`Life`]: a dead one asks no more, and a stopped one not until it wakes.

use crate::network::Life;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use domain::{
    generation::Generation,
    ids::{EventId, KeyId, OrgId, Payer, Shard, UserId},
    replay::Replay,
    settings::{Settings, SettingsChange, SettingsEffect},
};
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use ports::{
    Result, StoreError,
    accounts::{Accounts, ApiKey, KeyHash, Member, Org, SpendFacts},
    generations::{CellPage, Generations},
    rate_limits::{Bucket, GiveBack, RateLimits, Take, TakeAnswer, Use, Verdict},
    replays::{Replaced, Replays, StoredReplay},
    settings::{SettingsStore, SettingsVersion},
    webhooks::{Delivery, DeliveryOutcome, Tidings, Webhook, Webhooks},
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use uuid::Uuid;

/// The shipped settings without their limits.
pub fn settings() -> Settings {
    Settings { limits: BTreeMap::new(), ..Settings::default() }
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

pub struct NoLimits;

#[async_trait]
impl RateLimits for NoLimits {
    async fn take(&self, requests: &[Take]) -> Result<Vec<TakeAnswer>> {
        Ok(requests.iter().map(|_| TakeAnswer { verdict: Verdict::Allowed, levels: Vec::new() }).collect())
    }
    async fn restore(&self, _: Payer, _: &[Use]) -> Result<()> {
        Ok(())
    }
    async fn fill(&self, _: &[Take]) -> Result<()> {
        Ok(())
    }
    async fn give_back(&self, _: &[GiveBack]) -> Result<()> {
        Ok(())
    }
    async fn known_since(&self, _: Payer) -> Result<Option<i64>> {
        Ok(Some(0))
    }
    async fn forget(&self, _: Payer) -> Result<()> {
        Ok(())
    }
    async fn peek(&self, _: &[Bucket]) -> Result<Vec<domain::bucket::Reading>> {
        Ok(Vec::new())
    }
    async fn ping(&self) -> Result<()> {
        Ok(())
    }
}

pub struct Shipped;

#[async_trait]
impl SettingsStore for Shipped {
    async fn load(&self) -> Result<Settings> {
        Ok(settings())
    }
    async fn change(&self, _: SettingsChange, _: &str, _: DateTime<Utc>) -> Result<(SettingsEffect, Settings)> {
        not_simulated()
    }
    async fn history(&self, _: u32) -> Result<Vec<SettingsVersion>> {
        Ok(Vec::new())
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

pub struct NoReplays(pub Arc<Life>);

#[async_trait]
impl Replays for NoReplays {
    async fn create(&self, _: Uuid, _: &Replay) -> Result<Option<StoredReplay>> {
        not_simulated()
    }
    async fn find(&self, _: Uuid) -> Result<Option<StoredReplay>> {
        Ok(None)
    }
    async fn list(&self, _: u32) -> Result<Vec<StoredReplay>> {
        Ok(Vec::new())
    }
    async fn running(&self) -> Result<Option<StoredReplay>> {
        self.0.runs().await;
        Ok(None)
    }
    async fn replace(&self, _: &mut StoredReplay) -> Result<Replaced> {
        not_simulated()
    }
}

#[async_trait]
impl Generations for NoReplays {
    fn scan_cells(&self, _: Generation) -> BoxStream<'_, Result<CellPage>> {
        stream::once(std::future::ready(not_simulated())).boxed()
    }
    async fn make_live(&self, _: Generation) -> Result<Generation> {
        not_simulated()
    }
    async fn drop_generation(&self, _: i32) -> Result<()> {
        not_simulated()
    }
}
