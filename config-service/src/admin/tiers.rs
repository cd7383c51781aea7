//! `/api/v1/admin/tiers`: named plans. A user or org whose tier was deleted falls back to the default tier, which cannot be deleted.

use super::{change, deleted, listed, load, missing, parse_name, written};
use crate::{
    Service,
    error::{Administrator, conflict},
};
use axum::{
    extract::{Path, State},
    response::{IntoResponse, Response},
};
use domain::settings::{SettingsChange, Tier};
use service_kit::{json::StrictJson, problem::Problem};

pub async fn list(State(service): State<Service>, _: Administrator) -> Result<Response, Problem> {
    let settings = load(&service).await?;
    Ok(listed(settings.tiers.iter().map(|(name, tier)| (name.as_str(), tier))))
}

pub async fn show(State(service): State<Service>, _: Administrator, Path(name): Path<String>) -> Result<Response, Problem> {
    let name = parse_name(name)?;
    let settings = load(&service).await?;
    let tier = settings.tiers.get(&name).ok_or_else(|| missing("tier"))?;
    Ok(axum::Json(super::Named { name: &name, value: tier }).into_response())
}

pub async fn put(
    State(service): State<Service>,
    Administrator(caller): Administrator,
    Path(name): Path<String>,
    StrictJson(tier): StrictJson<Tier>,
) -> Result<Response, Problem> {
    let name = parse_name(name)?;
    if let Some((field, message)) = tier.invalid() {
        return Err(Problem::field(field, message));
    }
    let effect = change(&service, &caller, SettingsChange::PutTier { name: name.clone(), tier: tier.clone() }).await?;
    Ok(written(&effect, &name, &tier))
}

pub async fn delete(
    State(service): State<Service>,
    Administrator(caller): Administrator,
    Path(name): Path<String>,
) -> Result<Response, Problem> {
    let name = parse_name(name)?;
    if load(&service).await?.default_tier == name {
        return Err(conflict("the default tier cannot be deleted: everyone without a tier of their own has it"));
    }
    deleted(change(&service, &caller, SettingsChange::DeleteTier { name }).await?, "tier")
}
