//! What the ledger is asked to do, and everything that a decision depends on besides the state.

use crate::{
    amount::Tokens,
    budget::{BudgetKey, BudgetTerms},
    charge::ChargeSpec,
    ids::{ChargeId, KeyId, Model, Payer, Provider, SagaId, UserId},
    money::Cost,
    pool::PoolKey,
    saga::SagaStatus,
    threshold::Threshold,
    time::Period,
};
use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use std::collections::BTreeSet;

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
    /// Gives back what a charge has settled, wholly or in part.
    Refund {
        /// Of the saga that this begins.
        saga_id: SagaId,
        charge_id: ChargeId,
        /// `None`: all that is left.
        tokens: Option<Tokens>,
        reason: Option<String>,
    },
    /// Ends the saga of a refund that the totals have counted.
    CompleteRefund {
        saga_id: SagaId,
    },
    StartPurchase(Purchase),
    /// Writes down that a step was taken; what it changes in the ledger is changed with it.
    MovePurchase {
        saga_id: SagaId,
        /// Of the claim under which the step was taken.
        claim: i64,
        to: SagaStatus,
        /// Why it is compensated.
        reason: Option<String>,
    },
    /// An operator's word on a purchase that does not go on by itself.
    DirectPurchase {
        saga_id: SagaId,
        direction: Direction,
        reason: String,
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

/// What is purchased, and for how much.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Purchase {
    pub saga_id: SagaId,
    pub pool: PoolKey,
    pub user_id: UserId,
    pub plan_id: Option<String>,
    pub tokens: Tokens,
    pub price: Cost,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Try again now.
    Resume,
    /// Undo what was done; impossible once the payment is captured.
    Compensate,
}

/// Terms that are absent stay as they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllowanceChange {
    pub allowance: Option<Tokens>,
    pub period: Option<Period>,
    pub time_zone: Option<Tz>,
    /// Of what the pool has; none of them: an empty set.
    pub thresholds: Option<BTreeSet<Threshold>>,
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
            Self::StartPurchase(purchase) => Some(purchase.pool.clone()),
            Self::Settle { .. }
            | Self::Release { .. }
            | Self::Expire { .. }
            | Self::Refund { .. }
            | Self::CompleteRefund { .. }
            | Self::MovePurchase { .. }
            | Self::DirectPurchase { .. }
            | Self::SetBudget { .. }
            | Self::RecordRefusals(_) => None,
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
            Self::Settle { charge_id, .. } | Self::Release { charge_id } | Self::Expire { charge_id } | Self::Refund { charge_id, .. } => {
                Some(*charge_id)
            }
            Self::CompleteRefund { .. }
            | Self::StartPurchase(_)
            | Self::MovePurchase { .. }
            | Self::DirectPurchase { .. }
            | Self::Grant { .. }
            | Self::SetAllowance { .. }
            | Self::SetBudget { .. }
            | Self::RecordRefusals(_) => None,
        }
    }

    /// The saga this command begins or moves.
    pub const fn saga(&self) -> Option<SagaId> {
        match self {
            Self::Refund { saga_id, .. }
            | Self::CompleteRefund { saga_id }
            | Self::MovePurchase { saga_id, .. }
            | Self::DirectPurchase { saga_id, .. } => Some(*saga_id),
            Self::StartPurchase(purchase) => Some(purchase.saga_id),
            _ => None,
        }
    }

    /// Whether its effect can be told apart from that of every other command by what it names.
    pub const fn is_recognisable(&self) -> bool {
        self.charge().is_some() || (self.saga().is_some() && !matches!(self, Self::DirectPurchase { .. }))
    }
}

pub(super) fn pool_of(spec: &ChargeSpec) -> PoolKey {
    PoolKey { payer: spec.payer, provider: spec.provider.clone() }
}
