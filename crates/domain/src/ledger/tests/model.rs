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
    /// Which charge, and how much of it.
    Refund(usize, Option<i64>),
    Complete(usize),
    Purchase(i64),
    /// Which saga, and whether its next task ends well.
    Move(usize, bool),
    Direct(usize, bool),
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
            Step::Refund(index, amount) => {
                let mut charges: Vec<ChargeId> = self.state.charges.keys().copied().collect();
                charges.sort_unstable();
                drop(charges.get(index % charges.len().max(1)).map(|id| self.refund(*id, amount)));
            }
            Step::Complete(index) => {
                let id = self.state.sagas.keys().nth(index).copied();
                drop(id.map(|saga_id| self.run(Command::CompleteRefund { saga_id })));
            }
            Step::Purchase(amount) => drop(self.purchase(amount)),
            Step::Move(index, well) => self.move_on(index, well),
            Step::Direct(index, resume) => {
                let direction = if resume { Direction::Resume } else { Direction::Compensate };
                let id = self.state.sagas.keys().nth(index).copied();
                drop(id.map(|saga_id| self.run(Command::DirectPurchase { saga_id, direction, reason: "test".into() })));
            }
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
        (0usize..16, prop::option::of(1i64..60)).prop_map(|(index, amount)| Step::Refund(index, amount)),
        (0usize..4).prop_map(Step::Complete),
        (1i64..100).prop_map(Step::Purchase),
        (0usize..4, prop::bool::weighted(0.8)).prop_map(|(index, well)| Step::Move(index, well)),
        (0usize..4, any::<bool>()).prop_map(|(index, resume)| Step::Direct(index, resume)),
        (1i64..100_000).prop_map(Step::Wait),
    ];
    prop::collection::vec(step, 1..80)
}

proptest! {
    /// Σ settled less refunds + Σ held of the charges = what the balances say, never below zero, and the state is the fold of its events.
    /// A refunded debt that was paid meanwhile is granted anew.
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
            let charged: i128 = charges.clone().map(Charge::net).sum();
            let granted: i128 = story.events.iter().map(granted_by).sum();
            let anew = i128::from(pool.purchased.granted.get()) - granted;
            prop_assert!(story.state.charges.values().all(|charge| charge.refunded <= charge.settled));
            let charges_held: i128 = charges.filter(|charge| charge.status == ChargeStatus::Held).map(|charge| charge.held).sum();
            prop_assert_eq!(settled + i128::from(pool.debt.get()), charged + anew);
            prop_assert_eq!(held, charges_held);
        }
        let mut fold = LedgerState::default();
        story.events.iter().for_each(|event| fold.apply(event));
        prop_assert_eq!(&fold.past_periods, &story.state.past_periods);
        prop_assert_eq!(&fold.pools, &story.state.pools);
        prop_assert_eq!(&fold.sagas, &story.state.sagas);
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
            let sagas = now.sagas.iter().filter(|(id, saga)| before.sagas.get(id) != Some(saga));
            prop_assert!(sagas.into_iter().all(|(id, _)| changed.sagas.contains(id)));
            prop_assert!(changed.charges.iter().all(|id| changed.new_charges.contains(id) != before.charges.contains_key(id)));
        }
    }
}
