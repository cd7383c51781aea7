//! `/api/v1/admin/limits`: speed limits. A changed limit takes its bucket's level along; no usage is forgotten.

use super::{change, deleted, known_model, listed, load, missing, parse_name, written};
use crate::{Service, error::Administrator};
use axum::{
    extract::{Path, State},
    response::{IntoResponse, Response},
};
use domain::settings::{Limit, Settings, SettingsChange};
use service_kit::{json::StrictJson, problem::Problem};

pub async fn list(State(service): State<Service>, _: Administrator) -> Result<Response, Problem> {
    let settings = load(&service).await?;
    Ok(listed(settings.limits.iter().map(|(name, limit)| (name.as_str(), limit))))
}

pub async fn show(State(service): State<Service>, _: Administrator, Path(name): Path<String>) -> Result<Response, Problem> {
    let name = parse_name(name)?;
    let settings = load(&service).await?;
    let limit = settings.limits.get(&name).ok_or_else(|| missing("limit"))?;
    Ok(axum::Json(super::Named { name: &name, value: limit }).into_response())
}

pub async fn put(
    State(service): State<Service>,
    Administrator(caller): Administrator,
    Path(name): Path<String>,
    StrictJson(limit): StrictJson<Limit>,
) -> Result<Response, Problem> {
    let name = parse_name(name)?;
    if let Some((field, message)) = limit.invalid() {
        return Err(Problem::field(field, message));
    }
    names_what_exists(&limit, &load(&service).await?)?;
    let effect = change(&service, &caller, SettingsChange::PutLimit { name: name.clone(), limit: limit.clone() }).await?;
    Ok(written(&effect, &name, &limit))
}

pub async fn delete(
    State(service): State<Service>,
    Administrator(caller): Administrator,
    Path(name): Path<String>,
) -> Result<Response, Problem> {
    let name = parse_name(name)?;
    deleted(change(&service, &caller, SettingsChange::DeleteLimit { name }).await?, "limit")
}

/// A limit on a misspelt provider or model would silently limit nothing.
fn names_what_exists(limit: &Limit, settings: &Settings) -> Result<(), Problem> {
    limit.provider.as_ref().map_or(Ok(()), |provider| known_model(settings, provider, limit.model.as_ref()))
}
