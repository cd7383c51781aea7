//! `/schema-registry`: the read API of the Confluent Schema Registry over the schemas that are compiled in, so that standard tools can
//! decode the log. Shapes and error codes: docs.confluent.io, "Schema Registry API Reference". Read-only: schemas change with a release.

use crate::Service;
use axum::{
    Router,
    body::Bytes,
    extract::{Path, State},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use event_codec::{USAGE_EVENT_SCHEMA, USAGE_EVENT_SCHEMA_ID};
use serde_json::{Value, json};

const CONTENT_TYPE: &str = "application/vnd.schemaregistry.v1+json";
const VERSION: u32 = 1;

pub fn routes() -> Router<Service> {
    Router::new()
        .route("/", get(|| async { answer(StatusCode::OK, &json!({})) }))
        .route("/subjects", get(subjects))
        .route("/subjects/{subject}", axum::routing::post(lookup))
        .route("/subjects/{subject}/versions", get(versions).post(|| async { refuse(RegistryError::ReadOnly) }))
        .route("/subjects/{subject}/versions/{version}", get(version))
        .route("/subjects/{subject}/versions/{version}/schema", get(version_schema))
        .route("/schemas/types", get(|| async { answer(StatusCode::OK, &json!(["AVRO"])) }))
        .route("/schemas/ids/{id}", get(by_id))
        .route("/schemas/ids/{id}/schema", get(schema_by_id))
        .route("/schemas/ids/{id}/versions", get(versions_by_id))
        .route("/config", get(|| async { answer(StatusCode::OK, &json!({"compatibilityLevel": "BACKWARD_TRANSITIVE"})) }))
        .route("/config/{subject}", get(compatibility))
        .route("/mode", get(|| async { answer(StatusCode::OK, &json!({"mode": "READONLY"})) }))
        .fallback(|| async { refuse(RegistryError::Path) })
        .method_not_allowed_fallback(|| async { refuse(RegistryError::ReadOnly) })
}

#[derive(Clone, Copy)]
enum RegistryError {
    Path,
    Subject,
    Version,
    Schema,
    InvalidVersion,
    InvalidSchema,
    ReadOnly,
}

fn refuse(error: RegistryError) -> Response {
    let (status, code, message) = match error {
        RegistryError::Path => (StatusCode::NOT_FOUND, 404, "HTTP 404 Not Found"),
        RegistryError::Subject => (StatusCode::NOT_FOUND, 40_401, "Subject not found."),
        RegistryError::Version => (StatusCode::NOT_FOUND, 40_402, "Version not found."),
        RegistryError::Schema => (StatusCode::NOT_FOUND, 40_403, "Schema not found"),
        RegistryError::InvalidSchema => {
            (StatusCode::UNPROCESSABLE_ENTITY, 42_201, "The body must be an object whose field schema is an Avro schema as text")
        }
        RegistryError::InvalidVersion => {
            (StatusCode::UNPROCESSABLE_ENTITY, 42_202, "The version must be a number from 1 to 2^31-1 or latest")
        }
        RegistryError::ReadOnly => (StatusCode::UNPROCESSABLE_ENTITY, 42_205, "This registry is read-only: schemas change with a release"),
    };
    answer(status, &json!({"error_code": code, "message": message}))
}

fn answer(status: StatusCode, body: &Value) -> Response {
    let mut response = (status, body.to_string()).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
    response
}

/// Runs into an error or the answer's body.
fn reply(outcome: Result<Value, RegistryError>) -> Response {
    match outcome {
        Ok(body) => answer(StatusCode::OK, &body),
        Err(error) => refuse(error),
    }
}

fn subject_of(service: &Service) -> String {
    format!("{}-value", service.usage_topic)
}

fn known_subject(service: &Service, subject: &str) -> Result<(), RegistryError> {
    if subject == subject_of(service) { Ok(()) } else { Err(RegistryError::Subject) }
}

fn known_version(text: &str) -> Result<(), RegistryError> {
    // -1 is what older clients send for the latest.
    if matches!(text, "latest" | "-1") {
        return Ok(());
    }
    match text.parse::<u32>() {
        Ok(VERSION) => Ok(()),
        Ok(number) if (1..=u32::MAX >> 1).contains(&number) => Err(RegistryError::Version),
        _ => Err(RegistryError::InvalidVersion),
    }
}

fn known_id(text: &str) -> Result<(), RegistryError> {
    if text.parse() == Ok(USAGE_EVENT_SCHEMA_ID) { Ok(()) } else { Err(RegistryError::Schema) }
}

fn registered(subject: &str) -> Value {
    json!({"subject": subject, "version": VERSION, "id": USAGE_EVENT_SCHEMA_ID, "schemaType": "AVRO", "schema": USAGE_EVENT_SCHEMA})
}

async fn subjects(State(service): State<Service>) -> Response {
    answer(StatusCode::OK, &json!([subject_of(&service)]))
}

async fn versions(State(service): State<Service>, Path(subject): Path<String>) -> Response {
    reply(known_subject(&service, &subject).map(|()| json!([VERSION])))
}

async fn version(State(service): State<Service>, Path((subject, version)): Path<(String, String)>) -> Response {
    reply(known_subject(&service, &subject).and_then(|()| known_version(&version)).map(|()| registered(&subject)))
}

async fn version_schema(State(service): State<Service>, Path((subject, version)): Path<(String, String)>) -> Response {
    reply(known_subject(&service, &subject).and_then(|()| known_version(&version)).map(|()| schema()))
}

async fn by_id(Path(id): Path<String>) -> Response {
    reply(known_id(&id).map(|()| json!({"schema": USAGE_EVENT_SCHEMA})))
}

async fn schema_by_id(Path(id): Path<String>) -> Response {
    reply(known_id(&id).map(|()| schema()))
}

async fn versions_by_id(State(service): State<Service>, Path(id): Path<String>) -> Response {
    reply(known_id(&id).map(|()| json!([{"subject": subject_of(&service), "version": VERSION}])))
}

async fn compatibility(State(service): State<Service>, Path(subject): Path<String>) -> Response {
    reply(known_subject(&service, &subject).map(|()| json!({"compatibilityLevel": "BACKWARD_TRANSITIVE"})))
}

/// `POST /subjects/{subject}` asks for the id of a schema, as serialisers without auto-registration do.
async fn lookup(State(service): State<Service>, Path(subject): Path<String>, body: Bytes) -> Response {
    reply(
        known_subject(&service, &subject)
            .and_then(|()| asked_schema(&body))
            .and_then(|asked| if asked == schema() { Ok(registered(&subject)) } else { Err(RegistryError::Schema) }),
    )
}

fn asked_schema(body: &[u8]) -> Result<Value, RegistryError> {
    let body: Value = serde_json::from_slice(body).map_err(|_| RegistryError::InvalidSchema)?;
    let text = body.get("schema").and_then(Value::as_str).ok_or(RegistryError::InvalidSchema)?;
    serde_json::from_str(text).map_err(|_| RegistryError::InvalidSchema)
}

fn schema() -> Value {
    serde_json::from_str(USAGE_EVENT_SCHEMA).unwrap_or_default()
}
