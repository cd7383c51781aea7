//! The oldest partition of the outbox: what is in it, and dropping it once that is archived.
//!
//! A transaction that began before midnight may take its number after one that began later, so the last numbers of a partition need
//! not follow each other: some between them lie in the next one. What is archived is every number up to the partition's newest; those
//! few rows of the next partition are then in both places, and count for nothing here.

use crate::{
    error::bounded,
    partitions::{drop_when_free, in_turn},
    shard::{shard_column, shard_of},
};
use chrono::{DateTime, NaiveDate, NaiveTime, Utc};
use domain::ids::Shard;
use ports::{Result, archive::Segment, outbox::OldPart};
use sqlx::{FromRow, PgExecutor, PgPool};

#[derive(FromRow)]
struct ShardRow {
    ends: NaiveDate,
    shard: i16,
    home: bool,
    archived_through: i64,
    last_seq: Option<i64>,
}

pub(super) async fn find(pool: &PgPool, before: DateTime<Utc>) -> Result<Option<OldPart>> {
    part(bounded(rows(pool, before.date_naive())).await?)
}

pub(super) async fn drop(pool: &PgPool, old: &OldPart) -> Result<bool> {
    let ends = old.before.date_naive();
    let mut transaction = bounded(in_turn(pool)).await?;
    // Again, now that nobody else can drop it: another process may have.
    let present = part(bounded(rows(&mut *transaction, ends)).await?)?;
    if present.is_none_or(|present| (present.before, &present.segments) != (old.before, &old.segments)) {
        return Ok(false);
    }
    let (shards, through): (Vec<i16>, Vec<i64>) = old.segments.iter().map(|segment| (shard_column(segment.shard), segment.to)).unzip();
    let raise = sqlx::query(include_str!("../sql/outbox/raise_archived.sql")).bind(shards).bind(through);
    bounded(raise.execute(&mut *transaction)).await?;
    bounded(drop_when_free(transaction, include_str!("../sql/outbox/drop_part.sql"), ends)).await
}

async fn rows(executor: impl PgExecutor<'_>, before: NaiveDate) -> sqlx::Result<Vec<ShardRow>> {
    sqlx::query_as(include_str!("../sql/outbox/old_part.sql")).bind(before).fetch_all(executor).await
}

fn part(rows: Vec<ShardRow>) -> Result<Option<OldPart>> {
    let Some(ends) = rows.first().map(|row| row.ends) else { return Ok(None) };
    // A shard that is on its way, or has left and is still being cleared: it is archived where it is at home.
    if rows.iter().any(|row| !row.home && row.last_seq.is_some()) {
        return Ok(None);
    }
    let segments = rows.iter().filter_map(segment).collect::<Result<_>>()?;
    Ok(Some(OldPart { store: 0, before: ends.and_time(NaiveTime::MIN).and_utc(), segments }))
}

fn segment(row: &ShardRow) -> Option<Result<Segment>> {
    let to = row.last_seq.filter(|last| *last > row.archived_through)?;
    let of_shard = |shard: Shard| Segment { shard, from: row.archived_through + 1, to };
    Some(shard_of(row.shard).map(of_shard))
}
