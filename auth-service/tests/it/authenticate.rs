//! From a secret to its owner.

use crate::app::{App, admin, member, user};
use axum::http::Method;
use chrono::TimeDelta;
use domain::access::Scope;
use serde_json::{Value, json};
use service_kit::identity::{self, Identity};
use std::sync::{Arc, atomic::Ordering};
use uuid::Uuid;

const KEYS: &str = "/api/v1/auth/api-keys";

#[tokio::test]
async fn a_key_stands_for_its_user_with_its_scopes() {
    let app = App::new();
    let (owner, org) = (Uuid::new_v4(), Uuid::new_v4());
    let body = json!({"userId": owner, "name": "ci", "scopes": ["tokens:read"], "providers": ["qwen"], "orgIds": [org]});
    let made = app.post(&admin(), KEYS, body).await.expect(201);
    let known = app.authenticate(&made.str("apiKey")).await.expect(200).body;
    let expected = json!({"userId": owner, "keyId": made.body["id"], "scopes": ["tokens:read"], "providers": ["qwen"], "orgIds": [org]});
    assert_eq!(known, expected);
    let valid = app.validate(&made.str("apiKey")).await.expect(200).body;
    assert_eq!(valid, json!({"userId": owner, "name": "ci", "expiresAt": null, "roles": ["USER"], "scopes": ["tokens:read"]}));
    let administrator = app.post(&admin(), KEYS, json!({"userId": owner, "scopes": ["admin"]})).await.expect(201).str("apiKey");
    assert_eq!(app.validate(&administrator).await.expect(200).body["roles"], json!(["ADMIN", "USER"]));
}

#[tokio::test]
async fn a_key_ends_at_its_expiry_to_the_millisecond() {
    let app = App::new();
    let key = app.post(&member(), KEYS, json!({"expiresAt": "2026-11-21T12:00:01.250Z"})).await.expect(201).str("apiKey");
    app.clock.advance(TimeDelta::milliseconds(999));
    assert_eq!(app.authenticate(&key).await.expect(200).body["expiresAt"], "2026-11-21T12:00:01.250Z");
    app.clock.advance(TimeDelta::milliseconds(1));
    for answer in [app.authenticate(&key).await, app.validate(&key).await] {
        let refused = answer.refused(401, "unauthenticated");
        assert_eq!((&refused.body["message"], &refused.body["reason"]), (&json!("api key expired"), &json!("expired")));
    }
}

#[tokio::test]
async fn a_revoked_key_is_refused_and_the_revision_says_that_something_changed() {
    let (app, caller) = (App::new(), member());
    let made = app.post(&caller, KEYS, json!({})).await.expect(201);
    app.authenticate(&made.str("apiKey")).await.expect(200);
    let revision = |answer: Value| answer["revision"].as_i64().unwrap();
    let before = revision(app.get(&admin(), "/internal/v1/revision").await.expect(200).body);
    app.delete(&caller, &format!("{KEYS}?apiKeyId={}", made.str("id"))).await.expect(204);
    assert!(revision(app.get(&admin(), "/internal/v1/revision").await.expect(200).body) > before);
    let refused = app.authenticate(&made.str("apiKey")).await.refused(401, "unauthenticated");
    assert_eq!(
        (refused.body["message"].as_str(), refused.headers["www-authenticate"].to_str().unwrap()),
        (Some("invalid api key"), "Bearer")
    );
}

#[tokio::test]
async fn what_cannot_be_a_key_is_refused_without_a_look_up() {
    let app = App::new();
    let mut typo = app.post(&member(), KEYS, json!({})).await.expect(201).str("apiKey");
    let last = if typo.pop() == Some('a') { 'b' } else { 'a' };
    typo.push(last);
    let long = format!("weir_{}", "a".repeat(4_000));
    for secret in ["nonsense", "weir_", "eyJhbGciOiJub25lIn0.e30.", &typo, &long] {
        for answer in [app.authenticate(secret).await, app.validate(secret).await] {
            let refused = answer.refused(401, "unauthenticated");
            assert_eq!(refused.body["message"], "invalid api key");
            assert!(!refused.body.to_string().contains(secret), "the answer repeats the secret");
        }
    }
    assert_eq!(app.accounts.lookups.load(Ordering::SeqCst), 0);
    app.authenticate("weir_chosen-by-an-operator").await.refused(401, "unauthenticated");
    assert_eq!(app.accounts.lookups.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn validate_tells_a_missing_key_from_an_invalid_one() {
    let app = App::new();
    let path = "/api/v1/auth/api-keys/validate";
    for headers in [&[][..], &[("x-api-key", "")], &[("x-api-key", "  ")]] {
        let refused = app.send(None, Method::GET, path, headers, None).await.refused(401, "unauthenticated");
        assert_eq!(refused.body["message"], "api key is required");
    }
}

#[tokio::test]
async fn only_the_gateway_may_ask_who_somebody_is() {
    let app = App::new();
    let body = json!({"apiKey": "weir_whatever-it-may-be"});
    for scope in Scope::ALL.into_iter().filter(|scope| *scope != Scope::Admin) {
        let caller = user(&[scope]);
        app.post(&caller, "/internal/v1/authenticate", body.clone()).await.refused(403, "forbidden");
        app.get(&caller, "/internal/v1/revision").await.refused(403, "forbidden");
    }
    app.send(None, Method::POST, "/internal/v1/authenticate", &[], Some(&body)).await.refused(401, "unauthenticated");
    // An identity for another service is none here.
    let identity = Arc::new(Identity::random());
    let token = identity.sign(&identity::service_caller(), "token", "r");
    app.send(None, Method::GET, "/internal/v1/revision", &[("x-weir-identity", &token)], None).await.refused(401, "unauthenticated");
}

#[tokio::test]
async fn a_store_that_is_away_is_no_wrong_key() {
    let app = App::new();
    let key = app.post(&member(), KEYS, json!({})).await.expect(201).str("apiKey");
    app.accounts.away.store(true, Ordering::SeqCst);
    app.authenticate(&key).await.refused(503, "unavailable");
    app.validate(&key).await.refused(503, "unavailable");
    app.accounts.away.store(false, Ordering::SeqCst);
    app.authenticate(&key).await.expect(200);
}
