//! The consumer: log → raw events and totals, each event exactly once in every total.
//!
//! The order is the whole argument: events in the order of their numbers → raw events and totals → shard state → offset. A crash between
//! any two is repaired by reading again from the offset and dropping the numbers that the shard state already has.

pub mod decode;
mod flush;
mod lag;
mod projector;
mod shard;
mod trace;

#[cfg(test)]
pub mod tests;

use chrono::{DateTime, Utc};
use domain::{
    defect::{Defect, is_back},
    ids::Shard,
};
use flush::Writer;
pub use flush::causes;
pub use lag::Progress;
use ports::{
    Clock, Result, StoreError,
    event_log::{EventLog, LogEvent, LogReader, LogRecord},
    outbox::Outbox,
    usage_store::{Generation, UsageStore},
};
use projector::{FlushJob, LANES, Projector};
use std::{future::Future, sync::Arc, time::Duration};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

/// How much is gathered, kept and waited for.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Flushes begin at this many events …
    pub flush_events: usize,
    /// … or this long after the last one of the same shards began …
    pub flush_after: Duration,
    /// … or, while a backlog is read, this long: a larger flush writes each total less often.
    pub flush_backlog_after: Duration,
    /// Beyond this many events in memory nothing more is read from the log.
    pub pending_events: usize,
    /// Totals kept in memory between flushes; about 400 bytes each.
    pub cached_cells: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            flush_events: 24_000,
            flush_after: Duration::from_millis(200),
            flush_backlog_after: Duration::from_secs(1),
            pending_events: 48_000,
            cached_cells: 200_000,
        }
    }
}

/// Waiting for records ends this soon, so that a finished flush is committed at once.
const POLL: Duration = Duration::from_millis(20);
/// One gathers its rows while the store works on another.
const FLUSHES_IN_FLIGHT: usize = 2;
const PAUSE: Duration = Duration::from_millis(500);
/// Records that were in the log for longer when they are read are a backlog: then more at once counts for more than soon. Not the size of
/// a poll: at some thousand events a second that is large because the last flush took its time, and larger flushes only make it larger.
const BACKLOG_AGE: Duration = Duration::from_secs(3);
const HEAL_EVERY: Duration = Duration::from_secs(1);
const CHECK_TAILS_EVERY: Duration = Duration::from_secs(10);
/// A replay may have made another generation the live one.
const CHECK_GENERATION_EVERY: Duration = Duration::from_millis(500);

pub struct Projection {
    pub log: Arc<dyn EventLog>,
    pub outbox: Arc<dyn Outbox>,
    pub store: Arc<dyn UsageStore>,
    pub group: String,
    pub limits: Limits,
    pub clock: Clock,
    pub progress: Progress,
    pub shutdown: CancellationToken,
}

impl Projection {
    /// Until shutdown; then what was applied is flushed and committed.
    pub async fn run(self) {
        while !self.shutdown.is_cancelled() {
            let Some(generation) = self.insist("finding the live generation", || self.store.live_generation()).await else { return };
            let Some(reader) = self.insist("joining the readers of the log", || self.log.reader(&self.group)).await else { return };
            self.follow(Cycle::new(&self, generation, reader)).await;
        }
    }

    /// One reader from its start to shutdown, or to a defect after which only a fresh start from the stored state is safe.
    async fn follow(&self, mut cycle: Cycle) {
        let mut waiting = false;
        while !self.shutdown.is_cancelled() {
            match cycle.turn().await {
                Ok(()) => waiting = false,
                Err(Interrupted::FlushLost) => {
                    tracing::error!("a flush ended without a result; the projection starts again from the stored state");
                    return;
                }
                Err(Interrupted::Store(error)) => {
                    if !waiting {
                        tracing::warn!(store = error.store(), causes = %causes(&error), "the projection waits for a store");
                        waiting = true;
                    }
                    self.pause().await;
                    cycle.stay().await;
                }
            }
            self.progress.publish(&cycle.projector);
        }
        cycle.finish().await;
    }

    /// Tries until it succeeds or the process ends.
    async fn insist<T, F: Future<Output = Result<T>>>(&self, doing: &str, attempt: impl Fn() -> F) -> Option<T> {
        let mut waiting = false;
        while !self.shutdown.is_cancelled() {
            match attempt().await {
                Ok(value) => return Some(value),
                Err(error) if !waiting => {
                    tracing::warn!(doing, store = error.store(), causes = %causes(&error), "the projection waits for a store");
                    waiting = true;
                }
                Err(_) => {}
            }
            self.pause().await;
        }
        None
    }

    async fn pause(&self) {
        // Either way the loop looks at the token next.
        let _ = timeout(PAUSE, self.shutdown.cancelled()).await;
    }
}

enum Interrupted {
    Store(StoreError),
    /// Its events are in no store, and the state in memory is beyond them.
    FlushLost,
}

impl From<StoreError> for Interrupted {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

fn is_backlog(records: &[LogRecord], now: DateTime<Utc>) -> bool {
    let newest = records.iter().filter_map(|record| record.timestamp_ms).max();
    newest.and_then(DateTime::from_timestamp_millis).is_some_and(|newest| (now - newest).to_std().is_ok_and(|age| age > BACKLOG_AGE))
}

/// Shards that are flushed together, see [`projector::LANES`].
struct Lane {
    number: u8,
    in_flight: Option<JoinHandle<Option<FlushJob>>>,
    in_flight_events: usize,
    flushed_at: Instant,
}

struct Cycle {
    reader: Box<dyn LogReader>,
    store: Arc<dyn UsageStore>,
    outbox: Arc<dyn Outbox>,
    projector: Projector,
    writer: Writer,
    limits: Limits,
    clock: Clock,
    /// Shards whose stored state is still to be loaded.
    assigned: Option<Vec<Shard>>,
    lanes: Vec<Lane>,
    backlog: bool,
    healed_at: Option<Instant>,
    tails_checked_at: Instant,
    generation_checked_at: Instant,
    /// Another generation is live; followed once nothing is under way to the old one.
    followed_next: Option<Generation>,
}

impl Cycle {
    fn new(projection: &Projection, generation: Generation, reader: Box<dyn LogReader>) -> Self {
        let (store, outbox) = (Arc::clone(&projection.store), Arc::clone(&projection.outbox));
        let projector = Projector::new(Arc::clone(&store), Arc::clone(&outbox), generation, projection.limits.cached_cells);
        let writer = Writer { store: Arc::clone(&store), log: Arc::clone(&projection.log), shutdown: projection.shutdown.clone() };
        let now = Instant::now();
        Self {
            reader,
            store,
            outbox,
            projector,
            writer,
            limits: projection.limits,
            clock: projection.clock.clone(),
            assigned: None,
            lanes: (0..LANES).map(|number| Lane { number, in_flight: None, in_flight_events: 0, flushed_at: now }).collect(),
            backlog: false,
            healed_at: None,
            tails_checked_at: now,
            generation_checked_at: now,
            followed_next: None,
        }
    }

    async fn turn(&mut self) -> Result<(), Interrupted> {
        self.settle_flushes().await?;
        // What an earlier failure left behind comes first.
        self.projector.apply_accepted().await?;
        if let Some(shards) = &self.assigned {
            self.projector.assign(shards).await?;
            self.assigned = None;
        }
        self.follow_the_pointer().await?;
        self.flush_when_due();
        let in_flight_events: usize = self.lanes.iter().map(|lane| lane.in_flight_events).sum();
        if self.projector.pending_events() + in_flight_events >= self.limits.pending_events {
            sleep(POLL).await;
            self.stay().await;
            return Ok(());
        }
        self.heal_when_due().await?;
        let event = self.reader.poll(POLL).await?;
        self.backlog = matches!(&event, LogEvent::Records(records) if is_backlog(records, self.clock.now()));
        match event {
            LogEvent::Records(records) => self.projector.take(records).await?,
            LogEvent::Assigned(shards) => {
                tracing::info!(shards = shards.len(), "the projection owns these shards from now on");
                self.assigned = Some(shards);
            }
            LogEvent::Idle => {}
        }
        Ok(())
    }

    /// Reports read another generation from now on, so it is the one to be written.
    async fn follow_the_pointer(&mut self) -> Result<()> {
        if self.generation_checked_at.elapsed() >= CHECK_GENERATION_EVERY && !is_back(Defect::PointerNotFollowed) {
            let live = self.store.live_generation().await?;
            self.generation_checked_at = Instant::now();
            self.followed_next = (live != self.projector.generation()).then_some(live);
        }
        let idle = self.lanes.iter().all(|lane| lane.in_flight.is_none());
        if let Some(generation) = self.followed_next.filter(|_| idle) {
            self.projector.follow(generation).await?;
            self.followed_next = None;
            self.healed_at = None;
            tracing::info!(generation = generation.id, "the projection goes on in another generation");
        }
        Ok(())
    }

    async fn heal_when_due(&mut self) -> Result<()> {
        if self.tails_checked_at.elapsed() >= CHECK_TAILS_EVERY {
            self.tails_checked_at = Instant::now();
            let heads = self.outbox.heads().await?;
            self.projector.check_tails(&heads).await?;
        }
        if self.projector.has_gaps() && self.healed_at.is_none_or(|at| at.elapsed() >= HEAL_EVERY) {
            let progressed = self.projector.heal().await?;
            self.healed_at = (!progressed).then(Instant::now);
        }
        Ok(())
    }

    /// Keeps the place among the group's readers while no records can be taken.
    async fn stay(&mut self) {
        if let Err(error) = self.reader.keep_alive().await {
            tracing::debug!(causes = %causes(&error), "the log does not answer");
        }
    }

    /// The lane that waits for longest goes first.
    fn flush_when_due(&mut self) {
        if self.followed_next.is_some() {
            return;
        }
        let after = if self.backlog { self.limits.flush_backlog_after } else { self.limits.flush_after };
        let full = self.projector.pending_events() >= self.limits.flush_events;
        let now = Instant::now();
        let mut under_way = self.lanes.iter().filter(|lane| lane.in_flight.is_some()).count();
        self.lanes.sort_unstable_by_key(|lane| lane.flushed_at);
        for lane in self.lanes.iter_mut().filter(|lane| lane.in_flight.is_none() && (full || now - lane.flushed_at >= after)) {
            if under_way >= FLUSHES_IN_FLIGHT {
                return;
            }
            lane.flushed_at = now;
            if let Some(job) = self.projector.begin_flush(lane.number) {
                lane.in_flight_events = job.flushes.iter().map(|flush| flush.raw.len()).sum();
                lane.in_flight = Some(tokio::spawn(self.writer.clone().write(job)));
                under_way += 1;
            }
        }
    }

    /// Commits the flushes that have become durable.
    async fn settle_flushes(&mut self) -> Result<(), Interrupted> {
        for index in 0..self.lanes.len() {
            let Some(lane) = self.lanes.get_mut(index) else { continue };
            let Some(handle) = lane.in_flight.take_if(|handle| handle.is_finished()) else { continue };
            lane.in_flight_events = 0;
            let job = handle.await.ok().flatten().ok_or(Interrupted::FlushLost)?;
            self.commit(&job).await?;
        }
        Ok(())
    }

    /// A commit that fails is made up for by the next one.
    async fn commit(&mut self, job: &FlushJob) -> Result<()> {
        if !job.offsets.is_empty() {
            self.reader.commit(&job.offsets).await?;
        }
        self.projector.finish_flush(job);
        Ok(())
    }

    /// At shutdown: the flushes under way, then a last one of each lane.
    async fn finish(mut self) {
        let mut lanes = std::mem::take(&mut self.lanes);
        let mut lost = self.end_flushes(&mut lanes).await;
        // Nothing may follow a flush that was lost.
        lanes.retain(|lane| !lost.contains(&lane.number));
        for lane in &mut lanes {
            lane.in_flight = self.projector.begin_flush(lane.number).map(|job| tokio::spawn(self.writer.clone().write(job)));
        }
        lost.extend(self.end_flushes(&mut lanes).await);
        if !lost.is_empty() {
            tracing::warn!(lanes = lost.len(), "usage could not be stored before the end; those records are read again");
        }
    }

    /// Waits for what is under way and commits it; answers the lanes whose flush was lost.
    async fn end_flushes(&mut self, lanes: &mut [Lane]) -> Vec<u8> {
        let mut lost = Vec::new();
        for lane in lanes {
            let Some(handle) = lane.in_flight.take() else { continue };
            let Some(job) = handle.await.ok().flatten() else {
                lost.push(lane.number);
                continue;
            };
            if let Err(error) = self.commit(&job).await {
                tracing::warn!(causes = %causes(&error), "the last offsets are not committed; those records are read again");
            }
        }
        lost
    }
}
