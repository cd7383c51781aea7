//! The outbox of the ledger, and who publishes which shard of it.

use super::{Journal, ShardRows, last_seq};
use async_trait::async_trait;
use chrono::TimeDelta;
use domain::ids::Shard;
use ports::{
    Result,
    outbox::{Outbox, OutboxRow, ShardHead, ShardLease},
};
use std::time::Duration;
use uuid::Uuid;

#[async_trait]
impl Outbox for Journal {
    async fn read(&self, shard: Shard, after: i64, limit: u32) -> Result<Vec<OutboxRow>> {
        let rows = self.rows();
        let of_shard = rows.shards.get(&shard).map_or([].as_slice(), |shard| shard.rows.as_slice());
        let from = usize::try_from(after).unwrap_or(0).min(of_shard.len());
        Ok(of_shard.iter().skip(from).take(usize::try_from(limit).unwrap_or(usize::MAX)).cloned().collect())
    }

    async fn read_thresholds(&self, _: &[(Shard, i64)], _: u32) -> Result<Vec<OutboxRow>> {
        Ok(Vec::new())
    }

    async fn heads(&self) -> Result<Vec<ShardHead>> {
        let rows = self.rows();
        let head = |(shard, of_shard): (&Shard, &ShardRows)| ShardHead {
            shard: *shard,
            last_seq: last_seq(of_shard),
            published_through: of_shard.published_through,
            archived_through: 0,
        };
        Ok(rows.shards.iter().map(head).collect())
    }

    async fn acquire_leases(&self, owner: Uuid, ttl: Duration) -> Result<Vec<ShardLease>> {
        let now = self.clock.now();
        let until = now + TimeDelta::from_std(ttl).unwrap_or_default();
        let mut rows = self.rows();
        rows.relays.insert(owner, until);
        rows.relays.retain(|_, until| *until > now);
        let share = rows.shards.len().div_ceil(rows.relays.len().max(1));
        let mut held = 0;
        for shard in rows.shards.values_mut().filter(|shard| shard.owner == Some(owner)) {
            if held < share {
                held += 1;
                shard.lease_until = until;
            } else {
                shard.owner = None;
            }
        }
        for shard in rows.shards.values_mut() {
            let free = shard.owner.is_none() || (shard.owner != Some(owner) && shard.lease_until <= now);
            if free && held < share {
                held += 1;
                (shard.owner, shard.lease_until) = (Some(owner), until);
                shard.fencing += 1;
            }
        }
        let lease = |(shard, of_shard): (&Shard, &ShardRows)| ShardLease {
            shard: *shard,
            fencing: of_shard.fencing,
            published_through: of_shard.published_through,
        };
        Ok(rows.shards.iter().filter(|(_, shard)| shard.owner == Some(owner)).map(lease).collect())
    }

    async fn release_leases(&self, owner: Uuid) -> Result<()> {
        let mut rows = self.rows();
        rows.relays.remove(&owner);
        rows.shards.values_mut().filter(|shard| shard.owner == Some(owner)).for_each(|shard| shard.owner = None);
        Ok(())
    }

    async fn mark_published(&self, marks: &[(ShardLease, i64)]) -> Result<Vec<Shard>> {
        let mut rows = self.rows();
        let mut ignored = Vec::new();
        for (lease, through) in marks {
            match rows.shards.get_mut(&lease.shard) {
                Some(shard) if shard.fencing == lease.fencing => shard.published_through = shard.published_through.max(*through),
                _ => ignored.push(lease.shard),
            }
        }
        Ok(ignored)
    }

    async fn wait(&self, timeout: Duration) {
        // Late is as good as woken: the caller looks either way.
        let _ = tokio::time::timeout(timeout, self.news.notified()).await;
    }
}
