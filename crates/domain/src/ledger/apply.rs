//! From an event to the new state. Total: an event that was decided is always applied, so a fold of the outbox never fails.

use super::{
    LedgerState, budget_events,
    pools::{THRESHOLDS, period_of},
    purchases, refunds,
};
use crate::{
    amount::Tokens,
    budget::{Budget, Spent},
    charge::{Charge, ChargeSpec, ChargeStatus, Sources},
    defect::{Defect, is_back},
    event::{EventType, NewEvent},
    ids::ChargeId,
    pool::{Balance, Pool, PoolKey, PoolPeriod},
    saga::{self, Saga, SagaStatus},
    threshold::Threshold,
};
use chrono::{DateTime, Utc};

impl LedgerState {
    /// Applies one event; the caller gives events of a shard in the order of their numbers.
    pub fn apply(&mut self, event: &NewEvent) {
        match event.kind {
            EventType::BudgetSet => return self.apply_budget_set(event),
            EventType::ThresholdReached => return self.apply_threshold_reached(event),
            _ => {}
        }
        let Some(provider) = event.provider.clone() else { return };
        let key = PoolKey { payer: event.payer, provider };
        match event.kind {
            EventType::ChargeHeld => self.apply_held(key, event),
            EventType::ChargeSettled => self.apply_settled(key, event),
            EventType::ChargeReleased => self.apply_hold_ended(key, event, ChargeStatus::Released),
            EventType::ChargeExpired => self.apply_hold_ended(key, event, ChargeStatus::Expired),
            EventType::PoolGranted => self.apply_granted(key, event),
            EventType::PoolPeriodStarted => self.apply_period(key, event),
            EventType::ChargeRefunded => self.apply_refunded(key, event),
            EventType::RefundCompleted => self.apply_refund_completed(event),
            EventType::PurchaseMoved => self.apply_purchase_moved(key, event),
            EventType::RequestsRefused | EventType::BudgetSet | EventType::ThresholdReached => {}
        }
    }

    fn apply_held(&mut self, key: PoolKey, event: &NewEvent) {
        let Some(mut charge) = new_charge(event) else { return };
        charge.period_start = self.period_at(&key, event.occurred_at);
        if let Some(starts_at) = charge.period_start {
            self.change_period(&key, starts_at, |balance| {
                charge.from_allowance = event.tokens.min(balance.remaining());
                balance.held = plus(balance.held, charge.from_allowance);
            });
        }
        let pool = self.pool(&key, event.occurred_at);
        charge.from_purchased = event.tokens.saturating_sub(charge.from_allowance);
        pool.purchased.held = plus(pool.purchased.held, charge.from_purchased);
        charge.held = event.tokens;
        charge.cost = event.cost;
        self.put_new(charge);
    }

    fn apply_settled(&mut self, key: PoolKey, event: &NewEvent) {
        let Some(id) = event.charge_id else { return };
        let known = self.charges.get(&id).cloned();
        let is_new = known.is_none();
        let Some(mut charge) = known.or_else(|| new_charge(event)) else { return };
        charge.late = charge.status == ChargeStatus::Expired;
        if charge.status == ChargeStatus::Held && !is_new && !is_back(Defect::HoldNotReturned) {
            self.return_hold(&key, &charge, event.occurred_at);
        } else {
            (charge.from_allowance, charge.from_purchased, charge.period_start) = (Tokens::ZERO, Tokens::ZERO, None);
        }
        self.book(&key, &mut charge, event);
        charge.status = ChargeStatus::Settled;
        charge.settled = event.tokens;
        charge.cost = event.cost;
        charge.settled_at = Some(event.occurred_at);
        if is_new {
            charge.held = event.tokens;
            self.put_new(charge);
        } else {
            self.put(charge);
        }
    }

    /// Takes the settled amount: first where it was held, else from the allowance of the event's time, then from what was purchased;
    /// the rest is debt.
    fn book(&mut self, key: &PoolKey, charge: &mut Charge, event: &NewEvent) {
        let mut rest = event.tokens;
        let mut from_allowance = Tokens::ZERO;
        let of_event = self.period_at(key, event.occurred_at);
        let held_in = charge.period_start.or(of_event);
        if let Some(starts_at) = held_in {
            // A charge belongs to one period: another than the event's gives only what was held in it.
            let limit = if Some(starts_at) == of_event { rest } else { rest.min(charge.from_allowance) };
            self.change_period(key, starts_at, |balance| {
                from_allowance = limit.min(balance.remaining());
                balance.settled = plus(balance.settled, from_allowance);
            });
            rest = rest.saturating_sub(from_allowance);
        }
        let pool = self.pool(key, event.occurred_at);
        let from_purchased = rest.min(pool.purchased.remaining());
        pool.purchased.settled = plus(pool.purchased.settled, from_purchased);
        rest = rest.saturating_sub(from_purchased);
        if !is_back(Defect::DebtForgotten) {
            pool.debt = plus(pool.debt, rest);
        }
        charge.debt = rest;
        (charge.from_allowance, charge.from_purchased) = (from_allowance, from_purchased);
        charge.period_start = held_in.filter(|_| !from_allowance.is_zero());
        pay_debt(pool);
    }

    fn apply_hold_ended(&mut self, key: PoolKey, event: &NewEvent, status: ChargeStatus) {
        let Some(mut charge) = event.charge_id.and_then(|id| self.charges.get(&id).cloned()) else { return };
        self.return_hold(&key, &charge, event.occurred_at);
        charge.status = status;
        charge.cost = None;
        pay_debt(self.pool(&key, event.occurred_at));
        self.put(charge);
    }

    /// Gives back what was refunded. Of a debt that a credit has paid meanwhile nobody knows with what: that comes back as purchased tokens.
    fn apply_refunded(&mut self, key: PoolKey, event: &NewEvent) {
        let Some(before) = event.charge_id.and_then(|id| self.charges.get(&id)) else { return };
        let mut charge = before.clone();
        charge.refunded = plus(charge.refunded, event.tokens);
        if charge.refunded >= charge.settled {
            charge.status = ChargeStatus::Refunded;
        }
        let back = match is_back(Defect::RefundNotReturned) {
            true => Sources::default(),
            false => charge.returned().beyond(before.returned()),
        };
        if let Some(starts_at) = charge.period_start {
            self.change_period(&key, starts_at, |balance| balance.settled = balance.settled.saturating_sub(back.allowance));
        }
        let pool = self.pool(&key, event.occurred_at);
        pool.purchased.settled = pool.purchased.settled.saturating_sub(back.purchased);
        let owed = back.debt.min(pool.debt);
        pool.debt = pool.debt.saturating_sub(owed);
        pool.purchased.granted = plus(pool.purchased.granted, back.debt.saturating_sub(owed));
        pay_debt(pool);
        pool.recount();
        self.put(charge);
        self.put_saga(refunds::begun(event));
    }

    fn apply_refund_completed(&mut self, event: &NewEvent) {
        let known = saga::of_event(event).and_then(|id| self.sagas.get(&id).cloned());
        self.put_saga(known.map(|saga| refunds::completed(saga, event)));
    }

    fn apply_purchase_moved(&mut self, key: PoolKey, event: &NewEvent) {
        let Some(to) = purchases::status_of(event) else { return };
        let known = saga::of_event(event).and_then(|id| self.sagas.get(&id).cloned());
        match to {
            _ if event.tokens.is_zero() => {}
            SagaStatus::TokensAllocated => self.apply_granted(key, event),
            SagaStatus::TokensTakenBack => take_back(self.pool(&key, event.occurred_at), event.tokens),
            _ => {}
        }
        self.put_saga(purchases::moved(known, event, to));
    }

    fn apply_granted(&mut self, key: PoolKey, event: &NewEvent) {
        let pool = self.pool(&key, event.occurred_at);
        pool.purchased.granted = plus(pool.purchased.granted, event.tokens);
        credited(pool);
    }

    fn apply_period(&mut self, key: PoolKey, event: &NewEvent) {
        let Some((terms, starts_at, ends_at)) = period_of(event) else { return };
        let pool = self.pool(&key, event.occurred_at);
        pool.terms = terms;
        match pool.current {
            Some(period) if period.starts_at == starts_at => {
                // What was used in the running period stays used: the grant never falls below it.
                let used = plus(period.balance.settled, period.balance.held);
                let balance = Balance { granted: event.tokens.max(used), ..period.balance };
                pool.current = Some(PoolPeriod { starts_at, ends_at, balance });
            }
            previous => {
                pool.current = Some(PoolPeriod { starts_at, ends_at, balance: Balance { granted: event.tokens, ..Balance::default() } });
                if let Some(mut previous) = previous {
                    previous.ends_at = Some(previous.ends_at.map_or(starts_at, |end| end.min(starts_at)));
                    let period = (key.clone(), previous.starts_at);
                    self.changed.past_periods.insert(period.clone());
                    self.past_periods.insert(period, previous);
                }
            }
        }
        let pool = self.pool(&key, event.occurred_at);
        if let Some(thresholds) = event.metadata.get(THRESHOLDS).and_then(|list| Threshold::parse_list(list)) {
            pool.marks.thresholds = thresholds;
        }
        credited(pool);
    }

    fn apply_budget_set(&mut self, event: &NewEvent) {
        let Some(key) = budget_events::key_of(event) else { return };
        let Some(terms) = budget_events::terms_of(event) else { return };
        let budget = match self.budgets.get(&key) {
            // What was spent in the running period stays spent, and it keeps its end.
            Some(known) => Budget { terms, ..known.clone() },
            None => Budget::new(key, terms, event.occurred_at),
        };
        self.put_budget(budget);
    }

    fn apply_threshold_reached(&mut self, event: &NewEvent) {
        let Some(threshold) = budget_events::threshold_of(event) else { return };
        match (budget_events::key_of(event), &event.provider) {
            (Some(key), _) => {
                let Some(mut budget) = self.budgets.get(&key).cloned() else { return };
                budget.current.reached.insert(threshold);
                self.put_budget(budget);
            }
            (None, Some(provider)) => {
                let key = PoolKey { payer: event.payer, provider: provider.clone() };
                self.pool(&key, event.occurred_at).marks.reached.insert(threshold);
            }
            (None, None) => {}
        }
    }

    /// What the charge spends now instead of what it spent before, in the period in which it was made.
    fn count_in_budgets(&mut self, charge: &Charge) {
        let before = self.charges.get(&charge.spec.id);
        let counted = |budget: &Budget| {
            let budget = if before.is_none() { budget.as_of(charge.created_at) } else { budget.clone() };
            if !budget.counts(charge.created_at) {
                return None;
            }
            let spent = before.map(|before| Spent::of(before, budget.key.unit)).unwrap_or_default();
            let current = budget.after(spent, Spent::of(charge, budget.key.unit))?;
            Some(Budget { current, ..budget })
        };
        let changed: Vec<Budget> = self.covering(&charge.spec).filter_map(counted).collect();
        changed.into_iter().for_each(|budget| self.put_budget(budget));
    }

    fn put_budget(&mut self, budget: Budget) {
        self.changed.budgets.insert(budget.key.clone());
        self.budgets.insert(budget.key.clone(), budget);
    }

    fn put_saga(&mut self, saga: Option<Saga>) {
        let Some(saga) = saga else { return };
        self.changed.sagas.insert(saga.id);
        self.sagas.insert(saga.id, saga);
    }

    fn return_hold(&mut self, key: &PoolKey, charge: &Charge, now: DateTime<Utc>) {
        let pool = self.pool(key, now);
        pool.purchased.held = pool.purchased.held.saturating_sub(charge.from_purchased);
        if let Some(starts_at) = charge.period_start {
            self.change_period(key, starts_at, |balance| balance.held = balance.held.saturating_sub(charge.from_allowance));
        }
    }

    fn change_period(&mut self, key: &PoolKey, starts_at: DateTime<Utc>, change: impl FnOnce(&mut Balance)) {
        let current = self.pools.get_mut(key).and_then(|pool| pool.current.as_mut()).filter(|period| period.starts_at == starts_at);
        if let Some(period) = current {
            change(&mut period.balance);
            return;
        }
        let period_key = (key.clone(), starts_at);
        if let Some(period) = self.past_periods.get_mut(&period_key) {
            change(&mut period.balance);
            self.changed.past_periods.insert(period_key);
        }
    }

    fn pool(&mut self, key: &PoolKey, now: DateTime<Utc>) -> &mut Pool {
        if !self.changed.pools.contains(key) {
            self.changed.pools.insert(key.clone());
        }
        let pool = self.pools.entry(key.clone()).or_insert_with(|| Pool::new(key.clone(), now));
        // Usage may be told late.
        pool.updated_at = pool.updated_at.max(now);
        pool
    }

    fn put_new(&mut self, charge: Charge) {
        self.changed.new_charges.insert(charge.spec.id);
        self.put(charge);
    }

    fn put(&mut self, charge: Charge) {
        self.count_in_budgets(&charge);
        self.changed.charges.insert(charge.spec.id);
        self.charges.insert(charge.spec.id, charge);
    }
}

fn plus(left: Tokens, right: Tokens) -> Tokens {
    left.checked_add(right).unwrap_or(Tokens::MAX)
}

/// Every credit pays what is owed before it can be spent.
fn pay_debt(pool: &mut Pool) {
    if let Some(period) = pool.current.as_mut() {
        pay_from(&mut period.balance, &mut pool.debt);
    }
    pay_from(&mut pool.purchased, &mut pool.debt);
}

fn credited(pool: &mut Pool) {
    pay_debt(pool);
    pool.rearm();
}

/// What was spent of it already is owed.
fn take_back(pool: &mut Pool, tokens: Tokens) {
    let there = tokens.min(pool.purchased.remaining());
    pool.purchased.granted = pool.purchased.granted.saturating_sub(there);
    pool.debt = plus(pool.debt, tokens.saturating_sub(there));
    pay_debt(pool);
    pool.recount();
}

fn pay_from(balance: &mut Balance, debt: &mut Tokens) {
    let paid = balance.remaining().min(*debt);
    balance.settled = plus(balance.settled, paid);
    *debt = debt.saturating_sub(paid);
}

fn new_charge(event: &NewEvent) -> Option<Charge> {
    let id: ChargeId = event.charge_id?;
    Some(Charge {
        spec: ChargeSpec {
            id,
            payer: event.payer,
            user_id: event.user_id?,
            key_id: event.key_id,
            provider: event.provider.clone()?,
            model: event.model.clone(),
            metadata: event.metadata.clone(),
        },
        status: ChargeStatus::Held,
        held: Tokens::ZERO,
        settled: Tokens::ZERO,
        refunded: Tokens::ZERO,
        debt: Tokens::ZERO,
        from_allowance: Tokens::ZERO,
        from_purchased: Tokens::ZERO,
        period_start: None,
        cost: None,
        late: false,
        created_at: event.occurred_at,
        settled_at: None,
        expires_at: None,
        seq: 0,
    })
}
