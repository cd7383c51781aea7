//! `GET /api/v1/analytics/orgs/{orgId}/report`: an org's totals, by provider, model, user or key, over the calendar of any zone.

use crate::{
    error::store_failed,
    query::{id, window},
    raw_events::{self, Filter},
    routes::{Service, float, instant},
    totals::{Sums, Totals, cost_of},
    view::{View, view},
    windows::{Bucket, Window, buckets},
};
use axum::extract::{Path, State};
use chrono::TimeDelta;
use chrono_tz::Tz;
use domain::{
    event::UsageEvent,
    ids::{OrgId, Payer, UserId},
    rollup::{CellValue, Dimension, Part},
    time::Grain,
};
use ports::usage_store::Generation;
use serde::Deserialize;
use serde_json::{Value, json};
use service_kit::{identity::Authenticated, json::StrictQuery, problem::Problem};
use std::collections::BTreeMap;

/// Buckets of one report: a month of minutes, five years of hours.
const BUCKETS_AT_MOST: usize = 45_000;
/// Points of all series together.
const POINTS_AT_MOST: usize = 100_000;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OrgQuery {
    from: Option<String>,
    to: Option<String>,
    grain: Option<String>,
    group_by: Option<String>,
    time_zone: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum GroupBy {
    Provider,
    Model,
    User,
    Key,
}

impl GroupBy {
    const ALL: [(&'static str, Self); 4] = [("provider", Self::Provider), ("model", Self::Model), ("user", Self::User), ("key", Self::Key)];

    /// What the dimensions begin with that hold the groups.
    const fn prefix(self) -> &'static str {
        match self {
            Self::Provider | Self::Model => Dimension::MODEL,
            Self::User | Self::Key => Dimension::USER,
        }
    }

    /// The group a total belongs to; `None` for what the grouping does not know, such as a refusal that names no model.
    fn key_of_total(self, dimension: &Dimension) -> Option<String> {
        match (self, dimension.part()?) {
            (Self::Provider, Part::Model { provider, .. } | Part::User { provider, .. }) if !provider.is_empty() => {
                Some(provider.to_owned())
            }
            (Self::Model, Part::Model { provider, model }) if !provider.is_empty() && !model.is_empty() => {
                Some(format!("{provider}/{model}"))
            }
            (Self::User, Part::User { user, .. }) if !user.is_empty() => Some(user.to_owned()),
            (Self::Key, Part::User { key, .. }) if !key.is_empty() => Some(key.to_owned()),
            _ => None,
        }
    }
}

/// What is asked for, understood.
struct Request {
    org: OrgId,
    window: Window,
    grain: Grain,
    group_by: GroupBy,
    zone: Tz,
    buckets: Vec<Bucket>,
}

/// Totals, and per group one value per bucket that has any.
#[derive(Default)]
struct Figures {
    total: CellValue,
    groups: BTreeMap<String, BTreeMap<usize, CellValue>>,
}

pub async fn org_report(
    State(service): State<Service>,
    Authenticated(caller): Authenticated,
    Path(org): Path<String>,
    StrictQuery(query): StrictQuery<OrgQuery>,
) -> Result<axum::Json<Value>, Problem> {
    let org = id::<OrgId>("orgId", Some(&org))?.ok_or_else(|| Problem::field("orgId", "invalid orgId"))?;
    let view = view(&*service.accounts, &caller, Some(org), None).await?;
    let request = understand(&service, org, &query)?;
    let generation = service.usage_store.live_generation().await.map_err(store_failed)?;
    // Before the totals are read: they hold at least this much.
    let as_of = as_of(&service, generation, org).await?;
    let figures = figures(&service, &view, generation, &request).await?;
    let points: usize = figures.groups.values().map(BTreeMap::len).sum();
    if points > POINTS_AT_MOST {
        let detail = format!("the report has {points} points, more than {POINTS_AT_MOST}; take a coarser grain or a shorter time");
        return Err(Problem::field("grain", detail));
    }
    Ok(axum::Json(answer(&request, &figures, &as_of)))
}

fn understand(service: &Service, org: OrgId, query: &OrgQuery) -> Result<Request, Problem> {
    let grain = one_of("grain", query.grain.as_deref(), Grain::Day, &Grain::ALL.map(|grain| (grain.as_str(), grain)))?;
    let group_by = one_of("groupBy", query.group_by.as_deref(), GroupBy::Provider, &GroupBy::ALL)?;
    let zone: Tz = match query.time_zone.as_deref().map(str::trim) {
        None | Some("") => Tz::UTC,
        Some(name) => {
            name.parse().map_err(|_| Problem::field("timeZone", "timeZone must be a name of the IANA database such as Europe/Berlin"))?
        }
    };
    let default = match grain {
        Grain::Minute => TimeDelta::days(1),
        Grain::Hour => TimeDelta::days(30),
        Grain::Day => TimeDelta::days(90),
        Grain::Month => TimeDelta::days(366),
    };
    let window = window(query.from.as_deref(), query.to.as_deref(), zone, service.clock.now(), default)?;
    let buckets = buckets(window, grain, zone, BUCKETS_AT_MOST).ok_or_else(|| {
        let detail = format!("more than {BUCKETS_AT_MOST} buckets of one {}; take a coarser grain or a shorter time", grain.as_str());
        Problem::field("grain", detail)
    })?;
    Ok(Request { org, window, grain, group_by, zone, buckets })
}

fn one_of<T: Copy>(field: &str, text: Option<&str>, default: T, allowed: &[(&str, T)]) -> Result<T, Problem> {
    let Some(text) = text.map(str::trim).filter(|text| !text.is_empty()) else { return Ok(default) };
    let found = allowed.iter().find(|(name, _)| name.eq_ignore_ascii_case(text));
    found.map(|(_, value)| *value).ok_or_else(|| {
        let names: Vec<String> = allowed.iter().map(|(name, _)| (*name).to_owned()).collect();
        Problem::field_allowed(field, format!("{field} must be one of {}", names.join(", ")), names)
    })
}

async fn figures(service: &Service, view: &View, generation: Generation, request: &Request) -> Result<Figures, Problem> {
    let totals = Totals { store: &*service.usage_store, generation, scopes: view.scopes() };
    let windows: Vec<Window> = request.buckets.iter().map(|bucket| bucket.window).collect();
    let prefix = match (view.user, request.group_by) {
        // The models of one user are no dimension of the rollups.
        (Some(user), GroupBy::Model) => return own_models(service, view, &totals, request, &windows, user).await,
        (Some(user), _) => Dimension::of_user(user, None),
        (None, group_by) => group_by.prefix().to_owned(),
    };
    // Each counted event is in exactly one cell by model and in one by user and key, so that either add up to the total.
    let sums = totals.read(&windows, &prefix).await.map_err(store_failed)?;
    Ok(Figures { total: sum(&sums), groups: grouped(sums, request.group_by) })
}

/// One member's part of the org by model, counted from the single events.
async fn own_models(
    service: &Service,
    view: &View,
    totals: &Totals<'_>,
    request: &Request,
    windows: &[Window],
    user: UserId,
) -> Result<Figures, Problem> {
    // Before the groups, so that whatever it holds is in them too.
    let series = totals.series_of_all(&[request.window], &Dimension::of_user(user, None)).await.map_err(store_failed)?;
    let mut total = CellValue::default();
    series.iter().for_each(|value| total.add(value));
    let filter = Filter { user: Some(user), ..Filter::default() };
    let mut groups: BTreeMap<String, BTreeMap<usize, CellValue>> = BTreeMap::new();
    for event in raw_events::all(&*service.usage_store, view, &filter, request.window).await? {
        let counted = !domain::rollup::cells(&event).is_empty();
        if let Some(model) = model_of(&event).filter(|_| counted) {
            let bucket = windows.partition_point(|window| window.from <= event.event.occurred_at).saturating_sub(1);
            groups.entry(model).or_default().entry(bucket).or_default().apply(&event);
        }
    }
    Ok(Figures { total, groups })
}

fn model_of(event: &UsageEvent) -> Option<String> {
    Some(format!("{}/{}", event.event.provider.as_ref()?, event.event.model.as_ref()?))
}

fn sum(sums: &Sums) -> CellValue {
    let mut total = CellValue::default();
    sums.values().for_each(|value| total.add(value));
    total
}

fn grouped(sums: Sums, group_by: GroupBy) -> BTreeMap<String, BTreeMap<usize, CellValue>> {
    let mut groups: BTreeMap<String, BTreeMap<usize, CellValue>> = BTreeMap::new();
    for ((bucket, dimension), value) in sums {
        if let Some(key) = group_by.key_of_total(&dimension) {
            groups.entry(key).or_default().entry(bucket).or_default().add(&value);
        }
    }
    groups
}

/// How much of the org's events the rollups hold.
async fn as_of(service: &Service, generation: Generation, org: OrgId) -> Result<Value, Problem> {
    let shard = Payer::Org(org).shard();
    let states = service.usage_store.shard_states(generation, &[shard]).await.map_err(store_failed)?;
    let state = states.into_iter().next().unwrap_or_default();
    // The first event that is not in yet; none: the report is complete.
    let waiting = service.outbox.read(shard, state.last_seq, 1).await.map_err(store_failed)?;
    let now = service.clock.now();
    let lag_millis = waiting.first().map_or(0, |row| (now - row.occurred_at).num_milliseconds().max(0));
    Ok(json!({
        "generation": generation.id,
        "shards": [{"shard": shard, "seq": state.last_seq}],
        "lagSeconds": float(lag_millis) / 1_000.0,
    }))
}

fn answer(request: &Request, figures: &Figures, as_of: &Value) -> Value {
    let mut groups: Vec<(CellValue, Value)> = figures.groups.iter().map(|(key, series)| group(request, key, series)).collect();
    // The largest first; equal ones by name, as the map has them.
    groups.sort_by_key(|(total, _)| std::cmp::Reverse((total.tokens, total.requests + total.denied)));
    let groups: Vec<Value> = groups.into_iter().map(|(_, group)| group).collect();
    json!({
        "orgId": request.org,
        "from": instant(request.window.from),
        "to": instant(request.window.to),
        "grain": request.grain.as_str(),
        "groupBy": GroupBy::ALL.iter().find(|(_, group_by)| *group_by == request.group_by).map(|(name, _)| name),
        "timeZone": request.zone.name(),
        "totals": counts(&figures.total),
        "groups": groups,
        "asOf": as_of,
    })
}

fn group(request: &Request, key: &str, series: &BTreeMap<usize, CellValue>) -> (CellValue, Value) {
    let mut total = CellValue::default();
    series.values().for_each(|value| total.add(value));
    let points: Vec<Value> = series
        .iter()
        .filter_map(|(bucket, value)| Some((request.buckets.get(*bucket)?, value)))
        .map(|(bucket, value)| {
            let mut point = counts(value);
            point["at"] = json!(instant(bucket.at));
            point
        })
        .collect();
    let mut group = counts(&total);
    group["key"] = json!(key);
    group["series"] = json!(points);
    (total, group)
}

fn counts(value: &CellValue) -> Value {
    let mut counts = json!({
        "tokens": value.tokens,
        "refunded": value.refunded,
        "netTokens": value.tokens - value.refunded,
        "requests": value.requests,
        "denied": value.denied,
    });
    if let Some(cost) = cost_of(value) {
        counts["costMinorUnits"] = json!(cost);
    }
    counts
}
