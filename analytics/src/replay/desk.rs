//! A replay's row in the hands of its worker: the lease is renewed, the progress told, and what people want is noticed.

use chrono::TimeDelta;
use domain::replay::{Lease, Replay, Status};
use ports::{
    Clock, StoreError,
    replays::{Replaced, Replays, StoredReplay},
};
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// A worker that is slower than this loses its row to another one and finds out at its next report; what both write is the same.
const LEASE_SECS: i64 = 10;
const REPORT_EVERY: Duration = Duration::from_secs(1);

/// Why the work ends before its end.
pub enum Halt {
    /// Somebody paused or cancelled it, another worker has it, or the process ends.
    Stopped,
    /// It can go on once the store answers.
    Store(StoreError),
    Failed(String),
}

pub struct Desk {
    replays: Arc<dyn Replays>,
    clock: Clock,
    worker: Uuid,
    stored: StoredReplay,
    shutdown: CancellationToken,
    reported_at: Instant,
    /// Events read at the last report.
    read_then: i64,
}

impl Desk {
    pub fn new(replays: Arc<dyn Replays>, clock: Clock, worker: Uuid, stored: StoredReplay, shutdown: CancellationToken) -> Self {
        let read_then = stored.replay.progress.read;
        Self { replays, clock, worker, stored, shutdown, reported_at: Instant::now(), read_then }
    }

    pub const fn id(&self) -> Uuid {
        self.stored.id
    }

    pub const fn stored(&self) -> &StoredReplay {
        &self.stored
    }

    pub const fn replay(&self) -> &Replay {
        &self.stored.replay
    }

    /// Of the row in memory; told with the next report.
    pub fn note(&mut self, change: impl FnOnce(&mut Replay)) {
        change(&mut self.stored.replay);
    }

    /// Takes the row, or renews the hold on it.
    pub async fn keep(&mut self) -> Result<(), Halt> {
        self.put(|_| {}).await
    }

    /// Changes the row, and holds it on while it runs.
    pub async fn put(&mut self, change: impl FnOnce(&mut Replay)) -> Result<(), Halt> {
        let mut changed = self.stored.clone();
        changed.replay.lease = Some(Lease { worker: self.worker, until: self.clock.now() + TimeDelta::seconds(LEASE_SECS) });
        change(&mut changed.replay);
        if changed.replay.status != Status::Running {
            changed.replay.lease = None;
        }
        match self.replays.replace(&mut changed).await? {
            Replaced::Done => {
                self.stored = changed;
                self.reported_at = Instant::now();
                Ok(())
            }
            Replaced::Moved | Replaced::Busy => Err(Halt::Stopped),
        }
    }

    /// Between two pieces of work.
    pub async fn report(&mut self) -> Result<(), Halt> {
        if self.shutdown.is_cancelled() {
            return Err(Halt::Stopped);
        }
        let since = self.reported_at.elapsed();
        if since < REPORT_EVERY {
            return Ok(());
        }
        let read = self.stored.replay.progress.read;
        let millis = i64::try_from(since.as_millis()).unwrap_or(i64::MAX).max(1);
        let rate = (read - self.read_then).max(0).saturating_mul(1_000) / millis;
        self.read_then = read;
        self.put(|replay| replay.progress.rate_per_second = rate).await
    }

    /// Lets another worker go on at once.
    pub async fn leave(mut self) {
        if self.stored.replay.status == Status::Running {
            self.stored.replay.lease = None;
            // Somebody else has changed it, or the lease runs out by itself.
            let _ = self.replays.replace(&mut self.stored).await;
        }
    }
}
