//! config-service: tiers, limits and providers as one versioned document; its way to every process; instances; the event schemas.

mod admin;
mod distribution;
mod document;
mod error;
pub mod feed;
mod instances;
mod schemas;

use axum::{
    Router,
    routing::{get, post, put},
};
use feed::Feed;
use instances::Instances;
use ports::{Clock, answers::Answers, settings::SettingsStore};
use service_kit::{settings::HotSettings, tasks::Tasks};
use std::{path::PathBuf, sync::Arc};
use tokio_util::sync::CancellationToken;

pub struct Deps {
    pub store: Arc<dyn SettingsStore>,
    pub answers: Arc<dyn Answers>,
    /// Fed by this service itself: [`start`] runs [`feed::feed_from_store`]'s loop on it.
    pub settings: HotSettings,
    pub clock: Clock,
    /// Where the newest document is kept for a start without the store.
    pub last_known_good: Option<PathBuf>,
    /// Topic of the usage events, e.g. `weir.usage`; the schema's subject is `<topic>-value`.
    pub usage_topic: String,
}

#[derive(Clone)]
struct Service {
    store: Arc<dyn SettingsStore>,
    feed: Feed,
    clock: Clock,
    instances: Arc<Instances>,
    usage_topic: Arc<str>,
    shutdown: CancellationToken,
}

pub fn start(deps: Deps, tasks: &Tasks) -> Router {
    let (answers, clock) = (deps.answers, deps.clock.clone());
    tasks.spawn("config-service.answers", idempotency::forget_old(Arc::clone(&answers), clock.clone(), tasks.token()));
    let service = Service {
        feed: Feed::new(deps.settings, deps.last_known_good),
        store: deps.store,
        clock: deps.clock,
        instances: Arc::default(),
        usage_topic: deps.usage_topic.into(),
        shutdown: tasks.token(),
    };
    tasks.spawn("settings-feed", service.feed.clone().follow_store(Arc::clone(&service.store), tasks.token()));
    let routes = Router::new()
        .route("/api/v1/admin/tiers", get(admin::tiers::list))
        .route("/api/v1/admin/tiers/{name}", get(admin::tiers::show).put(admin::tiers::put).delete(admin::tiers::delete))
        .route("/api/v1/admin/limits", get(admin::limits::list))
        .route("/api/v1/admin/limits/{name}", get(admin::limits::show).put(admin::limits::put).delete(admin::limits::delete))
        .route("/api/v1/admin/providers", get(admin::providers::list))
        .route("/api/v1/admin/providers/{name}", get(admin::providers::show).put(admin::providers::put).delete(admin::providers::delete))
        .route("/api/v1/admin/money", get(admin::prices::show_money).put(admin::prices::put_money))
        .route("/api/v1/admin/prices", get(admin::prices::list))
        .route("/api/v1/admin/prices/{name}", get(admin::prices::show).put(admin::prices::put).delete(admin::prices::delete))
        .route("/api/v1/admin/plans", get(admin::plans::list))
        .route("/api/v1/admin/plans/{name}", get(admin::plans::show).put(admin::plans::put).delete(admin::plans::delete))
        .route("/api/v1/plans", get(admin::plans::catalogue))
        .route("/api/v1/admin/config/versions", get(admin::versions::list))
        .route("/config/{app}/{profile}", get(distribution::document))
        .route("/config/{app}/{profile}/watch", get(distribution::watch))
        .route("/registry/instances", post(instances::register).get(instances::list))
        .route("/registry/instances/{id}", put(instances::heartbeat).delete(instances::deregister))
        .nest("/schema-registry", schemas::routes())
        .with_state(service);
    idempotency::guard(routes, answers, clock, "config-service")
}
