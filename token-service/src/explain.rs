//! `GET charges/{id}/explain`: where a charge's tokens came from, which number its first event has, and the limits, budgets and pool
//! that apply to it, as they are now.

use crate::{
    budgets,
    callers::Reader,
    charges::{ChargeRecord, visible},
    error,
    json_answer::{Instant, json_answer},
    payer::sight_of,
    quota::{BucketRecord, levels},
    service::{Service, allowance_cap},
};
use axum::{
    extract::{Path, State},
    http::StatusCode,
    response::Response,
};
use domain::{
    amount::Tokens,
    budget::Budget,
    charge::Charge,
    ids::Shard,
    ledger::{PoolView, pool_view},
    pool::PoolKey,
};
use ports::rate_limits::{Owners, applicable};
use serde::Serialize;
use serde_json::Value;
use service_kit::problem::Problem;
use std::sync::Arc;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Explanation<'a> {
    charge: ChargeRecord<'a>,
    /// Settled after the hold had expired.
    late: bool,
    paid_from: PaidFrom,
    first_event: FirstEvent,
    /// What applies now; only to those who see more than the charge.
    #[serde(flatten)]
    now: Option<Now>,
}

/// Of a hold what it keeps, of an ended charge what it took.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PaidFrom {
    allowance: Tokens,
    /// Start of the period whose allowance that was.
    period_start: Option<Instant>,
    purchased: Tokens,
    debt: Tokens,
}

#[derive(Serialize)]
struct FirstEvent {
    shard: Shard,
    seq: i64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Now {
    /// `null` while the buckets cannot be asked.
    limits_now: Option<Vec<BucketRecord>>,
    budgets_now: Vec<Value>,
    pool_now: Option<PoolView>,
}

pub async fn explain(State(service): State<Arc<Service>>, Reader(caller): Reader, Path(id): Path<String>) -> Result<Response, Problem> {
    let charge = visible(&service, &caller, &id).await?;
    let now = match sight_of(&service, &caller, charge.spec.payer).await? {
        Some(_) => Some(now(&service, &charge).await?),
        // Somebody who has left the org that paid.
        None => None,
    };
    let explanation = Explanation {
        late: charge.late,
        paid_from: PaidFrom {
            allowance: charge.from_allowance,
            period_start: charge.period_start.map(Instant),
            purchased: charge.from_purchased,
            debt: charge.debt,
        },
        first_event: FirstEvent { shard: charge.spec.payer.shard(), seq: charge.seq },
        charge: ChargeRecord::of(&charge),
        now,
    };
    json_answer(StatusCode::OK, &explanation)
}

async fn now(service: &Service, charge: &Charge) -> Result<Now, Problem> {
    let (spec, settings) = (&charge.spec, service.settings.current());
    let facts = service.facts.of(spec.user_id, spec.payer.org()).await.map_err(|failure| error::store(&failure))?;
    let asked = applicable(&settings, &Owners::of_charge(&settings, charge, &facts), &spec.provider, spec.model.as_ref());
    let key = PoolKey { payer: spec.payer, provider: spec.provider.clone() };
    let pool = service.ledger.find_pool(&key).await.map_err(|failure| error::store(&failure))?;
    let cap = allowance_cap(&settings, spec.payer, &facts);
    let covers = |budget: &Budget| budget.covers(spec);
    Ok(Now {
        limits_now: levels(service, &settings, asked).await,
        budgets_now: budgets::records(service, spec.payer, Some(spec.user_id), covers).await?,
        pool_now: pool.map(|pool| PoolView::of(&pool_view(&pool, service.clock.now(), cap))),
    })
}
