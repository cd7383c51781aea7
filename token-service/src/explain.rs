//! `GET charges/{id}/explain`: the story of a charge. What the limits said when it was let in, where its tokens came from, its events and
//! where they have come to, and the limits, budgets and pool that apply to it, as they are now.

mod trail;

use crate::{
    budgets,
    callers::Reader,
    charges::{ChargeRecord, visible},
    error,
    json_answer::{Instant, json_answer},
    payer::sight_of,
    quota::{BucketRecord, levels},
    rate_record::OutageMode,
    sagas::SagaRecord,
    seen::{Seen, SeenLimit},
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
    settings::{Algorithm, LimitScope},
};
use ports::rate_limits::{Owners, applicable};
use serde::Serialize;
use serde_json::Value;
use service_kit::problem::Problem;
use std::sync::Arc;
use trail::{Found, Shown, Stages};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Explanation<'a> {
    charge: ChargeRecord<'a>,
    /// Settled after the hold had expired.
    late: bool,
    /// `null` where its first event is not kept any more.
    let_in_by: Option<Decision>,
    paid_from: PaidFrom,
    first_event: FirstEvent,
    refunds: Vec<SagaRecord<'a>>,
    events: Vec<Stages>,
    /// Whether `events` go up to the present state; later ones may stand far behind in the outbox.
    events_complete: bool,
    /// What applies now; only to those who see more than the charge.
    #[serde(flatten)]
    now: Option<Now>,
}

/// The limits that were asked, all of which let it in.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Decision {
    /// How limits were held if their store was away.
    #[serde(skip_serializing_if = "Option::is_none")]
    mode: Option<OutageMode>,
    limits: Vec<DecidingLimit>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct DecidingLimit {
    limit: String,
    scope: LimitScope,
    algorithm: Algorithm,
    capacity: i64,
    used_before: i64,
    used_after: i64,
}

impl Decision {
    fn of(first: &Found) -> Option<Self> {
        let Seen { mode, limits } = Seen::from_bytes(&first.row.seen)?;
        let amount = first.event.event.tokens;
        let limit = |level: SeenLimit| DecidingLimit {
            used_before: level.before(amount),
            used_after: level.used,
            limit: level.limit,
            scope: level.scope,
            algorithm: level.algorithm,
            capacity: level.capacity,
        };
        Some(Self { mode, limits: limits.into_iter().map(limit).collect() })
    }
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
    let sight = sight_of(&service, &caller, charge.spec.payer).await?;
    let (found, events_complete) = trail::of_charge(&service, &charge).await.map_err(|failure| error::store(&failure))?;
    let shown = Shown { sight, platform: caller.is_admin() };
    let events = trail::stages(&service, &found, shown).await.map_err(|failure| error::store(&failure))?;
    let refunds = trail::refunds(&service, &found).await.map_err(|failure| error::store(&failure))?;
    let now = match sight {
        Some(_) => Some(now(&service, &charge).await?),
        // Somebody who has left the org that paid.
        None => None,
    };
    let explanation = Explanation {
        late: charge.late,
        let_in_by: found.first().filter(|first| first.row.seq == charge.seq).and_then(Decision::of),
        paid_from: PaidFrom {
            allowance: charge.from_allowance,
            period_start: charge.period_start.map(Instant),
            purchased: charge.from_purchased,
            debt: charge.debt,
        },
        first_event: FirstEvent { shard: charge.spec.payer.shard(), seq: charge.seq },
        refunds: refunds.iter().map(SagaRecord::of).collect(),
        events,
        events_complete,
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
