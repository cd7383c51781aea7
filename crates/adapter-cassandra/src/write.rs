//! One flush: rows grouped by partition, unlogged batches of one partition each, a bounded number in flight.

use crate::{
    away,
    cells::{self, CellRow, ShardStateRow},
    corrupt,
    raw::{ProviderEntryRow, RawRow},
    session::Cassandra,
    statements::{BATCH_ROWS, Batches, Statements},
};
use domain::trace_parent::TRACE_TARGET;
use futures::{FutureExt, StreamExt, TryStreamExt, future::BoxFuture, stream};
use ports::{
    Result,
    usage_store::{Flush, Generation},
};
use scylla::{client::session::Session, serialize::row::SerializeRow};
use std::collections::{HashMap, HashSet};
use tracing::Instrument;

/// Batches in flight. Beyond this a node with one disk only queues.
const BATCHES_IN_FLIGHT: usize = 128;
/// A batch is cut here even when it holds fewer rows, so that rows with much metadata do not make one huge request.
const BATCH_BYTES: usize = 128 * 1024;
const CELL_BYTES: usize = 250;
const PROVIDER_ENTRY_BYTES: usize = 100;

impl Cassandra {
    /// Raw rows and cells, and the states only after every one of them is acknowledged. A crash in between leaves rows that the next
    /// owner of the shard writes again with equal values.
    pub(crate) async fn write_flushes(&self, generation: Generation, flushes: &[Flush]) -> Result<()> {
        let (session, statements) = self.prepared().await?;
        let raw = write_raw(session, statements, flushes).instrument(tracing::info_span!(target: TRACE_TARGET, "cassandra.write_raw"));
        let cells = write_cells(session, statements, generation, flushes)
            .instrument(tracing::info_span!(target: TRACE_TARGET, "cassandra.write_rollups"));
        futures::try_join!(raw, cells)?;
        let states: Vec<_> = flushes.iter().map(|flush| ShardStateRow::of(generation, flush.shard, &flush.state)).collect();
        run(session, &statements.insert_shard_state, cut(states, |_| 0))
            .instrument(tracing::info_span!(target: TRACE_TARGET, "cassandra.write_shard_states"))
            .await
    }
}

async fn write_raw(session: &Session, statements: &Statements, flushes: &[Flush]) -> Result<()> {
    let events = || flushes.iter().flat_map(|flush| &flush.raw);
    let raw = by_partition(events().map(RawRow::of), |row| (row.tenant, row.day, row.shard));
    let entries: HashSet<ProviderEntryRow<'_>> = events().filter_map(ProviderEntryRow::of).collect();
    let entries = by_partition(entries.into_iter(), |row| (row.provider, row.day, row.shard));
    let mut raw_batches = Vec::new();
    for rows in raw.into_values() {
        raw_batches.extend(cut(rows, RawRow::bytes));
    }
    let mut entry_batches = Vec::new();
    for rows in entries.into_values() {
        entry_batches.extend(cut(rows, |_| PROVIDER_ENTRY_BYTES));
    }
    let raw = run(session, &statements.insert_raw, raw_batches);
    let entries = run(session, &statements.insert_provider_entry, entry_batches);
    futures::try_join!(raw, entries).map(|_| ())
}

async fn write_cells(session: &Session, statements: &Statements, generation: Generation, flushes: &[Flush]) -> Result<()> {
    let partitions = cells::by_partition(flushes.iter().flat_map(|flush| &flush.cells), |(key, _)| key);
    let mut batches = Vec::new();
    for (partition, cells) in &partitions {
        let rows = cells.iter().map(|(key, value)| CellRow::of(generation, partition, key, value)).collect();
        batches.extend(cut(rows, |_| CELL_BYTES));
    }
    run(session, &statements.insert_cell, batches).await
}

fn by_partition<Row, Key: Eq + std::hash::Hash>(rows: impl Iterator<Item = Row>, key: impl Fn(&Row) -> Key) -> HashMap<Key, Vec<Row>> {
    let mut partitions: HashMap<Key, Vec<Row>> = HashMap::new();
    for row in rows {
        partitions.entry(key(&row)).or_default().push(row);
    }
    partitions
}

/// Batches of at most [`BATCH_ROWS`] rows and about [`BATCH_BYTES`] bytes, at least one row each.
fn cut<Row>(rows: Vec<Row>, bytes: impl Fn(&Row) -> usize) -> Vec<Vec<Row>> {
    let mut batches: Vec<Vec<Row>> = Vec::new();
    let mut size = 0;
    for row in rows {
        let row_size = bytes(&row);
        match batches.last_mut() {
            Some(batch) if batch.len() < BATCH_ROWS && size + row_size <= BATCH_BYTES => {
                size += row_size;
                batch.push(row);
            }
            _ => {
                size = row_size;
                batches.push(vec![row]);
            }
        }
    }
    batches
}

async fn run<Row: SerializeRow + Send + Sync>(session: &Session, prepared: &Batches, batches: Vec<Vec<Row>>) -> Result<()> {
    let mut writes: Vec<BoxFuture<'_, Result<()>>> = Vec::with_capacity(batches.len());
    for rows in batches {
        let batch = prepared.for_rows(rows.len()).ok_or_else(|| corrupt("a batch of too many rows"))?;
        writes.push(async move { session.batch(batch, rows).await.map_err(away).map(|_| ()) }.boxed());
    }
    stream::iter(writes).buffer_unordered(BATCHES_IN_FLIGHT).try_collect().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_ends_at_its_limit_of_rows_or_bytes_and_no_row_is_lost() {
        let sizes = |batches: Vec<Vec<usize>>| batches.iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(sizes(cut(vec![1; 120], |bytes| *bytes)), [50, 50, 20]);
        assert_eq!(sizes(cut(vec![BATCH_BYTES / 2 + 1; 3], |bytes| *bytes)), [1, 1, 1]);
        assert_eq!(sizes(cut(vec![BATCH_BYTES * 9, 1], |bytes| *bytes)), [1, 1]);
        assert!(cut(Vec::<usize>::new(), |bytes| *bytes).is_empty());
    }
}
