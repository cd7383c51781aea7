//! Moves shards from one database to another while both serve.
//!
//! 1. Everything of the shards is copied, without disturbing anybody.
//! 2. What changed meanwhile is copied again, until little changes during a copy. The events say what changed.
//! 3. The shards are paused: no longer at home where they were, which every writer reads under the lock of their rows. From here to
//!    step 4 their requests are answered 503; seconds.
//! 4. The rest is copied, balances and numbers are compared, and the shards are at home in the other database.
//! 5. When no reader can be on the way to the old place any more, its rows are deleted.
//!
//! A move that is broken off is finished, or begun again, by the same call: rows that are not at home count for nothing.

mod copy;

use super::homes::{Residence, residences};
use crate::{
    Postgres, STORE,
    error::{corrupt, not_done},
    ledger::Failure,
    shard::shard_column,
};
use copy::Copier;
use domain::ids::Shard;
use ports::{Result, StoreError};
use sqlx::{PgConnection, pool::PoolConnection};
use std::time::Duration;
use tokio::time::Instant;

/// The shards are paused when a copy found fewer new events than this, or after so many copies.
const FEW_EVENTS: i64 = 20_000;
const MOST_COPIES: u32 = 8;
/// Longer than any process goes on without asking where the shards are.
const READERS_ARRIVE: Duration = Duration::from_secs(3);

/// What a move did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Moved {
    pub shards: usize,
    pub events: i64,
    /// How long nobody could write to the shards.
    pub paused: Duration,
}

/// Moves the shards to `to` from wherever they are among `all`; those that are there already stay. One call at a time: nothing may arrive
/// where another one still deletes.
///
/// # Errors
/// `Unavailable` when a database does not answer or another move is going on; the shards are then at home where they were, or, if the
/// call broke off while they were paused, nowhere until it is repeated. `Corrupt` when the copy differs from the original.
pub async fn move_shards(all: &[Postgres], shards: &[Shard], to: usize) -> Result<Moved> {
    let Some(first) = all.first() else { return Err(corrupt("there is no database")) };
    let mut lock = connection(first).await?.detach();
    let alone: bool = sqlx::query_scalar(include_str!("../sql/move/try_lock.sql")).fetch_one(&mut lock).await.map_err(not_done)?;
    if !alone {
        return Err(StoreError::unavailable(STORE, "another move of shards is going on"));
    }
    let moved = alone_move(all, shards, to).await;
    // Where this fails, the connection is closed, which unlocks too.
    sqlx::query(include_str!("../sql/move/unlock.sql")).execute(&mut lock).await.map_err(not_done)?;
    moved
}

async fn alone_move(all: &[Postgres], shards: &[Shard], to: usize) -> Result<Moved> {
    let target = all.get(to).ok_or_else(|| corrupt("there is no such database"))?;
    let residences = residences(all).await?;
    let mut moved = Moved::default();
    for (from, source) in all.iter().enumerate().filter(|(from, _)| *from != to) {
        let leaving: Vec<Shard> = shards.iter().filter(|shard| source_of(&residences, **shard) == from).copied().collect();
        if !leaving.is_empty() {
            let part = Move { source, target, columns: leaving.iter().copied().map(shard_column).collect() }.run().await?;
            moved.shards += leaving.len();
            moved.events += part.events;
            moved.paused = moved.paused.max(part.paused);
        }
    }
    tokio::time::sleep(READERS_ARRIVE).await;
    let columns: Vec<i16> = shards.iter().copied().map(shard_column).collect();
    for (_, source) in all.iter().enumerate().filter(|(from, _)| *from != to) {
        clear(source, &columns).await?;
    }
    Ok(moved)
}

/// Where the shard is at home, or was when a move broke off: there its number is the highest.
fn source_of(residences: &[Vec<Residence>], shard: Shard) -> usize {
    let index = usize::from(shard.index());
    let of_shard = residences.iter().enumerate().filter_map(|(database, shards)| Some((database, shards.get(index)?)));
    // Of equals the first database: that of a fresh installation.
    of_shard
        .max_by_key(|(database, residence)| (residence.home, residence.last_seq, usize::MAX - database))
        .map_or(0, |(database, _)| database)
}

async fn clear(database: &Postgres, columns: &[i16]) -> Result<()> {
    let mut connection = connection(database).await?;
    let cleared = async {
        let mut transaction = sqlx::Connection::begin(&mut *connection).await?;
        sqlx::query(include_str!("../sql/move/lift_limits.sql")).execute(&mut *transaction).await?;
        for table in copy::TABLES {
            sqlx::query(table.clear).bind(columns).execute(&mut *transaction).await?;
        }
        sqlx::query(include_str!("../sql/move/clear_heads.sql")).bind(columns).execute(&mut *transaction).await?;
        transaction.commit().await
    };
    cleared.await.map_err(not_done)
}

async fn connection(database: &Postgres) -> Result<PoolConnection<sqlx::Postgres>> {
    database.pool.acquire().await.map_err(not_done)
}

struct Move<'a> {
    source: &'a Postgres,
    target: &'a Postgres,
    columns: Vec<i16>,
}

impl Move<'_> {
    async fn run(&self) -> Result<Moved> {
        // Closed at the end, and with it what a broken move left in its session.
        let mut source = connection(self.source).await?.detach();
        let mut target = connection(self.target).await?.detach();
        self.steps(&mut source, &mut target).await.map_err(Failure::not_done)
    }

    async fn steps(&self, source: &mut PgConnection, target: &mut PgConnection) -> Result<Moved, Failure> {
        // What an earlier try left.
        clear(self.target, &self.columns).await?;
        let mut copier = Copier::new(&self.columns);
        for _ in 0..MOST_COPIES {
            if copier.copy(source, target).await? < FEW_EVENTS {
                break;
            }
        }
        let paused_at = Instant::now();
        self.execute(source, include_str!("../sql/move/pause.sql")).await?;
        copier.copy(source, target).await?;
        if self.picture(source).await? != self.picture(target).await? {
            self.execute(source, include_str!("../sql/move/resume.sql")).await?;
            return Err(corrupt("the copy of the shards differs from the original; they stay where they were").into());
        }
        copier.arrive(target).await?;
        Ok(Moved { shards: self.columns.len(), events: copier.events(), paused: paused_at.elapsed() })
    }

    async fn execute(&self, connection: &mut PgConnection, statement: &'static str) -> Result<(), Failure> {
        Ok(sqlx::query(statement).bind(&self.columns).execute(connection).await.map(drop)?)
    }

    async fn picture(&self, connection: &mut PgConnection) -> Result<(i64, String, String, String, String, String), Failure> {
        Ok(sqlx::query_as(include_str!("../sql/move/picture.sql")).bind(&self.columns).fetch_one(connection).await?)
    }
}
