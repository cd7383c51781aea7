//! Leaky buckets in memory on the test's clock.

use async_trait::async_trait;
use domain::leaky_bucket::{Level, Take as Decision};
use ports::{
    Clock, Result, StoreError,
    rate_limits::{Bucket, BucketKey, BucketLevel, RateLimits, Take, TakeAnswer},
};
use std::{
    collections::HashMap,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

pub struct FakeBuckets {
    clock: Clock,
    pub levels: Mutex<HashMap<BucketKey, Level>>,
    pub takes: AtomicUsize,
    pub away: AtomicBool,
}

impl FakeBuckets {
    pub fn new(clock: Clock) -> Self {
        Self { clock, levels: Mutex::default(), takes: AtomicUsize::new(0), away: AtomicBool::new(false) }
    }

    /// Whole tokens in all buckets together, not drained.
    pub fn total(&self) -> i64 {
        self.levels.lock().unwrap().values().map(|level| level.micro_tokens / 1_000_000).sum()
    }

    pub fn keys(&self) -> Vec<BucketKey> {
        self.levels.lock().unwrap().keys().cloned().collect()
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
        let mut levels = self.levels.lock().unwrap();
        Ok(requests.iter().map(|take| decide(&mut levels, take, now)).collect())
    }

    async fn give_back(&self, requests: &[Take]) -> Result<()> {
        let now = self.answer()?;
        let mut levels = self.levels.lock().unwrap();
        for take in requests {
            for bucket in &take.buckets {
                let level = levels.entry(bucket.key.clone()).or_default();
                *level = bucket.rule.give_back(*level, take.amount, now);
            }
        }
        Ok(())
    }

    async fn peek(&self, buckets: &[Bucket]) -> Result<Vec<Level>> {
        let now = self.answer()?;
        let levels = self.levels.lock().unwrap();
        Ok(buckets.iter().map(|bucket| bucket.rule.drain(levels.get(&bucket.key).copied().unwrap_or_default(), now)).collect())
    }

    async fn ping(&self) -> Result<()> {
        self.answer().map(drop)
    }
}

fn decide(levels: &mut HashMap<BucketKey, Level>, take: &Take, now: i64) -> TakeAnswer {
    let level = |bucket: &Bucket| levels.get(&bucket.key).copied().unwrap_or_default();
    let decisions: Vec<Decision> = take.buckets.iter().map(|bucket| bucket.rule.take(level(bucket), take.amount, now)).collect();
    let allowed = decisions.iter().all(|decision| matches!(decision, Decision::Allowed(_)));
    let answers: Vec<BucketLevel> = take
        .buckets
        .iter()
        .zip(&decisions)
        .map(|(bucket, decision)| {
            let before = bucket.rule.drain(level(bucket), now);
            match decision {
                Decision::Allowed(after) => BucketLevel { level: if allowed { *after } else { before }, wait_ms: Some(0) },
                Decision::Refused { wait_ms } => BucketLevel { level: before, wait_ms: Some(*wait_ms) },
                Decision::Never => BucketLevel { level: before, wait_ms: None },
            }
        })
        .collect();
    if allowed {
        for (bucket, answer) in take.buckets.iter().zip(&answers) {
            levels.insert(bucket.key.clone(), answer.level);
        }
    }
    TakeAnswer { allowed, levels: answers }
}
