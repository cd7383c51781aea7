//! A pool: the balance of one payer at one provider. An allowance that is renewed each period, plus purchased tokens that never renew or vanish.

use crate::{
    amount::Tokens,
    ids::{Payer, Provider},
    threshold::{self, Threshold},
    time::Period,
};
use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PoolKey {
    pub payer: Payer,
    pub provider: Provider,
}

/// What was granted and where it went. `remaining` is derived, so it cannot disagree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Balance {
    pub granted: Tokens,
    pub settled: Tokens,
    pub held: Tokens,
}

impl Balance {
    pub fn remaining(&self) -> Tokens {
        self.granted.saturating_sub(self.settled).saturating_sub(self.held)
    }

    /// `granted − settled − held` may not be negative.
    pub fn is_consistent(&self) -> bool {
        i128::from(self.granted.get()) >= i128::from(self.settled.get()) + i128::from(self.held.get())
    }
}

/// The allowance of one calendar period. A new period is a new one of these; an old one is never zeroed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PoolPeriod {
    pub starts_at: DateTime<Utc>,
    /// Exclusive; `None` for a pool whose period is `NONE`.
    pub ends_at: Option<DateTime<Utc>>,
    pub balance: Balance,
}

impl PoolPeriod {
    pub fn contains(&self, at: DateTime<Utc>) -> bool {
        self.starts_at <= at && self.ends_at.is_none_or(|end| at < end)
    }
}

/// The terms on which the allowance is renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AllowanceTerms {
    pub allowance: Tokens,
    pub period: Period,
    pub time_zone: Tz,
}

impl Default for AllowanceTerms {
    fn default() -> Self {
        Self { allowance: Tokens::ZERO, period: Period::None, time_zone: Tz::UTC }
    }
}

/// The thresholds of a pool, on what was spent since its latest credit of what there was then: the allowance of the running period
/// and the purchased tokens that were left. A credit is a grant, a new period or a changed allowance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Marks {
    pub thresholds: BTreeSet<Threshold>,
    /// Told, and not below since.
    pub reached: BTreeSet<Threshold>,
    /// Purchased tokens that were spent before the latest credit.
    pub spent_before: Tokens,
}

impl Marks {
    pub fn is_empty(&self) -> bool {
        self.thresholds.is_empty()
    }
}

/// The stored state of a pool: its terms, the purchased balance, the debt, and its latest period.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pool {
    pub key: PoolKey,
    pub terms: AllowanceTerms,
    pub purchased: Balance,
    /// Booked beyond every balance. Each credit pays it first; while it stands, nothing may be held or consumed.
    pub debt: Tokens,
    /// The latest period that was opened; it may be over.
    pub current: Option<PoolPeriod>,
    pub marks: Marks,
    pub updated_at: DateTime<Utc>,
}

impl Pool {
    pub fn new(key: PoolKey, now: DateTime<Utc>) -> Self {
        Self {
            key,
            terms: AllowanceTerms::default(),
            purchased: Balance::default(),
            debt: Tokens::ZERO,
            current: None,
            marks: Marks::default(),
            updated_at: now,
        }
    }

    /// Both remainders together; what a consume may take when there is no debt.
    pub fn remaining(&self) -> Tokens {
        let allowance = self.current.map_or(Tokens::ZERO, |period| period.balance.remaining());
        allowance.checked_add(self.purchased.remaining()).unwrap_or(Tokens::MAX)
    }

    /// The allowance granted in this period plus everything ever purchased.
    pub fn total(&self) -> Tokens {
        let granted = self.current.map_or(Tokens::ZERO, |period| period.balance.granted);
        granted.checked_add(self.purchased.granted).unwrap_or(Tokens::MAX)
    }

    pub fn held(&self) -> Tokens {
        let held = self.current.map_or(Tokens::ZERO, |period| period.balance.held);
        held.checked_add(self.purchased.held).unwrap_or(Tokens::MAX)
    }

    /// What was spent since the latest credit, debt included, and of how much. An allowance that was taken away counts no more.
    pub fn spent_of(&self) -> (i128, Tokens) {
        let current = self.current.filter(|_| !self.terms.allowance.is_zero());
        let allowance = current.map(|period| period.balance).unwrap_or_default();
        let purchased = self.purchased.settled.saturating_sub(self.marks.spent_before);
        let spent = [allowance.settled, purchased, self.debt].into_iter().map(|amount| i128::from(amount.get())).sum();
        let bought = self.purchased.granted.saturating_sub(self.marks.spent_before);
        (spent, allowance.granted.checked_add(bought).unwrap_or(Tokens::MAX))
    }

    /// The thresholds that are reached and that nobody was told about yet, lowest first.
    pub fn newly_reached(&self) -> Vec<Threshold> {
        let (spent, whole) = self.spent_of();
        threshold::reached(self.marks.thresholds.difference(&self.marks.reached), spent, Some(whole))
    }

    /// After a credit: counting starts anew, and what is not reached by it any more will be told again.
    pub fn rearm(&mut self) {
        if self.marks.is_empty() {
            self.marks = Marks::default();
            return;
        }
        self.marks.spent_before = self.purchased.settled;
        self.recount();
    }

    /// After a refund: counting goes on, and what is not reached by it any more will be told again.
    pub fn recount(&mut self) {
        self.marks.spent_before = self.marks.spent_before.min(self.purchased.settled);
        let (spent, whole) = self.spent_of();
        let still = threshold::reached(self.marks.reached.intersection(&self.marks.thresholds), spent, Some(whole));
        self.marks.reached = still.into_iter().collect();
    }

    pub fn resets_at(&self) -> Option<DateTime<Utc>> {
        self.current.and_then(|period| period.ends_at)
    }
}
