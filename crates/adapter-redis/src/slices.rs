//! Slices: what this process took of a bucket ahead of its requests. It spends them by itself, for one lease; the reasons why no bucket
//! is above its capacity by that are at `BucketRule::lends`.

use crate::clock::LocalClock;
use domain::amount::Tokens;
use domain::bucket::{LEASE_MS, MICRO, Pace, Reading, Return, Wait};
use ports::rate_limits::{Bucket, BucketKey, BucketLevel, Take};
use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Asks of a bucket within one lease from which on slices of it are worth their giving back.
const HOT_ASKS: u32 = 16;

/// Requests of different tags rarely wait for each other.
const PARTS: usize = 64;

pub(crate) struct Slices {
    clock: LocalClock,
    hasher: RandomState,
    parts: Vec<Part>,
}

/// All buckets of a tag are in one part, so that a request takes from all of its slices or from none.
#[derive(Default)]
struct Part {
    tags: Mutex<HashMap<String, Tag>>,
    renewing: tokio::sync::Mutex<()>,
}

/// What this process asks under one tag. Its buckets are told apart only when it is asked often: most tags are not.
#[derive(Default)]
struct Tag {
    began_ms: i64,
    asks: u32,
    spent: i64,
    uses: Vec<(BucketKey, Usage)>,
}

/// How much this process asks of a bucket, counted since its last slice or for one lease, and what it has of it.
#[derive(Default)]
struct Usage {
    began_ms: i64,
    asks: u32,
    spent: i64,
    slice: Option<Slice>,
    /// Earlier ones, which were too small for a request.
    rests: Vec<Slice>,
}

#[derive(Clone, Copy)]
struct Count {
    began_ms: i64,
    asks: u32,
    spent: i64,
}

struct Slice {
    bucket: Bucket,
    left: i64,
    lent_at_ms: i64,
    until_ms: i64,
    /// The shared bucket as it was then, this slice included.
    reading: Reading,
}

/// What goes back to its bucket.
pub(crate) struct Rest {
    pub(crate) bucket: Bucket,
    pub(crate) back: Return,
}

impl Slices {
    pub(crate) fn new(clock: LocalClock) -> Self {
        Self { clock, hasher: RandomState::new(), parts: (0..PARTS).map(|_| Part::default()).collect() }
    }

    pub(crate) fn now_ms(&self) -> i64 {
        self.clock.now_ms()
    }

    /// Spends from the slices of all its buckets, or from none.
    pub(crate) fn spend(&self, tag: &str, take: &Take) -> Option<Vec<BucketLevel>> {
        let (mut tags, now_ms, amount) = (self.lock(tag), self.now_ms(), take.ask.amount.get());
        let tag = tags.get_mut(tag).filter(|tag| !tag.uses.is_empty())?;
        if !take.buckets.iter().all(|bucket| tag.of(bucket).is_some_and(|usage| usage.covers(amount, now_ms))) {
            return None;
        }
        take.buckets.iter().map(|bucket| tag.of(bucket)?.spend(bucket, amount, now_ms)).collect()
    }

    /// What the process would like to be lent of each bucket beside the request; nothing of a bucket that it asks only now and then.
    pub(crate) fn wanted(&self, tag: &str, take: &Take) -> Vec<i64> {
        let (mut tags, now_ms) = (self.lock(tag), self.now_ms());
        let Some(tag) = tags.get_mut(tag).filter(|tag| !tag.uses.is_empty()) else { return Vec::new() };
        take.buckets.iter().map(|bucket| tag.of(bucket).map_or(0, |usage| usage.wanted(now_ms))).collect()
    }

    /// Whoever renews the slices of a tag does it for all who wait.
    pub(crate) fn renewing(&self, tag: &str) -> &tokio::sync::Mutex<()> {
        &self.part(tag).renewing
    }

    /// After the shared buckets have allowed a request that was sent at `asked_ms`; `lent` and `readings` in the order of its buckets.
    pub(crate) fn lent(&self, tag: &str, take: &Take, asked_ms: i64, lent: &[i64], readings: &[Reading]) {
        let (mut tags, amount) = (self.lock(tag), take.ask.amount.get());
        let Some(tag) = tags.get_mut(tag) else {
            tags.insert(tag.to_owned(), Tag { began_ms: asked_ms, asks: 1, spent: amount, uses: Vec::new() });
            return;
        };
        let before = tag.count(amount, asked_ms);
        if tag.asks < HOT_ASKS && tag.uses.is_empty() {
            return;
        }
        for ((bucket, lent), reading) in take.buckets.iter().zip(lent).zip(readings) {
            let usage = tag.usage(bucket, before);
            usage.count(amount, *lent > 0, asked_ms);
            if *lent > 0 {
                let until_ms = asked_ms + lease_ms(bucket, reading);
                let new = Slice { bucket: bucket.clone(), left: *lent, lent_at_ms: asked_ms, until_ms, reading: *reading };
                let earlier = usage.slice.replace(new);
                usage.rests.extend(earlier);
            }
        }
    }

    /// Puts a request's amount back into the slices; answers the buckets of which there is none.
    pub(crate) fn put_back(&self, tag: &str, take: &Take) -> Vec<Bucket> {
        let (mut tags, now_ms, amount) = (self.lock(tag), self.now_ms(), take.ask.amount.get());
        let mut tag = tags.get_mut(tag);
        let mut put_back =
            |bucket: &Bucket| tag.as_mut().and_then(|tag| tag.of(bucket)).is_some_and(|usage| usage.put_back(amount, now_ms));
        take.buckets.iter().filter(|bucket| !put_back(bucket)).cloned().collect()
    }

    /// What is left in the slice of a bucket, which its shared bucket counts as used.
    pub(crate) fn left(&self, tag: &str, bucket: &Bucket) -> i64 {
        let (mut tags, now_ms) = (self.lock(tag), self.now_ms());
        let slice = tags.get_mut(tag).and_then(|tag| tag.of(bucket)).and_then(|usage| usage.slice.as_ref());
        slice.filter(|slice| slice.until_ms > now_ms).map_or(0, |slice| slice.left)
    }

    /// What is left of slices that are not spent from any more; `all` of them when the process ends. What is not asked any more is forgotten.
    pub(crate) fn ended(&self, all: bool) -> Vec<Rest> {
        let now_ms = self.now_ms();
        let mut rests = Vec::new();
        for part in &self.parts {
            let mut tags = part.tags.lock().unwrap_or_else(PoisonError::into_inner);
            tags.retain(|_, tag| {
                tag.uses.retain_mut(|(_, usage)| {
                    let ended = usage.slice.take_if(|slice| all || slice.until_ms <= now_ms);
                    rests.extend(usage.rests.drain(..).chain(ended).filter_map(|slice| slice.rest(now_ms)));
                    usage.slice.is_some() || usage.is_recent(now_ms)
                });
                !tag.uses.is_empty() || now_ms - tag.began_ms < 2 * LEASE_MS
            });
        }
        rests
    }

    fn lock(&self, tag: &str) -> MutexGuard<'_, HashMap<String, Tag>> {
        self.part(tag).tags.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn part(&self, tag: &str) -> &Part {
        let hash = self.hasher.hash_one(tag).to_be_bytes();
        &self.parts[usize::from(hash[0]) % PARTS]
    }
}

/// Nothing is spent after the end of a fixed window, which is when its bucket is empty.
fn lease_ms(bucket: &Bucket, reading: &Reading) -> i64 {
    match bucket.rule.pace() {
        Pace::FixedWindow { .. } => LEASE_MS.min(reading.empty_after_ms),
        _ => LEASE_MS,
    }
}

impl Tag {
    /// Counts a request; answers the count before it.
    fn count(&mut self, amount: i64, asked_ms: i64) -> Count {
        if asked_ms - self.began_ms >= LEASE_MS {
            (self.began_ms, self.asks, self.spent) = (asked_ms, 0, 0);
        }
        let before = Count { began_ms: self.began_ms, asks: self.asks, spent: self.spent };
        self.asks += 1;
        self.spent = self.spent.saturating_add(amount);
        before
    }

    fn of(&mut self, bucket: &Bucket) -> Option<&mut Usage> {
        self.uses.iter_mut().find(|(key, _)| *key == bucket.key).map(|(_, usage)| usage)
    }

    /// A bucket that was not told apart is taken to have had all that the tag had: too large a slice goes back.
    fn usage(&mut self, bucket: &Bucket, before: Count) -> &mut Usage {
        let place = self.uses.iter().position(|(key, _)| *key == bucket.key).unwrap_or_else(|| {
            let Count { began_ms, asks, spent } = before;
            self.uses.push((bucket.key.clone(), Usage { began_ms, asks, spent, ..Usage::default() }));
            self.uses.len() - 1
        });
        &mut self.uses[place].1
    }
}

impl Usage {
    fn covers(&self, amount: i64, now_ms: i64) -> bool {
        self.slice.as_ref().is_some_and(|slice| slice.until_ms > now_ms && slice.left >= amount)
    }

    fn spend(&mut self, bucket: &Bucket, amount: i64, now_ms: i64) -> Option<BucketLevel> {
        let slice = self.slice.as_mut()?;
        slice.left -= amount;
        self.spent += amount;
        self.asks += 1;
        Some(BucketLevel { reading: slice.reading(bucket, now_ms), wait: Wait::Passes })
    }

    fn put_back(&mut self, amount: i64, now_ms: i64) -> bool {
        let Some(slice) = self.slice.as_mut().filter(|slice| slice.until_ms > now_ms) else { return false };
        slice.left += amount;
        self.spent -= amount;
        true
    }

    /// A slice that ran out before its lease was too small.
    fn wanted(&self, now_ms: i64) -> i64 {
        match now_ms - self.began_ms {
            _ if self.asks < HOT_ASKS || !self.is_recent(now_ms) => 0,
            age_ms if age_ms < LEASE_MS => self.spent.saturating_mul(2),
            _ => self.spent,
        }
    }

    fn is_recent(&self, now_ms: i64) -> bool {
        now_ms - self.began_ms < 2 * LEASE_MS
    }

    fn count(&mut self, amount: i64, lent: bool, asked_ms: i64) {
        if lent || asked_ms - self.began_ms >= LEASE_MS {
            (self.began_ms, self.asks, self.spent) = (asked_ms, 0, 0);
        }
        self.asks += 1;
        self.spent = self.spent.saturating_add(amount);
    }
}

impl Slice {
    /// The shared bucket as of now, as far as this process knows, without what is left here.
    fn reading(&self, bucket: &Bucket, now_ms: i64) -> Reading {
        let elapsed_ms = (now_ms - self.lent_at_ms).max(0);
        let drained = match bucket.rule.pace() {
            Pace::Drain { micro_per_ms } => micro_per_ms.saturating_mul(elapsed_ms),
            _ => 0,
        };
        Reading {
            used_micro: (self.reading.used_micro - drained - self.left * MICRO).max(0),
            at_ms: self.reading.at_ms + elapsed_ms,
            empty_after_ms: (self.reading.empty_after_ms - elapsed_ms).max(0),
        }
    }

    fn rest(self, now_ms: i64) -> Option<Rest> {
        let amount = Tokens::new(self.left).ok().filter(|left| !left.is_zero())?;
        let held_for_ms = (now_ms - self.lent_at_ms).max(0);
        // What drains during a lease stays free as long as anything is lent, so that it need not be given up here.
        let held_for_ms = match self.bucket.rule.pace() {
            Pace::Drain { .. } => (held_for_ms - LEASE_MS).max(0),
            _ => held_for_ms,
        };
        Some(Rest { bucket: self.bucket, back: Return { amount, hold: None, held_for_ms, undone: false } })
    }
}
