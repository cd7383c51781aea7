//! `GET quota`, `quota/org` and `status`: a pool as of now and the buckets in front of it, without changing either.

use crate::{
    budgets,
    callers::Reader,
    counters, error,
    json_answer::{Instant, json_answer},
    payer::{facts_of_payer, sight_of},
    pools::MarksPart,
    service::{Service, allowance_cap},
    spend_request::{known_provider, named_user, optional_org, required},
};
use axum::{extract::State, http::StatusCode, response::Response};
use chrono::TimeDelta;
use domain::{
    access::Caller,
    amount::Tokens,
    budget::Budget,
    ids::{OrgId, Payer, Provider, UserId},
    ledger::pool_view,
    pool::{Pool, PoolKey},
    settings::{Algorithm, LimitScope, Settings},
    time::Period,
};
use ports::{
    accounts::SpendFacts,
    rate_limits::{Bucket, Owners, applicable, owner},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use service_kit::{json::StrictQuery, problem::Problem};
use std::sync::Arc;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UserQuery {
    user_id: Option<String>,
    provider: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OrgQuery {
    org_id: Option<String>,
    provider: Option<String>,
}

/// The predecessor's record, then what it lacked.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct QuotaRecord<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    user_id: Option<UserId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    org_id: Option<OrgId>,
    provider: &'a str,
    total_tokens: Tokens,
    remaining_tokens: Tokens,
    updated_at: Instant,
    reset_time: Option<Instant>,
    allowance: Allowance,
    purchased: Purchased,
    held: Tokens,
    debt: Tokens,
    #[serde(flatten)]
    marks: MarksPart<'a>,
    /// `null` while the buckets cannot be asked.
    buckets: Option<Vec<BucketRecord>>,
    /// Of the payer, and of the caller as its member; all of them must have room.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    budgets: Vec<Value>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Allowance {
    granted: Tokens,
    remaining: Tokens,
    period: Period,
    resets_at: Option<Instant>,
}

#[derive(Serialize)]
struct Purchased {
    remaining: Tokens,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BucketRecord {
    limit: String,
    scope: LimitScope,
    algorithm: Algorithm,
    capacity: i64,
    used: Tokens,
    remaining: Tokens,
    /// When it is empty, if nothing more is taken.
    refills_at: Instant,
}

pub async fn of_user(
    State(service): State<Arc<Service>>,
    Reader(caller): Reader,
    StrictQuery(query): StrictQuery<UserQuery>,
) -> Result<Response, Problem> {
    let parsed = (|| {
        let user = named_user(query.user_id.as_deref(), &caller)?;
        let provider = required("provider", query.provider.as_deref())?;
        let user = user.id()?;
        Ok((Payer::User(user), known_provider(provider, &service.settings.current())?.0))
    })();
    answer(&service, &caller, parsed).await
}

pub async fn of_org(
    State(service): State<Arc<Service>>,
    Reader(caller): Reader,
    StrictQuery(query): StrictQuery<OrgQuery>,
) -> Result<Response, Problem> {
    let parsed = (|| {
        required("orgId", query.org_id.as_deref())?;
        let provider = required("provider", query.provider.as_deref())?;
        let org = optional_org(query.org_id.as_deref())?.ok_or_else(error::quota_not_found)?;
        Ok((Payer::Org(org), known_provider(provider, &service.settings.current())?.0))
    })();
    answer(&service, &caller, parsed).await
}

async fn answer(service: &Service, caller: &Caller, parsed: Result<(Payer, Provider), Problem>) -> Result<Response, Problem> {
    let (payer, provider) = parsed.inspect_err(|_| counters::quota_lookup_invalid())?;
    match find(service, caller, payer, &provider).await? {
        Some(quota) => {
            counters::quota_looked_up(&provider, "found");
            json_answer(StatusCode::OK, &quota)
        }
        None => {
            counters::quota_looked_up(&provider, "not_found");
            Err(error::quota_not_found())
        }
    }
}

/// The quota as this caller may see it; `None` when there is none to see.
pub async fn find(service: &Service, caller: &Caller, payer: Payer, provider: &Provider) -> Result<Option<Value>, Problem> {
    if sight_of(service, caller, payer).await?.is_none() {
        return Ok(None);
    }
    let key = PoolKey { payer, provider: provider.clone() };
    let found = service.ledger.find_pool(&key).await.map_err(|failure| error::store(&failure))?;
    let Some(stored) = found else { return Ok(None) };
    let facts = facts_of_payer(service, payer).await?;
    let settings = service.settings.current();
    let pool = pool_view(&stored, service.clock.now(), allowance_cap(&settings, payer, &facts));
    let buckets = buckets(service, &settings, caller, payer, provider, &facts).await;
    let covers = |budget: &Budget| budget.key.provider.as_ref().is_none_or(|own| own == provider);
    let budgets = budgets::records(service, payer, caller.user_id, covers).await?;
    serde_json::to_value(record(&pool, buckets, budgets)).map(Some).map_err(|error| Problem::internal(&error))
}

fn record(pool: &Pool, buckets: Option<Vec<BucketRecord>>, budgets: Vec<Value>) -> QuotaRecord<'_> {
    let (user_id, org_id) = match pool.key.payer {
        Payer::User(user) => (Some(user), None),
        Payer::Org(org) => (None, Some(org)),
    };
    let allowance = pool.current.map(|period| period.balance).unwrap_or_default();
    QuotaRecord {
        user_id,
        org_id,
        provider: pool.key.provider.as_str(),
        total_tokens: pool.total(),
        remaining_tokens: if pool.debt.is_zero() { pool.remaining() } else { Tokens::ZERO },
        updated_at: Instant(pool.updated_at),
        reset_time: pool.resets_at().map(Instant),
        allowance: Allowance {
            granted: allowance.granted,
            remaining: allowance.remaining(),
            period: pool.terms.period,
            resets_at: pool.resets_at().map(Instant),
        },
        purchased: Purchased { remaining: pool.purchased.remaining() },
        held: pool.held(),
        debt: pool.debt,
        marks: MarksPart::of(pool),
        buckets,
        budgets,
    }
}

/// The payer's own buckets and the provider-wide ones; the caller's key where it pays for its own user.
async fn buckets(
    service: &Service,
    settings: &Settings,
    caller: &Caller,
    payer: Payer,
    provider: &Provider,
    facts: &SpendFacts,
) -> Option<Vec<BucketRecord>> {
    let user_tier = settings.tier(facts.user_tier.as_deref());
    let (user, org) = match payer {
        Payer::User(user) => (Some((owner(&user), user_tier)), None),
        Payer::Org(org) => (None, Some((owner(&org), settings.tier(facts.org_tier.as_deref())))),
    };
    let own_key = caller.key_id.filter(|_| caller.user_id.map(Payer::User) == Some(payer));
    let owners = Owners { payer, user, org, key: own_key.map(|key| (owner(&key), user_tier)) };
    levels(service, settings, applicable(settings, &owners, provider, None)).await
}

/// The buckets as of now; `None` while they cannot be asked.
pub async fn levels(service: &Service, settings: &Settings, asked: Vec<Bucket>) -> Option<Vec<BucketRecord>> {
    let now = service.clock.now();
    let readings = service.buckets.peek(&asked).await?;
    let records = asked.into_iter().zip(readings).map(|(bucket, reading)| {
        let empty_at = now + TimeDelta::milliseconds(reading.empty_after_ms);
        BucketRecord {
            algorithm: settings.limits.get(&*bucket.key.limit).map(|limit| limit.algorithm).unwrap_or_default(),
            limit: bucket.key.limit.to_string(),
            scope: bucket.key.scope,
            capacity: bucket.rule.capacity(),
            used: bucket.rule.used(reading),
            remaining: bucket.rule.remaining(reading),
            refills_at: Instant(empty_at),
        }
    });
    Some(records.collect())
}

#[derive(Serialize)]
struct Status {
    service: &'static str,
    status: &'static str,
    timestamp: Instant,
}

pub async fn status(State(service): State<Arc<Service>>) -> Result<Response, Problem> {
    json_answer(StatusCode::OK, &Status { service: "token-service", status: "ok", timestamp: Instant(service.clock.now()) })
}
