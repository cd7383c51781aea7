//! One shard as the audit sees it: how far its rollups were, then ledger and outbox of one later moment.

use crate::{
    AuditError, Reading, Stores, archived,
    blocks::{self, Sealed},
    earlier::Earlier,
    report::Difference,
};
use domain::{
    event::UsageEvent,
    ids::{EventId, Payer, Shard},
    pool::PoolKey,
};
use ports::{
    ledger::{ShardSnapshot, StoredEvent},
    usage_store::{Generation, ShardState},
};
use std::collections::HashSet;

pub(crate) struct Picture {
    pub shard: Shard,
    pub generation: Generation,
    /// Read before the snapshot: everything up to its number is in the rollups now.
    pub applied: ShardState,
    /// Without the events that were proved before.
    pub snapshot: ShardSnapshot,
    /// Digests of the outbox rows from number 1 on, as far as there is no gap.
    pub rows: Vec<u64>,
    /// Number of the last event that was proved before, and the ids up to there.
    pub proved: i64,
    pub proved_ids: HashSet<EventId>,
    sealed: Option<Sealed>,
}

impl Picture {
    /// What comes after the earlier part, which is empty where nothing was proved before.
    pub async fn take(stores: &Stores, shard: Shard, earlier: Earlier) -> Result<Self, AuditError> {
        let Earlier { mut rows, ids: proved_ids, mut sealed } = earlier;
        let proved = i64::try_from(rows.len()).unwrap_or(i64::MAX);
        let generation = stores.usage_store.live_generation().await.reading("the generation of the rollups")?;
        let states = stores.usage_store.shard_states(generation, &[shard]).await.reading("the state of a shard")?;
        let applied = states.first().copied().unwrap_or_default();
        let snapshot = match proved {
            0 => stores.ledger.snapshot(shard).await,
            _ => stores.ledger.snapshot_after(shard, proved).await,
        };
        let mut snapshot = snapshot.reading("the ledger")?;
        archived::put_before(&*stores.outbox, shard, proved, &mut snapshot).await?;
        for (seq, row) in (proved + 1..).zip(&snapshot.events).take_while(|(seq, row)| row.seq == *seq) {
            rows.push(blocks::row(&row.payload));
            if let Some(sealed) = sealed.as_mut().filter(|_| seq <= applied.last_seq) {
                sealed.add(&row.payload);
            }
        }
        Ok(Self { shard, generation, applied, snapshot, rows, proved, proved_ids, sealed })
    }

    /// Up to where every store could be compared, and the seal of the outbox up to there; of an audit of everything.
    pub fn seal(&mut self) -> Option<(i64, String)> {
        Some((self.applied.last_seq, self.sealed.take()?.seal()))
    }

    /// The rows that [`Picture::rows`] does not reach.
    pub fn rows_behind_a_gap(&self) -> &[StoredEvent] {
        let before = usize::try_from(self.proved).unwrap_or(0);
        self.snapshot.events.get(self.rows.len() - before..).unwrap_or_default()
    }

    /// Digest of the outbox row with this number.
    pub fn row(&self, seq: i64) -> Option<u64> {
        let dense = usize::try_from(seq).ok().and_then(|seq| self.rows.get(seq.checked_sub(1)?)).copied();
        let behind = || self.rows_behind_a_gap().iter().find(|row| row.seq == seq).map(|row| blocks::row(&row.payload));
        dense.or_else(behind)
    }

    /// In order of their numbers; rows that cannot be decoded are left out (the sequence check names them).
    pub fn events(&self) -> impl DoubleEndedIterator<Item = &UsageEvent> {
        self.snapshot.events.iter().filter_map(|row| row.event.as_ref().ok())
    }

    /// The event with this number, as far as the snapshot goes.
    pub fn event(&self, seq: i64) -> Option<&UsageEvent> {
        let rows = &self.snapshot.events;
        // Where no number is missing, its place follows from it.
        let dense = usize::try_from(seq - self.proved - 1).ok().and_then(|index| rows.get(index)).filter(|row| row.seq == seq);
        let search = || rows.get(rows.binary_search_by_key(&seq, |row| row.seq).ok()?);
        dense.or_else(search).and_then(|row| row.event.as_ref().ok())
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
