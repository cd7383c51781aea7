//! Buckets: how fast somebody may spend. Forgetting one costs a short burst, never money.

use crate::Result;
use async_trait::async_trait;
use domain::{
    bucket::{Ask, BucketRule, Reading, Return, Wait},
    ids::{Payer, Provider},
    settings::{LimitScope, OnOutage},
};

/// Buckets that one request may ask together. Those of a group share a hash tag, so that one script call reaches them all.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Group {
    /// Of the requests that one payer pays for.
    Payer(Payer),
    /// Of everybody: limits of a provider or a model.
    Shared,
    /// Of a caller who names the owners of its buckets itself.
    Principal(String),
}

/// Address of one bucket.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BucketKey {
    pub group: Group,
    /// Name of the limit.
    pub limit: String,
    pub scope: LimitScope,
    /// The limited user, org or key, or what a principal calls it; empty in a shared group.
    pub owner: String,
    /// `None` where a principal names the owner.
    pub provider: Option<Provider>,
    /// Set when the limit is on one model.
    pub model: Option<String>,
}

/// One bucket that a request takes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bucket {
    pub key: BucketKey,
    pub rule: BucketRule,
    pub on_outage: OnOutage,
}

/// One request: the same from every bucket, or nothing from any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Take {
    pub buckets: Vec<Bucket>,
    pub ask: Ask,
}

/// What came to less than was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GiveBack {
    pub buckets: Vec<Bucket>,
    pub back: Return,
}

/// A bucket after the decision, in the order of the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BucketLevel {
    /// With the amount in it if the take was allowed.
    pub reading: Reading,
    /// Passes where this bucket alone would have let it.
    pub wait: Wait,
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

    /// Undoes takes whose request led to nothing, or to less. What has left a bucket by itself meanwhile is not returned again.
    async fn give_back(&self, requests: &[GiveBack]) -> Result<()>;

    /// Buckets without taking anything, in order.
    async fn peek(&self, buckets: &[Bucket]) -> Result<Vec<Reading>>;

    /// Processes that share these buckets, this one included, as last seen: while the store is away each keeps its share of a limit.
    fn processes(&self) -> u32 {
        1
    }

    /// Answers if the store does.
    async fn ping(&self) -> Result<()>;
}
