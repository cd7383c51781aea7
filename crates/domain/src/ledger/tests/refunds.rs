//! What a refund gives back, to whom, and what it may not.

use super::*;
use crate::{
    budget::{BudgetKey, BudgetTerms, BudgetUnit},
    money::Cost,
    saga::{SagaStatus, SagaSubject},
    threshold::Threshold,
};

impl Story {
    fn charge_of(outcome: &Outcome) -> ChargeId {
        let Outcome::Charged { charge, .. } = outcome else { panic!("{outcome:?}") };
        charge.spec.id
    }

    /// The balances of every period, oldest first, then of what was purchased: what is left of each.
    fn left(&self) -> Vec<i64> {
        let past = self.state.past_periods.values().map(|period| period.balance);
        let current = self.pool().current.map(|period| period.balance);
        past.chain(current).chain([self.pool().purchased]).map(|balance| balance.remaining().get()).collect()
    }

    fn refunded(&self, id: ChargeId) -> (ChargeStatus, i64) {
        let charge = &self.state.charges[&id];
        (charge.status, charge.refunded.get())
    }
}

#[test]
fn parts_are_given_back_until_nothing_is_left_and_never_more() {
    let mut story = Story::new();
    story.grant(100);
    let id = Story::charge_of(&story.consume(60));
    assert!(matches!(story.refund(id, Some(20)), Outcome::SagaMoved { .. }));
    assert_eq!((story.refunded(id), story.remaining()), ((ChargeStatus::Settled, 20), 60));
    let before = story.events.len();
    assert_eq!(story.refund(id, Some(41)), Outcome::AmountExceedsRest { rest: tokens(40) });
    assert_eq!(story.refund(id, Some(0)), Outcome::AmountExceedsRest { rest: tokens(40) });
    assert_eq!((story.events.len(), story.remaining()), (before, 60));
    assert!(matches!(story.refund(id, None), Outcome::SagaMoved { .. }));
    assert_eq!((story.refunded(id), story.remaining()), ((ChargeStatus::Refunded, 60), 100));
    assert_eq!(story.refund(id, None), Outcome::InvalidTransition { status: ChargeStatus::Refunded });
    assert_eq!(story.settle(id, 59), Outcome::InvalidTransition { status: ChargeStatus::Refunded });
}

#[test]
fn only_what_was_settled_is_refunded() {
    let mut story = Story::new();
    story.grant(100);
    let hold = story.hold(10);
    assert_eq!(story.refund(hold, None), Outcome::InvalidTransition { status: ChargeStatus::Held });
    story.run(Command::Release { charge_id: hold });
    assert_eq!(story.refund(hold, None), Outcome::InvalidTransition { status: ChargeStatus::Released });
    let expired = story.hold(10);
    story.now += TimeDelta::seconds(60);
    story.run(Command::Expire { charge_id: expired });
    assert_eq!(story.refund(expired, None), Outcome::InvalidTransition { status: ChargeStatus::Expired });
    let nothing = story.hold(10);
    story.settle(nothing, 0);
    assert_eq!(story.refund(nothing, None), Outcome::AmountExceedsRest { rest: Tokens::ZERO });
    let unknown = ChargeId::new(story.pool.payer.shard(), story.now);
    assert_eq!(story.refund(unknown, None), Outcome::ChargeNotFound);
    assert!(story.state.sagas.is_empty());
}

#[test]
fn what_was_purchased_comes_back_before_the_allowance() {
    let mut story = Story::new();
    story.allowance(50, Period::Month);
    story.grant(100);
    let id = Story::charge_of(&story.consume(80));
    assert_eq!(story.left(), [0, 70]);
    story.refund(id, Some(20));
    assert_eq!(story.left(), [0, 90]);
    story.refund(id, Some(20));
    assert_eq!(story.left(), [10, 100]);
    story.refund(id, None);
    assert_eq!(story.left(), [50, 100]);
}

#[test]
fn the_allowance_of_a_period_that_is_over_does_not_come_back_into_the_present_one() {
    let mut story = Story::new();
    story.allowance(50, Period::Day);
    let id = Story::charge_of(&story.consume(30));
    story.now += TimeDelta::days(400);
    // Opens the period of today by itself.
    story.refund(id, None);
    assert_eq!(story.left(), [50, 50, 0]);
    assert_eq!(story.remaining(), 50);
    let current = story.pool().current.unwrap();
    assert!(current.contains(story.now) && current.balance.settled.is_zero());
}

#[test]
fn a_refund_pays_the_debt_first_and_what_was_paid_of_it_comes_back_as_purchased_tokens() {
    let mut story = Story::new();
    story.grant(10);
    let hold = story.hold(10);
    story.settle(hold, 50);
    assert_eq!(story.pool().debt, tokens(40));
    story.refund(hold, Some(5));
    assert_eq!((story.pool().debt, story.remaining()), (tokens(35), 0));
    story.grant(100);
    assert_eq!((story.pool().debt, story.remaining()), (Tokens::ZERO, 65));
    story.refund(hold, None);
    assert_eq!((story.pool().debt, story.remaining()), (Tokens::ZERO, 110));

    let mut story = Story::new();
    story.grant(30);
    let paid = Story::charge_of(&story.consume(30));
    let other = story.record(1, 20, None);
    assert!(matches!(other, Outcome::Charged { .. }) && story.pool().debt == tokens(20));
    story.refund(paid, None);
    assert_eq!((story.pool().debt, story.remaining()), (Tokens::ZERO, 10));
}

#[test]
fn the_event_counts_when_the_charge_was_settled_and_the_saga_tells_when_it_went_on() {
    let mut story = Story::new();
    story.grant(100);
    let settled_at = story.now;
    let id = Story::charge_of(&story.consume(60));
    story.now += TimeDelta::days(3);
    let Outcome::SagaMoved { saga } = story.refund(id, Some(7)) else { panic!("refused") };
    let event = story.events.last().unwrap();
    assert_eq!((event.kind, event.occurred_at, event.tokens), (EventType::ChargeRefunded, settled_at, tokens(7)));
    assert_eq!((&saga.subject, saga.tokens), (&SagaSubject::Refund { charge_id: id }, tokens(7)));
    let requested_at = story.now;
    story.now += TimeDelta::seconds(2);
    for _ in 0..2 {
        let Outcome::SagaMoved { saga } = story.run(Command::CompleteRefund { saga_id: saga.id }) else { panic!("refused") };
        let steps: Vec<_> = saga.steps.iter().map(|step| (step.status, step.at)).collect();
        use SagaStatus::{AggregatesCorrected, BalanceRestored, Completed, Requested};
        let expected = [Requested, BalanceRestored, AggregatesCorrected, Completed];
        assert_eq!(steps.iter().map(|(status, _)| *status).collect::<Vec<_>>(), expected);
        assert_eq!([steps[0].1, steps[1].1, steps[2].1, steps[3].1], [requested_at, requested_at, story.now, story.now]);
        assert!(saga.status().is_end());
    }
    assert_eq!(story.events.iter().filter(|event| event.kind == EventType::RefundCompleted).count(), 1);
    let unknown = SagaId::new(story.pool.payer.shard(), story.now);
    assert_eq!(story.run(Command::CompleteRefund { saga_id: unknown }), Outcome::SagaNotFound);
}

#[test]
fn the_same_refund_again_is_done_once() {
    let mut story = Story::new();
    story.grant(100);
    let charge_id = Story::charge_of(&story.consume(60));
    let saga_id = SagaId::new(story.pool.payer.shard(), story.now);
    let command = Command::Refund { saga_id, charge_id, tokens: Some(tokens(10)), reason: Some("twice".into()) };
    let first = story.run(command.clone());
    assert_eq!(story.run(command), first);
    assert_eq!(story.refunded(charge_id), (ChargeStatus::Settled, 10));
}

#[test]
fn a_charge_cannot_be_refunded_by_its_own_metadata() {
    let mut story = Story::new();
    story.grant(100);
    let id = SagaId::new(story.pool.payer.shard(), story.now);
    let spec = ChargeSpec { metadata: Metadata::from([("sagaId".into(), id.to_string())]), ..story.spec() };
    story.run(Command::Consume { spec, tokens: tokens(1) });
    assert!(story.events.iter().all(|event| crate::saga::of_event(event).is_none()) && story.state.sagas.is_empty());
}

#[test]
fn the_cost_comes_back_in_parts_that_add_up_to_it() {
    let mut story = Story::new();
    story.grant(100);
    let cost = Cost { minor_units: tokens(10), currency: "USD".parse().unwrap() };
    let spec = story.spec();
    let id = spec.id;
    let request = Request { command: Command::Consume { spec, tokens: tokens(3) }, now: story.now, allowance_cap: None, cost: Some(cost) };
    decide(&mut story.state, &request);
    for (net, given_back) in [(7, 3), (4, 3), (0, 4)] {
        story.refund(id, Some(1));
        assert_eq!(story.state.charges[&id].net_cost().unwrap().minor_units, tokens(net));
        assert_eq!(story.events.last().unwrap().cost.unwrap().minor_units, tokens(given_back));
    }
}

#[test]
fn a_budget_has_room_for_what_was_refunded_in_its_period() {
    let mut story = Story::new();
    story.grant(1_000);
    let key = BudgetKey { payer: story.pool.payer, member: None, provider: None, unit: BudgetUnit::Tokens, period: Period::Day };
    let terms = BudgetTerms { limit: Some(tokens(100)), time_zone: chrono_tz::UTC, thresholds: [Threshold::Percent(50)].into() };
    story.run(Command::SetBudget { key: key.clone(), terms });
    story.now += TimeDelta::milliseconds(1);
    let today = Story::charge_of(&story.consume(100));
    assert!(matches!(story.consume(1), Outcome::BudgetExhausted(_)));
    story.refund(today, Some(30));
    assert_eq!(story.state.budgets[&key].current.used, tokens(70));
    let more = Story::charge_of(&story.consume(30));
    story.now += TimeDelta::days(1);
    story.consume(5);
    story.refund(more, None);
    assert_eq!(story.state.budgets[&key].current.used, tokens(5));
    let told = story.events.iter().filter(|event| event.kind == EventType::ThresholdReached).count();
    assert_eq!(told, 1, "once in a period, whatever was refunded");
}

#[test]
fn a_threshold_of_the_pool_is_told_again_after_a_refund_took_the_use_below_it() {
    let mut story = Story::new();
    story.grant(100);
    let thresholds = Some([Threshold::Percent(50)].into());
    story.run(Command::SetAllowance { pool: story.pool.clone(), change: AllowanceChange { thresholds, ..AllowanceChange::default() } });
    let id = Story::charge_of(&story.consume(60));
    story.refund(id, Some(20));
    story.consume(9);
    story.consume(1);
    assert_eq!(story.events.iter().filter(|event| event.kind == EventType::ThresholdReached).count(), 2);
    // What was spent before the latest credit and came back is there to be spent, too.
    let mut story = Story::new();
    story.grant(100);
    let id = Story::charge_of(&story.consume(60));
    let thresholds = Some([Threshold::Percent(50)].into());
    story.run(Command::SetAllowance { pool: story.pool.clone(), change: AllowanceChange { thresholds, ..AllowanceChange::default() } });
    story.refund(id, None);
    assert_eq!(story.pool().spent_of(), (0, tokens(100)));
}

#[test]
fn a_debt_that_no_balance_could_count_is_not_refunded() {
    let mut story = Story::new();
    story.grant(1);
    let hold = story.hold(1);
    story.settle(hold, 11);
    story.grant(Tokens::MAX.get() - 5);
    assert_eq!(story.refund(hold, None), Outcome::BalanceOverflow);
    assert_eq!(story.refunded(hold), (ChargeStatus::Settled, 0));
}
