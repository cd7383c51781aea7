//! The oldest events of each shard: which they are, and dropping them once they are archived.

use crate::{
    Embedded,
    columns::{shard, to_json},
    database::{Durability, commit, failed},
};
use chrono::{DateTime, Utc};
use ports::{Result, archive::Segment, outbox::OldPart};
use serde::Serialize;

/// Most events of a shard in one part.
const EVENTS: u32 = 8_192;
/// Rows that one transaction deletes; between two of them others write.
const DELETED_AT_ONCE: u32 = 1_000;

pub(super) async fn find(embedded: &Embedded, before: DateTime<Utc>) -> Result<Vec<OldPart>> {
    let query = sqlx::query_as::<_, (i64, i64, i64)>(include_str!("../../sql/old_events.sql")).bind(before.timestamp_millis()).bind(EVENTS);
    let rows = query.fetch_all(embedded.inner.main.readers()).await.map_err(failed)?;
    let segment = |(index, from, to)| Ok(Segment { shard: shard(index)?, from, to });
    let segments = rows.into_iter().map(segment).collect::<Result<Vec<_>>>()?;
    Ok(if segments.is_empty() { Vec::new() } else { vec![OldPart { store: 0, before, segments }] })
}

pub(super) async fn drop(embedded: &Embedded, part: &OldPart) -> Result<bool> {
    #[derive(Serialize)]
    struct SegmentRow {
        shard: u8,
        before: i64,
        through: i64,
    }
    let row = |segment: &Segment| SegmentRow { shard: segment.shard.index(), before: segment.from - 1, through: segment.to };
    let rows: Vec<SegmentRow> = part.segments.iter().map(row).collect();
    let mut transaction = embedded.inner.main.begin(Durability::Now).await?;
    let query = sqlx::query(include_str!("../../sql/raise_archived.sql")).bind(to_json(&rows)?);
    let raised = query.execute(&mut *transaction).await.map_err(failed)?.rows_affected();
    if raised != u64::try_from(rows.len()).unwrap_or(u64::MAX) {
        return Ok(false);
    }
    commit(transaction).await?;
    // From here on nobody reads them; what a kill leaves goes with the next part.
    delete_archived(embedded).await?;
    Ok(true)
}

async fn delete_archived(embedded: &Embedded) -> Result<()> {
    loop {
        let mut transaction = embedded.inner.main.begin(Durability::WithNext).await?;
        let query = sqlx::query(include_str!("../../sql/delete_archived.sql")).bind(DELETED_AT_ONCE);
        let rows = query.execute(&mut *transaction).await.map_err(failed)?.rows_affected();
        commit(transaction).await?;
        if rows < u64::from(DELETED_AT_ONCE) {
            return Ok(());
        }
    }
}
