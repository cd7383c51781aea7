//! One shard as the audit sees it: how far its rollups were, then ledger and outbox of one later moment.

use crate::{AuditError, Reading, Stores, report::Difference};
use domain::{
    event::UsageEvent,
    ids::{Payer, Shard},
    pool::PoolKey,
};
use ports::{
    ledger::ShardSnapshot,
    usage_store::{Generation, ShardState},
};

pub(crate) struct Picture {
    pub shard: Shard,
    pub generation: Generation,
    /// Read before the snapshot: everything up to its number is in the rollups now.
    pub applied: ShardState,
    pub snapshot: ShardSnapshot,
}

impl Picture {
    pub async fn take(stores: &Stores, shard: Shard) -> Result<Self, AuditError> {
        let generation = stores.usage_store.live_generation().await.reading("the generation of the rollups")?;
        let states = stores.usage_store.shard_states(generation, &[shard]).await.reading("the state of a shard")?;
        let applied = states.first().copied().unwrap_or_default();
        let snapshot = stores.ledger.snapshot(shard).await.reading("the ledger")?;
        Ok(Self { shard, generation, applied, snapshot })
    }

    /// In order of their numbers; rows that cannot be decoded are left out (the sequence check names them).
    pub fn events(&self) -> impl DoubleEndedIterator<Item = &UsageEvent> {
        self.snapshot.events.iter().filter_map(|row| row.event.as_ref().ok())
    }

    /// The event with this number, as far as the snapshot goes.
    pub fn event(&self, seq: i64) -> Option<&UsageEvent> {
        let index = self.snapshot.events.binary_search_by_key(&seq, |row| row.seq).ok()?;
        self.snapshot.events.get(index).and_then(|row| row.event.as_ref().ok())
    }

    /// A difference at the event with this number, which may be missing.
    pub fn at(&self, seq: Option<i64>, subject: &str) -> Difference {
        let difference = Difference::at(self.shard, subject);
        match seq.and_then(|seq| self.event(seq)) {
            Some(event) => difference.event(event),
            None => Difference { seq, ..difference },
        }
    }

    /// A difference of what belongs to a payer, at the payer's newest event.
    pub fn about_payer(&self, payer: Payer, subject: &str) -> Difference {
        let difference = Difference::at(self.shard, subject).tenant(payer.tenant());
        match self.events().rev().find(|event| event.event.payer == payer) {
            Some(event) => difference.event(event),
            None => difference,
        }
    }

    /// A difference of a pool, at the newest event that moved it.
    pub fn about_pool(&self, pool: &PoolKey, subject: &str) -> Difference {
        let subject = format!("{subject} of {} at {}", pool.payer.kind().to_lowercase(), pool.provider);
        let difference = Difference::at(self.shard, subject).tenant(pool.payer.tenant());
        let moved = |event: &&UsageEvent| event.event.payer == pool.payer && event.event.provider.as_ref() == Some(&pool.provider);
        match self.events().rev().find(moved) {
            Some(event) => difference.event(event),
            None => difference,
        }
    }
}
