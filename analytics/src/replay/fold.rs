//! The totals of some shards in memory, on their way into the new generation.

use super::desk::Halt;
use domain::{
    defect::{Defect, is_back},
    event::UsageEvent,
    generation::{Generation, ShardState},
    ids::Shard,
    replay::Coverage,
    rollup::{self, CellKey, CellValue, Counted},
};
use ports::usage_store::{Flush, UsageStore};
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};
use tokio::task::{JoinSet, yield_now};

#[cfg(test)]
mod tests;

/// Events that are added before others get their turn.
const EVENTS_PER_TURN: usize = 128;

/// How much is gathered and kept.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Nobody waits for a total of a replay, so each is written once for all that came since the last time. What a worker that dies has
    /// not written is read again: some seconds of work.
    pub events_per_flush: usize,
    /// A write is also this large at most, so that memory stays bounded where each event has totals of its own.
    pub cells_per_flush: usize,
    /// About 500 bytes each, with what finds them. Looked at between two flushes.
    pub cells_kept: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { events_per_flush: 500_000, cells_per_flush: 100_000, cells_kept: 400_000 }
    }
}

/// What a fold builds, the same for all shards.
#[derive(Clone)]
pub struct Plan {
    pub generation: Generation,
    pub coverage: Coverage,
    /// Builds nothing and only sums the digests.
    pub dry_run: bool,
    pub bounds: Bounds,
}

/// One of the shards.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    pub state: ShardState,
    /// Up to here totals outside the coverage hold their events already: they were copied.
    pub copied_through: i64,
    /// Nothing of the covered totals can be in the store yet.
    pub fresh: bool,
}

pub struct Fold {
    usage: Arc<dyn UsageStore>,
    plan: Plan,
    parts: BTreeMap<Shard, Part>,
    cells: Vec<Cell>,
    /// Where in `cells` a total is.
    places: HashMap<CellKey, usize>,
    /// Where the totals are that such events change.
    counted: HashMap<Counted, Arc<[usize]>>,
    /// Changed since the last flush.
    dirty: Vec<usize>,
    since_flush: usize,
    covered: i64,
    /// One write at a time, beside which the next events are added. Dropped with the fold, it ends.
    writing: JoinSet<ports::Result<()>>,
}

struct Cell {
    key: CellKey,
    value: CellValue,
    is_covered: bool,
    /// Among the dirty ones.
    dirty: bool,
}

impl Fold {
    pub fn new(usage: Arc<dyn UsageStore>, plan: Plan, parts: BTreeMap<Shard, Part>) -> Self {
        let (cells, places, counted, dirty) = (Vec::new(), HashMap::new(), HashMap::new(), Vec::new());
        Self { usage, plan, parts, cells, places, counted, dirty, since_flush: 0, covered: 0, writing: JoinSet::new() }
    }

    /// Where each shard is.
    pub fn states(&self) -> impl Iterator<Item = (Shard, ShardState)> {
        self.parts.iter().map(|(shard, part)| (*shard, part.state))
    }

    /// Events in the coverage since the last time.
    pub fn take_covered(&mut self) -> i64 {
        std::mem::take(&mut self.covered)
    }

    /// Adds events of these shards, of each in the order of their numbers.
    pub async fn add(&mut self, events: &[UsageEvent]) -> Result<(), Halt> {
        if !self.plan.dry_run {
            let changed = self.learn(events).await?;
            for (index, (event, places)) in events.iter().zip(changed).enumerate() {
                self.apply(event, &places);
                if index % EVENTS_PER_TURN == EVENTS_PER_TURN - 1 {
                    yield_now().await;
                }
            }
        }
        for event in events {
            self.covered += i64::from(self.plan.coverage.holds_event(event));
            let Some(part) = self.parts.get_mut(&event.shard()) else { continue };
            let digest = part.state.digest.wrapping_add(rollup::digest(event));
            part.state = ShardState { last_seq: event.seq, digest, recorded_at_ms: event.recorded_at.timestamp_millis() };
        }
        self.since_flush += events.len();
        let is_full = self.since_flush >= self.plan.bounds.events_per_flush || self.dirty.len() >= self.plan.bounds.cells_per_flush;
        if is_full { self.begin_flush().await } else { Ok(()) }
    }

    /// Which totals each event changes, all of them in memory.
    async fn learn(&mut self, events: &[UsageEvent]) -> Result<Vec<Arc<[usize]>>, Halt> {
        let mut stored: Vec<usize> = Vec::new();
        let mut changed = Vec::with_capacity(events.len());
        for event in events {
            let Some(counted) = Counted::of(event) else {
                changed.push(Arc::from([]));
                continue;
            };
            if let Some(places) = self.counted.get(&counted) {
                changed.push(Arc::clone(places));
                continue;
            }
            let fresh = self.parts.get(&event.shard()).is_some_and(|part| part.fresh);
            let places: Arc<[usize]> = counted.cells().into_iter().map(|key| self.place_of(key, fresh, &mut stored)).collect();
            self.counted.insert(counted, Arc::clone(&places));
            changed.push(places);
        }
        if !stored.is_empty() {
            let keys: Vec<CellKey> = stored.iter().filter_map(|place| Some(self.cells.get(*place)?.key.clone())).collect();
            let values = self.usage.load_cells(self.plan.generation, &keys).await?;
            for (place, value) in stored.into_iter().zip(values) {
                if let Some(cell) = self.cells.get_mut(place) {
                    cell.value = value;
                }
            }
        }
        Ok(changed)
    }

    /// A total that is new here joins `stored` if the store may have it.
    fn place_of(&mut self, key: CellKey, fresh: bool, stored: &mut Vec<usize>) -> usize {
        if let Some(place) = self.places.get(&key) {
            return *place;
        }
        let (place, is_covered) = (self.cells.len(), self.plan.coverage.holds_cell(&key));
        if !(fresh && is_covered) {
            stored.push(place);
        }
        self.places.insert(key.clone(), place);
        self.cells.push(Cell { key, value: CellValue::default(), is_covered, dirty: false });
        place
    }

    /// A total may be ahead of the shard (it was copied, or its flush died before the state): then it holds the event already.
    fn apply(&mut self, event: &UsageEvent, places: &[usize]) {
        let copied = self.parts.get(&event.shard()).is_some_and(|part| event.seq <= part.copied_through);
        for place in places {
            let Some(cell) = self.cells.get_mut(*place) else { continue };
            let is_counted = cell.value.last_seq >= event.seq || (copied && !cell.is_covered);
            if is_counted && !is_back(Defect::CopiedTotalsCountedAgain) {
                continue;
            }
            cell.value.apply(event);
            if !std::mem::replace(&mut cell.dirty, true) {
                self.dirty.push(*place);
            }
        }
    }

    /// Everything so far is durable when it returns.
    pub async fn flush(&mut self) -> Result<(), Halt> {
        self.begin_flush().await?;
        self.end_flush().await
    }

    async fn begin_flush(&mut self) -> Result<(), Halt> {
        if self.since_flush == 0 || self.plan.dry_run {
            return Ok(());
        }
        // In order: a shard's state must not be stored before the totals of an earlier write.
        self.end_flush().await?;
        let mut by_shard: BTreeMap<Shard, Vec<(CellKey, CellValue)>> = BTreeMap::new();
        for place in self.dirty.drain(..) {
            if let Some(cell) = self.cells.get_mut(place) {
                cell.dirty = false;
                by_shard.entry(cell.key.shard).or_default().push((cell.key.clone(), cell.value));
            }
        }
        let of_shard = |(shard, state): (Shard, ShardState)| Flush {
            shard,
            raw: Vec::new(),
            cells: by_shard.remove(&shard).unwrap_or_default(),
            state,
        };
        let flushes: Vec<Flush> = self.states().filter(|(_, state)| state.last_seq > 0).map(of_shard).collect();
        let (usage, generation) = (Arc::clone(&self.usage), self.plan.generation);
        self.writing.spawn(async move { usage.write(generation, &flushes).await });
        self.since_flush = 0;
        if self.cells.len().max(self.counted.len()) > self.plan.bounds.cells_kept {
            // What is forgotten is loaded again, so it must be there.
            self.end_flush().await?;
            self.cells.clear();
            self.places.clear();
            self.counted.clear();
            self.parts.values_mut().for_each(|part| part.fresh = false);
        }
        Ok(())
    }

    async fn end_flush(&mut self) -> Result<(), Halt> {
        while let Some(written) = self.writing.join_next().await {
            written.map_err(|panicked| Halt::Failed(format!("a defect: {panicked}")))??;
        }
        Ok(())
    }
}
