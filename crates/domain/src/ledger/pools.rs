//! The part of a decision that is about a pool: what it is granted, and the periods of its allowance.

use super::{
    LedgerState,
    command::AllowanceChange,
    events::pool_event,
    outcome::{Decision, Outcome, PoolView, pool_changed, refused},
};
use crate::{
    amount::Tokens,
    charge::Metadata,
    event::{EventType, NewEvent},
    pool::{AllowanceTerms, Pool, PoolKey},
    threshold::Threshold,
    time::Period,
};
use chrono::{DateTime, Utc};

/// In the event of a period: the thresholds that were set with it.
pub(super) const THRESHOLDS: &str = "thresholds";

/// The pool as it stands at `now`, a period that is due included and one that is over left out, without changing anything.
pub fn pool_view(pool: &Pool, now: DateTime<Utc>, allowance_cap: Option<Tokens>) -> Pool {
    let Some(event) = period_due(pool, now, allowance_cap) else {
        let current = pool.current.filter(|period| period.ends_at.is_none_or(|end| now < end));
        return Pool { current, ..pool.clone() };
    };
    let mut state = LedgerState::default();
    state.pools.insert(pool.key.clone(), pool.clone());
    state.apply(&event);
    state.pools.remove(&pool.key).unwrap_or_else(|| pool.clone())
}

/// What a spend at `at` may take: of the allowance only that of its own period.
pub(super) fn view_at(state: &LedgerState, pool: &Pool, at: DateTime<Utc>) -> PoolView {
    let period = state.period_at(&pool.key, at);
    let current = pool.current.filter(|current| Some(current.starts_at) == period);
    let current = current.or_else(|| state.past_periods.get(&(pool.key.clone(), period?)).copied());
    PoolView::of(&Pool { current, ..pool.clone() })
}

pub(super) fn grant(
    state: &mut LedgerState,
    key: &PoolKey,
    tokens: Tokens,
    reason: &str,
    now: DateTime<Utc>,
    cap: Option<Tokens>,
) -> Decision {
    let existing = state.pools.get(key);
    if existing.is_some_and(|pool| overflows(pool, tokens)) {
        return refused(Outcome::BalanceOverflow);
    }
    let created = existing.is_none();
    let mut events: Vec<NewEvent> = existing.and_then(|pool| period_due(pool, now, cap)).into_iter().collect();
    events.push(NewEvent { reason: Some(reason.to_owned()), ..pool_event(key, EventType::PoolGranted, tokens, Metadata::new(), now) });
    events.iter().for_each(|event| state.apply(event));
    pool_changed(state, key, created, events, now)
}

/// Whether the pool could not count the allowance of any period and everything purchased together with this.
pub(super) fn overflows(pool: &Pool, tokens: Tokens) -> bool {
    let running = pool.current.map_or(Tokens::ZERO, |period| period.balance.granted);
    let total = running.max(pool.terms.allowance).checked_add(pool.purchased.granted);
    total.and_then(|total| total.checked_add(tokens)).is_none()
}

pub(super) fn set_allowance(
    state: &mut LedgerState,
    key: &PoolKey,
    change: &AllowanceChange,
    now: DateTime<Utc>,
    cap: Option<Tokens>,
) -> Decision {
    let existing = state.pools.get(key);
    let created = existing.is_none();
    let pool = existing.cloned().unwrap_or_else(|| Pool::new(key.clone(), now));
    let terms = AllowanceTerms {
        allowance: change.allowance.unwrap_or(pool.terms.allowance),
        period: change.period.unwrap_or(pool.terms.period),
        time_zone: change.time_zone.unwrap_or(pool.terms.time_zone),
    };
    if terms.allowance.checked_add(pool.purchased.granted).is_none() {
        return refused(Outcome::AllowanceOverflow);
    }
    // A running period keeps its bounds; new bounds begin with the next one. One without an end is closed where new terms give it one.
    let running = pool.current.filter(|period| period.contains(now));
    let bounds = match running {
        Some(period) if period.ends_at.is_some() || terms.period == Period::None => (period.starts_at, period.ends_at),
        _ => next_bounds(&pool, terms, now),
    };
    let mut event = period_event(key, terms, bounds, cap, now);
    event.metadata.extend(change.thresholds.as_ref().map(|thresholds| (THRESHOLDS.to_owned(), Threshold::join(thresholds))));
    state.apply(&event);
    pool_changed(state, key, created, vec![event], now)
}

/// The event that opens the period around `now`, when the pool's latest period is over.
pub(super) fn period_due(pool: &Pool, now: DateTime<Utc>, cap: Option<Tokens>) -> Option<NewEvent> {
    if pool.terms.allowance.is_zero() {
        return None;
    }
    let over = pool.current.is_none_or(|period| period.ends_at.is_some_and(|end| end <= now));
    over.then(|| period_event(&pool.key, pool.terms, next_bounds(pool, pool.terms, now), cap, now))
}

/// The calendar period around `now`, begun no earlier than where the latest one ended: periods never overlap.
fn next_bounds(pool: &Pool, terms: AllowanceTerms, now: DateTime<Utc>) -> (DateTime<Utc>, Option<DateTime<Utc>>) {
    let (starts_at, ends_at) = terms.period.around(now, terms.time_zone);
    let free_from = pool.current.map(|latest| latest.ends_at.unwrap_or(now));
    (free_from.map_or(starts_at, |free| starts_at.max(free)), ends_at)
}

fn period_event(
    key: &PoolKey,
    terms: AllowanceTerms,
    (starts_at, ends_at): (DateTime<Utc>, Option<DateTime<Utc>>),
    cap: Option<Tokens>,
    now: DateTime<Utc>,
) -> NewEvent {
    let granted = cap.map_or(terms.allowance, |cap| terms.allowance.min(cap));
    let metadata = Metadata::from([
        ("allowance".into(), terms.allowance.to_string()),
        ("period".into(), terms.period.as_str().into()),
        ("timeZone".into(), terms.time_zone.name().into()),
        ("periodStart".into(), starts_at.to_rfc3339()),
        ("periodEnd".into(), ends_at.map(|end| end.to_rfc3339()).unwrap_or_default()),
    ]);
    pool_event(key, EventType::PoolPeriodStarted, granted, metadata, now)
}

/// The inverse of [`period_event`]: terms and bounds.
pub(super) fn period_of(event: &NewEvent) -> Option<(AllowanceTerms, DateTime<Utc>, Option<DateTime<Utc>>)> {
    let field = |name: &str| event.metadata.get(name).map(String::as_str);
    let terms = AllowanceTerms {
        allowance: Tokens::new(field("allowance")?.parse().ok()?).ok()?,
        period: Period::parse(field("period")?)?,
        time_zone: field("timeZone")?.parse().ok()?,
    };
    let instant = |text: &str| DateTime::parse_from_rfc3339(text).ok().map(|at| at.with_timezone(&Utc));
    let starts_at = instant(field("periodStart")?)?;
    let ends_at = field("periodEnd").filter(|text| !text.is_empty()).and_then(instant);
    Some((terms, starts_at, ends_at))
}
