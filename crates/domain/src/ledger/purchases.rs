//! Purchases: each step is written down once, by whoever has the latest claim, and with it what it changes in the pool.

use super::{
    LedgerState,
    command::{Direction, Purchase},
    events::pool_event,
    outcome::{Decision, Outcome, refused, saga_moved},
    pools::{overflows, period_due},
    refunds::{step_metadata, taken_at},
};
use crate::{
    amount::Tokens,
    defect::{Defect, is_back},
    event::{EventType, NewEvent},
    ids::SagaId,
    pool::PoolKey,
    saga::{self, PLAN_ID, STATUS, Saga, SagaStatus, SagaSubject},
};
use chrono::{DateTime, Utc};
use serde_json::{Value, from_value, to_value};

pub(super) fn start_purchase(state: &mut LedgerState, purchase: &Purchase, now: DateTime<Utc>) -> Decision {
    if state.sagas.contains_key(&purchase.saga_id) {
        return saga_moved(state, purchase.saga_id, Vec::new());
    }
    if state.pools.get(&purchase.pool).is_some_and(|pool| overflows(pool, purchase.tokens)) {
        return refused(Outcome::BalanceOverflow);
    }
    let mut event = step(purchase.saga_id, &purchase.pool, purchase.tokens, SagaStatus::Started, now);
    event.user_id = Some(purchase.user_id);
    event.cost = Some(purchase.price);
    event.metadata.extend(purchase.plan_id.clone().map(|id| (PLAN_ID.to_owned(), id)));
    state.apply(&event);
    state.changed.due_sagas.insert(purchase.saga_id);
    saga_moved(state, purchase.saga_id, vec![event])
}

pub(super) fn move_purchase(
    state: &mut LedgerState,
    id: SagaId,
    claim: i64,
    to: SagaStatus,
    reason: Option<&str>,
    (now, cap): (DateTime<Utc>, Option<Tokens>),
) -> Decision {
    let Some(saga) = state.sagas.get(&id).cloned() else { return refused(Outcome::SagaNotFound) };
    if state.claims.get(&id) != Some(&claim) {
        return refused(Outcome::SagaTaken);
    }
    if saga.has_reached(to) {
        return saga_moved(state, id, Vec::new());
    }
    let skips_the_tokens = to == SagaStatus::PaymentVoided && saga.has_reached(SagaStatus::TokensAllocated);
    let is_out_of_order = skips_the_tokens && !saga.has_reached(SagaStatus::TokensTakenBack);
    let takes_nothing = to == SagaStatus::TokensTakenBack && !saga.has_reached(SagaStatus::TokensAllocated);
    if !saga.status().may_become(to) || is_out_of_order || takes_nothing {
        return refused(Outcome::SagaElsewhere { status: saga.status() });
    }
    let key = saga.pool();
    let pool = state.pools.get(&key);
    if to == SagaStatus::TokensAllocated && pool.is_some_and(|pool| overflows(pool, saga.tokens)) {
        return refused(Outcome::BalanceOverflow);
    }
    let opens = pool.filter(|_| matches!(to, SagaStatus::TokensAllocated | SagaStatus::TokensTakenBack));
    let mut events: Vec<NewEvent> = opens.and_then(|pool| period_due(pool, now, cap)).into_iter().collect();
    events.push(NewEvent { user_id: saga.user_id, reason: reason.map(str::to_owned), ..step(id, &key, saga.tokens, to, now) });
    events.iter().for_each(|event| state.apply(event));
    saga_moved(state, id, events)
}

pub(super) fn direct_purchase(state: &mut LedgerState, id: SagaId, direction: Direction, reason: &str, now: DateTime<Utc>) -> Decision {
    let Some(saga) = state.sagas.get(&id).cloned() else { return refused(Outcome::SagaNotFound) };
    let to = match direction {
        Direction::Resume => saga.status(),
        Direction::Compensate => SagaStatus::Compensating,
    };
    let possible = match direction {
        Direction::Resume => saga.task().is_some(),
        Direction::Compensate => saga.status().may_become(to),
    };
    if !possible {
        return refused(Outcome::SagaElsewhere { status: saga.status() });
    }
    let key = saga.pool();
    // Said again of a step that gave or took tokens, it gives and takes none.
    let again = direction == Direction::Resume && !is_back(Defect::TokensGivenAgainByResuming);
    let tokens = if again { Tokens::ZERO } else { saga.tokens };
    let event = NewEvent { user_id: saga.user_id, reason: Some(reason.to_owned()), ..step(id, &key, tokens, to, now) };
    state.apply(&event);
    state.changed.due_sagas.insert(id);
    saga_moved(state, id, vec![event])
}

fn step(id: SagaId, pool: &PoolKey, tokens: Tokens, to: SagaStatus, now: DateTime<Utc>) -> NewEvent {
    let mut metadata = step_metadata(id, now);
    let status = to_value(to).ok().and_then(|status| status.as_str().map(str::to_owned));
    metadata.extend(status.map(|status| (STATUS.to_owned(), status)));
    pool_event(pool, EventType::PurchaseMoved, tokens, metadata, now)
}

/// What the event adds to the purchased tokens of its pool, less what it takes of them.
pub fn granted_by(event: &NewEvent) -> i128 {
    let tokens = i128::from(event.tokens.get());
    match (event.kind, status_of(event)) {
        (EventType::PoolGranted, _) | (EventType::PurchaseMoved, Some(SagaStatus::TokensAllocated)) => tokens,
        (EventType::PurchaseMoved, Some(SagaStatus::TokensTakenBack)) => -tokens,
        _ => 0,
    }
}

/// Where the event says that the purchase is now.
pub(super) fn status_of(event: &NewEvent) -> Option<SagaStatus> {
    from_value(Value::String(event.metadata.get(STATUS)?.clone())).ok()
}

pub(super) fn moved(known: Option<Saga>, event: &NewEvent, to: SagaStatus) -> Option<Saga> {
    let mut saga = match (known, to) {
        (Some(saga), _) => saga,
        (None, SagaStatus::Started) => Saga {
            id: saga::of_event(event)?,
            payer: event.payer,
            user_id: event.user_id,
            provider: event.provider.clone()?,
            subject: SagaSubject::Purchase { plan_id: event.metadata.get(PLAN_ID).cloned(), price: event.cost? },
            tokens: event.tokens,
            reason: None,
            steps: Vec::new(),
            seq: 0,
        },
        (None, _) => return None,
    };
    saga.reason = event.reason.clone().or(saga.reason);
    saga.reach([to], taken_at(event));
    Some(saga)
}
