//! Thresholds of pools: told once, and again after a credit has taken what is spent below them.

use super::*;
use crate::{event::EventType, threshold::Threshold};
use std::collections::BTreeSet;

impl Story {
    fn marks(&mut self, thresholds: &[Threshold]) {
        let change = AllowanceChange { thresholds: Some(thresholds.iter().copied().collect()), ..AllowanceChange::default() };
        self.run(Command::SetAllowance { pool: self.pool.clone(), change });
    }

    /// What was told since the last look, as `threshold at spent of whole`.
    fn pool_told(&mut self) -> Vec<String> {
        let events = std::mem::take(&mut self.events);
        let told = events.iter().filter(|event| event.kind == EventType::ThresholdReached).map(|event| &event.metadata);
        told.map(|told| format!("{} at {} of {}", told["threshold"], told["used"], told["limit"])).collect()
    }
}

const MARKS: [Threshold; 3] = [Threshold::Percent(50), Threshold::Percent(80), Threshold::Percent(100)];

#[test]
fn each_threshold_of_a_pool_is_told_once_in_a_period_and_again_in_the_next() {
    let mut story = Story::new();
    story.allowance(100, Period::Day);
    story.marks(&[MARKS[0], MARKS[1], MARKS[2], Threshold::Amount(tokens(60))]);
    story.consume(49);
    assert!(story.pool_told().is_empty());
    story.consume(11);
    assert_eq!(story.pool_told(), ["50% at 60 of 100", "60 at 60 of 100"]);
    let hold = story.hold(40);
    assert!(story.pool_told().is_empty(), "what is held is not spent yet");
    story.settle(hold, 45);
    assert_eq!(story.pool_told(), ["80% at 105 of 100", "100% at 105 of 100"]);
    story.now += TimeDelta::days(1);
    story.consume(45);
    assert_eq!(story.pool_told(), ["50% at 50 of 100"], "the debt was paid from the new allowance");
}

#[test]
fn a_grant_begins_the_count_anew_with_what_is_left() {
    let mut story = Story::new();
    story.grant(100);
    story.marks(&MARKS);
    story.consume(90);
    assert_eq!(story.pool_told(), ["50% at 90 of 100", "80% at 90 of 100"]);
    story.grant(190);
    story.consume(99);
    assert!(story.pool_told().is_empty(), "99 of the 200 that were there");
    story.consume(1);
    assert_eq!(story.pool_told(), ["50% at 100 of 200"]);
    story.grant(10);
    story.consume(54);
    assert!(story.pool_told().is_empty());
    story.consume(1);
    assert_eq!(story.pool_told(), ["50% at 55 of 110"]);
}

#[test]
fn a_grant_that_leaves_the_use_above_a_threshold_does_not_tell_it_again() {
    let mut story = Story::new();
    story.allowance(100, Period::Month);
    story.marks(&MARKS);
    story.consume(90);
    assert_eq!(story.pool_told().len(), 2);
    story.grant(20);
    story.consume(1);
    assert!(story.pool_told().is_empty(), "91 of 120 are above 50 %, of which everybody knows; 80 % are not reached");
    story.consume(5);
    assert_eq!(story.pool_told(), ["80% at 96 of 120"]);
}

#[test]
fn purchases_of_earlier_periods_hide_nothing() {
    let mut story = Story::new();
    story.grant(1_000);
    story.allowance(100, Period::Day);
    story.marks(&MARKS);
    story.consume(1_100);
    assert_eq!(story.pool_told().len(), 3);
    story.now += TimeDelta::days(1);
    story.consume(50);
    assert_eq!(story.pool_told(), ["50% at 50 of 100"]);
}

#[test]
fn thresholds_that_are_taken_away_tell_nothing_and_leave_nothing() {
    let mut story = Story::new();
    story.grant(100);
    story.marks(&MARKS);
    story.consume(60);
    story.marks(&[]);
    story.pool_told();
    story.consume(40);
    assert!(story.pool_told().is_empty());
    assert_eq!(story.pool().marks, crate::pool::Marks::default());
}

#[test]
fn usage_without_a_balance_reaches_every_share_of_nothing() {
    let mut story = Story::new();
    story.marks(&MARKS);
    story.record(1, 7, None);
    assert_eq!(story.pool_told(), ["50% at 7 of 0", "80% at 7 of 0", "100% at 7 of 0"]);
}

#[derive(Clone, Debug)]
enum Step {
    Grant(i64),
    Allowance(i64),
    Consume(i64),
    Hold(i64),
    Settle(usize, i64),
    Wait(i64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        1 => (1i64..200).prop_map(Step::Grant),
        1 => (0i64..200).prop_map(Step::Allowance),
        6 => (1i64..60).prop_map(Step::Consume),
        2 => (1i64..60).prop_map(Step::Hold),
        2 => (0usize..8, 0i64..90).prop_map(|(index, amount)| Step::Settle(index, amount)),
        1 => (1i64..60_000).prop_map(Step::Wait),
    ];
    prop::collection::vec(step, 1..80)
}

proptest! {
    /// Between two credits nothing is told twice; what is told is reached; and after a spend nothing that is reached is untold.
    #[test]
    fn what_is_told_is_what_is_reached(steps in steps(), percents in prop::collection::btree_set(1u32..130, 1..4)) {
        let mut story = Story::new();
        story.allowance(100, Period::Day);
        story.marks(&percents.iter().copied().map(Threshold::Percent).collect::<Vec<_>>());
        let (mut holds, mut told, mut all) = (Vec::new(), BTreeSet::new(), Vec::new());
        for step in steps {
            let before = story.events.len();
            match step {
                Step::Grant(amount) => drop(story.grant(amount)),
                Step::Allowance(amount) => story.allowance(amount, Period::Day),
                Step::Consume(amount) => drop(story.consume(amount)),
                Step::Hold(amount) => {
                    let spec = story.spec();
                    let (id, expires_at) = (spec.id, story.now + TimeDelta::seconds(60));
                    story.run(Command::Hold { spec, tokens: tokens(amount), expires_at });
                    holds.push(id);
                }
                Step::Settle(index, amount) => if let Some(id) = holds.get(index) { story.settle(*id, amount); },
                Step::Wait(seconds) => story.now += TimeDelta::seconds(seconds),
            }
            let settled = story.events[before..].iter().any(|event| event.kind == EventType::ChargeSettled);
            let (spent, whole) = story.pool().spent_of();
            for event in &story.events[before..] {
                match event.kind {
                    EventType::PoolGranted | EventType::PoolPeriodStarted => told.clear(),
                    EventType::ThresholdReached => {
                        let number = |name: &str| event.metadata[name].trim_end_matches('%').parse::<i128>().unwrap();
                        prop_assert!(number("used") * 100 >= number("limit") * number("threshold"), "{:?}", event.metadata);
                        prop_assert!(told.insert(event.metadata["threshold"].clone()), "told twice");
                    }
                    _ => {}
                }
            }
            for percent in &percents {
                let is_reached = spent > 0 && spent * 100 >= i128::from(whole.get()) * i128::from(*percent);
                let known = story.pool().marks.reached.contains(&Threshold::Percent(*percent));
                prop_assert!(!settled || !is_reached || known, "{percent} % of {whole}, {spent} spent: {known}");
            }
            all.append(&mut story.events);
        }
        let mut fold = LedgerState::default();
        all.iter().for_each(|event| fold.apply(event));
        prop_assert_eq!(&fold.pools, &story.state.pools);
    }
}
