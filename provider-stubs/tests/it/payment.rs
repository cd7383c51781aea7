//! The payment processor: one payment per reference, whatever is lost, late or sent twice.

use super::post_raw;
use axum::{
    Router,
    body::Body,
    http::{Request, StatusCode},
};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;

/// `None` where the connection broke.
async fn call(router: &Router, method: &str, path: &str, body: Option<Value>) -> Option<(u16, Value)> {
    let request = Request::builder().method(method).uri(path).header("content-type", "application/json");
    let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
    let response = router.clone().oneshot(request.body(body).unwrap()).await.unwrap();
    let status = response.status().as_u16();
    let bytes = response.into_body().collect().await.ok()?.to_bytes();
    Some((status, serde_json::from_slice(&bytes).unwrap()))
}

fn euros(amount: u64) -> Option<Value> {
    Some(json!({"amountMinorUnits": amount, "currency": "EUR"}))
}

async fn told(router: &Router, method: &str, path: &str, body: Option<Value>) -> (u16, String) {
    let (code, body) = call(router, method, path, body).await.unwrap();
    (code, body["status"].as_str().unwrap_or_default().to_owned())
}

fn is(code: u16, status: &str) -> (u16, String) {
    (code, status.to_owned())
}

#[tokio::test]
async fn each_step_may_be_repeated_and_none_be_skipped() {
    let router = provider_stubs::payment();
    assert_eq!(told(&router, "POST", "/v1/payments/a/capture", None).await.0, 404);
    assert_eq!(told(&router, "PUT", "/v1/payments/a", euros(500)).await, is(201, "AUTHORISED"));
    assert_eq!(told(&router, "PUT", "/v1/payments/a", euros(500)).await, is(200, "AUTHORISED"));
    assert_eq!(told(&router, "PUT", "/v1/payments/a", euros(501)).await.0, 409);
    for _ in 0..2 {
        assert_eq!(told(&router, "POST", "/v1/payments/a/capture", None).await, is(200, "CAPTURED"));
    }
    for _ in 0..2 {
        assert_eq!(told(&router, "POST", "/v1/payments/a/void", None).await, is(200, "REFUNDED"));
    }
    assert_eq!(told(&router, "POST", "/v1/payments/a/capture", None).await, is(409, "REFUNDED"));
}

#[tokio::test]
async fn what_was_voided_can_neither_be_captured_nor_authorised_any_more() {
    let router = provider_stubs::payment();
    call(&router, "PUT", "/v1/payments/a", euros(500)).await;
    assert_eq!(told(&router, "POST", "/v1/payments/a/void", None).await, is(200, "VOIDED"));
    assert_eq!(told(&router, "POST", "/v1/payments/a/capture", None).await, is(409, "VOIDED"));
    // The void came before the authorisation.
    assert_eq!(told(&router, "POST", "/v1/payments/b/void", None).await, is(200, "VOIDED"));
    assert_eq!(told(&router, "PUT", "/v1/payments/b", euros(1)).await, is(409, "VOIDED"));
}

#[tokio::test]
async fn faults_happen_to_as_many_calls_as_asked_for() {
    let router = provider_stubs::payment();
    let faults = json!({"authorise": {"times": 1, "lose": "request"}, "capture": {"times": 1, "lose": "answer"}, "void": {"times": 2, "status": 503}});
    call(&router, "PUT", "/v1/faults", Some(faults)).await.unwrap();
    assert_eq!(call(&router, "PUT", "/v1/payments/a", euros(5)).await, None);
    assert_eq!(told(&router, "GET", "/v1/payments/a", None).await.0, 404);
    assert_eq!(told(&router, "PUT", "/v1/payments/a", euros(5)).await, is(201, "AUTHORISED"));
    assert_eq!(call(&router, "POST", "/v1/payments/a/capture", None).await, None);
    assert_eq!(told(&router, "GET", "/v1/payments/a", None).await, is(200, "CAPTURED"));
    for expected in [503, 503, 200] {
        assert_eq!(told(&router, "POST", "/v1/payments/a/void", None).await.0, expected);
    }
    let faults = json!({"authorise": {"times": 1, "decline": true}, "capture": {"times": 1, "twice": true}});
    call(&router, "PUT", "/v1/faults", Some(faults)).await.unwrap();
    assert_eq!(told(&router, "PUT", "/v1/payments/b", euros(5)).await, is(402, "DECLINED"));
    assert_eq!(told(&router, "PUT", "/v1/payments/b", euros(5)).await, is(402, "DECLINED"));
    assert_eq!(told(&router, "PUT", "/v1/payments/c", euros(5)).await, is(201, "AUTHORISED"));
    assert_eq!(told(&router, "POST", "/v1/payments/c/capture", None).await, is(200, "CAPTURED"));
    let (_, all) = call(&router, "GET", "/v1/payments", None).await.unwrap();
    let statuses: Vec<_> = all["items"].as_array().unwrap().iter().map(|item| item["status"].as_str().unwrap()).collect();
    assert_eq!(statuses, ["REFUNDED", "DECLINED", "CAPTURED"]);
}

#[tokio::test]
async fn an_unusable_payment_is_refused() {
    let router = provider_stubs::payment();
    for body in
        [json!({"amountMinorUnits": -1, "currency": "EUR"}), json!({"currency": "EUR"}), json!({"amountMinorUnits": 1, "currency": "EURO"})]
    {
        let (status, _) = post_raw(router.clone(), "/v1/payments/a", &[], body.to_string()).await;
        assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
        let request = Request::put("/v1/payments/a").header("content-type", "application/json").body(Body::from(body.to_string()));
        let response = router.clone().oneshot(request.unwrap()).await.unwrap();
        assert!(response.status().is_client_error(), "{body}");
    }
    assert_eq!(told(&router, "GET", "/v1/payments/a", None).await.0, 404);
}
