//! What the contract suite cannot see: forgetting and contention inside one process.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use super::*;
use chrono::TimeDelta;
use domain::{
    amount::Tokens,
    bucket::{Ask, Level, MICRO, Portion},
    fixed_point::Thousandths,
    ids::Provider,
    settings::{LimitScope, OnOutage},
};
use ports::rate_limits::Group;
use std::{sync::Arc, thread};

fn tokens(amount: i64) -> Tokens {
    Tokens::new(amount).unwrap()
}

fn bucket(owner: &str, capacity: i64) -> Bucket {
    let key = BucketKey {
        group: Group::Shared,
        limit: "test".into(),
        scope: LimitScope::User,
        owner: owner.into(),
        provider: Provider::parse("openai").ok(),
        model: None,
    };
    Bucket { key, rule: BucketRule::draining(capacity, Thousandths::ONE), on_outage: OnOutage::Local }
}

fn request(buckets: Vec<Bucket>, amount: i64) -> Take {
    Take { buckets, ask: Ask { amount: tokens(amount), hold: None } }
}

fn manual() -> (Clock, MemoryRateLimits) {
    let clock = Clock::manual("2026-11-21T12:00:00Z".parse().unwrap());
    (clock.clone(), MemoryRateLimits::new(clock))
}

fn stored(limits: &MemoryRateLimits) -> usize {
    limits.parts.iter().map(|part| part.lock().unwrap().buckets.len()).sum()
}

#[tokio::test]
async fn empty_buckets_are_forgotten_and_used_ones_are_kept() {
    let (clock, limits) = manual();
    let take = |owner: String, amount| [request(vec![bucket(&owner, 1_000_000)], amount)];
    limits.take(&take("busy".into(), 900_000)).await.unwrap();
    for round in 0..20 {
        for owner in 0..1_000 {
            limits.take(&take(format!("{round}/{owner}"), 1)).await.unwrap();
        }
        clock.advance(TimeDelta::seconds(2));
    }
    assert!(stored(&limits) < 10_000, "{} of 20,001 buckets are kept", stored(&limits));
    assert!(limits.peek(&[bucket("busy", 1_000_000)]).await.unwrap()[0].used_micro > 890_000_000_000);
}

#[test]
fn a_part_full_of_used_buckets_keeps_the_fullest_and_never_grows_beyond_its_bound() {
    let mut part = Part::default();
    for owner in 0..10_000_i64 {
        let level = Level::from(Portion { micro_tokens: (owner + 1) * MICRO, at_ms: 0 });
        part.change(&bucket(&owner.to_string(), 1_000_000), 0, |_| State::Amounts(level));
        assert!(part.buckets.len() <= PART_BUCKETS);
    }
    assert!(part.buckets.contains_key(&bucket("9999", 1).key));
}

#[test]
fn requests_over_the_same_buckets_in_any_order_neither_block_each_other_nor_take_too_much() {
    let limits = Arc::new(MemoryRateLimits::new(manual().0));
    let take = |order: u64| {
        let mut buckets: Vec<Bucket> = (0..6).map(|owner| bucket(&owner.to_string(), 1_000)).collect();
        let turn = usize::try_from(order % 6).unwrap();
        buckets.rotate_left(turn);
        request(buckets, 3)
    };
    let worker = |start: u64| {
        let limits = Arc::clone(&limits);
        thread::spawn(move || (start..start + 500).filter(|order| limits.take_one(&take(*order), 0).allowed()).count())
    };
    let workers: Vec<_> = (0..4).map(|index| worker(index * 1_001)).collect();
    let allowed: usize = workers.into_iter().map(|worker| worker.join().unwrap()).sum();
    assert_eq!(allowed, 333, "1,000 tokens hold 333 takes of 3");
}
