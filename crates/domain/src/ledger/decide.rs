//! From a command to its events, or to a refusal that changes nothing.

use super::{
    LedgerState,
    apply::ends_at_text,
    budgets::{Amount, new_overflows_budgets, overflows_budgets, reach_thresholds, refused_by_budgets, set_budget},
};
use crate::{
    amount::Tokens,
    budget::{Budget, BudgetKey, BudgetTerms},
    charge::{Charge, ChargeSpec, ChargeStatus, Metadata},
    event::{EventType, NewEvent},
    ids::{ChargeId, EventId, KeyId, Model, Payer, Provider, UserId},
    money::Cost,
    pool::{AllowanceTerms, Pool, PoolKey},
    time::Period,
};
use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use serde::{Deserialize, Serialize};

/// What somebody wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Hold and settle in one: the amount is known.
    Consume {
        spec: ChargeSpec,
        tokens: Tokens,
    },
    Hold {
        spec: ChargeSpec,
        tokens: Tokens,
        expires_at: DateTime<Utc>,
    },
    /// Books the amount really used, also after expiry and above the hold.
    Settle {
        charge_id: ChargeId,
        tokens: Tokens,
    },
    /// Books usage that already happened, whatever the balances say; what none of them covers is debt. Its charge id is made from its name.
    Record {
        spec: ChargeSpec,
        tokens: Tokens,
        /// `None` when nobody said: now.
        occurred_at: Option<DateTime<Utc>>,
    },
    Release {
        charge_id: ChargeId,
    },
    /// Ends a hold whose deadline has passed; leaves every other charge as it is.
    Expire {
        charge_id: ChargeId,
    },
    /// Adds purchased tokens.
    Grant {
        pool: PoolKey,
        tokens: Tokens,
        reason: String,
    },
    SetAllowance {
        pool: PoolKey,
        change: AllowanceChange,
    },
    SetBudget {
        key: BudgetKey,
        terms: BudgetTerms,
    },
    RecordRefusals(Refusals),
}

/// Terms that are absent stay as they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AllowanceChange {
    pub allowance: Option<Tokens>,
    pub period: Option<Period>,
    pub time_zone: Option<Tz>,
}

/// Refused requests of one second, folded by who, what and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusals {
    pub payer: Payer,
    pub user_id: UserId,
    pub key_id: Option<KeyId>,
    pub provider: Provider,
    pub model: Option<Model>,
    pub reason: String,
    /// Sum of the amounts asked for.
    pub tokens: Tokens,
    pub count: i64,
}

/// A command with everything its decision depends on besides the state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub command: Command,
    pub now: DateTime<Utc>,
    /// The owner's tier caps what a new period is granted.
    pub allowance_cap: Option<Tokens>,
    /// Of the consumed, held or settled tokens, at the prices in force when the charge was made.
    pub cost: Option<Cost>,
}

impl Command {
    /// The pool this command moves, when that is known without reading the charge.
    pub fn pool(&self) -> Option<PoolKey> {
        match self {
            Self::Consume { spec, .. } | Self::Hold { spec, .. } | Self::Record { spec, .. } => Some(pool_of(spec)),
            Self::Grant { pool, .. } | Self::SetAllowance { pool, .. } => Some(pool.clone()),
            Self::Settle { .. } | Self::Release { .. } | Self::Expire { .. } | Self::SetBudget { .. } | Self::RecordRefusals(_) => None,
        }
    }

    /// When that happened which is told later.
    pub const fn occurred_at(&self) -> Option<DateTime<Utc>> {
        match self {
            Self::Record { occurred_at, .. } => *occurred_at,
            _ => None,
        }
    }

    /// The charge this command reads or makes.
    pub const fn charge(&self) -> Option<ChargeId> {
        match self {
            Self::Consume { spec, .. } | Self::Hold { spec, .. } | Self::Record { spec, .. } => Some(spec.id),
            Self::Settle { charge_id, .. } | Self::Release { charge_id } | Self::Expire { charge_id } => Some(*charge_id),
            Self::Grant { .. } | Self::SetAllowance { .. } | Self::SetBudget { .. } | Self::RecordRefusals(_) => None,
        }
    }
}

pub(super) fn pool_of(spec: &ChargeSpec) -> PoolKey {
    PoolKey { payer: spec.payer, provider: spec.provider.clone() }
}

/// A pool as answers show it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PoolView {
    pub total: Tokens,
    pub remaining: Tokens,
    pub debt: Tokens,
    pub resets_at: Option<DateTime<Utc>>,
}

impl PoolView {
    pub fn of(pool: &Pool) -> Self {
        Self { total: pool.total(), remaining: pool.remaining(), debt: pool.debt, resets_at: pool.resets_at() }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct QuotaExhausted {
    pub payer: Payer,
    pub provider: Provider,
    pub requested: Tokens,
    pub remaining: Tokens,
    pub debt: Tokens,
    pub resets_at: Option<DateTime<Utc>>,
}

/// The budget that refused; of several the one with the least left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BudgetExhausted {
    pub budget: BudgetKey,
    pub provider: Provider,
    /// These three in the budget's unit.
    pub limit: Tokens,
    pub requested: Tokens,
    pub remaining: Tokens,
    pub resets_at: Option<DateTime<Utc>>,
}

/// What became of a command. Stored under its idempotency key when it changed something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Outcome {
    /// Done now, or done before with the same result (then there are no events).
    Charged {
        charge: Box<Charge>,
        pool: PoolView,
        at: DateTime<Utc>,
        /// This request did it. Not stored: whoever reads a stored answer did not.
        #[serde(skip)]
        changed: bool,
    },
    PoolChanged {
        pool: Box<Pool>,
        created: bool,
        at: DateTime<Utc>,
    },
    RefusalsRecorded,
    /// The usage was booked before, exactly so.
    AlreadyRecorded {
        charge: Box<Charge>,
    },
    /// Other usage was booked before under this name: the first one stays.
    RecordedDifferently {
        charge_id: ChargeId,
    },
    BudgetSet {
        budget: Box<Budget>,
        created: bool,
        at: DateTime<Utc>,
    },
    QuotaExhausted(QuotaExhausted),
    BudgetExhausted(Box<BudgetExhausted>),
    ChargeNotFound,
    InvalidTransition {
        status: ChargeStatus,
    },
    /// The balance would exceed the largest amount; nothing changed.
    BalanceOverflow,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    pub outcome: Outcome,
    /// In order; empty when nothing changed.
    pub events: Vec<NewEvent>,
}

/// Decides one request and applies its events to the state. A refusal leaves the state as it was.
pub fn decide(state: &mut LedgerState, request: &Request) -> Decision {
    let Request { command, now, allowance_cap, cost } = request;
    match command {
        Command::Consume { spec, tokens } => {
            let amount = Amount { tokens: *tokens, cost: *cost };
            reserve(state, spec, amount, None, *now, *allowance_cap)
        }
        Command::Hold { spec, tokens, expires_at } => {
            let amount = Amount { tokens: *tokens, cost: *cost };
            reserve(state, spec, amount, Some(*expires_at), *now, *allowance_cap)
        }
        Command::Settle { charge_id, tokens } => settle(state, *charge_id, Amount { tokens: *tokens, cost: *cost }, *now, *allowance_cap),
        Command::Record { spec, tokens, occurred_at } => {
            let amount = Amount { tokens: *tokens, cost: *cost };
            record(state, spec, amount, *occurred_at, *now, *allowance_cap)
        }
        Command::SetBudget { key, terms } => set_budget(state, key, terms, *now),
        Command::Release { charge_id } => end_hold(state, *charge_id, EventType::ChargeReleased, *now),
        Command::Expire { charge_id } => end_hold(state, *charge_id, EventType::ChargeExpired, *now),
        Command::Grant { pool, tokens, reason } => grant(state, pool, *tokens, reason, *now, *allowance_cap),
        Command::SetAllowance { pool, change } => set_allowance(state, pool, *change, *now, *allowance_cap),
        Command::RecordRefusals(refusals) => {
            let event = refusals_event(refusals, *now);
            Decision { outcome: Outcome::RefusalsRecorded, events: vec![event] }
        }
    }
}

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

/// What would become of a request, by the same rule on a copy of the pool and of the payer's budgets; nothing changes.
pub fn preview(pool: Option<Pool>, budgets: Vec<Budget>, request: &Request) -> Outcome {
    let mut state = LedgerState::default();
    state.pools.extend(pool.map(|pool| (pool.key.clone(), pool)));
    state.budgets.extend(budgets.into_iter().map(|budget| (budget.key.clone(), budget)));
    decide(&mut state, request).outcome
}

/// What a spend at `at` may take: of the allowance only that of its own period.
fn view_at(state: &LedgerState, pool: &Pool, at: DateTime<Utc>) -> PoolView {
    let period = state.period_at(&pool.key, at);
    let current = pool.current.filter(|current| Some(current.starts_at) == period);
    let current = current.or_else(|| state.past_periods.get(&(pool.key.clone(), period?)).copied());
    PoolView::of(&Pool { current, ..pool.clone() })
}

fn refused(outcome: Outcome) -> Decision {
    Decision { outcome, events: Vec::new() }
}

fn reserve(
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
    if !view.debt.is_zero() || tokens > view.remaining {
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

fn settle(state: &mut LedgerState, id: ChargeId, amount: Amount, now: DateTime<Utc>, cap: Option<Tokens>) -> Decision {
    let tokens = amount.tokens;
    let Some(charge) = state.charges.get(&id).cloned() else { return refused(Outcome::ChargeNotFound) };
    match charge.status {
        ChargeStatus::Held | ChargeStatus::Expired => {
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

fn record(
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

fn end_hold(state: &mut LedgerState, id: ChargeId, kind: EventType, now: DateTime<Utc>) -> Decision {
    let Some(charge) = state.charges.get(&id).cloned() else { return refused(Outcome::ChargeNotFound) };
    let not_due = kind == EventType::ChargeExpired && charge.expires_at.is_some_and(|deadline| deadline > now);
    match charge.status {
        ChargeStatus::Held if not_due => already(state, charge, now),
        ChargeStatus::Held => {
            let event = charge_event(&charge.spec, kind, charge.held, now);
            state.apply(&event);
            charged(state, id, vec![event], now)
        }
        ChargeStatus::Released | ChargeStatus::Expired => already(state, charge, now),
        ChargeStatus::Settled | ChargeStatus::Refunded if kind == EventType::ChargeExpired => already(state, charge, now),
        status => refused(Outcome::InvalidTransition { status }),
    }
}

fn grant(state: &mut LedgerState, key: &PoolKey, tokens: Tokens, reason: &str, now: DateTime<Utc>, cap: Option<Tokens>) -> Decision {
    let existing = state.pools.get(key);
    let overflows = existing.is_some_and(|pool| pool.purchased.granted.checked_add(tokens).is_none());
    if overflows {
        return refused(Outcome::BalanceOverflow);
    }
    let created = existing.is_none();
    let mut events: Vec<NewEvent> = existing.and_then(|pool| period_due(pool, now, cap)).into_iter().collect();
    events.push(NewEvent { reason: Some(reason.to_owned()), ..pool_event(key, EventType::PoolGranted, tokens, Metadata::new(), now) });
    events.iter().for_each(|event| state.apply(event));
    pool_changed(state, key, created, events, now)
}

fn set_allowance(state: &mut LedgerState, key: &PoolKey, change: AllowanceChange, now: DateTime<Utc>, cap: Option<Tokens>) -> Decision {
    let existing = state.pools.get(key);
    let created = existing.is_none();
    let pool = existing.cloned().unwrap_or_else(|| Pool::new(key.clone(), now));
    let terms = AllowanceTerms {
        allowance: change.allowance.unwrap_or(pool.terms.allowance),
        period: change.period.unwrap_or(pool.terms.period),
        time_zone: change.time_zone.unwrap_or(pool.terms.time_zone),
    };
    // A running period keeps its bounds; new bounds begin with the next one. One without an end is closed where new terms give it one.
    let running = pool.current.filter(|period| period.contains(now));
    let bounds = match running {
        Some(period) if period.ends_at.is_some() || terms.period == Period::None => (period.starts_at, period.ends_at),
        _ => next_bounds(&pool, terms, now),
    };
    let event = period_event(key, terms, bounds, cap, now);
    state.apply(&event);
    pool_changed(state, key, created, vec![event], now)
}

/// The event that opens the period around `now`, when the pool's latest period is over.
fn period_due(pool: &Pool, now: DateTime<Utc>, cap: Option<Tokens>) -> Option<NewEvent> {
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
        ("periodEnd".into(), ends_at_text(ends_at)),
    ]);
    pool_event(key, EventType::PoolPeriodStarted, granted, metadata, now)
}

fn already(state: &LedgerState, charge: Charge, at: DateTime<Utc>) -> Decision {
    let pool = state.pools.get(&pool_of(&charge.spec));
    let pool = pool.map_or(PoolView { total: Tokens::ZERO, remaining: Tokens::ZERO, debt: Tokens::ZERO, resets_at: None }, PoolView::of);
    refused(Outcome::Charged { charge: Box::new(charge), pool, at, changed: false })
}

fn charged(state: &LedgerState, id: ChargeId, events: Vec<NewEvent>, at: DateTime<Utc>) -> Decision {
    let Some(charge) = state.charges.get(&id).cloned() else { return Decision { outcome: Outcome::ChargeNotFound, events } };
    let mut decision = Decision { events, ..already(state, charge, at) };
    if let Outcome::Charged { changed, .. } = &mut decision.outcome {
        *changed = true;
    }
    decision
}

fn pool_changed(state: &LedgerState, key: &PoolKey, created: bool, events: Vec<NewEvent>, at: DateTime<Utc>) -> Decision {
    let pool = state.pools.get(key).cloned().unwrap_or_else(|| Pool::new(key.clone(), at));
    Decision { outcome: Outcome::PoolChanged { pool: Box::new(pool), created, at }, events }
}

fn charge_event(spec: &ChargeSpec, kind: EventType, tokens: Tokens, now: DateTime<Utc>) -> NewEvent {
    NewEvent {
        id: EventId::generate(),
        kind,
        payer: spec.payer,
        user_id: Some(spec.user_id),
        key_id: spec.key_id,
        provider: Some(spec.provider.clone()),
        model: spec.model.clone(),
        charge_id: Some(spec.id),
        tokens,
        count: 1,
        cost: None,
        reason: None,
        occurred_at: now,
        metadata: spec.metadata.clone(),
    }
}

fn pool_event(key: &PoolKey, kind: EventType, tokens: Tokens, metadata: Metadata, now: DateTime<Utc>) -> NewEvent {
    NewEvent {
        id: EventId::generate(),
        kind,
        payer: key.payer,
        user_id: match key.payer {
            Payer::User(user) => Some(user),
            Payer::Org(_) => None,
        },
        key_id: None,
        provider: Some(key.provider.clone()),
        model: None,
        charge_id: None,
        tokens,
        count: 1,
        cost: None,
        reason: None,
        occurred_at: now,
        metadata,
    }
}

fn refusals_event(refusals: &Refusals, now: DateTime<Utc>) -> NewEvent {
    NewEvent {
        id: EventId::generate(),
        kind: EventType::RequestsRefused,
        payer: refusals.payer,
        user_id: Some(refusals.user_id),
        key_id: refusals.key_id,
        provider: Some(refusals.provider.clone()),
        model: refusals.model.clone(),
        charge_id: None,
        tokens: refusals.tokens,
        count: refusals.count,
        cost: None,
        reason: Some(refusals.reason.clone()),
        occurred_at: now,
        metadata: Metadata::new(),
    }
}
