//! `ports::outbox` over several databases: rows come from where their shard is, leases and marks are in the first one.

use super::Databases;
use async_trait::async_trait;
use domain::ids::Shard;
use futures::future::{select_all, try_join_all};
use ports::{
    Result,
    outbox::{Outbox, OutboxRow, ShardHead, ShardLease},
};
use std::{collections::HashMap, time::Duration};
use uuid::Uuid;

#[async_trait]
impl Outbox for Databases {
    async fn read(&self, shard: Shard, after: i64, limit: u32) -> Result<Vec<OutboxRow>> {
        self.home(shard).await?.read(shard, after, limit).await
    }

    async fn read_many(&self, positions: &[(Shard, i64)], limit: u32) -> Result<Vec<OutboxRow>> {
        self.homes.refresh(&self.all).await;
        // A shard on its way has nothing to read for a moment.
        let of_database = |database: usize| -> Vec<(Shard, i64)> {
            positions.iter().filter(|(shard, _)| self.homes.of(*shard) == Some(database)).copied().collect()
        };
        let parts: Vec<Vec<(Shard, i64)>> = (0..self.all.len()).map(of_database).collect();
        let reads =
            self.all.iter().zip(&parts).filter(|(_, part)| !part.is_empty()).map(|(database, part)| database.read_many(part, limit));
        let mut of_shard: HashMap<Shard, Vec<OutboxRow>> = HashMap::new();
        for row in try_join_all(reads).await?.into_iter().flatten() {
            of_shard.entry(row.shard).or_default().push(row);
        }
        Ok(positions.iter().flat_map(|(shard, _)| of_shard.remove(shard).unwrap_or_default()).collect())
    }

    async fn heads(&self) -> Result<Vec<ShardHead>> {
        self.homes.refresh(&self.all).await;
        let mut of_databases = try_join_all(self.all.iter().map(Outbox::heads)).await?.into_iter();
        let mut heads = of_databases.next().unwrap_or_default();
        for of_database in of_databases {
            for (head, other) in heads.iter_mut().zip(of_database) {
                // Where a shard is, its number is the highest: also while it is on its way.
                head.last_seq = head.last_seq.max(other.last_seq);
            }
        }
        Ok(heads)
    }

    async fn acquire_leases(&self, owner: Uuid, ttl: Duration) -> Result<Vec<ShardLease>> {
        self.first()?.acquire_leases(owner, ttl).await
    }

    async fn release_leases(&self, owner: Uuid) -> Result<()> {
        self.first()?.release_leases(owner).await
    }

    async fn mark_published(&self, marks: &[(ShardLease, i64)]) -> Result<Vec<Shard>> {
        self.first()?.mark_published(marks).await
    }

    async fn wait(&self, timeout: Duration) {
        if !self.all.is_empty() {
            select_all(self.all.iter().map(|database| database.wait(timeout))).await;
        }
    }
}
