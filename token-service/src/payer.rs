//! Who pays, and whether this caller may spend that: the caller's own pool, or an org's for its members.

use crate::{error, service::Service, spend_request::SpendRequest, token_kinds::cost};
use domain::{
    access::{Caller, Role},
    amount::Tokens,
    charge::{ChargeSpec, Metadata},
    ids::{ChargeId, KeyId, Model, OrgId, Payer, Provider, UserId},
    money::{Cost, TokenKinds},
};
use ports::accounts::SpendFacts;
use service_kit::problem::Problem;
use std::sync::Arc;

/// A spend that is allowed to be tried: who, what, and the facts its limits depend on.
#[derive(Clone, Debug)]
pub struct Spend {
    pub payer: Payer,
    pub user_id: UserId,
    pub key_id: Option<KeyId>,
    pub provider: Provider,
    pub model: Option<Model>,
    pub tokens: Tokens,
    pub kinds: TokenKinds,
    pub metadata: Metadata,
    /// Of the spending user, in the paying org.
    pub facts: Arc<SpendFacts>,
    /// Tier of the user who owns the key.
    pub key_tier: Option<String>,
}

impl Spend {
    /// What it costs at the prices of now.
    pub fn cost(&self, service: &Service) -> Result<Option<Cost>, Problem> {
        cost(service, &self.provider, self.model.as_ref(), service.clock.now(), self.kinds)
    }

    /// The charge this spend becomes; a new id each time.
    pub fn charge(&self, service: &Service) -> ChargeSpec {
        ChargeSpec {
            id: ChargeId::new(self.payer.shard(), service.clock.now()),
            payer: self.payer,
            user_id: self.user_id,
            key_id: self.key_id,
            provider: self.provider.clone(),
            model: self.model.clone(),
            metadata: self.metadata.clone(),
        }
    }
}

/// 403 in every case in which the caller may not, whether or not the user or org exists.
pub async fn authorise(service: &Service, caller: &Caller, request: SpendRequest) -> Result<Spend, Problem> {
    let SpendRequest { user_id, org_id, provider, model, tokens, kinds, metadata } = request;
    if !caller.may_use_provider(&provider) {
        return Err(error::key_excludes_provider(&provider));
    }
    let own = caller.user_id == Some(user_id);
    let facts = match org_id {
        Some(org) => facts_of_member(service, caller, user_id, org).await?,
        None if own || caller.is_admin() => service.facts.of(user_id, None).await.map_err(|error| error::store(&error))?,
        None => return Err(error::may_not_spend_for_user()),
    };
    let key_tier = match (caller.key_id, caller.user_id) {
        (Some(_), Some(_)) if own => facts.user_tier.clone(),
        (Some(_), Some(owner)) => service.facts.of(owner, None).await.map_err(|error| error::store(&error))?.user_tier.clone(),
        _ => None,
    };
    let payer = org_id.map_or(Payer::User(user_id), Payer::Org);
    Ok(Spend { payer, user_id, key_id: caller.key_id, provider, model, tokens, kinds, metadata, facts, key_tier })
}

/// The org pays only for its members. For another member an `ORG_ADMIN` of that org or an administrator may ask.
async fn facts_of_member(service: &Service, caller: &Caller, user: UserId, org: OrgId) -> Result<Arc<SpendFacts>, Problem> {
    if !caller.may_use_org(org) {
        return Err(error::key_excludes_org());
    }
    if caller.user_id != Some(user) && !caller.is_admin() {
        let asking = caller.user_id.ok_or_else(error::may_not_spend_for_user)?;
        let role = service.facts.of(asking, Some(org)).await.map_err(|error| error::store(&error))?.role;
        match role {
            Some(Role::OrgAdmin) => {}
            Some(Role::Member) => return Err(error::may_not_spend_for_user()),
            None => return Err(error::may_not_spend_for_org()),
        }
    }
    let facts = service.facts.of(user, Some(org)).await.map_err(|error| error::store(&error))?;
    if facts.role.is_none() {
        return Err(error::may_not_spend_for_org());
    }
    Ok(facts)
}

/// What may be shown of a payer's charges and pools.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sight {
    Everything,
    /// A member sees what it did itself, and the org's pool.
    Own(UserId),
}

/// `None`: as if it did not exist.
pub async fn sight_of(service: &Service, caller: &Caller, payer: Payer) -> Result<Option<Sight>, Problem> {
    let org = match payer {
        _ if caller.is_admin() => return Ok(Some(Sight::Everything)),
        Payer::User(user) => return Ok((caller.user_id == Some(user)).then_some(Sight::Everything)),
        Payer::Org(org) => org,
    };
    let Some(user) = caller.user_id.filter(|_| caller.may_use_org(org)) else { return Ok(None) };
    let facts = service.facts.of(user, Some(org)).await.map_err(|error| error::store(&error))?;
    Ok(facts.role.map(|role| match role {
        Role::OrgAdmin => Sight::Everything,
        Role::Member => Sight::Own(user),
    }))
}

/// Facts of a payer when no particular user spends: its tier is what matters.
pub async fn facts_of_payer(service: &Service, payer: Payer) -> Result<Arc<SpendFacts>, Problem> {
    let (user, org) = match payer {
        Payer::User(user) => (user, None),
        Payer::Org(org) => (UserId(uuid::Uuid::nil()), Some(org)),
    };
    service.facts.of(user, org).await.map_err(|error| error::store(&error))
}
