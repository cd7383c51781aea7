//! Buckets of this process alone, for limits that go on locally while the shared store is away.

use domain::{
    amount::Tokens,
    leaky_bucket::{LeakyBucket, Level, Take},
};
use ports::rate_limits::{Bucket, BucketKey, BucketLevel, TakeAnswer};
use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Above this many, drained buckets are forgotten: they are what a new one is.
const MOST: usize = 100_000;

#[derive(Default)]
pub struct LocalBuckets(Mutex<HashMap<BucketKey, (LeakyBucket, Level)>>);

impl LocalBuckets {
    /// All or nothing, as the shared store decides it.
    pub fn take(&self, buckets: &[Bucket], amount: Tokens, now_ms: i64) -> TakeAnswer {
        let mut levels = self.lock();
        let takes: Vec<(Level, Take)> = buckets
            .iter()
            .map(|bucket| {
                let level = levels.get(&bucket.key).map_or_else(Level::default, |(_, level)| *level);
                (bucket.rule.drain(level, now_ms), bucket.rule.take(level, amount, now_ms))
            })
            .collect();
        let allowed = takes.iter().all(|(_, take)| matches!(take, Take::Allowed(_)));
        let answers = takes.into_iter().map(|(before, take)| match take {
            Take::Allowed(after) => BucketLevel { level: if allowed { after } else { before }, wait_ms: Some(0) },
            Take::Refused { wait_ms } => BucketLevel { level: before, wait_ms: Some(wait_ms) },
            Take::Never => BucketLevel { level: before, wait_ms: None },
        });
        let answer = TakeAnswer { allowed, levels: answers.collect() };
        if allowed {
            make_room(&mut levels, buckets.len(), now_ms);
            for (bucket, after) in buckets.iter().zip(&answer.levels) {
                levels.insert(bucket.key.clone(), (bucket.rule, after.level));
            }
        }
        answer
    }

    pub fn give_back(&self, buckets: &[Bucket], amount: Tokens, now_ms: i64) {
        let mut levels = self.lock();
        for bucket in buckets {
            if let Some((rule, level)) = levels.get_mut(&bucket.key) {
                *level = rule.give_back(*level, amount, now_ms);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<BucketKey, (LeakyBucket, Level)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Never more than [`MOST`]: first the drained ones go, and if all are in use the oldest state is forgotten altogether.
fn make_room(levels: &mut HashMap<BucketKey, (LeakyBucket, Level)>, wanted: usize, now_ms: i64) {
    if levels.len() + wanted <= MOST {
        return;
    }
    levels.retain(|_, (rule, level)| rule.drain(*level, now_ms).micro_tokens > 0);
    if levels.len() + wanted > MOST {
        levels.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::{
        ids::{Payer, Provider, UserId},
        settings::{LimitScope, OnOutage},
    };

    fn bucket(limit: &str, capacity: i64) -> Bucket {
        let key = BucketKey {
            payer: Some(Payer::User(UserId(uuid::Uuid::from_u128(1)))),
            limit: limit.into(),
            scope: LimitScope::User,
            owner: "u".into(),
            provider: Provider::parse("openai").unwrap(),
            model: None,
        };
        Bucket { key, rule: LeakyBucket::new(capacity, "1".parse().unwrap()), on_outage: OnOutage::Local }
    }

    fn tokens(amount: i64) -> Tokens {
        Tokens::new(amount).unwrap()
    }

    #[test]
    fn one_refusing_bucket_leaves_all_as_they_were() {
        let local = LocalBuckets::default();
        let both = [bucket("wide", 10), bucket("narrow", 3)];
        assert!(local.take(&both, tokens(3), 0).allowed);
        let refused = local.take(&both, tokens(2), 0);
        assert!(!refused.allowed);
        assert_eq!(refused.levels[1].wait_ms, Some(2_000));
        assert!(local.take(&both[..1], tokens(7), 0).allowed, "the wide bucket still held 3 only");
        local.give_back(&both[..1], tokens(7), 0);
        assert!(local.take(&both[..1], tokens(7), 0).allowed);
        assert_eq!(local.take(&both[..1], tokens(11), 0).levels[0].wait_ms, None);
    }
}
