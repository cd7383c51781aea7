//! The ledger and the outbox over several databases: each shard is kept by one of them, and no transaction needs two.
//!
//! Leases and marks of the relay, settings and accounts are in the first database, whatever shards it keeps. The databases themselves say
//! which shards they keep ([`homes`]), so a writer that did not hear of a move writes nothing in the wrong place.

pub(crate) mod homes;
mod ledger;
mod move_shards;
mod outbox;

pub use move_shards::Moved;

use crate::{
    Postgres,
    error::{bounded, corrupt},
};
use domain::ids::Shard;
use homes::{Homes, away};
use ports::Result;
use std::sync::Arc;

/// The databases of one ledger. Clones share everything.
#[derive(Clone)]
pub struct Databases {
    all: Arc<[Postgres]>,
    homes: Arc<Homes>,
}

impl Databases {
    /// The first database is the installation's; the others only keep shards.
    ///
    /// # Errors
    /// `Unavailable` unless all of them answer; `Corrupt` when two keep the same shard or one belongs to another installation.
    pub async fn open(first: Postgres, further: Vec<Postgres>) -> Result<Self> {
        for database in &further {
            let statement = sqlx::query_scalar(include_str!("sql/move/is_ledger_only.sql"));
            let ledger_only: bool = bounded(statement.fetch_one(&database.pool)).await?;
            if !ledger_only {
                return Err(corrupt("a further database was not prepared for shards; run `weir migrate`"));
            }
        }
        let all: Arc<[Postgres]> = std::iter::once(first).chain(further).collect();
        let homes = Arc::new(Homes::look(&all).await?);
        Ok(Self { all, homes })
    }

    /// Makes a migrated database one that keeps the shards that are moved to it, and nothing else. Safe to repeat.
    ///
    /// # Errors
    /// `Corrupt` when it holds a ledger of its own.
    pub async fn join(further: &Postgres) -> Result<()> {
        let joined: bool = bounded(sqlx::query_scalar(include_str!("sql/move/join.sql")).fetch_one(&further.pool)).await?;
        if joined { Ok(()) } else { Err(corrupt("a further database holds a ledger of its own; name an empty one")) }
    }

    /// Each shard and the number of the database that keeps it; `None` while it is on its way.
    pub async fn shards(&self) -> Vec<(Shard, Option<usize>)> {
        self.homes.refresh_now(&self.all).await;
        Shard::all().map(|shard| (shard, self.homes.of(shard))).collect()
    }

    /// Moves shards to the database of this number; see [`move_shards`].
    ///
    /// # Errors
    /// As there.
    pub async fn move_shards(&self, shards: &[Shard], to: usize) -> Result<Moved> {
        let moved = move_shards::move_shards(&self.all, shards, to).await;
        self.homes.refresh_now(&self.all).await;
        moved
    }

    /// Closes every connection; what is under way ends first.
    pub async fn close(&self) {
        futures::future::join_all(self.all.iter().map(Postgres::close)).await;
    }

    /// The database that keeps the shard, as known for at most a second.
    async fn home(&self, shard: Shard) -> Result<&Postgres> {
        self.homes.refresh(&self.all).await;
        self.homes.of(shard).and_then(|index| self.all.get(index)).ok_or_else(|| away(shard))
    }

    fn first(&self) -> Result<&Postgres> {
        self.all.first().ok_or_else(|| corrupt("there is no database"))
    }
}
