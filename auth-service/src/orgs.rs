//! `/api/v1/orgs`: organisations. Outsiders get the same 404 as for an org that does not exist.

use crate::{
    Service,
    error::{instant, org_not_found, parse_org, require, store_failed},
    page::Page,
};
use axum::{
    Json,
    extract::{Path, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use domain::{
    access::{Caller, Role, Scope},
    ids::OrgId,
};
use idempotency::Seed;
use ports::accounts::Org;
use serde::Deserialize;
use serde_json::{Value, json};
use service_kit::{
    identity::Authenticated,
    json::{StrictJson, StrictQuery},
    problem::Problem,
};

const NAME_LIMIT: usize = 100;

/// What a caller is to an org.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Of the installation.
    Administrator,
    OrgAdmin,
    Member,
}

/// 404 for outsiders, and for keys that are confined to other orgs.
pub async fn standing(service: &Service, caller: &Caller, org: OrgId) -> Result<Standing, Problem> {
    if caller.is_admin() {
        let found = service.accounts.find_org(org).await.map_err(store_failed)?;
        return found.map(|_| Standing::Administrator).ok_or_else(org_not_found);
    }
    let user = caller.user_id.filter(|_| caller.may_use_org(org)).ok_or_else(org_not_found)?;
    match service.accounts.spend_facts(user, Some(org)).await.map_err(store_failed)?.role {
        Some(Role::OrgAdmin) => Ok(Standing::OrgAdmin),
        Some(Role::Member) => Ok(Standing::Member),
        None => Err(org_not_found()),
    }
}

/// Reading one's own orgs takes any scope that a key for usage has.
pub fn require_reading(caller: &Caller) -> Result<(), Problem> {
    if caller.may(Scope::OrgsManage) { Ok(()) } else { require(caller, Scope::TokensRead) }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewOrg {
    name: String,
}

/// 201; the caller becomes its `ORG_ADMIN`. An administrator who is no user makes it without a member.
pub async fn create(
    State(service): State<Service>,
    Authenticated(caller): Authenticated,
    seed: Seed,
    StrictJson(request): StrictJson<NewOrg>,
) -> Result<Response, Problem> {
    require(&caller, Scope::OrgsManage)?;
    if !caller.is_admin() && !caller.org_ids.is_empty() {
        // It could not use the org that it made.
        return Err(Problem::forbidden("this credential is confined to named orgs and cannot make another", Scope::Admin.as_str()));
    }
    let org = Org { id: OrgId(seed.uuid("org")), name: parse_name(&request.name)?, created_at: seed.at() };
    service.accounts.create_org(&org, caller.user_id).await.map_err(store_failed)?;
    let location = format!("/api/v1/orgs/{}", org.id);
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Json(shown(&org))).into_response())
}

fn parse_name(name: &str) -> Result<String, Problem> {
    let name = name.trim();
    if name.is_empty() {
        return Err(Problem::field("name", "name is required"));
    }
    if name.chars().count() > NAME_LIMIT || name.chars().any(char::is_control) {
        return Err(Problem::field("name", format!("name must have at most {NAME_LIMIT} characters, none of them a control character")));
    }
    Ok(name.to_owned())
}

/// The caller's orgs; an administrator's are all.
pub async fn list(
    State(service): State<Service>,
    Authenticated(caller): Authenticated,
    StrictQuery(page): StrictQuery<Page>,
) -> Result<Json<Value>, Problem> {
    require_reading(&caller)?;
    let whose = if caller.is_admin() { None } else { Some(caller.user_id.ok_or_else(org_not_found)?) };
    let orgs = service.accounts.orgs(whose, page.after()?, page.read_limit()).await.map_err(store_failed)?;
    Ok(Json(page.answer(orgs, |org| org.id, |org| visible(&caller, org).then(|| shown(org)))))
}

fn visible(caller: &Caller, org: &Org) -> bool {
    caller.is_admin() || caller.may_use_org(org.id)
}

pub async fn show(
    State(service): State<Service>,
    Authenticated(caller): Authenticated,
    Path(org): Path<String>,
) -> Result<Json<Value>, Problem> {
    require_reading(&caller)?;
    let org = parse_org("orgId", &org)?;
    standing(&service, &caller, org).await?;
    let found = service.accounts.find_org(org).await.map_err(store_failed)?;
    found.map(|org| Json(shown(&org))).ok_or_else(org_not_found)
}

fn shown(org: &Org) -> Value {
    json!({"orgId": org.id, "name": org.name, "createdAt": instant(org.created_at)})
}
