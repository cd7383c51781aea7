//! What a client says about itself does not reach a service.

use crate::harness::{BOTH, TestGateway, authorized, caller_of, empty, shared_identity};
use axum::extract::Request;
use service_kit::identity::service_caller;

/// Spellings under which some system somewhere believes an identity, an address or a path.
const SPOOFED: [&str; 64] = [
    "x-weir-identity",
    "X-WEIR-IDENTITY",
    "x-weir_identity",
    "x_weir_identity",
    "weir-identity",
    "x-user-id",
    "X-User-Id",
    "x_user_id",
    "x-userid",
    "x-user",
    "x-user-roles",
    "x-roles",
    "x-role",
    "x-user-role",
    "x-scopes",
    "x-scope",
    "x-org-id",
    "x-orgid",
    "x-organization-id",
    "x-tenant",
    "x-tenant-id",
    "x-account-id",
    "x-key-id",
    "x-api-key-id",
    "x-admin",
    "x-is-admin",
    "x-internal",
    "x-internal-request",
    "x-service",
    "x-caller",
    "x-principal",
    "x-identity",
    "x-subject",
    "x-sub",
    "x-authenticated-user",
    "x-authenticated-userid",
    "x-authenticated-groups",
    "x-auth-user",
    "x-auth-request-user",
    "x-auth-request-email",
    "x-auth-request-groups",
    "x-remote-user",
    "remote-user",
    "remote_user",
    "x-webauth-user",
    "x-jwt-claims",
    "x-jwt-assertion",
    "x-amzn-oidc-identity",
    "x-amzn-oidc-data",
    "x-goog-authenticated-user-id",
    "x-goog-iap-jwt-assertion",
    "x-ms-client-principal",
    "x-ms-client-principal-id",
    "x-forwarded-user",
    "x-forwarded-email",
    "x-forwarded-for",
    "x-real-ip",
    "forwarded",
    "x-original-url",
    "x-rewrite-url",
    "x-http-method-override",
    "x-envoy-peer-metadata",
    "tracestate",
    "baggage",
];

#[tokio::test]
async fn no_spelling_of_an_identity_header_gets_through() {
    for place in BOTH {
        let gateway = TestGateway::start(place).await;
        let forged = shared_identity().sign(&service_caller(), "token", "r");
        for name in SPOOFED {
            let request = authorized(Request::get("/api/v1/tokens/quota")).header(name, "00000000-0000-0000-0000-000000000001");
            let (status, _, seen) = gateway.send(empty(request)).await;
            assert_eq!(status, 202, "{name}");
            let text = seen["headers"].to_string();
            assert!(!text.contains("00000000-0000-0000-0000-000000000001"), "{name} got through: {text}");
            assert_eq!(seen["caller"], serde_json::to_value(caller_of("weir_good")).unwrap(), "{name}");
        }
        // Even an identity with a true signature, copied from somewhere, is not the client's to send.
        let request = authorized(Request::get("/api/v1/tokens/quota")).header("x-weir-identity", &forged);
        let (.., seen) = gateway.send(empty(request)).await;
        assert_eq!(seen["caller"], serde_json::to_value(caller_of("weir_good")).unwrap());
        let (.., seen) = gateway.send(empty(Request::get("/api/v1/tokens/status").header("x-weir-identity", &forged))).await;
        assert_eq!(seen["caller"], serde_json::Value::Null, "{place:?}");
    }
}

#[tokio::test]
async fn only_listed_headers_are_passed_on() {
    for place in BOTH {
        let gateway = TestGateway::start(place).await;
        let request = authorized(Request::post("/api/v1/tokens/consume"))
            .header("content-type", "application/json")
            .header("accept", "application/json")
            .header("idempotency-key", "k-1")
            .header("if-none-match", "\"1\"")
            .header("last-event-id", "7")
            .header("user-agent", "test")
            .header("x-correlation-id", "corr-1")
            .header("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
            .header("authorization", "Bearer weir_good")
            .header("cookie", "session=1")
            .header("x-anything", "1");
        let (status, headers, seen) = gateway.send(request.body("{\"a\":1}".into()).unwrap()).await;
        assert_eq!((status.as_u16(), &seen["body"]), (202, &"{\"a\":1}".into()), "{place:?}: {seen}");
        assert_eq!(headers["x-correlation-id"], "corr-1");
        let mut names: Vec<&String> = seen["headers"].as_object().unwrap().keys().collect();
        names.retain(|name| !["host", "content-length", "x-correlation-id", "traceparent", "x-weir-identity"].contains(&name.as_str()));
        assert_eq!(names, ["accept", "content-type", "idempotency-key", "if-none-match", "last-event-id", "user-agent"], "{place:?}");
        if place == crate::harness::Place::OverHttp {
            assert_eq!(seen["headers"]["x-correlation-id"], "corr-1");
            assert!(seen["headers"]["traceparent"].as_str().unwrap().contains("4bf92f3577b34da6a3ce929d0e0e4736"));
        }
    }
}
