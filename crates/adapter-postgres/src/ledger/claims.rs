//! Idempotency keys: what the stored rows say about the requests of a batch, and what has to be stored afterwards.
//!
//! A key's row is read and written under the lock of its shard. The fingerprint covers who pays, so the same request always comes
//! to the same shard; two different requests that use one key in two shards meet at the primary key, and the later one reads again.

use super::{Failure, answers, load::load_charges, write::Statement};
use crate::shard::{shard_column, shard_of};
use chrono::{DateTime, TimeDelta, Utc};
use domain::{
    charge::Charge,
    ids::{ChargeId, Shard},
    ledger::Outcome,
};
use ports::{
    Result,
    ledger::{CLAIM_LEASE_SECS, Claim, Idempotency, IdempotencyKey, LedgerAnswer, LedgerRequest, StoredAnswer},
};
use sha2::{Digest, Sha256};
use sqlx::{FromRow, PgConnection};
use std::collections::{BTreeSet, HashMap};
use uuid::Uuid;

#[derive(FromRow)]
struct ClaimRow {
    name: Uuid,
    shard: i16,
    fingerprint: Vec<u8>,
    charge_id: Option<Uuid>,
    lease_until: Option<DateTime<Utc>>,
    context: Vec<u8>,
    outcome: String,
}

/// A key as it is stored.
struct StoredClaim {
    shard: Shard,
    fingerprint: Vec<u8>,
    opened_by: Option<ChargeId>,
    /// `None` once completed.
    lease_until: Option<DateTime<Utc>>,
    answer: StoredAnswer,
}

impl ClaimRow {
    fn charge(&self) -> Result<Option<(Shard, ChargeId)>> {
        self.charge_id.map(|id| Ok((shard_of(self.shard)?, ChargeId(id)))).transpose()
    }

    fn claim(self, charges: &HashMap<ChargeId, Charge>) -> Result<(Uuid, StoredClaim)> {
        let opened_by = self.charge_id.map(ChargeId);
        let outcome = answers::from_text(&self.outcome, opened_by.and_then(|id| charges.get(&id)))?;
        let answer = StoredAnswer { context: self.context, outcome };
        let shard = shard_of(self.shard)?;
        Ok((self.name, StoredClaim { shard, fingerprint: self.fingerprint, opened_by, lease_until: self.lease_until, answer }))
    }
}

/// The name under which a key is stored. Nobody can make a key that meets another one's name.
fn name_of(key: &IdempotencyKey) -> Uuid {
    let hash = Sha256::new().chain_update(&key.scope).chain_update([0]).chain_update(&key.key).finalize();
    let mut name = [0; 16];
    name.copy_from_slice(&hash[..16]);
    Uuid::from_bytes(name)
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

/// The stored rows of some keys.
pub(super) struct Claims(HashMap<Uuid, StoredClaim>);

impl Claims {
    /// Before a decision the shards of the keys must be locked.
    pub async fn load<'a>(connection: &mut PgConnection, keys: impl Iterator<Item = &'a IdempotencyKey>) -> Result<Self, Failure> {
        let names: Vec<Uuid> = keys.map(name_of).collect();
        if names.is_empty() {
            return Ok(Self(HashMap::new()));
        }
        let statement = sqlx::query_as(include_str!("../sql/ledger/load_claims.sql")).bind(names);
        let rows: Vec<ClaimRow> = statement.fetch_all(&mut *connection).await?;
        let ids: BTreeSet<(Shard, ChargeId)> = rows.iter().filter_map(|row| row.charge().transpose()).collect::<Result<_>>()?;
        let charges = load_charges(connection, &ids).await?.into_iter().map(|charge| (charge.spec.id, charge)).collect();
        Ok(Self(rows.into_iter().map(|row| row.claim(&charges)).collect::<Result<_>>()?))
    }

    pub fn holds(&self, key: &IdempotencyKey) -> bool {
        self.0.contains_key(&name_of(key))
    }

    /// The answer and fingerprint of a completed request.
    pub fn completed(&self, key: &IdempotencyKey) -> Option<(StoredAnswer, [u8; 32])> {
        let stored = self.0.get(&name_of(key)).filter(|stored| stored.lease_until.is_none())?;
        Some((stored.answer.clone(), stored.fingerprint.as_slice().try_into().ok()?))
    }

    pub fn verdict(&self, request: &LedgerRequest) -> Verdict {
        let Some(idempotency) = &request.idempotency else { return Verdict::Proceed { opened: false } };
        let Some(stored) = self.0.get(&name_of(&idempotency.key)) else { return Verdict::Proceed { opened: false } };
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

    pub const fn only_inserts(&self) -> bool {
        self.complete.is_empty() && self.renew.is_empty()
    }

    /// Keeps the answer of a request that was done, also of one that found it done before: asked again later, it may not be refused.
    /// A refused one leaves its key as it was.
    pub fn keep(&mut self, request: &'a LedgerRequest, opened: bool, outcome: &Outcome, changed: bool) -> Result<()> {
        let Some(idempotency) = &request.idempotency else { return Ok(()) };
        let done = changed || matches!(outcome, Outcome::Charged { .. });
        if !done || (opened && idempotency.claim == Claim::Opens) {
            return Ok(());
        }
        let outcome = answers::to_text(outcome)?;
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

    /// What `write.sql` does not write.
    pub async fn change(&self, connection: &mut PgConnection) -> sqlx::Result<()> {
        if !self.complete.is_empty() {
            self.complete(connection).await?;
        }
        if !self.renew.is_empty() {
            self.renew(connection).await?;
        }
        Ok(())
    }

    /// The new keys, for `write.sql`.
    pub fn bind_new<'q>(&'q self, statement: Statement<'q>) -> Statement<'q> {
        let rows = &self.insert;
        let lease = |row: &NewClaim| (row.idempotency.claim == Claim::Opens).then(|| lease_from(row.now));
        statement
            .bind(rows.iter().map(|row| name_of(&row.idempotency.key)).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| shard_column(row.shard)).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.idempotency.fingerprint.as_slice()).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.charge.map(|id| id.0)).collect::<Vec<_>>())
            .bind(rows.iter().map(lease).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.idempotency.context.as_slice()).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.outcome.as_str()).collect::<Vec<_>>())
    }

    async fn complete(&self, connection: &mut PgConnection) -> sqlx::Result<()> {
        let rows = &self.complete;
        sqlx::query(include_str!("../sql/ledger/complete_claims.sql"))
            .bind(rows.iter().map(|(idempotency, _)| name_of(&idempotency.key)).collect::<Vec<_>>())
            .bind(rows.iter().map(|(idempotency, _)| idempotency.context.as_slice()).collect::<Vec<_>>())
            .bind(rows.iter().map(|(_, outcome)| outcome.as_str()).collect::<Vec<_>>())
            .execute(connection)
            .await
            .map(drop)
    }

    async fn renew(&self, connection: &mut PgConnection) -> sqlx::Result<()> {
        let rows = &self.renew;
        sqlx::query(include_str!("../sql/ledger/renew_claims.sql"))
            .bind(rows.iter().map(|(key, _)| name_of(key)).collect::<Vec<_>>())
            .bind(rows.iter().map(|(_, lease)| *lease).collect::<Vec<_>>())
            .execute(connection)
            .await
            .map(drop)
    }
}

fn lease_from(now: DateTime<Utc>) -> DateTime<Utc> {
    now + TimeDelta::seconds(CLAIM_LEASE_SECS)
}
