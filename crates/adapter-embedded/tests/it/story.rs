//! A few payers, their pools and what they ask of the ledger.

use chrono::{DateTime, Utc};
use domain::{
    amount::Tokens,
    charge::{ChargeSpec, Metadata},
    ids::{ChargeId, Payer, Provider, UserId},
    ledger::{Command, LedgerState, Request},
    pool::PoolKey,
};
use ports::ledger::{Claim, Idempotency, IdempotencyKey, Ledger, LedgerRequest, ShardSnapshot};
use uuid::Uuid;

pub fn tokens(amount: i64) -> Tokens {
    Tokens::new(amount).unwrap()
}

pub fn start() -> DateTime<Utc> {
    "2026-11-21T12:00:00Z".parse().unwrap()
}

pub fn payer(number: u128) -> Payer {
    Payer::User(UserId(Uuid::from_u128(number)))
}

pub fn pool(payer: Payer) -> PoolKey {
    PoolKey { payer, provider: Provider::parse("openai").unwrap() }
}

pub fn request(payer: Payer, command: Command) -> LedgerRequest {
    let request = Request { command, now: start(), allowance_cap: None, cost: None };
    LedgerRequest { request, shard: payer.shard(), idempotency: None, trace_parent: None, seen: Vec::new() }
}

pub fn grant(payer: Payer, amount: i64) -> LedgerRequest {
    request(payer, Command::Grant { pool: pool(payer), tokens: tokens(amount), reason: "test".into() })
}

pub fn spec(payer: Payer) -> ChargeSpec {
    ChargeSpec {
        id: ChargeId::new(payer.shard(), start()),
        payer,
        user_id: UserId(payer.tenant()),
        key_id: None,
        provider: pool(payer).provider,
        model: None,
        metadata: Metadata::new(),
    }
}

pub fn consume(payer: Payer, amount: i64) -> LedgerRequest {
    request(payer, Command::Consume { spec: spec(payer), tokens: tokens(amount) })
}

pub fn keyed(request: LedgerRequest, key: &str) -> LedgerRequest {
    let key = IdempotencyKey { scope: "user:test|POST /api/v1/tokens/consume".into(), key: key.into() };
    let idempotency = Idempotency { key, fingerprint: [7; 32], claim: Claim::Completes, context: Vec::new() };
    LedgerRequest { idempotency: Some(idempotency), ..request }
}

/// The stored state of a shard equals the fold of its stored events, and their numbers have no gap.
pub async fn assert_state_is_the_fold_of_events(ledger: &dyn Ledger, payer: Payer) -> ShardSnapshot {
    let snapshot = ledger.snapshot(payer.shard()).await.unwrap();
    let mut fold = LedgerState::default();
    for (expected, stored) in (1..).zip(&snapshot.events) {
        assert_eq!(stored.seq, expected);
        fold.apply(&stored.event.as_ref().unwrap().event);
    }
    assert_eq!(snapshot.last_seq, i64::try_from(snapshot.events.len()).unwrap());
    for charge in &snapshot.charges {
        let mut folded = fold.charges.remove(&charge.spec.id).expect("a charge has events");
        (folded.seq, folded.expires_at) = (charge.seq, charge.expires_at);
        assert_eq!(&folded, charge);
    }
    assert!(fold.charges.is_empty(), "each event's charge has its row");
    for pool in &snapshot.pools {
        assert_eq!(fold.pools.remove(&pool.key).as_ref(), Some(pool));
    }
    assert!(fold.pools.is_empty(), "each event's pool has its row");
    assert_eq!(snapshot.past_periods.len(), fold.past_periods.len());
    for (key, period) in &snapshot.past_periods {
        assert_eq!(fold.past_periods.get(&(key.clone(), period.starts_at)), Some(period));
    }
    snapshot
}
