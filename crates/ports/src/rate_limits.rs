//! Buckets: how fast somebody may spend. Forgetting one costs a short burst, never money.

mod applicable;

pub use applicable::{Owners, applicable, owner};

use crate::Result;
use async_trait::async_trait;
use domain::{
    bucket::{Ask, BucketRule, Reading, Return, State, Wait},
    ids::{Payer, Provider},
    settings::{LimitScope, OnOutage},
};
use std::{collections::HashMap, sync::Arc};

/// Buckets that one request may ask together. Those of a group share a hash tag, so that one script call reaches them all.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Group {
    /// Of the requests that one payer pays for.
    Payer(Payer),
    /// Of everybody: limits of a provider or a model.
    Shared,
    /// Of a caller who names the owners of its buckets itself.
    Principal(Arc<str>),
}

/// Address of one bucket. Cheap to clone: each request goes with its buckets to whoever decides it, and back.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BucketKey {
    pub group: Group,
    /// Name of the limit.
    pub limit: Arc<str>,
    pub scope: LimitScope,
    /// The limited user, org or key, or what a principal calls it; empty in a shared group.
    pub owner: Arc<str>,
    /// `None` where a principal names the owner.
    pub provider: Option<Provider>,
    /// Set when the limit is on one model.
    pub model: Option<Arc<str>>,
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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Allowed,
    Refused,
    /// The store knows nothing of this payer, new or lost: its buckets have to be restored before anything is decided.
    Forgotten,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TakeAnswer {
    pub verdict: Verdict,
    /// None where the payer is forgotten.
    pub levels: Vec<BucketLevel>,
}

impl TakeAnswer {
    pub fn allowed(&self) -> bool {
        self.verdict == Verdict::Allowed
    }
}

impl Take {
    /// The payer whose buckets it asks; the store must know it.
    pub fn payer(&self) -> Option<Payer> {
        payer_of(&self.buckets)
    }
}

/// Whose buckets these are; `None` where all of them are shared. Buckets that are asked together have one payer.
pub fn payer_of(buckets: &[Bucket]) -> Option<Payer> {
    buckets.iter().find_map(|bucket| match bucket.key.group {
        Group::Payer(payer) => Some(payer),
        Group::Shared | Group::Principal(_) => None,
    })
}

/// Something that was used before its bucket was forgotten.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Use {
    pub buckets: Vec<Bucket>,
    pub ask: Ask,
    /// Milliseconds ago.
    pub age_ms: i64,
}

/// The buckets that these uses, oldest first, leave behind at the store's time `now_ms`; none is fuller than full.
pub fn restored(uses: &[Use], now_ms: i64) -> HashMap<BucketKey, (BucketRule, State)> {
    let mut states: HashMap<BucketKey, (BucketRule, State)> = HashMap::new();
    for (used, bucket) in uses.iter().flat_map(|used| used.buckets.iter().map(move |bucket| (used, bucket))) {
        let (rule, state) = states.entry(bucket.key.clone()).or_insert_with(|| (bucket.rule, bucket.rule.empty()));
        let before = std::mem::replace(state, rule.empty());
        *state = rule.fill(before, &used.ask, now_ms - used.age_ms);
    }
    states
}

#[async_trait]
pub trait RateLimits: Send + Sync {
    /// Decides each request by itself, in order; each is all or nothing. Time is the store's. A store that was emptied or replaced
    /// answers [`Verdict::Forgotten`] for each payer until it is restored.
    ///
    /// # Errors
    /// `Unavailable` after at most 50 ms: the caller follows each limit's `on_outage`.
    async fn take(&self, requests: &[Take]) -> Result<Vec<TakeAnswer>>;

    /// Fills the buckets of a forgotten payer with what it used, oldest first; nothing where the store knows the payer by now.
    /// What was taken and not yet written to the ledger when the store lost its buckets is missing: that much more may pass.
    async fn restore(&self, payer: Payer, uses: &[Use]) -> Result<()>;

    /// Puts into buckets what a request came to beyond what it took: as much as there is room for, and nothing refuses it. Amounts are
    /// above zero and of no hold. Nothing where the payer is forgotten: whoever restores it reads that from the ledger.
    async fn fill(&self, requests: &[Take]) -> Result<()>;

    /// Undoes takes whose request led to nothing, or to less. What has left a bucket by itself meanwhile is not returned again.
    async fn give_back(&self, requests: &[GiveBack]) -> Result<()>;

    /// Since when the store knows this payer without a break, in its own milliseconds since 1970; `None` for a forgotten one.
    async fn known_since(&self, payer: Payer) -> Result<Option<i64>>;

    /// From now on the payer is a forgotten one: what it used was not always taken from its buckets.
    async fn forget(&self, payer: Payer) -> Result<()>;

    /// Buckets without taking anything, in order.
    async fn peek(&self, buckets: &[Bucket]) -> Result<Vec<Reading>>;

    /// This process decides by these buckets from now on: it counts among those that share them.
    fn join(&self) {}

    /// Processes that share these buckets, this one included, as last seen: while the store is away each keeps its share of a limit.
    fn processes(&self) -> u32 {
        1
    }

    /// Answers if the store does.
    async fn ping(&self) -> Result<()>;
}
