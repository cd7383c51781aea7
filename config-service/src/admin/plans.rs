//! `/api/v1/admin/plans` and the catalogue, `/api/v1/plans`: packs of tokens with their prices.

use super::{Named, change, deleted, known_model, listed, load, missing, parse_name, written};
use crate::{Service, error::Administrator};
use axum::{
    Json,
    extract::{Path, State},
    response::{IntoResponse, Response},
};
use domain::{
    amount::Tokens,
    ids::Provider,
    money::{Currency, UnitPrice, price_at},
    settings::{Plan, Settings, SettingsChange},
};
use serde::Serialize;
use service_kit::{identity::Authenticated, json::StrictJson, problem::Problem};

pub async fn list(State(service): State<Service>, _: Administrator) -> Result<Response, Problem> {
    let settings = load(&service).await?;
    Ok(listed(settings.plans.iter().map(|(name, plan)| (name.as_str(), plan))))
}

pub async fn show(State(service): State<Service>, _: Administrator, Path(name): Path<String>) -> Result<Response, Problem> {
    let name = parse_name(name)?;
    let settings = load(&service).await?;
    let plan = settings.plans.get(&name).ok_or_else(|| missing("plan"))?;
    Ok(Json(Named { name: &name, value: plan }).into_response())
}

pub async fn put(
    State(service): State<Service>,
    Administrator(caller): Administrator,
    Path(name): Path<String>,
    StrictJson(plan): StrictJson<Plan>,
) -> Result<Response, Problem> {
    let name = parse_name(name)?;
    if let Some((field, message)) = plan.invalid() {
        return Err(Problem::field(field, message));
    }
    known_model(&load(&service).await?, &plan.provider, None)?;
    let effect = change(&service, &caller, SettingsChange::PutPlan { name: name.clone(), plan: plan.clone() }).await?;
    Ok(written(&effect, &name, &plan))
}

/// What was purchased stays.
pub async fn delete(
    State(service): State<Service>,
    Administrator(caller): Administrator,
    Path(name): Path<String>,
) -> Result<Response, Problem> {
    let name = parse_name(name)?;
    deleted(change(&service, &caller, SettingsChange::DeletePlan { name }).await?, "plan")
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Catalogue<'a> {
    items: Vec<Offer<'a>>,
    /// For purchases of any amount.
    unit_prices: Vec<UnitOffer<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Offer<'a> {
    plan_id: &'a str,
    provider: &'a Provider,
    tokens: Tokens,
    price_minor_units: Tokens,
    currency: Currency,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct UnitOffer<'a> {
    provider: &'a Provider,
    per_million: UnitPrice,
    currency: Currency,
}

/// For everybody with a credential.
pub async fn catalogue(State(service): State<Service>, _: Authenticated) -> Result<Response, Problem> {
    let settings = load(&service).await?;
    Ok(Json(offered(&settings, &service)).into_response())
}

fn offered<'a>(settings: &'a Settings, service: &Service) -> Catalogue<'a> {
    let Some(money) = settings.money else { return Catalogue { items: Vec::new(), unit_prices: Vec::new() } };
    let offer = |(plan_id, plan): (&'a String, &'a Plan)| Offer {
        plan_id,
        provider: &plan.provider,
        tokens: plan.tokens,
        price_minor_units: plan.price_minor_units,
        currency: money.currency,
    };
    let unit_offer = |provider: &'a Provider| {
        let price = price_at(&settings.prices, provider, None, service.clock.now())?;
        Some(UnitOffer { provider, per_million: price.dearest(), currency: money.currency })
    };
    Catalogue { items: settings.plans.iter().map(offer).collect(), unit_prices: settings.providers.keys().filter_map(unit_offer).collect() }
}
