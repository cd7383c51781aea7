//! Asking all buckets of one or many spends at once.

mod amend;

use crate::{
    payer::Spend,
    rate_record::{OutageMode, RateRecord},
    recent_uses::RecentUses,
    unasked::Unasked,
};
use chrono::{DateTime, Utc};
use domain::{
    bucket::{Ask, Reading},
    ids::{Payer, SHARDS},
    settings::{OnOutage, Settings},
};
use futures::future::join;
use ports::{
    Clock, StoreError,
    rate_limits::{Bucket, Owners, RateLimits, Take, TakeAnswer, Verdict, owner, payer_of},
};
use std::{
    slice,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};
use tokio::sync::{Mutex, MutexGuard};

/// Whose buckets a spend asks.
pub fn owners_of<'a>(settings: &'a Settings, spend: &Spend) -> Owners<'a> {
    Owners {
        payer: spend.payer,
        user: Some((owner(&spend.user_id), settings.tier(spend.facts.user_tier.as_deref()))),
        org: spend.payer.org().map(|org| (owner(&org), settings.tier(spend.facts.org_tier.as_deref()))),
        key: spend.key_id.map(|key| (owner(&key), settings.tier(spend.key_tier.as_deref()))),
    }
}

/// Amounts that are in the buckets until the ledger has decided.
#[derive(Debug)]
pub struct Taken {
    take: Take,
    held_by: HeldBy,
    since: DateTime<Utc>,
    pub record: RateRecord,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HeldBy {
    Store,
    /// The limits whose outage mode is local; nobody holds the others.
    Local,
}

#[derive(Debug)]
pub enum Asked {
    Allowed(Taken),
    /// Nothing was taken from any bucket.
    Refused(RateRecord),
    /// The store is away and a limit is closed then.
    Closed {
        store: &'static str,
    },
}

pub struct Buckets {
    store: Arc<dyn RateLimits>,
    /// Buckets of this process alone, for limits that go on locally while the store is away.
    local: Arc<dyn RateLimits>,
    recent: RecentUses,
    /// One turn for each shard of payers.
    restoring: Vec<Mutex<()>>,
    clock: Clock,
    away: AtomicBool,
    unasked: Arc<Unasked>,
}

impl Buckets {
    pub fn new(store: Arc<dyn RateLimits>, local: Arc<dyn RateLimits>, recent: RecentUses, clock: Clock) -> Self {
        store.join();
        let restoring = (0..SHARDS).map(|_| Mutex::new(())).collect();
        Self { store, local, recent, restoring, clock, away: AtomicBool::new(false), unasked: Arc::default() }
    }

    /// All of the buckets or none; of limits on running holds only where the request is a hold.
    pub async fn take(&self, buckets: Vec<Bucket>, ask: Ask) -> Asked {
        let take = relevant(Take { buckets, ask });
        // Before the store's own moment, so that no more is given back than was taken.
        let since = self.clock.now();
        if take.buckets.is_empty() {
            return free(take, since);
        }
        match ask_one(self.store.as_ref(), &take).await {
            Ok(answer) => self.answered(take, answer, since).await,
            Err(error) => Box::pin(self.without_store(take, since, &error)).await,
        }
    }

    /// As [`Buckets::take`] for many requests, each by itself and in their order, with one call to the store.
    pub async fn take_all(&self, requests: Vec<Take>) -> Vec<Asked> {
        let requests: Vec<Take> = requests.into_iter().map(relevant).collect();
        let since = self.clock.now();
        let mut asked = Vec::with_capacity(requests.len());
        if requests.iter().all(|take| take.buckets.is_empty()) {
            asked.extend(requests.into_iter().map(|take| free(take, since)));
            return asked;
        }
        match ask_all(self.store.as_ref(), &requests).await {
            Ok(answers) => {
                for (take, answer) in requests.into_iter().zip(answers) {
                    asked.push(self.answered(take, answer, since).await);
                }
            }
            Err(error) => {
                for take in requests {
                    asked.push(self.without_store(take, since, &error).await);
                }
            }
        }
        asked
    }

    async fn answered(&self, take: Take, answer: TakeAnswer, since: DateTime<Utc>) -> Asked {
        let answer = match answer.verdict {
            // The rare ways lie in boxes of their own: a request's future is moved often and should be small.
            Verdict::Forgotten => Box::pin(self.restore_and_ask(&take)).await,
            Verdict::Allowed | Verdict::Refused => Ok(answer),
        };
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => return Box::pin(self.without_store(take, since, &error)).await,
        };
        self.note(None);
        let record = RateRecord::of(&take.buckets, &answer.levels, None);
        if answer.allowed() { Asked::Allowed(Taken { take, held_by: HeldBy::Store, since, record }) } else { Asked::Refused(record) }
    }

    /// A payer that the store does not know is restored from the ledger first, by one request of this process at a time.
    async fn restore_and_ask(&self, take: &Take) -> Result<TakeAnswer, StoreError> {
        let payer = take.payer().ok_or_else(|| StoreError::corrupt("rate limits", "a payer forgotten where none was named"))?;
        let _alone = self.turn_to_restore(payer).await;
        let answer = ask_one(self.store.as_ref(), take).await?;
        if answer.verdict != Verdict::Forgotten {
            return Ok(answer);
        }
        self.restore(payer).await?;
        match ask_one(self.store.as_ref(), take).await? {
            TakeAnswer { verdict: Verdict::Forgotten, .. } => {
                Err(StoreError::corrupt("rate limits", "a payer forgotten as soon as restored"))
            }
            answer => Ok(answer),
        }
    }

    async fn turn_to_restore(&self, payer: Payer) -> Option<MutexGuard<'_, ()>> {
        match self.restoring.get(usize::from(payer.shard().index())) {
            Some(turn) => Some(turn.lock().await),
            None => None,
        }
    }

    async fn restore(&self, payer: Payer) -> Result<(), StoreError> {
        self.store.restore(payer, &self.recent.of(payer).await?).await?;
        metrics::counter!("buckets_restored_total").increment(1);
        Ok(())
    }

    /// Each limit as its `on_outage` says.
    async fn without_store(&self, mut take: Take, since: DateTime<Utc>, error: &StoreError) -> Asked {
        self.note(Some(error));
        if take.buckets.is_empty() {
            return free(take, since);
        }
        let has = |mode| take.buckets.iter().any(|bucket| bucket.on_outage == mode);
        let (closed, open) = (has(OnOutage::Closed), has(OnOutage::Open));
        if closed {
            count_outage("closed");
            return Asked::Closed { store: error.store() };
        }
        if let Some(payer) = take.payer() {
            Unasked::note(&self.unasked, &self.store, payer);
        }
        take.buckets.retain(|bucket| bucket.on_outage == OnOutage::Local);
        let processes = self.store.processes();
        take.buckets.iter_mut().for_each(|bucket| bucket.rule = bucket.rule.share(processes));
        let mode = if take.buckets.is_empty() && open { OutageMode::Open } else { OutageMode::Local };
        count_outage(mode.as_str());
        // Memory always answers.
        let Ok(answer) = ask_one(self.local.as_ref(), &take).await else { return Asked::Closed { store: "memory" } };
        let record = RateRecord::of(&take.buckets, &answer.levels, Some(mode));
        if answer.allowed() { Asked::Allowed(Taken { take, held_by: HeldBy::Local, since, record }) } else { Asked::Refused(record) }
    }

    /// Each bucket as of now, without taking; `None` while the store is away. Those of a forgotten payer are restored before.
    pub async fn peek(&self, buckets: &[Bucket]) -> Option<Vec<Reading>> {
        let readings = match payer_of(buckets) {
            Some(payer) => self.peek_restored(payer, buckets).await,
            None => self.store.peek(buckets).await,
        };
        self.note(readings.as_ref().err());
        readings.ok()
    }

    async fn peek_restored(&self, payer: Payer, buckets: &[Bucket]) -> Result<Vec<Reading>, StoreError> {
        let (known, readings) = join(self.store.known_since(payer), self.store.peek(buckets)).await;
        if known?.is_some() {
            return readings;
        }
        let _alone = self.turn_to_restore(payer).await;
        // Without effect where another one was faster.
        self.restore(payer).await?;
        self.store.peek(buckets).await
    }

    /// Says once when the store goes away and once when it is back.
    fn note(&self, failure: Option<&StoreError>) {
        let away = failure.is_some();
        if self.away.load(Ordering::Relaxed) == away || self.away.swap(away, Ordering::Relaxed) == away {
            return;
        }
        match failure {
            Some(error) => tracing::warn!(%error, "the buckets cannot be asked; each limit follows its onOutage"),
            None => tracing::info!("the buckets can be asked again"),
        }
    }
}

/// Without the limits on running holds where the request is none.
fn relevant(mut take: Take) -> Take {
    if take.ask.hold.is_none() {
        take.buckets.retain(|bucket| !bucket.rule.is_of_slots());
    }
    take
}

/// What no limit applies to needs no store.
fn free(take: Take, since: DateTime<Utc>) -> Asked {
    Asked::Allowed(Taken { take, held_by: HeldBy::Store, since, record: RateRecord::default() })
}

async fn ask_one(store: &dyn RateLimits, take: &Take) -> Result<TakeAnswer, StoreError> {
    let answer = store.take(slice::from_ref(take)).await?.pop();
    answer.ok_or_else(|| StoreError::corrupt("rate limits", "no answer to one request"))
}

async fn ask_all(store: &dyn RateLimits, requests: &[Take]) -> Result<Vec<TakeAnswer>, StoreError> {
    let answers = store.take(requests).await?;
    if answers.len() == requests.len() {
        return Ok(answers);
    }
    Err(StoreError::corrupt("rate limits", format!("{} answers to {} requests", answers.len(), requests.len())))
}

fn count_outage(mode: &'static str) {
    metrics::counter!("failure_mode_total", "mode" => mode).increment(1);
}
