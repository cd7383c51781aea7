//! A reader of some shards for itself.

use crate::{Embedded, columns::shard};
use async_trait::async_trait;
use domain::ids::Shard;
use ports::{
    Result,
    event_log::{LogEvent, LogReader, Start},
};
use std::{collections::BTreeMap, time::Duration};
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

/// Most records of one poll.
const POLL_RECORDS: i64 = 2_048;

pub(super) struct ShardReader {
    embedded: Embedded,
    /// The next number of each shard, which is its offset.
    next: BTreeMap<Shard, i64>,
    changed: watch::Receiver<()>,
}

impl ShardReader {
    pub(super) fn new(embedded: Embedded, starts: &[Start]) -> Self {
        let changed = embedded.inner.log_changed.subscribe();
        let next = starts.iter().map(|start| (start.shard, start.offset.unwrap_or(start.after + 1))).collect();
        Self { embedded, next, changed }
    }
}

#[async_trait]
impl LogReader for ShardReader {
    async fn poll(&mut self, timeout: Duration) -> Result<LogEvent> {
        let deadline = Instant::now() + timeout;
        loop {
            self.changed.mark_unchanged();
            let news = self.embedded.news(&self.next, POLL_RECORDS).await?;
            if !news.is_empty() {
                let records = self.embedded.records(&news).await?;
                for range in &news {
                    self.next.insert(shard(range.shard.into())?, range.last + 1);
                }
                return Ok(LogEvent::Records(records));
            }
            if timeout_at(deadline, self.changed.changed()).await.is_err() {
                return Ok(LogEvent::Idle);
            }
        }
    }

    async fn commit(&mut self, _next_offsets: &[(Shard, i64)]) -> Result<()> {
        Ok(())
    }
}
