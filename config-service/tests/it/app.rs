//! A running config-service and the means to wait for what it does.

use crate::store::MemorySettings;
use axum::{
    Router,
    body::Body,
    http::{HeaderMap, Method, Request, StatusCode},
};
use chrono::{DateTime, Utc};
use config_service::{Deps, feed, start};
use domain::{
    access::{Caller, Scope},
    ids::UserId,
};
use http_body_util::BodyExt;
use ports::Clock;
use serde_json::{Value, json};
use service_kit::{identity::service_caller, settings::HotSettings, tasks::Tasks};
use std::{
    collections::BTreeSet,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};
use tower::ServiceExt;
use uuid::Uuid;

pub struct App {
    pub store: Arc<MemorySettings>,
    pub settings: HotSettings,
    pub clock: Clock,
    pub tasks: Tasks,
    pub router: Router,
}

#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Value,
}

impl Answer {
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status.as_u16(), status, "{:#}", self.body);
        self
    }

    pub fn refused(self, status: u16, code: &str) -> Self {
        let answer = self.expect(status);
        assert_eq!(answer.body["code"], code, "{:#}", answer.body);
        answer
    }

    /// A 400 about one field.
    pub fn wrong(self, field: &str) -> Self {
        let answer = self.refused(400, "validation_failed");
        assert_eq!(answer.body["errors"][0]["field"], field, "{:#}", answer.body);
        answer
    }
}

impl App {
    /// On an empty store; the settings are fed.
    pub async fn new() -> Self {
        let app = Self::on(Arc::default(), None);
        eventually("the settings are fed", || !app.settings.is_stale() && app.settings.current().version == 1).await;
        app
    }

    pub fn on(store: Arc<MemorySettings>, last_known_good: Option<PathBuf>) -> Self {
        let start_time: DateTime<Utc> = "2026-11-21T12:00:00.250Z".parse().unwrap();
        let (clock, tasks) = (Clock::manual(start_time), Tasks::new());
        let settings = HotSettings::new(feed::before_the_first_document());
        let deps = Deps {
            store: Arc::clone(&store) as _,
            answers: Arc::new(idempotency::memory::MemoryAnswers::default()),
            settings: settings.clone(),
            clock: clock.clone(),
            last_known_good,
            usage_topic: "weir.usage".into(),
        };
        let router = start(deps, &tasks);
        Self { store, settings, clock, tasks, router }
    }

    pub async fn response(
        &self,
        caller: Option<&Caller>,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&Value>,
    ) -> axum::response::Response {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(caller) = caller {
            request = request.extension(Arc::new(caller.clone()));
        }
        let body = match body {
            Some(body) => {
                request = request.header("content-type", "application/json");
                Body::from(body.to_string())
            }
            None => Body::empty(),
        };
        self.router.clone().oneshot(request.body(body).unwrap()).await.unwrap()
    }

    pub async fn send(
        &self,
        caller: Option<&Caller>,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Answer {
        let (parts, body) = self.response(caller, method, path, headers, body).await.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let body = serde_json::from_slice(&bytes).unwrap_or_else(|_| json!(String::from_utf8_lossy(&bytes)));
        Answer { status: parts.status, headers: parts.headers, body }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(Some(&service_caller()), Method::GET, path, &[], None).await
    }

    pub async fn put(&self, path: &str, body: Value) -> Answer {
        self.send(Some(&service_caller()), Method::PUT, path, &[], Some(&body)).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.send(Some(&service_caller()), Method::POST, path, &[], Some(&body)).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.send(Some(&service_caller()), Method::DELETE, path, &[], None).await
    }
}

/// A user with every scope but `admin`.
pub fn user() -> Caller {
    let scopes = Scope::ALL.into_iter().filter(|scope| *scope != Scope::Admin).collect();
    Caller { user_id: Some(UserId(Uuid::new_v4())), key_id: None, scopes, providers: BTreeSet::new(), org_ids: BTreeSet::new() }
}

/// Waits for the condition; fails after 5 s, or says how long it took.
pub async fn eventually(what: &str, satisfied: impl Fn() -> bool) -> Duration {
    let started = Instant::now();
    while !satisfied() {
        assert!(started.elapsed() < Duration::from_secs(5), "not within 5 s: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    started.elapsed()
}
