//! `POST /api/v1/events`: usage that already happened, as CloudEvents. One (structured or binary mode), an array of up to 1,000, or
//! lines without an end; each is booked at its own time and answered by itself.
//!
//! An event is known by its payer, source and id: told again, however late, it is a `duplicate`, with other data a `conflict`.
//! That is the charge's id, so it is decided where the charge is booked and needs no store of its own.

mod cloud_event;
mod lines;
mod recording;
mod stream;
#[cfg(test)]
mod tests;

use crate::{callers::Spender, json_answer::json_answer, service::Service};
use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::Response,
};
use cloud_event::CloudEvent;
use recording::{Recorded, record_all};
use serde::Serialize;
use serde_json::value::RawValue;
use service_kit::{
    json::{parse_envelope, read_body},
    problem::Problem,
};
use std::sync::Arc;

const MOST_EVENTS: usize = 1_000;

/// How the events of a request are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// Attributes in `ce-…` headers, the data as the body.
    Binary,
    /// One event as JSON.
    Structured,
    /// A JSON array of events.
    Batch,
    /// One JSON event per line.
    Lines,
}

#[derive(Serialize)]
struct BatchAnswer {
    results: Vec<Box<RawValue>>,
}

pub async fn ingest(
    State(service): State<Arc<Service>>,
    Spender(caller): Spender,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let mode = mode_of(&headers)?;
    if mode == Mode::Lines {
        return Ok(stream::answer(service, caller, body));
    }
    let bytes = read_body(&headers, body).await?;
    let events = match mode {
        Mode::Binary => vec![CloudEvent::binary(&headers, &bytes)],
        // Both kinds come as `application/json`, too.
        _ if bytes.trim_ascii_start().first() == Some(&b'[') => {
            let events: Vec<&RawValue> = parse_envelope(&bytes)?;
            if events.is_empty() || events.len() > MOST_EVENTS {
                return Err(Problem::field("body", format!("the batch has {} events, it takes 1 to {MOST_EVENTS}", events.len())));
            }
            let read = events.iter().map(|event| CloudEvent::structured(event.get().as_bytes())).collect();
            let told = Arc::clone(&service);
            let recorded = service.to_its_end(async move { Ok(record_all(&told, &caller, read).await) }).await?;
            let results = recorded.iter().map(Recorded::result).collect();
            return json_answer(StatusCode::OK, &BatchAnswer { results });
        }
        _ if mode == Mode::Batch => return Err(Problem::field("body", "a batch is a JSON array of events")),
        _ => vec![CloudEvent::structured(&bytes)],
    };
    let told = Arc::clone(&service);
    let recorded = service.to_its_end(async move { Ok(record_all(&told, &caller, events).await) }).await?;
    recorded.into_iter().next().map_or_else(|| Err(Problem::field("body", "the body is empty")), Recorded::respond)
}

/// By the content type; `application/json` is binary mode when the attributes are in the headers.
fn mode_of(headers: &HeaderMap) -> Result<Mode, Problem> {
    let media_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match essence.as_str() {
        "application/json" if headers.contains_key("ce-id") || headers.contains_key("ce-specversion") => Ok(Mode::Binary),
        "application/json" | "application/cloudevents+json" => Ok(Mode::Structured),
        "application/cloudevents-batch+json" => Ok(Mode::Batch),
        "application/x-ndjson" | "application/ndjson" | "application/jsonl" => Ok(Mode::Lines),
        _ => {
            const ACCEPTED: &str =
                "application/cloudevents+json, application/cloudevents-batch+json, application/json, application/x-ndjson";
            let message = format!("the content type must be one of {ACCEPTED}");
            Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", message).header(header::ACCEPT, ACCEPTED))
        }
    }
}
