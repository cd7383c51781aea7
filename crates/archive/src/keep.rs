//! Old events go into the archive, are read back and compared, and only then leave the outbox. Killed at any point, done by several
//! processes at once or done again, it makes the same files: they follow from the numbers, and nothing is dropped twice.

use crate::{encode, segments};
use chrono::{DateTime, Utc};
use domain::ids::Shard;
use ports::{
    Result, StoreError,
    archive::{Archive, STORE, Segment},
    outbox::{OldPart, Outbox, OutboxRow},
};
use std::collections::HashMap;

/// Most events of a segment: what a reader of one number has to take from the archive, about a megabyte.
const SEGMENT_EVENTS: i64 = 8_192;

/// Archives and drops what was written before, as far as of each shard nobody needs more than the numbers behind `released` any more.
/// Answers how many events left the outbox, which should be an [`crate::ArchivedOutbox`]: another process may drop what is being read.
///
/// # Errors
/// When a store does not answer, or what was written does not come back as it is in the outbox; nothing is dropped then.
pub async fn archive_old(outbox: &dyn Outbox, archive: &dyn Archive, before: DateTime<Utc>, released: &HashMap<Shard, i64>) -> Result<i64> {
    let mut events = 0;
    loop {
        let mut dropped = 0;
        for part in outbox.old_parts(before).await? {
            let is_released = |segment: &Segment| released.get(&segment.shard).is_some_and(|through| segment.to <= *through);
            if !part.segments.iter().all(is_released) {
                tracing::debug!(before = %part.before, "old events are not archived yet: the log, a report or a webhook has still to come to them");
                continue;
            }
            store_part(outbox, archive, &part).await?;
            if outbox.drop_part(&part).await? {
                dropped += 1;
                events += part.segments.iter().map(Segment::count).sum::<i64>();
            }
        }
        if dropped == 0 {
            return Ok(events);
        }
    }
}

async fn store_part(outbox: &dyn Outbox, archive: &dyn Archive, part: &OldPart) -> Result<()> {
    for segment in &part.segments {
        follows(archive, *segment).await?;
        let mut from = segment.from;
        while from <= segment.to {
            let piece = Segment { from, to: segment.to.min(from + SEGMENT_EVENTS - 1), ..*segment };
            let rows = all(outbox, piece).await?;
            store_rows(archive, piece, &rows).await?;
            from = piece.to + 1;
        }
    }
    Ok(())
}

/// What went before is in this archive: otherwise its folder is another one than last time, and the history would lie in two places.
async fn follows(archive: &dyn Archive, segment: Segment) -> Result<()> {
    let previous = segment.from - 1;
    if previous > 0 && segments::holding(archive, segment.shard, previous).await?.is_none() {
        return Err(segments::missing(archive, segment.shard, previous));
    }
    Ok(())
}

async fn all(outbox: &dyn Outbox, piece: Segment) -> Result<Vec<OutboxRow>> {
    let mut rows: Vec<OutboxRow> = Vec::new();
    loop {
        let after = rows.last().map_or(piece.from - 1, |row| row.seq);
        let left = u32::try_from(piece.to - after).unwrap_or(u32::MAX);
        if left == 0 {
            return Ok(rows);
        }
        let page = outbox.read(piece.shard, after, left).await?;
        if page.first().is_none_or(|row| row.seq != after + 1) {
            let lost = format!("the outbox lacks number {} of shard {}, the events around it stay", after + 1, piece.shard);
            return Err(StoreError::corrupt(STORE, lost));
        }
        rows.extend(page);
    }
}

/// Written unless it is there already, and in any case what readers will find is compared with the rows.
async fn store_rows(archive: &dyn Archive, piece: Segment, rows: &[OutboxRow]) -> Result<()> {
    match comes_back(archive, rows).await {
        Ok(true) => return Ok(()),
        // A damaged file is written anew: the outbox still has its events.
        Ok(false) | Err(StoreError::Corrupt { .. }) => {}
        Err(error) => return Err(error),
    }
    let (segment, bytes) = encode(rows).filter(|(segment, _)| *segment == piece).ok_or_else(|| unlike(archive, piece))?;
    archive.put(segment, bytes).await?;
    if comes_back(archive, rows).await? { Ok(()) } else { Err(unlike(archive, piece)) }
}

fn unlike(archive: &dyn Archive, piece: Segment) -> StoreError {
    let place = archive.place(piece);
    StoreError::corrupt(STORE, format!("{place}: what is read of these numbers is not what the outbox holds; the events stay there"))
}

/// Whether readers of these numbers find these rows.
async fn comes_back(archive: &dyn Archive, rows: &[OutboxRow]) -> Result<bool> {
    let mut left = rows;
    while let Some(first) = left.first() {
        let Some(segment) = segments::holding(archive, first.shard, first.seq).await? else { return Ok(false) };
        let stored = segments::read(archive, segment).await?;
        let stored: Vec<&OutboxRow> = stored.iter().filter(|row| row.seq >= first.seq).take(left.len()).collect();
        let (compared, rest) = left.split_at(stored.len());
        if !compared.iter().eq(stored) {
            return Ok(false);
        }
        left = rest;
    }
    Ok(true)
}
