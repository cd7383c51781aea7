//! One key, one request, one answer.

use crate::world::*;
use axum::http::Request;
use domain::ids::Payer;
use futures::future::join_all;
use serde_json::json;
use service_kit::config::LedgerWrite;
use std::sync::Arc;

const CONSUME: &str = "/api/v1/tokens/consume";

#[tokio::test]
async fn a_replay_is_the_first_answer_byte_for_byte_and_takes_nothing() {
    let world = World::new();
    world.grant(Payer::User(user(1)), 1_000).await;
    let body = json!({"provider": "openai", "tokens": 10, "metadata": {"b": "2", "a": "1"}});
    let first = world.post_keyed(&caller(1), CONSUME, "k", &body).await.expect(200);
    world.consume(&caller(1), &json!({"provider": "openai", "tokens": 100})).await.expect(200);
    world.advance(3);
    let level = world.buckets.total();
    let second = world.post_keyed(&caller(1), CONSUME, "k", &body).await.expect(200);
    assert!(second.is_replay() && !first.is_replay());
    assert_eq!(first.bytes, second.bytes);
    for name in ["content-type", "ratelimit", "ratelimit-policy", "x-ratelimit-remaining", "x-ratelimit-reset"] {
        assert_eq!(first.header(name), second.header(name), "{name}");
    }
    assert_eq!(world.remaining(Payer::User(user(1))), 890);
    assert!(world.buckets.total() <= level, "the replay gave its amount back");
}

#[tokio::test]
async fn the_order_and_spacing_of_the_json_do_not_matter_but_its_content_does() {
    let world = World::new();
    world.grant(Payer::User(user(1)), 1_000).await;
    let send = |text: &'static str| {
        let request = Request::post(CONSUME).header("content-type", "application/json").header("idempotency-key", "k");
        world.send(request.extension(Arc::new(caller(1))).body(text.into()).unwrap())
    };
    send(r#"{"provider":"openai","tokens":10,"metadata":{"a":"1","b":"2"}}"#).await.expect(200);
    assert!(send(r#"{ "metadata": {"b":"2", "a":"1"}, "tokens": 10, "provider": "openai" }"#).await.expect(200).is_replay());
    send(r#"{"provider":"openai","tokens":11,"metadata":{"a":"1","b":"2"}}"#).await.expect_problem(422, "idempotency_mismatch");
    assert_eq!(world.ledger.charge_count(), 1);
    assert_eq!(world.buckets.total(), 10);
}

#[tokio::test]
async fn a_key_belongs_to_its_principal_and_endpoint() {
    let world = World::new();
    world.grant(Payer::User(user(1)), 1_000).await;
    world.grant(Payer::User(user(2)), 1_000).await;
    let body = json!({"provider": "openai", "tokens": 10});
    let first = world.post_keyed(&caller(1), CONSUME, "k", &body).await.expect(200);
    let other = world.post_keyed(&caller(2), CONSUME, "k", &body).await.expect(200);
    assert!(!other.is_replay() && first.body["chargeId"] != other.body["chargeId"]);
    assert!(!world.post_keyed(&caller(1), "/api/v1/tokens/reserve", "k", &body).await.expect(201).is_replay());
}

#[tokio::test]
async fn of_64_calls_at_once_under_one_key_one_is_executed() {
    for write in [LedgerWrite::Grouped, LedgerWrite::PerRequest] {
        let world = World::on(crate::world::Stores::new(), domain::settings::Settings::default(), write, None);
        world.grant(Payer::User(user(1)), 1_000).await;
        let body = json!({"provider": "openai", "tokens": 100});
        let answers = join_all((0..64).map(|_| world.post_keyed(&caller(1), CONSUME, "k", &body))).await;
        assert!(answers.iter().all(|answer| answer.status == 200), "64 × 100 tokens would not even fit into the bucket");
        assert_eq!(answers.iter().filter(|answer| answer.is_replay()).count(), 63);
        assert!(answers.iter().all(|answer| answer.bytes == answers[0].bytes));
        assert_eq!((world.ledger.charge_count(), world.remaining(Payer::User(user(1))), world.buckets.total()), (1, 900, 100));
    }
}

#[tokio::test]
async fn a_client_that_leaves_does_not_undo_what_it_asked_for() {
    let world = World::new();
    world.grant(Payer::User(user(1)), 1_000).await;
    let body = json!({"provider": "openai", "tokens": 10});
    let gate = world.ledger.gate.write().await;
    let call = world.post_keyed(&caller(1), CONSUME, "k", &body);
    assert!(tokio::time::timeout(std::time::Duration::from_millis(50), call).await.is_err(), "the client gives up while the commit waits");
    drop(gate);
    eventually("the charge", || world.ledger.charge_count() == 1).await;
    assert!(world.post_keyed(&caller(1), CONSUME, "k", &body).await.expect(200).is_replay());
    assert_eq!(world.remaining(Payer::User(user(1))), 990);
}

#[tokio::test]
async fn a_done_request_is_never_refused_by_a_bucket() {
    let world = World::new();
    world.grant(Payer::User(user(1)), 5_000).await;
    let body = json!({"provider": "openai", "tokens": 600});
    let first = world.post_keyed(&caller(1), CONSUME, "k", &body).await.expect(200);
    let again = world.post_keyed(&caller(1), CONSUME, "k", &body).await.expect(200);
    assert!(again.is_replay() && again.bytes == first.bytes, "600 more would not fit");
    world
        .post_keyed(&caller(1), CONSUME, "k", &json!({"provider": "openai", "tokens": 601}))
        .await
        .expect_problem(422, "idempotency_mismatch");
    world.post_keyed(&caller(1), CONSUME, "other", &body).await.expect(429);
}

#[tokio::test]
async fn a_refused_request_may_be_tried_again_under_its_key() {
    let world = World::new();
    let body = json!({"provider": "openai", "tokens": 10});
    world.post_keyed(&caller(1), CONSUME, "k", &body).await.expect(402);
    assert_eq!(world.ledger.claim_count(), 0);
    world.grant(Payer::User(user(1)), 1_000).await;
    assert!(!world.post_keyed(&caller(1), CONSUME, "k", &body).await.expect(200).is_replay());
}

#[tokio::test]
async fn reserve_settle_release_and_grant_are_replayed_too() {
    let world = World::new();
    world.grant(Payer::User(user(1)), 1_000).await;
    let held = json!({"provider": "openai", "tokens": 10});
    let first = world.post_keyed(&caller(1), "/api/v1/tokens/reserve", "k", &held).await.expect(201);
    let again = world.post_keyed(&caller(1), "/api/v1/tokens/reserve", "k", &held).await.expect(201);
    assert!(again.is_replay() && again.bytes == first.bytes && again.header("location") == first.header("location"));
    assert_eq!(world.buckets.total(), 10);
    let settle = json!({"chargeId": first.body["chargeId"], "tokens": 4});
    let first = world.post_keyed(&caller(1), "/api/v1/tokens/settle", "k", &settle).await.expect(200);
    let again = world.post_keyed(&caller(1), "/api/v1/tokens/settle", "k", &settle).await.expect(200);
    assert!(again.is_replay() && again.bytes == first.bytes);
    let held = world.post(&caller(1), "/api/v1/tokens/reserve", &held).await.expect(201);
    let release = json!({"chargeId": held.body["chargeId"]});
    world.post_keyed(&caller(1), "/api/v1/tokens/release", "k", &release).await.expect(200);
    assert!(world.post_keyed(&caller(1), "/api/v1/tokens/release", "k", &release).await.expect(200).is_replay());
    let grant = json!({"userId": user(2), "provider": "openai", "tokens": 10, "reason": "r"});
    let first = world.post_keyed(&admin(), "/api/v1/admin/pools/grant", "k", &grant).await.expect(201);
    let again = world.post_keyed(&admin(), "/api/v1/admin/pools/grant", "k", &grant).await.expect(201);
    assert!(again.is_replay() && again.bytes == first.bytes);
    assert_eq!(world.remaining(Payer::User(user(2))), 10);
}

#[tokio::test]
async fn a_late_repetition_of_an_older_allowance_does_not_undo_a_newer_one() {
    let world = World::new();
    let set = |key: &'static str, allowance: i64| {
        let body = json!({"userId": user(1), "provider": "openai", "allowance": allowance, "period": "NONE"});
        let mut request = post(&admin(), "/api/v1/admin/pools", &body);
        *request.method_mut() = axum::http::Method::PUT;
        request.headers_mut().insert("idempotency-key", key.parse().unwrap());
        world.send(request)
    };
    let first = set("first", 100).await.expect(201);
    set("second", 50).await.expect(200);
    let late = set("first", 100).await.expect(201);
    assert!(late.is_replay() && late.bytes == first.bytes);
    set("first", 101).await.expect_problem(422, "idempotency_mismatch");
    assert_eq!(world.remaining(Payer::User(user(1))), 50);
}
