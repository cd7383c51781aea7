//! Changes to the settings by administrators: what the kinds of resources share. Reads go to the store, so that they see every change.

pub mod limits;
pub mod plans;
pub mod prices;
pub mod providers;
pub mod tiers;
pub mod versions;

use crate::{
    Service,
    error::{conflict, store_failed},
};
use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use domain::{
    access::Caller,
    ids::{Model, Provider},
    settings::{Settings, SettingsChange, SettingsEffect},
};
use serde::Serialize;
use serde_json::json;
use service_kit::problem::Problem;

const NAME_LIMIT: usize = 50;

/// A resource as answers show it: its name beside its fields.
#[derive(Serialize)]
struct Named<'a, T> {
    name: &'a str,
    #[serde(flatten)]
    value: &'a T,
}

/// Name of a tier or limit, as written: letters, digits, `-`, `_`, `.`, at most 50 bytes.
fn parse_name(name: String) -> Result<String, Problem> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if name.is_empty() || name.len() > NAME_LIMIT || !name.bytes().all(allowed) {
        return Err(Problem::field("name", format!("name takes letters, digits, -, _ and ., at most {NAME_LIMIT}")));
    }
    Ok(name)
}

async fn load(service: &Service) -> Result<Settings, Problem> {
    service.store.load().await.map_err(store_failed)
}

/// Stores the change as a new version and puts it in force here at once; the other processes follow within a second.
async fn change(service: &Service, caller: &Caller, change: SettingsChange) -> Result<SettingsEffect, Problem> {
    let (effect, settings) = service.store.change(change, &caller.principal(), service.clock.now()).await.map_err(store_failed)?;
    if let SettingsEffect::Refused(why) = effect {
        return Err(conflict(why.to_string()));
    }
    service.feed.adopt(settings).await;
    Ok(effect)
}

fn written<T: Serialize>(effect: &SettingsEffect, name: &str, value: &T) -> Response {
    (status_of(effect), Json(Named { name, value })).into_response()
}

fn status_of(effect: &SettingsEffect) -> StatusCode {
    if *effect == SettingsEffect::Created { StatusCode::CREATED } else { StatusCode::OK }
}

fn deleted(effect: SettingsEffect, kind: &str) -> Result<Response, Problem> {
    match effect {
        SettingsEffect::Absent => Err(missing(kind)),
        _ => Ok(StatusCode::NO_CONTENT.into_response()),
    }
}

fn missing(kind: &str) -> Problem {
    Problem::not_found(format!("{kind} not found"))
}

/// What stands for a provider, and perhaps a model, must name ones that exist; a provider without a list has any model.
fn known_model(settings: &Settings, provider: &Provider, model: Option<&Model>) -> Result<(), Problem> {
    let Some(known) = settings.providers.get(provider) else {
        let allowed = settings.providers.keys().map(ToString::to_string).collect();
        return Err(Problem::field_allowed("provider", "unknown provider", allowed));
    };
    match model {
        Some(model) if !known.models.is_empty() && !known.models.contains(model) => {
            Err(Problem::field_allowed("model", "unknown model", known.models.iter().map(ToString::to_string).collect()))
        }
        _ => Ok(()),
    }
}

fn listed<'a, T: Serialize + 'a>(items: impl Iterator<Item = (&'a str, &'a T)>) -> Response {
    let items: Vec<Named<'a, T>> = items.map(|(name, value)| Named { name, value }).collect();
    Json(json!({"items": items})).into_response()
}
