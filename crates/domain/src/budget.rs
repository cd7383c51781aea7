//! A budget: how much of what it covers may be spent in a period, in tokens or in money. A pool is what there is; a budget is what may
//! be taken of it, by everyone whom the payer pays for or by one member, at one provider or at all.

use crate::{
    amount::Tokens,
    charge::{Charge, ChargeSpec, ChargeStatus},
    ids::{Payer, Provider, UserId},
    money::Cost,
    threshold::{self, Threshold},
    time::Period,
};
use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum BudgetUnit {
    Tokens,
    /// Minor units of the installation's currency.
    Money,
}

impl BudgetUnit {
    pub const ALL: [&'static str; 2] = ["TOKENS", "MONEY"];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tokens => "TOKENS",
            Self::Money => "MONEY",
        }
    }

    /// What this many tokens at this cost are in the unit. What has no price costs nothing.
    pub fn amount(self, tokens: Tokens, cost: Option<Cost>) -> Tokens {
        match self {
            Self::Tokens => tokens,
            Self::Money => cost.map_or(Tokens::ZERO, |cost| cost.minor_units),
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        [Self::Tokens, Self::Money].into_iter().find(|unit| unit.as_str() == text)
    }
}

/// What a budget covers. A payer may have one of each, for example per day and per month.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BudgetKey {
    pub payer: Payer,
    /// Only what this member of the paying org spends.
    pub member: Option<UserId>,
    /// Only what is spent at this provider.
    pub provider: Option<Provider>,
    pub unit: BudgetUnit,
    pub period: Period,
}

/// What is set by whoever sets a budget.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BudgetTerms {
    /// `None`: counted, not limited.
    pub limit: Option<Tokens>,
    pub time_zone: Tz,
    pub thresholds: BTreeSet<Threshold>,
}

/// What was spent of a budget in one period. Earlier periods are not kept: the charges tell them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BudgetPeriod {
    pub starts_at: DateTime<Utc>,
    /// Exclusive.
    pub ends_at: Option<DateTime<Utc>>,
    pub used: Tokens,
    pub held: Tokens,
    pub reached: BTreeSet<Threshold>,
}

/// The stored state of a budget. A charge counts in the period in which it was made, whenever it ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Budget {
    pub key: BudgetKey,
    pub terms: BudgetTerms,
    pub current: BudgetPeriod,
}

/// A part of a charge that a budget counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    pub used: Tokens,
    pub held: Tokens,
}

impl Spent {
    pub fn of(charge: &Charge, unit: BudgetUnit) -> Self {
        match charge.status {
            ChargeStatus::Held => Self { held: unit.amount(charge.held, charge.cost), ..Self::default() },
            ChargeStatus::Settled | ChargeStatus::Refunded => {
                Self { used: unit.amount(charge.net(), charge.net_cost()), ..Self::default() }
            }
            ChargeStatus::Released | ChargeStatus::Expired => Self::default(),
        }
    }
}

impl Budget {
    /// Counts from the moment after `now`: what was spent before is not in it.
    pub fn new(key: BudgetKey, terms: BudgetTerms, now: DateTime<Utc>) -> Self {
        let starts_at = now + TimeDelta::milliseconds(1);
        let (_, ends_at) = key.period.around(starts_at, terms.time_zone);
        let current = BudgetPeriod { starts_at, ends_at, used: Tokens::ZERO, held: Tokens::ZERO, reached: BTreeSet::new() };
        Self { key, terms, current }
    }

    pub fn covers(&self, spec: &ChargeSpec) -> bool {
        let Self { key, .. } = self;
        key.payer == spec.payer
            && key.member.is_none_or(|member| member == spec.user_id)
            && key.provider.as_ref().is_none_or(|provider| *provider == spec.provider)
    }

    /// The budget as it stands at `at`: a period that is over makes room for the next.
    pub fn as_of(&self, at: DateTime<Utc>) -> Self {
        let Some(end) = self.current.ends_at.filter(|end| *end <= at) else { return self.clone() };
        let (starts_at, ends_at) = self.key.period.around(at, self.terms.time_zone);
        let current =
            BudgetPeriod { starts_at: starts_at.max(end), ends_at, used: Tokens::ZERO, held: Tokens::ZERO, reached: BTreeSet::new() };
        Self { current, ..self.clone() }
    }

    /// Whether a charge made at that time counts in the current period.
    pub fn counts(&self, made_at: DateTime<Utc>) -> bool {
        self.current.starts_at <= made_at && self.current.ends_at.is_none_or(|end| made_at < end)
    }

    /// What may still be spent; `None` without a limit.
    pub fn remaining(&self) -> Option<Tokens> {
        self.terms.limit.map(|limit| limit.saturating_sub(self.current.used).saturating_sub(self.current.held))
    }

    /// `None` when the total would exceed the largest amount.
    pub fn after(&self, before: Spent, now: Spent) -> Option<BudgetPeriod> {
        let used = self.current.used.saturating_sub(before.used).checked_add(now.used)?;
        let held = self.current.held.saturating_sub(before.held).checked_add(now.held)?;
        used.checked_add(held).map(|_| BudgetPeriod { used, held, ..self.current.clone() })
    }

    /// The thresholds that the settled amount has reached and that nobody was told about yet, lowest first.
    pub fn newly_reached(&self) -> Vec<Threshold> {
        let untold = self.terms.thresholds.difference(&self.current.reached);
        threshold::reached(untold, i128::from(self.current.used.get()), self.terms.limit)
    }
}
