//! The rules of the ledger: a command is decided against the state, the decision is events, and only events change the state.
//! Both ledger adapters load the rows a batch touches, call [`decide`] for each request in arrival order and write what changed;
//! the audit folds the stored events with the same [`LedgerState::apply`].

mod apply;
mod decide;
#[cfg(test)]
mod tests;

pub use decide::{AllowanceChange, Command, Decision, Outcome, PoolView, QuotaExhausted, Refusals, Request, decide, pool_view};

use crate::{
    charge::Charge,
    ids::ChargeId,
    pool::{Pool, PoolKey, PoolPeriod},
};
use chrono::{DateTime, Utc};
use std::collections::{HashMap, HashSet};

/// Address of a pool's period.
pub type PeriodKey = (PoolKey, DateTime<Utc>);

/// The rows that a batch of requests touches, and which of them it changed.
#[derive(Clone, Debug, Default)]
pub struct LedgerState {
    pub pools: HashMap<PoolKey, Pool>,
    /// Periods that are not the current one of their pool but in which some charge was held.
    pub past_periods: HashMap<PeriodKey, PoolPeriod>,
    pub charges: HashMap<ChargeId, Charge>,
    pub changed: Changed,
}

/// What the adapter has to write. A changed pool includes its current period.
#[derive(Clone, Debug, Default)]
pub struct Changed {
    pub pools: HashSet<PoolKey>,
    pub past_periods: HashSet<PeriodKey>,
    pub charges: HashSet<ChargeId>,
    /// The charges among `charges` that did not exist before.
    pub new_charges: HashSet<ChargeId>,
}
