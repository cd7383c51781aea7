//! Whole generations: read and dropped by ranges of tokens, which between them are every partition of the table.

use crate::{away, cells::ScannedCell, session::Cassandra, usage_store::gather};
use async_trait::async_trait;
use chrono::Utc;
use domain::generation::Generation;
use futures::{
    FutureExt, StreamExt, TryStreamExt,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use ports::{
    Result,
    generations::{CellPage, Generations},
};

/// Bits of the token that tell the ranges apart: 64 ranges.
const RANGE_BITS: u32 = 6;
const RANGES_IN_FLIGHT: usize = 4;
const CELLS_PER_PAGE: usize = 2_000;
/// Above every write of a generation: no shard has that many events between its state and a total that was written ahead of it.
const BEYOND_MICROS: i64 = 1_000_000_000;

#[async_trait]
impl Generations for Cassandra {
    fn scan_cells(&self, generation: Generation) -> BoxStream<'_, Result<CellPage>> {
        let of_range = move |range: (i64, i64)| async move {
            let (_, statements) = self.prepared().await?;
            let rows = self.stream::<ScannedCell, _>(&statements.select_cells_by_token, range).await?;
            let wanted = rows.try_filter(move |row| std::future::ready(row.generation == generation.id));
            let cells = wanted.and_then(async |row| row.into_cell()).try_chunks(CELLS_PER_PAGE).map_err(|failed| failed.1);
            Ok::<_, ports::StoreError>(cells.boxed())
        };
        stream::iter(token_ranges()).map(of_range).buffered(RANGES_IN_FLIGHT).try_flatten().boxed()
    }

    async fn make_live(&self, generation: Generation) -> Result<Generation> {
        let (session, statements) = self.prepared().await?;
        let (live, turned_at) = self.pointer().await?;
        if generation.id > live.id {
            // The time of a turn follows from its number alone, so the largest number wins in whatever order turns land.
            let written_at = turned_at + i64::from(generation.id) - i64::from(live.id);
            let values = (generation.id, generation.started_at_micros, written_at);
            session.execute_unpaged(&statements.insert_live_generation, values).await.map_err(away)?;
        }
        Ok(self.pointer().await?.0)
    }

    async fn drop_generation(&self, generation: i32) -> Result<()> {
        let (session, statements) = self.prepared().await?;
        let written_at = Utc::now().timestamp_micros() + BEYOND_MICROS;
        for range in token_ranges() {
            let partitions = self.stream::<(i32, String, String), _>(&statements.select_partitions_by_token, range).await?;
            let ours: Vec<_> = partitions.try_filter(|row| std::future::ready(row.0 == generation)).try_collect().await?;
            let drops: Vec<BoxFuture<'_, Result<()>>> = ours
                .into_iter()
                .map(|(generation, scope, span)| {
                    async move {
                        let values = (written_at, generation, scope, span);
                        session.execute_unpaged(&statements.delete_cells_of_partition, values).await.map_err(away).map(|_| ())
                    }
                    .boxed()
                })
                .collect();
            gather(drops).await?;
        }
        session.execute_unpaged(&statements.delete_shard_states, (written_at, generation)).await.map_err(away)?;
        Ok(())
    }
}

/// First and last token of each range; together all tokens.
fn token_ranges() -> impl Iterator<Item = (i64, i64)> {
    let width = 1_i128 << (64 - RANGE_BITS);
    let token = |offset: i128| i64::try_from(i128::from(i64::MIN) + offset).unwrap_or(i64::MAX);
    (0..1_i128 << RANGE_BITS).map(move |index| (token(index * width), token((index + 1) * width - 1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ranges_hold_every_token_once() {
        let ranges: Vec<_> = token_ranges().collect();
        assert_eq!((ranges.first().unwrap().0, ranges.last().unwrap().1), (i64::MIN, i64::MAX));
        assert!(ranges.windows(2).all(|pair| pair[0].1 + 1 == pair[1].0));
    }
}
