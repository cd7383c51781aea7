//! Buckets: how fast somebody may spend. Forgetting one costs a short burst, never money.

use crate::Result;
use async_trait::async_trait;
use domain::{
    amount::Tokens,
    ids::{Payer, Provider},
    leaky_bucket::{LeakyBucket, Level},
    settings::{LimitScope, OnOutage},
};

/// Address of one bucket. All buckets of one payer share a hash tag, so that one script call reaches them all.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BucketKey {
    /// Whose request it is; `None` for a provider-wide bucket.
    pub payer: Option<Payer>,
    /// Name of the limit.
    pub limit: String,
    pub scope: LimitScope,
    /// The limited user, org or key; empty for a provider-wide bucket.
    pub owner: String,
    pub provider: Provider,
    /// Set when the limit is on one model.
    pub model: Option<String>,
}

/// One bucket that a request takes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bucket {
    pub key: BucketKey,
    pub rule: LeakyBucket,
    pub on_outage: OnOutage,
}

/// One request: the same amount from every bucket, or nothing from any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Take {
    pub buckets: Vec<Bucket>,
    pub amount: Tokens,
}

/// A bucket after the decision, in the order of the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BucketLevel {
    /// Level at the store's time; with the amount in it if the take was allowed.
    pub level: Level,
    /// 0 where this bucket would let the amount pass; `None` where no wait helps.
    pub wait_ms: Option<i64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TakeAnswer {
    pub allowed: bool,
    pub levels: Vec<BucketLevel>,
}

#[async_trait]
pub trait RateLimits: Send + Sync {
    /// Decides each request by itself, in order; each is all or nothing. Time is the store's.
    ///
    /// # Errors
    /// `Unavailable` after at most 50 ms: the caller follows each limit's `on_outage`.
    async fn take(&self, requests: &[Take]) -> Result<Vec<TakeAnswer>>;

    /// Undoes takes whose request led to nothing.
    async fn give_back(&self, requests: &[Take]) -> Result<()>;

    /// Levels without taking anything, in order.
    async fn peek(&self, buckets: &[Bucket]) -> Result<Vec<Level>>;

    /// Answers if the store does.
    async fn ping(&self) -> Result<()>;
}
