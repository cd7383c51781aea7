//! What became of a command: done, done before, or refused with the reason.

use super::{LedgerState, command::pool_of};
use crate::{
    amount::Tokens,
    budget::{Budget, BudgetKey},
    charge::{Charge, ChargeStatus},
    event::NewEvent,
    ids::{ChargeId, Payer, Provider, SagaId},
    pool::{Pool, PoolKey},
    saga::{Saga, SagaStatus},
};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

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
    /// Done now, or done before (then there are no events).
    SagaMoved {
        saga: Box<Saga>,
    },
    QuotaExhausted(QuotaExhausted),
    BudgetExhausted(Box<BudgetExhausted>),
    ChargeNotFound,
    SagaNotFound,
    /// Somebody else has claimed it since.
    SagaTaken,
    /// It is where that step cannot follow.
    SagaElsewhere {
        status: SagaStatus,
    },
    /// More than a charge has left to refund.
    AmountExceedsRest {
        rest: Tokens,
    },
    InvalidTransition {
        status: ChargeStatus,
    },
    /// The balance would exceed the largest amount; nothing changed.
    BalanceOverflow,
    /// So would this allowance, together with what was purchased.
    AllowanceOverflow,
}

impl Outcome {
    /// The answer with the numbers that the state was given after the decision.
    pub fn numbered(mut self, state: &LedgerState) -> Self {
        match &mut self {
            Self::Charged { charge, .. } => charge.seq = state.charges.get(&charge.spec.id).map_or(charge.seq, |stored| stored.seq),
            Self::SagaMoved { saga } => saga.seq = state.sagas.get(&saga.id).map_or(saga.seq, |stored| stored.seq),
            _ => {}
        }
        self
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    pub outcome: Outcome,
    /// In order; empty when nothing changed.
    pub events: Vec<NewEvent>,
}

pub(super) fn refused(outcome: Outcome) -> Decision {
    Decision { outcome, events: Vec::new() }
}

pub(super) fn already(state: &LedgerState, charge: Charge, at: DateTime<Utc>) -> Decision {
    let pool = state.pools.get(&pool_of(&charge.spec));
    let pool = pool.map_or(PoolView { total: Tokens::ZERO, remaining: Tokens::ZERO, debt: Tokens::ZERO, resets_at: None }, PoolView::of);
    refused(Outcome::Charged { charge: Box::new(charge), pool, at, changed: false })
}

pub(super) fn charged(state: &LedgerState, id: ChargeId, events: Vec<NewEvent>, at: DateTime<Utc>) -> Decision {
    let Some(charge) = state.charges.get(&id).cloned() else { return Decision { outcome: Outcome::ChargeNotFound, events } };
    let mut decision = Decision { events, ..already(state, charge, at) };
    if let Outcome::Charged { changed, .. } = &mut decision.outcome {
        *changed = true;
    }
    decision
}

pub(super) fn saga_moved(state: &LedgerState, id: SagaId, events: Vec<NewEvent>) -> Decision {
    let saga = state.sagas.get(&id).cloned().map(Box::new);
    Decision { outcome: saga.map_or(Outcome::SagaNotFound, |saga| Outcome::SagaMoved { saga }), events }
}

pub(super) fn pool_changed(state: &LedgerState, key: &PoolKey, created: bool, events: Vec<NewEvent>, at: DateTime<Utc>) -> Decision {
    let pool = state.pools.get(key).cloned().unwrap_or_else(|| Pool::new(key.clone(), at));
    Decision { outcome: Outcome::PoolChanged { pool: Box::new(pool), created, at }, events }
}
