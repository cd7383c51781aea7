//! `/api/v1/admin/pools`: allowances are set, purchased tokens granted, pools listed.

use crate::{
    callers::Administrator,
    charges::page_limit,
    error,
    idempotency::{self, Keyed, Opening},
    json_answer::{Instant, json_answer, mark_replayed},
    payer::facts_of_payer,
    service::{Service, allowance_cap},
    spend_request::{amount, known_provider, required, storable},
};
use axum::{
    extract::State,
    http::{HeaderMap, StatusCode},
    response::Response,
};
use domain::{
    amount::Tokens,
    ids::{OrgId, Payer, Provider, UserId},
    ledger::{AllowanceChange, Command, Outcome, pool_view},
    pool::{Pool, PoolKey},
    settings::Settings,
    time::Period,
};
use futures::future::try_join_all;
use ports::ledger::{Idempotency, LedgerAnswer};
use serde::{Deserialize, Serialize};
use service_kit::{
    json::{StrictJson, StrictQuery},
    problem::Problem,
};
use std::sync::Arc;

const SET_ALLOWANCE: &str = "PUT /api/v1/admin/pools";
const GRANT: &str = "POST /api/v1/admin/pools/grant";
/// UTF-8.
const LONGEST_REASON_BYTES: usize = 512;

/// Alphabetical, see [`crate::consume::ConsumeBody`].
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AllowanceBody {
    allowance: Option<i64>,
    org_id: Option<String>,
    period: Option<String>,
    provider: Option<String>,
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

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PoolsQuery {
    user_id: Option<String>,
    org_id: Option<String>,
    provider: Option<String>,
    limit: Option<u32>,
    cursor: Option<String>,
}

/// The terms as set, and the balances as of now.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PoolRecord<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    user_id: Option<UserId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    org_id: Option<OrgId>,
    provider: &'a str,
    allowance: Tokens,
    period: Period,
    time_zone: &'static str,
    total_tokens: Tokens,
    remaining_tokens: Tokens,
    /// The running period; `null` before the first one.
    current: Option<Current>,
    purchased: Purchased,
    held: Tokens,
    debt: Tokens,
    updated_at: Instant,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Current {
    granted: Tokens,
    remaining: Tokens,
    starts_at: Instant,
    resets_at: Option<Instant>,
}

#[derive(Serialize)]
struct Purchased {
    granted: Tokens,
    remaining: Tokens,
}

impl<'a> PoolRecord<'a> {
    fn of(pool: &'a Pool) -> Self {
        let (user_id, org_id) = match pool.key.payer {
            Payer::User(user) => (Some(user), None),
            Payer::Org(org) => (None, Some(org)),
        };
        Self {
            user_id,
            org_id,
            provider: pool.key.provider.as_str(),
            allowance: pool.terms.allowance,
            period: pool.terms.period,
            time_zone: pool.terms.time_zone.name(),
            total_tokens: pool.total(),
            remaining_tokens: if pool.debt.is_zero() { pool.remaining() } else { Tokens::ZERO },
            current: pool.current.map(|period| Current {
                granted: period.balance.granted,
                remaining: period.balance.remaining(),
                starts_at: Instant(period.starts_at),
                resets_at: period.ends_at.map(Instant),
            }),
            purchased: Purchased { granted: pool.purchased.granted, remaining: pool.purchased.remaining() },
            held: pool.held(),
            debt: pool.debt,
            updated_at: Instant(pool.updated_at),
        }
    }
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
    service.to_its_end(change_once(Arc::clone(&service), keyed, command, payer, status)).await
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
    if period.is_none() && allowance.is_none() && time_zone.is_none() {
        return Err(Problem::field("allowance", "at least one of allowance, period and timeZone is required"));
    }
    Ok(AllowanceChange { allowance, period, time_zone })
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
    let reason = required("reason", body.reason.as_deref())?;
    if reason.len() > LONGEST_REASON_BYTES || !storable(reason) {
        return Err(Problem::field("reason", format!("reason must be at most {LONGEST_REASON_BYTES} bytes without U+0000")));
    }
    let payer = pool.payer;
    let command = Command::Grant { pool, tokens, reason: reason.to_owned() };
    service.to_its_end(change_once(Arc::clone(&service), keyed, command, payer, |_| StatusCode::CREATED)).await
}

/// The story of a change of a pool; `status` depends on whether the pool was created.
async fn change_once(
    service: Arc<Service>,
    keyed: Option<Keyed>,
    command: Command,
    payer: Payer,
    status: fn(bool) -> StatusCode,
) -> Result<Response, Problem> {
    let replay = |outcome: &Outcome| {
        let mut response = answer(outcome, status)?;
        mark_replayed(&mut response);
        Ok(response)
    };
    let _turn = match service.open(keyed.as_ref()).await? {
        Opening::Turn(turn) => turn,
        Opening::Done(stored) => return replay(&stored.outcome),
    };
    let idempotency = keyed.as_ref().map(|keyed| keyed.completes(Vec::new()));
    match write(&service, command, payer, idempotency).await? {
        (outcome, false) => answer(&outcome, status),
        (outcome, true) => replay(&outcome),
    }
}

/// The outcome, and whether it is an earlier one.
pub async fn write(
    service: &Service,
    command: Command,
    payer: Payer,
    idempotency: Option<Idempotency>,
) -> Result<(Outcome, bool), Problem> {
    let facts = facts_of_payer(service, payer).await?;
    let request = service.request(payer, command, &facts, idempotency);
    match service.writer.write(request).await.map_err(|failure| error::write(&failure))? {
        LedgerAnswer::Decided(outcome) => Ok((outcome, false)),
        LedgerAnswer::Replayed(stored) => Ok((stored.outcome, true)),
        LedgerAnswer::Mismatch => Err(error::idempotency_mismatch()),
        LedgerAnswer::InProgress | LedgerAnswer::Resumed(_) => Err(error::idempotency_in_progress()),
    }
}

fn answer(outcome: &Outcome, status: impl FnOnce(bool) -> StatusCode) -> Result<Response, Problem> {
    match outcome {
        Outcome::PoolChanged { pool, created, .. } => json_answer(status(*created), &PoolRecord::of(pool)),
        other => Err(error::outcome(other)),
    }
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
