//! What the gateway answers by itself, and what every answer carries.

use crate::harness::{Place, TestGateway, authorized, empty};
use axum::{
    extract::Request,
    http::{HeaderMap, StatusCode},
};
use serde_json::Value;

#[track_caller]
fn assert_decorated(headers: &HeaderMap, what: &str) {
    let expected = [
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "DENY"),
        ("referrer-policy", "no-referrer"),
        ("permissions-policy", "geolocation=(), microphone=(), camera=()"),
        ("strict-transport-security", "max-age=31536000; includeSubDomains"),
    ];
    for (name, value) in expected {
        assert_eq!(headers.get(name).map(|value| value.to_str().unwrap()), Some(value), "{name} of {what}");
    }
    assert!(headers.contains_key("x-correlation-id"), "{what}");
}

#[tokio::test]
async fn every_answer_has_the_security_headers_and_an_id() {
    let gateway = TestGateway::start(Place::InProcess).await;
    let cases = [
        (202, authorized(Request::get("/api/v1/tokens/quota"))),
        (401, Request::get("/api/v1/tokens/quota")),
        (404, Request::get("/nothing/here")),
        (405, Request::post("/docs/errors/internal")),
        (405, authorized(Request::get("/bench/echo"))),
        (415, authorized(Request::post("/bench/echo"))),
        (503, Request::get("/fallback/token-service")),
        (414, Request::get(format!("/{}", "x".repeat(9_000)))),
        (431, Request::get("/livez").header("x", "v".repeat(17_000))),
    ];
    for (expected, request) in cases {
        let (status, headers, body) = gateway.send(empty(request)).await;
        assert_eq!(status.as_u16(), expected, "{body}");
        assert_decorated(&headers, &format!("{expected}"));
        if expected >= 400 {
            assert_eq!(headers["content-type"], "application/problem+json", "{expected}");
            assert_eq!(body["requestId"], headers["x-correlation-id"].to_str().unwrap());
            assert_eq!(body["status"], expected);
        }
    }
    let large = authorized(Request::post("/bench/echo")).header("content-type", "application/json");
    let (status, headers, _) = gateway.send(large.body(vec![b' '; 2 * 1024 * 1024 + 1].into()).unwrap()).await;
    assert_eq!(status, 413);
    assert_decorated(&headers, "413");
}

#[tokio::test]
async fn internal_paths_do_not_exist_outside() {
    let gateway = TestGateway::start(Place::OverHttp).await;
    for path in [
        "/internal/v1/authenticate",
        "/internal/v1/revision",
        "/internal",
        "//internal/v1/revision",
        "/INTERNAL/v1/revision",
        "/%69nternal/v1/revision",
        "/./internal/v1/revision",
    ] {
        assert_eq!(gateway.get(path).await.0, 404, "{path}");
    }
    for path in [
        "/api/v1/auth/../../../internal/v1/revision",
        "/api/v1/auth/%2e%2e/%2e%2e/%2e%2e/internal/v1/revision",
        "/api/v1/auth/.%2E/..%5c../internal/v1/revision",
        "/schema-registry/../internal/v1/revision",
        "/api/v1/auth//internal/v1/revision",
    ] {
        let (status, _, body) = gateway.get(path).await;
        assert_eq!(status, 400, "{path}: {body}");
    }
}

#[tokio::test]
async fn each_error_code_has_a_page_that_loads_nothing() {
    let gateway = TestGateway::start(Place::InProcess).await;
    let (status, headers, body) = gateway.send(empty(Request::get("/docs/errors/quota_exhausted"))).await;
    assert_eq!(status, 200);
    assert!(headers["content-security-policy"].to_str().unwrap().starts_with("default-src 'none'"));
    assert!(headers["content-type"].to_str().unwrap().starts_with("text/html"));
    assert!(body.as_str().unwrap().contains("<h1>quota_exhausted</h1>"));
    for unknown in ["nothing", "%3Cscript%3E", "a%00b"] {
        let (status, _, body) = gateway.send(empty(Request::get(format!("/docs/errors/{unknown}")))).await;
        assert_eq!(status, 404, "{unknown}");
        assert!(!body["detail"].to_string().contains("script"));
    }
    // The page that a problem points to exists.
    let (.., problem) = gateway.send(empty(Request::get("/api/v1/orgs"))).await;
    assert_eq!(gateway.send(empty(Request::get(problem["type"].as_str().unwrap()))).await.0, 200);
}

#[tokio::test]
async fn a_fallback_answers_the_same_to_every_method() {
    let gateway = TestGateway::start(Place::InProcess).await;
    for method in ["GET", "POST", "PUT", "DELETE", "PATCH"] {
        let (status, headers, body) = gateway.send(empty(Request::builder().method(method).uri("/fallback/token-service"))).await;
        assert_eq!((status, &body["service"]), (StatusCode::SERVICE_UNAVAILABLE, &Value::from("token-service")), "{method}");
        assert_eq!((&body["message"], &headers["retry-after"]), (&"service unavailable".into(), &"1".parse().unwrap()));
    }
    assert_eq!(gateway.send(empty(Request::get("/fallback/nobody"))).await.0, 404);
}

#[tokio::test]
async fn the_echo_route_parses_and_returns_and_asks_for_a_credential() {
    let gateway = TestGateway::start(Place::InProcess).await;
    let echo = |request: axum::http::request::Builder, body: &'static str| {
        request.header("content-type", "application/json").body(axum::body::Body::from(body)).unwrap()
    };
    let (status, _, body) = gateway.send(echo(authorized(Request::post("/bench/echo")), "{\"tokens\": 7}")).await;
    assert_eq!((status.as_u16(), body.to_string().as_str()), (200, "{\"tokens\":7}"));
    assert_eq!(gateway.send(echo(authorized(Request::post("/bench/echo")), "{\"a\":1,\"a\":1}")).await.0, 400);
    assert_eq!(gateway.send(echo(Request::post("/bench/echo"), "{}")).await.0, 401);
}
