//! `PUT /api/v1/admin/users/{id}/tier` and `…/orgs/{id}/tier`: which plan somebody is on.

use crate::{
    Service,
    error::{Administrator, org_not_found, parse_org, parse_user, store_failed},
};
use axum::{
    Json,
    extract::{Path, State},
};
use serde::Deserialize;
use serde_json::{Value, json};
use service_kit::{json::StrictJson, problem::Problem};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewTier {
    tier: String,
}

/// The user need not be known: people may live in an outside identity provider.
pub async fn put_user(
    State(service): State<Service>,
    _: Administrator,
    Path(user): Path<String>,
    StrictJson(request): StrictJson<NewTier>,
) -> Result<Json<Value>, Problem> {
    let user = parse_user("userId", &user)?;
    let tier = known(&service, &request.tier)?;
    service.accounts.set_user_tier(user, tier).await.map_err(store_failed)?;
    Ok(Json(json!({"userId": user, "tier": tier})))
}

pub async fn put_org(
    State(service): State<Service>,
    _: Administrator,
    Path(org): Path<String>,
    StrictJson(request): StrictJson<NewTier>,
) -> Result<Json<Value>, Problem> {
    let org = parse_org("orgId", &org)?;
    let tier = known(&service, &request.tier)?;
    if !service.accounts.set_org_tier(org, tier).await.map_err(store_failed)? {
        return Err(org_not_found());
    }
    Ok(Json(json!({"orgId": org, "tier": tier})))
}

fn known<'t>(service: &Service, tier: &'t str) -> Result<&'t str, Problem> {
    let settings = service.settings.current();
    if settings.tiers.contains_key(tier) {
        return Ok(tier);
    }
    Err(Problem::field_allowed("tier", "unknown tier", settings.tiers.keys().cloned().collect()))
}
