//! Answers under idempotency keys, of requests that no transaction of the ledger covers.

use crate::Result;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use uuid::Uuid;

/// Seconds after which an attempt without an answer is taken for crashed, and the next one runs the request again.
pub const ATTEMPT_LEASE_SECS: i64 = 60;

/// One try of a request under a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Made from scope and key, which themselves stay out of the store.
    pub name: Uuid,
    /// SHA-256 of the canonical request.
    pub fingerprint: [u8; 32],
    /// This attempt's own; beginning again under it is no second attempt.
    pub holder: Uuid,
    pub now: DateTime<Utc>,
}

/// Of the first attempt, for all that follow: what a request makes gets its ids and times from here, so that running it again after a
/// crash makes the same things.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    pub seed: Uuid,
    pub at: DateTime<Utc>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Begun {
    /// This attempt is the one that runs, until it completes, gives up or its lease is over.
    Run(Origin),
    /// The stored answer, as it was given to [`Answers::complete`].
    Done(Origin, Vec<u8>),
    /// The key stands for another request.
    Mismatch,
    /// Another attempt runs.
    Running,
}

/// What becomes of a key whose attempt ends without an answer to keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GiveUp {
    /// Nothing was changed: the key is free.
    Forget,
    /// It is not certain that nothing was changed: the next attempt runs from the same origin.
    Repeat,
}

#[async_trait]
pub trait Answers: Send + Sync {
    async fn begin(&self, attempt: &Attempt) -> Result<Begun>;

    /// Keeps the answer; `false` when another attempt has taken over meanwhile, whose answer counts then.
    async fn complete(&self, attempt: &Attempt, answer: &[u8]) -> Result<bool>;

    /// Without effect when another attempt has taken over.
    async fn give_up(&self, attempt: &Attempt, how: GiveUp) -> Result<()>;

    /// Drops what began on the days (UTC) that ended before `before`, all of a day at once; safe to run twice.
    async fn forget(&self, before: DateTime<Utc>) -> Result<()>;
}
