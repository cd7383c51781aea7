//! Idempotency: which requests were done before, which are being done, and what is remembered of this batch.

use crate::{
    columns::{Hex, corrupt, from_json, instant, optional_millis, to_json},
    database::failed,
};
use chrono::{DateTime, TimeDelta, Utc};
use domain::{
    ids::ChargeId,
    ledger::{Command, Decision, Outcome, Request},
};
use ports::{
    Result,
    ledger::{CLAIM_LEASE_SECS, Claim, Idempotency, IdempotencyKey, LedgerAnswer, LedgerRequest, StoredAnswer},
};
use serde::Serialize;
use sqlx::SqliteConnection;
use std::collections::HashMap;
use uuid::Uuid;

/// What is stored under one key.
#[derive(Clone, Debug)]
pub(super) struct StoredClaim {
    fingerprint: [u8; 32],
    /// `None` once the request has ended.
    lease_until: Option<DateTime<Utc>>,
    /// The charge that opened the key.
    charge_id: Option<ChargeId>,
    answer: StoredAnswer,
}

impl StoredClaim {
    pub(super) fn into_completed(self) -> Option<(StoredAnswer, [u8; 32])> {
        self.lease_until.is_none().then_some((self.answer, self.fingerprint))
    }
}

/// The claims that the requests of one batch meet and make.
#[derive(Debug)]
pub(super) struct Claims {
    stored: HashMap<IdempotencyKey, StoredClaim>,
    changed: Vec<ClaimRow>,
}

impl Claims {
    pub(super) async fn load(connection: &mut SqliteConnection, requests: &[LedgerRequest]) -> Result<Self> {
        let keys: Vec<IdempotencyKey> =
            requests.iter().filter_map(|request| request.idempotency.as_ref()).map(|own| own.key.clone()).collect();
        Ok(Self { stored: find(connection, &keys).await?, changed: Vec::new() })
    }

    /// The answer of a request that must not be decided (again); a lease that is over goes to this caller.
    pub(super) fn earlier_answer(&mut self, request: &LedgerRequest) -> Result<Option<LedgerAnswer>> {
        let Some(own) = &request.idempotency else { return Ok(None) };
        let Some(stored) = self.stored.get(&own.key) else { return Ok(None) };
        if stored.fingerprint != own.fingerprint {
            return Ok(Some(LedgerAnswer::Mismatch));
        }
        let Some(lease_until) = stored.lease_until else { return Ok(Some(LedgerAnswer::Replayed(stored.answer.clone()))) };
        if is_openers(&request.request.command, stored) {
            return Ok(None);
        }
        let now = request.request.now;
        if now < lease_until {
            return Ok(Some(LedgerAnswer::InProgress));
        }
        let answer = stored.answer.clone();
        let row = ClaimRow::new(&own.key, &stored.fingerprint, Some(lease_from(now)), stored.charge_id, &answer, now)?;
        self.changed.push(row);
        Ok(Some(LedgerAnswer::Resumed(answer)))
    }

    /// Remembers what was decided, if it is to be remembered.
    pub(super) fn remember(&mut self, own: &Idempotency, request: &Request, decision: &Decision) -> Result<()> {
        let open = self.stored.get(&own.key);
        // What was found done counts as done: asked again later it may not be refused, and an opened key could otherwise never end.
        let done = !decision.events.is_empty() || matches!(decision.outcome, Outcome::Charged { .. });
        if !done || (open.is_some() && own.claim == Claim::Opens) {
            return Ok(());
        }
        let lease_until = (own.claim == Claim::Opens).then(|| lease_from(request.now));
        let charge_id = open.and_then(|open| open.charge_id).or_else(|| request.command.charge());
        let answer = StoredAnswer { context: own.context.clone(), outcome: decision.outcome.clone() };
        self.changed.push(ClaimRow::new(&own.key, &own.fingerprint, lease_until, charge_id, &answer, request.now)?);
        Ok(())
    }

    pub(super) fn changed(&self) -> &[ClaimRow] {
        &self.changed
    }
}

/// Whether this request is about the charge that opened the key: its end, or the opening itself, asked again because its answer was lost.
fn is_openers(command: &Command, stored: &StoredClaim) -> bool {
    stored.charge_id.is_some() && command.charge() == stored.charge_id
}

fn lease_from(now: DateTime<Utc>) -> DateTime<Utc> {
    now + TimeDelta::seconds(CLAIM_LEASE_SECS)
}

pub(super) async fn find(connection: &mut SqliteConnection, keys: &[IdempotencyKey]) -> Result<HashMap<IdempotencyKey, StoredClaim>> {
    if keys.is_empty() {
        return Ok(HashMap::new());
    }
    let wanted: Vec<KeyRef<'_>> = keys.iter().map(|key| KeyRef { scope: &key.scope, key: &key.key }).collect();
    let query = sqlx::query_as::<_, FoundRow>(include_str!("../../sql/find_idempotency.sql")).bind(to_json(&wanted)?);
    let rows = query.fetch_all(connection).await.map_err(failed)?;
    rows.into_iter().map(FoundRow::into_claim).collect()
}

#[derive(Debug, Serialize)]
struct KeyRef<'a> {
    scope: &'a str,
    key: &'a str,
}

#[derive(Debug)]
struct FoundRow {
    scope: String,
    key: String,
    fingerprint: Vec<u8>,
    lease_until: Option<i64>,
    charge_id: Option<Uuid>,
    context: Vec<u8>,
    outcome: String,
}

from_row!(FoundRow { scope, key, fingerprint, lease_until, charge_id, context, outcome });

impl FoundRow {
    fn into_claim(self) -> Result<(IdempotencyKey, StoredClaim)> {
        let claim = StoredClaim {
            fingerprint: self.fingerprint.try_into().map_err(|_| corrupt("idempotency.fingerprint is not 32 bytes"))?,
            lease_until: self.lease_until.map(instant).transpose()?,
            charge_id: self.charge_id.map(ChargeId),
            answer: StoredAnswer { context: self.context, outcome: from_json("idempotency.outcome", &self.outcome)? },
        };
        Ok((IdempotencyKey { scope: self.scope, key: self.key }, claim))
    }
}

/// A claim to be written; `created_at` only counts for a new one.
#[derive(Debug, Serialize)]
pub(super) struct ClaimRow {
    scope: String,
    key: String,
    fingerprint: Hex,
    lease_until: Option<i64>,
    charge_id: Option<Uuid>,
    context: Hex,
    outcome: String,
    created_at: i64,
}

impl ClaimRow {
    fn new(
        key: &IdempotencyKey,
        fingerprint: &[u8; 32],
        lease_until: Option<DateTime<Utc>>,
        charge_id: Option<ChargeId>,
        answer: &StoredAnswer,
        now: DateTime<Utc>,
    ) -> Result<Self> {
        Ok(Self {
            scope: key.scope.clone(),
            key: key.key.clone(),
            fingerprint: Hex(fingerprint.to_vec()),
            lease_until: optional_millis(lease_until),
            charge_id: charge_id.map(|id| id.0),
            context: Hex(answer.context.clone()),
            outcome: to_json(&answer.outcome)?,
            created_at: now.timestamp_millis(),
        })
    }
}
