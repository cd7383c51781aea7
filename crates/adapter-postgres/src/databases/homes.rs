//! Which database keeps which shard. Each database says so itself, in the rows that its writers lock; here is what they said last.

use crate::{
    Postgres, STORE,
    error::{bounded, corrupt},
};
use domain::ids::{SHARDS, Shard};
use ports::{Result, StoreError};
use sqlx::FromRow;
use std::{
    fmt,
    sync::{PoisonError, RwLock},
    time::Duration,
};
use tokio::{sync::Mutex, time::Instant};

/// What is known is asked for again after this time. A move waits three times as long before it deletes what it left behind.
const FRESH: Duration = Duration::from_secs(1);

/// What one database says of a shard.
#[derive(Clone, Copy, Debug, FromRow)]
pub(super) struct Residence {
    #[allow(dead_code, reason = "the rows come in the order of the shards")]
    shard: i16,
    pub last_seq: i64,
    pub home: bool,
}

/// Of every database, all its shards in order.
pub(super) async fn residences(all: &[Postgres]) -> Result<Vec<Vec<Residence>>> {
    let ask = all.iter().map(|database| bounded(sqlx::query_as(include_str!("../sql/move/homes.sql")).fetch_all(&database.pool)));
    futures::future::try_join_all(ask).await
}

/// The shard is on its way from one database to another, or was moved since this process looked.
#[derive(Debug)]
pub(crate) struct Away(pub Shard);

impl fmt::Display for Away {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "shard {} is not kept in this database", self.0)
    }
}

impl std::error::Error for Away {}

pub(crate) fn away(shard: Shard) -> StoreError {
    StoreError::unavailable(STORE, Away(shard))
}

pub(super) fn is_away(error: &StoreError) -> bool {
    matches!(error, StoreError::Unavailable { source, .. } if source.is::<Away>())
}

pub(super) struct Homes {
    of: RwLock<[Option<usize>; SHARDS as usize]>,
    looked_at: Mutex<Instant>,
}

impl Homes {
    /// # Errors
    /// `Unavailable` unless every database answers; `Corrupt` when two say that they keep the same shard.
    pub async fn look(all: &[Postgres]) -> Result<Self> {
        Ok(Self { of: RwLock::new(of(&residences(all).await?)?), looked_at: Mutex::new(Instant::now()) })
    }

    /// `None` while the shard is on its way.
    pub fn of(&self, shard: Shard) -> Option<usize> {
        let of = self.of.read().unwrap_or_else(PoisonError::into_inner);
        of.get(usize::from(shard.index())).copied().flatten()
    }

    /// Looks again unless that was done a moment ago. What cannot be asked stays as it was known.
    pub async fn refresh(&self, all: &[Postgres]) {
        self.refresh_after(all, FRESH).await;
    }

    /// Looks again, whenever that was done last.
    pub async fn refresh_now(&self, all: &[Postgres]) {
        self.refresh_after(all, Duration::ZERO).await;
    }

    async fn refresh_after(&self, all: &[Postgres], age: Duration) {
        let asked_at = Instant::now();
        let mut looked_at = self.looked_at.lock().await;
        // Somebody else may have looked while this one waited its turn.
        if looked_at.elapsed() < age || *looked_at > asked_at {
            return;
        }
        match residences(all).await.and_then(|residences| of(&residences)) {
            Ok(found) => *self.of.write().unwrap_or_else(PoisonError::into_inner) = found,
            Err(error) => tracing::debug!(%error, "where the shards are could not be asked"),
        }
        *looked_at = Instant::now();
    }
}

fn of(residences: &[Vec<Residence>]) -> Result<[Option<usize>; SHARDS as usize]> {
    let mut of = [None; SHARDS as usize];
    for (database, shards) in residences.iter().enumerate() {
        for (home, residence) in of.iter_mut().zip(shards) {
            if residence.home && home.replace(database).is_some() {
                return Err(corrupt(format!("shard {} is at home in two databases", residence.shard)));
            }
        }
    }
    Ok(of)
}
