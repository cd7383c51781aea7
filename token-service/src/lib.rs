//! Spending: consume, reserve, settle, release, quota, pools. One call to the buckets, one to the ledger, then the answer.
//!
//! A request is parsed and authorised in its handler; from the moment something may change it runs as a *story* of its own
//! ([`service::Service::to_its_end`]), which a client that disconnects cannot cut short.

#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]

mod archive;
mod buckets;
mod budgets;
mod callers;
mod change_once;
mod charges;
mod consume;
mod consume_answer;
mod consume_batch;
mod counters;
mod dialect;
mod error;
mod events;
mod explain;
mod group_commit;
mod holds;
mod idempotency;
mod json_answer;
mod limits;
mod payer;
mod pools;
mod preview;
mod prompted;
mod provider_call;
mod purchases;
mod quota;
mod quota_stream;
mod rate_record;
mod recent_uses;
mod refunds;
mod refusals;
mod routes;
mod sagas;
mod seen;
mod service;
mod spend_facts;
mod spend_request;
mod spending;
mod sweeper;
mod token_kinds;
mod unasked;
mod unknown_outcome;
mod webhooks;

pub use archive::OldEvents;
pub use provider_call::provider_client;
pub use purchases::{Paid, PaymentCall, Payments};
pub use webhooks::Networks;

use axum::Router;
use domain::ids::Provider;
use ports::{
    Clock, accounts::Accounts, answers::Answers, event_log::EventLog, ledger::Ledger, outbox::Outbox, rate_limits::RateLimits,
    usage_store::UsageStore, webhooks::Webhooks,
};
use service::Service;
use service_kit::{config::LedgerWrite, settings::HotSettings, tasks::Tasks};
use std::{collections::BTreeMap, sync::Arc};
use tokio_util::sync::CancellationToken;

pub use webhooks::client as webhook_client;

/// Everything this service needs from outside.
pub struct Deps {
    pub ledger: Arc<dyn Ledger>,
    pub rate_limits: Arc<dyn RateLimits>,
    /// Buckets of this process alone, used while `rate_limits` is away.
    pub local_rate_limits: Arc<dyn RateLimits>,
    pub accounts: Arc<dyn Accounts>,
    pub outbox: Arc<dyn Outbox>,
    /// Only to explain charges.
    pub event_log: Arc<dyn EventLog>,
    /// To explain charges, and for how far refunds are counted.
    pub usage_store: Arc<dyn UsageStore>,
    pub webhooks: Arc<dyn Webhooks>,
    /// Where webhooks may be.
    pub networks: Networks,
    /// From [`webhook_client`].
    pub webhook_http: reqwest::Client,
    pub answers: Arc<dyn Answers>,
    pub settings: HotSettings,
    pub clock: Clock,
    pub write: LedgerWrite,
    /// Where a provider is reached whose settings name no base URL: the stubs' addresses, or what the environment says.
    /// The stub of a dialect is found under `openai`, `gemini` or `qwen`.
    pub provider_urls: BTreeMap<Provider, String>,
    /// From [`provider_client`].
    pub http: reqwest::Client,
    pub payments: Payments,
}

/// Starts the writer and the other background tasks and returns the routes. At shutdown the stories in progress are told to their
/// end, then the refusals of the last second are written, then the writer stops.
pub fn start(deps: Deps, tasks: &Tasks) -> Router {
    let (answers, clock) = (Arc::clone(&deps.answers), deps.clock.clone());
    let courier = webhooks::deliver::Courier {
        outbox: Arc::clone(&deps.outbox),
        webhooks: Arc::clone(&deps.webhooks),
        http: deps.webhook_http.clone(),
        networks: deps.networks,
        clock: clock.clone(),
    };
    let (service, writer) = Service::new(deps, tasks.token());
    let service = Arc::new(service);
    let stop_writer = CancellationToken::new();
    tasks.spawn("token-service.group-commit", writer.run(stop_writer.clone()));
    tasks.spawn("token-service.spend-facts", spend_facts::follow_revision(Arc::clone(&service), tasks.token()));
    tasks.spawn("token-service.quota-streams", Arc::clone(&service.heads).follow(Arc::clone(&service.outbox)));
    tasks.spawn("token-service.webhooks", courier.run(tasks.token()));
    tasks.spawn("token-service.sweeper", sweeper::sweep(Arc::clone(&service), tasks.token()));
    tasks.spawn("token-service.purchases", purchases::work(Arc::clone(&service), tasks.token()));
    tasks.spawn("token-service.refunds", refunds::complete(Arc::clone(&service), tasks.token()));
    tasks.spawn("token-service.refusals", {
        let (service, shutdown) = (Arc::clone(&service), tasks.token());
        async move {
            refusals::flush_each_second(&service, shutdown).await;
            service.finish_stories().await;
            service.refusals.flush(&service).await;
            stop_writer.cancel();
        }
    });
    tasks.spawn("token-service.answers", ::idempotency::forget_old(Arc::clone(&answers), clock.clone(), tasks.token()));
    let guarded = ::idempotency::guard(routes::guarded(Arc::clone(&service)), answers, clock, "token-service");
    routes::routes(service).merge(guarded)
}
