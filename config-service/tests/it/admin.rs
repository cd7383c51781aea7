//! Tiers, limits, providers and the history of their changes.

use crate::app::{App, user};
use axum::http::Method;
use serde_json::{Value, json};
use std::sync::atomic::Ordering;

const GOLD: &str = "/api/v1/admin/tiers/GOLD";
const SLOW: &str = "/api/v1/admin/limits/slow";
const ACME: &str = "/api/v1/admin/providers/acme";

fn tier() -> Value {
    json!({"priority": 30, "bucketCapacityMultiplier": 2.5, "bucketLeakRateMultiplier": 2})
}

fn limit() -> Value {
    json!({"scope": "USER", "provider": "openai", "algorithm": "LEAKY_BUCKET", "capacity": 100, "leakRatePerSecond": 0.5, "onOutage": "CLOSED"})
}

fn provider() -> Value {
    json!({"dialect": "OPENAI", "baseUrl": "https://api.acme.example/v1", "models": ["a", "b"], "defaultModel": "b", "timeoutMs": 5000})
}

fn with(mut body: Value, field: &str, value: Value) -> Value {
    body[field] = value;
    body
}

fn named(mut body: Value, name: &str) -> Value {
    body["name"] = json!(name);
    body
}

#[tokio::test]
async fn each_kind_is_created_read_replaced_listed_and_deleted() {
    let app = App::new().await;
    for (path, body, field, changed) in
        [(GOLD, tier(), "priority", json!(31)), (SLOW, limit(), "capacity", json!(7)), (ACME, provider(), "timeoutMs", json!(1))]
    {
        let (list, name) = path.rsplit_once('/').unwrap();
        app.get(path).await.refused(404, "not_found");
        assert_eq!(app.put(path, body.clone()).await.expect(201).body, named(body.clone(), name));
        assert_eq!(app.get(path).await.expect(200).body, named(body.clone(), name));
        let body = with(body, field, changed);
        assert_eq!(app.put(path, body.clone()).await.expect(200).body, named(body.clone(), name));
        let listed = app.get(list).await.expect(200).body;
        assert!(listed["items"].as_array().unwrap().contains(&named(body, name)), "{listed:#}");
        app.delete(path).await.expect(204);
        app.delete(path).await.refused(404, "not_found");
        app.get(path).await.refused(404, "not_found");
    }
    assert_eq!(app.store.document().version, 10, "each change is a version, a delete of nothing is none");
}

#[tokio::test]
async fn a_change_is_in_force_here_at_once_and_names_its_author() {
    let app = App::new().await;
    let administrator = domain::access::Caller { scopes: [domain::access::Scope::Admin].into(), ..user() };
    app.send(Some(&administrator), Method::PUT, GOLD, &[], Some(&tier())).await.expect(201);
    assert!(app.settings.current().tiers.contains_key("GOLD"));
    app.delete(GOLD).await.expect(204);
    let versions = app.get("/api/v1/admin/config/versions?limit=2").await.expect(200).body;
    assert_eq!(
        versions["items"][0],
        json!({"version": 3, "author": "bootstrap", "at": "2026-11-21T12:00:00.250Z", "change": {"change": "DELETE_TIER", "name": "GOLD"}})
    );
    assert_eq!(versions["items"][1]["author"], administrator.principal());
    assert_eq!(versions["items"][1]["change"]["tier"]["bucketCapacityMultiplier"], 2.5);
    app.get("/api/v1/admin/config/versions?limit=many").await.wrong("limit");
}

#[tokio::test]
async fn a_wrong_field_is_named_and_changes_nothing() {
    let app = App::new().await;
    let before = app.store.document();
    for (path, body, field) in [
        (GOLD, with(tier(), "priority", json!(-1)), "priority"),
        (GOLD, with(tier(), "priority", json!(1.5)), "priority"),
        (GOLD, with(tier(), "bucketCapacityMultiplier", json!(0)), "bucketCapacityMultiplier"),
        (GOLD, with(tier(), "bucketLeakRateMultiplier", json!(0.0001)), "bucketLeakRateMultiplier"),
        (GOLD, with(tier(), "bucketLeakRateMultiplier", json!("2")), "bucketLeakRateMultiplier"),
        (GOLD, with(tier(), "quotaMaxTokens", json!(-1)), "quotaMaxTokens"),
        (GOLD, with(tier(), "edgeRequestsPerWindow", json!(0)), "edgeRequestsPerWindow"),
        (GOLD, with(tier(), "colour", json!("gold")), "colour"),
        (GOLD, json!({"priority": 1}), "bucketCapacityMultiplier"),
        (SLOW, with(limit(), "scope", json!("PLANET")), "scope"),
        (SLOW, with(limit(), "capacity", json!(0)), "capacity"),
        (SLOW, with(limit(), "capacity", json!(9_007_199_254_740_991_i64)), "capacity"),
        (SLOW, with(limit(), "capacity", json!(1.0)), "capacity"),
        (SLOW, with(limit(), "leakRatePerSecond", json!(0)), "leakRatePerSecond"),
        (SLOW, with(limit(), "leakRatePerSecond", json!(-1)), "leakRatePerSecond"),
        (SLOW, with(limit(), "windowSeconds", json!(60)), "windowSeconds"),
        (SLOW, with(limit(), "leakRatePerSecond", json!(1_000_000)), "leakRatePerSecond"),
        (SLOW, json!({"scope": "USER", "algorithm": "TOKEN_BUCKET", "capacity": 1}), "leakRatePerSecond"),
        (SLOW, json!({"scope": "USER", "algorithm": "FIXED_WINDOW", "capacity": 1}), "windowSeconds"),
        (SLOW, json!({"scope": "USER", "algorithm": "SLIDING_WINDOW", "capacity": 1, "windowSeconds": 0}), "windowSeconds"),
        (SLOW, json!({"scope": "MODEL", "algorithm": "CONCURRENCY", "capacity": 1}), "scope"),
        (SLOW, json!({"scope": "KEY", "algorithm": "CONCURRENCY", "capacity": 1_000_000}), "capacity"),
        (SLOW, with(limit(), "onOutage", json!("MAYBE")), "onOutage"),
        (SLOW, with(limit(), "provider", json!("nobody")), "provider"),
        (SLOW, with(limit(), "provider", json!(" ")), "provider"),
        (ACME, with(provider(), "dialect", json!("KLINGON")), "dialect"),
        (ACME, with(provider(), "baseUrl", json!("file:///etc/passwd")), "baseUrl"),
        (ACME, with(provider(), "timeoutMs", json!(0)), "timeoutMs"),
        (ACME, with(provider(), "timeoutMs", json!(600_001)), "timeoutMs"),
        (ACME, with(provider(), "models", json!(["a", "a"])), "models"),
        (ACME, with(provider(), "defaultModel", json!("c")), "defaultModel"),
        (ACME, with(provider(), "apiKey", json!("secret")), "apiKey"),
    ] {
        app.put(path, body).await.wrong(field);
    }
    let refused = app.put(SLOW, with(limit(), "algorithm", json!("DICE"))).await.wrong("algorithm");
    let allowed = json!(["LEAKY_BUCKET", "TOKEN_BUCKET", "FIXED_WINDOW", "SLIDING_WINDOW", "CONCURRENCY"]);
    assert_eq!(refused.body["errors"][0]["allowed"], allowed);
    let refused = app.put(SLOW, with(limit(), "provider", json!("nobody"))).await.wrong("provider");
    assert_eq!(refused.body["allowed"], json!(["gemini", "openai", "qwen"]));
    for path in [
        "/api/v1/admin/tiers/a%20b",
        "/api/v1/admin/limits/a%0Ab",
        "/api/v1/admin/providers/%C3%BC",
        &format!("/api/v1/admin/tiers/{}", "x".repeat(51)),
    ] {
        let body = if path.contains("tiers") {
            tier()
        } else if path.contains("limits") {
            limit()
        } else {
            provider()
        };
        app.put(path, body).await.wrong("name");
        app.get(path).await.wrong("name");
        app.delete(path).await.wrong("name");
    }
    assert_eq!(app.store.document(), before);
}

#[tokio::test]
async fn what_others_rest_on_is_not_deleted() {
    let app = App::new().await;
    let refused = app.delete("/api/v1/admin/tiers/USER").await.refused(409, "conflict");
    assert!(refused.body["message"].as_str().unwrap().contains("default tier"));
    app.put(ACME, provider()).await.expect(201);
    app.put(SLOW, with(with(limit(), "provider", json!("ACME ")), "model", json!("A"))).await.expect(201);
    app.put("/api/v1/admin/limits/other", with(with(limit(), "provider", json!("acme")), "model", json!("z"))).await.wrong("model");
    assert!(app.delete(ACME).await.refused(409, "conflict").body["message"].as_str().unwrap().contains("slow"));
    app.delete(SLOW).await.expect(204);
    app.delete(ACME).await.expect(204);
}

#[tokio::test]
async fn only_an_administrator_sees_or_changes_settings() {
    let app = App::new().await;
    let before = app.store.document();
    for path in [
        GOLD,
        SLOW,
        ACME,
        "/api/v1/admin/tiers",
        "/api/v1/admin/limits",
        "/api/v1/admin/providers",
        "/api/v1/admin/config/versions",
        "/config/a/b",
        "/config/a/b/watch",
    ] {
        let methods = if path.rsplit('/').next().is_some_and(|last| ["GOLD", "slow", "acme"].contains(&last)) { 3 } else { 1 };
        for method in [Method::GET, Method::PUT, Method::DELETE].into_iter().take(methods) {
            // Refused before anyone looks at the body.
            let refused = app.send(Some(&user()), method.clone(), path, &[], Some(&json!("nonsense"))).await.refused(403, "forbidden");
            assert_eq!(refused.body["requiredScope"], "admin");
            app.send(None, method, path, &[], Some(&json!("nonsense"))).await.refused(401, "unauthenticated");
        }
    }
    assert_eq!(app.store.document(), before);
}

#[tokio::test]
async fn a_store_that_is_away_is_said_so_and_the_settings_stay() {
    let app = App::new().await;
    app.store.away.store(true, Ordering::SeqCst);
    for answer in [app.put(GOLD, tier()).await, app.get(GOLD).await, app.delete(GOLD).await, app.get("/api/v1/admin/config/versions").await]
    {
        let refused = answer.refused(503, "unavailable");
        assert_eq!((refused.headers["retry-after"].to_str().unwrap(), &refused.body["service"]), ("1", &json!("config-service")));
        assert!(!refused.body.to_string().contains("10.1.2.3"));
    }
    assert_eq!(app.settings.current().version, 1);
    app.get("/config/weir/default").await.expect(200);
    app.store.away.store(false, Ordering::SeqCst);
    app.put(GOLD, tier()).await.expect(201);
}
