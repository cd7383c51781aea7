//! `/api/v1/tokens/webhooks`: a user's own, an org's for its `ORG_ADMIN`s, everybody's for administrators.

use super::egress;
use crate::{
    callers::Reader,
    charges::page_limit,
    error,
    json_answer::{Instant, json_answer},
    payer::{Sight, sight_of},
    service::Service,
    spend_request::{named_user, optional_org, required},
};
use axum::{
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use domain::{
    access::Caller,
    ids::{EventId, Payer},
};
use ports::webhooks::{Delivery, Webhook};
use rand::RngExt;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use service_kit::{
    json::{StrictJson, StrictQuery},
    problem::Problem,
};
use std::sync::Arc;
use uuid::Uuid;

const MOST_PER_PAYER: u32 = 10;

/// Alphabetical, see [`crate::consume::ConsumeBody`].
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WebhookBody {
    org_id: Option<String>,
    url: Option<String>,
    user_id: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OwnerQuery {
    user_id: Option<String>,
    org_id: Option<String>,
    limit: Option<u32>,
}

impl OwnerQuery {
    async fn owner(&self, service: &Service, caller: &Caller) -> Result<Payer, Problem> {
        owner(service, caller, self.user_id.as_deref(), self.org_id.as_deref()).await
    }
}

pub async fn create(
    State(service): State<Arc<Service>>,
    Reader(caller): Reader,
    StrictJson(body): StrictJson<WebhookBody>,
) -> Result<Response, Problem> {
    let payer = owner(&service, &caller, body.user_id.as_deref(), body.org_id.as_deref()).await?;
    let url = egress::check(required("url", body.url.as_deref())?, service.networks)?;
    let webhook =
        Webhook { id: Uuid::now_v7(), payer, url: url.to_string(), secret: rand::rng().random(), created_at: service.clock.now() };
    if !service.webhooks.create(&webhook, MOST_PER_PAYER).await.map_err(|failure| error::store(&failure))? {
        let detail = format!("there are {MOST_PER_PAYER} webhooks already, no more are kept; delete one first");
        return Err(Problem::new(StatusCode::CONFLICT, "conflict", detail));
    }
    let mut shown = record(&webhook);
    shown["secret"] = json!(format!("whsec_{}", STANDARD.encode(webhook.secret)));
    json_answer(StatusCode::CREATED, &shown)
}

pub async fn list(
    State(service): State<Arc<Service>>,
    Reader(caller): Reader,
    StrictQuery(query): StrictQuery<OwnerQuery>,
) -> Result<Response, Problem> {
    let payer = query.owner(&service, &caller).await?;
    let webhooks = service.webhooks.webhooks(payer).await.map_err(|failure| error::store(&failure))?;
    json_answer(StatusCode::OK, &json!({"items": webhooks.iter().map(record).collect::<Vec<_>>()}))
}

pub async fn remove(
    State(service): State<Arc<Service>>,
    Reader(caller): Reader,
    Path(id): Path<String>,
    StrictQuery(query): StrictQuery<OwnerQuery>,
) -> Result<Response, Problem> {
    let id = webhook_id(&id)?;
    let payer = query.owner(&service, &caller).await?;
    if service.webhooks.delete(payer, id).await.map_err(|failure| error::store(&failure))? {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    Err(Problem::not_found("webhook not found"))
}

pub async fn deliveries(
    State(service): State<Arc<Service>>,
    Reader(caller): Reader,
    Path(id): Path<String>,
    StrictQuery(query): StrictQuery<OwnerQuery>,
) -> Result<Response, Problem> {
    let id = webhook_id(&id)?;
    let limit = page_limit(query.limit)?;
    let payer = query.owner(&service, &caller).await?;
    let deliveries = service.webhooks.deliveries(payer, id, limit).await.map_err(|failure| error::store(&failure))?;
    json_answer(StatusCode::OK, &json!({"items": deliveries.iter().map(delivery_record).collect::<Vec<_>>()}))
}

pub async fn redeliver(
    State(service): State<Arc<Service>>,
    Reader(caller): Reader,
    Path((id, event)): Path<(String, String)>,
    StrictQuery(query): StrictQuery<OwnerQuery>,
) -> Result<Response, Problem> {
    let id = webhook_id(&id)?;
    let event: EventId = event.parse().map_err(|_| Problem::field("eventId", "invalid eventId"))?;
    let payer = query.owner(&service, &caller).await?;
    let again = service.webhooks.redeliver(payer, id, event, service.clock.now()).await.map_err(|failure| error::store(&failure))?;
    if again { Ok(StatusCode::ACCEPTED.into_response()) } else { Err(Problem::not_found("delivery not found")) }
}

fn webhook_id(text: &str) -> Result<Uuid, Problem> {
    Uuid::parse_str(text).map_err(|_| Problem::field("webhookId", "invalid webhookId"))
}

/// Whose webhooks: 404 for whom the caller may not see, 403 for a member without the role.
async fn owner(service: &Service, caller: &Caller, user: Option<&str>, org: Option<&str>) -> Result<Payer, Problem> {
    let payer = match optional_org(org)? {
        Some(org) if user.is_none() => Payer::Org(org),
        Some(_) => return Err(Problem::field("orgId", "only one of userId and orgId may be given")),
        None => Payer::User(named_user(user, caller)?.id()?),
    };
    match sight_of(service, caller, payer).await? {
        Some(Sight::Everything) => Ok(payer),
        Some(Sight::Own(_)) => Err(Problem::forbidden("only an ORG_ADMIN of the org manages its webhooks", "admin")),
        None => Err(Problem::not_found("webhook not found")),
    }
}

fn record(webhook: &Webhook) -> Value {
    let mut record = json!({"webhookId": webhook.id, "url": webhook.url, "createdAt": Instant(webhook.created_at)});
    match webhook.payer {
        Payer::User(user) => record["userId"] = json!(user),
        Payer::Org(org) => record["orgId"] = json!(org),
    }
    record
}

fn delivery_record(delivery: &Delivery) -> Value {
    let outcome = &delivery.outcome;
    let body: Value = serde_json::from_str(&delivery.body).unwrap_or_default();
    json!({
        "eventId": delivery.event_id,
        "status": outcome.status.as_str(),
        "attempts": outcome.attempts,
        "dueAt": Instant(outcome.due_at),
        "answered": outcome.answered,
        "error": outcome.error,
        "createdAt": Instant(delivery.created_at),
        "body": body,
    })
}
