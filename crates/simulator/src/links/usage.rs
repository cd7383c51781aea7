//! The usage store as a process reaches it. A write is many rows: it may break in the middle, and rows of it may land long after.

use crate::{
    link::Link,
    network::Effect,
    stores::{Row, Usage},
};
use async_trait::async_trait;
use chrono::{DateTime, NaiveDate, Utc};
use domain::{
    event::UsageEvent,
    ids::Shard,
    rollup::{CellKey, CellValue, RollupScope},
    time::Grain,
};
use ports::{
    Result, StoreError,
    usage_store::{Flush, Generation, RawScope, ShardState, UsageStore},
};
use std::{sync::Arc, time::Duration};
use tokio::time::sleep;
use uuid::Uuid;

pub struct UsageLink {
    pub usage: Arc<Usage>,
    pub link: Link,
}

impl UsageLink {
    /// Up to a row somewhere in the middle all land; of those from there to the end of their kind some land, some land later, some never.
    fn tear(&self, rows: Vec<Row>) -> StoreError {
        let network = &self.link.network;
        let all = rows.len();
        let broken_at = usize::try_from(network.below(u64::try_from(all).unwrap_or(1))).unwrap_or(0);
        let kind = rows.get(broken_at).map(std::mem::discriminant);
        network.tell(|| format!("{}: a write of {all} rows breaks at row {broken_at}", self.link.name));
        for (index, row) in rows.into_iter().enumerate() {
            match (index < broken_at, network.below(3)) {
                (true, _) | (false, 0) if index < broken_at || Some(std::mem::discriminant(&row)) == kind => self.usage.land(row),
                (false, 1) if Some(std::mem::discriminant(&row)) == kind => {
                    self.land_later(row, Duration::from_millis(network.below(12_000)))
                }
                _ => {}
            }
        }
        StoreError::unavailable("memory", "a fault of the simulation")
    }

    fn land_later(&self, row: Row, time: Duration) {
        let usage = Arc::clone(&self.usage);
        tokio::spawn(async move {
            sleep(time).await;
            usage.land(row);
        });
    }
}

#[async_trait]
impl UsageStore for UsageLink {
    async fn live_generation(&self) -> Result<Generation> {
        let usage = Arc::clone(&self.usage);
        let work = move || {
            let usage = Arc::clone(&usage);
            async move { usage.live_generation().await }
        };
        self.link.call("usage.live_generation", Effect::Read, work).await
    }

    async fn shard_states(&self, generation: Generation, shards: &[Shard]) -> Result<Vec<ShardState>> {
        let (usage, shards): (_, Arc<[Shard]>) = (Arc::clone(&self.usage), shards.into());
        let work = move || {
            let (usage, shards) = (Arc::clone(&usage), Arc::clone(&shards));
            async move { usage.shard_states(generation, &shards).await }
        };
        self.link.call("usage.shard_states", Effect::Read, work).await
    }

    async fn load_cells(&self, generation: Generation, keys: &[CellKey]) -> Result<Vec<CellValue>> {
        let (usage, keys): (_, Arc<[CellKey]>) = (Arc::clone(&self.usage), keys.into());
        let work = move || {
            let (usage, keys) = (Arc::clone(&usage), Arc::clone(&keys));
            async move { usage.load_cells(generation, &keys).await }
        };
        self.link.call("usage.load_cells", Effect::Read, work).await
    }

    async fn write(&self, generation: Generation, flushes: &[Flush]) -> Result<()> {
        self.link.life.runs().await;
        if self.link.network.fails() {
            return Err(self.tear(Usage::rows_of(generation, flushes)));
        }
        let (usage, flushes): (_, Arc<[Flush]>) = (Arc::clone(&self.usage), flushes.into());
        let work = move || {
            let (usage, flushes) = (Arc::clone(&usage), Arc::clone(&flushes));
            async move { usage.write(generation, &flushes).await }
        };
        self.link.call("usage.write", Effect::Repeatable, work).await
    }

    async fn cells(
        &self,
        generation: Generation,
        scope: &RollupScope,
        grain: Grain,
        from: DateTime<Utc>,
        to: DateTime<Utc>,
        dimension_prefix: &str,
    ) -> Result<Vec<(CellKey, CellValue)>> {
        self.usage.cells(generation, scope, grain, from, to, dimension_prefix).await
    }

    async fn raw(&self, scope: &RawScope, from: DateTime<Utc>, to: DateTime<Utc>, limit: u32) -> Result<Vec<UsageEvent>> {
        self.usage.raw(scope, from, to, limit).await
    }

    async fn raw_day(&self, tenant: Uuid, shard: Shard, day: NaiveDate) -> Result<Vec<UsageEvent>> {
        self.usage.raw_day(tenant, shard, day).await
    }

    async fn ping(&self) -> Result<()> {
        Ok(())
    }
}
