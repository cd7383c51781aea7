//! The log: every event in the order of its shard, at least once. Kafka, or the outbox itself read in order.

use crate::{Result, outbox::OutboxRow};
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use domain::ids::Shard;
use futures_core::future::BoxFuture;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Resolves when every record of the run is acknowledged, or with the first failure.
pub type Acknowledgement = BoxFuture<'static, Result<()>>;

/// A record as it came from the log, not yet trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogRecord {
    /// The partition; equal to the shard for everything that Weir wrote.
    pub shard: Shard,
    pub offset: i64,
    /// Framed bytes: 0x00, schema id, Avro.
    pub value: Vec<u8>,
    /// From the headers; absent on foreign records.
    pub seq: Option<i64>,
    pub trace_parent: Option<String>,
    /// Milliseconds since the Unix epoch at which the log received it.
    pub timestamp_ms: Option<i64>,
}

/// Where a reader of some shards begins in one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    pub shard: Shard,
    /// Number of the event before the first that is wanted, 0 for the beginning.
    pub after: i64,
    /// An offset that the wanted events do not stand before, where the caller knows one: it is not searched for then.
    pub offset: Option<i64>,
}

/// What a poll brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogEvent {
    /// In order within each shard.
    Records(Vec<LogRecord>),
    /// From now on this reader owns exactly these shards; state of others must be dropped, state of new ones loaded.
    Assigned(Vec<Shard>),
    /// Nothing new within the timeout.
    Idle,
}

/// A record that could not be applied, kept with its original bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    pub shard: Shard,
    pub offset: i64,
    pub value: Vec<u8>,
    pub seq: Option<i64>,
    pub reason: String,
}

/// What somebody did about a letter. A fact: kept for ever, never changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LetterAct {
    pub kind: LetterActKind,
    pub by: String,
    pub at: DateTime<Utc>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Of an edit: what is to be redriven instead of the original bytes.
    #[serde(skip)]
    pub value: Option<Vec<u8>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum LetterActKind {
    Edited,
    Redriven,
    Dropped,
}

/// A letter with its history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptLetter {
    pub letter: DeadLetter,
    /// When it was buried, first and last: a reader that crashes meets the record again.
    pub first_seen: DateTime<Utc>,
    pub last_seen: DateTime<Utc>,
    /// In order.
    pub acts: Vec<LetterAct>,
}

impl KeptLetter {
    /// The act that ended its waiting.
    pub fn end(&self) -> Option<LetterActKind> {
        self.acts.iter().rev().map(|act| act.kind).find(|kind| *kind != LetterActKind::Edited)
    }

    /// The latest edit.
    pub fn edited(&self) -> Option<&[u8]> {
        self.acts.iter().rev().find_map(|act| act.value.as_deref())
    }
}

#[async_trait]
pub trait EventLog: Send + Sync {
    /// Hands over one run of rows of one shard, in order, and returns as soon as it is queued; several runs may be in flight.
    /// A failed acknowledgement means: nothing after the last good run may be believed; the caller starts again from its mark.
    async fn append(&self, shard: Shard, rows: Vec<OutboxRow>) -> Result<Acknowledgement>;

    /// A reader in a consumer group: shards are divided among its readers.
    async fn reader(&self, group: &str) -> Result<Box<dyn LogReader>>;

    /// A reader of these shards for itself, in no group: begins in each where it is told, or earlier. What it commits is nowhere kept.
    async fn shard_reader(&self, starts: &[Start]) -> Result<Box<dyn LogReader>>;

    /// Everything in the log from its beginning to its present end, shard by shard, for the audit.
    /// Calls `visit` with records in order within each shard.
    async fn scan(&self, visit: &mut (dyn FnMut(LogRecord) + Send)) -> Result<()>;

    /// An offset at which the shard's event of this number stands; `None` where it is not in the log, or not any more.
    async fn find(&self, shard: Shard, seq: i64) -> Result<Option<i64>>;

    /// Durably keeps what could not be applied.
    async fn bury(&self, letters: &[DeadLetter]) -> Result<()>;

    /// Number of records ever buried.
    async fn buried(&self) -> Result<u64>;

    /// All letters with what was done about them, in the order in which they were first buried.
    async fn letters(&self) -> Result<Vec<KeptLetter>>;

    /// Durably adds to the history of the letter at this place; of one that was never buried nothing is kept.
    async fn act_on_letter(&self, place: (Shard, i64), act: &LetterAct) -> Result<()>;

    /// Puts an event of the ledger back into the log under its own number: at the log's end, or, where the log is the outbox, in its place.
    /// The caller knows that it is the event that the ledger numbered so. `false`, and nothing done, where its place is in the log no more.
    async fn redrive(&self, row: OutboxRow) -> Result<bool>;

    async fn ping(&self) -> Result<()>;
}

#[async_trait]
pub trait LogReader: Send {
    /// Waits at most `timeout`.
    async fn poll(&mut self, timeout: Duration) -> Result<LogEvent>;

    /// Keeps the place in the group while the caller is too busy to take records, e.g. because the store is away; brings none.
    /// Called at least once a second then. For readers that stay in their group without being asked there is nothing to do.
    async fn keep_alive(&mut self) -> Result<()> {
        Ok(())
    }

    /// Everything before these offsets is durably applied. A commit for shards that are no longer owned is ignored.
    async fn commit(&mut self, next_offsets: &[(Shard, i64)]) -> Result<()>;
}
