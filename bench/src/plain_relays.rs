//! The relays that the real one is measured against: an outbox with a row for each event, read by a bare cursor, or emptied by
//! `SKIP LOCKED` and `DELETE`. One worker each, so that the order is kept; they send the same records through the same producer.

use crate::{
    events::Generator,
    figures::{Sample, number},
    installation::Installation,
    log,
    meter::Meter,
    proc_stat,
};
use adapter_kafka::{Kafka, KafkaEventLog};
use anyhow::{Context, Result};
use chrono::{DateTime, Utc};
use domain::ids::Shard;
use futures::future::{BoxFuture, FutureExt, try_join_all};
use ports::{event_log::EventLog, outbox::OutboxRow};
use sqlx::{FromRow, PgPool, postgres::PgPoolOptions};
use std::{
    collections::{BTreeMap, VecDeque},
    thread,
    time::Instant,
};
use tokio::sync::oneshot;
use uuid::Uuid;

const ROWS_PER_BATCH: i64 = 2_000;
const BATCHES_IN_FLIGHT: usize = 4;
const ROWS_PER_INSERT: usize = 5_000;
/// As the real relay has on two cores.
const THREADS: usize = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlainRelay {
    /// Reads behind the last number and stores how far it came: four batches in flight.
    Cursor,
    /// Takes rows away in a transaction that ends when they are acknowledged: the next batch cannot be in flight before.
    Delete,
}

#[derive(FromRow)]
struct PlainRow {
    id: i64,
    shard: i16,
    seq: i64,
    epoch: i32,
    event_id: Uuid,
    kind: String,
    tenant: Uuid,
    occurred_at: DateTime<Utc>,
    trace_parent: Option<String>,
    payload: Vec<u8>,
}

/// Makes the tables, and so many rows for both relays.
pub async fn fill(pool: &PgPool, amounts: &[i64], rows: usize) -> Result<()> {
    let tables =
        [include_str!("sql/plain_create.sql"), include_str!("sql/plain_create_queue.sql"), include_str!("sql/plain_create_mark.sql")];
    for table in tables {
        sqlx::query(table).execute(pool).await?;
    }
    let mut generator = Generator::new(amounts);
    let mut left = rows;
    while left > 0 {
        let count = left.min(ROWS_PER_INSERT);
        let rows: Vec<OutboxRow> = (0..count).map(|_| generator.next_row(Utc::now())).collect::<Result<_>>()?;
        insert(pool, &rows).await?;
        left -= count;
    }
    sqlx::query("VACUUM ANALYZE plain_outbox").execute(pool).await?;
    Ok(())
}

async fn insert(pool: &PgPool, rows: &[OutboxRow]) -> Result<()> {
    sqlx::query(include_str!("sql/plain_fill.sql"))
        .bind(rows.iter().map(|row| i16::from(row.shard.index())).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.seq).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.epoch).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.event_id).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.kind.as_str()).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.tenant).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.occurred_at).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.trace_parent.as_deref()).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.payload.as_slice()).collect::<Vec<_>>())
        .execute(pool)
        .await?;
    Ok(())
}

impl PlainRelay {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cursor => "bare cursor",
            Self::Delete => "SKIP LOCKED + DELETE",
        }
    }

    /// Publishes every row once, on threads of its own.
    pub async fn measure(self, pool: &PgPool, installation: &Installation) -> Result<Sample> {
        self.prepare(pool).await?;
        let (url, kafka) = (installation.database_url(), installation.kafka());
        let (sender, sample) = oneshot::channel();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(THREADS).enable_all().build();
            let sample = runtime.map_err(Into::into).and_then(|runtime| runtime.block_on(self.publish_all(&url, kafka)));
            if sender.send(sample).is_err() {
                log::note("a relay ended after its measurement");
            }
        });
        sample.await.context("the thread of a relay ended")?
    }

    async fn prepare(self, pool: &PgPool) -> Result<()> {
        if self == Self::Cursor {
            sqlx::query(include_str!("sql/plain_mark.sql")).bind(0_i64).execute(pool).await?;
            return Ok(());
        }
        sqlx::query("TRUNCATE plain_queue").execute(pool).await?;
        sqlx::query(include_str!("sql/plain_refill.sql")).execute(pool).await?;
        sqlx::query("VACUUM ANALYZE plain_queue").execute(pool).await?;
        Ok(())
    }

    async fn publish_all(self, url: &str, kafka: Kafka) -> Result<Sample> {
        let pool = PgPoolOptions::new().connect(url).await?;
        let log = KafkaEventLog::connect(kafka)?;
        log.ping().await?;
        let meter = Meter::of_postgres(&pool).await?;
        let (before, cpu, start) = (meter.read().await?, own_cpu_micros()?, Instant::now());
        let rows = match self {
            Self::Cursor => follow(&pool, &log).await?,
            Self::Delete => empty(&pool, &log).await?,
        };
        let (elapsed, cpu, used) = (start.elapsed(), own_cpu_micros()? - cpu, meter.read().await?.since(before));
        let rows = number(rows);
        Ok(Sample {
            per_second: rows / elapsed.as_secs_f64(),
            cpu_micros_each: Some(number(cpu) / rows),
            store_cpu_micros_each: Some(used.cpu_micros / rows),
            wal_bytes_each: Some(used.wal_bytes / rows),
            ..Sample::new(self.name())
        })
    }
}

/// Whoever waits for this relay uses next to nothing.
fn own_cpu_micros() -> Result<u64> {
    Ok(proc_stat::of(std::process::id())?.cpu_micros)
}

async fn follow(pool: &PgPool, log: &KafkaEventLog) -> Result<u64> {
    let mut in_flight: VecDeque<(i64, BoxFuture<'static, Result<()>>)> = VecDeque::new();
    let (mut read_through, mut published, mut more) = (0, 0, true);
    loop {
        while more && in_flight.len() < BATCHES_IN_FLIGHT {
            let read = sqlx::query_as(include_str!("sql/plain_read.sql")).bind(read_through).bind(ROWS_PER_BATCH);
            let rows: Vec<PlainRow> = read.fetch_all(pool).await?;
            more = !rows.is_empty();
            let Some(last) = rows.last() else { continue };
            read_through = last.id;
            published += u64::try_from(rows.len())?;
            in_flight.push_back((read_through, append(log, rows).await?));
        }
        let Some((through, acknowledged)) = in_flight.pop_front() else { return Ok(published) };
        acknowledged.await?;
        sqlx::query(include_str!("sql/plain_mark.sql")).bind(through).execute(pool).await?;
    }
}

async fn empty(pool: &PgPool, log: &KafkaEventLog) -> Result<u64> {
    let mut published = 0;
    loop {
        let mut transaction = pool.begin().await?;
        let taken = sqlx::query_as(include_str!("sql/plain_delete.sql")).bind(ROWS_PER_BATCH);
        let mut rows: Vec<PlainRow> = taken.fetch_all(&mut *transaction).await?;
        if rows.is_empty() {
            return Ok(published);
        }
        rows.sort_unstable_by_key(|row| row.id);
        published += u64::try_from(rows.len())?;
        append(log, rows).await?.await?;
        transaction.commit().await?;
    }
}

/// Queues the rows in order; resolves when all are acknowledged.
async fn append(log: &KafkaEventLog, rows: Vec<PlainRow>) -> Result<BoxFuture<'static, Result<()>>> {
    let mut runs: BTreeMap<Shard, Vec<OutboxRow>> = BTreeMap::new();
    for row in rows {
        let row = outbox_row(row)?;
        runs.entry(row.shard).or_default().push(row);
    }
    let mut acknowledgements = Vec::with_capacity(runs.len());
    for (shard, rows) in runs {
        acknowledgements.push(log.append(shard, rows).await?);
    }
    Ok(async move { Ok(try_join_all(acknowledgements).await.map(drop)?) }.boxed())
}

fn outbox_row(row: PlainRow) -> Result<OutboxRow> {
    let PlainRow { id: _, shard, seq, epoch, event_id, kind, tenant, occurred_at, trace_parent, payload } = row;
    let shard = Shard::new(u8::try_from(shard)?)?;
    Ok(OutboxRow { shard, seq, epoch, event_id, kind, tenant, occurred_at, trace_parent, seen: Vec::new(), payload })
}
