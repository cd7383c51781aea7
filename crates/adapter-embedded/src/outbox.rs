//! The outbox on SQLite: rows in order, and who may publish which shard.

mod old_part;

use crate::{
    Embedded,
    columns::{instant, now_ms, shard, to_json},
    database::{Durability, commit, failed},
};
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use domain::ids::{SHARDS, Shard};
use ports::{
    Result,
    outbox::{OldPart, Outbox, OutboxRow, ShardHead, ShardLease},
};
use serde::Serialize;
use std::{collections::BTreeSet, time::Duration};
use uuid::Uuid;

#[async_trait]
impl Outbox for Embedded {
    async fn read(&self, shard: Shard, after: i64, limit: u32) -> Result<Vec<OutboxRow>> {
        let query = sqlx::query_as::<_, EventRow>(include_str!("../sql/read_outbox.sql")).bind(shard.index()).bind(after).bind(limit);
        let rows = query.fetch_all(self.inner.main.readers()).await.map_err(failed)?;
        rows.into_iter().map(EventRow::into_outbox_row).collect()
    }

    async fn read_many(&self, positions: &[(Shard, i64)], limit: u32) -> Result<Vec<OutboxRow>> {
        let query = sqlx::query_as::<_, EventRow>(include_str!("../sql/read_outbox_of_many.sql")).bind(to_json(&positions)?).bind(limit);
        let rows = query.fetch_all(self.inner.main.readers()).await.map_err(failed)?;
        rows.into_iter().map(EventRow::into_outbox_row).collect()
    }

    async fn read_thresholds(&self, positions: &[(Shard, i64)], limit: u32) -> Result<Vec<OutboxRow>> {
        let query = sqlx::query_as::<_, EventRow>(include_str!("../sql/read_thresholds.sql")).bind(to_json(&positions)?).bind(limit);
        let rows = query.fetch_all(self.inner.main.readers()).await.map_err(failed)?;
        rows.into_iter().map(EventRow::into_outbox_row).collect()
    }

    async fn heads(&self) -> Result<Vec<ShardHead>> {
        let query = sqlx::query_as::<_, HeadRow>(include_str!("../sql/outbox_heads.sql"));
        let rows = query.fetch_all(self.inner.main.readers()).await.map_err(failed)?;
        rows.into_iter().map(HeadRow::into_head).collect()
    }

    async fn acquire_leases(&self, owner: Uuid, ttl: Duration) -> Result<Vec<ShardLease>> {
        let now = now_ms(&self.inner.clock);
        let until = now.saturating_add(i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX));
        let mut transaction = self.inner.main.begin(Durability::WithNext).await?;
        let alive = sqlx::query(include_str!("../sql/put_outbox_owner.sql")).bind(owner).bind(until);
        alive.execute(&mut *transaction).await.map_err(failed)?;
        let gone = sqlx::query(include_str!("../sql/delete_dead_outbox_owners.sql")).bind(now);
        gone.execute(&mut *transaction).await.map_err(failed)?;
        let owners = sqlx::query_scalar::<_, u32>(include_str!("../sql/count_outbox_owners.sql"));
        let owners = owners.fetch_one(&mut *transaction).await.map_err(failed)?;
        let query = sqlx::query_as::<_, LeaseRow>(include_str!("../sql/outbox_leases.sql"));
        let mut leases = query.fetch_all(&mut *transaction).await.map_err(failed)?;
        divide(&mut leases, owner, now, until, u32::from(SHARDS).div_ceil(owners.max(1)));
        let write = sqlx::query(include_str!("../sql/put_outbox_leases.sql")).bind(to_json(&leases)?);
        write.execute(&mut *transaction).await.map_err(failed)?;
        commit(transaction).await?;
        let lease =
            |row: &LeaseRow| Ok(ShardLease { shard: shard(row.shard)?, fencing: row.fencing, published_through: row.published_through });
        leases.iter().filter(|row| row.owner == Some(owner)).map(lease).collect()
    }

    async fn release_leases(&self, owner: Uuid) -> Result<()> {
        let mut transaction = self.inner.main.begin(Durability::WithNext).await?;
        let release = sqlx::query(include_str!("../sql/release_outbox_leases.sql")).bind(owner);
        release.execute(&mut *transaction).await.map_err(failed)?;
        let leave = sqlx::query(include_str!("../sql/delete_outbox_owner.sql")).bind(owner);
        leave.execute(&mut *transaction).await.map_err(failed)?;
        commit(transaction).await
    }

    async fn mark_published(&self, marks: &[(ShardLease, i64)]) -> Result<Vec<Shard>> {
        if marks.is_empty() {
            return Ok(Vec::new());
        }
        let rows: Vec<Mark> = marks.iter().map(|(lease, through)| Mark::of(lease, *through)).collect();
        let mut transaction = self.inner.main.begin(Durability::WithNext).await?;
        let query = sqlx::query_as::<_, (u8, i64)>(include_str!("../sql/mark_published.sql")).bind(to_json(&rows)?);
        let marked = query.fetch_all(&mut *transaction).await.map_err(failed)?;
        commit(transaction).await?;
        self.inner.log_changed.send_replace(());
        let marked: BTreeSet<(u8, i64)> = marked.into_iter().collect();
        let ignored = marks.iter().filter(|(lease, _)| !marked.contains(&(lease.shard.index(), lease.fencing)));
        Ok(ignored.map(|(lease, _)| lease.shard).collect())
    }

    async fn old_parts(&self, before: DateTime<Utc>) -> Result<Vec<OldPart>> {
        old_part::find(self, before).await
    }

    async fn drop_part(&self, part: &OldPart) -> Result<bool> {
        old_part::drop(self, part).await
    }

    async fn wait(&self, timeout: Duration) {
        // Late is as good as woken: the caller looks either way.
        let _ = tokio::time::timeout(timeout, self.inner.events_written.notified()).await;
    }
}

/// Renews what `owner` holds up to its share, gives the rest back, and fills the share with shards that nobody holds.
fn divide(leases: &mut [LeaseRow], owner: Uuid, now: i64, until: i64, share: u32) {
    let mut held = 0;
    for lease in leases.iter_mut().filter(|lease| lease.owner == Some(owner)) {
        if held < share {
            held += 1;
            lease.lease_until = until;
        } else {
            (lease.owner, lease.lease_until) = (None, 0);
        }
    }
    for lease in leases.iter_mut() {
        let free = lease.owner.is_none() || (lease.owner != Some(owner) && lease.lease_until <= now);
        if free && held < share {
            held += 1;
            (lease.owner, lease.lease_until) = (Some(owner), until);
            lease.fencing += 1;
        }
    }
}

#[derive(Debug)]
struct EventRow {
    shard: i64,
    seq: i64,
    epoch: i32,
    event_id: Uuid,
    kind: String,
    tenant: Uuid,
    occurred_at: i64,
    trace_parent: Option<String>,
    seen: Option<Vec<u8>>,
    payload: Vec<u8>,
}

from_row!(EventRow { shard, seq, epoch, event_id, kind, tenant, occurred_at, trace_parent, seen, payload });

impl EventRow {
    fn into_outbox_row(self) -> Result<OutboxRow> {
        Ok(OutboxRow {
            shard: shard(self.shard)?,
            seq: self.seq,
            epoch: self.epoch,
            event_id: self.event_id,
            kind: self.kind,
            tenant: self.tenant,
            occurred_at: instant(self.occurred_at)?,
            trace_parent: self.trace_parent,
            seen: self.seen.unwrap_or_default(),
            payload: self.payload,
        })
    }
}

#[derive(Debug)]
struct HeadRow {
    shard: i64,
    last_seq: i64,
    published_through: i64,
    archived_through: i64,
}

from_row!(HeadRow { shard, last_seq, published_through, archived_through });

impl HeadRow {
    fn into_head(self) -> Result<ShardHead> {
        let Self { last_seq, published_through, archived_through, .. } = self;
        Ok(ShardHead { shard: shard(self.shard)?, last_seq, published_through, archived_through })
    }
}

#[derive(Debug, Serialize)]
struct LeaseRow {
    shard: i64,
    owner: Option<Uuid>,
    lease_until: i64,
    fencing: i64,
    published_through: i64,
}

from_row!(LeaseRow { shard, owner, lease_until, fencing, published_through });

#[derive(Debug, Serialize)]
struct Mark {
    shard: u8,
    fencing: i64,
    through: i64,
}

impl Mark {
    const fn of(lease: &ShardLease, through: i64) -> Self {
        Self { shard: lease.shard.index(), fencing: lease.fencing, through }
    }
}
