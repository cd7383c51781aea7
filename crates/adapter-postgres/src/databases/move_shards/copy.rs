//! One copy: everything of the shards, or what changed since the copy before.

use crate::{
    error::corrupt,
    ledger::{Failure, is_org},
    packed,
    shard::shard_of,
};
use chrono::NaiveDate;
use domain::{
    event::NewEvent,
    ids::{ChargeId, Payer, SagaId},
    pool::PoolKey,
    saga,
};
use futures::TryStreamExt;
use sqlx::{Connection, FromRow, PgConnection};
use std::collections::BTreeSet;
use uuid::Uuid;

/// The statements that bring one table over. What a copy finds arrives in a table of its own and then replaces what was there.
pub(super) struct Table {
    copy_out: &'static str,
    create_arriving: &'static str,
    copy_in: &'static str,
    replace: &'static str,
    insert: &'static str,
    pub clear: &'static str,
}

macro_rules! table {
    ($name:literal) => {
        Table {
            copy_out: include_str!(concat!("../../sql/move/", $name, "/copy_out.sql")),
            create_arriving: include_str!(concat!("../../sql/move/", $name, "/create_arriving.sql")),
            copy_in: include_str!(concat!("../../sql/move/", $name, "/copy_in.sql")),
            replace: include_str!(concat!("../../sql/move/", $name, "/replace.sql")),
            insert: include_str!(concat!("../../sql/move/", $name, "/insert.sql")),
            clear: include_str!(concat!("../../sql/move/", $name, "/clear.sql")),
        }
    };
}

/// Charges before the answers that point to them, and cleared after them.
pub(super) const TABLES: [Table; 7] =
    [table!("outbox"), table!("charge"), table!("pool"), table!("pool_period"), table!("budget"), table!("saga"), table!("idempotency")];

#[derive(FromRow)]
struct Head {
    shard: i16,
    last_seq: i64,
    epoch: i32,
    budgets: bool,
    closed_day: NaiveDate,
    closed_seq: i64,
    archived_through: i64,
}

/// Copies the shards again and again, each time only what is new.
pub(super) struct Copier {
    shards: Vec<i16>,
    /// As of the last copy; empty before the first.
    heads: Vec<Head>,
    /// Answers stored since then are copied, and these, which were open.
    answers_since: String,
    open_answers: Vec<Uuid>,
    events: i64,
}

impl Copier {
    pub fn new(shards: &[i16]) -> Self {
        Self { shards: shards.to_vec(), heads: Vec::new(), answers_since: "-infinity".into(), open_answers: Vec::new(), events: 0 }
    }

    pub const fn events(&self) -> i64 {
        self.events
    }

    /// Brings the target to the source's present; answers how many events were new.
    pub async fn copy(&mut self, source: &mut PgConnection, target: &mut PgConnection) -> Result<i64, Failure> {
        let mut source = source.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ").await?;
        let mut target = target.begin().await?;
        for side in [&mut source, &mut target] {
            sqlx::query(include_str!("../../sql/move/lift_limits.sql")).execute(&mut **side).await?;
        }
        let (shards, after) = self.positions();
        sqlx::query(include_str!("../../sql/move/create_moving.sql")).execute(&mut *source).await?;
        sqlx::query(include_str!("../../sql/move/fill_moving.sql")).bind(shards).bind(after).execute(&mut *source).await?;
        let heads: Vec<Head> = sqlx::query_as(include_str!("../../sql/move/heads.sql")).fetch_all(&mut *source).await?;
        let answers_since: String = sqlx::query_scalar(include_str!("../../sql/move/now.sql")).fetch_one(&mut *source).await?;
        self.touch(&mut source).await?;
        let open_answers: Vec<Uuid> = sqlx::query_scalar(include_str!("../../sql/move/open_answers.sql")).fetch_all(&mut *source).await?;
        let days: (Option<NaiveDate>, Option<NaiveDate>) =
            sqlx::query_as(include_str!("../../sql/move/first_days.sql")).fetch_one(&mut *source).await?;
        sqlx::query(include_str!("../../sql/partitions/lock.sql")).execute(&mut *target).await?;
        sqlx::query(include_str!("../../sql/move/make_partitions.sql")).bind(days.0).bind(days.1).execute(&mut *target).await?;
        for table in TABLES {
            table.copy(&mut source, &mut target).await?;
        }
        source.rollback().await?;
        target.commit().await?;
        let new = heads.iter().map(|head| head.last_seq).sum::<i64>() - self.heads.iter().map(|head| head.last_seq).sum::<i64>();
        self.events += new;
        (self.heads, self.answers_since, self.open_answers) = (heads, answers_since, open_answers);
        Ok(new)
    }

    /// The shards are at home in the target from here on.
    pub async fn arrive(&self, target: &mut PgConnection) -> Result<(), Failure> {
        let statement = sqlx::query(include_str!("../../sql/move/arrive.sql"))
            .bind(self.heads.iter().map(|head| head.shard).collect::<Vec<_>>())
            .bind(self.heads.iter().map(|head| head.last_seq).collect::<Vec<_>>())
            .bind(self.heads.iter().map(|head| head.epoch).collect::<Vec<_>>())
            .bind(self.heads.iter().map(|head| head.budgets).collect::<Vec<_>>())
            .bind(self.heads.iter().map(|head| head.closed_day).collect::<Vec<_>>())
            .bind(self.heads.iter().map(|head| head.closed_seq).collect::<Vec<_>>())
            .bind(self.heads.iter().map(|head| head.archived_through).collect::<Vec<_>>());
        Ok(statement.execute(target).await.map(drop)?)
    }

    fn positions(&self) -> (Vec<i16>, Vec<i64>) {
        let copied = |shard: &i16| self.heads.iter().find(|head| head.shard == *shard).map_or(0, |head| head.last_seq);
        (self.shards.clone(), self.shards.iter().map(copied).collect())
    }

    /// Notes in the source which answers, charges, pools, budgets and sagas have to be copied: all, or what may have changed since the last copy.
    async fn touch(&self, source: &mut PgConnection) -> Result<(), Failure> {
        sqlx::query(include_str!("../../sql/move/create_touched_charges.sql")).execute(&mut *source).await?;
        sqlx::query(include_str!("../../sql/move/create_touched_pools.sql")).execute(&mut *source).await?;
        sqlx::query(include_str!("../../sql/move/create_touched_payers.sql")).execute(&mut *source).await?;
        sqlx::query(include_str!("../../sql/move/create_touched_sagas.sql")).execute(&mut *source).await?;
        sqlx::query(include_str!("../../sql/move/create_touched_answers.sql")).execute(&mut *source).await?;
        sqlx::query(include_str!("../../sql/move/touch_answers.sql"))
            .bind(&self.answers_since)
            .bind(&self.open_answers)
            .execute(&mut *source)
            .await?;
        if self.heads.is_empty() {
            sqlx::query(include_str!("../../sql/move/touch_all_charges.sql")).execute(&mut *source).await?;
            sqlx::query(include_str!("../../sql/move/touch_all_pools.sql")).execute(&mut *source).await?;
            sqlx::query(include_str!("../../sql/move/touch_all_payers.sql")).execute(&mut *source).await?;
            sqlx::query(include_str!("../../sql/move/touch_all_sagas.sql")).execute(&mut *source).await?;
            return Ok(());
        }
        let touched = Touched::since(source).await?;
        sqlx::query(include_str!("../../sql/move/touch_charges.sql"))
            .bind(touched.charges.iter().map(|(shard, _)| *shard).collect::<Vec<_>>())
            .bind(touched.charges.iter().map(|(_, id)| id.0).collect::<Vec<_>>())
            .execute(&mut *source)
            .await?;
        sqlx::query(include_str!("../../sql/move/touch_sagas.sql"))
            .bind(touched.sagas.iter().map(|(shard, _)| *shard).collect::<Vec<_>>())
            .bind(touched.sagas.iter().map(|(_, id)| id.0).collect::<Vec<_>>())
            .execute(&mut *source)
            .await?;
        sqlx::query(include_str!("../../sql/move/touch_open_sagas.sql")).execute(&mut *source).await?;
        sqlx::query(include_str!("../../sql/move/touch_payers.sql"))
            .bind(touched.payers.iter().copied().map(is_org).collect::<Vec<_>>())
            .bind(touched.payers.iter().map(|payer| payer.tenant()).collect::<Vec<_>>())
            .execute(&mut *source)
            .await?;
        sqlx::query(include_str!("../../sql/move/touch_pools.sql"))
            .bind(touched.pools.iter().map(|key| is_org(key.payer)).collect::<Vec<_>>())
            .bind(touched.pools.iter().map(|key| key.payer.tenant()).collect::<Vec<_>>())
            .bind(touched.pools.iter().map(|key| key.provider.as_str()).collect::<Vec<_>>())
            .execute(&mut *source)
            .await?;
        Ok(())
    }
}

/// What events are about. Only events change charges, pools, budgets and sagas.
#[derive(Default)]
struct Touched {
    charges: BTreeSet<(i16, ChargeId)>,
    pools: BTreeSet<PoolKey>,
    payers: BTreeSet<Payer>,
    sagas: BTreeSet<(i16, SagaId)>,
}

impl Touched {
    async fn since(source: &mut PgConnection) -> Result<Self, Failure> {
        let mut touched = Self::default();
        let mut rows = sqlx::query_as::<_, (i16, i64, i16, Vec<u8>)>(include_str!("../../sql/move/events_since.sql")).fetch(source);
        while let Some((shard, last, count, bytes)) = rows.try_next().await? {
            for (seq, event) in packed::numbered(&bytes, count, last)? {
                let event = event_codec::decode(&event.payload).map_err(|error| {
                    corrupt(format!("event {seq} of shard {}: {error}", shard_of(shard).map_or(0, |shard| shard.index())))
                })?;
                touched.add(shard, event.event);
            }
        }
        Ok(touched)
    }

    fn add(&mut self, shard: i16, event: NewEvent) {
        self.charges.extend(event.charge_id.map(|id| (shard, id)));
        self.sagas.extend(saga::of_event(&event).map(|id| (shard, id)));
        self.payers.insert(event.payer);
        self.pools.extend(event.provider.map(|provider| PoolKey { payer: event.payer, provider }));
    }
}

impl Table {
    async fn copy(&self, source: &mut PgConnection, target: &mut PgConnection) -> Result<(), Failure> {
        sqlx::query(self.create_arriving).execute(&mut *target).await?;
        let mut rows = source.copy_out_raw(self.copy_out).await?;
        let mut arriving = target.copy_in_raw(self.copy_in).await?;
        while let Some(bytes) = rows.try_next().await? {
            arriving.send(bytes).await?;
        }
        arriving.finish().await?;
        drop(rows);
        sqlx::query(self.replace).execute(&mut *target).await?;
        sqlx::query(self.insert).execute(&mut *target).await?;
        Ok(())
    }
}
