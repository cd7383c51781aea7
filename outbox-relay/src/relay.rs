//! The relay's one loop. Round trips per turn: look (heads), read (one statement for all shards that are behind), mark (one statement).

use crate::{Deps, cursor::Cursor, meters::approximate};
use domain::ids::Shard;
use futures::{
    FutureExt, StreamExt,
    future::{AbortHandle, Abortable, BoxFuture},
    stream::FuturesUnordered,
};
use ports::{
    StoreError,
    event_log::Acknowledgement,
    outbox::{OutboxRow, ShardLease},
};
use std::{collections::BTreeMap, mem, sync::Arc, time::Duration};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

/// A dead relay's shards move on after this.
const LEASE: Duration = Duration::from_secs(10);
const RENEW_EVERY: Duration = Duration::from_secs(3);
const MARK_EVERY: Duration = Duration::from_millis(50);

/// Under load, rows are collected for this long; a batch per partition is what Kafka is fast at.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Without news from the outbox.
const POLL_EVERY: Duration = Duration::from_millis(250);

const ROWS_PER_RUN: usize = 2_000;
const RUNS_PER_SHARD: usize = 4;
/// Of one statement: the log is busy with one batch while the next is read.
const ROWS_PER_READ: usize = 16_384;
/// Read and not yet acknowledged, over all shards: bounds the memory while the log is away.
const ROWS_IN_FLIGHT: usize = 65_536;

/// After an answer that never came from the store.
const STORE_PAUSE: Duration = Duration::from_millis(200);
/// How long a shutdown waits for acknowledgements.
const FINISH_WITHIN: Duration = Duration::from_secs(5);

type Waiting = Abortable<BoxFuture<'static, Acknowledged>>;

struct Acknowledged {
    shard: Shard,
    through: i64,
    result: Result<(), StoreError>,
}

pub(crate) struct Relay {
    deps: Deps,
    cursors: BTreeMap<Shard, Cursor>,
    /// Newest numbers, as last seen.
    heads: BTreeMap<Shard, i64>,
    acknowledgements: FuturesUnordered<Waiting>,
    /// Until then nobody else owns our shards.
    leased_until: Instant,
    /// There may be rows beyond the heads, but they are not looked up before `look_at`.
    look_due: bool,
    look_at: Instant,
    /// The outbox gave no answer: nothing is read or marked until then.
    paused_until: Instant,
}

impl Relay {
    pub(crate) fn new(deps: Deps) -> Self {
        let now = Instant::now();
        Self {
            deps,
            cursors: BTreeMap::new(),
            heads: BTreeMap::new(),
            acknowledgements: FuturesUnordered::new(),
            leased_until: now,
            look_due: true,
            look_at: now,
            paused_until: now,
        }
    }

    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        let [mut renewals, mut marks] = [RENEW_EVERY, MARK_EVERY].map(|every| {
            let mut ticks = interval(every);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            ticks
        });
        let outbox = Arc::clone(&self.deps.outbox);
        let mut news = outbox.wait(POLL_EVERY);
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                _ = renewals.tick() => self.renew_leases().await,
                Some(acknowledged) = self.acknowledgements.next(), if !self.acknowledgements.is_empty() => {
                    self.take_acknowledgements(acknowledged.ok());
                    if self.acknowledgements.is_empty() {
                        self.mark().await;
                    }
                }
                _ = marks.tick(), if self.has_marks() => self.mark().await,
                () = sleep_until(self.look_at), if self.look_due => self.look().await,
                () = async {}, if self.may_read() => self.read().await,
                () = &mut news, if !self.look_due => {
                    self.look_due = true;
                    news = outbox.wait(POLL_EVERY);
                }
            }
        }
        self.finish().await;
    }

    /// Renews, takes and drops shards. A lease that was lost in between has another fencing number, and its shard starts anew.
    async fn renew_leases(&mut self) {
        // The lease runs from before the question: the store cannot have granted it earlier.
        let asked = Instant::now();
        match timeout(LEASE, self.deps.outbox.acquire_leases(self.deps.owner, LEASE)).await {
            Ok(Ok(leases)) => {
                self.leased_until = asked + LEASE;
                self.hold(leases);
            }
            Ok(Err(error)) => tracing::warn!(%error, "the relay's leases could not be renewed"),
            Err(_elapsed) => tracing::warn!("the relay's leases could not be renewed in time"),
        }
        self.drop_expired();
        metrics::gauge!("relay_shards_owned").set(approximate(count(self.cursors.len())));
    }

    fn hold(&mut self, leases: Vec<ShardLease>) {
        let mut held = mem::take(&mut self.cursors);
        for lease in leases {
            let kept = held.remove(&lease.shard).filter(|cursor| cursor.fencing() == lease.fencing);
            self.cursors.insert(lease.shard, kept.unwrap_or_else(|| Cursor::new(lease)));
        }
        self.look_due = true;
    }

    fn drop_expired(&mut self) {
        if Instant::now() >= self.leased_until && !self.cursors.is_empty() {
            tracing::warn!(shards = self.cursors.len(), "the relay's leases expired, it publishes nothing until it holds new ones");
            self.cursors.clear();
        }
    }

    async fn look(&mut self) {
        self.look_at = Instant::now() + LOOK_EVERY;
        match self.deps.outbox.heads().await {
            Ok(heads) => {
                self.heads = heads.into_iter().map(|head| (head.shard, head.last_seq)).collect();
                self.look_due = false;
            }
            Err(error) => {
                tracing::warn!(%error, "the outbox gives no answer");
                self.look_at = Instant::now() + STORE_PAUSE;
            }
        }
    }

    fn rows_in_flight(&self) -> usize {
        self.cursors.values().map(Cursor::rows_in_flight).sum()
    }

    fn may_read(&self) -> bool {
        let now = Instant::now();
        now >= self.paused_until && !self.positions(now).is_empty()
    }

    /// Shards that are behind and may have one more run in flight.
    fn positions(&self, now: Instant) -> Vec<(Shard, i64)> {
        if self.rows_in_flight() >= ROWS_IN_FLIGHT {
            return Vec::new();
        }
        let open = |(shard, cursor): &(&Shard, &Cursor)| {
            let head = self.heads.get(*shard).copied().unwrap_or(0);
            head > cursor.read_through() && cursor.runs_in_flight() < RUNS_PER_SHARD && !cursor.is_paused(now)
        };
        self.cursors.iter().filter(open).map(|(shard, cursor)| (*shard, cursor.read_through())).collect()
    }

    async fn read(&mut self) {
        self.drop_expired();
        let positions = self.positions(Instant::now());
        if positions.is_empty() {
            return;
        }
        let room = ROWS_IN_FLIGHT.saturating_sub(self.rows_in_flight()).min(ROWS_PER_READ);
        let limit = (room / positions.len()).clamp(1, ROWS_PER_RUN);
        match self.deps.outbox.read_many(&positions, u32::try_from(limit).unwrap_or(1)).await {
            Ok(rows) => self.append(rows).await,
            Err(error) => {
                tracing::warn!(%error, "the outbox cannot be read");
                self.paused_until = Instant::now() + STORE_PAUSE;
            }
        }
        metrics::gauge!("relay_in_flight_rows").set(approximate(count(self.rows_in_flight())));
    }

    /// One run per shard. What cannot be queued while the leases last is not queued at all.
    async fn append(&mut self, rows: Vec<OutboxRow>) {
        for run in runs(rows) {
            let Some(shard) = run.first().map(|row| row.shard) else { continue };
            let Some(cursor) = self.cursors.get_mut(&shard) else { continue };
            let now = Instant::now();
            if !cursor.continues(&run) {
                tracing::error!(%shard, after = cursor.read_through(), "the outbox has a gap, the shard is not published beyond it");
                restarted("gap");
                cursor.restart(now);
                continue;
            }
            let rows = run.len();
            match timeout_at(self.leased_until, self.deps.event_log.append(shard, run)).await {
                Ok(Ok(acknowledgement)) => {
                    let (waiting, handle) = wait_for(shard, cursor, rows, acknowledgement);
                    cursor.appended(rows, handle);
                    self.acknowledgements.push(waiting);
                }
                Ok(Err(error)) => {
                    tracing::warn!(%shard, %error, "a run was not taken by the log, the shard starts again from its mark");
                    restarted("append");
                    cursor.restart(now);
                }
                Err(_elapsed) => return self.drop_expired(),
            }
        }
    }

    /// This one and all that are ready: they come in crowds.
    fn take_acknowledgements(&mut self, first: Option<Acknowledged>) {
        let mut published = 0;
        let mut next = first;
        loop {
            if let Some(acknowledged) = next {
                published += self.take_acknowledgement(acknowledged);
            }
            match self.acknowledgements.next().now_or_never() {
                Some(Some(acknowledged)) => next = acknowledged.ok(),
                Some(None) | None => break,
            }
        }
        metrics::counter!("relay_published_total").increment(u64::try_from(published).unwrap_or(0));
        metrics::gauge!("relay_in_flight_rows").set(approximate(count(self.rows_in_flight())));
    }

    fn take_acknowledgement(&mut self, acknowledged: Acknowledged) -> usize {
        let Acknowledged { shard, through, result } = acknowledged;
        let Some(cursor) = self.cursors.get_mut(&shard) else { return 0 };
        match result {
            Ok(()) => cursor.acknowledged(through),
            Err(error) => {
                tracing::warn!(%shard, %error, "a run was not acknowledged, the shard starts again from its mark");
                restarted("delivery");
                cursor.restart(Instant::now());
                0
            }
        }
    }

    fn has_marks(&self) -> bool {
        self.cursors.values().any(|cursor| cursor.mark().is_some())
    }

    /// A mark that fails is repeated with the next tick; a mark that is ignored means that the shard has a new owner.
    async fn mark(&mut self) {
        let marks: Vec<(ShardLease, i64)> = self.cursors.values().filter_map(Cursor::mark).collect();
        if marks.is_empty() || Instant::now() < self.paused_until {
            return;
        }
        let ignored = match self.deps.outbox.mark_published(&marks).await {
            Ok(ignored) => ignored,
            Err(error) => {
                tracing::warn!(%error, "published rows could not be marked");
                self.paused_until = Instant::now() + STORE_PAUSE;
                return;
            }
        };
        for (lease, through) in marks {
            if let Some(cursor) = self.cursors.get_mut(&lease.shard) {
                cursor.marked(through);
            }
        }
        for shard in ignored {
            tracing::warn!(%shard, "the shard has another owner, this relay leaves it");
            self.cursors.remove(&shard);
        }
    }

    /// Waits for what is in flight, marks it, and lets others go on at once.
    async fn finish(mut self) {
        let deadline = (Instant::now() + FINISH_WITHIN).min(self.leased_until);
        while let Ok(Some(acknowledged)) = timeout_at(deadline, self.acknowledgements.next()).await {
            self.take_acknowledgements(acknowledged.ok());
        }
        self.paused_until = Instant::now();
        self.mark().await;
        if let Err(error) = self.deps.outbox.release_leases(self.deps.owner).await {
            tracing::warn!(%error, "the relay's leases could not be given up, they expire by themselves");
        }
    }
}

/// Rows of one shard after the other, cut where the shard changes.
fn runs(rows: Vec<OutboxRow>) -> Vec<Vec<OutboxRow>> {
    let mut runs: Vec<Vec<OutboxRow>> = Vec::new();
    for row in rows {
        match runs.last_mut() {
            Some(run) if run.first().is_some_and(|first| first.shard == row.shard) => run.push(row),
            _ => runs.push(vec![row]),
        }
    }
    runs
}

fn wait_for(shard: Shard, cursor: &Cursor, rows: usize, acknowledgement: Acknowledgement) -> (Waiting, AbortHandle) {
    let through = cursor.read_through() + count(rows);
    let answer = acknowledgement.map(move |result| Acknowledged { shard, through, result });
    let (handle, registration) = AbortHandle::new_pair();
    (Abortable::new(answer.boxed(), registration), handle)
}

fn restarted(reason: &'static str) {
    metrics::counter!("relay_restarts_total", "reason" => reason).increment(1);
}

fn count(length: usize) -> i64 {
    i64::try_from(length).unwrap_or(i64::MAX)
}
