//! The projection's state and its steps; [`super::run`] puts them in order, the tests in every order they can think of.
//!
//! A crash may come between any two steps, and two projectors may own a shard at the same time: totals stay exact, because a total is a
//! function of the events up to its number and the store keeps the one with the largest number.

use super::{
    decode,
    shard::{Accepted, Gap, Place, ShardProgress, Untouched},
    trace,
};
use domain::{
    defect::{Defect, is_back},
    event::UsageEvent,
    ids::Shard,
    rollup::CellKey,
    trace_parent::TraceParent,
};
use ports::{
    Result,
    event_log::{DeadLetter, LogRecord},
    outbox::{Outbox, ShardHead},
    usage_store::{Flush, Generation, ShardState, UsageStore},
};
use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

/// Shards are flushed in this many groups that take turns, so that an event waits for the flush of its own group and not for all.
pub const LANES: u8 = 8;

pub fn lane_of(shard: Shard) -> u8 {
    shard.index() % LANES
}

/// Rows read from the outbox at once when numbers are missing; a wider gap is closed in several rounds, flushed in between.
const HEAL_ROWS: u32 = 2_000;

/// What one flush makes durable, and what may be committed after it.
pub struct FlushJob {
    pub generation: Generation,
    pub lane: u8,
    pub flushes: Vec<Flush>,
    pub letters: Vec<DeadLetter>,
    pub offsets: Vec<(Shard, i64)>,
    /// Of sampled events in it.
    pub traces: Vec<TraceParent>,
}

pub struct Projector {
    store: Arc<dyn UsageStore>,
    outbox: Arc<dyn Outbox>,
    generation: Generation,
    cached_cells: usize,
    shards: BTreeMap<Shard, ShardProgress>,
    /// In order, not yet in any total.
    accepted: Vec<Accepted>,
    /// Totals to load, each with an event that is in the others already.
    untouched: Vec<Untouched>,
    letters: Vec<DeadLetter>,
    traces: Vec<TraceParent>,
    flush_number: u64,
}

impl Projector {
    pub fn new(store: Arc<dyn UsageStore>, outbox: Arc<dyn Outbox>, generation: Generation, cached_cells: usize) -> Self {
        Self {
            store,
            outbox,
            generation,
            cached_cells,
            shards: BTreeMap::new(),
            accepted: Vec::new(),
            untouched: Vec::new(),
            letters: Vec::new(),
            traces: Vec::new(),
            flush_number: 1,
        }
    }

    /// Owns exactly these shards from now on. A shard that somebody else moved on in the meantime starts from the stored state.
    pub async fn assign(&mut self, shards: &[Shard]) -> Result<()> {
        self.apply_accepted().await?;
        let stored = self.store.shard_states(self.generation, shards).await?;
        let mut owned = BTreeMap::new();
        for (shard, state) in shards.iter().zip(stored) {
            let progress = match self.shards.remove(shard) {
                Some(progress) if progress.state.last_seq >= state.last_seq => progress,
                _ => ShardProgress::new(*shard, state),
            };
            owned.insert(*shard, progress);
        }
        self.shards = owned;
        Ok(())
    }

    /// Goes on in another generation from where that one is. Nothing may be under way to the store. Events that were applied in memory only
    /// are read again: their raw events are not stored yet.
    pub async fn follow(&mut self, generation: Generation) -> Result<()> {
        self.apply_accepted().await?;
        let shards: Vec<Shard> = self.shards.keys().copied().collect();
        let states = self.store.shard_states(generation, &shards).await?;
        for (shard, state) in shards.into_iter().zip(states) {
            if let Some(progress) = self.shards.get_mut(&shard) {
                *progress = progress.in_generation(state);
            }
        }
        self.generation = generation;
        Ok(())
    }

    pub const fn generation(&self) -> Generation {
        self.generation
    }

    /// Reads records in the order of the log. After an error, [`Projector::apply_accepted`] must succeed before anything else.
    pub async fn take(&mut self, records: Vec<LogRecord>) -> Result<()> {
        for record in records {
            if self.shards.contains_key(&record.shard) {
                self.take_one(record).await;
            }
        }
        self.apply_accepted().await
    }

    async fn take_one(&mut self, record: LogRecord) {
        let (shard, offset) = (record.shard, record.offset);
        let sampled = record.trace_parent.as_deref().and_then(trace::sampled);
        let current = |event: UsageEvent| match self.shards.get(&shard).is_some_and(|progress| progress.is_outdated(&event)) {
            true => Err(format!("event {} is of epoch {}, from before the ledger was restored", event.seq, event.epoch)),
            false => Ok(event),
        };
        match decode::event_of(&record).and_then(current) {
            Err(reason) => self.refuse(record, reason).await,
            Ok(event) => {
                let Some(progress) = self.shards.get(&shard) else { return };
                if progress.gap.is_none() && progress.place(event.seq) == Place::Ahead {
                    self.missing(shard, Gap { proven_through: event.seq - 1, claimed_through: 0 }).await;
                }
                let Some(progress) = self.shards.get_mut(&shard) else { return };
                let is_next = progress.place(event.seq) == Place::Next;
                match (&mut progress.gap, is_next) {
                    // Also while numbers after it are missing: it may have been redriven because the outbox holds it no more.
                    (_, true) => {
                        let accepted = progress.accept(event);
                        self.accepted.push(accepted);
                        self.traces.extend(sampled.filter(|_| self.traces.len() < trace::LINKS_PER_FLUSH));
                    }
                    // The outbox holds it too; it is read from there once the numbers before it are.
                    (Some(gap), false) => gap.proven_through = gap.proven_through.max(event.seq),
                    (None, false) => metrics::counter!("projection_duplicates_total").increment(1),
                }
            }
        }
        if let Some(progress) = self.shards.get_mut(&shard) {
            progress.passed(offset);
        }
    }

    /// Keeps what is no event for people to look at. If it stood where a number was expected, the outbox has the real one.
    async fn refuse(&mut self, record: LogRecord, reason: String) {
        let (shard, claimed) = (record.shard, record.seq);
        tracing::warn!(%shard, offset = record.offset, claimed, %reason, "a record of the usage log is not an event and is put aside");
        metrics::counter!("projection_dead_letters_total").increment(1);
        self.letters.push(decode::dead_letter(record, reason));
        let expected = self.shards.get(&shard).map_or(i64::MAX, |progress| progress.state.last_seq + 1);
        if let Some(claimed_through) = claimed.filter(|seq| *seq >= expected) {
            self.missing(shard, Gap { proven_through: 0, claimed_through }).await;
        }
    }

    /// Numbers are missing: pulls them from the outbox, or stops the shard until they can be had. Never skips.
    async fn missing(&mut self, shard: Shard, gap: Gap) {
        let Some(progress) = self.shards.get_mut(&shard) else { return };
        if let Some(open) = &mut progress.gap {
            open.proven_through = open.proven_through.max(gap.proven_through);
            open.claimed_through = open.claimed_through.max(gap.claimed_through);
            return;
        }
        if gap.proven_through > 0 {
            let (first, last) = (progress.state.last_seq + 1, gap.proven_through);
            tracing::error!(%shard, first, last, "the usage log lacks events; they are read from the outbox");
            metrics::counter!("projection_gap_total").increment(1);
        }
        progress.gap = Some(gap);
        self.close_gap(shard).await;
    }

    /// Another try for every shard that waits for missing numbers. `true` when some were found and more may follow at once.
    pub async fn heal(&mut self) -> Result<bool> {
        let stopped: Vec<Shard> = self.stopped_shards().collect();
        for shard in stopped {
            self.close_gap(shard).await;
        }
        let progressed = !self.accepted.is_empty();
        self.apply_accepted().await?;
        Ok(progressed)
    }

    /// The relay says what the log has acknowledged. A shard that stands below that, and stood there at the last check, lacks the end
    /// of its log: no later record will reveal it.
    pub async fn check_tails(&mut self, heads: &[ShardHead]) -> Result<()> {
        for head in heads.iter().filter(|_| !is_back(Defect::TailsNotChecked)) {
            let Some(progress) = self.shards.get_mut(&head.shard) else { continue };
            let stands = progress.state.last_seq;
            let stood = progress.stood_at.replace(stands);
            if progress.gap.is_none() && stood == Some(stands) && head.published_through > stands {
                self.missing(head.shard, Gap { proven_through: head.published_through, claimed_through: 0 }).await;
            }
        }
        self.apply_accepted().await
    }

    pub fn has_gaps(&self) -> bool {
        self.stopped_shards().next().is_some()
    }

    pub fn stopped_shards(&self) -> impl Iterator<Item = Shard> + '_ {
        self.shards.values().filter(|progress| progress.gap.is_some()).map(|progress| progress.shard)
    }

    /// One round: as many of the missing events as are read at once.
    async fn close_gap(&mut self, shard: Shard) {
        let Some(progress) = self.shards.get_mut(&shard) else { return };
        let Some(gap) = progress.gap else { return };
        if progress.state.last_seq >= gap.through() {
            progress.gap = None;
            return;
        }
        let rows = match self.outbox.read(shard, progress.state.last_seq, HEAL_ROWS).await {
            Ok(rows) => rows,
            Err(error) => {
                tracing::debug!(%shard, error = %error, "missing events cannot be read from the outbox yet");
                return;
            }
        };
        let end_of_outbox = rows.len() < usize::try_from(HEAL_ROWS).unwrap_or(usize::MAX);
        for row in rows.into_iter().take_while(|row| row.seq <= gap.through()) {
            if progress.place(row.seq) != Place::Next {
                break;
            }
            match decode::event_of_outbox(&row.payload, shard, row.seq) {
                Ok(event) => {
                    metrics::counter!("projection_healed_total").increment(1);
                    let accepted = progress.accept(event);
                    self.accepted.push(accepted);
                }
                Err(reason) => {
                    if !std::mem::replace(&mut progress.stuck, true) {
                        tracing::error!(%shard, seq = row.seq, %reason, "the outbox holds a damaged event; the shard stays stopped");
                    }
                    return;
                }
            }
        }
        let last_seq = progress.state.last_seq;
        // What was only claimed need not exist: the end of the outbox is the end of the shard.
        if last_seq >= gap.through() || (end_of_outbox && last_seq >= gap.proven_through) {
            progress.gap = None;
            progress.stuck = false;
        } else if end_of_outbox && !std::mem::replace(&mut progress.stuck, true) {
            tracing::error!(%shard, seq = last_seq + 1, "neither the log nor the outbox holds the next event; the shard stays stopped");
        }
    }

    /// Adds accepted events to their totals, those that are touched for the first time after loading them. May be repeated after an
    /// error. Totals are independent of each other, so a known one need not wait for an unknown one.
    pub async fn apply_accepted(&mut self) -> Result<()> {
        for accepted in self.accepted.drain(..) {
            if let Some(progress) = self.shards.get_mut(&accepted.event.shard()) {
                self.untouched.extend(progress.apply(accepted, self.flush_number));
            }
        }
        if self.untouched.is_empty() {
            return Ok(());
        }
        let unknown: HashSet<&CellKey> = self.untouched.iter().map(|untouched| &untouched.key).collect();
        let unknown: Vec<CellKey> = unknown.into_iter().cloned().collect();
        let values = self.store.load_cells(self.generation, &unknown).await?;
        for (key, value) in unknown.into_iter().zip(values) {
            if let Some(progress) = self.shards.get_mut(&key.shard) {
                progress.learn(key, value);
            }
        }
        for untouched in self.untouched.drain(..) {
            if let Some(progress) = self.shards.get_mut(&untouched.key.shard) {
                progress.apply_late(&untouched, self.flush_number);
            }
        }
        Ok(())
    }

    pub fn pending_events(&self) -> usize {
        self.shards.values().map(ShardProgress::pending_events).sum::<usize>() + self.letters.len()
    }

    pub fn states(&self) -> impl Iterator<Item = (Shard, ShardState)> + '_ {
        self.shards.values().map(|progress| (progress.shard, progress.state))
    }

    /// Everything new of a lane since its last one. `None` when there is nothing to write or commit. At most one of a lane is under way
    /// at a time.
    pub fn begin_flush(&mut self, lane: u8) -> Option<FlushJob> {
        if !self.accepted.is_empty() || !self.untouched.is_empty() {
            return None;
        }
        let flushes: Vec<Flush> = self.lane(lane).filter_map(ShardProgress::begin_flush).collect();
        let offsets: Vec<(Shard, i64)> = self.lane(lane).filter_map(|shard| Some((shard.shard, shard.offset_to_commit()?))).collect();
        let letters: Vec<DeadLetter> = self.letters.extract_if(.., |letter| lane_of(letter.shard) == lane).collect();
        if flushes.is_empty() && offsets.is_empty() && letters.is_empty() {
            return None;
        }
        self.flush_number += 1;
        Some(FlushJob { generation: self.generation, lane, flushes, letters, offsets, traces: std::mem::take(&mut self.traces) })
    }

    fn lane(&mut self, lane: u8) -> impl Iterator<Item = &mut ShardProgress> {
        self.shards.values_mut().filter(move |progress| lane_of(progress.shard) == lane)
    }

    /// The job is durable and its offsets are committed.
    pub fn finish_flush(&mut self, job: &FlushJob) {
        for (shard, offset) in &job.offsets {
            if let Some(progress) = self.shards.get_mut(shard) {
                progress.committed(*offset);
            }
        }
        self.forget_cold_cells(job.lane);
    }

    pub fn known_cells(&self) -> usize {
        self.shards.values().map(ShardProgress::known_cells).sum()
    }

    /// Keeps memory flat: first what was not touched in the last flushes, then everything that is stored. Only of the lane whose flush has
    /// just ended: a total that is on its way to the store must not be read from there again.
    fn forget_cold_cells(&mut self, lane: u8) {
        for rounds in [16, 1, 0] {
            if self.known_cells() <= self.cached_cells {
                return;
            }
            let before = self.flush_number.saturating_sub(rounds * u64::from(LANES)) + 1;
            if is_back(Defect::CellsForgottenInFlight) {
                self.shards.values_mut().for_each(|progress| progress.forget_cells(before));
            }
            self.lane(lane).for_each(|progress| progress.forget_cells(before));
        }
    }
}
