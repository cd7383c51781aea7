//! Which service owns which path, and what needs no credential. Whatever is not listed is not reachable.

use crate::{Gateway, pages, upstream};
use axum::{
    Json, Router,
    extract::{Request, State},
    http::HeaderName,
    response::{IntoResponse, Response},
    routing::{any, get, post},
};
use service_kit::{json::StrictJson, problem::Problem};
use std::sync::Arc;

/// A service behind the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    Auth,
    Token,
    Analytics,
    Config,
}

impl Service {
    /// As answers and operators name it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auth => "auth-service",
            Self::Token => "token-service",
            Self::Analytics => "analytics",
            Self::Config => "config-service",
        }
    }

    /// As identities name it: one made for another service is refused.
    pub const fn audience(self) -> &'static str {
        match self {
            Self::Auth => "auth",
            Self::Token => "token",
            Self::Analytics => "analytics",
            Self::Config => "config",
        }
    }
}

/// Every method, with a credential. What a caller may do there is the service's decision.
const GUARDED: [(&str, Service); 39] = [
    ("/api/v1/auth/{*rest}", Service::Auth),
    ("/api/v1/orgs", Service::Auth),
    ("/api/v1/orgs/{*rest}", Service::Auth),
    ("/api/v1/admin/users/{id}/tier", Service::Auth),
    ("/api/v1/admin/orgs/{id}/tier", Service::Auth),
    ("/api/v1/tokens/{*rest}", Service::Token),
    ("/tokens/consume", Service::Token),
    ("/api/v1/admin/pools", Service::Token),
    ("/api/v1/admin/pools/{*rest}", Service::Token),
    ("/api/v1/admin/budgets", Service::Token),
    ("/api/v1/admin/sagas", Service::Token),
    ("/api/v1/admin/sagas/{*rest}", Service::Token),
    ("/api/v1/limits/{*rest}", Service::Token),
    ("/api/v1/analytics/{*rest}", Service::Analytics),
    ("/api/v1/admin/audit", Service::Analytics),
    ("/api/v1/admin/replay", Service::Analytics),
    ("/api/v1/admin/replay/{*rest}", Service::Analytics),
    ("/api/v1/admin/dead-letters", Service::Analytics),
    ("/api/v1/admin/dead-letters/{*rest}", Service::Analytics),
    ("/api/v1/admin/tiers", Service::Config),
    ("/api/v1/admin/tiers/{*rest}", Service::Config),
    ("/api/v1/admin/limits", Service::Config),
    ("/api/v1/admin/limits/{*rest}", Service::Config),
    ("/api/v1/admin/providers", Service::Config),
    ("/api/v1/admin/providers/{*rest}", Service::Config),
    ("/api/v1/admin/money", Service::Config),
    ("/api/v1/admin/prices", Service::Config),
    ("/api/v1/admin/prices/{*rest}", Service::Config),
    ("/api/v1/plans", Service::Config),
    ("/api/v1/admin/plans", Service::Config),
    ("/api/v1/admin/plans/{*rest}", Service::Config),
    ("/api/v1/admin/config", Service::Config),
    ("/api/v1/admin/config/{*rest}", Service::Config),
    ("/config", Service::Config),
    ("/config/{*rest}", Service::Config),
    ("/registry", Service::Config),
    ("/registry/{*rest}", Service::Config),
    ("/api/v1/limits", Service::Token),
    ("/api/v1/analytics", Service::Analytics),
];

/// Every method, without a credential.
const PUBLIC: [(&str, Service); 2] = [("/api/v1/tokens/status", Service::Token), ("/api/v1/analytics/health", Service::Analytics)];

/// Reading needs no credential, so that standard Avro tools can decode; everything else does.
const PUBLIC_READ: [(&str, Service); 2] = [("/schema-registry", Service::Config), ("/schema-registry/{*rest}", Service::Config)];

/// Usage that already happened; its headers may be part of it.
const EVENTS: (&str, Service) = ("/api/v1/events", Service::Token);

/// The key in question is this request's subject, not its credential: it alone is passed on.
const KEY_CHECK: (&str, Service) = ("/api/v1/auth/api-keys/validate", Service::Auth);

pub(crate) fn router(gateway: Arc<Gateway>, bench_echo: bool) -> Router {
    let mut router = Router::new()
        .route(KEY_CHECK.0, any(key_check))
        .route(EVENTS.0, any(events))
        .route("/docs/errors/{code}", get(pages::error_page))
        .route("/fallback/{service}", any(pages::fallback));
    for (path, service) in GUARDED {
        router = router.route(path, any(move |gateway, request| guarded(gateway, service, request)));
    }
    for (path, service) in PUBLIC {
        router = router.route(path, any(move |gateway, request| public(gateway, service, request)));
    }
    for (path, service) in PUBLIC_READ {
        let read = get(move |gateway, request| public(gateway, service, request));
        router = router.route(path, read.fallback(move |gateway, request| guarded(gateway, service, request)));
    }
    if bench_echo {
        router = router.route("/bench/echo", post(echo));
    }
    router.with_state(gateway)
}

async fn guarded(State(gateway): State<Arc<Gateway>>, service: Service, request: Request) -> Response {
    guarded_with(&gateway, service, request, &upstream::FORWARDED).await
}

async fn events(State(gateway): State<Arc<Gateway>>, request: Request) -> Response {
    guarded_with(&gateway, EVENTS.1, request, &upstream::FORWARDED_WITH_EVENT).await
}

async fn guarded_with(gateway: &Arc<Gateway>, service: Service, request: Request, forwarded: &[HeaderName]) -> Response {
    let caller = match gateway.authenticator.authenticate(gateway, request.headers()).await {
        Ok(caller) => caller,
        Err(problem) => return problem.into_response(),
    };
    upstream::forward(gateway, service, Some(caller), request, forwarded).await
}

async fn public(State(gateway): State<Arc<Gateway>>, service: Service, request: Request) -> Response {
    upstream::forward(&gateway, service, None, request, &upstream::FORWARDED).await
}

async fn key_check(State(gateway): State<Arc<Gateway>>, request: Request) -> Response {
    upstream::forward(&gateway, KEY_CHECK.1, None, request, &upstream::FORWARDED_WITH_KEY).await
}

async fn echo(State(gateway): State<Arc<Gateway>>, request: Request) -> Result<Response, Problem> {
    use axum::extract::FromRequest;
    gateway.authenticator.authenticate(&gateway, request.headers()).await?;
    let StrictJson(body) = StrictJson::<serde_json::Value>::from_request(request, &()).await?;
    Ok(Json(body).into_response())
}
