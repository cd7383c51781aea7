//! Whole generations on SQLite.

use crate::{
    Embedded,
    columns::corrupt,
    database::{Durability, commit, failed},
    usage_store::ValueRow,
};
use async_trait::async_trait;
use domain::{
    generation::Generation,
    ids::Shard,
    rollup::{CellKey, CellValue, Dimension, RollupScope},
    time::Grain,
};
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use ports::{
    Result,
    generations::{CellPage, Generations},
    usage_store::UsageStore,
};

/// Cells read at once, and removed at once.
const PAGE: u32 = 4_096;

#[async_trait]
impl Generations for Embedded {
    fn scan_cells(&self, generation: Generation) -> BoxStream<'_, Result<CellPage>> {
        let from_start = Some(ScannedRow::default());
        let pages = stream::try_unfold(from_start, move |after| async move {
            let Some(after) = after else { return Ok(None) };
            let rows = self.cells_after(generation, &after).await?;
            let Some(last) = rows.last().cloned() else { return Ok(None) };
            let is_last = rows.len() < usize::try_from(PAGE).unwrap_or(usize::MAX);
            let cells = rows.into_iter().map(ScannedRow::into_cell).collect::<Result<CellPage>>()?;
            Ok(Some((cells, (!is_last).then_some(last))))
        });
        pages.boxed()
    }

    async fn make_live(&self, generation: Generation) -> Result<Generation> {
        let mut transaction = self.inner.usage.begin(Durability::Now).await?;
        let put = sqlx::query(include_str!("../sql/put_generation.sql")).bind(generation.id).bind(generation.started_at_micros);
        put.execute(&mut *transaction).await.map_err(failed)?;
        for statement in [include_str!("../sql/end_live_generation.sql"), include_str!("../sql/make_generation_live.sql")] {
            sqlx::query(statement).bind(generation.id).execute(&mut *transaction).await.map_err(failed)?;
        }
        commit(transaction).await?;
        self.live_generation().await
    }

    async fn drop_generation(&self, generation: i32) -> Result<()> {
        loop {
            let mut transaction = self.inner.usage.begin(Durability::WithNext).await?;
            let query = sqlx::query(include_str!("../sql/drop_cells.sql")).bind(generation).bind(PAGE);
            let dropped = query.execute(&mut *transaction).await.map_err(failed)?.rows_affected();
            if dropped == 0 {
                let states = sqlx::query(include_str!("../sql/drop_shard_states.sql")).bind(generation);
                states.execute(&mut *transaction).await.map_err(failed)?;
            }
            commit(transaction).await?;
            if dropped == 0 {
                return Ok(());
            }
        }
    }
}

impl Embedded {
    async fn cells_after(&self, generation: Generation, after: &ScannedRow) -> Result<Vec<ScannedRow>> {
        let query = sqlx::query_as::<_, ScannedRow>(include_str!("../sql/scan_cells.sql"))
            .bind(generation.id)
            .bind(&after.scope)
            .bind(&after.grain)
            .bind(after.bucket)
            .bind(&after.dimension)
            .bind(after.shard)
            .bind(PAGE);
        query.fetch_all(self.inner.usage.readers()).await.map_err(failed)
    }
}

#[derive(Clone, Debug, Default)]
struct ScannedRow {
    scope: String,
    grain: String,
    bucket: i64,
    dimension: String,
    shard: i64,
    value: ValueRow,
}

from_row!(ScannedRow { scope, grain, bucket, dimension, shard } with value);

impl ScannedRow {
    fn into_cell(self) -> Result<(CellKey, CellValue)> {
        let shard: Shard = crate::columns::shard(self.shard)?;
        let scope = RollupScope::parse(&self.scope).ok_or_else(|| corrupt(format!("rollup.scope {:?}", self.scope)))?;
        let grain = Grain::parse(&self.grain).ok_or_else(|| corrupt(format!("rollup.grain {:?}", self.grain)))?;
        let bucket = crate::columns::instant(self.bucket)?;
        Ok((CellKey { scope, grain, bucket, dimension: Dimension(self.dimension), shard }, self.value.into()))
    }
}
