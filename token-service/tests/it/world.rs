//! A service on fakes, people to call it, and its answers.

use crate::fakes::{Downstream, FakeAccounts, FakeBuckets, FakeLedger, FakeWebhooks};
use axum::{
    Router,
    body::Body,
    http::{HeaderMap, Request, StatusCode, header},
};
use chrono::TimeDelta;
use domain::{
    access::{Caller, Scope},
    amount::Tokens,
    ids::{KeyId, OrgId, Payer, Provider, UserId},
    ledger::{Command, Request as LedgerCommand},
    pool::PoolKey,
    settings::Settings,
};
use http_body_util::BodyExt;
use idempotency::memory::MemoryAnswers;
use ports::{
    Clock,
    ledger::{Ledger, LedgerRequest},
};
use serde_json::Value;
use service_kit::{config::LedgerWrite, identity::service_caller, settings::HotSettings, tasks::Tasks};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};
use token_service::{Deps, Networks, Payments, provider_client, start, webhook_client};
use tower::ServiceExt;
use uuid::Uuid;

/// The stores, which outlive any process.
#[derive(Clone)]
pub struct Stores {
    pub ledger: Arc<FakeLedger>,
    pub buckets: Arc<FakeBuckets>,
    pub accounts: Arc<FakeAccounts>,
    pub answers: Arc<MemoryAnswers>,
    pub downstream: Arc<Downstream>,
    pub payment_url: Option<String>,
    pub clock: Clock,
}

impl Stores {
    pub fn new() -> Self {
        let clock = Clock::manual("2026-11-21T12:00:00Z".parse().unwrap());
        Self {
            ledger: Arc::default(),
            buckets: Arc::new(FakeBuckets::new(clock.clone())),
            accounts: Arc::default(),
            answers: Arc::default(),
            downstream: Arc::default(),
            payment_url: None,
            clock,
        }
    }
}

pub struct World {
    pub stores: Stores,
    pub settings: HotSettings,
    pub tasks: Tasks,
    router: Router,
}

impl std::ops::Deref for World {
    type Target = Stores;
    fn deref(&self) -> &Stores {
        &self.stores
    }
}

impl World {
    pub fn new() -> Self {
        Self::on(Stores::new(), Settings::default(), LedgerWrite::Grouped, None)
    }

    pub fn with(settings: Settings) -> Self {
        Self::on(Stores::new(), settings, LedgerWrite::Grouped, None)
    }

    /// One process. `provider_url` is where every provider is reached.
    pub fn on(stores: Stores, settings: Settings, write: LedgerWrite, provider_url: Option<&str>) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let provider_urls = settings.providers.keys().filter_map(|name| provider_url.map(|url| (name.clone(), url.to_owned()))).collect();
        let settings = HotSettings::new(settings);
        let tasks = Tasks::new();
        let deps = Deps {
            ledger: Arc::clone(&stores.ledger) as _,
            rate_limits: Arc::clone(&stores.buckets) as _,
            local_rate_limits: Arc::new(FakeBuckets::new(stores.clock.clone())),
            accounts: Arc::clone(&stores.accounts) as _,
            answers: Arc::clone(&stores.answers) as _,
            outbox: Arc::clone(&stores.ledger) as _,
            event_log: Arc::clone(&stores.downstream) as _,
            usage_store: Arc::clone(&stores.downstream) as _,
            webhooks: Arc::new(FakeWebhooks::default()),
            networks: Networks::Public,
            webhook_http: webhook_client(Networks::Public).unwrap(),
            settings: settings.clone(),
            clock: stores.clock.clone(),
            write,
            provider_urls,
            http: provider_client().unwrap(),
            payments: stores.payment_url.clone().map_or(Payments::Nowhere, Payments::At),
        };
        let router = start(deps, &tasks);
        Self { stores, settings, tasks, router }
    }

    /// Purchased tokens, past the API.
    pub async fn grant(&self, payer: Payer, amount: i64) {
        let pool = openai_pool(payer);
        let command = Command::Grant { pool, tokens: tokens(amount), reason: "test".into() };
        let request = LedgerCommand { command, now: self.clock.now(), allowance_cap: None, cost: None };
        let request = LedgerRequest { request, shard: payer.shard(), idempotency: None, trace_parent: None, seen: Vec::new() };
        self.ledger.apply(&[request]).await.unwrap();
    }

    pub fn remaining(&self, payer: Payer) -> i64 {
        self.ledger.pool(&openai_pool(payer)).remaining().get()
    }

    pub async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes().to_vec();
        Answer { status: parts.status, headers: parts.headers, body: serde_json::from_slice(&bytes).unwrap_or(Value::Null), bytes }
    }

    /// The body as it comes, for streams.
    pub async fn open(&self, caller: &Caller, path: &str, headers: &[(&str, &str)]) -> (StatusCode, Body) {
        let request = headers
            .iter()
            .fold(Request::get(path).extension(Arc::new(caller.clone())), |request, (name, value)| request.header(*name, *value));
        let response = self.router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        (response.status(), response.into_body())
    }

    pub fn post<'a>(&'a self, caller: &Caller, path: &str, body: &Value) -> impl Future<Output = Answer> + use<'a> {
        self.send(post(caller, path, body))
    }

    pub fn post_keyed<'a>(&'a self, caller: &Caller, path: &str, key: &str, body: &Value) -> impl Future<Output = Answer> + use<'a> {
        let mut request = post(caller, path, body);
        request.headers_mut().insert("idempotency-key", key.parse().unwrap());
        self.send(request)
    }

    pub fn put<'a>(&'a self, caller: &Caller, path: &str, body: &Value) -> impl Future<Output = Answer> + use<'a> {
        let mut request = post(caller, path, body);
        *request.method_mut() = axum::http::Method::PUT;
        self.send(request)
    }

    pub fn get<'a>(&'a self, caller: &Caller, path: &str) -> impl Future<Output = Answer> + use<'a> {
        self.send(Request::get(path).extension(Arc::new(caller.clone())).body(Body::empty()).unwrap())
    }

    pub fn consume<'a>(&'a self, caller: &Caller, body: &Value) -> impl Future<Output = Answer> + use<'a> {
        self.post(caller, "/api/v1/tokens/consume", body)
    }

    pub fn advance(&self, seconds: i64) {
        self.clock.advance(TimeDelta::seconds(seconds));
    }
}

pub fn post(caller: &Caller, path: &str, body: &Value) -> Request<Body> {
    let request = Request::post(path).header(header::CONTENT_TYPE, "application/json").extension(Arc::new(caller.clone()));
    request.body(Body::from(body.to_string())).unwrap()
}

pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Value,
    pub bytes: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status.as_u16(), status, "{}", String::from_utf8_lossy(&self.bytes));
        self
    }

    /// Status and code of a problem.
    #[track_caller]
    pub fn expect_problem(self, status: u16, code: &str) -> Self {
        let answer = self.expect(status);
        assert_eq!(answer.header("content-type"), Some("application/problem+json"));
        assert_eq!(answer.body["code"], code);
        assert_eq!(answer.body["message"], answer.body["detail"]);
        answer
    }

    pub fn is_replay(&self) -> bool {
        self.header("idempotent-replayed") == Some("true")
    }
}

pub fn tokens(amount: i64) -> Tokens {
    Tokens::new(amount).unwrap()
}

pub fn user(number: u128) -> UserId {
    UserId(Uuid::from_u128(number))
}

pub fn org(number: u128) -> OrgId {
    OrgId(Uuid::from_u128(1_000 + number))
}

/// A user's own key with the default scopes.
pub fn caller(number: u128) -> Caller {
    Caller { user_id: Some(user(number)), key_id: Some(KeyId(Uuid::from_u128(9_000 + number))), scopes: Scope::DEFAULT.into(), ..admin() }
}

/// The bootstrap administrator, who is no user.
pub fn admin() -> Caller {
    service_caller()
}

pub fn restricted(caller: Caller, providers: &[&str], orgs: &[OrgId]) -> Caller {
    let providers: BTreeSet<Provider> = providers.iter().map(|name| Provider::parse(name).unwrap()).collect();
    Caller { providers, org_ids: orgs.iter().copied().collect(), ..caller }
}

pub fn openai() -> Provider {
    Provider::parse("openai").unwrap()
}

pub fn openai_pool(payer: Payer) -> PoolKey {
    PoolKey { payer, provider: openai() }
}

/// Settings with other limits: name → (scope, capacity, leak per second, outage mode), as JSON.
pub fn limits(limits: &[(&str, Value)]) -> Settings {
    let limits: BTreeMap<_, _> =
        limits.iter().map(|(name, limit)| ((*name).to_owned(), serde_json::from_value(limit.clone()).unwrap())).collect();
    Settings { limits, ..Settings::default() }
}

/// Waits for something that a background task will make true.
pub async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(tokio::time::Instant::now() < deadline, "{what} did not come true");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
