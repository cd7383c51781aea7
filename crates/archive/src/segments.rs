//! Rows by number from the segments of an archive, each of which is verified as a whole first.

use crate::format::decode;
use domain::ids::Shard;
use ports::{
    Result, StoreError,
    archive::{Archive, STORE, Segment},
    outbox::OutboxRow,
};

/// The segment that holds a number; of several the one that reaches furthest.
pub(crate) async fn holding(archive: &dyn Archive, shard: Shard, seq: i64) -> Result<Option<Segment>> {
    let segments = archive.list(shard).await?;
    Ok(segments.into_iter().filter(|segment| segment.contains(seq)).max_by_key(|segment| segment.to))
}

/// # Errors
/// `Corrupt`, naming the segment's place and what is wrong with it.
pub(crate) async fn read(archive: &dyn Archive, segment: Segment) -> Result<Vec<OutboxRow>> {
    let bytes = archive.get(segment).await?.ok_or_else(|| unusable(archive, segment, "it is not there"))?;
    // Some milliseconds of computing, which nobody else on this thread should wait for.
    let decoded = tokio::task::spawn_blocking(move || decode(segment, &bytes)).await;
    let decoded = decoded.map_err(|gone| StoreError::unavailable(STORE, gone))?;
    decoded.map_err(|damage| unusable(archive, segment, damage))
}

fn unusable(archive: &dyn Archive, segment: Segment, why: impl std::fmt::Display) -> StoreError {
    StoreError::corrupt(STORE, format!("{}: {why}", archive.place(segment)))
}

/// An archived number that no segment holds: files were removed, or another folder is meant.
pub(crate) fn missing(archive: &dyn Archive, shard: Shard, seq: i64) -> StoreError {
    let place = archive.place(Segment { shard, from: seq, to: seq });
    StoreError::corrupt(STORE, format!("no file holds number {seq} of shard {shard}, it would be where {place} would be"))
}
