//! Buckets in memory on the test's clock.

use async_trait::async_trait;
use domain::{
    bucket::{Ask, Reading, State, Wait},
    ids::Payer,
};
use ports::{
    Clock, Result, StoreError,
    rate_limits::{Bucket, BucketKey, BucketLevel, GiveBack, RateLimits, Take, TakeAnswer, Use, Verdict, restored},
};
use std::{
    collections::{HashMap, HashSet},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

type States = HashMap<BucketKey, State>;

pub struct FakeBuckets {
    clock: Clock,
    states: Mutex<States>,
    pub takes: AtomicUsize,
    pub away: AtomicBool,
    /// Payers it knows, once it has forgotten everything; `None`: all of them.
    known: Mutex<Option<HashSet<Payer>>>,
    /// Payers it knows no more.
    forgotten: Mutex<HashSet<Payer>>,
    pub restores: AtomicUsize,
}

impl FakeBuckets {
    pub fn new(clock: Clock) -> Self {
        Self {
            clock,
            states: Mutex::default(),
            takes: AtomicUsize::new(0),
            away: AtomicBool::new(false),
            known: Mutex::default(),
            forgotten: Mutex::default(),
            restores: AtomicUsize::new(0),
        }
    }

    /// Whole tokens in all buckets together, as they were when last touched.
    pub fn total(&self) -> i64 {
        let states = self.states.lock().unwrap();
        let levels = states.values().filter_map(|state| if let State::Amounts(level) = state { Some(level) } else { None });
        levels.flat_map(|level| level.portions().collect::<Vec<_>>()).map(|portion| portion.micro_tokens / 1_000_000).sum()
    }

    /// As a restarted server does.
    pub fn forget(&self) {
        self.states.lock().unwrap().clear();
        *self.known.lock().unwrap() = Some(HashSet::new());
    }

    fn knows(&self, take: &Take) -> bool {
        take.payer().is_none_or(|payer| self.knows_payer(payer))
    }

    fn knows_payer(&self, payer: Payer) -> bool {
        let known = self.known.lock().unwrap();
        known.as_ref().is_none_or(|known| known.contains(&payer)) && !self.forgotten.lock().unwrap().contains(&payer)
    }

    pub fn keys(&self) -> Vec<BucketKey> {
        self.states.lock().unwrap().keys().cloned().collect()
    }

    fn answer(&self) -> Result<i64> {
        if self.away.load(Ordering::SeqCst) {
            return Err(StoreError::unavailable("redis", "away on request"));
        }
        Ok(self.clock.now().timestamp_millis())
    }
}

#[async_trait]
impl RateLimits for FakeBuckets {
    async fn take(&self, requests: &[Take]) -> Result<Vec<TakeAnswer>> {
        self.takes.fetch_add(1, Ordering::SeqCst);
        let now = self.answer()?;
        let mut states = self.states.lock().unwrap();
        let forgotten = || TakeAnswer { verdict: Verdict::Forgotten, levels: Vec::new() };
        Ok(requests.iter().map(|take| if self.knows(take) { decide(&mut states, take, now) } else { forgotten() }).collect())
    }

    async fn restore(&self, payer: Payer, uses: &[Use]) -> Result<()> {
        let now = self.answer()?;
        let known_again = self.forgotten.lock().unwrap().remove(&payer);
        if self.known.lock().unwrap().as_mut().is_some_and(|known| known.insert(payer)) || known_again {
            self.restores.fetch_add(1, Ordering::SeqCst);
            self.states.lock().unwrap().extend(restored(uses, now).into_iter().map(|(key, (_, state))| (key, state)));
        }
        Ok(())
    }

    async fn fill(&self, requests: &[Take]) -> Result<()> {
        let now = self.answer()?;
        let mut states = self.states.lock().unwrap();
        for take in requests.iter().filter(|take| self.knows(take)) {
            for bucket in &take.buckets {
                let filled = bucket.rule.fill(state(&states, bucket), &take.ask, now);
                states.insert(bucket.key.clone(), filled);
            }
        }
        Ok(())
    }

    async fn give_back(&self, requests: &[GiveBack]) -> Result<()> {
        let now = self.answer()?;
        let mut states = self.states.lock().unwrap();
        for GiveBack { buckets, back } in requests {
            for bucket in buckets {
                let state = bucket.rule.give_back(state(&states, bucket), back, now);
                states.insert(bucket.key.clone(), state);
            }
        }
        Ok(())
    }

    async fn known_since(&self, payer: Payer) -> Result<Option<i64>> {
        self.answer()?;
        Ok(self.knows_payer(payer).then_some(0))
    }

    async fn forget(&self, payer: Payer) -> Result<()> {
        self.answer()?;
        self.forgotten.lock().unwrap().insert(payer);
        Ok(())
    }

    async fn peek(&self, buckets: &[Bucket]) -> Result<Vec<Reading>> {
        let now = self.answer()?;
        let states = self.states.lock().unwrap();
        Ok(buckets.iter().map(|bucket| bucket.rule.reading(&state(&states, bucket), now)).collect())
    }

    async fn ping(&self) -> Result<()> {
        self.answer().map(drop)
    }
}

fn state(states: &States, bucket: &Bucket) -> State {
    states.get(&bucket.key).cloned().unwrap_or_else(|| bucket.rule.empty())
}

fn decide(states: &mut States, Take { buckets, ask }: &Take, now: i64) -> TakeAnswer {
    let wait = |bucket: &Bucket| bucket.rule.wait(&state(states, bucket), ask, now);
    let waits: Vec<Wait> = buckets.iter().map(wait).collect();
    let allowed = waits.iter().all(|wait| *wait == Wait::Passes);
    let levels = buckets.iter().zip(waits).map(|(bucket, wait)| BucketLevel { reading: touch(states, bucket, ask, allowed, now), wait });
    TakeAnswer { verdict: if allowed { Verdict::Allowed } else { Verdict::Refused }, levels: levels.collect() }
}

fn touch(states: &mut States, bucket: &Bucket, ask: &Ask, allowed: bool, now: i64) -> Reading {
    if allowed {
        let taken = bucket.rule.take(state(states, bucket), ask, now);
        states.insert(bucket.key.clone(), taken);
    }
    bucket.rule.reading(&state(states, bucket), now)
}
