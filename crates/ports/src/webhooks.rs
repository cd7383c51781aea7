//! Webhooks: who is told about thresholds, and what became of each delivery.

use crate::Result;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use domain::ids::{EventId, Payer, Shard};
use uuid::Uuid;

/// Where a payer wants to be told. The secret signs every delivery and is shown once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Webhook {
    pub id: Uuid,
    pub payer: Payer,
    pub url: String,
    pub secret: [u8; 32],
    pub created_at: DateTime<Utc>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliveryStatus {
    Pending,
    Delivered,
    /// Given up; [`Webhooks::redeliver`] begins again.
    Failed,
}

impl DeliveryStatus {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Delivered => "DELIVERED",
            Self::Failed => "FAILED",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        [Self::Pending, Self::Delivered, Self::Failed].into_iter().find(|status| status.as_str() == text)
    }
}

/// One event on its way to one webhook; the two name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    pub webhook_id: Uuid,
    pub event_id: EventId,
    /// JSON, sent as it is with each attempt.
    pub body: String,
    pub created_at: DateTime<Utc>,
    pub outcome: DeliveryOutcome,
}

/// What the attempts came to so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliveryOutcome {
    pub status: DeliveryStatus,
    pub attempts: i32,
    /// Of a pending one: not to be tried before.
    pub due_at: DateTime<Utc>,
    /// HTTP status of the last answer.
    pub answered: Option<i32>,
    /// Why the last attempt got no answer.
    pub error: Option<String>,
}

/// An event to tell the webhooks of its payer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tidings {
    pub event_id: EventId,
    pub payer: Payer,
    pub body: String,
    pub at: DateTime<Utc>,
}

#[async_trait]
pub trait Webhooks: Send + Sync {
    /// `false` when the payer has `most` already.
    async fn create(&self, webhook: &Webhook, most: u32) -> Result<bool>;

    /// Oldest first.
    async fn webhooks(&self, payer: Payer) -> Result<Vec<Webhook>>;

    /// With its deliveries. `false` when this payer has no such webhook.
    async fn delete(&self, payer: Payer, id: Uuid) -> Result<bool>;

    /// The number of the last event of each shard that was queued; shards without one are left out.
    async fn positions(&self) -> Result<Vec<(Shard, i64)>>;

    /// Makes a pending delivery for every webhook of the payers, each once however often it is asked for, and raises the positions.
    async fn queue(&self, tidings: &[Tidings], positions: &[(Shard, i64)]) -> Result<()>;

    /// Pending deliveries that are due, oldest first; nobody else gets them before `until`.
    async fn claim_due(&self, now: DateTime<Utc>, until: DateTime<Utc>, limit: u32) -> Result<Vec<(Webhook, Delivery)>>;

    async fn record(&self, webhook: Uuid, event: EventId, outcome: &DeliveryOutcome) -> Result<()>;

    /// Newest first; nothing of a webhook that is not this payer's.
    async fn deliveries(&self, payer: Payer, webhook: Uuid, limit: u32) -> Result<Vec<Delivery>>;

    /// Makes a delivery pending again, from its first attempt on. `false` when there is none.
    async fn redeliver(&self, payer: Payer, webhook: Uuid, event: EventId, now: DateTime<Utc>) -> Result<bool>;

    /// Drops deliveries that ended and began before `before`; safe to run twice.
    async fn forget(&self, before: DateTime<Utc>) -> Result<u64>;
}
