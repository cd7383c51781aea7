//! `ports::outbox` in Postgres. Readers follow a shard by number and take no locks: the ledger makes rows visible in that order.
//! Leases have their own table, so that publishing never waits for a writer.

mod old_part;

use crate::{
    Postgres,
    error::{bounded, corrupt},
    packed::{self, PackedEvent},
    shard::{shard_column, shard_of},
};
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use domain::{event::EventType, ids::Shard};
use ports::{
    Result,
    outbox::{OldPart, Outbox, OutboxRow, ShardHead, ShardLease},
};
use sqlx::{FromRow, PgConnection};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};
use uuid::Uuid;

/// Consecutive events of a shard; `seq` is the number of the last.
#[derive(FromRow)]
struct EventsRow {
    shard: i16,
    seq: i64,
    count: i16,
    events: Vec<u8>,
}

impl EventsRow {
    fn rows(self) -> Result<Vec<OutboxRow>> {
        let shard = shard_of(self.shard)?;
        let numbered = packed::numbered(&self.events, self.count, self.seq)?;
        numbered.into_iter().map(|(seq, event)| outbox_row(shard, seq, event)).collect()
    }
}

/// The events behind each position that are asked for, at most `limit` of each shard.
fn wanted(rows: Vec<EventsRow>, positions: &[(Shard, i64)], limit: u32, asked_for: impl Fn(&OutboxRow) -> bool) -> Result<Vec<OutboxRow>> {
    let mut left: HashMap<Shard, (i64, u32)> = positions.iter().map(|(shard, after)| (*shard, (*after, limit))).collect();
    let mut events = Vec::new();
    for row in rows {
        for event in row.rows()? {
            let Some((after, left)) = left.get_mut(&event.shard) else { continue };
            if event.seq > *after && *left > 0 && asked_for(&event) {
                *left -= 1;
                events.push(event);
            }
        }
    }
    Ok(events)
}

fn outbox_row(shard: Shard, seq: i64, event: PackedEvent) -> Result<OutboxRow> {
    let PackedEvent { trace_parent, seen, payload } = event;
    let header = event_codec::header(&payload).map_err(|error| corrupt(format!("event {seq} of shard {shard}: {error}")))?;
    Ok(OutboxRow {
        shard,
        seq,
        epoch: header.epoch,
        event_id: header.event_id.0,
        kind: header.kind.as_str().to_owned(),
        tenant: header.tenant,
        occurred_at: header.occurred_at,
        trace_parent: trace_parent.map(|trace| trace.to_string()),
        seen,
        payload,
    })
}

#[async_trait]
impl Outbox for Postgres {
    async fn read(&self, shard: Shard, after: i64, limit: u32) -> Result<Vec<OutboxRow>> {
        self.read_many(&[(shard, after)], limit).await
    }

    async fn read_many(&self, positions: &[(Shard, i64)], limit: u32) -> Result<Vec<OutboxRow>> {
        let statement = sqlx::query_as(include_str!("sql/outbox/read.sql"))
            .bind(positions.iter().map(|(shard, _)| shard_column(*shard)).collect::<Vec<_>>())
            .bind(positions.iter().map(|(_, after)| *after).collect::<Vec<_>>())
            .bind(i64::from(limit))
            .bind(packed::ROW_EVENTS);
        wanted(bounded(statement.fetch_all(&self.pool)).await?, positions, limit, |_| true)
    }

    async fn read_thresholds(&self, positions: &[(Shard, i64)], limit: u32) -> Result<Vec<OutboxRow>> {
        let statement = sqlx::query_as(include_str!("sql/outbox/read_thresholds.sql"))
            .bind(positions.iter().map(|(shard, _)| shard_column(*shard)).collect::<Vec<_>>())
            .bind(positions.iter().map(|(_, after)| *after).collect::<Vec<_>>())
            .bind(i64::from(limit));
        let of_kind = |event: &OutboxRow| event.kind == EventType::ThresholdReached.as_str();
        wanted(bounded(statement.fetch_all(&self.pool)).await?, positions, limit, of_kind)
    }

    async fn heads(&self) -> Result<Vec<ShardHead>> {
        let rows: Vec<(i16, i64, i64, i64)> = bounded(sqlx::query_as(include_str!("sql/outbox/heads.sql")).fetch_all(&self.pool)).await?;
        let head = |(shard, last_seq, published_through, archived_through)| {
            Ok(ShardHead { shard: shard_of(shard)?, last_seq, published_through, archived_through })
        };
        rows.into_iter().map(head).collect()
    }

    async fn acquire_leases(&self, owner: Uuid, ttl: Duration) -> Result<Vec<ShardLease>> {
        let rows = bounded(async {
            let mut transaction = self.pool.begin().await?;
            let rows = acquire(&mut transaction, owner, ttl).await?;
            transaction.commit().await?;
            Ok(rows)
        });
        let mut leases = rows.await?.into_iter().map(lease).collect::<Result<Vec<_>>>()?;
        leases.sort_unstable_by_key(|lease| lease.shard);
        Ok(leases)
    }

    async fn release_leases(&self, owner: Uuid) -> Result<()> {
        let all: Vec<i16> = Shard::all().map(shard_column).collect();
        bounded(async {
            let mut transaction = self.pool.begin().await?;
            lock_leases(&mut transaction).await?;
            give_up(&mut transaction, owner, &all).await?;
            sqlx::query(include_str!("sql/outbox/forget_owner.sql")).bind(owner).execute(&mut *transaction).await?;
            transaction.commit().await
        })
        .await
    }

    async fn mark_published(&self, marks: &[(ShardLease, i64)]) -> Result<Vec<Shard>> {
        let mut furthest: BTreeMap<(Shard, i64), i64> = BTreeMap::new();
        for (lease, through) in marks {
            let known = furthest.entry((lease.shard, lease.fencing)).or_insert(*through);
            *known = (*known).max(*through);
        }
        let statement = sqlx::query_scalar(include_str!("sql/outbox/mark_published.sql"))
            .bind(furthest.keys().map(|(shard, _)| shard_column(*shard)).collect::<Vec<_>>())
            .bind(furthest.keys().map(|(_, fencing)| *fencing).collect::<Vec<_>>())
            .bind(furthest.values().copied().collect::<Vec<_>>());
        let held: Vec<i16> = bounded(statement.fetch_all(&self.pool)).await?;
        let held = held.into_iter().map(shard_of).collect::<Result<BTreeSet<_>>>()?;
        let asked: BTreeSet<Shard> = furthest.into_keys().map(|(shard, _)| shard).collect();
        Ok(asked.difference(&held).copied().collect())
    }

    async fn old_parts(&self, before: DateTime<Utc>) -> Result<Vec<OldPart>> {
        Ok(old_part::find(&self.pool, before).await?.into_iter().collect())
    }

    async fn drop_part(&self, part: &OldPart) -> Result<bool> {
        old_part::drop(&self.pool, part).await
    }

    async fn wait(&self, timeout: Duration) {
        self.news.bells().outbox.wait(timeout).await;
    }
}

/// A row of `outbox_lease` as the owners divide it among themselves.
#[derive(Clone, Copy, Debug, FromRow)]
struct LeaseRow {
    shard: i16,
    owner: Option<Uuid>,
    running: bool,
}

async fn acquire(connection: &mut PgConnection, owner: Uuid, ttl: Duration) -> sqlx::Result<Vec<(i16, i64, i64)>> {
    let secs = ttl.as_secs_f64();
    let rows = lock_leases(connection).await?;
    sqlx::query(include_str!("sql/outbox/forget_dead_owners.sql")).execute(&mut *connection).await?;
    sqlx::query(include_str!("sql/outbox/beat.sql")).bind(owner).bind(secs).execute(&mut *connection).await?;
    let alive: i64 = sqlx::query_scalar(include_str!("sql/outbox/count_owners.sql")).fetch_one(&mut *connection).await?;
    let division = divide(&rows, owner, usize::try_from(alive).unwrap_or(1));
    if !division.give_up.is_empty() {
        give_up(connection, owner, &division.give_up).await?;
    }
    sqlx::query_as(include_str!("sql/outbox/take_leases.sql")).bind(owner).bind(secs).bind(&division.hold).fetch_all(connection).await
}

/// All rows, locked in ascending order: owners divide the shards one after the other.
async fn lock_leases(connection: &mut PgConnection) -> sqlx::Result<Vec<LeaseRow>> {
    sqlx::query_as(include_str!("sql/outbox/lock_leases.sql")).fetch_all(connection).await
}

async fn give_up(connection: &mut PgConnection, owner: Uuid, shards: &[i16]) -> sqlx::Result<()> {
    let statement = sqlx::query(include_str!("sql/outbox/give_up_leases.sql")).bind(owner).bind(shards);
    statement.execute(connection).await.map(drop)
}

#[derive(Debug, PartialEq, Eq)]
struct Division {
    hold: Vec<i16>,
    give_up: Vec<i16>,
}

/// What `owner` keeps and takes of all shards, and what it leaves to the others, so that nobody holds more than a fair share.
fn divide(rows: &[LeaseRow], owner: Uuid, alive: usize) -> Division {
    let share = rows.len().div_ceil(alive.max(1));
    let own: Vec<i16> = rows.iter().filter(|row| row.owner == Some(owner)).map(|row| row.shard).collect();
    let free = rows.iter().filter(|row| row.owner != Some(owner) && (row.owner.is_none() || !row.running)).map(|row| row.shard);
    let (keep, give_up) = own.split_at(own.len().min(share));
    let hold = keep.iter().copied().chain(free.take(share - keep.len())).collect();
    Division { hold, give_up: give_up.to_vec() }
}

fn lease((shard, fencing, published_through): (i16, i64, i64)) -> Result<ShardLease> {
    Ok(ShardLease { shard: shard_of(shard)?, fencing, published_through })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_who_ask_in_turn_end_with_an_even_share_of_every_shard() {
        for alive in 1..=7usize {
            let owners: Vec<Uuid> = (0..alive).map(|_| Uuid::new_v4()).collect();
            // The first held everything before the others came.
            let mut rows: Vec<LeaseRow> = (0..64).map(|shard| LeaseRow { shard, owner: Some(owners[0]), running: true }).collect();
            for owner in owners.iter().chain(&owners) {
                let division = divide(&rows, *owner, alive);
                for row in &mut rows {
                    if division.hold.contains(&row.shard) {
                        assert!(row.owner.is_none() || row.owner == Some(*owner), "a running lease was taken");
                        row.owner = Some(*owner);
                    } else if division.give_up.contains(&row.shard) {
                        row.owner = None;
                    }
                }
            }
            let share = |owner: &Uuid| rows.iter().filter(|row| row.owner == Some(*owner)).count();
            assert_eq!(owners.iter().map(share).sum::<usize>(), 64);
            assert!(owners.iter().all(|owner| share(owner) <= 64usize.div_ceil(alive)));
        }
    }

    #[test]
    fn a_lease_that_is_over_goes_to_who_asks_but_its_owner_may_come_back_first() {
        let (owner, other) = (Uuid::new_v4(), Uuid::new_v4());
        let rows = [LeaseRow { shard: 0, owner: Some(owner), running: false }];
        assert_eq!(divide(&rows, other, 1), Division { hold: vec![0], give_up: vec![] });
        assert_eq!(divide(&rows, owner, 1), Division { hold: vec![0], give_up: vec![] });
    }
}
