//! The store of the buckets, by the rule of `domain::bucket`. It may lose all that it has, as a server that is replaced.

use async_trait::async_trait;
use domain::{
    bucket::{Reading, State, Wait},
    defect::{Defect, is_back},
    ids::Payer,
};
use ports::{
    Clock, Result,
    rate_limits::{Bucket, BucketKey, BucketLevel, GiveBack, RateLimits, Take, TakeAnswer, Use, Verdict, restored},
};
use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
};

#[derive(Default)]
struct Rows {
    /// Payers whose buckets are what they used, and since when (ms).
    known: BTreeMap<Payer, i64>,
    states: HashMap<BucketKey, State>,
}

pub struct Buckets {
    rows: Mutex<Rows>,
    /// Of one process alone, and never asked what was used before.
    is_local: bool,
    clock: Clock,
}

impl Rows {
    fn state(&self, bucket: &Bucket) -> State {
        let stored = self.states.get(&bucket.key).filter(|state| bucket.rule.reads(state));
        stored.cloned().unwrap_or_else(|| bucket.rule.empty())
    }

    fn change(&mut self, bucket: &Bucket, change: impl FnOnce(State) -> State) {
        let changed = change(self.state(bucket));
        self.states.insert(bucket.key.clone(), changed);
    }

    fn take(&mut self, request: &Take, now_ms: i64) -> TakeAnswer {
        let wait = |bucket: &Bucket| bucket.rule.wait(&self.state(bucket), &request.ask, now_ms);
        let waits: Vec<Wait> = request.buckets.iter().map(wait).collect();
        let allowed = waits.iter().all(|wait| *wait == Wait::Passes) || is_back(Defect::FullBucketsIgnored);
        let mut levels = Vec::with_capacity(waits.len());
        for (bucket, wait) in request.buckets.iter().zip(waits) {
            if allowed {
                self.change(bucket, |state| bucket.rule.take(state, &request.ask, now_ms));
            }
            levels.push(BucketLevel { reading: bucket.rule.reading(&self.state(bucket), now_ms), wait });
        }
        TakeAnswer { verdict: if allowed { Verdict::Allowed } else { Verdict::Refused }, levels }
    }
}

impl Buckets {
    pub fn shared(clock: Clock) -> Self {
        Self { rows: Mutex::default(), is_local: false, clock }
    }

    pub fn local(clock: Clock) -> Self {
        Self { is_local: true, ..Self::shared(clock) }
    }

    fn rows(&self) -> MutexGuard<'_, Rows> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn lose_everything(&self) {
        let mut rows = self.rows();
        rows.states.clear();
        if !is_back(Defect::LossOfBucketsNotNoticed) {
            rows.known.clear();
        }
    }

    fn now_ms(&self) -> i64 {
        self.clock.now().timestamp_millis()
    }

    fn knows(&self, rows: &Rows, payer: Option<Payer>) -> bool {
        self.is_local || payer.is_none_or(|payer| rows.known.contains_key(&payer))
    }
}

#[async_trait]
impl RateLimits for Buckets {
    async fn take(&self, requests: &[Take]) -> Result<Vec<TakeAnswer>> {
        let (mut rows, now_ms) = (self.rows(), self.now_ms());
        let answer = |request: &Take| match self.knows(&rows, request.payer()) {
            true => rows.take(request, now_ms),
            false => TakeAnswer { verdict: Verdict::Forgotten, levels: Vec::new() },
        };
        Ok(requests.iter().map(answer).collect())
    }

    async fn restore(&self, payer: Payer, uses: &[Use]) -> Result<()> {
        let (mut rows, now_ms) = (self.rows(), self.now_ms());
        if !rows.known.contains_key(&payer) {
            rows.states.extend(restored(uses, now_ms).into_iter().map(|(key, (_, state))| (key, state)));
            rows.known.insert(payer, now_ms);
        }
        Ok(())
    }

    async fn fill(&self, requests: &[Take]) -> Result<()> {
        let (mut rows, now_ms) = (self.rows(), self.now_ms());
        for request in requests.iter().filter(|request| self.knows(&rows, request.payer())).collect::<Vec<_>>() {
            for bucket in &request.buckets {
                rows.change(bucket, |state| bucket.rule.fill(state, &request.ask, now_ms));
            }
        }
        Ok(())
    }

    async fn give_back(&self, requests: &[GiveBack]) -> Result<()> {
        let (mut rows, now_ms) = (self.rows(), self.now_ms());
        for GiveBack { buckets, back } in requests {
            for bucket in buckets {
                // What is not stored is empty already.
                if rows.states.contains_key(&bucket.key) {
                    rows.change(bucket, |state| bucket.rule.give_back(state, back, now_ms));
                }
            }
        }
        Ok(())
    }

    async fn known_since(&self, payer: Payer) -> Result<Option<i64>> {
        Ok(if self.is_local { Some(0) } else { self.rows().known.get(&payer).copied() })
    }

    async fn forget(&self, payer: Payer) -> Result<()> {
        self.rows().known.remove(&payer);
        Ok(())
    }

    async fn peek(&self, buckets: &[Bucket]) -> Result<Vec<Reading>> {
        let (rows, now_ms) = (self.rows(), self.now_ms());
        Ok(buckets.iter().map(|bucket| bucket.rule.reading(&rows.state(bucket), now_ms)).collect())
    }

    async fn ping(&self) -> Result<()> {
        Ok(())
    }
}
