//! `POST /api/v1/{provider}/chat`: takes any JSON object and echoes it; reports no usage.

use crate::{
    exchange::{Refusal, misbehave, read},
    provider::Provider,
};
use axum::{
    Json,
    body::Bytes,
    extract::{RawQuery, State, rejection::BytesRejection},
    http::HeaderMap,
    response::{IntoResponse, Response},
};
use chrono::{SecondsFormat, Utc};
use serde_json::{Value, json};
use uuid::Uuid;

pub async fn chat(
    State(provider): State<Provider>,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    answer(provider, &headers, query.as_deref(), body).await.unwrap_or_else(|refusal| refusal.into_response(provider))
}

async fn answer(
    provider: Provider,
    headers: &HeaderMap,
    query: Option<&str>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Refusal> {
    let (received, mut controls) = read(headers, query, body)?;
    if let Some(prompt) = received.get("prompt").and_then(Value::as_str) {
        controls.take_directive(prompt)?;
    }
    if let Some(misbehaviour) = misbehave(provider, &controls).await {
        return Ok(misbehaviour);
    }
    let answer = json!({
        "id": Uuid::new_v4(),
        "provider": provider.name(),
        "received": received,
        "created": Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true),
        "message": provider.message(),
    });
    Ok(Json(answer).into_response())
}
