//! The totals of one shard in memory, on their way into the new generation.

use super::{Stores, desk::Halt};
use domain::{
    event::UsageEvent,
    generation::{Generation, ShardState},
    ids::Shard,
    replay::Coverage,
    rollup::{self, CellKey, CellValue},
};
use ports::usage_store::Flush;
use std::collections::{HashMap, HashSet};
use tokio::task::yield_now;

/// Fewer and larger writes: each total is written once for all that came since the last one.
const EVENTS_PER_FLUSH: usize = 40_000;
/// Events that are added before others get their turn.
const EVENTS_PER_TURN: usize = 128;
/// A write is also this large at most, so that memory stays bounded where each event has totals of its own.
const CELLS_PER_FLUSH: usize = 100_000;
/// About 400 bytes each.
const CELLS_KEPT: usize = 200_000;

/// What a fold builds, the same for all shards.
#[derive(Clone)]
pub struct Plan {
    pub generation: Generation,
    pub coverage: Coverage,
    /// Builds nothing and only sums the digests.
    pub dry_run: bool,
}

pub struct Fold {
    plan: Plan,
    shard: Shard,
    state: ShardState,
    /// Up to here totals outside the coverage hold their events already: they were copied.
    copied_through: i64,
    /// Nothing of the covered totals can be in the store yet.
    fresh: bool,
    cells: HashMap<CellKey, Cell>,
    /// Changed since the last flush.
    dirty: Vec<CellKey>,
    since_flush: usize,
    covered: i64,
}

#[derive(Default)]
struct Cell {
    value: CellValue,
    /// Among the dirty ones.
    dirty: bool,
}

impl Fold {
    pub fn new(plan: Plan, shard: Shard, state: ShardState, copied_through: i64, fresh: bool) -> Self {
        let (cells, dirty) = (HashMap::new(), Vec::new());
        Self { plan, shard, state, copied_through, fresh, cells, dirty, since_flush: 0, covered: 0 }
    }

    pub const fn state(&self) -> ShardState {
        self.state
    }

    /// Events in the coverage since the last time.
    pub fn take_covered(&mut self) -> i64 {
        std::mem::take(&mut self.covered)
    }

    /// Adds events in the order of their numbers.
    pub async fn add(&mut self, stores: &Stores, events: &[UsageEvent]) -> Result<(), Halt> {
        if !self.plan.dry_run {
            let keys: Vec<Vec<CellKey>> = events.iter().map(|event| self.cells_of(event)).collect();
            self.learn(stores, keys.iter().flatten()).await?;
            for (index, (event, keys)) in events.iter().zip(keys).enumerate() {
                self.apply(event, keys);
                if index % EVENTS_PER_TURN == EVENTS_PER_TURN - 1 {
                    yield_now().await;
                }
            }
        }
        for event in events {
            self.covered += i64::from(self.plan.coverage.holds_event(event));
            let digest = self.state.digest.wrapping_add(rollup::digest(event));
            self.state = ShardState { last_seq: event.seq, digest, recorded_at_ms: event.recorded_at.timestamp_millis() };
        }
        self.since_flush += events.len();
        let is_full = self.since_flush >= EVENTS_PER_FLUSH || self.dirty.len() >= CELLS_PER_FLUSH;
        if is_full { self.flush(stores).await } else { Ok(()) }
    }

    /// Those that do not hold it by having been copied.
    fn cells_of(&self, event: &UsageEvent) -> Vec<CellKey> {
        let mut cells = rollup::cells(event);
        if event.seq <= self.copied_through {
            cells.retain(|cell| self.plan.coverage.holds_cell(cell));
        }
        cells
    }

    async fn learn(&mut self, stores: &Stores, keys: impl Iterator<Item = &CellKey>) -> Result<(), Halt> {
        let unknown: HashSet<&CellKey> = keys.filter(|key| !self.cells.contains_key(*key)).collect();
        let is_new = |key: &CellKey| self.fresh && self.plan.coverage.holds_cell(key);
        let (new, stored): (Vec<CellKey>, Vec<CellKey>) = unknown.into_iter().cloned().partition(is_new);
        let values = if stored.is_empty() { Vec::new() } else { stores.usage.load_cells(self.plan.generation, &stored).await? };
        self.cells.extend(new.into_iter().map(|key| (key, Cell::default())));
        self.cells.extend(stored.into_iter().zip(values).map(|(key, value)| (key, Cell { value, dirty: false })));
        Ok(())
    }

    /// A total may be ahead of the shard (it was copied, or its flush died before the state): then it holds the event already.
    fn apply(&mut self, event: &UsageEvent, keys: Vec<CellKey>) {
        for key in keys {
            let Some(cell) = self.cells.get_mut(&key).filter(|cell| cell.value.last_seq < event.seq) else { continue };
            cell.value.apply(event);
            if !std::mem::replace(&mut cell.dirty, true) {
                self.dirty.push(key);
            }
        }
    }

    /// Everything so far is durable when it returns.
    pub async fn flush(&mut self, stores: &Stores) -> Result<(), Halt> {
        if self.since_flush == 0 || self.plan.dry_run {
            return Ok(());
        }
        let mut cells = Vec::with_capacity(self.dirty.len());
        for key in self.dirty.drain(..) {
            if let Some(cell) = self.cells.get_mut(&key) {
                cell.dirty = false;
                cells.push((key, cell.value));
            }
        }
        let flush = Flush { shard: self.shard, raw: Vec::new(), cells, state: self.state };
        stores.usage.write(self.plan.generation, &[flush]).await?;
        self.since_flush = 0;
        if self.cells.len() > CELLS_KEPT {
            self.cells.clear();
            self.fresh = false;
        }
        Ok(())
    }
}
