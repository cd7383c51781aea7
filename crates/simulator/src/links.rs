//! The ports as a process reaches them, through its [`Link`].

mod buckets;
mod log;
mod payments;
mod replays;
mod usage;

pub use buckets::BucketsLink;
pub use log::LogLink;
pub use payments::payments;
pub use replays::ReplaysLink;
pub use usage::UsageLink;

use crate::{link::Link, network::Effect, stores::Journal};
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use domain::{
    budget::Budget,
    charge::Charge,
    ids::{ChargeId, Payer, Provider, SagaId, Shard, UserId},
    pool::{Pool, PoolKey},
    saga::Saga,
};
use ports::{
    Result,
    ledger::{
        ChargeQuery, ClaimedSaga, IdempotencyKey, KeptAnswer, Ledger, LedgerAnswer, LedgerRequest, ShardSnapshot, StoredAnswer, Sweeper,
    },
    outbox::{Outbox, OutboxRow, ShardHead, ShardLease},
};
use std::{sync::Arc, time::Duration};
use uuid::Uuid;

/// How long news of the outbox are waited for, which end it at once. Most of a simulation would be looks at nothing new.
const IDLE: Duration = Duration::from_secs(1);

pub struct JournalLink {
    pub journal: Arc<Journal>,
    pub link: Link,
}

impl JournalLink {
    async fn call<T, W, F>(&self, what: &'static str, effect: Effect, work: W) -> Result<T>
    where
        T: Send + 'static,
        W: Fn(Arc<Journal>) -> F + Send + Sync + 'static,
        F: Future<Output = Result<T>> + Send,
    {
        let journal = Arc::clone(&self.journal);
        self.link.call(what, effect, move || work(Arc::clone(&journal))).await
    }
}

#[async_trait]
impl Ledger for JournalLink {
    async fn apply(&self, requests: &[LedgerRequest]) -> Result<Vec<LedgerAnswer>> {
        let requests: Arc<[LedgerRequest]> = requests.into();
        let work = move |journal: Arc<Journal>| {
            let requests = Arc::clone(&requests);
            async move { journal.apply(&requests).await }
        };
        self.call("ledger.apply", Effect::Once, work).await
    }

    async fn find_answers(&self, keys: &[IdempotencyKey]) -> Result<Vec<Option<(StoredAnswer, [u8; 32])>>> {
        let keys: Arc<[IdempotencyKey]> = keys.into();
        let work = move |journal: Arc<Journal>| {
            let keys = Arc::clone(&keys);
            async move { journal.find_answers(&keys).await }
        };
        self.call("ledger.find_answers", Effect::Read, work).await
    }

    async fn find_charge(&self, id: ChargeId) -> Result<Option<Charge>> {
        self.call("ledger.find_charge", Effect::Read, move |journal| async move { journal.find_charge(id).await }).await
    }

    async fn charges(&self, query: &ChargeQuery) -> Result<Vec<Charge>> {
        let query = query.clone();
        let work = move |journal: Arc<Journal>| {
            let query = query.clone();
            async move { journal.charges(&query).await }
        };
        self.call("ledger.charges", Effect::Read, work).await
    }

    async fn find_saga(&self, id: SagaId) -> Result<Option<Saga>> {
        self.call("ledger.find_saga", Effect::Read, move |journal| async move { journal.find_saga(id).await }).await
    }

    async fn open_sagas(&self, after: Option<SagaId>, limit: u32) -> Result<Vec<Saga>> {
        self.call("ledger.open_sagas", Effect::Read, move |journal| async move { journal.open_sagas(after, limit).await }).await
    }

    async fn claim_sagas(&self, lease: Duration, limit: u32) -> Result<Vec<ClaimedSaga>> {
        let work = move |journal: Arc<Journal>| async move { journal.claim_sagas(lease, limit).await };
        self.call("ledger.claim_sagas", Effect::Repeatable, work).await
    }

    async fn find_pool(&self, key: &PoolKey) -> Result<Option<Pool>> {
        Ok(self.journal.pool(key))
    }

    async fn pools(&self, payer: Option<Payer>, provider: Option<&Provider>, after: Option<&PoolKey>, limit: u32) -> Result<Vec<Pool>> {
        self.journal.pools(payer, provider, after, limit).await
    }

    async fn budgets(&self, payer: Payer, member: Option<UserId>) -> Result<Vec<Budget>> {
        self.journal.budgets(payer, member).await
    }

    async fn expired_holds(&self, sweeper: Sweeper, now: DateTime<Utc>, limit: u32) -> Result<Vec<ChargeId>> {
        let work = move |journal: Arc<Journal>| async move { journal.expired_holds(sweeper, now, limit).await };
        self.call("ledger.expired_holds", Effect::Read, work).await
    }

    async fn maintain(&self, _: DateTime<Utc>) -> Result<()> {
        Ok(())
    }

    async fn snapshot(&self, shard: Shard) -> Result<ShardSnapshot> {
        self.journal.snapshot(shard).await
    }

    async fn scan_answers(&self, visit: &mut (dyn FnMut(KeptAnswer) + Send)) -> Result<()> {
        self.journal.scan_answers(visit).await
    }

    async fn ping(&self) -> Result<()> {
        Ok(())
    }
}

#[async_trait]
impl Outbox for JournalLink {
    async fn read(&self, shard: Shard, after: i64, limit: u32) -> Result<Vec<OutboxRow>> {
        self.call("outbox.read", Effect::Read, move |journal| async move { journal.read(shard, after, limit).await }).await
    }

    async fn read_many(&self, positions: &[(Shard, i64)], limit: u32) -> Result<Vec<OutboxRow>> {
        let positions: Arc<[(Shard, i64)]> = positions.into();
        let work = move |journal: Arc<Journal>| {
            let positions = Arc::clone(&positions);
            async move { journal.read_many(&positions, limit).await }
        };
        self.call("outbox.read_many", Effect::Read, work).await
    }

    async fn read_thresholds(&self, _: &[(Shard, i64)], _: u32) -> Result<Vec<OutboxRow>> {
        Ok(Vec::new())
    }

    async fn heads(&self) -> Result<Vec<ShardHead>> {
        self.call("outbox.heads", Effect::Read, |journal| async move { journal.heads().await }).await
    }

    async fn acquire_leases(&self, owner: Uuid, ttl: Duration) -> Result<Vec<ShardLease>> {
        let work = move |journal: Arc<Journal>| async move { journal.acquire_leases(owner, ttl).await };
        self.call("outbox.acquire_leases", Effect::Repeatable, work).await
    }

    async fn release_leases(&self, owner: Uuid) -> Result<()> {
        self.call("outbox.release_leases", Effect::Repeatable, move |journal| async move { journal.release_leases(owner).await }).await
    }

    async fn mark_published(&self, marks: &[(ShardLease, i64)]) -> Result<Vec<Shard>> {
        let marks: Arc<[(ShardLease, i64)]> = marks.into();
        let work = move |journal: Arc<Journal>| {
            let marks = Arc::clone(&marks);
            async move { journal.mark_published(&marks).await }
        };
        self.call("outbox.mark_published", Effect::Repeatable, work).await
    }

    async fn wait(&self, timeout: Duration) {
        self.link.life.runs().await;
        self.journal.wait(timeout.max(IDLE)).await;
    }
}
