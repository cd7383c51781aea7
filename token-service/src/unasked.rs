//! Payers that were served while the store of their buckets was away. It is told to forget them as soon as it is back, so that what
//! passed meanwhile is in their buckets before the next decision.

use domain::ids::Payer;
use ports::rate_limits::RateLimits;
use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// Before the first try and between two of them. A store that only stumbles is asked to restore a payer at most this often.
const PAUSE: Duration = Duration::from_secs(1);

/// Beyond so many nobody is noted any more: their buckets drain as if nothing had passed.
const MOST_PAYERS: usize = 100_000;

#[derive(Default)]
pub struct Unasked(Mutex<Noted>);

#[derive(Default)]
struct Noted {
    payers: BTreeSet<Payer>,
    /// A task is telling the store.
    told: bool,
}

impl Unasked {
    pub fn note(this: &Arc<Self>, store: &Arc<dyn RateLimits>, payer: Payer) {
        let mut noted = this.noted();
        if noted.payers.len() < MOST_PAYERS {
            noted.payers.insert(payer);
        }
        if !std::mem::replace(&mut noted.told, true) {
            tokio::spawn(tell(Arc::clone(this), Arc::clone(store)));
        }
    }

    fn noted(&self) -> MutexGuard<'_, Noted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next one to be forgotten. With the last one the task ends.
    fn next(&self) -> Option<Payer> {
        let mut noted = self.noted();
        let next = noted.payers.pop_first();
        noted.told = next.is_some();
        next
    }
}

async fn tell(unasked: Arc<Unasked>, store: Arc<dyn RateLimits>) {
    tokio::time::sleep(PAUSE).await;
    while let Some(payer) = unasked.next() {
        if store.forget(payer).await.is_err() {
            unasked.noted().payers.insert(payer);
            tokio::time::sleep(PAUSE).await;
        }
    }
}
