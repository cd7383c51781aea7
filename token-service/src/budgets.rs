//! `/api/v1/admin/budgets`: how much a payer, or one member of an org, may spend in a period, in tokens or in money.

use crate::{callers::Administrator, change_once::write, error, json_answer::json_answer, pools::payer, service::Service};
use axum::{extract::State, http::StatusCode, response::Response};
use domain::{
    budget::Budget,
    ids::{Payer, UserId},
    ledger::{Command, Outcome},
};
use serde::Deserialize;
use serde_json::{Value, json};
use service_kit::{
    budgets::{BudgetBody, ThresholdBody, record},
    json::{StrictJson, StrictQuery},
    problem::Problem,
};
use std::sync::Arc;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OwnedBudgetBody {
    user_id: Option<String>,
    org_id: Option<String>,
    member_id: Option<String>,
    limit: Option<i64>,
    period: Option<String>,
    provider: Option<String>,
    #[serde(default)]
    thresholds: Vec<ThresholdBody>,
    time_zone: Option<String>,
    unit: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BudgetsQuery {
    user_id: Option<String>,
    org_id: Option<String>,
    member_id: Option<String>,
}

pub async fn set(
    State(service): State<Arc<Service>>,
    Administrator(_): Administrator,
    StrictJson(body): StrictJson<OwnedBudgetBody>,
) -> Result<Response, Problem> {
    let OwnedBudgetBody { user_id, org_id, member_id, limit, period, provider, thresholds, time_zone, unit } = body;
    let payer = payer(user_id.as_deref(), org_id.as_deref())?;
    let member = member(payer, member_id.as_deref())?;
    let body = BudgetBody { limit, period, provider, thresholds, time_zone, unit };
    let (key, terms) = body.understand(payer, member, &service.settings.current())?;
    let told = Arc::clone(&service);
    service
        .to_its_end(async move {
            let (outcome, _) = write(&told, Command::SetBudget { key, terms }, payer, None).await?;
            match &outcome {
                Outcome::BudgetSet { budget, created, at } => {
                    let status = if *created { StatusCode::CREATED } else { StatusCode::OK };
                    json_answer(status, &record(budget, &told.settings.current(), *at))
                }
                other => Err(error::outcome(other)),
            }
        })
        .await
}

pub async fn list(
    State(service): State<Arc<Service>>,
    Administrator(_): Administrator,
    StrictQuery(query): StrictQuery<BudgetsQuery>,
) -> Result<Response, Problem> {
    let payer = payer(query.user_id.as_deref(), query.org_id.as_deref())?;
    let member = member(payer, query.member_id.as_deref())?;
    json_answer(StatusCode::OK, &json!({"items": records(&service, payer, member, |_| true).await?}))
}

/// The budgets of a payer and of one member, as of now.
pub async fn records(
    service: &Service,
    payer: Payer,
    member: Option<UserId>,
    wanted: impl Fn(&Budget) -> bool,
) -> Result<Vec<Value>, Problem> {
    let budgets = service.ledger.budgets(payer, member).await.map_err(|failure| error::store(&failure))?;
    let (settings, now) = (service.settings.current(), service.clock.now());
    Ok(budgets.iter().filter(|budget| wanted(budget)).map(|budget| record(budget, &settings, now)).collect())
}

fn member(payer: Payer, text: Option<&str>) -> Result<Option<UserId>, Problem> {
    let Some(text) = text.map(str::trim).filter(|text| !text.is_empty()) else { return Ok(None) };
    if matches!(payer, Payer::User(_)) {
        return Err(Problem::field("memberId", "memberId may only be given with orgId"));
    }
    text.parse().map(Some).map_err(|_| Problem::field("memberId", "invalid memberId"))
}
