//! The answer to a consume, as a pure function of its context and the ledger's outcome: a replay is byte for byte the first answer.

use crate::{
    counters, error,
    json_answer::{IDEMPOTENT_REPLAYED, Instant, json_answer, mark_replayed},
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
    money::Currency,
};
use ports::ledger::StoredAnswer;
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
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
    #[serde(flatten)]
    cost: CostPart,
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

/// What the charge costs, where it has a price.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CostPart {
    #[serde(skip_serializing_if = "Option::is_none")]
    cost_minor_units: Option<Tokens>,
    #[serde(skip_serializing_if = "Option::is_none")]
    currency: Option<Currency>,
}

impl CostPart {
    pub fn of(charge: &Charge) -> Self {
        Self { cost_minor_units: charge.cost.map(|cost| cost.minor_units), currency: charge.cost.map(|cost| cost.currency) }
    }
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

/// A consume that has ended, with everything its answer shows.
pub struct Ended {
    context: ConsumeContext,
    outcome: Outcome,
    /// Ended before; nothing was done for it now.
    replayed: bool,
}

impl Ended {
    pub const fn now(context: ConsumeContext, outcome: Outcome) -> Self {
        Self { context, outcome, replayed: false }
    }

    pub fn before(stored: StoredAnswer) -> Result<Self, Problem> {
        let context = ConsumeContext::from_bytes(&stored.context)?;
        if let Outcome::Charged { charge, .. } = &stored.outcome {
            counters::consumed(&charge.spec.provider, "replayed");
        }
        Ok(Self { context, outcome: stored.outcome, replayed: true })
    }

    /// As the answer to a request of its own.
    pub fn respond(&self) -> Result<Response, Problem> {
        let mut response = self
            .answer()
            .and_then(|answer| json_answer(StatusCode::OK, &answer))
            .map_err(|problem| if self.replayed { problem.header(IDEMPOTENT_REPLAYED, "true") } else { problem })?;
        self.context.rate.write(response.headers_mut());
        if self.replayed {
            mark_replayed(&mut response);
        }
        Ok(response)
    }

    /// As one of many results: the same answer with its status inside.
    pub fn result(&self) -> Result<Box<RawValue>, Problem> {
        let result = ItemResult { status: StatusCode::OK.as_u16(), replayed: self.replayed, answer: self.answer()? };
        to_raw_value(&result).map_err(|error| Problem::internal(&error))
    }

    fn answer(&self) -> Result<Answer<'_>, Problem> {
        answer(&self.context, &self.outcome)
    }
}

#[derive(Serialize)]
struct ItemResult<'a> {
    status: u16,
    #[serde(rename = "idempotentReplayed", skip_serializing_if = "std::ops::Not::not")]
    replayed: bool,
    #[serde(flatten)]
    answer: Answer<'a>,
}

fn answer<'a>(context: &'a ConsumeContext, outcome: &Outcome) -> Result<Answer<'a>, Problem> {
    let Outcome::Charged { charge, pool, at, .. } = outcome else { return Err(context.rate.on(error::outcome(outcome))) };
    let provider_response = match &context.provider {
        Some(ProviderPart::Failed(failure)) => return Err(failed(context, charge, *failure, *at)),
        Some(ProviderPart::Answered(answer)) => ProviderResponse::Given(answer),
        None => ProviderResponse::None {},
    };
    if !matches!(charge.status, ChargeStatus::Settled | ChargeStatus::Refunded) {
        return Err(context.rate.on(error::outcome(&Outcome::InvalidTransition { status: charge.status })));
    }
    let rate = context.rate.fields();
    Ok(Answer {
        allowed: true,
        charge_id: charge.spec.id,
        capacity: rate.capacity,
        used: rate.used,
        remaining: rate.remaining,
        wait_seconds: 0,
        timestamp: Instant(*at),
        quota: QuotaPart::of(pool),
        tokens_charged: charge.settled,
        cost: CostPart::of(charge),
        provider_response,
    })
}

/// The provider saw the call, or may have: a client that repeats it without a key would make a second one.
fn failed(context: &ConsumeContext, charge: &Charge, failure: ProviderFailure, at: DateTime<Utc>) -> Problem {
    let problem = error::provider(&charge.spec.provider, failure)
        .with("chargeId", charge.spec.id.to_string())
        .with("timestamp", Instant(at).text())
        .header(error::SHOULD_RETRY, "false");
    context.rate.on(problem)
}
