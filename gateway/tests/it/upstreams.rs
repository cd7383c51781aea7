//! Services that are away, slow, moved or answer oddly.

use crate::harness::{BOTH, TestGateway, authorized, client, echo_service, empty, listen};
use axum::{Router, extract::Request, http::StatusCode, response::IntoResponse, routing::any};
use gateway::Upstream;
use serde_json::Value;
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use tokio_util::sync::CancellationToken;

/// A port on which nothing listens.
async fn closed_port() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

/// Accepts, reads a request and closes without a word; counts.
async fn mute_service() -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let received = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&received);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut buffer = [0; 4096];
            if stream.read(&mut buffer).await.is_ok_and(|count| count > 0) {
                counter.fetch_add(1, Ordering::SeqCst);
            }
        }
    });
    (url, received)
}

fn consume() -> Request {
    let request = authorized(Request::post("/api/v1/tokens/consume")).header("content-type", "application/json");
    request.body("{\"tokens\":1}".into()).unwrap()
}

fn assert_away(answer: &(StatusCode, axum::http::HeaderMap, Value)) {
    let (status, headers, body) = answer;
    assert_eq!(status.as_u16(), 503, "{body}");
    assert_eq!(headers["retry-after"], "1");
    assert_eq!((&body["code"], &body["service"]), (&"unavailable".into(), &"token-service".into()));
    assert_eq!(body["message"], "service unavailable");
    assert!(body["reason"].as_str().is_some_and(|reason| !reason.is_empty()));
}

#[tokio::test]
async fn a_service_that_is_away_is_answered_503_and_its_neighbours_work() {
    let gateway = TestGateway::with_token_service(Upstream::http(&[closed_port().await], client()).unwrap()).await;
    assert_away(&gateway.send(consume()).await);
    assert_away(&gateway.send(empty(Request::get("/api/v1/tokens/status"))).await);
    assert_eq!(gateway.get("/api/v1/analytics/usage").await.0, 202);
}

#[tokio::test]
async fn requests_are_spread_and_an_instance_that_cannot_be_reached_is_passed_over() {
    let shutdown = CancellationToken::new();
    let counted = |counter: &Arc<AtomicUsize>| {
        let counter = Arc::clone(counter);
        Router::new().fallback(any(async move || {
            counter.fetch_add(1, Ordering::SeqCst);
            "ok"
        }))
    };
    let (first, second) = (Arc::default(), Arc::default());
    let urls = [
        listen(counted(&first), "token", shutdown.clone()).await,
        closed_port().await,
        listen(counted(&second), "token", shutdown.clone()).await,
    ];
    let gateway = TestGateway::with_token_service(Upstream::http(&urls, client()).unwrap()).await;
    for _ in 0..30 {
        assert_eq!(gateway.send(consume()).await.0, 200);
    }
    let (first, second) = (first.load(Ordering::SeqCst), second.load(Ordering::SeqCst));
    assert_eq!(first + second, 30, "each request was received once");
    assert!(first >= 10 && second >= 10, "{first} and {second}");
    shutdown.cancel();
}

#[tokio::test]
async fn a_request_that_may_have_been_received_is_not_sent_again() {
    let (mute, received) = mute_service().await;
    let (other, other_received) = mute_service().await;
    let gateway = TestGateway::with_token_service(Upstream::http(&[mute, other], client()).unwrap()).await;
    for sent in 1..=6 {
        assert_away(&gateway.send(consume()).await);
        assert_eq!(received.load(Ordering::SeqCst) + other_received.load(Ordering::SeqCst), sent);
    }
    // Reading changes nothing: the other instance may be asked.
    assert_away(&gateway.get("/api/v1/tokens/quota").await);
    assert_eq!(received.load(Ordering::SeqCst) + other_received.load(Ordering::SeqCst), 8);
}

#[tokio::test]
async fn a_service_that_does_not_answer_in_time_is_answered_503() {
    let slow = Router::new().fallback(any(async || tokio::time::sleep(Duration::from_secs(60)).await));
    let shutdown = CancellationToken::new();
    let client = service_kit::client::builder().read_timeout(Duration::from_millis(100)).build().unwrap();
    let url = listen(slow, "token", shutdown.clone()).await;
    let gateway = TestGateway::with_token_service(Upstream::http(&[url], client).unwrap()).await;
    assert_away(&gateway.send(consume()).await);
    shutdown.cancel();
}

#[tokio::test]
async fn an_answer_passes_unchanged_whatever_its_status() {
    let answers = || {
        Router::new().fallback(any(async |request: Request| {
            let status: u16 = request.uri().path().rsplit('/').next().unwrap().parse().unwrap();
            (StatusCode::from_u16(status).unwrap(), [("content-type", "application/json"), ("x-own", "1")], "{\"own\":true}")
                .into_response()
        }))
    };
    let shutdown = CancellationToken::new();
    let over_http = Upstream::http(&[listen(answers(), "token", shutdown.clone()).await], client()).unwrap();
    for upstream in [Upstream::in_process(answers()), over_http] {
        let gateway = TestGateway::with_token_service(upstream).await;
        for status in [200, 201, 302, 400, 402, 404, 409, 429, 500, 502, 503, 504] {
            let (answered, headers, body) = gateway.get(&format!("/api/v1/tokens/{status}")).await;
            assert_eq!((answered.as_u16(), body.to_string().as_str()), (status, "{\"own\":true}"));
            assert_eq!(headers["x-own"], "1");
        }
    }
    shutdown.cancel();
}

#[tokio::test]
async fn headers_of_an_answer_pass_except_those_of_one_connection() {
    for place in BOTH {
        let gateway = TestGateway::start(place).await;
        let (_, headers, _) = gateway.get("/api/v1/tokens/quota").await;
        assert_eq!((&headers["x-ratelimit-limit"], &headers["etag"]), (&"10".parse().unwrap(), &"\"1\"".parse().unwrap()));
        assert_eq!(headers["x-frame-options"], "DENY", "security headers are ours");
        if place == crate::harness::Place::OverHttp {
            assert!(!headers.contains_key("x-hop") && !headers.contains_key("connection"), "{headers:?}");
        }
    }
}

#[tokio::test]
async fn a_body_above_the_limit_is_refused_before_it_is_sent_on() {
    let gateway = TestGateway::start(crate::harness::Place::OverHttp).await;
    let request = authorized(Request::post("/api/v1/tokens/consume")).header("content-type", "application/json");
    let (status, _, body) = gateway.send(request.body(vec![b'x'; 3 * 1024 * 1024].into()).unwrap()).await;
    assert_eq!((status.as_u16(), &body["limitBytes"]), (413, &2_097_152.into()));
}

#[tokio::test]
async fn an_identity_is_good_for_its_own_service_only() {
    let shutdown = CancellationToken::new();
    // What calls itself token-service here checks for another audience.
    let url = listen(echo_service(), "analytics", shutdown.clone()).await;
    let gateway = TestGateway::with_token_service(Upstream::http(&[url], client()).unwrap()).await;
    let (.., seen) = gateway.get("/api/v1/tokens/quota").await;
    assert_eq!(seen["caller"], Value::Null);
    shutdown.cancel();
}

#[tokio::test]
async fn an_upstream_that_breaks_off_its_answer_does_not_end_it_as_if_it_were_whole() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut buffer = [0; 4096];
            let _ = stream.read(&mut buffer).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf").await;
        }
    });
    let gateway = TestGateway::with_token_service(Upstream::http(&[url], client()).unwrap()).await;
    let request = authorized(Request::get("/api/v1/tokens/quota")).body(axum::body::Body::empty()).unwrap();
    let answer = tower::ServiceExt::oneshot(gateway.router(), request).await.unwrap();
    assert_eq!(answer.status(), 200);
    assert!(axum::body::to_bytes(answer.into_body(), 1000).await.is_err());
}
