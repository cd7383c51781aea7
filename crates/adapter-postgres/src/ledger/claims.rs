//! Idempotency keys: what the stored rows say about the requests of a batch, and what has to be stored afterwards.
//!
//! A key's row is read and written under the lock of its shard. The fingerprint covers who pays, so the same request always comes
//! to the same shard; two different requests that use one key in two shards meet at the primary key, and the later one reads again.

use crate::{
    error::corrupt,
    shard::{shard_column, shard_of},
};
use chrono::{DateTime, TimeDelta, Utc};
use domain::{
    ids::{ChargeId, Shard},
    ledger::Outcome,
};
use ports::{
    Result,
    ledger::{CLAIM_LEASE_SECS, Claim, Idempotency, IdempotencyKey, LedgerAnswer, LedgerRequest, StoredAnswer},
};
use sqlx::{FromRow, PgConnection};
use std::collections::HashMap;
use uuid::Uuid;

#[derive(FromRow)]
pub(super) struct ClaimRow {
    scope: String,
    key: String,
    shard: i16,
    fingerprint: Vec<u8>,
    charge_id: Option<Uuid>,
    lease_until: Option<DateTime<Utc>>,
    context: Vec<u8>,
    outcome: String,
}

/// A key as it is stored.
pub(super) struct StoredClaim {
    shard: Shard,
    fingerprint: Vec<u8>,
    opened_by: Option<ChargeId>,
    /// `None` once completed.
    lease_until: Option<DateTime<Utc>>,
    answer: StoredAnswer,
}

impl ClaimRow {
    pub fn claim(self) -> Result<(IdempotencyKey, StoredClaim)> {
        let outcome = serde_json::from_str(&self.outcome).map_err(|error| corrupt(format!("a stored answer: {error}")))?;
        let claim = StoredClaim {
            shard: shard_of(self.shard)?,
            fingerprint: self.fingerprint,
            opened_by: self.charge_id.map(ChargeId),
            lease_until: self.lease_until,
            answer: StoredAnswer { context: self.context, outcome },
        };
        Ok((IdempotencyKey { scope: self.scope, key: self.key }, claim))
    }
}

impl StoredClaim {
    pub fn completed(self) -> Option<(StoredAnswer, [u8; 32])> {
        let fingerprint = self.fingerprint.try_into().ok()?;
        self.lease_until.is_none().then_some((self.answer, fingerprint))
    }
}

/// What the key says about its request.
pub(super) enum Verdict {
    /// Decide it; `opened` when the key was opened by this very charge.
    Proceed { opened: bool },
    /// The stored answer, without deciding anything.
    Answer(LedgerAnswer),
    /// The lease of a crashed opener is over: this request takes it.
    TakeLease(StoredAnswer),
}

#[derive(Default)]
pub(super) struct Claims(HashMap<IdempotencyKey, StoredClaim>);

impl Claims {
    /// The stored rows of the batch's keys. The shards must be locked.
    pub async fn load(connection: &mut PgConnection, requests: &[LedgerRequest]) -> sqlx::Result<Vec<ClaimRow>> {
        let keys = || requests.iter().filter_map(|request| request.idempotency.as_ref()).map(|idempotency| &idempotency.key);
        if keys().next().is_none() {
            return Ok(Vec::new());
        }
        sqlx::query_as(include_str!("../sql/ledger/load_claims.sql"))
            .bind(keys().map(|key| key.scope.as_str()).collect::<Vec<_>>())
            .bind(keys().map(|key| key.key.as_str()).collect::<Vec<_>>())
            .fetch_all(connection)
            .await
    }

    pub fn of(rows: Vec<ClaimRow>) -> Result<Self> {
        rows.into_iter().map(ClaimRow::claim).collect::<Result<_>>().map(Self)
    }

    pub fn holds(&self, key: &IdempotencyKey) -> bool {
        self.0.contains_key(key)
    }

    pub fn verdict(&self, request: &LedgerRequest) -> Verdict {
        let Some(idempotency) = &request.idempotency else { return Verdict::Proceed { opened: false } };
        let Some(stored) = self.0.get(&idempotency.key) else { return Verdict::Proceed { opened: false } };
        if stored.fingerprint != idempotency.fingerprint || stored.shard != request.shard {
            return Verdict::Answer(LedgerAnswer::Mismatch);
        }
        let Some(lease_until) = stored.lease_until else {
            return Verdict::Answer(LedgerAnswer::Replayed(stored.answer.clone()));
        };
        if stored.opened_by.is_some() && stored.opened_by == request.request.command.charge() {
            return Verdict::Proceed { opened: true };
        }
        if lease_until > request.request.now {
            return Verdict::Answer(LedgerAnswer::InProgress);
        }
        Verdict::TakeLease(stored.answer.clone())
    }
}

/// Rows to write. `insert` holds new keys, `complete` keys that were open, `renew` keys whose lease was taken over.
#[derive(Default)]
pub(super) struct ClaimWrites<'a> {
    insert: Vec<NewClaim<'a>>,
    complete: Vec<(&'a Idempotency, String)>,
    renew: Vec<(&'a IdempotencyKey, DateTime<Utc>)>,
}

struct NewClaim<'a> {
    idempotency: &'a Idempotency,
    shard: Shard,
    charge: Option<ChargeId>,
    outcome: String,
    now: DateTime<Utc>,
}

impl<'a> ClaimWrites<'a> {
    pub const fn is_empty(&self) -> bool {
        self.insert.is_empty() && self.complete.is_empty() && self.renew.is_empty()
    }

    /// Keeps the answer of a request that was done. A refused one leaves its key as it was.
    pub fn keep(&mut self, request: &'a LedgerRequest, opened: bool, outcome: &Outcome, changed: bool) -> Result<()> {
        let Some(idempotency) = &request.idempotency else { return Ok(()) };
        let done = changed || (opened && matches!(outcome, Outcome::Charged { .. }));
        if !done || (opened && idempotency.claim == Claim::Opens) {
            return Ok(());
        }
        let outcome = serde_json::to_string(outcome).map_err(|error| corrupt(format!("an answer that is no JSON: {error}")))?;
        if opened {
            self.complete.push((idempotency, outcome));
        } else {
            let (charge, now) = (request.request.command.charge(), request.request.now);
            self.insert.push(NewClaim { idempotency, shard: request.shard, charge, outcome, now });
        }
        Ok(())
    }

    pub fn take_lease(&mut self, request: &'a LedgerRequest) {
        if let Some(idempotency) = &request.idempotency {
            self.renew.push((&idempotency.key, lease_from(request.request.now)));
        }
    }

    pub async fn write(&self, connection: &mut PgConnection) -> sqlx::Result<()> {
        if !self.insert.is_empty() {
            self.insert(connection).await?;
        }
        if !self.complete.is_empty() {
            self.complete(connection).await?;
        }
        if !self.renew.is_empty() {
            self.renew(connection).await?;
        }
        Ok(())
    }

    async fn insert(&self, connection: &mut PgConnection) -> sqlx::Result<()> {
        let rows = &self.insert;
        let lease = |row: &NewClaim| (row.idempotency.claim == Claim::Opens).then(|| lease_from(row.now));
        sqlx::query(include_str!("../sql/ledger/insert_claims.sql"))
            .bind(rows.iter().map(|row| row.idempotency.key.scope.as_str()).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.idempotency.key.key.as_str()).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| shard_column(row.shard)).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.idempotency.fingerprint.as_slice()).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.charge.map(|id| id.0)).collect::<Vec<_>>())
            .bind(rows.iter().map(lease).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.idempotency.context.as_slice()).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.outcome.as_str()).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.now).collect::<Vec<_>>())
            .execute(connection)
            .await
            .map(drop)
    }

    async fn complete(&self, connection: &mut PgConnection) -> sqlx::Result<()> {
        let rows = &self.complete;
        sqlx::query(include_str!("../sql/ledger/complete_claims.sql"))
            .bind(rows.iter().map(|(idempotency, _)| idempotency.key.scope.as_str()).collect::<Vec<_>>())
            .bind(rows.iter().map(|(idempotency, _)| idempotency.key.key.as_str()).collect::<Vec<_>>())
            .bind(rows.iter().map(|(idempotency, _)| idempotency.context.as_slice()).collect::<Vec<_>>())
            .bind(rows.iter().map(|(_, outcome)| outcome.as_str()).collect::<Vec<_>>())
            .execute(connection)
            .await
            .map(drop)
    }

    async fn renew(&self, connection: &mut PgConnection) -> sqlx::Result<()> {
        let rows = &self.renew;
        sqlx::query(include_str!("../sql/ledger/renew_claims.sql"))
            .bind(rows.iter().map(|(key, _)| key.scope.as_str()).collect::<Vec<_>>())
            .bind(rows.iter().map(|(key, _)| key.key.as_str()).collect::<Vec<_>>())
            .bind(rows.iter().map(|(_, lease)| *lease).collect::<Vec<_>>())
            .execute(connection)
            .await
            .map(drop)
    }
}

fn lease_from(now: DateTime<Utc>) -> DateTime<Utc> {
    now + TimeDelta::seconds(CLAIM_LEASE_SECS)
}
