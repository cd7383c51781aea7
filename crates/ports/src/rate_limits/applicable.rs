//! Which buckets a spend is in: for asking them, for giving back, for restoring them and for proving them.

use super::{Bucket, BucketKey, Group};
use crate::accounts::SpendFacts;
use domain::{
    charge::Charge,
    ids::{Model, Payer, Provider},
    settings::{Limit, LimitScope, Settings, Tier},
};
use std::{fmt::Display, sync::Arc};

/// Whose buckets: one owner and its tier for each scope that applies.
pub struct Owners<'a> {
    pub payer: Payer,
    pub user: Option<(Arc<str>, &'a Tier)>,
    pub org: Option<(Arc<str>, &'a Tier)>,
    pub key: Option<(Arc<str>, &'a Tier)>,
}

impl<'a> Owners<'a> {
    /// Of a charge that was made. The tier of a key is that of its owner, who is not known any more; the spender's is taken for it.
    pub fn of_charge(settings: &'a Settings, charge: &Charge, facts: &SpendFacts) -> Self {
        let (spec, user_tier) = (&charge.spec, settings.tier(facts.user_tier.as_deref()));
        Self {
            payer: spec.payer,
            user: Some((owner(&spec.user_id), user_tier)),
            org: spec.payer.org().map(|org| (owner(&org), settings.tier(facts.org_tier.as_deref()))),
            key: spec.key_id.map(|key| (owner(&key), user_tier)),
        }
    }

    fn of_scope(&self, scope: LimitScope) -> Option<(Arc<str>, &'a Tier)> {
        let own = match scope {
            LimitScope::User => &self.user,
            LimitScope::Org => &self.org,
            LimitScope::Key => &self.key,
            LimitScope::Provider | LimitScope::Model => return Some((Arc::default(), &Tier::NEUTRAL)),
        };
        own.clone()
    }
}

/// An id as buckets name their owner.
pub fn owner(id: &impl Display) -> Arc<str> {
    id.to_string().into()
}

/// The buckets of every limit that applies, in the order of the limits' names. A request that names no model is about the provider's
/// default one, where there is one.
pub fn applicable(settings: &Settings, owners: &Owners<'_>, provider: &Provider, model: Option<&Model>) -> Vec<Bucket> {
    let default_model = || settings.providers.get(provider).and_then(|own| own.default_model.as_ref());
    let model = model.or_else(default_model);
    let limits = settings.limits.iter().filter(|(_, limit)| limit.applies_to(provider, model));
    limits.filter_map(|(name, limit)| bucket(name, limit, owners, provider, model)).collect()
}

fn bucket(name: &str, limit: &Limit, owners: &Owners<'_>, provider: &Provider, model: Option<&Model>) -> Option<Bucket> {
    let (owner, tier) = owners.of_scope(limit.scope)?;
    let model = if limit.scope == LimitScope::Model { model } else { limit.model.as_ref() };
    let key = BucketKey {
        group: if limit.scope.is_shared() { Group::Shared } else { Group::Payer(owners.payer) },
        limit: name.into(),
        scope: limit.scope,
        owner,
        provider: Some(provider.clone()),
        model: model.map(|model| model.as_str().into()),
    };
    Some(Bucket { key, rule: limit.bucket(tier), on_outage: limit.on_outage })
}
