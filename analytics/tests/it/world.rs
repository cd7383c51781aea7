//! A running analytics service on fresh stores, and usage put where the projection would have put it.

use adapter_embedded::{Embedded, MemoryRateLimits};
use analytics::{Deps, Limits, start};
use axum::{
    Router,
    body::Body,
    http::{Method, Request, StatusCode, header},
};
use chrono::{DateTime, TimeDelta, Utc};
use domain::{
    access::{Caller, Role, Scope},
    amount::Tokens,
    event::{EventType, NewEvent, UsageEvent},
    ids::{EventId, KeyId, Model, OrgId, Payer, Provider, Shard, UserId},
    rollup::{self, CellKey, CellValue},
};
use http_body_util::BodyExt;
use ports::{
    Clock,
    accounts::{Accounts, Member, Org},
    usage_store::{Flush, ShardState, UsageStore},
};
use serde_json::Value;
use service_kit::tasks::Tasks;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
};
use tower::ServiceExt;
use uuid::Uuid;

pub const OPENAI: &str = "openai";

pub struct World {
    pub stores: Embedded,
    pub tasks: Tasks,
    pub router: Router,
    history: Mutex<BTreeMap<Shard, Vec<UsageEvent>>>,
}

#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub body: Value,
}

impl Answer {
    pub fn expect(self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{:#}", self.body);
        self.body
    }
}

pub fn at(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

pub fn noon() -> DateTime<Utc> {
    at("2026-11-21T12:00:30Z")
}

pub fn user() -> UserId {
    UserId(Uuid::new_v4())
}

/// A user with a key of the default scopes.
pub fn caller(user: UserId) -> Caller {
    Caller {
        user_id: Some(user),
        key_id: Some(KeyId(Uuid::new_v4())),
        scopes: Scope::DEFAULT.into(),
        providers: BTreeSet::new(),
        org_ids: BTreeSet::new(),
    }
}

pub fn admin() -> Caller {
    Caller { user_id: None, key_id: None, scopes: [Scope::Admin].into(), providers: BTreeSet::new(), org_ids: BTreeSet::new() }
}

/// One settled use.
pub fn settled(payer: Payer, user: UserId, tokens: i64, occurred_at: DateTime<Utc>) -> NewEvent {
    NewEvent {
        id: EventId(Uuid::new_v4()),
        kind: EventType::ChargeSettled,
        payer,
        user_id: Some(user),
        key_id: Some(KeyId(Uuid::from_u128(42))),
        provider: Some(Provider::parse(OPENAI).unwrap()),
        model: Some(Model::parse("gpt-4o").unwrap()),
        charge_id: None,
        tokens: Tokens::new(tokens).unwrap(),
        count: 1,
        cost: None,
        reason: None,
        occurred_at,
        metadata: BTreeMap::new(),
    }
}

pub fn refused(payer: Payer, user: UserId, count: i64, occurred_at: DateTime<Utc>) -> NewEvent {
    NewEvent { kind: EventType::RequestsRefused, count, reason: Some("rate_limited".into()), ..settled(payer, user, 999, occurred_at) }
}

impl World {
    pub async fn new() -> Self {
        Self::on(Embedded::in_temp().await.unwrap())
    }

    /// A process that starts on these stores.
    pub fn on(stores: Embedded) -> Self {
        let tasks = Tasks::new();
        let (shared, clock) = (Arc::new(stores.clone()), Clock::manual(noon()));
        let deps = Deps {
            stores: audit::Stores {
                ledger: shared.clone(),
                outbox: shared.clone(),
                event_log: shared.clone(),
                usage_store: shared.clone(),
                rate_limits: Arc::new(MemoryRateLimits::new(clock.clone())),
                settings: shared.clone(),
                accounts: shared.clone(),
                clock: clock.clone(),
            },
            generations: shared.clone(),
            replays: shared.clone(),
            accounts: shared,
            clock,
            group: "test".into(),
            limits: Limits::default(),
        };
        let router = start(deps, &tasks);
        Self { stores, tasks, router, history: Mutex::default() }
    }

    pub async fn org(&self, admin: UserId, members: &[UserId]) -> OrgId {
        let org = Org { id: OrgId(Uuid::new_v4()), name: "Acme".into(), created_at: noon() };
        self.stores.create_org(&org, Some(admin)).await.unwrap();
        for user_id in members {
            self.stores.put_member(org.id, Member { user_id: *user_id, role: Role::Member }).await.unwrap();
        }
        org.id
    }

    /// Numbers the events in their shards and stores them with their totals.
    pub async fn used(&self, events: Vec<NewEvent>) {
        let mut changed = BTreeSet::new();
        let flushes: Vec<Flush> = {
            let mut history = self.history.lock().unwrap();
            for event in events {
                let shard = event.payer.shard();
                let events = history.entry(shard).or_default();
                let seq = i64::try_from(events.len()).unwrap() + 1;
                let recorded_at = event.occurred_at + TimeDelta::milliseconds(2);
                events.push(UsageEvent { event, seq, epoch: 0, recorded_at });
                changed.insert(shard);
            }
            changed.iter().map(|shard| flush(*shard, &history[shard])).collect()
        };
        let generation = self.stores.live_generation().await.unwrap();
        self.stores.write(generation, &flushes).await.unwrap();
    }

    pub async fn send(&self, caller: Option<&Caller>, method: Method, path: &str, body: Option<&str>) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let mut request = request.body(body.map_or_else(Body::empty, |body| Body::from(body.to_owned()))).unwrap();
        if let Some(caller) = caller {
            request.extensions_mut().insert(Arc::new(caller.clone()));
        }
        let response = self.router.clone().oneshot(request).await.unwrap();
        let status = response.status();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        Answer { status, body: serde_json::from_slice(&bytes).unwrap_or(Value::Null) }
    }

    pub async fn get(&self, caller: &Caller, path: &str) -> Answer {
        self.send(Some(caller), Method::GET, &format!("/api/v1/analytics/{path}"), None).await
    }
}

fn flush(shard: Shard, events: &[UsageEvent]) -> Flush {
    let mut cells: BTreeMap<CellKey, CellValue> = BTreeMap::new();
    for event in events {
        rollup::cells(event).into_iter().for_each(|key| cells.entry(key).or_default().apply(event));
    }
    let last = events.last().unwrap();
    let state = ShardState { last_seq: last.seq, digest: 0, recorded_at_ms: last.recorded_at.timestamp_millis() };
    Flush { shard, raw: events.to_vec(), cells: cells.into_iter().collect(), state }
}
