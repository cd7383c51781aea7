//! What the end of a charge takes, from which period, and what it says when it comes again.

use super::*;
use crate::{ids::KeyId, money::Cost};

/// A hold of 50 that was made yesterday, of an allowance of 100 a day.
fn a_hold_of_yesterday() -> (Story, ChargeId) {
    let mut story = Story::new();
    story.allowance(100, Period::Day);
    let hold = story.hold(50);
    story.now += TimeDelta::days(1);
    (story, hold)
}

fn settled_in(story: &Story) -> (Vec<i64>, i64) {
    let past = story.state.past_periods.values().map(|period| period.balance.settled.get()).collect();
    (past, story.pool().current.unwrap().balance.settled.get())
}

#[test]
fn what_a_hold_covers_opens_no_period() {
    for amount in [0, 20, 50] {
        let (mut story, hold) = a_hold_of_yesterday();
        story.settle(hold, amount);
        assert_eq!(settled_in(&story), (vec![], amount), "all of it is yesterday's");
    }
}

#[test]
fn what_exceeds_a_hold_is_taken_from_today() {
    let (mut story, hold) = a_hold_of_yesterday();
    story.settle(hold, 80);
    assert_eq!(settled_in(&story), (vec![50], 30));
    assert_eq!(story.pool().debt, Tokens::ZERO);
}

#[test]
fn what_is_settled_after_its_hold_expired_is_taken_from_today() {
    let (mut story, hold) = a_hold_of_yesterday();
    story.run(Command::Expire { charge_id: hold });
    story.settle(hold, 20);
    assert_eq!(settled_in(&story), (vec![0], 20));
}

#[test]
fn a_settled_charge_expires_no_more_and_says_so_without_complaint() {
    let mut story = Story::new();
    story.grant(100);
    let hold = story.hold(50);
    story.settle(hold, 20);
    story.now += TimeDelta::days(1);
    let events = story.events.len();
    let expired = story.run(Command::Expire { charge_id: hold });
    assert!(matches!(expired, Outcome::Charged { charge, changed: false, .. } if charge.status == ChargeStatus::Settled));
    assert_eq!(story.events.len(), events);
}

#[test]
fn usage_that_happened_has_its_cost_and_is_the_same_by_whichever_key_it_is_told() {
    let mut story = Story::new();
    story.grant(100);
    let cost = Some(Cost { minor_units: tokens(7), currency: "USD".parse().unwrap() });
    let spec = story.spec();
    let mut tell = |spec: ChargeSpec| {
        let command = Command::Record { spec, tokens: tokens(10), occurred_at: None };
        decide(&mut story.state, &Request { command, now: story.now, allowance_cap: None, cost }).outcome
    };
    assert!(matches!(tell(spec.clone()), Outcome::Charged { charge, .. } if charge.cost == cost));
    let by_another_key = ChargeSpec { key_id: Some(KeyId(Uuid::from_u128(9))), ..spec.clone() };
    assert!(matches!(tell(by_another_key), Outcome::AlreadyRecorded { .. }));
    let at_another = ChargeSpec { model: Some(crate::ids::Model::parse("gpt-4o").unwrap()), ..spec };
    assert!(matches!(tell(at_another), Outcome::RecordedDifferently { .. }));
}
