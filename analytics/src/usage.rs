//! `GET /api/v1/analytics/usage`: the newest single uses.

use crate::{
    error::store_failed,
    query::UsageQuery,
    raw_events,
    routes::Service,
    view::{require_provider, view},
};
use chrono::{SecondsFormat, TimeDelta};
use domain::{
    event::{EventType, UsageEvent},
    ids::Provider,
};
use serde_json::{Value, json};
use service_kit::{identity::Authenticated, json::StrictQuery, problem::Problem};

/// How far a listing looks back unless `from` says otherwise.
const LOOK_BACK: TimeDelta = TimeDelta::days(31);

pub async fn usage(
    service: axum::extract::State<Service>,
    Authenticated(caller): Authenticated,
    StrictQuery(query): StrictQuery<UsageQuery>,
) -> Result<axum::Json<Value>, Problem> {
    query.refuse_window()?;
    query.refuse_baseline()?;
    let provider = query.provider()?;
    let view = view(&*service.accounts, &caller, query.org()?, query.user()?).await?;
    require_provider(&caller, &provider)?;
    let filter = query.filter(&provider, view.user)?;
    let window = query.window(service.clock.now(), LOOK_BACK)?;
    let limit = query.listing_limit()?;
    let listing = raw_events::newest(&*service.usage_store, &view, &filter, window, limit).await.map_err(store_failed)?;
    let items: Vec<Value> = listing.events.iter().map(|event| item(event, &provider)).collect();
    Ok(axum::Json(json!({"provider": provider, "count": items.len(), "items": items, "truncated": listing.truncated})))
}

fn item(event: &UsageEvent, provider: &Provider) -> Value {
    let fact = &event.event;
    let mut item = json!({
        "key": {"provider": provider, "timestamp": fact.occurred_at.to_rfc3339_opts(SecondsFormat::Millis, true)},
        "eventId": fact.id,
        "userId": fact.user_id,
        "orgId": event.org_id(),
        "keyId": fact.key_id,
        "model": fact.model,
        "chargeId": fact.charge_id,
        "tokens": fact.tokens,
        "count": fact.count,
        "allowed": fact.kind == EventType::ChargeSettled,
        "reason": fact.reason,
        "metadata": fact.metadata,
    });
    if let Some(cost) = fact.cost {
        item["costMinorUnits"] = json!(cost.minor_units);
        item["currency"] = json!(cost.currency);
    }
    item
}
