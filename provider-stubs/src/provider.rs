//! Which provider a stub plays, and how that provider words an error.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};
use uuid::Uuid;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provider {
    OpenAi,
    Gemini,
    Qwen,
}

impl Provider {
    /// As in paths and settings.
    pub const fn name(self) -> &'static str {
        match self {
            Self::OpenAi => "openai",
            Self::Gemini => "gemini",
            Self::Qwen => "qwen",
        }
    }

    /// What every answer says, unless a control asks for more words.
    pub const fn message(self) -> &'static str {
        match self {
            Self::OpenAi => "Stubbed OpenAI response",
            Self::Gemini => "Stubbed Gemini response",
            Self::Qwen => "Stubbed Qwen response",
        }
    }

    /// An error in the provider's own shape. `param` names the wrong field where the shape has a place for it.
    pub fn error(self, status: StatusCode, message: &str, param: Option<&str>) -> Response {
        let body = match self {
            Self::OpenAi => openai_error(status, message, param),
            Self::Qwen => {
                let mut body = openai_error(status, message, param);
                body["request_id"] = json!(Uuid::new_v4());
                body
            }
            Self::Gemini => json!({"error": {"code": status.as_u16(), "message": message, "status": google_status(status)}}),
        };
        let mut response = (status, Json(body)).into_response();
        if matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

fn openai_error(status: StatusCode, message: &str, param: Option<&str>) -> Value {
    let (kind, code) = match status.as_u16() {
        401 => ("invalid_request_error", Some("invalid_api_key")),
        403 => ("invalid_request_error", Some("unsupported_country_region_territory")),
        404 => ("invalid_request_error", Some("not_found")),
        429 => ("requests", Some("rate_limit_exceeded")),
        500.. => ("server_error", None),
        _ => ("invalid_request_error", None),
    };
    json!({"error": {"message": message, "type": kind, "param": param, "code": code}})
}

/// Names of `google.rpc.Code` as Google maps them to HTTP.
fn google_status(status: StatusCode) -> &'static str {
    match status.as_u16() {
        400 | 405 | 413 | 415 => "INVALID_ARGUMENT",
        401 => "UNAUTHENTICATED",
        403 => "PERMISSION_DENIED",
        404 => "NOT_FOUND",
        409 => "ABORTED",
        429 => "RESOURCE_EXHAUSTED",
        500 => "INTERNAL",
        501 => "UNIMPLEMENTED",
        503 => "UNAVAILABLE",
        504 => "DEADLINE_EXCEEDED",
        _ => "UNKNOWN",
    }
}
