//! One reader of a group: its shards, its positions, its committed offsets.

use super::groups::{ReaderId, SharedGroup};
use crate::{
    Embedded,
    columns::{shard, to_json},
    database::{Durability, commit, failed},
};
use async_trait::async_trait;
use domain::ids::Shard;
use ports::{
    Result,
    event_log::{LogEvent, LogReader},
};
use serde::Serialize;
use std::{collections::BTreeMap, time::Duration};
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

/// Most records of one poll.
const POLL_RECORDS: i64 = 1_024;

pub(super) struct Reader {
    embedded: Embedded,
    group_name: String,
    group: SharedGroup,
    id: ReaderId,
    /// Next offset to read of each shard that this reader knows to be its own.
    positions: BTreeMap<Shard, i64>,
    changed: watch::Receiver<()>,
}

impl Reader {
    pub(super) fn join(embedded: Embedded, group_name: &str) -> Self {
        let group = embedded.inner.reader_groups.of(group_name);
        let id = group.lock().join();
        embedded.inner.log_changed.send_replace(());
        let changed = embedded.inner.log_changed.subscribe();
        Self { embedded, group_name: group_name.to_owned(), group, id, positions: BTreeMap::new(), changed }
    }

    /// Takes over what the group gives this reader; the shards when they changed.
    async fn rebalance(&mut self) -> Result<Option<Vec<Shard>>> {
        let shards = {
            let mut group = self.group.lock();
            if group.rebalance(self.id) {
                // What was given up is free for others, who may be waiting for it.
                self.embedded.inner.log_changed.send_replace(());
                self.changed.mark_unchanged();
            }
            group.shards_of(self.id)
        };
        if self.positions.keys().eq(shards.iter()) {
            return Ok(None);
        }
        let committed = self.committed().await?;
        let position = |shard: &Shard| {
            let kept = self.positions.get(shard).copied();
            (*shard, kept.unwrap_or_else(|| committed.get(shard).copied().unwrap_or(1)))
        };
        self.positions = shards.iter().map(position).collect();
        Ok(Some(shards))
    }

    async fn committed(&self) -> Result<BTreeMap<Shard, i64>> {
        let query = sqlx::query_as::<_, (i64, i64)>(include_str!("../../sql/reader_offsets.sql")).bind(&self.group_name);
        let rows = query.fetch_all(self.embedded.inner.main.readers()).await.map_err(failed)?;
        rows.into_iter().map(|(index, offset)| Ok((shard(index)?, offset))).collect()
    }
}

#[async_trait]
impl LogReader for Reader {
    async fn poll(&mut self, timeout: Duration) -> Result<LogEvent> {
        let deadline = Instant::now() + timeout;
        loop {
            self.changed.mark_unchanged();
            if let Some(shards) = self.rebalance().await? {
                return Ok(LogEvent::Assigned(shards));
            }
            let news = self.embedded.news(&self.positions, POLL_RECORDS).await?;
            if !news.is_empty() {
                let records = self.embedded.records(&news).await?;
                for range in &news {
                    self.positions.insert(shard(range.shard.into())?, range.last + 1);
                }
                return Ok(LogEvent::Records(records));
            }
            if timeout_at(deadline, self.changed.changed()).await.is_err() {
                return Ok(LogEvent::Idle);
            }
        }
    }

    async fn commit(&mut self, next_offsets: &[(Shard, i64)]) -> Result<()> {
        #[derive(Serialize)]
        struct OffsetRow {
            shard: u8,
            next_offset: i64,
        }
        let rows: Vec<OffsetRow> = {
            let group = self.group.lock();
            let owned = next_offsets.iter().filter(|(shard, _)| group.owns(self.id, *shard));
            owned.map(|(shard, next_offset)| OffsetRow { shard: shard.index(), next_offset: *next_offset }).collect()
        };
        if rows.is_empty() {
            return Ok(());
        }
        // A mark that falls back after a power cut only repeats records, which every reader must bear anyway.
        let mut transaction = self.embedded.inner.main.begin(Durability::WithNext).await?;
        let query = sqlx::query(include_str!("../../sql/put_reader_offsets.sql")).bind(&self.group_name).bind(to_json(&rows)?);
        query.execute(&mut *transaction).await.map_err(failed)?;
        commit(transaction).await
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.group.lock().leave(self.id);
        self.embedded.inner.log_changed.send_replace(());
    }
}
