//! `ports::ledger` in Postgres. The hot path, [`Ledger::apply`], is one transaction for the whole batch. A batch of spends from pools that
//! this process wrote last ([`known`]) is one round trip: `write.sql` makes sure that the shards still stand where it was decided. Else:
//!
//! | round trip | statement | when |
//! |---|---|---|
//! | 1 | `BEGIN` | |
//! | 2 | `lock_shards.sql`: the rows of the batch's shards, ascending; also answers the last numbers | |
//! | 3 | `load_claims.sql` | a request has an idempotency key |
//! | 4 | `load_charges.sql`, `load_periods.sql` | settle, release, expire, refund, a repeated request |
//! | 5 | `load_pools.sql` | a pool is concerned |
//! | | `load_budgets.sql` | a shard of the batch has budgets |
//! | | `load_sagas.sql` | a refund, a purchase |
//! | | `domain::ledger::decide` for each request in arrival order; events are numbered and encoded | |
//! | 6 | `write.sql`: numbers, events, new charges, changed pools, new idempotency keys | something changed |
//! | 7 | `update_charges.sql`, `put_periods.sql`, `put_budgets.sql`, `put_sagas.sql`, `complete_claims.sql`, … | rows of these tables changed |
//! | 8 | `COMMIT`, or `ROLLBACK` when nothing changed | |
//!
//! The lock of a shard covers everything in it (see `migrations/postgres`), is held until the commit, and is taken in one order: numbers
//! are dense, rows become visible in the order of their numbers, and batches of several processes cannot deadlock on it.

mod answers;
mod apply;
mod batch;
mod bring_back;
mod budgets;
mod claims;
mod kept;
pub(crate) mod known;
mod load;
mod rows;
mod sagas;
mod write;

use crate::{
    Postgres, STORE,
    error::{bounded, not_done},
    packed, partitions,
    shard::shard_column,
};
use async_trait::async_trait;
use chrono::{DateTime, TimeZone, Utc};
use claims::Claims;
use domain::{
    budget::Budget,
    charge::Charge,
    ids::{ChargeId, Payer, Provider, SagaId, Shard, UserId},
    pool::{Pool, PoolKey},
    saga::Saga,
};
use ports::{
    Result, StoreError,
    ledger::{
        ChargeQuery, ClaimedSaga, IdempotencyKey, KeptAnswer, Ledger, LedgerAnswer, LedgerRequest, ShardSnapshot, StoredAnswer,
        StoredEvent, Sweeper,
    },
    outbox::OutboxRow,
};
use rows::{ChargeRow, PeriodRow, PoolRow};
pub(crate) use rows::{is_org, payer};
use sqlx::PgConnection;
use std::time::Duration;
use uuid::Uuid;

/// Why a step of the transaction did not succeed: the server's word, or what we make of its data.
pub(crate) enum Failure {
    Sql(sqlx::Error),
    Store(StoreError),
}

impl Failure {
    /// Its meaning where nothing was committed.
    pub(crate) fn not_done(self) -> StoreError {
        match self {
            Self::Sql(error) => not_done(error),
            Self::Store(error) => error,
        }
    }
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

#[async_trait]
impl Ledger for Postgres {
    async fn apply(&self, requests: &[LedgerRequest]) -> Result<Vec<LedgerAnswer>> {
        if requests.is_empty() {
            return Ok(Vec::new());
        }
        // In a task of its own: a caller that goes away must not leave a transaction open.
        let work = tokio::spawn(apply::apply(self.clone(), requests.to_vec()));
        work.await.unwrap_or_else(|gone| Err(StoreError::outcome_unknown(STORE, gone)))
    }

    async fn find_answers(&self, keys: &[IdempotencyKey]) -> Result<Vec<Option<(StoredAnswer, [u8; 32])>>> {
        let mut connection = bounded(self.pool.acquire()).await?;
        let claims = Claims::load(&mut connection, keys.iter()).await.map_err(Failure::not_done)?;
        Ok(keys.iter().map(|key| claims.completed(key)).collect())
    }

    async fn find_charge(&self, id: ChargeId) -> Result<Option<Charge>> {
        let Some(shard) = id.shard() else { return Ok(None) };
        let query = sqlx::query_as(include_str!("sql/ledger/find_charge.sql")).bind(shard_column(shard)).bind(id.0);
        let row: Option<ChargeRow> = bounded(query.fetch_optional(&self.pool)).await?;
        row.map(ChargeRow::charge).transpose()
    }

    async fn charges(&self, query: &ChargeQuery) -> Result<Vec<Charge>> {
        let mut end = (query.to.unwrap_or_else(far_future), Uuid::nil());
        if let Some(before) = query.before {
            let Some(charge) = self.find_charge(before).await? else { return Ok(Vec::new()) };
            end = end.min((charge.created_at, before.0));
        }
        let statement = sqlx::query_as(include_str!("sql/ledger/list_charges.sql"))
            .bind(query.payer.tenant())
            .bind(is_org(query.payer))
            .bind(query.user_id.map(|user| user.0))
            .bind(query.provider.as_ref().map(Provider::as_str))
            .bind(query.from.unwrap_or(DateTime::UNIX_EPOCH))
            .bind(end.0)
            .bind(end.1)
            .bind(i64::from(query.limit));
        let rows: Vec<ChargeRow> = bounded(statement.fetch_all(&self.pool)).await?;
        rows.into_iter().map(ChargeRow::charge).collect()
    }

    async fn find_saga(&self, id: SagaId) -> Result<Option<Saga>> {
        let Some(shard) = id.shard() else { return Ok(None) };
        let query = sqlx::query_as(include_str!("sql/ledger/find_saga.sql")).bind(shard_column(shard)).bind(id.0);
        bounded(query.fetch_optional(&self.pool)).await?.map(sagas::saga).transpose()
    }

    async fn open_sagas(&self, after: Option<SagaId>, limit: u32) -> Result<Vec<Saga>> {
        let after = after.map_or(Uuid::nil(), |id| id.0);
        let query = sqlx::query_as(include_str!("sql/ledger/open_sagas.sql")).bind(after).bind(i64::from(limit));
        bounded(query.fetch_all(&self.pool)).await?.into_iter().map(sagas::saga).collect()
    }

    async fn claim_sagas(&self, lease: Duration, limit: u32) -> Result<Vec<ClaimedSaga>> {
        let query = sqlx::query_as(include_str!("sql/ledger/claim_sagas.sql")).bind(lease.as_secs_f64()).bind(i64::from(limit));
        bounded(query.fetch_all(&self.pool)).await?.into_iter().map(sagas::claimed).collect()
    }

    async fn find_pool(&self, key: &PoolKey) -> Result<Option<Pool>> {
        let statement = sqlx::query_as(include_str!("sql/ledger/find_pool.sql"))
            .bind(is_org(key.payer))
            .bind(key.payer.tenant())
            .bind(key.provider.as_str());
        let row: Option<PoolRow> = bounded(statement.fetch_optional(&self.pool)).await?;
        row.map(PoolRow::pool).transpose()
    }

    async fn pools(&self, payer: Option<Payer>, provider: Option<&Provider>, after: Option<&PoolKey>, limit: u32) -> Result<Vec<Pool>> {
        // Before the first: no user has the nil id.
        let after = after.map_or((false, Uuid::nil(), ""), |key| (is_org(key.payer), key.payer.tenant(), key.provider.as_str()));
        let statement = match payer {
            None => include_str!("sql/ledger/list_pools.sql"),
            Some(_) => include_str!("sql/ledger/list_pools_of_payer.sql"),
        };
        let mut statement =
            sqlx::query_as(statement).bind(after.0).bind(after.1).bind(after.2).bind(provider.map(Provider::as_str)).bind(i64::from(limit));
        if let Some(payer) = payer {
            statement = statement.bind(is_org(payer)).bind(payer.tenant());
        }
        let rows: Vec<PoolRow> = bounded(statement.fetch_all(&self.pool)).await?;
        rows.into_iter().map(PoolRow::pool).collect()
    }

    async fn budgets(&self, payer: Payer, member: Option<UserId>) -> Result<Vec<Budget>> {
        bounded(budgets::of_payer(&self.pool, payer, member)).await?
    }

    async fn expired_holds(&self, sweeper: Sweeper, now: DateTime<Utc>, limit: u32) -> Result<Vec<ChargeId>> {
        Ok(self.due_holds(sweeper, now, limit).await?.into_iter().map(|(_, id)| id).collect())
    }

    async fn maintain(&self, forget_answers_before: DateTime<Utc>) -> Result<()> {
        partitions::maintain(&self.pool, forget_answers_before).await
    }

    async fn snapshot(&self, shard: Shard) -> Result<ShardSnapshot> {
        read_snapshot(self, shard, i64::MIN).await.map_err(Failure::not_done)
    }

    async fn snapshot_after(&self, shard: Shard, after: i64) -> Result<ShardSnapshot> {
        read_snapshot(self, shard, after).await.map_err(Failure::not_done)
    }

    async fn scan_answers(&self, visit: &mut (dyn FnMut(KeptAnswer) + Send)) -> Result<()> {
        kept::scan(self, visit).await.map_err(Failure::not_done)
    }

    async fn bring_back(&self, shard: Shard, lost: &[OutboxRow], holds_expire_at: DateTime<Utc>) -> Result<()> {
        bring_back::bring_back(self, shard, lost, holds_expire_at).await
    }

    async fn ping(&self) -> Result<()> {
        bounded(sqlx::query(include_str!("sql/ping.sql")).execute(&self.pool)).await.map(drop)
    }
}

impl Postgres {
    /// Holds of the shards that are at home here, with their deadlines, oldest first, where this sweeper has the lease.
    pub(crate) async fn due_holds(&self, sweeper: Sweeper, now: DateTime<Utc>, limit: u32) -> Result<Vec<(DateTime<Utc>, ChargeId)>> {
        let statement = sqlx::query_as(include_str!("sql/ledger/expired_holds.sql"))
            .bind(now)
            .bind(i64::from(limit))
            .bind(sweeper.id)
            .bind(sweeper.lease.as_secs_f64());
        let due: Vec<(DateTime<Utc>, Uuid)> = bounded(statement.fetch_all(&self.pool)).await?;
        Ok(due.into_iter().map(|(deadline, id)| (deadline, ChargeId(id))).collect())
    }
}

fn far_future() -> DateTime<Utc> {
    Utc.with_ymd_and_hms(9999, 12, 31, 0, 0, 0).single().unwrap_or(DateTime::UNIX_EPOCH)
}

async fn read_snapshot(postgres: &Postgres, shard: Shard, after: i64) -> Result<ShardSnapshot, Failure> {
    let mut transaction = postgres.pool.begin_with(include_str!("sql/ledger/begin_snapshot.sql")).await?;
    let snapshot = read_shard(&mut transaction, shard, after).await;
    transaction.rollback().await?;
    snapshot
}

async fn read_shard(connection: &mut PgConnection, shard: Shard, after: i64) -> Result<ShardSnapshot, Failure> {
    let column = shard_column(shard);
    sqlx::query(include_str!("sql/ledger/allow_long_reads.sql")).execute(&mut *connection).await?;
    let (last_seq, archived_through): (i64, i64) =
        sqlx::query_as(include_str!("sql/ledger/snapshot_head.sql")).bind(column).fetch_one(&mut *connection).await?;
    let after = after.max(archived_through);
    let rows: Vec<(i64, i16, Vec<u8>)> =
        sqlx::query_as(include_str!("sql/ledger/snapshot_events.sql")).bind(column).bind(after).fetch_all(&mut *connection).await?;
    let charges: Vec<ChargeRow> =
        sqlx::query_as(include_str!("sql/ledger/snapshot_charges.sql")).bind(column).fetch_all(&mut *connection).await?;
    let pools: Vec<PoolRow> =
        sqlx::query_as(include_str!("sql/ledger/snapshot_pools.sql")).bind(column).fetch_all(&mut *connection).await?;
    let periods: Vec<PeriodRow> =
        sqlx::query_as(include_str!("sql/ledger/snapshot_periods.sql")).bind(column).fetch_all(&mut *connection).await?;
    let budgets = budgets::of_shard(connection, column).await?;
    let sagas = sagas::of_shard(connection, column).await?;
    let mut events = Vec::new();
    for (last, count, bytes) in rows {
        let newer = packed::numbered(&bytes, count, last)?.into_iter().filter(|(seq, _)| *seq > after);
        events.extend(newer.map(|(seq, event)| stored_event(seq, event.payload)));
    }
    Ok(ShardSnapshot {
        budgets,
        sagas,
        events,
        charges: charges.into_iter().map(ChargeRow::charge).collect::<Result<_>>()?,
        pools: pools.into_iter().map(PoolRow::pool).collect::<Result<_>>()?,
        past_periods: periods.into_iter().map(PeriodRow::period).collect::<Result<_>>()?,
        last_seq,
        archived_through,
    })
}

fn stored_event(seq: i64, payload: Vec<u8>) -> StoredEvent {
    let event = event_codec::decode(&payload).map_err(|error| error.to_string());
    StoredEvent { seq, payload, event }
}
