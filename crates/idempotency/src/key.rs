//! The key as clients send it, and what is answered about it.

use axum::{
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::Response,
};
use service_kit::problem::Problem;

pub const HEADER: &str = "Idempotency-Key";
pub const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

const LONGEST: usize = 255;

/// The key of a request, if it has one: 1–255 visible ASCII characters.
pub fn of(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let mut values = headers.get_all(HEADER).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Problem::field(HEADER, "the idempotency key is given twice"));
    }
    check(HEADER, value.as_bytes()).map(Some)
}

/// 400 naming `field` for a key that is none.
pub fn check<'k>(field: &str, key: &'k [u8]) -> Result<&'k str, Problem> {
    if key.len() > LONGEST {
        return Err(Problem::field(field, "idempotency key too long"));
    }
    match str::from_utf8(key) {
        Ok(text) if !text.is_empty() && key.iter().all(u8::is_ascii_graphic) => Ok(text),
        _ => Err(Problem::field(field, "the idempotency key must be 1 to 255 visible ASCII characters")),
    }
}

/// Says that this answer was given before and nothing was done for it now.
pub fn mark_replayed(response: &mut Response) {
    response.headers_mut().insert(IDEMPOTENT_REPLAYED, HeaderValue::from_static("true"));
}

pub fn mismatch() -> Problem {
    Problem::new(
        StatusCode::UNPROCESSABLE_ENTITY,
        "idempotency_mismatch",
        "this Idempotency-Key was used for a request with another body; use a new key",
    )
}

pub fn in_progress() -> Problem {
    Problem::new(StatusCode::CONFLICT, "idempotency_in_progress", "a request with this Idempotency-Key is still running")
        .header(header::RETRY_AFTER, "1")
}
