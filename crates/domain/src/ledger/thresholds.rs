//! The part of a decision that tells which thresholds a spend has reached, of the budgets that cover it and of its pool.

use super::{LedgerState, budget_events, command::pool_of, events::pool_event};
use crate::{
    amount::Tokens,
    budget::Budget,
    charge::{ChargeSpec, Metadata},
    event::{EventType, NewEvent},
    pool::Pool,
    threshold::Threshold,
};
use chrono::{DateTime, Utc};

/// Tells about each threshold once: of a budget in a period, of a pool until a credit takes what is spent below it again.
pub(super) fn reach_thresholds(state: &mut LedgerState, spec: &ChargeSpec, now: DateTime<Utc>) -> Vec<NewEvent> {
    let of_budget = |budget: &Budget| -> Vec<NewEvent> {
        budget.newly_reached().into_iter().map(|threshold| budget_events::threshold_reached(budget, threshold, now)).collect()
    };
    let mut events: Vec<NewEvent> = state.covering(spec).flat_map(of_budget).collect();
    if let Some(pool) = state.pools.get(&pool_of(spec)).filter(|pool| !pool.marks.is_empty()) {
        events.extend(pool.newly_reached().into_iter().map(|threshold| of_pool(pool, threshold, now)));
    }
    events.iter().for_each(|event| state.apply(event));
    events
}

fn of_pool(pool: &Pool, threshold: Threshold, now: DateTime<Utc>) -> NewEvent {
    let (spent, whole) = pool.spent_of();
    let mut metadata = Metadata::from([
        ("of".to_owned(), "POOL".to_owned()),
        ("threshold".to_owned(), threshold.to_string()),
        ("used".to_owned(), spent.to_string()),
        ("limit".to_owned(), whole.to_string()),
    ]);
    metadata.extend(pool.current.map(|period| ("periodStart".to_owned(), period.starts_at.to_rfc3339())));
    pool_event(&pool.key, EventType::ThresholdReached, Tokens::ZERO, metadata, now)
}
