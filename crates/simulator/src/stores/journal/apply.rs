//! One request of the ledger: looked up under its key, else decided, numbered and remembered.

use super::{Rows, StoredClaim, last_seq};
use chrono::{DateTime, TimeDelta, Utc};
use domain::{
    event::{NewEvent, UsageEvent},
    ledger::{Decision, Outcome, decide},
};
use ports::{
    Result, StoreError,
    ledger::{CLAIM_LEASE_SECS, Claim, LedgerAnswer, LedgerRequest, StoredAnswer},
    outbox::OutboxRow,
};

impl Rows {
    pub fn answer(&mut self, request: &LedgerRequest, recorded_at: DateTime<Utc>) -> Result<LedgerAnswer> {
        if let Some(answer) = self.earlier(request) {
            return Ok(answer);
        }
        let decision = decide(&mut self.state, &request.request);
        for event in &decision.events {
            let seq = self.append(event.clone(), request, recorded_at)?;
            self.state.number(event, seq);
        }
        let decision = Decision { outcome: decision.outcome.numbered(&self.state), ..decision };
        self.due.extend(std::mem::take(&mut self.state.changed.due_sagas).into_iter().map(|id| (id, recorded_at)));
        self.remember(request, &decision);
        Ok(LedgerAnswer::Decided(decision.outcome))
    }

    fn earlier(&mut self, request: &LedgerRequest) -> Option<LedgerAnswer> {
        let own = request.idempotency.as_ref()?;
        let claim = self.claims.get_mut(&own.key)?;
        if claim.fingerprint != own.fingerprint {
            return Some(LedgerAnswer::Mismatch);
        }
        let Some(lease_until) = claim.lease_until else { return Some(LedgerAnswer::Replayed(claim.answer.clone())) };
        if claim.charge_id.is_some() && claim.charge_id == request.request.command.charge() {
            return None;
        }
        if request.request.now < lease_until {
            return Some(LedgerAnswer::InProgress);
        }
        claim.lease_until = Some(lease(request));
        Some(LedgerAnswer::Resumed(claim.answer.clone()))
    }

    fn remember(&mut self, request: &LedgerRequest, decision: &Decision) {
        let Some(own) = &request.idempotency else { return };
        let open = self.claims.get(&own.key);
        let done = !decision.events.is_empty() || matches!(decision.outcome, Outcome::Charged { .. });
        if !done || (open.is_some() && own.claim == Claim::Opens) {
            return;
        }
        let claim = StoredClaim {
            fingerprint: own.fingerprint,
            lease_until: (own.claim == Claim::Opens).then(|| lease(request)),
            charge_id: open.and_then(|open| open.charge_id).or_else(|| request.request.command.charge()),
            answer: StoredAnswer { context: own.context.clone(), outcome: decision.outcome.clone() },
        };
        self.claims.insert(own.key.clone(), claim);
    }

    fn append(&mut self, event: NewEvent, request: &LedgerRequest, recorded_at: DateTime<Utc>) -> Result<i64> {
        let shard = event.payer.shard();
        let of_shard = self.shards.entry(shard).or_default();
        let seq = last_seq(of_shard) + 1;
        let event = UsageEvent { event, seq, epoch: 1, recorded_at };
        let payload = event_codec::encode(&event).map_err(|error| StoreError::corrupt("memory", error.to_string()))?;
        of_shard.rows.push(OutboxRow {
            shard,
            seq,
            epoch: 1,
            event_id: event.event.id.0,
            kind: event.event.kind.as_str().into(),
            tenant: event.event.payer.tenant(),
            occurred_at: event.event.occurred_at,
            trace_parent: None,
            seen: if event.event.charge_id.is_some() { request.seen.clone() } else { Vec::new() },
            payload,
        });
        Ok(seq)
    }
}

fn lease(request: &LedgerRequest) -> DateTime<Utc> {
    request.request.now + TimeDelta::seconds(CLAIM_LEASE_SECS)
}
