//! Tiers and roles, cached for as long as the accounts store says that nothing changed.

use crate::service::Service;
use domain::ids::{OrgId, UserId};
use moka::future::Cache;
use ports::{
    Result,
    accounts::{Accounts, SpendFacts},
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

const ENTRIES: u64 = 100_000;
const POLL: Duration = Duration::from_millis(500);
/// A cache whose last successful poll is older than this is not asked: a lost connection must not keep a removed member alive.
const TRUST: Duration = Duration::from_secs(2);
const NEVER: u64 = u64::MAX;

pub struct SpendFactsCache {
    accounts: Arc<dyn Accounts>,
    entries: Cache<(UserId, Option<OrgId>), Entry>,
    revision: AtomicI64,
    started: Instant,
    /// Milliseconds after `started`, or [`NEVER`].
    polled_ms: AtomicU64,
}

#[derive(Clone)]
struct Entry {
    /// The revision known before the facts were read; they may be newer than it, never older.
    revision: i64,
    facts: Arc<SpendFacts>,
}

impl SpendFactsCache {
    pub fn new(accounts: Arc<dyn Accounts>) -> Self {
        Self {
            accounts,
            entries: Cache::new(ENTRIES),
            revision: AtomicI64::new(i64::MIN),
            started: Instant::now(),
            polled_ms: AtomicU64::new(NEVER),
        }
    }

    pub async fn of(&self, user: UserId, org: Option<OrgId>) -> Result<Arc<SpendFacts>> {
        let revision = self.revision.load(Ordering::Acquire);
        let trusted = self.is_trusted(self.elapsed_ms());
        if trusted && let Some(entry) = self.entries.get(&(user, org)).await.filter(|entry| entry.revision == revision) {
            return Ok(entry.facts);
        }
        let facts = Arc::new(self.accounts.spend_facts(user, org).await?);
        if trusted {
            self.entries.insert((user, org), Entry { revision, facts: Arc::clone(&facts) }).await;
        }
        Ok(facts)
    }

    async fn poll(&self) -> Result<()> {
        // Taken before the question: the answer may be as old as that.
        let asked_ms = self.elapsed_ms();
        let revision = self.accounts.revision().await?;
        self.observe(revision, asked_ms);
        Ok(())
    }

    fn observe(&self, revision: i64, asked_ms: u64) {
        self.revision.store(revision, Ordering::Release);
        self.polled_ms.store(asked_ms, Ordering::Release);
    }

    fn is_trusted(&self, now_ms: u64) -> bool {
        is_fresh(self.polled_ms.load(Ordering::Acquire), now_ms)
    }

    fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(NEVER)
    }
}

fn is_fresh(polled_ms: u64, now_ms: u64) -> bool {
    let trust_ms = u64::try_from(TRUST.as_millis()).unwrap_or(0);
    polled_ms != NEVER && now_ms.saturating_sub(polled_ms) < trust_ms
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
            tracing::warn!(%error, "the revision of the accounts cannot be read; tiers and roles are read through");
        }
        failing = polled.is_err();
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(POLL) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_without_a_recent_poll_is_not_trusted() {
        assert!(!is_fresh(NEVER, 0));
        assert!(is_fresh(1_000, 2_999));
        assert!(!is_fresh(1_000, 3_000));
    }
}
