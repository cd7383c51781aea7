//! What is wrong gets its status and code, changes nothing and leaves nothing behind in any store.

use crate::harness::{Process, Setup, World};
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

const CONSUME: &str = "/api/v1/tokens/consume";

/// A body as sent, and what must come back: status, code, and the field or text that the answer must name.
struct Case {
    body: String,
    content_type: &'static str,
    status: u16,
    code: &'static str,
    names: &'static str,
}

fn case(body: impl ToString, status: u16, code: &'static str, names: &'static str) -> Case {
    Case { body: body.to_string(), content_type: "application/json", status, code, names }
}

fn consume_cases(user: Uuid) -> Vec<Case> {
    let with = |field: &str, value: Value| {
        let mut body = json!({"userId": user, "provider": "openai", "tokens": 1});
        body[field] = value;
        body
    };
    let raw = |tokens: &str| format!(r#"{{"userId":"{user}","provider":"openai","tokens":{tokens}}}"#);
    let invalid = "validation_failed";
    let many: serde_json::Map<String, Value> = (0..17).map(|n| (format!("k{n}"), json!("v"))).collect();
    vec![
        case("", 400, invalid, ""),
        case("{", 400, invalid, ""),
        case("[]", 400, invalid, ""),
        case("null", 400, invalid, ""),
        case(format!("{} trailing", raw("1")), 400, invalid, ""),
        case(format!(r#"{{"userId":"{user}","provider":"openai","tokens":1,"tokens":2}}"#), 400, invalid, "tokens"),
        case(with("tokens", json!(0)), 400, invalid, "tokens must be positive"),
        case(with("tokens", json!(-5)), 400, invalid, "tokens must be positive"),
        case(raw("1.5"), 400, invalid, "tokens"),
        case(raw("1.0"), 400, invalid, "tokens"),
        case(raw("1e3"), 400, invalid, "tokens"),
        case(raw("9007199254740992"), 400, invalid, "tokens"),
        case(raw("99999999999999999999999"), 400, invalid, "tokens"),
        case(raw("NaN"), 400, invalid, ""),
        case(with("tokens", json!("7")), 400, invalid, "tokens"),
        case(with("tokens", Value::Null), 400, invalid, "tokens"),
        case(json!({"userId": user, "provider": "openai"}), 400, invalid, "tokens"),
        case(with("userId", json!("")), 400, invalid, "userId is required"),
        case(with("userId", json!("not-a-uuid")), 400, invalid, "invalid userId"),
        case(with("userId", json!(7)), 400, invalid, "userId"),
        case(with("orgId", json!("not-a-uuid")), 400, invalid, "invalid orgId"),
        case(with("provider", json!("  ")), 400, invalid, "provider is required"),
        case(json!({"userId": user, "tokens": 1}), 400, invalid, "provider"),
        case(with("provider", json!("acme")), 400, invalid, "openai"),
        case(with("provider", json!("open\nai")), 400, invalid, "provider"),
        case(with("token", json!(1)), 400, invalid, "tokens"),
        case(with("metadata", json!({"k": 1})), 400, invalid, "metadata"),
        case(with("metadata", json!({"k": "x".repeat(513)})), 400, invalid, "metadata"),
        case(with("metadata", Value::Object(many)), 400, invalid, "metadata"),
        Case { content_type: "text/plain", ..case(raw("1"), 415, "unsupported_media_type", "") },
        Case { content_type: "application/x-www-form-urlencoded", ..case("tokens=1", 415, "unsupported_media_type", "") },
        case(with("metadata", json!({"k": "x".repeat(3 << 20)})), 413, "payload_too_large", "limitBytes"),
    ]
}

async fn bad_bodies_are_refused(process: &Process, user: Uuid) {
    for case in consume_cases(user) {
        let answer = process.client().post_bytes(CONSUME, case.body.clone().into(), &[("content-type", case.content_type)]).await;
        let shown = &case.body[..case.body.len().min(100)];
        assert_eq!((answer.status.as_u16(), &answer.body["code"]), (case.status, &json!(case.code)), "{shown}: {:#}", answer.body);
        assert!(answer.body.to_string().contains(case.names), "{shown} does not name {}: {:#}", case.names, answer.body);
        assert!(answer.headers.contains_key("x-correlation-id"));
    }
}

async fn bad_credentials_are_refused(process: &Process, user: Uuid) {
    let admin = process.client();
    let body = json!({"userId": user, "provider": "openai", "tokens": 1});
    let revoked = admin.post("/api/v1/auth/api-keys", json!({"userId": user})).await.expect(201);
    admin.delete(&format!("/api/v1/auth/api-keys?userId={user}&apiKeyId={}", revoked.str("id"))).await.expect(204);
    let soon = chrono::Utc::now() + chrono::TimeDelta::milliseconds(1_500);
    let expiring =
        admin.post("/api/v1/auth/api-keys", json!({"userId": user, "expiresAt": soon.to_rfc3339()})).await.expect(201).str("apiKey");
    admin.with_key(&expiring).post(CONSUME, json!({"userId": user, "provider": "openai", "tokens": 0})).await.expect(400);
    let mut forged = revoked.str("apiKey");
    forged.pop();
    let forged = format!("{forged}0");
    let long = format!("weir_{}", "a".repeat(4_000));
    tokio::time::sleep(std::time::Duration::from_millis(2_000)).await;
    for key in ["", "weir_", "nonsense", &revoked.str("apiKey"), &expiring, &forged, &long] {
        let refused = admin.with_key(key).post(CONSUME, body.clone()).await.expect(401);
        assert_eq!((refused.header("www-authenticate"), &refused.body["code"]), ("Bearer", &json!("unauthenticated")));
    }
    for header in [("authorization", "Bearer eyJhbGciOiJub25lIn0.e30."), ("authorization", "Basic YTpi"), ("x-goog-api-key", "weir_x")] {
        admin.with_key("").send(Method::POST, CONSUME, Some(&body), &[header]).await.expect(401);
    }
    let past = json!({"userId": user, "expiresAt": "2020-01-01T00:00:00Z"});
    assert_eq!(admin.post("/api/v1/auth/api-keys", past).await.expect(400).body["code"], "validation_failed");
}

async fn foreign_things_are_refused(process: &Process, user: Uuid) {
    let admin = process.client();
    let stranger = admin.key_for(Uuid::new_v4(), None).await;
    stranger.post(CONSUME, json!({"userId": user, "provider": "openai", "tokens": 1})).await.expect(403);
    stranger.post(CONSUME, json!({"userId": Uuid::new_v4(), "provider": "openai", "tokens": 1})).await.expect(403);
    let own = stranger.get(&format!("/api/v1/tokens/quota?userId={user}&provider=openai")).await.expect(404);
    let none = stranger.get(&format!("/api/v1/tokens/quota?userId={}&provider=openai", Uuid::new_v4())).await.expect(404);
    assert_eq!(own.body["message"], none.body["message"]);
    stranger.post("/api/v1/auth/api-keys", json!({"userId": user})).await.expect(403);
    for (path, body) in [
        ("/api/v1/admin/pools/grant", json!({"userId": user, "provider": "openai", "tokens": 1, "reason": "x"})),
        ("/api/v1/admin/audit", json!({})),
    ] {
        let refused = stranger.post(path, body).await.expect(403);
        assert_eq!(refused.body["requiredScope"], "admin");
    }
    stranger.put("/api/v1/admin/limits/user-default", json!({"scope": "USER", "capacity": 1, "leakRatePerSecond": 1})).await.expect(403);
    stranger.put(&format!("/api/v1/admin/users/{user}/tier"), json!({"tier": "ADMIN"})).await.expect(403);
}

async fn bad_administration_is_refused(process: &Process, user: Uuid) {
    let admin = process.client();
    let grant = |tokens: Value| json!({"userId": user, "provider": "openai", "tokens": tokens, "reason": "x"});
    for tokens in [json!(0), json!(-1), json!(9_007_199_254_740_992_i64), json!("1"), json!(1.5)] {
        admin.post("/api/v1/admin/pools/grant", grant(tokens)).await.expect(400);
    }
    let pool = |field: &str, value: Value| {
        let mut body = json!({"userId": user, "provider": "openai", "allowance": 10, "period": "DAY", "timeZone": "UTC"});
        body[field] = value;
        body
    };
    for (field, value) in [
        ("period", json!("YEAR")),
        ("timeZone", json!("Mars/Olympus")),
        ("allowance", json!(-1)),
        ("provider", json!("acme")),
        ("userId", json!("x")),
        ("orgId", json!(Uuid::new_v4())),
        ("colour", json!("red")),
    ] {
        admin.put("/api/v1/admin/pools", pool(field, value)).await.expect(400);
    }
    let limit = json!({"scope": "USER", "algorithm": "LEAKY_BUCKET", "capacity": 1, "leakRatePerSecond": 1});
    for (field, value) in [
        ("scope", json!("PLANET")),
        ("capacity", json!(0)),
        ("capacity", json!(9_007_199_254_740_991_i64)),
        ("leakRatePerSecond", json!(0)),
        ("leakRatePerSecond", json!(-1)),
        ("leakRatePerSecond", json!(0.0001)),
        ("algorithm", json!("DICE")),
        ("onOutage", json!("MAYBE")),
    ] {
        let mut body = limit.clone();
        body[field] = value;
        let refused = admin.put("/api/v1/admin/limits/x", body).await.expect(400);
        assert!(refused.body.to_string().contains(field), "{field}: {:#}", refused.body);
    }
    admin.put(&format!("/api/v1/admin/users/{user}/tier"), json!({"tier": "NO SUCH"})).await.expect(400);
    admin.get("/api/v1/admin/tiers/none").await.expect(404);
    admin.get("/api/v1/tokens/charges/not-a-uuid").await.expect(400);
    admin.get("/api/v1/tokens/nothing-here").await.expect(404);
    admin.send(Method::PUT, CONSUME, Some(&json!({})), &[]).await.expect(405);
    let long_key = "k".repeat(256);
    let body = json!({"userId": user, "provider": "openai", "tokens": 1});
    for key in ["", &long_key] {
        admin.send(Method::POST, CONSUME, Some(&body), &[("idempotency-key", key)]).await.expect(400);
    }
}

fn audited_events(setup: &Setup) -> i64 {
    let output = setup.run(&["audit", "--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    assert_eq!(report["clean"], true, "{report:#}");
    report["checkedEvents"].as_i64().unwrap()
}

async fn nothing_is_left_behind(setup: &Setup) {
    let process = setup.start();
    let user = Uuid::new_v4();
    let admin = process.client();
    admin
        .post("/api/v1/admin/pools/grant", json!({"userId": user, "provider": "openai", "tokens": 100, "reason": "test"}))
        .await
        .expect(201);
    let quota = format!("/api/v1/tokens/quota?userId={user}&provider=openai");
    let before = (admin.get(&quota).await.expect(200).body, audited_events(setup));
    bad_bodies_are_refused(&process, user).await;
    bad_credentials_are_refused(&process, user).await;
    foreign_things_are_refused(&process, user).await;
    bad_administration_is_refused(&process, user).await;
    let after = (admin.get(&quota).await.expect(200).body, audited_events(setup));
    for field in ["remainingTokens", "totalTokens", "held", "debt"] {
        assert_eq!(before.0[field], after.0[field], "{field}");
    }
    assert_eq!(before.0["buckets"][0]["used"], after.0["buckets"][0]["used"]);
    assert_eq!(before.1, after.1, "a refused request left an event behind");
}

#[tokio::test]
async fn nothing_is_left_behind_in_the_embedded_stores() {
    let data = tempfile::tempdir().unwrap();
    nothing_is_left_behind(&Setup::embedded(data.path())).await;
}

#[tokio::test]
async fn nothing_is_left_behind_on_the_real_servers() {
    let data = tempfile::tempdir().unwrap();
    let world = World::new();
    world.migrate(data.path());
    nothing_is_left_behind(&Setup::distributed(data.path(), &world)).await;
}
