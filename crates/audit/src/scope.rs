//! What an audit covers: everything, or what belongs to an org, to a user, to a time.

use chrono::{DateTime, Utc};
use domain::{
    budget::BudgetKey,
    charge::{Charge, ChargeSpec},
    event::UsageEvent,
    ids::{OrgId, Payer, Shard, UserId},
    rollup::{CellKey, Part, RollupScope},
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// What is compared. The default is everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Scope {
    /// Only what this org pays for.
    #[serde(rename = "orgId", skip_serializing_if = "Option::is_none")]
    pub org: Option<OrgId>,
    /// Only what this user pays for, and what the user spent of orgs.
    #[serde(rename = "userId", skip_serializing_if = "Option::is_none")]
    pub user: Option<UserId>,
    /// Only events that occurred, and charges that were made, at or after this moment. Balances are always compared as a whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<DateTime<Utc>>,
    /// Exclusive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<DateTime<Utc>>,
}

impl Scope {
    pub fn is_everything(&self) -> bool {
        *self == Self::default()
    }

    /// Of a user all: what was spent of orgs stands in theirs, and nobody keeps which orgs these once were.
    pub(crate) fn shards(&self) -> Vec<Shard> {
        match self.org {
            Some(org) => vec![Payer::Org(org).shard()],
            None => Shard::all().collect(),
        }
    }

    /// Whether everything of this payer is covered, balances included.
    pub(crate) fn covers_payer(&self, payer: Payer) -> bool {
        self.org.is_none_or(|org| payer == Payer::Org(org)) && self.user.is_none_or(|user| payer == Payer::User(user))
    }

    /// Whether what this user does at the payer's expense is covered.
    pub(crate) fn covers_spender(&self, payer: Payer, user: Option<UserId>) -> bool {
        let of_user = |wanted: UserId| payer == Payer::User(wanted) || user == Some(wanted);
        self.org.is_none_or(|org| payer == Payer::Org(org)) && self.user.is_none_or(of_user)
    }

    pub(crate) fn covers_spec(&self, spec: &ChargeSpec) -> bool {
        self.covers_spender(spec.payer, Some(spec.user_id))
    }

    pub(crate) fn covers_charge(&self, charge: &Charge) -> bool {
        self.covers_spec(&charge.spec) && self.covers_time(charge.created_at)
    }

    pub(crate) fn covers_budget(&self, key: &BudgetKey) -> bool {
        self.covers_spender(key.payer, key.member)
    }

    pub(crate) fn covers_time(&self, at: DateTime<Utc>) -> bool {
        self.from.is_none_or(|from| from <= at) && self.to.is_none_or(|to| at < to)
    }

    /// Whether the event belongs to whom the scope names, whatever its time.
    pub(crate) fn covers_whom(&self, event: &UsageEvent) -> bool {
        self.covers_spender(event.event.payer, event.event.user_id)
    }

    pub(crate) fn covers(&self, event: &UsageEvent) -> bool {
        self.covers_whom(event) && self.covers_time(event.event.occurred_at)
    }

    /// Totals over all payers say nothing about one of them.
    pub(crate) fn covers_platform(&self) -> bool {
        self.org.is_none() && self.user.is_none()
    }

    /// Whether all that the cell counts belongs to whom the scope names. The tenant's cells by model count everyone's.
    pub(crate) fn covers_cell(&self, key: &CellKey) -> bool {
        let in_time = self.from.is_none_or(|from| from < key.grain.next(key.bucket)) && self.to.is_none_or(|to| key.bucket < to);
        let of_whom = match (&key.scope, self.user) {
            (RollupScope::Platform(_), _) => self.covers_platform(),
            (RollupScope::Tenant(_), None) => true,
            (RollupScope::Tenant(tenant), Some(user)) => *tenant == user.0 || is_of(key, user),
        };
        in_time && of_whom
    }
}

fn is_of(key: &CellKey, user: UserId) -> bool {
    matches!(key.dimension.part(), Some(Part::User { user: named, .. }) if named.parse::<Uuid>().is_ok_and(|named| named == user.0))
}
