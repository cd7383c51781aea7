//! What each invariant has found so far.

use crate::{
    Scope,
    report::{Compared, Findings, Report, Totals},
};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
pub(crate) struct Book {
    pub balances: Findings,
    pub ends: Findings,
    pub fold: Findings,
    pub log: Findings,
    pub usage: Findings,
    pub sums: Findings,
    pub counts: Findings,
    pub replay: Findings,
    pub buckets: Findings,
    pub answers: Findings,
    pub totals: Totals,
    pub events: u64,
    pub shards: Vec<Compared>,
}

impl Default for Book {
    fn default() -> Self {
        Self {
            balances: Findings::new("I1", "granted − settled + refunded − held = remaining, never below zero except booked debt"),
            ends: Findings::new("I2", "each charge reaches exactly one end, and refunds never exceed what was settled"),
            fold: Findings::new("I3", "each shard is numbered without gaps, and charges, pools and sagas are the fold of their events"),
            log: Findings::new("I4", "every published event is in the log with its own bytes, and no number stands for two events"),
            usage: Findings::new("I5", "raw events are those of the ledger, and each rollup cell is their sum"),
            sums: Findings::new("I6", "the users of a provider add up to its models, in each bucket"),
            counts: Findings::new("I7", "accepted = applied + pending"),
            replay: Findings::new("I8", "a replay of every event makes the same totals, byte by byte"),
            buckets: Findings::new("I9", "a payer's buckets hold what its recent charges took, and no limit let more pass"),
            answers: Findings::new("I10", "every answer under an idempotency key is still true of its charge"),
            totals: Totals::default(),
            events: 0,
            shards: Vec::new(),
        }
    }
}

impl Book {
    fn findings(self) -> [Findings; 10] {
        let Self { balances, ends, fold, log, usage, sums, counts, replay, buckets, answers, .. } = self;
        [balances, ends, fold, log, usage, sums, counts, replay, buckets, answers]
    }

    pub fn is_clean(&self) -> bool {
        let Self { balances, ends, fold, log, usage, sums, counts, replay, buckets, answers, .. } = self;
        [balances, ends, fold, log, usage, sums, counts, replay, buckets, answers].into_iter().all(Findings::is_clean)
    }

    /// Takes up what was found of another shard.
    pub fn absorb(&mut self, other: Self) {
        self.totals.accepted += other.totals.accepted;
        self.totals.applied += other.totals.applied;
        self.totals.pending += other.totals.pending;
        self.events += other.events;
        self.shards.extend(other.shards.iter().cloned());
        let Self { balances, ends, fold, log, usage, sums, counts, replay, buckets, answers, .. } = self;
        let own = [balances, ends, fold, log, usage, sums, counts, replay, buckets, answers];
        own.into_iter().zip(other.findings()).for_each(|(own, other)| own.absorb(other));
    }

    pub fn report(self, made_at: DateTime<Utc>, scope: Scope) -> Report {
        let (checked_events, totals, shards) = (self.events, self.totals, self.shards.clone());
        let invariants: Vec<_> = self.findings().into_iter().map(Findings::finish).collect();
        let clean = invariants.iter().all(|invariant| invariant.different == 0);
        Report { clean, made_at, scope, checked_events, totals, invariants, shards }
    }
}
