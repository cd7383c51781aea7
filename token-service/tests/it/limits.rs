//! Named limits without a ledger, limits on running holds, and what the end of a hold gives back.

use crate::world::*;
use domain::{
    access::{Caller, Scope},
    ids::Payer,
};
use serde_json::{Value, json};

const TAKE: &str = "/api/v1/limits/take";

fn taker(number: u128) -> Caller {
    Caller { scopes: [Scope::LimitsTake].into(), ..caller(number) }
}

fn named() -> World {
    World::with(limits(&[
        ("second", json!({"scope": "USER", "algorithm": "FIXED_WINDOW", "capacity": 3, "windowSeconds": 1})),
        ("day", json!({"scope": "USER", "algorithm": "SLIDING_WINDOW", "capacity": 5, "windowSeconds": 86_400, "onOutage": "CLOSED"})),
        ("tokens", json!({"scope": "USER", "algorithm": "TOKEN_BUCKET", "capacity": 10, "leakRatePerSecond": 1})),
        ("running", json!({"scope": "KEY", "algorithm": "CONCURRENCY", "capacity": 2})),
    ]))
}

#[tokio::test]
async fn a_list_of_limits_is_taken_as_a_whole_or_not_at_all() {
    let world = named();
    let both = json!({"limit": ["second", "day"], "key": "10.0.0.1"});
    for used in 1..=3 {
        let answer = world.post(&taker(1), TAKE, &both).await.expect(200);
        let left = answer.body["remaining"].as_i64().unwrap();
        assert_eq!((&answer.body["allowed"], &answer.body["waitSeconds"], left), (&json!(true), &json!(0), 3 - used));
        assert_eq!(answer.header("ratelimit").unwrap().matches(";r=").count(), 2);
    }
    let refused = world.post(&taker(1), TAKE, &both).await.expect_problem(429, "rate_limited");
    assert_eq!((&refused.body["policy"], &refused.body["never"]), (&json!("second"), &json!(false)));
    assert_eq!((refused.header("retry-after"), &refused.body["nextAccessTime"]), (Some("1"), &json!("2026-11-21T12:00:01.000Z")));
    world.advance(1);
    for _ in 0..2 {
        world.post(&taker(1), TAKE, &both).await.expect(200);
    }
    let refused = world.post(&taker(1), TAKE, &both).await.expect(429);
    // A day's parts are long: what was taken in the same one leaves together.
    assert_eq!((&refused.body["policy"], &refused.body["waitSeconds"]), (&json!("day"), &json!(86_400)));
    // Nothing was taken by the refusal: one is left in this second.
    world.post(&taker(1), TAKE, &json!({"limit": "second", "key": "10.0.0.1"})).await.expect(200);
    world.post(&taker(1), TAKE, &json!({"limit": "second", "key": "10.0.0.1"})).await.expect(429);
    // Another key, and the same key of another principal, have buckets of their own.
    world.post(&taker(1), TAKE, &json!({"limit": "second", "key": "10.0.0.2", "amount": 3})).await.expect(200);
    world.post(&taker(2), TAKE, &json!({"limit": "second", "key": "10.0.0.1", "amount": 3})).await.expect(200);
}

#[tokio::test]
async fn more_than_the_capacity_never_passes() {
    let refused = named().post(&taker(1), TAKE, &json!({"limit": "tokens", "key": "k", "amount": 11})).await.expect(429);
    assert_eq!(
        (&refused.body["never"], refused.header("retry-after"), refused.header("x-should-retry")),
        (&json!(true), None, Some("false"))
    );
}

/// A predecessor told clients to come back after 0 seconds.
#[tokio::test]
async fn a_wait_of_a_moment_is_told_as_a_second_and_its_instant_exactly() {
    let world = World::with(limits(&[("fast", json!({"scope": "USER", "capacity": 10, "leakRatePerSecond": 8}))]));
    let take = |amount: i64| json!({"limit": "fast", "key": "k", "amount": amount});
    world.post(&taker(1), TAKE, &take(10)).await.expect(200);
    let refused = world.post(&taker(1), TAKE, &take(1)).await.expect(429);
    assert_eq!((refused.header("retry-after"), &refused.body["waitSeconds"]), (Some("1"), &json!(1)));
    assert_eq!(refused.body["nextAccessTime"], "2026-11-21T12:00:00.125Z");
}

#[tokio::test]
async fn a_wrong_take_is_named_and_takes_nothing() {
    let world = named();
    let many: Vec<String> = (0..17).map(|index| index.to_string()).collect();
    for (field, body) in [
        ("limit", json!({"key": "k"})),
        ("limit", json!({"limit": "nobody", "key": "k"})),
        ("limit", json!({"limit": 7, "key": "k"})),
        ("limit", json!({"limit": [], "key": "k"})),
        ("limit", json!({"limit": ["second", "second"], "key": "k"})),
        ("limit", json!({"limit": many, "key": "k"})),
        ("limit", json!({"limit": ["second", "running"], "key": "k"})),
        ("key", json!({"limit": "second"})),
        ("key", json!({"limit": "second", "key": " "})),
        ("key", json!({"limit": "second", "key": "k".repeat(256)})),
        ("amount", json!({"limit": "second", "key": "k", "amount": 0})),
        ("amount", json!({"limit": "second", "key": "k", "amount": 9_007_199_254_740_992_i64})),
        ("ammount", json!({"limit": "second", "key": "k", "ammount": 1})),
    ] {
        let refused = world.post(&taker(1), TAKE, &body).await.expect_problem(400, "validation_failed");
        assert_eq!(refused.body["errors"][0]["field"], field, "{body}");
    }
    assert_eq!(world.buckets.total(), 0);
    let refused = world.post(&caller(1), TAKE, &json!({"limit": "second", "key": "k"})).await.expect_problem(403, "forbidden");
    assert_eq!(refused.body["requiredScope"], "limits:take");
}

#[tokio::test]
async fn an_outage_is_answered_as_the_limit_says() {
    let world = named();
    world.buckets.away.store(true, std::sync::atomic::Ordering::SeqCst);
    world.post(&taker(1), TAKE, &json!({"limit": "day", "key": "k"})).await.expect_problem(503, "unavailable");
    let answer = world.post(&taker(1), TAKE, &json!({"limit": "second", "key": "k"})).await.expect(200);
    assert_eq!(answer.header("x-weir-limit-mode"), Some("local"));
}

async fn spender(settings: &[(&str, Value)]) -> World {
    let world = World::with(limits(settings));
    world.grant(Payer::User(user(1)), 10_000).await;
    world
}

async fn reserve(world: &World, amount: i64) -> Answer {
    world.post(&caller(1), "/api/v1/tokens/reserve", &json!({"provider": "openai", "tokens": amount, "ttlSeconds": 60})).await
}

async fn end(world: &World, how: &str, held: &Answer, tokens: Option<i64>) -> Answer {
    let mut body = json!({"chargeId": held.body["chargeId"]});
    if let Some(tokens) = tokens {
        body["tokens"] = json!(tokens);
    }
    world.post(&caller(1), &format!("/api/v1/tokens/{how}"), &body).await.expect(200)
}

#[tokio::test]
async fn only_so_many_holds_run_at_once_and_each_end_frees_a_slot() {
    let running = json!({"scope": "USER", "algorithm": "CONCURRENCY", "capacity": 2});
    let world = spender(&[("running", running)]).await;
    let (first, second) = (reserve(&world, 10).await.expect(201), reserve(&world, 10).await.expect(201));
    let refused = reserve(&world, 10).await.expect_problem(429, "rate_limited");
    assert_eq!((&refused.body["policy"], &refused.body["capacity"], &refused.body["used"]), (&json!("running"), &json!(2), &json!(2)));
    assert_eq!(refused.header("ratelimit-policy"), Some("\"running\";q=2;weir-unit=\"holds\""));
    // What is no hold needs no slot.
    world.consume(&caller(1), &json!({"provider": "openai", "tokens": 10})).await.expect(200);
    end(&world, "settle", &first, Some(10)).await;
    end(&world, "settle", &first, Some(10)).await;
    let third = reserve(&world, 10).await.expect(201);
    reserve(&world, 10).await.expect(429);
    end(&world, "release", &second, None).await;
    end(&world, "release", &second, None).await;
    reserve(&world, 10).await.expect(201);
    reserve(&world, 10).await.expect(429);
    // The clients of the other two are never heard of again.
    world.advance(60);
    for _ in 0..2 {
        reserve(&world, 10).await.expect(201);
    }
    reserve(&world, 10).await.expect(429);
    end(&world, "settle", &third, Some(3)).await;
    reserve(&world, 10).await.expect(429);
}

#[tokio::test]
async fn a_hold_that_the_pool_refuses_keeps_no_slot() {
    let world = spender(&[("running", json!({"scope": "USER", "algorithm": "CONCURRENCY", "capacity": 1}))]).await;
    reserve(&world, 20_000).await.expect(402);
    reserve(&world, 10).await.expect(201);
}

#[tokio::test]
async fn the_end_of_a_hold_gives_back_what_it_did_not_use_and_only_once() {
    let world = spender(&[("a", json!({"scope": "USER", "algorithm": "FIXED_WINDOW", "capacity": 1_000, "windowSeconds": 3_600}))]).await;
    let held = reserve(&world, 400).await.expect(201);
    reserve(&world, 300).await.expect(201);
    assert_eq!(world.buckets.total(), 700);
    for _ in 0..2 {
        end(&world, "settle", &held, Some(150)).await;
        assert_eq!(world.buckets.total(), 450);
    }
    let held = reserve(&world, 500).await.expect(201);
    let releases: Vec<_> = (0..8).map(|_| end(&world, "release", &held, None)).collect();
    futures::future::join_all(releases).await;
    assert_eq!(world.buckets.total(), 450, "eight releases at once give back once");
    // What is above its hold is filled in; what expires is given back.
    let held = reserve(&world, 100).await.expect(201);
    for _ in 0..2 {
        end(&world, "settle", &held, Some(180)).await;
        assert_eq!(world.buckets.total(), 630);
    }
    world.advance(60);
    eventually("the sweep", || world.buckets.total() == 330).await;
}

#[tokio::test]
async fn a_model_limit_counts_everybody_on_that_model() {
    let world = spender(&[("model", json!({"scope": "MODEL", "capacity": 100, "leakRatePerSecond": 1}))]).await;
    world.grant(Payer::User(user(2)), 10_000).await;
    let spend = |model: &str, amount: i64| json!({"provider": "openai", "model": model, "tokens": amount});
    world.consume(&caller(1), &spend("gpt-4o", 60)).await.expect(200);
    let refused = world.consume(&caller(2), &spend("gpt-4o", 60)).await.expect(429);
    assert_eq!((&refused.body["scope"], &refused.body["policy"]), (&json!("MODEL"), &json!("model")));
    world.consume(&caller(2), &spend("o3", 60)).await.expect(200);
}
