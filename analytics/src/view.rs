//! Whose usage a caller may see: own, an org's, or everybody's.

use crate::error::{require, store_failed};
use domain::{
    access::{Caller, Role, Scope},
    ids::{OrgId, Provider, Shard, UserId},
    rollup::RollupScope,
};
use http::StatusCode;
use ports::accounts::Accounts;
use service_kit::problem::Problem;
use uuid::Uuid;

/// Orgs of one user that a listing without `orgId` covers; read in pages.
const ORGS_PER_PAGE: u32 = 200;
const ORGS_AT_MOST: usize = 1_000;

/// What a query may read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    pub payers: Payers,
    /// Only what this user used.
    pub user: Option<UserId>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payers {
    Everybody,
    These(Vec<Uuid>),
}

impl View {
    /// The rollups that together hold it.
    pub fn scopes(&self) -> Vec<RollupScope> {
        match &self.payers {
            Payers::Everybody => Shard::all().map(RollupScope::Platform).collect(),
            Payers::These(tenants) => tenants.iter().copied().map(RollupScope::Tenant).collect(),
        }
    }
}

/// A member sees the own usage, an `ORG_ADMIN` the org, an administrator everything. What is somebody else's does not exist.
pub async fn view(accounts: &dyn Accounts, caller: &Caller, org: Option<OrgId>, user: Option<UserId>) -> Result<View, Problem> {
    require(caller, Scope::AnalyticsRead)?;
    match org {
        Some(org) => view_of_org(accounts, caller, org, user).await,
        None if caller.is_admin() => Ok(View { payers: Payers::Everybody, user }),
        None => own_view(accounts, caller, user).await,
    }
}

/// A key that is limited to some providers reports on no others.
pub fn require_provider(caller: &Caller, provider: &Provider) -> Result<(), Problem> {
    if caller.may_use_provider(provider) {
        return Ok(());
    }
    Err(Problem::new(StatusCode::FORBIDDEN, "forbidden", format!("this key is not for the provider {provider}")))
}

async fn view_of_org(accounts: &dyn Accounts, caller: &Caller, org: OrgId, user: Option<UserId>) -> Result<View, Problem> {
    let missing = || Problem::not_found("org not found");
    if !caller.may_use_org(org) {
        return Err(missing());
    }
    let payers = Payers::These(vec![org.0]);
    if caller.is_admin() {
        accounts.find_org(org).await.map_err(store_failed)?.ok_or_else(missing)?;
        return Ok(View { payers, user });
    }
    let own = caller.user_id.ok_or_else(missing)?;
    match accounts.spend_facts(own, Some(org)).await.map_err(store_failed)?.role {
        None => Err(missing()),
        Some(Role::OrgAdmin) => Ok(View { payers, user }),
        Some(Role::Member) if user.is_none_or(|user| user == own) => Ok(View { payers, user: Some(own) }),
        Some(Role::Member) => {
            let detail = "only an ORG_ADMIN sees the usage of other members";
            Err(Problem::new(StatusCode::FORBIDDEN, "forbidden", detail).with("requiredRole", Role::OrgAdmin.as_str()))
        }
    }
}

/// What the user used, paid by the user or by one of the user's orgs.
async fn own_view(accounts: &dyn Accounts, caller: &Caller, user: Option<UserId>) -> Result<View, Problem> {
    let missing = || Problem::not_found("user not found");
    let own = caller.user_id.ok_or_else(missing)?;
    if user.is_some_and(|user| user != own) {
        return Err(missing());
    }
    let mut tenants = vec![own.0];
    let mut after = None;
    while tenants.len() <= ORGS_AT_MOST {
        let page = accounts.orgs(Some(own), after, ORGS_PER_PAGE).await.map_err(store_failed)?;
        tenants.extend(page.iter().filter(|org| caller.may_use_org(org.id)).map(|org| org.id.0));
        match page.last() {
            Some(last) if page.len() == usize::try_from(ORGS_PER_PAGE).unwrap_or(usize::MAX) => after = Some(last.id),
            _ => break,
        }
    }
    Ok(View { payers: Payers::These(tenants), user: Some(own) })
}
