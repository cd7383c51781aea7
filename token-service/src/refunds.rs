//! `POST refund`: decided and booked with its event in one transaction before the answer, and completed once the totals have counted it.

mod completion;

pub use completion::complete;

use crate::{
    callers::Spender,
    change_once::change_once,
    error,
    holds::{charge_id, endable},
    idempotency,
    json_answer::json_answer,
    service::Service,
    spend_request::{amount, reason},
};
use axum::{
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::Response,
};
use domain::{
    amount::Tokens,
    ids::{ChargeId, SagaId},
    ledger::{Command, Outcome},
    saga::{SagaStatus, SagaSubject},
};
use serde::{Deserialize, Serialize};
use service_kit::{json::StrictJson, problem::Problem};
use std::sync::Arc;

const REFUND: &str = "POST /api/v1/tokens/refund";

/// Alphabetical, see [`crate::consume::ConsumeBody`].
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RefundBody {
    charge_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tokens: Option<i64>,
}

pub async fn refund(
    State(service): State<Arc<Service>>,
    Spender(caller): Spender,
    headers: HeaderMap,
    StrictJson(body): StrictJson<RefundBody>,
) -> Result<Response, Problem> {
    let keyed = idempotency::keyed(&headers, &caller, REFUND, &body)?;
    let id = charge_id(body.charge_id.as_deref())?;
    let tokens = body.tokens.map(positive).transpose()?;
    if let Some(text) = &body.reason {
        reason(text)?;
    }
    let payer = endable(&service, &caller, id).await?.spec.payer;
    let saga_id = SagaId::new(payer.shard(), service.clock.now());
    let command = Command::Refund { saga_id, charge_id: id, tokens, reason: body.reason };
    service.to_its_end(change_once(Arc::clone(&service), keyed, command, payer, accepted)).await
}

fn positive(tokens: i64) -> Result<Tokens, Problem> {
    if tokens <= 0 {
        return Err(Problem::field("tokens", "tokens must be positive"));
    }
    amount("tokens", tokens)
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Accepted {
    saga_id: SagaId,
    charge_id: ChargeId,
    status: SagaStatus,
    tokens: Tokens,
}

fn accepted(outcome: &Outcome) -> Result<Response, Problem> {
    let Outcome::SagaMoved { saga } = outcome else { return Err(error::outcome(outcome)) };
    let SagaSubject::Refund { charge_id } = saga.subject else { return Err(error::outcome(outcome)) };
    let answer = Accepted { saga_id: saga.id, charge_id, status: saga.status(), tokens: saga.tokens };
    let mut response = json_answer(StatusCode::ACCEPTED, &answer)?;
    if let Ok(location) = HeaderValue::try_from(format!("/api/v1/tokens/sagas/{}", saga.id)) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}
