//! `GET /api/v1/admin/config/versions`: who changed what, newest first.

use crate::{
    Service,
    error::{Administrator, store_failed},
};
use axum::{Json, extract::State};
use chrono::SecondsFormat;
use serde::Deserialize;
use serde_json::{Value, json};
use service_kit::{json::StrictQuery, problem::Problem};

const DEFAULT_LIMIT: u32 = 50;
const MAX_LIMIT: u32 = 200;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Page {
    limit: Option<u32>,
}

pub async fn list(State(service): State<Service>, _: Administrator, StrictQuery(page): StrictQuery<Page>) -> Result<Json<Value>, Problem> {
    let limit = page.limit.unwrap_or(DEFAULT_LIMIT).clamp(1, MAX_LIMIT);
    let history = service.store.history(limit).await.map_err(store_failed)?;
    let items: Vec<Value> = history
        .into_iter()
        .map(|entry| {
            json!({
                "version": entry.version,
                "author": entry.author,
                "at": entry.at.to_rfc3339_opts(SecondsFormat::Millis, true),
                "change": entry.change,
            })
        })
        .collect();
    Ok(Json(json!({"items": items})))
}
