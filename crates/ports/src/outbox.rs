//! The outbox: the append-only table of all events, read in the order of their numbers. Nothing is ever deleted from it row by row:
//! old events leave it together, once they are in the archive.

use crate::{Result, archive::Segment};
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use domain::ids::Shard;
use std::time::Duration;
use uuid::Uuid;

/// A row as the relay hands it on: the stored bytes and what goes into the record's headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboxRow {
    pub shard: Shard,
    pub seq: i64,
    pub epoch: i32,
    pub event_id: Uuid,
    /// The event type's symbol, e.g. `CHARGE_SETTLED`.
    pub kind: String,
    pub tenant: Uuid,
    pub occurred_at: DateTime<Utc>,
    pub trace_parent: Option<String>,
    /// As it came with the request, see [`crate::ledger::LedgerRequest`].
    pub seen: Vec<u8>,
    /// Avro without framing, encoded once, where it was written.
    pub payload: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardHead {
    pub shard: Shard,
    /// Number of the newest event.
    pub last_seq: i64,
    /// Everything up to here is acknowledged by the log.
    pub published_through: i64,
    /// Everything up to here is in the archive, and the store does not answer for it any more.
    pub archived_through: i64,
}

/// Old events that leave a store together, e.g. the partition of a week.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OldPart {
    /// Which of several stores keeps it.
    pub store: usize,
    /// All of it was written before.
    pub before: DateTime<Utc>,
    /// Of each shard with events in it what lies behind its `archived_through`.
    pub segments: Vec<Segment>,
}

/// The right to publish a shard. `fencing` rises with each new owner; an older one can no longer mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardLease {
    pub shard: Shard,
    pub fencing: i64,
    pub published_through: i64,
}

#[async_trait]
pub trait Outbox: Send + Sync {
    /// Rows of one shard with `seq > after`, in order, at most `limit`. A store knows nothing of what was archived; the outbox that
    /// services are given reads it from the archive.
    async fn read(&self, shard: Shard, after: i64, limit: u32) -> Result<Vec<OutboxRow>>;

    /// Rows of several shards, each with its own `seq > after`, in the order of the positions and of the numbers, at most `limit` of each.
    /// An adapter that can do this in one step should.
    async fn read_many(&self, positions: &[(Shard, i64)], limit: u32) -> Result<Vec<OutboxRow>> {
        let mut rows = Vec::new();
        for (shard, after) in positions {
            rows.extend(self.read(*shard, *after, limit).await?);
        }
        Ok(rows)
    }

    /// As [`Outbox::read_many`], only of the events that webhooks are told about. These are told before they are archived.
    async fn read_thresholds(&self, positions: &[(Shard, i64)], limit: u32) -> Result<Vec<OutboxRow>>;

    /// All shards, in order.
    async fn heads(&self) -> Result<Vec<ShardHead>>;

    /// Renews what `owner` holds and takes free or abandoned shards until it holds its fair share among the owners that are alive.
    /// Answers everything held now; what is missing from the answer was lost and must not be published any more.
    async fn acquire_leases(&self, owner: Uuid, ttl: Duration) -> Result<Vec<ShardLease>>;

    /// Gives everything up at once, at shutdown.
    async fn release_leases(&self, owner: Uuid) -> Result<()>;

    /// Raises `published_through`, never lowers it; ignores leases that have a newer owner. Answers the shards that were ignored.
    async fn mark_published(&self, marks: &[(ShardLease, i64)]) -> Result<Vec<Shard>>;

    /// The oldest part of each store that ended on or before this day's beginning; none while everything is younger.
    async fn old_parts(&self, _before: DateTime<Utc>) -> Result<Vec<OldPart>> {
        Ok(Vec::new())
    }

    /// Drops the part and raises `archived_through`, in one step; `false`, and nothing done, when the part is not any more what it was,
    /// e.g. because another process dropped it, or is in use. Only for what is in the archive.
    async fn drop_part(&self, _part: &OldPart) -> Result<bool> {
        Ok(false)
    }

    /// Returns when there may be new rows, at the latest after `timeout`.
    async fn wait(&self, timeout: Duration);
}
