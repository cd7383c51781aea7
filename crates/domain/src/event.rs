//! Events: immutable facts about charges and pools. One row of the outbox each, numbered without gaps in its shard.

use crate::{
    amount::Tokens,
    charge::Metadata,
    ids::{ChargeId, EventId, KeyId, Model, OrgId, Payer, Provider, Shard, UserId},
    money::Cost,
};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// The symbols of `weir.v1.UsageEvent`'s `type`; new ones only at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum EventType {
    ChargeHeld,
    ChargeSettled,
    ChargeReleased,
    ChargeExpired,
    ChargeRefunded,
    RequestsRefused,
    PoolGranted,
    /// The allowance of one period was set: when it opened, or again when the terms changed.
    PoolPeriodStarted,
    /// The terms of a budget were set.
    BudgetSet,
    /// What was spent of a budget reached one of its thresholds, for the first time in the period.
    ThresholdReached,
    /// The totals that reports show have counted a refund.
    RefundCompleted,
    /// A purchase took a step. With the one that allocates its tokens they are in the pool, with the one that takes them back no more.
    PurchaseMoved,
}

impl EventType {
    pub const ALL: [Self; 12] = [
        Self::ChargeHeld,
        Self::ChargeSettled,
        Self::ChargeReleased,
        Self::ChargeExpired,
        Self::ChargeRefunded,
        Self::RequestsRefused,
        Self::PoolGranted,
        Self::PoolPeriodStarted,
        Self::BudgetSet,
        Self::ThresholdReached,
        Self::RefundCompleted,
        Self::PurchaseMoved,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ChargeHeld => "CHARGE_HELD",
            Self::ChargeSettled => "CHARGE_SETTLED",
            Self::ChargeReleased => "CHARGE_RELEASED",
            Self::ChargeExpired => "CHARGE_EXPIRED",
            Self::ChargeRefunded => "CHARGE_REFUNDED",
            Self::RequestsRefused => "REQUESTS_REFUSED",
            Self::PoolGranted => "POOL_GRANTED",
            Self::PoolPeriodStarted => "POOL_PERIOD_STARTED",
            Self::BudgetSet => "BUDGET_SET",
            Self::ThresholdReached => "THRESHOLD_REACHED",
            Self::RefundCompleted => "REFUND_COMPLETED",
            Self::PurchaseMoved => "PURCHASE_MOVED",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }
}

/// An event as decided, before the ledger has numbered it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewEvent {
    pub id: EventId,
    pub kind: EventType,
    pub payer: Payer,
    /// `None` for facts about an org's pool.
    pub user_id: Option<UserId>,
    pub key_id: Option<KeyId>,
    /// `None` where a refusal named no known provider, and for budgets that cover them all.
    pub provider: Option<Provider>,
    pub model: Option<Model>,
    pub charge_id: Option<ChargeId>,
    /// The settled, held, returned, refunded, granted or refused amount, by type.
    pub tokens: Tokens,
    /// Requests this event stands for; above 1 only for `REQUESTS_REFUSED`.
    pub count: i64,
    /// Of the held or settled amount; for a refund what is given back.
    pub cost: Option<Cost>,
    pub reason: Option<String>,
    /// Of a refund: when the charge was settled, because it is that time whose totals it corrects.
    pub occurred_at: DateTime<Utc>,
    pub metadata: Metadata,
}

/// A numbered event, as stored and as read back from the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageEvent {
    pub event: NewEvent,
    /// 1, 2, 3 … in its shard, without gaps.
    pub seq: i64,
    /// Raised when a ledger is restored from a backup; consumers refuse older epochs.
    pub epoch: i32,
    pub recorded_at: DateTime<Utc>,
}

impl UsageEvent {
    pub fn shard(&self) -> Shard {
        self.event.payer.shard()
    }

    pub fn org_id(&self) -> Option<OrgId> {
        self.event.payer.org()
    }
}
