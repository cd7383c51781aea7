//! Lists of pools, in pages.

use super::{payer, record::PoolRecord};
use crate::{
    callers::Administrator,
    charges::page_limit,
    error,
    json_answer::json_answer,
    payer::facts_of_payer,
    service::{Service, allowance_cap},
};
use axum::{extract::State, http::StatusCode, response::Response};
use domain::{
    ids::{Payer, Provider},
    ledger::pool_view,
    pool::{Pool, PoolKey},
    settings::Settings,
};
use futures::future::try_join_all;
use serde::{Deserialize, Serialize};
use service_kit::{json::StrictQuery, problem::Problem};
use std::sync::Arc;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PoolsQuery {
    user_id: Option<String>,
    org_id: Option<String>,
    provider: Option<String>,
    limit: Option<u32>,
    cursor: Option<String>,
}

pub async fn list(
    State(service): State<Arc<Service>>,
    Administrator(_): Administrator,
    StrictQuery(query): StrictQuery<PoolsQuery>,
) -> Result<Response, Problem> {
    let limit = page_limit(query.limit)?;
    let settings = service.settings.current();
    let payer = match (&query.user_id, &query.org_id) {
        (None, None) => None,
        (user, org) => Some(payer(user.as_deref(), org.as_deref())?),
    };
    // Any well-formed name: a pool outlives its provider's settings.
    let provider = query
        .provider
        .as_deref()
        .map(|text| Provider::parse(text).map_err(|error| Problem::field("provider", format!("provider {error}"))));
    let provider = provider.transpose()?;
    let after = query
        .cursor
        .as_deref()
        .map(|cursor| read_cursor(cursor).ok_or_else(|| Problem::field("cursor", "cursor is not one that this list has given")));
    let after = after.transpose()?;
    let found = service.ledger.pools(payer, provider.as_ref(), after.as_ref(), limit + 1).await;
    let mut pools = found.map_err(|failure| error::store(&failure))?;
    let page = usize::try_from(limit).unwrap_or(usize::MAX);
    let more = pools.len() > page;
    pools.truncate(page);
    let views = try_join_all(pools.iter().map(|pool| as_of_now(&service, &settings, pool))).await?;
    let next_cursor = pools.last().filter(|_| more).map(|pool| write_cursor(&pool.key));
    json_answer(StatusCode::OK, &PoolPage { items: views.iter().map(PoolRecord::of).collect(), next_cursor })
}

async fn as_of_now(service: &Service, settings: &Settings, pool: &Pool) -> Result<Pool, Problem> {
    let facts = facts_of_payer(service, pool.key.payer).await?;
    Ok(pool_view(pool, service.clock.now(), allowance_cap(settings, pool.key.payer, &facts)))
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PoolPage<'a> {
    items: Vec<PoolRecord<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

fn write_cursor(key: &PoolKey) -> String {
    hex::encode(format!("{}:{}:{}", key.payer.kind(), key.payer.tenant(), key.provider))
}

fn read_cursor(cursor: &str) -> Option<PoolKey> {
    let text = String::from_utf8(hex::decode(cursor).ok()?).ok()?;
    let mut parts = text.splitn(3, ':');
    let (kind, tenant, provider) = (parts.next()?, parts.next()?, parts.next()?);
    let payer = Payer::from_parts(kind, tenant.parse().ok()?)?;
    Some(PoolKey { payer, provider: Provider::parse(provider).ok()? })
}
