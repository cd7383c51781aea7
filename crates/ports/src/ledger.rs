//! The ledger: charges, pools and idempotency, and with each change its numbered events, in one transaction.

use crate::{Result, StoreError, outbox::OutboxRow};
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use domain::{
    budget::Budget,
    charge::Charge,
    event::UsageEvent,
    ids::{ChargeId, Payer, Provider, SagaId, Shard, UserId},
    ledger::{LedgerState, Outcome, Request},
    pool::{Pool, PoolKey, PoolPeriod},
    saga::Saga,
    trace_parent::TraceParent,
};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use uuid::Uuid;

/// Longest time for which a claimed key without an answer is respected, e.g. while a provider is called. Seconds.
pub const CLAIM_LEASE_SECS: i64 = 120;

/// Names one request of one principal at one endpoint.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdempotencyKey {
    /// Principal and endpoint, e.g. `user:6f1f…|POST /api/v1/tokens/consume`.
    pub scope: String,
    /// As sent: 1–255 visible ASCII characters.
    pub key: String,
}

/// Whether this request ends the story under its key, or only claims it (a hold that a settle or release will end).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Claim {
    Completes,
    Opens,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idempotency {
    pub key: IdempotencyKey,
    /// SHA-256 of the canonical request.
    pub fingerprint: [u8; 32],
    pub claim: Claim,
    /// What the caller needs besides the outcome to give the same answer again; opaque here.
    pub context: Vec<u8>,
}

#[derive(Clone, Debug)]
pub struct LedgerRequest {
    pub request: Request,
    /// The shard of the payer, or of the charge id.
    pub shard: Shard,
    pub idempotency: Option<Idempotency>,
    pub trace_parent: Option<TraceParent>,
    /// What the caller saw before it asked; kept with the events of the request, opaque here, empty where there is nothing to keep.
    pub seen: Vec<u8>,
}

/// What was answered the first time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredAnswer {
    pub context: Vec<u8>,
    pub outcome: Outcome,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LedgerAnswer {
    /// Decided now: done (then committed) or refused (then nothing changed, nor is the key taken).
    Decided(Outcome),
    /// The same request was done before.
    Replayed(StoredAnswer),
    /// The key stands for another request.
    Mismatch,
    /// The key was claimed by a request that has not ended. Once the claim's lease is over, the same request
    /// is `Resumed` instead, by exactly one caller, which gets a new lease.
    InProgress,
    /// The opener of this key crashed: its charge, as the opening request made it. The caller ends it and then answers.
    Resumed(StoredAnswer),
}

/// Filter of [`Ledger::charges`]. Newest first.
#[derive(Clone, Debug)]
pub struct ChargeQuery {
    pub payer: Payer,
    pub user_id: Option<UserId>,
    pub provider: Option<Provider>,
    pub from: Option<DateTime<Utc>>,
    pub to: Option<DateTime<Utc>>,
    /// Only charges older than this one: the last of the previous page.
    pub before: Option<ChargeId>,
    pub limit: u32,
}

/// The right to end overdue holds. Of each store one process has it at a time, so that many do not do the same work.
#[derive(Clone, Copy, Debug)]
pub struct Sweeper {
    pub id: Uuid,
    /// For so long from now on nobody else has it. None of it: whoever asks next.
    pub lease: Duration,
}

/// A saga, and the right to move it on.
#[derive(Clone, Debug)]
pub struct ClaimedSaga {
    pub saga: Saga,
    pub claim: i64,
}

/// One shard as one consistent picture: state and events of the same moment.
pub struct ShardSnapshot {
    /// In order of `seq`, with the stored bytes.
    pub events: Vec<StoredEvent>,
    pub charges: Vec<Charge>,
    pub pools: Vec<Pool>,
    pub past_periods: Vec<(PoolKey, PoolPeriod)>,
    pub budgets: Vec<Budget>,
    /// In the order of their ids.
    pub sagas: Vec<Saga>,
    /// The number the shard gave last, whether or not its row exists.
    pub last_seq: i64,
    /// Events up to here are in the archive and not among these.
    pub archived_through: i64,
}

impl ShardSnapshot {
    /// The state alone, for events to come.
    pub fn into_state(self) -> LedgerState {
        LedgerState {
            charges: self.charges.into_iter().map(|charge| (charge.spec.id, charge)).collect(),
            pools: self.pools.into_iter().map(|pool| (pool.key.clone(), pool)).collect(),
            past_periods: self.past_periods.into_iter().map(|(key, period)| ((key, period.starts_at), period)).collect(),
            budgets: self.budgets.into_iter().map(|budget| (budget.key.clone(), budget)).collect(),
            sagas: self.sagas.into_iter().map(|saga| (saga.id, saga)).collect(),
            ..LedgerState::default()
        }
    }
}

/// An answer under an idempotency key that is about a charge, beside that charge.
pub struct KeptAnswer {
    /// What the store calls the key; the same for two rows of one key.
    pub name: String,
    pub charge_id: ChargeId,
    /// As of the moment at which the answer was read; `None` where there is no such charge.
    pub charge: Option<Charge>,
    /// `Err` says why it could not be read.
    pub outcome: std::result::Result<Outcome, String>,
}

pub struct StoredEvent {
    pub seq: i64,
    /// Avro without framing.
    pub payload: Vec<u8>,
    /// `Err` says why the payload could not be decoded.
    pub event: std::result::Result<UsageEvent, String>,
}

#[async_trait]
pub trait Ledger: Send + Sync {
    /// Applies the requests in order in one transaction and answers in the same order. When it returns `Ok`, all of it is durable.
    /// No two requests of one call share an idempotency key.
    ///
    /// # Errors
    /// `Unavailable`: nothing was done. `OutcomeUnknown`: look with [`Ledger::find_charge`] or [`Ledger::find_answers`].
    async fn apply(&self, requests: &[LedgerRequest]) -> Result<Vec<LedgerAnswer>>;

    /// How many stores this ledger is divided into; requests for different ones need not wait for each other.
    fn stores(&self) -> usize {
        1
    }

    /// Which of them keeps the shard at present, below [`Ledger::stores`]. A call of [`Ledger::apply`] may mix stores, but shares their
    /// fate: when one of them fails, what the others did is not known to the caller.
    fn store_of(&self, _shard: Shard) -> usize {
        0
    }

    /// What is stored under each key; `Some` only for completed requests.
    async fn find_answers(&self, keys: &[IdempotencyKey]) -> Result<Vec<Option<(StoredAnswer, [u8; 32])>>>;

    async fn find_charge(&self, id: ChargeId) -> Result<Option<Charge>>;

    async fn charges(&self, query: &ChargeQuery) -> Result<Vec<Charge>>;

    async fn find_saga(&self, id: SagaId) -> Result<Option<Saga>>;

    /// Sagas that have not ended, in the order of their ids, after `after`.
    async fn open_sagas(&self, after: Option<SagaId>, limit: u32) -> Result<Vec<Saga>>;

    /// Open sagas that wait for somebody to move them on, those that wait longest first. Each is shown to one caller at a time, with a
    /// number that rises with each claim; when the lease is over to the next one.
    async fn claim_sagas(&self, lease: Duration, limit: u32) -> Result<Vec<ClaimedSaga>>;

    /// As stored: a period that is due is not opened by reading. `domain::ledger::pool_view` shows the pool as of now.
    async fn find_pool(&self, key: &PoolKey) -> Result<Option<Pool>>;

    /// Pools of a payer, or of everyone; ordered by key, after `after`.
    async fn pools(&self, payer: Option<Payer>, provider: Option<&Provider>, after: Option<&PoolKey>, limit: u32) -> Result<Vec<Pool>>;

    /// The budgets of a payer, and of one member when named; in the order of their keys, as stored (see `Budget::as_of`).
    async fn budgets(&self, payer: Payer, member: Option<UserId>) -> Result<Vec<Budget>>;

    /// Holds whose deadline has come by `now`, oldest first; of the stores whose lease this sweeper has, or gets now because it is free
    /// or over. A lease is no lock: a hold that is ended twice ends once.
    async fn expired_holds(&self, sweeper: Sweeper, now: DateTime<Utc>, limit: u32) -> Result<Vec<ChargeId>>;

    /// Upkeep, done now and then by every process, safe to repeat and to do at once: makes room for what will be written and drops
    /// the answers of the days (UTC) that ended before `forget_answers_before`.
    async fn maintain(&self, forget_answers_before: DateTime<Utc>) -> Result<()>;

    /// One shard as of one moment, for the audit.
    async fn snapshot(&self, shard: Shard) -> Result<ShardSnapshot>;

    /// The same, without the events up to this number. An adapter that need not read them should not.
    async fn snapshot_after(&self, shard: Shard, after: i64) -> Result<ShardSnapshot> {
        let mut snapshot = self.snapshot(shard).await?;
        snapshot.events.retain(|event| event.seq > after);
        Ok(snapshot)
    }

    /// Every answer that is kept about a charge, for the audit; two rows of one name follow each other.
    async fn scan_answers(&self, visit: &mut (dyn FnMut(KeptAnswer) + Send)) -> Result<()>;

    /// After the store was restored to an earlier moment: puts back the events that follow the shard's last number, as the log has them,
    /// makes of the state what they make of it, counts them as published, and raises the shard's epoch, in one transaction. Whatever knew
    /// the shard before, a lease or a process, is of an older epoch then. What is in no event (answers under idempotency keys, deadlines
    /// of holds, what limits said) stays lost; holds that are back have a deadline of `holds_expire_at`.
    ///
    /// # Errors
    /// `Corrupt`: the events are not the ones that follow; nothing was done. `OutcomeUnknown`: look at the outbox.
    async fn bring_back(&self, shard: Shard, _lost: &[OutboxRow], _holds_expire_at: DateTime<Utc>) -> Result<()> {
        // A ledger of a test that is never restored.
        Err(StoreError::unavailable("ledger", format!("shard {shard} was never lost")))
    }

    async fn ping(&self) -> Result<()>;
}
