//! The part of a decision that is about a charge: what it may take from its pool, and how it ends.

use super::{
    LedgerState,
    budgets::{Amount, new_overflows_budgets, overflows_budgets, refused_by_budgets},
    command::pool_of,
    events::charge_event,
    outcome::{Decision, Outcome, PoolView, QuotaExhausted, already, charged, refused},
    pools::{period_due, pool_view, view_at},
    thresholds::reach_thresholds,
};
use crate::{
    amount::Tokens,
    charge::{ChargeSpec, ChargeStatus},
    defect::{Defect, is_back},
    event::{EventType, NewEvent},
    ids::ChargeId,
};
use chrono::{DateTime, Utc};

pub(super) fn reserve(
    state: &mut LedgerState,
    spec: &ChargeSpec,
    amount: Amount,
    expires_at: Option<DateTime<Utc>>,
    now: DateTime<Utc>,
    cap: Option<Tokens>,
) -> Decision {
    let tokens = amount.tokens;
    let key = pool_of(spec);
    if let Some(charge) = state.charges.get(&spec.id) {
        return already(state, charge.clone(), now);
    }
    let exhausted = |view: PoolView| {
        refused(Outcome::QuotaExhausted(QuotaExhausted {
            payer: key.payer,
            provider: key.provider.clone(),
            requested: tokens,
            remaining: view.remaining,
            debt: view.debt,
            resets_at: view.resets_at,
        }))
    };
    let Some(pool) = state.pools.get(&key) else {
        return exhausted(PoolView { total: Tokens::ZERO, remaining: Tokens::ZERO, debt: Tokens::ZERO, resets_at: None });
    };
    let period = period_due(pool, now, cap);
    let view = if period.is_some() { PoolView::of(&pool_view(pool, now, cap)) } else { view_at(state, pool, now) };
    if (!view.debt.is_zero() || tokens > view.remaining) && !is_back(Defect::Overspend) {
        return exhausted(view);
    }
    if let Some(refusal) = refused_by_budgets(state, spec, amount, now) {
        return refused(refusal);
    }
    let kind = if expires_at.is_some() { EventType::ChargeHeld } else { EventType::ChargeSettled };
    let mut events: Vec<NewEvent> = period.into_iter().collect();
    events.push(NewEvent { cost: amount.cost, ..charge_event(spec, kind, tokens, now) });
    events.iter().for_each(|event| state.apply(event));
    if let Some(charge) = state.charges.get_mut(&spec.id) {
        charge.expires_at = expires_at;
    }
    events.extend(reach_thresholds(state, spec, now));
    charged(state, spec.id, events, now)
}

pub(super) fn settle(state: &mut LedgerState, id: ChargeId, amount: Amount, now: DateTime<Utc>, cap: Option<Tokens>) -> Decision {
    let tokens = amount.tokens;
    let Some(charge) = state.charges.get(&id).cloned() else { return refused(Outcome::ChargeNotFound) };
    match charge.status {
        ChargeStatus::Expired if is_back(Defect::LateSettleLost) => already(state, charge, now),
        status if matches!(status, ChargeStatus::Held | ChargeStatus::Expired) || is_back(Defect::SettledTwice) => {
            let pool = state.pools.get(&pool_of(&charge.spec));
            // All of it may become debt.
            if pool.is_some_and(|pool| pool.debt.checked_add(tokens).is_none()) || overflows_budgets(state, &charge, amount) {
                return refused(Outcome::BalanceOverflow);
            }
            // What exceeds the hold is taken at the terms of today.
            let period = pool.filter(|_| tokens > charge.held || charge.status == ChargeStatus::Expired);
            let mut events: Vec<NewEvent> = period.and_then(|pool| period_due(pool, now, cap)).into_iter().collect();
            events.push(NewEvent { cost: amount.cost, ..charge_event(&charge.spec, EventType::ChargeSettled, tokens, now) });
            events.iter().for_each(|event| state.apply(event));
            events.extend(reach_thresholds(state, &charge.spec, now));
            charged(state, id, events, now)
        }
        ChargeStatus::Settled | ChargeStatus::Refunded if charge.settled == tokens => already(state, charge, now),
        status => refused(Outcome::InvalidTransition { status }),
    }
}

pub(super) fn record(
    state: &mut LedgerState,
    spec: &ChargeSpec,
    amount: Amount,
    occurred_at: Option<DateTime<Utc>>,
    now: DateTime<Utc>,
    cap: Option<Tokens>,
) -> Decision {
    if let Some(known) = state.charges.get(&spec.id) {
        // By whichever key it was sent: that says nothing about the usage.
        let same_spec = ChargeSpec { key_id: spec.key_id, ..known.spec.clone() } == *spec;
        let same = same_spec && known.settled == amount.tokens && occurred_at.is_none_or(|at| at == known.created_at);
        return refused(match same {
            true => Outcome::AlreadyRecorded { charge: Box::new(known.clone()) },
            false => Outcome::RecordedDifferently { charge_id: spec.id },
        });
    }
    let at = occurred_at.unwrap_or(now);
    let pool = state.pools.get(&pool_of(spec));
    // All of it may become debt.
    if pool.is_some_and(|pool| pool.debt.checked_add(amount.tokens).is_none()) || new_overflows_budgets(state, spec, amount, at) {
        return refused(Outcome::BalanceOverflow);
    }
    let mut events: Vec<NewEvent> = pool.and_then(|pool| period_due(pool, now, cap)).into_iter().collect();
    events.push(NewEvent { cost: amount.cost, ..charge_event(spec, EventType::ChargeSettled, amount.tokens, at) });
    events.iter().for_each(|event| state.apply(event));
    events.extend(reach_thresholds(state, spec, now));
    charged(state, spec.id, events, now)
}

pub(super) fn end_hold(state: &mut LedgerState, id: ChargeId, kind: EventType, now: DateTime<Utc>) -> Decision {
    let Some(charge) = state.charges.get(&id).cloned() else { return refused(Outcome::ChargeNotFound) };
    let not_due = kind == EventType::ChargeExpired && charge.expires_at.is_some_and(|deadline| deadline > now);
    match charge.status {
        ChargeStatus::Held if not_due => already(state, charge, now),
        status if status == ChargeStatus::Held || ends_wrongly(status, kind) => {
            let event = charge_event(&charge.spec, kind, charge.held, now);
            state.apply(&event);
            charged(state, id, vec![event], now)
        }
        ChargeStatus::Released | ChargeStatus::Expired => already(state, charge, now),
        ChargeStatus::Settled | ChargeStatus::Refunded if kind == EventType::ChargeExpired => already(state, charge, now),
        status => refused(Outcome::InvalidTransition { status }),
    }
}

fn ends_wrongly(status: ChargeStatus, kind: EventType) -> bool {
    match status {
        ChargeStatus::Released => is_back(Defect::ReleasedTwice),
        ChargeStatus::Settled => kind == EventType::ChargeExpired && is_back(Defect::ExpiresSettled),
        _ => false,
    }
}
