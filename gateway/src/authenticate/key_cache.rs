//! Remembers whom a key stands for, by a keyed hash of it, for as long as a revocation could not have been missed.

use chrono::{DateTime, Utc};
use domain::access::Caller;
use moka::future::Cache;
use serde_json::Value;
use service_kit::revision::Revision;
use std::{
    future::Future,
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::Duration,
};

/// How long a key is remembered at most.
const REMEMBER: Duration = Duration::from_secs(30);
/// How long a refusal is remembered: enough to blunt a flood, short enough for a key that was just made.
const REMEMBER_REFUSAL: Duration = Duration::from_secs(1);
const CAPACITY: u64 = 100_000;
const REFUSAL_CAPACITY: u64 = 10_000;

/// Whom a key stands for.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) caller: Arc<Caller>,
    pub(super) expires_at: Option<DateTime<Utc>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    Invalid,
    Expired,
}

impl Refusal {
    /// From the problem that auth-service answered with.
    pub(super) fn of(body: &[u8]) -> Self {
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        if body["reason"] == "expired" { Self::Expired } else { Self::Invalid }
    }

    pub(super) const fn message(self) -> &'static str {
        match self {
            Self::Invalid => "invalid api key",
            Self::Expired => "api key expired",
        }
    }
}

/// Why there is no caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Denial {
    Refused(Refusal),
    /// Nobody can tell at the moment.
    Away(&'static str),
}

/// A key's hash and the epoch it was looked up in.
type Slot = (u128, u64);

pub(super) struct KeyCache {
    /// Two independent keyed hashes (SipHash) of 64 bits: without their random keys no two API keys can be made to collide.
    hashers: [RandomState; 2],
    known: Cache<Slot, Known>,
    refused: Cache<Slot, Refusal>,
    /// Of all keys.
    pub(super) revision: Revision<Denial>,
}

impl KeyCache {
    pub(super) fn new() -> Self {
        Self {
            hashers: [RandomState::new(), RandomState::new()],
            known: Cache::builder().max_capacity(CAPACITY).time_to_live(REMEMBER).build(),
            refused: Cache::builder().max_capacity(REFUSAL_CAPACITY).time_to_live(REMEMBER_REFUSAL).build(),
            revision: Revision::default(),
        }
    }

    /// The caller behind a secret, after a `look` at the revision of all keys where the last one is too old. However many requests with
    /// one secret come at once, it is asked for once.
    pub(super) async fn caller<F, A, L, R>(&self, secret: &str, look: L, ask: F) -> Result<Arc<Caller>, Denial>
    where
        F: FnOnce() -> A,
        A: Future<Output = Result<Known, Denial>>,
        L: FnOnce() -> R,
        R: Future<Output = Result<i64, Denial>>,
    {
        let slot = (self.hash(secret), self.revision.epoch_or_look(look).await?);
        if let Some(known) = self.known.get(&slot).await {
            return current(known);
        }
        if let Some(refusal) = self.refused.get(&slot).await {
            return Err(Denial::Refused(refusal));
        }
        match Box::pin(self.known.try_get_with(slot, ask())).await.map_err(|denial| *denial) {
            Ok(known) => current(known),
            Err(denial) => {
                if let Denial::Refused(refusal) = denial {
                    self.refused.insert(slot, refusal).await;
                }
                Err(denial)
            }
        }
    }

    fn hash(&self, secret: &str) -> u128 {
        let [high, low] = &self.hashers;
        u128::from(high.hash_one(secret)) << 64 | u128::from(low.hash_one(secret))
    }
}

fn current(known: Known) -> Result<Arc<Caller>, Denial> {
    match known.expires_at {
        Some(end) if end <= Utc::now() => Err(Denial::Refused(Refusal::Expired)),
        _ => Ok(known.caller),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use service_kit::{identity::service_caller, revision::TRUST};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::time::Instant;

    struct Asked {
        cache: KeyCache,
        times: AtomicUsize,
    }

    impl Asked {
        fn new() -> Self {
            Self { cache: KeyCache::new(), times: AtomicUsize::new(0) }
        }

        fn saw_revision(&self, revision: i64, asked_at: Instant) {
            self.cache.revision.saw(revision, asked_at);
        }

        async fn caller(&self, secret: &str, answer: Result<Known, Denial>) -> Result<Arc<Caller>, Denial> {
            self.caller_after(Err(AWAY), secret, answer).await
        }

        /// Where the last look is too old, a new one answers `look`.
        async fn caller_after(
            &self,
            look: Result<i64, Denial>,
            secret: &str,
            answer: Result<Known, Denial>,
        ) -> Result<Arc<Caller>, Denial> {
            let ask = || async {
                self.times.fetch_add(1, Ordering::SeqCst);
                tokio::task::yield_now().await;
                answer
            };
            self.cache.caller(secret, async || look, ask).await
        }

        fn times(&self) -> usize {
            self.times.load(Ordering::SeqCst)
        }
    }

    fn known(expires_at: Option<DateTime<Utc>>) -> Result<Known, Denial> {
        Ok(Known { caller: Arc::new(service_caller()), expires_at })
    }

    const REFUSED: Result<Known, Denial> = Err(Denial::Refused(Refusal::Invalid));
    const AWAY: Denial = Denial::Away("x");

    #[tokio::test]
    async fn a_key_is_asked_for_once_and_again_after_any_change() {
        let asked = Asked::new();
        asked.saw_revision(7, Instant::now());
        for _ in 0..5 {
            assert!(asked.caller("k", known(None)).await.is_ok());
        }
        assert_eq!(asked.times(), 1);
        asked.saw_revision(7, Instant::now());
        assert!(asked.caller("k", known(None)).await.is_ok());
        assert_eq!(asked.times(), 1, "nothing changed");
        asked.saw_revision(8, Instant::now());
        assert_eq!(asked.caller("k", REFUSED).await.unwrap_err(), Denial::Refused(Refusal::Invalid));
        assert_eq!(asked.times(), 2);
    }

    #[tokio::test]
    async fn nothing_remembered_is_believed_after_a_look_that_is_too_old_or_failed() {
        let asked = Asked::new();
        assert_eq!(asked.caller("k", known(None)).await.unwrap_err(), AWAY, "nobody knows yet");
        assert!(asked.caller_after(Ok(1), "k", known(None)).await.is_ok());
        assert!(asked.caller("k", REFUSED).await.is_ok(), "remembered");
        asked.saw_revision(1, Instant::now() - TRUST);
        assert_eq!(asked.caller("k", REFUSED).await.unwrap_err(), AWAY);
        assert!(asked.caller_after(Ok(1), "k", REFUSED).await.is_ok(), "no key has changed meanwhile");
        asked.saw_revision(1, Instant::now() - TRUST);
        assert!(asked.caller_after(Ok(2), "k", REFUSED).await.is_err(), "one has");
    }

    #[tokio::test]
    async fn a_lookup_that_began_before_a_revocation_is_not_remembered_after_it() {
        let asked = Asked::new();
        asked.saw_revision(1, Instant::now());
        let ask = || async {
            // The key is revoked and the news arrives while the old answer is on its way.
            asked.saw_revision(2, Instant::now());
            known(None)
        };
        assert!(asked.cache.caller("k", async || Err(AWAY), ask).await.is_ok(), "it was valid when it was asked for");
        assert!(asked.caller("k", REFUSED).await.is_err());
    }

    #[tokio::test]
    async fn an_expired_key_is_refused_although_it_is_remembered() {
        let asked = Asked::new();
        asked.saw_revision(1, Instant::now());
        let soon = Utc::now() + chrono::TimeDelta::milliseconds(80);
        assert!(asked.caller("k", known(Some(soon))).await.is_ok());
        while Utc::now() < soon {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(asked.caller("k", known(None)).await.unwrap_err(), Denial::Refused(Refusal::Expired));
        assert_eq!(asked.times(), 1);
    }

    #[tokio::test]
    async fn refusals_are_remembered_and_outages_are_not() {
        let asked = Asked::new();
        asked.saw_revision(1, Instant::now());
        for _ in 0..3 {
            assert!(asked.caller("bad", REFUSED).await.is_err());
        }
        assert_eq!(asked.times(), 1);
        for _ in 0..3 {
            assert_eq!(asked.caller("k", Err(AWAY)).await.unwrap_err(), AWAY);
        }
        assert_eq!(asked.times(), 4);
    }

    #[tokio::test]
    async fn many_requests_with_one_unknown_key_ask_once() {
        let asked = Arc::new(Asked::new());
        asked.saw_revision(1, Instant::now());
        let calls = (0..50).map(|_| asked.caller("k", known(None)));
        assert!(futures::future::join_all(calls).await.iter().all(Result::is_ok));
        assert_eq!(asked.times(), 1);
    }

    #[test]
    fn the_cache_holds_no_key() {
        let cache = KeyCache::new();
        assert_ne!(cache.hash("weir_a"), cache.hash("weir_b"));
        assert_ne!(cache.hash("weir_a"), KeyCache::new().hash("weir_a"), "the hash is keyed");
    }
}
