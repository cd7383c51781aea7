//! Buckets in memory, by the rule of `domain::bucket`. Forgotten with the process and restored from what the ledger remembers.

use async_trait::async_trait;
use domain::{
    bucket::{BucketRule, Reading, State, Wait},
    ids::Payer,
};
use ports::{
    Clock, Result,
    rate_limits::{Bucket, BucketKey, BucketLevel, GiveBack, RateLimits, Take, TakeAnswer, Use, Verdict, restored},
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

/// Payers that are known at a time; beyond them all are asked for again, which costs each a look at the ledger.
const MOST_PAYERS: usize = 100_000;

#[derive(Debug)]
pub struct MemoryRateLimits {
    clock: Clock,
    hasher: RandomState,
    parts: Vec<Mutex<Part>>,
    /// Payers whose buckets are what they used, and since when (ms); `None`: all of them.
    known: Option<Mutex<HashMap<Payer, i64>>>,
}

impl MemoryRateLimits {
    pub fn new(clock: Clock) -> Self {
        let parts = (0..PARTS).map(|_| Mutex::new(Part::default())).collect();
        Self { clock, hasher: RandomState::new(), parts, known: Some(Mutex::default()) }
    }

    /// Buckets that begin empty, for the time in which the shared ones are away: what was used before is not asked for.
    pub fn unrestored(clock: Clock) -> Self {
        Self { known: None, ..Self::new(clock) }
    }

    fn knows(&self, request: &Take) -> bool {
        let (Some(known), Some(payer)) = (&self.known, request.payer()) else { return true };
        known.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&payer)
    }

    fn restore_now(&self, payer: Payer, uses: &[Use], now_ms: i64) {
        let Some(known) = &self.known else { return };
        // Kept until the buckets are written: whoever takes meanwhile is told that the payer is forgotten.
        let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.contains_key(&payer) {
            return;
        }
        if known.len() >= MOST_PAYERS {
            known.clear();
        }
        for (key, (rule, state)) in restored(uses, now_ms) {
            self.lock(std::iter::once(&key)).put(key, &rule, state, now_ms);
        }
        known.insert(payer, now_ms);
    }

    fn take_one(&self, request: &Take, now_ms: i64) -> TakeAnswer {
        if !self.knows(request) {
            return TakeAnswer { verdict: Verdict::Forgotten, levels: Vec::new() };
        }
        let mut parts = self.lock(request.buckets.iter().map(|bucket| &bucket.key));
        let ask = &request.ask;
        let wait = |bucket: &Bucket| parts.read(bucket, |state| bucket.rule.wait(state, ask, now_ms));
        let waits: Vec<Wait> = request.buckets.iter().map(wait).collect();
        let allowed = waits.iter().all(|wait| *wait == Wait::Passes);
        let level = |(bucket, wait): (&Bucket, Wait)| {
            if allowed {
                parts.change(bucket, now_ms, |state| bucket.rule.take(state, ask, now_ms));
            }
            BucketLevel { reading: parts.reading(bucket, now_ms), wait }
        };
        let levels = request.buckets.iter().zip(waits).map(level).collect();
        TakeAnswer { verdict: if allowed { Verdict::Allowed } else { Verdict::Refused }, levels }
    }

    fn fill_one(&self, request: &Take, now_ms: i64) {
        if !self.knows(request) {
            return;
        }
        let mut parts = self.lock(request.buckets.iter().map(|bucket| &bucket.key));
        for bucket in &request.buckets {
            parts.change(bucket, now_ms, |state| bucket.rule.fill(state, &request.ask, now_ms));
        }
    }

    fn give_back_one(&self, request: &GiveBack, now_ms: i64) {
        let mut parts = self.lock(request.buckets.iter().map(|bucket| &bucket.key));
        for bucket in &request.buckets {
            // What is not stored is empty already.
            if parts.holds(&bucket.key) {
                parts.change(bucket, now_ms, |state| bucket.rule.give_back(state, &request.back, now_ms));
            }
        }
    }

    /// Locks every part that holds one of the keys, always in the same order: two requests cannot wait for each other.
    fn lock<'key>(&self, keys: impl Iterator<Item = &'key BucketKey>) -> LockedParts<'_> {
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

    async fn restore(&self, payer: Payer, uses: &[Use]) -> Result<()> {
        self.restore_now(payer, uses, self.clock.now().timestamp_millis());
        Ok(())
    }

    async fn fill(&self, requests: &[Take]) -> Result<()> {
        let now_ms = self.clock.now().timestamp_millis();
        requests.iter().for_each(|request| self.fill_one(request, now_ms));
        Ok(())
    }

    async fn give_back(&self, requests: &[GiveBack]) -> Result<()> {
        let now_ms = self.clock.now().timestamp_millis();
        requests.iter().for_each(|request| self.give_back_one(request, now_ms));
        Ok(())
    }

    async fn known_since(&self, payer: Payer) -> Result<Option<i64>> {
        let Some(known) = &self.known else { return Ok(Some(0)) };
        Ok(known.lock().unwrap_or_else(PoisonError::into_inner).get(&payer).copied())
    }

    async fn forget(&self, payer: Payer) -> Result<()> {
        if let Some(known) = &self.known {
            known.lock().unwrap_or_else(PoisonError::into_inner).remove(&payer);
        }
        Ok(())
    }

    async fn peek(&self, buckets: &[Bucket]) -> Result<Vec<Reading>> {
        let now_ms = self.clock.now().timestamp_millis();
        let parts = self.lock(buckets.iter().map(|bucket| &bucket.key));
        Ok(buckets.iter().map(|bucket| parts.reading(bucket, now_ms)).collect())
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
    fn holds(&self, key: &BucketKey) -> bool {
        self.guards.get(&self.limits.part_of(key)).is_some_and(|part| part.buckets.contains_key(key))
    }

    /// An unknown bucket is empty.
    fn read<T>(&self, bucket: &Bucket, read: impl FnOnce(&State) -> T) -> T {
        let part = self.guards.get(&self.limits.part_of(&bucket.key));
        match part.and_then(|part| part.buckets.get(&bucket.key)) {
            Some(stored) if bucket.rule.reads(&stored.state) => read(&stored.state),
            _ => read(&bucket.rule.empty()),
        }
    }

    fn reading(&self, bucket: &Bucket, now_ms: i64) -> Reading {
        self.read(bucket, |state| bucket.rule.reading(state, now_ms))
    }

    fn put(&mut self, key: BucketKey, rule: &BucketRule, state: State, now_ms: i64) {
        if let Some(part) = self.guards.get_mut(&self.limits.part_of(&key)) {
            part.put(key, Stored::of(rule, state, now_ms), now_ms);
        }
    }

    fn change(&mut self, bucket: &Bucket, now_ms: i64, change: impl FnOnce(State) -> State) {
        if let Some(part) = self.guards.get_mut(&self.limits.part_of(&bucket.key)) {
            part.change(bucket, now_ms, change);
        }
    }
}

#[derive(Debug)]
struct Part {
    buckets: HashMap<BucketKey, Stored>,
    /// Size at which the next new bucket first makes empty ones leave.
    sweep_at: usize,
}

#[derive(Debug)]
struct Stored {
    state: State,
    /// By the rule of the latest request, milliseconds since the Unix epoch.
    empty_at_ms: i64,
}

impl Stored {
    fn of(rule: &BucketRule, state: State, now_ms: i64) -> Self {
        Self { empty_at_ms: now_ms.saturating_add(rule.reading(&state, now_ms).empty_after_ms), state }
    }
}

impl Default for Part {
    fn default() -> Self {
        Self { buckets: HashMap::new(), sweep_at: FIRST_SWEEP }
    }
}

impl Part {
    fn change(&mut self, bucket: &Bucket, now_ms: i64, change: impl FnOnce(State) -> State) {
        let rule = &bucket.rule;
        let Some(known) = self.buckets.get_mut(&bucket.key) else {
            return self.put(bucket.key.clone(), Stored::of(rule, change(rule.empty()), now_ms), now_ms);
        };
        let state = std::mem::replace(&mut known.state, rule.empty());
        let state = change(if rule.reads(&state) { state } else { rule.empty() });
        *known = Stored::of(rule, state, now_ms);
    }

    fn put(&mut self, key: BucketKey, stored: Stored, now_ms: i64) {
        if self.buckets.len() >= self.sweep_at {
            self.sweep(now_ms);
        }
        self.buckets.insert(key, stored);
    }

    /// Drops what is empty; in a part that is full of buckets in use, the half that would be empty first.
    fn sweep(&mut self, now_ms: i64) {
        self.buckets.retain(|_, stored| stored.empty_at_ms > now_ms);
        if self.buckets.len() >= PART_BUCKETS {
            let mut ends: Vec<i64> = self.buckets.values().map(|stored| stored.empty_at_ms).collect();
            let (_, middle, _) = ends.select_nth_unstable(PART_BUCKETS / 2);
            let middle = *middle;
            self.buckets.retain(|_, stored| stored.empty_at_ms > middle);
        }
        self.buckets.shrink_to(FIRST_SWEEP);
        self.sweep_at = (self.buckets.len() * 2).clamp(FIRST_SWEEP, PART_BUCKETS);
    }
}

#[cfg(test)]
mod tests;
