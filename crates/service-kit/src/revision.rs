//! Until when what is remembered of a store is believed: its revision, which every change raises, was seen unchanged lately.

use std::{
    future::Future,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::time::Instant;

/// How long after the start of the last successful look everything remembered is believed: a change holds everywhere within this time.
pub const TRUST: Duration = Duration::from_secs(2);

/// The revision as it was seen last. Whatever is remembered belongs to an epoch; a change of the revision begins a new one, in which
/// nothing old is found, not even what a question brings home that was asked before the change.
pub struct Revision<E> {
    last: Mutex<Option<i64>>,
    epoch: AtomicU64,
    started: Instant,
    /// Milliseconds after `started`; 0 before the first look.
    trusted_until: AtomicU64,
    look: tokio::sync::Mutex<Option<Look<E>>>,
}

/// How the last look ended that requests waited for.
struct Look<E> {
    asked_at: Instant,
    ended_at: Instant,
    epoch: Result<u64, E>,
}

impl<E> Default for Revision<E> {
    fn default() -> Self {
        Self {
            last: Mutex::default(),
            epoch: AtomicU64::default(),
            started: Instant::now(),
            trusted_until: AtomicU64::default(),
            look: tokio::sync::Mutex::default(),
        }
    }
}

impl<E: Clone> Revision<E> {
    /// The store said at some time after `asked_at` that this is its revision. Answers the epoch of it.
    pub fn saw(&self, revision: i64, asked_at: Instant) -> u64 {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.replace(revision) != Some(revision) {
            self.epoch.fetch_add(1, Ordering::AcqRel);
        }
        self.trusted_until.store(self.millis(asked_at + TRUST), Ordering::Release);
        self.epoch.load(Ordering::Acquire)
    }

    /// The epoch whose things may be believed; `None` while the last look is too old.
    pub fn epoch(&self) -> Option<u64> {
        let trusted = self.millis(Instant::now()) < self.trusted_until.load(Ordering::Acquire);
        trusted.then(|| self.epoch.load(Ordering::Acquire))
    }

    /// The epoch whose things may be believed. Where the last look is too old, `ask`s for the revision: once for everybody who waits,
    /// so that a store that was slow for a moment is not asked by every request at once.
    pub async fn epoch_or_look<A: Future<Output = Result<i64, E>>>(&self, ask: impl FnOnce() -> A) -> Result<u64, E> {
        match self.epoch() {
            Some(epoch) => Ok(epoch),
            None => Box::pin(self.look(ask)).await,
        }
    }

    async fn look<A: Future<Output = Result<i64, E>>>(&self, ask: impl FnOnce() -> A) -> Result<u64, E> {
        let arrived_at = Instant::now();
        let mut last = self.look.lock().await;
        match &*last {
            // Asked after this request came: no older than an answer of its own would be, however long it took.
            Some(Look { asked_at, epoch: Ok(epoch), .. }) if *asked_at >= arrived_at => return Ok(*epoch),
            Some(Look { ended_at, epoch: Err(error), .. }) if *ended_at >= arrived_at => return Err(error.clone()),
            _ => {}
        }
        if let Some(epoch) = self.epoch() {
            return Ok(epoch);
        }
        let asked_at = Instant::now();
        let epoch = ask().await.map(|revision| self.saw(revision, asked_at));
        *last = Some(Look { asked_at, ended_at: Instant::now(), epoch: epoch.clone() });
        epoch
    }

    fn millis(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.started).as_millis()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, atomic::AtomicUsize};

    #[test]
    fn nothing_is_believed_before_the_first_look_and_two_seconds_after_the_last() {
        let revision = Revision::<()>::default();
        assert_eq!(revision.epoch(), None);
        let epoch = revision.saw(7, Instant::now());
        assert_eq!((revision.epoch(), revision.saw(7, Instant::now())), (Some(epoch), epoch), "nothing changed");
        assert_ne!(revision.saw(8, Instant::now()), epoch);
        revision.saw(8, Instant::now() - TRUST);
        assert_eq!(revision.epoch(), None);
    }

    /// Everybody is there before the first of them is answered.
    async fn a_hundred_at_once(answer: Result<i64, &'static str>) -> (usize, Vec<Result<u64, &'static str>>) {
        let (revision, asked) = (Arc::new(Revision::default()), AtomicUsize::new(0));
        let request = || {
            revision.epoch_or_look(|| async {
                asked.fetch_add(1, Ordering::SeqCst);
                tokio::task::yield_now().await;
                answer
            })
        };
        let answers = futures::future::join_all((0..100).map(|_| request())).await;
        (asked.load(Ordering::SeqCst), answers)
    }

    #[tokio::test]
    async fn of_many_requests_without_a_recent_look_one_asks_for_all() {
        let (asked, answers) = a_hundred_at_once(Ok(7)).await;
        assert_eq!((asked, answers.iter().filter(|answer| answer.is_ok()).count()), (1, 100));
        let (asked, answers) = a_hundred_at_once(Err("away")).await;
        assert_eq!((asked, answers.iter().filter(|answer| **answer == Err("away")).count()), (1, 100));
    }

    #[tokio::test]
    async fn a_failed_look_is_told_to_those_who_waited_and_to_nobody_after_them() {
        let revision = Revision::default();
        assert_eq!(revision.epoch_or_look(async || Err("away")).await, Err("away"));
        assert!(revision.epoch_or_look(async || Ok(1)).await.is_ok());
        assert!(revision.epoch_or_look(async || Err("not asked")).await.is_ok(), "the look before is recent enough");
    }

    #[tokio::test]
    async fn a_look_that_nobody_awaits_any_more_is_made_by_the_next() {
        let revision = Revision::<()>::default();
        let gone = tokio::time::timeout(Duration::ZERO, revision.epoch_or_look(std::future::pending));
        assert!(gone.await.is_err());
        assert!(revision.epoch_or_look(async || Ok(1)).await.is_ok());
    }
}
