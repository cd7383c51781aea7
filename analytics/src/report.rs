//! `GET /api/v1/analytics/report`: exact totals of one provider in one window, and its largest users.

use crate::{
    error::store_failed,
    query::UsageQuery,
    raw_events::{self, Filter},
    routes::{Service, float, instant},
    totals::{Totals, cost_of},
    view::{View, require_provider, view},
    windows::Window,
};
use axum::extract::State;
use domain::{
    ids::{Provider, UserId},
    rollup::{CellValue, Dimension, Part},
};
use serde_json::{Value, json};
use service_kit::{identity::Authenticated, json::StrictQuery, problem::Problem};
use std::collections::BTreeMap;

const TOP_USERS: usize = 5;

/// What one window comes to.
#[derive(Default)]
struct Summary {
    total: CellValue,
    users: BTreeMap<String, CellValue>,
}

pub async fn report(
    State(service): State<Service>,
    Authenticated(caller): Authenticated,
    StrictQuery(query): StrictQuery<UsageQuery>,
) -> Result<axum::Json<Value>, Problem> {
    query.refuse_baseline()?;
    let provider = query.provider()?;
    let view = view(&*service.accounts, &caller, query.org()?, query.user()?).await?;
    require_provider(&caller, &provider)?;
    let filter = query.filter(&provider, view.user)?;
    let window = query.recent_window(service.clock.now())?;
    let sample_limit = query.sample_limit()?;
    let summary = match filter {
        Filter { key: None, model: None, .. } => from_rollups(&service, &view, &provider, window).await?,
        _ => from_events(&service, &view, &filter, window).await?,
    };
    Ok(axum::Json(answer(&service, &provider, window, &summary, sample_limit)))
}

async fn from_rollups(service: &Service, view: &View, provider: &Provider, window: Window) -> Result<Summary, Problem> {
    let generation = service.usage_store.live_generation().await.map_err(store_failed)?;
    let totals = Totals { store: &*service.usage_store, generation, scopes: view.scopes() };
    let prefix = view.user.map_or_else(|| Dimension::USER.to_owned(), |user| Dimension::of_user(user, Some(provider)));
    let by_payer = totals.by_payer(&[window], provider).await.map_err(store_failed)?;
    let mut users: BTreeMap<String, CellValue> = BTreeMap::new();
    for ((_, dimension), value) in by_payer.read(&[window], &prefix).await.map_err(store_failed)? {
        // Some refusals name no user.
        if let Some(Part::User { user, provider: with, .. }) = dimension.part()
            && !user.is_empty()
            && with == provider.as_str()
        {
            users.entry(user.to_owned()).or_default().add(&value);
        }
    }
    let total = match view.user {
        Some(user) => users.get(&user.to_string()).copied().unwrap_or_default(),
        None => {
            let series = totals.series_of_all(&[window], &Dimension::models_of(provider)).await.map_err(store_failed)?;
            series.into_iter().next().unwrap_or_default()
        }
    };
    Ok(Summary { total, users })
}

/// A key or a model together with a provider and users is no dimension of the rollups.
async fn from_events(service: &Service, view: &View, filter: &Filter, window: Window) -> Result<Summary, Problem> {
    let mut summary = Summary::default();
    for event in raw_events::all(&*service.usage_store, view, filter, window).await? {
        summary.total.apply(&event);
        if let Some(user) = event.event.user_id {
            summary.users.entry(user.to_string()).or_default().apply(&event);
        }
    }
    Ok(summary)
}

fn answer(service: &Service, provider: &Provider, window: Window, summary: &Summary, sample_limit: i64) -> Value {
    let events = |value: &CellValue| value.requests + value.denied;
    let total_events = events(&summary.total);
    let average = if total_events == 0 { 0.0 } else { float(summary.total.tokens) / float(total_events) };
    let mut users: Vec<(&String, &CellValue)> = summary.users.iter().filter(|(_, value)| events(value) > 0).collect();
    let unique_users = users.len();
    users.sort_by_key(|(_, value)| std::cmp::Reverse((value.tokens, events(value))));
    let top: Vec<Value> = users
        .iter()
        .take(TOP_USERS)
        .filter_map(|(user, value)| Some((user.parse::<UserId>().ok()?, value)))
        .map(|(user, value)| costing(json!({"userId": user, "totalTokens": value.tokens, "events": events(value)}), value))
        .collect();
    let answer = json!({
        "provider": provider,
        "windowStart": instant(window.from),
        // Nothing has happened after now, so the running minute is whole.
        "windowEnd": instant(window.to.min(service.clock.now().max(window.from))),
        "totalEvents": total_events,
        "allowedEvents": summary.total.requests,
        "deniedEvents": summary.total.denied,
        "totalTokens": summary.total.tokens,
        "refundedTokens": summary.total.refunded,
        "netTokens": summary.total.tokens - summary.total.refunded,
        "averageTokensPerEvent": average,
        "uniqueUsers": unique_users,
        "sampleLimit": sample_limit,
        "topUsers": top,
    });
    costing(answer, &summary.total)
}

fn costing(mut record: Value, value: &CellValue) -> Value {
    if let Some(cost) = cost_of(value) {
        record["costMinorUnits"] = json!(cost);
    }
    record
}
