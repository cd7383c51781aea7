//! The rules of the ledger: a command is decided against the state, the decision is events, and only events change the state.
//! Both ledger adapters load the rows a batch touches, call [`decide`] for each request in arrival order and write what changed;
//! the audit folds the stored events with the same [`LedgerState::apply`].

mod apply;
mod budget_events;
mod budgets;
mod charges;
mod command;
mod decide;
mod events;
mod outcome;
mod pools;
mod purchases;
mod refunds;
#[cfg(test)]
mod tests;
mod thresholds;

pub use command::{AllowanceChange, Command, Direction, Purchase, Refusals, Request};
pub use decide::{decide, preview};
pub use outcome::{BudgetExhausted, Decision, Outcome, PoolView, QuotaExhausted};
pub use pools::pool_view;
pub use purchases::granted_by;

use crate::{
    budget::{Budget, BudgetKey, BudgetUnit},
    charge::{Charge, ChargeSpec, ChargeStatus},
    event::{NewEvent, UsageEvent},
    ids::{ChargeId, Payer, SagaId, UserId},
    pool::{Pool, PoolKey, PoolPeriod},
    saga::{self, Saga},
    time::Period,
};
use chrono::{DateTime, Utc};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// Address of a pool's period.
pub type PeriodKey = (PoolKey, DateTime<Utc>);

/// The rows that a batch of requests touches, and which of them it changed.
#[derive(Clone, Debug, Default)]
pub struct LedgerState {
    pub pools: HashMap<PoolKey, Pool>,
    /// Periods that are not the current one of their pool but in which some charge was held.
    pub past_periods: BTreeMap<PeriodKey, PoolPeriod>,
    pub charges: HashMap<ChargeId, Charge>,
    /// Those that cover what the batch spends.
    pub budgets: BTreeMap<BudgetKey, Budget>,
    pub sagas: BTreeMap<SagaId, Saga>,
    /// The number of the last claim of each of them that was loaded: nobody with an older one may move it.
    pub claims: BTreeMap<SagaId, i64>,
    pub changed: Changed,
}

impl LedgerState {
    /// Start of the period that an event of this time counts in: the one that holds it, however many have begun since.
    /// What happened before the first period counts in that.
    pub fn period_at(&self, key: &PoolKey, at: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let current = self.pools.get(key)?.current?;
        if current.starts_at <= at {
            return current.contains(at).then_some(current.starts_at);
        }
        let earlier = self.past_periods.range(..=(key.clone(), at)).next_back();
        let past = earlier.filter(|((of, _), period)| of == key && period.contains(at));
        Some(past.map_or(current.starts_at, |(_, period)| period.starts_at))
    }

    /// Lets a charge know the number of its first event, and a saga that of its newest.
    pub fn number(&mut self, event: &NewEvent, seq: i64) {
        let charge = event.charge_id.and_then(|id| self.charges.get_mut(&id));
        if let Some(charge) = charge.filter(|charge| charge.seq == 0) {
            charge.seq = seq;
        }
        if let Some(saga) = saga::of_event(event).and_then(|id| self.sagas.get_mut(&id)) {
            saga.seq = seq;
        }
    }

    /// Events that were decided before and are applied anew. Holds among them get a deadline, which no event tells,
    /// and purchases are due.
    pub fn bring_back<'e>(&mut self, events: impl Iterator<Item = &'e UsageEvent>, holds_expire_at: DateTime<Utc>) {
        for event in events {
            self.apply(&event.event);
            self.number(&event.event, event.seq);
        }
        for id in &self.changed.new_charges {
            if let Some(charge) = self.charges.get_mut(id).filter(|charge| charge.status == ChargeStatus::Held) {
                charge.expires_at = Some(holds_expire_at);
            }
        }
        let waits = |id: &&SagaId| self.sagas.get(id).is_some_and(|saga| saga.task().is_some());
        self.changed.due_sagas.extend(self.changed.sagas.iter().filter(waits));
    }

    /// The budgets that cover a charge, those of everyone first.
    pub fn covering<'s>(&'s self, spec: &'s ChargeSpec) -> impl Iterator<Item = &'s Budget> {
        let owners = [None, Some(spec.user_id)];
        let of = move |member: Option<UserId>| {
            let first = BudgetKey { payer: spec.payer, member, provider: None, unit: BudgetUnit::Tokens, period: Period::Day };
            self.budgets.range(first..).take_while(move |(key, _)| key.payer == spec.payer && key.member == member)
        };
        let budgets = owners.into_iter().flat_map(of).map(|(_, budget)| budget);
        budgets.filter(|budget| budget.covers(spec))
    }

    /// Whose budgets the decisions of these requests need, of the charges loaded so far.
    pub fn budget_owners<'r>(&self, requests: impl Iterator<Item = &'r Request>) -> BTreeSet<(Payer, Option<UserId>)> {
        let mut owners = BTreeSet::new();
        for request in requests {
            let charge = request.command.charge().and_then(|id| self.charges.get(&id));
            match (&request.command, charge) {
                (Command::SetBudget { key, .. }, _) => drop(owners.insert((key.payer, key.member))),
                (Command::Consume { spec, .. } | Command::Hold { spec, .. } | Command::Record { spec, .. }, _)
                | (_, Some(Charge { spec, .. })) => {
                    owners.extend([None, Some(spec.user_id)].map(|member| (spec.payer, member)));
                }
                _ => {}
            }
        }
        owners
    }

    /// Moments whose periods the decisions of these requests need and that are not the current ones of the pools loaded so far.
    pub fn past_moments<'r>(&self, requests: impl Iterator<Item = &'r Request>) -> BTreeSet<PeriodKey> {
        let mut moments = BTreeSet::new();
        for request in requests {
            let charge = request.command.charge().and_then(|id| self.charges.get(&id));
            let of_charge = || charge.map(|charge| command::pool_of(&charge.spec));
            let Some(key) = request.command.pool().or_else(of_charge) else { continue };
            let current = self.pools.get(&key).and_then(|pool| pool.current).map(|period| period.starts_at);
            let held_in = charge.and_then(|charge| charge.period_start).filter(|starts_at| current != Some(*starts_at));
            let at = request.command.occurred_at().unwrap_or(request.now);
            let before = Some(at).filter(|at| current.is_some_and(|starts_at| *at < starts_at));
            moments.extend([held_in, before].into_iter().flatten().map(|at| (key.clone(), at)));
        }
        moments
    }
}

/// What the adapter has to write. A changed pool includes its current period.
#[derive(Clone, Debug, Default)]
pub struct Changed {
    pub pools: HashSet<PoolKey>,
    pub past_periods: HashSet<PeriodKey>,
    pub budgets: BTreeSet<BudgetKey>,
    pub sagas: BTreeSet<SagaId>,
    /// The sagas among `sagas` that wait for somebody to move them on, from now.
    pub due_sagas: BTreeSet<SagaId>,
    pub charges: HashSet<ChargeId>,
    /// The charges among `charges` that did not exist before.
    pub new_charges: HashSet<ChargeId>,
}
