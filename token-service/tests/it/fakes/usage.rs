//! A log that holds nothing, and a usage store that is away until a test says how far it has counted.

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
    event_log::{Acknowledgement, DeadLetter, EventLog, KeptLetter, LetterAct, LogReader, LogRecord, Start},
    outbox::OutboxRow,
    usage_store::{Flush, Generation, RawScope, ShardState, UsageStore},
};
use std::sync::Mutex;
use uuid::Uuid;

#[derive(Default)]
pub struct Downstream {
    /// Up to which number every shard is counted; `None` while the store is away.
    pub counted: Mutex<Option<i64>>,
    /// How often somebody asked.
    pub asked: Mutex<usize>,
}

#[async_trait]
impl EventLog for Downstream {
    async fn append(&self, _: Shard, _: Vec<OutboxRow>) -> Result<Acknowledgement> {
        unimplemented!("nobody publishes here")
    }
    async fn reader(&self, _: &str) -> Result<Box<dyn LogReader>> {
        unimplemented!("nobody reads the log here")
    }
    async fn shard_reader(&self, _: &[Start]) -> Result<Box<dyn LogReader>> {
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
    async fn letters(&self) -> Result<Vec<KeptLetter>> {
        unimplemented!("nobody reads the log here")
    }
    async fn act_on_letter(&self, _: (Shard, i64), _: &LetterAct) -> Result<()> {
        unimplemented!("nobody acts on letters here")
    }
    async fn redrive(&self, _: OutboxRow) -> Result<bool> {
        unimplemented!("nobody redrives here")
    }
    async fn ping(&self) -> Result<()> {
        Ok(())
    }
}

#[async_trait]
impl UsageStore for Downstream {
    async fn live_generation(&self) -> Result<Generation> {
        *self.asked.lock().unwrap() += 1;
        self.counted.lock().unwrap().map(|_| Generation { id: 1, started_at_micros: 0 }).ok_or_else(away)
    }
    async fn shard_states(&self, _: Generation, shards: &[Shard]) -> Result<Vec<ShardState>> {
        let last_seq = self.counted.lock().unwrap().ok_or_else(away)?;
        Ok(vec![ShardState { last_seq, ..ShardState::default() }; shards.len()])
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
        Err(away())
    }
}

fn away() -> StoreError {
    StoreError::unavailable("cassandra", "away")
}
