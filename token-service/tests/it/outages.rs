//! The buckets' store is away: each limit does what it says, balances stay exact.

use crate::world::*;
use domain::ids::Payer;
use ports::rate_limits::RateLimits;
use serde_json::{Value, json};
use std::{sync::atomic::Ordering, time::Duration};

fn limit(capacity: i64, mode: &str) -> Value {
    json!({"scope": "USER", "capacity": capacity, "leakRatePerSecond": 1, "onOutage": mode})
}

async fn world(settings: &[(&str, Value)]) -> World {
    let world = World::with(limits(settings));
    world.grant(Payer::User(user(1)), 1_000).await;
    world.buckets.away.store(true, Ordering::SeqCst);
    world
}

fn body(amount: i64) -> Value {
    json!({"provider": "openai", "tokens": amount})
}

#[tokio::test]
async fn closed_refuses_with_503_but_not_what_was_done_before() {
    let world = world(&[("a", limit(100, "CLOSED")), ("b", limit(100, "OPEN"))]).await;
    let refused = world.consume(&caller(1), &body(1)).await.expect_problem(503, "unavailable");
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert_eq!(world.ledger.charge_count(), 0);
    world.buckets.away.store(false, Ordering::SeqCst);
    let first = world.post_keyed(&caller(1), "/tokens/consume", "k", &body(1)).await.expect(200);
    world.buckets.away.store(true, Ordering::SeqCst);
    let again = world.post_keyed(&caller(1), "/tokens/consume", "k", &body(1)).await.expect(200);
    assert!(again.is_replay() && again.bytes == first.bytes);
}

#[tokio::test]
async fn open_lets_pass_and_says_so_while_the_pool_still_guards() {
    let world = world(&[("a", limit(100, "OPEN"))]).await;
    let answer = world.consume(&caller(1), &body(900)).await.expect(200);
    assert_eq!((answer.header("x-weir-limit-mode"), answer.header("ratelimit")), (Some("open"), None));
    world.consume(&caller(1), &body(101)).await.expect_problem(402, "quota_exhausted");
}

#[tokio::test]
async fn local_keeps_a_bucket_of_its_own() {
    let world = world(&[("a", limit(100, "LOCAL")), ("b", limit(10, "OPEN"))]).await;
    let answer = world.consume(&caller(1), &body(80)).await.expect(200);
    assert_eq!((answer.header("x-weir-limit-mode"), answer.header("x-ratelimit-remaining")), (Some("local"), Some("20")));
    let refused = world.consume(&caller(1), &body(30)).await.expect_problem(429, "rate_limited");
    assert_eq!((refused.header("retry-after"), refused.header("x-weir-limit-mode")), (Some("10"), Some("local")));
    world.advance(10);
    world.consume(&caller(1), &body(30)).await.expect(200);
    // What the pool refuses goes back into the local bucket.
    world.advance(1_000);
    for _ in 0..3 {
        world.grant(Payer::User(user(2)), 5).await;
        world.consume(&caller(2), &body(100)).await.expect(402);
    }
    // The shared store is back: its buckets count again.
    world.buckets.away.store(false, Ordering::SeqCst);
    let answer = world.consume(&caller(1), &body(5)).await.expect(200);
    assert_eq!((answer.header("x-weir-limit-mode"), world.buckets.total()), (None, 10));
}

#[tokio::test]
async fn accounts_that_are_away_answer_503() {
    let world = World::new();
    world.grant(Payer::User(user(1)), 1_000).await;
    world.accounts.away.store(true, Ordering::SeqCst);
    let refused = world.consume(&caller(7), &body(1)).await.expect_problem(503, "unavailable");
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert_eq!(world.buckets.total(), 0);
}

#[tokio::test]
async fn quota_is_still_shown_without_its_buckets() {
    let world = world(&[("a", limit(100, "LOCAL"))]).await;
    let answer = world.get(&caller(1), "/api/v1/tokens/quota?provider=openai").await.expect(200);
    assert_eq!((&answer.body["remainingTokens"], &answer.body["buckets"]), (&json!(1_000), &Value::Null));
    world.ledger.away.store(true, Ordering::SeqCst);
    world.get(&caller(1), "/api/v1/tokens/quota?provider=openai").await.expect_problem(503, "unavailable");
}

#[tokio::test]
async fn buckets_that_were_lost_are_restored_from_the_ledger_before_anything_is_decided() {
    let window = json!({"scope": "USER", "algorithm": "SLIDING_WINDOW", "capacity": 1_000, "windowSeconds": 600});
    let running = json!({"scope": "USER", "algorithm": "CONCURRENCY", "capacity": 2});
    let world = World::with(limits(&[("window", window), ("running", running)]));
    world.grant(Payer::User(user(1)), 10_000).await;
    world.consume(&caller(1), &body(300)).await.expect(200);
    let reserve = || world.post(&caller(1), "/api/v1/tokens/reserve", &json!({"provider": "openai", "tokens": 200, "ttlSeconds": 900}));
    let released = reserve().await.expect(201).body;
    world.post(&caller(1), "/api/v1/tokens/release", &json!({"chargeId": released["chargeId"]})).await.expect(200);
    reserve().await.expect(201);
    world.advance(300);
    world.consume(&caller(1), &body(400)).await.expect(200);
    world.buckets.forget();
    // 300 and 200 of five minutes ago and 400 of now; what was released is not there.
    let refusals = (0..8).map(|_| world.consume(&caller(1), &body(101)));
    for refused in futures::future::join_all(refusals).await {
        assert_eq!(refused.expect(429).body["used"], 900);
    }
    assert_eq!(world.buckets.restores.load(Ordering::SeqCst), 1);
    reserve().await.expect(429);
    world.consume(&caller(1), &body(100)).await.expect(200);
    world.advance(300);
    assert_eq!(world.consume(&caller(1), &body(501)).await.expect(429).body["used"], 500);
    reserve().await.expect(201);
    assert_eq!(reserve().await.expect(429).body["policy"], "running", "the restored hold still has its slot");
}

#[tokio::test]
async fn lost_buckets_are_shown_as_they_were_before_anything_is_taken() {
    let window = json!({"scope": "USER", "algorithm": "SLIDING_WINDOW", "capacity": 1_000, "windowSeconds": 600});
    let world = World::with(limits(&[("window", window)]));
    world.grant(Payer::User(user(1)), 10_000).await;
    world.consume(&caller(1), &body(300)).await.expect(200);
    world.buckets.forget();
    let preview = world.post(&caller(1), "/api/v1/tokens/preview", &body(701)).await.expect(200);
    assert_eq!((&preview.body["allowed"], &preview.body["used"]), (&json!(false), &json!(300)));
    world.buckets.forget();
    for _ in 0..2 {
        let quota = world.get(&caller(1), "/api/v1/tokens/quota?provider=openai").await.expect(200);
        assert_eq!(quota.body["buckets"][0]["used"], 300);
        assert_eq!(world.buckets.restores.load(Ordering::SeqCst), 2, "once after each loss");
    }
}

#[tokio::test]
async fn what_passed_while_the_buckets_were_away_is_in_them_once_they_are_back() {
    let world = world(&[("a", limit(100, "LOCAL")), ("b", limit(100, "OPEN"))]).await;
    world.consume(&caller(1), &body(60)).await.expect(200);
    world.buckets.away.store(false, Ordering::SeqCst);
    while world.buckets.known_since(Payer::User(user(1))).await.unwrap().is_some() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let refused = world.consume(&caller(1), &body(41)).await.expect(429);
    assert_eq!(refused.body["used"], 60);
    world.consume(&caller(1), &body(40)).await.expect(200);
    assert_eq!(world.buckets.restores.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn without_the_ledger_forgotten_buckets_follow_their_outage_mode() {
    let world = World::with(limits(&[("a", limit(100, "CLOSED"))]));
    world.grant(Payer::User(user(1)), 1_000).await;
    world.buckets.forget();
    world.ledger.away.store(true, Ordering::SeqCst);
    world.consume(&caller(1), &body(1)).await.expect_problem(503, "unavailable");
    world.ledger.away.store(false, Ordering::SeqCst);
    world.consume(&caller(1), &body(1)).await.expect(200);
}
