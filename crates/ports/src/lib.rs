//! One coarse trait per store. Each has exactly two adapters, embedded and distributed, and one suite in `contract-tests` that both pass.
//! One call is one atomic step; no transaction crosses a port. Calls take slices: one is the batch of one.

pub mod accounts;
pub mod answers;
pub mod archive;
pub mod clock;
pub mod event_log;
pub mod generations;
pub mod ledger;
pub mod outbox;
pub mod rate_limits;
pub mod replays;
pub mod settings;
pub mod usage_store;
pub mod webhooks;

pub use clock::Clock;

use std::{error::Error as StdError, sync::Arc};
use thiserror::Error;

/// Why a store gave no answer. Refusals are not errors: they are values of the answer types.
#[derive(Debug, Error)]
pub enum StoreError {
    /// Nothing was changed, or repeating is harmless. Answered as 503 with `Retry-After`.
    #[error("{store} is unavailable")]
    Unavailable {
        /// `postgres`, `redis`, `kafka`, `cassandra`, `sqlite`.
        store: &'static str,
        #[source]
        source: Box<dyn StdError + Send + Sync>,
    },
    /// The connection broke while the commit's answer was awaited: done or not done, only a look at the store can tell.
    #[error("{store} may or may not have committed")]
    OutcomeUnknown {
        store: &'static str,
        #[source]
        source: Box<dyn StdError + Send + Sync>,
    },
    /// The store answered something that cannot be: a defect of ours or damaged data. Never retried.
    #[error("{store} holds something unexpected: {what}")]
    Corrupt { store: &'static str, what: String },
}

impl StoreError {
    pub fn unavailable(store: &'static str, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::Unavailable { store, source: source.into() }
    }

    pub fn outcome_unknown(store: &'static str, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::OutcomeUnknown { store, source: source.into() }
    }

    pub fn corrupt(store: &'static str, what: impl Into<String>) -> Self {
        Self::Corrupt { store, what: what.into() }
    }

    pub const fn store(&self) -> &'static str {
        match self {
            Self::Unavailable { store, .. } | Self::OutcomeUnknown { store, .. } | Self::Corrupt { store, .. } => store,
        }
    }
}

/// What everybody is told who waited for one and the same answer.
impl From<Arc<StoreError>> for StoreError {
    fn from(shared: Arc<StoreError>) -> Self {
        match &*shared {
            Self::Unavailable { store, .. } => Self::unavailable(store, shared),
            Self::OutcomeUnknown { store, .. } => Self::outcome_unknown(store, shared),
            Self::Corrupt { store, what } => Self::corrupt(store, what.clone()),
        }
    }
}

pub type Result<T, E = StoreError> = std::result::Result<T, E>;
