//! Which events a replay reads into its generation, and which totals it can therefore build anew.

use crate::{
    event::UsageEvent,
    ids::{OrgId, Provider, Shard},
    rollup::{CellKey, Part, RollupScope},
    time::Grain,
};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Whole days (UTC), an org, a provider; each `None` for all.
///
/// Days are whole because the widest totals are of a day: a day that is covered in part could not be told from its events alone. For the same
/// reason what an org is a part of (the platform's totals by model) is not covered by a replay of that org.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Coverage {
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<DateTime<Utc>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<DateTime<Utc>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    org_id: Option<OrgId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    provider: Option<Provider>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RangeError {
    #[error("the range is empty: from and to are the same instant")]
    Empty,
    #[error("the range is reversed: from must be before to")]
    Reversed,
    #[error("from lies in the future, where there are no events")]
    FutureFrom,
    #[error("to lies in the future; leave it out for everything up to now")]
    FutureTo,
}

impl RangeError {
    /// The field to mend.
    pub const fn field(self) -> &'static str {
        match self {
            Self::Empty | Self::Reversed | Self::FutureFrom => "from",
            Self::FutureTo => "to",
        }
    }
}

impl Coverage {
    pub fn everything() -> Self {
        Self::default()
    }

    /// The days that the range touches.
    ///
    /// # Errors
    /// When the range holds no instant, or one that is yet to come: `to` may be as late as the end of today.
    pub fn new(
        range: (Option<DateTime<Utc>>, Option<DateTime<Utc>>),
        org_id: Option<OrgId>,
        provider: Option<Provider>,
        now: DateTime<Utc>,
    ) -> Result<Self, RangeError> {
        let (from, to) = range;
        match (from, to) {
            (Some(from), Some(to)) if from == to => return Err(RangeError::Empty),
            (Some(from), Some(to)) if from > to => return Err(RangeError::Reversed),
            (Some(from), _) if from > now => return Err(RangeError::FutureFrom),
            (_, Some(to)) if to > Grain::Day.ceil(now) => return Err(RangeError::FutureTo),
            _ => {}
        }
        let (from, to) = (from.map(|from| Grain::Day.floor(from)), to.map(|to| Grain::Day.ceil(to)));
        Ok(Self { from, to, org_id, provider })
    }

    pub fn is_everything(&self) -> bool {
        *self == Self::default()
    }

    /// First instant.
    pub const fn from(&self) -> Option<DateTime<Utc>> {
        self.from
    }

    /// First instant behind it.
    pub const fn to(&self) -> Option<DateTime<Utc>> {
        self.to
    }

    pub const fn org_id(&self) -> Option<OrgId> {
        self.org_id
    }

    pub const fn provider(&self) -> Option<&Provider> {
        self.provider.as_ref()
    }

    /// Shards that can hold an event of it.
    pub fn holds_shard(&self, shard: Shard) -> bool {
        self.org_id.is_none_or(|org| Shard::of_tenant(org.0) == shard)
    }

    pub fn holds_event(&self, event: &UsageEvent) -> bool {
        let event = &event.event;
        let at = event.occurred_at;
        self.from.is_none_or(|from| from <= at)
            && self.to.is_none_or(|to| at < to)
            && self.org_id.is_none_or(|org| event.payer.tenant() == org.0)
            && self.provider.as_ref().is_none_or(|provider| event.provider.as_ref() == Some(provider))
    }

    /// Whether every event that counts in the total is an event of it.
    pub fn holds_cell(&self, cell: &CellKey) -> bool {
        self.from.is_none_or(|from| from <= cell.bucket)
            && self.to.is_none_or(|to| cell.grain.next(cell.bucket) <= to)
            && self.holds_payer_of(cell)
            && self.holds_provider_of(cell)
    }

    fn holds_payer_of(&self, cell: &CellKey) -> bool {
        let Some(org) = self.org_id else { return true };
        match (&cell.scope, cell.dimension.part()) {
            (RollupScope::Tenant(tenant), _) => *tenant == org.0,
            (RollupScope::Platform(_), Some(Part::Payer { tenant, .. })) => tenant == org.0,
            (RollupScope::Platform(_), _) => false,
        }
    }

    fn holds_provider_of(&self, cell: &CellKey) -> bool {
        let Some(provider) = &self.provider else { return true };
        let counted = match cell.dimension.part() {
            Some(Part::Model { provider, .. } | Part::User { provider, .. } | Part::Payer { provider, .. }) => provider,
            None => return false,
        };
        counted == provider.as_str()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        amount::Tokens,
        event::{EventType, NewEvent},
        ids::{EventId, Payer, UserId},
        rollup,
    };
    use chrono::{Days, TimeDelta};
    use proptest::prelude::*;
    use uuid::Uuid;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn now() -> DateTime<Utc> {
        at("2026-11-21T12:00:00Z")
    }

    #[test]
    fn a_range_without_instants_or_in_the_future_is_refused() {
        let range = |from: Option<&str>, to: Option<&str>| Coverage::new((from.map(at), to.map(at)), None, None, now());
        let noon = "2026-11-20T12:00:00Z";
        assert_eq!(range(Some(noon), Some(noon)), Err(RangeError::Empty));
        assert_eq!(range(Some(noon), Some("2026-11-19T12:00:00Z")), Err(RangeError::Reversed));
        assert_eq!(range(Some("2026-11-21T12:00:01Z"), None), Err(RangeError::FutureFrom));
        assert_eq!(range(None, Some("2026-11-22T00:00:01Z")), Err(RangeError::FutureTo));
        assert!(range(Some(noon), Some("2026-11-22T00:00:00Z")).is_ok(), "today to its end");
        assert!(range(None, None).unwrap().is_everything());
    }

    #[test]
    fn a_range_is_widened_to_the_days_it_touches() {
        let range = (Some(at("2026-11-19T10:00:00Z")), Some(at("2026-11-20T00:00:01Z")));
        let coverage = Coverage::new(range, None, None, now()).unwrap();
        assert_eq!((coverage.from(), coverage.to()), (Some(at("2026-11-19T00:00:00Z")), Some(at("2026-11-21T00:00:00Z"))));
    }

    fn event(tenant: u128, is_org: bool, provider: Option<&str>, hours: i64) -> UsageEvent {
        let payer = if is_org { Payer::Org(OrgId(Uuid::from_u128(tenant))) } else { Payer::User(UserId(Uuid::from_u128(tenant))) };
        let occurred_at = at("2026-11-18T00:00:00Z") + TimeDelta::hours(hours);
        let event = NewEvent {
            id: EventId(Uuid::from_u128(1)),
            kind: EventType::ChargeSettled,
            payer,
            user_id: Some(UserId(Uuid::from_u128(9))),
            key_id: None,
            provider: provider.map(|name| Provider::parse(name).unwrap()),
            model: None,
            charge_id: None,
            tokens: Tokens::new(5).unwrap(),
            count: 1,
            cost: None,
            reason: None,
            occurred_at,
            metadata: std::collections::BTreeMap::new(),
        };
        UsageEvent { event, seq: 1, epoch: 1, recorded_at: occurred_at }
    }

    proptest! {
        /// Else a total would be built from a part of what counts in it.
        #[test]
        fn every_event_of_a_covered_cell_is_covered(
            tenant in 1_u128..4,
            is_org: bool,
            provider in prop::option::of(prop::sample::select(vec!["openai", "openai-eu", "qwen"])),
            hours in 0_i64..96,
            days in (prop::option::of(0_u64..4), prop::option::of(0_u64..4)),
            org in prop::option::of(1_u128..4),
            only in prop::option::of(prop::sample::select(vec!["openai", "qwen"])),
        ) {
            let day = |days: Option<u64>| days.map(|days| at("2026-11-18T07:00:00Z") + Days::new(days));
            let org = org.map(|org| OrgId(Uuid::from_u128(org)));
            let only = only.map(|name| Provider::parse(name).unwrap());
            let Ok(coverage) = Coverage::new((day(days.0), day(days.1)), org, only, now() + Days::new(9)) else { return Ok(()) };
            let event = event(tenant, is_org, provider, hours);
            let cells = rollup::cells(&event);
            if !coverage.holds_event(&event) {
                prop_assert!(!cells.iter().any(|cell| coverage.holds_cell(cell)));
            } else {
                prop_assert!(coverage.holds_shard(event.shard()));
                let of_tenant = |cell: &&CellKey| matches!(cell.scope, RollupScope::Tenant(_));
                prop_assert!(cells.iter().filter(of_tenant).all(|cell| coverage.holds_cell(cell)), "a payer's own totals are all covered");
                prop_assert_eq!(cells.iter().all(|cell| coverage.holds_cell(cell)), org.is_none());
            }
        }
    }
}
