//! Strict reading of JSON bodies and query strings: what is unknown, doubled or of the wrong type is refused by name.

mod explain;
mod locate;
mod unique;

use crate::{problem::Problem, serve::BodyStalled};
use axum::{
    body::Body,
    extract::{FromRequest, FromRequestParts, Query, Request},
    http::{HeaderMap, StatusCode, header, request::Parts},
};
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::{Deserialize, de::DeserializeOwned};
use std::{collections::HashSet, error::Error};

/// Largest body that is read, bytes.
pub const BODY_LIMIT: usize = 2 * 1024 * 1024;

/// A JSON body. `T` must deny unknown fields.
#[derive(Clone, Copy, Debug)]
pub struct StrictJson<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for StrictJson<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _state: &S) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        require_json(&parts.headers)?;
        parse_strict(&read_body(&parts.headers, body).await?).map(Self)
    }
}

/// The parameters of a query string. `T` must deny unknown fields.
#[derive(Clone, Copy, Debug)]
pub struct StrictQuery<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for StrictQuery<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        parse_query(parts).map(Self)
    }
}

/// 415 unless the content type is `application/json`, with or without parameters.
pub fn require_json(headers: &HeaderMap) -> Result<(), Problem> {
    let media_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = media_type.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    let problem = Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", "the content type must be application/json");
    Err(problem.header(header::ACCEPT, "application/json"))
}

/// The whole body: 413 above [`BODY_LIMIT`], 408 when it stalls.
pub async fn read_body(headers: &HeaderMap, body: Body) -> Result<Bytes, Problem> {
    let declared = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if declared.is_some_and(|length| usize::try_from(length).map_or(true, |length| length > BODY_LIMIT)) {
        return Err(too_large());
    }
    match Limited::new(body, BODY_LIMIT).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) => Err(body_problem(&*error)),
    }
}

/// 413 naming the limit.
pub fn too_large() -> Problem {
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "payload_too_large", format!("the body exceeds {BODY_LIMIT} bytes"))
        .with("limitBytes", BODY_LIMIT)
        .header(header::CONNECTION, "close")
}

/// Why a body could not be read to its end.
pub fn body_problem(error: &(dyn Error + 'static)) -> Problem {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.is::<LengthLimitError>() {
            return too_large();
        }
        if error.is::<BodyStalled>() {
            return Problem::new(StatusCode::REQUEST_TIMEOUT, "request_timeout", "the body stalled").header(header::CONNECTION, "close");
        }
        cause = error.source();
    }
    Problem::field("body", "the body could not be read")
}

/// One JSON document, read as strictly as [`StrictJson`] does.
pub fn parse_strict<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Err(Problem::field("body", "the body is empty"));
    }
    unique::check(bytes).map_err(|error| explain::json(bytes, &error))?;
    serde_json::from_slice(bytes).map_err(|error| explain::json(bytes, &error))
}

/// A document whose parts are kept as they came ([`serde_json::value::RawValue`]) and read one by one with [`parse_strict`]:
/// what is wrong inside one part says nothing about the others.
pub fn parse_envelope<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Problem> {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Err(Problem::field("body", "the body is empty"));
    }
    serde_json::from_slice(bytes).map_err(|error| explain::json(bytes, &error))
}

fn parse_query<T: DeserializeOwned>(parts: &Parts) -> Result<T, Problem> {
    let pairs: Vec<(String, String)> = Query::try_from_uri(&parts.uri).map(|Query(pairs)| pairs).unwrap_or_default();
    let mut seen = HashSet::with_capacity(pairs.len());
    for (name, _) in &pairs {
        if !seen.insert(name.as_str()) {
            return Err(Problem::field(&explain::shorten(name), format!("{} is given twice", explain::shorten(name))));
        }
    }
    Query::try_from_uri(&parts.uri).map(|Query(query)| query).map_err(|rejection| {
        let text = rejection.body_text();
        let text = text.strip_prefix("Failed to deserialize query string: ").unwrap_or(&text);
        let (path, message) = text.split_once(": ").filter(|(name, _)| seen.contains(name)).unwrap_or(("", text));
        // The place of an unknown name is the query itself.
        let path = if message.starts_with("unknown field") { "" } else { path };
        Problem::validation(vec![explain::field(path, message)])
    })
}

#[cfg(test)]
mod tests;
