//! What a consume would be answered, without asking for it.

use crate::world::*;
use domain::ids::Payer;
use serde_json::{Value, json};

const PREVIEW: &str = "/api/v1/tokens/preview";

fn body(tokens: i64) -> Value {
    json!({"provider": "openai", "model": "gpt-4o", "tokens": tokens})
}

/// Fields that a request of its own has and a preview of it has not, or the other way round.
fn without(mut value: Value, names: &[&str]) -> Value {
    names.iter().for_each(|name| drop(value.as_object_mut().unwrap().remove(*name)));
    value
}

#[tokio::test]
async fn a_preview_is_what_the_consume_is_then_answered() {
    let world = World::new();
    world.grant(Payer::User(user(1)), 5_000).await;
    for tokens in [400, 400, 400, 200, 1_001] {
        let told = world.post(&caller(1), PREVIEW, &body(tokens)).await.expect(200).body;
        let done = world.consume(&caller(1), &body(tokens)).await;
        assert_eq!(told["status"], done.status.as_u16(), "{tokens}");
        assert_eq!(told["allowed"], json!(done.status == 200));
        let extra = ["status", "chargeId", "providerResponse", "timestamp"];
        assert_eq!(without(told, &extra), without(done.body, &extra), "{tokens}");
    }
}

#[tokio::test]
async fn a_preview_changes_and_counts_nothing() {
    let world = World::new();
    world.grant(Payer::User(user(1)), 100).await;
    for tokens in [50, 101, 5_000] {
        world.post(&caller(1), PREVIEW, &body(tokens)).await.expect(200);
    }
    let told = world.post(&caller(1), PREVIEW, &body(101)).await.expect(200).body;
    assert_eq!(
        (&told["allowed"], &told["status"], &told["code"], &told["remaining"]),
        (&json!(false), &json!(402), &json!("quota_exhausted"), &json!(100))
    );
    assert_eq!((world.buckets.total(), world.remaining(Payer::User(user(1))), world.ledger.charge_count()), (0, 100, 0));
    world.tasks.shutdown(std::time::Duration::from_secs(10)).await;
    assert_eq!(world.ledger.events().len(), 1, "the grant alone: no refusal was counted");
}

#[tokio::test]
async fn a_preview_is_refused_like_the_request_itself() {
    let world = World::new();
    let foreign = json!({"userId": user(2), "provider": "openai", "tokens": 1});
    world.post(&caller(1), PREVIEW, &foreign).await.expect_problem(403, "forbidden");
    world.post(&caller(1), PREVIEW, &body(0)).await.expect_problem(400, "validation_failed");
    let empty = world.post(&caller(1), PREVIEW, &body(1)).await.expect(200).body;
    assert_eq!((&empty["status"], &empty["remaining"]), (&json!(402), &json!(0)), "there is no pool");
}
