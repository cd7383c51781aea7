//! Many consumes in one call: each decided and answered by itself.

use crate::{fakes::Fault, world::*};
use domain::ids::Payer;
use futures::future::join_all;
use serde_json::{Value, json};
use std::sync::{Arc, atomic::Ordering};

const BATCH: &str = "/api/v1/tokens/consume/batch";

async fn world(tokens: i64) -> World {
    let world = World::new();
    world.grant(Payer::User(user(1)), tokens).await;
    world
}

fn item(tokens: i64) -> Value {
    json!({"provider": "openai", "tokens": tokens})
}

fn keyed(tokens: i64, key: &str) -> Value {
    json!({"provider": "openai", "tokens": tokens, "idempotencyKey": key})
}

async fn send(world: &World, items: &[Value]) -> Answer {
    world.post(&caller(1), BATCH, &json!({"items": items})).await
}

fn statuses(answer: &Answer) -> Vec<u64> {
    answer.body["results"].as_array().unwrap().iter().map(|result| result["status"].as_u64().unwrap()).collect()
}

#[tokio::test]
async fn each_item_has_the_answer_that_it_would_have_alone() {
    let world = world(1_000).await;
    let alone = world.consume(&caller(1), &item(10)).await.expect(200).body;
    let answer = send(&world, &[item(10)]).await.expect(200);
    let result = &answer.body["results"][0];
    let fields = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    let mut expected = fields(&alone);
    expected.push("status".into());
    expected.sort();
    assert_eq!(fields(result), expected);
    assert_eq!((&result["status"], &result["quota"]["remaining"], &result["tokensCharged"]), (&json!(200), &json!(980), &json!(10)));
    assert_ne!(result["chargeId"], alone["chargeId"]);
}

#[tokio::test]
async fn one_bad_item_never_fails_the_others() {
    let world = world(100).await;
    let items = [
        item(1),
        json!({"provider": "openai", "tokens": "5"}),
        json!({"provider": "openai", "tokens": 5, "tokenz": 5}),
        json!(7),
        json!({"provider": "nope", "tokens": 5}),
        json!({"provider": "openai", "tokens": -5}),
        json!({"provider": "openai", "tokens": 5, "userId": user(2)}),
        json!({"provider": "openai", "tokens": 5, "idempotencyKey": ""}),
        json!({"provider": "openai", "tokens": 5_000}),
        item(500),
        item(2),
    ];
    let answer = send(&world, &items).await.expect(200);
    assert_eq!(statuses(&answer), [200, 400, 400, 400, 400, 400, 403, 400, 429, 402, 200]);
    let results = &answer.body["results"];
    assert_eq!((&results[1]["code"], &results[1]["errors"][0]["field"]), (&json!("validation_failed"), &json!("tokens")));
    assert!(results[2]["message"].as_str().unwrap().contains("tokens"), "the nearest known field is named: {}", results[2]["message"]);
    assert_eq!((&results[8]["never"], &results[9]["code"]), (&json!(true), &json!("quota_exhausted")));
    assert_eq!((world.remaining(Payer::User(user(1))), world.buckets.total(), world.ledger.charge_count()), (97, 3, 2));
}

#[tokio::test]
async fn a_name_given_twice_inside_one_item_is_that_items_fault() {
    let world = world(100).await;
    let text = r#"{"items":[{"provider":"openai","tokens":1,"tokens":2},{"provider":"openai","tokens":3}]}"#;
    let request = axum::http::Request::post(BATCH).header("content-type", "application/json").extension(Arc::new(caller(1)));
    let answer = world.send(request.body(text.into()).unwrap()).await.expect(200);
    assert_eq!(statuses(&answer), [400, 200]);
    assert_eq!(world.remaining(Payer::User(user(1))), 97);
}

#[tokio::test]
async fn where_a_part_fits_the_first_items_pass() {
    let world = world(500).await;
    let items: Vec<Value> = (0..1_000).map(|_| item(1)).collect();
    let answer = send(&world, &items).await.expect(200);
    let expected: Vec<u64> = (0..1_000).map(|index| if index < 500 { 200 } else { 402 }).collect();
    assert_eq!(statuses(&answer), expected);
    assert_eq!((world.remaining(Payer::User(user(1))), world.buckets.total()), (0, 500));
    assert!(world.ledger.rows.lock().unwrap().batches.len() < 10, "few transactions for a thousand items");
}

#[tokio::test]
async fn the_number_of_items_is_limited_and_the_limit_is_named() {
    let world = world(5_000).await;
    let many: Vec<Value> = (0..1_001).map(|_| item(1)).collect();
    for items in [&many[..], &[]] {
        let refused = send(&world, items).await.expect_problem(400, "validation_failed");
        assert_eq!(refused.body["errors"][0]["field"], "items");
        assert!(refused.body["message"].as_str().unwrap().contains("1000"), "{}", refused.body["message"]);
    }
    let unknown = world.post(&caller(1), BATCH, &json!({"items": [item(1)], "itemz": []})).await.expect_problem(400, "validation_failed");
    assert_eq!(unknown.body["errors"][0]["field"], "itemz");
    assert_eq!(world.ledger.charge_count(), 0);
}

#[tokio::test]
async fn an_item_is_repeated_under_its_own_key() {
    let world = world(1_000).await;
    let first = send(&world, &[keyed(10, "a"), keyed(20, "b")]).await.expect(200);
    let again = send(&world, &[keyed(20, "b"), keyed(10, "a"), keyed(11, "a"), keyed(5, "c")]).await.expect(200);
    assert_eq!(statuses(&again), [200, 200, 422, 200]);
    let results = &again.body["results"];
    assert_eq!(results[1]["chargeId"], first.body["results"][0]["chargeId"]);
    assert_eq!((&results[0]["idempotentReplayed"], &results[3]["idempotentReplayed"]), (&json!(true), &Value::Null));
    assert_eq!(results[2]["code"], "idempotency_mismatch");
    assert_eq!(world.remaining(Payer::User(user(1))), 965);
}

#[tokio::test]
async fn a_key_twice_in_one_batch_is_one_request() {
    let world = world(1_000).await;
    let answer = send(&world, &[keyed(10, "a"), keyed(10, "a"), keyed(11, "a"), item(1)]).await.expect(200);
    assert_eq!(statuses(&answer), [200, 200, 422, 200]);
    assert_eq!(answer.body["results"][0]["chargeId"], answer.body["results"][1]["chargeId"]);
    assert_eq!((world.remaining(Payer::User(user(1))), world.ledger.charge_count()), (989, 2));
}

#[tokio::test]
async fn the_whole_batch_is_repeated_under_the_header() {
    let world = world(1_000).await;
    let body = json!({"items": [item(10), item(5_000), item(20)]});
    let answers = join_all((0..64).map(|_| world.post_keyed(&caller(1), BATCH, "k", &body))).await;
    assert!(answers.iter().all(|answer| answer.status == 200 && answer.bytes == answers[0].bytes));
    assert_eq!(answers.iter().filter(|answer| answer.is_replay()).count(), 63);
    assert_eq!((world.remaining(Payer::User(user(1))), world.ledger.charge_count()), (970, 2));
    let other = json!({"items": [item(10), item(5_000), item(21)]});
    world.post_keyed(&caller(1), BATCH, "k", &other).await.expect_problem(422, "idempotency_mismatch");
}

#[tokio::test]
async fn what_failed_in_a_batch_is_tried_again_and_what_was_done_is_not() {
    let world = world(1_000).await;
    let body = json!({"items": [item(10), item(20)]});
    world.ledger.fail_next(&[Fault::Unavailable]);
    let failed = world.post_keyed(&caller(1), BATCH, "k", &body).await.expect(200);
    assert_eq!(statuses(&failed), [503, 503]);
    assert_eq!(world.buckets.total(), 0, "what changed nothing gave its amounts back");
    let done = world.post_keyed(&caller(1), BATCH, "k", &body).await.expect(200);
    assert_eq!((statuses(&done), done.is_replay()), (vec![200, 200], false));
    assert!(world.post_keyed(&caller(1), BATCH, "k", &body).await.expect(200).is_replay());
    assert_eq!(world.remaining(Payer::User(user(1))), 970);
}

#[tokio::test]
async fn a_refused_batch_may_be_tried_again_under_its_key() {
    let world = world(5).await;
    let body = json!({"items": [item(10), item(20)]});
    assert_eq!(statuses(&world.post_keyed(&caller(1), BATCH, "k", &body).await.expect(200)), [402, 402]);
    world.grant(Payer::User(user(1)), 100).await;
    let done = world.post_keyed(&caller(1), BATCH, "k", &body).await.expect(200);
    assert_eq!((statuses(&done), done.is_replay()), (vec![200, 200], false));
}

#[tokio::test]
async fn a_single_consume_takes_no_key_in_its_body() {
    let world = world(100).await;
    let refused = world.consume(&caller(1), &keyed(1, "k")).await.expect_problem(400, "validation_failed");
    assert_eq!(refused.body["errors"][0]["field"], "idempotencyKey");
}

#[tokio::test]
async fn a_batch_asks_the_buckets_once_and_in_its_order() {
    let world = world(5_000).await;
    let answer = send(&world, &[item(600), item(500), item(300), item(1_001), item(100), item(1)]).await.expect(200);
    assert_eq!(statuses(&answer), [200, 429, 200, 429, 200, 429]);
    assert_eq!((world.buckets.takes.load(Ordering::SeqCst), world.buckets.total()), (1, 1_000));
    assert_eq!((&answer.body["results"][2]["used"], &answer.body["results"][4]["used"]), (&json!(900), &json!(1_000)));
}

#[tokio::test]
async fn a_batch_after_the_buckets_were_lost_restores_them_once() {
    let world = world(5_000).await;
    world.consume(&caller(1), &item(400)).await.expect(200);
    world.buckets.forget();
    let answer = send(&world, &[item(500), item(200), item(100)]).await.expect(200);
    assert_eq!(statuses(&answer), [200, 429, 200]);
    assert_eq!((world.buckets.restores.load(Ordering::SeqCst), world.buckets.total()), (1, 1_000));
}
