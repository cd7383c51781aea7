//! Upkeep of the tables that grow with time: their partitions are made ahead and, past their keeping, dropped as a whole. Each step is
//! a transaction of its own, may be repeated, and is done by one process at a time.

use crate::error::{bounded, sqlstate};
use chrono::{DateTime, NaiveDate, Utc};
use ports::Result;
use sqlx::{PgPool, Postgres, Transaction};

/// lock_not_available
const LOCKED: &str = "55P03";

pub(crate) async fn maintain(pool: &PgPool, forget_answers_before: DateTime<Utc>) -> Result<()> {
    let dropped = drop_days(pool, include_str!("sql/ledger/forget_answers.sql"), forget_answers_before.date_naive()).await;
    make_ahead(pool).await?;
    bounded(close_days(pool)).await?;
    dropped
}

/// Whether a row found no partition: the upkeep was not done for days.
pub(crate) fn is_missing(error: &sqlx::Error) -> bool {
    // check_violation without a constraint
    sqlstate(error).as_deref() == Some("23514") && error.as_database_error().is_some_and(|error| error.constraint().is_none())
}

/// Makes the partitions that the next days need.
pub(crate) async fn make_ahead(pool: &PgPool) -> Result<()> {
    let made = async {
        let mut transaction = in_turn(pool).await?;
        sqlx::query(include_str!("sql/partitions/make_ahead.sql")).execute(&mut *transaction).await?;
        transaction.commit().await
    };
    bounded(made).await
}

/// Drops the partitions of the days before; `statement` names the table.
pub(crate) async fn drop_days(pool: &PgPool, statement: &'static str, keep_from: NaiveDate) -> Result<()> {
    bounded(try_drop_days(pool, statement, keep_from)).await
}

async fn try_drop_days(pool: &PgPool, statement: &'static str, keep_from: NaiveDate) -> sqlx::Result<()> {
    drop_when_free(in_turn(pool).await?, statement, keep_from).await.map(drop)
}

/// Drops and commits; `false`, and nothing done, when somebody is reading.
pub(crate) async fn drop_when_free(
    mut transaction: Transaction<'static, Postgres>,
    statement: &'static str,
    keep_from: NaiveDate,
) -> sqlx::Result<bool> {
    // Who waits for the table stands in everybody's way: a long read, such as an audit's, is left alone until the next time.
    sqlx::query(include_str!("sql/partitions/wait_briefly.sql")).execute(&mut *transaction).await?;
    let dropped = sqlx::query(statement).bind(keep_from).execute(&mut *transaction).await;
    match dropped {
        Err(error) if sqlstate(&error).as_deref() == Some(LOCKED) => {
            tracing::debug!(%error, "old partitions are dropped another time");
            transaction.rollback().await?;
            Ok(false)
        }
        Err(error) => Err(error),
        Ok(_) => transaction.commit().await.map(|()| true),
    }
}

async fn close_days(pool: &PgPool) -> sqlx::Result<()> {
    let mut transaction = in_turn(pool).await?;
    sqlx::query(include_str!("sql/partitions/close_days.sql")).execute(&mut *transaction).await?;
    transaction.commit().await
}

/// A transaction that only one process has at a time.
pub(crate) async fn in_turn(pool: &PgPool) -> sqlx::Result<Transaction<'static, Postgres>> {
    let mut transaction = pool.begin().await?;
    sqlx::query(include_str!("sql/partitions/lock.sql")).execute(&mut *transaction).await?;
    Ok(transaction)
}
