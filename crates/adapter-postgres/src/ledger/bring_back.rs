//! After a restore: the events that the log has and this database has lost, in one transaction for each shard.

use super::{
    Failure,
    batch::Batch,
    load::lock_shards,
    read_shard,
    write::{Statement, write},
};
use crate::{
    Postgres, STORE,
    error::{bounded, corrupt},
    packed::PackedEvent,
    partitions,
    shard::shard_column,
};
use chrono::{DateTime, Utc};
use domain::{event::UsageEvent, ids::Shard};
use ports::{Clock, Result, StoreError, outbox::OutboxRow};
use std::collections::BTreeSet;

pub(super) async fn bring_back(postgres: &Postgres, shard: Shard, lost: &[OutboxRow], holds_expire_at: DateTime<Utc>) -> Result<()> {
    // The restored database may be of a day for which it has no partition yet.
    partitions::make_ahead(&postgres.pool).await?;
    let events = lost.iter().map(|row| event_of(row, shard)).collect::<Result<Vec<_>>>()?;
    let put_back = async {
        let mut transaction = postgres.pool.begin().await?;
        let heads = lock_shards(&mut transaction, BTreeSet::from([shard])).await?;
        let mut published_through = 0;
        if let Some((last, _)) = events.last() {
            let before = heads.get(&shard).map_or(0, |head| head.last_seq);
            let state = read_shard(&mut transaction, shard, before).await?.into_state();
            let mut batch = Batch::new(state, heads, Clock::System.now());
            batch.bring_back(&events, holds_expire_at)?;
            write(&mut transaction, &batch).await?;
            published_through = last.seq;
        }
        sqlx::query(include_str!("../sql/ledger/raise_epoch.sql")).bind(shard_column(shard)).execute(&mut *transaction).await?;
        take_lease_back(shard, published_through).execute(&mut *transaction).await?;
        Ok::<_, Failure>(transaction)
    };
    let transaction = put_back.await.map_err(Failure::not_done)?;
    transaction.commit().await.map_err(|error| StoreError::outcome_unknown(STORE, error))
}

/// Nobody who has a lease of before may mark; everything up to this number is in the log.
fn take_lease_back(shard: Shard, published_through: i64) -> Statement<'static> {
    sqlx::query(include_str!("../sql/outbox/take_lease_back.sql")).bind(shard_column(shard)).bind(published_through)
}

impl Postgres {
    /// Where leases are kept in another database than the shard.
    pub(crate) async fn take_lease_back(&self, shard: Shard, published_through: i64) -> Result<()> {
        bounded(take_lease_back(shard, published_through).execute(&self.pool)).await.map(drop)
    }
}

fn event_of(row: &OutboxRow, shard: Shard) -> Result<(UsageEvent, PackedEvent)> {
    let event = event_codec::decode(&row.payload).map_err(|error| corrupt(format!("event {} of shard {shard}: {error}", row.seq)))?;
    if event.shard() != shard || event.seq != row.seq {
        return Err(corrupt(format!("event {}/{} under number {} of shard {shard}", event.shard(), event.seq, row.seq)));
    }
    let trace_parent = row.trace_parent.as_deref().and_then(|trace| trace.parse().ok());
    Ok((event, PackedEvent { trace_parent, seen: row.seen.clone(), payload: row.payload.clone() }))
}
