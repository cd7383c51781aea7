//! Who gets in: valid keys, and nobody else.

use crate::harness::{BOTH, Place, TestGateway, caller_of, empty};
use axum::{body::Body, extract::Request, http::HeaderMap};
use chrono::{TimeDelta, Utc};
use serde_json::Value;
use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

fn assert_unauthenticated(answer: &(axum::http::StatusCode, HeaderMap, Value), what: &str) {
    let (status, headers, body) = answer;
    assert_eq!(status.as_u16(), 401, "{what}: {body}");
    assert_eq!(headers["www-authenticate"], "Bearer", "{what}");
    assert_eq!(headers["content-type"], "application/problem+json", "{what}");
    assert_eq!((&body["code"], &body["status"]), (&"unauthenticated".into(), &401.into()), "{what}");
    assert_eq!(body["requestId"], headers["x-correlation-id"].to_str().unwrap(), "{what}");
}

#[tokio::test]
async fn a_valid_key_reaches_the_service_as_its_caller_in_each_header() {
    for place in BOTH {
        let gateway = TestGateway::start(place).await;
        for (name, value) in [("x-api-key", "weir_good"), ("authorization", "Bearer weir_good"), ("x-goog-api-key", "weir_good")] {
            let (status, _, seen) = gateway.send(empty(Request::get("/api/v1/tokens/quota?a=1").header(name, value))).await;
            assert_eq!(status, 202, "{name}: {seen}");
            assert_eq!(seen["caller"], serde_json::to_value(caller_of("weir_good")).unwrap(), "{name}");
            assert_eq!(seen["path"], "/api/v1/tokens/quota?a=1");
        }
    }
}

#[tokio::test]
async fn missing_expired_forged_and_oversized_credentials_are_refused() {
    let gateway = TestGateway::start(Place::InProcess).await;
    gateway.keys.insert("weir_old", Some(Utc::now() - TimeDelta::seconds(1)));
    let long = "k".repeat(8_000);
    let forged = "Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiJhZG1pbiIsInNjb3BlcyI6WyJhZG1pbiJdfQ.";
    let cases: [&[(&str, &str)]; 12] = [
        &[],
        &[("x-api-key", "")],
        &[("x-api-key", "weir_forged")],
        &[("x-api-key", "weir_goo")],
        &[("x-api-key", "weir_good2")],
        &[("x-api-key", "WEIR_GOOD")],
        &[("x-api-key", "weir_old")],
        &[("x-api-key", &long)],
        &[("authorization", forged)],
        &[("authorization", "Basic d2Vpcl9nb29kOg==")],
        &[("x-api-key", "weir_good"), ("authorization", "Bearer weir_other")],
        &[("cookie", "x-api-key=weir_good"), ("x-user-id", "admin")],
    ];
    for case in cases {
        let request = case.iter().fold(Request::post("/api/v1/tokens/consume"), |request, (name, value)| request.header(*name, *value));
        assert_unauthenticated(&gateway.send(empty(request)).await, &format!("{case:?}"));
    }
    let (.., body) = gateway.send(empty(Request::get("/api/v1/orgs").header("x-api-key", "weir_old"))).await;
    assert_eq!(body["message"], "api key expired");
}

#[tokio::test]
async fn every_guarded_path_and_method_asks_for_a_credential() {
    let gateway = TestGateway::start(Place::InProcess).await;
    for path in [
        "/api/v1/auth/api-keys",
        "/api/v1/orgs",
        "/api/v1/orgs/x/members",
        "/api/v1/admin/users/x/tier",
        "/api/v1/admin/orgs/x/tier",
        "/api/v1/tokens/consume",
        "/tokens/consume",
        "/api/v1/tokens/quota",
        "/api/v1/admin/pools",
        "/api/v1/limits/take",
        "/api/v1/analytics/usage",
        "/api/v1/admin/audit",
        "/api/v1/admin/dead-letters/1",
        "/api/v1/admin/tiers/PRO",
        "/api/v1/admin/limits",
        "/api/v1/admin/providers",
        "/api/v1/admin/config",
        "/config/weir/default",
        "/registry/instances",
        "/bench/echo",
    ] {
        for method in ["GET", "POST", "PUT", "DELETE", "PATCH"] {
            let (status, _, body) = gateway.send(empty(Request::builder().method(method).uri(path))).await;
            // A path of a single method may say so first; nothing else may be said without a credential.
            assert!(status == 401 || status == 405, "{method} {path}: {status} {body}");
        }
    }
    for method in ["POST", "PUT", "DELETE"] {
        let (status, ..) = gateway.send(empty(Request::builder().method(method).uri("/schema-registry/subjects/x/versions"))).await;
        assert_eq!(status, 401, "{method}");
    }
}

#[tokio::test]
async fn public_paths_need_none_and_pass_no_caller() {
    let gateway = TestGateway::start(Place::InProcess).await;
    for path in ["/api/v1/tokens/status", "/api/v1/analytics/health", "/schema-registry/subjects", "/schema-registry/schemas/ids/1"] {
        let (status, _, seen) = gateway.send(empty(Request::get(path).header("x-api-key", "weir_good"))).await;
        assert_eq!((status.as_u16(), &seen["caller"]), (202, &Value::Null), "{path}");
    }
    for path in ["/livez", "/readyz", "/metrics", "/actuator/health", "/docs/errors/unauthenticated"] {
        assert_eq!(gateway.send(empty(Request::get(path))).await.0, 200, "{path}");
    }
}

#[tokio::test]
async fn a_key_check_gets_the_key_and_nothing_else_does() {
    let gateway = TestGateway::start(Place::InProcess).await;
    let request = Request::get("/api/v1/auth/api-keys/validate").header("x-api-key", "weir_subject").header("cookie", "c");
    let (status, _, seen) = gateway.send(empty(request)).await;
    assert_eq!((status.as_u16(), &seen["headers"]["x-api-key"]), (202, &"weir_subject".into()));
    assert_eq!(seen["headers"]["cookie"], Value::Null);
    let (.., seen) = gateway.get("/api/v1/tokens/quota").await;
    assert_eq!(seen["headers"].as_object().unwrap().len(), 0, "{seen}");
}

#[tokio::test]
async fn a_revoked_key_stops_within_two_seconds() {
    for place in BOTH {
        let gateway = TestGateway::start(place).await;
        for _ in 0..20 {
            assert_eq!(gateway.get("/api/v1/tokens/quota").await.0, 202);
        }
        assert_eq!(gateway.keys.asked.load(Ordering::SeqCst), 1, "remembered");
        gateway.keys.revoke("weir_good");
        let revoked_at = Instant::now();
        while gateway.get("/api/v1/tokens/quota").await.0 != 401 {
            assert!(revoked_at.elapsed() < Duration::from_secs(2), "{place:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

#[tokio::test]
async fn while_auth_service_is_away_remembered_keys_last_two_seconds_and_then_nobody_gets_in() {
    let gateway = TestGateway::start(Place::InProcess).await;
    assert_eq!(gateway.get("/api/v1/tokens/quota").await.0, 202);
    gateway.keys.away.store(true, Ordering::SeqCst);
    assert_eq!(gateway.get("/api/v1/tokens/quota").await.0, 202, "a short outage is not noticed");
    let away_since = Instant::now();
    let (_, headers, body) = loop {
        let answer = gateway.get("/api/v1/tokens/quota").await;
        if answer.0 == 503 {
            break answer;
        }
        assert!(away_since.elapsed() < Duration::from_secs(3));
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert_eq!((&body["service"], &body["message"]), (&"auth-service".into(), &"service unavailable".into()));
    assert_eq!(headers["retry-after"], "1");
    assert!(!gateway.health.report().0, "not ready");
    gateway.keys.away.store(false, Ordering::SeqCst);
    while gateway.get("/api/v1/tokens/quota").await.0 != 202 {
        assert!(away_since.elapsed() < Duration::from_secs(6));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_flood_with_one_bad_key_asks_auth_service_once() {
    let gateway = TestGateway::start(Place::InProcess).await;
    for _ in 0..100 {
        let request = Request::get("/api/v1/orgs").header("x-api-key", "weir_bad").body(Body::empty()).unwrap();
        assert_eq!(gateway.send(request).await.0, 401);
    }
    assert!(gateway.keys.asked.load(Ordering::SeqCst) <= 2);
}
