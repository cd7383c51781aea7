//! From a key's secret to the caller it stands for: for the gateway, and `GET /api/v1/auth/api-keys/validate` for clients.

use crate::{
    Service,
    api_key::{Form, form},
    error::{Administrator, instant, store_failed},
};
use axum::{Json, extract::State, http::HeaderMap};
use domain::access::Caller;
use ports::accounts::ApiKey;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use service_kit::{json::StrictJson, problem::Problem};

const HEADER: &str = "x-api-key";

/// Why a secret stands for nobody.
#[derive(Clone, Copy)]
enum Refusal {
    Missing,
    Invalid,
    Expired,
}

impl Refusal {
    /// Counts the refusal; the texts are what clients of old know.
    fn problem(self) -> Problem {
        let (reason, message) = match self {
            Self::Missing => ("missing", "api key is required"),
            Self::Invalid => ("invalid", "invalid api key"),
            Self::Expired => ("expired", "api key expired"),
        };
        count("failure", reason);
        Problem::unauthenticated(message).with("reason", reason)
    }
}

fn count(outcome: &'static str, reason: &'static str) {
    metrics::counter!("auth_api_key_validate_total", "outcome" => outcome, "reason" => reason).increment(1);
}

async fn authenticate(service: &Service, secret: &str) -> Result<ApiKey, Problem> {
    if secret.is_empty() {
        return Err(Refusal::Missing.problem());
    }
    if form(secret) != Form::Plausible {
        return Err(Refusal::Invalid.problem());
    }
    let hash = service.hasher().await.map_err(store_failed)?.hash(secret);
    let key = service.accounts.find_key(&hash).await.map_err(store_failed)?.ok_or_else(|| Refusal::Invalid.problem())?;
    if key.expires_at.is_some_and(|end| end <= service.clock.now()) {
        return Err(Refusal::Expired.problem());
    }
    count("success", "");
    Ok(key)
}

/// 200 `{userId, name, expiresAt, roles, scopes}`, or 401 with the reason. Needs no other credential.
pub async fn validate(State(service): State<Service>, headers: HeaderMap) -> Result<Json<Value>, Problem> {
    let secret = headers.get(HEADER).map_or(Ok(""), |value| value.to_str()).map_err(|_| Refusal::Invalid.problem())?;
    let key = authenticate(&service, secret.trim()).await?;
    let caller = caller(&key);
    let roles: &[&str] = if caller.is_admin() { &["ADMIN", "USER"] } else { &["USER"] };
    Ok(Json(json!({
        "userId": key.user_id,
        "name": key.name,
        "expiresAt": key.expires_at.map(instant),
        "roles": roles,
        "scopes": key.scopes,
    })))
}

/// No `Debug`: the secret must not reach a log by accident.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Credential {
    api_key: String,
}

/// A caller and until when the key stands for it, RFC 3339.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Authentication {
    #[serde(flatten)]
    caller: Caller,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
}

/// `POST /internal/v1/authenticate`: 200 with the caller, or 401.
pub async fn internal(
    State(service): State<Service>,
    _: Administrator,
    StrictJson(credential): StrictJson<Credential>,
) -> Result<Json<Authentication>, Problem> {
    let key = authenticate(&service, &credential.api_key).await?;
    Ok(Json(Authentication { caller: caller(&key), expires_at: key.expires_at.map(instant) }))
}

/// `GET /internal/v1/revision`: while the number stays, so does every answer of [`internal`], except that keys expire.
pub async fn revision(State(service): State<Service>, _: Administrator) -> Result<Json<Value>, Problem> {
    Ok(Json(json!({"revision": service.accounts.revision().await.map_err(store_failed)?})))
}

fn caller(key: &ApiKey) -> Caller {
    Caller {
        user_id: key.user_id,
        key_id: Some(key.id),
        scopes: key.scopes.clone(),
        providers: key.providers.clone(),
        org_ids: key.org_ids.clone(),
    }
}
