//! Liveness, readiness with the age of each dependency, and metrics, under our names and the predecessor's.

use crate::{tasks::Tasks, telemetry};
use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use serde_json::{Map, Value, json};
use std::{
    collections::BTreeMap,
    fmt::Display,
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Longest wait for one answer of a dependency.
const PING_TIMEOUT: Duration = Duration::from_secs(2);
/// How often a starting process looks whether it is ready, and how often it says what it waits for.
const READY_POLL: Duration = Duration::from_millis(10);
const WAITING_NOTE: Duration = Duration::from_secs(5);
/// Longest reason that is shown, characters.
const REASON_LIMIT: usize = 200;

/// What this process needs. Cheap to clone; all clones share the dependencies.
#[derive(Clone, Debug, Default)]
pub struct Health {
    dependencies: Arc<Mutex<BTreeMap<String, Dependency>>>,
}

/// One thing that may be away: a store, a service.
#[derive(Clone, Debug)]
pub struct Dependency {
    required: bool,
    observed: Arc<Mutex<Observed>>,
}

#[derive(Clone, Debug, Default)]
struct Observed {
    up: bool,
    last_success: Option<Instant>,
    reason: Option<String>,
}

impl Health {
    pub fn new() -> Self {
        Self::default()
    }

    /// Something whose absence is shown but does not make the process unready.
    pub fn dependency(&self, name: &str) -> Dependency {
        self.register(name, false)
    }

    /// Something without which the process is not ready: 503 until its first success.
    pub fn dependency_required(&self, name: &str) -> Dependency {
        self.register(name, true)
    }

    fn register(&self, name: &str, required: bool) -> Dependency {
        let fresh = || Dependency { required, observed: Arc::default() };
        let mut dependencies = self.dependencies.lock().unwrap_or_else(PoisonError::into_inner);
        dependencies.entry(name.to_owned()).or_insert_with(fresh).clone()
    }

    /// Pings at once and then at each interval, until shutdown. An answer that takes longer than 2 s is a failure.
    pub fn watch<P, F, E>(&self, tasks: &Tasks, name: &str, required: bool, interval: Duration, ping: P)
    where
        P: Fn() -> F + Send + 'static,
        F: Future<Output = Result<(), E>> + Send,
        E: Display + Send,
    {
        let dependency = self.register(name, required);
        let token = tasks.token();
        tasks.spawn("health", async move {
            loop {
                match tokio::time::timeout(PING_TIMEOUT, ping()).await {
                    Ok(Ok(())) => dependency.ok(),
                    Ok(Err(error)) => dependency.failed(error),
                    Err(_) => dependency.failed("no answer within 2 s"),
                }
                tokio::select! {
                    () = token.cancelled() => break,
                    () = tokio::time::sleep(interval) => {}
                }
            }
        });
    }

    /// `/livez`, `/readyz`, `/metrics` and the `/actuator` names for them. None needs a credential.
    pub fn routes(&self) -> Router {
        let alive = || async { Json(json!({"status": "UP"})) };
        Router::new()
            .route("/livez", get(alive))
            .route("/readyz", get(ready))
            .route("/metrics", get(metrics_text))
            .route("/actuator/health", get(ready))
            .route("/actuator/health/liveness", get(alive))
            .route("/actuator/health/readiness", get(ready))
            .route("/actuator/info", get(|| async { Json(json!({"app": {"name": "weir", "version": env!("CARGO_PKG_VERSION")}})) }))
            .route("/actuator/prometheus", get(metrics_text))
            .with_state(self.clone())
    }

    /// Returns once [`Health::report`] says ready. Every 5 s until then the log says what is waited for.
    pub async fn ready(&self) {
        let mut noted = Instant::now();
        loop {
            let (ready, report) = self.report();
            if ready {
                return;
            }
            if noted.elapsed() >= WAITING_NOTE {
                noted = Instant::now();
                tracing::warn!(dependencies = %report["dependencies"], "not ready yet");
            }
            tokio::time::sleep(READY_POLL).await;
        }
    }

    /// Whether every required dependency is up, and the state of each.
    pub fn report(&self) -> (bool, Value) {
        let dependencies = self.dependencies.lock().unwrap_or_else(PoisonError::into_inner);
        let mut ready = true;
        let mut shown = Map::new();
        for (name, dependency) in dependencies.iter() {
            let observed = dependency.observed.lock().unwrap_or_else(PoisonError::into_inner).clone();
            ready &= observed.up || !dependency.required;
            let entry = json!({
                "status": if observed.up { "UP" } else { "DOWN" },
                "required": dependency.required,
                "ageSeconds": observed.last_success.map(|at| at.elapsed().as_secs()),
                "reason": observed.reason,
            });
            shown.insert(name.clone(), entry);
        }
        let status = if ready { "UP" } else { "DOWN" };
        (ready, json!({"status": status, "dependencies": shown}))
    }
}

impl Dependency {
    pub fn ok(&self) {
        let mut observed = self.observed.lock().unwrap_or_else(PoisonError::into_inner);
        *observed = Observed { up: true, last_success: Some(Instant::now()), reason: None };
    }

    pub fn failed(&self, reason: impl Display) {
        let reason = reason.to_string().chars().filter(|character| !character.is_control()).take(REASON_LIMIT).collect();
        let mut observed = self.observed.lock().unwrap_or_else(PoisonError::into_inner);
        observed.up = false;
        observed.reason = Some(reason);
    }
}

async fn ready(State(health): State<Health>) -> impl IntoResponse {
    let (ready, report) = health.report();
    (if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, Json(report))
}

async fn metrics_text() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], telemetry::render_metrics())
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::Request;
    use tower::ServiceExt;

    async fn status(health: &Health, path: &str) -> u16 {
        let request = Request::get(path).body(axum::body::Body::empty()).unwrap();
        health.routes().oneshot(request).await.unwrap().status().as_u16()
    }

    #[tokio::test]
    async fn only_a_required_dependency_makes_a_process_unready() {
        let health = Health::new();
        health.dependency("kafka").failed("connection refused\n");
        assert_eq!(status(&health, "/readyz").await, 200);
        let postgres = health.dependency_required("postgres");
        assert_eq!(status(&health, "/readyz").await, 503, "not ready before the first success");
        postgres.ok();
        assert_eq!(status(&health, "/actuator/health").await, 200);
        postgres.failed("gone");
        assert_eq!((status(&health, "/readyz").await, status(&health, "/livez").await), (503, 200));
        let (_, report) = health.report();
        assert_eq!(report["dependencies"]["kafka"]["reason"], "connection refused");
        assert_eq!(report["dependencies"]["kafka"]["ageSeconds"], Value::Null);
        assert_eq!(report["dependencies"]["postgres"]["ageSeconds"], 0);
    }

    #[tokio::test]
    async fn a_process_is_not_called_ready_before_the_first_answer_of_what_it_needs() {
        let health = Health::new();
        health.dependency("kafka").failed("connection refused");
        let postgres = health.dependency_required("postgres");
        let early = tokio::time::timeout(5 * READY_POLL, health.ready()).await;
        assert!(early.is_err(), "ready without an answer of postgres");
        postgres.ok();
        health.ready().await;
    }

    #[tokio::test]
    async fn a_watched_dependency_is_pinged_until_shutdown() {
        let (health, tasks) = (Health::new(), Tasks::new());
        let (pings, mut seen) = tokio::sync::mpsc::unbounded_channel();
        health.watch(&tasks, "store", true, Duration::from_millis(1), move || {
            let _ = pings.send(());
            async { Err::<(), _>("refused") }
        });
        for _ in 0..3 {
            seen.recv().await.unwrap();
        }
        assert_eq!(health.report().1["dependencies"]["store"]["reason"], "refused");
        assert!(tasks.shutdown(Duration::from_secs(5)).await);
    }
}
