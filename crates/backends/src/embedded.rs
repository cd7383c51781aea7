//! SQLite files in the data folder, and memory.

use crate::{Backends, with_archive};
use adapter_embedded::{Embedded, MemoryRateLimits};
use anyhow::{Context, Result};
use ports::Clock;
use service_kit::config::Config;
use std::sync::Arc;

pub async fn open(config: &Config, clock: &Clock) -> Result<Backends> {
    let stores = Embedded::open(&config.data_dir).await.with_context(|| format!("the data folder {}", config.data_dir.display()))?;
    Ok(backends(config, stores, clock))
}

pub async fn open_read_only(config: &Config, clock: &Clock) -> Result<Backends> {
    let stores =
        Embedded::open_read_only(&config.data_dir).await.with_context(|| format!("the data folder {}", config.data_dir.display()))?;
    Ok(backends(config, stores, clock))
}

pub async fn migrate(config: &Config) -> Result<Vec<String>> {
    let stores = Embedded::open(&config.data_dir).await.with_context(|| format!("the data folder {}", config.data_dir.display()))?;
    stores.close().await;
    Ok(vec![format!("sqlite: {} is up to date", config.data_dir.display())])
}

fn backends(config: &Config, stores: Embedded, clock: &Clock) -> Backends {
    let rate_limits = Arc::new(MemoryRateLimits::new(clock.clone()));
    let shared = Arc::new(stores.clone());
    let (archive, outbox) = with_archive(config, shared.clone());
    Backends {
        ledger: shared.clone(),
        outbox,
        archive,
        settings: shared.clone(),
        accounts: shared.clone(),
        answers: shared.clone(),
        local_rate_limits: rate_limits.clone(),
        webhooks: shared.clone(),
        rate_limits,
        event_log: shared.clone(),
        generations: shared.clone(),
        replays: shared.clone(),
        usage_store: shared,
        close: Arc::new(move || {
            let stores = stores.clone();
            Box::pin(async move { stores.close().await })
        }),
    }
}
