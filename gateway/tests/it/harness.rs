//! A gateway, an auth-service with a table of keys, and one service that echoes what it was sent, in process or on a port.

use axum::{
    Json, Router,
    body::{Body, to_bytes},
    extract::Request,
    http::{HeaderMap, StatusCode, request::Builder},
    response::{IntoResponse, Response},
    routing::{any, get, post},
};
use chrono::{DateTime, Utc};
use domain::{
    access::{Caller, Scope},
    ids::UserId,
};
use gateway::{Deps, Upstream, Upstreams};
use secrecy::SecretString;
use serde_json::{Value, json};
use service_kit::{
    health::Health,
    identity::{self, Authenticated, Identity},
    problem::Problem,
    serve,
    tasks::Tasks,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    future::IntoFuture,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use uuid::Uuid;

/// Where the services of a test are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    InProcess,
    OverHttp,
}

pub const BOTH: [Place; 2] = [Place::InProcess, Place::OverHttp];

/// Stands in for auth-service's answers about keys.
#[derive(Default)]
pub struct Keys {
    table: Mutex<BTreeMap<String, Option<DateTime<Utc>>>>,
    revision: AtomicI64,
    pub asked: AtomicUsize,
    pub away: AtomicBool,
}

impl Keys {
    pub fn insert(&self, key: &str, expires_at: Option<DateTime<Utc>>) {
        self.table.lock().unwrap().insert(key.to_owned(), expires_at);
    }

    pub fn revoke(&self, key: &str) {
        self.table.lock().unwrap().remove(key);
        self.revision.fetch_add(1, Ordering::SeqCst);
    }

    fn authenticate(&self, key: &str) -> Response {
        self.asked.fetch_add(1, Ordering::SeqCst);
        match self.table.lock().unwrap().get(key) {
            None => Problem::unauthenticated("invalid api key").with("reason", "invalid").into_response(),
            Some(Some(end)) if *end <= Utc::now() => Problem::unauthenticated("api key expired").with("reason", "expired").into_response(),
            Some(expires_at) => {
                let mut answer = serde_json::to_value(caller_of(key)).unwrap();
                if let Some(end) = expires_at {
                    answer["expiresAt"] = json!(end.to_rfc3339());
                }
                Json(answer).into_response()
            }
        }
    }
}

pub fn caller_of(key: &str) -> Caller {
    Caller {
        user_id: Some(UserId(Uuid::new_v5(&Uuid::NAMESPACE_OID, key.as_bytes()))),
        key_id: None,
        scopes: BTreeSet::from([Scope::TokensRead]),
        providers: BTreeSet::new(),
        org_ids: BTreeSet::new(),
    }
}

fn auth_service(keys: &Arc<Keys>) -> Router {
    let (for_revision, for_keys) = (Arc::clone(keys), Arc::clone(keys));
    let away = || Problem::unavailable("postgres", "away").into_response();
    Router::new()
        .route(
            "/internal/v1/revision",
            get(async move |Authenticated(caller): Authenticated| {
                assert!(caller.is_admin(), "only services may ask");
                if for_revision.away.load(Ordering::SeqCst) {
                    return away();
                }
                Json(json!({"revision": for_revision.revision.load(Ordering::SeqCst)})).into_response()
            }),
        )
        .route(
            "/internal/v1/authenticate",
            post(async move |Authenticated(caller): Authenticated, Json(body): Json<Value>| {
                assert!(caller.is_admin(), "only services may ask");
                if for_keys.away.load(Ordering::SeqCst) {
                    return away();
                }
                for_keys.authenticate(body["apiKey"].as_str().unwrap())
            }),
        )
        .merge(echo_service())
}

/// Answers with what it was sent.
pub fn echo_service() -> Router {
    Router::new().fallback(any(async |headers: HeaderMap, caller: Result<Authenticated, Problem>, request: Request| {
        let caller = caller.ok().map(|Authenticated(caller)| caller);
        let (parts, body) = request.into_parts();
        let body = to_bytes(body, usize::MAX).await.unwrap_or_default();
        let headers: BTreeMap<String, String> =
            headers.iter().map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())).collect();
        let seen = json!({
            "method": parts.method.as_str(),
            "path": parts.uri.path_and_query().map(ToString::to_string),
            "headers": headers,
            "caller": caller,
            "body": String::from_utf8_lossy(&body),
        });
        let answer_headers =
            [("x-ratelimit-limit", "10"), ("etag", "\"1\""), ("connection", "x-hop"), ("x-hop", "1"), ("x-frame-options", "ALLOW")];
        (StatusCode::ACCEPTED, answer_headers, Json(seen))
    }))
}

pub struct TestGateway {
    router: Router,
    pub keys: Arc<Keys>,
    tasks: Tasks,
    pub health: Health,
}

impl Drop for TestGateway {
    fn drop(&mut self) {
        self.tasks.token().cancel();
    }
}

pub fn shared_identity() -> Arc<Identity> {
    Arc::new(Identity::new(&SecretString::from("a secret that the processes of a test share")))
}

/// Serves a router on a free port until the token is cancelled; returns its URL.
pub async fn listen(router: Router, audience: &'static str, shutdown: CancellationToken) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let router = serve::standard_layers(identity::require(router, shared_identity(), audience), "test");
    tokio::spawn(serve::serve(listener, router, shutdown).into_future());
    url
}

pub fn client() -> reqwest::Client {
    service_kit::client::builder().read_timeout(Duration::from_secs(2)).build().unwrap()
}

impl TestGateway {
    pub async fn start(place: Place) -> Self {
        let keys = Arc::new(Keys::default());
        let tasks = Tasks::new();
        let auth = auth_service(&keys);
        let upstreams = match place {
            Place::InProcess => Upstreams {
                auth: Upstream::in_process(auth),
                token: Upstream::in_process(echo_service()),
                analytics: Upstream::in_process(echo_service()),
                config: Upstream::in_process(echo_service()),
            },
            Place::OverHttp => {
                let place = async |router, audience| {
                    let url = listen(router, audience, tasks.token()).await;
                    Upstream::http(&[url], client()).unwrap()
                };
                Upstreams {
                    auth: place(auth, "auth").await,
                    token: place(echo_service(), "token").await,
                    analytics: place(echo_service(), "analytics").await,
                    config: place(echo_service(), "config").await,
                }
            }
        };
        Self::with(upstreams, keys, tasks).await
    }

    /// A gateway whose token-service is given; auth-service is in process.
    pub async fn with_token_service(token: Upstream) -> Self {
        let keys = Arc::new(Keys::default());
        let upstreams = Upstreams {
            auth: Upstream::in_process(auth_service(&keys)),
            token,
            analytics: Upstream::in_process(echo_service()),
            config: Upstream::in_process(echo_service()),
        };
        Self::with(upstreams, keys, Tasks::new()).await
    }

    async fn with(upstreams: Upstreams, keys: Arc<Keys>, tasks: Tasks) -> Self {
        keys.insert("weir_good", None);
        let health = Health::new();
        let deps = Deps { identity: shared_identity(), upstreams, health: health.clone(), bench_echo: true };
        let router = serve::standard_layers(gateway::start(deps, &tasks).merge(health.routes()), "gateway");
        let gateway = Self { router, keys, tasks, health };
        while !gateway.health.report().0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        gateway
    }

    pub fn router(&self) -> Router {
        self.router.clone()
    }

    pub async fn send(&self, request: Request) -> (StatusCode, HeaderMap, Value) {
        let (parts, body) = self.router.clone().oneshot(request).await.unwrap().into_parts();
        let body = to_bytes(body, usize::MAX).await.unwrap();
        let body = serde_json::from_slice(&body).unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&body).into_owned()));
        (parts.status, parts.headers, body)
    }

    /// As the user of `weir_good`.
    pub async fn get(&self, path: &str) -> (StatusCode, HeaderMap, Value) {
        self.send(authorized(Request::get(path)).body(Body::empty()).unwrap()).await
    }
}

pub fn authorized(request: Builder) -> Builder {
    request.header("x-api-key", "weir_good")
}

pub fn empty(request: Builder) -> Request {
    request.body(Body::empty()).unwrap()
}
