//! `ports::outbox` over several databases: rows come from where their shard is, leases and marks are in the first one.

use super::Databases;
use crate::Postgres;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use domain::ids::Shard;
use futures::future::{select_all, try_join_all};
use ports::{
    Result,
    outbox::{OldPart, Outbox, OutboxRow, ShardHead, ShardLease},
};
use std::{collections::HashMap, time::Duration};
use uuid::Uuid;

impl Databases {
    /// Each database with the positions it keeps. A shard on its way has nothing to read for a moment.
    async fn divide(&self, positions: &[(Shard, i64)]) -> Vec<(&Postgres, Vec<(Shard, i64)>)> {
        self.homes.refresh(&self.all).await;
        let of_database = |database: usize| -> Vec<(Shard, i64)> {
            positions.iter().filter(|(shard, _)| self.homes.of(*shard) == Some(database)).copied().collect()
        };
        let parts = self.all.iter().enumerate().map(|(number, database)| (database, of_database(number)));
        parts.filter(|(_, part)| !part.is_empty()).collect()
    }
}

/// The rows of several databases in the order of the positions.
fn in_order(positions: &[(Shard, i64)], rows: Vec<Vec<OutboxRow>>) -> Vec<OutboxRow> {
    let mut of_shard: HashMap<Shard, Vec<OutboxRow>> = HashMap::new();
    for row in rows.into_iter().flatten() {
        of_shard.entry(row.shard).or_default().push(row);
    }
    positions.iter().flat_map(|(shard, _)| of_shard.remove(shard).unwrap_or_default()).collect()
}

#[async_trait]
impl Outbox for Databases {
    async fn read(&self, shard: Shard, after: i64, limit: u32) -> Result<Vec<OutboxRow>> {
        self.home(shard).await?.read(shard, after, limit).await
    }

    async fn read_many(&self, positions: &[(Shard, i64)], limit: u32) -> Result<Vec<OutboxRow>> {
        let parts = self.divide(positions).await;
        let reads = parts.iter().map(|(database, part)| database.read_many(part, limit));
        Ok(in_order(positions, try_join_all(reads).await?))
    }

    async fn read_thresholds(&self, positions: &[(Shard, i64)], limit: u32) -> Result<Vec<OutboxRow>> {
        let parts = self.divide(positions).await;
        let reads = parts.iter().map(|(database, part)| database.read_thresholds(part, limit));
        Ok(in_order(positions, try_join_all(reads).await?))
    }

    async fn heads(&self) -> Result<Vec<ShardHead>> {
        self.homes.refresh(&self.all).await;
        let mut of_databases = try_join_all(self.all.iter().map(Outbox::heads)).await?.into_iter();
        let mut heads = of_databases.next().unwrap_or_default();
        for of_database in of_databases {
            for (head, other) in heads.iter_mut().zip(of_database) {
                // Where a shard is, its numbers are the highest: also while it is on its way.
                head.last_seq = head.last_seq.max(other.last_seq);
                head.archived_through = head.archived_through.max(other.archived_through);
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

    async fn old_parts(&self, before: DateTime<Utc>) -> Result<Vec<OldPart>> {
        let of_databases = try_join_all(self.all.iter().map(|database| database.old_parts(before))).await?;
        let numbered = of_databases.into_iter().enumerate();
        Ok(numbered.flat_map(|(store, parts)| parts.into_iter().map(move |part| OldPart { store, ..part })).collect())
    }

    async fn drop_part(&self, part: &OldPart) -> Result<bool> {
        self.database(part.store)?.drop_part(part).await
    }

    async fn wait(&self, timeout: Duration) {
        if !self.all.is_empty() {
            select_all(self.all.iter().map(|database| database.wait(timeout))).await;
        }
    }
}
