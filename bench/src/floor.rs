//! What the ledger's rows cost by themselves: inserted by the same driver without HTTP and without an outbox; and the usual way to
//! write an outbox, a transaction of two statements for each event.

use crate::{
    Plan,
    events::Generator,
    figures::{Sample, number},
    meter::Meter,
    users::Notes,
};
use anyhow::{Context, Result};
use chrono::{DateTime, Utc};
use domain::ids::{ChargeId, Payer, UserId};
use futures::future::try_join_all;
use serde_json::json;
use sqlx::{PgConnection, PgPool};
use std::{cell::RefCell, time::Instant};
use uuid::Uuid;

pub const TWO_STATEMENTS: &str = "two statements";
const INSERTING_CONNECTIONS: usize = 2;
const TWO_STATEMENT_CONNECTIONS: usize = 8;

/// Rows of settled consumes, as columns.
#[derive(Default)]
struct Rows {
    shards: Vec<i16>,
    ids: Vec<Uuid>,
    payers: Vec<Uuid>,
    keys: Vec<Uuid>,
    metadata: Vec<String>,
    tokens: Vec<i64>,
    made: Vec<DateTime<Utc>>,
    seqs: Vec<i64>,
}

/// Makes rows as one user after the other spends.
struct Source<'a> {
    users: &'a [Uuid],
    amounts: &'a [i64],
    notes: Vec<String>,
    /// Rows, and calls for rows.
    made: usize,
    asked: usize,
}

pub struct Floor<'a> {
    plan: &'a Plan,
    pool: PgPool,
    meter: Meter,
    source: RefCell<Source<'a>>,
    payloads: Vec<Vec<u8>>,
}

impl<'a> Floor<'a> {
    pub async fn make(plan: &'a Plan, pool: PgPool, users: &'a [Uuid]) -> Result<Self> {
        for table in [include_str!("sql/floor_create.sql"), include_str!("sql/floor_create_outbox.sql")] {
            sqlx::query(table).execute(&pool).await?;
        }
        let mut notes = Notes::new();
        let notes = (0..1_000).map(|_| json!({"note": notes.next()}).to_string()).collect();
        let mut generator = Generator::new(&plan.amounts);
        let payloads = (0..1_000).map(|_| Ok(generator.next_row(Utc::now())?.payload)).collect::<Result<_>>()?;
        let meter = Meter::of_postgres(&pool).await?;
        Ok(Self { plan, pool, meter, source: RefCell::new(Source { users, amounts: &plan.amounts, notes, made: 0, asked: 0 }), payloads })
    }

    /// So many rows in each statement.
    pub async fn insert(&self, mode: &str, rows: usize) -> Result<Sample> {
        let one = async || {
            let rows = self.source.borrow_mut().rows(rows)?;
            let mut connection = self.pool.acquire().await?;
            insert(&mut connection, &rows).await?;
            Ok(rows.ids.len())
        };
        self.measure(mode, INSERTING_CONNECTIONS, one).await
    }

    pub async fn two_statements(&self) -> Result<Sample> {
        let one = async || {
            let rows = self.source.borrow_mut().rows(1)?;
            let payload = usize::try_from(rows.seqs.first().copied().unwrap_or(0))? % self.payloads.len();
            let mut transaction = self.pool.begin().await?;
            insert(&mut transaction, &rows).await?;
            sqlx::query(include_str!("sql/floor_insert_outbox.sql")).bind(&self.payloads[payload]).execute(&mut *transaction).await?;
            transaction.commit().await?;
            Ok(1)
        };
        self.measure(TWO_STATEMENTS, TWO_STATEMENT_CONNECTIONS, one).await
    }

    /// Repeats `one` on so many connections; it answers how many events it wrote.
    async fn measure(&self, mode: &str, connections: usize, one: impl AsyncFn() -> Result<usize>) -> Result<Sample> {
        let until = async |end: Instant| {
            let mut events = 0;
            while Instant::now() < end {
                events += one().await?;
            }
            anyhow::Ok(events)
        };
        let together = async |time| try_join_all((0..connections).map(|_| until(Instant::now() + time))).await;
        together(self.plan.warm_up).await?;
        let (before, start) = (self.meter.read().await?, Instant::now());
        let events: usize = together(self.plan.measured).await?.into_iter().sum();
        let (elapsed, used) = (start.elapsed(), self.meter.read().await?.since(before));
        let events = number(u64::try_from(events)?);
        Ok(Sample {
            per_second: events / elapsed.as_secs_f64(),
            store_cpu_micros_each: Some(used.cpu_micros / events),
            wal_bytes_each: Some(used.wal_bytes / events),
            ..Sample::new(mode)
        })
    }
}

impl Source<'_> {
    fn rows(&mut self, count: usize) -> Result<Rows> {
        self.asked += 1;
        let user = self.users.get(self.asked % self.users.len().max(1)).copied().context("no users")?;
        let shard = Payer::User(UserId(user)).shard();
        let mut rows = Rows::default();
        for _ in 0..count {
            self.made += 1;
            let now = Utc::now();
            rows.shards.push(i16::from(shard.index()));
            rows.ids.push(ChargeId::new(shard, now).0);
            rows.payers.push(user);
            rows.keys.push(user);
            rows.metadata.push(self.notes[self.made % self.notes.len()].clone());
            rows.tokens.push(self.amounts[self.made % self.amounts.len()]);
            rows.made.push(now);
            rows.seqs.push(i64::try_from(self.made)?);
        }
        Ok(rows)
    }
}

async fn insert(connection: &mut PgConnection, rows: &Rows) -> Result<()> {
    sqlx::query(include_str!("sql/floor_insert.sql"))
        .bind(&rows.shards)
        .bind(&rows.ids)
        .bind(&rows.payers)
        .bind(&rows.keys)
        .bind(&rows.metadata)
        .bind(&rows.tokens)
        .bind(&rows.made)
        .bind(&rows.seqs)
        .execute(connection)
        .await?;
    Ok(())
}
