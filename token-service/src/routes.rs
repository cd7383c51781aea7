//! Path → handler.

use crate::{
    budgets, charges, consume, consume_batch, events, explain, holds, limits, pools, preview, purchases, quota, quota_stream, refunds,
    sagas, service::Service, webhooks,
};
use axum::{
    Router,
    routing::{delete, get, post, put},
};
use std::sync::Arc;

/// Those whose idempotency is the ledger's, and those that change nothing.
pub fn routes(service: Arc<Service>) -> Router {
    Router::new()
        .route("/api/v1/tokens/consume", post(consume::consume))
        .route("/tokens/consume", post(consume::consume))
        .route("/api/v1/events", post(events::ingest))
        .route("/api/v1/tokens/preview", post(preview::preview))
        .route("/api/v1/tokens/reserve", post(holds::reserve))
        .route("/api/v1/tokens/settle", post(holds::settle))
        .route("/api/v1/tokens/release", post(holds::release))
        .route("/api/v1/tokens/refund", post(refunds::refund))
        .route("/api/v1/tokens/purchase", post(purchases::purchase))
        .route("/api/v1/tokens/purchase/{id}", get(sagas::show))
        .route("/api/v1/admin/sagas", get(purchases::list_open))
        .route("/api/v1/admin/sagas/{id}/resume", post(purchases::resume))
        .route("/api/v1/admin/sagas/{id}/compensate", post(purchases::compensate))
        .route("/api/v1/tokens/sagas/{id}", get(sagas::show))
        .route("/api/v1/tokens/charges", get(charges::list))
        .route("/api/v1/tokens/charges/{id}", get(charges::show))
        .route("/api/v1/tokens/charges/{id}/explain", get(explain::explain))
        .route("/api/v1/tokens/quota", get(quota::of_user))
        .route("/api/v1/tokens/quota/org", get(quota::of_org))
        .route("/api/v1/tokens/quota/stream", get(quota_stream::stream))
        .route("/api/v1/tokens/webhooks", get(webhooks::list))
        .route("/api/v1/tokens/webhooks/{id}", delete(webhooks::remove))
        .route("/api/v1/tokens/webhooks/{id}/deliveries", get(webhooks::deliveries))
        .route("/api/v1/tokens/status", get(quota::status))
        .route("/api/v1/admin/pools", put(pools::set_allowance).get(pools::list))
        .route("/api/v1/admin/pools/grant", post(pools::grant))
        .with_state(service)
}

/// Those whose whole answer is kept under their idempotency key.
pub fn guarded(service: Arc<Service>) -> Router {
    Router::new()
        .route("/api/v1/tokens/consume/batch", post(consume_batch::consume_batch))
        .route("/api/v1/tokens/webhooks", post(webhooks::create))
        .route("/api/v1/tokens/webhooks/{id}/deliveries/{event}/redeliver", post(webhooks::redeliver))
        .route("/api/v1/admin/budgets", put(budgets::set).get(budgets::list))
        .route("/api/v1/limits/take", post(limits::take))
        .with_state(service)
}
