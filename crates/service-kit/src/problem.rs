//! Errors as HTTP answers: RFC 9457 `application/problem+json`, with `message`, `timestamp` and the request id for clients of old.

use crate::request_context;
use axum::{
    body::Body,
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use chrono::{SecondsFormat, Utc};
use serde_json::{Map, Value, json};

/// One refused or failed request. Built where the status is chosen (`error.rs` of each service), logged once here.
#[derive(Clone, Debug)]
pub struct Problem {
    status: StatusCode,
    code: &'static str,
    detail: String,
    fields: Map<String, Value>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

/// One wrong field of a request.
#[derive(Clone, Debug)]
pub struct FieldError {
    pub field: String,
    pub message: String,
    /// What would be accepted, where that is a short list.
    pub allowed: Option<Vec<String>>,
}

impl Problem {
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self { status, code, detail: detail.into(), fields: Map::new(), headers: Vec::new() }
    }

    /// 400 `validation_failed`; the message is the first error's.
    pub fn validation(errors: Vec<FieldError>) -> Self {
        let detail = errors.first().map_or_else(|| "the request is invalid".to_owned(), |error| error.message.clone());
        let errors: Vec<Value> = errors
            .into_iter()
            .map(|error| match error.allowed {
                Some(allowed) => json!({"field": error.field, "message": error.message, "allowed": allowed}),
                None => json!({"field": error.field, "message": error.message}),
            })
            .collect();
        Self::new(StatusCode::BAD_REQUEST, "validation_failed", detail).with("errors", errors)
    }

    /// 400 for one field.
    pub fn field(field: &str, message: impl Into<String>) -> Self {
        Self::validation(vec![FieldError { field: field.to_owned(), message: message.into(), allowed: None }])
    }

    /// 400 for one field with a short list of what is accepted, repeated as `allowed` of the problem.
    pub fn field_allowed(field: &str, message: impl Into<String>, allowed: Vec<String>) -> Self {
        let listed = allowed.clone();
        Self::validation(vec![FieldError { field: field.to_owned(), message: message.into(), allowed: Some(allowed) }])
            .with("allowed", listed)
    }

    pub fn unauthenticated(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthenticated", detail).header(header::WWW_AUTHENTICATE, "Bearer")
    }

    pub fn forbidden(detail: impl Into<String>, required_scope: &str) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", detail).with("requiredScope", required_scope)
    }

    /// 404, with one body for what does not exist and for what belongs to somebody else.
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", detail)
    }

    /// 503 of a store or service that is away.
    pub fn unavailable(service: &str, reason: impl Into<String>) -> Self {
        let reason = reason.into();
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "service unavailable")
            .with("service", service)
            .with("reason", reason)
            .header(header::RETRY_AFTER, "1")
    }

    /// 503 of a full queue.
    pub fn overloaded(service: &str, reason: impl Into<String>) -> Self {
        Self { code: "overloaded", detail: "overloaded".into(), ..Self::unavailable(service, reason) }
    }

    /// 500: a defect. The client learns the request id and nothing else; the cause goes to the log.
    pub fn internal(cause: &(dyn std::error::Error + 'static)) -> Self {
        let mut causes = vec![cause.to_string()];
        let mut source = cause.source();
        while let Some(next) = source {
            causes.push(next.to_string());
            source = next.source();
        }
        tracing::error!(causes = ?causes, "a request failed on a defect or damaged data");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "internal error")
    }

    /// Adds or replaces an extension field.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.fields.insert(name.to_owned(), value.into());
        self
    }

    /// Adds every field of a JSON object; anything else adds nothing.
    #[must_use]
    pub fn with_all(mut self, fields: Value) -> Self {
        if let Value::Object(fields) = fields {
            self.fields.extend(fields);
        }
        self
    }

    /// Adds a header; a value that is not a legal header value is left out.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: impl AsRef<str>) -> Self {
        if let Ok(value) = HeaderValue::from_str(value.as_ref()) {
            self.headers.push((name, value));
        }
        self
    }

    pub const fn status(&self) -> StatusCode {
        self.status
    }

    pub const fn code(&self) -> &'static str {
        self.code
    }

    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// The body, for answers that carry several problems (one per item of a batch).
    pub fn body(&self) -> Value {
        let title = self.status.canonical_reason().unwrap_or("Error");
        let mut body = Map::new();
        body.insert("type".into(), json!(format!("/docs/errors/{}", self.code)));
        body.insert("title".into(), json!(title));
        body.insert("status".into(), json!(self.status.as_u16()));
        body.insert("detail".into(), json!(self.detail));
        body.insert("code".into(), json!(self.code));
        body.insert("message".into(), json!(self.detail));
        body.insert("timestamp".into(), json!(Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true)));
        if let Some(context) = request_context::current() {
            body.insert("instance".into(), json!(&*context.path));
            body.insert("requestId".into(), json!(&*context.request_id));
        }
        body.extend(self.fields.clone());
        Value::Object(body)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(self.body().to_string()));
        *response.status_mut() = self.status;
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        for (name, value) in self.headers {
            response.headers_mut().append(name, value);
        }
        response
    }
}
