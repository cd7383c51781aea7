//! Pools as administrators set them and as their owners see them.

use crate::world::*;
use domain::ids::Payer;
use serde_json::{Value, json};

const POOLS: &str = "/api/v1/admin/pools";

#[tokio::test]
async fn an_allowance_is_created_then_changed_and_usage_is_kept() {
    let world = World::new();
    let mut body = json!({"userId": user(1), "provider": "OpenAI", "allowance": 100, "period": "DAY", "timeZone": "Europe/Berlin"});
    let created = world.put(&admin(), POOLS, &body).await.expect(201);
    insta::assert_snapshot!(created.body.to_string(), @r#"{"allowance":100,"current":{"granted":100,"remaining":100,"resetsAt":"2026-11-21T23:00:00.000Z","startsAt":"2026-11-20T23:00:00.000Z"},"debt":0,"held":0,"period":"DAY","provider":"openai","purchased":{"granted":0,"remaining":0},"remainingTokens":100,"timeZone":"Europe/Berlin","totalTokens":100,"updatedAt":"2026-11-21T12:00:00.000Z","userId":"00000000-0000-0000-0000-000000000001"}"#);
    world.consume(&caller(1), &json!({"provider": "openai", "tokens": 60})).await.expect(200);
    body["allowance"] = json!(80);
    let changed = world.put(&admin(), POOLS, &body).await.expect(200);
    assert_eq!((&changed.body["remainingTokens"], &changed.body["current"]["granted"]), (&json!(20), &json!(80)));
}

#[tokio::test]
async fn purchased_tokens_are_not_renewed_and_the_allowance_is() {
    let world = World::new();
    world.put(&admin(), POOLS, &json!({"userId": user(1), "provider": "openai", "allowance": 100, "period": "DAY"})).await.expect(201);
    let grant = json!({"userId": user(1), "provider": "openai", "tokens": 50, "reason": "bought"});
    let granted = world.post(&admin(), "/api/v1/admin/pools/grant", &grant).await.expect(201);
    assert_eq!((&granted.body["totalTokens"], &granted.body["purchased"]), (&json!(150), &json!({"granted": 50, "remaining": 50})));
    world.consume(&caller(1), &json!({"provider": "openai", "tokens": 120})).await.expect(200);
    world.advance(86_400);
    let quota = world.get(&caller(1), &format!("/api/v1/tokens/quota?userId={}&provider=openai", user(1))).await.expect(200).body;
    insta::assert_snapshot!(quota.to_string(), @r#"{"allowance":{"granted":100,"period":"DAY","remaining":100,"resetsAt":"2026-11-23T00:00:00.000Z"},"buckets":[{"algorithm":"LEAKY_BUCKET","capacity":1000,"limit":"user-default","refillsAt":"2026-11-22T12:00:00.000Z","remaining":1000,"scope":"USER","used":0}],"debt":0,"held":0,"provider":"openai","purchased":{"remaining":30},"remainingTokens":130,"resetTime":"2026-11-23T00:00:00.000Z","totalTokens":150,"updatedAt":"2026-11-22T12:00:00.000Z","userId":"00000000-0000-0000-0000-000000000001"}"#);
    let stored = world.ledger.pool(&openai_pool(Payer::User(user(1))));
    assert_eq!(stored.remaining(), tokens(30), "reading opened no period");
}

#[tokio::test]
async fn the_owners_tier_caps_what_is_granted_and_never_what_was_bought() {
    let world = World::new();
    world.accounts.user_tiers.lock().unwrap().insert(user(1), "FREE".into());
    let grant = json!({"userId": user(1), "provider": "openai", "tokens": 900_000, "reason": "bought"});
    world.post(&admin(), "/api/v1/admin/pools/grant", &grant).await.expect(201);
    let allowance = json!({"userId": user(1), "provider": "openai", "allowance": 50_000, "period": "MONTH"});
    let pool = world.put(&admin(), POOLS, &allowance).await.expect(200);
    assert_eq!((&pool.body["allowance"], &pool.body["current"]["granted"]), (&json!(50_000), &json!(10_000)));
    assert_eq!(pool.body["purchased"]["remaining"], 900_000);
    world.consume(&caller(1), &json!({"provider": "openai", "tokens": 10})).await.expect(200);
    assert_eq!(world.remaining(Payer::User(user(1))), 909_990);
}

#[tokio::test]
async fn first_grants_at_once_make_one_pool() {
    let world = World::new();
    let grant = json!({"orgId": org(1), "provider": "openai", "tokens": 10, "reason": "r"});
    let answers = futures::future::join_all((0..32).map(|_| world.post(&admin(), "/api/v1/admin/pools/grant", &grant))).await;
    assert!(answers.iter().all(|answer| answer.status == 201));
    let list = world.get(&admin(), &format!("{POOLS}?orgId={}", org(1))).await.expect(200);
    assert_eq!((list.body["items"].as_array().unwrap().len(), &list.body["items"][0]["remainingTokens"]), (1, &json!(320)));
}

#[tokio::test]
async fn lists_come_in_pages() {
    let world = World::new();
    for number in 1..=5 {
        world.grant(Payer::User(user(number)), 1).await;
        world.grant(Payer::Org(org(number)), 1).await;
    }
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = world.get(&admin(), &format!("{POOLS}?provider=openai&limit=3{cursor}")).await.expect(200);
        seen.extend(page.body["items"].as_array().unwrap().clone());
        let Some(next) = page.body["nextCursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    let mut owners: Vec<String> = seen.iter().map(|pool| format!("{}{}", pool["userId"], pool["orgId"])).collect();
    owners.sort();
    owners.dedup();
    assert_eq!((seen.len(), owners.len()), (10, 10));
    world.get(&admin(), &format!("{POOLS}?cursor=zz")).await.expect_problem(400, "validation_failed");
    let none = world.get(&admin(), &format!("{POOLS}?userId={}", user(99))).await.expect(200);
    assert_eq!(none.body, json!({"items": []}));
}

#[tokio::test]
async fn a_quota_that_does_not_exist_is_404_and_status_needs_nobody() {
    let world = World::new();
    let missing = world.get(&caller(1), "/api/v1/tokens/quota?provider=openai").await.expect_problem(404, "not_found");
    assert_eq!(missing.body["message"], "quota not found");
    let request = axum::http::Request::get("/api/v1/tokens/status").body(axum::body::Body::empty()).unwrap();
    let status = world.send(request).await.expect(200);
    assert_eq!(status.body, json!({"service": "token-service", "status": "ok", "timestamp": "2026-11-21T12:00:00.000Z"}));
    let named = world.get(&admin(), "/api/v1/tokens/quota?provider=openai").await.expect(400);
    assert_eq!(named.body["message"], Value::from("userId is required"));
}
