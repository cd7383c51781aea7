//! One shard as the projection sees it: which number comes next, the totals it touches, and what waits for the next flush.

use domain::{
    defect::{Defect, is_back},
    event::UsageEvent,
    ids::Shard,
    rollup::{self, CellKey, CellValue},
};
use ports::usage_store::{Flush, ShardState};
use std::{collections::HashMap, sync::Arc};

/// An event whose number is the next one, with the cells it changes.
pub struct Accepted {
    pub event: UsageEvent,
    pub cells: Vec<CellKey>,
}

/// Why a shard does not move on: numbers are missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gap {
    /// An event with this number was seen, so everything before it exists.
    pub proven_through: i64,
    /// A record that could not be read claimed this number; the outbox knows whether it exists.
    pub claimed_through: i64,
}

impl Gap {
    pub fn through(self) -> i64 {
        self.proven_through.max(self.claimed_through)
    }
}

struct Cell {
    key: Arc<CellKey>,
    value: CellValue,
    /// Changed since the last flush began.
    dirty: bool,
    /// Number of the flush before which it was last changed, for forgetting the coldest first.
    touched: u64,
}

impl Cell {
    /// A stored total may be ahead of the shard's state (a flush that died between the two), then it holds the event already.
    fn add(&mut self, event: &UsageEvent, flush: u64, dirty: &mut Vec<Arc<CellKey>>) {
        if event.seq <= self.value.last_seq && !is_back(Defect::TotalsNotNumbered) {
            return;
        }
        self.value.apply(event);
        self.touched = flush;
        if !self.dirty {
            self.dirty = true;
            dirty.push(Arc::clone(&self.key));
        }
    }
}

/// A total that an event changes and that is not in memory.
pub struct Untouched {
    pub key: CellKey,
    raw_index: usize,
}

pub struct ShardProgress {
    pub shard: Shard,
    /// Everything up to here is accepted: applied in memory or about to be.
    pub state: ShardState,
    pub gap: Option<Gap>,
    /// Of the newest event that was accepted here.
    epoch: i32,
    /// The gap was reported as one that neither the log nor the outbox can close.
    pub stuck: bool,
    /// `last_seq` at the last check of the log's end.
    pub stood_at: Option<i64>,
    /// The offset behind the last record that was read.
    next_offset: Option<i64>,
    committed_offset: Option<i64>,
    cells: HashMap<Arc<CellKey>, Cell>,
    dirty: Vec<Arc<CellKey>>,
    raw: Vec<UsageEvent>,
    flushed_seq: i64,
}

/// Where an event's number stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Counted before.
    Past,
    Next,
    /// Numbers between are missing.
    Ahead,
}

impl ShardProgress {
    pub fn new(shard: Shard, state: ShardState) -> Self {
        Self {
            shard,
            state,
            gap: None,
            epoch: 0,
            stuck: false,
            stood_at: None,
            next_offset: None,
            committed_offset: None,
            cells: HashMap::new(),
            dirty: Vec::new(),
            raw: Vec::new(),
            flushed_seq: state.last_seq,
        }
    }

    /// The same shard in another generation, which may stand elsewhere: what the old one is ahead by is pulled from the outbox.
    pub fn in_generation(&self, state: ShardState) -> Self {
        let seen_through = self.state.last_seq.max(self.gap.map_or(0, |gap| gap.proven_through));
        let claimed_through = self.gap.map_or(0, |gap| gap.claimed_through);
        let gap = Gap { proven_through: seen_through, claimed_through };
        Self {
            gap: (gap.through() > state.last_seq).then_some(gap),
            epoch: self.epoch,
            next_offset: self.next_offset,
            committed_offset: self.committed_offset,
            ..Self::new(self.shard, state)
        }
    }

    pub fn place(&self, seq: i64) -> Place {
        match seq - self.state.last_seq {
            ..=0 if is_back(Defect::DuplicatesCounted) => Place::Next,
            ..=0 => Place::Past,
            1 => Place::Next,
            _ if is_back(Defect::NoDensityRule) => Place::Next,
            _ => Place::Ahead,
        }
    }

    /// Sent by a relay that does not know that the ledger was restored since: its numbers may stand for other events by now.
    pub fn is_outdated(&self, event: &UsageEvent) -> bool {
        event.epoch < self.epoch && self.place(event.seq) != Place::Past
    }

    /// Takes the event with the next number.
    pub fn accept(&mut self, event: UsageEvent) -> Accepted {
        self.epoch = self.epoch.max(event.epoch);
        let digest = self.state.digest.wrapping_add(rollup::digest(&event));
        self.state = ShardState { last_seq: event.seq, digest, recorded_at_ms: event.recorded_at.timestamp_millis() };
        let cells = rollup::cells(&event);
        Accepted { event, cells }
    }

    pub fn passed(&mut self, offset: i64) {
        self.next_offset = Some(offset + 1);
    }

    /// Keeps the event and adds it to the totals that are known; answers the others.
    pub fn apply(&mut self, accepted: Accepted, flush: u64) -> Vec<Untouched> {
        let Accepted { event, cells } = accepted;
        let mut untouched = Vec::new();
        for key in cells {
            match self.cells.get_mut(&key) {
                Some(cell) => cell.add(&event, flush, &mut self.dirty),
                None => untouched.push(Untouched { key, raw_index: self.raw.len() }),
            }
        }
        self.raw.push(event);
        untouched
    }

    /// A total as stored. One that is known already stays: it is ahead.
    pub fn learn(&mut self, key: CellKey, value: CellValue) {
        let key = Arc::new(key);
        self.cells.entry(Arc::clone(&key)).or_insert(Cell { key, value, dirty: false, touched: 0 });
    }

    /// The rest of [`ShardProgress::apply`], once the total is learnt.
    pub fn apply_late(&mut self, untouched: &Untouched, flush: u64) {
        if let (Some(cell), Some(event)) = (self.cells.get_mut(&untouched.key), self.raw.get(untouched.raw_index)) {
            cell.add(event, flush, &mut self.dirty);
        }
    }

    pub fn pending_events(&self) -> usize {
        self.raw.len()
    }

    pub fn known_cells(&self) -> usize {
        self.cells.len()
    }

    /// Everything applied since the last flush, with the totals of now. `None` when there is nothing new.
    pub fn begin_flush(&mut self) -> Option<Flush> {
        if self.state.last_seq == self.flushed_seq {
            return None;
        }
        let mut cells = Vec::with_capacity(self.dirty.len());
        for key in self.dirty.drain(..) {
            if let Some(cell) = self.cells.get_mut(&key) {
                cell.dirty = false;
                cells.push(((*key).clone(), cell.value));
            }
        }
        self.flushed_seq = self.state.last_seq;
        Some(Flush { shard: self.shard, raw: std::mem::take(&mut self.raw), cells, state: self.state })
    }

    /// The offset to commit once everything flushed so far is durable; `None` when it is committed, or while numbers are missing.
    pub fn offset_to_commit(&self) -> Option<i64> {
        self.next_offset.filter(|next| self.gap.is_none() && Some(*next) != self.committed_offset)
    }

    pub fn committed(&mut self, offset: i64) {
        self.committed_offset = Some(offset);
    }

    /// Forgets totals that are stored and were not touched since the flush `before`. Only when no flush of this shard is under way.
    pub fn forget_cells(&mut self, before: u64) {
        self.cells.retain(|_, cell| cell.dirty || cell.touched >= before);
    }
}
