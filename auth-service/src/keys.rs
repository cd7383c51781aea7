//! `/api/v1/auth/api-keys`: users make, list and revoke their own keys, administrators everyone's. No key can make one that may do more.

use crate::{
    Service, api_key,
    error::{conflict, instant, parse_org, parse_user, store_failed},
};
use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use chrono::{DateTime, DurationRound, TimeDelta, Utc};
use domain::{
    access::{Caller, Scope},
    ids::{KeyId, OrgId, Provider, UserId},
    settings::Settings,
};
use idempotency::Seed;
use ports::accounts::ApiKey;
use secrecy::ExposeSecret;
use serde::Deserialize;
use serde_json::{Value, json};
use service_kit::{
    identity::Authenticated,
    json::{StrictJson, StrictQuery},
    problem::Problem,
};
use std::collections::BTreeSet;

const NAME_LIMIT: usize = 100;
const LIST_LIMIT: usize = 100;
/// Bounds what one user can make us store and list.
const KEYS_PER_USER: usize = 1_000;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewKey {
    /// The caller when absent.
    user_id: Option<String>,
    name: Option<String>,
    expires_at: Option<String>,
    scopes: Option<Vec<String>>,
    providers: Option<Vec<String>>,
    org_ids: Option<Vec<String>>,
}

/// 201 with the secret, which is shown here and never again.
pub async fn create(
    State(service): State<Service>,
    Authenticated(caller): Authenticated,
    seed: Seed,
    StrictJson(request): StrictJson<NewKey>,
) -> Result<Response, Problem> {
    let outcome = make(&service, &caller, &seed, request).await;
    let (outcome_label, reason) = outcome.as_ref().map_or_else(|problem| ("failure", problem.code()), |_| ("success", ""));
    metrics::counter!("auth_api_key_create_total", "outcome" => outcome_label, "reason" => reason).increment(1);
    let body = outcome?;
    Ok((StatusCode::CREATED, [(header::CACHE_CONTROL, "no-store")], Json(body)).into_response())
}

async fn make(service: &Service, caller: &Caller, seed: &Seed, request: NewKey) -> Result<Value, Problem> {
    let user = owner(caller, request.user_id.as_deref())?;
    if !caller.is_admin() && caller.user_id != Some(user) {
        return Err(Problem::forbidden("only an administrator makes keys for another user", Scope::Admin.as_str()));
    }
    let now = service.clock.now();
    let mut key = parse(request, user, now, seed, &service.settings.current())?;
    let existing = service.accounts.keys(user).await.map_err(store_failed)?;
    // One that this very request made before its answer was lost does not count.
    if existing.iter().filter(|known| known.id != key.id).count() >= KEYS_PER_USER {
        return Err(conflict(format!("a user has at most {KEYS_PER_USER} keys: revoke some first")));
    }
    if !caller.is_admin() {
        let own = existing.iter().find(|key| Some(key.id) == caller.key_id);
        stay_within(caller, own.and_then(|own| own.expires_at), &mut key)?;
    }
    let secret = api_key::from_seed(seed.bytes("api key"));
    let hash = service.hasher().await.map_err(store_failed)?.hash(secret.expose_secret());
    service.accounts.create_key(&key, hash).await.map_err(store_failed)?;
    let mut body = shown(&key);
    body["userId"] = json!(user);
    body["apiKey"] = json!(secret.expose_secret());
    Ok(body)
}

fn owner(caller: &Caller, user_id: Option<&str>) -> Result<UserId, Problem> {
    match user_id {
        Some(text) => parse_user("userId", text),
        None => caller.user_id.ok_or_else(|| Problem::field("userId", "userId is required")),
    }
}

fn parse(request: NewKey, user: UserId, now: DateTime<Utc>, seed: &Seed, settings: &Settings) -> Result<ApiKey, Problem> {
    Ok(ApiKey {
        id: KeyId(seed.uuid("api key id")),
        user_id: Some(user),
        name: parse_name(request.name)?,
        expires_at: request.expires_at.as_deref().map(|text| parse_expiry(text, now)).transpose()?,
        scopes: parse_scopes(request.scopes)?,
        providers: parse_providers(request.providers.unwrap_or_default(), settings)?,
        org_ids: parse_orgs(request.org_ids.unwrap_or_default())?,
        created_at: seed.at(),
    })
}

fn parse_name(name: Option<String>) -> Result<Option<String>, Problem> {
    let Some(name) = name.map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()) else { return Ok(None) };
    if name.chars().count() > NAME_LIMIT || name.chars().any(char::is_control) {
        return Err(Problem::field("name", format!("name must have at most {NAME_LIMIT} characters, none of them a control character")));
    }
    Ok(Some(name))
}

fn parse_expiry(text: &str, now: DateTime<Utc>) -> Result<DateTime<Utc>, Problem> {
    let parsed = DateTime::parse_from_rfc3339(text.trim());
    let expiry = parsed.map_err(|_| Problem::field("expiresAt", "expiresAt must be an instant such as 2030-01-01T00:00:00Z"))?.to_utc();
    let expiry = expiry.duration_trunc(TimeDelta::milliseconds(1)).unwrap_or(expiry);
    if expiry <= now {
        return Err(Problem::field("expiresAt", "expiresAt must be in the future"));
    }
    Ok(expiry)
}

fn parse_scopes(scopes: Option<Vec<String>>) -> Result<BTreeSet<Scope>, Problem> {
    let Some(scopes) = scopes else { return Ok(BTreeSet::from(Scope::DEFAULT)) };
    let allowed = || Scope::ALL.map(|scope| scope.as_str().to_owned()).to_vec();
    if scopes.is_empty() {
        return Err(Problem::field_allowed("scopes", "scopes must name at least one scope", allowed()));
    }
    let parsed = scopes.iter().map(|text| Scope::parse(text).ok_or_else(|| Problem::field_allowed("scopes", "unknown scope", allowed())));
    parsed.collect()
}

fn parse_providers(providers: Vec<String>, settings: &Settings) -> Result<BTreeSet<Provider>, Problem> {
    refuse_long("providers", providers.len())?;
    let known = |provider: &Provider| settings.providers.contains_key(provider);
    let unknown = || {
        let allowed = settings.providers.keys().map(ToString::to_string).collect();
        Problem::field_allowed("providers", "unknown provider", allowed)
    };
    providers.iter().map(|text| Provider::parse(text).ok().filter(known).ok_or_else(unknown)).collect()
}

fn parse_orgs(orgs: Vec<String>) -> Result<BTreeSet<OrgId>, Problem> {
    refuse_long("orgIds", orgs.len())?;
    orgs.iter().map(|text| parse_org("orgIds", text)).collect()
}

fn refuse_long(field: &str, length: usize) -> Result<(), Problem> {
    if length > LIST_LIMIT {
        return Err(Problem::field(field, format!("{field} must have at most {LIST_LIMIT} entries")));
    }
    Ok(())
}

/// Refuses a key that may do more, reach further or live longer than the caller's; what was left open is taken over from the caller.
fn stay_within(caller: &Caller, own_expiry: Option<DateTime<Utc>>, key: &mut ApiKey) -> Result<(), Problem> {
    if let Some(scope) = key.scopes.iter().find(|scope| !caller.may(**scope)) {
        let detail =
            format!("this credential does not have the scope {0} and cannot pass it on: name the scopes of the new key", scope.as_str());
        return Err(Problem::forbidden(detail, scope.as_str()));
    }
    let wider = |what: &str| {
        Err(Problem::forbidden(format!("this credential cannot make a key with more {what} than its own"), Scope::Admin.as_str()))
    };
    if key.providers.is_empty() {
        key.providers.clone_from(&caller.providers);
    }
    if !caller.providers.is_empty() && !key.providers.is_subset(&caller.providers) {
        return wider("providers");
    }
    if key.org_ids.is_empty() {
        key.org_ids.clone_from(&caller.org_ids);
    }
    if !caller.org_ids.is_empty() && !key.org_ids.is_subset(&caller.org_ids) {
        return wider("orgs");
    }
    match (key.expires_at, own_expiry) {
        (Some(asked), Some(own)) if asked > own => wider("time"),
        (None, Some(own)) => {
            key.expires_at = Some(own);
            Ok(())
        }
        _ => Ok(()),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Whose {
    user_id: Option<String>,
}

/// The bare array that clients of old know: newest first, expired keys included, never a secret.
pub async fn list(
    State(service): State<Service>,
    Authenticated(caller): Authenticated,
    StrictQuery(whose): StrictQuery<Whose>,
) -> Result<Json<Value>, Problem> {
    let user = owner(&caller, whose.user_id.as_deref())?;
    if !caller.is_admin() && caller.user_id != Some(user) {
        return Err(Problem::not_found("user not found"));
    }
    let keys = service.accounts.keys(user).await.map_err(store_failed)?;
    Ok(Json(keys.iter().map(shown).collect()))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Which {
    user_id: Option<String>,
    api_key_id: Option<String>,
}

/// 204; every gateway refuses the key within two seconds. 404 for unknown and foreign keys alike.
pub async fn revoke(
    State(service): State<Service>,
    Authenticated(caller): Authenticated,
    StrictQuery(which): StrictQuery<Which>,
) -> Result<StatusCode, Problem> {
    let user = owner(&caller, which.user_id.as_deref())?;
    let key = match which.api_key_id.as_deref().map(str::trim) {
        None | Some("") => return Err(Problem::field("apiKeyId", "apiKeyId is required")),
        Some(text) => text.parse().map_err(|_| Problem::field("apiKeyId", "invalid apiKeyId"))?,
    };
    let own = caller.is_admin() || caller.user_id == Some(user);
    if own && service.accounts.revoke_key(user, key).await.map_err(store_failed)? {
        return Ok(StatusCode::NO_CONTENT);
    }
    Err(Problem::not_found("api key not found"))
}

fn shown(key: &ApiKey) -> Value {
    json!({
        "id": key.id,
        "name": key.name,
        "createdAt": instant(key.created_at),
        "expiresAt": key.expires_at.map(instant),
        "scopes": key.scopes,
        "providers": key.providers,
        "orgIds": key.org_ids,
    })
}
