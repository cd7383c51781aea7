//! Budgets against the sum of the charges that they cover, over random histories.

use super::*;
use crate::{
    budget::{Budget, BudgetKey, BudgetTerms, BudgetUnit, Spent},
    event::EventType,
    money::Cost,
    threshold::Threshold,
};
use std::collections::BTreeMap;

#[derive(Clone, Debug)]
enum Step {
    Set { unit: BudgetUnit, period: Period, limit: Option<i64> },
    Spend(i64, i64),
    Hold(i64, i64),
    Settle(usize, i64, i64),
    Release(usize),
    Wait(i64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let unit = prop_oneof![Just(BudgetUnit::Tokens), Just(BudgetUnit::Money)];
    let period = prop_oneof![Just(Period::Day), Just(Period::Month), Just(Period::None)];
    let step = prop_oneof![
        (unit, period, prop::option::of(0i64..400)).prop_map(|(unit, period, limit)| Step::Set { unit, period, limit }),
        (1i64..60, 0i64..40).prop_map(|(tokens, cost)| Step::Spend(tokens, cost)),
        (1i64..60, 0i64..40).prop_map(|(tokens, cost)| Step::Hold(tokens, cost)),
        (0usize..8, 0i64..90, 0i64..60).prop_map(|(index, tokens, cost)| Step::Settle(index, tokens, cost)),
        (0usize..8).prop_map(Step::Release),
        (1i64..60_000).prop_map(Step::Wait),
    ];
    prop::collection::vec(step, 1..60)
}

impl Story {
    fn at_cost(&mut self, command: Command, cost: i64) -> Outcome {
        let cost = Some(Cost { minor_units: tokens(cost), currency: "EUR".parse().unwrap() });
        let decision = decide(&mut self.state, &Request { command, now: self.now, allowance_cap: None, cost });
        self.events.extend(decision.events);
        decision.outcome
    }

    /// What the charges of the budget's period spent.
    fn spent(&self, budget: &Budget) -> (i128, i128) {
        let covered = self.state.charges.values().filter(|charge| budget.covers(&charge.spec) && budget.counts(charge.created_at));
        covered
            .map(|charge| Spent::of(charge, budget.key.unit))
            .fold((0, 0), |(used, held), spent| (used + i128::from(spent.used.get()), held + i128::from(spent.held.get())))
    }
}

proptest! {
    /// Used and held are the sums of the charges; nothing that a limit has no room for is let in; and the fold of the events is the state.
    #[test]
    fn a_budget_is_the_sum_of_its_charges_and_lets_in_only_what_fits(steps in steps()) {
        let mut story = Story::new();
        story.grant(1 << 40);
        let mut holds = Vec::new();
        for step in steps {
            let room: BTreeMap<BudgetKey, Option<Tokens>> =
                story.state.budgets.iter().map(|(key, budget)| (key.clone(), budget.as_of(story.now).remaining())).collect();
            let fits = |amount: i64, cost: i64| {
                room.iter().all(|(key, room)| room.is_none_or(|room| if key.unit == BudgetUnit::Tokens { amount } else { cost } <= room.get()))
            };
            match step {
                Step::Set { unit, period, limit } => {
                    let key = BudgetKey { payer: story.pool.payer, member: None, provider: None, unit, period };
                    let thresholds = [Threshold::Amount(tokens(50)), Threshold::Amount(tokens(200))].into();
                    let terms = BudgetTerms { limit: limit.map(tokens), time_zone: chrono_tz::UTC, thresholds };
                    story.run(Command::SetBudget { key: key.clone(), terms: terms.clone() });
                    prop_assert_eq!(&story.state.budgets[&key].terms, &terms);
                    // A budget counts from the moment after it was set.
                    story.now += TimeDelta::milliseconds(1);
                }
                Step::Spend(amount, cost) => {
                    let spec = story.spec();
                    let outcome = story.at_cost(Command::Consume { spec, tokens: tokens(amount) }, cost);
                    prop_assert_eq!(matches!(outcome, Outcome::Charged { .. }), fits(amount, cost), "{:?}", outcome);
                }
                Step::Hold(amount, cost) => {
                    let spec = story.spec();
                    let (id, expires_at) = (spec.id, story.now + TimeDelta::seconds(60));
                    let outcome = story.at_cost(Command::Hold { spec, tokens: tokens(amount), expires_at }, cost);
                    prop_assert_eq!(matches!(outcome, Outcome::Charged { .. }), fits(amount, cost), "{:?}", outcome);
                    if matches!(outcome, Outcome::Charged { .. }) { holds.push(id); }
                }
                Step::Settle(index, amount, cost) => if let Some(id) = holds.get(index) {
                    story.at_cost(Command::Settle { charge_id: *id, tokens: tokens(amount) }, cost);
                },
                Step::Release(index) => if let Some(id) = holds.get(index) { story.run(Command::Release { charge_id: *id }); },
                Step::Wait(seconds) => story.now += TimeDelta::seconds(seconds),
            }
            for budget in story.state.budgets.values() {
                let counted = (i128::from(budget.current.used.get()), i128::from(budget.current.held.get()));
                prop_assert_eq!(counted, story.spent(budget));
            }
        }
        let mut fold = LedgerState::default();
        story.events.iter().for_each(|event| fold.apply(event));
        prop_assert_eq!(&fold.budgets, &story.state.budgets);
        let mut told: Vec<_> = story.events.iter().filter(|event| event.kind == EventType::ThresholdReached).map(|event| &event.metadata).collect();
        let all = told.len();
        told.sort_by_key(|told| (&told["unit"], &told["period"], &told["periodStart"], &told["threshold"]));
        told.dedup_by_key(|told| (&told["unit"], &told["period"], &told["periodStart"], &told["threshold"]));
        prop_assert_eq!(told.len(), all, "no threshold is told twice in a period");
    }
}
