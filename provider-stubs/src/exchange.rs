//! What all calls share: reading a JSON object and its controls, misbehaving as asked, and refusing in the provider's shape.

use crate::{controls::Controls, provider::Provider};
use axum::{
    body::{Body, Bytes},
    extract::rejection::BytesRejection,
    http::{HeaderMap, StatusCode},
    response::Response,
};
use futures::stream;
use serde_json::{Map, Value};
use std::{future, io};

/// A request that will not be answered as asked.
pub struct Refusal {
    pub status: StatusCode,
    pub message: String,
    pub param: Option<&'static str>,
}

impl Refusal {
    pub fn of(param: &'static str, message: &str) -> Self {
        Self { status: StatusCode::BAD_REQUEST, message: message.to_owned(), param: Some(param) }
    }

    pub fn with_status(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), param: None }
    }

    pub fn into_response(self, provider: Provider) -> Response {
        provider.error(self.status, &self.message, self.param)
    }
}

/// A control that cannot be obeyed.
impl From<String> for Refusal {
    fn from(message: String) -> Self {
        Self::with_status(StatusCode::BAD_REQUEST, message)
    }
}

/// The body's object and the controls outside of it.
pub fn read(
    headers: &HeaderMap,
    query: Option<&str>,
    body: Result<Bytes, BytesRejection>,
) -> Result<(Map<String, Value>, Controls), Refusal> {
    let body = body.map_err(|rejection| Refusal::with_status(rejection.status(), rejection.body_text()))?;
    let controls = Controls::read(headers, query)?;
    match serde_json::from_slice(&body) {
        Ok(Value::Object(object)) => Ok((object, controls)),
        Ok(_) => Err(Refusal::with_status(StatusCode::BAD_REQUEST, "the request body is not a JSON object")),
        Err(error) => Err(Refusal::with_status(StatusCode::BAD_REQUEST, format!("the request body is not valid JSON: {error}"))),
    }
}

/// Waits as asked, then the misbehaviour instead of the answer, if one was asked for.
pub async fn misbehave(provider: Provider, controls: &Controls) -> Option<Response> {
    if !controls.delay.is_zero() {
        tokio::time::sleep(controls.delay).await;
    }
    if controls.drop_connection {
        return Some(Response::new(body_that_breaks()));
    }
    if controls.garbage {
        return Some(Response::new(Body::from("<html>this is not the JSON you expect")));
    }
    controls.status.map(|status| provider.error(status, "this failure was asked for by a stub control", None))
}

/// Fails before its first byte, so that the server closes the connection while the head is still unsent.
pub fn body_that_breaks() -> Body {
    Body::from_stream(stream::once(future::ready(Err::<Bytes, _>(io::Error::other("a stub control asked to drop the connection")))))
}

/// A whole number from 1, if the field is there.
pub fn positive(object: &Map<String, Value>, field: &'static str) -> Result<Option<u64>, Refusal> {
    match object.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_u64() {
            Some(number) if number > 0 => Ok(Some(number)),
            _ => Err(Refusal::of(field, &format!("{field} must be a positive integer"))),
        },
    }
}
