//! Tiers and roles, cached for as long as the accounts store says that nothing changed.

use crate::service::Service;
use domain::ids::{OrgId, UserId};
use moka::future::Cache;
use ports::{
    Result, StoreError,
    accounts::{Accounts, SpendFacts},
};
use service_kit::revision::Revision;
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

const ENTRIES: u64 = 100_000;
const POLL: Duration = Duration::from_millis(500);

pub struct SpendFactsCache {
    accounts: Arc<dyn Accounts>,
    /// By the epoch known before the facts were read; they may be newer than it, never older.
    entries: Cache<(UserId, Option<OrgId>, u64), Arc<SpendFacts>>,
    /// A lost connection must not keep a removed member alive.
    revision: Revision<Arc<StoreError>>,
}

impl SpendFactsCache {
    pub fn new(accounts: Arc<dyn Accounts>) -> Self {
        Self { accounts, entries: Cache::new(ENTRIES), revision: Revision::default() }
    }

    /// However many ask at once, the accounts are asked once.
    pub async fn of(&self, user: UserId, org: Option<OrgId>) -> Result<Arc<SpendFacts>> {
        let epoch = self.revision.epoch_or_look(|| async { self.accounts.revision().await.map_err(Arc::new) }).await?;
        let read = async { self.accounts.spend_facts(user, org).await.map(Arc::new) };
        Ok(self.entries.try_get_with((user, org, epoch), read).await?)
    }

    async fn poll(&self) -> Result<()> {
        // Taken before the question: the answer may be as old as that.
        let asked_at = Instant::now();
        self.revision.saw(self.accounts.revision().await?, asked_at);
        Ok(())
    }
}

/// Polls the revision until shutdown.
pub async fn follow_revision(service: Arc<Service>, shutdown: CancellationToken) {
    let mut failing = false;
    loop {
        let polled = tokio::select! {
            () = shutdown.cancelled() => return,
            polled = service.facts.poll() => polled,
        };
        if let Err(error) = &polled
            && !failing
        {
            tracing::warn!(%error, "the revision of the accounts cannot be read; who spends is answered 503 until it can");
        }
        failing = polled.is_err();
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(POLL) => {}
        }
    }
}
