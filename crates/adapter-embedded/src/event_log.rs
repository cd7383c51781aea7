//! The log is the outbox itself: appending is done by the ledger's commit, and readers see what is marked as published.

mod groups;
mod letters;
mod reader;
mod shard_reader;

use crate::{
    Embedded,
    columns::{shard, to_json},
    database::{Durability, commit, failed},
};
use async_trait::async_trait;
use domain::ids::Shard;
pub(crate) use groups::ReaderGroups;
use ports::{
    Result,
    event_log::{Acknowledgement, DeadLetter, EventLog, KeptLetter, LetterAct, LogReader, LogRecord, Start},
    outbox::{Outbox, OutboxRow},
};
use serde::Serialize;
use std::{collections::BTreeMap, future};

/// Records of one page of a scan.
const SCAN_PAGE: i64 = 1_024;

#[async_trait]
impl EventLog for Embedded {
    async fn append(&self, _shard: Shard, _rows: Vec<OutboxRow>) -> Result<Acknowledgement> {
        Ok(Box::pin(future::ready(Ok(()))))
    }

    async fn reader(&self, group: &str) -> Result<Box<dyn LogReader>> {
        Ok(Box::new(reader::Reader::join(self.clone(), group)))
    }

    async fn shard_reader(&self, starts: &[Start]) -> Result<Box<dyn LogReader>> {
        Ok(Box::new(shard_reader::ShardReader::new(self.clone(), starts)))
    }

    async fn scan(&self, visit: &mut (dyn FnMut(LogRecord) + Send)) -> Result<()> {
        for head in self.heads().await? {
            let mut next = head.archived_through + 1;
            while next <= head.published_through {
                let through = head.published_through.min(next + SCAN_PAGE - 1);
                for record in self.records(&[Range::of(head.shard, next, through)]).await? {
                    visit(record);
                }
                next = through + 1;
            }
        }
        Ok(())
    }

    async fn find(&self, shard: Shard, seq: i64) -> Result<Option<i64>> {
        let head = self.heads().await?.into_iter().find(|head| head.shard == shard);
        Ok(head.filter(|head| (head.archived_through + 1..=head.published_through).contains(&seq)).map(|_| seq))
    }

    async fn bury(&self, letters: &[DeadLetter]) -> Result<()> {
        letters::bury(self, letters).await
    }

    async fn buried(&self) -> Result<u64> {
        let query = sqlx::query_scalar::<_, u32>(include_str!("../sql/count_letters.sql"));
        query.fetch_one(self.inner.main.readers()).await.map(u64::from).map_err(failed)
    }

    async fn letters(&self) -> Result<Vec<KeptLetter>> {
        letters::all(self).await
    }

    async fn act_on_letter(&self, place: (Shard, i64), act: &LetterAct) -> Result<()> {
        letters::act(self, place, act).await
    }

    async fn redrive(&self, row: OutboxRow) -> Result<bool> {
        let mut transaction = self.inner.main.begin(Durability::Now).await?;
        let query = sqlx::query(include_str!("../sql/put_back_event.sql"))
            .bind(row.shard.index())
            .bind(row.seq)
            .bind(row.payload)
            .bind(row.event_id);
        let put_back = query.execute(&mut *transaction).await.map_err(failed)?.rows_affected();
        commit(transaction).await?;
        Ok(put_back > 0)
    }

    async fn ping(&self) -> Result<()> {
        self.inner.main.ping().await
    }
}

impl Embedded {
    /// What is published and not yet read, at most so many records, divided among the shards that have news.
    async fn news(&self, positions: &BTreeMap<Shard, i64>, limit: i64) -> Result<Vec<Range>> {
        let heads = self.heads().await?;
        let mut news: Vec<Range> = Vec::new();
        for head in heads {
            let next = positions.get(&head.shard).copied();
            if let Some(next) = next.filter(|next| *next <= head.published_through) {
                news.push(Range::of(head.shard, next, head.published_through));
            }
        }
        let shards = i64::try_from(news.len()).unwrap_or(limit).max(1);
        let share = (limit / shards).max(1);
        for range in &mut news {
            range.last = range.last.min(range.first + share - 1);
        }
        Ok(news)
    }

    /// The records of some ranges, in order within each; numbers without gaps make a range of numbers a limit as well.
    async fn records(&self, ranges: &[Range]) -> Result<Vec<LogRecord>> {
        let query = sqlx::query_as::<_, RecordRow>(include_str!("../sql/read_log.sql")).bind(to_json(&ranges)?);
        let rows = query.fetch_all(self.inner.main.readers()).await.map_err(failed)?;
        rows.into_iter().map(RecordRow::into_record).collect()
    }
}

/// Numbers `first ..= last` of one shard.
#[derive(Clone, Copy, Debug, Serialize)]
struct Range {
    shard: u8,
    first: i64,
    last: i64,
}

impl Range {
    const fn of(shard: Shard, first: i64, last: i64) -> Self {
        Self { shard: shard.index(), first, last }
    }
}

#[derive(Debug)]
struct RecordRow {
    shard: i64,
    seq: i64,
    recorded_at: i64,
    trace_parent: Option<String>,
    payload: Vec<u8>,
}

from_row!(RecordRow { shard, seq, recorded_at, trace_parent, payload });

impl RecordRow {
    fn into_record(self) -> Result<LogRecord> {
        Ok(LogRecord {
            shard: shard(self.shard)?,
            offset: self.seq,
            value: event_codec::frame(&self.payload),
            seq: Some(self.seq),
            trace_parent: self.trace_parent,
            timestamp_ms: Some(self.recorded_at),
        })
    }
}
