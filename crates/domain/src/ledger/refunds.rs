//! Refunds: what a settled charge gives back, never more than it settled, and when the totals have counted it.

use super::{
    LedgerState,
    command::pool_of,
    events::{charge_event, pool_event},
    outcome::{Decision, Outcome, refused, saga_moved},
    pools::{overflows, period_due},
};
use crate::{
    amount::Tokens,
    charge::{Charge, ChargeStatus, Metadata},
    defect::{Defect, is_back},
    event::{EventType, NewEvent},
    ids::{ChargeId, SagaId},
    money::Cost,
    saga::{self, AT, SAGA_ID, Saga, SagaStatus, SagaSubject},
};
use chrono::{DateTime, SecondsFormat, Utc};

pub(super) struct Wanted<'a> {
    pub saga_id: SagaId,
    pub charge_id: ChargeId,
    /// `None`: all that is left.
    pub tokens: Option<Tokens>,
    pub reason: Option<&'a str>,
}

pub(super) fn refund(state: &mut LedgerState, wanted: &Wanted<'_>, now: DateTime<Utc>, cap: Option<Tokens>) -> Decision {
    if state.sagas.contains_key(&wanted.saga_id) && !is_back(Defect::RefundedTwice) {
        return saga_moved(state, wanted.saga_id, Vec::new());
    }
    let Some(charge) = state.charges.get(&wanted.charge_id) else { return refused(Outcome::ChargeNotFound) };
    let Some(settled_at) = charge.settled_at.filter(|_| charge.status == ChargeStatus::Settled) else {
        return refused(Outcome::InvalidTransition { status: charge.status });
    };
    let rest = charge.net();
    let tokens = wanted.tokens.unwrap_or(rest);
    if (tokens > rest && !is_back(Defect::RefundAboveRest)) || tokens.is_zero() {
        return refused(Outcome::AmountExceedsRest { rest });
    }
    let after = Charge { refunded: charge.refunded.checked_add(tokens).unwrap_or(charge.settled), ..charge.clone() };
    let pool = state.pools.get(&pool_of(&charge.spec));
    // Of a debt that was paid meanwhile all may be granted anew.
    if pool.is_some_and(|pool| overflows(pool, after.returned().debt)) {
        return refused(Outcome::BalanceOverflow);
    }
    let event = NewEvent {
        cost: cost_between(charge, &after),
        reason: wanted.reason.map(str::to_owned),
        metadata: step_metadata(wanted.saga_id, now),
        // Where it was counted it is taken away again.
        ..charge_event(&charge.spec, EventType::ChargeRefunded, tokens, settled_at)
    };
    let mut events: Vec<NewEvent> = pool.and_then(|pool| period_due(pool, now, cap)).into_iter().collect();
    events.push(event);
    events.iter().for_each(|event| state.apply(event));
    saga_moved(state, wanted.saga_id, events)
}

/// The totals have counted the refund.
pub(super) fn complete_refund(state: &mut LedgerState, id: SagaId, now: DateTime<Utc>) -> Decision {
    let Some(saga) = state.sagas.get(&id) else { return refused(Outcome::SagaNotFound) };
    if saga.status() != SagaStatus::BalanceRestored {
        return saga_moved(state, id, Vec::new());
    }
    let pool = saga.pool();
    let event =
        NewEvent { user_id: saga.user_id, ..pool_event(&pool, EventType::RefundCompleted, saga.tokens, step_metadata(id, now), now) };
    state.apply(&event);
    saga_moved(state, id, vec![event])
}

/// The saga that a refund begins: requested and decided in one transaction.
pub(super) fn begun(event: &NewEvent) -> Option<Saga> {
    let mut saga = Saga {
        id: saga::of_event(event)?,
        payer: event.payer,
        user_id: event.user_id,
        provider: event.provider.clone()?,
        subject: SagaSubject::Refund { charge_id: event.charge_id? },
        tokens: event.tokens,
        reason: event.reason.clone(),
        steps: Vec::new(),
        seq: 0,
    };
    saga.reach([SagaStatus::Requested, SagaStatus::BalanceRestored], taken_at(event));
    Some(saga)
}

pub(super) fn completed(mut saga: Saga, event: &NewEvent) -> Saga {
    saga.reach([SagaStatus::AggregatesCorrected, SagaStatus::Completed], taken_at(event));
    saga
}

/// When the saga took the step.
pub(super) fn taken_at(event: &NewEvent) -> DateTime<Utc> {
    let at = event.metadata.get(AT).and_then(|text| DateTime::parse_from_rfc3339(text).ok());
    at.map_or(event.occurred_at, |at| at.with_timezone(&Utc))
}

fn cost_between(before: &Charge, after: &Charge) -> Option<Cost> {
    let (before, after) = (before.net_cost()?, after.net_cost()?);
    Some(Cost { minor_units: before.minor_units.saturating_sub(after.minor_units), ..before })
}

pub(super) fn step_metadata(id: SagaId, now: DateTime<Utc>) -> Metadata {
    let at = now.to_rfc3339_opts(SecondsFormat::Millis, true);
    Metadata::from([(SAGA_ID.to_owned(), id.to_string()), (AT.to_owned(), at)])
}
