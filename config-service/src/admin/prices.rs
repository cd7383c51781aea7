//! `/api/v1/admin/money` and `/api/v1/admin/prices`: in what costs are counted, and what a million tokens cost from when on.

use super::{change, deleted, known_model, listed, load, missing, parse_name, status_of, written};
use crate::{Service, error::Administrator};
use axum::{
    Json,
    extract::{Path, State},
    response::{IntoResponse, Response},
};
use domain::{
    money::{Money, Price},
    settings::SettingsChange,
};
use service_kit::{json::StrictJson, problem::Problem};

pub async fn show_money(State(service): State<Service>, _: Administrator) -> Result<Response, Problem> {
    let money = load(&service).await?.money.ok_or_else(|| missing("money"))?;
    Ok(Json(money).into_response())
}

/// Set once: the totals of charges that were made in another unit could not be added.
pub async fn put_money(
    State(service): State<Service>,
    Administrator(caller): Administrator,
    StrictJson(money): StrictJson<Money>,
) -> Result<Response, Problem> {
    if let Some((field, message)) = money.invalid() {
        return Err(Problem::field(field, message));
    }
    let effect = change(&service, &caller, SettingsChange::PutMoney { money }).await?;
    Ok((status_of(&effect), Json(money)).into_response())
}

pub async fn list(State(service): State<Service>, _: Administrator) -> Result<Response, Problem> {
    let settings = load(&service).await?;
    Ok(listed(settings.prices.iter().map(|(name, price)| (name.as_str(), price))))
}

pub async fn show(State(service): State<Service>, _: Administrator, Path(name): Path<String>) -> Result<Response, Problem> {
    let name = parse_name(name)?;
    let settings = load(&service).await?;
    let price = settings.prices.get(&name).ok_or_else(|| missing("price"))?;
    Ok(Json(super::Named { name: &name, value: price }).into_response())
}

pub async fn put(
    State(service): State<Service>,
    Administrator(caller): Administrator,
    Path(name): Path<String>,
    StrictJson(price): StrictJson<Price>,
) -> Result<Response, Problem> {
    let name = parse_name(name)?;
    known_model(&load(&service).await?, &price.provider, price.model.as_ref())?;
    let effect = change(&service, &caller, SettingsChange::PutPrice { name: name.clone(), price: price.clone() }).await?;
    Ok(written(&effect, &name, &price))
}

/// Charges that were made keep their cost.
pub async fn delete(
    State(service): State<Service>,
    Administrator(caller): Administrator,
    Path(name): Path<String>,
) -> Result<Response, Problem> {
    let name = parse_name(name)?;
    deleted(change(&service, &caller, SettingsChange::DeletePrice { name }).await?, "price")
}
