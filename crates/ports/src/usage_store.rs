//! Usage as reports read it: raw events by tenant and day, and rollups with absolute values.
//! Every write may be repeated, delayed or done by two writers at once without changing a total, because the write with the larger
//! sequence number wins in each cell (Cassandra: `USING TIMESTAMP generation_start_µs + seq`).

use crate::Result;
use async_trait::async_trait;
use chrono::{DateTime, NaiveDate, Utc};
use domain::{
    event::UsageEvent,
    ids::{Provider, Shard},
    rollup::{CellKey, CellValue, RollupScope},
    time::Grain,
};
use uuid::Uuid;

pub use domain::generation::{Generation, ShardState};

/// What was applied since the last flush, of one shard. Written in this order: raw, cells, state.
#[derive(Clone, Debug)]
pub struct Flush {
    pub shard: Shard,
    pub raw: Vec<UsageEvent>,
    pub cells: Vec<(CellKey, CellValue)>,
    pub state: ShardState,
}

/// Which raw events a listing wants; newest first.
#[derive(Clone, Debug)]
pub enum RawScope {
    /// One payer's.
    Tenant(Uuid),
    /// Everyone's at one provider.
    Provider(Provider),
}

#[async_trait]
pub trait UsageStore: Send + Sync {
    /// The generation that reports read; made when there is none.
    async fn live_generation(&self) -> Result<Generation>;

    async fn shard_states(&self, generation: Generation, shards: &[Shard]) -> Result<Vec<ShardState>>;

    /// Current values, in the order asked; zero where nothing is stored.
    async fn load_cells(&self, generation: Generation, keys: &[CellKey]) -> Result<Vec<CellValue>>;

    /// Durable when it returns.
    async fn write(&self, generation: Generation, flushes: &[Flush]) -> Result<()>;

    /// Cells of one scope and grain with `from <= bucket < to` whose dimension starts with `dimension_prefix`.
    async fn cells(
        &self,
        generation: Generation,
        scope: &RollupScope,
        grain: Grain,
        from: DateTime<Utc>,
        to: DateTime<Utc>,
        dimension_prefix: &str,
    ) -> Result<Vec<(CellKey, CellValue)>>;

    /// Raw events with `from <= occurred_at < to`, newest first, at most `limit`.
    async fn raw(&self, scope: &RawScope, from: DateTime<Utc>, to: DateTime<Utc>, limit: u32) -> Result<Vec<UsageEvent>>;

    /// All raw events of one tenant and day, in any order, for the audit.
    async fn raw_day(&self, tenant: Uuid, shard: Shard, day: NaiveDate) -> Result<Vec<UsageEvent>>;

    async fn ping(&self) -> Result<()>;
}
