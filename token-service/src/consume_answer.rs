//! The answer to a consume, as a pure function of its context and the ledger's outcome: a replay is byte for byte the first answer.

use crate::{
    counters, error,
    json_answer::{Instant, json_answer, mark_replayed},
    provider_call::ProviderFailure,
    rate_record::RateRecord,
};
use axum::{http::StatusCode, response::Response};
use chrono::{DateTime, Utc};
use domain::{
    amount::Tokens,
    charge::{Charge, ChargeStatus},
    ids::ChargeId,
    ledger::{Outcome, PoolView},
};
use ports::ledger::StoredAnswer;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use service_kit::problem::Problem;

/// What an answer shows besides the ledger's outcome; stored beside it under the idempotency key.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct ConsumeContext {
    pub rate: RateRecord,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<ProviderPart>,
}

/// How the call to the provider ended, where there was one.
#[derive(Debug, Serialize, Deserialize)]
pub enum ProviderPart {
    Answered(Box<RawValue>),
    Failed(ProviderFailure),
}

impl ConsumeContext {
    pub fn to_bytes(&self) -> Result<Vec<u8>, Problem> {
        serde_json::to_vec(self).map_err(|error| Problem::internal(&error))
    }

    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Problem> {
        serde_json::from_slice(bytes).map_err(|error| Problem::internal(&error))
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer<'a> {
    allowed: bool,
    charge_id: ChargeId,
    #[serde(skip_serializing_if = "Option::is_none")]
    capacity: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    used: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    remaining: Option<i64>,
    wait_seconds: i64,
    timestamp: Instant,
    quota: QuotaPart,
    tokens_charged: Tokens,
    provider_response: ProviderResponse<'a>,
}

/// The pool after the charge.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct QuotaPart {
    total: Tokens,
    remaining: Tokens,
    #[serde(skip_serializing_if = "Option::is_none")]
    debt: Option<Tokens>,
    resets_at: Option<Instant>,
}

impl QuotaPart {
    pub fn of(pool: &PoolView) -> Self {
        let remaining = if pool.debt.is_zero() { pool.remaining } else { Tokens::ZERO };
        Self { total: pool.total, remaining, debt: Some(pool.debt).filter(|debt| !debt.is_zero()), resets_at: pool.resets_at.map(Instant) }
    }
}

#[derive(Serialize)]
#[serde(untagged)]
enum ProviderResponse<'a> {
    Given(&'a RawValue),
    None {},
}

/// What was answered the first time, marked as a replay.
pub fn replay(stored: &StoredAnswer) -> Result<Response, Problem> {
    let context = ConsumeContext::from_bytes(&stored.context)?;
    if let Outcome::Charged { charge, .. } = &stored.outcome {
        counters::consumed(&charge.spec.provider, "replayed");
    }
    let replayed = |problem: Problem| problem.header(crate::json_answer::IDEMPOTENT_REPLAYED, "true");
    let mut response = render(&context, &stored.outcome).map_err(replayed)?;
    mark_replayed(&mut response);
    Ok(response)
}

pub fn render(context: &ConsumeContext, outcome: &Outcome) -> Result<Response, Problem> {
    let Outcome::Charged { charge, pool, at } = outcome else { return Err(context.rate.on(error::outcome(outcome))) };
    let provider_response = match &context.provider {
        Some(ProviderPart::Failed(failure)) => return Err(failed(context, charge, *failure, *at)),
        Some(ProviderPart::Answered(answer)) => ProviderResponse::Given(answer),
        None => ProviderResponse::None {},
    };
    if !matches!(charge.status, ChargeStatus::Settled | ChargeStatus::Refunded) {
        return Err(context.rate.on(error::outcome(&Outcome::InvalidTransition { status: charge.status })));
    }
    let rate = context.rate.fields();
    let answer = Answer {
        allowed: true,
        charge_id: charge.spec.id,
        capacity: rate.capacity,
        used: rate.used,
        remaining: rate.remaining,
        wait_seconds: 0,
        timestamp: Instant(*at),
        quota: QuotaPart::of(pool),
        tokens_charged: charge.settled,
        provider_response,
    };
    let mut response = json_answer(StatusCode::OK, &answer)?;
    context.rate.write(response.headers_mut());
    Ok(response)
}

/// The provider saw the call, or may have: a client that repeats it without a key would make a second one.
fn failed(context: &ConsumeContext, charge: &Charge, failure: ProviderFailure, at: DateTime<Utc>) -> Problem {
    let problem = error::provider(&charge.spec.provider, failure)
        .with("chargeId", charge.spec.id.to_string())
        .with("timestamp", Instant(at).text())
        .header(error::SHOULD_RETRY, "false");
    context.rate.on(problem)
}
