//! Tiers and roles, cached for as long as the accounts store says that nothing changed.

use crate::service::Service;
use domain::ids::{OrgId, UserId};
use futures::{
    FutureExt,
    future::{BoxFuture, Shared, WeakShared},
};
use ports::{
    Result, StoreError,
    accounts::{Accounts, SpendFacts},
};
use service_kit::revision::Revision;
use std::{
    collections::HashMap,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Remembered at most, in two halves.
const ENTRIES: usize = 100_000;
const POLL: Duration = Duration::from_millis(500);

type Asker = (UserId, Option<OrgId>);
type Read = BoxFuture<'static, Result<Arc<SpendFacts>, Arc<StoreError>>>;
type Reading = Shared<Read>;

pub struct SpendFactsCache {
    accounts: Arc<dyn Accounts>,
    known: Mutex<Known>,
    /// A lost connection must not keep a removed member alive.
    revision: Revision<Arc<StoreError>>,
}

/// What was read since the epoch began: the epoch was known before, so it may be newer than that, never older.
///
/// Not a cache of a library: those keep house by a clock of their own, and then a simulated run is not the same twice.
#[derive(Default)]
struct Known {
    epoch: u64,
    recent: HashMap<Asker, Entry>,
    /// Forgotten, but for what is asked for again, when the recent half is full.
    earlier: HashMap<Asker, Entry>,
}

enum Entry {
    Read(Arc<SpendFacts>),
    /// Weak: where nobody waits any more, nothing may stay half read and keep a connection.
    UnderWay(WeakShared<Read>),
}

enum Found {
    Facts(Arc<SpendFacts>),
    Reading(Reading),
}

impl Known {
    fn find_or(&mut self, epoch: u64, asker: Asker, read: impl FnOnce() -> Read) -> Found {
        // An epoch that is over is not begun again by who was slow.
        if epoch > self.epoch {
            *self = Self { epoch, ..Self::default() };
        }
        if let Some(found) = self.find(&asker) {
            return found;
        }
        let reading = read().shared();
        if let Some(weak) = reading.downgrade() {
            self.put(asker, Entry::UnderWay(weak));
        }
        Found::Reading(reading)
    }

    fn find(&mut self, asker: &Asker) -> Option<Found> {
        if !self.recent.contains_key(asker) {
            let entry = self.earlier.remove(asker)?;
            self.put(*asker, entry);
        }
        match self.recent.get(asker)? {
            Entry::Read(facts) => Some(Found::Facts(Arc::clone(facts))),
            Entry::UnderWay(reading) => reading.upgrade().map(Found::Reading),
        }
    }

    fn put(&mut self, asker: Asker, entry: Entry) {
        if self.recent.len() >= ENTRIES / 2 {
            self.earlier = mem::take(&mut self.recent);
        }
        self.recent.insert(asker, entry);
    }

    /// Everybody who waited says so; the first is heard.
    fn ended(&mut self, asker: Asker, reading: &Reading, facts: Option<&Arc<SpendFacts>>) {
        let is_it = |entry: &Entry| matches!(entry, Entry::UnderWay(own) if own.upgrade().is_some_and(|own| own.ptr_eq(reading)));
        for half in [&mut self.recent, &mut self.earlier] {
            let Some(entry) = half.get_mut(&asker).filter(|entry| is_it(entry)) else { continue };
            match facts {
                Some(facts) => *entry = Entry::Read(Arc::clone(facts)),
                None => drop(half.remove(&asker)),
            }
        }
    }
}

impl SpendFactsCache {
    pub fn new(accounts: Arc<dyn Accounts>) -> Self {
        Self { accounts, known: Mutex::default(), revision: Revision::default() }
    }

    /// However many ask at once, the accounts are asked once. A failure is told to those who wait for it and to nobody after them.
    pub async fn of(&self, user: UserId, org: Option<OrgId>) -> Result<Arc<SpendFacts>> {
        let epoch = self.revision.epoch_or_look(|| async { self.accounts.revision().await.map_err(Arc::new) }).await?;
        let read = || {
            let accounts = Arc::clone(&self.accounts);
            async move { accounts.spend_facts(user, org).await.map(Arc::new).map_err(Arc::new) }.boxed()
        };
        let found = self.known().find_or(epoch, (user, org), read);
        let reading = match found {
            Found::Facts(facts) => return Ok(facts),
            Found::Reading(reading) => reading,
        };
        let answer = reading.clone().await;
        self.known().ended((user, org), &reading, answer.as_ref().ok());
        Ok(answer?)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn asker(number: usize) -> Asker {
        (UserId(uuid::Uuid::from_u128(u128::try_from(number).unwrap())), None)
    }

    #[derive(Default)]
    struct Asked {
        known: Known,
        times: Arc<AtomicUsize>,
    }

    impl Asked {
        fn find(&mut self, epoch: u64, number: usize, succeeds: bool) -> Found {
            let times = Arc::clone(&self.times);
            let read = async move {
                tokio::task::yield_now().await;
                times.fetch_add(1, Ordering::SeqCst);
                if succeeds { Ok(Arc::default()) } else { Err(Arc::new(StoreError::unavailable("accounts", "away"))) }
            };
            self.known.find_or(epoch, asker(number), || read.boxed())
        }

        async fn of(&mut self, epoch: u64, number: usize, succeeds: bool) -> bool {
            match self.find(epoch, number, succeeds) {
                Found::Facts(_) => true,
                Found::Reading(reading) => {
                    let answer = reading.clone().await;
                    self.known.ended(asker(number), &reading, answer.as_ref().ok());
                    answer.is_ok()
                }
            }
        }

        fn times(&self) -> usize {
            self.times.load(Ordering::SeqCst)
        }
    }

    #[tokio::test]
    async fn facts_are_read_once_in_an_epoch_and_those_who_come_meanwhile_share_the_reading() {
        let mut asked = Asked::default();
        let Found::Reading(first) = asked.find(1, 7, true) else { panic!("nothing is known yet") };
        assert!(asked.of(1, 7, true).await && first.await.is_ok() && asked.of(1, 7, true).await);
        assert_eq!(asked.times(), 1);
        assert!(asked.of(2, 7, true).await);
        assert_eq!(asked.times(), 2, "another epoch");
        assert!(asked.of(1, 7, true).await);
        assert_eq!(asked.times(), 2, "what was read later serves those who still ask in the epoch before");
    }

    #[tokio::test]
    async fn a_failure_is_not_remembered() {
        let mut asked = Asked::default();
        assert!(!asked.of(1, 7, false).await && asked.of(1, 7, true).await);
        assert_eq!(asked.times(), 2);
    }

    #[tokio::test]
    async fn a_reading_that_nobody_waits_for_is_dropped_and_made_again() {
        let mut asked = Asked::default();
        drop(asked.find(1, 7, true));
        assert_eq!(Arc::strong_count(&asked.times), 1, "nothing is kept of it");
        assert!(asked.of(1, 7, true).await);
        assert_eq!(asked.times(), 1);
    }

    #[tokio::test]
    async fn what_is_asked_for_again_outlives_any_number_of_others_and_memory_is_bounded() {
        let mut asked = Asked::default();
        for number in 1..2 * ENTRIES {
            asked.of(1, number, true).await;
            if number.is_multiple_of(ENTRIES / 4) {
                asked.of(1, 1, true).await;
            }
        }
        assert_eq!(asked.times(), 2 * ENTRIES - 1);
        assert!(asked.known.recent.len() + asked.known.earlier.len() <= ENTRIES);
    }
}
