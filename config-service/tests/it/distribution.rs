//! The document and the stream of its versions.

use crate::{
    app::{App, eventually},
    store::MemorySettings,
};
use axum::http::Method;
use bytes::Bytes;
use domain::settings::Settings;
use http_body_util::BodyExt;
use serde_json::json;
use service_kit::identity::service_caller;
use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

const DOCUMENT: &str = "/config/token-service/default";
const WATCH: &str = "/config/token-service/default/watch";

struct Stream(axum::body::Body);

impl Stream {
    async fn open(app: &App, last_event_id: Option<&str>) -> Self {
        let headers: Vec<(&str, &str)> = last_event_id.map(|id| ("last-event-id", id)).into_iter().collect();
        let response = app.response(Some(&service_caller()), Method::GET, WATCH, &headers, None).await;
        assert_eq!((response.status().as_u16(), response.headers()["content-type"].to_str().unwrap()), (200, "text/event-stream"));
        Self(response.into_body())
    }

    /// The next event's text; `None` at the end of the stream.
    async fn next(&mut self) -> Option<String> {
        let frame = tokio::time::timeout(Duration::from_secs(5), self.0.frame()).await.expect("nothing came for 5 s")?;
        let bytes: Bytes = frame.unwrap().into_data().unwrap();
        Some(String::from_utf8(bytes.to_vec()).unwrap())
    }
}

fn data(event: &str) -> Settings {
    let line = event.lines().find_map(|line| line.strip_prefix("data:")).unwrap();
    serde_json::from_str(line.trim()).unwrap()
}

#[tokio::test]
async fn the_document_comes_with_its_version_as_etag() {
    let app = App::new().await;
    let first = app.get(DOCUMENT).await.expect(200);
    assert_eq!(serde_json::from_value::<Settings>(first.body).unwrap(), Settings::default());
    assert_eq!(first.headers["etag"], "\"1\"");
    let known = app.send(Some(&service_caller()), Method::GET, DOCUMENT, &[("if-none-match", "\"1\"")], None).await.expect(304);
    assert_eq!((known.headers["etag"].to_str().unwrap(), known.body), ("\"1\"", json!("")));
    app.delete("/api/v1/admin/tiers/FREE").await.expect(204);
    let changed = app.send(Some(&service_caller()), Method::GET, DOCUMENT, &[("if-none-match", "\"1\"")], None).await.expect(200);
    assert_eq!(changed.headers["etag"], "\"2\"");
    app.get("/config/a%20b/default").await.wrong("app");
    app.get("/config/weir/a.b").await.wrong("profile");
}

#[tokio::test]
async fn a_watcher_gets_the_document_and_then_each_newer_version() {
    let app = App::new().await;
    let mut stream = Stream::open(&app, None).await;
    let first = stream.next().await.unwrap();
    assert!(first.contains("event: settings\n") && first.contains("id: 1\n"), "{first}");
    assert_eq!(data(&first), Settings::default());
    for version in 2..5 {
        let tier = json!({"priority": version, "bucketCapacityMultiplier": 1, "bucketLeakRateMultiplier": 1});
        app.put("/api/v1/admin/tiers/GOLD", tier).await;
        let event = stream.next().await.unwrap();
        assert!(event.contains(&format!("id: {version}\n")), "{event}");
        assert_eq!(data(&event).tiers["GOLD"].priority, version);
    }
}

#[tokio::test]
async fn a_watcher_that_has_the_newest_version_is_told_so_and_one_that_missed_some_gets_the_newest() {
    let app = App::new().await;
    app.delete("/api/v1/admin/tiers/FREE").await.expect(204);
    app.delete("/api/v1/admin/tiers/PRO").await.expect(204);
    let current = Stream::open(&app, Some("3")).await.next().await.unwrap();
    assert!(current.contains("event: current\n") && current.contains("{\"version\":3}"), "{current}");
    for behind in ["1", "2", "77", "nonsense"] {
        let event = Stream::open(&app, Some(behind)).await.next().await.unwrap();
        assert!(event.contains("event: settings\n") && event.contains("id: 3\n"), "{event}");
    }
}

#[tokio::test]
async fn an_idle_stream_shows_that_it_lives_and_ends_at_shutdown() {
    let app = App::new().await;
    let mut stream = Stream::open(&app, Some("1")).await;
    stream.next().await.unwrap();
    // Heartbeats come every 5 s; `next` waits no longer than that.
    let heartbeat = tokio::time::timeout(Duration::from_secs(8), stream.0.frame()).await.unwrap().unwrap().unwrap().into_data().unwrap();
    assert!(heartbeat.starts_with(b":"), "{heartbeat:?}");
    assert!(app.tasks.shutdown(Duration::from_secs(5)).await);
    assert_eq!(stream.next().await, None);
}

#[tokio::test]
async fn a_service_that_never_reached_its_store_serves_the_last_known_good_as_stale() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("settings.json");
    let store = Arc::new(MemorySettings::default());
    store.away.store(true, Ordering::SeqCst);
    let app = App::on(Arc::clone(&store), Some(file.clone()));
    app.get(DOCUMENT).await.refused(503, "unavailable");
    app.tasks.shutdown(Duration::from_secs(5)).await;

    std::fs::write(&file, serde_json::to_vec(&Settings { version: 4, ..Settings::default() }).unwrap()).unwrap();
    let app = App::on(Arc::clone(&store), Some(file));
    eventually("the file is loaded", || app.settings.current().version == 4).await;
    let stale = app.get(DOCUMENT).await.expect(200);
    assert_eq!((stale.headers["x-weir-config-stale"].to_str().unwrap(), stale.headers["etag"].to_str().unwrap()), ("true", "\"4\""));
    app.get(WATCH).await.refused(503, "unavailable");
    store.plant(Settings { version: 5, ..Settings::default() });
    store.away.store(false, Ordering::SeqCst);
    eventually("the store is followed", || !app.settings.is_stale()).await;
    assert_eq!(app.get(DOCUMENT).await.expect(200).headers.get("x-weir-config-stale"), None);
    assert_eq!(data(&Stream::open(&app, None).await.next().await.unwrap()).version, 5);
}
