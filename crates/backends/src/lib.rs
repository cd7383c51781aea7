//! From settings to one adapter per port. The only crate that knows all adapters; nothing outside of it asks which one it got.

#[cfg(feature = "distributed")]
mod distributed;
mod embedded;
mod ledger_databases;

pub use ledger_databases::{Moved, move_shards, shards};

use adapter_embedded::FolderArchive;
use anyhow::Result;
use archive::ArchivedOutbox;
use ports::{
    Clock, accounts::Accounts, answers::Answers, archive::Archive, event_log::EventLog, generations::Generations, ledger::Ledger,
    outbox::Outbox, rate_limits::RateLimits, replays::Replays, settings::SettingsStore, usage_store::UsageStore, webhooks::Webhooks,
};
use service_kit::config::{Config, StoresMode};
use std::{future::Future, pin::Pin, sync::Arc};

/// Every store of one installation. Cheap to clone.
#[derive(Clone)]
pub struct Backends {
    pub ledger: Arc<dyn Ledger>,
    /// With what was archived.
    pub outbox: Arc<dyn Outbox>,
    pub archive: Arc<dyn Archive>,
    pub settings: Arc<dyn SettingsStore>,
    pub accounts: Arc<dyn Accounts>,
    pub answers: Arc<dyn Answers>,
    pub webhooks: Arc<dyn Webhooks>,
    pub rate_limits: Arc<dyn RateLimits>,
    /// Of this process alone, for when the shared ones are away.
    pub local_rate_limits: Arc<dyn RateLimits>,
    pub event_log: Arc<dyn EventLog>,
    pub usage_store: Arc<dyn UsageStore>,
    pub generations: Arc<dyn Generations>,
    pub replays: Arc<dyn Replays>,
    close: Arc<dyn Fn() -> Closing + Send + Sync>,
}

type Closing = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Backends {
    /// Opens the stores that the settings name. Only Postgres (or the data folder) must answer now; the others are reached when used.
    pub async fn open(config: &Config, clock: &Clock) -> Result<Self> {
        match config.stores.mode {
            StoresMode::Embedded => embedded::open(config, clock).await,
            StoresMode::Distributed => open_distributed(config, clock).await,
        }
    }

    /// As [`Backends::open`], beside a running process and without writing.
    pub async fn open_read_only(config: &Config, clock: &Clock) -> Result<Self> {
        match config.stores.mode {
            StoresMode::Embedded => embedded::open_read_only(config, clock).await,
            StoresMode::Distributed => open_distributed(config, clock).await,
        }
    }

    /// Ends the connections in good order.
    pub async fn close(&self) {
        (self.close)().await;
    }
}

/// The archive that the settings name, and the outbox with what is in there.
fn with_archive(config: &Config, outbox: Arc<dyn Outbox>) -> (Arc<dyn Archive>, Arc<dyn Outbox>) {
    let archive = Arc::new(FolderArchive::new(config.archive_dir()));
    (archive.clone(), Arc::new(ArchivedOutbox::new(outbox, archive)))
}

/// Creates or upgrades every store; answers a line for each step done.
pub async fn migrate(config: &Config) -> Result<Vec<String>> {
    match config.stores.mode {
        StoresMode::Embedded => embedded::migrate(config).await,
        StoresMode::Distributed => migrate_distributed(config).await,
    }
}

#[cfg(feature = "distributed")]
use distributed::{migrate as migrate_distributed, open as open_distributed};

#[cfg(not(feature = "distributed"))]
const WITHOUT_DRIVERS: &str =
    "this build has no drivers of the real servers; build with `--features distributed`, as `make up-distributed` does";

// Async, as its twin with the drivers is.
#[cfg(not(feature = "distributed"))]
#[allow(clippy::unused_async)]
async fn open_distributed(_config: &Config, _clock: &Clock) -> Result<Backends> {
    anyhow::bail!(WITHOUT_DRIVERS)
}

#[cfg(not(feature = "distributed"))]
#[allow(clippy::unused_async)]
async fn migrate_distributed(_config: &Config) -> Result<Vec<String>> {
    anyhow::bail!(WITHOUT_DRIVERS)
}
