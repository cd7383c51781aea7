//! One owned shard: how far it is read, what is in flight, what is acknowledged without a gap, and what is marked.

use domain::defect::{Defect, is_back};
use futures::future::AbortHandle;
use ports::outbox::{OutboxRow, ShardLease};
use std::{collections::VecDeque, time::Duration};
use tokio::time::Instant;

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

pub(crate) struct Cursor {
    lease: ShardLease,
    read_through: i64,
    acknowledged_through: i64,
    marked_through: i64,
    runs: VecDeque<Run>,
    failures: u32,
    paused_until: Option<Instant>,
}

struct Run {
    through: i64,
    rows: usize,
    acknowledged: bool,
    waiting: AbortHandle,
}

/// A run that is forgotten is no longer waited for: while the log is away, its answer may never come. A late one would do no harm.
impl Drop for Run {
    fn drop(&mut self) {
        self.waiting.abort();
    }
}

impl Cursor {
    pub(crate) fn new(lease: ShardLease) -> Self {
        let mark = lease.published_through;
        Self {
            lease,
            read_through: mark,
            acknowledged_through: mark,
            marked_through: mark,
            runs: VecDeque::new(),
            failures: 0,
            paused_until: None,
        }
    }

    pub(crate) const fn fencing(&self) -> i64 {
        self.lease.fencing
    }

    pub(crate) const fn read_through(&self) -> i64 {
        self.read_through
    }

    pub(crate) fn runs_in_flight(&self) -> usize {
        self.runs.len()
    }

    pub(crate) fn rows_in_flight(&self) -> usize {
        self.runs.iter().map(|run| run.rows).sum()
    }

    pub(crate) fn is_paused(&self, now: Instant) -> bool {
        self.paused_until.is_some_and(|until| now < until)
    }

    /// Whether the rows continue what was read, without a gap.
    pub(crate) fn continues(&self, rows: &[OutboxRow]) -> bool {
        let numbers = rows.iter().map(|row| row.seq);
        rows.iter().all(|row| row.shard == self.lease.shard) && numbers.eq((self.read_through + 1..).take(rows.len()))
    }

    /// The next `rows` rows are queued and `waiting` ends the wait for their acknowledgement.
    pub(crate) fn appended(&mut self, rows: usize, waiting: AbortHandle) {
        self.read_through += i64::try_from(rows).unwrap_or(0);
        self.runs.push_back(Run { through: self.read_through, rows, acknowledged: false, waiting });
    }

    /// Answers the number of rows by which the acknowledged prefix grew.
    pub(crate) fn acknowledged(&mut self, through: i64) -> usize {
        self.failures = 0;
        self.paused_until = None;
        if let Some(run) = self.runs.iter_mut().find(|run| run.through == through) {
            run.acknowledged = true;
        }
        let mut rows = 0;
        while self.runs.front().is_some_and(|run| run.acknowledged) {
            if let Some(run) = self.runs.pop_front() {
                self.acknowledged_through = run.through;
                rows += run.rows;
            }
        }
        rows
    }

    /// Forgets what is in flight and goes on behind the acknowledged prefix, after a pause that grows while nothing succeeds.
    pub(crate) fn restart(&mut self, now: Instant) {
        self.runs.clear();
        if !is_back(Defect::FailedRunSkipped) {
            self.read_through = self.acknowledged_through;
        }
        self.paused_until = Some(now + FIRST_PAUSE.saturating_mul(1 << self.failures.min(10)).min(LONGEST_PAUSE));
        self.failures += 1;
    }

    /// What may be marked and is not yet.
    pub(crate) fn mark(&self) -> Option<(ShardLease, i64)> {
        if is_back(Defect::MarkedBeforeAcknowledged) {
            return (self.read_through > self.marked_through).then_some((self.lease, self.read_through));
        }
        (self.acknowledged_through > self.marked_through).then_some((self.lease, self.acknowledged_through))
    }

    pub(crate) fn marked(&mut self, through: i64) {
        self.marked_through = self.marked_through.max(through);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::ids::Shard;

    fn cursor_with_runs(rows: [usize; 3]) -> Cursor {
        let mut cursor = Cursor::new(ShardLease { shard: Shard::new(1).unwrap(), fencing: 1, published_through: 100 });
        rows.iter().for_each(|rows| cursor.appended(*rows, AbortHandle::new_pair().0));
        cursor
    }

    fn marked(cursor: &Cursor) -> Option<i64> {
        cursor.mark().map(|(_, through)| through)
    }

    #[test]
    fn the_mark_never_passes_an_unacknowledged_run() {
        let mut cursor = cursor_with_runs([10, 20, 30]);
        assert_eq!((cursor.acknowledged(160), marked(&cursor)), (0, None));
        assert_eq!((cursor.acknowledged(110), marked(&cursor)), (10, Some(110)));
        assert_eq!((cursor.acknowledged(130), marked(&cursor)), (50, Some(160)));
        cursor.marked(160);
        assert_eq!((marked(&cursor), cursor.rows_in_flight()), (None, 0));
    }

    #[test]
    fn a_restart_goes_on_behind_the_acknowledged_prefix_and_forgets_what_came_after_it() {
        let mut cursor = cursor_with_runs([10, 20, 30]);
        cursor.acknowledged(110);
        cursor.acknowledged(160);
        let now = Instant::now();
        cursor.restart(now);
        assert_eq!((cursor.read_through(), cursor.rows_in_flight(), marked(&cursor)), (110, 0, Some(110)));
        assert!(cursor.is_paused(now) && !cursor.is_paused(now + FIRST_PAUSE));
    }

    #[test]
    fn pauses_grow_until_a_run_succeeds() {
        let mut cursor = cursor_with_runs([1, 1, 1]);
        let now = Instant::now();
        (0..20).for_each(|_| cursor.restart(now));
        assert!(cursor.is_paused(now + LONGEST_PAUSE - Duration::from_millis(1)) && !cursor.is_paused(now + LONGEST_PAUSE));
        cursor.appended(1, AbortHandle::new_pair().0);
        cursor.acknowledged(101);
        cursor.restart(now);
        assert!(!cursor.is_paused(now + FIRST_PAUSE));
    }
}
