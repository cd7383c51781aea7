//! A saga: a change in steps, each with its time, that always comes to an end. Its state is the fold of its events, as that of a charge.

use crate::{
    amount::Tokens,
    event::{EventType, NewEvent},
    ids::{ChargeId, Payer, Provider, SagaId, Shard, UserId},
};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum SagaStatus {
    Requested,
    /// The tokens of the charge are back where they came from.
    BalanceRestored,
    /// The totals that reports show have counted it.
    AggregatesCorrected,
    Completed,
}

impl SagaStatus {
    pub const fn is_end(self) -> bool {
        matches!(self, Self::Completed)
    }
}

/// A status, and since when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SagaStep {
    pub status: SagaStatus,
    pub at: DateTime<Utc>,
}

/// What a saga is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "SCREAMING_SNAKE_CASE", rename_all_fields = "camelCase")]
pub enum SagaSubject {
    /// Gives back what a charge has settled.
    Refund { charge_id: ChargeId },
}

/// The stored state of a saga.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Saga {
    pub id: SagaId,
    pub payer: Payer,
    /// Whose charge it is about.
    pub user_id: Option<UserId>,
    pub provider: Provider,
    #[serde(flatten)]
    pub subject: SagaSubject,
    pub tokens: Tokens,
    pub reason: Option<String>,
    /// In the order in which they were reached; never empty.
    pub steps: Vec<SagaStep>,
    /// Number of the saga's newest event in its shard; 0 until the ledger has assigned it.
    pub seq: i64,
}

impl Saga {
    pub fn status(&self) -> SagaStatus {
        self.steps.last().map_or(SagaStatus::Requested, |step| step.status)
    }

    pub fn shard(&self) -> Shard {
        self.payer.shard()
    }

    pub(crate) fn reach(&mut self, statuses: impl IntoIterator<Item = SagaStatus>, at: DateTime<Utc>) {
        self.steps.extend(statuses.into_iter().map(|status| SagaStep { status, at }));
    }
}

/// In the metadata of events: the saga, and when it took the step, which for a refund is not when the event counts.
pub(crate) const SAGA_ID: &str = "sagaId";
pub(crate) const AT: &str = "at";

/// The saga of which the event is a step. What users write into the metadata of their charges is none.
pub fn of_event(event: &NewEvent) -> Option<SagaId> {
    let is_step = matches!(event.kind, EventType::ChargeRefunded | EventType::RefundCompleted);
    if is_step { event.metadata.get(SAGA_ID)?.parse().ok() } else { None }
}
