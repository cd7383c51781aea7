//! A reader of one shard for itself.

use super::Range;
use crate::Embedded;
use async_trait::async_trait;
use domain::ids::Shard;
use ports::{
    Result,
    event_log::{LogEvent, LogReader},
    outbox::Outbox,
};
use std::time::Duration;
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

const POLL_RECORDS: i64 = 2_048;

pub(super) struct ShardReader {
    embedded: Embedded,
    shard: Shard,
    next: i64,
    changed: watch::Receiver<()>,
}

impl ShardReader {
    pub(super) fn new(embedded: Embedded, shard: Shard, after: i64) -> Self {
        let changed = embedded.inner.log_changed.subscribe();
        Self { embedded, shard, next: after + 1, changed }
    }
}

#[async_trait]
impl LogReader for ShardReader {
    async fn poll(&mut self, timeout: Duration) -> Result<LogEvent> {
        let deadline = Instant::now() + timeout;
        loop {
            self.changed.mark_unchanged();
            let head = self.embedded.heads().await?.into_iter().find(|head| head.shard == self.shard);
            let published_through = head.map_or(0, |head| head.published_through);
            if self.next <= published_through {
                let last = published_through.min(self.next + POLL_RECORDS - 1);
                let records = self.embedded.records(&[Range::of(self.shard, self.next, last)]).await?;
                self.next = last + 1;
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
