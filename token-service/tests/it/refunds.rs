//! Refunds: what is given back to whom, who may ask, and when a refund is complete.

use crate::{fakes::Fault, world::*};
use domain::{access::Caller, ids::Payer};
use serde_json::{Value, json};

const REFUND: &str = "/api/v1/tokens/refund";

async fn spent(world: &World, who: &Caller, tokens: i64) -> Value {
    world.consume(who, &json!({"provider": "openai", "tokens": tokens})).await.expect(200).body["chargeId"].clone()
}

async fn saga(world: &World, who: &Caller, id: &Value) -> Answer {
    world.get(who, &format!("/api/v1/tokens/sagas/{}", id.as_str().unwrap())).await
}

async fn world() -> World {
    let world = World::new();
    world.grant(Payer::User(user(1)), 1_000).await;
    world
}

#[tokio::test]
async fn a_refund_is_accepted_told_as_a_saga_and_shown_with_its_charge() {
    let world = world().await;
    let charge = spent(&world, &caller(1), 300).await;
    world.advance(60);
    let body = json!({"chargeId": charge, "tokens": 100, "reason": "bad answer"});
    let accepted = world.post(&caller(1), REFUND, &body).await.expect(202);
    assert_eq!(accepted.body["chargeId"], charge);
    assert_eq!((&accepted.body["status"], &accepted.body["tokens"]), (&json!("BALANCE_RESTORED"), &json!(100)));
    assert_eq!(accepted.header("location"), Some(format!("/api/v1/tokens/sagas/{}", accepted.body["sagaId"].as_str().unwrap()).as_str()));
    assert_eq!(world.remaining(Payer::User(user(1))), 800);
    let told = saga(&world, &caller(1), &accepted.body["sagaId"]).await.expect(200).body;
    let at = "2026-11-21T12:01:00.000Z";
    let steps = json!([{"status": "REQUESTED", "at": at}, {"status": "BALANCE_RESTORED", "at": at}]);
    assert_eq!((&told["kind"], &told["steps"], &told["reason"]), (&json!("REFUND"), &steps, &json!("bad answer")));
    world.post(&caller(1), REFUND, &json!({"chargeId": charge})).await.expect(202);
    let id = charge.as_str().unwrap();
    let shown = world.get(&caller(1), &format!("/api/v1/tokens/charges/{id}")).await.expect(200).body;
    assert_eq!((&shown["status"], &shown["settled"], &shown["refunded"]), (&json!("REFUNDED"), &json!(300), &json!(300)));
    let explained = world.get(&caller(1), &format!("/api/v1/tokens/charges/{id}/explain")).await.expect(200).body;
    let events: Vec<_> = explained["events"].as_array().unwrap().iter().map(|event| (&event["type"], &event["tokens"])).collect();
    let refunded = json!("CHARGE_REFUNDED");
    assert_eq!(events, [(&json!("CHARGE_SETTLED"), &json!(300)), (&refunded, &json!(100)), (&refunded, &json!(200))]);
    assert_eq!(explained["events"][1]["sagaId"], explained["refunds"][0]["sagaId"]);
    let refunds: Vec<_> = explained["refunds"].as_array().unwrap().iter().map(|refund| (&refund["tokens"], &refund["status"])).collect();
    let waiting = json!("BALANCE_RESTORED");
    assert_eq!(refunds, [(&json!(100), &waiting), (&json!(200), &waiting)]);
    assert_eq!(explained["eventsComplete"], true);
}

#[tokio::test]
async fn it_is_completed_once_the_totals_have_counted_it_and_not_before() {
    let world = world().await;
    let charge = spent(&world, &caller(1), 300).await;
    let id = world.post(&caller(1), REFUND, &json!({"chargeId": charge})).await.expect(202).body["sagaId"].clone();
    let asked = || *world.downstream.asked.lock().unwrap();
    // Grant, charge, refund: the third event of the shard.
    for counted in [None, Some(2)] {
        *world.downstream.counted.lock().unwrap() = counted;
        let before = asked();
        eventually("another look", || asked() >= before + 2).await;
        assert_eq!(saga(&world, &caller(1), &id).await.expect(200).body["status"], "BALANCE_RESTORED");
    }
    world.advance(30);
    // A ledger that is away in between only delays it.
    world.ledger.fail_next(&[Fault::Unavailable, Fault::LostAfter]);
    *world.downstream.counted.lock().unwrap() = Some(3);
    eventually("the completion", || world.ledger.events().len() == 4).await;
    let told = saga(&world, &caller(1), &id).await.expect(200).body;
    let statuses: Vec<_> = told["steps"].as_array().unwrap().iter().map(|step| step["status"].as_str().unwrap()).collect();
    assert_eq!(statuses, ["REQUESTED", "BALANCE_RESTORED", "AGGREGATES_CORRECTED", "COMPLETED"]);
    assert_eq!((&told["status"], &told["steps"][3]["at"]), (&json!("COMPLETED"), &json!("2026-11-21T12:00:30.000Z")));
}

#[tokio::test]
async fn what_may_not_be_refunded_is_refused_and_changes_nothing() {
    let world = world().await;
    let charge = spent(&world, &caller(1), 300).await;
    let hold =
        world.post(&caller(1), "/api/v1/tokens/reserve", &json!({"provider": "openai", "tokens": 10})).await.expect(201).body["chargeId"]
            .clone();
    let refund = |body: Value| world.post(&caller(1), REFUND, &body);
    let held = refund(json!({"chargeId": hold})).await.expect_problem(422, "invalid_transition");
    assert_eq!(held.body["chargeStatus"], "HELD");
    world.post(&caller(1), "/api/v1/tokens/release", &json!({"chargeId": hold})).await.expect(200);
    let released = refund(json!({"chargeId": hold})).await.expect_problem(422, "invalid_transition");
    assert_eq!(released.body["chargeStatus"], "RELEASED");
    refund(json!({"chargeId": charge, "tokens": 100})).await.expect(202);
    let events = world.ledger.events().len();
    let above = refund(json!({"chargeId": charge, "tokens": 201})).await.expect_problem(422, "amount_exceeds_rest");
    assert_eq!(above.body["rest"], 200);
    for (tokens, words) in
        [(json!(0), "tokens must be positive"), (json!(-1), "tokens must be positive"), (json!(1.5), "tokens must be an integer")]
    {
        let refused = refund(json!({"chargeId": charge, "tokens": tokens})).await.expect_problem(400, "validation_failed");
        assert_eq!(refused.body["message"], words);
    }
    refund(json!({})).await.expect_problem(400, "validation_failed");
    refund(json!({"chargeId": "x"})).await.expect_problem(400, "validation_failed");
    refund(json!({"chargeId": charge, "reason": "x".repeat(513)})).await.expect_problem(400, "validation_failed");
    refund(json!({"chargeId": charge, "amount": 1})).await.expect_problem(400, "validation_failed");
    let foreign = world.post(&caller(2), REFUND, &json!({"chargeId": charge})).await.expect_problem(404, "not_found");
    let missing = json!({"chargeId": "01a1fdfa-4600-7037-8055-0293ac506ca9"});
    let missing = world.post(&caller(2), REFUND, &missing).await.expect_problem(404, "not_found");
    assert_eq!(foreign.body["message"], missing.body["message"]);
    assert_eq!(world.ledger.events().len(), events);
    refund(json!({"chargeId": charge})).await.expect(202);
    let again = refund(json!({"chargeId": charge})).await.expect_problem(422, "invalid_transition");
    assert_eq!(again.body["chargeStatus"], "REFUNDED");
    assert_eq!(world.remaining(Payer::User(user(1))), 1_000);
}

#[tokio::test]
async fn a_saga_is_shown_to_whom_its_charge_is_shown() {
    let world = world().await;
    let charge = spent(&world, &caller(1), 3).await;
    let id = world.post(&admin(), REFUND, &json!({"chargeId": charge})).await.expect(202).body["sagaId"].clone();
    saga(&world, &caller(1), &id).await.expect(200);
    saga(&world, &admin(), &id).await.expect(200);
    let foreign = saga(&world, &caller(2), &id).await.expect_problem(404, "not_found");
    let missing = saga(&world, &caller(2), &charge).await.expect_problem(404, "not_found");
    assert_eq!(foreign.body["message"], missing.body["message"]);
    saga(&world, &caller(1), &json!("x")).await.expect_problem(400, "validation_failed");
}

#[tokio::test]
async fn the_same_request_under_its_key_is_one_refund_whatever_is_lost() {
    let world = world().await;
    let charge = spent(&world, &caller(1), 300).await;
    let body = json!({"chargeId": charge, "tokens": 100});
    // The first answer of the ledger is lost after the commit; asked again, it is found done.
    world.ledger.fail_next(&[Fault::LostAfter]);
    let first = world.post_keyed(&caller(1), REFUND, "k", &body).await.expect(202);
    assert!(!first.is_replay());
    let again = world.post_keyed(&caller(1), REFUND, "k", &body).await.expect(202);
    assert!(again.is_replay());
    assert_eq!(again.body, first.body);
    world.post_keyed(&caller(1), REFUND, "k", &json!({"chargeId": charge})).await.expect_problem(422, "idempotency_mismatch");
    // Without a key the saga names it.
    world.ledger.fail_next(&[Fault::LostAfter]);
    world.post(&caller(1), REFUND, &body).await.expect(202);
    assert_eq!(world.remaining(Payer::User(user(1))), 900);
    // What was refused leaves its key free.
    let all = json!({"chargeId": charge, "tokens": 300});
    world.post_keyed(&caller(1), REFUND, "other", &all).await.expect_problem(422, "amount_exceeds_rest");
    world.post_keyed(&caller(1), REFUND, "other", &body).await.expect(202);
    assert_eq!(world.remaining(Payer::User(user(1))), 1_000);
}

#[tokio::test]
async fn refunds_that_race_never_give_back_more_than_was_settled() {
    let world = world().await;
    let charge = spent(&world, &caller(1), 300).await;
    let who = caller(1);
    let race = (0..20).map(|_| world.post(&who, REFUND, &json!({"chargeId": charge, "tokens": 70})));
    let answers = futures::future::join_all(race).await;
    let accepted = answers.iter().filter(|answer| answer.status == 202).count();
    assert_eq!(accepted, 4);
    assert!(answers.iter().filter(|answer| answer.status != 202).all(|answer| answer.body["rest"] == 20));
    assert_eq!(world.remaining(Payer::User(user(1))), 980);
}
