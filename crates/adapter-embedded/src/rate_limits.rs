//! Buckets in memory, by the rule of `domain::leaky_bucket`. Forgotten with the process and rebuilt from the ledger's recent events.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use domain::{
    amount::Tokens,
    leaky_bucket::{LeakyBucket, Level, Take as Decision},
};
use ports::{
    Clock, Result,
    rate_limits::{Bucket, BucketKey, BucketLevel, RateLimits, Take, TakeAnswer},
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    hash::{BuildHasher, RandomState},
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Parts of the map, each with its own lock.
const PARTS: usize = 64;

/// Buckets that a part looks through for empty ones before it grows beyond them.
const FIRST_SWEEP: usize = 64;

/// Most buckets of one part; in all 2^18, about 60 MB.
const PART_BUCKETS: usize = 4_096;

#[derive(Debug)]
pub struct MemoryRateLimits {
    clock: Clock,
    hasher: RandomState,
    parts: Vec<Mutex<Part>>,
}

impl MemoryRateLimits {
    pub fn new(clock: Clock) -> Self {
        Self { clock, hasher: RandomState::new(), parts: (0..PARTS).map(|_| Mutex::new(Part::default())).collect() }
    }

    /// Fills the buckets with what was used before this process began; `uses` in the order of time. A bucket never gets fuller than full.
    pub fn rebuild(&self, uses: impl IntoIterator<Item = (Vec<Bucket>, Tokens, DateTime<Utc>)>) {
        for (buckets, amount, at) in uses {
            let at_ms = at.timestamp_millis();
            let mut parts = self.lock(buckets.iter().map(|bucket| &bucket.key));
            for bucket in &buckets {
                let level = match bucket.rule.take(parts.level(&bucket.key), amount, at_ms) {
                    Decision::Allowed(level) => level,
                    Decision::Refused { .. } | Decision::Never => Level { micro_tokens: bucket.rule.capacity_micro(), at_ms },
                };
                parts.put(bucket, level);
            }
        }
    }

    fn take_one(&self, request: &Take, now_ms: i64) -> TakeAnswer {
        let mut parts = self.lock(request.buckets.iter().map(|bucket| &bucket.key));
        let decide = |bucket: &Bucket| bucket.rule.take(parts.level(&bucket.key), request.amount, now_ms);
        let decisions: Vec<Decision> = request.buckets.iter().map(decide).collect();
        let allowed = decisions.iter().all(|decision| matches!(decision, Decision::Allowed(_)));
        let levels = request.buckets.iter().zip(decisions).map(|(bucket, decision)| match decision {
            Decision::Allowed(level) if allowed => {
                parts.put(bucket, level);
                BucketLevel { level, wait_ms: Some(0) }
            }
            Decision::Allowed(_) => BucketLevel { level: parts.drained(bucket, now_ms), wait_ms: Some(0) },
            Decision::Refused { wait_ms } => BucketLevel { level: parts.drained(bucket, now_ms), wait_ms: Some(wait_ms) },
            Decision::Never => BucketLevel { level: parts.drained(bucket, now_ms), wait_ms: None },
        });
        let levels = levels.collect();
        TakeAnswer { allowed, levels }
    }

    fn give_back_one(&self, request: &Take, now_ms: i64) {
        let mut parts = self.lock(request.buckets.iter().map(|bucket| &bucket.key));
        for bucket in &request.buckets {
            let level = bucket.rule.give_back(parts.level(&bucket.key), request.amount, now_ms);
            parts.put(bucket, level);
        }
    }

    /// Locks every part that holds one of the keys, always in the same order: two requests cannot wait for each other.
    fn lock<'a>(&'a self, keys: impl Iterator<Item = &'a BucketKey>) -> LockedParts<'a> {
        let indexes: BTreeSet<usize> = keys.map(|key| self.part_of(key)).collect();
        let lock = |index: usize| self.parts.get(index).map(|part| (index, part.lock().unwrap_or_else(PoisonError::into_inner)));
        LockedParts { limits: self, guards: indexes.into_iter().filter_map(lock).collect() }
    }

    fn part_of(&self, key: &BucketKey) -> usize {
        let hash = self.hasher.hash_one(key).to_be_bytes();
        usize::from(hash[0]) % PARTS
    }
}

#[async_trait]
impl RateLimits for MemoryRateLimits {
    async fn take(&self, requests: &[Take]) -> Result<Vec<TakeAnswer>> {
        let now_ms = self.clock.now().timestamp_millis();
        Ok(requests.iter().map(|request| self.take_one(request, now_ms)).collect())
    }

    async fn give_back(&self, requests: &[Take]) -> Result<()> {
        let now_ms = self.clock.now().timestamp_millis();
        requests.iter().for_each(|request| self.give_back_one(request, now_ms));
        Ok(())
    }

    async fn peek(&self, buckets: &[Bucket]) -> Result<Vec<Level>> {
        let now_ms = self.clock.now().timestamp_millis();
        let parts = self.lock(buckets.iter().map(|bucket| &bucket.key));
        Ok(buckets.iter().map(|bucket| parts.drained(bucket, now_ms)).collect())
    }

    async fn ping(&self) -> Result<()> {
        Ok(())
    }
}

/// The parts that one request needs, all locked.
struct LockedParts<'a> {
    limits: &'a MemoryRateLimits,
    guards: BTreeMap<usize, MutexGuard<'a, Part>>,
}

impl LockedParts<'_> {
    /// As stored; an unknown bucket is empty.
    fn level(&self, key: &BucketKey) -> Level {
        let part = self.guards.get(&self.limits.part_of(key));
        part.and_then(|part| part.buckets.get(key)).map_or_else(Level::default, |stored| stored.level)
    }

    fn drained(&self, bucket: &Bucket, now_ms: i64) -> Level {
        bucket.rule.drain(self.level(&bucket.key), now_ms)
    }

    fn put(&mut self, bucket: &Bucket, level: Level) {
        if let Some(part) = self.guards.get_mut(&self.limits.part_of(&bucket.key)) {
            part.put(bucket, level);
        }
    }
}

#[derive(Debug)]
struct Part {
    buckets: HashMap<BucketKey, Stored>,
    /// Size at which the next new bucket first makes empty ones leave.
    sweep_at: usize,
}

#[derive(Clone, Copy, Debug)]
struct Stored {
    /// Of the latest request: says when the bucket will be empty.
    rule: LeakyBucket,
    level: Level,
}

impl Stored {
    fn empty_at_ms(&self) -> i64 {
        self.level.at_ms.saturating_add(self.rule.empty_after_ms(self.level))
    }
}

impl Default for Part {
    fn default() -> Self {
        Self { buckets: HashMap::new(), sweep_at: FIRST_SWEEP }
    }
}

impl Part {
    fn put(&mut self, bucket: &Bucket, level: Level) {
        let stored = Stored { rule: bucket.rule, level };
        if let Some(known) = self.buckets.get_mut(&bucket.key) {
            *known = stored;
            return;
        }
        if self.buckets.len() >= self.sweep_at {
            self.sweep(level.at_ms);
        }
        self.buckets.insert(bucket.key.clone(), stored);
    }

    /// Drops what is empty; in a part that is full of buckets in use, the half that would be empty first.
    fn sweep(&mut self, now_ms: i64) {
        self.buckets.retain(|_, stored| stored.empty_at_ms() > now_ms);
        if self.buckets.len() >= PART_BUCKETS {
            let mut ends: Vec<i64> = self.buckets.values().map(Stored::empty_at_ms).collect();
            let (_, middle, _) = ends.select_nth_unstable(PART_BUCKETS / 2);
            let middle = *middle;
            self.buckets.retain(|_, stored| stored.empty_at_ms() > middle);
        }
        self.buckets.shrink_to(FIRST_SWEEP);
        self.sweep_at = (self.buckets.len() * 2).clamp(FIRST_SWEEP, PART_BUCKETS);
    }
}

#[cfg(test)]
mod tests;
