//! `/api/v1/admin/sagas`: what has not ended, and an operator's word on it.

use super::waking_the_worker;
use crate::{
    callers::Administrator,
    change_once::change_once,
    charges::page_limit,
    error, idempotency,
    json_answer::json_answer,
    sagas::SagaRecord,
    service::Service,
    spend_request::{reason, required},
};
use axum::{
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
    response::Response,
};
use chrono::TimeDelta;
use domain::{
    access::Caller,
    ids::SagaId,
    ledger::{Command, Direction, Outcome},
    saga::Saga,
};
use serde::{Deserialize, Serialize};
use service_kit::{
    json::{StrictJson, StrictQuery},
    problem::Problem,
};
use std::sync::Arc;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OpenQuery {
    /// Only those that have not moved for so long.
    idle_seconds: Option<u32>,
    limit: Option<u32>,
    cursor: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SagaPage<'a> {
    items: Vec<SagaRecord<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<SagaId>,
}

/// Every saga that has not ended, oldest first.
pub async fn list_open(
    State(service): State<Arc<Service>>,
    _: Administrator,
    StrictQuery(query): StrictQuery<OpenQuery>,
) -> Result<Response, Problem> {
    let limit = page_limit(query.limit)?;
    let after = query.cursor.map(|cursor| cursor.parse::<SagaId>()).transpose();
    let after = after.map_err(|_| Problem::field("cursor", "cursor is not one that this list has given"))?;
    let sagas = service.ledger.open_sagas(after, limit).await.map_err(|failure| error::store(&failure))?;
    let full = u32::try_from(sagas.len()).is_ok_and(|found| found == limit);
    let next_cursor = sagas.last().filter(|_| full).map(|saga| saga.id);
    let moved_before = service.clock.now() - TimeDelta::seconds(query.idle_seconds.unwrap_or(0).into());
    let is_idle = |saga: &&Saga| saga.steps.last().is_none_or(|step| step.at <= moved_before);
    json_answer(StatusCode::OK, &SagaPage { items: sagas.iter().filter(is_idle).map(SagaRecord::of).collect(), next_cursor })
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DirectionBody {
    reason: Option<String>,
}

pub async fn resume(
    State(service): State<Arc<Service>>,
    Administrator(caller): Administrator,
    Path(id): Path<String>,
    headers: HeaderMap,
    StrictJson(body): StrictJson<DirectionBody>,
) -> Result<Response, Problem> {
    direct(service, &caller, &id, &headers, &body, Direction::Resume).await
}

pub async fn compensate(
    State(service): State<Arc<Service>>,
    Administrator(caller): Administrator,
    Path(id): Path<String>,
    headers: HeaderMap,
    StrictJson(body): StrictJson<DirectionBody>,
) -> Result<Response, Problem> {
    direct(service, &caller, &id, &headers, &body, Direction::Compensate).await
}

async fn direct(
    service: Arc<Service>,
    caller: &Caller,
    id: &str,
    headers: &HeaderMap,
    body: &DirectionBody,
    direction: Direction,
) -> Result<Response, Problem> {
    let endpoint = format!("POST /api/v1/admin/sagas/{id}/{direction:?}");
    let keyed = idempotency::keyed(headers, caller, &endpoint, body)?;
    let id: SagaId = id.parse().map_err(|_| Problem::field("sagaId", "invalid sagaId"))?;
    let reason = reason(required("reason", body.reason.as_deref())?)?.to_owned();
    let saga = service.ledger.find_saga(id).await.map_err(|failure| error::store(&failure))?.ok_or_else(error::saga_not_found)?;
    let command = Command::DirectPurchase { saga_id: id, direction, reason };
    let answer = waking_the_worker(&service, answer);
    service.to_its_end(change_once(Arc::clone(&service), keyed, command, saga.payer, answer)).await
}

fn answer(outcome: &Outcome) -> Result<Response, Problem> {
    let Outcome::SagaMoved { saga } = outcome else { return Err(error::outcome(outcome)) };
    json_answer(StatusCode::ACCEPTED, &SagaRecord::of(saga))
}
