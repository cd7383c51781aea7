//! One W3C trace from the client through the Kafka headers to the Cassandra write, as a collector receives it.

use crate::harness::{Setup, World};
use axum::{Router, body::Bytes, routing::post};
use serde_json::json;
use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use uuid::Uuid;

/// An OTLP/HTTP endpoint that keeps what it is sent.
async fn collector() -> (String, Arc<Mutex<Vec<Bytes>>>) {
    let received: Arc<Mutex<Vec<Bytes>>> = Arc::default();
    let keep = Arc::clone(&received);
    let receive = move |body: Bytes| async move { keep.lock().unwrap().push(body) };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, Router::new().route("/v1/traces", post(receive))).await });
    (url, received)
}

fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

#[tokio::test]
async fn one_trace_goes_from_the_edge_to_the_cassandra_write() {
    let (url, received) = collector().await;
    let data = tempfile::tempdir().unwrap();
    let world = World::new();
    world.migrate(data.path());
    let setup = Setup::distributed(data.path(), &world).with("OTEL_EXPORTER_OTLP_ENDPOINT", &url).with("OTEL_BSP_SCHEDULE_DELAY", "200");
    let process = setup.start();
    let admin = process.client();
    let user = Uuid::new_v4();
    admin
        .post("/api/v1/admin/pools/grant", json!({"userId": user, "provider": "openai", "tokens": 100, "reason": "test"}))
        .await
        .expect(201);
    let trace = Uuid::new_v4();
    let parent = format!("00-{}-00f067aa0ba902b7-01", trace.simple());
    let body = json!({"userId": user, "provider": "openai", "tokens": 1});
    let headers = [("traceparent", parent.as_str())];
    admin.send(reqwest::Method::POST, "/api/v1/tokens/consume", Some(&body), &headers).await.expect(200);

    let started = Instant::now();
    let wanted: [&[u8]; 3] = [b"consume", b"analytics.store_usage", b"cassandra.write_raw"];
    loop {
        let batches = received.lock().unwrap().clone();
        let all = batches.concat();
        let of_trace: Vec<_> = batches.iter().filter(|batch| contains(batch, trace.as_bytes())).collect();
        let stored = of_trace.iter().any(|batch| contains(batch, b"analytics.store_usage"));
        if stored && wanted.iter().all(|name| contains(&all, name)) {
            return;
        }
        let names: Vec<_> = wanted.iter().filter(|name| !contains(&all, name)).map(|name| String::from_utf8_lossy(name)).collect();
        assert!(started.elapsed() < Duration::from_secs(20), "the collector never saw {names:?} ({} batches of the trace)", of_trace.len());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
