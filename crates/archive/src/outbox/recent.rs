//! The verified segments that were read last: whoever reads a history reads one segment page by page.

use domain::ids::Shard;
use ports::outbox::OutboxRow;
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// As many shards are read at once by a replay and an audit together; some megabytes each.
const SEGMENTS: usize = 6;

/// After this long the archive is asked again: what is damaged there is soon noticed.
const AGE: Duration = Duration::from_secs(5);

type Rows = Arc<Vec<OutboxRow>>;

#[derive(Default)]
pub(super) struct Recent(Mutex<VecDeque<(Instant, Rows)>>);

impl Recent {
    /// The rows of the segment that holds this number, if it was read lately.
    pub fn holding(&self, shard: Shard, seq: i64) -> Option<Rows> {
        let mut segments = self.lock();
        segments.retain(|(read_at, _)| read_at.elapsed() < AGE);
        segments.iter().find(|(_, rows)| holds(rows, shard, seq)).map(|(_, rows)| Arc::clone(rows))
    }

    pub fn keep(&self, rows: Vec<OutboxRow>) -> Rows {
        let rows = Arc::new(rows);
        let mut segments = self.lock();
        if segments.len() >= SEGMENTS {
            segments.pop_front();
        }
        segments.push_back((Instant::now(), Arc::clone(&rows)));
        rows
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<(Instant, Rows)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn holds(rows: &[OutboxRow], shard: Shard, seq: i64) -> bool {
    match (rows.first(), rows.last()) {
        (Some(first), Some(last)) => first.shard == shard && (first.seq..=last.seq).contains(&seq),
        _ => false,
    }
}
