//! The ledger's rules against the sentences of the documentation.

mod budget_rules;
mod budgets;
mod ends;
mod model;
mod needs;
mod periods;
mod purchases;
mod refunds;
mod thresholds;

use super::*;
use crate::{
    amount::Tokens,
    charge::{ChargeSpec, ChargeStatus, Metadata},
    event::{EventType, NewEvent},
    ids::{Payer, Provider, SagaId, UserId},
    pool::Balance,
    time::Period,
};
use chrono::TimeDelta;
use proptest::prelude::*;
use uuid::Uuid;

fn tokens(amount: i64) -> Tokens {
    Tokens::new(amount).unwrap()
}

fn start() -> DateTime<Utc> {
    "2026-11-21T12:00:00Z".parse().unwrap()
}

struct Story {
    state: LedgerState,
    events: Vec<NewEvent>,
    now: DateTime<Utc>,
    pool: PoolKey,
}

impl Story {
    fn new() -> Self {
        let payer = Payer::User(UserId(Uuid::from_u128(7)));
        let pool = PoolKey { payer, provider: Provider::parse("openai").unwrap() };
        Self { state: LedgerState::default(), events: Vec::new(), now: start(), pool }
    }

    fn run(&mut self, command: Command) -> Outcome {
        let decision = decide(&mut self.state, &Request { command, now: self.now, allowance_cap: None, cost: None });
        self.events.extend(decision.events);
        decision.outcome
    }

    fn spec(&self) -> ChargeSpec {
        let Payer::User(user_id) = self.pool.payer else { panic!("the story is about a user") };
        ChargeSpec {
            id: ChargeId::new(self.pool.payer.shard(), self.now),
            payer: self.pool.payer,
            user_id,
            key_id: None,
            provider: self.pool.provider.clone(),
            model: None,
            metadata: Metadata::new(),
        }
    }

    fn grant(&mut self, amount: i64) -> Outcome {
        self.run(Command::Grant { pool: self.pool.clone(), tokens: tokens(amount), reason: "test".into() })
    }

    fn allowance(&mut self, amount: i64, period: Period) {
        let change = AllowanceChange { allowance: Some(tokens(amount)), period: Some(period), ..AllowanceChange::default() };
        self.run(Command::SetAllowance { pool: self.pool.clone(), change });
    }

    fn consume(&mut self, amount: i64) -> Outcome {
        let spec = self.spec();
        self.run(Command::Consume { spec, tokens: tokens(amount) })
    }

    fn hold(&mut self, amount: i64) -> ChargeId {
        let spec = self.spec();
        let id = spec.id;
        let expires_at = self.now + TimeDelta::seconds(60);
        let outcome = self.run(Command::Hold { spec, tokens: tokens(amount), expires_at });
        assert!(matches!(outcome, Outcome::Charged { .. }), "{outcome:?}");
        id
    }

    /// Usage that names itself, as told by anyone.
    fn record(&mut self, name: u8, amount: i64, occurred_at: Option<DateTime<Utc>>) -> Outcome {
        let spec = ChargeSpec { id: ChargeId::of_usage(self.pool.payer.shard(), [name; 16]), ..self.spec() };
        self.run(Command::Record { spec, tokens: tokens(amount), occurred_at })
    }

    fn settle(&mut self, charge_id: ChargeId, amount: i64) -> Outcome {
        self.run(Command::Settle { charge_id, tokens: tokens(amount) })
    }

    /// `None`: all that is left.
    fn refund(&mut self, charge_id: ChargeId, amount: Option<i64>) -> Outcome {
        let saga_id = SagaId::new(self.pool.payer.shard(), self.now);
        self.run(Command::Refund { saga_id, charge_id, tokens: amount.map(tokens), reason: None })
    }

    fn pool(&self) -> &Pool {
        &self.state.pools[&self.pool]
    }

    fn remaining(&self) -> i64 {
        self.pool().remaining().get()
    }
}

#[test]
fn a_pool_that_does_not_exist_refuses_with_nothing_left() {
    let mut story = Story::new();
    assert!(matches!(story.consume(1), Outcome::QuotaExhausted(refusal) if refusal.remaining.is_zero()));
    assert!(story.events.is_empty());
}

#[test]
fn the_allowance_is_spent_before_purchased_tokens() {
    let mut story = Story::new();
    story.allowance(100, Period::Day);
    story.grant(50);
    story.consume(120);
    let pool = story.pool();
    assert_eq!(pool.current.unwrap().balance.settled, tokens(100));
    assert_eq!(pool.purchased.settled, tokens(20));
    assert_eq!(story.remaining(), 30);
    assert!(matches!(story.consume(31), Outcome::QuotaExhausted(_)));
    assert_eq!(story.remaining(), 30);
}

#[test]
fn a_new_period_is_a_new_row_and_purchased_tokens_are_not_renewed() {
    let mut story = Story::new();
    story.allowance(100, Period::Day);
    story.grant(50);
    story.consume(120);
    story.now += TimeDelta::days(1);
    story.consume(10);
    assert_eq!(story.pool().current.unwrap().balance, Balance { granted: tokens(100), settled: tokens(10), held: tokens(0) });
    assert_eq!(story.pool().purchased.remaining(), tokens(30));
    assert_eq!(story.state.past_periods.len(), 1);
}

#[test]
fn a_settle_below_the_hold_returns_the_rest_and_one_above_books_debt() {
    let mut story = Story::new();
    story.grant(100);
    let charge = story.hold(60);
    assert_eq!(story.remaining(), 40);
    story.settle(charge, 10);
    assert_eq!(story.remaining(), 90);
    let charge = story.hold(90);
    let Outcome::Charged { charge: settled, .. } = story.settle(charge, 95) else { panic!("a settle is booked") };
    assert_eq!((settled.debt, story.pool().debt), (tokens(5), tokens(5)));
    assert!(matches!(story.consume(1), Outcome::QuotaExhausted(refusal) if refusal.debt == tokens(5)));
    story.grant(20);
    assert_eq!((story.pool().debt, story.remaining()), (tokens(0), 15));
}

#[test]
fn repeating_changes_nothing_and_contradicting_is_refused() {
    let mut story = Story::new();
    story.grant(100);
    let charge = story.hold(10);
    story.settle(charge, 7);
    let events = story.events.len();
    assert!(matches!(story.settle(charge, 7), Outcome::Charged { .. }));
    assert!(matches!(story.settle(charge, 8), Outcome::InvalidTransition { status: ChargeStatus::Settled }));
    assert!(matches!(story.run(Command::Release { charge_id: charge }), Outcome::InvalidTransition { .. }));
    let released = story.hold(10);
    story.run(Command::Release { charge_id: released });
    assert!(matches!(story.run(Command::Release { charge_id: released }), Outcome::Charged { .. }));
    assert!(matches!(story.settle(released, 10), Outcome::InvalidTransition { status: ChargeStatus::Released }));
    assert_eq!(story.events.len(), events + 2);
    assert_eq!(story.remaining(), 93);
}

#[test]
fn a_hold_expires_only_after_its_deadline_and_a_late_settle_is_still_booked() {
    let mut story = Story::new();
    story.grant(100);
    let charge = story.hold(10);
    story.run(Command::Expire { charge_id: charge });
    assert_eq!(story.state.charges[&charge].status, ChargeStatus::Held);
    story.now += TimeDelta::seconds(60);
    story.run(Command::Expire { charge_id: charge });
    assert_eq!((story.state.charges[&charge].status, story.remaining()), (ChargeStatus::Expired, 100));
    story.run(Command::Release { charge_id: charge });
    assert_eq!(story.state.charges[&charge].status, ChargeStatus::Expired);
    story.settle(charge, 12);
    assert!(story.state.charges[&charge].late);
    assert_eq!(story.remaining(), 88);
}

#[test]
fn a_hold_is_settled_in_the_period_in_which_it_was_made() {
    let mut story = Story::new();
    story.allowance(100, Period::Day);
    let charge = story.hold(40);
    story.now += TimeDelta::days(1);
    story.consume(1);
    story.settle(charge, 30);
    let past = story.state.past_periods.values().next().unwrap();
    assert_eq!(past.balance, Balance { granted: tokens(100), settled: tokens(30), held: tokens(0) });
    assert_eq!(story.remaining(), 99);
}

#[test]
fn a_changed_allowance_keeps_what_was_used() {
    let mut story = Story::new();
    story.allowance(100, Period::Month);
    story.consume(60);
    story.allowance(80, Period::Month);
    assert_eq!(story.remaining(), 20);
    story.allowance(10, Period::Month);
    assert_eq!(story.remaining(), 0);
    assert!(story.pool().current.unwrap().balance.is_consistent());
}

#[test]
fn usage_that_happened_is_booked_once_and_the_first_telling_stays() {
    let mut story = Story::new();
    story.grant(100);
    let hour_ago = story.now - TimeDelta::hours(1);
    let at = Some(hour_ago);
    let Outcome::Charged { charge, .. } = story.record(1, 30, at) else { panic!("new usage is booked") };
    assert_eq!((charge.status, charge.settled, charge.created_at), (ChargeStatus::Settled, tokens(30), hour_ago));
    assert_eq!(charge.spec.id.shard(), Some(story.pool.payer.shard()));
    story.now += TimeDelta::days(1);
    assert!(matches!(story.record(1, 30, at), Outcome::AlreadyRecorded { charge: known } if known == charge));
    assert!(matches!(story.record(1, 30, None), Outcome::AlreadyRecorded { .. }), "the time was not told again");
    assert_eq!(story.record(1, 31, at), Outcome::RecordedDifferently { charge_id: charge.spec.id });
    assert_eq!(story.record(1, 30, Some(story.now)), Outcome::RecordedDifferently { charge_id: charge.spec.id });
    assert_eq!((story.remaining(), story.events.len()), (70, 2));
}

#[test]
fn late_usage_takes_from_the_period_in_which_it_happened() {
    let mut story = Story::new();
    story.allowance(100, Period::Day);
    let yesterday = story.now;
    story.consume(40);
    story.now += TimeDelta::days(1);
    story.consume(10);
    story.record(1, 50, Some(yesterday));
    assert_eq!(story.remaining(), 90, "today's allowance is not touched");
    assert_eq!(story.state.past_periods.values().next().unwrap().balance.settled, tokens(90));
    // What that day had not left is debt, which today's allowance pays.
    let Outcome::Charged { charge, .. } = story.record(2, 25, Some(yesterday)) else { panic!("usage is booked") };
    assert_eq!((charge.from_allowance, charge.debt), (tokens(10), tokens(15)));
    assert_eq!((story.remaining(), story.pool().debt), (75, tokens(0)));
}

#[test]
fn usage_without_a_balance_is_debt_and_no_debt_overflows() {
    let mut story = Story::new();
    assert!(matches!(story.record(1, 7, None), Outcome::Charged { charge, .. } if charge.debt == tokens(7)));
    assert_eq!(story.pool().debt, tokens(7));
    assert_eq!(story.record(2, Tokens::MAX.get(), None), Outcome::BalanceOverflow);
    story.grant(10);
    assert_eq!((story.pool().debt, story.remaining()), (tokens(0), 3));
    let charge = story.hold(3);
    story.record(3, Tokens::MAX.get() - 5, None);
    assert_eq!(story.settle(charge, 6), Outcome::BalanceOverflow, "the hold stays as it was");
    assert_eq!(story.state.charges[&charge].status, ChargeStatus::Held);
}

#[test]
fn a_preview_says_what_a_consume_would_be_answered_and_changes_nothing() {
    let mut story = Story::new();
    story.grant(10);
    let before = story.state.clone();
    let ask = |story: &Story, amount| {
        let command = Command::Consume { spec: story.spec(), tokens: tokens(amount) };
        preview(
            story.state.pools.get(&story.pool).cloned(),
            Vec::new(),
            &Request { command, now: story.now, allowance_cap: None, cost: None },
        )
    };
    assert!(matches!(ask(&story, 10), Outcome::Charged { pool, .. } if pool.remaining.is_zero()));
    assert!(matches!(ask(&story, 11), Outcome::QuotaExhausted(refusal) if refusal.remaining == tokens(10)));
    assert_eq!((&before.pools, before.charges.len()), (&story.state.pools, story.state.charges.len()));
}

#[test]
fn a_grant_that_overflows_changes_nothing() {
    let mut story = Story::new();
    story.grant(Tokens::MAX.get());
    assert_eq!(story.grant(1), Outcome::BalanceOverflow);
    let [granted] = &story.events[..] else { panic!("{:?}", story.events) };
    assert_eq!((granted.tokens, granted.reason.as_deref()), (Tokens::MAX, Some("test")));
}

/// A pool shows one sum of both, which must stay an exact amount.
#[test]
fn an_allowance_and_what_was_purchased_never_overflow_together() {
    let most = Tokens::MAX.get();
    let set = |story: &mut Story, allowance: i64| {
        let change = AllowanceChange { allowance: Some(tokens(allowance)), period: Some(Period::Day), ..AllowanceChange::default() };
        story.run(Command::SetAllowance { pool: story.pool.clone(), change })
    };
    let mut story = Story::new();
    story.grant(most - 10);
    assert_eq!(set(&mut story, 11), Outcome::AllowanceOverflow);
    assert_eq!(story.events.len(), 1);
    assert!(matches!(set(&mut story, 10), Outcome::PoolChanged { pool, .. } if pool.total() == Tokens::MAX));
    assert_eq!(story.grant(1), Outcome::BalanceOverflow);
    // What was used stays granted until the period is over, and the terms hold from the next one on.
    story.consume(10);
    set(&mut story, 0);
    assert_eq!(story.grant(1), Outcome::BalanceOverflow);
    story.now += TimeDelta::days(2);
    set(&mut story, 4);
    story.grant(6);
    assert_eq!(story.state.pools[&story.pool].total(), Tokens::MAX);
}
