//! Reserve, settle, release: in any order, any number of times, with the same result.

use crate::world::*;
use domain::{charge::ChargeStatus, ids::Payer};
use serde_json::{Value, json};

async fn world() -> World {
    let world = World::new();
    world.grant(Payer::User(user(1)), 100).await;
    world
}

async fn reserve(world: &World, amount: i64) -> Value {
    world
        .post(&caller(1), "/api/v1/tokens/reserve", &json!({"provider": "openai", "tokens": amount, "ttlSeconds": 60}))
        .await
        .expect(201)
        .body
}

async fn settle(world: &World, held: &Value, amount: i64) -> Answer {
    world.post(&caller(1), "/api/v1/tokens/settle", &json!({"chargeId": held["chargeId"], "tokens": amount})).await
}

async fn release(world: &World, held: &Value) -> Answer {
    world.post(&caller(1), "/api/v1/tokens/release", &json!({"chargeId": held["chargeId"]})).await
}

#[tokio::test]
async fn a_hold_is_settled_with_what_was_used() {
    let world = world().await;
    let answer =
        world.post(&caller(1), "/api/v1/tokens/reserve", &json!({"provider": "openai", "tokens": 60, "model": "GPT-4o"})).await.expect(201);
    let id = answer.body["chargeId"].as_str().unwrap().to_owned();
    assert_eq!(answer.header("location"), Some(format!("/api/v1/tokens/charges/{id}").as_str()));
    assert!(answer.header("ratelimit").is_some());
    let body = &answer.body;
    assert_eq!((&body["status"], &body["held"], &body["expiresAt"]), (&json!("HELD"), &json!(60), &json!("2026-11-21T12:05:00.000Z")));
    let mut settled = settle(&world, body, 10).await.expect(200).body;
    settled["chargeId"] = json!("…");
    insta::assert_snapshot!(settled.to_string(), @r#"{"chargeId":"…","debt":0,"held":60,"returned":50,"settled":10,"status":"SETTLED"}"#);
    assert_eq!(world.remaining(Payer::User(user(1))), 90);
    let mut shown = world.get(&caller(1), &format!("/api/v1/tokens/charges/{id}")).await.expect(200).body;
    shown["chargeId"] = json!("…");
    insta::assert_snapshot!(shown.to_string(), @r#"{"chargeId":"…","createdAt":"2026-11-21T12:00:00.000Z","debt":0,"expiresAt":"2026-11-21T12:05:00.000Z","held":60,"metadata":{},"model":"gpt-4o","provider":"openai","refunded":0,"seq":2,"settled":10,"settledAt":"2026-11-21T12:00:00.000Z","shard":59,"status":"SETTLED","userId":"00000000-0000-0000-0000-000000000001"}"#);
}

#[tokio::test]
async fn repeating_answers_the_same_and_contradicting_is_refused() {
    let world = world().await;
    let held = reserve(&world, 10).await;
    let first = settle(&world, &held, 7).await.expect(200);
    assert_eq!(settle(&world, &held, 7).await.expect(200).bytes, first.bytes);
    let refused = settle(&world, &held, 8).await.expect_problem(422, "invalid_transition");
    assert_eq!(refused.body["chargeStatus"], "SETTLED");
    release(&world, &held).await.expect_problem(422, "invalid_transition");
    let held = reserve(&world, 10).await;
    let first = release(&world, &held).await.expect(200);
    assert_eq!((&first.body["status"], &first.body["returned"]), (&json!("RELEASED"), &json!(10)));
    assert_eq!(release(&world, &held).await.expect(200).bytes, first.bytes);
    let refused = settle(&world, &held, 10).await.expect_problem(422, "invalid_transition");
    assert_eq!(refused.body["chargeStatus"], "RELEASED");
    assert_eq!(world.remaining(Payer::User(user(1))), 93);
}

#[tokio::test]
async fn a_forgotten_hold_expires_and_a_late_settle_is_still_booked() {
    let world = world().await;
    let held = reserve(&world, 10).await;
    world.advance(60);
    eventually("the sweep", || world.remaining(Payer::User(user(1))) == 100).await;
    let released = release(&world, &held).await.expect(200);
    assert_eq!((&released.body["status"], &released.body["returned"]), (&json!("EXPIRED"), &json!(10)));
    let settled = settle(&world, &held, 12).await.expect(200);
    assert_eq!((&settled.body["status"], &settled.body["late"]), (&json!("SETTLED"), &json!(true)));
    assert_eq!(world.remaining(Payer::User(user(1))), 88);
}

#[tokio::test]
async fn debt_is_booked_shown_and_blocks_until_it_is_paid() {
    let world = world().await;
    let held = reserve(&world, 90).await;
    let settled = settle(&world, &held, 105).await.expect(200);
    assert_eq!(settled.body["debt"], 5);
    let quota = world.get(&caller(1), "/api/v1/tokens/quota?provider=openai").await.expect(200);
    assert_eq!((&quota.body["remainingTokens"], &quota.body["debt"]), (&json!(0), &json!(5)));
    let refused = world.consume(&caller(1), &json!({"provider": "openai", "tokens": 1})).await.expect_problem(402, "quota_exhausted");
    assert_eq!((&refused.body["remaining"], &refused.body["debt"]), (&json!(0), &json!(5)));
    world.grant(Payer::User(user(1)), 15).await;
    world.consume(&caller(1), &json!({"provider": "openai", "tokens": 10})).await.expect(200);
    world.consume(&caller(1), &json!({"provider": "openai", "tokens": 1})).await.expect(402);
}

#[tokio::test]
async fn a_hold_passes_the_buckets_like_a_consume_and_a_refused_one_leaves_them() {
    let world = world().await;
    world
        .post(&caller(1), "/api/v1/tokens/reserve", &json!({"provider": "openai", "tokens": 101}))
        .await
        .expect_problem(402, "quota_exhausted");
    assert_eq!(world.buckets.total(), 0);
    world
        .post(&caller(1), "/api/v1/tokens/reserve", &json!({"provider": "openai", "tokens": 1_001}))
        .await
        .expect_problem(429, "rate_limited");
    assert_eq!(world.ledger.charge_count(), 0);
}

#[tokio::test]
async fn settles_and_releases_that_race_end_the_charge_once() {
    let world = world().await;
    for _ in 0..10 {
        let held = reserve(&world, 10).await;
        let (settled, released) = futures::join!(settle(&world, &held, 0), release(&world, &held));
        let mut statuses = [settled.status.as_u16(), released.status.as_u16()];
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 422]);
        let id = held["chargeId"].as_str().unwrap().parse().unwrap();
        let status = world.ledger.rows.lock().unwrap().state.charges[&id].status;
        assert!(matches!(status, ChargeStatus::Settled | ChargeStatus::Released));
    }
    assert_eq!(world.remaining(Payer::User(user(1))), 100);
}

#[tokio::test]
async fn what_was_used_beyond_a_hold_is_filled_into_its_buckets_and_never_refused() {
    let world = world().await;
    world.grant(Payer::User(user(1)), 5_000).await;
    let held = reserve(&world, 100).await;
    settle(&world, &held, 700).await.expect(200);
    assert_eq!(world.buckets.total(), 700);
    settle(&world, &held, 700).await.expect(200);
    assert_eq!(world.buckets.total(), 700, "once, however often it is settled");
    world.consume(&caller(1), &json!({"provider": "openai", "tokens": 301})).await.expect_problem(429, "rate_limited");
    let held = reserve(&world, 100).await;
    settle(&world, &held, 4_000).await.expect(200);
    assert_eq!(world.buckets.total(), 1_000, "full, not fuller");
}

#[tokio::test]
async fn a_late_settle_fills_in_all_that_was_given_back_at_expiry() {
    let world = world().await;
    let held = reserve(&world, 60).await;
    world.advance(600);
    eventually("the sweep", || world.remaining(Payer::User(user(1))) == 100).await;
    eventually("the buckets", || world.buckets.total() == 0).await;
    settle(&world, &held, 40).await.expect(200);
    assert_eq!(world.buckets.total(), 40);
}
