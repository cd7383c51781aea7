//! What an audit has proved of one shard, so that the next one needs to fold only what came after: a number, the digests of everything up
//! to it, and the state that the events up to it make.

use crate::{cells::Cells, ends::Stories, fold::Folded, picture::Picture, raw::Partition, report::Compared};
use chrono::{DateTime, Utc};
use domain::{
    budget::Budget,
    charge::Charge,
    ledger::{Changed, LedgerState},
    pool::{Pool, PoolKey, PoolPeriod},
    rollup::{CellKey, CellValue},
    saga::Saga,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

#[derive(Serialize, Deserialize)]
pub(crate) struct Checkpoint {
    /// When the audit began that proved it.
    pub at: DateTime<Utc>,
    /// Number of the last event that is proved in every store.
    pub through: i64,
    /// Digests of the outbox rows from number 1 on.
    pub rows: Vec<u64>,
    /// As [`crate::Compared::digest`].
    pub seal: String,
    /// As `ShardState::digest`.
    pub usage_digest: u64,
    pub ledger: KeptLedger,
    /// Where raw events are.
    pub partitions: BTreeSet<Partition>,
    cells: Vec<(CellKey, CellValue)>,
}

impl Checkpoint {
    pub fn new(
        at: DateTime<Utc>,
        compared: &Compared,
        picture: &Picture,
        ledger: KeptLedger,
        (partitions, cells): (BTreeSet<Partition>, Cells),
    ) -> Self {
        let (through, seal) = (compared.through, compared.digest.clone());
        let rows = picture.rows.iter().take(usize::try_from(through).unwrap_or(0)).copied().collect();
        let usage_digest = picture.applied.digest;
        Self { at, through, rows, seal, usage_digest, ledger, partitions, cells: cells.into_iter().collect() }
    }

    pub fn cells(&self) -> Cells {
        self.cells.iter().cloned().collect()
    }
}

/// [`Folded`] as lists.
#[derive(Serialize, Deserialize)]
pub(crate) struct KeptLedger {
    charges: Vec<Charge>,
    pools: Vec<Pool>,
    past_periods: Vec<(PoolKey, PoolPeriod)>,
    budgets: Vec<Budget>,
    sagas: Vec<Saga>,
    stories: Stories,
    granted: Vec<(PoolKey, i128)>,
}

impl KeptLedger {
    pub fn of(folded: &Folded) -> Self {
        let state = &folded.state;
        Self {
            charges: state.charges.values().cloned().collect(),
            pools: state.pools.values().cloned().collect(),
            past_periods: state.past_periods.iter().map(|((key, _), period)| (key.clone(), *period)).collect(),
            budgets: state.budgets.values().cloned().collect(),
            sagas: state.sagas.values().cloned().collect(),
            stories: folded.stories.clone(),
            granted: folded.granted.iter().map(|(key, granted)| (key.clone(), *granted)).collect(),
        }
    }

    pub fn folded(&self) -> Folded {
        let state = LedgerState {
            pools: self.pools.iter().map(|pool| (pool.key.clone(), pool.clone())).collect(),
            past_periods: self.past_periods.iter().map(|(key, period)| ((key.clone(), period.starts_at), *period)).collect(),
            charges: self.charges.iter().map(|charge| (charge.spec.id, charge.clone())).collect(),
            budgets: self.budgets.iter().map(|budget| (budget.key.clone(), budget.clone())).collect(),
            sagas: self.sagas.iter().map(|saga| (saga.id, saga.clone())).collect(),
            // No event says who moves a saga on.
            claims: Default::default(),
            changed: Changed::default(),
        };
        Folded { state, stories: self.stories.clone(), granted: self.granted.iter().cloned().collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::TimeDelta;
    use domain::{
        amount::Tokens,
        budget::{BudgetKey, BudgetTerms, BudgetUnit},
        charge::ChargeSpec,
        ids::{ChargeId, Model, OrgId, Payer, Provider, SagaId, UserId},
        ledger::{AllowanceChange, Command, Request, decide},
        money::Cost,
        threshold::Threshold,
        time::Period,
    };
    use uuid::Uuid;

    /// A fold with something of each kind, in every field that an event can fill.
    fn folded() -> Folded {
        let (payer, provider) = (Payer::Org(OrgId(Uuid::from_u128(4))), Provider::parse("openai").unwrap());
        let (pool, user_id) = (PoolKey { payer, provider: provider.clone() }, UserId(Uuid::from_u128(1)));
        let now: DateTime<Utc> = "2026-11-21T12:00:00.123Z".parse().unwrap();
        let tokens = |amount| Tokens::new(amount).unwrap();
        let spec = || ChargeSpec {
            id: ChargeId::new(payer.shard(), now),
            payer,
            user_id,
            key_id: None,
            provider: provider.clone(),
            model: Some(Model::parse("large").unwrap()),
            metadata: [("note".to_owned(), "ü".to_owned())].into(),
        };
        let (spent, key) =
            (spec(), BudgetKey { payer, member: Some(user_id), provider: None, unit: BudgetUnit::Money, period: Period::Day });
        let charge_id = spent.id;
        let terms =
            BudgetTerms { limit: Some(tokens(500)), time_zone: chrono_tz::Europe::Berlin, thresholds: [Threshold::Percent(80)].into() };
        let allowance =
            |amount, period| AllowanceChange { allowance: Some(tokens(amount)), period: Some(period), ..AllowanceChange::default() };
        let commands = [
            Command::SetBudget { key, terms },
            Command::SetAllowance { pool: pool.clone(), change: allowance(50, Period::Day) },
            Command::Grant { pool: pool.clone(), tokens: tokens(100), reason: "gift".into() },
            Command::Consume { spec: spent, tokens: tokens(120) },
            Command::Hold { spec: spec(), tokens: tokens(10), expires_at: now },
            Command::Refund { saga_id: SagaId::new(payer.shard(), now), charge_id, tokens: Some(tokens(7)), reason: None },
            Command::SetAllowance { pool, change: allowance(60, Period::Month) },
        ];
        let (mut state, mut folded, mut seq) = (LedgerState::default(), Folded::default(), 0);
        for (day, command) in (0..).zip(commands) {
            let now = now + TimeDelta::days(day);
            let cost = Some(Cost { minor_units: tokens(3), currency: "USD".parse().unwrap() });
            for event in decide(&mut state, &Request { command, now, allowance_cap: None, cost }).events {
                seq += 1;
                folded.tell(&domain::event::UsageEvent { event, seq, epoch: 0, recorded_at: now });
            }
        }
        folded
    }

    #[test]
    fn a_fold_is_the_same_after_it_was_kept() {
        let folded = folded();
        let bytes = rmp_serde::to_vec(&KeptLedger::of(&folded)).unwrap();
        let again = rmp_serde::from_slice::<KeptLedger>(&bytes).unwrap().folded();
        let state = |folded: &Folded| {
            let LedgerState { pools, past_periods, charges, budgets, sagas, .. } = folded.state.clone();
            (pools, past_periods, charges, budgets, sagas)
        };
        assert_eq!(state(&again), state(&folded));
        assert_eq!(again.granted, folded.granted);
        let told =
            |folded: &Folded| folded.state.charges.keys().map(|id| format!("{id}: {:?}", folded.stories.of(*id))).collect::<Vec<_>>();
        let [mut told, mut before] = [told(&again), told(&folded)];
        told.sort();
        before.sort();
        assert_eq!(told, before);
        let LedgerState { charges, sagas, past_periods, budgets, .. } = &folded.state;
        assert_eq!((charges.len(), sagas.len(), budgets.len(), past_periods.is_empty()), (2, 1, 1, false));
    }
}
