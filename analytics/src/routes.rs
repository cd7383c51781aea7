//! Paths to handlers.

use crate::{anomalies::anomalies, error, org_report::org_report, query, report::report, usage::usage};
use axum::{
    Json, Router,
    extract::State,
    routing::{get, post},
};
use chrono::{DateTime, SecondsFormat, Utc};
use domain::{
    access::Scope,
    ids::{OrgId, UserId},
};
use ports::{Clock, accounts::Accounts, outbox::Outbox, usage_store::UsageStore};
use serde::Deserialize;
use serde_json::{Value, json};
use service_kit::{identity::Authenticated, json::StrictJson, problem::Problem};
use std::sync::Arc;
use tokio::sync::Mutex;

/// What every handler has.
#[derive(Clone)]
pub struct Service {
    pub usage_store: Arc<dyn UsageStore>,
    pub outbox: Arc<dyn Outbox>,
    pub accounts: Arc<dyn Accounts>,
    pub clock: Clock,
    pub stores: audit::Stores,
    /// One audit at a time: each reads everything there is.
    pub auditing: Arc<Mutex<()>>,
}

pub fn routes(service: Service) -> Router {
    Router::new()
        .route("/api/v1/analytics/health", get(health))
        .route("/api/v1/analytics/usage", get(usage))
        .route("/api/v1/analytics/report", get(report))
        .route("/api/v1/analytics/anomalies", get(anomalies))
        .route("/api/v1/analytics/orgs/{orgId}/report", get(org_report))
        .route("/api/v1/admin/audit", post(audit))
        .with_state(service)
}

async fn health(State(service): State<Service>) -> Json<Value> {
    Json(json!({"service": "analytics-service", "status": "ok", "timestamp": instant(service.clock.now())}))
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct AuditRequest {
    org_id: Option<OrgId>,
    user_id: Option<UserId>,
    from: Option<String>,
    to: Option<String>,
}

#[expect(clippy::disallowed_methods, reason = "no simulated process audits: the simulation does, when all have ended")]
async fn audit(
    State(service): State<Service>,
    Authenticated(caller): Authenticated,
    StrictJson(request): StrictJson<AuditRequest>,
) -> Result<Json<audit::Report>, Problem> {
    error::require(&caller, Scope::Admin)?;
    let (from, to) = query::range(request.from.as_deref(), request.to.as_deref())?;
    if from.zip(to).is_some_and(|(from, to)| from >= to) {
        return Err(Problem::field("from", "from must be before to"));
    }
    let scope = audit::Scope { org: request.org_id, user: request.user_id, from, to };
    let turn = service.auditing.lock_owned().await;
    // On a thread of its own: it decodes every event there is, which would hold up the requests of a worker thread.
    let runtime = tokio::runtime::Handle::current();
    let audit = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        runtime.block_on(audit::run(&service.stores, &scope, &|_| {}))
    });
    match audit.await {
        Ok(Ok(report)) => Ok(Json(report)),
        Ok(Err(failure)) => Err(error::audit_failed(&failure)),
        Err(panicked) => Err(Problem::internal(&panicked)),
    }
}

/// RFC 3339 in UTC with milliseconds.
pub fn instant(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// For averages and ratios only; counts and amounts stay whole numbers.
pub fn float(number: i64) -> f64 {
    number.to_string().parse().unwrap_or(f64::MAX)
}
