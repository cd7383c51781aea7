//! `/api/v1/orgs/{org}/members`: seen by every member, changed by the org's `ORG_ADMIN`s and by administrators.

use crate::{
    Service,
    error::{conflict, org_not_found, parse_org, parse_user, require, store_failed},
    member_limits,
    orgs::{Standing, require_reading, standing},
    page::Page,
};
use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};
use domain::{
    access::{Caller, Role, Scope},
    ids::{OrgId, UserId},
};
use ports::accounts::Member;
use serde::Deserialize;
use serde_json::{Value, json};
use service_kit::{
    budgets::BudgetBody,
    identity::Authenticated,
    json::{StrictJson, StrictQuery},
    problem::Problem,
};

const SCAN_PAGE: u32 = 500;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewMember {
    role: Role,
    /// Each sets one budget of the member; one without `limit` lifts it. Those not named stay.
    #[serde(default)]
    limits: Vec<BudgetBody>,
}

pub async fn list(
    State(service): State<Service>,
    Authenticated(caller): Authenticated,
    Path(org): Path<String>,
    StrictQuery(page): StrictQuery<Page>,
) -> Result<Json<Value>, Problem> {
    require_reading(&caller)?;
    let org = parse_org("orgId", &org)?;
    standing(&service, &caller, org).await?;
    let members = service.accounts.members(org, page.after()?, page.read_limit()).await.map_err(store_failed)?;
    let show = |member: &Member| Some(json!({"userId": member.user_id, "role": member.role}));
    Ok(Json(page.answer(members, |member| member.user_id, show)))
}

/// 200 with the member, new or changed.
pub async fn put(
    State(service): State<Service>,
    Authenticated(caller): Authenticated,
    Path((org, user)): Path<(String, String)>,
    StrictJson(request): StrictJson<NewMember>,
) -> Result<Json<Value>, Problem> {
    let (org, user) = (parse_org("orgId", &org)?, parse_user("userId", &user)?);
    let standing = may_change(&service, &caller, org).await?;
    if request.role == Role::Member {
        keep_an_org_admin(&service, standing, org, user).await?;
    }
    // Before the member may spend.
    let limits = member_limits::set(&service, org, user, &request.limits).await?;
    let known = service.accounts.put_member(org, Member { user_id: user, role: request.role }).await.map_err(store_failed)?;
    if !known {
        return Err(org_not_found());
    }
    let mut answer = json!({"orgId": org, "userId": user, "role": request.role});
    if !limits.is_empty() {
        answer["limits"] = json!(limits);
    }
    Ok(Json(answer))
}

pub async fn remove(
    State(service): State<Service>,
    Authenticated(caller): Authenticated,
    Path((org, user)): Path<(String, String)>,
) -> Result<StatusCode, Problem> {
    let (org, user) = (parse_org("orgId", &org)?, parse_user("userId", &user)?);
    let standing = may_change(&service, &caller, org).await?;
    keep_an_org_admin(&service, standing, org, user).await?;
    if service.accounts.remove_member(org, user).await.map_err(store_failed)? {
        return Ok(StatusCode::NO_CONTENT);
    }
    Err(Problem::not_found("member not found"))
}

async fn may_change(service: &Service, caller: &Caller, org: OrgId) -> Result<Standing, Problem> {
    require(caller, Scope::OrgsManage)?;
    match standing(service, caller, org).await? {
        Standing::Member => Err(Problem::forbidden("only an ORG_ADMIN of the org changes its members", Scope::Admin.as_str())),
        standing => Ok(standing),
    }
}

/// An org whose last `ORG_ADMIN` leaves could not be managed by anyone in it. Administrators of the installation may do that: they can repair it,
/// which also bounds what two removals at the same moment can do.
async fn keep_an_org_admin(service: &Service, standing: Standing, org: OrgId, leaving: UserId) -> Result<(), Problem> {
    if standing == Standing::Administrator {
        return Ok(());
    }
    let facts = service.accounts.spend_facts(leaving, Some(org)).await.map_err(store_failed)?;
    if facts.role != Some(Role::OrgAdmin) {
        return Ok(());
    }
    let mut after = None;
    loop {
        let members = service.accounts.members(org, after, SCAN_PAGE).await.map_err(store_failed)?;
        if members.iter().any(|member| member.role == Role::OrgAdmin && member.user_id != leaving) {
            return Ok(());
        }
        let Some(last) = members.last() else { break };
        after = Some(last.user_id);
    }
    Err(conflict("this is the org's last ORG_ADMIN: make another member ORG_ADMIN first"))
}
