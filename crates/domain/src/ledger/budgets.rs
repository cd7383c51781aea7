//! The part of a decision that is about budgets: who may spend.

use super::{
    LedgerState, budget_events,
    outcome::{BudgetExhausted, Decision, Outcome},
};
use crate::{
    amount::Tokens,
    budget::{Budget, BudgetKey, BudgetTerms, Spent},
    charge::{Charge, ChargeSpec},
    money::Cost,
};
use chrono::{DateTime, Utc};

/// What is spent, in both units.
#[derive(Clone, Copy)]
pub(super) struct Amount {
    pub tokens: Tokens,
    pub cost: Option<Cost>,
}

/// A spend is refused by the first budget without room; of several the one with the least left is named.
pub(super) fn refused_by_budgets(state: &LedgerState, spec: &ChargeSpec, amount: Amount, now: DateTime<Utc>) -> Option<Outcome> {
    let budgets = state.covering(spec).map(|budget| budget.as_of(now)).filter(|budget| budget.counts(now));
    let mut tightest: Option<BudgetExhausted> = None;
    for budget in budgets {
        let requested = budget.key.unit.amount(amount.tokens, amount.cost);
        if budget.after(Spent::default(), Spent { used: requested, held: Tokens::ZERO }).is_none() {
            return Some(Outcome::BalanceOverflow);
        }
        let (Some(limit), Some(remaining)) = (budget.terms.limit, budget.remaining()) else { continue };
        if requested > remaining && tightest.as_ref().is_none_or(|other| remaining < other.remaining) {
            let resets_at = budget.current.ends_at;
            tightest =
                Some(BudgetExhausted { budget: budget.key, provider: spec.provider.clone(), limit, requested, remaining, resets_at });
        }
    }
    tightest.map(|budget| Outcome::BudgetExhausted(Box::new(budget)))
}

pub(super) fn overflows_budgets(state: &LedgerState, charge: &Charge, amount: Amount) -> bool {
    state.covering(&charge.spec).filter(|budget| budget.counts(charge.created_at)).any(|budget| {
        let used = budget.key.unit.amount(amount.tokens, amount.cost);
        budget.after(Spent::of(charge, budget.key.unit), Spent { used, held: Tokens::ZERO }).is_none()
    })
}

pub(super) fn set_budget(state: &mut LedgerState, key: &BudgetKey, terms: &BudgetTerms, now: DateTime<Utc>) -> Decision {
    let created = !state.budgets.contains_key(key);
    let event = budget_events::budget_set(key, terms, now);
    state.apply(&event);
    let budget = state.budgets.get(key).cloned().unwrap_or_else(|| Budget::new(key.clone(), terms.clone(), now));
    Decision { outcome: Outcome::BudgetSet { budget: Box::new(budget), created, at: now }, events: vec![event] }
}

/// As [`overflows_budgets`], of a charge that is about to be made.
pub(super) fn new_overflows_budgets(state: &LedgerState, spec: &ChargeSpec, amount: Amount, at: DateTime<Utc>) -> bool {
    state.covering(spec).map(|budget| budget.as_of(at)).filter(|budget| budget.counts(at)).any(|budget| {
        let used = budget.key.unit.amount(amount.tokens, amount.cost);
        budget.after(Spent::default(), Spent { used, held: Tokens::ZERO }).is_none()
    })
}
