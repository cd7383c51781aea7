//! `/registry/instances`: which processes serve what. Kept in this process's memory: an instance registers with every config-service,
//! and again when a heartbeat answers 404, so a restart loses nothing for longer than one heartbeat.

use crate::{Service, error::Administrator};
use axum::{
    Json,
    extract::{Path, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use reqwest::Url;
use serde::Deserialize;
use serde_json::{Value, json};
use service_kit::{
    json::{StrictJson, StrictQuery},
    problem::Problem,
};
use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};
use uuid::Uuid;

/// Bounds the memory that a faulty deployment can take.
const CAPACITY: usize = 10_000;
const NAME_LIMIT: usize = 50;
const URL_LIMIT: usize = 2_000;
const DEFAULT_TTL_SECS: i64 = 15;
const MAX_TTL_SECS: i64 = 300;

#[derive(Default)]
pub struct Instances {
    known: Mutex<BTreeMap<Uuid, Instance>>,
}

#[derive(Clone)]
struct Instance {
    service: String,
    url: String,
    ttl: TimeDelta,
    registered_at: DateTime<Utc>,
    expires_at: DateTime<Utc>,
}

impl Instances {
    /// Those that have not expired; the expired ones are dropped on the way.
    fn living(&self, now: DateTime<Utc>) -> MutexGuard<'_, BTreeMap<Uuid, Instance>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, instance| instance.expires_at > now);
        known
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Registration {
    service: String,
    url: String,
    /// Chosen by the instance that wants to keep its id over a restart of config-service.
    instance_id: Option<Uuid>,
    ttl_seconds: Option<i64>,
}

/// 201, or 200 when the instance was known already.
pub async fn register(
    State(service): State<Service>,
    _: Administrator,
    StrictJson(registration): StrictJson<Registration>,
) -> Result<Response, Problem> {
    check_service("service", &registration.service)?;
    check_url(&registration.url)?;
    let ttl_secs = registration.ttl_seconds.unwrap_or(DEFAULT_TTL_SECS);
    if !(1..=MAX_TTL_SECS).contains(&ttl_secs) {
        return Err(Problem::field("ttlSeconds", format!("ttlSeconds must be between 1 and {MAX_TTL_SECS}")));
    }
    let now = service.clock.now();
    let id = registration.instance_id.unwrap_or_else(Uuid::now_v7);
    let mut living = service.instances.living(now);
    if living.len() >= CAPACITY && !living.contains_key(&id) {
        return Err(Problem::overloaded("config-service", format!("{CAPACITY} instances are registered already")));
    }
    let ttl = TimeDelta::seconds(ttl_secs);
    let registered_at = living.get(&id).map_or(now, |known| known.registered_at);
    let instance = Instance { service: registration.service, url: registration.url, ttl, registered_at, expires_at: now + ttl };
    let body = Json(shown(id, &instance));
    let status = if living.insert(id, instance).is_none() { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, [(header::LOCATION, format!("/registry/instances/{id}"))], body).into_response())
}

/// 200 and a new lease; 404 asks the instance to register again.
pub async fn heartbeat(State(service): State<Service>, _: Administrator, Path(id): Path<String>) -> Result<Json<Value>, Problem> {
    let (id, now) = (parse_id(&id)?, service.clock.now());
    let mut living = service.instances.living(now);
    let instance = living.get_mut(&id).ok_or_else(|| Problem::not_found("instance not found"))?;
    instance.expires_at = now + instance.ttl;
    Ok(Json(shown(id, instance)))
}

pub async fn deregister(State(service): State<Service>, _: Administrator, Path(id): Path<String>) -> Result<StatusCode, Problem> {
    let id = parse_id(&id)?;
    match service.instances.living(service.clock.now()).remove(&id) {
        Some(_) => Ok(StatusCode::NO_CONTENT),
        None => Err(Problem::not_found("instance not found")),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Which {
    service: Option<String>,
}

/// Needs no credential, as every read of the registry.
pub async fn list(State(service): State<Service>, StrictQuery(which): StrictQuery<Which>) -> Result<Json<Value>, Problem> {
    if let Some(name) = &which.service {
        check_service("service", name)?;
    }
    let living = service.instances.living(service.clock.now());
    let wanted = living.iter().filter(|(_, instance)| which.service.as_ref().is_none_or(|name| *name == instance.service));
    let items: Vec<Value> = wanted.map(|(id, instance)| shown(*id, instance)).collect();
    Ok(Json(json!({"items": items})))
}

fn shown(id: Uuid, instance: &Instance) -> Value {
    let time = |at: DateTime<Utc>| at.to_rfc3339_opts(SecondsFormat::Millis, true);
    json!({
        "instanceId": id,
        "service": instance.service,
        "url": instance.url,
        "ttlSeconds": instance.ttl.num_seconds(),
        "registeredAt": time(instance.registered_at),
        "expiresAt": time(instance.expires_at),
    })
}

fn parse_id(text: &str) -> Result<Uuid, Problem> {
    Uuid::parse_str(text).map_err(|_| Problem::field("instanceId", "invalid instanceId"))
}

fn check_service(field: &str, name: &str) -> Result<(), Problem> {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if name.is_empty() || name.len() > NAME_LIMIT || !name.bytes().all(allowed) {
        return Err(Problem::field(field, format!("{field} takes lower-case letters, digits and -, at most {NAME_LIMIT}")));
    }
    Ok(())
}

fn check_url(text: &str) -> Result<(), Problem> {
    let usable = |url: Url| {
        matches!(url.scheme(), "http" | "https") && url.host_str().is_some() && url.username().is_empty() && url.password().is_none()
    };
    if text.len() <= URL_LIMIT && Url::parse(text).is_ok_and(usable) {
        return Ok(());
    }
    Err(Problem::field("url", "url must begin with http:// or https://, name a host and contain no credential"))
}
