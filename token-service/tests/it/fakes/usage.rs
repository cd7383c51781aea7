//! A log that holds nothing and a usage store that is away: what explains a charge must do without them.

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
    event_log::{Acknowledgement, DeadLetter, EventLog, LogReader, LogRecord},
    outbox::OutboxRow,
    usage_store::{Flush, Generation, RawScope, ShardState, UsageStore},
};
use uuid::Uuid;

pub struct Downstream;

#[async_trait]
impl EventLog for Downstream {
    async fn append(&self, _: Shard, _: Vec<OutboxRow>) -> Result<Acknowledgement> {
        unimplemented!("nobody publishes here")
    }
    async fn reader(&self, _: &str) -> Result<Box<dyn LogReader>> {
        unimplemented!("nobody reads the log here")
    }
    async fn scan(&self, _: &mut (dyn FnMut(LogRecord) + Send)) -> Result<()> {
        unimplemented!("nobody reads the log here")
    }
    async fn find(&self, _: Shard, _: i64) -> Result<Option<i64>> {
        Ok(None)
    }
    async fn bury(&self, _: &[DeadLetter]) -> Result<()> {
        unimplemented!("nobody reads the log here")
    }
    async fn buried(&self) -> Result<u64> {
        unimplemented!("nobody reads the log here")
    }
    async fn ping(&self) -> Result<()> {
        Ok(())
    }
}

#[async_trait]
impl UsageStore for Downstream {
    async fn live_generation(&self) -> Result<Generation> {
        Err(StoreError::unavailable("cassandra", "away"))
    }
    async fn shard_states(&self, _: Generation, _: &[Shard]) -> Result<Vec<ShardState>> {
        unimplemented!("there is no generation")
    }
    async fn load_cells(&self, _: Generation, _: &[CellKey]) -> Result<Vec<CellValue>> {
        unimplemented!("there is no generation")
    }
    async fn write(&self, _: Generation, _: &[Flush]) -> Result<()> {
        unimplemented!("there is no generation")
    }
    async fn cells(
        &self,
        _: Generation,
        _: &RollupScope,
        _: Grain,
        _: DateTime<Utc>,
        _: DateTime<Utc>,
        _: &str,
    ) -> Result<Vec<(CellKey, CellValue)>> {
        unimplemented!("there is no generation")
    }
    async fn raw(&self, _: &RawScope, _: DateTime<Utc>, _: DateTime<Utc>, _: u32) -> Result<Vec<UsageEvent>> {
        unimplemented!("there is no generation")
    }
    async fn raw_day(&self, _: Uuid, _: Shard, _: NaiveDate) -> Result<Vec<UsageEvent>> {
        unimplemented!("there is no generation")
    }
    async fn ping(&self) -> Result<()> {
        Err(StoreError::unavailable("cassandra", "away"))
    }
}
