//! Usage that already happened, told as CloudEvents.

use crate::{fakes::Fault, world::*};
use axum::{body::Body, http::Request};
use domain::{access::Caller, ids::Payer};
use serde_json::{Value, json};
use std::sync::Arc;

const EVENTS: &str = "/api/v1/events";
const TYPE: &str = "com.example.tokens";

fn event(id: &str, tokens: i64) -> Value {
    let data = json!({"provider": "openai", "model": "gpt-4o", "tokens": tokens});
    json!({"specversion": "1.0", "id": id, "source": "/batch/1", "type": TYPE, "time": "2026-11-21T11:00:00Z", "data": data})
}

async fn send(world: &World, caller: &Caller, content_type: &str, body: impl Into<Body>) -> Answer {
    let request = Request::post(EVENTS).header("content-type", content_type).extension(Arc::new(caller.clone()));
    world.send(request.body(body.into()).unwrap()).await
}

async fn single(world: &World, event: &Value) -> Answer {
    send(world, &caller(1), "application/cloudevents+json", event.to_string()).await
}

/// The answers to the lines, and the summary.
async fn lines(world: &World, text: String) -> (Vec<Value>, Value) {
    let answer = send(world, &caller(1), "application/x-ndjson", text).await.expect(200);
    assert_eq!(answer.header("content-type"), Some("application/x-ndjson"));
    let text = String::from_utf8(answer.bytes).unwrap();
    let mut answers: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let last = answers.pop().unwrap();
    (answers, last)
}

fn results(answers: &[Value]) -> Vec<&str> {
    answers.iter().map(|answer| answer["result"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn an_event_is_booked_at_its_time_and_known_when_it_is_told_again() {
    let world = World::new();
    world.grant(Payer::User(user(1)), 100).await;
    let first = single(&world, &event("a", 30)).await.expect(200);
    assert_eq!((&first.body["result"], &first.body["id"], &first.body["source"]), (&json!("accepted"), &json!("a"), &json!("/batch/1")));
    let again = single(&world, &event("a", 30)).await.expect(200);
    assert_eq!((&again.body["result"], &again.body["chargeId"]), (&json!("duplicate"), &first.body["chargeId"]));
    let conflict = single(&world, &event("a", 31)).await.expect_problem(409, "conflict");
    assert_eq!(conflict.body["result"], "conflict");
    let id = first.body["chargeId"].as_str().unwrap();
    let charge = world.get(&caller(1), &format!("/api/v1/tokens/charges/{id}")).await.expect(200).body;
    assert_eq!((&charge["settled"], &charge["createdAt"]), (&json!(30), &json!("2026-11-21T11:00:00.000Z")));
    assert_eq!((world.remaining(Payer::User(user(1))), world.buckets.total()), (70, 0), "it happened: no bucket is asked");
}

#[tokio::test]
async fn the_attributes_may_be_in_the_headers() {
    let world = World::new();
    let request = Request::post(EVENTS)
        .header("content-type", "application/json")
        .header("ce-specversion", "1.0")
        .header("ce-id", "a")
        .header("ce-source", "/batch/1")
        .header("ce-type", TYPE)
        .header("ce-time", "2026-11-21T11:00:00Z")
        .extension(Arc::new(caller(1)));
    let body = json!({"provider": "openai", "model": "gpt-4o", "tokens": 30}).to_string();
    let binary = world.send(request.body(body.into()).unwrap()).await.expect(200);
    let structured = single(&world, &event("a", 30)).await.expect(200);
    assert_eq!((&structured.body["result"], &structured.body["chargeId"]), (&json!("duplicate"), &binary.body["chargeId"]));
}

#[tokio::test]
async fn each_event_of_a_batch_is_answered_by_itself() {
    let world = World::new();
    let mut foreign = event("foreign", 1);
    foreign["data"]["userId"] = json!(user(2));
    let mut future = event("future", 1);
    future["time"] = json!("2026-11-21T12:06:00Z");
    let mut ancient = event("ancient", 1);
    ancient["time"] = json!("2025-10-01T00:00:00Z");
    let events = json!([event("a", 5), event("a", 5), event("a", 6), json!(7), foreign, future, ancient, event("b", 0), event("c", 2)]);
    for content_type in ["application/cloudevents-batch+json", "application/json"] {
        let world = World::new();
        let answer = send(&world, &caller(1), content_type, events.to_string()).await.expect(200);
        let answers = answer.body["results"].as_array().unwrap();
        let statuses: Vec<u64> = answers.iter().map(|answer| answer["status"].as_u64().unwrap()).collect();
        assert_eq!(statuses, [200, 200, 409, 400, 403, 400, 400, 400, 200], "{answer:#?}", answer = answer.body);
        assert_eq!(results(answers)[..4], ["accepted", "duplicate", "conflict", "refused"]);
        assert_eq!((&answers[2]["id"], &answers[2]["code"]), (&json!("a"), &json!("conflict")));
        assert_eq!(world.ledger.charge_count(), 2);
    }
    let many: Vec<Value> = (0..1_001).map(|number| event(&number.to_string(), 1)).collect();
    let refused = send(&world, &caller(1), "application/json", json!(many).to_string()).await.expect_problem(400, "validation_failed");
    assert!(refused.body["message"].as_str().unwrap().contains("1000"));
    assert_eq!(world.ledger.charge_count(), 0);
}

#[tokio::test]
async fn lines_are_answered_one_by_one_with_a_summary() {
    let world = World::new();
    let mut text: String = (0..600).map(|number| format!("{}\n", event(&number.to_string(), 1))).collect();
    text.push_str("{\n\n");
    text.push_str(&format!("{}\n{}", event("7", 1), event("8", 2)));
    let (answers, end) = lines(&world, text).await;
    assert_eq!(answers.len(), 603);
    assert_eq!(results(&answers[..600]), ["accepted"; 600]);
    assert_eq!(results(&answers[600..]), ["refused", "duplicate", "conflict"]);
    let places: Vec<u64> = answers[599..].iter().map(|answer| answer["line"].as_u64().unwrap()).collect();
    assert_eq!(places, [600, 601, 603, 604], "blank lines are counted but not answered");
    assert_eq!(end["summary"], json!({"lines": 603, "accepted": 600, "duplicates": 1, "conflicts": 1, "refused": 1, "failed": 0}));
    assert_eq!(world.ledger.charge_count(), 600);
}

#[tokio::test]
async fn a_line_of_10_mb_is_refused_and_the_others_are_booked() {
    let world = World::new();
    let text = format!("{}\n{}\n{}\n", event("a", 1), "x".repeat(10_000_000), event("b", 1));
    let (answers, end) = lines(&world, text).await;
    assert_eq!(results(&answers), ["accepted", "refused", "accepted"]);
    assert_eq!((&answers[1]["status"], &answers[1]["code"]), (&json!(413), &json!("payload_too_large")));
    assert_eq!((&end["summary"]["accepted"], world.ledger.charge_count()), (&json!(2), 2));
}

#[tokio::test]
async fn lines_stop_where_the_ledger_is_away_and_may_be_sent_again() {
    let world = World::new();
    let text: String = (0..10).map(|number| format!("{}\n", event(&number.to_string(), 1))).collect();
    world.ledger.fail_next(&[Fault::Unavailable]);
    let (answers, end) = lines(&world, text.clone()).await;
    assert_eq!(results(&answers), ["failed"; 10]);
    assert_eq!(end["problem"]["code"], "unavailable");
    let (answers, end) = lines(&world, text).await;
    assert_eq!((results(&answers), &end["problem"]), (vec!["accepted"; 10], &Value::Null));
}

#[tokio::test]
async fn a_name_belongs_to_its_payer() {
    let world = World::new();
    let one = single(&world, &event("a", 1)).await.expect(200);
    let other = send(&world, &caller(2), "application/json", event("a", 2).to_string()).await.expect(200);
    assert_eq!((&one.body["result"], &other.body["result"]), (&json!("accepted"), &json!("accepted")));
    assert_ne!(one.body["chargeId"], other.body["chargeId"]);
    // The subject names the user where the data does not; an administrator tells for everyone.
    let mut subject = event("a", 1);
    subject["subject"] = json!(user(1));
    let told = send(&world, &admin(), "application/json", subject.to_string()).await.expect(200);
    assert_eq!((&told.body["result"], &told.body["chargeId"]), (&json!("duplicate"), &one.body["chargeId"]));
}

#[tokio::test]
async fn what_is_no_event_is_refused() {
    let world = World::new();
    send(&world, &caller(1), "text/plain", "x").await.expect_problem(415, "unsupported_media_type");
    send(&world, &caller(1), "application/cloudevents-batch+json", "{}").await.expect_problem(400, "validation_failed");
    send(&world, &caller(1), "application/json", "[]").await.expect_problem(400, "validation_failed");
    send(&world, &caller(1), "application/json", "").await.expect_problem(400, "validation_failed");
    let (answers, end) = lines(&world, String::new()).await;
    assert_eq!((answers.len(), &end["summary"]["lines"]), (0, &json!(0)));
    let reader = Caller { scopes: [domain::access::Scope::TokensRead].into(), ..caller(1) };
    send(&world, &reader, "application/json", event("a", 1).to_string()).await.expect_problem(403, "forbidden");
}
