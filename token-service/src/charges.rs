//! `GET charges/{id}` and `GET charges`: what the ledger holds, to those who may see it.

use crate::{
    callers::Reader,
    consume_answer::CostPart,
    error,
    json_answer::{Instant, json_answer},
    payer::{Sight, sight_of},
    service::Service,
    spend_request::{known_provider, named_user, optional_org},
};
use axum::{
    extract::{Path, State},
    http::StatusCode,
    response::Response,
};
use chrono::{DateTime, Utc};
use domain::{
    access::Caller,
    amount::Tokens,
    charge::{Charge, ChargeStatus, Metadata},
    ids::{ChargeId, OrgId, Payer, Shard, UserId},
};
use ports::ledger::ChargeQuery;
use serde::{Deserialize, Serialize};
use service_kit::{json::StrictQuery, problem::Problem};
use std::sync::Arc;

const DEFAULT_PAGE: u32 = 50;
pub const LARGEST_PAGE: u32 = 200;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ChargeRecord<'a> {
    charge_id: ChargeId,
    user_id: UserId,
    #[serde(skip_serializing_if = "Option::is_none")]
    org_id: Option<OrgId>,
    provider: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<&'a str>,
    status: ChargeStatus,
    held: Tokens,
    settled: Tokens,
    refunded: Tokens,
    debt: Tokens,
    #[serde(flatten)]
    cost: CostPart,
    created_at: Instant,
    #[serde(skip_serializing_if = "Option::is_none")]
    settled_at: Option<Instant>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<Instant>,
    metadata: &'a Metadata,
    seq: i64,
    shard: Shard,
}

impl<'a> ChargeRecord<'a> {
    pub fn of(charge: &'a Charge) -> Self {
        let spec = &charge.spec;
        Self {
            charge_id: spec.id,
            user_id: spec.user_id,
            org_id: spec.payer.org(),
            provider: spec.provider.as_str(),
            model: spec.model.as_ref().map(|model| model.as_str()),
            status: charge.status,
            held: charge.held,
            settled: charge.settled,
            refunded: charge.refunded,
            debt: charge.debt,
            cost: CostPart::of(charge),
            created_at: Instant(charge.created_at),
            settled_at: charge.settled_at.map(Instant),
            expires_at: charge.expires_at.map(Instant),
            metadata: &spec.metadata,
            seq: charge.seq,
            shard: spec.payer.shard(),
        }
    }
}

pub async fn show(State(service): State<Arc<Service>>, Reader(caller): Reader, Path(id): Path<String>) -> Result<Response, Problem> {
    json_answer(StatusCode::OK, &ChargeRecord::of(&visible(&service, &caller, &id).await?))
}

/// The charge, to those who may see it; 404 to everybody else.
pub async fn visible(service: &Service, caller: &Caller, id: &str) -> Result<Charge, Problem> {
    let id: ChargeId = id.parse().map_err(|_| Problem::field("chargeId", "invalid chargeId"))?;
    let found = match id.shard() {
        Some(_) => service.ledger.find_charge(id).await.map_err(|failure| error::store(&failure))?,
        None => None,
    };
    let charge = found.ok_or_else(error::charge_not_found)?;
    if may_see(service, caller, charge.spec.payer, Some(charge.spec.user_id)).await? {
        return Ok(charge);
    }
    Err(error::charge_not_found())
}

/// What somebody did stays visible to that person, also after leaving the org that paid.
pub async fn may_see(service: &Service, caller: &Caller, payer: Payer, user: Option<UserId>) -> Result<bool, Problem> {
    let own = caller.user_id.is_some() && caller.user_id == user && payer.org().is_none_or(|org| caller.may_use_org(org));
    Ok(own || sight_of(service, caller, payer).await? == Some(Sight::Everything))
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ChargesQuery {
    user_id: Option<String>,
    org_id: Option<String>,
    provider: Option<String>,
    from: Option<DateTime<Utc>>,
    to: Option<DateTime<Utc>>,
    limit: Option<u32>,
    cursor: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ChargePage<'a> {
    items: Vec<ChargeRecord<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<ChargeId>,
}

pub async fn list(
    State(service): State<Arc<Service>>,
    Reader(caller): Reader,
    StrictQuery(query): StrictQuery<ChargesQuery>,
) -> Result<Response, Problem> {
    let limit = page_limit(query.limit)?;
    let org = optional_org(query.org_id.as_deref())?;
    let user = match (&query.user_id, org) {
        (None, Some(_)) => None,
        (text, _) => Some(named_user(text.as_deref(), &caller)?.id()?),
    };
    let provider = match query.provider.as_deref() {
        Some(text) => Some(known_provider(text, &service.settings.current())?.0),
        None => None,
    };
    let before = query.cursor.map(|cursor| cursor.parse::<ChargeId>()).transpose();
    let before = before.map_err(|_| Problem::field("cursor", "cursor is not one that this list has given"))?;
    let payer = org.map(Payer::Org).or_else(|| user.map(Payer::User)).ok_or_else(error::charge_not_found)?;
    let user_id = match sight_of(&service, &caller, payer).await? {
        Some(Sight::Everything) => user,
        Some(Sight::Own(own)) if user.is_none_or(|user| user == own) => Some(own),
        Some(Sight::Own(_)) | None => return Err(Problem::not_found("no such charges")),
    };
    let wanted = ChargeQuery { payer, user_id, provider, from: query.from, to: query.to, before, limit: limit + 1 };
    let mut charges = service.ledger.charges(&wanted).await.map_err(|failure| error::store(&failure))?;
    let more = charges.len() > usize::try_from(limit).unwrap_or(usize::MAX);
    charges.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    let next_cursor = charges.last().filter(|_| more).map(|charge| charge.spec.id);
    json_answer(StatusCode::OK, &ChargePage { items: charges.iter().map(ChargeRecord::of).collect(), next_cursor })
}

pub fn page_limit(limit: Option<u32>) -> Result<u32, Problem> {
    let limit = limit.unwrap_or(DEFAULT_PAGE);
    if (1..=LARGEST_PAGE).contains(&limit) {
        return Ok(limit);
    }
    Err(Problem::field("limit", format!("limit must be between 1 and {LARGEST_PAGE}")))
}
