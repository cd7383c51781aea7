//! The log becomes usage: raw events and exact totals, and the reports that read them.

#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]

mod anomalies;
mod dead_letters;
mod error;
mod org_report;
mod project;
mod query;
mod raw_events;
mod replay;
mod report;
mod routes;
mod totals;
mod usage;
mod view;
mod windows;

pub use project::Limits;

use axum::Router;
use ports::{Clock, accounts::Accounts, generations::Generations, replays::Replays};
use project::{Progress, Projection};
use routes::Service;
use service_kit::tasks::Tasks;
use std::sync::Arc;

/// Everything this service needs from outside.
pub struct Deps {
    /// Read by the projection and the reports; the ledger only by the audit.
    pub stores: audit::Stores,
    pub generations: Arc<dyn Generations>,
    pub replays: Arc<dyn Replays>,
    /// Roles in orgs.
    pub accounts: Arc<dyn Accounts>,
    pub clock: Clock,
    /// The consumer group whose members share the shards, e.g. `weir-analytics`.
    pub group: String,
    pub limits: Limits,
}

/// Starts the projection and returns the routes.
pub fn start(deps: Deps, tasks: &Tasks) -> Router {
    let progress = Progress::default();
    let projection = Projection {
        log: Arc::clone(&deps.stores.event_log),
        outbox: Arc::clone(&deps.stores.outbox),
        store: Arc::clone(&deps.stores.usage_store),
        group: deps.group,
        limits: deps.limits,
        clock: deps.clock.clone(),
        progress: progress.clone(),
        shutdown: tasks.token(),
    };
    tasks.spawn("analytics.projection", projection.run());
    tasks.spawn("analytics.lag", progress.watch(Arc::clone(&deps.stores.outbox), deps.clock.clone(), tasks.token()));
    let replayed = replay::Stores {
        replays: deps.replays,
        generations: deps.generations,
        usage: Arc::clone(&deps.stores.usage_store),
        outbox: Arc::clone(&deps.stores.outbox),
        log: Arc::clone(&deps.stores.event_log),
    };
    let replayer = replay::Replayer { stores: replayed.clone(), clock: deps.clock.clone(), shutdown: tasks.token() };
    tasks.spawn("analytics.replay", replayer.run());
    let letters = dead_letters::DeadLetters {
        log: Arc::clone(&deps.stores.event_log),
        outbox: Arc::clone(&deps.stores.outbox),
        clock: deps.clock.clone(),
    };
    let replay_routes = replay::routes(replayed, deps.clock.clone());
    let service = Service {
        usage_store: Arc::clone(&deps.stores.usage_store),
        outbox: Arc::clone(&deps.stores.outbox),
        accounts: deps.accounts,
        clock: deps.clock,
        stores: deps.stores,
        auditing: Arc::default(),
    };
    routes::routes(service).merge(replay_routes).merge(dead_letters::routes(letters))
}
