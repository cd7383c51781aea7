//! A saga: a change in steps, each with its time, that always comes to an end. Its state is the fold of its events, as that of a charge.

use crate::{
    amount::Tokens,
    defect::{Defect, is_back},
    event::{EventType, NewEvent},
    ids::{ChargeId, Payer, Provider, SagaId, Shard, UserId},
    money::Cost,
    pool::PoolKey,
};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum SagaStatus {
    /// Of a refund, to [`Self::AggregatesCorrected`].
    Requested,
    /// The tokens of the charge are back where they came from.
    BalanceRestored,
    /// The totals that reports show have counted it.
    AggregatesCorrected,
    /// Of a purchase from here on.
    Started,
    PaymentReserved,
    TokensAllocated,
    PaymentCaptured,
    /// It will not come about: what was done is undone, in the reverse order.
    Compensating,
    TokensTakenBack,
    PaymentVoided,
    Failed,
    /// The good end of every saga.
    Completed,
}

impl SagaStatus {
    pub const fn is_end(self) -> bool {
        matches!(self, Self::Completed | Self::Failed)
    }

    /// Whether a purchase may go on from here to there.
    pub const fn may_become(self, next: Self) -> bool {
        use SagaStatus::{
            Compensating, Completed, Failed, PaymentCaptured, PaymentReserved, PaymentVoided, Started, TokensAllocated, TokensTakenBack,
        };
        matches!(
            (self, next),
            (Started, PaymentReserved)
                | (PaymentReserved, TokensAllocated)
                | (TokensAllocated, PaymentCaptured)
                | (PaymentCaptured, Completed)
                | (Started | PaymentReserved | TokensAllocated, Compensating)
                | (Compensating, TokensTakenBack | PaymentVoided)
                | (TokensTakenBack, PaymentVoided)
                | (PaymentVoided, Failed)
        )
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
    /// Pays for tokens and adds them to a pool.
    Purchase {
        /// `None`: at the unit price.
        plan_id: Option<String>,
        price: Cost,
    },
}

/// What has to be done next for a purchase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PurchaseTask {
    Authorise,
    Allocate,
    Capture,
    Complete,
    TakeBack,
    Void,
    Fail,
}

impl PurchaseTask {
    /// Where it leads when the ledger alone does it; `None` when the payment processor is called.
    pub const fn without_a_call(self) -> Option<SagaStatus> {
        match self {
            Self::Allocate => Some(SagaStatus::TokensAllocated),
            Self::Complete => Some(SagaStatus::Completed),
            Self::TakeBack => Some(SagaStatus::TokensTakenBack),
            Self::Fail => Some(SagaStatus::Failed),
            Self::Authorise | Self::Capture | Self::Void => None,
        }
    }
}

/// The stored state of a saga.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Saga {
    pub id: SagaId,
    pub payer: Payer,
    /// Whose charge it is about, or who purchases.
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

    pub fn has_reached(&self, status: SagaStatus) -> bool {
        self.steps.iter().any(|step| step.status == status)
    }

    /// `None` for a refund, and for what has ended.
    pub fn task(&self) -> Option<PurchaseTask> {
        self.task_after(self.status())
    }

    /// What would have to be done once it is there.
    pub fn task_after(&self, status: SagaStatus) -> Option<PurchaseTask> {
        match status {
            SagaStatus::Started => Some(PurchaseTask::Authorise),
            SagaStatus::PaymentReserved => Some(PurchaseTask::Allocate),
            SagaStatus::TokensAllocated => Some(PurchaseTask::Capture),
            SagaStatus::PaymentCaptured => Some(PurchaseTask::Complete),
            SagaStatus::Compensating if self.has_reached(SagaStatus::TokensAllocated) && !is_back(Defect::TokensNotTakenBack) => {
                Some(PurchaseTask::TakeBack)
            }
            // Even where no authorisation was heard of: it may be on its way.
            SagaStatus::Compensating | SagaStatus::TokensTakenBack => Some(PurchaseTask::Void),
            SagaStatus::PaymentVoided => Some(PurchaseTask::Fail),
            SagaStatus::Requested
            | SagaStatus::BalanceRestored
            | SagaStatus::AggregatesCorrected
            | SagaStatus::Failed
            | SagaStatus::Completed => None,
        }
    }

    /// The pool that it changes.
    pub fn pool(&self) -> PoolKey {
        PoolKey { payer: self.payer, provider: self.provider.clone() }
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
/// Of a purchase.
pub(crate) const STATUS: &str = "status";
pub(crate) const PLAN_ID: &str = "planId";

/// The saga of which the event is a step. What users write into the metadata of their charges is none.
pub fn of_event(event: &NewEvent) -> Option<SagaId> {
    let is_step = matches!(event.kind, EventType::ChargeRefunded | EventType::RefundCompleted | EventType::PurchaseMoved);
    if is_step { event.metadata.get(SAGA_ID)?.parse().ok() } else { None }
}
