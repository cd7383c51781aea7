//! The stubs through their routers, and one on a real socket.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test says what went wrong by panicking

mod payment;

use axum::{
    Router,
    body::Body,
    http::{Request, StatusCode},
};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tower::ServiceExt;

async fn post_raw(router: Router, path: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> (StatusCode, Value) {
    let mut request = Request::post(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = router.oneshot(request.body(body.into()).unwrap()).await.unwrap();
    let status = response.status();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&bytes).unwrap_or_else(|_| json!(String::from_utf8_lossy(&bytes))))
}

async fn post(router: Router, path: &str, body: Value) -> (StatusCode, Value) {
    post_raw(router, path, &[], body.to_string()).await
}

const OPENAI: &str = "/v1/chat/completions";
const QWEN: &str = "/compatible-mode/v1/chat/completions";
const GEMINI: &str = "/v1beta/models/gemini-pro:generateContent";

fn openai_request(prompt: &str) -> Value {
    json!({"model": "gpt-4o", "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": prompt}]})
}

fn gemini_request(prompt: &str) -> Value {
    json!({"contents": [{"role": "user", "parts": [{"text": prompt}]}], "systemInstruction": {"parts": [{"text": "be brief"}]}})
}

#[tokio::test]
async fn the_predecessors_chat_call_echoes_any_object() {
    for (router, name, message) in [
        (provider_stubs::openai(), "openai", "Stubbed OpenAI response"),
        (provider_stubs::gemini(), "gemini", "Stubbed Gemini response"),
        (provider_stubs::qwen(), "qwen", "Stubbed Qwen response"),
    ] {
        let sent = json!({"prompt": "hello", "anything": [1, {"else": null}]});
        let (status, body) = post(router.clone(), &format!("/api/v1/{name}/chat"), sent.clone()).await;
        assert_eq!(status, StatusCode::OK, "{body}");
        assert_eq!((&body["provider"], &body["received"], &body["message"]), (&json!(name), &sent, &json!(message)));
        assert!(body["id"].is_string() && body["created"].as_str().unwrap().ends_with('Z'));
        assert!(body.get("usage").is_none());
        let (status, _) = post_raw(router, &format!("/api/v1/{name}/chat"), &[], "[1]").await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
    }
    let (status, _) = post(provider_stubs::openai(), "/api/v1/qwen/chat", json!({})).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn usage_is_one_token_per_word_of_request_and_answer() {
    for (router, path) in [(provider_stubs::openai(), OPENAI), (provider_stubs::qwen(), QWEN)] {
        let (status, body) = post(router, path, openai_request("three words  here\n")).await;
        assert_eq!(status, StatusCode::OK, "{body}");
        assert_eq!(body["usage"], json!({"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}));
        assert_eq!(body["choices"][0]["finish_reason"], "stop");
        assert_eq!(body["model"], "gpt-4o");
    }
    let (status, body) = post(provider_stubs::gemini(), GEMINI, gemini_request("three words here")).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    assert_eq!(body["usageMetadata"], json!({"promptTokenCount": 5, "candidatesTokenCount": 3, "totalTokenCount": 8}));
    assert_eq!(body["candidates"][0]["finishReason"], "STOP");
    assert_eq!(body["modelVersion"], "gemini-pro");
}

#[tokio::test]
async fn parts_of_a_message_are_counted_like_one_text() {
    let parts = json!([{"type": "text", "text": "two words"}, {"type": "image_url", "image_url": {"url": "x y z"}}, {"type": "text", "text": "one"}]);
    let request = json!({"model": "m", "messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": null}]});
    let (_, body) = post(provider_stubs::openai(), OPENAI, request).await;
    assert_eq!(body["usage"]["prompt_tokens"], 3);
}

#[tokio::test]
async fn an_answer_never_exceeds_max_tokens_and_says_that_it_was_cut() {
    for field in ["max_tokens", "max_completion_tokens"] {
        let mut request = openai_request("[[stub completion-tokens=40]] hi");
        request[field] = json!(7);
        let (_, body) = post(provider_stubs::openai(), OPENAI, request).await;
        assert_eq!(body["usage"], json!({"prompt_tokens": 3, "completion_tokens": 7, "total_tokens": 10}));
        assert_eq!(body["choices"][0]["message"]["content"].as_str().unwrap().split(' ').count(), 7);
        assert_eq!(body["choices"][0]["finish_reason"], "length");
    }
    let mut request = gemini_request("hi");
    request["generationConfig"] = json!({"maxOutputTokens": 1});
    let (_, body) = post(provider_stubs::gemini(), GEMINI, request).await;
    assert_eq!(body["usageMetadata"]["candidatesTokenCount"], 1);
    assert_eq!(body["candidates"][0]["finishReason"], "MAX_TOKENS");
}

#[tokio::test]
async fn bad_requests_are_refused_in_the_providers_own_shape() {
    let message = json!([{"role": "user", "content": "x"}]);
    for (request, param) in [
        (json!({"messages": message}), "model"),
        (json!({"model": " ", "messages": message}), "model"),
        (json!({"model": 7, "messages": message}), "model"),
        (json!({"model": "m"}), "messages"),
        (json!({"model": "m", "messages": []}), "messages"),
        (json!({"model": "m", "messages": "x"}), "messages"),
        (json!({"model": "m", "messages": [{"role": "robot", "content": "x"}]}), "messages"),
        (json!({"model": "m", "messages": [{"role": "user"}]}), "messages"),
        (json!({"model": "m", "messages": message, "max_tokens": 0}), "max_tokens"),
        (json!({"model": "m", "messages": message, "max_tokens": 1.5}), "max_tokens"),
        (json!({"model": "m", "messages": message, "stream": true}), "stream"),
    ] {
        for (router, path) in [(provider_stubs::openai(), OPENAI), (provider_stubs::qwen(), QWEN)] {
            let (status, body) = post(router, path, request.clone()).await;
            assert_eq!(status, StatusCode::BAD_REQUEST, "{request}");
            assert_eq!(body["error"]["type"], "invalid_request_error", "{body}");
            assert_eq!(body["error"]["param"], param, "{request}");
            assert!(body["error"]["message"].is_string() && body["error"].get("code").is_some());
        }
    }
    for request in [json!({}), json!({"contents": []}), json!({"contents": [{}]}), json!({"contents": [{"parts": []}]})] {
        let (status, body) = post(provider_stubs::gemini(), GEMINI, request).await;
        assert_eq!(
            (status, &body["error"]["code"], &body["error"]["status"]),
            (StatusCode::BAD_REQUEST, &json!(400), &json!("INVALID_ARGUMENT"))
        );
    }
    let (status, body) = post(provider_stubs::gemini(), "/v1beta/models/gemini-pro:countTokens", gemini_request("x")).await;
    assert_eq!((status, &body["error"]["status"]), (StatusCode::NOT_FOUND, &json!("NOT_FOUND")));
}

#[tokio::test]
async fn malformed_and_oversized_bodies_are_refused() {
    for (router, path) in [(provider_stubs::openai(), OPENAI), (provider_stubs::qwen(), QWEN), (provider_stubs::gemini(), GEMINI)] {
        for body in ["{", "", "null", "\u{0}"] {
            let (status, answer) = post_raw(router.clone(), path, &[], body).await;
            assert_eq!(status, StatusCode::BAD_REQUEST, "{body:?}");
            assert!(answer["error"]["message"].is_string());
        }
        let (status, answer) = post_raw(router, path, &[], vec![b' '; 3 << 20]).await;
        assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
        assert!(answer["error"]["message"].is_string());
    }
}

#[tokio::test]
async fn failures_come_on_request_by_header_query_and_prompt() {
    let good = openai_request("hello").to_string();
    for (headers, path, body) in [
        (&[("x-stub-status", "503")][..], OPENAI, good.clone()),
        (&[], "/v1/chat/completions?x-stub-status=503", good.clone()),
        (&[], OPENAI, openai_request("[[stub status=503]] hello").to_string()),
        (&[("x-stub-status", "500")], OPENAI, openai_request("[[stub status=503]] the prompt wins").to_string()),
    ] {
        let (status, body) = post_raw(provider_stubs::openai(), path, headers, body).await;
        assert_eq!((status, &body["error"]["type"]), (StatusCode::SERVICE_UNAVAILABLE, &json!("server_error")));
    }
    let (status, body) = post(provider_stubs::gemini(), GEMINI, gemini_request("[[stub status=429]]")).await;
    assert_eq!((status, &body["error"]["status"]), (StatusCode::TOO_MANY_REQUESTS, &json!("RESOURCE_EXHAUSTED")));
    let (status, _) = post(provider_stubs::qwen(), "/api/v1/qwen/chat", json!({"prompt": "[[stub status=500]]"})).await;
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
    let (status, _) = post_raw(provider_stubs::openai(), OPENAI, &[("x-stub-status", "200")], good).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn usage_can_be_wrong_or_missing_on_request() {
    let (_, body) = post(provider_stubs::openai(), OPENAI, openai_request("[[stub usage=omit]] hello")).await;
    assert!(body.get("usage").is_none() && body["choices"].is_array());
    let (_, body) = post(provider_stubs::gemini(), GEMINI, gemini_request("[[stub usage=100,7]] hello")).await;
    assert_eq!(body["usageMetadata"], json!({"promptTokenCount": 100, "candidatesTokenCount": 7, "totalTokenCount": 107}));
    let (status, body) = post(provider_stubs::openai(), OPENAI, openai_request("[[stub garbage=true]]")).await;
    assert!(status == StatusCode::OK && body.is_string());
}

#[tokio::test]
async fn a_delay_is_waited_out() {
    let started = Instant::now();
    let (status, _) = post(provider_stubs::openai(), OPENAI, openai_request("[[stub delay-ms=120]] hello")).await;
    assert_eq!(status, StatusCode::OK);
    assert!(started.elapsed() >= Duration::from_millis(120));
}

#[tokio::test]
async fn a_dropped_connection_carries_no_byte_of_an_answer() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(axum::serve(listener, provider_stubs::openai()).into_future());
    let body = openai_request("[[stub drop=true]] hello").to_string();
    let request = format!("POST {OPENAI} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let mut stream = TcpStream::connect(address).await.unwrap();
    let started = Instant::now();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut received = Vec::new();
    // A reset instead of an orderly close is as good: nothing was answered.
    let _ = stream.read_to_end(&mut received).await;
    assert_eq!(String::from_utf8_lossy(&received), "");
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn a_stub_says_that_it_lives() {
    for router in [provider_stubs::openai(), provider_stubs::gemini(), provider_stubs::qwen()] {
        let response = router.oneshot(Request::get("/livez").body(Body::empty()).unwrap()).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
    }
}
