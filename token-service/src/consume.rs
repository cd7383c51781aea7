//! `POST /api/v1/tokens/consume`. Round trips: one to the buckets, one commit shared with whoever else writes now; and with a
//! `prompt` the provider's answer between a hold and its settlement ([`crate::prompted`]).

use crate::{
    callers::Spender,
    consume_answer::{ConsumeContext, render, replay},
    counters, error,
    idempotency::{self, Keyed, Opening},
    payer::{self, Spend},
    prompted,
    service::Service,
    spend_request::{SpendFields, SpendRequest},
    spending::{Admission, Booked, admit, book},
};
use axum::{extract::State, http::HeaderMap, response::Response};
use domain::{charge::Metadata, ledger::Command};
use serde::{Deserialize, Serialize};
use service_kit::{json::StrictJson, problem::Problem, telemetry::TRACE_TARGET};
use std::sync::Arc;
use tracing::Instrument;

/// Names the operation in the scope of its idempotency keys, under both of its paths.
const ENDPOINT: &str = "POST /api/v1/tokens/consume";

/// Fields in alphabetical order: written again, they are the canonical form that fingerprints are made of.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ConsumeBody {
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<Metadata>,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    org_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    provider: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tokens: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_id: Option<String>,
}

pub async fn consume(
    State(service): State<Arc<Service>>,
    Spender(caller): Spender,
    headers: HeaderMap,
    StrictJson(body): StrictJson<ConsumeBody>,
) -> Result<Response, Problem> {
    let keyed = idempotency::keyed(&headers, &caller, ENDPOINT, &body)?;
    let ConsumeBody { metadata, model, org_id, prompt, provider, tokens, user_id } = body;
    let fields = SpendFields { user_id, org_id, provider, model, tokens, metadata };
    let request = SpendRequest::parse(fields, &caller, &service.settings.current())?;
    let spend = payer::authorise(&service, &caller, request).await?;
    counters::consume_attempted(&spend.provider);
    let span = tracing::info_span!(target: TRACE_TARGET, "consume", provider = spend.provider.as_str());
    let told = Arc::clone(&service);
    async move {
        match prompt.filter(|prompt| !prompt.trim().is_empty()) {
            None => service.to_its_end(charge(told, spend, keyed)).await,
            Some(prompt) => service.to_its_end(prompted::charge(told, spend, keyed, prompt)).await,
        }
    }
    .instrument(span)
    .await
}

/// The story of a consume whose amount is known: charged in one commit.
async fn charge(service: Arc<Service>, spend: Spend, keyed: Option<Keyed>) -> Result<Response, Problem> {
    let _turn = match service.open(keyed.as_ref()).await? {
        Opening::Turn(turn) => turn,
        Opening::Done(stored) => return replay(&stored),
    };
    let taken = match admit(&service, &spend, keyed.as_ref()).await? {
        Admission::Admitted(taken) => taken,
        Admission::Done(stored) => return replay(&stored),
    };
    let context = ConsumeContext { rate: taken.record.clone(), provider: None };
    let idempotency = match &keyed {
        Some(keyed) => Some(keyed.completes(context.to_bytes()?)),
        None => None,
    };
    let command = Command::Consume { spec: spend.charge(&service), tokens: spend.tokens };
    let request = service.request(spend.payer, command, &spend.facts, idempotency);
    match book(&service, &spend, &taken, request).await? {
        Booked::New(outcome) => {
            counters::consumed(&spend.provider, "allowed");
            render(&context, &outcome)
        }
        Booked::Before(stored) => replay(&stored),
        // Only a consume with a prompt leaves charges open, and that is another request.
        Booked::LeftOpen(_) => Err(error::idempotency_in_progress()),
    }
}
