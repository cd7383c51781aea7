//! `reserve`, `settle`, `release`: a charge in two steps, each of which may be repeated with the same result.

use crate::{
    callers::Spender,
    consume_answer::{CostPart, QuotaPart},
    counters, error,
    idempotency::{self, Keyed, Opening},
    json_answer::{IDEMPOTENT_REPLAYED, Instant, json_answer, mark_replayed},
    payer::{self, Sight, Spend, sight_of},
    rate_record::RateRecord,
    service::{Service, costing, having_seen},
    spend_request::{SpendFields, SpendRequest, amount, required},
    spending::{Admission, Booked, admit, book, even_out, rate_of, slot},
    token_kinds::{UsageBody, cost_of, token_kinds},
};
use axum::{
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::Response,
};
use chrono::TimeDelta;
use domain::{
    access::Caller,
    amount::Tokens,
    charge::{Charge, ChargeStatus, Metadata},
    ids::{ChargeId, OrgId, UserId},
    ledger::{Command, Outcome},
    money::TokenKinds,
};
use ports::ledger::LedgerAnswer;
use serde::{Deserialize, Serialize};
use service_kit::{json::StrictJson, problem::Problem};
use std::sync::Arc;

const RESERVE: &str = "POST /api/v1/tokens/reserve";
const SETTLE: &str = "POST /api/v1/tokens/settle";
const RELEASE: &str = "POST /api/v1/tokens/release";

const DEFAULT_TTL_SECS: i64 = 300;
const LONGEST_TTL_SECS: i64 = 86_400;

/// Alphabetical, see [`crate::consume::ConsumeBody`].
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ReserveBody {
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<Metadata>,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    org_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    provider: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tokens: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl_seconds: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<UsageBody>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_id: Option<String>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SettleBody {
    charge_id: Option<String>,
    tokens: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<UsageBody>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ReleaseBody {
    charge_id: Option<String>,
}

pub async fn reserve(
    State(service): State<Arc<Service>>,
    Spender(caller): Spender,
    headers: HeaderMap,
    StrictJson(body): StrictJson<ReserveBody>,
) -> Result<Response, Problem> {
    let keyed = idempotency::keyed(&headers, &caller, RESERVE, &body)?;
    let ReserveBody { metadata, model, org_id, provider, tokens, ttl_seconds, usage, user_id } = body;
    let fields = SpendFields { user_id, org_id, provider, model, tokens, usage, metadata };
    let request = SpendRequest::parse(fields, &caller, &service.settings.current())?;
    let ttl_secs = ttl_seconds.unwrap_or(DEFAULT_TTL_SECS);
    if !(1..=LONGEST_TTL_SECS).contains(&ttl_secs) {
        return Err(Problem::field("ttlSeconds", format!("ttlSeconds must be between 1 and {LONGEST_TTL_SECS}")));
    }
    let spend = payer::authorise(&service, &caller, request).await?;
    counters::consume_attempted(&spend.provider);
    let told = Arc::clone(&service);
    service.to_its_end(hold(told, spend, keyed, TimeDelta::seconds(ttl_secs))).await
}

async fn hold(service: Arc<Service>, spend: Spend, keyed: Option<Keyed>, ttl: TimeDelta) -> Result<Response, Problem> {
    let replay = |stored: ports::ledger::StoredAnswer| replayed(held_answer(&rate_of(&stored.context)?, &stored.outcome));
    let cost = spend.cost(&service)?;
    let _turn = match service.open(keyed.as_ref()).await? {
        Opening::Turn(turn) => turn,
        Opening::Done(stored) => return replay(stored),
    };
    let spec = spend.charge(&service);
    let taken = match admit(&service, &spend, Some(slot(spec.id, ttl)), keyed.as_ref()).await? {
        Admission::Admitted(taken) => taken,
        Admission::Done(stored) => return replay(stored),
    };
    let idempotency = match &keyed {
        Some(keyed) => Some(keyed.completes(serde_json::to_vec(&taken.record).map_err(|error| Problem::internal(&error))?)),
        None => None,
    };
    let expires_at = service.clock.now() + ttl;
    let command = Command::Hold { spec, tokens: spend.tokens, expires_at };
    let request = costing(service.request(spend.payer, command, &spend.facts, idempotency), cost);
    let request = having_seen(request, &taken.record, &service.settings.current());
    match book(&service, &spend, &taken, request).await? {
        Booked::New(outcome) => {
            counters::consumed(&spend.provider, "held");
            held_answer(&taken.record, &outcome)
        }
        Booked::Before(stored) => replay(stored),
        Booked::LeftOpen(_) => Err(error::idempotency_in_progress()),
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct HeldAnswer<'a> {
    charge_id: ChargeId,
    status: ChargeStatus,
    held: Tokens,
    expires_at: Option<Instant>,
    user_id: UserId,
    #[serde(skip_serializing_if = "Option::is_none")]
    org_id: Option<OrgId>,
    provider: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<&'a str>,
    timestamp: Instant,
    quota: QuotaPart,
}

fn held_answer(rate: &RateRecord, outcome: &Outcome) -> Result<Response, Problem> {
    let Outcome::Charged { charge, pool, at, .. } = outcome else { return Err(rate.on(error::outcome(outcome))) };
    let spec = &charge.spec;
    let answer = HeldAnswer {
        charge_id: spec.id,
        status: charge.status,
        held: charge.held,
        expires_at: charge.expires_at.map(Instant),
        user_id: spec.user_id,
        org_id: spec.payer.org(),
        provider: spec.provider.as_str(),
        model: spec.model.as_ref().map(|model| model.as_str()),
        timestamp: Instant(*at),
        quota: QuotaPart::of(pool),
    };
    let mut response = json_answer(StatusCode::CREATED, &answer)?;
    rate.write(response.headers_mut());
    if let Ok(location) = HeaderValue::try_from(format!("/api/v1/tokens/charges/{}", spec.id)) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

pub async fn settle(
    State(service): State<Arc<Service>>,
    Spender(caller): Spender,
    headers: HeaderMap,
    StrictJson(body): StrictJson<SettleBody>,
) -> Result<Response, Problem> {
    let keyed = idempotency::keyed(&headers, &caller, SETTLE, &body)?;
    let charge_id = charge_id(body.charge_id.as_deref())?;
    let tokens = body.tokens.ok_or_else(|| Problem::field("tokens", "tokens is required"))?;
    let tokens = amount("tokens", tokens)?;
    let kinds = token_kinds(body.usage.as_ref(), tokens)?;
    end(service, caller, keyed, Command::Settle { charge_id, tokens }, charge_id, Some(kinds)).await
}

pub async fn release(
    State(service): State<Arc<Service>>,
    Spender(caller): Spender,
    headers: HeaderMap,
    StrictJson(body): StrictJson<ReleaseBody>,
) -> Result<Response, Problem> {
    let keyed = idempotency::keyed(&headers, &caller, RELEASE, &body)?;
    let charge_id = charge_id(body.charge_id.as_deref())?;
    end(service, caller, keyed, Command::Release { charge_id }, charge_id, None).await
}

pub fn charge_id(text: Option<&str>) -> Result<ChargeId, Problem> {
    required("chargeId", text)?.parse().map_err(|_| Problem::field("chargeId", "invalid chargeId"))
}

/// Ends a charge that this caller may end; 404 for any other, existing or not.
async fn end(
    service: Arc<Service>,
    caller: Arc<Caller>,
    keyed: Option<Keyed>,
    command: Command,
    charge_id: ChargeId,
    settled: Option<TokenKinds>,
) -> Result<Response, Problem> {
    let charge = endable(&service, &caller, charge_id).await?;
    let cost = match settled {
        Some(kinds) => cost_of(&service, &charge.spec, charge.created_at, kinds)?,
        None => None,
    };
    let told = Arc::clone(&service);
    service
        .to_its_end(async move {
            let service = told;
            let _turn = match service.open(keyed.as_ref()).await? {
                Opening::Turn(turn) => turn,
                Opening::Done(stored) => return replayed(ended_answer(&stored.outcome)),
            };
            let org = charge.spec.payer.org();
            let facts = service.facts.of(charge.spec.user_id, org).await.map_err(|failure| error::store(&failure))?;
            let idempotency = keyed.as_ref().map(|keyed| keyed.completes(Vec::new()));
            let request = costing(service.request(charge.spec.payer, command, &facts, idempotency), cost);
            match service.writer.write(request).await.map_err(|failure| error::write(&failure))? {
                LedgerAnswer::Decided(outcome) => {
                    if let Outcome::Charged { charge, changed, .. } = &outcome {
                        even_out(&service, charge, *changed, &facts).await;
                    }
                    ended_answer(&outcome)
                }
                LedgerAnswer::Replayed(stored) => replayed(ended_answer(&stored.outcome)),
                LedgerAnswer::Mismatch => Err(error::idempotency_mismatch()),
                LedgerAnswer::InProgress | LedgerAnswer::Resumed(_) => Err(error::idempotency_in_progress()),
            }
        })
        .await
}

/// The caller's own charges, those of an org it administers, and everyone's for an administrator.
pub async fn endable(service: &Service, caller: &Caller, id: ChargeId) -> Result<Charge, Problem> {
    let found = match id.shard() {
        Some(_) => service.ledger.find_charge(id).await.map_err(|failure| error::store(&failure))?,
        None => None,
    };
    let charge = found.ok_or_else(error::charge_not_found)?;
    let endable = match sight_of(service, caller, charge.spec.payer).await? {
        Some(Sight::Everything) => true,
        Some(Sight::Own(user)) => charge.spec.user_id == user,
        None => false,
    };
    if !endable {
        return Err(error::charge_not_found());
    }
    if !caller.may_use_provider(&charge.spec.provider) {
        return Err(error::key_excludes_provider(&charge.spec.provider));
    }
    Ok(charge)
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct EndedAnswer {
    charge_id: ChargeId,
    status: ChargeStatus,
    held: Tokens,
    settled: Tokens,
    returned: Tokens,
    debt: Tokens,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    late: bool,
    #[serde(flatten)]
    cost: CostPart,
}

fn ended_answer(outcome: &Outcome) -> Result<Response, Problem> {
    let Outcome::Charged { charge, .. } = outcome else { return Err(error::outcome(outcome)) };
    let answer = EndedAnswer {
        charge_id: charge.spec.id,
        status: charge.status,
        held: charge.held,
        settled: charge.settled,
        returned: charge.held.saturating_sub(charge.settled),
        debt: charge.debt,
        late: charge.late,
        cost: CostPart::of(charge),
    };
    json_answer(StatusCode::OK, &answer)
}

fn replayed(answer: Result<Response, Problem>) -> Result<Response, Problem> {
    let mut response = answer.map_err(|problem| problem.header(IDEMPOTENT_REPLAYED, "true"))?;
    mark_replayed(&mut response);
    Ok(response)
}
