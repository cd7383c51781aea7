//! The ledger on SQLite. One `apply` is one write transaction, with one statement per step and table however many requests it brings:
//!
//! | step | statement |
//! |---|---|
//! | keys already claimed | `find_idempotency.sql` |
//! | charges, their pools, periods that are over, budgets, sagas, numbers of the shards | `load_charges.sql`, `load_pools.sql`, `load_periods.sql`, `load_budgets.sql`, `load_sagas.sql`, `load_heads.sql` |
//! | decide each request in order, number and encode its events | – |
//! | write what changed | `insert_events.sql`, `raise_heads.sql`, `put_charges.sql`, `put_pools.sql`, `put_periods.sql`, `put_budgets.sql`, `put_sagas.sql`, `put_idempotency.sql` |

mod apply;
mod budgets;
mod claims;
mod kept;
mod numbering;
mod rows;
mod sagas;

use crate::{
    Embedded,
    columns::now_ms,
    database::{Durability, commit, failed},
};
use apply::Batch;
use async_trait::async_trait;
use budgets::{BudgetRow, load_budgets};
use chrono::{DateTime, NaiveTime, Utc};
use domain::{
    budget::Budget,
    charge::Charge,
    ids::{ChargeId, Payer, Provider, SagaId, Shard, UserId},
    pool::{Pool, PoolKey},
    saga::Saga,
};
use ports::{
    Result,
    ledger::{
        ChargeQuery, ClaimedSaga, IdempotencyKey, KeptAnswer, Ledger, LedgerAnswer, LedgerRequest, ShardSnapshot, StoredAnswer,
        StoredEvent, Sweeper,
    },
    outbox::OutboxRow,
};
use rows::{ChargeRow, PeriodRow, PoolRow};
use sagas::StoredSaga;
use sqlx::{Row, SqliteConnection};
use std::{
    sync::PoisonError,
    time::{Duration, Instant},
};
use uuid::Uuid;

/// Rows that one transaction of [`Ledger::maintain`] drops; between two of them others write.
const FORGET_AT_ONCE: u32 = 1_000;

#[async_trait]
impl Ledger for Embedded {
    async fn apply(&self, requests: &[LedgerRequest]) -> Result<Vec<LedgerAnswer>> {
        if requests.is_empty() {
            return Ok(Vec::new());
        }
        let mut transaction = self.inner.main.begin(Durability::Now).await?;
        let mut batch = Batch::load(&mut transaction, requests, now_ms(&self.inner.clock)).await?;
        let answers = requests.iter().map(|request| batch.answer(request)).collect::<Result<Vec<_>>>()?;
        if batch.is_unchanged() {
            return Ok(answers);
        }
        batch.write(&mut transaction).await?;
        commit(transaction).await?;
        self.announce_events();
        Ok(answers)
    }

    async fn find_answers(&self, keys: &[IdempotencyKey]) -> Result<Vec<Option<(StoredAnswer, [u8; 32])>>> {
        let mut connection = self.inner.main.readers().acquire().await.map_err(failed)?;
        let mut stored = claims::find(&mut connection, keys).await?;
        Ok(keys.iter().map(|key| stored.remove(key).and_then(claims::StoredClaim::into_completed)).collect())
    }

    async fn find_charge(&self, id: ChargeId) -> Result<Option<Charge>> {
        let query = sqlx::query_as::<_, ChargeRow>(include_str!("../sql/find_charge.sql")).bind(id.0);
        query.fetch_optional(self.inner.main.readers()).await.map_err(failed)?.map(Charge::try_from).transpose()
    }

    async fn charges(&self, query: &ChargeQuery) -> Result<Vec<Charge>> {
        let (before_at, before_id) = match query.before {
            None => (i64::MAX, Uuid::max()),
            Some(id) => match self.find_charge(id).await? {
                Some(charge) => (charge.created_at.timestamp_millis(), id.0),
                None => return Ok(Vec::new()),
            },
        };
        let rows = sqlx::query_as::<_, ChargeRow>(include_str!("../sql/list_charges.sql"))
            .bind(query.payer.tenant())
            .bind(query.payer.kind())
            .bind(query.user_id.map(|user| user.0))
            .bind(query.provider.as_ref().map(Provider::as_str))
            .bind(query.from.map_or(i64::MIN, |from| from.timestamp_millis()))
            // Nothing after the end of the last page is looked at again.
            .bind(query.to.map_or(i64::MAX, |to| to.timestamp_millis()).min(before_at.saturating_add(1)))
            .bind(before_at)
            .bind(before_id)
            .bind(query.limit)
            .bind(query.payer.shard().index())
            .fetch_all(self.inner.main.readers())
            .await
            .map_err(failed)?;
        rows.into_iter().map(Charge::try_from).collect()
    }

    async fn find_saga(&self, id: SagaId) -> Result<Option<Saga>> {
        let query = sqlx::query_as::<_, StoredSaga>(include_str!("../sql/find_saga.sql")).bind(id.0);
        query.fetch_optional(self.inner.main.readers()).await.map_err(failed)?.map(StoredSaga::saga).transpose()
    }

    async fn open_sagas(&self, after: Option<SagaId>, limit: u32) -> Result<Vec<Saga>> {
        let after = after.map_or(Uuid::nil(), |id| id.0);
        let query = sqlx::query_as::<_, StoredSaga>(include_str!("../sql/open_sagas.sql")).bind(after).bind(limit);
        query.fetch_all(self.inner.main.readers()).await.map_err(failed)?.into_iter().map(StoredSaga::saga).collect()
    }

    async fn claim_sagas(&self, lease: Duration, limit: u32) -> Result<Vec<ClaimedSaga>> {
        let (now, lease_ms) = (now_ms(&self.inner.clock), i64::try_from(lease.as_millis()).unwrap_or(i64::MAX));
        // Asked often, and mostly in vain: nobody who writes has to wait for that.
        let is_due = sqlx::query_scalar::<_, bool>(include_str!("../sql/is_saga_due.sql")).bind(now);
        if !is_due.fetch_one(self.inner.main.readers()).await.map_err(failed)? {
            return Ok(Vec::new());
        }
        let mut transaction = self.inner.main.begin(Durability::Now).await?;
        let query = sqlx::query_as::<_, StoredSaga>(include_str!("../sql/claim_sagas.sql")).bind(now).bind(lease_ms).bind(limit);
        let rows = query.fetch_all(&mut *transaction).await.map_err(failed)?;
        if !rows.is_empty() {
            commit(transaction).await?;
        }
        rows.into_iter().map(StoredSaga::claimed).collect()
    }

    async fn find_pool(&self, key: &PoolKey) -> Result<Option<Pool>> {
        let query = sqlx::query_as::<_, PoolRow>(include_str!("../sql/find_pool.sql"))
            .bind(key.payer.kind())
            .bind(key.payer.tenant())
            .bind(key.provider.as_str());
        query.fetch_optional(self.inner.main.readers()).await.map_err(failed)?.map(Pool::try_from).transpose()
    }

    async fn pools(&self, payer: Option<Payer>, provider: Option<&Provider>, after: Option<&PoolKey>, limit: u32) -> Result<Vec<Pool>> {
        let query = match payer {
            None => sqlx::query_as::<_, PoolRow>(include_str!("../sql/list_pools.sql")),
            Some(payer) => sqlx::query_as(include_str!("../sql/list_pools_of_payer.sql")).bind(payer.kind()).bind(payer.tenant()),
        };
        let query = query
            .bind(provider.map(Provider::as_str))
            .bind(after.map(|key| key.payer.kind()))
            .bind(after.map(|key| key.payer.tenant()))
            .bind(after.map(|key| key.provider.as_str()))
            .bind(limit);
        let rows = query.fetch_all(self.inner.main.readers()).await.map_err(failed)?;
        rows.into_iter().map(Pool::try_from).collect()
    }

    async fn budgets(&self, payer: Payer, member: Option<UserId>) -> Result<Vec<Budget>> {
        let owners = [None, member].map(|member| (payer, member)).into();
        Ok(load_budgets(self.inner.main.readers(), &owners).await?.into_values().collect())
    }

    async fn expired_holds(&self, sweeper: Sweeper, now: DateTime<Utc>, limit: u32) -> Result<Vec<ChargeId>> {
        if !self.may_sweep(sweeper) {
            return Ok(Vec::new());
        }
        let query = sqlx::query_scalar::<_, Uuid>(include_str!("../sql/find_expired_holds.sql")).bind(now.timestamp_millis()).bind(limit);
        let ids = query.fetch_all(self.inner.main.readers()).await.map_err(failed)?;
        Ok(ids.into_iter().map(ChargeId).collect())
    }

    async fn maintain(&self, forget_answers_before: DateTime<Utc>) -> Result<()> {
        let day = forget_answers_before.date_naive().and_time(NaiveTime::MIN).and_utc();
        loop {
            let mut transaction = self.inner.main.begin(Durability::WithNext).await?;
            let query = sqlx::query(include_str!("../sql/forget_idempotency.sql")).bind(day.timestamp_millis()).bind(FORGET_AT_ONCE);
            let rows = query.execute(&mut *transaction).await.map_err(failed)?.rows_affected();
            commit(transaction).await?;
            if rows < u64::from(FORGET_AT_ONCE) {
                return Ok(());
            }
        }
    }

    async fn snapshot(&self, shard: Shard) -> Result<ShardSnapshot> {
        self.snapshot_after(shard, i64::MIN).await
    }

    async fn snapshot_after(&self, shard: Shard, after: i64) -> Result<ShardSnapshot> {
        // The first read fixes the moment that every later one in this transaction sees.
        let mut transaction = self.inner.main.readers().begin().await.map_err(failed)?;
        read_shard(&mut transaction, shard, after).await
    }

    async fn scan_answers(&self, visit: &mut (dyn FnMut(KeptAnswer) + Send)) -> Result<()> {
        kept::scan(self.inner.main.readers(), visit).await
    }

    async fn bring_back(&self, shard: Shard, lost: &[OutboxRow], holds_expire_at: DateTime<Utc>) -> Result<()> {
        let mut transaction = self.inner.main.begin(Durability::Now).await?;
        let state = read_shard(&mut transaction, shard, i64::MAX).await?.into_state();
        let times = (now_ms(&self.inner.clock), holds_expire_at);
        let batch = Batch::bring_back(&mut transaction, state, (shard, lost), times).await?;
        batch.write(&mut transaction).await?;
        let raise = sqlx::query(include_str!("../sql/raise_epoch.sql")).bind(shard.index()).bind(lost.last().map_or(0, |row| row.seq));
        raise.execute(&mut *transaction).await.map_err(failed)?;
        commit(transaction).await?;
        self.announce_events();
        Ok(())
    }

    async fn ping(&self) -> Result<()> {
        self.inner.main.ping().await
    }
}

impl Embedded {
    fn may_sweep(&self, sweeper: Sweeper) -> bool {
        let mut sweeping = self.inner.sweeping.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if sweeping.is_some_and(|(id, until)| id != sweeper.id && now < until) {
            return false;
        }
        *sweeping = Some((sweeper.id, now + sweeper.lease));
        true
    }

    /// Wakes who waits for new rows of the outbox; the permit is for one who was just about to wait.
    fn announce_events(&self) {
        self.inner.events_written.notify_waiters();
        self.inner.events_written.notify_one();
    }
}

async fn read_shard(connection: &mut SqliteConnection, shard: Shard, after: i64) -> Result<ShardSnapshot> {
    let (last_seq, archived_through) = sqlx::query_as::<_, (i64, i64)>(include_str!("../sql/find_last_seq.sql"))
        .bind(shard.index())
        .fetch_one(&mut *connection)
        .await
        .map_err(failed)?;
    let events = events_of(connection, shard, after.max(archived_through)).await?;
    let charges: Vec<ChargeRow> = of_shard(connection, include_str!("../sql/charges_of_shard.sql"), shard).await?;
    let pools: Vec<PoolRow> = of_shard(connection, include_str!("../sql/pools_of_shard.sql"), shard).await?;
    let periods: Vec<PeriodRow> = of_shard(connection, include_str!("../sql/periods_of_shard.sql"), shard).await?;
    let budgets: Vec<BudgetRow> = of_shard(connection, include_str!("../sql/budgets_of_shard.sql"), shard).await?;
    let sagas: Vec<StoredSaga> = of_shard(connection, include_str!("../sql/sagas_of_shard.sql"), shard).await?;
    Ok(ShardSnapshot {
        sagas: sagas.into_iter().map(StoredSaga::saga).collect::<Result<_>>()?,
        budgets: budgets::by_key(budgets)?.into_values().collect(),
        events,
        charges: charges.into_iter().map(Charge::try_from).collect::<Result<_>>()?,
        pools: pools.into_iter().map(Pool::try_from).collect::<Result<_>>()?,
        past_periods: periods.into_iter().map(PeriodRow::into_period).collect::<Result<_>>()?,
        last_seq,
        archived_through,
    })
}

async fn of_shard<T>(connection: &mut SqliteConnection, sql: &'static str, shard: Shard) -> Result<Vec<T>>
where
    T: for<'row> sqlx::FromRow<'row, sqlx::sqlite::SqliteRow> + Send + Unpin,
{
    sqlx::query_as::<_, T>(sql).bind(shard.index()).fetch_all(&mut *connection).await.map_err(failed)
}

async fn events_of(connection: &mut SqliteConnection, shard: Shard, after: i64) -> Result<Vec<StoredEvent>> {
    let query = sqlx::query(include_str!("../sql/events_of_shard.sql")).bind(shard.index()).bind(after);
    let rows = query.fetch_all(&mut *connection).await.map_err(failed)?;
    let stored = |row: sqlx::sqlite::SqliteRow| {
        let payload: Vec<u8> = row.try_get("payload")?;
        let event = event_codec::decode(&payload).map_err(|error| error.to_string());
        Ok(StoredEvent { seq: row.try_get("seq")?, payload, event })
    };
    rows.into_iter().map(stored).collect::<sqlx::Result<_>>().map_err(failed)
}
