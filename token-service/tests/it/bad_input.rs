//! Every row of bad input: its status, its words, and no trace of it in any store.

use crate::world::*;
use axum::{
    body::Body,
    http::{Request, StatusCode},
};
use domain::{access::Scope, ids::Payer, settings::Settings};
use serde_json::json;
use std::sync::Arc;

const CONSUME: &str = "/api/v1/tokens/consume";

/// A world in which everything would be allowed, were it well formed.
async fn world() -> World {
    let mut settings = Settings::default();
    let gemini = settings.providers.iter_mut().find(|(name, _)| name.as_str() == "gemini").unwrap().1;
    gemini.models = vec![domain::ids::Model::parse("gemini-2.0-flash").unwrap()];
    let world = World::with(settings);
    world.grant(Payer::User(user(1)), 1_000).await;
    world
}

fn raw(path: &str, body: &str) -> Request<Body> {
    Request::post(path).header("content-type", "application/json").extension(Arc::new(caller(1))).body(Body::from(body.to_owned())).unwrap()
}

#[track_caller]
fn assert_no_trace(world: &World) {
    assert_eq!(world.ledger.charge_count(), 0);
    assert_eq!(world.ledger.claim_count(), 0);
    assert_eq!(world.ledger.events().len(), 1, "the grant");
    assert!(world.buckets.keys().is_empty());
}

#[tokio::test]
async fn each_malformed_consume_is_refused_by_name() {
    let world = world().await;
    let id = user(1);
    let cases: Vec<(String, &str, &str)> = vec![
        ("".into(), "body", "the body is empty"),
        ("{".into(), "body", "malformed JSON"),
        ("[]".into(), "", ""),
        (r#"{"userId":" ","provider":"","tokens":0}"#.into(), "userId", "userId is required"),
        (r#"{"userId":"x","provider":" ","tokens":0}"#.into(), "provider", "provider is required"),
        (r#"{"userId":"x","tokens":0}"#.into(), "provider", "provider is required"),
        (r#"{"userId":"x","provider":"nope","tokens":0}"#.into(), "tokens", "tokens must be positive"),
        (r#"{"userId":"x","provider":"nope","tokens":-5}"#.into(), "tokens", "tokens must be positive"),
        (r#"{"provider":"openai"}"#.into(), "tokens", "tokens must be positive"),
        (r#"{"userId":"x","orgId":"y","provider":"nope","tokens":1}"#.into(), "userId", "invalid userId"),
        (format!(r#"{{"userId":"{{{id}}}","provider":"openai","tokens":1}}"#), "userId", "invalid userId"),
        (r#"{"orgId":"y","provider":"nope","tokens":1}"#.into(), "orgId", "invalid orgId"),
        (r#"{"provider":"nope","tokens":1}"#.into(), "provider", "provider is unknown"),
        (r#"{"provider":"open ai","tokens":1}"#.into(), "provider", "provider is unknown"),
        (r#"{"provider":"gemini","tokens":1,"model":"gpt-4o"}"#.into(), "model", "model is not one of the provider gemini"),
        (r#"{"provider":"openai","tokens":1,"model":" "}"#.into(), "model", "model is blank"),
        (r#"{"provider":"openai","tokens":9007199254740992}"#.into(), "tokens", "tokens must be at most 9007199254740991"),
        (r#"{"provider":"openai","tokens":9223372036854775808}"#.into(), "tokens", "tokens"),
        (r#"{"provider":"openai","tokens":1e400}"#.into(), "", ""),
        (r#"{"provider":"openai","tokens":1.0}"#.into(), "tokens", "tokens must be an integer"),
        (r#"{"provider":"openai","tokens":1.5}"#.into(), "tokens", "tokens must be an integer"),
        (r#"{"provider":"openai","tokens":1e3}"#.into(), "tokens", "tokens must be an integer"),
        (r#"{"provider":"openai","tokens":"1"}"#.into(), "tokens", "tokens must be an integer"),
        (r#"{"provider":"openai","tokens":true}"#.into(), "tokens", "tokens must be an integer"),
        (r#"{"provider":1,"tokens":1}"#.into(), "provider", "provider"),
        (r#"{"provider":"openai","tokens":1,"tokens":2}"#.into(), "tokens", "tokens is given twice"),
        (r#"{"provider":"openai","token":1}"#.into(), "token", "did you mean tokens?"),
        (r#"{"provider":"openai","tokens":1,"metadata":{"a":1}}"#.into(), "metadata.a", "metadata.a"),
        (format!(r#"{{"provider":"openai","tokens":1,"metadata":{{"a":"{}"}}}}"#, "é".repeat(257)), "metadata", "512 bytes"),
        (r#"{"provider":"openai","tokens":1,"metadata":{"a":"\u0000"}}"#.into(), "metadata", "U+0000"),
    ];
    for (body, field, message) in cases {
        let answer = world.send(raw(CONSUME, &body)).await.expect_problem(400, "validation_failed");
        let error = &answer.body["errors"][0];
        assert!(field.is_empty() || error["field"] == field, "{body}: {error}");
        assert!(error["message"].as_str().unwrap().contains(message), "{body}: {error}");
    }
    assert_no_trace(&world);
}

#[tokio::test]
async fn an_unknown_provider_or_model_names_the_known_ones() {
    let world = world().await;
    let provider = world.consume(&caller(1), &json!({"provider": "nope", "tokens": 1})).await.expect(400);
    assert_eq!(provider.body["allowed"], json!(["gemini", "openai", "qwen"]));
    let model = world.consume(&caller(1), &json!({"provider": "gemini", "model": "x", "tokens": 1})).await.expect(400);
    assert_eq!(model.body["errors"][0]["allowed"], json!(["gemini-2.0-flash"]));
}

#[tokio::test]
async fn wrong_transport_is_refused() {
    let world = world().await;
    let plain = Request::post(CONSUME).header("content-type", "text/plain").extension(Arc::new(caller(1)));
    world.send(plain.body(Body::from(r#"{"provider":"openai","tokens":1}"#)).unwrap()).await.expect_problem(415, "unsupported_media_type");
    let large = format!(r#"{{"provider":"openai","tokens":1,"prompt":"{}"}}"#, "x".repeat(2 * 1024 * 1024));
    let answer = world.send(raw(CONSUME, &large)).await.expect_problem(413, "payload_too_large");
    assert_eq!(answer.body["limitBytes"], 2 * 1024 * 1024);
    assert_no_trace(&world);
}

#[tokio::test]
async fn without_credentials_or_scope_nothing_is_even_read() {
    let world = world().await;
    let anonymous = Request::post(CONSUME).header("content-type", "application/json").body(Body::from("{")).unwrap();
    let answer = world.send(anonymous).await.expect_problem(401, "unauthenticated");
    assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
    let mut reader = caller(1);
    reader.scopes = [Scope::TokensRead].into();
    for path in [CONSUME, "/api/v1/tokens/reserve", "/api/v1/tokens/settle", "/api/v1/tokens/release"] {
        let answer = world.post(&reader, path, &json!({"malformed": true})).await.expect_problem(403, "forbidden");
        assert_eq!(answer.body["requiredScope"], "tokens:consume");
    }
    let mut spender = caller(1);
    spender.scopes = [Scope::TokensConsume].into();
    for path in ["/api/v1/tokens/quota", "/api/v1/tokens/charges"] {
        let answer = world.get(&spender, path).await.expect_problem(403, "forbidden");
        assert_eq!(answer.body["requiredScope"], "tokens:read");
    }
    let body = json!({"userId": user(1), "provider": "openai", "tokens": 5, "reason": "r"});
    let answer = world.post(&caller(1), "/api/v1/admin/pools/grant", &body).await.expect_problem(403, "forbidden");
    assert_eq!(answer.body["requiredScope"], "admin");
    assert_eq!(world.get(&caller(1), "/api/v1/admin/pools").await.status, StatusCode::FORBIDDEN);
    assert_eq!(world.put(&caller(1), "/api/v1/admin/pools", &body).await.status, StatusCode::FORBIDDEN);
    assert_no_trace(&world);
}

#[tokio::test]
async fn malformed_idempotency_keys_are_refused() {
    let world = world().await;
    let body = json!({"provider": "openai", "tokens": 1});
    let long = "k".repeat(256);
    for key in ["", " ", "a b", &long] {
        let answer = world.post_keyed(&caller(1), CONSUME, key, &body).await.expect_problem(400, "validation_failed");
        assert_eq!(answer.body["errors"][0]["field"], "Idempotency-Key", "{key:?}");
    }
    assert_no_trace(&world);
}

#[tokio::test]
async fn the_other_calls_name_their_wrong_fields_too() {
    let world = world().await;
    let charge = "0199aaaa-0000-7001-8000-000000000000";
    let posts = [
        ("/api/v1/tokens/reserve", json!({"provider": "openai", "tokens": 1, "ttlSeconds": 0}), "ttlSeconds"),
        ("/api/v1/tokens/reserve", json!({"provider": "openai", "tokens": 1, "ttlSeconds": 86_401}), "ttlSeconds"),
        ("/api/v1/tokens/reserve", json!({"provider": "openai", "tokens": 0}), "tokens"),
        ("/api/v1/tokens/reserve", json!({"provider": "openai", "tokens": 1, "prompt": "x"}), "prompt"),
        ("/api/v1/tokens/settle", json!({"tokens": 1}), "chargeId"),
        ("/api/v1/tokens/settle", json!({"chargeId": "x", "tokens": 1}), "chargeId"),
        ("/api/v1/tokens/settle", json!({"chargeId": charge}), "tokens"),
        ("/api/v1/tokens/settle", json!({"chargeId": charge, "tokens": -1}), "tokens"),
        ("/api/v1/tokens/settle", json!({"chargeId": charge, "tokens": 1_i64 << 53}), "tokens"),
        ("/api/v1/tokens/release", json!({"chargeId": ""}), "chargeId"),
    ];
    for (path, body, field) in posts {
        let answer = world.post(&caller(1), path, &body).await.expect_problem(400, "validation_failed");
        assert_eq!(answer.body["errors"][0]["field"], field, "{path} {body}");
    }
    let gets = [
        ("/api/v1/tokens/charges/not-a-uuid", "chargeId"),
        ("/api/v1/tokens/charges?limit=0", "limit"),
        ("/api/v1/tokens/charges?limit=201", "limit"),
        ("/api/v1/tokens/charges?limit=x", "limit"),
        ("/api/v1/tokens/charges?cursor=x", "cursor"),
        ("/api/v1/tokens/charges?from=yesterday", "from"),
        ("/api/v1/tokens/charges?userid=1", "userid"),
        ("/api/v1/tokens/charges?provider=nope", "provider"),
        ("/api/v1/tokens/quota?userId=&provider=", "userId"),
        ("/api/v1/tokens/quota?userId=x&provider=", "provider"),
        ("/api/v1/tokens/quota?userId=x&provider=openai", "userId"),
        ("/api/v1/tokens/quota?provider=nope", "provider"),
        ("/api/v1/tokens/quota/org?provider=openai", "orgId"),
        ("/api/v1/tokens/quota/org?orgId=x&provider=openai", "orgId"),
    ];
    for (path, field) in gets {
        let answer = world.get(&caller(1), path).await.expect_problem(400, "validation_failed");
        assert_eq!(answer.body["errors"][0]["field"], field, "{path}: {}", answer.body);
    }
    assert_no_trace(&world);
}

#[tokio::test]
async fn wrong_pools_are_refused_by_name() {
    let world = world().await;
    let (u, o) = (user(1), org(1));
    let puts = [
        (json!({"provider": "openai", "allowance": 1}), "userId"),
        (json!({"userId": u, "orgId": o, "provider": "openai", "allowance": 1}), "orgId"),
        (json!({"userId": "x", "provider": "openai", "allowance": 1}), "userId"),
        (json!({"userId": u, "allowance": 1}), "provider"),
        (json!({"userId": u, "provider": "nope", "allowance": 1}), "provider"),
        (json!({"userId": u, "provider": "openai"}), "allowance"),
        (json!({"userId": u, "provider": "openai", "allowance": -1}), "allowance"),
        (json!({"userId": u, "provider": "openai", "allowance": 1_i64 << 53}), "allowance"),
        (json!({"userId": u, "provider": "openai", "allowance": 1, "period": "day"}), "period"),
        (json!({"userId": u, "provider": "openai", "allowance": 1, "timeZone": "Mars/Olympus"}), "timeZone"),
        (json!({"userId": u, "provider": "openai", "allowance": 1, "timezone": "UTC"}), "timezone"),
    ];
    for (body, field) in puts {
        let answer = world.put(&admin(), "/api/v1/admin/pools", &body).await.expect_problem(400, "validation_failed");
        assert_eq!(answer.body["errors"][0]["field"], field, "{body}: {}", answer.body);
    }
    let grants = [
        (json!({"userId": u, "provider": "openai", "tokens": 0, "reason": "r"}), "tokens"),
        (json!({"userId": u, "provider": "openai", "reason": "r"}), "tokens"),
        (json!({"userId": u, "provider": "openai", "tokens": 1}), "reason"),
        (json!({"userId": u, "provider": "openai", "tokens": 1, "reason": "x".repeat(513)}), "reason"),
        // A thousand are there already: the sum would not be an exact JSON integer any more.
        (json!({"userId": u, "provider": "openai", "tokens": (1_i64 << 53) - 1, "reason": "r"}), "tokens"),
    ];
    for (body, field) in grants {
        let answer = world.post_keyed(&admin(), "/api/v1/admin/pools/grant", "k", &body).await.expect_problem(400, "validation_failed");
        assert_eq!(answer.body["errors"][0]["field"], field, "{body}: {}", answer.body);
    }
    assert_no_trace(&world);
}
