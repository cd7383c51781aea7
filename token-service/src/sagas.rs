//! `GET sagas/{id}`, `GET purchase/{id}`: where a saga is, and when it took each step.

use crate::{
    callers::Reader,
    charges::may_see,
    error,
    json_answer::{Instant, json_answer},
    service::Service,
};
use axum::{
    extract::{Path, State},
    http::StatusCode,
    response::Response,
};
use domain::{
    amount::Tokens,
    ids::{ChargeId, OrgId, SagaId, Shard, UserId},
    money::Currency,
    saga::{Saga, SagaStatus, SagaStep, SagaSubject},
};
use serde::Serialize;
use service_kit::problem::Problem;
use std::sync::Arc;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SagaRecord<'a> {
    saga_id: SagaId,
    #[serde(flatten)]
    subject: Subject,
    status: SagaStatus,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_id: Option<UserId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    org_id: Option<OrgId>,
    provider: &'a str,
    tokens: Tokens,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    steps: Vec<StepRecord>,
    seq: i64,
    shard: Shard,
}

#[derive(Serialize)]
#[serde(tag = "kind", rename_all = "SCREAMING_SNAKE_CASE", rename_all_fields = "camelCase")]
enum Subject {
    Refund {
        charge_id: ChargeId,
    },
    Purchase {
        #[serde(skip_serializing_if = "Option::is_none")]
        plan_id: Option<String>,
        price_minor_units: Tokens,
        currency: Currency,
    },
}

#[derive(Serialize)]
struct StepRecord {
    status: SagaStatus,
    at: Instant,
}

impl<'a> SagaRecord<'a> {
    pub fn of(saga: &'a Saga) -> Self {
        let step = |step: &SagaStep| StepRecord { status: step.status, at: Instant(step.at) };
        Self {
            saga_id: saga.id,
            subject: match &saga.subject {
                SagaSubject::Refund { charge_id } => Subject::Refund { charge_id: *charge_id },
                SagaSubject::Purchase { plan_id, price } => {
                    Subject::Purchase { plan_id: plan_id.clone(), price_minor_units: price.minor_units, currency: price.currency }
                }
            },
            status: saga.status(),
            user_id: saga.user_id,
            org_id: saga.payer.org(),
            provider: saga.provider.as_str(),
            tokens: saga.tokens,
            reason: saga.reason.as_deref(),
            steps: saga.steps.iter().map(step).collect(),
            seq: saga.seq,
            shard: saga.shard(),
        }
    }
}

/// To those who may see what it is about; 404 to everybody else.
pub async fn show(State(service): State<Arc<Service>>, Reader(caller): Reader, Path(id): Path<String>) -> Result<Response, Problem> {
    let id: SagaId = id.parse().map_err(|_| Problem::field("sagaId", "invalid sagaId"))?;
    let found = service.ledger.find_saga(id).await.map_err(|failure| error::store(&failure))?;
    let saga = found.ok_or_else(error::saga_not_found)?;
    if !may_see(&service, &caller, saga.payer, saga.user_id).await? {
        return Err(error::saga_not_found());
    }
    json_answer(StatusCode::OK, &SagaRecord::of(&saga))
}
