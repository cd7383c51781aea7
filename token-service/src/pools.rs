//! `/api/v1/admin/pools`: allowances are set, purchased tokens granted, pools listed.

mod list;
mod record;

pub use list::list;
pub use record::MarksPart;

use crate::{
    callers::Administrator,
    change_once::change_once,
    error, idempotency,
    json_answer::json_answer,
    service::Service,
    spend_request::{amount, known_provider, reason, required},
};
use axum::{
    extract::State,
    http::{HeaderMap, StatusCode},
    response::Response,
};
use domain::{
    ids::Payer,
    ledger::{AllowanceChange, Command, Outcome},
    pool::PoolKey,
    settings::Settings,
    time::Period,
};
use record::PoolRecord;
use serde::{Deserialize, Serialize};
use service_kit::{
    budgets::{ThresholdBody, thresholds},
    json::StrictJson,
    problem::Problem,
};
use std::sync::Arc;

const SET_ALLOWANCE: &str = "PUT /api/v1/admin/pools";
const GRANT: &str = "POST /api/v1/admin/pools/grant";

/// Alphabetical, see [`crate::consume::ConsumeBody`].
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AllowanceBody {
    allowance: Option<i64>,
    org_id: Option<String>,
    period: Option<String>,
    provider: Option<String>,
    thresholds: Option<Vec<ThresholdBody>>,
    time_zone: Option<String>,
    user_id: Option<String>,
}

/// Alphabetical, see [`crate::consume::ConsumeBody`].
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GrantBody {
    #[serde(skip_serializing_if = "Option::is_none")]
    org_id: Option<String>,
    provider: Option<String>,
    reason: Option<String>,
    tokens: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_id: Option<String>,
}

pub async fn set_allowance(
    State(service): State<Arc<Service>>,
    Administrator(caller): Administrator,
    headers: HeaderMap,
    StrictJson(body): StrictJson<AllowanceBody>,
) -> Result<Response, Problem> {
    let keyed = idempotency::keyed(&headers, &caller, SET_ALLOWANCE, &body)?;
    let settings = service.settings.current();
    let pool = pool_key(body.user_id.as_deref(), body.org_id.as_deref(), body.provider.as_deref(), &settings)?;
    let change = change(&body)?;
    let payer = pool.payer;
    let command = Command::SetAllowance { pool, change };
    let status = |created| if created { StatusCode::CREATED } else { StatusCode::OK };
    service.to_its_end(change_once(Arc::clone(&service), keyed, command, payer, move |outcome| answer(outcome, status))).await
}

fn change(body: &AllowanceBody) -> Result<AllowanceChange, Problem> {
    let allowance = body.allowance.map(|allowance| amount("allowance", allowance)).transpose()?;
    let period = match body.period.as_deref() {
        Some(text) => Some(Period::parse(text).ok_or_else(|| {
            let allowed = Period::ALL.map(str::to_owned).to_vec();
            Problem::field_allowed("period", "period must be one of DAY, WEEK, MONTH, NONE", allowed)
        })?),
        None => None,
    };
    let time_zone = match body.time_zone.as_deref() {
        Some(text) => Some(text.parse().map_err(|_| Problem::field("timeZone", "timeZone must be an IANA name such as Europe/Berlin"))?),
        None => None,
    };
    let thresholds = body.thresholds.as_deref().map(thresholds).transpose()?;
    let change = AllowanceChange { allowance, period, time_zone, thresholds };
    if change == AllowanceChange::default() {
        return Err(Problem::field("allowance", "at least one of allowance, period, thresholds and timeZone is required"));
    }
    Ok(change)
}

pub async fn grant(
    State(service): State<Arc<Service>>,
    Administrator(caller): Administrator,
    headers: HeaderMap,
    StrictJson(body): StrictJson<GrantBody>,
) -> Result<Response, Problem> {
    let keyed = idempotency::keyed(&headers, &caller, GRANT, &body)?;
    let settings = service.settings.current();
    let tokens = body.tokens.unwrap_or(0);
    if tokens <= 0 {
        return Err(Problem::field("tokens", "tokens must be positive"));
    }
    let pool = pool_key(body.user_id.as_deref(), body.org_id.as_deref(), body.provider.as_deref(), &settings)?;
    let tokens = amount("tokens", tokens)?;
    let reason = reason(required("reason", body.reason.as_deref())?)?;
    let payer = pool.payer;
    let command = Command::Grant { pool, tokens, reason: reason.to_owned() };
    service.to_its_end(change_once(Arc::clone(&service), keyed, command, payer, |outcome| answer(outcome, |_| StatusCode::CREATED))).await
}

fn answer(outcome: &Outcome, status: impl FnOnce(bool) -> StatusCode) -> Result<Response, Problem> {
    match outcome {
        Outcome::PoolChanged { pool, created, .. } => json_answer(status(*created), &PoolRecord::of(pool)),
        other => Err(error::outcome(other)),
    }
}

fn pool_key(user: Option<&str>, org: Option<&str>, provider: Option<&str>, settings: &Settings) -> Result<PoolKey, Problem> {
    let payer = payer(user, org)?;
    let (provider, _) = known_provider(required("provider", provider)?, settings)?;
    Ok(PoolKey { payer, provider })
}

/// Exactly one of the two. An administrator may name users and orgs that have no account here.
pub fn payer(user: Option<&str>, org: Option<&str>) -> Result<Payer, Problem> {
    match (user.map(str::trim).filter(|text| !text.is_empty()), org.map(str::trim).filter(|text| !text.is_empty())) {
        (Some(user), None) => user.parse().map(Payer::User).map_err(|_| Problem::field("userId", "invalid userId")),
        (None, Some(org)) => org.parse().map(Payer::Org).map_err(|_| Problem::field("orgId", "invalid orgId")),
        (None, None) => Err(Problem::field("userId", "userId or orgId is required")),
        (Some(_), Some(_)) => Err(Problem::field("orgId", "only one of userId and orgId may be given")),
    }
}
