//! The stream of a quota and the addresses of webhooks, without a network.

use crate::world::*;
use axum::body::Body;
use chrono::TimeDelta;
use domain::{access::Role, ids::Payer};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use std::time::Duration;

const STREAM: &str = "/api/v1/tokens/quota/stream?provider=openai";
const HOOKS: &str = "/api/v1/tokens/webhooks";

/// The next event of a stream as (event, id, data); heartbeats are passed over.
async fn next(body: &mut Body) -> (String, i64, Value) {
    loop {
        let frame = tokio::time::timeout(Duration::from_secs(10), body.frame()).await.expect("the stream tells").expect("it goes on");
        let text = String::from_utf8(frame.unwrap().into_data().unwrap().to_vec()).unwrap();
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        if let (Some(event), Some(id), Some(data)) = (field("event:"), field("id:"), field("data:")) {
            return (event.to_owned(), id.parse().unwrap(), serde_json::from_str(data).unwrap());
        }
    }
}

#[tokio::test]
async fn a_stream_tells_the_quota_at_once_and_again_with_each_change_of_its_payer() {
    let world = World::new();
    world.grant(Payer::User(user(1)), 100).await;
    let (status, mut stream) = world.open(&caller(1), STREAM, &[]).await;
    assert_eq!(status, 200);
    let (event, id, quota) = next(&mut stream).await;
    assert_eq!((event.as_str(), id, &quota["remainingTokens"]), ("quota", 1, &json!(100)));
    world.consume(&caller(1), &json!({"provider": "openai", "tokens": 30})).await.expect(200);
    let (event, id, quota) = next(&mut stream).await;
    assert_eq!((event.as_str(), id, &quota["remainingTokens"]), ("quota", 2, &json!(70)));
}

#[tokio::test]
async fn an_orgs_members_are_told_the_orgs_quota_and_strangers_nothing() {
    let world = World::new();
    world.accounts.join(org(1), user(2), Role::Member);
    world.accounts.join(org(1), user(1), Role::OrgAdmin);
    world.grant(Payer::Org(org(1)), 100).await;
    let path = format!("{STREAM}&orgId={}", org(1));
    let (_, mut stream) = world.open(&caller(2), &path, &[]).await;
    assert_eq!(next(&mut stream).await.2["remainingTokens"], 100);
    world.consume(&caller(1), &json!({"orgId": org(1), "provider": "openai", "tokens": 30})).await.expect(200);
    let (_, _, quota) = next(&mut stream).await;
    assert_eq!((&quota["orgId"], &quota["remainingTokens"]), (&json!(org(1)), &json!(70)));
    assert_eq!(world.open(&caller(3), &path, &[]).await.0, 404);
}

#[tokio::test]
async fn a_stream_that_is_taken_up_again_tells_the_thresholds_it_missed_first() {
    let world = World::new();
    world.grant(Payer::User(user(1)), 100).await;
    let budget = json!({"userId": user(1), "limit": 50, "period": "DAY", "thresholds": [{"percent": 50}, {"amount": 40}]});
    world.put(&admin(), "/api/v1/admin/budgets", &budget).await.expect(201);
    world.clock.advance(TimeDelta::milliseconds(1));
    world.consume(&caller(1), &json!({"provider": "openai", "tokens": 45})).await.expect(200);
    let (_, mut stream) = world.open(&caller(1), STREAM, &[("last-event-id", "2")]).await;
    let (first, second, third) = (next(&mut stream).await, next(&mut stream).await, next(&mut stream).await);
    let threshold = |told: &(String, i64, Value)| (told.0.clone(), told.1, told.2["threshold"]["threshold"].clone());
    assert_eq!(threshold(&first), ("threshold".into(), 4, json!("50%")));
    assert_eq!(threshold(&second), ("threshold".into(), 5, json!("40")));
    assert_eq!((third.0.as_str(), third.1, &third.2["remainingTokens"]), ("quota", 5, &json!(55)));
}

#[tokio::test]
async fn a_stream_is_refused_like_the_quota_itself() {
    let world = World::new();
    world.grant(Payer::User(user(1)), 100).await;
    assert_eq!(world.open(&caller(2), &format!("{STREAM}&userId={}", user(1)), &[]).await.0, 404);
    assert_eq!(world.open(&caller(2), STREAM, &[]).await.0, 404);
    assert_eq!(world.open(&caller(1), STREAM, &[("last-event-id", "never")]).await.0, 400);
    assert_eq!(world.open(&caller(1), "/api/v1/tokens/quota/stream", &[]).await.0, 400);
    assert_eq!(world.open(&caller(1), &format!("{STREAM}&userId={}&orgId={}", user(1), org(1)), &[]).await.0, 400);
}

#[tokio::test]
async fn a_webhook_belongs_to_its_payer_and_shows_its_secret_once() {
    let world = World::new();
    world.accounts.join(org(1), user(1), Role::OrgAdmin);
    world.accounts.join(org(1), user(2), Role::Member);
    let hook = json!({"orgId": org(1), "url": "https://example.com/hook"});
    let created = world.post(&caller(1), HOOKS, &hook).await.expect(201);
    assert!(created.body["secret"].as_str().unwrap().starts_with("whsec_"));
    let listed = world.get(&caller(1), &format!("{HOOKS}?orgId={}", org(1))).await.expect(200);
    assert_eq!(listed.body["items"][0]["webhookId"], created.body["webhookId"]);
    assert_eq!(listed.body["items"][0]["secret"], Value::Null);
    world.post(&caller(2), HOOKS, &hook).await.expect_problem(403, "forbidden");
    world.post(&caller(3), HOOKS, &hook).await.expect_problem(404, "not_found");
    for _ in 1..10 {
        world.post(&caller(1), HOOKS, &hook).await.expect(201);
    }
    world.post(&caller(1), HOOKS, &hook).await.expect_problem(409, "conflict");
}

#[tokio::test]
async fn a_webhook_inside_the_operators_network_is_refused() {
    let world = World::new();
    for url in ["http://example.com/", "https://10.0.0.1/", "https://[::1]/", "https://2852039166/latest/meta-data", ""] {
        let refused = world.post(&caller(1), HOOKS, &json!({"url": url})).await.expect_problem(400, "validation_failed");
        assert_eq!(refused.body["errors"][0]["field"], "url", "{url}");
    }
}
