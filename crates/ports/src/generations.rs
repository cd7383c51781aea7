//! Generations as wholes: reading all of one, making another one live, dropping one.

use crate::Result;
use async_trait::async_trait;
use domain::{
    generation::Generation,
    rollup::{CellKey, CellValue},
};
use futures_core::stream::BoxStream;

/// Some cells of a scan.
pub type CellPage = Vec<(CellKey, CellValue)>;

#[async_trait]
pub trait Generations: Send + Sync {
    /// Every cell of the generation once, in any order. A cell that is written meanwhile comes as it was or as it is; one that is new may
    /// be missing.
    fn scan_cells(&self, generation: Generation) -> BoxStream<'_, Result<CellPage>>;

    /// Turns the one pointer that reports and the projection follow: each reads the old generation or the new one, never both. It turns to
    /// larger numbers only, so that a worker that comes back late cannot undo a later turn. The generation that is live then.
    async fn make_live(&self, generation: Generation) -> Result<Generation>;

    /// Removes every cell and state of a generation that is not the live one; its number must never be used again. May be repeated.
    async fn drop_generation(&self, generation: i32) -> Result<()>;
}
