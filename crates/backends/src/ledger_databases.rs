//! The ledger over several databases: which keeps which shard, and moving shards between them.

use anyhow::{Result, ensure};
use domain::ids::Shard;
use service_kit::config::{Config, StoresMode};
use std::time::Duration;

/// What a move of shards did.
#[derive(Clone, Copy, Debug)]
pub struct Moved {
    /// Those that were elsewhere before.
    pub shards: usize,
    pub events: i64,
    /// How long nobody could write to the shards.
    pub paused: Duration,
}

/// Every shard and the number of the database that keeps it: 0 for the one of `postgres.url`, 1, 2, … for `postgres.ledger_urls`.
/// `None` for a shard on its way.
///
/// # Errors
/// When a database does not answer, or the stores are embedded.
pub async fn shards(config: &Config) -> Result<Vec<(Shard, Option<usize>)>> {
    distributed_only(config)?;
    implementation::shards(config).await
}

/// Moves shards to the database of that number while Weir runs. Safe to repeat, and to be repeated when it was broken off.
///
/// # Errors
/// When there is no such database, one does not answer, or another move is going on.
pub async fn move_shards(config: &Config, shards: &[Shard], to: usize) -> Result<Moved> {
    distributed_only(config)?;
    let further = config.postgres.ledger_urls.len();
    ensure!(to <= further, "there is no database {to}: WEIR__POSTGRES__LEDGER_URLS names {further}, so the highest number is {further}");
    implementation::move_shards(config, shards, to).await
}

fn distributed_only(config: &Config) -> Result<()> {
    ensure!(
        config.stores.mode == StoresMode::Distributed,
        "the embedded ledger is one file; only with --stores distributed it can be divided"
    );
    Ok(())
}

#[cfg(feature = "distributed")]
mod implementation {
    use super::{Config, Moved, Result, Shard};
    use crate::distributed::databases;

    pub async fn shards(config: &Config) -> Result<Vec<(Shard, Option<usize>)>> {
        let databases = databases(config).await?;
        let shards = databases.shards().await;
        databases.close().await;
        Ok(shards)
    }

    pub async fn move_shards(config: &Config, shards: &[Shard], to: usize) -> Result<Moved> {
        let databases = databases(config).await?;
        let moved = databases.move_shards(shards, to).await;
        databases.close().await;
        let moved = moved?;
        Ok(Moved { shards: moved.shards, events: moved.events, paused: moved.paused })
    }
}

#[cfg(not(feature = "distributed"))]
// Async, as its twin with the drivers is.
#[allow(clippy::unused_async)]
mod implementation {
    use super::{Config, Moved, Result, Shard};
    use crate::WITHOUT_DRIVERS;

    pub async fn shards(_config: &Config) -> Result<Vec<(Shard, Option<usize>)>> {
        anyhow::bail!(WITHOUT_DRIVERS)
    }

    pub async fn move_shards(_config: &Config, _shards: &[Shard], _to: usize) -> Result<Moved> {
        anyhow::bail!(WITHOUT_DRIVERS)
    }
}
