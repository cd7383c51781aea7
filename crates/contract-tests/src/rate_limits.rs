//! What every adapter of `ports::rate_limits` must do.

pub mod crashes;
pub mod histories;

use crate::customers::tokens;
use domain::{
    bucket::{Ask, BucketRule, HoldSlot, Return, Wait},
    fixed_point::Thousandths,
    ids::{OrgId, Payer, Provider},
    settings::{LimitScope, OnOutage},
};
use ports::rate_limits::{Bucket, BucketKey, GiveBack, Group, RateLimits, Take, TakeAnswer, Use, Verdict};
use std::{collections::BTreeSet, sync::Arc, time::Duration};
use tokio::time::sleep;
use uuid::Uuid;

/// Leaks nothing that a test could notice.
fn still(capacity: i64) -> BucketRule {
    BucketRule::draining(capacity, Thousandths::new(1).unwrap())
}

fn bucket(payer: Payer, limit: &str, rule: BucketRule) -> Bucket {
    let provider = Provider::parse("openai").unwrap();
    let owner = payer.tenant().to_string().into();
    let key =
        BucketKey { group: Group::Payer(payer), limit: limit.into(), scope: LimitScope::Org, owner, provider: Some(provider), model: None };
    Bucket { key, rule, on_outage: OnOutage::Closed }
}

/// A payer that the store knows.
async fn new_payer(limits: &dyn RateLimits) -> Payer {
    let payer = unknown_payer();
    limits.restore(payer, &[]).await.unwrap();
    payer
}

fn unknown_payer() -> Payer {
    Payer::Org(OrgId(Uuid::new_v4()))
}

fn take(buckets: &[Bucket], amount: i64) -> Take {
    Take { buckets: buckets.to_vec(), ask: Ask { amount: tokens(amount), hold: None } }
}

fn give_back(buckets: &[Bucket], amount: i64, held_for_ms: i64) -> GiveBack {
    GiveBack { buckets: buckets.to_vec(), back: Return { amount: tokens(amount), hold: None, held_for_ms, undone: false } }
}

async fn allowed(limits: &dyn RateLimits, buckets: &[Bucket], amount: i64) -> bool {
    limits.take(&[take(buckets, amount)]).await.unwrap()[0].allowed()
}

/// Whole tokens in each bucket.
async fn used(limits: &dyn RateLimits, buckets: &[Bucket]) -> Vec<i64> {
    let readings = limits.peek(buckets).await.unwrap();
    buckets.iter().zip(readings).map(|(bucket, reading)| bucket.rule.used(reading).get()).collect()
}

pub async fn a_request_takes_from_all_its_buckets_or_from_none(limits: &dyn RateLimits) {
    let payer = new_payer(limits).await;
    let buckets = [bucket(payer, "narrow", still(10)), bucket(payer, "wide", still(100))];
    assert!(allowed(limits, &buckets, 8).await);
    assert_eq!(used(limits, &buckets).await, [8, 8]);
    assert!(!allowed(limits, &buckets, 3).await);
    assert_eq!(used(limits, &buckets).await, [8, 8]);
    assert!(allowed(limits, &buckets[1..], 92).await);
    assert!(!allowed(limits, &buckets, 1).await);
    assert_eq!(used(limits, &buckets).await, [8, 100]);
}

pub async fn an_answer_says_for_each_bucket_how_full_it_is_and_when_the_amount_would_pass(limits: &dyn RateLimits) {
    let payer = new_payer(limits).await;
    let buckets = [bucket(payer, "tiny", still(2)), bucket(payer, "full", still(20)), bucket(payer, "wide", still(100))];
    assert!(allowed(limits, &buckets[1..], 19).await);
    let answer = limits.take(&[take(&buckets, 5)]).await.unwrap().remove(0);
    assert!(!answer.allowed());
    let waits: Vec<_> = answer.levels.iter().map(|level| level.wait).collect();
    // 4 tokens too many, at 0.001 tokens per second.
    assert!(matches!(waits[..], [Wait::Never, Wait::Millis(3_900_000..=4_000_000), Wait::Passes]), "{waits:?}");
    let levels: Vec<_> = buckets.iter().zip(&answer.levels).map(|(bucket, shown)| bucket.rule.used(shown.reading).get()).collect();
    assert_eq!(levels, [0, 19, 19]);
    let answer = limits.take(&[take(&buckets[2..], 5)]).await.unwrap().remove(0);
    assert_eq!((answer.allowed(), answer.levels[0].wait), (true, Wait::Passes));
    assert_eq!(buckets[2].rule.used(answer.levels[0].reading).get(), 24);
}

pub async fn requests_of_one_call_are_decided_in_order_each_by_itself(limits: &dyn RateLimits) {
    let (one, other) = (new_payer(limits).await, new_payer(limits).await);
    let (one, other) = ([bucket(one, "x", still(10))], [bucket(other, "x", still(10))]);
    let requests = [take(&one, 6), take(&one, 6), take(&other, 6), take(&one, 4), take(&[], 6), take(&one, 1)];
    let answers = limits.take(&requests).await.unwrap();
    assert_eq!(answers.iter().map(|answer| answer.allowed()).collect::<Vec<_>>(), [true, false, true, true, true, false]);
    assert_eq!(answers.iter().map(|answer| answer.levels.len()).collect::<Vec<_>>(), [1, 1, 1, 1, 0, 1]);
    assert!(limits.take(&[]).await.unwrap().is_empty());
}

pub async fn what_is_given_back_can_be_taken_again_and_a_bucket_is_never_below_empty(limits: &dyn RateLimits) {
    let payer = new_payer(limits).await;
    let buckets = [bucket(payer, "a", still(10)), bucket(payer, "b", still(10))];
    assert!(allowed(limits, &buckets, 10).await);
    limits.give_back(&[give_back(&buckets, 4, 0)]).await.unwrap();
    assert_eq!(used(limits, &buckets).await, [6, 6]);
    limits.give_back(&[give_back(&buckets[..1], 3, 0), give_back(&buckets, 9_000_000_000, 0)]).await.unwrap();
    assert_eq!(used(limits, &buckets).await, [0, 0]);
    assert!(!allowed(limits, &buckets, 11).await);
    assert!(allowed(limits, &buckets, 10).await);
    limits.give_back(&[]).await.unwrap();
}

pub async fn what_came_to_more_fills_the_buckets_and_is_never_refused(limits: &dyn RateLimits) {
    let payer = new_payer(limits).await;
    let buckets = [bucket(payer, "narrow", still(10)), bucket(payer, "window", BucketRule::sliding_window(100, 3_600))];
    assert!(allowed(limits, &buckets, 6).await);
    limits.fill(&[take(&buckets, 3), take(&buckets[1..], 20)]).await.unwrap();
    assert_eq!(used(limits, &buckets).await, [9, 29]);
    // More than there is room for, and more than any bucket holds: full, not fuller.
    limits.fill(&[take(&buckets, 30), take(&buckets[1..], 9_000_000_000)]).await.unwrap();
    assert_eq!(used(limits, &buckets).await, [10, 100]);
    assert!(!allowed(limits, &buckets[..1], 1).await);
    limits.fill(&[]).await.unwrap();
    // Whose buckets are lost has them restored first: filling begins nothing.
    let forgotten = [bucket(unknown_payer(), "x", still(10))];
    limits.fill(&[take(&forgotten, 5)]).await.unwrap();
    assert_eq!(used(limits, &forgotten).await, [0]);
}

pub async fn buckets_that_differ_in_any_part_are_different_buckets(limits: &dyn RateLimits) {
    let first = bucket(new_payer(limits).await, "x", still(10));
    let other_payer = new_payer(limits).await;
    let with = |change: &dyn Fn(&mut BucketKey)| {
        let mut other = first.clone();
        change(&mut other.key);
        other
    };
    let others = [
        with(&|key| key.group = Group::Payer(other_payer)),
        with(&|key| key.group = Group::Shared),
        with(&|key| key.limit = "y".into()),
        with(&|key| key.limit = "x:".into()),
        with(&|key| key.scope = LimitScope::Key),
        with(&|key| key.owner = format!("{}2", key.owner).into()),
        with(&|key| key.provider = Provider::parse("qwen").ok()),
        with(&|key| key.model = Some(Arc::default())),
        with(&|key| key.model = Some("gpt-4o".into())),
    ];
    // A shared bucket is everybody's: this test's own owner keeps it apart.
    assert!(allowed(limits, std::slice::from_ref(&first), 10).await);
    assert_eq!(used(limits, &others).await, [0; 9]);
    assert!(allowed(limits, &others, 10).await);
    assert!(!allowed(limits, &[first], 1).await);
}

pub async fn a_changed_rule_keeps_what_is_in_the_bucket(limits: &dyn RateLimits) {
    let payer = new_payer(limits).await;
    assert!(allowed(limits, &[bucket(payer, "x", still(100))], 60).await);
    let smaller = [bucket(payer, "x", still(50))];
    assert!(!allowed(limits, &smaller, 1).await);
    let larger = [bucket(payer, "x", BucketRule::sliding_window(200, 3_600))];
    assert!(allowed(limits, &larger, 100).await);
    assert!(!allowed(limits, &larger, 41).await);
    let fixed = [bucket(payer, "x", BucketRule::fixed_window(200, 3_600))];
    assert!(allowed(limits, &fixed, 40).await);
    assert!(!allowed(limits, &fixed, 1).await);
}

pub async fn slots_are_taken_with_the_amounts_or_not_at_all(limits: &dyn RateLimits) {
    let payer = new_payer(limits).await;
    let buckets = [bucket(payer, "running", BucketRule::slots(2)), bucket(payer, "tokens", still(100))];
    let hold = |number: u128, amount: i64, ttl_ms: i64| {
        let mut request = take(&buckets, amount);
        request.ask.hold = Some(HoldSlot { id: Uuid::from_u128(number), ttl_ms });
        request
    };
    let answers = limits.take(&[hold(1, 10, 60_000), hold(2, 200, 60_000), hold(3, 10, 30_000), hold(4, 10, 60_000)]).await.unwrap();
    assert_eq!(answers.iter().map(|answer| answer.allowed()).collect::<Vec<_>>(), [true, false, true, false]);
    assert!(matches!(answers[3].levels[0].wait, Wait::Millis(29_000..=30_000)), "{answers:?}");
    assert_eq!(used(limits, &buckets).await, [2, 20]);
    // No hold, no slot.
    assert!(allowed(limits, &buckets, 10).await);
    let ended = |number: u128, amount: i64| {
        let mut back = give_back(&buckets, amount, 0);
        back.back.hold = Some(Uuid::from_u128(number));
        back
    };
    limits.give_back(&[ended(1, 4), ended(9, 0)]).await.unwrap();
    assert_eq!(used(limits, &buckets).await, [1, 26]);
    // A hold whose client never comes back ends by itself.
    assert!(limits.take(&[hold(4, 10, 1)]).await.unwrap()[0].allowed());
    sleep(Duration::from_millis(5)).await;
    assert!(limits.take(&[hold(5, 10, 60_000)]).await.unwrap()[0].allowed());
    // A limit that counts tokens from now on begins anew.
    assert!(allowed(limits, &[bucket(payer, "running", still(10))], 10).await);
}

pub async fn a_payer_that_the_store_has_forgotten_is_restored_before_anything_is_decided(limits: &dyn RateLimits) {
    let payer = unknown_payer();
    let window = BucketRule::sliding_window(100, 60);
    let buckets = [bucket(payer, "still", still(1_000)), bucket(payer, "window", window), bucket(payer, "running", BucketRule::slots(2))];
    let hold = |number: u128| Some(HoldSlot { id: Uuid::from_u128(number), ttl_ms: 30_000 });
    let forgotten = TakeAnswer { verdict: Verdict::Forgotten, levels: Vec::new() };
    let known = [bucket(new_payer(limits).await, "x", still(10))];
    let answers = limits.take(&[take(&known, 4), take(&buckets, 1), take(&known, 6)]).await.unwrap();
    assert_eq!((answers[0].allowed(), &answers[1], answers[2].allowed()), (true, &forgotten, true));
    let used_before = |amount: i64, hold: Option<HoldSlot>, age_ms: i64| Use {
        buckets: if hold.is_some() { buckets.to_vec() } else { buckets[..2].to_vec() },
        ask: Ask { amount: tokens(amount), hold },
        age_ms,
    };
    let uses =
        [used_before(50, None, 70_000), used_before(30, hold(1), 50_000), used_before(40, hold(2), 20_000), used_before(900, None, 10_000)];
    limits.restore(payer, &uses).await.unwrap();
    // Somebody else was as fast: nothing is counted twice.
    limits.restore(payer, &uses).await.unwrap();
    assert_eq!(used(limits, &buckets).await, [1_000, 100, 1]);
    let mut next = take(&buckets[2..], 1);
    next.ask.hold = hold(2);
    assert!(limits.take(&[next.clone()]).await.unwrap()[0].allowed(), "this hold has its slot");
    next.ask.hold = hold(3);
    assert!(limits.take(&[next.clone()]).await.unwrap()[0].allowed());
    next.ask.hold = hold(4);
    assert!(!limits.take(&[next]).await.unwrap()[0].allowed());
    assert!(!allowed(limits, &buckets[1..2], 1).await);
}

pub async fn the_stated_wait_is_enough(limits: &dyn RateLimits) {
    // 1,000 tokens per second: one per millisecond.
    let buckets = [bucket(new_payer(limits).await, "x", BucketRule::draining(1_000, Thousandths::new(1_000_000).unwrap()))];
    assert!(allowed(limits, &buckets, 1_000).await);
    let answer = limits.take(&[take(&buckets, 60)]).await.unwrap().remove(0);
    if let Wait::Millis(wait_ms) = answer.levels[0].wait {
        assert!((1..=60).contains(&wait_ms), "{wait_ms}");
        sleep(Duration::from_millis(u64::try_from(wait_ms).unwrap() + 1)).await;
        assert!(allowed(limits, &buckets, 60).await);
    }
    assert!(limits.peek(&buckets).await.unwrap()[0].at_ms > 1_700_000_000_000, "the store's time is milliseconds since 1970");
}

pub async fn racing_callers_get_exactly_the_capacity(limits: &dyn RateLimits) {
    let payer = new_payer(limits).await;
    let buckets = [bucket(payer, "wide", still(10_000)), bucket(payer, "narrow", still(100))];
    let callers = (0..8).map(|_| async {
        let mut granted = 0;
        for _ in 0..8 {
            granted += usize::from(allowed(limits, &buckets, 3).await);
        }
        granted
    });
    let granted: usize = futures::future::join_all(callers).await.into_iter().sum();
    assert_eq!(granted, 33);
    assert_eq!(used(limits, &buckets).await.into_iter().collect::<BTreeSet<_>>(), BTreeSet::from([99]));
    limits.ping().await.unwrap();
}
