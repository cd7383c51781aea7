//! Requests as the services make them, in one line each, and the oracle: a shard's state is the fold of its events.

use chrono::{DateTime, TimeDelta, Utc};
use domain::{
    amount::Tokens,
    budget::{BudgetKey, BudgetTerms, BudgetUnit},
    charge::{Charge, ChargeSpec, Metadata},
    ids::{ChargeId, Model, OrgId, Payer, Provider, SagaId, Shard, UserId},
    ledger::{AllowanceChange, Command, LedgerState, Outcome, Purchase, Refusals, Request},
    money::Cost,
    pool::PoolKey,
    saga::SagaStatus,
    threshold::Threshold,
    time::Period,
};
use ports::ledger::{Claim, ClaimedSaga, Idempotency, IdempotencyKey, Ledger, LedgerAnswer, LedgerRequest, ShardSnapshot, Sweeper};
use std::time::Duration;
use uuid::Uuid;

pub fn start() -> DateTime<Utc> {
    "2026-11-21T12:00:00Z".parse().unwrap()
}

pub fn tokens(amount: i64) -> Tokens {
    Tokens::new(amount).unwrap()
}

/// A payer at one provider.
#[derive(Clone, Debug)]
pub struct Customer {
    pub payer: Payer,
    pub user_id: UserId,
    pub provider: Provider,
    pub now: DateTime<Utc>,
}

impl Customer {
    pub fn user() -> Self {
        let user_id = UserId(Uuid::new_v4());
        Self { payer: Payer::User(user_id), user_id, provider: Provider::parse("openai").unwrap(), now: start() }
    }

    pub fn org() -> Self {
        Self { payer: Payer::Org(OrgId(Uuid::new_v4())), ..Self::user() }
    }

    /// A user of one particular shard.
    pub fn in_shard(shard: Shard) -> Self {
        std::iter::repeat_with(Self::user).find(|customer| customer.payer.shard() == shard).unwrap()
    }

    pub fn at(&self, provider: &str) -> Self {
        Self { provider: Provider::parse(provider).unwrap(), ..self.clone() }
    }

    pub fn later(&self, by: TimeDelta) -> Self {
        Self { now: self.now + by, ..self.clone() }
    }

    pub fn pool(&self) -> PoolKey {
        PoolKey { payer: self.payer, provider: self.provider.clone() }
    }

    pub fn shard(&self) -> Shard {
        self.payer.shard()
    }

    pub fn spec(&self) -> ChargeSpec {
        ChargeSpec {
            id: ChargeId::new(self.shard(), self.now),
            payer: self.payer,
            user_id: self.user_id,
            key_id: None,
            provider: self.provider.clone(),
            model: Some(Model::parse("gpt-4o").unwrap()),
            metadata: Metadata::new(),
        }
    }

    pub fn request(&self, command: Command) -> LedgerRequest {
        let request = Request { command, now: self.now, allowance_cap: None, cost: None };
        LedgerRequest { request, shard: self.shard(), idempotency: None, trace_parent: None, seen: Vec::new() }
    }

    pub fn grant(&self, amount: i64) -> LedgerRequest {
        self.request(Command::Grant { pool: self.pool(), tokens: tokens(amount), reason: "test".into() })
    }

    pub fn allowance(&self, amount: i64, period: Period) -> LedgerRequest {
        let change = AllowanceChange { allowance: Some(tokens(amount)), period: Some(period), ..AllowanceChange::default() };
        self.request(Command::SetAllowance { pool: self.pool(), change })
    }

    /// The thresholds of the pool.
    pub fn marks(&self, thresholds: &[Threshold]) -> LedgerRequest {
        let change = AllowanceChange { thresholds: Some(thresholds.iter().copied().collect()), ..AllowanceChange::default() };
        self.request(Command::SetAllowance { pool: self.pool(), change })
    }

    pub fn consume(&self, amount: i64) -> LedgerRequest {
        self.request(Command::Consume { spec: self.spec(), tokens: tokens(amount) })
    }

    /// A hold for 60 seconds.
    pub fn hold(&self, amount: i64) -> LedgerRequest {
        let expires_at = self.now + TimeDelta::seconds(60);
        self.request(Command::Hold { spec: self.spec(), tokens: tokens(amount), expires_at })
    }

    /// Usage that names itself and happened at a time.
    pub fn record(&self, name: [u8; 16], amount: i64, occurred_at: DateTime<Utc>) -> LedgerRequest {
        let spec = ChargeSpec { id: ChargeId::of_usage(self.shard(), name), ..self.spec() };
        self.request(Command::Record { spec, tokens: tokens(amount), occurred_at: Some(occurred_at) })
    }

    pub fn settle(&self, charge_id: ChargeId, amount: i64) -> LedgerRequest {
        self.request(Command::Settle { charge_id, tokens: tokens(amount) })
    }

    /// The same request at a cost, in cents.
    pub fn costing(&self, cents: i64, request: LedgerRequest) -> LedgerRequest {
        let cost = Some(Cost { minor_units: tokens(cents), currency: "USD".parse().unwrap() });
        LedgerRequest { request: Request { cost, ..request.request }, ..request }
    }

    pub fn budget_key(&self, unit: BudgetUnit, period: Period) -> BudgetKey {
        BudgetKey { payer: self.payer, member: None, provider: None, unit, period }
    }

    pub fn set_budget(&self, key: &BudgetKey, limit: Option<i64>, thresholds: &[Threshold]) -> LedgerRequest {
        let terms = BudgetTerms { limit: limit.map(tokens), time_zone: chrono_tz::UTC, thresholds: thresholds.iter().copied().collect() };
        self.request(Command::SetBudget { key: key.clone(), terms })
    }

    /// `None`: all that is left.
    pub fn refund(&self, charge_id: ChargeId, amount: Option<i64>) -> LedgerRequest {
        let saga_id = SagaId::new(self.shard(), self.now);
        self.request(Command::Refund { saga_id, charge_id, tokens: amount.map(tokens), reason: Some("as agreed".into()) })
    }

    /// For 5 cents.
    pub fn purchase(&self, amount: i64) -> LedgerRequest {
        self.request(Command::StartPurchase(Purchase {
            saga_id: SagaId::new(self.shard(), self.now),
            pool: self.pool(),
            user_id: self.user_id,
            plan_id: Some("pack".into()),
            tokens: tokens(amount),
            price: Cost { minor_units: tokens(5), currency: "EUR".parse().unwrap() },
        }))
    }

    pub fn move_purchase(&self, claimed: &ClaimedSaga, to: SagaStatus) -> LedgerRequest {
        self.request(Command::MovePurchase { saga_id: claimed.saga.id, claim: claimed.claim, to, reason: None })
    }

    pub fn complete_refund(&self, saga_id: SagaId) -> LedgerRequest {
        self.request(Command::CompleteRefund { saga_id })
    }

    pub fn release(&self, charge_id: ChargeId) -> LedgerRequest {
        self.request(Command::Release { charge_id })
    }

    pub fn expire(&self, charge_id: ChargeId) -> LedgerRequest {
        self.request(Command::Expire { charge_id })
    }

    pub fn refusals(&self, count: i64) -> LedgerRequest {
        self.request(Command::RecordRefusals(Refusals {
            payer: self.payer,
            user_id: self.user_id,
            key_id: None,
            provider: self.provider.clone(),
            model: None,
            reason: "rate_limited".into(),
            tokens: tokens(count * 10),
            count,
        }))
    }
}

/// The same request under an idempotency key. The fingerprint is 32 times the given byte.
pub fn under_key(request: LedgerRequest, key: &str, fingerprint: u8, claim: Claim) -> LedgerRequest {
    let key = IdempotencyKey { scope: "user:7|POST /api/v1/tokens/consume".into(), key: key.into() };
    let idempotency = Idempotency { key, fingerprint: [fingerprint; 32], claim, context: b"context".to_vec() };
    LedgerRequest { idempotency: Some(idempotency), ..request }
}

/// Sweeps without keeping others from it.
pub const ANYONE: Sweeper = Sweeper { id: Uuid::from_u128(1), lease: Duration::ZERO };

/// A key nobody else uses.
pub fn fresh_key() -> String {
    format!("key-{}", Uuid::new_v4())
}

pub fn charge_id(request: &LedgerRequest) -> ChargeId {
    request.request.command.charge().unwrap()
}

pub async fn apply_one(ledger: &dyn Ledger, request: &LedgerRequest) -> LedgerAnswer {
    let answers = ledger.apply(std::slice::from_ref(request)).await.unwrap();
    let [answer] = answers.try_into().unwrap();
    answer
}

/// What was decided now.
pub async fn outcome(ledger: &dyn Ledger, request: &LedgerRequest) -> Outcome {
    match apply_one(ledger, request).await {
        LedgerAnswer::Decided(outcome) => outcome,
        other => panic!("expected a decision, not {other:?}"),
    }
}

/// The charge that was made, changed or found done.
pub async fn charged(ledger: &dyn Ledger, request: &LedgerRequest) -> Charge {
    match outcome(ledger, request).await {
        Outcome::Charged { charge, .. } => *charge,
        other => panic!("expected a charge, not {other:?}"),
    }
}

/// The numbers are dense, and charges, pools and periods are exactly what the events say.
pub fn assert_state_is_the_fold_of_the_events(snapshot: &ShardSnapshot) {
    let mut fold = LedgerState::default();
    for (position, stored) in (1..).zip(&snapshot.events) {
        let event = stored.event.as_ref().unwrap();
        assert_eq!((stored.seq, event.seq), (position, position), "numbers are dense from 1");
        fold.apply(&event.event);
        fold.number(&event.event, stored.seq);
    }
    assert_eq!(i64::try_from(snapshot.events.len()).unwrap(), snapshot.last_seq, "every number given has its row");
    let mut pools: Vec<_> = fold.pools.into_values().collect();
    pools.sort_by(|left, right| left.key.cmp(&right.key));
    let mut stored_pools = snapshot.pools.clone();
    stored_pools.sort_by(|left, right| left.key.cmp(&right.key));
    assert_eq!(stored_pools, pools);
    let periods = snapshot.past_periods.iter().map(|(key, period)| ((key.clone(), period.starts_at), *period)).collect();
    assert_eq!(fold.past_periods, periods);
    let budgets: Vec<_> = fold.budgets.into_values().collect();
    assert_eq!(snapshot.budgets, budgets);
    let sagas: Vec<_> = fold.sagas.into_values().collect();
    assert_eq!(snapshot.sagas, sagas);
    assert_eq!(fold.charges.len(), snapshot.charges.len());
    for charge in &snapshot.charges {
        // The deadline of a hold is no part of its event.
        let expires_at = charge.expires_at;
        assert_eq!(Charge { expires_at, ..fold.charges[&charge.spec.id].clone() }, *charge);
    }
}

/// The oracle on a customer's shard.
pub async fn audit(ledger: &dyn Ledger, customer: &Customer) {
    assert_state_is_the_fold_of_the_events(&ledger.snapshot(customer.shard()).await.unwrap());
}
