//! Any history against a simple model: the sums of its charges, the fold of its events, the rows it changed.

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Grant(i64),
    Allowance(i64, Period),
    Consume(i64),
    Hold(i64),
    Settle(usize, i64),
    Release(usize),
    Expire(usize),
    /// Name, amount, and how many seconds ago.
    Record(u8, i64, i64),
    Wait(i64),
}

impl Story {
    fn play(&mut self, step: Step, holds: &mut Vec<ChargeId>) {
        match step {
            Step::Grant(amount) => drop(self.grant(amount)),
            Step::Allowance(amount, period) => self.allowance(amount, period),
            Step::Consume(amount) => drop(self.consume(amount)),
            Step::Hold(amount) => {
                let spec = self.spec();
                let (id, expires_at) = (spec.id, self.now + TimeDelta::seconds(60));
                let held = self.run(Command::Hold { spec, tokens: tokens(amount), expires_at });
                if matches!(held, Outcome::Charged { .. }) {
                    holds.push(id);
                }
            }
            Step::Settle(index, amount) => drop(holds.get(index).map(|id| self.settle(*id, amount))),
            Step::Release(index) => drop(holds.get(index).map(|id| self.run(Command::Release { charge_id: *id }))),
            Step::Expire(index) => drop(holds.get(index).map(|id| self.run(Command::Expire { charge_id: *id }))),
            Step::Record(name, amount, ago) => drop(self.record(name, amount, Some(self.now - TimeDelta::seconds(ago)))),
            Step::Wait(seconds) => self.now += TimeDelta::seconds(seconds),
        }
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let period = prop_oneof![Just(Period::Day), Just(Period::Week), Just(Period::Month), Just(Period::None)];
    let step = prop_oneof![
        (0i64..200).prop_map(Step::Grant),
        ((0i64..200), period).prop_map(|(amount, period)| Step::Allowance(amount, period)),
        (1i64..100).prop_map(Step::Consume),
        (1i64..100).prop_map(Step::Hold),
        (0usize..8, 0i64..150).prop_map(|(index, amount)| Step::Settle(index, amount)),
        (0usize..8).prop_map(Step::Release),
        (0usize..8).prop_map(Step::Expire),
        (0u8..8, 1i64..50, 0i64..200_000).prop_map(|(name, amount, ago)| Step::Record(name, amount, ago)),
        (1i64..100_000).prop_map(Step::Wait),
    ];
    prop::collection::vec(step, 1..80)
}

proptest! {
    /// Σ settled + Σ held of the charges = what the balances say, never below zero, and the state is the fold of its events.
    #[test]
    fn balances_and_charges_always_agree_and_the_fold_of_events_is_the_state(steps in steps()) {
        let mut story = Story::new();
        let mut holds = Vec::new();
        for step in steps {
            story.play(step, &mut holds);
            let Some(pool) = story.state.pools.get(&story.pool) else { continue };
            let periods: Vec<Balance> = story.state.past_periods.values().chain(pool.current.iter()).map(|period| period.balance).collect();
            prop_assert!(periods.iter().chain([&pool.purchased]).all(Balance::is_consistent));
            let settled: i128 = periods.iter().map(|balance| balance.settled).sum::<i128>() + i128::from(pool.purchased.settled.get());
            let held: i128 = periods.iter().map(|balance| balance.held).sum::<i128>() + i128::from(pool.purchased.held.get());
            let charges = story.state.charges.values();
            let charged: i128 = charges.clone().map(|charge| charge.settled).sum();
            let charges_held: i128 = charges.filter(|charge| charge.status == ChargeStatus::Held).map(|charge| charge.held).sum();
            prop_assert_eq!(settled + i128::from(pool.debt.get()), charged);
            prop_assert_eq!(held, charges_held);
        }
        let mut fold = LedgerState::default();
        story.events.iter().for_each(|event| fold.apply(event));
        prop_assert_eq!(&fold.past_periods, &story.state.past_periods);
        prop_assert_eq!(&fold.pools, &story.state.pools);
        for (id, charge) in &story.state.charges {
            let expires_at = charge.expires_at;
            prop_assert_eq!(&Charge { expires_at, ..fold.charges[id].clone() }, charge);
        }
    }

    /// An adapter writes what is named as changed, and nothing else.
    #[test]
    fn whatever_a_decision_changes_is_named(steps in steps()) {
        let (mut story, mut holds) = (Story::new(), Vec::new());
        for step in steps {
            let before = story.state.clone();
            story.state.changed = Changed::default();
            story.play(step, &mut holds);
            let (now, changed) = (&story.state, &story.state.changed);
            let differs = |key: &PoolKey| now.pools.get(key) != before.pools.get(key);
            prop_assert!(now.pools.keys().all(|key| !differs(key) || changed.pools.contains(key)));
            let past = now.past_periods.iter().filter(|(key, period)| before.past_periods.get(key) != Some(period));
            prop_assert!(past.into_iter().all(|(key, _)| changed.past_periods.contains(key)));
            let charges = now.charges.iter().filter(|(id, charge)| before.charges.get(id) != Some(charge));
            prop_assert!(charges.into_iter().all(|(id, _)| changed.charges.contains(id)));
            prop_assert!(changed.charges.iter().all(|id| changed.new_charges.contains(id) != before.charges.contains_key(id)));
        }
    }
}
