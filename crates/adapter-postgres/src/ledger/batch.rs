//! Decides a batch: from locked state to answers, numbered and encoded events, and the rows that changed. No I/O.

use super::{
    Failure,
    claims::{ClaimWrites, Verdict},
    load::Head,
};
use crate::{
    error::corrupt,
    packed::{PackedEvent, PackedRows},
};
use chrono::{DateTime, Utc};
use domain::{
    event::{NewEvent, UsageEvent},
    ids::Shard,
    ledger::{Decision, LedgerState, Outcome, decide},
};
use ports::ledger::{LedgerAnswer, LedgerRequest};
use std::collections::BTreeMap;

pub(super) struct Batch<'a> {
    pub answers: Vec<LedgerAnswer>,
    /// The events, numbered and encoded.
    pub events: PackedRows,
    pub claims: ClaimWrites<'a>,
    pub state: LedgerState,
    /// Heads of the locked shards, after this batch.
    pub heads: BTreeMap<Shard, Head>,
    recorded_at: DateTime<Utc>,
}

impl<'a> Batch<'a> {
    pub fn new(state: LedgerState, heads: BTreeMap<Shard, Head>, recorded_at: DateTime<Utc>) -> Self {
        let (answers, events) = (Vec::new(), PackedRows::default());
        Self { answers, events, claims: ClaimWrites::default(), state, heads, recorded_at }
    }

    /// Events that were decided before and that the store has lost, each under its own number.
    pub fn bring_back(&mut self, lost: &[(UsageEvent, PackedEvent)], holds_expire_at: DateTime<Utc>) -> Result<(), Failure> {
        for (event, packed) in lost {
            let head = self.heads.get_mut(&event.shard()).filter(|head| head.last_seq + 1 == event.seq);
            let head =
                head.ok_or_else(|| corrupt(format!("event {} of shard {} does not follow the last one", event.seq, event.shard())))?;
            head.last_seq = event.seq;
            self.events.push(event.shard(), event.seq, event.event.kind, packed);
        }
        self.state.bring_back(lost.iter().map(|(event, _)| event), holds_expire_at);
        Ok(())
    }

    /// Nothing to write: every request was refused, replayed or known.
    pub fn changes_nothing(&self) -> bool {
        self.events.is_empty() && self.claims.is_empty()
    }

    /// Whether `write.sql` alone is all that has to be written.
    pub fn is_one_statement(&self) -> bool {
        let changed = &self.state.changed;
        let only_new = changed.charges.len() == changed.new_charges.len();
        let rarer = changed.past_periods.is_empty() && changed.budgets.is_empty() && changed.sagas.is_empty();
        only_new && rarer && self.claims.only_inserts()
    }

    /// Answers the next request, in arrival order.
    pub fn answer(&mut self, request: &'a LedgerRequest, verdict: Verdict) -> Result<(), Failure> {
        let answer = match verdict {
            Verdict::Answer(answer) => answer,
            Verdict::TakeLease(stored) => {
                self.claims.take_lease(request);
                LedgerAnswer::Resumed(stored)
            }
            Verdict::Proceed { opened } => LedgerAnswer::Decided(self.decide(request, opened)?),
        };
        self.answers.push(answer);
        Ok(())
    }

    fn decide(&mut self, request: &'a LedgerRequest, opened: bool) -> Result<Outcome, Failure> {
        let Decision { outcome, events } = decide(&mut self.state, &request.request);
        let changed = !events.is_empty();
        for event in events {
            self.number(request, event)?;
        }
        let outcome = outcome.numbered(&self.state);
        self.claims.keep(request, opened, &outcome, changed)?;
        Ok(outcome)
    }

    fn number(&mut self, request: &LedgerRequest, event: NewEvent) -> Result<(), Failure> {
        let shard = event.payer.shard();
        // Only the shards that the requests name are locked.
        let head = self.heads.get_mut(&shard).filter(|_| shard == request.shard);
        let head = head.ok_or_else(|| corrupt("a request that names another shard than its payer's"))?;
        head.last_seq += 1;
        self.state.number(&event, head.last_seq);
        let numbered = UsageEvent { event, seq: head.last_seq, epoch: head.epoch, recorded_at: self.recorded_at };
        let payload = event_codec::encode(&numbered).map_err(|error| corrupt(error.to_string()))?;
        // A period that opens or a threshold that is reached with a charge says nothing of it.
        let seen = if numbered.event.charge_id.is_some() { request.seen.clone() } else { Vec::new() };
        let event = PackedEvent { trace_parent: request.trace_parent, seen, payload };
        self.events.push(shard, numbered.seq, numbered.event.kind, &event);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::{
        amount::Tokens,
        budget::{BudgetKey, BudgetUnit},
        ids::{ChargeId, Payer, Provider, SagaId, UserId},
        ledger::{Changed, Command, Request},
        pool::PoolKey,
        time::Period,
    };
    use ports::ledger::{Claim, Idempotency, IdempotencyKey};
    use uuid::Uuid;

    fn pool() -> PoolKey {
        PoolKey { payer: Payer::User(UserId(Uuid::from_u128(1))), provider: Provider::parse("openai").unwrap() }
    }

    fn is_one_statement(change: impl FnOnce(&mut Changed)) -> bool {
        let mut batch = Batch::new(LedgerState::default(), BTreeMap::new(), Utc::now());
        change(&mut batch.state.changed);
        batch.is_one_statement()
    }

    // A batch that is called one statement is written without a transaction around it: a second statement could be lost alone.
    #[test]
    fn what_takes_a_further_statement_is_not_one() {
        let (charge, now) = (ChargeId(Uuid::from_u128(2)), Utc::now());
        assert!(is_one_statement(|changed| {
            changed.pools.insert(pool());
            changed.charges.insert(charge);
            changed.new_charges.insert(charge);
        }));
        assert!(!is_one_statement(|changed| _ = changed.charges.insert(charge)), "a charge that existed");
        assert!(!is_one_statement(|changed| _ = changed.past_periods.insert((pool(), now))), "a period that is over");
        assert!(!is_one_statement(|changed| _ = changed.sagas.insert(SagaId(Uuid::from_u128(3)))), "a saga");
        let budget = BudgetKey { payer: pool().payer, member: None, provider: None, unit: BudgetUnit::Tokens, period: Period::Day };
        assert!(!is_one_statement(|changed| _ = changed.budgets.insert(budget)), "a budget");
    }

    #[test]
    fn a_lease_that_is_taken_over_is_not_written_by_the_one_statement() {
        let command = Command::Grant { pool: pool(), tokens: Tokens::new(1).unwrap(), reason: "test".into() };
        let key = IdempotencyKey { scope: "user:1".into(), key: "a".into() };
        let request = LedgerRequest {
            request: Request { command, now: Utc::now(), allowance_cap: None, cost: None },
            shard: pool().payer.shard(),
            idempotency: Some(Idempotency { key, fingerprint: [0; 32], claim: Claim::Completes, context: Vec::new() }),
            trace_parent: None,
            seen: Vec::new(),
        };
        let mut batch = Batch::new(LedgerState::default(), BTreeMap::new(), Utc::now());
        assert!(batch.claims.only_inserts() && batch.is_one_statement());
        batch.claims.take_lease(&request);
        assert!(!batch.claims.only_inserts() && !batch.is_one_statement());
        assert!(!batch.changes_nothing());
    }
}
