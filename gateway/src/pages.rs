//! What the gateway answers by itself: the page behind each problem's `type`, and the fallback of each service.

use axum::{
    extract::Path,
    http::{HeaderName, header},
    response::{Html, IntoResponse, Response},
};
use service_kit::problem::Problem;

/// Nothing is loaded, run, framed or sent from these pages.
const POLICY: &str = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Code, status, what it means and what to do.
const CODES: [(&str, u16, &str); 24] = [
    (
        "validation_failed",
        400,
        "The request is wrong. The errors name each field, what it must be and, where the list is short, what is accepted.",
    ),
    ("unauthenticated", 401, "No valid credential. Send an API key as X-Api-Key or as Authorization: Bearer."),
    (
        "quota_exhausted",
        402,
        "The pool that pays, or a budget of it, has less than was asked for. Wait for resetsAt or get tokens granted.",
    ),
    ("forbidden", 403, "The credential is valid and may not do this. requiredScope names what it lacks."),
    ("not_found", 404, "It does not exist, or it belongs to somebody else."),
    ("method_not_allowed", 405, "This path has other methods. Allow lists them."),
    ("request_timeout", 408, "The request did not arrive completely in time. The connection was closed."),
    ("conflict", 409, "The present state does not allow it."),
    ("idempotency_in_progress", 409, "A request with this Idempotency-Key is being answered. Ask again after Retry-After."),
    ("payload_too_large", 413, "The body exceeds limitBytes."),
    ("uri_too_long", 414, "The URI exceeds limitBytes."),
    ("unsupported_media_type", 415, "Send JSON with the content type application/json."),
    ("idempotency_mismatch", 422, "This Idempotency-Key was used with another request."),
    ("invalid_transition", 422, "The charge is in a state that does not allow it. chargeStatus names it."),
    (
        "events_pruned",
        422,
        "The log has forgotten events that the replay needs. Ask for the outbox as source, which has the archived ones too.",
    ),
    ("archive_damaged", 422, "A file of the archive is not as it was written. detail names it. Put it back from a copy."),
    ("amount_exceeds_rest", 422, "More than what is left of the charge. rest names that."),
    (
        "rate_limited",
        429,
        "A speed limit is reached. Retry-After and nextAccessTime say when a request of this size passes; never means it cannot.",
    ),
    ("headers_too_large", 431, "Too many or too large headers."),
    ("internal", 500, "A defect of this server. Report the requestId."),
    ("provider_failed", 502, "The provider of the model did not answer as it should. Nothing was charged."),
    ("provider_timeout", 504, "The provider of the model did not answer in time. Nothing was charged."),
    ("unavailable", 503, "A store or service is away. Ask again after Retry-After; an Idempotency-Key makes that safe."),
    ("overloaded", 503, "More requests wait than can be served in time. Ask again after Retry-After."),
];

/// Names under which clients know the services, ours and the predecessor's.
const SERVICES: [&str; 11] = [
    "auth-service",
    "auth-server",
    "token-service",
    "analytics",
    "analytics-service",
    "config-service",
    "config-server",
    "outbox-relay",
    "qwen-stub",
    "gemini-stub",
    "openai-stub",
];

/// `GET /docs/errors/{code}`.
pub(crate) async fn error_page(Path(code): Path<String>) -> Response {
    let known = CODES.iter().find(|(known, ..)| *known == code);
    let Some((code, status, text)) = known else {
        return Problem::not_found("there is no such error code").into_response();
    };
    // Only our own texts: nothing here comes from the request.
    let page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head><meta charset=\"utf-8\"><title>{code}</title></head>\n\
         <body><h1>{code}</h1><p>HTTP status {status}.</p><p>{text}</p></body>\n</html>\n"
    );
    ([(HeaderName::from_static("content-security-policy"), POLICY), (header::CACHE_CONTROL, "public, max-age=3600")], Html(page))
        .into_response()
}

/// Every method of `/fallback/{service}`: what a client gets while the service is away.
pub(crate) async fn fallback(Path(service): Path<String>) -> Problem {
    match SERVICES.iter().find(|known| **known == service) {
        Some(service) => Problem::unavailable(service, "the service could not be reached"),
        None => Problem::not_found("there is no such service"),
    }
}
